//! Products by constants of which whole blocks are zero.
//!
//! A tile of the second operand is stored, and loaded into a slot, as its set blocks one behind the other; `mmblk` finds out from
//! flags where they belong. So a slot is as large as the fullest tile needs, and as many tiles are in flight as memory
//! latency wants. Which blocks share a slot depends on tiles and chunks, so that the constant is laid out when these are chosen.

use std::rc::Rc;

use lacuna_ir::ConstId;
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::sparse::{BLOCK, record_bytes};
use lacuna_isa::timing::WORTHWHILE;

use super::problem::{Problem, Second};
use super::product_tiles::Plan;
use crate::lower::{Lowered, Lowering};
use crate::place::{BlockTiles, PANEL, Packing, Panels, Place, Storage, StorageKind};
use crate::weights;

/// Flags of the blocks of a second operand.
#[derive(Clone, Debug)]
pub struct BlockFlags {
    /// Where they lie, `[N/32][K/k]`.
    pub place: Place,
    /// Elements along K that share a flag.
    pub k: u64,
    /// The constant.
    constant: ConstId,
    /// Its layout.
    panels: Panels,
    /// The flags themselves, a byte each.
    set: Rc<Vec<u8>>,
    /// Flags of a panel, and how many are set in each.
    n_flags: u64,
    n_set: Vec<u64>,
}

impl BlockFlags {
    /// The share of flags that are set.
    pub fn share(&self) -> f64 {
        self.n_set.iter().sum::<u64>() as f64 / self.set.len().max(1) as f64
    }

    /// The share of flags that are set in the worst of the runs of `n` panels: PEs each have one, and wait for the slowest.
    pub fn worst_share(&self, n: u64) -> f64 {
        let worst = self.n_set.chunks(n.max(1) as usize).map(|run| run.iter().sum::<u64>()).max();
        worst.unwrap_or(0) as f64 / (n * self.n_flags).max(1) as f64
    }

    /// How the flags of a panel lie along the summed dimensions: those of dimensions outside the one that is cut, of it, and
    /// inside it.
    fn along(&self, problem: &Problem) -> [u64; 3] {
        let last = problem.summed.len() - 1;
        let flags =
            |i: usize| if i == last { problem.summed[i].size / self.k } else { problem.summed[i].size };
        let cut = problem.chunk.0;
        [(0..cut).map(flags).product(), flags(cut), (cut + 1..=last).map(flags).product()]
    }

    /// Flags along the summed dimension that is cut, in a chunk of `chunk` elements.
    fn flags_of(&self, problem: &Problem, chunk: u64) -> u64 {
        if problem.chunk.0 + 1 == problem.summed.len() { chunk / self.k } else { chunk }
    }

    /// Counts of set flags, for the tiles of `problem`.
    pub fn counts(&self, problem: &Problem) -> Counts {
        let [outer, cut, inner] = self.along(problem);
        let row = cut as usize + 1;
        let mut sums = vec![0u32; row];
        for panel in self.set.chunks(self.n_flags.max(1) as usize) {
            let above = sums.len() - row;
            let mut before = 0;
            sums.push(0);
            for x in 0..cut {
                for o in 0..outer {
                    let first = ((o * cut + x) * inner) as usize;
                    before +=
                        panel[first..first + inner as usize].iter().map(|&set| u32::from(set)).sum::<u32>();
                }
                sums.push(sums[above + x as usize + 1] + before);
            }
        }
        Counts { sums, row }
    }

    /// Blocks that a slot needs room for, in tiles of `panels` panels and chunks of `chunk` elements: a whole number of
    /// records.
    pub fn room(&self, counts: &Counts, problem: &Problem, panels: u64, chunk: u64) -> u64 {
        let whole_records = (BLOCK as u64 / (PANEL * self.k)).max(1);
        let most = counts.most(panels, self.flags_of(problem, chunk));
        most.max(1).next_multiple_of(whole_records)
    }
}

