//! The table of supported operators: what dispatches a node to its lowering is also what `lacuna ops` prints.

mod contraction;
mod elementwise;
mod indexing;
mod movement;
mod normalization;
mod pooling;
mod reduction;
mod shape;

use lacuna_ir::Value;
use lacuna_ir::op::{BinaryOp as B, CompareOp, ReduceOp as R, UnaryOp as U};
use lacuna_isa::format::ScalarType;

use crate::call::Call;
use crate::codes;
use crate::context::Ctx;
use crate::diagnostic::Fail;
use reduction::Around;

/// The oldest and the newest operator set of `ai.onnx` that models may declare.
pub const OPSETS: std::ops::RangeInclusive<i64> = 13..=25;

type Lower = fn(&mut Ctx<'_>, &Call<'_>) -> Result<Vec<Value>, Fail>;

/// Element types that the first operand may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Types {
    /// Every type.
    Any,
    /// `bool` only.
    Bool,
    /// Integers.
    Int,
    /// f16, bf16, f32 and f64.
    Float,
    /// Integers and the floats above.
    Number,
    /// As `Number`, and `bool`.
    NumberOrBool,
}

impl Types {
    fn admits(self, elem: ScalarType) -> bool {
        let float = matches!(elem, ScalarType::F16 | ScalarType::Bf16 | ScalarType::F32 | ScalarType::F64);
        let int = elem.is_int() && elem.bits() >= 8;
        let boolean = elem == ScalarType::Bool;
        match self {
            Types::Any => true,
            Types::Bool => boolean,
            Types::Int => int,
            Types::Float => float,
            Types::Number => int || float,
            Types::NumberOrBool => int || float || boolean,
        }
    }

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Types::Any => "any",
            Types::Bool => "bool",
            Types::Int => "integer",
            Types::Float => "float",
            Types::Number => "number",
            Types::NumberOrBool => "number, bool",
        }
    }
}

/// A row of the table: an operator type of the domain `ai.onnx`.
#[derive(Clone, Copy)]
pub struct SupportedOp {
    /// Operator type.
    pub op: &'static str,
    /// First supported version of the operator set; every later one to the newest is supported too.
    pub since: i64,
    /// Element types of the first operand.
    pub types: Types,
    /// What is refused; empty when nothing is.
    pub constraint: &'static str,
    /// The IR operators that it becomes.
    pub lowering: &'static str,
    lower: Lower,
}

/// Every supported operator, by name.
pub fn supported_ops() -> &'static [SupportedOp] {
    TABLE
}

pub(crate) fn find(op: &str) -> Option<&'static SupportedOp> {
    TABLE.binary_search_by(|row| row.op.cmp(op)).ok().map(|i| &TABLE[i])
}

/// Lowers a node by its row.
pub(crate) fn lower(row: &SupportedOp, c: &mut Ctx<'_>, n: &Call<'_>) -> Result<Vec<Value>, Fail> {
    if n.opset < row.since {
        let reason =
            format!("{} is supported from operator set {} on, not in {}", row.op, row.since, n.opset);
        return Err(Fail::new(codes::OPERATOR_VERSION, reason));
    }
    if let Some(x) = n.opt(0)
        && !row.types.admits(c.elem(x))
    {
        let reason = format!("the operand is {}; supported are: {}", c.b.ty(x), row.types.name());
        return Err(Fail::new(codes::ELEMENT_TYPE, reason));
    }
    (row.lower)(c, n)
}

macro_rules! table {
    ($($op:literal $since:literal $types:ident $constraint:literal $lowering:literal $lower:expr;)*) => {
        const TABLE: &[SupportedOp] = &[$(SupportedOp {
            op: $op,
            since: $since,
            types: Types::$types,
            constraint: $constraint,
            lowering: $lowering,
            lower: $lower,
        },)*];
    };
}

