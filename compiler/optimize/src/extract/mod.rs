//! Extraction: one term for each class that the results need, of least total cost over the *set* of classes used (a
//! shared class counts once), acyclic, and the same on every machine.
//!
//! [`problem`] reduces the choice without losing the optimum, [`search`] solves what is left: exactly where it falls
//! into small parts, else by exchanges from the greedy choice. Ties go to fewer bytes, then to the lesser structural
//! hash.

mod problem;
mod search;

use egg::{Id, Language};
use lacuna_ir::Op;

use crate::cost::{bytes, cost};
use crate::graph::{Graph, Source};
use crate::lang::{Fnv, Term};
use crate::options::Extraction;
use problem::{Alternative, Class, NONE, Problem, Weight};

/// The chosen term of each class that has been given one.
pub struct Choice {
    index: Vec<u32>,
    ids: Vec<Id>,
    terms: Vec<Vec<Term>>,
    problem: Problem,
    picks: Vec<usize>,
    optimal: bool,
}

impl Choice {
    /// The term chosen for a class.
    pub fn term(&self, g: &Graph, id: Id) -> Option<&Term> {
        let at = *self.index.get(usize::from(g.eg.find(id)))? as usize;
        self.terms.get(at)?.get(self.picks[at])
    }

    /// Chooses for everything that `roots` need; `None` if some class has no acyclic term.
    pub fn new(g: &Graph, roots: &[Id], how: Extraction) -> Option<Choice> {
        let mut choice = Choice::candidates(g);
        let roots = choice.numbers(g, roots);
        let solution = match how {
            Extraction::Best => search::best(&choice.problem, &roots)?,
            Extraction::Greedy => search::greedy(&choice.problem, &roots)?,
        };
        (choice.picks, choice.optimal) = (solution.picks, solution.optimal);
        Some(choice)
    }

    /// Whether no other choice is known to be possibly better.
    pub fn is_optimal(&self) -> bool {
        self.optimal
    }

    fn numbers(&self, g: &Graph, roots: &[Id]) -> Vec<u32> {
        roots.iter().map(|&r| self.index[usize::from(g.eg.find(r))]).collect()
    }

    /// Cost of everything that `roots` need.
    pub fn total(&self, g: &Graph, roots: &[Id]) -> Weight {
        match self.problem.order(&self.picks, &self.numbers(g, roots)) {
            Some(order) => order
                .iter()
                .fold(Weight::default(), |sum, &c| sum.plus(self.problem.weight(c, self.picks[c]))),
            None => Weight::MAX,
        }
    }

    fn candidates(g: &Graph) -> Choice {
        let largest = g.eg.classes().map(|c| usize::from(c.id)).max().map_or(0, |m| m + 1);
        let mut index = vec![u32::MAX; largest];
        let ids: Vec<Id> = g.eg.classes().map(|c| c.id).collect();
        for (i, &id) in ids.iter().enumerate() {
            index[usize::from(id)] = i as u32;
        }
        let mut classes = Vec::with_capacity(ids.len());
        let mut terms = Vec::with_capacity(ids.len());
        for class in g.eg.classes() {
            let mut own: Vec<(u64, u64, &Term)> =
                class.nodes.iter().map(|term| (cost(g, class.id, term), hash(g, term), term)).collect();
            own.sort_by_key(|&(cost, hash, _)| (cost, hash));
            let alternatives = own.iter().map(|&(cost, _, term)| {
                let mut children: Vec<u32> =
                    term.children().iter().map(|&c| index[usize::from(g.eg.find(c))]).collect();
                children.sort_unstable();
                children.dedup();
                Alternative { cost, children }
            });
            classes.push(Class { bytes: bytes(g, class.id), terms: alternatives.collect() });
            terms.push(own.into_iter().map(|(_, _, term)| term.clone()).collect());
        }
        let picks = vec![NONE; ids.len()];
        Choice { index, ids, terms, problem: Problem { classes }, picks, optimal: false }
    }

