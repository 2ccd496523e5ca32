//! Sets of indices of a dimension.

/// A set of indices of a dimension.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Indices {
    extent: u64,
    words: Vec<u64>,
}

impl Indices {
    /// The empty set for a dimension of `extent`.
    pub fn none(extent: u64) -> Indices {
        Indices { extent, words: vec![0; extent.div_ceil(64) as usize] }
    }

    /// Indices of a dimension that satisfy a condition.
    pub fn of(extent: u64, holds: impl Fn(u64) -> bool) -> Indices {
        let mut set = Indices::none(extent);
        (0..extent).filter(|&i| holds(i)).for_each(|i| set.insert(i));
        set
    }

    /// Adds an index.
    pub fn insert(&mut self, i: u64) {
        self.words[(i / 64) as usize] |= 1 << (i % 64);
    }

    /// Whether an index is in the set.
    pub fn contains(&self, i: u64) -> bool {
        (self.words[(i / 64) as usize] >> (i % 64)) & 1 == 1
    }

    /// Number of indices in the set.
    pub fn len(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Size of the dimension.
    pub fn extent(&self) -> u64 {
        self.extent
    }

    /// Whether there is no index in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&w| w == 0)
    }

    /// Whether every index of the dimension is in the set.
    pub fn is_full(&self) -> bool {
        self.len() == self.extent
    }

    /// Indices in either set.
    pub fn or(&self, other: &Indices) -> Indices {
        let words = self.words.iter().zip(&other.words).map(|(a, b)| a | b).collect();
        Indices { extent: self.extent, words }
    }

    /// Indices in both sets.
    pub fn and(&self, other: &Indices) -> Indices {
        let words = self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect();
        Indices { extent: self.extent, words }
    }

    /// Indices of the dimension that are not in the set.
    pub fn not(&self) -> Indices {
        Indices::of(self.extent, |i| !self.contains(i))
    }

    /// Stretches of neighbouring indices in the set: first index and length.
    pub fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for i in (0..self.extent).filter(|&i| self.contains(i)) {
            match runs.last_mut() {
                Some((start, len)) if *start + *len == i => *len += 1,
                _ => runs.push((i, 1)),
            }
        }
        runs
    }
}
