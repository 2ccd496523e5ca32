//! What one instruction costs on one target. The compiler's cost model and the machine model call the same function.

use crate::energy::EnergyByAction;
use crate::format::Format;
use crate::inst::InstKind;
use crate::object::{MemSpace, Transfer};
use crate::program::{Lane, SeBinary, SeOp, SeUnary};
use crate::target::Target;
use crate::view::Pattern;

/// The work of one dynamic instruction, after clipping.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Work {
    /// Nothing but control or buffer actions.
    Control,
    /// A transfer between local memory and `space`.
    Dma {
        /// Bytes moved to or from the far memory, all planes.
        bytes: u64,
        /// Number of contiguous runs.
        runs: u64,
        /// Far memory.
        space: MemSpace,
        /// PEs that receive one fetch: 1 without multicast.
        receivers: u32,
    },
    /// A transfer whose far and local bytes differ: a compressed tensor expands, a combining store also reads.
    Uneven {
        /// Bytes moved to or from the far memory.
        far_bytes: u64,
        /// Bytes written to or read from local memory.
        local_bytes: u64,
        /// Number of contiguous runs.
        runs: u64,
        /// Far memory.
        space: MemSpace,
        /// PEs that receive one fetch: 1 without multicast.
        receivers: u32,
    },
    /// Elements of local memory put elsewhere in local memory.
    Layout {
        /// Bytes read and written.
        bytes: u64,
    },
    /// Writing local memory.
    Fill {
        /// Bytes written.
        bytes: u64,
    },
    /// A product of tiles, dense sizes.
    Matmul {
        /// Rows.
        m: u64,
        /// Columns.
        n: u64,
        /// Summed elements, before N:M compression.
        k: u64,
        /// Format of the first operand.
        a: Format,
        /// Format of the second operand.
        b: Format,
        /// Pattern of the second operand.
        pattern: Option<Pattern>,
        /// What a mask, or zeros that are known, leave of it; `None` for all of it.
        actions: Option<DpeActions>,
    },
    /// Accumulators cleared or converted.
    Bank {
        /// Accumulators.
        elements: u64,
    },
    /// Slots that cross PEs.
    Exchange {
        /// Bytes that the PE gives.
        sent: u64,
        /// Bytes that it gets, its own among them.
        received: u64,
    },
    /// Banks summed across PEs.
    BankSum {
        /// Accumulators that the PE reads, its own and others', to make its part.
        elements: u64,
    },
    /// A collective of one rank.
    Message {
        /// Bytes over the chip's links in the busier direction.
        bytes: u64,
        /// Steps, each of which waits for the one before.
        steps: u64,
        /// Bytes read from and written to HBM.
        hbm_bytes: u64,
        /// Bytes read from and written to shared SRAM.
        sram_bytes: u64,
    },
    /// An SE program.
    Simd {
        /// Elements of the domain.
        elements: u64,
        /// Operations on each, those on 64-bit lanes counted twice, transcendental ones by [`crate::timing::op_slots`].
        ops: u64,
        /// Bytes read from and written to local memory.
        bytes: u64,
    },
}

/// What a DPE does in a product.
///
/// A mask *skips*: no reads, no cycles. `mmact` compacts the k that are set in front of the multipliers, so every unset k
/// saves; `mmblk` drops a step where all flags of a tile of [`DPE_COLUMNS`] columns by [`DPE_SKIP_BYTES`] of k are off. That a
/// DPE can do so at this grain is assumed: no text describes such a unit on these chips. A zero of the first operand *gates*:
/// the multiplier rests and, where all rows are zero at a k, the second operand is not read, but the cycle passes. Results are
/// those of all terms: a zero that meets an infinity or NaN is not gated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DpeActions {
    /// Steps of one row, one tile of 32 columns and one k: the cycles of a DPE with 32 multipliers.
    pub steps: u64,
    /// Elements of the first operand that are read.
    pub a_reads: u64,
    /// Elements of the second operand that are read.
    pub b_reads: u64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Multiply-accumulates that a mask or pattern skips.
    pub skipped: u64,
    /// Multiply-accumulates, of `macs`, that zeros of the first operand gate.
    pub gated: u64,
    /// Elements, of `b_reads`, that zeros of the first operand save.
    pub b_gated: u64,
    /// Flags of the mask that are read, a byte each.
    pub flags: u64,
}

