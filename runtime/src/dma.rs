//! The fabric interface: loads, stores and gathers of strided boxes, plane by plane.

use std::borrow::Cow;

use lacuna_isa::format::{Format, GroupFormat, ScalarType, group, pack};
use lacuna_isa::inst::{Fill, Operand};
use lacuna_isa::object::Access;
use lacuna_isa::view::{PlaneMap, Space, VIEW_DIMS, View};

use crate::boxes::{WALK_DIMS, Walk, dense_strides, plane_strides};
use crate::memory::{ByteBox, Log, Memory, Overlay, Tensor};
use crate::pe::Pe;
use crate::plan::is_signed;
use crate::slots::{Layout, Slot};
use crate::trap::{Fault, TrapKind};

/// A part of a view's box: first index, number of indices, and coordinate of the first index, per dimension.
#[derive(Clone, Copy, Debug)]
struct Piece {
    first: [u32; VIEW_DIMS],
    counts: [u32; VIEW_DIMS],
    coords: [i64; VIEW_DIMS],
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.counts.contains(&0)
    }

    /// Element number of the first coordinate in the tensor.
    fn global_base(&self, view: &View) -> Result<i64, Fault> {
        let mut at = i128::from(view.offset);
        for (dim, &coord) in view.dims.iter().zip(&self.coords) {
            at += i128::from(dim.stride) * i128::from(coord);
        }
        element(at)
    }

    /// Element number of the first index in a slot.
    fn local_base(&self, offset: i64, strides: &[i64; VIEW_DIMS]) -> Result<i64, Fault> {
        let mut at = i128::from(offset);
        for (&stride, &first) in strides.iter().zip(&self.first) {
            at += i128::from(stride) * i128::from(first);
        }
        element(at)
    }
}

fn element(at: i128) -> Result<i64, Fault> {
    if (0..1 << 60).contains(&at) {
        Ok(at as i64)
    } else {
        Err(Fault::new(TrapKind::OutOfBounds, format!("element number {at}")))
    }
}

/// One side of a transfer.
#[derive(Clone, Copy)]
struct Side {
    map: PlaneMap,
    base: i64,
    strides: [i64; VIEW_DIMS],
}

/// The walks over the planes of both sides: elements or stored elements, scales, indices.
struct PlaneWalks {
    codes: Walk,
    scales: Option<Walk>,
    indices: Option<Walk>,
}

fn partial(what: &str) -> Fault {
    Fault::new(TrapKind::PartialGroup, format!("the box does not consist of whole {what}"))
}

/// Walks over the planes of a box of `counts` whose k dimension is `k_dim`; both sides have one group size and pattern.
fn plane_walks(
    counts: [u32; VIEW_DIMS],
    k_dim: usize,
    source: Side,
    target: Side,
) -> Result<Option<PlaneWalks>, Fault> {
    let sides = [source, target];
    let grouped = |size: u32, kept: i64, what: &str, number: &dyn Fn(&Side) -> i64| {
        let mut blocks = counts;
        if !blocks[k_dim].is_multiple_of(size) {
            return Err(partial(what));
        }
        blocks[k_dim] /= size;
        let mut strides = [[0; WALK_DIMS]; 2];
        let mut base = [0; 2];
        for (side, place) in sides.iter().enumerate() {
            let s = place.map.k_stride.max(1) as i64;
            if place.base / s % i64::from(size) != 0 {
                return Err(partial(what));
            }
            let plane =
                plane_strides(&place.strides, &blocks, k_dim, place.map.k_stride, i64::from(size), kept)
                    .ok_or_else(|| partial(what))?;
            strides[side][..VIEW_DIMS].copy_from_slice(&plane);
            strides[side][VIEW_DIMS] = s;
            base[side] = number(place);
        }
        Ok((blocks, strides, base))
    };
    let codes = match source.map.pattern {
        None => Walk::new(&counts, &source.strides, &target.strides, [source.base, target.base]),
        Some(pattern) => {
            let number = |side: &Side| side.map.stored_idx(side.base as u64) as i64;
            let (blocks, strides, base) =
                grouped(u32::from(pattern.m), i64::from(pattern.n), "pattern groups", &number)?;
            let mut all = [1; WALK_DIMS];
            all[..VIEW_DIMS].copy_from_slice(&blocks);
            all[VIEW_DIMS] = u32::from(pattern.n);
            Walk::new(&all, &strides[0], &strides[1], base)
        }
    };
    let Some(codes) = codes else { return Ok(None) };
    let scales = match source.map.format {
        Format::Scalar(_) => None,
        Format::Grouped(format) => {
            let number = |side: &Side| side.map.scale_idx(side.base as u64) as i64;
            let (blocks, strides, base) = grouped(u32::from(format.size), 1, "groups", &number)?;
            Walk::new(&blocks, &strides[0][..VIEW_DIMS], &strides[1][..VIEW_DIMS], base)
        }
    };
    let indices = source.map.pattern.map(|_| codes.clone());
    Ok(Some(PlaneWalks { codes, scales, indices }))
}

