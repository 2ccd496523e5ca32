//! Products in f32: tiles of rows and columns whose accumulators stay in registers, each adding its terms in ascending k.

#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(super) use tiles::Lanes;

use super::{Level, Units};

/// Columns of a panel.
pub(crate) const COLUMNS: usize = 32;

/// A run of k along which both operands advance evenly. `a` counts from a row's offset, `b` from the panel's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub a: i64,
    pub b: i64,
    pub len: usize,
    pub a_step: i64,
    pub b_step: i64,
}

impl Segment {
    fn reach(&self) -> [(i64, i64); 2] {
        let span = |at: i64, step: i64| {
            let last = at + step * (self.len as i64 - 1);
            (at.min(last), at.max(last))
        };
        [span(self.a, self.a_step), span(self.b, self.b_step)]
    }
}

fn joined(a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
    (a.0.min(b.0), a.1.max(b.1))
}

/// Runs of k in order, with what they reach on both sides. Every run has at least one k.
#[derive(Clone, Debug)]
pub(crate) struct Segments {
    runs: Vec<Segment>,
    reach: [(i64, i64); 2],
}

impl Segments {
    /// The runs of k whose offsets on both sides are given.
    pub fn new(a: &[i64], b: &[i64]) -> Segments {
        let mut runs: Vec<Segment> = Vec::new();
        for (&a, &b) in a.iter().zip(b) {
            if let Some(last) = runs.last_mut() {
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
            runs.push(Segment { a, b, len: 1, a_step: 0, b_step: 0 });
        }
        let mut reach = [(i64::MAX, i64::MIN); 2];
        for run in &runs {
            let here = run.reach();
            reach = [joined(reach[0], here[0]), joined(reach[1], here[1])];
        }
        Segments { runs, reach }
    }

    /// Whether 32 columns from `first` on lie within `n` values for every k.
    pub fn fits(&self, first: i64, n: usize) -> bool {
        let (low, high) = self.reach[1];
        self.runs.is_empty() || (first + low >= 0 && first + high + COLUMNS as i64 <= n as i64)
    }
}

/// Rows of a product: where each has its elements, and its accumulators in the bank.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    elements: Vec<isize>,
    accumulators: Vec<usize>,
    reach: (i64, i64),
    last: usize,
}

impl Rows {
    /// Rows by the offsets of their elements and of their accumulators.
    pub fn new(rows: impl Iterator<Item = (i64, usize)>) -> Rows {
        let (elements, accumulators): (Vec<isize>, Vec<usize>) =
            rows.map(|(element, accumulator)| (element as isize, accumulator)).unzip();
        let reach = elements
            .iter()
            .fold((i64::MAX, i64::MIN), |(low, high), &e| (low.min(e as i64), high.max(e as i64)));
        let last = accumulators.iter().copied().max().unwrap_or(0);
        Rows { elements, accumulators, reach, last }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Least and greatest offset of elements.
    pub fn reach(&self) -> (i64, i64) {
        self.reach
    }

    /// Offset of the elements of row `number`.
    pub fn element(&self, number: usize) -> i64 {
        self.elements[number] as i64
    }

    /// Offset of the accumulators of row `number`.
    pub fn accumulator(&self, number: usize) -> usize {
        self.accumulators[number]
    }
}

/// Up to 32 columns of the second operand: of k with offset b, columns lie from `values[first + b]` on, 32 of them whatever
/// `width` says, and their accumulators from `column` of a row on.
#[derive(Clone, Copy)]
pub(crate) struct PanelRef<'a> {
    pub values: &'a [f32],
    pub first: i64,
    pub column: usize,
    pub width: usize,
}

