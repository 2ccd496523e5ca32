//! Pair shifts: MX9, MX6 and MX4 of arXiv 2302.08007 against the paper's rule in f64, and the laws of the other scale modes.

use lacuna_isa::format::group::{self, GroupScale};
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode, pack};
use proptest::prelude::*;

const FORMATS: [(GroupFormat, i32); 3] =
    [(GroupFormat::MX9, 7), (GroupFormat::MX6, 4), (GroupFormat::MX4, 2)];

/// `floor(log2 |x|)`, exactly.
fn exponent(x: f64) -> i32 {
    let mut e = -150;
    while 2f64.powi(e + 1) <= x.abs() {
        e += 1;
    }
    e
}

/// The paper's rule, value by value: the group's exponent is that of its largest magnitude, a pair is one finer when its own
/// exponent is lower, mantissas have `m` bits and saturate.
fn paper(m: i32, values: &[f32]) -> Vec<f64> {
    let largest = |values: &[f32]| values.iter().fold(0f64, |a, &x| a.max(f64::from(x).abs()));
    let amax = largest(values);
    if amax == 0.0 {
        return values.iter().map(|&x| f64::from(x)).collect();
    }
    let shared = exponent(amax).clamp(-127, 127);
    let mut out = Vec::new();
    for pair in values.chunks(2) {
        let own = largest(pair);
        let shift = i32::from(own > 0.0 && exponent(own) < shared);
        let step = 2f64.powi(shared - shift + 1 - m);
        let limit = 2f64.powi(m) - 1.0;
        for &x in pair {
            let code = (f64::from(x).abs() / step).round_ties_even().min(limit);
            out.push((code * step).copysign(f64::from(x)));
        }
    }
    out
}

fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -8f32..8.0,
        4 => any::<i16>().prop_map(|v| f32::from(v) / 64.0),
        4 => (-40i32..40, -2f32..2.0).prop_map(|(e, x)| x * 2f32.powi(e)),
        4 => any::<u32>().prop_map(|b| f32::from_bits(b & 0xBFFF_FFFF)),
        1 => prop::sample::select(vec![0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-45]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn floor_is_the_papers_rule(values in prop::collection::vec(value(), 1..17)) {
        for (fmt, m) in FORMATS {
            let got = group::round_trip(fmt, ScaleMode::Floor, &values);
            for (i, (&got, want)) in got.iter().zip(paper(m, &values)).enumerate() {
                prop_assert_eq!(f64::from(got).to_bits(), want.to_bits(), "{} element {}: {} is not {}", fmt, i, got, want);
            }
        }
    }

    /// Whatever the mode, a shifted pair would also have been given its finer step as a group of its own.
    #[test]
    fn a_shift_saturates_no_more_than_the_mode(values in prop::collection::vec(value(), 1..17)) {
        for (fmt, _) in FORMATS {
            for mode in ScaleMode::ALL {
                let mut codes = [0; 16];
                let scale = group::quantize_group(fmt, mode, &values, &mut codes);
                for (p, pair) in values.chunks(2).enumerate() {
                    let mut own_codes = [0; 2];
                    let own = group::quantize_group(fmt, mode, pair, &mut own_codes);
                    if scale.shift(2 * p) == 0.5 && scale.code > 1 && own.code == scale.code - 1 {
                        prop_assert_eq!(&codes[2 * p..2 * p + pair.len()], &own_codes[..pair.len()], "{} {}", fmt, mode);
                    }
                    let zeros = pair.iter().all(|&x| x == 0.0);
                    let finer = !zeros && (own.code < scale.code || scale.code == 0 && scale.shift(2 * p) == 0.5);
                    prop_assert_eq!(scale.shift(2 * p) == 0.5, finer, "{} {} pair {}", fmt, mode, p);
                }
            }
        }
    }

    /// What has been quantised once is kept, in every mode but those that round up past it.
    #[test]
    fn a_second_round_trip_changes_nothing(values in prop::collection::vec(value(), 1..17)) {
        for (fmt, _) in FORMATS {
            let once = group::round_trip(fmt, ScaleMode::Floor, &values);
            let twice = group::round_trip(fmt, ScaleMode::Floor, &once);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&once), bits(&twice), "{}", fmt);
        }
    }
}

