//! Whether the accesses of one instruction stay within them.

use lacuna_isa::inst::{InstKind, Operand, Order};
use lacuna_isa::object::Kernel;
use lacuna_isa::view::{Position, VIEW_DIMS, View};

use super::boxes::product_dims;
use super::control::Control;
use super::layout::{self, Pair, taken_whole};
use super::ranges::{Layout, Ranges, bounds, intersect, ranges, strides, within};
use super::{Reason, Rule};

/// All that clipping leaves of a view.
fn whole(view: &View, layout: &Layout, at: Option<&Position>) -> Result<(), Reason> {
    within(strides(view), view.offset, ranges(view, at), layout)
}

/// Checks what instruction `pc` does within its slots, whose layouts come in the order of its operands. Without a
/// position, whole boxes are checked and success holds for every position; failure then proves nothing.
pub(super) fn check(
    control: &Control<'_>,
    kernel: &Kernel,
    pc: usize,
    layouts: &[Layout],
    at: Option<&Position>,
) -> Result<(), Reason> {
    let view = |operand: &Operand| &kernel.views[usize::from(operand.view)];
    match &kernel.code[pc].kind {
        InstKind::Launch { .. }
        | InstKind::Chain { .. }
        | InstKind::Loop { .. }
        | InstKind::End {}
        | InstKind::Pop { .. }
        | InstKind::Halt {}
        | InstKind::Ld { .. }
        | InstKind::Ldx { .. } => Ok(()),
        // Refused by the forms.
        InstKind::Ldp { .. } => Ok(()),
        InstKind::Post { .. } => Ok(()),
        InstKind::Wait { .. } => Ok(()),
        InstKind::Bar { .. } => Ok(()),
        InstKind::Gate { .. } => Ok(()),
        InstKind::Allred { .. } => Ok(()),
        InstKind::Allgath { .. } => Ok(()),
        InstKind::Redscat { .. } => Ok(()),
        InstKind::Alltoall { .. } => Ok(()),
        InstKind::Send { .. } => Ok(()),
        InstKind::Recv { .. } => Ok(()),
        InstKind::Xchg { dst, src: other, .. } | InstKind::Xred { dst, bank: other, .. } => {
            let (to, from) = (view(dst), view(other));
            within(strides(from), from.offset, ranges(from, at), &layouts[1])?;
            within(strides(to), to.offset, ranges(to, at), &layouts[0])
        }
        InstKind::Gather { idx, dim, .. } => vector(view(idx), *dim, &layouts[1]),
        InstKind::Ldmask { mask, dim, .. } => vector(view(mask), *dim, &layouts[1]),
        InstKind::Scatter { src, dst, idx, dim, .. } => {
            vector(view(idx), *dim, &layouts[1])?;
            let (from, d) = (view(src), usize::from(*dim));
            let mut part =
                intersect(ranges(from, at), ranges(&taken_whole(&kernel.views[usize::from(*dst)], d), at));
            part[d] = ranges(from, at)[d];
            within(strides(from), from.offset, part, &layouts[0])
        }
        InstKind::Move { dst, src, .. } => {
            let pair = Pair { control, pc, from: view(src), to: view(dst), by_index: None };
            pair.check([&layouts[1], &layouts[0]], at)
        }
        InstKind::Perm { dst, src, idx, dim, .. } => {
            vector(view(idx), *dim, &layouts[2])?;
            let pair =
                Pair { control, pc, from: view(src), to: view(dst), by_index: Some(usize::from(*dim)) };
            pair.check([&layouts[1], &layouts[0]], at)
        }
        InstKind::Mask { dst, src } => layout::mask(view(src), view(dst), [&layouts[1], &layouts[0]], at),
        InstKind::Pack { dst, src } => {
            let pair = Pair { control, pc, from: view(src), to: view(dst), by_index: None };
            pair.pack([&layouts[1], &layouts[0]], at)
        }
        InstKind::St { src, dst } => {
            let (from, to) = (view(src), &kernel.views[usize::from(*dst)]);
            let part = intersect(ranges(from, at), ranges(to, at));
            within(strides(from), from.offset, part, &layouts[0])
        }
        InstKind::Fill { dst, .. } => {
            let dst = view(dst);
            within(strides(dst), dst.offset, ranges(dst, None), &layouts[0])?;
            let grouped = layouts[0].map.pattern.is_some() || layouts[0].map.format.group_size() > 1;
            if grouped && !covers(dst, layouts[0].elements) {
                return Err((Rule::PartialGroup, "a fill of part of a grouped slot".to_owned()));
            }
            Ok(())
        }
        InstKind::Zero { bank } => {
            let bank = view(bank);
            within(strides(bank), bank.offset, ranges(bank, at), &layouts[0])
        }
        InstKind::Drain { dst, bank } => {
            let (to, from) = (view(dst), view(bank));
            let part = intersect(ranges(from, at), ranges(to, at));
            within(strides(from), from.offset, part, &layouts[1])?;
            within(strides(to), to.offset, part, &layouts[0])
        }
        InstKind::Mm { bank, a, b, order } | InstKind::Mmnm { bank, a, b, order } => {
            product(control, pc, [view(bank), view(a), view(b)], *order, layouts, at)
        }
        InstKind::Mmblk { bank, a, b, mask, order, packed: true } => {
            let (near, mask) = (view(b), view(mask));
            // The forms have refused others.
            let Some(all) = near.unpacked(mask, *order) else { return Ok(()) };
            let slot = Layout { elements: all.slot_elements(), ..layouts[2] };
            product(control, pc, [view(bank), view(a), &all], *order, &[layouts[0], layouts[1], slot], at)?;
            within(strides(near), near.offset, near.sizes().map(|size| (0, size)), &layouts[2])?;
            whole(mask, &layouts[3], at)
        }
        InstKind::Mmblk { bank, a, b, mask, order, packed: false }
        | InstKind::Mmact { bank, a, b, mask, order } => {
            product(control, pc, [view(bank), view(a), view(b)], *order, layouts, at)?;
            whole(view(mask), &layouts[3], at)
        }
        InstKind::Seed { bank, src } | InstKind::Resc { bank, src } => {
            let (to, from) = (view(bank), view(src));
            let part = intersect(ranges(from, at), ranges(to, at));
            within(strides(from), from.offset, part, &layouts[1])?;
            within(strides(to), to.offset, part, &layouts[0])
        }
        InstKind::Stat { dst, bank, .. } => {
            let (to, from) = (view(dst), view(bank));
            let (results, sums) = (ranges(to, at), ranges(from, at));
            whole(to, &layouts[0], at)?;
            // A dimension that is reduced is read as far as the bank's view goes, for results that take part.
            let met = intersect(results, sums);
            let read = |d: usize| if to.dims[d].size == from.dims[d].size { met[d] } else { sums[d] };
            if results.iter().any(|r| r.1 == 0) {
                return Ok(());
            }
            within(strides(from), from.offset, std::array::from_fn(read), &layouts[1])
        }
        InstKind::Sort { dst, src, .. } => {
            whole(view(src), &layouts[1], at)?;
            whole(view(dst), &layouts[0], at)
        }
        InstKind::Merge { dst, a, b, .. } => {
            whole(view(a), &layouts[1], at)?;
            whole(view(b), &layouts[2], at)?;
            whole(view(dst), &layouts[0], at)
        }
        InstKind::Run { program } => {
            let program = &kernel.programs[usize::from(*program)];
            let domain = ranges(&kernel.views[usize::from(program.domain)], at);
            for (number, (stream, layout)) in program.streams.iter().zip(layouts).enumerate() {
                let view = view(&stream.operand);
                // A stream with one index in a dimension repeats along it.
                let strides = view.dims.map(|d| if d.size == 1 { 0 } else { i64::from(d.stride) });
                within(strides, view.offset, domain, layout)
                    .map_err(|(rule, message)| (rule, format!("stream {number}: {message}")))?;
            }
            Ok(())
        }
    }
}

