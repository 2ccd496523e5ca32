//! Strided boxes of elements, plane by plane, as runs of bits.

use lacuna_isa::format::Format;
use lacuna_isa::inst::Order;
use lacuna_isa::view::{PlaneMap, VIEW_DIMS};

use super::{Reason, Rule};

/// Dimensions of a box in a plane: those of a view, and one for the stored elements of a pattern group.
const BOX_DIMS: usize = VIEW_DIMS + 1;

/// One side of a transfer: element number of the first index, and the distance of neighbours in each dimension.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    pub map: PlaneMap,
    pub base: i64,
    pub strides: [i64; VIEW_DIMS],
}

/// A box of one plane: runs of neighbouring elements at regular distances.
#[derive(Clone, Debug)]
pub(super) struct PlaneBox {
    /// 0 codes, 1 scales, 2 indices.
    pub plane: usize,
    /// Bits of one element.
    pub bits: u64,
    base: i64,
    run: u64,
    n_dims: usize,
    counts: [u64; BOX_DIMS],
    strides: [u64; BOX_DIMS],
}

impl PlaneBox {
    fn new(plane: usize, bits: u32, base: i64, counts: &[u64], strides: &[i64]) -> PlaneBox {
        let mut made = PlaneBox {
            plane,
            bits: u64::from(bits),
            base,
            run: 1,
            n_dims: 0,
            counts: [1; BOX_DIMS],
            strides: [0; BOX_DIMS],
        };
        // Ascending strides without signs: the order of indices does not matter for what is touched.
        let mut dims: Vec<(u64, u64)> = Vec::with_capacity(BOX_DIMS);
        for (&count, &stride) in counts.iter().zip(strides) {
            if count > 1 {
                made.base += stride.min(0) * (count as i64 - 1);
                dims.push((stride.unsigned_abs(), count));
            }
        }
        dims.sort_unstable();
        for (stride, count) in dims {
            if made.n_dims == 0 && stride == made.run {
                made.run *= count;
            } else if let Some(last) = made.n_dims.checked_sub(1)
                && made.strides[last] * made.counts[last] == stride
            {
                made.counts[last] *= count;
            } else {
                made.counts[made.n_dims] = count;
                made.strides[made.n_dims] = stride;
                made.n_dims += 1;
            }
        }
        made
    }

    /// Least and greatest element number.
    pub fn extent(&self) -> (i64, i64) {
        let dims = self.counts.iter().zip(&self.strides).take(self.n_dims);
        let reach: u64 = dims.map(|(&n, &s)| (n - 1).saturating_mul(s)).fold(0, u64::saturating_add);
        let last = i64::try_from(reach.saturating_add(self.run - 1)).unwrap_or(i64::MAX);
        (self.base, self.base.saturating_add(last))
    }

    /// Calls `f` with first and end bit of every run, until it returns false. The box has no negative elements.
    pub fn runs(&self, mut f: impl FnMut(u64, u64) -> bool) {
        let mut idx = [0u64; BOX_DIMS];
        let mut at = self.base as u64;
        loop {
            if !f(at * self.bits, (at + self.run) * self.bits) {
                return;
            }
            let mut d = 0;
            loop {
                if d == self.n_dims {
                    return;
                }
                idx[d] += 1;
                at += self.strides[d];
                if idx[d] < self.counts[d] {
                    break;
                }
                at -= self.strides[d] * self.counts[d];
                idx[d] = 0;
                d += 1;
            }
        }
    }
}

/// Group and pattern sizes of a plane map that are more than one element.
fn units(map: &PlaneMap) -> impl Iterator<Item = u64> {
    let pattern = map.pattern.map_or(1, |p| u64::from(p.m));
    [u64::from(map.format.group_size()), pattern].into_iter().filter(|&unit| unit > 1)
}

/// Whether a box of `counts` on this side consists of whole groups (and pattern groups) along dimension `k_dim`.
pub(super) fn whole_groups(
    side: &Side,
    counts: &[u32; VIEW_DIMS],
    k_dim: usize,
    what: &str,
) -> Result<(), Reason> {
    let s = side.map.k_stride.max(1) as i64;
    for unit in units(&side.map) {
        let g = unit as i64;
        let fault = |message: String| Err((Rule::PartialGroup, format!("{message} of {unit} {what}")));
        if side.base.div_euclid(s) % g != 0 {
            return fault(format!("element {} starts within a group", side.base));
        }
        if !u64::from(counts[k_dim]).is_multiple_of(unit) {
            return fault(format!("{} elements are no whole groups", counts[k_dim]));
        }
        for (d, (&stride, &n)) in side.strides.iter().zip(counts).enumerate() {
            if d != k_dim && n > 1 && stride % (s * g) != 0 && stride.abs() >= s {
                return fault(format!("dimension {d} moves by {stride} elements, within groups"));
            }
        }
    }
    Ok(())
}

