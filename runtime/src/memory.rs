//! Device memory, and the stores of a launch: logged per PE while its PEs run, applied in PE order when all have ended.
//!
//! Memory does not change while a launch runs, so a slot may be a reference into it, and PEs may run on any thread. A PE
//! sees its own stores, and those of all PEs before the last rendezvous, through an [`Overlay`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use lacuna_isa::format::{ScalarType, pack};
use lacuna_isa::inst::{Engine, MaskCode};
use lacuna_isa::object::{Access, Address, MemSpace};
use rayon::prelude::*;

use crate::boxes::WALK_DIMS;

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

    /// First address, and the one behind the last.
    fn extent(&self) -> (u64, u64) {
        let (mut low, mut high) = (self.start, self.start);
        for d in 0..self.n_dims {
            let reach = self.strides[d] * (i64::from(self.counts[d]) - 1);
            low += reach.min(0);
            high += reach.max(0);
        }
        (low as u64, high as u64 + self.run)
    }

    /// Calls `f` with the address of each run, until it returns false.
    pub fn all(&self, mut f: impl FnMut(u64) -> bool) -> bool {
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

    /// Calls `f` with the address of each run.
    pub fn each(&self, mut f: impl FnMut(u64)) {
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

/// When an access happened, as seen by one PE.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Moment {
    /// Whether it went through the store queue, not the load queue.
    pub stores: bool,
    /// The PE's segment: how often it had posted or met others before.
    pub segment: u32,
}

/// A store in a log.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub at: ByteBox,
    content: Content,
    data: usize,
    /// Every byte must be written once only, also by this PE.
    pub once: bool,
    pub pc: usize,
    pub when: Moment,
}

/// A load in a log.
#[derive(Clone, Debug)]
pub(crate) struct ReadRecord {
    pub at: ByteBox,
    /// Whether the PE itself may write what it read here.
    pub own_writes_legal: bool,
    pub pc: usize,
    pub when: Moment,
}

/// What one PE stored and, where it matters, read.
#[derive(Default, Debug)]
pub(crate) struct Log {
    pub stores: Vec<Store>,
    data: Vec<u8>,
    pub reads: Vec<ReadRecord>,
    now: Moment,
}

impl Log {
    /// What follows is done by `engine`.
    pub fn at(&mut self, engine: Engine) {
        self.now.stores = engine == Engine::FiStore;
    }

    /// The current segment.
    pub fn segment(&self) -> u32 {
        self.now.segment
    }

    /// What follows is in the next segment.
    pub fn end_segment(&mut self) {
        self.now.segment += 1;
    }

    /// Takes the records out; the segment goes on.
    pub fn split(&mut self) -> Log {
        let now = self.now;
        std::mem::replace(self, Log { now, ..Log::default() })
    }

    /// An empty log in the memory of this one.
    pub fn cleared(mut self) -> Log {
        self.stores.clear();
        self.data.clear();
        self.reads.clear();
        Log { now: Moment::default(), ..self }
    }

    /// Writes all stores into memory.
    fn apply(&self, memory: &mut Memory<'_>) {
        for store in &self.stores {
            let bytes = memory.bytes_mut(store.at.space);
            let mut data = &self.data[store.data..];
            store.at.each(|at| {
                let run = &mut bytes[at as usize..(at + store.at.run) as usize];
                data = put(store.content, run, data);
            });
        }
    }

    /// Writes what stores of whole bytes to `space` have for `part`, which begins at address `start`.
    fn apply_part(&self, space: MemSpace, start: u64, part: &mut [u8]) {
        let end = start + part.len() as u64;
        let whole = |store: &&Store| store.at.space == space && matches!(store.content, Content::Bytes);
        for store in self.stores.iter().filter(whole) {
            let run = store.at.run;
            let mut data = &self.data[store.data..];
            store.at.each(|at| {
                let (now, rest) = data.split_at(run as usize);
                let (from, to) = (at.max(start), (at + run).min(end));
                if from < to {
                    part[(from - start) as usize..(to - start) as usize]
                        .copy_from_slice(&now[(from - at) as usize..(to - at) as usize]);
                }
                data = rest;
            });
        }
    }

