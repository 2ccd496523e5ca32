"""Operators of random graphs that work element by element, and reductions along axes."""

import numpy as np
from random_values import (
    ALL,
    BOOL,
    EXACT,
    F32,
    FLOATS,
    I64,
    INTEGERS,
    NUMBERS,
    SIGNED,
    SUM,
    UNSIGNED,
    Skip,
    is_float,
    tensor_type,
)


def arithmetic(g):
    """Adds, subtracts or multiplies."""
    a = g.some(NUMBERS)
    b = g.partner(a)
    pair = [a, b] if g.chance(0.5) else [b, a]
    g.node(g.choice(["Add", "Sub", "Mul"]), pair, "round")


def divide(g):
    """Divides, integers by what is neither zero nor makes the quotient overflow."""
    a = g.some(NUMBERS, level=SUM)
    if is_float(a.dtype):
        b = g.partner(a)
        if not np.all(np.abs(b.wide) > 1e-3):
            b = g.partner(a, low=0.5, high=3.0)
    else:
        b = g.partner(a, low=1, high=9)
        if a.dtype in SIGNED and g.chance(0.3) and a.size and a.array.min() > np.iinfo(a.dtype).min:
            b = g.given(-np.maximum(b.array, 1))
    g.node("Div", [a, b], "round")


def variadic(g):
    """Takes maximum, minimum, sum or mean of several operands."""
    op = g.choice(["Max", "Min", "Sum", "Mean"])
    a = g.some(NUMBERS)
    others = [g.partner(a) for _ in range(g.integer(0, 3))]
    shape = a.shape
    kept = [a]
    for other in others:
        if g.fits(shape, other.shape):
            shape = np.broadcast_shapes(shape, other.shape)
            kept.append(other)
    kind = {"Max": "data", "Min": "data", "Sum": "round", "Mean": "function"}[op]
    if op == "Sum" and len(kept) > 2:
        kind = "function"
    g.node(op, kept, kind)


def sign_like(g):
    """Negates, takes magnitudes or signs."""
    op = g.choice(["Neg", "Abs", "Sign"])
    a = g.some(NUMBERS if op != "Neg" else FLOATS + SIGNED, level=SUM if op == "Sign" else 2)
    g.node(op, [a], "step" if op == "Sign" else "data")


def rounding(g):
    """Rounds to integers."""
    a = g.some(FLOATS, level=SUM)
    g.node(g.choice(["Floor", "Ceil", "Round"]), [a], "step")


def exact_function(g):
    """Takes square roots and reciprocals, which IEEE rounds right."""
    op = g.choice(["Sqrt", "Reciprocal"])
    a = g.some(FLOATS, level=EXACT)
    if op == "Sqrt":
        a = g.node("Abs", [a], "data")
    elif not np.all(np.abs(a.wide) > 1e-3):
        a = g.new(a.dtype, a.shape, 0.5, 4.0)
    g.node(op, [a], "round")


FUNCTIONS = {
    "Exp": (-4, 3), "Log": (0.1, 9), "Tanh": (-4, 4), "Sigmoid": (-5, 5), "Erf": (-3, 3),
    "Sin": (-6, 6), "Cos": (-6, 6), "Tan": (-1.2, 1.2), "Asin": (-0.9, 0.9),
    "Acos": (-0.9, 0.9), "Atan": (-5, 5), "Sinh": (-3, 3), "Cosh": (-3, 3),
    "Asinh": (-5, 5), "Acosh": (1.2, 9), "Atanh": (-0.9, 0.9), "Softplus": (-5, 5),
    "Softsign": (-5, 5), "Mish": (-4, 4), "HardSwish": (-5, 5),
}  # fmt: skip


