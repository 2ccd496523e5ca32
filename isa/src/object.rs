//! What an object file holds: kernels, entries, weights and signatures, and where each instruction comes from.

use crate::blob::Blob;
use crate::format::ScalarType;
use crate::inst::{Combine, Inst, InstKind};
use crate::program::Program;
use crate::target::Target;
use crate::target_file::{self, TargetError};
use crate::view::{LOOP_LEVELS, PE_COORDS, Position, View};

/// A memory that base registers point into.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum MemSpace {
    /// The object's weights, in HBM, never written.
    Weights = 0,
    /// Inputs, outputs and intermediate tensors in HBM.
    Hbm = 1,
    /// Intermediate tensors in shared SRAM.
    Sram = 2,
}

/// A byte address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Address {
    /// The memory.
    pub space: MemSpace,
    /// Bytes from its start.
    pub offset: u64,
}

/// How a kernel uses the tensor behind a base register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Access {
    /// Never written while the kernel runs.
    In = 0,
    /// Written, every byte at most once, and never read.
    Out = 1,
    /// Read and written.
    InOut = 2,
}

/// The tensor behind a base register.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorDecl {
    /// How the kernel uses it.
    pub access: Access,
    /// Its bytes, all planes included; every access stays below.
    pub bytes: u64,
    /// Byte offsets of the code, scale and index planes from the base.
    pub planes: [u64; 3],
}

/// Whether a buffer's slots are in local memory or are accumulator banks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum BufferKind {
    /// Local memory.
    Local = 0,
    /// Accumulators (f32) of the RE.
    Bank = 1,
}

/// A circular buffer of one kernel.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Buffer {
    /// Name in text forms.
    pub name: String,
    /// Local memory or accumulators.
    pub kind: BufferKind,
    /// Bytes of one slot.
    pub slot_bytes: u32,
    /// Number of slots, 1 to 16.
    pub slots: u8,
}

/// A parameter of a kernel: an integer that trip counts and views may depend on. A launch gives its first value, `ldp`
/// another one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Param {
    /// Name in text forms.
    pub name: String,
    /// Least value.
    pub lo: i32,
    /// Greatest value.
    pub hi: i32,
}

/// What a parameter adds to a trip count: `floor(factor * value / divisor)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ParamTerm {
    /// Number of the parameter.
    pub param: u8,
    /// Factor of its value.
    pub factor: i32,
    /// Divisor, at least 1.
    pub divisor: u32,
}

impl ParamTerm {
    /// The term for these values of all parameters.
    pub fn value(&self, at: &Position) -> i64 {
        let value = at.params.get(usize::from(self.param)).copied().unwrap_or(0);
        (i64::from(self.factor) * i64::from(value)).div_euclid(i64::from(self.divisor.max(1)))
    }
}

/// A trip count: `clamp(base + sum(levels * counters) + sum(coords * PE coordinates) + param, 0, max)`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Trip {
    /// Constant part.
    pub base: i64,
    /// Factor of each outer loop's counter.
    pub levels: [i32; LOOP_LEVELS],
    /// Factor of each PE coordinate.
    pub coords: [i32; PE_COORDS],
    /// The part that follows a parameter.
    pub param: Option<ParamTerm>,
    /// Greatest trip count.
    pub max: u32,
}

impl Trip {
    /// A constant trip count.
    pub fn constant(n: u32) -> Trip {
        Trip { base: i64::from(n), max: n, ..Trip::default() }
    }

    /// The count at the given counters, coordinates and parameters.
    pub fn count(&self, at: &Position) -> u32 {
        let mut n = self.base;
        for (factor, &count) in self.levels.iter().zip(&at.levels).chain(self.coords.iter().zip(&at.coords)) {
            n += i64::from(*factor) * i64::from(count);
        }
        if let Some(term) = self.param {
            n += term.value(at);
        }
        n.clamp(0, i64::from(self.max)) as u32
    }
}

/// A kernel: one SPMD stream over a grid of PEs, with its tables.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Kernel {
    /// Name in text forms.
    pub name: String,
    /// Sizes of the four logical PE coordinates. The product of the first two is at most the physical rows, of the last two
    /// the physical columns.
    pub grid: [u16; PE_COORDS],
    /// Parameters, at most 16.
    pub params: Vec<Param>,
    /// One per base register.
    pub tensors: Vec<TensorDecl>,
    /// Circular buffers.
    pub buffers: Vec<Buffer>,
    /// View table.
    pub views: Vec<View>,
    /// Trip counts.
    pub trips: Vec<Trip>,
    /// SE programs.
    pub programs: Vec<Program>,
    /// Codes that `fill` writes.
    pub constants: Vec<u64>,
    /// The stream, ending in `halt`.
    pub code: Vec<Inst>,
}

