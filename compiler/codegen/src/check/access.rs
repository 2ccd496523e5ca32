//! The bytes of its tensors that a kernel touches, relative to their bases: bounds, groups, races.
//!
//! Loads from `in` tensors are proven for all positions at once where the clipped coordinates allow it; all other
//! accesses are walked PE by PE, and every stored byte is marked.

use std::collections::HashMap;

use lacuna_isa::inst::InstKind;
use lacuna_isa::object::{Access, Kernel, TensorDecl};
use lacuna_isa::view::{PE_COORDS, PlaneMap, Position, Space, VIEW_DIMS, View};

use super::boxes::{PlaneBox, Side, dense_strides, plane_boxes, whole_groups};
use super::control::{Control, Stop};
use super::forms::grouped;
use super::marks::{Intervals, Marks};
use super::{Fault, Reason, Rule, pes, record};

/// What a kernel does to its tensors, in bytes from their bases.
#[derive(Default, Debug)]
pub(super) struct Summary {
    /// Instruction, base register and a range of bytes that holds all that it reads from an `in` tensor.
    pub reads: Vec<(usize, usize, (u64, u64))>,
    /// For each base register, the runs of bytes that are written.
    pub written: Vec<Vec<(u64, u64)>>,
    /// For each base register of an `inout` tensor, the runs that a PE reads before it writes them.
    pub needed: Vec<Vec<(u64, u64)>>,
}

/// A load or store of a global view.
#[derive(Clone)]
struct Transfer {
    register: usize,
    /// The global view; where an index operand gives the coordinates of a dimension, that dimension is taken whole.
    global: View,
    /// Dimension whose coordinates come from indices.
    by_index: Option<usize>,
    /// The local view of a store.
    from: Option<View>,
}

fn transfer(kernel: &Kernel, pc: usize) -> Option<Transfer> {
    let global = |v: u16| {
        let view = kernel.views[usize::from(v)].clone();
        match view.space {
            Space::Global(register) => Some((usize::from(register), view)),
            Space::Local => None,
        }
    };
    match kernel.code[pc].kind {
        InstKind::Ld { src, .. } => {
            let (register, global) = global(src)?;
            Some(Transfer { register, global, by_index: None, from: None })
        }
        InstKind::Gather { src, dim, .. } => {
            let (register, mut global) = global(src)?;
            let d = usize::from(dim);
            global.dims[d].origin = 0;
            global.dims[d].size = global.dims[d].bound;
            for advance in global.levels.iter_mut().chain(&mut global.coords) {
                advance.take_if(|a| usize::from(a.dim) == d);
            }
            Some(Transfer { register, global, by_index: Some(d), from: None })
        }
        InstKind::St { src, dst } => {
            let (register, global) = global(dst)?;
            let from = Some(kernel.views[usize::from(src.view)].clone());
            Some(Transfer { register, global, by_index: None, from })
        }
        // Refused by the forms.
        InstKind::Ldp { .. } => None,
        InstKind::Ldx { .. } => None,
        InstKind::Ldmask { .. } => None,
        InstKind::Scatter { .. } => None,
        _ => None,
    }
}