def function(g):
    """Applies a function of one variable where it is well-conditioned."""
    op = g.choice(FUNCTIONS)
    low, high = FUNCTIONS[op]
    a = g.find(lambda v: is_float(v.dtype) and v.size and v.wide.min() >= low and v.wide.max() <= high)
    if a is None or g.chance(0.3):
        a = g.new(g.main if is_float(g.main) else F32, g.shape(), low, high)
    g.node(op, [a], "function")


def parametrised(g):
    """Applies an activation with attributes."""
    ops = {
        "Elu": {"alpha": g.choice([None, 0.5, 2.0])},
        "Selu": {"alpha": g.choice([None, 1.5]), "gamma": g.choice([None, 0.75])},
        "Celu": {"alpha": g.choice([None, 0.5, 2.0])},
        "HardSigmoid": {"alpha": g.choice([None, 0.25]), "beta": g.choice([None, 0.25])},
        "LeakyRelu": {"alpha": g.choice([None, 0.125, -0.5, 2.0])},
        "ThresholdedRelu": {"alpha": g.choice([None, 0.0, 0.5])},
        "Shrink": {"lambd": g.choice([None, 0.25]), "bias": g.choice([None, 0.125])},
        "Gelu": {"approximate": g.choice([None, "tanh"])},
        "Swish": {"alpha": g.choice([None, 0.5])},
        "Relu": {},
    }
    op = g.choice(ops)
    step = op in ("ThresholdedRelu", "Shrink")
    types = {"Relu": FLOATS + SIGNED, "Shrink": NUMBERS}.get(op, FLOATS)
    a = g.some(types, level=SUM if step else 2)
    if op == "Shrink" and not is_float(a.dtype):
        # What half a step is to an integer is not specified.
        ops[op] = {"lambd": 2.0, "bias": 1.0}
        if a.size and np.abs(a.wide.astype(float)).max() > 2**24:
            raise Skip("beyond the significand")
    kind = {"Relu": "data", "ThresholdedRelu": "step"}.get(op, "function")
    g.node(op, [a], kind, **ops[op])


def prelu(g):
    """Applies PRelu, whose slope broadcasts to its operand only."""
    x = g.some(FLOATS + INTEGERS)
    shape = tuple(1 if g.chance(0.3) else d for d in x.shape)[g.integer(0, x.rank) :]
    slope = g.new(x.dtype, shape)
    g.node("PRelu", [x, slope], "round")


def compare(g):
    """Compares."""
    op = g.choice(["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"])
    a = g.some(ALL if op == "Equal" else NUMBERS, level=SUM)
    b = a if g.chance(0.05) else g.partner(a, level=SUM)
    g.node(op, [a, b], "step")


def logic(g):
    """Combines truth values."""
    a = g.some([BOOL])
    if g.chance(0.25):
        g.node("Not", [a], "step")
    else:
        g.node(g.choice(["And", "Or", "Xor"]), [a, g.partner(a)], "step")


def where(g):
    """Selects."""
    a = g.some(ALL)
    b = g.partner(a)
    shape = np.broadcast_shapes(a.shape, b.shape)
    g.node("Where", [g.new(BOOL, g.broadcastable(shape)) if g.chance(0.5) else g.partner(a, BOOL), a, b], "data")


def bits(g):
    """Combines bits of integers."""
    a = g.some(INTEGERS)
    op = g.choice(["BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"])
    g.node(op, [a] if op == "BitwiseNot" else [a, g.partner(a)], "step")


def shift(g):
    """Shifts by less than the width."""
    a = g.some(UNSIGNED)
    b = g.partner(a, low=0, high=a.dtype.itemsize * 8 - 1)
    g.node("BitShift", [a, b], "step", direction=g.choice(["LEFT", "RIGHT"]))


