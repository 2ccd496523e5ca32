//! The joint choice as a factor graph: variables with few values, and factors that charge cost and error.
//!
//! [`frontier`] computes the Pareto frontier of (cost, error) by bucket elimination: variables go one by one in
//! min-fill order, and what remains of each is a factor over its neighbours whose entries are frontiers themselves. Where nothing
//! couples, this is the exact dynamic program of the multiple-choice knapsack. Integers only, no clock, no hash order:
//! equal problems have equal answers.
//!
//! Two limits keep it small. A frontier longer than [`Limits::points`] is thinned, and a variable whose elimination would need a
//! table larger than [`Limits::table`] is pinned to one value. Every point is still a real choice with its true cost; what is
//! lost is the proof of optimality, and [`lower_bound`] says by how much at most.

mod bound;
mod eliminate;
#[cfg(test)]
mod tests;

pub use bound::lower_bound;
pub use eliminate::frontier;

/// Cost of an entry that no choice may use.
pub const FORBIDDEN: u64 = u64::MAX;

/// Cost and error of an entry, of a factor, or of a whole choice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Charge {
    /// Cost, minimised; [`FORBIDDEN`] excludes the entry.
    pub cost: u64,
    /// Error, bounded by the budget.
    pub error: u64,
}

impl Charge {
    /// A charge of both.
    pub const fn new(cost: u64, error: u64) -> Charge {
        Charge { cost, error }
    }

    /// The entry that no choice may use.
    pub const fn forbidden() -> Charge {
        Charge { cost: FORBIDDEN, error: FORBIDDEN }
    }

    /// Both together; forbidden if one is.
    pub fn plus(self, other: Charge) -> Charge {
        if self.cost == FORBIDDEN || other.cost == FORBIDDEN {
            return Charge::forbidden();
        }
        // A sum never becomes FORBIDDEN by overflow.
        let add = |a: u64, b: u64| a.saturating_add(b).min(FORBIDDEN - 1);
        Charge { cost: add(self.cost, other.cost), error: add(self.error, other.error) }
    }
}

/// A charge for each combination of values of some variables.
#[derive(Clone, Debug)]
pub struct Factor {
    /// The variables, ascending and different.
    pub scope: Vec<usize>,
    /// One entry for each combination, the last variable of the scope fastest.
    pub table: Vec<Charge>,
}

/// Variables and factors. The charge of a choice is the sum of the factors' entries.
#[derive(Clone, Debug, Default)]
pub struct Problem {
    /// Number of values of each variable.
    pub domains: Vec<usize>,
    /// The factors.
    pub factors: Vec<Factor>,
}

impl Problem {
    /// A new variable with `n` values.
    pub fn variable(&mut self, n: usize) -> usize {
        self.domains.push(n);
        self.domains.len() - 1
    }

    /// A new factor over `scope` (ascending); `charge` gets the value of each variable of the scope.
    pub fn factor(&mut self, scope: &[usize], mut charge: impl FnMut(&[usize]) -> Charge) {
        debug_assert!(scope.windows(2).all(|w| w[0] < w[1]), "a scope is ascending");
        let sizes: Vec<usize> = scope.iter().map(|&v| self.domains[v]).collect();
        let table = assignments(&sizes).map(|values| charge(&values)).collect();
        self.factors.push(Factor { scope: scope.to_vec(), table });
    }

    /// What a choice of one value for each variable is charged.
    #[cfg(test)]
    pub fn charge(&self, choice: &[usize]) -> Charge {
        self.factors.iter().fold(Charge::default(), |sum, factor| {
            let at = factor.scope.iter().fold(0, |at, &v| at * self.domains[v] + choice[v]);
            sum.plus(factor.table[at])
        })
    }
}

/// Every combination of values of variables with these numbers of values, the last fastest.
pub fn assignments(sizes: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<> {
    let sizes = sizes.to_vec();
    let total: usize = sizes.iter().product();
    (0..total).map(move |mut at| {
        let mut values = vec![0; sizes.len()];
        for (value, &n) in values.iter_mut().zip(&sizes).rev() {
            *value = at % n;
            at /= n;
        }
        values
    })
}

/// How large intermediate results may become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Points of a frontier.
    pub points: usize,
    /// Entries of the table that is left of an eliminated variable.
    pub table: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { points: 4096, table: 1 << 12 }
    }
}

/// A choice on the frontier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Solution {
    /// A value for each variable.
    pub choice: Vec<usize>,
    /// Its cost and error.
    pub charge: Charge,
}

/// Choices of which none is better in cost and error than another: cost ascends, error descends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frontier {
    /// The choices; empty only if every choice is forbidden.
    pub solutions: Vec<Solution>,
    /// Whether the frontier is complete: no limit was reached.
    pub exact: bool,
}

impl Frontier {
    /// Number of the cheapest choice whose error is within the budget.
    pub fn within(&self, budget: u64) -> Option<usize> {
        self.solutions.iter().position(|s| s.charge.error <= budget)
    }
}
