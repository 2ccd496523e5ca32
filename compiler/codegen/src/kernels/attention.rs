//! Attention in one kernel: scores never leave the PE.
//!
//! Per tile of queries, tiles of keys and values stream through: product of queries and keys, softmax relative to the
//! greatest score so far ([`super::attention_programs`]), rescaling of what was accumulated, product with the values. The loop
//! over keys has four stages, so that the DPE multiplies one tile while the SE weighs another:
//!
//! | stage | what | engine |
//! |---|---|---|
//! | 0 | load keys | FI |
//! | 1 | load mask and values, scores | FI, DPE |
//! | 2 | softmax | SE |
//! | 3 | rescale, weighted sum | SE, DPE |
//!
//! Causal attention ends the loop at the diagonal, a trip count affine in the tile of queries. Only tiles on the diagonal
//! compare positions: the domain of one program ends where that of the other begins, and the empty one costs nothing. Where
//! all keys are one tile, the stages belong to the innermost loop over units instead.

use lacuna_ir::expand::Attention;
use lacuna_ir::{Node, TensorType, Value};
use lacuna_isa::format::{Format, ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, Fill, Inst, InstKind, Multicast, Operand, Order};
use lacuna_isa::object::{Access, BufferKind, Trip};
use lacuna_isa::program::{Program, Stream};
use lacuna_isa::view::{Advance, Dim, LOOP_LEVELS, PE_COORDS, Space, VIEW_DIMS, View};

use super::attention_plan::{BATCH, GROUP, KEY_SLOTS, KEYS, Plan, Rejection, TILE, VALUE_SLOTS};
use super::attention_programs::{Compare, Parts, Streams, divide, exponentials, greatest, passes, rescale};
use crate::emit::KernelBuilder;
use crate::lower::{Lowered, Lowering};
use crate::place::{Place, Storage, StorageId};

/// One dimension of a view: which axes move it, and by how many coordinates per element of each axis.
#[derive(Clone, Debug)]
struct Side {
    size: u64,
    stride: i64,
    origin: i64,
    bound: u64,
    moves: Vec<(usize, i64)>,
}

impl Side {
    /// A dimension that neither moves nor clips.
    fn free(size: u64, stride: i64) -> Side {
        Side { size, stride, origin: 0, bound: u64::from(u32::MAX), moves: Vec::new() }
    }
}

/// The tiles of queries that one pass over the keys belongs to.
#[derive(Clone, Copy, Debug)]
struct Pass {
    /// First query of the block of index 0, and distance of blocks.
    block: i64,
    step: i64,
    /// First query of the pass within its block.
    within: u64,
    /// Queries from `low` to `high` are this pass's.
    low: u64,
    high: u64,
}

/// The buffers of the kernel.
struct Buffers {
    q: u8,
    k: u8,
    v: u8,
    mask: Option<u8>,
    scores: u8,
    bent: Option<u8>,
    greatest: u8,
    sum: u8,
    factor: Option<u8>,
    weights: u8,
    result: u8,
    y: u8,
}

/// A kernel under construction.
struct Flash<'a, 'p> {
    kb: KernelBuilder<'a>,
    plan: &'p Plan,
    a: Attention,
    buffers: Buffers,
    /// Places of queries, keys, values, the result and the mask.
    places: [Place; 4],
    mask: Option<(Place, TensorType)>,
    formats: Vec<Format>,
}

fn fit<T: TryFrom<i64>>(value: i64) -> Lowered<T> {
    T::try_from(value).map_err(|_| format!("{value} does not fit a view"))
}

