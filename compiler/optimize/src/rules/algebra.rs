//! Identities vanish, and element-wise work moves before repetition. Every rule here keeps the bits, but for the zeros of
//! contractions.

use egg::Id;
use lacuna_ir::Op;
use lacuna_ir::op::{BinaryOp, Dims, UnaryOp};
use lacuna_isa::format::ScalarType;

use super::zeros::SKIPPED;
use super::{Rule, RuleClass, float};
use crate::extent::{elements, normal};
use crate::graph::Graph;
use crate::pattern::Match;
use crate::views::{compact, views};

/// The rules of this file.
pub const RULES: &[Rule] = &[
    Rule {
        name: "sub-constant",
        class: RuleClass::E0,
        may_change: "",
        before: "(sub ?x $c)",
        after: "(add ?x (neg $c))",
        guard: Some(float),
        apply: |g, m| {
            let c = constant_unary(g, UnaryOp::Neg, m.vars[1])?;
            g.binary(BinaryOp::Add, m.vars[0], c)
        },
    },
    Rule {
        name: "div-by-power-of-two",
        class: RuleClass::E0,
        may_change: "",
        before: "(div ?x $c)",
        after: "(mul ?x (recip $c))",
        // Quotient and product are then the same real number, so that both round to the same float, also below the normal
        // numbers and beyond the greatest one.
        guard: Some(|g, m| float(g, m) && !g.is_const(m.vars[0]) && exact_reciprocals(g, m.vars[1])),
        apply: |g, m| {
            let c = constant_unary(g, UnaryOp::Recip, m.vars[1])?;
            g.binary(BinaryOp::Mul, m.vars[0], c)
        },
    },
    Rule {
        name: "square-by-product",
        class: RuleClass::E0,
        may_change: "",
        before: "(pow ?x $c)",
        after: "(mul ?x ?x)",
        guard: Some(|g, m| float(g, m) && g.splat(m.vars[1]) == Some(2.0)),
        apply: |g, m| g.binary(BinaryOp::Mul, m.vars[0], m.vars[0]),
    },
    Rule {
        name: "add-nothing",
        class: RuleClass::E0,
        may_change: "",
        before: "(add ?x $c)",
        after: "?x",
        guard: Some(|g, m| neutral_sum(g, m.vars[1])),
        apply: |_, m| Some(m.vars[0]),
    },
    Rule {
        name: "add-zero",
        class: RuleClass::E0,
        may_change: "",
        before: "(add ?x $c)",
        after: "?x",
        // Of the sums with zero, only that of -0 and +0 changes a bit.
        guard: Some(|g, m| {
            float(g, m) && g.splat(m.vars[1]) == Some(0.0) && g.facts(m.vars[0]).numbers.no_minus_zero
        }),
        apply: |_, m| Some(m.vars[0]),
    },
    Rule {
        name: "sub-zero",
        class: RuleClass::E0,
        may_change: "",
        before: "(sub ?x $c)",
        after: "?x",
        guard: Some(|g, m| g.splat(m.vars[1]).is_some_and(|v| v.to_bits() == 0)),
        apply: |_, m| Some(m.vars[0]),
    },
    Rule {
        name: "mul-one",
        class: RuleClass::E0,
        may_change: "",
        before: "(mul ?x $c)",
        after: "?x",
        guard: Some(|g, m| g.splat(m.vars[1]) == Some(1.0)),
        apply: |_, m| Some(m.vars[0]),
    },
    Rule {
        name: "div-one",
        class: RuleClass::E0,
        may_change: "",
        before: "(div ?x $c)",
        after: "?x",
        guard: Some(|g, m| g.splat(m.vars[1]) == Some(1.0)),
        apply: |_, m| Some(m.vars[0]),
    },
    Rule {
        name: "contract-of-zeros",
        class: RuleClass::E0f,
        may_change: SKIPPED,
        before: "(contract ?x ?y)",
        after: "0",
        guard: Some(|g, m| g.is_zero(m.root)),
        apply: |g, m| zero(g, m.root),
    },
    Rule {
        name: "conv-of-zeros",
        class: RuleClass::E0f,
        may_change: SKIPPED,
        before: "(conv ?x ?w)",
        after: "0",
        guard: Some(|g, m| g.is_zero(m.root)),
        apply: |g, m| zero(g, m.root),
    },
    Rule {
        name: "cast-to-itself",
        class: RuleClass::E0,
        may_change: "",
        before: "(cast ?x)",
        after: "?x",
        guard: Some(|g, m| g.ty(m.root) == g.ty(m.vars[0])),
        apply: |_, m| Some(m.vars[0]),
    },
    Rule {
        name: "unary-before-broadcast",
        class: RuleClass::E0,
        may_change: "",
        before: "(unary ?x)",
        after: "(broadcast (unary ?x'))",
        guard: None,
        apply: |g, m| {
            let op = m.op(g, 0)?.clone();
            before_broadcast(g, op, &m.vars, m.root)
        },
    },
    Rule {
        name: "cast-before-broadcast",
        class: RuleClass::E0,
        may_change: "",
        before: "(cast ?x)",
        after: "(broadcast (cast ?x'))",
        guard: None,
        apply: |g, m| {
            let op = m.op(g, 0)?.clone();
            before_broadcast(g, op, &m.vars, m.root)
        },
    },
    Rule {
        name: "binary-before-broadcast",
        class: RuleClass::E0,
        may_change: "",
        before: "(binary ?x ?y)",
        after: "(broadcast (binary ?x' ?y'))",
        guard: None,
        apply: |g, m| {
            let op = m.op(g, 0)?.clone();
            before_broadcast(g, op, &[m.vars[0], m.vars[1]], m.root)
        },
    },
];

