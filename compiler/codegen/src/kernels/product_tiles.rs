//! Tiles, loop order and grid of a product, by modelled time.
//!
//! The candidates are few: row and column tiles by halving, the largest chunk of K that fits, columns outside or inside
//! rows. Each is costed with the machine's own timing: DPE cycles, epilogue cycles, bytes over the shared ports with
//! multicast counted once. Ties go to the first candidate, so the choice is deterministic.

use lacuna_isa::object::MemSpace;
use lacuna_isa::timing::{Work, cost};

use super::map::LOCAL_FILL;
use super::problem::{PANEL, Problem, Role, Second};
use super::product::{epilogue_tile, first_tile, second_tile};
use super::sparse::{ASSUMED_ACTIVITY, Form};
use crate::emit::{KernelBuilder, STAGED_SLOTS, Tile};
use crate::expr::{Expr, ExprNode};
use crate::lower::{Lowered, Lowering};
use crate::nest::{Axis, Nest};
use crate::place::StorageKind;

/// The chosen tiles: one axis per result dimension in the problem's order, then the axis of K.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Axes and grid.
    pub nest: Nest,
    /// Elements of the cut summed dimension in one step.
    pub chunk: u64,
}

impl Plan {
    /// Number of the axis of K.
    pub fn k_axis(&self) -> usize {
        self.nest.axes.len() - 1
    }

    /// Elements of the cut summed dimension for each step of the axis of K.
    pub fn k_unit(problem: &Problem) -> u64 {
        problem.flags.as_ref().map_or(1, |flags| flags.k)
    }

    /// Elements of summed dimension `i` in one step.
    pub fn chunk_of(&self, problem: &Problem, i: usize) -> u64 {
        if i == problem.chunk.0 { self.chunk } else { problem.summed[i].size }
    }

    fn extent(&self, problem: &Problem, role: Role) -> u64 {
        (0..problem.dims.len())
            .filter(|&d| problem.dims[d].role == role)
            .map(|d| self.nest.axes[d].tile * problem.unit(d))
            .product()
    }

    /// Rows of one tile.
    pub fn rows(&self, problem: &Problem) -> u64 {
        self.extent(problem, Role::Row)
    }

    /// Columns of one tile.
    pub fn columns(&self, problem: &Problem) -> u64 {
        self.extent(problem, Role::Column)
    }
}

/// The best plan for a problem whose kernel stores `result_bytes` for each element of the result, and its modelled time.
///
/// # Errors
/// When no tile fits the target's memories.
pub fn choose(
    problem: &Problem,
    expr: &Expr,
    result_bytes: u64,
    lowering: &Lowering,
) -> Lowered<(f64, Plan)> {
    let n_dims = problem.dims.len();
    let mut options: Vec<Vec<u64>> = Vec::new();
    for (d, dim) in problem.dims.iter().enumerate() {
        let size = dim.space.size.div_ceil(problem.unit(d));
        options.push(match dim.role {
            Role::Batch => vec![1],
            Role::Row => halves(size, 1, MAX_ROWS),
            Role::Column => halves(size, 1, MAX_COLUMNS / problem.unit(d)),
        });
    }
    let mut best: Option<(f64, Plan)> = None;
    let mut pick = vec![0usize; n_dims];
    loop {
        let tiles: Vec<u64> = pick.iter().zip(&options).map(|(&p, o)| o[p]).collect();
        if let Some((time, plan)) = evaluate(problem, expr, result_bytes, lowering, &tiles)
            && best.as_ref().is_none_or(|(t, _)| time < *t)
        {
            best = Some((time, plan));
        }
        let Some(d) = (0..n_dims).find(|&d| pick[d] + 1 < options[d].len()) else { break };
        pick[d] += 1;
        pick[..d].fill(0);
    }
    best.ok_or_else(|| {
        format!(
            "no tile of the product fits the local memory of a PE ({} bytes) and five view dimensions",
            lowering.target.local_bytes
        )
    })
}

const MAX_ROWS: u64 = 1024;
const MAX_COLUMNS: u64 = 512;
/// Cycles that a round costs besides its work: issue, latencies that overlap only partly.
const ROUND_CYCLES: f64 = 200.0;

/// `size` and its halves, rounded up, from at most `max` down to `min`.
fn halves(size: u64, min: u64, max: u64) -> Vec<u64> {
    let mut all = Vec::new();
    let mut n = size.max(1);
    loop {
        if n <= max.max(1) {
            all.push(n);
        }
        if n <= min || all.len() >= 8 {
            return all;
        }
        n = n.div_ceil(2);
    }
}

