//! The command line from outside: every test runs the binary.

mod bad_input;
mod bench;
mod cli;
mod common;
mod determinism;
mod losses;
mod pipeline;
mod profile;
mod questions;
mod selection;
mod stored;
mod sweep;
mod targets;
mod weights;
