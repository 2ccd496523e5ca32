//! A product with its operands resolved.

use std::borrow::Cow;

use lacuna_isa::view::{PlaneMap, VIEW_DIMS, View};

use crate::slots::Constant;
use crate::trap::{Fault, TrapKind};

/// An operand of a product.
pub(crate) struct Side<'a> {
    /// Codes, scales, indices of the slot.
    pub planes: [&'a [u8]; 3],
    /// How they relate.
    pub map: PlaneMap,
    /// Dense element offset of every k of the whole box.
    pub k_offsets: Cow<'a, [i64]>,
}

/// A product of tiles with everything clipped and resolved.
pub(crate) struct Product<'a> {
    pub a: Side<'a>,
    pub b: Side<'a>,
    /// Row number in the bank and dense element of `a`, for rows that take part.
    pub rows: Cow<'a, [(usize, i64)]>,
    /// Column number in the bank and dense element of `b`, for columns that take part.
    pub cols: Cow<'a, [(usize, i64)]>,
    /// Which k take part; all when empty.
    pub mask: Cow<'a, [bool]>,
    /// Columns of the bank.
    pub stride: usize,
    /// What tells the contents of second operands apart.
    pub b_origin: Origin,
    /// The group size of the grouped rule, when both operands are grouped.
    pub group: Option<usize>,
}

/// Where an operand's bytes are from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A slot of this version, which with the addresses of its planes tells contents apart.
    Slot(u64),
    /// Weights, the same in every launch.
    Constant(Constant),
}

impl Product<'_> {
    /// Whether k number `k` takes part.
    pub fn takes_part(&self, k: usize) -> bool {
        self.mask.is_empty() || self.mask[k]
    }
}

/// Element offsets of the indices of some dimensions in row-major order, with whether each is in range.
pub(super) fn offsets(view: &View, dims: &[usize], ranges: &[(u32, u32); VIEW_DIMS]) -> Vec<(i64, bool)> {
    let mut out = vec![(0i64, true)];
    for &d in dims {
        let dim = &view.dims[d];
        let (first, count) = ranges[d];
        let mut next = Vec::with_capacity(out.len() * dim.size as usize);
        for &(offset, inside) in &out {
            for i in 0..dim.size {
                let here = i >= first && i - first < count;
                next.push((offset + i64::from(dim.stride) * i64::from(i), inside && here));
            }
        }
        out = next;
    }
    out
}

pub(super) fn reach(items: impl Iterator<Item = i64>) -> (i64, i64) {
    items.fold((i64::MAX, i64::MIN), |(low, high), at| (low.min(at), high.max(at)))
}

/// Groups and pattern groups must run along the innermost summed dimension that has more than one index, in whole groups.
pub(super) fn check_groups(view: &View, k_dims: &[usize]) -> Result<(), Fault> {
    let unit = view.planes().unit() as u32;
    if unit <= 1 {
        return Ok(());
    }
    let k_dim = usize::from(view.k_dim);
    let along = k_dims.contains(&k_dim)
        && k_dims.iter().all(|&d| d <= k_dim || view.dims[d].size == 1)
        && view.dims[k_dim].size.is_multiple_of(unit)
        && view.dims[k_dim].stride > 0;
    if along {
        Ok(())
    } else {
        let message = format!("dimension {k_dim} does not sum over whole groups of {unit}");
        Err(Fault::new(TrapKind::PartialGroup, message))
    }
}
