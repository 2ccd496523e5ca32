"""What is known of the references: where one of them departs from the ONNX specification.

Found by comparing ONNX 1.22's evaluator with ONNX Runtime 1.32, one node at a time.
"""

from onnx import helper


def attribute(node, name, default=None):
    """Gives the value of an attribute."""
    for a in node.attribute:
        if a.name == name:
            return helper.get_attribute_value(a)
    return default


def is_same(node, opset, feeds):
    """Says whether padding is automatic."""
    return attribute(node, "auto_pad", b"").startswith(b"SAME")


def always(node, opset, feeds):
    """Is true of every node."""
    return True


def is_integer(node, opset, feeds):
    """Says whether the first operand has integers."""
    return feeds[node.input[0]].dtype.kind in "iub"


# Where ONNX's evaluator is wrong, and ONNX Runtime follows the specification.
EVALUATOR_BUGS = {
    "Softmax": (lambda n, o, f: o < 13, "before set 13 all axes from the given one on are one"),
    "LogSoftmax": (lambda n, o, f: o < 13, "as Softmax"),
    "Hardmax": (lambda n, o, f: o < 13, "as Softmax"),
    "OneHot": (always, "indices out of range wrap around"),
    "LpNormalization": (lambda n, o, f: attribute(n, "p", 2) == 1, "sums without magnitudes"),
    "BatchNormalization": (lambda n, o, f: o < 14, "takes every node for one in training"),
    "Conv": (lambda n, o, f: attribute(n, "auto_pad"), "sizes and sides of automatic padding"),
    "ConvTranspose": (lambda n, o, f: attribute(n, "group", 1) > 1, "groups behind the first are wrong"),
    "LRN": (lambda n, o, f: f[n.input[0]].shape[0] < f[n.input[0]].shape[1], "sums as many channels as images"),
    "Unsqueeze": (lambda n, o, f: o < 13, "axes are inserted in the order in which they stand"),
    "Gather": (lambda n, o, f: f[n.input[1]].size == 0, "the result of no indices has no shape"),
    "MaxPool": (
        always,
        "sizes of automatic padding, windows behind the end, places within a channel, one axis",
    ),
    "AveragePool": (lambda n, o, f: is_same(n, o, f) or attribute(n, "ceil_mode"), "as MaxPool"),
    "LpPool": (lambda n, o, f: is_same(n, o, f) or attribute(n, "ceil_mode"), "as MaxPool"),
    "QLinearMatMul": (always, "adds the zero point before rounding"),
    "QLinearConv": (always, "as QLinearMatMul"),
    "Erf": (lambda n, o, f: f[n.input[0]].dtype == "float64", "f64 is computed in f32"),
    "RoiAlign": (lambda n, o, f: o < 16, "half pixels, which came with set 16"),
    "LSTM": (always, "the direction is ignored, and the cell's last state is no result"),
    "GRU": (always, "the direction is ignored"),
    "RNN": (always, "the direction is ignored"),
    "Loop": (always, "collected results are concatenated, not stacked"),
    "GlobalMaxPool": (lambda n, o, f: f[n.input[0]].ndim != 4, "drops the axes of all but images"),
    "ReduceSumSquare": (is_integer, "widens integers"),
    "ReduceL1": (is_integer, "widens integers"),
    "ReduceSum": (is_integer, "widens integers"),
    "ReduceProd": (is_integer, "widens integers"),
}  # fmt: skip


def first_by_runtime(node, opset, feeds):
    """Says whether ONNX Runtime computes this node, because ONNX's evaluator is wrong on it."""
    test, _ = EVALUATOR_BUGS.get(node.op_type, (None, ""))
    return test is not None and bool(test(node, opset, feeds))


# Where ONNX Runtime is wrong or has another rule for what is not specified, and a case counts
# by ONNX's evaluator alone.
RUNTIME_BUGS = {
    "DFT": "f32 and f64 in another order, which cancels",
    "STFT": "as DFT",
    "AffineGrid": "an axis of one element stands at 0 where corners are aligned",
    "Resize": "sizes before rounding are rounded where corners are aligned",
    "Shrink": "integers pass through f32",
    "InstanceNormalization": "subtracts a scaled mean from a scaled element, which cancels",
    "Clip": "drops NaN",
    "ReduceMin": "drops NaN",
    "ReduceMax": "drops NaN",
    "ReduceLogSumExp": "drops NaN",
    "Attention": "a causal mask takes no account of the states before it",
}


def is_known(node):
    """Says whether ONNX Runtime is known to be wrong on a node."""
    return node is not None and node.op_type in RUNTIME_BUGS