/// The fill of a slot: code of an element, and of a scale.
fn fill_code(format: Format, fill: Fill) -> u64 {
    let ty = format.element();
    match (fill, ty) {
        (Fill::Zero, ScalarType::E8M0) | (Fill::Zero, _) => 0,
        (Fill::Least, ScalarType::Bool | ScalarType::E8M0) => 0,
        (Fill::Greatest, ScalarType::Bool) => 1,
        (Fill::Least, ScalarType::I64) => i64::MIN as u64,
        (Fill::Greatest, ScalarType::I64) => i64::MAX as u64,
        (Fill::Greatest, ScalarType::U64) => u64::MAX,
        (Fill::Least, _) => ty.encode(f64::NEG_INFINITY),
        (Fill::Greatest, _) => ty.encode(f64::INFINITY),
        (Fill::One, ScalarType::I8) if fixed_point(format) => 64,
        (Fill::One, _) => ty.encode(1.0),
    }
}

/// Whether the elements of `format` are MXINT8's sixty-fourths.
pub(crate) fn fixed_point(format: Format) -> bool {
    matches!(format, Format::Grouped(GroupFormat { element: ScalarType::I8, scale: ScalarType::E8M0, .. }))
}

/// Fills `n` elements with one code.
pub(crate) fn fill_elements(bytes: &mut [u8], ty: ScalarType, n: usize, code: u64) {
    let bits = ty.bits() as usize;
    // Eight elements are a whole number of bytes for every width.
    let mut unit = [0; 64];
    for i in 0..8 {
        pack::set(&mut unit, ty, i, code);
    }
    let whole = n / 8;
    for chunk in bytes[..whole * bits].chunks_exact_mut(bits) {
        chunk.copy_from_slice(&unit[..bits]);
    }
    for i in whole * 8..n {
        pack::set(bytes, ty, i, code);
    }
}

/// Fills all planes of a slot: codes with `code`, scales with one, indices ascending.
pub(crate) fn fill_planes(bytes: &mut [u8], layout: &Layout, code: u64) {
    let sizes = layout.map.plane_bytes(layout.elements);
    let (codes, rest) = bytes.split_at_mut(sizes[0] as usize);
    let (scales, indices) = rest.split_at_mut(sizes[1] as usize);
    let ty = layout.map.format.element();
    fill_elements(codes, ty, codes.len() * 8 / ty.bits() as usize, code);
    if let Format::Grouped(format) = layout.map.format {
        scales.fill(format.scale.encode_f32(1.0) as u8);
    }
    if let Some(pattern) = layout.map.pattern {
        let ty = pattern.index_type();
        let s = layout.map.k_stride.max(1) as usize;
        for i in 0..indices.len() * 8 / ty.bits() as usize {
            pack::set(indices, ty, i, (i / s % usize::from(pattern.n)) as u64);
        }
    }
}

