//! Little-endian bytes of the object's tables.
//!
//! Lists are a `u32` count and their elements, strings a `u32` count and UTF-8. The decoder is total: it checks every
//! count against the bytes that are left before it allocates, and refuses values without a meaning. Each value has one
//! encoding, so writing what was read gives the same bytes.

use crate::encode::EncodeError;
use crate::field::{Field, Operand};
use crate::format::{Format, ScalarType, ScaleMode};
use crate::inst::{Combine, Inst};
use crate::object::{
    Access, Address, Buffer, BufferKind, EntryPoint, Kernel, Launch, MemSpace, ObjectOrigin, Param,
    ParamTerm, Port, TensorDecl, Transfer, Trip,
};
use crate::program::{Program, SeOp, Stream};
use crate::view::{Advance, Dim, LOOP_LEVELS, PE_COORDS, Pattern, Shift, Space, VIEW_DIMS, View};

/// Bytes of a view in the object file.
pub const VIEW_BYTES: usize = 128;

/// Bytes of an instruction in the object file.
pub const INST_BYTES: usize = 16;

/// Why bytes are no table: the offset within the section and what is wrong there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WireError {
    pub offset: usize,
    pub message: String,
}

/// Why a value has no place in the object file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unwritable {
    /// A table has more entries than its numbers count.
    #[error("{0}")]
    TooLong(String),
    /// A value does not fit its bits.
    #[error("{0}")]
    Unencodable(String),
    /// An instruction or an operation does not fit its word.
    #[error(transparent)]
    Word(#[from] EncodeError),
    /// The same, in a part of the object.
    #[error("{0}: {1}")]
    Within(String, Box<Unwritable>),
    /// The container refuses its sections.
    #[error("{0}")]
    Container(String),
}

impl Unwritable {
    fn within(self, place: impl std::fmt::Display) -> Unwritable {
        Unwritable::Within(place.to_string(), Box::new(self))
    }
}

/// A cursor over a section.
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { bytes, pos: 0 }
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.pos
    }

    pub fn error<T>(&self, message: impl Into<String>) -> Result<T, WireError> {
        Err(WireError { offset: self.pos, message: message.into() })
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        match self.bytes.get(self.pos..).and_then(|rest| rest.get(..n)) {
            Some(bytes) => {
                self.pos += n;
                Ok(bytes)
            }
            None => self.error(format!("{n} bytes expected, {} left", self.remaining())),
        }
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn finish(&self) -> Result<(), WireError> {
        match self.remaining() {
            0 => Ok(()),
            n => self.error(format!("{n} bytes too many")),
        }
    }

    /// Reads `n` elements; refuses counts that the remaining bytes cannot hold.
    pub fn list<T: Wire>(&mut self, n: usize) -> Result<Vec<T>, WireError> {
        if n.checked_mul(T::MIN_BYTES).is_none_or(|bytes| bytes > self.remaining()) {
            return self.error(format!("{n} elements announced, {} bytes left", self.remaining()));
        }
        let mut list = Vec::with_capacity(n);
        for _ in 0..n {
            list.push(T::get(self)?);
        }
        Ok(list)
    }
}

/// A value with a byte form.
pub(crate) trait Wire: Sized {
    /// Fewest bytes of a value; at least 1.
    const MIN_BYTES: usize;
    /// Appends the bytes.
    fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable>;
    /// Reads a value.
    fn get(input: &mut Input<'_>) -> Result<Self, WireError>;
}

macro_rules! wire_ints {
    ($($ty:ty)*) => {$(
        impl Wire for $ty {
            const MIN_BYTES: usize = size_of::<$ty>();
            fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
                out.extend_from_slice(&self.to_le_bytes());
                Ok(())
            }
            fn get(input: &mut Input<'_>) -> Result<$ty, WireError> {
                Ok(<$ty>::from_le_bytes(input.array()?))
            }
        }
    )*};
}
wire_ints! { u8 u16 u32 u64 i32 i64 }

/// The number of elements as the file's `u32`.
pub(crate) fn put_len(n: usize, out: &mut Vec<u8>) -> Result<(), Unwritable> {
    u32::try_from(n).map_err(|_| Unwritable::TooLong(format!("a table of {n} entries is too long")))?.put(out)
}

impl<T: Wire> Wire for Vec<T> {
    const MIN_BYTES: usize = 4;
    fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        put_len(self.len(), out)?;
        self.iter().try_for_each(|item| item.put(out))
    }
    fn get(input: &mut Input<'_>) -> Result<Vec<T>, WireError> {
        let n = u32::get(input)? as usize;
        input.list(n)
    }
}

