//! Products on the host's vector units: operands become f32 or bytes, the second one once for all that meet it, then tiles of
//! rows by columns accumulate in registers, in the order of the definition.

use std::borrow::Cow;

use lacuna_isa::format::group::GroupScale;
use lacuna_isa::format::{Format, ScalarType, pack};

use super::decode::{decode_rows, direct};
use super::panels::{PanelCache, Panels, SharedPanels, Whole, magnitudes};
use super::product::{Product, Side};
use super::scalar;
use super::schedule::{Block, Groups, Schedule};
use crate::simd::{self, Bytes, COLUMNS, Integers, PanelRef, Scales, Units};

/// Where decoded panels are kept: by the PE, and by the machine for operands that are constant. Neither keeps those of products
/// whose schedule is used once.
pub(crate) struct Caches<'c> {
    pub own: &'c mut PanelCache,
    pub shared: Option<&'c SharedPanels>,
    pub once: bool,
}

impl Caches<'_> {
    fn panels(
        &mut self,
        product: &Product<'_>,
        schedule: &Schedule,
        integers: Option<i32>,
    ) -> std::sync::Arc<Panels> {
        if self.once {
            return Panels::new(product, schedule, integers).into();
        }
        self.own.get_or_decode(product, schedule, integers, self.shared)
    }
}

/// Adds the product to the accumulators, if a fast kernel takes it.
pub(crate) fn multiply(
    units: Units,
    product: &Product<'_>,
    schedule: &Schedule,
    bank: &mut [f32],
    mut caches: Caches<'_>,
) -> bool {
    let Some(groups) = &schedule.groups else {
        let (a, origin) = decode_rows(product, schedule, true);
        // A stored zero and a skipped term differ only where the other factor is not finite.
        if product.b.map.pattern.is_some() && !a.iter().all(|x| x.is_finite()) {
            return false;
        }
        ungrouped(units, product, schedule, bank, (&a, origin), &mut caches);
        return true;
    };
    let scales = a_scales(product, schedule, groups);
    if grouped_integers(units, product, (schedule, groups), bank, &scales, &mut caches) {
        return true;
    }
    let (a, origin) = decode_rows(product, schedule, false);
    if product.b.map.pattern.is_some() && !a.iter().all(|x| x.is_finite()) {
        return false;
    }
    grouped(units, product, (schedule, groups), bank, (&a, origin), &scales, &mut caches);
    true
}

/// Blocks of columns that are given to a kernel together.
const AT_ONCE: usize = 4;

fn panel_ref<'p>(block: &Block, values: &'p [f32], first: i64) -> PanelRef<'p> {
    PanelRef { values, first, column: block.column, width: block.cols.len() }
}

fn ungrouped(
    units: Units,
    product: &Product<'_>,
    schedule: &Schedule,
    bank: &mut [f32],
    a: (&[f32], i64),
    caches: &mut Caches<'_>,
) {
    let rows = &schedule.rows;
    let mut n_direct = 0;
    for blocks in schedule.blocks.chunks(AT_ONCE) {
        let mut panels = [PanelRef { values: &[], first: 0, column: 0, width: 0 }; AT_ONCE];
        let mut n = 0;
        for block in blocks {
            if let Some(values) = direct(&product.b, schedule, block) {
                panels[n] = panel_ref(block, values, block.first);
                n += 1;
            }
        }
        simd::accumulate(units, bank, a, rows, &panels[..n], &schedule.direct);
        n_direct += n;
    }
    if n_direct == schedule.blocks.len() {
        return;
    }
    let panels = caches.panels(product, schedule, None);
    let decoded: Vec<PanelRef<'_>> = schedule
        .blocks
        .iter()
        .enumerate()
        .filter(|(number, _)| !panels.values(*number).is_empty())
        .map(|(number, block)| panel_ref(block, panels.values(number), 0))
        .collect();
    simd::accumulate(units, bank, a, rows, &decoded, &schedule.packed);
}

/// Scales of the first operand, and the numbers of rows and groups among them.
struct RowScales<'s> {
    values: Vec<f32>,
    rows: Cow<'s, [i64]>,
    groups: Cow<'s, [i64]>,
}

fn a_scales<'s>(product: &Product<'_>, schedule: &Schedule, groups: &'s Groups) -> RowScales<'s> {
    let side = &product.a;
    if let (Some((rows, offsets)), Format::Grouped(format)) = (&groups.scales, side.map.format) {
        let size = u64::from(format.size);
        let (first, last) = (schedule.reach.0 as u64 / size, schedule.reach.1 as u64 / size);
        let read = |number| GroupScale::read(format, side.planes[1], number as usize).value(format) as f32;
        let values = (first..=last).map(read).collect();
        let rows = rows.iter().map(|row| row - first as i64).collect();
        return RowScales { values, rows: Cow::Owned(rows), groups: Cow::Borrowed(offsets) };
    }
    let n = groups.offsets.len();
    let scale = |row: usize, at: i64| scalar::scale(side, (schedule.rows.element(row) + at) as usize) as f32;
    let values =
        (0..schedule.rows.len()).flat_map(|row| groups.offsets.iter().map(move |&at| scale(row, at)));
    RowScales {
        values: values.collect(),
        rows: (0..schedule.rows.len()).map(|row| (row * n) as i64).collect(),
        groups: (0..n as i64).collect(),
    }
}

