//! Pools: padding, sliding windows and a reduction over the elements of each window.

use lacuna_ir::op::{BinaryOp, CompareOp, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::ScalarType;

use crate::call::Call;
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Strides, dilations and pads of the spatial axes, the automatic ones computed.
pub(super) struct Spatial {
    pub strides: Vec<u64>,
    pub dilations: Vec<u64>,
    /// Elements before each axis.
    pub low: Vec<u64>,
    /// Elements after each axis, as the model asks for them.
    pub high: Vec<u64>,
    /// Positions of the kernel on each axis.
    pub positions: Vec<u64>,
}

/// The attribute `auto_pad`, of which an empty string is the default too.
pub(super) fn auto_pad(n: &Call<'_>) -> Result<&'static str, Fail> {
    match n.string("auto_pad", "")? {
        "" => Ok("NOTSET"),
        _ => n.choice("auto_pad", &["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    }
}

/// Reads `strides`, `dilations`, `pads` and `auto_pad` for a kernel over axes of the given extents (up to 2^40).
///
/// With `ceil`, positions are rounded up, but a window that would begin in the padding after the axis is left out.
pub(super) fn spatial(n: &Call<'_>, extents: &[u64], kernel: &[u64], ceil: bool) -> Result<Spatial, Fail> {
    let s = kernel.len();
    let strides = n.sizes("strides", s, 1)?;
    let dilations = n.sizes("dilations", s, 1)?;
    let auto = auto_pad(n)?;
    let spans: Vec<u64> = (0..s).map(|i| (kernel[i] - 1) * dilations[i] + 1).collect();
    let (mut low, mut high) = (vec![0; s], vec![0; s]);
    match auto {
        "NOTSET" => {
            if let Some(pads) = n.ints("pads")? {
                if pads.len() != 2 * s || pads.iter().any(|p| !(0..1 << 31).contains(p)) {
                    return Err(invalid(format!("pads are {pads:?}, not {} amounts", 2 * s)));
                }
                low = pads[..s].iter().map(|&p| p as u64).collect();
                high = pads[s..].iter().map(|&p| p as u64).collect();
            }
        }
        "VALID" => n.pass_over(&["pads"]),
        _ => {
            // Exporters write zeros beside an automatic padding.
            n.pass_over(&["pads"]);
            for i in 0..s {
                let positions = extents[i].div_ceil(strides[i]);
                let reach = positions.saturating_sub(1) * strides[i] + spans[i];
                let total = reach.saturating_sub(extents[i]);
                let half = total / 2;
                (low[i], high[i]) =
                    if auto == "SAME_UPPER" { (half, total - half) } else { (total - half, half) };
            }
        }
    }
    let mut positions = Vec::with_capacity(s);
    for i in 0..s {
        let padded = extents[i] + low[i] + high[i];
        let mut count = match padded.checked_sub(spans[i]) {
            Some(room) => room / strides[i] + 1,
            // Rounded up, the first window may reach beyond the axis by less than a stride.
            None if ceil && padded > 0 && spans[i] - padded < strides[i] => 1,
            None => {
                let reason = format!("a kernel of extent {} over {padded} elements", spans[i]);
                return Err(invalid(reason));
            }
        };
        let reach = (count - 1) * strides[i] + spans[i];
        if ceil && reach < padded && count * strides[i] < extents[i] + low[i] {
            count += 1;
        }
        positions.push(count);
    }
    Ok(Spatial { strides, dilations, low, high, positions })
}

/// The operand with `fill` around its spatial axes, so that every window lies inside.
fn padded(c: &mut Ctx<'_>, x: Value, kernel: &[u64], s: &Spatial, fill: f64) -> Result<Value, Fail> {
    let shape = c.shape(x);
    // Rounding up may need more elements after the axis than the model's pads.
    let high: Vec<u64> = (0..kernel.len())
        .map(|i| {
            let reach = (s.positions[i] - 1) * s.strides[i] + (kernel[i] - 1) * s.dilations[i] + 1;
            s.high[i].max(reach.saturating_sub(shape[i + 2] + s.low[i]))
        })
        .collect();
    if s.low.iter().chain(&high).all(|&p| p == 0) {
        return Ok(x);
    }
    let fill = c.splat(c.elem(x), &Shape::default(), fill)?;
    let with_channels = |pads: &[u64]| [&[0, 0], pads].concat();
    c.emit(Op::Pad { low: with_channels(&s.low), high: with_channels(&high) }, &[x, fill])
}

/// A pool's operand, padded with `fill`, as windows over all its spatial axes: one dimension more for each.
fn windows(c: &mut Ctx<'_>, pool: &Pool, fill: f64) -> Result<Value, Fail> {
    let s = &pool.spatial;
    let padded = padded(c, pool.x, &pool.kernel, s, fill)?;
    let window = Op::Window {
        axes: (0..pool.kernel.len()).map(|i| i as u8 + 2).collect(),
        sizes: pool.kernel.clone(),
        strides: s.strides.clone(),
        dilations: s.dilations.clone(),
    };
    c.emit(window, &[padded])
}

/// Reduces the windows of an operand over its spatial axes, padded with `fill`.
///
/// Windows over more than two axes are reduced one axis after the other, which is the same for every reduction and spares
/// a tensor of twice as many dimensions.
fn reduce_windows(
    c: &mut Ctx<'_>,
    x: Value,
    kernel: &[u64],
    s: &Spatial,
    fill: f64,
    op: ReduceOp,
) -> Result<Value, Fail> {
    let (n, rank) = (kernel.len(), c.rank(x));
    let padded = padded(c, x, kernel, s, fill)?;
    let together = if n > 2 { 1 } else { n };
    let mut reduced = padded;
    for first in (0..n).step_by(together) {
        let axes = first..first + together;
        let window = Op::Window {
            axes: axes.clone().map(|i| i as u8 + 2).collect(),
            sizes: kernel[axes.clone()].to_vec(),
            strides: s.strides[axes.clone()].to_vec(),
            dilations: s.dilations[axes].to_vec(),
        };
        let windows = c.emit(window, &[reduced])?;
        let inner: Vec<u8> = (rank..rank + together).map(|d| d as u8).collect();
        reduced = c.reduce(op, windows, &inner, false)?;
    }
    Ok(reduced)
}

/// The operand of a pool, its kernel and spatial attributes.
struct Pool {
    pub x: Value,
    pub kernel: Vec<u64>,
    pub spatial: Spatial,
}

fn pool(c: &mut Ctx<'_>, n: &Call<'_>) -> Result<Pool, Fail> {
    let x = n.input(0)?;
    let shape = c.shape(x);
    if shape.rank() < 3 {
        return Err(invalid(format!("a pool of {}", c.b.ty(x))));
    }
    if 2 * shape.rank() - 2 > lacuna_ir::types::MAX_RANK {
        return Err(unsupported("a pool over more than three spatial axes"));
    }
    if !n.has("kernel_shape") {
        return Err(invalid("kernel_shape is missing"));
    }
    let kernel = n.sizes("kernel_shape", shape.rank() - 2, 1)?;
    let spatial = spatial(n, &shape[2..], &kernel, n.flag("ceil_mode", false)?)?;
    Ok(Pool { x, kernel, spatial })
}

pub(super) fn max_pool(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let pool = pool(c, n)?;
    let mut results =
        vec![reduce_windows(c, pool.x, &pool.kernel, &pool.spatial, f64::NEG_INFINITY, ReduceOp::Max)?];
    let column_major = n.flag("storage_order", false)?;
    if n.wants(1) {
        results.push(max_indices(c, &pool, column_major)?);
    }
    Ok(results)
}

/// Windows along one axis whose elements are counted.
const MAX_POSITIONS: u64 = 1 << 26;

/// AveragePool.
pub(super) fn average_pool(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    average(c, n, false)
}

/// AveragePool; where pads count and `whole` is set, a window that ends beyond them is divided by the whole kernel.
pub(super) fn average(c: &mut Ctx<'_>, n: &Call<'_>, whole: bool) -> Results {
    let Pool { x, kernel, spatial: s } = pool(c, n)?;
    let count_pads = n.flag("count_include_pad", false)?;
    let shape = c.shape(x);
    if let Some(positions) = s.positions.iter().find(|&&positions| positions > MAX_POSITIONS) {
        return Err(unsupported(format!(
            "{positions} windows along an axis; at most {MAX_POSITIONS} are supported"
        )));
    }
    // Elements of each window that count, on each axis: those of the operand, and of the model's own pads if asked.
    let counts: Vec<Vec<f64>> = (0..kernel.len())
        .map(|i| {
            let (first, last) = match count_pads {
                true if whole => (0, u64::MAX),
                true => (0, s.low[i] + shape[i + 2] + s.high[i]),
                false => (s.low[i], s.low[i] + shape[i + 2]),
            };
            let counted = |o: u64| {
                // Kernel elements k with first <= o * stride + k * dilation < last.
                let start = o * s.strides[i];
                let below = |end: u64| end.saturating_sub(start).div_ceil(s.dilations[i]).min(kernel[i]);
                (below(last) - below(first)) as f64
            };
            (0..s.positions[i]).map(counted).collect()
        })
        .collect();
    if counts.iter().zip(&kernel).all(|(axis, &k)| axis.iter().all(|&n| n == k as f64)) {
        return Ok(vec![reduce_windows(c, x, &kernel, &s, 0.0, ReduceOp::Mean)?]);
    }
    let mut sum = reduce_windows(c, x, &kernel, &s, 0.0, ReduceOp::Sum)?;
    let shape = c.shape(sum);
    for (i, axis) in counts.into_iter().enumerate() {
        let values: Vec<f32> = axis.into_iter().map(|n| n as f32).collect();
        let divisor =
            c.b.const_f32(vec![values.len() as u64], &values).map_err(|e| invalid(e.to_string()))?;
        let divisor = c.cast(divisor, c.elem(sum))?;
        let divisor = c.broadcast_along(divisor, i + 2, &shape)?;
        sum = c.binary(BinaryOp::Div, sum, divisor)?;
    }
    Ok(vec![sum])
}

/// The exponent of a norm, a float in the first operator set.
fn exponent(n: &Call<'_>) -> Result<f64, Fail> {
    if n.opset < 2 { n.float("p", 2.0) } else { Ok(n.int("p", 2)? as f64) }
}

/// `|x|^p`.
fn lp_powers(c: &mut Ctx<'_>, x: Value, p: f64) -> Result<Value, Fail> {
    let magnitude = c.unary(UnaryOp::Abs, x)?;
    match p {
        1.0 => Ok(magnitude),
        2.0 => c.binary(BinaryOp::Mul, x, x),
        _ => c.binary_splat(BinaryOp::Pow, magnitude, p),
    }
}

/// `sum^(1/p)`.
fn lp_root(c: &mut Ctx<'_>, sum: Value, p: f64) -> Result<Value, Fail> {
    match p {
        1.0 => Ok(sum),
        2.0 => c.unary(UnaryOp::Sqrt, sum),
        _ => c.binary_splat(BinaryOp::Pow, sum, 1.0 / p),
    }
}

pub(super) fn lp_pool(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let Pool { x, kernel, spatial: s } = pool(c, n)?;
    let p = exponent(n)?;
    let powers = lp_powers(c, x, p)?;
    let sum = reduce_windows(c, powers, &kernel, &s, 0.0, ReduceOp::Sum)?;
    Ok(vec![lp_root(c, sum, p)?])
}

fn spatial_axes(c: &Ctx<'_>, x: Value) -> Result<Vec<u8>, Fail> {
    match c.rank(x) {
        0..2 => Err(invalid(format!("a pool of {}", c.b.ty(x)))),
        rank => Ok((2..rank as u8).collect()),
    }
}

pub(super) fn global_pool(c: &mut Ctx<'_>, n: &Call<'_>, op: ReduceOp) -> Results {
    let x = n.input(0)?;
    let axes = spatial_axes(c, x)?;
    Ok(vec![c.reduce(op, x, &axes, true)?])
}

pub(super) fn global_lp_pool(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let axes = spatial_axes(c, x)?;
    let p = exponent(n)?;
    let powers = lp_powers(c, x, p)?;
    let sum = c.reduce(ReduceOp::Sum, powers, &axes, true)?;
    Ok(vec![lp_root(c, sum, p)?])
}

/// `x / (bias + alpha / size * sum of squares over neighbouring channels)^beta`.
pub(super) fn lrn(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let rank = c.rank(x);
    let size = n.int("size", 0)?;
    let Some(size) = u64::try_from(size).ok().filter(|s| (1..1 << 20).contains(s) && rank >= 2) else {
        return Err(invalid(format!("LRN of {} over {size} channels", c.b.ty(x))));
    };
    let square = c.binary(BinaryOp::Mul, x, x)?;
    let (mut low, mut high) = (vec![0; rank], vec![0; rank]);
    (low[1], high[1]) = ((size - 1) / 2, size / 2);
    let zero = c.splat(c.elem(x), &Shape::default(), 0.0)?;
    let padded = c.emit(Op::Pad { low, high }, &[square, zero])?;
    let window = Op::Window { axes: vec![1], sizes: vec![size], strides: vec![1], dilations: vec![1] };
    let w = c.emit(window, &[padded])?;
    let sum = c.reduce(ReduceOp::Sum, w, &[rank as u8], false)?;
    let scaled = c.binary_splat(BinaryOp::Mul, sum, n.float("alpha", 1e-4)? / size as f64)?;
    let base = c.binary_splat(BinaryOp::Add, scaled, n.float("bias", 1.0)?)?;
    let power = c.binary_splat(BinaryOp::Pow, base, n.float("beta", 0.75)?)?;
    Ok(vec![c.binary(BinaryOp::Div, x, power)?])
}

/// Positions of the greatest element of each window, the first of equal ones, counted through the whole operand: row-major, or
/// column-major within the spatial axes.
fn max_indices(c: &mut Ctx<'_>, pool: &Pool, column_major: bool) -> Result<Value, Fail> {
    let (shape, s) = (c.shape(pool.x), pool.kernel.len());
    let lowest = if c.elem(pool.x).is_float() { f64::NEG_INFINITY } else { f64::MIN };
    let windows = windows(c, pool, lowest)?;
    let mut flat = c.shape(windows).0;
    flat.truncate(s + 2);
    let positions: Shape = flat.clone().into();
    flat.push(pool.kernel.iter().product());
    let windows = c.reshape(windows, flat)?;
    let best = c.emit(Op::ArgReduce { max: true, axis: s as u8 + 2, last: false }, &[windows])?;
    // Distance of a step along each spatial axis in the result's numbering.
    let step = |d: usize| -> u64 {
        let faster = if column_major { &shape[2..2 + d] } else { &shape[3 + d..] };
        faster.iter().product()
    };
    let plane: u64 = shape[2..].iter().product();
    let mut total = c.iota(ScalarType::I64, &positions, 0)?;
    total = c.binary_splat(BinaryOp::Mul, total, (shape[1] * plane) as f64)?;
    let channel = c.iota(ScalarType::I64, &positions, 1)?;
    let channel = c.binary_splat(BinaryOp::Mul, channel, plane as f64)?;
    total = c.binary(BinaryOp::Add, total, channel)?;
    let at = places(c, pool, best, &positions)?;
    for (d, at) in at.into_iter().enumerate() {
        let at = c.binary_splat(BinaryOp::Mul, at, step(d) as f64)?;
        total = c.binary(BinaryOp::Add, total, at)?;
    }
    Ok(total)
}

/// The position along each spatial axis of element `best` of each window.
///
/// Where all elements of a window are the least of their type, the padding before them is equal and comes first: then it is the first
/// element behind the padding.
fn places(c: &mut Ctx<'_>, pool: &Pool, best: Value, positions: &Shape) -> Result<Vec<Value>, Fail> {
    let (s, spatial) = (pool.kernel.len(), &pool.spatial);
    let mut places = Vec::new();
    let mut is_inside: Option<Value> = None;
    for d in 0..s {
        let inner: u64 = pool.kernel[d + 1..].iter().product();
        let within = c.binary_splat(BinaryOp::Div, best, inner as f64)?;
        let within = c.binary_splat(BinaryOp::Rem, within, pool.kernel[d] as f64)?;
        let within = c.binary_splat(BinaryOp::Mul, within, spatial.dilations[d] as f64)?;
        let start = c.iota(ScalarType::I64, positions, d + 2)?;
        let start = c.binary_splat(BinaryOp::Mul, start, spatial.strides[d] as f64)?;
        let start = c.binary_splat(BinaryOp::Sub, start, spatial.low[d] as f64)?;
        let at = c.binary(BinaryOp::Add, start, within)?;
        if spatial.low[d] > 0 {
            let zero = c.splat_like(at, 0.0)?;
            let inside = c.compare(CompareOp::Le, zero, at)?;
            is_inside = Some(match is_inside {
                Some(others) => c.binary(BinaryOp::And, others, inside)?,
                None => inside,
            });
        }
        places.push(at);
    }
    let Some(is_inside) = is_inside else { return Ok(places) };
    for (d, at) in places.iter_mut().enumerate() {
        let [stride, dilation, low] =
            [spatial.strides[d], spatial.dilations[d], spatial.low[d]].map(|n| n as i64);
        let first = |o: u64| {
            let start = o as i64 * stride - low;
            if start < 0 { start.rem_euclid(dilation) } else { start }
        };
        let first: Vec<i64> = (0..positions[d + 2]).map(first).collect();
        let first = c.ints(vec![positions[d + 2]], &first)?;
        let first = c.broadcast_along(first, d + 2, positions)?;
        *at = c.select(is_inside, *at, first)?;
    }
    Ok(places)
}
