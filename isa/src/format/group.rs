//! Groups of elements under one scale: how f32 values become codes and scales, and back.
//!
//! The rule is OCP MX v1.0 section 6.3: a power-of-two scale from the group's largest magnitude (amax), then elements
//! rounded to nearest even from the exact quotient and saturated, element subnormals kept. Where the specification
//! leaves a choice:
//! - f32 subnormals count; nothing is flushed to zero;
//! - a group of zeros has scale code 0 and keeps the signs of its zeros;
//! - a group with a NaN or an infinity has the scale's NaN (0xFF for E8M0) and element codes 0;
//! - the scale's exponent is clamped to [-127, 127];
//! - INT8 is `code / 64`, clamped to +-127;
//! - a negative value that rounds to zero gives -0.
//!
//! A group whose scale is not E8M0 (NVFP4) ignores the [`ScaleMode`]: its scale is `amax / largest element`, divided in
//! f32, rounded to nearest even and saturated; elements are the quotients by that scale. A scale that rounds to zero
//! leaves signed zeros. The tensor's f32 scale of NVFP4 is the caller's.
//!
//! **Pair shifts** (MX9, MX6 and MX4 of arXiv 2302.08007). The scale mode gives an exponent for every pair of neighbours from
//! the pair's own amax, as it gives one for the group. A pair whose exponent is below the group's has its shift set: its
//! values are halved codes. So a shift costs no pair its largest value, whatever the mode. A pair of zeros, and every pair of
//! a group with a NaN or an infinity, has shift 0. With mode `floor` this is the paper's rule. Pairs count from the group's
//! first element; shift i is bit i of the byte behind the scale. Pair shifts go with E8M0 scales.
//!
//! Exponents come from the bits of amax; a float logarithm is wrong just below powers of two.
//!
//! Elements are the FP8, FP6 and FP4 types, sign and magnitude, and `i8`. Other types of at most 8 bits have no group rule:
//! groups of them quantise to the scale's NaN with element codes 0, and dequantise like any other.

use super::pack;
use super::scalar::{Mini, decode_e8m0, encode_number_sign_magnitude, round_number_to_small_int};
use super::{GroupFormat, ScalarType, ScaleMode};

mod axis;

pub use axis::{Place, Read, quantize_axis, quantize_part};

const F32_INF: u32 = 0x7F80_0000;
const HIDDEN_BIT: u32 = 1 << 23;

/// A group's entry in the scale plane.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct GroupScale {
    /// Code of the scale.
    pub code: u8,
    /// Shift of pair i in bit i; 0 in formats without pair shifts.
    pub shifts: u8,
}

impl GroupScale {
    /// The scale 1, no pair shifted.
    pub fn one(fmt: GroupFormat) -> GroupScale {
        GroupScale { code: fmt.scale.encode_f32(1.0) as u8, shifts: 0 }
    }

    fn nan(fmt: GroupFormat) -> GroupScale {
        GroupScale { code: fmt.scale.encode_f32(f32::NAN) as u8, shifts: 0 }
    }

    /// Entry `number` of a scale plane.
    ///
    /// # Panics
    /// If the entry lies outside `plane`.
    #[inline]
    pub fn read(fmt: GroupFormat, plane: &[u8], number: usize) -> GroupScale {
        if fmt.pair_shift {
            GroupScale { code: plane[2 * number], shifts: plane[2 * number + 1] }
        } else {
            GroupScale { code: plane[number], shifts: 0 }
        }
    }

    /// Writes entry `number` of a scale plane.
    ///
    /// # Panics
    /// If the entry lies outside `plane`.
    #[inline]
    pub fn write(self, fmt: GroupFormat, plane: &mut [u8], number: usize) {
        if fmt.pair_shift {
            plane[2 * number..2 * number + 2].copy_from_slice(&[self.code, self.shifts]);
        } else {
            plane[number] = self.code;
        }
    }

    /// The value of the scale, exactly; NaN for E8M0's 0xFF.
    pub fn value(self, fmt: GroupFormat) -> f64 {
        scale_value(fmt, self.code)
    }

