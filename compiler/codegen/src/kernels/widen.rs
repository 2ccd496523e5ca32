//! Constants that are stored as codes with scales per block: a product widens each tile of them in local memory, so that codes
//! and scales are all that crosses the port. Whatever else reads such a constant has it widened as a whole by a kernel of its
//! own.

use lacuna_ir::op::BinaryOp;
use lacuna_ir::{Blocked, ConstId, ConstantData, Op, Shape, Value};
use lacuna_isa::format::{Format, ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, Fill, Operand};
use lacuna_isa::program::{Lane, Program, SeBinary, SeOp, Stream};
use lacuna_isa::timing::op_slots;
use lacuna_isa::view::VIEW_DIMS;

use super::problem::{Problem, Role, Second, Shared, Widen};
use super::product_plan::Plan;
use super::sparse::Form;
use crate::code::{Code, lane_bits};
use crate::emit::{KernelBuilder, Tile, free};
use crate::expr::{Expr, ExprId, ExprNode, Leaf};
use crate::lower::Lowering;
use crate::nest::TileDim;
use crate::place::{PANEL, Place};
use crate::refusal::{Lowered, Refusal};

impl Widen {
    /// Blocks of a tile, and elements of each for one column.
    fn tile_blocks(&self, problem: &Problem, plan: &Plan) -> (u64, u64) {
        let sizes: Vec<u64> = (0..problem.summed.len()).map(|i| plan.chunk_of(problem, i)).collect();
        let all = sizes.iter().product();
        let block = match sizes.last() {
            Some(&last) if !self.whole => self.blocks[sizes.len() - 1].min(last),
            _ => all,
        };
        (plan.panels(problem) * all / block.max(1), block)
    }

    /// The box of scales or zeros that a tile of codes needs: panels, then blocks of summed dimensions.
    fn shared_tile(&self, problem: &Problem, plan: &Plan, place: &Place, strides: &[i64]) -> Tile {
        let axes = &plan.nest.axes;
        let mut dims = Vec::new();
        dims.extend(problem.dims.iter().rposition(|d| d.role == Role::Column).map(|d| TileDim {
            axis: Some((d, 1)),
            size: axes[d].tile,
            stride: place.strides[0],
            origin: 0,
            bound: axes[d].size,
        }));
        for (i, k) in problem.summed.iter().enumerate().filter(|_| !self.whole) {
            let size = plan.chunk_of(problem, i);
            let block = self.blocks[i].min(k.size);
            let moves = i == problem.chunk.0 && block < k.size;
            dims.push(TileDim {
                axis: moves.then_some((plan.k_axis(), (plan.chunk / block) as i64)),
                size: size.div_ceil(block),
                stride: strides[i],
                origin: 0,
                bound: k.b_bound.div_ceil(block),
            });
        }
        dims.push(TileDim::whole(PANEL, 1));
        Tile { storage: place.storage, offset: place.offset, dims, k_dim: None }
    }

    /// The boxes of scales and zeros that a tile of codes needs.
    pub fn shared_tiles(&self, problem: &Problem, plan: &Plan) -> Vec<Tile> {
        let shared = [Some(&self.scales), self.zeros.as_ref()].into_iter().flatten();
        let tile = |shared: &Shared| match shared {
            Shared::Panels { place, strides, .. } => Some(self.shared_tile(problem, plan, place, strides)),
            Shared::One(_) => None,
        };
        shared.filter_map(tile).collect()
    }

    /// The program: for each column of each block, scale and zero once, then code by code. Streams are scales, zeros, codes, result.
    fn code(&self) -> Lowered<[Code; 2]> {
        let mut init = Code::default();
        let mut stream = 0;
        let mut shared = |init: &mut Code, shared: &Shared| match shared {
            Shared::Panels { .. } => {
                let dst = init.reg()?;
                init.ops.push(SeOp::Load { dst, lane: Lane::F32, stream });
                stream += 1;
                Ok::<_, Refusal>(dst)
            }
            &Shared::One(bits) => init.constant(Lane::F32, bits),
        };
        let scale = shared(&mut init, &self.scales)?;
        let zero = self.zeros.as_ref().map(|zeros| shared(&mut init, zeros)).transpose()?;
        let value = init.reg()?;
        let mut body = Code::default();
        let lane = Lane::F32;
        body.ops.push(SeOp::Load { dst: value, lane, stream });
        if let Some(b) = zero {
            body.ops.push(SeOp::Binary { f: SeBinary::Sub, lane, dst: value, a: value, b });
        }
        body.ops.push(SeOp::Binary { f: SeBinary::Mul, lane, dst: value, a: value, b: scale });
        // The last type is that of the slot, to which a store rounds.
        let before = &self.rounds[..self.rounds.len().saturating_sub(1)];
        for ty in before.iter().filter(|&&ty| ty != ScalarType::F32) {
            let format = *ty as u8;
            body.ops.push(SeOp::RoundTo { format, saturate: false, lane, dst: value, a: value });
        }
        body.ops.push(SeOp::Store { stream: stream + 1, lane, src: value });
        Ok([init, body])
    }