/// The elements of a vector along dimension `dim` of its view, whatever that clips.
fn vector(view: &View, dim: u8, layout: &Layout) -> Result<(), Reason> {
    let mut whole = [(0, 1); VIEW_DIMS];
    whole[usize::from(dim)].1 = view.dims[usize::from(dim)].size;
    within(strides(view), view.offset, whole, layout)
}

/// Whether the box of a view is the slot's elements, each once.
fn covers(view: &View, elements: u64) -> bool {
    let mut dims: Vec<(i32, u32)> =
        view.dims.iter().filter(|d| d.size > 1).map(|d| (d.stride, d.size)).collect();
    dims.sort_unstable();
    let mut reach = 1;
    view.offset == 0
        && dims.iter().all(|&(stride, size)| {
            let dense = i64::from(stride) == reach;
            reach *= i64::from(size);
            dense
        })
        && reach as u64 == elements
}

/// Element numbers of the indices of some dimensions in row-major order, with whether each takes part.
fn lines(view: &View, dims: &[usize], ranges: &Ranges) -> Vec<(i64, bool)> {
    let mut all = vec![(0i64, true)];
    for &d in dims {
        let (first, n) = ranges[d];
        let stride = i64::from(view.dims[d].stride);
        all = all
            .iter()
            .flat_map(|&(at, inside)| {
                let size = view.dims[d].size;
                (0..size).map(move |i| (at + stride * i64::from(i), inside && i >= first && i - first < n))
            })
            .collect();
    }
    all
}

