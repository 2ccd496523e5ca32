//! What a launch hands to the one that is chained behind it: when queues, ports and bytes of local memory are free.
//!
//! PEs of a launch are taken to run in step, so of all PEs the latest of each time counts. Buffers of a launch lie one after the other
//! behind those of the launch before, round the end of local memory, so that a chained launch may fill its own while the one before
//! still uses what it has.

use lacuna_isa::inst::Engine;
use lacuna_isa::object::{Buffer, BufferKind};
use lacuna_isa::target::Target;
use lacuna_isa::timing::{ALIGN, IN_FLIGHT};

use super::engine_idx;
use super::model::{Finished, Ports};

/// Times within a chain, in cycles from its start.
#[derive(Clone, Default)]
pub(super) struct Handover {
    /// When each queue is free.
    pub queues: [f64; Engine::ALL.len()],
    /// When the loads have had their turn that wait for each of the launches before, the last first.
    pub held: [f64; IN_FLIGHT],
    pub ports: Ports,
    /// When the command processor has issued everything.
    pub issued: f64,
    /// When the last launches have ended, the last first; `None` where there was none. No launch ends before the one before it.
    ends: [Option<f64>; IN_FLIGHT],
    local: Room,
    banks: Room,
}

impl Handover {
    /// When the last launch has ended; `None` before the first.
    pub fn end(&self) -> Option<f64> {
        self.ends[0]
    }

    /// When the instructions of the next launch may be issued, and when its accesses may touch what each of the launches before
    /// uses, the last first.
    pub fn times(&self, target: &Target) -> (f64, [f64; IN_FLIGHT]) {
        let known = self.ends.map(|end| end.map_or(0.0, |end| end + target.barrier_cycles as f64));
        (self.issued.max(known[IN_FLIGHT - 1]), known)
    }

    /// When each queue has a turn for the next launch, and when its loads have that wait for each of the launches before, the
    /// last first. A load that waits for less overtakes those of the launches before as it does those of its own.
    pub fn turns(&self) -> ([f64; Engine::ALL.len()], [f64; IN_FLIGHT]) {
        let (mut queues, mut held) = (self.queues, self.held);
        held.rotate_right(1);
        // What these waited for has to end before the next launch may begin.
        let load = &mut queues[engine_idx(Engine::FiLoad)];
        *load = load.max(std::mem::take(&mut held[0]));
        (queues, held)
    }

    /// When each slot of the next launch's buffers is free, and what it hands on in turn, but for what it does itself.
    pub fn next(&self, buffers: &[Buffer], target: &Target) -> (Vec<Placed>, Handover) {
        let mut next = self.clone();
        next.ends.rotate_right(1);
        next.ends[0] = self.end();
        (next.queues, next.held) = self.turns();
        let placed = buffers
            .iter()
            .map(|buffer| {
                let (room, bytes) = match buffer.kind {
                    BufferKind::Local => (&mut next.local, target.local_bytes),
                    BufferKind::Bank => (&mut next.banks, target.bank_bytes),
                };
                let slot_bytes = u64::from(buffer.slot_bytes).next_multiple_of(ALIGN);
                let slots = u64::from(buffer.slots.max(1));
                room.bytes = bytes.max(1);
                let at = room.take(slot_bytes * slots);
                let free = (0..slots).map(|slot| room.free(at + slot * slot_bytes, slot_bytes)).collect();
                Placed { kind: buffer.kind, at, slot_bytes, free }
            })
            .collect();
        (placed, next)
    }

    /// Takes in what one PE of the launch left.
    pub fn absorb(&mut self, finished: &Finished, placed: &[Placed]) {
        let end = &mut self.ends[0];
        if end.is_none_or(|end| finished.end > end) {
            self.ports.clone_from(&finished.ports);
        }
        *end = Some(end.map_or(finished.end, |end| end.max(finished.end)));
        self.issued = self.issued.max(finished.issued);
        for (latest, &free) in
            self.queues.iter_mut().zip(&finished.queues).chain(self.held.iter_mut().zip(&finished.held))
        {
            *latest = latest.max(free);
        }
        for (buffer, times) in placed.iter().zip(&finished.slots) {
            let room = match buffer.kind {
                BufferKind::Local => &mut self.local,
                BufferKind::Bank => &mut self.banks,
            };
            for (slot, &free) in (0..).zip(times) {
                room.release(buffer.at + slot * buffer.slot_bytes, buffer.slot_bytes, free);
            }
        }
    }
}

/// Where a buffer lies.
pub(super) struct Placed {
    kind: BufferKind,
    at: u64,
    slot_bytes: u64,
    /// When each of its slots is free.
    pub free: Vec<f64>,
}

/// Local memory or accumulators, used round and round.
#[derive(Clone, Default)]
struct Room {
    bytes: u64,
    /// Where the next buffer begins.
    next: u64,
    /// Disjoint stretches with the time from which each is free, in ascending order.
    used: Vec<(u64, u64, f64)>,
}

impl Room {
    fn take(&mut self, bytes: u64) -> u64 {
        let at = self.next;
        self.next = (at + bytes) % self.bytes;
        at
    }

    /// The stretches below the end that `bytes` from `at` on cover.
    fn parts(&self, at: u64, bytes: u64) -> [(u64, u64); 2] {
        let from = at % self.bytes;
        let bytes = bytes.min(self.bytes);
        let end = from + bytes;
        if end <= self.bytes { [(from, end), (0, 0)] } else { [(from, self.bytes), (0, end - self.bytes)] }
    }

    /// When `bytes` from `at` on are free.
    fn free(&self, at: u64, bytes: u64) -> f64 {
        let parts = self.parts(at, bytes);
        let covered = |&&(from, end, _): &&(u64, u64, f64)| parts.iter().any(|&(a, b)| from < b && a < end);
        self.used.iter().filter(covered).fold(0.0, |latest: f64, &(.., free)| latest.max(free))
    }

    /// Notes that `bytes` from `at` on are free from `free` on, and not before.
    fn release(&mut self, at: u64, bytes: u64, free: f64) {
        for (from, end) in self.parts(at, bytes) {
            if from == end {
                continue;
            }
            let mut kept = vec![(from, end, free.max(self.free(from, end - from)))];
            for &(a, b, time) in &self.used {
                kept.extend([(a, b.min(from), time), (a.max(end), b, time)].iter().filter(|p| p.0 < p.1));
            }
            kept.sort_unstable_by_key(|&(a, ..)| a);
            self.used = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_round_and_round() {
        let mut room = Room { bytes: 100, ..Room::default() };
        assert_eq!((room.take(60), room.take(60), room.next), (0, 60, 20));
        room.release(0, 60, 5.0);
        room.release(60, 60, 7.0);
        // The second stretch went on at the beginning.
        assert_eq!(room.used, [(0, 20, 7.0), (20, 60, 5.0), (60, 100, 7.0)]);
        assert_eq!((room.free(20, 40), room.free(20, 41), room.free(10, 20)), (5.0, 7.0, 7.0));
        room.release(30, 10, 9.0);
        assert_eq!((room.free(20, 10), room.free(39, 1), room.free(40, 20)), (5.0, 9.0, 5.0));
    }
}