table! {
    "Abs" 13 Number "" "abs" |c, n| elementwise::unary(c, n, U::Abs);
    "Acos" 13 Float "" "acos" |c, n| elementwise::unary(c, n, U::Acos);
    "Acosh" 13 Float "" "acosh" |c, n| elementwise::unary(c, n, U::Acosh);
    "Add" 13 Number "" "broadcast, add" |c, n| elementwise::binary(c, n, B::Add);
    "And" 13 Bool "" "broadcast, and" |c, n| elementwise::binary(c, n, B::And);
    "ArgMax" 13 Number "" "arg_reduce, reshape" |c, n| reduction::arg_reduce(c, n, true);
    "ArgMin" 13 Number "" "arg_reduce, reshape" |c, n| reduction::arg_reduce(c, n, false);
    "Asin" 13 Float "" "asin" |c, n| elementwise::unary(c, n, U::Asin);
    "Asinh" 13 Float "" "asinh" |c, n| elementwise::unary(c, n, U::Asinh);
    "Atan" 13 Float "" "atan" |c, n| elementwise::unary(c, n, U::Atan);
    "Atanh" 13 Float "" "atanh" |c, n| elementwise::unary(c, n, U::Atanh);
    "AveragePool" 13 Float "up to three spatial axes" "pad, window, reduce, div" pooling::average_pool;
    "BatchNormalization" 13 Float "training_mode=0" "add, sqrt, div, mul, sub, broadcast" normalization::batch_norm;
    "BitShift" 13 Int "" "broadcast, shl or shr" elementwise::bit_shift;
    "BitwiseAnd" 18 Int "" "broadcast, and" |c, n| elementwise::binary(c, n, B::And);
    "BitwiseNot" 18 Int "" "not" |c, n| elementwise::unary(c, n, U::Not);
    "BitwiseOr" 18 Int "" "broadcast, or" |c, n| elementwise::binary(c, n, B::Or);
    "BitwiseXor" 18 Int "" "broadcast, xor" |c, n| elementwise::binary(c, n, B::Xor);
    "Cast" 13 Any "no strings; to E8M0 only with round_mode=nearest" "cast" elementwise::cast;
    "CastLike" 15 Any "as Cast" "cast" elementwise::cast_like;
    "Ceil" 13 Float "" "ceil" |c, n| elementwise::unary(c, n, U::Ceil);
    "Celu" 13 Float "" "exp, min, max, add" elementwise::celu;
    "Clip" 13 Number "" "max, min" elementwise::clip;
    "Concat" 13 Any "up to 4096 operands" "concat" movement::concat;
    "Constant" 13 Any "no strings, no sparse tensors" "const" shape::constant;
    "ConstantOfShape" 13 Any "constant shape" "const" shape::constant_of_shape;
    "Conv" 13 Float "" "conv, add" contraction::conv;
    "ConvInteger" 13 Int "zero points per tensor" "cast, sub, conv" contraction::conv_integer;
    "ConvTranspose" 13 Float "" "slice, permute, conv, add" contraction::conv_transpose;
    "Cos" 13 Float "" "cos" |c, n| elementwise::unary(c, n, U::Cos);
    "Cosh" 13 Float "" "cosh" |c, n| elementwise::unary(c, n, U::Cosh);
    "CumSum" 13 Number "constant axis" "cumulate" reduction::cum_sum;
    "DepthToSpace" 13 Any "" "reshape, permute" movement::depth_to_space;
    "DequantizeLinear" 13 Any "" "cast, sub, mul" elementwise::dequantize;
    "Div" 13 Number "" "broadcast, div" |c, n| elementwise::binary(c, n, B::Div);
    "Dropout" 13 Float "training_mode=false" "none" elementwise::dropout;
    "Einsum" 13 Number "at most two operands, no label repeated within one" "reduce, contract, permute" contraction::einsum;
    "Elu" 13 Float "" "exp, select" elementwise::elu;
    "Equal" 13 Any "" "broadcast, eq" |c, n| elementwise::compare(c, n, CompareOp::Eq, false);
    "Erf" 13 Float "" "erf" |c, n| elementwise::unary(c, n, U::Erf);
    "Exp" 13 Float "" "exp" |c, n| elementwise::unary(c, n, U::Exp);
    "Expand" 13 Any "constant shape" "broadcast" elementwise::expand;
    "EyeLike" 13 Any "" "iota, eq, cast" shape::eye_like;
    "Flatten" 13 Any "" "reshape" movement::flatten;
    "Floor" 13 Float "" "floor" |c, n| elementwise::unary(c, n, U::Floor);
    "Gather" 13 Any "" "gather" indexing::gather;
    "GatherElements" 13 Any "" "permute, gather" indexing::gather_elements;
    "GatherND" 13 Any "" "mul, reduce, gather" indexing::gather_nd;
    "Gelu" 20 Float "" "erf or tanh, mul" elementwise::gelu;
    "Gemm" 13 Number "" "contract, mul, add" contraction::gemm;
    "GlobalAveragePool" 13 Float "" "reduce" |c, n| pooling::global_pool(c, n, R::Mean);
    "GlobalLpPool" 13 Float "" "abs, pow, reduce" pooling::global_lp_pool;
    "GlobalMaxPool" 13 Float "" "reduce" |c, n| pooling::global_pool(c, n, R::Max);
    "Greater" 13 Number "" "broadcast, lt" |c, n| elementwise::compare(c, n, CompareOp::Lt, true);
    "GreaterOrEqual" 13 Number "" "broadcast, le" |c, n| elementwise::compare(c, n, CompareOp::Le, true);
    "GroupNormalization" 18 Float "" "reshape, norm, mul, add" normalization::group_norm;
    "HardSigmoid" 13 Float "" "mul, add, max, min" elementwise::hard_sigmoid;
    "HardSwish" 14 Float "" "mul, add, max, min" elementwise::hard_swish;
    "Hardmax" 13 Float "" "arg_reduce, iota, eq, cast" normalization::hardmax;
    "Identity" 13 Any "no sequences" "none" elementwise::identity;
    "InstanceNormalization" 13 Float "" "norm, mul, add" normalization::instance_norm;
    "IsInf" 13 Float "" "isinf, lt, and" elementwise::is_inf;
    "IsNaN" 13 Float "" "isnan" |c, n| elementwise::unary(c, n, U::IsNan);
    "LRN" 13 Float "" "pad, window, reduce, pow, div" pooling::lrn;
    "LayerNormalization" 17 Float "" "norm" |c, n| normalization::layer_norm(c, n, true);
    "LeakyRelu" 13 Float "" "mul, select" elementwise::leaky_relu;
    "Less" 13 Number "" "broadcast, lt" |c, n| elementwise::compare(c, n, CompareOp::Lt, false);
    "LessOrEqual" 13 Number "" "broadcast, le" |c, n| elementwise::compare(c, n, CompareOp::Le, false);
    "Log" 13 Float "" "log" |c, n| elementwise::unary(c, n, U::Log);
    "LogSoftmax" 13 Float "" "softmax" |c, n| normalization::softmax(c, n, true);
    "LpNormalization" 13 Float "p is 1 or 2" "reduce, select, div" normalization::lp_normalization;
    "LpPool" 13 Float "up to three spatial axes" "pad, window, abs, pow, reduce" pooling::lp_pool;
    "MatMul" 13 Number "" "reshape, contract" contraction::mat_mul;
    "MatMulInteger" 13 Int "" "cast, sub, contract" contraction::mat_mul_integer;
    "Max" 13 Number "" "broadcast, max" |c, n| elementwise::variadic(c, n, B::Max);
    "MaxPool" 13 Number "no Indices; up to three spatial axes" "pad, window, reduce" pooling::max_pool;
    "Mean" 13 Float "" "broadcast, add, div" elementwise::mean;
    "MeanVarianceNormalization" 13 Float "" "reduce, sub, sqrt, div" normalization::mean_variance;
    "Min" 13 Number "" "broadcast, min" |c, n| elementwise::variadic(c, n, B::Min);
    "Mish" 18 Float "" "exp, log, tanh, mul" elementwise::mish;
    "Mod" 13 Number "" "broadcast, mod or rem" elementwise::modulo;
    "Mul" 13 Number "" "broadcast, mul" |c, n| elementwise::binary(c, n, B::Mul);
    "Neg" 13 Number "" "neg" |c, n| elementwise::unary(c, n, U::Neg);
    "Not" 13 Bool "" "not" |c, n| elementwise::unary(c, n, U::Not);
    "OneHot" 13 Number "constant depth" "iota, eq, select" indexing::one_hot;
    "Or" 13 Bool "" "broadcast, or" |c, n| elementwise::binary(c, n, B::Or);
    "PRelu" 13 Number "" "mul, select" elementwise::prelu;
    "Pad" 13 Any "constant pads" "pad, slice, gather" movement::pad;
    "Pow" 13 Number "" "broadcast, cast, pow" elementwise::pow;
    "QuantizeLinear" 13 Number "" "div, round, add, cast" elementwise::quantize;
    "RMSNormalization" 23 Float "" "norm" |c, n| normalization::layer_norm(c, n, false);
    "Range" 13 Number "constant operands" "iota, mul, add" shape::range;
    "Reciprocal" 13 Float "" "recip" |c, n| elementwise::unary(c, n, U::Recip);
    "ReduceL1" 13 Number "constant axes" "abs, reduce" |c, n| reduction::reduce(c, n, R::Sum, Around::Abs);
    "ReduceL2" 13 Number "constant axes" "mul, reduce, sqrt" |c, n| reduction::reduce(c, n, R::Sum, Around::Root);
    "ReduceLogSum" 13 Number "constant axes" "reduce, log" |c, n| reduction::reduce(c, n, R::Sum, Around::Log);
    "ReduceLogSumExp" 13 Number "constant axes" "reduce, exp, log" |c, n| reduction::reduce(c, n, R::Sum, Around::LogExp);
    "ReduceMax" 13 NumberOrBool "constant axes" "reduce" |c, n| reduction::reduce(c, n, R::Max, Around::Plain);
    "ReduceMean" 13 Number "constant axes" "reduce" |c, n| reduction::reduce(c, n, R::Mean, Around::Plain);
    "ReduceMin" 13 NumberOrBool "constant axes" "reduce" |c, n| reduction::reduce(c, n, R::Min, Around::Plain);
    "ReduceProd" 13 Number "constant axes" "reduce" |c, n| reduction::reduce(c, n, R::Prod, Around::Plain);
    "ReduceSum" 13 Number "constant axes" "reduce" |c, n| reduction::reduce(c, n, R::Sum, Around::Plain);
    "ReduceSumSquare" 13 Number "constant axes" "mul, reduce" |c, n| reduction::reduce(c, n, R::Sum, Around::Square);
    "Relu" 13 Number "" "max" elementwise::relu;
    "Reshape" 13 Any "constant shape" "reshape" movement::reshape;
    "Round" 13 Float "" "round" |c, n| elementwise::unary(c, n, U::Round);
    "ScatterElements" 13 Any "constant indices, reduction=none" "concat, gather" indexing::scatter_elements;
    "ScatterND" 13 Any "constant indices, reduction=none" "concat, gather" indexing::scatter_nd;
    "Selu" 13 Float "" "exp, select, mul" elementwise::selu;
    "Shape" 13 Any "" "const" shape::shape;
    "Shrink" 13 Number "" "lt, select" elementwise::shrink;
    "Sigmoid" 13 Float "" "sigmoid" |c, n| elementwise::unary(c, n, U::Sigmoid);
    "Sign" 13 Number "" "sign" |c, n| elementwise::unary(c, n, U::Sign);
    "Sin" 13 Float "" "sin" |c, n| elementwise::unary(c, n, U::Sin);
    "Sinh" 13 Float "" "sinh" |c, n| elementwise::unary(c, n, U::Sinh);
    "Size" 13 Any "" "const" shape::size;
    "Slice" 13 Any "constant bounds and steps" "slice" movement::slice;
    "Softmax" 13 Float "" "softmax" |c, n| normalization::softmax(c, n, false);
    "Softplus" 13 Float "" "exp, log, max, add" elementwise::softplus;
    "Softsign" 13 Float "" "abs, add, div" elementwise::softsign;
    "SpaceToDepth" 13 Any "" "reshape, permute" movement::space_to_depth;
    "Split" 13 Any "constant sizes" "slice" movement::split;
    "Sqrt" 13 Float "" "sqrt" |c, n| elementwise::unary(c, n, U::Sqrt);
    "Squeeze" 13 Any "constant axes" "reshape" movement::squeeze;
    "Sub" 13 Number "" "broadcast, sub" |c, n| elementwise::binary(c, n, B::Sub);
    "Sum" 13 Float "" "broadcast, add" |c, n| elementwise::variadic(c, n, B::Add);
    "Swish" 24 Float "" "sigmoid, mul" elementwise::swish;
    "Tan" 13 Float "" "tan" |c, n| elementwise::unary(c, n, U::Tan);
    "Tanh" 13 Float "" "tanh" |c, n| elementwise::unary(c, n, U::Tanh);
    "ThresholdedRelu" 13 Float "" "lt, select" elementwise::thresholded_relu;
    "Tile" 13 Any "constant repeats" "broadcast, reshape" movement::tile;
    "Transpose" 13 Any "" "permute" movement::transpose;
    "Trilu" 14 NumberOrBool "constant k" "iota, le, select" movement::trilu;
    "Unsqueeze" 13 Any "constant axes" "reshape" movement::unsqueeze;
    "Where" 13 Bool "" "broadcast, select" elementwise::select;
    "Xor" 13 Bool "" "broadcast, xor" |c, n| elementwise::binary(c, n, B::Xor);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ascend_for_the_binary_search() {
        assert!(TABLE.windows(2).all(|w| w[0].op < w[1].op));
    }
}
