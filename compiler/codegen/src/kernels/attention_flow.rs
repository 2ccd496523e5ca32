//! Attention whose scores are only scaled: the RE finds their maxima and rescales the result, and the DPE is one tile ahead.
//!
//! In the loop over keys the DPE makes the scores of the next tile while the SE weighs this one. The scores of the first tile
//! are made before the loop, and the last tile is weighed behind it. There, in causal attention, positions are compared: the last
//! tile lies on the diagonal and ends with the last key that the pass sees, so that the loop is free of tests.
//!
//! | where | what | engine |
//! |---|---|---|
//! | before the loop | load queries and keys, scores, their maxima | FI, DPE, RE |
//! | stage 0 | load the next keys and these values, softmax, rescale, next scores and maxima | FI, SE, RE, DPE |
//! | stage 1 | weighted sum | DPE |
//! | behind the loop | load values, softmax, rescale | FI, SE, RE |
//! | before the next pass's loop | weighted sum, division | DPE, SE |
//! | before the loop of the pass after that | store | FI |

use lacuna_isa::format::Format;
use lacuna_isa::inst::{Action, Extreme, InstKind, Operand, Order};
use lacuna_isa::object::Trip;
use lacuna_isa::view::{PE_COORDS, VIEW_DIMS};

use super::attention_plan::{KEYS, PART, TILE};
use super::attention_programs::{Compare, Streams, diagonal, exponentials, raise};
use super::attention_tiles::{Flash, KEY_STEPS, Pass, Side, fit};
use crate::refusal::{Lowered, Refusal};

/// Which tile of keys a load or product takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    First,
    This,
    Next,
    Last,
}

impl Flash<'_, '_> {
    /// All passes of the units: `looped` when a loop over units is open.
    pub fn flow(&mut self, passes: &[Pass], looped: bool) -> Lowered<()> {
        // With one slot for results, a pass ends before the next one begins.
        let ahead = self.plan.banks[1] > 1;
        for (i, pass) in passes.iter().enumerate() {
            self.begin(pass)?;
            // Transfers share their port in program order: a result that is not there yet would hold up loads.
            if let Some((stage, former)) = before(passes, i, 2, looped) {
                self.store(stage, former, 0)?;
            }
            if let (Some((stage, former)), true) = (before(passes, i, 1, looped), ahead) {
                self.conclude(stage, former)?;
            }
            self.steps(pass)?;
            self.last_tile(pass)?;
            if !ahead {
                self.conclude(0, pass)?;
            }
        }
        if !looped {
            let [former, last] = [passes.len().checked_sub(2), passes.len().checked_sub(1)];
            if let Some(i) = former {
                self.store(0, &passes[i], 0)?;
            }
            if let Some(i) = last {
                if ahead {
                    self.conclude(0, &passes[i])?;
                }
                self.store(0, &passes[i], 0)?;
            }
        }
        Ok(())
    }

    /// Rounds of the loop over units after which all results are stored.
    pub fn flow_stages(passes: usize) -> u8 {
        if passes == 1 { 3 } else { 2 }
    }

    /// The keys in the slot of a last tile that a pass sees.
    fn last_keys(&self, pass: &Pass, stride: i64) -> Side {
        let plan = self.plan;
        let (size, keys) = (plan.keys, plan.keys as i64);
        if plan.triangular {
            let origin = keys - (pass.within + plan.queries) as i64;
            Side { size, stride, origin, bound: size, moves: vec![(PART, -pass.part)] }
        } else {
            let bound = plan.sizes.keys - (plan.n_key_tiles() - 1) * size;
            Side { bound, ..Side::free(size, stride) }
        }
    }

    /// The keys in the slot of any other tile.
    fn whole(&self, stride: i64) -> Side {
        Side::free(self.plan.keys, stride)
    }

    /// A tile of keys in memory.
    fn tile_of_keys(&self, pass: &Pass, at: At, stride: i64) -> Side {
        let plan = self.plan;
        let tile = self.keys(stride);
        match at {
            At::First => Side { moves: Vec::new(), ..tile },
            At::This => tile,
            At::Next => Side { origin: plan.keys as i64, ..tile },
            At::Last if plan.triangular => {
                Side { origin: pass.block + self.a.shift, moves: vec![(TILE, pass.step)], ..tile }
            }
            At::Last => {
                Side { origin: ((plan.n_key_tiles() - 1) * plan.keys) as i64, moves: Vec::new(), ..tile }
            }
        }
    }

