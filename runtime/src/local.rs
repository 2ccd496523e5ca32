//! The instructions of the memory layout unit and the reduction engine: fill, zero and drain.

use lacuna_isa::format::{Format, GroupFormat, ScalarType, ScaleMode, group, pack};
use lacuna_isa::inst::Operand;
use lacuna_isa::view::{VIEW_DIMS, View};

use crate::boxes::Walk;
use crate::dma::fill_planes;
use crate::pe::Pe;
use crate::simd::Units;
use crate::slots::{Layout, Slot};
use crate::trap::{Fault, TrapKind};

/// The walk over a box of two local views from the same first index; faults when a side leaves `elements`.
pub(crate) fn local_walk(
    sides: [&View; 2],
    elements: [u64; 2],
    ranges: [(u32, u32); VIEW_DIMS],
) -> Result<Option<Walk>, Fault> {
    let strides = sides.map(|view| view.dims.map(|d| i64::from(d.stride)));
    let mut base = sides.map(|view| view.offset);
    for side in 0..2 {
        for d in 0..VIEW_DIMS {
            base[side] += strides[side][d] * i64::from(ranges[d].0);
        }
    }
    let Some(walk) = Walk::new(&ranges.map(|r| r.1), &strides[0], &strides[1], base) else { return Ok(None) };
    for (side, n) in elements.into_iter().enumerate() {
        let (low, high) = walk.extent(side);
        if low < 0 || high as u64 >= n {
            let message = format!("elements {low} to {high} of a slot of {n}");
            return Err(Fault::new(TrapKind::OutOfBounds, message));
        }
    }
    Ok(Some(walk))
}

/// Quantises all groups of a slot's dense values into its planes; with `touched`, only groups that it marks.
pub(crate) fn quantize(
    values: &[f32],
    format: GroupFormat,
    layout: &Layout,
    mode: ScaleMode,
    touched: Option<&[bool]>,
    bytes: &mut [u8],
) {
    let sizes = layout.map.plane_bytes(layout.elements);
    let (codes, rest) = bytes.split_at_mut(sizes[0] as usize);
    let scales = &mut rest[..sizes[1] as usize];
    let s = layout.map.k_stride.max(1) as usize;
    let size = usize::from(format.size);
    // Whole groups along neighbours go through the fast way, run by run.
    let (n_whole, bits) = (if s == 1 { values.len() / size } else { 0 }, format.element.bits() as usize);
    let is_run = |number: usize| {
        number < n_whole
            && (size * bits).is_multiple_of(8)
            && touched.is_none_or(|touched| touched[number * size..][..size].iter().all(|&set| set))
    };
    let mut staged = vec![0.0; size];
    let mut packed = vec![0; size];
    let n_groups = (layout.elements as usize).div_ceil(size);
    let mut number = 0;
    while number < n_groups {
        let run = (number..n_groups).take_while(|&number| is_run(number)).count();
        if run > 0 {
            let values = &values[number * size..][..run * size];
            let codes = &mut codes[number * size * bits / 8..];
            let scales = &mut scales[format.scale_bytes(number as u64) as usize..];
            Units::best().quantize(format, mode, values, [codes, scales]);
            number += run;
            continue;
        }
        let first = number / s * s * size + number % s;
        let members = || (0..size).map(|j| first + j * s).filter(|&e| e < values.len());
        if touched.is_none_or(|touched| members().any(|e| touched[e])) {
            staged.fill(0.0);
            for (value, e) in staged.iter_mut().zip(members()) {
                *value = values[e];
            }
            group::quantize_group(format, mode, &staged, &mut packed).write(format, scales, number);
            for (&code, e) in packed.iter().zip(members()) {
                pack::set(codes, format.element, e, u64::from(code));
            }
        }
        number += 1;
    }
}

