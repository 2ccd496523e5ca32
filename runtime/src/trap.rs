//! What can go wrong: traps of a running program, refusals at load, wrong inputs. All are values.

use std::fmt;

use thiserror::Error;

use crate::illegal::Illegal;

/// Why a program trapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum TrapKind {
    /// An operand or `pop` takes or names a slot of a buffer that has none.
    PopEmpty,
    /// A push finds every slot in use.
    PushFull,
    /// An operand names a slot further behind the head than there are.
    BadDelta,
    /// An access leaves its tensor or slot.
    OutOfBounds,
    /// A push needs more bytes than a slot has.
    SlotTooSmall,
    /// A buffer still holds a slot at `halt`, or a message was not received.
    NotEmptyAtHalt,
    /// Two PEs access the same byte of a tensor and one writes it, or an `out` byte is written twice.
    Race,
    /// A slot is used in another format or group layout than it was written in.
    FormatMismatch,
    /// The boxes or summed dimensions of an instruction's operands differ in size.
    ShapeMismatch,
    /// A box cuts through a group or an N:M pattern.
    PartialGroup,
    /// An operand updates a slot that another operand of the instruction names.
    SlotConflict,
    /// A record of a compressed tensor is not well formed.
    BadRecord,
    /// A `wait` for posts, or a `recv` of a message, that never come.
    WouldBlock,
    /// A collective that a PE or rank of its group does not reach, or reaches elsewhere.
    NotUniform,
    /// An instruction of an engine whose power is off.
    Gated,
    /// More instructions than the run allows.
    StepLimit,
}

impl TrapKind {
    /// Every kind.
    pub const ALL: [TrapKind; 16] = [
        TrapKind::PopEmpty,
        TrapKind::PushFull,
        TrapKind::BadDelta,
        TrapKind::OutOfBounds,
        TrapKind::SlotTooSmall,
        TrapKind::NotEmptyAtHalt,
        TrapKind::Race,
        TrapKind::FormatMismatch,
        TrapKind::ShapeMismatch,
        TrapKind::PartialGroup,
        TrapKind::SlotConflict,
        TrapKind::BadRecord,
        TrapKind::WouldBlock,
        TrapKind::NotUniform,
        TrapKind::Gated,
        TrapKind::StepLimit,
    ];

    /// The name in text forms.
    pub const fn name(self) -> &'static str {
        match self {
            TrapKind::PopEmpty => "pop-empty",
            TrapKind::PushFull => "push-full",
            TrapKind::BadDelta => "bad-delta",
            TrapKind::OutOfBounds => "out-of-bounds",
            TrapKind::SlotTooSmall => "slot-too-small",
            TrapKind::NotEmptyAtHalt => "not-empty-at-halt",
            TrapKind::Race => "race",
            TrapKind::FormatMismatch => "format-mismatch",
            TrapKind::ShapeMismatch => "shape-mismatch",
            TrapKind::PartialGroup => "partial-group",
            TrapKind::SlotConflict => "slot-conflict",
            TrapKind::BadRecord => "bad-record",
            TrapKind::WouldBlock => "would-block",
            TrapKind::NotUniform => "not-uniform",
            TrapKind::Gated => "gated",
            TrapKind::StepLimit => "step-limit",
        }
    }
}

impl fmt::Display for TrapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A program that trapped: a result, with the place and the reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trap {
    /// What happened.
    pub kind: TrapKind,
    /// Position of the launch in the entry stream.
    pub launch: usize,
    /// Name of the kernel.
    pub kernel: String,
    /// Number of the instruction in the kernel's stream.
    pub pc: usize,
    /// The instruction.
    pub instruction: String,
    /// Engine whose queue the instruction enters.
    pub engine: &'static str,
    /// Logical coordinates of the PE.
    pub pe: [u32; 4],
    /// Origins that the launch implements.
    pub origins: Vec<u32>,
    /// The reason, with numbers.
    pub message: String,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "trap {} in launch {} (kernel {}), instruction {} on PE {:?}: {} [{}]",
            self.kind, self.launch, self.kernel, self.pc, self.pe, self.message, self.instruction
        )
    }
}

/// A trap before its place is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub kind: TrapKind,
    pub message: String,
}

impl Fault {
    pub fn new(kind: TrapKind, message: impl Into<String>) -> Fault {
        Fault { kind, message: message.into() }
    }
}

/// Why an object cannot be loaded.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum LoadError {
    /// A table of a kernel refers to what does not exist, or uses it wrongly.
    #[error("kernel {kernel}{}: {reason}", pc.map_or(String::new(), |pc| format!(", instruction {pc}")))]
    Kernel {
        /// Name of the kernel.
        kernel: String,
        /// Number of the instruction, where one is at fault.
        pc: Option<usize>,
        /// What is wrong.
        reason: Illegal,
    },
    /// An entry refers to what does not exist, or beyond memory.
    #[error("entry {entry}: {reason}")]
    Entry {
        /// Name of the entry.
        entry: String,
        /// What is wrong.
        reason: Illegal,
    },
}

/// Why a run cannot start.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InputError {
    /// There is no entry of that number.
    #[error("the object has {n_entries} entries, not number {entry}")]
    NoEntry {
        /// The number asked for.
        entry: usize,
        /// How many there are.
        n_entries: usize,
    },
    /// The number of ranks is wrong.
    #[error("the entry runs on {expected} ranks, there are inputs for {found}")]
    Ranks {
        /// Ranks of the entry.
        expected: usize,
        /// Ranks with inputs.
        found: usize,
    },
    /// The number of inputs is wrong.
    #[error("the entry takes {expected} inputs, {found} were given")]
    Count {
        /// Inputs of the entry.
        expected: usize,
        /// Inputs given.
        found: usize,
    },
    /// An input has the wrong size.
    #[error("input {name} takes {expected} bytes, {found} were given")]
    Bytes {
        /// Name of the input.
        name: String,
        /// Bytes of its type and shape.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// The memory that the object asks for cannot be had.
    #[error("cannot allocate {bytes} bytes of device memory")]
    Memory {
        /// Bytes asked for.
        bytes: u64,
    },
}
