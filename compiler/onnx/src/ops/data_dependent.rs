//! Operators whose result's shape depends on elements: computed at import from operands that are known there.

use std::cmp::Ordering;

use lacuna_ir::Value;
use lacuna_ir::eval::Tensor;

use super::movement::take;
use crate::call::{Call, axis};
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;

type Results = Result<Vec<Value>, Fail>;

/// Elements of an operand that must be known.
fn known(c: &mut Ctx<'_>, v: Value, what: &str) -> Result<Tensor, Fail> {
    let constant = c.known(v).ok_or_else(|| c.not_constant(v, what))?;
    Tensor::from_constant(&constant).map_err(|e| invalid(e.to_string()))
}

/// Coordinates of the elements that are not zero, one row for each dimension.
pub(super) fn non_zero(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let x = n.input(0)?;
    let shape = c.shape(x);
    let elements = known(c, x, "the operand, whose zeros determine a shape,")?.to_f64();
    let hits: Vec<u64> = (0..).zip(elements.iter()).filter(|(_, e)| **e != 0.0).map(|(i, _)| i).collect();
    let strides = shape.strides();
    let coordinates = (0..shape.rank()).flat_map(|d| {
        let (stride, size) = (strides[d], shape[d]);
        hits.iter().map(move |&i| (i / stride % size) as i64)
    });
    let coordinates: Vec<i64> = coordinates.collect();
    Ok(vec![c.ints(vec![shape.rank() as u64, hits.len() as u64], &coordinates)?])
}

/// Slices along an axis, or elements of the flattened operand, where the condition holds.
pub(super) fn compress(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, condition) = (n.input(0)?, n.input(1)?);
    let condition = c.const_ints(condition, "the condition operand")?;
    let (x, axis) = match n.has("axis") {
        true => (x, axis(n.int("axis", 0)?, c.rank(x))?),
        false => {
            let count = c.shape(x).elements();
            (c.reshape(x, vec![count])?, 0)
        }
    };
    if condition.len() as u64 > c.shape(x)[axis] {
        return Err(invalid(format!("{} conditions for {}", condition.len(), c.b.ty(x))));
    }
    let kept = (0..).zip(&condition).filter(|(_, holds)| **holds != 0).map(|(i, _)| i);
    let kept: Vec<i64> = kept.collect();
    Ok(vec![take(c, x, axis, &kept)?])
}

/// Elements of a tensor, in an order that holds for integers of any size too.
enum Keys<'a> {
    Ints(&'a [i64]),
    Floats(std::sync::Arc<Vec<f64>>),
}

impl Keys<'_> {
    /// NaN stands behind every number and is equal to itself.
    fn compare(&self, a: usize, b: usize) -> Ordering {
        match self {
            Keys::Ints(ints) => ints[a].cmp(&ints[b]),
            Keys::Floats(floats) => {
                let (a, b) = (floats[a], floats[b]);
                a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
            }
        }
    }
}

/// Distinct slices along an axis, or elements of the flattened operand; where each stands first, the number of the distinct
/// one for each, and how often each occurs.
pub(super) fn unique(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (x, axis) = {
        let x = n.input(0)?;
        match n.has("axis") {
            true => (x, axis(n.int("axis", 0)?, c.rank(x))?),
            false => {
                let count = c.shape(x).elements();
                (c.reshape(x, vec![count])?, 0)
            }
        }
    };
    let shape = c.shape(x);
    let tensor = known(c, x, "the operand, whose equal elements determine a shape,")?;
    let keys = match tensor.ints() {
        Some(ints) if c.elem(x) != lacuna_isa::format::ScalarType::U64 => Keys::Ints(ints),
        _ => Keys::Floats(tensor.to_f64()),
    };
    let inner: usize = shape[axis + 1..].iter().product::<u64>() as usize;
    let outer: usize = shape[..axis].iter().product::<u64>() as usize;
    let extent = shape[axis] as usize;
    let compare = |a: usize, b: usize| {
        let each = (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i)));
        let at = |slice: usize, (o, i): (usize, usize)| (o * extent + slice) * inner + i;
        each.map(|place| keys.compare(at(a, place), at(b, place)))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    };
    let mut sorted: Vec<usize> = (0..extent).collect();
    sorted.sort_by(|&a, &b| compare(a, b).then(a.cmp(&b)));
    // Groups of equal slices; the first of each is the one that stands first.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for slice in sorted {
        match groups.last_mut() {
            Some(group) if compare(group[0], slice).is_eq() => group.push(slice),
            _ => groups.push(vec![slice]),
        }
    }
    if !n.flag("sorted", true)? {
        groups.sort_by_key(|group| group[0]);
    }
    let first: Vec<i64> = groups.iter().map(|group| group[0] as i64).collect();
    let mut inverse = vec![0; extent];
    for (number, group) in groups.iter().enumerate() {
        for &slice in group {
            inverse[slice] = number as i64;
        }
    }
    let counts: Vec<i64> = groups.iter().map(|group| group.len() as i64).collect();
    let mut vector = |values: &[i64]| c.ints(vec![values.len() as u64], values);
    let (index, inverse, counts) = (vector(&first)?, vector(&inverse)?, vector(&counts)?);
    Ok(vec![take(c, x, axis, &first)?, index, inverse, counts])
}

