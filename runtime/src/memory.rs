//! Device memory, and the stores of a launch: logged per PE while its PEs run, applied in PE order when all have ended.
//!
//! Memory does not change while a launch runs, so a slot may be a reference into it, and PEs may run on any thread. A PE
//! sees its own stores through an [`Overlay`]. Conflicts between PEs are found when the logs are applied, exactly to the
//! byte: every byte written sets a bit.

use std::borrow::Cow;
use std::collections::HashMap;

use lacuna_isa::format::{ScalarType, pack};
use lacuna_isa::object::{Access, Address, MemSpace};

use crate::boxes::WALK_DIMS;
use crate::dma::Image;
use crate::trap::{Fault, TrapKind};

/// The memories of one run.
pub(crate) struct Memory<'o> {
    weights: &'o [u8],
    hbm: Vec<u64>,
    sram: Vec<u64>,
    hbm_bytes: usize,
    sram_bytes: usize,
}

fn zeroed(bytes: u64) -> Option<Vec<u64>> {
    let words = usize::try_from(bytes.div_ceil(8)).ok()?;
    let mut probe: Vec<u64> = Vec::new();
    probe.try_reserve_exact(words).ok()?;
    drop(probe);
    Some(vec![0; words])
}

impl<'o> Memory<'o> {
    /// Memories of zeros beside `weights`; `None` when the host has not enough.
    pub fn new(weights: &'o [u8], hbm_bytes: u64, sram_bytes: u64) -> Option<Memory<'o>> {
        Some(Memory {
            weights,
            hbm: zeroed(hbm_bytes)?,
            sram: zeroed(sram_bytes)?,
            hbm_bytes: usize::try_from(hbm_bytes).ok()?,
            sram_bytes: usize::try_from(sram_bytes).ok()?,
        })
    }

    /// All bytes of a memory.
    pub fn bytes(&self, space: MemSpace) -> &[u8] {
        match space {
            MemSpace::Weights => self.weights,
            MemSpace::Hbm => &bytemuck::cast_slice(&self.hbm)[..self.hbm_bytes],
            MemSpace::Sram => &bytemuck::cast_slice(&self.sram)[..self.sram_bytes],
        }
    }

    /// All bytes of a memory that can be written; none of the weights.
    pub fn bytes_mut(&mut self, space: MemSpace) -> &mut [u8] {
        match space {
            MemSpace::Weights => &mut [],
            MemSpace::Hbm => &mut bytemuck::cast_slice_mut(&mut self.hbm)[..self.hbm_bytes],
            MemSpace::Sram => &mut bytemuck::cast_slice_mut(&mut self.sram)[..self.sram_bytes],
        }
    }
}

/// A tensor of a launch, resolved to bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensor<'m> {
    /// Its bytes.
    pub bytes: &'m [u8],
    /// Where they are.
    pub address: Address,
    /// How the kernel uses it.
    pub access: Access,
    /// Byte offsets of its planes.
    pub planes: [u64; 3],
    /// Whether loads must be logged, because something else in the launch may write the same bytes.
    pub log_reads: bool,
    /// The codes of a compressed tensor, expanded.
    pub image: Option<&'m Image>,
}

/// Runs of bytes at strided addresses of one memory.
#[derive(Clone, Debug)]
pub(crate) struct ByteBox {
    pub space: MemSpace,
    pub start: i64,
    pub run: u64,
    pub counts: [u32; WALK_DIMS],
    pub strides: [i64; WALK_DIMS],
    pub n_dims: usize,
}

impl ByteBox {
    /// One run.
    pub fn run(space: MemSpace, start: u64, run: u64) -> ByteBox {
        ByteBox {
            space,
            start: start as i64,
            run,
            counts: [1; WALK_DIMS],
            strides: [0; WALK_DIMS],
            n_dims: 0,
        }
    }

