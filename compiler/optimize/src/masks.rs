//! What constant masks of attention let through: all keys, or a causal band.

use egg::{Id, Language};
use indexmap::IndexMap;
use lacuna_ir::eval::{Mode, Tensor, eval_op};
use lacuna_ir::{Op, Shape};

use crate::graph::Graph;

/// A mask that positions alone describe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Band {
    /// Position of the first query among the keys, if keys behind a query's position are rejected; else all are kept.
    pub causal: Option<i64>,
    /// Whether rejected keys can have no weight, be the row otherwise empty.
    pub rejects: bool,
}

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
    let tensor = constant(g, mask, &mut IndexMap::new())?;
    let values = tensor.to_f64();
    let is_bool = tensor.ints().is_some();
    // Whether a key is kept; no answer where the mask does more than keep or reject.
    let kept = |v: f64| match (is_bool, v) {
        (true, v) => Some(v != 0.0),
        (false, 0.0) => Some(true),
        (false, v) => (v <= LOW).then_some(false),
    };
    let prefix = |row: &[f64]| -> Option<usize> {
        let n = row.iter().position(|&v| kept(v) != Some(true)).unwrap_or(row.len());
        row[n..].iter().all(|&v| kept(v) == Some(false)).then_some(n)
    };
    let rows: Vec<usize> = values.chunks(keys as usize).map(prefix).collect::<Option<_>>()?;
    let rejects = is_bool || values.iter().all(|&v| v == 0.0 || v == f64::NEG_INFINITY);
    if rows.iter().all(|&n| n == keys as usize) {
        return Some(Band { causal: None, rejects });
    }
    // A row that sees some keys but not all tells where its query stands.
    let length = length as usize;
    let at = rows.iter().position(|&n| n > 0 && n < keys as usize)?;
    let shift = rows[at] as i64 - 1 - (at % length) as i64;
    let expect = |row: usize| (row as i64 + shift + 1).clamp(0, keys as i64) as usize;
    let exact = rows.iter().enumerate().all(|(i, &n)| n == expect(i % length));
    exact.then_some(Band { causal: Some(shift), rejects })
}

/// The value of a class that depends on no parameter. Repetition along leading dimensions is evaluated as it is.
fn constant(g: &Graph, id: Id, known: &mut IndexMap<Id, Option<Tensor>>) -> Option<Tensor> {
    let id = g.eg.find(id);
    if let Some(tensor) = known.get(&id) {
        return tensor.clone();
    }
    // A class that needs itself has another term that does not.
    known.insert(id, None);
    let size = |shape: &Shape| shape.elements() <= MAX_ELEMENTS;
    let tensor = g.eg[id].nodes.iter().find_map(|term| {
        let op = g.op(term).filter(|op| !matches!(op, Op::Call { .. }))?;
        let args = term.children();
        if args.iter().any(|&a| !size(g.shape(a))) {
            return None;
        }
        let args: Vec<Tensor> = args.iter().map(|&a| constant(g, a, known)).collect::<Option<_>>()?;
        let args: Vec<&Tensor> = args.iter().collect();
        eval_op(&g.eg.analysis.module, op, &args, Mode::Typed).ok()?.pop()
    });
    known.insert(id, tensor.clone());
    tensor
}
