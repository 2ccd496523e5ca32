//! Where the greatest elements of windows stand, and putting them back.

use lacuna_ir::op::BinaryOp;
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use super::pooling::{Pool, windows};
use super::scatter::replace_at;
use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Positions of the greatest element of each window, the first of equal ones, counted through the whole operand: row-major, or
/// with `storage_order` column-major within the spatial axes.
pub(super) fn max_indices(c: &mut Ctx<'_>, n: &Call<'_>, pool: &Pool) -> Result<Value, Fail> {
    let (shape, s) = (c.shape(pool.x), pool.kernel.len());
    let lowest = if c.elem(pool.x).is_float() { f64::NEG_INFINITY } else { f64::MIN };
    let windows = windows(c, pool, lowest)?;
    let mut flat = c.shape(windows).0;
    flat.truncate(s + 2);
    let positions: Shape = flat.clone().into();
    flat.push(pool.kernel.iter().product());
    let windows = c.reshape(windows, flat)?;
    let best = c.emit(Op::ArgReduce { max: true, axis: s as u8 + 2, last: false }, &[windows])?;
    // Distance of a step along each spatial axis in the result's numbering.
    let column_major = n.flag("storage_order", false)?;
    let step = |d: usize| -> u64 {
        let faster = if column_major { &shape[2..2 + d] } else { &shape[3 + d..] };
        faster.iter().product()
    };
    let plane: u64 = shape[2..].iter().product();
    let mut total = c.iota(ScalarType::I64, &positions, 0)?;
    total = c.binary_splat(BinaryOp::Mul, total, (shape[1] * plane) as f64)?;
    let channel = c.iota(ScalarType::I64, &positions, 1)?;
    let channel = c.binary_splat(BinaryOp::Mul, channel, plane as f64)?;
    total = c.binary(BinaryOp::Add, total, channel)?;
    for d in 0..s {
        let inner: u64 = pool.kernel[d + 1..].iter().product();
        let within = c.binary_splat(BinaryOp::Div, best, inner as f64)?;
        let within = c.binary_splat(BinaryOp::Rem, within, pool.kernel[d] as f64)?;
        let within = c.binary_splat(BinaryOp::Mul, within, pool.spatial.dilations[d] as f64)?;
        let start = c.iota(ScalarType::I64, &positions, d + 2)?;
        let start = c.binary_splat(BinaryOp::Mul, start, pool.spatial.strides[d] as f64)?;
        let start = c.binary_splat(BinaryOp::Sub, start, pool.spatial.low[d] as f64)?;
        let at = c.binary(BinaryOp::Add, start, within)?;
        let at = c.binary_splat(BinaryOp::Mul, at, step(d) as f64)?;
        total = c.binary(BinaryOp::Add, total, at)?;
    }
    Ok(total)
}

/// Zeros with the operand's elements at given positions, in the shape that a pool of the same attributes takes.
pub(super) fn max_unpool(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, index) = (n.input(0)?, n.input(1)?);
    let shape = c.shape(x);
    if shape.rank() < 3 || c.shape(index) != shape {
        return Err(invalid(format!("MaxUnpool of {} at {}", c.b.ty(x), c.b.ty(index))));
    }
    let s = shape.rank() - 2;
    let kernel = n.sizes("kernel_shape", s, 1)?;
    let strides = n.sizes("strides", s, 1)?;
    let pads = match n.ints("pads")? {
        None => vec![0; 2 * s],
        Some(pads) if pads.len() == 2 * s && pads.iter().all(|p| (0..1 << 31).contains(p)) => pads.to_vec(),
        Some(pads) => return Err(invalid(format!("pads are {pads:?}, not {} amounts", 2 * s))),
    };
    let mut pooled = shape[..2].to_vec();
    for d in 0..s {
        let extent = (shape[d + 2].saturating_sub(1) * strides[d] + kernel[d]) as i64;
        let extent = u64::try_from(extent - pads[d] - pads[d + s]);
        pooled.push(extent.map_err(|_| invalid(format!("pads {pads:?} crop all of axis {d}")))?);
    }
    let pooled = Shape(pooled);
    let count = shape.elements();
    let zeros = c.splat(c.elem(x), &vec![1, pooled.elements(), 1].into(), 0.0)?;
    let index = c.reshape(index, vec![1, count])?;
    let updates = c.reshape(x, vec![1, count, 1])?;
    let y = replace_at(c, zeros, index, updates)?;
    let mut y = c.reshape(y, pooled.clone())?;
    if let Some(wanted) = n.opt(2) {
        let wanted = c.const_ints(wanted, "the output_shape operand")?;
        let fits = wanted.len() == pooled.rank()
            && wanted.iter().zip(pooled.iter()).all(|(&w, &p)| (p as i64..1 << 40).contains(&w));
        if !fits {
            return Err(invalid(format!("output_shape is {wanted:?} for {pooled}")));
        }
        let high = wanted.iter().zip(pooled.iter()).map(|(&w, &p)| w as u64 - p).collect();
        let zero = c.splat(c.elem(x), &Shape::default(), 0.0)?;
        y = c.emit(Op::Pad { low: vec![0; pooled.rank()], high }, &[y, zero])?;
    }
    Ok(vec![y])
}
