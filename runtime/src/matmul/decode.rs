//! The values of operands: decoded to f32, with scales where the rule has them in the values.

use std::borrow::Cow;
use std::ops::Range;

use lacuna_isa::format::group::GroupScale;
use lacuna_isa::format::{Format, ScalarType, pack};

use super::product::{Product, Side};
use super::scalar;
use super::schedule::{Block, Schedule};
use crate::simd::{COLUMNS, Units};

/// The second operand's own values, where the kernels can read the columns of a block in place.
pub(super) fn direct<'a>(b: &Side<'a>, schedule: &Schedule, block: &Block) -> Option<&'a [f32]> {
    if b.map.format != Format::F32 || b.map.pattern.is_some() || !block.neighbours {
        return None;
    }
    let values = bytemuck::try_cast_slice::<u8, f32>(b.planes[0]).ok()?;
    schedule.direct.fits(block.first, values.len()).then_some(values)
}

/// The values of the first operand's slot that rows reach, and the element that the first one is.
pub(super) fn decode_rows<'a>(
    product: &Product<'a>,
    schedule: &Schedule,
    with_scales: bool,
) -> (Cow<'a, [f32]>, i64) {
    let side = &product.a;
    let (low, high) = schedule.reach;
    if side.map.format == Format::F32
        && let Ok(values) = bytemuck::try_cast_slice::<u8, f32>(side.planes[0])
    {
        return (Cow::Borrowed(&values[low as usize..=high as usize]), low);
    }
    let mut values = vec![0f32; (high - low + 1) as usize];
    decode_run(side, low as usize, &mut values);
    if with_scales {
        scale_run(side, low as usize, &mut values);
    }
    (Cow::Owned(values), low)
}

/// Decodes dense elements `first..`, MXINT8 as sixty-fourths, with shifts and without scales.
pub(super) fn decode_run(side: &Side<'_>, first: usize, out: &mut [f32]) {
    match side.map.format.element() {
        ScalarType::E4M3 => Units::best().decode_e4m3(&side.planes[0][first..first + out.len()], out),
        ty => pack::decode_slice(ty, side.planes[0], first, out),
    }
    if let Format::Grouped(format) = side.map.format
        && format.pair_shift
    {
        for_groups(side, first, out.len(), |number, place, run| {
            let scale = GroupScale::read(format, side.planes[1], number);
            if scale.shifts != 0 {
                for (place, value) in (place..).zip(&mut out[run]) {
                    *value *= scale.shift(place);
                }
            }
        });
    }
    if crate::codes::fixed_point(side.map.format) {
        out.iter_mut().for_each(|value| *value /= 64.0);
    }
}

pub(super) fn scale_run(side: &Side<'_>, first: usize, values: &mut [f32]) {
    if let Format::Grouped(format) = side.map.format {
        for_groups(side, first, values.len(), |number, _, run| {
            let scale = GroupScale::read(format, side.planes[1], number).value(format) as f32;
            values[run].iter_mut().for_each(|value| *value *= scale);
        });
    }
}

/// Calls `f` for the runs of `n` dense elements from `first` on that lie in one group each: the group's number, the place of
/// the run's first element in it, and the run, counted from `first`.
pub(super) fn for_groups(
    side: &Side<'_>,
    first: usize,
    n: usize,
    mut f: impl FnMut(usize, usize, Range<usize>),
) {
    let size = side.map.format.group_size() as usize;
    let along_k = side.map.k_stride <= 1;
    let mut i = 0;
    while i < n {
        let (number, place) = side.map.group_place((first + i) as u64);
        let (number, place) = (number as usize, place as usize);
        // Across k, neighbours belong to different groups.
        let run = if along_k { (size - place).min(n - i) } else { 1 };
        f(number, place, i..i + run);
        i += run;
    }
}