impl Flash<'_, '_> {
    /// A view of up to five dimensions, padded in front.
    fn view(&mut self, format: Format, space: Space, offset: i64, sides: &[Side]) -> Lowered<u16> {
        let pad = VIEW_DIMS - sides.len();
        let mut dims = [Dim::UNIT; VIEW_DIMS];
        let mut levels = [None; LOOP_LEVELS];
        let mut coords = [None; PE_COORDS];
        for (i, side) in sides.iter().enumerate() {
            let dim = pad + i;
            dims[dim] = Dim {
                size: fit(side.size as i64)?,
                stride: fit(side.stride)?,
                origin: fit(side.origin)?,
                bound: fit(side.bound as i64)?,
            };
            for &(axis, scale) in &side.moves {
                let data = &self.kb.nest.axes[axis];
                let step = |elements: u64| -> Lowered<Advance> {
                    Ok(Advance { dim: dim as u8, step: fit(elements as i64 * scale)? })
                };
                if let Some(level) = self.kb.nest.level(axis) {
                    levels[usize::from(level)] = Some(step(data.tile)?);
                }
                for (c, coord) in coords.iter_mut().enumerate() {
                    if data.pes[c] > 1 {
                        *coord = Some(step(data.coord_step(c))?);
                    }
                }
            }
        }
        let k_dim = (VIEW_DIMS - 1) as u8;
        Ok(self.kb.view(View {
            format,
            pattern: None,
            k_dim,
            space,
            offset,
            dims,
            levels,
            coords,
            shift: None,
        }))
    }

    fn local(&mut self, format: Format, sides: &[Side]) -> Lowered<u16> {
        self.view(format, Space::Local, 0, sides)
    }

    /// The dense view of a whole slot with these sizes.
    fn slot(&mut self, format: Format, sizes: &[u64]) -> Lowered<u16> {
        let mut sides: Vec<Side> = sizes.iter().map(|&n| Side::free(n, 1)).collect();
        for d in (0..sides.len().saturating_sub(1)).rev() {
            sides[d].stride = sides[d + 1].stride * sides[d + 1].size as i64;
        }
        self.local(format, &sides)
    }

    fn push(&mut self, stage: u8, kind: InstKind) {
        self.kb.kernel.code.push(Inst { stage, kind });
    }

    /// Strides of batch, group, head of the group and the last two dimensions.
    fn strides(&self, place: &Place, heads: bool) -> [i64; 5] {
        let s = &place.strides;
        let share = self.plan.sizes.share as i64;
        if heads { [s[0], s[1] * share, s[1], s[2], s[3]] } else { [s[0], s[1], 0, s[2], s[3]] }
    }

    fn one(&self, axis: usize, stride: i64) -> Side {
        let bound = self.kb.nest.axes[axis].size;
        Side { size: 1, stride, origin: 0, bound, moves: vec![(axis, 1)] }
    }

    /// The queries of tile number `tile` of a block.
    fn queries(&self, pass: &Pass, tile: u64, stride: i64) -> Side {
        Side {
            size: self.plan.queries,
            stride,
            origin: pass.block + self.within(pass, tile) - pass.low as i64,
            bound: pass.high - pass.low,
            moves: vec![(TILE, pass.step)],
        }
    }

    fn within(&self, pass: &Pass, tile: u64) -> i64 {
        (pass.within + tile * self.plan.queries) as i64
    }

    fn keys(&self, stride: i64) -> Side {
        Side { size: self.plan.keys, stride, origin: 0, bound: self.plan.sizes.keys, moves: vec![(KEYS, 1)] }
    }

    /// Loads a box. PEs whose trip counts differ cannot share a fetch: `alone` says that they might.
    fn load(
        &mut self,
        stage: u8,
        buffer: u8,
        storage: StorageId,
        offset: i64,
        sides: &[Side],
        alone: bool,
    ) -> Lowered<()> {
        let base = self.kb.base(storage, Access::In);
        let format = self.formats[usize::from(base)];
        let src = self.view(format, Space::Global(base), offset, sides)?;
        let sizes: Vec<u64> = sides.iter().map(|s| s.size).collect();
        let slot = self.slot(format, &sizes)?;
        let cast = self.multicast(src, alone);
        let dst = Operand::new(buffer, Action::Push, slot);
        self.push(stage, InstKind::Ld { dst, src, cast, fill: Fill::Zero });
        Ok(())
    }

    fn multicast(&self, view: u16, alone: bool) -> Multicast {
        let nest = &self.kb.nest;
        let view = &self.kb.kernel.views[usize::from(view)];
        let part = |range: std::ops::Range<usize>| {
            let apart = |c: usize| view.coords[c].is_some() || (alone && nest.axes[TILE].pes[c] > 1);
            nest.grid[range.clone()].iter().any(|&n| n > 1) && !range.into_iter().any(apart)
        };
        match (part(0..2), part(2..PE_COORDS)) {
            (true, true) => Multicast::All,
            (false, true) => Multicast::Row,
            (true, false) => Multicast::Col,
            (false, false) => Multicast::None,
        }
    }

