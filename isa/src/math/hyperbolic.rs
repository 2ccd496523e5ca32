//! Hyperbolic functions and their inverses.

use super::kernel;
use super::power::{exp, poly};

/// The hyperbolic sine. At most 0.6 ulp.
#[inline(always)]
pub fn sinh(x: f32) -> f32 {
    let t = f64::from(x.abs());
    let z = t * t;
    let series = kernel::poly(
        z,
        [
            1.0 / 6_227_020_800.0,
            1.0 / 39_916_800.0,
            1.0 / 362_880.0,
            1.0 / 5_040.0,
            1.0 / 120.0,
            1.0 / 6.0,
            1.0,
        ],
    ) * t;
    let e = kernel::exp(t);
    let direct = 0.5 * (e - 1.0 / e);
    // The difference cancels near zero, the series runs short away from it.
    let value = if t < 1.0 { series } else { direct };
    (value as f32).copysign(x)
}

/// The hyperbolic cosine. At most 0.6 ulp.
#[inline(always)]
pub fn cosh(x: f32) -> f32 {
    let e = kernel::exp(f64::from(x.abs()));
    (0.5 * (e + 1.0 / e)) as f32
}

/// The hyperbolic tangent. At most 1.5 ulp.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let t = x.abs();
    let z = t * t;
    // Minimax for (tanh(t)/t - 1) / t^2 on [0, 0.63].
    let near =
        poly(z, [2.126_263_3e-3, -8.159_599e-3, 2.169_37e-2, -5.394_552_6e-2, 0.133_331_97, -0.333_333_3]);
    let near = f32::mul_add(t * z, near, t);
    // tanh is 1 in f32 from 9.02 on.
    let t_far = if t > 10.0 { 10.0 } else { t };
    let far = 1.0 - 2.0 / (exp(2.0 * t_far) + 1.0);
    let value = if t < 0.625 { near } else { far };
    value.copysign(x)
}

/// The inverse hyperbolic sine. At most 0.6 ulp.
#[inline(always)]
pub fn asinh(x: f32) -> f32 {
    let t = f64::from(x.abs());
    let square = t * t;
    // t + (sqrt(t^2 + 1) - 1), the difference taken without cancellation.
    let y = t + square / (1.0 + (square + 1.0).sqrt());
    let y = if t == f64::INFINITY { t } else { y };
    (kernel::ln_1p(y) as f32).copysign(x)
}

/// The inverse hyperbolic cosine; NaN below 1. At most 0.6 ulp.
#[inline(always)]
pub fn acosh(x: f32) -> f32 {
    let t = f64::from(x);
    let below = t - 1.0;
    let value = kernel::ln_1p(below + (below * (t + 1.0)).sqrt()) as f32;
    // Below -1 the product is positive again.
    if t < 1.0 { f32::NAN } else { value }
}

/// The inverse hyperbolic tangent; infinite at +-1, NaN beyond. At most 0.6 ulp.
#[inline(always)]
pub fn atanh(x: f32) -> f32 {
    let t = f64::from(x.abs());
    let value = 0.5 * kernel::ln_1p(2.0 * t / (1.0 - t));
    let value = if t > 1.0 { f64::NAN } else { value };
    (value as f32).copysign(x)
}
