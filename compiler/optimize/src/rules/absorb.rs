//! Contractions name their dimensions, so the movement around them is a change of names: permutations, unit
//! dimensions, and repetition (the shared keys and values of grouped-query attention are never materialised).

use egg::Id;
use lacuna_ir::op::{ContractMap, Dims};
use lacuna_ir::{Op, Shape};

use super::{Guard, Rule, RuleClass};
use crate::graph::{Graph, inverse};
use crate::pattern::Match;
use crate::views::{parts, views};

const fn rule(
    name: &'static str,
    before: &'static str,
    after: &'static str,
    guard: Option<Guard>,
    apply: fn(&mut Graph, &Match) -> Option<Id>,
) -> Rule {
    Rule { name, class: RuleClass::E0, may_change: "", before, after, guard, apply }
}

/// The rules of this file.
pub const RULES: &[Rule] = &[
    rule(
        "contract-absorbs-left-permute",
        "(contract (permute ?x) ?y)",
        "(contract ?x ?y)",
        Some(|g, m| sum_order_stays(g, m, 0)),
        |g, m| absorb_permute(g, m, 0),
    ),
    rule("contract-absorbs-right-permute", "(contract ?x (permute ?y))", "(contract ?x ?y)", None, |g, m| {
        absorb_permute(g, m, 1)
    }),
    rule("permute-into-contract", "(permute (contract ?x ?y))", "(contract ?x ?y)", None, |g, m| {
        let (Some(Op::Permute { perm }), Some(Op::Contract { map, elem })) = (m.op(g, 0), m.op(g, 1)) else {
            return None;
        };
        let out = perm.iter().map(|&p| map.out[p as usize]).collect();
        let op = Op::Contract { map: ContractMap { out, ..map.clone() }, elem: *elem };
        g.add(op, &m.vars)
    }),
    rule("conv-absorbs-permute", "(conv (permute ?x) ?w)", "(conv ?x ?w)", None, |g, m| {
        let (Some(Op::Conv { attrs, elem }), Some(Op::Permute { perm })) = (m.op(g, 0), m.op(g, 1)) else {
            return None;
        };
        let mut attrs = attrs.clone();
        attrs.x = attrs.x.iter().map(|&d| perm[d as usize]).collect();
        let op = Op::Conv { attrs, elem: *elem };
        g.add(op, &m.vars)
    }),
    rule("permute-into-conv", "(permute (conv ?x ?w))", "(conv ?x ?w)", None, |g, m| {
        let (Some(Op::Permute { perm }), Some(Op::Conv { attrs, elem })) = (m.op(g, 0), m.op(g, 1)) else {
            return None;
        };
        let mut attrs = attrs.clone();
        let inverse = inverse(perm);
        attrs.out = attrs.out.iter().map(|&d| inverse[d as usize]).collect();
        let op = Op::Conv { attrs, elem: *elem };
        g.add(op, &m.vars)
    }),
    rule(
        "contract-without-unit-labels",
        "(contract ?x ?y)",
        "(reshape (contract (reshape ?x) (reshape ?y)))",
        None,
        unit_labels,
    ),
    rule(
        "contract-absorbs-left-broadcast",
        "(contract (broadcast ?x) ?y)",
        "(contract ?x ?y)",
        None,
        |g, m| absorb_broadcast(g, m, 0),
    ),
    rule(
        "contract-absorbs-right-broadcast",
        "(contract ?x (broadcast ?y))",
        "(contract ?x ?y)",
        None,
        |g, m| absorb_broadcast(g, m, 1),
    ),
    rule(
        "contract-splits-left-label",
        "(contract (reshape ?x) ?y)",
        "(reshape (contract ?x (reshape ?y)))",
        Some(|g, m| repeats(g, m.vars[0])),
        |g, m| split_labels(g, m, 0, m.vars[0], Split::All),
    ),
    rule(
        "contract-splits-right-label",
        "(contract ?x (reshape ?y))",
        "(reshape (contract (reshape ?x) ?y))",
        Some(|g, m| repeats(g, m.vars[1])),
        |g, m| split_labels(g, m, 1, m.vars[1], Split::All),
    ),
    rule(
        "contract-splits-permuted-rows",
        "(contract (reshape (permute ?x)) ?y)",
        "(reshape (contract (reshape ?x) ?y))",
        None,
        |g, m| split_labels(g, m, 0, m.args(1)[0], Split::Kept),
    ),
];

