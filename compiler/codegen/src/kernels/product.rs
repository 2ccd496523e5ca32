//! Emitting products on the DPE: operands resident or reloaded as their advances demand, accumulation over chunks of K in
//! a bank, the epilogue, the store.

use lacuna_ir::{Node, Op, Value};
use lacuna_isa::format::{Format, ScaleMode};
use lacuna_isa::inst::{Action, Fill, InstKind, Operand};
use lacuna_isa::object::BufferKind;
use lacuna_isa::program::{Lane, MAX_STREAMS, Program, SeOp, Stream};
use lacuna_isa::view::VIEW_DIMS;

use super::problem::{Problem, ResultDim, Role};
use super::product_plan::{Plan, result_slots};
use super::product_tiles::choose;
use super::product_time::Stored;
use super::product_views::{
    epilogue_tile, first_tile, first_view, flags_tile, flags_view, index_tile, second_tile, second_view,
};
use super::sparse::Form;
use crate::code::{Code, lane};
use crate::emit::{KernelBuilder, LocalDim, Tile, free};
use crate::expr::{Expr, Hero, compile};
use crate::lower::Lowering;
use crate::nest::TileDim;
use crate::refusal::{Lowered, Refusal};
use crate::sinks::{GroupedSink, Outlet, Sinks};

