//! The solver against brute force, and its bounds.

use super::*;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// A problem with up to seven variables of up to four values: one factor for each, and some over two or three.
fn generated(seed: u64) -> Problem {
    let mut rng = Rng(seed);
    let mut problem = Problem::default();
    let n = 1 + rng.below(7) as usize;
    for _ in 0..n {
        let size = 1 + rng.below(4) as usize;
        problem.variable(size);
    }
    for v in 0..n {
        problem.factor(&[v], |_| Charge::new(rng.below(50), rng.below(50)));
    }
    for _ in 0..rng.below(8) {
        let mut scope: Vec<usize> = (0..1 + rng.below(3)).map(|_| rng.below(n as u64) as usize).collect();
        scope.sort_unstable();
        scope.dedup();
        problem.factor(&scope, |_| match rng.below(8) {
            0 => Charge::forbidden(),
            _ => Charge::new(rng.below(30), rng.below(3) * rng.below(10)),
        });
    }
    problem
}

fn brute_force(problem: &Problem) -> Vec<Charge> {
    let mut all: Vec<Charge> = assignments(&problem.domains)
        .map(|choice| problem.charge(&choice))
        .filter(|c| c.cost != FORBIDDEN)
        .collect();
    all.sort_unstable();
    let mut frontier: Vec<Charge> = Vec::new();
    for c in all {
        if frontier.last().is_none_or(|last| c.error < last.error) {
            frontier.push(c);
        }
    }
    frontier
}

#[test]
fn the_frontier_is_that_of_brute_force() {
    for seed in 0..800 {
        let problem = generated(seed);
        let found = frontier(&problem, Limits::default());
        let charges: Vec<Charge> = found.solutions.iter().map(|s| s.charge).collect();
        assert!(found.exact, "seed {seed}");
        assert_eq!(charges, brute_force(&problem), "seed {seed}");
        for s in &found.solutions {
            assert_eq!(problem.charge(&s.choice), s.charge, "seed {seed}");
        }
    }
}

#[test]
fn bounds_hold_under_any_limits() {
    let tight = [(2, 1), (3, 4), (8, 16), (4096, 1), (4096, 4096)];
    let mut n_cut = 0;
    for seed in 0..600 {
        let problem = generated(seed);
        let optimum = brute_force(&problem);
        for (points, table) in tight {
            let limits = Limits { points, table };
            let found = frontier(&problem, limits);
            n_cut += usize::from(!found.exact);
            for s in &found.solutions {
                assert_eq!(problem.charge(&s.choice), s.charge, "seed {seed} {limits:?}");
            }
            for budget in [0, 10, 40, 90, u64::MAX >> 8] {
                let best = optimum.iter().find(|c| c.error <= budget);
                let bound = lower_bound(&problem, &found, budget, limits);
                if let Some(best) = best {
                    assert!(bound <= best.cost, "seed {seed} {limits:?} {budget}: {bound} > {best:?}");
                }
                if let (Some(mine), Some(best)) = (found.within(budget).map(|i| &found.solutions[i]), best) {
                    assert!(mine.charge.cost >= best.cost && mine.charge.error <= budget, "seed {seed}");
                }
            }
        }
    }
    assert!(n_cut > 500, "the limits cut {n_cut} times");
}

#[test]
fn without_coupling_the_knapsack_is_solved_and_the_bound_is_near() {
    let mut rng = Rng(7);
    let mut problem = Problem::default();
    for _ in 0..200 {
        let v = problem.variable(6);
        // Dearer values err less.
        problem.factor(&[v], |value| {
            let step = value[0] as u64;
            Charge::new((1 + step) * (100 + rng.below(100)), (6 - step) * rng.below(1000))
        });
    }
    let found = frontier(&problem, Limits::default());
    let worst = found.solutions[0].charge.error;
    let budget = worst / 4;
    let best = &found.solutions[found.within(budget).expect("a choice within the budget")];
    let bound = lower_bound(&problem, &found, budget, Limits::default());
    assert!(bound <= best.charge.cost);
    let gap = (best.charge.cost - bound) as f64 / bound as f64;
    assert!(gap < 0.005, "{gap}");
}

/// A hub with many neighbours, as a value that many contractions read: a star has small tables, whatever its size.
#[test]
fn a_star_is_exact() {
    let mut problem = Problem::default();
    let hub = problem.variable(5);
    problem.factor(&[hub], |v| Charge::new(v[0] as u64 * 7, 0));
    for i in 0..30usize {
        let leaf = problem.variable(5);
        problem.factor(&[leaf], |v| Charge::new(((i * 13 + v[0] * 31) % 17) as u64, (v[0] * i) as u64 % 11));
        problem.factor(&[hub, leaf], |v| if v[1] > v[0] { Charge::forbidden() } else { Charge::default() });
    }
    assert!(frontier(&problem, Limits::default()).exact);
}

#[test]
fn equal_problems_have_equal_answers() {
    for seed in [3, 77, 500] {
        let problem = generated(seed);
        let limits = Limits { points: 5, table: 8 };
        let first = frontier(&problem, limits);
        for _ in 0..20 {
            assert_eq!(frontier(&problem, limits), first);
        }
    }
}

#[test]
fn what_cannot_be_chosen_has_no_frontier() {
    let mut problem = Problem::default();
    let v = problem.variable(2);
    problem.factor(&[v], |_| Charge::forbidden());
    assert!(frontier(&problem, Limits::default()).solutions.is_empty());
    assert_eq!(frontier(&Problem::default(), Limits::default()).solutions.len(), 1);
}
