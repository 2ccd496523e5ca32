//! Convolutions, products and normalisations that ONNX Runtime fuses with what stands beside them.

use lacuna_ir::op::{BinaryOp, Real, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Value};

use super::activation::Activation;
use super::contraction::{conv, gemm, product};
use super::elementwise::gelu_of;
use super::loss::widened;
use super::{movement, pooling};
use crate::call::{Call, axis};
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// What a lowering of channels-first operands makes of the first operand and the first result channels last.
pub(super) fn channels_last(
    c: &mut Ctx<'_>,
    n: &Call<'_>,
    lower: impl FnOnce(&mut Ctx<'_>, &Call<'_>) -> Results,
) -> Results {
    let x = n.input(0)?;
    let rank = c.rank(x) as u8;
    if rank < 3 {
        return Err(invalid(format!("channels last in {}", c.b.ty(x))));
    }
    let first = [&[0, rank - 1], &(1..rank - 1).collect::<Vec<u8>>()[..]].concat();
    let last = [&[0], &(2..rank).collect::<Vec<u8>>()[..], &[1]].concat();
    let mut inputs = n.operands().to_vec();
    inputs[0] = Some(c.permute(x, first)?);
    let mut results = lower(c, &n.with(inputs))?;
    results[0] = c.permute(results[0], last)?;
    Ok(results)
}

/// The function that the attribute `activation` names, of `x`.
fn activated(c: &mut Ctx<'_>, n: &Call<'_>, x: Value, parameters: &[f32]) -> Result<Value, Fail> {
    let parameter = |i: usize| parameters.get(i).map(|&p| f64::from(p));
    match n.string("activation", "")? {
        "" => Ok(x),
        "Clip" => {
            let (Some(low), Some(high)) = (parameter(0), parameter(1)) else {
                return Err(invalid("a Clip without bounds"));
            };
            let x = c.binary_splat(BinaryOp::Max, x, low)?;
            c.binary_splat(BinaryOp::Min, x, high)
        }
        name => Activation::named(name, parameter(0), parameter(1))?.apply(c, x),
    }
}

/// A convolution, a tensor to add, and an activation, rounded once.
pub(super) fn fused_conv(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let elem = c.elem(n.input(0)?);
    let mut y = conv(c, n)?[0];
    if let Some(z) = n.opt(3) {
        let (wide, z) = (widened(c, y)?, widened(c, z)?);
        y = c.binary(BinaryOp::Add, wide, z)?;
    }
    let y = activated(c, n, y, n.floats("activation_params")?.unwrap_or(&[]))?;
    Ok(vec![c.cast(y, elem)?])
}

/// A convolution of channels-last operands, whose filters are channels-first.
pub(super) fn nhwc_conv(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    channels_last(c, n, conv)
}

/// A product with a bias, and an activation.
pub(super) fn fused_gemm(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let y = gemm(c, n)?[0];
    // No activation that is supported has a third parameter.
    n.pass_over(&["activation_gamma"]);
    let mut parameters = Vec::new();
    for name in ["activation_alpha", "activation_beta"] {
        if n.has(name) {
            parameters.push(n.float(name, 0.0)? as f32);
        }
    }
    Ok(vec![activated(c, n, y, &parameters)?])
}

/// The greatest element of each window of channels-last codes.
pub(super) fn nhwc_max_pool(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    channels_last(c, n, pooling::max_pool)
}

/// The sum of an operand, a bias for each channel, and another operand.
pub(super) fn bias_add(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let mut sum = widened(c, x)?;
    for i in [1, 2] {
        let term = widened(c, n.input(i)?)?;
        sum = c.binary(BinaryOp::Add, sum, term)?;
    }
    Ok(vec![c.cast(sum, c.elem(x))?])
}

/// The first half of channels times the Gelu of the second, after a bias.
pub(super) fn bias_split_gelu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let (wide, bias) = (widened(c, x)?, widened(c, n.input(1)?)?);
    let sum = c.binary(BinaryOp::Add, wide, bias)?;
    let shape = c.shape(sum);
    let Some(axis) = shape.rank().checked_sub(1).filter(|&axis| shape[axis].is_multiple_of(2)) else {
        return Err(invalid(format!("two halves of {shape}")));
    };
    let half = shape[axis] / 2;
    let (left, right) = (c.slice_axis(sum, axis, 0, half)?, c.slice_axis(sum, axis, half, half)?);
    let gate = gelu_of(c, right, false)?;
    let y = c.binary(BinaryOp::Mul, left, gate)?;
    Ok(vec![c.cast(y, c.elem(x))?])
}

/// GroupNorm, and with `skip` SkipGroupNorm, whose second result is the sum that it normalises.
pub(super) fn group_norm(c: &mut Ctx<'_>, n: &Call<'_>, skip: bool) -> Results {
    if n.flag("channels_last", true)? {
        let mut results = channels_last(c, n, |c, n| group_norm_of(c, n, skip, true))?;
        if let Some(sum) = results.get(1).copied() {
            let rank = c.rank(sum) as u8;
            let last = [&[0], &(2..rank).collect::<Vec<u8>>()[..], &[1]].concat();
            results[1] = c.permute(sum, last)?;
        }
        return Ok(results);
    }
    group_norm_of(c, n, skip, false)
}