/// Checks that no row, k or column lies outside its operand.
///
/// # Panics
/// When one does.
fn check(bank: &[f32], a: &[f32], origin: i64, rows: &Rows, panels: &[PanelRef<'_>], segments: &Segments) {
    if segments.runs.is_empty() {
        return;
    }
    let [(a_low, a_high), (b_low, b_high)] = segments.reach;
    let (low, high) = rows.reach;
    let inside = low - origin + a_low >= 0 && high - origin + a_high < a.len() as i64;
    assert!(inside, "rows lie inside the first operand");
    for panel in panels {
        let inside = panel.first + b_low >= 0
            && panel.first + b_high + COLUMNS as i64 <= panel.values.len() as i64
            && (1..=COLUMNS).contains(&panel.width)
            && rows.last + panel.column + panel.width <= bank.len()
            && panel.column <= u32::MAX as usize;
        assert!(inside, "columns lie inside the second operand and the bank");
    }
}

/// `bank[r][c] = fma(a[r][k], b[k][c], bank[r][c])` for every k of the segments in order. Elements of rows count from
/// `origin`.
///
/// # Panics
/// When a row, a k or a column lies outside its operand.
pub(crate) fn accumulate(
    units: Units,
    bank: &mut [f32],
    (a, origin): (&[f32], i64),
    rows: &Rows,
    panels: &[PanelRef<'_>],
    segments: &Segments,
) {
    check(bank, a, origin, rows, panels, segments);
    if rows.len() == 0 || segments.runs.is_empty() {
        return;
    }
    match units.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the features were detected, and every address was checked above.
        Level::Avx512 | Level::Avx512Vnni => unsafe {
            x86::accumulate_avx512(bank, a, origin, rows, panels, segments);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::accumulate_avx2(bank, a, origin, rows, panels, segments) },
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Avx512 | Level::Avx512Vnni => {
            accumulate_plain(bank, a, origin, rows, panels, segments);
        }
        Level::Portable => accumulate_plain(bank, a, origin, rows, panels, segments),
    }
}

/// Rows of a tile of the kernels without intrinsics.
const PLAIN_ROWS: usize = 4;
/// Columns of a tile of the kernels without intrinsics.
const PLAIN_COLUMNS: usize = 16;

#[inline(always)]
fn plain_tile<const R: usize>(
    sums: &mut [[f32; PLAIN_COLUMNS]; R],
    a: &[f32],
    rows: &[i64; R],
    (b, first): (&[f32], i64),
    segments: &Segments,
) {
    for segment in &segments.runs {
        let (mut at, mut from) = (segment.a, first + segment.b);
        for _ in 0..segment.len {
            let columns: &[f32; PLAIN_COLUMNS] =
                b[from as usize..].first_chunk().expect("32 columns lie inside the panel");
            for (line, &row) in sums.iter_mut().zip(rows) {
                let x = a[(row + at) as usize];
                for (sum, &y) in line.iter_mut().zip(columns) {
                    *sum = x.mul_add(y, *sum);
                }
            }
            at += segment.a_step;
            from += segment.b_step;
        }
    }
}

/// Calls `f` for every tile of `R` rows from `done` on and 16 columns: first row, first column of the panel and their number.
#[inline(always)]
fn plain_tiles(n_rows: usize, width: usize, mut f: impl FnMut(usize, usize, usize, usize)) {
    for column in (0..width).step_by(PLAIN_COLUMNS) {
        let mut row = 0;
        while row < n_rows {
            let r = if n_rows - row >= PLAIN_ROWS { PLAIN_ROWS } else { 1 };
            f(row, r, column, (width - column).min(PLAIN_COLUMNS));
            row += r;
        }
    }
}

#[inline(always)]
fn plain_rows<const R: usize>(
    bank: &mut [f32],
    a: &[f32],
    origin: i64,
    (rows, row): (&Rows, usize),
    panel: &PanelRef<'_>,
    (column, n): (usize, usize),
    segments: &Segments,
) {
    let offsets: [i64; R] = std::array::from_fn(|r| rows.element(row + r) - origin);
    let starts: [usize; R] = std::array::from_fn(|r| rows.accumulator(row + r) + panel.column + column);
    let mut sums = [[0f32; PLAIN_COLUMNS]; R];
    for (sum, &at) in sums.iter_mut().zip(&starts) {
        sum[..n].copy_from_slice(&bank[at..at + n]);
    }
    plain_tile(&mut sums, a, &offsets, (panel.values, panel.first + column as i64), segments);
    for (sum, &at) in sums.iter().zip(&starts) {
        bank[at..at + n].copy_from_slice(&sum[..n]);
    }
}

#[inline(always)]
fn accumulate_plain(
    bank: &mut [f32],
    a: &[f32],
    origin: i64,
    rows: &Rows,
    panels: &[PanelRef<'_>],
    segments: &Segments,
) {
    for panel in panels {
        plain_tiles(rows.len(), panel.width, |row, r, column, n| {
            let (rows, columns) = ((rows, row), (column, n));
            if r == PLAIN_ROWS {
                plain_rows::<PLAIN_ROWS>(bank, a, origin, rows, panel, columns, segments);
            } else {
                plain_rows::<1>(bank, a, origin, rows, panel, columns, segments);
            }
        });
    }
}

/// Scales of the groups of a product, all of whose products with one another are exact in f32.
#[derive(Clone, Copy)]
pub(crate) struct Scales<'a> {
    /// Of the first operand: that of row r and group g is number `rows[r] + groups[g]`.
    pub a: &'a [f32],
    pub rows: &'a [i64],
    pub groups: &'a [i64],
    /// Of the columns of every panel: group by group, 32 each.
    pub b: &'a [&'a [f32]],
}

