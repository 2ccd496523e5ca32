//! Structural validity of streams: control flow and operands.

use super::{Faults, local_reach, params};
use crate::format::Format;
use crate::inst::{Action, Engine, GlobalField, Inst, InstKind, Operand, OperandField, Order, Place};
use crate::object::{Access, Buffer, BufferKind, EntryPoint, Kernel};
use crate::part::Item;
use crate::view::{LOOP_LEVELS, Space, VIEW_DIMS, View};

pub(super) fn validate_entry_code(entry: &EntryPoint, faults: &mut Faults) {
    check_halt(&entry.code, faults);
    for (pc, inst) in entry.code.iter().enumerate() {
        faults.at(Item::Inst, pc);
        faults.check(inst.stage == 0, || format!("instruction {pc} has a stage"));
        match inst.kind {
            InstKind::Launch { launch } | InstKind::Chain { launch } => {
                faults.check(usize::from(launch) < entry.launches.len(), || {
                    format!("instruction {pc}: no launch {launch}")
                });
                let chains = matches!(inst.kind, InstKind::Chain { .. });
                let behind = pc.checked_sub(1).and_then(|before| entry.code[before].kind.started());
                faults.check(!chains || behind.is_some(), || {
                    format!("instruction {pc}: `chain` behind no launch")
                });
            }
            InstKind::Halt {} => {}
            // `transfers` has them.
            _ if inst.kind.engine() == Engine::Me => {}
            other => faults.push(format!("instruction {pc}: `{}` in an entry stream", other.mnemonic())),
        }
    }
    faults.at_whole();
}

fn check_halt(code: &[Inst], faults: &mut Faults) {
    let halts = code.iter().filter(|i| matches!(i.kind, InstKind::Halt {})).count();
    let last = code.last().is_some_and(|i| matches!(i.kind, InstKind::Halt {}));
    // Where one stands in the middle, that one is at fault, else the end.
    let early = code.iter().position(|i| matches!(i.kind, InstKind::Halt {}));
    if let Some(pc) = early.or_else(|| code.len().checked_sub(1)) {
        faults.at(Item::Inst, pc);
    }
    faults.check(halts == 1 && last, || "the stream must end in its one `halt`".to_owned());
    faults.at_whole();
}

pub(super) fn validate_kernel_code(kernel: &Kernel, max_trip: u32, faults: &mut Faults) {
    check_halt(&kernel.code, faults);
    // Level and stages of the open loops, and where they begin.
    let mut open: Vec<(u8, u8, usize)> = Vec::new();
    for (pc, inst) in kernel.code.iter().enumerate() {
        faults.at(Item::Inst, pc);
        // A loop's own stage counts in the loop around it; its `end` has none.
        let stages = if matches!(inst.kind, InstKind::End {} | InstKind::Halt {}) {
            1
        } else {
            open.last().map_or(1, |(_, stages, _)| *stages)
        };
        faults.check(inst.stage < stages.max(1), || {
            format!("instruction {pc}: stage {} where the innermost loop has {stages}", inst.stage)
        });
        check_inst(pc, &inst.kind, kernel, max_trip, faults);
        match inst.kind {
            InstKind::Loop { trip, level, stages } => {
                faults.check(usize::from(trip) < kernel.trips.len(), || {
                    format!("instruction {pc}: no trip t{trip}")
                });
                faults.check(usize::from(level) < LOOP_LEVELS, || {
                    format!("instruction {pc}: no level {level}")
                });
                faults.check(open.iter().all(|(l, ..)| *l != level), || {
                    format!("instruction {pc}: a loop around this one has level {level}")
                });
                faults.check((1..=4).contains(&stages), || format!("instruction {pc}: {stages} stages"));
                open.push((level, stages, pc));
            }
            InstKind::End {} => {
                let closed = open.pop();
                faults.check(closed.is_some(), || format!("instruction {pc}: `end` without a loop"));
            }
            _ => {}
        }
    }
    for (_, _, pc) in open {
        faults.at(Item::Inst, pc);
        faults.push("a loop does not end");
    }
    faults.at_whole();
}

/// The buffer and view of an operand, where both exist.
pub(super) fn check_operand<'k>(
    operand: &Operand,
    place: &str,
    kernel: &'k Kernel,
    max_trip: u32,
    faults: &mut Faults,
) -> Option<(&'k Buffer, &'k View)> {
    let Operand { buffer: b, delta, action, view: v } = *operand;
    let (buffer, view) = (kernel.buffers.get(usize::from(b)), kernel.views.get(usize::from(v)));
    faults.check(buffer.is_some(), || format!("{place}: no buffer b{b}"));
    faults.check(view.is_some(), || format!("{place}: no view v{v}"));
    let (buffer, view) = (buffer?, view?);
    faults.check(delta < buffer.slots, || {
        format!("{place}: slot {delta} behind the head of b{b}, which has {}", buffer.slots)
    });
    match action {
        Action::Push | Action::Pop => {
            faults.check(delta == 0, || format!("{place}: push or pop behind the head of b{b}"));
        }
        Action::Read | Action::Update => {}
    }
    faults.check(view.space == Space::Local, || format!("{place}: v{v} is global"));
    match local_reach(view, kernel, max_trip) {
        None => faults.push(format!("{place}: v{v} reaches before its slot")),
        Some(bytes) => faults.check(bytes <= u64::from(buffer.slot_bytes), || {
            format!("{place}: v{v} reaches {bytes} bytes into the {} of a slot of b{b}", buffer.slot_bytes)
        }),
    }
    match buffer.kind {
        BufferKind::Bank => {
            faults.check(view.format == Format::F32 && view.pattern.is_none(), || {
                format!("{place}: v{v} of bank b{b} is not f32")
            });
        }
        BufferKind::Local => {}
    }
    Some((buffer, view))
}

