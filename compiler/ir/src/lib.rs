//! The tensor IR: typed values over static shapes, a closed table of operators, a module of functions and constants.
//!
//! Where to look: [`op`] is the operator table, [`types`] and [`infer`] say what each operator accepts and returns,
//! [`module`] is the container, [`build`] makes functions. [`text`] prints and parses modules, [`verify`] lists and checks
//! what holds of them, [`eval`] says what they mean, and [`dead`] removes what nobody uses.

mod blocks;
pub mod build;
pub mod dead;
mod entities;
pub mod eval;
pub mod expand;
pub mod infer;
pub mod module;
pub mod op;
mod picked;
pub mod text;
pub mod types;
pub mod verify;

pub use blocks::Blocked;
pub use build::FunctionBuilder;
pub use module::{
    Blob, ConstId, Constant, ConstantData, Entry, FuncId, Function, Module, Node, NodeData, Origin, OriginId,
    STORED_TYPES, Value, ValueData, ValueDef,
};
pub use op::Op;
pub use picked::Picked;
pub use types::{ElemType, Shape, TensorType};
