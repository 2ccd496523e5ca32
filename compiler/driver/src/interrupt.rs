//! What a signal that ends the process must not leave behind: the file that is being written.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The file under its temporary name, from before it exists until it has been renamed.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Holds signals back while a file appears or gets its name.
pub struct Held(MutexGuard<'static, Option<PathBuf>>);

/// Holds signals back until the result is dropped.
pub fn hold() -> Held {
    Held(UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Held {
    /// Says what is to be removed from now on.
    pub fn set(&mut self, path: Option<&Path>) {
        *self.0 = path.map(Path::to_owned);
    }
}

/// Has signals that end a process remove its unfinished file first. A signal that the parent had ignored, as `nohup` does, stays
/// ignored. A file that grows beyond the limit of its size is no end: writing fails, and says so.
#[cfg(unix)]
pub fn guard() {
    use std::sync::Arc;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;

    // A flag that nobody reads: with a handler, the system call returns an error.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    let ignored = ignored();
    let wanted = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|s| (ignored >> (s - 1)) & 1 == 0);
    // Without it a signal ends the process as it always does.
    let Ok(mut signals) = Signals::new(wanted) else { return };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let held = hold();
            if let Some(path) = &*held.0 {
                // Nobody is left to be told.
                let _ = std::fs::remove_file(path);
            }
            let _ = emulate_default_handler(signal);
        }
    });
}

/// See the other definition: there are no such signals.
#[cfg(not(unix))]
pub fn guard() {}

/// The signals that the process ignores, signal n in bit n - 1; none where the system does not say.
#[cfg(unix)]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
