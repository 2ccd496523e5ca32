//! Movement of elements: reshape, transpose, slice, split, concatenate, pad, tile.

use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use crate::call::{Call, axes, axis};
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;
use crate::limits::MAX_ELEMENTS;

type Results = Result<Vec<Value>, Fail>;

pub(super) fn reshape(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let target = match n.opset < 5 {
        true => n.ints("shape")?.unwrap_or_default().to_vec(),
        false => c.const_ints(n.input(1)?, "the shape operand")?,
    };
    let from = c.shape(x);
    let keep_zero = n.flag("allowzero", false)?;
    let mut shape = Vec::with_capacity(target.len());
    let mut unknown = None;
    for (d, &size) in target.iter().enumerate() {
        shape.push(match size {
            -1 if unknown.is_none() => {
                unknown = Some(d);
                1
            }
            0 if !keep_zero => {
                *from.get(d).ok_or_else(|| invalid(format!("dimension {d} to copy is not in {from}")))?
            }
            0.. => size as u64,
            _ => return Err(invalid(format!("the shape is {target:?}"))),
        });
    }
    if let Some(d) = unknown {
        let known = shape.iter().try_fold(1u64, |p, &s| p.checked_mul(s));
        let rest = known.filter(|&k| k > 0).filter(|k| from.elements().is_multiple_of(*k));
        shape[d] = from.elements()
            / rest.ok_or_else(|| invalid(format!("{from} does not reshape to {target:?}")))?;
    }
    Ok(vec![c.reshape(x, shape)?])
}

pub(super) fn flatten(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let shape = c.shape(x);
    let at = n.int("axis", 1)?;
    let at = if at == shape.rank() as i64 { shape.rank() } else { axis(at, shape.rank())? };
    let outer: u64 = shape[..at].iter().product();
    let inner: u64 = shape[at..].iter().product();
    Ok(vec![c.reshape(x, vec![outer, inner])?])
}

pub(super) fn squeeze(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let shape = c.shape(x);
    let removed = match n.opt(1) {
        Some(v) => axes(&c.const_ints(v, "the axes operand")?, shape.rank())?,
        None if n.has("axes") => axes(n.ints("axes")?.unwrap_or(&[]), shape.rank())?,
        None => (0..shape.rank()).filter(|&d| shape[d] == 1).map(|d| d as u8).collect(),
    };
    if let Some(&a) = removed.iter().find(|&&a| shape[a as usize] != 1) {
        return Err(invalid(format!("dimension {a} of {shape} is not 1")));
    }
    let kept = (0..shape.rank()).filter(|&d| !removed.contains(&(d as u8))).map(|d| shape[d]);
    Ok(vec![c.reshape(x, kept.collect::<Shape>())?])
}

pub(super) fn unsqueeze(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let given = match n.ints("axes")? {
        Some(axes) => axes.to_vec(),
        None => c.const_ints(n.input(1)?, "the axes operand")?,
    };
    let mut added = axes(&given, c.rank(x) + given.len())?;
    added.sort_unstable();
    let mut shape = c.shape(x);
    for a in added {
        shape.0.insert(a as usize, 1);
    }
    Ok(vec![c.reshape(x, shape)?])
}

pub(super) fn transpose(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let rank = c.rank(x);
    let perm = match n.ints("perm")? {
        Some(perm) => axes(perm, rank)?,
        None => (0..rank as u8).rev().collect(),
    };
    Ok(vec![c.permute(x, perm)?])
}