impl Transfer {
    /// The boxes that are touched at a position, in the tensor's planes; whole groups are checked on both sides.
    fn boxes(&self, at: &Position) -> Result<Vec<PlaneBox>, Reason> {
        let view = &self.global;
        let mut part = view.clip(at);
        if let Some(from) = &self.from {
            for (mine, theirs) in part.iter_mut().zip(from.clip(at)) {
                let end = (mine.0 + mine.1).min(theirs.0 + theirs.1);
                mine.0 = mine.0.max(theirs.0);
                mine.1 = end.saturating_sub(mine.0);
            }
        }
        let (first, counts) = (part.map(|p| p.0), part.map(|p| p.1));
        if counts.contains(&0) {
            return Ok(Vec::new());
        }
        let coords = view.base_coords(at);
        let mut base = view.offset;
        for d in 0..VIEW_DIMS {
            base += i64::from(view.dims[d].stride) * (coords[d] + i64::from(first[d]));
        }
        let k_dim = usize::from(view.k_dim);
        let side = Side { map: view.planes(), base, strides: view.dims.map(|d| i64::from(d.stride)) };
        if grouped(view) {
            whole_groups(&side, &counts, k_dim, "in the tensor")?;
            let (map, offset, strides) = match &self.from {
                Some(from) => (from.planes(), from.offset, from.dims.map(|d| i64::from(d.stride))),
                None => {
                    let strides = dense_strides(view.sizes());
                    let k_stride = strides[k_dim].unsigned_abs();
                    (PlaneMap { k_stride, ..view.planes() }, 0, strides)
                }
            };
            let skip = |d: usize| if self.by_index == Some(d) { 0 } else { i64::from(first[d]) };
            let base = offset + (0..VIEW_DIMS).map(|d| strides[d] * skip(d)).sum::<i64>();
            let mut local_counts = counts;
            if let Some(d) = self.by_index {
                local_counts[d] = 1;
            }
            whole_groups(&Side { map, base, strides }, &local_counts, k_dim, "in the slot")?;
        }
        Ok(plane_boxes(&side, &counts, k_dim))
    }

    /// For every plane, a range of bytes that holds all that the transfer reads at `pc` at any position; `None` when groups
    /// may be cut, or the range of a plane may not lie within it.
    fn hull(&self, control: &Control<'_>, pc: usize, tensor: &TensorDecl) -> Option<Vec<(u64, u64)>> {
        let view = &self.global;
        let Some(range) = control.coordinate_range(pc, view) else { return Some(Vec::new()) };
        let (mut low, mut high) = (view.offset, view.offset);
        for (dim, (a, b)) in view.dims.iter().zip(range) {
            let stride = i64::from(dim.stride);
            low += (stride * a).min(stride * b);
            high += (stride * a).max(stride * b);
        }
        if low < 0 || (grouped(view) && !self.always_whole(control, pc, range)) {
            return None;
        }
        let (low, high) = (low as u64, high as u64);
        let map = view.planes();
        let s = map.k_stride.max(1);
        let blocks = |unit: u64, kept: u64| (low / (s * unit) * s * kept, (high / (s * unit) + 1) * s * kept);
        let mut ranges = Vec::with_capacity(3);
        let mut push = |plane: usize, (first, end): (u64, u64), bits: u32| {
            let bits = u64::from(bits);
            let (from, to) = (first * bits / 8, (end * bits).div_ceil(8));
            let start = tensor.planes[plane];
            ranges.push((start + from, start + to));
            start + to <= plane_end(tensor, view, plane)
        };
        let element = view.format.element().bits();
        let codes = match map.pattern {
            None => (low, high + 1),
            Some(p) => blocks(u64::from(p.m), u64::from(p.n)),
        };
        let mut inside = push(0, codes, element);
        if let Some(p) = map.pattern {
            inside &= push(2, codes, p.index_type().bits());
        }
        if map.format.group_size() > 1 {
            inside &= push(1, blocks(u64::from(map.format.group_size()), 1), 8);
        }
        inside.then_some(ranges)
    }

    /// Whether a load consists of whole groups at every position.
    fn always_whole(&self, control: &Control<'_>, pc: usize, range: [(i64, i64); VIEW_DIMS]) -> bool {
        let view = &self.global;
        let k_dim = usize::from(view.k_dim);
        let map = view.planes();
        let s = map.k_stride.max(1) as i64;
        let units = [view.format.group_size(), view.pattern.map_or(1, |p| u32::from(p.m))];
        units.into_iter().filter(|&unit| unit > 1).all(|unit| {
            let g = i64::from(unit);
            let dim = view.dims[k_dim];
            let steps = view.levels.iter().chain(&view.coords).flatten();
            let along = i64::from(dim.origin) % g == 0
                && steps.filter(|a| usize::from(a.dim) == k_dim).all(|a| i64::from(a.step) % g == 0)
                && dim.size.is_multiple_of(unit)
                && (dim.bound.is_multiple_of(unit) || control.never_clips(pc, view, k_dim));
            // What is left of element numbers beside whole groups stays below the k stride.
            let mut rest = view.offset.rem_euclid(s * g);
            let across = (0..VIEW_DIMS).filter(|&d| d != k_dim).all(|d| {
                let stride = i64::from(view.dims[d].stride);
                if stride % (s * g) != 0 {
                    rest += stride.abs() * range[d].1;
                }
                stride % (s * g) == 0 || (0..s).contains(&stride)
            });
            along && across && rest < s
        })
    }
}

