//! Contractions of one value by several constants become one contraction by the constants in a row, and slices of
//! its result: the query, key and value projections of attention, gate and up of a feed-forward block.
//!
//! This is a hook that runs once on what was extracted, not a rule: as a pattern over pairs it multiplies nodes
//! without end. Constants depend on nothing, so no merged contraction can need its own result.

use egg::{Id, Language};
use indexmap::IndexMap;
use lacuna_ir::op::{BinaryOp, ContractMap};
use lacuna_ir::{Op, Shape};
use lacuna_isa::format::ScalarType;

use super::{RuleClass, RuleInfo};
use crate::extract::{Bundle, Choice};
use crate::graph::{Graph, Source};
use crate::views::along;

/// Name of the hook in reports.
pub const NAME: &str = INFO.name;

/// What users are told of it. Each element of the result is the sum that it was.
pub const INFO: RuleInfo = RuleInfo {
    name: "merge-contractions",
    class: RuleClass::E0,
    may_change: "",
    before: "(contract ?x $v) and (contract ?x $w)",
    after: AFTER,
};

/// What a merged contraction becomes, for people.
pub const AFTER: &str = "(slice (contract ?x (concat $w ..)))";

/// What contractions must agree on to be merged.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    value: Id,
    constant: usize,
    map: ContractMap,
    elem: ScalarType,
    others: Vec<u64>,
    w_dim: usize,
}

struct Member {
    class: Id,
    weight: Id,
    bias: Option<(Id, Id)>,
    source: Source,
}

/// Adds merged contractions to the graph for all that `order` (a chosen result, operands first) contains.
/// `applications` numbers the applications made so far. The graph is not rebuilt.
pub fn merge(g: &mut Graph, choice: &Choice, order: &[Id], roots: &[Id], applications: usize) -> Vec<Bundle> {
    let mut bundles = Vec::new();
    for (key, members) in groups(g, choice, order, roots) {
        if members.len() < 2 {
            continue;
        }
        let mut source = Source::default();
        for member in &members {
            source.join(&member.source);
        }
        let mut own = source.clone();
        own.applications.push((applications + bundles.len()) as u32);
        g.source = own;
        if let Some((merged, classes)) = merge_group(g, &key, &members) {
            let before = format!("{} x (contract {}) of {}", members.len(), key.map, g.ty(key.value));
            bundles.push(Bundle { members: classes, merged, source, before });
        }
    }
    bundles
}

fn groups(g: &Graph, choice: &Choice, order: &[Id], roots: &[Id]) -> IndexMap<Key, Vec<Member>> {
    let mut users: IndexMap<Id, Vec<Id>> = IndexMap::new();
    for &class in order {
        for &child in choice.term(g, class).map_or(&[][..], |t| t.children()) {
            users.entry(g.eg.find(child)).or_default().push(class);
        }
    }
    let mut groups: IndexMap<Key, Vec<Member>> = IndexMap::new();
    for &class in order {
        let Some(term) = choice.term(g, class) else { continue };
        let (Some(Op::Contract { map, elem }), &[a, b]) = (g.op(term), term.children()) else { continue };
        let constant = match (g.is_const(a), g.is_const(b)) {
            (true, false) => 0,
            (false, true) => 1,
            (true, true) | (false, false) => continue,
        };
        let (value, weight) = if constant == 0 { (b, a) } else { (a, b) };
        let (own, others) = if constant == 0 { (&map.a, &map.b) } else { (&map.b, &map.a) };
        let Some(w_dim) = own.iter().position(|l| map.out.contains(l) && !others.contains(l)) else {
            continue;
        };
        let mut rest = g.shape(weight).0.clone();
        rest.remove(w_dim);
        if g.elem(weight).is_none() {
            continue;
        }
        // A bias that is added to this result alone moves along.
        let used = users.get(&class).map_or(&[][..], Vec::as_slice);
        let result = roots.iter().any(|&r| g.eg.find(r) == class);
        let bias = if let (&[user], false) = (used, result) { bias_of(g, choice, user, class) } else { None };
        let mut source = g.sources.get(term).cloned().unwrap_or_default();
        if let Some(s) = bias.and_then(|(user, _)| g.sources.get(choice.term(g, user)?)) {
            source.join(s);
        }
        let key =
            Key { value: g.eg.find(value), constant, map: map.clone(), elem: *elem, others: rest, w_dim };
        groups.entry(key).or_default().push(Member { class, weight, bias, source });
    }
    groups
}

/// The class of `class + constant` and the constant, if that is what `user` is.
fn bias_of(g: &Graph, choice: &Choice, user: Id, class: Id) -> Option<(Id, Id)> {
    let term = choice.term(g, user)?;
    let (Op::Binary { op: BinaryOp::Add }, &[x, c]) = (g.op(term)?, term.children()) else { return None };
    (g.eg.find(x) == class && g.is_const(c)).then_some((user, c))
}

fn merge_group(g: &mut Graph, key: &Key, members: &[Member]) -> Option<(Id, Vec<Id>)> {
    let weights: Vec<Id> = members.iter().map(|m| m.weight).collect();
    let label = if key.constant == 0 { key.map.a[key.w_dim] } else { key.map.b[key.w_dim] };
    let d = key.map.out.iter().position(|l| *l == label)?;
    let weight = g.add(Op::Concat { axis: key.w_dim as u8 }, &weights)?;
    let args = if key.constant == 0 { [weight, key.value] } else { [key.value, weight] };
    let mut merged = g.add(Op::Contract { map: key.map.clone(), elem: key.elem }, &args)?;

    let mut classes: Vec<Id> = members.iter().map(|m| m.class).collect();
    let biases: Option<Vec<Id>> =
        members.iter().map(|m| m.bias.and_then(|(_, c)| along(g, c, &[d as u8]))).collect();
    if let Some(biases) = biases {
        let row = g.add(Op::Concat { axis: 0 }, &biases)?;
        let shape = g.shape(merged).clone();
        let row = g.broadcast(row, &[d as u8], &shape)?;
        merged = g.binary(BinaryOp::Add, merged, row)?;
        classes = members.iter().filter_map(|m| m.bias.map(|(user, _)| user)).collect();
    }

    let rank = g.shape(merged).rank();
    let mut start = 0;
    for (&class, member) in classes.iter().zip(members) {
        let mut starts = vec![0; rank];
        starts[d] = start;
        let shape: Shape = g.shape(class).clone();
        start += i64::try_from(g.shape(member.weight)[key.w_dim]).ok()?;
        let slice = g.add(Op::Slice { starts, shape, steps: vec![1; rank] }, &[merged])?;
        g.eg.union(class, slice);
    }
    Some((merged, classes))
}