/// Zeros in the type of a class.
fn zero(g: &mut Graph, like: Id) -> Option<Id> {
    let ty = g.ty(like).clone();
    g.splat_const(&ty, 0.0)
}

/// The two constants are there to meet. A class that is its own operand (`x = x * c` once `c` is found to be 1) would
/// make a new constant each time around.
pub fn grows_toward_constants(g: &Graph, m: &Match) -> bool {
    let inner = m.args(0).first().is_some_and(|&inner| g.eg.find(inner) != g.eg.find(m.root));
    float(g, m) && !g.is_const(m.vars[0]) && inner && g.eg.find(m.vars[0]) != g.eg.find(m.root)
}

/// Whether every element of a constant is a power of two, of either sign, whose reciprocal is a normal number.
fn exact_reciprocals(g: &Graph, c: Id) -> bool {
    let Some((least, greatest)) = g.elem(c).and_then(normal) else { return false };
    let exact = |v: f64| {
        let reciprocal = (1.0 / v).abs();
        v.to_bits() << 12 == 0 && reciprocal >= least && reciprocal <= greatest
    };
    elements(&g.eg, c).is_some_and(|values| values.into_iter().all(exact))
}

/// `x + c` has the bits of `x`: integers with zero, floats with -0.
fn neutral_sum(g: &Graph, c: Id) -> bool {
    let integer = g.elem(c).is_some_and(ScalarType::is_int);
    g.splat(c).is_some_and(|v| v == 0.0 && (integer || v.is_sign_negative()))
}

/// Whether a class repeats a smaller value, which is not one number where that is built as a constant anyway.
fn repeats(g: &Graph, id: Id) -> bool {
    if g.splat(id).is_some() && g.is_const(id) {
        return g.shape(id).rank() > 0;
    }
    let all = g.shape(id).elements();
    views(g, id).iter().any(|v| g.shape(v.core).elements() < all)
}

/// A function of a constant, computed before it is repeated.
pub fn constant_unary(g: &mut Graph, op: UnaryOp, c: Id) -> Option<Id> {
    let (core, dims) = compact(g, c)?;
    let shape = g.shape(c).clone();
    let core = g.unary(op, core)?;
    g.broadcast(core, &dims, &shape)
}

/// A function of two constants, computed before it is repeated.
pub fn constant_binary(g: &mut Graph, op: BinaryOp, a: Id, b: Id) -> Option<Id> {
    let (cores, dims) = meet(g, &[a, b])?;
    let shape = g.shape(a).clone();
    let core = g.binary(op, cores[0], cores[1])?;
    g.broadcast(core, &dims, &shape)
}

/// The smallest values of one shape that the given values of one shape repeat along the same dimensions.
fn meet(g: &mut Graph, values: &[Id]) -> Option<(Vec<Id>, Dims)> {
    let parts: Vec<(Id, Dims)> = values.iter().map(|&v| compact(g, v)).collect::<Option<_>>()?;
    let shape = g.shape(values[0]).clone();
    let dims: Dims =
        (0..shape.rank() as u8).filter(|d| parts.iter().any(|(_, dims)| dims.contains(d))).collect();
    let small = dims.iter().map(|&d| shape[d as usize]).collect();
    let cores = parts
        .into_iter()
        .map(|(core, own)| {
            let places: Dims =
                own.iter().filter_map(|d| dims.iter().position(|e| e == d)).map(|i| i as u8).collect();
            g.broadcast(core, &places, &small)
        })
        .collect::<Option<_>>()?;
    Some((cores, dims))
}

fn before_broadcast(g: &mut Graph, op: Op, values: &[Id], root: Id) -> Option<Id> {
    values.iter().all(|&v| repeats(g, v)).then_some(())?;
    let shape = g.shape(root).clone();
    let (cores, dims) = meet(g, values)?;
    if g.shape(cores[0]).elements() >= shape.elements() {
        return None;
    }
    let core = if let (Op::Binary { op }, &[a, b]) = (&op, &cores[..]) {
        g.binary(*op, a, b)?
    } else if let (Op::Unary { op }, &[x]) = (&op, &cores[..]) {
        g.unary(*op, x)?
    } else {
        g.add(op, &cores)?
    };
    g.broadcast(core, &dims, &shape)
}
