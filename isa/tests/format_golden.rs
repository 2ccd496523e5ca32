//! The group rule against vectors that exact rational arithmetic made, bit for bit.

use std::path::PathBuf;

use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode, group, pack};

const FORMATS: [(&str, GroupFormat); 6] = [
    ("e4m3", GroupFormat::MXFP8),
    ("e5m2", GroupFormat::MXFP8_E5M2),
    ("e3m2", GroupFormat::MXFP6_E3M2),
    ("e2m3", GroupFormat::MXFP6),
    ("e2m1", GroupFormat::MXFP4),
    ("int8", GroupFormat::MXINT8),
];
const N_GROUPS: usize = 256;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testdata/mx-golden").join(name)
}

fn npy<T: npyz::Deserialize>(name: &str) -> Vec<T> {
    let bytes = std::fs::read(path(name)).unwrap();
    npyz::NpyFile::new(&bytes[..]).unwrap().into_vec().unwrap()
}

/// Any NaN equals any other; everything else by bits.
fn bits(x: f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
}

#[test]
fn scales_and_elements_of_every_format_and_mode() {
    for (name, fmt) in FORMATS {
        let input: Vec<f32> = npy(&format!("{name}_input_f32.npy"));
        assert_eq!(input.len(), N_GROUPS * 32);
        for mode in ScaleMode::ALL {
            let scales: Vec<u8> = npy(&format!("{name}_{mode}_scale_u8.npy"));
            let codes: Vec<u8> = npy(&format!("{name}_{mode}_elem_u8.npy"));
            for (i, values) in input.chunks_exact(32).enumerate() {
                let mut got = [0xAA; 32];
                let scale = group::quantize_group(fmt, mode, values, &mut got);
                assert_eq!((scale.code, scale.shifts), (scales[i], 0), "{name} {mode} group {i}: scale");
                assert_eq!(got, codes[32 * i..32 * i + 32], "{name} {mode} group {i}: elements");
            }
        }
    }
}

#[test]
fn bulk_rows_agree_with_the_vectors() {
    for (name, fmt) in FORMATS {
        let input: Vec<f32> = npy(&format!("{name}_input_f32.npy"));
        let dequant: Vec<f32> = npy(&format!("{name}_floor_dequant_f32.npy"));
        let codes: Vec<u8> = npy(&format!("{name}_floor_elem_u8.npy"));
        let packed: Vec<u8> =
            if fmt.element.bits() == 8 { codes.clone() } else { npy(&format!("{name}_floor_packed_u8.npy")) };
        let scales: Vec<u8> = npy(&format!("{name}_floor_scale_u8.npy"));
        let row_len = 256;
        let mut got = vec![0xAA; packed.len()];
        let mut got_scales = vec![0xAA; N_GROUPS];
        group::quantize_rows(fmt, ScaleMode::Floor, &input, row_len, &mut got, &mut got_scales);
        assert_eq!(got_scales, scales, "{name}");
        assert_eq!(got, packed, "{name}");
        for (i, &code) in codes.iter().enumerate() {
            assert_eq!(pack::get(&packed, fmt.element, i), u64::from(code), "{name} {i}");
        }

        let mut wide = vec![0.0; input.len()];
        group::dequantize_rows(fmt, &got, &got_scales, row_len, &mut wide);
        for (i, (&got, &want)) in wide.iter().zip(&dequant).enumerate() {
            assert_eq!(bits(got), bits(want), "{name} {i}: {got} is not {want}");
        }
        let tripped = group::round_trip(fmt, ScaleMode::Floor, &input);
        assert!(tripped.iter().zip(&dequant).all(|(&a, &b)| bits(a) == bits(b)), "{name}");
    }
}

#[test]
fn decode_tables() {
    let formats = [
        ("e4m3", ScalarType::E4M3, 1.0),
        ("e5m2", ScalarType::E5M2, 1.0),
        ("e3m2", ScalarType::E3M2, 1.0),
        ("e2m3", ScalarType::E2M3, 1.0),
        ("e2m1", ScalarType::E2M1, 1.0),
        ("int8", ScalarType::I8, 64.0),
        ("e8m0", ScalarType::E8M0, 1.0),
    ];
    for (name, ty, unit) in formats {
        let text = std::fs::read_to_string(path(&format!("decode_{name}.json"))).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let table = json["table"].as_array().unwrap();
        assert_eq!(table.len(), 1 << ty.bits(), "{name}");
        let mut bytes = vec![0; ty.bytes_for(table.len() as u64) as usize];
        for entry in table {
            let code = entry["code"].as_u64().unwrap();
            let hex = entry["f32_bits"].as_str().unwrap().trim_start_matches("0x");
            let want = u32::from_str_radix(hex, 16).unwrap();
            assert_eq!((ty.decode_f32(code as u32) / unit).to_bits(), want, "{name} {code:#x}");
            assert_eq!(
                bits((ty.decode(code) / f64::from(unit)) as f32),
                bits(f32::from_bits(want)),
                "{name} {code:#x}"
            );
            pack::set(&mut bytes, ty, code as usize, code);
        }
        let mut all = vec![0.0; table.len()];
        pack::decode_slice(ty, &bytes, 0, &mut all);
        for (code, value) in all.into_iter().enumerate() {
            assert_eq!(value.to_bits(), ty.decode_f32(code as u32).to_bits(), "{name} {code:#x}");
        }
    }
}