def modulo(g):
    """Takes remainders, with the sign of the divisor or of the dividend."""
    a = g.some(NUMBERS, level=SUM)
    if is_float(a.dtype):
        b = g.partner(a, low=0.5, high=4.0)
        if g.chance(0.3):
            b = g.given(np.asarray(-b.array))
        g.node("Mod", [a, b], "step", fmod=1)
        return
    b = g.partner(a, low=1, high=9)
    if a.dtype in SIGNED and a.size and a.array.min() > np.iinfo(a.dtype).min and g.chance(0.4):
        b = g.given(-np.maximum(b.array, 1))
    g.node("Mod", [a, b], "step", fmod=g.choice([None, 0, 1]))


def power(g):
    """Raises to powers: floats to real ones above zero, or small whole ones."""
    if g.chance(0.3):
        a = g.new(g.choice([d for d in INTEGERS if d.itemsize >= 4]), g.shape(), 0, 9)
        g.node("Pow", [a, g.partner(a, low=0, high=3)], "step")
        return
    dtype = g.main if is_float(g.main) else F32
    if g.chance(0.5):
        a = g.new(dtype, g.shape(), 0.25, 3.0)
        b = g.partner(a, low=-2.0, high=2.0)
    else:
        a = g.some([dtype])
        b = g.const(g.choice([2.0, 3.0, 1.0, 0.0, 0.5 if np.all(a.wide > 0.01) else 2.0]), dtype)
    g.node("Pow", [a, b], "function")


def clip(g):
    """Clips between bounds, of which one or both may be absent."""
    a = g.some(NUMBERS)
    low, high = (g.integer(0, 2), g.integer(3, 6)) if a.dtype in UNSIGNED else (g.integer(-3, 1), g.integer(2, 5))
    if g.opset < 11:
        if not is_float(a.dtype):
            raise Skip("floats only")
        g.node("Clip", [a], "data", min=g.choice([None, float(low)]), max=g.choice([None, float(high)]))
        return
    bounds = [g.given(np.array(b, a.dtype)) if g.chance(0.8) else None for b in (low, high)]
    g.node("Clip", [a, *bounds], "data")


def classify(g):
    """Finds NaN and infinities."""
    a = g.some([F32] if g.opset < 20 else FLOATS)
    if g.chance(0.5):
        special = g.rng.choice([np.nan, np.inf, -np.inf, 1.0, 0.0], a.shape)
        a = g.given(np.asarray(special).astype(a.dtype))
    if a.level > SUM:
        raise Skip("discontinuous")
    if g.chance(0.5):
        g.node("IsNaN", [a], "step")
    else:
        flags = {"detect_negative": g.choice([None, 0, 1]), "detect_positive": g.choice([None, 0, 1])}
        g.node("IsInf", [a], "step", **flags)


def cast(g):
    """Casts where the result is defined."""
    a = g.some(ALL)
    to = g.choice(ALL)
    if is_float(a.dtype) and not is_float(to):
        if a.level > SUM:
            raise Skip("discontinuous")
        info = np.iinfo(to) if to != BOOL else None
        if info and not np.all((a.wide > max(info.min, -1e15)) & (a.wide < min(info.max, 1e15))):
            raise Skip("out of range")
        if np.any(np.isnan(a.wide)):
            raise Skip("not a number")
        kind = "step"
    else:
        kind = "data" if is_float(to) else "step"
    if g.opset >= 15 and g.chance(0.2):
        g.node("CastLike", [a, g.new(to, (1,), constant=g.chance(0.5))], kind)
    else:
        g.node("Cast", [a], kind, to=tensor_type(to))


def axes_of(g, value, low=1):
    """Picks axes of a value in any order, from either end."""
    n = g.integer(min(low, value.rank), value.rank)
    axes = [int(a) for a in g.rng.permutation(value.rank)[:n]]
    if g.opset >= 11:
        axes = [a - value.rank if g.chance(0.3) else a for a in axes]
    return axes


REDUCTIONS = {
    "ReduceSum": "linear", "ReduceMean": "function", "ReduceMax": "data", "ReduceMin": "data",
    "ReduceProd": "function", "ReduceSumSquare": "function", "ReduceL1": "function",
    "ReduceL2": "function", "ReduceLogSum": "function", "ReduceLogSumExp": "function",
}  # fmt: skip


