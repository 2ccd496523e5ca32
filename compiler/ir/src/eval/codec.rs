//! Where the evaluator meets the number formats: bytes to f64 and i64 and back, rounding, conversion, groups.
//!
//! This is all that the evaluator shares with the machine. A NaN has one code per type, so payloads do not survive.

use lacuna_isa::format::group::{self, GroupScale};
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode, pack};

use crate::types::Shape;

/// Rounds to the nearest value of a floating-point type, ties to even; other types give `v` itself.
pub(super) fn round(ty: ScalarType, v: f64) -> f64 {
    match ty {
        ScalarType::F64 => v,
        ScalarType::F32 => f64::from(v as f32),
        _ if ty.is_float() => ty.decode(ty.encode(v)),
        _ => v,
    }
}

/// [`round`] in place.
pub(super) fn round_slice(ty: ScalarType, values: &mut [f64]) {
    match ty {
        ScalarType::F64 => {}
        ScalarType::F32 => values.iter_mut().for_each(|v| *v = f64::from(*v as f32)),
        _ => values.iter_mut().for_each(|v| *v = round(ty, *v)),
    }
}

/// The first `n` elements of a dense array of floats.
pub(super) fn decode_floats(ty: ScalarType, bytes: &[u8], n: usize) -> Vec<f64> {
    match ty {
        ScalarType::F32 => {
            bytes.as_chunks::<4>().0.iter().take(n).map(|&b| f64::from(f32::from_le_bytes(b))).collect()
        }
        ScalarType::F64 => bytes.as_chunks::<8>().0.iter().take(n).map(|&b| f64::from_le_bytes(b)).collect(),
        _ => (0..n).map(|i| ty.decode(pack::get(bytes, ty, i))).collect(),
    }
}

/// A dense array of floats, each rounded to the type.
pub(super) fn encode_floats(ty: ScalarType, values: &[f64], bytes: &mut [u8]) {
    if ty == ScalarType::F32 {
        for (code, &v) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *code = ty.encode_f32(v as f32).to_le_bytes();
        }
        return;
    }
    for (i, &v) in values.iter().enumerate() {
        pack::set(bytes, ty, i, ty.encode(v));
    }
}

/// The integer or truth value that a code stands for.
pub(super) fn int_of_code(ty: ScalarType, code: u64) -> i64 {
    wrap(ty, i128::from(code))
}

/// The first `n` elements of a dense array of integers or truth values.
pub(super) fn decode_ints(ty: ScalarType, bytes: &[u8], n: usize) -> Vec<i64> {
    match ty {
        ScalarType::I64 => bytes.as_chunks::<8>().0.iter().take(n).map(|&b| i64::from_le_bytes(b)).collect(),
        _ => (0..n).map(|i| int_of_code(ty, pack::get(bytes, ty, i))).collect(),
    }
}

/// A dense array of integers or truth values.
pub(super) fn encode_ints(ty: ScalarType, values: &[i64], bytes: &mut [u8]) {
    for (i, &v) in values.iter().enumerate() {
        pack::set(bytes, ty, i, v as u64);
    }
}

/// Two's complement reduction to the type's width; for `bool`, whether non-zero. A `u64` keeps its bit pattern.
pub(super) fn wrap(ty: ScalarType, v: i128) -> i64 {
    if ty == ScalarType::Bool {
        return i64::from(v != 0);
    }
    let unused = 64 - ty.bits().min(64);
    if is_signed(ty) { ((v as i64) << unused) >> unused } else { (((v as u64) << unused) >> unused) as i64 }
}

/// The number that an element of integer type means: undoes the bit pattern form of `u64`.
pub(super) fn wide(ty: ScalarType, v: i64) -> i128 {
    if ty == ScalarType::U64 { i128::from(v as u64) } else { i128::from(v) }
}

/// Least and greatest number of an integer type or `bool`.
pub(super) fn int_range(ty: ScalarType) -> (i128, i128) {
    match ty {
        ScalarType::Bool => (0, 1),
        _ if is_signed(ty) => (-(1 << (ty.bits() - 1)), (1 << (ty.bits() - 1)) - 1),
        _ => (0, (1 << ty.bits()) - 1),
    }
}

fn is_signed(ty: ScalarType) -> bool {
    matches!(
        ty,
        ScalarType::I2
            | ScalarType::I4
            | ScalarType::I8
            | ScalarType::I16
            | ScalarType::I32
            | ScalarType::I64
    )
}

/// A float as an integer: truncated, saturated, NaN is 0; for `bool`, whether it differs from 0.
pub(super) fn float_to_int(ty: ScalarType, v: f64) -> i64 {
    if ty == ScalarType::Bool {
        return i64::from(v != 0.0);
    }
    let (min, max) = int_range(ty);
    wrap(ty, (v as i128).clamp(min, max))
}

/// An integer as a float of the type, rounded once; `saturate` as in [`convert`].
pub(super) fn int_to_float(ty: ScalarType, v: i128, saturate: bool) -> f64 {
    let near = v as f64;
    if ty == ScalarType::F64 || near as i128 == v {
        return convert(ty, near, saturate);
    }
    // Rounding to odd keeps what a second rounding to a narrower type must know.
    let bits = near.to_bits();
    let towards_zero = if (near as i128).unsigned_abs() > v.unsigned_abs() { bits - 1 } else { bits };
    convert(ty, f64::from_bits(towards_zero | 1), saturate)
}

