//! DFT, STFT, window functions and mel weights.
//!
//! A transform is a product with a constant matrix. Every element of an axis has a part in every result, so that an
//! infinity makes NaN of them all, as it does in a fast Fourier transform.

use std::f64::consts::TAU;

use lacuna_ir::op::ContractMap;
use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;

use super::precision::wide_type;
use crate::call::{Call, axis};
use crate::context::{Ctx, invalid, unsupported};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// The greatest number of elements of a transform's matrix.
const MAX_MATRIX: u64 = 1 << 26;

/// Transforms of so many elements are summed in f64.
const SHORT: u64 = 32;

/// Cosine and sine of `j` parts of `n` of a turn, exact at quarters.
fn turn(j: u64, n: u64) -> (f64, f64) {
    let j = j % n;
    match 4 * j {
        0 => (1.0, 0.0),
        q if q == n => (0.0, 1.0),
        q if q == 2 * n => (-1.0, 0.0),
        q if q == 3 * n => (0.0, -1.0),
        _ => {
            let (sin, cos) = (TAU * j as f64 / n as f64).sin_cos();
            (cos, sin)
        }
    }
}

/// A transform of `taken` elements to `given` ones.
struct Transform {
    /// Length of the signal.
    length: u64,
    taken: u64,
    given: u64,
    inverse: bool,
    /// Whether the operand has imaginary parts.
    complex: bool,
    /// Whether the inverse is of one half of the spectrum of a real signal.
    half: bool,
}

impl Transform {
    /// Parts of an element: real and imaginary.
    fn parts_in(&self) -> u64 {
        if self.complex { 2 } else { 1 }
    }

    /// The type that sums are taken in. The terms of a frequency that a signal lacks cancel to their rounding errors: where sums are
    /// short they are taken in f64, which costs little there.
    fn sum_type(&self, elem: ScalarType) -> ScalarType {
        if self.taken <= SHORT { ScalarType::F64 } else { wide_type(elem) }
    }

    fn parts_out(&self) -> u64 {
        if self.half { 1 } else { 2 }
    }

    /// The matrix `[taken, parts in, given, parts out]`.
    fn matrix(&self) -> Result<Vec<f64>, Fail> {
        let size = self.taken.saturating_mul(self.given).saturating_mul(self.parts_in() * self.parts_out());
        if size > MAX_MATRIX {
            let reason = format!("a transform of {} elements; its matrix may have 2^26", self.length);
            return Err(unsupported(reason));
        }
        let mut values = Vec::with_capacity(size as usize);
        let n = self.length;
        for t in 0..self.taken {
            // An element of half a spectrum stands for its mirror image too, which the first and the middle lack.
            let double = self.half && t != 0 && 2 * t != n;
            let scale = if self.inverse { 1.0 / n as f64 } else { 1.0 } * if double { 2.0 } else { 1.0 };
            for part in 0..self.parts_in() {
                for k in 0..self.given {
                    let (cos, sin) = turn(t * k, n);
                    let sin = if self.inverse { sin } else { -sin };
                    // (re + i im) (cos + i sin)
                    let both = if part == 0 { [cos, sin] } else { [-sin, cos] };
                    values.extend(both[..self.parts_out() as usize].iter().map(|v| v * scale));
                }
            }
        }
        Ok(values)
    }
}

