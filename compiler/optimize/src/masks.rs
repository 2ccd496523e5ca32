//! What constant masks of attention let through: all keys, those up to a query's position, or a window of these.

use std::ops::Range;

use egg::Id;
use indexmap::IndexMap;
use lacuna_ir::expand::Attention;
use lacuna_ir::op::{EmptyRow, Real};
use lacuna_ir::types::Shape;
use lacuna_isa::format::ScalarType;

use crate::diagonal::{Diagonal, diagonal};
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
    match diagonal(g, mask) {
        Some(diagonal) => band_of_diagonal(g.shape(mask), &diagonal),
        None => band_of_rows(g, mask),
    }
}

/// Whether a mask keeps a key; no answer where it does more than keep or reject.
fn kept(is_bool: bool, v: f64) -> Option<bool> {
    match (is_bool, v) {
        (true, v) => Some(v != 0.0),
        (false, 0.0) => Some(true),
        (false, v) => (v <= LOW).then_some(false),
    }
}

/// Whether a mask rejects keys whatever their scores are.
fn rejects(is_bool: bool, values: &[f64]) -> bool {
    is_bool || values.iter().all(|&v| v == 0.0 || v == f64::NEG_INFINITY)
}

/// The keys that are kept, if they are neighbours.
fn run(is_bool: bool, row: &[f64]) -> Option<Range<usize>> {
    let kept = |v: f64| kept(is_bool, v);
    let from = row.iter().position(|&v| kept(v) != Some(false)).unwrap_or(row.len());
    let n = row[from..].iter().position(|&v| kept(v) != Some(true)).unwrap_or(row.len() - from);
    row[from + n..].iter().all(|&v| kept(v) == Some(false)).then_some(from..from + n)
}

/// The band whose mask has one element for each distance of a query from a key.
fn band_of_diagonal(shape: &Shape, diagonal: &Diagonal) -> Option<Band> {
    let &[.., keys] = &shape[..] else { return None };
    let (elements, is_bool) = (&diagonal.elements[..], diagonal.is_bool);
    let kept = run(is_bool, elements)?;
    let rejects = rejects(is_bool, elements);
    if kept == (0..elements.len()) {
        return Some(Band { causal: None, window: 0, rejects });
    }
    if kept.is_empty() {
        return None;
    }
    // The first distance is that of the first query from the last key.
    let shift = keys as i64 - 1 - kept.start as i64;
    let window = if kept.end == elements.len() { 0 } else { kept.len() as u64 };
    Some(Band { causal: Some(shift), window, rejects })
}

/// The band whose mask is known element by element.
pub(crate) fn band_of_rows(g: &Graph, mask: Id) -> Option<Band> {
    let shape = g.shape(mask).clone();
    let &[.., length, keys] = &shape[..] else { return None };
    if shape.elements() > MAX_ELEMENTS || shape.elements() == 0 {
        return None;
    }
    let tensor = value(&g.eg, mask, MAX_ELEMENTS, &mut IndexMap::new())?;
    let values = tensor.to_f64();
    let is_bool = tensor.ints().is_some();
    let keys = keys as usize;
    let rows: Vec<Range<usize>> = values.chunks(keys).map(|row| run(is_bool, row)).collect::<Option<_>>()?;
    let rejects = rejects(is_bool, &values);
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
    let keys = g.shape(mask).last().copied().unwrap_or(1).max(1) as usize;
    if let Some(diagonal) = diagonal(g, mask) {
        // The keys of a query are as many distances in a row.
        let rejected = diagonal.elements.split(|&v| v > bound).map(<[f64]>::len).max().unwrap_or(0);
        return rejected < keys.min(diagonal.elements.len());
    }
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