    /// Writes entries from `number` on.
    #[inline]
    fn write_all(fmt: GroupFormat, scales: &[GroupScale], plane: &mut [u8], number: usize) {
        if fmt.pair_shift {
            let plane = &mut plane[2 * number..2 * (number + scales.len())];
            let (entries, _) = plane.as_chunks_mut::<2>();
            entries.iter_mut().zip(scales).for_each(|(entry, s)| *entry = [s.code, s.shifts]);
        } else {
            let plane = &mut plane[number..number + scales.len()];
            plane.iter_mut().zip(scales).for_each(|(entry, s)| *entry = s.code);
        }
    }

    /// What the shift makes of element `place`'s own value: a half, or all of it.
    #[inline]
    pub fn shift(self, place: usize) -> f32 {
        if place < 16 && self.shifts >> (place / 2) & 1 == 1 { 0.5 } else { 1.0 }
    }
}

/// How the codes of an element type lie around zero.
#[derive(Clone, Copy)]
enum Layout {
    Float(Mini),
    TwosComplement,
    /// Of this many bits.
    SignMagnitude(u32),
}

/// What the group rule must know about an element type.
#[derive(Clone, Copy)]
struct Element {
    layout: Layout,
    /// Exponent of the largest magnitude.
    emax: i32,
    /// Mantissa of the largest magnitude with its leading one at bit 23.
    max_significand: u32,
    man_bits: u32,
    /// A tie between the largest magnitude and the next step beyond stays at the largest.
    max_is_even: bool,
}

impl Element {
    const fn of(ty: ScalarType) -> Option<Element> {
        if let ScalarType::I8 = ty {
            return Some(Element::fixed(Layout::TwosComplement, 7));
        }
        if let ScalarType::Sm8 | ScalarType::Sm5 | ScalarType::Sm3 = ty {
            return Some(Element::fixed(Layout::SignMagnitude(ty.bits()), ty.bits() - 1));
        }
        if ty.bits() > 8 {
            return None;
        }
        let Some(mini) = ty.mini() else { return None };
        let mantissa = mini.max_code & ((1 << mini.man_bits) - 1);
        Some(Element {
            layout: Layout::Float(mini),
            emax: (mini.max_code >> mini.man_bits) as i32 - mini.bias as i32,
            max_significand: HIDDEN_BIT | mantissa << (23 - mini.man_bits),
            man_bits: mini.man_bits,
            max_is_even: mini.max_code & 1 == 0,
        })
    }

    /// Fixed point below 2 with so many magnitude bits.
    const fn fixed(layout: Layout, magnitude_bits: u32) -> Element {
        let max_significand = ((1 << magnitude_bits) - 1) << (24 - magnitude_bits);
        Element { layout, emax: 0, max_significand, man_bits: magnitude_bits - 1, max_is_even: false }
    }

    /// The scale exponent is one more than `floor` gives exactly when amax's significand is above this.
    const fn bump_above(self, mode: ScaleMode) -> u32 {
        match mode {
            ScaleMode::Floor => u32::MAX,
            ScaleMode::Rceil => self.max_significand,
            ScaleMode::Even => 2 * HIDDEN_BIT - (1 << (22 - self.man_bits)) - 1,
            ScaleMode::Ceil => HIDDEN_BIT,
            ScaleMode::Tosa => {
                let tie = self.max_significand + (1 << (22 - self.man_bits));
                if self.max_is_even { tie } else { tie - 1 }
            }
        }
    }

    /// The exponent of the scale for values whose largest magnitude has these bits; `amax` is finite and not zero.
    #[inline(always)]
    fn scale_exponent(self, bump_above: u32, amax: u32) -> i32 {
        let (exponent, significand) = if amax >= HIDDEN_BIT {
            ((amax >> 23) as i32 - 127, (amax & (HIDDEN_BIT - 1)) | HIDDEN_BIT)
        } else {
            let shift = amax.leading_zeros() - 8;
            (-126 - shift as i32, amax << shift)
        };
        exponent - self.emax + i32::from(significand > bump_above)
    }

