//! Circular buffers of a PE and what their slots hold.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::object::Buffer;
use lacuna_isa::view::{Pattern, PlaneMap, VIEW_DIMS, View};

use crate::boxes::{Walk, dense_strides};

use crate::codes::copy_codes;
use crate::trap::{Fault, TrapKind};

/// Bytes aligned for every element type. Clones share them; those of one owner alone can be written.
#[derive(Clone, Default, Debug)]
pub(crate) struct Bytes(Arc<Words>);

#[derive(Clone, Default, Debug)]
struct Words {
    words: Vec<u64>,
    len: usize,
}

impl Bytes {
    fn new(len: usize) -> Bytes {
        Bytes(Arc::new(Words { words: vec![0; len.div_ceil(8)], len }))
    }

    /// All bytes.
    pub fn get(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.0.words)[..self.0.len]
    }

    /// All bytes, copied before where others share them.
    pub fn get_mut(&mut self) -> &mut [u8] {
        let Words { words, len } = Arc::make_mut(&mut self.0);
        &mut bytemuck::cast_slice_mut(words)[..*len]
    }

    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// The layout of a slot: format, pattern and the dense elements that its planes are made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    pub map: PlaneMap,
    pub elements: u64,
}

impl Layout {
    /// The layout that a push through `view` gives its slot: dimensions of stride 0 repeat and take no room.
    pub fn of(view: &View) -> Layout {
        Layout { map: view.planes(), elements: view.slot_elements() }
    }

    /// The layout of a dense box.
    pub fn new(format: Format, pattern: Option<Pattern>, k_stride: u64, elements: u64) -> Layout {
        Layout { map: PlaneMap { format, pattern, k_stride }, elements }
    }

    /// Bytes of all planes.
    pub fn bytes(&self) -> u64 {
        self.map.plane_bytes(self.elements).iter().sum()
    }
}

/// Where the elements of a dense box of f32 lie outside its slot: element 0 first, at strides that are not negative.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    /// The view that tells it, by which placements of one kernel are compared.
    pub view: u16,
    pub sizes: [u32; VIEW_DIMS],
    pub strides: [i64; VIEW_DIMS],
}

impl Placement {
    /// Where the box of a global view lies; `None` where that is no f32 at strides that are not negative.
    pub fn of(number: u16, view: &View) -> Option<Placement> {
        let strides = view.dims.map(|d| i64::from(d.stride));
        let fits = view.format == Format::F32 && view.pattern.is_none() && strides.iter().all(|&s| s >= 0);
        fits.then(|| Placement { view: number, sizes: view.sizes(), strides })
    }

    /// `view` of the slot as a view of where its elements lie; `None` where the places of its indices are no sums.
    pub fn compose(&self, view: &View) -> Option<View> {
        let dense = dense_strides(self.sizes);
        // The digits of a distance in the slot are distances along the dimensions of the box.
        let digits = |distance: i64| -> Option<[i64; VIEW_DIMS]> {
            let mut rest = u64::try_from(distance).ok()?;
            Some(std::array::from_fn(|d| {
                let digit = rest / dense[d] as u64;
                rest %= dense[d] as u64;
                digit as i64
            }))
        };
        let place = |digits: &[i64; VIEW_DIMS]| -> i64 {
            digits.iter().zip(&self.strides).map(|(digit, stride)| digit * stride).sum()
        };
        let mut most = digits(view.offset)?;
        let mut composed = View { offset: place(&most), ..view.clone() };
        for dim in composed.dims.iter_mut().filter(|dim| dim.size > 1) {
            let step = digits(i64::from(dim.stride))?;
            dim.stride = i32::try_from(place(&step)).ok()?;
            for (most, step) in most.iter_mut().zip(step) {
                *most += step * i64::from(dim.size - 1);
            }
        }
        // Without carries, the digits of a sum are the sums of digits.
        most.iter().zip(self.sizes).all(|(&most, size)| most < i64::from(size)).then_some(composed)
    }
}

#[derive(Clone, Debug)]
enum Data<'m> {
    /// References into memory that does not change while the launch runs, one per plane.
    Alias([&'m [u8]; 3]),
    /// F32 in memory that does not change while the launch runs, not side by side.
    Strided(&'m [u8], &'m Placement),
    Owned(Bytes),
    /// Nothing, while an instruction updates the slot.
    Taken,
}

/// A published slot.
#[derive(Clone, Debug)]
pub(crate) struct Slot<'m> {
    data: Data<'m>,
    pub layout: Layout,
    /// Distinguishes the contents of all slots with bytes of their own; 0 for references, whose address does.
    pub version: u64,
    /// Which constants the slot has, if a load brought all of its box from there.
    pub constant: Option<Constant>,
}

