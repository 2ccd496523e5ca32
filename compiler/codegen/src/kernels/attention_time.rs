//! How long attention takes by a plan: the arithmetic of the machine model, for the busiest PE.

use lacuna_isa::format::Format;
use lacuna_isa::target::Target;
use lacuna_isa::timing::DPE_COLUMNS;
use lacuna_isa::view::PE_COORDS;

use super::attention_plan::{BATCH, GROUP, KEY_SLOTS, KEYS, Plan, Rejection, TILE};

impl Plan {
    /// Tiles of keys that block `i` of queries needs, where the first query stands at the first key.
    fn steps(&self, i: u64) -> u64 {
        if self.triangular { ((i + 1) * self.block()).div_ceil(self.keys) } else { self.n_key_tiles() }
    }

    /// Modelled cycles of the busiest PE: an upper bound of either engine's work and of the transfers.
    pub(super) fn time(&self, target: &Target) -> f64 {
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
        let shared = f64::from(self.sharers());
        let load = bytes * self.nest.n_pes() as f64 / shared / target.hbm_bytes_per_cycle;
        let issue = STEP_INSTRUCTIONS * target.issue_cycles as f64;
        // With one slot, the scores of the next tile wait for the softmax of this one.
        let chain = if self.banks[0] == 1 && self.cut == 1 { scores + softmax } else { softmax };
        let cut = self.cut as f64;
        // A fetch has as many steps as there are slots.
        let fetch = (target.hbm_latency_cycles as f64 + load) / f64::from(KEY_SLOTS);
        let units = self.nest.axes[..KEYS].iter().map(|a| a.trip).product::<u64>() as f64;
        let (steps, passes) = if self.triangular {
            (self.parts * (self.steps(0) + self.steps(self.n_blocks - 1)), 2.0 * self.parts as f64)
        } else {
            (self.n_key_tiles(), 1.0)
        };
        // The first fetches find empty slots.
        let waiting = (1.0 - f64::from(KEY_SLOTS) / (units * steps as f64)).max(0.0);
        let busy = (cut * products.max(chain).max(issue)).max(load);
        let step = busy + (fetch - busy).max(0.0) * waiting;
        // The SE waits for the last product of a unit and the first of the next, but not between units of one step each.
        let turn = if self.n_key_tiles() == 1 { 0.0 } else { products };
        let finish = rows * s.width as f64 * FINISH_OPS / target.simd_ops_per_cycle;
        // The first keys of a causal pass wait behind the result before.
        let wait = if self.triangular { target.hbm_latency_cycles as f64 } else { 0.0 };
        // The first tile goes through one engine after the other, and so does what is left of the last.
        let ends = (products + softmax - step).max(0.0);
        units * (steps as f64 * step + passes * (turn + cut * finish + issue + wait)) + ends
    }

    /// Cycles between the steps of a flow in which tiles of keys can arrive.
    pub(super) fn fetch(&self, target: &Target) -> f64 {
        // One slot is in use.
        (target.hbm_latency_cycles as f64 + self.load(target)) / f64::from(self.key_slots - 1)
    }

    /// Cycles of the port for a tile of keys and values, by the share of it that a PE has.
    pub(super) fn load(&self, target: &Target) -> f64 {
        let s = &self.sizes;
        let [_, k, v, _] = s.types.map(|ty| ty.bytes_for(8) as f64 / 8.0);
        let bytes = self.keys as f64 * (s.size as f64 * k + s.width as f64 * v);
        let shared = f64::from(self.sharers());
        bytes * self.nest.n_pes() as f64 / shared / target.hbm_bytes_per_cycle
    }

    /// Cycles that scores and weighted sums of so many rows and keys keep the DPE busy.
    pub(super) fn products(&self, rows: u64, keys: u64, target: &Target) -> [f64; 2] {
        let s = &self.sizes;
        let [q, k, v, _] = s.types.map(Format::Scalar);
        let rows = rows as f64;
        let padded = |n: u64| n.next_multiple_of(DPE_COLUMNS) as f64;
        let scores = rows * padded(keys) * s.size as f64 / target.product_rate(q, k, None);
        [scores, rows * padded(s.width) * keys as f64 / target.product_rate(v, v, None)]
    }

    /// Modelled cycles of a step of a flow over so many rows and keys.
    pub(super) fn flow_step(&self, rows: u64, keys: u64, target: &Target) -> f64 {
        let [scores, sums] = self.products(rows, keys, target);
        let rows = rows as f64;
        let softmax = rows * (keys as f64 * WEIGH_OPS + RAISE_OPS) / target.simd_ops_per_cycle;
        let peaks = rows * keys as f64 / target.bank_elements_per_cycle;
        let rescale = rows * self.sizes.width as f64 / target.bank_elements_per_cycle;
        let issue = FLOW_INSTRUCTIONS * target.issue_cycles as f64;
        // A tile goes through all engines in two steps; with one slot for scores, in one.
        let chain = sums + scores.max(rescale) + peaks + softmax;
        let chain = if self.banks[0] > 1 { chain / 2.0 } else { chain };
        [softmax, scores + sums, peaks + rescale, sums + rescale, issue, chain]
            .into_iter()
            .fold(0.0, f64::max)
    }

