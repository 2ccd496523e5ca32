//! Codes to real numbers and back, one element at a time.
//!
//! `decode` is exact wherever the result type can hold the value. `encode` rounds once, to nearest with ties to even,
//! straight from its argument: there is no detour through a narrower type, so nothing is rounded twice.
//!
//! What the formats leave open is settled here, once:
//! - a NaN encodes to the format's one NaN, positive; formats without NaN (integers, FP6, FP4, sign and magnitude)
//!   take it to code 0;
//! - types without infinities saturate; f16, bf16, f32, f64 and E5M2 overflow to infinity;
//! - [`ScalarType::encode_saturating`] saturates E5M2 too, as the elements of a group must;
//! - integers round to nearest even and saturate (a conversion that truncates does so before it encodes);
//! - bool is `value != 0`, so NaN is true;
//! - E8M0 has no sign and no zero: zero and everything below 2^-127 give 2^-127, infinity gives 2^127, a negative
//!   value gives NaN.

use super::ScalarType;
use crate::math::round_half_even;

const F32_MAGNITUDE: u32 = 0x7FFF_FFFF;
const F32_INF: u32 = 0x7F80_0000;
const F32_NAN: u32 = 0x7FC0_0000;

/// `1.5 * 2^23`: adding it to a float of magnitude below 2^22 leaves the nearest-even integer in the low bits.
const INT_MAGIC: f32 = 12_582_912.0;

/// A binary floating-point layout that embeds in f32: one sign bit, then exponent, then mantissa.
#[derive(Clone, Copy)]
pub(super) struct Mini {
    pub(super) exp_bits: u32,
    pub(super) man_bits: u32,
    pub(super) bias: u32,
    /// Code of the largest finite value.
    pub(super) max_code: u32,
    /// What IEEE rounding gives beyond the largest finite value.
    overflow_code: u32,
    nan_code: u32,
    /// NaN sits where -0 would be.
    fnuz: bool,
}

impl Mini {
    const fn new(layout: (u32, u32, u32), max_code: u32, overflow_code: u32, nan_code: u32) -> Mini {
        let (exp_bits, man_bits, bias) = layout;
        Mini { exp_bits, man_bits, bias, max_code, overflow_code, nan_code, fnuz: false }
    }

    pub(super) const F16: Mini = Mini::new((5, 10, 15), 0x7BFF, 0x7C00, 0x7E00);
    pub(super) const BF16: Mini = Mini::new((8, 7, 127), 0x7F7F, 0x7F80, 0x7FC0);
    pub(super) const E4M3: Mini = Mini::new((4, 3, 7), 0x7E, 0x7E, 0x7F);
    pub(super) const E5M2: Mini = Mini::new((5, 2, 15), 0x7B, 0x7C, 0x7E);
    pub(super) const E4M3_FNUZ: Mini = Mini { fnuz: true, ..Mini::new((4, 3, 8), 0x7F, 0x7F, 0x80) };
    pub(super) const E5M2_FNUZ: Mini = Mini { fnuz: true, ..Mini::new((5, 2, 16), 0x7F, 0x7F, 0x80) };
    pub(super) const E3M2: Mini = Mini::new((3, 2, 3), 0x1F, 0x1F, 0);
    pub(super) const E2M3: Mini = Mini::new((2, 3, 1), 0x1F, 0x1F, 0);
    pub(super) const E2M1: Mini = Mini::new((2, 1, 1), 0x07, 0x07, 0);

    /// Rounds to nearest even. Straight-line, so a loop over it vectorises when `self` is a constant.
    #[inline(always)]
    pub(super) fn encode(self, x: f32) -> u32 {
        self.encode_with(x, self.overflow_code)
    }

    /// Rounds to nearest even and saturates to the largest finite value.
    #[inline(always)]
    pub(super) fn encode_saturating(self, x: f32) -> u32 {
        self.encode_with(x, self.max_code)
    }

    #[inline(always)]
    fn encode_with(self, x: f32, overflow_code: u32) -> u32 {
        let mag = x.to_bits() & F32_MAGNITUDE;
        let sign = (x.to_bits() >> 31) << (self.exp_bits + self.man_bits);
        let code = self.round_magnitude(mag);
        let code = if code as i32 > self.max_code as i32 { overflow_code } else { code };
        let sign = if self.is_signless_zero(code) { 0 } else { sign };
        if mag as i32 > F32_INF as i32 { self.nan_code } else { sign | code }
    }

