//! Normalisations are recognised from their parts, in the spellings that exporters use: a root mean square by
//! `pow` or a product, `recip` of `sqrt` or a quotient; then a subtracted mean, a scale and a bias join it.

use egg::{Id, Language};
use lacuna_ir::Op;
use lacuna_ir::op::{BinaryOp, Dims, Real, ReduceOp, UnaryOp};

use super::{Rule, RuleClass, wide};
use crate::graph::{Graph, Source};
use crate::module::is_binary;
use crate::pattern::Match;
use crate::views::{View, along, views};

/// What recognising a norm may change.
const SQUARES: &str =
    "sums of squares in another order, and one rounding at the end; squares that overflow may be finite";

/// What scaling and shifting within a norm may change.
const SCALED: &str = "one rounding for a norm with its scale and bias, not one for each";

/// The rules of this file.
pub const RULES: &[Rule] = &[
    Rule {
        name: "rms-norm-by-product",
        class: RuleClass::E1,
        may_change: SQUARES,
        before: "(mul ?x ?r)",
        after: "(norm ?x)",
        guard: Some(wide),
        apply: |g, m| {
            let &[x, r] = &m.vars[..] else { return None };
            norm(g, x, r, inverse_root).or_else(|| norm(g, r, x, inverse_root))
        },
    },
    Rule {
        name: "rms-norm-by-quotient",
        class: RuleClass::E1,
        may_change: SQUARES,
        before: "(div ?x ?r)",
        after: "(norm ?x)",
        guard: Some(wide),
        apply: |g, m| norm(g, m.vars[0], m.vars[1], root),
    },
    Rule {
        name: "layer-norm",
        class: RuleClass::E1,
        may_change: "sums in another order, and one rounding at the end",
        before: "(norm (sub ?x ?m))",
        after: "(norm ?x) centred",
        guard: None,
        apply: centred,
    },
    Rule {
        name: "norm-scale",
        class: RuleClass::E1,
        may_change: SCALED,
        before: "(mul (norm ?x) ?s)",
        after: "(norm ?x ?s)",
        guard: None,
        apply: |g, m| scaled(g, m, 1, m.vars[1]),
    },
    Rule {
        name: "norm-scale-first",
        class: RuleClass::E1,
        may_change: SCALED,
        before: "(mul ?s (norm ?x))",
        after: "(norm ?x ?s)",
        guard: None,
        apply: |g, m| scaled(g, m, 1, m.vars[0]),
    },
    Rule {
        name: "norm-bias",
        class: RuleClass::E1,
        may_change: SCALED,
        before: "(add (norm ?x ?s) ?b)",
        after: "(norm ?x ?s ?b)",
        guard: None,
        apply: |g, m| scaled(g, m, 1, m.vars[2]),
    },
];

/// All views of the operands of terms of a view's core that `pick` accepts; maps compose.
fn follow(
    g: &Graph,
    from: &[View],
    pick: impl Fn(&Graph, &Op, &[Id]) -> Option<(Id, f64)>,
) -> Vec<(View, f64)> {
    let mut found = Vec::new();
    for view in from {
        for (op, args) in g.terms(view.core) {
            let Some((arg, value)) = pick(g, op, args) else { continue };
            for inner in views(g, arg) {
                let map = inner.map.iter().map(|d| d.and_then(|d| view.map[d as usize])).collect();
                found.push((View { core: inner.core, map }, value));
            }
        }
    }
    found
}

fn steps(g: &Graph, from: &[View], pick: impl Fn(&Graph, &Op, &[Id]) -> Option<(Id, f64)>) -> Vec<View> {
    follow(g, from, pick).into_iter().map(|(view, _)| view).collect()
}

fn root_of(_: &Graph, op: &Op, args: &[Id]) -> Option<(Id, f64)> {
    is_unary(op, UnaryOp::Sqrt).then(|| (args[0], 0.0))
}

fn is_unary(op: &Op, function: UnaryOp) -> bool {
    *op == Op::Unary { op: function }
}

/// Views under `sqrt`.
fn root(g: &Graph, r: Id) -> Vec<View> {
    steps(g, &views(g, r), root_of)
}

