//! Element-wise operators.

use std::sync::Arc;

use lacuna_isa::format::ScalarType;

use super::tensor::{Tensor, TensorData};
use super::{Mode, codec, floats, scalar_of};
use crate::op::{BinaryOp, CompareOp, UnaryOp};

pub(super) fn unary(op: UnaryOp, x: &Tensor, mode: Mode) -> TensorData {
    let elem = scalar_of(x);
    match &x.data {
        TensorData::F(values) => match op {
            UnaryOp::IsNan => truths(values.iter().map(|v| v.is_nan())),
            UnaryOp::IsInf => truths(values.iter().map(|v| v.is_infinite())),
            _ => {
                let f = real_function(op);
                floats(elem, values.iter().map(|&v| f(v)).collect(), mode)
            }
        },
        TensorData::I(values) => {
            TensorData::I(Arc::new(values.iter().map(|&v| int_unary(op, elem, v)).collect()))
        }
        TensorData::Grouped(_) => unreachable!("the type rule refuses groups"),
    }
}

fn truths(values: impl Iterator<Item = bool>) -> TensorData {
    TensorData::I(Arc::new(values.map(i64::from).collect()))
}

fn real_function(op: UnaryOp) -> fn(f64) -> f64 {
    match op {
        UnaryOp::Neg => |x| -x,
        UnaryOp::Abs => f64::abs,
        UnaryOp::Sign => |x| if x.is_nan() || x == 0.0 { x } else { f64::copysign(1.0, x) },
        UnaryOp::Ceil => f64::ceil,
        UnaryOp::Floor => f64::floor,
        UnaryOp::Round => f64::round_ties_even,
        UnaryOp::Not => |x| f64::from(u8::from(x == 0.0)),
        UnaryOp::Exp => libm::exp,
        UnaryOp::Log => libm::log,
        UnaryOp::Sqrt => f64::sqrt,
        UnaryOp::Recip => |x| 1.0 / x,
        UnaryOp::Sin => libm::sin,
        UnaryOp::Cos => libm::cos,
        UnaryOp::Tan => libm::tan,
        UnaryOp::Asin => libm::asin,
        UnaryOp::Acos => libm::acos,
        UnaryOp::Atan => libm::atan,
        UnaryOp::Sinh => libm::sinh,
        UnaryOp::Cosh => libm::cosh,
        UnaryOp::Tanh => libm::tanh,
        UnaryOp::Asinh => libm::asinh,
        // Below 1 the crate gives numbers.
        UnaryOp::Acosh => |x| if x < 1.0 { f64::NAN } else { libm::acosh(x) },
        UnaryOp::Atanh => libm::atanh,
        UnaryOp::Erf => libm::erf,
        UnaryOp::Sigmoid => sigmoid,
        UnaryOp::Expm1 => libm::expm1,
        UnaryOp::Log1p => libm::log1p,
        UnaryOp::NormCdf => |x| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        UnaryOp::IsNan => |x| f64::from(u8::from(x.is_nan())),
        UnaryOp::IsInf => |x| f64::from(u8::from(x.is_infinite())),
    }
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + libm::exp(-x))
    } else {
        let e = libm::exp(x);
        e / (1.0 + e)
    }
}

fn int_unary(op: UnaryOp, elem: ScalarType, v: i64) -> i64 {
    let x = codec::wide(elem, v);
    match op {
        UnaryOp::Neg => codec::wrap(elem, -x),
        UnaryOp::Abs => codec::wrap(elem, x.abs()),
        UnaryOp::Sign => codec::wrap(elem, x.signum()),
        UnaryOp::Ceil | UnaryOp::Floor | UnaryOp::Round => v,
        UnaryOp::Not if elem == ScalarType::Bool => i64::from(v == 0),
        UnaryOp::Not => codec::wrap(elem, !x),
        UnaryOp::IsNan | UnaryOp::IsInf => 0,
        UnaryOp::Exp
        | UnaryOp::Log
        | UnaryOp::Sqrt
        | UnaryOp::Recip
        | UnaryOp::Sin
        | UnaryOp::Cos
        | UnaryOp::Tan
        | UnaryOp::Asin
        | UnaryOp::Acos
        | UnaryOp::Atan
        | UnaryOp::Sinh
        | UnaryOp::Cosh
        | UnaryOp::Tanh
        | UnaryOp::Asinh
        | UnaryOp::Acosh
        | UnaryOp::Atanh
        | UnaryOp::Erf
        | UnaryOp::Sigmoid
        | UnaryOp::Expm1
        | UnaryOp::Log1p
        | UnaryOp::NormCdf => codec::float_to_int(elem, real_function(op)(x as f64)),
    }
}

pub(super) fn binary(op: BinaryOp, a: &Tensor, b: &Tensor, mode: Mode) -> TensorData {
    let elem = scalar_of(a);
    match (&a.data, &b.data) {
        (TensorData::F(x), TensorData::F(y)) => {
            let f = real_binary(op);
            floats(elem, x.iter().zip(&**y).map(|(&x, &y)| f(x, y)).collect(), mode)
        }
        (TensorData::I(x), TensorData::I(y)) => {
            let f = |(&x, &y): (&i64, &i64)| {
                codec::wrap(elem, int_binary(op, elem, codec::wide(elem, x), codec::wide(elem, y)))
            };
            TensorData::I(Arc::new(x.iter().zip(&**y).map(f).collect()))
        }
        (TensorData::F(_) | TensorData::I(_) | TensorData::Grouped(_), _) => {
            unreachable!("the type rule wants equal scalar types")
        }
    }
}

