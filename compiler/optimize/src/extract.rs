//! Extraction: one term for each class that the results need, of least total cost over the *set* of classes used (a
//! shared class counts once), acyclic, and the same on every machine.
//!
//! Three steps. First every class gets a term whose operands have one already: an acyclic choice. Then, class by
//! class, terms that lower the cost of what the class needs replace it, unless they would close a cycle under the
//! current choice. Last, exchanges that lower the cost of the whole result are taken until none is left. Ties go to
//! fewer bytes, then to the lesser structural hash.

use std::hash::{Hash, Hasher};

use egg::{Id, Language};
use lacuna_ir::Op;

use crate::cost::{bytes, cost};
use crate::graph::Graph;
use crate::lang::Term;
use crate::rules::merging::Bundle;

/// Passes of improvement over all classes; each pass only ever lowers cost, so the bound costs quality, never
/// soundness.
const PASSES: usize = 8;

/// The chosen term of each class that has been given one.
pub struct Choice {
    index: Vec<u32>,
    classes: Vec<Class>,
    picks: Vec<usize>,
}

struct Class {
    id: Id,
    bytes: u64,
    terms: Vec<Candidate>,
}

struct Candidate {
    term: Term,
    cost: u64,
    hash: u64,
    children: Vec<u32>,
}

/// What a choice costs: time, bytes, and a hash that only breaks ties.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Total {
    /// Sum of term costs.
    pub cost: u64,
    /// Sum of the sizes of values.
    pub bytes: u64,
    hash: u64,
}

const NONE: usize = usize::MAX;

impl Choice {
    /// The term chosen for a class.
    pub fn term(&self, g: &Graph, id: Id) -> Option<&Term> {
        let at = *self.index.get(usize::from(g.eg.find(id)))? as usize;
        let class = self.classes.get(at)?;
        class.terms.get(self.picks[at]).map(|c| &c.term)
    }

    /// Chooses for everything that `roots` need; `None` if some class has no acyclic term.
    pub fn new(g: &Graph, roots: &[Id]) -> Option<Choice> {
        let mut choice = Choice::candidates(g);
        choice.start();
        let roots: Vec<u32> = roots.iter().map(|&r| choice.index[usize::from(g.eg.find(r))]).collect();
        if roots.iter().any(|&r| choice.picks[r as usize] == NONE) {
            return None;
        }
        choice.improve_each(&roots);
        choice.improve_whole(&roots);
        Some(choice)
    }

    /// Cost of everything that `roots` need.
    pub fn total(&self, g: &Graph, roots: &[Id]) -> Total {
        let roots: Vec<u32> = roots.iter().map(|&r| self.index[usize::from(g.eg.find(r))]).collect();
        let mut walk = Walk::new(self.classes.len());
        walk.total(self, &roots, None).unwrap_or(Total { cost: u64::MAX, bytes: u64::MAX, hash: 0 })
    }

    fn candidates(g: &Graph) -> Choice {
        let largest = g.eg.classes().map(|c| usize::from(c.id)).max().map_or(0, |m| m + 1);
        let mut index = vec![u32::MAX; largest];
        for (i, class) in g.eg.classes().enumerate() {
            index[usize::from(class.id)] = i as u32;
        }
        let classes: Vec<Class> = g
            .eg
            .classes()
            .map(|class| {
                let mut terms: Vec<Candidate> = class
                    .nodes
                    .iter()
                    .map(|term| Candidate {
                        term: term.clone(),
                        cost: cost(g, class.id, term),
                        hash: hash(g, term),
                        children: term.children().iter().map(|&c| index[usize::from(g.eg.find(c))]).collect(),
                    })
                    .collect();
                terms.sort_by_key(|t| (t.cost, t.hash));
                Class { id: class.id, bytes: bytes(g, class.id), terms }
            })
            .collect();
        let picks = vec![NONE; classes.len()];
        Choice { index, classes, picks }
    }

    /// A first choice in rounds: a class takes its first term all of whose operands have been chosen in earlier
    /// rounds, so the choice has no cycle.
    fn start(&mut self) {
        loop {
            let ready: Vec<(usize, usize)> = (0..self.classes.len())
                .filter(|&c| self.picks[c] == NONE)
                .filter_map(|c| {
                    let fits = |t: &Candidate| t.children.iter().all(|&k| self.picks[k as usize] != NONE);
                    self.classes[c].terms.iter().position(fits).map(|t| (c, t))
                })
                .collect();
            if ready.is_empty() {
                return;
            }
            for (class, term) in ready {
                self.picks[class] = term;
            }
        }
    }

