//! The order of launches: those that depend on one another stand apart, so that each finds what it needs there already.
//!
//! A chained launch waits for the launches before it that have written what it reads, and the machine has a few in flight. Between
//! branches of a model that do not meet there is freedom: their launches take turns. The order is a list schedule (Graham, 1969) over the
//! next [`WINDOW`] launches, so that lives of intermediates do not grow by more than those of a few launches: of the launches that
//! stand far enough behind what they depend on, the one with most others in a row behind it comes first.

use cranelift_entity::SecondaryMap;
use lacuna_isa::object::Access;
use lacuna_isa::timing::IN_FLIGHT;

use crate::lower::Lowering;
use crate::memory::{Life, plan};
use crate::place::{StorageId, StorageKind};
use crate::state::Kept;

/// Launches that are looked at for the next place.
const WINDOW: usize = 8;

/// Puts the launches in order, unless intermediates then outgrow the `sram_bytes` of shared SRAM and did not before.
pub(crate) fn schedule(lowering: &mut Lowering, kept: &[Kept], sram_bytes: u64) {
    let order = order(&dependencies(lowering, kept));
    let fits = |lowering: &Lowering| temporaries(lowering, 0).bytes <= sram_bytes;
    let fitted = fits(lowering);
    let launches = order.iter().map(|&i| lowering.launches[i].clone()).collect();
    let in_own_order = std::mem::replace(&mut lowering.launches, launches);
    if fitted && !fits(lowering) {
        lowering.launches = in_own_order;
    }
}

/// Intermediates, and where they lie in a memory of their own.
pub(crate) struct Temporaries {
    pub ids: Vec<StorageId>,
    pub lives: Vec<Life>,
    pub at: Vec<u64>,
    /// Bytes of the memory.
    pub bytes: u64,
}

/// The intermediates that launches use, whose bytes nobody else has until `slack` launches after their last user.
pub(crate) fn temporaries(lowering: &Lowering, slack: usize) -> Temporaries {
    let mut lives: SecondaryMap<StorageId, Option<Life>> = SecondaryMap::new();
    for (number, launch) in lowering.launches.iter().enumerate() {
        for &(id, _) in &launch.bases {
            if lowering.storages[id].kind == StorageKind::Temp {
                let bytes = lowering.storages[id].bytes();
                let life = lives[id].get_or_insert(Life { bytes, first: number, last: number });
                life.last = number + slack;
            }
        }
    }
    let found = lowering.storages.keys().filter_map(|id| Some((id, lives[id]?)));
    let (ids, lives): (Vec<StorageId>, Vec<Life>) = found.unzip();
    let (at, bytes) = plan(&lives);
    Temporaries { ids, lives, at, bytes }
}

/// An order of the launches in which each stands behind those that it depends on.
fn order(before: &[Vec<usize>]) -> Vec<usize> {
    // Launches on the longest way from each to the end.
    let mut heights = vec![0; before.len()];
    for launch in (0..before.len()).rev() {
        for &other in &before[launch] {
            heights[other] = heights[other].max(heights[launch] + 1);
        }
    }
    let mut place: Vec<Option<usize>> = vec![None; before.len()];
    let mut open: Vec<usize> = (0..before.len()).collect();
    let mut order = Vec::new();
    while !open.is_empty() {
        let now = order.len();
        // How far behind the last launch that it depends on a launch would stand, where all of them have a place.
        let distance = |launch: usize| -> Option<usize> {
            let last = before[launch].iter().map(|&other| place[other]).collect::<Option<Vec<usize>>>()?;
            Some(last.into_iter().max().map_or(IN_FLIGHT, |last| (now - last).min(IN_FLIGHT)))
        };
        // The first one is always possible: what it depends on stood before it.
        let near = open.iter().take(WINDOW).enumerate();
        let possible = near.filter_map(|(i, &launch)| Some(((distance(launch)?, heights[launch]), i)));
        let best = possible.reduce(|best, other| if other.0 > best.0 { other } else { best });
        let best = best.map_or(0, |(_, i)| i);
        let next = open.remove(best);
        place[next] = Some(now);
        order.push(next);
    }
    order
}

/// For each launch those before it that must stay before it: one of the two writes a storage of the other.
fn dependencies(lowering: &Lowering, kept: &[Kept]) -> Vec<Vec<usize>> {
    /// The last writer of a storage, and its readers since.
    #[derive(Clone, Default)]
    struct Users {
        writer: Option<usize>,
        readers: Vec<usize>,
    }
    let mut users: SecondaryMap<StorageId, Users> = SecondaryMap::new();
    // A state in place is one storage under two names.
    let name = |id: StorageId| kept.iter().find(|k| k.new == Some(id)).map_or(id, |k| k.old);
    let mut all = Vec::new();
    for (number, launch) in lowering.launches.iter().enumerate() {
        let mut before = Vec::new();
        let tensors = lowering.kernels.get_index(launch.kernel).map_or(&[][..], |k| &k.tensors[..]);
        for (&(id, _), tensor) in launch.bases.iter().zip(tensors) {
            let users = &mut users[name(id)];
            before.extend(users.writer.filter(|&writer| writer != number));
            if tensor.access == Access::In {
                users.readers.push(number);
            } else {
                before.extend(users.readers.drain(..).filter(|&reader| reader != number));
                users.writer = Some(number);
            }
        }
        all.push(before);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_take_turns() {
        // Two chains of three, one after the other, and what joins them.
        let before = [vec![], vec![0], vec![1], vec![], vec![3], vec![4], vec![2, 5]];
        assert_eq!(order(&before), [0, 3, 1, 4, 2, 5, 6]);
    }

    #[test]
    fn a_chain_stays_as_it_is() {
        let before: Vec<Vec<usize>> = (0..20).map(|i| (i > 0).then(|| i - 1).into_iter().collect()).collect();
        assert_eq!(order(&before), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn the_longest_way_goes_first() {
        // Two short ones before a chain that is long.
        let before = [vec![], vec![], vec![], vec![2], vec![3], vec![4]];
        assert_eq!(order(&before)[0], 2);
    }
}
