//! Kernels that walk rows: reductions, softmax, norms, quantisation. The walked dimensions are whole in local memory.

use lacuna_ir::op::ReduceOp;
use lacuna_ir::{ElemType, Node, Value};
use lacuna_isa::format::{Format, ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, Fill, Operand};
use lacuna_isa::object::BufferKind;
use lacuna_isa::program::{Lane, MAX_STREAMS, Program, Reg, SeBinary, SeOp, SeReduce, SeUnary, Stream};
use lacuna_isa::view::VIEW_DIMS;

use super::map::{LOCAL_FILL, domain_dims, result_tile, stream_dims};
use super::space::{SpaceDim, Walk, coalesce, cut, nest_of, tile_of};
use crate::emit::{KernelBuilder, LocalDim};
use crate::expr::{Code, Expr, Hero, Leaf, compile, lane};
use crate::ints;
use crate::lower::{Lowered, Lowering};
use crate::nest::{Nest, TileDim};
use crate::place::{Place, Storage, order_of};
use crate::sinks::{GroupedSink, Outlet, Sinks};

/// A row space: parallel dimensions in the result's order, then the walked ones in logical order.
pub(super) struct Rows {
    pub dims: Vec<SpaceDim>,
    /// Number of parallel dimensions.
    parallel: usize,
    pub nest: Nest,
}

/// The kernel of a row space while it is emitted.
pub(super) struct RowKernel<'a> {
    pub kb: KernelBuilder<'a>,
    pub rows: Rows,
    /// Load, position of each space dimension in its slot, element type.
    loads: Vec<(usize, Vec<Option<usize>>, ScalarType)>,
    domain: u16,
}

/// A buffer for an intermediate.
struct Scratch {
    buffer: u8,
    /// Stride of each dimension of the space.
    strides: Vec<i64>,
    elem: ScalarType,
}

/// The sections of a program.
#[derive(Default)]
pub(super) struct Sections {
    pub init: Vec<SeOp>,
    pub body: Vec<SeOp>,
    pub finish: Vec<SeOp>,
}

impl Rows {
    /// `walked[d]` tells whether logical dimension d is walked; `out_strides` has 0 for dimensions that the result lacks.
    /// `live_bytes` is the number of bytes in local memory for each element of the space.
    pub fn new(
        lowering: &Lowering,
        expr: &Expr,
        out_strides: &[i64],
        walked: &[bool],
        live_bytes: u64,
    ) -> Lowered<Rows> {
        let dim = |d: usize| -> SpaceDim {
            let size = expr.shape[d];
            let mut walks = vec![Walk { stride: out_strides[d], origin: 0, bound: size }];
            walks.extend(expr.leaves.iter().map(|l| Walk {
                stride: l.place.strides[d],
                origin: 0,
                bound: size,
            }));
            SpaceDim { size, walks, logical: vec![d], apart: false }
        };
        let operands = expr.leaves.len() + 1;
        let order = order_of(out_strides);
        let mut dims = coalesce(order.iter().filter(|&&d| !walked[d]).map(|&d| dim(d)).collect(), operands);
        let parallel = dims.len();
        dims.extend(coalesce((0..walked.len()).filter(|&d| walked[d]).map(dim).collect(), operands));
        if dims.len() > VIEW_DIMS {
            return Err(format!("the rows have more than {VIEW_DIMS} dimensions that do not merge"));
        }
        let whole: Vec<bool> = (0..dims.len()).map(|d| d >= parallel).collect();
        let limit = (lowering.target.local_bytes as f64 * LOCAL_FILL) as u64 / live_bytes.max(1);
        let row: u64 = dims[parallel..].iter().map(|d| d.size).product();
        let tiles = cut(&dims, &whole, limit, u64::from(lowering.target.n_pes())).ok_or_else(|| {
            format!(
                "a row of {row} elements does not fit the local memory of a PE ({} bytes)",
                lowering.target.local_bytes
            )
        })?;
        let nest = nest_of(&dims, &tiles, &whole, lowering.target.rows, lowering.target.cols);
        if !nest.fits() {
            return Err("the rows need more loop levels than the machine has".into());
        }
        Ok(Rows { dims, parallel, nest })
    }

