//! Pooling: reductions of windows, with or without padding.
//!
//! A tile loads the box that its windows lie in once, filled where the padding is, and the program sees the windows as overlapping
//! rows of it. Windows that lie apart in memory, as [`super::reduce`] has them, would be loaded one by one.

use lacuna_ir::op::ReduceOp;
use lacuna_ir::{Node, NodeData, Op, Value};
use lacuna_isa::format::{Format, ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, Fill, Operand};
use lacuna_isa::program::{Lane, Program, SeOp, Stream};
use lacuna_isa::view::VIEW_DIMS;

use super::map::{LOCAL_FILL, domain_dims};
use super::reduce::{reducer, total};
use super::rows::{Rows, load, units};
use super::space::{SpaceDim, Walk, coalesce, cut, fold_first, folded};
use crate::code::{Code, lane};
use crate::emit::{DOUBLE, KernelBuilder, LocalDim, Tile};
use crate::ints;
use crate::lower::Lowering;
use crate::nest::{Nest, TileDim};
use crate::place::{Place, order_of};
use crate::refusal::{Lowered, Refusal};
use crate::sinks::Sinks;

/// The nodes of a pooling.
#[derive(Clone, Copy)]
pub struct Pooling {
    pad: Option<Node>,
    window: Node,
}

/// A windowed dimension of the operand.
#[derive(Clone, Copy)]
struct Windowed {
    axis: usize,
    /// Elements of a window, between neighbours in one, and from one window to the next.
    size: u64,
    dilation: u64,
    stride: u64,
    /// Elements of padding in front.
    low: u64,
}

impl Windowed {
    /// Elements that `n` neighbouring windows lie in.
    fn extent(&self, n: u64) -> u64 {
        (n - 1) * self.stride + (self.size - 1) * self.dilation + 1
    }
}

/// What is pooled: the operand and its windows.
struct Pool {
    op: ReduceOp,
    elem: ScalarType,
    from: Place,
    /// Shape of the operand without its padding.
    bounds: Vec<u64>,
    fill: Fill,
    windows: Vec<Windowed>,
}

