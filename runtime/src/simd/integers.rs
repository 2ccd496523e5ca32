//! Products of groups whose elements are small integers times a power of two: sums of bytes, exact in any order.

#[cfg(target_arch = "x86_64")]
mod avx2;

use super::products::{COLUMNS, Rows, Scales};
use super::{Level, Units};

/// Columns of the second operand as bytes: for each group and each four k, 32 columns of four bytes.
#[derive(Clone, Copy)]
pub(crate) struct Integers<'a> {
    pub codes: &'a [i8],
    /// What the sums of each group and column start from: it takes back what makes the first operand's bytes positive.
    pub starts: &'a [i32],
    /// First accumulator of a row.
    pub column: usize,
    /// Number of columns, at most 32.
    pub width: usize,
}

/// The first operand as bytes, and one k of both operands in units.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a> {
    pub codes: &'a [u8],
    /// Element that the first code is.
    pub origin: i64,
    /// First element of every group, counted from a row's.
    pub groups: &'a [i64],
    /// What one is worth in the product of two bytes.
    pub unit: f32,
    /// Of how many words of four products the sums of pairs fit 16 bits.
    pub words: usize,
}

/// Of how many words of four products the sums of pairs fit 16 bits, for operands up to these magnitudes.
pub(crate) fn words_in_16_bits(a: i32, b: i32) -> usize {
    (i32::from(i16::MAX) / (2 * a * b)) as usize
}

/// Whether `units` sum bytes, of which so many words fit 16 bits.
pub(crate) fn has_dots(units: Units, words: usize) -> bool {
    units.0 >= Level::Avx512Vnni || (units.0 >= Level::Avx2 && words > 0)
}