/// Whether a class is known to repeat a smaller value.
fn repeats(g: &Graph, id: Id) -> bool {
    let all = g.shape(id).elements();
    views(g, id).iter().any(|v| g.shape(v.core).elements() < all)
}

fn contract(g: &Graph, m: &Match, i: usize) -> Option<(ContractMap, lacuna_isa::format::ScalarType)> {
    let Op::Contract { map, elem } = m.op(g, i)? else { return None };
    Some((map.clone(), *elem))
}

/// Labels of one operand.
fn labels(map: &mut ContractMap, side: usize) -> &mut Dims {
    if side == 0 { &mut map.a } else { &mut map.b }
}

/// The first operand's order of summed labels is the order of summation: a permutation must not change it.
fn sum_order_stays(g: &Graph, m: &Match, side: usize) -> bool {
    let (Some((mut map, _)), Some(Op::Permute { perm })) = (contract(g, m, 0), m.op(g, 1)) else {
        return false;
    };
    let before = map.summed();
    let own = labels(&mut map, side);
    let mut moved = own.clone();
    for (i, &p) in perm.iter().enumerate() {
        moved[p as usize] = own[i];
    }
    *own = moved;
    map.summed() == before
}

fn absorb_permute(g: &mut Graph, m: &Match, side: usize) -> Option<Id> {
    let (mut map, elem) = contract(g, m, 0)?;
    let Some(Op::Permute { perm }) = m.op(g, 1) else { return None };
    let own = labels(&mut map, side);
    let mut moved = own.clone();
    for (i, &p) in perm.iter().enumerate() {
        moved[p as usize] = own[i];
    }
    *own = moved;
    g.add(Op::Contract { map, elem }, &m.vars)
}

fn unit_labels(g: &mut Graph, m: &Match) -> Option<Id> {
    [m.root, m.vars[0], m.vars[1]].iter().any(|&v| g.shape(v).contains(&1)).then_some(())?;
    let (map, elem) = contract(g, m, 0)?;
    let size = |l: u8| {
        let at = |labels: &[u8], v: Id| labels.iter().position(|&k| k == l).map(|d| g.shape(v)[d]);
        at(&map.a, m.vars[0]).or_else(|| at(&map.b, m.vars[1]))
    };
    let keep = |labels: &[u8]| labels.iter().copied().filter(|&l| size(l) != Some(1)).collect::<Dims>();
    let small = ContractMap { a: keep(&map.a), b: keep(&map.b), out: keep(&map.out) };
    let unit = |labels: &[u8]| labels.iter().map(|l| size(*l) == Some(1)).collect::<Vec<bool>>();
    let (a_units, b_units) = (unit(&map.a), unit(&map.b));
    let shape = g.shape(m.root).clone();
    let a = g.drop_dims(m.vars[0], |d| a_units[d])?;
    let b = g.drop_dims(m.vars[1], |d| b_units[d])?;
    let result = g.add(Op::Contract { map: small, elem }, &[a, b])?;
    g.reshape(result, shape)
}

