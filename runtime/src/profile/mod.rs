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
//! - A launch ends when its slowest class ends; launches and collectives between chips do not overlap.
//! - The mask of a product is known where it was loaded from constants. Other masks take the counts of a recorded run of the
//!   launch ([`ProfileOptions::records`]), spread evenly over the instruction's executions, or a declared share of set flags
//!   ([`ProfileOptions::activity`]); without either, all flags count as set. Zeros that a DPE gates are known from records alone.
//! - All engines of the target's PEs are powered from the first launch to the end of the last, and draw idle power when they
//!   are not busy.

mod masks;
mod model;
mod walk;

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use lacuna_isa::energy::EnergyByAction;
use lacuna_isa::inst::{Engine, InstKind};
use lacuna_isa::object::{Kernel, Launch, Object};
use lacuna_isa::target::Target;
use lacuna_isa::timing::{Cost, cost, message};
use lacuna_isa::view::Position;

use crate::entry::{EntryStep, plan_entry};
use crate::machine::LaunchRecord;
use crate::plan::{KernelPlan, plan_kernel};
use crate::trap::LoadError;
use masks::Known;
use model::Simulation;
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
}

impl Bound {
    /// The name in text forms.
    pub const fn name(self) -> &'static str {
        match self {
            Bound::Hbm => "HBM",
            Bound::Sram => "SRAM",
            Bound::Engine(engine) => engine.name(),
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
    /// Instructions and loop rounds of all PEs in one launch after which the replay is given up.
    pub walk_limit: u64,
}

impl Default for ProfileOptions<'_> {
    fn default() -> Self {
        ProfileOptions { activity: 1.0, records: &[], walk_limit: DEFAULT_WALK_LIMIT }
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
    /// First cycle.
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
    /// Sum of the launches' bounds.
    pub bound_cycles: u64,
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
    let no_entry = || LoadError::Entry { entry: entry.to_string(), reason: "there is no such entry".into() };
    let point = object.entries.get(entry).ok_or_else(no_entry)?;
    let kernels = object.kernels.iter().map(plan_kernel).collect::<Result<Vec<_>, _>>()?;
    let mut events = Vec::new();
    let mut launches: Vec<LaunchProfile> = Vec::new();
    let mut now = 0;
    for (position, step) in plan_entry(object, point)?.into_iter().enumerate() {
        let report = match step {
            EntryStep::Launch(number) => {
                now += target.launch_cycles;
                let launch = &point.launches[number];
                let record = options.records.iter().find(|record| record.launch == position);
                let known = Known {
                    bases: &launch.bases,
                    weights: object.weights.bytes(),
                    products: record.map_or(&[], |record| &record.products),
                    loads: record.map_or(&[], |record| &record.loads),
                    activity: options.activity,
                };
                let plan = &kernels[launch.kernel as usize];
                let left = Cell::new(options.walk_limit);
                let replay = Replay {
                    launch,
                    plan,
                    target,
                    known,
                    position,
                    start: now,
                    walk_limit: options.walk_limit,
                    left,
                };
                let mut report = replay.run(&mut events)?;
                idle(&mut report, target, target.launch_cycles);
                report
            }
            EntryStep::Message(kind, transfer) => {
                let mut report = blank(kind.mnemonic().to_owned(), now);
                let cost = cost(&message(&kind, &transfer, point.ranks), target);
                report.charge(Engine::Me, &cost, 1);
                report.end += cost.cycles;
                (report.bound_cycles, report.bound) = (cost.cycles, Bound::Engine(Engine::Me));
                idle(&mut report, target, 0);
                if events.len() < MAX_EVENTS {
                    let (name, engine) = (kind.mnemonic(), Engine::Me);
                    let cycles = cost.cycles;
                    events.push(TraceEvent { name, launch: position, pe: 0, engine, start: now, cycles });
                }
                report
            }
        };
        now = report.end;
        launches.push(report);
    }
    let bound_cycles = launches.iter().map(|launch| launch.bound_cycles).sum();
    let mut energy = EnergyByAction::default();
    launches.iter().for_each(|launch: &LaunchProfile| energy.add(&launch.energy, 1.0));
    Ok(Profile {
        cycles: now,
        bound_cycles,
        fraction: if now == 0 { 1.0 } else { bound_cycles as f64 / now as f64 },
        hbm_bytes: launches.iter().map(|launch| launch.hbm_bytes).sum(),
        sram_bytes: launches.iter().map(|launch| launch.sram_bytes).sum(),
        energy_pj: launches.iter().map(|launch| launch.energy_pj).sum(),
        energy,
        macs: launches.iter().map(|launch| launch.macs).sum(),
        macs_skipped: launches.iter().map(|launch| launch.macs_skipped).sum(),
        launches,
        events,
    })
}

fn blank(kernel: String, start: u64) -> LaunchProfile {
    LaunchProfile {
        kernel,
        origins: Vec::new(),
        sparse: Vec::new(),
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
}

/// One launch to replay.
struct Replay<'a> {
    launch: &'a Launch,
    plan: &'a KernelPlan<'a>,
    target: &'a Target,
    known: Known<'a>,
    position: usize,
    start: u64,
    walk_limit: u64,
    /// What is left of it.
    left: Cell<u64>,
}

impl Replay<'_> {
    /// The first PE of each class of equal dynamic instructions, told apart by 128 bits of their hash, with the size of
    /// the class.
    fn classes(&self) -> Result<Vec<(usize, u64)>, LoadError> {
        let mut classes: HashMap<[u64; 2], (usize, u64)> = HashMap::new();
        for pe in 0..self.plan.n_pes() {
            let mut hashers = [DefaultHasher::new(), DefaultHasher::new()];
            hashers[1].write_u8(1);
            self.walk(pe, &mut |step| hashers.iter_mut().for_each(|hasher| step.hash(hasher)))?;
            classes.entry(hashers.map(|hasher| hasher.finish())).or_insert((pe, 0)).1 += 1;
        }
        let mut classes: Vec<_> = classes.into_values().collect();
        classes.sort_unstable();
        Ok(classes)
    }

