//! Which nodes share a kernel.
//!
//! An element-wise node whose only user is element-wise too, or reduces or quantises it, is *inlined* into that user's
//! kernel. A product whose only user is element-wise of the same shape becomes that kernel's *hero*: its epilogue then
//! never touches memory. A kernel has one hero and a bounded number of loads. A node with several users is inlined too where
//! all of them are in one kernel.
//!
//! A concatenation takes element-wise operands in as well, each into the kernel that stores its part. One whose only user is
//! element-wise is never stored: that user has a kernel for each part instead, which reads what the part is made of.

use cranelift_entity::{EntityRef, SecondaryMap};
use lacuna_ir::{ConstantData, Function, Module, Node, Op, Value};
use lacuna_isa::format::ScalarType;
use lacuna_isa::program::Lane;

use crate::code::lane;

/// Most loads of one kernel's expression; two streams stay for the hero and the result.
pub const MAX_LEAVES: usize = 6;

/// Most element-wise nodes of one kernel's expression, which is walked by recursion. A load and a store for as many cost
/// nothing.
const MAX_NODES: usize = 256;

/// Whether a product of this type has no format on the DPE, so that the SIMD engine computes it.
pub fn is_wide(elem: ScalarType) -> bool {
    lane(elem) != Lane::F32
}

/// Whether a product can be computed inside its user's kernel.
fn is_hero(op: &Op) -> bool {
    match op {
        Op::Contract { elem, .. } => !is_wide(*elem),
        op => op.is_product(),
    }
}

/// The fusion decisions of a function.
pub struct Fusion {
    /// Whether a node is computed inside its user's kernel.
    pub inlined: SecondaryMap<Node, bool>,
    /// The concatenation inside a node's expression whose parts have a kernel each.
    pub cut: SecondaryMap<Node, Option<Node>>,
}

/// What an expression that ends in a node has.
#[derive(Clone, Copy, Default)]
struct Weight {
    /// Loads.
    leaves: usize,
    /// Element-wise nodes.
    nodes: usize,
    /// Products.
    heroes: usize,
    /// A concatenation.
    cut: Option<Node>,
}

/// Whether two concatenations, if there are two, have their parts at the same places.
fn cut_alike(func: &Function, a: Option<Node>, b: Option<Node>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return true };
    let sizes = |node: Node| -> Option<(u8, Vec<u64>)> {
        let Op::Concat { axis } = func.nodes[node].op else { return None };
        let along = |&arg: &Value| func.ty(arg).shape[usize::from(axis)];
        Some((axis, func.nodes[node].args.iter().map(along).collect()))
    };
    sizes(a) == sizes(b)
}

/// Rows for each matrix that is picked from a table up to which the product picks it: each PE fetches it alone, where tiles of many rows
/// share what another kernel has fetched.
const MOST_PICKED_ROWS: u64 = 128;

impl Fusion {
    /// Decides for every node of `func`, a function of `module`.
    pub fn of(module: &Module, func: &Function) -> Fusion {
        let mut users: SecondaryMap<Value, Vec<Node>> = SecondaryMap::new();
        let mut uses: SecondaryMap<Value, u32> = SecondaryMap::new();
        for (node, data) in &func.nodes {
            for &arg in &data.args {
                users[arg].push(node);
                uses[arg] += 1;
            }
        }
        for &result in &func.results {
            uses[result] += 1;
        }
        let mut fusion = Fusion { inlined: SecondaryMap::new(), cut: SecondaryMap::new() };
        let mut weight: SecondaryMap<Node, Weight> = SecondaryMap::new();
        fusion.picks(func, &uses);
        fusion.chains(module, func, &users, &uses, &mut weight);
        fusion.diamonds(func, &users, &uses, &mut weight);
        fusion
    }

    /// Has products load what they pick from tables, where no other node reads it.
    fn picks(&mut self, func: &Function, uses: &SecondaryMap<Value, u32>) {
        for data in func.nodes.values() {
            let Op::Contract { elem, .. } = data.op else { continue };
            let Some(picked) = func.picked(data).filter(|_| !is_wide(elem)) else { continue };
            let operand = data.args[picked.operand];
            let matrices = func.ty(picked.indices).shape.elements() * picked.columns;
            let rows = func.ty(data.results[0]).shape.elements() / matrices.max(1);
            // Only a product can pick what has groups.
            let alone = rows <= MOST_PICKED_ROWS || func.ty(operand).elem.scalar().is_none();
            if uses[operand] == 1 && alone {
                self.inlined[picked.gather] = true;
            }
        }
    }

