//! Gather in all its forms, with non-negative indices, and what selects by position.

use lacuna_ir::op::{BinaryOp, CompareOp, ReduceOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use super::n_bits::gather_of_codes;
use crate::call::{Call, axis};
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;
pub(super) use crate::indices::non_negative;

type Results = Result<Vec<Value>, Fail>;

pub(super) fn gather(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, index) = (n.input(0)?, n.input(1)?);
    let shape = c.shape(x);
    let axis = axis(n.int("axis", 0)?, shape.rank())?;
    let index = non_negative(c, index, &[shape[axis]])?;
    if let Some(y) = gather_of_codes(c, x, index, axis)? {
        return Ok(vec![y]);
    }
    if let Some(y) = slice_at(c, x, index, axis)? {
        return Ok(vec![y]);
    }
    Ok(vec![c.emit(Op::Gather { axis: axis as u8, batch: 0 }, &[x, index])?])
}

/// Elements at constant indices that ascend by equal steps: a slice.
fn slice_at(c: &mut Ctx<'_>, x: Value, index: Value, axis: usize) -> Result<Option<Value>, Fail> {
    let Some(known) = c.known_ints(index) else { return Ok(None) };
    let shape = c.shape(x);
    let (Some(&first), Some(&last)) = (known.first(), known.last()) else { return Ok(None) };
    let step = known.get(1).map_or(1, |second| second - first);
    let even = known.windows(2).all(|pair| pair[1] - pair[0] == step);
    if !even || step < 1 || first < 0 || last >= shape[axis] as i64 {
        return Ok(None);
    }
    let (mut starts, mut steps, mut taken) = (vec![0; shape.rank()], vec![1; shape.rank()], shape.clone());
    (starts[axis], steps[axis], taken.0[axis]) = (first, step, known.len() as u64);
    let y = if taken == shape { x } else { c.emit(Op::Slice { starts, shape: taken, steps }, &[x])? };
    let mut to = shape.0[..axis].to_vec();
    to.extend(c.shape(index).iter());
    to.extend(&shape.0[axis + 1..]);
    Ok(Some(c.reshape(y, to)?))
}

/// The axis moves last; a gather that shares all other dimensions is left.
pub(super) fn gather_elements(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (mut x, index) = (n.input(0)?, n.input(1)?);
    let (shape, wanted) = (c.shape(x), c.shape(index));
    let rank = shape.rank();
    let axis = axis(n.int("axis", 0)?, rank)?;
    if wanted.rank() != rank || (0..rank).any(|d| d != axis && wanted[d] > shape[d]) {
        return Err(invalid(format!("elements of {shape} by indices {wanted}")));
    }
    let index = non_negative(c, index, &[shape[axis]])?;
    for d in (0..rank).filter(|&d| d != axis) {
        x = c.slice_axis(x, d, 0, wanted[d])?;
    }
    let mut perm: Vec<u8> = (0..rank as u8).filter(|&d| d as usize != axis).collect();
    perm.push(axis as u8);
    let mut back: Vec<u8> = (0..rank as u8 - 1).collect();
    back.insert(axis, rank as u8 - 1);
    let (x, index) = (c.permute(x, perm.clone())?, c.permute(index, perm)?);
    let last = rank as u8 - 1;
    let y = c.emit(Op::Gather { axis: last, batch: last }, &[x, index])?;
    Ok(vec![c.permute(y, back)?])
}

/// Index tuples (the last dimension) as positions in the joined dimensions `extents`.
pub(super) fn linear(c: &mut Ctx<'_>, index: Value, extents: &Shape) -> Result<Value, Fail> {
    let index = non_negative(c, index, extents)?;
    let rank = c.rank(index);
    if extents.rank() == 1 {
        let mut shape = c.shape(index);
        shape.0.pop();
        return c.reshape(index, shape);
    }
    let strides: Vec<i64> = extents.strides().iter().map(|&s| s as i64).collect();
    let strides = c.ints(vec![strides.len() as u64], &strides)?;
    let strides = c.cast(strides, c.elem(index))?;
    let shape = c.shape(index);
    let strides = c.broadcast_to(strides, &shape)?;
    let last = [rank as u8 - 1];
    let terms = c.binary(BinaryOp::Mul, index, strides)?;
    let position = c.reduce(ReduceOp::Sum, terms, &last, false)?;
    if c.known_ints(index).is_some() {
        return Ok(position);
    }
    // A tuple with a number out of range must not name another element: its position is out of range too.
    let sizes: Vec<i64> = extents.iter().map(|&e| e as i64).collect();
    let sizes = c.ints(vec![sizes.len() as u64], &sizes)?;
    let sizes = c.cast(sizes, c.elem(index))?;
    let negative = c.compare_splat(CompareOp::Lt, index, 0.0)?;
    let beyond = c.compare(CompareOp::Le, sizes, index)?;
    let outside = c.binary(BinaryOp::Or, negative, beyond)?;
    let outside = c.reduce(ReduceOp::Max, outside, &last, false)?;
    let none = c.splat_like(position, -1.0)?;
    c.select(outside, none, position)
}

pub(super) fn gather_nd(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, index) = (n.input(0)?, n.input(1)?);
    let (shape, tuples) = (c.shape(x), c.shape(index));
    let batch = usize::try_from(n.int("batch_dims", 0)?).unwrap_or(usize::MAX);
    let wrong = || invalid(format!("GatherND of {shape} by {tuples} with {batch} batch dimensions"));
    if tuples.rank() == 0 || batch >= tuples.rank() || batch >= shape.rank() {
        return Err(wrong());
    }
    let q = tuples[tuples.rank() - 1] as usize;
    if q == 0 || q > shape.rank() - batch {
        return Err(wrong());
    }
    let extents: Shape = shape[batch..batch + q].to_vec().into();
    let position = linear(c, index, &extents)?;
    let mut joined = shape[..batch].to_vec();
    joined.push(extents.elements());
    joined.extend(&shape[batch + q..]);
    let x = c.reshape(x, joined)?;
    Ok(vec![c.emit(Op::Gather { axis: batch as u8, batch: batch as u8 }, &[x, position])?])
}

/// `on` where the position along the new axis equals the index, `off` elsewhere; indices out of range give no `on`.
pub(super) fn one_hot(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (index, values) = (n.input(0)?, n.input(2)?);
    let depth = c.const_scalar(n.input(1)?, "the depth operand")?;
    let rank = c.rank(index);
    let axis = axis(n.int("axis", -1)?, rank + 1)?;
    if !(0.0..=crate::limits::MAX_ELEMENTS as f64).contains(&depth) || c.shape(values)[..] != [2] {
        return Err(invalid(format!("OneHot of depth {depth} with values {}", c.b.ty(values))));
    }
    let mut shape = c.shape(index);
    shape.0.insert(axis, depth as u64);
    let index = c.cast(index, ScalarType::I64)?;
    let negative = c.compare_splat(CompareOp::Lt, index, 0.0)?;
    let raised = c.binary_splat(BinaryOp::Add, index, depth)?;
    let index = c.select(negative, raised, index)?;
    let dims = (0..=rank).filter(|&d| d != axis).map(|d| d as u8).collect();
    let index = c.emit(Op::Broadcast { dims, shape: shape.clone() }, &[index])?;
    let position = c.iota(ScalarType::I64, &shape, axis)?;
    let hit = c.compare(CompareOp::Eq, position, index)?;
    let mut value = |i| {
        let v = c.slice_axis(values, 0, i, 1)?;
        c.reshape(v, vec![])
    };
    let (off, on) = (value(0)?, value(1)?);
    Ok(vec![c.select(hit, on, off)?])
}
