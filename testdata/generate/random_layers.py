"""Operators of random graphs that sum products, pool, normalise, resize and recur."""

import numpy as np
from random_values import F32, FLOATS, INTEGERS, SUM, Skip, is_float


def matmul(g):
    """Multiplies matrices, vectors and batches that broadcast."""
    types = FLOATS + tuple(d for d in INTEGERS if d.itemsize >= 4)
    a = g.some(types, low=1, high=5)
    k = a.shape[-1]
    form = g.rng.random()
    if form < 0.15:
        shape = (k,)
    else:
        lead = tuple(1 if g.chance(0.3) else d for d in a.shape[:-2])
        lead = lead[g.integer(0, len(lead)) :]
        shape = (*lead, k, g.dim())
    if not is_float(a.dtype) and a.size and np.abs(a.array.astype(float)).max() > 1000:
        a = g.new(a.dtype, a.shape, 0, 20)
    b = g.new(a.dtype, shape) if is_float(a.dtype) else g.new(a.dtype, shape, 0, 9)
    if g.chance(0.15) and a.rank >= 2 and len(shape) >= 2:
        a, b = g.node("Transpose", [b], "data", perm=swap(b)), g.node("Transpose", [a], "data", perm=swap(a))
    g.node("MatMul", [a, b], "linear")


def swap(value):
    """Gives the permutation that exchanges the last two axes."""
    return [*range(value.rank - 2), value.rank - 1, value.rank - 2]


def gemm(g):
    """Multiplies matrices with everything that Gemm can do to them."""
    dtype = g.main if is_float(g.main) else F32
    m, n, k = g.dim(), g.dim(), g.dim()
    ta, tb = g.choice([None, 0, 1]), g.choice([None, 0, 1])
    a = g.some([dtype], 2, 2, test=lambda v: v.shape[0 if ta else 1] > 0)
    m, k = a.shape[::-1] if ta else a.shape
    b = g.new(dtype, (n, k) if tb else (k, n))
    c = None
    if g.chance(0.7) or g.opset < 11:
        c = g.new(dtype, g.choice([(), (1,), (n,), (1, n), (m, 1), (m, n), (1, 1)]))
    alpha, beta = g.choice([None, 0.5, 2.0]), g.choice([None, 0.25, -1.0])
    plain = alpha is None and beta is None
    g.node("Gemm", [a, b, c], "linear" if plain else "function", transA=ta, transB=tb, alpha=alpha, beta=beta)


def einsum(g):
    """Sums products that an equation names."""
    dtype = g.main if is_float(g.main) else F32
    equation, shapes = g.choice(
        [
            ("ij,jk->ik", ("ij", "jk")), ("bij,bjk->bik", ("bij", "bjk")),
            ("bhqd,bhkd->bhqk", ("bhqd", "bhkd")), ("ij->ji", ("ij",)), ("ij->i", ("ij",)),
            ("ii->i", ("ii",)), ("i,j->ij", ("i", "j")), ("ijk,k->ij", ("ijk", "k")),
            ("bij,jk->bik", ("bij", "jk")), ("ij,ij->", ("ij", "ij")), ("ij,ij->ij", ("ij", "ij")),
            ("bijk,bljk->il", ("bijk", "bljk")), ("ij,jk,kl->il", ("ij", "jk", "kl")),
            ("abc,cd->dab", ("abc", "cd")), ("ij,kj", ("ij", "kj")), ("bii->b", ("bii",)),
            ("abcde,efa->fbdc", ("abcde", "efa")),
        ]
    )  # fmt: skip
    sizes = {c: max(1, min(g.dim(), 6)) for c in "abcdefhijklq"}
    operands = [g.new(dtype, tuple(sizes[c] for c in s)) for s in shapes]
    g.node("Einsum", operands, "linear", equation=equation)


def batch(g):
    """Picks a number of images, rarely none."""
    return 0 if g.chance(0.02) else g.integer(1, 3)


def window(g, size_of):
    """Picks kernel, strides, dilations and padding of a sliding window."""
    kernel = [g.integer(1, min(3, n)) for n in size_of]
    strides = [g.integer(1, 3) for _ in kernel]
    dilations = [g.integer(1, 2) if n >= 2 * k else 1 for n, k in zip(size_of, kernel)]
    return kernel, strides, dilations


def padding(g, kernel, strides):
    """Picks explicit or automatic padding."""
    roll = g.rng.random()
    if roll < 0.3:
        return {}
    # Where strides leave elements out, references crop by negative padding or do not.
    if roll < 0.75 or any(s > k for s, k in zip(strides, kernel)):
        return {"pads": [g.integer(0, k - 1) for k in kernel * 2]}
    return {"auto_pad": g.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])}


