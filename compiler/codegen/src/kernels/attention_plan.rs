//! Tiles and grid of attention, by modelled time.
//!
//! A unit of work is a tile of queries, of all heads that share a group of keys. A causal unit ends at its last visible
//! key, so units differ in length. There the unit is a pair of blocks: block i and block n - 1 - i, which together are always
//! as long. A block is one tile of queries or several, which share each fetch of keys or pass over the keys in turn, and whole
//! tiles of keys long, so that trip counts are affine. The tiles of keys are the innermost loop; a few sizes are costed and the fastest that
//! fits is taken.

use lacuna_ir::expand::Attention;
use lacuna_ir::op::EmptyRow;
use lacuna_ir::{Shape, TensorType};
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::target::Target;
use lacuna_isa::timing::DPE_COLUMNS;
use lacuna_isa::view::PE_COORDS;

use super::map::LOCAL_FILL;
use crate::nest::{Axis, Nest};

/// Axis numbers of [`Plan::nest`].
pub const BATCH: usize = 0;
/// Groups of keys and values.
pub const GROUP: usize = 1;
/// Tiles of queries, or pairs of them.
pub const TILE: usize = 2;
/// Keys.
pub const KEYS: usize = 3;

/// The extents of an attention.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Independent attentions.
    pub batch: u64,
    /// Groups of keys and values.
    pub groups: u64,
    /// Heads that share a group.
    pub share: u64,
    /// Queries.
    pub length: u64,
    /// Keys.
    pub keys: u64,
    /// Elements of a query and of a key.
    pub size: u64,
    /// Elements of a value.
    pub width: u64,
    /// Types of queries, keys, values and the result.
    pub types: [ScalarType; 4],
    /// Type of the mask.
    pub mask: Option<ScalarType>,
}

/// How keys that a query must not see are left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejection {
    /// By position none is.
    Never,
    /// A tile of keys is wholly visible, or lies on the diagonal of its tile of queries, where positions are compared.
    Diagonal,
    /// Positions are compared in every tile.
    Everywhere,
}

/// The chosen tiles.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Extents.
    pub sizes: Sizes,
    /// Axes and grid.
    pub nest: Nest,
    /// Queries of a tile.
    pub queries: u64,
    /// Keys of a tile.
    pub keys: u64,
    /// Tiles of queries that share each fetch of keys.
    pub cut: u64,
    /// Passes over the keys that a block takes, one after the other, where tiles of keys are longer than their queries.
    pub parts: u64,
    /// Blocks of queries; even where they go in pairs.
    pub n_blocks: u64,
    /// Whether a unit is block i and block `n_blocks - 1 - i`, and tiles of keys behind the diagonal are not computed.
    pub triangular: bool,
    /// How positions reject keys.
    pub rejection: Rejection,
    /// Whether scores are more than scaled before the softmax.
    pub transformed: bool,
    /// Slots of the accumulators of scores and of the result.
    pub banks: [u8; 2],
}

impl Plan {
    /// Rows of a tile: queries of all heads of a group.
    pub fn rows(&self) -> u64 {
        self.sizes.share * self.queries
    }

    /// Tiles of all keys.
    pub fn n_key_tiles(&self) -> u64 {
        self.sizes.keys.div_ceil(self.keys)
    }

    /// Queries of a block.
    pub fn block(&self) -> u64 {
        self.queries * self.cut * self.parts
    }

    /// Queries before the second blocks of pairs.
    pub fn half(&self) -> u64 {
        if self.triangular { self.n_blocks / 2 * self.block() } else { self.sizes.length }
    }

