//! The event model of one PE.

use std::collections::VecDeque;

use lacuna_isa::inst::{Action, Engine};
use lacuna_isa::target::Target;
use lacuna_isa::timing::{Cost, IN_FLIGHT, Work};

use super::chain::{Handover, Placed};
use super::engine_idx;
use super::path::{Cause, Moment, N_CAUSES};
use super::walk::Step;

/// The times of one slot: when its content is there, and when the last reader of it ends.
#[derive(Clone, Copy, Default)]
struct SlotTimes {
    ready: Moment,
    released: Moment,
}

/// A circular buffer's slots by position.
struct Ring {
    slots: Vec<SlotTimes>,
    head: usize,
    used: usize,
}

impl Ring {
    /// Slot that an action names; `None` in a program that would trap.
    fn locate(&self, action: Action, delta: u8) -> Option<usize> {
        let n = self.slots.len();
        match action {
            Action::Push => (self.used < n).then(|| (self.head + self.used) % n),
            Action::Read | Action::Pop | Action::Update => {
                (usize::from(delta) < self.used).then(|| (self.head + usize::from(delta)) % n)
            }
        }
    }
}

/// A PE's share of a memory port: the intervals in which it is taken, in order and apart.
///
/// Transfers come in program order, not in order of time, so an interval is looked for in the gaps too.
#[derive(Clone, Default)]
struct Port {
    taken: VecDeque<(f64, f64)>,
}

impl Port {
    /// Takes the first `cycles` in a row from `earliest` on, and returns when they begin. Nothing will ever be asked for
    /// before `past`.
    fn take(&mut self, earliest: f64, cycles: f64, past: f64) -> f64 {
        self.forget(past);
        let mut start = earliest;
        let mut at = self.taken.partition_point(|&(_, end)| end <= earliest);
        while let Some(&(from, end)) = self.taken.get(at)
            && from < start + cycles
        {
            start = end;
            at += 1;
        }
        self.insert(at, start, start + cycles);
        start
    }

    /// Takes the first `cycles` from `earliest` on, in a row or not, and returns when the first begins and the last ends.
    fn take_parts(&mut self, earliest: f64, cycles: f64, past: f64) -> (f64, f64) {
        self.forget(past);
        let (mut first, mut left) = (None, cycles);
        let mut from = earliest;
        let mut at = self.taken.partition_point(|&(_, end)| end <= earliest);
        loop {
            if let Some(&(taken, end)) = self.taken.get(at)
                && taken <= from
            {
                from = end;
                at += 1;
                continue;
            }
            let room = self.taken.get(at).map_or(left, |&(taken, _)| left.min(taken - from));
            first.get_or_insert(from);
            left -= room;
            let end = from + room;
            at = self.insert(at, from, end);
            if left <= 0.0 {
                return (first.unwrap_or(earliest), end);
            }
        }
    }

    fn forget(&mut self, past: f64) {
        while self.taken.front().is_some_and(|&(_, end)| end <= past) {
            self.taken.pop_front();
        }
    }

    /// Inserts an interval before number `at` and returns the number that it has; neighbours that touch become one.
    fn insert(&mut self, mut at: usize, mut from: f64, mut end: f64) -> usize {
        if self.taken.get(at).is_some_and(|next| next.0 <= end) {
            end = self.taken[at].1;
            self.taken.remove(at);
        }
        if at > 0 && self.taken[at - 1].1 >= from {
            from = self.taken[at - 1].0;
            at -= 1;
            self.taken.remove(at);
        }
        self.taken.insert(at, (from, end));
        at
    }
}

/// A PE's shares of HBM and shared SRAM.
#[derive(Clone, Default)]
pub(super) struct Ports {
    hbm: Port,
    sram: Port,
}