impl DpeActions {
    /// A product without mask, pattern or known zeros.
    pub fn dense(m: u64, n: u64, k: u64) -> DpeActions {
        let steps = m * n.div_ceil(DPE_COLUMNS) * k;
        DpeActions { steps, a_reads: m * k, b_reads: n * k, macs: m * n * k, ..DpeActions::default() }
    }

    /// The same on a DPE that gates zeros of the first operand: fewer reads and multiply-accumulates, the same steps.
    pub fn with_gate(self) -> DpeActions {
        DpeActions { macs: self.macs - self.gated, b_reads: self.b_reads - self.b_gated, ..self }
    }

    /// Adds the actions of another product.
    pub fn add(&mut self, other: &DpeActions) {
        self.steps += other.steps;
        self.a_reads += other.a_reads;
        self.b_reads += other.b_reads;
        self.macs += other.macs;
        self.skipped += other.skipped;
        self.gated += other.gated;
        self.b_gated += other.b_gated;
        self.flags += other.flags;
    }

    /// These actions of a product, scaled as `part` is to `whole` of other products.
    pub fn scaled(self, part: &DpeActions, whole: &DpeActions) -> DpeActions {
        let of = |n: u64, part: u64, whole: u64| match whole {
            0 => 0,
            _ => u64::try_from(u128::from(n) * u128::from(part) / u128::from(whole)).unwrap_or(u64::MAX),
        };
        let macs = of(self.macs, part.macs, whole.macs);
        let b_reads = of(self.b_reads, part.b_reads, whole.b_reads);
        DpeActions {
            steps: of(self.steps, part.steps, whole.steps),
            a_reads: of(self.a_reads, part.a_reads, whole.a_reads),
            b_reads,
            macs,
            skipped: self.macs - macs,
            gated: of(self.macs, part.gated, whole.macs).min(macs),
            b_gated: of(self.b_reads, part.b_gated, whole.b_reads).min(b_reads),
            flags: self.flags,
        }
    }
}

/// What a piece of work occupies.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Cost {
    /// Cycles of the engine.
    pub cycles: u64,
    /// Bytes over the HBM port.
    pub hbm_bytes: u64,
    /// Bytes over the shared SRAM port.
    pub sram_bytes: u64,
    /// Multiply-accumulates performed.
    pub macs: u64,
    /// Multiply-accumulates that sparsity skipped.
    pub macs_skipped: u64,
    /// Energy of the actions, in picojoules; 0 on a target without a table of energies.
    pub energy_pj: f64,
    /// The same by kind of action.
    pub energy: EnergyByAction,
}

/// Issue slots of one SE operation on one element: transcendental functions are polynomials of several slots.
pub fn op_slots(op: &SeOp) -> u64 {
    let width = |lane: Lane| match lane {
        Lane::F32 | Lane::I32 => 1,
        Lane::F64 | Lane::I64 => 2,
    };
    match *op {
        SeOp::Const { .. } => 0,
        SeOp::Load { lane, .. }
        | SeOp::Store { lane, .. }
        | SeOp::Fma { lane, .. }
        | SeOp::Select { lane, .. } => width(lane),
        SeOp::Coord { .. } => 1,
        SeOp::Unary { f, lane, .. } => width(lane) * unary_slots(f),
        SeOp::Binary { f, lane, .. } => width(lane) * binary_slots(f),
        SeOp::Convert { from, to, .. } => width(from).max(width(to)),
        SeOp::RoundTo { lane, .. } | SeOp::Accumulate { lane, .. } => width(lane),
        SeOp::Tree { lane, .. } => 4 * width(lane),
    }
}

