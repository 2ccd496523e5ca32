//! The control walk: the dynamic instructions of one PE with their work, without data.

use lacuna_isa::format::Format;
use lacuna_isa::inst::{Action, Engine, InstKind, Multicast, Operand, Order};
use lacuna_isa::object::MemSpace;
use lacuna_isa::program::{Program, SeOp};
use lacuna_isa::timing::{Work, op_slots};
use lacuna_isa::view::{Pattern, Position, Space, VIEW_DIMS, View};

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
    Dma { bytes: u64, runs: u64, space: MemSpace, receivers: u32 },
    Fill { bytes: u64 },
    Matmul { m: u64, n: u64, k: u64, a: Format, b: Format, pattern: Option<Pattern> },
    Bank { elements: u64 },
    Simd { ops: u64, bytes: u64 },
}

/// A dynamic instruction.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Step {
    pub mnemonic: &'static str,
    pub engine: Engine,
    pub slots: Vec<SlotUse>,
    amount: Amount,
}

impl Step {
    /// The work that timing prices.
    pub fn work(&self) -> Work {
        match self.amount {
            Amount::Control => Work::Control,
            Amount::Dma { bytes, runs, space, receivers } => Work::Dma { bytes, runs, space, receivers },
            Amount::Fill { bytes } => Work::Fill { bytes },
            Amount::Matmul { m, n, k, a, b, pattern } => Work::Matmul { m, n, k, a, b, pattern },
            Amount::Bank { elements } => Work::Bank { elements },
            Amount::Simd { ops, bytes } => Work::Simd { elements: 1, ops, bytes },
        }
    }
}

struct Walker<'a> {
    plan: &'a KernelPlan<'a>,
    spaces: &'a [MemSpace],
    at: Position,
    steps: Vec<Step>,
}

