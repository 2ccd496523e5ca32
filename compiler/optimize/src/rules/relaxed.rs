//! What holds over the real numbers and not in floats: constants meet constants through element-wise work, quotients become
//! products, and what cannot matter unless a number is infinite or NaN is left out. These rules run only where the user allows
//! it: each may change a result by more than rounding.

use egg::Id;
use lacuna_ir::op::{BinaryOp, UnaryOp};

use super::algebra::{constant_binary, constant_unary, grows_toward_constants};
use super::attention::{never_empty, weights_of_guard};
use super::{Rule, RuleClass, float};
use crate::graph::Graph;
use crate::pattern::Match;

/// The rules of this file.
pub const RULES: &[Rule] = &[
    Rule {
        name: "div-constant",
        class: RuleClass::Relaxed,
        may_change: "the reciprocal is rounded: quotients by the last bit, and with it what floor, ceil, casts and comparisons make \
                     of them; where it is infinite or zero, everything",
        before: "(div ?x $c)",
        after: "(mul ?x (recip $c))",
        guard: Some(|g, m| float(g, m) && !g.is_const(m.vars[0])),
        apply: |g, m| {
            let c = constant_unary(g, UnaryOp::Recip, m.vars[1])?;
            g.binary(BinaryOp::Mul, m.vars[0], c)
        },
    },
    Rule {
        name: "add-constants",
        class: RuleClass::Relaxed,
        may_change: "rounding by the first sum vanishes, which is all that adding and subtracting a large number does; the first sum \
                     no longer overflows",
        before: "(add (add ?x $a) $b)",
        after: "(add ?x (add $a $b))",
        guard: Some(grows_toward_constants),
        apply: |g, m| reassociate(g, m, BinaryOp::Add),
    },
    Rule {
        name: "mul-constants",
        class: RuleClass::Relaxed,
        may_change: "the last bits; the first product no longer overflows or underflows, or that of the constants does",
        before: "(mul (mul ?x $a) $b)",
        after: "(mul ?x (mul $a $b))",
        guard: Some(grows_toward_constants),
        apply: |g, m| reassociate(g, m, BinaryOp::Mul),
    },
    Rule {
        name: "mul-zero",
        class: RuleClass::Relaxed,
        may_change: "infinity and NaN times zero become zero, and so do zeros of the other sign",
        before: "(mul ?x $c)",
        after: "$c",
        guard: Some(|g, m| g.is_zero(m.vars[1])),
        apply: |_, m| Some(m.vars[1]),
    },
    Rule {
        name: "add-any-zero",
        class: RuleClass::Relaxed,
        may_change: "-0 plus +0 stays -0",
        before: "(add ?x $c)",
        after: "?x",
        guard: Some(|g, m| float(g, m) && g.splat(m.vars[1]) == Some(0.0)),
        apply: |_, m| Some(m.vars[0]),
    },
    Rule {
        name: "softmax-without-nan",
        class: RuleClass::Relaxed,
        may_change: "rows of scores with an infinity or NaN stay NaN where the model replaces that by zero",
        before: "(select (isnan ?p) ?z ?p)",
        after: "?p",
        guard: Some(|g, m| g.is_zero(m.vars[1]) && g.is_float(m.root)),
        apply: |g, m| {
            let whole = weights_of_guard(g, m)?;
            never_empty(g, whole).then_some(m.vars[0])
        },
    },
];

fn reassociate(g: &mut Graph, m: &Match, op: BinaryOp) -> Option<Id> {
    let &[x, a, b] = &m.vars[..] else { return None };
    // An identity vanishes on its own; composed, it would make a new constant each time around.
    let neutral = if op == BinaryOp::Mul { 1.0 } else { 0.0 };
    if g.splat(a) == Some(neutral) || g.splat(b) == Some(neutral) {
        return None;
    }
    let both = constant_binary(g, op, a, b)?;
    g.binary(op, x, both)
}