    /// Elements, operations for each of them and bytes of local memory that widening a tile takes.
    pub fn work(&self, problem: &Problem, plan: &Plan, elements: u64) -> (u64, u64, u64) {
        let ops = self.code().map_or(0, |[_, body]| body.ops.iter().map(op_slots).sum());
        let (_, block) = self.tile_blocks(problem, plan);
        let bits = self.codes.bits() + problem.b_format.element().bits();
        // Scales and zeros are read once for each block.
        let bytes = elements * u64::from(bits) / 8 + 8 * elements / block.max(1);
        (elements, ops, bytes)
    }

    /// Plans loads of codes, scales and zeros, and the program that makes a tile of them: its number among the loads, and those of
    /// the loads that it frees.
    pub fn emit(
        &self,
        kb: &mut KernelBuilder<'_>,
        problem: &Problem,
        plan: &Plan,
        codes: &Tile,
    ) -> Lowered<(usize, Vec<usize>)> {
        let mut loads = Vec::new();
        for tile in self.shared_tiles(problem, plan) {
            loads.push(kb.load("scale", &tile, Fill::Zero, None, None)?);
        }
        loads.push(kb.load("q", codes, Fill::Zero, None, None)?);
        let (blocks, block) = self.tile_blocks(problem, plan);
        let run = (block * PANEL) as i64;
        let each = [free(blocks, PANEL as i64), free(PANEL, 1), free(1, 0)];
        let all = [free(blocks, run), free(PANEL, 1), free(block, PANEL as i64)];
        let [init, body] = self.code()?;
        let bytes = KernelBuilder::slot_bytes(problem.b_format, None, codes.elements());
        let shared = [Some(&self.scales), self.zeros.as_ref()].into_iter().flatten();
        let mut formats: Vec<Format> = shared
            .filter_map(|shared| match shared {
                Shared::Panels { elem, .. } => Some(Format::Scalar(*elem)),
                Shared::One(_) => None,
            })
            .collect();
        formats.push(Format::Scalar(self.codes));
        let mut freed = Vec::new();
        let made = kb.make("b", bytes, codes.slot_strides(), &loads, |kb, buffer, depth| {
            let mut streams = Vec::new();
            for (i, (&load, &format)) in loads.iter().zip(&formats).enumerate() {
                let dims = if i + 1 == loads.len() { &all } else { &each };
                let view = kb.local(format, None, None, dims)?;
                let action = kb.last_read(load, depth);
                if action == Action::Pop {
                    freed.push(load);
                }
                let operand = Operand::new(kb.loaded(load).buffer, action, view);
                streams.push(Stream { operand, mode: ScaleMode::Floor });
            }
            let view = kb.local(problem.b_format, None, None, &all)?;
            let operand = Operand::new(buffer, Action::Push, view);
            streams.push(Stream { operand, mode: ScaleMode::Floor });
            Ok(Program {
                name: "dequantize".into(),
                domain: kb.local(Format::F32, None, None, &all)?,
                parallel: VIEW_DIMS as u8 - 1,
                streams,
                init: init.ops,
                body: body.ops,
                constants: init.constants,
                ..Program::default()
            })
        })?;
        Ok((made, freed))
    }
}

