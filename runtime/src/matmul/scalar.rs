//! The definition of the tile products, one multiply-add at a time. The fast kernels must give these bits.

use lacuna_isa::format::group::GroupScale;
use lacuna_isa::format::{Format, ScalarType, pack};
use lacuna_isa::view::PlaneMap;

use super::product::{Product, Side};

/// The value of a stored element, the one at `dense`, with its pair's shift and without its group's scale; MXINT8 codes are
/// sixty-fourths.
pub(crate) fn element(side: &Side<'_>, stored: usize, dense: usize) -> f32 {
    let ty = side.map.format.element();
    let value = ty.decode_f32(pack::get(side.planes[0], ty, stored) as u32);
    match side.map.format {
        Format::Grouped(format) if format.pair_shift => {
            let (number, place) = side.map.group_place(dense as u64);
            value * GroupScale::read(format, side.planes[1], number as usize).shift(place as usize)
        }
        Format::Scalar(_) | Format::Grouped(_) => {
            if crate::codes::fixed_point(side.map.format) {
                value / 64.0
            } else {
                value
            }
        }
    }
}

/// The scale of the group that holds dense element `e`; 1 for scalars.
pub(crate) fn scale(side: &Side<'_>, e: usize) -> f64 {
    match side.map.format {
        Format::Scalar(_) => 1.0,
        Format::Grouped(format) => {
            GroupScale::read(format, side.planes[1], side.map.scale_idx(e as u64) as usize).value(format)
        }
    }
}

/// `sum * scale + acc` with one rounding to f32, whatever the exponent of `scale`, a product of two scales.
pub(crate) fn scaled_add(sum: f32, scale: f64, acc: f32) -> f32 {
    let narrow = scale as f32;
    if f64::from(narrow) == scale || scale.is_nan() {
        return sum.mul_add(narrow, acc);
    }
    // The product is exact: 24 bits of the sum, at most 8 of the scale, and exponents far inside binary64. The sum is
    // rounded to odd, so that rounding it again to f32 rounds the exact sum once.
    let product = f64::from(sum) * scale;
    let acc = f64::from(acc);
    let total = product + acc;
    if !total.is_finite() {
        return total as f32;
    }
    let virtual_acc = total - product;
    let error = (product - (total - virtual_acc)) + (acc - virtual_acc);
    if error == 0.0 || total.to_bits() & 1 == 1 {
        return total as f32;
    }
    let towards_larger = (error > 0.0) == (total > 0.0);
    let bits = if towards_larger { total.to_bits() + 1 } else { total.to_bits() - 1 };
    f64::from_bits(bits) as f32
}

/// Calls `f` with the k number, the stored element of `b` and its dense element, in ascending k, of one chunk of k.
pub(crate) fn stored_terms(
    product: &Product<'_>,
    column: i64,
    chunk: std::ops::Range<usize>,
    mut f: impl FnMut(usize, usize),
) {
    let b = &product.b;
    match b.map.pattern {
        None => chunk.for_each(|k| {
            if product.takes_part(k) {
                f(k, (column + b.k_offsets[k]) as usize);
            }
        }),
        Some(pattern) => {
            let m = usize::from(pattern.m);
            let s = b.map.k_stride.max(1) as usize;
            let ty: ScalarType = pattern.index_type();
            for first in chunk.step_by(m) {
                let stored = b.map.stored_idx((column + b.k_offsets[first]) as u64) as usize;
                let mut terms: Vec<(usize, usize)> = (0..usize::from(pattern.n))
                    .map(|j| stored + j * s)
                    .map(|at| (first + pack::get(b.planes[2], ty, at) as usize, at))
                    .filter(|&(k, _)| k < first + m && product.takes_part(k))
                    .collect();
                terms.sort_by_key(|&(k, _)| k);
                terms.into_iter().for_each(|(k, at)| f(k, at));
            }
        }
    }
}

fn dense_of(map: &PlaneMap, column: i64, offset: i64) -> usize {
    debug_assert!(map.k_stride > 0 || column >= 0);
    (column + offset) as usize
}

/// Adds the product to the accumulators, `product.stride` apart per row.
pub(crate) fn multiply(product: &Product<'_>, bank: &mut [f32]) {
    let (a, b) = (&product.a, &product.b);
    let n_k = a.k_offsets.len();
    for &(row, a_row) in product.rows.iter() {
        for &(col, b_col) in product.cols.iter() {
            let acc = &mut bank[row * product.stride + col];
            match product.group {
                Some(size) => {
                    for first in (0..n_k).step_by(size) {
                        let mut sum = 0.0f32;
                        stored_terms(product, b_col, first..(first + size).min(n_k), |k, stored| {
                            let a_at = dense_of(&a.map, a_row, a.k_offsets[k]);
                            let y = element(b, stored, dense_of(&b.map, b_col, b.k_offsets[k]));
                            sum = element(a, a_at, a_at).mul_add(y, sum);
                        });
                        let scales = scale(a, dense_of(&a.map, a_row, a.k_offsets[first]))
                            * scale(b, dense_of(&b.map, b_col, b.k_offsets[first]));
                        if (first..(first + size).min(n_k)).any(|k| product.takes_part(k)) {
                            *acc = scaled_add(sum, scales, *acc);
                        }
                    }
                }
                None => stored_terms(product, b_col, 0..n_k, |k, stored| {
                    let a_at = dense_of(&a.map, a_row, a.k_offsets[k]);
                    let x = widened(a, a_at, a_at);
                    let y = widened(b, stored, dense_of(&b.map, b_col, b.k_offsets[k]));
                    *acc = x.mul_add(y, *acc);
                }),
            }
        }
    }
}

/// The element times its scale, as widening to f32 gives it.
pub(crate) fn widened(side: &Side<'_>, stored: usize, dense: usize) -> f32 {
    match side.map.format {
        Format::Scalar(_) => element(side, stored, dense),
        Format::Grouped(_) => element(side, stored, dense) * scale(side, dense) as f32,
    }
}
