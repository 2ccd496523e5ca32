//! Tiles and grid of attention in stripes of queries, by modelled time: how many stripes, and how many keys a tile has.

use lacuna_ir::expand::Attention;
use lacuna_isa::target::Target;
use lacuna_isa::timing::DPE_COLUMNS;
use lacuna_isa::view::PE_COORDS;

use super::attention_plan::{Course, KEY_SLOTS, KEYS, Plan, Rejection, Sizes};
use super::attention_stripes::{FAR, Piece, Seen};
use super::attention_time::{FINISH_OPS, fetches};
use crate::nest::{Axis, Nest};

impl Plan {
    /// Rounds of the loop over keys of a stripe, which the last tile is not in. A partial tile is in none.
    pub fn rounds(&self) -> u64 {
        let rounds = (self.sizes.keys / self.keys).saturating_sub(1) / self.round;
        if rounds > 1 { rounds } else { 0 }
    }

    /// What is transferred of a stripe at a time: as many pieces as planned, and the last row where not all stripes have it.
    pub fn pieces_of_stripe(&self) -> Vec<Piece> {
        let stripes = self.stripes;
        let last = self.sizes.length % stripes;
        let rows = if last > 0 { self.queries - 1 } else { self.queries };
        let piece = rows.div_ceil(self.pieces).max(1);
        let firsts = (0..rows).step_by(piece as usize);
        let mut pieces: Vec<Piece> =
            firsts.map(|first| Piece { first, rows: piece.min(rows - first), stripes }).collect();
        if last > 0 {
            pieces.push(Piece { first: rows, rows: 1, stripes: last });
        }
        pieces
    }

    /// Stripes of queries, dealt to PEs so that few fetch the same keys.
    pub(super) fn striped(
        a: &Attention,
        sizes: Sizes,
        stripes: u64,
        keys: u64,
        target: &Target,
    ) -> Option<Plan> {
        let queries = sizes.length.div_ceil(stripes);
        let transformed = a.softcap.0 > 0.0 || sizes.mask.is_some() || a.scale.0 <= 0.0;
        // A view has a dimension for each of batch, group and head that there are several of.
        let several = [sizes.batch, sizes.groups, sizes.share].into_iter().filter(|&n| n > 1).count();
        if !a.causal || transformed || keys >= sizes.keys || queries < 2 || several > 2 {
            return None;
        }
        let round = stripes / gcd(stripes, keys);
        let mut plan = Plan {
            sizes,
            nest: Nest { axes: Vec::new(), grid: [1; PE_COORDS] },
            queries,
            keys,
            cut: 1,
            parts: 1,
            n_blocks: stripes,
            triangular: false,
            rejection: Rejection::Diagonal,
            transformed,
            banks: [2, 2],
            course: Course::Stripes,
            key_slots: KEY_SLOTS,
            stripes,
            round,
            windowed: a.window > 0,
            pieces: 1,
        };
        plan.fill_memories(target)?;
        // A stripe is over before the next one begins.
        plan.banks[1] = 1;
        let axes = vec![
            Axis::new("batch", sizes.batch, 1),
            Axis::new("group", sizes.groups, 1),
            Axis::new("tile", stripes, 1),
            Axis::new("keys", plan.rounds(), 1),
            Axis::new("part", 1, 1),
        ];
        let spread = [true, true, true, false, false];
        plan.nest = Nest::distribute_by(axes, &spread, target.rows, target.cols, &|pes| {
            (1.0, fetches(pes, sizes.apart))
        });
        // A piece should take the port no longer than two steps.
        let own = plan.rows() as f64 * (sizes.size * sizes.types[0].bytes_for(1)) as f64;
        let own = own * plan.nest.n_pes() as f64 / target.hbm_bytes_per_cycle;
        let most = (MAX_COPIES / round).min(plan.rounds().saturating_sub(1)).max(1);
        plan.pieces = ((own / plan.flow_step(plan.rows(), keys, target) / 2.0).ceil() as u64).clamp(1, most);
        plan.fetch_ahead(plan.flow_step(plan.rows() / 16, keys, target), MOST_STRIPE_SLOTS, target);
        plan.nest.fits().then_some(plan)
    }

