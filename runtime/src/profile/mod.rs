//! The machine model: replays the dynamic instructions of an entry, without data, through queues, buffers and ports.
//!
//! Per PE, the command processor issues in program order, one instruction per issue interval, into in-order queues: FI load,
//! FI store, MLU, DPE, RE, SE. An instruction starts when its queue is free and its slots allow: a source waits for the
//! slot's producer, a push for the readers of the slot's former content, an update for both. A transfer also occupies its
//! port (HBM or shared SRAM) and arrives after the port's latency, which overlaps with other transfers.
//!
//! Approximations, chosen so that a whole model takes seconds:
//! - PEs whose dynamic instructions do equal work form a class; one PE per class is simulated.
//! - Ports are shared evenly: each PE of the launch's grid has its fraction of the bandwidth, whatever the others need.
//! - A port serves loads first, and stores in what they leave: memory controllers keep writes back and serve reads meanwhile.
//! - A multicast fetch is paid once and split evenly among its receivers, which are taken to run in step.
//! - Compressed constants (`ldx`) are known. What the flags of `ldmask` choose is what a recorded run brought, or a declared
//!   share.
//! - A rendezvous holds nobody up: PEs of one launch are taken to run in step.
//! - A launch ends when its slowest class ends, and not before the launch before it. A `launch` begins when all before has ended; a
//!   chained one goes on from the latest time of each queue and slot of the launch before ([`chain`]).
//! - The mask of a product is known where it was loaded from constants. Other masks take the counts of a recorded run of the
//!   launch ([`ProfileOptions::records`]), spread evenly over the instruction's executions, or a declared share of set flags
//!   ([`ProfileOptions::activity`]); without either, all flags count as set. Zeros that a DPE gates are known from records alone.
//! - All engines of the target's PEs are powered from the first launch to the end of the last, and draw idle power when they
//!   are not busy.

mod bound;
mod chain;
mod masks;
mod model;
mod path;
mod steps;
mod walk;

use std::cell::Cell;

use lacuna_isa::energy::EnergyByAction;
use lacuna_isa::inst::{Engine, InstKind};
use lacuna_isa::object::{Access, EntryPoint, Kernel, Launch, Object, Transfer};
use lacuna_isa::target::Target;
use lacuna_isa::timing::{Cost, IN_FLIGHT, cost, message};
use lacuna_isa::view::Position;

use crate::entry::{EntryStep, plan_entry};
use crate::machine::LaunchRecord;
use crate::plan::{KernelPlan, plan_kernel};
use crate::trap::LoadError;
use bound::Needs;
use chain::Handover;
use masks::Known;
use model::Simulation;
pub use path::{Cause, N_CAUSES};
use steps::{Class, Steps};
use walk::{Step, TooLong, walk};

/// What limits a launch from below.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Bound {
    /// Bytes over the HBM port.
    Hbm,
    /// Bytes over the shared SRAM port.
    Sram,
    /// Cycles of an engine, spread evenly over all PEs of the target.
    Engine(Engine),
    /// A launch, a load and a store, one after the other.
    Latency,
}

impl Bound {
    /// The name in text forms.
    pub const fn name(self) -> &'static str {
        match self {
            Bound::Hbm => "HBM",
            Bound::Sram => "SRAM",
            Bound::Engine(engine) => engine.name(),
            Bound::Latency => "latency",
        }
    }
}

/// What the machine model may know of an entry's data.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ProfileOptions<'a> {
    /// The share of flags that is taken to be set, 0 to 1, in masks that are computed when the program runs.
    pub activity: f64,
    /// What a recorded run counted, launch by launch; empty without one. It goes before `activity`.
    pub records: &'a [LaunchRecord],
    /// The value that `ldp` loads, such as the row of a cache, clamped to the range of its parameter; the greatest unless given.
    pub position: Option<i32>,
    /// Instructions and loop rounds of all PEs in one launch after which the replay is given up.
    pub walk_limit: u64,
}

impl Default for ProfileOptions<'_> {
    fn default() -> Self {
        ProfileOptions { activity: 1.0, records: &[], position: None, walk_limit: DEFAULT_WALK_LIMIT }
    }
}

