//! Tiles and grid of attention, by modelled time.
//!
//! A unit of work is a tile of queries, of all heads that share a group of keys or of one of them. A causal unit ends at its last visible
//! key, so units differ in length. There the unit is a pair of blocks: block i and block n - 1 - i, which together are always
//! as long. A block is one tile of queries or several, which share each fetch of keys or pass over the keys in turn, and whole
//! tiles of keys long, so that trip counts are affine. The tiles of keys are the innermost loop; a few sizes are costed and the fastest that
//! fits is taken. Units that are stripes of queries are as long from the start: [`super::attention_stripe_plan`].

use lacuna_ir::expand::Attention;
use lacuna_ir::op::EmptyRow;
use lacuna_ir::{Shape, TensorType};
use lacuna_isa::format::ScalarType;
use lacuna_isa::target::Target;
use lacuna_isa::timing::DPE_COLUMNS;
use lacuna_isa::view::PE_COORDS;

use super::attention_stripe_plan::stripe_tiles;
use super::attention_time::fetches;
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
/// Parts of a block that PEs take at the same time.
pub const PART: usize = 4;

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
    /// Whether the heads that share a group stand as `batch`, each for itself: keys are the same for all of these.
    pub apart: bool,
}

impl Sizes {
    /// Heads that share a group, each for itself: a tile has more queries of one head instead, of which fewer lie on the
    /// diagonal.
    fn heads_apart(self) -> Option<Sizes> {
        let possible = self.batch == 1 && self.share > 1 && self.mask.is_none();
        possible.then_some(Sizes { batch: self.share, share: 1, apart: true, ..self })
    }
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

/// In which order tiles are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Course {
    /// The SE finds maxima and rescales: [`super::attention`].
    Turns,
    /// The RE does, and scores are made one tile ahead: [`super::attention_flow`].
    Flow,
    /// A flow in which the PEs of each row of the grid take the parts of a block and share its keys.
    Rows,
    /// The same in columns of the grid.
    Columns,
    /// A flow whose tiles of queries are stripes, which see almost the same keys: [`super::attention_stripes`].
    Stripes,
}

