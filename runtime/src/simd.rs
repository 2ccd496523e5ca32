//! Host vector units: the one module with unsafe code. Every kernel here exists in a version for AVX-512, one for AVX2 and
//! a portable one, chosen when the program runs; all give the same bits, because all are the same IEEE operations in the
//! same order.
#![expect(
    unsafe_code,
    reason = "calls of functions compiled for features that were detected, and vector loads"
)]

mod integers;
mod products;

use std::sync::OnceLock;

use lacuna_isa::program::SeOp;

use crate::se::{Lanes, Step, ops_run};
pub(crate) use integers::{Bytes, Integers, accumulate_integers, codes_of_pairs, has_dots};
pub(crate) use products::{COLUMNS, PanelRef, Rows, Scales, Segments, accumulate, accumulate_groups};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Level {
    /// Nothing beyond what the compiler assumes.
    Portable,
    /// AVX2 and fused multiply-add.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The same and its dot products of bytes, VNNI.
    Avx512Vnni,
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
                    if is_x86_feature_detected!("avx512vnni") {
                        found.push(Units(Level::Avx512Vnni));
                    }
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
            Level::Avx512 | Level::Avx512Vnni => unsafe { x86::run_op_avx512(op, constants, lanes, step) },
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 | Level::Avx512Vnni => ops_run(op, constants, lanes, step),
        }
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
