//! The rules of the exact phase: each has a name, one direction, a class and a guard, grouped by theme.
//!
//! | file | theme |
//! |---|---|
//! | [`folding`] | scales and biases into the constant operand of contractions |
//! | [`algebra`] | identities; work before repetition |
//! | [`relaxed`] | constants meet constants, reciprocals: only where the user allows it |
//! | [`layout`] | permutations, reshapes, broadcasts and slices move and cancel |
//! | [`absorb`] | contractions take over the movement around them |
//! | [`epilogue`] | scales and reshapes move behind contractions |
//! | [`fusion`] | normalisations from their parts |
//! | [`attention`] | softmax and attention from their parts |
//! | [`zeros`] | terms and channels of zeros are not computed |
//! | [`packing`] | conversions to narrow formats move, meet and vanish (after selection) |
//! | [`merging`] | contractions of one value by several constants become one (a hook, run once) |

pub mod absorb;
pub mod algebra;
pub mod attention;
mod class;
pub mod epilogue;
pub mod folding;
pub mod fusion;
pub mod layout;
pub mod merging;
pub mod packing;
pub mod relaxed;
#[cfg(test)]
mod tests;
pub mod zeros;

use egg::{Id, Language};
use lacuna_ir::Op;
use lacuna_ir::op::{BinaryOp, CompareOp, UnaryOp};
use lacuna_isa::format::ScalarType;

pub use class::RuleClass;

use crate::extent::{Extent, extent};
use crate::graph::Graph;
use crate::pattern::Match;

/// A rewrite rule.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Its name in reports.
    pub name: &'static str,
    /// In which sense it is exact.
    pub class: RuleClass,
    /// What it may change in the numbers that a model computes, for users; empty where it keeps every bit.
    pub may_change: &'static str,
    /// The pattern that it replaces, in the syntax of [`crate::pattern`].
    pub before: &'static str,
    /// What replaces it, for people.
    pub after: &'static str,
    /// Whether the rule is sound, and worth its nodes, for a match; without one it always is.
    pub guard: Option<Guard>,
    /// The equal class, or `None` where shapes do not permit one.
    pub apply: fn(&mut Graph, &Match) -> Option<Id>,
}

/// A question about a match.
pub type Guard = fn(&Graph, &Match) -> bool;

impl Rule {
    /// Whether the guard, if there is one, permits a match.
    pub fn holds(&self, g: &Graph, m: &Match) -> bool {
        self.guard.is_none_or(|guard| guard(g, m))
    }
}

/// Every rule of the exact phase, in the order in which they run. Those of [`packing`] run after selection.
pub fn all() -> Vec<Rule> {
    [
        algebra::RULES,
        layout::RULES,
        absorb::RULES,
        folding::RULES,
        epilogue::RULES,
        fusion::RULES,
        attention::RULES,
        zeros::RULES,
        relaxed::RULES,
    ]
    .concat()
}

/// What users are told of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleInfo {
    /// Its name in reports.
    pub name: &'static str,
    /// In which sense it is exact.
    pub class: RuleClass,
    /// What it may change in the numbers that a model computes; empty where it keeps every bit.
    pub may_change: &'static str,
    /// What it replaces.
    pub before: &'static str,
    /// What replaces that.
    pub after: &'static str,
}

/// Every rule, in the order in which they run, and the hook that merges contractions between the two phases.
pub fn rule_table() -> Vec<RuleInfo> {
    let rows = |rules: Vec<Rule>| {
        let row = |Rule { name, class, may_change, before, after, .. }: Rule| RuleInfo {
            name,
            class,
            may_change,
            before,
            after,
        };
        rules.into_iter().map(row).collect::<Vec<_>>()
    };
    [rows(all()), vec![merging::INFO], rows(packing::RULES.to_vec())].concat()
}

/// The result is of a floating-point type.
fn float(g: &Graph, m: &Match) -> bool {
    g.is_float(m.root)
}

/// The result is of a type in which only numbers near 10^38 overflow. In f16, sums that are scaled elsewhere overflow
/// elsewhere.
fn wide(g: &Graph, m: &Match) -> bool {
    g.elem(m.root).is_some_and(is_wide)
}