/// Times and counts of one launch.
#[derive(Clone, PartialEq, Debug)]
pub struct LaunchProfile {
    /// Name of the kernel.
    pub kernel: String,
    /// Origins that the launch implements.
    pub origins: Vec<u32>,
    /// Instructions of its stream that leave zeros out.
    pub sparse: Vec<&'static str>,
    /// Whether it is chained to the one before.
    pub chained: bool,
    /// First cycle; of a chained launch, the one at which that before it ended.
    pub start: u64,
    /// Cycle at which its last PE ends.
    pub end: u64,
    /// Cycles that each engine is busy, summed over PEs, in the order of [`Engine::ALL`].
    pub busy_cycles: [u64; Engine::ALL.len()],
    /// Cycles that each engine is without power, summed over PEs, in the order of [`Engine::ALL`].
    pub gated_cycles: [u64; Engine::ALL.len()],
    /// The fewest cycles that its work needs on this target.
    pub bound_cycles: u64,
    /// What that bound is.
    pub bound: Bound,
    /// Bytes over the HBM port.
    pub hbm_bytes: u64,
    /// Bytes over the shared SRAM port.
    pub sram_bytes: u64,
    /// Energy of its actions in picojoules.
    pub energy_pj: f64,
    /// The same by kind of action.
    pub energy: EnergyByAction,
    /// Cycles that each engine is powered and not busy, summed over the target's PEs, in the order of [`Engine::ALL`].
    pub idle_cycles: [u64; Engine::ALL.len()],
    /// Multiply-accumulates performed.
    pub macs: u64,
    /// Multiply-accumulates that sparsity skipped.
    pub macs_skipped: u64,
    /// Cycles from `start` to `end` by what they are spent on, along the longest chain of waits, in the order of [`Cause::all`].
    pub path: [f64; N_CAUSES],
}

/// A bar of the trace, of one PE of a class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceEvent {
    /// Mnemonic.
    pub name: &'static str,
    /// Position of the launch in the entry stream.
    pub launch: usize,
    /// Number of the simulated PE in its grid.
    pub pe: usize,
    /// Engine.
    pub engine: Engine,
    /// First cycle.
    pub start: u64,
    /// Cycles.
    pub cycles: u64,
}

/// The machine model's report of an entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Profile {
    /// Cycles from the first launch to the end of the last.
    pub cycles: u64,
    /// The fewest cycles that its products at the peak of their formats need, or each constant, input and output over the
    /// HBM port once, or a launch, a load and a store one after the other.
    pub bound_cycles: u64,
    /// Which of these.
    pub bound: Bound,
    /// `bound_cycles / cycles`.
    pub fraction: f64,
    /// Bytes over the HBM port.
    pub hbm_bytes: u64,
    /// Bytes over the shared SRAM port.
    pub sram_bytes: u64,
    /// Energy of all actions in picojoules.
    pub energy_pj: f64,
    /// The same by kind of action.
    pub energy: EnergyByAction,
    /// Multiply-accumulates performed.
    pub macs: u64,
    /// Multiply-accumulates that sparsity skipped.
    pub macs_skipped: u64,
    /// The launches in order.
    pub launches: Vec<LaunchProfile>,
    /// Bars of the trace; at most [`MAX_EVENTS`].
    pub events: Vec<TraceEvent>,
}

/// Greatest number of trace events.
pub const MAX_EVENTS: usize = 1 << 18;

/// Instructions and loop rounds of all PEs in one launch after which [`profile`] gives up.
pub const DEFAULT_WALK_LIMIT: u64 = 1 << 28;

/// Replays entry number `entry` on `target`, without knowledge of its data.
///
/// # Errors
/// When the object cannot be loaded, has no such entry, or a stream is too long to replay.
pub fn profile(object: &Object, target: &Target, entry: usize) -> Result<Profile, LoadError> {
    profile_with(object, target, entry, &ProfileOptions::default())
}

/// Replays entry number `entry` on `target`.
///
/// # Errors
/// When the object cannot be loaded, or has no such entry.
pub fn profile_with(
    object: &Object,
    target: &Target,
    entry: usize,
    options: &ProfileOptions<'_>,
) -> Result<Profile, LoadError> {
    let no_entry = || LoadError::Entry {
        entry: entry.to_string(),
        reason: crate::Illegal::Missing("there is no such entry".into()),
    };
    let point = object.entries.get(entry).ok_or_else(no_entry)?;
    let kernels = object.kernels.iter().map(plan_kernel).collect::<Result<Vec<_>, _>>()?;
    let mut timeline = Timeline {
        object,
        point,
        target,
        options,
        now: 0,
        origin: 0,
        chain: Vec::new(),
        handover: Handover::default(),
        needs: Needs::of(object, point),
        launches: Vec::new(),
        events: Vec::new(),
    };
    for (position, step) in plan_entry(object, point)?.into_iter().enumerate() {
        match step {
            EntryStep::Launch { number, chained } => {
                let launch = &point.launches[number];
                timeline.launch(position, launch, &kernels[launch.kernel as usize], chained)?;
            }
            EntryStep::Message(kind, transfer) => timeline.message(position, &kind, &transfer),
        }
    }
    Ok(timeline.finish())
}

