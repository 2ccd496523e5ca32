//! How long a product takes in given tiles: the arithmetic of the machine model, for one PE among equals.
//!
//! In each round of the innermost loop operands are loaded and multiplied. A round takes as long as its slowest engine, or as
//! what is in flight admits: with s slots, a load waits for the product of s rounds ago, so s rounds take at least a load's
//! latency, its transfer and its product. Times of engines come from [`lacuna_isa::timing`]; ports are shared evenly, and a
//! multicast fetch is paid once.

use lacuna_isa::format::Format;
use lacuna_isa::object::MemSpace;
use lacuna_isa::target::Target;
use lacuna_isa::timing::{ASSUMED_ACTIVITY, DMA_BEAT_BYTES, Work, cost};
use lacuna_isa::view::{Pattern, VIEW_DIMS};

use super::problem::{BlockFlags, Problem, Role, Second};
use super::product_plan::{Plan, result_slots};
use super::product_views::{epilogue_tile, first_tile, index_tile, moved_second, second_tile};
use super::sparse::Form;
use crate::emit::{DOUBLE, KernelBuilder, STAGED_SLOTS, Tile, outer_slots};
use crate::expr::{Expr, ExprNode};
use crate::lower::Lowering;
use crate::nest::Nest;
use crate::place::{StorageId, StorageKind};

/// Instructions of one round: loads, product, the loop.
const ROUND_INSTRUCTIONS: u64 = 5;

/// What a cycle of loading or issuing costs where a longer stage hides it: energy, and time where stages do not overlap as
/// evenly as modelled. Of plans that are equally fast it decides for the one that moves less.
const HIDDEN: f64 = 0.1;

/// A load of the kernel.
struct Fetch {
    /// Bytes of a slot.
    bytes: u64,
    /// Cycles of the queue that loads, each time.
    cycles: f64,
    /// Cycles until the data is there after that.
    latency: f64,
    /// Times that a PE loads it.
    times: f64,
    /// Whether that is in the innermost loop.
    inner: bool,
    /// Whether the epilogue reads it, not the product.
    of_result: bool,
    /// Fewest slots.
    slots: u64,
}

/// The times of a product in one plan.
pub struct Time {
    fetches: Vec<Fetch>,
    /// Bytes of a slot of flags.
    flag_bytes: u64,
    /// Cycles from the issue of the first operand's load until its flags are there, where there are any.
    flag_wait: Option<f64>,
    /// Rounds of the busiest PE, and those of one tile of the result.
    rounds: f64,
    rounds_of_tile: f64,
    /// Cycles of the DPE in a round.
    dpe: f64,
    /// Cycles of the command processor in a round.
    issue: f64,
    /// Cycles of the epilogue of a tile, of the store of its result, and until a stored slot is free after that.
    epilogue: f64,
    store: f64,
    store_latency: f64,
    /// Bytes of a slot of the result, which holds a piece of a tile.
    result_bytes: u64,
    /// Pieces of a tile.
    pieces: u64,
    /// Cycles of the SE in a round for widening codes, and bytes of the slots that they are widened to.
    widen: f64,
    widened_bytes: u64,
    /// Whether a tile waits for the epilogue of the one before.
    one_bank: bool,
    /// Cycles before the first round and after the last besides its own work.
    ends: f64,
}