    /// Calls `f` with the address of each run, until it returns false.
    fn all(&self, mut f: impl FnMut(u64) -> bool) -> bool {
        let mut idx = [0u32; WALK_DIMS];
        let mut at = self.start;
        loop {
            if !f(at as u64) {
                return false;
            }
            let mut d = self.n_dims;
            loop {
                if d == 0 {
                    return true;
                }
                d -= 1;
                idx[d] += 1;
                at += self.strides[d];
                if idx[d] < self.counts[d] {
                    break;
                }
                at -= self.strides[d] * i64::from(self.counts[d]);
                idx[d] = 0;
            }
        }
    }

    fn each(&self, mut f: impl FnMut(u64)) {
        self.all(|at| {
            f(at);
            true
        });
    }
}

/// How the data of a store lies in its bytes.
#[derive(Clone, Copy, Debug)]
enum Content {
    /// The bytes themselves.
    Bytes,
    /// None: the bytes stay, but count as written.
    Claim,
    /// Codes of less than a byte that share the run's first or last byte with others: `skip` codes into the run.
    Codes { ty: ScalarType, skip: usize, n: usize },
}

#[derive(Clone, Debug)]
struct Store {
    at: ByteBox,
    content: Content,
    data: usize,
    /// Every byte must be written once only, also by this PE.
    once: bool,
    pc: usize,
}

#[derive(Clone, Debug)]
struct ReadRecord {
    at: ByteBox,
    /// Whether the PE itself may write what it read here.
    own_writes_legal: bool,
    pc: usize,
}

/// What one PE stored and, where it matters, read.
#[derive(Default, Debug)]
pub(crate) struct Log {
    stores: Vec<Store>,
    data: Vec<u8>,
    reads: Vec<ReadRecord>,
}

impl Log {
    /// Starts a store of whole bytes; its data, run after run, is appended to [`Log::data_mut`].
    pub fn store_bytes(&mut self, at: ByteBox, access: Access, pc: usize) {
        let once = access == Access::Out;
        self.stores.push(Store { at, content: Content::Bytes, data: self.data.len(), once, pc });
    }

    /// Stores `n` codes of less than a byte from bit-packed `codes`, `skip` codes into the run.
    pub fn store_codes(
        &mut self,
        at: ByteBox,
        ty: ScalarType,
        skip: usize,
        n: usize,
        codes: &[u8],
        pc: usize,
    ) {
        let content = Content::Codes { ty, skip, n };
        self.stores.push(Store { at, content, data: self.data.len(), once: false, pc });
        self.data.extend_from_slice(codes);
    }

    /// Marks bytes as written without writing them.
    pub fn claim(&mut self, at: ByteBox, pc: usize) {
        self.stores.push(Store { at, content: Content::Claim, data: self.data.len(), once: false, pc });
    }

    /// Where the data of the last store goes.
    pub fn data_mut(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    /// Notes a load.
    pub fn read(&mut self, at: ByteBox, own_writes_legal: bool, pc: usize) {
        self.reads.push(ReadRecord { at, own_writes_legal, pc });
    }

    /// Copies the last store into `overlay`, so that the PE's own loads see it.
    pub fn show_last(&self, overlay: &mut Overlay, memory: &[u8]) {
        if let Some(store) = self.stores.last() {
            let mut data = &self.data[store.data..];
            store.at.each(|at| data = overlay.write(store, at, data, memory));
        }
    }
}

const PAGE: usize = 4096;

/// A PE's own stores to `inout` tensors, as pages over the memory that the launch started with.
#[derive(Default, Debug)]
pub(crate) struct Overlay {
    pages: HashMap<(MemSpace, u64), Box<[u8; PAGE]>>,
}

impl Overlay {
    /// Whether the PE has stored nothing here.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    fn write<'d>(&mut self, store: &Store, at: u64, data: &'d [u8], memory: &[u8]) -> &'d [u8] {
        let run = store.at.run as usize;
        let mut image = self.read(store.at.space, at, run, memory).into_owned();
        let rest = put(store.content, &mut image, data);
        let mut done = 0;
        while done < run {
            let address = at + done as u64;
            let (page, offset) = (address / PAGE as u64, address as usize % PAGE);
            let n = (PAGE - offset).min(run - done);
            let entry = self.pages.entry((store.at.space, page)).or_insert_with(|| {
                let mut bytes = Box::new([0; PAGE]);
                let first = (page as usize * PAGE).min(memory.len());
                let last = (first + PAGE).min(memory.len());
                bytes[..last - first].copy_from_slice(&memory[first..last]);
                bytes
            });
            entry[offset..offset + n].copy_from_slice(&image[done..done + n]);
            done += n;
        }
        rest
    }

