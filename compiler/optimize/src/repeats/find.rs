//! The search for blocks: labels that say what a node is, periods in the row of labels, cuts, and the comparison of the
//! stretches between them.

use cranelift_entity::SecondaryMap;
use indexmap::{IndexMap, IndexSet};
use lacuna_ir::op::Real;
use lacuna_ir::{ConstId, Constant, ConstantData, Function, Module, Node, Op, TensorType, Value};
use lacuna_isa::format::ScalarType;

use super::{Group, Instance, leaves};
use crate::analysis::of_constant;
use crate::constants::constant_values;
use crate::module::SMALL_BYTES;
use crate::structure::Zeros;

/// Fewest nodes of a block.
const MIN_NODES: usize = 4;
/// Fewest nodes that a repetition must save.
const MIN_SAVED: usize = 16;
/// Most distances between equal nodes that are tried as periods.
const PERIODS: usize = 6;
/// Constants of other types than f32 and bool are compared by content up to this size.
const MASK_BYTES: usize = 1 << 16;
/// What masks add where they reject is no more than this.
const MASK_LOW: f32 = -1e3;
/// Most different periods in one function.
const ROUNDS: usize = 4;

/// The blocks of a function that occur more than once in a row.
pub fn find(module: &Module, func: &Function) -> Vec<Group> {
    let sequence = Sequence::new(module, func);
    let mut groups = Vec::new();
    let mut free = vec![true; sequence.nodes.len()];
    for _ in 0..ROUNDS {
        let runs = sequence.best_runs(&free);
        if runs.is_empty() {
            break;
        }
        for run in runs {
            free[run.start..run.end].fill(false);
            groups.extend(sequence.group(&run));
        }
    }
    groups
}

/// What a node is, apart from what it is connected to.
#[derive(PartialEq, Eq, Hash)]
enum Label<'f> {
    /// A constant, by everything that rules know of it.
    Const(&'f TensorType, Option<Real>, Zeros, Vec<u8>),
    /// An operator on operands of known labels, or of known types.
    Apply(&'f Op, Vec<Operand>),
}

#[derive(PartialEq, Eq, Hash)]
enum Operand {
    Fixed(u32),
    Computed(u32),
}

/// A stretch in which every node has the label of the one a period later, as far as that is within it.
struct Run {
    start: usize,
    end: usize,
    period: usize,
}

/// The nodes of a function that depend on a parameter, in order.
struct Sequence<'f> {
    func: &'f Function,
    fixed: SecondaryMap<Value, bool>,
    nodes: Vec<Node>,
    labels: Vec<u32>,
    /// Place in `nodes` after which a node's result is not used; `usize::MAX` for results of the function.
    last_use: Vec<usize>,
    n_uses: Vec<usize>,
    at: SecondaryMap<Node, u32>,
}

