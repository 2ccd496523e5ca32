//! Options of how weights become narrow or sparse: what they win, and their misuse.

use std::fs;

use lacuna_onnx::proto::{AttributeProto, NodeProto};

use crate::common::{Dim, F32, check_failure, floats, json_in, lacuna_in, model, node, port, save, testdata};

#[test]
fn pruned_weights_run_sparse_and_keep_their_accuracy() {
    let folder = tempfile::tempdir().unwrap();
    let model = testdata("digits-cnn");
    let (model, at) = (model.to_str().unwrap(), folder.path());
    let object = at.join("pruned.lac");
    let object = object.to_str().unwrap();
    let onnx = format!("{model}/model.onnx");
    let output = lacuna_in(at, &["compile", &onnx, "-o", object, "--prune", "2:4"]);
    assert_eq!(output.status.code(), Some(0));
    let text = lacuna_in(at, &["disasm", object]);
    assert_eq!(String::from_utf8_lossy(&text.stdout).matches("mmnm").count(), 4);

    let options = ["--precision", "mxfp8", "--prune", "2:4", "--prune-by", "calibration"];
    let rounding = ["--rounding", "corrected", "--calibrate", model];
    let verify = [&["verify", model][..], &options, &rounding].concat();
    let (exit, report) = json_in(at, &verify);
    assert_eq!((exit, &report["held_out"]), (0, &true.into()), "{report}");
    assert!(report["accuracy"].as_f64().unwrap() > 99.0, "{report}");

    let explain = [&["explain", model][..], &options, &rounding].concat();
    let (_, report) = json_in(at, &explain);
    let weights = report["refined"].as_array().unwrap();
    let pruned = weights.iter().filter(|w| w["density_percent"].as_f64().unwrap() <= 50.0).count();
    assert_eq!((weights.len(), pruned), (5, 4), "{report}");
}

/// What is measured on other data is not split, and data of another batch size is cut to fit.
#[test]
fn calibration_data_may_come_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let model = testdata("digits-cnn");
    let set = folder.path().join("data/test_data_set_0");
    fs::create_dir_all(&set).unwrap();
    fs::copy(model.join("test_data_set_0/input_0.pb"), set.join("input_0.pb")).unwrap();
    let options = ["--precision", "mxfp4", "--rounding", "compensated", "--scale-search"];
    let verify = [&["verify", model.to_str().unwrap(), "--calibrate", "data"][..], &options].concat();
    let (exit, report) = json_in(folder.path(), &verify);
    assert_eq!((exit, &report["held_out"]), (0, &false.into()), "{report}");
    // 13.5 dB is what plain rounding gives.
    assert!(report["outputs"][0]["sqnr_db"].as_f64().unwrap() > 15.5, "{report}");
    fs::remove_file(set.join("input_0.pb")).unwrap();
    check_failure(folder.path(), &verify, 2, "L0012");
}

#[test]
fn options_without_effect_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = testdata("digits-cnn").join("model.onnx");
    fs::copy(&model, at.join("m.onnx")).unwrap();
    assert_eq!(lacuna_in(at, &["compile", "m.onnx"]).status.code(), Some(0));
    let check = |file: &str, options: &[&str], code: &str| {
        check_failure(at, &[&["profile", file], options].concat(), 2, code);
    };
    check("m.lac", &["--prune", "2:4"], "L0001");
    check("m.lac", &["--scale-mode", "even"], "L0001");
    check("m.onnx", &["--prune", "4:4"], "L0001");
    check("m.onnx", &["--prune-by", "calibration"], "L0001");
    check("m.onnx", &["--prune", "2:4", "--prune-by", "calibration"], "L0001");
    check("m.onnx", &["--hadamard"], "L0001");
    check("m.onnx", &["--scale-search", "--precision", "bf16"], "L0001");
    check("m.onnx", &["--precision", "mxfp4", "--rounding", "compensated"], "L0001");
    check("m.onnx", &["--precision", "mxfp4", "--rounding", "up"], "L0001");
    check("m.onnx", &["--precision", "mxfp4", "--calibrate", "."], "L0001");
    check("m.onnx", &["--precision", "mxfp4", "--scale-search", "--calibrate", "."], "L0012");
}

/// Weights alone in groups: no activation is rounded in f32, and each narrowing costs accuracy.
#[test]
fn weights_are_narrowed_alone() {
    let folder = testdata("digits-cnn");
    let verify = |precision: &str| {
        let options = ["verify", ".", "--precision", precision, "--min-agreement", "0"];
        let (exit, json) = json_in(&folder, &options);
        assert_eq!(exit, 0, "{precision}");
        let format = json["weights"][0]["format"].as_str().expect("a format").to_owned();
        (json["outputs"][0]["sqnr_db"].as_f64().expect("a ratio"), format)
    };
    for weights in ["mxfp8", "mxfp4", "mxint8", "mx6"] {
        let [f32s, bf16s, both] = ["f32", "bf16", weights].map(|a| verify(&format!("{weights}:{a}")));
        assert!([&f32s, &bf16s, &both].iter().all(|(_, format)| format == weights));
        assert!(f32s.0 > both.0 && bf16s.0 > both.0, "{weights}: {f32s:?} {bf16s:?} {both:?}");
        let inspect =
            ["inspect", "model.onnx", "--stage", "selected", "--precision", &format!("{weights}:f32")];
        let text = String::from_utf8(lacuna_in(&folder, &inspect).stdout).unwrap();
        assert!(!text.contains("mx_quantize") && text.contains(weights), "{text}");
    }
}