    /// The dimension that the groups of a sink run along, if it is the innermost and consists of whole groups.
    fn groups_fit(&self, sink: &GroupedSink) -> Option<usize> {
        let along = self.dims.iter().position(|d| d.logical.last() == Some(&sink.axis))?;
        let dim = &self.dims[along];
        let whole = dim.size.is_multiple_of(u64::from(sink.format.size)) && along >= self.parallel;
        (whole && dim.walks.first().is_some_and(|w| w.stride == 1)).then_some(along)
    }

    fn row_len(&self) -> u64 {
        self.dims[self.parallel..].iter().map(|d| d.size).product()
    }
}

impl<'a> RowKernel<'a> {
    pub fn new(
        name: &str,
        rows: Rows,
        expr: &Expr,
        storage_of: &'a dyn Fn(crate::place::StorageId) -> Storage,
    ) -> Lowered<RowKernel<'a>> {
        let mut kb = KernelBuilder::new(name, rows.nest.clone(), storage_of);
        let mut loads = Vec::new();
        for (i, leaf) in expr.leaves.iter().enumerate() {
            let (tile, at) =
                tile_of(leaf.place.storage, leaf.place.offset, &rows.dims, i + 1, &rows.nest.axes, None);
            loads.push((kb.load("x", &tile, Fill::Zero, None, None)?, at, leaf.elem));
        }
        let domain_view = domain_dims(&rows.nest);
        let domain = kb.local(Format::F32, None, None, &domain_view)?;
        Ok(RowKernel { kb, rows, loads, domain })
    }

    pub fn depth(&self) -> usize {
        self.kb.n_loops()
    }

    /// Reads leaf `i`; `last` frees it when this is its last reader.
    pub fn leaf(&mut self, i: usize, last: bool) -> Lowered<Stream> {
        let (load, at, elem) = self.loads[i].clone();
        let strides = self.kb.loaded(load).strides.clone();
        let dims = stream_dims(&self.rows.nest, &at, &strides);
        let view = self.kb.local(Format::Scalar(elem), None, None, &dims)?;
        let action = if last { self.kb.last_read(load, self.depth()) } else { Action::Read };
        Ok(Stream {
            operand: Operand::new(self.kb.loaded(load).buffer, action, view),
            mode: ScaleMode::Floor,
        })
    }

    /// A buffer for an intermediate over the whole space, or over its parallel part only, of the lane's float type.
    fn scratch(&mut self, name: &str, lane: Lane, per_row: bool) -> Lowered<Scratch> {
        let dims = &self.rows.dims;
        let n = if per_row { self.rows.parallel } else { dims.len() };
        let mut strides = vec![0; dims.len()];
        let mut size = 1;
        for d in (0..n).rev() {
            strides[d] = size;
            size *= self.rows.nest.axes[d].tile as i64;
        }
        let buffer = self.kb.buffer(
            name,
            BufferKind::Local,
            size as u64 * if lane == Lane::F64 { 8 } else { 4 },
            2,
        )?;
        Ok(Scratch {
            buffer,
            strides,
            elem: if lane == Lane::F64 { ScalarType::F64 } else { ScalarType::F32 },
        })
    }

    fn scratch_stream(&mut self, scratch: &Scratch, action: Action) -> Lowered<Stream> {
        let dims: Vec<LocalDim> = scratch
            .strides
            .iter()
            .zip(&self.rows.nest.axes)
            .map(|(&stride, axis)| LocalDim { size: axis.tile, stride, clip: None })
            .collect();
        let view = self.kb.local(Format::Scalar(scratch.elem), None, None, &dims)?;
        Ok(Stream { operand: Operand::new(scratch.buffer, action, view), mode: ScaleMode::Floor })
    }

    pub fn run(&mut self, name: &str, walk: bool, streams: Vec<Stream>, code: Code, parts: Sections) {
        let pad = VIEW_DIMS - self.rows.dims.len();
        let parallel = if walk { pad + self.rows.parallel } else { VIEW_DIMS } as u8;
        self.kb.run(Program {
            name: name.to_string(),
            domain: self.domain,
            parallel,
            streams,
            constants: code.constants,
            init: parts.init,
            body: parts.body,
            finish: parts.finish,
        });
    }

    /// Buffers and boxes of a kernel's result, the plain one first.
    fn outlets(&mut self, sinks: &Sinks) -> Lowered<Vec<Outlet>> {
        let (dims, nest) = (self.rows.dims.clone(), self.rows.nest.clone());
        let mut outlets = Vec::new();
        if sinks.keeps_plain {
            let (tile, at) = result_tile(&sinks.plain, &dims, &nest, None);
            let format = self.kb.format(tile.storage);
            let view = stream_dims(&nest, &at, &tile.slot_strides());
            outlets.push(Outlet::new(&mut self.kb, tile, format, ScaleMode::Floor, None, &view)?);
        }
        for sink in &sinks.grouped {
            let along = self.rows.groups_fit(sink).ok_or("groups that rows cut")?;
            let (tile, at) = result_tile(&sink.place, &dims, &nest, Some(along));
            let view = stream_dims(&nest, &at, &tile.slot_strides());
            let format = Format::Grouped(sink.format);
            outlets.push(Outlet::new(&mut self.kb, tile, format, sink.mode, Some(along), &view)?);
        }
        Ok(outlets)
    }

    /// Names of loads that programs freed themselves, for closing the loops.
    fn popped(&self) -> Vec<usize> {
        let depth = self.depth();
        self.loads.iter().map(|l| l.0).filter(|&l| self.kb.last_read(l, depth) == Action::Pop).collect()
    }
}