#[test]
fn entries_and_codes_by_hand() {
    let check = |fmt, mode, values: &[f32], scale: (u8, u8), want: &[u8]| {
        let mut codes = vec![0xAA; values.len()];
        let got = group::quantize_group(fmt, mode, values, &mut codes);
        assert_eq!((got.code, got.shifts), scale, "{fmt} {mode} {values:?}: scale and shifts");
        assert_eq!(codes, want, "{fmt} {mode} {values:?}: codes");
    };
    let (mx9, mx6, mx4) = (GroupFormat::MX9, GroupFormat::MX6, GroupFormat::MX4);
    let floor = ScaleMode::Floor;
    // 1.0 is 8 eighths; the second pair counts in sixteenths.
    check(mx6, floor, &[1.0, -1.5, 0.5, 0.25], (127, 0b10), &[8, 16 + 12, 8, 4]);
    check(mx9, floor, &[3.0, -0.0, 0.0, 0.0], (128, 0), &[96, 128, 0, 0]);
    check(mx4, floor, &[6.0, 4.0, 3.0, 2.0], (129, 0b10), &[3, 2, 3, 2]);
    // 1.97 rounds to 16 eighths: floor saturates, tosa takes the next scale, and its shift brings the rest back.
    check(mx6, floor, &[1.97, 0.0, 1.0, 0.0], (127, 0), &[15, 0, 8, 0]);
    check(mx6, ScaleMode::Tosa, &[1.97, 0.0, 1.0, 0.0], (128, 0b10), &[8, 0, 8, 0]);
    check(mx9, floor, &[f32::INFINITY, 1.0], (255, 0), &[0, 0]);
    check(mx9, floor, &[1.0, 1.0, f32::NAN], (255, 0), &[0, 0, 0]);
    check(mx9, floor, &[-0.0, 0.0, 0.0, -0.0], (0, 0), &[128, 0, 0, 128]);
    // Below 2^-127 the scale is at its end and the shift still counts.
    check(mx9, floor, &[2f32.powi(-127), 0.0, 2f32.powi(-130)], (0, 0b10), &[64, 0, 16]);
    check(mx6, floor, &[f32::MAX, 1.0], (254, 0), &[15, 0]);
}

#[test]
fn bits_per_element_are_the_papers() {
    for (fmt, bits) in [(GroupFormat::MX9, 9), (GroupFormat::MX6, 6), (GroupFormat::MX4, 4)] {
        let bytes = group::row_code_bytes(fmt, 1024) + group::row_scale_bytes(fmt, 1024);
        assert_eq!(bytes * 8, bits * 1024, "{fmt}");
    }
}

#[test]
fn rows_hold_scale_and_shifts_side_by_side() {
    let fmt = GroupFormat::MX6;
    let values: Vec<f32> = (0..40).map(|i| (i - 20) as f32 / 7.0).collect();
    let mut codes = vec![0xAA; group::row_code_bytes(fmt, 20) * 2];
    let mut plane = vec![0xAA; group::row_scale_bytes(fmt, 20) * 2];
    group::quantize_rows(fmt, ScaleMode::Even, &values, 20, &mut codes, &mut plane);
    assert_eq!((codes.len(), plane.len()), (2 * 20, 2 * 4), "rows are padded to whole groups");
    for (r, row) in values.chunks(20).enumerate() {
        for (g, group) in row.chunks(16).enumerate() {
            let mut want = [0; 16];
            let scale = group::quantize_group(fmt, ScaleMode::Even, group, &mut want);
            assert_eq!(GroupScale::read(fmt, &plane, 2 * r + g), scale);
            assert_eq!(plane[4 * r + 2 * g..4 * r + 2 * g + 2], [scale.code, scale.shifts]);
            for (i, &code) in want.iter().enumerate() {
                let got = pack::get(&codes[20 * r..], ScalarType::Sm5, 16 * g + i);
                assert_eq!(got, u64::from(code), "row {r} group {g} element {i}");
            }
        }
    }
    let mut wide = vec![0.0; 40];
    group::dequantize_rows(fmt, &codes, &plane, 20, &mut wide);
    let rows = values.chunks(20).flat_map(|row| group::round_trip(fmt, ScaleMode::Even, row));
    assert!(wide.iter().zip(rows).all(|(a, b)| a.to_bits() == b.to_bits()));
}