def reference_overflows(op, value):
    """Raises a skip where a sum or a product of integers leaves their type: references widen or saturate."""
    wide = np.abs(value.array.astype(np.float64))
    with np.errstate(over="ignore"):
        bounds = {"ReduceProd": np.prod(np.maximum(wide, 1)), "ReduceSumSquare": np.sum(wide * wide)}
    if bounds.get(op, np.sum(wide)) > min(np.iinfo(value.dtype).max, 2**50):
        raise Skip("overflow")


def reduce(g):
    """Reduces along some axes, all, or none."""
    op = g.choice(REDUCTIONS)
    bools = op in ("ReduceMax", "ReduceMin") and g.opset >= 20 and g.chance(0.2)
    a = g.some([BOOL] if bools else NUMBERS)
    if op == "ReduceLogSum":
        a = g.new(a.dtype if is_float(a.dtype) else F32, a.shape, 0.5, 3.0)
    if not is_float(a.dtype) and op in ("ReduceL2", "ReduceLogSumExp", "ReduceMean"):
        raise Skip("rounding of integers is not specified")
    if a.size == 0 and op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceLogSum", "ReduceLogSumExp"):
        raise Skip("nothing to reduce")
    if not is_float(a.dtype) and a.dtype != BOOL:
        reference_overflows(op, a)
    keep = g.choice([None, 0, 1])
    axes = axes_of(g, a) if g.chance(0.85) else None
    if axes == []:
        axes = None
    since = 13 if op == "ReduceSum" else 18
    if g.opset < since:
        g.node(op, [a], REDUCTIONS[op], axes=axes, keepdims=keep)
        return
    noop = g.choice([None, 1]) if axes is None else None
    g.node(op, [a, g.const(axes) if axes else None], REDUCTIONS[op], keepdims=keep, noop_with_empty_axes=noop)


def arg_reduce(g):
    """Finds the place of the greatest or least."""
    a = g.some(NUMBERS, low=1, level=SUM)
    if np.any(np.isnan(a.wide)) if is_float(a.dtype) else False:
        raise Skip("NaN has no order")
    last = g.choice([None, 1]) if g.opset >= 12 else None
    axis = g.axis(a)
    if a.shape[axis] == 0:
        raise Skip("no greatest element")
    g.node(g.choice(["ArgMax", "ArgMin"]), [a], "step", axis=axis, keepdims=g.choice([None, 0]), select_last_index=last)


def top_k(g):
    """Takes the greatest or least elements, which have an order where all differ."""
    a = g.some(NUMBERS, low=1, level=SUM)
    axis = g.axis(a)
    if is_float(a.dtype) and np.any(np.isnan(a.wide)):
        raise Skip("NaN has no order")
    k = g.const([g.integer(1, a.shape[axis]) if a.shape[axis] else 0])
    largest = g.choice([None, 0, 1]) if g.opset >= 11 else None
    if g.opset < 10:
        g.node("TopK", [a], "step", n_outputs=2, axis=axis, k=int(k.array[0]))
    else:
        g.node("TopK", [a, k], "step", n_outputs=2, axis=axis, largest=largest)


def cumulate(g):
    """Sums or multiplies cumulatively."""
    product = g.opset >= 26 and g.chance(0.3)
    a = g.some(FLOATS + tuple(d for d in INTEGERS if d.itemsize >= 4), low=1)
    axis = g.const(g.axis(a), g.choice([np.int32, np.int64]))
    flags = {"exclusive": g.choice([None, 1]), "reverse": g.choice([None, 1])}
    if product and a.size and np.abs(a.wide.astype(float)).max() > 4:
        raise Skip("overflow")
    g.node("CumProd" if product else "CumSum", [a, axis], "function" if product else "linear", **flags)


