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

use lacuna_isa::format::{GroupFormat, ScaleMode, group};
use lacuna_isa::program::SeOp;

use crate::se::{Lanes, Step, ops_run};
pub(crate) use integers::{Bytes, Integers, accumulate_integers, codes_of_pairs, has_dots, words_in_16_bits};
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

    /// Quantises groups that lie one after the other.
    pub fn quantize(self, format: GroupFormat, mode: ScaleMode, values: &[f32], into: [&mut [u8]; 2]) {
        match self.0 {
            Level::Portable => quantize(format, mode, values, into),
            // SAFETY: whoever made `self` has detected the features that the functions are compiled for.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { x86::quantize_avx2(format, mode, values, into) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vnni => unsafe { x86::quantize_avx512(format, mode, values, into) },
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 | Level::Avx512Vnni => quantize(format, mode, values, into),
        }
    }

    /// The values of E4M3 codes, as their table has them.
    pub fn decode_e4m3(self, codes: &[u8], out: &mut [f32]) {
        match self.0 {
            Level::Portable => decode_e4m3(codes, out),
            // SAFETY: whoever made `self` has detected the features that the functions are compiled for.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { x86::decode_e4m3_avx2(codes, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vnni => unsafe { x86::decode_e4m3_avx512(codes, out) },
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 | Level::Avx512Vnni => decode_e4m3(codes, out),
        }
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

#[inline(always)]
fn quantize(format: GroupFormat, mode: ScaleMode, values: &[f32], [codes, scales]: [&mut [u8]; 2]) {
    group::quantize_rows(format, mode, values, values.len(), codes, scales);
}

#[inline(always)]
fn decode_e4m3(codes: &[u8], out: &mut [f32]) {
    for (value, &code) in out.iter_mut().zip(codes) {
        let magnitude = u32::from(code & 0x7F);
        // Exponent and significand in place, then the biases' difference: exact, subnormals too.
        let bits = (f32::from_bits(magnitude << 20) * f32::from_bits((127 + 120) << 23)).to_bits();
        let signed = bits | u32::from(code & 0x80) << 24;
        *value = f32::from_bits(if magnitude == 0x7F { 0x7FC0_0000 } else { signed });
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use lacuna_isa::format::{GroupFormat, ScaleMode};
    use lacuna_isa::program::SeOp;

    use crate::se::{Lanes, Step, ops_run};

    #[target_feature(enable = "avx2,fma")]
    pub fn quantize_avx2(format: GroupFormat, mode: ScaleMode, values: &[f32], into: [&mut [u8]; 2]) {
        super::quantize(format, mode, values, into);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub fn quantize_avx512(format: GroupFormat, mode: ScaleMode, values: &[f32], into: [&mut [u8]; 2]) {
        super::quantize(format, mode, values, into);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn decode_e4m3_avx2(codes: &[u8], out: &mut [f32]) {
        super::decode_e4m3(codes, out);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub fn decode_e4m3_avx512(codes: &[u8], out: &mut [f32]) {
        super::decode_e4m3(codes, out);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn run_op_avx2(op: &SeOp, constants: &[u64], lanes: &mut Lanes, step: Step) {
        ops_run(op, constants, lanes, step);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub fn run_op_avx512(op: &SeOp, constants: &[u64], lanes: &mut Lanes, step: Step) {
        ops_run(op, constants, lanes, step);
    }
}

#[cfg(test)]
mod tests {
    use lacuna_isa::format::{ScalarType, pack};

    use super::*;

    #[test]
    fn e4m3_as_its_table() {
        let codes: Vec<u8> = (0..=255).collect();
        let mut want = [0f32; 256];
        pack::decode_slice(ScalarType::E4M3, &codes, 0, &mut want);
        for units in Units::all() {
            let mut got = [1f32; 256];
            units.decode_e4m3(&codes, &mut got);
            assert_eq!(got.map(f32::to_bits), want.map(f32::to_bits), "{units:?}");
        }
    }

    #[test]
    fn groups_are_quantised_alike() {
        let bits = |i: u32| i.wrapping_mul(2_654_435_761) ^ i << 7;
        // All exponents, NaN and infinities; then values of like size.
        let wild: Vec<f32> = (0..4096).map(|i| f32::from_bits(bits(i))).collect();
        let even: Vec<f32> = (0..4096).map(|i| (bits(i) % 4001) as f32 / 500.0 - 4.0).collect();
        for &format in GroupFormat::ALL {
            for mode in [ScaleMode::Floor, ScaleMode::Even, ScaleMode::Tosa] {
                for values in [&wild, &even] {
                    let run = |units: Units| {
                        let mut codes = vec![0; group::row_code_bytes(format, values.len())];
                        let mut scales = vec![0; group::row_scale_bytes(format, values.len())];
                        units.quantize(format, mode, values, [&mut codes, &mut scales]);
                        (codes, scales)
                    };
                    let want = run(Units(Level::Portable));
                    assert!(Units::all().iter().all(|&units| run(units) == want), "{format} {mode:?}");
                }
            }
        }
    }
}
