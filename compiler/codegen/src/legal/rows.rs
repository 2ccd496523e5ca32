//! Rows longer than local memory whose kernels walk them in order: each is taken in parts that fit.

use lacuna_ir::infer::TypeError;
use lacuna_ir::op::{BinaryOp, CompareOp, ReduceOp};
use lacuna_ir::{Constant, ConstantData, FunctionBuilder, Op, Shape, TensorType, Value};
use lacuna_isa::format::ScalarType;

/// Elements `start..start + size` along an axis.
fn slice(
    b: &mut FunctionBuilder<'_>,
    x: Value,
    axis: usize,
    start: u64,
    size: u64,
) -> Result<Value, TypeError> {
    let mut shape = b.ty(x).shape.clone();
    if size == shape[axis] {
        return Ok(x);
    }
    let mut starts = vec![0; shape.rank()];
    starts[axis] = start as i64;
    shape.0[axis] = size;
    let steps = vec![1; shape.rank()];
    b.emit(Op::Slice { starts, shape, steps }, &[x])
}

/// The elements along an axis from the last to the first.
fn reversed(b: &mut FunctionBuilder<'_>, x: Value, axis: usize) -> Result<Value, TypeError> {
    let shape = b.ty(x).shape.clone();
    let (mut starts, mut steps) = (vec![0; shape.rank()], vec![1; shape.rank()]);
    (starts[axis], steps[axis]) = (shape[axis] as i64 - 1, -1);
    b.emit(Op::Slice { starts, shape, steps }, &[x])
}

fn splat(b: &mut FunctionBuilder<'_>, elem: ScalarType, shape: Shape, v: f64) -> Result<Value, TypeError> {
    let ty = TensorType::new(elem, shape);
    b.constant(Constant::new(ty, ConstantData::Splat(elem.encode(v)), ""))
}

/// The position of the extreme of rows of any length: the extreme of each part, and then the one of these.
///
/// Both steps choose alike among equals and NaN, so the position is that of a single walk.
pub fn arg_reduce(
    b: &mut FunctionBuilder<'_>,
    (max, axis, last): (bool, u8, bool),
    x: Value,
    most: u64,
) -> Result<Value, TypeError> {
    let rank = b.ty(x).shape.rank();
    let inner = rank - 1;
    // Rows along the last dimension, so that gathers share all others.
    let mut perm: Vec<u8> = (0..rank as u8).filter(|&d| d != axis).collect();
    perm.push(axis);
    let x = if usize::from(axis) == inner { x } else { b.emit(Op::Permute { perm }, &[x])? };
    let shape = b.ty(x).shape.clone();
    let batch = inner as u8;
    let (mut positions, mut extremes) = (Vec::new(), Vec::new());
    let mut one = shape.clone();
    one.0[inner] = 1;
    for start in (0..shape[inner]).step_by(most.max(1) as usize) {
        let size = most.min(shape[inner] - start);
        let part = slice(b, x, inner, start, size)?;
        let at = b.emit(Op::ArgReduce { max, axis: batch, last }, &[part])?;
        let at = b.emit(Op::Reshape { shape: one.clone() }, &[at])?;
        extremes.push(b.emit(Op::Gather { axis: batch, batch }, &[part, at])?);
        let before = splat(b, ScalarType::I64, one.clone(), start as f64)?;
        positions.push(b.binary(BinaryOp::Add, at, before)?);
    }
    let extremes = b.emit(Op::Concat { axis: batch }, &extremes)?;
    let positions = b.emit(Op::Concat { axis: batch }, &positions)?;
    let best = b.emit(Op::ArgReduce { max, axis: batch, last }, &[extremes])?;
    let best = b.emit(Op::Reshape { shape: one }, &[best])?;
    let y = b.emit(Op::Gather { axis: batch, batch }, &[positions, best])?;
    let rows: Shape = shape[..inner].to_vec().into();
    b.emit(Op::Reshape { shape: rows }, &[y])
}

/// The first of rows of any length, in order: those of each part, and then the first of these.
///
/// Parts keep the order of equal elements, and so do their results one after the other. Where so many are wanted that parts leave no
/// fewer, elements are ranked.
pub fn sort(
    b: &mut FunctionBuilder<'_>,
    (k, descending): (u64, bool),
    x: Value,
    most: u64,
) -> Result<Value, TypeError> {
    let shape = b.ty(x).shape.clone();
    let inner = shape.rank() - 1;
    let (length, batch) = (shape[inner], inner as u8);
    let n = length.div_ceil(most.max(1));
    let kept = |size: u64| k.min(size);
    if n * kept(most) >= length {
        return ranked(b, (k, descending), x);
    }
    let (mut positions, mut values) = (Vec::new(), Vec::new());
    for start in (0..length).step_by(most.max(1) as usize) {
        let size = most.min(length - start);
        let part = slice(b, x, inner, start, size)?;
        let at = b.emit(Op::Sort { k: kept(size), descending }, &[part])?;
        values.push(b.emit(Op::Gather { axis: batch, batch }, &[part, at])?);
        let before = splat(b, ScalarType::I64, b.ty(at).shape.clone(), start as f64)?;
        positions.push(b.binary(BinaryOp::Add, at, before)?);
    }
    let values = b.emit(Op::Concat { axis: batch }, &values)?;
    let positions = b.emit(Op::Concat { axis: batch }, &positions)?;
    let at = b.emit(Op::Sort { k, descending }, &[values])?;
    b.emit(Op::Gather { axis: batch, batch }, &[positions, at])
}

