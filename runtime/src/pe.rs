//! One PE: walks its kernel's stream in program order and executes every instruction to its end.

use lacuna_isa::inst::{Action, InstKind, Operand};
use lacuna_isa::view::Position;

use crate::matmul::fast::PanelCache;
use crate::memory::{Log, Memory, Overlay, Tensor};
use crate::plan::KernelPlan;
use crate::se::Lanes;
use crate::slots::{Bytes, Layout, Pool, Ring, Slot};
use crate::trap::{Fault, TrapKind};

/// What a PE did, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub instructions: u64,
    pub loaded_bytes: u64,
    pub stored_bytes: u64,
    pub macs: u64,
    pub macs_skipped: u64,
}

/// The state of one PE in one launch.
pub(crate) struct Pe<'m> {
    pub plan: &'m KernelPlan<'m>,
    pub tensors: &'m [Tensor<'m>],
    pub memory: &'m Memory<'m>,
    pub rings: Vec<Ring<'m>>,
    pub at: Position,
    pub pc: usize,
    pub overlay: Overlay,
    pub log: Log,
    pub pool: Pool,
    /// Decoded weights.
    pub panels: PanelCache,
    pub counts: Counts,
    pub lanes: &'m mut Lanes,
}

/// A slot being written: fresh, or taken out of its buffer.
pub(crate) struct Target {
    pub bytes: Bytes,
    pub layout: Layout,
    place: Option<usize>,
}

