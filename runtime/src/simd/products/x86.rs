//! The kernels for AVX-512 and AVX2.

use std::arch::x86_64::{
    __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_maskload_ps,
    _mm256_maskstore_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps,
};

use super::tiles::{self, Lanes, Share, Vectors};
use super::{PanelRef, Rows, Scales, Segments};

/// The kernels of one unit, which has these features.
macro_rules! kernels {
    ($features:literal, $lanes:ty, $accumulate:ident, $groups:ident) => {
        /// # Safety
        /// For every row, panel and segment, all addresses lie inside `a`, the panels and the bank.
        #[target_feature(enable = $features)]
        pub unsafe fn $accumulate(
            bank: &mut [f32],
            a: &[f32],
            origin: i64,
            rows: &Rows,
            panels: &[PanelRef<'_>],
            segments: &Segments,
        ) {
            // SAFETY: the caller's promise, and the features are those of the register.
            unsafe { tiles::accumulate::<$lanes>(bank, a, origin, rows, panels, segments) };
        }

        /// # Safety
        /// As the one above for every group; every panel has 32 scales for each group.
        #[target_feature(enable = $features)]
        pub unsafe fn $groups(
            bank: &mut [f32],
            a: &[f32],
            origin: i64,
            rows: &Rows,
            panels: &[PanelRef<'_>],
            groups: &[Segments],
            scales: &Scales<'_>,
        ) {
            // SAFETY: the caller's promise, and the features are those of the register.
            unsafe { tiles::groups::<$lanes>(bank, (a, origin), rows, panels, groups, scales) };
        }
    };
}

kernels!("avx2,fma", __m256, accumulate_avx2, groups_avx2);
kernels!("avx512f,fma", __m512, accumulate_avx512, groups_avx512);

/// What the methods of a register share: each is one instruction, in a function that has the features.
macro_rules! methods {
    ($features:literal $splat:ident $load:ident $mul:ident $mul_add:ident) => {
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller has the features.
            unsafe { $splat(x) }
        }

        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            // SAFETY: the caller has the features and the memory.
            unsafe { $load(at) }
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: the caller has the features.
            unsafe { $mul(self, other) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
            // SAFETY: the caller has the features.
            unsafe { $mul_add(self, other, sum) }
        }

        #[target_feature(enable = $features)]
        unsafe fn tile<const R: usize, const V: usize>(
            bank: *mut f32,
            a: *const f32,
            rows: Share<'_>,
            vectors: &Vectors,
            segments: &Segments,
        ) {
            // SAFETY: the caller's promise, and the features are those of the register.
            unsafe { tiles::tile::<Self, R, V>(bank, a, rows, vectors, segments) };
        }

        #[target_feature(enable = $features)]
        unsafe fn groups_tile<const R: usize, const V: usize>(
            bank: *mut f32,
            a: *const f32,
            rows: Share<'_>,
            vectors: &Vectors,
            groups: &[Segments],
            scales: &Scales<'_>,
        ) {
            // SAFETY: as above.
            unsafe { tiles::groups_tile::<Self, R, V>(bank, a, rows, vectors, groups, scales) };
        }
    };
}

impl Lanes for __m512 {
    const N: usize = 16;
    // A panel stays in the first cache where two do not; few rows need more columns for enough sums at once.
    const MOST_VECTORS: [usize; 4] = [8, 4, 4, 2];
    // 24 of 32 registers for accumulators.
    const MOST_ROWS: [usize; 9] = [0, 10, 10, 8, 6, 4, 4, 3, 3];

    methods!("avx512f,fma" _mm512_set1_ps _mm512_loadu_ps _mm512_mul_ps _mm512_fmadd_ps);

    #[inline(always)]
    unsafe fn load_first(n: usize, at: *const f32) -> __m512 {
        // SAFETY: the caller has the features and the memory of the first `n` values.
        unsafe { _mm512_maskz_loadu_ps(first(n), at) }
    }

    #[inline(always)]
    unsafe fn store_first(self, n: usize, at: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_ps(at, first(n), self) };
    }
}

/// The mask of the first `n` of 16 values.
#[inline(always)]
fn first(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

/// Eight ones and eight zeros: eight of them from `8 - n` on choose the first `n` values.
static ONES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

impl Lanes for __m256 {
    const N: usize = 8;
    // Few rows need more columns for enough sums at once; more leave no register for the columns.
    const MOST_VECTORS: [usize; 4] = [8, 4, 4, 2];
    // 12 of 16 registers for accumulators.
    const MOST_ROWS: [usize; 9] = [0, 6, 6, 4, 3, 2, 2, 1, 1];

    methods!("avx2,fma" _mm256_set1_ps _mm256_loadu_ps _mm256_mul_ps _mm256_fmadd_ps);

    #[inline(always)]
    unsafe fn load_first(n: usize, at: *const f32) -> __m256 {
        // SAFETY: the caller has the features and the memory of the first `n` values; eight ones and zeros lie inside.
        unsafe {
            if n >= 8 {
                return _mm256_loadu_ps(at);
            }
            _mm256_maskload_ps(at, _mm256_loadu_si256(ONES.as_ptr().add(8 - n).cast()))
        }
    }

    // Whole stores where nothing is left out: masked ones take some processors many cycles.
    #[inline(always)]
    unsafe fn store_first(self, n: usize, at: *mut f32) {
        // SAFETY: as above.
        unsafe {
            if n >= 8 {
                return _mm256_storeu_ps(at, self);
            }
            _mm256_maskstore_ps(at, _mm256_loadu_si256(ONES.as_ptr().add(8 - n).cast()), self);
        }
    }
}
