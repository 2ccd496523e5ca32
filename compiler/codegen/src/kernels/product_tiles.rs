//! Tiles, loop order and grid of a product, by modelled time.
//!
//! The candidates are few: row and column tiles by halving, the largest chunk of K that fits, columns outside or inside
//! rows. Each is costed with the machine's own timing: DPE cycles, epilogue cycles, bytes over the shared ports with
//! multicast counted once. Ties go to the first candidate, so the choice is deterministic.

use super::map::LOCAL_FILL;
use super::problem::{Problem, Role};
use super::product_views::epilogue_tile;
use super::product_time::{Stored, Time};
use crate::expr::Expr;
use crate::lower::{Lowered, Lowering};
use crate::nest::{Axis, Nest};

/// The chosen tiles: one axis per result dimension in the problem's order, then the axis of K.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Axes and grid.
    pub nest: Nest,
    /// Elements of the cut summed dimension in one step.
    pub chunk: u64,
    /// Slots of operands that are loaded in the innermost loop.
    pub slots: u8,
    /// Pieces in which a tile of the result leaves its bank.
    pub pieces: u64,
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

    /// The dimension along which a tile of the result is cut: the rows that are most.
    pub fn cut(&self, problem: &Problem) -> Option<usize> {
        let rows = (0..problem.dims.len()).filter(|&d| problem.dims[d].role == Role::Row);
        rows.max_by_key(|&d| (self.nest.axes[d].tile, std::cmp::Reverse(d)))
    }

    /// In how many pieces a tile of `bytes` leaves its bank: so many that a piece is small, in equal numbers of rows.
    fn pieces_of(&self, problem: &Problem, bytes: u64) -> u64 {
        let rows = self.cut(problem).map_or(1, |d| self.nest.axes[d].tile);
        let divides = |p: &u64| rows.is_multiple_of(*p);
        (1..=rows.min(MAX_PIECES)).filter(divides).find(|p| bytes / p <= PIECE_BYTES).unwrap_or(1)
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

/// The best plan for a problem whose kernel stores its result as `result` says, and its modelled time.
///
/// # Errors
/// When no tile fits the target's memories.
pub fn choose(
    problem: &Problem,
    expr: &Expr,
    result: &Stored,
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
        if let Some((time, plan)) = evaluate(problem, expr, result, lowering, &tiles)
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

/// Bytes of a result that leave a bank at once, if rows allow it.
const PIECE_BYTES: u64 = 16 << 10;
/// Each piece takes instructions of its own.
const MAX_PIECES: u64 = 16;
const MAX_ROWS: u64 = 1024;
const MAX_COLUMNS: u64 = 512;

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
    result: &Stored,
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
    let mut plan = Plan { nest: Nest::distribute(axes, &spread, target.rows, target.cols), chunk: k_size, slots: SLOTS[0], pieces: 1 };
    plan.pieces = plan.pieces_of(problem, area * result.element_bytes);

    let budget = (target.local_bytes as f64 * LOCAL_FILL) as u64;
    if epilogue_tile(problem, &plan, problem.a.storage, 0, 0, true).0.dims.len() > 5 {
        return None;
    }
    // The largest chunks of K that fit, in equal parts: a shorter one has more rounds, but more of them fit at a time.
    let mut best: Option<(f64, Plan)> = None;
    let (mut parts, mut n_fitting) = (1, 0);
    while n_fitting < MAX_CHUNKS {
        let chunk = k_size.div_ceil(parts).next_multiple_of(multiple).min(k_size);
        let axis = plan.k_axis();
        plan.chunk = chunk;
        plan.nest.axes[axis].tile = chunk / k_unit;
        plan.nest.axes[axis].trip = k_size.div_ceil(chunk);
        let time = Time::of(problem, expr, result, area, lowering, &plan)?;
        if plan.nest.fits() && time.slot_bytes(2) <= budget {
            n_fitting += 1;
            for slots in SLOTS.into_iter().filter(|&s| time.slot_bytes(u64::from(s)) <= budget) {
                let cycles = time.cycles(slots);
                if best.as_ref().is_none_or(|(known, _)| cycles < *known) {
                    best = Some((cycles, Plan { slots, ..plan.clone() }));
                }
            }
        }
        if chunk <= multiple {
            break;
        }
        parts = match n_fitting {
            0 if k_size.div_ceil(parts + 1) < chunk => parts + 1,
            _ => parts * 2,
        };
    }
    best
}

/// Chunks of K that are tried for each tile, from the largest that fits.
const MAX_CHUNKS: usize = 3;
/// Slots of a buffer that is filled in the innermost loop.
const SLOTS: [u8; 4] = [2, 3, 4, 8];
