//! The dot product engine: resolves the operands of a product, then runs the fast kernel or the definition.

pub(crate) mod actions;
pub(crate) mod fast;
pub(crate) mod mask;
pub(crate) mod scalar;

use lacuna_isa::format::Format;
use lacuna_isa::inst::{Operand, Order};
use lacuna_isa::timing::DpeActions;
use lacuna_isa::view::{PlaneMap, VIEW_DIMS, View};

use crate::local::local_walk;
use crate::pe::Pe;
use crate::simd::Units;
use crate::slots::Layout;
use crate::trap::{Fault, TrapKind};
use mask::{Chosen, Flags, Grain, Packed};

/// An operand of a product.
pub(crate) struct Side<'a> {
    /// Codes, scales, indices of the slot.
    pub planes: [&'a [u8]; 3],
    /// How they relate.
    pub map: PlaneMap,
    /// Dense element offset of every k of the whole box.
    pub k_offsets: Vec<i64>,
}

/// A product of tiles with everything clipped and resolved.
pub(crate) struct Product<'a> {
    pub a: Side<'a>,
    pub b: Side<'a>,
    /// Row number in the bank and dense element of `a`, for rows that take part.
    pub rows: Vec<(usize, i64)>,
    /// Column number in the bank and dense element of `b`, for columns that take part.
    pub cols: Vec<(usize, i64)>,
    /// Which k take part; all when empty.
    pub mask: Vec<bool>,
    /// Columns of the bank.
    pub stride: usize,
    /// Version of the second operand's slot: with the addresses of its planes, it tells contents apart.
    pub b_version: u64,
    /// The group size of the grouped rule, when both operands are grouped.
    pub group: Option<usize>,
}

impl Product<'_> {
    /// Whether k number `k` takes part.
    pub fn takes_part(&self, k: usize) -> bool {
        self.mask.is_empty() || self.mask[k]
    }
}

/// Element offsets of the indices of some dimensions in row-major order, with whether each is in range.
fn offsets(view: &View, dims: &[usize], ranges: &[(u32, u32); VIEW_DIMS]) -> Vec<(i64, bool)> {
    let mut out = vec![(0i64, true)];
    for &d in dims {
        let dim = &view.dims[d];
        let (first, count) = ranges[d];
        let mut next = Vec::with_capacity(out.len() * dim.size as usize);
        for &(offset, inside) in &out {
            for i in 0..dim.size {
                let here = i >= first && i - first < count;
                next.push((offset + i64::from(dim.stride) * i64::from(i), inside && here));
            }
        }
        out = next;
    }
    out
}

fn reach(items: impl Iterator<Item = i64>) -> (i64, i64) {
    items.fold((i64::MAX, i64::MIN), |(low, high), at| (low.min(at), high.max(at)))
}

