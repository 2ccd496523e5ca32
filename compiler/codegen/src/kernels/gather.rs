//! Indexed loads: rows of a table by index.

use std::ops::Range;

use lacuna_ir::op::{BinaryOp, CompareOp};
use lacuna_ir::{Op, Shape, Value};
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Action, Fill, InstKind, Operand};
use lacuna_isa::object::{Access, BufferKind};
use lacuna_isa::view::VIEW_DIMS;

use super::map::LOCAL_FILL;
use crate::emit::{KernelBuilder, LocalDim, Tile, free};
use crate::expr::{Expr, ExprNode, Leaf};
use crate::lower::Lowering;
use crate::nest::{Axis, Nest, TileDim};
use crate::place::{Place, reshape_strides};
use crate::refusal::{Lowered, Refusal};

/// What one indexed load reads and writes: the space is (before the axis, indices, after the axis).
struct Lookup {
    /// The table, with strides before the axis, along it and after it.
    table: Place,
    /// Sizes of the same.
    sizes: [u64; 3],
    /// Element type of the table.
    elem: ScalarType,
    /// The indices, with one stride.
    indices: Place,
    /// Number of indices.
    n: u64,
    /// Type of an index.
    index_elem: ScalarType,
    /// The result; row-major.
    out: Place,
}

/// The stride of a run of dimensions that merge into one.
fn merged(place: &Place, shape: &[u64], dims: Range<usize>) -> Option<i64> {
    let size: u64 = shape[dims.clone()].iter().product();
    reshape_strides(&shape[dims.clone()].into(), &place.strides[dims], &vec![size].into()).map(|s| s[0])
}

