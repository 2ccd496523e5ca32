//! Scatter in all its forms. Known indices become a gather; a few indices of run time are compared with every position, many are
//! stored one after the other.

use lacuna_ir::op::{BinaryOp, CompareOp, ReduceOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;
use lacuna_isa::inst::Combine;

use super::indexing::{linear, non_negative};
use super::loss::widened;
use super::movement::take;
use crate::call::{Call, axis};
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Up to this many comparisons of positions with indices of run time take less than kernels of their own, and fuse with what stands
/// around them.
const FEW_COMPARISONS: u64 = 1 << 20;

/// Up to this many comparisons of a lane take less than a round of indexed stores, which waits for memory in each lane.
const SHORT_LANE: u64 = 1 << 14;

/// The most comparisons of positions with indices of run time.
const MAX_COMPARISONS: u64 = 1 << 28;

/// The most passes that known indices are split into where some are equal.
const MAX_PASSES: usize = 64;

/// The most rows of all passes together.
const MAX_PASS_ROWS: usize = 1 << 26;

/// More rows than this are not replaced at import.
const MAX_ROWS: u64 = 1 << 24;

/// What becomes of an element and the updates that meet it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduction {
    /// The last update replaces it.
    Replace,
    /// A function of it and every update.
    Fold(BinaryOp, ReduceOp),
}

impl Reduction {
    fn of(n: &Call<'_>) -> Result<Reduction, Fail> {
        Ok(match n.string("reduction", "none")? {
            "none" => Reduction::Replace,
            "add" => Reduction::Fold(BinaryOp::Add, ReduceOp::Sum),
            "mul" => Reduction::Fold(BinaryOp::Mul, ReduceOp::Prod),
            "max" => Reduction::Fold(BinaryOp::Max, ReduceOp::Max),
            "min" => Reduction::Fold(BinaryOp::Min, ReduceOp::Min),
            other => return Err(invalid(format!("reduction is {other:?}"))),
        })
    }
}

/// The element that a reduction leaves others as they are with.
fn neutral(elem: ScalarType, op: ReduceOp) -> f64 {
    match op {
        ReduceOp::Sum | ReduceOp::Mean => 0.0,
        ReduceOp::Prod => 1.0,
        ReduceOp::Max if elem.is_float() => f64::NEG_INFINITY,
        ReduceOp::Min if elem.is_float() => f64::INFINITY,
        // Encoding saturates.
        ReduceOp::Max => f64::MIN,
        ReduceOp::Min => f64::MAX,
    }
}

/// `data` `[lanes, rows, width]` with the rows at `positions` `[lanes, count]` changed by `updates` `[lanes, count, width]`.
fn scatter(
    c: &mut Ctx<'_>,
    data: Value,
    positions: Value,
    updates: Value,
    reduction: Reduction,
) -> Result<Value, Fail> {
    let (shape, count) = (c.shape(data), c.shape(positions)[1]);
    let [lanes, rows, width] = shape[..] else { return Err(invalid(format!("a scatter into {shape}"))) };
    if count == 0 || shape.elements() == 0 {
        return Ok(data);
    }
    let known = c.known_ints(positions).filter(|_| lanes.saturating_mul(rows) <= MAX_ROWS);
    if let Some(out) = known.iter().flatten().find(|&&p| !(0..rows as i64).contains(&p)) {
        return Err(invalid(format!("index {out} of {rows} rows")));
    }
    if let Some(known) = known
        && let Some(passes) = passes(&known, &shape, count, reduction)
    {
        return scatter_known(c, data, updates, &passes, reduction);
    }
    let compared = lanes.saturating_mul(rows).saturating_mul(count);
    let touched = match reduction {
        Reduction::Replace => compared,
        Reduction::Fold(..) => compared.saturating_mul(width),
    };
    let is_long = touched > FEW_COMPARISONS && touched / lanes > SHORT_LANE;
    if count > 1 && (is_long || touched > MAX_COMPARISONS) {
        return stored(c, data, positions, updates, reduction);
    }
    // hit[lane, row, update]
    let pairs: Shape = vec![lanes, rows, count].into();
    let positions = c.cast(positions, ScalarType::I32)?;
    let at = c.emit(Op::Broadcast { dims: vec![0, 2], shape: pairs.clone() }, &[positions])?;
    let row = c.iota(ScalarType::I32, &pairs, 1)?;
    let hit = c.compare(CompareOp::Eq, at, row)?;
    match reduction {
        Reduction::Replace if count == 1 => {
            let hit = c.reshape(hit, vec![lanes, rows])?;
            let hit = c.emit(Op::Broadcast { dims: vec![0, 1], shape: shape.clone() }, &[hit])?;
            let row = c.reshape(updates, vec![lanes, width])?;
            let row = c.emit(Op::Broadcast { dims: vec![0, 2], shape }, &[row])?;
            c.select(hit, row, data)
        }
        Reduction::Replace => {
            let number = c.iota(ScalarType::I32, &pairs, 2)?;
            let none = c.splat_like(number, -1.0)?;
            let number = c.select(hit, number, none)?;
            let last = c.reduce(ReduceOp::Max, number, &[2], false)?;
            let touched = c.compare_splat(CompareOp::Le, last, -1.0)?;
            let last = c.binary_splat(BinaryOp::Max, last, 0.0)?;
            let fresh = c.emit(Op::Gather { axis: 1, batch: 1 }, &[updates, last])?;
            let kept = c.emit(Op::Broadcast { dims: vec![0, 1], shape }, &[touched])?;
            c.select(kept, data, fresh)
        }
        Reduction::Fold(op, reduce) => {
            let all: Shape = vec![lanes, rows, count, width].into();
            let hit = c.emit(Op::Broadcast { dims: vec![0, 1, 2], shape: all.clone() }, &[hit])?;
            let updates = c.emit(Op::Broadcast { dims: vec![0, 2, 3], shape: all.clone() }, &[updates])?;
            let elem = c.elem(data);
            let rest = c.splat(elem, &all, neutral(elem, reduce))?;
            let part = c.select(hit, updates, rest)?;
            let change = c.reduce(reduce, part, &[2], false)?;
            c.binary(op, data, change)
        }
    }
}