/// What determines the bytes that a load of a whole box of weights brings: the instruction, the tensor's address and the
/// first element.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Constant {
    pub pc: usize,
    pub address: u64,
    pub first: i64,
}

/// Versions of slots: a thread takes many at once.
fn next_version() -> u64 {
    const TAKEN: u64 = 1 << 12;
    static NEXT: AtomicU64 = AtomicU64::new(TAKEN);
    thread_local! {
        static OWN: Cell<u64> = const { Cell::new(0) };
    }
    OWN.with(|own| {
        let version = match own.get() {
            used if used % TAKEN == 0 => NEXT.fetch_add(TAKEN, Ordering::Relaxed) + 1,
            version => version,
        };
        own.set(version + 1);
        version
    })
}

impl<'m> Slot<'m> {
    /// A slot that refers to memory.
    pub fn alias(planes: [&'m [u8]; 3], layout: Layout) -> Slot<'m> {
        Slot { data: Data::Alias(planes), layout, version: 0, constant: None }
    }

    /// A slot of f32 whose elements lie apart in memory, from the first of `bytes` on.
    pub fn strided(bytes: &'m [u8], at: &'m Placement, layout: Layout) -> Slot<'m> {
        Slot { data: Data::Strided(bytes, at), layout, version: 0, constant: None }
    }

    /// The bytes from its first element on, and where the elements lie, of a slot whose elements lie apart.
    pub fn placement(&self) -> Option<(&'m [u8], &'m Placement)> {
        match self.data {
            Data::Strided(bytes, at) => Some((bytes, at)),
            Data::Alias(_) | Data::Owned(_) | Data::Taken => None,
        }
    }

    /// The slot with its elements side by side.
    pub fn gathered(self, pool: &mut Pool) -> Slot<'m> {
        let Data::Strided(bytes, at) = self.data else { return self };
        let mut out = pool.any(self.layout.bytes() as usize);
        gather(bytes, at, out.get_mut());
        Slot::owned(out, self.layout)
    }

    /// A slot of its own bytes.
    pub fn owned(bytes: Bytes, layout: Layout) -> Slot<'m> {
        Slot { data: Data::Owned(bytes), layout, version: next_version(), constant: None }
    }

    /// The hole that a slot leaves while an instruction updates it.
    fn taken(layout: Layout) -> Slot<'m> {
        Slot { data: Data::Taken, layout, version: 0, constant: None }
    }

    /// Faults when another operand of the instruction updates the slot.
    fn check_present(self) -> Result<Slot<'m>, Fault> {
        match self.data {
            Data::Alias(_) | Data::Strided(..) | Data::Owned(_) => Ok(self),
            Data::Taken => {
                Err(Fault::new(TrapKind::SlotConflict, "an operand updates the slot that another one names"))
            }
        }
    }

    /// The planes: codes, scales, indices; of a slot whose elements lie apart, the bytes that they lie in.
    pub fn planes(&self) -> [&[u8]; 3] {
        match &self.data {
            Data::Alias(planes) => *planes,
            Data::Strided(bytes, _) => [bytes, &[], &[]],
            Data::Taken => [&[]; 3],
            Data::Owned(bytes) => {
                let [codes, scales, _] = self.layout.map.plane_bytes(self.layout.elements);
                let bytes = bytes.get();
                let (codes, rest) = bytes.split_at((codes as usize).min(bytes.len()));
                let (scales, indices) = rest.split_at((scales as usize).min(rest.len()));
                [codes, scales, indices]
            }
        }
    }

    /// Bytes that can be written, planes one after another: the slot's own, or a copy of what it refers to.
    pub fn into_bytes(self) -> Bytes {
        match self.data {
            Data::Alias(planes) => {
                let len = planes.iter().map(|p| p.len()).sum();
                let mut bytes = Bytes::new(len);
                let mut at = 0;
                for plane in planes {
                    bytes.get_mut()[at..at + plane.len()].copy_from_slice(plane);
                    at += plane.len();
                }
                bytes
            }
            Data::Strided(source, at) => {
                let len = self.layout.bytes() as usize;
                let mut bytes = Bytes::new(len);
                gather(source, at, bytes.get_mut());
                bytes
            }
            Data::Taken => Bytes::default(),
            Data::Owned(bytes) => bytes,
        }
    }

    /// Checks that `view` reads the slot in the format and group layout that it was written in.
    pub fn check_format(&self, view: &View) -> Result<(), Fault> {
        let map = view.planes();
        let grouped = self.layout.map.pattern.is_some() || self.layout.map.format.group_size() > 1;
        if map.format != self.layout.map.format || map.pattern != self.layout.map.pattern {
            return Err(Fault::new(
                TrapKind::FormatMismatch,
                format!("the slot holds {}, the view reads {}", self.layout.map.format, map.format),
            ));
        }
        if grouped && map.k_stride.max(1) != self.layout.map.k_stride.max(1) {
            return Err(Fault::new(
                TrapKind::FormatMismatch,
                format!(
                    "groups of the slot run at distance {}, those of the view at {}",
                    self.layout.map.k_stride, map.k_stride
                ),
            ));
        }
        Ok(())
    }
}