    /// The code of a nonnegative finite f32, given by its bits, in a format without an upper end.
    #[inline(always)]
    pub(super) fn round_magnitude(self, mag: u32) -> u32 {
        let shift = 23 - self.man_bits;
        let odd = (mag >> shift) & 1;
        let normal =
            ((mag + (1 << (shift - 1)) - 1 + odd) >> shift).wrapping_sub((127 - self.bias) << self.man_bits);
        // The unit in the last place of `magic` is the spacing of the target's subnormals.
        let magic = f32::from_bits((151 - self.bias - self.man_bits) << 23);
        let subnormal = (f32::from_bits(mag) + magic).to_bits().wrapping_sub(magic.to_bits());
        if (mag as i32) < ((128 - self.bias) << 23) as i32 { subnormal } else { normal }
    }

    /// True for the zero of a format whose -0 is NaN.
    #[inline(always)]
    pub(super) const fn is_signless_zero(self, code: u32) -> bool {
        self.fnuz && code == 0
    }

    /// The value of a code, exactly.
    pub(super) const fn decode(self, code: u32) -> f32 {
        let sign = (code >> (self.exp_bits + self.man_bits)) & 1;
        let mag = code & ((1 << (self.exp_bits + self.man_bits)) - 1);
        if self.fnuz && sign == 1 && mag == 0 {
            return f32::from_bits(F32_NAN);
        }
        if mag > self.max_code {
            // Above the largest finite code there is infinity, where the format has it, and NaN.
            let is_inf = self.overflow_code != self.max_code && mag == self.overflow_code;
            return f32::from_bits(if is_inf { (sign << 31) | F32_INF } else { F32_NAN });
        }
        let bits = if mag >> self.man_bits == 0 && self.bias < 127 {
            let ulp = f32::from_bits((128 - self.bias - self.man_bits) << 23);
            (mag as f32 * ulp).to_bits()
        } else {
            (mag << (23 - self.man_bits)) + ((127 - self.bias) << 23)
        };
        f32::from_bits((sign << 31) | bits)
    }
}

/// Rounds to nearest even into `lo..=hi`, which must lie within +-2^22; NaN gives 0.
#[inline(always)]
pub(super) fn round_to_small_int(x: f32, lo: f32, hi: f32) -> i32 {
    let rounded = round_number_to_small_int(x, lo, hi);
    if x.is_nan() { 0 } else { rounded }
}

/// As [`round_to_small_int`] where `x` is no NaN.
#[inline(always)]
pub(super) fn round_number_to_small_int(x: f32, lo: f32, hi: f32) -> i32 {
    let x = if x > hi { hi } else { x };
    let x = if x < lo { lo } else { x };
    (x + INT_MAGIC).to_bits().wrapping_sub(INT_MAGIC.to_bits()) as i32
}

/// `2^(code - 127)`; 0xFF is NaN.
#[inline(always)]
pub(super) const fn decode_e8m0(code: u32) -> f32 {
    let code = code & 0xFF;
    let bits = if code == 0 { 0x0040_0000 } else { code << 23 };
    f32::from_bits(if code == 0xFF { F32_NAN } else { bits })
}

fn encode_e8m0(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() || x < 0.0 {
        0xFF
    } else if bits < 0x0080_0000 || x == 0.0 {
        u32::from(x > f32::from_bits(0x0060_0000))
    } else {
        ((bits + 0x3F_FFFF + ((bits >> 23) & 1)) >> 23).min(0xFE)
    }
}

/// The nearest f32 on the side of zero, with its last bit set if that is inexact: rounding the result to fewer than 23
/// bits gives what rounding `value` itself would have.
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    if back == value || value.is_nan() {
        return nearest;
    }
    let bits = nearest.to_bits();
    let toward_zero = if back.abs() > value.abs() { bits - 1 } else { bits };
    f32::from_bits(toward_zero | 1)
}

/// Steps in 1 of a sign-and-magnitude type of this width.
const fn sign_magnitude_unit(bits: u32) -> f32 {
    (1 << (bits - 2)) as f32
}

const fn decode_sign_magnitude(code: u32, bits: u32) -> f32 {
    let magnitude = (code & ((1 << (bits - 1)) - 1)) as f32 / sign_magnitude_unit(bits);
    if code >> (bits - 1) & 1 == 1 { -magnitude } else { magnitude }
}

#[inline(always)]
pub(super) fn encode_sign_magnitude(value: f32, bits: u32) -> u32 {
    let code = encode_number_sign_magnitude(value, bits);
    if value.is_nan() { 0 } else { code }
}

/// As [`encode_sign_magnitude`] where `value` is no NaN.
#[inline(always)]
pub(super) fn encode_number_sign_magnitude(value: f32, bits: u32) -> u32 {
    let largest = ((1 << (bits - 1)) - 1) as f32;
    let magnitude = value.abs() * sign_magnitude_unit(bits);
    let sign = value.to_bits() >> 31 << (bits - 1);
    sign | round_number_to_small_int(magnitude, 0.0, largest) as u32
}

