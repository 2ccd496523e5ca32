"""Operators of random graphs that move elements: shapes, views, gathers and scatters."""

import numpy as np
from random_values import ALL, F32, FLOATS, I64, NUMBERS, SIGNED, Skip, is_float
from random_elementwise import index_of


def factorise(g, size, rank):
    """Splits a size into this many factors."""
    dims = [1] * rank
    factor = 2
    while size > 1:
        while size % factor:
            factor += 1
        dims[g.integer(0, rank - 1)] *= factor
        size //= factor
    return dims


def reshape(g):
    """Reshapes, with dimensions that are inferred or copied."""
    a = g.some(ALL)
    if a.size == 0:
        dims = list(a.shape)
        g.node("Reshape", [a, g.const([0] * len(dims))], "data")
        return
    rank = g.integer(1, 8 if g.chance(0.1) else 5)
    dims = factorise(g, a.size, rank) if a.size > 1 else [1] * g.integer(0, 4)
    if dims and g.chance(0.3):
        dims[g.integer(0, len(dims) - 1)] = -1
    if dims and dims[0] == (a.shape or (0,))[0] and g.chance(0.3):
        dims[0] = 0
    g.node("Reshape", [a, g.const(dims)], "data")


def flatten(g):
    """Flattens to two dimensions."""
    a = g.some(ALL)
    axis = g.integer(0 if g.opset < 11 else -a.rank, a.rank)
    g.node("Flatten", [a], "data", axis=axis)


def squeeze(g):
    """Drops axes of one element, or adds some."""
    a = g.some(ALL)
    ones = [i for i, d in enumerate(a.shape) if d == 1]
    if ones and g.chance(0.6):
        axes = [i for i in ones if g.chance(0.7)]
        op = "Squeeze"
        if g.opset >= 11:
            axes = [i - a.rank if g.chance(0.3) else i for i in axes]
    else:
        n = g.integer(1, 2)
        if a.rank + n > 8:
            raise Skip("too many axes")
        axes = [int(i) for i in g.rng.permutation(a.rank + n)[:n]]
        op = "Unsqueeze"
        if g.opset >= 11:
            axes = [i - a.rank - n if g.chance(0.3) else i for i in axes]
    if g.opset < 13:
        g.node(op, [a], "data", axes=axes or None)
    else:
        g.node(op, [a, g.const(axes) if axes else None], "data")


def transpose(g):
    """Permutes axes."""
    a = g.some(ALL, low=2 if g.chance(0.9) else 0)
    perm = [int(i) for i in g.rng.permutation(a.rank)] if g.chance(0.8) else None
    g.node("Transpose", [a], "data", perm=perm or None)


def expand(g):
    """Broadcasts to a shape."""
    a = g.some(ALL)
    shape = [g.integer(1, 4) if d == 1 and g.chance(0.6) else g.choice([d, 1]) for d in a.shape]
    if len(shape) < 6 and g.chance(0.4):
        shape = [g.integer(1, 3), *shape]
    g.node("Expand", [a, g.const(shape)], "data")


def tile(g):
    """Repeats along axes."""
    a = g.some(ALL, low=1)
    repeats = [g.choice([1, 1, 2, 3, 0 if g.chance(0.05) else 1]) for _ in a.shape]
    g.node("Tile", [a, g.const(repeats)], "data")


def concat(g):
    """Joins operands, some of them the same or empty."""
    a = g.some(ALL, low=1)
    axis = g.axis(a)
    parts = [a]
    for _ in range(g.integer(0, 3)):
        other = g.find(
            lambda v: v.dtype == a.dtype
            and v.rank == a.rank
            and all(p == q or i == axis % a.rank for i, (p, q) in enumerate(zip(v.shape, a.shape)))
        )
        if other is None or g.chance(0.5):
            shape = list(a.shape)
            shape[axis] = g.integer(0 if g.chance(0.1) else 1, 4)
            other = g.new(a.dtype, shape)
        parts.insert(g.integer(0, len(parts)), other)
    g.node("Concat", parts, "data", axis=axis)