    /// Takes each bundle's slices, all at once, where that lowers the cost: one by one, the first would pay for the
    /// merged contraction and save only itself.
    pub fn take_bundles(&mut self, g: &Graph, roots: &[Id], bundles: &[Bundle]) {
        if self.optimal {
            return;
        }
        for bundle in bundles {
            let (before, picks) = (self.total(g, roots), self.picks.clone());
            let merged = g.eg.find(bundle.merged);
            for &member in &bundle.members {
                let class = self.index[usize::from(g.eg.find(member))] as usize;
                let is_slice = |t: &Term| matches!(g.op(t), Some(Op::Slice { .. }));
                let fits = |t: &Term| is_slice(t) && g.eg.find(t.children()[0]) == merged;
                if let Some(term) = self.terms[class].iter().position(fits) {
                    self.picks[class] = term;
                }
            }
            if self.total(g, roots) >= before {
                self.picks = picks;
            }
        }
    }

    /// Everything that `roots` need, operands first; `None` if the choice has a cycle, which would be an error here.
    pub fn order(&self, g: &Graph, roots: &[Id]) -> Option<Vec<Id>> {
        let order = self.problem.order(&self.picks, &self.numbers(g, roots))?;
        Some(order.into_iter().map(|c| self.ids[c]).collect())
    }
}

/// Hash of what a term says: its operator with attributes, and its operands' numbers, which follow from the input.
fn hash(g: &Graph, term: &Term) -> u64 {
    let mut hasher = Fnv::default();
    match term {
        Term::Param(n) => hasher.number(u64::from(*n)),
        Term::Result(n, _) => hasher.number(1 << 32 | u64::from(*n)),
        Term::Apply(_, op, _) => hasher.number(g.eg.analysis.ops.hash(*op)),
    }
    for &child in term.children() {
        hasher.number(usize::from(child) as u64);
    }
    hasher.0
}

/// Contractions that became one: each class with the class of the merged result that it is a slice of.
pub struct Bundle {
    /// Classes that became slices.
    pub members: Vec<Id>,
    /// What they are slices of.
    pub merged: Id,
    /// Where the contractions come from.
    pub source: Source,
    /// What was merged, for people.
    pub before: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Lab, module, saturated};
    use lacuna_ir::op::{BinaryOp, UnaryOp};

    /// The least cost over all choices of a term for each class, cyclic ones excluded.
    fn brute_force(g: &Graph, roots: &[Id]) -> Option<Weight> {
        let mut choice = Choice::candidates(g);
        let sizes: Vec<usize> = choice.terms.iter().map(Vec::len).collect();
        let combinations = sizes.iter().try_fold(1usize, |n, &s| n.checked_mul(s).filter(|&n| n <= 3000))?;
        let mut best = None;
        for mut number in 0..combinations {
            for (pick, &size) in choice.picks.iter_mut().zip(&sizes) {
                *pick = number % size;
                number /= size;
            }
            if choice.order(g, roots).is_some() {
                let total = choice.total(g, roots);
                best = Some(best.map_or(total, |b: Weight| b.min(total)));
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
    fn extraction_equals_brute_force() {
        let mut compared = 0;
        for seed in 0..1200 {
            let (module, _) = module(seed, false, random_expression);
            let (g, roots, ..) = saturated(module, &crate::rules::all());
            let choice = Choice::new(&g, &roots, Extraction::Best).expect("there is a result");
            assert!(choice.order(&g, &roots).is_some(), "seed {seed} has a cycle");
            let greedy = Choice::new(&g, &roots, Extraction::Greedy).expect("there is a result");
            assert!(choice.total(&g, &roots) <= greedy.total(&g, &roots), "seed {seed}");
            if let Some(best) = brute_force(&g, &roots) {
                assert_eq!(choice.total(&g, &roots), best, "seed {seed}");
                compared += 1;
            }
        }
        assert!(compared >= 500, "only {compared} graphs were small enough");
    }
}
