//! The event model of one PE.

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

/// Simulates one PE; returns the cycle at which its last instruction ends. `trace` gets every occupation of an engine.
pub(super) fn simulate(
    steps: &[Step],
    buffers: &[Buffer],
    target: &Target,
    n_pes: f64,
    mut trace: impl FnMut(&Step, u64, u64),
) -> u64 {
    let mut rings: Vec<Ring> = buffers
        .iter()
        .map(|buffer| Ring {
            slots: vec![SlotTimes::default(); usize::from(buffer.slots.max(1))],
            head: 0,
            used: 0,
        })
        .collect();
    let mut queues = [0f64; Engine::ALL.len()];
    let (mut hbm, mut sram) = (0f64, 0f64);
    let mut issued = 0f64;
    let mut end = 0f64;
    for step in steps {
        issued += target.issue_cycles as f64;
        let engine = engine_idx(step.engine);
        let mut start = issued;
        let mut slots = Vec::with_capacity(step.slots.len());
        for slot in &step.slots {
            let ring = &mut rings[usize::from(slot.buffer)];
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
            slots.push((usize::from(slot.buffer), at, slot.action));
        }
        if step.engine == Engine::Cp {
            continue;
        }
        start = start.max(queues[engine]);
        let work = step.work();
        let need = cost(&work, target);
        let mut busy = need.cycles as f64;
        let mut latency = 0.0;
        if let Work::Dma { .. } | Work::Uneven { .. } = work {
            let (port, rate, bytes, delay) = if need.sram_bytes > 0 {
                (&mut sram, target.sram_bytes_per_cycle, need.sram_bytes, target.sram_latency_cycles)
            } else {
                (&mut hbm, target.hbm_bytes_per_cycle, need.hbm_bytes, target.hbm_latency_cycles)
            };
            if bytes > 0 {
                let occupied = bytes as f64 * n_pes / rate;
                start = start.max(*port);
                *port = start + occupied;
                busy = busy.max(occupied);
                latency = delay as f64;
            }
        }
        queues[engine] = start + busy;
        let done = start + busy + latency;
        end = end.max(done);
        trace(step, start as u64, busy.ceil() as u64);
        for (buffer, at, action) in slots {
            let times = &mut rings[buffer].slots[at];
            match action {
                Action::Push => *times = SlotTimes { ready: done, released: done },
                Action::Read | Action::Pop => times.released = times.released.max(done),
                Action::Update => {
                    times.ready = done;
                    times.released = times.released.max(done);
                }
            }
        }
    }
    end.max(issued).ceil() as u64
}
