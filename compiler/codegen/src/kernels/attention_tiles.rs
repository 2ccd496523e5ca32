//! What attention is made of: views of its tiles, transfers, products, and programs on them.

use lacuna_ir::TensorType;
use lacuna_ir::expand::Attention;
use lacuna_isa::format::{Format, ScaleMode};
use lacuna_isa::inst::{Action, Fill, Inst, InstKind, Multicast, Operand, Order};
use lacuna_isa::object::{Access, Trip};
use lacuna_isa::program::{Program, Stream};
use lacuna_isa::view::{Advance, Dim, LOOP_LEVELS, PE_COORDS, Space, VIEW_DIMS, View};

use super::attention_plan::{BATCH, GROUP, KEYS, PART, Plan, Rejection, Sizes, TILE};
use super::attention_programs::{Compare, Parts, divide, rescale};
use crate::emit::KernelBuilder;
use crate::place::{Place, StorageId};
use crate::refusal::{Lowered, Refusal};

/// One dimension of a view: which axes move it, and by how many coordinates per element of each axis.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub size: u64,
    pub stride: i64,
    pub origin: i64,
    pub bound: u64,
    pub moves: Vec<(usize, i64)>,
}

impl Side {
    /// A dimension that neither moves nor clips.
    pub fn free(size: u64, stride: i64) -> Side {
        Side { size, stride, origin: 0, bound: u64::from(u32::MAX), moves: Vec::new() }
    }
}

/// The tiles of queries that one pass over the keys belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// First query of the block of index 0, and distance of blocks.
    pub block: i64,
    pub step: i64,
    /// First query of the pass within its block.
    pub within: u64,
    /// Distance of the parts of a block that PEs take at the same time.
    pub part: i64,
    /// Queries from `low` to `high` are this pass's.
    pub low: u64,
    pub high: u64,
}

/// Dimensions before the walked one: a row's keys are its sequence.
pub(super) const KEY_STEPS: u8 = (VIEW_DIMS - 1) as u8;

/// The buffers of the kernel.
pub(super) struct Buffers {
    pub q: u8,
    pub k: u8,
    pub v: u8,
    pub mask: Option<u8>,
    pub scores: u8,
    pub bent: Option<u8>,
    pub greatest: u8,
    pub sum: u8,
    pub factor: Option<u8>,
    /// Maxima of the parts of a tile.
    pub peaks: Vec<u8>,
    /// Pieces of a stripe of queries, where there are several.
    pub pieces: Option<u8>,
    pub weights: u8,
    pub result: u8,
    pub y: u8,
}

/// A kernel under construction.
pub(super) struct Flash<'a, 'p> {
    pub kb: KernelBuilder<'a>,
    pub plan: &'p Plan,
    pub a: Attention,
    pub buffers: Buffers,
    /// Places of queries, keys, values, the result and the mask.
    pub places: [Place; 4],
    pub mask: Option<(Place, TensorType)>,
    /// How far behind the first parameter the last key may be that a query sees, where only the keys up to there are read.
    pub live: Option<i64>,
    pub formats: Vec<Format>,
    /// What the result is stored in, and how its scales are chosen where it is grouped.
    pub y: (Format, ScaleMode),
}

/// `value` in a field of a view or trip.
pub(super) fn fit<T: TryFrom<i64>>(value: i64) -> Lowered<T> {
    T::try_from(value).map_err(|_| Refusal::Limit(format!("{value} does not fit a view")))
}

