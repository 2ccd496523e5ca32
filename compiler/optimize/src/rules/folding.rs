//! Scales fold into the constant operand of a contraction. Batch normalisation after a convolution disappears so;
//! zeros of the weights stay zeros, and with them any sparsity pattern. The scale of quantised weights goes the other way:
//! without it they are integers, which memory holds in their own type.

use egg::Id;
use lacuna_ir::Op;
use lacuna_ir::op::{BinaryOp, ContractMap};

use super::{Rule, RuleClass, float};
use crate::graph::Graph;
use crate::pattern::Match;
use crate::views::along;

/// The rules of this file.
pub const RULES: &[Rule] = &[
    Rule {
        name: "scale-into-conv",
        class: RuleClass::E1,
        before: "(mul (conv ?x $w) $s)",
        after: "(conv ?x (mul $w $s))",
        guard: Some(float),
        apply: scale_after_conv,
    },
    Rule {
        name: "input-scale-into-conv",
        class: RuleClass::E1,
        before: "(conv (mul ?x $s) $w)",
        after: "(conv ?x (mul $w $s))",
        guard: Some(|g, m| {
            float(g, m) && matches!(m.op(g, 0), Some(Op::Conv { attrs, .. }) if attrs.groups == 1)
        }),
        apply: scale_before_conv,
    },
    Rule {
        name: "scale-into-contract-right",
        class: RuleClass::E1,
        before: "(mul (contract ?x $w) $s)",
        after: "(contract ?x (mul $w $s))",
        guard: Some(float),
        apply: |g, m| scale_after_contract(g, m, 1),
    },
    Rule {
        name: "scale-into-contract-left",
        class: RuleClass::E1,
        before: "(mul (contract $w ?x) $s)",
        after: "(contract (mul $w $s) ?x)",
        guard: Some(float),
        apply: |g, m| scale_after_contract(g, m, 0),
    },
    Rule {
        name: "input-scale-into-contract-right",
        class: RuleClass::E1,
        before: "(contract (mul ?x $s) $w)",
        after: "(contract ?x (mul $w $s))",
        guard: Some(float),
        apply: |g, m| scale_before_contract(g, m, 1),
    },
    Rule {
        name: "input-scale-into-contract-left",
        class: RuleClass::E1,
        before: "(contract $w (mul ?x $s))",
        after: "(contract (mul $w $s) ?x)",
        guard: Some(float),
        apply: |g, m| scale_before_contract(g, m, 0),
    },
    Rule {
        name: "scale-out-of-contract-right",
        class: RuleClass::E1,
        before: "(contract ?x (mul $w $s))",
        after: "(mul (contract ?x $w) $s)",
        guard: None,
        apply: |g, m| scale_out_of_contract(g, m, 1),
    },
    Rule {
        name: "scale-out-of-contract-left",
        class: RuleClass::E1,
        before: "(contract (mul $w $s) ?x)",
        after: "(mul (contract $w ?x) $s)",
        guard: None,
        apply: |g, m| scale_out_of_contract(g, m, 0),
    },
    Rule {
        name: "scale-out-of-conv",
        class: RuleClass::E1,
        before: "(conv ?x (mul $w $s))",
        after: "(mul (conv ?x $w) $s)",
        guard: None,
        apply: scale_out_of_conv,
    },
];

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
    let s = along(g, s, &[attrs.out[1]])?;
    let w = scaled(g, w, s, attrs.w[0])?;
    g.add(Op::Conv { attrs, elem }, &[x, w])
}

fn scale_before_conv(g: &mut Graph, m: &Match) -> Option<Id> {
    let &[x, s, w] = &m.vars[..] else { return None };
    let Some(Op::Conv { attrs, elem }) = m.op(g, 0).cloned() else { return None };
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
    let s = *m.vars.last()?;
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
    let (x, s) = (m.args(1)[0], m.args(1)[1]);
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