    /// Classes that could be part of a result, operands before users as far as cycles permit.
    fn reachable(&self, roots: &[u32]) -> Vec<usize> {
        let mut seen = vec![false; self.classes.len()];
        let mut order = Vec::new();
        for &root in roots {
            let mut stack = vec![(root as usize, false)];
            while let Some((class, done)) = stack.pop() {
                if done {
                    order.push(class);
                } else if !std::mem::replace(&mut seen[class], true) {
                    stack.push((class, true));
                    for term in self.classes[class].terms.iter().rev() {
                        stack.extend(term.children.iter().rev().map(|&c| (c as usize, false)));
                    }
                }
            }
        }
        order
    }

    fn improve_each(&mut self, roots: &[u32]) {
        let order: Vec<usize> = self.reachable(roots).into_iter().filter(|&c| self.open(c)).collect();
        let mut walk = Walk::new(self.classes.len());
        for _ in 0..PASSES {
            let mut changed = false;
            for &class in &order {
                changed |= self.improve(&mut walk, class, &[class as u32]);
            }
            if !changed {
                return;
            }
        }
    }

    fn improve_whole(&mut self, roots: &[u32]) {
        let mut walk = Walk::new(self.classes.len());
        for _ in 0..PASSES {
            let mut changed = false;
            let mut used: Vec<usize> = {
                walk.total(self, roots, None);
                walk.visited.iter().map(|&c| c as usize).filter(|&c| self.open(c)).collect()
            };
            used.sort_unstable();
            for class in used {
                changed |= self.improve(&mut walk, class, roots);
            }
            if !changed {
                return;
            }
        }
    }

    /// Whether there is anything to choose.
    fn open(&self, class: usize) -> bool {
        self.classes[class].terms.len() > 1 && self.picks[class] != NONE
    }

    /// Takes the term of `class` that makes `roots` cheapest, if that is not the current one.
    fn improve(&mut self, walk: &mut Walk, class: usize, roots: &[u32]) -> bool {
        let Some(mut best) = walk.total(self, roots, None) else { return false };
        let before = self.picks[class];
        for term in 0..self.classes[class].terms.len() {
            let children = &self.classes[class].terms[term].children;
            if term == before || children.iter().any(|&c| self.picks[c as usize] == NONE) {
                continue;
            }
            if let Some(total) = walk.total(self, roots, Some((class, term)))
                && total < best
            {
                best = total;
                self.picks[class] = term;
            }
        }
        self.picks[class] != before
    }
}

/// Scratch space of depth-first walks.
struct Walk {
    seen: Vec<u32>,
    epoch: u32,
    visited: Vec<u32>,
}

impl Walk {
    fn new(n: usize) -> Walk {
        Walk { seen: vec![0; n], epoch: 0, visited: Vec::new() }
    }

    /// Cost of what `roots` need with one pick replaced; `None` if that replacement closes a cycle.
    fn total(&mut self, choice: &Choice, roots: &[u32], replaced: Option<(usize, usize)>) -> Option<Total> {
        let pick = |class: usize| match replaced {
            Some((c, term)) if c == class => term,
            _ => choice.picks[class],
        };
        // Any new cycle runs through the replaced class: it is there iff the class can be reached from its operands.
        if let Some((class, term)) = replaced {
            self.epoch += 1;
            let mut stack: Vec<u32> = choice.classes[class].terms[term].children.clone();
            while let Some(c) = stack.pop() {
                let c = c as usize;
                if c == class {
                    return None;
                }
                if std::mem::replace(&mut self.seen[c], self.epoch) != self.epoch {
                    stack.extend(&choice.classes[c].terms[pick(c)].children);
                }
            }
        }
        self.epoch += 1;
        self.visited.clear();
        let mut total = Total { cost: 0, bytes: 0, hash: 0 };
        let mut stack: Vec<u32> = roots.to_vec();
        while let Some(c) = stack.pop() {
            let class = c as usize;
            if std::mem::replace(&mut self.seen[class], self.epoch) == self.epoch {
                continue;
            }
            self.visited.push(c);
            let data = &choice.classes[class];
            let candidate = &data.terms[pick(class)];
            total.cost = total.cost.saturating_add(candidate.cost);
            total.bytes = total.bytes.saturating_add(data.bytes);
            total.hash = total.hash.wrapping_add(candidate.hash);
            stack.extend(&candidate.children);
        }
        Some(total)
    }
}