    fn walk(&self, pe: usize, visit: &mut dyn FnMut(&Step)) -> Result<(), LoadError> {
        let mut start = Position { coords: self.plan.coords(pe), ..Position::default() };
        start.params.iter_mut().zip(&self.launch.params).for_each(|(value, &first)| *value = first);
        let left = walk(self.plan, start, self.known, self.left.get(), visit).map_err(|TooLong| {
            let kernel = self.plan.kernel.name.clone();
            let reason = format!("more than {} instructions and loop rounds", self.walk_limit);
            LoadError::Kernel { kernel, pc: None, reason }
        })?;
        self.left.set(left);
        Ok(())
    }

    fn run(&self, events: &mut Vec<TraceEvent>) -> Result<LaunchProfile, LoadError> {
        let Replay { launch, plan, target, position, start: now, .. } = *self;
        let mut report = blank(plan.kernel.name.clone(), now);
        report.origins.clone_from(&launch.origins);
        report.sparse = sparse(plan.kernel);
        for (pe, n) in self.classes()? {
            let mut simulation = Simulation::new(&plan.kernel.buffers, target, plan.n_pes() as f64);
            let mut visit = |name, engine, start: u64, cycles| {
                if events.len() < MAX_EVENTS {
                    let start = now + start;
                    events.push(TraceEvent { name, launch: position, pe, engine, start, cycles });
                }
            };
            self.walk(pe, &mut |step| {
                report.charge(step.engine, &cost(&step.work(), target), n);
                simulation.step(step, &mut visit);
            })?;
            let (end, gated) = simulation.finish(&mut visit);
            report.end = report.end.max(now + end);
            for (total, cycles) in report.gated_cycles.iter_mut().zip(gated) {
                *total += cycles * n;
            }
        }
        (report.bound_cycles, report.bound) = bound(&report, target);
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