impl<'f> Sequence<'f> {
    fn new(module: &'f Module, func: &'f Function) -> Sequence<'f> {
        let fixed = constant_values(func);
        let mut known: IndexSet<Label<'f>> = IndexSet::new();
        let mut types: IndexSet<&'f TensorType> = IndexSet::new();
        let mut of_fixed: SecondaryMap<Node, u32> = SecondaryMap::new();
        let mut of_constant_id: IndexMap<ConstId, u32> = IndexMap::new();
        let (mut nodes, mut labels) = (Vec::new(), Vec::new());
        let mut at: SecondaryMap<Node, u32> = SecondaryMap::with_default(u32::MAX);
        for (node, data) in func.nodes.iter() {
            if let Op::Const { value } = data.op {
                of_fixed[node] = *of_constant_id
                    .entry(value)
                    .or_insert_with(|| known.insert_full(constant_label(module, value)).0 as u32);
                continue;
            }
            let operands = data.args.iter().map(|&a| match func.def(a) {
                Some(def) if fixed[a] => Operand::Fixed(of_fixed[def]),
                Some(_) | None => Operand::Computed(types.insert_full(func.ty(a)).0 as u32),
            });
            let label = known.insert_full(Label::Apply(&data.op, operands.collect())).0 as u32;
            let computed = data.results.iter().any(|&r| !fixed[r]) || data.results.is_empty();
            if computed {
                at[node] = nodes.len() as u32;
                // No two calls are equal: what they do is not known here.
                let call = matches!(data.op, Op::Call { .. });
                labels.push(if call { u32::MAX - nodes.len() as u32 } else { label });
                nodes.push(node);
            } else {
                of_fixed[node] = label;
            }
        }
        let mut sequence = Sequence {
            func,
            fixed,
            last_use: vec![0; nodes.len()],
            n_uses: vec![0; nodes.len()],
            nodes,
            labels,
            at,
        };
        for i in 0..sequence.nodes.len() {
            for &arg in &func.nodes[sequence.nodes[i]].args {
                if let Some(j) = sequence.place(arg) {
                    sequence.last_use[j] = i;
                    sequence.n_uses[j] += 1;
                }
            }
        }
        for &result in &func.results {
            if let Some(j) = sequence.place(result) {
                sequence.last_use[j] = usize::MAX;
            }
        }
        sequence
    }

    /// Place of the node that computes a value.
    fn place(&self, value: Value) -> Option<usize> {
        let at = self.at[self.func.def(value)?];
        (at != u32::MAX).then_some(at as usize)
    }

    /// Runs of the period that saves most among places that are free.
    fn best_runs(&self, free: &[bool]) -> Vec<Run> {
        let mut last: IndexMap<u32, usize> = IndexMap::new();
        let mut counts: IndexMap<usize, usize> = IndexMap::new();
        for (i, &label) in self.labels.iter().enumerate().filter(|&(i, _)| free[i]) {
            if let Some(before) = last.insert(label, i)
                && i - before >= MIN_NODES
            {
                *counts.entry(i - before).or_default() += 1;
            }
        }
        let mut periods: Vec<(usize, usize)> = counts.into_iter().collect();
        periods.sort_by_key(|&(period, count)| (std::cmp::Reverse(count), period));
        periods.truncate(PERIODS);
        let saved =
            |runs: &[Run]| runs.iter().map(|r| (r.end - r.start) / r.period * r.period - r.period).sum();
        let mut best: (usize, Vec<Run>) = (0, Vec::new());
        for (period, _) in periods {
            let runs = self.runs(period, free);
            let saves: usize = saved(&runs);
            // Of two periods that save alike, the shorter has more instances of a smaller block.
            if saves > best.0 || (saves == best.0 && best.1.first().is_some_and(|r| r.period > period)) {
                best = (saves, runs);
            }
        }
        best.1
    }

    fn runs(&self, period: usize, free: &[bool]) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut start = 0;
        for i in 0..self.labels.len() {
            let j = i + period;
            let same = j < self.labels.len() && free[i] && free[j] && self.labels[i] == self.labels[j];
            if !same {
                let (long, saved) = (i - start >= period, (i - start) / period * period);
                if long && saved >= MIN_SAVED {
                    runs.push(Run { start, end: i + period, period });
                }
                start = i + 1;
            }
        }
        // Neighbouring runs may overlap by less than a period: the later one gives way.
        let mut end = 0;
        for run in &mut runs {
            run.start = run.start.max(end);
            end = run.end;
        }
        runs.retain(|r| r.start + 2 * r.period <= r.end);
        runs
    }

    /// The instances of a run that are equal.
    fn group(&self, run: &Run) -> Option<Group> {
        let start = self.best_cut(run);
        let n = (run.end - start) / run.period;
        let stretches: Vec<(Instance, Vec<u32>)> =
            (0..n).filter_map(|k| self.instance(start + k * run.period, run.period)).collect();
        let votes = |i: usize| stretches.iter().filter(|s| s.1 == stretches[i].1).count();
        // The first has other neighbours than those in the middle.
        let typical = (0..stretches.len()).rev().max_by_key(|&i| (votes(i), std::cmp::Reverse(i)))?;
        let code = stretches[typical].1.clone();
        let instances: Vec<Instance> = stretches.into_iter().filter(|s| s.1 == code).map(|s| s.0).collect();
        let saved = instances.len().saturating_sub(1) * run.period;
        let template = usize::from(instances.len() > 2);
        (saved >= MIN_SAVED).then_some(Group { instances, template })
    }

    /// The first place of a run where a block may begin, such that few values cross from one to the next, and those
    /// that do are wanted in memory anyway: used more than once, or by a product or norm.
    fn best_cut(&self, run: &Run) -> usize {
        let score = |start: usize| {
            let cut = start + run.period;
            let (mut crossing, mut awkward) = (0, 0);
            for i in start..cut {
                if self.last_use[i] >= cut {
                    crossing += 1;
                    let op = &self.func.nodes[self.nodes[i]].op;
                    let user = self.last_use[i];
                    let reads = self.nodes.get(user).map(|&n| &self.func.nodes[n].op);
                    let whole = reads.is_none_or(|op| !op.is_elementwise() && !op.is_movement());
                    awkward += usize::from(op.is_movement() || (self.n_uses[i] < 2 && !whole));
                }
            }
            (crossing, awkward, std::cmp::Reverse((run.end - start) / run.period), start)
        };
        (run.start..run.start + run.period).min_by_key(|&s| score(s)).unwrap_or(run.start)
    }

    /// A stretch as an instance, with a code that is equal for those that differ in constants and incoming values only.
    /// `None` where it has a node with several results.
    fn instance(&self, start: usize, period: usize) -> Option<(Instance, Vec<u32>)> {
        let range = start..start + period;
        let mut instance = Instance {
            nodes: self.nodes[range.clone()].to_vec(),
            inputs: Vec::new(),
            constants: Vec::new(),
            outputs: Vec::new(),
        };
        let mut code = Vec::new();
        let mut own = Vec::new();
        for i in range.clone() {
            let data = &self.func.nodes[self.nodes[i]];
            for &arg in &data.args {
                if self.fixed[arg] {
                    own.clear();
                    leaves(self.func, arg, &mut own);
                    for &leaf in &own {
                        let known = instance.constants.iter().position(|c| c.0 == leaf.0);
                        code.push(known.unwrap_or(instance.constants.len()) as u32);
                        if known.is_none() {
                            instance.constants.push(leaf);
                        }
                    }
                } else if let Some(j) = self.place(arg).filter(|j| range.contains(j)) {
                    code.push((1 << 30) | (i - j) as u32);
                } else {
                    let known = instance.inputs.iter().position(|&v| v == arg);
                    code.push((2 << 30) | known.unwrap_or(instance.inputs.len()) as u32);
                    if known.is_none() {
                        instance.inputs.push(arg);
                    }
                }
            }
            let &[result] = &data.results[..] else { return None };
            if self.last_use[i] >= range.end {
                instance.outputs.push(result);
                code.push((3 << 30) | (i - start) as u32);
            }
        }
        Some((instance, code))
    }
}

