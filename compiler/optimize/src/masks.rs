//! What constant masks of attention let through: all keys, those up to a query's position, or a window of these.

use std::ops::Range;

use egg::Id;
use indexmap::IndexMap;
use lacuna_ir::expand::Attention;
use lacuna_ir::op::{EmptyRow, Real};
use lacuna_isa::format::ScalarType;

use crate::extent::value;
pub use crate::graph::Band;
use crate::graph::Graph;

/// Added to a score, this much or less leaves its weight zero in f32, unless it exceeds the others of its row by nearly
/// as much. -1e4 is the least that exporters write.
pub const LOW: f64 = -1e4;

/// Masks of more elements are not read.
const MAX_ELEMENTS: u64 = 1 << 26;

/// The band that a constant mask `[.., length, keys]` is: of `bool`, or of zeros and numbers that leave no weight.
pub fn band(g: &Graph, mask: Id) -> Option<Band> {
    let shape = g.shape(mask).clone();
    let &[.., length, keys] = &shape[..] else { return None };
    if shape.elements() > MAX_ELEMENTS || shape.elements() == 0 {
        return None;
    }
    let tensor = value(&g.eg, mask, MAX_ELEMENTS, &mut IndexMap::new())?;
    let values = tensor.to_f64();
    let is_bool = tensor.ints().is_some();
    // Whether a key is kept; no answer where the mask does more than keep or reject.
    let kept = |v: f64| match (is_bool, v) {
        (true, v) => Some(v != 0.0),
        (false, 0.0) => Some(true),
        (false, v) => (v <= LOW).then_some(false),
    };
    // The keys that a row keeps, if they are neighbours.
    let run = |row: &[f64]| -> Option<Range<usize>> {
        let from = row.iter().position(|&v| kept(v) != Some(false)).unwrap_or(row.len());
        let n = row[from..].iter().position(|&v| kept(v) != Some(true)).unwrap_or(row.len() - from);
        row[from + n..].iter().all(|&v| kept(v) == Some(false)).then_some(from..from + n)
    };
    let keys = keys as usize;
    let rows: Vec<Range<usize>> = values.chunks(keys).map(run).collect::<Option<_>>()?;
    let rejects = is_bool || values.iter().all(|&v| v == 0.0 || v == f64::NEG_INFINITY);
    if rows.iter().all(|row| *row == (0..keys)) {
        return Some(Band { causal: None, window: 0, rejects });
    }
    // A row that sees some keys but not the last tells where its query stands; where all see the last, the first stands there.
    let length = length as usize;
    let known = rows.iter().position(|row| !row.is_empty() && row.end < keys);
    let shift = known.map_or(keys as i64 - 1, |at| rows[at].end as i64 - 1 - (at % length) as i64);
    let position = |row: usize| (row % length) as i64 + shift;
    let cut = rows.iter().position(|row| !row.is_empty() && row.start > 0);
    let window = cut.map_or(0, |at| position(at) + 1 - rows[at].start as i64);
    let expect = |row: usize| {
        let end = position(row) + 1;
        let [start, end] =
            [if window > 0 { end - window } else { 0 }, end].map(|at| at.clamp(0, keys as i64) as usize);
        start..end
    };
    let exact = |(i, row): (usize, &Range<usize>)| {
        let expect = expect(i);
        *row == expect || (row.is_empty() && expect.is_empty())
    };
    let whole = rows.iter().enumerate().all(exact);
    whole.then_some(Band { causal: Some(shift), window: window as u64, rejects })
}

/// Whether every row of a constant mask to add has a number above `bound`.
pub(crate) fn every_row_exceeds(g: &Graph, mask: Id, bound: f64) -> bool {
    let shape = g.shape(mask);
    let keys = shape.last().copied().unwrap_or(1).max(1) as usize;
    let known = value(&g.eg, mask, MAX_ELEMENTS, &mut IndexMap::new());
    known.is_some_and(|mask| mask.to_f64().chunks(keys).all(|row| row.iter().any(|&v| v > bound)))
}

/// Attention that only multiplies: what else it does is set where it is found.
pub(crate) const PLAIN: Attention = Attention {
    scale: Real(1.0),
    softcap: Real(0.0),
    causal: false,
    shift: 0,
    window: 0,
    empty_row: EmptyRow::Nan,
    elem: ScalarType::F32,
};
