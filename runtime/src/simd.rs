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

/// The vector units of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    /// Nothing beyond what the compiler assumes.
    Portable,
    /// AVX2 and fused multiply-add.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

/// The best level of this host.
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return if wide { Level::Avx512 } else { Level::Avx2 };
            }
        }
        Level::Portable
    })
}

/// Runs an SE operation.
pub(crate) fn run_op(op: &SeOp, constants: &[u64], lanes: &mut Lanes, step: Step) {
    match level() {
        Level::Portable => ops_run(op, constants, lanes, step),
        // SAFETY: `level` has detected the features that the functions are compiled for.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::run_op_avx2(op, constants, lanes, step) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::run_op_avx512(op, constants, lanes, step) },
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::Avx512 => ops_run(op, constants, lanes, step),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use lacuna_isa::program::SeOp;

    use crate::se::{Lanes, Step, ops_run};

    #[target_feature(enable = "avx2,fma")]
    pub fn run_op_avx2(op: &SeOp, constants: &[u64], lanes: &mut Lanes, step: Step) {
        ops_run(op, constants, lanes, step);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub fn run_op_avx512(op: &SeOp, constants: &[u64], lanes: &mut Lanes, step: Step) {
        ops_run(op, constants, lanes, step);
    }
}
