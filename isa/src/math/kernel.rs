//! Building blocks in f64, for functions whose f32 result should not feel their rounding.
//!
//! Every polynomial is a Taylor series, cut where the next term is below 2^-34 of the result on the reduced range: the
//! coefficients need no table to be checked against.

/// `2^n` for `n` in [-1022, 1023], arbitrary otherwise.
#[inline(always)]
fn pow2(n: i64) -> f64 {
    f64::from_bits((n.wrapping_add(1023) as u64) << 52)
}

/// Horner's rule with fused multiply-adds; coefficients from the highest power down.
#[inline(always)]
pub(super) fn poly<const N: usize>(x: f64, coefficients: [f64; N]) -> f64 {
    let mut sum = 0.0;
    for c in coefficients {
        sum = f64::mul_add(sum, x, c);
    }
    sum
}

/// `2^x`, clamped to x in [-1000, 1000], where f32 has long reached zero or infinity. NaN stays NaN.
#[inline(always)]
pub(super) fn exp2(x: f64) -> f64 {
    // 1.5 * 2^52: adding it leaves the nearest integer in the low bits.
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    const LN2: f64 = std::f64::consts::LN_2;
    let x = if x > 1000.0 { 1000.0 } else { x };
    let x = if x < -1000.0 { -1000.0 } else { x };
    let shifted = x + MAGIC;
    let n = shifted.to_bits().wrapping_sub(MAGIC.to_bits()) as i64;
    let r = (x - (shifted - MAGIC)) * LN2;
    let p = poly(
        r,
        [
            1.0 / 3_628_800.0,
            1.0 / 362_880.0,
            1.0 / 40_320.0,
            1.0 / 5_040.0,
            1.0 / 720.0,
            1.0 / 120.0,
            1.0 / 24.0,
            1.0 / 6.0,
            0.5,
            1.0,
            1.0,
        ],
    );
    // A NaN leaves arbitrary bits in `n`, but then `p` is NaN already.
    p * pow2(n)
}

/// `e^x`, clamped like [`exp2`].
#[inline(always)]
pub(super) fn exp(x: f64) -> f64 {
    exp2(x * std::f64::consts::LOG2_E)
}

/// The natural logarithm of a positive normal f64, as an exponent and the logarithm of a significand in
/// [sqrt(1/2), sqrt(2)).
#[inline(always)]
fn split_ln(x: f64) -> (f64, f64) {
    const SQRT_HALF: u64 = 0x3FE6_A09E_667F_3BCD;
    const SIGNIFICAND: u64 = (1 << 52) - 1;
    let shifted = x.to_bits().wrapping_sub(SQRT_HALF) as i64;
    // An exponent fits 32 bits, whose conversion to float vectorises.
    let exponent = f64::from((shifted >> 52) as i32);
    let m = f64::from_bits((shifted as u64 & SIGNIFICAND).wrapping_add(SQRT_HALF));
    let f = m - 1.0;
    // ln(1 + f) = 2 atanh(s)
    let s = f / (m + 1.0);
    let z = s * s;
    let p = poly(
        z,
        [2.0 / 17.0, 2.0 / 15.0, 2.0 / 13.0, 2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0],
    );
    (exponent, s * p)
}

/// The ends of a logarithm's domain: zero gives -infinity, negative and NaN give NaN, infinity itself.
#[inline(always)]
fn log_ends(x: f64, value: f64) -> f64 {
    let value = if x == 0.0 { f64::NEG_INFINITY } else { value };
    let value = if x == f64::INFINITY { x } else { value };
    if x >= 0.0 { value } else { f64::NAN }
}

/// `log2(x)` for zero, normal and infinite f64; relative error about 2^-50 also next to 1.
#[inline(always)]
pub(super) fn log2(x: f64) -> f64 {
    let (exponent, ln) = split_ln(x);
    log_ends(x, f64::mul_add(ln, std::f64::consts::LOG2_E, exponent))
}

/// `ln(x)` for zero, normal and infinite f64; relative error about 2^-50 also next to 1.
#[inline(always)]
pub(super) fn ln(x: f64) -> f64 {
    let (exponent, ln) = split_ln(x);
    log_ends(x, f64::mul_add(exponent, std::f64::consts::LN_2, ln))
}

/// `ln(1 + y)`, accurate for small `y`.
#[inline(always)]
pub(super) fn ln_1p(y: f64) -> f64 {
    let u = 1.0 + y;
    // What the addition lost, relative to the sum; meaningless where the sum is 0 or infinite, and not used there.
    let lost = (y - (u - 1.0)) / u;
    let lost = if u > 0.0 && u < f64::INFINITY { lost } else { 0.0 };
    ln(u) + lost
}

/// The angle of the point (`d`, `y`) for nonnegative `y` and `d`, not both zero nor both infinite: in [0, pi/2].
#[inline(always)]
pub(super) fn angle(y: f64, d: f64) -> f64 {
    const TAN_PI_8: f64 = 0.414_213_562_373_095_03;
    const TAN_3PI_8: f64 = 2.414_213_562_373_095;
    let steep = y > TAN_3PI_8 * d;
    let middle = y > TAN_PI_8 * d;
    let num = if middle { y - d } else { y };
    let den = if middle { y + d } else { d };
    let base = if middle { std::f64::consts::FRAC_PI_4 } else { 0.0 };
    let num = if steep { -d } else { num };
    let den = if steep { y } else { den };
    let base = if steep { std::f64::consts::FRAC_PI_2 } else { base };
    let t = num / den;
    let z = t * t;
    let p = poly(
        z,
        [
            1.0 / 29.0,
            -1.0 / 27.0,
            1.0 / 25.0,
            -1.0 / 23.0,
            1.0 / 21.0,
            -1.0 / 19.0,
            1.0 / 17.0,
            -1.0 / 15.0,
            1.0 / 13.0,
            -1.0 / 11.0,
            1.0 / 9.0,
            -1.0 / 7.0,
            1.0 / 5.0,
            -1.0 / 3.0,
        ],
    );
    base + f64::mul_add(t * z, p, t)
}
