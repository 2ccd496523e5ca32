//! Softmax and attention are recognised from their parts.
//!
//! Exporters spell attention in many ways: the scale after the product of queries and keys or its square root on both
//! sides, a soft cap, masks that are added or selected, a guard against NaN, keys and values repeated for grouped queries,
//! and any order of dimensions. [`crate::parts`] follows the operators from the second product back to the first and keeps
//! track of what each dimension is made of; what it finds is brought to the operator's own form.

use egg::{Id, Language};
use lacuna_ir::Op;
use lacuna_ir::expand::Attention;
use lacuna_ir::op::{ReduceOp, UnaryOp};
use lacuna_isa::format::ScalarType;

use super::{Rule, RuleClass, wide};
use crate::graph::{Graph, Source};
use crate::masks::band;
use crate::parts::{self, weights};
use crate::pattern::Match;
use crate::views::{View, views};

/// What recognising a softmax may change.
const EXPONENTIALS: &str = "sums in another order, of exponentials behind the greatest element of a row: exponentials that overflow are \
                            finite";

/// The rules of this file.
pub const RULES: &[Rule] = &[
    Rule {
        name: "softmax-by-quotient",
        class: RuleClass::E1,
        may_change: EXPONENTIALS,
        before: "(div (exp ?x) ?s)",
        after: "(softmax ?x)",
        guard: Some(wide),
        apply: |g, m| softmax(g, m, 1, m.vars[1], &[]),
    },
    Rule {
        name: "softmax-by-product",
        class: RuleClass::E1,
        may_change: EXPONENTIALS,
        before: "(mul (exp ?x) ?r)",
        after: "(softmax ?x)",
        guard: Some(wide),
        apply: |g, m| softmax(g, m, 1, m.vars[1], &[UnaryOp::Recip]),
    },
    Rule {
        name: "softmax-shift",
        class: RuleClass::E1,
        may_change: "the greatest element of a row is subtracted once, not twice: differences round once",
        before: "(softmax (sub ?x ?m))",
        after: "(softmax ?x)",
        guard: Some(|g, m| {
            let Some(Op::Softmax { axis, .. }) = m.op(g, 0) else { return false };
            // Another number may be infinite, or so large that differences vanish in it.
            views(g, m.vars[1]).iter().any(|v| reduced(g, v, m.vars[0], ReduceOp::Max) == Some(*axis))
        }),
        apply: |g, m| {
            let op = m.op(g, 0)?.clone();
            g.add(op, &m.vars[..1])
        },
    },
    Rule {
        name: "attention",
        class: RuleClass::E1,
        may_change: "sums in another order, and scores scaled by one rounded factor; scores that overflow before they are scaled are finite, and a guard against NaN replaces empty rows only",
        before: "(contract ?p ?v)",
        after: "(attention ?q ?k ?v)",
        guard: Some(|g, m| g.elem(m.root) == Some(ScalarType::F32) && weights(g, m.vars[0]).is_some()),
        apply: |g, m| {
            let Some(Op::Contract { map, .. }) = m.op(g, 0).cloned() else { return None };
            let found = parts::find(g, &map, m.vars[0], m.vars[1])?;
            let source = between(g, m.vars[0], &found.ends());
            g.source.join(&source);
            found.build(g, m.root)
        },
    },
    Rule {
        name: "attention-of-band",
        class: RuleClass::E1,
        may_change: "keys that a mask of -10,000 or less is added to have no weight, however large their score is",
        before: "(attention ?q ?k ?v $m)",
        after: "(attention ?q ?k ?v) causal",
        guard: Some(|g, m| m.op(g, 0).and_then(Attention::of).is_some_and(|a| !a.causal && a.window == 0)),
        apply: |g, m| {
            let mut a = m.op(g, 0).and_then(Attention::of)?;
            let (mask, length, keys) = (g.eg.find(m.vars[3]), g.shape(m.vars[0])[2], g.shape(m.vars[1])[2]);
            let known = g.bands.get(&mask).copied();
            let found = known.unwrap_or_else(|| band(g, mask));
            g.bands.insert(mask, found);
            let band = found?;
            if let Some(shift) = band.causal {
                // A mask that repeats says nothing about positions.
                (g.shape(mask)[2..] == [length, keys]).then_some(())?;
                (a.causal, a.shift, a.window) = (true, shift, band.window);
            }
            // Finite masks leave a row that has no other key its softmax.
            (band.rejects || a.every_row_lives(length, keys)).then_some(())?;
            g.add(a.op(), &m.vars[..3])
        },
    },
];

/// The scores of the softmax that a guard against NaN is about, if it has the shape of these.
pub(super) fn weights_of_guard(g: &Graph, m: &Match) -> Option<Id> {
    let whole = weights(g, m.vars[0])?;
    (whole.dims.len() == g.shape(m.root).rank()).then_some(whole.scores)
}

/// Whether scores are finite where their operands are: nothing masks them.
pub(super) fn never_empty(g: &Graph, scores: Id) -> bool {
    parts::product(g, scores).is_some_and(|p| p.masks.is_empty())
}

/// The one axis along which a view's core is `x` reduced by `by`, if the view puts each kept dimension back into its
/// place.
fn reduced(g: &Graph, view: &View, x: Id, by: ReduceOp) -> Option<u8> {
    let shape = g.shape(x);
    g.terms(view.core).find_map(|(op, args)| {
        let Op::Reduce { op, axes } = op else { return None };
        let &[axis] = &axes[..] else { return None };
        let kept = (0..shape.rank() as u8).filter(|&d| d != axis);
        let placed = kept.zip(&view.map).all(|(d, to)| shape[usize::from(d)] == 1 || *to == Some(d));
        (*op == by && g.eg.find(args[0]) == g.eg.find(x) && placed).then_some(axis)
    })
}

/// `exp(x)` divided by its own sum along one axis, which `total` has behind `inverse`.
fn softmax(g: &mut Graph, m: &Match, exp: usize, total: Id, inverse: &[UnaryOp]) -> Option<Id> {
    let x = *m.args(exp).first()?;
    let whole = *m.args(0).first()?;
    let mut sums = views(g, total);
    for &f in inverse {
        let inner = sums.iter().flat_map(|v| {
            let found = g.terms(v.core).filter(|(op, _)| **op == Op::Unary { op: f });
            found.flat_map(|(_, args)| views(g, args[0])).map(|inner| {
                let map = inner.map.iter().map(|d| d.and_then(|d| v.map[usize::from(d)])).collect();
                View { core: inner.core, map }
            })
        });
        sums = inner.collect();
    }
    let axis = sums.iter().find_map(|view| reduced(g, view, whole, ReduceOp::Sum))?;
    g.add(Op::Softmax { axis, log: false }, &[x])
}

/// Where the terms that lead from `ends` to `from` come from: attention does what all of them do.
fn between(g: &Graph, from: Id, ends: &[Id]) -> Source {
    let mut seen: Vec<Id> = ends.iter().map(|&e| g.eg.find(e)).collect();
    let mut todo = vec![g.eg.find(from)];
    let mut source = Source::default();
    while let Some(class) = todo.pop() {
        if seen.contains(&class) {
            continue;
        }
        seen.push(class);
        // The first term of a class is the least: one of the input, if there is any.
        for term in g.eg[class].nodes.iter().take(1) {
            if let Some(s) = g.sources.get(term) {
                source.join(s);
            }
            todo.extend(term.children().iter().map(|&c| g.eg.find(c)).filter(|&c| !g.is_const(c)));
        }
    }
    source
}
