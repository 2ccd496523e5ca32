//! One PE: walks its kernel's stream in program order and executes every instruction to its end. It pauses where it meets
//! other PEs, and goes on when the meeting is over.

use lacuna_isa::inst::{Action, Engine, Fill, InstKind, Operand};
use lacuna_isa::object::Param;
use lacuna_isa::view::Position;

use crate::dma::{Load, Pick};
use crate::matmul::actions::ActionLog;
use crate::matmul::mask::Grain;
use crate::matmul::panels::{PanelCache, SharedPanels};
use crate::matmul::shape::LastShapes;
use crate::meeting::meets;
use crate::memory::{Log, Memory, Overlay, Tensor};
use crate::plan::KernelPlan;
use crate::slots::{Bytes, Layout, Ring, Slot};
use crate::trap::{Fault, TrapKind};
use crate::workspace::Workspace;

/// What a PE did, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub instructions: u64,
    pub loaded_bytes: u64,
    pub stored_bytes: u64,
    pub skipped_bytes: u64,
    pub macs: u64,
    pub macs_skipped: u64,
}

impl Counts {
    /// Adds what another PE did.
    pub fn add(&mut self, other: &Counts) {
        self.instructions += other.instructions;
        self.loaded_bytes += other.loaded_bytes;
        self.stored_bytes += other.stored_bytes;
        self.skipped_bytes += other.skipped_bytes;
        self.macs += other.macs;
        self.macs_skipped += other.macs_skipped;
    }
}

/// A loop that is open.
#[derive(Clone, Copy, Debug)]
struct Frame {
    start: usize,
    end: usize,
    /// The instruction to look at next.
    next: usize,
    level: usize,
    /// The level's counter outside the loop.
    before: u32,
    trips: u64,
    rounds: u64,
    round: u64,
}

/// Why a PE stopped without a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// It is at an instruction that other PEs take part in.
    Rendezvous,
    /// The stream has ended.
    Halt,
}

