//! Row spaces: parallel dimensions, and walked ones that one SE program goes through in order.
//!
//! Reductions (`reduce`), norms and softmax (`norm`), quantisation (`quantize`) and running reductions (`scan`) are made of this.

use cranelift_entity::PrimaryMap;
use lacuna_isa::format::{Format, ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, Fill, Operand};
use lacuna_isa::object::{BufferKind, Kernel};
use lacuna_isa::program::{Lane, Program, Reg, SeOp, Stream};
use lacuna_isa::target::Target;
use lacuna_isa::view::VIEW_DIMS;

use super::map::{LOCAL_FILL, domain_dims, result_tile, stream_dims};
use super::space::{SpaceDim, Walk, coalesce, cut, folded, tile_of};
use crate::code::Code;
use crate::emit::{DOUBLE, KernelBuilder, LocalDim};
use crate::expr::Expr;
use crate::lower::Lowering;
use crate::nest::Nest;
use crate::place::{Storage, StorageId, order_of};
use crate::refusal::{Lowered, Refusal};
use crate::sinks::{Outlet, Sinks};

/// A row space: parallel dimensions in the result's order, then the walked ones in logical order.
pub(super) struct Rows {
    pub dims: Vec<SpaceDim>,
    /// Number of parallel dimensions.
    pub parallel: usize,
    pub nest: Nest,
    /// Slots of each operand and result.
    pub slots: u8,
}

/// Slots of operands and results of which tiles are loaded one after the other, where local memory has room for them.
const MORE_SLOTS: u8 = 3;

/// The kernel of a row space while it is emitted.
pub(super) struct RowKernel<'a> {
    pub kb: KernelBuilder<'a>,
    pub rows: Rows,
    /// Load, position of each space dimension in its slot, element type.
    loads: Vec<(usize, Vec<Option<usize>>, ScalarType)>,
    domain: u16,
}

/// A buffer for an intermediate.
pub(super) struct Scratch {
    buffer: u8,
    /// Stride of each dimension of the space.
    strides: Vec<i64>,
    elem: ScalarType,
}

/// The sections of a program.
#[derive(Default)]
pub(super) struct Sections {
    pub init: Vec<SeOp>,
    pub body: Vec<SeOp>,
    pub finish: Vec<SeOp>,
}

impl Rows {
    /// `walked[d]` tells whether logical dimension d is walked; `out_strides` has 0 for dimensions that the result lacks.
    /// `live_bytes` is the number of bytes in local memory for each element of the space. Walked dimensions are whole.
    pub fn new(
        lowering: &Lowering,
        expr: &Expr,
        out_strides: &[i64],
        walked: &[bool],
        live_bytes: u64,
    ) -> Lowered<Rows> {
        Rows::across_groups(lowering, expr, (out_strides, walked), live_bytes, None)
    }

    /// Like [`Rows::new`], but a parallel dimension that ends in logical dimension `group.0` is cut into whole multiples of `group.1`.
    pub fn across_groups(
        lowering: &Lowering,
        expr: &Expr,
        (out_strides, walked): (&[i64], &[bool]),
        live_bytes: u64,
        group: Option<(usize, u64)>,
    ) -> Lowered<Rows> {
        let (dims, parallel) = Rows::space(expr, out_strides, walked)?;
        let units = units(&dims, parallel, group);
        Rows::cut(lowering, dims, parallel, &units, live_bytes)
    }

    /// Like [`Rows::new`], but the one walked dimension is cut into whole multiples of `unit` where that makes more tiles,
    /// or smaller ones: for programs that treat each group of elements by itself.
    pub fn in_groups(
        lowering: &Lowering,
        expr: &Expr,
        out_strides: &[i64],
        axis: usize,
        unit: u64,
        live_bytes: u64,
    ) -> Lowered<Rows> {
        let walked: Vec<bool> = (0..expr.shape.rank()).map(|d| d == axis).collect();
        let (dims, parallel) = Rows::space(expr, out_strides, &walked)?;
        let units: Vec<u64> = (0..dims.len()).map(|d| if d >= parallel { unit } else { 1 }).collect();
        Rows::cut(lowering, dims, parallel, &units, live_bytes)
            .or_else(|_| Rows::new(lowering, expr, out_strides, &walked, live_bytes))
    }

    /// The dimensions and the number of parallel ones.
    pub fn space(expr: &Expr, out_strides: &[i64], walked: &[bool]) -> Lowered<(Vec<SpaceDim>, usize)> {
        let dim = |d: usize| -> SpaceDim {
            let size = expr.shape[d];
            let mut walks = vec![Walk { stride: out_strides[d], origin: 0, bound: size }];
            walks.extend(expr.leaves.iter().map(|l| Walk {
                stride: l.place.strides[d],
                origin: 0,
                bound: size,
            }));
            SpaceDim { size, walks, logical: vec![d], apart: false }
        };
        let operands = expr.leaves.len() + 1;
        let order = order_of(out_strides);
        let mut dims = coalesce(order.iter().filter(|&&d| !walked[d]).map(|&d| dim(d)).collect(), operands);
        let parallel = dims.len();
        dims.extend(coalesce((0..walked.len()).filter(|&d| walked[d]).map(dim).collect(), operands));
        if folded(dims.len()) > parallel {
            return Err(Refusal::Limit(format!(
                "the rows have more than {VIEW_DIMS} dimensions that do not merge"
            )));
        }
        Ok((dims, parallel))
    }