fn product(
    control: &Control<'_>,
    pc: usize,
    [bank, a, b]: [&View; 3],
    order: Order,
    layouts: &[Layout],
    at: Option<&Position>,
) -> Result<(), Reason> {
    let (n_dims, k_dims) = product_dims(order);
    let size = |view: &View, dims: &[usize]| -> u64 {
        dims.iter().map(|&d| u64::from(view.dims[d].size)).fold(1, u64::saturating_mul)
    };
    let sums = size(a, &[0, 1]).saturating_mul(size(b, &n_dims));
    if sums > 0 {
        let last = bank.offset.saturating_add_unsigned(sums - 1);
        bounds(bank.offset, last, &layouts[0]).map_err(|(rule, m)| (rule, format!("bank: {m}")))?;
    }
    let unit = [a, b]
        .map(|v| v.format.group_size().max(v.pattern.map_or(1, |p| u32::from(p.m))) as usize)
        .into_iter()
        .fold(1, usize::max);
    let Some(position) = at else {
        let clips = |view: &View, dims: &[usize]| dims.iter().any(|&d| !control.never_clips(pc, view, d));
        if unit > 1 && (clips(a, &[2, 3, 4]) || clips(b, &k_dims)) {
            return Err((Rule::PartialGroup, "the summed dimensions clip".to_owned()));
        }
        within(strides(a), a.offset, ranges(a, None), &layouts[1])?;
        return within(strides(b), b.offset, ranges(b, None), &layouts[2]);
    };
    let (a_ranges, b_ranges) = (a.clip(position), b.clip(position));
    let (a_k, b_k) = (lines(a, &[2, 3, 4], &a_ranges), lines(b, &k_dims, &b_ranges));
    let mask: Vec<bool> = a_k.iter().zip(&b_k).map(|(a, b)| a.1 && b.1).collect();
    if mask.chunks(unit).any(|group| group.iter().any(|&inside| inside != group[0])) {
        return Err((Rule::PartialGroup, "clipping cuts through a group".to_owned()));
    }
    let span = |all: &mut dyn Iterator<Item = i64>| {
        all.fold(None, |span: Option<(i64, i64)>, at| {
            Some(span.map_or((at, at), |(low, high)| (low.min(at), high.max(at))))
        })
    };
    let rows = lines(a, &[0, 1], &a_ranges);
    let columns = lines(b, &n_dims, &b_ranges);
    let inside = |all: &[(i64, bool)]| span(&mut all.iter().filter(|l| l.1).map(|l| l.0));
    let taken = |all: &[(i64, bool)]| span(&mut all.iter().zip(&mask).filter(|(_, m)| **m).map(|(l, _)| l.0));
    let (Some(rows), Some(columns)) = (inside(&rows), inside(&columns)) else { return Ok(()) };
    let (Some(a_k), Some(b_k)) = (taken(&a_k), taken(&b_k)) else { return Ok(()) };
    bounds(a.offset + rows.0 + a_k.0, a.offset + rows.1 + a_k.1, &layouts[1])?;
    bounds(b.offset + columns.0 + b_k.0, b.offset + columns.1 + b_k.1, &layouts[2])
}
