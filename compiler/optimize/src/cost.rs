//! The cost of a term: an integer that stands for time. One unit is a multiply-accumulate; a byte that crosses
//! memory costs [`BYTE`] of them, near the ratio of arithmetic to bandwidth of the targets.

use egg::Language;
use lacuna_ir::Op;
use lacuna_ir::op::ContractMap;

use crate::graph::Graph;
use crate::lang::Term;

/// Cost of a byte moved.
pub const BYTE: u64 = 64;
/// Cost of a byte of element-wise work that can run on the result of a contraction before it leaves the engine.
const FUSED_BYTE: u64 = 8;
/// Cost of a byte that a permutation rearranges, which often happens on the way to another operator.
const PERMUTED_BYTE: u64 = 16;

/// Cost of one term, without its operands.
pub fn cost(g: &Graph, class: egg::Id, term: &Term) -> u64 {
    let Some(op) = g.op(term) else { return 0 };
    let args = term.children();
    let constant = matches!(op, Op::Const { .. } | Op::Iota { .. });
    if constant || (!matches!(op, Op::Call { .. }) && args.iter().all(|&a| g.is_const(a))) {
        // Computed by the compiler. A constant of the pool as it is beats one that must be made.
        return u64::from(!constant);
    }
    let bytes = |id: egg::Id| g.eg[id].data.types.iter().map(|t| t.bytes()).fold(0u64, u64::saturating_add);
    let result = bytes(class);
    let read: u64 = args.iter().map(|&a| bytes(a)).fold(0, u64::saturating_add);
    let moved = read.saturating_add(result).saturating_mul(BYTE);
    match op {
        Op::Const { .. } | Op::Iota { .. } => 0,
        Op::Reshape { .. } | Op::Slice { .. } | Op::Broadcast { .. } | Op::Window { .. } => 1,
        Op::Permute { .. } => result.saturating_mul(PERMUTED_BYTE).saturating_add(1),
        Op::Unary { .. }
        | Op::Binary { .. }
        | Op::Compare { .. }
        | Op::Select {}
        | Op::Cast { .. }
        | Op::MxDecode { .. }
        | Op::MxQuantize { .. } => {
            let fused = args.iter().any(|&a| g.eg[a].data.epilogue);
            result.saturating_mul(if fused { FUSED_BYTE } else { BYTE }).saturating_add(1)
        }
        Op::Contract { map, .. } => macs_of_contract(g, map, args).saturating_add(moved),
        Op::Conv { attrs, .. } => {
            let w = g.shape(args[1]);
            let per_output = w.elements() / w[attrs.w[0] as usize].max(1);
            g.shape(class).elements().saturating_mul(per_output).saturating_add(moved)
        }
        Op::Pad { .. }
        | Op::Concat { .. }
        | Op::Gather { .. }
        | Op::Reduce { .. }
        | Op::ArgReduce { .. }
        | Op::Cumulate { .. }
        | Op::Softmax { .. }
        | Op::Norm { .. }
        | Op::Call { .. } => moved.saturating_add(1),
    }
}

/// Products of a contraction: one for each combination of all labels.
fn macs_of_contract(g: &Graph, map: &ContractMap, args: &[egg::Id]) -> u64 {
    let own: u64 = g.shape(args[0]).elements();
    let (labels, shape) = (&map.b, g.shape(args[1]));
    labels
        .iter()
        .zip(shape.iter())
        .filter(|(l, _)| !map.a.contains(l))
        .fold(own, |macs, (_, &n)| macs.saturating_mul(n))
}

/// Bytes of a class, the second criterion.
pub fn bytes(g: &Graph, class: egg::Id) -> u64 {
    if g.is_const(class) { 0 } else { g.eg[class].data.types.iter().map(|t| t.bytes()).sum() }
}
