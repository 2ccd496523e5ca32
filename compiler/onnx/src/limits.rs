//! Bounds on sizes, so that no later arithmetic on them can overflow.

use lacuna_ir::Shape;
use lacuna_ir::types::MAX_RANK;

/// The greatest number of elements of a value, and the greatest size of a dimension.
pub const MAX_ELEMENTS: u64 = 1 << 40;

/// The greatest number of parts of a concatenation, a split or a sequence.
pub const MAX_PARTS: usize = 4096;

/// Why a shape is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShapeError {
    /// It has too many dimensions.
    #[error("shape {0} has more than {MAX_RANK} dimensions")]
    Rank(Shape),
    /// It has too many elements.
    #[error("shape {0} has more than 2^40 elements")]
    Elements(Shape),
}

impl From<ShapeError> for String {
    fn from(error: ShapeError) -> String {
        error.to_string()
    }
}

/// Checks that a shape has at most [`MAX_RANK`] dimensions and [`MAX_ELEMENTS`] elements, zero sizes counted as one.
///
/// # Errors
/// Says which bound it breaks.
pub fn check_shape(shape: &Shape) -> Result<(), ShapeError> {
    if shape.rank() > MAX_RANK {
        return Err(ShapeError::Rank(shape.clone()));
    }
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d.max(1)));
    match elements {
        Some(n) if n <= MAX_ELEMENTS => Ok(()),
        _ => Err(ShapeError::Elements(shape.clone())),
    }
}