    fn load_queries(&mut self, stage: u8, pass: &Pass, tile: u64) -> Lowered<()> {
        let place = self.places[0].clone();
        let [b, g, r, l, d] = self.strides(&place, true);
        let (share, size) = (self.plan.sizes.share, self.plan.sizes.size);
        let sides = [
            self.one(BATCH, b),
            self.one(GROUP, g),
            Side::free(share, r),
            self.queries(pass, tile, l),
            Side::free(size, d),
        ];
        let offset = place.offset + pass.low as i64 * l;
        self.load(stage, self.buffers.q, place.storage, offset, &sides, false)
    }

    fn load_keyed(&mut self, stage: u8, which: usize) -> Lowered<()> {
        let place = self.places[which].clone();
        let [b, g, _, l, d] = self.strides(&place, false);
        let (width, buffer) = match which {
            1 => (self.plan.sizes.size, self.buffers.k),
            _ => (self.plan.sizes.width, self.buffers.v),
        };
        let sides = [self.one(BATCH, b), self.one(GROUP, g), self.keys(l), Side::free(width, d)];
        let alone = self.plan.triangular;
        self.load(stage, buffer, place.storage, place.offset, &sides, alone)
    }

    /// Which of batch, group, head, query and key the mask varies along.
    fn mask_dims(&self, ty: &TensorType) -> [bool; 5] {
        let s = &self.plan.sizes;
        let heads = ty.shape[1] > 1;
        [ty.shape[0] > 1, heads && s.groups > 1, heads && s.share > 1, ty.shape[2] > 1, true]
    }

    fn load_mask(&mut self, stage: u8, pass: &Pass, tile: u64) -> Lowered<()> {
        let (Some((place, ty)), Some(buffer)) = (self.mask.clone(), self.buffers.mask) else { return Ok(()) };
        let [b, g, r, l, k] = self.strides(&place, true);
        let all = [
            self.one(BATCH, b),
            self.one(GROUP, g),
            Side::free(self.plan.sizes.share, r),
            self.queries(pass, tile, l),
            self.keys(k),
        ];
        let varies = self.mask_dims(&ty);
        let offset = place.offset + if varies[3] { pass.low as i64 * l } else { 0 };
        let sides: Vec<Side> = all.into_iter().zip(varies).filter(|(_, v)| *v).map(|(s, _)| s).collect();
        self.load(stage, buffer, place.storage, offset, &sides, self.plan.triangular)
    }

    /// Rows by columns of a slot, as (head, query, column); a stride of 0 repeats.
    fn rows(&mut self, format: Format, columns: u64, strides: [i64; 3]) -> Lowered<u16> {
        let (share, queries) = (self.plan.sizes.share, self.plan.queries);
        let sides =
            [Side::free(share, strides[0]), Side::free(queries, strides[1]), Side::free(columns, strides[2])];
        self.local(format, &sides)
    }

    fn dense_rows(&mut self, format: Format, columns: u64) -> Lowered<u16> {
        let n = columns as i64;
        self.rows(format, columns, [self.plan.queries as i64 * n, n, 1])
    }

    /// One number for each row.
    fn row_numbers(&mut self) -> Lowered<u16> {
        self.rows(Format::F32, self.plan.keys, [self.plan.queries as i64, 1, 0])
    }

    /// The domain of a softmax program: heads, queries, keys.
    fn domain(&mut self, pass: &Pass, tile: u64, compare: Option<Compare>) -> Lowered<u16> {
        let plan = self.plan;
        let mut queries = Side::free(plan.queries, 0);
        let mut keys = self.keys(0);
        // The key on the diagonal of the block's first row.
        let diagonal = pass.block + self.a.shift;
        match (compare, plan.rejection) {
            (Some(Compare::Absolute), _) => {
                queries.origin = pass.block + self.within(pass, tile);
                queries.moves = vec![(TILE, pass.step)];
            }
            (Some(Compare::Diagonal), _) => {
                queries.origin = self.within(pass, tile);
                keys.origin = -diagonal;
                keys.bound = u64::from(u32::MAX);
                keys.moves.push((TILE, -pass.step));
            }
            // Keys before the diagonal: below a bound that coordinates are moved to.
            (Some(Compare::Nothing), Rejection::Diagonal) => {
                let bound = (plan.n_blocks + 1) * plan.block() + self.a.shift.unsigned_abs() + plan.keys;
                keys.origin = bound as i64 - diagonal;
                keys.bound = bound;
                keys.moves.push((TILE, -pass.step));
            }
            (Some(Compare::Nothing), Rejection::Never | Rejection::Everywhere) | (None, _) => {}
        }
        let sides = [Side::free(plan.sizes.share, 0), queries, keys];
        self.local(Format::F32, &sides)
    }

