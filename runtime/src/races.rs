//! Races: conflicting accesses of two PEs that nothing orders, found exactly to the byte.
//!
//! A PE's stream falls into *segments*, which end at every `post`, `wait` and `bar`. The clock of a PE's load or store queue
//! says for each queue of every other PE how many segments of its accesses came before. A `bar` gives all queues of its group
//! the latest clocks; a `post` leaves its queue's clock with the event, and a `wait` takes it from there. PEs run in parallel
//! between rendezvous, so what two of them do in one phase is never ordered; what they did in earlier phases is kept as
//! long as some queue may not know of it.

use std::collections::HashMap;

use lacuna_isa::inst::Engine;
use lacuna_isa::object::{Access, Address, MemSpace};

use crate::memory::{ByteBox, Log, Moment};
use crate::pe::Posted;
use crate::trap::{Fault, TrapKind};

/// One bit for each byte of a part of a memory.
struct Bits {
    space: MemSpace,
    start: u64,
    end: u64,
    words: Vec<u64>,
}

impl Bits {
    fn masks(&self, at: u64, run: u64, mut f: impl FnMut(usize, u64)) {
        let (mut bit, end) = (at - self.start, at - self.start + run);
        while bit < end {
            let n = (64 - bit % 64).min(end - bit);
            f((bit / 64) as usize, (u64::MAX >> (64 - n)) << (bit % 64));
            bit += n;
        }
    }

    fn any(&self, at: u64, run: u64) -> bool {
        let mut hit = 0;
        self.masks(at, run, |word, mask| hit |= self.words[word] & mask);
        hit != 0
    }

    fn clear(&mut self, at: u64, run: u64) {
        let (mut bit, end) = (at - self.start, at - self.start + run);
        while bit < end {
            let n = (64 - bit % 64).min(end - bit);
            self.words[(bit / 64) as usize] &= !((u64::MAX >> (64 - n)) << (bit % 64));
            bit += n;
        }
    }

    fn set(&mut self, at: u64, run: u64) -> bool {
        let mut hit = 0;
        let (mut bit, end) = (at - self.start, at - self.start + run);
        while bit < end {
            let n = (64 - bit % 64).min(end - bit);
            let mask = (u64::MAX >> (64 - n)) << (bit % 64);
            let word = &mut self.words[(bit / 64) as usize];
            hit |= *word & mask;
            *word |= mask;
            bit += n;
        }
        hit != 0
    }
}

/// The bytes that a launch may write, tensors that touch merged into one part.
struct Written(Vec<Bits>);

impl Written {
    fn new(tensors: &[(Address, u64, Access)]) -> Written {
        let mut parts: Vec<(MemSpace, u64, u64)> = tensors
            .iter()
            .filter(|(_, _, access)| *access != Access::In)
            .map(|(address, bytes, _)| (address.space, address.offset, address.offset + bytes))
            .collect();
        parts.sort_unstable();
        let mut merged: Vec<(MemSpace, u64, u64)> = Vec::new();
        for part in parts {
            match merged.last_mut() {
                Some(last) if last.0 == part.0 && part.1 <= last.2 => last.2 = last.2.max(part.2),
                _ => merged.push(part),
            }
        }
        Written(
            merged
                .into_iter()
                .map(|(space, start, end)| Bits {
                    space,
                    start,
                    end,
                    words: vec![0; (end - start).div_ceil(64) as usize],
                })
                .collect(),
        )
    }

    fn part(&mut self, space: MemSpace, at: u64) -> Option<&mut Bits> {
        self.0.iter_mut().find(|bits| bits.space == space && (bits.start..bits.end).contains(&at))
    }

    fn is_free(&mut self, at: &ByteBox) -> bool {
        at.all(|start| self.part(at.space, start).is_none_or(|bits| !bits.any(start, at.run)))
    }