/// The replay of an entry so far.
struct Timeline<'a> {
    object: &'a Object,
    point: &'a EntryPoint,
    target: &'a Target,
    options: &'a ProfileOptions<'a>,
    /// Cycle at which all so far has ended.
    now: u64,
    /// Cycle at which the current chain began.
    origin: u64,
    /// Its launches so far.
    chain: Vec<&'a Launch>,
    handover: Handover,
    needs: Needs,
    launches: Vec<LaunchProfile>,
    events: Vec<TraceEvent>,
}

impl<'a> Timeline<'a> {
    fn launch(
        &mut self,
        position: usize,
        launch: &'a Launch,
        plan: &'a KernelPlan<'a>,
        chained: bool,
    ) -> Result<(), LoadError> {
        let Timeline { target, options, .. } = *self;
        let waited = if chained { 0 } else { target.launch_cycles };
        if !chained {
            self.now += waited;
            self.origin = self.now;
            self.chain.clear();
            self.handover = Handover::default();
        }
        let record = options.records.iter().find(|record| record.launch == position);
        let held = self.held(launch);
        let known = Known {
            bases: &launch.bases,
            held: &held,
            weights: self.object.weights.bytes(),
            products: record.map_or(&[], |record| &record.products),
            loads: record.map_or(&[], |record| &record.loads),
            activity: options.activity,
            position: options.position,
        };
        let left = Cell::new(options.walk_limit);
        let walk_limit = options.walk_limit;
        let replay = Replay { launch, plan, target, known, position, walk_limit, left };
        let mut report = replay.run(self)?;
        report.chained = chained;
        idle(&mut report, target, waited);
        self.now = report.end;
        self.chain.push(launch);
        self.launches.push(report);
        Ok(())
    }

    /// For each base register of a launch, the last launch in flight (0 the one before) that has a tensor that shares bytes with
    /// its own, where one of the two is written: accesses wait for its end, and so for the end of all before it.
    fn held(&self, launch: &Launch) -> Vec<Option<u8>> {
        let tensors = |launch: &'a Launch| {
            launch.bases.iter().zip(&self.object.kernels[launch.kernel as usize].tensors)
        };
        let mine = launch.bases.iter().zip(&self.object.kernels[launch.kernel as usize].tensors);
        mine.map(|(base, tensor)| {
            let before = self.chain.iter().rev().take(IN_FLIGHT);
            let last = before.copied().position(|before| {
                tensors(before).any(|(other, theirs)| {
                    let written = tensor.access != Access::In || theirs.access != Access::In;
                    let apart = base.space != other.space
                        || base.offset >= other.offset + theirs.bytes
                        || other.offset >= base.offset + tensor.bytes;
                    written && !apart
                })
            });
            last.map(|by| by as u8)
        })
        .collect()
    }

    fn message(&mut self, position: usize, kind: &InstKind, transfer: &Transfer) {
        let mut report = blank(kind.mnemonic().to_owned(), self.now);
        let cost = cost(&message(kind, transfer, self.point.ranks), self.target);
        report.charge(Engine::Me, &cost, 1);
        report.end += cost.cycles;
        let causes = report.path.iter_mut().zip(Cause::all());
        causes
            .filter(|(_, c)| *c == Cause::Engine(Engine::Me))
            .for_each(|(path, _)| *path = cost.cycles as f64);
        (report.bound_cycles, report.bound) = (cost.cycles, Bound::Engine(Engine::Me));
        idle(&mut report, self.target, 0);
        self.needs.message(cost.cycles);
        if self.events.len() < MAX_EVENTS {
            let (name, engine) = (kind.mnemonic(), Engine::Me);
            let (start, cycles) = (self.now, cost.cycles);
            self.events.push(TraceEvent { name, launch: position, pe: 0, engine, start, cycles });
        }
        self.now = report.end;
        self.launches.push(report);
    }

    fn finish(self) -> Profile {
        let Timeline { launches, events, now, .. } = self;
        let (bound_cycles, bound) = self.needs.bound(self.point, self.target);
        let mut energy = EnergyByAction::default();
        launches.iter().for_each(|launch: &LaunchProfile| energy.add(&launch.energy, 1.0));
        Profile {
            cycles: now,
            bound_cycles,
            bound,
            fraction: if now == 0 { 1.0 } else { bound_cycles as f64 / now as f64 },
            hbm_bytes: launches.iter().map(|launch| launch.hbm_bytes).sum(),
            sram_bytes: launches.iter().map(|launch| launch.sram_bytes).sum(),
            energy_pj: launches.iter().map(|launch| launch.energy_pj).sum(),
            energy,
            macs: launches.iter().map(|launch| launch.macs).sum(),
            macs_skipped: launches.iter().map(|launch| launch.macs_skipped).sum(),
            launches,
            events,
        }
    }
}