    /// The best plan; `None` where attention must be computed by parts.
    pub fn choose(a: &Attention, args: &[&TensorType], target: &Target) -> Option<Plan> {
        let sizes = sizes_of(a, args)?;
        let mut best: Option<(f64, Plan)> = None;
        for keys in key_tiles(sizes.keys) {
            for queries in query_tiles(sizes.length, keys) {
                for cut in [1, 2, 4] {
                    let Some(plan) = Plan::of(a, sizes, [queries, cut, keys], target) else { continue };
                    let time = plan.time(target);
                    if best.as_ref().is_none_or(|(least, _)| time < *least) {
                        best = Some((time, plan));
                    }
                }
            }
        }
        best.map(|(_, plan)| plan)
    }

    fn of(a: &Attention, sizes: Sizes, [queries, cut, keys]: [u64; 3], target: &Target) -> Option<Plan> {
        let pass = queries * cut;
        let parts = if a.causal && keys > pass && keys.is_multiple_of(pass) { keys / pass } else { 1 };
        let block = pass * parts;
        let triangular = a.causal && block.is_multiple_of(keys) && a.shift >= 0 && sizes.length > block;
        let parts = if triangular { parts } else { 1 };
        if (cut > 1 && (keys >= sizes.keys || sizes.length < pass)) || parts > MAX_PARTS {
            return None;
        }
        let shift = u64::try_from(a.shift).unwrap_or(0);
        let aligned = triangular && shift.is_multiple_of(keys) && sizes.length + shift <= sizes.keys;
        let rejection = if aligned && a.window == 0 {
            Rejection::Diagonal
        } else if a.causal || a.window > 0 {
            Rejection::Everywhere
        } else {
            Rejection::Never
        };
        let n_blocks = sizes.length.div_ceil(pass * parts);
        let n_blocks = if triangular { n_blocks.next_multiple_of(2) } else { n_blocks };
        let units = if triangular { n_blocks / 2 } else { n_blocks };
        let axes = vec![
            Axis::new("batch", sizes.batch, 1),
            Axis::new("group", sizes.groups, 1),
            Axis::new("tile", units, 1),
            Axis::new("keys", sizes.keys, keys),
        ];
        let transformed = a.softcap.0 > 0.0 || sizes.mask.is_some() || a.scale.0 <= 0.0;
        let mut plan = Plan {
            sizes,
            nest: Nest { axes, grid: [1; PE_COORDS] },
            queries,
            keys,
            cut,
            parts,
            n_blocks,
            triangular,
            rejection,
            transformed,
            banks: [2, 2],
        };
        let banks = [[2, 2], [2, 1], [1, 1]];
        plan.banks = banks.into_iter().find(|&b| plan.bank_bytes(b) <= target.bank_bytes)?;
        if plan.local_bytes() as f64 > target.local_bytes as f64 * LOCAL_FILL {
            return None;
        }
        let spread = [true, true, true, false];
        plan.nest = Nest::distribute(plan.nest.axes, &spread, target.rows, target.cols);
        plan.nest.fits().then_some(plan)
    }

    /// Bytes of a slot of scores, and of the result.
    pub fn bank_slots(&self) -> [u64; 2] {
        [self.rows() * self.keys * 4, self.rows() * self.sizes.width * 4]
    }

    fn bank_bytes(&self, slots: [u8; 2]) -> u64 {
        let bytes = self.bank_slots();
        let n = [u64::from(slots[0]).max(self.cut), u64::from(slots[1]) * self.cut];
        (0..2).map(|i| bytes[i].next_multiple_of(64) * n[i]).sum()
    }

    fn local_bytes(&self) -> u64 {
        let s = &self.sizes;
        let [q, k, v, y] = s.types.map(|ty| ty.bytes_for(1));
        let rows = self.rows();
        let mask = s.mask.map_or(0, |ty| ty.bytes_for(rows * self.keys));
        let next = rows * (s.size * q + 16) + mask;
        let more = rows * (s.width * y + self.keys * v);
        let keyed = self.keys * (s.size * k * u64::from(KEY_SLOTS) + s.width * v * u64::from(VALUE_SLOTS));
        let scores = if self.transformed { rows * self.keys * 4 } else { 0 };
        2 * self.cut * next + (self.cut + 1) * more + keyed + scores + 4096
    }

