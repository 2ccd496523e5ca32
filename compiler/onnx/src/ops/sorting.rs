//! The greatest or least elements along an axis, in order.

use lacuna_ir::op::{BinaryOp, CompareOp, ReduceOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use crate::call::{Call, axis};
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Rows that are ranked by comparisons, which fuse with what stands around them.
const FEW: u64 = 64;

/// Elements of a row that local memory of any target holds with their keys; longer ones are sorted in parts, whose results must be few.
const MAX_SORTED: u64 = 1 << 13;

/// Up to this many comparisons every element is ranked against every other.
const MAX_COMPARISONS: u64 = 1 << 24;

/// The most elements that are found one after the other.
const MAX_STEPS: u64 = 128;

/// The `k` greatest (or least) elements and their indices, in order; of equal ones the first comes first.
pub(super) fn top_k(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let shape = c.shape(x);
    let rank = shape.rank();
    let axis = axis(n.int("axis", -1)?, rank)?;
    let k = match n.opset {
        ..10 => n.int("k", 0)?,
        _ => match c.const_ints(n.input(1)?, "the K operand")?[..] {
            [k] => k,
            _ => return Err(invalid("the K operand is not one number")),
        },
    };
    // The order of results that need no order is free.
    n.pass_over(&["sorted"]);
    let extent = shape[axis];
    let known = u64::try_from(k).ok().filter(|&k| k <= extent);
    let k = known.ok_or_else(|| invalid(format!("K is {k}, axis {axis} has {extent} elements")))?;
    let greatest = n.flag("largest", true)?;
    // Lines along the axis, as rows.
    let mut perm: Vec<u8> = (0..rank as u8).filter(|&d| usize::from(d) != axis).collect();
    perm.push(axis as u8);
    let mut back: Vec<u8> = (0..rank as u8 - 1).collect();
    back.insert(axis, rank as u8 - 1);
    let rows: u64 = (0..rank).filter(|&d| d != axis).map(|d| shape[d]).product();
    let lines = c.permute(x, perm.clone())?;
    let lines = c.reshape(lines, vec![rows, extent])?;
    let index = first_of_lines(c, lines, k, greatest)?;
    let values = c.emit(Op::Gather { axis: 1, batch: 1 }, &[lines, index])?;
    let mut moved: Vec<u64> = perm.iter().map(|&d| shape[usize::from(d)]).collect();
    moved[rank - 1] = k;
    let mut restored = |v| {
        let v = c.reshape(v, moved.clone())?;
        c.permute(v, back.clone())
    };
    Ok(vec![restored(values)?, restored(index)?])
}

/// The indices `[rows, k]` of the greatest elements of each row of `x`, `[rows, extent]`.
pub(super) fn greatest(c: &mut Ctx<'_>, x: Value, k: u64) -> Result<Value, Fail> {
    first_of_lines(c, x, k, true)
}

fn first_of_lines(c: &mut Ctx<'_>, lines: Value, k: u64, greatest: bool) -> Result<Value, Fail> {
    let (rows, extent) = (c.shape(lines)[0], c.shape(lines)[1]);
    let all_pairs = rows.saturating_mul(extent).saturating_mul(extent);
    let has_keys = c.elem(lines).bits() <= 32;
    if k == 0 || rows == 0 {
        c.splat(ScalarType::I64, &vec![rows, k].into(), 0.0)
    } else if has_keys && extent > FEW && (extent <= MAX_SORTED || k <= MAX_SORTED / 8) {
        c.emit(Op::Sort { k, descending: greatest }, &[lines])
    } else if all_pairs <= MAX_COMPARISONS || extent <= FEW {
        by_rank(c, lines, k, greatest)
    } else if k <= MAX_STEPS {
        one_by_one(c, lines, k, greatest)
    } else {
        Err(unsupported(format!("the first {k} of {extent} elements")))
    }
}

/// Whether `a` stands before `b` by value.
fn before(c: &mut Ctx<'_>, a: Value, b: Value, greatest: bool) -> Result<Value, Fail> {
    if greatest { c.compare(CompareOp::Lt, b, a) } else { c.compare(CompareOp::Lt, a, b) }
}

/// Indices `[rows, k]`: an element's rank is the number of elements of its row that stand before it.
fn by_rank(c: &mut Ctx<'_>, x: Value, k: u64, greatest: bool) -> Result<Value, Fail> {
    let (rows, extent) = (c.shape(x)[0], c.shape(x)[1]);
    let pairs: Shape = vec![rows, extent, extent].into();
    let own = c.emit(Op::Broadcast { dims: vec![0, 1], shape: pairs.clone() }, &[x])?;
    let other = c.emit(Op::Broadcast { dims: vec![0, 2], shape: pairs.clone() }, &[x])?;
    let earlier = {
        let (i, j) = (c.iota(ScalarType::I32, &pairs, 1)?, c.iota(ScalarType::I32, &pairs, 2)?);
        c.compare(CompareOp::Lt, j, i)?
    };
    let ahead = before(c, other, own, greatest)?;
    let equal = c.compare(CompareOp::Eq, other, own)?;
    let tie = c.binary(BinaryOp::And, equal, earlier)?;
    let ahead = c.binary(BinaryOp::Or, ahead, tie)?;
    let ahead = c.cast(ahead, ScalarType::I32)?;
    let rank = c.reduce(ReduceOp::Sum, ahead, &[2], false)?;
    // The index whose rank is r, for each r below k.
    let wanted: Shape = vec![rows, k, extent].into();
    let rank = c.emit(Op::Broadcast { dims: vec![0, 2], shape: wanted.clone() }, &[rank])?;
    let place = c.iota(ScalarType::I32, &wanted, 1)?;
    let here = c.compare(CompareOp::Eq, rank, place)?;
    let number = c.iota(ScalarType::I64, &wanted, 2)?;
    let none = c.splat_like(number, 0.0)?;
    let number = c.select(here, number, none)?;
    c.reduce(ReduceOp::Max, number, &[2], false)
}

/// Indices `[rows, k]`: each step finds the extreme of what stands behind the element of the step before.
fn one_by_one(c: &mut Ctx<'_>, x: Value, k: u64, greatest: bool) -> Result<Value, Fail> {
    let (shape, elem) = (c.shape(x), c.elem(x));
    let (rows, extent) = (shape[0], shape[1]);
    let lowest = match (elem.is_float(), greatest) {
        (true, true) => f64::NEG_INFINITY,
        (true, false) => f64::INFINITY,
        (false, true) => f64::MIN,
        (false, false) => f64::MAX,
    };
    let op = if greatest { ReduceOp::Max } else { ReduceOp::Min };
    let lowest = c.splat_like(x, lowest)?;
    let number = c.iota(ScalarType::I64, &shape, 1)?;
    let beyond = c.splat_like(number, extent as f64)?;
    let mut left: Option<Value> = None;
    let mut found = Vec::new();
    for _ in 0..k {
        let candidates = match left {
            Some(left) => c.select(left, x, lowest)?,
            None => x,
        };
        let best = c.reduce(op, candidates, &[1], true)?;
        let mut hit = c.compare(CompareOp::Eq, x, best)?;
        if let Some(left) = left {
            hit = c.binary(BinaryOp::And, hit, left)?;
        }
        let at = c.select(hit, number, beyond)?;
        let first = c.reduce(ReduceOp::Min, at, &[1], true)?;
        // Where nothing is equal to the extreme, which NaN is not, the last element stands in.
        let first = c.binary_splat(BinaryOp::Min, first, extent as f64 - 1.0)?;
        found.push(first);
        let behind = before(c, best, x, greatest)?;
        let later = c.compare(CompareOp::Lt, first, number)?;
        let equal = c.compare(CompareOp::Eq, x, best)?;
        let tied = c.binary(BinaryOp::And, equal, later)?;
        left = Some(c.binary(BinaryOp::Or, behind, tied)?);
    }
    let index = c.concat(&found, 1)?;
    c.reshape(index, vec![rows, k])
}
