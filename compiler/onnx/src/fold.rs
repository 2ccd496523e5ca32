//! Values known at import. Shape arithmetic must become numbers, because shapes and slices are attributes in the IR.
//!
//! Integer nodes of small constants fold as they are emitted. Chains from `iota` and of floats stay nodes, which are
//! cheaper to hold and show their structure; they are computed on demand when a shape or an index depends on them.

use std::collections::HashMap;

use lacuna_ir::eval::{Mode, Tensor, eval_op};
use lacuna_ir::{Blob, Constant, Op, Value};
use lacuna_isa::format::ScalarType;

use crate::context::{Ctx, FOLD_ELEMENTS};

/// Results of at most this many elements are folded as they are emitted.
const EAGER_ELEMENTS: u64 = 1 << 16;

/// A broadcast of more elements than this stays a node.
const EAGER_BROADCAST: u64 = 1 << 10;

impl Ctx<'_> {
    /// The result of the node that defines `value`, if it is to be a constant.
    pub(crate) fn fold(&self, value: Value) -> Option<Constant> {
        let func = self.b.func();
        let node = &func.nodes[func.def(value)?];
        let elem = self.elem(value);
        let limit = match node.op {
            Op::Const { .. } | Op::Iota { .. } | Op::Call { .. } => return None,
            Op::Broadcast { .. } => EAGER_BROADCAST,
            _ => EAGER_ELEMENTS,
        };
        let small = |v: Value| func.ty(v).shape.elements() <= EAGER_ELEMENTS;
        if !(elem.is_int() || elem == ScalarType::Bool)
            || func.ty(value).shape.elements() > limit
            || !node.args.iter().all(|&a| small(a))
        {
            return None;
        }
        let constants = &self.b.module.constants;
        let args: Option<Vec<Tensor>> =
            node.args.iter().map(|&a| Tensor::from_constant(&constants[func.as_const(a)?]).ok()).collect();
        constant(eval_op(self.b.module, &node.op, &args?.iter().collect::<Vec<_>>(), Mode::Typed).ok()?)
    }

    /// Whether a value depends on constants only.
    pub(crate) fn is_constant(&mut self, value: Value) -> bool {
        let func = self.b.func();
        // Each node is looked at once, however often and about however long a chain is asked.
        for (node, data) in func.nodes.iter().skip(self.n_classified) {
            let fixed = !matches!(data.op, Op::Call { .. }) && data.args.iter().all(|&a| self.fixed[a]);
            func.nodes[node].results.iter().for_each(|&r| self.fixed[r] = fixed);
        }
        self.n_classified = func.nodes.len();
        self.fixed[value]
    }

    /// The value's elements, where they depend on constants only and are few enough.
    pub(crate) fn known(&mut self, value: Value) -> Option<Constant> {
        if let Some(id) = self.b.func().as_const(value) {
            return Some(self.b.module.constants[id].clone());
        }
        if let Some(known) = self.memo.get(&value) {
            return Some(known.clone());
        }
        if !self.is_constant(value) {
            return None;
        }
        let func = self.b.func();
        let program = func.nodes_behind(value, |_| false);
        let is_large = |v: &Value| func.ty(*v).shape.elements() > FOLD_ELEMENTS as u64;
        if program.iter().any(|&node| func.nodes[node].results.iter().any(is_large)) {
            return None;
        }
        let mut tensors: HashMap<Value, Tensor> = HashMap::new();
        for node in program {
            let data = &func.nodes[node];
            let args: Option<Vec<&Tensor>> = data.args.iter().map(|a| tensors.get(a)).collect();
            let mut results = eval_op(self.b.module, &data.op, &args?, Mode::Typed).ok()?;
            tensors.insert(*data.results.first()?, results.pop()?);
        }
        let known = constant(vec![tensors.remove(&value)?])?;
        self.memo.insert(value, known.clone());
        Some(known)
    }
}

fn constant(mut results: Vec<Tensor>) -> Option<Constant> {
    let tensor = results.pop()?;
    let bytes = Blob::new(tensor.to_bytes());
    Some(Constant::computed(tensor.ty, bytes, ""))
}