    /// Writes all stores of a launch into memory, in the order of the logs.
    pub fn apply_all(logs: &[&Log], memory: &mut Memory<'_>) {
        /// Below this many bytes one thread is faster.
        const MANY: usize = 1 << 17;
        let stores = || logs.iter().flat_map(|log| &log.stores);
        let some_are_codes = stores().any(|store| matches!(store.content, Content::Codes { .. }));
        let n_threads = rayon::current_num_threads();
        if n_threads < 2 || some_are_codes || logs.iter().map(|log| log.data.len()).sum::<usize>() < MANY {
            logs.iter().for_each(|log| log.apply(memory));
            return;
        }
        for space in [MemSpace::Hbm, MemSpace::Sram] {
            let extents = stores().filter(|store| store.at.space == space).map(|store| store.at.extent());
            let Some((first, end)) = extents.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else { continue };
            let bytes = &mut memory.bytes_mut(space)[first as usize..end as usize];
            let size = bytes.len().div_ceil(n_threads).max(1);
            bytes.par_chunks_mut(size).enumerate().for_each(|(number, part)| {
                let start = first + (number * size) as u64;
                logs.iter().for_each(|log| log.apply_part(space, start, part));
            });
        }
    }

    /// Copies all stores to `inout` tensors into pages that every PE will see.
    pub fn show(&self, pages: &mut Pages, memory: &Memory<'_>) {
        for store in self.stores.iter().filter(|store| !store.once) {
            let bytes = memory.bytes(store.at.space);
            let mut data = &self.data[store.data..];
            store.at.each(|at| data = pages.write(store, at, data, bytes));
        }
    }

    /// Starts a store of whole bytes; its data, run after run, is appended to [`Log::data_mut`].
    pub fn store_bytes(&mut self, at: ByteBox, access: Access, pc: usize) {
        let once = access == Access::Out;
        let when = self.now;
        self.stores.push(Store { at, content: Content::Bytes, data: self.data.len(), once, pc, when });
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
        let when = self.now;
        self.stores.push(Store { at, content, data: self.data.len(), once: false, pc, when });
        self.data.extend_from_slice(codes);
    }

    /// Marks bytes as written without writing them.
    pub fn claim(&mut self, at: ByteBox, pc: usize) {
        let (data, when) = (self.data.len(), self.now);
        self.stores.push(Store { at, content: Content::Claim, data, once: false, pc, when });
    }

    /// Where the data of the last store goes.
    pub fn data_mut(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    /// Notes a load.
    pub fn read(&mut self, at: ByteBox, own_writes_legal: bool, pc: usize) {
        self.reads.push(ReadRecord { at, own_writes_legal, pc, when: self.now });
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

/// Parts of the memories with stores laid over them.
#[derive(Clone, Default, Debug)]
pub(crate) struct Pages(HashMap<(MemSpace, u64), Box<[u8; PAGE]>>);

impl Pages {
    fn write<'d>(&mut self, store: &Store, at: u64, data: &'d [u8], memory: &[u8]) -> &'d [u8] {
        let run = store.at.run as usize;
        let mut image = memory[at as usize..at as usize + run].to_vec();
        self.read(store.at.space, at, &mut image);
        let rest = put(store.content, &mut image, data);
        self.put(store.at.space, at, &image, |first, bytes| fill(first, bytes, memory));
        rest
    }

    /// Writes `image` to `at`; `fill` gives a new page its content from its first address on.
    fn put(&mut self, space: MemSpace, at: u64, image: &[u8], fill: impl Fn(usize, &mut [u8; PAGE])) {
        let mut done = 0;
        while done < image.len() {
            let address = at + done as u64;
            let (page, offset) = (address / PAGE as u64, address as usize % PAGE);
            let n = (PAGE - offset).min(image.len() - done);
            let entry = self.0.entry((space, page)).or_insert_with(|| {
                let mut bytes = Box::new([0; PAGE]);
                fill(page as usize * PAGE, &mut bytes);
                bytes
            });
            entry[offset..offset + n].copy_from_slice(&image[done..done + n]);
            done += n;
        }
    }

    /// Copies what lies over the bytes from `at` on into `image`, which has the memory's content.
    fn read(&self, space: MemSpace, at: u64, image: &mut [u8]) {
        let end = at + image.len() as u64;
        for page in at / PAGE as u64..end.div_ceil(PAGE as u64) {
            if let Some(bytes) = self.0.get(&(space, page)) {
                let start = page * PAGE as u64;
                let (from, to) = (start.max(at), (start + PAGE as u64).min(end));
                image[(from - at) as usize..(to - at) as usize]
                    .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
            }
        }
    }
}

fn fill(first: usize, bytes: &mut [u8; PAGE], memory: &[u8]) {
    let first = first.min(memory.len());
    let last = (first + PAGE).min(memory.len());
    bytes[..last - first].copy_from_slice(&memory[first..last]);
}

/// What a PE sees over the memory that the launch started with: stores to `inout` tensors by all PEs up to the last
/// rendezvous, and its own since then.
#[derive(Default, Debug)]
pub(crate) struct Overlay {
    shared: Arc<Pages>,
    own: Pages,
}

impl Overlay {
    /// What a PE sees after a rendezvous.
    pub fn over(shared: Arc<Pages>) -> Overlay {
        Overlay { shared, own: Pages::default() }
    }