def split(g):
    """Cuts along an axis into equal or given parts."""
    a = g.some(ALL, low=1)
    axis = g.axis(a)
    size = a.shape[axis]
    n = g.integer(1, 4)
    if g.chance(0.5):
        cuts = sorted(g.integer(0, size) for _ in range(n - 1))
        sizes = [hi - lo for lo, hi in zip([0, *cuts], [*cuts, size])]
        if g.opset < 13:
            g.node("Split", [a], "data", n_outputs=n, axis=axis, split=sizes)
        else:
            g.node("Split", [a, g.const(sizes)], "data", n_outputs=n, axis=axis)
        return
    if g.opset < 18:
        if size % n:
            raise Skip("no equal parts")
        g.node("Split", [a], "data", n_outputs=n, axis=axis)
    else:
        if (n - 1) * -(-size // n) >= size:
            raise Skip("empty last part")
        g.node("Split", [a], "data", n_outputs=n, axis=axis, num_outputs=n)


def slice_(g):
    """Takes a slice, with steps of both signs and bounds beyond the ends."""
    a = g.some(ALL, low=1)
    axes = [int(i) for i in g.rng.permutation(a.rank)[: g.integer(1, a.rank)]]
    starts, ends, steps = [], [], []
    for axis in axes:
        size = a.shape[axis]
        step = g.choice([1, 1, 1, 2, 3, -1, -1, -2]) if g.opset >= 10 else 1
        low, high = sorted((g.integer(-1, size + 1), g.integer(0, size + 2)))
        start, end = (low, high) if step > 0 else (high, low)
        if step < 0 and g.chance(0.5):
            start, end = g.choice([(size - 1, -size - 1), (2**31, -(2**31)), (-1, -(2**40))])
        elif start >= 0 and g.chance(0.2) and size:
            start, end = start - size if start < size else start, 2**40
        starts.append(start)
        ends.append(end)
        steps.append(step)
    if g.opset < 10:
        g.node("Slice", [a], "data", axes=axes, starts=starts, ends=ends)
        return
    if g.opset >= 11 and g.chance(0.4):
        axes = [i - a.rank for i in axes]
    bounds = [g.const(starts), g.const(ends), g.const(axes)]
    g.node("Slice", [a, *bounds, g.const(steps) if any(s != 1 for s in steps) else None], "data")


def pad(g):
    """Pads in every mode, also by negative numbers."""
    a = g.some(NUMBERS, low=1)
    mode = g.choice(["constant", "constant", "reflect", "edge"] + (["wrap"] if g.opset >= 19 else []))
    limits = [d - 1 if mode == "reflect" else d if mode == "wrap" else 3 for d in a.shape]
    if mode != "constant" and 0 in a.shape:
        raise Skip("nothing to repeat")
    pads = [g.integer(0, min(3, n)) if g.chance(0.6) else 0 for n in limits * 2]
    if mode == "constant" and g.chance(0.2):
        pads = [-1 if p == 0 and d > 3 and g.chance(0.4) else p for p, d in zip(pads, a.shape * 2)]
    value = g.choice([0.0, 1.0, 3.0])
    if g.opset < 11:
        if not is_float(a.dtype):
            raise Skip("floats only")
        g.node("Pad", [a], "data", mode=mode, pads=pads, value=value)
        return
    fill = g.given(np.array(value, a.dtype)) if mode == "constant" and g.chance(0.7) else None
    if g.opset >= 18 and g.chance(0.4):
        axes = [int(i) for i in g.rng.permutation(a.rank)[: g.integer(1, a.rank)]]
        pads = [pads[i] for i in axes] + [pads[i + a.rank] for i in axes]
        axes = [i - a.rank if g.chance(0.3) else i for i in axes]
        g.node("Pad", [a, g.const(pads), fill, g.const(axes)], "data", mode=mode)
    else:
        g.node("Pad", [a, g.const(pads), fill], "data", mode=mode)


def gather(g):
    """Gathers along an axis."""
    a = g.some(ALL, low=1, high=5)
    axis = g.axis(a)
    dtype = g.choice([np.int32, np.int64])
    indices = index_of(g, a.shape[axis], g.shape(0, 2, 64), dtype)
    g.node("Gather", [a, indices], "data", axis=axis)


def gather_elements(g):
    """Gathers with an index for each element."""
    a = g.some(ALL, low=1)
    axis = g.axis(a)
    shape = [g.integer(1, d) if d else 0 for d in a.shape]
    shape[axis] = g.integer(1, 5)
    indices = index_of(g, a.shape[axis], shape, g.choice([np.int32, np.int64]))
    g.node("GatherElements", [a, indices], "data", axis=axis)


def gather_nd(g):
    """Gathers slices by tuples of indices."""
    a = g.some(ALL, low=1, high=5)
    batch = g.integer(0, a.rank - 1) if g.opset >= 12 and g.chance(0.4) else 0
    depth = g.integer(1, a.rank - batch)
    lead = [*a.shape[:batch], *(g.integer(1, 4) for _ in range(g.integer(0, 2)))]
    if batch and len(lead) == batch and depth == 0:
        raise Skip("no tuples")
    columns = [g.rng.integers(-d if g.opset >= 11 else 0, max(d, 1), lead) for d in a.shape[batch : batch + depth]]
    if 0 in a.shape:
        raise Skip("nothing to index")
    indices = g.given(np.stack(columns, axis=-1).astype(np.int64))
    g.node("GatherND", [a, indices], "data", batch_dims=batch or None)


def reduction_of(g, dtype):
    """Picks what scattered elements do to what is there."""
    options = [None]
    if g.opset >= 16:
        options += ["add", "mul"]
    if g.opset >= 18:
        options += ["max", "min"]
    return g.choice(options)


def scatter_elements(g):
    """Scatters with an index for each element; no two meet unless they are combined."""
    a = g.some(ALL if g.chance(0.3) else NUMBERS, low=1, high=5)
    if a.size == 0:
        raise Skip("nowhere to scatter")
    axis = g.axis(a)
    reduction = reduction_of(g, a.dtype) if a.dtype != np.bool_ else None
    shape = [g.integer(1, d) for d in a.shape]
    if reduction and is_float(a.dtype) and np.any(np.isnan(a.wide)):
        raise Skip("NaN has no order")
    if reduction is None:
        count = shape[axis]
        keys = g.rng.random([*shape[: axis % a.rank], a.shape[axis], *shape[axis % a.rank + 1 :]])
        order = np.argsort(keys, axis=axis)
        indices = np.take(order, np.arange(count), axis=axis)
        indices = np.where(g.rng.random(indices.shape) < 0.2, indices - a.shape[axis], indices)
    else:
        shape[axis] = g.integer(1, 6)
        indices = g.rng.integers(-a.shape[axis], a.shape[axis], shape)
    if g.opset < 11:
        indices = indices % a.shape[axis]
    indices = g.given(indices.astype(g.choice([np.int32, np.int64])))
    updates = g.new(a.dtype, shape)
    op = "Scatter" if g.opset < 11 else "ScatterElements"
    kind = {None: "data", "max": "data", "min": "data"}.get(reduction, "function")
    g.node(op, [a, indices, updates], kind, axis=axis, reduction=reduction)


def scatter_nd(g):
    """Scatters slices by tuples of indices; no two meet unless they are combined."""
    a = g.some(ALL if g.chance(0.3) else NUMBERS, low=1, high=5)
    if a.size == 0:
        raise Skip("nowhere to scatter")
    depth = g.integer(1, a.rank)
    reduction = reduction_of(g, a.dtype) if a.dtype != np.bool_ else None
    if reduction and is_float(a.dtype) and np.any(np.isnan(a.wide)):
        raise Skip("NaN has no order")
    places = int(np.prod(a.shape[:depth]))
    count = g.integer(1, min(places, 6))
    flat = g.rng.choice(places, count, replace=reduction is not None)
    indices = np.stack(np.unravel_index(flat, a.shape[:depth]), axis=-1).astype(np.int64)
    if g.opset >= 11 and g.chance(0.3):
        indices = indices - np.array(a.shape[:depth])
    updates = g.new(a.dtype, (count, *a.shape[depth:]))
    kind = {None: "data", "max": "data", "min": "data"}.get(reduction, "function")
    g.node("ScatterND", [a, g.given(indices), updates], kind, reduction=reduction)


def one_hot(g):
    """Marks indices, those out of range nowhere."""
    dtype = g.choice([np.int64, np.int32, np.float32])
    depth = g.integer(1, 7)
    if g.opset < 11:
        indices = g.new(np.dtype(np.int64), g.shape(1, 3, 64), 0, depth - 1)
    else:
        indices = g.given(g.rng.integers(-depth - 1, depth + 2, g.shape(0, 3, 64)).astype(dtype))
    values = g.new(g.choice(NUMBERS), (2,))
    axis = g.choice([None, g.integer(0, indices.rank), -1])
    g.node("OneHot", [indices, g.const(depth), values], "data", axis=axis)


def depth_space(g):
    """Moves channels to positions and back."""
    block = g.integer(1, 3)
    dtype = g.main if g.chance(0.7) else F32
    if g.chance(0.5):
        a = g.new(dtype, (g.integer(1, 2), block * block * g.integer(1, 3), g.integer(1, 4), g.integer(1, 4)))
        mode = g.choice([None, "CRD", "DCR"]) if g.opset >= 11 else None
        g.node("DepthToSpace", [a], "data", blocksize=block, mode=mode)
    else:
        a = g.new(dtype, (g.integer(1, 2), g.integer(1, 3), block * g.integer(1, 3), block * g.integer(1, 3)))
        g.node("SpaceToDepth", [a], "data", blocksize=block)


def trilu(g):
    """Keeps a triangle."""
    a = g.some(ALL, low=2)
    k = g.const(g.integer(-4, 4)) if g.chance(0.6) else None
    g.node("Trilu", [a, k], "data", upper=g.choice([None, 0, 1]))


def reverse_sequence(g):
    """Reverses the heads of sequences."""
    a = g.some(ALL, low=2)
    time = g.choice([0, 1])
    if 0 in a.shape[:2]:
        raise Skip("no steps")
    lengths = g.new(I64, (a.shape[1 - time],), 1, a.shape[time])
    g.node("ReverseSequence", [a, lengths], "data", time_axis=time, batch_axis=1 - time)


def compress(g):
    """Keeps what a constant condition marks."""
    a = g.some(ALL, low=1)
    axis = g.axis(a) if g.chance(0.7) else None
    size = a.size if axis is None else a.shape[axis]
    if size == 0:
        raise Skip("nothing to keep")
    condition = g.const(g.rng.random(g.integer(1, size)) < 0.6, np.bool_)
    g.node("Compress", [a, condition], "data", axis=axis)


def shape_of(g):
    """Takes a shape or a size, and computes with it."""
    a = g.some(ALL)
    if g.chance(0.3):
        g.node("Size", [a], "step")
    elif g.opset >= 15 and g.chance(0.5):
        g.node("Shape", [a], "step", start=g.integer(-a.rank, a.rank), end=g.choice([None, g.integer(-a.rank, a.rank)]))
    else:
        g.node("Shape", [a], "step")


def generated(g):
    """Makes a range, an identity matrix or a constant of a shape."""
    if g.chance(0.4):
        dtype = g.choice([d for d in (*FLOATS, *SIGNED) if d.name not in ("float16", "bfloat16", "int8")])
        start, step = g.integer(-5, 5), g.choice([1, 2, -1, -3])
        stop = start + step * g.integer(0, 9)
        operands = [g.const(v, dtype) for v in (start, stop, step)]
        g.node("Range", operands, "data")
    elif g.chance(0.6):
        a = g.new(g.choice(NUMBERS), (g.integer(1, 6), g.integer(1, 6)))
        g.node("EyeLike", [a], "data", k=g.choice([None, 1, -2]))
    else:
        from onnx import numpy_helper

        fill = numpy_helper.from_array(np.array([g.integer(0, 3)], g.choice(ALL)))
        g.node("ConstantOfShape", [g.const(g.shape(0, 4))], "data", value=fill)


def identity(g):
    """Passes a value on."""
    a = g.some(ALL)
    g.node(g.choice(["Identity", "Identity", "Dropout"]), [a], "data")


OPERATORS = [
    (reshape, 4), (flatten, 1), (squeeze, 2.5), (transpose, 5), (expand, 2), (tile, 2),
    (concat, 4), (split, 3), (slice_, 5), (pad, 4), (gather, 3), (gather_elements, 2),
    (gather_nd, 2), (scatter_elements, 2), (scatter_nd, 2), (one_hot, 1), (depth_space, 1),
    (trilu, 1), (reverse_sequence, 1), (compress, 1), (shape_of, 1), (generated, 1),
    (identity, 0.5),
]  # fmt: skip
