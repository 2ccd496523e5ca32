//! The joint choice under a budget.
//!
//! The frontier of modelled cost and predicted error is solved once. Since predictions are only a model, points of it are
//! run, and the budget on the predicted error is shrunk or grown by bisection until the cheapest point that holds is
//! found. At last the machine model compares the code with that of the uniform precisions, so that a gap in the model never
//! makes the choice worse than what the user could have named.

use super::Selected;
use super::measure::{Measure, SelectError, sqnr_db};
use super::solve::{Charge, Frontier, Limits, Problem, frontier, lower_bound};
use super::survey::{Narrowed, ParetoPoint, Survey};

/// Runs of joint choices at most: each halves the ratio between a budget that holds and one that does not.
const MAX_RUNS: usize = 8;
/// Points closer in cost than this are not worth another run.
const SAME_COST: f64 = 0.002;
/// Units of error: a ratio of noise to signal of 1.
const ERROR_UNIT: f64 = (1u64 << 48) as f64;
/// Units of cost: a cycle. A KiB of weights is one unit, so that of equally fast choices the smaller one wins.
const CYCLE_UNIT: f64 = 256.0;

/// What the user allows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Budget {
    /// Signal to noise of every output is at least this many dB: fewest cycles.
    MinSqnr(f64),
    /// Accuracy falls by at most this many percentage points: fewest cycles.
    MaxDrop(f64),
    /// Weights take at most this many bytes: least error.
    MaxBytes(u64),
}

/// How a choice came about.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The chosen point, measured.
    pub point: ParetoPoint,
    /// Joint choices that were run, in order, and whether each held: predicted error and outcome.
    pub tried: Vec<(f64, bool)>,
    /// How far at most the modelled objective is from the best one under the same predicted error, as a share: 0 if the choice is proven optimal.
    pub gap: f64,
    /// What error is worth at the margin: cycles that allowing a ratio of noise to signal of 1 more would save. Each contraction has the
    /// candidate with about the least cycles plus price times error; 0 where the budget does not bind.
    pub price: f64,
    /// Name of the uniform precision that the machine model prefers to the solution, if that was taken instead.
    pub uniform: Option<String>,
    /// Forward passes in all.
    pub n_runs: usize,
}

/// A choice made.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The module with it.
    pub selected: Selected,
    /// Why.
    pub verdict: Verdict,
}

/// Cycles and error of each choice, or error and bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Objective {
    CyclesUnderError,
    ErrorUnderBytes,
}

/// Whether some cycles are more than others by so much that the machine model tells them apart: of choices that it does not, the one with
/// fewer bytes of weights is taken.
fn slower(cycles: u64, than: u64) -> bool {
    cycles as f64 > than as f64 * EQUAL
}

/// Cycles that differ by less are equal: half a percent, as much as tiles and the order of launches decide.
const EQUAL: f64 = 1.005;

impl Objective {
    fn charge(self, cycles: f64, bytes: u64, error: f64) -> Charge {
        let units = |x: f64, unit: f64| (x * unit).ceil().clamp(0.0, (1u64 << 60) as f64) as u64;
        match self {
            Objective::CyclesUnderError => {
                Charge::new(units(cycles, CYCLE_UNIT) + bytes / 1024, units(error, ERROR_UNIT))
            }
            // Of choices with equal error the faster one wins: a cycle counts as noise 156 dB down.
            Objective::ErrorUnderBytes => {
                Charge::new(units(error, ERROR_UNIT) + cycles.max(0.0) as u64 / 16, bytes)
            }
        }
    }
}

impl Survey {
    /// The factor graph: a variable for each contraction, and one for each value that several of them read.
    fn problem(&self, objective: Objective) -> Problem {
        let mut problem = Problem::default();
        for site in &self.sites {
            let v = problem.variable(site.candidates.len());
            problem.factor(&[v], |value| {
                let c = &site.candidates[value[0]];
                objective.charge(c.cycles, c.bytes, c.error)
            });
        }
        if let Some(Narrowed { cycles, error }) = self.attention {
            let narrow = problem.variable(2);
            problem.factor(&[narrow], |value| match value[0] {
                0 => objective.charge((-cycles).max(0.0), 0, 0.0),
                _ => objective.charge(cycles.max(0.0), 0, error),
            });
        }
        for shared in &self.shared {
            let hub = problem.variable(shared.states.len());
            problem.factor(&[hub], |state| {
                let (_, cycles, bytes) = shared.states[state[0]];
                objective.charge(cycles, bytes, 0.0)
            });
            for &site in &shared.users {
                problem.factor(&[site, hub], |values| {
                    if shared.suits(values[1], &self.sites[site], values[0]) {
                        Charge::default()
                    } else {
                        Charge::forbidden()
                    }
                });
            }
        }
        problem
    }

