//! Operators of other domains than `ai.onnx`.

use super::{SupportedOp, Types, learning, training};
use crate::flex;

/// Operators of classical machine learning.
pub(super) const ML: &str = "ai.onnx.ml";

/// Operators that may still change.
pub(super) const PREVIEW: &str = "ai.onnx.preview";

/// Optimisers of the preview of training.
pub(super) const TRAINING: &str = "ai.onnx.preview.training";

super::table! {
    ML_OPS ML;
    "ArrayFeatureExtractor" 1 Any "" "gather" learning::array_feature_extractor;
    "Binarizer" 1 Number "" "lt, select" learning::binarizer;
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
