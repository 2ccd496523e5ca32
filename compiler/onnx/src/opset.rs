//! The version of `ai.onnx` that a model declares.

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::ops::OPSETS;
use crate::proto::{ModelProto, OperatorSetIdProto};

/// Stands for the version of `ai.onnx` in a model that declares none, which may use other domains only.
pub(crate) const NO_OPSET: i64 = 0;

/// How to get a model of a supported version.
pub(crate) const CONVERT: &str = "convert it: onnx.version_converter.convert_version(model, 18)";

/// The declared version of `ai.onnx`, or [`NO_OPSET`].
pub(crate) fn opset(imports: &[OperatorSetIdProto]) -> Result<i64, Box<Diagnostic>> {
    let standard = imports.iter().find(|o| o.domain.is_empty() || o.domain == "ai.onnx");
    match standard.map(|o| o.version) {
        None => Ok(NO_OPSET),
        Some(version) if OPSETS.contains(&version) => Ok(version),
        Some(version) => {
            let reason = format!(
                "the model uses version {version}; supported are {} to {}",
                OPSETS.start(),
                OPSETS.end()
            );
            Err(Box::new(Diagnostic::new(codes::OPSET, reason).hint(CONVERT)))
        }
    }
}

/// The version of `ai.onnx` of a whole model: models from before operator sets were declared use the first.
pub(crate) fn model_opset(model: &ModelProto) -> Result<i64, Box<Diagnostic>> {
    match model.ir_version {
        Some(..3) if model.opset_import.is_empty() => Ok(*OPSETS.start()),
        _ => opset(&model.opset_import),
    }
}
