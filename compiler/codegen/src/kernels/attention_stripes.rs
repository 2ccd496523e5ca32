//! A flow in which a tile of queries is a stripe: every n-th query from one on, over all of them.
//!
//! Stripes see the same keys but for a few, so that PEs have equal work and share every fetch of keys. A tile of keys is seen by
//! the rows from the diagonal on, and in a window up to its edge: views clip the others, by a number of rows that grows by
//! a constant from round to round. A round of the loop is as many tiles of keys as make that number whole. In the few
//! rows that the diagonal or the window's edge passes through, scores of hidden keys are overwritten before maxima are taken.
//!
//! | where | what | engine |
//! |---|---|---|
//! | before the loop | load queries and keys, scores, their maxima | FI, DPE, RE |
//! | each tile | load the next keys and these values, weighted sum of the tile before, softmax, rescale, next scores and maxima | FI, DPE, SE, RE |
//! | between parts of the loop | load a piece of the next stripe, store a piece of the stripe before | FI |
//! | behind the loop | weighted sum of the last tile, division | DPE, SE |

use std::ops::Range;

use lacuna_isa::format::Format;
use lacuna_isa::inst::{Action, Extreme, Fill, InstKind, Operand, Order};
use lacuna_isa::object::{Access, Trip};
use lacuna_isa::view::{Space, VIEW_DIMS};

use super::attention_plan::{BATCH, GROUP, KEYS, Plan, TILE};
use super::attention_programs::{Compare, Streams, exponentials, hide, raise};
use super::attention_tiles::{Flash, KEY_STEPS, Side, fit};
use crate::refusal::{Lowered, Refusal};

/// A tile of keys: its number from the first key on, or from the first of the round of the loop that it is made in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tile {
    number: u64,
    looped: bool,
}

/// Rows of a stripe that are transferred together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The first row.
    pub first: u64,
    /// How many.
    pub rows: u64,
    /// Stripes that have them.
    pub stripes: u64,
}

/// Rows of a stripe that see a tile of keys, the same for all stripes. Those of a looped tile are relative to its round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    /// Rows that see some of the tile, in some stripe.
    pub rows: Range<i64>,
    /// Rows, from the first on, that the diagonal may pass through.
    pub diagonal: i64,
    /// First row that the edge of the window may pass through.
    pub edge: i64,
}

impl Seen {
    /// The rows that see keys from `first` on, where row r of a stripe stands at `r * stripes + shift` and up to
    /// `stripes - 1` further.
    pub fn of(plan: &Plan, shift: i64, window: u64, first: i64) -> Seen {
        let (n, last) = (plan.stripes as i64, first + plan.keys as i64 - 1);
        let floor = |position: i64| (position - shift).div_euclid(n);
        let ceil = |position: i64| -(shift - position).div_euclid(n);
        let (end, edge) = match window as i64 {
            // Beyond the rows of any round.
            0 => (FAR, FAR),
            window => (ceil(last + window), floor(first + window)),
        };
        let from = floor(first);
        Seen {
            rows: from..end.max(from),
            diagonal: ceil(last).min(end),
            edge: edge.clamp(from, end.max(from)),
        }
    }
}

/// A row that no stripe has, as far as coordinates reach.
pub(super) const FAR: i64 = 1 << 30;

