//! What is known to be zero is not computed: terms of a sum with a zero factor, and channels of zeros.
//!
//! A contraction whose summed dimension has dead indices (zeros in either operand) becomes one over the live ones. The
//! other operand is computed for these alone: the restriction moves through element-wise work, movement and bias to the
//! contractions that produce it, whose weights lose rows.

use egg::Id;
use indexmap::IndexMap;
use lacuna_ir::op::ConvAttrs;
use lacuna_ir::{Constant, Op, Shape, TensorType};
use lacuna_isa::format::ScalarType;

use super::{Rule, RuleClass};
use crate::graph::Graph;
use crate::pattern::Match;
use crate::structure::Indices;
use crate::views::parts;

/// Most operators that a restriction moves through.
const DEPTH: usize = 24;
/// Most stretches of live results that are put back among zeros.
const STRETCHES: usize = 4;

/// What leaving out terms with a zero factor may change.
pub const SKIPPED: &str =
    "terms with a zero factor count as zero also where the other factor is infinite or NaN";

/// The rules of this file.
pub const RULES: &[Rule] = &[
    Rule {
        name: "contract-drops-dead-terms",
        class: RuleClass::E0f,
        may_change: SKIPPED,
        before: "(contract ?x ?y)",
        after: "(contract ?x' ?y')",
        guard: None,
        apply: |g, m| {
            let (a, b, dead) = dead_terms(g, m)?;
            let live = dead.not();
            let op = m.op(g, 0)?.clone();
            let x = restricted(g, m.vars[0], a, &live)?;
            let y = restricted(g, m.vars[1], b, &live)?;
            g.add(op, &[x, y])
        },
    },
    Rule {
        name: "conv-drops-dead-channels",
        class: RuleClass::E0f,
        may_change: SKIPPED,
        before: "(conv ?x ?w)",
        after: "(conv ?x' ?w')",
        guard: None,
        apply: |g, m| {
            let live = dead_channels(g, m).filter(|d| !d.is_empty() && !d.is_full())?.not();
            let Op::Conv { attrs, elem } = m.op(g, 0)?.clone() else { return None };
            let x = restricted(g, m.vars[0], attrs.x[1], &live)?;
            let w = restricted(g, m.vars[1], attrs.w[1], &live)?;
            g.add(Op::Conv { attrs, elem }, &[x, w])
        },
    },
    Rule {
        name: "contract-of-live-results",
        class: RuleClass::E0f,
        may_change: SKIPPED,
        before: "(contract ?x ?y)",
        after: "(concat (contract ?x' ?y') 0)",
        guard: None,
        apply: among_zeros,
    },
    Rule {
        name: "conv-of-live-channels",
        class: RuleClass::E0f,
        may_change: SKIPPED,
        before: "(conv ?x ?w)",
        after: "(concat (conv ?x ?w') 0)",
        guard: None,
        apply: among_zeros,
    },
];

/// A summed label's dimension in both operands with the indices at which a factor is zero: some, but not all.
fn dead_terms(g: &Graph, m: &Match) -> Option<(u8, u8, Indices)> {
    summed(g, m).into_iter().find(|(.., dead)| !dead.is_empty() && !dead.is_full())
}

fn summed(g: &Graph, m: &Match) -> Vec<(u8, u8, Indices)> {
    let Some(Op::Contract { map, .. }) = m.op(g, 0) else { return Vec::new() };
    let dims = map.summed().into_iter().filter_map(|label| {
        let a = map.a.iter().position(|&l| l == label)?;
        let b = map.b.iter().position(|&l| l == label)?;
        let extent = g.shape(m.vars[0])[a];
        Some((a as u8, b as u8, dead(g, m.vars[0], a as u8, extent).or(&dead(g, m.vars[1], b as u8, extent))))
    });
    dims.collect()
}

fn dead(g: &Graph, id: Id, d: u8, extent: u64) -> Indices {
    g.facts(id).zeros.dead(d).cloned().unwrap_or_else(|| Indices::none(extent))
}

/// Input channels of an ungrouped convolution that contribute nothing.
fn dead_channels(g: &Graph, m: &Match) -> Option<Indices> {
    let Op::Conv { attrs, .. } = m.op(g, 0)? else { return None };
    let extent = g.shape(m.vars[0])[attrs.x[1] as usize];
    (attrs.groups == 1)
        .then(|| dead(g, m.vars[0], attrs.x[1], extent).or(&dead(g, m.vars[1], attrs.w[1], extent)))
}

/// A dimension of the result with indices at which it is zero, some but not all, in few stretches.
fn dead_results(g: &Graph, m: &Match) -> Option<(u8, Indices)> {
    let rank = g.shape(m.root).rank() as u8;
    (0..rank)
        .filter_map(|d| Some((d, g.facts(m.root).zeros.dead(d)?.not())))
        .find(|(_, live)| !live.is_empty() && live.runs().len() <= STRETCHES)
}