/// What a PE left when it ended.
pub(super) struct Finished {
    /// When its last instruction ended.
    pub end: f64,
    /// What the longest chain of waits up to there is made of.
    pub path: [f64; N_CAUSES],
    /// When it had issued all.
    pub issued: f64,
    /// When each queue was free.
    pub queues: [f64; Engine::ALL.len()],
    /// When the loads had had their turn that waited for each of the launches before, the last first.
    pub held: [f64; IN_FLIGHT],
    pub ports: Ports,
    /// When each slot of each buffer was free.
    pub slots: Vec<Vec<f64>>,
    /// Cycles for which each engine had no power and got it back.
    pub gated_cycles: [f64; Engine::ALL.len()],
    /// Since when each engine has had none.
    pub gated: [Option<f64>; Engine::ALL.len()],
}

/// A store whose place at its port is open: loads go first, as memory controllers have it, which keep writes back and serve
/// reads meanwhile. It is settled when somebody needs its slot.
struct Waiting {
    mnemonic: &'static str,
    /// When its slots are there.
    earliest: Moment,
    need: Cost,
    slots: Vec<(usize, usize)>,
}

/// Receives what an engine did: mnemonic, engine, first cycle, number of cycles that it is occupied.
pub(super) type Visit<'v> = &'v mut dyn FnMut(&'static str, Engine, u64, u64);

/// The simulation of one PE, fed step by step.
pub(super) struct Simulation<'t> {
    target: &'t Target,
    n_pes: f64,
    rings: Vec<Ring>,
    queues: [Moment; Engine::ALL.len()],
    ports: Ports,
    issued: Moment,
    end: Moment,
    /// When the launch before ended.
    start: f64,
    /// When accesses may start that wait for a launch before, the last first, and when the loads among them have their turn:
    /// later ones that wait for less overtake them.
    held_until: [Moment; IN_FLIGHT],
    held_queue: [Moment; IN_FLIGHT],
    /// Since when each engine has had no power.
    gated: [Option<f64>; Engine::ALL.len()],
    gated_cycles: [f64; Engine::ALL.len()],
    /// The slots of the current step.
    slots: Vec<(usize, usize, Action)>,
    /// Stores that are not settled, oldest first.
    waiting: VecDeque<Waiting>,
}

