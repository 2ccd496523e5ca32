//! Circular buffers along the walk: occupancy, formats, and accesses within slots.

use std::collections::{BTreeSet, VecDeque};

use lacuna_isa::inst::{Action, InstKind, Operand};
use lacuna_isa::object::Kernel;
use lacuna_isa::view::{PE_COORDS, Position};

use super::control::{Control, Stop, Values, Visit};
use super::forms::operands;
use super::ranges::Layout;
use super::slots;
use super::{Fault, Reason, Rule, pes, record};

/// An operand, with the number of the layout that its push makes.
struct Bind {
    operand: Operand,
    made: usize,
}

struct Ring {
    /// Oldest first: serial number and layout.
    slots: VecDeque<(u64, usize)>,
    /// Slots that the current instruction frees when it ends, and those that it publishes then.
    leaving: usize,
    coming: Vec<(u64, usize)>,
}

/// Walks the buffers of a kernel whose instructions all have a meaning.
pub(super) fn check(kernel: &Kernel, control: &mut Control<'_>, faults: &mut Vec<Fault>) {
    let mut layouts: Vec<Layout> = Vec::new();
    let binds: Vec<Vec<Bind>> = (0..kernel.code.len()).map(|pc| bind(kernel, pc, &mut layouts)).collect();
    for (pc, binds) in binds.iter().enumerate() {
        for Bind { operand, made } in binds.iter().filter(|b| b.operand.action == Action::Push) {
            let buffer = &kernel.buffers[usize::from(operand.buffer)];
            let bytes = layouts[*made].bytes();
            if bytes > u64::from(buffer.slot_bytes) {
                let message = format!(
                    "{bytes} bytes do not fit a slot of buffer {}, which has {}",
                    buffer.name, buffer.slot_bytes
                );
                record(faults, Fault::at(pc, None, (Rule::SlotTooSmall, message)));
            }
        }
    }
    // PEs with the same trip counts do the same to their buffers.
    let counts: [bool; PE_COORDS] = std::array::from_fn(|c| kernel.trips.iter().any(|t| t.coords[c] != 0));
    let classes: BTreeSet<[u32; PE_COORDS]> = pes(kernel)
        .into_iter()
        .map(|pe| std::array::from_fn(|c| if counts[c] { pe[c] } else { 0 }))
        .collect();
    let mut proof = Proof {
        kernel,
        binds: &binds,
        layouts: &layouts,
        seen: vec![Vec::new(); kernel.code.len()],
        unproven: vec![false; kernel.code.len()],
        exact: false,
    };
    for params in control.values_of_trips() {
        for &coords in &classes {
            if !proof.pe(control, coords, &params, faults) {
                return;
            }
        }
    }
    for (pc, seen) in proof.seen.iter().enumerate() {
        if let InstKind::Xred { .. } = kernel.code[pc].kind
            && seen.iter().any(|used| used[1] != seen[0][1])
        {
            let message = "the banks to sum are not of one layout".to_owned();
            record(faults, Fault::at(pc, None, (Rule::ShapeMismatch, message)));
        }
    }
    if proof.unproven.contains(&true) {
        proof.exact = true;
        let values = control.values().unwrap_or_default().to_vec();
        for (params, coords) in values.iter().flat_map(|v| pes(kernel).into_iter().map(move |pe| (v, pe))) {
            if !proof.pe(control, coords, params, faults) {
                return;
            }
        }
    }
}

fn bind(kernel: &Kernel, pc: usize, layouts: &mut Vec<Layout>) -> Vec<Bind> {
    let kind = &kernel.code[pc].kind;
    let mut number = |layout: Layout| {
        layouts.iter().position(|l| *l == layout).unwrap_or_else(|| {
            layouts.push(layout);
            layouts.len() - 1
        })
    };
    let make = |operand: Operand| {
        let view = &kernel.views[usize::from(operand.view)];
        let made = match *kind {
            InstKind::Ld { dst, src, .. }
            | InstKind::Gather { dst, src, .. }
            | InstKind::Ldx { dst, src, .. }
            | InstKind::Ldmask { dst, src, .. }
                if dst == operand =>
            {
                Layout::loaded(&kernel.views[usize::from(src)], view.format)
            }
            _ => Layout::pushed(view),
        };
        Bind { operand, made: number(made) }
    };
    operands(kernel, kind).into_iter().map(make).collect()
}

