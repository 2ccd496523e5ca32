//! Matrix products, einsum and convolutions.

use lacuna_ir::eval::Tensor;
use lacuna_ir::expand;
use lacuna_ir::infer::infer;
use lacuna_ir::op::{BinaryOp, ContractMap, ConvAttrs};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use super::blocks::{Blocks, overlap_add};
use super::pooling::{Spatial, auto_pad, spatial};
use super::precision::wide;
use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

pub(super) fn mat_mul(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    Ok(vec![product(c, n.input(0)?, n.input(1)?)?])
}

/// The product of NumPy's `matmul`. A batch dimension of size 1 that broadcasts is reshaped away and loses its label.
pub(super) fn product(c: &mut Ctx<'_>, a: Value, b: Value) -> Result<Value, Fail> {
    let (sa, sb) = (c.shape(a), c.shape(b));
    if sa.rank() == 0 || sb.rank() == 0 {
        return Err(invalid("MatMul of a scalar"));
    }
    let (batch_a, batch_b) = (sa.rank().saturating_sub(2), sb.rank().saturating_sub(2));
    let batch = batch_a.max(batch_b);
    let (row, column, inner) = (batch as u8, batch as u8 + 1, batch as u8 + 2);
    // Dimensions of one operand that stay, with their labels.
    let side = |own: &[u64], own_batch: usize, other: &[u64], other_batch: usize, last: [u8; 2]| {
        let (mut dims, mut labels) = (Vec::new(), Vec::new());
        for (d, &size) in own[..own_batch].iter().enumerate() {
            let label = batch - own_batch + d;
            let opposite = (label + other_batch).checked_sub(batch).map(|i| other[i]);
            if size == 1 && opposite.is_some_and(|o| o != 1) {
                continue;
            }
            dims.push(size);
            labels.push(label as u8);
        }
        dims.extend(&own[own_batch..]);
        if own.len() == 1 {
            labels.push(inner);
        } else {
            labels.extend(last);
        }
        (dims, labels)
    };
    let (dims_a, labels_a) = side(&sa, batch_a, &sb, batch_b, [row, inner]);
    let (dims_b, labels_b) = side(&sb, batch_b, &sa, batch_a, [inner, column]);
    let mut out: Vec<u8> = (0..batch as u8).collect();
    out.extend((sa.rank() > 1).then_some(row));
    out.extend((sb.rank() > 1).then_some(column));
    let (a, b) = (c.reshape(a, dims_a)?, c.reshape(b, dims_b)?);
    c.contract(ContractMap { a: labels_a, b: labels_b, out }, a, b)
}

/// An operand of an integer product as i32, its zero point subtracted. Zero points are per tensor, or per row of the
/// first operand and per column of the second.
pub(super) fn centred(c: &mut Ctx<'_>, x: Value, zero: Option<Value>, along: usize) -> Result<Value, Fail> {
    let wide = c.cast(x, ScalarType::I32)?;
    let Some(zero) = zero else { return Ok(wide) };
    let zero = c.cast(zero, ScalarType::I32)?;
    let shape = c.shape(x);
    let zero = match c.rank(zero) {
        0 => c.broadcast_to(zero, &shape)?,
        1 if c.shape(zero)[0] == 1 => {
            let scalar = c.reshape(zero, vec![])?;
            c.broadcast_to(scalar, &shape)?
        }
        1 => c.broadcast_along(zero, along, &shape)?,
        _ => c.broadcast_to(zero, &shape)?,
    };
    c.binary(BinaryOp::Sub, wide, zero)
}

pub(super) fn mat_mul_integer(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (a, b) = (n.input(0)?, n.input(1)?);
    let (row, column) = (c.rank(a).saturating_sub(2), c.rank(b).saturating_sub(1));
    let a = centred(c, a, n.opt(2), row)?;
    let b = centred(c, b, n.opt(3), column)?;
    Ok(vec![product(c, a, b)?])
}