impl Flash<'_, '_> {
    /// A view of up to five dimensions, padded in front.
    pub fn view(&mut self, format: Format, space: Space, offset: i64, sides: &[Side]) -> Lowered<u16> {
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
                let level =
                    self.kb.nest.level(axis).map(|level| (&mut levels[usize::from(level)], data.tile));
                let along = coords.iter_mut().enumerate().filter(|(c, _)| data.pes[*c] > 1);
                for (place, elements) in
                    level.into_iter().chain(along.map(|(c, to)| (to, data.coord_step(c))))
                {
                    if place.replace(step(elements)?).is_some() {
                        return Err(Refusal::Limit(
                            "a counter or coordinate moves two dimensions of a view".into(),
                        ));
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

    pub fn local(&mut self, format: Format, sides: &[Side]) -> Lowered<u16> {
        self.view(format, Space::Local, 0, sides)
    }

    /// The dense view of a whole slot with these sizes.
    pub fn slot(&mut self, format: Format, sizes: &[u64]) -> Lowered<u16> {
        let mut sides: Vec<Side> = sizes.iter().map(|&n| Side::free(n, 1)).collect();
        for d in (0..sides.len().saturating_sub(1)).rev() {
            sides[d].stride = sides[d + 1].stride * sides[d + 1].size as i64;
        }
        self.local(format, &sides)
    }

    pub fn push(&mut self, stage: u8, kind: InstKind) {
        self.kb.kernel.code.push(Inst { stage, kind });
    }

    /// Strides of batch, group, head of the group and the last two dimensions.
    pub fn strides(&self, place: &Place, heads: bool) -> [i64; 5] {
        let s = &place.strides;
        let Sizes { batch, share, apart, .. } = self.plan.sizes;
        match (heads, apart) {
            (true, false) => [s[0], s[1] * share as i64, s[1], s[2], s[3]],
            (true, true) => [s[1], s[1] * batch as i64, 0, s[2], s[3]],
            (false, false) => [s[0], s[1], 0, s[2], s[3]],
            (false, true) => [0, s[1], 0, s[2], s[3]],
        }
    }

    /// The place along an axis that a unit has. What repeats along it is the same for all PEs.
    pub fn one(&self, axis: usize, stride: i64) -> Side {
        if stride == 0 {
            return Side::free(1, 0);
        }
        let bound = self.kb.nest.axes[axis].size;
        Side { size: 1, stride, origin: 0, bound, moves: vec![(axis, 1)] }
    }

    /// The queries of tile number `tile` of a block.
    pub fn queries(&self, pass: &Pass, tile: u64, stride: i64) -> Side {
        Side {
            size: self.plan.queries,
            stride,
            origin: pass.block + self.within(pass, tile) - pass.low as i64,
            bound: pass.high - pass.low,
            moves: vec![(TILE, pass.step), (PART, pass.part)],
        }
    }

    pub fn within(&self, pass: &Pass, tile: u64) -> i64 {
        (pass.within + tile * self.plan.queries) as i64
    }

    pub fn keys(&self, stride: i64) -> Side {
        Side { size: self.plan.keys, stride, origin: 0, bound: self.plan.sizes.keys, moves: vec![(KEYS, 1)] }
    }

    /// Loads a box. PEs whose trip counts differ cannot share a fetch: `alone` says that they might.
    pub fn load(
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

    pub fn multicast(&self, view: u16, alone: bool) -> Multicast {
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

    pub fn load_queries(&mut self, stage: u8, pass: &Pass, tile: u64) -> Lowered<()> {
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

    pub fn load_keyed(&mut self, stage: u8, which: usize) -> Lowered<()> {
        let place = self.places[which].clone();
        let stride = self.strides(&place, false)[3];
        let tile = self.keys(stride);
        self.load_keys(stage, which, tile)
    }

    /// Loads keys or values.
    pub fn load_keys(&mut self, stage: u8, which: usize, tile: Side) -> Lowered<()> {
        let place = self.places[which].clone();
        let [b, g, _, _, d] = self.strides(&place, false);
        let (width, buffer) = match which {
            1 => (self.plan.sizes.size, self.buffers.k),
            _ => (self.plan.sizes.width, self.buffers.v),
        };
        let sides = [self.one(BATCH, b), self.one(GROUP, g), tile, Side::free(width, d)];
        let alone = self.plan.triangular;
        self.load(stage, buffer, place.storage, place.offset, &sides, alone)
    }

    /// Which of batch, group, head, query and key the mask varies along.
    pub fn mask_dims(&self, ty: &TensorType) -> [bool; 5] {
        let s = &self.plan.sizes;
        let heads = ty.shape[1] > 1;
        [ty.shape[0] > 1, heads && s.groups > 1, heads && s.share > 1, ty.shape[2] > 1, true]
    }

    pub fn load_mask(&mut self, stage: u8, pass: &Pass, tile: u64) -> Lowered<()> {
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
    pub fn rows(&mut self, format: Format, columns: u64, strides: [i64; 3]) -> Lowered<u16> {
        let (share, queries) = (self.plan.sizes.share, self.plan.queries);
        let sides =
            [Side::free(share, strides[0]), Side::free(queries, strides[1]), Side::free(columns, strides[2])];
        self.local(format, &sides)
    }

    pub fn dense_rows(&mut self, format: Format, columns: u64) -> Lowered<u16> {
        let n = columns as i64;
        self.rows(format, columns, [self.plan.queries as i64 * n, n, 1])
    }

    /// One number for each row.
    pub fn row_numbers(&mut self) -> Lowered<u16> {
        self.rows(Format::F32, self.plan.keys, [self.plan.queries as i64, 1, 0])
    }

    /// The domain of a softmax program: heads, queries, keys.
    pub fn domain(&mut self, pass: &Pass, tile: u64, compare: Option<Compare>) -> Lowered<u16> {
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

    pub fn stream(buffer: u8, action: Action, view: u16) -> Stream {
        Stream { operand: Operand::new(buffer, action, view), mode: ScaleMode::Floor }
    }

    /// A stream on the slot of tile number `tile`, where those of all tiles of the block are there.
    pub fn stream_of(tile: u64, buffer: u8, action: Action, view: u16) -> Stream {
        Stream { operand: Self::operand_of(tile, buffer, action, view), mode: ScaleMode::Floor }
    }

    pub fn operand_of(tile: u64, buffer: u8, action: Action, view: u16) -> Operand {
        let delta = match action {
            Action::Read | Action::Update => tile as u8,
            Action::Push | Action::Pop => 0,
        };
        Operand { delta, ..Operand::new(buffer, action, view) }
    }

    pub fn run(
        &mut self,
        stage: u8,
        name: &str,
        domain: u16,
        parallel: u8,
        streams: Vec<Stream>,
        parts: Parts,
    ) {
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

    /// Sums and results of a tile of queries without keys.
    pub fn start_rows(&mut self, stage: u8) -> Lowered<()> {
        let (least, zero) = (u64::from(f32::MIN.to_bits()), 0);
        let numbers = self.slot(Format::F32, &[self.plan.rows()])?;
        for (buffer, value) in [(self.buffers.greatest, least), (self.buffers.sum, zero)] {
            let constants = &mut self.kb.kernel.constants;
            let at = constants.iter().position(|&c| c == value).unwrap_or_else(|| {
                constants.push(value);
                constants.len() - 1
            });
            let dst = Operand::new(buffer, Action::Push, numbers);
            self.push(stage, InstKind::Fill { dst, value: at as u16 });
        }
        let result = self.dense_rows(Format::F32, self.plan.sizes.width)?;
        let bank = Operand::new(self.buffers.result, Action::Push, result);
        self.push(stage, InstKind::Zero { bank });
        Ok(())
    }

    /// Scores: queries times keys.
    pub fn score(&mut self, stage: u8, pass: &Pass, tile: u64, done: Action) -> Lowered<()> {
        let columns = self.keys(self.plan.sizes.size as i64);
        self.score_columns(stage, pass, tile, done, columns)
    }

    /// Queries times these keys of a slot.
    pub fn score_columns(
        &mut self,
        stage: u8,
        pass: &Pass,
        tile: u64,
        done: Action,
        columns: Side,
    ) -> Lowered<()> {
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
        let columns = [Side::free(1, 0), columns, Side::free(1, 0), Side::free(1, 0), Side::free(s.size, 1)];
        let b = self.local(k, &columns)?;
        let bank = self.dense_rows(Format::F32, self.plan.keys)?;
        let bank = Operand::new(self.buffers.scores, Action::Push, bank);
        let a = Self::operand_of(tile, self.buffers.q, done, a);
        let b = Operand::new(self.buffers.k, self.last(tile), b);
        self.push(stage, InstKind::Mm { bank, a, b, order: Order::Nk });
        Ok(())
    }

    /// Weights times values, added to the result.
    pub fn gather_values(&mut self, stage: u8, pass: &Pass, tile: u64, action: Action) -> Lowered<()> {
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
    pub fn last(&self, tile: u64) -> Action {
        if tile + 1 == self.plan.cut { Action::Pop } else { Action::Read }
    }

    /// Domain over the result's tile.
    pub fn result_domain(&mut self) -> Lowered<u16> {
        self.rows(Format::F32, self.plan.sizes.width, [0; 3])
    }

    pub fn rescale(&mut self, stage: u8, tile: u64, factor: u8) -> Lowered<()> {
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

    pub fn finish(&mut self, stage: u8) -> Lowered<()> {
        let width = self.plan.sizes.width;
        let result = self.dense_rows(Format::F32, width)?;
        let row = self.rows(Format::F32, width, [self.plan.queries as i64, 1, 0])?;
        let (format, mode) = self.y;
        let y = self.dense_rows(format, width)?;
        let streams = vec![
            Self::stream(self.buffers.result, Action::Pop, result),
            Self::stream(self.buffers.sum, Action::Pop, row),
            Stream { mode, ..Self::stream(self.buffers.y, Action::Push, y) },
        ];
        let domain = self.result_domain()?;
        let parts = divide(self.a.empty_row)?;
        self.run(stage, "divide", domain, VIEW_DIMS as u8, streams, parts);
        Ok(())
    }

    pub fn store(&mut self, stage: u8, pass: &Pass, tile: u64) -> Lowered<()> {
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

    /// Opens the loop of an axis, if it has one.
    pub fn open(&mut self, trip: Trip, axis: usize, stages: u8) -> bool {
        self.open_in(0, trip, axis, stages)
    }

    /// The same in a stage of the loop around it.
    pub fn open_in(&mut self, stage: u8, trip: Trip, axis: usize, stages: u8) -> bool {
        let Some(level) = self.kb.nest.level(axis) else { return false };
        let trips = &mut self.kb.kernel.trips;
        let at = trips.iter().position(|t| *t == trip).unwrap_or_else(|| {
            trips.push(trip);
            trips.len() - 1
        });
        self.push(stage, InstKind::Loop { trip: at as u16, level, stages });
        true
    }
}
