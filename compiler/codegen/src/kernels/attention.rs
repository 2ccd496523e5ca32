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
//! all keys are one tile, the stages belong to the innermost loop over units instead. Scores that are only scaled and compared in
//! tiles on the diagonal take another course: [`super::attention_flow`], or [`super::attention_stripes`].

use lacuna_ir::expand::Attention;
use lacuna_ir::{Node, TensorType, Value};
use lacuna_isa::format::{Format, ScalarType, ScaleMode};
use lacuna_isa::inst::{Action, InstKind};
use lacuna_isa::object::{Access, BufferKind, ParamTerm, Trip};
use lacuna_isa::program::Stream;
use lacuna_isa::view::PE_COORDS;

use super::attention_plan::{BATCH, Course, GROUP, KEYS, Plan, TILE};
use super::attention_programs::{Compare, Streams, exponentials, greatest, passes};
use super::attention_tiles::{Buffers, Flash, KEY_STEPS, Pass, fit};
use crate::emit::KernelBuilder;
use crate::lower::Lowering;
use crate::place::{Place, StorageId};
use crate::refusal::{Lowered, Refusal};

impl Flash<'_, '_> {
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

    /// Tiles of keys that a pass needs.
    fn trip(&self, pass: &Pass) -> Lowered<Trip> {
        let plan = self.plan;
        let (all, keys) = (plan.n_key_tiles() as i64, plan.keys as i64);
        if let Some(beyond) = self.live {
            let base = 1 + (beyond.max(0) + keys - 1) / keys;
            let param = Some(ParamTerm { param: 0, factor: 1, divisor: fit(keys)? });
            return Ok(Trip { base, param, max: fit(all)?, ..Trip::default() });
        }
        if !plan.triangular {
            return Ok(Trip::constant(fit(all)?));
        }
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
        let tiles = 0..self.plan.cut;
        for tile in tiles.clone() {
            self.load_queries(0, pass, tile)?;
            self.start_rows(0)?;
        }
        let trip = self.trip(pass)?;
        self.open(trip, KEYS, 4);
        self.load_keyed(0, 1)?;
        for tile in tiles.clone() {
            self.load_mask(1, pass, tile)?;
        }
        self.load_keyed(1, 2)?;
        let factor =
            self.buffers.factor.ok_or(Refusal::Contradiction("a loop over keys without a factor".into()))?;
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

impl Lowering<'_> {
    /// `attention`: see the head of this file.
    pub fn attention(&mut self, node: Node, result: Value) -> Lowered {
        let data = &self.func.nodes[node];
        let a = Attention::of(&data.op).ok_or(Refusal::Contradiction("not attention".into()))?;
        let types: Vec<&TensorType> = data.args.iter().map(|&v| self.func.ty(v)).collect();
        let plan = Plan::choose(&a, &types, self.target)
            .ok_or(Refusal::Limit("no tile of the attention fits the memories of a PE".into()))?;
        let args = data.args.clone();
        let plain = self.allocate(result);
        let sink = self.quantised_behind_views(result, &plain);
        let stored = match &sink {
            Some(sink) => Place { storage: sink.place.storage, ..plain.clone() },
            None => plain,
        };
        let (y_format, y_mode) = (self.storages[stored.storage].format, sink.as_ref().map(|sink| sink.mode));
        let places = [self.place(args[0])?, self.place(args[1])?, self.place(args[2])?, stored];
        let mask = match args.get(3) {
            Some(&m) => Some((self.place(m)?, self.func.ty(m).clone())),
            None => None,
        };
        // Of a cache only the tiles up to the position that the mask follows are read.
        let live = match args.get(3).filter(|_| !plan.triangular && plan.n_key_tiles() > 1) {
            Some(&mask) => {
                self.last_visible(mask, 3).and_then(|b| Some((self.position(b.position)?, b.beyond)))
            }
            None => None,
        };
        let mut kb = KernelBuilder::new("attention", plan.nest.clone(), &self.storages);
        let buffers = buffers(&mut kb, &plan, mask.as_ref().map(|(_, ty)| ty), y_format)?;
        let mut formats = Vec::new();
        let used = places.iter().take(3).map(|p| (p.storage, Access::In));
        let used = used.chain(mask.iter().map(|(p, _)| (p.storage, Access::In)));
        for (storage, access) in used.chain([(places[3].storage, Access::Out)]) {
            let base = usize::from(kb.base(storage, access));
            formats.resize(formats.len().max(base + 1), self.storages[storage].format);
        }
        let y = (y_format, y_mode.unwrap_or(ScaleMode::Floor));
        let beyond = live.as_ref().map(|(_, beyond)| *beyond);
        let mut flash =
            Flash { kb, plan: &plan, a, buffers, places: places.clone(), mask, live: beyond, formats, y };

        let (step, half, length) = (plan.block() as i64, plan.half(), plan.sizes.length);
        let last = (plan.n_blocks as i64 - 1) * step;
        let mut passes = Vec::new();
        let across = plan.across();
        for part in 0..if across { 1 } else { plan.parts } {
            let within = part * plan.queries * plan.cut;
            let (one, ends) =
                if across { (plan.queries as i64, (plan.parts - 1) * plan.queries) } else { (0, within) };
            passes.push(Pass { block: 0, step, within, part: one, low: 0, high: half.min(length) });
            if plan.triangular {
                // The part that sees the least of one block's last tile sees the most of the other's.
                let (block, step) = (last, -step);
                passes.push(Pass { block, step, within: ends, part: -one, low: half, high: length });
            }
        }
        let axes: Vec<usize> =
            [BATCH, GROUP, TILE].into_iter().filter(|&x| flash.kb.nest.level(x).is_some()).collect();
        let single = plan.n_key_tiles() == 1;
        for (i, &axis) in axes.iter().enumerate() {
            let trip = Trip::constant(fit(flash.kb.nest.axes[axis].trip as i64)?);
            let innermost = i + 1 == axes.len();
            // One step, or a result that is stored in the next round.
            let stages = match (innermost, single, plan.flows()) {
                (false, _, _) => 1,
                (true, true, _) => 4,
                (true, false, true) if plan.course == Course::Stripes => 3,
                (true, false, true) => Flash::flow_stages(passes.len()),
                (true, false, false) => 2,
            };
            flash.open(trip, axis, stages);
        }
        if plan.course == Course::Stripes {
            flash.stripes(!axes.is_empty())?;
        } else if plan.flows() {
            flash.flow(&passes, !axes.is_empty())?;
        }
        for (i, pass) in passes.iter().enumerate().filter(|_| !plan.flows()) {
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
        if let (Some(pass), true, false) = (passes.last(), axes.is_empty(), single || plan.flows()) {
            for tile in 0..plan.cut {
                flash.store(0, pass, tile)?;
            }
        }
        for _ in &axes {
            flash.push(0, InstKind::End {});
        }
        let (mut kernel, bases) = flash.kb.finish(self.target.local_bytes, self.target.bank_bytes)?;
        let mut bases: Vec<(StorageId, u64)> = bases.into_iter().map(|storage| (storage, 0)).collect();
        if let Some((position, _)) = &live {
            let most = fit(plan.sizes.keys as i64)?;
            position
                .load(self, &mut kernel, &mut bases, [0, most])
                .ok_or(Refusal::Limit("no register for the position".into()))?;
        }
        self.launch_at(kernel, bases);
        match sink {
            Some(sink) => self.places[sink.value] = Some(sink.place),
            None => self.places[result] = Some(places[3].clone()),
        }
        Ok(())
    }
}

fn buffers(
    kb: &mut KernelBuilder<'_>,
    plan: &Plan,
    mask: Option<&TensorType>,
    y_format: Format,
) -> Lowered<Buffers> {
    let s = &plan.sizes;
    let rows = plan.rows();
    let [q, k, v, _] = s.types;
    let mut local = |name: &str, elem: ScalarType, elements: u64, n: u8| {
        kb.buffer(name, BufferKind::Local, elem.bytes_for(elements), n)
    };
    let single = plan.n_key_tiles() == 1;
    // Those of the tiles of a block, and of the block before or after.
    let two = 2 * plan.cut as u8;
    let slots = plan.slots();
    let q = local("q", q, rows * s.size, slots.queries)?;
    let pieces = plan.pieces_of_stripe();
    let pieces = match pieces.iter().map(|piece| piece.rows).max() {
        Some(most) if pieces.len() > 1 => {
            Some(local("pieces", s.types[0], most * s.share * s.size, pieces.len() as u8)?)
        }
        _ => None,
    };
    let k = local("k", k, plan.keys * s.size, plan.key_slots)?;
    let v_buffer = local("v", v, plan.keys * s.width, slots.values)?;
    let mask = match mask {
        None => None,
        Some(ty) => {
            let heads = if ty.shape[1] > 1 { s.share } else { 1 };
            let queries = if ty.shape[2] > 1 { plan.queries } else { 1 };
            let elem = ty.elem.scalar().ok_or(Refusal::Grouped("a grouped mask".into()))?;
            Some(local("mask", elem, heads * queries * plan.keys, two)?)
        }
    };
    let bent =
        if plan.transformed { Some(local("bent", ScalarType::F32, rows * plan.keys, 1)?) } else { None };
    let greatest = local("greatest", ScalarType::F32, rows, two)?;
    let sum = local("sum", ScalarType::F32, rows, two)?;
    let factor = if single { None } else { Some(local("factor", ScalarType::F32, rows, two)?) };
    let peaks = ["peaks", "diagonal_peaks", "edge_peaks"].into_iter().take(plan.n_peaks());
    let peaks = peaks.map(|name| local(name, ScalarType::F32, rows, two)).collect::<Result<Vec<u8>, _>>()?;
    let weights = local("weights", v, rows * plan.keys, slots.weights)?;
    let y_bytes = KernelBuilder::slot_bytes(y_format, None, rows * s.width);
    let y = kb.buffer("y", BufferKind::Local, y_bytes, slots.results)?;
    let [score_bytes, result_bytes] = plan.bank_slots();
    let scores = kb.buffer("scores", BufferKind::Bank, score_bytes, plan.banks[0].max(plan.cut as u8))?;
    let result = kb.buffer("result", BufferKind::Bank, result_bytes, plan.banks[1] * plan.cut as u8)?;
    Ok(Buffers {
        q,
        k,
        v: v_buffer,
        mask,
        scores,
        bent,
        greatest,
        sum,
        factor,
        peaks,
        pieces,
        weights,
        result,
        y,
    })
}
