//! Tests of the tensor IR through its public interface.

mod attention;
mod common;
mod eval;
mod simplify;
mod text;
mod verify;
