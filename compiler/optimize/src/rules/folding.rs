//! Finite scales fold into the constant operand of a contraction, where no weight overflows or loses bits. Batch normalisation after a convolution disappears so;
//! zeros of the weights stay zeros, and with them any sparsity pattern. The scale of quantised weights goes the other way:
//! without it they are integers, which memory holds in their own type.

use egg::Id;
use lacuna_ir::Op;
use lacuna_ir::op::{BinaryOp, ContractMap};

use super::algebra::{constant_binary, grows_toward_constants};
use super::{Rule, RuleClass, factor, folds, takes_factor, wide};
use crate::extent::extent;
use crate::graph::Graph;
use crate::pattern::Match;
use crate::views::along;

/// What moving a factor between weights and results may change.
pub const SCALE: &str = "the last bits of a sum, whose terms or whose result the factor rounds; a sum that overflows, or falls below the \
                         normal numbers, does so before or behind the factor";

/// What moving a factor through a bias, or adding two biases first, may change.
const BIAS: &str = "the last bits of a sum with its bias, relative to the greater of both";

/// Two biases become one unless that is this much smaller.
const CANCELLED: f64 = 16.0;

/// The rules of this file.
pub const RULES: &[Rule] = &[
    Rule {
        name: "scale-into-conv",
        class: RuleClass::E1,
        may_change: SCALE,
        before: "(scaled (conv ?x $w) $s)",
        after: "(conv ?x (mul $w $s))",
        guard: Some(|g, m| wide(g, m) && folds(g, m, 0, m.vars[1], m.vars[2])),
        apply: scale_after_conv,
    },
    Rule {
        name: "input-scale-into-conv",
        class: RuleClass::E1,
        may_change: SCALE,
        before: "(conv (scaled ?x $s) $w)",
        after: "(conv ?x (mul $w $s))",
        guard: Some(|g, m| {
            let whole = matches!(m.op(g, 0), Some(Op::Conv { attrs, .. }) if attrs.groups == 1);
            whole && wide(g, m) && folds(g, m, 1, m.vars[2], m.vars[1])
        }),
        apply: scale_before_conv,
    },
    Rule {
        name: "scale-into-contract-right",
        class: RuleClass::E1,
        may_change: SCALE,
        before: "(scaled (contract ?x $w) $s)",
        after: "(contract ?x (mul $w $s))",
        guard: Some(|g, m| wide(g, m) && folds(g, m, 0, m.vars[1], m.vars[2])),
        apply: |g, m| scale_after_contract(g, m, 1),
    },
    Rule {
        name: "scale-into-contract-left",
        class: RuleClass::E1,
        may_change: SCALE,
        before: "(scaled (contract $w ?x) $s)",
        after: "(contract (mul $w $s) ?x)",
        guard: Some(|g, m| wide(g, m) && folds(g, m, 0, m.vars[0], m.vars[2])),
        apply: |g, m| scale_after_contract(g, m, 0),
    },
    Rule {
        name: "input-scale-into-contract-right",
        class: RuleClass::E1,
        may_change: SCALE,
        before: "(contract (scaled ?x $s) $w)",
        after: "(contract ?x (mul $w $s))",
        guard: Some(|g, m| wide(g, m) && folds(g, m, 1, m.vars[2], m.vars[1])),
        apply: |g, m| scale_before_contract(g, m, 1),
    },
    Rule {
        name: "input-scale-into-contract-left",
        class: RuleClass::E1,
        may_change: SCALE,
        before: "(contract $w (scaled ?x $s))",
        after: "(contract (mul $w $s) ?x)",
        guard: Some(|g, m| wide(g, m) && folds(g, m, 1, m.vars[0], m.vars[2])),
        apply: |g, m| scale_before_contract(g, m, 0),
    },
    Rule {
        name: "scale-out-of-contract-right",
        class: RuleClass::E1,
        may_change: SCALE,
        before: "(contract ?x (mul $w $s))",
        after: "(mul (contract ?x $w) $s)",
        guard: Some(|g, m| wide(g, m) && narrow_and_scale(g, m).is_some_and(|(_, s)| finite(g, s))),
        apply: |g, m| scale_out_of_contract(g, m, 1),
    },
    Rule {
        name: "scale-out-of-contract-left",
        class: RuleClass::E1,
        may_change: SCALE,
        before: "(contract (mul $w $s) ?x)",
        after: "(mul (contract $w ?x) $s)",
        guard: Some(|g, m| wide(g, m) && narrow_and_scale(g, m).is_some_and(|(_, s)| finite(g, s))),
        apply: |g, m| scale_out_of_contract(g, m, 0),
    },
    Rule {
        name: "scale-out-of-conv",
        class: RuleClass::E1,
        may_change: SCALE,
        before: "(conv ?x (mul $w $s))",
        after: "(mul (conv ?x $w) $s)",
        guard: Some(|g, m| wide(g, m) && narrow_and_scale(g, m).is_some_and(|(_, s)| finite(g, s))),
        apply: scale_out_of_conv,
    },
    Rule {
        name: "scale-through-bias",
        class: RuleClass::E1,
        may_change: BIAS,
        before: "(scaled (add ?x $a) $b)",
        after: "(add (mul ?x $b) (mul $a $b))",
        // Elsewhere the second product buys nothing, and is no matter of sums: only weights can swallow the scale.
        guard: Some(|g, m| wide(g, m) && by_constant(g, m.vars[0]) && folds(g, m, 0, m.vars[1], m.vars[2])),
        apply: |g, m| {
            let &[x, a, b] = &m.vars[..] else { return None };
            let b = factor(g, m, 0, b)?;
            let bias = constant_binary(g, BinaryOp::Mul, a, b)?;
            let scaled = g.binary(BinaryOp::Mul, x, b)?;
            g.binary(BinaryOp::Add, scaled, bias)
        },
    },
    Rule {
        name: "divide-sum",
        class: RuleClass::E1,
        may_change: "the last bit of a sum, or of one with its bias, that is multiplied by a rounded reciprocal",
        before: "(div ?x $c)",
        after: "(mul ?x (recip $c))",
        guard: Some(|g, m| wide(g, m) && is_sum(g, m.vars[0]) && takes_factor(g, m, 0, m.vars[1]).is_some()),
        apply: |g, m| {
            let c = factor(g, m, 0, m.vars[1])?;
            g.binary(BinaryOp::Mul, m.vars[0], c)
        },
    },
    Rule {
        name: "add-biases",
        class: RuleClass::E1,
        may_change: BIAS,
        before: "(add (add ?x $a) $b)",
        after: "(add ?x (add $a $b))",
        guard: Some(|g, m| wide(g, m) && grows_toward_constants(g, m) && by_constant(g, m.vars[0])),
        apply: |g, m| {
            let &[x, a, b] = &m.vars[..] else { return None };
            let both = constant_binary(g, BinaryOp::Add, a, b)?;
            let [of_a, of_b, sum] = [a, b, both].map(|c| extent(&g.eg, c));
            let most = of_a?.greatest.max(of_b?.greatest);
            // Large numbers that cancel are there to round what they are added to.
            (sum?.within(g.elem(both)?) && most <= CANCELLED * sum?.greatest).then_some(())?;
            g.binary(BinaryOp::Add, x, both)
        },
    },
];

