"""Less usual forms of operators in random graphs: optional results, modes, limits of arithmetic."""

import numpy as np
from onnx import TensorProto, helper
from random_values import (
    BOOL, DTYPES, F32, FLOATS, I64, INTEGERS, NUMBERS, Skip, is_float, tensor_type,
)  # fmt: skip


def floats(g):
    """Picks the element type of a layer."""
    return g.main if g.main in (FLOATS[0], FLOATS[1], FLOATS[3]) else F32


def signed_zeros(g):
    """Shows the signs of zeros by their bits, and by quotients."""
    dtype = g.choice([F32, DTYPES["f16"], DTYPES["f64"]])
    shape = g.shape(0, 4, 256)
    a = g.given(g.rng.choice([0.0, -0.0, 1.0, -1.0, 2.0], shape).astype(dtype))
    b = g.given(g.rng.choice([0.0, -0.0, 1.0, -1.0, 2.0], shape).astype(dtype))
    op = g.choice(["Mul", "Neg", "Abs", "Identity", "Transpose", "Div", "Ceil", "Add", "Sub", "Sqrt", "Round"])
    operands = {"Mul": [a, b], "Div": [a, b], "Add": [a, b], "Sub": [a, b]}.get(op, [a])
    if op == "Sqrt":
        operands = [g.given(g.rng.choice([0.0, -0.0, 1.0, 4.0], shape).astype(dtype))]
    y = g.node(op, operands, "step" if op in ("Ceil", "Round") else "data")
    if np.any(np.isnan(y.wide)):
        return
    if g.opset >= 26 and g.chance(0.6):
        g.node("BitCast", [y], "step", to=tensor_type(DTYPES[f"i{8 * dtype.itemsize}"]))
    else:
        g.node("Div", [g.const(1, dtype), y], "data")


def tiny(g):
    """Computes with subnormal and with huge numbers."""
    dtype = g.choice(FLOATS)
    shape = g.shape(0, 3, 128)
    info = {"float32": (1e-44, 1e38), "float16": (6e-8, 6e4), "bfloat16": (1e-39, 1e38), "float64": (5e-324, 1e308)}
    low, high = info[dtype.name]
    made = g.rng.choice([low, -low * 3, low * 1000, high, -high, 1.0, 0.5, 3.0], shape)
    a = g.given(made.astype(dtype))
    b = g.given(g.rng.permutation(made.reshape(-1)).reshape(shape).astype(dtype))
    op = g.choice(["Add", "Sub", "Mul", "Max", "Less", "Abs", "Mean"])
    if op in ("Abs", "Mean"):
        g.node(op, [a], "data")
    else:
        g.node(op, [a, b], "step" if op == "Less" else "round")


def wide_integers(g):
    """Computes with integers at the ends of their types, which wrap."""
    dtype = g.choice(INTEGERS)
    info = np.iinfo(dtype)
    shape = g.shape(0, 3, 128)

    def ends():
        near = g.rng.choice([0, 1, 2, 3, 5], shape).astype(dtype)
        top = np.full(shape, info.max, dtype) - near
        bottom = np.full(shape, info.min, dtype) + near
        return g.given(np.asarray(np.where(g.rng.random(shape) < 0.5, top, bottom)).astype(dtype))

    a, b = ends(), ends()
    op = g.choice(["Add", "Sub", "Mul", "Less", "Equal", "Max", "Min", "GreaterOrEqual", "Cast", "Sign", "Abs", "Div", "Mod"])
    if op == "Cast":
        to = g.choice([*INTEGERS, DTYPES["f64"], F32, BOOL])
        g.node("Cast", [a], "step" if not is_float(to) else "data", to=tensor_type(to))
    elif op in ("Sign", "Abs"):
        g.node(op, [a], "step")
    elif op in ("Div", "Mod"):
        divisor = g.given(np.asarray(np.maximum(b.array, 1)).astype(dtype))
        g.node(op, [a, divisor], "step")
    else:
        g.node(op, [a, b], "step")