pub(super) fn dft(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let shape = c.shape(x);
    let rank = shape.rank();
    let given = match (n.opset >= 20).then(|| n.opt(2)).flatten() {
        Some(v) => c.const_scalar(v, "the axis operand")? as i64,
        None => n.int("axis", if n.opset >= 20 { -2 } else { 1 })?,
    };
    let at = axis(given, rank)?;
    if at + 1 >= rank || !matches!(shape[rank - 1], 1 | 2) {
        return Err(invalid(format!("a transform of {shape} along axis {given}")));
    }
    let (inverse, onesided) = (n.flag("inverse", false)?, n.flag("onesided", false)?);
    let half = inverse && onesided;
    let length = match n.opt(1) {
        Some(v) => u64::try_from(c.const_scalar(v, "dft_length")? as i64).unwrap_or(0),
        None if half => 2 * shape[at].saturating_sub(1),
        None => shape[at],
    };
    if length == 0 || length > 1 << 26 {
        return Err(invalid(format!("a transform of length {length}")));
    }
    let useful = if half { length / 2 + 1 } else { length };
    let transform = Transform {
        length,
        taken: shape[at].min(useful),
        given: if onesided && !inverse { length / 2 + 1 } else { length },
        inverse,
        complex: shape[rank - 1] == 2,
        half,
    };
    let (elem, wide) = (c.elem(x), transform.sum_type(c.elem(x)));
    let x = c.slice_axis(x, at, 0, transform.taken)?;
    let x = if wide == ScalarType::F64 { c.cast(x, wide)? } else { x };
    let sizes = vec![transform.taken, transform.parts_in(), transform.given, transform.parts_out()];
    let matrix = c.floats(wide, sizes, &transform.matrix()?)?;
    // Labels: dimension d of the operand is d, its parts are `rank - 1`; frequencies and their parts come behind.
    let (bins, parts) = (rank as u8, rank as u8 + 1);
    let mut out: Vec<u8> = (0..rank as u8).collect();
    (out[at], out[rank - 1]) = (bins, parts);
    let map =
        ContractMap { a: (0..rank as u8).collect(), b: vec![at as u8, rank as u8 - 1, bins, parts], out };
    let y = c.emit(Op::Contract { map, elem: wide }, &[x, matrix])?;
    Ok(vec![c.cast(y, elem)?])
}

/// Overlapping frames are windows of the signal; the window function scales the matrix instead of every frame.
pub(super) fn stft(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let mut shape = c.shape(x).0;
    if shape.len() == 2 {
        shape.push(1);
    }
    let &[batch, samples, parts @ (1 | 2)] = &shape[..] else {
        return Err(invalid(format!("a signal {}", c.b.ty(x))));
    };
    let positive = |v: f64, what: &str| match v as i64 {
        v @ 1.. => Ok(v as u64),
        v => Err(invalid(format!("{what} is {v}"))),
    };
    let step = positive(c.const_scalar(n.input(1)?, "frame_step")?, "frame_step")?;
    let window = n.opt(2);
    let length = match (n.opt(3), window) {
        (Some(v), _) => positive(c.const_scalar(v, "frame_length")?, "frame_length")?,
        (None, Some(w)) => c.shape(w).elements(),
        (None, None) => return Err(invalid("neither frame_length nor a window is given")),
    };
    if length == 0 || length > samples {
        return Err(invalid(format!("frames of {length} in a signal of {samples}")));
    }
    if let Some(w) = window
        && c.shape(w)[..] != [length]
    {
        return Err(unsupported(format!("a window {} for frames of {length}", c.b.ty(w))));
    }
    let onesided = n.flag("onesided", true)?;
    let transform = Transform {
        length,
        taken: length,
        given: if onesided { length / 2 + 1 } else { length },
        inverse: false,
        complex: parts == 2,
        half: false,
    };
    let (elem, wide) = (c.elem(x), wide_type(c.elem(x)));
    let sizes = vec![length, parts, transform.given, 2];
    let mut matrix = c.floats(wide, sizes.clone(), &transform.matrix()?)?;
    if let Some(w) = window {
        let w = c.cast(w, wide)?;
        let w = c.broadcast_along(w, 0, &sizes.into())?;
        matrix = c.binary(lacuna_ir::op::BinaryOp::Mul, matrix, w)?;
    }
    let x = c.reshape(x, vec![batch, samples, parts])?;
    let frames = c.emit(
        Op::Window { axes: vec![1], sizes: vec![length], strides: vec![step], dilations: vec![1] },
        &[x],
    )?;
    let y = c.contract_as("bfpt,tpkr->bfkr", frames, matrix, wide)?;
    Ok(vec![c.cast(y, elem)?])
}

