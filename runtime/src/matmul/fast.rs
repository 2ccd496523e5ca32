//! Products on the host's vector units: operands become f32 once per instruction, then tiles of rows by 32 columns
//! accumulate in registers, in the order of the definition.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::Arc;

use lacuna_isa::format::group::GroupScale;
use lacuna_isa::format::{Format, ScalarType, pack};
use lacuna_isa::view::PlaneMap;

use super::{Product, Side, scalar};
use crate::simd::{self, COLUMNS, Segment, Units};

/// Rows of the largest tile.
const ROWS: usize = 12;

/// Values of a panel: the operand's own bytes, or decoded ones.
enum Values<'a> {
    Borrowed(&'a [f32]),
    Decoded(Arc<[f32]>),
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Values::Borrowed(values) => values,
            Values::Decoded(values) => values,
        }
    }
}

/// Decoded panels of second operands, so that weights that stay in local memory over many products are decoded once.
#[derive(Default)]
pub(crate) struct PanelCache {
    panels: HashMap<PanelKey, Arc<[f32]>>,
    bytes: usize,
}

/// What determines a panel whose k all take part: the bytes it reads, its layout, its columns.
#[derive(PartialEq, Eq, Hash)]
struct PanelKey {
    planes: [(usize, usize); 3],
    version: u64,
    map: PlaneMap,
    k_offsets: Vec<i64>,
    cols: Vec<i64>,
    with_scales: bool,
}

/// Decoded bytes that one PE keeps at most: several times what its local memory holds of the narrowest codes.
const CACHE_BYTES: usize = 16 << 20;

impl PanelCache {
    fn get_or_decode(
        &mut self,
        product: &Product<'_>,
        cols: &[(usize, i64)],
        with_scales: bool,
        decode: impl FnOnce() -> Vec<f32>,
    ) -> Arc<[f32]> {
        if !product.mask.is_empty() {
            return decode().into();
        }
        if self.bytes > CACHE_BYTES {
            *self = PanelCache::default();
        }
        let side = &product.b;
        let key = PanelKey {
            planes: side.planes.map(|plane| (plane.as_ptr() as usize, plane.len())),
            version: product.b_version,
            map: side.map,
            k_offsets: side.k_offsets.clone(),
            cols: cols.iter().map(|col| col.1).collect(),
            with_scales,
        };
        let entry = self.panels.entry(key).or_insert_with(|| {
            let values: Arc<[f32]> = decode().into();
            self.bytes += size_of_val(&*values);
            values
        });
        Arc::clone(entry)
    }
}

/// 32 columns of the second operand: `values[segment.b..]` with rows of k.
struct Panel<'a> {
    values: Values<'a>,
    /// Offset in `values` of each k that takes part.
    k_offsets: Vec<i64>,
}

/// Adds the product to the accumulators, if a fast kernel takes it.
pub(crate) fn multiply(
    units: Units,
    product: &Product<'_>,
    bank: &mut [f32],
    cache: &mut PanelCache,
) -> bool {
    let n_k = product.a.k_offsets.len();
    let ks: Vec<usize> = (0..n_k).filter(|&k| product.takes_part(k)).collect();
    let with_scales = product.group.is_none();
    let (a, a_origin) = decode_rows(product, &ks, with_scales);
    // A stored zero and a skipped term differ only where the other factor is not finite.
    if product.b.map.pattern.is_some() && !a.iter().all(|x| x.is_finite()) {
        return false;
    }
    let a_k: Vec<i64> = ks.iter().map(|&k| product.a.k_offsets[k] - a_origin).collect();
    for cols in product.cols.chunks(COLUMNS) {
        let panel = panel(product, cols, &ks, with_scales, cache);
        match product.group {
            None => {
                let segments = segments(&a_k, &panel.k_offsets);
                row_tiles(product, cols, bank, |rows, acc| {
                    simd::accumulate(units, acc, &a, rows, &panel.values, &segments);
                });
            }
            Some(size) => grouped(units, product, cols, bank, (&a, &a_k), &panel, (&ks, size)),
        }
    }
    true
}