/// `alpha * a b + beta * bias`, rounded once where the operands are 16-bit floats.
pub(super) fn gemm(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (a, b) = (n.input(0)?, n.input(1)?);
    if c.rank(a) != 2 || c.rank(b) != 2 {
        return Err(invalid(format!("Gemm of {} and {}", c.b.ty(a), c.b.ty(b))));
    }
    let (m, k, cols) = (0, 1, 2);
    let la = if n.flag("transA", false)? { vec![k, m] } else { vec![m, k] };
    let lb = if n.flag("transB", false)? { vec![cols, k] } else { vec![k, cols] };
    let (alpha, beta) = (n.float("alpha", 1.0)?, n.float("beta", 1.0)?);
    let bias = n.opt(2).filter(|_| beta != 0.0);
    if n.opset < 7 {
        // Without the permission to broadcast, the bias has the shape of the result.
        n.pass_over(&["broadcast"]);
    }
    let elem = c.elem(a);
    // Where nothing follows, the product itself rounds.
    let sum = if alpha != 1.0 || bias.is_some() { wide(elem) } else { elem };
    let mut y = c.contract_to(ContractMap { a: la, b: lb, out: vec![m, cols] }, sum, a, b)?;
    if alpha != 1.0 {
        y = scaled(c, y, alpha)?;
    }
    if let Some(bias) = bias {
        let bias = c.cast(bias, sum)?;
        let bias = if beta == 1.0 { bias } else { scaled(c, bias, beta)? };
        let shape = c.shape(y);
        let bias = c.broadcast_to(bias, &shape)?;
        y = c.binary(BinaryOp::Add, y, bias)?;
    }
    Ok(vec![c.cast(y, elem)?])
}

/// `x * factor`; integers are scaled in f64 and truncated.
fn scaled(c: &mut Ctx<'_>, x: Value, factor: f64) -> Result<Value, Fail> {
    let elem = c.elem(x);
    if elem.is_float() {
        return c.binary_splat(BinaryOp::Mul, x, factor);
    }
    let x = c.cast(x, ScalarType::F64)?;
    let x = c.binary_splat(BinaryOp::Mul, x, factor)?;
    c.cast(x, elem)
}

/// A convolution with a bias per channel (dimension 1), rounded once where the operands are 16-bit floats.
fn with_bias(
    c: &mut Ctx<'_>,
    attrs: ConvAttrs,
    x: Value,
    w: Value,
    bias: Option<Value>,
) -> Result<Value, Fail> {
    let elem = c.elem(x);
    let Some(bias) = bias else { return emit_conv(c, attrs, elem, x, w) };
    let y = emit_conv(c, attrs, wide(elem), x, w)?;
    biased(c, y, Some(bias), elem)
}

/// A sum in the wide type with the bias of its channels, rounded to `elem` at the end.
fn biased(c: &mut Ctx<'_>, mut y: Value, bias: Option<Value>, elem: ScalarType) -> Result<Value, Fail> {
    if let Some(bias) = bias {
        let shape = c.shape(y);
        let bias = c.cast(bias, c.elem(y))?;
        let bias = c.broadcast_along(bias, 1, &shape)?;
        y = c.binary(BinaryOp::Add, y, bias)?;
    }
    c.cast(y, elem)
}

fn groups(n: &Call<'_>) -> Result<u64, Fail> {
    let groups = n.int("group", 1)?;
    u64::try_from(groups)
        .ok()
        .filter(|g| (1..1 << 20).contains(g))
        .ok_or_else(|| invalid(format!("attribute `group` is {groups}")))
}

/// Spatial kernel sizes: those of the weight, which `kernel_shape` must repeat.
pub(super) fn kernel(c: &Ctx<'_>, n: &Call<'_>, x: Value, w: Value) -> Result<Vec<u64>, Fail> {
    let (sx, sw) = (c.shape(x), c.shape(w));
    if sx.rank() < 3 || sw.rank() != sx.rank() {
        return Err(invalid(format!("convolution of {} by {}", c.b.ty(x), c.b.ty(w))));
    }
    let kernel = sw[2..].to_vec();
    if kernel.iter().any(|k| !(1..1 << 31).contains(k)) {
        return Err(invalid(format!("kernel of weight {sw}")));
    }
    match n.has("kernel_shape") && n.sizes("kernel_shape", kernel.len(), 1)? != kernel {
        true => Err(invalid(format!("kernel_shape differs from the weight's {sw}"))),
        false => Ok(kernel),
    }
}

fn conv_of(c: &mut Ctx<'_>, n: &Call<'_>, x: Value, w: Value, bias: Option<Value>) -> Result<Value, Fail> {
    let kernel = kernel(c, n, x, w)?;
    let extents = c.shape(x)[2..].to_vec();
    let Spatial { strides, dilations, low, high, .. } = spatial(n, &extents, &kernel, false)?;
    if c.elem(x) != c.elem(w) {
        return Err(invalid(format!("operands {} and {} differ in type", c.b.ty(x), c.b.ty(w))));
    }
    let dims: Vec<u8> = (0..c.rank(x) as u8).collect();
    let attrs = ConvAttrs {
        x: dims.clone(),
        w: dims.clone(),
        out: dims,
        x_dilations: vec![1; kernel.len()],
        strides,
        dilations,
        low: low.iter().map(|&p| p as i64).collect(),
        high: high.iter().map(|&p| p as i64).collect(),
        groups: groups(n)?,
    };
    with_bias(c, attrs, x, w, bias)
}

