//! Running reductions: a row kernel that carries its total in a register and stores it at each step.

use lacuna_ir::Value;
use lacuna_ir::op::ReduceOp;
use lacuna_isa::format::{ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, Operand};
use lacuna_isa::object::BufferKind;
use lacuna_isa::program::{Lane, SeBinary, SeOp, Stream};

use super::map::{result_tile, stream_dims};
use super::rows::{RowKernel, Rows, Sections, live_bytes, load};
use crate::code::{Code, lane};
use crate::emit::KernelBuilder;
use crate::lower::Lowering;
use crate::place::Place;
use crate::refusal::{Lowered, Refusal};

/// The operation of a running reduction and the bits that it starts from.
fn step(op: ReduceOp, lane: Lane) -> Lowered<(SeBinary, u64)> {
    let one = match lane {
        Lane::F32 => u64::from(1f32.to_bits()),
        Lane::F64 => 1f64.to_bits(),
        Lane::I32 | Lane::I64 => 1,
    };
    match op {
        ReduceOp::Sum => Ok((SeBinary::Add, 0)),
        ReduceOp::Prod => Ok((SeBinary::Mul, one)),
        ReduceOp::Mean | ReduceOp::Max | ReduceOp::Min => {
            Err(Refusal::Unimplemented(format!("a running {} is not implemented", op.name())))
        }
    }
}

impl Lowering<'_> {
    /// `cumulate` along `axis`.
    pub fn cumulate(
        &mut self,
        result: Value,
        x: Value,
        op: ReduceOp,
        axis: u8,
        (exclusive, reverse): (bool, bool),
    ) -> Lowered {
        let (mut expr, _) = self.copy_of(x)?;
        let elem: ScalarType = expr.leaves[0].elem;
        let lane = lane(elem);
        let (f, start) = step(op, lane)?;
        let (shape, axis) = (expr.shape.clone(), axis as usize);
        let order: Vec<usize> = (0..shape.rank()).collect();
        // From the end: the operand is read backwards into a tensor that is then read backwards.
        let backwards = |place: Place| -> Place {
            let mut strides = place.strides;
            let last = strides[axis] * (shape[axis] as i64 - 1);
            strides[axis] = -strides[axis];
            Place { storage: place.storage, offset: place.offset + last, strides }
        };
        let place = if reverse {
            let leaf = &mut expr.leaves[0].place;
            *leaf = backwards(leaf.clone());
            self.temporary(elem, &shape, &order)
        } else {
            self.allocate(result)
        };
        let walked: Vec<bool> = (0..shape.rank()).map(|d| d == axis).collect();
        let rows = Rows::new(self, &expr, &place.strides, &walked, live_bytes(&expr, 0))?;
        let mut rk = RowKernel::new("cumulate", rows, &expr, &self.storages)?;
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
        let mut code = Code::default();
        let total = code.constant(lane, start)?;
        let init = code.take();
        let value = load(&mut code, lane, 0)?;
        let store = SeOp::Store { stream: 1, lane, src: total };
        let add = SeOp::Binary { f, lane, dst: total, a: total, b: value };
        code.ops.extend(if exclusive { [store, add] } else { [add, store] });
        let body = code.take();
        rk.run("cumulate", true, streams, code, Sections { init, body, ..Sections::default() });
        rk.kb.store(y, &out_tile)?;
        let (kernel, bases) = rk.finish(self.target, depth)?;
        self.launch(kernel, bases);
        self.places[result] = Some(if reverse { self.settle(result, backwards(place))? } else { place });
        Ok(())
    }

    /// The place of a result that was computed elsewhere: a copy where the result leaves the entry.
    pub fn settle(&mut self, result: Value, computed: Place) -> Lowered<Place> {
        if !self.is_output(result) {
            return Ok(computed);
        }
        let ty = self.func.ty(result).clone();
        let elem = ty
            .elem
            .scalar()
            .ok_or(Refusal::Grouped("a grouped value cannot be copied element by element".into()))?;
        let place = self.allocate(result);
        self.copy(&ty.shape, elem, computed, &place)?;
        Ok(place)
    }
}
