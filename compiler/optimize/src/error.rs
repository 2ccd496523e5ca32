//! Why a module could not be optimised.

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
        message: String,
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
        message: String,
    },
    /// The function cannot be evaluated on the calibration inputs.
    #[error("`{function}` cannot be evaluated on the calibration inputs: {message}")]
    Calibration {
        /// Name of the function.
        function: String,
        /// The evaluator's reason.
        message: String,
    },
}
