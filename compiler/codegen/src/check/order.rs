//! Where PEs meet: collectives that every member of a group comes to, waits that end, and what is in order afterwards.
//!
//! The streams of all PEs are reduced to their posts, waits and collectives, and those are played through: every PE goes up
//! to its next wait or collective; there each one in ascending order goes on if it can; and so again. A PE's *interval* is
//! the number of posts, waits and barriers behind it. The play notes for each PE's load queue and store queue, interval by
//! interval, how many intervals of every other queue are known to be over.

use std::collections::BTreeMap;
use std::rc::Rc;

use lacuna_isa::inst::{Engine, InstKind, Multicast};
use lacuna_isa::object::Kernel;
use lacuna_isa::view::{LOOP_LEVELS, PE_COORDS};

use super::control::{Control, Values};
use super::{Fault, Rule, pes, record};

/// Most posts, waits and collectives of all PEs.
const MAX_MARKS: usize = 1 << 22;
/// Most PEs of a kernel that has any.
const MAX_PES: usize = 1024;

/// A dynamic post, wait or collective.
type Mark = (usize, [u32; LOOP_LEVELS]);

/// An access as the order sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Access {
    pub pe: usize,
    /// Whether it goes through the store queue.
    pub stores: bool,
    pub interval: usize,
}

/// What is known to be over, for every PE, queue (loads, stores) and interval.
pub(super) struct Ordering {
    known: Vec<[Vec<Rc<[u32]>>; 2]>,
}

impl Ordering {
    /// Whether `a` is over before `b` begins.
    pub fn precedes(&self, a: Access, b: Access) -> bool {
        let known = &self.known[b.pe][usize::from(b.stores)][b.interval];
        known[queue(a.pe, a.stores)] as usize > a.interval
    }
}

fn queue(pe: usize, stores: bool) -> usize {
    2 * pe + usize::from(stores)
}

/// Whether an instruction ends an interval.
pub(super) fn ends_interval(kind: &InstKind) -> bool {
    matches!(kind, InstKind::Post { .. } | InstKind::Wait { .. } | InstKind::Bar { .. })
}

fn cast_of(kind: &InstKind) -> Option<Multicast> {
    match *kind {
        InstKind::Bar { cast } | InstKind::Xchg { cast, .. } | InstKind::Xred { cast, .. } => Some(cast),
        _ => None,
    }
}

fn same_group(a: &[u32; PE_COORDS], b: &[u32; PE_COORDS], cast: Multicast) -> bool {
    match cast {
        Multicast::None => a == b,
        Multicast::Row => (a[0], a[1]) == (b[0], b[1]),
        Multicast::Col => (a[2], a[3]) == (b[2], b[3]),
        Multicast::All => true,
    }
}

/// Plays the meetings of a kernel's PEs; `None` when it has none, or on a fault.
pub(super) fn meet(
    kernel: &Kernel,
    control: &mut Control<'_>,
    params: &Values,
    faults: &mut Vec<Fault>,
) -> Option<Ordering> {
    let is_mark = |kind: &InstKind| ends_interval(kind) || cast_of(kind).is_some();
    let wanted: Vec<bool> = kernel.code.iter().map(|inst| is_mark(&inst.kind)).collect();
    if !wanted.contains(&true) {
        return None;
    }
    let pes = pes(kernel);
    let mut fail = |rule: Rule, message: String| {
        record(faults, Fault { rule, pc: None, pe: None, message });
        None
    };
    if pes.len() > MAX_PES {
        return fail(Rule::Form, format!("{} PEs meet, at most {MAX_PES} can", pes.len()));
    }
    let mut streams: Vec<Vec<Mark>> = Vec::with_capacity(pes.len());
    let mut n_marks = 0;
    for &coords in &pes {
        let mut marks = Vec::new();
        let result = control.walk(coords, params, &wanted, &mut |pc, at| {
            marks.push((pc, at.levels));
            n_marks += 1;
            n_marks <= MAX_MARKS
        });
        if result.is_err() {
            return fail(Rule::Length, format!("more than {MAX_MARKS} posts, waits and collectives"));
        }
        streams.push(marks);
    }
    let start: Rc<[u32]> = vec![0; 2 * pes.len()].into();
    let mut play = Play {
        kernel,
        known: vec![[vec![Rc::clone(&start)], vec![start]]; pes.len()],
        pes,
        next: vec![0; streams.len()],
        streams,
        events: BTreeMap::new(),
    };
    match play.run() {
        Ok(()) => Some(Ordering { known: play.known }),
        Err((pe, pc, rule, message)) => {
            let pe = Some(play.pes[pe]);
            record(faults, Fault { rule, pc: Some(pc), pe, message });
            None
        }
    }
}

#[derive(Default)]
struct Event {
    posts: u64,
    /// What was over at all posts so far.
    over: Vec<u32>,
    /// What must be over at any further post.
    floor: Vec<u32>,
    waited: BTreeMap<usize, u64>,
}

struct Play<'k> {
    kernel: &'k Kernel,
    pes: Vec<[u32; PE_COORDS]>,
    streams: Vec<Vec<Mark>>,
    /// The next mark of each PE.
    next: Vec<usize>,
    known: Vec<[Vec<Rc<[u32]>>; 2]>,
    events: BTreeMap<u8, Event>,
}

/// PE, instruction, rule and message.
type Stuck = (usize, usize, Rule, String);

fn latest(a: &mut [u32], b: &[u32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a = (*a).max(*b);
    }
}

