//! The fabric interface: loads, stores, gathers and scatters of strided boxes, plane by plane.

mod codes;
mod dense;
mod expand;
mod load;
mod load_plan;
mod param;
mod pick;
mod planes;
mod scatter;
mod source;
mod store;
mod whole;

use lacuna_isa::view::{Space, View};

pub(crate) use self::codes::{copy_planes, fill_box, fill_code, fill_planes};
pub(crate) use self::dense::Images;
pub(crate) use self::expand::{Records, touched_blocks};
pub(crate) use self::load_plan::LoadPlan;
pub(crate) use self::pick::{Load, Pick};
pub(crate) use self::planes::{Piece, Side, element, intersect, open_dim, partial, plane_walks};
use crate::memory::Tensor;
use crate::pe::Pe;
use crate::trap::{Fault, TrapKind};

impl<'m> Pe<'m> {
    fn tensor(&self, view: &View) -> Result<Tensor<'m>, Fault> {
        match view.space {
            Space::Global(register) => Ok(self.tensors[usize::from(register)]),
            Space::Local => Err(Fault::new(TrapKind::FormatMismatch, "a local view names no tensor")),
        }
    }
}