impl Flash<'_, '_> {
    /// All stripes of a PE: `looped` when a loop over them is open.
    pub fn stripes(&mut self, looped: bool) -> Lowered<()> {
        let n_tiles = self.plan.n_key_tiles();
        let (rounds, round) = (self.plan.rounds(), self.plan.round);
        let last = Tile { number: n_tiles - 1, looped: false };
        // Looped, the queries of the next stripe are loaded `ahead` of all else by a stage, between parts of the loop over
        // keys, as the results of the stripe before are stored: transfers that take long would hold up keys.
        let s = u8::from(looped);
        let pieces = self.plan.pieces_of_stripe();
        if !looped {
            self.load_pieces(0, &pieces)?;
        }
        self.take_stripe(s)?;
        let tile = |number: u64| Tile { number, looped: false };
        self.load_seen(s, 1, tile(0))?;
        self.scores_of(s, tile(0))?;
        // The RE clears the result when the SE has what it waits for, the first maxima.
        self.start_rows(s)?;
        let (mut begun, mut rest) = (0, &pieces[..]);
        for part in 0..=self.plan.pieces {
            let end = rounds * (part + 1) / (self.plan.pieces + 1) * round;
            self.tiles_in_rounds(begun, (end - begun) / round, s)?;
            begun = end;
            // The last row, where few stripes have it, goes with the last piece.
            let n = if part + 1 == self.plan.pieces { rest.len() } else { rest.len().min(1) };
            let (now, later) = rest.split_at(n);
            rest = later;
            if looped {
                self.load_pieces(0, now)?;
                self.store_pieces(s + 1, now, later.is_empty())?;
            }
        }
        let mut former = None;
        for number in begun..n_tiles {
            let next = (tile(number) != last).then_some(tile(number + 1));
            self.tile_of_stripe(s, tile(number), next, former.map(|tile| (s, tile)))?;
            former = Some(tile(number));
        }
        for buffer in [self.buffers.q, self.buffers.greatest] {
            self.push(s, InstKind::Pop { n: 1, buffer });
        }
        // Few rows see the last tile: the SE divides while the DPE makes the first scores of the next stripe.
        self.add_tile(s, last)?;
        self.finish(s)?;
        if looped { Ok(()) } else { self.store_pieces(0, &pieces, true) }
    }

    /// The loop over so many rounds of tiles from number `first` on, in stage `s` of the loop around it.
    fn tiles_in_rounds(&mut self, first: u64, rounds: u64, s: u8) -> Lowered<()> {
        if rounds == 0 {
            return Ok(());
        }
        self.open_in(s, Trip::constant(fit(rounds as i64)?), KEYS, 2);
        let tile = |number: u64| Tile { number: first + number, looped: true };
        let last = self.plan.round - 1;
        for number in 0..=last {
            let before = if number == 0 { (1, tile(last)) } else { (0, tile(number - 1)) };
            self.tile_of_stripe(0, tile(number), Some(tile(number + 1)), Some(before))?;
        }
        self.push(0, InstKind::End {});
        Ok(())
    }

    /// The softmax of a tile, while the DPE adds the one `before` and makes the scores of the next.
    fn tile_of_stripe(
        &mut self,
        s: u8,
        tile: Tile,
        next: Option<Tile>,
        before: Option<(u8, Tile)>,
    ) -> Lowered<()> {
        if let Some(next) = next {
            self.load_seen(s, 1, next)?;
        }
        self.load_seen(s, 2, tile)?;
        self.weigh_tile(s, tile)?;
        // The next scores come first: what they wait for is earlier than what the sum waits for, and the SE needs them. So
        // do their maxima, since the RE would hold them up until that sum can be rescaled.
        if let Some(next) = next {
            self.scores_of(s, next)?;
        }
        if let Some((stage, before)) = before {
            self.add_tile(stage, before)?;
        }
        self.rescale_rows(s, tile)
    }

    fn seen(&self, tile: Tile) -> Seen {
        Seen::of(self.plan, self.a.shift, self.a.window, (tile.number * self.plan.keys) as i64)
    }

    /// These rows of a slot, relative to the round of `tile`.
    fn stripe_rows(&self, tile: Tile, rows: Range<i64>, stride: i64) -> Side {
        let plan = self.plan;
        let per_round = (plan.round * plan.keys / plan.stripes) as i64;
        Side {
            size: plan.queries,
            stride,
            origin: -rows.start,
            bound: (rows.end - rows.start).max(0) as u64,
            moves: if tile.looped { vec![(KEYS, -per_round)] } else { Vec::new() },
        }
    }

    /// The keys of a tile in its slot: the last tile may have fewer.
    fn columns(&self, tile: Tile, stride: i64) -> Side {
        let plan = self.plan;
        let side = Side::free(plan.keys, stride);
        if tile.looped { side } else { Side { bound: plan.sizes.keys - tile.number * plan.keys, ..side } }
    }

    /// Loads the keys or values of a tile.
    fn load_seen(&mut self, stage: u8, which: usize, tile: Tile) -> Lowered<()> {
        let plan = self.plan;
        let place = self.places[which].clone();
        let stride = self.strides(&place, false)[3];
        let (origin, size) = ((tile.number * plan.keys) as i64, plan.keys);
        let moves = if tile.looped { vec![(KEYS, (plan.round * size) as i64)] } else { Vec::new() };
        self.load_keys(stage, which, Side { size, stride, origin, bound: plan.sizes.keys, moves })
    }

