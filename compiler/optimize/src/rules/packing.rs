//! Conversions to narrow formats move towards what computes their operand, where they become part of its kernel, serve
//! all readers, and move fewer bytes from there on. They run on what selection decided, and change no bit of it.
//!
//! Two conversions of one value are one term, so readers share what has moved past their own views. Constants take no
//! part: their conversions are computed by the compiler wherever they stand. Groups stay whole: a conversion to groups moves
//! only through what neither splits nor reorders the dimension that they run along.

use egg::Id;
use lacuna_ir::Op;
use lacuna_isa::format::ScalarType;

use super::{Guard, Rule, RuleClass};
use crate::graph::Graph;
use crate::pattern::Match;

const fn rule(
    name: &'static str,
    before: &'static str,
    after: &'static str,
    guard: Guard,
    apply: fn(&mut Graph, &Match) -> Option<Id>,
) -> Rule {
    Rule { name, class: RuleClass::E0, may_change: "", before, after, guard: Some(guard), apply }
}

/// The rules of this file: moves and exact widening, so all are E0.
pub const RULES: &[Rule] = &[
    rule(
        "quantize-before-permute",
        "(mx_quantize (permute ?x))",
        "(permute (mx_quantize ?x))",
        computed,
        |g, m| {
            let Op::Permute { perm } = m.op(g, 1)?.clone() else { return None };
            let grouped = quantize(g, m, perm[usize::from(axis(g, m)?)], m.vars[0])?;
            g.permute(grouped, &perm)
        },
    ),
    rule(
        "quantize-before-broadcast",
        "(mx_quantize (broadcast ?x))",
        "(broadcast (mx_quantize ?x))",
        |g, m| computed(g, m) && g.shape(m.vars[0]).elements() < g.shape(m.root).elements(),
        |g, m| {
            let Op::Broadcast { dims, shape } = m.op(g, 1)?.clone() else { return None };
            let axis = dims.iter().position(|&d| Some(d) == axis(g, m))?;
            let grouped = quantize(g, m, axis as u8, m.vars[0])?;
            g.add(Op::Broadcast { dims, shape }, &[grouped])
        },
    ),
    rule(
        "quantize-before-slice",
        "(mx_quantize (slice ?x))",
        "(slice (mx_quantize ?x))",
        computed,
        |g, m| {
            let slice = m.op(g, 1)?.clone();
            let grouped = quantize(g, m, axis(g, m)?, m.vars[0])?;
            g.add(slice, &[grouped])
        },
    ),
    rule("quantize-of-widened", "(mx_quantize (cast ?x))", "(mx_quantize ?x)", widened, |g, m| {
        quantize(g, m, axis(g, m)?, m.vars[0])
    }),
    rule("cast-of-widened", "(cast (cast ?x))", "(cast ?x)", widened, |g, m| {
        let Op::Cast { to, .. } = *m.op(g, 0)? else { return None };
        if g.elem(m.vars[0]) == Some(to) { Some(m.vars[0]) } else { cast(g, m, m.vars[0]) }
    }),
    rule("cast-before-permute", "(cast (permute ?x))", "(permute (cast ?x))", computed, through),
    rule("cast-before-reshape", "(cast (reshape ?x))", "(reshape (cast ?x))", computed, through),
    rule("cast-before-slice", "(cast (slice ?x))", "(slice (cast ?x))", computed, through),
    rule("cast-before-concat", "(cast (concat ...))", "(concat (cast ..) ..)", narrows, through),
];

/// What is converted is no constant.
fn computed(g: &Graph, m: &Match) -> bool {
    !g.is_const(m.root)
}

/// The inner conversion loses nothing: its type has every number, infinity and NaN of its operand's.
fn widened(g: &Graph, m: &Match) -> bool {
    let (from, to) = (m.vars[0], m.args(0)[0]);
    let wide = match g.elem(from) {
        Some(ScalarType::F16 | ScalarType::Bf16) => &[ScalarType::F32, ScalarType::F64][..],
        Some(ScalarType::F32) => &[ScalarType::F64],
        Some(_) | None => &[],
    };
    g.elem(to).is_some_and(|to| wide.contains(&to))
}

/// A computed concatenation whose parts take fewer bytes once converted: it copies them.
fn narrows(g: &Graph, m: &Match) -> bool {
    computed(g, m) && g.ty(m.root).bytes() < g.ty(m.args(0)[0]).bytes()
}

/// The dimension along which the matched conversion groups.
fn axis(g: &Graph, m: &Match) -> Option<u8> {
    let Op::MxQuantize { axis, .. } = m.op(g, 0)? else { return None };
    Some(*axis)
}

/// The matched conversion to groups, of another value along another dimension.
fn quantize(g: &mut Graph, m: &Match, axis: u8, x: Id) -> Option<Id> {
    let Op::MxQuantize { format, mode, .. } = *m.op(g, 0)? else { return None };
    g.add(Op::MxQuantize { format, axis, mode }, &[x])
}

/// The matched conversion of another value.
fn cast(g: &mut Graph, m: &Match, x: Id) -> Option<Id> {
    let cast = m.op(g, 0)?.clone();
    g.add(cast, &[x])
}

/// The movement of what is converted first.
fn through(g: &mut Graph, m: &Match) -> Option<Id> {
    let movement = m.op(g, 1)?.clone();
    let args = m.args(1).iter().map(|&x| cast(g, m, x)).collect::<Option<Vec<Id>>>()?;
    g.add(movement, &args)
}
