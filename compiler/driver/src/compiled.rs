//! A compiled model.

use lacuna_ir::Module;
use lacuna_isa::object::Object;
use lacuna_optimize::{Assignment, WeightReport};

use crate::selection::Selection;

/// A compiled model.
pub struct Compiled {
    /// The object.
    pub object: Object,
    /// The module as imported: the meaning that the object is held to.
    pub imported: Module,
    /// The module after exact rewriting.
    pub optimized: Module,
    /// What the budget led to, with [`Precision::Auto`].
    pub selection: Option<Selection>,
    /// Formats of the weights of contractions.
    pub weights: Vec<lacuna_optimize::WeightShare>,
    /// Bytes of the weights of each contraction in the object, in the order of `assignments`.
    pub weight_bytes: Vec<u64>,
    /// What the exact phase did.
    pub report: lacuna_optimize::Report,
    /// What packing did with the conversions that selection decided on.
    pub packing: lacuna_optimize::Report,
    /// What the selection phase chose.
    pub assignments: Vec<Assignment>,
    /// What became of weights that more was done to than plain rounding.
    pub refined: Vec<WeightReport>,
    /// What deserves attention.
    pub warnings: Vec<String>,
    /// Seconds that compilation took.
    pub seconds: f64,
}
