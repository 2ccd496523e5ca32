"""Rarer operators of random graphs: signals, losses, sampling, quantised layers, states."""

import numpy as np
from random_values import BOOL, F32, FLOATS, I64, NUMBERS, Skip, is_float, tensor_type

I8, U8, I32 = np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int32)


def dft(g):
    """Transforms to frequencies, and back."""
    dtype = g.choice([F32, np.dtype(np.float64)])
    n = g.integer(1, 9)
    complex_ = g.choice([1, 2])
    inverse = g.choice([None, 1]) if complex_ == 2 else None
    onesided = g.choice([None, 1]) if complex_ == 1 else None
    x = g.new(dtype, (g.integer(1, 2), n, g.integer(1, 3), complex_), -2, 2)
    length = g.const(g.integer(1, 10)) if g.chance(0.4) else None
    flags = {"inverse": inverse, "onesided": onesided}
    if g.opset < 20:
        g.node("DFT", [x, length], "function", axis=g.choice([1, 2]), **flags)
    else:
        g.node("DFT", [x, length, g.const(g.choice([1, 2, -2, -3]))], "function", **flags)


def blackman(g):
    """Makes a window."""
    op = g.choice(["BlackmanWindow", "HannWindow", "HammingWindow"])
    g.node(op, [g.const(g.integer(1, 12))], "function", periodic=g.choice([None, 0, 1]))


def stft(g):
    """Transforms frames of a signal."""
    x = g.new(F32, (g.integer(1, 2), g.integer(8, 20), 1), -2, 2)
    n = g.integer(2, 8)
    step = g.const(g.integer(1, 4))
    window = g.new(F32, (n,), 0.1, 1.0)
    g.node("STFT", [x, step, window, g.const(n)], "function", onesided=g.choice([None, 0, 1]))


def determinant(g):
    """Takes determinants of small matrices that are far from singular."""
    n = g.integer(1, 4)
    a = g.data(F32, (*g.shape(0, 2, 16), n, n), -1, 1) + 3 * np.eye(n, dtype=np.float32)
    g.node("Det", [g.given(a.astype(np.float32))], "function")


