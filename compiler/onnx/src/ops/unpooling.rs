//! Where the greatest elements of windows stand, and putting them back.

use lacuna_ir::{Op, Shape, Value};

use super::scatter::replace_at;
use crate::call::Call;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

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
