"""Control flow in random graphs: branches and loops over small bodies."""

import numpy as np
from onnx import TensorProto, helper
from random_values import F32, is_float, tensor_type

BODY_TYPES = (F32, np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.float64))


def info(name, value):
    """Describes a value of a body that has the type and shape of another."""
    return helper.make_tensor_value_info(name, tensor_type(value.dtype), value.shape)


def body_node(g, value, operand, inner, out):
    """Makes a node of a body: exact, and small where it repeats."""
    if is_float(value.dtype):
        op = g.choice(["Add", "Sub", "Max", "Min", "Neg"])
    else:
        op = g.choice(["Add", "Sub", "Max", "Min"] if g.opset >= 12 else ["Add", "Sub"])
    return helper.make_node(op, [inner] if op == "Neg" else [inner, operand], [out])


def branches(g):
    """Runs one of two branches, by a condition that is known or not."""
    a = g.some(BODY_TYPES)
    b = g.new(a.dtype, a.shape)
    condition = g.given(np.asarray(g.chance(0.5)), constant=g.chance(0.3))
    graphs = []
    for side in "te":
        out = f"{g.fresh('b')}{side}"
        node = body_node(g, a, b.name, a.name, out)
        graphs.append(helper.make_graph([node], f"branch_{side}", [], [info(out, a)]))
    g.node("If", [condition], "round", captured=[a, b], then_branch=graphs[0], else_branch=graphs[1])


def loop(g):
    """Runs a loop of a known number of steps, that may collect results."""
    a = g.some(BODY_TYPES, high=4)
    b = g.new(a.dtype, a.shape)
    trips = g.const(g.integer(1, 4))
    collects = g.chance(0.5)
    step, cond, state, new, cond_out, scan = (g.fresh("l") for _ in range(6))
    nodes = [
        body_node(g, a, b.name, state, new),
        helper.make_node("Identity", [cond], [cond_out]),
    ]
    outputs = [helper.make_tensor_value_info(cond_out, TensorProto.BOOL, []), info(new, a)]
    if collects:
        nodes.append(helper.make_node("Identity", [state], [scan]))
        outputs.append(info(scan, a))
    inputs = [
        helper.make_tensor_value_info(step, TensorProto.INT64, []),
        helper.make_tensor_value_info(cond, TensorProto.BOOL, []),
        info(state, a),
    ]
    body = helper.make_graph(nodes, "body", inputs, outputs)
    start = g.const(True, np.bool_)
    kind = "round" if not is_float(a.dtype) or a.level == 0 else "function"
    g.node("Loop", [trips, start, a], kind, n_outputs=2 if collects else 1, captured=[b], body=body)


OPERATORS = [(branches, 1.5), (loop, 1.5)]
