//! Indexed loads: rows of a table by index.

use lacuna_ir::Value;
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Action, Fill, InstKind, Operand};
use lacuna_isa::object::{Access, BufferKind};
use lacuna_isa::view::VIEW_DIMS;

use super::map::LOCAL_FILL;
use crate::emit::{KernelBuilder, LocalDim, Tile, free};
use crate::lower::{Lowered, Lowering};
use crate::nest::{Axis, Nest, TileDim};
use crate::place::{Place, reshape_strides};

impl Lowering<'_> {
    /// `gather(x, i)` along `axis`: the space is (before the axis, indices, after the axis).
    pub fn gather(&mut self, result: Value, x: Value, i: Value, axis: usize, batch: usize) -> Lowered {
        if batch > 0 {
            return Err("gather with batch dimensions is not implemented".into());
        }
        let table = self.place(x)?;
        let indices = self.place(i)?;
        let x_ty = self.func.ty(x).clone();
        let i_ty = self.func.ty(i).clone();
        let elem = x_ty.elem.scalar().ok_or("gather from a grouped table")?;
        let index_elem = i_ty.elem.scalar().ok_or("grouped indices")?;
        let n = i_ty.shape.elements();
        let before: u64 = x_ty.shape[..axis].iter().product();
        let after: u64 = x_ty.shape[axis + 1..].iter().product();
        let flat = |place: &Place, shape: &[u64], first: usize| -> Option<i64> {
            let strides = &place.strides[first..first + shape.len()];
            let to = vec![shape.iter().product::<u64>()].into();
            reshape_strides(&shape.into(), strides, &to).map(|s| s[0])
        };
        let apart = "gather over dimensions that do not merge is not implemented";
        let before_stride = flat(&table, &x_ty.shape[..axis], 0).ok_or(apart)?;
        let after_stride = flat(&table, &x_ty.shape[axis + 1..], axis + 1).ok_or(apart)?;
        let index_stride = flat(&indices, &i_ty.shape, 0).ok_or(apart)?;

        let bytes_per_index = after.max(1) * u64::from(elem.bits().div_ceil(8));
        let limit = (self.target.local_bytes as f64 * LOCAL_FILL / 2.0) as u64;
        let after_tile = after.min((limit / 16).max(1) / u64::from(elem.bits().div_ceil(8)).max(1)).max(1);
        let row_bytes = after_tile * u64::from(elem.bits().div_ceil(8)) + u64::from(index_elem.bits() / 8);
        let fair =
            (before * n).div_ceil(u64::from(self.target.n_pes())).max(4096 / bytes_per_index.max(1)).max(1);
        let n_tile = n.min((limit / row_bytes).max(1)).min(fair);
        let axes = vec![
            Axis::new("before", before, 1),
            Axis::new("index", n, n_tile),
            Axis::new("after", after, after_tile),
        ];
        let nest = Nest::distribute(axes, &[true; 3], self.target.rows, self.target.cols);
        let place = self.allocate(result);
        let storages = self.storages.clone();
        let storage_of = |s| storages[s].clone();
        let mut kb = KernelBuilder::new("gather", nest, &storage_of);
        let axes = kb.nest.axes.clone();
        let index_tile = Tile {
            storage: indices.storage,
            offset: indices.offset,
            dims: vec![TileDim::follow(&axes, 1, index_stride)],
            k_dim: None,
        };
        let inner = kb.n_loops();
        let load = kb.load("i", &index_tile, Fill::Zero, None, None)?;
        let table_size = x_ty.shape[axis];
        let mut source = vec![
            TileDim::follow(&axes, 0, before_stride),
            TileDim {
                axis: None,
                size: axes[1].tile,
                stride: table.strides[axis],
                origin: 0,
                bound: table_size,
            },
            TileDim::follow(&axes, 2, after_stride),
        ];
        let src_tile =
            Tile { storage: table.storage, offset: table.offset, dims: source.clone(), k_dim: None };
        let out_tile = Tile {
            storage: place.storage,
            offset: place.offset,
            dims: vec![
                TileDim::follow(&axes, 0, (n * after) as i64),
                TileDim::follow(&axes, 1, after as i64),
                TileDim::follow(&axes, 2, 1),
            ],
            k_dim: None,
        };
        let src = kb.global(&src_tile, Access::In)?;
        let bytes = KernelBuilder::slot_bytes(Format::Scalar(elem), None, out_tile.elements());
        let y = kb.buffer("y", BufferKind::Local, bytes, 2)?;
        kb.open(inner);
        let whole: Vec<LocalDim> =
            source.drain(..).zip(out_tile.slot_strides()).map(|(d, s)| free(d.size, s)).collect();
        let slot = kb.local(Format::Scalar(elem), None, None, &whole)?;
        let index_dims = [
            free(1, 0),
            LocalDim { size: axes[1].tile, stride: 1, clip: Some(TileDim::follow(&axes, 1, 1)) },
            free(1, 0),
        ];
        debug_assert!(matches!(index_elem, ScalarType::I32 | ScalarType::I64));
        let idx = kb.local(Format::Scalar(index_elem), None, None, &index_dims)?;
        let action = kb.last_read(load, inner);
        let index_buffer = kb.loaded(load).buffer;
        kb.push(InstKind::Gather {
            dst: Operand::new(y, Action::Push, slot),
            src,
            idx: Operand::new(index_buffer, action, idx),
            dim: (VIEW_DIMS - 2) as u8,
            fill: Fill::Zero,
        });
        kb.store(y, &out_tile)?;
        let popped: Vec<usize> = if action == Action::Pop { vec![load] } else { Vec::new() };
        kb.close(inner, &popped);
        let (kernel, bases) = kb.finish(self.target.local_bytes, self.target.bank_bytes)?;
        self.launch(kernel, bases);
        self.places[result] = Some(place);
        Ok(())
    }
}