struct Proof<'a> {
    kernel: &'a Kernel,
    binds: &'a [Vec<Bind>],
    layouts: &'a [Layout],
    /// Combinations of layouts that each instruction was already checked with.
    seen: Vec<Vec<Vec<usize>>>,
    /// Instructions whose accesses need the position.
    unproven: Vec<bool>,
    exact: bool,
}

impl Proof<'_> {
    /// Walks one PE; false when the kernel is too long to go on.
    fn pe(
        &mut self,
        control: &mut Control<'_>,
        coords: [u32; PE_COORDS],
        params: &Values,
        faults: &mut Vec<Fault>,
    ) -> bool {
        let empty = || Ring { slots: VecDeque::new(), leaving: 0, coming: Vec::new() };
        let mut along = Along {
            coords,
            rings: self.kernel.buffers.iter().map(|_| empty()).collect(),
            serial: 0,
            dark: 0,
            pending: Vec::new(),
            faults: &mut *faults,
            proof: &mut *self,
        };
        let wanted = vec![true; along.proof.kernel.code.len()];
        let result = control.walk_rounds(coords, params, &wanted, &mut along);
        for (pc, used, at) in along.pending {
            if let Err(reason) = self.accesses(control, pc, &used, &at) {
                record(faults, Fault::at(pc, Some(coords), reason));
            }
        }
        if result == Err(Stop::Length) {
            let message = "more than 2^31 dynamic instructions".to_owned();
            record(faults, Fault { rule: Rule::Length, pc: None, pe: Some(coords), message });
            return false;
        }
        true
    }

    /// Formats, and accesses within slots.
    fn accesses(
        &mut self,
        control: &Control<'_>,
        pc: usize,
        used: &[usize],
        at: &Position,
    ) -> Result<(), Reason> {
        let layouts: Vec<Layout> = used.iter().map(|&l| self.layouts[l]).collect();
        for (bind, layout) in self.binds[pc].iter().zip(&layouts) {
            layout.admits(&self.kernel.views[usize::from(bind.operand.view)])?;
        }
        if self.exact {
            return slots::check(control, self.kernel, pc, &layouts, Some(at));
        }
        if slots::check(control, self.kernel, pc, &layouts, None).is_err() {
            self.unproven[pc] = true;
        }
        Ok(())
    }
}

/// The buffers of one PE along its walk.
struct Along<'p, 'a> {
    proof: &'p mut Proof<'a>,
    faults: &'p mut Vec<Fault>,
    coords: [u32; PE_COORDS],
    rings: Vec<Ring>,
    /// Serial number of the slot pushed last.
    serial: u64,
    /// Bit e is set while the engine of code e has no power.
    dark: u8,
    /// Accesses to check: the instruction, the layouts of its slots, where it stands.
    pending: Vec<(usize, Vec<usize>, Position)>,
}

impl Visit for Along<'_, '_> {
    fn inst(&mut self, pc: usize, at: &Position) -> bool {
        let used = match self.power(pc).and_then(|()| self.step(pc)) {
            Ok(used) => used,
            Err(reason) => {
                record(self.faults, Fault::at(pc, Some(self.coords), reason));
                return false;
            }
        };
        let proof = &mut *self.proof;
        if proof.exact {
            if proof.unproven[pc] {
                self.pending.push((pc, used, *at));
            }
        } else if !proof.seen[pc].contains(&used) {
            self.pending.push((pc, used.clone(), *at));
            proof.seen[pc].push(used);
        }
        true
    }

    /// The layouts in each buffer and what has no power: serial numbers only tell slots of one instruction apart.
    fn state(&self) -> Option<Vec<usize>> {
        let rings = self.rings.iter().flat_map(|ring| {
            std::iter::once(ring.slots.len()).chain(ring.slots.iter().map(|&(_, layout)| layout))
        });
        (!self.proof.exact).then(|| rings.chain([usize::from(self.dark)]).collect())
    }
}

