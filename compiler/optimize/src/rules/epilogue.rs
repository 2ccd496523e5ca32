//! Element-wise work stays in the kernel of a contraction: scales of computed operands move behind it, and so do
//! reshapes of its result.

use egg::Id;
use lacuna_ir::op::{BinaryOp, Dims};
use lacuna_ir::{Op, Shape};

use super::folding::SCALE;
use super::{Rule, RuleClass, factor, takes_factor, wide};
use crate::graph::Graph;
use crate::pattern::Match;
use crate::views::{compact, parts, views};

/// The rules of this file.
pub const RULES: &[Rule] = &[
    Rule {
        name: "scale-after-contract-left",
        class: RuleClass::E1,
        may_change: SCALE,
        before: "(contract (scaled ?x $c) ?y)",
        after: "(mul (contract ?x ?y) $c)",
        // A constant operand takes over the scale itself.
        guard: Some(|g, m| moves(g, m, m.vars[1]) && !g.is_const(m.vars[2])),
        apply: |g, m| scale_after(g, m, m.vars[1], [m.vars[0], m.vars[2]]),
    },
    Rule {
        name: "scale-after-contract-right",
        class: RuleClass::E1,
        may_change: SCALE,
        before: "(contract ?x (scaled ?y $c))",
        after: "(mul (contract ?x ?y) $c)",
        guard: Some(|g, m| moves(g, m, m.vars[2]) && !g.is_const(m.vars[0])),
        apply: |g, m| scale_after(g, m, m.vars[2], [m.vars[0], m.vars[1]]),
    },
    Rule {
        name: "unary-before-reshape",
        class: RuleClass::E0,
        may_change: "",
        before: "(unary (reshape ?x))",
        after: "(reshape (unary ?x))",
        guard: Some(|g, m| g.facts(m.vars[0]).epilogue),
        apply: |g, m| {
            let op = m.op(g, 0)?.clone();
            let to = g.shape(m.root).clone();
            let y = g.add(op, &[m.vars[0]])?;
            g.reshape(y, to)
        },
    },
    Rule {
        name: "binary-before-reshape",
        class: RuleClass::E0,
        may_change: "",
        before: "(binary (reshape ?x) ?y)",
        after: "(reshape (binary ?x ?y'))",
        guard: Some(|g, m| g.facts(m.vars[0]).epilogue),
        apply: |g, m| {
            let Op::Binary { op } = *m.op(g, 0)? else { return None };
            let (x, to) = (m.vars[0], g.shape(m.root).clone());
            let y = reshaped(g, m.vars[1], x)?;
            let z = g.binary(op, x, y)?;
            g.reshape(z, to)
        },
    },
    Rule {
        name: "softmax-before-reshape",
        class: RuleClass::E0,
        may_change: "",
        before: "(softmax (reshape ?x))",
        after: "(reshape (softmax ?x))",
        guard: Some(|g, m| g.facts(m.vars[0]).epilogue),
        apply: |g, m| {
            let Op::Softmax { axis, log } = *m.op(g, 0)? else { return None };
            let to = g.shape(m.root).clone();
            let &[axis] = &parts(g.shape(m.vars[0]), &to)?[axis as usize][..] else { return None };
            let y = g.add(Op::Softmax { axis, log }, &[m.vars[0]])?;
            g.reshape(y, to)
        },
    },
];

/// Whether the factor of an operand is one finite number that the result can have instead.
fn moves(g: &Graph, m: &Match, c: Id) -> bool {
    wide(g, m) && g.splat(c).is_some() && takes_factor(g, m, 1, c).is_some()
}

fn scale_after(g: &mut Graph, m: &Match, c: Id, args: [Id; 2]) -> Option<Id> {
    let op = m.op(g, 0)?.clone();
    let factor = factor(g, m, 1, c)?;
    let scale = g.splat(factor)?;
    let product = g.add(op, &args)?;
    let ty = g.ty(product).clone();
    let scale = g.splat_const(&ty, scale)?;
    g.binary(BinaryOp::Mul, product, scale)
}

/// `y` in the shape of `x`, which has the elements of `y`'s shape in order: a reshape where `y` is computed in its own shape, else a
/// repetition of what `y` repeats; `None` if the reshape merges or splits a dimension along which that varies.
fn reshaped(g: &mut Graph, y: Id, x: Id) -> Option<Id> {
    let shape = g.shape(x).clone();
    if !g.is_const(y) && views(g, y).len() == 1 {
        return in_shape(g, y, shape);
    }
    let parts = parts(&shape, g.shape(y))?;
    let (core, dims) = compact(g, y)?;
    let places = dims
        .iter()
        .map(|&d| match parts[d as usize][..] {
            [place] => Some(place),
            [] | [_, _, ..] => None,
        })
        .collect::<Option<Dims>>()?;
    g.broadcast(core, &places, &shape)
}

/// The reshape of `x` to a shape: what `x` is a reshape of, if that has the shape.
fn in_shape(g: &mut Graph, x: Id, shape: Shape) -> Option<Id> {
    let known = g.terms(x).find(|(op, args)| matches!(op, Op::Reshape { .. }) && *g.shape(args[0]) == shape);
    match known.map(|(_, args)| args[0]) {
        Some(known) => Some(known),
        None => g.reshape(x, shape),
    }
}