fn unary_slots(f: SeUnary) -> u64 {
    match f {
        SeUnary::Mov
        | SeUnary::Neg
        | SeUnary::Abs
        | SeUnary::Sign
        | SeUnary::Ceil
        | SeUnary::Floor
        | SeUnary::Round
        | SeUnary::Not
        | SeUnary::Inv
        | SeUnary::IsNan
        | SeUnary::IsInf => 1,
        SeUnary::Sqrt | SeUnary::Recip => 4,
        SeUnary::Exp
        | SeUnary::Sigmoid
        | SeUnary::Tanh
        | SeUnary::Erf
        | SeUnary::Log
        | SeUnary::Expm1
        | SeUnary::Log1p
        | SeUnary::NormCdf => 8,
        SeUnary::Sin
        | SeUnary::Cos
        | SeUnary::Tan
        | SeUnary::Asin
        | SeUnary::Acos
        | SeUnary::Atan
        | SeUnary::Sinh
        | SeUnary::Cosh
        | SeUnary::Asinh
        | SeUnary::Acosh
        | SeUnary::Atanh => 16,
    }
}

fn binary_slots(f: SeBinary) -> u64 {
    match f {
        SeBinary::Add
        | SeBinary::Sub
        | SeBinary::Mul
        | SeBinary::Min
        | SeBinary::Max
        | SeBinary::And
        | SeBinary::Or
        | SeBinary::Xor
        | SeBinary::Shl
        | SeBinary::Shr
        | SeBinary::Eq
        | SeBinary::Lt
        | SeBinary::Le => 1,
        SeBinary::Div | SeBinary::Mod | SeBinary::Rem => 4,
        SeBinary::Pow => 16,
    }
}

/// What `work` costs on `target`: what it occupies, and the energy of its actions, 0 where the target has no table of
/// energies ([`Target::energy`] is `None`).
///
/// The far end of a transfer (HBM, shared SRAM) is a shared port: its occupancy follows from the bytes and is the
/// machine model's business; `cycles` is what the engine itself needs. A product runs at the slower of the DPE's rate for the
/// operand formats and the streaming of its operands; formats that are not native run at the rate of the slowest one.
pub fn cost(work: &Work, target: &Target) -> Cost {
    let occupied = occupied(work, target);
    let energy = target.energy.as_ref().map(|energy| energy.of(work, &occupied)).unwrap_or_default();
    Cost { energy_pj: energy.total_pj(), energy, ..occupied }
}

fn occupied(work: &Work, target: &Target) -> Cost {
    let ceil = |x: f64| x.ceil().max(0.0) as u64;
    match *work {
        Work::Control => Cost { cycles: target.issue_cycles, ..Cost::default() },
        Work::Dma { bytes, runs, space, receivers } => {
            let even = Work::Uneven { far_bytes: bytes, local_bytes: bytes, runs, space, receivers };
            occupied(&even, target)
        }
        Work::Uneven { far_bytes, local_bytes, runs, space, receivers } => {
            let shared = far_bytes / u64::from(receivers.max(1));
            let (hbm_bytes, sram_bytes) = match space {
                MemSpace::Weights | MemSpace::Hbm => (shared, 0),
                MemSpace::Sram => (0, shared),
            };
            // A run shorter than one 64-byte beat costs a beat.
            let beats = local_bytes.max(runs * DMA_BEAT_BYTES);
            let cycles = ceil(beats as f64 / target.local_bytes_per_cycle);
            Cost { cycles, hbm_bytes, sram_bytes, ..Cost::default() }
        }
        Work::Layout { bytes } | Work::Fill { bytes } => {
            Cost { cycles: ceil(bytes as f64 / target.local_bytes_per_cycle), ..Cost::default() }
        }
        Work::Matmul { m, n, k, a, b, pattern, actions: None } => {
            let dense = m * n * k;
            let rate = target.product_rate(a, b, pattern);
            let macs = pattern.map_or(dense, |p| dense * u64::from(p.n) / u64::from(p.m));
            // Columns come in tiles of 32; a narrower tile leaves multipliers idle.
            let padded = m * n.next_multiple_of(DPE_COLUMNS) * k;
            Cost { cycles: ceil(padded as f64 / rate), macs, macs_skipped: dense - macs, ..Cost::default() }
        }
        Work::Matmul { a, b, pattern, actions: Some(actions), .. } => {
            let DpeActions { steps, macs, skipped, .. } = actions;
            let cycles = ceil((steps * DPE_COLUMNS) as f64 / target.product_rate(a, b, pattern));
            Cost { cycles, macs, macs_skipped: skipped, ..Cost::default() }
        }
        Work::Bank { elements } => {
            Cost { cycles: ceil(elements as f64 / target.bank_elements_per_cycle), ..Cost::default() }
        }
        Work::Exchange { sent, received } => {
            let bytes = sent.max(received);
            Cost { cycles: ceil(bytes as f64 / target.local_bytes_per_cycle), ..Cost::default() }
        }
        Work::BankSum { elements } => {
            Cost { cycles: ceil(elements as f64 / target.bank_elements_per_cycle), ..Cost::default() }
        }
        Work::Message { bytes, steps, hbm_bytes, sram_bytes } => {
            let streaming = ceil(bytes as f64 / target.link_bytes_per_cycle);
            let cycles = steps * target.link_latency_cycles + streaming;
            Cost { cycles, hbm_bytes, sram_bytes, ..Cost::default() }
        }
        Work::Simd { elements, ops, bytes } => {
            let compute = (elements * ops) as f64 / target.simd_ops_per_cycle;
            let memory = bytes as f64 / target.local_bytes_per_cycle;
            Cost { cycles: ceil(compute.max(memory)), ..Cost::default() }
        }
    }
}