def wide_products(g):
    """Multiplies matrices of integers whose sums wrap or exceed a significand."""
    if g.chance(0.5):
        dtype = g.choice([d for d in INTEGERS if d.itemsize >= 4])
        m, k, n = g.integer(1, 6), g.choice([1, 3, 20, 300]), g.integer(1, 6)
        info = np.iinfo(dtype)
        a, b = (g.given(g.rng.integers(info.min, info.max, s, dtype=dtype, endpoint=True)) for s in ((m, k), (k, n)))
        g.node("MatMul", [a, b], "step")
        return
    ta, tb = (g.choice([np.int8, np.uint8]) for _ in range(2))
    m, k, n = g.integer(1, 4), g.choice([700, 2000, 5000]), g.integer(1, 4)
    a = g.given(g.rng.integers(np.iinfo(ta).max - 9, np.iinfo(ta).max, (m, k), dtype=ta, endpoint=True))
    b = g.given(g.rng.integers(np.iinfo(tb).max - 9, np.iinfo(tb).max, (k, n), dtype=tb, endpoint=True))
    g.node("MatMulInteger", [a, b], "step")


def casts_at_limits(g):
    """Casts floats to integers at the ends of their range, and integers to floats that round them."""
    if g.chance(0.5):
        dtype = g.choice([F32, DTYPES["f64"]])
        to = g.choice(INTEGERS)
        info = np.iinfo(to)
        ends = np.array([info.min, info.max / 2, info.max / 2 + 1, -0.5, 0.5, 1.5, info.max // 3], np.float64)
        data = np.asarray(g.rng.choice(ends, g.shape(0, 3, 64))).astype(dtype)
        if to in INTEGERS[4:]:
            data = np.abs(data)
        g.node("Cast", [g.given(data)], "step", to=tensor_type(to))
    else:
        dtype = g.choice([d for d in INTEGERS if d.itemsize >= 4])
        info = np.iinfo(dtype)
        data = g.rng.integers(info.min, info.max, g.shape(0, 3, 64), dtype=dtype, endpoint=True)
        g.node("Cast", [g.given(data)], "data", to=tensor_type(g.choice([F32, DTYPES["f64"]])))


def norm_results(g):
    """Normalises and gives mean and deviation too."""
    x = g.new(F32, g.shape(2, 4, 512), -2, 2)
    if x.size == 0:
        raise Skip("nothing to normalise")
    axis = g.axis(x)
    scale = g.new(F32, x.shape[axis % x.rank :], 0.5, 2.0)
    g.node("LayerNormalization", [x, scale], "function", n_outputs=g.choice([2, 3]), axis=axis)


def norm_training(g):
    """Normalises a batch by its own statistics, and updates running ones."""
    if g.opset < 14:
        raise Skip("other results")
    x = g.new(F32, (g.integer(2, 4), g.integer(1, 4), *g.shape(0, 2, 16)), -2, 2)
    if x.size == 0:
        raise Skip("nothing to normalise")
    c = (x.shape[1],)
    rest = [g.new(F32, c, 0.5, 2.0) for _ in range(4)]
    g.node("BatchNormalization", [x, *rest], "function", n_outputs=3, training_mode=1, momentum=g.choice([None, 0.5]))


def losses(g):
    """Takes a loss and the logarithms of probabilities."""
    n, c = g.integer(1, 4), g.integer(2, 5)
    x = g.new(F32, (n, c), -2, 2)
    target = g.new(I64, (n,), 0, c - 1)
    g.node("SoftmaxCrossEntropyLoss", [x, target], "function", n_outputs=2, reduction=g.choice([None, "sum", "none"]))


def recurrent_forms(g):
    """Runs recurrent layers with lengths, activations, clipping and results left out."""
    op, gates, n_act = g.choice([("LSTM", 4, 3), ("GRU", 3, 2), ("RNN", 1, 1)])
    steps, images, inputs, hidden = g.integer(1, 4), g.integer(1, 3), g.integer(1, 5), g.integer(1, 5)
    direction = g.choice(["forward", "reverse", "bidirectional"])
    n = 2 if direction == "bidirectional" else 1
    x = g.new(F32, (steps, images, inputs), -1.5, 1.5)
    w = g.new(F32, (n, gates * hidden, inputs), -1, 1)
    r = g.new(F32, (n, gates * hidden, hidden), -1, 1)
    b = g.new(F32, (n, 2 * gates * hidden), -0.5, 0.5)
    lengths = g.new(np.dtype(np.int32), (images,), 1, steps) if g.chance(0.5) else None
    flags = {"hidden_size": hidden, "direction": direction}
    if g.chance(0.5):
        names = [g.choice(["Sigmoid", "Tanh", "Relu", "HardSigmoid", "Softsign", "Elu"]) for _ in range(n_act)]
        flags["activations"] = names * n
    if g.chance(0.3):
        flags["clip"] = 0.75
    if op == "LSTM" and g.chance(0.3):
        flags["input_forget"] = 1
    if op == "GRU":
        flags["linear_before_reset"] = g.choice([None, 1])
    g.node(op, [x, w, r, b, lengths], "function", n_outputs=3 if op == "LSTM" else 2, **flags)


def resize_forms(g):
    """Resizes named axes, with kept aspects, regions and symmetric pixels."""
    x = g.new(F32, (g.integer(1, 2), g.integer(1, 2), g.integer(2, 6), g.integer(2, 6)), -2, 2)
    if g.opset < 18:
        raise Skip("no such form yet")
    mode = g.choice(["linear", "cubic"])
    form = g.integer(0, 2)
    if form == 0:
        sizes = [g.integer(2, 8), g.integer(2, 8)]
        policy = g.choice(["stretch", "not_larger", "not_smaller"])
        g.node("Resize", [x, None, None, g.const(sizes)], "function", mode=mode, axes=[2, 3], keep_aspect_ratio_policy=policy)
    elif form == 1:
        if g.opset < 19:
            raise Skip("no such form yet")
        scales = g.const([g.choice([0.5, 1.5, 2.0]), g.choice([0.75, 2.0])], np.float32)
        g.node("Resize", [x, None, scales], "function", mode=mode, axes=[2, 3], coordinate_transformation_mode="half_pixel_symmetric")
    else:
        roi = g.const([0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9], np.float32)
        sizes = g.const([*x.shape[:2], g.integer(2, 6), g.integer(2, 6)])
        flags = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": g.choice([None, 7.0])}
        g.node("Resize", [x, roi, None, sizes], "function", mode="linear", **flags)


def empty_reductions(g):
    """Reduces axes of no elements, and by an empty list of axes."""
    op = g.choice(["ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMax", "ReduceMin"])
    if g.opset < (20 if op in ("ReduceMax", "ReduceMin") else 18):
        raise Skip("not specified yet")
    if g.chance(0.5):
        shape = [g.integer(1, 4) for _ in range(g.integer(1, 3))]
        axis = g.integer(0, len(shape) - 1)
        shape[axis] = 0
        a = g.new(g.choice([F32, np.dtype(np.int32)]) if op != "ReduceL2" else F32, shape)
        g.node(op, [a, g.const([axis])], "data", keepdims=g.choice([None, 0]))
    else:
        a = g.new(F32, g.shape(1, 3, 64), -2, 2)
        g.node(op, [a, g.const([])], "function", noop_with_empty_axes=g.choice([None, 1]))


def mixed_powers(g):
    """Raises to powers of another type, of negative bases, and at zero."""
    if g.opset < 12:
        raise Skip("one type only")
    base = g.choice([F32, DTYPES["f64"], np.dtype(np.int32), I64])
    power = g.choice([F32, np.dtype(np.int32), I64])
    shape = g.shape(0, 3, 64)
    a = g.given(g.rng.choice([-3, -2, -1, 1, 2, 3] + ([0.0, -0.5] if is_float(base) else [0]), shape).astype(base))
    b = g.given(g.rng.choice([0, 1, 2, 3] + ([-1] if is_float(base) else []), shape).astype(power))
    if is_float(base) and np.any((a.array == 0) & (b.array < 0)):
        raise Skip("infinite")
    g.node("Pow", [a, b], "function" if is_float(base) else "step")


def scan(g):
    """Scans rows with a state."""
    if g.opset < 9:
        raise Skip("batched")
    dtype = g.choice([F32, I64, np.dtype(np.int32)])
    steps, width = g.integer(1, 5), g.integer(1, 4)
    x, start = g.new(dtype, (steps, width)), g.new(dtype, (width,))
    state, row, new, out = (g.fresh("k") for _ in range(4))
    infos = [helper.make_tensor_value_info(n, tensor_type(dtype), (width,)) for n in (state, row, new, out)]
    nodes = [helper.make_node("Add", [state, row], [new]), helper.make_node("Sub", [new, row], [out])]
    body = helper.make_graph(nodes, "scan", infos[:2], infos[2:])
    flags = {"scan_input_directions": g.choice([None, [1]]), "scan_output_directions": g.choice([None, [1]])}
    g.node("Scan", [start, x], "round", n_outputs=2, body=body, num_scan_inputs=1, **flags)


def conditional_loop(g):
    """Runs a loop that may stop early by what it computes."""
    dtype = g.choice([F32, I64])
    a = g.new(dtype, (g.integer(1, 4),), 0, 3)
    trips = g.const(g.integer(1, 6))
    step, cond, state, new, total, limit, go = (g.fresh("l") for _ in range(7))
    axes = [g.fresh("l")]
    reduce_inputs = [new] if g.opset < 13 else [new, axes[0]]
    bound = float(g.integer(2, 12))
    nodes = [
        helper.make_node("Constant", [], [limit], value=helper.make_tensor("", tensor_type(dtype), [], [int(bound)])),
        helper.make_node("Constant", [], axes, value=helper.make_tensor("", TensorProto.INT64, [1], [0])),
        helper.make_node("Add", [state, a.name], [new]),
        helper.make_node("ReduceSum", reduce_inputs, [total], keepdims=0, **({"axes": [0]} if g.opset < 13 else {})),
        helper.make_node("Less", [total, limit], [go]),
    ]
    if is_float(dtype):
        a.array = np.rint(a.array).astype(dtype)
        a.wide = a.array.astype(np.float64)
    if g.opset < 9:
        raise Skip("no such types yet")
    infos = [
        helper.make_tensor_value_info(step, TensorProto.INT64, []),
        helper.make_tensor_value_info(cond, TensorProto.BOOL, []),
        helper.make_tensor_value_info(state, tensor_type(dtype), a.shape),
    ]
    outs = [
        helper.make_tensor_value_info(go, TensorProto.BOOL, []),
        helper.make_tensor_value_info(new, tensor_type(dtype), a.shape),
    ]
    body = helper.make_graph(nodes, "body", infos, outs)
    g.node("Loop", [trips, g.const(True, np.bool_), a], "step", captured=[a], body=body)


def swapped_bounds(g):
    """Clips between bounds of which the lower is the greater."""
    if g.opset < 12:
        raise Skip("not specified yet")
    a = g.some(NUMBERS)
    g.node("Clip", [a, g.given(np.array(3, a.dtype)), g.given(np.array(1, a.dtype))], "data")


def passed(g):
    """Gives inputs and constants as results, by way of nothing."""
    a = g.some(NUMBERS)
    g.node("Identity", [a], "data")
    g.node("Identity", [a], "data")


OPERATORS = [
    (signed_zeros, 1.5), (tiny, 1.5), (wide_integers, 2), (wide_products, 1), (casts_at_limits, 1),
    (norm_results, 0.7), (norm_training, 0.7), (losses, 0.5), (recurrent_forms, 1.5),
    (resize_forms, 1), (empty_reductions, 1), (mixed_powers, 1), (scan, 1),
    (conditional_loop, 1), (swapped_bounds, 0.5), (passed, 0.3),
]  # fmt: skip