/// One launch of a kernel.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Launch {
    /// Number of the kernel.
    pub kernel: u32,
    /// Base registers.
    pub bases: Vec<Address>,
    /// First value of every parameter.
    pub params: Vec<i32>,
    /// Multiply-accumulates of the model that its products are for, those that are skipped included and padding left out; 0 where
    /// nothing is known but what the DPE does.
    pub macs: u64,
    /// Numbers of the origins that it implements.
    pub origins: Vec<u32>,
}

/// What a collective, `send` or `recv` of an entry moves.
///
/// `n` is [`Transfer::elements`], R the number of ranks. `allred` and `send` read n elements from `src`, `allgath` too and
/// writes R parts of n; `redscat` reads R parts and writes n elements; `alltoall` reads and writes R parts; `allred` and
/// `recv` write n elements to `dst`. Parts lie one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Transfer {
    /// What is sent; the same address on every rank.
    pub src: Address,
    /// Where the result goes; the same address on every rank.
    pub dst: Address,
    /// Element type, of whole bytes.
    pub elem: ScalarType,
    /// Elements of one part.
    pub elements: u64,
    /// How `allred` and `redscat` combine; replace for what does not combine.
    pub combine: Combine,
    /// The partner of rank r in `send` and `recv` is rank (r + peer) mod R.
    pub peer: i32,
}

/// An input or output of an entry.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Port {
    /// Name in the model.
    pub name: String,
    /// Element type.
    pub elem: ScalarType,
    /// Shape; elements are dense in row-major order, sub-byte types packed.
    pub shape: Vec<u64>,
    /// Where it lies in HBM.
    pub address: Address,
}

impl Port {
    /// Bytes of its elements; `None` where they exceed 2^56.
    pub fn bytes(&self) -> Option<u64> {
        let elements = self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
        (elements < 1 << 56).then(|| self.elem.bytes_for(elements))
    }
}

impl Transfer {
    /// Bytes that the message engine reads from `src` and writes to `dst` for instruction `kind` among `ranks` ranks;
    /// 0 where it does not. `None` for other instructions, or when the bytes exceed 2^56.
    pub fn bytes(&self, kind: &InstKind, ranks: u16) -> Option<(u64, u64)> {
        let part = self.elements.checked_mul(u64::from(self.elem.bits() / 8)).filter(|&n| n < 1 << 40)?;
        let whole = part * u64::from(ranks);
        match kind {
            InstKind::Allred { .. } => Some((part, part)),
            InstKind::Allgath { .. } => Some((part, whole)),
            InstKind::Redscat { .. } => Some((whole, part)),
            InstKind::Alltoall { .. } => Some((whole, whole)),
            InstKind::Send { .. } => Some((part, 0)),
            InstKind::Recv { .. } => Some((0, part)),
            _ => None,
        }
    }
}

/// A function that can be run.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EntryPoint {
    /// Name.
    pub name: String,
    /// Number of ranks (chips) that run it together, each with its own inputs, outputs and memories.
    pub ranks: u16,
    /// Inputs.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// Launch table.
    pub launches: Vec<Launch>,
    /// What the stream's collectives move.
    pub transfers: Vec<Transfer>,
    /// The entry stream: launches and collectives, then `halt`.
    pub code: Vec<Inst>,
}

impl Default for EntryPoint {
    /// An empty entry of one rank.
    fn default() -> EntryPoint {
        EntryPoint {
            name: String::new(),
            ranks: 1,
            inputs: Vec::new(),
            outputs: Vec::new(),
            launches: Vec::new(),
            transfers: Vec::new(),
            code: Vec::new(),
        }
    }
}

/// Where a launch comes from in the model.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ObjectOrigin {
    /// ONNX node name.
    pub node: String,
    /// ONNX operator type.
    pub op: String,
}

/// A compiled model.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Object {
    /// Name of the model.
    pub name: String,
    /// Name of the target that it was compiled for.
    pub target: String,
    /// Text of that target's file; empty for a shipped target.
    pub target_file: String,
    /// The kernels.
    pub kernels: Vec<Kernel>,
    /// The entries.
    pub entries: Vec<EntryPoint>,
    /// Tensors in HBM that keep their values from one run of an entry to the next; zeros at first.
    pub states: Vec<Port>,
    /// Provenance table.
    pub origins: Vec<ObjectOrigin>,
    /// Bytes of HBM for inputs, outputs and intermediates.
    pub hbm_bytes: u64,
    /// Bytes of shared SRAM.
    pub sram_bytes: u64,
    /// The weights.
    pub weights: Blob,
}

impl Object {
    /// The target that it was compiled for; `None` if it is neither shipped nor in the object.
    ///
    /// # Errors
    /// When the file in the object is none, or of another target.
    pub fn target_figures(&self) -> Result<Option<Target>, TargetError> {
        if self.target_file.is_empty() {
            return Ok(target_file::target(&self.target));
        }
        let own = target_file::read(&self.target_file, &[]).map_err(|refusal| refusal.error)?;
        if own.target.name != self.target {
            return Err(TargetError::Other { name: self.target.clone(), found: own.target.name });
        }
        Ok(Some(own.target))
    }
}
