//! The instruction table. Every instruction is one row of [`for_each_inst!`]; enum, encoder, decoder, assembler,
//! disassembler and reference page are expansions of it.
//!
//! An instruction is 128 bits, little endian: opcode (bits 0-7), flags (8-15), immediate (16-31) and four operands of 24
//! bits (32-55, 56-79, 80-103, 104-127). Flag bits 0-1 hold the software-pipeline stage. A row gives each field's lowest bit;
//! the field's kind gives its width. Bits that no field covers are reserved and must be 0.

/// The engine whose queue an instruction enters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Engine {
    /// Command processor.
    Cp,
    /// Fabric interface, load queue.
    FiLoad,
    /// Fabric interface, store queue.
    FiStore,
    /// Memory layout unit.
    Mlu,
    /// Dot product engine.
    Dpe,
    /// Reduction engine.
    Re,
    /// SIMD engine.
    Se,
}

impl Engine {
    /// Every engine.
    pub const ALL: [Engine; 7] =
        [Engine::Cp, Engine::FiLoad, Engine::FiStore, Engine::Mlu, Engine::Dpe, Engine::Re, Engine::Se];

    /// The name in text forms.
    pub const fn name(self) -> &'static str {
        match self {
            Engine::Cp => "CP",
            Engine::FiLoad => "FI.load",
            Engine::FiStore => "FI.store",
            Engine::Mlu => "MLU",
            Engine::Dpe => "DPE",
            Engine::Re => "RE",
            Engine::Se => "SE",
        }
    }
}

/// What an operand does to its circular buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Action {
    /// Reads the slot `delta` behind the head and keeps it.
    Read = 0,
    /// Takes the next free slot, writes and publishes it. `delta` is 0.
    Push = 1,
    /// Reads the head slot and frees it. `delta` is 0.
    Pop = 2,
    /// Reads and writes the slot `delta` behind the head in place.
    Update = 3,
}

/// An operand: a buffer, what happens to it, and the view of the slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Operand {
    /// Buffer number, below 64.
    pub buffer: u8,
    /// Slots behind the head, below 16.
    pub delta: u8,
    /// Buffer action.
    pub action: Action,
    /// Number of the view, below 4096.
    pub view: u16,
}

impl Operand {
    /// An operand on the head (or next free) slot.
    pub const fn new(buffer: u8, action: Action, view: u16) -> Operand {
        Operand { buffer, delta: 0, action, view }
    }
}

/// Which PEs of the physical grid receive what one fetch brings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Multicast {
    /// Each PE fetches its own.
    None = 0,
    /// PEs that differ only in the last two logical coordinates (a row) share one fetch.
    Row = 1,
    /// PEs that differ only in the first two logical coordinates (a column) share one fetch.
    Col = 2,
    /// All PEs share one fetch.
    All = 3,
}

/// What a load puts where the view is out of bounds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Fill {
    /// Code 0; scales become 2^0 (E8M0 code 0x7F).
    Zero = 0,
    /// The least value: minus infinity where the format has it.
    Least = 1,
    /// The greatest value: infinity where the format has it.
    Greatest = 2,
    /// One.
    One = 3,
}

/// Order of the dimensions of a DPE's second operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Order {
    /// View dimensions are (n outer, k, k, k, n inner): panels.
    Kn = 0,
    /// View dimensions are (n outer, n inner, k, k, k).
    Nk = 1,
}

// The types of a row name the field kinds of `crate::field`, which know widths and text forms. For kinds whose value
// is a plain number, these aliases give the type of the value.

/// Number of a launch of the entry: 16 bits.
pub type LaunchIdx = u16;
/// Number of a trip count of the kernel: 16 bits.
pub type TripIdx = u16;
/// A loop level: 2 bits.
pub type Level = u8;
/// Number of software-pipeline stages: 3 bits.
pub type Stages = u8;
/// A number of buffer slots: 16 bits.
pub type SlotCount = u16;
/// Number of a buffer of the kernel: 6 bits.
pub type BufferIdx = u8;
/// Number of a view of the kernel: 12 bits.
pub type ViewIdx = u16;
/// Number of a dimension: 3 bits.
pub type DimIdx = u8;
/// Number of a constant of the kernel or program: 16 bits.
pub type ConstIdx = u16;
/// Number of an SE program of the kernel: 16 bits.
pub type ProgramIdx = u16;