    /// The dimensions of a piece of a stripe in memory.
    fn stripe(&self, which: usize, piece: &Piece) -> (i64, Vec<Side>) {
        let Piece { first, rows, stripes } = *piece;
        let (plan, place) = (self.plan, &self.places[which]);
        let [b, g, r, l, d] = self.strides(place, true);
        let s = &plan.sizes;
        let width = if which == 3 { s.width } else { s.size };
        let step = l * plan.stripes as i64;
        let stripe = Side { size: 1, stride: l, origin: 0, bound: stripes, moves: vec![(TILE, 1)] };
        let sides = [
            (s.batch, self.one(BATCH, b)),
            (s.groups, self.one(GROUP, g)),
            (s.share, Side::free(s.share, r)),
            (FULL, stripe),
            (FULL, Side::free(rows, step)),
            (FULL, Side::free(width, d)),
        ];
        let sides = sides.into_iter().filter(|(n, _)| *n > 1).map(|(_, side)| side).collect();
        (place.offset + first as i64 * step, sides)
    }

    /// Loads these pieces of a stripe of queries.
    fn load_pieces(&mut self, stage: u8, pieces: &[Piece]) -> Lowered<()> {
        let storage = self.places[0].storage;
        let buffer = self.buffers.pieces.unwrap_or(self.buffers.q);
        for piece in pieces {
            let (offset, sides) = self.stripe(0, piece);
            self.load(stage, buffer, storage, offset, &sides, false)?;
        }
        Ok(())
    }

    /// Puts the pieces of a stripe of queries together.
    fn take_stripe(&mut self, stage: u8) -> Lowered<()> {
        let Some(buffer) = self.buffers.pieces else { return Ok(()) };
        let s = self.plan.sizes;
        let (queries, step) = (Format::Scalar(s.types[0]), s.size as i64);
        for (i, piece) in self.plan.pieces_of_stripe().into_iter().enumerate() {
            // The first piece is pushed, and with it the whole slot: the other rows are zeros until their pieces come.
            let (action, first, all) = if i == 0 {
                (Action::Push, 0, self.plan.queries)
            } else {
                (Action::Update, piece.first, piece.rows)
            };
            let row = Side { bound: piece.rows, ..Side::free(all, step) };
            let share = Side::free(s.share, piece.rows as i64 * step);
            let src = self.local(queries, &[share, row, Side::free(s.size, 1)])?;
            let share = Side::free(s.share, self.plan.queries as i64 * step);
            let sides = [share, Side::free(all, step), Side::free(s.size, 1)];
            let dst = self.view(queries, Space::Local, first as i64 * step, &sides)?;
            let (dst, src) =
                (Operand::new(self.buffers.q, action, dst), Operand::new(buffer, Action::Pop, src));
            self.push(stage, InstKind::Move { dst, src, fill: Fill::Zero });
        }
        Ok(())
    }

    /// Stores these pieces of a stripe of results; `done` with the last of them.
    fn store_pieces(&mut self, stage: u8, pieces: &[Piece], done: bool) -> Lowered<()> {
        let plan = self.plan;
        let step = plan.sizes.width as i64;
        let base = self.kb.base(self.places[3].storage, Access::Out);
        let format = self.formats[usize::from(base)];
        for (i, piece) in pieces.iter().enumerate() {
            let (offset, sides) = self.stripe(3, piece);
            let dst = self.view(format, Space::Global(base), offset, &sides)?;
            // The slot's dimensions are those of the box.
            let mut local: Vec<Side> = sides.iter().map(|side| Side::free(side.size, 0)).collect();
            let d = local.len();
            (local[d - 1].stride, local[d - 2].stride) = (1, step);
            if plan.sizes.share > 1 {
                local[d - 4].stride = plan.queries as i64 * step;
            }
            let src = self.view(format, Space::Local, piece.first as i64 * step, &local)?;
            let action = if done && i + 1 == pieces.len() { Action::Pop } else { Action::Read };
            self.push(stage, InstKind::St { src: Operand::new(self.buffers.y, action, src), dst });
        }
        Ok(())
    }