impl<T: Wire + Copy + Default, const N: usize> Wire for [T; N] {
    const MIN_BYTES: usize = N * T::MIN_BYTES;
    fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        self.iter().try_for_each(|item| item.put(out))
    }
    fn get(input: &mut Input<'_>) -> Result<[T; N], WireError> {
        let mut array = [T::default(); N];
        for item in &mut array {
            *item = T::get(input)?;
        }
        Ok(array)
    }
}

impl Wire for String {
    const MIN_BYTES: usize = 4;
    fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        put_len(self.len(), out)?;
        out.extend_from_slice(self.as_bytes());
        Ok(())
    }
    fn get(input: &mut Input<'_>) -> Result<String, WireError> {
        let n = u32::get(input)? as usize;
        let bytes = input.take(n)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => input.error("a name is not UTF-8"),
        }
    }
}

macro_rules! wire_enums {
    ($($ty:ident { $($variant:ident),* })*) => {$(
        impl Wire for $ty {
            const MIN_BYTES: usize = 1;
            fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
                (*self as u8).put(out)
            }
            fn get(input: &mut Input<'_>) -> Result<$ty, WireError> {
                let code = u8::get(input)?;
                $(if code == $ty::$variant as u8 { return Ok($ty::$variant); })*
                input.error(format!("{code} is no {}", stringify!($ty)))
            }
        }
    )*};
}
wire_enums! {
    MemSpace { Weights, Hbm, Sram }
    Access { In, Out, InOut }
    BufferKind { Local, Bank }
    ScaleMode { Floor, Rceil, Even, Ceil, Tosa }
    Combine { Replace, Add, Mul, Min, Max }
}

macro_rules! wire_structs {
    ($($ty:ident { $($field:ident : $fty:ty),* })*) => {$(
        impl Wire for $ty {
            const MIN_BYTES: usize = 0 $(+ <$fty as Wire>::MIN_BYTES)*;
            fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
                // Naming every field makes a forgotten one a build error.
                let $ty { $($field),* } = self;
                $($field.put(out)?;)*
                Ok(())
            }
            fn get(input: &mut Input<'_>) -> Result<$ty, WireError> {
                Ok($ty { $($field: Wire::get(input)?),* })
            }
        }
    )*};
}
wire_structs! {
    Address { space: MemSpace, offset: u64 }
    TensorDecl { access: Access, bytes: u64, planes: [u64; 3] }
    Buffer { name: String, kind: BufferKind, slot_bytes: u32, slots: u8 }
    Param { name: String, lo: i32, hi: i32 }
    ParamTerm { param: u8, factor: i32, divisor: u32 }
    Trip { base: i64, levels: [i32; LOOP_LEVELS], coords: [i32; PE_COORDS], param: Option<ParamTerm>, max: u32 }
    Shift { param: u8, dim: u8, origin: i32, bound: i32 }
    ShiftEntry { view: u16, shift: Shift }
    Dim { size: u32, stride: i32, origin: i32, bound: u32 }
    Stream { operand: Operand, mode: ScaleMode }
    Program {
        name: String, domain: u16, parallel: u8, streams: Vec<Stream>, constants: Vec<u64>, init: Vec<SeOp>,
        body: Vec<SeOp>, finish: Vec<SeOp>
    }
    Launch { kernel: u32, bases: Vec<Address>, params: Vec<i32>, macs: u64, origins: Vec<u32> }
    Transfer { src: Address, dst: Address, elem: ScalarType, elements: u64, combine: Combine, peer: i32 }
    Port { name: String, elem: ScalarType, shape: Vec<u64>, address: Address }
    ObjectOrigin { node: String, op: String }
}

impl<T: Wire> Wire for Option<T> {
    const MIN_BYTES: usize = 1;
    fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        u8::from(self.is_some()).put(out)?;
        self.iter().try_for_each(|value| value.put(out))
    }
    fn get(input: &mut Input<'_>) -> Result<Option<T>, WireError> {
        match u8::get(input)? {
            0 => Ok(None),
            1 => Ok(Some(T::get(input)?)),
            code => input.error(format!("{code} is neither 0 nor 1")),
        }
    }
}

/// A view that a parameter moves: views have no room for more, and few are moved.
struct ShiftEntry {
    view: u16,
    shift: Shift,
}

fn shift_entries(views: &[View]) -> Result<Vec<ShiftEntry>, Unwritable> {
    let moved = views.iter().enumerate().filter_map(|(i, view)| Some((i, view.shift?)));
    moved
        .map(|(i, shift)| {
            let view = u16::try_from(i)
                .map_err(|_| Unwritable::TooLong(format!("view {i} has no number of 16 bits")))?;
            Ok(ShiftEntry { view, shift })
        })
        .collect()
}

