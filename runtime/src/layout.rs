//! The memory layout unit: moves, local gathers, masks and packing between slots.

use std::cmp::Ordering;

use lacuna_isa::format::group::GroupScale;
use lacuna_isa::format::{Format, GroupFormat, ScalarType, pack};
use lacuna_isa::inst::{Action, Fill, Operand};
use lacuna_isa::view::{Pattern, VIEW_DIMS, View};

use crate::codes::fixed_point;
use crate::dma::{
    Piece, Side, copy_planes, element, fill_box, fill_code, fill_planes, intersect, open_dim, partial,
    plane_walks,
};
use crate::local::local_walk;
use crate::pe::{Pe, Target};
use crate::slots::{Layout, Slot};
use crate::trap::{Fault, TrapKind};

fn side(view: &View, piece: &Piece) -> Result<Side, Fault> {
    let strides = view.dims.map(|d| i64::from(d.stride));
    Ok(Side { map: view.planes(), base: piece.local_base(view.offset, &strides)?, strides })
}

fn same_box(from: &View, to: &View) -> Result<(), Fault> {
    if from.sizes() == to.sizes() {
        return Ok(());
    }
    let message = format!("a box of {:?} moves to one of {:?}", from.sizes(), to.sizes());
    Err(Fault::new(TrapKind::ShapeMismatch, message))
}

/// The number of element `i` of a box in its slot of `elements`.
fn number(view: &View, i: [u32; VIEW_DIMS], elements: u64) -> Result<usize, Fault> {
    let steps = view.dims.iter().zip(i).map(|(dim, i)| i128::from(dim.stride) * i128::from(i));
    let at = element(i128::from(view.offset) + steps.sum::<i128>())?;
    if at as u64 >= elements {
        let message = format!("element {at} of a slot of {elements}");
        return Err(Fault::new(TrapKind::OutOfBounds, message));
    }
    Ok(at as usize)
}