    fn cut(
        lowering: &Lowering,
        dims: Vec<SpaceDim>,
        parallel: usize,
        units: &[u64],
        live_bytes: u64,
    ) -> Lowered<Rows> {
        let target = lowering.target;
        let limit = row_limit(target, live_bytes);
        let cut_to = |limit| cut(&dims, units, limit, target).filter(Nest::fits);
        let nest = cut_to(limit).ok_or_else(|| {
            let row: u64 = dims[parallel..].iter().map(|d| d.size).product();
            match cut(&dims, units, limit, target) {
                Some(_) => Refusal::Limit("the rows need more loop levels than the machine has".into()),
                None => Refusal::Limit(format!(
                    "a row of {row} elements does not fit the local memory of a PE ({} bytes)",
                    target.local_bytes
                )),
            }
        })?;
        // A tile more in flight hides the latency of memory, where there are several and rows are short enough.
        let more =
            if nest.rounds() > 1 { cut_to(limit * u64::from(DOUBLE) / u64::from(MORE_SLOTS)) } else { None };
        let (nest, slots) = more.map_or((nest, DOUBLE), |nest| (nest, MORE_SLOTS));
        Ok(Rows { dims, parallel, nest, slots })
    }

    /// The dimension that groups of `size` along logical dimension `axis` run along, if it is the result's innermost one and its tiles
    /// consist of whole groups.
    pub fn groups_fit(&self, axis: usize, size: u64) -> Option<usize> {
        let along = self.dims.iter().position(|d| d.logical.last() == Some(&axis))?;
        let dim = &self.dims[along];
        let whole = dim.size.is_multiple_of(size) && self.nest.axes[along].tile.is_multiple_of(size);
        let inner = dim.walks.first().is_some_and(|w| w.stride == 1);
        (along >= folded(self.dims.len()) && whole && inner).then_some(along)
    }

    /// Takes out the sinks whose groups do not fit; they run along logical dimension `axis(sink.axis)`.
    pub fn retain(&self, sinks: &mut Sinks, axis: impl Fn(usize) -> usize) {
        sinks.retain(|sink| self.groups_fit(axis(sink.axis), sink.format.size.into()).is_some());
    }

    /// Buffers and boxes of a result, the plain one first. Groups of a sink run along logical dimension `axis(sink.axis)`.
    pub fn outlets(
        &self,
        kb: &mut KernelBuilder<'_>,
        sinks: &Sinks,
        axis: impl Fn(usize) -> usize,
    ) -> Lowered<Vec<Outlet>> {
        let mut outlets = Vec::new();
        if sinks.keeps_plain {
            let (tile, at) = result_tile(&sinks.plain, &self.dims, &self.nest, None);
            let format = kb.format(tile.storage);
            let view = stream_dims(&self.nest, &at, &tile.slot_strides());
            outlets.push(Outlet::new(kb, tile, format, ScaleMode::Floor, None, &view)?);
        }
        for sink in &sinks.grouped {
            let along = self.groups_fit(axis(sink.axis), sink.format.size.into());
            let along = along.ok_or(Refusal::Grouped("groups that tiles cut".into()))?;
            let (tile, at) = result_tile(&sink.place, &self.dims, &self.nest, Some(along));
            let view = stream_dims(&self.nest, &at, &tile.slot_strides());
            let along = Some(along - folded(self.dims.len()));
            outlets.push(Outlet::new(kb, tile, Format::Grouped(sink.format), sink.mode, along, &view)?);
        }
        Ok(outlets)
    }

    /// The view dimension of dimension `d` of the space.
    pub fn view_dim(&self, d: usize) -> u8 {
        (VIEW_DIMS + d - self.dims.len()) as u8
    }

    pub fn row_len(&self) -> u64 {
        self.dims[self.parallel..].iter().map(|d| d.size).product()
    }
}

/// Elements of which a tile has whole multiples, for each dimension: walked ones are whole, and so are groups along the parallel one
/// that ends in logical dimension `group.0`.
pub fn units(dims: &[SpaceDim], parallel: usize, group: Option<(usize, u64)>) -> Vec<u64> {
    let unit = |(d, dim): (usize, &SpaceDim)| match group {
        _ if d >= parallel => dim.size,
        Some((axis, size)) if dim.logical.last() == Some(&axis) => size.min(dim.size),
        _ => 1,
    };
    dims.iter().enumerate().map(unit).collect()
}