    /// Bytes `at..at + n` of `memory`, which is all of `space`, as the PE sees them.
    pub fn read<'a>(&self, space: MemSpace, at: u64, n: usize, memory: &'a [u8]) -> Cow<'a, [u8]> {
        let plain = &memory[at as usize..at as usize + n];
        let (first, last) = (at / PAGE as u64, (at + n as u64).div_ceil(PAGE as u64));
        let mut seen = Cow::Borrowed(plain);
        if self.is_empty() {
            return seen;
        }
        for page in first..last {
            if let Some(bytes) = self.pages.get(&(space, page)) {
                let page_start = page * PAGE as u64;
                let from = page_start.max(at);
                let to = (page_start + PAGE as u64).min(at + n as u64);
                seen.to_mut()[(from - at) as usize..(to - at) as usize]
                    .copy_from_slice(&bytes[(from - page_start) as usize..(to - page_start) as usize]);
            }
        }
        seen
    }
}

/// Writes one run and returns the data that is left.
fn put<'d>(content: Content, run: &mut [u8], data: &'d [u8]) -> &'d [u8] {
    match content {
        Content::Bytes => {
            let (now, rest) = data.split_at(run.len());
            run.copy_from_slice(now);
            rest
        }
        Content::Claim => data,
        Content::Codes { ty, skip, n } => {
            for i in 0..n {
                pack::set(run, ty, skip + i, pack::get(data, ty, i));
            }
            data
        }
    }
}

/// One bit for each byte of a part of a memory.
struct Bits {
    space: MemSpace,
    start: u64,
    end: u64,
    words: Vec<u64>,
}

impl Bits {
    fn masks(&self, at: u64, run: u64, mut f: impl FnMut(usize, u64)) {
        let (mut bit, end) = (at - self.start, at - self.start + run);
        while bit < end {
            let n = (64 - bit % 64).min(end - bit);
            f((bit / 64) as usize, (u64::MAX >> (64 - n)) << (bit % 64));
            bit += n;
        }
    }

    fn any(&self, at: u64, run: u64) -> bool {
        let mut hit = 0;
        self.masks(at, run, |word, mask| hit |= self.words[word] & mask);
        hit != 0
    }

    fn set(&mut self, at: u64, run: u64) -> bool {
        let mut hit = 0;
        let (mut bit, end) = (at - self.start, at - self.start + run);
        while bit < end {
            let n = (64 - bit % 64).min(end - bit);
            let mask = (u64::MAX >> (64 - n)) << (bit % 64);
            let word = &mut self.words[(bit / 64) as usize];
            hit |= *word & mask;
            *word |= mask;
            bit += n;
        }
        hit != 0
    }
}

/// The bytes that a launch may write, tensors that touch merged into one part.
struct Written(Vec<Bits>);

impl Written {
    fn new(tensors: &[(Address, u64, Access)]) -> Written {
        let mut parts: Vec<(MemSpace, u64, u64)> = tensors
            .iter()
            .filter(|(_, _, access)| *access != Access::In)
            .map(|(address, bytes, _)| (address.space, address.offset, address.offset + bytes))
            .collect();
        parts.sort_unstable();
        let mut merged: Vec<(MemSpace, u64, u64)> = Vec::new();
        for part in parts {
            match merged.last_mut() {
                Some(last) if last.0 == part.0 && part.1 <= last.2 => last.2 = last.2.max(part.2),
                _ => merged.push(part),
            }
        }
        Written(
            merged
                .into_iter()
                .map(|(space, start, end)| Bits {
                    space,
                    start,
                    end,
                    words: vec![0; (end - start).div_ceil(64) as usize],
                })
                .collect(),
        )
    }