impl Lowering<'_> {
    /// Emits the product `hero` with epilogue `expr` into the sinks; those that cannot be had are taken out.
    pub fn product(&mut self, hero: Node, expr: &Expr, sinks: &mut Sinks) -> Lowered {
        let out = &sinks.plain.clone();
        let data = &self.func.nodes[hero];
        let result = self
            .func
            .ty(data.results[0])
            .elem
            .scalar()
            .ok_or(Refusal::Grouped("a grouped product".into()))?;
        if lane(result) != Lane::F32 {
            return Err(Refusal::Unimplemented(format!("products in {result} are not implemented")));
        }
        // The form that takes the least time; of nearly equal ones the sparsest, which moves fewer bytes.
        let mut found: Vec<(f64, Problem, Plan)> = Vec::new();
        let mut refusal: Option<Refusal> = None;
        let result = Stored {
            storage: out.storage,
            element_bytes: sinks.element_bytes(),
            stored_bytes: sinks.stored_bytes(self.storages[out.storage].format),
        };
        for form in self.forms(hero) {
            let problem = match &data.op {
                Op::Contract { map, .. } => self.contract_problem(hero, map, expr, out, form),
                Op::Conv { attrs, .. } => self.conv_problem(hero, attrs, expr, out, form),
                op => return Err(Refusal::Unimplemented(format!("`{}` is not a product", op.name()))),
            };
            let planned = problem.and_then(|problem| {
                let (time, plan) = choose(&problem, expr, &result, self)?;
                Ok((time, problem, plan))
            });
            match planned {
                Ok(planned) => found.push(planned),
                Err(reason) => refusal = Some(reason),
            }
        }
        let (problem, plan) = loop {
            let better = |best: usize, i: usize| if found[i].0 < found[best].0 * MARGIN { i } else { best };
            let Some(best) = (0..found.len()).reduce(better) else {
                return Err(
                    refusal.unwrap_or_else(|| Refusal::Contradiction("a product without a form".into()))
                );
            };
            let (_, mut problem, plan) = found.remove(best);
            // Only a layout tells whether its records are too large.
            match self.lay_out_blocks(&mut problem, &plan) {
                Ok(()) => break (problem, plan),
                Err(reason) => refusal = Some(reason),
            }
        };
        sinks.retain(|sink| groups_fit(&problem, &plan, sink).is_some());
        if expr.leaves.len() + 1 + usize::from(sinks.keeps_plain) + sinks.grouped.len() > MAX_STREAMS {
            sinks.retain(|_| false);
        }
        self.emit_product(&problem, &plan, expr, sinks)?;
        let macs = self.macs(hero);
        self.launches.last_mut().into_iter().for_each(|launch| launch.macs = macs);
        Ok(())
    }

    fn emit_product(&mut self, problem: &Problem, plan: &Plan, expr: &Expr, sinks: &Sinks) -> Lowered {
        let name = if problem.dims.iter().any(|d| d.window.is_some()) { "conv" } else { "contract" };
        let mut kb = KernelBuilder::new(name, plan.nest.clone(), &self.storages);
        let k_axis = plan.k_axis();
        let chunked = plan.nest.axes[k_axis].trip > 1;
        let depth = kb.n_loops() - usize::from(chunked);

        let (a_tile, a_at) = first_tile(problem, plan);
        kb.inner_slots = plan.slots;
        let a = kb.load("a", &a_tile, Fill::Zero, None, None)?;
        let (b_tile, b_order) = second_tile(problem, plan);
        let a_view = first_view(&mut kb, problem, plan, &a_tile, &a_at)?;
        let flags = match (&problem.form, &problem.flags) {
            (Form::Active, _) => {
                // Stores of an innermost loop take a stage.
                let late = if chunked { 2 } else { 1 };
                Some(kb.flags(a, a_view, plan.chunk, late)?)
            }
            (Form::Blocks, Some(flags)) => {
                Some(kb.load("set", &flags_tile(problem, plan, flags), Fill::Zero, None, None)?)
            }
            (Form::Dense | Form::Pattern(_) | Form::Compressed | Form::Blocks, _) => None,
        };
        let mut freed = Vec::new();
        let b = match (flags, b_tile.k_dim, &problem.widen) {
            (Some(flags), Some(k), _) if problem.form == Form::Active => {
                kb.load_active("b", &b_tile, k, flags)?
            }
            (_, _, Some(widen)) => {
                let (b, sources) = widen.emit(&mut kb, problem, plan, &b_tile)?;
                freed = sources;
                b
            }
            _ => kb.load_at("b", &b_tile, index_tile(problem).as_ref())?,
        };
        let mut loads = Vec::new();
        for (i, leaf) in expr.leaves.iter().enumerate() {
            let (tile, at) =
                epilogue_tile(problem, plan, leaf.place.storage, leaf.place.offset, i + 1, false);
            let load = kb.load("e", &tile, Fill::Zero, None, None)?;
            loads.push((load, at, leaf.elem));
        }
        let (m, n) = (plan.rows(problem), plan.columns(problem));
        let bank_bytes = m * n * 4;
        let banks = if bank_bytes * 2 <= self.target.bank_bytes { 2 } else { 1 };
        let bank = kb.buffer("acc", BufferKind::Bank, bank_bytes, banks)?;

        let epilogue = Epilogue::new(problem, plan);
        let bank_view = kb.local(Format::F32, None, None, &epilogue.bank_dims())?;
        kb.inner_slots = result_slots(chunked, plan.pieces, plan.slots);
        let mut outlets = Vec::new();
        if sinks.keeps_plain {
            let (tile, at) = epilogue_tile(problem, plan, sinks.plain.storage, sinks.plain.offset, 0, true);
            let format = self.storages[tile.storage].format;
            outlets.push(epilogue.outlet(&mut kb, tile, &at, format, ScaleMode::Floor, None)?);
        }
        for sink in &sinks.grouped {
            let (tile, at) = epilogue_tile(problem, plan, sink.place.storage, sink.place.offset, 0, true);
            let along =
                groups_fit(problem, plan, sink).ok_or(Refusal::Grouped("groups that tiles cut".into()))?;
            let format = Format::Grouped(sink.format);
            outlets.push(epilogue.outlet(&mut kb, tile, &at, format, sink.mode, Some(along))?);
        }

        // The bank of the next tile is cleared before this one leaves, which may wait for memory.
        let zero = InstKind::Zero { bank: Operand::new(bank, Action::Push, bank_view) };
        let ahead = chunked && banks > 1 && depth > 0;
        if ahead {
            kb.push(zero);
        }
        kb.open(depth);
        let bank_action = if chunked {
            if !ahead {
                kb.push(zero);
            }
            kb.open_loop(depth + 1);
            Action::Update
        } else {
            Action::Push
        };
        let inner = depth + usize::from(chunked);
        let b_view = second_view(&mut kb, problem, plan, &b_tile, b_order)?;
        let a_action = kb.last_read(a, inner);
        let b_action = kb.last_read(b, inner);
        let bank_op = Operand::new(bank, bank_action, bank_view);
        let a_op = Operand::new(kb.loaded(a).buffer, a_action, a_view);
        let b_op = Operand::new(kb.loaded(b).buffer, b_action, b_view);
        let mut read = vec![(a, a_action), (b, b_action)];
        let mut mask = None;
        if let Some(flags) = flags {
            let view = flags_view(&mut kb, problem, plan)?;
            let action = kb.last_read(flags, inner);
            read.push((flags, action));
            mask = Some(Operand::new(kb.loaded(flags).buffer, action, view));
        }
        kb.push(match (problem.form, mask) {
            (Form::Blocks, Some(mask)) => {
                InstKind::Mmblk { bank: bank_op, a: a_op, b: b_op, mask, order: b_order, packed: true }
            }
            (Form::Active, Some(mask)) => {
                InstKind::Mmact { bank: bank_op, a: a_op, b: b_op, mask, order: b_order }
            }
            (Form::Pattern(_), _) => InstKind::Mmnm { bank: bank_op, a: a_op, b: b_op, order: b_order },
            (Form::Dense | Form::Compressed | Form::Blocks | Form::Active, _) => {
                InstKind::Mm { bank: bank_op, a: a_op, b: b_op, order: b_order }
            }
        });
        let mut popped = freed;
        popped.extend(read.iter().filter(|(_, x)| *x == Action::Pop).map(|(load, _)| *load));
        if chunked {
            kb.close_loop(depth + 1, &popped);
        }
        if ahead {
            kb.push(zero);
        }

        let copies = expr.is_copy() && sinks.grouped.is_empty();
        for piece in 0..plan.pieces {
            let last = piece + 1 == plan.pieces;
            let action = if last { Action::Pop } else { Action::Read };
            let bank_view = epilogue.piece_of(&mut kb, Format::F32, piece, &epilogue.bank_dims())?;
            let bank = Operand::new(bank, action, bank_view);
            if let ([(outlet, _)], true) = (&outlets[..], copies) {
                kb.push(InstKind::Drain { dst: outlet.stream.operand, bank });
            } else {
                let mut streams = Vec::new();
                for (load, at, elem) in &loads {
                    let dims = epilogue.view_of(at, &kb.loaded(*load).strides.clone());
                    let view = epilogue.piece_of(&mut kb, Format::Scalar(*elem), piece, &dims)?;
                    let pops = last && kb.last_read(*load, depth) == Action::Pop;
                    if pops {
                        popped.push(*load);
                    }
                    let action = if pops { Action::Pop } else { Action::Read };
                    let operand = Operand::new(kb.loaded(*load).buffer, action, view);
                    streams.push(Stream { operand, mode: ScaleMode::Floor });
                }
                let hero = streams.len() as u8;
                streams.push(Stream { operand: bank, mode: ScaleMode::Floor });
                streams.extend(outlets.iter().map(|(outlet, _)| outlet.stream));
                let mut code = Code::default();
                let numbers: Vec<u8> = (0..loads.len() as u8).collect();
                let value = compile(expr, &mut code, &numbers, Hero::Stream(hero), &|_| 0)?;
                let elem = expr.nodes.last().ok_or(Refusal::Contradiction("an empty expression".into()))?.1;
                for (stream, _) in (hero + 1..).zip(&outlets) {
                    code.ops.push(SeOp::Store { stream, lane: lane(elem), src: value });
                }
                let domain = kb.local(Format::F32, None, None, &epilogue.domain(piece))?;
                kb.run(Program {
                    name: "epilogue".into(),
                    domain,
                    parallel: VIEW_DIMS as u8,
                    streams,
                    body: code.take(),
                    constants: code.constants,
                    ..Program::default()
                });
            }
            for (outlet, cut) in &outlets {
                outlet.store_from(&mut kb, cut.map(|dim| (dim, epilogue.start(piece) as i64)))?;
            }
        }
        kb.close(depth, &popped);
        if ahead {
            kb.push(InstKind::Pop { n: 1, buffer: bank });
        }
        let (kernel, bases) = kb.finish(self.target.local_bytes, self.target.bank_bytes)?;
        self.launch(kernel, bases);
        Ok(())
    }

    /// Multiply-accumulates of a product of the IR.
    fn macs(&self, product: Node) -> u64 {
        let data = &self.func.nodes[product];
        let shape = |value: Value| &self.func.ty(value).shape;
        let (a, b) = (shape(data.args[0]), shape(data.args[1]));
        let terms = match &data.op {
            Op::Contract { map, .. } => {
                let size = |label: &u8| map.a.iter().position(|l| l == label).map_or(1, |d| a[d]);
                map.summed().iter().map(size).product()
            }
            Op::Conv { attrs, .. } => b.elements() / b[usize::from(attrs.w[0])].max(1),
            _ => 0,
        };
        shape(data.results[0]).elements().saturating_mul(terms)
    }
}