/// Whether a type has at least the exponents of f32.
fn is_wide(elem: ScalarType) -> bool {
    matches!(elem, ScalarType::F32 | ScalarType::F64 | ScalarType::Bf16)
}

/// What takes the place of the constant of a matched product or quotient as a factor.
fn factor(g: &mut Graph, m: &Match, scaled: usize, s: Id) -> Option<Id> {
    if is_quotient(g, m, scaled) { algebra::constant_unary(g, UnaryOp::Recip, s) } else { Some(s) }
}

/// Whether pattern operator `i` matched a quotient.
fn is_quotient(g: &Graph, m: &Match, i: usize) -> bool {
    m.op(g, i) == Some(&Op::Binary { op: BinaryOp::Div })
}

/// Whether the constants `c` and `s`, as a product or quotient as operator `scaled` of the pattern says, become one
/// without an element that is infinite, NaN, or loses bits below the normal numbers. Codes take no factor: they would be
/// codes no more.
fn folds(g: &Graph, m: &Match, scaled: usize, c: Id, s: Id) -> bool {
    if g.facts(c).blocked {
        return false;
    }
    let (Some(elem), Some(own)) = (g.elem(c).filter(|&e| is_wide(e)), extent(&g.eg, c)) else { return false };
    takes_factor(g, m, scaled, s).is_some_and(|s| own.finite && own.times(&s).within(elem))
}

/// Whether a value, after element-wise work and movement, meets a function that is discontinuous in many places, where the last bit of its
/// operand decides.
///
/// With `keeps_sign`, the sign of the value does not change, and a comparison of it with zero does not count.
fn steps_follow(g: &Graph, id: Id, keeps_sign: bool) -> bool {
    let (mut seen, mut todo) = (vec![g.eg.find(id)], vec![g.eg.find(id)]);
    while let Some(class) = todo.pop() {
        for parent in g.eg[class].parents() {
            let term = g.eg.id_to_node(parent);
            let Some(op) = g.op(term) else { continue };
            let next = g.eg.find(parent);
            let of_sign = keeps_sign && is_order(op) && term.children().iter().any(|&a| g.is_zero(a));
            if is_step(op) && !of_sign || seen.len() > MOST_FOLLOWED {
                return true;
            }
            let passes =
                op.is_elementwise() || op.is_movement() || matches!(op, Op::Concat { .. } | Op::Pad { .. });
            if passes && !seen.contains(&next) {
                seen.push(next);
                todo.push(next);
            }
        }
    }
    false
}

/// Values behind a value that are looked at.
const MOST_FOLLOWED: usize = 256;

fn is_power_of_two(x: f64) -> bool {
    const FRACTION: u64 = (1 << 52) - 1;
    x.is_normal() && x.to_bits() & FRACTION == 0
}

fn is_order(op: &Op) -> bool {
    matches!(op, Op::Compare { op: CompareOp::Lt | CompareOp::Le })
}

fn is_step(op: &Op) -> bool {
    match op {
        Op::Unary { op } => matches!(op, UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Sign),
        Op::Binary { op } => matches!(op, BinaryOp::Mod | BinaryOp::Rem),
        Op::Cast { to, .. } => !to.is_float(),
        op => matches!(op, Op::Compare { .. } | Op::ArgReduce { .. } | Op::Sort { .. }),
    }
}

/// The magnitudes of the factor that [`factor`] gives, if it is made of normal numbers and zeros. A quotient or product whose last
/// bit decides something stays one, unless the factor is a power of two, which rounds nothing.
fn takes_factor(g: &Graph, m: &Match, scaled: usize, s: Id) -> Option<Extent> {
    let quotient = is_quotient(g, m, scaled);
    let exact = !quotient && g.splat(s).is_some_and(is_power_of_two);
    if !exact && steps_follow(g, m.root, !quotient) {
        return None;
    }
    let elem = g.elem(s).filter(|&e| is_wide(e))?;
    let given = extent(&g.eg, s).filter(|e| e.finite)?;
    let factor = if quotient { given.inverse()? } else { given };
    factor.within(elem).then_some(factor)
}
