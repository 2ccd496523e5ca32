//! Sorting: rows in local memory, whose first indices the sorting unit finds and a program takes out of its keys.

use lacuna_ir::Value;
use lacuna_isa::format::{Format, ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, InstKind, Operand};
use lacuna_isa::object::BufferKind;
use lacuna_isa::program::{Lane, Program, SeOp, Stream};
use lacuna_isa::view::VIEW_DIMS;

use super::map::{domain_dims, result_tile, stream_dims};
use super::rows::{RowKernel, Rows, live_bytes, load, operand_bytes};
use super::space::Walk;
use crate::code::Code;
use crate::emit::{DOUBLE, KernelBuilder};
use crate::lower::Lowering;
use crate::refusal::{Lowered, Refusal};

/// Bytes of two slots of keys with indices.
const KEY_BYTES: u64 = 16;

/// Results of a row that one instruction can count.
pub const MOST_SORTED: u64 = u16::MAX as u64;

/// Bytes of local memory for each element of a row that is sorted.
pub fn sort_bytes(operands: impl Iterator<Item = ScalarType>) -> u64 {
    operand_bytes(operands) + KEY_BYTES
}

impl Lowering<'_> {
    /// `sort` along the last dimension.
    pub fn sort(&mut self, result: Value, x: Value, k: u64, descending: bool) -> Lowered {
        let count = u16::try_from(k).map_err(|_| Refusal::Limit(format!("{k} results of a row")))?;
        let (expr, _) = self.copy_of(x)?;
        let last = expr.shape.rank() - 1;
        let walked: Vec<bool> = (0..=last).map(|d| d == last).collect();
        let place = self.allocate(result);
        let mut out_strides = place.strides.clone();
        out_strides[last] = 0;
        let rows = Rows::new(self, &expr, &out_strides, &walked, live_bytes(&expr, KEY_BYTES))?;
        // The results of the same rows.
        let (mut dims, mut nest) = (rows.dims.clone(), rows.nest.clone());
        let along = rows.parallel;
        (dims[along].size, nest.axes[along].size, nest.axes[along].tile) = (k, k, k);
        dims[along].walks[0] = Walk { stride: place.strides[last], origin: 0, bound: k };
        let mut rk = RowKernel::new("sort", rows, &expr, &self.storages)?;
        let (tile, at) = result_tile(&place, &dims, &nest, None);
        let slot = stream_dims(&nest, &at, &tile.slot_strides());
        let elem = Format::Scalar(ScalarType::I64);
        let bytes = KernelBuilder::slot_bytes(elem, None, tile.elements());
        let keys = rk.kb.buffer("keys", BufferKind::Local, bytes, DOUBLE)?;
        let y = rk.kb.buffer("y", BufferKind::Local, bytes, rk.rows.slots)?;
        let depth = rk.depth();
        rk.kb.open(depth);
        let src = rk.leaf(0, true)?.operand;
        let view = rk.kb.local(elem, None, None, &slot)?;
        rk.kb.push(InstKind::Sort { dst: Operand::new(keys, Action::Push, view), src, k: count, descending });
        let mut code = Code::default();
        let key = load(&mut code, Lane::I64, 0)?;
        let (low, index) = (code.reg()?, code.reg()?);
        code.ops.push(SeOp::Convert { from: Lane::I64, to: Lane::I32, dst: low, a: key });
        code.ops.push(SeOp::Convert { from: Lane::I32, to: Lane::I64, dst: index, a: low });
        code.ops.push(SeOp::Store { stream: 1, lane: Lane::I64, src: index });
        let domain = rk.kb.local(Format::F32, None, None, &domain_dims(&nest))?;
        let stream =
            |buffer, action| Stream { operand: Operand::new(buffer, action, view), mode: ScaleMode::Floor };
        rk.kb.run(Program {
            name: "indices".into(),
            domain,
            parallel: VIEW_DIMS as u8,
            streams: vec![stream(keys, Action::Pop), stream(y, Action::Push)],
            body: code.take(),
            constants: code.constants,
            ..Program::default()
        });
        rk.kb.store(y, &tile)?;
        let (kernel, bases) = rk.finish(self.target, depth)?;
        self.launch(kernel, bases);
        self.places[result] = Some(place);
        Ok(())
    }
}