/// The values of the first operand's slot that rows reach, and the element that the first one is.
fn decode_rows<'a>(product: &Product<'a>, ks: &[usize], with_scales: bool) -> (Cow<'a, [f32]>, i64) {
    let side = &product.a;
    let (low, high) = super::reach(product.rows.iter().map(|row| row.1));
    let (k_low, k_high) = super::reach(ks.iter().map(|&k| side.k_offsets[k]));
    let (low, high) = (low + k_low, high + k_high);
    if side.map.format == Format::F32
        && let Ok(values) = bytemuck::try_cast_slice::<u8, f32>(side.planes[0])
    {
        return (Cow::Borrowed(&values[..=high as usize]), 0);
    }
    let mut values = vec![0f32; (high - low + 1) as usize];
    decode_run(side, low as usize, &mut values);
    if with_scales {
        scale_run(side, low as usize, &mut values);
    }
    // Row offsets count from element 0 of the slot.
    (Cow::Owned(values), low)
}

/// Decodes dense elements `first..`, MXINT8 as sixty-fourths, with shifts and without scales.
fn decode_run(side: &Side<'_>, first: usize, out: &mut [f32]) {
    pack::decode_slice(side.map.format.element(), side.planes[0], first, out);
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
    if crate::dma::fixed_point(side.map.format) {
        out.iter_mut().for_each(|value| *value /= 64.0);
    }
}

fn scale_run(side: &Side<'_>, first: usize, values: &mut [f32]) {
    if let Format::Grouped(format) = side.map.format {
        for_groups(side, first, values.len(), |number, _, run| {
            let scale = GroupScale::read(format, side.planes[1], number).value(format) as f32;
            values[run].iter_mut().for_each(|value| *value *= scale);
        });
    }
}

/// Calls `f` for the runs of `n` dense elements from `first` on that lie in one group each: the group's number, the place of
/// the run's first element in it, and the run, counted from `first`.
fn for_groups(side: &Side<'_>, first: usize, n: usize, mut f: impl FnMut(usize, usize, Range<usize>)) {
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

fn panel<'a>(
    product: &Product<'a>,
    cols: &[(usize, i64)],
    ks: &[usize],
    with_scales: bool,
    cache: &mut PanelCache,
) -> Panel<'a> {
    let side = &product.b;
    let first = cols[0].1;
    let neighbours = cols.iter().enumerate().all(|(j, col)| col.1 == first + j as i64);
    if side.map.format == Format::F32
        && side.map.pattern.is_none()
        && neighbours
        && cols.len() == COLUMNS
        && let Ok(values) = bytemuck::try_cast_slice::<u8, f32>(side.planes[0])
    {
        let k_offsets = ks.iter().map(|&k| side.k_offsets[k] + first).collect();
        return Panel { values: Values::Borrowed(values), k_offsets };
    }
    let k_offsets = (0..ks.len()).map(|i| (i * COLUMNS) as i64).collect();
    let decode = || decode_panel(product, cols, ks, with_scales, neighbours);
    let values = Values::Decoded(cache.get_or_decode(product, cols, with_scales, decode));
    Panel { values, k_offsets }
}