/// A constant of any floating-point or integer type.
fn constant(c: &mut Ctx<'_>, n: &Call<'_>, shape: Vec<u64>, values: &[f64]) -> Results {
    let elem = n.data_type("output_datatype")?.unwrap_or(ScalarType::F32);
    let wide = c.floats(ScalarType::F64, shape, values)?;
    Ok(vec![c.cast(wide, elem)?])
}

/// Window functions: a constant and factors of the cosine of one and two turns along the window.
pub(super) fn window(c: &mut Ctx<'_>, n: &Call<'_>, factors: [f64; 3]) -> Results {
    let size = c.const_scalar(n.input(0)?, "the size operand")?;
    if !(0.0..=16_777_216.0).contains(&size) {
        return Err(invalid(format!("a window of {size}")));
    }
    let size = size as u64;
    let span = if n.flag("periodic", true)? { size as f64 } else { size as f64 - 1.0 };
    let value = |i: u64| {
        let angle = i as f64 * TAU / span;
        factors[0] + factors[1] * angle.cos() + factors[2] * (2.0 * angle).cos()
    };
    let values: Vec<f64> = (0..size).map(value).collect();
    constant(c, n, vec![size], &values)
}

/// Triangles over frequency bins whose corners are equally far apart in mels.
pub(super) fn mel_weights(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let mut number = |i: usize, what: &str| n.input(i).and_then(|v| c.const_scalar(v, what));
    let (n_mels, length, rate) =
        (number(0, "num_mel_bins")?, number(1, "dft_length")?, number(2, "sample_rate")?);
    let (low, high) = (number(3, "lower_edge_hertz")?, number(4, "upper_edge_hertz")?);
    if !(0.0..=65536.0).contains(&n_mels) || !(0.0..=16_777_216.0).contains(&length) || rate <= 0.0 {
        return Err(invalid(format!("{n_mels} mel bins of a transform of {length} at {rate} Hz")));
    }
    let bins = length as usize / 2 + 1;
    let n_mels = n_mels as usize;
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (mel(high) - mel(low)) / (n_mels + 2) as f64;
    let corner = |i: usize| {
        let hertz = 700.0 * (10f64.powf((i as f64 * step + mel(low)) / 2595.0) - 1.0);
        ((length + 1.0) * hertz / rate).floor().max(0.0) as usize
    };
    let mut values = vec![0.0; bins.saturating_mul(n_mels)];
    for i in 0..n_mels {
        let (left, centre, right) = (corner(i), corner(i + 1), corner(i + 2));
        if right > bins || centre >= bins {
            return Err(invalid(format!("a mel bin ends at frequency bin {right} of {bins}")));
        }
        if left == centre {
            values[centre * n_mels + i] = 1.0;
        } else {
            for j in left..=centre {
                values[j * n_mels + i] = (j - left) as f64 / (centre - left) as f64;
            }
        }
        for j in centre..right {
            values[j * n_mels + i] = (right - j) as f64 / (right - centre) as f64;
        }
    }
    constant(c, n, vec![bins as u64, n_mels as u64], &values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_are_exact() {
        assert_eq!(turn(6, 8), (0.0, -1.0));
        assert_eq!(turn(13, 4), (0.0, 1.0));
    }

    #[test]
    fn half_a_spectrum_gives_back_the_signal() {
        // The spectrum of (1, 2, 4, 8), from 0 to the middle: 15, -3 + 6i, -5.
        let t = Transform { length: 4, taken: 3, given: 4, inverse: true, complex: true, half: true };
        let matrix = t.matrix().unwrap();
        let spectrum = [15.0, 0.0, -3.0, 6.0, -5.0, 0.0];
        let signal: Vec<f64> =
            (0..4).map(|k| (0..6).map(|i| spectrum[i] * matrix[i * 4 + k]).sum()).collect();
        assert_eq!(signal, [1.0, 2.0, 4.0, 8.0]);
    }
}