def conv(g):
    """Convolves over one to three axes, in groups."""
    dtype = g.main if is_float(g.main) else F32
    rank = g.choice([1, 2, 2, 2, 3])
    size = [g.integer(1, 9 if rank < 3 else 5) * (g.integer(1, 4) if g.large else 1) for _ in range(rank)]
    groups = g.choice([1, 1, 1, 2, 3])
    ci, co = (groups * g.integer(1, 3) * (g.choice([1, 5, 16]) if g.large else 1) for _ in range(2))
    if g.chance(0.15):
        groups = ci
        co = ci * g.integer(1, 2)
    x = g.find(lambda v: v.dtype == dtype and v.rank == rank + 2 and v.size and v.shape[1] == ci)
    if x is None or g.chance(0.2):
        x = g.new(dtype, (batch(g), ci, *size))
    size = list(x.shape[2:])
    kernel, strides, dilations = window(g, size)
    w = g.new(dtype, (co, ci // groups, *kernel))
    b = g.new(dtype, (co,)) if g.chance(0.5) else None
    pads = padding(g, kernel, strides)
    if pads.get("auto_pad", "").startswith("SAME"):
        dilations = [1] * rank
    attributes = {"strides": strides, "dilations": dilations, "group": groups if groups > 1 else None}
    if g.chance(0.3):
        attributes["kernel_shape"] = kernel
    g.node("Conv", [x, w, b], "linear", **attributes, **pads)


def conv_transpose(g):
    """Convolves transposed."""
    dtype = g.main if is_float(g.main) else F32
    rank = g.choice([1, 2, 2, 3])
    groups = g.choice([1, 1, 2])
    ci, co = groups * g.integer(1, 3), g.integer(1, 3)
    size = [g.integer(1, 5) for _ in range(rank)]
    kernel = [g.integer(1, 3) for _ in range(rank)]
    strides = [g.integer(1, 3) for _ in range(rank)]
    dilations = [g.integer(1, 2) for _ in range(rank)]
    x = g.new(dtype, (batch(g), ci, *size))
    w = g.new(dtype, (ci, co, *kernel))
    b = g.new(dtype, (co * groups,)) if g.chance(0.5) else None
    extra = {}
    if g.chance(0.4):
        extra["output_padding"] = [g.integer(0, max(s, d) - 1) for s, d in zip(strides, dilations)]
    if g.chance(0.4):
        extra["pads"] = [g.integer(0, k - 1) for k in kernel * 2]
    extra |= {"strides": strides, "dilations": dilations, "group": groups if groups > 1 else None}
    g.node("ConvTranspose", [x, w, b], "linear", **extra)


def pool(g):
    """Pools over windows, or over all positions."""
    dtype = g.main if is_float(g.main) else F32
    rank = g.choice([1, 2, 2, 3])
    x = g.find(lambda v: v.dtype == dtype and v.rank == rank + 2 and v.size)
    if x is None or g.chance(0.3):
        x = g.new(dtype, (batch(g), g.integer(1, 4), *(g.integer(1, 9 if rank < 3 else 4) for _ in range(rank))))
    if g.chance(0.2):
        op = g.choice(["GlobalAveragePool", "GlobalMaxPool"])
        g.node(op, [x], "data" if op == "GlobalMaxPool" else "function")
        return
    kernel, strides, dilations = window(g, x.shape[2:])
    pads = padding(g, kernel, strides)
    ceil = g.choice([None, 1]) if g.opset >= 10 and "auto_pad" not in pads else None
    extra = {"kernel_shape": kernel, "strides": strides, "ceil_mode": ceil, **pads}
    op = g.choice(["MaxPool", "MaxPool", "AveragePool", "LpPool"])
    since = {"MaxPool": 10, "AveragePool": 19, "LpPool": 18}[op]
    if g.opset >= since and not pads.get("auto_pad", "").startswith("SAME"):
        extra["dilations"] = dilations
    if op == "LpPool":
        extra["p"] = g.choice([1, 2, 3])
        if g.opset < 18:
            extra.pop("ceil_mode")
        g.node(op, [x], "function", **extra)
    elif op == "AveragePool":
        g.node(op, [x], "function", count_include_pad=g.choice([None, 1]), **extra)
    elif g.chance(0.4) and x.level <= SUM and not np.any(np.isnan(x.wide)):
        g.node(op, [x], "step", n_outputs=2, storage_order=g.choice([None, 1]), **extra)
    else:
        g.node(op, [x], "data", **extra)


def normalisation(g):
    """Normalises over layers, instances, groups, batches or channels."""
    dtype = g.main if is_float(g.main) else F32
    x = g.some([dtype], low=2, high=5, test=lambda v: v.size > 0)
    c = x.shape[1]
    op = g.choice(
        ["LayerNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization",
         "BatchNormalization", "RMSNormalization", "LpNormalization", "MeanVarianceNormalization", "LRN"]
    )  # fmt: skip
    if op in ("LayerNormalization", "RMSNormalization"):
        axis = g.axis(x)
        shape = x.shape[axis % x.rank :]
        scale = g.new(dtype, shape, 0.5, 2.0)
        bias = g.new(dtype, shape) if op[0] == "L" and g.chance(0.6) else None
        g.node(op, [x, scale, bias], "function", axis=axis, epsilon=g.choice([None, 1e-2]))
    elif op == "InstanceNormalization":
        if x.rank < 3:
            raise Skip("no positions")
        g.node(op, [x, g.new(dtype, (c,)), g.new(dtype, (c,))], "function", epsilon=g.choice([None, 1e-2]))
    elif op == "GroupNormalization":
        groups = g.choice([n for n in (1, 2, 3, c) if c % n == 0])
        n = groups if g.opset < 21 else c
        g.node(op, [x, g.new(dtype, (n,)), g.new(dtype, (n,))], "function", num_groups=groups)
    elif op == "BatchNormalization":
        operands = [g.new(dtype, (c,)) for _ in range(3)] + [g.new(dtype, (c,), 0.5, 2.0)]
        g.node(op, [x, *operands], "function", epsilon=g.choice([None, 1e-2]))
    elif op == "LpNormalization":
        g.node(op, [x], "function", axis=g.axis(x), p=g.choice([1, 2]))
    elif op == "MeanVarianceNormalization":
        if x.rank != 4:
            raise Skip("four axes by default")
        g.node(op, [x], "function")
    else:
        if x.rank != 4 or np.abs(x.wide).max() > 10:
            raise Skip("images only; a sum that is updated cancels")
        g.node(op, [x], "function", size=g.choice([1, 3, 5]), alpha=g.choice([None, 0.1]), bias=g.choice([None, 2.0]))


def resize(g):
    """Resizes images in every mode."""
    # References compute scales and positions of f64 in f32.
    dtype = g.main if is_float(g.main) and g.main.name != "float64" else F32
    rank = g.choice([1, 2, 2])
    x = g.new(dtype, (batch(g), g.integer(1, 3), *(g.integer(1, 6) for _ in range(rank))))
    mode = g.choice(["nearest", "linear"] + (["cubic"] if g.opset >= 11 and rank == 2 else []))
    scales = [1.0, 1.0, *(float(g.choice([0.5, 1.0, 2.0, 3.0, 1.5, 0.75])) for _ in range(rank))]
    if any(int(np.floor(s * d)) == 0 for s, d in zip(scales, x.shape)):
        raise Skip("empty result")
    kind = "data" if mode == "nearest" else "function"
    if g.opset < 10:
        if min(scales) < 1 or mode == "cubic":
            raise Skip("upsampling only")
        g.node("Upsample", [x, g.const(scales, np.float32)] if g.opset == 9 else [x], kind, mode=mode,
               scales=None if g.opset == 9 else scales)  # fmt: skip
        return
    if mode == "nearest":
        # Other scales round to one side or the other of a tie.
        scales = [s if s in (0.5, 1.0, 2.0) else 2.0 for s in scales]
    if g.opset == 10:
        g.node("Resize", [x, g.const(scales, np.float32)], kind, mode=mode)
        return
    transform = g.choice(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
    if mode == "nearest":
        transform = g.choice(["half_pixel", "asymmetric"])
    attributes = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "nearest":
        attributes["nearest_mode"] = g.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    if mode == "cubic":
        attributes["cubic_coeff_a"] = g.choice([None, -0.5])
        attributes["exclude_outside"] = g.choice([None, 1])
    if g.opset >= 18 and mode != "nearest":
        attributes["antialias"] = g.choice([None, 1])
    roi = None if g.opset >= 13 else g.const([], np.float32)
    if g.chance(0.4):
        sizes = [*x.shape[:2], *(g.integer(1, 9) for _ in range(rank))]
        if mode == "nearest":
            sizes = [*x.shape[:2], *(n * g.choice([1, 2, 4]) for n in x.shape[2:])]
        empty = None if g.opset >= 13 else g.const([], np.float32)
        g.node("Resize", [x, roi, empty, g.const(sizes)], kind, **attributes)
    else:
        g.node("Resize", [x, roi, g.const(scales, np.float32)], kind, **attributes)


def recurrent(g):
    """Runs LSTM, GRU or RNN in both directions, with the options of their states."""
    op, gates = g.choice([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    dtype = g.main if g.main in (FLOATS[0], FLOATS[1]) else F32
    steps, images, inputs, hidden = g.integer(1, 4), g.integer(1, 3), g.integer(1, 5), g.integer(1, 5)
    direction = g.choice([None, "forward", "reverse", "bidirectional"])
    n = 2 if direction == "bidirectional" else 1
    x = g.new(dtype, (steps, images, inputs), -1.5, 1.5)
    w = g.new(dtype, (n, gates * hidden, inputs), -1, 1)
    r = g.new(dtype, (n, gates * hidden, hidden), -1, 1)
    b = g.new(dtype, (n, 2 * gates * hidden), -0.5, 0.5) if g.chance(0.6) else None
    lengths = None
    h = g.new(dtype, (n, images, hidden), -1, 1) if g.chance(0.5) else None
    operands = [x, w, r, b, lengths, h]
    attributes = {"hidden_size": hidden, "direction": direction}
    if op == "LSTM":
        if g.chance(0.5):
            operands.append(g.new(dtype, (n, images, hidden), -1, 1))
            if g.chance(0.5):
                operands.append(g.new(dtype, (n, 3 * hidden), -0.5, 0.5))
    if op == "GRU":
        attributes["linear_before_reset"] = g.choice([None, 1])
    g.node(op, operands, "function", n_outputs=3 if op == "LSTM" else 2, **attributes)


def integer_products(g):
    """Multiplies quantised matrices and convolves quantised images."""
    types = [np.dtype(np.int8), np.dtype(np.uint8)]
    ta, tb = g.choice(types), g.choice(types)
    if g.chance(0.6):
        m, k, n = g.integer(1, 6), g.choice([1, 3, 8, 40, 300]), g.integer(1, 6)
        a, b = g.data(ta, (m, k)), g.data(tb, (k, n))
        zeros = [g.new(ta, (), 0, 9), g.new(tb, (), 0, 9)] if g.chance(0.6) else []
        g.node("MatMulInteger", [g.given(a), g.given(b), *zeros], "step")
    else:
        x = g.new(np.dtype(np.uint8), (1, g.integer(1, 3), g.integer(3, 6), g.integer(3, 6)))
        w = g.new(np.dtype(np.uint8), (g.integer(1, 3), x.shape[1], 2, g.integer(1, 3)))
        zeros = [g.new(x.dtype, (), 0, 9)] if g.chance(0.6) else []
        g.node("ConvInteger", [x, w, *zeros], "step", pads=g.choice([None, [1, 0, 0, 1]]))


def sampling(g):
    """Samples an image on a grid of positions away from edges between cells."""
    dtype = F32
    x = g.new(dtype, (1, g.integer(1, 3), g.integer(2, 5), g.integer(2, 5)))
    grid = g.new(dtype, (1, g.integer(1, 4), g.integer(1, 4), 2), -1.2, 1.2)
    bicubic = "bicubic" if g.opset < 20 else "cubic"
    bilinear = "bilinear" if g.opset < 20 else "linear"
    mode = g.choice([bilinear, bilinear, bicubic])
    padding_mode = g.choice(["zeros", "border", "reflection"])
    if mode == bicubic and padding_mode == "border":
        raise Skip("references clamp positions or elements")
    g.node("GridSample", [x, grid], "function", mode=mode, padding_mode=padding_mode, align_corners=g.choice([None, 1]))


def attention(g):
    """Attends, alone or with a mask that grows."""
    dtype = g.main if g.main in (FLOATS[0], FLOATS[1]) else F32
    heads, queries, keys, width = g.integer(1, 2), g.integer(1, 4), g.integer(1, 5), g.integer(1, 4)
    q = g.new(dtype, (1, heads, queries, width), -1, 1)
    k = g.new(dtype, (1, heads, keys, width), -1, 1)
    v = g.new(dtype, (1, heads, keys, g.integer(1, 4)), -1, 1)
    mask = g.new(dtype, (queries, keys), -1, 1) if g.chance(0.4) else None
    g.node("Attention", [q, k, v, mask], "function", is_causal=g.choice([None, 1]), softcap=g.choice([None, 2.0]))


OPERATORS = [
    (matmul, 8), (gemm, 4), (einsum, 3), (conv, 6), (conv_transpose, 3), (pool, 6),
    (normalisation, 6), (resize, 3), (recurrent, 2), (integer_products, 2), (sampling, 1),
    (attention, 1),
]  # fmt: skip