    /// Modelled cycles of the busiest PE in a flow.
    pub(super) fn flow_time(&self, target: &Target) -> f64 {
        let s = &self.sizes;
        let rows = self.rows() as f64;
        let step = self.flow_step(self.rows(), self.keys, target).max(self.fetch(target));
        let finish = rows * s.width as f64 * FINISH_OPS / target.simd_ops_per_cycle;
        let start = FLOW_INSTRUCTIONS * target.issue_cycles as f64;
        let last = |width: u64| {
            let peaks = rows * width as f64 / target.bank_elements_per_cycle;
            let [scores, sums] = self.products(self.rows(), width, target);
            // With one slot for results, nothing is begun before a pass is over.
            let begin = if self.banks[1] > 1 { 0.0 } else { scores + peaks };
            let compared = rows * self.queries as f64 * DIAGONAL_OPS / target.simd_ops_per_cycle;
            let compare = if self.triangular { compared + peaks } else { 0.0 };
            let softmax = rows * (width as f64 * WEIGH_OPS + RAISE_OPS) / target.simd_ops_per_cycle;
            // The DPE goes on to the next pass when it has added the tile before the last: time that parts may not fill.
            let [next, added] = self.products(self.rows(), self.keys, target);
            let peak = rows * self.keys as f64 / target.bank_elements_per_cycle;
            let gap = if self.across() { (next + added + peak - softmax).max(0.0) } else { 0.0 };
            compare + softmax + sums + finish + begin + start + gap
        };
        let (tiles, widths): (u64, Vec<u64>) = if !self.triangular {
            let tiles = self.n_key_tiles() - 1;
            (tiles, vec![s.keys - tiles * self.keys])
        } else if self.across() {
            // What a PE sees more of one block's last tile it sees less of the other's.
            (self.n_blocks - 1, vec![(self.parts + 1) * self.queries / 2; 2])
        } else {
            let widths = (1..=self.parts).flat_map(|i| [i * self.queries; 2]);
            (self.parts * (self.n_blocks - 1), widths.collect())
        };
        let [q, _, _, y] = s.types.map(|ty| ty.bytes_for(8) as f64 / 8.0);
        let own = rows * (s.size as f64 * q + s.width as f64 * y) * self.nest.n_pes() as f64;
        let own = own / target.hbm_bytes_per_cycle;
        let busy = tiles as f64 * step + widths.iter().map(|&width| last(width)).sum::<f64>();
        let port = (tiles as f64 + widths.len() as f64) * self.load(target) + widths.len() as f64 * own;
        // Transfers of short passes come in bursts, which a port that is nearly full does not hide.
        let (least, most) = (busy.min(port), busy.max(port));
        let unit = most + if self.across() { BURSTS * least * least / most } else { 0.0 };
        let units = self.nest.axes[..KEYS].iter().map(|a| a.trip).product::<u64>() as f64;
        // The first queries and the last results meet nothing else.
        units * unit + own + finish + 2.0 * target.hbm_latency_cycles as f64
    }

    /// PEs that want the same keys and can share a fetch.
    fn sharers(&self) -> u32 {
        let grid = self.nest.grid.map(u32::from);
        let still = |axis: usize, c: usize| self.nest.axes[axis].pes[c] == 1;
        let same = |c: usize| (self.sizes.apart || still(BATCH, c)) && still(GROUP, c);
        let fixed = |c: usize| same(c) && (!self.triangular || still(TILE, c));
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
pub(super) const FINISH_OPS: f64 = 7.0;
/// SE operations on a score of a flow: a load, scale and maximum, the exponential, a store and the sum.
const WEIGH_OPS: f64 = 13.0;
/// SE operations of a row of a tile in a flow: maximum, factor and sum.
const RAISE_OPS: f64 = 26.0;
/// SE operations that compare the positions of a score.
const DIAGONAL_OPS: f64 = 6.0;
/// What bursts cost at a port as full as the engines, as a share of the time; fitted to replays.
const BURSTS: f64 = 0.1;
/// Instructions of a step of a flow.
const FLOW_INSTRUCTIONS: f64 = 9.0;
/// Instructions of a step.
const STEP_INSTRUCTIONS: f64 = 10.0;

/// Fetches of the same keys by PEs that the axes are so dealt to; heads that stand `apart` have the same keys.
pub(super) fn fetches(pes: &[[u16; PE_COORDS]], apart: bool) -> u64 {
    let part = |range: std::ops::Range<usize>| -> u64 {
        let own = range.clone().any(|c| (pes[BATCH][c] > 1 && !apart) || pes[GROUP][c] > 1);
        let n = range.map(|c| pes.iter().map(|axis| u64::from(axis[c])).max().unwrap_or(1)).product();
        if own { n } else { 1 }
    };
    part(0..2) * part(2..PE_COORDS)
}
