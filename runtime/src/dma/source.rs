//! Where a load reads: bytes of a tensor's planes in memory, under the PE's own stores.

use std::borrow::Cow;

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::MaskCode;
use lacuna_isa::object::Access;
use lacuna_isa::view::Pattern;

use super::codes::{PlaneSource, scale_type, within};
use super::expand::{Records, touched_blocks};
use super::planes::PlaneWalks;
use crate::boxes::Walk;
use crate::codes::copy_codes;
use crate::memory::{ByteBox, Log, Memory, Overlay, Tensor};
use crate::slots::Layout;
use crate::trap::{Fault, TrapKind};

/// Calls `f` with the bytes of a side of a walk, as boxes at absolute addresses.
pub(crate) fn byte_boxes(
    walk: &Walk,
    side: usize,
    ty: ScalarType,
    tensor: &Tensor<'_>,
    plane: usize,
    mut f: impl FnMut(ByteBox),
) {
    let origin = (tensor.address.offset + tensor.planes[plane]) as i64;
    let bits = i64::from(ty.bits());
    let (n, strides) = walk.inner();
    if bits >= 8 {
        let size = bits / 8;
        let mut at = ByteBox::run(tensor.address.space, 0, size as u64);
        at.start = origin + walk.base()[side] * size;
        for (count, strides) in walk.dims() {
            at.counts[at.n_dims] = count;
            at.strides[at.n_dims] = strides[side] * size;
            at.n_dims += 1;
        }
        if strides[side] == 1 {
            at.n_dims -= 1;
            at.run = n as u64 * size as u64;
        }
        f(at);
        return;
    }
    walk.rows(|s, t| {
        let first = if side == 0 { s } else { t };
        let mut run = |first: i64, n: i64| {
            let (from, to) = (first * bits / 8, ((first + n) * bits + 7) / 8);
            f(ByteBox::run(tensor.address.space, (origin + from) as u64, (to - from) as u64));
        };
        if strides[side] == 1 {
            run(first, n as i64);
        } else {
            (0..n as i64).for_each(|i| run(first + i * strides[side], 1));
        }
    });
}

/// Bytes of a tensor's plane that hold elements `low..=high`, and the element that the first byte starts with.
pub(crate) struct Window {
    pub start: u64,
    pub bytes: usize,
    pub origin: i64,
}

/// The bytes of a window from element `first` of whole bytes on.
pub(crate) fn alias_run<'m>(tensor: &Tensor<'m>, window: &Window, first: i64, ty: ScalarType) -> &'m [u8] {
    let skip = (first - window.origin) as usize * (ty.bits() / 8) as usize;
    &tensor.bytes[window.start as usize + skip..window.start as usize + window.bytes]
}

pub(crate) fn window(
    tensor: &Tensor<'_>,
    plane: usize,
    ty: ScalarType,
    (low, high): (i64, i64),
) -> Result<Window, Fault> {
    let out = || {
        let message = format!(
            "elements {low} to {high} of plane {plane} of a tensor of {} bytes ({ty})",
            tensor.bytes.len()
        );
        Fault::new(TrapKind::OutOfBounds, message)
    };
    if low < 0 || high >= 1 << 56 {
        return Err(out());
    }
    let origin = low & !7;
    let bits = i64::from(ty.bits());
    let from = tensor.planes[plane].checked_add((origin * bits / 8) as u64).ok_or_else(out)?;
    let to = tensor.planes[plane].checked_add(ty.bytes_for(high as u64 + 1)).ok_or_else(out)?;
    if to > tensor.bytes.len() as u64 {
        return Err(out());
    }
    Ok(Window { start: from, bytes: (to - from) as usize, origin })
}

/// What a load reads from: memory under the PE's own stores.
pub(crate) struct Source<'p, 'm> {
    pub tensor: Tensor<'m>,
    pub overlay: &'p Overlay,
    pub memory: &'m Memory<'m>,
    pub log: &'p mut Log,
    pub pc: usize,
    /// How the masks of a compressed tensor are coded.
    pub code: Option<MaskCode>,
    /// The codes of a compressed tensor, as far as they are expanded already.
    pub image: Option<&'m [u8]>,
    /// Bytes that crossed the port for compressed codes.
    pub expanded_bytes: u64,
}