    /// The E8M0 code of the scale for values whose largest magnitude has these bits, a finite one.
    #[inline(always)]
    fn scale_code(self, bump_above: u32, amax: u32) -> u8 {
        if amax == 0 { 0 } else { (self.scale_exponent(bump_above, amax).clamp(-127, 127) + 127) as u8 }
    }

    /// The code of a scale that is no power of two, as [`Element::scale_code`].
    #[inline(always)]
    fn quotient_scale(self, fmt: GroupFormat, amax: u32, unit: f32) -> u8 {
        fmt.scale.encode_saturating(f32::from_bits(amax) / self.largest(unit))
    }

    /// The bits of the least magnitude whose exponent is that of this scale code, or more: pairs below it are shifted.
    #[inline(always)]
    fn shift_limit(self, bump_above: u32, scale: u8) -> u32 {
        let exponent = i32::from(scale) - 127 + self.emax;
        let (exponent, significand) = if bump_above >= 2 * HIDDEN_BIT - 1 {
            (exponent, HIDDEN_BIT)
        } else {
            (exponent - 1, bump_above + 1)
        };
        if exponent >= -126 {
            return (((exponent + 127) as u32) << 23 | (significand & (HIDDEN_BIT - 1))).min(F32_INF);
        }
        // Subnormal magnitudes are multiples of 2^-149.
        (u64::from(significand)).div_ceil(1 << (-126 - exponent).min(32)) as u32
    }

    /// The shifts of all pairs of a group of this scale code.
    #[inline(always)]
    fn pair_shifts(self, bump_above: u32, values: &[f32], scale: u8) -> u8 {
        let limit = self.shift_limit(bump_above, scale);
        let pairs = values.chunks(2).take(8).enumerate();
        pairs.fold(0, |all, (i, pair)| all | u8::from(is_shifted(magnitude(pair), limit)) << i)
    }

    /// The code of a scaled value, no NaN: nearest even, saturated. `unit` is the code of 1.0 and is read for `i8` alone.
    #[inline(always)]
    fn encode(self, scaled: f32, unit: f32) -> u8 {
        match self.layout {
            Layout::Float(mini) => {
                let code = mini.round_magnitude(scaled.to_bits() & 0x7FFF_FFFF) as i32;
                let code = if code > mini.max_code as i32 { mini.max_code } else { code as u32 };
                let sign = (scaled.to_bits() >> 31) << (mini.exp_bits + mini.man_bits);
                (if mini.is_signless_zero(code) { code } else { sign | code }) as u8
            }
            Layout::TwosComplement => round_number_to_small_int(scaled * unit, -127.0, 127.0) as u8,
            Layout::SignMagnitude(bits) => encode_number_sign_magnitude(scaled, bits) as u8,
        }
    }

    fn largest(self, unit: f32) -> f32 {
        match self.layout {
            Layout::Float(mini) => mini.decode(mini.max_code),
            Layout::TwosComplement => 127.0 / unit,
            Layout::SignMagnitude(_) => f32::from_bits((self.max_significand & (HIDDEN_BIT - 1)) | 127 << 23),
        }
    }
}

/// The code of 1.0 in an `i8` element: OCP MXINT8 has six fraction bits, other scales take plain integers.
fn fixed_unit(fmt: GroupFormat) -> f32 {
    if fmt.scale == ScalarType::E8M0 { 64.0 } else { 1.0 }
}

/// The bits of the largest magnitude. As signed integers magnitudes order like the floats they are, infinities and NaNs on top.
#[inline(always)]
fn magnitude(values: &[f32]) -> u32 {
    let mut amax = 0i32;
    for value in values {
        amax = amax.max((value.to_bits() & 0x7FFF_FFFF) as i32);
    }
    amax as u32
}

