//! What is known of the zeros of products, and the ways to use them.

use lacuna_isa::inst::MaskCode;
use lacuna_isa::view::Pattern;

/// What is known of the zeros of a product before code is generated.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ProductZeros {
    /// An N:M pattern of the target that the constant operand follows.
    pub pattern: Option<Pattern>,
    /// Whether the computed operand is probably zero in many places.
    pub active: bool,
    /// The only form to try, for comparisons; `None` for the best.
    pub only: Option<Form>,
}

/// How a product uses zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Not at all.
    Dense,
    /// The second operand is stored in an N:M pattern.
    Pattern(Pattern),
    /// The second operand is stored without its zeros.
    Compressed,
    /// The same, and blocks that are zero are not multiplied.
    Blocks,
    /// Rows of the second operand are loaded and multiplied where the first is not zero.
    Active,
}

impl Form {
    /// The N:M pattern of the second operand.
    pub fn pattern(self) -> Option<Pattern> {
        match self {
            Form::Pattern(pattern) => Some(pattern),
            Form::Dense | Form::Compressed | Form::Blocks | Form::Active => None,
        }
    }
}

/// Zeros of a constant in panels.
#[derive(Debug)]
pub struct Survey {
    /// The best code of masks, and the bytes of its records for each byte of dense codes.
    pub best: (MaskCode, f64),
    /// Dense codes.
    pub codes: Vec<u8>,
}
