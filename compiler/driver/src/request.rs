//! What is to be compiled, and who watches.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lacuna_ir::Blob;
use lacuna_isa::target::Target;
use lacuna_onnx::{ExternalData, Literal};
use lacuna_optimize::{Budget, Extraction, Precision, WeightOptions};

use crate::calibration::Calibration;
use crate::progress::Progress;
use crate::states::StateRequest;
use crate::testset::DataSet;

/// A stage that can be shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// The tensor IR of the model.
    Imported,
    /// After exact rewriting.
    Optimized,
    /// After the choice of number formats.
    Selected,
    /// Kernels with their tiles and buffers.
    Tiled,
    /// Instructions.
    Machine,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Stage; 5] =
        [Stage::Imported, Stage::Optimized, Stage::Selected, Stage::Tiled, Stage::Machine];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Imported => "imported",
            Stage::Optimized => "optimized",
            Stage::Selected => "selected",
            Stage::Tiled => "tiled",
            Stage::Machine => "machine",
        }
    }
}

/// What to compile, for what, and how.
pub struct Request<'a> {
    /// Where the model comes from, for diagnostics.
    pub path: &'a Path,
    /// The model's file.
    pub model: Blob,
    /// The files beside it.
    pub external: &'a dyn ExternalData,
    /// Sizes of symbolic dimensions.
    pub dims: BTreeMap<String, u64>,
    /// Inputs with known values.
    pub bindings: BTreeMap<String, Literal>,
    /// The target.
    pub target: &'a Target,
    /// Number formats of contractions.
    pub precision: Precision,
    /// Whether element-wise work may be rewritten by what holds over the real numbers.
    pub relaxed: bool,
    /// How terms are chosen from all equal ones.
    pub extraction: Extraction,
    /// How weights become narrow or sparse.
    pub weights: WeightOptions,
    /// Inputs for techniques that measure.
    pub calibration: Option<&'a Calibration>,
    /// Whether every tensor of the model becomes an output ([`expose`](crate::expose::expose)).
    pub exposes: bool,
    /// With [`Precision::Auto`]: the budget, and the data to measure on.
    pub selection: SelectionRequest,
    /// Inputs and outputs that are one tensor, which stays in memory between runs.
    pub states: StateRequest<'a>,
}

impl<'a> Request<'a> {
    /// A model in its own formats, with every option at its default.
    pub fn new(
        path: &'a Path,
        model: Blob,
        external: &'a dyn ExternalData,
        target: &'a Target,
    ) -> Request<'a> {
        Request {
            path,
            model,
            external,
            dims: BTreeMap::new(),
            bindings: BTreeMap::new(),
            target,
            precision: Precision::default(),
            relaxed: false,
            extraction: Extraction::default(),
            weights: WeightOptions::default(),
            calibration: None,
            exposes: false,
            selection: SelectionRequest::default(),
            states: StateRequest::default(),
        }
    }
}

/// What is told while passes run.
pub struct Watch<'a> {
    /// Where the name of the pass goes.
    pub progress: &'a Progress,
    /// Called with the text of every stage, if anyone wants it.
    pub dump: Option<&'a mut dyn FnMut(Stage, String)>,
}

impl Watch<'_> {
    pub(crate) fn dump(&mut self, stage: Stage, text: impl FnOnce() -> String) {
        if let Some(dump) = &mut self.dump {
            dump(stage, text());
        }
    }
}

/// What the command line says of the choice.
#[derive(Clone, Debug, Default)]
pub struct SelectionRequest {
    /// The budget, if one is given.
    pub budget: Option<Budget>,
    /// Data to measure on; random inputs if there is none that fits.
    pub data: Arc<[DataSet]>,
    /// Whether data that does not fit the model is an error.
    pub data_must_fit: bool,
    /// Threads of the interpreter; 0 takes one per core.
    pub threads: usize,
}