impl Choice {
    /// Takes each bundle's slices, all at once, where that lowers the cost: one by one, the first would pay for the
    /// merged contraction and save only itself.
    pub fn take_bundles(&mut self, g: &Graph, roots: &[Id], bundles: &[Bundle]) {
        for bundle in bundles {
            let (before, picks) = (self.total(g, roots), self.picks.clone());
            let merged = g.eg.find(bundle.merged);
            for &member in &bundle.members {
                let class = self.index[usize::from(g.eg.find(member))] as usize;
                let is_slice = |c: &Candidate| matches!(g.op(&c.term), Some(Op::Slice { .. }));
                let fits = |c: &Candidate| is_slice(c) && g.eg.find(c.term.children()[0]) == merged;
                if let Some(term) = self.classes[class].terms.iter().position(fits) {
                    self.picks[class] = term;
                }
            }
            if self.order(g, roots).is_none() || self.total(g, roots) >= before {
                self.picks = picks;
            }
        }
        let roots: Vec<u32> = roots.iter().map(|&r| self.index[usize::from(g.eg.find(r))]).collect();
        self.improve_whole(&roots);
    }

    /// Everything that `roots` need, operands first; `None` if the choice has a cycle, which would be an error here.
    pub fn order(&self, g: &Graph, roots: &[Id]) -> Option<Vec<Id>> {
        let mut state = vec![0u8; self.classes.len()];
        let mut order = Vec::new();
        for &root in roots {
            let mut stack = vec![(self.index[usize::from(g.eg.find(root))] as usize, false)];
            while let Some((class, done)) = stack.pop() {
                if done {
                    state[class] = 2;
                    order.push(self.classes[class].id);
                } else if state[class] == 1 {
                    return None;
                } else if state[class] == 0 {
                    state[class] = 1;
                    stack.push((class, true));
                    let term = self.classes[class].terms.get(self.picks[class])?;
                    // A child that is open here but not done is an ancestor, or waits on the stack a second time.
                    for &c in term.children.iter().rev() {
                        match state[c as usize] {
                            0 => stack.push((c as usize, false)),
                            1 => return None,
                            _ => {}
                        }
                    }
                }
            }
        }
        Some(order)
    }
}

/// A 64-bit FNV-1a hasher: the standard library does not promise its own from one version to the next.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Hash of what a term says: its operator with attributes, and its operands' numbers, which follow from the input.
fn hash(g: &Graph, term: &Term) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    match g.op(term) {
        Some(op) => format!("{op:?}").hash(&mut hasher),
        None => term.to_string().hash(&mut hasher),
    }
    for &child in term.children() {
        hasher.write(&(usize::from(child) as u64).to_le_bytes());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Lab, module, saturated};
    use lacuna_ir::op::{BinaryOp, UnaryOp};

    /// The least cost over all choices of a term for each class, cyclic ones excluded.
    fn brute_force(g: &Graph, roots: &[Id]) -> Option<u64> {
        let mut choice = Choice::candidates(g);
        let sizes: Vec<usize> = choice.classes.iter().map(|c| c.terms.len()).collect();
        let combinations = sizes.iter().try_fold(1usize, |n, &s| n.checked_mul(s).filter(|&n| n <= 3000))?;
        let mut best = None;
        for mut number in 0..combinations {
            for (pick, &size) in choice.picks.iter_mut().zip(&sizes) {
                *pick = number % size;
                number /= size;
            }
            if choice.order(g, roots).is_some() {
                let cost = choice.total(g, roots).cost;
                best = Some(best.map_or(cost, |b: u64| b.min(cost)));
            }
        }
        best
    }

    fn random_expression(l: &mut Lab) -> Vec<lacuna_ir::Value> {
        let dims = [2, 3, 4];
        let mut values = vec![l.param(&dims), l.param(&dims)];
        for _ in 0..3 + l.random(5) {
            let pick = |l: &mut Lab| values[l.random(values.len() as u64) as usize];
            let (x, y) = (pick(l), pick(l));
            let value = match l.random(4) {
                0 => l.un(UnaryOp::Abs, x),
                1 if l.shape(x) == l.shape(y) => l.bin(BinaryOp::Add, x, y),
                _ => {
                    let perm = l.perm(3);
                    l.permute(x, &perm)
                }
            };
            values.push(value);
        }
        values[values.len() - 2..].to_vec()
    }

    #[test]
    fn extraction_is_acyclic_and_near_the_best() {
        let (mut compared, mut optimal) = (0, 0);
        for seed in 0..300 {
            let (module, _) = module(seed, false, random_expression);
            let (g, roots, ..) = saturated(module, &crate::rules::all());
            let choice = Choice::new(&g, &roots).expect("there is a result");
            assert!(choice.order(&g, &roots).is_some(), "seed {seed} has a cycle");
            if let Some(best) = brute_force(&g, &roots) {
                let cost = choice.total(&g, &roots).cost;
                assert!(cost >= best);
                compared += 1;
                optimal += usize::from(cost == best);
            }
        }
        assert!(compared >= 100, "only {compared} graphs were small enough");
        assert!(optimal * 10 >= compared * 9, "{optimal} of {compared} are optimal");
    }
}