/// Sums of flags over the first panels and the first positions along the summed dimension that is cut.
pub struct Counts {
    /// Row-major, a row for each number of panels.
    sums: Vec<u32>,
    /// Length of a row.
    row: usize,
}

impl Counts {
    /// Most set flags in any tile of `panels` panels by `flags` positions.
    fn most(&self, panels: u64, flags: u64) -> u64 {
        let (panels, flags) = (panels.max(1) as usize, flags.max(1) as usize);
        let (last_row, last) = (self.sums.len() / self.row - 1, self.row - 1);
        let mut most = 0;
        for top in (0..last_row).step_by(panels) {
            let [above, below] = [top, (top + panels).min(last_row)].map(|r| &self.sums[r * self.row..]);
            for from in (0..last).step_by(flags) {
                let to = (from + flags).min(last);
                most = most.max(below[to] - below[from] - (above[to] - above[from]));
            }
        }
        u64::from(most)
    }
}

impl Lowering<'_> {
    /// The flags of a constant in panels of `rows` rows for blocks of `k` of them, if blocks are zero.
    pub(super) fn block_flags(
        &mut self,
        id: ConstId,
        panels: &Panels,
        rows: u64,
        k: u64,
    ) -> Lowered<BlockFlags> {
        if self.module.constants[id].has_nan_scale() {
            return Err("a block of zeros under a NaN scale is not zero".to_owned());
        }
        let survey = self.survey(id, panels);
        let elem = panels.stored(&self.module.constants[id]);
        let elements = survey.codes.len() * 8 / elem.bits() as usize;
        let set = weights::flags(&survey.codes, elem, elements, k);
        let n_flags = rows / k;
        let kind = StorageKind::Const(id, Packing::Flags { panels: panels.clone(), k });
        let storage = Storage::dense(kind, Format::Scalar(ScalarType::Bool), set.len() as u64);
        let place = Place { storage: self.constant(storage), offset: 0, strides: vec![n_flags as i64] };
        let of_panel = |panel: &[u8]| panel.iter().map(|&set| u64::from(set)).sum();
        let n_set = set.chunks(n_flags.max(1) as usize).map(of_panel).collect();
        let (panels, set) = (panels.clone(), Rc::new(set));
        let flags = BlockFlags { place, k, constant: id, panels, set, n_flags, n_set };
        if flags.share() > WORTHWHILE {
            return Err("hardly any of its blocks is zero".to_owned());
        }
        Ok(flags)
    }

    /// Lays out the second operand of a product by blocks for the tiles of a plan.
    pub(super) fn lay_out_blocks(&mut self, problem: &mut Problem, plan: &Plan) -> Lowered {
        let (Some(flags), Second::Panels(place)) = (&problem.flags, &problem.b) else { return Ok(()) };
        let [outer, cut, inner] = flags.along(problem);
        let tiles = BlockTiles {
            k: flags.k,
            along: [outer, cut, inner],
            flags: flags.flags_of(problem, plan.chunk),
            panels: plan.panels(problem),
            room: plan.room,
            stride: plan.tile_stride(problem),
        };
        let (id, panels) = (flags.constant, flags.panels.clone());
        let survey = self.survey(id, &panels);
        let constant = &self.module.constants[id];
        let packed = weights::block_tiles(constant, &panels, &survey.codes, &flags.set, &tiles);
        let n = tiles.elements(flags.set.len() as u64);
        let sizes = record_bytes(&packed.codes, panels.stored(constant), n as usize);
        let code = sizes.into_iter().min_by_key(|&(_, bytes)| bytes).map(|(code, _)| code);
        let code = code.ok_or("no code of masks")?;
        let records = packed.compress(panels.stored(constant), n, code).map_err(|e| e.to_string())?;
        let dense = self.storages[place.storage].clone();
        let kind = StorageKind::Const(id, Packing::Blocks { panels, tiles });
        let storage = Storage { kind, elements: n, records: Some(records), ..dense };
        let place = Place { storage: self.constant(storage), ..place.clone() };
        problem.b = Second::Panels(place);
        Ok(())
    }
}
