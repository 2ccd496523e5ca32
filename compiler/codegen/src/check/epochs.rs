//! Races on one `inout` tensor of a kernel whose PEs order their accesses.

use super::marks::{Intervals, Marks};
use super::order::{Access, Ordering};

/// Runs of bytes: first byte and end.
type Runs = Vec<(u64, u64)>;

/// Bytes that one PE reads, or writes, in one interval.
struct Set {
    access: Access,
    /// The first instruction that does.
    pc: usize,
    runs: Runs,
}

/// The accesses of all PEs.
#[derive(Default)]
pub(super) struct Epochs {
    writes: Vec<Set>,
    reads: Vec<Set>,
    /// Reads of bytes that the PE itself has not written before.
    fresh: Vec<Set>,
    /// What the current PE has written.
    mine: Marks,
    /// Of the current PE: accesses in progress, written, read or read fresh.
    open: Vec<(Access, usize, [Marks; 3])>,
}

impl Epochs {
    /// Notes an access of the current PE to the bytes `first..end`.
    pub fn add(&mut self, access: Access, pc: usize, writes: bool, first: u64, end: u64) {
        let at = self.open.iter().rposition(|(other, ..)| *other == access).unwrap_or_else(|| {
            self.open.push((access, pc, Default::default()));
            self.open.len() - 1
        });
        let [written, read, fresh] = &mut self.open[at].2;
        if writes {
            written.add(first, end - first);
            self.mine.add(first, end - first);
            return;
        }
        read.add(first, end - first);
        if !self.mine.any(first, end - first) {
            fresh.add(first, end - first);
            return;
        }
        for byte in (first..end).filter(|&b| !self.mine.any(b, 1)) {
            fresh.add(byte, 1);
        }
    }

    /// Ends the current PE.
    pub fn end_pe(&mut self) {
        self.mine = Marks::default();
        for (access, pc, marks) in self.open.drain(..) {
            for (marks, sets) in marks.iter().zip([&mut self.writes, &mut self.reads, &mut self.fresh]) {
                let runs = marks.runs();
                if !runs.is_empty() {
                    sets.push(Set { access, pc, runs });
                }
            }
        }
    }

    /// Everything that is written.
    pub fn written(&self) -> Runs {
        let mut all = Marks::default();
        for (from, to) in self.writes.iter().flat_map(|set| &set.runs) {
            all.add(*from, to - from);
        }
        all.runs()
    }

    /// Calls `found` for every pair of a set of `sets` and a set of writes, of different PEs, that share bytes.
    fn overlaps<'e>(&'e self, sets: &'e [Set], found: &mut dyn FnMut(&'e Set, &'e Set, (u64, u64)) -> bool) {
        let mut writes: Vec<(u64, u64, &Set)> =
            self.writes.iter().flat_map(|set| set.runs.iter().map(move |r| (r.0, r.1, set))).collect();
        writes.sort_by_key(|w| (w.0, w.1));
        let longest = writes.iter().map(|w| w.1 - w.0).max().unwrap_or(0);
        for set in sets {
            for &(from, to) in &set.runs {
                let first = writes.partition_point(|w| w.0.saturating_add(longest) <= from);
                for &(start, end, other) in writes[first..].iter().take_while(|w| w.0 < to) {
                    let shares = end > from && other.access.pe != set.access.pe;
                    if shares && !found(set, other, (start.max(from), end.min(to))) {
                        return;
                    }
                }
            }
        }
    }

    /// The first conflict that nothing orders: instruction, PE, and what is wrong.
    pub fn race(&self, order: &Ordering) -> Option<(usize, usize, String)> {
        let mut conflict = None;
        for sets in [&self.writes, &self.reads] {
            self.overlaps(sets, &mut |set, write, (byte, _)| {
                let (a, b) = (set.access, write.access);
                if order.precedes(a, b) || order.precedes(b, a) {
                    return true;
                }
                let message =
                    format!("byte {byte} is written by PE number {}, and nothing orders both", b.pe);
                conflict = Some((set.pc, a.pe, message));
                false
            });
            if conflict.is_some() {
                break;
            }
        }
        conflict
    }

    /// What is read before any PE writes it.
    pub fn needed(&self, order: &Ordering) -> Runs {
        let mut before: Vec<Intervals> = self.fresh.iter().map(|_| Intervals::default()).collect();
        let number = |set: &Set| self.fresh.iter().position(|other| std::ptr::eq(other, set));
        self.overlaps(&self.fresh, &mut |set, write, (from, to)| {
            if order.precedes(write.access, set.access)
                && let Some(i) = number(set)
            {
                before[i].add(from, to);
            }
            true
        });
        let mut needed = Marks::default();
        for (set, before) in self.fresh.iter().zip(&before) {
            for &(from, to) in &set.runs {
                let mut at = from;
                while let Some(missing) = before.first_missing(at, to) {
                    let end = before.first_present(missing, to);
                    needed.add(missing, end - missing);
                    at = end;
                }
            }
        }
        needed.runs()
    }
}