/// Views under `1 / sqrt`, spelled `recip`, a quotient or a power.
fn inverse_root(g: &Graph, r: Id) -> Vec<View> {
    let start = views(g, r);
    let inverses = steps(g, &start, |g, op, args| {
        let recip = is_unary(op, UnaryOp::Recip).then(|| args[0]);
        let quotient = || is_binary(op, BinaryOp::Div) && g.splat(args[0]) == Some(1.0);
        Some((recip.or_else(|| quotient().then(|| args[1]))?, 0.0))
    });
    let mut found = steps(g, &inverses, root_of);
    found.extend(steps(g, &start, |g, op, args| {
        let power = is_binary(op, BinaryOp::Pow) && g.splat(args[1]) == Some(-0.5);
        power.then(|| (args[0], 0.0))
    }));
    found
}

/// `x` divided by the root that `under` finds below `r`, if that is the root of its mean square.
fn norm(g: &mut Graph, x: Id, r: Id, under: fn(&Graph, Id) -> Vec<View>) -> Option<Id> {
    let x = g.eg.find(x);
    let variances = under(g, r);
    let means = follow(g, &variances, |g, op, args| {
        let splat = |i: usize| Some((args[1 - i], g.splat(args[i])?));
        if is_binary(op, BinaryOp::Add) { splat(1).or_else(|| splat(0)) } else { None }
    });
    let (axes, eps) = means.iter().find_map(|(view, eps)| Some((mean_axes(g, view, x, is_square)?, *eps)))?;
    let parts = between(g, r, x);
    g.source.join(&parts);
    g.add(Op::Norm { axes, centre: false, eps: Real(eps) }, &[x])
}

/// Where the terms that lead from `x` to `from` come from: a norm does what all of them do.
fn between(g: &Graph, from: Id, x: Id) -> Source {
    let (mut seen, mut todo) = (vec![g.eg.find(x)], vec![g.eg.find(from)]);
    let mut source = Source::default();
    while let Some(class) = todo.pop() {
        if seen.contains(&class) || g.is_const(class) {
            continue;
        }
        seen.push(class);
        // The first term of a class is the least: one of the input, if there is any.
        for term in g.eg[class].nodes.iter().take(1) {
            if let Some(s) = g.sources.get(term) {
                source.join(s);
            }
            todo.extend(term.children().iter().map(|&c| g.eg.find(c)));
        }
    }
    source
}

fn is_square(g: &Graph, id: Id, x: Id) -> bool {
    g.terms(id).any(|(op, args)| {
        let product = || is_binary(op, BinaryOp::Mul) && args.iter().all(|&a| g.eg.find(a) == x);
        let power =
            || is_binary(op, BinaryOp::Pow) && g.eg.find(args[0]) == x && g.splat(args[1]) == Some(2.0);
        product() || power()
    })
}

/// The axes of a mean that the view's core is of something that `of` accepts for `x`, if the view puts each kept
/// dimension back into its place.
fn mean_axes(g: &Graph, view: &View, x: Id, of: fn(&Graph, Id, Id) -> bool) -> Option<Dims> {
    let shape = g.shape(x);
    g.terms(view.core).find_map(|(op, args)| {
        let Op::Reduce { op: ReduceOp::Mean, axes } = op else { return None };
        if !of(g, args[0], x) || g.shape(args[0]) != shape {
            return None;
        }
        let kept = (0..shape.rank()).filter(|&d| !axes.contains(&(d as u8)));
        let placed = kept.zip(&view.map).all(|(d, to)| shape[d] == 1 || *to == Some(d as u8));
        let mut axes = axes.clone();
        axes.sort_unstable();
        placed.then_some(axes)
    })
}

fn centred(g: &mut Graph, m: &Match) -> Option<Id> {
    let Some(Op::Norm { axes, centre, eps }) = m.op(g, 0).cloned() else { return None };
    let x = g.eg.find(m.vars[0]);
    let same = |g: &Graph, id: Id, x: Id| g.eg.find(id) == x;
    let mean = views(g, m.vars[1]).iter().find_map(|v| mean_axes(g, v, x, same))?;
    (!centre && mean == axes).then_some(())?;
    let parts = between(g, m.vars[1], x);
    g.source.join(&parts);
    g.add(Op::Norm { axes, centre: true, eps }, &[x])
}

/// A scale or a bias that varies along the axes of the norm only becomes its next operand.
fn scaled(g: &mut Graph, m: &Match, norm: usize, value: Id) -> Option<Id> {
    let Some(Op::Norm { axes, centre, eps }) = m.op(g, norm).cloned() else { return None };
    let mut args = m.args(norm).to_vec();
    args.push(along(g, value, &axes)?);
    g.add(Op::Norm { axes, centre, eps }, &args)
}