    /// Takes the marks of a box away.
    fn clear(&mut self, at: &ByteBox) {
        at.each(|start| {
            if let Some(bits) = self.part(at.space, start) {
                bits.clear(start, at.run);
            }
        });
    }

    /// Marks a box; true when none of it was marked.
    fn mark(&mut self, at: &ByteBox) -> bool {
        let mut free = true;
        at.each(|start| {
            if let Some(bits) = self.part(at.space, start) {
                free &= !bits.set(start, at.run);
            }
        });
        free
    }
}

/// A conflict: PE number and instruction.
pub(crate) type Conflict = (usize, usize, Fault);

/// The tensors of a launch: where, how many bytes, and how they are used.
pub(crate) type Extents = [(Address, u64, Access)];

fn race(pe: usize, pc: usize, at: &ByteBox, what: &str) -> Conflict {
    let message = format!("bytes from {:?} {:#x} on {what}", at.space, at.start);
    (pe, pc, Fault::new(TrapKind::Race, message))
}

/// The races of one launch.
pub(crate) struct Races<'t> {
    tensors: &'t Extents,
    written: Written,
    /// Bytes of `out` tensors that earlier phases wrote.
    before: Option<Written>,
    /// Accesses to `inout` tensors of earlier phases that some queue may not know of.
    kept: Vec<Kept>,
}

/// An access of an earlier phase.
struct Kept {
    pe: usize,
    at: ByteBox,
    writes: bool,
    when: Moment,
}

