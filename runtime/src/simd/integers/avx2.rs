//! Sums of bytes without dot products of bytes: pairs of products in 16 bits, of which as many are added as fit, then in 32.

use std::arch::x86_64::{
    __m256, __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_cvtepi32_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256,
};

use super::super::products::{Lanes, shares};
use super::{Bytes, COLUMNS, Integers, Rows, Scales};

/// Eight columns of a panel, or fewer.
#[derive(Clone, Copy)]
struct Vector {
    codes: *const i8,
    starts: *const i32,
    scales: *const f32,
    column: usize,
    n: usize,
}

/// Most vectors of columns of a tile of one row or two.
const MOST_VECTORS: usize = 4;
/// Most rows of a tile of 0 to 4 vectors: eight sums, which leave registers for the columns.
const MOST_ROWS: [usize; MOST_VECTORS + 1] = [0, 4, 4, 2, 2];

/// # Safety
/// For every row, panel and group, all addresses lie inside the operands and the bank.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn accumulate(
    bank: &mut [f32],
    a: Bytes<'_>,
    rows: &Rows,
    panels: &[Integers<'_>],
    size: usize,
    scales: &Scales<'_>,
) {
    let bank = bank.as_mut_ptr();
    let at_once = if rows.len() <= 2 { MOST_VECTORS } else { 2 };
    for (panel, b) in panels.iter().zip(scales.b) {
        for first in (0..panel.width.div_ceil(8)).step_by(at_once) {
            let n = (panel.width.div_ceil(8) - first).min(at_once);
            let vectors: [Vector; MOST_VECTORS] = std::array::from_fn(|v| {
                let within = 8 * (first + v);
                Vector {
                    codes: panel.codes.as_ptr().wrapping_add(4 * within),
                    starts: panel.starts.as_ptr().wrapping_add(within),
                    scales: b.as_ptr().wrapping_add(within),
                    column: panel.column + within,
                    n: panel.width.saturating_sub(within).min(8),
                }
            });
            for (row, r) in shares(rows.len(), MOST_ROWS[n]) {
                macro_rules! tiles {
                    ($($r:literal $v:literal)*) => {
                        match (r, n) {
                            // SAFETY: the caller's promise covers these rows and panels.
                            $(($r, $v) => unsafe { tile::<$r, $v>(bank, a, (rows, row), &vectors, size, scales) },)*
                            _ => unreachable!("tiles are shared out by their most rows"),
                        }
                    };
                }
                tiles!(1 1 2 1 3 1 4 1 1 2 2 2 3 2 4 2 1 3 2 3 1 4 2 4);
            }
        }
    }
}

/// # Safety
/// As [`accumulate`]: `R` rows from `row` on, `V` vectors.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize, const V: usize>(
    bank: *mut f32,
    a: Bytes<'_>,
    (rows, row): (&Rows, usize),
    vectors: &[Vector; MOST_VECTORS],
    size: usize,
    scales: &Scales<'_>,
) {
    let rows_at: [*const u8; R] = std::array::from_fn(|r| {
        a.codes.as_ptr().wrapping_offset((rows.element(row + r) - a.origin) as isize)
    });
    let at: [[*mut f32; V]; R] = std::array::from_fn(|r| {
        std::array::from_fn(|v| bank.wrapping_add(rows.accumulator(row + r) + vectors[v].column))
    });
    let codes: [*const i8; V] = std::array::from_fn(|v| vectors[v].codes);
    let unit = _mm256_set1_ps(a.unit);
    for (group, &offset) in a.groups.iter().enumerate() {
        let from: [*const u8; R] = std::array::from_fn(|r| rows_at[r].wrapping_offset(offset as isize));
        let columns: [*const i8; V] = std::array::from_fn(|v| codes[v].wrapping_add(group * size * COLUMNS));
        // SAFETY: the caller's promise: the panel has starts, words and scales for the group, rows have its bytes, and as many
        // accumulators as a vector has columns lie inside the bank.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); V]; R];
            for v in 0..V {
                let start = _mm256_loadu_si256(vectors[v].starts.add(group * COLUMNS).cast());
                sums.iter_mut().for_each(|sum| sum[v] = start);
            }
            words(&mut sums, &from, &columns, size / 4, a.words);
            for r in 0..R {
                let scale = _mm256_set1_ps(scales.of(row + r, group));
                for v in 0..V {
                    let other = _mm256_loadu_ps(vectors[v].scales.add(group * COLUMNS));
                    let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][v]), unit);
                    let total = <__m256 as Lanes>::load_first(vectors[v].n, at[r][v]);
                    let total = _mm256_fmadd_ps(sum, _mm256_mul_ps(scale, other), total);
                    total.store_first(vectors[v].n, at[r][v]);
                }
            }
        }
    }
}

/// Adds the products of `n` words of four bytes, `at_once` of them in 16 bits.
///
/// # Safety
/// Rows have `n` words, columns `n` words of 32 columns.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn words<const R: usize, const V: usize>(
    sums: &mut [[__m256i; V]; R],
    rows: &[*const u8; R],
    columns: &[*const i8; V],
    n: usize,
    at_once: usize,
) {
    let ones = _mm256_set1_epi16(1);
    for first in (0..n).step_by(at_once) {
        let mut narrow = [[_mm256_setzero_si256(); V]; R];
        for word in first..n.min(first + at_once) {
            let mut b = [_mm256_setzero_si256(); V];
            for v in 0..V {
                // SAFETY: eight columns of four bytes from here lie inside the panel.
                b[v] = unsafe { _mm256_loadu_si256(columns[v].add(4 * word * COLUMNS).cast()) };
            }
            for r in 0..R {
                // SAFETY: four bytes from here lie inside the operand.
                let x = _mm256_set1_epi32(unsafe { rows[r].add(4 * word).cast::<i32>().read_unaligned() });
                for v in 0..V {
                    narrow[r][v] = _mm256_add_epi16(narrow[r][v], _mm256_maddubs_epi16(x, b[v]));
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(narrow[r][v], ones));
            }
        }
    }
}
