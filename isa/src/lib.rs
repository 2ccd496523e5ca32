//! What the machine is: number formats, instruction table, encoding, object file, targets, timing and energy.
//!
//! This crate depends on no other crate of the project. The compiler and the interpreter both read it and never each
//! other.

pub mod asm;
pub mod blob;
pub mod disasm;
pub mod elf;
pub mod encode;
pub mod energy;
pub mod field;
pub mod format;
pub mod inst;
#[cfg(test)]
mod laws;
pub mod link;
pub mod math;
mod nearest;
pub mod object;
pub mod part;
pub mod program;
pub mod reference;
pub mod sparse;
pub mod target;
pub mod target_file;
#[cfg(test)]
mod testing;
pub mod timing;
mod validate;
pub mod view;
mod wire;
mod work;

pub use blob::Blob;
