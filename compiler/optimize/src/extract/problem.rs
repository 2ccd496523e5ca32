//! The problem of extraction without its e-graph: classes, the terms that compute each, what they cost, what they need.
//!
//! Reduction makes it small without losing the optimum. A class is *needed* when every solution contains it: the
//! roots, and what all terms of a needed class have in common. A term goes when another one of its class is never
//! worse: that costs no more even if everything it needs, and that solutions with the first term may lack, is computed
//! for it alone. The replacement must not close a cycle, which is certain where what it adds lies in other strongly
//! connected components of the graph of all terms.

use std::collections::{HashMap, VecDeque};

/// No term.
pub const NONE: usize = usize::MAX;

/// Cost, then bytes: sums saturate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Weight {
    /// Time.
    pub cost: u64,
    /// Sizes of values.
    pub bytes: u64,
}

impl Weight {
    /// More than any solution weighs.
    pub const MAX: Weight = Weight { cost: u64::MAX, bytes: u64::MAX };

    /// The sum.
    pub fn plus(self, other: Weight) -> Weight {
        Weight { cost: self.cost.saturating_add(other.cost), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

/// One way to compute a class.
#[derive(Clone, Debug)]
pub struct Alternative {
    /// Its own cost.
    pub cost: u64,
    /// Classes that it needs, ascending, without repetition.
    pub children: Vec<u32>,
}

/// A class: the size of its value, and the terms that compute it, the better ones first where nothing else decides.
#[derive(Clone, Debug, Default)]
pub struct Class {
    /// Bytes of the value.
    pub bytes: u64,
    /// The terms.
    pub terms: Vec<Alternative>,
}

/// An extraction problem.
#[derive(Clone, Debug, Default)]
pub struct Problem {
    /// Classes, by number.
    pub classes: Vec<Class>,
}

impl Problem {
    /// Weight of one term of a class.
    pub fn weight(&self, class: usize, term: usize) -> Weight {
        let data = &self.classes[class];
        Weight { cost: data.terms[term].cost, bytes: data.bytes }
    }

    /// Classes that could be part of a solution, users before operands as far as cycles permit.
    fn reachable(&self, roots: &[u32]) -> Vec<usize> {
        let mut seen = vec![false; self.classes.len()];
        let mut order = Vec::new();
        let mut stack: Vec<u32> = roots.iter().rev().copied().collect();
        while let Some(class) = stack.pop() {
            if !std::mem::replace(&mut seen[class as usize], true) {
                order.push(class as usize);
                let terms = &self.classes[class as usize].terms;
                stack.extend(terms.iter().rev().flat_map(|t| t.children.iter().rev()));
            }
        }
        order
    }

    /// What `roots` need under a choice, operands first; `None` if a class has no choice or needs itself.
    pub fn order(&self, picks: &[usize], roots: &[u32]) -> Option<Vec<usize>> {
        let mut state = vec![0u8; self.classes.len()];
        let mut order = Vec::new();
        for &root in roots {
            let mut stack = vec![(root as usize, false)];
            while let Some((class, done)) = stack.pop() {
                if done {
                    state[class] = 2;
                    order.push(class);
                } else if state[class] == 1 {
                    return None;
                } else if state[class] == 0 {
                    state[class] = 1;
                    stack.push((class, true));
                    // A child that is open here but not done is an ancestor, or waits on the stack a second time.
                    for &c in self.classes[class].terms.get(picks[class])?.children.iter().rev() {
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

    /// Strongly connected components of the graph of all terms, by class, and their members.
    fn components(&self, reachable: &[usize]) -> (Vec<u32>, Vec<Vec<usize>>) {
        let n = self.classes.len();
        let children: Vec<Vec<u32>> = (0..n).map(|_| Vec::new()).collect();
        let mut tarjan = Tarjan {
            problem: self,
            children,
            number: vec![u32::MAX; n],
            low: vec![0; n],
            component: vec![u32::MAX; n],
            open: Vec::new(),
            next: (0, 0),
        };
        for &class in reachable {
            if tarjan.number[class] == u32::MAX {
                tarjan.visit(class);
            }
        }
        let mut members = vec![Vec::new(); tarjan.next.1 as usize];
        reachable.iter().for_each(|&c| members[tarjan.component[c] as usize].push(c));
        (tarjan.component, members)
    }
}

struct Tarjan<'p> {
    problem: &'p Problem,
    children: Vec<Vec<u32>>,
    number: Vec<u32>,
    low: Vec<u32>,
    component: Vec<u32>,
    open: Vec<usize>,
    /// The next number of a class, and of a component.
    next: (u32, u32),
}

impl Tarjan<'_> {
    fn enter(&mut self, class: usize) {
        self.number[class] = self.next.0;
        self.low[class] = self.next.0;
        self.next.0 += 1;
        self.open.push(class);
        let terms = &self.problem.classes[class].terms;
        self.children[class] = terms.iter().flat_map(|t| t.children.iter().copied()).collect();
    }

    fn visit(&mut self, root: usize) {
        self.enter(root);
        let mut stack = vec![root];
        while let Some(&class) = stack.last() {
            if let Some(child) = self.children[class].pop() {
                let child = child as usize;
                if self.number[child] == u32::MAX {
                    self.enter(child);
                    stack.push(child);
                } else if self.component[child] == u32::MAX {
                    self.low[class] = self.low[class].min(self.number[child]);
                }
                continue;
            }
            stack.pop();
            if let Some(&parent) = stack.last() {
                self.low[parent] = self.low[parent].min(self.low[class]);
            }
            if self.low[class] == self.number[class] {
                while let Some(member) = self.open.pop() {
                    self.component[member] = self.next.1;
                    if member == class {
                        break;
                    }
                }
                self.next.1 += 1;
            }
        }
    }
}

/// What is left of a problem.
pub struct Reduced<'p> {
    /// The whole problem.
    pub problem: &'p Problem,
    /// What must be computed.
    pub roots: Vec<u32>,
    /// Classes that may be part of a solution, users first as far as cycles permit.
    pub reachable: Vec<usize>,
    /// Terms that are left, by class.
    pub alive: Vec<Vec<usize>>,
    /// Whether every solution has the class.
    pub needed: Vec<bool>,
    /// Strongly connected component, by class.
    pub component: Vec<u32>,
    /// Classes of each component.
    members: Vec<Vec<usize>>,
    /// A bound from above for what computing a class adds to any solution.
    pub at_most: Vec<Weight>,
    /// A bound from below for what a class adds that a solution has, with what nothing but it needs.
    pub at_least: Vec<Weight>,
    /// For classes that one class alone can need, which; else [`NONE`].
    sole: Vec<usize>,
    /// For each reachable class, by its place in `reachable`, the places of classes that it cannot do without.
    must: Vec<Bits>,
    place: Vec<usize>,
    users: Vec<Vec<u32>>,
}

type Bits = Box<[u64]>;

fn has(bits: &[u64], place: usize) -> bool {
    (bits[place / 64] >> (place % 64)) & 1 == 1
}

/// Terms of least tree weight, by class, with that weight.
pub struct Trees {
    /// The term, or [`NONE`].
    pub picks: Vec<usize>,
    /// The weight, and the height of the tree: greater than those of all operands, so the choice has no cycle.
    pub keys: Vec<(Weight, u32)>,
}

/// The terms of one component's classes, by what they need of the component.
struct Inner {
    /// Classes of the component in order.
    number: HashMap<usize, usize>,
    /// Of each term: the class that it computes, and how many of the component's it needs.
    terms: Vec<(usize, usize)>,
    /// For each class, the terms that need it.
    needing: Vec<Vec<usize>>,
}

impl Inner {
    fn new(reduced: &Reduced<'_>, component: usize) -> Inner {
        let members = &reduced.members[component];
        let number: HashMap<usize, usize> = members.iter().enumerate().map(|(i, &c)| (c, i)).collect();
        let mut inner = Inner { terms: Vec::new(), needing: vec![Vec::new(); members.len()], number };
        for (i, &class) in members.iter().enumerate() {
            for &t in &reduced.alive[class] {
                let children = &reduced.problem.classes[class].terms[t].children;
                let inside = children.iter().filter_map(|&c| inner.number.get(&(c as usize)).copied());
                let inside: Vec<usize> = inside.collect();
                inside.iter().for_each(|&c| inner.needing[c].push(inner.terms.len()));
                inner.terms.push((i, inside.len()));
            }
        }
        inner
    }

    fn edges(&self) -> usize {
        self.terms.iter().map(|&(_, needs)| needs + 1).sum()
    }

    /// Which classes can be computed where one cannot.
    fn without(&self, class: usize) -> Vec<bool> {
        let class = self.number[&class];
        let mut missing: Vec<usize> = self.terms.iter().map(|&(_, needs)| needs).collect();
        let mut computed = vec![false; self.needing.len()];
        let mut ready: Vec<usize> = (0..missing.len()).filter(|&t| missing[t] == 0).collect();
        while let Some(term) = ready.pop() {
            let of = self.terms[term].0;
            if of == class || std::mem::replace(&mut computed[of], true) {
                continue;
            }
            for &t in &self.needing[of] {
                missing[t] -= 1;
                if missing[t] == 0 {
                    ready.push(t);
                }
            }
        }
        computed
    }
}

/// Rounds of reduction; each is sound, so the bound costs only speed later.
const ROUNDS: usize = 16;
/// Most steps spent on a component's terms that no solution can have: leaving them in costs only speed, too.
const CYCLE_STEPS: usize = 100_000_000;
/// Most classes on top of each other that a bound from below adds up.
const LOWER_DEPTH: usize = 64;
/// Most classes for which it is computed what each cannot do without.
const MUST_CLASSES: usize = 8192;

impl<'p> Reduced<'p> {
    /// A problem before any reduction; `None` if no acyclic choice computes a root.
    pub fn new(problem: &'p Problem, roots: &[u32]) -> Option<Reduced<'p>> {
        let reachable = problem.reachable(roots);
        let mut users = vec![Vec::new(); problem.classes.len()];
        let mut alive = vec![Vec::new(); problem.classes.len()];
        for &class in &reachable {
            let terms = &problem.classes[class].terms;
            alive[class] =
                (0..terms.len()).filter(|&t| !terms[t].children.contains(&(class as u32))).collect();
            for &t in &alive[class] {
                terms[t].children.iter().for_each(|&c| users[c as usize].push(class as u32));
            }
        }
        for list in &mut users {
            list.dedup();
        }
        let n = problem.classes.len();
        let (component, members) = problem.components(&reachable);
        let mut reduced = Reduced {
            problem,
            roots: roots.to_vec(),
            reachable,
            alive,
            needed: vec![false; n],
            component,
            members,
            at_most: Vec::new(),
            at_least: Vec::new(),
            sole: Vec::new(),
            must: Vec::new(),
            place: vec![0; n],
            users,
        };
        for (i, &class) in reduced.reachable.iter().enumerate() {
            reduced.place[class] = i;
        }
        let trees = reduced.trees(false);
        for &class in &reduced.reachable {
            let terms = &problem.classes[class].terms;
            let computable = |t: &usize| terms[*t].children.iter().all(|&c| trees.picks[c as usize] != NONE);
            reduced.alive[class].retain(computable);
        }
        for component in 0..reduced.members.len() {
            reduced.drop_cyclic(component);
        }
        let computable = roots.iter().all(|&r| !reduced.alive[r as usize].is_empty());
        computable.then_some(reduced)
    }

    /// Removes the terms of a component's classes for which an operand cannot be computed without the class.
    fn drop_cyclic(&mut self, component: usize) {
        if self.members[component].len() < 2 {
            return;
        }
        let inner = Inner::new(self, component);
        let choices = self.members[component].iter().filter(|&&c| self.alive[c].len() > 1);
        if choices.count() * inner.edges() > CYCLE_STEPS {
            return;
        }
        for class in self.members[component].clone() {
            if self.alive[class].len() < 2 {
                continue;
            }
            let computed = inner.without(class);
            let terms = &self.problem.classes[class].terms;
            let known = |c: u32| {
                let c = c as usize;
                self.component[c] as usize != component || computed[inner.number[&c]]
            };
            let left: Vec<usize> = self.alive[class]
                .iter()
                .copied()
                .filter(|&t| terms[t].children.iter().all(|&k| known(k)))
                .collect();
            self.alive[class] = left;
        }
    }

    /// Whether a class could need itself; terms that name their own class are gone.
    pub fn is_cyclic(&self, class: usize) -> bool {
        self.members[self.component[class] as usize].len() > 1
    }

    /// Terms of least tree weight among those left; needed classes weigh nothing where `free`.
    pub fn trees(&self, free: bool) -> Trees {
        let n = self.problem.classes.len();
        let mut trees = Trees { picks: vec![NONE; n], keys: vec![(Weight::MAX, u32::MAX); n] };
        let mut queued = vec![false; n];
        // Operands tend to come first in this order.
        let mut queue: VecDeque<usize> = self.reachable.iter().rev().copied().collect();
        queue.iter().for_each(|&c| queued[c] = true);
        while let Some(class) = queue.pop_front() {
            queued[class] = false;
            let before = trees.keys[class];
            for &t in &self.alive[class] {
                let mut key = (self.problem.weight(class, t), 0);
                let mut known = true;
                for &c in &self.problem.classes[class].terms[t].children {
                    let (weight, height) = trees.keys[c as usize];
                    known &= trees.picks[c as usize] != NONE;
                    if !(free && self.needed[c as usize]) {
                        key.0 = key.0.plus(weight);
                    }
                    key.1 = key.1.max(height.saturating_add(1));
                }
                if known && key < trees.keys[class] {
                    trees.keys[class] = key;
                    trees.picks[class] = t;
                }
            }
            if trees.keys[class] != before {
                for &user in &self.users[class] {
                    if !std::mem::replace(&mut queued[user as usize], true) {
                        queue.push_back(user as usize);
                    }
                }
            }
        }
        trees
    }

    /// Removes terms that no best solution misses, until nothing changes.
    pub fn reduce(&mut self) {
        for _ in 0..ROUNDS {
            self.bound();
            let mut changed = false;
            for i in 0..self.reachable.len() {
                let class = self.reachable[i];
                changed |= self.thin(class);
            }
            if !changed {
                return;
            }
        }
        self.bound();
    }

    /// Brings what is known of classes up to date with the terms that are left.
    fn bound(&mut self) {
        self.need();
        self.at_most = self.trees(true).keys.into_iter().map(|k| k.0).collect();
        let n = self.problem.classes.len();
        let mut users: Vec<Option<usize>> = vec![None; n];
        for &class in &self.reachable {
            for &t in &self.alive[class] {
                for &c in &self.problem.classes[class].terms[t].children {
                    let user = users[c as usize].get_or_insert(class);
                    if *user != class {
                        *user = NONE;
                    }
                }
            }
        }
        self.sole = (0..n).map(|c| if self.needed[c] { NONE } else { users[c].unwrap_or(NONE) }).collect();
        let mut known = vec![None; n];
        for i in 0..self.reachable.len() {
            self.lower(self.reachable[i], &mut known, LOWER_DEPTH);
        }
        self.at_least = known.into_iter().map(Option::unwrap_or_default).collect();
    }

    fn lower(&self, class: usize, known: &mut [Option<Weight>], depth: usize) -> Weight {
        if let Some(weight) = known[class] {
            return weight;
        }
        let terms = &self.problem.classes[class].terms;
        let of = |&t: &usize| {
            let own = self.problem.weight(class, t);
            if depth == 0 {
                return own;
            }
            let exclusive = terms[t].children.iter().map(|&c| c as usize).filter(|&c| self.sole[c] == class);
            exclusive.fold(own, |sum, c| sum.plus(self.lower(c, known, depth - 1)))
        };
        let weight = self.alive[class].iter().map(of).min().unwrap_or_default();
        if depth > 0 {
            known[class] = Some(weight);
        }
        weight
    }

    /// Finds what each class cannot do without, whatever is chosen, and marks what no solution can.
    fn need(&mut self) {
        let n = self.reachable.len();
        let words = if n <= MUST_CLASSES { n.div_ceil(64) } else { 0 };
        // From above: what only cycles lead to keeps everything, and is not needed by anything that matters.
        self.must = vec![vec![u64::MAX; words].into(); n];
        if words > 0 {
            // Components are numbered from the operands up, so each needs only itself again.
            for component in 0..self.members.len() {
                while self.need_within(component) {}
            }
        }
        self.needed.fill(false);
        for r in 0..self.roots.len() {
            let root = self.roots[r] as usize;
            self.needed[root] = true;
            for (i, &class) in self.reachable.iter().enumerate().filter(|_| words > 0) {
                self.needed[class] |= has(&self.must[self.place[root]], i);
            }
        }
    }

    /// Brings what the classes of one component cannot do without up to date; whether they could affect each other.
    fn need_within(&mut self, component: usize) -> bool {
        let mut changed = false;
        for m in 0..self.members[component].len() {
            let class = self.members[component][m];
            let place = self.place[class];
            let mut common: Option<Vec<u64>> = None;
            for &t in &self.alive[class] {
                let own = self.union(class, t);
                match &mut common {
                    None => common = Some(own),
                    Some(common) => common.iter_mut().zip(&own).for_each(|(c, o)| *c &= o),
                }
            }
            let Some(mut common) = common else { continue };
            common[place / 64] |= 1 << (place % 64);
            if *common != *self.must[place] {
                self.must[place] = common.into();
                changed = true;
            }
        }
        changed && self.members[component].len() > 1
    }

    /// What a term cannot do without.
    fn union(&self, class: usize, term: usize) -> Vec<u64> {
        let mut all = vec![0; self.must[0].len()];
        for &c in &self.problem.classes[class].terms[term].children {
            let own = &self.must[self.place[c as usize]];
            all.iter_mut().zip(own).for_each(|(a, o)| *a |= o);
            if let Some(word) = all.get_mut(self.place[c as usize] / 64) {
                *word |= 1 << (self.place[c as usize] % 64);
            }
        }
        all
    }

    /// Removes the terms of a class that another one is never worse than.
    fn thin(&mut self, class: usize) -> bool {
        let before = self.alive[class].len();
        if before < 2 {
            return false;
        }
        let mut left = self.alive[class].clone();
        let mut at = left.len();
        while at > 0 {
            at -= 1;
            let needs = self.union(class, left[at]);
            if left.iter().enumerate().any(|(i, &u)| i != at && self.replaces(class, u, left[at], &needs)) {
                left.remove(at);
            }
        }
        self.alive[class] = left;
        self.alive[class].len() < before
    }

    /// Whether term `u` of a class is never worse than term `t`, with which a solution has `needs`.
    fn replaces(&self, class: usize, u: usize, t: usize, needs: &[u64]) -> bool {
        let data = &self.problem.classes[class];
        let mut weight = Weight { cost: data.terms[u].cost, bytes: 0 };
        for &c in &data.terms[u].children {
            let operand = data.terms[t].children.binary_search(&c).is_ok();
            let known = operand || (!needs.is_empty() && has(needs, self.place[c as usize]));
            if !operand {
                // What the operand leads to must not lead back here.
                if self.component[c as usize] == self.component[class] {
                    return false;
                }
            }
            if !known && !self.needed[c as usize] {
                weight = weight.plus(self.at_most[c as usize]);
            }
        }
        let own = Weight { cost: data.terms[t].cost, bytes: 0 };
        // What nothing but the term that goes can need goes with it.
        let gone =
            data.terms[t].children.iter().map(|&c| c as usize).filter(|&c| {
                self.sole[c] == class && data.terms[u].children.binary_search(&(c as u32)).is_err()
            });
        weight <= gone.fold(own, |sum, c| sum.plus(self.at_least[c]))
    }
}