/// What a collective occupies on one of `ranks` chips: bytes by the ring algorithm, in which every chip sends to its
/// neighbour in each step. `recv` costs its `send` nothing more: the message was under way.
pub fn message(kind: &InstKind, transfer: &Transfer, ranks: u16) -> Work {
    let (read, written) = transfer.bytes(kind, ranks).unwrap_or((0, 0));
    let n = u64::from(ranks.max(1));
    let others = n - 1;
    let (bytes, steps) = match kind {
        InstKind::Allred { .. } => (2 * (read * others).div_ceil(n), 2 * others),
        InstKind::Allgath { .. } => (read * others, others),
        InstKind::Redscat { .. } => (written * others, others),
        // Every part goes to its own rank; ranks are taken to be one step apart.
        InstKind::Alltoall { .. } => (read / n * others, others.min(1)),
        InstKind::Send { .. } => (read, 1),
        _ => (0, 0),
    };
    let mut memory = [0, 0];
    for (at, n) in [(transfer.src, read), (transfer.dst, written)] {
        memory[usize::from(at.space == MemSpace::Sram)] += n;
    }
    Work::Message { bytes, steps, hbm_bytes: memory[0], sram_bytes: memory[1] }
}

/// Bytes of the shortest transfer of the fabric interface.
pub const DMA_BEAT_BYTES: u64 = 64;
/// Columns of a DPE tile.
pub const DPE_COLUMNS: u64 = 32;
/// Bytes of the second operand's k that a DPE skips together in `mmblk`: half of the 64 that a tile holds. Assumed.
pub const DPE_SKIP_BYTES: u64 = 32;

/// Elements of k that a DPE skips together in `mmblk` where the second operand has this format.
pub fn dpe_skip_elements(format: Format) -> u64 {
    (DPE_SKIP_BYTES * 8 / u64::from(format.element().bits()).max(1)).max(1)
}

/// Elements of k that share a flag in what the compiler makes of zero blocks: what a DPE skips together, as a power of two so that
/// groups fit.
pub fn flag_elements(format: Format) -> u64 {
    (1 << dpe_skip_elements(format).ilog2()).max(u64::from(format.group_size()))
}

/// The share of activations that the compiler takes to be other than zero behind a ReLU, when nothing has been measured: that of
/// values which are as often negative as positive.
pub const ASSUMED_ACTIVITY: f64 = 0.5;
/// Shares of dense bytes and of flags above which leaving out zeros is not worth an instruction.
pub const WORTHWHILE: f64 = 0.95;

/// The network that `sort` is timed as, in SE operations for each element of a row of `n`: a bitonic one of p(p + 1)/2
/// stages, p = log2 n, with a lesser and a greater of two 64-bit values for each pair. Assumed.
pub fn sort_ops(n: u64) -> u64 {
    let p = u64::from(n.max(1).next_power_of_two().ilog2());
    p * (p + 1)
}

/// The last p stages of such a network, which merge two sorted halves of a row of `n`.
pub fn merge_ops(n: u64) -> u64 {
    2 * u64::from(n.max(1).next_power_of_two().ilog2())
}
