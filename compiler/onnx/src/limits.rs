//! Bounds on sizes, so that no later arithmetic on them can overflow.

use lacuna_ir::Shape;
use lacuna_ir::types::MAX_RANK;

/// The greatest number of elements of a value, and the greatest size of a dimension.
pub const MAX_ELEMENTS: u64 = 1 << 40;

/// The greatest number of parts of a concatenation, a split or a sequence.
pub const MAX_PARTS: usize = 4096;

/// Checks that a shape has at most [`MAX_RANK`] dimensions and [`MAX_ELEMENTS`] elements, zero sizes counted as one.
///
/// # Errors
/// Says which bound it breaks.
pub fn check_shape(shape: &Shape) -> Result<(), String> {
    if shape.rank() > MAX_RANK {
        return Err(format!("shape {shape} has more than {MAX_RANK} dimensions"));
    }
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d.max(1)));
    match elements {
        Some(n) if n <= MAX_ELEMENTS => Ok(()),
        _ => Err(format!("shape {shape} has more than 2^40 elements")),
    }
}