impl Lowering<'_> {
    /// The reduction that alone reads a padded tensor or its windows, over all dimensions of a window.
    fn pools(&self, value: Value) -> Option<(Node, Pooling)> {
        let def = self.func.def(value)?;
        let (pad, window) = match self.func.nodes[def].op {
            Op::Pad { .. } => (Some(def), self.quantised.only_reader(value)?),
            _ => (None, def),
        };
        let data = &self.func.nodes[window];
        let Op::Window { axes, .. } = &data.op else { return None };
        let (windows, reader) = (data.results[0], self.quantised.only_reader(data.results[0])?);
        let rank = self.func.ty(windows).shape.rank();
        match &self.func.nodes[reader].op {
            Op::Reduce { axes: walked, .. } => {
                let all = (rank - axes.len()..rank).map(|d| d as u8);
                all.eq(walked.iter().copied()).then_some((reader, Pooling { pad, window }))
            }
            _ => None,
        }
    }

    /// Whether a padded tensor or windows are made where they are reduced.
    pub fn is_pooled(&self, value: Value) -> bool {
        self.pools(value).is_some()
    }

    /// The padding and the windows that a reduction is the only reader of.
    pub fn pooling(&self, reduction: Node) -> Option<Pooling> {
        let windows = self.func.nodes[reduction].args[0];
        let (_, pooling) = self.pools(windows)?;
        let padded = self.func.nodes[pooling.window].args[0];
        let pad = self.pools(padded).filter(|(reader, _)| *reader == reduction).and_then(|(_, p)| p.pad);
        Some(Pooling { pad, ..pooling })
    }

    /// Emits a reduction of windows. Where tiles of it do not fit, padding, windows and reduction are emitted one by one.
    pub fn pool(&mut self, result: Value, op: ReduceOp, pooling: Pooling) -> Lowered {
        let Err(refusal) = self.pool_whole(result, op, pooling) else { return Ok(()) };
        if !matches!(refusal, Refusal::Limit(_)) {
            return Err(refusal);
        }
        if let Some(pad) = pooling.pad {
            self.pad(pad)?;
        }
        let windows = self.func.nodes[pooling.window].results[0];
        self.movement(pooling.window, windows)?;
        let rank = self.func.ty(windows).shape.rank() as u8;
        let first = self.func.ty(result).shape.rank() as u8;
        self.reduce(result, windows, op, &(first..rank).collect::<Vec<u8>>())
    }

    fn pool_whole(&mut self, result: Value, op: ReduceOp, pooling: Pooling) -> Lowered {
        let pool = self.pool_of(op, pooling)?;
        let wanted = self.sinks(result, Some(order_of(&pool.from.strides)));
        let mut elements = self.window_elements(&pool, &wanted);
        // A tile that fits has fewer elements than an estimate without the edges of its windows says.
        let sinks = loop {
            let mut sinks = wanted.clone();
            let space = self.pool_space(result, &pool, &sinks, elements)?;
            match self.emit_pool(&pool, &space, &mut sinks) {
                Err(Refusal::Limit(_)) if elements > pool.window() => elements /= 2,
                emitted => break emitted.map(|()| sinks)?,
            }
        };
        self.take_places(result, sinks);
        Ok(())
    }

    /// What a pooling reads.
    fn pool_of(&mut self, op: ReduceOp, pooling: Pooling) -> Lowered<Pool> {
        let data = &self.func.nodes[pooling.window];
        let Op::Window { axes, sizes, strides, dilations } = &data.op else {
            return Err(Refusal::Contradiction("windows of something else".into()));
        };
        let rank = self.func.ty(data.args[0]).shape.rank();
        let (mut x, mut fill, mut low) = (data.args[0], Fill::Zero, vec![0; rank]);
        let pad = pooling.pad.map(|pad| &self.func.nodes[pad]);
        if let Some(NodeData { op: Op::Pad { low: front, high }, args, .. }) = pad {
            let whole = |d: usize| axes.contains(&(d as u8)) || (front[d] == 0 && high[d] == 0);
            if !(0..rank).all(whole) {
                return Err(Refusal::Limit("padding outside the windows".into()));
            }
            x = args[0];
            fill = self.fill_of(args[1])?.ok_or(Refusal::Limit("a value that no load fills with".into()))?;
            low.copy_from_slice(front);
        }
        let ty = self.func.ty(x);
        let elem = ty.elem.scalar().ok_or(Refusal::Grouped("windows of a grouped value".into()))?;
        if ty.shape.elements() == 0 || (op == ReduceOp::Mean && lane(elem) == Lane::I32) {
            return Err(Refusal::Limit("windows that are reduced in another type".into()));
        }
        let window = |(i, &a): (usize, &u8)| Windowed {
            axis: usize::from(a),
            size: sizes[i],
            dilation: dilations[i],
            stride: strides[i],
            low: low[usize::from(a)],
        };
        let windows = axes.iter().enumerate().map(window).collect();
        Ok(Pool { op, elem, bounds: ty.shape.0.clone(), from: self.place(x)?, fill, windows })
    }

    /// Elements of the space in a tile that fits local memory: for each result its part of the operand and itself, twice.
    fn window_elements(&self, pool: &Pool, sinks: &Sinks) -> u64 {
        let read: u64 = pool.windows.iter().map(|w| w.stride.min(w.extent(1))).product();
        let bytes = 2 * (read * u64::from(pool.elem.bits().div_ceil(8)) + sinks.element_bytes().max(8));
        (self.target.local_bytes as f64 * LOCAL_FILL) as u64 / bytes * pool.window()
    }

    fn pool_space(&self, result: Value, pool: &Pool, sinks: &Sinks, elements: u64) -> Lowered<Rows> {
        let (shape, out) = (&self.func.ty(result).shape, &sinks.plain.strides);
        let still = |bound: u64| Walk { stride: 0, origin: 0, bound };
        let outer = order_of(out).into_iter().map(|d| {
            let size = shape[d];
            let of = |stride: i64| Walk { stride, origin: 0, bound: size };
            let apart = pool.windows.iter().any(|w| w.axis == d);
            SpaceDim { size, walks: vec![of(out[d]), of(pool.from.strides[d])], logical: vec![d], apart }
        });
        let mut dims = coalesce(outer.collect(), 2);
        let parallel = dims.len();
        dims.extend(pool.windows.iter().enumerate().map(|(i, w)| SpaceDim {
            size: w.size,
            walks: vec![still(w.size); 2],
            logical: vec![shape.rank() + i],
            apart: true,
        }));
        fold_first(&mut dims);
        let n_folded = folded(dims.len());
        if n_folded > parallel || dims[..n_folded].iter().any(|d| d.apart) {
            return Err(Refusal::Limit("windows have more dimensions than a view".into()));
        }
        let units = units(&dims, parallel, sinks.group());
        let nest = cut(&dims, &units, elements, self.target)
            .filter(Nest::fits)
            .ok_or(Refusal::Limit("no tile of windows fits the local memory of a PE".into()))?;
        Ok(Rows { dims, parallel, nest, slots: DOUBLE })
    }

    fn emit_pool(&mut self, pool: &Pool, space: &Rows, sinks: &mut Sinks) -> Lowered {
        space.retain(sinks, |axis| axis);
        let mut kb = KernelBuilder::new("pool", space.nest.clone(), &self.storages);
        let (tile, at) = pool.tile(space);
        let x = kb.load("x", &tile, pool.fill, None, None)?;
        let domain = kb.local(Format::F32, None, None, &domain_dims(&space.nest))?;
        let depth = kb.n_loops();
        let outlets = space.outlets(&mut kb, sinks, |axis| axis)?;
        kb.open(depth);
        let dims = pool.stream_dims(space, &at, &tile.slot_strides());
        let view = kb.local(Format::Scalar(pool.elem), None, None, &dims)?;
        let action = kb.last_read(x, depth);
        let operand = Operand::new(kb.loaded(x).buffer, action, view);
        let mut streams = vec![Stream { operand, mode: ScaleMode::Floor }];
        let lane = lane(pool.elem);
        let mut code = Code::default();
        let value = load(&mut code, lane, 0)?;
        if matches!(pool.op, ReduceOp::Max | ReduceOp::Min) {
            ints::flip_order(&mut code, pool.elem, value)?;
        }
        code.ops.push(SeOp::Accumulate { f: reducer(pool.op), lane, acc: 0, a: value });
        let body = code.take();
        let total = total(&mut code, pool.op, pool.elem, pool.window())?;
        for outlet in &outlets {
            code.ops.push(SeOp::Store { stream: streams.len() as u8, lane, src: total });
            streams.push(outlet.stream);
        }
        kb.run(Program {
            name: "pool".into(),
            domain,
            parallel: (VIEW_DIMS - pool.windows.len()) as u8,
            streams,
            body,
            finish: code.take(),
            constants: code.constants,
            ..Program::default()
        });
        for outlet in &outlets {
            outlet.store(&mut kb)?;
        }
        let popped = if action == Action::Pop { vec![x] } else { Vec::new() };
        kb.close(depth, &popped);
        let (kernel, bases) = kb.finish(self.target.local_bytes, self.target.bank_bytes)?;
        self.launch(kernel, bases);
        Ok(())
    }
}