/// The integer that a code of an integer type or bool stands for.
pub(crate) fn int_value(ty: ScalarType, code: u64) -> i64 {
    let shift = 64 - ty.bits();
    if is_signed(ty) { (code << shift) as i64 >> shift } else { code as i64 }
}

/// Copies codes, converting where the types differ.
fn copy_codes(walk: &Walk, src: (&[u8], i64, ScalarType), dst: (&mut [u8], ScalarType)) {
    let (src, origin, from) = src;
    let (dst, to) = dst;
    let (n, [ss, ts]) = walk.inner();
    let bits = from.bits() as usize;
    if from == to && bits >= 8 {
        let size = bits / 8;
        walk.rows(|s, t| {
            let (s, t) = ((s - origin) as usize * size, t as usize * size);
            if ss == 1 && ts == 1 {
                dst[t..t + n * size].copy_from_slice(&src[s..s + n * size]);
            } else {
                match size {
                    1 => strided::<1>(src, s, ss, dst, t, ts, n),
                    2 => strided::<2>(src, s, ss, dst, t, ts, n),
                    4 => strided::<4>(src, s, ss, dst, t, ts, n),
                    _ => strided::<8>(src, s, ss, dst, t, ts, n),
                }
            }
        });
        return;
    }
    let via_f32 = from.is_float() && to.is_float() && from != ScalarType::F64 && to != ScalarType::F64;
    let via_int = !from.is_float() && !to.is_float();
    let mut values = vec![0f32; if via_f32 && from != to { n } else { 0 }];
    walk.rows(|s, t| {
        let (s, t) = ((s - origin) as usize, t as usize);
        if from == to && ss == 1 && ts == 1 && (s * bits).is_multiple_of(8) && (t * bits).is_multiple_of(8) {
            let whole = n * bits / 8;
            let (sb, tb) = (s * bits / 8, t * bits / 8);
            dst[tb..tb + whole].copy_from_slice(&src[sb..sb + whole]);
            for i in whole * 8 / bits..n {
                pack::set(dst, to, t + i, pack::get(src, from, s + i));
            }
            return;
        }
        if from != to && via_f32 && ss == 1 && ts == 1 {
            pack::decode_slice(from, src, s, &mut values);
            pack::encode_slice(to, &values, dst, t);
            return;
        }
        for i in 0..n as i64 {
            let code = pack::get(src, from, (s as i64 + i * ss) as usize);
            let code = if from == to {
                code
            } else if via_int {
                let value = int_value(from, code);
                if to == ScalarType::Bool { u64::from(value != 0) } else { value as u64 }
            } else {
                to.encode(from.decode(code))
            };
            pack::set(dst, to, (t as i64 + i * ts) as usize, code);
        }
    });
}

fn strided<const N: usize>(src: &[u8], s: usize, ss: i64, dst: &mut [u8], t: usize, ts: i64, n: usize) {
    let (mut s, mut t) = (s as i64, t as i64);
    for _ in 0..n {
        let code: [u8; N] = std::array::from_fn(|i| src[s as usize + i]);
        dst[t as usize..t as usize + N].copy_from_slice(&code);
        s += ss * N as i64;
        t += ts * N as i64;
    }
}

/// Calls `f` with the bytes of a side of a walk, as boxes at absolute addresses.
fn byte_boxes(
    walk: &Walk,
    side: usize,
    ty: ScalarType,
    tensor: &Tensor<'_>,
    plane: usize,
    mut f: impl FnMut(ByteBox),
) {
    let origin = (tensor.address.offset + tensor.planes[plane]) as i64;
    let bits = i64::from(ty.bits());
    let (n, strides) = walk.inner();
    if bits >= 8 {
        let size = bits / 8;
        let mut at = ByteBox::run(tensor.address.space, 0, size as u64);
        at.start = origin + walk.base()[side] * size;
        for (count, strides) in walk.dims() {
            at.counts[at.n_dims] = count;
            at.strides[at.n_dims] = strides[side] * size;
            at.n_dims += 1;
        }
        if strides[side] == 1 {
            at.n_dims -= 1;
            at.run = n as u64 * size as u64;
        }
        f(at);
        return;
    }
    walk.rows(|s, t| {
        let first = if side == 0 { s } else { t };
        let mut run = |first: i64, n: i64| {
            let (from, to) = (first * bits / 8, ((first + n) * bits + 7) / 8);
            f(ByteBox::run(tensor.address.space, (origin + from) as u64, (to - from) as u64));
        };
        if strides[side] == 1 {
            run(first, n as i64);
        } else {
            (0..n as i64).for_each(|i| run(first + i * strides[side], 1));
        }
    });
}

