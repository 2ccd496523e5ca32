//! The work of an instruction, and what it costs: counts and picojoules by kind of action.

use crate::format::Format;
use crate::object::MemSpace;
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

macro_rules! actions {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)*) => {
        /// Picojoules by kind of action.
        #[derive(Clone, Copy, PartialEq, Debug, Default)]
        pub struct EnergyByAction { $($(#[$doc])* pub $field: f64,)* }

        impl EnergyByAction {
            /// Every kind with its name in text forms and its picojoules.
            pub fn parts(&self) -> Vec<(&'static str, f64)> {
                vec![$(($name, self.$field),)*]
            }

            /// Picojoules of all kinds.
            pub fn total_pj(&self) -> f64 {
                0.0 $(+ self.$field)*
            }

            /// Adds `times` what `other` is.
            pub fn add(&mut self, other: &EnergyByAction, times: f64) {
                $(self.$field += other.$field * times;)*
            }
        }
    };
}

actions! {
    /// Multiply-accumulates performed.
    mac = "mac",
    /// Multiply-accumulates gated.
    gated = "gated",
    /// Multiply-accumulates skipped.
    skipped = "skipped",
    /// Operations of the SE.
    simd = "simd",
    /// Data in local memory.
    local = "local",
    /// Masks and indices in local memory.
    metadata = "metadata",
    /// Data in shared SRAM.
    sram = "sram",
    /// Data over the HBM port.
    hbm = "hbm",
    /// Engines that are powered but not busy.
    idle = "idle",
}

/// Columns of a DPE tile.
pub const DPE_COLUMNS: u64 = 32;
