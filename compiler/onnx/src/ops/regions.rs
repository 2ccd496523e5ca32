//! Pooling of regions that are operands: RoiAlign and MaxRoiPool.

use lacuna_ir::op::{BinaryOp, CompareOp, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;

use super::precision::wide_type;
use super::sampling::{Line, Table, Tap, rows_of, weigh};
use crate::call::Call;
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Regions of one size of sampling grid.
struct Align {
    /// Result positions along both axes.
    pooled: [u64; 2],
    /// Whether corners are shifted by half an element.
    shifted: bool,
    scale: f64,
    is_max: bool,
    elem: ScalarType,
    wide: ScalarType,
    channels: u64,
    input: [u64; 2],
}

pub(super) fn roi_align(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, rois, batch) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (shape, list) = (c.shape(x), c.shape(rois));
    let (&[_, channels, h, w], &[count, 4]) = (&shape[..], &list[..]) else {
        return Err(invalid(format!("regions {list} of {shape}")));
    };
    if c.shape(batch)[..] != [count] || shape.elements() == 0 {
        return Err(invalid(format!("regions {list} of {shape} with batch indices {}", c.b.ty(batch))));
    }
    let size = |name: &str| {
        n.int(name, 1).map(|s| u64::try_from(s).unwrap_or(0)).and_then(|s| match s {
            1..=65536 => Ok(s),
            _ => Err(invalid(format!("{name} is {s}"))),
        })
    };
    let mut values = ["half_pixel", "output_half_pixel"];
    if n.opset < 16 {
        values.reverse();
    }
    let align = Align {
        pooled: [size("output_height")?, size("output_width")?],
        shifted: n.choice("coordinate_transformation_mode", &values)? == "half_pixel",
        scale: n.float("spatial_scale", 1.0)?,
        is_max: match n.string("mode", "avg")? {
            "avg" => false,
            "max" => true,
            other => return Err(invalid(format!("mode is {other:?}"))),
        },
        elem: c.elem(x),
        wide: wide_type(c.elem(x)),
        channels,
        input: [h, w],
    };
    let ratio = n.int("sampling_ratio", 0)?;
    if count == 0 {
        let out = vec![0, channels, align.pooled[0], align.pooled[1]];
        return Ok(vec![c.splat(align.elem, &out.into(), 0.0)?]);
    }
    let rows = rows_of(c, x)?;
    if ratio > 0 {
        return Ok(vec![align.regions(c, rows, rois, batch, [ratio as u64; 2])?]);
    }
    // The grid depends on the size of each region.
    let corners = c.const_floats(rois, "the rois operand, which decides how many samples are taken,")?;
    let mut parts = Vec::new();
    for (i, corner) in corners.chunks_exact(4).enumerate() {
        let grid = [1, 0].map(|d| {
            let extent = (corner[d + 2] - corner[d]) * align.scale;
            let extent = if align.shifted { extent } else { extent.max(1.0) };
            let pooled = align.pooled[1 - d];
            (extent / pooled as f64).ceil().max(0.0) as u64
        });
        let one = c.slice_axis(rois, 0, i as u64, 1)?;
        let index = c.slice_axis(batch, 0, i as u64, 1)?;
        parts.push(align.regions(c, rows, one, index, grid)?);
    }
    Ok(vec![c.concat(&parts, 0)?])
}