/// The same by indexed stores, one update after the other.
fn stored(
    c: &mut Ctx<'_>,
    data: Value,
    positions: Value,
    updates: Value,
    reduction: Reduction,
) -> Result<Value, Fail> {
    let combine = match reduction {
        Reduction::Replace => Combine::Replace,
        Reduction::Fold(BinaryOp::Mul, _) => Combine::Mul,
        Reduction::Fold(BinaryOp::Max, _) => Combine::Max,
        Reduction::Fold(BinaryOp::Min, _) => Combine::Min,
        Reduction::Fold(..) => Combine::Add,
    };
    let elem = c.elem(data);
    // Narrower elements share bytes.
    let whole = match elem {
        elem if elem.bits() >= 8 => elem,
        elem if elem.is_float() => ScalarType::F32,
        _ => ScalarType::I8,
    };
    let (data, updates) = (c.cast(data, whole)?, c.cast(updates, whole)?);
    let y = c.emit(Op::Scatter { combine }, &[data, positions, updates])?;
    c.cast(y, elem)
}

/// `data` with the rows at `positions` replaced by `updates`; shapes as in [`scatter`].
pub(super) fn replace_at(
    c: &mut Ctx<'_>,
    data: Value,
    positions: Value,
    updates: Value,
) -> Result<Value, Fail> {
    scatter(c, data, positions, updates, Reduction::Replace)
}

/// `data` with the row at one position of run time along a dimension replaced, if there is such a row. Shapes stay as they are, so that
/// a row of a cache is told from the others wherever it lies.
fn replace_row(
    c: &mut Ctx<'_>,
    data: Value,
    position: Value,
    row: Value,
    axis: usize,
) -> Result<Value, Fail> {
    let shape = c.shape(data);
    if shape.elements() == 0 {
        return Ok(data);
    }
    let rows: Shape = vec![shape[axis]].into();
    let position = c.reshape(position, vec![1])?;
    // A narrower type would wrap a position far out of range to that of another row.
    let position = c.cast(position, ScalarType::I64)?;
    let at = c.emit(Op::Broadcast { dims: vec![0], shape: rows.clone() }, &[position])?;
    let number = c.iota(ScalarType::I64, &rows, 0)?;
    let hit = c.compare(CompareOp::Eq, at, number)?;
    let hit = c.emit(Op::Broadcast { dims: vec![axis as u8], shape: shape.clone() }, &[hit])?;
    let others: Vec<u8> = (0..shape.rank() as u8).filter(|&d| usize::from(d) != axis).collect();
    let rest: Vec<u64> = others.iter().map(|&d| shape[usize::from(d)]).collect();
    let row = c.reshape(row, rest)?;
    let row = c.emit(Op::Broadcast { dims: others, shape }, &[row])?;
    c.select(hit, row, data)
}

/// Numbers of the updates (1 for the first, 0 for none) that change each row, such that no row is changed twice in a pass.
fn passes(known: &[i64], shape: &Shape, count: u64, reduction: Reduction) -> Option<Vec<Vec<i64>>> {
    let (lanes, rows) = (shape[0] as usize, shape[1] as usize);
    let mut passes: Vec<Vec<i64>> = vec![vec![0; lanes * rows]];
    for (i, &p) in known.iter().enumerate() {
        let row = i / count as usize * rows + p as usize;
        let free = match reduction {
            Reduction::Replace => Some(0),
            Reduction::Fold(..) => passes.iter().position(|pass| pass[row] == 0),
        };
        let pass = match free {
            Some(pass) => pass,
            None if passes.len() == MAX_PASSES || (passes.len() + 1) * lanes * rows > MAX_PASS_ROWS => {
                return None;
            }
            None => {
                passes.push(vec![0; lanes * rows]);
                passes.len() - 1
            }
        };
        passes[pass][row] = i as i64 + 1;
    }
    Some(passes)
}