impl Pool {
    /// Elements of a window.
    fn window(&self) -> u64 {
        self.windows.iter().map(|w| w.size).product()
    }

    /// The windows along dimension `d` of a space.
    fn windowed(&self, space: &Rows, d: usize) -> Option<&Windowed> {
        let dim = &space.dims[d];
        self.windows.iter().find(|w| dim.apart && dim.logical == [w.axis])
    }

    /// The box that the windows of a tile lie in, and its dimension for each of the space.
    fn tile(&self, space: &Rows) -> (Tile, Vec<Option<usize>>) {
        let stride = |d: usize| space.dims[d].walks[1].stride;
        let mut order: Vec<usize> = (0..space.parallel).filter(|&d| stride(d) != 0).collect();
        order.sort_by_key(|&d| std::cmp::Reverse(stride(d).unsigned_abs()));
        let mut at = vec![None; space.dims.len()];
        let dims = order.iter().enumerate().map(|(i, &d)| {
            at[d] = Some(i);
            let (tile, stride) = (space.nest.axes[d].tile, stride(d));
            match self.windowed(space, d) {
                Some(w) => TileDim {
                    axis: Some((d, w.stride as i64)),
                    size: w.extent(tile),
                    stride,
                    origin: -(w.low as i64),
                    bound: self.bounds[w.axis],
                },
                None => TileDim { stride, ..TileDim::follow(&space.nest.axes, d, stride) },
            }
        });
        let dims = dims.collect();
        (Tile { storage: self.from.storage, offset: self.from.offset, dims, k_dim: None }, at)
    }

    /// The windows of a tile in the slot of their box.
    fn stream_dims(&self, space: &Rows, at: &[Option<usize>], strides: &[i64]) -> Vec<LocalDim> {
        let stride = |d: usize| at[d].map_or(0, |s| strides[s]);
        let of = |d: usize| {
            let size = space.nest.axes[d].tile;
            let stride = match d.checked_sub(space.parallel) {
                Some(i) => {
                    let w = &self.windows[i];
                    let own = (0..space.parallel)
                        .find(|&p| self.windowed(space, p).is_some_and(|o| o.axis == w.axis));
                    own.map_or(0, stride) * w.dilation as i64
                }
                None => stride(d) * self.windowed(space, d).map_or(1, |w| w.stride as i64),
            };
            LocalDim { size, stride, clip: None }
        };
        (folded(space.dims.len())..space.dims.len()).map(of).collect()
    }
}
