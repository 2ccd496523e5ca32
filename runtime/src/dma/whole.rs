//! Loads of whole boxes of scalars, by far the most frequent ones: referred to in place where what reads them can, else
//! copied in one walk.

use lacuna_isa::inst::Operand;
use lacuna_isa::object::MemSpace;
use lacuna_isa::view::{Position, VIEW_DIMS, View};

use super::load_plan::LoadPlan;
use super::planes::element;
use super::source::{Window, alias_run, window};
use crate::codes::copy_codes;
use crate::memory::Tensor;
use crate::pe::Pe;
use crate::slots::{Constant, Slot};
use crate::trap::Fault;

impl<'m> Pe<'m> {
    /// Carries a load out if nothing of its box is clipped, it is of scalars of whole bytes that stay as they are, and nothing
    /// in the launch writes them; whether it did.
    pub(super) fn load_whole(
        &mut self,
        dst: Operand,
        view: &View,
        tensor: &Tensor<'m>,
        plan: &'m LoadPlan,
    ) -> Result<bool, Fault> {
        let Some(whole) = plan.whole.as_ref().filter(|_| !tensor.log_reads) else { return Ok(false) };
        let Some(coords) = whole_coords(view, &self.at) else { return Ok(false) };
        let steps = view.dims.iter().zip(&coords).map(|(dim, &c)| i128::from(dim.stride) * i128::from(c));
        let base = element(i128::from(view.offset) + steps.sum::<i128>())?;
        let (low, high) = whole.reach;
        let reach = (base.saturating_add(low), base.saturating_add(high));
        let window = window(tensor, 0, whole.ty, reach)?;
        self.counts.loaded_bytes += plan.bytes;
        let contiguous = whole.walk.source_is_contiguous();
        let slot = if contiguous {
            Slot::alias([alias_run(tensor, &window, base, whole.ty), &[], &[]], plan.layout)
        } else if let Some(at) = &whole.in_place {
            Slot::strided(alias_run(tensor, &window, base, whole.ty), at, plan.layout)
        } else {
            let mut bytes = self.space.pool.any(plan.bytes as usize);
            let Window { start, bytes: n, origin } = window;
            let source = &tensor.bytes[start as usize..start as usize + n];
            copy_codes(&whole.walk.from(base), (source, origin, whole.ty), (bytes.get_mut(), whole.ty));
            let mut slot = Slot::owned(bytes, plan.layout);
            if tensor.address.space == MemSpace::Weights {
                slot.constant = Some(Constant { pc: self.pc, address: tensor.address.offset, first: base });
            }
            slot
        };
        self.rings[usize::from(dst.buffer)].push(slot);
        Ok(true)
    }
}

/// The coordinates of index 0 of a view's box, if none of it is clipped.
fn whole_coords(view: &View, at: &Position) -> Option<[i64; VIEW_DIMS]> {
    let (base, bounds) = (view.base_coords(at), view.bounds(at));
    let whole = (0..VIEW_DIMS).all(|d| base[d] >= 0 && base[d] + i64::from(view.dims[d].size) <= bounds[d]);
    whole.then_some(base)
}
