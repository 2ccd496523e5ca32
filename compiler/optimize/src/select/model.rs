//! The modelled cost of a contraction in given formats, and of converting what it reads.
//!
//! Everything that takes an instruction is asked of [`lacuna_isa::timing::cost`], which the machine model replays too: products,
//! transfers, accumulator drains, SIMD programs. What this file adds is the shape of a kernel: a tile for
//! each PE and round, operands fetched once with multicast, ports shared evenly, the stages of a round in sequence and those of
//! successive rounds overlapped, in each of the forms that zeros admit ([`super::zeros`]). Code generation decides tiles with more
//! knowledge; this is the same arithmetic on fewer candidates, good enough to rank formats.

use lacuna_ir::{Function, Op, Value};
use lacuna_isa::format::Format;
use lacuna_isa::object::MemSpace;
use lacuna_isa::target::Target;
use lacuna_isa::timing::{DPE_COLUMNS, Work, cost};
use lacuna_isa::view::Pattern;

use super::extents::{Extents, bytes, padded};
use super::zeros::{Left, Zeros};

/// Share of local memory that tiles may fill, as code generation has it.
const LOCAL_FILL: f64 = 0.9;
/// Largest tile of rows and of columns, as code generation has them.
const MAX_TILE: [u64; 2] = [1024, 512];
/// Instructions of one round besides the product: loads, store, epilogue, buffer actions.
const ROUND_INSTRUCTIONS: u64 = 8;
/// SE operations on each element of an epilogue or a conversion: load, compute, store.
const EPILOGUE_OPS: u64 = 3;

/// What a kernel takes.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct KernelCost {
    /// Cycles from its launch to the next one.
    pub cycles: f64,
    /// Bytes over the HBM and SRAM ports.
    pub bytes: u64,
    /// Bytes of weights in the object, of a product.
    pub weight_bytes: u64,
}

/// The cost model for one target.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    /// The target.
    pub target: &'a Target,
}

