//! Groups along any axis of a tensor: weights, whose summed dimension is seldom the innermost one.

use super::{
    Element, F32_INF, GroupScale, bump_above, element_of, fixed_unit, inverse_e8m0, is_shifted, quantize,
    with_element,
};
use crate::format::{GroupFormat, ScalarType, pack};

/// Columns of a tile. Elements of one group are a whole row of the tensor apart, so neighbouring groups are computed side by side,
/// from whole cache lines, each vector with one element of several groups.
const WIDTH: usize = 256;

/// Columns are computed in multiples of this, whole vectors; what the last ones hold is not read.
const LANES: usize = 16;

/// Elements of a row that are widened at once.
const RUN: usize = 1024;

/// Reads a dense row-major array as f32: elements from a number on, as many as there is room for.
pub type Read<'a> = &'a mut dyn FnMut(usize, &mut [f32]);

/// What is quantised.
struct Source<'a> {
    read: Read<'a>,
    /// Elements before, along and behind the grouped axis.
    dims: [usize; 3],
    place: Place,
}

/// Where an array lies in a larger one that goes on before or behind the grouped axis, never along it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Where the part begins among the elements before the axis.
    pub outer: usize,
    /// Where it begins among those behind.
    pub inner: usize,
    /// How many of these the larger array has.
    pub n_inner: usize,
}

impl Source<'_> {
    /// The number in the larger array of an element, or of a group if `n` counts groups.
    fn number(&self, n: usize, [o, j, i]: [usize; 3]) -> usize {
        ((self.place.outer + o) * n + j) * self.place.n_inner + self.place.inner + i
    }
}

/// Quantises a dense row-major array of `ty` along one axis, each group as [`super::quantize_group`] does; `dims` has the elements
/// before, along and behind that axis. Element codes go to `codes`, densely in the order of the array, and scales to `scales`, in
/// the order of the array with the axis divided by the group size. The last group along the axis may be short.
///
/// # Panics
/// If `bytes`, `codes` or `scales` is too short.
pub fn quantize_axis(
    fmt: GroupFormat,
    mode: super::ScaleMode,
    (ty, bytes): (ScalarType, &[u8]),
    dims: [usize; 3],
    codes: &mut [u8],
    scales: &mut [u8],
) {
    let place = Place { outer: 0, inner: 0, n_inner: dims[2] };
    let read = &mut |at, out: &mut [f32]| pack::decode_slice(ty, bytes, at, out);
    quantize_part(fmt, mode, read, dims, place, codes, scales);
}

/// Quantises an array that is part of a larger one, as [`quantize_axis`] does, and may be computed while it is read; `codes` and
/// `scales` are those of the larger array, of which only the part is written.
///
/// # Panics
/// If `codes` or `scales` is too short.
pub fn quantize_part(
    fmt: GroupFormat,
    mode: super::ScaleMode,
    read: Read<'_>,
    dims: [usize; 3],
    place: Place,
    codes: &mut [u8],
    scales: &mut [u8],
) {
    if dims.contains(&0) {
        return;
    }
    let mut source = Source { read, dims, place };
    let bump = bump_above(fmt, mode);
    if place.n_inner == 1 {
        with_element!(fmt.element, rows(fmt, bump, &mut source, codes, scales), other => without_rule(fmt, &source, codes, scales));
    } else {
        with_element!(fmt.element, columns(fmt, bump, &mut source, codes, scales), other => without_rule(fmt, &source, codes, scales));
    }
}

fn without_rule(fmt: GroupFormat, source: &Source<'_>, codes: &mut [u8], scales: &mut [u8]) {
    let [outer, n, inner] = source.dims;
    let n_groups = n.div_ceil(usize::from(fmt.size.max(1)));
    for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
        (0..n).for_each(|j| pack::set(codes, fmt.element, source.number(n, [o, j, i]), 0));
        (0..n_groups)
            .for_each(|g| GroupScale::nan(fmt).write(fmt, scales, source.number(n_groups, [o, g, i])));
    }
}

/// Groups along the innermost axis.
fn rows<const ELEMENT: u8>(
    fmt: GroupFormat,
    bump: u32,
    source: &mut Source<'_>,
    codes: &mut [u8],
    scales: &mut [u8],
) {
    let size = usize::from(fmt.size.max(1));
    let [outer, n, _] = source.dims;
    let run = (RUN / size).max(1) * size;
    let (mut wide, mut staged) = (vec![0.0; run], vec![0; run]);
    let mut number = source.number(n.div_ceil(size), [0; 3]);
    let place = source.number(n, [0; 3]);
    for row in 0..outer {
        for first in (0..n).step_by(run) {
            let (at, count) = (row * n + first, run.min(n - first));
            let (wide, staged) = (&mut wide[..count], &mut staged[..count]);
            (source.read)(at, wide);
            for (group, codes) in wide.chunks(size).zip(staged.chunks_mut(size)) {
                // Loops of a known length are unrolled.
                let scale = match (group.as_chunks::<32>(), group.as_chunks::<16>()) {
                    (([whole], []), _) => {
                        let codes = &mut codes.as_chunks_mut::<32>().0[0];
                        quantize::<ELEMENT>(fmt, bump, whole, codes)
                    }
                    (_, ([whole], [])) => {
                        let codes = &mut codes.as_chunks_mut::<16>().0[0];
                        quantize::<ELEMENT>(fmt, bump, whole, codes)
                    }
                    _ => quantize::<ELEMENT>(fmt, bump, group, codes),
                };
                scale.write(fmt, scales, number);
                number += 1;
            }
            pack::set_slice(codes, fmt.element, place + at, staged);
        }
    }
}

