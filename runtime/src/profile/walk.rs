//! The control walk: the dynamic instructions of one PE with their work, one after the other, without data. A parameter
//! that `ldp` loads counts as the greatest of its range.

use lacuna_isa::format::Format;
use lacuna_isa::inst::{Action, Combine, Engine, InstKind, Multicast, Operand, Order, Share};
use lacuna_isa::object::MemSpace;
use lacuna_isa::program::{Program, SeOp};
use lacuna_isa::timing::{DpeActions, Work, merge_ops, op_slots, sort_ops};
use lacuna_isa::view::{Pattern, Position, Space, VIEW_DIMS, View};

use super::masks::{Known, Masks};
use crate::boxes::Walk;
use crate::dma::{Piece, Records, open_dim, touched_blocks};
use crate::matmul::mask::{Grain, whole};
use crate::plan::KernelPlan;

/// A slot that a dynamic instruction uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct SlotUse {
    pub buffer: u8,
    pub delta: u8,
    pub action: Action,
}

/// The work of a dynamic instruction in a form that can be compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Amount {
    Control,
    Dma {
        bytes: u64,
        runs: u64,
        space: MemSpace,
        receivers: u32,
    },
    Uneven {
        far_bytes: u64,
        local_bytes: u64,
        runs: u64,
        space: MemSpace,
        receivers: u32,
    },
    Layout {
        bytes: u64,
    },
    Fill {
        bytes: u64,
    },
    Matmul {
        m: u64,
        n: u64,
        k: u64,
        a: Format,
        b: Format,
        pattern: Option<Pattern>,
        actions: Option<DpeActions>,
    },
    Bank {
        elements: u64,
    },
    Exchange {
        sent: u64,
        received: u64,
    },
    BankSum {
        elements: u64,
    },
    Simd {
        ops: u64,
        bytes: u64,
    },
}

/// A dynamic instruction.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Step {
    pub mnemonic: &'static str,
    pub engine: Engine,
    pub slots: Vec<SlotUse>,
    /// The engine that loses or gets back its power.
    pub gate: Option<(Engine, bool)>,
    /// The base register whose tensor it accesses.
    pub register: Option<u8>,
    /// The launch before whose end it waits for, 0 the last.
    pub held: Option<u8>,
    amount: Amount,
}

impl Step {
    /// The work that timing prices.
    pub fn work(&self) -> Work {
        match self.amount {
            Amount::Control => Work::Control,
            Amount::Dma { bytes, runs, space, receivers } => Work::Dma { bytes, runs, space, receivers },
            Amount::Uneven { far_bytes, local_bytes, runs, space, receivers } => {
                Work::Uneven { far_bytes, local_bytes, runs, space, receivers }
            }
            Amount::Layout { bytes } => Work::Layout { bytes },
            Amount::Fill { bytes } => Work::Fill { bytes },
            Amount::Matmul { m, n, k, a, b, pattern, actions } => {
                Work::Matmul { m, n, k, a, b, pattern, actions }
            }
            Amount::Bank { elements } => Work::Bank { elements },
            Amount::Exchange { sent, received } => Work::Exchange { sent, received },
            Amount::BankSum { elements } => Work::BankSum { elements },
            Amount::Simd { ops, bytes } => Work::Simd { elements: 1, ops, bytes },
        }
    }
}

/// The walk was given up: more dynamic instructions and loop rounds than the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooLong;

struct Walker<'a, 'v> {
    plan: &'a KernelPlan<'a>,
    known: Known<'a>,
    masks: Masks<'a>,
    at: Position,
    left: u64,
    visit: &'v mut dyn FnMut(usize, &Step),
}

/// Calls `visit` for the dynamic instructions of the PE at `start` with their places in the code, in program order; `known` is the launch.
/// Returns how much of `limit` is left.
///
/// # Errors
/// After `limit` instructions and loop rounds.
pub(super) fn walk(
    plan: &KernelPlan<'_>,
    start: Position,
    known: Known<'_>,
    limit: u64,
    visit: &mut dyn FnMut(usize, &Step),
) -> Result<u64, TooLong> {
    let masks = Masks::new(plan.kernel, known);
    let mut walker = Walker { plan, known, masks, at: start, left: limit, visit };
    let mut pc = 0;
    while pc < plan.kernel.code.len() {
        walker.item(pc)?;
        pc = plan.ends[pc] + 1;
    }
    Ok(walker.left)
}