impl Time {
    /// Of a plan whose tiles have `area` elements, stored as `result` says; `None` where an operand's box does not fit a view.
    pub fn of(
        problem: &Problem,
        expr: &Expr,
        result: &Stored,
        area: u64,
        lowering: &Lowering,
        plan: &Plan,
    ) -> Option<Time> {
        let target = lowering.target;
        let [a, b] = operand_tiles(problem, plan)?;
        let (m, n) = (plan.rows(problem), plan.columns(problem));
        let k: u64 = (0..problem.summed.len()).map(|i| plan.chunk_of(problem, i)).product();
        let pattern = problem.form.pattern();
        let work = Work::Matmul { m, n, k, a: problem.a_format, b: problem.b_format, pattern, actions: None };
        let zeros = Zeros::of(problem, plan, m, lowering);
        let nest = &plan.nest;
        let innermost = nest.loops().last().copied();
        let mut loads = vec![(a.clone(), None, false, false), (b.clone(), pattern, true, false)];
        let shared = problem.widen.iter().flat_map(|widen| widen.shared_tiles(problem, plan));
        loads.extend(shared.map(|tile| (tile, None, false, false)));
        let leaves = expr.leaves.iter().enumerate();
        loads.extend(leaves.map(|(i, leaf)| {
            let tile = epilogue_tile(problem, plan, leaf.place.storage, 0, i + 1, false).0;
            (tile, None, false, true)
        }));
        let space = |tile: &Tile| port(target, space_of(&lowering.storages[tile.storage].kind));
        let mut fetches_of = Vec::new();
        for (i, &(ref tile, pattern, second, of_result)) in loads.iter().enumerate() {
            if tile.dims.len() > VIEW_DIMS {
                return None;
            }
            let bytes = slot_bytes(lowering, tile, pattern);
            // Rows and matrices that are chosen come to each PE alone.
            let apart = second && (problem.form == Form::Active || problem.pick.is_some());
            let distinct = if apart { nest.n_pes() as f64 } else { distinct_pes(nest, tile) };
            let [near, far] = if second { [zeros.near, zeros.far] } else { [1.0, 1.0] };
            let (rate, latency) = space(tile);
            let near = bytes as f64 * near / target.local_bytes_per_cycle;
            let staged = problem.pick.is_some() || (i == 0 && problem.form == Form::Active);
            fetches_of.push(Fetch {
                bytes,
                cycles: near.max(bytes as f64 * far * distinct / rate),
                latency: latency as f64,
                times: fetches(nest, tile),
                inner: innermost.is_some_and(|axis| moves(tile, axis)),
                of_result,
                slots: if staged { u64::from(STAGED_SLOTS) } else { 2 },
            });
        }
        if let (Form::Active, [a, b, ..]) = (problem.form, &mut fetches_of[..]) {
            // What flags choose is loaded where the flags are made.
            b.inner |= a.inner;
            b.times = b.times.max(a.times);
        }
        let rounds = nest.rounds() as f64;
        let widen = problem.widen.as_ref().map(|widen| {
            let (elements, ops, bytes) = widen.work(problem, plan, b.elements());
            let cycles = cost(&Work::Simd { elements, ops, bytes }, target).cycles as f64;
            (cycles, slot_size(problem.b_format, b.elements()))
        });
        let (first_widen, widened_bytes) = widen.unwrap_or_default();
        let widenings = fetches_of[1].times;
        let rounds_of_tile = nest.axes[plan.k_axis()].trip as f64;
        let epilogue = if expr.is_copy() {
            cost(&Work::Bank { elements: area }, target).cycles
        } else {
            let ops = expr.nodes.iter().filter(|(n, _)| matches!(n, ExprNode::Op(..))).count() as u64 + 2;
            cost(&Work::Simd { elements: area, ops, bytes: area * 8 }, target).cycles
        };
        let result_bytes = area * result.element_bytes;
        let (store, store_latency) = result.times(area, nest, lowering);
        let index = index_tile(problem)
            .map_or(0.0, |tile| port(target, space_of(&lowering.storages[tile.storage].kind)).1 as f64);
        let latency = fetches_of.iter().fold(0.0f64, |most, f| most.max(f.latency)) + index;
        Some(Time {
            flag_bytes: match problem.form {
                Form::Active => plan.chunk,
                Form::Blocks => n * k / plan.block(problem),
                Form::Dense | Form::Pattern(_) | Form::Compressed => 0,
            },
            flag_wait: (problem.form == Form::Active)
                .then(|| fetches_of[0].latency + fetches_of[0].cycles + FLAG_CYCLES),
            rounds,
            rounds_of_tile,
            dpe: cost(&work, target).cycles as f64 * zeros.steps,
            issue: (ROUND_INSTRUCTIONS * target.issue_cycles) as f64,
            epilogue: epilogue as f64,
            store,
            store_latency,
            result_bytes: result_bytes.div_ceil(plan.pieces),
            pieces: plan.pieces,
            widen: first_widen * widenings / rounds,
            widened_bytes: widened_bytes * if widenings > 1.0 { u64::from(DOUBLE) } else { 1 },
            one_bank: m * n * 8 > target.bank_bytes,
            ends: latency + first_widen + fetches_of.iter().map(|f| f.cycles).sum::<f64>() + store_latency,
            fetches: fetches_of,
        })
    }

    /// Slots of the result, with `slots` slots in the innermost loop.
    fn result_slots(&self, slots: u64) -> u64 {
        let slots = u8::try_from(slots).unwrap_or(u8::MAX);
        result_slots(self.rounds_of_tile > 1.0, self.pieces, slots).into()
    }

