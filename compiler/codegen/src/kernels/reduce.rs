//! Reductions of rows.

use lacuna_ir::op::{BinaryOp, ReduceOp};
use lacuna_ir::{Op, Value};
use lacuna_isa::format::{ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, Operand};
use lacuna_isa::object::BufferKind;
use lacuna_isa::program::{Lane, MAX_STREAMS, Reg, SeBinary, SeOp, SeReduce, SeUnary, Stream};

use super::map::{result_tile, stream_dims};
use super::rows::{RowKernel, Rows, Sections, live_bytes, load, row_limit};
use crate::code::{Code, lane};
use crate::emit::KernelBuilder;
use crate::expr::{Expr, ExprNode, Hero, compile};
use crate::ints;
use crate::lower::Lowering;
use crate::refusal::{Lowered, Refusal};
use crate::sinks::Sinks;

impl Lowering<'_> {
    /// `reduce`: the operand's expression is computed on the way in.
    pub fn reduce(&mut self, result: Value, x: Value, op: ReduceOp, axes: &[u8]) -> Lowered {
        if self.func.ty(x).shape.elements() == 0 {
            return self.reduce_nothing(result, op);
        }
        let mut expr = self.operand_expression(x)?;
        let (last, elem) = (
            expr.nodes.len() - 1,
            expr.nodes.last().ok_or(Refusal::Contradiction("an empty expression".into()))?.1,
        );
        if op == ReduceOp::Mean && lane(elem) == Lane::I32 {
            // The sum that is divided may be wider than the elements.
            let wide = Op::Cast { to: ScalarType::I64, saturate: true };
            expr.add(ExprNode::Op(Box::new(wide), vec![last]), ScalarType::I64);
        }
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
        let live = live_bytes(expr, 0);
        let row: u64 = expr.shape.iter().zip(walked).filter(|(_, w)| **w).map(|(n, _)| n).product();
        if row > row_limit(self.target, live) {
            self.places[result] = Some(self.allocate(result));
            return self.reduce_in_tiles(name, result, expr, op, walked);
        }
        let mut sinks = self.sinks(result, None);
        if self.reduce_rows(name, &mut sinks, expr, op, walked).is_err() {
            // Dimensions that neither merge nor fold do in a copy.
            sinks.retain(|_| false);
            let copy = self.rows_copy(name, &sinks.plain, expr, walked)?;
            self.reduce_rows(name, &mut sinks, &copy, op, walked)?;
        }
        self.take_places(result, sinks);
        Ok(())
    }

    /// Reduces rows that fit local memory into the sinks; those that cannot be had are taken out.
    fn reduce_rows(
        &mut self,
        name: &str,
        sinks: &mut Sinks,
        expr: &Expr,
        op: ReduceOp,
        walked: &[bool],
    ) -> Lowered {
        let elem = expr.nodes.last().ok_or(Refusal::Contradiction("an empty expression".into()))?.1;
        let lane = lane(elem);
        if expr.leaves.len() + 1 + sinks.grouped.len() > MAX_STREAMS {
            sinks.retain(|_| false);
        }
        let out_strides = spread(&sinks.plain.strides, walked);
        let axes: Vec<usize> = (0..walked.len()).filter(|&d| !walked[d]).collect();
        let group = sinks.group().map(|(axis, size)| (axes[axis], size));
        let rows = Rows::across_groups(self, expr, (&out_strides, walked), live_bytes(expr, 0), group)?;
        rows.retain(sinks, |axis| axes[axis]);
        let n = rows.row_len();
        let mut rk = RowKernel::new(name, rows, expr, &self.storages)?;
        let outlets = rk.rows.outlets(&mut rk.kb, sinks, |axis| axes[axis])?;
        let depth = rk.depth();
        rk.kb.open(depth);
        let mut streams = (0..expr.leaves.len()).map(|i| rk.leaf(i, true)).collect::<Lowered<Vec<_>>>()?;
        let mut code = Code::default();
        let numbers: Vec<u8> = (0..expr.leaves.len() as u8).collect();
        let value = compile(expr, &mut code, &numbers, Hero::None, &|_| 0)?;
        if matches!(op, ReduceOp::Max | ReduceOp::Min) {
            ints::flip_order(&mut code, elem, value)?;
        }
        code.ops.push(SeOp::Accumulate { f: reducer(op), lane, acc: 0, a: value });
        let body = code.take();
        let total = total(&mut code, op, elem, n)?;
        for outlet in &outlets {
            code.ops.push(SeOp::Store { stream: streams.len() as u8, lane, src: total });
            streams.push(outlet.stream);
        }
        let finish = code.take();
        rk.run(name, true, streams, code, Sections { body, finish, ..Sections::default() });
        for outlet in &outlets {
            outlet.store(&mut rk.kb)?;
        }
        let (kernel, bases) = rk.finish(self.target, depth)?;
        self.launch(kernel, bases);
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
        let mut rk = RowKernel::new("arg_reduce", rows, &expr, &self.storages)?;
        let (out_tile, out_at) = result_tile(&place, &rk.rows.dims, &rk.rows.nest, None);
        let out_format = self.storages[place.storage].format;
        let bytes = KernelBuilder::slot_bytes(out_format, None, out_tile.elements());
        let y = rk.kb.buffer("y", BufferKind::Local, bytes, rk.rows.slots)?;
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
        let walked_dim = rk.rows.view_dim(rk.rows.parallel);
        code.ops.push(SeOp::Coord { dst: here, dim: walked_dim });
        let (a, b) = if max { (best, value) } else { (value, best) };
        let f = if last { SeBinary::Le } else { SeBinary::Lt };
        let better = code.binary(f, lane, a, b)?;
        if lane.is_float() {
            // NaN is an extreme, the first one unless the last is wanted.
            let mut nan = code.unary(SeUnary::IsNan, lane, value)?;
            if !last {
                let before = code.unary(SeUnary::IsNan, lane, best)?;
                let before = code.unary(SeUnary::Not, Lane::I32, before)?;
                nan = code.binary(SeBinary::And, Lane::I32, nan, before)?;
            }
            code.ops.push(SeOp::Binary { f: SeBinary::Or, lane: Lane::I32, dst: better, a: better, b: nan });
        }
        code.ops.push(SeOp::Select { lane, dst: best, c: better, a: value, b: best });
        code.ops.push(SeOp::Select { lane: Lane::I32, dst: at, c: better, a: here, b: at });
        let body = code.take();
        let wide = code.reg()?;
        code.ops.push(SeOp::Convert { from: Lane::I32, to: Lane::I64, dst: wide, a: at });
        code.ops.push(SeOp::Store { stream: 1, lane: Lane::I64, src: wide });
        let finish = code.take();
        rk.run("arg_reduce", true, streams, code, Sections { init, body, finish });
        rk.kb.store(y, &out_tile)?;
        let (kernel, bases) = rk.finish(self.target, depth)?;
        self.launch(kernel, bases);
        self.places[result] = Some(place);
        Ok(())
    }
}