    fn stream(buffer: u8, action: Action, view: u16) -> Stream {
        Stream { operand: Operand::new(buffer, action, view), mode: ScaleMode::Floor }
    }

    /// A stream on the slot of tile number `tile`, where those of all tiles of the block are there.
    fn stream_of(tile: u64, buffer: u8, action: Action, view: u16) -> Stream {
        Stream { operand: Self::operand_of(tile, buffer, action, view), mode: ScaleMode::Floor }
    }

    fn operand_of(tile: u64, buffer: u8, action: Action, view: u16) -> Operand {
        let delta = match action {
            Action::Read | Action::Update => tile as u8,
            Action::Push | Action::Pop => 0,
        };
        Operand { delta, ..Operand::new(buffer, action, view) }
    }

    fn run(&mut self, stage: u8, name: &str, domain: u16, parallel: u8, streams: Vec<Stream>, parts: Parts) {
        let Parts { init, body, finish, constants } = parts;
        let name = name.to_string();
        self.kb.kernel.programs.push(Program {
            name,
            domain,
            parallel,
            streams,
            constants,
            init,
            body,
            finish,
        });
        let program = (self.kb.kernel.programs.len() - 1) as u16;
        self.push(stage, InstKind::Run { program });
    }

    /// The softmax of a tile of keys.
    fn softmax(&mut self, stage: u8, pass: &Pass, tile: u64) -> Lowered<()> {
        let plan = self.plan;
        let b = &self.buffers;
        let (scores, weights, bent, greatest_at, sum, factor) =
            (b.scores, b.weights, b.bent, b.greatest, b.sum, b.factor);
        let mask_buffer = b.mask;
        let scores_view = self.dense_rows(Format::F32, plan.keys)?;
        let row = self.row_numbers()?;
        let mask_view = match self.mask.clone() {
            None => None,
            Some((_, ty)) => {
                let varies = self.mask_dims(&ty);
                let mut strides = [0; 3];
                let mut stride = plan.keys as i64;
                strides[2] = 1;
                if varies[3] {
                    strides[1] = stride;
                    stride *= plan.queries as i64;
                }
                if varies[2] {
                    strides[0] = stride;
                }
                let elem = ty.elem.format();
                Some(self.rows(elem, plan.keys, strides)?)
            }
        };
        let carried = factor.is_some();
        let kinds = passes(plan.rejection);
        for (i, &compare) in kinds.iter().enumerate() {
            let (first, last) = (i == 0, i + 1 == kinds.len());
            let make = if first { Action::Push } else { Action::Update };
            let mut streams = Vec::new();
            let mut at = Streams::default();
            let mut add = |stream: Stream| {
                streams.push(stream);
                (streams.len() - 1) as u8
            };
            // Bent scores replace the products.
            let done = if last && bent.is_some() { Action::Pop } else { Action::Read };
            at.scores = add(Self::stream(scores, done, scores_view));
            if let (Some(buffer), Some(view)) = (mask_buffer, mask_view) {
                let action = if last { Action::Pop } else { Action::Read };
                at.mask = Some(add(Self::stream(buffer, action, view)));
            }
            if let Some(buffer) = bent {
                at.bent = Some(add(Self::stream(buffer, make, scores_view)));
            }
            let update = if carried { Action::Update } else { make };
            at.greatest = add(Self::stream_of(tile, greatest_at, update, row));
            if let Some(buffer) = factor {
                at.factor = Some(add(Self::stream_of(tile, buffer, make, row)));
            }
            let parts = greatest(&self.a, plan, &at, compare)?;
            let domain = self.domain(pass, tile, Some(compare))?;
            self.run(stage, "greatest", domain, KEY_STEPS, streams, parts);
        }
        let value = Format::Scalar(plan.sizes.types[2]);
        let weights_view = self.dense_rows(value, plan.keys)?;
        let kinds: Vec<Option<Compare>> =
            if bent.is_some() { vec![None] } else { kinds.iter().map(|&c| Some(c)).collect() };
        for (i, &compare) in kinds.iter().enumerate() {
            let (first, last) = (i == 0, i + 1 == kinds.len());
            let make = if first { Action::Push } else { Action::Update };
            let leave = if last { Action::Pop } else { Action::Read };
            let mut streams = Vec::new();
            let mut at = Streams::default();
            let mut add = |stream: Stream| {
                streams.push(stream);
                (streams.len() - 1) as u8
            };
            match bent {
                Some(buffer) => at.bent = Some(add(Self::stream(buffer, leave, scores_view))),
                None => at.scores = add(Self::stream(scores, leave, scores_view)),
            }
            let (read, update) = if carried { (Action::Read, Action::Update) } else { (leave, make) };
            at.greatest = add(Self::stream_of(tile, greatest_at, read, row));
            at.sum = add(Self::stream_of(tile, sum, update, row));
            if let Some(buffer) = factor {
                at.factor = Some(add(Self::stream_of(tile, buffer, Action::Read, row)));
            }
            at.weights = add(Self::stream_of(tile, weights, make, weights_view));
            let parts = exponentials(&self.a, &at, compare.unwrap_or(Compare::Nothing))?;
            let domain = self.domain(pass, tile, compare)?;
            self.run(stage, "exponentials", domain, KEY_STEPS, streams, parts);
        }
        Ok(())
    }