/// Slice as NumPy: negative positions count from the end, positions outside are clamped.
pub(super) fn slice(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let from = c.shape(x);
    // Bounds are attributes up to operator set 9.
    let mut bounds = |name: &str, i: usize| match (n.opset < 10, n.opt(i)) {
        (true, _) => Ok(n.ints(name)?.map(<[i64]>::to_vec)),
        (false, Some(v)) => c.const_ints(v, &format!("the {name} operand")).map(Some),
        (false, None) => Ok(None),
    };
    let missing = |what: &str| invalid(format!("{what} is missing"));
    let begin = bounds("starts", 1)?.ok_or_else(|| missing("starts"))?;
    let end = bounds("ends", 2)?.ok_or_else(|| missing("ends"))?;
    let count = begin.len();
    let over = bounds("axes", 3)?.unwrap_or_else(|| (0..count as i64).collect());
    let step = bounds("steps", 4)?.unwrap_or_else(|| vec![1; count]);
    if end.len() != count || over.len() != count || step.len() != count || step.contains(&0) {
        return Err(invalid("starts, ends, axes and steps do not fit each other"));
    }
    let over = axes(&over, from.rank())?;
    let (mut starts, mut shape, mut steps) = (vec![0; from.rank()], from.clone(), vec![1; from.rank()]);
    for (i, &axis) in over.iter().enumerate() {
        let d = axis as usize;
        let extent = from[d] as i64;
        let absolute = |p: i64| if p < 0 { p.saturating_add(extent) } else { p };
        // Stepping back, the first position is clamped to an element and the last to before the axis; without elements
        // both stand there.
        let (first, distance) = if step[i] > 0 {
            let first = absolute(begin[i]).clamp(0, extent);
            (first, absolute(end[i]).clamp(0, extent) - first)
        } else {
            let first = absolute(begin[i]).max(0).min(extent - 1);
            (first, first - absolute(end[i]).clamp(-1, extent.max(1) - 1))
        };
        let size = distance.max(0).unsigned_abs().div_ceil(step[i].unsigned_abs());
        starts[d] = if size == 0 { 0 } else { first };
        shape.0[d] = size;
        // A step beyond the axis reads one element; its size no longer matters.
        steps[d] = if size <= 1 { 1 } else { step[i] };
    }
    if shape == from && steps.iter().all(|&s| s == 1) {
        return Ok(vec![x]);
    }
    Ok(vec![c.emit(Op::Slice { starts, shape, steps }, &[x])?])
}

pub(super) fn split(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let shape = c.shape(x);
    let axis = axis(n.int("axis", 0)?, shape.rank())?;
    let extent = shape[axis];
    let given = match n.opt(1) {
        Some(v) => Some(c.const_ints(v, "the split operand")?),
        None => n.ints("split")?.map(<[i64]>::to_vec),
    };
    let sizes: Vec<u64> = match given {
        Some(sizes) => {
            let sizes: Option<Vec<u64>> = sizes.iter().map(|&s| u64::try_from(s).ok()).collect();
            sizes.ok_or_else(|| invalid("a part has a negative size"))?
        }
        None => {
            let parts = u64::try_from(n.int("num_outputs", n.node.output.len() as i64)?).unwrap_or(0);
            if parts == 0 || parts > 4096 {
                return Err(invalid(format!("a split into {parts} parts")));
            }
            // From version 18 on, `num_outputs` lets the last part be smaller.
            let each = extent.div_ceil(parts);
            let last = extent.checked_sub(each * (parts - 1));
            let Some(last) = last.filter(|&last| last == each || n.opset >= 18 && n.has("num_outputs"))
            else {
                return Err(invalid(format!(
                    "a dimension of {extent} does not split into {parts} equal parts"
                )));
            };
            (0..parts).map(|i| if i + 1 == parts { last } else { each }).collect()
        }
    };
    if sizes.len() != n.node.output.len() {
        return Err(invalid(format!("{} parts for {} results", sizes.len(), n.node.output.len())));
    }
    if sizes.iter().try_fold(0u64, |sum, &s| sum.checked_add(s)) != Some(extent) {
        return Err(invalid(format!("parts {sizes:?} of a dimension of {extent}")));
    }
    let mut start = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for size in sizes {
        parts.push(c.slice_axis(x, axis, start, size)?);
        start += size;
    }
    Ok(parts)
}

pub(super) fn concat(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let parts = n.all()?;
    if !n.has("axis") && n.opset >= 4 {
        return Err(invalid("axis is missing"));
    }
    let axis = axis(n.int("axis", 1)?, c.rank(parts[0]))?;
    Ok(vec![c.concat(&parts, axis)?])
}

/// Elements of `x` along one axis at known positions.
pub(super) fn take(c: &mut Ctx<'_>, x: Value, axis: usize, positions: &[i64]) -> Result<Value, Fail> {
    let index = c.ints(vec![positions.len() as u64], positions)?;
    c.emit(Op::Gather { axis: axis as u8, batch: 0 }, &[x, index])
}