/// The live part of a product, with zeros around it.
fn among_zeros(g: &mut Graph, m: &Match) -> Option<Id> {
    let (d, live) = dead_results(g, m)?;
    let op = m.op(g, 0)?.clone();
    let mut memo = Memo::new();
    let part = Restriction { memo: &mut memo, depth: DEPTH }.through(g, &op, &m.vars, m.root, d, &live)?;
    let ty = g.ty(m.root).clone();
    let sized = |n: u64| -> Shape {
        ty.shape.iter().enumerate().map(|(e, &size)| if e == d as usize { n } else { size }).collect()
    };
    let (mut pieces, mut next, mut taken) = (Vec::new(), 0, 0);
    for (start, len) in live.runs() {
        if start > next {
            pieces.push(g.splat_const(&TensorType { elem: ty.elem, shape: sized(start - next) }, 0.0)?);
        }
        let mut starts = vec![0; ty.shape.rank()];
        starts[d as usize] = i64::try_from(taken).ok()?;
        pieces.push(g.slice(part, starts, sized(len), vec![1; ty.shape.rank()])?);
        (next, taken) = (start + len, taken + len);
    }
    if next < live.extent() {
        pieces.push(g.splat_const(&TensorType { elem: ty.elem, shape: sized(live.extent() - next) }, 0.0)?);
    }
    g.add(Op::Concat { axis: d }, &pieces)
}

type Memo = IndexMap<(Id, u8, Indices), Option<Id>>;

/// `id` at the live indices of dimension `d` alone, if that takes no work but less.
fn restricted(g: &mut Graph, id: Id, d: u8, live: &Indices) -> Option<Id> {
    Restriction { memo: &mut Memo::new(), depth: DEPTH }.of(g, id, d, live)
}

struct Restriction<'m> {
    memo: &'m mut Memo,
    depth: usize,
}

