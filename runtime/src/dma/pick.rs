//! What a load is asked to bring.

use lacuna_isa::inst::{Fill, MaskCode, Operand};

/// Which indices of a view's box are loaded.
#[derive(Clone, Copy)]
pub(crate) enum Pick {
    /// All.
    All,
    /// All, at the coordinates of a dimension that a vector gives; whether one out of bounds is a trap.
    Indices(u8, Operand, bool),
    /// Those of a dimension whose flags are set.
    Flags(u8, Operand),
}

/// A load.
pub(crate) struct Load {
    pub dst: Operand,
    pub src: u16,
    pub fill: Fill,
    pub pick: Pick,
    /// How the masks of a compressed tensor are coded.
    pub code: Option<MaskCode>,
}
