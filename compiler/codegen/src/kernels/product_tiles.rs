//! Tiles, loop order and grid of a product, by modelled time.
//!
//! The candidates are few: row and column tiles by halving, the largest chunk of K that fits, columns outside or inside
//! rows. Each is costed with the machine's own timing: DPE cycles, epilogue cycles, bytes over the shared ports with
//! multicast counted once. Ties go to the first candidate, so the choice is deterministic.

use lacuna_isa::object::MemSpace;
use lacuna_isa::timing::{Work, cost};

use super::map::LOCAL_FILL;
use super::problem::{Problem, Role};
use super::product::{epilogue_tile, first_tile, second_tile};
use crate::emit::{KernelBuilder, Tile};
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

/// The best plan for a problem whose kernel stores `result_bytes` for each element of the result.
///
/// # Errors
/// When no tile fits the target's memories.
pub fn choose(problem: &Problem, expr: &Expr, result_bytes: u64, lowering: &Lowering) -> Lowered<Plan> {
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
    best.map(|(_, plan)| plan).ok_or_else(|| {
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
    axes.push(Axis::new("k", k_size, k_size));
    let mut spread = vec![true; n_dims];
    spread.push(false);
    let mut plan = Plan { nest: Nest::distribute(axes, &spread, target.rows, target.cols), chunk: k_size };

    let budget = (target.local_bytes as f64 * LOCAL_FILL) as u64;
    let bytes = |tile: &Tile, pattern| {
        let format = lowering.storages[tile.storage].format;
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
        plan.nest.axes[axis].tile = chunk;
        plan.nest.axes[axis].trip = k_size.div_ceil(chunk);
        let a = first_tile(problem, &plan).0;
        let b = second_tile(problem, &plan).0;
        if a.dims.len() > 5 || b.dims.len() > 5 {
            return None;
        }
        if fixed + 2 * (bytes(&a, None) + bytes(&b, problem.pattern)) <= budget {
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
    let work = Work::Matmul { m, n, k, a: problem.a_format, b: problem.b_format, pattern: problem.pattern };
    let rounds = plan.nest.rounds() as f64;
    let outer = rounds / plan.nest.axes[plan.k_axis()].trip as f64;
    let dpe = rounds * cost(&work, target).cycles as f64;
    let ops = expr.nodes.iter().filter(|(n, _)| matches!(n, ExprNode::Op(..))).count() as u64 + 2;
    let se = outer * cost(&Work::Simd { elements: area, ops, bytes: area * 8 }, target).cycles as f64;
    let mut hbm = 0.0;
    let mut sram = 0.0;
    let mut fi = 0.0;
    for (tile, pattern) in [(&a_tile, None), (&b_tile, problem.pattern)] {
        let tile_bytes = bytes(tile, pattern) as f64;
        let times = fetches(&plan.nest, tile);
        let distinct = distinct_pes(&plan.nest, tile);
        fi += times * tile_bytes;
        let far = times * distinct * tile_bytes;
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
        + rounds * ROUND_CYCLES;
    Some((time, plan))
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