/// What rules know of a constant: facts, and the elements where it is small or could be part of a mask.
fn constant_label(module: &Module, id: ConstId) -> Label<'_> {
    let constant = &module.constants[id];
    let elements = match &constant.data {
        ConstantData::Dense(blob) if blob.len() <= SMALL_BYTES => blob.bytes().to_vec(),
        ConstantData::Dense(blob) if is_masklike(constant, blob.bytes()) => constant.hash().to_vec(),
        ConstantData::Dense(_) => Vec::new(),
        ConstantData::Splat(code) => [&b"splat"[..], &code.to_le_bytes()].concat(),
    };
    let (splat, zeros) = of_constant(constant);
    Label::Const(&constant.ty, splat, zeros, elements)
}

/// Whether a constant could be a mask, or what one is computed from: a rule that recognises masks looks at their
/// elements. Weights are told apart at once.
fn is_masklike(constant: &Constant, bytes: &[u8]) -> bool {
    let Some(elem) = constant.ty.elem.scalar() else { return false };
    if elem != ScalarType::F32 {
        return elem == ScalarType::Bool || bytes.len() <= MASK_BYTES;
    }
    let plain = |word: &[u8]| {
        let value = word.try_into().map_or(f32::NAN, f32::from_le_bytes);
        value == 0.0 || value == 1.0 || value <= MASK_LOW
    };
    let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) else { return false };
    plain(first) && plain(last)
}
