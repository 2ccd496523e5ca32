//! Growth of an axis by a whole number, without gathers: result positions of one remainder are a weighted sum of shifted
//! copies of the operand, and the sums interleave.

use lacuna_ir::Value;
use lacuna_ir::op::BinaryOp;

use super::resize_taps::Taps;
use crate::context::Ctx;
use crate::diagnostic::Fail;

/// The greatest factor that is taken apart: each remainder is a sum of its own.
const MAX_FACTOR: usize = 8;

/// The greatest distance of an element that has a weight.
const MAX_SHIFT: i64 = 4;

/// Where positions of remainder `p` and weight `t` stand: `shifts[p][t]` elements behind their own.
struct Phases {
    factor: usize,
    size: usize,
    shifts: Vec<Vec<i64>>,
}

impl Phases {
    /// `None` where the elements of some position lie otherwise.
    fn of(taps: &Taps, size: usize) -> Option<Phases> {
        let n_out = taps.positions.len() / taps.width;
        let factor = n_out.checked_div(size)?;
        if !(2..=MAX_FACTOR).contains(&factor) || n_out != factor * size {
            return None;
        }
        let at = |j: usize, p: usize, t: usize| taps.positions[(j * factor + p) * taps.width + t];
        let middle = size / 2;
        let shift = |p: usize, t: usize| at(middle, p, t) - middle as i64;
        let shifts: Vec<Vec<i64>> =
            (0..factor).map(|p| (0..taps.width).map(|t| shift(p, t)).collect()).collect();
        let last = size as i64 - 1;
        let regular = (0..size).all(|j| {
            let place = |p: usize, t: usize| (j as i64 + shifts[p][t]).clamp(0, last);
            (0..factor).all(|p| (0..taps.width).all(|t| at(j, p, t) == place(p, t)))
        });
        let near = shifts.iter().flatten().all(|s| s.abs() <= MAX_SHIFT);
        (regular && near).then_some(Phases { factor, size, shifts })
    }
}

/// Dimension `d` of `x` resampled; `None` where it does not grow by a whole number in a regular way.
pub(super) fn by_phases(c: &mut Ctx<'_>, x: Value, d: usize, taps: &Taps) -> Result<Option<Value>, Fail> {
    let shape = c.shape(x);
    let size = usize::try_from(shape[d]).unwrap_or(usize::MAX);
    let Some(phases) = Phases::of(taps, size).filter(|_| shape.rank() < lacuna_ir::types::MAX_RANK) else {
        return Ok(None);
    };
    // The elements at both borders repeat as far as shifts reach.
    let reach = |sign: i64| phases.shifts.iter().flatten().map(|s| s * sign).fold(0, i64::max) as usize;
    let (before, after) = (reach(-1), reach(1));
    let (first, last) = (c.slice_axis(x, d, 0, 1)?, c.slice_axis(x, d, shape[d] - 1, 1)?);
    let mut parts = vec![first; before];
    parts.push(x);
    parts.extend(vec![last; after]);
    let padded = c.concat(&parts, d)?;
    let mut unit = shape.clone();
    unit.0.insert(d + 1, 1);
    let mut sums = Vec::with_capacity(phases.factor);
    for p in 0..phases.factor {
        let mut sum: Option<Value> = None;
        for t in 0..taps.width {
            let start = before as i64 + phases.shifts[p][t];
            let shifted = c.slice_axis(padded, d, start as u64, shape[d])?;
            let weights: Vec<f64> =
                (0..phases.size).map(|j| taps.weights[(j * phases.factor + p) * taps.width + t]).collect();
            let term = weigh_along(c, shifted, d, &weights)?;
            sum = Some(match sum {
                None => term,
                Some(sum) => c.binary(BinaryOp::Add, sum, term)?,
            });
        }
        if let Some(sum) = sum {
            sums.push(c.reshape(sum, unit.clone())?);
        }
    }
    let joined = c.concat(&sums, d + 1)?;
    let mut out = shape;
    out.0[d] *= phases.factor as u64;
    c.reshape(joined, out).map(Some)
}

/// `x` times weights along dimension `d`.
pub(super) fn weigh_along(c: &mut Ctx<'_>, x: Value, d: usize, weights: &[f64]) -> Result<Value, Fail> {
    let (elem, shape) = (c.elem(x), c.shape(x));
    // Weights that are one number in the type of `x` are one number.
    let code = |w: f64| elem.encode(w);
    if let Some(&one) = weights.first().filter(|&&w| weights.iter().all(|&other| code(other) == code(w))) {
        return c.binary_splat(BinaryOp::Mul, x, one);
    }
    let w = c.floats(elem, vec![weights.len() as u64], weights)?;
    let w = c.broadcast_along(w, d, &shape)?;
    c.binary(BinaryOp::Mul, x, w)
}
