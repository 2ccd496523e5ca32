//! Control flow: a walk over the dynamic instructions of one PE, and the range of counters at each instruction.

use lacuna_isa::inst::InstKind;
use lacuna_isa::object::Kernel;
use lacuna_isa::view::{LOOP_LEVELS, PE_COORDS, Position, VIEW_DIMS, View};

/// Most dynamic instructions and loop rounds of all walks of one kernel.
const MAX_STEPS: u64 = 1 << 31;
/// Most dynamic instructions of one PE.
pub(super) const MAX_LENGTH: u64 = 1 << 26;

/// The walk was given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// The visitor has seen enough.
    Visitor,
    /// Too many dynamic instructions.
    Length,
}

/// The loops of a kernel.
pub(super) struct Control<'k> {
    kernel: &'k Kernel,
    /// For every `loop`, the number of its `end`; for others, their own number.
    ends: Vec<usize>,
    /// For every instruction, the most trips of each level whose loop is open there; 1 for other levels.
    pub counts: Vec<[u32; LOOP_LEVELS]>,
    steps: u64,
}

impl<'k> Control<'k> {
    /// The loops of a valid kernel.
    pub fn new(kernel: &'k Kernel) -> Control<'k> {
        let mut ends: Vec<usize> = (0..kernel.code.len()).collect();
        let mut counts = Vec::with_capacity(ends.len());
        let mut open: Vec<(usize, usize, u32)> = Vec::new();
        for (pc, inst) in kernel.code.iter().enumerate() {
            if let InstKind::End {} = inst.kind
                && let Some((start, ..)) = open.pop()
            {
                ends[start] = pc;
            }
            let mut here = [1; LOOP_LEVELS];
            for &(_, level, max) in &open {
                here[level] = max;
            }
            counts.push(here);
            if let InstKind::Loop { trip, level, .. } = inst.kind {
                open.push((pc, usize::from(level), kernel.trips[usize::from(trip)].max));
            }
        }
        Control { kernel, ends, counts, steps: 0 }
    }

    /// The most dynamic instructions that a PE can execute.
    pub fn longest(&self) -> u64 {
        let times = |counts: &[u32; LOOP_LEVELS]| -> u64 {
            counts.iter().fold(1, |n: u64, &count| n.saturating_mul(u64::from(count)))
        };
        self.counts.iter().map(times).fold(0, u64::saturating_add)
    }

    /// Calls `visit` for every dynamic instruction of the PE at `coords` whose entry in `wanted` is set, in program order.
    ///
    /// # Errors
    /// When the visitor returns false, or the walk is too long.
    pub fn walk(
        &mut self,
        coords: [u32; PE_COORDS],
        wanted: &[bool],
        visit: &mut dyn FnMut(usize, &Position) -> bool,
    ) -> Result<(), Stop> {
        // Loops without wanted instructions are skipped whole.
        let mut sums = vec![0usize; wanted.len() + 1];
        for (pc, &w) in wanted.iter().enumerate() {
            sums[pc + 1] = sums[pc] + usize::from(w);
        }
        let mut at = Position { levels: [0; LOOP_LEVELS], coords };
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
        visit: &mut dyn FnMut(usize, &Position) -> bool,
    ) -> Result<(), Stop> {
        let InstKind::Loop { trip, level, stages } = self.kernel.code[pc].kind else {
            self.step()?;
            return if !wanted[pc] || visit(pc, at) { Ok(()) } else { Err(Stop::Visitor) };
        };
        let end = self.ends[pc];
        if sums[end] == sums[pc] {
            return Ok(());
        }
        let trips = u64::from(self.kernel.trips[usize::from(trip)].count(&at.levels, &at.coords));
        let rounds = if trips == 0 { 0 } else { trips + u64::from(stages) - 1 };
        let level = usize::from(level);
        let before = at.levels[level];
        for round in 0..rounds {
            self.step()?;
            let mut inner = pc + 1;
            while inner < end {
                let stage = u64::from(self.kernel.code[inner].stage);
                if round >= stage && round - stage < trips {
                    at.levels[level] = (round - stage) as u32;
                    self.item(inner, wanted, sums, at, visit)?;
                }
                inner = self.ends[inner] + 1;
            }
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
        range
    }

    /// Least and greatest coordinate that takes part in each dimension at `pc`, over all PEs; `None` when none does.
    pub fn coordinate_range(&self, pc: usize, view: &View) -> Option<[(i64, i64); VIEW_DIMS]> {
        let mut range = self.base_range(pc, view);
        for (r, dim) in range.iter_mut().zip(&view.dims) {
            r.0 = r.0.max(0);
            r.1 = (r.1 + i64::from(dim.size)).min(i64::from(dim.bound)) - 1;
            if r.1 < r.0 {
                return None;
            }
        }
        Some(range)
    }

    /// Whether dimension `d` of `view` is never clipped at `pc`.
    pub fn never_clips(&self, pc: usize, view: &View, d: usize) -> bool {
        let (low, high) = self.base_range(pc, view)[d];
        low >= 0 && high + i64::from(view.dims[d].size) <= i64::from(view.dims[d].bound)
    }
}