/// Bytes of a tensor's plane that hold elements `low..=high`, and the element that the first byte starts with.
struct Window {
    start: u64,
    bytes: usize,
    origin: i64,
}

fn window(
    tensor: &Tensor<'_>,
    plane: usize,
    ty: ScalarType,
    (low, high): (i64, i64),
) -> Result<Window, Fault> {
    let out = || {
        let message = format!(
            "elements {low} to {high} of plane {plane} of a tensor of {} bytes ({ty})",
            tensor.bytes.len()
        );
        Fault::new(TrapKind::OutOfBounds, message)
    };
    if low < 0 || high >= 1 << 56 {
        return Err(out());
    }
    let origin = low & !7;
    let bits = i64::from(ty.bits());
    let from = tensor.planes[plane].checked_add((origin * bits / 8) as u64).ok_or_else(out)?;
    let to = tensor.planes[plane].checked_add(ty.bytes_for(high as u64 + 1)).ok_or_else(out)?;
    if to > tensor.bytes.len() as u64 {
        return Err(out());
    }
    Ok(Window { start: from, bytes: (to - from) as usize, origin })
}

/// What a load reads from: memory under the PE's own stores.
struct Source<'p, 'm> {
    tensor: Tensor<'m>,
    overlay: &'p Overlay,
    memory: &'m Memory<'m>,
    log: &'p mut Log,
    pc: usize,
}

impl Source<'_, '_> {
    /// Copies one plane of a box into `dst` and returns the bytes read.
    fn plane(
        &mut self,
        walk: &Walk,
        plane: usize,
        from: ScalarType,
        dst: (&mut [u8], ScalarType),
    ) -> Result<(), Fault> {
        let window = window(&self.tensor, plane, from, walk.extent(0))?;
        let slot_elements = (dst.0.len() * 8 / dst.1.bits() as usize) as i64;
        let (low, high) = walk.extent(1);
        if low < 0 || high >= slot_elements {
            return Err(Fault::new(TrapKind::OutOfBounds, format!("elements {low} to {high} of a slot")));
        }
        if self.tensor.log_reads {
            let own = self.tensor.access == Access::InOut;
            byte_boxes(walk, 0, from, &self.tensor, plane, |at| self.log.read(at, own, self.pc));
        }
        let bytes = if self.tensor.access == Access::InOut && !self.overlay.is_empty() {
            let space = self.tensor.address.space;
            let at = self.tensor.address.offset + window.start;
            self.overlay.read(space, at, window.bytes, self.memory.bytes(space))
        } else {
            Cow::Borrowed(&self.tensor.bytes[window.start as usize..window.start as usize + window.bytes])
        };
        copy_codes(walk, (&bytes, window.origin, from), dst);
        Ok(())
    }
}