    /// Whether nothing was stored.
    pub fn is_empty(&self) -> bool {
        self.shared.0.is_empty() && self.own.0.is_empty()
    }

    fn write<'d>(&mut self, store: &Store, at: u64, data: &'d [u8], memory: &[u8]) -> &'d [u8] {
        let space = store.at.space;
        let mut image = self.read(space, at, store.at.run as usize, memory).into_owned();
        let rest = put(store.content, &mut image, data);
        let shared = &self.shared;
        self.own.put(space, at, &image, |first, bytes| {
            fill(first, bytes, memory);
            shared.read(space, first as u64, bytes);
        });
        rest
    }

    /// Bytes `at..at + n` of `memory`, which is all of `space`, as the PE sees them.
    pub fn read<'a>(&self, space: MemSpace, at: u64, n: usize, memory: &'a [u8]) -> Cow<'a, [u8]> {
        let plain = &memory[at as usize..at as usize + n];
        if self.is_empty() {
            return Cow::Borrowed(plain);
        }
        let mut image = plain.to_vec();
        self.shared.read(space, at, &mut image);
        self.own.read(space, at, &mut image);
        Cow::Owned(image)
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

/// The codes of a compressed tensor, dense from element 0 on.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub code: MaskCode,
    pub ty: ScalarType,
    pub codes: Arc<[u8]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory<'static> {
        Memory::new(&[], 1 << 20, 1 << 10).expect("a mebibyte")
    }

    /// Logs that all threads apply at once, and ones that one thread applies, leave the same bytes.
    #[test]
    fn logs_are_applied_alike() {
        let mut logs = Vec::new();
        for pe in 0..7u64 {
            let mut log = Log::default();
            for number in 0..50u64 {
                let mut at = ByteBox::run(MemSpace::Hbm, 130_000 * pe + 2_600 * number + 3, 33);
                (at.counts[0], at.strides[0], at.n_dims) = (70, 37, 1);
                log.store_bytes(at, Access::Out, 0);
                log.data_mut().extend((0..70 * 33u64).map(|i| (i * 31 + number * 7 + pe) as u8));
            }
            log.claim(ByteBox::run(MemSpace::Hbm, 5, 100), 0);
            logs.push(log);
        }
        let mut want = memory();
        logs.iter().for_each(|log| log.apply(&mut want));
        for threads in [1, 2, 3] {
            let mut got = memory();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| Log::apply_all(&logs.iter().collect::<Vec<_>>(), &mut got));
            assert!(got.bytes(MemSpace::Hbm) == want.bytes(MemSpace::Hbm), "{threads} threads");
        }
    }
}
