//! Models that quantise themselves: one quantum off is close, and the report names it; what their products share is stored once.

use std::fs;
use std::path::Path;

use lacuna_onnx::proto::{AttributeProto, ModelProto, TensorProto};

use crate::common::{Dim, F32, floats, json_in, lacuna_in, model, node, port, save};

const SCALE: f32 = 0.25;
const U8: i32 = 2;

/// `y = dequantize(quantize(x))`, reshaped, and the codes.
fn quantised() -> ModelProto {
    let dims = [Dim::N(1), Dim::N(4)];
    let nodes = vec![
        node("QuantizeLinear", &["x", "scale", "zero"], "codes"),
        node("DequantizeLinear", &["codes", "scale", "zero"], "values"),
        node("Identity", &["values"], "y"),
        node("Neg", &["x"], "plain"),
    ];
    let outputs = vec![port("y", F32, &dims), port("codes", U8, &dims), port("plain", F32, &dims)];
    let mut made = model(vec![port("x", F32, &dims)], nodes, outputs);
    let constants = &mut made.graph.as_mut().unwrap().initializer;
    constants.push(floats("scale", &[], &[SCALE]));
    constants.push(TensorProto {
        name: "zero".to_owned(),
        data_type: U8,
        int32_data: vec![128],
        ..TensorProto::default()
    });
    made
}

fn npy(path: &Path, descr: &str, bytes: &[u8]) {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1, 4), }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend(bytes);
    fs::write(path, file).unwrap();
}

fn real(path: &Path, values: [f32; 4]) {
    npy(path, "<f4", &values.map(f32::to_le_bytes).concat());
}

#[test]
fn one_quantum_is_close_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("m.onnx"), &quantised());
    let x = [0.3, -1.0, 2.0, 0.6];
    let y = [0.25, -1.0, 2.0, 0.5];
    real(&at.join("x.npy"), x);
    let verify = |output: &str, more: &[&str]| {
        let args = ["verify", "m.onnx", "--input", "x=x.npy", "--expect", output];
        json_in(at, &[&args[..], more].concat())
    };
    // Nothing, one and two quanta off.
    for (steps, exit) in [(0.0, 0), (1.0, 0), (2.0, 1)] {
        real(&at.join("y.npy"), [y[0] + steps * SCALE, y[1], y[2], y[3]]);
        let (status, json) = verify("y=y.npy", &[]);
        assert_eq!(status, exit, "{steps}: {json}");
        let quantum = &json["quanta"][0];
        assert_eq!((&quantum["output"], &quantum["node"]), (&"y".into(), &"/codes".into()), "{json}");
        assert_eq!(
            (&quantum["op"], quantum["step"].as_f64()),
            (&"QuantizeLinear".into(), Some(0.25)),
            "{json}"
        );
    }
    // Whoever says what is close means it.
    real(&at.join("y.npy"), [0.5, -1.0, 2.0, 0.5]);
    assert_eq!(verify("y=y.npy", &["--atol", "0.1"]).0, 1);
    let text = ["verify", "m.onnx", "--input", "x=x.npy", "--expect", "y=y.npy"];
    let text = String::from_utf8(lacuna_in(at, &text).stdout).unwrap();
    assert!(text.contains("y: one quantum of /codes (QuantizeLinear), 0.25"), "{text}");
    // What is not quantised has no quantum, and integers are equal unless a step is allowed.
    real(&at.join("plain.npy"), [-0.3 + SCALE, 1.0, -2.0, -0.6]);
    assert_eq!(verify("plain=plain.npy", &[]).0, 1);
    npy(&at.join("codes.npy"), "|u1", &[130, 124, 136, 130]);
    assert_eq!(verify("codes=codes.npy", &[]).0, 1);
    assert_eq!(verify("codes=codes.npy", &["--atol", "1"]).0, 0);
}

/// Integers of 8 bits or 32.
fn integers(name: &str, data_type: i32, dims: &[i64], values: impl Iterator<Item = i32>) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type,
        int32_data: values.collect(),
        ..TensorProto::default()
    }
}

/// Bytes of constants in the object of a model.
fn weight_bytes(model: &ModelProto) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    save(&folder.path().join("m.onnx"), model);
    let (status, json) = json_in(folder.path(), &["compile", "m.onnx", "-o", "m.lac"]);
    assert_eq!(status, 0, "{json}");
    json["weight_bytes"].as_u64().unwrap()
}

const I8: i32 = 3;
const I32: i32 = 6;

/// The steps of a recurrent layer multiply by the same codes.
#[test]
fn integer_products_share_their_weights() {
    let bytes_of = |steps: usize| {
        let mut nodes = Vec::new();
        for step in 0..steps {
            let (from, codes, sums) = (
                if step == 0 { "x".to_owned() } else { format!("y{}", step - 1) },
                format!("q{step}"),
                format!("s{step}"),
            );
            let quantise = node("QuantizeLinear", &[&from, "scale", "zero"], &codes);
            let y = format!("y{step}");
            nodes.extend([
                quantise,
                node("MatMulInteger", &[&codes, "w", "zero"], &sums),
                node("Cast", &[&sums], &y),
            ]);
            let to = AttributeProto {
                name: "to".to_owned(),
                r#type: 2,
                i: i64::from(F32),
                ..AttributeProto::default()
            };
            nodes.last_mut().unwrap().attribute.push(to);
        }
        let dims = [Dim::N(2), Dim::N(64)];
        let last = format!("y{}", steps - 1);
        let mut made = model(vec![port("x", F32, &dims)], nodes, vec![port(&last, F32, &dims)]);
        let weights = (0..64 * 64).map(|i| i % 251 - 125);
        let constants = &mut made.graph.as_mut().unwrap().initializer;
        constants.push(floats("scale", &[], &[SCALE]));
        constants.push(integers("zero", U8, &[], [128].into_iter()));
        constants.push(integers("w", I8, &[64, 64], weights));
        weight_bytes(&made)
    };
    let once = bytes_of(1);
    assert!(once >= 64 * 64, "{once}");
    assert_eq!(bytes_of(6), once);
}

/// Scales and biases per channel do not grow with the image.
#[test]
fn a_quantised_convolution_stores_its_channels_once() {
    let bytes_of = |side: i64| {
        let x = port("x", U8, &[Dim::N(2), Dim::N(4), Dim::N(side), Dim::N(side)]);
        let y = port("y", U8, &[Dim::N(2), Dim::N(8), Dim::N(side), Dim::N(side)]);
        let operands = ["x", "scale", "zero", "w", "scales", "zeros", "scale", "zero", "bias"];
        let mut made = model(vec![x], vec![node("QLinearConv", &operands, "y")], vec![y]);
        let constants = &mut made.graph.as_mut().unwrap().initializer;
        constants.push(floats("scale", &[], &[SCALE]));
        constants.push(integers("zero", U8, &[], [128].into_iter()));
        constants.push(integers("w", I8, &[8, 4, 1, 1], (0..32).map(|i| i - 16)));
        constants.push(floats("scales", &[8], &[0.5, 0.25, 0.125, 0.3, 0.7, 0.1, 0.2, 0.9]));
        constants.push(integers("zeros", I8, &[8], [0; 8].into_iter()));
        constants.push(integers("bias", I32, &[8], (0..8).map(|i| 100 * i - 300)));
        weight_bytes(&made)
    };
    assert_eq!(bytes_of(64), bytes_of(32));
}