def hardmax(g):
    """Marks the first of the greatest."""
    a = g.some(FLOATS, low=1, level=SUM)
    if np.any(np.isnan(a.wide)) or 0 in a.shape:
        raise Skip("no greatest element")
    g.node("Hardmax", [a], "step", axis=g.axis(a))


def softmax(g):
    """Normalises exponentials."""
    a = g.some(FLOATS, low=1)
    if a.size == 0 or np.abs(a.wide).max() > 60:
        a = g.new(a.dtype, a.shape, -4, 4)
    axis = g.axis(a) if g.chance(0.7) else None
    if axis is None and a.rank < 2 and g.opset < 13:
        raise Skip("the default axis is the second one")
    g.node(g.choice(["Softmax", "Softmax", "LogSoftmax"]), [a], "function", axis=axis)


def quantise(g):
    """Quantises with a power of two, so that rounding decides between equal quotients."""
    a = g.some([F32], level=EXACT)
    to = g.choice([np.int8, np.uint8] + ([np.int16, np.uint16] if g.opset >= 21 else []))
    axis = None
    shape = ()
    if g.opset >= 13 and a.rank and g.chance(0.4):
        axis = g.axis(a)
        shape = (a.shape[axis],)
    scale = g.given(np.asarray(2.0 ** g.rng.integers(-5, 2, shape), np.float32))
    info = np.iinfo(to)
    low = max(info.min, -20)
    zero = g.given(np.asarray(g.rng.integers(low, 20, shape)).astype(to))
    if np.any(np.isnan(a.wide)):
        raise Skip("NaN has no code")
    if a.size and np.abs(a.wide).max() > 1e6:
        raise Skip("quotients beyond integers")
    q = g.node("QuantizeLinear", [a, scale, zero], "step", axis=axis)
    if g.chance(0.6):
        g.node("DequantizeLinear", [q, scale, zero], "round", axis=axis)


def dequantise(g):
    """Dequantises."""
    a = g.some([np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int32)])
    axis, shape = None, ()
    if g.opset >= 13 and a.rank and g.chance(0.4):
        axis = g.axis(a)
        shape = (a.shape[axis],)
    scale = g.new(F32, shape, 0.05, 1.0)
    if a.dtype == np.int32:
        zero = None
        if a.size and np.abs(a.array.astype(np.int64)).max() > 2**24:
            raise Skip("beyond the significand")
    else:
        zero = g.new(a.dtype, shape, 0, 9)
    g.node("DequantizeLinear", [a, scale, zero], "round", axis=axis)


def bitcast(g):
    """Reads the bits of elements as another type of the same width."""
    a = g.some(NUMBERS, level=EXACT)
    to = g.choice([d for d in INTEGERS if d.itemsize == a.dtype.itemsize])
    if is_float(a.dtype) and (np.any(a.wide == 0) or np.any(np.isnan(a.wide))):
        raise Skip("bits of zeros and NaN")
    g.node("BitCast", [a], "step", to=tensor_type(to))


def index_of(g, n, shape, dtype=I64, negative=True):
    """Picks indices into an axis of n elements."""
    if n == 0:
        raise Skip("nothing to index")
    low = -n if negative and g.opset >= 11 else 0
    return g.new(np.dtype(dtype), shape, low, n - 1)


OPERATORS = [
    (arithmetic, 10), (divide, 3), (variadic, 3), (sign_like, 2), (rounding, 2),
    (exact_function, 2), (function, 4), (parametrised, 3), (prelu, 1), (compare, 3),
    (logic, 2), (where, 4), (bits, 1.5), (shift, 1), (modulo, 2), (power, 1.5), (clip, 2),
    (classify, 1), (cast, 5), (reduce, 6), (arg_reduce, 2), (top_k, 2), (cumulate, 2),
    (hardmax, 1), (softmax, 3), (quantise, 2), (dequantise, 1.5), (bitcast, 0.5),
]  # fmt: skip