fn slot(operand: Operand) -> SlotUse {
    SlotUse { buffer: operand.buffer, delta: operand.delta, action: operand.action }
}

fn elements(ranges: &[(u32, u32); VIEW_DIMS]) -> u64 {
    ranges.iter().map(|r| u64::from(r.1)).product()
}

/// Contiguous runs of a box in memory.
fn runs(view: &View, ranges: &[(u32, u32); VIEW_DIMS]) -> u64 {
    let mut expected = 1i64;
    let mut inner = true;
    let mut runs = 1;
    for (dim, range) in view.dims.iter().zip(ranges).rev() {
        let count = u64::from(range.1);
        if count <= 1 {
            continue;
        }
        inner &= i64::from(dim.stride) == expected;
        if inner {
            expected *= count as i64;
        } else {
            runs *= count;
        }
    }
    runs
}

impl Walker<'_, '_> {
    fn view(&self, number: u16) -> &View {
        &self.plan.kernel.views[usize::from(number)]
    }

    fn item(&mut self, pc: usize) -> Result<(), TooLong> {
        self.step()?;
        let kernel = self.plan.kernel;
        let kind = kernel.code[pc].kind;
        let (slots, amount) = match kind {
            InstKind::Loop { trip, level, stages } => {
                self.push(pc, Vec::new(), Amount::Control);
                return self.repeat(pc, trip, usize::from(level), stages);
            }
            InstKind::Launch { .. } | InstKind::Chain { .. } | InstKind::End {} | InstKind::Halt {} => {
                (Vec::new(), Amount::Control)
            }
            InstKind::Pop { n, buffer } => {
                (vec![SlotUse { buffer, delta: 0, action: Action::Pop }; usize::from(n)], Amount::Control)
            }
            InstKind::Ld { dst, src, cast, fill: _ } => {
                let ranges = self.view(src).clip(&self.at);
                (vec![slot(dst)], self.transfer(src, &ranges, self.receivers(cast)))
            }
            InstKind::Gather { dst, src, idx, dim, strict: _, fill: _ } => {
                let ranges = open_dim(self.view(src), usize::from(dim)).clip(&self.at);
                let mut amount = self.transfer(src, &ranges, 1);
                if let Amount::Dma { runs, .. } = &mut amount {
                    *runs = (*runs).max(u64::from(ranges[usize::from(dim)].1));
                }
                (vec![slot(dst), slot(idx)], amount)
            }
            InstKind::Ldx { dst, src, cast, code: _ } => {
                (vec![slot(dst)], self.expansion(src, self.receivers(cast)))
            }
            InstKind::Ldmask { dst, src, mask, dim: _ } => {
                let ranges = self.view(src).clip(&self.at);
                let mut amount = self.transfer(src, &ranges, 1);
                if let Amount::Dma { bytes, .. } = &mut amount {
                    *bytes = self.known.chosen(pc, *bytes);
                }
                (vec![slot(dst), slot(mask)], amount)
            }
            InstKind::Scatter { src, dst, idx, dim, strict: _, combine } => {
                let dim = usize::from(dim);
                let mut ranges = open_dim(self.view(dst), dim).clip(&self.at);
                ranges[dim] = self.view(src.view).clip(&self.at)[dim];
                let mut amount = self.transfer(dst, &ranges, 1);
                if let Amount::Dma { bytes, runs, space, receivers } = amount {
                    let runs = runs.max(u64::from(ranges[dim].1));
                    let far_bytes = if combine == Combine::Replace { bytes } else { 2 * bytes };
                    amount = Amount::Uneven { far_bytes, local_bytes: bytes, runs, space, receivers };
                }
                (vec![slot(src), slot(idx)], amount)
            }
            InstKind::Move { dst, src, fill: _ } => (vec![slot(dst), slot(src)], self.layout(dst, src)),
            InstKind::Perm { dst, src, idx, .. } => {
                (vec![slot(dst), slot(src), slot(idx)], self.layout(dst, src))
            }
            InstKind::Mask { dst, src } | InstKind::Pack { dst, src } => {
                (vec![slot(dst), slot(src)], self.layout(dst, src))
            }
            InstKind::St { src, dst } => {
                let ranges = self.view(dst).clip(&self.at);
                (vec![slot(src)], self.transfer(dst, &ranges, 1))
            }
            InstKind::Fill { dst, .. } => {
                let view = self.view(dst.view);
                let bytes = view.planes().plane_bytes(view.elements()).iter().sum();
                (vec![slot(dst)], Amount::Fill { bytes })
            }
            InstKind::Zero { bank } => {
                (vec![slot(bank)], Amount::Bank { elements: elements(&self.view(bank.view).clip(&self.at)) })
            }
            InstKind::Drain { dst, bank } => {
                let (from, to) = (self.view(bank.view).clip(&self.at), self.view(dst.view).clip(&self.at));
                let amount = Amount::Bank { elements: elements(&from).min(elements(&to)) };
                (vec![slot(dst), slot(bank)], amount)
            }
            InstKind::Mm { bank, a, b, order } | InstKind::Mmnm { bank, a, b, order } => {
                (vec![slot(bank), slot(a), slot(b)], self.product(pc, a, b, order, None))
            }
            InstKind::Mmblk { bank, a, b, mask, order, packed } => {
                let slots = [bank, a, b, mask].map(slot).to_vec();
                (slots, self.product(pc, a, b, order, Some((Grain::Blocks { packed }, mask))))
            }
            InstKind::Mmact { bank, a, b, mask, order } => {
                let slots = [bank, a, b, mask].map(slot).to_vec();
                (slots, self.product(pc, a, b, order, Some((Grain::Active, mask))))
            }
            InstKind::Seed { bank, src } | InstKind::Resc { bank, src } => {
                let (to, from) = (self.view(bank.view).clip(&self.at), self.view(src.view).clip(&self.at));
                let amount = Amount::Bank { elements: elements(&from).min(elements(&to)) };
                (vec![slot(bank), slot(src)], amount)
            }
            InstKind::Stat { dst, bank, .. } => {
                let amount = Amount::Bank { elements: elements(&self.view(bank.view).clip(&self.at)) };
                (vec![slot(dst), slot(bank)], amount)
            }
            InstKind::Sort { dst, src, .. } => {
                (vec![slot(dst), slot(src)], self.sorted(dst, &[src], sort_ops))
            }
            InstKind::Merge { dst, a, b, .. } => {
                ([dst, a, b].map(slot).to_vec(), self.sorted(dst, &[a, b], merge_ops))
            }
            InstKind::Run { program } => {
                let program = &kernel.programs[usize::from(program)];
                let slots = program.streams.iter().map(|stream| slot(stream.operand)).collect();
                (slots, self.program(program))
            }
            InstKind::Ldp { param, src } => {
                let ranges = self.view(src).clip(&self.at);
                let range = &kernel.params[usize::from(param)];
                let value = self.known.position.map_or(range.hi, |at| at.clamp(range.lo, range.hi));
                self.at.params[usize::from(param)] = value;
                (Vec::new(), self.transfer(src, &ranges, self.receivers(Multicast::All)))
            }
            InstKind::Xchg { dst, src, cast, .. } => {
                let bytes = |view: &View, part| view.planes().plane_bytes(part).iter().sum();
                let (from, to) = (self.view(src.view), self.view(dst.view));
                let sent = elements(&from.clip(&self.at));
                let received = elements(&to.clip(&self.at)).min(sent * u64::from(self.receivers(cast)));
                let amount = Amount::Exchange { sent: bytes(from, sent), received: bytes(to, received) };
                (vec![slot(dst), slot(src)], amount)
            }
            InstKind::Xred { dst, bank, cast, share, .. } => {
                let members = u64::from(self.receivers(cast)).max(1);
                let mine = elements(&self.view(bank.view).clip(&self.at));
                let mine = match share {
                    Share::All => mine * members,
                    Share::Part => mine,
                };
                (vec![slot(dst), slot(bank)], Amount::BankSum { elements: mine })
            }
            // Refused when the object is loaded.
            InstKind::Post { .. } => (Vec::new(), Amount::Control),
            InstKind::Wait { .. } => (Vec::new(), Amount::Control),
            InstKind::Bar { .. } => (Vec::new(), Amount::Control),
            InstKind::Gate { .. } => (Vec::new(), Amount::Control),
            InstKind::Allred { .. } => (Vec::new(), Amount::Control),
            InstKind::Allgath { .. } => (Vec::new(), Amount::Control),
            InstKind::Redscat { .. } => (Vec::new(), Amount::Control),
            InstKind::Alltoall { .. } => (Vec::new(), Amount::Control),
            InstKind::Send { .. } => (Vec::new(), Amount::Control),
            InstKind::Recv { .. } => (Vec::new(), Amount::Control),
        };
        self.push(pc, slots, amount);
        Ok(())
    }