fn scatter_known(
    c: &mut Ctx<'_>,
    data: Value,
    updates: Value,
    passes: &[Vec<i64>],
    reduction: Reduction,
) -> Result<Value, Fail> {
    let shape = c.shape(data);
    let (n_rows, width) = (shape[0] * shape[1], shape[2]);
    let mut rows = c.reshape(data, vec![n_rows, width])?;
    let n_updates = c.shape(updates)[0] * c.shape(updates)[1];
    let updates = c.reshape(updates, vec![n_updates, width])?;
    for pass in passes {
        rows = match reduction {
            Reduction::Replace => {
                let both = c.concat(&[rows, updates], 0)?;
                let from = |(row, &update): (usize, &i64)| match update {
                    0 => row as i64,
                    update => n_rows as i64 + update - 1,
                };
                let from: Vec<i64> = pass.iter().enumerate().map(from).collect();
                take(c, both, 0, &from)?
            }
            Reduction::Fold(op, reduce) => {
                let elem = c.elem(rows);
                let rest = c.splat(elem, &vec![1, width].into(), neutral(elem, reduce))?;
                let both = c.concat(&[rest, updates], 0)?;
                let part = take(c, both, 0, pass)?;
                c.binary(op, rows, part)?
            }
        };
    }
    c.reshape(rows, shape)
}

/// Sums of narrow floats are taken in f32 and rounded once.
fn in_wide(
    c: &mut Ctx<'_>,
    reduction: Reduction,
    data: Value,
    updates: Value,
) -> Result<(Value, Value), Fail> {
    match reduction {
        Reduction::Fold(BinaryOp::Add | BinaryOp::Mul, _) => Ok((widened(c, data)?, widened(c, updates)?)),
        Reduction::Fold(..) | Reduction::Replace => Ok((data, updates)),
    }
}

pub(super) fn scatter_nd(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, index, updates) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (shape, tuples) = (c.shape(x), c.shape(index));
    let wrong = || invalid(format!("ScatterND of {shape} by {tuples}"));
    let q = tuples.last().copied().unwrap_or(0) as usize;
    if q == 0 || q > shape.rank() {
        return Err(wrong());
    }
    let inner: u64 = shape[q..].iter().product();
    let count: u64 = tuples[..tuples.rank() - 1].iter().product();
    if c.shape(updates).0 != [&tuples[..tuples.rank() - 1], &shape[q..]].concat() {
        return Err(wrong());
    }
    let reduction = Reduction::of(n)?;
    let extents: Shape = shape[..q].to_vec().into();
    let positions = linear(c, index, &extents)?;
    if (q, count, reduction) == (1, 1, Reduction::Replace) && c.known_ints(positions).is_none() {
        return Ok(vec![replace_row(c, x, positions, updates, 0)?]);
    }
    let positions = c.reshape(positions, vec![1, count])?;
    let (data, updates) = in_wide(c, reduction, x, updates)?;
    let data = c.reshape(data, vec![1, extents.elements(), inner])?;
    let updates = c.reshape(updates, vec![1, count, inner])?;
    let y = scatter(c, data, positions, updates, reduction)?;
    let y = c.cast(y, c.elem(x))?;
    Ok(vec![c.reshape(y, shape)?])
}

/// The dimensions along which indices are repeated, as far as their expansion shows.
fn repeated(c: &Ctx<'_>, index: Value) -> Vec<bool> {
    let (shape, func) = (c.shape(index), c.b.func());
    let broadcast = func.def(index).map(|node| &func.nodes[node]);
    let of = |d: usize| match broadcast.map(|data| (&data.op, &data.args)) {
        Some((Op::Broadcast { dims, .. }, args)) => {
            let from = dims.iter().position(|&to| usize::from(to) == d);
            from.is_none_or(|from| c.shape(args[0])[from] == 1)
        }
        _ => shape[d] == 1,
    };
    (0..shape.rank()).map(of).collect()
}