const fn sign_extend(code: u64, bits: u32) -> i64 {
    ((code << (64 - bits)) as i64) >> (64 - bits)
}

const fn low_bits(code: u64, bits: u32) -> u64 {
    code & (u64::MAX >> (64 - bits))
}

impl ScalarType {
    /// The layout of a float type that embeds in f32; `None` for f32, f64, E8M0, sign and magnitude, integers and bool.
    #[inline(always)]
    pub(super) const fn mini(self) -> Option<Mini> {
        match self {
            ScalarType::F16 => Some(Mini::F16),
            ScalarType::Bf16 => Some(Mini::BF16),
            ScalarType::E4M3 => Some(Mini::E4M3),
            ScalarType::E5M2 => Some(Mini::E5M2),
            ScalarType::E4M3Fnuz => Some(Mini::E4M3_FNUZ),
            ScalarType::E5M2Fnuz => Some(Mini::E5M2_FNUZ),
            ScalarType::E3M2 => Some(Mini::E3M2),
            ScalarType::E2M3 => Some(Mini::E2M3),
            ScalarType::E2M1 => Some(Mini::E2M1),
            ScalarType::Bool
            | ScalarType::I2
            | ScalarType::U2
            | ScalarType::I4
            | ScalarType::U4
            | ScalarType::I8
            | ScalarType::U8
            | ScalarType::I16
            | ScalarType::U16
            | ScalarType::I32
            | ScalarType::U32
            | ScalarType::I64
            | ScalarType::U64
            | ScalarType::F32
            | ScalarType::F64
            | ScalarType::E8M0
            | ScalarType::Sm8
            | ScalarType::Sm5
            | ScalarType::Sm3 => None,
        }
    }

    /// The value of a code. Bits of `code` above the type's width are ignored.
    ///
    /// Exact for every type but `i64` and `u64`, whose values beyond 2^53 round to the nearest f64.
    pub fn decode(self, code: u64) -> f64 {
        match self {
            ScalarType::Bool => f64::from(u8::from(code & 0xFF != 0)),
            ScalarType::I2
            | ScalarType::I4
            | ScalarType::I8
            | ScalarType::I16
            | ScalarType::I32
            | ScalarType::I64 => sign_extend(code, self.bits()) as f64,
            ScalarType::U2
            | ScalarType::U4
            | ScalarType::U8
            | ScalarType::U16
            | ScalarType::U32
            | ScalarType::U64 => low_bits(code, self.bits()) as f64,
            ScalarType::F64 => f64::from_bits(code),
            ScalarType::F32
            | ScalarType::F16
            | ScalarType::Bf16
            | ScalarType::E4M3
            | ScalarType::E5M2
            | ScalarType::E4M3Fnuz
            | ScalarType::E5M2Fnuz
            | ScalarType::E3M2
            | ScalarType::E2M3
            | ScalarType::E2M1
            | ScalarType::E8M0
            | ScalarType::Sm8
            | ScalarType::Sm5
            | ScalarType::Sm3 => f64::from(self.decode_f32(code as u32)),
        }
    }

    /// The code nearest to `value`, ties to even, by the rules at the head of this module.
    pub fn encode(self, value: f64) -> u64 {
        match self {
            ScalarType::Bool => u64::from(value != 0.0),
            ScalarType::I2
            | ScalarType::I4
            | ScalarType::I8
            | ScalarType::I16
            | ScalarType::I32
            | ScalarType::I64 => {
                let half_range = 1i64 << (self.bits() - 2);
                let max = half_range - 1 + half_range;
                // The cast saturates and takes NaN to 0.
                let rounded = value.round_ties_even() as i64;
                low_bits(rounded.clamp(-max - 1, max) as u64, self.bits())
            }
            ScalarType::U2
            | ScalarType::U4
            | ScalarType::U8
            | ScalarType::U16
            | ScalarType::U32
            | ScalarType::U64 => (value.round_ties_even() as u64).min(low_bits(u64::MAX, self.bits())),
            ScalarType::F64 => (if value.is_nan() { f64::NAN } else { value }).to_bits(),
            ScalarType::F32 => u64::from(self.encode_f32(value as f32)),
            ScalarType::F16
            | ScalarType::Bf16
            | ScalarType::E4M3
            | ScalarType::E5M2
            | ScalarType::E4M3Fnuz
            | ScalarType::E5M2Fnuz
            | ScalarType::E3M2
            | ScalarType::E2M3
            | ScalarType::E2M1
            | ScalarType::E8M0
            | ScalarType::Sm8
            | ScalarType::Sm5
            | ScalarType::Sm3 => u64::from(self.encode_f32(round_to_odd(value))),
        }
    }