/// Whether a pair of this largest magnitude is shifted in a group of this [`Element::shift_limit`]; a pair of zeros is not.
#[inline(always)]
fn is_shifted(amax: u32, limit: u32) -> bool {
    (amax as i32 > 0) & ((amax as i32) < limit as i32)
}

/// The element type with this code.
const fn element_of(code: u8) -> Element {
    let Some(ty) = ScalarType::from_code(code) else { panic!("a scalar type's code") };
    let Some(element) = Element::of(ty) else { panic!("a group element") };
    element
}

/// The reciprocal of 2^(s - 127) is 2^(127 - s); a product by it is exact or far below every element's range.
#[inline(always)]
fn inverse_e8m0(scale: u8) -> f32 {
    decode_e8m0(254 - u32::from(scale))
}

/// Encodes values under an E8M0 scale with pair shifts.
#[inline(always)]
fn encode_shifted(element: Element, scale: GroupScale, values: &[f32], codes: &mut [u8], unit: f32) {
    let inverse = inverse_e8m0(scale.code);
    let mut doubles = [1.0; 16];
    for (i, pair) in doubles.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        *pair = [if scale.shifts >> i & 1 != 0 { 2.0 } else { 1.0 }; 2];
    }
    let n_paired = values.len().min(16);
    for ((code, &value), double) in codes.iter_mut().zip(values).zip(doubles) {
        // Two products, because 2^128 is no f32.
        *code = element.encode(value * inverse * double, unit);
    }
    for (code, &value) in codes[n_paired..].iter_mut().zip(&values[n_paired..]) {
        *code = element.encode(value * inverse, unit);
    }
}

/// Quantises one group. `ELEMENT` is a [`ScalarType`] code, a constant so that each format gets its own vectorised
/// loops; `codes` is as long as `values`.
#[inline(always)]
fn quantize<const ELEMENT: u8>(
    fmt: GroupFormat,
    bump_above: u32,
    values: &[f32],
    codes: &mut [u8],
) -> GroupScale {
    let element = const { element_of(ELEMENT) };
    let amax = magnitude(values);
    let unit = fixed_unit(fmt);
    if amax >= F32_INF {
        codes.fill(0);
        return GroupScale::nan(fmt);
    }
    if fmt.scale == ScalarType::E8M0 {
        let code = element.scale_code(bump_above, amax);
        let inverse = inverse_e8m0(code);
        if fmt.pair_shift {
            let scale = GroupScale { code, shifts: element.pair_shifts(bump_above, values, code) };
            encode_shifted(element, scale, values, codes, unit);
            return scale;
        }
        for (code, &value) in codes.iter_mut().zip(values) {
            *code = element.encode(value * inverse, unit);
        }
        return GroupScale { code, shifts: 0 };
    }
    let scale = element.quotient_scale(fmt, amax, unit);
    let divisor = fmt.scale.decode_f32(u32::from(scale));
    if divisor == 0.0 {
        for (code, &value) in codes.iter_mut().zip(values) {
            *code = element.encode(0.0f32.copysign(value), unit);
        }
    } else {
        for (code, &value) in codes.iter_mut().zip(values) {
            *code = element.encode(value / divisor, unit);
        }
    }
    GroupScale { code: scale, shifts: 0 }
}

