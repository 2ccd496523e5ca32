//! Functions of one and two registers, and conversions between lanes.

use lacuna_isa::math;
use lacuna_isa::program::{Lane, Reg, SeBinary, SeUnary};

use super::Lanes;

/// The functions of [`SeUnary::is_polynomial`], as a pattern.
macro_rules! polynomials {
    () => {
        SeUnary::Exp
            | SeUnary::Log
            | SeUnary::Sin
            | SeUnary::Cos
            | SeUnary::Tan
            | SeUnary::Asin
            | SeUnary::Acos
            | SeUnary::Atan
            | SeUnary::Sinh
            | SeUnary::Cosh
            | SeUnary::Tanh
            | SeUnary::Asinh
            | SeUnary::Acosh
            | SeUnary::Atanh
            | SeUnary::Erf
            | SeUnary::Sigmoid
            | SeUnary::Expm1
            | SeUnary::Log1p
            | SeUnary::NormCdf
    };
}

/// All other functions, as a pattern.
macro_rules! exact {
    () => {
        SeUnary::Mov
            | SeUnary::Neg
            | SeUnary::Abs
            | SeUnary::Sign
            | SeUnary::Ceil
            | SeUnary::Floor
            | SeUnary::Round
            | SeUnary::Not
            | SeUnary::Inv
            | SeUnary::Sqrt
            | SeUnary::Recip
            | SeUnary::IsNan
            | SeUnary::IsInf
    };
}

