//! Host vector units: the one module with unsafe code. Every kernel here exists in a version for AVX-512, one for AVX2 and
//! a portable one, chosen when the program runs; all give the same bits, because all are the same IEEE operations in the
//! same order.
#![expect(
    unsafe_code,
    reason = "calls of functions compiled for features that were detected, and vector loads"
)]

use std::sync::OnceLock;

use lacuna_isa::program::SeOp;

use crate::se::{Lanes, Step, ops_run};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    /// Nothing beyond what the compiler assumes.
    Portable,
    /// AVX2 and fused multiply-add.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

/// Vector units that this host has. Values come from [`Units::best`] and [`Units::all`] alone, so that whoever holds one may
/// call what is compiled for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Units(Level);

impl Units {
    /// All units of this host, the best last.
    pub fn all() -> &'static [Units] {
        static FOUND: OnceLock<Vec<Units>> = OnceLock::new();
        FOUND.get_or_init(|| {
            let mut found = vec![Units(Level::Portable)];
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Units(Level::Avx2));
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    found.push(Units(Level::Avx512));
                }
            }
            found
        })
    }

    /// The best units of this host.
    pub fn best() -> Units {
        Units::all().last().copied().unwrap_or(Units(Level::Portable))
    }

    /// Runs an SE operation.
    pub fn run_op(self, op: &SeOp, constants: &[u64], lanes: &mut Lanes, step: Step) {
        match self.0 {
            Level::Portable => ops_run(op, constants, lanes, step),
            // SAFETY: whoever made `self` has detected the features that the functions are compiled for.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { x86::run_op_avx2(op, constants, lanes, step) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { x86::run_op_avx512(op, constants, lanes, step) },
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 => ops_run(op, constants, lanes, step),
        }
    }
}

/// Columns of a tile.
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

/// `acc[r][c] = fma(a[rows[r] + k], b[k][c], acc[r][c])` for every k of the segments in order.
///
/// # Panics
/// When a segment leaves `a` or `b`.
pub(crate) fn accumulate(
    units: Units,
    acc: &mut [[f32; COLUMNS]],
    a: &[f32],
    rows: &[i64],
    b: &[f32],
    segments: &[Segment],
) {
    assert!(acc.len() == rows.len(), "a row offset for every row");
    let (low, high) =
        rows.iter().fold((i64::MAX, i64::MIN), |(low, high), &row| (low.min(row), high.max(row)));
    for segment in segments {
        let [(a_low, a_high), (b_low, b_high)] = segment.reach();
        let inside = low + a_low >= 0
            && high + a_high < a.len() as i64
            && b_low >= 0
            && b_high + COLUMNS as i64 <= b.len() as i64;
        assert!(inside && segment.len > 0, "segments stay inside their operands");
    }
    match units.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the features were detected, and every address was checked above.
        Level::Avx512 => unsafe { x86::accumulate_avx512(acc, a, rows, b, segments) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the features were detected.
        Level::Avx2 => unsafe { x86::accumulate_avx2(acc, a, rows, b, segments) },
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Avx512 => accumulate_plain(acc, a, rows, b, segments),
        Level::Portable => accumulate_plain(acc, a, rows, b, segments),
    }
}

#[inline(always)]
fn accumulate_plain(acc: &mut [[f32; COLUMNS]], a: &[f32], rows: &[i64], b: &[f32], segments: &[Segment]) {
    for (line, &row) in acc.iter_mut().zip(rows) {
        let mut sums = *line;
        for segment in segments {
            let (mut at, mut from) = (row + segment.a, segment.b);
            for _ in 0..segment.len {
                let x = a[at as usize];
                let columns = &b[from as usize..from as usize + COLUMNS];
                for (sum, &y) in sums.iter_mut().zip(columns) {
                    *sum = x.mul_add(y, *sum);
                }
                at += segment.a_step;
                from += segment.b_step;
            }
        }
        *line = sums;
    }
}

/// `acc[c] = fma(sums[c], scale * scales[c], acc[c])`; the products of scales are exact.
pub(crate) fn scale_add(
    units: Units,
    acc: &mut [f32; COLUMNS],
    sums: &[f32; COLUMNS],
    scale: f32,
    scales: &[f32; COLUMNS],
) {
    match units.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the features were detected.
        Level::Avx512 | Level::Avx2 => unsafe { x86::scale_add_avx2(acc, sums, scale, scales) },
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Avx512 => scale_add_plain(acc, sums, scale, scales),
        Level::Portable => scale_add_plain(acc, sums, scale, scales),
    }
}

