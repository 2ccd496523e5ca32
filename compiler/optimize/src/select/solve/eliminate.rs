//! Bucket elimination over tables of frontiers.

use std::collections::BTreeSet;

use super::{Charge, FORBIDDEN, Frontier, Limits, Problem, Solution, assignments};

/// Most pairs of points that are looked at to join two frontiers; longer ones are thinned first.
const MAX_PAIRS: usize = 1 << 22;

/// How a point came to be, so that the choice can be read back.
#[derive(Clone, Copy)]
enum Origin {
    /// An entry of a factor of the problem.
    Given,
    /// The variable got the value, and the rest is another point.
    Pick { var: u32, value: u32, rest: u32 },
    /// Two points together.
    Join(u32, u32),
}

/// A point of a frontier with its place among the origins.
#[derive(Clone, Copy)]
struct Point {
    charge: Charge,
    origin: u32,
}

/// A factor whose entries are frontiers; an empty one is forbidden.
struct Bucket {
    scope: Vec<usize>,
    entries: Vec<Vec<Point>>,
}

struct Solver<'a> {
    problem: &'a Problem,
    limits: Limits,
    origins: Vec<Origin>,
    exact: bool,
}

/// The Pareto frontier of the choices of a problem.
pub fn frontier(problem: &Problem, limits: Limits) -> Frontier {
    let mut solver = Solver { problem, limits, origins: vec![Origin::Given], exact: true };
    let (order, pinned) = order(problem, limits.table);
    solver.exact &= pinned.iter().all(Option::is_none);
    let mut buckets: Vec<Bucket> = problem
        .factors
        .iter()
        .map(|factor| {
            let entry = |&charge: &Charge| {
                if charge.cost == FORBIDDEN { Vec::new() } else { vec![Point { charge, origin: 0 }] }
            };
            Bucket { scope: factor.scope.clone(), entries: factor.table.iter().map(entry).collect() }
        })
        .collect();
    for (var, value) in pinned.iter().enumerate().filter_map(|(v, p)| Some((v, (*p)?))) {
        buckets = buckets.into_iter().map(|b| solver.restrict(b, var, value)).collect();
    }
    let mut total = vec![Point { charge: Charge::default(), origin: 0 }];
    for var in order {
        let (with, rest) = buckets.into_iter().partition(|b: &Bucket| b.scope.contains(&var));
        buckets = rest;
        let left = solver.eliminate(var, with);
        if left.scope.is_empty() {
            total = solver.join(&total, &left.entries[0]);
        } else {
            buckets.push(left);
        }
    }
    // What has no variable left: factors over pinned variables only, or over none.
    for bucket in buckets {
        total = solver.join(&total, &bucket.entries[0]);
    }
    let solutions =
        total.iter().map(|&point| Solution { choice: solver.choice(point, &pinned), charge: point.charge });
    Frontier { solutions: solutions.collect(), exact: solver.exact }
}

impl Solver<'_> {
    /// A bucket with one variable fixed.
    fn restrict(&self, bucket: Bucket, var: usize, value: usize) -> Bucket {
        let Some(place) = bucket.scope.iter().position(|&v| v == var) else { return bucket };
        let sizes: Vec<usize> = bucket.scope.iter().map(|&v| self.problem.domains[v]).collect();
        let entries = assignments(&sizes).zip(bucket.entries);
        let entries = entries.filter(|(values, _)| values[place] == value).map(|(_, entry)| entry).collect();
        let mut scope = bucket.scope;
        scope.remove(place);
        Bucket { scope, entries }
    }

    /// The bucket that is left when `var` takes its best values in `buckets`, all of which have it in scope.
    fn eliminate(&mut self, var: usize, buckets: Vec<Bucket>) -> Bucket {
        let scope: BTreeSet<usize> = buckets.iter().flat_map(|b| &b.scope).copied().collect();
        let scope: Vec<usize> = scope.into_iter().filter(|&v| v != var).collect();
        let sizes: Vec<usize> = scope.iter().map(|&v| self.problem.domains[v]).collect();
        let mut entries = Vec::new();
        for values in assignments(&sizes) {
            let mut union: Vec<(Point, u32)> = Vec::new();
            for value in 0..self.problem.domains[var] {
                let mut sum = vec![Point { charge: Charge::default(), origin: 0 }];
                for bucket in &buckets {
                    let at = bucket.scope.iter().fold(0, |at, &v| {
                        let own =
                            if v == var { value } else { scope.binary_search(&v).map_or(0, |i| values[i]) };
                        at * self.problem.domains[v] + own
                    });
                    sum = self.join(&sum, &bucket.entries[at]);
                }
                union.extend(sum.into_iter().map(|p| (p, value as u32)));
            }
            // A stable sort: of equal charges the smallest value wins.
            union.sort_by_key(|(point, _)| point.charge);
            let mut kept = prune(union, |(point, _)| point.charge);
            self.thin(&mut kept);
            let picked = kept.into_iter().map(|(point, value)| {
                self.origins.push(Origin::Pick { var: var as u32, value, rest: point.origin });
                Point { charge: point.charge, origin: (self.origins.len() - 1) as u32 }
            });
            entries.push(picked.collect());
        }
        Bucket { scope, entries }
    }

    /// The frontier of the sums of one point of each.
    fn join(&mut self, a: &[Point], b: &[Point]) -> Vec<Point> {
        let is_unit =
            |points: &[Point]| matches!(points, [p] if p.charge == Charge::default() && p.origin == 0);
        if is_unit(a) {
            return b.to_vec();
        }
        if is_unit(b) {
            return a.to_vec();
        }
        let (mut a, mut b) = (a.to_vec(), b.to_vec());
        while a.len() * b.len() > MAX_PAIRS {
            let longer = if a.len() >= b.len() { &mut a } else { &mut b };
            let half = longer.len() / 2;
            self.exact = false;
            spread(longer, half);
        }
        let mut pairs: Vec<(Charge, u32, u32)> = Vec::with_capacity(a.len() * b.len());
        for x in &a {
            pairs.extend(b.iter().map(|y| (x.charge.plus(y.charge), x.origin, y.origin)));
        }
        pairs.sort_by_key(|&(charge, ..)| charge);
        let mut kept = prune(pairs, |&(charge, ..)| charge);
        self.thin(&mut kept);
        let joined = kept.into_iter().map(|(charge, x, y)| {
            // A point without a choice behind it adds nothing to read back.
            let origin = match (x, y) {
                (0, other) | (other, 0) => other,
                (x, y) => {
                    self.origins.push(Origin::Join(x, y));
                    (self.origins.len() - 1) as u32
                }
            };
            Point { charge, origin }
        });
        joined.collect()
    }

    fn thin<T>(&mut self, points: &mut Vec<T>) {
        if points.len() > self.limits.points.max(2) {
            self.exact = false;
            spread(points, self.limits.points.max(2));
        }
    }

    fn choice(&self, point: Point, pinned: &[Option<usize>]) -> Vec<usize> {
        let mut choice: Vec<usize> = pinned.iter().map(|p| p.unwrap_or(0)).collect();
        let mut todo = vec![point.origin];
        while let Some(at) = todo.pop() {
            match self.origins[at as usize] {
                Origin::Given => {}
                Origin::Pick { var, value, rest } => {
                    choice[var as usize] = value as usize;
                    todo.push(rest);
                }
                Origin::Join(a, b) => todo.extend([a, b]),
            }
        }
        choice
    }
}