/// The planes of a slot as references into memory, when the box is one dense run there and the layouts agree.
fn alias<'m>(
    tensor: &Tensor<'m>,
    walks: &PlaneWalks,
    format: Format,
    layout: &Layout,
    s: u64,
) -> Option<[&'m [u8]; 3]> {
    let grouped = walks.scales.is_some() || walks.indices.is_some();
    if grouped && s != layout.map.k_stride.max(1) {
        return None;
    }
    let sizes = layout.map.plane_bytes(layout.elements);
    let part = |walk: &Walk, plane: usize, ty: ScalarType| {
        let bits = walk.base()[0].checked_mul(i64::from(ty.bits()))?;
        if !walk.source_is_contiguous() || bits % 8 != 0 {
            return None;
        }
        let from = tensor.planes[plane].checked_add((bits / 8) as u64)?;
        let to = from.checked_add(sizes[plane])?;
        tensor.bytes.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
    };
    let codes = part(&walks.codes, 0, format.element())?;
    let scales = match &walks.scales {
        None => &[][..],
        Some(walk) => part(walk, 1, ScalarType::E8M0)?,
    };
    let indices = match (&walks.indices, layout.map.pattern) {
        (Some(walk), Some(pattern)) => part(walk, 2, pattern.index_type())?,
        (None, _) | (_, None) => &[][..],
    };
    Some([codes, scales, indices])
}

