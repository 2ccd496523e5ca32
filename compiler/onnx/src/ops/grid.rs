//! GridSample, AffineGrid and DeformConv.

use lacuna_ir::op::BinaryOp;
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use super::contraction::kernel;
use super::precision::wide_type;
use super::sampling::{Beyond, Kernel, Line, Table, batch_base, rows_of};
use crate::call::Call;
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

pub(super) fn grid_sample(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, grid) = (n.input(0)?, n.input(1)?);
    let (shape, grid_shape) = (c.shape(x), c.shape(grid));
    let axes = shape.rank().saturating_sub(2);
    let fits = (1..=4).contains(&axes)
        && grid_shape.rank() == axes + 2
        && grid_shape[axes + 1] == axes as u64
        && grid_shape[0] == shape[0];
    if !fits {
        return Err(invalid(format!("a grid {grid_shape} over {shape}")));
    }
    let kernel = match n.string("mode", "linear")? {
        "nearest" => Kernel::Nearest,
        "linear" | "bilinear" => Kernel::Linear,
        "cubic" | "bicubic" => Kernel::Cubic,
        other => return Err(invalid(format!("mode is {other:?}"))),
    };
    let beyond = match n.string("padding_mode", "zeros")? {
        "zeros" => Beyond::Zeros,
        "border" => Beyond::Border,
        "reflection" => Beyond::Reflection,
        other => return Err(invalid(format!("padding_mode is {other:?}"))),
    };
    let corners = n.flag("align_corners", false)?;
    let (elem, batch, channels) = (c.elem(x), shape[0], shape[1]);
    let points: u64 = grid_shape[1..=axes].iter().product();
    let mut out = vec![batch, channels];
    out.extend(&grid_shape[1..=axes]);
    if out.contains(&0) {
        return Ok(vec![c.splat(elem, &out.into(), 0.0)?]);
    }
    if shape.elements() == 0 {
        return Err(invalid(format!("samples of {shape}")));
    }
    let wide = wide_type(elem);
    let grid = c.reshape(grid, vec![batch, points, axes as u64])?;
    let grid = c.cast(grid, wide)?;
    let mut taps = Vec::new();
    for (i, &size) in shape[2..].iter().enumerate() {
        // The last coordinate is that of the first axis.
        let p = c.slice_axis(grid, 2, (axes - 1 - i) as u64, 1)?;
        let p = c.reshape(p, vec![batch, points])?;
        let p = c.binary_splat(BinaryOp::Add, p, 1.0)?;
        let place = if corners {
            let half = c.binary_splat(BinaryOp::Mul, p, 0.5)?;
            c.binary_splat(BinaryOp::Mul, half, size as f64 - 1.0)?
        } else {
            let scaled = c.binary_splat(BinaryOp::Mul, p, size as f64)?;
            let scaled = c.binary_splat(BinaryOp::Sub, scaled, 1.0)?;
            c.binary_splat(BinaryOp::Mul, scaled, 0.5)?
        };
        taps.push(Line::new(size, corners, beyond).taps(c, place, kernel)?);
    }
    let sizes = shape[2..].to_vec();
    let base = batch_base(c, batch, sizes.iter().product(), 2)?;
    let table = Table { rows: rows_of(c, x)?, sizes };
    let y = table.read(c, &taps, base, wide)?;
    let y = c.permute(y, vec![0, 2, 1])?;
    let y = c.reshape(y, out)?;
    Ok(vec![c.cast(y, elem)?])
}

/// Coordinates of the elements of an axis between -1 and 1.
fn centres(size: u64, corners: bool) -> Vec<f64> {
    let n = size as f64;
    let (start, step) = if corners { (-1.0, 2.0 / (n - 1.0).max(1.0)) } else { (1.0 / n - 1.0, 2.0 / n) };
    (0..size).map(|i| start + i as f64 * step).collect()
}

