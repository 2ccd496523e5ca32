//! Emitting products on the DPE: operands resident or reloaded as their advances demand, accumulation over chunks of K in
//! a bank, the epilogue, the store.

use lacuna_ir::{Node, Op};
use lacuna_isa::format::{Format, ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, Fill, InstKind, Operand, Order};
use lacuna_isa::object::BufferKind;
use lacuna_isa::program::{Lane, Program, SeOp, Stream};
use lacuna_isa::view::VIEW_DIMS;

use super::problem::{PANEL, Problem, ResultDim, Role, Second};
use super::product_tiles::{Plan, choose};
use super::product_time::Stored;
use super::sparse::{BlockFlags, Form};
use crate::emit::{DOUBLE, KernelBuilder, LocalDim, Tile, free};
use crate::expr::{Code, Expr, Hero, compile, lane};
use crate::lower::{Lowered, Lowering};
use crate::nest::{Axis, TileDim};
use crate::place::StorageId;
use crate::sinks::{GroupedSink, Outlet, Sinks};

impl Lowering<'_> {
    /// Emits the product `hero` with epilogue `expr` into the sinks; those that cannot be had are taken out.
    pub fn product(&mut self, hero: Node, expr: &Expr, sinks: &mut Sinks) -> Lowered {
        let out = &sinks.plain.clone();
        let data = &self.func.nodes[hero];
        let result = self.func.ty(data.results[0]).elem.scalar().ok_or("a grouped product")?;
        if lane(result) != Lane::F32 {
            return Err(format!("products in {result} are not implemented"));
        }
        // The form that takes the least time; of equal ones the sparsest.
        let mut best: Option<(f64, Problem, Plan)> = None;
        let mut refusal: Option<String> = None;
        let result = Stored { storage: out.storage, element_bytes: sinks.element_bytes() };
        for form in self.forms(hero) {
            let problem = match &data.op {
                Op::Contract { map, .. } => self.contract_problem(hero, map, expr, out, form),
                Op::Conv { attrs, .. } => self.conv_problem(hero, attrs, expr, out, form),
                op => return Err(format!("`{}` is not a product", op.name())),
            };
            let planned = problem.and_then(|problem| {
                let (time, plan) = choose(&problem, expr, &result, self)?;
                Ok((time, problem, plan))
            });
            match planned {
                Ok(found) if best.as_ref().is_none_or(|(time, ..)| found.0 < *time) => best = Some(found),
                Ok(_) => {}
                Err(reason) => refusal = Some(reason),
            }
        }
        let Some((_, problem, plan)) = best else {
            return Err(refusal.unwrap_or_else(|| "a product without a form".to_owned()));
        };
        sinks.retain(|sink| groups_fit(&problem, &plan, sink).is_some());
        self.emit_product(&problem, &plan, expr, sinks)
    }

    fn emit_product(&mut self, problem: &Problem, plan: &Plan, expr: &Expr, sinks: &Sinks) -> Lowered {
        let storages = self.storages.clone();
        let storage_of = |s| storages[s].clone();
        let name = if problem.dims.iter().any(|d| d.window.is_some()) { "conv" } else { "contract" };
        let mut kb = KernelBuilder::new(name, plan.nest.clone(), &storage_of);
        let k_axis = plan.k_axis();
        let chunked = plan.nest.axes[k_axis].trip > 1;
        let depth = kb.n_loops() - usize::from(chunked);

        let (a_tile, a_at) = first_tile(problem, plan);
        kb.inner_slots = plan.slots;
        let a = kb.load("a", &a_tile, Fill::Zero, None, None)?;
        let (b_tile, b_order) = second_tile(problem, plan);
        let a_view = self.first_view(&mut kb, problem, plan, &a_tile, &a_at)?;
        let flags = match (&problem.form, &problem.flags) {
            (Form::Active, _) => Some(kb.flags(a, a_view, plan.chunk)?),
            (Form::Blocks, Some(flags)) => {
                Some(kb.load("set", &flags_tile(problem, plan, flags), Fill::Zero, None, None)?)
            }
            (Form::Dense | Form::Pattern(_) | Form::Compressed | Form::Blocks, _) => None,
        };
        let b = match (flags, b_tile.k_dim) {
            (Some(flags), Some(k)) if problem.form == Form::Active => {
                kb.load_active("b", &b_tile, k, flags)?
            }
            _ => kb.load("b", &b_tile, Fill::Zero, None, None)?,
        };
        let n_dims = problem.dims.len();
        let axes = kb.nest.axes.clone();
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

        // The tile's dimensions as the epilogue sees them: rows, then columns.
        let order: Vec<usize> = (0..n_dims).filter(|&d| problem.dims[d].role != Role::Batch).collect();
        let tile_size = |d: usize| axes[d].tile * problem.unit(d);
        let clip = |d: usize| TileDim {
            axis: Some((d, problem.unit(d) as i64)),
            size: tile_size(d),
            stride: 0,
            origin: 0,
            bound: problem.dims[d].space.size,
        };
        let mut bank_dims = Vec::new();
        let mut stride = (m * n) as i64;
        for &d in &order {
            stride /= tile_size(d) as i64;
            bank_dims.push(LocalDim { size: tile_size(d), stride, clip: None });
        }
        let bank_view = kb.local(Format::F32, None, None, &bank_dims)?;
        let view_of = |at: &[Option<usize>], strides: &[i64]| -> Vec<LocalDim> {
            order.iter().map(|&d| free(tile_size(d), at[d].map_or(0, |s| strides[s]))).collect()
        };
        kb.inner_slots = if chunked { DOUBLE } else { plan.slots };
        let mut outlets = Vec::new();
        if sinks.keeps_plain {
            let (tile, at) = epilogue_tile(problem, plan, sinks.plain.storage, sinks.plain.offset, 0, true);
            let (format, dims) = (storages[tile.storage].format, view_of(&at, &tile.slot_strides()));
            outlets.push(Outlet::new(&mut kb, tile, format, ScaleMode::Floor, None, &dims)?);
        }
        for sink in &sinks.grouped {
            let (mut tile, at) = epilogue_tile(problem, plan, sink.place.storage, sink.place.offset, 0, true);
            let along = groups_fit(problem, plan, sink).ok_or("groups that tiles cut")?;
            tile.k_dim = at[along];
            let k = order.iter().position(|&d| d == along);
            let dims = view_of(&at, &tile.slot_strides());
            outlets.push(Outlet::new(&mut kb, tile, Format::Grouped(sink.format), sink.mode, k, &dims)?);
        }

        kb.open(depth);
        let bank_action = if chunked {
            kb.push(InstKind::Zero { bank: Operand::new(bank, Action::Push, bank_view) });
            kb.open_loop(depth + 1);
            Action::Update
        } else {
            Action::Push
        };
        let inner = depth + usize::from(chunked);
        let b_view = self.second_view(&mut kb, problem, plan, &b_tile, b_order)?;
        let a_action = kb.last_read(a, inner);
        let b_action = kb.last_read(b, inner);
        let bank_op = Operand::new(bank, bank_action, bank_view);
        let a_op = Operand::new(kb.loaded(a).buffer, a_action, a_view);
        let b_op = Operand::new(kb.loaded(b).buffer, b_action, b_view);
        let mut read = vec![(a, a_action), (b, b_action)];
        let mut mask = None;
        if let Some(flags) = flags {
            let view = self.flags_view(&mut kb, problem, plan)?;
            let action = kb.last_read(flags, inner);
            read.push((flags, action));
            mask = Some(Operand::new(kb.loaded(flags).buffer, action, view));
        }
        let (a_read, b_read) = (a_op, b_op);
        kb.push(match (problem.form, mask) {
            (Form::Blocks, Some(mask)) => {
                InstKind::Mmblk { bank: bank_op, a: a_read, b: b_read, mask, order: b_order }
            }
            (Form::Active, Some(mask)) => {
                InstKind::Mmact { bank: bank_op, a: a_read, b: b_read, mask, order: b_order }
            }
            (Form::Pattern(_), _) => InstKind::Mmnm { bank: bank_op, a: a_read, b: b_read, order: b_order },
            (Form::Dense | Form::Compressed | Form::Blocks | Form::Active, _) => {
                InstKind::Mm { bank: bank_op, a: a_read, b: b_read, order: b_order }
            }
        });
        let mut popped: Vec<usize> =
            read.iter().filter(|(_, x)| *x == Action::Pop).map(|(load, _)| *load).collect();
        if chunked {
            kb.close_loop(depth + 1, &popped);
        }

        if let ([outlet], true) = (&outlets[..], expr.is_copy() && sinks.grouped.is_empty()) {
            kb.push(InstKind::Drain {
                dst: outlet.stream.operand,
                bank: Operand::new(bank, Action::Pop, bank_view),
            });
        } else {
            let mut streams = Vec::new();
            for (load, at, elem) in &loads {
                let dims = view_of(at, &kb.loaded(*load).strides.clone());
                let view = kb.local(Format::Scalar(*elem), None, None, &dims)?;
                let action = kb.last_read(*load, depth);
                if action == Action::Pop {
                    popped.push(*load);
                }
                let operand = Operand::new(kb.loaded(*load).buffer, action, view);
                streams.push(Stream { operand, mode: ScaleMode::Floor });
            }
            let hero = streams.len() as u8;
            streams
                .push(Stream { operand: Operand::new(bank, Action::Pop, bank_view), mode: ScaleMode::Floor });
            streams.extend(outlets.iter().map(|o| o.stream));
            let mut code = Code::default();
            let numbers: Vec<u8> = (0..loads.len() as u8).collect();
            let value = compile(expr, &mut code, &numbers, Hero::Stream(hero), &|_| 0)?;
            let elem = expr.nodes.last().ok_or("an empty expression")?.1;
            for (stream, _) in (hero + 1..).zip(&outlets) {
                code.ops.push(SeOp::Store { stream, lane: lane(elem), src: value });
            }
            let domain_dims: Vec<LocalDim> = order
                .iter()
                .map(|&d| LocalDim { size: tile_size(d), stride: 0, clip: Some(clip(d)) })
                .collect();
            let domain = kb.local(Format::F32, None, None, &domain_dims)?;
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
        for outlet in &outlets {
            outlet.store(&mut kb)?;
        }
        kb.close(depth, &popped);
        let (kernel, bases) = kb.finish(self.target.local_bytes, self.target.bank_bytes)?;
        self.launch(kernel, bases);
        Ok(())
    }

    /// The first operand as the DPE reads it: (row, row, k, k, k).
    fn first_view(
        &self,
        kb: &mut KernelBuilder<'_>,
        problem: &Problem,
        plan: &Plan,
        tile: &Tile,
        at: &FirstAt,
    ) -> Lowered<u16> {
        let strides = tile.slot_strides();
        let mut dims = Vec::new();
        for (d, dim) in problem.dims.iter().enumerate() {
            if dim.role != Role::Row {
                continue;
            }
            let slot = at.rows[d].map_or(0, |s| strides[s]);
            let stride = dim.window.map_or(slot, |w| slot * w.step);
            let clip = TileDim::follow(&plan.nest.axes, d, 0);
            dims.push(LocalDim { size: plan.nest.axes[d].tile, stride, clip: Some(clip) });
        }
        while dims.len() < 2 {
            dims.insert(0, free(1, 0));
        }
        let mut k_dims = Vec::new();
        for (i, k) in problem.summed.iter().enumerate() {
            let slot = at.summed[i].map_or(0, |s| strides[s]);
            let window = problem.dims.iter().find_map(|d| d.window.filter(|w| k.window && w.k == i));
            let stride = window.map_or(slot, |w| slot * w.dilation);
            k_dims.push(free(plan.chunk_of(problem, i), stride));
        }
        while k_dims.len() < 3 {
            k_dims.insert(0, free(1, 0));
        }
        dims.extend(k_dims);
        Ok(kb.local(problem.a_format, None, Some(4), &dims)?)
    }

    /// The second operand as the DPE reads it: (n, k, k, k, n) or (n, n, k, k, k).
    fn second_view(
        &self,
        kb: &mut KernelBuilder<'_>,
        problem: &Problem,
        plan: &Plan,
        tile: &Tile,
        order: Order,
    ) -> Lowered<u16> {
        let strides = tile.slot_strides();
        let n_k = problem.summed.len();
        let k_at = |first: usize| -> Vec<LocalDim> {
            let mut dims: Vec<LocalDim> =
                (0..n_k).map(|i| free(plan.chunk_of(problem, i), strides[first + i])).collect();
            while dims.len() < 3 {
                dims.insert(0, free(1, 0));
            }
            dims
        };
        let batches = tile.dims.len() - n_k - if matches!(problem.b, Second::Panels(_)) { 2 } else { 1 };
        let column =
            problem.dims.iter().rposition(|d| d.role == Role::Column).ok_or("a product without columns")?;
        let tile_n = plan.nest.axes[column].tile;
        let follow = TileDim::follow(&plan.nest.axes, column, 0);
        let dims = match (&problem.b, order) {
            (Second::Panels(_), _) => {
                let panels = LocalDim { size: tile_n, stride: strides[0], clip: Some(follow) };
                let mut dims = vec![panels];
                dims.extend(k_at(1));
                dims.push(free(PANEL, 1));
                dims
            }
            (Second::Dense(..), Order::Kn) => {
                let mut dims = vec![free(1, 0)];
                dims.extend(k_at(batches));
                dims.push(LocalDim { size: tile_n, stride: 1, clip: Some(follow) });
                dims
            }
            (Second::Dense(..), Order::Nk) => {
                let n = LocalDim { size: tile_n, stride: strides[batches], clip: Some(follow) };
                let mut dims = vec![free(1, 0), n];
                dims.extend(k_at(batches + 1));
                dims
            }
        };
        let k_dim = match order {
            Order::Kn => 3,
            Order::Nk => 4,
        };
        Ok(kb.local(problem.b_format, problem.form.pattern(), Some(k_dim), &dims)?)
    }

    /// The flags of a masked product: of blocks (n, k, k, k, 1), or of every k (1, 1, k, k, k).
    fn flags_view(&self, kb: &mut KernelBuilder<'_>, problem: &Problem, plan: &Plan) -> Lowered<u16> {
        let flags = Format::Scalar(ScalarType::Bool);
        let Some(blocks) = &problem.flags else {
            return Ok(kb.local(flags, None, None, &[free(plan.chunk, 1)])?);
        };
        let tile = flags_tile(problem, plan, blocks);
        let strides = tile.slot_strides();
        let column =
            problem.dims.iter().rposition(|d| d.role == Role::Column).ok_or("a product without columns")?;
        let follow = TileDim::follow(&plan.nest.axes, column, 0);
        let mut dims = vec![LocalDim { size: tile.dims[0].size, stride: strides[0], clip: Some(follow) }];
        dims.extend((tile.dims.len()..VIEW_DIMS - 1).map(|_| free(1, 0)));
        dims.extend(tile.dims.iter().zip(&strides).skip(1).map(|(d, &stride)| free(d.size, stride)));
        dims.push(free(1, 0));
        Ok(kb.local(flags, None, None, &dims)?)
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

/// Where each dimension of the problem lies in the first operand's box.
pub struct FirstAt {
    rows: Vec<Option<usize>>,
    summed: Vec<Option<usize>>,
}

/// The first operand's box: batch and rows (windows with their halo), then summed dimensions, widest stride first.
pub fn first_tile(problem: &Problem, plan: &Plan) -> (Tile, FirstAt) {
    let axes = &plan.nest.axes;
    let mut found: Vec<(TileDim, Option<usize>, Vec<usize>)> = Vec::new();
    let a_walk = |d: &ResultDim| d.space.walks[d.space.walks.len() - 2];
    for (d, dim) in problem.dims.iter().enumerate() {
        let walk = a_walk(dim);
        if dim.role == Role::Column || (walk.stride == 0 && dim.window.is_none()) {
            continue;
        }
        let tile = match dim.window {
            None => TileDim {
                axis: Some((d, 1)),
                size: axes[d].tile,
                stride: walk.stride,
                origin: 0,
                bound: walk.bound,
            },
            Some(w) => TileDim {
                axis: Some((d, w.step)),
                size: ((axes[d].tile as i64 - 1) * w.step + (w.taps as i64 - 1) * w.dilation + 1) as u64,
                stride: walk.stride,
                origin: -w.low,
                bound: w.extent,
            },
        };
        found.push((tile, Some(d), dim.window.iter().map(|w| w.k).collect()));
    }
    let k_axis = plan.k_axis();
    for (i, k) in problem.summed.iter().enumerate() {
        if k.window {
            continue;
        }
        let axis = (i == problem.chunk.0).then_some((k_axis, Plan::k_unit(problem) as i64));
        let size = plan.chunk_of(problem, i);
        found.push((TileDim { axis, size, stride: k.a, origin: 0, bound: k.a_bound }, None, vec![i]));
    }
    found.sort_by_key(|(t, ..)| std::cmp::Reverse(t.stride.unsigned_abs()));
    let mut at = FirstAt { rows: vec![None; problem.dims.len()], summed: vec![None; problem.summed.len()] };
    for (slot, (_, row, ks)) in found.iter().enumerate() {
        if let Some(d) = row {
            at.rows[*d] = Some(slot);
        }
        for &k in ks {
            at.summed[k] = Some(slot);
        }
    }
    let inner_k = at.summed.last().copied().flatten();
    let dims = found.into_iter().map(|(t, ..)| t).collect();
    (Tile { storage: problem.a.storage, offset: problem.a.offset, dims, k_dim: inner_k }, at)
}

/// The box of the flags of the second operand's blocks: panels, then summed dimensions, the innermost in blocks.
pub fn flags_tile(problem: &Problem, plan: &Plan, flags: &BlockFlags) -> Tile {
    let axes = &plan.nest.axes;
    let column = problem.dims.iter().rposition(|d| d.role == Role::Column);
    let mut dims: Vec<TileDim> = column
        .map(|d| TileDim {
            axis: Some((d, 1)),
            size: axes[d].tile,
            stride: flags.place.strides[0],
            origin: 0,
            bound: axes[d].size,
        })
        .into_iter()
        .collect();
    let last = problem.summed.len() - 1;
    let blocks = |i: usize, n: u64| if i == last { n / flags.k } else { n };
    let mut stride = flags.place.strides[0];
    for (i, k) in problem.summed.iter().enumerate() {
        stride /= blocks(i, k.size) as i64;
        dims.push(TileDim {
            axis: (i == problem.chunk.0).then_some((plan.k_axis(), 1)),
            size: blocks(i, plan.chunk_of(problem, i)),
            stride,
            origin: 0,
            bound: blocks(i, k.size),
        });
    }
    Tile { storage: flags.place.storage, offset: flags.place.offset, dims, k_dim: None }
}

/// The second operand's box: panels, or batch dimensions with columns and summed dimensions in the DPE's order.
pub fn second_tile(problem: &Problem, plan: &Plan) -> (Tile, Order) {
    let axes = &plan.nest.axes;
    let k_axis = plan.k_axis();
    let summed: Vec<TileDim> = problem
        .summed
        .iter()
        .enumerate()
        .map(|(i, k)| TileDim {
            axis: (i == problem.chunk.0).then_some((k_axis, Plan::k_unit(problem) as i64)),
            size: plan.chunk_of(problem, i),
            stride: k.b,
            origin: 0,
            bound: k.size,
        })
        .collect();
    let column = problem.dims.iter().rposition(|d| d.role == Role::Column);
    match &problem.b {
        Second::Panels(place) => {
            let mut dims = Vec::new();
            dims.extend(column.map(|d| TileDim {
                axis: Some((d, 1)),
                size: axes[d].tile,
                stride: place.strides[0],
                origin: 0,
                bound: axes[d].size,
            }));
            let k_dim = Some(dims.len() + summed.len() - 1);
            dims.extend(summed);
            dims.push(TileDim::whole(PANEL, 1));
            (Tile { storage: place.storage, offset: place.offset, dims, k_dim }, Order::Kn)
        }
        Second::Dense(place, order) => {
            let walk = |d: usize| problem.dims[d].space.walks[problem.dims[d].space.walks.len() - 1];
            let mut dims: Vec<TileDim> = (0..problem.dims.len())
                .filter(|&d| problem.dims[d].role == Role::Batch && walk(d).stride != 0)
                .map(|d| TileDim {
                    axis: Some((d, 1)),
                    size: 1,
                    stride: walk(d).stride,
                    origin: 0,
                    bound: walk(d).bound,
                })
                .collect();
            let columns = column.map(|d| TileDim {
                axis: Some((d, 1)),
                size: axes[d].tile,
                stride: walk(d).stride,
                origin: 0,
                bound: walk(d).bound,
            });
            let k_dim;
            match order {
                Order::Kn => {
                    dims.extend(summed);
                    k_dim = dims.len() - 1;
                    dims.extend(columns);
                }
                Order::Nk => {
                    dims.extend(columns);
                    dims.extend(summed);
                    k_dim = dims.len() - 1;
                }
            }
            (Tile { storage: place.storage, offset: place.offset, dims, k_dim: Some(k_dim) }, *order)
        }
    }
}

/// The box of the result or of a load of the epilogue. The result keeps all dimensions; a load leaves out those it repeats
/// along and is ordered by its own strides.
pub fn epilogue_tile(
    problem: &Problem,
    plan: &Plan,
    storage: StorageId,
    offset: i64,
    operand: usize,
    result: bool,
) -> (Tile, Vec<Option<usize>>) {
    let axes: &[Axis] = &plan.nest.axes;
    let stride = |d: usize| problem.dims[d].space.walks[operand].stride;
    let mut order: Vec<usize> = (0..problem.dims.len())
        .filter(|&d| stride(d) != 0 || (result && problem.dims[d].space.size > 1))
        .collect();
    order.sort_by_key(|&d| std::cmp::Reverse(stride(d).unsigned_abs()));
    let mut at = vec![None; problem.dims.len()];
    let mut dims = Vec::new();
    for &d in &order {
        at[d] = Some(dims.len());
        let walk = problem.dims[d].space.walks[operand];
        let unit = problem.unit(d);
        dims.push(TileDim {
            axis: Some((d, unit as i64)),
            size: axes[d].tile * unit,
            stride: walk.stride,
            origin: 0,
            bound: walk.bound,
        });
    }
    (Tile { storage, offset, dims, k_dim: None }, at)
}
