//! How weights become narrow or sparse: pruning, scale search, error-compensating rounding, block Hadamard rotation.
//!
//! [`refine`] runs in the selection phase, after formats are chosen and before constants are computed. It takes the
//! place of plain quantisation for the constant operand of each product that a technique applies to. With
//! calibration inputs it evaluates the function as it goes, so each product sees the inputs that the products before it
//! give once they are quantised themselves.
//!
//! Where to look: `options` is what can be asked for, `matrix` a constant as rows of weights, `gram` the second moments
//! of the other operand, `factor` their triangular inverse, `narrow` pruning and rounding of one matrix, `hadamard` the
//! rotation, `refine` the walk over a function.
//!
//! All arithmetic is addition, multiplication, division and square roots of f64 in a fixed order; threads share rows,
//! never sums. So the same calibration data gives the same codes on every machine.

mod factor;
mod gram;
mod hadamard;
mod matrix;
mod narrow;
mod options;
mod refine;
#[cfg(test)]
mod tests;

pub use options::{ParseWeightsError, Prune, PruneBy, Rounding, ScaleModes, WeightOptions};
pub(crate) use refine::is_rotation;
pub use refine::{Refined, WeightReport, refine};
