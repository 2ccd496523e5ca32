//! The dot product engine: resolves the operands of a product, then runs the fast kernel or the definition.

pub(crate) mod actions;
mod decode;
pub(crate) mod fast;
pub(crate) mod mask;
pub(crate) mod panels;
mod product;
pub(crate) mod scalar;
mod schedule;
pub(crate) mod shape;

use std::borrow::Cow;

use lacuna_isa::inst::{Operand, Order};
use lacuna_isa::object::MemSpace;
use lacuna_isa::timing::DpeActions;
use lacuna_isa::view::View;

use crate::local::local_walk;
use crate::pe::Pe;
use crate::simd::Units;
use crate::slots::Slot;
use crate::trap::{Fault, TrapKind};
use fast::Caches;
use mask::{Chosen, Flags, Grain, Packed};
pub(crate) use product::Side;
use product::{Origin, Product};
use schedule::Schedule;
use shape::{Met, Operands, Shape};

/// A product's operands while it runs.
struct Bound<'s, 'm> {
    slots: [&'s Slot<'m>; 2],
    /// The mask's grain, view and slot.
    chooser: Option<(Grain, &'s View, &'s Slot<'m>)>,
    near: &'s View,
    whole: Option<&'s View>,
    order: Order,
}

impl<'m> Pe<'m> {
    /// `mm` and `mmnm`; with a mask, `mmblk` and `mmact`.
    pub fn multiply(
        &mut self,
        bank: Operand,
        a: Operand,
        b: Operand,
        order: Order,
        mask: Option<(Grain, Operand)>,
    ) -> Result<(), Fault> {
        let plan = self.plan;
        let view = |operand: Operand| &plan.kernel.views[usize::from(operand.view)];
        let shapes = &plan.products.shapes[self.pc];
        let sizes = shapes.sizes(plan.kernel, &Operands { bank, a, b, order, mask })?;
        let mut target = self.target(bank, sizes.layout)?;
        let (a_slot, b_slot) = (self.source_anywhere(a)?, self.source_anywhere(b)?);
        let chooser = match mask {
            Some((grain, operand)) => Some((grain, view(operand), self.source(operand)?)),
            None => None,
        };
        if let Some((_, view, slot)) = &chooser {
            // The flags lie within their slot, whichever of them are set.
            local_walk([view, view], [slot.layout.elements; 2], view.clip(&self.at))?;
        }
        let first = view(bank).offset;
        let n_sums = sizes.m * sizes.n;
        if first < 0 || first as u64 + n_sums > target.layout.elements {
            let message = format!(
                "a product of {} x {} from element {first} of a bank of {}",
                sizes.m, sizes.n, target.layout.elements
            );
            return Err(Fault::new(TrapKind::OutOfBounds, message));
        }
        let near = view(b);
        let b_view = sizes.whole.as_ref().unwrap_or(near);
        let ranges = [view(a).clip(&self.at), b_view.clip(&self.at)];
        let places = [&a_slot, &b_slot].map(|slot| slot.placement().map(|(_, at)| at));
        let bound = Bound {
            slots: [&a_slot, &b_slot],
            chooser: chooser.as_ref().map(|(grain, view, slot)| (*grain, *view, slot)),
            near,
            whole: sizes.whole.as_ref(),
            order,
        };
        let own;
        let shape = match self.shapes.get(self.pc, plan.kernel.code.len(), &ranges, &places) {
            Some(shape) => shape,
            None => {
                let schedule = |shape: &Shape| bound.schedule(shape, sizes.n);
                match shapes.get([view(a), b_view], order, (ranges, places), schedule)? {
                    Met::Kept(shape) => {
                        self.shapes.put(self.pc, shape);
                        shape
                    }
                    Met::Own(shape) => {
                        own = shape;
                        &own
                    }
                }
            }
        };
        if let Some(reach) = shape.reach {
            bound.check_reach(reach)?;
            let values: &mut [f32] = bytemuck::cast_slice_mut(target.bytes.get_mut());
            let values = &mut values[first as usize..(first as u64 + n_sums) as usize];
            self.products(&bound, shape, sizes.n, values);
        }
        self.publish(bank, target);
        self.space.pool.recycle(a_slot);
        self.space.pool.recycle(b_slot);
        if let Some((.., slot)) = chooser {
            self.space.pool.recycle(slot);
        }
        Ok(())
    }

