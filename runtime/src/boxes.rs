//! Walks over strided boxes with two sides: the same indices, different element numbers on each side.

use lacuna_isa::view::VIEW_DIMS;

/// Dimensions of a walk: those of a view, and one for the stored elements of an N:M pattern group.
pub(crate) const WALK_DIMS: usize = VIEW_DIMS + 1;

/// A box with element numbers on a source and a target side, neighbouring dimensions merged where both sides allow it.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    n_dims: usize,
    counts: [u32; WALK_DIMS],
    strides: [[i64; 2]; WALK_DIMS],
    base: [i64; 2],
}

impl Walk {
    /// The walk over `counts`, outermost first; `None` when it is empty.
    pub fn new(counts: &[u32], source: &[i64], target: &[i64], base: [i64; 2]) -> Option<Walk> {
        let mut walk = Walk { n_dims: 0, counts: [1; WALK_DIMS], strides: [[0; 2]; WALK_DIMS], base };
        for ((&count, &s), &t) in counts.iter().zip(source).zip(target) {
            match count {
                0 => return None,
                1 => {}
                _ => walk.append(count, [s, t]),
            }
        }
        if walk.n_dims == 0 {
            walk.append(1, [1, 1]);
        }
        Some(walk)
    }

    fn append(&mut self, count: u32, strides: [i64; 2]) {
        if let Some(last) = self.n_dims.checked_sub(1) {
            let spans = strides.map(|s| s * i64::from(count));
            if self.strides[last] == spans
                && let Some(merged) = self.counts[last].checked_mul(count)
            {
                self.counts[last] = merged;
                self.strides[last] = strides;
                return;
            }
        }
        self.counts[self.n_dims] = count;
        self.strides[self.n_dims] = strides;
        self.n_dims += 1;
    }

    /// Number of indices of the innermost dimension, and the distance of its neighbours on each side.
    pub fn inner(&self) -> (usize, [i64; 2]) {
        let last = self.n_dims - 1;
        (self.counts[last] as usize, self.strides[last])
    }

    /// The dimensions, outermost first: count and distance on each side.
    pub fn dims(&self) -> impl Iterator<Item = (u32, [i64; 2])> + '_ {
        self.counts.iter().copied().zip(self.strides).take(self.n_dims)
    }

    /// The same walk from elsewhere on the source side.
    pub fn from(&self, source: i64) -> Walk {
        Walk { base: [source, self.base[1]], ..self.clone() }
    }

    /// First element number of each side.
    pub fn base(&self) -> [i64; 2] {
        self.base
    }

    /// Whether the source is one run of neighbouring elements.
    pub fn source_is_contiguous(&self) -> bool {
        self.n_dims == 1 && self.strides[0][0] == 1
    }

    /// The walk over the bytes of elements of `bits` bits, in place of the elements; `None` where its rows are not whole bytes
    /// side by side.
    pub fn in_bytes(&self, bits: u32) -> Option<Walk> {
        let bits = i64::from(bits);
        let last = self.n_dims - 1;
        let mut bytes = self.clone();
        let whole = |n: i64| (n * bits % 8 == 0).then_some(n * bits / 8);
        if self.strides[last] != [1, 1] {
            return None;
        }
        bytes.counts[last] = whole(i64::from(self.counts[last]))?.try_into().ok()?;
        for side in 0..2 {
            bytes.base[side] = whole(self.base[side])?;
            for d in 0..last {
                bytes.strides[d][side] = whole(self.strides[d][side])?;
            }
        }
        Some(bytes)
    }

    /// Least and greatest element number of a side.
    pub fn extent(&self, side: usize) -> (i64, i64) {
        let (mut low, mut high) = (self.base[side], self.base[side]);
        for (count, strides) in self.dims() {
            let reach = strides[side].saturating_mul(i64::from(count) - 1);
            low = low.saturating_add(reach.min(0));
            high = high.saturating_add(reach.max(0));
        }
        (low, high)
    }

    /// Calls `f` with the element numbers of the first index of every innermost row.
    pub fn rows(&self, mut f: impl FnMut(i64, i64)) {
        let outer = self.n_dims - 1;
        let mut idx = [0u32; WALK_DIMS];
        let mut at = self.base;
        loop {
            f(at[0], at[1]);
            let mut d = outer;
            loop {
                if d == 0 {
                    return;
                }
                d -= 1;
                idx[d] += 1;
                at[0] += self.strides[d][0];
                at[1] += self.strides[d][1];
                if idx[d] < self.counts[d] {
                    break;
                }
                at[0] -= self.strides[d][0] * i64::from(self.counts[d]);
                at[1] -= self.strides[d][1] * i64::from(self.counts[d]);
                idx[d] = 0;
            }
        }
    }
}

/// Strides of a dense row-major box.
pub(crate) fn dense_strides(sizes: [u32; VIEW_DIMS]) -> [i64; VIEW_DIMS] {
    let mut strides = [1i64; VIEW_DIMS];
    for d in (0..VIEW_DIMS - 1).rev() {
        strides[d] = strides[d + 1].saturating_mul(i64::from(sizes[d + 1].max(1)));
    }
    strides
}

/// Strides, in a plane that keeps `kept` of every `group` elements along `k_dim`, of a box with these dense strides; the
/// entry of `k_dim` is that of whole groups. `None` when a dimension does not move by whole groups.
pub(crate) fn plane_strides(
    strides: &[i64; VIEW_DIMS],
    counts: &[u32; VIEW_DIMS],
    k_dim: usize,
    k_stride: u64,
    group: i64,
    kept: i64,
) -> Option<[i64; VIEW_DIMS]> {
    let s = (k_stride as i64).max(1);
    let mut out = [0; VIEW_DIMS];
    for d in 0..VIEW_DIMS {
        out[d] = if d == k_dim {
            s * kept
        } else if counts[d] <= 1 {
            0
        } else if strides[d] % (s * group) == 0 {
            strides[d] / group * kept
        } else if strides[d].abs() < s {
            strides[d]
        } else {
            return None;
        };
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(counts: &[u32], source: &[i64], target: &[i64], base: [i64; 2]) -> Vec<(i64, i64, usize)> {
        let mut out = Vec::new();
        if let Some(walk) = Walk::new(counts, source, target, base) {
            walk.rows(|s, t| out.push((s, t, walk.inner().0)));
        }
        out
    }

    #[test]
    fn merges_and_visits() {
        assert_eq!(rows(&[2, 3, 4], &[12, 4, 1], &[12, 4, 1], [5, 0]), [(5, 0, 24)]);
        assert_eq!(rows(&[2, 1, 4], &[12, 4, 1], &[4, 4, 1], [0, 0]), [(0, 0, 4), (12, 4, 4)]);
        assert_eq!(rows(&[2, 0, 4], &[12, 4, 1], &[4, 4, 1], [0, 0]), []);
        assert_eq!(rows(&[1, 1], &[12, 4], &[4, 4], [7, 9]), [(7, 9, 1)]);
        assert_eq!(
            rows(&[2, 2, 2], &[100, 10, 1], &[4, 2, 1], [0, 0]),
            [(0, 0, 2), (10, 2, 2), (100, 4, 2), (110, 6, 2)]
        );
    }

    #[test]
    fn extents() {
        let walk = Walk::new(&[3, 4], &[-10, 1], &[4, 1], [20, 0]).expect("not empty");
        assert_eq!(walk.extent(0), (0, 23));
        assert_eq!(walk.extent(1), (0, 11));
    }
}
