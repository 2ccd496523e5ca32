//! Tiles of rows and vectors of columns for vector units of any width, whose accumulators stay in registers.
//!
//! Every function here is inlined into one that is compiled for the features of its [`Lanes`]; tiles stay apart, since one
//! function that holds them all takes minutes to compile.

use super::{COLUMNS, PanelRef, Rows, Scales, Segments, shares};

/// A register of f32 values.
///
/// # Safety
/// Every method needs the features of the register's unit, and the memory that it names.
pub(in crate::simd) trait Lanes: Copy {
    /// Values of a register; 32 is a multiple of it.
    const N: usize;
    /// Most vectors of columns of a tile, by its rows less one; those of more rows as of the last.
    const MOST_VECTORS: [usize; 4];
    /// Most rows of a tile of 0 to 8 vectors.
    const MOST_ROWS: [usize; 9];

    /// `x` in every value.
    unsafe fn splat(x: f32) -> Self;
    /// All values from `at` on.
    unsafe fn load(at: *const f32) -> Self;
    /// The first `n` values from `at` on, and zeros.
    unsafe fn load_first(n: usize, at: *const f32) -> Self;
    /// Writes the first `n` values.
    unsafe fn store_first(self, n: usize, at: *mut f32);
    /// `self * other`.
    unsafe fn mul(self, other: Self) -> Self;
    /// `self * other + sum`, rounded once.
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self;

    /// [`tile`] as a function of its own.
    unsafe fn tile<const R: usize, const V: usize>(
        bank: *mut f32,
        a: *const f32,
        rows: Share<'_>,
        vectors: &Vectors,
        segments: &Segments,
    );
    /// [`groups_tile`] as a function of its own.
    unsafe fn groups_tile<const R: usize, const V: usize>(
        bank: *mut f32,
        a: *const f32,
        rows: Share<'_>,
        vectors: &Vectors,
        groups: &[Segments],
        scales: &Scales<'_>,
    );
}

/// The rows of a tile: all rows, and the first of the tile.
pub(in crate::simd) type Share<'a> = (&'a Rows, usize);

/// Some columns of a panel: their values of k with offset 0, their place in the bank, how many there are, their panel, and
/// their place in it.
#[derive(Clone, Copy)]
pub(in crate::simd) struct Vector {
    values: *const f32,
    column: usize,
    n: usize,
    panel: usize,
    within: usize,
}

/// Vectors of a tile: every one of a panel lies one register behind the one before.
pub(in crate::simd) type Vectors = [Vector; 8];

const NONE: Vector = Vector { values: std::ptr::null(), column: 0, n: 0, panel: 0, within: 0 };

/// Puts the vectors that tiles of this many rows take at once into `out`, those from vector `at.1` of panel `at.0` on:
/// their number. Moves `at` behind them.
fn vectors<L: Lanes>(
    panels: &[PanelRef<'_>],
    at: &mut (usize, usize),
    n_rows: usize,
    out: &mut Vectors,
) -> usize {
    let most = L::MOST_VECTORS[n_rows.clamp(1, 4) - 1];
    let mut n = 0;
    while n < most && at.0 < panels.len() {
        let panel = &panels[at.0];
        let start = panel.values.as_ptr().wrapping_offset(panel.first as isize);
        let all = panel.width.div_ceil(L::N);
        while n < most && at.1 < all {
            let within = at.1 * L::N;
            out[n] = Vector {
                values: start.wrapping_add(within),
                column: panel.column + within,
                n: (panel.width - within).min(L::N),
                panel: at.0,
                within,
            };
            n += 1;
            at.1 += 1;
        }
        if at.1 == all {
            *at = (at.0 + 1, 0);
        }
        // Only whole panels have another behind them in a tile.
        if all * L::N < COLUMNS {
            break;
        }
    }
    n
}

/// Calls `L::$f::<R, V>` for the `R` rows and `V` vectors that are wanted.
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
            $($m if $m <= L::MOST_ROWS[$n] => L::$f::<$m, $n> $args,)*
            _ => unreachable!("tiles are shared out by their most rows"),
        }
    };
}