/// Slots of a buffer each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slots {
    /// Tiles of queries.
    pub queries: u8,
    /// Tiles of values.
    pub values: u8,
    /// Tiles of weights.
    pub weights: u8,
    /// Tiles of results that wait to be stored.
    pub results: u8,
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
    /// Passes over the keys that a block takes where tiles of keys are longer than their queries: one after the other, or by
    /// PEs that share each fetch.
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
    /// The order of tiles.
    pub course: Course,
    /// Slots of tiles of keys.
    pub key_slots: u8,
    /// Stripes of queries, and tiles of keys after which all of them have come by the same number of rows.
    pub stripes: u64,
    /// See `stripes`.
    pub round: u64,
    /// Whether keys before a window are hidden.
    pub windowed: bool,
    /// Pieces in which a stripe is transferred.
    pub pieces: u64,
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

    /// Whether the RE finds maxima and rescales.
    pub fn flows(&self) -> bool {
        self.course != Course::Turns
    }

    /// Parts of a tile of keys whose maxima are found apart: rows without hidden keys, those on the diagonal, and those at
    /// the edge of a window.
    pub fn n_peaks(&self) -> usize {
        match self.course {
            Course::Turns => 0,
            Course::Flow | Course::Rows | Course::Columns => 1,
            Course::Stripes if self.windowed => 3,
            Course::Stripes => 2,
        }
    }

    /// Whether the parts of a block belong to PEs that work at the same time.
    pub fn across(&self) -> bool {
        matches!(self.course, Course::Rows | Course::Columns)
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
        let together = sizes_of(a, args)?;
        let mut plans: Vec<(f64, Plan)> = Vec::new();
        let mut offer = |plan: Option<Plan>| {
            let Some(plan) = plan else { return };
            let time = match plan.course {
                Course::Turns => plan.time(target),
                Course::Flow | Course::Rows | Course::Columns => plan.flow_time(target),
                Course::Stripes => plan.stripes_time(a, target),
            };
            plans.push((time, plan));
        };
        for sizes in [Some(together), together.heads_apart()].into_iter().flatten() {
            let fitting = filling_tiles(&sizes, target.n_pes().into(), sizes.length);
            for keys in key_tiles(sizes.keys) {
                let mut tiles = query_tiles(sizes.length, keys);
                tiles.extend(fitting.iter().filter(|&&queries| !a.causal && queries <= MAX_QUERIES));
                tiles.sort_unstable();
                tiles.dedup();
                for queries in tiles {
                    for cut in [1, 2, 4] {
                        offer(Plan::of(a, sizes, [queries, cut, keys], Course::Turns, target));
                    }
                }
            }
            for (course, [queries, keys]) in flow_tiles(a, &sizes, target) {
                offer(Plan::of(a, sizes, [queries, 1, keys], course, target));
            }
            for [stripes, keys] in stripe_tiles(a, &sizes, target) {
                offer(Plan::striped(a, sizes, stripes, keys, target));
            }
        }
        let (least, best) = plans.iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
        let equal = plans.iter().filter(|(time, plan)| *time <= least * EQUAL && plan.course == best.course);
        let order =
            |a: &&(f64, Plan), b: &&(f64, Plan)| a.1.copies().cmp(&b.1.copies()).then(a.0.total_cmp(&b.0));
        equal.min_by(order).map(|(_, plan)| plan.clone())
    }

    /// Copies of the code of a tile.
    fn copies(&self) -> u64 {
        if self.course == Course::Stripes { self.round * (self.pieces + 1) } else { self.parts }
    }

    fn of(
        a: &Attention,
        sizes: Sizes,
        [queries, cut, keys]: [u64; 3],
        course: Course,
        target: &Target,
    ) -> Option<Plan> {
        let flow = course != Course::Turns;
        let across = match course {
            Course::Turns | Course::Flow | Course::Stripes => 1,
            Course::Rows => u64::from(target.cols),
            Course::Columns => u64::from(target.rows),
        };
        let pass = queries * cut;
        let parts = if a.causal && keys > pass && keys.is_multiple_of(pass) { keys / pass } else { 1 };
        let block = pass * parts;
        let triangular = a.causal && block.is_multiple_of(keys) && a.shift >= 0 && sizes.length > block;
        let parts = if triangular { parts } else { 1 };
        if (cut > 1 && (keys >= sizes.keys || sizes.length < pass)) || (across == 1 && parts > MAX_PARTS) {
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
            Axis::new("part", 1, 1),
        ];
        let transformed = a.softcap.0 > 0.0 || sizes.mask.is_some() || a.scale.0 <= 0.0;
        // A flow has one last tile of keys, which lies on the diagonal or is the last of all.
        let flows = !transformed && keys < sizes.keys && (!a.causal || (triangular && block == keys));
        if flow && !(flows && rejection != Rejection::Everywhere && (across == 1 || parts == across)) {
            return None;
        }
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
            course,
            key_slots: KEY_SLOTS,
            stripes: 1,
            round: 1,
            windowed: a.window > 0,
            pieces: 1,
        };
        plan.fill_memories(target)?;
        let spread = [true, true, true, false, false];
        let (rows, cols) = match course {
            Course::Turns | Course::Flow | Course::Stripes => (target.rows, target.cols),
            Course::Rows => (target.rows, 1),
            Course::Columns => (1, target.cols),
        };
        // PEs whose blocks end at different keys share no fetch, however they are dealt.
        let traffic =
            |pes: &[[u16; PE_COORDS]]| (1.0, if triangular { 0 } else { fetches(pes, sizes.apart) });
        plan.nest = Nest::distribute_by(plan.nest.axes, &spread, rows, cols, &traffic);
        let inner = match course {
            Course::Turns | Course::Flow | Course::Stripes => None,
            Course::Rows => Some((PE_COORDS - 1, target.cols)),
            Course::Columns => Some((0, target.rows)),
        };
        if let Some((coord, n)) = inner {
            let part = &mut plan.nest.axes[PART];
            (part.size, part.pes[coord]) = (u64::from(n), n);
            plan.nest.grid[coord] = n;
        }
        if flow {
            plan.fetch_ahead(plan.flow_step(plan.rows(), plan.keys, target), MOST_KEY_SLOTS, target);
        }
        plan.nest.fits().then_some(plan)
    }

    /// As many slots as the accumulators have room for; `None` where the tiles fit a memory not at all.
    pub(super) fn fill_memories(&mut self, target: &Target) -> Option<()> {
        let banks = [[2, 2], [2, 1], [1, 1]];
        self.banks = banks.into_iter().find(|&b| self.bank_bytes(b) <= target.bank_bytes)?;
        (self.local_bytes() as f64 <= target.local_bytes as f64 * LOCAL_FILL).then_some(())
    }

    /// More slots of keys, where they arrive more slowly than steps of so many cycles take them.
    pub(super) fn fetch_ahead(&mut self, step: f64, most: u8, target: &Target) {
        while self.key_slots < most && self.fetch(target) > step {
            self.key_slots += 1;
            if self.local_bytes() as f64 > target.local_bytes as f64 * LOCAL_FILL {
                self.key_slots -= 1;
                break;
            }
        }
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
        let slots = self.slots();
        let queries = rows * s.size * q * u64::from(slots.queries);
        let next = 2 * self.cut * (rows * 28 + mask);
        let weights = u64::from(slots.weights) * rows * self.keys * v;
        let results = rows * s.width * y * u64::from(slots.results);
        let pieces = self.pieces_of_stripe();
        let most = pieces.iter().map(|piece| piece.rows).max().filter(|_| pieces.len() > 1).unwrap_or(0);
        let queries = queries + most * s.share * s.size * q * pieces.len() as u64;
        let keyed =
            self.keys * (s.size * k * u64::from(self.key_slots) + s.width * v * u64::from(slots.values));
        let scores = if self.transformed { rows * self.keys * 4 } else { 0 };
        queries + next + weights + results + keyed + scores + 4096
    }

    /// Slots of what is loaded and stored.
    pub fn slots(&self) -> Slots {
        let cut = self.cut as u8;
        let values = self.key_slots + 1;
        match self.course {
            // Those of the tiles of a block, and of the block before or after.
            Course::Turns => Slots { queries: 2 * cut, values, weights: cut + 1, results: cut + 1 },
            Course::Flow => Slots { queries: 2, values, weights: 2, results: 2 },
            // The passes of parts are short.
            Course::Rows | Course::Columns => Slots { queries: 4, values, weights: 2, results: 2 },
            // A tile's weights wait for the scores of the next but one. Queries are put together when the stripe before is
            // nearly over, and results are stored before the next are there.
            Course::Stripes => {
                let queries = if self.pieces_of_stripe().len() > 1 { 1 } else { 2 };
                Slots { queries, values, weights: 3, results: 1 }
            }
        }
    }
}

