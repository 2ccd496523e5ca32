//! The cost of a term: an integer that stands for time. One unit is a multiply-accumulate.
//!
//! Three things take time: products, bytes that cross memory, and launches. On small values a launch is nearly all:
//! element-wise work that joins the kernel of an operand (a [`crate::facts`] question) has none, and a norm has one
//! where its parts have three. Movement is a view and free, except where a view cannot express it.

use egg::{Id, Language};
use lacuna_ir::Op;
use lacuna_ir::op::{BinaryOp, ContractMap, UnaryOp};

use crate::facts::{Facts, joins, sparse_dims};
use crate::graph::Graph;
use crate::lang::Term;
use crate::module::summed_dims;

/// Cost of a byte that crosses memory, near the ratio of arithmetic to bandwidth of the targets.
pub const BYTE: u64 = 64;
/// Cost of a launch: the targets read some two megabytes in the time that one takes.
const LAUNCH: u64 = BYTE << 21;
/// Cost of a byte of element-wise work in a kernel that is there anyway.
const JOINED_BYTE: u64 = 8;
/// Cost of a byte of a function that is computed by a polynomial, in such a kernel.
const POLYNOMIAL_BYTE: u64 = 24;
/// Cost of a byte that a permutation rearranges, which often happens on the way to another operator.
const PERMUTED_BYTE: u64 = 16;

/// Cost of one term, without its operands.
pub fn cost(g: &Graph, class: Id, term: &Term) -> u64 {
    let Some(op) = g.op(term) else { return 0 };
    let args: Vec<&Facts> = term.children().iter().map(|&a| g.facts(a)).collect();
    let constant = matches!(op, Op::Const { .. } | Op::Iota { .. });
    if constant || (!matches!(op, Op::Call { .. }) && args.iter().all(|a| a.constant)) {
        // Computed by the compiler. A constant of the pool as it is beats one that must be made, and one that is made small and
        // repeated beats one that is made of what repeats.
        let made = if op.is_elementwise() { bytes_of(g.facts(class)) } else { 0 };
        let read = term.children().iter().zip(&args).filter(|(x, _)| g.splat(**x).is_none());
        let behind = read.fold(0u64, |sum, (_, a)| sum.saturating_add(a.memory));
        return if constant { 0 } else { made.saturating_sub(behind).saturating_add(1) };
    }
    let result = bytes_of(g.facts(class));
    let add = |costs: &[u64]| costs.iter().fold(1u64, |sum, &c| sum.saturating_add(c));
    let moved = |bytes: u64| bytes.saturating_mul(BYTE);
    let behind = |args: &[&Facts]| args.iter().fold(0u64, |sum, a| sum.saturating_add(a.memory));
    let streamed = || args.iter().fold(0u64, |sum, a| sum.saturating_add(stored_bytes(a)));
    let kernel = |read: u64| add(&[LAUNCH, moved(read), moved(result)]);
    match op {
        Op::Const { .. } | Op::Iota { .. } => 0,
        // Neighbours that repeat do not merge into a dimension of a view.
        Op::Reshape { .. } if args[0].memory < bytes_of(args[0]) && !same_dims(g, class, term) => {
            kernel(args[0].memory)
        }
        Op::Reshape { .. } | Op::Slice { .. } | Op::Broadcast { .. } | Op::Window { .. } => 1,
        Op::Permute { .. } => result.saturating_mul(PERMUTED_BYTE).saturating_add(1),
        Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } | Op::Select {} | Op::Cast { .. } => {
            let work = result.saturating_mul(if is_polynomial(op) { POLYNOMIAL_BYTE } else { JOINED_BYTE });
            let apart = g.converts_apart && matches!(op, Op::Cast { .. });
            if joins(&args) && !apart {
                let read: Vec<&Facts> = args.iter().copied().filter(|a| !a.kernel.open).collect();
                add(&[work, moved(behind(&read))])
            } else {
                add(&[work, kernel(behind(&args))])
            }
        }
        Op::Contract { map, .. } => {
            let macs = macs_of_contract(g, map, term.children());
            add(&[macs / rate(op, &args), kernel(streamed())])
        }
        Op::Conv { attrs, .. } => {
            let w = g.shape(term.children()[1]);
            let per_output = w.elements() / w[attrs.w[0] as usize].max(1);
            let macs = g.shape(class).elements().saturating_mul(per_output);
            add(&[macs / rate(op, &args), kernel(streamed())])
        }
        Op::Attention { causal, .. } => {
            let (q, k) = (g.shape(term.children()[0]), g.shape(term.children()[1]));
            let width = g.shape(class).last().copied().unwrap_or(0);
            let products = q.elements().saturating_mul(k[2]).checked_div(q[3]).unwrap_or(0);
            let macs = products.saturating_mul(q[3] + width);
            add(&[if *causal { macs / 2 } else { macs }, kernel(behind(&args))])
        }
        // Scale and bias are a row that stays in local memory.
        Op::Norm { .. } => kernel(args[0].memory),
        Op::BitCast { .. }
        | Op::Pad { .. }
        | Op::Concat { .. }
        | Op::Gather { .. }
        | Op::Reduce { .. }
        | Op::ArgReduce { .. }
        | Op::Cumulate { .. }
        | Op::Sort { .. }
        | Op::Scatter { .. }
        | Op::Softmax { .. }
        | Op::MxDecode { .. }
        | Op::Dequantize { .. }
        | Op::MxQuantize { .. } => kernel(behind(&args)),
        // What it calls is rewritten on its own; there is no other way to compute it.
        Op::Call { .. } => 1,
    }
}