/// Whether a contraction by a constant computes a value.
fn by_constant(g: &Graph, id: Id) -> bool {
    g.terms(id).any(|(op, args)| op.is_product() && args.iter().any(|&a| g.is_const(a)))
}

/// Whether a contraction, with or without a constant bias, computes a value.
fn is_sum(g: &Graph, id: Id) -> bool {
    let product = |id: Id| g.terms(id).any(|(op, _)| op.is_product());
    let biased = |op: &Op, args: &[Id]| {
        *op == Op::Binary { op: BinaryOp::Add } && g.is_const(args[1]) && product(args[0])
    };
    product(id) || g.terms(id).any(|(op, args)| biased(op, args))
}

/// Whether a constant is neither infinite nor NaN.
fn finite(g: &Graph, c: Id) -> bool {
    extent(&g.eg, c).is_some_and(|e| e.finite)
}

/// The narrow factor of the scaled constant, and the other.
fn narrow_and_scale(g: &Graph, m: &Match) -> Option<(Id, Id)> {
    let &[a, b] = m.args(1) else { return None };
    if g.facts(a).narrow.is_some() { Some((a, b)) } else { g.facts(b).narrow.is_some().then_some((b, a)) }
}

/// `y * s` where `s` varies along dimension `d` of `y` only.
fn scaled_result(g: &mut Graph, y: Id, s: Id, d: u8) -> Option<Id> {
    let shape = g.shape(y).clone();
    let spread = g.broadcast(s, &[d], &shape)?;
    g.binary(BinaryOp::Mul, y, spread)
}

