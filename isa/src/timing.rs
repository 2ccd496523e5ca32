//! What one instruction costs on one target. The compiler's cost model and the machine model call the same function.

use crate::format::Format;
use crate::object::MemSpace;
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
    },
    /// Accumulators cleared or converted.
    Bank {
        /// Accumulators.
        elements: u64,
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
        SeUnary::Exp | SeUnary::Sigmoid | SeUnary::Tanh | SeUnary::Erf | SeUnary::Log => 8,
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
    let energy_pj = target.energy.as_ref().map_or(0.0, |energy| energy.of(work, &occupied));
    Cost { energy_pj, ..occupied }
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
        Work::Matmul { m, n, k, a, b, pattern } => {
            let dense = m * n * k;
            let rate = target.product_rate(a, b, pattern);
            let macs = pattern.map_or(dense, |p| dense * u64::from(p.n) / u64::from(p.m));
            // Columns come in tiles of 32; a narrower tile leaves multipliers idle.
            let padded = m * n.next_multiple_of(DPE_COLUMNS) * k;
            Cost { cycles: ceil(padded as f64 / rate), macs, macs_skipped: dense - macs, ..Cost::default() }
        }
        Work::Bank { elements } => {
            Cost { cycles: ceil(elements as f64 / target.bank_elements_per_cycle), ..Cost::default() }
        }
        Work::Simd { elements, ops, bytes } => {
            let compute = (elements * ops) as f64 / target.simd_ops_per_cycle;
            let memory = bytes as f64 / target.local_bytes_per_cycle;
            Cost { cycles: ceil(compute.max(memory)), ..Cost::default() }
        }
    }
}

/// Bytes of the shortest transfer of the fabric interface.
pub const DMA_BEAT_BYTES: u64 = 64;
/// Columns of a DPE tile.
pub const DPE_COLUMNS: u64 = 32;
