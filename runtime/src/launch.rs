//! One launch: its PEs run in parallel up to their next rendezvous, which is then carried out for all of them.
//!
//! A rendezvous ends a *phase*. Every PE that still runs has paused at a `wait`, `bar`, `xchg` or `xred`, or ended. A `wait`
//! whose posts are there, and a collective whose whole group is at the same instruction with the same loop counters, are
//! carried out, in ascending order of PEs, and their PEs go on in the next phase with all stores of earlier ones in sight.
//! When no PE can go on, the program would block, and traps. A kernel without such instructions has one phase.

use std::sync::Arc;

use lacuna_isa::inst::{InstKind, Multicast};
use lacuna_isa::object::MemSpace;
use lacuna_isa::view::Position;
use rayon::prelude::*;

use crate::exchange::{exchange, reduce};
use crate::matmul::actions::ActionLog;
use crate::matmul::panels::SharedPanels;
use crate::meeting::orders;
use crate::memory::{Image, Log, Memory, Overlay, Pages, Tensor};
use crate::pe::{Counts, Pe, Posted, Stop};
use crate::plan::KernelPlan;
use crate::races::{Clocks, Conflict, Extents, Races, needs_read_log};
use crate::trap::{Fault, TrapKind};
use crate::workspace::{Workspace, Workspaces};

/// A PE after its turn in one phase.
struct Turn<'m> {
    log: Log,
    posts: Vec<Posted>,
    counts: Counts,
    actions: ActionLog,
    fault: Option<(usize, Fault)>,
    /// The PE, where it waits at a rendezvous.
    paused: Option<Box<Pe<'m>>>,
}

impl<'m> Turn<'m> {
    fn take(mut pe: Box<Pe<'m>>, space: &mut Workspace) -> Turn<'m> {
        std::mem::swap(&mut pe.space, space);
        let result = pe.run();
        std::mem::swap(&mut pe.space, space);
        let (log, posts) = (pe.log.split(), std::mem::take(&mut pe.posts));
        let actions = pe.actions.split();
        let mut turn = Turn { log, posts, counts: pe.counts, actions, fault: None, paused: None };
        match result {
            Ok(Stop::Rendezvous) => {
                pe.counts = Counts::default();
                turn.paused = Some(pe);
            }
            Ok(Stop::Halt) => {}
            Err(fault) => turn.fault = Some((pe.pc, fault)),
        }
        turn
    }

    /// A PE that has no turn in a phase.
    fn pass(paused: Option<Box<Pe<'m>>>) -> Turn<'m> {
        Turn {
            log: Log::default(),
            posts: Vec::new(),
            counts: Counts::default(),
            actions: ActionLog::default(),
            fault: None,
            paused,
        }
    }
}

/// How far a launch may go, and whether its products are counted.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Instructions and loop rounds of one PE.
    pub steps: u64,
    /// Whether products are counted by instruction.
    pub records: bool,
}

/// A launch: the kernel and all that it is given but memory.
pub(crate) struct Launched<'l> {
    pub plan: &'l KernelPlan<'l>,
    /// First values of the kernel's parameters.
    pub params: &'l [i32],
    /// Its tensors.
    pub extents: &'l Extents,
    /// Dense images of those that are compressed.
    pub images: &'l [Option<Image>],
    pub limits: Limits,
    pub spaces: &'l Workspaces,
}

/// Runs a kernel on its grid and applies what it stored.
///
/// # Errors
/// The first fault in order of phases and PEs, with nothing applied.
pub(crate) fn run_launch(
    launch: &Launched<'_>,
    memory: &mut Memory<'_>,
) -> Result<(Counts, ActionLog), Conflict> {
    let (phases, counts, actions) = launch.phases(memory)?;
    Log::apply_all(&phases.iter().flatten().collect::<Vec<_>>(), memory);
    launch.spaces.recycle(phases.into_iter().flatten());
    Ok((counts, actions))
}