/// Copies f32 that lie apart into one dense box.
fn gather(bytes: &[u8], at: &Placement, out: &mut [u8]) {
    if let Some(walk) = Walk::new(&at.sizes, &at.strides, &dense_strides(at.sizes), [0, 0]) {
        copy_codes(&walk, (bytes, 0, ScalarType::F32), (out, ScalarType::F32));
    }
}

/// A circular buffer in use.
#[derive(Debug)]
pub(crate) struct Ring<'m> {
    decl: &'m Buffer,
    /// Oldest first.
    slots: VecDeque<Slot<'m>>,
    /// Slots taken by the current instruction, free only when it ends.
    leaving: u8,
}

impl<'m> Ring<'m> {
    pub fn new(decl: &'m Buffer) -> Ring<'m> {
        Ring { decl, slots: VecDeque::new(), leaving: 0 }
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The buffer's name.
    pub fn name(&self) -> &'m str {
        &self.decl.name
    }

    /// Index of the slot `delta` behind the head.
    pub fn locate(&self, delta: u8) -> Result<usize, Fault> {
        let idx = usize::from(delta);
        if self.slots.is_empty() {
            let message = format!("buffer {} is empty", self.decl.name);
            return Err(Fault::new(TrapKind::PopEmpty, message));
        }
        if idx >= self.slots.len() {
            let message = format!(
                "buffer {} holds {} slots, none is {delta} behind the head",
                self.decl.name,
                self.slots.len()
            );
            return Err(Fault::new(TrapKind::BadDelta, message));
        }
        Ok(idx)
    }

    /// The slot `delta` behind the head; the copy shares its bytes.
    pub fn read(&self, delta: u8) -> Result<Slot<'m>, Fault> {
        let idx = self.locate(delta)?;
        self.slots[idx].clone().check_present()
    }

    /// Takes the head slot; its place is free when the instruction ends.
    pub fn pop(&mut self) -> Result<Slot<'m>, Fault> {
        self.locate(0)?;
        match self.slots.pop_front() {
            Some(slot) => {
                self.leaving += 1;
                slot.check_present()
            }
            None => Err(Fault::new(TrapKind::PopEmpty, format!("buffer {} is empty", self.decl.name))),
        }
    }

    /// Takes the slot `delta` behind the head out to be written, and its place, to which [`Ring::put_back`] returns it.
    pub fn take(&mut self, delta: u8) -> Result<(usize, Slot<'m>), Fault> {
        let idx = self.locate(delta)?;
        let hole = Slot::taken(self.slots[idx].layout);
        let slot = std::mem::replace(&mut self.slots[idx], hole).check_present()?;
        Ok((idx + usize::from(self.leaving), slot))
    }

    /// Puts an updated slot back.
    pub fn put_back(&mut self, place: usize, slot: Slot<'m>) {
        // What the instruction has popped since was in front of it: popping the hole itself is a conflict.
        if let Some(hole) = self.slots.get_mut(place.wrapping_sub(usize::from(self.leaving))) {
            *hole = slot;
        }
    }

    /// Checks that a slot is free and holds `bytes`.
    pub fn check_push(&self, bytes: u64) -> Result<(), Fault> {
        let used = self.slots.len() + usize::from(self.leaving);
        if used >= usize::from(self.decl.slots) {
            let message = format!("all {} slots of buffer {} are in use", self.decl.slots, self.decl.name);
            return Err(Fault::new(TrapKind::PushFull, message));
        }
        if bytes > u64::from(self.decl.slot_bytes) {
            let message = format!(
                "{bytes} bytes do not fit a slot of buffer {}, which has {}",
                self.decl.name, self.decl.slot_bytes
            );
            return Err(Fault::new(TrapKind::SlotTooSmall, message));
        }
        Ok(())
    }

    /// Publishes a slot.
    pub fn push(&mut self, slot: Slot<'m>) {
        self.slots.push_back(slot);
    }

    /// Ends an instruction: what it popped is free now.
    pub fn settle(&mut self) {
        self.leaving = 0;
    }
}

