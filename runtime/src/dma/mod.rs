//! The fabric interface: loads, stores and gathers of strided boxes, plane by plane.

mod codes;
mod load;
mod param;
mod planes;
mod source;
mod store;

use lacuna_isa::view::{Space, View};

pub(crate) use self::codes::{fill_planes, fixed_point, int_value};
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