/// Whether every product of two scales is exact in f32.
fn exact_scales(product: &Product<'_>, a: (f32, f32), b: (f32, f32)) -> bool {
    // Products of powers of two are exact down to the smallest subnormal, others down to the smallest normal number.
    let powers = [&product.a, &product.b]
        .iter()
        .all(|side| matches!(side.map.format, Format::Grouped(format) if format.scale == ScalarType::E8M0));
    let floor = if powers { 2f64.powi(-149) } else { f64::from(f32::MIN_POSITIVE) };
    let none = a.1 == 0.0 || b.1 == 0.0;
    none || (f64::from(a.0) * f64::from(b.0) >= floor
        && f64::from(a.1) * f64::from(b.1) <= f64::from(f32::MAX))
}

/// The grouped rule by sums of bytes, where both operands are small integers and whole groups take part; whether it did.
fn grouped_integers(
    units: Units,
    product: &Product<'_>,
    (schedule, groups): (&Schedule, &Groups),
    bank: &mut [f32],
    scales: &RowScales<'_>,
    caches: &mut Caches<'_>,
) -> bool {
    let [a, b] = [&product.a, &product.b].map(|side| Whole::of(side.map.format));
    let (Some(a), Some(b), Some(size)) = (a, b, product.group) else { return false };
    let words = simd::words_in_16_bits(a.greatest(), b.bias);
    if !groups.even || !simd::has_dots(units, words) || !size.is_multiple_of(4) || product.a.map.k_stride > 1
    {
        return false;
    }
    let panels = caches.panels(product, schedule, Some(a.bias));
    if !exact_scales(product, magnitudes(scales.values.iter().copied()), panels.range) {
        return false;
    }
    let (codes, origin) = codes(units, &product.a, schedule.reach, a);
    let unit = 1.0 / (a.per_one * b.per_one);
    let bytes = Bytes { codes: &codes, origin, groups: &groups.offsets, unit, words };
    let columns: Vec<Integers<'_>> = schedule
        .blocks
        .iter()
        .enumerate()
        .map(|(number, block)| {
            let (codes, starts) = panels.integers(number);
            Integers { codes, starts, column: block.column, width: block.cols.len() }
        })
        .collect();
    let b_scales = panels.scales();
    let scales = Scales { a: &scales.values, rows: &scales.rows, groups: &scales.groups, b: &b_scales };
    simd::accumulate_integers(units, bank, bytes, &schedule.rows, &columns, size, &scales)
}

/// The elements that rows reach as integers made positive, and the element that the first one is.
fn codes(units: Units, side: &Side<'_>, (low, high): (i64, i64), whole: Whole) -> (Vec<u8>, i64) {
    let ty = side.map.format.element();
    // Eight elements are a whole number of bytes for every width.
    let low = low & !7;
    let n = (high - low + 1) as usize;
    let byte_of = |code: u32| (ty.decode_f32(code) * whole.per_one) as i32 + whole.bias;
    match ty {
        ScalarType::E2M1 => {
            let table = std::array::from_fn(|code| byte_of(code as u32) as u8);
            let mut out = vec![0; n.next_multiple_of(2)];
            let from = low as usize / 2;
            simd::codes_of_pairs(units, &side.planes[0][from..from + n.div_ceil(2)], &table, &mut out);
            (out, low)
        }
        ScalarType::I8 => {
            let codes = &side.planes[0][low as usize..low as usize + n];
            (codes.iter().map(|code| code ^ 0x80).collect(), low)
        }
        _ => {
            let table: [u8; 64] = std::array::from_fn(|code| byte_of(code as u32) as u8);
            let mut out = vec![0; n];
            pack::get_slice(side.planes[0], ty, low as usize, &mut out);
            out.iter_mut().for_each(|code| *code = table[usize::from(*code & 63)]);
            (out, low)
        }
    }
}

/// The grouped rule in f32.
fn grouped(
    units: Units,
    product: &Product<'_>,
    (schedule, groups): (&Schedule, &Groups),
    bank: &mut [f32],
    a: (&[f32], i64),
    scales: &RowScales<'_>,
    caches: &mut Caches<'_>,
) {
    let panels = caches.panels(product, schedule, None);
    let columns: Vec<PanelRef<'_>> = schedule
        .blocks
        .iter()
        .enumerate()
        .map(|(number, block)| panel_ref(block, panels.values(number), 0))
        .collect();
    let b_scales = panels.scales();
    let scales = Scales { a: &scales.values, rows: &scales.rows, groups: &scales.groups, b: &b_scales };
    if exact_scales(product, magnitudes(scales.a.iter().copied()), panels.range) {
        simd::accumulate_groups(units, bank, a, &schedule.rows, &columns, &groups.segments, &scales);
        return;
    }
    // Beyond the range of f32, the product of two scales is a factor of its own.
    let rows = &schedule.rows;
    let mut sums = vec![0f32; rows.len() * COLUMNS];
    let lines = simd::Rows::new((0..rows.len()).map(|row| (rows.element(row), row * COLUMNS)));
    for (panel, b_scales) in columns.iter().zip(scales.b) {
        let staged = PanelRef { column: 0, ..*panel };
        for (group, segments) in groups.segments.iter().enumerate() {
            sums.fill(0.0);
            simd::accumulate(units, &mut sums, a, &lines, &[staged], segments);
            let b_scales = &b_scales[group * COLUMNS..][..panel.width];
            for (row, sums) in sums.chunks_exact(COLUMNS).enumerate() {
                let scale = f64::from(scales.a[(scales.rows[row] + scales.groups[group]) as usize]);
                let values = &mut bank[rows.accumulator(row) + panel.column..][..panel.width];
                for ((value, &sum), &other) in values.iter_mut().zip(sums).zip(b_scales) {
                    *value = scalar::scaled_add(sum, scale * f64::from(other), *value);
                }
            }
        }
    }
}