/// Bytes of freed slots, used again.
#[derive(Default, Debug)]
pub(crate) struct Pool {
    free: Vec<Bytes>,
}

impl Pool {
    /// `len` bytes of unspecified content.
    pub fn any(&mut self, len: usize) -> Bytes {
        let words = len.div_ceil(8);
        let size = |bytes: &Bytes| bytes.0.words.len();
        // What was freed last is in the caches.
        let fits = self.free.iter().rposition(|b| size(b) >= words && size(b) <= 2 * words + 64);
        match fits {
            Some(idx) => {
                let mut bytes = self.free.swap_remove(idx);
                Arc::make_mut(&mut bytes.0).len = len;
                bytes
            }
            None => Bytes::new(len),
        }
    }

    /// `len` bytes of zero.
    pub fn zeroed(&mut self, len: usize) -> Bytes {
        let mut bytes = self.any(len);
        bytes.get_mut().fill(0);
        bytes
    }

    /// Takes back a slot that nothing refers to any more.
    pub fn recycle(&mut self, slot: Slot<'_>) {
        const MAX_FREE: usize = 32;
        if let Data::Owned(bytes) = slot.data
            && !bytes.is_shared()
            && self.free.len() < MAX_FREE
        {
            self.free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use lacuna_isa::view::Dim;
    use proptest::prelude::*;

    use super::*;

    fn element(view: &View, number: u64) -> i64 {
        let mut rest = number;
        let mut at = view.offset;
        for dim in view.dims.iter().rev() {
            at += i64::from(dim.stride) * (rest % u64::from(dim.size)) as i64;
            rest /= u64::from(dim.size);
        }
        at
    }

    proptest! {
        /// Where a view of a slot composes, every index has the element that the gathered slot has.
        #[test]
        fn composed_views_name_the_same_elements(
            sizes in prop::array::uniform5(1u32..5),
            strides in prop::array::uniform5(0i64..60),
            parts in prop::array::uniform5((1u32..4, 0i32..40)),
            offset in 0i64..6,
        ) {
            let mut view = View::dense(Format::F32, parts.map(|part| part.0));
            view.offset = offset;
            for (dim, part) in view.dims.iter_mut().zip(parts) {
                *dim = Dim::free(part.0, part.1);
            }
            let at = Placement { view: 0, sizes, strides };
            let walk = Walk::new(&sizes, &strides, &dense_strides(sizes), [0, 0]).expect("not empty");
            let mut places = vec![0; sizes.iter().product::<u32>() as usize];
            let (n, [ss, ts]) = walk.inner();
            walk.rows(|s, t| {
                (0..n as i64).for_each(|i| places[(t + i * ts) as usize] = s + i * ss);
            });
            if let Some(composed) = at.compose(&view) {
                for number in 0..view.elements() {
                    prop_assert_eq!(element(&composed, number), places[element(&view, number) as usize]);
                }
            }
        }
    }

    #[test]
    fn views_of_a_convolution_compose() {
        // Three by three windows of a box of five by six by four.
        let mut view = View::dense(Format::F32, [3, 4, 3, 3, 4]);
        let strides = [24, 4, 24, 4, 1];
        view.dims.iter_mut().zip(strides).for_each(|(dim, stride)| dim.stride = stride);
        let at = Placement { view: 0, sizes: [1, 1, 5, 6, 4], strides: [0, 0, 700, 30, 1] };
        let composed = at.compose(&view).expect("windows are sums");
        assert_eq!(composed.dims.map(|dim| dim.stride), [700, 30, 700, 30, 1]);
        // A window that leaves the box would carry.
        view.dims[0].size = 4;
        assert!(at.compose(&view).is_none());
    }
}