    /// Scores of a tile, without those of hidden keys, and the greatest of each row.
    fn scores_of(&mut self, stage: u8, tile: Tile) -> Lowered<()> {
        let plan = self.plan;
        let s = plan.sizes;
        let seen = self.seen(tile);
        let [q, k, ..] = s.types.map(Format::Scalar);
        let (queries, size) = (plan.queries as i64, s.size as i64);
        let unit = Side::free(1, 0);
        let rows = self.stripe_rows(tile, seen.rows.clone(), size);
        let a = self.local(
            q,
            &[Side::free(s.share, queries * size), rows, unit.clone(), unit.clone(), Side::free(s.size, 1)],
        )?;
        let columns = self.columns(tile, size);
        let b = self.local(k, &[unit.clone(), columns, unit.clone(), unit, Side::free(s.size, 1)])?;
        let bank = self.dense_rows(Format::F32, plan.keys)?;
        let bank = Operand::new(self.buffers.scores, Action::Push, bank);
        let a = Operand::new(self.buffers.q, Action::Read, a);
        let b = Operand::new(self.buffers.k, Action::Pop, b);
        self.push(stage, InstKind::Mm { bank, a, b, order: Order::Nk });

        let Seen { rows, diagonal, edge } = seen;
        let windowed = self.a.window > 0;
        // Where diagonal and edge overlap, all rows are on both.
        let (diagonal, edge) = if diagonal < edge { (diagonal, edge) } else { (rows.end, rows.end) };
        // Maxima of rows without hidden keys need not wait for the SE.
        self.peaks_of(stage, tile, 0, diagonal..edge)?;
        for row in rows.start..seen.diagonal {
            self.hide_keys(stage, tile, row, true)?;
        }
        for row in if windowed { seen.edge..rows.end } else { 0..0 } {
            self.hide_keys(stage, tile, row, false)?;
        }
        self.peaks_of(stage, tile, 1, rows.start..diagonal)?;
        if windowed { self.peaks_of(stage, tile, 2, edge..rows.end) } else { Ok(()) }
    }

    /// Overwrites the scores of a row's keys behind the diagonal, or before its window.
    fn hide_keys(&mut self, stage: u8, tile: Tile, row: i64, behind: bool) -> Lowered<()> {
        let plan = self.plan;
        if !tile.looped && !(0..plan.queries as i64).contains(&row) {
            return Ok(());
        }
        // The last key that stripe 0 sees, counted from the tile's first; each stripe sees one more than the one before.
        let at = row * plan.stripes as i64 + self.a.shift - (tile.number * plan.keys) as i64;
        let (origin, bound) = if behind {
            (-at - 1, FAR)
        } else {
            // Coordinates below a bound that they are moved to.
            let at = at - self.a.window as i64;
            let bound = at.abs() + (plan.keys + 2 * plan.stripes) as i64;
            (bound - at - 1, bound)
        };
        let columns =
            Side { size: plan.keys, stride: 0, origin, bound: bound as u64, moves: vec![(TILE, -1)] };
        let sides = [Side::free(plan.sizes.share, 0), self.stripe_rows(tile, row..row + 1, 0), columns];
        let domain = self.local(Format::F32, &sides)?;
        let scores = self.dense_rows(Format::F32, plan.keys)?;
        let streams = vec![Self::stream(self.buffers.scores, Action::Update, scores)];
        self.run(stage, "hide", domain, VIEW_DIMS as u8, streams, hide()?);
        Ok(())
    }

    /// The greatest score of each of these rows.
    fn peaks_of(&mut self, stage: u8, tile: Tile, part: usize, rows: Range<i64>) -> Lowered<()> {
        let (queries, keys) = (self.plan.queries as i64, self.plan.keys as i64);
        let rows = self.stripe_rows(tile, rows, keys);
        let sides = [Side::free(self.plan.sizes.share, queries * keys), rows, self.columns(tile, 1)];
        let bank = self.local(Format::F32, &sides)?;
        // Over nothing the greatest is minus infinity.
        let peaks = self.rows(Format::F32, 1, [queries, 1, 1])?;
        let dst = Operand::new(self.buffers.peaks[part], Action::Push, peaks);
        let bank = Operand::new(self.buffers.scores, Action::Read, bank);
        self.push(stage, InstKind::Stat { f: Extreme::Max, dst, bank });
        Ok(())
    }