impl<'a> RowKernel<'a> {
    pub fn new(
        name: &str,
        rows: Rows,
        expr: &Expr,
        storages: &'a PrimaryMap<StorageId, Storage>,
    ) -> Lowered<RowKernel<'a>> {
        let mut kb = KernelBuilder::new(name, rows.nest.clone(), storages);
        kb.inner_slots = rows.slots;
        let mut loads = Vec::new();
        for (i, leaf) in expr.leaves.iter().enumerate() {
            let (tile, at) =
                tile_of(leaf.place.storage, leaf.place.offset, &rows.dims, i + 1, &rows.nest.axes, None);
            loads.push((kb.load("x", &tile, Fill::Zero, None, None)?, at, leaf.elem));
        }
        let domain_view = domain_dims(&rows.nest);
        let domain = kb.local(Format::F32, None, None, &domain_view)?;
        Ok(RowKernel { kb, rows, loads, domain })
    }

    pub fn depth(&self) -> usize {
        self.kb.n_loops()
    }

    /// Reads leaf `i`; `last` frees it when this is its last reader.
    pub fn leaf(&mut self, i: usize, last: bool) -> Lowered<Stream> {
        let (load, at, elem) = self.loads[i].clone();
        let strides = self.kb.loaded(load).strides.clone();
        let dims = stream_dims(&self.rows.nest, &at, &strides);
        let view = self.kb.local(Format::Scalar(elem), None, None, &dims)?;
        let action = if last { self.kb.last_read(load, self.depth()) } else { Action::Read };
        Ok(Stream {
            operand: Operand::new(self.kb.loaded(load).buffer, action, view),
            mode: ScaleMode::Floor,
        })
    }

    /// A buffer for an intermediate over the whole space, or over its parallel part only, of the lane's float type.
    pub fn scratch(&mut self, name: &str, lane: Lane, per_row: bool) -> Lowered<Scratch> {
        let dims = &self.rows.dims;
        let n = if per_row { self.rows.parallel } else { dims.len() };
        let mut strides = vec![0; dims.len()];
        let mut size = 1;
        for d in (0..n).rev() {
            strides[d] = size;
            size *= self.rows.nest.axes[d].tile as i64;
        }
        let buffer = self.kb.buffer(
            name,
            BufferKind::Local,
            size as u64 * if lane == Lane::F64 { 8 } else { 4 },
            2,
        )?;
        Ok(Scratch {
            buffer,
            strides,
            elem: if lane == Lane::F64 { ScalarType::F64 } else { ScalarType::F32 },
        })
    }

    pub fn scratch_stream(&mut self, scratch: &Scratch, action: Action) -> Lowered<Stream> {
        let dims: Vec<LocalDim> = scratch
            .strides
            .iter()
            .zip(&self.rows.nest.axes)
            .skip(folded(scratch.strides.len()))
            .map(|(&stride, axis)| LocalDim { size: axis.tile, stride, clip: None })
            .collect();
        let view = self.kb.local(Format::Scalar(scratch.elem), None, None, &dims)?;
        Ok(Stream { operand: Operand::new(scratch.buffer, action, view), mode: ScaleMode::Floor })
    }

    pub fn run(&mut self, name: &str, walk: bool, streams: Vec<Stream>, code: Code, parts: Sections) {
        let parallel = if walk { self.rows.view_dim(self.rows.parallel) } else { VIEW_DIMS as u8 };
        self.kb.run(Program {
            name: name.to_string(),
            domain: self.domain,
            parallel,
            streams,
            constants: code.constants,
            init: parts.init,
            body: parts.body,
            finish: parts.finish,
        });
    }

    /// Names of loads that programs freed themselves, for closing the loops.
    fn popped(&self) -> Vec<usize> {
        let depth = self.depth();
        self.loads.iter().map(|l| l.0).filter(|&l| self.kb.last_read(l, depth) == Action::Pop).collect()
    }

    /// Closes the loops down to `depth`, and returns the kernel with the storages behind its base registers.
    pub fn finish(self, target: &Target, depth: usize) -> Lowered<(Kernel, Vec<StorageId>)> {
        let popped = self.popped();
        let mut kb = self.kb;
        kb.close(depth, &popped);
        kb.finish(target.local_bytes, target.bank_bytes)
    }
}

pub(super) fn load(code: &mut Code, lane: Lane, stream: u8) -> Lowered<Reg> {
    let dst = code.reg()?;
    code.ops.push(SeOp::Load { dst, lane, stream });
    Ok(dst)
}

/// Elements of a tile in local memory, at `live_bytes` for each.
pub fn row_limit(target: &Target, live_bytes: u64) -> u64 {
    (target.local_bytes as f64 * LOCAL_FILL) as u64 / live_bytes.max(1)
}

/// Bytes of local memory per element of the space: those of the operands and the result, and `scratch` bytes.
pub(super) fn live_bytes(expr: &Expr, scratch: u64) -> u64 {
    operand_bytes(expr.leaves.iter().map(|l| l.elem)) + scratch
}

/// Bytes of local memory per element: two slots of each operand and of the result.
pub fn operand_bytes(operands: impl Iterator<Item = ScalarType>) -> u64 {
    2 * (operands.map(|elem| u64::from(elem.bits().div_ceil(8))).sum::<u64>() + 8)
}