    /// Scores: queries times keys.
    fn score(&mut self, stage: u8, pass: &Pass, tile: u64, done: Action) -> Lowered<()> {
        let s = self.plan.sizes;
        let [q, k, ..] = s.types.map(Format::Scalar);
        let (queries, size) = (self.plan.queries as i64, s.size as i64);
        let rows = [
            Side::free(s.share, queries * size),
            self.queries(pass, tile, size),
            Side::free(1, 0),
            Side::free(1, 0),
            Side::free(s.size, 1),
        ];
        let a = self.local(q, &rows)?;
        let columns =
            [Side::free(1, 0), self.keys(size), Side::free(1, 0), Side::free(1, 0), Side::free(s.size, 1)];
        let b = self.local(k, &columns)?;
        let bank = self.dense_rows(Format::F32, self.plan.keys)?;
        let bank = Operand::new(self.buffers.scores, Action::Push, bank);
        let a = Self::operand_of(tile, self.buffers.q, done, a);
        let b = Operand::new(self.buffers.k, self.last(tile), b);
        self.push(stage, InstKind::Mm { bank, a, b, order: Order::Nk });
        Ok(())
    }

    /// Weights times values, added to the result.
    fn gather_values(&mut self, stage: u8, pass: &Pass, tile: u64, action: Action) -> Lowered<()> {
        let s = self.plan.sizes;
        let value = Format::Scalar(s.types[2]);
        let (queries, keys) = (self.plan.queries as i64, self.plan.keys as i64);
        let rows = [
            Side::free(s.share, queries * keys),
            self.queries(pass, tile, keys),
            Side::free(1, 0),
            Side::free(1, 0),
            Side::free(self.plan.keys, 1),
        ];
        let a = self.local(value, &rows)?;
        let columns = [
            Side::free(1, 0),
            Side::free(1, 0),
            Side::free(1, 0),
            Side::free(self.plan.keys, s.width as i64),
            Side::free(s.width, 1),
        ];
        let b = self.local(value, &columns)?;
        let bank = self.dense_rows(Format::F32, s.width)?;
        let bank = Self::operand_of(tile, self.buffers.result, action, bank);
        let a = Operand::new(self.buffers.weights, Action::Pop, a);
        let b = Operand::new(self.buffers.v, self.last(tile), b);
        self.push(stage, InstKind::Mm { bank, a, b, order: Order::Kn });
        Ok(())
    }

    /// How tile number `tile` uses what the tiles of a block share.
    fn last(&self, tile: u64) -> Action {
        if tile + 1 == self.plan.cut { Action::Pop } else { Action::Read }
    }

    /// Domain over the result's tile.
    fn result_domain(&mut self) -> Lowered<u16> {
        self.rows(Format::F32, self.plan.sizes.width, [0; 3])
    }

