//! Values of parameters: single integers of a tensor.

use lacuna_isa::format::pack;
use lacuna_isa::view::{VIEW_DIMS, View};

use super::codes::PlaneSource;
use super::planes::{Piece, PlaneWalks};
use super::source::Source;
use crate::boxes::Walk;
use crate::codes::int_value;
use crate::pe::Pe;
use crate::trap::Fault;

impl Pe<'_> {
    /// The element of an integer view of one index, logged as a load.
    pub fn global_int(&mut self, view: &View) -> Result<i64, Fault> {
        let tensor = self.tensor(view)?;
        let piece =
            Piece { first: [0; VIEW_DIMS], counts: [1; VIEW_DIMS], coords: view.base_coords(&self.at) };
        let at = piece.global_base(view)?;
        let ty = view.format.element();
        let Some(walk) = Walk::new(&[1], &[1], &[1], [at, 0]) else { return Ok(0) };
        let mut code = [0; 8];
        let mut source = Source {
            tensor,
            overlay: &self.overlay,
            memory: self.memory,
            log: &mut self.log,
            pc: self.pc,
            code: None,
            image: None,
            expanded_bytes: 0,
        };
        let walks = PlaneWalks { codes: walk, scales: None, indices: None };
        source.touch(&walks, view.format, None)?;
        source.copy(&walks.codes, 0, ty, (&mut code[..(ty.bits() / 8) as usize], ty))?;
        Ok(int_value(ty, pack::get(&code, ty, 0)))
    }
}