pub(super) fn pad(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let mut x = n.input(0)?;
    let rank = c.rank(x);
    let pads = match n.opset {
        ..2 => n.ints("paddings")?.unwrap_or_default().to_vec(),
        2..11 => n.ints("pads")?.unwrap_or_default().to_vec(),
        _ => c.const_ints(n.input(1)?, "the pads operand")?,
    };
    let over: Vec<u8> = match n.opt(3) {
        Some(v) => axes(&c.const_ints(v, "the axes operand")?, rank)?,
        None => (0..rank as u8).collect(),
    };
    if pads.len() != 2 * over.len() || pads.iter().any(|p| p.unsigned_abs() > MAX_ELEMENTS) {
        return Err(invalid(format!("pads are {pads:?} for {} axes", over.len())));
    }
    let mode = n.choice("mode", &["constant", "reflect", "edge", "wrap"])?;
    let (mut low, mut high) = (vec![0; rank], vec![0; rank]);
    for (i, &axis) in over.iter().enumerate() {
        let d = axis as usize;
        let (before, after) = (pads[i], pads[i + over.len()]);
        // Negative amounts crop, before anything is added.
        let (crop_low, crop_high) = ((-before).max(0), (-after).max(0));
        let extent = c.shape(x)[d] as i64 - crop_low - crop_high;
        let added = before.max(0) + after.max(0);
        if mode == "constant" && extent < 0 && extent + added >= 0 {
            // What one side crops beyond the operand it takes from what the other adds.
            x = c.slice_axis(x, d, 0, 0)?;
            low[d] = (extent + added) as u64;
            continue;
        }
        let left = u64::try_from(extent)
            .map_err(|_| invalid(format!("pads {pads:?} crop more than dimension {d}")))?;
        x = c.slice_axis(x, d, crop_low as u64, left)?;
        let (before, after) = (before.max(0), after.max(0));
        if mode == "constant" {
            (low[d], high[d]) = (before as u64, after as u64);
            continue;
        }
        if before == 0 && after == 0 {
            continue;
        }
        let total = extent + before + after;
        if total >= 1 << 24 || extent == 0 {
            return Err(invalid(format!("pads {pads:?} of dimension {d} in mode {mode}")));
        }
        let from = |p: i64| match mode {
            "edge" => p.clamp(0, extent - 1),
            "wrap" => p.rem_euclid(extent),
            _ if extent == 1 => 0,
            _ => {
                let period = 2 * (extent - 1);
                let q = p.rem_euclid(period);
                q.min(period - q)
            }
        };
        let positions: Vec<i64> = (-before..extent + after).map(from).collect();
        x = take(c, x, d, &positions)?;
    }
    let (fill, value) = (n.opt(2), if n.opset < 11 { n.float("value", 0.0)? } else { 0.0 });
    if low.iter().chain(&high).all(|&p| p == 0) {
        return Ok(vec![x]);
    }
    let value = match fill {
        Some(v) => c.reshape(v, vec![])?,
        None => c.splat(c.elem(x), &Shape::default(), value)?,
    };
    Ok(vec![c.emit(Op::Pad { low, high }, &[x, value])?])
}

/// Repetitions along a dimension of tensors of the greatest rank, which are a concatenation.
const MAX_TILES: usize = 1 << 16;

/// Each dimension gets an outer one that repeats it.
pub(super) fn tile(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let mut x = n.input(0)?;
    let mut repeats = c.const_ints(n.input(1)?, "the repeats operand")?;
    let rank = c.rank(x);
    if n.opset < 6 {
        // One number of tiles along one axis.
        let along = axis(c.const_scalar(n.input(2)?, "the axis operand")? as i64, rank)?;
        let [tiles] = repeats[..] else { return Err(invalid(format!("tiles are {repeats:?}"))) };
        repeats = (0..rank).map(|d| if d == along { tiles } else { 1 }).collect();
    }
    if repeats.len() != rank || repeats.iter().any(|&r| !(0..=MAX_ELEMENTS as i64).contains(&r)) {
        return Err(invalid(format!("repeats are {repeats:?} for rank {rank}")));
    }
    if repeats.contains(&0) {
        let shape = c.shape(x);
        let shape = Shape(shape.iter().zip(&repeats).map(|(&d, &r)| d.saturating_mul(r as u64)).collect());
        crate::limits::check_shape(&shape).map_err(invalid)?;
        return Ok(vec![c.splat(c.elem(x), &shape, 0.0)?]);
    }
    for (d, &r) in repeats.iter().enumerate().filter(|(_, r)| **r != 1) {
        let shape = c.shape(x);
        if shape[d] == 1 {
            let mut to = shape.clone();
            to.0[d] = r as u64;
            x = c.broadcast_to(x, &to)?;
            continue;
        }
        if rank == lacuna_ir::types::MAX_RANK {
            let n_parts = usize::try_from(r).ok().filter(|&n| n <= MAX_TILES);
            let n_parts = n_parts.ok_or_else(|| unsupported(format!("{r} repeats at rank {rank}")))?;
            x = c.concat(&vec![x; n_parts], d)?;
            continue;
        }
        // Merge what is before and after the dimension: the rank stays below the greatest one.
        let mut to = shape.clone();
        to.0.insert(d, r as u64);
        let dims = (0..=rank).filter(|&i| i != d).map(|i| i as u8).collect();
        let repeated = c.emit(Op::Broadcast { dims, shape: to }, &[x])?;
        let mut joined = shape;
        joined.0[d] *= r as u64;
        x = c.reshape(repeated, joined)?;
    }
    Ok(vec![x])
}

