//! The command line from outside: every test runs the binary.

mod bad_input;
mod bench;
mod cli;
mod common;
mod determinism;
#[cfg(unix)]
mod docs;
mod generate;
mod losses;
mod pipeline;
mod profile;
mod quantised;
mod questions;
mod selection;
mod stored;
mod streams;
mod sweep;
mod targets;
mod warnings;
mod weights;