impl Model<'_> {
    /// The kernel of a contraction whose operands have these formats, in the fastest of the forms that its zeros admit.
    pub fn product(
        &self,
        extents: &Extents,
        formats: [Format; 2],
        pattern: Option<Pattern>,
        zeros: &Zeros,
    ) -> KernelCost {
        let forms = zeros.forms(formats[1 - extents.first], pattern);
        let costs = forms.iter().map(|left| self.form(extents, formats, left));
        let fastest = costs.reduce(|best, next| if next.cycles < best.cycles { next } else { best });
        fastest.unwrap_or_default()
    }

    fn form(&self, extents: &Extents, formats: [Format; 2], left: &Left) -> KernelCost {
        let (first, second) = (extents.first, 1 - extents.first);
        let (a, b) = (formats[first], formats[second]);
        let pattern = left.pattern;
        let k = extents.summed / extents.grouped.max(1)
            * padded(extents.grouped, a, None).max(padded(extents.grouped, b, pattern));
        let a_bytes = bytes(a, None, extents.elements[first]);
        let b_bytes = if extents.packed {
            (extents.weight_bytes(b, pattern, second) as f64 * left.stored) as u64
        } else {
            bytes(b, pattern, extents.elements[second])
        };
        let out_bytes = 4 * extents.result;
        let unit = if extents.packed { DPE_COLUMNS } else { 1 };
        let mut best: Option<f64> = None;
        for rows in halves(extents.rows, MAX_TILE[0]) {
            for panels in halves(extents.columns.div_ceil(unit), MAX_TILE[1] / unit) {
                let tile = Tile { rows, columns: panels * unit, k, a, b, left: *left };
                let cycles = self.tiled(extents, &tile, [a_bytes, b_bytes, out_bytes], [first, second]);
                if let Some(cycles) = cycles
                    && best.is_none_or(|known| cycles < known)
                {
                    best = Some(cycles);
                }
            }
        }
        // Where no tile fits, code generation will refuse: the work alone is a bound.
        let (m, n) = (extents.rows, extents.columns);
        let work = Work::Matmul { m, n, k, a, b, pattern, actions: None };
        let alone =
            || (extents.batch * cost(&work, self.target).cycles) as f64 / f64::from(self.target.n_pes());
        KernelCost {
            cycles: best.unwrap_or_else(alone) + self.target.launch_cycles as f64,
            bytes: a_bytes + b_bytes + out_bytes,
            weight_bytes: if extents.packed { b_bytes } else { 0 },
        }
    }

    fn tiled(&self, extents: &Extents, tile: &Tile, far: [u64; 3], order: [usize; 2]) -> Option<f64> {
        let target = self.target;
        let area = tile.rows * tile.columns;
        if area * 4 > target.bank_bytes {
            return None;
        }
        // The summed dimension is cut until two slots of each operand fit beside the result.
        let local = (target.local_bytes as f64 * LOCAL_FILL) as u64;
        let mut parts = 1;
        let slots = loop {
            let k = tile.k.div_ceil(parts);
            let slots = bytes(tile.a, None, tile.rows * k) + tile.second_bytes(k);
            if 2 * slots + 8 * area <= local {
                break slots;
            }
            if k <= 1 {
                return None;
            }
            parts *= 2;
        };
        let n_tiles =
            extents.batch * extents.rows.div_ceil(tile.rows) * extents.columns.div_ceil(tile.columns);
        let rounds = n_tiles.div_ceil(u64::from(target.n_pes())) * parts;
        let k = tile.k.div_ceil(parts);
        let Tile { rows: m, columns: n, a, b, left, .. } = *tile;
        let work = Work::Matmul { m, n, k, a, b, pattern: left.pattern, actions: None };
        let needed = left.needed(m);
        let dpe = cost(&work, target).cycles as f64 * left.steps * needed;
        let drain = cost(&Work::Bank { elements: area }, target).cycles
            + cost(&Work::Simd { elements: area, ops: EPILOGUE_OPS, bytes: area * 8 }, target).cycles;
        let drain = drain as f64 / parts as f64;
        let near = slots as f64 - tile.second_bytes(k) as f64 * (1.0 - needed);
        let mut ports = [0.0; 2];
        let mut latency = 0u64;
        // Rows that are chosen by what one PE computes are fetched for it alone.
        let apart = (n_tiles * parts * tile.second_bytes(k)) as f64;
        let far_of_second = if left.by_rows { apart * needed } else { far[1] as f64 };
        for (operand, bytes) in order.iter().zip([far[0] as f64, far_of_second]) {
            let (port, delay) = self.port(extents.spaces[*operand]);
            ports[port] += bytes / self.rate(extents.spaces[*operand]);
            latency = latency.max(delay);
        }
        let fetch = (ports[0].max(ports[1]) / rounds as f64).max(near / target.local_bytes_per_cycle);
        let store = far[2] as f64 / self.rate(extents.result_space) / rounds as f64;
        let latency = (latency + self.port(extents.result_space).1) as f64;
        let stages = [fetch, dpe, drain, store];
        let longest = stages.iter().fold(0.0f64, |x, &y| x.max(y));
        let issue = (rounds * ROUND_INSTRUCTIONS * target.issue_cycles) as f64;
        Some(latency + stages.iter().sum::<f64>() + (rounds - 1) as f64 * longest + issue)
    }

    /// A kernel of its own that reads `elements` in f32 from shared SRAM and writes them in a format.
    pub fn convert(&self, elements: u64, to: Format) -> KernelCost {
        let target = self.target;
        let (read, written) = (4 * elements, bytes(to, None, elements));
        let share = elements.div_ceil(u64::from(target.n_pes()));
        let work = Work::Simd {
            elements: share,
            ops: EPILOGUE_OPS,
            bytes: (read + written).div_ceil(u64::from(target.n_pes())),
        };
        let cycles = target.launch_cycles as f64
            + 2.0 * target.sram_latency_cycles as f64
            + (read + written) as f64 / target.sram_bytes_per_cycle
            + cost(&work, target).cycles as f64;
        KernelCost { cycles, bytes: read + written, ..KernelCost::default() }
    }

    /// Storing `elements` in a format to shared SRAM from a kernel that computes them anyway.
    pub fn store(&self, elements: u64, format: Format) -> KernelCost {
        let bytes = bytes(format, None, elements);
        let cycles = bytes as f64 / self.target.sram_bytes_per_cycle;
        KernelCost { cycles, bytes, ..KernelCost::default() }
    }

    fn port(&self, space: MemSpace) -> (usize, u64) {
        match space {
            MemSpace::Weights | MemSpace::Hbm => (0, self.target.hbm_latency_cycles),
            MemSpace::Sram => (1, self.target.sram_latency_cycles),
        }
    }

    fn rate(&self, space: MemSpace) -> f64 {
        match space {
            MemSpace::Weights | MemSpace::Hbm => self.target.hbm_bytes_per_cycle,
            MemSpace::Sram => self.target.sram_bytes_per_cycle,
        }
    }
}

struct Tile {
    rows: u64,
    columns: u64,
    k: u64,
    a: Format,
    b: Format,
    left: Left,
}

impl Tile {
    /// Bytes of a slot of the second operand, for `k` summed elements.
    fn second_bytes(&self, k: u64) -> u64 {
        bytes(self.b, self.left.pattern, self.columns * k)
    }
}

/// `n` and its halves, rounded up, those of at most `max`.
fn halves(n: u64, max: u64) -> Vec<u64> {
    let mut all = Vec::new();
    let mut n = n.max(1);
    loop {
        if n <= max.max(1) {
            all.push(n);
        }
        if n == 1 || all.len() >= 8 {
            return all;
        }
        n = n.div_ceil(2);
    }
}

/// Whether code generation stores `value` in groups along `axis` from the kernel that computes it, beside its plain form or
/// instead of it: element-wise regions, products, norms and reductions do, if all groups are whole.
pub fn groups_join(func: &Function, value: Value, format: Format, axis: u8) -> bool {
    let Some(def) = func.def(value) else { return false };
    let op = &func.nodes[def].op;
    let whole = func.ty(value).shape[usize::from(axis)].is_multiple_of(u64::from(format.group_size()));
    whole && (op.is_elementwise() || op.is_product() || matches!(op, Op::Norm { .. } | Op::Reduce { .. }))
}

/// Whether code generation computes a cast of `value` in the kernel that computes `value`, if nothing else reads it.
pub fn cast_joins(func: &Function, value: Value) -> bool {
    let Some(def) = func.def(value) else { return false };
    let op = &func.nodes[def].op;
    op.is_elementwise() || op.is_product()
}