impl Align {
    /// `[regions, channels, pooled..]`, each position from a grid of samples.
    fn regions(
        &self,
        c: &mut Ctx<'_>,
        rows: Value,
        rois: Value,
        batch: Value,
        grid: [u64; 2],
    ) -> Result<Value, Fail> {
        let count = c.shape(rois)[0];
        let [ph, pw] = self.pooled;
        let out = vec![count, self.channels, ph, pw];
        if grid.contains(&0) {
            return c.splat(self.elem, &out.into(), 0.0);
        }
        let samples = [ph.saturating_mul(grid[0]), pw.saturating_mul(grid[1])];
        if samples.iter().any(|&s| s > 1 << 20) {
            return Err(unsupported(format!("a grid of {samples:?} samples")));
        }
        let mut taps = Vec::new();
        for (d, &extent) in samples.iter().enumerate() {
            let places = self.places(c, rois, d, grid[d])?;
            let mut shape = vec![count, 1, 1];
            shape[d + 1] = extent;
            taps.push(self.taps(c, places, d, shape)?);
        }
        // The first row of a region's batch element.
        let elem = if c.shape(rows)[0] < 1 << 31 { ScalarType::I32 } else { ScalarType::I64 };
        let base = c.cast(batch, elem)?;
        let base = c.binary_splat(BinaryOp::Mul, base, (self.input[0] * self.input[1]) as f64)?;
        let base = c.reshape(base, vec![count, 1, 1])?;
        let table = Table { rows, sizes: self.input.to_vec() };
        let sampled = if self.is_max {
            let mut best: Option<Value> = None;
            for (row, weight) in table.terms(c, &taps, Some(base), self.wide)? {
                let term = weigh(c, row, weight)?;
                best = Some(match best {
                    None => term,
                    Some(best) => c.binary(BinaryOp::Max, best, term)?,
                });
            }
            best.ok_or_else(|| invalid("a region without samples"))?
        } else {
            table.read(c, &taps, Some(base), self.wide)?
        };
        let op = if self.is_max { ReduceOp::Max } else { ReduceOp::Mean };
        let y = c.reshape(sampled, vec![count * ph, grid[0], pw * grid[1] * self.channels])?;
        let y = c.reduce(op, y, &[1], false)?;
        let y = c.reshape(y, vec![count * ph * pw, grid[1], self.channels])?;
        let y = c.reduce(op, y, &[1], false)?;
        let y = c.reshape(y, vec![count, ph * pw, self.channels])?;
        let y = c.permute(y, vec![0, 2, 1])?;
        let y = c.reshape(y, out)?;
        c.cast(y, self.elem)
    }

    /// Coordinates of the samples along an axis: `[regions, samples]`.
    fn places(&self, c: &mut Ctx<'_>, rois: Value, d: usize, grid: u64) -> Result<Value, Fail> {
        let (count, pooled) = (c.shape(rois)[0], self.pooled[d]);
        let mut corner = |i: u64| {
            let v = c.slice_axis(rois, 1, i, 1)?;
            let v = c.cast(v, self.wide)?;
            let v = c.binary_splat(BinaryOp::Mul, v, self.scale)?;
            if self.shifted { c.binary_splat(BinaryOp::Sub, v, 0.5) } else { Ok(v) }
        };
        // Corners are x, y, x, y.
        let (start, end) = (corner(1 - d as u64)?, corner(3 - d as u64)?);
        let mut extent = c.binary(BinaryOp::Sub, end, start)?;
        if !self.shifted {
            extent = c.binary_splat(BinaryOp::Max, extent, 1.0)?;
        }
        let bin = c.binary_splat(BinaryOp::Div, extent, pooled as f64)?;
        let steps: Vec<f64> =
            (0..pooled * grid).map(|i| (i / grid) as f64 + ((i % grid) as f64 + 0.5) / grid as f64).collect();
        let steps = c.floats(self.wide, vec![1, pooled * grid], &steps)?;
        let along = c.binary(BinaryOp::Mul, bin, steps)?;
        let places = c.binary(BinaryOp::Add, start, along)?;
        c.reshape(places, vec![count, pooled * grid])
    }

    /// Both neighbours of each coordinate; those more than one element outside have no part.
    fn taps(&self, c: &mut Ctx<'_>, places: Value, d: usize, shape: Vec<u64>) -> Result<Vec<Tap>, Fail> {
        let last = self.input[d] as f64 - 1.0;
        let places = c.reshape(places, shape)?;
        let inside = Line::is_within(c, places, -1.0, self.input[d] as f64)?;
        let place = c.binary_splat(BinaryOp::Max, places, 0.0)?;
        let place = c.binary_splat(BinaryOp::Min, place, last)?;
        let below = c.unary(UnaryOp::Floor, place)?;
        let ratio = c.binary(BinaryOp::Sub, place, below)?;
        let one = c.splat_like(ratio, 1.0)?;
        let rest = c.binary(BinaryOp::Sub, one, ratio)?;
        let above = c.binary_splat(BinaryOp::Add, below, 1.0)?;
        let above = c.binary_splat(BinaryOp::Min, above, last)?;
        let tap = |position, weight| Tap { position, weight: Some(weight), inside: Some(inside) };
        Ok(vec![tap(below, rest), tap(above, ratio)])
    }
}