impl Restriction<'_> {
    fn of(&mut self, g: &mut Graph, id: Id, d: u8, live: &Indices) -> Option<Id> {
        let id = g.eg.find(id);
        g.elem(id)?;
        if live.is_full() {
            return Some(id);
        }
        let key = (id, d, live.clone());
        if let Some(known) = self.memo.get(&key) {
            return *known;
        }
        // A class that needs itself restricted leads nowhere.
        self.memo.insert(key.clone(), None);
        let found = self.compute(g, id, d, live);
        self.memo.insert(key, found);
        found
    }

    fn compute(&mut self, g: &mut Graph, id: Id, d: u8, live: &Indices) -> Option<Id> {
        let shape = with_size(g.shape(id), d, live.len());
        if let Some(value) = g.splat(id).filter(|_| g.is_const(id)) {
            let ty = TensorType { elem: g.ty(id).elem, shape };
            return g.splat_const(&ty, value);
        }
        let runs = live.runs();
        let slice = |g: &mut Graph| {
            let mut starts = vec![0; shape.rank()];
            starts[d as usize] = i64::try_from(runs.first()?.0).ok()?;
            g.slice(id, starts, shape.clone(), vec![1; shape.rank()])
        };
        if g.is_const(id) {
            return if runs.len() == 1 { slice(g) } else { gathered(g, id, d, live) };
        }
        if self.depth > 0 {
            self.depth -= 1;
            let terms: Vec<(Op, Vec<Id>)> =
                g.terms(id).map(|(op, args)| (op.clone(), args.to_vec())).collect();
            let found = terms.iter().find_map(|(op, args)| self.through(g, op, args, id, d, live));
            self.depth += 1;
            if found.is_some() {
                return found;
            }
        }
        // One stretch of a computed value is a view of it.
        if runs.len() == 1 { slice(g) } else { None }
    }

    /// `op` on `args`, which computes `id`, at live indices alone.
    fn through(&mut self, g: &mut Graph, op: &Op, args: &[Id], id: Id, d: u8, live: &Indices) -> Option<Id> {
        let place = |dims: &[u8], l: u8| dims.iter().position(|&e| e == l).map(|i| i as u8);
        let mut new = args.to_vec();
        let mut op = op.clone();
        if op.is_elementwise() {
            for x in &mut new {
                *x = self.of(g, *x, d, live)?;
            }
        } else if let Op::Permute { perm } = &op {
            new[0] = self.of(g, args[0], perm[d as usize], live)?;
        } else if let Op::Broadcast { dims, shape } = &mut op {
            if let Some(i) = place(dims, d).filter(|&i| g.shape(args[0])[i as usize] == shape[d as usize]) {
                new[0] = self.of(g, args[0], i, live)?;
            }
            *shape = with_size(shape, d, live.len());
        } else if let Op::Reshape { shape } = &mut op {
            let parts = parts(g.shape(args[0]), shape)?;
            let &[inner] = &parts[d as usize][..] else { return None };
            new[0] = self.of(g, args[0], inner, live)?;
            *shape = with_size(shape, d, live.len());
        } else if let Op::Slice { starts, shape, steps } = &mut op {
            let whole = starts[d as usize] == 0 && steps[d as usize] == 1;
            if !whole || g.shape(args[0])[d as usize] != shape[d as usize] {
                return None;
            }
            new[0] = self.of(g, args[0], d, live)?;
            *shape = with_size(shape, d, live.len());
        } else if let Op::Concat { axis } = op {
            return self.through_concat(g, args, axis, d, live);
        } else if let Op::Pad { low, high } = &mut op {
            let first = low[d as usize];
            let n = g.shape(args[0])[d as usize];
            if live.runs().iter().any(|&(start, len)| start < first || start + len > first + n) {
                return None;
            }
            new[0] = self.of(g, args[0], d, &Indices::of(n, |i| live.contains(first + i)))?;
            (low[d as usize], high[d as usize]) = (0, 0);
            if low.iter().chain(&*high).all(|&n| n == 0) {
                return Some(new[0]);
            }
        } else if let Op::Contract { map, .. } = &op {
            let label = map.out[d as usize];
            for (labels, x) in [&map.a, &map.b].into_iter().zip(&mut new) {
                if let Some(e) = place(labels, label) {
                    *x = self.of(g, *x, e, live)?;
                }
            }
        } else if let Op::Conv { attrs, .. } = &mut op {
            let (x, w) = conv_dims(g, attrs, args, d, live)?;
            if let Some(e) = x {
                new[0] = self.of(g, args[0], e, live)?;
            }
            if let Some(e) = w {
                new[1] = self.of(g, args[1], e, live)?;
            }
        } else if let Op::Reduce { axes, .. } = &op {
            let inner = (0..=u8::MAX).filter(|e| !axes.contains(e)).nth(d as usize)?;
            new[0] = self.of(g, args[0], inner, live)?;
        } else if let Op::Window { axes, .. } = &op {
            if axes.contains(&d) || usize::from(d) >= g.shape(args[0]).rank() {
                return None;
            }
            new[0] = self.of(g, args[0], d, live)?;
        } else {
            return None;
        }
        // Something of this size must come out, else the operator was not what it seemed.
        let result = g.add(op, &new)?;
        (*g.shape(result) == with_size(g.shape(id), d, live.len())).then_some(result)
    }

    fn through_concat(&mut self, g: &mut Graph, args: &[Id], axis: u8, d: u8, live: &Indices) -> Option<Id> {
        let (mut kept, mut offset) = (Vec::new(), 0);
        for &x in args {
            if axis != d {
                kept.push(self.of(g, x, d, live)?);
                continue;
            }
            let n = g.shape(x)[d as usize];
            let own = Indices::of(n, |i| live.contains(offset + i));
            offset += n;
            if !own.is_empty() {
                kept.push(self.of(g, x, d, &own)?);
            }
        }
        if let &[only] = &kept[..] { Some(only) } else { g.add(Op::Concat { axis }, &kept) }
    }
}

/// Dimensions of the operands of a convolution that go with dimension `d` of its result.
fn conv_dims(
    g: &Graph,
    attrs: &mut ConvAttrs,
    args: &[Id],
    d: u8,
    live: &Indices,
) -> Option<(Option<u8>, Option<u8>)> {
    if d == attrs.out[0] {
        return Some((Some(attrs.x[0]), None));
    }
    if d != attrs.out[1] {
        return None;
    }
    if attrs.groups == 1 {
        return Some((None, Some(attrs.w[0])));
    }
    // Each channel on its own.
    let channels = g.shape(args[0])[attrs.x[1] as usize];
    if attrs.groups != channels || attrs.groups != live.extent() {
        return None;
    }
    attrs.groups = live.len();
    Some((Some(attrs.x[1]), Some(attrs.w[0])))
}

fn with_size(shape: &Shape, d: u8, n: u64) -> Shape {
    shape.iter().enumerate().map(|(e, &size)| if e == d as usize { n } else { size }).collect()
}

/// A constant at live indices.
fn gathered(g: &mut Graph, id: Id, d: u8, live: &Indices) -> Option<Id> {
    let bytes =
        (0..live.extent()).filter(|&i| live.contains(i)).flat_map(|i| (i as i64).to_le_bytes()).collect();
    let ty = TensorType::new(ScalarType::I64, vec![live.len()]);
    let indices = g.shared_const(Constant::dense(ty, bytes, ""))?;
    g.add(Op::Gather { axis: d, batch: 0 }, &[id, indices])
}
