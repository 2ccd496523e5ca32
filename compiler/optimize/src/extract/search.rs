//! The search in what reduction leaves: independent parts, each solved exactly where it is small, else improved from
//! the greedy choice by single exchanges.

use super::problem::{NONE, Problem, Reduced, Weight};

/// Most classes of a part that is searched exhaustively.
const EXACT_CLASSES: usize = 160;
/// Most steps of such a search.
const EXACT_STEPS: usize = 10_000;
/// Passes of improvement over a part.
const PASSES: usize = 8;
/// Most classes visited while a part is improved.
const VISITS: usize = 10_000_000;

/// A choice for every class that has one.
pub struct Solution {
    /// The term of each class, or [`NONE`].
    pub picks: Vec<usize>,
    /// Whether nothing is better.
    pub optimal: bool,
}

/// The choice of terms of least tree cost, as if nothing were shared; `None` if a root has no acyclic one.
pub fn greedy(problem: &Problem, roots: &[u32]) -> Option<Solution> {
    let reduced = Reduced::new(problem, roots)?;
    Some(Solution { picks: reduced.trees(false).picks, optimal: false })
}

/// The best choice that is found; `None` if a root has no acyclic one.
pub fn best(problem: &Problem, roots: &[u32]) -> Option<Solution> {
    let mut reduced = Reduced::new(problem, roots)?;
    reduced.reduce();
    let mut picks = reduced.trees(false).picks;
    let fallback = picks.clone();
    let mut optimal = true;
    for part in parts(&reduced) {
        let mut search = Search::new(&reduced, &mut picks, part);
        search.improve();
        optimal &= search.exhaust();
    }
    if problem.order(&picks, roots).is_none() {
        return Some(Solution { picks: fallback, optimal: false });
    }
    Some(Solution { picks, optimal })
}

/// Classes with something to choose, or that a choice decides about, in parts that do not touch: neither by an operand
/// nor by a cycle that could run through both.
fn parts(reduced: &Reduced) -> Vec<Vec<usize>> {
    let n = reduced.problem.classes.len();
    let mut live = vec![false; n];
    let mut order = Vec::new();
    let mut stack: Vec<usize> = reduced.roots.iter().rev().map(|&r| r as usize).collect();
    while let Some(class) = stack.pop() {
        if !std::mem::replace(&mut live[class], true) {
            order.push(class);
            let terms = &reduced.problem.classes[class].terms;
            for &t in reduced.alive[class].iter().rev() {
                stack.extend(terms[t].children.iter().rev().map(|&c| c as usize));
            }
        }
    }
    let unit = |c: usize| !reduced.needed[c] || reduced.alive[c].len() > 1;
    let mut leader: Vec<usize> = (0..n).collect();
    let mut of_component = vec![NONE; n];
    for &class in order.iter().filter(|&&c| unit(c)) {
        let component = reduced.component[class] as usize;
        if of_component[component] == NONE {
            of_component[component] = class;
        }
        unite(&mut leader, class, of_component[component]);
        for &t in &reduced.alive[class] {
            for &c in &reduced.problem.classes[class].terms[t].children {
                if !reduced.needed[c as usize] {
                    unite(&mut leader, class, c as usize);
                }
            }
        }
    }
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut of_leader = vec![NONE; n];
    for &class in order.iter().filter(|&&c| unit(c)) {
        let first = find(&mut leader, class);
        if of_leader[first] == NONE {
            of_leader[first] = parts.len();
            parts.push(Vec::new());
        }
        parts[of_leader[first]].push(class);
    }
    // Without a choice there is nothing to search.
    parts.retain(|p| p.iter().any(|&c| reduced.alive[c].len() > 1));
    parts
}

fn find(leader: &mut [usize], mut class: usize) -> usize {
    while leader[class] != class {
        leader[class] = leader[leader[class]];
        class = leader[class];
    }
    class
}

fn unite(leader: &mut [usize], a: usize, b: usize) {
    let (a, b) = (find(leader, a), find(leader, b));
    leader[a.max(b)] = a.min(b);
}

/// The search in one part.
struct Search<'r, 'p> {
    reduced: &'r Reduced<'p>,
    picks: &'r mut Vec<usize>,
    part: Vec<usize>,
    /// Classes of the part that every solution has.
    fixed: Vec<usize>,
    in_part: Vec<bool>,
    cyclic: bool,
    /// How many chosen classes of the part need each, those that every solution has once more, and what all that are needed
    /// weigh.
    users: Vec<u32>,
    cost: u128,
    bytes: u128,
    seen: Vec<u32>,
    epoch: u32,
    visits: usize,
    steps: usize,
    best: Weight,
    chosen: Vec<usize>,
    found: Option<Vec<usize>>,
}