/// The function that accumulators combine by.
pub(super) fn reducer(op: ReduceOp) -> SeReduce {
    match op {
        ReduceOp::Sum | ReduceOp::Mean => SeReduce::Sum,
        ReduceOp::Prod => SeReduce::Prod,
        ReduceOp::Max => SeReduce::Max,
        ReduceOp::Min => SeReduce::Min,
    }
}

/// The result of a reduction of `n` elements of type `elem`, from accumulator 0.
pub(super) fn total(code: &mut Code, op: ReduceOp, elem: ScalarType, n: u64) -> Lowered<Reg> {
    let lane = lane(elem);
    let mut total = code.reg()?;
    code.ops.push(SeOp::Tree { f: reducer(op), lane, dst: total, acc: 0 });
    match op {
        ReduceOp::Mean => {
            let divisor = match lane {
                Lane::F32 => u64::from((n as f32).to_bits()),
                Lane::F64 => (n as f64).to_bits(),
                Lane::I32 | Lane::I64 => n,
            };
            let divisor = code.constant(lane, divisor)?;
            total = match lane.is_float() {
                true => code.binary(SeBinary::Div, lane, total, divisor)?,
                false => ints::binary(code, BinaryOp::Div, elem, total, divisor)?,
            };
        }
        ReduceOp::Max | ReduceOp::Min => ints::flip_order(code, elem, total)?,
        ReduceOp::Sum | ReduceOp::Prod => {}
    }
    Ok(total)
}

/// Strides over the operand's dimensions of a result that lacks the walked ones.
pub(super) fn spread(strides: &[i64], walked: &[bool]) -> Vec<i64> {
    let mut rest = strides.iter();
    walked.iter().map(|&w| if w { 0 } else { rest.next().copied().unwrap_or(0) }).collect()
}