/// Groups of channels (dimension 1) normalised together; with `last`, what is added has its channels last.
fn group_norm_of(c: &mut Ctx<'_>, n: &Call<'_>, skip: bool, last: bool) -> Results {
    let x = n.input(0)?;
    let (elem, shape) = (c.elem(x), c.shape(x));
    let groups = u64::try_from(n.int("groups", 0)?).unwrap_or(0);
    if groups == 0 || shape.rank() < 3 || !shape[1].is_multiple_of(groups) {
        return Err(invalid(format!("normalisation of {shape} in {groups} groups")));
    }
    let mut sum = widened(c, x)?;
    for term in [n.opt(3), n.opt(4)].into_iter().flatten().filter(|_| skip) {
        let term = widened(c, term)?;
        let term = match c.rank(term) {
            4 if last => c.permute(term, vec![0, 3, 1, 2])?,
            4 => term,
            _ => {
                let own = c.shape(term);
                let batch = own.elements() / shape[1].max(1);
                c.reshape(term, vec![batch, shape[1], 1, 1])?
            }
        };
        sum = c.binary(BinaryOp::Add, sum, term)?;
    }
    let mut split = vec![shape[0], groups, shape[1] / groups];
    split.extend(&shape[2..]);
    let axes = (2..split.len() as u8).collect();
    let y = c.reshape(sum, split)?;
    let eps = Real(n.float("epsilon", 1e-5)?);
    let y = c.emit(Op::Norm { axes, centre: true, eps }, &[y])?;
    let mut y = c.reshape(y, shape.clone())?;
    for (i, op) in [(1, BinaryOp::Mul), (2, BinaryOp::Add)] {
        let p = widened(c, n.input(i)?)?;
        let p = c.broadcast_along(p, 1, &shape)?;
        y = c.binary(op, y, p)?;
    }
    if n.flag("activation", false)? {
        let gate = c.unary(UnaryOp::Sigmoid, y)?;
        y = c.binary(BinaryOp::Mul, y, gate)?;
    }
    let mut results = vec![c.cast(y, elem)?];
    if skip {
        results.push(c.cast(sum, elem)?);
    }
    Ok(results)
}

/// A node of another domain as the one of `ai.onnx` that it equals in an operator set.
pub(super) fn as_of(
    c: &mut Ctx<'_>,
    n: &Call<'_>,
    opset: i64,
    lower: impl FnOnce(&mut Ctx<'_>, &Call<'_>) -> Results,
) -> Results {
    let mut call = n.with(n.operands().to_vec());
    call.opset = opset;
    lower(c, &call)
}

/// A dimension of size 1 at a place that is an operand.
pub(super) fn expand_dims(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    as_of(c, n, 13, movement::unsqueeze)
}

/// The distances of every row of one matrix to every row of another.
pub(super) fn distances(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (a, b) = (n.input(0)?, n.input(1)?);
    let (sa, sb) = (c.shape(a), c.shape(b));
    let ([rows, width], [columns, other]) = (&sa[..], &sb[..]) else {
        return Err(invalid(format!("distances of {sa} and {sb}")));
    };
    if width != other {
        return Err(invalid(format!("distances of {sa} and {sb}")));
    }
    let metric = n.string("metric", "sqeuclidean")?;
    if !matches!(metric, "sqeuclidean" | "euclidean") {
        return Err(unsupported(format!("the metric {metric}")));
    }
    let (a, b) = (c.reshape(a, vec![*rows, 1, *width])?, c.reshape(b, vec![1, *columns, *width])?);
    let apart = c.binary(BinaryOp::Sub, a, b)?;
    let square = c.binary(BinaryOp::Mul, apart, apart)?;
    let sum = c.reduce(ReduceOp::Sum, square, &[2], false)?;
    Ok(vec![if metric == "euclidean" { c.unary(UnaryOp::Sqrt, sum)? } else { sum }])
}

/// A bias, and the softmax of dimensions from `axis` on.
pub(super) fn bias_softmax(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let (elem, shape) = (c.elem(x), c.shape(x));
    let axis = axis(n.int("axis", 1)?, shape.rank())?;
    let (wide, bias) = (widened(c, x)?, widened(c, n.input(1)?)?);
    // A bias of as many dimensions broadcasts in one way only.
    if n.flag("is_inner_broadcast", false)? && c.rank(bias) < shape.rank() {
        let reason =
            format!("a bias {} that repeats inside {shape} (is_inner_broadcast is 1)", c.shape(bias));
        return Err(unsupported(reason));
    }
    let sum = c.binary(BinaryOp::Add, wide, bias)?;
    let flat = vec![shape[..axis].iter().product(), shape[axis..].iter().product()];
    let y = c.reshape(sum, flat)?;
    let y = c.emit(Op::Softmax { axis: 1, log: false }, &[y])?;
    let y = c.reshape(y, shape)?;
    Ok(vec![c.cast(y, elem)?])
}

/// A bias and an activation of two branches: FastGelu of a product.
pub(super) fn gemm_fast_gelu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let y = product(c, x, n.input(1)?)?;
    let mut wide = widened(c, y)?;
    if let Some(bias) = n.opt(2) {
        let bias = widened(c, bias)?;
        wide = c.binary(BinaryOp::Add, wide, bias)?;
    }
    let y = gelu_of(c, wide, true)?;
    Ok(vec![c.cast(y, c.elem(x))?])
}
