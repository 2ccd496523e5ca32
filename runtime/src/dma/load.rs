//! Loads of strided boxes, plane by plane: whole, by indices, by flags, from compressed tensors.

use lacuna_isa::format::{Format, ScalarType, pack};
use lacuna_isa::inst::{MaskCode, Operand};
use lacuna_isa::object::MemSpace;
use lacuna_isa::view::{PlaneMap, VIEW_DIMS, View};

use super::codes::{PlaneSource, apply_scales, copy_planes, fill_code, fill_planes, scale_type};
use super::expand::{Records, touched_blocks};
use super::load_plan::LoadPlan;
use super::pick::{Load, Pick};
use super::planes::{Piece, PlaneWalks, Side, element, open_dim, partial, plane_walks};
use super::source::{Source, alias};
use crate::boxes::{Walk, dense_strides};
use crate::codes::int_value;
use crate::memory::{Image, Tensor};
use crate::pe::Pe;
use crate::slots::{Constant, Layout, Slot};
use crate::trap::{Fault, TrapKind};

/// The pieces that a load brings.
struct Picked {
    pieces: Vec<Piece>,
    /// Parts of them that are not loaded and stay code 0.
    holes: Vec<Piece>,
    /// What counts as read where that does not depend on data.
    touched: Option<Piece>,
}

/// Values and scales of a slot while groups are widened.
struct Widened {
    tile: Vec<f32>,
    scales: Vec<u8>,
}

/// Sets what is not loaded of a slot to code 0; the number of its elements.
fn clear(holes: &[Piece], dense: &[i64; VIEW_DIMS], format: Format, bytes: &mut [u8]) -> Result<u64, Fault> {
    let mut elements = 0;
    for hole in holes.iter().filter(|hole| !hole.is_empty()) {
        elements += hole.elements();
        let base = hole.local_base(0, dense)?;
        let Some(walk) = Walk::new(&hole.counts, dense, dense, [base; 2]) else { continue };
        let (n, [_, ts]) = walk.inner();
        walk.rows(|_, t| {
            (0..n as i64).for_each(|i| pack::set(bytes, format.element(), (t + i * ts) as usize, 0));
        });
    }
    Ok(elements)
}

/// The boxes of a load: where the elements of a piece lie in the tensor, and where in the slot.
struct Boxes<'v> {
    view: &'v View,
    layout: Layout,
    /// Strides of the slot.
    dense: [i64; VIEW_DIMS],
    /// Format of the slot.
    to: Format,
}

/// What a load reads from.
struct Origin<'m> {
    tensor: Tensor<'m>,
    /// How the masks of a compressed tensor are coded.
    code: Option<MaskCode>,
    /// Its codes, as far as they are expanded already.
    image: Option<&'m [u8]>,
}

impl Boxes<'_> {
    /// The walks over the planes of a piece; `None` where it is empty.
    fn walks(&self, piece: &Piece) -> Result<Option<PlaneWalks>, Fault> {
        if piece.is_empty() {
            return Ok(None);
        }
        let strides = self.view.dims.map(|d| i64::from(d.stride));
        let source = Side { map: self.view.planes(), base: piece.global_base(self.view)?, strides };
        let target = Side {
            map: PlaneMap { format: self.view.format, ..self.layout.map },
            base: piece.local_base(0, &self.dense)?,
            strides: self.dense,
        };
        plane_walks(piece.counts, usize::from(self.view.k_dim), source, target)
    }

    /// Bytes of all planes of `n` elements of the tensor.
    fn bytes(&self, n: u64) -> u64 {
        self.view.planes().plane_bytes(n).iter().sum()
    }

    /// Room for what is widened before it is written, where groups become scalars.
    fn widened(&self) -> Option<Widened> {
        let (Format::Grouped(format), Format::Scalar(_)) = (self.view.format, self.to) else { return None };
        let n_groups = self.layout.elements.div_ceil(u64::from(format.size));
        let scales = vec![0; format.scale_bytes(n_groups) as usize];
        Some(Widened { tile: vec![0.0; self.layout.elements as usize], scales })
    }

    /// Copies a piece into the slot.
    fn copy(
        &self,
        source: &mut Source<'_, '_>,
        walks: &PlaneWalks,
        widened: &mut Option<Widened>,
        bytes: &mut [u8],
    ) -> Result<(), Fault> {
        match (widened, self.view.format, self.to) {
            (Some(Widened { tile, scales }), Format::Grouped(format), Format::Scalar(ty)) => {
                let codes = bytemuck::cast_slice_mut(tile);
                source.copy(&walks.codes, 0, format.element, (codes, ScalarType::F32))?;
                if let Some(walk) = &walks.scales {
                    let entry = scale_type(self.view.format);
                    source.copy(walk, 1, entry, (scales, entry))?;
                }
                let k_stride = self.dense[usize::from(self.view.k_dim)];
                apply_scales(tile, scales, format, walks, k_stride, ty, bytes);
                Ok(())
            }
            _ => copy_planes(source, self.view, walks, &self.layout, bytes),
        }
    }
}