/// A `post` that a PE executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Posted {
    pub event: u8,
    pub queue: Engine,
    /// The segment that it ended.
    pub segment: u32,
    pub pc: usize,
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
    /// Decoded weights.
    pub panels: PanelCache,
    /// Decoded operands that all PEs of the launch may read in place.
    pub launch_panels: &'m SharedPanels,
    /// Shapes of products that it met.
    pub shapes: LastShapes<'m>,
    pub counts: Counts,
    /// Products by instruction, where the run is recorded.
    pub actions: ActionLog,
    /// Registers of the SE and freed slots, lent while the PE runs.
    pub space: Workspace,
    /// What was posted since the last rendezvous.
    pub posts: Vec<Posted>,
    /// Bit e is set while the engine of code e has no power.
    gated: u8,
    loops: Vec<Frame>,
    /// The next instruction outside all loops.
    next: usize,
    steps: u64,
    step_limit: u64,
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
        launch_panels: &'m SharedPanels,
        at: Position,
        step_limit: u64,
    ) -> Pe<'m> {
        Pe {
            plan,
            tensors,
            memory,
            rings: plan.kernel.buffers.iter().map(Ring::new).collect(),
            at,
            pc: 0,
            overlay: Overlay::default(),
            log: Log::default(),
            panels: PanelCache::default(),
            launch_panels,
            shapes: LastShapes::default(),
            counts: Counts::default(),
            actions: ActionLog::default(),
            space: Workspace::default(),
            posts: Vec::new(),
            gated: 0,
            loops: Vec::new(),
            next: 0,
            steps: 0,
            step_limit,
        }
    }

    /// Runs the stream to the next rendezvous, whose instruction [`Pe::pc`] then names, or to its `halt`.
    pub fn run(&mut self) -> Result<Stop, Fault> {
        while let Some(pc) = self.advance()? {
            self.pc = pc;
            self.counts.instructions += 1;
            if meets(&self.plan.kernel.code[pc].kind) {
                self.check_power(pc)?;
                return Ok(Stop::Rendezvous);
            }
            self.item(pc)?;
        }
        Ok(Stop::Halt)
    }

    /// Ends an instruction: what it popped is free.
    pub fn settle(&mut self) {
        for ring in &mut self.rings {
            ring.settle();
        }
    }

    /// The next instruction in program order: at round j of a loop, those of stage i whose iteration j - i exists.
    fn advance(&mut self) -> Result<Option<usize>, Fault> {
        loop {
            self.steps += 1;
            if self.steps > self.step_limit {
                let message = format!("more than {} instructions and loop rounds", self.step_limit);
                return Err(Fault::new(TrapKind::StepLimit, message));
            }
            let Some(frame) = self.loops.last_mut() else {
                let pc = self.next;
                let Some(&end) = self.plan.ends.get(pc) else { return Ok(None) };
                self.next = end + 1;
                return Ok(Some(pc));
            };
            if frame.next == frame.end {
                frame.round += 1;
                frame.next = frame.start + 1;
            }
            if frame.round >= frame.rounds {
                self.at.levels[frame.level] = frame.before;
                self.loops.pop();
                continue;
            }
            while frame.next < frame.end {
                let pc = frame.next;
                frame.next = self.plan.ends[pc] + 1;
                let stage = u64::from(self.plan.kernel.code[pc].stage);
                if let Some(iteration) = frame.round.checked_sub(stage).filter(|&i| i < frame.trips) {
                    self.at.levels[frame.level] = iteration as u32;
                    return Ok(Some(pc));
                }
            }
        }
    }

    /// Opens a loop: trips and s stages make trips + s - 1 rounds.
    fn open(&mut self, pc: usize, trip: u16, level: usize, stages: u8) {
        let trips = u64::from(self.plan.kernel.trips[usize::from(trip)].count(&self.at));
        let rounds = if trips == 0 { 0 } else { trips + u64::from(stages.max(1)) - 1 };
        let before = self.at.levels[level];
        let end = self.plan.ends[pc];
        self.loops.push(Frame { start: pc, end, next: pc + 1, level, before, trips, rounds, round: 0 });
    }

    fn check_power(&self, pc: usize) -> Result<(), Fault> {
        let engine = self.plan.kernel.code[pc].kind.engine();
        if self.gated >> engine as u8 & 1 == 0 {
            return Ok(());
        }
        Err(Fault::new(TrapKind::Gated, format!("{} has no power", engine.name())))
    }

    /// One instruction.
    fn item(&mut self, pc: usize) -> Result<(), Fault> {
        self.check_power(pc)?;
        let kind = self.plan.kernel.code[pc].kind;
        self.log.at(kind.engine());
        match kind {
            InstKind::Loop { trip, level, stages } => self.open(pc, trip, usize::from(level), stages),
            InstKind::Launch { .. } | InstKind::Chain { .. } | InstKind::End {} => {}
            InstKind::Pop { n, buffer } => {
                for _ in 0..n {
                    let slot = self.rings[usize::from(buffer)].pop()?;
                    self.space.pool.recycle(slot);
                }
            }
            InstKind::Halt {} => {
                if let Some(ring) = self.rings.iter().find(|ring| ring.len() > 0) {
                    let message = format!("buffer {} still holds {} slots", ring.name(), ring.len());
                    return Err(Fault::new(TrapKind::NotEmptyAtHalt, message));
                }
            }
            InstKind::Ld { dst, src, fill, cast: _ } => {
                self.load(&Load { dst, src, fill, pick: Pick::All, code: None })?;
            }
            InstKind::Gather { dst, src, idx, dim, strict, fill } => {
                self.load(&Load { dst, src, fill, pick: Pick::Indices(dim, idx, strict), code: None })?;
            }
            InstKind::Ldx { dst, src, code, cast: _ } => {
                self.load(&Load { dst, src, fill: Fill::Zero, pick: Pick::All, code: Some(code) })?;
            }
            InstKind::Ldmask { dst, src, mask, dim } => {
                self.load(&Load { dst, src, fill: Fill::Zero, pick: Pick::Flags(dim, mask), code: None })?;
            }
            InstKind::Scatter { src, dst, idx, dim, strict, combine } => {
                self.scatter(src, dst, (dim, idx, strict), combine)?
            }
            InstKind::Move { dst, src, fill } => self.rearrange(dst, src, fill, None)?,
            InstKind::Perm { dst, src, idx, dim, fill } => {
                self.rearrange(dst, src, fill, Some((dim, idx)))?
            }
            InstKind::Mask { dst, src } => self.mask(dst, src)?,
            InstKind::Pack { dst, src } => self.pack(dst, src)?,
            InstKind::St { src, dst } => self.store(src, dst)?,
            InstKind::Fill { dst, value } => self.fill(dst, value)?,
            InstKind::Zero { bank } => self.zero(bank)?,
            InstKind::Drain { dst, bank } => self.drain(dst, bank)?,
            InstKind::Mm { bank, a, b, order } | InstKind::Mmnm { bank, a, b, order } => {
                self.multiply(bank, a, b, order, None)?;
            }
            InstKind::Mmblk { bank, a, b, mask, order, packed } => {
                self.multiply(bank, a, b, order, Some((Grain::Blocks { packed }, mask)))?;
            }
            InstKind::Mmact { bank, a, b, mask, order } => {
                self.multiply(bank, a, b, order, Some((Grain::Active, mask)))?;
            }
            InstKind::Seed { bank, src } => self.seed(bank, src)?,
            InstKind::Resc { bank, src } => self.rescale(bank, src)?,
            InstKind::Stat { f, dst, bank } => self.statistic(f, dst, bank)?,
            InstKind::Sort { dst, src, k, descending } => self.sort(dst, src, k, descending)?,
            InstKind::Merge { dst, a, b, k } => self.merge(dst, a, b, k)?,
            InstKind::Run { program } => self.run_program(usize::from(program))?,
            InstKind::Ldp { param, src } => self.load_param(param, src)?,
            // Refused when the object is loaded.
            InstKind::Post { event, queue } => {
                self.posts.push(Posted { event, queue, segment: self.log.segment(), pc });
                self.log.end_segment();
            }
            InstKind::Gate { engine, on } => {
                let bit = 1u8 << engine as u8;
                self.gated = if on { self.gated & !bit } else { self.gated | bit };
            }
            // Carried out by the launch, for all PEs that take part.
            InstKind::Wait { .. } => {}
            InstKind::Bar { .. } => {}
            InstKind::Xchg { .. } => {} // Carried out by the launch.
            InstKind::Xred { .. } => {} // Carried out by the launch.
            InstKind::Allred { .. } => {}
            InstKind::Allgath { .. } => {}
            InstKind::Redscat { .. } => {}
            InstKind::Alltoall { .. } => {}
            InstKind::Send { .. } => {}
            InstKind::Recv { .. } => {}
        }
        self.settle();
        Ok(())
    }

    /// `ldp`.
    fn load_param(&mut self, param: u8, src: u16) -> Result<(), Fault> {
        let kernel = self.plan.kernel;
        let value = self.global_int(&kernel.views[usize::from(src)])?;
        let Param { lo, hi, .. } = kernel.params[usize::from(param)];
        // The range is of i32.
        self.at.params[usize::from(param)] = value.clamp(i64::from(lo), i64::from(hi)) as i32;
        Ok(())
    }

    /// The slot that a source operand names; a pop takes it out.
    pub fn source(&mut self, operand: Operand) -> Result<Slot<'m>, Fault> {
        Ok(self.source_anywhere(operand)?.gathered(&mut self.space.pool))
    }

    /// The same slot, whose elements may lie apart.
    pub fn source_anywhere(&mut self, operand: Operand) -> Result<Slot<'m>, Fault> {
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
                let (place, slot) = ring.take(operand.delta)?;
                slot.check_format(&self.plan.kernel.views[usize::from(operand.view)])?;
                let layout = slot.layout;
                Ok(Target { bytes: slot.into_bytes(), layout, place: Some(place) })
            }
            Action::Push | Action::Read | Action::Pop => {
                ring.check_push(layout.bytes())?;
                let bytes = self.space.pool.zeroed(layout.bytes() as usize);
                Ok(Target { bytes, layout, place: None })
            }
        }
    }

    /// Publishes a written slot, or puts it back.
    pub fn publish(&mut self, operand: Operand, target: Target) {
        let ring = &mut self.rings[usize::from(operand.buffer)];
        let slot = Slot::owned(target.bytes, target.layout);
        match target.place {
            Some(place) => ring.put_back(place, slot),
            None => ring.push(slot),
        }
    }
}
