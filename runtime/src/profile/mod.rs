//! The machine model.