/// Gives views their shifts, which come in ascending order of views.
fn attach(shifts: Vec<ShiftEntry>, views: &mut [View], at: &Input<'_>) -> Result<(), WireError> {
    let mut next = 0;
    for ShiftEntry { view, shift } in shifts {
        let number = usize::from(view);
        if number < next || number >= views.len() {
            return at.error(format!("the shift of view {view} is out of place"));
        }
        views[number].shift = Some(shift);
        next = number + 1;
    }
    Ok(())
}

impl Wire for ScalarType {
    const MIN_BYTES: usize = 1;
    fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        (*self as u8).put(out)
    }
    fn get(input: &mut Input<'_>) -> Result<ScalarType, WireError> {
        let code = u8::get(input)?;
        match ScalarType::from_code(code) {
            Some(ty) => Ok(ty),
            None => input.error(format!("{code} is no element type")),
        }
    }
}

impl Wire for Operand {
    const MIN_BYTES: usize = 4;
    fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        <Operand as Field>::to_bits(*self)
            .ok_or_else(|| Unwritable::Unencodable(format!("{self:?} does not fit 24 bits")))?
            .put(out)
    }
    fn get(input: &mut Input<'_>) -> Result<Operand, WireError> {
        let bits = u32::get(input)?;
        match <Operand as Field>::from_bits(bits) {
            Some(operand) => Ok(operand),
            None => input.error(format!("{bits:#x} is no operand")),
        }
    }
}

impl Wire for Inst {
    const MIN_BYTES: usize = INST_BYTES;
    fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        out.extend_from_slice(&self.encode()?.to_le_bytes());
        Ok(())
    }
    fn get(input: &mut Input<'_>) -> Result<Inst, WireError> {
        let word = u128::from_le_bytes(input.array()?);
        Inst::decode(word).or_else(|e| input.error(e.to_string()))
    }
}

impl Wire for SeOp {
    const MIN_BYTES: usize = 8;
    fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        self.encode()?.put(out)
    }
    fn get(input: &mut Input<'_>) -> Result<SeOp, WireError> {
        let word = u64::get(input)?;
        SeOp::decode(word).or_else(|e| input.error(e.to_string()))
    }
}

const NO_ADVANCE: u32 = 15;
const GLOBAL_FLAG: u8 = 1 << 3;
const PATTERN_FLAG: u8 = 1 << 4;
const VIEW_FLAGS: u8 = 7 | GLOBAL_FLAG | PATTERN_FLAG;

/// Byte 0: format. Byte 1: `k_dim` (bits 0-2), global (3), has a pattern (4). Byte 2: pattern `n - 1` (bits 0-3) and
/// `m - 1` (4-7). Byte 3: base register. Bytes 4-7: dimensions advanced by the four levels and the four coordinates, 4 bits
/// each, 15 for none. Bytes 8-15: offset. Bytes 16-95: dimensions. Bytes 96-127: steps.
impl Wire for View {
    const MIN_BYTES: usize = VIEW_BYTES;

    fn put(&self, out: &mut Vec<u8>) -> Result<(), Unwritable> {
        // Shifts have a table of their own.
        let View { format, pattern, k_dim, space, offset, dims, levels, coords, shift: _ } = self;
        let code = match format {
            Format::Scalar(s) => *s as u8,
            Format::Grouped(g) => {
                g.code().ok_or_else(|| Unwritable::Unencodable(format!("{g:?} has no code")))?
            }
        };
        if *k_dim > 7 {
            return Err(Unwritable::Unencodable(format!("a view's k dimension {k_dim} does not fit 3 bits")));
        }
        let (space_flag, base) = match space {
            Space::Local => (0, 0),
            Space::Global(base) => (GLOBAL_FLAG, *base),
        };
        let (pattern_flag, pattern_bits) = match pattern {
            None => (0, 0),
            Some(Pattern { n: n @ 1..=16, m: m @ 1..=16 }) => (PATTERN_FLAG, (n - 1) | (m - 1) << 4),
            Some(p) => {
                return Err(Unwritable::Unencodable(format!(
                    "pattern {p} does not fit: n and m are 1 to 16"
                )));
            }
        };
        out.extend_from_slice(&[code, k_dim | space_flag | pattern_flag, pattern_bits, base]);
        let mut advanced = 0u32;
        let mut steps = [0i32; LOOP_LEVELS + PE_COORDS];
        for (i, advance) in levels.iter().chain(coords).enumerate() {
            let dim = match advance {
                None => NO_ADVANCE,
                Some(Advance { dim, step }) => {
                    steps[i] = *step;
                    u32::from(*dim)
                }
            };
            if advance.is_some() && dim >= NO_ADVANCE {
                return Err(Unwritable::Unencodable(format!(
                    "a view's advanced dimension {dim} does not fit 4 bits"
                )));
            }
            advanced |= dim << (4 * i);
        }
        advanced.put(out)?;
        offset.put(out)?;
        dims.iter().try_for_each(|d| d.put(out))?;
        steps.put(out)
    }

