//! Control flow: a walk over the dynamic instructions of one PE, and the range of counters at each instruction.

use lacuna_isa::inst::InstKind;
use lacuna_isa::object::Kernel;
use lacuna_isa::view::{LOOP_LEVELS, MAX_PARAMS, PE_COORDS, Position, VIEW_DIMS, View};

/// Most dynamic instructions and loop rounds of all walks of one kernel.
const MAX_STEPS: u64 = 1 << 31;
/// Most dynamic instructions of one PE.
pub(super) const MAX_LENGTH: u64 = 1 << 26;

/// Most combinations of parameter values that are walked.
const MAX_VALUES: u64 = 1 << 16;

/// Values of all parameters.
pub(super) type Values = [i32; MAX_PARAMS];

/// The walk was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// The visitor has seen enough.
    Visitor,
    /// Too many dynamic instructions.
    Length,
}

/// What a walk calls.
pub(super) trait Visit {
    /// Sees one dynamic instruction; false ends the walk.
    fn inst(&mut self, pc: usize, at: &Position) -> bool;

    /// Describes all that decides what this visitor does with the instructions to come, their positions aside.
    ///
    /// A round of a loop that begins and ends in the same state, and whose inner loops count alike in every round, stands
    /// for the rounds after it. `None` when a position matters: then no round is left out.
    fn state(&self) -> Option<Vec<usize>> {
        None
    }
}

/// A visitor that sees every round.
struct Each<'v>(&'v mut dyn FnMut(usize, &Position) -> bool);

impl Visit for Each<'_> {
    fn inst(&mut self, pc: usize, at: &Position) -> bool {
        (self.0)(pc, at)
    }
}

/// Most full rounds of one loop whose states are compared: more than a buffer has slots to fill.
const COMPARED_ROUNDS: u64 = 64;

/// The loops of a kernel.
pub(super) struct Control<'k> {
    kernel: &'k Kernel,
    /// For every `loop`, the number of its `end`; for others, their own number.
    ends: Vec<usize>,
    /// For every `loop`, whether the trip count of a loop in it follows its counter.
    varies: Vec<bool>,
    /// For every instruction, the most trips of each level whose loop is open there; 1 for other levels.
    pub counts: Vec<[u32; LOOP_LEVELS]>,
    /// Every combination of values of the parameters that something depends on; `None` when there are too many.
    values: Option<Vec<Values>>,
    steps: u64,
}

/// Every combination of values of the parameters that trip counts or views depend on; others have their least value.
fn values(kernel: &Kernel) -> Option<Vec<Values>> {
    let mut first = [0; MAX_PARAMS];
    first.iter_mut().zip(&kernel.params).for_each(|(value, param)| *value = param.lo);
    let mut all = vec![first];
    for (i, param) in kernel.params.iter().enumerate() {
        let in_trips = kernel.trips.iter().filter_map(|t| t.param).any(|t| usize::from(t.param) == i);
        let in_views = kernel.views.iter().filter_map(|v| v.shift).any(|s| usize::from(s.param) == i);
        if !in_trips && !in_views {
            continue;
        }
        let range = u64::from(param.hi.abs_diff(param.lo)) + 1;
        if range.checked_mul(all.len() as u64).is_none_or(|n| n > MAX_VALUES) {
            return None;
        }
        let with = |values: &Values| {
            let values = *values;
            (param.lo..=param.hi).map(move |value| {
                let mut values = values;
                values[i] = value;
                values
            })
        };
        all = all.iter().flat_map(with).collect();
    }
    Some(all)
}