fn blank(kernel: String, start: u64) -> LaunchProfile {
    LaunchProfile {
        kernel,
        origins: Vec::new(),
        sparse: Vec::new(),
        chained: false,
        start,
        end: start,
        busy_cycles: [0; Engine::ALL.len()],
        gated_cycles: [0; Engine::ALL.len()],
        bound_cycles: 0,
        bound: Bound::Engine(Engine::Cp),
        hbm_bytes: 0,
        sram_bytes: 0,
        energy_pj: 0.0,
        energy: EnergyByAction::default(),
        idle_cycles: [0; Engine::ALL.len()],
        macs: 0,
        macs_skipped: 0,
        path: [0.0; N_CAUSES],
    }
}

impl LaunchProfile {
    /// Adds what `n` PEs do alike.
    fn charge(&mut self, engine: Engine, cost: &Cost, n: u64) {
        self.busy_cycles[engine_idx(engine)] += cost.cycles * n;
        self.hbm_bytes += cost.hbm_bytes * n;
        self.sram_bytes += cost.sram_bytes * n;
        self.energy.add(&cost.energy, n as f64);
        self.macs += cost.macs * n;
        self.macs_skipped += cost.macs_skipped * n;
    }

    /// Counts so many multiply-accumulates in all where the DPE has done or skipped others, because columns come in panels and terms in
    /// groups; the share that is skipped stays. Returns the share of them that the model has.
    fn leave_padding_out(&mut self, macs: u64) -> f64 {
        let all = self.macs + self.macs_skipped;
        if macs == 0 || all == 0 {
            return 1.0;
        }
        let share = macs as f64 / all as f64;
        self.macs_skipped = (self.macs_skipped as f64 * share).round() as u64;
        self.macs = macs - self.macs_skipped;
        share
    }
}

/// One launch to replay.
struct Replay<'a> {
    launch: &'a Launch,
    plan: &'a KernelPlan<'a>,
    target: &'a Target,
    known: Known<'a>,
    position: usize,
    walk_limit: u64,
    /// What is left of it.
    left: Cell<u64>,
}

impl Replay<'_> {
    fn walk(&self, pe: usize, visit: &mut dyn FnMut(usize, &Step)) -> Result<(), LoadError> {
        let mut start = Position { coords: self.plan.coords(pe), ..Position::default() };
        start.params.iter_mut().zip(&self.launch.params).for_each(|(value, &first)| *value = first);
        let left = walk(self.plan, start, self.known, self.left.get(), visit).map_err(|TooLong| {
            let kernel = self.plan.kernel.name.clone();
            let reason = format!("more than {} instructions and loop rounds", self.walk_limit);
            LoadError::Kernel { kernel, pc: None, reason: crate::Illegal::Limit(reason) }
        })?;
        self.left.set(left);
        Ok(())
    }

    fn run(&self, timeline: &mut Timeline<'_>) -> Result<LaunchProfile, LoadError> {
        let Replay { launch, plan, target, position, .. } = *self;
        let Timeline { now, origin, ref handover, ref mut needs, ref mut events, .. } = *timeline;
        let mut report = blank(plan.kernel.name.clone(), now);
        report.origins.clone_from(&launch.origins);
        report.sparse = sparse(plan.kernel);
        let (placed, mut next) = handover.next(&plan.kernel.buffers, target);
        let mut far_bytes = vec![0; launch.bases.len()];
        let mut products = Needs::default();
        let mut gated = Vec::new();
        let mut latest = f64::MIN;
        let mut steps = Steps::new(target, plan.kernel.code.len());
        for Class { pe, n_pes: n, sequence } in
            steps.classes(plan.n_pes(), |pe, visit| self.walk(pe, visit))?
        {
            let mut simulation = Simulation::new(&placed, target, plan.n_pes() as f64, handover);
            let mut visit = |name, engine, start: u64, cycles| {
                if events.len() < MAX_EVENTS {
                    let start = origin + start;
                    events.push(TraceEvent { name, launch: position, pe, engine, start, cycles });
                }
            };
            let mut replay = |(step, cost): (&Step, &Cost)| {
                report.charge(step.engine, cost, n);
                products.product(&step.work(), cost.macs, n, target);
                if let Some(register) = step.register {
                    far_bytes[usize::from(register)] += cost.hbm_bytes * n;
                }
                simulation.step(step, cost, &mut visit);
            };
            match sequence {
                Some(numbers) => numbers.into_iter().for_each(|number| replay(steps.get(number as usize))),
                None => self.walk(pe, &mut |pc, step| {
                    let number = steps.number(pc, step);
                    replay(steps.get(number));
                })?,
            }
            let finished = simulation.finish(&mut visit);
            if finished.end > latest {
                (latest, report.path) = (finished.end, finished.path);
            }
            next.absorb(&finished, &placed);
            gated.push((finished.gated_cycles, finished.gated, n));
        }
        needs.products_of(&products, report.leave_padding_out(launch.macs));
        for ((&base, tensor), bytes) in launch.bases.iter().zip(&plan.kernel.tensors).zip(far_bytes) {
            needs.transfers(base, bytes, tensor.bytes);
        }
        report.end = origin + next.end().map_or(0, |end| end.ceil() as u64);
        // What is dark at the end stays so until the next kernel starts, and PEs outside the grid are dark throughout.
        let [from, to] = [now, report.end].map(|cycle| (cycle - origin) as f64);
        let outside = u64::from(target.n_pes()).saturating_sub(plan.n_pes() as u64) as f64 * (to - from);
        for (engine, total) in report.gated_cycles.iter_mut().enumerate() {
            let dark = gated.iter().map(|(before, since, n)| {
                let last = since[engine].map_or(0.0, |since| to - since.max(from));
                (before[engine] + last).max(0.0) * *n as f64
            });
            *total = (dark.sum::<f64>() + outside) as u64;
        }
        (report.bound_cycles, report.bound) = bound(&report, target);
        timeline.handover = next;
        Ok(report)
    }
}

