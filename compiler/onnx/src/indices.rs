//! Indices that may be negative.

use lacuna_ir::Value;
use lacuna_ir::op::{BinaryOp, CompareOp};
use lacuna_isa::format::ScalarType;

use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

/// Indices with negative ones counted from the end of `extents` (the last dimension of the indices selects among
/// them when there are several). Known indices are checked against the bounds and stay as they are where they can.
pub(crate) fn non_negative(c: &mut Ctx<'_>, index: Value, extents: &[u64]) -> Result<Value, Fail> {
    let elem = c.elem(index);
    if !matches!(elem, ScalarType::I32 | ScalarType::I64) {
        return Err(invalid(format!("indices are {}", c.b.ty(index))));
    }
    let q = extents.len().max(1);
    if let Some(known) = c.known_ints(index) {
        let extent = |i: usize| extents[i % q] as i64;
        if let Some((i, &bad)) =
            known.iter().enumerate().find(|(i, v)| !(-extent(*i)..extent(*i)).contains(v))
        {
            return Err(invalid(format!("index {bad} is not in a dimension of {}", extent(i))));
        }
        if known.iter().all(|&v| v >= 0) {
            return Ok(index);
        }
        let fixed: Vec<i64> =
            known.iter().enumerate().map(|(i, &v)| if v < 0 { v + extent(i) } else { v }).collect();
        let shape = c.shape(index);
        return c.ints(shape, &fixed);
    }
    let shape = c.shape(index);
    let sizes = match extents {
        [one] => c.splat(elem, &shape, *one as f64)?,
        _ => {
            let sizes: Vec<i64> = extents.iter().map(|&e| e as i64).collect();
            let sizes = c.ints(vec![q as u64], &sizes)?;
            let sizes = c.cast(sizes, elem)?;
            c.broadcast_to(sizes, &shape)?
        }
    };
    let negative = c.compare_splat(CompareOp::Lt, index, 0.0)?;
    let raised = c.binary(BinaryOp::Add, index, sizes)?;
    c.select(negative, raised, index)
}