impl<'m> Pe<'m> {
    /// `ld`, `gather`, `ldmask` and `ldx`.
    pub fn load(&mut self, load: &Load) -> Result<(), Fault> {
        let Load { dst, src, fill, pick, code } = *load;
        let kernel = self.plan.kernel;
        let view = &kernel.views[usize::from(src)];
        let to = kernel.views[usize::from(dst.view)].format;
        let tensor = self.tensor(view)?;
        let Some(layout) = self.begin_load(dst, view, &tensor)? else { return Ok(()) };
        let boxes = Boxes { view, layout, dense: dense_strides(view.sizes()), to };
        let picked = self.pick(view, pick)?;
        let moved: u64 = picked.pieces.iter().map(Piece::elements).sum();
        let complete = moved == layout.elements;
        let whole = complete && matches!(pick, Pick::All);
        let fits = |image: &&Image| Some(image.code) == code && image.ty == view.format.element();
        let image = tensor.image.filter(fits).map(|image| &*image.codes);
        let in_place = whole && code.is_none() == image.is_none() && view.format == to && !tensor.log_reads;
        let first_walks = match picked.pieces.first() {
            Some(piece) if in_place => boxes.walks(piece)?,
            Some(_) | None => None,
        };
        if in_place
            && let Some(walks) = &first_walks
            && let Some(planes) =
                alias(&tensor, image, walks, view.format, &layout, view.planes().k_stride.max(1))
        {
            let dense_bytes = boxes.bytes(moved);
            let loaded = if code.is_some() {
                let records = Records::new(tensor.bytes, tensor.planes);
                let codes = records.port_bytes(&touched_blocks(&walks.codes));
                dense_bytes - view.format.element().bytes_for(moved) + codes
            } else {
                dense_bytes
            };
            self.count_loaded(loaded, dense_bytes);
            self.rings[usize::from(dst.buffer)].push(Slot::alias(planes, layout));
            return Ok(());
        }
        let mut bytes = self.space.pool.any(layout.bytes() as usize);
        if !complete {
            fill_planes(bytes.get_mut(), &layout, fill_code(to, fill));
        }
        let origin = Origin { tensor, code, image };
        let expanded_bytes = self.copy_pieces(&boxes, &origin, &picked, first_walks, bytes.get_mut())?;
        let not_loaded = clear(&picked.holes, &boxes.dense, to, bytes.get_mut())?;
        let element = view.format.element();
        let mut loaded = boxes.bytes(moved) - element.bytes_for(not_loaded).min(element.bytes_for(moved));
        if code.is_some() {
            loaded = loaded - element.bytes_for(moved) + expanded_bytes;
        }
        let dense_bytes = boxes.bytes(picked.touched.map_or(moved, |piece| piece.elements()));
        self.count_loaded(loaded, dense_bytes);
        if self.actions.records && matches!(pick, Pick::Flags(..)) {
            self.actions.add_load(self.pc, loaded, dense_bytes);
        }
        let mut slot = Slot::owned(bytes, layout);
        if whole && tensor.address.space == MemSpace::Weights {
            let first = picked.pieces.first().map_or(Ok(0), |piece| piece.global_base(view))?;
            slot.constant = Some(Constant { pc: self.pc, address: tensor.address.offset, first });
        }
        self.rings[usize::from(dst.buffer)].push(slot);
        Ok(())
    }

    /// Counts a load of `loaded` bytes where a dense one would have had `dense_bytes`.
    fn count_loaded(&mut self, loaded: u64, dense_bytes: u64) {
        self.counts.loaded_bytes += loaded;
        self.counts.skipped_bytes += dense_bytes.saturating_sub(loaded);
    }