/// The transformation of regular coordinates, as sums of products: there are only three or four terms.
pub(super) fn affine_grid(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let theta = n.input(0)?;
    let size = c.const_ints(n.input(1)?, "the size operand")?;
    let size: Option<Vec<u64>> = size.iter().map(|&s| u64::try_from(s).ok()).collect();
    let size = Shape(size.ok_or_else(|| invalid("a size is negative"))?);
    crate::limits::check_shape(&size).map_err(invalid)?;
    let shape = c.shape(theta);
    let axes = size.rank().saturating_sub(2) as u64;
    if !(axes == 2 || axes == 3) || shape[..] != [size[0], axes, axes + 1] {
        return Err(invalid(format!("a transformation {shape} for the size {size}")));
    }
    let corners = n.flag("align_corners", false)?;
    let (elem, wide) = (c.elem(theta), wide_type(c.elem(theta)));
    let mut full = vec![size[0]];
    full.extend(&size[2..]);
    full.push(axes);
    let full = Shape(full);
    let theta = c.cast(theta, wide)?;
    let column = |c: &mut Ctx<'_>, j: u64| {
        let part = c.slice_axis(theta, 2, j, 1)?;
        let part = c.reshape(part, vec![size[0], axes])?;
        c.emit(Op::Broadcast { dims: vec![0, axes as u8 + 1], shape: full.clone() }, &[part])
    };
    let mut sum = column(c, axes)?;
    for j in 0..axes {
        // The first coordinate is that of the last axis.
        let d = (axes - 1 - j) as usize;
        let values = centres(size[d + 2], corners);
        let values = c.floats(wide, vec![size[d + 2]], &values)?;
        let values = c.broadcast_along(values, d + 1, &full)?;
        let factor = column(c, j)?;
        let term = c.binary(BinaryOp::Mul, factor, values)?;
        sum = c.binary(BinaryOp::Add, sum, term)?;
    }
    Ok(vec![c.cast(sum, elem)?])
}

/// Sizes of a deformable convolution over two axes.
struct Deform {
    batch: u64,
    channels: u64,
    filters: u64,
    groups: u64,
    /// Groups of channels with offsets of their own.
    offsets: u64,
    input: [u64; 2],
    kernel: [u64; 2],
    out: [u64; 2],
    strides: Vec<u64>,
    dilations: Vec<u64>,
    pads: Vec<i64>,
}

impl Deform {
    fn of(c: &mut Ctx<'_>, n: &Call<'_>) -> Result<Deform, Fail> {
        let (x, w, o) = (c.shape(n.input(0)?), c.shape(n.input(1)?), c.shape(n.input(2)?));
        let (&[batch, channels, h, width], &[filters, depth, kh, kw], &[ob, od, oh, ow]) =
            (&x[..], &w[..], &o[..])
        else {
            return Err(unsupported(format!(
                "a deformable convolution of {x} with {w}; one over two axes is supported"
            )));
        };
        let number = |name: &str| n.int(name, 1).map(|g| u64::try_from(g).unwrap_or(0));
        let (groups, offsets) = (number("group")?, number("offset_group")?);
        let pads = n.ints("pads")?.map_or_else(|| vec![0; 4], <[i64]>::to_vec);
        let (strides, dilations) = (n.sizes("strides", 2, 1)?, n.sizes("dilations", 2, 1)?);
        let input = [h, width];
        let kernel = [kh, kw];
        let size = |d: usize| {
            let span = (kernel[d] as i64 - 1) * dilations[d] as i64 + 1;
            let room = input[d] as i64 + pads[d] + pads[d + 2] - span;
            (room >= 0).then(|| room as u64 / strides[d] + 1)
        };
        let fits = pads.len() == 4
            && pads.iter().all(|p| (-(1 << 20)..1 << 20).contains(p))
            && kernel.iter().all(|&k| (1..1 << 20).contains(&k))
            && groups > 0
            && offsets > 0
            && Some(channels) == depth.checked_mul(groups)
            && filters.is_multiple_of(groups)
            && channels.is_multiple_of(offsets)
            && ob == batch
            && Some(od) == offsets.checked_mul(2 * kh * kw)
            && [size(0), size(1)] == [Some(oh), Some(ow)];
        if !fits || x.elements() == 0 {
            return Err(invalid(format!("a deformable convolution of {x} with {w} by {o}")));
        }
        Ok(Deform {
            batch,
            channels,
            filters,
            groups,
            offsets,
            input,
            kernel,
            out: [oh, ow],
            strides,
            dilations,
            pads,
        })
    }

    fn taken(&self) -> u64 {
        self.kernel[0] * self.kernel[1]
    }

    fn points(&self) -> u64 {
        self.out[0] * self.out[1]
    }