impl<'k> Control<'k> {
    /// The loops of a valid kernel.
    pub fn new(kernel: &'k Kernel) -> Control<'k> {
        let mut ends: Vec<usize> = (0..kernel.code.len()).collect();
        let mut varies = vec![false; ends.len()];
        let mut counts = Vec::with_capacity(ends.len());
        let mut open: Vec<(usize, usize, u32)> = Vec::new();
        for (pc, inst) in kernel.code.iter().enumerate() {
            let mut here = [1; LOOP_LEVELS];
            for &(_, level, max) in &open {
                here[level] = max;
            }
            counts.push(here);
            if let InstKind::End {} = inst.kind
                && let Some((start, ..)) = open.pop()
            {
                ends[start] = pc;
            }
            if let InstKind::Loop { trip, level, .. } = inst.kind {
                let trip = &kernel.trips[usize::from(trip)];
                for &(start, outer, _) in &open {
                    varies[start] |= trip.levels[outer] != 0;
                }
                open.push((pc, usize::from(level), trip.max));
            }
        }
        Control { kernel, ends, varies, counts, values: values(kernel), steps: 0 }
    }

    /// Every combination of parameter values that a launch may run with; `None` when there are too many to walk.
    pub fn values(&self) -> Option<&[Values]> {
        self.values.as_deref()
    }

    /// One of [`Control::values`] for every set of trip counts.
    pub fn values_of_trips(&self) -> Vec<Values> {
        let mut seen = std::collections::BTreeSet::new();
        let terms = |params: &Values| -> Vec<i64> {
            let at = Position { params: *params, ..Position::default() };
            self.kernel.trips.iter().filter_map(|t| t.param).map(|term| term.value(&at)).collect()
        };
        let all = self.values.iter().flatten().copied();
        all.filter(|params| seen.insert(terms(params))).collect()
    }

    /// The most dynamic instructions that a PE can execute.
    pub fn longest(&self) -> u64 {
        let times = |counts: &[u32; LOOP_LEVELS]| -> u64 {
            counts.iter().fold(1, |n: u64, &count| n.saturating_mul(u64::from(count)))
        };
        self.counts.iter().map(times).fold(0, u64::saturating_add)
    }

    /// Calls `visit` for every dynamic instruction of the PE at `coords`, with these parameters, whose entry in `wanted` is
    /// set, in program order.
    ///
    /// # Errors
    /// When the visitor returns false, or the walk is too long.
    pub fn walk(
        &mut self,
        coords: [u32; PE_COORDS],
        params: &Values,
        wanted: &[bool],
        visit: &mut dyn FnMut(usize, &Position) -> bool,
    ) -> Result<(), Stop> {
        self.walk_rounds(coords, params, wanted, &mut Each(visit))
    }

    /// Walks as [`Control::walk`] does, without the rounds that [`Visit::state`] shows to repeat the one before.
    ///
    /// # Errors
    /// When the visitor returns false, or the walk is too long.
    pub fn walk_rounds(
        &mut self,
        coords: [u32; PE_COORDS],
        params: &Values,
        wanted: &[bool],
        visit: &mut dyn Visit,
    ) -> Result<(), Stop> {
        // Loops without wanted instructions are skipped whole.
        let mut sums = vec![0usize; wanted.len() + 1];
        for (pc, &w) in wanted.iter().enumerate() {
            sums[pc + 1] = sums[pc] + usize::from(w);
        }
        let mut at = Position { levels: [0; LOOP_LEVELS], coords, params: *params };
        let mut pc = 0;
        while pc < self.ends.len() {
            self.item(pc, wanted, &sums, &mut at, visit)?;
            pc = self.ends[pc] + 1;
        }
        Ok(())
    }

    fn item(
        &mut self,
        pc: usize,
        wanted: &[bool],
        sums: &[usize],
        at: &mut Position,
        visit: &mut dyn Visit,
    ) -> Result<(), Stop> {
        let InstKind::Loop { trip, level, stages } = self.kernel.code[pc].kind else {
            self.step()?;
            return if !wanted[pc] || visit.inst(pc, at) { Ok(()) } else { Err(Stop::Visitor) };
        };
        let end = self.ends[pc];
        if sums[end] == sums[pc] {
            return Ok(());
        }
        let trips = u64::from(self.kernel.trips[usize::from(trip)].count(at));
        let ramp = u64::from(stages) - 1;
        let rounds = if trips == 0 { 0 } else { trips + ramp };
        let level = usize::from(level);
        let before = at.levels[level];
        // Every stage takes part in the rounds from `ramp` until `trips`.
        let compared =
            if self.varies[pc] { 0..0 } else { ramp..trips.saturating_sub(1).min(ramp + COMPARED_ROUNDS) };
        let mut state = None;
        let mut round = 0;
        while round < rounds {
            self.step()?;
            if compared.contains(&round) && state.is_none() {
                state = visit.state();
            }
            let mut inner = pc + 1;
            while inner < end {
                let stage = u64::from(self.kernel.code[inner].stage);
                if round >= stage && round - stage < trips {
                    at.levels[level] = (round - stage) as u32;
                    self.item(inner, wanted, sums, at, visit)?;
                }
                inner = self.ends[inner] + 1;
            }
            let mut next = round + 1;
            if compared.contains(&round) && state.is_some() {
                let after = visit.state();
                if after == state {
                    next = trips;
                }
                state = after;
            }
            round = next;
        }
        at.levels[level] = before;
        Ok(())
    }

    fn step(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        if self.steps > MAX_STEPS { Err(Stop::Length) } else { Ok(()) }
    }

    /// Least and greatest coordinate of index 0 of each dimension of `view` at instruction `pc`, over all PEs.
    pub fn base_range(&self, pc: usize, view: &View) -> [(i64, i64); VIEW_DIMS] {
        let mut range = view.dims.map(|d| (i64::from(d.origin), i64::from(d.origin)));
        let levels = view.levels.iter().zip(self.counts[pc]);
        let coords = view.coords.iter().zip(self.kernel.grid.map(u32::from));
        for (advance, n) in levels.chain(coords) {
            if let Some(advance) = advance {
                let reach = i64::from(advance.step) * i64::from(n.saturating_sub(1));
                let (low, high) = &mut range[usize::from(advance.dim)];
                *low += reach.min(0);
                *high += reach.max(0);
            }
        }
        if let Some(shift) = view.shift {
            let (least, most) = self.reach(shift.param, shift.origin);
            let (low, high) = &mut range[usize::from(shift.dim)];
            *low += least;
            *high += most;
        }
        range
    }

    /// Least and greatest `factor * value` of a parameter.
    fn reach(&self, param: u8, factor: i32) -> (i64, i64) {
        let param = &self.kernel.params[usize::from(param)];
        let ends = [param.lo, param.hi].map(|value| i64::from(value) * i64::from(factor));
        (ends[0].min(ends[1]), ends[0].max(ends[1]))
    }

    /// Least and greatest bound of dimension `d` of `view`, over all values of parameters.
    fn bound_range(&self, view: &View, d: usize) -> (i64, i64) {
        let bound = i64::from(view.dims[d].bound);
        let moved = view.shift.filter(|shift| usize::from(shift.dim) == d);
        let (least, most) = moved.map_or((0, 0), |shift| self.reach(shift.param, shift.bound));
        ((bound + least).max(0), (bound + most).max(0))
    }

    /// Least and greatest coordinate that takes part in each dimension at `pc`, over all PEs; `None` when none does.
    pub fn coordinate_range(&self, pc: usize, view: &View) -> Option<[(i64, i64); VIEW_DIMS]> {
        let mut range = self.base_range(pc, view);
        for (d, (r, dim)) in range.iter_mut().zip(&view.dims).enumerate() {
            r.0 = r.0.max(0);
            r.1 = (r.1 + i64::from(dim.size)).min(self.bound_range(view, d).1) - 1;
            if r.1 < r.0 {
                return None;
            }
        }
        Some(range)
    }

    /// Whether dimension `d` of `view` is never clipped at `pc`.
    pub fn never_clips(&self, pc: usize, view: &View, d: usize) -> bool {
        let (low, high) = self.base_range(pc, view)[d];
        low >= 0 && high + i64::from(view.dims[d].size) <= self.bound_range(view, d).0
    }
}