    /// Copies what is loaded into the planes of a slot; the bytes that crossed the port for codes of a compressed tensor.
    fn copy_pieces(
        &mut self,
        boxes: &Boxes<'_>,
        origin: &Origin<'m>,
        picked: &Picked,
        mut first_walks: Option<PlaneWalks>,
        bytes: &mut [u8],
    ) -> Result<u64, Fault> {
        let view = boxes.view;
        let mut source = Source {
            tensor: origin.tensor,
            overlay: &self.overlay,
            memory: self.memory,
            log: &mut self.log,
            pc: self.pc,
            code: origin.code,
            image: origin.image,
            expanded_bytes: 0,
        };
        if let Some(walks) = picked.touched.as_ref().map(|piece| boxes.walks(piece)).transpose()?.flatten() {
            source.touch(&walks, view.format, view.pattern)?;
        }
        let mut widened = boxes.widened();
        for piece in &picked.pieces {
            let Some(walks) = first_walks.take().map_or_else(|| boxes.walks(piece), |w| Ok(Some(w)))? else {
                continue;
            };
            if picked.touched.is_none() {
                source.touch(&walks, view.format, view.pattern)?;
            }
            boxes.copy(&mut source, &walks, &mut widened, bytes)?;
        }
        Ok(source.expanded_bytes)
    }

    /// Checks that the slot has room; the layout that it gets, or `None` where the plan of the load carried it out.
    fn begin_load(
        &mut self,
        dst: Operand,
        view: &View,
        tensor: &Tensor<'m>,
    ) -> Result<Option<Layout>, Fault> {
        let plan = self.plan;
        let ring = &mut self.rings[usize::from(dst.buffer)];
        let Some(load) = &plan.loads[self.pc] else {
            let to = plan.kernel.views[usize::from(dst.view)].format;
            let layout = LoadPlan::new(view, to, false, None).layout;
            ring.check_push(layout.bytes())?;
            return Ok(Some(layout));
        };
        ring.check_push(load.bytes)?;
        let done = self.load_whole(dst, view, tensor, load)?;
        Ok((!done).then_some(load.layout))
    }

    fn pick(&mut self, view: &View, pick: Pick) -> Result<Picked, Fault> {
        let whole = Piece::of(view, &self.at, view.clip(&self.at));
        match pick {
            Pick::All => Ok(Picked { pieces: vec![whole], holes: Vec::new(), touched: None }),
            Pick::Indices(dim, operand, strict) => {
                let dim = usize::from(dim);
                if dim == usize::from(view.k_dim) && (view.format.group_size() > 1 || view.pattern.is_some())
                {
                    return Err(partial("groups"));
                }
                let indices = self.vector(operand, dim, view.dims[dim].size)?;
                let open = open_dim(view, dim);
                let row = Piece::of(&open, &self.at, open.clip(&self.at));
                let bound = view.bounds(&self.at)[dim];
                if strict && let Some(idx) = indices.iter().find(|idx| !(0..bound).contains(*idx)) {
                    let message = format!("index {idx} is not in 0..{bound}");
                    return Err(Fault::new(TrapKind::OutOfBounds, message));
                }
                let inside = (0u32..).zip(&indices).filter(|(_, idx)| (0..bound).contains(*idx));
                let pieces = if row.is_empty() {
                    Vec::new()
                } else {
                    inside.map(|(i, &idx)| row.cut(dim, i, 1, idx)).collect()
                };
                Ok(Picked { pieces, holes: Vec::new(), touched: None })
            }
            Pick::Flags(dim, operand) => {
                let dim = usize::from(dim);
                let along = dim == usize::from(view.k_dim);
                if along && view.pattern.is_some() {
                    return Err(partial("pattern groups"));
                }
                let flags = self.vector(operand, dim, view.dims[dim].size)?;
                let unit = if along { view.format.group_size() } else { 1 };
                let (first, end) = (whole.first[dim], whole.first[dim] + whole.counts[dim]);
                let part = |from: u32, n: u32| {
                    whole.cut(dim, from, n, whole.coords[dim] + i64::from(from) - i64::from(first))
                };
                let (mut pieces, mut holes): (Vec<Piece>, Vec<Piece>) = (Vec::new(), Vec::new());
                for from in (first..end).step_by(unit as usize) {
                    let n = unit.min(end - from);
                    let unset = (from..from + n).filter(|&i| flags[i as usize] == 0);
                    let gaps: Vec<Piece> = unset.map(|i| part(i, 1)).collect();
                    if gaps.len() as u32 == n {
                        continue;
                    }
                    holes.extend(gaps);
                    match pieces.last_mut() {
                        Some(last) if last.first[dim] + last.counts[dim] == from => last.counts[dim] += n,
                        Some(_) | None => pieces.push(part(from, n)),
                    }
                }
                Ok(Picked { pieces, holes, touched: Some(whole) })
            }
        }
    }

    /// The `n` elements of a vector of indices or flags along dimension `dim` of the operand's view.
    pub fn vector(&mut self, operand: Operand, dim: usize, n: u32) -> Result<Vec<i64>, Fault> {
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
        self.space.pool.recycle(slot);
        Ok(out)
    }
}
