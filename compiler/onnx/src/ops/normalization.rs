//! Softmax and the normalisations.

use lacuna_ir::op::{BinaryOp, CompareOp, Real, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use super::precision::wide;
use crate::call::{Call, axes, axis};
use crate::context::{Ctx, broadcast_shape, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

pub(super) fn softmax(c: &mut Ctx<'_>, n: &Call<'_>, log: bool) -> Results {
    let x = n.input(0)?;
    let rank = c.rank(x);
    if rank == 0 {
        n.pass_over(&["axis"]);
        return Ok(vec![c.splat_like(x, if log { 0.0 } else { 1.0 })?]);
    }
    if n.opset < 13 {
        // Up to opset 12 all dimensions from the axis on are normalised together.
        let shape = c.shape(x);
        let axis = axis(n.int("axis", 1)?, rank)?;
        let flat = vec![shape[..axis].iter().product(), shape[axis..].iter().product()];
        let y = c.reshape(x, flat)?;
        let y = c.emit(Op::Softmax { axis: 1, log }, &[y])?;
        return Ok(vec![c.reshape(y, shape)?]);
    }
    let axis = axis(n.int("axis", -1)?, rank)? as u8;
    Ok(vec![c.emit(Op::Softmax { axis, log }, &[x])?])
}

/// One where the greatest element (the first of equal ones) stands, zero elsewhere.
pub(super) fn hardmax(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let mut shape = c.shape(x);
    let original = shape.clone();
    let mut axis = axis(n.int("axis", if n.opset < 13 { 1 } else { -1 })?, shape.rank())?;
    let mut x = x;
    if n.opset < 13 {
        // Up to operator set 12 all dimensions from the axis on are one.
        let flat = vec![shape[..axis].iter().product(), shape[axis..].iter().product()];
        (x, shape, axis) = (c.reshape(x, flat.clone())?, flat.into(), 1);
    }
    let best = c.emit(Op::ArgReduce { max: true, axis: axis as u8, last: false }, &[x])?;
    let dims = (0..shape.rank()).filter(|&d| d != axis).map(|d| d as u8).collect();
    let best = c.emit(Op::Broadcast { dims, shape: shape.clone() }, &[best])?;
    let position = c.iota(ScalarType::I64, &shape, axis)?;
    let hit = c.compare(CompareOp::Eq, position, best)?;
    let hit = c.cast(hit, c.elem(x))?;
    Ok(vec![c.reshape(hit, original)?])
}

/// `x * inv + (bias - mean * inv)` with `inv = scale / sqrt(var + epsilon)`, all four of shape `[channels]`, or without
/// `spatial` (up to operator set 8) of the operand's shape without the batch.
///
/// In training mean and variance are those of the batch, and the running ones, which are results, move towards them.
pub(super) fn batch_norm(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let shape = c.shape(x);
    if shape.rank() < 2 {
        return Err(invalid(format!("BatchNormalization of {}", c.b.ty(x))));
    }
    let spatial = n.opset >= 9 || n.flag("spatial", true)?;
    let training = match n.opset {
        ..7 => !n.flag("is_test", false)?,
        7..14 => n.wants(1),
        _ => n.flag("training_mode", false)?,
    };
    if n.wants(3) || n.wants(4) {
        return Err(
            unsupported("the results saved_mean and saved_var").hint("export the model for inference")
        );
    }
    let kept: Vec<u8> = if spatial { vec![1] } else { (1..shape.rank() as u8).collect() };
    let elem = c.elem(x);
    let mut parameter = |i| n.input(i).and_then(|v| c.cast(v, elem));
    let (scale, bias, mean, var) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
    let mut results = Vec::new();
    let momentum = n.float("momentum", 0.9)?;
    let (mean, var) = match training {
        false => (mean, var),
        true => {
            let over: Vec<u8> = (0..shape.rank() as u8).filter(|d| !kept.contains(d)).collect();
            let (of_mean, of_var) = moments(c, x, &over, &kept)?;
            for (i, running, current) in [(3, mean, of_mean), (4, var, of_var)] {
                let old = c.binary_splat(BinaryOp::Mul, running, momentum)?;
                let new = c.binary_splat(BinaryOp::Mul, current, 1.0 - momentum)?;
                let next = c.binary(BinaryOp::Add, old, new)?;
                results.push(c.cast(next, c.elem(n.input(i)?))?);
            }
            (of_mean, of_var)
        }
    };
    let var = c.binary_splat(BinaryOp::Add, var, n.float("epsilon", 1e-5)?)?;
    let deviation = c.unary(UnaryOp::Sqrt, var)?;
    let inv = c.binary(BinaryOp::Div, scale, deviation)?;
    let offset = c.binary(BinaryOp::Mul, mean, inv)?;
    let offset = c.binary(BinaryOp::Sub, bias, offset)?;
    let mut broadcast = |v| c.emit(Op::Broadcast { dims: kept.clone(), shape: shape.clone() }, &[v]);
    let (inv, offset) = (broadcast(inv)?, broadcast(offset)?);
    let y = c.binary(BinaryOp::Mul, x, inv)?;
    results.insert(0, c.binary(BinaryOp::Add, y, offset)?);
    Ok(results)
}

/// Mean and variance (over the number of elements) of `x` over the dimensions `over`; those in `kept` stay.
fn moments(c: &mut Ctx<'_>, x: Value, over: &[u8], kept: &[u8]) -> Result<(Value, Value), Fail> {
    let shape = c.shape(x);
    let mean = c.reduce(ReduceOp::Mean, x, over, false)?;
    let spread = c.emit(Op::Broadcast { dims: kept.to_vec(), shape }, &[mean])?;
    let distance = c.binary(BinaryOp::Sub, x, spread)?;
    let square = c.binary(BinaryOp::Mul, distance, distance)?;
    let var = c.reduce(ReduceOp::Mean, square, over, false)?;
    Ok((mean, var))
}

/// LayerNormalization, and with `centre` false RMSNormalization, which has no mean among its results.
///
/// A scale and a bias of the operand's type that repeat over nothing but the normalised dimensions are operands of the
/// norm, which rounds once; others apply to a norm in f32.
pub(super) fn layer_norm(c: &mut Ctx<'_>, n: &Call<'_>, centre: bool) -> Results {
    let x = n.input(0)?;
    let (elem, shape) = (c.elem(x), c.shape(x));
    let first = axis(n.int("axis", -1)?, shape.rank())?;
    let over: Vec<u8> = (first as u8..shape.rank() as u8).collect();
    let eps = n.float("epsilon", 1e-5)?;
    let inner: Shape = shape[first..].to_vec().into();
    if n.opt(2).is_some() && n.opt(1).is_none() {
        return Err(invalid("the scale is missing"));
    }
    let parameters: Vec<Value> = (1..3).filter_map(|i| n.opt(i)).collect();
    let repeats = |own: &Shape| broadcast_shape(&[own.clone(), inner.clone()]).is_ok_and(|s| s == inner);
    let norm = Op::Norm { axes: over.clone(), centre, eps: Real(eps) };
    let mut y;
    if parameters.iter().all(|&p| c.elem(p) == elem && repeats(&c.shape(p))) {
        let mut operands = vec![x];
        for &p in &parameters {
            operands.push(c.broadcast_to(p, &inner)?);
        }
        y = c.emit(norm, &operands)?;
    } else {
        let x = c.cast(x, wide(elem))?;
        y = c.emit(norm, &[x])?;
        for (&p, op) in parameters.iter().zip([BinaryOp::Mul, BinaryOp::Add]) {
            let p = c.cast(p, wide(elem))?;
            let p = c.broadcast_to(p, &shape)?;
            y = c.binary(op, y, p)?;
        }
        y = c.cast(y, elem)?;
    }
    let mut results = vec![y];
    let stash = n.data_type("stash_type")?.unwrap_or(ScalarType::F32);
    if n.wants(1) || n.wants(2) {
        let x = c.cast(x, wide(elem))?;
        let mut distance = x;
        if centre {
            let mean = c.reduce(ReduceOp::Mean, x, &over, true)?;
            distance = c.binary(BinaryOp::Sub, x, mean)?;
            results.push(c.cast(mean, stash)?);
        }
        let square = c.binary(BinaryOp::Mul, distance, distance)?;
        let var = c.reduce(ReduceOp::Mean, square, &over, true)?;
        let var = c.binary_splat(BinaryOp::Add, var, eps)?;
        let deviation = c.unary(UnaryOp::Sqrt, var)?;
        let inverse = c.unary(UnaryOp::Recip, deviation)?;
        results.push(c.cast(inverse, stash)?);
    }
    Ok(results)
}

/// Scale and bias per channel (dimension 1).
fn channel_affine(c: &mut Ctx<'_>, y: Value, scale: Value, bias: Value) -> Result<Value, Fail> {
    let shape = c.shape(y);
    let scale = c.broadcast_along(scale, 1, &shape)?;
    let bias = c.broadcast_along(bias, 1, &shape)?;
    let y = c.binary(BinaryOp::Mul, y, scale)?;
    c.binary(BinaryOp::Add, y, bias)
}

pub(super) fn instance_norm(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    if c.rank(x) < 3 {
        return Err(invalid(format!("InstanceNormalization of {}", c.b.ty(x))));
    }
    let over = (2..c.rank(x) as u8).collect();
    let eps = Real(n.float("epsilon", 1e-5)?);
    let y = c.emit(Op::Norm { axes: over, centre: true, eps }, &[x])?;
    Ok(vec![channel_affine(c, y, n.input(1)?, n.input(2)?)?])
}

/// Groups of channels normalised together. Scale and bias are per group up to opset 20, per channel from 21 on.
pub(super) fn group_norm(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let shape = c.shape(x);
    let groups = u64::try_from(n.int("num_groups", 0)?).unwrap_or(0);
    if shape.rank() < 2 || groups == 0 || !shape[1].is_multiple_of(groups) {
        return Err(invalid(format!("GroupNormalization of {} in {groups} groups", c.b.ty(x))));
    }
    // Statistics are computed in f32, or in f64 for such operands: at least as precise as any type that is asked for.
    n.pass_over(&["stash_type"]);
    let eps = Real(n.float("epsilon", 1e-5)?);
    let mut split = vec![shape[0], groups, shape[1] / groups];
    split.extend(&shape[2..]);
    let y = c.reshape(x, split.clone())?;
    let y = c.emit(Op::Norm { axes: (2..split.len() as u8).collect(), centre: true, eps }, &[y])?;
    let (scale, bias) = (n.input(1)?, n.input(2)?);
    if n.opset < 21 && c.shape(scale)[..] == [groups] {
        let y = channel_affine(c, y, scale, bias)?;
        return Ok(vec![c.reshape(y, shape)?]);
    }
    let y = c.reshape(y, shape)?;
    Ok(vec![channel_affine(c, y, scale, bias)?])
}

/// `x / norm` along an axis; where the norm is zero the result is zero.
pub(super) fn lp_normalization(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let axis = axis(n.int("axis", -1)?, c.rank(x))? as u8;
    let norm = match n.int("p", 2)? {
        1 => {
            let magnitude = c.unary(UnaryOp::Abs, x)?;
            c.reduce(ReduceOp::Sum, magnitude, &[axis], true)?
        }
        2 => {
            let square = c.binary(BinaryOp::Mul, x, x)?;
            let sum = c.reduce(ReduceOp::Sum, square, &[axis], true)?;
            c.unary(UnaryOp::Sqrt, sum)?
        }
        p => return Err(unsupported(format!("p is {p}"))),
    };
    let zero = c.compare_splat(CompareOp::Eq, norm, 0.0)?;
    let one = c.splat_like(norm, 1.0)?;
    let divisor = c.select(zero, one, norm)?;
    Ok(vec![c.binary(BinaryOp::Div, x, divisor)?])
}

/// `(x - mean) / (sqrt(mean(x^2) - mean^2) + 1e-9)`, the variance computed from distances.
pub(super) fn mean_variance(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let over = axes(n.ints("axes")?.unwrap_or(&[0, 2, 3]), c.rank(x))?;
    let mean = c.reduce(ReduceOp::Mean, x, &over, true)?;
    let distance = c.binary(BinaryOp::Sub, x, mean)?;
    let square = c.binary(BinaryOp::Mul, distance, distance)?;
    let var = c.reduce(ReduceOp::Mean, square, &over, true)?;
    let deviation = c.unary(UnaryOp::Sqrt, var)?;
    let divisor = c.binary_splat(BinaryOp::Add, deviation, 1e-9)?;
    Ok(vec![c.binary(BinaryOp::Div, distance, divisor)?])
}