/// The boxes of all planes of a box of whole groups with `counts` indices on one side.
pub(super) fn plane_boxes(side: &Side, counts: &[u32; VIEW_DIMS], k_dim: usize) -> Vec<PlaneBox> {
    let counts = counts.map(u64::from);
    let s = side.map.k_stride.max(1);
    // Strides in a plane that keeps `kept` of every `unit` elements; the entry of the k dimension is that of whole groups.
    let in_plane = |unit: u64, kept: u64| -> ([u64; BOX_DIMS], [i64; BOX_DIMS]) {
        let (mut blocks, mut strides) = ([1; BOX_DIMS], [0; BOX_DIMS]);
        for d in 0..VIEW_DIMS {
            let stride = side.strides[d];
            let whole = (s * unit) as i64;
            (blocks[d], strides[d]) = if d == k_dim {
                (counts[d] / unit, (s * kept) as i64)
            } else if stride % whole == 0 {
                (counts[d], stride / unit as i64 * kept as i64)
            } else {
                (counts[d], stride)
            };
        }
        (blocks[VIEW_DIMS], strides[VIEW_DIMS]) = (kept, s as i64);
        (blocks, strides)
    };
    let element = side.map.format.element().bits();
    let base = side.base.max(0) as u64;
    let mut planes = Vec::with_capacity(3);
    match side.map.pattern {
        None => planes.push(PlaneBox::new(0, element, side.base, &counts, &side.strides)),
        Some(p) => {
            let (blocks, strides) = in_plane(u64::from(p.m), u64::from(p.n));
            let first = side.map.stored_idx(base) as i64;
            planes.push(PlaneBox::new(0, element, first, &blocks, &strides));
            planes.push(PlaneBox::new(2, p.index_type().bits(), first, &blocks, &strides));
        }
    }
    if let Format::Grouped(format) = side.map.format {
        let (blocks, strides) = in_plane(u64::from(format.size), 1);
        let bits = format.scale_entry().bits();
        planes.push(PlaneBox::new(1, bits, side.map.scale_idx(base) as i64, &blocks, &strides));
    }
    planes
}

/// Strides of a dense row-major box.
pub(super) fn dense_strides(sizes: [u32; VIEW_DIMS]) -> [i64; VIEW_DIMS] {
    let mut strides = [1i64; VIEW_DIMS];
    for d in (0..VIEW_DIMS - 1).rev() {
        strides[d] = strides[d + 1].saturating_mul(i64::from(sizes[d + 1].max(1)));
    }
    strides
}

/// Dimensions of a product's second operand: columns and sums.
pub(super) fn product_dims(order: Order) -> ([usize; 2], [usize; 3]) {
    match order {
        Order::Kn => ([0, 4], [1, 2, 3]),
        Order::Nk => ([0, 1], [2, 3, 4]),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lacuna_isa::format::GroupFormat;
    use lacuna_isa::view::Pattern;
    use proptest::prelude::*;

    use super::*;

    fn elements(plane: &PlaneBox) -> BTreeSet<u64> {
        let mut all = BTreeSet::new();
        plane.runs(|from, to| {
            all.extend(from / plane.bits..to / plane.bits);
            true
        });
        all
    }

    proptest! {
        /// The planes hold what the definition of a plane map gives element by element.
        #[test]
        fn planes_follow_their_map(
            rows in 1..4u32, groups in 1..3u32, lanes in 1..5u32, wide in 0..3i64, sparse: bool, down: bool,
            format in prop::sample::select(vec![GroupFormat::MXFP8, GroupFormat::NVFP4, GroupFormat::MX6]),
        ) {
            let s = i64::from(lanes) + wide;
            let k = groups * 32;
            let map = PlaneMap {
                format: Format::Grouped(format),
                pattern: sparse.then_some(Pattern::P2_4),
                k_stride: s as u64,
            };
            let row = s * i64::from(k);
            let strides = [0, 0, if down { -row } else { row }, s, 1];
            let base = if down { row * i64::from(rows - 1) } else { row };
            let side = Side { map, base, strides };
            let counts = [1, 1, rows, k, lanes];
            prop_assert!(whole_groups(&side, &counts, 3, "here").is_ok());
            let mut expect = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
            for (r, j, l) in (0..rows).flat_map(|r| (0..k).flat_map(move |j| (0..lanes).map(move |l| (r, j, l)))) {
                let e = (base + i64::from(r) * strides[2] + i64::from(j) * s + i64::from(l)) as u64;
                expect[1].insert(map.scale_idx(e));
                for i in 0..map.pattern.map_or(1, |p| u64::from(p.n)) {
                    expect[0].insert(map.stored_idx(e) + i * s as u64);
                    if sparse {
                        expect[2].insert(map.stored_idx(e) + i * s as u64);
                    }
                }
            }
            let mut got = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
            for plane in plane_boxes(&side, &counts, 3) {
                got[plane.plane] = elements(&plane);
                let (low, high) = plane.extent();
                prop_assert_eq!(got[plane.plane].first(), Some(&(low as u64)));
                prop_assert_eq!(got[plane.plane].last(), Some(&(high as u64)));
            }
            prop_assert_eq!(got, expect);
        }
    }
}
