//! Which numbers the result of an operator is known never to have.

use egg::Id;
use lacuna_ir::op::{BinaryOp, ReduceOp, UnaryOp};
use lacuna_ir::{Constant, ConstantData, Module, Op};
use lacuna_isa::format::{ScalarType, pack};

use super::Numbers;
use crate::facts::Facts;

/// Constants of more bytes are not read.
const READ_BYTES: usize = 4096;

/// What is known of a result, from its operands' facts and classes.
pub fn of_op(module: &Module, op: &Op, args: &[&Facts], ids: &[Id]) -> Numbers {
    let of = |i: usize| args[i].numbers;
    match op {
        Op::Const { value } => of_constant(&module.constants[*value]),
        Op::Unary { op } => unary(*op, of(0)),
        Op::Binary { op } => binary(*op, of(0), of(1), ids[0] == ids[1]),
        Op::Select {} => of(1).either(of(2)),
        Op::Cast { to, .. } => args[0]
            .types
            .first()
            .and_then(|ty| ty.elem.scalar())
            .map_or_else(Numbers::default, |from| cast(from, *to, of(0))),
        Op::Pad { .. } => of(0).either(of(1)),
        Op::Concat { .. } => (1..args.len()).fold(of(0), |all, i| all.either(of(i))),
        Op::Gather { .. } => of(0),
        Op::Reduce { op, axes } => {
            let some = axes.iter().all(|&a| args[0].types.first().is_some_and(|ty| ty.shape[a as usize] > 0));
            match op {
                ReduceOp::Max | ReduceOp::Min if some => of(0),
                ReduceOp::Sum | ReduceOp::Mean | ReduceOp::Prod => Numbers::signs(false, of(0).no_minus),
                ReduceOp::Max | ReduceOp::Min => Numbers::default(),
            }
        }
        // An accumulator holds f32, and draining it turns -0 into +0; narrower results may round to -0.
        Op::Contract { elem, .. } | Op::Conv { elem, .. } => Numbers::signs(*elem == ScalarType::F32, false),
        Op::Softmax { log: false, .. } => {
            Numbers { no_inf: true, no_minus_zero: true, no_minus: true, ..Numbers::default() }
        }
        op if op.is_movement() => of(0),
        Op::Iota { .. } | Op::Compare { .. } | Op::ArgReduce { .. } => Numbers::default(),
        Op::Cumulate { .. } | Op::Sort { .. } | Op::Scatter { .. } => Numbers::default(),
        Op::Reshape { .. } | Op::Permute { .. } | Op::Broadcast { .. } => of(0),
        Op::Slice { .. } | Op::Window { .. } => of(0),
        Op::Softmax { .. } | Op::Norm { .. } | Op::Attention { .. } => Numbers::default(),
        Op::BitCast { .. } => Numbers::default(),
        Op::MxQuantize { .. } | Op::MxDecode { .. } | Op::Dequantize { .. } | Op::Call { .. } => {
            Numbers::default()
        }
    }
}

fn of_constant(constant: &Constant) -> Numbers {
    let Some(elem) = constant.ty.elem.scalar() else { return Numbers::default() };
    let of = |value: f64| Numbers {
        no_nan: !value.is_nan(),
        no_inf: !value.is_infinite(),
        no_minus_zero: value != 0.0 || value.is_sign_positive(),
        no_minus: value.is_nan() || value.is_sign_positive(),
    };
    match &constant.data {
        ConstantData::Splat(code) => of(elem.decode(*code)),
        ConstantData::Dense(blob) if blob.len() <= READ_BYTES => {
            let bytes = blob.bytes();
            let n = constant.ty.shape.elements() as usize;
            let values = (0..n).map(|i| of(elem.decode(pack::get(bytes, elem, i))));
            values.fold(Numbers::BEST, Numbers::either)
        }
        ConstantData::Dense(_) => Numbers::default(),
    }
}