    /// Modelled cycles of the busiest PE in a flow of stripes.
    pub(super) fn stripes_time(&self, a: &Attention, target: &Target) -> f64 {
        let s = &self.sizes;
        let fetch = self.fetch(target).max(self.load(target));
        let mut busy = 0.0;
        for tile in 0..self.n_key_tiles() {
            let seen = Seen::of(self, a.shift, a.window, (tile * self.keys) as i64);
            let rows = seen.rows.end.min(self.queries as i64) - seen.rows.start.clamp(0, self.queries as i64);
            let hidden = (seen.diagonal - seen.rows.start) + (seen.rows.end.min(FAR) - seen.edge.min(FAR));
            let issue = (hidden as f64 + STRIPE_INSTRUCTIONS) * target.issue_cycles as f64;
            let rows = s.share * rows.max(0) as u64;
            busy += self.flow_step(rows, self.keys, target).max(issue).max(fetch);
        }
        let rows = self.rows() as f64;
        let [scores, _] = self.products(self.rows(), self.keys, target);
        let peaks = rows * self.keys as f64 / target.bank_elements_per_cycle;
        let finish = rows * s.width as f64 * FINISH_OPS / target.simd_ops_per_cycle;
        let [q, _, _, y] = s.types.map(|ty| ty.bytes_for(8) as f64 / 8.0);
        let moved = |row: f64| rows * row * self.nest.n_pes() as f64 / target.hbm_bytes_per_cycle;
        let (queries, results) = (moved(s.size as f64 * q), moved(s.width as f64 * y));
        let latency = target.hbm_latency_cycles as f64;
        let port = self.n_key_tiles() as f64 * self.load(target) + queries + results;
        let trips = || self.nest.axes[..KEYS].iter().map(|a| a.trip);
        let units = trips().product::<u64>() as f64;
        // With one slot, queries are put together before a stripe begins, and fetched ahead in the innermost loop over stripes alone.
        let inner = trips().rfind(|&trip| trip > 1).unwrap_or(1) as f64;
        let (joined, loops) = match self.slots().queries {
            1 => (2.0 * rows * s.size as f64 * q / target.local_bytes_per_cycle, units / inner),
            _ => (0.0, 1.0),
        };
        // The SE divides while the first scores of the next stripe are made.
        let begin = finish.max(joined + scores) + peaks;
        // The first queries and the last results meet nothing else.
        let ends = loops * queries + results + finish + 2.0 * latency;
        units * (busy + begin).max(port) + ends
    }
}

/// Stripes and the keys of a tile.
pub(super) fn stripe_tiles(a: &Attention, sizes: &Sizes, target: &Target) -> Vec<[u64; 2]> {
    if !a.causal {
        return Vec::new();
    }
    let (pes, attentions) = (u64::from(target.n_pes()), sizes.batch * sizes.groups);
    let filling = (1..=16).map(|rounds| rounds * pes / attentions);
    let parts = (1..=8).flat_map(|n| [pes / n, pes * n]).chain([12, 16, 24, 32].map(|n| pes * n));
    let mut stripes: Vec<u64> =
        filling.chain(parts).filter(|n| (2..=MAX_STRIPES).contains(n) && 2 * n <= sizes.length).collect();
    stripes.sort_unstable();
    stripes.dedup();
    let mut tiles = Vec::new();
    for stripes in stripes {
        for keys in (1..=8).map(|n| n * DPE_COLUMNS) {
            let round = stripes / gcd(stripes, keys);
            let steps = stripes * attentions * sizes.keys.div_ceil(keys);
            if round <= MAX_ROUND && keys <= MAX_HIDDEN * stripes && steps <= MAX_STEPS {
                tiles.push([stripes, keys]);
            }
        }
    }
    tiles
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Stripes of fewer queries are all diagonal.
const MAX_STRIPES: u64 = 2048;
/// A round is that many copies of the code of a tile.
const MAX_ROUND: u64 = 12;
/// Copies of it for all parts of the loop over keys, between which pieces of stripes are transferred.
const MAX_COPIES: u64 = 24;
/// Rows with hidden keys of a tile, one instruction each.
const MAX_HIDDEN: u64 = 4;
/// Steps of all stripes: each is a round of a loop on some PE, which a replay goes through one by one.
const MAX_STEPS: u64 = 1 << 23;
/// Instructions of a step of stripes without hidden keys.
const STRIPE_INSTRUCTIONS: f64 = 10.0;
/// The last steps of a stripe are short.
const MOST_STRIPE_SLOTS: u8 = 15;