impl Pe<'_> {
    /// `fill`.
    pub fn fill(&mut self, dst: Operand, value: u16) -> Result<(), Fault> {
        let kernel = self.plan.kernel;
        let view = &kernel.views[usize::from(dst.view)];
        let code = kernel.constants[usize::from(value)];
        let mut target = self.target(dst, Layout::of(view))?;
        let whole = view.sizes().map(|size| (0, size));
        if let Some(walk) = local_walk([view, view], [target.layout.elements; 2], whole)? {
            let (n, [_, ts]) = walk.inner();
            if walk.source_is_contiguous() && n as u64 == target.layout.elements {
                let layout = target.layout;
                fill_planes(target.bytes.get_mut(), &layout, code);
            } else if target.layout.map.format.group_size() > 1 || target.layout.map.pattern.is_some() {
                return Err(Fault::new(TrapKind::PartialGroup, "a fill of part of a grouped slot"));
            } else {
                let ty = view.format.element();
                let bytes = target.bytes.get_mut();
                walk.rows(|_, t| {
                    (0..n as i64).for_each(|i| pack::set(bytes, ty, (t + i * ts) as usize, code));
                });
            }
        }
        self.publish(dst, target);
        Ok(())
    }

    /// `zero`.
    pub fn zero(&mut self, bank: Operand) -> Result<(), Fault> {
        let view = &self.plan.kernel.views[usize::from(bank.view)];
        let mut target = self.target(bank, Layout::of(view))?;
        let ranges = view.clip(&self.at);
        if let Some(walk) = local_walk([view, view], [target.layout.elements; 2], ranges)? {
            let values: &mut [f32] = bytemuck::cast_slice_mut(target.bytes.get_mut());
            let (n, [_, ts]) = walk.inner();
            walk.rows(|_, t| (0..n as i64).for_each(|i| values[(t + i * ts) as usize] = 0.0));
        }
        self.publish(bank, target);
        Ok(())
    }

    /// `drain`. Grouped formats are quantised with [`ScaleMode::Floor`].
    pub fn drain(&mut self, dst: Operand, bank: Operand) -> Result<(), Fault> {
        let slot = self.source(bank)?;
        let kernel = self.plan.kernel;
        self.drain_slot(dst, &kernel.views[usize::from(bank.view)], slot)
    }

    /// Converts the box `from` of a bank's slot into `dst`.
    pub fn drain_slot(&mut self, dst: Operand, from: &View, slot: Slot<'_>) -> Result<(), Fault> {
        let to = &self.plan.kernel.views[usize::from(dst.view)];
        if from.sizes() != to.sizes() {
            let message = format!("a bank's box of {:?} drains into {:?}", from.sizes(), to.sizes());
            return Err(Fault::new(TrapKind::ShapeMismatch, message));
        }
        if to.pattern.is_some() {
            return Err(Fault::new(TrapKind::FormatMismatch, "a bank does not drain into a pattern"));
        }
        let mut target = self.target(dst, Layout::of(to))?;
        let (a, b) = (from.clip(&self.at), to.clip(&self.at));
        let ranges = std::array::from_fn(|d| {
            let first = a[d].0.max(b[d].0);
            (first, (a[d].0 + a[d].1).min(b[d].0 + b[d].1).saturating_sub(first))
        });
        let elements = target.layout.elements as usize;
        if let Some(walk) = local_walk([from, to], [slot.layout.elements, elements as u64], ranges)? {
            let values: &[f32] = bytemuck::cast_slice(slot.planes()[0]);
            let (n, [ss, ts]) = walk.inner();
            let mut row = vec![0f32; n];
            let read = |s: i64, row: &mut [f32]| {
                // Adding +0 turns -0 into +0 and changes nothing else.
                for (i, value) in row.iter_mut().enumerate() {
                    *value = values[(s + i as i64 * ss) as usize] + 0.0;
                }
            };
            let bytes = target.bytes.get_mut();
            match to.format {
                Format::Scalar(ty) => walk.rows(|s, t| {
                    read(s, &mut row);
                    scatter(ty, &row, bytes, t, ts);
                }),
                Format::Grouped(format) => {
                    let mut dense = vec![0f32; elements];
                    let mut touched = vec![false; elements];
                    walk.rows(|s, t| {
                        read(s, &mut row);
                        for (i, &value) in row.iter().enumerate() {
                            let at = (t + i as i64 * ts) as usize;
                            dense[at] = value;
                            touched[at] = true;
                        }
                    });
                    quantize(&dense, format, &target.layout, ScaleMode::Floor, Some(&touched), bytes);
                }
            }
        }
        self.publish(dst, target);
        self.space.pool.recycle(slot);
        Ok(())
    }
}

/// Encodes a row of values into elements `t`, `t + ts`, ...
pub(crate) fn scatter(ty: ScalarType, row: &[f32], bytes: &mut [u8], t: i64, ts: i64) {
    if ts == 1 {
        pack::encode_slice(ty, row, bytes, t as usize);
        return;
    }
    for (i, &value) in row.iter().enumerate() {
        let at = (t + i as i64 * ts) as usize;
        if ty.bits() <= 32 {
            pack::set(bytes, ty, at, u64::from(ty.encode_f32(value)));
        } else {
            pack::set(bytes, ty, at, ty.encode(f64::from(value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups that are touched in whole and in part, along neighbours and across them, against one group at a time.
    #[test]
    fn touched_groups_are_quantised_one_by_one() {
        for &format in GroupFormat::ALL {
            let size = u64::from(format.size);
            for (k_stride, groups, short) in [(1, 9, 0), (3, 2, 0), (1, 4, 5)] {
                let n = k_stride * groups * size - short;
                let layout = Layout::new(Format::Grouped(format), None, k_stride, n);
                let values: Vec<f32> = (0..n).map(|i| (i * 37 % 101) as f32 / 9.0 - 5.0).collect();
                let touched: Vec<bool> = (0..n).map(|i| i / 40 % 3 != 1 && i % 41 != 7).collect();
                let mut got = vec![0xAA; layout.bytes() as usize];
                let mut want = got.clone();
                quantize(&values, format, &layout, ScaleMode::Floor, Some(&touched), &mut got);
                let codes = layout.map.plane_bytes(n)[0] as usize;
                let (want_codes, want_scales) = want.split_at_mut(codes);
                for number in 0..n.div_ceil(size) {
                    let members: Vec<usize> =
                        (0..n).filter(|&e| layout.map.scale_idx(e) == number).map(|e| e as usize).collect();
                    if members.iter().any(|&e| touched[e]) {
                        let mut staged: Vec<f32> = members.iter().map(|&e| values[e]).collect();
                        staged.resize(size as usize, 0.0);
                        let mut packed = vec![0; size as usize];
                        group::quantize_group(format, ScaleMode::Floor, &staged, &mut packed).write(
                            format,
                            want_scales,
                            number as usize,
                        );
                        for (&e, &code) in members.iter().zip(&packed) {
                            pack::set(want_codes, format.element, e, u64::from(code));
                        }
                    }
                }
                assert_eq!(got, want, "{format}, distance {k_stride}");
            }
        }
    }
}