impl<'r, 'p> Search<'r, 'p> {
    fn new(reduced: &'r Reduced<'p>, picks: &'r mut Vec<usize>, part: Vec<usize>) -> Search<'r, 'p> {
        let n = reduced.problem.classes.len();
        let mut in_part = vec![false; n];
        part.iter().for_each(|&c| in_part[c] = true);
        let cyclic = part.iter().any(|&c| reduced.is_cyclic(c));
        let fixed = part.iter().copied().filter(|&c| reduced.needed[c]).collect();
        Search {
            reduced,
            picks,
            part,
            fixed,
            in_part,
            cyclic,
            users: vec![0; n],
            cost: 0,
            bytes: 0,
            seen: vec![0; n],
            epoch: 0,
            visits: 0,
            steps: 0,
            best: Weight::MAX,
            chosen: vec![NONE; n],
            found: None,
        }
    }

    /// Counts one more user of a class, and what its pick needs if it is the first.
    fn take(&mut self, class: usize) {
        let mut stack = vec![class];
        while let Some(class) = stack.pop() {
            self.visits += 1;
            self.users[class] += 1;
            if self.users[class] > 1 {
                continue;
            }
            let weight = self.reduced.problem.weight(class, self.picks[class]);
            self.cost += u128::from(weight.cost);
            self.bytes += u128::from(weight.bytes);
            self.push_children(class, &mut stack);
        }
    }

    /// Takes one user of a class away, and what its pick needs with the last.
    fn release(&mut self, class: usize) {
        let mut stack = vec![class];
        while let Some(class) = stack.pop() {
            self.visits += 1;
            self.users[class] -= 1;
            if self.users[class] > 0 {
                continue;
            }
            let weight = self.reduced.problem.weight(class, self.picks[class]);
            self.cost -= u128::from(weight.cost);
            self.bytes -= u128::from(weight.bytes);
            self.push_children(class, &mut stack);
        }
    }

    fn push_children(&self, class: usize, stack: &mut Vec<usize>) {
        let children = &self.reduced.problem.classes[class].terms[self.picks[class]].children;
        stack.extend(children.iter().map(|&c| c as usize).filter(|&c| self.in_part[c]));
    }

    /// Gives a class that has users another pick.
    fn exchange(&mut self, class: usize, term: usize) {
        let before = self.picks[class];
        let problem = self.reduced.problem;
        let of = |term: usize| problem.classes[class].terms[term].children.iter().map(|&c| c as usize);
        let (old, new) = (problem.weight(class, before), problem.weight(class, term));
        // What both need is never let go.
        for c in of(term).filter(|&c| self.in_part[c]).collect::<Vec<_>>() {
            self.take(c);
        }
        for c in of(before).filter(|&c| self.in_part[c]).collect::<Vec<_>>() {
            self.release(c);
        }
        self.cost = self.cost + u128::from(new.cost) - u128::from(old.cost);
        self.bytes = self.bytes + u128::from(new.bytes) - u128::from(old.bytes);
        self.picks[class] = term;
    }

    /// Weight of the part under the current choice.
    fn weight(&self) -> Weight {
        let least = |sum: u128| u64::try_from(sum).unwrap_or(u64::MAX);
        Weight { cost: least(self.cost), bytes: least(self.bytes) }
    }

    /// Whether a class would need itself with this pick.
    fn closes_cycle(&mut self, class: usize, pick: usize) -> bool {
        self.epoch += 1;
        let component = self.reduced.component[class];
        let mut stack = vec![class];
        while let Some(at) = stack.pop() {
            self.visits += 1;
            let pick = if at == class { pick } else { self.picks[at] };
            let Some(term) = self.reduced.problem.classes[at].terms.get(pick) else { continue };
            for &c in &term.children {
                let c = c as usize;
                if c == class {
                    return true;
                }
                if self.reduced.component[c] == component
                    && std::mem::replace(&mut self.seen[c], self.epoch) != self.epoch
                {
                    stack.push(c);
                }
            }
        }
        false
    }

