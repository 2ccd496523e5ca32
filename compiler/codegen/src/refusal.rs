//! Why a node has no kernel.

/// Why a node has no kernel, by kind.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// No kernel computes the operator in this form or type.
    #[error("{0}")]
    Unimplemented(String),
    /// Elements share scales where each must stand alone, or groups lie where tiles cut them.
    #[error("{0}")]
    Grouped(String),
    /// The machine has fewer registers, buffers, loop levels, dimensions of a view or bytes than the kernel needs.
    #[error("{0}")]
    Limit(String),
    /// The zeros of a product do not admit a form, or it does not pay.
    #[error("{0}")]
    Form(String),
    /// Code generation contradicts itself.
    #[error("{0}")]
    Contradiction(String),
}

/// Lowering of one kernel, or why not.
pub type Lowered<T = ()> = Result<T, Refusal>;
