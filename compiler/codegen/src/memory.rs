//! Planning HBM and shared SRAM: storages whose lives do not overlap share addresses.

use lacuna_isa::object::{Address, MemSpace};
use lacuna_isa::timing::ALIGN;

/// The life of one allocation, in launch numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    /// Bytes.
    pub bytes: u64,
    /// First launch that touches it.
    pub first: usize,
    /// Last launch that touches it.
    pub last: usize,
}

/// Addresses within one memory, and its size.
///
/// Largest first, each at the lowest address where no allocation with an overlapping life lies.
pub fn plan(lives: &[Life]) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lives[i].bytes), lives[i].first, i));
    let mut placed: Vec<(u64, u64, usize)> = Vec::new();
    let mut addresses = vec![0; lives.len()];
    let mut total = 0;
    for i in order {
        let life = lives[i];
        let bytes = life.bytes.next_multiple_of(ALIGN);
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|&&(_, _, j)| lives[j].first <= life.last && life.first <= lives[j].last)
            .map(|&(start, end, _)| (start, end))
            .collect();
        taken.sort_unstable();
        let mut at = 0;
        for (start, end) in taken {
            if at + bytes <= start {
                break;
            }
            at = at.max(end);
        }
        addresses[i] = at;
        total = total.max(at + bytes);
        placed.push((at, at + bytes, i));
    }
    (addresses, total)
}

/// An address.
pub fn address(space: MemSpace, offset: u64) -> Address {
    Address { space, offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_that_overlap_do_not_share_bytes() {
        let lives = [(100, 0, 2), (64, 1, 1), (200, 3, 4), (10, 2, 3), (64, 0, 0)]
            .map(|(bytes, first, last)| Life { bytes, first, last });
        let (at, total) = plan(&lives);
        for i in 0..lives.len() {
            for j in 0..i {
                let apart = at[i] + lives[i].bytes <= at[j] || at[j] + lives[j].bytes <= at[i];
                let alive = lives[i].first <= lives[j].last && lives[j].first <= lives[i].last;
                assert!(apart || !alive, "{i} and {j} share bytes: {at:?}");
            }
        }
        assert!(total <= 320, "{total}");
    }
}
