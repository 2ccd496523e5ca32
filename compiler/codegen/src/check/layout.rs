//! Accesses of the memory layout unit within its slots.

use lacuna_isa::view::{Position, VIEW_DIMS, View};

use super::boxes::{Side, whole_groups};
use super::control::Control;
use super::forms::grouped;
use super::ranges::{Layout, Ranges, intersect, ranges, strides, within};
use super::{Reason, Rule};

/// `view` where indices take the place of dimension `d`: it starts at 0, is never advanced, and clips at no end.
pub(super) fn taken_whole(view: &View, d: usize) -> View {
    let mut whole = view.clone();
    whole.dims[d].origin = 0;
    whole.dims[d].bound = u32::MAX;
    for advance in whole.levels.iter_mut().chain(&mut whole.coords) {
        advance.take_if(|a| usize::from(a.dim) == d);
    }
    whole
}

fn first(view: &View, part: &Ranges) -> i64 {
    strides(view).iter().zip(part).fold(view.offset, |at, (stride, r)| at + stride * i64::from(r.0))
}

/// Whether a part of a slot consists of whole groups.
fn whole(view: &View, part: &Ranges, layout: &Layout, what: &str) -> Result<(), Reason> {
    if part.iter().any(|r| r.1 == 0) {
        return Ok(());
    }
    let side = Side { map: layout.map, base: first(view, part), strides: strides(view) };
    whole_groups(&side, &part.map(|r| r.1), usize::from(view.k_dim), what)
}

/// Two views of slots whose elements correspond.
pub(super) struct Pair<'a> {
    pub control: &'a Control<'a>,
    pub pc: usize,
    pub from: &'a View,
    pub to: &'a View,
    /// Dimension of `from` whose coordinates come from indices.
    pub by_index: Option<usize>,
}

impl Pair<'_> {
    /// Whether nothing clips, wherever the instruction is executed.
    fn is_rigid(&self) -> bool {
        (0..VIEW_DIMS).all(|d| {
            let indexed = self.by_index == Some(d);
            (indexed || self.control.never_clips(self.pc, self.from, d))
                && self.control.never_clips(self.pc, self.to, d)
        })
    }

    /// `move` and `perm`, whose slots have these layouts: source, target.
    pub fn check(&self, [source, target]: [&Layout; 2], at: Option<&Position>) -> Result<(), Reason> {
        let Pair { from, to, by_index, .. } = *self;
        let all = ranges(to, at);
        within(strides(to), to.offset, all, target)?;
        let mut part = match by_index {
            None => intersect(ranges(from, at), all),
            Some(d) => intersect(ranges(&taken_whole(from, d), at), all),
        };
        if let Some(d) = by_index
            && part[d].1 > 0
        {
            part[d] = (0, from.dims[d].bound);
        }
        within(strides(from), from.offset, part, source)?;
        if grouped(from) && grouped(to) {
            if at.is_none() && !self.is_rigid() {
                return Err((Rule::PartialGroup, "groups may be cut by clipping".to_owned()));
            }
            let mut counterpart = intersect(part, all);
            if let Some(d) = by_index {
                // One index at a time.
                (part[d], counterpart[d]) = ((0, part[d].1.min(1)), (all[d].0, all[d].1.min(1)));
            }
            whole(from, &part, source, "in the source")?;
            whole(to, &counterpart, target, "in the target")?;
            whole(to, &all, target, "in the target")?;
        }
        Ok(())
    }

    /// `pack`, whose slots have these layouts: source, target.
    pub fn pack(&self, [source, target]: [&Layout; 2], at: Option<&Position>) -> Result<(), Reason> {
        let Pair { from, to, .. } = *self;
        if at.is_none() && !self.is_rigid() {
            return Err((Rule::PartialGroup, "groups may be cut by clipping".to_owned()));
        }
        let all = ranges(to, at);
        let part = intersect(ranges(from, at), all);
        within(strides(to), to.offset, all, target)?;
        within(strides(from), from.offset, part, source)?;
        if all[usize::from(to.k_dim)].1 > 0 && to.dims[usize::from(to.k_dim)].stride <= 0 {
            return Err((Rule::PartialGroup, "the pattern's dimension does not advance".to_owned()));
        }
        whole(to, &all, target, "in the target")?;
        if to.format.group_size() > 1 {
            whole(from, &part, source, "in the source")?;
            whole(to, &part, target, "in the target")?;
        }
        Ok(())
    }
}

/// `mask`, whose slots have these layouts: source, target.
pub(super) fn mask(
    from: &View,
    to: &View,
    [source, target]: [&Layout; 2],
    at: Option<&Position>,
) -> Result<(), Reason> {
    let (a, b) = (ranges(from, at), ranges(to, at));
    if b.iter().any(|r| r.1 == 0) {
        return Ok(());
    }
    let part: Ranges = std::array::from_fn(|d| match to.dims[d].size {
        1 => a[d],
        _ => intersect(a, b)[d],
    });
    if part.iter().any(|r| r.1 == 0) {
        return Ok(());
    }
    within(strides(from), from.offset, part, source)?;
    let flags = std::array::from_fn(|d| if to.dims[d].size == 1 { (0, 1) } else { part[d] });
    within(strides(to), to.offset, flags, target)
}
