//! What one instruction costs on one target. The compiler's cost model and the machine model call the same function.

use crate::format::Format;
use crate::inst::InstKind;
use crate::object::{MemSpace, Transfer};
use crate::program::{Lane, SeBinary, SeOp, SeUnary};
use crate::target::Target;
pub use crate::work::{Cost, DPE_COLUMNS, DpeActions, Work};

/// Launches of a chain that may run at once: instructions of a launch wait for the end of the one so many places before it.
pub const IN_FLIGHT: usize = 4;

/// Alignment of weights, states, other tensors and slots of local memory, in bytes.
pub const ALIGN: u64 = 64;

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
