//! Tiles, loop order and grid of a product, by modelled time.
//!
//! The candidates are few: row and column tiles by halving, the largest chunk of K that fits, columns outside or inside
//! rows. Each is costed with the machine's own timing: DPE cycles, epilogue cycles, bytes over the shared ports with
//! multicast counted once. Ties go to the first candidate, so the choice is deterministic.

use lacuna_isa::view::PE_COORDS;

use super::problem::{BlockFlags, Counts, Problem, Role, Second};
use super::product_plan::Plan;
use super::product_time::{Stored, Time};
use super::product_views::epilogue_tile;
use crate::emit::STAGED_SLOTS;
use crate::expr::Expr;
use crate::lower::Lowering;
use crate::nest::{Axis, GridCost, Nest};
use crate::refusal::{Lowered, Refusal};

/// The best plan for a problem whose kernel stores its result as `result` says, and its modelled time.
///
/// # Errors
/// When no tile fits the target's memories.
pub fn choose(problem: &Problem, expr: &Expr, result: &Stored, lowering: &Lowering) -> Lowered<(f64, Plan)> {
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
    // Grids of many targets have a factor 3; more dimensions would be too many candidates.
    if options.iter().filter(|o| o.len() > 1).count() <= 2 {
        for (d, dim) in problem.dims.iter().enumerate() {
            let third = dim.space.size.div_ceil(problem.unit(d)).div_ceil(3);
            let more = match dim.role {
                Role::Batch => Vec::new(),
                Role::Row => halves(third, 1, MAX_ROWS),
                Role::Column => halves(third, 1, MAX_COLUMNS / problem.unit(d)),
            };
            // Results leave in pieces of equal numbers of rows: a prime number has none. A tile never reaches past its
            // dimension, whose result may have no stride for more than one row.
            let rows = more.iter().filter(|_| dim.role == Role::Row);
            let even = rows.map(|n| n.next_multiple_of(4)).filter(|&n| n <= dim.space.size);
            let even: Vec<u64> = even.collect();
            for n in more.iter().copied().chain(even) {
                if !options[d].contains(&n) {
                    options[d].push(n);
                }
            }
        }
    }
    let counts = problem.flags.as_ref().map(|flags| flags.counts(problem));
    let search = Search { problem, counts, expr, result, lowering };
    let mut best: Option<(f64, Plan)> = None;
    let mut pick = vec![0usize; n_dims];
    loop {
        let tiles: Vec<u64> = pick.iter().zip(&options).map(|(&p, o)| o[p]).collect();
        if let Some((time, plan)) = search.of_tiles(&tiles)
            && best.as_ref().is_none_or(|(t, _)| time < *t)
        {
            best = Some((time, plan));
        }
        let Some(d) = (0..n_dims).find(|&d| pick[d] + 1 < options[d].len()) else { break };
        pick[d] += 1;
        pick[..d].fill(0);
    }
    best.ok_or_else(|| {
        Refusal::Limit(format!(
            "no tile of the product fits the local memory of a PE ({} bytes) and five view dimensions",
            lowering.target.local_bytes
        ))
    })
}

/// Slots that a buffer has at most.
const MAX_SLOTS: u64 = 16;
const MAX_ROWS: u64 = 1024;
const MAX_COLUMNS: u64 = 1024;

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

/// Rounds after which the next matrix of a batch has come.
const LONG_STAY: u64 = 8;

/// What a plan is looked for.
struct Search<'s> {
    problem: &'s Problem,
    /// Of the flags of its blocks.
    counts: Option<Counts>,
    expr: &'s Expr,
    result: &'s Stored,
    lowering: &'s Lowering<'s>,
}