    fn step(&mut self) -> Result<(), TooLong> {
        self.left = self.left.checked_sub(1).ok_or(TooLong)?;
        Ok(())
    }

    fn push(&mut self, pc: usize, slots: Vec<SlotUse>, amount: Amount) {
        let kind = self.plan.kernel.code[pc].kind;
        self.masks.step(kind, &slots, &self.at);
        let gate = match kind {
            InstKind::Gate { engine, on } => Some((engine, on)),
            _ => None,
        };
        let register = kind.global().and_then(|field| match self.view(field.view).space {
            Space::Global(register) => Some(register),
            Space::Local => None,
        });
        let held = register.and_then(|register| self.known.held[usize::from(register)]);
        let (mnemonic, engine) = (kind.mnemonic(), kind.engine());
        (self.visit)(pc, &Step { mnemonic, engine, slots, gate, register, held, amount });
    }

    fn repeat(&mut self, pc: usize, trip: u16, level: usize, stages: u8) -> Result<(), TooLong> {
        let trips = self.plan.kernel.trips[usize::from(trip)].count(&self.at);
        let before = self.at.levels[level];
        let rounds = if trips == 0 { 0 } else { u64::from(trips) + u64::from(stages.max(1)) - 1 };
        for round in 0..rounds {
            self.step()?;
            let mut at = pc + 1;
            while at < self.plan.ends[pc] {
                let stage = u64::from(self.plan.kernel.code[at].stage);
                if let Some(iteration) = round.checked_sub(stage).filter(|&i| i < u64::from(trips)) {
                    self.at.levels[level] = iteration as u32;
                    self.item(at)?;
                }
                at = self.plan.ends[at] + 1;
            }
        }
        self.at.levels[level] = before;
        Ok(())
    }

