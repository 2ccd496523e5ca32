//! Load checks of what moves data: vectors of indices and flags, formats, groups.

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Combine, InstKind};
use lacuna_isa::object::{Access, Kernel};
use lacuna_isa::view::{Space, VIEW_DIMS, View};

use super::widening;
use crate::illegal::Illegal;

/// `ldx`.
pub(super) fn ldx(kernel: &Kernel, dst: &View, src: &View) -> Result<(), Illegal> {
    if declared(kernel, src) != Some(Access::In) || src.pattern.is_some() {
        return Err(Illegal::Format("a compressed tensor is `in`, and has no pattern".into()));
    }
    widening(src, dst)
}

/// `ldmask`.
pub(super) fn ldmask(dst: &View, src: &View, mask: &View, dim: u8) -> Result<(), Illegal> {
    vector(mask, dim, &[ScalarType::Bool])?;
    widening(src, dst)
}

/// `scatter`.
pub(super) fn scatter(
    kernel: &Kernel,
    from: &View,
    to: &View,
    (idx, dim): (&View, u8),
    combine: Combine,
) -> Result<(), Illegal> {
    vector(idx, dim, &INDICES)?;
    if declared(kernel, to) != Some(Access::InOut) {
        return Err(Illegal::Operand("a scattered tensor is `inout`".into()));
    }
    if (from.format, from.pattern) != (to.format, to.pattern) {
        return Err(Illegal::Format(format!("a scatter from {} to {}", from.format, to.format)));
    }
    whole_dim(to, dim)?;
    if combine != Combine::Replace && is_grouped(to) {
        return Err(Illegal::Format(format!("elements of {} do not combine", to.format)));
    }
    same_k(from, to)
}

/// `perm`.
pub(super) fn perm(dst: &View, src: &View, idx: &View, dim: u8) -> Result<(), Illegal> {
    vector(idx, dim, &INDICES)?;
    whole_dim(src, dim)?;
    moving(src, dst)
}

/// `mask`.
pub(super) fn mask(dst: &View, src: &View) -> Result<(), Illegal> {
    if src.pattern.is_some() || dst.format != Format::Scalar(ScalarType::Bool) || dst.pattern.is_some() {
        return Err(Illegal::Format("flags are `bool`, of a slot without a pattern".into()));
    }
    Ok(())
}

/// `pack`.
pub(super) fn pack(dst: &View, src: &View) -> Result<(), Illegal> {
    let Some(pattern) = dst.pattern else {
        return Err(Illegal::Format("it packs into a slot without a pattern".into()));
    };
    if src.pattern.is_some() || src.format != dst.format {
        return Err(Illegal::Format(format!("{} packs into {}", src.format, dst.format)));
    }
    if let Format::Grouped(group) = src.format {
        let whole = u32::from(group.size).is_multiple_of(u32::from(pattern.m));
        if group.pair_shift || src.k_dim != dst.k_dim || !whole {
            return Err(Illegal::Format(format!("groups of {group} do not pack into {pattern}")));
        }
    }
    Ok(())
}

/// Formats of vectors of indices.
pub(super) const INDICES: [ScalarType; 2] = [ScalarType::I32, ScalarType::I64];

/// Checks a vector of indices or flags for dimension `dim`.
pub(super) fn vector(view: &View, dim: u8, legal: &[ScalarType]) -> Result<(), Illegal> {
    if usize::from(dim) >= VIEW_DIMS {
        return Err(Illegal::Missing(format!("there is no dimension {dim}")));
    }
    match view.format {
        Format::Scalar(ty) if legal.contains(&ty) && view.pattern.is_none() => Ok(()),
        other => {
            let legal: Vec<&str> = legal.iter().map(|ty| ty.name()).collect();
            Err(Illegal::Format(format!("indices are {other}, not {}", legal.join(" or "))))
        }
    }
}

/// How the kernel uses the tensor of a global view.
fn declared(kernel: &Kernel, view: &View) -> Option<Access> {
    match view.space {
        Space::Global(register) => kernel.tensors.get(usize::from(register)).map(|t| t.access),
        Space::Local => None,
    }
}

fn is_grouped(view: &View) -> bool {
    view.pattern.is_some() || view.format.group_size() > 1
}

/// Checks that neither groups nor patterns run along dimension `dim`.
fn whole_dim(view: &View, dim: u8) -> Result<(), Illegal> {
    if is_grouped(view) && view.k_dim == dim {
        return Err(Illegal::Format(format!("dimension {dim} carries groups")));
    }
    Ok(())
}

/// Checks that two views with groups have them along one dimension.
fn same_k(from: &View, to: &View) -> Result<(), Illegal> {
    if is_grouped(from) && is_grouped(to) && from.k_dim != to.k_dim {
        return Err(Illegal::Format(format!(
            "groups along dimension {} go to dimension {}",
            from.k_dim, to.k_dim
        )));
    }
    Ok(())
}

/// `move`.
pub(super) fn moving(from: &View, to: &View) -> Result<(), Illegal> {
    widening(from, to)?;
    same_k(from, to)
}

/// Whether `ldx` reads the tensor of a base register.
pub(crate) fn is_compressed(kernel: &Kernel, number: usize) -> bool {
    kernel.code.iter().any(|inst| match inst.kind {
        InstKind::Ldx { src, .. } => kernel
            .views
            .get(usize::from(src))
            .is_some_and(|v| matches!(v.space, Space::Global(r) if usize::from(r) == number)),
        _ => false,
    })
}
