//! The command line from outside: every test runs the binary.

mod bad_input;
mod cli;
mod common;
mod determinism;
mod pipeline;
mod profile;
mod selection;
mod stored;
mod weights;
