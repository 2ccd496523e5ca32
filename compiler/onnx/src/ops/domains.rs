//! Operators of other domains than `ai.onnx`.

use lacuna_ir::op::{BinaryOp, UnaryOp};

use super::{SupportedOp, Types, grouped_query, learning, microsoft, n_bits, quantized, training, trees};
use crate::flex;

/// Operators of classical machine learning.
pub(super) const ML: &str = "ai.onnx.ml";

/// Operators that may still change.
pub(super) const PREVIEW: &str = "ai.onnx.preview";

/// Optimisers of the preview of training.
pub(super) const TRAINING: &str = "ai.onnx.preview.training";

/// Operators of ONNX Runtime.
pub(super) const MICROSOFT: &str = "com.microsoft";

super::table! {
    ML_OPS ML;
    "ArrayFeatureExtractor" 1 Any "" "gather" learning::array_feature_extractor;
    "Binarizer" 1 Number "" "lt, select" learning::binarizer;
    "TreeEnsemble" 5 Float "post_transform=NONE" "gather, lt, select, reduce" trees::tree_ensemble;
}

super::table! {
    PREVIEW_OPS PREVIEW;
    "FlexAttention" 1 Slots "" "contract, mul, softmax" flex::attention;
}

super::table! {
    TRAINING_OPS TRAINING;
    "Adagrad" 1 Float "" "mul, add, sqrt, div, sub" training::adagrad;
    "Adam" 1 Float "" "mul, add, sqrt, pow, div, sub" training::adam;
    "Momentum" 1 Float "" "mul, add, sub, select" training::momentum;
}

super::table! {
    MICROSOFT_OPS MICROSOFT;
    "BiasGelu" 1 Float "" "add, erf, mul" |c, n| microsoft::gelu(c, n, false);
    "DynamicQuantizeMatMul" 1 Float "" "reduce, div, round, cast, contract, mul" quantized::dynamic_quantize_mat_mul;
    "FastGelu" 1 Float "" "add, tanh, mul" |c, n| microsoft::gelu(c, n, true);
    "FusedMatMul" 1 Float "transBatchA, transBatchB" "permute, contract, mul" microsoft::fused_mat_mul;
    "GatherBlockQuantized" 1 Any "" "gather, cast, sub, mul" n_bits::gather_block_quantized;
    "Gelu" 1 Float "" "erf, mul" |c, n| microsoft::gelu(c, n, false);
    "GroupQueryAttention" 1 Float "no quantised cache, no qk_output" "contract, mul, softmax, select" grouped_query::attention;
    "MatMulIntegerToFloat" 1 Int "" "cast, sub, contract, mul" quantized::mat_mul_integer_to_float;
    "MatMulNBits" 1 Float "2, 4 and 8 bits; g_idx in order" "dequantize, contract" n_bits::mat_mul_n_bits;
    "QLinearAdd" 1 Int "" "cast, sub, mul, add, div, round" |c, n| quantized::qlinear_binary(c, n, BinaryOp::Add);
    "QLinearMul" 1 Int "" "cast, sub, mul, div, round" |c, n| quantized::qlinear_binary(c, n, BinaryOp::Mul);
    "QLinearSigmoid" 1 Int "" "cast, sub, mul, sigmoid, div, round" |c, n| quantized::qlinear_unary(c, n, |c, x| c.unary(UnaryOp::Sigmoid, x));
    "QuickGelu" 1 Float "" "sigmoid, mul" microsoft::quick_gelu;
    "RotaryEmbedding" 1 Float "scale=1" "gather, slice, mul, concat" microsoft::rotary_embedding;
    "SkipLayerNormalization" 1 Float "the results mean and inv_std_var" "add, norm" |c, n| microsoft::skip_layer_norm(c, n, true);
    "SkipSimplifiedLayerNormalization" 1 Float "the results mean and inv_std_var" "add, norm" |c, n| microsoft::skip_layer_norm(c, n, false);
}