    /// Adds a product, or the parts that a mask makes of it.
    fn products(&mut self, bound: &Bound<'_, 'm>, shape: &Shape, n: u64, values: &mut [f32]) {
        let mut product = bound.product(shape, n);
        let n_rows = product.rows.len() as u64;
        let dense = DpeActions::dense(n_rows, product.cols.len() as u64, shape.n_in);
        let mut actions = dense;
        let b_view = bound.whole.unwrap_or(bound.near);
        if let Some((grain, view, slot)) = bound.chooser {
            let packed = grain == Grain::Blocks { packed: true };
            let flags = Flags::new(view, &self.at, |e| slot.planes()[0][e as usize] != 0);
            let flags = if packed { flags.first(bound.near.dims[0].size) } else { flags };
            let columns: Vec<usize> = product.cols.iter().map(|col| col.0).collect();
            let chosen = Chosen::new(grain, b_view, bound.order, &flags, &columns, &product.mask);
            actions = chosen.actions(grain, n_rows, b_view, &product.mask);
            let (cols, inside) = (std::mem::take(&mut product.cols), std::mem::take(&mut product.mask));
            let parts = match packed {
                true => Packed::new(bound.near, &flags, bound.order).parts(&cols, &inside),
                false => chosen.parts(&cols),
            };
            for part in parts {
                // Nothing to add, and nothing that a kernel could read.
                if !part.set.contains(&true) {
                    continue;
                }
                product.cols = part.cols.into();
                product.mask = if part.set.contains(&false) { part.set.into() } else { Cow::default() };
                if let Some(elements) = part.elements {
                    product.b.k_offsets = elements.into();
                }
                self.accumulate(&product, None, values, &mut actions);
            }
        } else {
            if let Some(pattern) = b_view.pattern {
                let part = |all: u64| all * u64::from(pattern.n) / u64::from(pattern.m);
                actions.macs = part(dense.macs);
                actions.skipped = dense.macs - actions.macs;
                actions.b_reads = part(dense.b_reads);
            }
            self.accumulate(&product, shape.schedule.as_ref(), values, &mut actions);
        }
        self.counts.macs += actions.macs;
        self.counts.macs_skipped += actions.skipped;
        if self.actions.records {
            self.actions.add(self.pc, &actions, &dense);
        }
    }

    /// Adds a product to the accumulators, and to `actions` what zeros gate where that is recorded.
    fn accumulate(
        &mut self,
        product: &Product<'_>,
        schedule: Option<&Schedule>,
        values: &mut [f32],
        actions: &mut DpeActions,
    ) {
        if self.actions.records {
            let (macs, reads) = actions::gated(product);
            actions.gated += macs;
            actions.b_gated += reads;
        }
        let own;
        let (schedule, once) = match schedule {
            Some(schedule) => (schedule, false),
            None => {
                own = Schedule::new(product);
                (&own, true)
            }
        };
        // Addresses within the weights have the same content in every launch, others during this one.
        let weights = self.memory.bytes(MemSpace::Weights).as_ptr_range();
        let shared = match product.b_origin {
            Origin::Constant(_) => Some(&self.plan.products.panels),
            Origin::Slot(0) if weights.contains(&product.b.planes[0].as_ptr()) => {
                Some(&self.plan.products.panels)
            }
            Origin::Slot(0) => Some(self.launch_panels),
            Origin::Slot(_) => None,
        };
        let caches = Caches { own: &mut self.panels, shared, once };
        if !fast::multiply(Units::best(), product, schedule, values, caches) {
            scalar::multiply(product, values);
        }
    }
}

impl Bound<'_, '_> {
    fn product<'s>(&'s self, shape: &'s Shape, n: u64) -> Product<'s> {
        let [a, b] = self.slots;
        let origin = b.constant.map_or(Origin::Slot(b.version), Origin::Constant);
        shape.product([a.planes(), b.planes()], [a.layout, b.layout], n, origin)
    }

    /// The schedule of the product of all terms, where that is what runs.
    fn schedule(&self, shape: &Shape, n: u64) -> Option<Schedule> {
        let all = self.chooser.is_none() && shape.reach.is_some();
        all.then(|| Schedule::new(&self.product(shape, n)))
    }

    /// Faults when an operand's elements leave its slot.
    fn check_reach(&self, reach: [(i64, i64); 2]) -> Result<(), Fault> {
        let inside = |(low, high): (i64, i64), elements: u64| {
            if low < 0 || high as u64 >= elements {
                let message = format!("elements {low} to {high} of a slot of {elements}");
                return Err(Fault::new(TrapKind::OutOfBounds, message));
            }
            Ok(())
        };
        let elements = |slot: &Slot<'_>| match slot.placement() {
            Some((bytes, _)) => bytes.len() as u64 / 4,
            None => slot.layout.elements,
        };
        let [a, b] = self.slots.map(elements);
        inside(reach[0], a)?;
        if self.whole.is_some() {
            // All blocks lie within their slot, however many are set.
            let all = self.near.sizes().map(|size| (0, size));
            local_walk([self.near, self.near], [b; 2], all)?;
            return Ok(());
        }
        inside(reach[1], b)
    }
}

#[cfg(test)]
mod tests;
