//! The reduction engine beyond clearing and draining: seeds, factors and row statistics of accumulator banks.

use std::borrow::Cow;

use lacuna_isa::inst::{Extreme, Operand};
use lacuna_isa::math::{fmax, fmin};
use lacuna_isa::view::{VIEW_DIMS, View};

use crate::local::local_walk;
use crate::matmul::{Side, scalar};
use crate::pe::Pe;
use crate::slots::{Layout, Slot};
use crate::trap::{Fault, TrapKind};

type Ranges = [(u32, u32); VIEW_DIMS];

fn both(a: Ranges, b: Ranges) -> Ranges {
    std::array::from_fn(|d| {
        let first = a[d].0.max(b[d].0);
        (first, (a[d].0 + a[d].1).min(b[d].0 + b[d].1).saturating_sub(first))
    })
}

fn same_box(bank: &View, src: &View) -> Result<(), Fault> {
    if bank.sizes() == src.sizes() {
        return Ok(());
    }
    let message = format!("a bank's box of {:?} meets one of {:?}", bank.sizes(), src.sizes());
    Err(Fault::new(TrapKind::ShapeMismatch, message))
}

/// A slot as the operand of a product is read: codes, scales, their relation.
fn side<'a>(slot: &'a Slot<'_>) -> Side<'a> {
    Side { planes: slot.planes(), map: slot.layout.map, k_offsets: Cow::default() }
}

impl Pe<'_> {
    /// Changes each accumulator that takes part on both sides by what its element of `src` is worth.
    fn combine(&mut self, bank: Operand, src: Operand, f: impl Fn(f32, f32) -> f32) -> Result<(), Fault> {
        let kernel = self.plan.kernel;
        let (to, from) = (&kernel.views[usize::from(bank.view)], &kernel.views[usize::from(src.view)]);
        same_box(to, from)?;
        let mut target = self.target(bank, Layout::of(to))?;
        let slot = self.source(src)?;
        let ranges = both(from.clip(&self.at), to.clip(&self.at));
        let elements = [slot.layout.elements, target.layout.elements];
        if let Some(walk) = local_walk([from, to], elements, ranges)? {
            let side = side(&slot);
            let sums: &mut [f32] = bytemuck::cast_slice_mut(target.bytes.get_mut());
            let (n, [ss, ts]) = walk.inner();
            walk.rows(|s, t| {
                for i in 0..n as i64 {
                    let at = (s + i * ss) as usize;
                    let sum = &mut sums[(t + i * ts) as usize];
                    *sum = f(*sum, scalar::widened(&side, at, at));
                }
            });
        }
        self.publish(bank, target);
        self.space.pool.recycle(slot);
        Ok(())
    }

    /// `seed`.
    pub fn seed(&mut self, bank: Operand, src: Operand) -> Result<(), Fault> {
        self.combine(bank, src, |_, value| value)
    }

    /// `resc`.
    pub fn rescale(&mut self, bank: Operand, src: Operand) -> Result<(), Fault> {
        self.combine(bank, src, |sum, factor| sum * factor)
    }

    /// `stat`.
    pub fn statistic(&mut self, f: Extreme, dst: Operand, bank: Operand) -> Result<(), Fault> {
        let kernel = self.plan.kernel;
        let (from, to) = (&kernel.views[usize::from(bank.view)], &kernel.views[usize::from(dst.view)]);
        let (sizes, results) = (from.sizes(), to.sizes());
        if sizes.iter().zip(results).any(|(&size, result)| result != size && result != 1) {
            let message = format!("a bank's box of {sizes:?} reduces to {results:?}");
            return Err(Fault::new(TrapKind::ShapeMismatch, message));
        }
        let mut target = self.target(dst, Layout::of(to))?;
        let slot = self.source(bank)?;
        let whole = to.clip(&self.at);
        let elements = target.layout.elements;
        let bytes = target.bytes.get_mut();
        let results: &mut [f32] = bytemuck::cast_slice_mut(bytes);
        if let Some(walk) = local_walk([to, to], [elements; 2], whole)? {
            let (worst, pick): (f32, fn(f32, f32) -> f32) = match f {
                Extreme::Max => (f32::NEG_INFINITY, fmax),
                Extreme::Min => (f32::INFINITY, fmin),
            };
            let (n, [_, ts]) = walk.inner();
            walk.rows(|_, t| (0..n as i64).for_each(|i| results[(t + i * ts) as usize] = worst));
            // The result of a reduced dimension is the same for all its indices.
            let mut spread = to.clone();
            let mut ranges = both(from.clip(&self.at), whole);
            for d in (0..VIEW_DIMS).filter(|&d| sizes[d] != to.dims[d].size) {
                spread.dims[d].stride = 0;
                ranges[d] = from.clip(&self.at)[d];
            }
            if let Some(walk) = local_walk([from, &spread], [slot.layout.elements, elements], ranges)? {
                let sums: &[f32] = bytemuck::cast_slice(slot.planes()[0]);
                let (n, [ss, ts]) = walk.inner();
                walk.rows(|s, t| {
                    for i in 0..n as i64 {
                        let result = &mut results[(t + i * ts) as usize];
                        // Adding +0 turns -0 into +0 and changes nothing else.
                        *result = pick(*result, sums[(s + i * ss) as usize] + 0.0);
                    }
                });
            }
        }
        self.publish(dst, target);
        self.space.pool.recycle(slot);
        Ok(())
    }
}