/// The checks of one instruction.
struct Checker<'a> {
    pc: usize,
    mnemonic: &'static str,
    kernel: &'a Kernel,
    max_trip: u32,
    faults: &'a mut Faults,
}

impl<'a> Checker<'a> {
    fn push(&mut self, message: &str) {
        self.faults.push(format!("instruction {} (`{}`): {message}", self.pc, self.mnemonic));
    }

    /// Checks an operand against its row.
    fn operand(&mut self, field: &OperandField) {
        let OperandField { name, operand, place, how: _ } = field;
        let at = format!("instruction {} (`{}`), {name}", self.pc, self.mnemonic);
        let Some((buffer, _)) = check_operand(operand, &at, self.kernel, self.max_trip, self.faults) else {
            return;
        };
        let kind_fits = match place {
            Place::Local => buffer.kind == BufferKind::Local,
            Place::Bank => buffer.kind == BufferKind::Bank,
            Place::Any => true,
        };
        self.faults.check(kind_fits, || format!("{at}: b{} is of the wrong kind", operand.buffer));
    }

    /// The view of an operand that its row was checked against.
    fn view(&self, operand: &Operand) -> Option<&'a View> {
        self.kernel.views.get(usize::from(operand.view))
    }

    /// Checks that a view is global and its tensor admits the access.
    fn global(&mut self, field: &GlobalField) {
        let GlobalField { view: v, writes, .. } = *field;
        let Some(view) = self.kernel.views.get(usize::from(v)) else {
            self.push(&format!("no view v{v}"));
            return;
        };
        let Space::Global(base) = view.space else {
            self.push(&format!("v{v} is local"));
            return;
        };
        match (self.kernel.tensors.get(usize::from(base)).map(|t| t.access), writes) {
            (Some(Access::In), true) => self.push(&format!("writes the `in` tensor r{base}")),
            (Some(Access::Out), false) => self.push(&format!("reads the `out` tensor r{base}")),
            (Some(Access::In), false) | (Some(Access::Out), true) | (Some(Access::InOut), _) | (None, _) => {}
        }
    }

    /// Checks that the tensor of a global view is used in the one way that the instruction admits.
    fn access(&mut self, v: u16, only: Access) {
        let Some(Space::Global(base)) = self.kernel.views.get(usize::from(v)).map(|view| view.space) else {
            return;
        };
        if self.kernel.tensors.get(usize::from(base)).is_some_and(|t| t.access != only) {
            self.push(&format!("r{base} is not `{}`", if only == Access::In { "in" } else { "inout" }));
        }
    }

    fn dimension(&mut self, dim: u8) {
        if usize::from(dim) >= VIEW_DIMS {
            self.push(&format!("no dimension {dim}"));
        }
    }

    fn same_box(&mut self, a: Option<&View>, b: Option<&View>) {
        if let (Some(a), Some(b)) = (a, b)
            && elements(&a.sizes()) != elements(&b.sizes())
        {
            self.push(&format!("boxes of {:?} and {:?}", a.sizes(), b.sizes()));
        }
    }

    fn packed(&mut self, bank: &Operand, a: &Operand, b: &Operand, mask: &Operand, order: Order) {
        let (Some(b), Some(mask)) = (self.view(b), self.view(mask)) else { return };
        match b.unpacked(mask, order) {
            Some(whole) => self.product(bank, self.view(a), Some(&whole), order, false),
            None => {
                self.push(&format!("{:?} are not blocks for a mask of {:?}", b.sizes(), mask.sizes()));
            }
        }
    }

    fn product(&mut self, bank: &Operand, a: Option<&View>, b: Option<&View>, order: Order, pattern: bool) {
        let (Some(a), Some(b)) = (a, b) else { return };
        let (a_sizes, b_sizes) = (a.sizes(), b.sizes());
        let (m, a_k) = a_sizes.split_at(2);
        let (n, b_k) = match order {
            Order::Kn => ([b_sizes[0], b_sizes[4]], &b_sizes[1..4]),
            Order::Nk => ([b_sizes[0], b_sizes[1]], &b_sizes[2..5]),
        };
        if elements(a_k) != elements(b_k) {
            self.push(&format!("the operands' k differ: {a_k:?} and {b_k:?}"));
        }
        let sums = elements(m).saturating_mul(elements(&n));
        let slot_bytes =
            self.kernel.buffers.get(usize::from(bank.buffer)).map_or(0, |b| u128::from(b.slot_bytes));
        if sums.saturating_mul(4) > slot_bytes {
            self.push(&format!("{m:?} x {n:?} sums do not fit the bank's slot"));
        }
        if b.pattern.is_some() != pattern || a.pattern.is_some() {
            self.push("only the second operand of `mmnm` has a pattern");
        }
    }
}

