//! Sets of bytes: a bit for each byte of a tensor, and intervals of a memory.

use std::collections::BTreeMap;

/// Bytes of one page of marks.
const PAGE: u64 = 1 << 15;
const WORDS: usize = (PAGE / 64) as usize;

/// A set of bytes of one tensor, page by page.
#[derive(Default, Debug)]
pub(super) struct Marks {
    pages: Vec<Option<Box<[u64; WORDS]>>>,
    /// Pages in use.
    used: Vec<usize>,
}

impl Marks {
    fn page(&mut self, number: usize) -> &mut [u64; WORDS] {
        if number >= self.pages.len() {
            self.pages.resize_with(number + 1, || None);
        }
        let used = &mut self.used;
        self.pages[number].get_or_insert_with(|| {
            used.push(number);
            Box::new([0; WORDS])
        })
    }

    /// Adds `n` bytes; returns whether any was there already.
    pub fn add(&mut self, at: u64, n: u64) -> bool {
        let (mut byte, end) = (at, at + n);
        let mut hit = 0;
        while byte < end {
            let stop = end.min((byte / PAGE + 1) * PAGE);
            let page = self.page((byte / PAGE) as usize);
            while byte < stop {
                let k = (64 - byte % 64).min(stop - byte);
                let mask = (u64::MAX >> (64 - k)) << (byte % 64);
                let word = &mut page[(byte % PAGE / 64) as usize];
                hit |= *word & mask;
                *word |= mask;
                byte += k;
            }
        }
        hit != 0
    }

    /// Whether any of `n` bytes is in the set.
    pub fn any(&self, at: u64, n: u64) -> bool {
        let (mut byte, end) = (at, at + n);
        while byte < end {
            let stop = end.min((byte / PAGE + 1) * PAGE);
            match self.pages.get((byte / PAGE) as usize) {
                Some(Some(page)) => {
                    while byte < stop {
                        let k = (64 - byte % 64).min(stop - byte);
                        let mask = (u64::MAX >> (64 - k)) << (byte % 64);
                        if page[(byte % PAGE / 64) as usize] & mask != 0 {
                            return true;
                        }
                        byte += k;
                    }
                }
                Some(None) | None => byte = stop,
            }
        }
        false
    }

    /// Moves all bytes of `other` into the set.
    pub fn absorb(&mut self, other: &mut Marks) {
        for number in other.used.drain(..) {
            if let Some(from) = other.pages[number].take() {
                let to = self.page(number);
                to.iter_mut().zip(from.iter()).for_each(|(to, from)| *to |= from);
            }
        }
    }

    /// The maximal runs of bytes, ascending: first byte and end.
    pub fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut push = |start: u64, end: u64| match runs.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            Some(_) | None => runs.push((start, end)),
        };
        for (number, page) in self.pages.iter().enumerate() {
            let Some(page) = page else { continue };
            for (i, &word) in page.iter().enumerate() {
                let first = number as u64 * PAGE + i as u64 * 64;
                let mut rest = word;
                let mut shift = 0;
                while rest != 0 {
                    let zeros = rest.trailing_zeros();
                    let ones = (rest >> zeros).trailing_ones();
                    let start = first + shift + u64::from(zeros);
                    push(start, start + u64::from(ones));
                    shift += u64::from(zeros + ones);
                    rest = if zeros + ones == 64 { 0 } else { rest >> (zeros + ones) };
                }
            }
        }
        runs
    }
}

/// A set of bytes of one memory as disjoint intervals that do not touch.
#[derive(Default, Debug)]
pub(super) struct Intervals(BTreeMap<u64, u64>);

impl Intervals {
    /// Adds the bytes `start..end`.
    pub fn add(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        if let Some((&first, &last)) = self.0.range(..=start).next_back()
            && last >= start
        {
            start = first;
            end = end.max(last);
        }
        while let Some((&first, &last)) = self.0.range(start..=end).next() {
            end = end.max(last);
            self.0.remove(&first);
        }
        self.0.insert(start, end);
    }

    /// The first byte of `start..end` that is in the set; `end` when none is.
    pub fn first_present(&self, start: u64, end: u64) -> u64 {
        match self.0.range(..=start).next_back() {
            Some((_, &last)) if last > start => start,
            Some(_) | None => self.0.range(start..end).next().map_or(end, |(&first, _)| first),
        }
    }

    /// The first byte of `start..end` that is not in the set.
    pub fn first_missing(&self, start: u64, end: u64) -> Option<u64> {
        if start >= end {
            return None;
        }
        match self.0.range(..=start).next_back() {
            Some((_, &last)) if last >= end => None,
            Some((_, &last)) if last > start => Some(last),
            Some(_) | None => Some(start),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_are_sets_of_bytes(parts in proptest::collection::vec((0..70_000u64, 1..300u64), 1..40)) {
            let (mut marks, mut intervals) = (Marks::default(), Intervals::default());
            let mut bytes = BTreeSet::new();
            for &(at, n) in &parts {
                let there = (at..at + n).any(|b| bytes.contains(&b));
                prop_assert_eq!(marks.any(at, n), there);
                prop_assert_eq!(marks.add(at, n), there);
                intervals.add(at, at + n);
                bytes.extend(at..at + n);
            }
            let mut twice = Marks::default();
            for (start, end) in marks.runs() {
                prop_assert!((start..end).all(|b| bytes.remove(&b)));
                prop_assert_eq!(intervals.first_missing(start, end), None);
                prop_assert_eq!(intervals.first_missing(start, end + 1), Some(end));
                prop_assert_eq!(intervals.first_present(start, end), start);
                prop_assert!(intervals.first_present(end, end + 100) > end);
                twice.add(start, end - start);
            }
            prop_assert!(bytes.is_empty());
            let mut into = Marks::default();
            into.absorb(&mut twice);
            prop_assert_eq!(into.runs(), marks.runs());
            prop_assert!(twice.runs().is_empty());
        }
    }
}
