//! Resize and Upsample: one axis after the other, each result element a weighted sum of few elements.
//!
//! The elements that have a weight are gathered and multiplied by it. A product with a banded matrix would be shorter
//! to say, but an infinity or a NaN anywhere on the axis would make all of its results NaN.

use lacuna_ir::op::{BinaryOp, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use super::movement::take;
use super::resize_phases::{by_phases, weigh_along};
use super::resize_taps::{Mode, Rounding, Sampling, Taps, Transform};
use crate::call::{Call, axes};
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;
use crate::limits::check_shape;

type Results = Result<Vec<Value>, Fail>;

/// Sizes and scales of every axis.
struct Plan {
    sizes: Vec<u64>,
    scales: Vec<f64>,
    /// Start and end of the region of interest, as shares of the axis.
    regions: Vec<[f64; 2]>,
}

/// Operator sets 7 and 9: scales, by attribute or operand.
pub(super) fn upsample(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let scales: Vec<f64> = match n.floats("scales")? {
        Some(scales) => scales.iter().map(|&s| s.into()).collect(),
        None => c.const_floats(n.input(1)?, "the scales operand")?,
    };
    by_scales(c, n, x, &scales)
}

/// The first form of Resize, and Upsample: positions are divided by the scale.
fn by_scales(c: &mut Ctx<'_>, n: &Call<'_>, x: Value, scales: &[f64]) -> Results {
    let mode = match n.string("mode", "nearest")? {
        "nearest" => Mode::Nearest(Rounding::ByScale),
        // An early name of the same.
        "linear" | "bilinear" => Mode::Linear,
        other => return Err(invalid(format!("mode is {other:?}"))),
    };
    let shape = c.shape(x);
    let over: Vec<u8> = (0..shape.rank() as u8).collect();
    let plan = Plan::by_scales(&shape, &over, scales, &[])?;
    let sampling =
        Sampling { mode, transform: Transform::SingleAsymmetric, antialias: false, exclude: false };
    Ok(vec![apply(c, x, &plan, &sampling, 0.0)?])
}

pub(super) fn resize(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    if n.opset < 11 {
        let scales = c.const_floats(n.input(1)?, "the scales operand")?;
        return by_scales(c, n, x, &scales);
    }
    let shape = c.shape(x);
    let over = match n.ints("axes")? {
        Some(given) => axes(given, shape.rank())?,
        None => (0..shape.rank() as u8).collect(),
    };
    let sampling = sampling(n)?;
    let given = |c: &Ctx<'_>, i: usize| n.opt(i).filter(|&v| c.shape(v).elements() > 0);
    let roi = match given(c, 1) {
        Some(v) if sampling.transform == Transform::CropAndResize => c.const_floats(v, "the roi operand")?,
        Some(_) => Vec::new(),
        None if sampling.transform == Transform::CropAndResize => {
            return Err(invalid("tf_crop_and_resize needs the operand roi"));
        }
        None => Vec::new(),
    };
    // Scales leave no choice of a policy.
    let policy = n.string("keep_aspect_ratio_policy", "stretch")?;
    let plan = match (given(c, 2), given(c, 3)) {
        (Some(v), None) => {
            let scales = c.const_floats(v, "the scales operand")?;
            Plan::by_scales(&shape, &over, &scales, &roi)?
        }
        (None, Some(v)) => {
            let sizes = c.const_ints(v, "the sizes operand")?;
            Plan::by_sizes(&shape, &over, &sizes, policy, &roi)?
        }
        _ => return Err(invalid("exactly one of scales and sizes must be given")),
    };
    Ok(vec![apply(c, x, &plan, &sampling, n.float("extrapolation_value", 0.0)?)?])
}

fn sampling(n: &Call<'_>) -> Result<Sampling, Fail> {
    let rounding = match n.string("nearest_mode", "round_prefer_floor")? {
        "round_prefer_floor" => Rounding::PreferFloor,
        "round_prefer_ceil" => Rounding::PreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        other => return Err(invalid(format!("nearest_mode is {other:?}"))),
    };
    let coefficient = n.float("cubic_coeff_a", -0.75)?;
    let mode = match n.string("mode", "nearest")? {
        "nearest" => Mode::Nearest(rounding),
        "linear" => Mode::Linear,
        "cubic" => Mode::Cubic(coefficient),
        other => return Err(invalid(format!("mode is {other:?}"))),
    };
    let transform = match n.string("coordinate_transformation_mode", "half_pixel")? {
        "half_pixel" => Transform::HalfPixel,
        "half_pixel_symmetric" => Transform::HalfPixelSymmetric,
        "pytorch_half_pixel" => Transform::PytorchHalfPixel,
        "align_corners" => Transform::AlignCorners,
        "asymmetric" => Transform::Asymmetric,
        "tf_half_pixel_for_nn" => Transform::TfHalfPixel,
        "tf_crop_and_resize" => Transform::CropAndResize,
        other => return Err(invalid(format!("coordinate_transformation_mode is {other:?}"))),
    };
    let antialias = n.flag("antialias", false)?;
    if antialias && matches!(mode, Mode::Nearest(_)) {
        return Err(invalid("antialias has no meaning in mode nearest"));
    }
    Ok(Sampling { mode, transform, antialias, exclude: n.flag("exclude_outside", false)? })
}

impl Plan {
    /// Every axis as it is.
    fn of(shape: &Shape, over: &[u8], roi: &[f64]) -> Result<Plan, Fail> {
        let mut regions = vec![[0.0, 1.0]; shape.rank()];
        if !roi.is_empty() {
            if roi.len() != 2 * over.len() {
                return Err(invalid(format!("roi has {} numbers for {} axes", roi.len(), over.len())));
            }
            for (i, &a) in over.iter().enumerate() {
                regions[usize::from(a)] = [roi[i], roi[over.len() + i]];
            }
        }
        Ok(Plan { sizes: shape.0.clone(), scales: vec![1.0; shape.rank()], regions })
    }

    fn by_scales(shape: &Shape, over: &[u8], scales: &[f64], roi: &[f64]) -> Result<Plan, Fail> {
        if scales.len() != over.len() || !scales.iter().all(|s| s.is_finite() && *s > 0.0) {
            return Err(invalid(format!("scales are {scales:?} for {} axes", over.len())));
        }
        let mut plan = Plan::of(shape, over, roi)?;
        for (&a, &scale) in over.iter().zip(scales) {
            let a = usize::from(a);
            // Scales are f32, and so is the product, as in ONNX's inference of shapes: 1000 times 3.3 is 3300. The cast
            // saturates; a size that is too large is refused with its shape.
            plan.sizes[a] =
                if scale == 1.0 { shape[a] } else { (shape[a] as f32 * scale as f32).floor() as u64 };
            plan.scales[a] = scale;
        }
        plan.checked()
    }

    fn by_sizes(shape: &Shape, over: &[u8], sizes: &[i64], policy: &str, roi: &[f64]) -> Result<Plan, Fail> {
        if sizes.len() != over.len() || sizes.iter().any(|&s| s < 0) {
            return Err(invalid(format!("sizes are {sizes:?} for {} axes", over.len())));
        }
        let mut plan = Plan::of(shape, over, roi)?;
        for (&a, &size) in over.iter().zip(sizes) {
            let a = usize::from(a);
            plan.sizes[a] = size as u64;
            plan.scales[a] = if plan.sizes[a] == shape[a] { 1.0 } else { size as f64 / shape[a] as f64 };
        }
        let scales = over.iter().map(|&a| plan.scales[usize::from(a)]);
        let scale = match policy {
            "stretch" => return plan.checked(),
            "not_larger" => scales.fold(f64::INFINITY, f64::min),
            "not_smaller" => scales.fold(0.0, f64::max),
            other => return Err(invalid(format!("keep_aspect_ratio_policy is {other:?}"))),
        };
        for &a in over {
            let a = usize::from(a);
            plan.sizes[a] = (scale * shape[a] as f64 + 0.5) as u64;
            plan.scales[a] = scale;
        }
        plan.checked()
    }

    fn checked(self) -> Result<Plan, Fail> {
        check_shape(&Shape(self.sizes.clone())).map_err(invalid)?;
        match self.sizes.iter().all(|&s| s < 1 << 24) {
            true => Ok(self),
            false => Err(unsupported(format!("a resize to {:?}; a side may have 2^24 elements", self.sizes))),
        }
    }
}

/// Resizes every axis that changes.
fn apply(c: &mut Ctx<'_>, x: Value, plan: &Plan, how: &Sampling, outside: f64) -> Result<Value, Fail> {
    let shape = c.shape(x);
    let out = Shape(plan.sizes.clone());
    let elem = c.elem(x);
    if out.elements() == 0 {
        return c.splat(elem, &out, 0.0);
    }
    if shape.elements() == 0 {
        return Err(invalid(format!("a resize of {shape} to {out}")));
    }
    let mut all = Vec::new();
    for d in 0..shape.rank() {
        let changes = plan.scales[d] != 1.0
            || shape[d] != out[d]
            || (how.transform == Transform::CropAndResize && plan.regions[d] != [0.0, 1.0]);
        if changes {
            all.push((d, Taps::of(how, shape[d], out[d], plan.scales[d], plan.regions[d])));
        }
    }
    let (mut low, mut high) = (vec![0; shape.rank()], vec![0; shape.rank()]);
    for (d, taps) in &all {
        (low[*d], high[*d]) = taps.outside;
        if taps.is_all_outside() {
            return c.splat(elem, &out, outside);
        }
    }
    let mut y = match how.mode {
        Mode::Nearest(_) => nearest(c, x, &all)?,
        Mode::Linear | Mode::Cubic(_) => weighted(c, x, all)?,
    };
    if low.iter().chain(&high).any(|&n| n > 0) {
        let value = c.splat(elem, &Shape::default(), outside)?;
        y = c.emit(Op::Pad { low, high }, &[y, value])?;
    }
    Ok(y)
}

/// Repetition by whole numbers is a broadcast, a regular choice a slice, and anything else a gather.
fn nearest(c: &mut Ctx<'_>, x: Value, all: &[(usize, Taps)]) -> Result<Value, Fail> {
    let mut y = x;
    let mut factors = vec![1; c.rank(x)];
    for (d, taps) in all {
        let size = c.shape(y)[*d];
        let p = &taps.positions;
        let factor = p.len() as u64 / size;
        if p.len() as u64 == factor * size && (0..p.len()).all(|i| p[i] == i as i64 / factor as i64) {
            factors[*d] = factor;
            continue;
        }
        let step = if p.len() > 1 { p[1] - p[0] } else { 1 };
        if step > 0 && p.windows(2).all(|w| w[1] - w[0] == step) {
            let mut shape = c.shape(y);
            let (mut starts, mut steps) = (vec![0; shape.rank()], vec![1; shape.rank()]);
            (starts[*d], shape.0[*d], steps[*d]) = (p[0], p.len() as u64, step);
            y = c.emit(Op::Slice { starts, shape, steps }, &[y])?;
            continue;
        }
        y = take(c, y, *d, p)?;
    }
    repeat(c, y, &factors)
}

/// Every element of a dimension `factor` times in a row.
fn repeat(c: &mut Ctx<'_>, x: Value, factors: &[u64]) -> Result<Value, Fail> {
    if factors.iter().all(|&f| f == 1) {
        return Ok(x);
    }
    let shape = c.shape(x);
    let out: Shape = shape.iter().zip(factors).map(|(&s, &f)| s * f).collect();
    // Dimensions that keep their size join those before them, so that the rank stays low.
    let (mut joined, mut dims, mut wide) = (Vec::new(), Vec::new(), Vec::new());
    let mut open = false;
    for (&size, &factor) in shape.iter().zip(factors) {
        if factor == 1 && open {
            *joined.last_mut().unwrap_or(&mut 1) *= size;
            *wide.last_mut().unwrap_or(&mut 1) *= size;
            continue;
        }
        joined.push(size);
        dims.push(wide.len() as u8);
        wide.push(size);
        if factor > 1 {
            wide.push(factor);
        }
        open = factor == 1;
    }
    if wide.len() > lacuna_ir::types::MAX_RANK {
        return Err(unsupported(format!("a repetition of {} dimensions", factors.len())));
    }
    let x = c.reshape(x, joined)?;
    let x = c.emit(Op::Broadcast { dims, shape: wide.into() }, &[x])?;
    c.reshape(x, out)
}

/// Types in which sums of weighted elements are computed: f32, or f64 for what f32 does not hold.
fn wide_type(elem: ScalarType) -> ScalarType {
    match elem {
        ScalarType::F64 | ScalarType::I32 | ScalarType::U32 | ScalarType::I64 | ScalarType::U64 => {
            ScalarType::F64
        }
        _ => ScalarType::F32,
    }
}

/// Axes that shrink come first: less is left for the others.
fn weighted(c: &mut Ctx<'_>, x: Value, mut all: Vec<(usize, Taps)>) -> Result<Value, Fail> {
    let elem = c.elem(x);
    let wide = wide_type(elem);
    let shape = c.shape(x);
    all.sort_by_key(|(d, taps)| (taps.positions.len() as u64 / taps.width as u64 * 1024) / shape[*d].max(1));
    let mut y = c.cast(x, wide)?;
    for (d, taps) in &all {
        y = weighted_axis(c, y, *d, taps)?;
    }
    // As `saturate_cast` of ONNX's reference does; ONNX Runtime cuts off.
    if elem.is_int() {
        y = c.unary(UnaryOp::Round, y)?;
    }
    c.cast(y, elem)
}

fn weighted_axis(c: &mut Ctx<'_>, x: Value, d: usize, taps: &Taps) -> Result<Value, Fail> {
    if let Some(y) = by_phases(c, x, d, taps)? {
        return Ok(y);
    }
    let elem = c.elem(x);
    let n_out = taps.positions.len() / taps.width;
    if taps.width > MAX_TERMS {
        let index = c.ints(vec![n_out as u64, taps.width as u64], &taps.positions)?;
        let picked = c.emit(Op::Gather { axis: d as u8, batch: 0 }, &[x, index])?;
        let w = c.floats(elem, vec![n_out as u64, taps.width as u64], &taps.weights)?;
        let shape = c.shape(picked);
        let w = c.emit(Op::Broadcast { dims: vec![d as u8, d as u8 + 1], shape }, &[w])?;
        let terms = c.binary(BinaryOp::Mul, picked, w)?;
        return c.reduce(ReduceOp::Sum, terms, &[d as u8 + 1], false);
    }
    let mut sum = None;
    for t in 0..taps.width {
        let column = |i: usize| i * taps.width + t;
        let positions: Vec<i64> = (0..n_out).map(|i| taps.positions[column(i)]).collect();
        let picked = take(c, x, d, &positions)?;
        let weights: Vec<f64> = (0..n_out).map(|i| taps.weights[column(i)]).collect();
        let term = weigh_along(c, picked, d, &weights)?;
        sum = Some(match sum {
            None => term,
            Some(sum) => c.binary(BinaryOp::Add, sum, term)?,
        });
    }
    sum.ok_or_else(|| invalid("a resize without weights"))
}

/// Up to this many weights for an element, each is a gather and a term of a sum; more are a dimension that is summed.
const MAX_TERMS: usize = 4;