    fn sites_of(&self, choice: &[usize]) -> Vec<usize> {
        choice[..self.kept().len()].to_vec()
    }

    /// Choices of the frontier of modelled cycles and predicted error, cheapest first: the ends, and between them the
    /// cheapest within each of about `n` budgets that fall evenly in dB.
    pub fn frontier_choices(&self, n: usize) -> Vec<Vec<usize>> {
        let found = frontier(&self.problem(Objective::CyclesUnderError), Limits::default());
        let errors: Vec<u64> = found.solutions.iter().map(|s| s.charge.error).collect();
        let worst = errors.first().copied().unwrap_or(0) as f64;
        let least = errors.iter().copied().rfind(|&e| e > 0).unwrap_or(0).max(1) as f64;
        let mut picked = Vec::new();
        for i in 0..n {
            let budget = worst * (least / worst.max(1.0)).powf(i as f64 / (n.max(2) - 1) as f64);
            let at = errors.iter().position(|&e| e as f64 <= budget * (1.0 + 1e-9));
            picked.extend(at);
        }
        picked.extend(errors.len().checked_sub(1));
        picked.dedup();
        picked.into_iter().map(|i| self.sites_of(&found.solutions[i].choice)).collect()
    }

    /// The best choice within the budget, verified by running it.
    ///
    /// # Errors
    /// When nothing is within the budget, when the budget cannot be judged on this data, or when a measurement fails.
    pub fn choose<M: Measure>(
        &mut self,
        budget: Budget,
        measure: &mut M,
    ) -> Result<Chosen, SelectError<M::Error>> {
        measure.expect(MAX_RUNS + 1);
        let kept = self.kept();
        if let Budget::MaxDrop(points) = budget {
            let drop = self.quality(&kept, measure)?.1.ok_or(SelectError::NoClasses)?;
            let step = 100.0 / drop.n_judged.max(1) as f64;
            if points > 0.0 && step > points {
                return Err(SelectError::TooFew { n_judged: drop.n_judged, points, step });
            }
        }
        let objective = match budget {
            Budget::MinSqnr(_) | Budget::MaxDrop(_) => Objective::CyclesUnderError,
            Budget::MaxBytes(_) => Objective::ErrorUnderBytes,
        };
        let problem = self.problem(objective);
        let limits = Limits::default();
        let found = frontier(&problem, limits);
        let mut tried = Vec::new();
        let at = match budget {
            Budget::MaxBytes(bytes) => self.within_bytes(&found, bytes, measure)?,
            Budget::MinSqnr(db) => {
                let allowed = 10f64.powf(-db / 10.0) * ERROR_UNIT;
                let start = found.within(allowed as u64);
                self.search(&found, budget, start.unwrap_or(found.solutions.len() - 1), &mut tried, measure)?
            }
            Budget::MaxDrop(_) => self.search(&found, budget, 0, &mut tried, measure)?,
        };
        let solution = &found.solutions[at];
        let gap = if found.exact {
            0.0
        } else {
            let bound = lower_bound(&problem, &found, solution.charge.error, limits);
            1.0 - bound as f64 / (solution.charge.cost as f64).max(1.0)
        };
        let price = match objective {
            Objective::CyclesUnderError => slope(&found, at) * ERROR_UNIT / CYCLE_UNIT,
            Objective::ErrorUnderBytes => 0.0,
        };
        let mut choice = self.sites_of(&solution.choice);
        let mut uniform = None;
        if objective == Objective::CyclesUnderError {
            let mut best = self.machine_cost(&choice, measure)?;
            let mut fastest = best.cycles;
            for (name, other) in self.uniform_choices() {
                let cost = self.machine_cost(&other, measure)?;
                let smaller = (cost.weight_bytes, cost.cycles) < (best.weight_bytes, best.cycles);
                let better = slower(best.cycles, cost.cycles) || smaller;
                if better && !slower(cost.cycles, fastest) && self.holds(&other, budget, measure)? {
                    (best, fastest) = (cost, fastest.min(cost.cycles));
                    (choice, uniform) = (other, Some(name));
                }
            }
        }
        let point = self.point(&choice, measure)?;
        let mut selected = self.selected(&choice)?;
        selected.warnings.extend(self.warnings.iter().cloned());
        Ok(Chosen { selected, verdict: Verdict { point, tried, gap, price, uniform, n_runs: self.n_runs } })
    }

    /// Whether a choice, when it is run, is within the budget.
    fn holds<M: Measure>(
        &mut self,
        choice: &[usize],
        budget: Budget,
        measure: &mut M,
    ) -> Result<bool, SelectError<M::Error>> {
        let (noise, drop) = self.quality(choice, measure)?;
        Ok(match budget {
            Budget::MinSqnr(db) => sqnr_db(noise) >= db,
            // A tenth of a millionth of a point is rounding.
            Budget::MaxDrop(points) => drop.is_some_and(|d| d.points <= points + 1e-7),
            Budget::MaxBytes(bytes) => self.machine_cost(choice, measure)?.weight_bytes <= bytes,
        })
    }

