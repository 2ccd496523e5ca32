//! The event model of one PE.

use std::collections::VecDeque;

use lacuna_isa::inst::{Action, Engine};
use lacuna_isa::object::Buffer;
use lacuna_isa::target::Target;
use lacuna_isa::timing::{Work, cost};

use super::engine_idx;
use super::walk::Step;

/// The times of one slot: when its content is there, and when the last reader of it ends.
#[derive(Clone, Copy, Default)]
struct SlotTimes {
    ready: f64,
    released: f64,
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
/// Loads and stores come in program order, not in order of time: a load that is ready goes before a store that still waits
/// for its data, so an interval is looked for in the gaps too.
#[derive(Default)]
struct Port {
    taken: VecDeque<(f64, f64)>,
}

impl Port {
    /// Takes the first `cycles` in a row from `earliest` on, and returns when they begin. Nothing will ever be asked for
    /// before `past`.
    fn take(&mut self, earliest: f64, cycles: f64, past: f64) -> f64 {
        while self.taken.front().is_some_and(|&(_, end)| end <= past) {
            self.taken.pop_front();
        }
        let mut start = earliest;
        let mut at = self.taken.partition_point(|&(_, end)| end <= earliest);
        while let Some(&(from, end)) = self.taken.get(at)
            && from < start + cycles
        {
            start = end;
            at += 1;
        }
        let (mut from, mut end) = (start, start + cycles);
        // Neighbours that touch become one.
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
        start
    }
}

/// The simulation of one PE, fed step by step.
pub(super) struct Simulation<'t> {
    target: &'t Target,
    n_pes: f64,
    rings: Vec<Ring>,
    queues: [f64; Engine::ALL.len()],
    hbm: Port,
    sram: Port,
    issued: f64,
    end: f64,
    /// Since when each engine has had no power.
    gated: [Option<f64>; Engine::ALL.len()],
    gated_cycles: [f64; Engine::ALL.len()],
    /// The slots of the current step.
    slots: Vec<(usize, usize, Action)>,
}

impl<'t> Simulation<'t> {
    /// A PE among `n_pes` that share the target's ports.
    pub fn new(buffers: &[Buffer], target: &'t Target, n_pes: f64) -> Simulation<'t> {
        let rings = buffers
            .iter()
            .map(|buffer| Ring {
                slots: vec![SlotTimes::default(); usize::from(buffer.slots.max(1))],
                head: 0,
                used: 0,
            })
            .collect();
        Simulation {
            target,
            n_pes,
            rings,
            queues: [0.0; Engine::ALL.len()],
            hbm: Port::default(),
            sram: Port::default(),
            issued: 0.0,
            end: 0.0,
            gated: [None; Engine::ALL.len()],
            gated_cycles: [0.0; Engine::ALL.len()],
            slots: Vec::new(),
        }
    }

    /// The cycle at which the last instruction ends, and for how many each engine had no power.
    pub fn finish(mut self) -> (u64, [u64; Engine::ALL.len()]) {
        let end = self.end.max(self.issued);
        for (total, since) in self.gated_cycles.iter_mut().zip(self.gated) {
            *total += since.map_or(0.0, |since| (end - since).max(0.0));
        }
        (end.ceil() as u64, self.gated_cycles.map(|cycles| cycles as u64))
    }

    /// The next instruction; returns the first cycle and the number of cycles that it occupies its engine.
    pub fn step(&mut self, step: &Step) -> Option<(u64, u64)> {
        let target = self.target;
        self.issued += target.issue_cycles as f64;
        if let Some((engine, on)) = step.gate {
            let engine = engine_idx(engine);
            // Power goes when the queue is empty, and is back when the instruction is issued.
            if on {
                let since = self.gated[engine].take();
                self.gated_cycles[engine] += since.map_or(0.0, |since| (self.issued - since).max(0.0));
            } else if self.gated[engine].is_none() {
                self.gated[engine] = Some(self.issued.max(self.queues[engine]));
            }
        }
        let engine = engine_idx(step.engine);
        let mut start = self.issued;
        self.slots.clear();
        for slot in &step.slots {
            let ring = &mut self.rings[usize::from(slot.buffer)];
            let Some(at) = ring.locate(slot.action, slot.delta) else { continue };
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
            self.slots.push((usize::from(slot.buffer), at, slot.action));
        }
        if step.engine == Engine::Cp {
            // The command processor waits for a parameter before it goes on.
            if let Work::Dma { .. } = step.work() {
                self.issued += target.hbm_latency_cycles as f64;
            }
            return None;
        }
        start = start.max(self.queues[engine]);
        let work = step.work();
        let need = cost(&work, target);
        let mut busy = need.cycles as f64;
        let mut latency = 0.0;
        if let Work::Dma { .. } | Work::Uneven { .. } = work {
            let past = self.queues[engine_idx(Engine::FiLoad)].min(self.queues[engine_idx(Engine::FiStore)]);
            let (port, rate, bytes, delay) = if need.sram_bytes > 0 {
                (&mut self.sram, target.sram_bytes_per_cycle, need.sram_bytes, target.sram_latency_cycles)
            } else {
                (&mut self.hbm, target.hbm_bytes_per_cycle, need.hbm_bytes, target.hbm_latency_cycles)
            };
            if bytes > 0 {
                let occupied = bytes as f64 * self.n_pes / rate;
                // Both queues of the fabric interface go forward only.
                start = port.take(start, occupied, past);
                busy = busy.max(occupied);
                latency = delay as f64;
            }
        }
        self.queues[engine] = start + busy;
        let done = start + busy + latency;
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
        Some((start as u64, busy.ceil() as u64))
    }
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
}
