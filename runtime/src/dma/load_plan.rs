//! What is known of a load before it runs.

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::view::View;

use crate::boxes::{Walk, dense_strides};
use crate::slots::{Layout, Placement};

/// What is known of a load before it runs.
#[derive(Debug)]
pub(crate) struct LoadPlan {
    pub layout: Layout,
    /// Bytes of the slot.
    pub bytes: u64,
    /// How a whole box of scalars of whole bytes is copied that stay as they are.
    pub(super) whole: Option<Whole>,
}

#[derive(Debug)]
pub(super) struct Whole {
    pub ty: ScalarType,
    /// From element 0 of the tensor.
    pub walk: Walk,
    pub reach: (i64, i64),
    /// Where the box lies, if products read it there.
    pub in_place: Option<Placement>,
}

impl LoadPlan {
    /// The plan of a load of `view` that makes a slot of format `to`. `plain` says that all of the box is loaded as it is.
    pub fn new(view: &View, to: Format, plain: bool, in_place: Option<Placement>) -> LoadPlan {
        let dense = dense_strides(view.sizes());
        let k_stride = dense[usize::from(view.k_dim)].unsigned_abs();
        let layout = Layout::new(to, view.pattern, k_stride, view.elements());
        let whole = || {
            let Format::Scalar(ty) = view.format else { return None };
            let fits = plain && to == view.format && view.pattern.is_none() && ty.bits() >= 8;
            let walk = Walk::new(&view.sizes(), &view.dims.map(|d| i64::from(d.stride)), &dense, [0, 0])?;
            fits.then(|| Whole { ty, reach: walk.extent(0), walk, in_place })
        };
        LoadPlan { layout, bytes: layout.bytes(), whole: whole() }
    }
}
