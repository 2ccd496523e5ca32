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
    /// Message engines: collectives between chips.
    Me,
}

impl Engine {
    /// Every engine, in the order of their codes.
    pub const ALL: [Engine; 8] = [
        Engine::Cp,
        Engine::FiLoad,
        Engine::FiStore,
        Engine::Mlu,
        Engine::Dpe,
        Engine::Re,
        Engine::Se,
        Engine::Me,
    ];

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
            Engine::Me => "ME",
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

/// How the non-zero positions of a compressed tensor are coded; see `ldx`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum MaskCode {
    /// One bit for each element.
    Bitmap = 0,
    /// A prefix code for each four elements, shorter than a bitmap where under a third of the elements are stored.
    Nibble = 1,
    /// One bit for each 32 elements, all of which are stored.
    Rows = 2,
}

/// The function of `stat`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Extreme {
    /// Greatest; NaN if any is.
    Max = 0,
    /// Least; NaN if any is.
    Min = 1,
}

/// How a scattered element combines with what the tensor holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Combine {
    /// It replaces it.
    Replace = 0,
    /// Sum.
    Add = 1,
    /// Product.
    Mul = 2,
    /// Lesser.
    Min = 3,
    /// Greater.
    Max = 4,
}

/// What each member of a reduction across PEs receives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Share {
    /// The whole result.
    All = 0,
    /// Its own part along a dimension, in the order of the members.
    Part = 1,
}

/// What an instruction does with an operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Use {
    /// Reads it: read or pop.
    Source,
    /// Writes all or part of it: push or update.
    Dest,
    /// Makes it: push.
    Fresh,
    /// Changes what it holds: update.
    Change,
}

/// Where the slot of an operand may be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// In local memory.
    Local,
    /// Among the accumulator banks.
    Bank,
    /// In either.
    Any,
}

/// An operand of an instruction with what its row says about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OperandField {
    /// Name of the field.
    pub name: &'static str,
    /// The operand.
    pub operand: Operand,
    /// What the instruction does with it.
    pub how: Use,
    /// Where its slot may be.
    pub place: Place,
}

/// A global view of an instruction with what its row says about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GlobalField {
    /// Name of the field.
    pub name: &'static str,
    /// Number of the view.
    pub view: u16,
    /// Whether the instruction writes the tensor.
    pub writes: bool,
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
/// Number of a parameter of the launch: 4 bits.
pub type ParamIdx = u8;
/// Number of an event of the kernel: 6 bits.
pub type EventIdx = u8;
/// A number of posts or of list elements: 16 bits.
pub type Count = u16;
/// Number of a transfer of the entry: 16 bits.
pub type TransferIdx = u16;
/// A yes or no: 1 bit.
pub type Flag = bool;
/// A slot in local memory that is read: 24 bits.
pub type Source = Operand;
/// A slot in local memory that is pushed or updated: 24 bits.
pub type Dest = Operand;
/// A slot in local memory that is pushed: 24 bits.
pub type Fresh = Operand;
/// A bank that is read: 24 bits.
pub type BankSource = Operand;
/// A bank that is pushed or updated: 24 bits.
pub type BankDest = Operand;
/// A bank that is updated: 24 bits.
pub type BankChange = Operand;
/// A slot in local memory or a bank that is read: 24 bits.
pub type AnySource = Operand;
/// Number of the view of a tensor that is read: 12 bits.
pub type GlobalSource = u16;
/// Number of the view of a tensor that is written: 12 bits.
pub type GlobalDest = u16;