fn real_binary(op: BinaryOp) -> fn(f64, f64) -> f64 {
    match op {
        BinaryOp::Add => |a, b| a + b,
        BinaryOp::Sub => |a, b| a - b,
        BinaryOp::Mul => |a, b| a * b,
        BinaryOp::Div => |a, b| a / b,
        BinaryOp::Mod => floored_mod,
        BinaryOp::Rem => |a, b| a % b,
        // A square is rounded as a product is: the library may be off by one bit.
        BinaryOp::Pow => |a, b| if b == 2.0 { a * a } else { libm::pow(a, b) },
        BinaryOp::Min => min,
        BinaryOp::Max => max,
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::Shl | BinaryOp::Shr => |_, _| f64::NAN,
    }
}

/// Lesser of two; NaN if either is, -0 below +0.
pub(super) fn min(a: f64, b: f64) -> f64 {
    -max(-a, -b)
}

/// Greater of two; NaN if either is, -0 below +0.
pub(super) fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a > b || (a == b && b.is_sign_negative()) {
        a
    } else {
        b
    }
}

fn floored_mod(a: f64, b: f64) -> f64 {
    let r = a % b;
    if r == 0.0 {
        f64::copysign(0.0, b)
    } else if (r < 0.0) != (b < 0.0) {
        r + b
    } else {
        r
    }
}

/// The exact or wrapped result; the caller reduces it to the type.
fn int_binary(op: BinaryOp, elem: ScalarType, a: i128, b: i128) -> i128 {
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a.wrapping_mul(b),
        BinaryOp::Div => a.checked_div(b).unwrap_or(0),
        BinaryOp::Mod => {
            let r = a.checked_rem(b).unwrap_or(0);
            if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
        }
        BinaryOp::Rem => a.checked_rem(b).unwrap_or(0),
        BinaryOp::Pow => int_pow(a, b),
        BinaryOp::Min => a.min(b),
        BinaryOp::Max => a.max(b),
        BinaryOp::And => a & b,
        BinaryOp::Or => a | b,
        BinaryOp::Xor => a ^ b,
        BinaryOp::Shl | BinaryOp::Shr => {
            let width = i128::from(if elem == ScalarType::Bool { 1 } else { elem.bits() });
            match (0..width).contains(&b) {
                false => 0,
                true if op == BinaryOp::Shl => a << b,
                true => (a & ((1 << width) - 1)) >> b,
            }
        }
    }
}

fn int_pow(mut base: i128, mut exponent: i128) -> i128 {
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
    let mut result = 1i128;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    result
}

pub(super) fn compare(op: CompareOp, a: &Tensor, b: &Tensor) -> TensorData {
    let elem = scalar_of(a);
    match (&a.data, &b.data) {
        (TensorData::F(x), TensorData::F(y)) => relate(op, x.iter().copied(), y.iter().copied()),
        (TensorData::I(x), TensorData::I(y)) => {
            let wide = |&v: &i64| codec::wide(elem, v);
            relate(op, x.iter().map(wide), y.iter().map(wide))
        }
        (TensorData::F(_) | TensorData::I(_) | TensorData::Grouped(_), _) => {
            unreachable!("the type rule wants equal scalar types")
        }
    }
}

fn relate<T: PartialOrd>(
    op: CompareOp,
    a: impl Iterator<Item = T>,
    b: impl Iterator<Item = T>,
) -> TensorData {
    let f: fn(&T, &T) -> bool = match op {
        CompareOp::Eq => T::eq,
        CompareOp::Lt => T::lt,
        CompareOp::Le => T::le,
    };
    truths(a.zip(b).map(|(x, y)| f(&x, &y)))
}

pub(super) fn select(condition: &Tensor, a: &Tensor, b: &Tensor) -> TensorData {
    fn pick<T: Copy>(condition: &[i64], a: &[T], b: &[T]) -> Arc<Vec<T>> {
        let each = condition.iter().zip(a.iter().zip(b));
        Arc::new(each.map(|(&c, (&a, &b))| if c != 0 { a } else { b }).collect())
    }
    match (&condition.data, &a.data, &b.data) {
        (TensorData::I(c), TensorData::F(a), TensorData::F(b)) => TensorData::F(pick(c, a, b)),
        (TensorData::I(c), TensorData::I(a), TensorData::I(b)) => TensorData::I(pick(c, a, b)),
        (TensorData::F(_) | TensorData::I(_) | TensorData::Grouped(_), _, _) => {
            unreachable!("the type rule wants a bool and equal scalar types")
        }
    }
}

pub(super) fn cast(to: ScalarType, saturate: bool, x: &Tensor, mode: Mode) -> TensorData {
    let from = scalar_of(x);
    match &x.data {
        TensorData::F(values) if to.is_float() => match mode {
            Mode::Real => x.data.clone(),
            Mode::Typed => {
                TensorData::F(Arc::new(values.iter().map(|&v| codec::convert(to, v, saturate)).collect()))
            }
        },
        TensorData::F(values) => {
            TensorData::I(Arc::new(values.iter().map(|&v| codec::float_to_int(to, v)).collect()))
        }
        TensorData::I(values) if to.is_float() => {
            let real = |&v: &i64| match mode {
                Mode::Real => codec::wide(from, v) as f64,
                Mode::Typed => codec::int_to_float(to, codec::wide(from, v), saturate),
            };
            TensorData::F(Arc::new(values.iter().map(real).collect()))
        }
        TensorData::I(values) => {
            TensorData::I(Arc::new(values.iter().map(|&v| codec::wrap(to, codec::wide(from, v))).collect()))
        }
        TensorData::Grouped(_) => unreachable!("the type rule refuses groups"),
    }
}
