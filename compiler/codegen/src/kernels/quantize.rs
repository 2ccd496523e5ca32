//! Quantisation: element-wise expressions that are stored in groups.

use lacuna_ir::{ElemType, Value};
use lacuna_isa::format::{Format, ScaleMode};
use lacuna_isa::inst::{Action, Operand};
use lacuna_isa::object::BufferKind;
use lacuna_isa::program::{MAX_STREAMS, SeOp, Stream};

use super::map::{result_tile, stream_dims};
use super::rows::{RowKernel, Rows, Sections, live_bytes};
use crate::code::{Code, lane};
use crate::emit::KernelBuilder;
use crate::expr::{Expr, Hero, compile};
use crate::lower::Lowering;
use crate::nest::TileDim;
use crate::place::order_of;
use crate::refusal::{Lowered, Refusal};
use crate::sinks::Sinks;

impl Lowering<'_> {
    /// An element-wise expression whose result is quantised in the same kernel, in tiles of whole groups.
    pub fn map_rows(&mut self, expr: &Expr, sinks: &mut Sinks) -> Lowered {
        let live = live_bytes(expr, 4 + 4 * sinks.grouped.len() as u64);
        // Every group size is a power of two, so the greatest is a multiple of all.
        let unit = sinks.grouped.iter().map(|g| u64::from(g.format.size)).max().unwrap_or(1);
        let axis = sinks.grouped.first().map_or(expr.shape.rank(), |g| g.axis);
        let rows = match Rows::in_groups(self, expr, &sinks.plain.strides, axis, unit, live) {
            Ok(rows) if expr.leaves.len() + 1 + sinks.grouped.len() <= MAX_STREAMS => rows,
            // Rows that are too long, or too many operands: the copies get kernels of their own.
            Ok(_) | Err(_) => {
                sinks.retain(|_| false);
                return self.map("map", expr, &sinks.plain.clone());
            }
        };
        rows.retain(sinks, |axis| axis);
        let mut rk = RowKernel::new("map", rows, expr, &self.storages)?;
        let outlets = rk.rows.outlets(&mut rk.kb, sinks, |axis| axis)?;
        let depth = rk.depth();
        rk.kb.open(depth);
        let mut streams = (0..expr.leaves.len()).map(|i| rk.leaf(i, true)).collect::<Lowered<Vec<_>>>()?;
        let mut code = Code::default();
        let numbers: Vec<u8> = (0..expr.leaves.len() as u8).collect();
        let value = compile(expr, &mut code, &numbers, Hero::None, &|_| 0)?;
        let elem = expr.nodes.last().ok_or(Refusal::Contradiction("an empty expression".into()))?.1;
        for outlet in &outlets {
            code.ops.push(SeOp::Store { stream: streams.len() as u8, lane: lane(elem), src: value });
            streams.push(outlet.stream);
        }
        let body = code.take();
        rk.run("map", false, streams, code, Sections { body, ..Sections::default() });
        for outlet in &outlets {
            outlet.store(&mut rk.kb)?;
        }
        let (kernel, bases) = rk.finish(self.target, depth)?;
        self.launch(kernel, bases);
        Ok(())
    }

    /// `mx_quantize`: the operand's expression is stored to a grouped slot, which the SE quantises by whole groups.
    pub fn quantize(&mut self, result: Value, x: Value, mode: ScaleMode) -> Lowered {
        let expr = self.operand_expression(x)?;
        let elem = expr.nodes.last().ok_or(Refusal::Contradiction("an empty expression".into()))?.1;
        let ElemType::Grouped { format, axis } = self.func.ty(result).elem else {
            return Err(Refusal::Grouped("the result of a quantisation is not grouped".into()));
        };
        let (axis, group) = (usize::from(axis), u64::from(format.size));
        let order = expr.leaves.first().map(|l| order_of(&l.place.strides));
        let place = self.allocate_in(result, order);
        let rows = Rows::in_groups(self, &expr, &place.strides, axis, group, live_bytes(&expr, 4))?;
        let mut rk = RowKernel::new("quantize", rows, &expr, &self.storages)?;
        let k = rk.rows.dims.len() - 1;
        let (mut out_tile, out_at) = result_tile(&place, &rk.rows.dims, &rk.rows.nest, Some(k));
        // Rows of the result are whole groups; what the operand lacks is +0.
        let slot = out_at[k].ok_or(Refusal::Grouped("groups along a repeated dimension".into()))?;
        let tile = &mut out_tile.dims[slot];
        *tile = TileDim {
            size: tile.size.next_multiple_of(group),
            bound: tile.bound.next_multiple_of(group),
            ..tile.clone()
        };
        let grouped = Format::Grouped(format);
        let bytes = KernelBuilder::slot_bytes(grouped, None, out_tile.elements());
        let y = rk.kb.buffer("y", BufferKind::Local, bytes, rk.rows.slots)?;
        let depth = rk.depth();
        rk.kb.open(depth);
        let mut streams = (0..expr.leaves.len()).map(|i| rk.leaf(i, true)).collect::<Lowered<Vec<_>>>()?;
        let dims = stream_dims(&rk.rows.nest, &out_at, &out_tile.slot_strides());
        let view = rk.kb.local(grouped, None, Some(dims.len() - 1), &dims)?;
        streams.push(Stream { operand: Operand::new(y, Action::Push, view), mode });
        let mut code = Code::default();
        let numbers: Vec<u8> = (0..expr.leaves.len() as u8).collect();
        let value = compile(&expr, &mut code, &numbers, Hero::None, &|_| 0)?;
        code.ops.push(SeOp::Store { stream: expr.leaves.len() as u8, lane: lane(elem), src: value });
        let body = code.take();
        rk.run("quantize", false, streams, code, Sections { body, ..Sections::default() });
        rk.kb.store(y, &out_tile)?;
        let (kernel, bases) = rk.finish(self.target, depth)?;
        self.launch(kernel, bases);
        self.places[result] = Some(place);
        Ok(())
    }
}