impl Along<'_, '_> {
    /// Whether the engine of an instruction has power, and what `gate` changes.
    fn power(&mut self, pc: usize) -> Result<(), Reason> {
        let kind = &self.proof.kernel.code[pc].kind;
        if self.dark & 1 << kind.engine() as u8 != 0 {
            return Err((Rule::Gated, format!("{} has no power", kind.engine().name())));
        }
        match *kind {
            InstKind::Gate { engine, on: true } => self.dark &= !(1 << engine as u8),
            InstKind::Gate { engine, on: false } => self.dark |= 1 << engine as u8,
            _ => {}
        }
        Ok(())
    }

    /// What one instruction does to the buffers; returns the layouts of the slots that it names.
    fn step(&mut self, pc: usize) -> Result<Vec<usize>, Reason> {
        let Proof { kernel, binds, .. } = *self.proof;
        match kernel.code[pc].kind {
            InstKind::Pop { n, buffer } => {
                let ring = &mut self.rings[usize::from(buffer)];
                if usize::from(n) > ring.slots.len() {
                    let name = &kernel.buffers[usize::from(buffer)].name;
                    let message = format!("buffer {name} holds {} slots of {n}", ring.slots.len());
                    return Err((Rule::PopEmpty, message));
                }
                ring.slots.drain(..usize::from(n));
                return Ok(Vec::new());
            }
            InstKind::Halt {} => {
                let left = self.rings.iter().zip(&kernel.buffers).find(|(ring, _)| !ring.slots.is_empty());
                return match left {
                    Some((ring, buffer)) => {
                        let message =
                            format!("buffer {} still holds {} slots", buffer.name, ring.slots.len());
                        Err((Rule::NotEmptyAtHalt, message))
                    }
                    None => Ok(Vec::new()),
                };
            }
            _ => {}
        }
        let binds = &binds[pc];
        let mut used = Vec::with_capacity(binds.len());
        // Serial numbers of the slots named so far, and whether they are written.
        let mut named: Vec<(u64, bool)> = Vec::with_capacity(binds.len());
        for Bind { operand, made } in binds {
            let ring = &mut self.rings[usize::from(operand.buffer)];
            let buffer = &kernel.buffers[usize::from(operand.buffer)];
            let writes = match operand.action {
                Action::Push => {
                    let taken = ring.slots.len() + ring.leaving + ring.coming.len();
                    if taken >= usize::from(buffer.slots) {
                        let message =
                            format!("all {} slots of buffer {} are in use", buffer.slots, buffer.name);
                        return Err((Rule::PushFull, message));
                    }
                    self.serial += 1;
                    ring.coming.push((self.serial, *made));
                    used.push(*made);
                    continue;
                }
                Action::Update => true,
                Action::Read | Action::Pop => false,
            };
            let Some(&(number, layout)) = ring.slots.get(usize::from(operand.delta)) else {
                return Err(match ring.slots.len() {
                    0 => (Rule::PopEmpty, format!("buffer {} is empty", buffer.name)),
                    n => {
                        let message = format!(
                            "buffer {} holds {n} slots, none is {} behind the head",
                            buffer.name, operand.delta
                        );
                        (Rule::BadDelta, message)
                    }
                });
            };
            if named.iter().any(|&(other, written)| other == number && (written || writes)) {
                let message = format!("a slot of buffer {} is written and named twice", buffer.name);
                return Err((Rule::SlotConflict, message));
            }
            named.push((number, writes));
            used.push(layout);
            if operand.action == Action::Pop {
                ring.slots.pop_front();
                ring.leaving += 1;
            }
        }
        for Bind { operand, .. } in binds {
            let ring = &mut self.rings[usize::from(operand.buffer)];
            ring.leaving = 0;
            ring.slots.extend(ring.coming.drain(..));
        }
        Ok(used)
    }
}
