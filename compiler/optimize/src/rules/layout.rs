//! Movement moves and cancels. Permutations travel towards the operands, where they meet others, a contraction that
//! absorbs them, or a constant.

use egg::Id;
use lacuna_ir::op::Dims;
use lacuna_ir::{Op, Shape};

use super::{Guard, Rule, RuleClass};
use crate::graph::{Graph, inverse};
use crate::pattern::Match;
use crate::views::{parts, refined};

const fn rule(
    name: &'static str,
    before: &'static str,
    after: &'static str,
    guard: Option<Guard>,
    apply: fn(&mut Graph, &Match) -> Option<Id>,
) -> Rule {
    Rule { name, class: RuleClass::E0, may_change: "", before, after, guard, apply }
}

/// The rules of this file: all are moves, so all are E0.
pub const RULES: &[Rule] = &[
    rule("permute-permute", "(permute (permute ?x))", "(permute ?x)", None, |g, m| {
        let (outer, inner) = (perm(g, m, 0)?, perm(g, m, 1)?);
        let both: Dims = outer.iter().map(|&p| inner[p as usize]).collect();
        g.permute(m.vars[0], &both)
    }),
    rule("permute-of-unit-dims", "(permute ?x)", "(reshape ?x)", None, |g, m| {
        // Groups run along a dimension, even if it is of size 1.
        g.elem(m.vars[0])?;
        let shape = g.shape(m.vars[0]);
        let moved: Dims = perm(g, m, 0)?.into_iter().filter(|&p| shape[p as usize] != 1).collect();
        let to = g.shape(m.root).clone();
        if moved.is_sorted() { g.reshape(m.vars[0], to) } else { None }
    }),
    rule("permute-through-unary", "(permute (unary ?x))", "(unary (permute ?x))", None, through_elementwise),
    rule("permute-through-cast", "(permute (cast ?x))", "(cast (permute ?x))", None, through_elementwise),
    rule(
        "permute-through-binary",
        "(permute (binary ?x ?y))",
        "(binary (permute ?x) (permute ?y))",
        None,
        through_elementwise,
    ),
    rule(
        "permute-through-compare",
        "(permute (compare ?x ?y))",
        "(compare (permute ?x) (permute ?y))",
        None,
        through_elementwise,
    ),
    rule(
        "permute-through-select",
        "(permute (select ?c ?x ?y))",
        "(select (permute ?c) (permute ?x) (permute ?y))",
        None,
        through_elementwise,
    ),
    rule(
        "permute-through-concat",
        "(permute (concat ...))",
        "(concat (permute ..) ..)",
        None,
        through_elementwise,
    ),
    rule("permute-through-pad", "(permute (pad ?x ?v))", "(pad (permute ?x) ?v)", None, |g, m| {
        let perm = perm(g, m, 0)?;
        let Some(Op::Pad { low, high }) = m.op(g, 1).cloned() else { return None };
        let pick = |v: &[u64]| perm.iter().map(|&p| v[p as usize]).collect();
        let x = g.permute(m.vars[0], &perm)?;
        g.add(Op::Pad { low: pick(&low), high: pick(&high) }, &[x, m.vars[1]])
    }),
    rule("permute-through-slice", "(permute (slice ?x))", "(slice (permute ?x))", None, |g, m| {
        let perm = perm(g, m, 0)?;
        let Some(Op::Slice { starts, shape, steps }) = m.op(g, 1).cloned() else { return None };
        let pick = |v: &[i64]| perm.iter().map(|&p| v[p as usize]).collect();
        let shape = perm.iter().map(|&p| shape[p as usize]).collect();
        let x = g.permute(m.vars[0], &perm)?;
        g.slice(x, pick(&starts), shape, pick(&steps))
    }),
    rule(
        "permute-through-broadcast",
        "(permute (broadcast ?x))",
        "(broadcast (permute ?x))",
        None,
        |g, m| {
            let perm = perm(g, m, 0)?;
            let Some(Op::Broadcast { dims, .. }) = m.op(g, 1).cloned() else { return None };
            let inverse = inverse(&perm);
            let mut places: Vec<(u8, u8)> =
                dims.iter().enumerate().map(|(i, &d)| (inverse[d as usize], i as u8)).collect();
            places.sort_unstable();
            let order: Dims = places.iter().map(|p| p.1).collect();
            let dims: Dims = places.iter().map(|p| p.0).collect();
            let shape = g.shape(m.root).clone();
            let x = g.permute(m.vars[0], &order)?;
            g.broadcast(x, &dims, &shape)
        },
    ),
    rule("permute-through-reshape", "(permute (reshape ?x))", "(reshape (permute ?x))", None, |g, m| {
        let perm = perm(g, m, 0)?;
        let (mut x, mut inner) = (m.vars[0], g.shape(m.vars[0]).clone());
        let outer = g.shape(m.args(0)[0]).clone();
        if parts(&inner, &outer).is_none() {
            // The reshape splits dimensions: it splits first and merges behind the permutation.
            inner = refined(&inner, &outer).filter(|split| *split != outer)?;
            x = g.reshape(x, inner.clone())?;
        }
        let parts = parts(&inner, &outer)?;
        let units = (0..inner.rank()).filter(|&d| inner[d] == 1).map(|d| d as u8);
        let order: Dims = perm.iter().flat_map(|&p| parts[p as usize].clone()).chain(units).collect();
        let to = g.shape(m.root).clone();
        let x = g.permute(x, &order)?;
        g.reshape(x, to)
    }),
    rule("reshape-of-gather", "(reshape (gather ?x ?i))", "(gather ?x (reshape ?i))", None, |g, m| {
        let Some(Op::Gather { axis, batch: 0 }) = m.op(g, 1).cloned() else { return None };
        let (x, to) = (g.shape(m.vars[0]).clone(), g.shape(m.root).clone());
        let (before, behind) = (usize::from(axis), x.rank() - 1 - usize::from(axis));
        let until = to.rank().checked_sub(behind).filter(|&until| until >= before)?;
        if to[..before] != x[..before] || to[until..] != x[x.rank() - behind..] {
            return None;
        }
        let indices = g.reshape(m.vars[1], to[before..until].iter().copied().collect::<Shape>())?;
        g.add(Op::Gather { axis, batch: 0 }, &[m.vars[0], indices])
    }),
    rule("permute-through-softmax", "(permute (softmax ?x))", "(softmax (permute ?x))", None, |g, m| {
        let perm = perm(g, m, 0)?;
        let Some(Op::Softmax { axis, log }) = m.op(g, 1).cloned() else { return None };
        let axis = inverse(&perm)[axis as usize];
        let x = g.permute(m.vars[0], &perm)?;
        g.add(Op::Softmax { axis, log }, &[x])
    }),
    rule("permute-through-norm", "(permute (norm ...))", "(norm (permute ?x) ..)", None, |g, m| {
        let perm = perm(g, m, 0)?;
        let Some(Op::Norm { axes, centre, eps }) = m.op(g, 1).cloned() else { return None };
        let inverse = inverse(&perm);
        let moved: Dims = axes.iter().map(|&a| inverse[a as usize]).collect();
        // The mean sums in the order of the axes: it must stay.
        if axes.windows(2).zip(moved.windows(2)).any(|(a, b)| (a[0] < a[1]) != (b[0] < b[1])) {
            return None;
        }
        let mut args = m.args(1).to_vec();
        args[0] = g.permute(args[0], &perm)?;
        g.add(Op::Norm { axes: moved, centre, eps }, &args)
    }),
    rule("permute-through-reduce", "(permute (reduce ?x))", "(reduce (permute ?x))", None, |g, m| {
        let outer = perm(g, m, 0)?;
        let Some(Op::Reduce { op, axes }) = m.op(g, 1).cloned() else { return None };
        let rank = g.shape(m.vars[0]).rank() as u8;
        let kept: Dims = (0..rank).filter(|d| !axes.contains(d)).collect();
        let perm: Dims = outer.iter().map(|&p| kept[p as usize]).chain(axes.iter().copied()).collect();
        let x = g.permute(m.vars[0], &perm)?;
        g.add(Op::Reduce { op, axes: (kept.len() as u8..rank).collect() }, &[x])
    }),
    rule("reduce-before-permute", "(reduce (permute ?x))", "(permute (reduce ?x))", None, |g, m| {
        let perm = perm(g, m, 1)?;
        let Some(Op::Reduce { op, axes }) = m.op(g, 0).cloned() else { return None };
        let inner: Dims = axes.iter().map(|&a| perm[a as usize]).collect();
        let kept: Dims = (0..perm.len() as u8).filter(|d| !inner.contains(d)).collect();
        let order: Dims = (0..perm.len() as u8)
            .filter(|d| !axes.contains(d))
            .filter_map(|d| kept.iter().position(|k| *k == perm[d as usize]))
            .map(|i| i as u8)
            .collect();
        let reduced = g.add(Op::Reduce { op, axes: inner }, &[m.vars[0]])?;
        g.permute(reduced, &order)
    }),
    rule("reshape-reshape", "(reshape (reshape ?x))", "(reshape ?x)", None, |g, m| {
        let to = g.shape(m.root).clone();
        g.reshape(m.vars[0], to)
    }),
    rule("reshape-through-unary", "(reshape (unary (reshape ?x)))", "(unary (reshape ?x))", None, |g, m| {
        let op = m.op(g, 1)?.clone();
        let to = g.shape(m.root).clone();
        let x = g.reshape(m.vars[0], to)?;
        g.add(op, &[x])
    }),
    rule(
        "reshape-through-binary",
        "(reshape (binary (reshape ?x) (reshape ?y)))",
        "(binary (reshape ?x) (reshape ?y))",
        None,
        |g, m| {
            let op = m.op(g, 1)?.clone();
            let to = g.shape(m.root).clone();
            let x = g.reshape(m.vars[0], to.clone())?;
            let y = g.reshape(m.vars[1], to)?;
            g.add(op, &[x, y])
        },
    ),
    rule("broadcast-broadcast", "(broadcast (broadcast ?x))", "(broadcast ?x)", None, |g, m| {
        let (Some(Op::Broadcast { dims: outer, shape }), Some(Op::Broadcast { dims: inner, .. })) =
            (m.op(g, 0).cloned(), m.op(g, 1))
        else {
            return None;
        };
        let dims: Dims = inner.iter().map(|&d| outer[d as usize]).collect();
        g.broadcast(m.vars[0], &dims, &shape)
    }),
    rule("broadcast-to-itself", "(broadcast ?x)", "?x", None, |g, m| {
        (g.ty(m.root) == g.ty(m.vars[0])).then_some(m.vars[0])
    }),
    rule("broadcast-of-unit-dims", "(broadcast ?x)", "(reshape ?x)", None, |g, m| {
        let to = g.shape(m.root).clone();
        (to.elements() == g.shape(m.vars[0]).elements()).then_some(())?;
        g.reshape(m.vars[0], to)
    }),
    rule("slice-slice", "(slice (slice ?x))", "(slice ?x)", Some(not_cyclic), |g, m| {
        let (Some(Op::Slice { starts: s1, shape, steps: t1 }), Some(Op::Slice { starts: s0, steps: t0, .. })) =
            (m.op(g, 0).cloned(), m.op(g, 1).cloned())
        else {
            return None;
        };
        let starts = (0..s0.len()).map(|d| Some(s0[d] + s1[d].checked_mul(t0[d])?)).collect::<Option<_>>()?;
        let steps = (0..t0.len()).map(|d| t0[d].checked_mul(t1[d])).collect::<Option<_>>()?;
        g.slice(m.vars[0], starts, shape, steps)
    }),
    rule("slice-of-all", "(slice ?x)", "?x", None, |g, m| {
        let Some(Op::Slice { starts, shape, steps }) = m.op(g, 0) else { return None };
        let all = *shape == *g.shape(m.vars[0])
            && starts.iter().all(|&s| s == 0)
            && steps.iter().zip(shape.iter()).all(|(&t, &n)| t == 1 || n == 1);
        all.then_some(m.vars[0])
    }),
    rule("slice-of-concat", "(slice (concat ...))", "(slice ?x)", None, slice_of_concat),
];

