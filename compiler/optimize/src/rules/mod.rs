//! The rules of the exact phase: each has a name, one direction, a class and a guard, grouped by theme.
//!
//! | file | theme |
//! |---|---|
//! | [`folding`] | scales into the constant operand of contractions |
//! | [`algebra`] | constants meet constants; identities |
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
pub mod epilogue;
pub mod folding;
pub mod fusion;
pub mod layout;
pub mod merging;
pub mod packing;
#[cfg(test)]
mod tests;
pub mod zeros;

use std::fmt;

use egg::Id;

use crate::graph::Graph;
use crate::pattern::Match;

/// In which sense the two sides of a rule are equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RuleClass {
    /// Equal bits on all inputs when each operator rounds to its type.
    E0,
    /// Equal bits on finite inputs, where zeros of both signs are one.
    E0f,
    /// Equal over the real numbers.
    E1,
}

impl fmt::Display for RuleClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RuleClass::E0 => "E0",
            RuleClass::E0f => "E0f",
            RuleClass::E1 => "E1",
        })
    }
}

/// A rewrite rule.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Its name in reports.
    pub name: &'static str,
    /// In which sense it is exact.
    pub class: RuleClass,
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
    ]
    .concat()
}

/// Name and class of every rule, in the order in which they run, and of the hook that merges contractions between the
/// two phases.
pub fn rule_names() -> Vec<(&'static str, RuleClass)> {
    let names = |rules: Vec<Rule>| rules.into_iter().map(|r| (r.name, r.class)).collect::<Vec<_>>();
    [names(all()), vec![(merging::NAME, RuleClass::E0)], names(packing::RULES.to_vec())].concat()
}

/// The result is of a floating-point type.
fn float(g: &Graph, m: &Match) -> bool {
    g.is_float(m.root)
}