    fn rescale(&mut self, stage: u8, tile: u64, factor: u8) -> Lowered<()> {
        let width = self.plan.sizes.width;
        let result = self.dense_rows(Format::F32, width)?;
        let row = self.rows(Format::F32, width, [self.plan.queries as i64, 1, 0])?;
        let streams = vec![
            Self::stream_of(tile, self.buffers.result, Action::Update, result),
            Self::stream(factor, Action::Pop, row),
        ];
        let domain = self.result_domain()?;
        self.run(stage, "rescale", domain, VIEW_DIMS as u8, streams, rescale()?);
        Ok(())
    }

    fn finish(&mut self, stage: u8) -> Lowered<()> {
        let width = self.plan.sizes.width;
        let result = self.dense_rows(Format::F32, width)?;
        let row = self.rows(Format::F32, width, [self.plan.queries as i64, 1, 0])?;
        let y = self.dense_rows(Format::Scalar(self.plan.sizes.types[3]), width)?;
        let streams = vec![
            Self::stream(self.buffers.result, Action::Pop, result),
            Self::stream(self.buffers.sum, Action::Pop, row),
            Self::stream(self.buffers.y, Action::Push, y),
        ];
        let domain = self.result_domain()?;
        let parts = divide(self.a.empty_row)?;
        self.run(stage, "divide", domain, VIEW_DIMS as u8, streams, parts);
        Ok(())
    }

    fn store(&mut self, stage: u8, pass: &Pass, tile: u64) -> Lowered<()> {
        let place = self.places[3].clone();
        let [b, g, r, l, d] = self.strides(&place, true);
        let (share, width) = (self.plan.sizes.share, self.plan.sizes.width);
        let sides = [
            self.one(BATCH, b),
            self.one(GROUP, g),
            Side::free(share, r),
            self.queries(pass, tile, l),
            Side::free(width, d),
        ];
        let base = self.kb.base(place.storage, Access::Out);
        let format = self.formats[usize::from(base)];
        let offset = place.offset + pass.low as i64 * l;
        let dst = self.view(format, Space::Global(base), offset, &sides)?;
        let sizes: Vec<u64> = sides.iter().map(|s| s.size).collect();
        let slot = self.slot(format, &sizes)?;
        self.push(stage, InstKind::St { src: Operand::new(self.buffers.y, Action::Pop, slot), dst });
        Ok(())
    }

    fn open(&mut self, trip: Trip, axis: usize, stages: u8) -> bool {
        let Some(level) = self.kb.nest.level(axis) else { return false };
        let trips = &mut self.kb.kernel.trips;
        let at = trips.iter().position(|t| *t == trip).unwrap_or_else(|| {
            trips.push(trip);
            trips.len() - 1
        });
        self.push(0, InstKind::Loop { trip: at as u16, level, stages });
        true
    }

    /// Tiles of keys that a pass needs.
    fn trip(&self, pass: &Pass) -> Lowered<Trip> {
        let plan = self.plan;
        let all = plan.n_key_tiles() as i64;
        if !plan.triangular {
            return Ok(Trip::constant(fit(all)?));
        }
        let keys = plan.keys as i64;
        let shift = (self.a.shift + keys - 1) / keys;
        let base = (pass.block + plan.block() as i64) / keys + shift;
        let mut trip = Trip { base, max: fit(all)?, ..Trip::default() };
        let tiles = &self.kb.nest.axes[TILE];
        let factor = |n: u64| fit(n as i64 * pass.step / keys);
        if let Some(level) = self.kb.nest.level(TILE) {
            trip.levels[usize::from(level)] = factor(1)?;
        }
        for c in 0..PE_COORDS {
            if tiles.pes[c] > 1 {
                trip.coords[c] = factor(tiles.coord_step(c))?;
            }
        }
        Ok(trip)
    }

