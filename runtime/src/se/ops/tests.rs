//! Every operation on every vector unit of the host gives the bits of the portable one.

use lacuna_isa::field::Field;
use lacuna_isa::format::ScalarType;
use lacuna_isa::program::{Lane, Reg, SeBinary, SeOp, SeReduce, SeUnary};

use super::*;
use crate::simd::Units;

const LANES: [Lane; 4] = [Lane::F32, Lane::F64, Lane::I32, Lane::I64];
/// No multiple of a vector's width.
const N: usize = 251;

/// Operands: random bits, numbers of moderate size, and the corners of every lane type.
fn fill(lanes: &mut Lanes) {
    let mut state = 7u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state ^ state >> 29
    };
    let corners = [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-45, -1e-310, 3e38];
    for reg in 0..3 {
        for i in 0..N {
            let bits = random();
            let moderate = (bits % 4096) as f64 / 128.0 - 16.0;
            let value = if i % 3 == 1 { moderate } else { corners[(bits % 10) as usize] };
            let integer = [0, 1, -1, i64::MIN, i64::MAX, i64::from(i32::MIN), 31, 64][(bits % 8) as usize];
            let (r32, r64) = match (i % 3, i % 2) {
                (0, _) => (bits as u32, bits),
                (_, 0) => (integer as u32, integer as u64),
                (_, _) => ((value as f32).to_bits(), value.to_bits()),
            };
            lanes.reg32_mut(Reg(reg))[i] = r32;
            lanes.reg64_mut(Reg(reg))[i] = r64;
        }
    }
}

fn unary() -> impl Iterator<Item = SeUnary> {
    (0..=SeUnary::NormCdf as u32).filter_map(SeUnary::from_bits)
}

fn binary() -> impl Iterator<Item = SeBinary> {
    (0..=SeBinary::Le as u32).filter_map(SeBinary::from_bits)
}

fn operations() -> Vec<SeOp> {
    let (dst, a, b, c) = (Reg(3), Reg(0), Reg(1), Reg(2));
    let mut ops = Vec::new();
    for lane in LANES {
        ops.extend(unary().filter(|f| lane.is_float() || !f.is_float_only()).map(|f| SeOp::Unary {
            f,
            lane,
            dst,
            a,
        }));
        ops.extend(binary().map(|f| SeOp::Binary { f, lane, dst, a, b }));
        ops.push(SeOp::Select { lane, dst, c, a, b });
        ops.extend(LANES.map(|to| SeOp::Convert { from: lane, to, dst, a }));
        if lane.is_float() {
            ops.push(SeOp::Fma { lane, dst, a, b, c });
            for ty in ScalarType::ALL.iter().filter(|ty| ty.is_float()) {
                ops.extend([false, true].map(|saturate| SeOp::RoundTo {
                    format: *ty as u8,
                    saturate,
                    lane,
                    dst,
                    a,
                }));
            }
        }
    }
    ops
}

/// A lane's bits, all NaNs alike: a store makes one NaN of them.
fn canonical32(bits: u32) -> u32 {
    if f32::from_bits(bits).is_nan() { f32::NAN.to_bits() } else { bits }
}

fn canonical64(bits: u64) -> u64 {
    if f64::from_bits(bits).is_nan() { f64::NAN.to_bits() } else { bits }
}

#[test]
fn every_operation_on_every_unit() {
    let step = Step { n: N, index: 0, along_sequence: false };
    for op in operations() {
        let results: Vec<_> = Units::all()
            .iter()
            .map(|units| {
                let mut lanes = Lanes::default();
                fill(&mut lanes);
                units.run_op(&op, &[], &mut lanes, step);
                (lanes.reg32(Reg(3))[..N].to_vec(), lanes.reg64(Reg(3))[..N].to_vec())
            })
            .collect();
        for (units, (r32, r64)) in Units::all().iter().zip(&results) {
            for i in 0..N {
                assert_eq!(canonical32(r32[i]), canonical32(results[0].0[i]), "{units:?} {op:?} lane {i}");
                assert_eq!(canonical64(r64[i]), canonical64(results[0].1[i]), "{units:?} {op:?} lane {i}");
            }
        }
    }
}

#[test]
fn every_reduction_on_every_unit() {
    for lane in LANES {
        for f in [SeReduce::Sum, SeReduce::Prod, SeReduce::Max, SeReduce::Min] {
            for along_sequence in [false, true] {
                let results: Vec<_> = Units::all()
                    .iter()
                    .map(|units| {
                        let mut lanes = Lanes::default();
                        fill(&mut lanes);
                        lanes.prepare(&[(1, f, lane)]);
                        lanes.reset_accumulators(&[(1, f, lane)], N);
                        for (i, a) in [Reg(0), Reg(1), Reg(2)].into_iter().enumerate() {
                            let index = if along_sequence { i * N } else { i } as u64;
                            let step = Step { n: N, index, along_sequence };
                            units.run_op(&SeOp::Accumulate { f, lane, acc: 1, a }, &[], &mut lanes, step);
                        }
                        let n = if along_sequence { 1 } else { N };
                        let step = Step { n, index: 0, along_sequence: false };
                        units.run_op(&SeOp::Tree { f, lane, dst: Reg(3), acc: 1 }, &[], &mut lanes, step);
                        let (r32, r64) = (lanes.reg32(Reg(3)), lanes.reg64(Reg(3)));
                        let r32: Vec<u32> = r32[..n].iter().map(|&bits| canonical32(bits)).collect();
                        let r64: Vec<u64> = r64[..n].iter().map(|&bits| canonical64(bits)).collect();
                        (r32, r64)
                    })
                    .collect();
                for (units, result) in Units::all().iter().zip(&results) {
                    assert!(
                        *result == results[0],
                        "{units:?} {lane:?} {f:?}, along the sequence: {along_sequence}"
                    );
                }
            }
        }
    }
}