    /// Bytes of local memory for operands and result, with `slots` slots in the innermost loop.
    pub fn slot_bytes(&self, slots: u8) -> u64 {
        let slots_of = |f: &Fetch| match (f.inner, f.times > 1.0) {
            (true, _) => f.slots.max(slots.into()),
            (false, true) => outer_slots(f.bytes, slots).into(),
            (false, false) => 1,
        };
        let whole = |bytes: u64| bytes.next_multiple_of(DMA_BEAT_BYTES);
        let operands: u64 = self.fetches.iter().map(|f| whole(f.bytes) * slots_of(f)).sum();
        operands
            + self.widened_bytes
            + whole(self.flag_bytes) * u64::from(slots)
            + whole(self.result_bytes) * self.result_slots(slots.into())
    }

    /// Modelled cycles with `slots` slots in the innermost loop, and a share of what other work hides.
    pub fn cycles(&self, slots: u8) -> f64 {
        let loads = self.fetches.iter().map(|f| f.cycles * f.times).sum::<f64>() / self.rounds;
        let inner = self.fetches.iter().filter(|f| f.inner && !f.of_result);
        let flight = inner.fold(None, |flight: Option<f64>, f| {
            Some(flight.map_or(f.cycles + f.latency, |before| before.max(f.latency) + f.cycles))
        });
        let flight = flight.map_or(0.0, |flight| (flight + self.widen + self.dpe) / f64::from(slots));
        // Loads of outer loops stand in the same queue: what is behind one waits for its slot too.
        let latency = self.fetches.iter().fold(0.0f64, |most, f| most.max(f.latency));
        let outer = self.fetches.iter().filter(|f| !f.inner && f.times > 1.0);
        let outer = outer.map(|f| {
            let rounds = self.rounds / f.times;
            // Between two of them stand loads of the innermost loop, which wait for their own slots.
            let ahead = f64::from(outer_slots(f.bytes, slots)).min(1.0 + f64::from(slots) / rounds);
            let read = rounds * self.dpe + if f.of_result { self.epilogue } else { 0.0 };
            (latency + f.cycles + read) / (rounds * ahead)
        });
        let flight = outer.fold(flight, f64::max);
        // Flags need the operand that they are made of before the load that they choose from may start.
        let late = match self.flag_wait {
            Some(wait) if self.rounds_of_tile > 1.0 => wait,
            Some(wait) => loads + wait,
            None => 0.0,
        };
        let round = self.dpe.max(self.widen).max(loads).max(self.issue).max(flight).max(late);
        let products = round * self.rounds_of_tile;
        let results = (self.epilogue + self.store + self.pieces as f64 * self.store_latency)
            / self.result_slots(slots.into()) as f64;
        // One engine widens operands and finishes results.
        let simd = self.epilogue + self.widen * self.rounds_of_tile;
        let leaving = self.epilogue.max(self.store).max(results);
        let tile = if self.one_bank { products + leaving } else { products.max(leaving).max(simd) };
        let others = self.fetches.iter().filter(|f| f.of_result && f.inner && f.times > 1.0);
        let others = others.map(|f| (f.cycles + f.latency + self.epilogue) / f64::from(slots));
        let tile = others.fold(tile, f64::max);
        let n_tiles = self.rounds / self.rounds_of_tile;
        let hidden = self.rounds * (loads + self.issue);
        // Nothing hides how the last tile leaves: its pieces are finished and stored one behind the other.
        let behind = self.epilogue.min(self.store) / self.pieces as f64;
        let last = if self.one_bank { behind } else { leaving.max(self.epilogue.max(self.store) + behind) };
        self.ends + n_tiles * tile + last + HIDDEN * hidden
    }
}

/// The boxes of both operands with the axes that move them; `None` where one does not fit a view.
fn operand_tiles(problem: &Problem, plan: &Plan) -> Option<[Tile; 2]> {
    let (a, b) = (first_tile(problem, plan).0, second_tile(problem, plan).0);
    let fits = a.dims.len() <= VIEW_DIMS && b.dims.len() <= VIEW_DIMS;
    fits.then(|| [a, moved_second(problem, b)])
}

/// Where a kernel stores its result.
pub struct Stored {
    /// The storage of the result itself.
    pub storage: StorageId,
    /// Bytes of local memory for each element, in all formats.
    pub element_bytes: u64,
    /// Bytes of each element that cross memory.
    pub stored_bytes: f64,
}

impl Stored {
    /// Cycles in which every PE stores `area` elements, and until their slot is free after that.
    fn times(&self, area: u64, nest: &Nest, lowering: &Lowering) -> (f64, f64) {
        let target = lowering.target;
        let (rate, latency) = port(target, space_of(&lowering.storages[self.storage].kind));
        let bytes = area as f64 * self.stored_bytes;
        let shared = bytes * nest.n_pes() as f64 / rate;
        (shared.max(bytes / target.local_bytes_per_cycle), latency as f64)
    }
}

