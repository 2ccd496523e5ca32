//! The text form of modules. `parse(print(m))` reproduces `m`, ids included, given its own constants.
//!
//! ```text
//! module "digits-cnn"
//! origin o0 "/conv1/Conv" "Conv"
//! const c0 "conv1.weight" f32[32,1,3,3] = blake3:9f3a...   ; 64 hexadecimal digits: more than 64 bytes
//! const c1 "" f32[2] = [0x3f800000, 0x40000000]            ; element codes: up to 64 bytes
//! const c2 "" f32[64] = splat 0x0
//! fn fn0 @main(v0: f32[360,1,8,8] "x") -> (v2) {
//!   v1: f32[360,1,64] "flat" = reshape v0 {shape: [360,1,64]} @ [o0]
//!   v2: f32[360,1] = reduce v1 {op: sum, axes: [2]}
//! }
//! entry "main" fn0 ("x") -> ("y")
//! ```
//!
//! The module line comes first; other items in any order, those of one kind numbered from 0. A node is
//! `results = operator operands {attributes} @ [origins]`; attributes are those of the operator table, in its order. A
//! string behind a type is the value's name. Real attributes are the shortest decimal that reads back exactly, or
//! their bits (`0x7ff0000000000000`). Small constants that are not plain element codes are `bytes "3f80"`. Comments
//! run from `;` to the end of the line.

mod attribute;
mod cursor;
mod lexer;
mod parse;
mod print;

use std::fmt;

use crate::module::{ConstantData, Module};

/// Why a text is not a module, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TextError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// A name that exists and is near the one given.
    pub suggestion: Option<String>,
    /// The text of the line.
    pub source: String,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let margin = " ".repeat(self.line.to_string().len());
        writeln!(f, "{}", self.message)?;
        writeln!(f, "{margin}--> line {}, column {}", self.line, self.column)?;
        writeln!(f, "{} | {}", self.line, self.source)?;
        write!(f, "{margin} | {}^", " ".repeat(self.column.saturating_sub(1)))?;
        match &self.suggestion {
            Some(name) => write!(f, " did you mean `{name}`?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for TextError {}

/// Reads a module. Constants that the text gives by hash come from `resolve`.
///
/// The result is well-formed text, not yet a sound module: see [`crate::verify`].
///
/// # Errors
/// The first fault of the text; a constant that `resolve` does not know, or whose content has another hash.
pub fn parse(
    text: &str,
    resolve: impl FnMut(&[u8; 32]) -> Option<ConstantData>,
) -> Result<Module, TextError> {
    parse::module(text, resolve)
}

/// The text form.
pub fn print(module: &Module) -> String {
    module.to_string()
}