impl<'m> Pe<'m> {
    fn tensor(&self, view: &View) -> Result<Tensor<'m>, Fault> {
        match view.space {
            Space::Global(register) => Ok(self.tensors[usize::from(register)]),
            Space::Local => Err(Fault::new(TrapKind::FormatMismatch, "a local view names no tensor")),
        }
    }

    /// `ld`, and `gather` where `gather` gives the dimension and the operand of indices.
    pub fn load(
        &mut self,
        dst: Operand,
        src: u16,
        fill: Fill,
        gather: Option<(u8, Operand)>,
    ) -> Result<(), Fault> {
        let kernel = self.plan.kernel;
        let view = &kernel.views[usize::from(src)];
        let to = kernel.views[usize::from(dst.view)].format;
        let tensor = self.tensor(view)?;
        let (sizes, k_dim) = (view.sizes(), usize::from(view.k_dim));
        let dense = dense_strides(sizes);
        let layout = Layout::new(to, view.pattern, dense[k_dim].unsigned_abs(), view.elements());
        self.rings[usize::from(dst.buffer)].check_push(layout.bytes())?;
        let base = view.base_coords(&self.at);
        let ranges = view.clip(&self.at);
        let whole_piece = |first: [u32; VIEW_DIMS], counts: [u32; VIEW_DIMS]| Piece {
            first,
            counts,
            coords: std::array::from_fn(|d| base[d] + i64::from(first[d])),
        };
        let pieces = match gather {
            None => vec![whole_piece(ranges.map(|r| r.0), ranges.map(|r| r.1))],
            Some((dim, operand)) => {
                let dim = usize::from(dim);
                if dim == k_dim && (layout.map.format.group_size() > 1 || view.pattern.is_some()) {
                    return Err(partial("groups"));
                }
                let indices = self.indices(operand, dim, sizes[dim])?;
                let mut open = view.clone();
                open.dims[dim].origin = 0;
                open.dims[dim].bound = u32::MAX;
                open.levels.iter_mut().chain(&mut open.coords).for_each(|advance| {
                    if advance.is_some_and(|advance| usize::from(advance.dim) == dim) {
                        *advance = None;
                    }
                });
                open.shift.take_if(|shift| usize::from(shift.dim) == dim);
                let ranges = open.clip(&self.at);
                let bound = view.bounds(&self.at)[dim];
                let inside = indices.iter().enumerate().filter(|(_, idx)| (0..bound).contains(*idx));
                inside
                    .map(|(i, &idx)| {
                        let (mut first, mut counts) = (ranges.map(|r| r.0), ranges.map(|r| r.1));
                        first[dim] = i as u32;
                        counts[dim] = counts[dim].min(1);
                        let mut piece = whole_piece(first, counts);
                        piece.coords[dim] = idx;
                        piece
                    })
                    .collect()
            }
        };
        let moved: u64 = pieces.iter().map(|p| p.counts.iter().map(|&n| u64::from(n)).product::<u64>()).sum();
        let complete = moved == layout.elements;
        self.counts.loaded_bytes += view.planes().plane_bytes(moved).iter().sum::<u64>();
        let target_side = |piece: &Piece| -> Result<Side, Fault> {
            Ok(Side {
                map: PlaneMap { format: view.format, ..layout.map },
                base: piece.local_base(0, &dense)?,
                strides: dense,
            })
        };
        let source_side = |piece: &Piece| -> Result<Side, Fault> {
            let strides = view.dims.map(|d| i64::from(d.stride));
            Ok(Side { map: view.planes(), base: piece.global_base(view)?, strides })
        };
        let may_alias = complete && gather.is_none() && view.format == to && !tensor.log_reads;
        if may_alias && let Some(piece) = pieces.first().filter(|piece| !piece.is_empty()) {
            let source = source_side(piece)?;
            if let Some(walks) = plane_walks(piece.counts, k_dim, source, target_side(piece)?)?
                && let Some(planes) = alias(&tensor, &walks, view.format, &layout, source.map.k_stride.max(1))
            {
                self.rings[usize::from(dst.buffer)].push(Slot::alias(planes, layout));
                return Ok(());
            }
        }
        let mut bytes = self.pool.any(layout.bytes() as usize);
        if !complete {
            fill_planes(bytes.get_mut(), &layout, fill_code(to, fill));
        }
        let mut source =
            Source { tensor, overlay: &self.overlay, memory: self.memory, log: &mut self.log, pc: self.pc };
        let widen_to_scalar = match (view.format, to) {
            (Format::Grouped(format), Format::Scalar(ty)) => Some((format, ty)),
            (Format::Scalar(_), _) | (Format::Grouped(_), Format::Grouped(_)) => None,
        };
        let mut tile = vec![0f32; if widen_to_scalar.is_some() { layout.elements as usize } else { 0 }];
        let plane_sizes = layout.map.plane_bytes(layout.elements);
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            let Some(walks) = plane_walks(piece.counts, k_dim, source_side(piece)?, target_side(piece)?)?
            else {
                continue;
            };
            if let Some((format, ty)) = widen_to_scalar {
                let codes = bytemuck::cast_slice_mut(&mut tile);
                let element = format.element;
                source.plane_to_f32(&walks, element, codes)?;
                let mut scales = vec![0u8; (layout.elements as usize).div_ceil(usize::from(format.size))];
                if let Some(walk) = &walks.scales {
                    source.plane(walk, 1, ScalarType::E8M0, (&mut scales, ScalarType::E8M0))?;
                }
                apply_scales(&mut tile, &scales, format, &walks, dense[k_dim], ty, bytes.get_mut());
                continue;
            }
            let (codes, rest) = bytes.get_mut().split_at_mut(plane_sizes[0] as usize);
            let (scales, indices) = rest.split_at_mut(plane_sizes[1] as usize);
            source.plane(&walks.codes, 0, view.format.element(), (codes, to.element()))?;
            if let Some(walk) = &walks.scales {
                source.plane(walk, 1, ScalarType::E8M0, (scales, ScalarType::E8M0))?;
            }
            if let (Some(walk), Some(pattern)) = (&walks.indices, view.pattern) {
                source.plane(walk, 2, pattern.index_type(), (indices, pattern.index_type()))?;
            }
        }
        self.rings[usize::from(dst.buffer)].push(Slot::owned(bytes, layout));
        Ok(())
    }

    /// The element of an integer view of one index, logged as a load.
    pub fn global_int(&mut self, view: &View) -> Result<i64, Fault> {
        let tensor = self.tensor(view)?;
        let piece =
            Piece { first: [0; VIEW_DIMS], counts: [1; VIEW_DIMS], coords: view.base_coords(&self.at) };
        let at = piece.global_base(view)?;
        let ty = view.format.element();
        let Some(walk) = Walk::new(&[1], &[1], &[1], [at, 0]) else { return Ok(0) };
        let mut code = [0; 8];
        let mut source =
            Source { tensor, overlay: &self.overlay, memory: self.memory, log: &mut self.log, pc: self.pc };
        source.plane(&walk, 0, ty, (&mut code[..(ty.bits() / 8) as usize], ty))?;
        Ok(int_value(ty, pack::get(&code, ty, 0)))
    }

    fn indices(&mut self, operand: Operand, dim: usize, n: u32) -> Result<Vec<i64>, Fault> {
        let view = &self.plan.kernel.views[usize::from(operand.view)];
        if view.dims[dim].size != n {
            let message = format!("{} indices for {n} coordinates", view.dims[dim].size);
            return Err(Fault::new(TrapKind::ShapeMismatch, message));
        }
        let slot = self.source(operand)?;
        let ty = view.format.element();
        let codes = slot.planes()[0];
        let mut out = Vec::with_capacity(n as usize);
        for i in 0..i64::from(n) {
            let at = element(i128::from(view.offset) + i128::from(view.dims[dim].stride) * i128::from(i))?;
            if at as u64 >= slot.layout.elements {
                return Err(Fault::new(TrapKind::OutOfBounds, format!("index {at} of the index slot")));
            }
            out.push(int_value(ty, pack::get(codes, ty, at as usize)));
        }
        self.pool.recycle(slot);
        Ok(out)
    }

    /// `st`.
    pub fn store(&mut self, src: Operand, dst: u16) -> Result<(), Fault> {
        let kernel = self.plan.kernel;
        let (from, to) = (&kernel.views[usize::from(src.view)], &kernel.views[usize::from(dst)]);
        if from.sizes() != to.sizes() {
            let message = format!("a box of {:?} is stored to one of {:?}", from.sizes(), to.sizes());
            return Err(Fault::new(TrapKind::ShapeMismatch, message));
        }
        let tensor = self.tensor(to)?;
        let slot = self.source(src)?;
        let piece = intersect(from, to, &self.at);
        if !piece.is_empty() {
            let strides = from.dims.map(|d| i64::from(d.stride));
            let source = Side { map: from.planes(), base: piece.local_base(from.offset, &strides)?, strides };
            let strides = to.dims.map(|d| i64::from(d.stride));
            let target = Side { map: to.planes(), base: piece.global_base(to)?, strides };
            if let Some(walks) = plane_walks(piece.counts, usize::from(to.k_dim), source, target)? {
                let planes = slot.planes();
                self.store_plane(&walks.codes, to.format.element(), planes[0], &tensor, 0)?;
                if let Some(walk) = &walks.scales {
                    self.store_plane(walk, ScalarType::E8M0, planes[1], &tensor, 1)?;
                }
                if let (Some(walk), Some(pattern)) = (&walks.indices, to.pattern) {
                    self.store_plane(walk, pattern.index_type(), planes[2], &tensor, 2)?;
                }
            }
        }
        self.pool.recycle(slot);
        Ok(())
    }

    fn store_plane(
        &mut self,
        walk: &Walk,
        ty: ScalarType,
        src: &[u8],
        tensor: &Tensor<'m>,
        plane: usize,
    ) -> Result<(), Fault> {
        window(tensor, plane, ty, walk.extent(1))?;
        let (low, high) = walk.extent(0);
        if low < 0 || ty.bytes_for(high as u64 + 1) > src.len() as u64 {
            return Err(Fault::new(TrapKind::OutOfBounds, format!("elements {low} to {high} of a slot")));
        }
        let shown = tensor.access == Access::InOut;
        let memory = self.memory.bytes(tensor.address.space);
        let (n, [ss, ts]) = walk.inner();
        let bits = ty.bits() as usize;
        if bits >= 8 {
            let size = bits / 8;
            byte_boxes(walk, 1, ty, tensor, plane, |at| self.log.store_bytes(at, tensor.access, self.pc));
            let data = self.log.data_mut();
            let before = data.len();
            walk.rows(|s, _| {
                if ss == 1 {
                    data.extend_from_slice(&src[s as usize * size..(s as usize + n) * size]);
                } else {
                    for i in 0..n as i64 {
                        let at = (s + i * ss) as usize * size;
                        data.extend_from_slice(&src[at..at + size]);
                    }
                }
            });
            self.counts.stored_bytes += (data.len() - before) as u64;
            if shown {
                self.log.show_last(&mut self.overlay, memory);
            }
            return Ok(());
        }
        let origin = tensor.address.offset + tensor.planes[plane];
        let space = tensor.address.space;
        walk.rows(|s, t| {
            let (pieces, len) = if ts == 1 { (1, n) } else { (n, 1) };
            for i in 0..pieces as i64 {
                let (s, t) = (s + i * ss, t + i * ts);
                let mut codes = vec![0; ty.bytes_for(len as u64) as usize];
                for j in 0..len {
                    pack::set(&mut codes, ty, j, pack::get(src, ty, (s + j as i64 * ss) as usize));
                }
                let (first, last) = (t as usize * bits, (t as usize + len) * bits);
                if first % 8 == 0 && last % 8 == 0 {
                    let at = ByteBox::run(space, origin + first as u64 / 8, codes.len() as u64);
                    self.log.store_bytes(at, tensor.access, self.pc);
                    self.log.data_mut().extend_from_slice(&codes);
                } else {
                    // Four elements are whole bytes for every narrow type; narrower units where a byte holds whole codes.
                    let unit = if bits == 6 { 4 } else { 8 / bits };
                    let skip = t as usize % unit;
                    let from = (t as usize - skip) * bits / 8;
                    let at = ByteBox::run(space, origin + from as u64, (last.div_ceil(8) - from) as u64);
                    self.log.store_codes(at, ty, skip, len, &codes, self.pc);
                }
                self.counts.stored_bytes += codes.len() as u64;
                if shown {
                    self.log.show_last(&mut self.overlay, memory);
                }
            }
        });
        Ok(())
    }
}

