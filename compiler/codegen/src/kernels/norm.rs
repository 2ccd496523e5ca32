//! Softmax and norms: reductions of rows, and what they scale.

use lacuna_ir::{Node, Value};
use lacuna_isa::format::{ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, Operand};
use lacuna_isa::object::BufferKind;
use lacuna_isa::program::{Lane, Reg, SeBinary, SeOp, SeReduce, SeUnary, Stream};

use super::map::{result_tile, stream_dims};
use super::rows::{RowKernel, Rows, Sections, load, operand_bytes};
use crate::code::{Code, lane};
use crate::emit::KernelBuilder;
use crate::expr::Leaf;
use crate::lower::Lowering;
use crate::place::{Place, order_of};
use crate::refusal::{Lowered, Refusal};

fn real(code: &mut Code, lane: Lane, value: f64) -> Lowered<Reg> {
    let bits = if lane == Lane::F64 { value.to_bits() } else { u64::from((value as f32).to_bits()) };
    code.constant(lane, bits)
}

/// Bytes of local memory for each element of a softmax's row.
pub fn softmax_bytes(operands: impl Iterator<Item = ScalarType> + Clone) -> u64 {
    let wide = operands.clone().any(|elem| lane(elem) == Lane::F64);
    operand_bytes(operands) + if wide { 32 } else { 16 }
}

/// Bytes of local memory for each element of a norm's row that has quantised copies.
pub fn norm_bytes(operands: impl Iterator<Item = ScalarType> + Clone, n_copies: usize) -> u64 {
    let wide = operands.clone().any(|elem| lane(elem) == Lane::F64);
    operand_bytes(operands) + if wide { 16 } else { 8 } + 4 * n_copies as u64
}

impl Lowering<'_> {
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
            softmax_bytes(expr.leaves.iter().map(|l| l.elem)),
        )?;
        let mut rk =
            RowKernel::new(if log { "log_softmax" } else { "softmax" }, rows, &expr, &self.storages)?;
        let (out_tile, out_at) = result_tile(&place, &rk.rows.dims, &rk.rows.nest, None);
        let out_format = self.storages[place.storage].format;
        let bytes = KernelBuilder::slot_bytes(out_format, None, out_tile.elements());
        let maxima = rk.scratch("max", lane, true)?;
        let shifted = rk.scratch("exp", lane, false)?;
        let sums = rk.scratch("sum", lane, true)?;
        let y = rk.kb.buffer("y", BufferKind::Local, bytes, rk.rows.slots)?;
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
        let (kernel, bases) = rk.finish(self.target, depth)?;
        self.launch(kernel, bases);
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
            let elem =
                self.func.ty(arg).elem.scalar().ok_or(Refusal::Grouped("a grouped scale or bias".into()))?;
            expr.leaves.push(Leaf { place: Place { strides, ..from }, elem, pad: None });
        }
        let walked: Vec<bool> = (0..rank).map(|d| axes.contains(&(d as u8))).collect();
        let order = order_of(&expr.leaves[0].place.strides);
        let mut sinks = self.sinks(result, Some(order));
        let live = norm_bytes(expr.leaves.iter().map(|l| l.elem), sinks.grouped.len());
        let rows = Rows::new(self, &expr, &sinks.plain.strides, &walked, live)?;
        rows.retain(&mut sinks, |axis| axis);
        let n = rows.row_len() as f64;
        let mut rk =
            RowKernel::new(if centre { "layer_norm" } else { "rms_norm" }, rows, &expr, &self.storages)?;
        let means = if centre { Some(rk.scratch("mean", lane, true)?) } else { None };
        let factors = rk.scratch("factor", lane, true)?;
        let outlets = rk.rows.outlets(&mut rk.kb, &sinks, |axis| axis)?;
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
        let (kernel, bases) = rk.finish(self.target, depth)?;
        self.launch(kernel, bases);
        self.take_places(result, sinks);
        Ok(())
    }
}