def loss(g):
    """Takes losses of classes, weighted, with ignored targets."""
    n, c = g.integer(1, 4), g.integer(2, 5)
    rest = g.shape(0, 2, 9)
    if 0 in rest:
        raise Skip("no positions")
    x = g.new(F32, (n, c, *rest), -2, 2)
    target = g.new(g.choice([I64, I32]), (n, *rest), 0, c - 1)
    weight = g.new(F32, (c,), 0.5, 2.0) if g.chance(0.5) else None
    flags = {
        "reduction": g.choice([None, "none", "sum", "mean"]),
        "ignore_index": g.choice([None, 0]) if n * int(np.prod(rest)) > 3 else None,
    }
    if flags["ignore_index"] == 0 and np.all(target.array == 0):
        raise Skip("all ignored")
    op = g.choice(["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
    g.node(op, [x, target, weight], "function", **flags)


def center(g):
    """Crops or pads around the centre."""
    a = g.some(NUMBERS, low=1, high=5)
    axes = [int(i) for i in g.rng.permutation(a.rank)[: g.integer(1, a.rank)]]
    shape = [g.integer(1, 8) for _ in axes]
    g.node("CenterCropPad", [a, g.const(shape)], "data", axes=axes)


def col2im(g):
    """Adds columns up to an image."""
    h, w = g.integer(2, 6), g.integer(2, 6)
    kh, kw = g.integer(1, min(3, h)), g.integer(1, min(3, w))
    strides, dilations = [g.integer(1, 2), g.integer(1, 2)], [1, 1]
    pads = [0, 0, 0, 0] if g.chance(0.5) else [kh - 1, 0, 0, kw - 1]
    lh = (h + pads[0] + pads[2] - kh) // strides[0] + 1
    lw = (w + pads[1] + pads[3] - kw) // strides[1] + 1
    x = g.new(F32, (g.integer(1, 2), g.integer(1, 3) * kh * kw, lh * lw), -2, 2)
    attributes = {"strides": strides, "dilations": dilations, "pads": pads}
    g.node("Col2Im", [x, g.const([h, w]), g.const([kh, kw])], "function", **attributes)


def deformable(g):
    """Convolves at positions that move."""
    n, ci, co = 1, g.integer(1, 3), g.integer(1, 3)
    h, w = g.integer(2, 5), g.integer(2, 5)
    kh, kw = g.integer(1, 2), g.integer(1, 2)
    x = g.new(F32, (n, ci, h, w), -2, 2)
    weight = g.new(F32, (co, ci, kh, kw), -1, 1)
    offset = g.new(F32, (n, 2 * kh * kw, h - kh + 1, w - kw + 1), -1.4, 1.4)
    bias = g.new(F32, (co,)) if g.chance(0.5) else None
    mask = g.new(F32, (n, kh * kw, h - kh + 1, w - kw + 1), 0, 1) if g.chance(0.5) else None
    g.node("DeformConv", [x, weight, offset, bias, mask], "function", pads=[0, 0, 0, 0], kernel_shape=[kh, kw])


def roi_align(g):
    """Pools regions of an image."""
    x = g.new(F32, (g.integer(1, 2), g.integer(1, 3), g.integer(3, 7), g.integer(3, 7)), -2, 2)
    k = g.integer(1, 3)
    low = g.data(F32, (k, 2), 0, 2)
    rois = g.given(np.concatenate([low, low + g.data(F32, (k, 2), 1, 3)], axis=1).astype(np.float32))
    batch = g.new(I64, (k,), 0, x.shape[0] - 1)
    flags = {"output_height": g.integer(1, 3), "output_width": g.integer(1, 3), "sampling_ratio": g.integer(1, 2)}
    if g.opset >= 16:
        flags["coordinate_transformation_mode"] = g.choice([None, "output_half_pixel"])
    g.node("RoiAlign", [x, rois, batch], "function", spatial_scale=g.choice([None, 0.5]), **flags)


def affine_grid(g):
    """Makes a grid of transformed positions."""
    axes = g.choice([2, 3])
    n = g.integer(1, 2)
    theta = g.new(F32, (n, axes, axes + 1), -1, 1)
    size = g.const([n, 1, *(g.integer(1, 4) for _ in range(axes))])
    g.node("AffineGrid", [theta, size], "function", align_corners=g.choice([None, 1]))


def rotary(g):
    """Rotates pairs of elements by their positions."""
    heads, width = g.integer(1, 3), 2 * g.integer(1, 4)
    b, s = g.integer(1, 2), g.integer(1, 4)
    dtype = g.main if is_float(g.main) and g.main.name != "float64" else F32
    x = g.new(dtype, (b, heads, s, width), -2, 2)
    part = g.choice([None, width // 2 // 2 * 2 or None])
    half = (part or width) // 2
    flags = {"interleaved": g.choice([None, 1]), "rotary_embedding_dim": part}
    if g.chance(0.5):
        tables = [g.new(dtype, (8, half), -1, 1) for _ in range(2)]
        positions = g.new(I64, (b, s), 0, 7)
        g.node("RotaryEmbedding", [x, *tables, positions], "function", **flags)
    else:
        tables = [g.new(dtype, (b, s, half), -1, 1) for _ in range(2)]
        g.node("RotaryEmbedding", [x, *tables], "function", **flags)


def scatter_tensor(g):
    """Updates a cache."""
    b, m, n, d = g.integer(1, 2), g.integer(2, 6), g.integer(1, 2), g.integer(1, 3)
    dtype = g.main
    past, update = g.new(dtype, (b, m, d)), g.new(dtype, (b, n, d))
    circular = g.chance(0.4)
    indices = g.new(I64, (b,), 0, m - 1 if circular else m - n)
    g.node("TensorScatter", [past, update, indices], "data", axis=1, mode="circular" if circular else None)


def attention_with_heads(g):
    """Attends with grouped heads, states and masks."""
    dtype = g.main if g.main in FLOATS[:2] else F32
    b, kv, times, t, past, d = g.integer(1, 2), g.integer(1, 2), g.integer(1, 3), g.integer(1, 4), g.integer(0, 3), g.integer(1, 4)
    heads = kv * times
    three = g.chance(0.4)
    s = g.integer(1, 5)
    if three:
        q = g.new(dtype, (b, t, heads * d), -1, 1)
        k, v = (g.new(dtype, (b, s, kv * d), -1, 1) for _ in range(2))
        sizes = {"q_num_heads": heads, "kv_num_heads": kv}
    else:
        q = g.new(dtype, (b, heads, t, d), -1, 1)
        k, v = (g.new(dtype, (b, kv, s, d), -1, 1) for _ in range(2))
        sizes = {}
    states = [g.new(dtype, (b, kv, past, d), -1, 1) for _ in range(2)] if past else []
    total = s + past
    mask = None
    if g.chance(0.5):
        if g.chance(0.5):
            keep = g.rng.random((t, total)) < 0.7
            keep[:, 0] = True
            mask = g.given(keep)
        else:
            mask = g.new(dtype, g.choice([(t, total), (b, 1, t, total)]), -1, 1)
    flags = {"scale": g.choice([None, 0.5]), "softcap": g.choice([None, 1.5])}
    if not past or g.chance(0.5):
        flags["is_causal"] = g.choice([None, 1]) if mask is None else None
    n_outputs = 3 if past else 1
    g.node("Attention", [q, k, v, mask, *states], "function", n_outputs=n_outputs, **sizes, **flags)


def quantised_layer(g):
    """Multiplies and convolves quantised operands with power-of-two scales, which round alike."""

    def scale():
        return g.given(np.array(2.0 ** g.integer(-6, -1), np.float32))

    def zero(dtype):
        return g.new(dtype, (), 0, 9)

    tx, ty = g.choice([I8, U8]), g.choice([I8, U8])
    if g.chance(0.5):
        m, k, n = g.integer(1, 5), g.integer(1, 9), g.integer(1, 5)
        a, b = g.given(g.data(tx, (m, k))), g.given(g.data(tx, (k, n)))
        g.node("QLinearMatMul", [a, scale(), zero(tx), b, scale(), zero(tx), scale(), zero(ty)], "step")
        return
    ci, co = g.integer(1, 3), g.integer(1, 3)
    x = g.given(g.data(U8, (1, ci, g.integer(3, 6), g.integer(3, 6))))
    w = g.given(g.data(U8, (co, ci, 2, 2)))
    bias = [g.new(I32, (co,), -50, 50)] if g.chance(0.5) else []
    g.node("QLinearConv", [x, scale(), zero(U8), w, scale(), zero(U8), scale(), zero(U8), *bias], "step")


def codes(g):
    """Casts to floats of eight bits and to integers of four, and back."""
    from onnx import TensorProto

    a = g.new(F32, g.shape(0, 4, 256), -5, 5)
    types = [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2FNUZ]
    small = g.choice(types)
    if g.opset < 19:
        raise Skip("no such type yet")
    y = g.node("Cast", [a], "data", to=small)
    g.node("Cast", [y], "data", to=tensor_type(F32))


def unpool(g):
    """Pools, and puts the greatest back where they were."""
    x = g.new(F32, (1, g.integer(1, 2), 2 * g.integer(1, 3), 2 * g.integer(1, 3)))
    y, places = g.node("MaxPool", [x], "step", n_outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    g.node("MaxUnpool", [y, places], "data", kernel_shape=[2, 2], strides=[2, 2])


def sequences(g):
    """Puts values into a sequence and takes one out."""
    a = g.some(NUMBERS, low=1, high=4)
    b = g.new(a.dtype, a.shape)
    if g.opset < 11:
        raise Skip("no such operator yet")
    s = g.fresh("s")
    from onnx import helper

    node = helper.make_node("SequenceConstruct", [a.name, b.name], [s])
    y = g.fresh("v")
    if g.chance(0.5):
        at = g.const(g.choice([0, 1, -1, -2]))
        last = helper.make_node("SequenceAt", [s, at.name], [y])
        array = [a, b][int(at.array)].array
    else:
        new_axis = g.choice([0, 1])
        axis = g.integer(0, a.rank - 1)
        last = helper.make_node("ConcatFromSequence", [s], [y], axis=axis, new_axis=new_axis)
        array = (np.stack if new_axis else np.concatenate)([a.array, b.array], axis=axis)
    g.raw([node, last], y, array, [a, b])


def dropout(g):
    """Drops nothing: dropout without training, with its mask."""
    a = g.some(FLOATS)
    if g.opset < 12:
        raise Skip("mask has the type of the data")
    g.node("Dropout", [a], "data", n_outputs=2)


def binary_cast(g):
    """Counts truth values by casts and sums."""
    a = g.some([BOOL], low=1)
    if a.size == 0:
        raise Skip("nothing to count")
    y = g.node("Cast", [a], "step", to=tensor_type(g.choice([F32, I64, I32])))
    g.node("ReduceSum", [y, g.const([0])] if g.opset >= 13 else [y], "linear", axes=None if g.opset >= 13 else [0])


def where_chain(g):
    """Selects by comparisons of positions."""
    n = g.integer(1, 9)
    positions = g.const(np.arange(n))
    other = g.new(I64, (g.integer(1, 5), 1), 0, n)
    keep = g.node("Less", [positions, other], "step")
    values = g.new(g.main, (n,))
    if g.opset < 9:
        raise Skip("no such operator yet")
    g.node("Where", [keep, values, g.const(0, g.main)], "data")


OPERATORS = [
    (dft, 1), (blackman, 0.3), (stft, 0.5), (determinant, 0.5), (loss, 1.5), (center, 1),
    (col2im, 1), (deformable, 0.7), (roi_align, 0.7), (affine_grid, 0.5), (rotary, 1),
    (scatter_tensor, 0.7), (attention_with_heads, 1.5), (quantised_layer, 1.5), (codes, 1),
    (unpool, 0.5), (sequences, 1), (dropout, 0.3), (binary_cast, 0.7),
    (where_chain, 0.7),
]  # fmt: skip
