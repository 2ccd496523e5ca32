//! Indexed stores: updates of rows at positions that are known when the kernel runs.

use lacuna_ir::Value;
use lacuna_isa::format::Format;
use lacuna_isa::inst::{Combine, Fill, InstKind, Operand};
use lacuna_isa::object::Access;
use lacuna_isa::view::VIEW_DIMS;

use super::map::LOCAL_FILL;
use crate::emit::{DOUBLE, KernelBuilder, LocalDim, Tile, free};
use crate::lower::Lowering;
use crate::nest::{Axis, Nest, TileDim};
use crate::place::Place;
use crate::refusal::{Lowered, Refusal};

/// Bytes of an update that a PE stores at once, if there are as many: less fill no beat of memory.
const PIECE_BYTES: u64 = 64;

/// Updates of a tile: enough of them hide the latency of the next.
const MAX_UPDATES: u64 = 1024;

/// Dimensions of the space.
const LANE: usize = 0;
const WIDTH: usize = 1;
const UPDATE: usize = 2;

impl Lowering<'_> {
    /// `scatter`: the rows that the result begins with are stored, then changed in place.
    ///
    /// Updates of one row meet in their order, so a PE takes all updates of its part of a row.
    pub fn scatter(&mut self, result: Value, args: [Value; 3], combine: Combine) -> Lowered {
        let [data, positions, updates] = args;
        let out = self.allocate(result);
        let rows = self.operand_expression(data)?;
        self.map("rows", &rows, &out)?;
        let (at, from) = (self.place(positions)?, self.place(updates)?);
        let elem = self.func.ty(result).elem.scalar().ok_or(Refusal::Grouped("grouped rows".into()))?;
        let index = self.func.ty(positions).elem.scalar();
        let index = Format::Scalar(index.ok_or(Refusal::Grouped("grouped positions".into()))?);
        let [lanes, n_rows, width] = self.func.ty(result).shape[..] else {
            return Err(Refusal::Contradiction("rows are not [lanes, rows, width]".into()));
        };
        let count = self.func.ty(positions).shape[1];
        let nest = self.scatter_nest([lanes, width, count], u64::from(elem.bits().div_ceil(8)));
        let mut kb = KernelBuilder::new("scatter", nest, &self.storages);
        let axes = kb.nest.axes.clone();
        let depth = kb.n_loops();
        let (i_tile, i_strides) = operand(&axes, &at, [(LANE, 0), (UPDATE, 1)]);
        let (x_tile, x_strides) = operand(&axes, &from, [(LANE, 0), (UPDATE, 1), (WIDTH, 2)]);
        // What stands still under the loop over updates must still be read in it.
        let i = kb.load("i", &i_tile, Fill::Zero, Some(depth), Some(DOUBLE))?;
        let x = kb.load("x", &x_tile, Fill::Zero, Some(depth), Some(DOUBLE))?;
        let row =
            TileDim { axis: None, size: axes[UPDATE].tile, stride: out.strides[1], origin: 0, bound: n_rows };
        let target = Tile {
            storage: out.storage,
            offset: out.offset,
            dims: vec![
                TileDim::follow(&axes, LANE, out.strides[0]),
                row,
                TileDim::follow(&axes, WIDTH, out.strides[2]),
            ],
            k_dim: None,
        };
        let dst = kb.global(&target, Access::InOut)?;
        kb.open(depth);
        let walked = |stride: i64| LocalDim {
            size: axes[UPDATE].tile,
            stride,
            clip: Some(TileDim::follow(&axes, UPDATE, 1)),
        };
        let of_updates = [free(1, x_strides[0]), walked(x_strides[1]), free(axes[WIDTH].tile, x_strides[2])];
        let src = kb.local(Format::Scalar(elem), None, None, &of_updates)?;
        let idx = kb.local(index, None, None, &[free(1, 0), walked(i_strides[1]), free(1, 0)])?;
        let src = Operand::new(kb.loaded(x).buffer, kb.last_read(x, depth), src);
        let idx = Operand::new(kb.loaded(i).buffer, kb.last_read(i, depth), idx);
        let dim = (VIEW_DIMS - 2) as u8;
        kb.push(InstKind::Scatter { src, dst, idx, dim, strict: true, combine });
        kb.close(depth, &[i, x]);
        let (kernel, bases) = kb.finish(self.target.local_bytes, self.target.bank_bytes)?;
        self.launch(kernel, bases);
        self.places[result] = Some(out);
        Ok(())
    }

    /// Lanes and parts of rows are dealt to the PEs, updates are walked; sizes are of lanes, rows and updates.
    fn scatter_nest(&self, [lanes, width, count]: [u64; 3], bytes: u64) -> Nest {
        let parts = u64::from(self.target.n_pes()).div_ceil(lanes);
        let least = PIECE_BYTES.div_ceil(bytes);
        let local = (self.target.local_bytes as f64 * LOCAL_FILL) as u64 / u64::from(DOUBLE);
        let piece = width.div_ceil(parts).max(least).min(width).min(local / (bytes * 2)).max(1);
        // Of the update and its position.
        let update = piece * bytes + 8;
        let updates = count.min(MAX_UPDATES).min(local / update).max(1);
        let axes = vec![
            Axis::new("lane", lanes, 1),
            Axis::new("width", width, piece),
            Axis::new("update", count, updates),
        ];
        Nest::distribute(axes, &[true, true, false], self.target.rows, self.target.cols)
    }
}

/// The tile of an operand whose dimensions follow axes, and the strides of its slot; a dimension that repeats has none.
fn operand<const N: usize>(axes: &[Axis], place: &Place, dims: [(usize, usize); N]) -> (Tile, [i64; N]) {
    let moved = |&(axis, d): &(usize, usize)| place.strides[d] != 0 && axes[axis].size > 1;
    let kept: Vec<(usize, usize)> = dims.iter().copied().filter(moved).collect();
    let dims_of = kept.iter().map(|&(axis, d)| TileDim::follow(axes, axis, place.strides[d])).collect();
    let tile = Tile { storage: place.storage, offset: place.offset, dims: dims_of, k_dim: None };
    let strides = tile.slot_strides();
    let stride_of = |dim: (usize, usize)| kept.iter().position(|&k| k == dim).map_or(0, |at| strides[at]);
    (tile, dims.map(stride_of))
}