    /// The softmax of a tile.
    fn weigh_tile(&mut self, stage: u8, tile: Tile) -> Lowered<()> {
        let plan = self.plan;
        let s = plan.sizes;
        let queries = plan.queries as i64;
        let seen = self.seen(tile).rows;
        let factor =
            self.buffers.factor.ok_or(Refusal::Contradiction("a loop over keys without a factor".into()))?;
        let peaks = self.buffers.peaks.clone();
        let number = self.rows(Format::F32, 1, [queries, 1, 0])?;
        let mut streams = vec![
            Self::stream(peaks[0], Action::Pop, number),
            Self::stream(self.buffers.greatest, Action::Update, number),
            Self::stream(factor, Action::Push, number),
        ];
        streams.extend(peaks[1..].iter().map(|&part| Self::stream(part, Action::Pop, number)));
        let share = Side::free(s.share, 0);
        let rows = self.stripe_rows(tile, seen.clone(), 0);
        let domain = self.local(Format::F32, &[share.clone(), rows.clone(), Side::free(1, 0)])?;
        self.run(stage, "raise", domain, VIEW_DIMS as u8, streams, raise(&self.a, peaks.len() - 1)?);

        let scores = self.dense_rows(Format::F32, plan.keys)?;
        let weights = self.dense_rows(Format::Scalar(s.types[2]), plan.keys)?;
        let row = self.rows(Format::F32, plan.keys, [queries, 1, 0])?;
        let streams = vec![
            Self::stream(self.buffers.scores, Action::Pop, scores),
            Self::stream(self.buffers.greatest, Action::Read, row),
            Self::stream(self.buffers.sum, Action::Update, row),
            Self::stream(factor, Action::Read, row),
            Self::stream(self.buffers.weights, Action::Push, weights),
        ];
        let at =
            Streams { scores: 0, greatest: 1, sum: 2, factor: Some(3), weights: 4, ..Streams::default() };
        let columns = self.columns(tile, 0);
        let domain = self.local(Format::F32, &[share, rows, columns])?;
        let parts = exponentials(&self.a, &at, Compare::Nothing)?;
        self.run(stage, "exponentials", domain, KEY_STEPS, streams, parts);
        Ok(())
    }

    /// Rescales the result for the weights of a tile.
    fn rescale_rows(&mut self, stage: u8, tile: Tile) -> Lowered<()> {
        let s = self.plan.sizes;
        let queries = self.plan.queries as i64;
        let seen = self.seen(tile).rows;
        let factor =
            self.buffers.factor.ok_or(Refusal::Contradiction("a loop over keys without a factor".into()))?;
        let width = s.width as i64;
        let sides = [
            Side::free(s.share, queries * width),
            self.stripe_rows(tile, seen, width),
            Side::free(s.width, 1),
        ];
        let result = self.local(Format::F32, &sides)?;
        let row = self.rows(Format::F32, s.width, [queries, 1, 0])?;
        let bank = Operand::new(self.buffers.result, Action::Update, result);
        self.push(stage, InstKind::Resc { bank, src: Operand::new(factor, Action::Pop, row) });
        Ok(())
    }

    /// Adds weights times values to the result.
    fn add_tile(&mut self, stage: u8, tile: Tile) -> Lowered<()> {
        let s = self.plan.sizes;
        let (queries, keys) = (self.plan.queries as i64, self.plan.keys as i64);
        let value = Format::Scalar(s.types[2]);
        let rows = self.stripe_rows(tile, self.seen(tile).rows, keys);
        let (unit, columns) = (Side::free(1, 0), self.columns(tile, 1));
        let sides = [Side::free(s.share, queries * keys), rows, unit.clone(), unit.clone(), columns];
        let a = self.local(value, &sides)?;
        let columns = self.columns(tile, s.width as i64);
        let b = self.local(value, &[unit.clone(), unit.clone(), unit, columns, Side::free(s.width, 1)])?;
        let result = self.dense_rows(Format::F32, s.width)?;
        let bank = Operand::new(self.buffers.result, Action::Update, result);
        let a = Operand::new(self.buffers.weights, Action::Pop, a);
        let b = Operand::new(self.buffers.v, Action::Pop, b);
        self.push(stage, InstKind::Mm { bank, a, b, order: Order::Kn });
        Ok(())
    }
}

/// A dimension that stays whatever its extent.
const FULL: u64 = u64::MAX;