    fn get(input: &mut Input<'_>) -> Result<View, WireError> {
        let [code, flags, pattern_bits, base] = input.array()?;
        let Some(format) = Format::from_code(code) else {
            return input.error(format!("{code} is no format"));
        };
        if flags & !VIEW_FLAGS != 0 {
            return input.error(format!("reserved flags {flags:#x} of a view are set"));
        }
        let space = match (flags & GLOBAL_FLAG != 0, base) {
            (true, base) => Space::Global(base),
            (false, 0) => Space::Local,
            (false, _) => return input.error("a local view has a base register"),
        };
        let pattern = match (flags & PATTERN_FLAG != 0, pattern_bits) {
            (true, bits) => Some(Pattern { n: (bits & 15) + 1, m: (bits >> 4) + 1 }),
            (false, 0) => None,
            (false, _) => return input.error("a dense view has pattern bits"),
        };
        let advanced = u32::get(input)?;
        let offset = i64::get(input)?;
        let mut dims = [Dim::UNIT; VIEW_DIMS];
        for dim in &mut dims {
            *dim = Dim::get(input)?;
        }
        let steps = <[i32; LOOP_LEVELS + PE_COORDS]>::get(input)?;
        let mut advances = [None; LOOP_LEVELS + PE_COORDS];
        for (i, advance) in advances.iter_mut().enumerate() {
            match (advanced >> (4 * i) & 15, steps[i]) {
                (NO_ADVANCE, 0) => {}
                (NO_ADVANCE, _) => return input.error("a step advances no dimension"),
                (dim, step) => *advance = Some(Advance { dim: dim as u8, step }),
            }
        }
        let [l0, l1, l2, l3, c0, c1, c2, c3] = advances;
        Ok(View {
            format,
            pattern,
            k_dim: flags & 7,
            space,
            offset,
            dims,
            levels: [l0, l1, l2, l3],
            coords: [c0, c1, c2, c3],
            shift: None,
        })
    }
}

/// The bytes of the object's tables: one list of kernels or entries spreads over several sections.
#[derive(Default)]
pub(crate) struct Tables {
    pub kernels: Vec<u8>,
    pub streams: Vec<u8>,
    pub views: Vec<u8>,
    pub programs: Vec<u8>,
    pub entries: Vec<u8>,
}

fn put_all<T: Wire>(items: &[T], out: &mut Vec<u8>) -> Result<(), Unwritable> {
    items.iter().try_for_each(|item| item.put(out))
}

impl Tables {
    /// Encodes kernels and entries.
    pub fn encode(kernels: &[Kernel], entries: &[EntryPoint]) -> Result<Tables, Unwritable> {
        let mut t = Tables::default();
        put_len(kernels.len(), &mut t.kernels)?;
        for kernel in kernels {
            let Kernel { name, grid, params, tensors, buffers, views, trips, programs, constants, code } =
                kernel;
            let in_kernel = |e: Unwritable| e.within(format_args!("kernel `{name}`"));
            let head = &mut t.kernels;
            name.put(head)?;
            grid.put(head)?;
            params.put(head)?;
            tensors.put(head)?;
            buffers.put(head)?;
            trips.put(head)?;
            constants.put(head)?;
            shift_entries(views).map_err(in_kernel)?.put(head)?;
            put_len(views.len(), head)?;
            put_len(programs.len(), head)?;
            put_len(code.len(), head)?;
            put_all(views, &mut t.views).map_err(in_kernel)?;
            put_all(programs, &mut t.programs).map_err(in_kernel)?;
            put_all(code, &mut t.streams).map_err(in_kernel)?;
        }
        put_len(entries.len(), &mut t.entries)?;
        for entry in entries {
            let EntryPoint { name, ranks, inputs, outputs, launches, transfers, code } = entry;
            name.put(&mut t.entries)?;
            ranks.put(&mut t.entries)?;
            inputs.put(&mut t.entries)?;
            outputs.put(&mut t.entries)?;
            launches.put(&mut t.entries)?;
            transfers.put(&mut t.entries)?;
            put_len(code.len(), &mut t.entries)?;
            put_all(code, &mut t.streams).map_err(|e| e.within(format_args!("entry `{name}`")))?;
        }
        Ok(t)
    }
}