impl Source<'_, '_> {
    /// Notes that all planes of a box are read; faults when one leaves the tensor.
    pub fn touch(
        &mut self,
        walks: &PlaneWalks,
        format: Format,
        pattern: Option<Pattern>,
    ) -> Result<(), Fault> {
        let codes = self.code.is_none().then_some((&walks.codes, 0, format.element()));
        let scales = walks.scales.as_ref().map(|walk| (walk, 1, scale_type(format)));
        let indices = walks.indices.as_ref().zip(pattern).map(|(walk, p)| (walk, 2, p.index_type()));
        for (walk, plane, ty) in [codes, scales, indices].into_iter().flatten() {
            window(&self.tensor, plane, ty, walk.extent(0))?;
            if self.tensor.log_reads {
                let own = self.tensor.access == Access::InOut;
                byte_boxes(walk, 0, ty, &self.tensor, plane, |at| self.log.read(at, own, self.pc));
            }
        }
        Ok(())
    }
}

impl PlaneSource for Source<'_, '_> {
    fn copy(
        &mut self,
        walk: &Walk,
        plane: usize,
        from: ScalarType,
        dst: (&mut [u8], ScalarType),
    ) -> Result<(), Fault> {
        within(walk, 1, dst.0, dst.1)?;
        if let Some(code) = self.code.filter(|_| plane == 0) {
            let records = Records::new(self.tensor.bytes, self.tensor.planes);
            if let Some(codes) = self.image
                && within(walk, 0, codes, from).is_ok()
            {
                self.expanded_bytes += records.port_bytes(&touched_blocks(walk));
                copy_codes(walk, (codes, 0, from), dst);
                return Ok(());
            }
            self.expanded_bytes += records.copy(walk, code, from, dst)?;
            return Ok(());
        }
        let window = window(&self.tensor, plane, from, walk.extent(0))?;
        let bytes = if self.tensor.access == Access::InOut && !self.overlay.is_empty() {
            let space = self.tensor.address.space;
            let at = self.tensor.address.offset + window.start;
            self.overlay.read(space, at, window.bytes, self.memory.bytes(space))
        } else {
            Cow::Borrowed(&self.tensor.bytes[window.start as usize..window.start as usize + window.bytes])
        };
        copy_codes(walk, (&bytes, window.origin, from), dst);
        Ok(())
    }
}

/// The planes of a slot, whose codes may come from the `image` of a compressed tensor, as references into memory, when the box is one dense run there and the layouts agree.
pub(crate) fn alias<'m>(
    tensor: &Tensor<'m>,
    image: Option<&'m [u8]>,
    walks: &PlaneWalks,
    format: Format,
    layout: &Layout,
    s: u64,
) -> Option<[&'m [u8]; 3]> {
    let grouped = walks.scales.is_some() || walks.indices.is_some();
    if grouped && s != layout.map.k_stride.max(1) {
        return None;
    }
    let sizes = layout.map.plane_bytes(layout.elements);
    let part = |walk: &Walk, plane: usize, ty: ScalarType| {
        let bits = walk.base()[0].checked_mul(i64::from(ty.bits()))?;
        if !walk.source_is_contiguous() || bits % 8 != 0 {
            return None;
        }
        let (bytes, start) = match image.filter(|_| plane == 0) {
            Some(codes) => (codes, 0),
            None => (tensor.bytes, tensor.planes[plane]),
        };
        let from = start.checked_add((bits / 8) as u64)?;
        let to = from.checked_add(sizes[plane])?;
        bytes.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
    };
    let codes = part(&walks.codes, 0, format.element())?;
    let scales = match &walks.scales {
        None => &[][..],
        Some(walk) => part(walk, 1, scale_type(format))?,
    };
    let indices = match (&walks.indices, layout.map.pattern) {
        (Some(walk), Some(pattern)) => part(walk, 2, pattern.index_type())?,
        (None, _) | (_, None) => &[][..],
    };
    Some([codes, scales, indices])
}
