//! Memory that launches use again: what a PE needs while it runs, lent for its turn, and what logs were written in.

use std::sync::{Mutex, PoisonError};

use crate::memory::Log;
use crate::se::Lanes;
use crate::slots::Pool;

/// What one PE needs while it runs.
#[derive(Default, Debug)]
pub(crate) struct Workspace {
    /// Registers of the SE, once a program needs them.
    pub lanes: Option<Lanes>,
    /// Bytes of freed slots.
    pub pool: Pool,
}

/// All workspaces and logs of a machine that are not in use.
#[derive(Default, Debug)]
pub(crate) struct Workspaces {
    spaces: Mutex<Vec<Workspace>>,
    logs: Mutex<Vec<Log>>,
}

impl Workspaces {
    /// Calls `f` with a workspace that nobody else uses meanwhile.
    pub fn lend<T>(&self, f: impl FnOnce(&mut Workspace) -> T) -> T {
        let free = || self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut space = free().pop().unwrap_or_default();
        let result = f(&mut space);
        free().push(space);
        result
    }

    /// An empty log.
    pub fn log(&self) -> Log {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Takes back the memory of logs.
    pub fn recycle(&self, logs: impl Iterator<Item = Log>) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).extend(logs.map(Log::cleared));
    }
}