/// Each line along the axis is a lane of its own, but those that have the same indices change as one row. Indices may cover the
/// first lanes only.
pub(super) fn scatter_elements(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, index, updates) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (shape, wanted) = (c.shape(x), c.shape(index));
    let rank = shape.rank();
    let axis = axis(n.int("axis", 0)?, rank)?;
    let fits = wanted.rank() == rank
        && c.shape(updates) == wanted
        && (0..rank).all(|d| d == axis || wanted[d] <= shape[d]);
    if !fits {
        return Err(invalid(format!("ScatterElements of {shape} by {wanted}")));
    }
    let reduction = Reduction::of(n)?;
    let alike = repeated(c, index);
    let (alike, apart): (Vec<usize>, Vec<usize>) = (0..rank).filter(|&d| d != axis).partition(|&d| alike[d]);
    let mut index = non_negative(c, index, &[shape[axis]])?;
    let mut data = x;
    for d in (0..rank).filter(|&d| d != axis) {
        data = c.slice_axis(data, d, 0, wanted[d])?;
    }
    for &d in &alike {
        index = c.slice_axis(index, d, 0, wanted[d].min(1))?;
    }
    let (data, updates) = in_wide(c, reduction, data, updates)?;
    let perm: Vec<usize> = apart.iter().copied().chain([axis]).chain(alike.iter().copied()).collect();
    let size = |dims: &[usize]| -> u64 { dims.iter().map(|&d| wanted[d]).product() };
    let (lanes, width) = (size(&apart), size(&alike));
    let order: Vec<u8> = perm.iter().map(|&d| d as u8).collect();
    let mut lined = |v: Value, sizes: &[u64]| {
        let v = c.permute(v, order.clone())?;
        c.reshape(v, sizes.to_vec())
    };
    let data = lined(data, &[lanes, shape[axis], width])?;
    let updates = lined(updates, &[lanes, wanted[axis], width])?;
    let index = lined(index, &[lanes, wanted[axis]])?;
    let y = scatter(c, data, index, updates, reduction)?;
    let y = c.cast(y, c.elem(x))?;
    let moved: Vec<u64> = perm.iter().map(|&d| if d == axis { shape[axis] } else { wanted[d] }).collect();
    let y = c.reshape(y, moved)?;
    let mut back = vec![0u8; rank];
    perm.iter().enumerate().for_each(|(i, &d)| back[d] = i as u8);
    let mut y = c.permute(y, back)?;
    // The lanes that no index covers follow, dimension by dimension.
    for d in (0..rank).filter(|&d| d != axis && wanted[d] < shape[d]) {
        let mut rest = c.slice_axis(x, d, wanted[d], shape[d] - wanted[d])?;
        for later in (d + 1..rank).filter(|&later| later != axis) {
            rest = c.slice_axis(rest, later, 0, wanted[later])?;
        }
        y = c.concat(&[y, rest], d)?;
    }
    Ok(vec![y])
}

/// Rows along the axis from a position on, which each element of the batch has of its own, replaced by an update.
pub(super) fn tensor_scatter(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, updates) = (n.input(0)?, n.input(1)?);
    let (shape, fresh) = (c.shape(x), c.shape(updates));
    let rank = shape.rank();
    let axis = axis(n.int("axis", -2)?, rank)?;
    let fits = fresh.rank() == rank && axis > 0 && (0..rank).all(|d| d == axis || shape[d] == fresh[d]);
    if !fits || fresh[axis] > shape[axis] || fresh[axis] == 0 {
        return Err(invalid(format!("TensorScatter of {shape} by {fresh} along axis {axis}")));
    }
    let circular = match n.string("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return Err(invalid(format!("mode is {other:?}"))),
    };
    let (batch, rows) = (shape[0], shape[axis]);
    if let (1, 1, false, Some(start)) = (batch, fresh[axis], circular, n.opt(2)) {
        return Ok(vec![replace_row(c, x, start, updates, axis)?]);
    }
    let places: Shape = vec![batch, rows].into();
    let start = match n.opt(2) {
        Some(start) => c.cast(start, ScalarType::I64)?,
        None => c.splat(ScalarType::I64, &vec![batch].into(), 0.0)?,
    };
    let start = c.broadcast_along(start, 0, &places)?;
    let row = c.iota(ScalarType::I64, &places, 1)?;
    let mut from = c.binary(BinaryOp::Sub, row, start)?;
    if circular {
        from = c.binary_splat(BinaryOp::Mod, from, rows as f64)?;
    }
    let after = c.compare_splat(CompareOp::Le, from, fresh[axis] as f64 - 1.0)?;
    let low = c.splat_like(from, -1.0)?;
    let before = c.compare(CompareOp::Lt, low, from)?;
    let hit = c.binary(BinaryOp::And, after, before)?;
    let from = c.binary_splat(BinaryOp::Max, from, 0.0)?;
    let from = c.binary_splat(BinaryOp::Min, from, fresh[axis] as f64 - 1.0)?;
    let taken = c.emit(Op::Gather { axis: axis as u8, batch: 1 }, &[updates, from])?;
    let hit = c.emit(Op::Broadcast { dims: vec![0, axis as u8], shape }, &[hit])?;
    Ok(vec![c.select(hit, taken, x)?])
}