    fn part(&mut self, space: MemSpace, at: u64) -> Option<&mut Bits> {
        self.0.iter_mut().find(|bits| bits.space == space && (bits.start..bits.end).contains(&at))
    }

    fn is_free(&mut self, at: &ByteBox) -> bool {
        at.all(|start| self.part(at.space, start).is_none_or(|bits| !bits.any(start, at.run)))
    }

    /// Marks a box; true when none of it was marked.
    fn mark(&mut self, at: &ByteBox) -> bool {
        let mut free = true;
        at.each(|start| {
            if let Some(bits) = self.part(at.space, start) {
                free &= !bits.set(start, at.run);
            }
        });
        free
    }
}

/// A conflict: PE number and instruction.
pub(crate) type Conflict = (usize, usize, Fault);

/// Applies the logs of all PEs in PE order.
///
/// # Errors
/// The first conflict, with nothing applied.
pub(crate) fn apply(
    memory: &mut Memory<'_>,
    tensors: &[(Address, u64, Access)],
    logs: &[Log],
) -> Result<(), Conflict> {
    let mut written = Written::new(tensors);
    let race = |pe: usize, pc: usize, at: &ByteBox, what: &str| {
        let message = format!("bytes from {:?} {:#x} on {what}", at.space, at.start);
        (pe, pc, Fault::new(TrapKind::Race, message))
    };
    for (pe, log) in logs.iter().enumerate() {
        for store in log.stores.iter().filter(|store| !store.once) {
            if !written.is_free(&store.at) {
                return Err(race(pe, store.pc, &store.at, "are written by another PE too"));
            }
        }
        for store in &log.stores {
            if !written.mark(&store.at) && store.once {
                return Err(race(pe, store.pc, &store.at, "are written twice"));
            }
        }
    }
    for (pe, log) in logs.iter().enumerate().filter(|(_, log)| !log.reads.is_empty()) {
        let mut others: Option<Written> = None;
        for read in &log.reads {
            if written.is_free(&read.at) {
                continue;
            }
            if !read.own_writes_legal {
                return Err(race(pe, read.pc, &read.at, "are read as `in` and written by the same launch"));
            }
            let others = others.get_or_insert_with(|| {
                let mut others = Written::new(tensors);
                for (_, log) in logs.iter().enumerate().filter(|(q, _)| *q != pe) {
                    for store in &log.stores {
                        others.mark(&store.at);
                    }
                }
                others
            });
            if !others.is_free(&read.at) {
                return Err(race(pe, read.pc, &read.at, "are read here and written by another PE"));
            }
        }
    }
    for log in logs {
        for store in &log.stores {
            let bytes = memory.bytes_mut(store.at.space);
            let mut data = &log.data[store.data..];
            store.at.each(|at| {
                let run = &mut bytes[at as usize..(at + store.at.run) as usize];
                data = put(store.content, run, data);
            });
        }
    }
    Ok(())
}

/// For each tensor, whether its loads must be logged: some byte range that the launch writes overlaps it.
pub(crate) fn needs_read_log(tensors: &[(Address, u64, Access)]) -> Vec<bool> {
    let overlaps = |a: &(Address, u64, Access), b: &(Address, u64, Access)| {
        a.0.space == b.0.space && a.0.offset < b.0.offset + b.1 && b.0.offset < a.0.offset + a.1
    };
    tensors
        .iter()
        .map(|tensor| match tensor.2 {
            Access::InOut => true,
            Access::Out => false,
            Access::In => tensors.iter().any(|other| other.2 != Access::In && overlaps(tensor, other)),
        })
        .collect()
}
