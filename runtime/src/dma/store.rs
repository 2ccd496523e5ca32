//! Stores of slots into tensors, plane by plane.

use lacuna_isa::format::{ScalarType, pack};
use lacuna_isa::inst::Operand;
use lacuna_isa::object::Access;

use super::planes::{Side, intersect, plane_walks};
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