/// Calls a function generic over the element's code with that code as a constant; other types take the last arm.
macro_rules! with_element {
    ($ty:expr, $function:ident($($arg:expr),*), other => $other:expr) => {
        match $ty {
            ScalarType::E4M3 => $function::<{ ScalarType::E4M3 as u8 }>($($arg),*),
            ScalarType::E5M2 => $function::<{ ScalarType::E5M2 as u8 }>($($arg),*),
            ScalarType::E4M3Fnuz => $function::<{ ScalarType::E4M3Fnuz as u8 }>($($arg),*),
            ScalarType::E5M2Fnuz => $function::<{ ScalarType::E5M2Fnuz as u8 }>($($arg),*),
            ScalarType::E3M2 => $function::<{ ScalarType::E3M2 as u8 }>($($arg),*),
            ScalarType::E2M3 => $function::<{ ScalarType::E2M3 as u8 }>($($arg),*),
            ScalarType::E2M1 => $function::<{ ScalarType::E2M1 as u8 }>($($arg),*),
            ScalarType::I8 => $function::<{ ScalarType::I8 as u8 }>($($arg),*),
            ScalarType::Sm8 => $function::<{ ScalarType::Sm8 as u8 }>($($arg),*),
            ScalarType::Sm5 => $function::<{ ScalarType::Sm5 as u8 }>($($arg),*),
            ScalarType::Sm3 => $function::<{ ScalarType::Sm3 as u8 }>($($arg),*),
            ScalarType::Bool
            | ScalarType::I2
            | ScalarType::U2
            | ScalarType::I4
            | ScalarType::U4
            | ScalarType::U8
            | ScalarType::I16
            | ScalarType::U16
            | ScalarType::I32
            | ScalarType::U32
            | ScalarType::I64
            | ScalarType::U64
            | ScalarType::F16
            | ScalarType::Bf16
            | ScalarType::F32
            | ScalarType::F64
            | ScalarType::E8M0 => $other,
        }
    };
}

use with_element;

fn bump_above(fmt: GroupFormat, mode: ScaleMode) -> u32 {
    Element::of(fmt.element).map_or(u32::MAX, |element| element.bump_above(mode))
}

/// Quantises one group of at most `fmt.size` values; returns the group's scale and writes one element code per byte,
/// right-aligned. Codes beyond `values` become 0.
///
/// # Panics
/// If `codes` is shorter than `values`.
pub fn quantize_group(fmt: GroupFormat, mode: ScaleMode, values: &[f32], codes: &mut [u8]) -> GroupScale {
    let bump = bump_above(fmt, mode);
    let (codes, rest) = codes.split_at_mut(values.len());
    rest.fill(0);
    with_element!(fmt.element, quantize(fmt, bump, values, codes), other => {
        codes.fill(0);
        GroupScale::nan(fmt)
    })
}

/// Encodes `values` under a given scale, each to its nearest code, ties to even, saturated: what
/// [`quantize_group`] does once it has chosen the scale. A NaN, a scale that is zero or NaN, and an element type without a
/// group rule, give codes 0.
///
/// # Panics
/// If `codes` is shorter than `values`.
pub fn encode_group(fmt: GroupFormat, scale: GroupScale, values: &[f32], codes: &mut [u8]) {
    let codes = &mut codes[..values.len()];
    with_element!(fmt.element, encode_under(fmt, scale, values, codes), other => codes.fill(0));
    for (code, _) in codes.iter_mut().zip(values).filter(|(_, value)| value.is_nan()) {
        *code = 0;
    }
}

#[inline(always)]
fn encode_under<const ELEMENT: u8>(fmt: GroupFormat, scale: GroupScale, values: &[f32], codes: &mut [u8]) {
    let element = const { element_of(ELEMENT) };
    let unit = fixed_unit(fmt);
    let divisor = fmt.scale.decode_f32(u32::from(scale.code));
    if divisor == 0.0 || divisor.is_nan() {
        codes.fill(0);
    } else if fmt.scale == ScalarType::E8M0 {
        encode_shifted(element, scale, values, codes, unit);
    } else {
        for (code, &value) in codes.iter_mut().zip(values) {
            *code = element.encode(value / divisor, unit);
        }
    }
}

/// The scale of this code for a group, with the pair shifts that `mode` gives under it: what
/// [`quantize_group`] returns, if it chooses the code.
pub fn scale_with_shifts(fmt: GroupFormat, mode: ScaleMode, code: u8, values: &[f32]) -> GroupScale {
    let element = Element::of(fmt.element).filter(|_| fmt.pair_shift);
    let shifts = element.map_or(0, |e| e.pair_shifts(e.bump_above(mode), values, code));
    GroupScale { code, shifts }
}

/// The value of a scale code, exactly; NaN for E8M0's 0xFF.
pub fn scale_value(fmt: GroupFormat, code: u8) -> f64 {
    fmt.scale.decode(u64::from(code))
}

