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
//! - A multicast fetch is paid once and split evenly among its receivers, which are taken to run in step.
//! - A launch ends when its slowest class ends; launches do not overlap.

mod model;
mod walk;

use std::collections::HashMap;

use lacuna_isa::inst::Engine;
use lacuna_isa::object::Object;
use lacuna_isa::target::Target;
use lacuna_isa::timing::cost;

use crate::plan::{plan_entry, plan_kernel};
use crate::trap::LoadError;
use model::simulate;
use walk::{Step, walk};

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

/// Times and counts of one launch.
#[derive(Clone, PartialEq, Debug)]
pub struct LaunchProfile {
    /// Name of the kernel.
    pub kernel: String,
    /// Origins that the launch implements.
    pub origins: Vec<u32>,
    /// First cycle.
    pub start: u64,
    /// Cycle at which its last PE ends.
    pub end: u64,
    /// Cycles that each engine is busy, summed over PEs, in the order of [`Engine::ALL`].
    pub busy_cycles: [u64; Engine::ALL.len()],
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

/// Replays entry number `entry` on `target`.
///
/// # Errors
/// When the object cannot be loaded, or has no such entry.
pub fn profile(object: &Object, target: &Target, entry: usize) -> Result<Profile, LoadError> {
    let no_entry = || LoadError::Entry { entry: entry.to_string(), reason: "there is no such entry".into() };
    let point = object.entries.get(entry).ok_or_else(no_entry)?;
    let kernels = object.kernels.iter().map(plan_kernel).collect::<Result<Vec<_>, _>>()?;
    let mut events = Vec::new();
    let mut launches = Vec::new();
    let mut now = 0;
    for (position, number) in plan_entry(object, point)?.into_iter().enumerate() {
        let launch = &point.launches[number];
        let plan = &kernels[launch.kernel as usize];
        let spaces: Vec<_> = launch.bases.iter().map(|base| base.space).collect();
        let mut classes: HashMap<Vec<Step>, (usize, u64)> = HashMap::new();
        for pe in 0..plan.n_pes() {
            let steps = walk(plan, plan.coords(pe), &spaces);
            classes.entry(steps).or_insert((pe, 0)).1 += 1;
        }
        let mut classes: Vec<_> = classes.into_iter().collect();
        classes.sort_by_key(|(_, (pe, _))| *pe);
        now += target.launch_cycles;
        let mut report = LaunchProfile {
            kernel: plan.kernel.name.clone(),
            origins: launch.origins.clone(),
            start: now,
            end: now,
            busy_cycles: [0; Engine::ALL.len()],
            bound_cycles: 0,
            bound: Bound::Engine(Engine::Cp),
            hbm_bytes: 0,
            sram_bytes: 0,
            energy_pj: 0.0,
            macs: 0,
            macs_skipped: 0,
        };
        for (steps, (pe, n)) in &classes {
            let n_pes = plan.n_pes() as f64;
            let end = simulate(steps, &plan.kernel.buffers, target, n_pes, |step, start, cycles| {
                if events.len() < MAX_EVENTS {
                    let (name, engine) = (step.mnemonic, step.engine);
                    events.push(TraceEvent {
                        name,
                        launch: position,
                        pe: *pe,
                        engine,
                        start: now + start,
                        cycles,
                    });
                }
            });
            report.end = report.end.max(now + end);
            for step in steps {
                let cost = cost(&step.work(), target);
                report.busy_cycles[engine_idx(step.engine)] += cost.cycles * n;
                report.hbm_bytes += cost.hbm_bytes * n;
                report.sram_bytes += cost.sram_bytes * n;
                report.energy_pj += cost.energy_pj * *n as f64;
                report.macs += cost.macs * n;
                report.macs_skipped += cost.macs_skipped * n;
            }
        }
        (report.bound_cycles, report.bound) = bound(&report, target);
        now = report.end;
        launches.push(report);
    }
    let bound_cycles = launches.iter().map(|launch| launch.bound_cycles).sum();
    Ok(Profile {
        cycles: now,
        bound_cycles,
        fraction: if now == 0 { 1.0 } else { bound_cycles as f64 / now as f64 },
        hbm_bytes: launches.iter().map(|launch| launch.hbm_bytes).sum(),
        sram_bytes: launches.iter().map(|launch| launch.sram_bytes).sum(),
        energy_pj: launches.iter().map(|launch| launch.energy_pj).sum(),
        macs: launches.iter().map(|launch| launch.macs).sum(),
        macs_skipped: launches.iter().map(|launch| launch.macs_skipped).sum(),
        launches,
        events,
    })
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