/// The maximum over each part of a region, one axis after the other: elements outside of the part become minus infinity.
pub(super) fn max_roi_pool(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, rois) = (n.input(0)?, n.input(1)?);
    let (shape, list) = (c.shape(x), c.shape(rois));
    let pooled = n.sizes("pooled_shape", 2, 1)?;
    let (&[batch, channels, _, _], &[count, 5]) = (&shape[..], &list[..]) else {
        return Err(invalid(format!("regions {list} of {shape}")));
    };
    if !n.has("pooled_shape") || shape.elements() == 0 || pooled.iter().any(|&p| p > 1024) {
        return Err(invalid(format!("regions {list} of {shape} to {pooled:?}")));
    }
    let scale = n.float("spatial_scale", 1.0)?;
    let (elem, wide) = (c.elem(x), wide_type(c.elem(x)));
    let column = |c: &mut Ctx<'_>, i: u64| {
        let v = c.slice_axis(rois, 1, i, 1)?;
        let v = c.cast(v, wide)?;
        c.reshape(v, vec![count])
    };
    let index = column(c, 0)?;
    let index = c.cast(index, ScalarType::I32)?;
    let index = if batch == 1 { c.splat_like(index, 0.0)? } else { index };
    // One axis of the map after the other becomes parts of regions.
    let mut y = c.emit(Op::Gather { axis: 0, batch: 0 }, &[x, index])?;
    for d in [1, 0] {
        let start = column(c, 2 - d)?;
        let end = column(c, 4 - d)?;
        let at = d as usize + 2;
        y = pool_axis(c, y, at, [start, end], scale, pooled[d as usize])?;
    }
    // A part without elements is 0.
    let low = c.splat_like(y, f64::NEG_INFINITY)?;
    let empty = c.compare(CompareOp::Eq, y, low)?;
    let zero = c.splat_like(y, 0.0)?;
    let y = c.select(empty, zero, y)?;
    let y = c.reshape(y, vec![count, channels, pooled[0], pooled[1]])?;
    Ok(vec![c.cast(y, elem)?])
}

/// Maxima over the parts of regions along dimension `at`; corners are `[regions]`.
fn pool_axis(
    c: &mut Ctx<'_>,
    x: Value,
    at: usize,
    corners: [Value; 2],
    scale: f64,
    parts: u64,
) -> Result<Value, Fail> {
    let shape = c.shape(x);
    let (wide, extent) = (c.elem(corners[0]), shape[at] as f64);
    let mut round = |v: Value| {
        // Half away from zero, as C rounds; corners are not negative.
        let v = c.binary_splat(BinaryOp::Mul, v, scale)?;
        let v = c.binary_splat(BinaryOp::Add, v, 0.5)?;
        c.unary(UnaryOp::Floor, v)
    };
    let (start, end) = (round(corners[0])?, round(corners[1])?);
    let size = c.binary(BinaryOp::Sub, end, start)?;
    let size = c.binary_splat(BinaryOp::Add, size, 1.0)?;
    let size = c.binary_splat(BinaryOp::Max, size, 1.0)?;
    let each = c.binary_splat(BinaryOp::Div, size, parts as f64)?;
    let line = c.iota(wide, &vec![shape[0], shape[at]].into(), 1)?;
    let mut maxima = Vec::new();
    for p in 0..parts {
        let mut bound = |share: f64, round: UnaryOp| {
            let v = c.binary_splat(BinaryOp::Mul, each, share)?;
            let v = c.unary(round, v)?;
            let v = c.binary(BinaryOp::Add, v, start)?;
            let v = c.binary_splat(BinaryOp::Max, v, 0.0)?;
            let v = c.binary_splat(BinaryOp::Min, v, extent)?;
            c.reshape(v, vec![shape[0], 1])
        };
        let (first, end) = (bound(p as f64, UnaryOp::Floor)?, bound(p as f64 + 1.0, UnaryOp::Ceil)?);
        let from = c.compare(CompareOp::Le, first, line)?;
        let to = c.compare(CompareOp::Lt, line, end)?;
        let inside = c.binary(BinaryOp::And, from, to)?;
        let inside = c.emit(Op::Broadcast { dims: vec![0, at as u8], shape: shape.clone() }, &[inside])?;
        let low = c.splat_like(x, f64::NEG_INFINITY)?;
        let kept = c.select(inside, x, low)?;
        maxima.push(c.reduce(ReduceOp::Max, kept, &[at as u8], true)?);
    }
    c.concat(&maxima, at)
}
