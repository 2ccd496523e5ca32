//! Loads of whole boxes of scalars, by far the most frequent ones: referred to in place where what reads them can, else
//! copied in one walk.

use lacuna_isa::format::Format;
use lacuna_isa::object::MemSpace;
use lacuna_isa::view::{Position, VIEW_DIMS, View};

use super::codes::copy_codes;
use super::source::{Window, alias_run, window};
use crate::boxes::{Walk, dense_strides};
use crate::memory::Tensor;
use crate::pe::Pe;
use crate::slots::{Constant, Layout, Slot};
use crate::trap::Fault;

use super::Load;
use super::load::Pick;
use super::planes::element;

impl<'m> Pe<'m> {
    /// Carries a load out if nothing of its box is clipped and it is of scalars of whole bytes that stay as they are and that
    /// nothing in the launch writes; whether it did.
    pub(super) fn load_whole(
        &mut self,
        load: &Load,
        view: &View,
        tensor: &Tensor<'m>,
        layout: Layout,
    ) -> Result<bool, Fault> {
        let Format::Scalar(ty) = view.format else { return Ok(false) };
        let plain = matches!(load.pick, Pick::All)
            && load.code.is_none()
            && layout.map.format == view.format
            && view.pattern.is_none()
            && !tensor.log_reads
            && ty.bits() >= 8;
        if !plain || !is_whole(view, &self.at) {
            return Ok(false);
        }
        let sizes = view.sizes();
        let strides = view.dims.map(|d| i64::from(d.stride));
        let coords = view.base_coords(&self.at);
        let base = (0..VIEW_DIMS).map(|d| i128::from(strides[d]) * i128::from(coords[d])).sum::<i128>();
        let base = element(i128::from(view.offset) + base)?;
        let Some(walk) = Walk::new(&sizes, &strides, &dense_strides(sizes), [base, 0]) else {
            return Ok(false);
        };
        let window = window(tensor, 0, ty, walk.extent(0))?;
        let n_bytes = layout.bytes();
        self.counts.loaded_bytes += n_bytes;
        let ring = &mut self.rings[usize::from(load.dst.buffer)];
        if walk.source_is_contiguous() {
            ring.push(Slot::alias([alias_run(tensor, &window, base, ty), &[], &[]], layout));
            return Ok(true);
        }
        if let Some(at) = &self.plan.in_place[self.pc] {
            ring.push(Slot::strided(alias_run(tensor, &window, base, ty), at, layout));
            return Ok(true);
        }
        let mut bytes = self.space.pool.any(n_bytes as usize);
        let Window { start, bytes: n, origin } = window;
        let source = &tensor.bytes[start as usize..start as usize + n];
        copy_codes(&walk, (source, origin, ty), (bytes.get_mut(), ty));
        let mut slot = Slot::owned(bytes, layout);
        if tensor.address.space == MemSpace::Weights {
            slot.constant = Some(Constant { pc: self.pc, address: tensor.address.offset, first: base });
        }
        self.rings[usize::from(load.dst.buffer)].push(slot);
        Ok(true)
    }
}

/// Whether no index of a view's box is clipped.
fn is_whole(view: &View, at: &Position) -> bool {
    let (base, bounds) = (view.base_coords(at), view.bounds(at));
    (0..VIEW_DIMS).all(|d| base[d] >= 0 && base[d] + i64::from(view.dims[d].size) <= bounds[d])
}