    /// Exchanges single terms as long as the part gets cheaper.
    fn improve(&mut self) {
        for class in self.fixed.clone() {
            self.take(class);
        }
        let mut best = self.weight();
        for _ in 0..PASSES {
            let mut changed = false;
            for i in 0..self.part.len() {
                let class = self.part[i];
                if self.reduced.alive[class].len() < 2 || self.visits > VISITS {
                    continue;
                }
                // Nothing gets cheaper by what nothing needs.
                if self.users[class] == 0 {
                    continue;
                }
                let before = self.picks[class];
                let mut kept = before;
                for t in self.reduced.alive[class].clone() {
                    if t == before || (self.cyclic && self.closes_cycle(class, t)) {
                        continue;
                    }
                    self.exchange(class, t);
                    let weight = self.weight();
                    if weight < best {
                        (best, kept, changed) = (weight, t, true);
                    }
                }
                self.exchange(class, kept);
            }
            if !changed {
                break;
            }
        }
        self.best = best;
    }

    /// Tries everything that could be better; whether it came to an end.
    fn exhaust(&mut self) -> bool {
        if self.part.len() > EXACT_CLASSES {
            return false;
        }
        let mut wanted = vec![false; self.reduced.problem.classes.len()];
        self.fixed.iter().for_each(|&c| wanted[c] = true);
        let mut open: Vec<usize> = self.fixed.iter().rev().copied().collect();
        let least = open.iter().fold(Weight::default(), |sum, &c| sum.plus(self.least(c)));
        let complete = self.branch(&mut open, &mut wanted, Weight::default(), least);
        if let Some(found) = self.found.take() {
            for (&class, term) in self.part.iter().zip(found) {
                if term != NONE {
                    self.picks[class] = term;
                }
            }
        }
        complete
    }

    /// What computing a class adds at least.
    fn least(&self, class: usize) -> Weight {
        self.reduced.at_least[class]
    }

    /// Decides the last class of `open`; `paid` is the weight of what is decided, `least` what the rest adds at least.
    fn branch(&mut self, open: &mut Vec<usize>, wanted: &mut [bool], paid: Weight, least: Weight) -> bool {
        self.steps += 1;
        if self.steps > EXACT_STEPS {
            return false;
        }
        if paid.plus(least) >= self.best {
            return true;
        }
        let Some(class) = open.pop() else {
            if !self.cyclic || self.acyclic() {
                self.best = paid;
                self.found = Some(self.part.iter().map(|&c| self.chosen[c]).collect());
            }
            return true;
        };
        let own = self.least(class);
        let rest = Weight {
            cost: least.cost.saturating_sub(own.cost),
            bytes: least.bytes.saturating_sub(own.bytes),
        };
        let mut complete = true;
        for t in self.by_promise(class, wanted) {
            self.chosen[class] = t;
            let (mut least, before) = (rest, open.len());
            for &c in self.reduced.problem.classes[class].terms[t].children.iter().rev() {
                let c = c as usize;
                if self.in_part[c] && !std::mem::replace(&mut wanted[c], true) {
                    open.push(c);
                    least = least.plus(self.least(c));
                }
            }
            let paid = paid.plus(self.reduced.problem.weight(class, t));
            let added = open[before..].to_vec();
            complete &= self.branch(open, wanted, paid, least);
            for c in added {
                wanted[c] = false;
            }
            open.truncate(before);
            if self.steps > EXACT_STEPS {
                break;
            }
        }
        self.chosen[class] = NONE;
        open.push(class);
        complete
    }

    /// Terms of a class, those first that look cheapest with what they would add.
    fn by_promise(&self, class: usize, wanted: &[bool]) -> Vec<usize> {
        let terms = &self.reduced.problem.classes[class].terms;
        let added = |t: usize| {
            let own = Weight { cost: terms[t].cost, bytes: 0 };
            terms[t].children.iter().fold(own, |sum, &c| {
                let c = c as usize;
                let new = self.in_part[c] && !wanted[c];
                if new { sum.plus(self.reduced.at_most[c]) } else { sum }
            })
        };
        let mut order = self.reduced.alive[class].clone();
        order.sort_by_key(|&t| (added(t), t));
        order
    }