fn evaluate(
    problem: &Problem,
    expr: &Expr,
    result_bytes: u64,
    lowering: &Lowering,
    tiles: &[u64],
) -> Option<(f64, Plan)> {
    let target = lowering.target;
    let n_dims = problem.dims.len();
    let unit = |d: usize| problem.unit(d);
    let area: u64 =
        (0..n_dims).filter(|&d| problem.dims[d].role != Role::Batch).map(|d| tiles[d] * unit(d)).product();
    if area * 4 > target.bank_bytes {
        return None;
    }
    const NAMES: [&str; 8] = ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7"];
    let mut axes: Vec<Axis> = (0..n_dims)
        .map(|d| Axis::new(NAMES[d.min(7)], problem.dims[d].space.size.div_ceil(unit(d)), tiles[d]))
        .collect();
    let (cut, multiple) = problem.chunk;
    let k_size = problem.summed[cut].size;
    let k_unit = Plan::k_unit(problem);
    axes.push(Axis::new("k", k_size / k_unit, k_size / k_unit));
    let mut spread = vec![true; n_dims];
    spread.push(false);
    let mut plan = Plan { nest: Nest::distribute(axes, &spread, target.rows, target.cols), chunk: k_size };

    let budget = (target.local_bytes as f64 * LOCAL_FILL) as u64;
    let bytes = |tile: &Tile, pattern| {
        let format = lowering.storages[tile.storage].slot;
        KernelBuilder::slot_bytes(format, pattern, tile.elements())
    };
    let mut fixed = area * 2 * result_bytes;
    for (i, leaf) in expr.leaves.iter().enumerate() {
        fixed += 2 * bytes(&epilogue_tile(problem, &plan, leaf.place.storage, 0, i + 1, false).0, None);
    }
    // The largest chunk of K that fits, in equal parts.
    let mut parts = 1;
    let (a_tile, b_tile) = loop {
        let chunk = k_size.div_ceil(parts).next_multiple_of(multiple).min(k_size);
        let axis = plan.k_axis();
        plan.chunk = chunk;
        plan.nest.axes[axis].tile = chunk / k_unit;
        plan.nest.axes[axis].trip = k_size.div_ceil(chunk);
        let a = first_tile(problem, &plan).0;
        let b = second_tile(problem, &plan).0;
        if a.dims.len() > 5 || b.dims.len() > 5 {
            return None;
        }
        let a_slots = if problem.form == Form::Active { STAGED_SLOTS } else { 2 };
        let flags = match problem.form {
            Form::Active => 2 * chunk,
            Form::Blocks => 2 * b.elements() / (PANEL * k_unit),
            Form::Dense | Form::Pattern(_) | Form::Compressed => 0,
        };
        let slots = u64::from(a_slots) * bytes(&a, None) + 2 * bytes(&b, problem.form.pattern());
        if fixed + slots + flags <= budget {
            break (a, b);
        }
        if chunk <= multiple {
            return None;
        }
        parts = if k_size.div_ceil(parts + 1) < chunk { parts + 1 } else { parts * 2 };
    };
    if !plan.nest.fits() || epilogue_tile(problem, &plan, problem.a.storage, 0, 0, true).0.dims.len() > 5 {
        return None;
    }

    let (m, n) = (plan.rows(problem), plan.columns(problem));
    let k: u64 = (0..problem.summed.len()).map(|i| plan.chunk_of(problem, i)).product();
    let work = Work::Matmul {
        m,
        n,
        k,
        a: problem.a_format,
        b: problem.b_format,
        pattern: problem.form.pattern(),
        actions: None,
    };
    let zeros = Zeros::of(problem, m, lowering);
    let rounds = plan.nest.rounds() as f64;
    let outer = rounds / plan.nest.axes[plan.k_axis()].trip as f64;
    let dpe = rounds * cost(&work, target).cycles as f64 * zeros.steps;
    let ops = expr.nodes.iter().filter(|(n, _)| matches!(n, ExprNode::Op(..))).count() as u64 + 2;
    let se = outer * cost(&Work::Simd { elements: area, ops, bytes: area * 8 }, target).cycles as f64;
    let mut hbm = 0.0;
    let mut sram = 0.0;
    let mut fi = 0.0;
    for (tile, pattern, second) in [(&a_tile, None, false), (&b_tile, problem.form.pattern(), true)] {
        let tile_bytes = bytes(tile, pattern) as f64;
        let times = fetches(&plan.nest, tile);
        let apart = second && problem.form == Form::Active;
        let distinct = if apart { plan.nest.n_pes() as f64 } else { distinct_pes(&plan.nest, tile) };
        let [near, far] = if second { [zeros.near, zeros.far] } else { [1.0, 1.0] };
        fi += times * tile_bytes * near;
        let far = times * distinct * tile_bytes * far;
        match space_of(&lowering.storages[tile.storage].kind) {
            MemSpace::Sram => sram += far,
            MemSpace::Weights | MemSpace::Hbm => hbm += far,
        }
    }
    let time = dpe
        .max(se)
        .max(fi / target.local_bytes_per_cycle)
        .max(hbm / target.hbm_bytes_per_cycle)
        .max(sram / target.sram_bytes_per_cycle)
        + rounds * (ROUND_CYCLES + zeros.round_cycles);
    Some((time, plan))
}