    /// The cheapest point of the frontier that holds, found by bisection from a first guess, in the logarithm of the
    /// predicted error. Errors of real choices are not quite monotone, so the answer is one that was run and held.
    fn search<M: Measure>(
        &mut self,
        found: &Frontier,
        budget: Budget,
        start: usize,
        tried: &mut Vec<(f64, bool)>,
        measure: &mut M,
    ) -> Result<usize, SelectError<M::Error>> {
        let error = |i: usize| (found.solutions[i].charge.error as f64).max(1.0);
        let cost = |i: usize| found.solutions[i].charge.cost as f64;
        let last = found.solutions.len() - 1;
        // The first point that is known to hold, and the last that is known not to.
        let (mut holding, mut failing): (Option<usize>, Option<usize>) = (None, None);
        let mut next = start;
        while tried.len() < MAX_RUNS {
            let choice = self.sites_of(&found.solutions[next].choice);
            let holds = self.holds(&choice, budget, measure)?;
            tried.push((error(next) / ERROR_UNIT, holds));
            let within = |error: f64| found.within(error as u64);
            if holds {
                holding = Some(next);
                if failing.is_none() && next > 0 {
                    // It holds with room: allow twice the error.
                    next = within(error(next) * 2.0).unwrap_or(0).min(next - 1);
                    continue;
                }
            } else {
                failing = Some(next);
                if holding.is_none() && next < last {
                    // Shrink: a quarter of the error.
                    next = within(error(next) / 4.0).unwrap_or(last).max(next + 1);
                    continue;
                }
            }
            let (Some(low), Some(high)) = (failing, holding) else { break };
            if high <= low + 1 || cost(high) <= cost(low + 1) * (1.0 + SAME_COST) {
                break;
            }
            let middle = (error(low) * error(high)).sqrt();
            next = (low + 1..high).find(|&i| error(i) <= middle).unwrap_or(high - 1);
        }
        if let Some(at) = holding {
            return Ok(at);
        }
        // The model's own formats have no error but that of pruning; if they do not hold, nothing does.
        let choice = self.sites_of(&found.solutions[last].choice);
        if self.holds(&choice, budget, measure)? {
            tried.push((error(last) / ERROR_UNIT, true));
            return Ok(last);
        }
        let (noise, _) = self.quality(&choice, measure)?;
        Err(SelectError::OverBudget { best: format!("{:.1} dB", sqnr_db(noise)) })
    }

    /// The point with the least error whose object is within a number of bytes: the model of bytes is shrunk by what the object
    /// is larger than modelled.
    fn within_bytes<M: Measure>(
        &mut self,
        found: &Frontier,
        bytes: u64,
        measure: &mut M,
    ) -> Result<usize, SelectError<M::Error>> {
        let mut allowed = bytes;
        let mut smallest = u64::MAX;
        for _ in 0..MAX_RUNS {
            let at = found.within(allowed).unwrap_or(found.solutions.len() - 1);
            let choice = self.sites_of(&found.solutions[at].choice);
            let real = self.machine_cost(&choice, measure)?.weight_bytes;
            smallest = smallest.min(real);
            if real <= bytes {
                return Ok(at);
            }
            if at == found.solutions.len() - 1 {
                break;
            }
            let modelled = found.solutions[at].charge.error;
            allowed = modelled.saturating_sub((real - bytes).max(1)).min(modelled.saturating_sub(1));
        }
        Err(SelectError::OverBudget { best: format!("{smallest} bytes") })
    }
}

/// Cost per error along the edge of the frontier's convex hull below the point `at`: 0 for the cheapest point.
fn slope(found: &Frontier, at: usize) -> f64 {
    let point = |i: usize| (found.solutions[i].charge.error as f64, found.solutions[i].charge.cost as f64);
    let mut hull: Vec<usize> = Vec::new();
    for i in 0..found.solutions.len() {
        while let [.., a, b] = hull[..] {
            let (a, b, c) = (point(a), point(b), point(i));
            if (b.1 - a.1) * (b.0 - c.0) < (c.1 - b.1) * (a.0 - b.0) {
                break;
            }
            hull.pop();
        }
        hull.push(i);
    }
    let edge = hull.windows(2).find(|w| w[0] < at && at <= w[1]);
    edge.map_or(0.0, |w| {
        let ((e0, c0), (e1, c1)) = (point(w[0]), point(w[1]));
        (c1 - c0) / (e0 - e1).max(1.0)
    })
}