/// Activations in scalar types beside weights in groups: FP8 saturates, f16 has more digits than bf16.
#[test]
fn activations_may_be_scalars() {
    let folder = testdata("digits-cnn");
    let verify = |precision: &str| {
        let options =
            ["verify", ".", "--target", "mtia-500", "--precision", precision, "--min-agreement", "99"];
        let (exit, json) = json_in(&folder, &options);
        assert_eq!(exit, 0, "{precision}: {json}");
        json["outputs"][0]["sqnr_db"].as_f64().expect("a ratio")
    };
    let [f16, bf16, e4m3, e5m2] = ["f16", "bf16", "e4m3", "e5m2"].map(|a| verify(&format!("mxint8:{a}")));
    assert!(f16 > bf16 - 0.5 && bf16 > e4m3 && e4m3 > e5m2, "{f16} {bf16} {e4m3} {e5m2}");
    let inspect = ["inspect", "model.onnx", "--stage", "selected", "--precision", "mxfp8:e4m3"];
    let text = String::from_utf8(lacuna_in(&folder, &inspect).stdout).unwrap();
    assert!(!text.contains("mx_quantize") && text.contains("e4m3["), "{text}");
    check_failure(&folder, &["compile", "model.onnx", "--precision", "mxfp8:i8"], 2, "L0001");
}

/// Codes of four bits with scales per block: the bytes are those of the codes, and nothing else is rounded.
#[test]
fn weights_may_be_codes_of_four_bits() {
    let folder = testdata("digits-cnn");
    let verify = |precision: &str, target: &str| {
        let options = ["verify", ".", "--target", target, "--precision", precision, "--min-agreement", "99"];
        let (exit, json) = json_in(&folder, &options);
        assert_eq!(exit, 0, "{precision}: {json}");
        assert!(!json["warnings"].to_string().contains("wider operands"), "{json}");
        let weights = json["weights"][0].clone();
        (json["outputs"][0]["sqnr_db"].as_f64().expect("a ratio"), weights)
    };
    let (mxfp4, _) = verify("mxfp4:bf16", "mtia-300");
    for (precision, scale_bits) in [("int4:bf16", 16), ("int4:f16", 16), ("int4:f32", 32)] {
        for target in ["mtia-300", "tpu-v5p"] {
            let (db, weights) = verify(precision, target);
            assert!(db > mxfp4 - 1.0, "{precision}: {db}, mxfp4 {mxfp4}");
            assert_eq!(weights["format"], "i4", "{precision}");
            // The 10 columns of the last layer are stored as a panel of 32.
            let stored = weights["elements"].as_f64().unwrap() + 128.0 * 22.0;
            let bits = 8.0 * weights["bytes"].as_f64().unwrap() / stored;
            assert!(bits <= 4.0 + f64::from(scale_bits) / 32.0 + 0.01, "{precision}: {bits} bits");
        }
    }
    let selected = ["inspect", "model.onnx", "--stage", "selected", "--precision", "int4:bf16"];
    let text = String::from_utf8(lacuna_in(&folder, &selected).stdout).unwrap();
    assert!(text.contains("dequantize") && text.contains("bf16["), "{text}");
}

/// Half a group of input channels is worth groups.
#[test]
fn convolutions_of_few_channels_have_groups() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for channels in [15, 16, 24] {
        let port = |name, c| port(name, F32, &[Dim::N(2), Dim::N(c), Dim::N(12), Dim::N(12)]);
        let values: Vec<f32> = (0..8 * channels * 9).map(|i| ((i * 29 % 83) as f32 - 41.0) / 83.0).collect();
        let conv = node("Conv", &["x", "w"], "y");
        let pads =
            AttributeProto { name: "pads".into(), ints: vec![1; 4], r#type: 7, ..AttributeProto::default() };
        let conv = NodeProto { attribute: vec![pads], ..conv };
        let mut made = model(vec![port("x", channels)], vec![conv], vec![port("y", 8)]);
        made.graph.as_mut().unwrap().initializer.push(floats("w", &[8, channels, 3, 3], &values));
        save(&at.join("c.onnx"), &made);
        for precision in ["mxfp8", "mxfp4", "mxint8"] {
            let (exit, json) = json_in(at, &["verify", "c.onnx", "--precision", precision]);
            let kept = json["warnings"].to_string().contains("few input channels");
            assert_eq!((exit, kept), (0, channels < 16), "{channels} {precision}: {json}");
            let db = json["outputs"][0]["sqnr_db"].as_f64().unwrap_or(f64::INFINITY);
            assert!(db > if precision == "mxfp4" { 10.0 } else { 24.0 }, "{channels} {precision}: {db}");
            assert_eq!(json["weights"][0]["format"] == precision, channels >= 16, "{channels}: {json}");
        }
    }
}