/// The first of rows in order, where an element's place is the number of elements that stand before it.
fn ranked(b: &mut FunctionBuilder<'_>, (k, descending): (u64, bool), x: Value) -> Result<Value, TypeError> {
    let shape = b.ty(x).shape.clone();
    let inner = shape.rank();
    let batch: Vec<u8> = (0..inner as u8 - 1).collect();
    let (own, other, last) = (inner as u8 - 1, inner as u8, shape[inner - 1]);
    let spread = |b: &mut FunctionBuilder<'_>, x: Value, size: u64, at: u8| {
        let mut pairs = shape.clone();
        pairs.0[inner - 1] = size;
        pairs.0.push(last);
        let dims = batch.iter().copied().chain([at]).collect();
        b.emit(Op::Broadcast { dims, shape: pairs }, &[x])
    };
    let compare = |b: &mut FunctionBuilder<'_>, op, x, y| b.emit(Op::Compare { op }, &[x, y]);
    let (mine, others) = (spread(b, x, last, own)?, spread(b, x, last, other)?);
    let pairs = b.ty(mine).shape.clone();
    let iota = |b: &mut FunctionBuilder<'_>, shape: &Shape, axis| {
        b.emit(Op::Iota { elem: ScalarType::I64, shape: shape.clone(), axis }, &[])
    };
    let (i, j) = (iota(b, &pairs, own)?, iota(b, &pairs, other)?);
    let [first, second] = if descending { [mine, others] } else { [others, mine] };
    let ahead = compare(b, CompareOp::Lt, first, second)?;
    // Of equal ones the first; NaN is equal to none but NaN, and the greatest.
    let is_number = |b: &mut FunctionBuilder<'_>, x| compare(b, CompareOp::Eq, x, x);
    let numbers = [is_number(b, first)?, is_number(b, second)?];
    let none = splat(b, ScalarType::Bool, pairs.clone(), 0.0)?;
    let not = |b: &mut FunctionBuilder<'_>, x| compare(b, CompareOp::Eq, x, none);
    let nan = [not(b, numbers[0])?, not(b, numbers[1])?];
    let above = b.binary(BinaryOp::And, numbers[0], nan[1])?;
    let ahead = b.binary(BinaryOp::Or, ahead, above)?;
    let equal = compare(b, CompareOp::Eq, first, second)?;
    let both = b.binary(BinaryOp::And, nan[0], nan[1])?;
    let equal = b.binary(BinaryOp::Or, equal, both)?;
    let earlier = compare(b, CompareOp::Lt, j, i)?;
    let tie = b.binary(BinaryOp::And, equal, earlier)?;
    let ahead = b.binary(BinaryOp::Or, ahead, tie)?;
    let ahead = b.emit(Op::Cast { to: ScalarType::I64, saturate: true }, &[ahead])?;
    let rank = b.emit(Op::Reduce { op: ReduceOp::Sum, axes: vec![other] }, &[ahead])?;
    let rank = spread(b, rank, k, other)?;
    let wanted = b.ty(rank).shape.clone();
    let place = iota(b, &wanted, own)?;
    let here = compare(b, CompareOp::Eq, rank, place)?;
    let (number, zero) = (iota(b, &wanted, other)?, splat(b, ScalarType::I64, wanted.clone(), 0.0)?);
    let number = b.emit(Op::Select {}, &[here, number, zero])?;
    b.emit(Op::Reduce { op: ReduceOp::Max, axes: vec![other] }, &[number])
}

/// The running reduction of rows of any length: each part begins with the last total of the one before, so that every total is
/// rounded as in a single walk.
pub fn cumulate(
    b: &mut FunctionBuilder<'_>,
    (op, axis, exclusive, reverse): (ReduceOp, u8, bool, bool),
    x: Value,
    most: u64,
) -> Result<Value, TypeError> {
    let at = usize::from(axis);
    let x = if reverse { reversed(b, x, at)? } else { x };
    let ty = b.ty(x).clone();
    let length = ty.shape[at];
    let inclusive = Op::Cumulate { op, axis, exclusive: false, reverse: false };
    let (mut totals, mut carry): (Vec<Value>, Option<Value>) = (Vec::new(), None);
    let step = most.saturating_sub(1).max(1);
    for start in (0..length).step_by(step as usize) {
        let size = step.min(length - start);
        let part = slice(b, x, at, start, size)?;
        let sums = match carry {
            None => b.emit(inclusive.clone(), &[part])?,
            Some(carry) => {
                let part = b.emit(Op::Concat { axis }, &[carry, part])?;
                let sums = b.emit(inclusive.clone(), &[part])?;
                slice(b, sums, at, 1, size)?
            }
        };
        carry = Some(slice(b, sums, at, size - 1, 1)?);
        totals.push(sums);
    }
    let mut y = b.emit(Op::Concat { axis }, &totals)?;
    if exclusive {
        let elem = ty.elem.scalar().ok_or_else(|| TypeError("a running reduction of groups".into()))?;
        let mut one = ty.shape.clone();
        one.0[at] = 1;
        let first = splat(b, elem, one, if op == ReduceOp::Prod { 1.0 } else { 0.0 })?;
        let rest = slice(b, y, at, 0, length - 1)?;
        y = b.emit(Op::Concat { axis }, &[first, rest])?;
    }
    if reverse { reversed(b, y, at) } else { Ok(y) }
}