    /// Tiles of keys that block `i` of queries needs, where the first query stands at the first key.
    fn steps(&self, i: u64) -> u64 {
        if self.triangular { ((i + 1) * self.block()).div_ceil(self.keys) } else { self.n_key_tiles() }
    }

    /// Modelled cycles of the busiest PE: an upper bound of either engine's work and of the transfers.
    fn time(&self, target: &Target) -> f64 {
        let s = &self.sizes;
        let rows = self.rows() as f64;
        let [q, k, v, _] = s.types.map(Format::Scalar);
        let padded = |n: u64| n.next_multiple_of(DPE_COLUMNS) as f64;
        let scores = rows * padded(self.keys) * s.size as f64 / target.product_rate(q, k, None);
        let products = scores + rows * padded(s.width) * self.keys as f64 / target.product_rate(v, v, None);
        let test = if self.rejection == Rejection::Everywhere { 3.0 } else { 0.0 };
        let each = SOFTMAX_OPS + test + if self.transformed { TRANSFORM_OPS } else { 0.0 };
        let row = self.keys as f64 * each + s.width as f64 * RESCALE_OPS + ROW_OPS;
        let softmax = rows * row / target.simd_ops_per_cycle;
        let [_, k_bytes, v_bytes, _] = s.types.map(|ty| ty.bytes_for(8) as f64 / 8.0);
        let bytes = self.keys as f64 * (s.size as f64 * k_bytes + s.width as f64 * v_bytes);
        let shared = if self.triangular { 1.0 } else { f64::from(self.sharers()) };
        let load = bytes * self.nest.n_pes() as f64 / shared / target.hbm_bytes_per_cycle;
        let issue = STEP_INSTRUCTIONS * target.issue_cycles as f64;
        // With one slot, the scores of the next tile wait for the softmax of this one.
        let chain = if self.banks[0] == 1 && self.cut == 1 { scores + softmax } else { softmax };
        let cut = self.cut as f64;
        // A fetch has as many steps as there are slots.
        let fetch = (target.hbm_latency_cycles as f64 + load) / f64::from(KEY_SLOTS);
        let step = (cut * products.max(chain).max(issue)).max(load).max(fetch);
        let units = self.nest.axes[..KEYS].iter().map(|a| a.trip).product::<u64>() as f64;
        let (steps, passes) = if self.triangular {
            (self.parts * (self.steps(0) + self.steps(self.n_blocks - 1)), 2.0 * self.parts as f64)
        } else {
            (self.n_key_tiles(), 1.0)
        };
        // The SE waits for the last product of a unit and the first of the next, but not between units of one step each.
        let turn = if self.n_key_tiles() == 1 { 0.0 } else { products };
        let finish = rows * s.width as f64 * FINISH_OPS / target.simd_ops_per_cycle;
        units * (steps as f64 * step + passes * (turn + cut * finish + issue))
    }

    /// PEs that want the same keys and can share a fetch.
    fn sharers(&self) -> u32 {
        let grid = self.nest.grid.map(u32::from);
        let fixed = |c: usize| self.nest.axes[BATCH].pes[c] == 1 && self.nest.axes[GROUP].pes[c] == 1;
        let part = |range: std::ops::Range<usize>| {
            if range.clone().all(fixed) { grid[range].iter().product() } else { 1 }
        };
        part(0..2) * part(2..4)
    }
}

/// SE operations on a score: two loads, its maximum, its exponential, a store and the sum.
const SOFTMAX_OPS: f64 = 15.0;
/// Further ones where scores are masked or bent.
const TRANSFORM_OPS: f64 = 4.0;
/// SE operations that rescale an element of the result.
const RESCALE_OPS: f64 = 4.0;
/// SE operations of a row of a tile: its maximum, sum and factor.
const ROW_OPS: f64 = 30.0;
/// SE operations that finish an element of the result.
const FINISH_OPS: f64 = 7.0;
/// Slots of tiles of keys: one in use, and fetches ahead that hide the latency of memory.
pub const KEY_SLOTS: u8 = 3;
/// Slots of tiles of values, which are used two steps later than they are loaded.
pub const VALUE_SLOTS: u8 = 4;
/// Instructions of a step.
const STEP_INSTRUCTIONS: f64 = 10.0;
/// Positions and extents are 32-bit coordinates with room to spare.
const MAX_EXTENT: u64 = 1 << 28;

