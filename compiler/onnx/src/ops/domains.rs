//! Operators of other domains than `ai.onnx`.

use lacuna_ir::op::{BinaryOp, UnaryOp};

use super::fused::as_of;
use super::{
    SupportedOp, Types, experts, fused, fused_attention, grid, grouped_query, indexing, learning, microsoft,
    movement, n_bits, quantization, quantized, recurrent, shape, training, trees,
};
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
    "Attention" 1 Float "do_rotary, past_present_share_buffer" "contract, add, select, softmax" fused_attention::attention;
    "BiasAdd" 1 Float "" "add" fused::bias_add;
    "BiasGelu" 1 Float "" "add, erf, mul" |c, n| microsoft::gelu(c, n, false);
    "BiasSoftmax" 1 Float "" "add, softmax" fused::bias_softmax;
    "BiasSplitGelu" 1 Float "" "add, slice, normcdf, mul" fused::bias_split_gelu;
    "CDist" 1 Float "the metrics euclidean and sqeuclidean only" "sub, mul, reduce" fused::distances;
    "DequantizeLinear" 1 Any "" "dequantize, cast, sub, mul" quantization::dequantize;
    "DynamicQuantizeLSTM" 1 Float "at most 4096 steps" "reduce, div, round, contract, then as LSTM" recurrent::dynamic_quantize_lstm;
    "DynamicQuantizeMatMul" 1 Float "" "reduce, div, round, cast, contract, mul" quantized::dynamic_quantize_mat_mul;
    "EmbedLayerNormalization" 1 Int "" "gather, add, norm" fused_attention::embeddings;
    "ExpandDims" 1 Any "constant axis" "reshape" fused::expand_dims;
    "FastGelu" 1 Float "" "add, tanh, mul" |c, n| microsoft::gelu(c, n, true);
    "FusedConv" 1 Float "" "conv, add, max" fused::fused_conv;
    "FusedGemm" 1 Float "" "contract, mul, add, max" fused::fused_gemm;
    "FusedMatMul" 1 Float "" "permute, contract, mul" microsoft::fused_mat_mul;
    "GatherBlockQuantized" 1 Any "" "gather, cast, sub, mul" n_bits::gather_block_quantized;
    "GatherND" 1 Any "" "mul, reduce, gather" |c, n| as_of(c, n, 13, indexing::gather_nd);
    "Gelu" 1 Float "" "erf, mul" |c, n| microsoft::gelu(c, n, false);
    "GemmFastGelu" 1 Float "" "contract, add, tanh, mul" fused::gemm_fast_gelu;
    "GridSample" 1 Number "" "floor, gather, mul, add" |c, n| as_of(c, n, 16, grid::grid_sample);
    "GroupNorm" 1 Float "" "norm, mul, add" |c, n| fused::group_norm(c, n, false);
    "GroupQueryAttention" 1 Float "quantised caches, qk_output, query_seqlens" "contract, mul, softmax, select" grouped_query::attention;
    "MatMulBnb4" 1 Float "" "gather, mul, contract" n_bits::mat_mul_bnb4;
    "MatMulIntegerToFloat" 1 Int "" "cast, sub, contract, mul" quantized::mat_mul_integer_to_float;
    "MatMulNBits" 1 Float "2, 4 and 8 bits; blocks of equal numbers of rows in g_idx" "dequantize, contract" n_bits::mat_mul_n_bits;
    "MoE" 1 Float "use_sparse_mixer; every expert is computed for every token" "softmax, lt, reduce, select, contract, mul" experts::moe;
    "MultiHeadAttention" 1 Float "past_sequence_length, cache_indirection, the result qk" "contract, add, select, softmax" fused_attention::multi_head_attention;
    "NhwcConv" 1 Float "" "permute, conv, add" fused::nhwc_conv;
    "NhwcMaxPool" 1 Number "" "permute, pad, window, reduce" fused::nhwc_max_pool;
    "Pad" 1 Any "constant pads" "pad, slice, gather" |c, n| as_of(c, n, 13, movement::pad);
    "QAttention" 1 Int "do_rotary, past_present_share_buffer" "cast, sub, contract, mul, softmax" fused_attention::quantised_attention;
    "QEmbedLayerNormalization" 1 Int "" "gather, cast, sub, mul, norm" fused_attention::quantised_embeddings;
    "QGemm" 1 Int "" "cast, sub, contract, mul, round" quantized::qgemm;
    "QLinearAdd" 1 Int "" "cast, sub, mul, add, div, round" |c, n| quantized::qlinear_binary(c, n, BinaryOp::Add);
    "QLinearAveragePool" 1 Int "" "cast, sub, mul, window, reduce, div, round" quantized::qlinear_average_pool;
    "QLinearConcat" 1 Float "" "cast, sub, mul, concat, div, round" quantized::qlinear_concat;
    "QLinearConv" 1 Int "" "cast, sub, conv, mul, round" quantized::qlinear_conv_of_layout;
    "QLinearGlobalAveragePool" 1 Int "" "cast, sub, mul, reduce, div, round" quantized::qlinear_global_average_pool;
    "QLinearLeakyRelu" 1 Int "" "cast, sub, mul, select, div, round" quantized::qlinear_leaky_relu;
    "QLinearMul" 1 Int "" "cast, sub, mul, div, round" |c, n| quantized::qlinear_binary(c, n, BinaryOp::Mul);
    "QLinearSigmoid" 1 Int "" "cast, sub, mul, sigmoid, div, round" |c, n| quantized::qlinear_unary(c, n, |c, x| c.unary(UnaryOp::Sigmoid, x));
    "QLinearSoftmax" 1 Int "" "cast, sub, mul, softmax, div, round" quantized::qlinear_softmax;
    "QLinearWhere" 1 Bool "" "cast, sub, mul, select, div, round" quantized::qlinear_where;
    "QMoE" 1 Float "codes of 2, 4 and 8 bits; router_weights; every expert is computed for every token" "dequantize, softmax, lt, reduce, select, contract, mul" experts::quantised_moe;
    "QuantizeLinear" 1 Number "" "div, round, add, cast" quantization::quantize;
    "QuickGelu" 1 Float "" "sigmoid, mul" microsoft::quick_gelu;
    "Range" 1 Number "constant operands" "iota, mul, add" shape::range;
    "RotaryEmbedding" 1 Float "scale=1" "gather, slice, mul, concat" microsoft::rotary_embedding;
    "SkipGroupNorm" 1 Float "" "add, norm, mul" |c, n| fused::group_norm(c, n, true);
    "SkipLayerNormalization" 1 Float "the results mean and inv_std_var" "add, norm" |c, n| microsoft::skip_layer_norm(c, n, true);
    "SkipSimplifiedLayerNormalization" 1 Float "the results mean and inv_std_var" "add, norm" |c, n| microsoft::skip_layer_norm(c, n, false);
    "TransposeMatMul" 1 Float "" "permute, contract, mul" microsoft::fused_mat_mul;
    "Trilu" 1 NumberOrBool "constant k" "iota, le, select" movement::trilu;
}
