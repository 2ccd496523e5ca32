//! What the machine does: executes an object's streams bit for bit, traps as values, and models time and energy.
//!
//! The meaning of a stream is program order, so [`Machine`] is a straight loop per PE; PEs run on several threads because
//! nothing they do between two rendezvous is visible to another. Asynchrony exists only in [`profile()`], the machine
//! model, which never looks at data. This crate knows the instruction set and never the compiler.

mod bank;
mod boxes;
mod codes;
mod dma;
mod entry;
mod exchange;
mod illegal;
mod launch;
mod layout;
mod local;
mod machine;
mod matmul;
mod meeting;
mod memory;
mod pe;
mod plan;
pub mod profile;
mod races;
mod ranks;
mod se;
mod simd;
mod slots;
mod sort;
mod trap;
mod workspace;

pub use illegal::Illegal;
pub use machine::{DEFAULT_STEP_LIMIT, LaunchRecord, Machine, Outcome, RunOptions, Session};
pub use matmul::actions::{LoadRecord, ProductRecord};
pub use profile::{ProfileOptions, profile, profile_with};
pub use trap::{InputError, LoadError, Trap, TrapKind};