impl Pe<'_> {
    /// `mm` and `mmnm`; with a mask, `mmblk` and `mmact`.
    pub fn multiply(
        &mut self,
        bank: Operand,
        a: Operand,
        b: Operand,
        order: Order,
        mask: Option<(Grain, Operand)>,
    ) -> Result<(), Fault> {
        let kernel = self.plan.kernel;
        let view = |operand: Operand| &kernel.views[usize::from(operand.view)];
        let (bank_view, a_view, near) = (view(bank), view(a), view(b));
        let (n_dims, k_dims) = mask::second_dims(order);
        let b_view = match mask {
            Some((grain, mask)) => &*mask::whole(grain, near, view(mask), order)?,
            None => near,
        };
        let packed = matches!(mask, Some((Grain::Blocks { packed: true }, _)));
        let size =
            |view: &View, dims: &[usize]| dims.iter().map(|&d| u64::from(view.dims[d].size)).product::<u64>();
        let (m, n, k) = (size(a_view, &[0, 1]), size(b_view, &n_dims), size(a_view, &[2, 3, 4]));
        let shape = |message: String| Err(Fault::new(TrapKind::ShapeMismatch, message));
        if size(b_view, &k_dims) != k {
            return shape(format!("the operands sum over {k} and {}", size(b_view, &k_dims)));
        }
        if bank_view.elements() != m * n {
            return shape(format!("a product of {m} x {n} for a bank of {}", bank_view.elements()));
        }
        check_groups(a_view, &[2, 3, 4])?;
        check_groups(b_view, &k_dims)?;
        check_groups(near, &k_dims)?;
        if let Some((grain, mask)) = mask {
            mask::check(grain, a_view, b_view, view(mask), order)?;
        }
        let mut target = self.target(bank, Layout::of(bank_view))?;
        let (a_slot, b_slot) = (self.source(a)?, self.source(b)?);
        let chooser = match mask {
            Some((grain, operand)) => Some((grain, view(operand), self.source(operand)?)),
            None => None,
        };
        if let Some((_, view, slot)) = &chooser {
            // The flags lie within their slot, whichever of them are set.
            local_walk([view, view], [slot.layout.elements; 2], view.clip(&self.at))?;
        }
        let first = bank_view.offset;
        if first < 0 || first as u64 + m * n > target.layout.elements {
            let message = format!(
                "a product of {m} x {n} from element {first} of a bank of {}",
                target.layout.elements
            );
            return Err(Fault::new(TrapKind::OutOfBounds, message));
        }
        let (a_ranges, b_ranges) = (a_view.clip(&self.at), b_view.clip(&self.at));
        let numbered = |view: &View, dims: &[usize], ranges: &[(u32, u32); VIEW_DIMS]| -> Vec<(usize, i64)> {
            let all = offsets(view, dims, ranges).into_iter().enumerate();
            all.filter(|(_, (_, inside))| *inside).map(|(i, (at, _))| (i, view.offset + at)).collect()
        };
        let a_k = offsets(a_view, &[2, 3, 4], &a_ranges);
        let b_k = offsets(b_view, &k_dims, &b_ranges);
        let mut inside_k: Vec<bool> = a_k.iter().zip(&b_k).map(|(a, b)| a.1 && b.1).collect();
        let n_in = inside_k.iter().filter(|&&inside| inside).count() as u64;
        if n_in == k {
            inside_k.clear();
        }
        let units = [a_view, b_view].map(|view| view.planes().unit() as usize);
        let cut =
            |unit: usize| inside_k.chunks(unit).any(|group| group.iter().any(|&inside| inside != group[0]));
        if units.into_iter().any(cut) {
            return Err(Fault::new(TrapKind::PartialGroup, "clipping cuts through a group"));
        }
        let group = match (a_view.format, b_view.format) {
            (Format::Grouped(a), Format::Grouped(b)) => Some(usize::from(a.size.min(b.size))),
            (Format::Scalar(_), _) | (_, Format::Scalar(_)) => None,
        };
        if let (Some(size), Some(pattern)) = (group, b_view.pattern)
            && !size.is_multiple_of(usize::from(pattern.m))
        {
            let message = format!("groups of {size} do not hold whole groups of the pattern {pattern}");
            return Err(Fault::new(TrapKind::PartialGroup, message));
        }
        let mut product = Product {
            rows: numbered(a_view, &[0, 1], &a_ranges),
            cols: numbered(b_view, &n_dims, &b_ranges),
            a: Side {
                planes: a_slot.planes(),
                map: a_slot.layout.map,
                k_offsets: a_k.into_iter().map(|k| k.0).collect(),
            },
            b: Side {
                planes: b_slot.planes(),
                map: b_slot.layout.map,
                k_offsets: b_k.into_iter().map(|k| k.0).collect(),
            },
            mask: inside_k,
            stride: n as usize,
            b_version: b_slot.version,
            group,
        };
        if n_in > 0 && !product.rows.is_empty() && !product.cols.is_empty() {
            let inside = |side: &Side<'_>, lines: &[(usize, i64)], elements: u64| {
                let (low, high) = reach(lines.iter().map(|line| line.1));
                let ks = side.k_offsets.iter().enumerate().filter(|(k, _)| product.takes_part(*k));
                let (k_low, k_high) = reach(ks.map(|(_, &at)| at));
                if low + k_low < 0 || (high + k_high) as u64 >= elements {
                    let message =
                        format!("elements {} to {} of a slot of {elements}", low + k_low, high + k_high);
                    return Err(Fault::new(TrapKind::OutOfBounds, message));
                }
                Ok(())
            };
            inside(&product.a, &product.rows, a_slot.layout.elements)?;
            if packed {
                // All blocks lie within their slot, however many are set.
                let all = near.sizes().map(|size| (0, size));
                local_walk([near, near], [b_slot.layout.elements; 2], all)?;
            } else {
                inside(&product.b, &product.cols, b_slot.layout.elements)?;
            }
            let n_rows = product.rows.len() as u64;
            let dense = DpeActions::dense(n_rows, product.cols.len() as u64, n_in);
            let values: &mut [f32] = bytemuck::cast_slice_mut(target.bytes.get_mut());
            let values = &mut values[first as usize..(first as u64 + m * n) as usize];
            let mut actions = dense;
            if let Some((grain, view, slot)) = &chooser {
                let flags = Flags::new(view, &self.at, |e| slot.planes()[0][e as usize] != 0);
                let flags = if packed { flags.first(near.dims[0].size) } else { flags };
                let columns: Vec<usize> = product.cols.iter().map(|col| col.0).collect();
                let chosen = Chosen::new(*grain, b_view, order, &flags, &columns, &product.mask);
                actions = chosen.actions(*grain, n_rows, b_view, &product.mask);
                let (cols, inside) = (std::mem::take(&mut product.cols), std::mem::take(&mut product.mask));
                let parts = match packed {
                    true => Packed::new(near, &flags, order).parts(&cols, &inside),
                    false => chosen.parts(&cols),
                };
                for part in parts {
                    // Nothing to add, and nothing that a kernel could read.
                    if !part.set.contains(&true) {
                        continue;
                    }
                    product.cols = part.cols;
                    product.mask = if part.set.contains(&false) { part.set } else { Vec::new() };
                    if let Some(elements) = part.elements {
                        product.b.k_offsets = elements;
                    }
                    self.accumulate(&product, values, &mut actions);
                }
            } else {
                if let Some(pattern) = b_view.pattern {
                    let part = |all: u64| all * u64::from(pattern.n) / u64::from(pattern.m);
                    actions.macs = part(dense.macs);
                    actions.skipped = dense.macs - actions.macs;
                    actions.b_reads = part(dense.b_reads);
                }
                self.accumulate(&product, values, &mut actions);
            }
            self.counts.macs += actions.macs;
            self.counts.macs_skipped += actions.skipped;
            if self.actions.records {
                self.actions.add(self.pc, &actions, &dense);
            }
        }
        drop(product);
        self.publish(bank, target);
        self.pool.recycle(a_slot);
        self.pool.recycle(b_slot);
        if let Some((.., slot)) = chooser {
            self.pool.recycle(slot);
        }
        Ok(())
    }

    /// Adds a product to the accumulators, and to `actions` what zeros gate where that is recorded.
    fn accumulate(&mut self, product: &Product<'_>, values: &mut [f32], actions: &mut DpeActions) {
        if self.actions.records {
            let (macs, reads) = actions::gated(product);
            actions.gated += macs;
            actions.b_gated += reads;
        }
        if !fast::multiply(Units::best(), product, values, &mut self.panels) {
            scalar::multiply(product, values);
        }
    }
}

/// Groups and pattern groups must run along the innermost summed dimension that has more than one index, in whole groups.
fn check_groups(view: &View, k_dims: &[usize]) -> Result<(), Fault> {
    let unit = view.planes().unit() as u32;
    if unit <= 1 {
        return Ok(());
    }
    let k_dim = usize::from(view.k_dim);
    let along = k_dims.contains(&k_dim)
        && k_dims.iter().all(|&d| d <= k_dim || view.dims[d].size == 1)
        && view.dims[k_dim].size.is_multiple_of(unit)
        && view.dims[k_dim].stride > 0;
    if along {
        Ok(())
    } else {
        let message = format!("dimension {k_dim} does not sum over whole groups of {unit}");
        Err(Fault::new(TrapKind::PartialGroup, message))
    }
}

#[cfg(test)]
mod tests;
