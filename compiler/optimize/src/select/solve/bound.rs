//! A lower bound on the cost of every choice within a budget, by Lagrangian relaxation.
//!
//! For any multiplier `p / q >= 0`, the least `q cost + p error` over all choices, less `p budget`, divided by `q`, is at most
//! the cost of any choice whose error is within the budget. That least value is a scalar bucket elimination; where a table
//! would be too large, the bucket is split (mini-buckets), which lets one variable take different values in the parts and so only
//! lowers the bound.

use std::collections::BTreeSet;

use super::eliminate::order;
use super::{FORBIDDEN, Frontier, Limits, Problem, assignments};

/// What is left of a factor: its weighted charges.
struct Weighted {
    scope: Vec<usize>,
    table: Vec<u128>,
}

/// Weight of a forbidden entry: more than any sum of others, and such that sums of it do not overflow.
const NEVER: u128 = u128::MAX >> 16;

/// At most the cost of every choice whose error is within `budget`; `found` is the frontier, complete or not, whose slopes
/// are the multipliers that are tried.
pub fn lower_bound(problem: &Problem, found: &Frontier, budget: u64, limits: Limits) -> u64 {
    let mut bound = 0;
    for (p, q) in slopes(found, budget) {
        let least = relaxed(problem, p, q, limits);
        if least >= NEVER {
            continue;
        }
        let slack = least.saturating_sub(u128::from(p) * u128::from(budget)) / u128::from(q.max(1));
        bound = bound.max(u64::try_from(slack).unwrap_or(u64::MAX));
    }
    bound
}

/// Multipliers (cost per error, as fractions): those of the convex hull of the frontier beside the budget, and zero.
fn slopes(found: &Frontier, budget: u64) -> Vec<(u64, u64)> {
    let points: Vec<(i128, i128)> =
        found.solutions.iter().map(|s| (i128::from(s.charge.error), i128::from(s.charge.cost))).collect();
    // The lower convex hull, by descending error as the frontier is ordered.
    let mut hull: Vec<(i128, i128)> = Vec::new();
    for &point in &points {
        while let [.., a, b] = hull[..] {
            let cross = (a.0 - b.0) * (point.1 - b.1) - (b.0 - point.0) * (b.1 - a.1);
            if cross > 0 {
                break;
            }
            hull.pop();
        }
        hull.push(point);
    }
    let mut slopes = vec![(0, 1)];
    let at = hull.iter().position(|&(error, _)| error <= i128::from(budget)).unwrap_or(hull.len());
    for i in at.saturating_sub(2)..(at + 2).min(hull.len()) {
        if let Some(next) = hull.get(i + 1) {
            let (rise, run) = (next.1 - hull[i].1, hull[i].0 - next.0);
            if let (Ok(mut p), Ok(mut q)) = (u64::try_from(rise), u64::try_from(run))
                && q > 0
            {
                // Fewer digits: any multiplier gives a bound, and products must not overflow.
                while p.max(q) >= 1 << 40 {
                    p >>= 1;
                    q >>= 1;
                }
                if q > 0 {
                    slopes.push((p, q));
                }
            }
        }
    }
    slopes
}

/// At most the least `q cost + p error` over all choices.
fn relaxed(problem: &Problem, p: u64, q: u64, limits: Limits) -> u128 {
    let (mut vars, pinned) = order(problem, limits.table);
    // Pinned variables are free here: they go last, in mini-buckets.
    vars.extend(pinned.iter().enumerate().filter(|(_, p)| p.is_some()).map(|(v, _)| v));
    let weigh = |cost: u64, error: u64| {
        if cost == FORBIDDEN {
            NEVER
        } else {
            (u128::from(cost) * u128::from(q) + u128::from(error) * u128::from(p)).min(NEVER)
        }
    };
    let mut factors: Vec<Weighted> = problem
        .factors
        .iter()
        .map(|f| Weighted {
            scope: f.scope.clone(),
            table: f.table.iter().map(|c| weigh(c.cost, c.error)).collect(),
        })
        .collect();
    let mut total = 0u128;
    for var in vars {
        let (with, rest): (Vec<_>, Vec<_>) = factors.into_iter().partition(|f| f.scope.contains(&var));
        factors = rest;
        let mut minis: Vec<Vec<Weighted>> = Vec::new();
        for factor in with {
            let fits = |mini: &Vec<Weighted>| {
                let scope: BTreeSet<usize> =
                    mini.iter().flat_map(|f| &f.scope).chain(&factor.scope).copied().collect();
                let entries = scope.iter().filter(|&&v| v != var).map(|&v| problem.domains[v]);
                entries.fold(1usize, usize::saturating_mul) <= limits.table.max(1)
            };
            match minis.iter().position(fits) {
                Some(at) => minis[at].push(factor),
                None => minis.push(vec![factor]),
            }
        }
        for mini in minis {
            let left = minimise(problem, var, &mini);
            if left.scope.is_empty() {
                total = total.saturating_add(left.table[0]).min(NEVER);
            } else {
                factors.push(left);
            }
        }
    }
    factors.iter().fold(total, |sum, f| sum.saturating_add(f.table[0]).min(NEVER))
}

fn minimise(problem: &Problem, var: usize, factors: &[Weighted]) -> Weighted {
    let scope: BTreeSet<usize> = factors.iter().flat_map(|f| &f.scope).copied().collect();
    let scope: Vec<usize> = scope.into_iter().filter(|&v| v != var).collect();
    let sizes: Vec<usize> = scope.iter().map(|&v| problem.domains[v]).collect();
    let table = assignments(&sizes).map(|values| {
        let of = |value: usize| {
            factors.iter().fold(0u128, |sum, f| {
                let at = f.scope.iter().fold(0, |at, &v| {
                    let own = if v == var { value } else { scope.binary_search(&v).map_or(0, |i| values[i]) };
                    at * problem.domains[v] + own
                });
                sum.saturating_add(f.table[at]).min(NEVER)
            })
        };
        (0..problem.domains[var]).map(of).min().unwrap_or(NEVER)
    });
    Weighted { table: table.collect(), scope }
}