impl Search<'_> {
    /// The best plan with these tiles, and its modelled time.
    fn of_tiles(&self, tiles: &[u64]) -> Option<(f64, Plan)> {
        let Search { problem, lowering, .. } = *self;
        let target = lowering.target;
        let n_dims = problem.dims.len();
        let unit = |d: usize| problem.unit(d);
        let area: u64 = (0..n_dims)
            .filter(|&d| problem.dims[d].role != Role::Batch)
            .map(|d| tiles[d] * unit(d))
            .product();
        if area * 4 > target.bank_bytes {
            return None;
        }
        const NAMES: [&str; 8] = ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7"];
        let mut axes: Vec<Axis> = (0..n_dims)
            .map(|d| Axis::new(NAMES[d.min(7)], problem.dims[d].space.size.div_ceil(unit(d)), tiles[d]))
            .collect();
        // An element of this axis is a chunk.
        axes.push(Axis::new("k", 1, 1));
        let mut spread = vec![true; n_dims];
        spread.push(false);
        let sizes: Vec<u64> = axes.iter().map(Axis::n_tiles).collect();
        let weights = operand_weights(problem, tiles, lowering);
        let column = problem.dims.iter().rposition(|d| d.role == Role::Column);
        let traffic = |pes: &[[u16; PE_COORDS]]| traffic(&weights, &sizes, pes);
        let plan_of = |cost: &GridCost<'_>| {
            let nest = Nest::distribute_by(axes.clone(), &spread, target.rows, target.cols, cost);
            let mut plan = Plan { nest, chunk: 1, slots: SLOTS[0], pieces: 1, room: 0 };
            plan.pieces = plan.pieces_of(problem, area * self.result.element_bytes);
            plan
        };
        let mut plans = vec![plan_of(&|pes| (1.0, traffic(pes)))];
        // A matrix of a batch that stays for few rounds is waited for: a grid with more rounds may be faster.
        let stay = |pes: &[[u16; PE_COORDS]]| least_stay(&weights, &sizes, pes);
        let pes: Vec<[u16; PE_COORDS]> = plans[0].nest.axes.iter().map(|axis| axis.pes).collect();
        if problem.dims.iter().any(|d| d.role == Role::Batch) && (2..LONG_STAY).contains(&stay(&pes)) {
            plans.push(plan_of(&|pes| (1.0 + 1.0 / (4 * stay(pes)) as f64, traffic(pes))));
        }
        if let (Some(flags), Some(d)) = (&problem.flags, column) {
            // Blocks are not spread evenly: another grid may move more and still be faster.
            let balanced = plan_of(&|pes| {
                let n_pes = pes[d].iter().map(|&n| u64::from(n)).product();
                (flags.worst_share(sizes[d].div_ceil(n_pes) * tiles[d]), traffic(pes))
            });
            if plans.iter().all(|plan| plan.nest != balanced.nest) {
                plans.push(balanced);
            }
        }
        let found = plans.into_iter().filter_map(|plan| self.of_nest(plan, area));
        found.reduce(|best, other| if other.0 < best.0 { other } else { best })
    }

    /// The best chunk and number of slots for a plan whose tiles have `area` elements.
    fn of_nest(&self, mut plan: Plan, area: u64) -> Option<(f64, Plan)> {
        let Search { problem, expr, result, lowering, .. } = *self;
        // Slots are rounded up to whole beats.
        let budget = (lowering.target.local_bytes as f64 * PRODUCT_FILL) as u64;
        if epilogue_tile(problem, &plan, problem.a.storage, 0, 0, true).0.dims.len() > 5 {
            return None;
        }
        let (cut, multiple) = problem.chunk;
        let k_size = problem.summed[cut].size;
        // The largest chunk of K that fits and parts of it: a shorter one has more rounds, but more of them fit at a time.
        let mut best: Option<(f64, Plan)> = None;
        let pieces = plan.pieces;
        let chunk_of = |parts: u64| k_size.div_ceil(parts).next_multiple_of(multiple).min(k_size);
        let mut of_chunk = |chunk: u64| -> Option<Time> {
            let axis = plan.k_axis();
            plan.chunk = chunk;
            let n_chunks = k_size.div_ceil(chunk);
            (plan.nest.axes[axis].size, plan.nest.axes[axis].trip) = (n_chunks, n_chunks);
            // All pieces of a tile wait at once where there is no loop over K, and one more.
            plan.pieces = if n_chunks == 1 && pieces >= MAX_SLOTS { pieces / 2 } else { pieces };
            if let (Some(flags), Some(counts)) = (&problem.flags, &self.counts) {
                plan.room = flags.room(counts, problem, plan.panels(problem), chunk);
            }
            let time = Time::of(problem, expr, result, area, lowering, &plan)?;
            if !plan.nest.fits() || time.slot_bytes(SLOTS[0]) > budget {
                return None;
            }
            // What waits for an index is loaded a stage later.
            let fewest = if problem.pick.is_some() { STAGED_SLOTS } else { SLOTS[0] };
            for slots in SLOTS.into_iter().filter(|&s| s >= fewest && time.slot_bytes(s) <= budget) {
                let cycles = time.cycles(slots);
                if best.as_ref().is_none_or(|(known, _)| cycles < *known) {
                    best = Some((cycles, Plan { slots, ..plan.clone() }));
                }
            }
            Some(time)
        };
        let mut parts = 1;
        while of_chunk(chunk_of(parts)).is_none() {
            let chunk = chunk_of(parts);
            if chunk <= multiple {
                return None;
            }
            parts = if chunk_of(parts + 1) < chunk { parts + 1 } else { parts * 2 };
        }
        let mut last = chunk_of(parts);
        for [times, of] in CHUNK_PARTS {
            let chunk = chunk_of((parts * times).div_ceil(of));
            if chunk < last {
                of_chunk(chunk);
                last = chunk;
            }
        }
        best
    }
}