impl Launched<'_> {
    /// The tensors as bytes of memory.
    fn tensors<'m>(&'m self, memory: &'m Memory<'_>) -> Vec<Tensor<'m>> {
        let log_reads = needs_read_log(self.extents);
        let declared = self.extents.iter().zip(&self.plan.kernel.tensors).zip(log_reads).zip(self.images);
        declared
            .map(|(((&(address, bytes, access), decl), log_reads), image)| {
                let at = address.offset as usize;
                let bytes = &memory.bytes(address.space)[at..at + bytes as usize];
                // Weights are never written, whatever else the launch does.
                let log_reads = log_reads && address.space != MemSpace::Weights;
                Tensor { bytes, address, access, planes: decl.planes, log_reads, image: image.as_ref() }
            })
            .collect()
    }

    /// The first turn of every PE.
    fn start<'m>(
        &'m self,
        tensors: &'m [Tensor<'m>],
        memory: &'m Memory<'m>,
        panels: &'m SharedPanels,
    ) -> Vec<Turn<'m>> {
        let turn = |idx| {
            let mut at = Position { coords: self.plan.coords(idx), ..Position::default() };
            at.params.iter_mut().zip(self.params).for_each(|(value, &first)| *value = first);
            let mut pe = Box::new(Pe::new(self.plan, tensors, memory, panels, at, self.limits.steps));
            pe.actions.records = self.limits.records;
            pe.log = self.spaces.log();
            self.spaces.lend(|space| Turn::take(pe, space))
        };
        (0..self.plan.n_pes()).into_par_iter().with_max_len(1).map(turn).collect()
    }

    /// Runs phase after phase until every PE has ended.
    fn phases(&self, memory: &Memory<'_>) -> Result<(Vec<Vec<Log>>, Counts, ActionLog), Conflict> {
        let tensors = self.tensors(memory);
        let plan = self.plan;
        let n_pes = plan.n_pes();
        let ordered = plan.kernel.code.iter().any(|inst| orders(&inst.kind));
        let mut clocks = Clocks::new(n_pes, ordered);
        let mut races = Races::new(self.extents);
        let mut shared = Arc::new(Pages::default());
        let mut counts = Counts::default();
        let mut actions = ActionLog::default();
        let mut all_logs: Vec<Vec<Log>> = Vec::new();
        let panels = SharedPanels::default();
        let mut turns = self.start(&tensors, memory, &panels);
        loop {
            let mut logs = Vec::with_capacity(n_pes);
            let mut paused = Vec::with_capacity(n_pes);
            let mut posts = Vec::with_capacity(n_pes);
            for (idx, turn) in turns.into_iter().enumerate() {
                if let Some((pc, fault)) = turn.fault {
                    return Err((idx, pc, fault));
                }
                counts.add(&turn.counts);
                actions.absorb(&turn.actions);
                logs.push(turn.log);
                posts.push(turn.posts);
                paused.push(turn.paused);
            }
            races.phase(&logs, &clocks)?;
            if ordered {
                for (idx, posts) in posts.iter().enumerate() {
                    for posted in posts {
                        clocks.post(idx, posted).map_err(|fault| (idx, posted.pc, fault))?;
                    }
                }
            }
            if paused.iter().all(Option::is_none) {
                all_logs.push(logs);
                races.inputs(&all_logs)?;
                return Ok((all_logs, counts, actions));
            }
            let moved = meet(plan, &mut paused, &mut clocks)?;
            races.end_phase(&logs, &clocks);
            if logs.iter().any(|log| !log.stores.is_empty()) {
                paused.iter_mut().flatten().for_each(|pe| pe.overlay = Overlay::default());
                let pages = Arc::make_mut(&mut shared);
                logs.iter().for_each(|log| log.show(pages, memory));
                paused.iter_mut().flatten().for_each(|pe| pe.overlay = Overlay::over(Arc::clone(&shared)));
            }
            all_logs.push(logs);
            turns = paused
                .into_par_iter()
                .zip(moved)
                .with_max_len(1)
                .map(|(pe, moved)| match pe {
                    Some(pe) if moved => self.spaces.lend(|space| Turn::take(pe, space)),
                    Some(_) | None => Turn::pass(pe),
                })
                .collect();
        }
    }
}

/// The PEs of the group that `idx` is in, in ascending order.
fn members(plan: &KernelPlan<'_>, idx: usize, cast: Multicast) -> Vec<usize> {
    let mine = plan.coords(idx);
    let shares = |&other: &usize| {
        let coords = plan.coords(other);
        match cast {
            Multicast::None => other == idx,
            Multicast::Row => coords[..2] == mine[..2],
            Multicast::Col => coords[2..] == mine[2..],
            Multicast::All => true,
        }
    };
    (0..plan.n_pes()).filter(shares).collect()
}

