//! In which sense the two sides of a rule are equal.

use std::fmt;

/// In which sense the two sides of a rule are equal, and with it whether the rule runs unless the user asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RuleClass {
    /// Equal bits on all inputs when each operator rounds to its type; every NaN counts as one.
    E0,
    /// Equal bits on finite inputs, where zeros of both signs are one: terms of a sum that a zero makes vanish.
    E0f,
    /// Equal over the real numbers, in the order and the rounding of sums: contractions, reductions, normalisations, and finite
    /// factors and biases that a contraction takes over. Element-wise work of this kind is [`RuleClass::Relaxed`].
    E1,
    /// Equal over the real numbers, where floats may differ in any way: runs only when the user allows it.
    Relaxed,
}

impl RuleClass {
    /// Every class, strictest first.
    pub const ALL: [RuleClass; 4] = [RuleClass::E0, RuleClass::E0f, RuleClass::E1, RuleClass::Relaxed];

    /// What the class promises, in one sentence for users.
    pub const fn promise(self) -> &'static str {
        match self {
            RuleClass::E0 => "equal bits on all inputs, when each operator rounds to its type",
            RuleClass::E0f => "equal bits on finite inputs, where zeros of both signs are one",
            RuleClass::E1 => "equal over the real numbers, in the order and rounding of sums only",
            RuleClass::Relaxed => "equal over the real numbers; runs with `--relaxed` only",
        }
    }
}

impl fmt::Display for RuleClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RuleClass::E0 => "E0",
            RuleClass::E0f => "E0f",
            RuleClass::E1 => "E1",
            RuleClass::Relaxed => "relaxed",
        })
    }
}
