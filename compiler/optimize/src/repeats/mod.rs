//! Repeated blocks: equal layers are solved once.
//!
//! A block is a stretch of a function's computed nodes that occurs several times in a row, equal in operators, types,
//! wiring and in every fact that rules know of constants; only which constants there are, and which values come in, may
//! differ. [`find`] looks for such stretches. One instance becomes a function of its own that the e-graph rewrites;
//! the other instances take over the result with their own constants. What is left of the function calls the
//! instances, is rewritten around the calls, and the calls are replaced at the end.
//!
//! Blocks are cut where few values cross, best at the residual stream, since no rewrite crosses a cut.

mod find;
mod write;

use cranelift_entity::SecondaryMap;
use lacuna_ir::{ConstId, FuncId, Function, Module, Node, Op, OriginId, Value};

use crate::facts::Hint;

pub use find::find;
pub use write::{inline, outline};

/// Occurrences of one block.
pub struct Group {
    /// All occurrences, in order; at least two.
    pub instances: Vec<Instance>,
    /// Which one is solved for all.
    pub template: usize,
}

/// One occurrence of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// Its nodes, in order.
    pub nodes: Vec<Node>,
    /// Values that come in, in the order of their first use.
    pub inputs: Vec<Value>,
    /// Constants, in the order of their first use, with the nodes that name them.
    pub constants: Vec<(ConstId, Node)>,
    /// Values that are used outside, in order.
    pub outputs: Vec<Value>,
}

impl Group {
    /// The instance that is solved.
    pub fn solved(&self) -> &Instance {
        &self.instances[self.template]
    }

    /// The block as a function: the incoming values are parameters, in order, the outgoing ones results.
    pub fn function(&self, source: &Function) -> Function {
        write::function(source, self.solved())
    }

    /// What is known of the incoming values apart from their types, for decisions about cost.
    pub fn hints(&self, source: &Function) -> Vec<Hint> {
        self.solved().inputs.iter().map(|&v| hint(source, v, 8)).collect()
    }
}

/// What is known of a computed value from the few nodes before it.
fn hint(func: &Function, value: Value, depth: usize) -> Hint {
    let Some(node) = func.def(value).filter(|_| depth > 0) else { return Hint::default() };
    let data = &func.nodes[node];
    let (product, elementwise) = (data.op.is_product(), data.op.is_elementwise());
    let under = || data.args.iter().any(|&a| hint(func, a, depth - 1).epilogue);
    Hint { open: product || elementwise, epilogue: product || (elementwise && under()) }
}

/// Origins of one instance for those of another.
pub struct Origins(Vec<(OriginId, OriginId)>);

impl Origins {
    /// The map from the solved instance of a group to another one.
    pub fn new(source: &Function, from: &Instance, to: &Instance) -> Origins {
        let nodes = |i: &Instance| -> Vec<Node> {
            i.nodes.iter().copied().chain(i.constants.iter().map(|c| c.1)).collect()
        };
        let mut pairs: Vec<(OriginId, OriginId)> = Vec::new();
        for (a, b) in nodes(from).into_iter().zip(nodes(to)) {
            pairs
                .extend(source.nodes[a].origins.iter().copied().zip(source.nodes[b].origins.iter().copied()));
        }
        pairs.sort_by_key(|p| p.0);
        pairs.dedup_by_key(|p| p.0);
        Origins(pairs)
    }

    /// Origins mapped, ascending.
    pub fn map(&self, origins: &[OriginId]) -> Vec<OriginId> {
        let mut mapped: Vec<OriginId> = origins
            .iter()
            .map(|o| self.0.binary_search_by_key(o, |p| p.0).map_or(*o, |i| self.0[i].1))
            .collect();
        mapped.sort_unstable();
        mapped.dedup();
        mapped
    }
}

/// An instance behind the call that stands for it.
pub struct Called<'a> {
    /// What the call names.
    pub func: FuncId,
    /// The instance.
    pub instance: &'a Instance,
    /// The instance that was solved.
    pub solved: &'a Instance,
    /// Its result.
    pub body: &'a Function,
    /// Number of the group.
    pub group: usize,
}

