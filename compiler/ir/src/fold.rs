//! Constant folding by the evaluator, in typed mode.
//!
//! A node whose operands are known becomes a constant, a splat where all elements are equal. What is cheaper to keep as
//! a recipe stays: `iota`, `broadcast`, `mx_decode` and `dequantize` (their codes are smaller), calls, results over [`MAX_BYTES`], and
//! results over [`RECIPE_ELEMENTS`] that derive from an `iota` and still vary (a causal triangle is told from its
//! `compare`, not from a dense mask). Such recipes are evaluated where a folded node needs them. A node that cannot be
//! evaluated, such as a `gather` out of range, stays as it is.

use cranelift_entity::SecondaryMap;

use crate::eval::{Mode, Tensor, eval_op};
use crate::module::{Blob, Constant, ConstantData, FuncId, Module, Node, Value};
use crate::op::Op;
use crate::types::TensorType;

/// Results of more bytes are not folded, nor are nodes with larger operands.
pub const MAX_BYTES: u64 = 64 << 20;

/// Results of more elements stay recipes when they derive from an `iota`.
pub const RECIPE_ELEMENTS: u64 = 4096;

/// What is known of a value.
#[derive(Clone, Default)]
struct Known {
    tensor: Tensor,
    from_iota: bool,
}

/// Folds every function. The nodes that a folded node used stay until [`crate::dead::dead_code`].
///
/// The module must be verified; it is afterwards.
pub fn fold_constants(module: &mut Module) {
    let ids: Vec<FuncId> = module.functions.keys().collect();
    for id in ids {
        fold_function(module, id);
    }
}

fn fold_function(module: &mut Module, id: FuncId) {
    let mut known: SecondaryMap<Value, Option<Known>> = SecondaryMap::new();
    let nodes: Vec<Node> = module.functions[id].nodes.keys().collect();
    for node in nodes {
        let data = &module.functions[id].nodes[node];
        let &[result] = &data.results[..] else { continue };
        if data.args.iter().any(|&a| known[a].is_none()) || !is_small(module.functions[id].ty(result)) {
            continue;
        }
        let args: Vec<&Known> = data.args.iter().filter_map(|&a| known[a].as_ref()).collect();
        let from_iota = matches!(data.op, Op::Iota { .. }) || args.iter().any(|a| a.from_iota);
        let recipe = match data.op {
            Op::Call { .. } => continue,
            Op::Const { .. } | Op::Iota { .. } | Op::Broadcast { .. } | Op::MxDecode { .. } => true,
            Op::Dequantize { .. } => true,
            Op::Unary { .. }
            | Op::Binary { .. }
            | Op::Compare { .. }
            | Op::Select { .. }
            | Op::Cast { .. }
            | Op::BitCast { .. }
            | Op::Reshape { .. }
            | Op::Permute { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Concat { .. }
            | Op::Window { .. }
            | Op::Gather { .. }
            | Op::Reduce { .. }
            | Op::ArgReduce { .. }
            | Op::Cumulate { .. }
            | Op::Contract { .. }
            | Op::Conv { .. }
            | Op::Softmax { .. }
            | Op::Norm { .. }
            | Op::Attention { .. }
            | Op::MxQuantize { .. } => false,
        };
        let tensors: Vec<&Tensor> = args.iter().map(|a| &a.tensor).collect();
        let Ok(results) = eval_op(module, &data.op, &tensors, Mode::Typed) else { continue };
        let Some(tensor) = results.into_iter().next() else { continue };
        if !recipe {
            let constant = Constant::computed(tensor.ty.clone(), Blob::new(tensor.to_bytes()), "");
            let varies = matches!(constant.data, ConstantData::Dense(_));
            if varies && from_iota && tensor.ty.shape.elements() > RECIPE_ELEMENTS {
                known[result] = Some(Known { tensor, from_iota });
                continue;
            }
            let value = module.constants.push(constant);
            let data = &mut module.functions[id].nodes[node];
            data.op = Op::Const { value };
            data.args.clear();
        }
        known[result] = Some(Known { tensor, from_iota });
    }
}

fn is_small(ty: &TensorType) -> bool {
    // The evaluator holds up to 8 bytes per element, however narrow.
    ty.bytes() <= MAX_BYTES && ty.shape.elements() <= MAX_BYTES
}