    /// A block of queries whose keys come in several tiles. The result of the block before is stored after this one's
    /// loads: transfers share their port in program order.
    fn streamed(&mut self, pass: &Pass, before: Option<(u8, &Pass)>) -> Lowered<()> {
        let (least, zero) = (u64::from(f32::MIN.to_bits()), 0);
        let tiles = 0..self.plan.cut;
        for tile in tiles.clone() {
            self.load_queries(0, pass, tile)?;
            let numbers = self.slot(Format::F32, &[self.plan.rows()])?;
            for (buffer, value) in [(self.buffers.greatest, least), (self.buffers.sum, zero)] {
                let constants = &mut self.kb.kernel.constants;
                let at = constants.iter().position(|&c| c == value).unwrap_or_else(|| {
                    constants.push(value);
                    constants.len() - 1
                });
                let dst = Operand::new(buffer, Action::Push, numbers);
                self.push(0, InstKind::Fill { dst, value: at as u16 });
            }
            let result = self.dense_rows(Format::F32, self.plan.sizes.width)?;
            let bank = Operand::new(self.buffers.result, Action::Push, result);
            self.push(0, InstKind::Zero { bank });
        }
        let trip = self.trip(pass)?;
        self.open(trip, KEYS, 4);
        self.load_keyed(0, 1)?;
        for tile in tiles.clone() {
            self.load_mask(1, pass, tile)?;
        }
        self.load_keyed(1, 2)?;
        let factor = self.buffers.factor.ok_or("a loop over keys without a factor")?;
        for tile in tiles.clone() {
            self.rescale(3, tile, factor)?;
            self.gather_values(3, pass, tile, Action::Update)?;
        }
        for tile in tiles.clone() {
            self.softmax(2, pass, tile)?;
        }
        for tile in tiles.clone() {
            self.score(1, pass, tile, Action::Read)?;
        }
        self.push(0, InstKind::End {});
        if let Some((stage, before)) = before {
            for tile in tiles.clone() {
                self.store(stage, before, tile)?;
            }
        }
        for buffer in [self.buffers.q, self.buffers.greatest] {
            self.push(0, InstKind::Pop { n: self.plan.cut as u16, buffer });
        }
        for _ in tiles {
            self.finish(0)?;
        }
        Ok(())
    }

    /// A tile of queries whose keys are one tile; `staged` when the loop around it is.
    fn single(&mut self, pass: &Pass, staged: bool) -> Lowered<()> {
        let stage = |s: u8| if staged { s } else { 0 };
        self.load_queries(stage(0), pass, 0)?;
        self.load_keyed(stage(0), 1)?;
        self.load_mask(stage(1), pass, 0)?;
        self.load_keyed(stage(1), 2)?;
        if staged {
            self.gather_values(3, pass, 0, Action::Push)?;
            self.softmax(2, pass, 0)?;
            self.score(1, pass, 0, Action::Pop)?;
        } else {
            self.score(0, pass, 0, Action::Pop)?;
            self.softmax(0, pass, 0)?;
            self.gather_values(0, pass, 0, Action::Push)?;
        }
        self.finish(stage(3))?;
        self.store(stage(3), pass, 0)
    }
}

/// Dimensions before the walked one: a row's keys are its sequence.
const KEY_STEPS: u8 = (VIEW_DIMS - 1) as u8;