    /// Inlines nodes into their only users.
    fn chains(
        &mut self,
        module: &Module,
        func: &Function,
        users: &SecondaryMap<Value, Vec<Node>>,
        uses: &SecondaryMap<Value, u32>,
        weight: &mut SecondaryMap<Node, Weight>,
    ) {
        for (node, data) in &func.nodes {
            if let Op::Concat { .. } = data.op {
                // Each operand has a kernel of its own.
                let mut leaves = 1;
                for &arg in &data.args {
                    let def = func.def(arg).filter(|&d| func.nodes[d].op.is_elementwise() && uses[arg] == 1);
                    if let Some(def) = def.filter(|&d| weight[d].heroes == 0 && weight[d].cut.is_none()) {
                        leaves = leaves.max(weight[def].leaves);
                        self.inlined[def] = true;
                    }
                }
                weight[node] = Weight { leaves, nodes: 0, heroes: 0, cut: Some(node) };
                continue;
            }
            let absorbs =
                data.op.is_elementwise() || matches!(data.op, Op::Reduce { .. } | Op::MxQuantize { .. });
            if !absorbs {
                continue;
            }
            let mut total = Weight { nodes: 1, ..Weight::default() };
            let mut candidates = Vec::new();
            for (n, &arg) in data.args.iter().enumerate() {
                if data.args[..n].contains(&arg) {
                    continue;
                }
                let Some(def) = func.def(arg) else {
                    total.leaves += 1;
                    continue;
                };
                let op = &func.nodes[def].op;
                let once = users[arg].len() == data.args.iter().filter(|&&a| a == arg).count()
                    && users[arg].iter().all(|&u| u == node)
                    && uses[arg] as usize == users[arg].len();
                let product_here = is_hero(op) && data.op.is_elementwise();
                let concat_here = matches!(op, Op::Concat { .. }) && data.op.is_elementwise();
                if once && (op.is_elementwise() || product_here || concat_here) {
                    let product = Weight { heroes: 1, ..Weight::default() };
                    candidates.push((if op.is_product() { product } else { weight[def] }, def));
                } else if !is_scalar_const(module, func, arg) {
                    total.leaves += 1;
                }
            }
            // Products first, then the smallest expressions: what does not fit stays in a kernel of its own.
            candidates.sort_by_key(|&(w, def)| (std::cmp::Reverse(w.heroes), w.leaves, def.index()));
            // A reduction and a quantisation have a whole row at once, and so has a product's tile.
            let allowed = usize::from(data.op.is_elementwise());
            let n_candidates = candidates.len();
            for (i, (w, def)) in candidates.into_iter().enumerate() {
                let rest = n_candidates - i - 1;
                let cut = total.cut.or(w.cut);
                let fits = total.leaves + w.leaves + rest <= MAX_LEAVES
                    && total.nodes + w.nodes <= MAX_NODES
                    && total.heroes + w.heroes + usize::from(cut.is_some()) <= allowed
                    && cut_alike(func, total.cut, w.cut);
                if fits {
                    let (leaves, nodes) = (total.leaves + w.leaves, total.nodes + w.nodes);
                    total = Weight { leaves, nodes, heroes: total.heroes + w.heroes, cut };
                    self.inlined[def] = true;
                } else {
                    total.leaves += 1;
                }
            }
            self.cut[node] = total.cut;
            weight[node] = total;
        }
    }

    /// Inlines nodes whose users are all in one kernel into that, the last ones first.
    fn diamonds(
        &mut self,
        func: &Function,
        users: &SecondaryMap<Value, Vec<Node>>,
        uses: &SecondaryMap<Value, u32>,
        weight: &mut SecondaryMap<Node, Weight>,
    ) {
        let nodes: Vec<Node> = func.nodes.keys().collect();
        for &node in nodes.iter().rev() {
            let data = &func.nodes[node];
            let &[result] = &data.results[..] else { continue };
            let readers = &users[result];
            let fits_in = data.op.is_elementwise() || is_hero(&data.op);
            // A result of the function has a use without a user.
            let all = uses[result] as usize == readers.len();
            // Operands of a product come from memory, even of one that is computed in the same kernel.
            let of_product = readers.iter().any(|&reader| func.nodes[reader].op.is_product());
            if self.inlined[node] || !fits_in || readers.len() < 2 || !all || of_product {
                continue;
            }
            let Some(root) = self.root(func, users, readers[0]) else { continue };
            if readers.iter().any(|&reader| self.root(func, users, reader) != Some(root)) {
                continue;
            }
            let own =
                if is_hero(&data.op) { Weight { heroes: 1, ..Weight::default() } } else { weight[node] };
            // A quantisation has no product, but the kernel of what it quantises may.
            let operand = func.def(func.nodes[root].args[0]);
            let root = match func.nodes[root].op {
                Op::MxQuantize { .. } if own.heroes > 0 => {
                    operand.filter(|&d| self.inlined[d]).unwrap_or(root)
                }
                _ => root,
            };
            let op = &func.nodes[root].op;
            let allowed = usize::from(op.is_elementwise());
            let leaves = (weight[root].leaves + own.leaves).saturating_sub(1);
            let absorbs = op.is_elementwise() || matches!(op, Op::Reduce { .. } | Op::MxQuantize { .. });
            let cut = weight[root].cut.or(own.cut);
            let (nodes, heroes) = (weight[root].nodes + own.nodes, weight[root].heroes + own.heroes);
            if absorbs && cut.is_none() && leaves <= MAX_LEAVES && nodes <= MAX_NODES && heroes <= allowed {
                weight[root] = Weight { leaves, nodes, heroes, cut: None };
                self.inlined[node] = true;
                self.inlined[root] = false;
            }
        }
    }

