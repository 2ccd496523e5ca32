//! The kernels for AVX-512, and those without intrinsics compiled for AVX2.

use std::arch::x86_64::{
    __m512, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps,
    _mm512_set1_ps, _mm512_setzero_ps,
};

use super::{COLUMNS, PanelRef, Rows, Scales, Segments, accumulate_plain, groups_plain, shares};

#[target_feature(enable = "avx2,fma")]
pub fn accumulate_avx2(
    bank: &mut [f32],
    a: &[f32],
    origin: i64,
    rows: &Rows,
    panels: &[PanelRef<'_>],
    segments: &Segments,
) {
    accumulate_plain(bank, a, origin, rows, panels, segments);
}

#[target_feature(enable = "avx2,fma")]
pub fn groups_avx2(
    bank: &mut [f32],
    a: &[f32],
    origin: i64,
    rows: &Rows,
    panels: &[PanelRef<'_>],
    groups: &[Segments],
    scales: &Scales<'_>,
) {
    groups_plain(bank, a, origin, rows, panels, groups, scales);
}

/// 16 columns of a panel: values of k with offset 0, column in the bank, which of them there are.
#[derive(Clone, Copy)]
struct Vector {
    values: *const f32,
    column: u32,
    mask: u16,
    panel: u16,
}

const NONE: Vector = Vector { values: std::ptr::null(), column: 0, mask: 0, panel: 0 };

/// Puts the vectors of the panels from `first` on that tiles of this many rows take at once into `out`: their number, and
/// that of the panels. Every second vector is the second half of the panel of the one before.
fn vectors(panels: &[PanelRef<'_>], first: usize, n_rows: usize, out: &mut [Vector; 8]) -> (usize, usize) {
    // A panel stays in the first cache where two do not; few rows need more columns for enough sums at once.
    let most = match n_rows {
        1 => 4,
        2 | 3 => 2,
        _ => 1,
    };
    let (mut n, mut taken) = (0, 0);
    for panel in panels[first..].iter().take(most) {
        let start = panel.values.as_ptr().wrapping_offset(panel.first as isize);
        for half in 0..panel.width.div_ceil(16) {
            let mask = if panel.width >= half * 16 + 16 { 0xFFFF } else { (1 << (panel.width % 16)) - 1 };
            let (values, column) = (start.wrapping_add(half * 16), panel.column + half * 16);
            out[n] = Vector { values, column: column as u32, mask, panel: taken as u16 };
            n += 1;
        }
        taken += 1;
        if panel.width <= 16 {
            break;
        }
    }
    (n, taken)
}

/// Most rows of a tile of 1 to 8 vectors: 24 accumulators at most.
const MOST_ROWS: [usize; 9] = [0, 10, 10, 8, 6, 4, 4, 3, 3];

/// Calls `$f::<R, V>` for the `R` rows and `V` vectors that are wanted.
macro_rules! by_size {
    ($r:expr, $v:expr, $f:ident $args:tt) => {
        by_size!(@v $r, $v, $f $args,
            1 [1 2 3 4 5 6 7 8 9 10] 2 [1 2 3 4 5 6 7 8 9 10] 3 [1 2 3 4 5 6 7 8] 4 [1 2 3 4 5 6]
            5 [1 2 3 4] 6 [1 2 3 4] 7 [1 2 3] 8 [1 2 3])
    };
    (@v $r:expr, $v:expr, $f:ident $args:tt, $($n:literal [$($m:literal)*])*) => {
        match $v {
            $($n => by_size!(@r $r, $n, $f $args, $($m)*),)*
            _ => unreachable!("a tile has at most eight vectors"),
        }
    };
    (@r $r:expr, $n:literal, $f:ident $args:tt, $($m:literal)*) => {
        match $r {
            $($m => $f::<$m, $n> $args,)*
            _ => unreachable!("tiles are shared out by their most rows"),
        }
    };
}

/// # Safety
/// For every row, panel and segment, all addresses lie inside `a`, the panels and the bank.
#[target_feature(enable = "avx512f,fma")]
pub unsafe fn accumulate_avx512(
    bank: &mut [f32],
    a: &[f32],
    origin: i64,
    rows: &Rows,
    panels: &[PanelRef<'_>],
    segments: &Segments,
) {
    let a = a.as_ptr().wrapping_offset(-origin as isize);
    let bank = bank.as_mut_ptr();
    let (mut out, mut first) = ([NONE; 8], 0);
    while first < panels.len() {
        let (n, taken) = vectors(panels, first, rows.len(), &mut out);
        first += taken;
        for (row, r) in shares(rows.len(), MOST_ROWS[n]) {
            let (elements, accumulators) = (&rows.elements[row..row + r], &rows.accumulators[row..row + r]);
            // SAFETY: the caller's promise covers these rows and panels.
            unsafe { by_size!(r, n, tile(bank, a, elements, accumulators, &out, segments)) };
        }
    }
}

/// # Safety
/// As [`accumulate_avx512`]: `R` rows, `V` vectors.
#[target_feature(enable = "avx512f,fma")]
unsafe fn tile<const R: usize, const V: usize>(
    bank: *mut f32,
    a: *const f32,
    elements: &[isize],
    accumulators: &[usize],
    vectors: &[Vector; 8],
    segments: &Segments,
) {
    let rows: [*const f32; R] = std::array::from_fn(|r| a.wrapping_offset(elements[r]));
    let at: [[*mut f32; V]; R] = std::array::from_fn(|r| {
        std::array::from_fn(|v| bank.wrapping_add(accumulators[r] + vectors[v].column as usize))
    });
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    for r in 0..R {
        for v in 0..V {
            // SAFETY: the accumulators that the mask chooses lie inside the bank.
            sums[r][v] = unsafe { _mm512_maskz_loadu_ps(vectors[v].mask, at[r][v]) };
        }
    }
    let b: [*const f32; V] = std::array::from_fn(|v| vectors[v].values);
    // SAFETY: the caller's promise.
    unsafe { run(&mut sums, &rows, &b, segments) };
    for r in 0..R {
        for v in 0..V {
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(at[r][v], vectors[v].mask, sums[r][v]) };
        }
    }
}

/// # Safety
/// All addresses of the segments lie inside the operands. Every second vector of `b` lies 16 values behind the one before.
#[inline]
#[target_feature(enable = "avx512f,fma")]
unsafe fn run<const R: usize, const V: usize>(
    sums: &mut [[__m512; V]; R],
    rows: &[*const f32; R],
    b: &[*const f32; V],
    segments: &Segments,
) {
    for segment in &segments.runs {
        let mut from: [*const f32; V] =
            std::array::from_fn(|v| b[v & !1].wrapping_offset(segment.b as isize));
        let rows: [*const f32; R] = std::array::from_fn(|r| rows[r].wrapping_offset(segment.a as isize));
        // The usual steps as constants leave registers for the addresses of rows.
        if segment.a_step == 1 && segment.b_step == COLUMNS as i64 {
            for k in 0..segment.len {
                // SAFETY: the caller's promise: this k lies inside both operands.
                unsafe { step(sums, &rows, k as isize, &from) };
                for v in (0..V).step_by(2) {
                    from[v] = from[v].wrapping_add(COLUMNS);
                }
            }
            continue;
        }
        let mut at = 0;
        for _ in 0..segment.len {
            // SAFETY: as above.
            unsafe { step(sums, &rows, at, &from) };
            at += segment.a_step as isize;
            for v in (0..V).step_by(2) {
                from[v] = from[v].wrapping_offset(segment.b_step as isize);
            }
        }
    }
}

/// One k: elements of rows at `at`, columns at the even vectors of `from`.
///
/// # Safety
/// All of them lie inside the operands.
#[inline]
#[target_feature(enable = "avx512f,fma")]
unsafe fn step<const R: usize, const V: usize>(
    sums: &mut [[__m512; V]; R],
    rows: &[*const f32; R],
    at: isize,
    from: &[*const f32; V],
) {
    let mut columns = [_mm512_setzero_ps(); V];
    for v in 0..V {
        // SAFETY: the caller's promise.
        columns[v] = unsafe { _mm512_loadu_ps(from[v & !1].wrapping_add(16 * (v & 1))) };
    }
    for r in 0..R {
        // SAFETY: the caller's promise.
        let x = _mm512_set1_ps(unsafe { *rows[r].wrapping_offset(at) });
        for v in 0..V {
            sums[r][v] = _mm512_fmadd_ps(x, columns[v], sums[r][v]);
        }
    }
}

/// # Safety
/// As [`accumulate_avx512`] for every group; every panel has 32 scales for each group.
#[target_feature(enable = "avx512f,fma")]
pub unsafe fn groups_avx512(
    bank: &mut [f32],
    a: &[f32],
    origin: i64,
    rows: &Rows,
    panels: &[PanelRef<'_>],
    groups: &[Segments],
    scales: &Scales<'_>,
) {
    let a = a.as_ptr().wrapping_offset(-origin as isize);
    let bank = bank.as_mut_ptr();
    let (mut out, mut first) = ([NONE; 8], 0);
    while first < panels.len() {
        let (n, taken) = vectors(panels, first, rows.len(), &mut out);
        let b = &scales.b[first..first + taken];
        first += taken;
        for (row, r) in shares(rows.len(), MOST_ROWS[n]) {
            // SAFETY: the caller's promise covers these rows and panels.
            unsafe { by_size!(r, n, groups_tile(bank, a, (rows, row), &out, groups, (scales, b))) };
        }
    }
}

/// # Safety
/// As [`groups_avx512`]: `R` rows, `V` vectors.
#[target_feature(enable = "avx512f,fma")]
unsafe fn groups_tile<const R: usize, const V: usize>(
    bank: *mut f32,
    a: *const f32,
    (all, first): (&Rows, usize),
    vectors: &[Vector; 8],
    groups: &[Segments],
    (scales, b_scales): (&Scales<'_>, &[&[f32]]),
) {
    let (elements, accumulators) = (&all.elements[first..first + R], &all.accumulators[first..first + R]);
    let rows: [*const f32; R] = std::array::from_fn(|r| a.wrapping_offset(elements[r]));
    let b: [*const f32; V] = std::array::from_fn(|v| vectors[v].values);
    let b_scales: [*const f32; V] =
        std::array::from_fn(|v| b_scales[usize::from(vectors[v].panel)].as_ptr().wrapping_add(16 * (v & 1)));
    for (group, segments) in groups.iter().enumerate() {
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        // SAFETY: the caller's promise.
        unsafe { run(&mut sums, &rows, &b, segments) };
        for r in 0..R {
            let scale = _mm512_set1_ps(scales.of(first + r, group));
            for v in 0..V {
                let at = bank.wrapping_add(accumulators[r] + vectors[v].column as usize);
                // SAFETY: the panel has scales for the group, and the accumulators lie inside the bank.
                unsafe {
                    let other = _mm512_loadu_ps(b_scales[v].wrapping_add(group * COLUMNS));
                    let sum = _mm512_maskz_loadu_ps(vectors[v].mask, at);
                    let sum = _mm512_fmadd_ps(sums[r][v], _mm512_mul_ps(scale, other), sum);
                    _mm512_mask_storeu_ps(at, vectors[v].mask, sum);
                }
            }
        }
    }
}