/// For each operand which axes move it, and its bytes for each K of one tile.
fn operand_weights(problem: &Problem, tiles: &[u64], lowering: &Lowering) -> [(Vec<bool>, u64); 2] {
    let walk = |d: usize, from_last: usize| {
        let walks = &problem.dims[d].space.walks;
        walks[walks.len() - from_last].stride != 0
    };
    let n = problem.dims.len();
    let first =
        |d: usize| problem.dims[d].role != Role::Column && (walk(d, 2) || problem.dims[d].window.is_some());
    let second = |d: usize| match &problem.b {
        Second::Panels(_) if problem.dims[d].role == Role::Batch => walk(d, 1),
        Second::Panels(_) => problem.dims[d].role == Role::Column,
        Second::Dense(..) => problem.dims[d].role != Role::Row && walk(d, 1),
    };
    let b_storage = match &problem.b {
        Second::Panels(place) | Second::Dense(place, _) => &lowering.storages[place.storage],
    };
    let weight = |moved: &[bool], bytes: u64| {
        let of = |d: usize| tiles[d] * problem.unit(d);
        bytes * (0..n).filter(|&d| moved[d]).map(of).product::<u64>()
    };
    let first: Vec<bool> = (0..n).map(first).collect();
    let second: Vec<bool> = (0..n).map(second).collect();
    // Bytes in 64ths: elements may be narrower than a byte, and records shorter than codes.
    let a_bytes = 8 * u64::from(problem.a_format.element().bits());
    let b_bytes = (64 * b_storage.bytes()).div_ceil(b_storage.elements.max(1));
    let set = problem.flags.as_ref().map_or(1.0, BlockFlags::share);
    let b_bytes = ((b_bytes as f64 * set).ceil() as u64).max(1);
    let weights = [weight(&first, a_bytes), weight(&second, b_bytes)];
    [(first, weights[0]), (second, weights[1])]
}

/// Fewest rounds for which a PE keeps an operand that it fetches more than once; 1 stands for the innermost loop.
fn least_stay(weights: &[(Vec<bool>, u64); 2], n_tiles: &[u64], pes: &[[u16; PE_COORDS]]) -> u64 {
    let trips = |d: usize| n_tiles[d].div_ceil(pes[d].iter().map(|&p| u64::from(p)).product());
    let stay = |(moved, _): &(Vec<bool>, u64)| {
        let deepest = (0..moved.len()).rev().find(|&d| moved[d] && trips(d) > 1)?;
        Some((deepest + 1..n_tiles.len()).map(trips).product())
    };
    weights.iter().filter_map(stay).filter(|&rounds| rounds > 1).min().unwrap_or(1)
}

/// What all PEs together fetch, in the unit of the weights: those that share whole rows or columns of the grid fetch once.
fn traffic(weights: &[(Vec<bool>, u64); 2], n_tiles: &[u64], pes: &[[u16; PE_COORDS]]) -> u64 {
    let of = |(moved, weight): &(Vec<bool>, u64)| {
        let mut bytes = *weight;
        for (d, &moved) in moved.iter().enumerate() {
            let all: u64 = pes[d].iter().map(|&p| u64::from(p)).product();
            bytes *= if moved { n_tiles[d].div_ceil(all) } else { 1 };
        }
        for coords in [0..2, 2..PE_COORDS] {
            let splits = |d: usize| pes[d][coords.clone()].iter().map(|&p| u64::from(p)).product::<u64>();
            if (0..moved.len()).any(|d| moved[d] && splits(d) > 1) {
                bytes *= (0..moved.len()).map(splits).product::<u64>();
            }
        }
        bytes
    };
    weights.iter().map(of).fold(0, u64::saturating_add)
}

/// Share of local memory that buffers of a product may fill.
const PRODUCT_FILL: f64 = 0.98;
/// Shorter chunks of K that are tried for each tile: this many times as many parts as of the largest that fits.
const CHUNK_PARTS: [[u64; 2]; 6] = [[3, 2], [2, 1], [3, 1], [4, 1], [6, 1], [8, 1]];
/// Slots of a buffer that is filled in the innermost loop.
const SLOTS: [u8; 8] = [2, 3, 4, 5, 6, 8, 12, 16];