impl<'m> Pe<'m> {
    /// A PE at the start of its stream.
    pub fn new(
        plan: &'m KernelPlan<'m>,
        tensors: &'m [Tensor<'m>],
        memory: &'m Memory<'m>,
        coords: [u32; 4],
        lanes: &'m mut Lanes,
    ) -> Pe<'m> {
        Pe {
            plan,
            tensors,
            memory,
            rings: plan.kernel.buffers.iter().map(Ring::new).collect(),
            at: Position { levels: [0; 4], coords },
            pc: 0,
            overlay: Overlay::default(),
            log: Log::default(),
            pool: Pool::default(),
            panels: PanelCache::default(),
            counts: Counts::default(),
            lanes,
        }
    }

    /// Runs the stream to its `halt`.
    pub fn run(&mut self) -> Result<(), Fault> {
        self.block(0, self.plan.kernel.code.len())
    }

    fn block(&mut self, start: usize, end: usize) -> Result<(), Fault> {
        let mut pc = start;
        while pc < end {
            self.item(pc)?;
            pc = self.plan.ends[pc] + 1;
        }
        Ok(())
    }

    /// One instruction, or a whole loop.
    fn item(&mut self, pc: usize) -> Result<(), Fault> {
        self.pc = pc;
        self.counts.instructions += 1;
        let kind = self.plan.kernel.code[pc].kind;
        match kind {
            InstKind::Loop { trip, level, stages } => self.repeat(pc, trip, usize::from(level), stages)?,
            InstKind::Launch { .. } | InstKind::End {} => {}
            InstKind::Pop { n, buffer } => {
                for _ in 0..n {
                    let slot = self.rings[usize::from(buffer)].pop()?;
                    self.pool.recycle(slot);
                }
            }
            InstKind::Halt {} => {
                if let Some(ring) = self.rings.iter().find(|ring| ring.len() > 0) {
                    let message = format!("buffer {} still holds {} slots", ring.name(), ring.len());
                    return Err(Fault::new(TrapKind::NotEmptyAtHalt, message));
                }
            }
            InstKind::Ld { dst, src, fill, cast: _ } => self.load(dst, src, fill, None)?,
            InstKind::Gather { dst, src, idx, dim, fill } => self.load(dst, src, fill, Some((dim, idx)))?,
            InstKind::St { src, dst } => self.store(src, dst)?,
            InstKind::Fill { dst, value } => self.fill(dst, value)?,
            InstKind::Zero { bank } => self.zero(bank)?,
            InstKind::Drain { dst, bank } => self.drain(dst, bank)?,
            InstKind::Mm { bank, a, b, order } | InstKind::Mmnm { bank, a, b, order } => {
                self.multiply(bank, a, b, order)?;
            }
            InstKind::Run { program } => self.run_program(usize::from(program))?,
            // Refused when the object is loaded.
            InstKind::Ldp { .. } => {}
            InstKind::Post { .. } => {}
            InstKind::Wait { .. } => {}
            InstKind::Bar { .. } => {}
            InstKind::Gate { .. } => {}
            InstKind::Ldx { .. } => {}
            InstKind::Ldmask { .. } => {}
            InstKind::Scatter { .. } => {}
            InstKind::Xchg { .. } => {}
            InstKind::Move { .. } => {}
            InstKind::Perm { .. } => {}
            InstKind::Mask { .. } => {}
            InstKind::Pack { .. } => {}
            InstKind::Mmblk { .. } => {}
            InstKind::Mmact { .. } => {}
            InstKind::Seed { .. } => {}
            InstKind::Resc { .. } => {}
            InstKind::Stat { .. } => {}
            InstKind::Xred { .. } => {}
            InstKind::Sort { .. } => {}
            InstKind::Merge { .. } => {}
            InstKind::Allred { .. } => {}
            InstKind::Allgath { .. } => {}
            InstKind::Redscat { .. } => {}
            InstKind::Alltoall { .. } => {}
            InstKind::Send { .. } => {}
            InstKind::Recv { .. } => {}
        }
        for ring in &mut self.rings {
            ring.settle();
        }
        Ok(())
    }

    /// A loop: at round j, an instruction of stage i executes iteration j - i.
    fn repeat(&mut self, pc: usize, trip: u16, level: usize, stages: u8) -> Result<(), Fault> {
        let trips = self.plan.kernel.trips[usize::from(trip)].count(&self.at.levels, &self.at.coords);
        let end = self.plan.ends[pc];
        let before = self.at.levels[level];
        let rounds = if trips == 0 { 0 } else { u64::from(trips) + u64::from(stages.max(1)) - 1 };
        for round in 0..rounds {
            let mut at = pc + 1;
            while at < end {
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

    /// The slot that a source operand names; a pop takes it out.
    pub fn source(&mut self, operand: Operand) -> Result<Slot<'m>, Fault> {
        let ring = &mut self.rings[usize::from(operand.buffer)];
        let slot = match operand.action {
            Action::Pop => ring.pop()?,
            Action::Read | Action::Update | Action::Push => ring.read(operand.delta)?,
        };
        slot.check_format(&self.plan.kernel.views[usize::from(operand.view)])?;
        Ok(slot)
    }

    /// The slot that a target operand names, ready to be written: zeros of `layout` for a push.
    pub fn target(&mut self, operand: Operand, layout: Layout) -> Result<Target, Fault> {
        let ring = &mut self.rings[usize::from(operand.buffer)];
        match operand.action {
            Action::Update => {
                let idx = ring.locate(operand.delta)?;
                let slot = ring.take(idx);
                slot.check_format(&self.plan.kernel.views[usize::from(operand.view)])?;
                let layout = slot.layout;
                Ok(Target { bytes: slot.into_bytes(), layout, place: Some(idx) })
            }
            Action::Push | Action::Read | Action::Pop => {
                ring.check_push(layout.bytes())?;
                let bytes = self.pool.zeroed(layout.bytes() as usize);
                Ok(Target { bytes, layout, place: None })
            }
        }
    }

    /// Publishes a written slot, or puts it back.
    pub fn publish(&mut self, operand: Operand, target: Target) {
        let ring = &mut self.rings[usize::from(operand.buffer)];
        let slot = Slot::owned(target.bytes, target.layout);
        match target.place {
            Some(idx) => ring.put_back(idx, slot),
            None => ring.push(slot),
        }
    }
}
