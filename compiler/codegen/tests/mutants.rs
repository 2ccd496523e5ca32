//! Damaged objects: how many does the checker refuse?

mod common;

use common::{compile, models, target};
use lacuna_codegen::check::check;
use lacuna_isa::inst::{Action, Operand};
use lacuna_isa::object::{Kernel, Object};
use lacuna_isa::view::View;

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
    let last = kernel.code.len() - 1;
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

/// Three quarters of 900 seeded mutants are refused: 677 when this was measured. The rest is legal, though some of it
/// computes something else: a wider buffer, a different order of independent instructions, another element in bounds.
/// Dropped and repeated instructions are always found.
#[test]
fn damage_is_found() {
    let (mut found, mut total) = ([0; KINDS.len()], [0; KINDS.len()]);
    for (model, precision) in [("digits-cnn", "f32"), ("digits-cnn-24", "mxfp8"), ("adder-llama", "mxfp8")] {
        let target = target("mtia-300");
        let object = compile(&models().join(model), &target, precision);
        for (kind, mutant) in mutants(&object, 300, 1) {
            total[kind as usize] += 1;
            found[kind as usize] += usize::from(!check(&mutant, &target).is_empty());
        }
    }
    let report: Vec<String> =
        KINDS.iter().map(|&k| format!("{k:?} {} of {}", found[k as usize], total[k as usize])).collect();
    let sum: usize = found.iter().sum();
    println!("{sum}: {}", report.join(", "));
    assert!(4 * sum >= 3 * total.iter().sum::<usize>(), "{}", report.join(", "));
    for kind in [Damage::Drop, Damage::Duplicate] {
        assert_eq!(found[kind as usize], total[kind as usize], "{}", report.join(", "));
    }
}