/// The group of an instruction that all PEs of a group execute.
fn group(kind: &InstKind) -> Option<Multicast> {
    match *kind {
        InstKind::Bar { cast } | InstKind::Xchg { cast, .. } | InstKind::Xred { cast, .. } => Some(cast),
        _ => None,
    }
}

/// Carries out every rendezvous that can be; returns which PEs go on.
///
/// # Errors
/// When none can, or when one has a fault.
fn meet<'m>(
    plan: &KernelPlan<'_>,
    paused: &mut [Option<Box<Pe<'m>>>],
    clocks: &mut Clocks,
) -> Result<Vec<bool>, Conflict> {
    let mut moved = vec![false; paused.len()];
    let mut met = vec![false; paused.len()];
    for idx in 0..paused.len() {
        let Some(pe) = &mut paused[idx] else { continue };
        let pc = pe.pc;
        let kind = plan.kernel.code[pc].kind;
        if let InstKind::Wait { count, event, queue } = kind {
            if clocks.wait(idx, event, count, queue) {
                pe.log.end_segment();
                moved[idx] = true;
            }
            continue;
        }
        let Some(cast) = group(&kind).filter(|_| !met[idx]) else { continue };
        let place = (pc, pe.at.levels);
        let members = members(plan, idx, cast);
        members.iter().for_each(|&member| met[member] = true);
        let here = |&member: &usize| paused[member].as_ref().is_some_and(|pe| (pe.pc, pe.at.levels) == place);
        if !members.iter().all(here) {
            continue;
        }
        let mut group: Vec<&mut Pe<'m>> = paused
            .iter_mut()
            .enumerate()
            .filter(|(other, _)| members.binary_search(other).is_ok())
            .filter_map(|(_, pe)| pe.as_deref_mut())
            .collect();
        let result = match kind {
            InstKind::Xchg { dst, src, dim, cast: _ } => exchange(&mut group, dst, src, dim),
            InstKind::Xred { dst, bank, dim, cast: _, share } => reduce(&mut group, dst, bank, dim, share),
            _ => {
                let segments = members.iter().zip(&group).map(|(&m, pe)| (m, pe.log.segment()));
                clocks.bar(&segments.collect::<Vec<_>>());
                group.iter_mut().for_each(|pe| pe.log.end_segment());
                Ok(())
            }
        };
        result.map_err(|(member, fault)| (members[member], pc, fault))?;
        group.iter_mut().for_each(|pe| pe.settle());
        members.iter().for_each(|&member| moved[member] = true);
    }
    if !moved.contains(&true) {
        return Err(blocked(plan, paused, clocks));
    }
    Ok(moved)
}

/// Why no PE can go on.
fn blocked(plan: &KernelPlan<'_>, paused: &[Option<Box<Pe<'_>>>], clocks: &Clocks) -> Conflict {
    let at = |idx: usize| paused[idx].as_ref().map(|pe| (pe.pc, pe.at.levels));
    let stuck = |(idx, pe): (usize, &Option<Box<Pe<'_>>>)| Some((idx, pe.as_ref()?.pc));
    let (idx, pc) = paused.iter().enumerate().find_map(stuck).unwrap_or((0, 0));
    let kind = plan.kernel.code[pc].kind;
    if let InstKind::Wait { count, event, queue } = kind {
        let (posts, wanted) = clocks.posts(idx, event, count, queue);
        let message = format!("event {event} has {posts} posts and would never have {wanted}");
        return (idx, pc, Fault::new(TrapKind::WouldBlock, message));
    }
    let members = members(plan, idx, group(&kind).unwrap_or(Multicast::All));
    let other = members.into_iter().find(|&member| at(member) != at(idx)).unwrap_or(idx);
    let place = match at(other) {
        Some((pc, levels)) => format!("is at instruction {pc} with counters {levels:?}"),
        None => "has ended".to_owned(),
    };
    let message = format!("PE {:?} of the group {place}", plan.coords(other));
    (idx, pc, Fault::new(TrapKind::NotUniform, message))
}
