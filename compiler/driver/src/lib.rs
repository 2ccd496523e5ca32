//! What the command `lacuna` is made of, apart from its command line: the passes in order, files, tensors, test sets,
//! comparison, diagnostics.
//!
//! The library exists for the tests, which need stages that the command shows only as text.

pub mod calibration;
pub mod codes;
pub mod compare;
pub mod compiled;
pub mod diagnostics;
pub mod exec;
pub mod expose;
pub mod files;
pub mod generation;
pub mod given;
pub mod host;
pub mod interrupt;
pub mod measure;
pub mod pipeline;
pub mod plot;
pub mod progress;
pub mod quantum;
pub mod random;
pub mod report;
pub mod request;
pub mod sampling;
pub mod selection;
pub mod states;
pub mod tensors;
pub mod testset;
pub mod trace;
pub mod warnings;