impl<'t> Races<'t> {
    pub fn new(tensors: &'t Extents) -> Races<'t> {
        Races { tensors, written: Written::new(tensors), before: None, kept: Vec::new() }
    }

    /// Checks what the PEs did between two rendezvous; `clocks` are as they were at its start.
    ///
    /// # Errors
    /// The first conflict.
    pub fn phase(&mut self, logs: &[Log], clocks: &Clocks) -> Result<(), Conflict> {
        self.within(logs)?;
        if !self.kept.is_empty() {
            for (pe, log) in logs.iter().enumerate() {
                self.against_earlier(pe, log, clocks)?;
            }
        }
        Ok(())
    }

    /// Conflicts within one phase.
    fn within(&mut self, logs: &[Log]) -> Result<(), Conflict> {
        let written = &mut self.written;
        let mut is_before = |at: &ByteBox| self.before.as_mut().is_some_and(|before| !before.is_free(at));
        for (pe, log) in logs.iter().enumerate() {
            for store in log.stores.iter().filter(|store| !store.once) {
                if !written.is_free(&store.at) || is_before(&store.at) {
                    return Err(race(pe, store.pc, &store.at, "are written by another PE too"));
                }
            }
            for store in &log.stores {
                let free = written.mark(&store.at);
                if store.once && (!free || is_before(&store.at)) {
                    return Err(race(pe, store.pc, &store.at, "are written twice"));
                }
            }
        }
        for (pe, log) in logs.iter().enumerate().filter(|(_, log)| !log.reads.is_empty()) {
            let mut others: Option<Written> = None;
            for read in &log.reads {
                if written.is_free(&read.at) {
                    continue;
                }
                if !read.own_writes_legal {
                    return Err(race(
                        pe,
                        read.pc,
                        &read.at,
                        "are read as `in` and written by the same launch",
                    ));
                }
                let others = others.get_or_insert_with(|| {
                    let mut others = Written::new(self.tensors);
                    for (_, log) in logs.iter().enumerate().filter(|(q, _)| *q != pe) {
                        for store in &log.stores {
                            others.mark(&store.at);
                        }
                    }
                    others
                });
                if !others.is_free(&read.at) {
                    return Err(race(pe, read.pc, &read.at, "are read here and written by another PE"));
                }
            }
        }
        Ok(())
    }

    /// Conflicts of one PE with earlier phases of others.
    fn against_earlier(&self, pe: usize, log: &Log, clocks: &Clocks) -> Result<(), Conflict> {
        for stores in [false, true] {
            let clock = clocks.of(pe, stores);
            let unknown =
                || self.kept.iter().filter(|kept| kept.pe != pe && !known(clock, kept.pe, kept.when));
            let accesses = || {
                let written = log.stores.iter().filter(|s| !s.once).map(|s| (&s.at, s.pc, s.when, true));
                let read = log.reads.iter().map(|r| (&r.at, r.pc, r.when, false));
                written.chain(read).filter(|(_, _, when, _)| when.stores == stores)
            };
            if unknown().next().is_none() || accesses().next().is_none() {
                continue;
            }
            let (mut writes, mut all) = (Written::new(self.tensors), Written::new(self.tensors));
            for kept in unknown() {
                all.mark(&kept.at);
                if kept.writes {
                    writes.mark(&kept.at);
                }
            }
            for (at, pc, _, is_write) in accesses() {
                let others = if is_write { &mut all } else { &mut writes };
                if !others.is_free(at) {
                    return Err(race(pe, pc, at, "are accessed by another PE too, and nothing orders both"));
                }
            }
        }
        Ok(())
    }

    /// Ends a phase after its rendezvous; `clocks` are those of the next phase.
    pub fn end_phase(&mut self, logs: &[Log], clocks: &Clocks) {
        for (pe, log) in logs.iter().enumerate() {
            for store in &log.stores {
                self.written.clear(&store.at);
                if store.once {
                    self.before.get_or_insert_with(|| Written::new(self.tensors)).mark(&store.at);
                } else {
                    self.kept.push(Kept { pe, at: store.at.clone(), writes: true, when: store.when });
                }
            }
            for read in log.reads.iter().filter(|read| read.own_writes_legal) {
                self.kept.push(Kept { pe, at: read.at.clone(), writes: false, when: read.when });
            }
        }
        self.kept.retain(|kept| !clocks.all_know(kept.pe, kept.when));
    }

    /// Checks that no phase wrote what any phase read as `in`.
    ///
    /// # Errors
    /// The first conflict.
    pub fn inputs(&self, phases: &[Vec<Log>]) -> Result<(), Conflict> {
        let reads = || {
            let logs = phases.iter().flat_map(|logs| logs.iter().enumerate());
            logs.flat_map(|(pe, log)| log.reads.iter().map(move |read| (pe, read)))
                .filter(|(_, read)| !read.own_writes_legal)
        };
        if phases.len() < 2 || reads().next().is_none() {
            return Ok(());
        }
        let mut written = Written::new(self.tensors);
        phases.iter().flatten().flat_map(|log| &log.stores).for_each(|store| {
            written.mark(&store.at);
        });
        for (pe, read) in reads() {
            if !written.is_free(&read.at) {
                return Err(race(pe, read.pc, &read.at, "are read as `in` and written by the same launch"));
            }
        }
        Ok(())
    }
}

fn known(clock: &[u32], pe: usize, when: Moment) -> bool {
    clock.get(slot(pe, when.stores)).is_some_and(|&segments| segments > when.segment)
}

/// Position of a queue in a clock.
fn slot(pe: usize, stores: bool) -> usize {
    2 * pe + usize::from(stores)
}

fn join(clock: &mut [u32], other: &[u32]) {
    clock.iter_mut().zip(other).for_each(|(a, b)| *a = (*a).max(*b));
}

#[derive(Default)]
struct Event {
    posts: u64,
    /// What the posts so far have come after.
    clock: Vec<u32>,
    /// What later posts must come after, so that no `wait` counts one of them in place of an earlier one.
    floor: Vec<u32>,
    /// Posts that each queue has waited for.
    waited: HashMap<usize, u64>,
}

/// The clocks of all queues of a launch, and its events.
#[derive(Default)]
pub(crate) struct Clocks {
    n_pes: usize,
    clocks: Vec<Vec<u32>>,
    events: HashMap<u8, Event>,
}

impl Clocks {
    /// Clocks of a launch; without `ordered`, of one whose PEs never meet.
    pub fn new(n_pes: usize, ordered: bool) -> Clocks {
        let n = if ordered { 2 * n_pes } else { 0 };
        Clocks { n_pes, clocks: vec![vec![0; n]; n], events: HashMap::new() }
    }

