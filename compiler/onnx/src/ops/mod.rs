//! The table of supported operators: what dispatches a node to its lowering is also what `lacuna ops` prints.

mod activation;
mod attention;
mod blocks;
mod contraction;
mod data_dependent;
mod domains;
mod einsum;
mod elementwise;
mod experts;
mod fused;
mod fused_attention;
mod grams;
mod grid;
mod grouped_query;
mod indexing;
mod learning;
mod legacy;
mod linear_attention;
mod loss;
mod microsoft;
mod movement;
mod n_bits;
mod normalization;
mod pooling;
mod precision;
mod quantization;
mod quantized;
mod recurrent;
mod recurrent_cells;
mod reduction;
mod regions;
mod resize;
mod resize_phases;
mod resize_taps;
mod sampling;
mod scatter;
mod shape;
mod sorting;
mod spectrum;
mod training;
mod trees;
mod unpooling;

use lacuna_ir::Value;
use lacuna_ir::op::{BinaryOp as B, CompareOp, ReduceOp as R, UnaryOp as U};
use lacuna_isa::format::ScalarType;

use crate::call::Call;
use crate::codes;
use crate::context::Ctx;
use crate::diagnostic::Fail;
use crate::graph::Importer;
use crate::slot::Slot;
use crate::{control, scan, sequence};
use precision::in_f32;
use reduction::Around;

/// The oldest and the newest operator set of `ai.onnx` that models may declare.
pub const OPSETS: std::ops::RangeInclusive<i64> = 1..=28;

/// How a node becomes IR.
#[derive(Clone, Copy)]
enum Lower {
    /// An operator on tensors.
    Values(fn(&mut Ctx<'_>, &Call<'_>) -> Result<Vec<Value>, Fail>),
    /// An operator on sequences or optionals, or with subgraphs.
    Slots(fn(&mut Importer<'_>, &Call<'_, Slot>) -> Result<Vec<Slot>, Fail>),
}

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
    /// Every type, and sequences and optionals.
    Slots,
}

impl Types {
    fn admits(self, elem: ScalarType) -> bool {
        let float = matches!(elem, ScalarType::F16 | ScalarType::Bf16 | ScalarType::F32 | ScalarType::F64);
        let int = elem.is_int() && elem.bits() >= 8;
        let boolean = elem == ScalarType::Bool;
        match self {
            Types::Any | Types::Slots => true,
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
            Types::Slots => "any, sequence, optional",
        }
    }
}

/// A row of the table: an operator type.
#[derive(Clone, Copy)]
pub struct SupportedOp {
    /// Domain; empty for `ai.onnx`.
    pub domain: &'static str,
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

/// Every supported operator, by domain and name.
pub fn supported_ops() -> impl Iterator<Item = &'static SupportedOp> {
    DOMAINS.iter().flat_map(|(_, table)| *table)
}

/// The tables by domain; the empty one is `ai.onnx`.
const DOMAINS: &[(&str, &[SupportedOp])] = &[
    ("", TABLE),
    (domains::ML, domains::ML_OPS),
    (domains::PREVIEW, domains::PREVIEW_OPS),
    (domains::TRAINING, domains::TRAINING_OPS),
    (domains::MICROSOFT, domains::MICROSOFT_OPS),
];

/// Whether some operators of the domain are supported.
pub(crate) fn is_domain(domain: &str) -> bool {
    DOMAINS.iter().any(|(known, _)| *known == domain)
}

/// Whether an operator's results differ from run to run.
pub(crate) fn is_random(op: &str) -> bool {
    matches!(op, "Bernoulli" | "Multinomial") || op.starts_with("Random")
}

pub(crate) fn find(domain: &str, op: &str) -> Option<&'static SupportedOp> {
    let (_, table) = DOMAINS.iter().find(|(known, _)| *known == domain)?;
    table.binary_search_by(|row| row.op.cmp(op)).ok().map(|i| &table[i])
}