impl Scales<'_> {
    pub(super) fn of(&self, row: usize, group: usize) -> f32 {
        self.a[(self.rows[row] + self.groups[group]) as usize]
    }
}

/// For every group of k: `bank[r][c] = fma(sum, scale_a * scale_b, bank[r][c])`, where `sum = fma(a, b, sum)` in order from 0.
///
/// # Panics
/// When a row, a k, a column or a scale lies outside its operand.
pub(crate) fn accumulate_groups(
    units: Units,
    bank: &mut [f32],
    (a, origin): (&[f32], i64),
    rows: &Rows,
    panels: &[PanelRef<'_>],
    groups: &[Segments],
    scales: &Scales<'_>,
) {
    groups.iter().for_each(|segments| check(bank, a, origin, rows, panels, segments));
    let inside = groups.len() == scales.groups.len()
        && rows.len() == scales.rows.len()
        && panels.len() == scales.b.len()
        && scales.b.iter().all(|b| b.len() >= groups.len() * COLUMNS);
    assert!(inside, "every group has scales");
    if rows.len() == 0 {
        return;
    }
    match units.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the features were detected, and every address was checked above.
        Level::Avx512 | Level::Avx512Vnni => unsafe {
            x86::groups_avx512(bank, a, origin, rows, panels, groups, scales);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::groups_avx2(bank, a, origin, rows, panels, groups, scales) },
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Avx512 | Level::Avx512Vnni => {
            groups_plain(bank, a, origin, rows, panels, groups, scales);
        }
        Level::Portable => groups_plain(bank, a, origin, rows, panels, groups, scales),
    }
}

#[inline(always)]
fn groups_plain(
    bank: &mut [f32],
    a: &[f32],
    origin: i64,
    rows: &Rows,
    panels: &[PanelRef<'_>],
    groups: &[Segments],
    scales: &Scales<'_>,
) {
    for (panel, b_scales) in panels.iter().zip(scales.b) {
        plain_tiles(rows.len(), panel.width, |row, r, column, n| {
            for row in row..row + r {
                let offset = rows.element(row) - origin;
                let start = rows.accumulator(row) + panel.column + column;
                for (group, segments) in groups.iter().enumerate() {
                    let mut sums = [[0f32; PLAIN_COLUMNS]];
                    let b = (panel.values, panel.first + column as i64);
                    plain_tile(&mut sums, a, &[offset], b, segments);
                    let scale = scales.of(row, group);
                    let others = &b_scales[group * COLUMNS + column..];
                    for ((value, &sum), &other) in bank[start..start + n].iter_mut().zip(&sums[0]).zip(others)
                    {
                        *value = sum.mul_add(scale * other, *value);
                    }
                }
            }
        });
    }
}

/// Rows of each tile when `n` rows are shared out evenly over tiles of at most `most`.
pub(super) fn shares(n: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = n.div_ceil(most).max(1);
    (0..tiles).map(move |i| (n * i / tiles, n * (i + 1) / tiles - n * i / tiles))
}
