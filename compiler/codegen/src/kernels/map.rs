//! Element-wise regions and copies: load each operand's box, run one program, store.

use lacuna_isa::format::{Format, ScaleMode};
use lacuna_isa::inst::{Action, Fill, Operand};
use lacuna_isa::object::BufferKind;
use lacuna_isa::program::{Program, SeOp, Stream};
use lacuna_isa::view::VIEW_DIMS;

use super::space::{SpaceDim, Walk, coalesce, cut, fold_first, folded, tile_in_order, tile_of};
use crate::code::{Code, lane};
use crate::emit::{KernelBuilder, LocalDim, STAGED_SLOTS, Tile};
use crate::expr::{Expr, ExprNode, Hero, Leaf, compile};
use crate::lower::Lowering;
use crate::nest::{Nest, TileDim};
use crate::place::{Place, order_of};
use crate::refusal::{Lowered, Refusal};

/// Share of local memory that tiles may fill.
pub const LOCAL_FILL: f64 = 0.9;

/// The space of an expression in the physical order of `out`; operand 0 is the result, then the leaves.
pub fn space_of(expr: &Expr, out: &Place, order: &[usize]) -> Vec<SpaceDim> {
    let iota = |d: usize| expr.nodes.iter().any(|(n, _)| matches!(n, ExprNode::Iota(dim) if *dim == d));
    order
        .iter()
        .map(|&d| {
            let size = expr.shape[d];
            let mut apart = iota(d);
            let mut walks = vec![Walk { stride: out.strides[d], origin: 0, bound: size }];
            for leaf in &expr.leaves {
                let mut walk = Walk { stride: leaf.place.strides[d], origin: 0, bound: size };
                if let Some((origins, bounds, _)) = &leaf.pad {
                    walk.origin = origins[d];
                    walk.bound = bounds[d];
                    apart |= origins[d] != 0 || bounds[d] != size;
                }
                walks.push(walk);
            }
            SpaceDim { size, walks, logical: vec![d], apart }
        })
        .collect()
}

/// The local view of an operand's slot over the space's dimensions that are not folded.
pub fn stream_dims(nest: &Nest, at: &[Option<usize>], strides: &[i64]) -> Vec<LocalDim> {
    at.iter()
        .enumerate()
        .skip(folded(at.len()))
        .map(|(d, slot)| LocalDim {
            size: nest.axes[d].tile,
            stride: slot.map_or(0, |s| strides[s]),
            clip: None,
        })
        .collect()
}

/// The domain view over the axes of the nest that are not folded, clipped at their ends.
pub fn domain_dims(nest: &Nest) -> Vec<LocalDim> {
    (folded(nest.axes.len())..nest.axes.len())
        .map(|a| LocalDim {
            size: nest.axes[a].tile,
            stride: 0,
            clip: Some(TileDim::follow(&nest.axes, a, 0)),
        })
        .collect()
}