    /// Coordinates along axis `d`, of shape `[batch, offset groups, kernel, points]`.
    fn places(&self, c: &mut Ctx<'_>, offset: Value, d: usize, wide: ScalarType) -> Result<Value, Fail> {
        let (taken, points) = (self.taken(), self.points());
        let all = c.reshape(offset, vec![self.batch, self.offsets, taken, 2, points])?;
        let own = c.slice_axis(all, 3, d as u64, 1)?;
        let own = c.reshape(own, vec![self.batch, self.offsets, taken, points])?;
        let own = c.cast(own, wide)?;
        let pick = |i: u64, inner: u64, size: u64| (i / inner % size) as f64;
        let kernel_inner = if d == 0 { self.kernel[1] } else { 1 };
        let out_inner = if d == 0 { self.out[1] } else { 1 };
        let mut base = Vec::with_capacity((taken * points) as usize);
        for k in 0..taken {
            let inside = pick(k, kernel_inner, self.kernel[d]) * self.dilations[d] as f64;
            for p in 0..points {
                let start = pick(p, out_inner, self.out[d]) * self.strides[d] as f64;
                base.push(start + inside - self.pads[d] as f64);
            }
        }
        let base = c.floats(wide, vec![taken, points], &base)?;
        c.binary(BinaryOp::Add, own, base)
    }
}

/// The sampled elements of each kernel position, and one product with the weights for each group.
pub(super) fn deform_conv(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let d = Deform::of(c, n)?;
    let (x, w) = (n.input(0)?, n.input(1)?);
    kernel(c, n, x, w)?;
    let (elem, wide) = (c.elem(x), wide_type(c.elem(x)));
    let (taken, points, each) = (d.taken(), d.points(), d.channels / d.offsets);
    if taken.saturating_mul(points) > 1 << 24 {
        return Err(unsupported(format!(
            "a deformable convolution at {points} points; at most 2^24 are supported"
        )));
    }
    // A row for each position and group of channels: [batch, h, w, offset groups] rows of [channels of the group].
    let rows = rows_of(c, x)?;
    let positions = d.input[0] * d.input[1];
    let rows = c.reshape(rows, vec![d.batch * positions * d.offsets, each])?;
    let mut taps = Vec::new();
    for axis in 0..2 {
        let place = d.places(c, n.input(2)?, axis, wide)?;
        taps.push(Line::new(d.input[axis], true, Beyond::Zeros).taps(c, place, Kernel::Linear)?);
    }
    // The group is the innermost axis of a row's number; every coordinate has its own.
    let table = Table { rows, sizes: vec![d.input[0], d.input[1], d.offsets] };
    let numbers: Vec<f64> = (0..d.offsets).map(|g| g as f64).collect();
    let group = c.floats(wide, vec![1, d.offsets, 1, 1], &numbers)?;
    taps.push(vec![super::sampling::Tap { position: group, weight: None, inside: None }]);
    let base = batch_base(c, d.batch, positions * d.offsets, 4)?;
    let mut columns = table.read(c, &taps, base, wide)?;
    if let Some(mask) = n.opt(4) {
        let mask = c.reshape(mask, vec![d.batch, d.offsets, taken, points])?;
        let mask = c.cast(mask, wide)?;
        columns = super::sampling::weigh(c, columns, Some(mask))?;
    }
    let columns = c.permute(columns, vec![0, 2, 3, 1, 4])?;
    let columns = c.reshape(columns, vec![d.batch, taken, points, d.channels])?;
    let (depth, own) = (d.channels / d.groups, d.filters / d.groups);
    let w = c.cast(w, wide)?;
    let w = c.reshape(w, vec![d.filters, depth, taken])?;
    let mut parts = Vec::new();
    for g in 0..d.groups {
        let part = c.slice_axis(columns, 3, g * depth, depth)?;
        let filters = c.slice_axis(w, 0, g * own, own)?;
        parts.push(c.contract_as("nkpc,ock->nop", part, filters, wide)?);
    }
    let mut y = c.concat(&parts, 1)?;
    if let Some(bias) = n.opt(3) {
        let bias = c.cast(bias, wide)?;
        let bias = c.reshape(bias, vec![d.filters, 1])?;
        y = c.binary(BinaryOp::Add, y, bias)?;
    }
    let y = c.reshape(y, vec![d.batch, d.filters, d.out[0], d.out[1]])?;
    Ok(vec![c.cast(y, elem)?])
}