/// The dynamic instructions of the PE at `coords`; `spaces` are the memories of the base registers.
pub(super) fn walk(plan: &KernelPlan<'_>, coords: [u32; 4], spaces: &[MemSpace]) -> Vec<Step> {
    let at = Position { levels: [0; 4], coords };
    let mut walker = Walker { plan, spaces, at, steps: Vec::new() };
    let mut pc = 0;
    while pc < plan.kernel.code.len() {
        walker.item(pc);
        pc = plan.ends[pc] + 1;
    }
    walker.steps
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

impl Walker<'_> {
    fn view(&self, number: u16) -> &View {
        &self.plan.kernel.views[usize::from(number)]
    }

    fn item(&mut self, pc: usize) {
        let kernel = self.plan.kernel;
        let kind = kernel.code[pc].kind;
        let (slots, amount) = match kind {
            InstKind::Loop { trip, level, stages } => {
                self.push(kind, Vec::new(), Amount::Control);
                self.repeat(pc, trip, usize::from(level), stages);
                return;
            }
            InstKind::Launch { .. } | InstKind::End {} | InstKind::Halt {} => (Vec::new(), Amount::Control),
            InstKind::Pop { n, buffer } => {
                (vec![SlotUse { buffer, delta: 0, action: Action::Pop }; usize::from(n)], Amount::Control)
            }
            InstKind::Ld { dst, src, cast, fill: _ } => {
                let ranges = self.view(src).clip(&self.at);
                (vec![slot(dst)], self.transfer(src, &ranges, self.receivers(cast)))
            }
            InstKind::Gather { dst, src, idx, dim, fill: _ } => {
                let mut open = self.view(src).clone();
                open.dims[usize::from(dim)].bound = u32::MAX;
                open.dims[usize::from(dim)].origin = 0;
                let ranges = open.clip(&self.at);
                let mut amount = self.transfer(src, &ranges, 1);
                if let Amount::Dma { runs, .. } = &mut amount {
                    *runs = (*runs).max(u64::from(ranges[usize::from(dim)].1));
                }
                (vec![slot(dst), slot(idx)], amount)
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
                (vec![slot(bank), slot(a), slot(b)], self.product(a, b, order))
            }
            InstKind::Run { program } => {
                let program = &kernel.programs[usize::from(program)];
                let slots = program.streams.iter().map(|stream| slot(stream.operand)).collect();
                (slots, self.program(program))
            }
            // Refused when the object is loaded.
            InstKind::Ldp { .. } => (Vec::new(), Amount::Control),
            InstKind::Post { .. } => (Vec::new(), Amount::Control),
            InstKind::Wait { .. } => (Vec::new(), Amount::Control),
            InstKind::Bar { .. } => (Vec::new(), Amount::Control),
            InstKind::Gate { .. } => (Vec::new(), Amount::Control),
            InstKind::Ldx { .. } => (Vec::new(), Amount::Control),
            InstKind::Ldmask { .. } => (Vec::new(), Amount::Control),
            InstKind::Scatter { .. } => (Vec::new(), Amount::Control),
            InstKind::Xchg { .. } => (Vec::new(), Amount::Control),
            InstKind::Move { .. } => (Vec::new(), Amount::Control),
            InstKind::Perm { .. } => (Vec::new(), Amount::Control),
            InstKind::Mask { .. } => (Vec::new(), Amount::Control),
            InstKind::Pack { .. } => (Vec::new(), Amount::Control),
            InstKind::Mmblk { .. } => (Vec::new(), Amount::Control),
            InstKind::Mmact { .. } => (Vec::new(), Amount::Control),
            InstKind::Seed { .. } => (Vec::new(), Amount::Control),
            InstKind::Resc { .. } => (Vec::new(), Amount::Control),
            InstKind::Stat { .. } => (Vec::new(), Amount::Control),
            InstKind::Xred { .. } => (Vec::new(), Amount::Control),
            InstKind::Sort { .. } => (Vec::new(), Amount::Control),
            InstKind::Merge { .. } => (Vec::new(), Amount::Control),
            InstKind::Allred { .. } => (Vec::new(), Amount::Control),
            InstKind::Allgath { .. } => (Vec::new(), Amount::Control),
            InstKind::Redscat { .. } => (Vec::new(), Amount::Control),
            InstKind::Alltoall { .. } => (Vec::new(), Amount::Control),
            InstKind::Send { .. } => (Vec::new(), Amount::Control),
            InstKind::Recv { .. } => (Vec::new(), Amount::Control),
        };
        self.push(kind, slots, amount);
    }

    fn push(&mut self, kind: InstKind, slots: Vec<SlotUse>, amount: Amount) {
        self.steps.push(Step { mnemonic: kind.mnemonic(), engine: kind.engine(), slots, amount });
    }

    fn repeat(&mut self, pc: usize, trip: u16, level: usize, stages: u8) {
        let trips = self.plan.kernel.trips[usize::from(trip)].count(&self.at.levels, &self.at.coords);
        let before = self.at.levels[level];
        let rounds = if trips == 0 { 0 } else { u64::from(trips) + u64::from(stages.max(1)) - 1 };
        for round in 0..rounds {
            let mut at = pc + 1;
            while at < self.plan.ends[pc] {
                let stage = u64::from(self.plan.kernel.code[at].stage);
                if let Some(iteration) = round.checked_sub(stage).filter(|&i| i < u64::from(trips)) {
                    self.at.levels[level] = iteration as u32;
                    self.item(at);
                }
                at = self.plan.ends[at] + 1;
            }
        }
        self.at.levels[level] = before;
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
            Space::Global(register) => self.spaces[usize::from(register)],
            Space::Local => MemSpace::Hbm,
        };
        Amount::Dma { bytes, runs: runs(view, ranges), space, receivers }
    }

    fn product(&self, a: Operand, b: Operand, order: Order) -> Amount {
        let (a_view, b_view) = (self.view(a.view), self.view(b.view));
        let (ra, rb) = (a_view.clip(&self.at), b_view.clip(&self.at));
        let count = |ranges: &[(u32, u32); VIEW_DIMS], dims: &[usize]| {
            dims.iter().map(|&d| u64::from(ranges[d].1)).product::<u64>()
        };
        let n_dims = match order {
            Order::Kn => [0, 4],
            Order::Nk => [0, 1],
        };
        Amount::Matmul {
            m: count(&ra, &[0, 1]),
            n: count(&rb, &n_dims),
            k: count(&ra, &[2, 3, 4]),
            a: a_view.format,
            b: b_view.format,
            pattern: b_view.pattern,
        }
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