/// Takes the functions that stand for instances out of the module again.
pub fn forget(module: &mut Module, n_functions: usize) {
    let functions = std::mem::take(&mut module.functions);
    module.functions = functions.into_iter().take(n_functions).map(|(_, f)| f).collect();
}

/// The constants that a value which depends on no parameter is made of, in a fixed order, with the nodes that name
/// them.
fn leaves(func: &Function, value: Value, found: &mut Vec<(ConstId, Node)>) {
    let Some(node) = func.def(value) else { return };
    if let Op::Const { value } = func.nodes[node].op {
        found.push((value, node));
    }
    func.nodes[node].args.iter().for_each(|&a| leaves(func, a, found));
}

/// Where the nodes of instances are: the group and the instance of each.
fn places(groups: &[Group]) -> SecondaryMap<Node, Option<(u32, u32)>> {
    let mut places = SecondaryMap::new();
    for (g, group) in groups.iter().enumerate() {
        for (i, instance) in group.instances.iter().enumerate() {
            instance.nodes.iter().for_each(|&n| places[n] = Some((g as u32, i as u32)));
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use lacuna_ir::op::{BinaryOp, UnaryOp};

    use super::*;
    use crate::testing::{Lab, module};

    /// Layers of a product, a bias, a mask and a residual; `mask` makes each layer's mask.
    fn layers(l: &mut Lab, n: usize, mask: fn(&mut Lab, usize) -> Value) -> Vec<Value> {
        let mut x = l.param(&[4, 32]);
        for i in 0..n {
            let w = l.konst(&[32, 32]);
            let y = l.contract("ij,jk->ik", x, w);
            let b = l.channel(&[4, 32], 1);
            let mut y = l.bin(BinaryOp::Add, y, b);
            for op in [UnaryOp::Exp, UnaryOp::Abs, UnaryOp::Sqrt, UnaryOp::Tanh] {
                y = l.un(op, y);
            }
            let m = mask(l, i);
            let y = l.bin(BinaryOp::Add, y, m);
            x = l.bin(BinaryOp::Add, x, y);
        }
        vec![x]
    }

    fn found(n: usize, mask: fn(&mut Lab, usize) -> Value) -> Vec<usize> {
        let (m, _) = module(1, false, |l| layers(l, n, mask));
        let groups = find(&m, &m.functions[m.entries[0].func]);
        groups.iter().map(|g| g.instances.len()).collect()
    }

    fn rejecting(l: &mut Lab, place: usize) -> Value {
        let values: Vec<f32> = (0..128).map(|i| if i % 32 == place { -1e9 } else { 0.0 }).collect();
        l.b.const_f32(vec![4, 32], &values).unwrap()
    }

    #[test]
    fn layers_that_differ_in_weights_are_equal() {
        assert_eq!(found(6, |l, _| l.konst(&[4, 32])), [6]);
        assert_eq!(found(1, |l, _| l.konst(&[4, 32])), []);
    }

    #[test]
    fn layers_that_rules_could_tell_apart_are_not() {
        let none: [usize; 0] = [];
        assert_eq!(found(6, |l, _| rejecting(l, 3)), [6], "equal masks");
        assert_eq!(found(6, |l, i| rejecting(l, 1 + i)), none, "masks of other keys");
        assert_eq!(found(6, |l, i| l.splat(&[4, 32], i as f32)), none, "other numbers");
        assert_eq!(found(6, |l, i| l.with_dead(&[4, 32], 1, &[i as u64])), none, "zeros in other places");
    }

    #[test]
    fn one_value_crosses_a_cut() {
        let (m, _) = module(1, false, |l| layers(l, 5, |l, _| l.konst(&[4, 32])));
        let func = &m.functions[m.entries[0].func];
        for group in find(&m, func) {
            for instance in &group.instances {
                assert_eq!((instance.inputs.len(), instance.outputs.len()), (1, 1));
            }
            assert!(group.hints(func)[0].open, "the residual sum can take more element-wise work");
        }
    }
}
