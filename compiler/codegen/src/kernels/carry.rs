//! Reductions of rows that are longer than local memory.
//!
//! An SE program's accumulators end with it, so the sixteen partials of a row live in a slot of their own, and each tile
//! continues them. The row is seen as steps of sixteen elements: the place within a step is a parallel dimension, the steps are
//! the sequence. Element i then meets partial i mod 16 in ascending order, and a last program combines the partials by halving:
//! the bits are those of a row that is reduced at once.

use lacuna_ir::Value;
use lacuna_ir::op::ReduceOp;
use lacuna_isa::format::{Format, ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, Fill, Operand};
use lacuna_isa::object::BufferKind;
use lacuna_isa::program::{Lane, PARTIALS, Program, SeBinary, SeOp, SeReduce, Stream};
use lacuna_isa::view::VIEW_DIMS;

use super::map::result_tile;
use super::reduce::{reducer, spread, total};
use super::rows::{Rows, live_bytes, load, row_limit};
use super::space::tile_of;
use crate::code::{Code, lane};
use crate::emit::{KernelBuilder, LocalDim, free};
use crate::expr::{Expr, Hero, Leaf, compile};
use crate::ints;
use crate::lower::Lowering;
use crate::nest::{Axis, Nest, TileDim};
use crate::place::{Place, order_of};
use crate::refusal::{Lowered, Refusal};

/// Elements of one step.
const STEP: u64 = PARTIALS as u64;
/// View dimensions that the walked one takes: the place within a step, and the steps.
const WALKED: usize = 2;

/// The bits that a partial starts from.
fn identity(f: SeReduce, lane: Lane) -> u64 {
    let float = |x: f32| if lane == Lane::F64 { f64::from(x).to_bits() } else { u64::from(x.to_bits()) };
    match (f, lane) {
        (SeReduce::Sum, _) => 0,
        (SeReduce::Prod, Lane::F32 | Lane::F64) => float(1.0),
        (SeReduce::Prod, Lane::I32 | Lane::I64) => 1,
        (SeReduce::Max, Lane::F32 | Lane::F64) => float(f32::NEG_INFINITY),
        (SeReduce::Min, Lane::F32 | Lane::F64) => float(f32::INFINITY),
        (SeReduce::Max, Lane::I32) => u64::from(i32::MIN.cast_unsigned()),
        (SeReduce::Min, Lane::I32) => u64::from(i32::MAX.cast_unsigned()),
        (SeReduce::Max, Lane::I64) => i64::MIN.cast_unsigned(),
        (SeReduce::Min, Lane::I64) => i64::MAX.cast_unsigned(),
    }
}

/// The function that an accumulator combines by.
fn combine(f: SeReduce) -> SeBinary {
    match f {
        SeReduce::Sum => SeBinary::Add,
        SeReduce::Prod => SeBinary::Mul,
        SeReduce::Max => SeBinary::Max,
        SeReduce::Min => SeBinary::Min,
    }
}