impl Lowering<'_> {
    /// `attention`: see the head of this file.
    pub fn attention(&mut self, node: Node, result: Value) -> Lowered {
        let data = &self.func.nodes[node];
        let a = Attention::of(&data.op).ok_or("not attention")?;
        let types: Vec<&TensorType> = data.args.iter().map(|&v| self.func.ty(v)).collect();
        let plan = Plan::choose(&a, &types, self.target)
            .ok_or("no tile of the attention fits the memories of a PE")?;
        let args = data.args.clone();
        let places =
            [self.place(args[0])?, self.place(args[1])?, self.place(args[2])?, self.allocate(result)];
        let mask = match args.get(3) {
            Some(&m) => Some((self.place(m)?, self.func.ty(m).clone())),
            None => None,
        };
        let storages = self.storages.clone();
        let storage_of = |s: StorageId| -> Storage { storages[s].clone() };
        let mut kb = KernelBuilder::new("attention", plan.nest.clone(), &storage_of);
        let buffers = buffers(&mut kb, &plan, mask.as_ref().map(|(_, ty)| ty))?;
        let mut formats = Vec::new();
        let used = places.iter().take(3).map(|p| (p.storage, Access::In));
        let used = used.chain(mask.iter().map(|(p, _)| (p.storage, Access::In)));
        for (storage, access) in used.chain([(places[3].storage, Access::Out)]) {
            let base = usize::from(kb.base(storage, access));
            formats.resize(formats.len().max(base + 1), storages[storage].format);
        }
        let mut flash = Flash { kb, plan: &plan, a, buffers, places: places.clone(), mask, formats };

        let (step, half, length) = (plan.block() as i64, plan.half(), plan.sizes.length);
        let last = (plan.n_blocks as i64 - 1) * step;
        let mut passes = Vec::new();
        for part in 0..plan.parts {
            let within = part * plan.queries * plan.cut;
            passes.push(Pass { block: 0, step, within, low: 0, high: half.min(length) });
            if plan.triangular {
                passes.push(Pass { block: last, step: -step, within, low: half, high: length });
            }
        }
        let axes: Vec<usize> =
            [BATCH, GROUP, TILE].into_iter().filter(|&x| flash.kb.nest.level(x).is_some()).collect();
        let single = plan.n_key_tiles() == 1;
        for (i, &axis) in axes.iter().enumerate() {
            let trip = Trip::constant(fit(flash.kb.nest.axes[axis].trip as i64)?);
            let innermost = i + 1 == axes.len();
            // One step, or a result that is stored in the next round.
            let stages = if innermost && single { 4 } else { 1 + u8::from(innermost) };
            flash.open(trip, axis, stages);
        }
        for (i, pass) in passes.iter().enumerate() {
            let before = match i {
                0 if axes.is_empty() => None,
                0 => passes.last().map(|p| (1, p)),
                _ => Some((0, &passes[i - 1])),
            };
            if single {
                flash.single(pass, !axes.is_empty())?;
            } else {
                flash.streamed(pass, before)?;
            }
        }
        if let (Some(pass), true, false) = (passes.last(), axes.is_empty(), single) {
            for tile in 0..plan.cut {
                flash.store(0, pass, tile)?;
            }
        }
        for _ in &axes {
            flash.push(0, InstKind::End {});
        }
        let (kernel, bases) = flash.kb.finish(self.target.local_bytes, self.target.bank_bytes)?;
        self.launch(kernel, bases);
        self.places[result] = Some(places[3].clone());
        Ok(())
    }
}

fn buffers(kb: &mut KernelBuilder<'_>, plan: &Plan, mask: Option<&TensorType>) -> Lowered<Buffers> {
    let s = &plan.sizes;
    let rows = plan.rows();
    let [q, k, v, y] = s.types;
    let mut local = |name: &str, elem: ScalarType, elements: u64, slots: u8| {
        kb.buffer(name, BufferKind::Local, elem.bytes_for(elements), slots)
    };
    let single = plan.n_key_tiles() == 1;
    // Those of the tiles of a block, and of the block before or after.
    let two = 2 * plan.cut as u8;
    // Those that are free again when the next ones are made.
    let more = plan.cut as u8 + 1;
    let q = local("q", q, rows * s.size, two)?;
    let k = local("k", k, plan.keys * s.size, KEY_SLOTS)?;
    let v_buffer = local("v", v, plan.keys * s.width, VALUE_SLOTS)?;
    let mask = match mask {
        None => None,
        Some(ty) => {
            let heads = if ty.shape[1] > 1 { s.share } else { 1 };
            let queries = if ty.shape[2] > 1 { plan.queries } else { 1 };
            let elem = ty.elem.scalar().ok_or("a grouped mask")?;
            Some(local("mask", elem, heads * queries * plan.keys, two)?)
        }
    };
    let bent =
        if plan.transformed { Some(local("bent", ScalarType::F32, rows * plan.keys, 1)?) } else { None };
    let greatest = local("greatest", ScalarType::F32, rows, two)?;
    let sum = local("sum", ScalarType::F32, rows, two)?;
    let factor = if single { None } else { Some(local("factor", ScalarType::F32, rows, two)?) };
    let weights = local("weights", v, rows * plan.keys, more)?;
    let y = local("y", y, rows * s.width, more)?;
    let [score_bytes, result_bytes] = plan.bank_slots();
    let scores = kb.buffer("scores", BufferKind::Bank, score_bytes, plan.banks[0].max(plan.cut as u8))?;
    let result = kb.buffer("result", BufferKind::Bank, result_bytes, plan.banks[1] * plan.cut as u8)?;
    Ok(Buffers { q, k, v: v_buffer, mask, scores, bent, greatest, sum, factor, weights, result, y })
}