    fn receivers(&self, cast: Multicast) -> u32 {
        let [a, b, c, d] = self.plan.kernel.grid.map(u32::from);
        match cast {
            Multicast::None => 1,
            Multicast::Row => c * d,
            Multicast::Col => a * b,
            Multicast::All => a * b * c * d,
        }
    }

    fn transfer(&self, number: u16, ranges: &[(u32, u32); VIEW_DIMS], receivers: u32) -> Amount {
        let view = self.view(number);
        let n = elements(ranges);
        if n == 0 {
            return Amount::Control;
        }
        let bytes = view.planes().plane_bytes(n).iter().sum();
        let space = match view.space {
            Space::Global(register) => self.known.bases[usize::from(register)].space,
            Space::Local => MemSpace::Hbm,
        };
        Amount::Dma { bytes, runs: runs(view, ranges), space, receivers }
    }

    /// The transfer of a compressed box: records of the blocks that it touches, and scales.
    fn expansion(&self, number: u16, receivers: u32) -> Amount {
        let view = self.view(number);
        let ranges = view.clip(&self.at);
        let dense = self.transfer(number, &ranges, receivers);
        let (Space::Global(register), Amount::Dma { bytes: local_bytes, runs, space, receivers }) =
            (view.space, dense)
        else {
            return dense;
        };
        let register = usize::from(register);
        let piece = Piece::of(view, &self.at, ranges);
        let strides = view.dims.map(|d| i64::from(d.stride));
        let base = piece.global_base(view).unwrap_or(0);
        let blocks = Walk::new(&piece.counts, &strides, &strides, [base; 2])
            .filter(|walk| walk.extent(0).0 >= 0)
            .map_or(Vec::new(), |walk| touched_blocks(&walk));
        let records = Records::new(
            self.known.constant(register, self.plan.kernel),
            self.plan.kernel.tensors[register].planes,
        );
        let [_, scales, _] = view.planes().plane_bytes(elements(&ranges));
        Amount::Uneven {
            far_bytes: records.port_bytes(&blocks) + scales,
            local_bytes,
            runs,
            space,
            receivers,
        }
    }