/// Calls the macro `$m` with the whole table. A row is
/// `doc, Variant = opcode, "mnemonic", Engine { field: Kind = lowest bit, .. }`.
#[macro_export]
macro_rules! for_each_inst {
    ($m:ident) => {
        $m! {
            /// Starts launch `launch` of the entry's launch table: its kernel on its grid, with its base registers and
            /// parameters. Only in entry streams; the next launch begins when this one has ended.
            Launch = 0x01, "launch", Cp { launch: LaunchIdx = 16 }
            /// Repeats the instructions up to the matching `end`: trip count number `trip` of the kernel's table, counter in
            /// `level`. With `stages` s > 1, an instruction of stage i executes iteration j - i at round j of trip + s - 1
            /// rounds, when that iteration exists. Buffer actions of the body balance.
            Loop = 0x02, "loop", Cp { trip: TripIdx = 16, level: Level = 32, stages: Stages = 56 }
            /// Ends the innermost loop.
            End = 0x03, "end", Cp { }
            /// Frees the `n` oldest slots of a buffer.
            Pop = 0x04, "pop", Cp { n: SlotCount = 16, buffer: BufferIdx = 32 }
            /// Ends the stream. Every buffer must be empty.
            Halt = 0x05, "halt", Cp { }

            /// Loads the box of the global view `src` into the next slot of `dst`, dense in row-major order of the box.
            /// Where the view clips, the slot gets `fill`. When the format of the slot's view is wider than the tensor's,
            /// elements are widened exactly.
            Ld = 0x10, "ld", FiLoad { dst: Operand = 32, src: ViewIdx = 56, cast: Multicast = 10, fill: Fill = 12 }
            /// Stores a slot: element i of the local view goes to element i of the global view `dst`, where that does not clip.
            St = 0x11, "st", FiStore { src: Operand = 32, dst: ViewIdx = 56 }
            /// Loads like `ld`, but the coordinate of dimension `dim` of `src` at index i is the i-th element of the i32 or i64
            /// vector `idx` (a local view whose dimension `dim` has the size of the box there). Out of bounds gives `fill`.
            Gather = 0x12, "gather", FiLoad { dst: Operand = 32, src: ViewIdx = 56, idx: Operand = 80, dim: DimIdx = 16, fill: Fill = 12 }

            /// Fills the whole box of `dst`'s view with constant number `value` of the kernel's constants (a code).
            Fill = 0x20, "fill", Mlu { dst: Operand = 32, value: ConstIdx = 16 }

            /// Adds the product of two tiles to an accumulator bank: `bank[m][n] += sum over k of a[m][k] * b[k][n]`, k ascending.
            /// `a`'s view has dimensions (m, m, k, k, k); `order` names those of `b`. The bank slot is f32, M x N dense in the full
            /// sizes of the views; clipped rows and columns stay as they are. `bank` pushes (from +0) or updates.
            Mm = 0x30, "mm", Dpe { bank: Operand = 32, a: Operand = 56, b: Operand = 80, order: Order = 10 }
            /// Like `mm` where `b`'s view has an N:M pattern along k: only stored elements multiply, in ascending k; the others
            /// contribute nothing.
            Mmnm = 0x31, "mmnm", Dpe { bank: Operand = 32, a: Operand = 56, b: Operand = 80, order: Order = 10 }

            /// Writes +0 to every accumulator of the box of `bank`'s view.
            Zero = 0x40, "zero", Re { bank: Operand = 32 }
            /// Converts a bank to the format of `dst`'s view: element i of `bank`'s view to element i of `dst`'s. -0 becomes +0.
            Drain = 0x41, "drain", Re { dst: Operand = 32, bank: Operand = 56 }

            /// Runs SE program number `program` of the kernel's table.
            Run = 0x50, "run", Se { program: ProgramIdx = 16 }
        }
    };
}

macro_rules! define_insts {
    ($($(#[$doc:meta])* $name:ident = $opcode:literal, $text:literal, $engine:ident { $($field:ident : $ty:ty = $bit:literal),* })*) => {
        /// An instruction without its pipeline stage.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum InstKind { $($(#[$doc])* $name {
            $(
                #[expect(missing_docs, reason = "fields are documented by their instruction's row")]
                $field: $ty
            ),*
        },)* }

        impl InstKind {
            /// The mnemonic.
            pub const fn mnemonic(&self) -> &'static str {
                match self { $(InstKind::$name { .. } => $text,)* }
            }

            /// The engine whose queue it enters.
            pub const fn engine(&self) -> Engine {
                match self { $(InstKind::$name { .. } => Engine::$engine,)* }
            }

            /// The opcode.
            pub const fn opcode(&self) -> u8 {
                match self { $(InstKind::$name { .. } => $opcode,)* }
            }
        }
    };
}
for_each_inst!(define_insts);

/// An instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Inst {
    /// Software-pipeline stage within the innermost loop, 0 to 3.
    pub stage: u8,
    /// The instruction.
    pub kind: InstKind,
}

impl From<InstKind> for Inst {
    fn from(kind: InstKind) -> Inst {
        Inst { stage: 0, kind }
    }
}
