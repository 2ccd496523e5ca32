//! Slots and banks that cross PEs: `xchg` and `xred`, carried out for all members of a group at once.

use lacuna_isa::format::pack;
use lacuna_isa::inst::{Operand, Share};
use lacuna_isa::view::View;

use crate::local::local_walk;
use crate::pe::Pe;
use crate::slots::{Layout, Slot};
use crate::trap::{Fault, TrapKind};

/// A fault with the position of its PE in the group.
type MemberFault = (usize, Fault);

/// Part `number` along dimension `d` of a view that consists of parts of `size`.
pub(crate) fn part(whole: &View, d: usize, size: u32, number: u32) -> View {
    let mut part = whole.clone();
    let first = i64::from(size) * i64::from(number);
    part.offset += first * i64::from(whole.dims[d].stride);
    part.dims[d].size = size;
    part.dims[d].origin = part.dims[d].origin.saturating_add(first.min(i64::from(i32::MAX)) as i32);
    part
}

/// `xchg`: the slots of the members, one after the other along dimension `dim` of everyone's `dst`.
pub(crate) fn exchange(
    group: &mut [&mut Pe<'_>],
    dst: Operand,
    src: Operand,
    dim: u8,
) -> Result<(), MemberFault> {
    let Some(kernel) = group.first().map(|pe| pe.plan.kernel) else { return Ok(()) };
    let (from, to) = (&kernel.views[usize::from(src.view)], &kernel.views[usize::from(dst.view)]);
    let d = usize::from(dim);
    let mut sizes = from.sizes();
    sizes[d] = sizes[d].saturating_mul(group.len() as u32);
    if sizes != to.sizes() {
        let message = format!(
            "{} boxes of {:?} do not make one of {:?} along dimension {dim}",
            group.len(),
            from.sizes(),
            to.sizes()
        );
        return Err((0, Fault::new(TrapKind::ShapeMismatch, message)));
    }
    let mut slots = Vec::with_capacity(group.len());
    for (i, pe) in group.iter_mut().enumerate() {
        let at = pe.at;
        slots.push((pe.source(src).map_err(|fault| (i, fault))?, at));
    }
    for (i, pe) in group.iter_mut().enumerate() {
        let mut target = pe.target(dst, Layout::of(to)).map_err(|fault| (i, fault))?;
        for (number, (slot, at)) in slots.iter().enumerate() {
            let place = part(to, d, from.dims[d].size, number as u32);
            // What the sender's view clips is not sent, what the receiver's clips is not kept.
            let (sent, kept) = (from.clip(at), place.clip(&pe.at));
            let ranges = std::array::from_fn(|d| {
                let first = sent[d].0.max(kept[d].0);
                let end = (sent[d].0 + sent[d].1).min(kept[d].0 + kept[d].1);
                (first, end.saturating_sub(first))
            });
            let layout = target.layout;
            let elements = [slot.layout.elements, layout.elements];
            let walk = local_walk([from, &place], elements, ranges).map_err(|fault| (i, fault))?;
            let Some(walk) = walk else { continue };
            let ty = from.format.element();
            let (codes, bytes) = (slot.planes()[0], target.bytes.get_mut());
            let (n, [ss, ts]) = walk.inner();
            let whole = ss == 1 && ts == 1 && ty.bits() >= 8;
            let size = (ty.bits() / 8) as usize;
            walk.rows(|s, t| {
                if whole {
                    let (s, t) = (s as usize * size, t as usize * size);
                    bytes[t..t + n * size].copy_from_slice(&codes[s..s + n * size]);
                    return;
                }
                for j in 0..n as i64 {
                    let code = pack::get(codes, ty, (s + j * ss) as usize);
                    pack::set(bytes, ty, (t + j * ts) as usize, code);
                }
            });
        }
        pe.publish(dst, target);
    }
    Ok(())
}

/// `xred`: the banks of the members summed in ascending order, converted into everyone's `dst`, whole or in parts.
pub(crate) fn reduce(
    group: &mut [&mut Pe<'_>],
    dst: Operand,
    bank: Operand,
    dim: u8,
    share: Share,
) -> Result<(), MemberFault> {
    let Some(kernel) = group.first().map(|pe| pe.plan.kernel) else { return Ok(()) };
    let (from, to) = (&kernel.views[usize::from(bank.view)], &kernel.views[usize::from(dst.view)]);
    let d = usize::from(dim);
    let parts = match share {
        Share::All => 1,
        Share::Part => group.len() as u32,
    };
    let mut sizes = to.sizes();
    sizes[d] = sizes[d].saturating_mul(parts);
    if sizes != from.sizes() {
        let message = format!("banks of {:?} do not make {parts} parts of {:?}", from.sizes(), to.sizes());
        return Err((0, Fault::new(TrapKind::ShapeMismatch, message)));
    }
    let mut sum: Vec<f32> = Vec::new();
    let mut layout = None;
    for (i, pe) in group.iter_mut().enumerate() {
        let slot = pe.source(bank).map_err(|fault| (i, fault))?;
        let known = *layout.get_or_insert(slot.layout);
        if known != slot.layout {
            let message = format!("banks of {} and {} elements", known.elements, slot.layout.elements);
            return Err((i, Fault::new(TrapKind::ShapeMismatch, message)));
        }
        sum.resize(known.elements as usize, 0.0);
        let walk = local_walk([from, from], [known.elements; 2], from.clip(&pe.at));
        if let Some(walk) = walk.map_err(|fault| (i, fault))? {
            let values: &[f32] = bytemuck::cast_slice(slot.planes()[0]);
            let (n, [ss, _]) = walk.inner();
            walk.rows(|s, _| {
                for j in 0..n as i64 {
                    let at = (s + j * ss) as usize;
                    sum[at] += values[at];
                }
            });
        }
        pe.space.pool.recycle(slot);
    }
    let Some(layout) = layout else { return Ok(()) };
    for (i, pe) in group.iter_mut().enumerate() {
        let mut bytes = pe.space.pool.any(sum.len() * 4);
        bytemuck::cast_slice_mut(bytes.get_mut()).copy_from_slice(&sum);
        let view = match share {
            Share::All => from.clone(),
            Share::Part => part(from, d, to.dims[d].size, i as u32),
        };
        pe.drain_slot(dst, &view, Slot::owned(bytes, layout)).map_err(|fault| (i, fault))?;
    }
    Ok(())
}
