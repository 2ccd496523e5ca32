//! Circular functions and their inverses.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};

use super::kernel;

/// 2/pi after its binary point, behind 32 zero bits, most significant word first.
const TWO_OVER_PI: [u32; 8] =
    [0, 0xA2F9_836E, 0x4E44_1529, 0xFC27_57D1, 0xF534_DDC0, 0xDB62_9599, 0x3C43_9041, 0xFE51_63AB];

/// Reduces a nonnegative `t` to `n * pi/2 + r`, |r| <= pi/4: `n` modulo 4, and `r` to a relative 2^-30 or better.
/// Arbitrary for infinities and NaN.
///
/// From 2 on this is the method of Payne and Hanek: 96 bits of 2/pi, chosen by the exponent, times the significand in
/// integers, of which the bits above the quadrant fall away. It is as good for the largest f32 as for small ones.
#[inline(always)]
fn reduce(t: f32) -> (u32, f64) {
    let bits = t.to_bits();
    let significand = u64::from((bits & 0x7F_FFFF) | 0x80_0000);
    let offset = (bits >> 23 & 0xFF).saturating_sub(120);
    let word = offset as usize / 32;
    let shift = offset % 32;
    let window = |i: usize| {
        let pair = u64::from(TWO_OVER_PI[word + i]) << 32 | u64::from(TWO_OVER_PI[word + i + 1]);
        (pair << shift) >> 32
    };
    let turns = ((significand * window(0)) << 32)
        .wrapping_add(significand * window(1))
        .wrapping_add((significand * window(2)) >> 32);
    let far_n = turns.wrapping_add(1 << 61) >> 62;
    let far_r = turns.wrapping_sub(far_n << 62) as i64 as f64 * (FRAC_PI_2 / 4_611_686_018_427_387_904.0);

    const PI_2_LOW: f64 = 6.123_233_995_736_766e-17;
    let wide = f64::from(t);
    let over = wide > FRAC_PI_4;
    let near_r = if over { (wide - FRAC_PI_2) - PI_2_LOW } else { wide };
    if t < 2.0 { (u32::from(over), near_r) } else { (far_n as u32, far_r) }
}

/// Sine and cosine of |r| <= pi/4.
#[inline(always)]
fn sin_cos_reduced(r: f64) -> (f64, f64) {
    let z = r * r;
    let sin = kernel::poly(
        z,
        [
            1.0 / 6_227_020_800.0,
            -1.0 / 39_916_800.0,
            1.0 / 362_880.0,
            -1.0 / 5_040.0,
            1.0 / 120.0,
            -1.0 / 6.0,
        ],
    );
    let cos = kernel::poly(
        z,
        [1.0 / 479_001_600.0, -1.0 / 3_628_800.0, 1.0 / 40_320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5, 1.0],
    );
    (f64::mul_add(r * z, sin, r), cos)
}

/// The sine, for every finite f32; NaN for infinities. At most 0.6 ulp.
#[inline(always)]
pub fn sin(x: f32) -> f32 {
    let t = x.abs();
    let (n, r) = reduce(t);
    let (s, c) = sin_cos_reduced(r);
    let value = if n & 1 == 0 { s } else { c };
    let value = if n & 2 == 0 { value } else { -value };
    let value = if x.is_sign_negative() { -value } else { value };
    if t < f32::INFINITY { value as f32 } else { f32::NAN }
}

/// The cosine, for every finite f32; NaN for infinities. At most 0.6 ulp.
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    let t = x.abs();
    let (n, r) = reduce(t);
    let (s, c) = sin_cos_reduced(r);
    let value = if n & 1 == 0 { c } else { s };
    // Negative in the second and third quadrant.
    let value = if (n + 1) & 2 == 0 { value } else { -value };
    if t < f32::INFINITY { value as f32 } else { f32::NAN }
}

/// The tangent, for every finite f32; NaN for infinities. At most 0.6 ulp.
#[inline(always)]
pub fn tan(x: f32) -> f32 {
    let t = x.abs();
    let (n, r) = reduce(t);
    let (s, c) = sin_cos_reduced(r);
    let even = n & 1 == 0;
    let numerator = if even { s } else { -c };
    let denominator = if even { c } else { s };
    let value = numerator / denominator;
    let value = if x.is_sign_negative() { -value } else { value };
    if t < f32::INFINITY { value as f32 } else { f32::NAN }
}

/// The inverse sine; NaN outside [-1, 1]. At most 0.6 ulp.
#[inline(always)]
pub fn asin(x: f32) -> f32 {
    let t = f64::from(x.abs());
    let value = kernel::angle(t, ((1.0 - t) * (1.0 + t)).sqrt());
    (value as f32).copysign(x)
}

/// The inverse cosine; NaN outside [-1, 1]. At most 0.6 ulp.
#[inline(always)]
pub fn acos(x: f32) -> f32 {
    let t = f64::from(x.abs());
    let value = kernel::angle(((1.0 - t) * (1.0 + t)).sqrt(), t);
    let value = if x < 0.0 { PI - value } else { value };
    value as f32
}

/// The inverse tangent. At most 0.6 ulp.
#[inline(always)]
pub fn atan(x: f32) -> f32 {
    (kernel::angle(f64::from(x.abs()), 1.0) as f32).copysign(x)
}