/// Lowers a node by its row.
pub(crate) fn lower(row: &SupportedOp, im: &mut Importer<'_>, n: Call<'_, Slot>) -> Result<Vec<Slot>, Fail> {
    if row.domain.is_empty() && n.opset < row.since {
        let reason =
            format!("{} is supported from operator set {} on, not in {}", row.op, row.since, n.opset);
        return Err(Fail::new(codes::OPERATOR_VERSION, reason));
    }
    let f = match row.lower {
        Lower::Values(f) => f,
        Lower::Slots(f) => {
            let results = f(im, &n)?;
            // A lowering that meets a node that is refused stops before it has read everything.
            if !results.contains(&Slot::Poisoned) {
                n.check_all_read()?;
            }
            return Ok(results);
        }
    };
    let n = n.of_values()?;
    if let Some(&x) = n.unread_operand(0)
        && !row.types.admits(im.ctx.elem(x))
    {
        let reason = format!("the operand is {}; supported are: {}", im.ctx.b.ty(x), row.types.name());
        return Err(Fail::new(codes::ELEMENT_TYPE, reason));
    }
    let results = f(&mut im.ctx, &n)?;
    n.check_all_read()?;
    Ok(results.into_iter().map(Slot::Value).collect())
}

/// The lowering of a row by its types.
macro_rules! lowering {
    (Slots $lower:expr) => {
        $crate::ops::Lower::Slots($lower)
    };
    ($types:ident $lower:expr) => {
        $crate::ops::Lower::Values($lower)
    };
}

use lowering;

macro_rules! table {
    ($table:ident $domain:expr; $($op:literal $since:literal $types:ident $constraint:literal $lowering:literal $lower:expr;)*) => {
        pub(super) const $table: &[SupportedOp] = &[$(SupportedOp {
            domain: $domain,
            op: $op,
            since: $since,
            types: Types::$types,
            constraint: $constraint,
            lowering: $lowering,
            lower: $crate::ops::lowering!($types $lower),
        },)*];
    };
}

use table;