/// The values of a panel, k by k in rows of 32 columns; columns that are missing are 0.
fn decode_panel(
    product: &Product<'_>,
    cols: &[(usize, i64)],
    ks: &[usize],
    with_scales: bool,
    neighbours: bool,
) -> Vec<f32> {
    let side = &product.b;
    let first = cols[0].1;
    let mut values = vec![0f32; ks.len() * COLUMNS];
    if side.map.pattern.is_some() {
        let mut position = vec![usize::MAX; side.k_offsets.len()];
        ks.iter().enumerate().for_each(|(i, &k)| position[k] = i);
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
    if neighbours {
        for (row, &k) in values.chunks_exact_mut(COLUMNS).zip(ks) {
            let at = (side.k_offsets[k] + first) as usize;
            let row = &mut row[..cols.len()];
            decode_run(side, at, row);
            if with_scales {
                scale_run(side, at, row);
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

/// Runs of k along which both operands advance evenly.
fn segments(a: &[i64], b: &[i64]) -> Vec<Segment> {
    let mut out: Vec<Segment> = Vec::new();
    for (&a, &b) in a.iter().zip(b) {
        if let Some(last) = out.last_mut() {
            let steps = [a - last.a, b - last.b];
            if last.len == 1 {
                [last.a_step, last.b_step] = steps;
            }
            let n = last.len as i64;
            if steps == [last.a_step * n, last.b_step * n] {
                last.len += 1;
                continue;
            }
        }
        out.push(Segment { a, b, len: 1, a_step: 0, b_step: 0 });
    }
    out
}

/// Calls `f` with the row offsets and the accumulators of each tile of rows, and writes the accumulators back.
fn row_tiles(
    product: &Product<'_>,
    cols: &[(usize, i64)],
    bank: &mut [f32],
    mut f: impl FnMut(&[i64], &mut [[f32; COLUMNS]]),
) {
    let mut acc = [[0f32; COLUMNS]; ROWS];
    for rows in product.rows.chunks(ROWS) {
        let offsets: Vec<i64> = rows.iter().map(|row| row.1).collect();
        let acc = &mut acc[..rows.len()];
        for (line, row) in acc.iter_mut().zip(rows) {
            for (value, col) in line.iter_mut().zip(cols) {
                *value = bank[row.0 * product.stride + col.0];
            }
        }
        f(&offsets, acc);
        for (line, row) in acc.iter().zip(rows) {
            for (&value, col) in line.iter().zip(cols) {
                bank[row.0 * product.stride + col.0] = value;
            }
        }
    }
}

fn grouped(
    units: Units,
    product: &Product<'_>,
    cols: &[(usize, i64)],
    bank: &mut [f32],
    (a, a_k): (&[f32], &[i64]),
    panel: &Panel<'_>,
    (ks, size): (&[usize], usize),
) {
    // Per chunk of k: its segments, its first k, and the scales of the columns.
    struct Chunk {
        segments: Vec<Segment>,
        first: usize,
        scales: [f32; COLUMNS],
        least: f32,
        greatest: f32,
    }
    let mut chunks = Vec::new();
    let mut i = 0;
    while i < ks.len() {
        let number = ks[i] / size;
        let n = ks[i..].iter().take_while(|&&k| k / size == number).count();
        let first = number * size;
        let mut scales = [1f32; COLUMNS];
        for (scale, col) in scales.iter_mut().zip(cols) {
            *scale = scalar::scale(&product.b, (col.1 + product.b.k_offsets[first]) as usize) as f32;
        }
        let used = scales[..cols.len()].iter().copied().filter(|scale| !scale.is_nan() && *scale != 0.0);
        chunks.push(Chunk {
            segments: segments(&a_k[i..i + n], &panel.k_offsets[i..i + n]),
            first,
            scales,
            least: used.clone().fold(f32::INFINITY, f32::min),
            greatest: used.fold(0.0, f32::max),
        });
        i += n;
    }
    // Products of powers of two are exact down to the smallest subnormal, others down to the smallest normal number.
    let powers = [&product.a, &product.b]
        .iter()
        .all(|side| matches!(side.map.format, Format::Grouped(format) if format.scale == ScalarType::E8M0));
    let floor = if powers { 2f64.powi(-149) } else { f64::from(f32::MIN_POSITIVE) };
    let mut sums = [[0f32; COLUMNS]; ROWS];
    row_tiles(product, cols, bank, |rows, acc| {
        for chunk in &chunks {
            let sums = &mut sums[..rows.len()];
            sums.fill([0.0; COLUMNS]);
            simd::accumulate(units, sums, a, rows, &panel.values, &chunk.segments);
            for ((line, sum), &row) in acc.iter_mut().zip(&*sums).zip(rows) {
                let scale = scalar::scale(&product.a, (row + product.a.k_offsets[chunk.first]) as usize);
                let in_range = scale.is_nan()
                    || chunk.greatest == 0.0
                    || (scale * f64::from(chunk.least) >= floor
                        && scale * f64::from(chunk.greatest) <= f64::from(f32::MAX));
                if in_range {
                    simd::scale_add(units, line, sum, scale as f32, &chunk.scales);
                } else {
                    for ((value, &sum), &other) in line.iter_mut().zip(sum).zip(&chunk.scales) {
                        *value = scalar::scaled_add(sum, scale * f64::from(other), *value);
                    }
                }
            }
        }
    });
}