/// What an element's own value is multiplied by: the scale, and MXINT8's 1/64. Always exact in f32.
fn factor(fmt: GroupFormat, scale: u8) -> f32 {
    let scale = fmt.scale.decode_f32(u32::from(scale));
    if fmt.element == ScalarType::I8 { scale / fixed_unit(fmt) } else { scale }
}

/// Widens a group to f32: the exact product of scale and element, rounded once where f32 cannot hold it. Reads one
/// element code per byte.
///
/// # Panics
/// If `codes` is shorter than `out`.
pub fn dequantize_group(fmt: GroupFormat, scale: GroupScale, codes: &[u8], out: &mut [f32]) {
    let codes = &codes[..out.len()];
    for (value, &code) in out.iter_mut().zip(codes) {
        *value = fmt.element.decode_f32(u32::from(code));
    }
    apply_scale(fmt, scale, out);
}

/// Multiplies the elements of one group, decoded, by scale and shifts.
#[inline(always)]
fn apply_scale(fmt: GroupFormat, scale: GroupScale, values: &mut [f32]) {
    let factor = factor(fmt, scale.code);
    if scale.shifts == 0 {
        values.iter_mut().for_each(|value| *value *= factor);
    } else {
        for (place, value) in values.iter_mut().enumerate() {
            *value = *value * scale.shift(place) * factor;
        }
    }
}

/// Quantises consecutive groups and widens them again: what storing `values` in this format does to them. The last
/// group may be short.
pub fn round_trip(fmt: GroupFormat, mode: ScaleMode, values: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    let size = usize::from(fmt.size.max(1));
    let mut codes = vec![0; size];
    for (group, widened) in values.chunks(size).zip(out.chunks_mut(size)) {
        let scale = quantize_group(fmt, mode, group, &mut codes);
        dequantize_group(fmt, scale, &codes, widened);
    }
    out
}

/// Groups in a row of `row_len` elements, the last one padded.
pub fn groups_per_row(fmt: GroupFormat, row_len: usize) -> usize {
    row_len.div_ceil(usize::from(fmt.size.max(1)))
}

/// Bytes of element codes in a packed row of `row_len` elements, padded to whole groups.
pub fn row_code_bytes(fmt: GroupFormat, row_len: usize) -> usize {
    let padded = groups_per_row(fmt, row_len) * usize::from(fmt.size.max(1));
    fmt.element.bytes_for(padded as u64) as usize
}

/// Bytes of the scale plane of a row of `row_len` elements.
pub fn row_scale_bytes(fmt: GroupFormat, row_len: usize) -> usize {
    fmt.scale_bytes(groups_per_row(fmt, row_len) as u64) as usize
}

/// Quantises a matrix row by row.
///
/// `values` is whole rows of `row_len`; groups lie along rows and the last group of a row is padded with zeros. Each
/// row takes [`row_code_bytes`] bytes of `codes`, packed densely, and [`row_scale_bytes`] bytes of `scales`.
///
/// # Panics
/// If `codes` or `scales` is too short, or `values` is not whole rows.
// Inlined, as all that it calls for each group, so that callers compile it for the vector units that they have.
#[inline(always)]
pub fn quantize_rows(
    fmt: GroupFormat,
    mode: ScaleMode,
    values: &[f32],
    row_len: usize,
    codes: &mut [u8],
    scales: &mut [u8],
) {
    if values.is_empty() {
        return;
    }
    assert!(row_len > 0 && values.len().is_multiple_of(row_len), "values must be whole rows");
    let scale_bytes = row_scale_bytes(fmt, row_len);
    let code_bytes = row_code_bytes(fmt, row_len);
    let n_rows = values.len() / row_len;
    assert!(codes.len() >= n_rows * code_bytes && scales.len() >= n_rows * scale_bytes, "room for every row");
    let rows = values
        .chunks_exact(row_len)
        .zip(codes.chunks_exact_mut(code_bytes))
        .zip(scales.chunks_exact_mut(scale_bytes));
    let bump = bump_above(fmt, mode);
    for ((row, codes), scales) in rows {
        match fmt.size {
            32 => {
                with_element!(fmt.element, quantize_row_32(fmt, bump, row, codes, scales), other => quantize_row(fmt, mode, row, codes, scales));
            }
            16 => {
                with_element!(fmt.element, quantize_row_16(fmt, bump, row, codes, scales), other => quantize_row(fmt, mode, row, codes, scales));
            }
            _ => quantize_row(fmt, mode, row, codes, scales),
        }
    }
}