/// A convolution of floats as one that number formats with groups have; integers are summed in any order later.
fn emit_conv(c: &mut Ctx<'_>, attrs: ConvAttrs, elem: ScalarType, x: Value, w: Value) -> Result<Value, Fail> {
    if !elem.is_float() || expand::is_plain(&attrs) {
        return c.emit(Op::Conv { attrs, elem }, &[x, w]);
    }
    let op = Op::Conv { attrs: attrs.clone(), elem };
    infer(c.b.module, &op, &[c.b.ty(x), c.b.ty(w)]).map_err(|e| invalid(e.to_string()))?;
    expand::conv(&mut c.b, &attrs, elem, x, w).map_err(|e| invalid(e.to_string()))
}

pub(super) fn conv(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    Ok(vec![conv_of(c, n, n.input(0)?, n.input(1)?, n.opt(2))?])
}

pub(super) fn conv_integer(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, w) = (n.input(0)?, n.input(1)?);
    Ok(vec![integer_conv(c, n, (x, n.opt(2)), (w, n.opt(3)))?])
}

/// The convolution of codes, zero points subtracted, in i32; those of the weight may be per output channel.
pub(super) fn integer_conv(
    c: &mut Ctx<'_>,
    n: &Call<'_>,
    (x, zero): (Value, Option<Value>),
    (w, w_zero): (Value, Option<Value>),
) -> Result<Value, Fail> {
    let (x, w) = (centred(c, x, zero, 0)?, centred(c, w, w_zero, 0)?);
    conv_of(c, n, x, w, None)
}

/// What is left out of the full result of a transposed convolution before and behind each axis; zeros are added where it is negative.
fn crop(n: &Call<'_>, full: &[i64], extents: &[u64], strides: &[u64]) -> Result<(Vec<i64>, Vec<i64>), Fail> {
    let s = full.len();
    let auto = auto_pad(n)?;
    let pads = n.ints("pads")?.filter(|_| auto == "NOTSET");
    let (mut begin, mut end) = (vec![0i64; s], vec![0i64; s]);
    let split = |total: i64, upper: bool| {
        let half = total.div_euclid(2);
        if upper { (half, total - half) } else { (total - half, half) }
    };
    if let Some(out) = n.ints("output_shape")? {
        if out.len() != s || out.iter().any(|o| !(0..1 << 40).contains(o)) {
            return Err(invalid(format!("output_shape is {out:?}, not {s} sizes")));
        }
        for i in 0..s {
            let total = full[i] - out[i];
            // What the result is longer by are zeros at its end.
            (begin[i], end[i]) = if total < 0 { (0, total) } else { split(total, auto == "SAME_UPPER") };
        }
    } else if auto.starts_with("SAME") {
        for i in 0..s {
            // A kernel that does not reach the next stride leaves nothing to crop: the result stays smaller.
            let out = (extents[i] * strides[i]) as i64;
            (begin[i], end[i]) = split((full[i] - out).max(0), auto == "SAME_UPPER");
        }
    } else if let Some(pads) = pads {
        if pads.len() != 2 * s || pads.iter().any(|p| p.unsigned_abs() >= 1 << 31) {
            return Err(invalid(format!("pads are {pads:?}, not {} numbers", 2 * s)));
        }
        (begin, end) = (pads[..s].to_vec(), pads[s..].to_vec());
    }
    Ok((begin, end))
}