/// A [`WireError`] with the name of its section.
pub(crate) type SectionError = (&'static str, WireError);

/// A section's bytes with its name, for messages.
pub(crate) struct Section<'a> {
    pub name: &'static str,
    pub input: Input<'a>,
}

impl<'a> Section<'a> {
    pub fn new(name: &'static str, bytes: &'a [u8]) -> Section<'a> {
        Section { name, input: Input::new(bytes) }
    }

    /// Runs a decoder on the section and names it in the error.
    pub fn read<T>(
        &mut self,
        read: impl FnOnce(&mut Input<'a>) -> Result<T, WireError>,
    ) -> Result<T, SectionError> {
        read(&mut self.input).map_err(|e| (self.name, e))
    }

    /// Reads a value.
    pub fn get<T: Wire>(&mut self) -> Result<T, SectionError> {
        self.read(|input| T::get(input))
    }

    /// Reads `n` values.
    pub fn list<T: Wire>(&mut self, n: u32) -> Result<Vec<T>, SectionError> {
        self.read(|input| input.list(n as usize))
    }

    /// Refuses bytes that are left over.
    pub fn finish(&mut self) -> Result<(), SectionError> {
        self.read(|input| input.finish())
    }
}

/// Fewest bytes of a kernel in the kernel section: name, grid, six lists, three counts.
const KERNEL_MIN_BYTES: usize = 4 + 2 * PE_COORDS + 6 * 4 + 3 * 4;
/// Fewest bytes of an entry in the entry section: name, ranks, four lists, a count.
const ENTRY_MIN_BYTES: usize = 4 + 2 + 4 * 4 + 4;

/// Reads a count of items that each take at least `min_bytes` of the section.
fn get_count(section: &mut Section<'_>, min_bytes: usize) -> Result<u32, SectionError> {
    section.read(|input| {
        let n = u32::get(input)?;
        if n as usize > input.remaining() / min_bytes {
            return input.error(format!("{n} elements announced, {} bytes left", input.remaining()));
        }
        Ok(n)
    })
}

/// The sections that kernels and entries spread over.
pub(crate) struct TableSections<'a> {
    pub kernels: Section<'a>,
    pub streams: Section<'a>,
    pub views: Section<'a>,
    pub programs: Section<'a>,
    pub entries: Section<'a>,
}

impl TableSections<'_> {
    /// Decodes kernels and entries; every section must end with its last item.
    pub fn decode(mut self) -> Result<(Vec<Kernel>, Vec<EntryPoint>), SectionError> {
        let n_kernels = get_count(&mut self.kernels, KERNEL_MIN_BYTES)?;
        let mut kernels = Vec::with_capacity(n_kernels as usize);
        for _ in 0..n_kernels {
            let head = &mut self.kernels;
            let mut kernel = Kernel {
                name: head.get()?,
                grid: head.get()?,
                params: head.get()?,
                tensors: head.get()?,
                buffers: head.get()?,
                trips: head.get()?,
                constants: head.get()?,
                ..Kernel::default()
            };
            let shifts: Vec<ShiftEntry> = head.get()?;
            let (n_views, n_programs, n_code) = (head.get()?, head.get()?, head.get()?);
            kernel.views = self.views.list(n_views)?;
            head.read(|input| attach(shifts, &mut kernel.views, input))?;
            kernel.programs = self.programs.list(n_programs)?;
            kernel.code = self.streams.list(n_code)?;
            kernels.push(kernel);
        }
        let n_entries = get_count(&mut self.entries, ENTRY_MIN_BYTES)?;
        let mut entries = Vec::with_capacity(n_entries as usize);
        for _ in 0..n_entries {
            let head = &mut self.entries;
            let mut entry = EntryPoint {
                name: head.get()?,
                ranks: head.get()?,
                inputs: head.get()?,
                outputs: head.get()?,
                launches: head.get()?,
                transfers: head.get()?,
                code: Vec::new(),
            };
            let n_code = head.get()?;
            entry.code = self.streams.list(n_code)?;
            entries.push(entry);
        }
        self.kernels.finish()?;
        self.streams.finish()?;
        self.views.finish()?;
        self.programs.finish()?;
        self.entries.finish()?;
        Ok((kernels, entries))
    }
}