/// The values of a panel, k by k in rows of 32 columns; columns that are missing are 0. Scales are part of them outside the
/// grouped rule.
pub(super) fn decode_panel(product: &Product<'_>, schedule: &Schedule, block: &Block) -> Vec<f32> {
    let side = &product.b;
    let (ks, cols) = (&schedule.ks, &product.cols[block.cols.clone()]);
    let with_scales = product.group.is_none();
    let mut values = vec![0f32; ks.len() * COLUMNS];
    if side.map.pattern.is_some() {
        let mut position = vec![usize::MAX; side.k_offsets.len()];
        ks.iter().enumerate().for_each(|(i, &k)| position[k] = i);
        if decode_pattern_rows(product, block, &position, &mut values) {
            return values;
        }
        for (j, col) in cols.iter().enumerate() {
            scalar::stored_terms(product, col.1, 0..side.k_offsets.len(), |k, stored| {
                let dense = (col.1 + side.k_offsets[k]) as usize;
                let value = if with_scales {
                    scalar::widened(side, stored, dense)
                } else {
                    scalar::element(side, stored, dense)
                };
                values[position[k] * COLUMNS + j] = value;
            });
        }
        return values;
    }
    if block.neighbours {
        for (row, &k) in values.chunks_exact_mut(COLUMNS).zip(ks) {
            let at = (side.k_offsets[k] + block.first) as usize;
            let row = &mut row[..cols.len()];
            decode_run(side, at, row);
            if with_scales {
                scale_run(side, at, row);
            }
        }
        return values;
    }
    if side.map.format == Format::F32
        && let Ok(floats) = bytemuck::try_cast_slice::<u8, f32>(side.planes[0])
    {
        for (row, &k) in values.chunks_exact_mut(COLUMNS).zip(ks) {
            for (value, col) in row.iter_mut().zip(cols) {
                *value = floats[(col.1 + side.k_offsets[k]) as usize];
            }
        }
        return values;
    }
    // Columns are apart: decode each along the runs of k that are neighbours.
    let mut column = vec![0f32; ks.len()];
    for (j, col) in cols.iter().enumerate() {
        let mut i = 0;
        while i < ks.len() {
            let start = side.k_offsets[ks[i]];
            let run = ks[i..].iter().zip(start..).take_while(|&(&k, at)| side.k_offsets[k] == at).count();
            let at = (col.1 + start) as usize;
            decode_run(side, at, &mut column[i..i + run]);
            if with_scales {
                scale_run(side, at, &mut column[i..i + run]);
            }
            i += run;
        }
        for (row, &value) in values.chunks_exact_mut(COLUMNS).zip(&column) {
            row[j] = value;
        }
    }
    values
}

/// Decodes the stored rows of an N:M operand whose columns are neighbours, where no scale or shift is part of the values;
/// whether it did. `position` is the row of the panel of each k that takes part.
fn decode_pattern_rows(product: &Product<'_>, block: &Block, position: &[usize], values: &mut [f32]) -> bool {
    let side = &product.b;
    let plain = match side.map.format {
        Format::Scalar(_) => true,
        Format::Grouped(format) => product.group.is_some() && !format.pair_shift,
    };
    let Some(pattern) = side.map.pattern else { return false };
    let (m, s, width) = (usize::from(pattern.m), side.map.k_stride.max(1), block.cols.len());
    let firsts = || (0..side.k_offsets.len()).step_by(m);
    let start = |first: usize| (block.first + side.k_offsets[first]) as u64;
    if !plain || !block.neighbours || !firsts().all(|first| start(first) % s + width as u64 <= s) {
        return false;
    }
    let (ty, index_type) = (side.map.format.element(), pattern.index_type());
    let unit = if crate::codes::fixed_point(side.map.format) { 64.0 } else { 1.0 };
    let (mut row, mut places) = ([0f32; COLUMNS], [0u8; COLUMNS]);
    let (row, places) = (&mut row[..width], &mut places[..width]);
    for first in firsts().filter(|&first| (first..first + m).any(|k| position.get(k) != Some(&usize::MAX))) {
        let stored = side.map.stored_idx(start(first)) as usize;
        for j in 0..usize::from(pattern.n) {
            let at = stored + j * s as usize;
            pack::decode_slice(ty, side.planes[0], at, row);
            pack::get_slice(side.planes[2], index_type, at, places);
            for (column, (&value, &place)) in row.iter().zip(&*places).enumerate() {
                let k = first + usize::from(place);
                if usize::from(place) < m && position[k] != usize::MAX {
                    values[position[k] * COLUMNS + column] = value / unit;
                }
            }
        }
    }
    true
}
