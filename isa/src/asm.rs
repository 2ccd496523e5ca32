//! The assembler: from the text form of an object back to the object.
//!
//! The text is what [`disassemble`](crate::disasm::disassemble) prints. Lines are statements; blocks stand in braces; `;`
//! starts a comment. Table entries carry their numbers, which must count up from 0. The assembler checks form alone: what
//! the object means is [`Object::validate`]'s business.

mod code;
mod cursor;
mod lexer;
mod tables;

use std::collections::HashMap;
use std::fmt;

use crate::blob::Blob;
use crate::object::Object;
use crate::part::Part;
use cursor::Cursor;

/// Most errors that one run reports.
const MAX_ERRORS: usize = 50;
/// Most bytes of weights that a text may stand for: a run of one byte is a short line.
const MAX_WEIGHT_BYTES: usize = 1 << 32;

/// What is wrong with a text, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AsmError {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// Number of characters at fault; at least 1.
    pub width: usize,
    /// What is wrong.
    pub message: String,
    /// What might be meant.
    pub hint: Option<String>,
    /// The line's text.
    pub source: String,
}

impl fmt::Display for AsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AsmError { line, column, width, message, hint, source } = self;
        writeln!(f, "{line}:{column}: {message}")?;
        writeln!(f, "{line:5} | {source}")?;
        write!(f, "      | {:pad$}{:^<width$}", "", "", pad = column - 1)?;
        match hint {
            Some(hint) => write!(f, " {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for AsmError {}

/// The object of a text.
///
/// # Errors
/// Everything that is wrong with the text, up to 50 errors.
pub fn assemble(text: &str) -> Result<Object, Vec<AsmError>> {
    run(text, None)
}

/// Where in a text the parts of its object are.
#[derive(Clone, Debug)]
pub struct Lines<'t> {
    text: &'t str,
    starts: HashMap<Part, usize>,
}

impl Lines<'_> {
    /// The line of a part, counted from 1: that of its own statement, or of what it lies in where it has none.
    pub fn of(&self, part: Part) -> Option<usize> {
        let parts = std::iter::successors(Some(part), |part| part.outer());
        let start = parts.filter_map(|part| self.starts.get(&part)).next()?;
        Some(self.text.as_bytes()[..*start].iter().filter(|&&b| b == b'\n').count() + 1)
    }
}

/// The object of a text, and the lines of its parts.
///
/// # Errors
/// Everything that is wrong with the text, up to 50 errors.
pub fn assemble_with_lines(text: &str) -> Result<(Object, Lines<'_>), Vec<AsmError>> {
    let mut cursor = Cursor::new(text);
    let object = tables::object(&mut cursor, None);
    let starts = std::mem::take(&mut cursor.starts).into_iter().collect();
    finish(text, cursor, object).map(|object| (object, Lines { text, starts }))
}

/// The object of a text whose weights are elided; `weights` takes their place.
///
/// # Errors
/// Everything that is wrong with the text, up to 50 errors.
pub fn assemble_with(text: &str, weights: Blob) -> Result<Object, Vec<AsmError>> {
    run(text, Some(weights))
}

fn run(text: &str, weights: Option<Blob>) -> Result<Object, Vec<AsmError>> {
    let mut cursor = Cursor::new(text);
    let object = tables::object(&mut cursor, weights);
    finish(text, cursor, object)
}

fn finish(text: &str, cursor: Cursor<'_>, object: Object) -> Result<Object, Vec<AsmError>> {
    let faults = cursor.into_faults();
    if faults.is_empty() {
        return Ok(object);
    }
    Err(faults.into_iter().map(|fault| locate(text, fault)).collect())
}

/// A fault at a byte range of the text.
struct Fault {
    span: std::ops::Range<usize>,
    message: String,
    hint: Option<String>,
}

fn locate(text: &str, fault: Fault) -> AsmError {
    let Fault { span, message, hint } = fault;
    let before = text.get(..span.start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    let source: String = text[line_start..].lines().next().unwrap_or_default().chars().take(200).collect();
    let width = text.get(span).unwrap_or_default().lines().next().unwrap_or_default().chars().count();
    AsmError {
        line: before.bytes().filter(|&b| b == b'\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        width: width.clamp(1, 80),
        message,
        hint,
        source,
    }
}

#[cfg(test)]
#[path = "asm/tests.rs"]
mod tests;