fn unary(op: UnaryOp, x: Numbers) -> Numbers {
    let bounded = |no_nan: bool, signs: Numbers| Numbers { no_nan, no_inf: true, ..signs };
    // Rounding to a type may bring -0 out of a small negative number, so a sign is kept only where there is none.
    let own = Numbers::signs(false, x.no_minus);
    match op {
        UnaryOp::Neg => Numbers { no_minus_zero: false, no_minus: false, ..x },
        UnaryOp::Abs => Numbers { no_minus_zero: true, no_minus: true, ..x },
        UnaryOp::Sign | UnaryOp::Floor => x,
        UnaryOp::Ceil | UnaryOp::Round => Numbers { no_minus_zero: x.no_minus, ..x },
        UnaryOp::Exp | UnaryOp::Cosh => Numbers { no_nan: x.no_nan, ..Numbers::signs(false, true) },
        UnaryOp::Sqrt => Numbers {
            no_nan: x.no_nan && x.no_minus,
            no_inf: x.no_inf,
            ..Numbers::signs(x.no_minus_zero, x.no_minus_zero)
        },
        UnaryOp::Sigmoid | UnaryOp::NormCdf => bounded(x.no_nan, Numbers::signs(false, true)),
        UnaryOp::Tanh | UnaryOp::Erf | UnaryOp::Atan => bounded(x.no_nan, own),
        UnaryOp::Sin | UnaryOp::Cos => bounded(x.finite(), Numbers::default()),
        UnaryOp::Recip => Numbers { no_nan: x.no_nan, ..own },
        UnaryOp::Sinh | UnaryOp::Asinh | UnaryOp::Expm1 => Numbers { no_nan: x.no_nan, ..own },
        UnaryOp::Not | UnaryOp::IsNan | UnaryOp::IsInf => Numbers::default(),
        UnaryOp::Log | UnaryOp::Tan | UnaryOp::Asin | UnaryOp::Acos => Numbers::default(),
        UnaryOp::Acosh | UnaryOp::Atanh | UnaryOp::Log1p => Numbers::default(),
    }
}

fn binary(op: BinaryOp, a: Numbers, b: Numbers, same: bool) -> Numbers {
    let both = a.no_nan && b.no_nan;
    let no_minus = a.no_minus && b.no_minus;
    match op {
        // A sum is -0 only where both terms are; two infinities may cancel to NaN.
        BinaryOp::Add => Numbers {
            no_nan: both && (a.no_inf || b.no_inf),
            ..Numbers::signs(a.no_minus_zero || b.no_minus_zero, no_minus)
        },
        BinaryOp::Sub => {
            Numbers { no_nan: both && (a.no_inf || b.no_inf), ..Numbers::signs(a.no_minus_zero, false) }
        }
        BinaryOp::Mul => Numbers {
            no_nan: both && (same || (a.no_inf && b.no_inf)),
            ..Numbers::signs(false, no_minus || same)
        },
        BinaryOp::Div => Numbers::signs(false, no_minus),
        BinaryOp::Max => Numbers {
            no_nan: both,
            no_inf: a.no_inf && b.no_inf,
            ..Numbers::signs(a.no_minus_zero && b.no_minus_zero, a.no_minus || b.no_minus)
        },
        BinaryOp::Min => Numbers {
            no_nan: both,
            no_inf: a.no_inf && b.no_inf,
            ..Numbers::signs(a.no_minus_zero && b.no_minus_zero, no_minus)
        },
        BinaryOp::Mod | BinaryOp::Rem | BinaryOp::Pow | BinaryOp::Shl | BinaryOp::Shr => Numbers::default(),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => Numbers::default(),
    }
}

fn cast(from: ScalarType, to: ScalarType, x: Numbers) -> Numbers {
    let wide = |elem: ScalarType| matches!(elem, ScalarType::F32 | ScalarType::F64 | ScalarType::Bf16);
    if !to.is_float() {
        return Numbers::default();
    }
    if !from.is_float() {
        // Every integer is far below the greatest number of these.
        return Numbers { no_inf: wide(to), no_minus_zero: true, ..x };
    }
    let widens = from == to
        || matches!((from, to), (ScalarType::F32, ScalarType::F64))
        || (matches!(from, ScalarType::F16 | ScalarType::Bf16)
            && matches!(to, ScalarType::F32 | ScalarType::F64));
    if widens {
        return x;
    }
    // What is too large becomes infinite, what is too small a zero with its sign, and some types have no NaN.
    let narrow = matches!(to, ScalarType::F32 | ScalarType::F16 | ScalarType::Bf16);
    Numbers { no_nan: x.no_nan && narrow, ..Numbers::signs(false, x.no_minus && narrow) }
}