fn elements(sizes: &[u32]) -> u128 {
    sizes.iter().fold(1, |n, &s| n.saturating_mul(u128::from(s)))
}

fn check_inst(pc: usize, kind: &InstKind, kernel: &Kernel, max_trip: u32, faults: &mut Faults) {
    let mut c = Checker { pc, mnemonic: kind.mnemonic(), kernel, max_trip, faults };
    for field in kind.operands() {
        c.operand(&field);
    }
    if let Some(field) = kind.global() {
        c.global(&field);
    }
    match *kind {
        InstKind::Launch { .. } | InstKind::Chain { .. } => c.push("in a kernel stream"),
        InstKind::Loop { .. } | InstKind::End {} | InstKind::Halt {} => {}
        InstKind::Pop { n, buffer } => match kernel.buffers.get(usize::from(buffer)) {
            None => c.push(&format!("no buffer b{buffer}")),
            Some(b) if n > u16::from(b.slots) => c.push(&format!("{n} of {} slots", b.slots)),
            Some(_) => {}
        },
        InstKind::Ldp { param, src } => {
            if let Err(why) = params::validate_load(kernel, param, src) {
                c.push(&why.to_string());
            }
        }
        InstKind::Post { queue, .. } | InstKind::Wait { queue, .. } => match queue {
            Engine::FiLoad | Engine::FiStore => {}
            Engine::Cp | Engine::Mlu | Engine::Dpe | Engine::Re | Engine::Se | Engine::Me => {
                c.push(&format!("{} accesses no tensors", queue.name()));
            }
        },
        InstKind::Bar { .. } => {}
        InstKind::Gate { engine, .. } => {
            if engine == Engine::Cp {
                c.push("the command processor has no gate");
            }
        }
        InstKind::Ld { .. } => {}
        InstKind::Ldx { src, .. } => c.access(src, Access::In),
        InstKind::St { src, dst } => c.same_box(c.view(&src), kernel.views.get(usize::from(dst))),
        InstKind::Scatter { src, dst, dim, .. } => {
            c.dimension(dim);
            c.access(dst, Access::InOut);
            c.same_box(c.view(&src), kernel.views.get(usize::from(dst)));
        }
        InstKind::Perm { dst, src, dim, .. } => {
            c.dimension(dim);
            c.same_box(c.view(&src), c.view(&dst));
        }
        InstKind::Gather { dim, .. }
        | InstKind::Ldmask { dim, .. }
        | InstKind::Xchg { dim, .. }
        | InstKind::Xred { dim, .. } => c.dimension(dim),
        InstKind::Fill { value, .. } => {
            if usize::from(value) >= kernel.constants.len() {
                c.push(&format!("no constant c{value}"));
            }
        }
        InstKind::Move { dst, src, .. } => c.same_box(c.view(&src), c.view(&dst)),
        InstKind::Mask { .. } => {}
        InstKind::Pack { dst, src } => c.same_box(c.view(&src), c.view(&dst)),
        InstKind::Mm { bank, a, b, order }
        | InstKind::Mmblk { bank, a, b, order, packed: false, .. }
        | InstKind::Mmact { bank, a, b, order, .. } => c.product(&bank, c.view(&a), c.view(&b), order, false),
        InstKind::Mmblk { bank, a, b, mask, order, packed: true } => c.packed(&bank, &a, &b, &mask, order),
        InstKind::Mmnm { bank, a, b, order } => c.product(&bank, c.view(&a), c.view(&b), order, true),
        InstKind::Zero { .. } => {}
        InstKind::Drain { dst, bank } => c.same_box(c.view(&bank), c.view(&dst)),
        InstKind::Seed { bank, src } | InstKind::Resc { bank, src } => {
            c.same_box(c.view(&bank), c.view(&src))
        }
        InstKind::Stat { .. } => {}
        InstKind::Run { program } => {
            if usize::from(program) >= kernel.programs.len() {
                c.push(&format!("no program p{program}"));
            }
        }
        InstKind::Sort { .. } | InstKind::Merge { .. } => {}
        InstKind::Allred { .. }
        | InstKind::Allgath { .. }
        | InstKind::Redscat { .. }
        | InstKind::Alltoall { .. }
        | InstKind::Send { .. }
        | InstKind::Recv { .. } => c.push("in a kernel stream"),
    }
}
