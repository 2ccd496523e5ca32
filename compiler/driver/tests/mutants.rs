//! Damaged objects: who finds the damage, the checker, a trap, or the comparison of results?
//!
//! `LACUNA_MUTANTS` in the environment sets how many damaged copies of each model are made.

use std::path::Path;

use lacuna_codegen::check::check;
use lacuna_driver::compare::{Criterion, OutputStats};
use lacuna_driver::files::{self, ModelFolder};
use lacuna_driver::pipeline::{self, Request, Watch};
use lacuna_driver::progress::{Loudness, Progress};
use lacuna_driver::testset::{Signature, TestSet};
use lacuna_ir::TensorType;
use lacuna_ir::eval::Tensor;
use lacuna_isa::inst::{Action, InstKind, Operand};
use lacuna_isa::object::{Kernel, Object};
use lacuna_isa::target::Target;
use lacuna_isa::target_file::target;
use lacuna_isa::view::View;
use lacuna_runtime::{Machine, Outcome, RunOptions};

/// A stream of random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// One kind of damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Damage {
    Drop,
    Duplicate,
    Swap,
    View,
    Action,
    Slots,
    Trip,
}

const KINDS: [Damage; 7] = [
    Damage::Drop,
    Damage::Duplicate,
    Damage::Swap,
    Damage::View,
    Damage::Action,
    Damage::Slots,
    Damage::Trip,
];

fn damage_view(view: &mut View, random: &mut Random) {
    let d = random.below(5);
    let sign = if random.below(2) == 0 { 1 } else { -1 };
    let dim = &mut view.dims[d];
    match random.below(7) {
        0 => dim.size = dim.size.saturating_add_signed(sign),
        1 => dim.stride += sign,
        2 => dim.origin += sign,
        3 => dim.bound = dim.bound.saturating_add_signed(sign),
        4 => view.offset += i64::from(sign),
        5 => {
            let n = view.levels.len();
            if let Some(advance) = &mut view.levels[random.below(n)] {
                advance.step += sign;
            }
        }
        _ => {
            let n = view.coords.len();
            if let Some(advance) = &mut view.coords[random.below(n)] {
                advance.step += sign;
            }
        }
    }
}

fn damage(kernel: &mut Kernel, kind: Damage, random: &mut Random) {
    // What switches engines off at the end changes energy and nothing else.
    let gate = kernel.code.iter().position(|inst| matches!(inst.kind, InstKind::Gate { .. }));
    let last = gate.unwrap_or(kernel.code.len() - 1);
    match kind {
        Damage::Drop => drop(kernel.code.remove(random.below(last))),
        Damage::Duplicate => {
            let pc = random.below(last);
            kernel.code.insert(pc, kernel.code[pc]);
        }
        Damage::Swap => {
            let pc = random.below(last - 1);
            kernel.code.swap(pc, pc + 1);
        }
        Damage::View => {
            let v = random.below(kernel.views.len());
            damage_view(&mut kernel.views[v], random);
        }
        Damage::Action => {
            let streams = kernel.programs.iter_mut().flat_map(|p| &mut p.streams).map(|s| &mut s.operand);
            let mut all: Vec<&mut Operand> =
                kernel.code.iter_mut().flat_map(|i| i.kind.operands_mut()).chain(streams).collect();
            let n = all.len();
            let operand = &mut all[random.below(n)];
            let others = [Action::Read, Action::Push, Action::Pop, Action::Update];
            let others: Vec<Action> = others.into_iter().filter(|a| *a != operand.action).collect();
            operand.action = others[random.below(3)];
        }
        Damage::Slots => {
            let b = random.below(kernel.buffers.len());
            let buffer = &mut kernel.buffers[b];
            buffer.slots = if random.below(2) == 0 { buffer.slots + 1 } else { buffer.slots - 1 };
        }
        Damage::Trip => {
            if !kernel.trips.is_empty() {
                let t = random.below(kernel.trips.len());
                let trip = &mut kernel.trips[t];
                let up = random.below(2) == 0;
                trip.base += if up { 1 } else { -1 };
                trip.max = if up { trip.max + 1 } else { trip.max.saturating_sub(1) };
            }
        }
    }
}

/// `n` damaged copies of `object`, those equal to it apart.
fn mutants(object: &Object, n: usize, seed: u64) -> Vec<(Damage, Object)> {
    let mut random = Random(seed);
    let mut all = Vec::new();
    while all.len() < n {
        let kind = KINDS[random.below(KINDS.len())];
        let mut damaged = object.clone();
        let k = random.below(damaged.kernels.len());
        damage(&mut damaged.kernels[k], kind, &mut random);
        if damaged != *object {
            all.push((kind, damaged));
        }
    }
    all
}

/// What became of a damaged object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// The checker refuses it.
    Refused,
    /// The checker does not, and it traps.
    Traps,
    /// It computes the same bits: a wider buffer, independent instructions in another order, a field that nothing reads.
    Same,
    /// It computes something else, and the comparison with the reference outputs says so.
    Differs,
    /// It computes something else that the comparison lets pass.
    Escapes,
}

const VERDICTS: usize = Verdict::Escapes as usize + 1;

/// A compiled model with its inputs, what it computes of them, and what it should.
struct Model {
    object: Object,
    target: Target,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    reference: Tensor,
    criterion: Criterion,
}

