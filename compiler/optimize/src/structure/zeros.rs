//! The zero structure of one value.

use std::sync::Arc;

use super::Indices;

/// Zero structure; the default knows nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Zeros {
    /// Whether every element is zero, of either sign.
    pub all: bool,
    /// Bit `d`: along dimension `d` the elements follow a pattern that halves the work at least.
    pub halved: u8,
    /// Whether many elements are probably zero when the program runs, as after ReLU and gating. For decisions about
    /// cost only.
    pub at_run_time: bool,
    /// For dimensions that have any, ascending: indices at which every element is zero. Empty where `all`.
    pub(super) dead: Vec<(u8, Arc<Indices>)>,
}

impl Zeros {
    /// Indices along a dimension at which every element is known to be zero; `None` where there is none, or where
    /// everything is zero.
    pub fn dead(&self, d: u8) -> Option<&Indices> {
        self.dead.iter().find(|(e, _)| *e == d).map(|(_, set)| &**set)
    }

    /// What is known from either of two sources.
    pub fn join(&self, other: &Zeros) -> Zeros {
        let mut both = self.clone();
        both.all |= other.all;
        both.halved |= other.halved;
        both.at_run_time |= other.at_run_time;
        if both.all {
            both.dead.clear();
        }
        other.dead.iter().for_each(|(d, set)| both.add(*d, set));
        both
    }

    pub(super) fn zero() -> Zeros {
        Zeros { all: true, ..Zeros::default() }
    }

    pub(super) fn add(&mut self, d: u8, set: &Indices) {
        if self.all || set.is_empty() {
            return;
        }
        let at = self.dead.iter().position(|(e, _)| *e == d);
        let joined = at.map_or_else(|| set.clone(), |i| self.dead[i].1.or(set));
        if joined.is_full() {
            self.all = true;
            self.dead.clear();
            return;
        }
        match at {
            Some(i) => self.dead[i].1 = Arc::new(joined),
            None => {
                let place = self.dead.partition_point(|(e, _)| *e < d);
                self.dead.insert(place, (d, Arc::new(joined)));
            }
        }
    }

    /// The zeros that two values have in common: those of a function of both that is zero where both are.
    pub(super) fn common(&self, other: &Zeros) -> Zeros {
        if self.all || other.all {
            return if self.all { other.clone() } else { self.clone() };
        }
        let mut both = Zeros::default();
        for (d, set) in &self.dead {
            if let Some(own) = other.dead(*d) {
                both.add(*d, &set.and(own));
            }
        }
        both
    }

    /// The dead indices of dimensions that `place` gives a new number.
    pub(super) fn moved(&self, place: impl Fn(u8) -> Option<u8>) -> Zeros {
        let mut moved = Zeros { all: self.all, ..Zeros::default() };
        for (d, set) in &self.dead {
            if let Some(to) = place(*d) {
                moved.add(to, set);
            }
        }
        moved
    }
}