/// Least slots of tiles of keys: one in use, and fetches ahead that hide the latency of memory. Values, which are used later,
/// have one more.
pub(super) const KEY_SLOTS: u8 = 3;
/// More fetches ahead are seldom of use.
const MOST_KEY_SLOTS: u8 = 12;
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
        apart: false,
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

/// Candidates for a tile of `length` queries: equal parts, so many that all attentions fill `pes` once or a few times.
fn filling_tiles(sizes: &Sizes, pes: u64, length: u64) -> Vec<u64> {
    let attentions = sizes.batch * sizes.groups;
    (1..=8).map(|rounds| length.div_ceil((rounds * pes / attentions).max(1))).collect()
}

/// Candidates for the queries and keys of a flow: parts of equal size that fill the grid once or a few times.
fn flow_tiles(a: &Attention, sizes: &Sizes, target: &Target) -> Vec<(Course, [u64; 2])> {
    let mut tiles = Vec::new();
    if !a.causal {
        let fitting = filling_tiles(sizes, target.n_pes().into(), sizes.length);
        for keys in key_tiles(sizes.keys) {
            let queries = fitting.iter().copied().chain(query_tiles(sizes.length, keys));
            tiles.extend(queries.filter(|q| *q <= MAX_QUERIES).map(|q| (Course::Flow, [q, keys])));
        }
        return tiles;
    }
    let (rows, cols) = (u64::from(target.rows), u64::from(target.cols));
    let courses = [(Course::Flow, rows * cols, 1), (Course::Rows, rows, cols), (Course::Columns, cols, rows)];
    for (course, pes, across) in courses {
        // Blocks go in pairs.
        let fitting = filling_tiles(sizes, pes, sizes.length.div_ceil(2));
        for keys in fitting.into_iter().chain(key_tiles(sizes.keys)).filter(|keys| (16..=512).contains(keys))
        {
            let parts: &[u64] = if across > 1 { &[across] } else { &[1, 2, 4, 8] };
            for &parts in parts {
                // Whole tiles of the DPE need fewer cycles for a key.
                let least = keys.div_ceil(parts);
                let whole = (least..2 * least).find(|queries| (queries * parts).is_multiple_of(DPE_COLUMNS));
                let choices = [Some(least), whole].into_iter().flatten();
                tiles.extend(choices.map(|queries| (course, [queries, queries * parts])));
            }
        }
    }
    tiles.sort_unstable_by_key(|(course, tile)| (*course as u8, *tile));
    tiles.dedup();
    tiles
}

/// Of plans whose modelled times differ by less, that with the least code is taken: the model is not that exact.
const EQUAL: f64 = 1.001;
/// More passes are more code.
const MAX_PARTS: u64 = 8;
/// Larger tiles compute more of what lies behind the diagonal.
const MAX_QUERIES: u64 = 256;