impl Lowering<'_> {
    /// Panels of codes for a second operand whose columns and summed dimensions are `axes`, the strides of the summed dimensions, and
    /// how they are widened; `None` where blocks do not lie as the program walks them.
    pub(super) fn code_panels(
        &mut self,
        blocked: &Blocked,
        [columns, summed]: [Vec<u8>; 2],
        n: u64,
    ) -> Lowered<Option<(Second, Vec<i64>, Widen)>> {
        let ty = &self.module.constants[blocked.codes].ty;
        let codes = ty.elem.scalar().ok_or(Refusal::Grouped("codes in groups".into()))?;
        let size = |d: u8| ty.shape[usize::from(d)];
        let block = |d: u8| blocked.blocks[usize::from(d)];
        let sizes: Vec<u64> = summed.iter().map(|&d| size(d)).collect();
        let blocks: Vec<u64> = summed.iter().map(|&d| block(d)).collect();
        let whole = summed.iter().all(|&d| block(d) >= size(d));
        let outer = &summed[..summed.len().saturating_sub(1)];
        let fits = columns.iter().all(|&d| block(d) == 1 || size(d) == 1)
            && (whole || outer.iter().all(|&d| block(d) == 1 || size(d) == 1));
        if !fits {
            return Ok(None);
        }
        let each: Vec<u64> = sizes.iter().zip(&blocks).map(|(s, &b)| s.div_ceil(b)).collect();
        let axes = [columns, summed];
        let scales = self.shared(blocked.scales, &axes, n, &each)?;
        let zeros = blocked.zeros.map(|id| self.shared(id, &axes, n, &each)).transpose()?;
        let (second, strides, _) =
            self.panels(blocked.codes, axes, Format::Scalar(codes), n, &sizes, Form::Dense)?;
        let rounds = blocked.rounds.clone();
        Ok(Some((second, strides, Widen { codes, scales, zeros, blocks, rounds, whole })))
    }

    /// Scales or zeros in panels.
    fn shared(&mut self, id: ConstId, axes: &[Vec<u8>; 2], n: u64, each: &[u64]) -> Lowered<Shared> {
        let constant = &self.module.constants[id];
        let elem = constant.ty.elem.scalar().ok_or(Refusal::Grouped("scales in groups".into()))?;
        if let ConstantData::Splat(code) = constant.data {
            let value =
                if elem.is_float() { elem.decode(code) } else { lane_bits(elem, code) as u32 as i32 as f64 };
            return Ok(Shared::One(u64::from((value as f32).to_bits())));
        }
        let (second, strides, _) =
            self.panels(id, axes.clone(), Format::Scalar(elem), n, each, Form::Dense)?;
        match second {
            Second::Panels(place) => Ok(Shared::Panels { place, strides, elem }),
            Second::Dense(..) => Err(Refusal::Form("scales that are no panels".into())),
        }
    }

    /// A place for the elements of a constant in codes, which kernels widen: blocks of full size, and the short ones behind them.
    pub(crate) fn widened(&mut self, value: Value, blocked: &Blocked) -> Lowered<Place> {
        let shape = self.func.ty(value).shape.clone();
        let place = self.allocate(value);
        // Along each dimension the first index, the number of blocks, and elements of a block.
        let parts = |(&size, &block): (&u64, &u64)| {
            let block = block.min(size).max(1);
            let (whole, rest) = (size / block, size % block);
            let mut parts = vec![(0, whole, block)];
            parts.extend((rest > 0).then_some((whole * block, 1, rest)));
            parts
        };
        let along: Vec<Vec<(u64, u64, u64)>> = shape.iter().zip(&blocked.blocks).map(parts).collect();
        let mut picks = vec![Vec::new()];
        for parts in &along {
            picks =
                picks.iter().flat_map(|p: &Vec<_>| parts.iter().map(|&x| [&p[..], &[x]].concat())).collect();
        }
        for pick in picks {
            self.widen_part(blocked, &place, &pick)?;
        }
        Ok(place)
    }

    /// Widens a box of blocks: along each dimension `(first, blocks, elements of each)`.
    fn widen_part(&mut self, blocked: &Blocked, out: &Place, pick: &[(u64, u64, u64)]) -> Lowered {
        let mut each = Place { strides: Vec::new(), ..out.clone() };
        let mut space = Vec::new();
        // Dimensions of one block, or of blocks of one element, are one dimension of the space.
        let mut split = Vec::new();
        for (d, &(first, n, block)) in pick.iter().enumerate() {
            each.offset += first as i64 * out.strides[d];
            for (size, step, is_block) in [(n, block, true), (block, 1, false)] {
                if size > 1 || (n == 1 && block == 1 && is_block) {
                    space.push(size);
                    each.strides.push(step as i64 * out.strides[d]);
                    split.push((d, step, is_block));
                }
            }
        }
        let mut expr = Expr::new(Shape(space));
        let mut leaf = |this: &mut Self, id: ConstId, by_block: bool| -> Lowered<ExprId> {
            let ty = this.module.constants[id].ty.clone();
            let elem = ty.elem.scalar().ok_or(Refusal::Grouped("codes in groups".into()))?;
            let whole = this.const_place(id)?;
            let mut place = Place { strides: Vec::new(), ..whole.clone() };
            for (d, &(first, ..)) in pick.iter().enumerate() {
                let first = if by_block { first / blocked.blocks[d] } else { first };
                place.offset += first as i64 * whole.strides[d];
            }
            for &(d, step, is_block) in &split {
                let stride = whole.strides[d];
                place.strides.push(match (by_block, is_block) {
                    (true, true) => stride,
                    (true, false) => 0,
                    (false, _) => step as i64 * stride,
                });
            }
            let leaf = expr.leaf(Leaf { place, elem, pad: None });
            let cast = Op::Cast { to: ScalarType::F32, saturate: true };
            Ok(if elem == ScalarType::F32 {
                leaf
            } else {
                expr.add(ExprNode::Op(Box::new(cast), vec![leaf]), ScalarType::F32)
            })
        };
        let mut value = leaf(self, blocked.codes, false)?;
        let zero = blocked.zeros.map(|id| leaf(self, id, true)).transpose()?;
        let scale = leaf(self, blocked.scales, true)?;
        let mut binary = |op: BinaryOp, a: ExprId, b: ExprId| {
            expr.add(ExprNode::Op(Box::new(Op::Binary { op }), vec![a, b]), ScalarType::F32)
        };
        if let Some(zero) = zero {
            value = binary(BinaryOp::Sub, value, zero);
        }
        value = binary(BinaryOp::Mul, value, scale);
        let mut from = ScalarType::F32;
        for &to in blocked.rounds.iter() {
            if to != from {
                value = expr.add(ExprNode::Op(Box::new(Op::Cast { to, saturate: true }), vec![value]), to);
                from = to;
            }
        }
        self.map("dequantize", &expr, &each)
    }
}
