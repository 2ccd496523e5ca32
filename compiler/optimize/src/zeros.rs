//! Zeros of the operands of products: patterns that constants follow, and what is probably zero when the program runs.

use cranelift_entity::SecondaryMap;
use lacuna_ir::{FuncId, Module, Node, Op, Value};

use crate::module::summed_dims;
use crate::structure::{Likely, likely_zero};
use crate::zero_codes::is_zero;
pub use crate::zero_codes::{BlockZeros, WeightSparsity, density, follows, zero_blocks};

/// A contraction's constant operand and the patterns that it follows along the summed dimension.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sparse {
    /// Number of the operand; 0 when there are no patterns.
    pub operand: usize,
    /// Patterns, in the order in which they were asked for.
    pub patterns: Vec<WeightSparsity>,
}

/// Which of `patterns` the zeros of each contraction's constant operand follow along the summed dimension (input
/// channels of a convolution). Grouped constants count: there, a zero is a zero code under a sound scale.
pub fn sparsity_of(module: &Module, func: FuncId, patterns: &[WeightSparsity]) -> SecondaryMap<Node, Sparse> {
    let func = &module.functions[func];
    let mut found: SecondaryMap<Node, Sparse> = SecondaryMap::new();
    for (id, node) in func.nodes.iter() {
        for (operand, axis) in summed_dims(&node.op) {
            let Some(constant) = func.as_const(node.args[operand]) else { continue };
            let fits = |p: &&WeightSparsity| follows(&module.constants[constant], axis, **p);
            let followed: Vec<WeightSparsity> = patterns.iter().filter(fits).copied().collect();
            if !followed.is_empty() {
                found[id] = Sparse { operand, patterns: followed };
                break;
            }
        }
    }
    found
}

/// An operand that is probably zero in many places when the program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Activity {
    /// Which operand of the contraction: 0 or 1.
    pub operand: u8,
}

/// Which contractions of a function have a computed operand that is probably zero in many places at run time: it comes
/// out of a ReLU or of gating with one. For these a kernel pays off that looks at the operand and skips.
pub fn activity_of(module: &Module, func: FuncId) -> SecondaryMap<Node, Option<Activity>> {
    let func = &module.functions[func];
    let mut known: SecondaryMap<Value, Likely> = SecondaryMap::new();
    let mut found = SecondaryMap::new();
    for (id, node) in func.nodes.iter() {
        let args: Vec<Likely> = node.args.iter().map(|&a| known[a]).collect();
        if node.op.is_product() {
            let operand = args.iter().position(|a| a.likely && !a.constant);
            found[id] = operand.map(|i| Activity { operand: i as u8 });
        }
        let call = matches!(node.op, Op::Call { .. });
        let zero = match node.op {
            Op::Const { value } => is_zero(&module.constants[value]),
            _ => node.op.is_movement() && args.iter().all(|a| a.zero),
        };
        let result = Likely {
            likely: likely_zero(&node.op, &args),
            zero,
            constant: !call && args.iter().all(|a| a.constant),
        };
        node.results.iter().for_each(|&r| known[r] = result);
    }
    found
}