#[inline(always)]
fn scale_add_plain(acc: &mut [f32; COLUMNS], sums: &[f32; COLUMNS], scale: f32, scales: &[f32; COLUMNS]) {
    for ((value, &sum), &other) in acc.iter_mut().zip(sums).zip(scales) {
        *value = sum.mul_add(scale * other, *value);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use lacuna_isa::program::SeOp;

    use super::{COLUMNS, Segment, accumulate_plain, scale_add_plain};
    use crate::se::{Lanes, Step, ops_run};

    #[target_feature(enable = "avx2,fma")]
    pub fn run_op_avx2(op: &SeOp, constants: &[u64], lanes: &mut Lanes, step: Step) {
        ops_run(op, constants, lanes, step);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub fn run_op_avx512(op: &SeOp, constants: &[u64], lanes: &mut Lanes, step: Step) {
        ops_run(op, constants, lanes, step);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn scale_add_avx2(
        acc: &mut [f32; COLUMNS],
        sums: &[f32; COLUMNS],
        scale: f32,
        scales: &[f32; COLUMNS],
    ) {
        scale_add_plain(acc, sums, scale, scales);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn accumulate_avx2(
        acc: &mut [[f32; COLUMNS]],
        a: &[f32],
        rows: &[i64],
        b: &[f32],
        segments: &[Segment],
    ) {
        accumulate_plain(acc, a, rows, b, segments);
    }

    /// # Safety
    /// For every row and segment, all addresses lie inside `a` and `b`, 32 columns included.
    #[target_feature(enable = "avx512f,fma")]
    pub unsafe fn accumulate_avx512(
        acc: &mut [[f32; COLUMNS]],
        a: &[f32],
        rows: &[i64],
        b: &[f32],
        segments: &[Segment],
    ) {
        let mut done = 0;
        macro_rules! tiles {
            ($($n:literal)*) => {$(
                while acc.len() - done >= $n {
                    // SAFETY: the caller's promise covers these rows.
                    unsafe { tile::<$n>(&mut acc[done..done + $n], a, &rows[done..done + $n], b, segments) };
                    done += $n;
                }
            )*};
        }
        tiles!(12 8 4 2 1);
    }

    /// # Safety
    /// As [`accumulate_avx512`]; `acc` and `rows` have `R` elements.
    #[target_feature(enable = "avx512f,fma")]
    unsafe fn tile<const R: usize>(
        acc: &mut [[f32; COLUMNS]],
        a: &[f32],
        rows: &[i64],
        b: &[f32],
        segments: &[Segment],
    ) {
        let offsets: [isize; R] = std::array::from_fn(|r| rows[r] as isize);
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for (sum, line) in sums.iter_mut().zip(acc.iter()) {
            // SAFETY: a line has 32 columns.
            *sum = unsafe { [_mm512_loadu_ps(line.as_ptr()), _mm512_loadu_ps(line.as_ptr().add(16))] };
        }
        for segment in segments {
            // Wrapping arithmetic, because the last step of a segment may lead outside; nothing is read there.
            let mut at = a.as_ptr().wrapping_offset(segment.a as isize);
            let mut from = b.as_ptr().wrapping_offset(segment.b as isize);
            for _ in 0..segment.len {
                // SAFETY: the caller's promise: 32 columns from here lie inside `b`.
                let columns = unsafe { [_mm512_loadu_ps(from), _mm512_loadu_ps(from.wrapping_add(16))] };
                for r in 0..R {
                    // SAFETY: the caller's promise: the element lies inside `a`.
                    let x = _mm512_set1_ps(unsafe { *at.wrapping_offset(offsets[r]) });
                    sums[r][0] = _mm512_fmadd_ps(x, columns[0], sums[r][0]);
                    sums[r][1] = _mm512_fmadd_ps(x, columns[1], sums[r][1]);
                }
                at = at.wrapping_offset(segment.a_step as isize);
                from = from.wrapping_offset(segment.b_step as isize);
            }
        }
        for (sum, line) in sums.iter().zip(acc.iter_mut()) {
            // SAFETY: a line has 32 columns.
            unsafe {
                _mm512_storeu_ps(line.as_mut_ptr(), sum[0]);
                _mm512_storeu_ps(line.as_mut_ptr().add(16), sum[1]);
            }
        }
    }
}
