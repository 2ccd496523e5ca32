//! The optimiser: exact rewriting in an e-graph, then the choice of number formats.
//!
//! [`optimize`] rewrites each function with rules that are equalities: of bits (class E0), or over the reals in how sums are
//! ordered and rounded (E1), or over the reals in general, if the user allows it ([`RuleClass::Relaxed`]).
//! [`select`] then converts operands of contractions to the precision that the user asked for: an approximation, so
//! never a rule; [`weights`] is how weights are pruned and rounded. [`sparsity_of`] reads sparsity patterns off the
//! constants that result, [`activity_of`] finds the products whose activations are sparse at run time.
//!
//! Where to look: `blocks` keeps quantised weights as they are stored, `batching` puts rows together that meet the same matrix of a table, `lang` is the e-graph's language, `facts` what is known of its classes, `structure` what is known of
//! their zeros, `numbers` which numbers they cannot be, `extent` the magnitudes of constants, `graph` its constructors, `pattern` the rules' left sides, `rules` the rules, `saturate` the loop, `cost`
//! and `extract` the way back, `repeats` how equal layers are solved once. Nothing here looks at a clock or at the order
//! of a hash table: the same module gives the same result on every machine.

mod analysis;
mod batching;
mod blocks;
mod bounds;
mod constants;
mod cost;
mod diagonal;
mod emit;
mod error;
mod exact;
mod extent;
mod extract;
mod facts;
mod folding;
mod graph;
mod lang;
mod masks;
#[cfg(test)]
mod models;
mod module;
mod numbers;
mod options;
mod pack;
mod parts;
mod pattern;
mod repeats;
mod report;
mod rules;
mod saturate;
mod select;
mod structure;
#[cfg(test)]
mod testing;
mod views;
pub mod weights;
mod zero_codes;
mod zeros;

pub use error::{Broken, Error};
pub use exact::{Optimized, optimize};
pub use options::{
    Extraction, Options, ParseExtractionError, ParsePrecisionError, Precision, TargetFeatures,
};
pub use report::{Application, Report, RuleCount};
pub use rules::{RuleClass, RuleInfo, rule_table};
pub use select::{
    Assignment, Budget, Candidate, Chosen, Drop, MachineCost, Measure, Outputs, ParetoPoint, SelectError,
    Selected, Site, Survey, Verdict, WeightShare, compressed, noise_to_signal, select, sqnr_db, weight_bytes,
    weight_shares,
};
pub use weights::{WeightOptions, WeightReport};
pub use zeros::{
    Activity, BlockZeros, Sparse, WeightSparsity, activity_of, density, follows, sparsity_of, zero_blocks,
};