fn absorb_broadcast(g: &mut Graph, m: &Match, side: usize) -> Option<Id> {
    let (mut map, elem) = contract(g, m, 0)?;
    let Some(Op::Broadcast { dims, shape }) = m.op(g, 1).cloned() else { return None };
    let inner = g.shape(m.vars[side]).clone();
    let other = if side == 0 { map.b.clone() } else { map.a.clone() };
    let own = labels(&mut map, side).clone();
    let kept = |d: usize| dims.iter().position(|&k| k as usize == d).is_some_and(|i| inner[i] == shape[d]);
    let dropped: Dims = (0..own.len()).filter(|&d| !kept(d)).map(|d| own[d]).collect();
    // A label that is summed over needs both operands; one that only this operand has repeats the result.
    if dropped.iter().any(|l| other.contains(l) && !map.out.contains(l)) {
        return None;
    }
    let full = g.shape(m.root).clone();
    let repeated = |l: &u8| dropped.contains(l) && !other.contains(l);
    let places: Dims = (0..map.out.len()).filter(|&d| !repeated(&map.out[d])).map(|d| d as u8).collect();
    map.out.retain(|l| !repeated(l));
    labels(&mut map, side).retain(|l| !dropped.contains(l));
    let mut args = m.vars.clone();
    args[side] = g.drop_dims(args[side], |i| inner[i] != shape[dims[i] as usize])?;
    let result = g.add(Op::Contract { map, elem }, &args)?;
    g.broadcast(result, &places, &full)
}

/// For a reshape from `inner` to `outer` that merges neighbours: sizes of the merged dimensions for each outer one.
fn merged(inner: &Shape, outer: &Shape) -> Option<Vec<Vec<u64>>> {
    let sizes = |dims: Dims| match dims[..] {
        [] => vec![1],
        [..] => dims.iter().map(|&d| inner[d as usize]).collect(),
    };
    Some(parts(inner, outer)?.into_iter().map(sizes).collect())
}

/// Which labels of an operand are split.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Split {
    /// Every label.
    All,
    /// Those that the result has too.
    Kept,
}

/// The contraction whose operand `side` is a reshape of `x` that merges dimensions, with a label for each of them.
fn split_labels(g: &mut Graph, m: &Match, side: usize, x: Id, split: Split) -> Option<Id> {
    let (mut map, elem) = contract(g, m, 0)?;
    let outer = g.shape(m.args(0)[side]).clone();
    let mut parts = merged(g.shape(x), &outer)?;
    if split == Split::Kept {
        let own = labels(&mut map, side).clone();
        for (sizes, _) in parts.iter_mut().zip(own).filter(|(_, l)| !map.out.contains(l)) {
            *sizes = vec![sizes.iter().product()];
        }
    }
    if parts.iter().all(|p| p.len() == 1) || outer.contains(&0) {
        return None;
    }
    let own = labels(&mut map, side).clone();
    let mut fresh = own.iter().chain(&map.out).chain(&map.a).chain(&map.b).max().map_or(0, |l| l + 1);
    // New labels for the parts of each old one.
    let mut names: Vec<(u8, Dims, Vec<u64>)> = Vec::new();
    for (d, sizes) in parts.into_iter().enumerate() {
        let labels =
            if sizes.len() == 1 { vec![own[d]] } else { (fresh..fresh + sizes.len() as u8).collect() };
        if sizes.len() > 1 {
            fresh += sizes.len() as u8;
        }
        names.push((own[d], labels, sizes));
    }
    if fresh > 26 {
        return None;
    }
    let split = |labels: &[u8], shape: &Shape| {
        let mut new = (Dims::new(), Vec::new());
        for (&l, &n) in labels.iter().zip(shape.iter()) {
            match names.iter().find(|(old, ..)| *old == l) {
                Some((_, labels, sizes)) => {
                    new.0.extend(labels);
                    new.1.extend(sizes);
                }
                None => {
                    new.0.push(l);
                    new.1.push(n);
                }
            }
        }
        (new.0, Shape(new.1))
    };
    let (a, a_shape) = split(&map.a, g.shape(m.args(0)[0]));
    let (b, b_shape) = split(&map.b, g.shape(m.args(0)[1]));
    let full = g.shape(m.root).clone();
    let (out, _) = split(&map.out, &full);
    let mut operands = [m.args(0)[0], m.args(0)[1]];
    operands[side] = x;
    let left = g.reshape(operands[0], a_shape)?;
    let right = g.reshape(operands[1], b_shape)?;
    let result = g.add(Op::Contract { map: ContractMap { a, b, out }, elem }, &[left, right])?;
    g.reshape(result, full)
}