/// Bytes per cycle and latency of a memory.
fn port(target: &Target, space: MemSpace) -> (f64, u64) {
    match space {
        MemSpace::Sram => (target.sram_bytes_per_cycle, target.sram_latency_cycles),
        MemSpace::Weights | MemSpace::Hbm => (target.hbm_bytes_per_cycle, target.hbm_latency_cycles),
    }
}

/// Bytes of a slot that holds a tile.
pub fn slot_bytes(lowering: &Lowering, tile: &Tile, pattern: Option<Pattern>) -> u64 {
    KernelBuilder::slot_bytes(lowering.storages[tile.storage].slot, pattern, tile.elements())
}

/// The same of a format.
fn slot_size(format: Format, elements: u64) -> u64 {
    KernelBuilder::slot_bytes(format, None, elements).next_multiple_of(DMA_BEAT_BYTES)
}

/// Cycles that making flags takes.
const FLAG_CYCLES: f64 = 20.0;

/// What zeros leave of a product by panels, as shares of the dense one.
struct Zeros {
    /// Steps of the DPE.
    steps: f64,
    /// Bytes written to local memory for each byte of a slot.
    near: f64,
    /// Bytes over the far port for each byte of a slot.
    far: f64,
}

impl Zeros {
    /// Of a problem in a plan whose tiles have `rows` rows.
    fn of(problem: &Problem, plan: &Plan, rows: u64, lowering: &Lowering) -> Zeros {
        let Second::Panels(place) = &problem.b else {
            return Zeros { steps: 1.0, near: 1.0, far: 1.0 };
        };
        let storage = &lowering.storages[place.storage];
        let dense = KernelBuilder::slot_bytes(storage.slot, storage.pattern, storage.elements);
        let stored = storage.bytes() as f64 / dense.max(1) as f64;
        let column = problem.dims.iter().rposition(|d| d.role == Role::Column);
        let column = column.map(|d| &plan.nest.axes[d]);
        match problem.form {
            Form::Dense | Form::Pattern(_) => Zeros { steps: 1.0, near: stored, far: stored },
            Form::Compressed => Zeros { steps: 1.0, near: 1.0, far: stored },
            Form::Blocks => {
                let panels = column.map_or(1, |axis| axis.trip * axis.tile);
                let steps = problem.flags.as_ref().map_or(1.0, |flags| flags.worst_share(panels));
                let set = problem.flags.as_ref().map_or(1.0, BlockFlags::share);
                // Of the blocks that a tile has, so many are set and cross the port; the rest of its slot is zero.
                let blocks = plan.columns(problem) * plan.chunk / plan.block(problem);
                let far = stored * set * blocks as f64 / plan.room.max(1) as f64 + RECORD_SHARE;
                Zeros { steps, near: 1.0, far: far.min(1.0) }
            }
            Form::Active => {
                // A k is needed when it is active in any row.
                let idle = (1.0 - ASSUMED_ACTIVITY).powf(rows as f64);
                let share = 1.0 - idle;
                Zeros { steps: share, near: stored * share, far: stored * share }
            }
        }
    }
}

/// Bytes of a record besides its codes for each byte of the slot, roughly.
const RECORD_SHARE: f64 = 0.005;

/// Where a storage will most likely lie: intermediates in shared SRAM, all else in HBM.
fn space_of(kind: &StorageKind) -> MemSpace {
    match kind {
        StorageKind::Temp => MemSpace::Sram,
        StorageKind::Const(..) | StorageKind::Input(_) | StorageKind::Output(_) => MemSpace::Hbm,
    }
}

/// Whether an axis moves a tile.
fn moves(tile: &Tile, axis: usize) -> bool {
    tile.dims.iter().any(|d| d.axis.is_some_and(|(a, _)| a == axis))
}

/// How often one PE fetches a tile: once per iteration of the loops down to the innermost one that moves it.
fn fetches(nest: &Nest, tile: &Tile) -> f64 {
    let deepest = (0..nest.axes.len()).rev().find(|&a| nest.axes[a].trip > 1 && moves(tile, a));
    deepest.map_or(1.0, |a| nest.axes[..=a].iter().map(|x| x.trip as f64).product())
}

/// Number of PEs that want different boxes; the others share by multicast, which goes along whole rows or columns only.
fn distinct_pes(nest: &Nest, tile: &Tile) -> f64 {
    let mut distinct = 1.0;
    for coords in [0..2, 2..4] {
        let moved = (0..nest.axes.len())
            .any(|a| moves(tile, a) && nest.axes[a].pes[coords.clone()].iter().any(|&p| p > 1));
        if moved {
            distinct *= nest.grid[coords].iter().map(|&g| f64::from(g)).product::<f64>();
        }
    }
    distinct
}