table! {
    TABLE "";
    "Abs" 1 Number "" "abs" |c, n| elementwise::unary(c, n, U::Abs);
    "Acos" 7 Float "" "acos" |c, n| elementwise::unary(c, n, U::Acos);
    "Acosh" 7 Float "" "acosh" |c, n| elementwise::unary(c, n, U::Acosh);
    "Add" 1 Number "" "broadcast, add" |c, n| elementwise::binary(c, n, B::Add);
    "AffineGrid" 20 Float "constant size" "mul, add" grid::affine_grid;
    "And" 1 Bool "" "broadcast, and" |c, n| elementwise::binary(c, n, B::And);
    "ArgMax" 1 Number "" "arg_reduce, reshape" |c, n| reduction::arg_reduce(c, n, true);
    "ArgMin" 1 Number "" "arg_reduce, reshape" |c, n| reduction::arg_reduce(c, n, false);
    "Asin" 7 Float "" "asin" |c, n| elementwise::unary(c, n, U::Asin);
    "Asinh" 7 Float "" "asinh" |c, n| elementwise::unary(c, n, U::Asinh);
    "Atan" 7 Float "" "atan" |c, n| elementwise::unary(c, n, U::Atan);
    "Atanh" 7 Float "" "atanh" |c, n| elementwise::unary(c, n, U::Atanh);
    "Attention" 23 Float "" "concat, contract, select, softmax" attention::attention;
    "AveragePool" 1 Float "up to three spatial axes" "pad, window, reduce, div" |c, n| in_f32(c, n, pooling::average_pool);
    "BatchNormalization" 1 Float "the results saved_mean and saved_var" "reduce, add, sqrt, div, mul, sub, broadcast" |c, n| in_f32(c, n, normalization::batch_norm);
    "BitCast" 26 Any "" "bitcast" elementwise::bit_cast;
    "BitShift" 7 Int "" "broadcast, shl or shr, select" elementwise::bit_shift;
    "BitwiseAnd" 18 Int "" "broadcast, and" |c, n| elementwise::binary(c, n, B::And);
    "BitwiseNot" 18 Int "" "not" |c, n| elementwise::unary(c, n, U::Not);
    "BitwiseOr" 18 Int "" "broadcast, or" |c, n| elementwise::binary(c, n, B::Or);
    "BitwiseXor" 18 Int "" "broadcast, xor" |c, n| elementwise::binary(c, n, B::Xor);
    "BlackmanWindow" 17 Any "constant size" "const" |c, n| spectrum::window(c, n, [0.42, -0.5, 0.08]);
    "Cast" 1 Any "no strings" "cast" elementwise::cast;
    "CastLike" 15 Any "as Cast" "cast" elementwise::cast_like;
    "CausalConvWithState" 27 Float "" "concat, conv, add, sigmoid, mul" linear_attention::causal_conv;
    "Ceil" 1 Float "" "ceil" |c, n| elementwise::unary(c, n, U::Ceil);
    "Celu" 7 Float "" "expm1, min, max, add" |c, n| in_f32(c, n, elementwise::celu);
    "CenterCropPad" 18 Any "constant shape" "slice, pad" blocks::center_crop_pad;
    "Clip" 1 Number "" "max, min" elementwise::clip;
    "Col2Im" 18 Number "constant image_shape and block_shape" "gather, reduce" blocks::col2im;
    "Compress" 9 Any "conditions known at import" "gather" data_dependent::compress;
    "Concat" 1 Any "" "concat" movement::concat;
    "ConcatFromSequence" 11 Slots "" "concat" sequence::concat;
    "Constant" 1 Any "no strings, no sparse tensors" "const" shape::constant;
    "ConstantOfShape" 7 Any "constant shape" "const" shape::constant_of_shape;
    "Conv" 1 Float "" "conv, add" contraction::conv;
    "ConvInteger" 7 Int "zero points per tensor" "cast, sub, conv" contraction::conv_integer;
    "ConvTranspose" 1 Float "" "slice, permute, conv, add" contraction::conv_transpose;
    "Cos" 7 Float "" "cos" |c, n| elementwise::unary(c, n, U::Cos);
    "Cosh" 7 Float "" "cosh" |c, n| elementwise::unary(c, n, U::Cosh);
    "CumProd" 26 Number "constant axis" "cumulate" |c, n| reduction::cumulate(c, n, R::Prod);
    "CumSum" 7 Number "constant axis" "cumulate" |c, n| reduction::cumulate(c, n, R::Sum);
    "DFT" 17 Float "constant dft_length and axis" "contract" spectrum::dft;
    "DeformConv" 19 Float "two spatial axes" "gather, mul, add, contract" grid::deform_conv;
    "DepthToSpace" 1 Any "" "reshape, permute" movement::depth_to_space;
    "DequantizeLinear" 7 Any "" "dequantize, cast, sub, mul" quantization::dequantize;
    "Det" 11 Float "at most 256 rows" "arg_reduce, gather, div, mul, sub" blocks::det;
    "Div" 1 Number "" "broadcast, div" |c, n| elementwise::binary(c, n, B::Div);
    "Dropout" 1 Float "training with a ratio above 0" "none" elementwise::dropout;
    "DynamicQuantizeLinear" 11 Float "" "reduce, div, round, cast" quantized::dynamic_quantize;
    "Einsum" 7 Number "" "reduce, slice, contract, permute" einsum::einsum;
    "Elu" 1 Float "" "expm1, select" |c, n| in_f32(c, n, elementwise::elu);
    "Equal" 1 Any "" "broadcast, eq" |c, n| elementwise::compare(c, n, CompareOp::Eq, false);
    "Erf" 7 Float "" "erf" |c, n| elementwise::unary(c, n, U::Erf);
    "Exp" 1 Float "" "exp" |c, n| elementwise::unary(c, n, U::Exp);
    "Expand" 7 Any "constant shape" "broadcast" elementwise::expand;
    "EyeLike" 7 Any "" "iota, eq, cast" shape::eye_like;
    "Flatten" 1 Any "" "reshape" movement::flatten;
    "Floor" 1 Float "" "floor" |c, n| elementwise::unary(c, n, U::Floor);
    "GRU" 7 Float "at most 4096 steps" "contract, then per step contract, add, activations, mul" recurrent::gru;
    "Gather" 1 Any "" "gather" indexing::gather;
    "GatherElements" 7 Any "" "permute, gather" indexing::gather_elements;
    "GatherND" 7 Any "" "mul, reduce, gather" indexing::gather_nd;
    "Gelu" 20 Float "" "normcdf or sigmoid, mul" |c, n| in_f32(c, n, elementwise::gelu);
    "Gemm" 1 Number "" "contract, mul, add" contraction::gemm;
    "GlobalAveragePool" 1 Float "" "reduce" |c, n| pooling::global_pool(c, n, R::Mean);
    "GlobalLpPool" 1 Float "" "abs, pow, reduce" |c, n| in_f32(c, n, pooling::global_lp_pool);
    "GlobalMaxPool" 1 Float "" "reduce" |c, n| pooling::global_pool(c, n, R::Max);
    "Greater" 1 Number "" "broadcast, lt" |c, n| elementwise::compare(c, n, CompareOp::Lt, true);
    "GreaterOrEqual" 7 Number "" "broadcast, le" |c, n| elementwise::compare(c, n, CompareOp::Le, true);
    "GridSample" 16 Number "" "floor, gather, mul, add" grid::grid_sample;
    "GroupNormalization" 18 Float "" "reshape, norm, mul, add" |c, n| in_f32(c, n, normalization::group_norm);
    "HammingWindow" 17 Any "constant size" "const" |c, n| spectrum::window(c, n, [25.0 / 46.0, -21.0 / 46.0, 0.0]);
    "HannWindow" 17 Any "constant size" "const" |c, n| spectrum::window(c, n, [0.5, -0.5, 0.0]);
    "HardSigmoid" 1 Float "" "mul, add, max, min" |c, n| in_f32(c, n, elementwise::hard_sigmoid);
    "HardSwish" 14 Float "" "mul, add, max, min" |c, n| in_f32(c, n, elementwise::hard_swish);
    "Hardmax" 1 Float "" "arg_reduce, iota, eq, cast" normalization::hardmax;
    "Identity" 1 Slots "" "none" sequence::identity;
    "If" 1 Slots "branches whose results have one type, where the condition is computed at run time" "the branch, or select of both" control::branch;
    "InstanceNormalization" 1 Float "" "norm, mul, add" |c, n| in_f32(c, n, normalization::instance_norm);
    "IsInf" 7 Float "" "isinf, lt, and" elementwise::is_inf;
    "IsNaN" 7 Float "" "isnan" |c, n| elementwise::unary(c, n, U::IsNan);
    "LRN" 1 Float "" "pad, window, reduce, pow, div" |c, n| in_f32(c, n, pooling::lrn);
    "LSTM" 7 Float "at most 4096 steps" "contract, then per step contract, add, activations, mul" recurrent::lstm;
    "LayerNormalization" 1 Float "" "norm" |c, n| normalization::layer_norm(c, n, true);
    "LeakyRelu" 1 Float "" "mul, select" |c, n| in_f32(c, n, elementwise::leaky_relu);
    "Less" 1 Number "" "broadcast, lt" |c, n| elementwise::compare(c, n, CompareOp::Lt, false);
    "LessOrEqual" 7 Number "" "broadcast, le" |c, n| elementwise::compare(c, n, CompareOp::Le, false);
    "LinearAttention" 27 Float "at most 4096 steps" "per step contract, mul, add" linear_attention::linear_attention;
    "Log" 1 Float "" "log" |c, n| elementwise::unary(c, n, U::Log);
    "LogSoftmax" 1 Float "" "softmax" |c, n| normalization::softmax(c, n, true);
    "Loop" 1 Slots "at most 4096 steps; constant number of steps; no collected results where the condition is computed at run time" "its steps, select" control::repeat;
    "LpNormalization" 1 Float "p is 1 or 2" "reduce, select, div" |c, n| in_f32(c, n, normalization::lp_normalization);
    "LpPool" 1 Float "up to three spatial axes" "pad, window, abs, pow, reduce" |c, n| in_f32(c, n, pooling::lp_pool);
    "MatMul" 1 Number "" "reshape, contract" contraction::mat_mul;
    "MatMulInteger" 7 Int "" "cast, sub, contract" contraction::mat_mul_integer;
    "Max" 1 Number "" "broadcast, max" |c, n| elementwise::variadic(c, n, B::Max);
    "MaxPool" 1 Number "up to three spatial axes" "pad, window, reduce, arg_reduce" pooling::max_pool;
    "MaxRoiPool" 1 Float "" "gather, select, reduce" regions::max_roi_pool;
    "MaxUnpool" 9 Any "" "iota, eq, select, reduce, gather" unpooling::max_unpool;
    "Mean" 1 Float "" "broadcast, add, div" |c, n| in_f32(c, n, elementwise::mean);
    "MeanVarianceNormalization" 7 Float "" "reduce, sub, sqrt, div" |c, n| in_f32(c, n, normalization::mean_variance);
    "MelWeightMatrix" 17 Any "constant operands" "const" spectrum::mel_weights;
    "Min" 1 Number "" "broadcast, min" |c, n| elementwise::variadic(c, n, B::Min);
    "Mish" 18 Float "" "exp, log1p, tanh, mul" |c, n| in_f32(c, n, elementwise::mish);
    "Mod" 7 Number "" "broadcast, mod or rem" elementwise::modulo;
    "Mul" 1 Number "" "broadcast, mul" |c, n| elementwise::binary(c, n, B::Mul);
    "Neg" 1 Number "" "neg" |c, n| elementwise::unary(c, n, U::Neg);
    "NegativeLogLikelihoodLoss" 12 Float "" "gather, select, mul, reduce" loss::negative_log_likelihood;
    "NonMaxSuppression" 10 Float "boxes and scores known at import" "const" data_dependent::non_max_suppression;
    "NonZero" 9 Any "an operand known at import" "const" data_dependent::non_zero;
    "Not" 1 Bool "" "not" |c, n| elementwise::unary(c, n, U::Not);
    "OneHot" 7 Number "constant depth" "iota, eq, select" indexing::one_hot;
    "Optional" 15 Slots "" "none" sequence::optional;
    "OptionalGetElement" 15 Slots "" "none" sequence::get_element;
    "OptionalHasElement" 15 Slots "" "const" sequence::has_element;
    "Or" 1 Bool "" "broadcast, or" |c, n| elementwise::binary(c, n, B::Or);
    "PRelu" 1 Number "" "mul, select" elementwise::prelu;
    "Pad" 1 Any "constant pads" "pad, slice, gather" movement::pad;
    "Pow" 1 Number "" "broadcast, cast, pow" elementwise::pow;
    "QLinearConv" 10 Int "" "cast, sub, conv, mul, round" quantized::qlinear_conv;
    "QLinearMatMul" 10 Int "" "cast, sub, contract, mul, round" quantized::qlinear_mat_mul;
    "QuantizeLinear" 7 Number "" "div, round, add, cast" quantization::quantize;
    "RMSNormalization" 23 Float "" "norm" |c, n| normalization::layer_norm(c, n, false);
    "RNN" 7 Float "at most 4096 steps" "contract, then per step contract, add, activation" recurrent::rnn;
    "Range" 7 Number "constant operands" "iota, mul, add" shape::range;
    "Reciprocal" 1 Float "" "recip" |c, n| elementwise::unary(c, n, U::Recip);
    "ReduceL1" 1 Number "constant axes" "abs, reduce" |c, n| in_f32(c, n, |c, n| reduction::reduce(c, n, R::Sum, Around::Abs));
    "ReduceL2" 1 Number "constant axes" "mul, reduce, sqrt" |c, n| in_f32(c, n, |c, n| reduction::reduce(c, n, R::Sum, Around::Root));
    "ReduceLogSum" 1 Number "constant axes" "reduce, log" |c, n| in_f32(c, n, |c, n| reduction::reduce(c, n, R::Sum, Around::Log));
    "ReduceLogSumExp" 1 Number "constant axes" "reduce, exp, log" |c, n| in_f32(c, n, |c, n| reduction::reduce(c, n, R::Sum, Around::LogExp));
    "ReduceMax" 1 NumberOrBool "constant axes" "reduce" |c, n| reduction::reduce(c, n, R::Max, Around::Plain);
    "ReduceMean" 1 Number "constant axes" "reduce" |c, n| reduction::reduce(c, n, R::Mean, Around::Plain);
    "ReduceMin" 1 NumberOrBool "constant axes" "reduce" |c, n| reduction::reduce(c, n, R::Min, Around::Plain);
    "ReduceProd" 1 Number "constant axes" "reduce" |c, n| reduction::reduce(c, n, R::Prod, Around::Plain);
    "ReduceSum" 1 Number "constant axes" "reduce" |c, n| reduction::reduce(c, n, R::Sum, Around::Plain);
    "ReduceSumSquare" 1 Number "constant axes" "mul, reduce" |c, n| in_f32(c, n, |c, n| reduction::reduce(c, n, R::Sum, Around::Square));
    "Relu" 1 Number "" "max" elementwise::relu;
    "Reshape" 1 Any "constant shape" "reshape" movement::reshape;
    "Resize" 10 Any "constant scales, sizes and roi" "slice or gather, mul, add, concat; broadcast or slice for nearest" resize::resize;
    "ReverseSequence" 10 Any "" "permute, gather" blocks::reverse_sequence;
    "RoiAlign" 10 Float "constant rois where sampling_ratio=0" "gather, mul, add, reduce" regions::roi_align;
    "RotaryEmbedding" 23 Float "" "gather, slice, mul, concat" |c, n| in_f32(c, n, attention::rotary);
    "Round" 7 Float "" "round" |c, n| elementwise::unary(c, n, U::Round);
    "STFT" 17 Float "constant frame_step and frame_length" "window, contract" spectrum::stft;
    "Scan" 8 Slots "at most 4096 steps" "its steps, slice, concat" scan::scan;
    "Scatter" 9 Any "" "gather, or iota, eq, select, reduce, or scatter" scatter::scatter_elements;
    "ScatterElements" 11 Any "" "gather, or iota, eq, select, reduce, or scatter" scatter::scatter_elements;
    "ScatterND" 11 Any "" "gather, or iota, eq, select, reduce, or scatter" scatter::scatter_nd;
    "Selu" 1 Float "" "expm1, select, mul" |c, n| in_f32(c, n, elementwise::selu);
    "SequenceAt" 11 Slots "equal shapes, where the position is computed at run time" "none, or concat, gather" sequence::at;
    "SequenceConstruct" 11 Slots "" "none" sequence::construct;
    "SequenceEmpty" 11 Slots "" "none" sequence::empty;
    "SequenceErase" 11 Slots "equal shapes, where the position is computed at run time" "none, or select" sequence::erase;
    "SequenceInsert" 11 Slots "equal shapes, where the position is computed at run time" "none, or select" sequence::insert;
    "SequenceLength" 11 Slots "" "const" sequence::length;
    "SequenceMap" 17 Slots "at most 4096 elements" "its steps" control::sequence_map;
    "Shape" 1 Any "" "const" shape::shape;
    "Shrink" 7 Number "" "lt, select" |c, n| in_f32(c, n, elementwise::shrink);
    "Sigmoid" 1 Float "" "sigmoid" |c, n| elementwise::unary(c, n, U::Sigmoid);
    "Sign" 7 Number "" "sign" |c, n| elementwise::unary(c, n, U::Sign);
    "SimplifiedLayerNormalization" 1 Float "" "norm" |c, n| normalization::layer_norm(c, n, false);
    "Sin" 7 Float "" "sin" |c, n| elementwise::unary(c, n, U::Sin);
    "Sinh" 7 Float "" "sinh" |c, n| elementwise::unary(c, n, U::Sinh);
    "Size" 1 Any "" "const" shape::size;
    "Slice" 1 Any "constant bounds and steps" "slice" movement::slice;
    "Softmax" 1 Float "" "softmax" |c, n| normalization::softmax(c, n, false);
    "SoftmaxCrossEntropyLoss" 12 Float "" "softmax, gather, select, mul, reduce" loss::softmax_cross_entropy;
    "Softplus" 1 Float "" "exp, log1p, max, add" |c, n| in_f32(c, n, elementwise::softplus);
    "Softsign" 1 Float "" "abs, add, div" |c, n| in_f32(c, n, elementwise::softsign);
    "SpaceToDepth" 1 Any "" "reshape, permute" movement::space_to_depth;
    "Split" 1 Any "constant sizes" "slice" movement::split;
    "SplitToSequence" 11 Slots "constant sizes" "slice" sequence::split;
    "Sqrt" 1 Float "" "sqrt" |c, n| elementwise::unary(c, n, U::Sqrt);
    "Squeeze" 1 Any "constant axes" "reshape" movement::squeeze;
    "Sub" 1 Number "" "broadcast, sub" |c, n| elementwise::binary(c, n, B::Sub);
    "Sum" 1 Float "" "broadcast, add" |c, n| in_f32(c, n, |c, n| elementwise::variadic(c, n, B::Add));
    "Swish" 24 Float "" "sigmoid, mul" |c, n| in_f32(c, n, elementwise::swish);
    "Tan" 7 Float "" "tan" |c, n| elementwise::unary(c, n, U::Tan);
    "Tanh" 1 Float "" "tanh" |c, n| elementwise::unary(c, n, U::Tanh);
    "TensorScatter" 24 Any "" "iota, sub, gather, select" scatter::tensor_scatter;
    "TfIdfVectorizer" 9 Int "no strings" "eq, and, reduce, gather" grams::tf_idf;
    "ThresholdedRelu" 7 Float "" "lt, select" |c, n| in_f32(c, n, elementwise::thresholded_relu);
    "Tile" 1 Any "constant repeats" "broadcast, reshape" movement::tile;
    "TopK" 1 Number "constant k; a k of up to 128 where rows times the square of their length exceed 2^24" "lt, eq, reduce, select, gather" sorting::top_k;
    "Transpose" 1 Any "" "permute" movement::transpose;
    "Trilu" 14 NumberOrBool "constant k" "iota, le, select" movement::trilu;
    "Unique" 11 Any "an operand known at import" "const, gather" data_dependent::unique;
    "Unsqueeze" 1 Any "constant axes" "reshape" movement::unsqueeze;
    "Upsample" 7 Any "constant scales" "slice or gather, mul, add, concat; broadcast for nearest" resize::upsample;
    "Where" 7 Bool "" "broadcast, select" elementwise::select;
    "Xor" 1 Bool "" "broadcast, xor" |c, n| elementwise::binary(c, n, B::Xor);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ascend_for_the_binary_search() {
        assert!(DOMAINS.iter().all(|(_, table)| table.windows(2).all(|w| w[0].op < w[1].op)));
    }
}