/// # Safety
/// The features of `L`, and for every row, panel and segment, all addresses lie inside `a`, the panels and the bank.
#[inline(always)]
pub(super) unsafe fn accumulate<L: Lanes>(
    bank: &mut [f32],
    a: &[f32],
    origin: i64,
    rows: &Rows,
    panels: &[PanelRef<'_>],
    segments: &Segments,
) {
    let a = a.as_ptr().wrapping_offset(-origin as isize);
    let bank = bank.as_mut_ptr();
    let (mut out, mut at) = ([NONE; 8], (0, 0));
    while at.0 < panels.len() {
        let n = vectors::<L>(panels, &mut at, rows.len(), &mut out);
        for (row, r) in shares(rows.len(), L::MOST_ROWS[n]) {
            // SAFETY: the caller's promise covers these rows and panels.
            unsafe { by_size!(r, n, tile(bank, a, (rows, row), &out, segments)) };
        }
    }
}

/// # Safety
/// As [`accumulate`]: `R` rows, `V` vectors.
#[inline(always)]
pub(super) unsafe fn tile<L: Lanes, const R: usize, const V: usize>(
    bank: *mut f32,
    a: *const f32,
    (all, first): Share<'_>,
    vectors: &Vectors,
    segments: &Segments,
) {
    let (elements, accumulators) = (&all.elements[first..first + R], &all.accumulators[first..first + R]);
    let rows: [*const f32; R] = std::array::from_fn(|r| a.wrapping_offset(elements[r]));
    let b: [*const f32; V] = std::array::from_fn(|v| vectors[v].values);
    // SAFETY: the caller's promise; as many accumulators as a vector has columns lie inside the bank.
    unsafe {
        let mut sums = [[L::splat(0.0); V]; R];
        for r in 0..R {
            for v in 0..V {
                let at = bank.wrapping_add(accumulators[r] + vectors[v].column);
                sums[r][v] = L::load_first(vectors[v].n, at);
            }
        }
        run::<L, R, V>(&mut sums, &rows, &b, segments);
        for r in 0..R {
            for v in 0..V {
                let at = bank.wrapping_add(accumulators[r] + vectors[v].column);
                sums[r][v].store_first(vectors[v].n, at);
            }
        }
    }
}

/// The vector whose address that of vector `v` is counted from: the first of its panel.
const fn base<L: Lanes>(v: usize) -> usize {
    v - v % (COLUMNS / L::N)
}

/// # Safety
/// The features of `L`; all addresses of the segments lie inside the operands.
#[inline(always)]
unsafe fn run<L: Lanes, const R: usize, const V: usize>(
    sums: &mut [[L; V]; R],
    rows: &[*const f32; R],
    b: &[*const f32; V],
    segments: &Segments,
) {
    for segment in &segments.runs {
        let mut from: [*const f32; V] =
            std::array::from_fn(|v| b[base::<L>(v)].wrapping_offset(segment.b as isize));
        let rows: [*const f32; R] = std::array::from_fn(|r| rows[r].wrapping_offset(segment.a as isize));
        // The usual steps as constants leave registers for the addresses of rows.
        if segment.a_step == 1 && segment.b_step == COLUMNS as i64 {
            for k in 0..segment.len {
                // SAFETY: the caller's promise: this k lies inside both operands.
                unsafe { step::<L, R, V>(sums, &rows, k as isize, &from) };
                for v in (0..V).step_by(COLUMNS / L::N) {
                    from[v] = from[v].wrapping_add(COLUMNS);
                }
            }
            continue;
        }
        let mut at = 0;
        for _ in 0..segment.len {
            // SAFETY: as above.
            unsafe { step::<L, R, V>(sums, &rows, at, &from) };
            at += segment.a_step as isize;
            for v in (0..V).step_by(COLUMNS / L::N) {
                from[v] = from[v].wrapping_offset(segment.b_step as isize);
            }
        }
    }
}

/// One k: elements of rows at `at`, columns at the first vector of each panel in `from`.
///
/// # Safety
/// The features of `L`; all of them lie inside the operands.
#[inline(always)]
unsafe fn step<L: Lanes, const R: usize, const V: usize>(
    sums: &mut [[L; V]; R],
    rows: &[*const f32; R],
    at: isize,
    from: &[*const f32; V],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut columns = [L::splat(0.0); V];
        for v in 0..V {
            columns[v] = L::load(from[base::<L>(v)].wrapping_add(L::N * (v - base::<L>(v))));
        }
        for r in 0..R {
            let x = L::splat(*rows[r].wrapping_offset(at));
            for v in 0..V {
                sums[r][v] = x.mul_add(columns[v], sums[r][v]);
            }
        }
    }
}

/// # Safety
/// As [`accumulate`] for every group; every panel has 32 scales for each group.
#[inline(always)]
pub(super) unsafe fn groups<L: Lanes>(
    bank: &mut [f32],
    (a, origin): (&[f32], i64),
    rows: &Rows,
    panels: &[PanelRef<'_>],
    groups: &[Segments],
    scales: &Scales<'_>,
) {
    let a = a.as_ptr().wrapping_offset(-origin as isize);
    let bank = bank.as_mut_ptr();
    let (mut out, mut at) = ([NONE; 8], (0, 0));
    while at.0 < panels.len() {
        let n = vectors::<L>(panels, &mut at, rows.len(), &mut out);
        for (row, r) in shares(rows.len(), L::MOST_ROWS[n]) {
            // SAFETY: the caller's promise covers these rows and panels.
            unsafe { by_size!(r, n, groups_tile(bank, a, (rows, row), &out, groups, scales)) };
        }
    }
}

/// # Safety
/// As [`groups`]: `R` rows, `V` vectors.
#[inline(always)]
pub(super) unsafe fn groups_tile<L: Lanes, const R: usize, const V: usize>(
    bank: *mut f32,
    a: *const f32,
    (all, first): Share<'_>,
    vectors: &Vectors,
    groups: &[Segments],
    scales: &Scales<'_>,
) {
    let (elements, accumulators) = (&all.elements[first..first + R], &all.accumulators[first..first + R]);
    let rows: [*const f32; R] = std::array::from_fn(|r| a.wrapping_offset(elements[r]));
    let b: [*const f32; V] = std::array::from_fn(|v| vectors[v].values);
    let b_scales: [*const f32; V] =
        std::array::from_fn(|v| scales.b[vectors[v].panel].as_ptr().wrapping_add(vectors[v].within));
    for (group, segments) in groups.iter().enumerate() {
        // SAFETY: the caller's promise: the panel has scales for the group, and the accumulators lie inside the bank.
        unsafe {
            let mut sums = [[L::splat(0.0); V]; R];
            run::<L, R, V>(&mut sums, &rows, &b, segments);
            for r in 0..R {
                let scale = L::splat(scales.of(first + r, group));
                for v in 0..V {
                    let at = bank.wrapping_add(accumulators[r] + vectors[v].column);
                    let n = vectors[v].n;
                    let other = L::load(b_scales[v].wrapping_add(group * COLUMNS));
                    let sum = sums[r][v].mul_add(scale.mul(other), L::load_first(n, at));
                    sum.store_first(n, at);
                }
            }
        }
    }
}