    /// The node whose kernel computes `node`; `None` where that is a part of a concatenation.
    fn root(&self, func: &Function, users: &SecondaryMap<Value, Vec<Node>>, node: Node) -> Option<Node> {
        let mut root = node;
        while self.inlined[root] {
            root = *users[func.nodes[root].results[0]].first()?;
            if let Op::Concat { .. } = func.nodes[root].op {
                return None;
            }
        }
        Some(root)
    }
}

/// Whether a value is a constant with one element, or one that repeats one: the kernel has it in a register.
fn is_scalar_const(module: &Module, func: &Function, value: Value) -> bool {
    let Some(def) = func.def(value) else { return false };
    match func.nodes[def].op {
        Op::Const { value: constant } => {
            let splat = matches!(module.constants[constant].data, ConstantData::Splat(_));
            splat || func.ty(value).shape.elements() == 1
        }
        Op::Broadcast { .. } | Op::Reshape { .. } => is_scalar_const(module, func, func.nodes[def].args[0]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use lacuna_ir::op::{BinaryOp, ContractMap, ReduceOp, UnaryOp};
    use lacuna_ir::{Constant, FunctionBuilder, TensorType};
    use lacuna_isa::format::ScalarType;

    use super::*;

    /// Builds a function of one parameter `x` of shape [4, 8] and lists which nodes are inlined, in order.
    fn check(build: impl Fn(&mut FunctionBuilder<'_>, Value) -> Vec<Value>, expect: &[(&str, bool)]) {
        let mut module = Module::default();
        let mut b = FunctionBuilder::new(&mut module, "main");
        let x = b.param(TensorType::new(ScalarType::F32, vec![4, 8]), "x");
        let results = build(&mut b, x);
        b.results(&results);
        let func = b.id();
        let fusion = Fusion::of(&module, &module.functions[func]);
        let got: Vec<(&str, bool)> = module.functions[func]
            .nodes
            .iter()
            .filter(|(_, d)| !matches!(d.op, Op::Const { .. }))
            .map(|(n, d)| (d.op.name(), fusion.inlined[n]))
            .collect();
        assert_eq!(got, expect);
    }

    fn product(b: &mut FunctionBuilder<'_>, x: Value) -> Value {
        let w = b.const_f32(vec![8, 8], &[0.5; 64]).expect("a constant");
        let map = ContractMap::parse("mk,kn->mn").expect("a map");
        b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[x, w]).expect("a contraction")
    }

    #[test]
    fn a_chain_is_one_kernel() {
        check(
            |b, x| {
                let y = b.unary(UnaryOp::Exp, x).expect("exp");
                vec![b.binary(BinaryOp::Add, y, x).expect("add")]
            },
            &[("unary", true), ("binary", false)],
        );
    }

    #[test]
    fn a_long_chain_is_stored_now_and_then() {
        let mut expect = [("unary", true); 1000];
        for i in [255, 511, 767, 999] {
            expect[i].1 = false;
        }
        let op = |i: i32| if i % 2 == 0 { UnaryOp::Sin } else { UnaryOp::Tanh };
        check(|b, x| vec![(0..1000).fold(x, |x, i| b.unary(op(i), x).expect("a function"))], &expect);
    }

    #[test]
    fn a_value_with_two_users_is_stored() {
        check(
            |b, x| {
                let y = b.unary(UnaryOp::Exp, x).expect("exp");
                vec![b.unary(UnaryOp::Neg, y).expect("neg"), b.unary(UnaryOp::Abs, y).expect("abs")]
            },
            &[("unary", false), ("unary", false), ("unary", false)],
        );
    }

    #[test]
    fn users_in_one_kernel_share_a_value() {
        let gelu = |b: &mut FunctionBuilder<'_>, y: Value| {
            let z = b.unary(UnaryOp::Erf, y).expect("erf");
            b.binary(BinaryOp::Mul, y, z).expect("mul")
        };
        check(
            |b, x| {
                let y = product(b, x);
                vec![gelu(b, y)]
            },
            &[("contract", true), ("unary", true), ("binary", false)],
        );
        // The product's kernel quantises what it gives.
        check(
            |b, x| {
                let y = product(b, x);
                let y = b.binary(BinaryOp::Add, y, x).expect("add");
                let y = gelu(b, y);
                let format = lacuna_isa::format::GroupFormat::MXFP8;
                let mode = lacuna_isa::format::ScaleMode::Floor;
                vec![b.emit(Op::MxQuantize { format, axis: 1, mode }, &[y]).expect("quantise")]
            },
            &[
                ("contract", true),
                ("binary", true),
                ("unary", true),
                ("binary", false),
                ("mx_quantize", false),
            ],
        );
        // A residual connection round a product, whose operand it is.
        check(
            |b, x| {
                let y = b.binary(BinaryOp::Add, x, x).expect("add");
                let z = product(b, y);
                vec![b.binary(BinaryOp::Add, y, z).expect("add")]
            },
            &[("binary", false), ("contract", true), ("binary", false)],
        );
        // One of two users is in another kernel.
        check(
            |b, x| {
                let y = b.unary(UnaryOp::Exp, x).expect("exp");
                let z = gelu(b, y);
                vec![z, b.unary(UnaryOp::Neg, y).expect("neg")]
            },
            &[("unary", false), ("unary", true), ("binary", false), ("unary", false)],
        );
    }

    #[test]
    fn a_product_takes_its_epilogue() {
        check(
            |b, x| {
                let y = product(b, x);
                vec![b.binary(BinaryOp::Add, y, x).expect("add")]
            },
            &[("contract", true), ("binary", false)],
        );
    }

    #[test]
    fn a_kernel_has_one_product() {
        check(
            |b, x| {
                let (y, z) = (product(b, x), product(b, x));
                vec![b.binary(BinaryOp::Add, y, z).expect("add")]
            },
            &[("contract", true), ("contract", false), ("binary", false)],
        );
    }

    #[test]
    fn a_reduction_computes_its_operand_but_not_a_product() {
        check(
            |b, x| {
                let square = b.binary(BinaryOp::Mul, x, x).expect("mul");
                let y = product(b, x);
                let reduce = Op::Reduce { op: ReduceOp::Sum, axes: vec![1] };
                vec![
                    b.emit(reduce.clone(), &[square]).expect("reduce"),
                    b.emit(reduce, &[y]).expect("reduce"),
                ]
            },
            &[("binary", true), ("contract", false), ("reduce", false), ("reduce", false)],
        );
    }

    #[test]
    fn a_concatenation_is_computed_part_by_part() {
        check(
            |b, x| {
                let y = b.unary(UnaryOp::Exp, x).expect("exp");
                let both = b.emit(Op::Concat { axis: 1 }, &[y, x]).expect("concat");
                vec![b.unary(UnaryOp::Abs, both).expect("abs")]
            },
            &[("unary", true), ("concat", true), ("unary", false)],
        );
        // Of two that are cut at different places one is stored, and one in front of a reduction is.
        check(
            |b, x| {
                let w = b.const_f32(vec![4, 4], &[0.5; 16]).expect("a constant");
                let left = b.emit(Op::Concat { axis: 1 }, &[w, x]).expect("concat");
                let right = b.emit(Op::Concat { axis: 1 }, &[x, w]).expect("concat");
                let sum = b.binary(BinaryOp::Add, left, right).expect("add");
                vec![b.emit(Op::Reduce { op: ReduceOp::Sum, axes: vec![1] }, &[sum]).expect("reduce")]
            },
            &[("concat", true), ("concat", false), ("binary", false), ("reduce", false)],
        );
    }

    /// Bounds that repeat one number take no load, so a clamp of many steps stays one kernel.
    #[test]
    fn splats_are_no_loads() {
        check(
            |b, x| {
                let mut y = product(b, x);
                for _ in 0..MAX_LEAVES + 1 {
                    let ty = TensorType::new(ScalarType::F32, vec![4, 8]);
                    let six = ConstantData::Splat(ScalarType::F32.encode(6.0));
                    let bound = b.constant(Constant::new(ty, six, "")).expect("a constant");
                    y = b.binary(BinaryOp::Min, y, bound).expect("min");
                }
                vec![y]
            },
            &[
                ("contract", true),
                ("binary", true),
                ("binary", true),
                ("binary", true),
                ("binary", true),
                ("binary", true),
                ("binary", true),
                ("binary", false),
            ],
        );
    }

    #[test]
    fn a_result_of_the_function_is_stored() {
        check(
            |b, x| {
                let y = b.unary(UnaryOp::Exp, x).expect("exp");
                vec![y, b.unary(UnaryOp::Neg, y).expect("neg")]
            },
            &[("unary", false), ("unary", false)],
        );
    }
}
