//! Scatters: stores whose coordinates come from a vector, and that may combine with what the tensor holds.

use lacuna_isa::format::{ScalarType, pack};
use lacuna_isa::inst::{Combine, Operand};
use lacuna_isa::math;
use lacuna_isa::view::View;

use super::codes::{scale_type, within};
use super::planes::{Piece, PlaneWalks, Side, intersect, open_dim, plane_walks};
use super::source::{byte_boxes, window};
use crate::boxes::Walk;
use crate::codes::int_value;
use crate::memory::Tensor;
use crate::pe::Pe;
use crate::trap::{Fault, TrapKind};

/// The code of two codes of `ty` combined, the tensor's first.
pub(crate) fn combine(ty: ScalarType, f: Combine, held: u64, new: u64) -> u64 {
    if f == Combine::Replace {
        return new;
    }
    if ty == ScalarType::Bool {
        let (a, b) = (held != 0, new != 0);
        return u64::from(match f {
            Combine::Replace => b,
            Combine::Add | Combine::Max => a || b,
            Combine::Mul | Combine::Min => a && b,
        });
    }
    if ty.is_int() {
        let (a, b) = (int_value(ty, held), int_value(ty, new));
        let less = if ty == ScalarType::U64 { held < new } else { a < b };
        let code = match f {
            Combine::Replace => b,
            Combine::Add => a.wrapping_add(b),
            Combine::Mul => a.wrapping_mul(b),
            Combine::Min => {
                if less {
                    a
                } else {
                    b
                }
            }
            Combine::Max => {
                if less {
                    b
                } else {
                    a
                }
            }
        };
        return code as u64 & (u64::MAX >> (64 - ty.bits()));
    }
    if ty == ScalarType::F64 {
        let (a, b) = (f64::from_bits(held), f64::from_bits(new));
        let first = a < b || (a == b && a.is_sign_negative());
        let value = match f {
            Combine::Replace => b,
            Combine::Add => a + b,
            Combine::Mul => a * b,
            Combine::Min | Combine::Max if a.is_nan() || b.is_nan() => f64::NAN,
            Combine::Min => {
                if first {
                    a
                } else {
                    b
                }
            }
            Combine::Max => {
                if first {
                    b
                } else {
                    a
                }
            }
        };
        return ty.encode(value);
    }
    let (a, b) = (ty.decode_f32(held as u32), ty.decode_f32(new as u32));
    let value = match f {
        Combine::Replace => b,
        Combine::Add => a + b,
        Combine::Mul => a * b,
        Combine::Min => math::fmin(a, b),
        Combine::Max => math::fmax(a, b),
    };
    u64::from(ty.encode_f32(value))
}

impl<'m> Pe<'m> {
    /// `scatter`.
    pub fn scatter(
        &mut self,
        src: Operand,
        dst: u16,
        (dim, idx, strict): (u8, Operand, bool),
        f: Combine,
    ) -> Result<(), Fault> {
        let kernel = self.plan.kernel;
        let (from, to) = (&kernel.views[usize::from(src.view)], &kernel.views[usize::from(dst)]);
        if from.sizes() != to.sizes() {
            let message = format!("a box of {:?} is scattered to one of {:?}", from.sizes(), to.sizes());
            return Err(Fault::new(TrapKind::ShapeMismatch, message));
        }
        let dim = usize::from(dim);
        let tensor = self.tensor(to)?;
        let slot = self.source(src)?;
        let indices = self.vector(idx, dim, to.dims[dim].size)?;
        let open = open_dim(to, dim);
        // Which rows there are is a matter of data; the region is that of all of them.
        let free = open_dim(from, dim);
        let row = intersect(&free, &open, &self.at);
        let bound = to.dims[dim].bound;
        if !row.is_empty() {
            self.claim(to, &row.cut(dim, 0, bound, 0), &tensor)?;
        }
        let (first, n) = from.clip(&self.at)[dim];
        let rows = (first..first + n).map(|i| (i, indices[i as usize]));
        if strict && let Some((_, out)) = rows.clone().find(|(_, row)| !(0..i64::from(bound)).contains(row)) {
            return Err(Fault::new(TrapKind::OutOfBounds, format!("index {out} is not in 0..{bound}")));
        }
        for (i, coord) in rows.filter(|(_, coord)| (0..i64::from(bound)).contains(coord)) {
            let piece = row.cut(dim, i, 1, coord);
            if piece.is_empty() {
                continue;
            }
            let strides = from.dims.map(|d| i64::from(d.stride));
            let source = Side { map: from.planes(), base: piece.local_base(from.offset, &strides)?, strides };
            let strides = to.dims.map(|d| i64::from(d.stride));
            let target = Side { map: to.planes(), base: piece.global_base(to)?, strides };
            let k_dim = usize::from(to.k_dim);
            let Some(walks) = plane_walks(piece.counts, k_dim, source, target)? else { continue };
            let planes = slot.planes();
            if f == Combine::Replace {
                self.store_planes(&walks, to, planes, &tensor)?;
            } else {
                self.combine_codes(&walks.codes, to.format.element(), planes[0], &tensor, f)?;
            }
        }
        self.space.pool.recycle(slot);
        Ok(())
    }

    /// Marks a region of a tensor as written by this PE, without writing it.
    fn claim(&mut self, view: &View, region: &Piece, tensor: &Tensor<'m>) -> Result<(), Fault> {
        let strides = view.dims.map(|d| i64::from(d.stride));
        let side = Side { map: view.planes(), base: region.global_base(view)?, strides };
        let walks = plane_walks(region.counts, usize::from(view.k_dim), side, side)?;
        let Some(PlaneWalks { codes, scales, indices }) = walks else { return Ok(()) };
        let index_type = view.pattern.map_or(ScalarType::U4, |p| p.index_type());
        let planes =
            [(Some(codes), view.format.element()), (scales, scale_type(view.format)), (indices, index_type)];
        for (plane, (walk, ty)) in planes.into_iter().enumerate() {
            let Some(walk) = walk else { continue };
            window(tensor, plane, ty, walk.extent(1))?;
            byte_boxes(&walk, 1, ty, tensor, plane, |at| self.log.claim(at, self.pc));
        }
        Ok(())
    }

    fn combine_codes(
        &mut self,
        walk: &Walk,
        ty: ScalarType,
        src: &[u8],
        tensor: &Tensor<'m>,
        f: Combine,
    ) -> Result<(), Fault> {
        window(tensor, 0, ty, walk.extent(1))?;
        within(walk, 0, src, ty)?;
        let (n, [ss, ts]) = walk.inner();
        let space = tensor.address.space;
        let bits = u64::from(ty.bits());
        let (pieces, len) = if ts == 1 { (1, n) } else { (n, 1) };
        let mut codes = vec![0; ty.bytes_for(len as u64) as usize];
        walk.rows(|s, t| {
            for i in 0..pieces as i64 {
                let (s, t) = (s + i * ss, (t + i * ts) as u64);
                let start = t / 8 * 8;
                let at = tensor.address.offset + tensor.planes[0] + start * bits / 8;
                let n_bytes = ty.bytes_for(t - start + len as u64) as usize;
                let held = self.overlay.read(space, at, n_bytes, self.memory.bytes(space));
                for j in 0..len {
                    let new = pack::get(src, ty, (s + j as i64 * ss) as usize);
                    let old = pack::get(&held, ty, (t - start) as usize + j);
                    pack::set(&mut codes, ty, j, combine(ty, f, old, new));
                }
                self.counts.loaded_bytes += codes.len() as u64;
                self.put_run(tensor, 0, ty, t, len, &codes);
            }
        });
        Ok(())
    }
}