    fn load_tile(&mut self, pass: &Pass, which: usize, at: At) -> Lowered<()> {
        let place = self.places[which].clone();
        let stride = self.strides(&place, false)[3];
        let side = self.tile_of_keys(pass, at, stride);
        self.load_keys(0, which, side)
    }

    /// Queries, empty sums and the first scores.
    fn begin(&mut self, pass: &Pass) -> Lowered<()> {
        self.load_queries(0, pass, 0)?;
        self.start_rows(0)?;
        self.load_tile(pass, 1, At::First)?;
        self.make_scores(pass, At::First)?;
        self.find_peaks(self.whole(1))
    }

    /// The loop over all tiles but the last.
    fn steps(&mut self, pass: &Pass) -> Lowered<()> {
        let trip = self.tiles_before_last(pass)?;
        self.open(trip, KEYS, 2);
        self.load_tile(pass, 1, At::Next)?;
        self.load_tile(pass, 2, At::This)?;
        self.gather_tile(1, pass, &self.whole(1))?;
        self.weigh(pass, self.whole(0))?;
        self.make_scores(pass, At::Next)?;
        self.find_peaks(self.whole(1))?;
        self.push(0, InstKind::End {});
        Ok(())
    }

    /// The softmax of the last tile.
    fn last_tile(&mut self, pass: &Pass) -> Lowered<()> {
        self.load_tile(pass, 2, At::Last)?;
        if self.plan.triangular {
            self.push(0, InstKind::Pop { n: 1, buffer: self.peaks()? });
            self.compare(pass)?;
            self.find_peaks(self.last_keys(pass, 1))?;
        }
        self.weigh(pass, self.last_keys(pass, 0))?;
        for buffer in [self.buffers.q, self.buffers.greatest] {
            self.push(0, InstKind::Pop { n: 1, buffer });
        }
        Ok(())
    }

    /// What is left of a pass when its last tile is weighed.
    fn conclude(&mut self, stage: u8, pass: &Pass) -> Lowered<()> {
        self.gather_tile(stage, pass, &self.last_keys(pass, 1))?;
        self.finish(stage)
    }

