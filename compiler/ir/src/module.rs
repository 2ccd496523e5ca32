//! Modules: one constant pool, functions without captures, entries, and the provenance of every node.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use cranelift_entity::PrimaryMap;
pub use lacuna_isa::Blob;
use lacuna_isa::format::{ScalarType, group};

pub use crate::entities::{ConstId, FuncId, Node, OriginId, Value};
use crate::op::Op;
use crate::types::{ElemType, TensorType};

/// Where a node comes from in the ONNX model.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Origin {
    /// Name of the ONNX node, or of its first output where it has none.
    pub node: String,
    /// ONNX operator type.
    pub op: String,
}

/// Scalar types that code generation stores a constant in, narrowest first: the first one that has all of its values exactly.
pub const STORED_TYPES: [ScalarType; 9] = [
    ScalarType::I4,
    ScalarType::U4,
    ScalarType::E2M1,
    ScalarType::I8,
    ScalarType::U8,
    ScalarType::E4M3,
    ScalarType::E5M2,
    ScalarType::Bf16,
    ScalarType::F16,
];

/// How a constant's elements are held.
#[derive(Clone, Debug)]
pub enum ConstantData {
    /// The dense row-major form that [`TensorType::bytes`] describes, little endian.
    Dense(Blob),
    /// Every element has this code.
    Splat(u64),
}

/// A constant of the pool.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Its type.
    pub ty: TensorType,
    /// Its elements.
    pub data: ConstantData,
    /// Its name in the model (an initializer's), or empty.
    pub name: String,
    hash: OnceLock<[u8; 32]>,
}

impl Constant {
    /// A constant; `data` must have the length that the type says (the verifier checks).
    pub fn new(ty: TensorType, data: ConstantData, name: impl Into<String>) -> Constant {
        Constant { ty, data, name: name.into(), hash: OnceLock::new() }
    }

    /// A constant from little-endian bytes.
    pub fn dense(ty: TensorType, bytes: Vec<u8>, name: impl Into<String>) -> Constant {
        Constant::new(ty, ConstantData::Dense(Blob::new(bytes)), name)
    }

    /// A constant that was computed: a splat where there are several elements, and all are equal in their bits.
    pub fn computed(ty: TensorType, bytes: Blob, name: impl Into<String>) -> Constant {
        let width = match ty.elem.scalar() {
            Some(elem) if elem.bits() >= 8 => elem.bits() as usize / 8,
            _ => return Constant::new(ty, ConstantData::Dense(bytes), name),
        };
        let all = bytes.bytes();
        let data = match all.get(..width) {
            Some(first) if all.len() > width && all.chunks_exact(width).all(|one| one == first) => {
                ConstantData::Splat(first.iter().rev().fold(0, |code, &byte| code << 8 | u64::from(byte)))
            }
            _ => ConstantData::Dense(bytes),
        };
        Constant::new(ty, data, name)
    }

    /// Whether a group has a scale that is NaN: its codes are zeros, but what they mean is not.
    pub fn has_nan_scale(&self) -> bool {
        let (ElemType::Grouped { format, .. }, ConstantData::Dense(blob)) = (self.ty.elem, &self.data) else {
            return false;
        };
        let n_scale_bytes = self.ty.scale_bytes() as usize;
        let Some(first) = blob.len().checked_sub(n_scale_bytes) else { return false };
        let is_nan: [bool; 256] = std::array::from_fn(|code| group::scale_value(format, code as u8).is_nan());
        // Behind each scale its pair shifts, where the format has them.
        let step = format.scale_bytes(1).max(1) as usize;
        blob.bytes()[first..].iter().step_by(step).any(|&code| is_nan[usize::from(code)])
    }

    /// Hash (BLAKE3) of type and elements, computed on first use.
    pub fn hash(&self) -> &[u8; 32] {
        self.hash.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(self.ty.to_string().as_bytes());
            match &self.data {
                ConstantData::Dense(blob) => hasher.update(blob.bytes()),
                ConstantData::Splat(code) => hasher.update(b"splat").update(&code.to_le_bytes()),
            };
            *hasher.finalize().as_bytes()
        })
    }
}

/// How a value comes to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueDef {
    /// Parameter number of the function.
    Param(u32),
    /// Result number of a node.
    Result(Node, u32),
}

/// A value.
#[derive(Clone, Debug)]
pub struct ValueData {
    /// Its type.
    pub ty: TensorType,
    /// What defines it.
    pub def: ValueDef,
    /// Its name in the model, or empty.
    pub name: String,
}

/// A node: an operator applied to values.
#[derive(Clone, Debug)]
pub struct NodeData {
    /// The operator with its attributes.
    pub op: Op,
    /// Operands.
    pub args: Vec<Value>,
    /// Results: one for every operator but `call`.
    pub results: Vec<Value>,
    /// The ONNX nodes that this one implements, ascending and without repetition.
    pub origins: Vec<OriginId>,
}

/// A function: parameters, nodes in an order in which definitions precede uses, results.
#[derive(Clone, Debug, Default)]
pub struct Function {
    /// Name in text forms.
    pub name: String,
    /// All values.
    pub values: PrimaryMap<Value, ValueData>,
    /// All nodes, in execution order.
    pub nodes: PrimaryMap<Node, NodeData>,
    /// Parameters, in order.
    pub params: Vec<Value>,
    /// Results, in order.
    pub results: Vec<Value>,
}

impl Function {
    /// Type of a value.
    pub fn ty(&self, value: Value) -> &TensorType {
        &self.values[value].ty
    }

    /// The node that defines a value; `None` for parameters.
    pub fn def(&self, value: Value) -> Option<Node> {
        match self.values[value].def {
            ValueDef::Param(_) => None,
            ValueDef::Result(node, _) => Some(node),
        }
    }

    /// The nodes that a value depends on, in their order, its own among them; those behind values that `stops` are left out.
    pub fn nodes_behind(&self, value: Value, mut stops: impl FnMut(Value) -> bool) -> BTreeSet<Node> {
        let (mut found, mut open) = (BTreeSet::new(), vec![value]);
        while let Some(value) = open.pop() {
            if let Some(node) = self.def(value).filter(|_| !stops(value))
                && found.insert(node)
            {
                open.extend(&self.nodes[node].args);
            }
        }
        found
    }

    /// The constant that a value is, if a `const` node defines it.
    pub fn as_const(&self, value: Value) -> Option<ConstId> {
        match self.nodes[self.def(value)?].op {
            Op::Const { value } => Some(value),
            _ => None,
        }
    }
}

/// A function that can be called from outside, with the model's names.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the entry: `main` unless the model has several.
    pub name: String,
    /// The function.
    pub func: FuncId,
    /// Names of the function's parameters.
    pub inputs: Vec<String>,
    /// Names of the function's results.
    pub outputs: Vec<String>,
}

/// The unit of compilation.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// Name of the model.
    pub name: String,
    /// The constant pool.
    pub constants: PrimaryMap<ConstId, Constant>,
    /// The functions.
    pub functions: PrimaryMap<FuncId, Function>,
    /// The entries.
    pub entries: Vec<Entry>,
    /// The provenance table.
    pub origins: PrimaryMap<OriginId, Origin>,
}