#[inline(always)]
fn quantize_row_32<const ELEMENT: u8>(
    fmt: GroupFormat,
    bump: u32,
    row: &[f32],
    codes: &mut [u8],
    scales: &mut [u8],
) {
    quantize_row_of::<ELEMENT, 32>(fmt, bump, row, codes, scales);
}

#[inline(always)]
fn quantize_row_16<const ELEMENT: u8>(
    fmt: GroupFormat,
    bump: u32,
    row: &[f32],
    codes: &mut [u8],
    scales: &mut [u8],
) {
    quantize_row_of::<ELEMENT, 16>(fmt, bump, row, codes, scales);
}

/// One row in groups of `N`, all loop lengths constant.
#[inline(always)]
fn quantize_row_of<const ELEMENT: u8, const N: usize>(
    fmt: GroupFormat,
    bump: u32,
    row: &[f32],
    codes: &mut [u8],
    scales: &mut [u8],
) {
    let ty = const {
        let Some(ty) = ScalarType::from_code(ELEMENT) else { panic!("a scalar type's code") };
        ty
    };
    let group_bytes = N * ty.bits() as usize / 8;
    let (full, tail) = row.as_chunks::<N>();
    let mut last = [0.0; N];
    last[..tail.len()].copy_from_slice(tail);
    let groups = full.iter().chain((!tail.is_empty()).then_some(&last));
    for (number, (group, packed)) in groups.zip(codes.chunks_exact_mut(group_bytes)).enumerate() {
        let mut staged = [0; N];
        quantize::<ELEMENT>(fmt, bump, group, &mut staged).write(fmt, scales, number);
        pack::pack_codes(ty, &staged, packed);
    }
}

fn quantize_row(fmt: GroupFormat, mode: ScaleMode, row: &[f32], codes: &mut [u8], scales: &mut [u8]) {
    let size = usize::from(fmt.size.max(1));
    let mut staged = vec![0; size];
    for (i, group) in row.chunks(size).enumerate() {
        quantize_group(fmt, mode, group, &mut staged).write(fmt, scales, i);
        for (j, &code) in staged.iter().enumerate() {
            pack::set(codes, fmt.element, i * size + j, u64::from(code));
        }
    }
}

/// Widens a matrix that [`quantize_rows`] wrote. `out` is whole rows of `row_len`; padding is skipped.
///
/// # Panics
/// If `codes` or `scales` is too short, or `out` is not whole rows.
pub fn dequantize_rows(fmt: GroupFormat, codes: &[u8], scales: &[u8], row_len: usize, out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    assert!(row_len > 0 && out.len().is_multiple_of(row_len), "out must be whole rows");
    let scale_bytes = row_scale_bytes(fmt, row_len);
    let code_bytes = row_code_bytes(fmt, row_len);
    let n_rows = out.len() / row_len;
    let size = usize::from(fmt.size.max(1));
    let codes = codes[..n_rows * code_bytes].chunks_exact(code_bytes);
    let scales = scales[..n_rows * scale_bytes].chunks_exact(scale_bytes);
    for ((row, codes), scales) in out.chunks_exact_mut(row_len).zip(codes).zip(scales) {
        pack::decode_slice(fmt.element, codes, 0, row);
        for (number, group) in row.chunks_mut(size).enumerate() {
            apply_scale(fmt, GroupScale::read(fmt, scales, number), group);
        }
    }
}
