"""Patterns in random graphs as exporters write them, which rewrite rules look for."""

import numpy as np
from random_values import EXACT, F32, FLOATS, NUMBERS, Skip, is_float, tensor_type
from random_layers import conv, gemm, matmul


def floats(g):
    """Picks the element type of a layer."""
    return g.main if is_float(g.main) else F32


def neutral(g):
    """Adds zero, multiplies by one or zero, divides by one, raises to one."""
    a = g.some(NUMBERS)
    value = g.choice([0, 1, 1, 2])
    op = g.choice(["Add", "Sub", "Mul", "Div", "Max", "Min"] if value else ["Add", "Sub", "Mul", "Max", "Min"])
    if value == 0 and op == "Mul":
        g.finite(a)
    shape = g.choice([(), (1,), a.shape])
    b = g.const(np.full(shape, value), a.dtype)
    g.node(op, [a, b] if g.chance(0.7) else [b, a] if op != "Div" else [a, b], "round")


def scaled_product(g):
    """Scales, shifts and activates the result of a product, per channel or as a whole."""
    before = len(g.nodes)
    g.choice([conv, gemm, matmul])(g)
    if len(g.nodes) == before:
        raise Skip("no product")
    y = next(v for v in reversed(g.values) if v.name == g.nodes[-1].output[0])
    if not is_float(y.dtype):
        raise Skip("floats only")
    channel = [1] * y.rank
    if y.rank:
        axis = 1 if y.rank > 2 else y.rank - 1
        channel[axis] = y.shape[axis]
    for _ in range(g.integer(1, 3)):
        form = g.choice(["scale", "shift", "relu", "batch", "split", "pad"])
        if form in ("scale", "shift"):
            shape = g.choice([tuple(channel), ()])
            other = g.new(y.dtype, shape, 0.5, 2.0, constant=g.chance(0.8))
            op = g.choice(["Mul", "Div"]) if form == "scale" else g.choice(["Add", "Sub"])
            y = g.node(op, [y, other], "function")
        elif form == "relu":
            y = g.node("Relu", [y], "data")
        elif form == "batch" and y.rank >= 3 and y.dtype in FLOATS[:2] and g.opset >= 14:
            c = (y.shape[1],)
            rest = [g.new(y.dtype, c, 0.5, 2.0, constant=True) for _ in range(4)]
            y = g.node("BatchNormalization", [y, *rest], "function")
        elif form == "split" and y.rank:
            axis = g.axis(y)
            n = y.shape[axis]
            if n >= 2 and g.opset >= 13:
                cut = g.integer(1, n - 1)
                parts = g.node("Split", [y, g.const([cut, n - cut])], "data", n_outputs=2, axis=axis)
                y = g.node("Concat", list(parts)[:: g.choice([1, -1])], "data", axis=axis)
        elif form == "pad" and y.rank == 4 and g.opset >= 11:
            y = g.node("Pad", [y, g.const([0, 0, 1, 0, 0, 0, 0, 1])], "data")