    /// Whether what is chosen has no cycle, for which only classes of one component can be responsible.
    fn acyclic(&mut self) -> bool {
        let mut state = vec![0u8; self.seen.len()];
        let pick = |c: usize| match self.chosen[c] {
            NONE if self.in_part[c] => None,
            NONE => self.reduced.alive[c].first().copied(),
            t => Some(t),
        };
        for &start in &self.part {
            let mut stack = vec![(start, false)];
            while let Some((class, done)) = stack.pop() {
                if done {
                    state[class] = 2;
                    continue;
                }
                if state[class] == 2 {
                    continue;
                }
                if state[class] == 1 {
                    return false;
                }
                let Some(t) = pick(class) else { continue };
                state[class] = 1;
                stack.push((class, true));
                for &c in &self.reduced.problem.classes[class].terms[t].children {
                    let c = c as usize;
                    if self.reduced.component[c] == self.reduced.component[class] {
                        match state[c] {
                            0 => stack.push((c, false)),
                            1 => return false,
                            _ => {}
                        }
                    }
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::super::problem::{Alternative, Class};
    use super::*;

    /// A problem of `n` classes whose terms need mostly, but not only, classes of greater number; class 0 is the root.
    fn problem(n: usize, cyclic: bool) -> impl Strategy<Value = Problem> {
        let term = (0u64..6, prop::collection::vec((any::<prop::sample::Index>(), 0u32..10), 0..4));
        let class = (0u64..4, prop::collection::vec(term, 1..4));
        prop::collection::vec(class, n).prop_map(move |classes| {
            let classes = classes.into_iter().enumerate().map(|(i, (bytes, terms))| {
                let terms = terms.into_iter().map(|(cost, children)| {
                    let later = |index: prop::sample::Index, back: u32| {
                        if cyclic && back == 0 {
                            return Some(index.index(n) as u32);
                        }
                        (i + 1 < n).then(|| (i + 1 + index.index(n - i - 1)) as u32)
                    };
                    let mut children: Vec<u32> =
                        children.into_iter().filter_map(|(index, back)| later(index, back)).collect();
                    children.sort_unstable();
                    children.dedup();
                    Alternative { cost, children }
                });
                Class { bytes, terms: terms.collect() }
            });
            Problem { classes: classes.collect() }
        })
    }

    fn weight(problem: &Problem, picks: &[usize], roots: &[u32]) -> Option<Weight> {
        let order = problem.order(picks, roots)?;
        Some(order.iter().fold(Weight::default(), |sum, &c| sum.plus(problem.weight(c, picks[c]))))
    }

    /// The least weight over all choices of a term for each class, cyclic ones excluded.
    fn brute_force(problem: &Problem, roots: &[u32]) -> Option<Weight> {
        let sizes: Vec<usize> = problem.classes.iter().map(|c| c.terms.len()).collect();
        let mut picks = vec![0; sizes.len()];
        let mut best = None;
        for mut number in 0..sizes.iter().product() {
            for (pick, &size) in picks.iter_mut().zip(&sizes) {
                *pick = number % size;
                number /= size;
            }
            if let Some(w) = weight(problem, &picks, roots) {
                best = Some(best.map_or(w, |b: Weight| b.min(w)));
            }
        }
        best
    }

    fn for_all(cases: u32, strategy: impl Strategy<Value = Problem>, test: impl Fn(&Problem)) {
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&strategy, |problem| {
                test(&problem);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn small_problems_are_solved_as_by_brute_force() {
        for cyclic in [false, true] {
            for_all(1500, (2usize..9).prop_flat_map(move |n| problem(n, cyclic)), |p| {
                let solution = best(p, &[0]);
                let found = solution.as_ref().and_then(|s| weight(p, &s.picks, &[0]));
                assert_eq!(found, brute_force(p, &[0]));
                assert!(solution.is_none_or(|s| s.optimal));
            });
        }
    }

    #[test]
    fn what_is_extracted_is_acyclic_and_complete() {
        for_all(10_000, (2usize..40).prop_flat_map(|n| problem(n, true)), |p| {
            let roots = [0, 1];
            let (Some(best), Some(greedy)) = (best(p, &roots), greedy(p, &roots)) else {
                assert!(best(p, &roots).is_none() && greedy(p, &roots).is_none());
                return;
            };
            let best = weight(p, &best.picks, &roots).expect("the best choice is acyclic and complete");
            let greedy = weight(p, &greedy.picks, &roots).expect("the greedy choice is acyclic and complete");
            assert!(best <= greedy);
        });
    }

    /// A shared class that costs more than each of its users' own ways, but less than all of them together: one at a
    /// time, no exchange pays.
    #[test]
    fn what_is_worth_it_only_together_is_found() {
        let n = 24;
        let term = |cost, children: &[u32]| Alternative { cost, children: children.to_vec() };
        let mut classes = vec![Class { bytes: 0, terms: vec![term(0, &(1..n).collect::<Vec<u32>>())] }];
        classes.extend((1..n).map(|_| Class { bytes: 0, terms: vec![term(10, &[]), term(1, &[n])] }));
        classes.push(Class { bytes: 0, terms: vec![term(100, &[])] });
        let p = Problem { classes };
        let solution = best(&p, &[0]).unwrap();
        let merged = u64::from(n - 1) + 100;
        assert_eq!(weight(&p, &solution.picks, &[0]).map(|w| w.cost), Some(merged));
    }
}
