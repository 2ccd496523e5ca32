//! The boxes that a product's kernel moves, and its operands as the DPE reads them.

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::Order;
use lacuna_isa::view::VIEW_DIMS;

use super::problem::{BlockFlags, Problem, ResultDim, Role, Second};
use super::product_plan::Plan;
use super::sparse::Form;
use crate::emit::{KernelBuilder, LocalDim, Tile, free};
use crate::nest::{Axis, TileDim};
use crate::place::{PANEL, StorageId};
use crate::refusal::{Lowered, Refusal};

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
        let axis = (i == problem.chunk.0).then_some((k_axis, plan.chunk as i64));
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
            axis: (i == problem.chunk.0).then_some((plan.k_axis(), blocks(i, plan.chunk) as i64)),
            size: blocks(i, plan.chunk_of(problem, i)),
            stride,
            origin: 0,
            bound: blocks(i, k.size),
        });
    }
    Tile { storage: flags.place.storage, offset: flags.place.offset, dims, k_dim: None }
}

/// The second operand's box: panels, the set blocks of panels, or batch dimensions with columns and summed dimensions in the DPE's order.
pub fn second_tile(problem: &Problem, plan: &Plan) -> (Tile, Order) {
    let axes = &plan.nest.axes;
    let k_axis = plan.k_axis();
    let summed: Vec<TileDim> = problem
        .summed
        .iter()
        .enumerate()
        .map(|(i, k)| TileDim {
            axis: (i == problem.chunk.0).then_some((k_axis, plan.chunk as i64)),
            size: plan.chunk_of(problem, i),
            stride: k.b,
            origin: 0,
            bound: k.b_bound,
        })
        .collect();
    let column = problem.dims.iter().rposition(|d| d.role == Role::Column);
    match &problem.b {
        Second::Panels(place) if problem.form == Form::Blocks => {
            let slot = plan.room * plan.block(problem);
            let mut dims = Vec::new();
            dims.extend(column.map(|d| TileDim {
                axis: Some((d, 1)),
                size: 1,
                stride: plan.tile_stride(problem) as i64,
                origin: 0,
                bound: axes[d].size,
            }));
            dims.push(TileDim {
                axis: Some((k_axis, 1)),
                size: 1,
                stride: slot as i64,
                origin: 0,
                bound: axes[k_axis].size,
            });
            let k_dim = Some(dims.len());
            dims.push(TileDim::whole(slot / PANEL, PANEL as i64));
            dims.push(TileDim::whole(PANEL, 1));
            (Tile { storage: place.storage, offset: place.offset, dims, k_dim }, Order::Kn)
        }
        Second::Panels(place) => {
            let mut dims = second_batch(problem);
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
            let mut dims = second_batch(problem);
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

/// The leading dimensions of the second operand's box, one element each: the batch, or the matrix that is picked.
fn second_batch(problem: &Problem) -> Vec<TileDim> {
    match &problem.pick {
        Some(pick) => {
            let mut dims =
                vec![TileDim { axis: None, size: 1, stride: pick.stride, origin: 0, bound: pick.bound }];
            dims.extend(second_moves(problem, |d| d.apart));
            dims
        }
        None => second_moves(problem, |_| true),
    }
}

/// Those dimensions of the batch that move the second operand, or its indices.
fn second_moves(problem: &Problem, which: impl Fn(&ResultDim) -> bool) -> Vec<TileDim> {
    let walk = |d: &ResultDim| d.space.walks[d.space.walks.len() - 1];
    let moves = |d: &ResultDim| d.role == Role::Batch && walk(d).stride != 0 && which(d);
    let batch = problem.dims.iter().enumerate().filter(|(_, d)| moves(d));
    let dim = |(d, dim)| TileDim {
        axis: Some((d, 1)),
        size: 1,
        stride: walk(dim).stride,
        origin: 0,
        bound: walk(dim).bound,
    };
    batch.map(dim).collect()
}

/// The box of the index that picks the second operand, where it is picked.
pub fn index_tile(problem: &Problem) -> Option<Tile> {
    let pick = problem.pick.as_ref()?;
    let dims = second_moves(problem, |d| !d.apart);
    Some(Tile { storage: pick.storage, offset: pick.offset, dims, k_dim: None })
}

/// The axes that move the second operand's box, as a box.
pub fn moved_second(problem: &Problem, mut tile: Tile) -> Tile {
    if problem.pick.is_some() {
        tile.dims.splice(..1, second_moves(problem, |d| !d.apart));
    }
    tile
}

/// The box of the result or of a load of the epilogue. The result keeps all dimensions, also a single column, which a tile
/// computes a whole panel for; a load leaves out those it repeats along and is ordered by its own strides.
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
        .filter(|&d| stride(d) != 0 || (result && problem.dims[d].space.size.max(problem.unit(d)) > 1))
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

/// The first operand as the DPE reads it: (row, row, k, k, k).
pub fn first_view(
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
    kb.local(problem.a_format, None, Some(4), &dims)
}

/// The second operand as the DPE reads it: (n, k, k, k, n) or (n, n, k, k, k), or set blocks (block, 1, 1, k, n).
pub fn second_view(
    kb: &mut KernelBuilder<'_>,
    problem: &Problem,
    plan: &Plan,
    tile: &Tile,
    order: Order,
) -> Lowered<u16> {
    if problem.form == Form::Blocks {
        let block = plan.block(problem);
        let rows = free(block / PANEL, PANEL as i64);
        let dims = [free(plan.room, block as i64), free(1, 0), free(1, 0), rows, free(PANEL, 1)];
        return kb.local(problem.b_format, None, Some(3), &dims);
    }
    let strides = tile.slot_strides();
    let n_k = problem.summed.len();
    let k_at = |first: usize| -> Vec<LocalDim> {
        // What is padded to whole blocks is widened to anything.
        let dim = |i: usize| {
            let (k, size) = (&problem.summed[i], plan.chunk_of(problem, i));
            let axis = (i == problem.chunk.0).then_some((plan.k_axis(), plan.chunk as i64));
            let clip = TileDim { axis, size, stride: 0, origin: 0, bound: k.b_bound };
            LocalDim { size, stride: strides[first + i], clip: (k.b_bound < k.size).then_some(clip) }
        };
        let mut dims: Vec<LocalDim> = (0..n_k).map(dim).collect();
        while dims.len() < 3 {
            dims.insert(0, free(1, 0));
        }
        dims
    };
    let batches = tile.dims.len() - n_k - if matches!(problem.b, Second::Panels(_)) { 2 } else { 1 };
    let column = problem
        .dims
        .iter()
        .rposition(|d| d.role == Role::Column)
        .ok_or(Refusal::Contradiction("a product without columns".into()))?;
    let tile_n = plan.nest.axes[column].tile;
    let follow = TileDim::follow(&plan.nest.axes, column, 0);
    let dims = match (&problem.b, order) {
        (Second::Panels(_), _) => {
            let panels = LocalDim { size: tile_n, stride: strides[batches], clip: Some(follow) };
            let mut dims = vec![panels];
            dims.extend(k_at(batches + 1));
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
    kb.local(problem.b_format, problem.form.pattern(), Some(k_dim), &dims)
}

/// The flags of a masked product: of blocks (n, k, k, k, 1), or of every k (1, 1, k, k, k).
pub fn flags_view(kb: &mut KernelBuilder<'_>, problem: &Problem, plan: &Plan) -> Lowered<u16> {
    let flags = Format::Scalar(ScalarType::Bool);
    let Some(blocks) = &problem.flags else {
        return kb.local(flags, None, None, &[free(plan.chunk, 1)]);
    };
    let tile = flags_tile(problem, plan, blocks);
    let strides = tile.slot_strides();
    let column = problem
        .dims
        .iter()
        .rposition(|d| d.role == Role::Column)
        .ok_or(Refusal::Contradiction("a product without columns".into()))?;
    let follow = TileDim::follow(&plan.nest.axes, column, 0);
    let mut dims = vec![LocalDim { size: tile.dims[0].size, stride: strides[0], clip: Some(follow) }];
    dims.extend((tile.dims.len()..VIEW_DIMS - 1).map(|_| free(1, 0)));
    dims.extend(tile.dims.iter().zip(&strides).skip(1).map(|(d, &stride)| free(d.size, stride)));
    dims.push(free(1, 0));
    kb.local(flags, None, None, &dims)
}
