//! The machine's f32 functions, defined by arithmetic that every host rounds alike. Those of f64 are in [`double`].
//!
//! Each function is a fixed sequence of IEEE additions, multiplications, divisions, square roots and fused
//! multiply-adds, with selections in place of branches and no call into the host's mathematical library. So the bits are
//! part of the instruction set, and a loop over a slice vectorises where the target has fused multiply-add. Functions
//! that activations use compute in f32; the others widen to f64, whose rounding error disappears in the last step.
//!
//! Error bounds are in units in the last place of the f32 result, measured over every 4099th f32 (every 16,411th pair
//! for [`pow`]) against f64 references, by the test that also enforces them (`tests/format_math.rs`). Subnormal results
//! are produced, not flushed. NaN in gives NaN out, of unspecified payload: stores write the one NaN of a format.

pub mod double;
mod hyperbolic;
mod kernel;
mod power;
mod trig;

pub use hyperbolic::{acosh, asinh, atanh, cosh, sinh, tanh};
pub use power::{erf, exp, expm1, ln, log1p, norm_cdf, pow, rsqrt, sigmoid};
pub use trig::{acos, asin, atan, cos, sin, tan};

/// Rounds to an integral value, ties to even; keeps the sign of zero, infinities and NaN.
#[inline(always)]
pub fn round_half_even(x: f32) -> f32 {
    const MAGIC: f32 = 8_388_608.0;
    let mag = x.abs();
    let rounded = ((mag + MAGIC) - MAGIC).copysign(x);
    // The comparison is false for NaN, which so passes through.
    if mag < MAGIC { rounded } else { x }
}

/// The smaller operand: NaN if either is NaN, and -0 is below +0.
#[inline(always)]
pub fn fmin(a: f32, b: f32) -> f32 {
    // Equal operands differ at most in the sign of zero.
    let equal = f32::from_bits(a.to_bits() | b.to_bits());
    let ordered = if a < b { a } else { b };
    let value = if a == b { equal } else { ordered };
    if a.is_nan() || b.is_nan() { f32::NAN } else { value }
}

/// The larger operand: NaN if either is NaN, and +0 is above -0.
#[inline(always)]
pub fn fmax(a: f32, b: f32) -> f32 {
    let equal = f32::from_bits(a.to_bits() & b.to_bits());
    let ordered = if a > b { a } else { b };
    let value = if a == b { equal } else { ordered };
    if a.is_nan() || b.is_nan() { f32::NAN } else { value }
}