/// Calls `f` with every index of a box of ranges whose dimension `along` advances by `step`, in row-major order.
fn each(
    ranges: [(u32, u32); VIEW_DIMS],
    along: usize,
    step: u32,
    mut f: impl FnMut([u32; VIEW_DIMS]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    if ranges.iter().any(|r| r.1 == 0) {
        return Ok(());
    }
    let first = ranges.map(|r| r.0);
    let mut i = first;
    loop {
        f(i)?;
        let mut d = VIEW_DIMS;
        loop {
            if d == 0 {
                return Ok(());
            }
            d -= 1;
            i[d] += if d == along { step } else { 1 };
            if i[d] < first[d] + ranges[d].1 {
                break;
            }
            i[d] = first[d];
        }
    }
}

/// The value of an element of a group.
fn grouped_value(format: GroupFormat, slot: &Slot<'_>, at: usize) -> f32 {
    let planes = slot.planes();
    let code = pack::get(planes[0], format.element, at) as u32;
    let scale = GroupScale::read(format, planes[1], slot.layout.map.scale_idx(at as u64) as usize);
    let within = at as u64 / slot.layout.map.k_stride.max(1) % u64::from(format.size);
    let unit = if fixed_point(Format::Grouped(format)) { 64.0 } else { 1.0 };
    format.element.decode_f32(code) * (scale.shift(within as usize) * (scale.value(format) as f32 / unit))
}

impl Pe<'_> {
    /// A target whose push starts as code 0 with scale one.
    fn layout_target(&mut self, dst: Operand, view: &View) -> Result<Target, Fault> {
        let mut target = self.target(dst, Layout::of(view))?;
        if dst.action == Action::Push {
            let layout = target.layout;
            fill_planes(target.bytes.get_mut(), &layout, 0);
        }
        Ok(target)
    }

    /// `move`, and `perm` where `by` gives the dimension and the operand of indices.
    pub fn rearrange(
        &mut self,
        dst: Operand,
        src: Operand,
        fill: Fill,
        by: Option<(u8, Operand)>,
    ) -> Result<(), Fault> {
        let kernel = self.plan.kernel;
        let (from, to) = (&kernel.views[usize::from(src.view)], &kernel.views[usize::from(dst.view)]);
        same_box(from, to)?;
        let mut target = self.layout_target(dst, to)?;
        let slot = self.source(src)?;
        // Pieces of the target, and the first index of each in the source.
        let pieces: Vec<(Piece, [u32; VIEW_DIMS])> = match by {
            None => {
                let part = intersect(from, to, &self.at);
                vec![(part, part.first)]
            }
            Some((dim, operand)) => {
                let dim = usize::from(dim);
                let indices = self.vector(operand, dim, to.dims[dim].size)?;
                let row = intersect(&open_dim(from, dim), to, &self.at);
                let bound = i64::from(from.dims[dim].bound);
                let all =
                    (row.first[dim]..row.first[dim] + row.counts[dim]).map(|i| (i, indices[i as usize]));
                all.filter(|(_, idx)| (0..bound).contains(idx))
                    .map(|(i, idx)| {
                        let piece = row.cut(dim, i, 1, 0);
                        let mut first = piece.first;
                        first[dim] = idx as u32;
                        (piece, first)
                    })
                    .collect()
            }
        };
        let layout = target.layout;
        let k_dim = usize::from(to.k_dim);
        let whole = Piece::of(to, &self.at, to.clip(&self.at));
        let moved: u64 = pieces.iter().map(|(piece, _)| piece.elements()).sum();
        let bytes = target.bytes.get_mut();
        if moved < whole.elements() {
            let all = side(to, &whole)?;
            if let Some(walks) = plane_walks(whole.counts, k_dim, all, all)? {
                fill_box(&walks, &layout, fill_code(to.format, fill), bytes)?;
            }
        }
        for (piece, first) in pieces.into_iter().filter(|(piece, _)| !piece.is_empty()) {
            let origin = Piece { first, ..piece };
            if let (Format::Grouped(format), Format::Scalar(ty)) = (from.format, to.format) {
                let ranges = std::array::from_fn(|d| (0, piece.counts[d]));
                each(ranges, 0, 1, |i| {
                    let place = |p: &Piece| std::array::from_fn(|d| p.first[d] + i[d]);
                    let s = number(from, place(&origin), slot.layout.elements)?;
                    let t = number(to, place(&piece), layout.elements)?;
                    pack::set(bytes, ty, t, ty.encode(f64::from(grouped_value(format, &slot, s))));
                    Ok(())
                })?;
                continue;
            }
            let walks = plane_walks(piece.counts, k_dim, side(from, &origin)?, side(to, &piece)?)?;
            if let Some(walks) = walks {
                copy_planes(&mut slot.planes(), from, &walks, &layout, bytes)?;
            }
        }
        self.publish(dst, target);
        self.space.pool.recycle(slot);
        Ok(())
    }

    /// `mask`.
    pub fn mask(&mut self, dst: Operand, src: Operand) -> Result<(), Fault> {
        let kernel = self.plan.kernel;
        let (from, to) = (&kernel.views[usize::from(src.view)], &kernel.views[usize::from(dst.view)]);
        let combined = |d: usize| to.dims[d].size == 1;
        if (0..VIEW_DIMS).any(|d| from.dims[d].size != to.dims[d].size && !combined(d)) {
            let message = format!("flags of {:?} for a box of {:?}", to.sizes(), from.sizes());
            return Err(Fault::new(TrapKind::ShapeMismatch, message));
        }
        let mut target = self.target(dst, Layout::of(to))?;
        let slot = self.source(src)?;
        let (a, b) = (from.clip(&self.at), to.clip(&self.at));
        let ranges = std::array::from_fn(|d| {
            let first = a[d].0.max(b[d].0);
            match combined(d) {
                true if b[d].1 == 0 => (0, 0),
                true => a[d],
                false => (first, (a[d].0 + a[d].1).min(b[d].0 + b[d].1).saturating_sub(first)),
            }
        });
        let mut repeated = to.clone();
        for d in (0..VIEW_DIMS).filter(|&d| combined(d)) {
            repeated.dims[d].stride = 0;
        }
        let elements = [slot.layout.elements, target.layout.elements];
        if let Some(walk) = local_walk([from, &repeated], elements, ranges)? {
            let (codes, ty) = (slot.planes()[0], from.format.element());
            let (n, [ss, ts]) = walk.inner();
            let flags = target.bytes.get_mut();
            let floats = bytemuck::try_cast_slice::<u8, u32>(codes).ok().filter(|_| ty == ScalarType::F32);
            walk.rows(|s, t| {
                if let (Some(floats), 1, 0 | 1) = (floats, ss, ts) {
                    let row = &floats[s as usize..s as usize + n];
                    if ts == 0 {
                        flags[t as usize] |= u8::from(row.iter().any(is_not_zero));
                    } else {
                        let flags = &mut flags[t as usize..t as usize + n];
                        flags.iter_mut().zip(row).for_each(|(flag, x)| *flag |= u8::from(is_not_zero(x)));
                    }
                    return;
                }
                for i in 0..n as i64 {
                    if ty.decode(pack::get(codes, ty, (s + i * ss) as usize)) != 0.0 {
                        flags[(t + i * ts) as usize] = 1;
                    }
                }
            });
        }
        self.publish(dst, target);
        self.space.pool.recycle(slot);
        Ok(())
    }

    /// `pack`.
    pub fn pack(&mut self, dst: Operand, src: Operand) -> Result<(), Fault> {
        let kernel = self.plan.kernel;
        let (from, to) = (&kernel.views[usize::from(src.view)], &kernel.views[usize::from(dst.view)]);
        same_box(from, to)?;
        let Some(Pattern { n, m }) = to.pattern else {
            return Err(Fault::new(TrapKind::FormatMismatch, "a dense slot is packed into"));
        };
        let (k, m) = (usize::from(to.k_dim), u32::from(m));
        let mut target = self.layout_target(dst, to)?;
        let slot = self.source(src)?;
        let layout = target.layout;
        let s = layout.map.k_stride.max(1) as usize;
        let ty = to.format.element();
        let (a, b) = (from.clip(&self.at), to.clip(&self.at));
        let inside = |i: [u32; VIEW_DIMS]| (0..VIEW_DIMS).all(|d| i[d] >= a[d].0 && i[d] - a[d].0 < a[d].1);
        if !b[k].1.is_multiple_of(m) || (b[k].1 > 0 && to.dims[k].stride <= 0) {
            return Err(partial("pattern groups"));
        }
        let sizes = layout.map.plane_bytes(layout.elements);
        let (codes, rest) = target.bytes.get_mut().split_at_mut(sizes[0] as usize);
        let (scales, indices) = rest.split_at_mut(sizes[1] as usize);
        let index_type = to.pattern.map_or(ScalarType::U4, Pattern::index_type);
        each(b, k, m, |i| {
            let e = number(to, i, layout.elements)?;
            let mut last = i;
            last[k] += m - 1;
            number(to, last, layout.elements)?;
            if !(e / s).is_multiple_of(m as usize) {
                return Err(partial("pattern groups"));
            }
            let mut group = [(0u64, 0usize); 16];
            for (j, member) in group.iter_mut().enumerate().take(m as usize) {
                let mut at = i;
                at[k] += j as u32;
                let code = match inside(at) {
                    true => pack::get(slot.planes()[0], ty, number(from, at, slot.layout.elements)?),
                    false => 0,
                };
                *member = (code, j);
            }
            let members = &mut group[..m as usize];
            members.sort_by(|x, y| by_magnitude(ty, y.0, x.0));
            let kept = &mut members[..usize::from(n)];
            kept.sort_by_key(|&(_, j)| j);
            let first = layout.map.stored_idx(e as u64) as usize;
            for (rank, &(code, j)) in kept.iter().enumerate() {
                pack::set(codes, ty, first + rank * s, code);
                pack::set(indices, index_type, first + rank * s, j as u64);
            }
            Ok(())
        })?;
        if let Format::Grouped(format) = to.format {
            let size = u32::from(format.size);
            let part = intersect(from, to, &self.at);
            let unwhole = |range: u32| !range.is_multiple_of(size);
            if unwhole(b[k].1) || (!part.is_empty() && unwhole(part.counts[k])) {
                return Err(partial("groups"));
            }
            let ranges = std::array::from_fn(|d| (part.first[d], part.counts[d]));
            each(ranges, k, size, |i| {
                let (e, t) = (number(from, i, slot.layout.elements)?, number(to, i, layout.elements)?);
                let starts = |e: usize, s: u64| (e / s.max(1) as usize).is_multiple_of(size as usize);
                if !starts(e, slot.layout.map.k_stride) || !starts(t, s as u64) {
                    return Err(partial("groups"));
                }
                scales[layout.map.scale_idx(t as u64) as usize] =
                    slot.planes()[1][slot.layout.map.scale_idx(e as u64) as usize];
                Ok(())
            })?;
        }
        self.publish(dst, target);
        self.space.pool.recycle(slot);
        Ok(())
    }
}

/// Whether the bits of an f32 are of a value other than zero.
fn is_not_zero(bits: &u32) -> bool {
    bits << 1 != 0
}

/// Order of two codes by magnitude; NaN is greatest, and equal to itself.
fn by_magnitude(ty: ScalarType, x: u64, y: u64) -> Ordering {
    let magnitude = |code: u64| match ty {
        // Beyond what f64 tells apart.
        ScalarType::U64 => u128::from(code),
        ScalarType::I64 => u128::from((code as i64).unsigned_abs()),
        // The bits of magnitudes order like them; a NaN's are above infinity's.
        _ => {
            let value = ty.decode(code).abs();
            u128::from(if value.is_nan() { u64::MAX } else { value.to_bits() })
        }
    };
    magnitude(x).cmp(&magnitude(y))
}