/// What a denser form must save to be taken: models of time err by more.
const MARGIN: f64 = 0.98;
/// What happens to a tile of the result: it leaves the bank in pieces of rows, so that it may be as large as the bank while
/// local memory belongs to the operands.
struct Epilogue<'p> {
    problem: &'p Problem,
    plan: &'p Plan,
    /// The tile's dimensions as the epilogue sees them: rows, then columns.
    order: Vec<usize>,
}

impl Epilogue<'_> {
    fn new<'p>(problem: &'p Problem, plan: &'p Plan) -> Epilogue<'p> {
        let order = (0..problem.dims.len()).filter(|&d| problem.dims[d].role != Role::Batch).collect();
        Epilogue { problem, plan, order }
    }

    fn size(&self, d: usize) -> u64 {
        self.plan.nest.axes[d].tile * self.problem.unit(d)
    }

    /// Rows of a piece.
    fn piece(&self) -> u64 {
        self.plan.cut(self.problem).map_or(1, |d| self.size(d) / self.plan.pieces)
    }

    /// First row of a piece within the tile.
    fn start(&self, piece: u64) -> u64 {
        piece * self.piece()
    }

    /// Position of the dimension that is cut among `order`.
    fn cut(&self) -> Option<usize> {
        let cut = self.plan.cut(self.problem).filter(|_| self.plan.pieces > 1)?;
        self.order.iter().position(|&d| d == cut)
    }

    /// The whole tile in its bank.
    fn bank_dims(&self) -> Vec<LocalDim> {
        let mut stride: i64 = self.order.iter().map(|&d| self.size(d) as i64).product();
        let dims = self.order.iter().map(|&d| {
            stride /= self.size(d) as i64;
            free(self.size(d), stride)
        });
        dims.collect()
    }

    /// The whole tile in a slot whose dimensions lie `at`.
    fn view_of(&self, at: &[Option<usize>], strides: &[i64]) -> Vec<LocalDim> {
        self.order.iter().map(|&d| free(self.size(d), at[d].map_or(0, |s| strides[s]))).collect()
    }

    /// The view of a piece of what `dims` see whole.
    fn piece_of(
        &self,
        kb: &mut KernelBuilder<'_>,
        format: Format,
        piece: u64,
        dims: &[LocalDim],
    ) -> Lowered<u16> {
        let mut dims = dims.to_vec();
        let mut offset = 0;
        if let Some(cut) = self.cut() {
            offset = self.start(piece) as i64 * dims[cut].stride;
            dims[cut].size = self.piece();
        }
        kb.local_at(format, None, None, offset, &dims)
    }

    /// The coordinates of a piece.
    fn domain(&self, piece: u64) -> Vec<LocalDim> {
        let dims = self.order.iter().enumerate().map(|(i, &d)| {
            let cut = self.cut() == Some(i);
            let size = if cut { self.piece() } else { self.size(d) };
            let clip = TileDim {
                axis: Some((d, self.problem.unit(d) as i64)),
                size,
                stride: 0,
                origin: if cut { self.start(piece) as i64 } else { 0 },
                bound: self.problem.dims[d].space.size,
            };
            LocalDim { size, stride: 0, clip: Some(clip) }
        });
        dims.collect()
    }

    /// A buffer for pieces of the box `tile`, whose dimensions lie `at`, and which of them is cut; groups run along
    /// dimension `along` of the problem.
    fn outlet(
        &self,
        kb: &mut KernelBuilder<'_>,
        mut tile: Tile,
        at: &[Option<usize>],
        format: Format,
        mode: ScaleMode,
        along: Option<usize>,
    ) -> Lowered<(Outlet, Option<usize>)> {
        let cut = self
            .cut()
            .map(|i| at[self.order[i]].ok_or(Refusal::Contradiction("a row that is not stored".into())))
            .transpose()?;
        if let Some(dim) = cut {
            tile.dims[dim].size = self.piece();
        }
        tile.k_dim = along.and_then(|d| at[d]);
        let mut dims = self.view_of(at, &tile.slot_strides());
        if let Some(i) = self.cut() {
            dims[i].size = self.piece();
        }
        let k = along.and_then(|along| self.order.iter().position(|&d| d == along));
        Ok((Outlet::new(kb, tile, format, mode, k, &dims)?, cut))
    }
}

/// The dimension of the problem that the groups of a sink run along, if every tile consists of whole groups.
fn groups_fit(problem: &Problem, plan: &Plan, sink: &GroupedSink) -> Option<usize> {
    let innermost = |d: &ResultDim| {
        d.role == Role::Column
            && d.space.logical.last() == Some(&sink.axis)
            && d.space.walks.first().is_some_and(|w| w.stride == 1)
    };
    let along = problem.dims.iter().position(innermost)?;
    let axis = &plan.nest.axes[along];
    let tile = axis.tile * problem.unit(along);
    let size = u64::from(sink.format.size);
    let whole = tile.is_multiple_of(size) && problem.dims[along].space.size.is_multiple_of(size);
    whole.then_some(along)
}
