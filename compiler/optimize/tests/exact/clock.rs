//! Time that one thread has spent on a processor: on a shared machine, the clock on the wall says little.

use std::fs;
use std::time::{Duration, Instant};

/// A start.
pub struct Clock {
    cpu: Option<Duration>,
    wall: Instant,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Clock {
        Clock { cpu: cpu(), wall: Instant::now() }
    }

    /// Milliseconds since the start: of this thread where the system tells, else by the clock on the wall.
    pub fn ms(&self) -> f64 {
        let spent = match (self.cpu, cpu()) {
            (Some(before), Some(now)) => now - before,
            (Some(_), None) | (None, _) => self.wall.elapsed(),
        };
        spent.as_secs_f64() * 1e3
    }
}

fn cpu() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