/// Cycles of a round in which flags are made before rows are loaded.
const FLAG_CYCLES: f64 = 50.0;

/// What zeros leave of a product by panels, as shares of the dense one.
struct Zeros {
    /// Steps of the DPE.
    steps: f64,
    /// Bytes written to local memory for each byte of a slot.
    near: f64,
    /// Bytes over the far port for each byte of a slot.
    far: f64,
    /// Cycles that each round takes more.
    round_cycles: f64,
}

impl Zeros {
    /// Of a problem in tiles of `rows` rows.
    fn of(problem: &Problem, rows: u64, lowering: &Lowering) -> Zeros {
        let Second::Panels(place) = &problem.b else {
            return Zeros { steps: 1.0, near: 1.0, far: 1.0, round_cycles: 0.0 };
        };
        let storage = &lowering.storages[place.storage];
        let dense = KernelBuilder::slot_bytes(storage.slot, storage.pattern, storage.elements);
        let stored = storage.bytes() as f64 / dense.max(1) as f64;
        match problem.form {
            Form::Dense | Form::Pattern(_) => {
                Zeros { steps: 1.0, near: stored, far: stored, round_cycles: 0.0 }
            }
            Form::Compressed => Zeros { steps: 1.0, near: 1.0, far: stored, round_cycles: 0.0 },
            Form::Blocks => {
                let steps = problem.flags.as_ref().map_or(1.0, |f| f.n_set as f64 / f.n_flags.max(1) as f64);
                Zeros { steps, near: 1.0, far: stored, round_cycles: 0.0 }
            }
            Form::Active => {
                // A k is needed when it is active in any row.
                let idle = (1.0 - ASSUMED_ACTIVITY).powf(rows as f64);
                let share = 1.0 - idle;
                Zeros { steps: share, near: stored * share, far: stored * share, round_cycles: FLAG_CYCLES }
            }
        }
    }
}

/// Where a storage will most likely lie: intermediates in shared SRAM, all else in HBM.
fn space_of(kind: &StorageKind) -> MemSpace {
    match kind {
        StorageKind::Temp => MemSpace::Sram,
        StorageKind::Const(..) | StorageKind::Input(_) | StorageKind::Output(_) => MemSpace::Hbm,
    }
}

/// How often one PE fetches a tile: once per iteration of the loops down to the innermost one that moves it.
fn fetches(nest: &Nest, tile: &Tile) -> f64 {
    let moves = |a: usize| tile.dims.iter().any(|d| d.axis.is_some_and(|(axis, _)| axis == a));
    let deepest = (0..nest.axes.len()).rev().find(|&a| nest.axes[a].trip > 1 && moves(a));
    deepest.map_or(1.0, |a| nest.axes[..=a].iter().map(|x| x.trip as f64).product())
}

/// Number of PEs that want different boxes; the others share by multicast, which goes along whole rows or columns only.
fn distinct_pes(nest: &Nest, tile: &Tile) -> f64 {
    let moves = |a: usize| tile.dims.iter().any(|d| d.axis.is_some_and(|(axis, _)| axis == a));
    let mut distinct = 1.0;
    for coords in [0..2, 2..4] {
        let moved =
            (0..nest.axes.len()).any(|a| moves(a) && nest.axes[a].pes[coords.clone()].iter().any(|&p| p > 1));
        if moved {
            distinct *= nest.grid[coords].iter().map(|&g| f64::from(g)).product::<f64>();
        }
    }
    distinct
}