impl Lowering<'_> {
    /// Emits an element-wise expression into `out`.
    pub fn map(&mut self, name: &str, expr: &Expr, out: &Place) -> Lowered {
        let order = order_of(&out.strides);
        let mut dims = coalesce(space_of(expr, out, &order), expr.leaves.len() + 1);
        if dims.len() <= VIEW_DIMS {
            return self.map_space(name, expr, out, &dims);
        }
        fold_first(&mut dims);
        self.map_space(name, expr, out, &dims)
            .or_else(|_| self.peel(expr, out, &|this, expr, out| this.map(name, expr, out)))
    }

    /// Emits an element-wise expression over the dimensions of its space.
    fn map_space(&mut self, name: &str, expr: &Expr, out: &Place, dims: &[SpaceDim]) -> Lowered {
        if dims[..folded(dims.len())].iter().any(|d| d.apart) {
            return Err(Refusal::Limit("dimensions whose coordinates or padding matter are too many".into()));
        }
        let bytes_of = |format: Format| format.element().bytes_for(8).max(1);
        let mut eighth_bytes = bytes_of(self.storages[out.storage].format);
        for leaf in &expr.leaves {
            eighth_bytes += bytes_of(Format::Scalar(leaf.elem));
        }
        let limit = (self.target.local_bytes as f64 * LOCAL_FILL / 2.0 * 8.0 / eighth_bytes as f64) as u64;
        let units = vec![1; dims.len()];
        let nest = cut(dims, &units, limit, self.target).ok_or(Refusal::Limit("no tile fits".into()))?;
        if !nest.fits() {
            return Err(Refusal::Limit("the region needs more loop levels than the machine has".into()));
        }
        let mut kb = KernelBuilder::new(name, nest, &self.storages);
        let inner = kb.n_loops();
        let all: Vec<usize> = (0..dims.len()).collect();
        let (out_tile, out_at) =
            tile_in_order(out.storage, out.offset, dims, 0, &kb.nest.axes.clone(), &all, None);
        if expr.is_copy() && expr.leaves.len() == 1 {
            // A copy needs no engine but the fabric interface; the slot has the result's order.
            let leaf = &expr.leaves[0];
            let (tile, _) = tile_in_order(
                leaf.place.storage,
                leaf.place.offset,
                dims,
                1,
                &kb.nest.axes.clone(),
                &all,
                None,
            );
            let fill = leaf.pad.as_ref().map_or(Fill::Zero, |p| p.2);
            // A slot lives from the load to the store, two stages later.
            let load = kb.load("x", &tile, fill, Some(inner), Some(STAGED_SLOTS))?;
            kb.open(inner);
            let buffer = kb.loaded(load).buffer;
            kb.store(buffer, &out_tile)?;
            kb.close(inner, &[load]);
            let (kernel, bases) = kb.finish(self.target.local_bytes, self.target.bank_bytes)?;
            self.launch(kernel, bases);
            return Ok(());
        }
        let mut loads = Vec::new();
        for (i, leaf) in expr.leaves.iter().enumerate() {
            let (tile, at) =
                tile_of(leaf.place.storage, leaf.place.offset, dims, i + 1, &kb.nest.axes.clone(), None);
            let fill = leaf.pad.as_ref().map_or(Fill::Zero, |p| p.2);
            loads.push((kb.load("x", &tile, fill, None, None)?, at, leaf.elem));
        }
        let out_format = self.storages[out.storage].format;
        let slot = KernelBuilder::slot_bytes(out_format, None, out_tile.elements());
        let y = kb.buffer("y", BufferKind::Local, slot, 2)?;
        kb.open(inner);
        let mut streams = Vec::new();
        let mut popped = Vec::new();
        for (load, at, elem) in &loads {
            let strides = kb.loaded(*load).strides.clone();
            let view_dims = stream_dims(&kb.nest, at, &strides);
            let view = kb.local(Format::Scalar(*elem), None, None, &view_dims)?;
            let action = kb.last_read(*load, inner);
            if action == Action::Pop {
                popped.push(*load);
            }
            streams.push(Stream {
                operand: Operand::new(kb.loaded(*load).buffer, action, view),
                mode: ScaleMode::Floor,
            });
        }
        let strides = out_tile.slot_strides();
        let view_dims = stream_dims(&kb.nest, &out_at, &strides);
        let view = kb.local(out_format, None, None, &view_dims)?;
        streams.push(Stream { operand: Operand::new(y, Action::Push, view), mode: ScaleMode::Floor });
        let mut code = Code::default();
        let numbers: Vec<u8> = (0..loads.len() as u8).collect();
        let dim_of = |logical: usize| {
            let at = dims.iter().position(|d| d.logical == [logical]).unwrap_or(0);
            (VIEW_DIMS + at - dims.len()) as u8
        };
        let value = compile(expr, &mut code, &numbers, Hero::None, &dim_of)?;
        let elem = expr.nodes.last().ok_or(Refusal::Contradiction("an empty expression".into()))?.1;
        code.ops.push(SeOp::Store { stream: loads.len() as u8, lane: lane(elem), src: value });
        let domain_view = domain_dims(&kb.nest);
        let domain = kb.local(Format::F32, None, None, &domain_view)?;
        kb.run(Program {
            name: name.to_string(),
            domain,
            parallel: VIEW_DIMS as u8,
            streams,
            body: code.take(),
            constants: code.constants,
            ..Program::default()
        });
        kb.store(y, &out_tile)?;
        kb.close(inner, &popped);
        let (kernel, bases) = kb.finish(self.target.local_bytes, self.target.bank_bytes)?;
        self.launch(kernel, bases);
        Ok(())
    }

    /// Splits a space of too many dimensions along its outermost physical one: a kernel for each index.
    pub fn peel(
        &mut self,
        expr: &Expr,
        out: &Place,
        emit: &dyn Fn(&mut Self, &Expr, &Place) -> Lowered,
    ) -> Lowered {
        let order = order_of(&out.strides);
        let matters = |d: usize| {
            let pads = |leaf: &Leaf| {
                let pad = leaf.pad.as_ref();
                pad.is_some_and(|(origins, bounds, _)| origins[d] != 0 || bounds[d] != expr.shape[d])
            };
            let counts = |node: &ExprNode| matches!(node, ExprNode::Iota(dim) if *dim == d);
            expr.leaves.iter().any(pads) || expr.nodes.iter().any(|(node, _)| counts(node))
        };
        let fits = |d: &usize| (2..=MAX_PEELED).contains(&expr.shape[*d]) && !matters(*d);
        let outer = order.iter().copied().find(fits).ok_or_else(|| {
            Refusal::Limit(format!("the region has more than {VIEW_DIMS} dimensions that do not merge"))
        })?;
        let size = expr.shape[outer];
        for i in 0..size as i64 {
            let mut part = expr.clone();
            part.shape.0[outer] = 1;
            for leaf in &mut part.leaves {
                leaf.place.offset += i * leaf.place.strides[outer];
                if let Some((_, bounds, _)) = &mut leaf.pad {
                    bounds[outer] = 1;
                }
            }
            let place = Place { offset: out.offset + i * out.strides[outer], ..out.clone() };
            emit(self, &part, &place)?;
        }
        Ok(())
    }
}

/// Most kernels that one region is split into along a dimension.
const MAX_PEELED: u64 = 1024;

/// The tile of the result, in the space's own order.
pub fn result_tile(
    out: &Place,
    dims: &[SpaceDim],
    nest: &Nest,
    k_dim: Option<usize>,
) -> (Tile, Vec<Option<usize>>) {
    let all: Vec<usize> =
        (0..dims.len()).filter(|&d| dims[d].walks.first().is_some_and(|w| w.stride != 0)).collect();
    tile_in_order(out.storage, out.offset, dims, 0, &nest.axes, &all, k_dim)
}