impl Lowering<'_> {
    /// `gather(x, i)` along `axis`, with `batch` leading dimensions in common.
    pub fn gather(&mut self, result: Value, x: Value, i: Value, axis: usize, batch: usize) -> Lowered {
        if batch > 0 {
            return self.gather_batched(result, x, i, axis, batch);
        }
        let x_shape = self.func.ty(x).shape.clone();
        let i_shape = self.func.ty(i).shape.clone();
        let elem =
            self.func.ty(x).elem.scalar().ok_or(Refusal::Grouped("gather from a grouped table".into()))?;
        let index_elem = self.func.ty(i).elem.scalar().ok_or(Refusal::Grouped("grouped indices".into()))?;
        let strides = |place: &Place| -> Option<Vec<i64>> {
            let before = merged(place, &x_shape, 0..axis)?;
            Some(vec![before, place.strides[axis], merged(place, &x_shape, axis + 1..x_shape.rank())?])
        };
        let mut table = self.place(x)?;
        let table_strides = match strides(&table) {
            Some(found) => found,
            None => {
                table = self.dense(&x_shape, elem, table)?;
                strides(&table).ok_or(Refusal::Contradiction("a dense table does not merge".into()))?
            }
        };
        let mut indices = self.place(i)?;
        let index_stride = match merged(&indices, &i_shape, 0..i_shape.rank()) {
            Some(stride) => stride,
            None => {
                indices = self.dense(&i_shape, index_elem, indices)?;
                1
            }
        };
        let shape = self.func.ty(result).shape.clone();
        let order: Vec<usize> = (0..shape.rank()).collect();
        let direct = self.is_row_major_output(result);
        let out = if direct { self.allocate(result) } else { self.temporary(elem, &shape, &order) };
        self.lookup(&Lookup {
            table: Place { strides: table_strides, ..table },
            sizes: [x_shape[..axis].iter().product(), x_shape[axis], x_shape[axis + 1..].iter().product()],
            elem,
            indices: Place { strides: vec![index_stride], ..indices },
            n: i_shape.elements(),
            index_elem,
            out: out.clone(),
        })?;
        self.places[result] = Some(if direct { out } else { self.settle(result, out)? });
        Ok(())
    }

    /// Copies a place to a row-major intermediate.
    fn dense(&mut self, shape: &Shape, elem: ScalarType, from: Place) -> Lowered<Place> {
        let order: Vec<usize> = (0..shape.rank()).collect();
        let dense = self.temporary(elem, shape, &order);
        self.copy(shape, elem, from, &dense)?;
        Ok(dense)
    }

    /// Batch dimensions become a part of the index: the table's rows are (batch, axis), and index `i` of batch element `b`
    /// is row `b * size + i`.
    fn gather_batched(&mut self, result: Value, x: Value, i: Value, axis: usize, batch: usize) -> Lowered {
        let x_shape = self.func.ty(x).shape.clone();
        let i_shape = self.func.ty(i).shape.clone();
        let elem =
            self.func.ty(x).elem.scalar().ok_or(Refusal::Grouped("gather from a grouped table".into()))?;
        let index_elem = self.func.ty(i).elem.scalar().ok_or(Refusal::Grouped("grouped indices".into()))?;
        let rank = x_shape.rank();
        // The table as (batch, axis, other dimensions).
        let order: Vec<usize> = (0..batch).chain([axis]).chain(batch..axis).chain(axis + 1..rank).collect();
        let moved: Shape = order.iter().map(|&d| x_shape[d]).collect();
        let from = self.place(x)?;
        let mut table = Place { strides: order.iter().map(|&d| from.strides[d]).collect(), ..from };
        let strides = |place: &Place| -> Option<(i64, i64)> {
            Some((merged(place, &moved, 0..batch + 1)?, merged(place, &moved, batch + 1..rank)?))
        };
        let (row, column) = match strides(&table) {
            Some(found) => found,
            None => {
                table = self.dense(&moved, elem, table)?;
                strides(&table).ok_or(Refusal::Contradiction("a dense table does not merge".into()))?
            }
        };
        // The row numbers, over (batch, the other indices).
        let n = i_shape.elements();
        let batches: u64 = i_shape[..batch].iter().product();
        let flat: Shape = vec![batches, n / batches.max(1)].into();
        let strides = |place: &Place| -> Option<Vec<i64>> {
            Some(vec![merged(place, &i_shape, 0..batch)?, merged(place, &i_shape, batch..i_shape.rank())?])
        };
        let mut place = self.place(i)?;
        let index_strides = match strides(&place) {
            Some(found) => found,
            None => {
                place = self.dense(&i_shape, index_elem, place)?;
                strides(&place).ok_or(Refusal::Contradiction("dense indices do not merge".into()))?
            }
        };
        let mut expr = Expr::new(flat.clone());
        let leaf = Leaf { place: Place { strides: index_strides, ..place }, elem: index_elem, pad: None };
        let mut at = expr.leaf(leaf);
        if index_elem != ScalarType::I64 {
            let cast = Op::Cast { to: ScalarType::I64, saturate: true };
            at = expr.add(ExprNode::Op(Box::new(cast), vec![at]), ScalarType::I64);
        }
        let b = expr.add(ExprNode::Iota(0), ScalarType::I64);
        let size = expr.add(ExprNode::Const(x_shape[axis]), ScalarType::I64);
        let zero = expr.add(ExprNode::Const(0), ScalarType::I64);
        let none = expr.add(ExprNode::Const(-1i64 as u64), ScalarType::I64);
        let mut op = |op, args: &[usize], elem| expr.add(ExprNode::Op(Box::new(op), args.to_vec()), elem);
        let first = op(Op::Binary { op: BinaryOp::Mul }, &[b, size], ScalarType::I64);
        let number = op(Op::Binary { op: BinaryOp::Add }, &[first, at], ScalarType::I64);
        // An index out of range must not name a row of another batch element.
        let below = op(Op::Compare { op: CompareOp::Lt }, &[at, zero], ScalarType::Bool);
        let above = op(Op::Compare { op: CompareOp::Le }, &[size, at], ScalarType::Bool);
        let number = op(Op::Select {}, &[below, at, number], ScalarType::I64);
        op(Op::Select {}, &[above, none, number], ScalarType::I64);
        let indices = self.temporary(ScalarType::I64, &flat, &[0, 1]);
        self.map("rows", &expr, &indices)?;

        // The result as (batch, the other indices, other dimensions), then in its own order.
        let others: Vec<u64> = moved[batch + 1..].to_vec();
        let sizes: Vec<u64> = i_shape.iter().copied().chain(others.iter().copied()).collect();
        let in_order = axis == batch;
        let direct = in_order && self.is_row_major_output(result);
        let out = if direct {
            self.allocate(result)
        } else {
            let order: Vec<usize> = (0..sizes.len()).collect();
            self.temporary(elem, &sizes, &order)
        };
        self.lookup(&Lookup {
            table: Place { strides: vec![0, row, column], ..table },
            sizes: [1, batches * x_shape[axis], others.iter().product()],
            elem,
            indices: Place { strides: vec![1], ..indices },
            n,
            index_elem: ScalarType::I64,
            out: out.clone(),
        })?;
        let place = if direct {
            out
        } else if in_order {
            self.settle(result, out)?
        } else {
            let (rest, between) = (i_shape.rank() - batch, axis - batch);
            let source = (0..batch)
                .chain(batch + rest..batch + rest + between)
                .chain(batch..batch + rest)
                .chain(batch + rest + between..sizes.len());
            let strides = source.map(|d| out.strides[d]).collect();
            self.settle(result, Place { strides, ..out })?
        };
        self.places[result] = Some(place);
        Ok(())
    }

    /// Emits an indexed load.
    fn lookup(&mut self, l: &Lookup) -> Lowered {
        let (elem, index_elem, n) = (l.elem, l.index_elem, l.n);
        let [before, table_size, after] = l.sizes;
        let (table, indices, place) = (&l.table, &l.indices, &l.out);
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
        let mut kb = KernelBuilder::new("gather", nest, &self.storages);
        let axes = kb.nest.axes.clone();
        let index_tile = Tile {
            storage: indices.storage,
            offset: indices.offset,
            dims: vec![TileDim::follow(&axes, 1, indices.strides[0])],
            k_dim: None,
        };
        let inner = kb.n_loops();
        let load = kb.load("i", &index_tile, Fill::Zero, None, None)?;
        let mut source = vec![
            TileDim::follow(&axes, 0, table.strides[0]),
            TileDim {
                axis: None,
                size: axes[1].tile,
                stride: table.strides[1],
                origin: 0,
                bound: table_size,
            },
            TileDim::follow(&axes, 2, table.strides[2]),
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
            strict: true,
            fill: Fill::Zero,
        });
        kb.store(y, &out_tile)?;
        let popped: Vec<usize> = if action == Action::Pop { vec![load] } else { Vec::new() };
        kb.close(inner, &popped);
        let (kernel, bases) = kb.finish(self.target.local_bytes, self.target.bank_bytes)?;
        self.launch(kernel, bases);
        Ok(())
    }
}