impl Play<'_> {
    fn run(&mut self) -> Result<(), Stuck> {
        loop {
            for pe in 0..self.pes.len() {
                self.posts(pe)?;
            }
            let here: Vec<Option<Mark>> =
                (0..self.pes.len()).map(|pe| self.streams[pe].get(self.next[pe]).copied()).collect();
            if here.iter().all(Option::is_none) {
                return Ok(());
            }
            let mut goes_on = vec![false; here.len()];
            for pe in 0..here.len() {
                if let Some(mark) = here[pe].filter(|_| !goes_on[pe]) {
                    self.try_mark(pe, mark, &here, &mut goes_on);
                }
            }
            if !goes_on.contains(&true) {
                return Err(self.stuck(&here));
            }
            for (next, _) in self.next.iter_mut().zip(&goes_on).filter(|(_, goes_on)| **goes_on) {
                *next += 1;
            }
        }
    }

    /// The number of intervals behind a PE.
    fn interval(&self, pe: usize) -> u32 {
        self.known[pe][0].len() as u32 - 1
    }

    fn last(&self, pe: usize, stores: bool) -> Rc<[u32]> {
        let all = &self.known[pe][usize::from(stores)];
        Rc::clone(&all[all.len() - 1])
    }

    /// Ends the interval of a PE with what its queues know now.
    fn end_interval(&mut self, pe: usize, loads: Rc<[u32]>, stores: Rc<[u32]>) {
        self.known[pe][0].push(loads);
        self.known[pe][1].push(stores);
    }

    /// Plays the posts that a PE comes to.
    fn posts(&mut self, pe: usize) -> Result<(), Stuck> {
        while let Some(&(pc, _)) = self.streams[pe].get(self.next[pe]) {
            let InstKind::Post { event, queue: engine } = self.kernel.code[pc].kind else { return Ok(()) };
            let stores = engine == Engine::FiStore;
            let mut over = self.last(pe, stores).to_vec();
            over[queue(pe, stores)] = self.interval(pe) + 1;
            let known = self.events.entry(event).or_default();
            if known.floor.iter().zip(&over).any(|(floor, mine)| mine < floor) {
                let message =
                    format!("nothing puts this post of event {event} behind the posts that a `wait` counts");
                return Err((pe, pc, Rule::Race, message));
            }
            known.posts += 1;
            known.over.resize(over.len(), 0);
            latest(&mut known.over, &over);
            let (loads, stores) = (self.last(pe, false), self.last(pe, true));
            self.end_interval(pe, loads, stores);
            self.next[pe] += 1;
        }
        Ok(())
    }

    /// Plays a wait or collective where it can be; marks the PEs that go on.
    fn try_mark(&mut self, pe: usize, mark: Mark, here: &[Option<Mark>], goes_on: &mut [bool]) {
        let kind = self.kernel.code[mark.0].kind;
        if let InstKind::Wait { count, event, queue: engine } = kind {
            let stores = engine == Engine::FiStore;
            let event = self.events.entry(event).or_default();
            let waited = event.waited.entry(queue(pe, stores)).or_default();
            if event.posts < *waited + u64::from(count) {
                return;
            }
            *waited += u64::from(count);
            let mut known = [self.known[pe][0].last().cloned(), self.known[pe][1].last().cloned()];
            if event.posts == *waited {
                event.floor.clone_from(&event.over);
                let mine = &mut known[usize::from(stores)];
                let mut joined = mine.as_deref().unwrap_or_default().to_vec();
                latest(&mut joined, &event.over);
                *mine = Some(joined.into());
            }
            if let [Some(loads), Some(stores)] = known {
                self.end_interval(pe, loads, stores);
            }
            goes_on[pe] = true;
            return;
        }
        let Some(cast) = cast_of(&kind) else { return };
        let members: Vec<usize> =
            (0..here.len()).filter(|&q| same_group(&self.pes[pe], &self.pes[q], cast)).collect();
        if members.iter().any(|&q| here[q] != Some(mark)) {
            return;
        }
        if let InstKind::Bar { .. } = kind {
            let mut all = vec![0; 2 * self.pes.len()];
            for &q in &members {
                for stores in [false, true] {
                    latest(&mut all, &self.last(q, stores));
                    all[queue(q, stores)] = self.interval(q) + 1;
                }
            }
            let all: Rc<[u32]> = all.into();
            for &q in &members {
                self.end_interval(q, Rc::clone(&all), Rc::clone(&all));
            }
        }
        members.iter().for_each(|&q| goes_on[q] = true);
    }

    /// Why nobody can go on.
    fn stuck(&self, here: &[Option<Mark>]) -> Stuck {
        let first = here.iter().enumerate().find_map(|(pe, mark)| Some((pe, (*mark)?)));
        let (pe, mark) = first.unwrap_or((0, (0, [0; LOOP_LEVELS])));
        let kind = self.kernel.code[mark.0].kind;
        if let InstKind::Wait { event, .. } = kind {
            let posts = self.events.get(&event).map_or(0, |e| e.posts);
            return (
                pe,
                mark.0,
                Rule::WouldBlock,
                format!("event {event} never has more than {posts} posts"),
            );
        }
        let cast = cast_of(&kind).unwrap_or(Multicast::All);
        let other = (0..here.len())
            .find(|&q| same_group(&self.pes[pe], &self.pes[q], cast) && here[q] != Some(mark))
            .unwrap_or(pe);
        let place = match here[other] {
            Some((pc, _)) => format!("comes to instruction {pc} instead"),
            None => "ends without it".to_owned(),
        };
        (pe, mark.0, Rule::NotUniform, format!("PE {:?} of the group {place}", self.pes[other]))
    }
}