fn bytes_of(facts: &Facts) -> u64 {
    facts.types.iter().map(|t| t.bytes()).fold(0, u64::saturating_add)
}

/// Bytes of an operand of a product in memory: constants lie there in the narrowest type that has their values.
fn stored_bytes(facts: &Facts) -> u64 {
    let bytes = bytes_of(facts);
    let wide = facts.types.first().and_then(|ty| ty.elem.scalar()).map(|ty| u64::from(ty.bits()));
    match (facts.narrow, wide) {
        (Some(narrow), Some(wide)) => (u128::from(bytes) * u128::from(narrow) / u128::from(wide)) as u64,
        _ => bytes,
    }
}

/// Whether a reshape only adds or drops dimensions of size 1.
fn same_dims(g: &Graph, class: Id, term: &Term) -> bool {
    let others = |id: Id| g.shape(id).iter().copied().filter(|&n| n != 1).collect::<Vec<u64>>();
    term.children().iter().all(|&x| others(x) == others(class))
}

fn is_polynomial(op: &Op) -> bool {
    let cheap = [UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Sign, UnaryOp::Ceil, UnaryOp::Floor, UnaryOp::Round];
    let cheap_too = [UnaryOp::Not, UnaryOp::IsNan, UnaryOp::IsInf];
    if let Op::Unary { op } = op {
        return !cheap.contains(op) && !cheap_too.contains(op);
    }
    let slow = [BinaryOp::Pow, BinaryOp::Div, BinaryOp::Mod, BinaryOp::Rem];
    matches!(op, Op::Binary { op } if slow.contains(op))
}

/// How many times faster the products go for the zeros of a constant operand.
fn rate(op: &Op, args: &[&Facts]) -> u64 {
    let sparse =
        |(i, d): (usize, usize)| args[i].constant && sparse_dims(&args[i].zeros).contains(&(d as u8));
    if summed_dims(op).into_iter().any(sparse) { 2 } else { 1 }
}

/// Products of a contraction: one for each combination of all labels.
fn macs_of_contract(g: &Graph, map: &ContractMap, args: &[Id]) -> u64 {
    let own: u64 = g.shape(args[0]).elements();
    let (labels, shape) = (&map.b, g.shape(args[1]));
    labels
        .iter()
        .zip(shape.iter())
        .filter(|(l, _)| !map.a.contains(l))
        .fold(own, |macs, (_, &n)| macs.saturating_mul(n))
}

/// Bytes of a class, the second criterion.
pub fn bytes(g: &Graph, class: Id) -> u64 {
    if g.is_const(class) { 0 } else { bytes_of(g.facts(class)) }
}
