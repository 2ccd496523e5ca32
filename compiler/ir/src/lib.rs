//! The tensor IR: typed values over static shapes, a closed table of operators, a module of functions and constants.
//!
//! Where to look: [`op`] is the operator table, [`types`] and [`infer`] say what each operator accepts and returns,
//! [`module`] is the container, [`build`] makes functions. The text form, the verifier and the evaluator read those.

pub mod build;
pub mod eval;
pub mod infer;
pub mod module;
pub mod op;
pub mod types;

pub use build::FunctionBuilder;
pub use module::{
    Blob, ConstId, Constant, ConstantData, Entry, FuncId, Function, Module, Node, NodeData, Origin, OriginId,
    Value, ValueData, ValueDef,
};
pub use op::Op;
pub use types::{ElemType, Shape, TensorType};