    /// The value of a code as f32, for types of up to 32 bits; wider types give their [`ScalarType::decode`] rounded.
    ///
    /// Exact for every type of up to 24 bits and for `f32`.
    #[inline]
    pub const fn decode_f32(self, code: u32) -> f32 {
        match self {
            ScalarType::Bool => {
                if code & 0xFF != 0 {
                    1.0
                } else {
                    0.0
                }
            }
            ScalarType::I2
            | ScalarType::I4
            | ScalarType::I8
            | ScalarType::I16
            | ScalarType::I32
            | ScalarType::I64 => sign_extend(code as u64, self.bits()) as f32,
            ScalarType::U2
            | ScalarType::U4
            | ScalarType::U8
            | ScalarType::U16
            | ScalarType::U32
            | ScalarType::U64 => low_bits(code as u64, self.bits()) as f32,
            ScalarType::F16 => Mini::F16.decode(code),
            ScalarType::Bf16 => Mini::BF16.decode(code),
            ScalarType::F32 => f32::from_bits(code),
            ScalarType::F64 => f64::from_bits(code as u64) as f32,
            ScalarType::E4M3 => Mini::E4M3.decode(code),
            ScalarType::E5M2 => Mini::E5M2.decode(code),
            ScalarType::E4M3Fnuz => Mini::E4M3_FNUZ.decode(code),
            ScalarType::E5M2Fnuz => Mini::E5M2_FNUZ.decode(code),
            ScalarType::E3M2 => Mini::E3M2.decode(code),
            ScalarType::E2M3 => Mini::E2M3.decode(code),
            ScalarType::E2M1 => Mini::E2M1.decode(code),
            ScalarType::E8M0 => decode_e8m0(code),
            ScalarType::Sm8 | ScalarType::Sm5 | ScalarType::Sm3 => decode_sign_magnitude(code, self.bits()),
        }
    }

    /// The code nearest to `value`, ties to even; equal to [`ScalarType::encode`] of the same number.
    ///
    /// For types of up to 32 bits: the code of a wider type is cut to its low 32 bits.
    #[inline]
    pub fn encode_f32(self, value: f32) -> u32 {
        match self {
            ScalarType::Bool => u32::from(value != 0.0),
            ScalarType::I2 => round_to_small_int(value, -2.0, 1.0) as u32 & 0x3,
            ScalarType::U2 => round_to_small_int(value, 0.0, 3.0) as u32,
            ScalarType::I4 => round_to_small_int(value, -8.0, 7.0) as u32 & 0xF,
            ScalarType::U4 => round_to_small_int(value, 0.0, 15.0) as u32,
            ScalarType::I8 => round_to_small_int(value, -128.0, 127.0) as u32 & 0xFF,
            ScalarType::U8 => round_to_small_int(value, 0.0, 255.0) as u32,
            ScalarType::I16 => round_to_small_int(value, -32768.0, 32767.0) as u32 & 0xFFFF,
            ScalarType::U16 => round_to_small_int(value, 0.0, 65535.0) as u32,
            ScalarType::I32 => round_half_even(value) as i32 as u32,
            ScalarType::U32 => round_half_even(value) as u32,
            ScalarType::I64 => round_half_even(value) as i64 as u32,
            ScalarType::U64 => round_half_even(value) as u64 as u32,
            ScalarType::F16 => Mini::F16.encode(value),
            ScalarType::Bf16 => Mini::BF16.encode(value),
            ScalarType::F32 => {
                if value.is_nan() {
                    F32_NAN
                } else {
                    value.to_bits()
                }
            }
            ScalarType::F64 => self.encode(f64::from(value)) as u32,
            ScalarType::E4M3 => Mini::E4M3.encode(value),
            ScalarType::E5M2 => Mini::E5M2.encode(value),
            ScalarType::E4M3Fnuz => Mini::E4M3_FNUZ.encode(value),
            ScalarType::E5M2Fnuz => Mini::E5M2_FNUZ.encode(value),
            ScalarType::E3M2 => Mini::E3M2.encode(value),
            ScalarType::E2M3 => Mini::E2M3.encode(value),
            ScalarType::E2M1 => Mini::E2M1.encode(value),
            ScalarType::E8M0 => encode_e8m0(value),
            ScalarType::Sm8 | ScalarType::Sm5 | ScalarType::Sm3 => encode_sign_magnitude(value, self.bits()),
        }
    }

    /// Like [`ScalarType::encode_f32`] for types of up to 8 bits, but never infinity: overflow and infinity give the
    /// largest finite value of their sign. NaN stays what it is there.
    #[inline]
    pub fn encode_saturating(self, value: f32) -> u8 {
        match self.mini() {
            Some(mini) => mini.encode_saturating(value) as u8,
            None => self.encode_f32(value) as u8,
        }
    }
}
