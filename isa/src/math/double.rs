//! The machine's f64 functions: those of the `libm` crate, version 0.2, which are sequences of IEEE operations in Rust.
//!
//! Only what that crate lacks is spelled out here. NaN in gives NaN out, of unspecified payload.

pub use libm::{acos, asin, asinh, atan, atanh, cos, cosh, erf, exp, expm1, log1p, pow, sin, sinh};
pub use libm::{log as ln, tan, tanh};

/// The inverse hyperbolic cosine; NaN below 1, where the crate's function has no defined result.
pub fn acosh(x: f64) -> f64 {
    if x < 1.0 { f64::NAN } else { libm::acosh(x) }
}

/// `1 / (1 + e^-x)`; the exponential of a nonpositive number never overflows.
pub fn sigmoid(x: f64) -> f64 {
    let e = exp(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// The distribution function of the standard normal distribution, `erfc(-x / sqrt(2)) / 2`.
pub fn norm_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}