/// A convolution over the operand spread by the strides, with the kernel reversed.
pub(super) fn conv_transpose(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, w) = (n.input(0)?, n.input(1)?);
    let kernel = kernel(c, n, x, w)?;
    let (s, groups) = (kernel.len(), groups(n)?);
    let strides = n.sizes("strides", s, 1)?;
    let dilations = n.sizes("dilations", s, 1)?;
    let extra = match n.ints("output_padding")? {
        None => vec![0; s],
        Some(p) if p.len() == s && p.iter().all(|p| (0..1 << 31).contains(p)) => p.to_vec(),
        Some(p) => return Err(invalid(format!("output_padding is {p:?}"))),
    };
    let (shape, sw) = (c.shape(x), c.shape(w));
    // Extent of the full result on each axis, before pads crop it.
    let full: Vec<i64> = (0..s)
        .map(|i| {
            let spread = shape[i + 2].saturating_sub(1) * strides[i];
            (spread + (kernel[i] - 1) * dilations[i]) as i64 + 1 + extra[i]
        })
        .collect();
    let (begin, end) = crop(n, &full, &shape[2..], &strides)?;
    if sw[0] != shape[1] {
        return Err(invalid(format!("convolution of {} by {sw}", c.b.ty(x))));
    }
    let sizes: Vec<i64> = (0..s).map(|i| full[i] - begin[i] - end[i]).collect();
    if sizes.contains(&0) && sizes.iter().all(|&size| size >= 0) {
        // Pads crop all of an axis away, which a convolution cannot.
        let mut out = vec![shape[0], sw[1].saturating_mul(groups)];
        out.extend(sizes.iter().map(|&size| size as u64));
        let out = Shape(out);
        crate::limits::check_shape(&out).map_err(invalid)?;
        return Ok(vec![c.splat(c.elem(x), &out, 0.0)?]);
    }
    if shape[1] > 0 && shape[1].is_multiple_of(groups) && !is_finite(c, w) {
        let image: Option<Vec<u64>> = sizes.iter().map(|&size| u64::try_from(size).ok()).collect();
        let image = image.ok_or_else(|| invalid(format!("a result of {sizes:?}")))?;
        let counts = shape[2..].to_vec();
        let blocks = Blocks { image, block: kernel, strides, dilations, low: begin, counts };
        let wide = wide(c.elem(x));
        let y = spread_rows(c, (x, w), groups, wide)?;
        let y = overlap_add(c, y, [shape[0], sw[1] * groups], &blocks)?;
        return Ok(vec![biased(c, y, n.opt(2), c.elem(x))?]);
    }
    let w = reversed_kernel(c, w, groups)?;
    let dims: Vec<u8> = (0..shape.rank() as u8).collect();
    let reach = |i: usize| ((kernel[i] - 1) * dilations[i]) as i64;
    let attrs = ConvAttrs {
        x: dims.clone(),
        w: dims.clone(),
        out: dims,
        strides: vec![1; s],
        dilations: dilations.clone(),
        x_dilations: strides,
        low: (0..s).map(|i| reach(i) - begin[i]).collect(),
        high: (0..s).map(|i| reach(i) - end[i] + extra[i]).collect(),
        groups,
    };
    Ok(vec![with_bias(c, attrs, x, w, n.opt(2))?])
}

/// Whether a weight may meet the zeros between the elements of a spread operand: an infinity would make them NaN.
/// A weight that is known at run time only may.
fn is_finite(c: &Ctx<'_>, w: Value) -> bool {
    let Some(id) = c.b.func().as_const(w) else { return true };
    let known = Tensor::from_constant(&c.b.module.constants[id]);
    known.is_ok_and(|w| w.to_f64().iter().all(|v| v.is_finite()))
}

/// Each row of `x`, `[batch, in, ...]`, times each element of the weight, `[in, out / groups, ...]`: a tensor of
/// `[batch * out, kernel, row]`, whose elements [`overlap_add`] sums.
fn spread_rows(
    c: &mut Ctx<'_>,
    (x, w): (Value, Value),
    groups: u64,
    elem: ScalarType,
) -> Result<Value, Fail> {
    let (shape, sw) = (c.shape(x), c.shape(w));
    let (inputs, outputs) = (shape[1] / groups, sw[1]);
    let (taken, columns) = (sw[2..].iter().product::<u64>(), shape[2..].iter().product::<u64>());
    let x = c.reshape(x, vec![shape[0], groups, inputs, columns])?;
    let w = c.reshape(w, vec![groups, inputs, outputs, taken])?;
    c.contract_as("ngcl,gcok->ngokl", x, w, elem)
}

/// Weight `[in, out / groups, ...]` as `[out, in / groups, ...]`, reversed along the spatial axes.
fn reversed_kernel(c: &mut Ctx<'_>, w: Value, groups: u64) -> Result<Value, Fail> {
    let shape = c.shape(w);
    let (inputs, outputs) = (shape[0], shape[1]);
    if inputs % groups != 0 || shape[2..].contains(&0) {
        return Err(invalid(format!("weight {shape} in {groups} groups")));
    }
    let rank = shape.rank();
    let starts = (0..rank).map(|d| if d < 2 { 0 } else { shape[d] as i64 - 1 }).collect();
    let steps = (0..rank).map(|d| if d < 2 { 1 } else { -1 }).collect();
    let w = c.emit(Op::Slice { starts, shape: shape.clone(), steps }, &[w])?;
    let mut split = vec![groups, inputs / groups, outputs];
    split.extend(&shape[2..]);
    let w = c.reshape(w, split)?;
    let mut perm: Vec<u8> = (0..=rank as u8).collect();
    perm.swap(1, 2);
    let w = c.permute(w, perm)?;
    let mut joined = vec![groups.saturating_mul(outputs), inputs / groups];
    joined.extend(&shape[2..]);
    c.reshape(w, joined)
}