/// Lower and upper corner of a box.
type Corners = ([f32; 2], [f32; 2]);

fn corners(b: &[f64], by_centre: bool) -> Corners {
    let [p, q, r, s] = [0, 1, 2, 3].map(|i| b[i] as f32);
    if by_centre {
        let (w, h) = (r / 2.0, s / 2.0);
        return ([p - w, q - h], [p + w, q + h]);
    }
    ([p.min(r), q.min(s)], [p.max(r), q.max(s)])
}

/// Whether the intersection of two boxes is more than `limit` of their union.
fn overlaps(a: &Corners, b: &Corners, limit: f32) -> bool {
    let area = |c: &Corners| (c.1[0] - c.0[0]) * (c.1[1] - c.0[1]);
    let side = |d: usize| a.1[d].min(b.1[d]) - a.0[d].max(b.0[d]);
    let (w, h) = (side(0), side(1));
    if w <= 0.0 || h <= 0.0 {
        return false;
    }
    let (shared, areas) = (w * h, [area(a), area(b)]);
    let union = areas[0] + areas[1] - shared;
    areas.iter().all(|&a| a > 0.0) && union > 0.0 && shared / union > limit
}

/// Boxes by falling score, each kept unless it overlaps a kept one of its class: (batch, class, box).
pub(super) fn non_max_suppression(c: &mut Ctx<'_>, n: &Call<'_>) -> Results {
    let (boxes, scores) = (n.input(0)?, n.input(1)?);
    let (of_boxes, of_scores) = (c.shape(boxes), c.shape(scores));
    let ([batches, count, 4], [of_batches, classes, of_count]) = (&of_boxes[..], &of_scores[..]) else {
        return Err(invalid(format!("NonMaxSuppression of {of_boxes} by {of_scores}")));
    };
    if batches != of_batches || count != of_count {
        return Err(invalid(format!("NonMaxSuppression of {of_boxes} by {of_scores}")));
    }
    let mut number = |i: usize, what: &str| n.opt(i).map(|v| c.const_scalar(v, what)).transpose();
    let most = number(2, "max_output_boxes_per_class")?.unwrap_or(0.0).max(0.0) as usize;
    let limit = number(3, "iou_threshold")?.unwrap_or(0.0) as f32;
    let least = number(4, "score_threshold")?;
    let by_centre = n.flag("center_point_box", false)?;
    let boxes = known(c, boxes, "the boxes operand, which determines a shape,")?.to_f64();
    let scores = known(c, scores, "the scores operand, which determines a shape,")?.to_f64();
    let (count, classes) = (*count as usize, *classes as usize);
    let mut kept = Vec::new();
    for (batch, boxes) in boxes.chunks_exact((4 * count).max(1)).enumerate() {
        for class in 0..classes {
            let scores = &scores[(batch * classes + class) * count..][..count];
            let mut order: Vec<usize> = (0..count).filter(|&i| least.is_none_or(|l| scores[i] > l)).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let mut selected: Vec<Corners> = Vec::new();
            for i in order {
                let own = corners(&boxes[4 * i..], by_centre);
                if selected.len() < most && !selected.iter().any(|other| overlaps(&own, other, limit)) {
                    selected.push(own);
                    kept.extend([batch as i64, class as i64, i as i64]);
                }
            }
        }
    }
    Ok(vec![c.ints(vec![kept.len() as u64 / 3, 3], &kept)?])
}