/// A class that is its own operand (a move that was found to move nothing) composes with itself without end.
fn not_cyclic(g: &Graph, m: &Match) -> bool {
    m.args(0).iter().all(|&x| g.eg.find(x) != g.eg.find(m.root))
        && m.args(1).iter().all(|&x| g.eg.find(x) != g.eg.find(m.root))
}

/// The permutation that pattern operator `i` matched.
fn perm(g: &Graph, m: &Match, i: usize) -> Option<Dims> {
    let Op::Permute { perm } = m.op(g, i)? else { return None };
    Some(perm.clone())
}

/// `permute(f(x, ..)) = f(permute(x), ..)`, for concat with its axis renamed.
fn through_elementwise(g: &mut Graph, m: &Match) -> Option<Id> {
    let perm = perm(g, m, 0)?;
    let op = match m.op(g, 1)?.clone() {
        Op::Concat { axis } => Op::Concat { axis: inverse(&perm)[axis as usize] },
        other => other,
    };
    let args = m.args(1).iter().map(|&x| g.permute(x, &perm)).collect::<Option<Vec<Id>>>()?;
    g.add(op, &args)
}

/// A slice that lies within one operand of the concatenation.
fn slice_of_concat(g: &mut Graph, m: &Match) -> Option<Id> {
    let (Some(Op::Slice { starts, shape, steps }), Some(Op::Concat { axis })) =
        (m.op(g, 0).cloned(), m.op(g, 1).cloned())
    else {
        return None;
    };
    let axis = axis as usize;
    let last = starts[axis] + steps[axis] * (i64::try_from(shape[axis]).ok()? - 1);
    let (low, high) = (starts[axis].min(last), starts[axis].max(last));
    let mut offset = 0;
    for &part in m.args(1) {
        let size = i64::try_from(g.shape(part)[axis]).ok()?;
        if shape[axis] > 0 && low >= offset && high < offset + size {
            let mut starts = starts;
            starts[axis] -= offset;
            return g.slice(part, starts, shape, steps);
        }
        offset += size;
    }
    None
}