/// The instructions of a kernel that leave zeros out, each once, in the order of their first place.
fn sparse(kernel: &Kernel) -> Vec<&'static str> {
    let mut found = Vec::new();
    for inst in &kernel.code {
        let leaves_out = matches!(
            inst.kind,
            InstKind::Ldx { .. }
                | InstKind::Ldmask { .. }
                | InstKind::Mmnm { .. }
                | InstKind::Mmblk { .. }
                | InstKind::Mmact { .. }
        );
        if leaves_out && !found.contains(&inst.kind.mnemonic()) {
            found.push(inst.kind.mnemonic());
        }
    }
    found
}

/// Position of an engine in [`Engine::ALL`].
pub(crate) fn engine_idx(engine: Engine) -> usize {
    match engine {
        Engine::Cp => 0,
        Engine::FiLoad => 1,
        Engine::FiStore => 2,
        Engine::Mlu => 3,
        Engine::Dpe => 4,
        Engine::Re => 5,
        Engine::Se => 6,
        Engine::Me => 7,
    }
}

/// Counts the cycles in which engines wait, those before the launch included, and what they draw; closes the energy.
fn idle(report: &mut LaunchProfile, target: &Target, before: u64) {
    let present = (report.end - report.start + before) * u64::from(target.n_pes());
    let used = report.busy_cycles.iter().zip(&report.gated_cycles);
    for (idle, (busy, gated)) in report.idle_cycles.iter_mut().zip(used) {
        *idle = present.saturating_sub(busy + gated);
    }
    if let Some(energy) = &target.energy {
        let draws = report.idle_cycles.iter().zip(energy.idle_pj_per_cycle);
        report.energy.idle += draws.map(|(&cycles, pj)| cycles as f64 * pj).sum::<f64>();
    }
    report.energy_pj = report.energy.total_pj();
}

fn bound(report: &LaunchProfile, target: &Target) -> (u64, Bound) {
    let n_pes = f64::from(target.n_pes().max(1));
    let ports = [
        (report.hbm_bytes as f64 / target.hbm_bytes_per_cycle, Bound::Hbm),
        (report.sram_bytes as f64 / target.sram_bytes_per_cycle, Bound::Sram),
    ];
    let engines = Engine::ALL
        .into_iter()
        .filter(|&engine| engine != Engine::Cp)
        .map(|engine| (report.busy_cycles[engine_idx(engine)] as f64 / n_pes, Bound::Engine(engine)));
    let mut best = (0.0, Bound::Hbm);
    for candidate in ports.into_iter().chain(engines) {
        if candidate.0 > best.0 {
            best = candidate;
        }
    }
    (best.0.ceil() as u64, best.1)
}