#[inline(always)]
pub(super) fn min64(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

#[inline(always)]
pub(super) fn max64(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a > b || (a == b && b.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// Calls `$go` with a function of the module `$math`, of f32 or f64.
macro_rules! float_function {
    ($f:expr, $go:ident, $($math:ident)::+) => {
        match $f {
            SeUnary::Exp => $go!($($math)::+::exp),
            SeUnary::Log => $go!($($math)::+::ln),
            SeUnary::Sin => $go!($($math)::+::sin),
            SeUnary::Cos => $go!($($math)::+::cos),
            SeUnary::Tan => $go!($($math)::+::tan),
            SeUnary::Asin => $go!($($math)::+::asin),
            SeUnary::Acos => $go!($($math)::+::acos),
            SeUnary::Atan => $go!($($math)::+::atan),
            SeUnary::Sinh => $go!($($math)::+::sinh),
            SeUnary::Cosh => $go!($($math)::+::cosh),
            SeUnary::Tanh => $go!($($math)::+::tanh),
            SeUnary::Asinh => $go!($($math)::+::asinh),
            SeUnary::Acosh => $go!($($math)::+::acosh),
            SeUnary::Atanh => $go!($($math)::+::atanh),
            SeUnary::Erf => $go!($($math)::+::erf),
            SeUnary::Sigmoid => $go!($($math)::+::sigmoid),
            SeUnary::Expm1 => $go!($($math)::+::expm1),
            SeUnary::Log1p => $go!($($math)::+::log1p),
            SeUnary::NormCdf => $go!($($math)::+::norm_cdf),
            exact!() => {}
        }
    };
}

#[inline(always)]
pub(super) fn unary_f32(f: SeUnary, lanes: &mut Lanes, n: usize, dst: Reg, a: Reg) {
    macro_rules! go {
        ($function:path) => {
            f32_map!(lanes, n, dst, a, |x| $function(x))
        };
    }
    match f {
        SeUnary::Mov => f32_map!(lanes, n, dst, a, |x| x),
        SeUnary::Neg => apply!(lanes, n, dst, r32 / t32, (a => r32), |x| x ^ 0x8000_0000),
        SeUnary::Abs => apply!(lanes, n, dst, r32 / t32, (a => r32), |x| x & 0x7FFF_FFFF),
        SeUnary::Sign => f32_map!(lanes, n, dst, a, |x| {
            let unit = if x > 0.0 { 1.0 } else { x };
            if x < 0.0 { -1.0 } else { unit }
        }),
        SeUnary::Ceil => f32_map!(lanes, n, dst, a, |x| x.ceil()),
        SeUnary::Floor => f32_map!(lanes, n, dst, a, |x| x.floor()),
        SeUnary::Round => f32_map!(lanes, n, dst, a, |x| math::round_half_even(x)),
        SeUnary::Not => apply!(lanes, n, dst, r32 / t32, (a => r32), |x| u32::from(x == 0)),
        SeUnary::Inv => apply!(lanes, n, dst, r32 / t32, (a => r32), |x| !x),
        SeUnary::Sqrt => f32_map!(lanes, n, dst, a, |x| x.sqrt()),
        SeUnary::Recip => f32_map!(lanes, n, dst, a, |x| 1.0 / x),
        SeUnary::IsNan => {
            apply!(lanes, n, dst, r32 / t32, (a => r32), |x| u32::from(x & 0x7FFF_FFFF > 0x7F80_0000));
        }
        SeUnary::IsInf => {
            apply!(lanes, n, dst, r32 / t32, (a => r32), |x| u32::from(x & 0x7FFF_FFFF == 0x7F80_0000));
        }
        polynomials!() => float_function!(f, go, math),
    }
}

#[inline(always)]
pub(super) fn unary_f64(f: SeUnary, lanes: &mut Lanes, n: usize, dst: Reg, a: Reg) {
    macro_rules! go {
        ($function:path) => {
            f64_map!(lanes, n, dst, a, |x| $function(x))
        };
    }
    match f {
        SeUnary::Mov => f64_map!(lanes, n, dst, a, |x| x),
        SeUnary::Neg => f64_map!(lanes, n, dst, a, |x| -x),
        SeUnary::Abs => f64_map!(lanes, n, dst, a, |x| x.abs()),
        SeUnary::Sign => f64_map!(lanes, n, dst, a, |x| {
            let unit = if x > 0.0 { 1.0 } else { x };
            if x < 0.0 { -1.0 } else { unit }
        }),
        SeUnary::Ceil => f64_map!(lanes, n, dst, a, |x| x.ceil()),
        SeUnary::Floor => f64_map!(lanes, n, dst, a, |x| x.floor()),
        SeUnary::Round => f64_map!(lanes, n, dst, a, |x| x.round_ties_even()),
        SeUnary::Not => apply!(lanes, n, dst, r64 / t64, (a => r64), |x| u64::from(x == 0)),
        SeUnary::Inv => apply!(lanes, n, dst, r64 / t64, (a => r64), |x| !x),
        SeUnary::Sqrt => f64_map!(lanes, n, dst, a, |x| x.sqrt()),
        SeUnary::Recip => f64_map!(lanes, n, dst, a, |x| 1.0 / x),
        SeUnary::IsNan => {
            apply!(lanes, n, dst, r32 / t32, (a => r64), |x| u32::from(f64::from_bits(x).is_nan()))
        }
        SeUnary::IsInf => {
            apply!(lanes, n, dst, r32 / t32, (a => r64), |x| u32::from(f64::from_bits(x).is_infinite()));
        }
        polynomials!() => float_function!(f, go, math::double),
    }
}

macro_rules! integer_lanes {
    ($unary:ident, $binary:ident, $power:ident, $signed:ty, $unsigned:ty, $r:ident, $t:ident) => {
        #[inline(always)]
        pub(super) fn $unary(f: SeUnary, lanes: &mut Lanes, n: usize, dst: Reg, a: Reg) {
            macro_rules! go {
                                        (|$x:ident| $body:expr) => {
                                            apply!(lanes, n, dst, $r / $t, (a => $r), |bits| {
                                                let $x = bits as $signed;
                                                ($body) as $unsigned
                                            })
                                        };
                                    }
            match f {
                SeUnary::Mov | SeUnary::Ceil | SeUnary::Floor | SeUnary::Round => go!(|x| x),
                SeUnary::Neg => go!(|x| x.wrapping_neg()),
                SeUnary::Abs => go!(|x| x.wrapping_abs()),
                SeUnary::Sign => go!(|x| x.signum()),
                SeUnary::Not => go!(|x| x == 0),
                SeUnary::Inv => go!(|x| !x),
                SeUnary::IsNan | SeUnary::IsInf => {
                    lanes.reg32_mut(dst)[..n].fill(0);
                }
                SeUnary::Sqrt | SeUnary::Recip | polynomials!() => {}
            }
        }

        /// Wrapping power; negative exponents give what truncation of the quotient gives.
        fn $power(base: $signed, exponent: $signed) -> $signed {
            if exponent < 0 {
                return match base {
                    1 => 1,
                    -1 => {
                        if exponent % 2 == 0 {
                            1
                        } else {
                            -1
                        }
                    }
                    _ => 0,
                };
            }
            let (mut result, mut base, mut exponent): ($signed, _, _) = (1, base, exponent);
            while exponent > 0 {
                if exponent & 1 == 1 {
                    result = result.wrapping_mul(base);
                }
                base = base.wrapping_mul(base);
                exponent >>= 1;
            }
            result
        }

        #[inline(always)]
        pub(super) fn $binary(f: SeBinary, lanes: &mut Lanes, n: usize, dst: Reg, a: Reg, b: Reg) {
            macro_rules! go {
                                        (|$x:ident, $y:ident| $body:expr) => {
                                            apply!(lanes, n, dst, $r / $t, (a => $r, b => $r), |p, q| {
                                                let ($x, $y) = (p as $signed, q as $signed);
                                                ($body) as $unsigned
                                            })
                                        };
                                    }
            macro_rules! mask {
                                        (|$x:ident, $y:ident| $body:expr) => {
                                            apply!(lanes, n, dst, r32 / t32, (a => $r, b => $r), |p, q| {
                                                let ($x, $y) = (p as $signed, q as $signed);
                                                u32::from($body)
                                            })
                                        };
                                    }
            const BITS: u32 = <$signed>::BITS;
            match f {
                SeBinary::Add => go!(|x, y| x.wrapping_add(y)),
                SeBinary::Sub => go!(|x, y| x.wrapping_sub(y)),
                SeBinary::Mul => go!(|x, y| x.wrapping_mul(y)),
                SeBinary::Div => go!(|x, y| if y == 0 { 0 } else { x.wrapping_div(y) }),
                SeBinary::Mod => go!(|x, y| {
                    let r = if y == 0 { 0 } else { x.wrapping_rem(y) };
                    if r != 0 && (r < 0) != (y < 0) { r + y } else { r }
                }),
                SeBinary::Rem => go!(|x, y| if y == 0 { 0 } else { x.wrapping_rem(y) }),
                SeBinary::Pow => go!(|x, y| $power(x, y)),
                SeBinary::Min => go!(|x, y| x.min(y)),
                SeBinary::Max => go!(|x, y| x.max(y)),
                SeBinary::And => go!(|x, y| x & y),
                SeBinary::Or => go!(|x, y| x | y),
                SeBinary::Xor => go!(|x, y| x ^ y),
                SeBinary::Shl => go!(|x, y| {
                    if (y as $unsigned) < BITS as $unsigned { x.wrapping_shl(y as u32) } else { 0 }
                }),
                SeBinary::Shr => go!(|x, y| {
                    if (y as $unsigned) < BITS as $unsigned {
                        (x as $unsigned).wrapping_shr(y as u32)
                    } else {
                        0
                    }
                }),
                SeBinary::Eq => mask!(|x, y| x == y),
                SeBinary::Lt => mask!(|x, y| x < y),
                SeBinary::Le => mask!(|x, y| x <= y),
            }
        }
    };
}
integer_lanes!(unary_i32, binary_i32, power_i32, i32, u32, r32, t32);
integer_lanes!(unary_i64, binary_i64, power_i64, i64, u64, r64, t64);

macro_rules! float_lanes {
    ($binary:ident, $float:ty, $integer:ident, $r:ident, $t:ident, $min:path, $max:path, $pow:expr) => {
        #[inline(always)]
        pub(super) fn $binary(f: SeBinary, lanes: &mut Lanes, n: usize, dst: Reg, a: Reg, b: Reg) {
            macro_rules! go {
                                (|$x:ident, $y:ident| $body:expr) => {
                                    apply!(lanes, n, dst, $r / $t, (a => $r, b => $r), |p, q| {
                                        let ($x, $y) = (<$float>::from_bits(p), <$float>::from_bits(q));
                                        <$float>::to_bits($body)
                                    })
                                };
                            }
            macro_rules! mask {
                                (|$x:ident, $y:ident| $body:expr) => {
                                    apply!(lanes, n, dst, r32 / t32, (a => $r, b => $r), |p, q| {
                                        let ($x, $y) = (<$float>::from_bits(p), <$float>::from_bits(q));
                                        u32::from($body)
                                    })
                                };
                            }
            match f {
                SeBinary::Add => go!(|x, y| x + y),
                SeBinary::Sub => go!(|x, y| x - y),
                SeBinary::Mul => go!(|x, y| x * y),
                SeBinary::Div => go!(|x, y| x / y),
                SeBinary::Mod => go!(|x, y| {
                    let r = x % y;
                    if r == 0.0 {
                        <$float>::copysign(0.0, y)
                    } else if (r < 0.0) != (y < 0.0) {
                        r + y
                    } else {
                        r
                    }
                }),
                SeBinary::Rem => go!(|x, y| x % y),
                SeBinary::Pow => go!(|x, y| $pow(x, y)),
                SeBinary::Min => go!(|x, y| $min(x, y)),
                SeBinary::Max => go!(|x, y| $max(x, y)),
                // The bits of the lanes, as of integers.
                SeBinary::And | SeBinary::Or | SeBinary::Xor | SeBinary::Shl | SeBinary::Shr => {
                    $integer(f, lanes, n, dst, a, b);
                }
                SeBinary::Eq => mask!(|x, y| x == y),
                SeBinary::Lt => mask!(|x, y| x < y),
                SeBinary::Le => mask!(|x, y| x <= y),
            }
        }
    };
}
float_lanes!(binary_f32, f32, binary_i32, r32, t32, math::fmin, math::fmax, math::pow);
float_lanes!(binary_f64, f64, binary_i64, r64, t64, min64, max64, math::double::pow);

#[inline(always)]
pub(super) fn convert(from: Lane, to: Lane, lanes: &mut Lanes, n: usize, dst: Reg, a: Reg) {
    macro_rules! go {
        ($i:ident => $o:ident / $t:ident, |$x:ident| $body:expr) => {
            apply!(lanes, n, dst, $o / $t, (a => $i), |$x| $body)
        };
    }
    match (from, to) {
        (Lane::F32, Lane::F32) | (Lane::I32, Lane::I32) => go!(r32 => r32 / t32, |x| x),
        (Lane::F64, Lane::F64) | (Lane::I64, Lane::I64) => go!(r64 => r64 / t64, |x| x),
        (Lane::F32, Lane::F64) => go!(r32 => r64 / t64, |x| f64::from(f32::from_bits(x)).to_bits()),
        (Lane::F32, Lane::I32) => go!(r32 => r32 / t32, |x| f32::from_bits(x) as i32 as u32),
        (Lane::F32, Lane::I64) => go!(r32 => r64 / t64, |x| f32::from_bits(x) as i64 as u64),
        (Lane::F64, Lane::F32) => go!(r64 => r32 / t32, |x| (f64::from_bits(x) as f32).to_bits()),
        (Lane::F64, Lane::I32) => go!(r64 => r32 / t32, |x| f64::from_bits(x) as i32 as u32),
        (Lane::F64, Lane::I64) => go!(r64 => r64 / t64, |x| f64::from_bits(x) as i64 as u64),
        (Lane::I32, Lane::F32) => go!(r32 => r32 / t32, |x| (x as i32 as f32).to_bits()),
        (Lane::I32, Lane::F64) => go!(r32 => r64 / t64, |x| f64::from(x as i32).to_bits()),
        (Lane::I32, Lane::I64) => go!(r32 => r64 / t64, |x| i64::from(x as i32) as u64),
        (Lane::I64, Lane::F32) => go!(r64 => r32 / t32, |x| (x as i64 as f32).to_bits()),
        (Lane::I64, Lane::F64) => go!(r64 => r64 / t64, |x| (x as i64 as f64).to_bits()),
        (Lane::I64, Lane::I32) => go!(r64 => r32 / t32, |x| x as u32),
    }
}
