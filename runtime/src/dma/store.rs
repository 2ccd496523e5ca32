//! Stores of slots into tensors, plane by plane.

use lacuna_isa::format::{ScalarType, pack};
use lacuna_isa::inst::Operand;
use lacuna_isa::object::Access;
use lacuna_isa::view::View;

use super::codes::{scale_type, within};
use super::planes::{PlaneWalks, Side, intersect, plane_walks};
use super::source::{byte_boxes, window};
use crate::boxes::Walk;
use crate::memory::{ByteBox, Tensor};
use crate::pe::Pe;
use crate::trap::{Fault, TrapKind};

impl<'m> Pe<'m> {
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
                self.store_planes(&walks, to, slot.planes(), &tensor)?;
            }
        }
        self.space.pool.recycle(slot);
        Ok(())
    }

    /// Stores all planes of a box.
    pub fn store_planes(
        &mut self,
        walks: &PlaneWalks,
        to: &View,
        planes: [&[u8]; 3],
        tensor: &Tensor<'m>,
    ) -> Result<(), Fault> {
        self.store_plane(&walks.codes, to.format.element(), planes[0], tensor, 0)?;
        if let Some(walk) = &walks.scales {
            self.store_plane(walk, scale_type(to.format), planes[1], tensor, 1)?;
        }
        if let (Some(walk), Some(pattern)) = (&walks.indices, to.pattern) {
            self.store_plane(walk, pattern.index_type(), planes[2], tensor, 2)?;
        }
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
        within(walk, 0, src, ty)?;
        let shown = tensor.access == Access::InOut;
        let in_bytes = if ty.bits() < 8 { walk.in_bytes(ty.bits()) } else { None };
        let (walk, ty) = match &in_bytes {
            Some(bytes) => (bytes, ScalarType::U8),
            None => (walk, ty),
        };
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
                self.log.show_last(&mut self.overlay, self.memory.bytes(tensor.address.space));
            }
            return Ok(());
        }
        let (pieces, len) = if ts == 1 { (1, n) } else { (n, 1) };
        let mut codes = vec![0; ty.bytes_for(len as u64) as usize];
        walk.rows(|s, t| {
            for i in 0..pieces as i64 {
                let (s, t) = (s + i * ss, t + i * ts);
                for j in 0..len {
                    pack::set(&mut codes, ty, j, pack::get(src, ty, (s + j as i64 * ss) as usize));
                }
                self.put_run(tensor, plane, ty, t as u64, len, &codes);
            }
        });
        Ok(())
    }

    /// Stores `len` neighbouring elements from element `t` of a plane on, inside the tensor.
    pub fn put_run(
        &mut self,
        tensor: &Tensor<'m>,
        plane: usize,
        ty: ScalarType,
        t: u64,
        len: usize,
        codes: &[u8],
    ) {
        let bits = ty.bits() as usize;
        let space = tensor.address.space;
        let origin = tensor.address.offset + tensor.planes[plane];
        let (first, last) = (t as usize * bits, (t as usize + len) * bits);
        if first % 8 == 0 && last % 8 == 0 {
            let at = ByteBox::run(space, origin + first as u64 / 8, codes.len() as u64);
            self.log.store_bytes(at, tensor.access, self.pc);
            self.log.data_mut().extend_from_slice(codes);
        } else {
            let unit = ty.unit_elements();
            let skip = t as usize % unit;
            let from = (t as usize - skip) * bits / 8;
            let at = ByteBox::run(space, origin + from as u64, (last.div_ceil(8) - from) as u64);
            self.log.store_codes(at, ty, skip, len, codes, self.pc);
        }
        self.counts.stored_bytes += codes.len() as u64;
        if tensor.access == Access::InOut {
            self.log.show_last(&mut self.overlay, self.memory.bytes(space));
        }
    }
}