impl Source<'_, '_> {
    fn plane_to_f32(
        &mut self,
        walks: &PlaneWalks,
        element: ScalarType,
        tile: &mut [u8],
    ) -> Result<(), Fault> {
        self.plane(&walks.codes, 0, element, (tile, ScalarType::F32))
    }
}

/// Multiplies the groups of a tile by their scales and encodes the tile's elements of this box.
fn apply_scales(
    tile: &mut [f32],
    scales: &[u8],
    format: GroupFormat,
    walks: &PlaneWalks,
    k_stride: i64,
    ty: ScalarType,
    out: &mut [u8],
) {
    let s = k_stride.max(1) as usize;
    let size = usize::from(format.size);
    let unit = if fixed_point(Format::Grouped(format)) { 64.0 } else { 1.0 };
    if let Some(walk) = &walks.scales {
        let (n, [_, ts]) = walk.inner();
        walk.rows(|_, t| {
            for i in 0..n as i64 {
                let number = (t + i * ts) as usize;
                let factor = group::scale_value(format, scales[number]) as f32 / unit;
                let first = number / s * s * size + number % s;
                for j in 0..size {
                    tile[first + j * s] *= factor;
                }
            }
        });
    }
    let (n, [_, ts]) = walks.codes.inner();
    walks.codes.rows(|_, t| {
        if ts == 1 {
            pack::encode_slice(ty, &tile[t as usize..t as usize + n], out, t as usize);
        } else {
            for i in 0..n as i64 {
                let at = (t + i * ts) as usize;
                pack::set(out, ty, at, ty.encode(f64::from(tile[at])));
            }
        }
    });
}

/// The indices of two boxes of the same sizes that take part on both sides; coordinates are those of `to`.
fn intersect(from: &View, to: &View, at: &lacuna_isa::view::Position) -> Piece {
    let (a, b) = (from.clip(at), to.clip(at));
    let base = to.base_coords(at);
    let mut piece = Piece { first: [0; VIEW_DIMS], counts: [0; VIEW_DIMS], coords: [0; VIEW_DIMS] };
    for d in 0..VIEW_DIMS {
        let first = a[d].0.max(b[d].0);
        let end = (a[d].0 + a[d].1).min(b[d].0 + b[d].1);
        piece.first[d] = first;
        piece.counts[d] = end.saturating_sub(first);
        piece.coords[d] = base[d] + i64::from(first);
    }
    piece
}