fn block_size(n: &Call<'_>) -> Result<u64, Fail> {
    let size = n.int("blocksize", 0)?;
    u64::try_from(size)
        .ok()
        .filter(|b| (1..1 << 16).contains(b))
        .ok_or_else(|| invalid(format!("blocksize is {size}")))
}

pub(super) fn depth_to_space(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let b = block_size(n)?;
    let shape = c.shape(x);
    let [batch, channels, height, width] = shape[..] else {
        return Err(invalid(format!("DepthToSpace of {}", c.b.ty(x))));
    };
    if !channels.is_multiple_of(b * b) {
        return Err(invalid(format!("{channels} channels in blocks of {b} by {b}")));
    }
    let depth = channels / (b * b);
    let (split, perm) = match n.choice("mode", &["DCR", "CRD"])? {
        "DCR" => (vec![batch, b, b, depth, height, width], vec![0, 3, 4, 1, 5, 2]),
        _ => (vec![batch, depth, b, b, height, width], vec![0, 1, 4, 2, 5, 3]),
    };
    let y = c.reshape(x, split)?;
    let y = c.permute(y, perm)?;
    Ok(vec![c.reshape(y, vec![batch, depth, height * b, width * b])?])
}

pub(super) fn space_to_depth(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let b = block_size(n)?;
    let shape = c.shape(x);
    let [batch, channels, height, width] = shape[..] else {
        return Err(invalid(format!("SpaceToDepth of {}", c.b.ty(x))));
    };
    if !height.is_multiple_of(b) || !width.is_multiple_of(b) {
        return Err(invalid(format!("{height} by {width} elements in blocks of {b} by {b}")));
    }
    let y = c.reshape(x, vec![batch, channels, height / b, b, width / b, b])?;
    let perm = match n.choice("mode", &["DCR", "CRD"])? {
        "DCR" => vec![0, 3, 5, 1, 2, 4],
        _ => vec![0, 1, 3, 5, 2, 4],
    };
    let y = c.permute(y, perm)?;
    Ok(vec![c.reshape(y, vec![batch, channels * b * b, height / b, width / b])?])
}

/// The triangle is a select by a comparison of positions, so that its structure stays visible.
pub(super) fn trilu(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let shape = c.shape(x);
    let rank = shape.rank();
    if rank < 2 {
        return Err(invalid(format!("Trilu of {}", c.b.ty(x))));
    }
    let matrix: Shape = shape[rank - 2..].to_vec().into();
    let k = match n.opt(1) {
        Some(v) => c.const_ints(v, "k")?.first().copied().ok_or_else(|| invalid("k has no element"))?,
        None => 0,
    };
    // Beyond the matrix all diagonals are alike, and positions do not overflow.
    let furthest = (matrix[0].max(matrix[1])).min(MAX_ELEMENTS) as i64;
    let k = k.clamp(-furthest, furthest);
    let row = c.iota(ScalarType::I64, &matrix, 0)?;
    let column = c.iota(ScalarType::I64, &matrix, 1)?;
    let offset = c.splat_like(row, k as f64)?;
    let diagonal = c.binary(lacuna_ir::op::BinaryOp::Add, row, offset)?;
    let keep = match n.flag("upper", true)? {
        true => c.compare(lacuna_ir::op::CompareOp::Le, diagonal, column)?,
        false => c.compare(lacuna_ir::op::CompareOp::Le, column, diagonal)?,
    };
    let zero = c.splat_like(x, 0.0)?;
    Ok(vec![c.select(keep, x, zero)?])
}