pub(super) fn load(code: &mut Code, lane: Lane, stream: u8) -> Lowered<Reg> {
    let dst = code.reg()?;
    code.ops.push(SeOp::Load { dst, lane, stream });
    Ok(dst)
}

fn real(code: &mut Code, lane: Lane, value: f64) -> Lowered<Reg> {
    let bits = if lane == Lane::F64 { value.to_bits() } else { u64::from((value as f32).to_bits()) };
    code.constant(lane, bits)
}

impl Lowering<'_> {
    /// `reduce`: the operand's expression is computed on the way in.
    pub fn reduce(&mut self, result: Value, x: Value, op: ReduceOp, axes: &[u8]) -> Lowered {
        if self.func.ty(x).shape.elements() == 0 {
            return self.reduce_nothing(result, op);
        }
        let expr = self.operand_expression(x)?;
        let walked: Vec<bool> = (0..expr.shape.rank()).map(|d| axes.contains(&(d as u8))).collect();
        self.reduce_expression("reduce", result, &expr, op, &walked)
    }

    /// Reduces an expression over the dimensions that are `walked`; the result has the others, in order.
    pub(super) fn reduce_expression(
        &mut self,
        name: &str,
        result: Value,
        expr: &Expr,
        op: ReduceOp,
        walked: &[bool],
    ) -> Lowered {
        let elem = expr.nodes.last().ok_or("an empty expression")?.1;
        let lane = lane(elem);
        let place = self.allocate(result);
        let out_strides = spread(&place.strides, walked);
        let live = live_bytes(expr, 0);
        let rows = Rows::new(self, expr, &out_strides, walked, live)?;
        let storages = self.storages.clone();
        let storage_of = |s| storages[s].clone();
        let n = rows.row_len();
        let mut rk = RowKernel::new(name, rows, expr, &storage_of)?;
        let (out_tile, out_at) = result_tile(&place, &rk.rows.dims, &rk.rows.nest, None);
        let out_format = storages[place.storage].format;
        let y = rk.kb.buffer(
            "y",
            BufferKind::Local,
            KernelBuilder::slot_bytes(out_format, None, out_tile.elements()),
            2,
        )?;
        let depth = rk.depth();
        rk.kb.open(depth);
        let mut streams = (0..expr.leaves.len()).map(|i| rk.leaf(i, true)).collect::<Lowered<Vec<_>>>()?;
        let dims = stream_dims(&rk.rows.nest, &out_at, &out_tile.slot_strides());
        let view = rk.kb.local(out_format, None, None, &dims)?;
        streams.push(Stream { operand: Operand::new(y, Action::Push, view), mode: ScaleMode::Floor });
        let mut code = Code::default();
        let numbers: Vec<u8> = (0..expr.leaves.len() as u8).collect();
        let value = compile(expr, &mut code, &numbers, Hero::None, &|_| 0)?;
        let ordered = matches!(op, ReduceOp::Max | ReduceOp::Min);
        if ordered {
            ints::flip_order(&mut code, elem, value)?;
        }
        let f = match op {
            ReduceOp::Sum | ReduceOp::Mean => SeReduce::Sum,
            ReduceOp::Prod => SeReduce::Prod,
            ReduceOp::Max => SeReduce::Max,
            ReduceOp::Min => SeReduce::Min,
        };
        code.ops.push(SeOp::Accumulate { f, lane, acc: 0, a: value });
        let body = code.take();
        let mut total = code.reg()?;
        code.ops.push(SeOp::Tree { f, lane, dst: total, acc: 0 });
        if op == ReduceOp::Mean {
            let (divisor, divide) = match lane {
                Lane::F32 => (u64::from((n as f32).to_bits()), SeBinary::Div),
                Lane::F64 => ((n as f64).to_bits(), SeBinary::Div),
                Lane::I32 | Lane::I64 => (n, SeBinary::Div),
            };
            let divisor = code.constant(lane, divisor)?;
            total = code.binary(divide, lane, total, divisor)?;
        }
        if ordered {
            ints::flip_order(&mut code, elem, total)?;
        }
        code.ops.push(SeOp::Store { stream: expr.leaves.len() as u8, lane, src: total });
        let finish = code.take();
        rk.run(name, true, streams, code, Sections { body, finish, ..Sections::default() });
        rk.kb.store(y, &out_tile)?;
        self.finish_rows(rk, depth)?;
        self.places[result] = Some(place);
        Ok(())
    }

    /// `arg_reduce`: the extreme so far and its index are carried along the row.
    pub fn arg_reduce(&mut self, result: Value, x: Value, max: bool, axis: u8, last: bool) -> Lowered {
        let (expr, _) = self.copy_of(x)?;
        let elem = expr.leaves[0].elem;
        let lane = lane(elem);
        let walked: Vec<bool> = (0..expr.shape.rank()).map(|d| d == axis as usize).collect();
        let place = self.allocate(result);
        let out_strides = spread(&place.strides, &walked);
        let rows = Rows::new(self, &expr, &out_strides, &walked, live_bytes(&expr, 0))?;
        let storages = self.storages.clone();
        let storage_of = |s| storages[s].clone();
        let mut rk = RowKernel::new("arg_reduce", rows, &expr, &storage_of)?;
        let (out_tile, out_at) = result_tile(&place, &rk.rows.dims, &rk.rows.nest, None);
        let out_format = storages[place.storage].format;
        let bytes = KernelBuilder::slot_bytes(out_format, None, out_tile.elements());
        let y = rk.kb.buffer("y", BufferKind::Local, bytes, 2)?;
        let depth = rk.depth();
        rk.kb.open(depth);
        let mut streams = vec![rk.leaf(0, true)?];
        let dims = stream_dims(&rk.rows.nest, &out_at, &out_tile.slot_strides());
        let view = rk.kb.local(out_format, None, None, &dims)?;
        streams.push(Stream { operand: Operand::new(y, Action::Push, view), mode: ScaleMode::Floor });
        // The carried pair starts as the row's first element.
        let mut code = Code::default();
        let best = load(&mut code, lane, 0)?;
        ints::flip_order(&mut code, elem, best)?;
        let at = code.constant(Lane::I32, 0)?;
        let init = code.take();
        let value = load(&mut code, lane, 0)?;
        ints::flip_order(&mut code, elem, value)?;
        let here = code.reg()?;
        let walked_dim = (VIEW_DIMS - rk.rows.dims.len() + rk.rows.parallel) as u8;
        code.ops.push(SeOp::Coord { dst: here, dim: walked_dim });
        let (a, b) = if max { (best, value) } else { (value, best) };
        let f = if last { SeBinary::Le } else { SeBinary::Lt };
        let better = code.binary(f, lane, a, b)?;
        code.ops.push(SeOp::Select { lane, dst: best, c: better, a: value, b: best });
        code.ops.push(SeOp::Select { lane: Lane::I32, dst: at, c: better, a: here, b: at });
        let body = code.take();
        let wide = code.reg()?;
        code.ops.push(SeOp::Convert { from: Lane::I32, to: Lane::I64, dst: wide, a: at });
        code.ops.push(SeOp::Store { stream: 1, lane: Lane::I64, src: wide });
        let finish = code.take();
        rk.run("arg_reduce", true, streams, code, Sections { init, body, finish });
        rk.kb.store(y, &out_tile)?;
        self.finish_rows(rk, depth)?;
        self.places[result] = Some(place);
        Ok(())
    }

    /// `softmax`: maximum, exponentials and their sum, quotients.
    pub fn softmax(&mut self, result: Value, x: Value, axis: u8, log: bool) -> Lowered {
        let (expr, _) = self.copy_of(x)?;
        let elem = expr.leaves[0].elem;
        let lane = lane(elem);
        let walked: Vec<bool> = (0..expr.shape.rank()).map(|d| d == axis as usize).collect();
        let order = order_of(&expr.leaves[0].place.strides);
        let place = self.allocate_in(result, Some(order));
        let rows = Rows::new(
            self,
            &expr,
            &place.strides,
            &walked,
            live_bytes(&expr, if lane == Lane::F64 { 32 } else { 16 }),
        )?;
        let storages = self.storages.clone();
        let storage_of = |s| storages[s].clone();
        let mut rk = RowKernel::new(if log { "log_softmax" } else { "softmax" }, rows, &expr, &storage_of)?;
        let (out_tile, out_at) = result_tile(&place, &rk.rows.dims, &rk.rows.nest, None);
        let out_format = storages[place.storage].format;
        let bytes = KernelBuilder::slot_bytes(out_format, None, out_tile.elements());
        let maxima = rk.scratch("max", lane, true)?;
        let shifted = rk.scratch("exp", lane, false)?;
        let sums = rk.scratch("sum", lane, true)?;
        let y = rk.kb.buffer("y", BufferKind::Local, bytes, 2)?;
        let depth = rk.depth();
        rk.kb.open(depth);

        let streams = vec![rk.leaf(0, false)?, rk.scratch_stream(&maxima, Action::Push)?];
        let mut code = Code::default();
        let value = load(&mut code, lane, 0)?;
        code.ops.push(SeOp::Accumulate { f: SeReduce::Max, lane, acc: 0, a: value });
        let body = code.take();
        code.ops.push(SeOp::Tree { f: SeReduce::Max, lane, dst: value, acc: 0 });
        code.ops.push(SeOp::Store { stream: 1, lane, src: value });
        let finish = code.take();
        rk.run("max", true, streams, code, Sections { body, finish, ..Sections::default() });

        let streams = vec![
            rk.leaf(0, true)?,
            rk.scratch_stream(&maxima, Action::Pop)?,
            rk.scratch_stream(&shifted, Action::Push)?,
            rk.scratch_stream(&sums, Action::Push)?,
        ];
        let mut code = Code::default();
        let greatest = load(&mut code, lane, 1)?;
        let init = code.take();
        let value = load(&mut code, lane, 0)?;
        let shift = code.binary(SeBinary::Sub, lane, value, greatest)?;
        let exp = code.unary(SeUnary::Exp, lane, shift)?;
        code.ops.push(SeOp::Store { stream: 2, lane, src: if log { shift } else { exp } });
        code.ops.push(SeOp::Accumulate { f: SeReduce::Sum, lane, acc: 0, a: exp });
        let body = code.take();
        let mut sum = code.reg()?;
        code.ops.push(SeOp::Tree { f: SeReduce::Sum, lane, dst: sum, acc: 0 });
        if log {
            sum = code.unary(SeUnary::Log, lane, sum)?;
        }
        code.ops.push(SeOp::Store { stream: 3, lane, src: sum });
        let finish = code.take();
        rk.run("exp", true, streams, code, Sections { init, body, finish });

        let dims = stream_dims(&rk.rows.nest, &out_at, &out_tile.slot_strides());
        let view = rk.kb.local(out_format, None, None, &dims)?;
        let streams = vec![
            rk.scratch_stream(&shifted, Action::Pop)?,
            rk.scratch_stream(&sums, Action::Pop)?,
            Stream { operand: Operand::new(y, Action::Push, view), mode: ScaleMode::Floor },
        ];
        let mut code = Code::default();
        let value = load(&mut code, lane, 0)?;
        let sum = load(&mut code, lane, 1)?;
        let f = if log { SeBinary::Sub } else { SeBinary::Div };
        let quotient = code.binary(f, lane, value, sum)?;
        code.ops.push(SeOp::Store { stream: 2, lane, src: quotient });
        let body = code.take();
        rk.run("divide", false, streams, code, Sections { body, ..Sections::default() });
        rk.kb.store(y, &out_tile)?;
        self.finish_rows(rk, depth)?;
        self.places[result] = Some(place);
        Ok(())
    }

    /// `norm`: mean, mean square of what is left, scaling.
    pub fn norm(&mut self, node: Node, result: Value, axes: &[u8], centre: bool, eps: f64) -> Lowered {
        let args = self.func.nodes[node].args.clone();
        let (mut expr, _) = self.copy_of(args[0])?;
        let elem = expr.leaves[0].elem;
        let lane = lane(elem);
        let rank = expr.shape.rank();
        for &arg in &args[1..] {
            let from = self.place(arg)?;
            let mut strides = vec![0; rank];
            for (i, &a) in axes.iter().enumerate() {
                strides[a as usize] = from.strides[i];
            }
            let elem = self.func.ty(arg).elem.scalar().ok_or("a grouped scale or bias")?;
            expr.leaves.push(Leaf { place: Place { strides, ..from }, elem, pad: None });
        }
        let walked: Vec<bool> = (0..rank).map(|d| axes.contains(&(d as u8))).collect();
        let order = order_of(&expr.leaves[0].place.strides);
        let mut sinks = self.sinks(result, Some(order));
        let live = live_bytes(&expr, if lane == Lane::F64 { 16 } else { 8 }) + 4 * sinks.grouped.len() as u64;
        let rows = Rows::new(self, &expr, &sinks.plain.strides, &walked, live)?;
        sinks.retain(|sink| rows.groups_fit(sink).is_some());
        let storages = self.storages.clone();
        let storage_of = |s| storages[s].clone();
        let n = rows.row_len() as f64;
        let mut rk =
            RowKernel::new(if centre { "layer_norm" } else { "rms_norm" }, rows, &expr, &storage_of)?;
        let means = if centre { Some(rk.scratch("mean", lane, true)?) } else { None };
        let factors = rk.scratch("factor", lane, true)?;
        let outlets = rk.outlets(&sinks)?;
        let depth = rk.depth();
        rk.kb.open(depth);
        let tree = |code: &mut Code| -> Lowered<Reg> {
            let total = code.reg()?;
            code.ops.push(SeOp::Tree { f: SeReduce::Sum, lane, dst: total, acc: 0 });
            let count = real(code, lane, n)?;
            code.binary(SeBinary::Div, lane, total, count)
        };

        if let Some(means) = &means {
            let streams = vec![rk.leaf(0, false)?, rk.scratch_stream(means, Action::Push)?];
            let mut code = Code::default();
            let value = load(&mut code, lane, 0)?;
            code.ops.push(SeOp::Accumulate { f: SeReduce::Sum, lane, acc: 0, a: value });
            let body = code.take();
            let mean = tree(&mut code)?;
            code.ops.push(SeOp::Store { stream: 1, lane, src: mean });
            let finish = code.take();
            rk.run("mean", true, streams, code, Sections { body, finish, ..Sections::default() });
        }

        let mut streams = vec![rk.leaf(0, false)?, rk.scratch_stream(&factors, Action::Push)?];
        let mut code = Code::default();
        let mean = match &means {
            Some(means) => {
                streams.push(rk.scratch_stream(means, Action::Read)?);
                Some(load(&mut code, lane, 2)?)
            }
            None => None,
        };
        let init = code.take();
        let mut value = load(&mut code, lane, 0)?;
        if let Some(mean) = mean {
            value = code.binary(SeBinary::Sub, lane, value, mean)?;
        }
        let square = code.binary(SeBinary::Mul, lane, value, value)?;
        code.ops.push(SeOp::Accumulate { f: SeReduce::Sum, lane, acc: 0, a: square });
        let body = code.take();
        let variance = tree(&mut code)?;
        let eps = real(&mut code, lane, eps)?;
        let sum = code.binary(SeBinary::Add, lane, variance, eps)?;
        let root = code.unary(SeUnary::Sqrt, lane, sum)?;
        let factor = code.unary(SeUnary::Recip, lane, root)?;
        code.ops.push(SeOp::Store { stream: 1, lane, src: factor });
        let finish = code.take();
        rk.run("factor", true, streams, code, Sections { init, body, finish });

        let mut streams = (0..expr.leaves.len()).map(|i| rk.leaf(i, true)).collect::<Lowered<Vec<_>>>()?;
        streams.push(rk.scratch_stream(&factors, Action::Pop)?);
        let mut code = Code::default();
        let mut value = load(&mut code, lane, 0)?;
        let factor = load(&mut code, lane, (streams.len() - 1) as u8)?;
        if let Some(means) = &means {
            streams.push(rk.scratch_stream(means, Action::Pop)?);
            let mean = load(&mut code, lane, (streams.len() - 1) as u8)?;
            value = code.binary(SeBinary::Sub, lane, value, mean)?;
        }
        value = code.binary(SeBinary::Mul, lane, value, factor)?;
        if args.len() > 1 {
            let scale = load(&mut code, lane, 1)?;
            value = code.binary(SeBinary::Mul, lane, value, scale)?;
        }
        if args.len() > 2 {
            let bias = load(&mut code, lane, 2)?;
            value = code.binary(SeBinary::Add, lane, value, bias)?;
        }
        for outlet in &outlets {
            code.ops.push(SeOp::Store { stream: streams.len() as u8, lane, src: value });
            streams.push(outlet.stream);
        }
        let body = code.take();
        rk.run("scale", false, streams, code, Sections { body, ..Sections::default() });
        for outlet in &outlets {
            outlet.store(&mut rk.kb)?;
        }
        self.finish_rows(rk, depth)?;
        self.take_places(result, sinks);
        Ok(())
    }

    /// An element-wise expression whose result is quantised in the same kernel, row by row.
    pub fn map_rows(&mut self, expr: &Expr, sinks: &mut Sinks) -> Lowered {
        let axis = sinks.grouped.first().map(|g| g.axis);
        let walked: Vec<bool> = (0..expr.shape.rank()).map(|d| Some(d) == axis).collect();
        let live = live_bytes(expr, 4 + 4 * sinks.grouped.len() as u64);
        let rows = match Rows::new(self, expr, &sinks.plain.strides, &walked, live) {
            Ok(rows) if expr.leaves.len() + 1 + sinks.grouped.len() <= MAX_STREAMS => rows,
            // Rows that are too long, or too many operands: the copies get kernels of their own.
            Ok(_) | Err(_) => {
                sinks.retain(|_| false);
                return self.map("map", expr, &sinks.plain.clone());
            }
        };
        sinks.retain(|sink| rows.groups_fit(sink).is_some());
        let storages = self.storages.clone();
        let storage_of = |s| storages[s].clone();
        let mut rk = RowKernel::new("map", rows, expr, &storage_of)?;
        let outlets = rk.outlets(sinks)?;
        let depth = rk.depth();
        rk.kb.open(depth);
        let mut streams = (0..expr.leaves.len()).map(|i| rk.leaf(i, true)).collect::<Lowered<Vec<_>>>()?;
        let mut code = Code::default();
        let numbers: Vec<u8> = (0..expr.leaves.len() as u8).collect();
        let value = compile(expr, &mut code, &numbers, Hero::None, &|_| 0)?;
        let elem = expr.nodes.last().ok_or("an empty expression")?.1;
        for outlet in &outlets {
            code.ops.push(SeOp::Store { stream: streams.len() as u8, lane: lane(elem), src: value });
            streams.push(outlet.stream);
        }
        let body = code.take();
        rk.run("map", false, streams, code, Sections { body, ..Sections::default() });
        for outlet in &outlets {
            outlet.store(&mut rk.kb)?;
        }
        self.finish_rows(rk, depth)
    }

    /// `mx_quantize`: the operand's expression is stored to a grouped slot, which the SE quantises by whole groups.
    pub fn quantize(&mut self, result: Value, x: Value, mode: ScaleMode) -> Lowered {
        let expr = self.operand_expression(x)?;
        let elem = expr.nodes.last().ok_or("an empty expression")?.1;
        let ElemType::Grouped { format, axis } = self.func.ty(result).elem else {
            return Err("the result of a quantisation is not grouped".into());
        };
        let walked: Vec<bool> = (0..expr.shape.rank()).map(|d| d == axis as usize).collect();
        let order = expr.leaves.first().map(|l| order_of(&l.place.strides));
        let place = self.allocate_in(result, order);
        let rows = Rows::new(self, &expr, &place.strides, &walked, live_bytes(&expr, 4))?;
        let storages = self.storages.clone();
        let storage_of = |s| storages[s].clone();
        let mut rk = RowKernel::new("quantize", rows, &expr, &storage_of)?;
        let k = rk.rows.dims.len() - 1;
        let (mut out_tile, out_at) = result_tile(&place, &rk.rows.dims, &rk.rows.nest, Some(k));
        // Rows of the result are whole groups; what the operand lacks is +0.
        let slot = out_at[k].ok_or("groups along a repeated dimension")?;
        let padded = rk.rows.dims[k].size.next_multiple_of(u64::from(format.size));
        out_tile.dims[slot] = TileDim::whole(padded, out_tile.dims[slot].stride);
        let grouped = Format::Grouped(format);
        let bytes = KernelBuilder::slot_bytes(grouped, None, out_tile.elements());
        let y = rk.kb.buffer("y", BufferKind::Local, bytes, 2)?;
        let depth = rk.depth();
        rk.kb.open(depth);
        let mut streams = (0..expr.leaves.len()).map(|i| rk.leaf(i, true)).collect::<Lowered<Vec<_>>>()?;
        let dims = stream_dims(&rk.rows.nest, &out_at, &out_tile.slot_strides());
        let view = rk.kb.local(grouped, None, Some(k), &dims)?;
        streams.push(Stream { operand: Operand::new(y, Action::Push, view), mode });
        let mut code = Code::default();
        let numbers: Vec<u8> = (0..expr.leaves.len() as u8).collect();
        let value = compile(&expr, &mut code, &numbers, Hero::None, &|_| 0)?;
        code.ops.push(SeOp::Store { stream: expr.leaves.len() as u8, lane: lane(elem), src: value });
        let body = code.take();
        rk.run("quantize", false, streams, code, Sections { body, ..Sections::default() });
        rk.kb.store(y, &out_tile)?;
        self.finish_rows(rk, depth)?;
        self.places[result] = Some(place);
        Ok(())
    }

    pub(super) fn finish_rows(&mut self, rk: RowKernel<'_>, depth: usize) -> Lowered {
        let popped = rk.popped();
        let mut kb = rk.kb;
        kb.close(depth, &popped);
        let (kernel, bases) = kb.finish(self.target.local_bytes, self.target.bank_bytes)?;
        self.launch(kernel, bases);
        Ok(())
    }
}

/// Strides over the operand's dimensions of a result that lacks the walked ones.
fn spread(strides: &[i64], walked: &[bool]) -> Vec<i64> {
    let mut rest = strides.iter();
    walked.iter().map(|&w| if w { 0 } else { rest.next().copied().unwrap_or(0) }).collect()
}

/// Bytes of local memory per element of the space: two slots of each load and of the result, and `scratch` bytes.
pub(super) fn live_bytes(expr: &Expr, scratch: u64) -> u64 {
    let loads: u64 = expr.leaves.iter().map(|l| u64::from(l.elem.bits().div_ceil(8))).sum();
    2 * (loads + 8) + scratch
}