/// For every group of `size` k: `bank[r][c] = fma(sum * unit, scale_a * scale_b, bank[r][c])`, where `sum` is the exact sum of
/// products. False when `units` cannot sum such bytes; then nothing was done.
///
/// # Panics
/// When a row, a k, a column or a scale lies outside its operand, or `size` is no multiple of four.
pub(crate) fn accumulate_integers(
    units: Units,
    bank: &mut [f32],
    a: Bytes<'_>,
    rows: &Rows,
    panels: &[Integers<'_>],
    size: usize,
    scales: &Scales<'_>,
) -> bool {
    if !has_dots(units, a.words) {
        return false;
    }
    let n = scales.groups.len();
    let fits = size.is_multiple_of(4)
        && panels.len() == scales.b.len()
        && n == a.groups.len()
        && rows.len() == scales.rows.len();
    assert!(fits, "groups are whole words");
    if rows.len() == 0 || n == 0 {
        return true;
    }
    let (low, high) = rows.reach();
    let reach = a.groups.iter().fold((i64::MAX, i64::MIN), |(l, h), &o| (l.min(o), h.max(o)));
    let inside =
        low - a.origin + reach.0 >= 0 && high - a.origin + reach.1 + size as i64 <= a.codes.len() as i64;
    assert!(inside, "rows lie inside the first operand");
    for (panel, b) in panels.iter().zip(scales.b) {
        let inside = panel.codes.len() >= n * size * COLUMNS
            && panel.starts.len() >= n * COLUMNS
            && b.len() >= n * COLUMNS
            && (1..=COLUMNS).contains(&panel.width)
            && (0..rows.len()).all(|r| rows.accumulator(r) + panel.column + panel.width <= bank.len());
        assert!(inside, "columns lie inside the second operand and the bank");
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the features were detected, and every address was checked above.
    unsafe {
        match units.0 {
            Level::Avx512Vnni => x86::accumulate(bank, a, rows, panels, size, scales),
            _ => avx2::accumulate(bank, a, rows, panels, size, scales),
        }
    }
    true
}

/// Looks up the codes of pairs of four bits in a table of bytes.
///
/// # Panics
/// When `out` has not two bytes for each pair.
pub(crate) fn codes_of_pairs(units: Units, pairs: &[u8], table: &[u8; 16], out: &mut [u8]) {
    assert!(out.len() == 2 * pairs.len(), "two codes for each byte");
    #[cfg(target_arch = "x86_64")]
    if units.0 >= Level::Avx2 {
        // SAFETY: the features were detected, and the lengths checked.
        unsafe { x86::pairs(pairs, table, out) };
        return;
    }
    let _ = units;
    for (two, &pair) in out.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
        *two = [table[usize::from(pair & 0xF)], table[usize::from(pair >> 4)]];
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm_and_si128, _mm_loadu_si128, _mm_set1_epi8, _mm_shuffle_epi8, _mm_srli_epi16, _mm_storeu_si128,
        _mm_unpackhi_epi8, _mm_unpacklo_epi8, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    };

    use super::super::products::shares;
    use super::{Bytes, COLUMNS, Integers, Rows, Scales};

    /// # Safety
    /// `out` has two bytes for each pair.
    #[target_feature(enable = "avx2")]
    pub unsafe fn pairs(pairs: &[u8], table: &[u8; 16], out: &mut [u8]) {
        // SAFETY: the table has 16 bytes.
        let values = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        let low = _mm_set1_epi8(0xF);
        let whole = pairs.len() / 16;
        for i in 0..whole {
            // SAFETY: 16 pairs and 32 codes from here lie inside.
            unsafe {
                let both = _mm_loadu_si128(pairs.as_ptr().add(16 * i).cast());
                let even = _mm_and_si128(both, low);
                let odd = _mm_and_si128(_mm_srli_epi16::<4>(both), low);
                let to = out.as_mut_ptr().add(32 * i);
                let first = _mm_shuffle_epi8(values, _mm_unpacklo_epi8(even, odd));
                let second = _mm_shuffle_epi8(values, _mm_unpackhi_epi8(even, odd));
                _mm_storeu_si128(to.cast(), first);
                _mm_storeu_si128(to.add(16).cast(), second);
            }
        }
        for i in whole * 16..pairs.len() {
            out[2 * i] = table[usize::from(pairs[i] & 0xF)];
            out[2 * i + 1] = table[usize::from(pairs[i] >> 4)];
        }
    }

    /// 16 columns of a panel.
    #[derive(Clone, Copy)]
    struct Vector {
        codes: *const i8,
        starts: *const i32,
        scales: *const f32,
        column: usize,
        mask: u16,
    }

    /// # Safety
    /// For every row, panel and group, all addresses lie inside the operands and the bank.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,fma")]
    pub unsafe fn accumulate(
        bank: &mut [f32],
        a: Bytes<'_>,
        rows: &Rows,
        panels: &[Integers<'_>],
        size: usize,
        scales: &Scales<'_>,
    ) {
        let bank = bank.as_mut_ptr();
        // Six rows by one panel or three by two, twelve sums and twelve accumulators.
        let at_once = if rows.len() <= 3 { 2 } else { 1 };
        for (panels, b) in panels.chunks(at_once).zip(scales.b.chunks(at_once)) {
            let none = Vector {
                codes: std::ptr::null(),
                starts: std::ptr::null(),
                scales: std::ptr::null(),
                column: 0,
                mask: 0,
            };
            let (mut vectors, mut n) = ([none; 4], 0);
            for (panel, b) in panels.iter().zip(b) {
                for half in 0..panel.width.div_ceil(16) {
                    let rest = panel.width - 16 * half;
                    vectors[n] = Vector {
                        codes: panel.codes.as_ptr().wrapping_add(64 * half),
                        starts: panel.starts.as_ptr().wrapping_add(16 * half),
                        scales: b.as_ptr().wrapping_add(16 * half),
                        column: panel.column + 16 * half,
                        mask: if rest >= 16 { 0xFFFF } else { (1 << rest) - 1 },
                    };
                    n += 1;
                }
            }
            for (row, r) in shares(rows.len(), [0, 6, 6, 3, 3][n]) {
                macro_rules! tiles {
                    ($($r:literal $v:literal)*) => {
                        match (r, n) {
                            // SAFETY: the caller's promise covers these rows and panels.
                            $(($r, $v) => unsafe { tile::<$r, $v>(bank, a, (rows, row), &vectors, size, scales) },)*
                            _ => unreachable!("tiles are shared out by their most rows"),
                        }
                    };
                }
                tiles!(1 1 2 1 3 1 4 1 5 1 6 1 1 2 2 2 3 2 4 2 5 2 6 2 1 3 2 3 3 3 1 4 2 4 3 4);
            }
        }
    }

    /// # Safety
    /// As [`accumulate`]: `R` rows from `row` on, `V` vectors.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,fma")]
    unsafe fn tile<const R: usize, const V: usize>(
        bank: *mut f32,
        a: Bytes<'_>,
        (rows, row): (&Rows, usize),
        vectors: &[Vector; 4],
        size: usize,
        scales: &Scales<'_>,
    ) {
        let elements: [i64; R] = std::array::from_fn(|r| rows.element(row + r) - a.origin);
        let codes: [*const u8; R] =
            std::array::from_fn(|r| a.codes.as_ptr().wrapping_offset(elements[r] as isize));
        let at: [[*mut f32; V]; R] = std::array::from_fn(|r| {
            std::array::from_fn(|v| bank.wrapping_add(rows.accumulator(row + r) + vectors[v].column))
        });
        let unit = _mm512_set1_ps(a.unit);
        let mut totals = [[_mm512_setzero_ps(); V]; R];
        for r in 0..R {
            for v in 0..V {
                // SAFETY: the accumulators that the mask chooses lie inside the bank.
                totals[r][v] = unsafe { _mm512_maskz_loadu_ps(vectors[v].mask, at[r][v]) };
            }
        }
        for (group, &offset) in a.groups.iter().enumerate() {
            let mut sums = [[_mm512_setzero_si512(); V]; R];
            for v in 0..V {
                // SAFETY: the panel has starts for the group.
                let start = unsafe { _mm512_loadu_si512(vectors[v].starts.add(group * COLUMNS).cast()) };
                for sum in &mut sums {
                    sum[v] = start;
                }
            }
            for word in 0..size / 4 {
                let mut columns = [_mm512_setzero_si512(); V];
                for v in 0..V {
                    let from = (group * size + 4 * word) * COLUMNS;
                    // SAFETY: 16 columns of four bytes from here lie inside the panel.
                    columns[v] = unsafe { _mm512_loadu_si512(vectors[v].codes.add(from).cast()) };
                }
                for r in 0..R {
                    let from = codes[r].wrapping_offset(offset as isize).wrapping_add(4 * word);
                    // SAFETY: four bytes of the group from here lie inside the operand.
                    let x = _mm512_set1_epi32(unsafe { from.cast::<i32>().read_unaligned() });
                    for v in 0..V {
                        sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], x, columns[v]);
                    }
                }
            }
            for r in 0..R {
                let scale = _mm512_set1_ps(scales.of(row + r, group));
                for v in 0..V {
                    // SAFETY: the panel has scales for the group.
                    let other = unsafe { _mm512_loadu_ps(vectors[v].scales.add(group * COLUMNS)) };
                    let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][v]), unit);
                    totals[r][v] = _mm512_fmadd_ps(sum, _mm512_mul_ps(scale, other), totals[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                // SAFETY: as above.
                unsafe { _mm512_mask_storeu_ps(at[r][v], vectors[v].mask, totals[r][v]) };
            }
        }
    }
}
