//! What an object may not say: refused when it is loaded, so that running needs no checks of it.

/// Why an object is not run, by kind.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Illegal {
    /// Something is named that does not exist: an entry of a table, a register, a dimension.
    #[error("{0}")]
    Missing(String),
    /// An instruction has no meaning for these element types, groups or patterns.
    #[error("{0}")]
    Format(String),
    /// An operand, a tensor or an engine is not of the kind that an instruction needs.
    #[error("{0}")]
    Operand(String),
    /// A stream's loops, stages or order of instructions are not well formed.
    #[error("{0}")]
    Control(String),
    /// A size or an address is beyond what there is.
    #[error("{0}")]
    Limit(String),
    /// The interpreter does not execute an instruction.
    #[error("{0}")]
    Unimplemented(String),
}

impl Illegal {
    /// The same, found at `place`.
    pub(crate) fn at(self, place: impl std::fmt::Display) -> Illegal {
        let kind = match &self {
            Illegal::Missing(_) => Illegal::Missing,
            Illegal::Format(_) => Illegal::Format,
            Illegal::Operand(_) => Illegal::Operand,
            Illegal::Control(_) => Illegal::Control,
            Illegal::Limit(_) => Illegal::Limit,
            Illegal::Unimplemented(_) => Illegal::Unimplemented,
        };
        kind(format!("{place}: {self}"))
    }
}