def views(g):
    """Permutes, reshapes and slices in a row, also forth and back."""
    a = g.some(NUMBERS, low=2)
    y = a
    for _ in range(g.integer(2, 5)):
        form = g.rng.random()
        if form < 0.5:
            perm = [int(i) for i in g.rng.permutation(y.rank)]
            y = g.node("Transpose", [y], "data", perm=perm)
        elif form < 0.75 and y.size and y.rank >= 2:
            i = g.integer(0, y.rank - 2)
            merged = [*y.shape[:i], y.shape[i] * y.shape[i + 1], *y.shape[i + 2 :]]
            y = g.node("Reshape", [y, g.const(merged)], "data")
        elif y.rank and y.rank < 8 and y.size and g.opset >= 10:
            axis = g.integer(0, y.rank - 1)
            n = y.shape[axis]
            factor = next((f for f in (2, 3, 5) if n % f == 0), None)
            if factor and g.chance(0.5):
                y = g.node("Reshape", [y, g.const([*y.shape[:axis], n // factor, factor, *y.shape[axis + 1 :]])], "data")
            else:
                start = g.integer(0, n - 1)
                bounds = [g.const([start]), g.const([n]), g.const([axis]), g.const([g.choice([1, 2])])]
                y = g.node("Slice", [y, *bounds], "data")
        if y.rank < 2:
            return


def norm_by_parts(g):
    """Normalises by means, powers and roots."""
    x = g.new(floats(g), (*g.shape(1, 3, 256), g.integer(2, 20)), -2, 2)
    axes = [-1] if g.opset >= 11 else [x.rank - 1]

    def mean(v):
        if g.opset < 18:
            return g.node("ReduceMean", [v], "function", axes=axes)
        return g.node("ReduceMean", [v, g.const(axes)], "function")

    centred = g.node("Sub", [x, mean(x)], "function") if g.chance(0.6) else x
    if g.chance(0.5):
        square = g.node("Mul", [centred, centred], "function")
    else:
        square = g.node("Pow", [centred, g.const(2, x.dtype)], "function")
    shifted = g.node("Add", [mean(square), g.const(1e-3, x.dtype)], "function")
    root = g.node("Sqrt", [shifted], "function")
    if g.chance(0.5):
        y = g.node("Div", [centred, root], "function")
    else:
        y = g.node("Mul", [centred, g.node("Reciprocal", [root], "function")], "function")
    if g.chance(0.6):
        y = g.node("Mul", [y, g.new(x.dtype, (x.shape[-1],))], "function")
        g.node("Add", [y, g.new(x.dtype, (x.shape[-1],))], "function")


def softmax_by_parts(g):
    """Normalises exponentials behind their greatest."""
    x = g.new(floats(g), (*g.shape(1, 3, 256), g.integer(1, 20)), -3, 3)
    axes = [x.rank - 1]

    def reduce(op, v):
        since = 13 if op == "ReduceSum" else 18
        if g.opset < since:
            return g.node(op, [v], "data" if op == "ReduceMax" else "function", axes=axes)
        return g.node(op, [v, g.const(axes)], "data" if op == "ReduceMax" else "function")

    e = g.node("Exp", [g.node("Sub", [x, reduce("ReduceMax", x)], "function")], "function")
    g.node("Div", [e, reduce("ReduceSum", e)], "function")


def attention_by_parts(g):
    """Attends by products, with scale, mask and heads that are permuted apart."""
    dtype = g.choice([F32, floats(g)])
    b, h, t, s, d = g.integer(1, 2), g.integer(1, 3), g.integer(1, 9), g.integer(1, 9), g.integer(1, 5)
    q = g.new(dtype, (b, t, h, d), -1, 1)
    k = g.new(dtype, (b, s, h, d), -1, 1)
    v = g.new(dtype, (b, s, h, d), -1, 1)
    q = g.node("Transpose", [q], "data", perm=[0, 2, 1, 3])
    k = g.node("Transpose", [k], "data", perm=[0, 2, 3, 1])
    v = g.node("Transpose", [v], "data", perm=[0, 2, 1, 3])
    scores = g.node("MatMul", [q, k], "function")
    if g.chance(0.7):
        scores = g.node(g.choice(["Mul", "Div"]), [scores, g.const(d**0.5, dtype)], "function")
    form = g.rng.random()
    if form < 0.3:
        mask = np.triu(np.full((t, s), -1e4), 1) if g.chance(0.5) else g.rng.choice([0.0, -1e4, -1.0], (t, s))
        scores = g.node("Add", [scores, g.given(np.asarray(mask).astype(dtype))], "function")
    elif form < 0.5 and g.opset >= 9:
        keep = g.new(np.dtype(np.bool_), (b, 1, t, s))
        scores = g.node("Where", [keep, scores, g.const(-1e4, dtype)], "data")
    p = g.node("Softmax", [scores], "function", axis=3 if g.opset < 13 else -1)
    y = g.node("MatMul", [p, v], "function")
    y = g.node("Transpose", [y], "data", perm=[0, 2, 1, 3])
    if t * h * d:
        g.node("Reshape", [y, g.const([b, t, h * d])], "data")


def gated(g):
    """Gates with sigmoid, GELU by its parts, or a square of tanh."""
    x = g.new(floats(g), g.shape(1, 4, 512), -3, 3)
    form = g.integer(0, 2)
    if form == 0:
        g.node("Mul", [x, g.node("Sigmoid", [x], "function")], "function")
    elif form == 1 and g.opset >= 9:
        e = g.node("Erf", [g.node("Div", [x, g.const(2**0.5, x.dtype)], "function")], "function")
        e = g.node("Add", [e, g.const(1, x.dtype)], "function")
        y = g.node("Mul", [x, e], "function")
        g.node("Mul", [y, g.const(0.5, x.dtype)], "function")
    else:
        t = g.node("Tanh", [x], "function")
        g.node("Mul", [t, t], "function")


def casts(g):
    """Casts forth and back, through types that hold the value and types that round it."""
    a = g.some(FLOATS, level=EXACT)
    g.finite(a)
    y = a
    for _ in range(g.integer(2, 3)):
        to = g.choice(FLOATS)
        if a.size and np.abs(a.wide).max() > 60000:
            raise Skip("overflow")
        y = g.node("Cast", [y], "data", to=tensor_type(to))


def joined(g):
    """Joins slices of a value again, in or out of order, also with parts between."""
    a = g.some(NUMBERS, low=1)
    axis = g.integer(0, a.rank - 1)
    n = a.shape[axis]
    if n < 2 or g.opset < 10:
        raise Skip("nothing to cut")
    cut = g.integer(1, n - 1)

    def part(low, high):
        return g.node("Slice", [a, g.const([low]), g.const([high]), g.const([axis])], "data")

    parts = [part(0, cut), part(cut, n)]
    if g.chance(0.4):
        parts.reverse()
    if g.chance(0.3):
        parts.insert(1, g.node("Neg", [parts[0]], "data") if a.dtype not in NUMBERS[8:] else parts[0])
    g.node("Concat", parts, "data", axis=axis)


def reduced_twice(g):
    """Reduces along one axis and then another, and compares or adds the results."""
    a = g.some(FLOATS, low=2)
    if a.size == 0:
        raise Skip("nothing to reduce")
    op = g.choice(["ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean"])
    kind = {"ReduceSum": "linear", "ReduceMean": "function"}.get(op, "data")
    y = a
    for _ in range(2):
        axis = g.integer(0, y.rank - 1)
        if g.opset < (13 if op == "ReduceSum" else 18):
            y = g.node(op, [y], kind, axes=[axis])
        else:
            y = g.node(op, [y, g.const([axis])], kind)
    g.node("Sub", [a, y], "round")


OPERATORS = [
    (neutral, 4), (scaled_product, 5), (views, 4), (norm_by_parts, 1.5), (softmax_by_parts, 1),
    (attention_by_parts, 2), (gated, 1.5), (casts, 1), (joined, 1.5), (reduced_twice, 1.5),
]  # fmt: skip