    fn of(&self, pe: usize, stores: bool) -> &[u32] {
        self.clocks.get(slot(pe, stores)).map_or(&[], Vec::as_slice)
    }

    fn all_know(&self, pe: usize, when: Moment) -> bool {
        (0..self.n_pes)
            .filter(|&other| other != pe)
            .all(|other| [false, true].into_iter().all(|s| known(self.of(other, s), pe, when)))
    }

    /// `post`.
    ///
    /// # Errors
    /// When an earlier `wait` of another PE might count this post in place of one that it waits for.
    pub fn post(&mut self, pe: usize, posted: &Posted) -> Result<(), Fault> {
        let queue = slot(pe, posted.queue == Engine::FiStore);
        let mut clock = self.clocks[queue].clone();
        clock[queue] = posted.segment + 1;
        let event = self.events.entry(posted.event).or_default();
        if event.floor.iter().zip(&clock).any(|(floor, mine)| mine < floor) {
            let message = format!(
                "a `wait` for event {} may count this post in place of an earlier one: nothing orders them",
                posted.event
            );
            return Err(Fault::new(TrapKind::Race, message));
        }
        event.posts += 1;
        event.clock.resize(clock.len(), 0);
        join(&mut event.clock, &clock);
        Ok(())
    }

    /// `wait`: whether the posts are there.
    pub fn wait(&mut self, pe: usize, event: u8, count: u16, queue: Engine) -> bool {
        let queue = slot(pe, queue == Engine::FiStore);
        let event = self.events.entry(event).or_default();
        let waited = event.waited.entry(queue).or_default();
        let wanted = *waited + u64::from(count);
        if event.posts < wanted {
            return false;
        }
        *waited = wanted;
        if event.posts == wanted {
            event.floor.clone_from(&event.clock);
            join(&mut self.clocks[queue], &event.clock);
        }
        true
    }

    /// How many posts of `event` there were, and how many a `wait` for `count` more needs.
    pub fn posts(&self, pe: usize, event: u8, count: u16, queue: Engine) -> (u64, u64) {
        let queue = slot(pe, queue == Engine::FiStore);
        let (posts, waited) =
            self.events.get(&event).map_or((0, 0), |e| (e.posts, e.waited.get(&queue).copied().unwrap_or(0)));
        (posts, waited + u64::from(count))
    }

    /// `bar`: `members` are PEs with their current segments.
    pub fn bar(&mut self, members: &[(usize, u32)]) {
        let mut latest = vec![0; self.clocks.len()];
        for &(pe, segment) in members {
            for stores in [false, true] {
                join(&mut latest, &self.clocks[slot(pe, stores)]);
                let mine = &mut latest[slot(pe, stores)];
                *mine = (*mine).max(segment + 1);
            }
        }
        for &(pe, _) in members {
            for stores in [false, true] {
                self.clocks[slot(pe, stores)].clone_from(&latest);
            }
        }
    }
}

/// For each tensor, whether its loads must be logged: some byte range that the launch writes overlaps it.
pub(crate) fn needs_read_log(tensors: &[(Address, u64, Access)]) -> Vec<bool> {
    let overlaps = |a: &(Address, u64, Access), b: &(Address, u64, Access)| {
        a.0.space == b.0.space && a.0.offset < b.0.offset + b.1 && b.0.offset < a.0.offset + a.1
    };
    tensors
        .iter()
        .map(|tensor| match tensor.2 {
            Access::InOut => true,
            Access::Out => false,
            Access::In => tensors.iter().any(|other| other.2 != Access::In && overlaps(tensor, other)),
        })
        .collect()
}