/// Calls the macro `$m` with the whole table. A row is
/// `doc, Variant = opcode, "mnemonic", Engine { field: Kind = lowest bit, .. }`.
#[macro_export]
macro_rules! for_each_inst {
    ($m:ident) => {
        $m! {
            /// Starts launch `launch` of the entry's launch table: its kernel on its grid, with its base registers and first
            /// values of parameters. Only in entry streams; it begins when all before has ended.
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
            /// Sets parameter `param` to the one element of the i32 or i64 global view `src`, clamped to the parameter's
            /// declared range. All PEs get the same value: the view is of an `in` tensor, has one element, which takes part,
            /// and nothing advances or moves it; the instruction stands outside loops. No instruction before it depends on the
            /// parameter: no trip count of a loop, and no view of an operand, tensor or program.
            Ldp = 0x06, "ldp", Cp { param: ParamIdx = 16, src: GlobalSource = 32 }
            /// Adds 1 to event `event`, once the accesses of all earlier instructions of `queue` (FI.load or FI.store) are
            /// visible to the other PEs. An event counts the posts of all PEs of a launch, from 0. When a `wait` has counted
            /// n posts, every later post must come after all of these n: by a `bar`, or by a `wait` of the posting queue.
            Post = 0x07, "post", Cp { event: EventIdx = 32, queue: Engine = 40 }
            /// Holds the later instructions of `queue` (FI.load or FI.store) until event `event` has counted `count` posts
            /// more than all earlier `wait`s of this PE, queue and event waited for. Illegal where it would hold forever. PEs
            /// run up to their next `wait`, `bar`, `xchg` or `xred`, and go on together where they can: when the event has then
            /// counted exactly the posts waited for, the accesses before them come before the later ones of `queue`.
            Wait = 0x08, "wait", Cp { count: Count = 16, event: EventIdx = 32, queue: Engine = 40 }
            /// Holds every PE of the `cast` group until all of them are here, at the same counters of loops, and their earlier
            /// accesses are visible to each other. Two PEs that access the same byte of an `inout` tensor, one of them writing,
            /// need a `bar` or a `post` and `wait` between both accesses. `none` is a group of one.
            Bar = 0x09, "bar", Cp { cast: Multicast = 10 }
            /// Switches the power of `engine` (not the CP) on or off. Until it is on again, an instruction of that engine is
            /// illegal and the engine draws no idle power. All engines of the PEs of its grid are on when a kernel starts; those of
            /// other PEs have no power. An engine that is off when a kernel ends stays so until the next one starts.
            Gate = 0x0a, "gate", Cp { engine: Engine = 40, on: Flag = 10 }
            /// Starts launch `launch` behind the one before on the same PEs, which go on by themselves. Only in entry streams,
            /// behind a `launch` or `chain`. Its meaning is that of `launch`; its instructions may execute as soon as those before them
            /// are issued and the fourth launch before it has ended. An access to a tensor waits until all PEs have ended the last
            /// launch before that has a tensor that shares bytes with it, where one of the two is written; later loads that wait for
            /// less overtake it.
            Chain = 0x0b, "chain", Cp { launch: LaunchIdx = 16 }

            /// Loads the box of the global view `src` into the next slot of `dst`, dense in row-major order of the box.
            /// Where the view clips, the slot gets `fill`. When the format of the slot's view is wider than the tensor's,
            /// elements are widened exactly.
            Ld = 0x10, "ld", FiLoad { dst: Fresh = 32, src: GlobalSource = 56, cast: Multicast = 10, fill: Fill = 12 }
            /// Stores a slot: element i of the local view goes to element i of the global view `dst`, where that does not clip.
            St = 0x11, "st", FiStore { src: AnySource = 32, dst: GlobalDest = 56 }
            /// Loads like `ld`, but the coordinate of dimension `dim` of `src` at index i is the i-th element of the i32 or i64
            /// vector `idx`; origin and advance of that dimension are not used. The vector's view has in dimension `dim` the size of
            /// the box there, and its i-th element is number `offset + i * stride` of the slot, whatever its view clips. Out of
            /// bounds gives `fill`, or traps with `strict`. Dimensions of groups and patterns cannot be gathered.
            Gather = 0x12, "gather", FiLoad { dst: Fresh = 32, src: GlobalSource = 56, idx: Source = 80, dim: DimIdx = 16, strict: Flag = 10, fill: Fill = 12 }
            /// Loads like `ld` from a compressed tensor of constants and expands it; where the view clips, the slot gets code 0. The
            /// tensor is `in` and lies in the weights; view and slot have no pattern. Element numbers are cut into blocks of 512.
            /// Plane 2 of the tensor holds, for each block and one past the last, the byte (`u32`) at which its record starts in
            /// plane 0; scales, where the format has them, are plane 1 and not compressed. A record is the mask of its block, coded
            /// by `code`, then the codes of the stored elements, packed in ascending order, each part padded to a byte, and nothing
            /// else. Elements that are not stored are code 0. Bits fill bytes from the least significant. `bitmap`: one bit for each
            /// element, set when it is stored. `rows`: one bit for each 32 elements, which are all stored or none. `nibble`: a word
            /// for each 4 elements, by the number q whose bit j says that element j of the four is stored: 0 is `00`; 1, 2, 4, 8 are
            /// `010`, `011`, `100`, `101`; 3, 5, 6, 9, 10, 12 are `11000`, `11001`, `11010`, `11011`, `11100`, `11101`; 7, 11, 13, 14
            /// are `1111000`, `1111001`, `1111010`, `1111011`; 15 is `1111100`, first bit first; other words trap. Only records of
            /// blocks in which the box has elements cross the port, with their offsets.
            Ldx = 0x13, "ldx", FiLoad { dst: Fresh = 32, src: GlobalSource = 56, cast: Multicast = 10, code: MaskCode = 12 }
            /// Loads like `ld`, but only the indices of dimension `dim` whose flag in `mask` is set (a byte that is not 0): the i-th
            /// element of the `bool` vector `mask`, found like the indices of `gather`. What is not loaded is code 0, keeps its place
            /// in the slot and does not cross the port; a scale is loaded when any element of its group is, and is one otherwise.
            /// Dimension `dim` does not carry a pattern. For bounds and races the whole box counts as read.
            Ldmask = 0x14, "ldmask", FiLoad { dst: Fresh = 32, src: GlobalSource = 56, mask: Source = 80, dim: DimIdx = 16 }
            /// Stores like `st`, but the coordinate of dimension `dim` of `dst` at index i is the i-th element of the i32 or i64
            /// vector `idx`, found like the indices of `gather`. Out of bounds is dropped, or traps with `strict`. Elements combine
            /// with what the `inout` tensor holds, in ascending order of the index in `dim`, then in row-major order of the others. `replace` admits every
            /// format, where `dim` carries no groups or patterns; the others combine scalars: floats as f32 (f64 as f64) with one
            /// rounding to the format, -0 below +0 and NaN wherever an operand is; integers exactly, modulo 2^width; bools by or
            /// (`add`, `max`) and by and (`mul`, `min`). The region is the box of `dst` with dimension `dim` taken whole, from 0 to
            /// its bound: it must lie in the tensor and hold something, and all of it counts as read and written, whatever the indices
            /// are; so no other PE may touch it in this launch.
            Scatter = 0x15, "scatter", FiStore { src: Source = 32, dst: GlobalDest = 56, idx: Source = 80, dim: DimIdx = 16, strict: Flag = 13, combine: Combine = 10 }
            /// All-gather between the PEs of the `cast` group: every member's `src` box, one after the other along dimension
            /// `dim` of `dst` in ascending order of the members (row-major by logical coordinates). With n members, `dst`'s box
            /// has n times the size of `src`'s in `dim`, and its size elsewhere. Formats are the same, not grouped. What the
            /// sender's view clips is code 0. Every member executes it, at the same counters of loops. It orders no accesses to
            /// tensors.
            Xchg = 0x16, "xchg", FiLoad { dst: Fresh = 32, src: Source = 56, dim: DimIdx = 16, cast: Multicast = 10 }

            /// Fills the whole box of `dst`'s view with constant number `value` of the kernel's constants (a code).
            Fill = 0x20, "fill", Mlu { dst: Dest = 32, value: ConstIdx = 16 }
            /// Copies element i of `src`'s view to element i of `dst`'s, in row-major order: transposition, patches (overlapping
            /// strides), concatenation (into part of an updated slot). Where `src` clips and `dst` does not, `dst` gets `fill`, with
            /// scale one, before anything is copied. What a push does not cover is code 0 with scale one. A wider format of `dst`
            /// widens as in `ld`; from groups to scalars, any element. Otherwise grouped and N:M slots have one k dimension, and
            /// boxes and clips are whole groups.
            Move = 0x21, "move", Mlu { dst: Dest = 32, src: Source = 56, fill: Fill = 12 }
            /// Copies like `move`, but the coordinate of dimension `dim` of `src` at index i is the i-th element of the i32 or i64
            /// vector `idx`, found like the indices of `gather`: its elements are those of coordinates 0 up to the bound of `src`'s
            /// view, all of which lie in the slot. Out of bounds gives `fill`. Elements are copied in ascending order of the index
            /// in `dim`, then in row-major order of the others. Dimension `dim` carries no groups or patterns.
            Perm = 0x22, "perm", Mlu { dst: Dest = 32, src: Source = 56, idx: Source = 80, dim: DimIdx = 16, fill: Fill = 12 }
            /// Sets the `bool` elements of `dst` where `src` is not zero (NaN is not; scales do not count). A dimension in which
            /// `dst`'s view has size 1 and `src`'s has more combines by or: which k are active in any row. Clipped elements of `src`
            /// count as zero, and what no element reaches is 0. `src` has no pattern.
            Mask = 0x23, "mask", Mlu { dst: Fresh = 32, src: Source = 56 }
            /// Packs a dense slot into the N:M pattern of `dst`'s view, which has `src`'s format otherwise: of each M elements along
            /// `dst`'s k dimension the N codes of greatest magnitude (NaN above all), the lower index at ties, in ascending order of
            /// indices. Clipped elements of `src` are code 0. Scales stay as they are: M divides a group, formats with shifts of pairs
            /// do not pack, and boxes and clips are whole groups of both kinds. What the view does not cover is code 0, with ascending indices and scale one.
            Pack = 0x24, "pack", Mlu { dst: Fresh = 32, src: Source = 56 }

            /// Adds the product of two tiles to an accumulator bank: `bank[m][n] += sum over k of a[m][k] * b[k][n]`, k ascending.
            /// `a`'s view has dimensions (m, m, k, k, k); `order` names those of `b`. The bank slot is f32, M x N dense in the full
            /// sizes of the views; clipped rows and columns stay as they are. `bank` pushes (from +0) or updates.
            Mm = 0x30, "mm", Dpe { bank: BankDest = 32, a: Source = 56, b: Source = 80, order: Order = 10 }
            /// Like `mm` where `b`'s view has an N:M pattern along k: only stored elements multiply, in ascending k; the others
            /// contribute nothing.
            Mmnm = 0x31, "mmnm", Dpe { bank: BankDest = 32, a: Source = 56, b: Source = 80, order: Order = 10 }
            /// Like `mm` where only the blocks of `b` whose flag is set multiply; the terms of the others contribute nothing,
            /// infinities and NaN included. `mask`'s view is `bool` (set: not 0) with the dimensions of `b`: a size s of `b` is a
            /// whole multiple of its size t, and index i of `b` has the flag at index i / (s / t). Flags that clip are not set.
            /// Where an operand is grouped, blocks consist of whole groups of both operands along k; a group that is off adds
            /// nothing, whatever its scales. What is legal does not depend on the flags.
            ///
            /// With `packed` the slot of `b` holds the set blocks alone: index r of dimension 0 of its view is the r-th set flag
            /// in row-major order of `mask`, the others are one block, (1, 1, k, n) for `kn` and (n, 1, 1, k) for `nk`, and the
            /// view's clipping is not used. The product is that by the operand these blocks are cut from: its sizes are those of
            /// `mask`, times the block's n in dimension 4 or 1 and its k in dimension 3 or 4, and columns take part where
            /// `mask` does not clip them. Set flags that dimension 0 has no index for count as not set.
            Mmblk = 0x32, "mmblk", Dpe { bank: BankDest = 32, a: Source = 56, b: Source = 80, mask: Source = 104, order: Order = 10, packed: Flag = 11 }
            /// Like `mm` where only the k whose flag is set multiply, in ascending k; the terms of the others contribute nothing,
            /// infinities and NaN included. `mask`'s view is `bool` (set: not 0): its dimensions 2 to 4 have the sizes of `a`'s, the
            /// others size 1. Flags that clip are not set. Flags may cut groups: a group sums its set terms, and adds nothing
            /// where it has none, whatever its scales. What is legal does not depend on the flags.
            Mmact = 0x33, "mmact", Dpe { bank: BankDest = 32, a: Source = 56, b: Source = 80, mask: Source = 104, order: Order = 10 }

            /// Writes +0 to every accumulator of the box of `bank`'s view.
            Zero = 0x40, "zero", Re { bank: BankDest = 32 }
            /// Converts a bank to the format of `dst`'s view: element i of `bank`'s view to element i of `dst`'s. -0 becomes +0.
            /// Grouped formats are quantised by scale mode `floor`; SE programs, which read banks too, name their mode.
            Drain = 0x41, "drain", Re { dst: Dest = 32, bank: BankSource = 56 }
            /// Sets element i of `bank`'s view to element i of `src`'s, in boxes of equal sizes: a bias (stride 0 repeats it), or
            /// earlier sums. The format of `src` is f32 or one that `ld` widens to f32, and is converted likewise. What either
            /// view clips stays as it is, +0 in a pushed bank.
            Seed = 0x42, "seed", Re { bank: BankDest = 32, src: Source = 56 }
            /// Multiplies element i of `bank`'s view by element i of `src`'s, in boxes of equal sizes, with one rounding to f32.
            /// `src` is f32, f16 or bf16; stride 0 repeats a factor. What either view clips stays as it is.
            Resc = 0x43, "resc", Re { bank: BankChange = 32, src: Source = 56 }
            /// Reduces a bank to `dst` (f32) by `f`, greatest or least, over the dimensions in which `dst`'s view has size 1 and
            /// `bank`'s has more; in the others the sizes are equal. Like `max` and `min` of SE programs: NaN where any element
            /// is. -0 counts as +0, what `bank` clips takes no part, and over nothing the result is -infinity or +infinity.
            /// Elements of `dst` that clip are +0.
            Stat = 0x44, "stat", Re { f: Extreme = 10, dst: Fresh = 32, bank: BankSource = 56 }
            /// Sums the banks of the PEs of the `cast` group in f32, from +0 in ascending order of the members, and converts
            /// like `drain`. Accumulators that a member's view clips are left out of the sum. With `share` all, every member
            /// gets the sum in the box of `bank`'s view; with part, the n members get n equal parts of it along dimension `dim`,
            /// in order. Every member executes it, at the same counters of loops. It orders no accesses to tensors.
            Xred = 0x45, "xred", Re { dst: Fresh = 32, bank: BankSource = 56, dim: DimIdx = 16, cast: Multicast = 10, share: Share = 12 }

            /// Runs SE program number `program` of the kernel's table.
            Run = 0x50, "run", Se { program: ProgramIdx = 16 }
            /// Sorts each row (dimension 4) of `src` and keeps the first `k`, the size of `dst`'s view there; the other sizes are
            /// equal. Ascending, or descending; equal keys always by ascending index. A result is the i64
            /// `key * 2^32 + index`, and results ascend: `index` is the element's logical coordinate in dimension 4, `key` an i32
            /// that orders as the elements do, complemented (`-1 - key`) when descending. The key of an integer is its value,
            /// of a u32 its value minus 2^31. That of a float comes from the bits b of the same value in f32, read as an i32: b,
            /// or b xor 0x7fffffff where b is negative. -0 counts as +0, and every NaN as 0x7fc00000, which is greatest. Types
            /// of up to 32 bits that stand alone have keys. Clipped elements take no part; missing results are 2^63 - 1,
            /// which no element gives. Elements of `dst` that clip are 0.
            ///
            /// An SE program recovers both from i64 lanes: the index is the low half (`convert.i64.i32`), the key the low half
            /// of the value shifted right by 32 (`binary.shr.i64`), and a float the key, xor 0x7fffffff where it is negative, in an
            /// f32 lane.
            Sort = 0x51, "sort", Se { dst: Fresh = 32, src: Source = 56, k: Count = 16, descending: Flag = 10 }
            /// Merges each row (dimension 4) of two i64 slots that ascend, results of `sort`, and keeps the first `k`, the size of
            /// `dst`'s view there; the sizes of the other dimensions are equal. Step by step the lesser of the two next values is
            /// taken, that of `a` where they are equal, whether the rows ascend or not. Clipped values take no part; missing results
            /// are 2^63 - 1. Elements of `dst` that clip are 0.
            Merge = 0x52, "merge", Se { dst: Fresh = 32, a: Source = 56, b: Source = 80, k: Count = 16 }

            /// All-reduce between ranks: every rank's `dst` becomes the combination of all ranks' `src`, in ascending order of
            /// ranks. Floats of up to 32 bits combine in f32 and are rounded to nearest even once, f64 in f64; integers wrap.
            /// The lesser and greater of NaN and anything are NaN, and -0 is below +0. Collectives stand in entry streams and
            /// name a transfer of the entry; every rank executes them. `src` and `dst` are apart, or, here, the same.
            Allred = 0x60, "allred", Me { transfer: TransferIdx = 16 }
            /// All-gather: every rank's `dst` becomes the ranks' `src`, one after the other.
            Allgath = 0x61, "allgath", Me { transfer: TransferIdx = 16 }
            /// Reduce-scatter: rank r's `dst` becomes part r of the combination of all ranks' `src`, in ascending order of ranks.
            Redscat = 0x62, "redscat", Me { transfer: TransferIdx = 16 }
            /// All-to-all: part q of rank r's `dst` becomes part r of rank q's `src`.
            Alltoall = 0x63, "alltoall", Me { transfer: TransferIdx = 16 }
            /// Sends `src` to the transfer's peer, behind what was sent there before. Every message is received before `halt`.
            Send = 0x64, "send", Me { transfer: TransferIdx = 16 }
            /// Receives into `dst` the oldest message of the transfer's peer, which has as many bytes. Legal only where it was
            /// sent before in program order: ranks run in lockstep, each instruction on every rank before the next.
            Recv = 0x65, "recv", Me { transfer: TransferIdx = 16 }
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

            /// The number of the launch that it starts; `None` for what starts none.
            pub const fn started(&self) -> Option<u16> {
                match *self {
                    InstKind::Launch { launch } | InstKind::Chain { launch } => Some(launch),
                    _ => None,
                }
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