/// The end of a plane's bytes: where the next one of the view's planes begins.
fn plane_end(tensor: &TensorDecl, view: &View, plane: usize) -> u64 {
    let used = [true, view.format.group_size() > 1, view.pattern.is_some()];
    let starts = tensor.planes.iter().zip(used).filter(|(_, used)| *used).map(|(&start, _)| start);
    starts.filter(|&start| start > tensor.planes[plane]).fold(tensor.bytes, u64::min)
}

/// Checks that a box lies within its plane.
fn bounds(tensor: &TensorDecl, transfer: &Transfer, plane: &PlaneBox) -> Result<(), Reason> {
    let (low, high) = plane.extent();
    let end = plane_end(tensor, &transfer.global, plane.plane);
    let room = end.saturating_sub(tensor.planes[plane.plane]).saturating_mul(8) / plane.bits;
    if low >= 0 && (high as u64) < room {
        return Ok(());
    }
    let name = ["codes", "scales", "indices"][plane.plane];
    let message = format!(
        "elements {low} to {high} of the {name} of tensor r{}, which has room for {room}",
        transfer.register
    );
    Err((Rule::TensorBounds, message))
}

/// The marks of one written tensor.
#[derive(Default)]
struct Touched {
    inout: bool,
    /// Bytes written: by all PEs for `out` tensors, by earlier PEs for `inout` ones.
    written: Marks,
    /// Bits of bytes that the PE of that number has written in part.
    partial: HashMap<u64, (usize, u8)>,
    /// Bytes that the current PE has written to an `inout` tensor.
    mine: Marks,
    /// Bytes of an `inout` tensor that earlier PEs, and the current one, have read.
    read: Marks,
    my_reads: Marks,
    needed: Marks,
}

impl Touched {
    fn write(&mut self, pe: usize, from: u64, to: u64) -> Result<(), &'static str> {
        let (first, end) = (from / 8, to.div_ceil(8));
        if self.inout {
            if self.read.any(first, end - first) {
                return Err("was read by another PE");
            }
            self.mine.add(first, end - first);
            return match self.written.any(first, end - first) {
                true => Err("was written by another PE"),
                false => Ok(()),
            };
        }
        let twice = "is written twice";
        if from.is_multiple_of(8) && to.is_multiple_of(8) {
            return if self.written.add(first, end - first) { Err(twice) } else { Ok(()) };
        }
        let mut free = true;
        for byte in first..end {
            let low = from.saturating_sub(byte * 8).min(8);
            let high = (to - byte * 8).min(8);
            let mask = ((1u16 << high) - (1u16 << low)) as u8;
            match self.partial.get_mut(&byte) {
                Some((owner, bits)) => {
                    free &= *owner == pe && *bits & mask == 0;
                    *bits |= mask;
                }
                None => {
                    free &= !self.written.add(byte, 1);
                    self.partial.insert(byte, (pe, mask));
                }
            }
        }
        if free { Ok(()) } else { Err(twice) }
    }

    fn load(&mut self, from: u64, to: u64) -> Result<(), &'static str> {
        let (first, end) = (from / 8, to.div_ceil(8));
        self.my_reads.add(first, end - first);
        if !self.mine.any(first, end - first) {
            self.needed.add(first, end - first);
        } else {
            for byte in (first..end).filter(|&b| !self.mine.any(b, 1)) {
                self.needed.add(byte, 1);
            }
        }
        if self.written.any(first, end - first) { Err("was written by another PE") } else { Ok(()) }
    }
}

