//! Exponentials, logarithms, powers, and the functions of activations built on them.

use super::kernel;

/// Horner's rule with fused multiply-adds; coefficients from the highest power down.
#[inline(always)]
pub(super) fn poly<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = 0.0;
    for c in coefficients {
        sum = f32::mul_add(sum, x, c);
    }
    sum
}

/// `2^n` for `n` in [-126, 127], arbitrary otherwise.
#[inline(always)]
fn pow2(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// `e^x`. At most 0.8 ulp (0.6 for normal results); subnormal and infinite results included.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it leaves the nearest integer in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    const LN2_HI: f32 = std::f32::consts::LN_2;
    const LN2_LO: f32 = -1.904_654_3e-9;
    // Beyond these the result is zero or infinite, and `n` stays within reach of two normal powers of two.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = f32::mul_add(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted.to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
    let n_float = shifted - MAGIC;
    // x = n ln 2 + r + r_low with |r| <= 0.35; the first step is exact.
    let r_high = f32::mul_add(n_float, -LN2_HI, x);
    let r = f32::mul_add(n_float, -LN2_LO, r_high);
    let r_low = f32::mul_add(n_float, -LN2_LO, r_high - r);
    // Minimax for (e^r - 1 - r) / r^2, weighted for the relative error of e^r: 2^-28.
    let p = poly(r, [1.381_309_7e-3, 8.369_423e-3, 4.166_845_6e-2, 0.166_665_15, 0.499_999_94]);
    // What 1 + r loses is added back together with the small terms.
    let sum = 1.0 + r;
    let lost = (1.0 - sum) + r;
    let power = sum + (f32::mul_add(r * r, p, r_low) + lost);
    let half = n >> 1;
    // The first product is exact, so a subnormal result is rounded once more only.
    power * pow2(half) * pow2(n.wrapping_sub(half))
}

/// The natural logarithm. At most 1 ulp; `ln(+-0)` is -infinity, negative values give NaN.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3F35_04F3;
    const LN2_HI: f32 = 0.693_145_75;
    const LN2_LO: f32 = 1.428_606_8e-6;
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let bias = if tiny { -23.0 } else { 0.0 };
    let shifted = scaled.to_bits().wrapping_sub(SQRT_HALF) as i32;
    let k = (shifted >> 23) as f32 + bias;
    let m = f32::from_bits((shifted as u32 & 0x7F_FFFF) + SQRT_HALF);
    let f = m - 1.0;
    // ln(1 + f) = f - f^2/2 + s (f^2/2 + R), with R the tail of 2 atanh(s) beyond its first term.
    let s = f / (2.0 + f);
    let z = s * s;
    let tail = z * poly(z, [2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0]);
    let half_square = 0.5 * f * f;
    let low = f32::mul_add(s, half_square + tail, k * LN2_LO) - half_square;
    let value = f32::mul_add(k, LN2_HI, low + f);
    let value = if x == 0.0 { f32::NEG_INFINITY } else { value };
    let value = if x == f32::INFINITY { x } else { value };
    if x >= 0.0 { value } else { f32::NAN }
}

/// `e^x - 1`. At most 0.6 ulp, also next to zero, whose sign it keeps.
#[inline(always)]
pub fn expm1(x: f32) -> f32 {
    let t = f64::from(x);
    // Taylor for (e^t - 1) / t; the difference below cancels near zero.
    let series = kernel::poly(
        t,
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
        ],
    ) * t;
    let direct = kernel::exp(t) - 1.0;
    (if t.abs() < 0.35 { series } else { direct }) as f32
}

/// `ln(1 + x)`. At most 0.6 ulp, also next to zero, whose sign it keeps; -infinity at -1, NaN below.
#[inline(always)]
pub fn log1p(x: f32) -> f32 {
    let value = kernel::ln_1p(f64::from(x)) as f32;
    if x == 0.0 { x } else { value }
}