    /// Bytes that the memory layout unit reads and writes.
    fn layout(&self, dst: Operand, src: Operand) -> Amount {
        let bytes = |operand: Operand| -> u64 {
            let view = self.view(operand.view);
            view.planes().plane_bytes(elements(&view.clip(&self.at))).iter().sum()
        };
        Amount::Layout { bytes: bytes(dst) + bytes(src) }
    }

    /// A product; recorded runs know its zeros, and constants or records what its mask leaves of it.
    fn product(
        &self,
        pc: usize,
        a: Operand,
        b: Operand,
        order: Order,
        mask: Option<(Grain, Operand)>,
    ) -> Amount {
        let (a_view, near) = (self.view(a.view), self.view(b.view));
        let packed = mask.and_then(|(grain, mask)| whole(grain, near, self.view(mask.view), order).ok());
        let b_view = packed.as_deref().unwrap_or(near);
        let (ra, rb) = (a_view.clip(&self.at), b_view.clip(&self.at));
        let count = |ranges: &[(u32, u32); VIEW_DIMS], dims: &[usize]| {
            dims.iter().map(|&d| u64::from(ranges[d].1)).product::<u64>()
        };
        let n_dims = match order {
            Order::Kn => [0, 4],
            Order::Nk => [0, 1],
        };
        let (m, n, k) = (count(&ra, &[0, 1]), count(&rb, &n_dims), count(&ra, &[2, 3, 4]));
        let dense = DpeActions::dense(m, n, k);
        let actions = match mask {
            Some((grain, mask)) => {
                Some(self.masks.actions(grain, [a, b, mask], order, pc, &self.at, m, dense))
            }
            None => self
                .known
                .products
                .iter()
                .find(|product| product.pc == pc)
                .map(|product| dense.scaled(&product.actions, &product.dense)),
        };
        Amount::Matmul { m, n, k, a: a_view.format, b: b_view.format, pattern: b_view.pattern, actions }
    }

    /// A sort or merge: its rows as one network each.
    fn sorted(&self, dst: Operand, sources: &[Operand], ops: fn(u64) -> u64) -> Amount {
        let bytes = |operand: &Operand, n: u64| self.view(operand.view).format.element().bytes_for(n);
        let counts = sources.iter().map(|source| elements(&self.view(source.view).clip(&self.at)));
        let rows: u64 =
            self.view(dst.view).clip(&self.at)[..VIEW_DIMS - 1].iter().map(|r| u64::from(r.1)).product();
        let n: u64 = counts.clone().sum();
        let read: u64 = sources.iter().zip(counts).map(|(source, n)| bytes(source, n)).sum();
        let written = bytes(&dst, elements(&self.view(dst.view).clip(&self.at)));
        Amount::Simd { ops: n * ops(n.div_ceil(rows.max(1))), bytes: read + written }
    }

    fn program(&self, program: &Program) -> Amount {
        let ranges = self.view(program.domain).clip(&self.at);
        let all = elements(&ranges);
        let lanes: u64 = ranges[..usize::from(program.parallel)].iter().map(|r| u64::from(r.1)).product();
        let lanes = if all == 0 { 0 } else { lanes };
        let (mut ops, mut bits) = (0, 0);
        let parts = [(&program.init, lanes), (&program.body, all), (&program.finish, lanes)];
        for (part, times) in parts {
            for op in part {
                ops += op_slots(op) * times;
                if let SeOp::Load { stream, .. } | SeOp::Store { stream, .. } = op {
                    let operand = program.streams[usize::from(*stream)].operand;
                    bits += u64::from(self.view(operand.view).format.element().bits()) * times;
                }
            }
        }
        Amount::Simd { ops, bytes: bits.div_ceil(8) }
    }
}