/// Examines the accesses of a kernel whose instructions all have a meaning.
pub(super) fn summarize(kernel: &Kernel, control: &mut Control<'_>, faults: &mut Vec<Fault>) -> Summary {
    let transfers: Vec<Option<Transfer>> = (0..kernel.code.len()).map(|pc| transfer(kernel, pc)).collect();
    let mut summary = Summary::default();
    let mut wanted = vec![false; kernel.code.len()];
    for (pc, transfer) in transfers.iter().enumerate() {
        let Some(transfer) = transfer else { continue };
        let tensor = &kernel.tensors[transfer.register];
        let is_input = match tensor.access {
            Access::In => true,
            Access::Out | Access::InOut => false,
        };
        match transfer.hull(control, pc, tensor).filter(|_| is_input) {
            Some(ranges) => summary.reads.extend(ranges.into_iter().map(|r| (pc, transfer.register, r))),
            None => {
                wanted[pc] = true;
                if is_input {
                    summary.reads.push((pc, transfer.register, (0, tensor.bytes)));
                }
            }
        }
    }
    let mut touched: Vec<Touched> = kernel
        .tensors
        .iter()
        .map(|t| Touched { inout: t.access == Access::InOut, ..Touched::default() })
        .collect();
    for (pe, coords) in pes(kernel).into_iter().enumerate() {
        let result = control.walk(coords, &wanted, &mut |pc, at| {
            let Some(transfer) = &transfers[pc] else { return true };
            let outcome = visit(kernel, transfer, at, pe, &mut touched[transfer.register]);
            if let Err(reason) = outcome {
                record(faults, Fault::at(pc, Some(coords), reason));
            }
            true
        });
        if result == Err(Stop::Length) {
            let message = "more than 2^31 dynamic instructions".to_owned();
            record(faults, Fault { rule: Rule::Length, pc: None, pe: Some(coords), message });
            break;
        }
        for t in touched.iter_mut().filter(|t| t.inout) {
            t.written.absorb(&mut t.mine);
            t.read.absorb(&mut t.my_reads);
        }
    }
    summary.written = touched.iter().map(|t| t.written.runs()).collect();
    summary.needed = touched.iter().map(|t| t.needed.runs()).collect();
    summary
}

fn visit(
    kernel: &Kernel,
    transfer: &Transfer,
    at: &Position,
    pe: usize,
    touched: &mut Touched,
) -> Result<(), Reason> {
    let tensor = &kernel.tensors[transfer.register];
    for plane in transfer.boxes(at)? {
        bounds(tensor, transfer, &plane)?;
        if transfer.from.is_none() && !touched.inout {
            continue;
        }
        let origin = tensor.planes[plane.plane] * 8;
        let mut conflict = None;
        plane.runs(|from, to| {
            let (from, to) = (origin + from, origin + to);
            let outcome = match transfer.from {
                Some(_) => touched.write(pe, from, to),
                None => touched.load(from, to),
            };
            conflict = outcome.err().map(|what| (from / 8, what));
            conflict.is_none()
        });
        if let Some((byte, what)) = conflict {
            let message = format!("byte {byte} of tensor r{} {what}", transfer.register);
            return Err((Rule::Race, message));
        }
    }
    Ok(())
}

/// The first byte, relative to the tensor, that instruction `pc` reads and `defined` lacks, and the PE that reads it.
/// The tensor lies `base` bytes into the memory of `defined`.
pub(super) fn first_undefined(
    kernel: &Kernel,
    control: &mut Control<'_>,
    pc: usize,
    defined: &Intervals,
    base: u64,
) -> Option<([u32; PE_COORDS], u64)> {
    let transfer = transfer(kernel, pc)?;
    let tensor = &kernel.tensors[transfer.register];
    let mut wanted = vec![false; kernel.code.len()];
    wanted[pc] = true;
    let mut found = None;
    for coords in pes(kernel) {
        let result = control.walk(coords, &wanted, &mut |_, at| {
            for plane in transfer.boxes(at).unwrap_or_default() {
                if bounds(tensor, &transfer, &plane).is_err() {
                    continue;
                }
                let origin = base + tensor.planes[plane.plane];
                plane.runs(|from, to| {
                    let missing = defined.first_missing(origin + from / 8, origin + to.div_ceil(8));
                    found = missing.map(|byte| (coords, byte - base));
                    found.is_none()
                });
                if found.is_some() {
                    return false;
                }
            }
            true
        });
        if result.is_err() {
            break;
        }
    }
    found
}
