//! Why a node has no kernel.

/// Lowering of one kernel, or why not.
pub type Lowered<T = ()> = Result<T, String>;