impl<'t> Simulation<'t> {
    /// A PE among `n_pes` that share the target's ports, which goes on from `before` with buffers at `placed`.
    pub fn new(placed: &[Placed], target: &'t Target, n_pes: f64, before: &Handover) -> Simulation<'t> {
        let start = before.end().unwrap_or(0.0);
        let handed = |at: f64| Moment::handed(at, start);
        let slots = |buffer: &Placed| {
            let free = buffer.free.iter().map(|&at| handed(at));
            free.map(|free| SlotTimes { ready: free, released: free }).collect()
        };
        let rings = placed.iter().map(|buffer| Ring { slots: slots(buffer), head: 0, used: 0 }).collect();
        let (issued, held_until) = before.times(target);
        let (queues, turns) = before.turns();
        let held_queue = std::array::from_fn(|by| handed(held_until[by].max(turns[by])));
        Simulation {
            target,
            n_pes,
            rings,
            queues: queues.map(handed),
            ports: before.ports.clone(),
            issued: handed(issued),
            end: Moment::default(),
            start,
            held_until: held_until.map(handed),
            held_queue,
            gated: [None; Engine::ALL.len()],
            gated_cycles: [0.0; Engine::ALL.len()],
            slots: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// What the PE leaves.
    pub fn finish(mut self, visit: Visit<'_>) -> Finished {
        self.settle(self.waiting.len(), visit);
        let end = self.end.max(self.issued);
        let free = |ring: &Ring| ring.slots.iter().map(|slot| slot.ready.max(slot.released).at).collect();
        Finished {
            end: end.at,
            path: end.path,
            issued: self.issued.at,
            queues: self.queues.map(|free| free.at),
            held: self.held_queue.map(|free| free.at),
            slots: self.rings.iter().map(free).collect(),
            ports: self.ports,
            gated_cycles: self.gated_cycles,
            gated: self.gated,
        }
    }

    /// The next instruction.
    pub fn step(&mut self, step: &Step, need: &Cost, visit: Visit<'_>) {
        let target = self.target;
        let begin = self.start;
        self.issued.advance(Cause::Issue, self.issued.at + target.issue_cycles as f64, begin);
        let engine = engine_idx(step.engine);
        if let Some((gated, on)) = step.gate {
            if gated == Engine::FiStore {
                self.settle(self.waiting.len(), visit);
            }
            let engine = engine_idx(gated);
            // Power goes when the queue is empty, and is back when the instruction is issued.
            if on {
                let since = self.gated[engine].take();
                self.gated_cycles[engine] += since.map_or(0.0, |since| (self.issued.at - since).max(0.0));
            } else if self.gated[engine].is_none() {
                self.gated[engine] = Some(self.issued.max(self.queues[engine]).at);
            }
        }
        let mut start = step.held.map_or(self.issued, |by| self.issued.max(self.held_until[usize::from(by)]));
        start = self.take_slots(step, start, visit);
        if step.engine == Engine::Cp {
            // The command processor waits for a parameter before it goes on.
            if let Work::Dma { .. } = step.work() {
                start.advance(Cause::HbmLatency, start.at + target.hbm_latency_cycles as f64, begin);
                self.issued = start;
            }
            return;
        }
        if step.engine == Engine::FiStore {
            let slots = self.slots.iter().map(|&(buffer, at, _)| (buffer, at)).collect();
            let waiting = Waiting { mnemonic: step.mnemonic, earliest: start, need: *need, slots };
            self.waiting.push_back(waiting);
            return;
        }
        let aside = step
            .held
            .map(usize::from)
            .filter(|&by| step.engine == Engine::FiLoad && self.queues[engine].at < self.held_until[by].at);
        start = start.max(aside.map_or(self.queues[engine], |by| self.held_queue[by]));
        let mut busy = need.cycles as f64;
        let past = self.past();
        let [transfer, answer] = causes(need);
        let (port, occupied, delay) = self.port(need);
        let mut latency = 0.0;
        let mut cause = Cause::Engine(step.engine);
        if occupied > 0.0 {
            let turn = port.take(start.at, occupied, past);
            start.advance(transfer, turn, begin);
            if occupied >= busy {
                cause = transfer;
            }
            busy = busy.max(occupied);
            latency = delay;
        }
        let first = start.at;
        start.advance(cause, first + busy, begin);
        match aside {
            Some(by) => self.held_queue[by] = start,
            None => self.queues[engine] = start,
        }
        let mut done = start;
        done.advance(answer, start.at + latency, begin);
        self.end = self.end.max(done);
        for &(buffer, at, action) in &self.slots {
            let times = &mut self.rings[buffer].slots[at];
            match action {
                Action::Push => *times = SlotTimes { ready: done, released: done },
                Action::Read | Action::Pop => times.released = times.released.max(done),
                Action::Update => {
                    times.ready = done;
                    times.released = times.released.max(done);
                }
            }
        }
        visit(step.mnemonic, step.engine, first as u64, busy.ceil() as u64);
    }

    /// When the slots of a step are there that may not start before `start`; the step has them from now on.
    fn take_slots(&mut self, step: &Step, mut start: Moment, visit: Visit<'_>) -> Moment {
        self.slots.clear();
        for slot in &step.slots {
            let buffer = usize::from(slot.buffer);
            let Some(at) = self.rings[buffer].locate(slot.action, slot.delta) else { continue };
            if matches!(slot.action, Action::Push | Action::Update) {
                let reads = |store: &Waiting| store.slots.contains(&(buffer, at));
                let n = self.waiting.iter().rposition(reads).map_or(0, |last| last + 1);
                self.settle(n, visit);
            }
            let ring = &mut self.rings[buffer];
            let times = ring.slots[at];
            start = start.max(match slot.action {
                Action::Push => times.released,
                Action::Read | Action::Pop => times.ready,
                Action::Update => times.ready.max(times.released),
            });
            match slot.action {
                Action::Push => ring.used += 1,
                Action::Pop => {
                    ring.head = (ring.head + 1) % ring.slots.len();
                    ring.used -= 1;
                }
                Action::Read | Action::Update => {}
            }
            self.slots.push((buffer, at, slot.action));
        }
        start
    }

    /// Settles the `n` oldest stores that wait, in what loads leave of their ports.
    fn settle(&mut self, n: usize, visit: Visit<'_>) {
        let queue = engine_idx(Engine::FiStore);
        for store in self.waiting.drain(..n).collect::<Vec<_>>() {
            let begin = self.start;
            let mut start = store.earliest.max(self.queues[queue]);
            let mut busy = store.need.cycles as f64;
            let past = self.past();
            let [transfer, answer] = causes(&store.need);
            let (port, occupied, delay) = self.port(&store.need);
            let mut latency = 0.0;
            let mut cause = Cause::Engine(Engine::FiStore);
            if occupied > 0.0 {
                let (from, to) = port.take_parts(start.at, occupied, past);
                start.advance(transfer, from, begin);
                if to - from >= busy {
                    cause = transfer;
                }
                busy = busy.max(to - from);
                latency = delay;
            }
            let first = start.at;
            start.advance(cause, first + busy, begin);
            self.queues[queue] = start;
            let mut done = start;
            done.advance(answer, start.at + latency, begin);
            self.end = self.end.max(done);
            for (buffer, at) in store.slots {
                let times = &mut self.rings[buffer].slots[at];
                times.released = times.released.max(done);
            }
            visit(store.mnemonic, Engine::FiStore, first as u64, busy.ceil() as u64);
        }
    }

    /// Nothing will be asked of a port before: both queues of the fabric interface go forward only.
    fn past(&self) -> f64 {
        self.queues[engine_idx(Engine::FiLoad)].at.min(self.queues[engine_idx(Engine::FiStore)].at)
    }

    /// The port that a transfer takes, for how many cycles of this PE's share, and its latency.
    fn port(&mut self, need: &Cost) -> (&mut Port, f64, f64) {
        let target = self.target;
        let (port, rate, bytes, delay) = if need.sram_bytes > 0 {
            (&mut self.ports.sram, target.sram_bytes_per_cycle, need.sram_bytes, target.sram_latency_cycles)
        } else {
            (&mut self.ports.hbm, target.hbm_bytes_per_cycle, need.hbm_bytes, target.hbm_latency_cycles)
        };
        (port, bytes as f64 * self.n_pes / rate, delay as f64)
    }
}

/// What a transfer's cycles at its port are, and those until its answer.
fn causes(need: &Cost) -> [Cause; 2] {
    if need.sram_bytes > 0 { [Cause::Sram, Cause::SramLatency] } else { [Cause::Hbm, Cause::HbmLatency] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_fills_its_gaps() {
        let mut port = Port::default();
        let mut take = |earliest, cycles| port.take(earliest, cycles, 0.0);
        assert_eq!(take(0.0, 10.0), 0.0);
        assert_eq!(take(50.0, 10.0), 50.0);
        // Before the one that waits, where there is room.
        assert_eq!(take(5.0, 30.0), 10.0);
        assert_eq!(take(0.0, 11.0), 60.0);
        assert_eq!(take(0.0, 10.0), 40.0);
        assert_eq!(take(0.0, 1.0), 71.0);
        assert_eq!(port.taken.len(), 1, "{:?}", port.taken);
    }

    #[test]
    fn parts_take_what_others_leave() {
        let mut port = Port::default();
        assert_eq!(port.take(10.0, 5.0, 0.0), 10.0);
        assert_eq!(port.take(20.0, 5.0, 0.0), 20.0);
        // 8..10, 15..20, 25..28.
        assert_eq!(port.take_parts(8.0, 10.0, 0.0), (8.0, 28.0));
        assert_eq!(port.taken, [(8.0, 28.0)]);
        assert_eq!(port.take_parts(12.0, 3.0, 0.0), (28.0, 31.0));
        assert_eq!(port.take_parts(0.0, 8.0, 0.0), (0.0, 8.0));
        assert_eq!(port.take_parts(40.0, 1.0, 31.0), (40.0, 41.0));
        assert_eq!(port.taken, [(40.0, 41.0)]);
    }
}