/// The distribution function of the standard normal distribution, `erfc(-x / sqrt(2)) / 2`. At most 0.6 ulp, subnormal
/// results included.
#[inline(always)]
pub fn norm_cdf(x: f32) -> f32 {
    let t = f64::from(x.abs());
    // From 14.2 on the tail is below half of the least subnormal f32.
    let t = if t > 15.0 { 15.0 } else { t };
    let s = 1.0 / (1.0 + 0.2 * t);
    // Minimax for tail(t) * e^(t^2/2) / s over 2 s - 1, with t in [0, 14.5]: 2^-34.
    let p = kernel::poly(
        2.0 * s - 1.0,
        [
            -9.294_766_744_472_888e-7,
            1.377_358_950_074_416_2e-5,
            -1.076_654_798_128_837_7e-5,
            -1.117_029_958_840_438_3e-4,
            -1.591_899_099_107_026_2e-4,
            5.993_605_609_816_067e-4,
            4.158_844_927_960_381e-3,
            1.382_364_883_674_181_7e-2,
            3.300_409_264_194_262e-2,
            6.270_663_542_265_383e-2,
            9.906_112_250_225_323e-2,
            0.133_076_500_510_575_46,
            0.153_838_609_953_545_6,
        ],
    );
    let tail = p * s * kernel::exp(-0.5 * t * t);
    let value = if x > 0.0 { 1.0 - tail } else { tail };
    if x.is_nan() { x } else { value as f32 }
}

/// `1 / (1 + e^-x)`. At most 2 ulp, subnormal results included.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    // The exponential of a nonpositive number never overflows, and stays subnormal where the result is.
    let e = exp(-x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    let denominator = 1.0 + e;
    let lost = (1.0 - denominator) + e;
    let inverse = 1.0 / denominator;
    // One step of residual correction, with what the sum lost, leaves the error of the exponential.
    let quotient = numerator * inverse;
    let residual = f32::mul_add(-quotient, lost, f32::mul_add(-quotient, denominator, numerator));
    f32::mul_add(residual, inverse, quotient)
}

/// `1 / sqrt(x)`: a square root and a division, both IEEE. At most 1.5 ulp.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    1.0 / x.sqrt()
}

/// The error function. At most 1.5 ulp.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let t = x.abs();
    let square = x * x;
    // Minimax for erf(x)/x - 1 on [0, 0.95].
    let small = poly(
        square,
        [
            8.186_005e-5,
            -8.097_971e-4,
            5.196_982_5e-3,
            -2.685_772e-2,
            0.112_836_644,
            -0.376_126_32,
            0.128_379_17,
        ],
    );
    let small = f32::mul_add(small, x, x);
    // Minimax for ln(erfc t) + t on [0.94, 4], weighted by erfc; beyond 4 erf is 1.
    let t_near = if t > 4.0 { 4.0 } else { t };
    let log = poly(
        t_near,
        [
            1.926_242_5e-4,
            -3.010_691_8e-3,
            2.209_716_3e-2,
            -0.103_662_21,
            -0.637_489_44,
            -0.127_493_04,
            -2.399_104_3e-4,
        ],
    );
    let large = (1.0 - exp(log - t_near)).copysign(x);
    if t < 0.945 { small } else { large }
}

/// `x^y` with IEEE 754's special cases (`pow(x, 0)` and `pow(1, y)` are 1 even for NaN). At most 0.6 ulp.
#[inline(always)]
pub fn pow(x: f32, y: f32) -> f32 {
    let mag = kernel::exp2(f64::from(y) * kernel::log2(f64::from(x.abs()))) as f32;
    let as_int = y as i32;
    let huge = y.abs() >= 16_777_216.0;
    let odd = !huge && as_int as f32 == y && as_int & 1 == 1;
    let integral = huge || as_int as f32 == y;
    let signed = if odd { mag.copysign(x) } else { mag };
    // A negative base needs an integral exponent, except that zeros and infinities have a limit for any.
    let no_result = x < 0.0 && x != f32::NEG_INFINITY && !integral;
    let value = if no_result { f32::NAN } else { signed };
    let both_nan = x.is_nan() || y.is_nan();
    let value = if both_nan { f32::NAN } else { value };
    let unit = x == 1.0 || y == 0.0 || (x == -1.0 && y.abs() == f32::INFINITY);
    if unit { 1.0 } else { value }
}