fn sizes_of(a: &Attention, args: &[&TensorType]) -> Option<Sizes> {
    let scalar = |ty: &TensorType| {
        let elem = ty.elem.scalar()?;
        matches!(elem, ScalarType::F32 | ScalarType::Bf16 | ScalarType::F16).then_some(elem)
    };
    let (q, k, v) = (&args[0].shape, &args[1].shape, &args[2].shape);
    let sizes = Sizes {
        batch: q[0],
        groups: k[1],
        share: q[1].checked_div(k[1])?,
        length: q[2],
        keys: k[2],
        size: q[3],
        width: v[3],
        types: [scalar(args[0])?, scalar(args[1])?, scalar(args[2])?, scalar_elem(a.elem)?],
        mask: match args.get(3) {
            Some(mask) => Some(mask_type(&mask.shape, k[2], mask.elem.scalar()?)?),
            None => None,
        },
    };
    let extents = [sizes.batch, sizes.groups, sizes.share, sizes.length, sizes.keys, sizes.size, sizes.width];
    let near = a.shift.unsigned_abs() < MAX_EXTENT && a.window < MAX_EXTENT;
    // Uniform weights of a row without keys reach over keys that are never computed.
    let lives = args.len() == 3 && a.every_row_lives(sizes.length, sizes.keys);
    let possible = near && (lives || a.empty_row != EmptyRow::Uniform);
    (possible && extents.iter().all(|n| (1..MAX_EXTENT).contains(n))).then_some(sizes)
}

fn scalar_elem(elem: ScalarType) -> Option<ScalarType> {
    matches!(elem, ScalarType::F32 | ScalarType::Bf16 | ScalarType::F16).then_some(elem)
}

/// A mask that varies from key to key, of a type that the SE loads into the lanes of the scores.
fn mask_type(shape: &Shape, keys: u64, elem: ScalarType) -> Option<ScalarType> {
    let known = elem == ScalarType::Bool || scalar_elem(elem).is_some();
    (known && shape[3] == keys).then_some(elem)
}

/// Candidates for the keys of a tile.
fn key_tiles(keys: u64) -> Vec<u64> {
    let mut tiles: Vec<u64> = [256, 128, 64, 32].into_iter().filter(|&n| n < keys).collect();
    if keys <= 512 {
        tiles.insert(0, keys);
    }
    tiles
}

/// Candidates for the queries of a tile: parts of equal size, and multiples of the tile of keys.
fn query_tiles(length: u64, keys: u64) -> Vec<u64> {
    let mut tiles: Vec<u64> = Vec::new();
    let mut parts = length.div_ceil(MAX_QUERIES);
    while tiles.len() < 8 {
        let tile = length.div_ceil(parts);
        if !tiles.contains(&tile) {
            tiles.push(tile);
        }
        if tile == 1 {
            break;
        }
        parts *= 2;
    }
    let multiples = [8, 4, 2, 1].map(|n| n * keys);
    let parts = [2, 4].map(|n| if keys.is_multiple_of(n) { keys / n } else { 0 });
    let whole = multiples.into_iter().chain(parts);
    for tile in whole.filter(|n| (1..=MAX_QUERIES).contains(n) && *n < 2 * length) {
        if !tiles.contains(&tile) {
            tiles.push(tile);
        }
    }
    tiles
}

/// More passes are more code.
const MAX_PARTS: u64 = 8;
/// Larger tiles compute more of what lies behind the diagonal.
const MAX_QUERIES: u64 = 256;