    fn tiles_before_last(&self, pass: &Pass) -> Lowered<Trip> {
        let plan = self.plan;
        let all = plan.n_key_tiles() as i64;
        if !plan.triangular {
            return Ok(Trip::constant(fit(all - 1)?));
        }
        let keys = plan.keys as i64;
        let base = (pass.block + self.a.shift) / keys;
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

    fn peaks(&self) -> Lowered<u8> {
        self.buffers
            .peaks
            .first()
            .copied()
            .ok_or_else(|| Refusal::Contradiction("a flow without maxima".into()))
    }

    /// Scores of a tile: queries times keys.
    fn make_scores(&mut self, pass: &Pass, at: At) -> Lowered<()> {
        let s = self.plan.sizes;
        let size = s.size as i64;
        let mut columns = self.tile_of_keys(pass, at, size);
        if self.plan.triangular {
            // The tile may be the last one: keys that the pass does not see lie behind a bound that coordinates move to.
            let plan = self.plan;
            let end = pass.block + self.a.shift + (pass.within + plan.queries) as i64;
            let bound = (plan.n_blocks + 1) * plan.block() + self.a.shift.unsigned_abs() + 2 * plan.keys;
            columns.origin += bound as i64 - end;
            columns.bound = bound;
            columns.moves.extend([(TILE, -pass.step), (PART, -pass.part)]);
        }
        self.score_columns(0, pass, 0, Action::Read, columns)
    }

    /// The greatest of these scores of each row.
    fn find_peaks(&mut self, columns: Side) -> Lowered<()> {
        let (queries, keys) = (self.plan.queries as i64, self.plan.keys as i64);
        let share = Side::free(self.plan.sizes.share, queries * keys);
        let bank = self.local(Format::F32, &[share, Side::free(queries as u64, keys), columns])?;
        let peaks = self.rows(Format::F32, 1, [queries, 1, 1])?;
        let dst = Operand::new(self.peaks()?, Action::Push, peaks);
        let bank = Operand::new(self.buffers.scores, Action::Read, bank);
        self.push(0, InstKind::Stat { f: Extreme::Max, dst, bank });
        Ok(())
    }

    /// Rejects the keys behind the diagonal: the pass's own queries are the last keys that it sees.
    fn compare(&mut self, pass: &Pass) -> Lowered<()> {
        let plan = self.plan;
        let scores = self.dense_rows(Format::F32, plan.keys)?;
        let own = Side {
            size: plan.keys,
            stride: 0,
            origin: -(pass.within as i64),
            bound: plan.queries,
            moves: vec![(PART, -pass.part)],
        };
        let sides = [Side::free(plan.sizes.share, 0), Side::free(plan.queries, 0), own];
        let domain = self.local(Format::F32, &sides)?;
        let streams = vec![Self::stream(self.buffers.scores, Action::Update, scores)];
        self.run(0, "diagonal", domain, VIEW_DIMS as u8, streams, diagonal()?);
        Ok(())
    }

    /// Rows by columns, without the rows of queries that do not exist.
    fn domain_of(&mut self, pass: &Pass, columns: Side) -> Lowered<u16> {
        let rows = self.rows_beside(pass, 0, &columns);
        let sides = [Side::free(self.plan.sizes.share, 0), rows, columns];
        self.local(Format::F32, &sides)
    }

    /// The queries of a pass in a view whose other dimension is `columns`: without those that do not exist, unless PEs move
    /// the columns, for a coordinate moves one dimension.
    fn rows_beside(&self, pass: &Pass, stride: i64, columns: &Side) -> Side {
        let moved = pass.part != 0 && columns.moves.iter().any(|(axis, _)| *axis == PART);
        if moved { Side::free(self.plan.queries, stride) } else { self.queries(pass, 0, stride) }
    }

    /// The softmax of these keys, and the result rescaled for it.
    fn weigh(&mut self, pass: &Pass, columns: Side) -> Lowered<()> {
        let plan = self.plan;
        let queries = plan.queries as i64;
        let factor =
            self.buffers.factor.ok_or(Refusal::Contradiction("a loop over keys without a factor".into()))?;
        let number = self.rows(Format::F32, 1, [queries, 1, 0])?;
        let streams = vec![
            Self::stream(self.peaks()?, Action::Pop, number),
            Self::stream(self.buffers.greatest, Action::Update, number),
            Self::stream(factor, Action::Push, number),
        ];
        let domain = self.domain_of(pass, Side::free(1, 0))?;
        self.run(0, "raise", domain, VIEW_DIMS as u8, streams, raise(&self.a, 0)?);

        let scores = self.dense_rows(Format::F32, plan.keys)?;
        let value = Format::Scalar(plan.sizes.types[2]);
        let weights = self.dense_rows(value, plan.keys)?;
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
        let domain = self.domain_of(pass, columns)?;
        let parts = exponentials(&self.a, &at, Compare::Nothing)?;
        self.run(0, "exponentials", domain, KEY_STEPS, streams, parts);

        // Before the next scores, whose maxima the RE would wait for first.
        let width = plan.sizes.width;
        let result = self.dense_rows(Format::F32, width)?;
        let row = self.rows(Format::F32, width, [queries, 1, 0])?;
        let bank = Operand::new(self.buffers.result, Action::Update, result);
        self.push(0, InstKind::Resc { bank, src: Operand::new(factor, Action::Pop, row) });
        Ok(())
    }

    /// Adds weights times values to the result.
    fn gather_tile(&mut self, stage: u8, pass: &Pass, keys_seen: &Side) -> Lowered<()> {
        let s = self.plan.sizes;
        let (queries, keys) = (self.plan.queries as i64, self.plan.keys as i64);
        let result = self.dense_rows(Format::F32, s.width)?;
        let bank = Operand::new(self.buffers.result, Action::Update, result);
        let value = Format::Scalar(s.types[2]);
        let rows = [
            Side::free(s.share, queries * keys),
            self.rows_beside(pass, keys, keys_seen),
            Side::free(1, 0),
            Side::free(1, 0),
            keys_seen.clone(),
        ];
        let a = self.local(value, &rows)?;
        let columns = [
            Side::free(1, 0),
            Side::free(1, 0),
            Side::free(1, 0),
            Side { stride: s.width as i64, ..keys_seen.clone() },
            Side::free(s.width, 1),
        ];
        let b = self.local(value, &columns)?;
        let a = Operand::new(self.buffers.weights, Action::Pop, a);
        let b = Operand::new(self.buffers.v, Action::Pop, b);
        self.push(stage, InstKind::Mm { bank, a, b, order: Order::Kn });
        Ok(())
    }
}

/// The pass that is `n` before pass `i`, and the stage in which the loop over units reaches it.
fn before(passes: &[Pass], i: usize, n: usize, looped: bool) -> Option<(u8, &Pass)> {
    let rounds = n.saturating_sub(i).div_ceil(passes.len());
    (rounds == 0 || looped).then(|| (rounds as u8, &passes[i + rounds * passes.len() - n]))
}