/// Of points sorted by (cost, error), those that no earlier one dominates.
fn prune<T>(sorted: Vec<T>, charge: impl Fn(&T) -> Charge) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for point in sorted {
        let c = charge(&point);
        if c.cost != FORBIDDEN && kept.last().is_none_or(|last| c.error < charge(last).error) {
            kept.push(point);
        }
    }
    kept
}

/// Keeps `n` points at even distances, the first and the last among them.
fn spread<T>(points: &mut Vec<T>, n: usize) {
    let len = points.len();
    let n = n.max(2);
    if len <= n {
        return;
    }
    let mut at = 0;
    let mut next = 0;
    points.retain(|_| {
        let keep = at == next * (len - 1) / (n - 1);
        next += usize::from(keep);
        at += 1;
        keep
    });
}

/// The variables in min-fill order, and the values of those that are pinned because their table would be too large.
pub(super) fn order(problem: &Problem, max_table: usize) -> (Vec<usize>, Vec<Option<usize>>) {
    let n = problem.domains.len();
    let mut neighbours: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); n];
    for factor in &problem.factors {
        for &v in &factor.scope {
            neighbours[v].extend(factor.scope.iter().filter(|&&w| w != v));
        }
    }
    let mut left: BTreeSet<usize> = (0..n).collect();
    let mut order = Vec::with_capacity(n);
    let mut pinned = vec![None; n];
    while !left.is_empty() {
        let fill = |v: usize| {
            let around: Vec<usize> = neighbours[v].iter().copied().collect();
            let missing = |(i, &a): (usize, &usize)| {
                around[i + 1..].iter().filter(|b| !neighbours[a].contains(b)).count()
            };
            around.iter().enumerate().map(missing).sum::<usize>()
        };
        let size = |v: usize| {
            let sizes = neighbours[v].iter().map(|&w| problem.domains[w]);
            sizes.fold(1usize, usize::saturating_mul)
        };
        let fitting = left.iter().copied().filter(|&v| size(v) <= max_table.max(1));
        let Some(next) = fitting.min_by_key(|&v| (fill(v), neighbours[v].len(), v)) else {
            // The variable with the most neighbours is the hub: without it the others come apart.
            let Some(&hub) = left.iter().max_by_key(|&&v| (neighbours[v].len(), std::cmp::Reverse(v))) else {
                break;
            };
            pinned[hub] = Some(cheapest(problem, hub));
            remove(&mut neighbours, hub);
            left.remove(&hub);
            continue;
        };
        let around: Vec<usize> = neighbours[next].iter().copied().collect();
        for &a in &around {
            neighbours[a].extend(around.iter().filter(|&&b| b != a));
        }
        remove(&mut neighbours, next);
        left.remove(&next);
        order.push(next);
    }
    (order, pinned)
}

fn remove(neighbours: &mut [BTreeSet<usize>], v: usize) {
    for w in std::mem::take(&mut neighbours[v]) {
        neighbours[w].remove(&v);
    }
}

/// The value of a variable that forbids least to its neighbours, then costs least if they suit it.
fn cheapest(problem: &Problem, var: usize) -> usize {
    let mut best = (usize::MAX, u64::MAX, 0);
    for value in 0..problem.domains[var] {
        let (mut n_forbidden, mut cost) = (0, 0u64);
        for factor in problem.factors.iter().filter(|f| f.scope.contains(&var)) {
            let sizes: Vec<usize> = factor.scope.iter().map(|&v| problem.domains[v]).collect();
            let place = factor.scope.iter().position(|&v| v == var).unwrap_or(0);
            let entries = assignments(&sizes).zip(&factor.table).filter(|(values, _)| values[place] == value);
            let mut least = u64::MAX;
            for (_, charge) in entries {
                n_forbidden += usize::from(charge.cost == FORBIDDEN);
                least = least.min(charge.cost);
            }
            cost = cost.saturating_add(least);
        }
        best = best.min((n_forbidden, cost, value));
    }
    best.2
}
