//! What slots hold, and which of their elements a view reaches.

use lacuna_isa::format::Format;
use lacuna_isa::view::{PlaneMap, Position, VIEW_DIMS, View};

use super::boxes::dense_strides;
use super::{Reason, Rule};

/// The layout of a slot: how its planes relate, and the dense elements that they are made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub map: PlaneMap,
    pub elements: u64,
}

impl Layout {
    /// What a push through a local view makes.
    pub fn pushed(view: &View) -> Layout {
        Layout { map: view.planes(), elements: view.slot_elements() }
    }

    /// What a load of the global view `src` makes: its box, dense, in the format of the slot's view.
    pub fn loaded(src: &View, format: Format) -> Layout {
        let k_stride = dense_strides(src.sizes())[usize::from(src.k_dim)].unsigned_abs();
        Layout { map: PlaneMap { format, pattern: src.pattern, k_stride }, elements: src.elements() }
    }

    /// Bytes of all planes.
    pub fn bytes(&self) -> u64 {
        self.map.plane_bytes(self.elements).iter().sum()
    }

    /// Whether `view` may name a slot of this layout.
    pub fn admits(&self, view: &View) -> Result<(), Reason> {
        let map = view.planes();
        if (map.format, map.pattern) != (self.map.format, self.map.pattern) {
            let name = |m: &PlaneMap| match m.pattern {
                Some(pattern) => format!("{} {pattern}", m.format),
                None => m.format.to_string(),
            };
            let message = format!("the slot holds {}, the view names {}", name(&self.map), name(&map));
            return Err((Rule::FormatMismatch, message));
        }
        let grouped = map.pattern.is_some() || map.format.group_size() > 1;
        if grouped && map.k_stride.max(1) != self.map.k_stride.max(1) {
            let message = format!(
                "the slot's groups run at distance {}, the view's at {}",
                self.map.k_stride, map.k_stride
            );
            return Err((Rule::FormatMismatch, message));
        }
        Ok(())
    }
}

pub(super) type Ranges = [(u32, u32); VIEW_DIMS];

/// The indices that take part at a position; all of them where none is given.
pub(super) fn ranges(view: &View, at: Option<&Position>) -> Ranges {
    match at {
        Some(at) => view.clip(at),
        None => view.sizes().map(|n| (0, n)),
    }
}

pub(super) fn intersect(a: Ranges, b: Ranges) -> Ranges {
    std::array::from_fn(|d| {
        let first = a[d].0.max(b[d].0);
        (first, (a[d].0 + a[d].1).min(b[d].0 + b[d].1).saturating_sub(first))
    })
}

pub(super) fn within(
    strides: [i64; VIEW_DIMS],
    offset: i64,
    ranges: Ranges,
    layout: &Layout,
) -> Result<(), Reason> {
    if ranges.iter().any(|r| r.1 == 0) {
        return Ok(());
    }
    let (mut low, mut high) = (offset, offset);
    for (stride, (first, n)) in strides.into_iter().zip(ranges) {
        let (a, b) = (stride * i64::from(first), stride * (i64::from(first) + i64::from(n) - 1));
        low += a.min(b);
        high += a.max(b);
    }
    bounds(low, high, layout)
}

pub(super) fn bounds(low: i64, high: i64, layout: &Layout) -> Result<(), Reason> {
    if low >= 0 && (high as u64) < layout.elements {
        return Ok(());
    }
    Err((Rule::SlotBounds, format!("elements {low} to {high} of a slot of {}", layout.elements)))
}

pub(super) fn strides(view: &View) -> [i64; VIEW_DIMS] {
    view.dims.map(|d| i64::from(d.stride))
}
