//! Loads and gathers of strided boxes, plane by plane.

use lacuna_isa::format::{Format, ScalarType, pack};
use lacuna_isa::inst::{Fill, Operand};
use lacuna_isa::view::{PlaneMap, VIEW_DIMS};

use super::codes::{apply_scales, fill_code, fill_planes, int_value};
use super::planes::{Piece, Side, element, partial, plane_walks};
use super::source::{Source, alias};
use crate::boxes::dense_strides;
use crate::pe::Pe;
use crate::slots::{Layout, Slot};
use crate::trap::{Fault, TrapKind};

impl Pe<'_> {
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
}