fn scale_out_of_contract(g: &mut Graph, m: &Match, constant: usize) -> Option<Id> {
    let Some(Op::Contract { map, elem }) = m.op(g, 0).cloned() else { return None };
    let mut args = [m.args(0)[0], m.args(0)[1]];
    let (w, s) = narrow_and_scale(g, m)?;
    args[constant] = w;
    let (labels, _) = sides(&map, constant);
    for (w_dim, label) in labels.iter().enumerate() {
        let Some(d) = map.out.iter().position(|l| l == label) else { continue };
        if let Some(s) = along(g, s, &[w_dim as u8]) {
            let y = g.add(Op::Contract { map: map.clone(), elem }, &args)?;
            return scaled_result(g, y, s, d as u8);
        }
    }
    None
}

fn scale_out_of_conv(g: &mut Graph, m: &Match) -> Option<Id> {
    let Some(Op::Conv { attrs, elem }) = m.op(g, 0).cloned() else { return None };
    let (w, s) = narrow_and_scale(g, m)?;
    let s = along(g, s, &[attrs.w[0]])?;
    let (x, d) = (m.args(0)[0], attrs.out[1]);
    let y = g.add(Op::Conv { attrs, elem }, &[x, w])?;
    scaled_result(g, y, s, d)
}

/// `w * s` where `s` varies along dimension `d` of `w` only.
fn scaled(g: &mut Graph, w: Id, s: Id, d: u8) -> Option<Id> {
    let shape = g.shape(w).clone();
    let spread = g.broadcast(s, &[d], &shape)?;
    g.binary(BinaryOp::Mul, w, spread)
}

fn scale_after_conv(g: &mut Graph, m: &Match) -> Option<Id> {
    let &[x, w, s] = &m.vars[..] else { return None };
    let Some(Op::Conv { attrs, elem }) = m.op(g, 1).cloned() else { return None };
    let s = factor(g, m, 0, s)?;
    let s = along(g, s, &[attrs.out[1]])?;
    let w = scaled(g, w, s, attrs.w[0])?;
    g.add(Op::Conv { attrs, elem }, &[x, w])
}

fn scale_before_conv(g: &mut Graph, m: &Match) -> Option<Id> {
    let &[x, s, w] = &m.vars[..] else { return None };
    let Some(Op::Conv { attrs, elem }) = m.op(g, 0).cloned() else { return None };
    let s = factor(g, m, 1, s)?;
    let s = along(g, s, &[attrs.x[1]])?;
    let w = scaled(g, w, s, attrs.w[1])?;
    g.add(Op::Conv { attrs, elem }, &[x, w])
}

/// Labels of the constant operand and of the other one.
fn sides(map: &ContractMap, constant: usize) -> (&[u8], &[u8]) {
    if constant == 0 { (&map.a, &map.b) } else { (&map.b, &map.a) }
}

fn scale_after_contract(g: &mut Graph, m: &Match, constant: usize) -> Option<Id> {
    let Some(Op::Contract { map, elem }) = m.op(g, 1).cloned() else { return None };
    let args = [m.args(1)[0], m.args(1)[1]];
    let s = factor(g, m, 0, *m.vars.last()?)?;
    let (labels, _) = sides(&map, constant);
    // One label of the constant operand along which all of the scale's variation lies.
    for (w_dim, label) in labels.iter().enumerate() {
        let Some(d) = map.out.iter().position(|l| l == label) else { continue };
        if let Some(s) = along(g, s, &[d as u8]) {
            return rescaled(g, Op::Contract { map, elem }, args, constant, s, w_dim as u8);
        }
    }
    None
}

fn scale_before_contract(g: &mut Graph, m: &Match, constant: usize) -> Option<Id> {
    let Some(Op::Contract { map, elem }) = m.op(g, 0).cloned() else { return None };
    let (x, s) = (m.args(1)[0], factor(g, m, 1, m.args(1)[1])?);
    let w = m.args(0)[constant];
    let (labels, others) = sides(&map, constant);
    for (w_dim, label) in labels.iter().enumerate() {
        let Some(d) = others.iter().position(|l| l == label) else { continue };
        if let Some(s) = along(g, s, &[d as u8]) {
            let args = if constant == 0 { [w, x] } else { [x, w] };
            return rescaled(g, Op::Contract { map, elem }, args, constant, s, w_dim as u8);
        }
    }
    None
}

fn rescaled(g: &mut Graph, op: Op, mut args: [Id; 2], constant: usize, s: Id, dim: u8) -> Option<Id> {
    args[constant] = scaled(g, args[constant], s, dim)?;
    g.add(op, &args)
}
