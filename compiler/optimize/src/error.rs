//! Why a module could not be optimised.

use lacuna_ir::eval::EvalError;
use lacuna_ir::infer::TypeError;

/// What contradicts in a function that a phase makes: a defect of that phase, or calibration data that does not fit.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Broken {
    /// An operator does not fit its operands.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// A value cannot be computed.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A value, an operand or a type is missing where it is needed.
    #[error("{0}")]
    Missing(String),
    /// A weight has no such form.
    #[error("{0}")]
    Form(String),
    /// Values of different types were made equal.
    #[error("{0}")]
    Union(String),
}

/// Why a module could not be optimised: a defect of a rule, never of the input.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// A rule's pattern is malformed.
    #[error("the pattern of rule `{0}` is malformed")]
    Pattern(&'static str),
    /// Values of different types were made equal.
    #[error("in `{function}`: {message}")]
    Contradiction {
        /// Name of the function.
        function: String,
        /// What contradicts.
        message: Broken,
    },
    /// No acyclic choice of terms computes a result.
    #[error("no result can be extracted for `{0}`")]
    Extraction(String),
    /// A constant could not be computed.
    #[error("constants of `{function}` cannot be computed: {message}")]
    Constant {
        /// Name of the function.
        function: String,
        /// The evaluator's reason.
        message: Broken,
    },
    /// The function cannot be evaluated on the calibration inputs.
    #[error("`{function}` cannot be evaluated on the calibration inputs: {message}")]
    Calibration {
        /// Name of the function.
        function: String,
        /// The evaluator's reason.
        message: Broken,
    },
}
