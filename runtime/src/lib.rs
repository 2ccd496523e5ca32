//! What the machine does: executes an object's streams bit for bit, traps as values, and models time and energy.
//!
//! The meaning of a stream is program order, so [`Machine`] is a straight loop per PE; PEs run on several threads because
//! nothing they do inside one launch is visible to another. Asynchrony exists only in [`profile()`], the machine model,
//! which never looks at data. This crate knows the instruction set and never the compiler.

mod boxes;
mod dma;
mod layout;
mod local;
mod machine;
mod matmul;
mod memory;
mod pe;
mod plan;
pub mod profile;
mod se;
mod simd;
mod slots;
mod trap;

pub use machine::{LaunchRecord, Machine, Outcome, RunOptions};
pub use profile::profile;
pub use trap::{InputError, LoadError, Trap, TrapKind};