/// Conversion of a float to a floating-point type.
///
/// With `saturate`, 8-bit floats overflow to their largest value; without, to infinity, or to NaN in types that have
/// no infinity. Infinities count as overflow. Other types round as [`round`] does.
pub(super) fn convert(ty: ScalarType, v: f64, saturate: bool) -> f64 {
    let rounded = round(ty, v);
    // Magnitudes from which rounding with an unbounded exponent leaves the type, and whether the bound itself does.
    let (largest, bound, inclusive) = match ty {
        ScalarType::E4M3 => (448.0, 464.0, false),
        ScalarType::E5M2 => (57344.0, 61440.0, true),
        ScalarType::E4M3Fnuz => (240.0, 248.0, true),
        ScalarType::E5M2Fnuz => (57344.0, 61440.0, true),
        _ => return rounded,
    };
    let overflows = v.abs() > bound || (inclusive && v.abs() == bound);
    match (overflows, saturate, ty) {
        (false, _, _) => rounded,
        (true, true, _) => f64::copysign(largest, v),
        (true, false, ScalarType::E5M2) => f64::copysign(f64::INFINITY, v),
        (true, false, _) => f64::NAN,
    }
}

/// The number that one code of a scalar floating-point type means.
pub(super) fn float_of_code(ty: ScalarType, code: u64) -> f64 {
    ty.decode(code)
}

/// Calls `f(elements, stride, scale)` for every group of a shape grouped along `axis`: positions of its elements, by
/// first and count, their distance, and the position of its scale.
fn for_each_group(shape: &Shape, axis: usize, size: usize, mut f: impl FnMut(usize, usize, usize, usize)) {
    let n = shape[axis] as usize;
    let outer: usize = shape[..axis].iter().product::<u64>() as usize;
    let inner: usize = shape[axis + 1..].iter().product::<u64>() as usize;
    let n_groups = n.div_ceil(size);
    // Without elements the other dimensions may be of any size.
    let outer = if n == 0 || inner == 0 { 0 } else { outer };
    for o in 0..outer {
        for g in 0..n_groups {
            for i in 0..inner {
                let first = (o * n + g * size) * inner + i;
                f(first, size.min(n - g * size), inner, (o * n_groups + g) * inner + i);
            }
        }
    }
}

/// Quantises along `axis`, through f32: element codes, one per byte in row-major order of `shape`, and scales.
pub(super) fn quantize(
    format: GroupFormat,
    mode: ScaleMode,
    axis: usize,
    shape: &Shape,
    n_scales: usize,
    values: &[f64],
) -> (Vec<u8>, Vec<GroupScale>) {
    let size = usize::from(format.size);
    let (mut codes, mut scales) = (vec![0; values.len()], vec![GroupScale::default(); n_scales]);
    let (mut lane, mut lane_codes) = (vec![0f32; size], vec![0u8; size]);
    for_each_group(shape, axis, size, |first, count, stride, scale| {
        for (j, v) in lane[..count].iter_mut().enumerate() {
            *v = values[first + j * stride] as f32;
        }
        scales[scale] = group::quantize_group(format, mode, &lane[..count], &mut lane_codes[..count]);
        for (j, &code) in lane_codes[..count].iter().enumerate() {
            codes[first + j * stride] = code;
        }
    });
    (codes, scales)
}

/// The exact values of a grouped tensor.
pub(super) fn dequantize(
    format: GroupFormat,
    axis: usize,
    shape: &Shape,
    codes: &[u8],
    scales: &[GroupScale],
) -> Vec<f64> {
    let unit = if format.element == ScalarType::I8 { 1.0 / 64.0 } else { 1.0 };
    let elements: Vec<f64> = (0..=255).map(|code| format.element.decode(code) * unit).collect();
    let mut values = vec![0.0; codes.len()];
    for_each_group(shape, axis, usize::from(format.size), |first, count, stride, scale| {
        let scale = scales[scale];
        let factor = scale.value(format);
        for j in 0..count {
            let element = elements[usize::from(codes[first + j * stride])];
            values[first + j * stride] = element * f64::from(scale.shift(j)) * factor;
        }
    });
    values
}

/// Element codes of a dense packed array, one per byte.
pub(super) fn unpack_codes(ty: ScalarType, bytes: &[u8], n: usize) -> Vec<u8> {
    (0..n).map(|i| pack::get(bytes, ty, i) as u8).collect()
}

/// The entries of a scale plane.
pub(super) fn unpack_scales(format: GroupFormat, plane: &[u8], n: usize) -> Vec<GroupScale> {
    (0..n).map(|i| GroupScale::read(format, plane, i)).collect()
}

/// The reverse of [`unpack_scales`].
pub(super) fn pack_scales(format: GroupFormat, scales: &[GroupScale], plane: &mut [u8]) {
    for (i, scale) in scales.iter().enumerate() {
        scale.write(format, plane, i);
    }
}

/// The reverse of [`unpack_codes`].
pub(super) fn pack_codes(ty: ScalarType, codes: &[u8], bytes: &mut [u8]) {
    for (i, &code) in codes.iter().enumerate() {
        pack::set(bytes, ty, i, u64::from(code));
    }
}
