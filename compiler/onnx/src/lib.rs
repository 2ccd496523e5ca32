//! ONNX to the tensor IR.
//!
//! [`import`] reads a model's protobuf and lowers every node by the table of [`supported_ops`]. It does no I/O: bytes
//! come in as a [`Blob`] (usually a mapped file, whose weights are shared, not copied), data of other files through
//! [`ExternalData`].
//!
//! - Every finding of a model is reported in one run: a node that fails poisons its results, and nodes that depend on
//!   them are checked for support but not reported for their operands.
//! - Broadcasting is explicit in the IR, batch dimensions of products are labels, and indices are non-negative.
//! - Bad input gives a [`Diagnostic`] with a code of [`codes`], never a panic: [`limits`] bounds every size before
//!   arithmetic on it.
//! - Composite operators that a model spells out in small steps stay as they are; recognising them is the
//!   optimiser's work.

mod call;
pub mod codes;
mod context;
mod control;
mod diagnostic;
mod flex;
mod fold;
mod graph;
mod importer;
mod indices;
pub mod limits;
mod lists;
mod model;
mod ops;
mod opset;
mod order;
pub mod proto;
mod prune;
mod scan;
mod sequence;
mod slot;
mod tensor;

use std::collections::BTreeMap;

use lacuna_ir::{Blob, Module};

pub use diagnostic::Diagnostic;
pub use lists::{Flat, List, ListKind, flatten};
pub use model::{Dimension, import};
pub use ops::{OPSETS, SupportedOp, Types, supported_ops};
pub use tensor::{DataTypeError, Literal, data_type, decode_tensor, encode_tensor, scalar_type};

/// What the command line says about a model.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Sizes of symbolic dimensions (`--dim NAME=N`); a dimension without name is `INPUT.AXIS`.
    pub dims: BTreeMap<String, u64>,
    /// Inputs with a known value (`--bind NAME=FILE`). They stay in the signature, but the code assumes the value.
    pub bindings: BTreeMap<String, Literal>,
}

/// Why a file beside a model cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// The model stands alone.
    #[error("there are no other files")]
    None,
    /// It is not there, or of the wrong kind.
    #[error("{0}")]
    File(String),
    /// It is outside the model's folder.
    #[error("{0} out of the model's folder")]
    Outside(&'static str),
    /// It ends early.
    #[error("the file has {size} bytes, but {length} are needed from byte {offset} on")]
    Short {
        /// Bytes that it has.
        size: u64,
        /// Bytes that are needed.
        length: u64,
        /// The first of them.
        offset: u64,
    },
}

impl From<std::io::Error> for Unreadable {
    fn from(error: std::io::Error) -> Unreadable {
        Unreadable::File(error.to_string())
    }
}

/// Reads the files beside a model that hold elements of its constants.
pub trait ExternalData {
    /// Bytes `offset..offset + length` of the file at `location`, relative to the model's folder; to its end where no
    /// length is given.
    ///
    /// # Errors
    /// Why they cannot be read: there is no such file, it is too short, or it is outside the folder.
    fn read(&self, location: &str, offset: u64, length: Option<u64>) -> Result<Blob, Unreadable>;
}

/// No other files: every read fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoExternalData;

impl ExternalData for NoExternalData {
    fn read(&self, _: &str, _: u64, _: Option<u64>) -> Result<Blob, Unreadable> {
        Err(Unreadable::None)
    }
}

/// An imported model.
#[derive(Clone, Debug)]
pub struct Imported {
    /// One function with one entry, `main`.
    pub module: Module,
    /// Version of the operator set `ai.onnx` that the model declares.
    pub opset: i64,
    /// What deserves attention but is no error.
    pub warnings: Vec<String>,
}