/// Groups along another axis, neighbours side by side.
fn columns<const ELEMENT: u8>(
    fmt: GroupFormat,
    bump: u32,
    source: &mut Source<'_>,
    codes: &mut [u8],
    scales: &mut [u8],
) {
    let size = usize::from(fmt.size.max(1));
    let [outer, n, inner] = source.dims;
    let n_groups = n.div_ceil(size);
    let mut tile = vec![[0.0; WIDTH]; size];
    let mut staged = vec![[0; WIDTH]; size];
    for (o, g) in (0..outer).flat_map(|o| (0..n_groups).map(move |g| (o, g))) {
        let count = size.min(n - g * size);
        let (tile, staged) = (&mut tile[..count], &mut staged[..count]);
        for first in (0..inner).step_by(WIDTH) {
            let width = WIDTH.min(inner - first);
            let at = |j: usize| (o * n + g * size + j) * inner + first;
            for (j, row) in tile.iter_mut().enumerate() {
                (source.read)(at(j), &mut row[..width]);
            }
            let found = quantize_tile::<ELEMENT>(fmt, bump, tile, width, staged);
            for (j, row) in staged.iter().enumerate() {
                let place = source.number(n, [o, g * size + j, first]);
                pack::set_slice(codes, fmt.element, place, &row[..width]);
            }
            let number = source.number(n_groups, [o, g, first]);
            GroupScale::write_all(fmt, &found[..width], scales, number);
        }
    }
}

/// Quantises the first `width` columns of a tile, each a group.
#[inline(always)]
fn quantize_tile<const ELEMENT: u8>(
    fmt: GroupFormat,
    bump: u32,
    tile: &[[f32; WIDTH]],
    width: usize,
    codes: &mut [[u8; WIDTH]],
) -> [GroupScale; WIDTH] {
    let element = const { element_of(ELEMENT) };
    let unit = fixed_unit(fmt);
    let computed = width.next_multiple_of(LANES).min(WIDTH);
    let amax = magnitudes(tile, computed);
    let mut scales = [GroupScale::default(); WIDTH];
    // What a column is divided by, or for E8M0 multiplied by.
    let mut by = [0.0; WIDTH];
    for ((scale, by), &amax) in scales.iter_mut().zip(&mut by).zip(&amax).take(width) {
        (*scale, *by) = column_scale(element, fmt, bump, amax, unit);
    }
    if fmt.pair_shift {
        let limits = scales.map(|scale| element.shift_limit(bump, scale.code));
        let mut shifts = [0u8; WIDTH];
        for (i, (pair, codes)) in tile.chunks(2).zip(codes.chunks_mut(2)).enumerate() {
            let mut doubles = [1.0; WIDTH];
            if i < 8 {
                let own = magnitudes(pair, computed);
                for (((double, shifts), &own), &limit) in
                    doubles.iter_mut().zip(&mut shifts).zip(&own).zip(&limits)
                {
                    let shifted = is_shifted(own, limit);
                    *double = if shifted { 2.0 } else { 1.0 };
                    *shifts |= u8::from(shifted) << i;
                }
            }
            for (row, codes) in pair.iter().zip(codes) {
                let columns = codes.iter_mut().zip(row).zip(&by).zip(&doubles).take(computed);
                for (((code, &value), &by), &double) in columns {
                    *code = element.encode(value * by * double, unit);
                }
            }
        }
        for (scale, shifts) in scales.iter_mut().zip(shifts) {
            scale.shifts = shifts;
        }
    } else if fmt.scale == ScalarType::E8M0 {
        for (row, codes) in tile.iter().zip(codes.iter_mut()) {
            for ((code, &value), &by) in codes.iter_mut().zip(row).zip(&by).take(computed) {
                *code = element.encode(value * by, unit);
            }
        }
    } else {
        for (row, codes) in tile.iter().zip(codes.iter_mut()) {
            for ((code, &value), &by) in codes.iter_mut().zip(row).zip(&by).take(computed) {
                *code = element.encode(value / by, unit);
            }
        }
    }
    for (c, scale) in scales.iter_mut().enumerate().take(width).filter(|&(c, _)| amax[c] >= F32_INF) {
        *scale = GroupScale::nan(fmt);
        codes.iter_mut().for_each(|row| row[c] = 0);
    }
    scales
}

/// The bits of the largest magnitude of each column, as [`super::magnitude`] has it.
#[inline(always)]
fn magnitudes(rows: &[[f32; WIDTH]], computed: usize) -> [u32; WIDTH] {
    let mut amax = [0i32; WIDTH];
    for row in rows {
        for (amax, value) in amax.iter_mut().zip(row).take(computed) {
            *amax = (*amax).max((value.to_bits() & 0x7FFF_FFFF) as i32);
        }
    }
    amax.map(|amax| amax as u32)
}

/// The scale of a group and what its values are multiplied by (E8M0) or divided by; of no use where `amax` is not finite.
#[inline(always)]
fn column_scale(element: Element, fmt: GroupFormat, bump: u32, amax: u32, unit: f32) -> (GroupScale, f32) {
    if amax >= F32_INF {
        return (GroupScale::default(), 1.0);
    }
    if fmt.scale == ScalarType::E8M0 {
        let code = element.scale_code(bump, amax);
        return (GroupScale { code, shifts: 0 }, inverse_e8m0(code));
    }
    let code = element.quotient_scale(fmt, amax, unit);
    let divisor = fmt.scale.decode_f32(u32::from(code));
    // What a scale of zero leaves are signed zeros.
    (GroupScale { code, shifts: 0 }, if divisor == 0.0 { f32::INFINITY } else { divisor })
}
