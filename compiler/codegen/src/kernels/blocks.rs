//! Products by constants of which whole blocks are zero.
//!
//! A tile of the second operand is stored, and loaded into a slot, as its set blocks one behind the other; `mmblk` finds out from
//! flags where they belong. So a slot is as large as the fullest tile needs, and as many tiles are in flight as memory
//! latency wants. Which blocks share a slot depends on tiles and chunks, so that the constant is laid out when these are chosen.

use std::rc::Rc;

use lacuna_ir::ConstId;
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::sparse::record_bytes;
use lacuna_isa::timing::WORTHWHILE;

use super::problem::{BlockFlags, Problem, Second};
use super::product_plan::Plan;
use crate::lower::Lowering;
use crate::place::{BlockTiles, Packing, Panels, Place, Storage, StorageKind};
use crate::refusal::{Lowered, Refusal};
use crate::weights;

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
            return Err(Refusal::Form("a block of zeros under a NaN scale is not zero".into()));
        }
        let survey = self.survey(id, panels);
        let elem = panels.stored(&self.module.constants[id]);
        let elements = survey.codes.len() * 8 / elem.bits() as usize;
        let set = weights::flags(&survey.codes, elem, elements, k);
        let n_flags = rows / k;
        let kind = StorageKind::Const(id, Packing::Flags { panels: panels.clone(), k });
        let storage = Storage::dense(kind, Format::Scalar(ScalarType::Bool), set.len() as u64);
        let place = Place { storage: self.one_storage(storage), offset: 0, strides: vec![n_flags as i64] };
        let of_panel = |panel: &[u8]| panel.iter().map(|&set| u64::from(set)).sum();
        let n_set = set.chunks(n_flags.max(1) as usize).map(of_panel).collect();
        let (panels, set) = (panels.clone(), Rc::new(set));
        let flags = BlockFlags { place, k, constant: id, panels, set, n_flags, n_set };
        if flags.share() > WORTHWHILE {
            return Err(Refusal::Form("hardly any of its blocks is zero".into()));
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
        let code = code.ok_or(Refusal::Form("no code of masks".into()))?;
        let records =
            packed.compress(panels.stored(constant), n, code).map_err(|e| Refusal::Form(e.to_string()))?;
        let dense = self.storages[place.storage].clone();
        let kind = StorageKind::Const(id, Packing::Blocks { panels, tiles });
        let storage = Storage { kind, elements: n, records: Some(records), ..dense };
        let place = Place { storage: self.one_storage(storage), ..place.clone() };
        problem.b = Second::Panels(place);
        Ok(())
    }
}
