//! What masks of products, row statistics, sorts and merges mean on their own.

use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::Order;
use lacuna_isa::view::View;

use super::boxes::product_dims;
use super::{Reason, Rule};

/// Checks that a view is of one of some scalar types that stand alone.
pub(super) fn one_of(view: &View, types: &[ScalarType]) -> Result<(), Reason> {
    if view.pattern.is_none() && types.iter().any(|&ty| view.format == Format::Scalar(ty)) {
        return Ok(());
    }
    let names: Vec<&str> = types.iter().map(|ty| ty.name()).collect();
    Err((Rule::Form, format!("an operand is {}, not {}", view.format, names.join(" or "))))
}

fn shape(message: String) -> Result<(), Reason> {
    Err((Rule::ShapeMismatch, message))
}

/// The mask of `mmact`.
pub(super) fn active(a: &View, mask: &View) -> Result<(), Reason> {
    one_of(mask, &[ScalarType::Bool])?;
    let (found, [_, _, x, y, z]) = (mask.sizes(), a.sizes());
    if found == [1, 1, x, y, z] {
        return Ok(());
    }
    shape(format!("a mask of {found:?} for k of {x} x {y} x {z}"))
}

/// The mask of `mmblk`.
pub(super) fn blocks(a: &View, b: &View, mask: &View, order: Order) -> Result<(), Reason> {
    one_of(mask, &[ScalarType::Bool])?;
    let (whole, flags) = (b.sizes(), mask.sizes());
    if (0..flags.len()).any(|d| whole[d].checked_rem(flags[d]) != Some(0)) {
        return shape(format!("a mask of {flags:?} does not divide {whole:?}"));
    }
    // All k between two changes of the flags: the inner dimensions as long as they have one block, and one block.
    let (_, k_dims) = product_dims(order);
    let inner = k_dims.iter().rev().take_while(|&&d| flags[d] == 1).count();
    let constant: u64 = k_dims.iter().rev().take(inner).map(|&d| u64::from(whole[d])).product();
    let block = k_dims.iter().rev().nth(inner).map_or(1, |&d| u64::from(whole[d] / flags[d]));
    for format in [a.format, b.format] {
        let unit = u64::from(format.group_size());
        if !(constant * block).is_multiple_of(unit) {
            let message = format!("blocks of {} summed elements cut groups of {unit}", constant * block);
            return Err((Rule::PartialGroup, message));
        }
    }
    Ok(())
}

/// `stat`.
pub(super) fn statistic(dst: &View, bank: &View) -> Result<(), Reason> {
    one_of(dst, &[ScalarType::F32])?;
    let sizes = bank.sizes().into_iter().zip(dst.sizes());
    if sizes.into_iter().all(|(from, to)| to == 1 || to == from) {
        return Ok(());
    }
    shape(format!("a bank's box of {:?} does not reduce to {:?}", bank.sizes(), dst.sizes()))
}

fn row_results(dst: &View, src: &View, k: u16) -> Result<(), Reason> {
    let (from, to) = (src.sizes(), dst.sizes());
    if from[..4] == to[..4] && to[4] == u32::from(k) {
        return Ok(());
    }
    shape(format!("{k} results for each row of {from:?} in a box of {to:?}"))
}

/// `sort`.
pub(super) fn sort(dst: &View, src: &View, k: u16) -> Result<(), Reason> {
    one_of(dst, &[ScalarType::I64])?;
    match src.format {
        Format::Scalar(ty) if ty.bits() <= 32 && src.pattern.is_none() => row_results(dst, src, k),
        Format::Scalar(_) | Format::Grouped(_) => {
            Err((Rule::Form, format!("{} has no sort keys", src.format)))
        }
    }
}

/// `merge`.
pub(super) fn merge(dst: &View, sources: [&View; 2], k: u16) -> Result<(), Reason> {
    one_of(dst, &[ScalarType::I64])?;
    sources.into_iter().try_for_each(|src| {
        one_of(src, &[ScalarType::I64])?;
        row_results(dst, src, k)
    })
}