fn run(object: &Object, inputs: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
    let machine = Machine::load(object).ok()?;
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    match machine.run(&inputs, &RunOptions::default()).expect("inputs of the right size") {
        Outcome::Done { outputs, .. } => Some(outputs),
        Outcome::Trap(_) => None,
    }
}

impl Model {
    /// Where the precision loses nothing to speak of, outputs are held to those of the framework that trained the model,
    /// at the tolerance of `lacuna verify`; otherwise to those of the streams without damage, bit for bit.
    fn new(name: &str, precision: &str) -> Model {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models").join(name);
        let set = TestSet::find(&folder).expect("a test folder");
        let data = set.load().expect("test data").swap_remove(0);
        let blob = files::read(&set.model).expect("a model");
        let target = target("mtia-300").expect("a shipped target");
        let dims = Signature::read(&blob).expect("a graph").dims(&data);
        let folder = ModelFolder::of(&set.model).expect("a folder");
        let plain = Request::new(&set.model, blob, &folder, &target);
        let request = Request { dims, precision: precision.parse().expect("a precision"), ..plain };
        let progress = Progress::new(Loudness::Silent);
        let mut watch = Watch { progress: &progress, dump: None };
        let object = pipeline::compile(&request, &mut watch).expect("a supported model").object;
        let names: Vec<String> = object.entries[0].inputs.iter().map(|port| port.name.clone()).collect();
        let paired = data.pair(&data.inputs, &names, "inputs").expect("an input each");
        let inputs: Vec<Vec<u8>> =
            paired.into_iter().map(|i| data.inputs[i].1.data.bytes().to_vec()).collect();
        let outputs = run(&object, &inputs).expect("no trap");
        let tensor = |ty: &TensorType, bytes: &[u8]| Tensor::from_bytes(ty.clone(), bytes).expect("its size");
        let expected = &data.outputs[0].1;
        let (reference, criterion) = if precision == "f32" {
            // A number near 0 has the rounding errors of the terms that cancel in it.
            let criterion = Criterion::Close { atol: 1e-4, rtol: 1e-3 };
            (tensor(&expected.ty, expected.data.bytes()), criterion)
        } else {
            (tensor(&expected.ty, &outputs[0]), Criterion::Close { atol: 0.0, rtol: 0.0 })
        };
        let model = Model { object, target, inputs, outputs, reference, criterion };
        assert!(!model.differs(&model.outputs), "{name} {precision} is wrong without damage");
        model
    }

    /// Whether the comparison finds the outputs wrong.
    fn differs(&self, outputs: &[Vec<u8>]) -> bool {
        let ty = &self.reference.ty;
        let found = Tensor::from_bytes(ty.clone(), &outputs[0]).expect("its own size").to_f64().to_vec();
        let mut stats = OutputStats::new("");
        stats.add(&found, &self.reference.to_f64(), &ty.shape, None, self.criterion);
        stats.violation(self.criterion).is_some()
    }

    fn verdict(&self, mutant: &Object) -> Verdict {
        if !check(mutant, &self.target).is_empty() {
            return Verdict::Refused;
        }
        match run(mutant, &self.inputs) {
            None => Verdict::Traps,
            Some(outputs) if outputs == self.outputs => Verdict::Same,
            Some(outputs) if self.differs(&outputs) => Verdict::Differs,
            Some(_) => Verdict::Escapes,
        }
    }
}

/// What is refused never has to run; what is not refused never traps; and of what changes a result, the checker alone
/// finds nine tenths and the comparison the rest.
#[test]
fn damage_is_found() {
    let n = std::env::var("LACUNA_MUTANTS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let mut counts = [[0usize; VERDICTS]; KINDS.len()];
    for (name, precision) in
        [("digits-cnn", "f32"), ("digits-cnn-24", "mxfp8"), ("adder-llama", "f32"), ("adder-llama", "mxfp8")]
    {
        let model = Model::new(name, precision);
        for (kind, mutant) in mutants(&model.object, n, 1) {
            counts[kind as usize][model.verdict(&mutant) as usize] += 1;
        }
    }
    println!("{:<12}{:>8}{:>8}{:>8}{:>8}{:>8}", "damage", "refused", "traps", "same", "differs", "escapes");
    for (kind, row) in KINDS.iter().zip(&counts) {
        let [refused, traps, same, differs, escapes] = row;
        println!("{:<12}{refused:>8}{traps:>8}{same:>8}{differs:>8}{escapes:>8}", format!("{kind:?}"));
    }
    let sum = |verdict: Verdict| counts.iter().map(|row| row[verdict as usize]).sum::<usize>();
    let (refused, differs) = (sum(Verdict::Refused), sum(Verdict::Differs));
    assert_eq!(sum(Verdict::Traps), 0, "the checker accepts what traps: {counts:?}");
    assert_eq!(sum(Verdict::Escapes), 0, "damage changes a result and nobody finds it: {counts:?}");
    assert!(10 * refused >= 9 * (refused + differs), "the checker finds too little: {counts:?}");
    for kind in [Damage::Drop, Damage::Duplicate] {
        let row = counts[kind as usize];
        assert_eq!(row[Verdict::Refused as usize], row.iter().sum::<usize>(), "{kind:?}: {counts:?}");
    }
}