impl Lowering<'_> {
    /// Reduces an expression as [`Lowering::reduce_expression`] does, in tiles along the row.
    pub(super) fn reduce_in_tiles(
        &mut self,
        name: &str,
        result: Value,
        expr: &Expr,
        op: ReduceOp,
        walked: &[bool],
    ) -> Lowered {
        let elem = expr.nodes.last().ok_or(Refusal::Contradiction("an empty expression".into()))?.1;
        let place = self.places[result].clone().unwrap_or_else(|| self.allocate(result));
        let out_strides = spread(&place.strides, walked);
        let space = Rows::space(expr, &out_strides, walked);
        let merged = space
            .ok()
            .filter(|(dims, parallel)| dims.len() == parallel + 1 && *parallel + WALKED <= VIEW_DIMS);
        let Some((dims, k)) = merged else {
            return self.reduce_copy(name, result, place, expr, op, walked);
        };
        let (lane, f) = (lane(elem), reducer(op));
        let n = dims[k].size;
        let n_steps = n.div_ceil(STEP);
        let limit = row_limit(self.target, live_bytes(expr, 0)) / STEP;
        // At least two tiles, so that there is a loop.
        let per_tile = limit.min(n_steps.div_ceil(2)).max(1);
        let per_tile = n_steps.div_ceil(n_steps.div_ceil(per_tile));
        const NAMES: [&str; VIEW_DIMS] = ["d0", "d1", "d2", "d3", "d4"];
        let mut axes: Vec<Axis> =
            dims[..k].iter().zip(NAMES).map(|(d, name)| Axis::new(name, d.size, 1)).collect();
        axes.push(Axis::new("k", n_steps, per_tile));
        let spread_over: Vec<bool> = (0..=k).map(|d| d < k).collect();
        let nest = Nest::distribute(axes, &spread_over, self.target.rows, self.target.cols);
        if !nest.fits() || nest.axes[k].trip < 2 {
            return Err(Refusal::Limit("the rows need more loop levels than the machine has".into()));
        }
        let mut kb = KernelBuilder::new(name, nest, &self.storages);
        let axes = kb.nest.axes.clone();
        let depth = kb.n_loops();

        let mut loads = Vec::new();
        for (i, leaf) in expr.leaves.iter().enumerate() {
            let Leaf { place, elem, .. } = leaf;
            let (mut tile, at) = tile_of(place.storage, place.offset, &dims, i + 1, &axes, None);
            if let Some(d) = at[k] {
                let dim = &mut tile.dims[d];
                *dim = TileDim { axis: Some((k, STEP as i64)), size: dim.size * STEP, ..dim.clone() };
            }
            loads.push((kb.load("x", &tile, Fill::Zero, None, None)?, at, *elem));
        }
        let (out_tile, out_at) = result_tile(&place, &dims, &kb.nest, None);
        let out_format = self.storages[place.storage].format;
        let bytes = KernelBuilder::slot_bytes(out_format, None, out_tile.elements());
        let y = kb.buffer("y", BufferKind::Local, bytes, 2)?;
        let partials = Format::Scalar(partial_type(lane));
        let bytes = KernelBuilder::slot_bytes(partials, None, STEP);
        let carried = kb.buffer("partials", BufferKind::Local, bytes, 2)?;

        let rows: Vec<LocalDim> = (0..k)
            .map(|d| LocalDim { size: axes[d].tile, stride: 0, clip: Some(TileDim::follow(&axes, d, 0)) })
            .collect();
        let over = |walked: &[LocalDim]| -> Vec<LocalDim> { [&rows[..], walked].concat() };
        let steps = LocalDim { size: per_tile, stride: 0, clip: Some(TileDim::follow(&axes, k, 0)) };
        // One row's partials, as parallel indices and as a sequence.
        let of_row = kb.local(Format::F32, None, None, &over(&[free(STEP, 0)]))?;
        let of_tile = kb.local(Format::F32, None, None, &over(&[free(STEP, 0), steps]))?;
        let still: Vec<LocalDim> = (0..k).map(|d| free(axes[d].tile, 0)).collect();
        let seen = |walked: &[LocalDim]| -> Vec<LocalDim> { [&still[..], walked].concat() };
        let partials_of_row = kb.local(partials, None, None, &seen(&[free(STEP, 1)]))?;
        let partials_of_tile = kb.local(partials, None, None, &seen(&[free(STEP, 1), free(per_tile, 0)]))?;
        let stream = |buffer, action, view| Stream {
            operand: Operand::new(buffer, action, view),
            mode: ScaleMode::Floor,
        };

        kb.open(depth - 1);
        let mut code = Code::default();
        let start = code.constant(lane, identity(f, lane))?;
        code.ops.push(SeOp::Store { stream: 0, lane, src: start });
        kb.run(Program {
            name: "start".into(),
            domain: of_row,
            parallel: VIEW_DIMS as u8,
            streams: vec![stream(carried, Action::Push, partials_of_row)],
            body: code.take(),
            constants: code.constants,
            ..Program::default()
        });

        kb.open_loop(depth);
        let mut streams = Vec::new();
        let mut popped = Vec::new();
        for (load, at, elem) in &loads {
            let strides = kb.loaded(*load).strides.clone();
            let stride = |d: usize| at[d].map_or(0, |s| strides[s]);
            let mut view: Vec<LocalDim> = (0..k).map(|d| free(axes[d].tile, stride(d))).collect();
            view.extend([free(STEP, stride(k)), free(per_tile, stride(k) * STEP as i64)]);
            let view = kb.local(Format::Scalar(*elem), None, None, &view)?;
            let action = kb.last_read(*load, depth);
            if action == Action::Pop {
                popped.push(*load);
            }
            streams.push(stream(kb.loaded(*load).buffer, action, view));
        }
        let state = streams.len() as u8;
        streams.push(stream(carried, Action::Update, partials_of_tile));
        let mut code = Code::default();
        let partial = load(&mut code, lane, state)?;
        let mut tail = None;
        if !n.is_multiple_of(STEP) {
            let step = code.constant(Lane::I32, STEP)?;
            tail = Some((step, code.constant(Lane::I32, n)?, code.constant(lane, identity(f, lane))?));
        }
        let init = code.take();
        let numbers: Vec<u8> = (0..state).collect();
        let value = compile(expr, &mut code, &numbers, Hero::None, &|_| 0)?;
        if matches!(op, ReduceOp::Max | ReduceOp::Min) {
            ints::flip_order(&mut code, elem, value)?;
        }
        if let Some((step, end, neutral)) = tail {
            // Places of the last step behind the end of the row take no part.
            let (place, at) = (code.reg()?, code.reg()?);
            code.ops.push(SeOp::Coord { dst: place, dim: (VIEW_DIMS - 2) as u8 });
            code.ops.push(SeOp::Coord { dst: at, dim: (VIEW_DIMS - 1) as u8 });
            let first = code.binary(SeBinary::Mul, Lane::I32, at, step)?;
            let index = code.binary(SeBinary::Add, Lane::I32, first, place)?;
            let exists = code.binary(SeBinary::Lt, Lane::I32, index, end)?;
            code.ops.push(SeOp::Select { lane, dst: value, c: exists, a: value, b: neutral });
        }
        code.ops.push(SeOp::Binary { f: combine(f), lane, dst: partial, a: partial, b: value });
        let body = code.take();
        code.ops.push(SeOp::Store { stream: state, lane, src: partial });
        let finish = code.take();
        let constants = code.constants;
        let parallel = (VIEW_DIMS - 1) as u8;
        kb.run(Program {
            name: name.into(),
            domain: of_tile,
            parallel,
            streams,
            constants,
            init,
            body,
            finish,
        });
        kb.close_loop(depth, &popped);

        let mut view: Vec<LocalDim> =
            (0..k).map(|d| free(axes[d].tile, out_at[d].map_or(0, |s| out_tile.slot_strides()[s]))).collect();
        view.push(free(STEP, 0));
        let view = kb.local(out_format, None, None, &view)?;
        let mut code = Code::default();
        let partial = load(&mut code, lane, 0)?;
        code.ops.push(SeOp::Accumulate { f, lane, acc: 0, a: partial });
        let body = code.take();
        let sum = total(&mut code, op, elem, n)?;
        code.ops.push(SeOp::Store { stream: 1, lane, src: sum });
        let finish = code.take();
        kb.run(Program {
            name: "finish".into(),
            domain: of_row,
            parallel,
            streams: vec![stream(carried, Action::Pop, partials_of_row), stream(y, Action::Push, view)],
            constants: code.constants,
            body,
            finish,
            ..Program::default()
        });
        kb.store(y, &out_tile)?;
        kb.close(depth - 1, &popped);
        let (kernel, bases) = kb.finish(self.target.local_bytes, self.target.bank_bytes)?;
        self.launch(kernel, bases);
        self.places[result] = Some(place);
        Ok(())
    }

    /// Computes the expression into a tensor in which walked dimensions are innermost and merge, as those of the result at `place`
    /// do, and loads that.
    pub(super) fn rows_copy(
        &mut self,
        name: &str,
        place: &Place,
        expr: &Expr,
        walked: &[bool],
    ) -> Lowered<Expr> {
        let elem = expr.nodes.last().ok_or(Refusal::Contradiction("an empty expression".into()))?.1;
        let mut order = order_of(&spread(&place.strides, walked));
        order.sort_by_key(|&d| if walked[d] { (1, d) } else { (0, 0) });
        let copy = self.temporary(elem, &expr.shape, &order);
        if expr.is_copy() && expr.leaves.iter().any(|leaf| leaf.place.strides == copy.strides) {
            return Err(Refusal::Limit("the rows have more dimensions than a view".into()));
        }
        self.map(name, expr, &copy)?;
        let mut row = Expr::new(expr.shape.clone());
        row.leaf(Leaf { place: copy, elem, pad: None });
        Ok(row)
    }

    /// Reduces a copy of the expression's rows.
    fn reduce_copy(
        &mut self,
        name: &str,
        result: Value,
        place: Place,
        expr: &Expr,
        op: ReduceOp,
        walked: &[bool],
    ) -> Lowered {
        let row = self.rows_copy(name, &place, expr, walked)?;
        self.places[result] = Some(place);
        self.reduce_in_tiles(name, result, &row, op, walked)
    }
}

/// The type that holds a lane's bits as they are.
fn partial_type(lane: Lane) -> ScalarType {
    match lane {
        Lane::F32 => ScalarType::F32,
        Lane::F64 => ScalarType::F64,
        Lane::I32 => ScalarType::I32,
        Lane::I64 => ScalarType::I64,
    }
}
