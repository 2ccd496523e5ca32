//! Why an instruction begins when it does: the chain of what had to come before it, from the end of the launch before.
//!
//! A time carries what the longest chain of waits up to it is made of. Where several things must be there, the last of them decides, and
//! its chain goes on.

use lacuna_isa::inst::Engine;

/// What a cycle on the longest chain of a launch is spent on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// The command processor issues instructions.
    Issue,
    /// The launch before has ended, and its results become visible.
    Barrier,
    /// Bytes cross the HBM port, its own or those of others before.
    Hbm,
    /// HBM answers.
    HbmLatency,
    /// Bytes cross the port of shared SRAM, its own or those of others before.
    Sram,
    /// Shared SRAM answers.
    SramLatency,
    /// An engine of the PE works.
    Engine(Engine),
}

/// Number of causes.
pub const N_CAUSES: usize = 6 + Engine::ALL.len();

impl Cause {
    /// Every cause, in the order of [`LaunchProfile::path`](super::LaunchProfile::path).
    pub fn all() -> impl Iterator<Item = Cause> {
        let waits =
            [Cause::Issue, Cause::Barrier, Cause::Hbm, Cause::HbmLatency, Cause::Sram, Cause::SramLatency];
        waits.into_iter().chain(Engine::ALL.into_iter().map(Cause::Engine))
    }

    /// The name in reports.
    pub fn name(self) -> String {
        match self {
            Cause::Issue => "issue".to_owned(),
            Cause::Barrier => "barrier".to_owned(),
            Cause::Hbm => "HBM".to_owned(),
            Cause::HbmLatency => "HBM latency".to_owned(),
            Cause::Sram => "SRAM".to_owned(),
            Cause::SramLatency => "SRAM latency".to_owned(),
            Cause::Engine(engine) => engine.name().to_owned(),
        }
    }

    fn index(self) -> usize {
        match self {
            Cause::Issue => 0,
            Cause::Barrier => 1,
            Cause::Hbm => 2,
            Cause::HbmLatency => 3,
            Cause::Sram => 4,
            Cause::SramLatency => 5,
            Cause::Engine(engine) => 6 + super::engine_idx(engine),
        }
    }
}

/// A time in cycles, and what the chain up to it is made of since the launch before ended.
#[derive(Clone, Copy, Default)]
pub(super) struct Moment {
    pub at: f64,
    pub path: [f64; N_CAUSES],
}

impl Moment {
    /// A time that a launch before left; what lies behind `start` is the barrier's.
    pub fn handed(at: f64, start: f64) -> Moment {
        let mut moment = Moment { at: at.min(start), ..Moment::default() };
        moment.advance(Cause::Barrier, at, start);
        moment
    }

    /// The later of two.
    pub fn max(self, other: Moment) -> Moment {
        if other.at > self.at { other } else { self }
    }

    /// Goes on to `at`, if that is later, because of `cause`; what lies before `start` is another launch's.
    pub fn advance(&mut self, cause: Cause, at: f64, start: f64) {
        self.path[cause.index()] += (at.max(start) - self.at.max(start)).max(0.0);
        self.at = self.at.max(at);
    }
}
