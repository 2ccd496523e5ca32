//! What deserves attention is said: precisions that do not pay, options without effect, bounds that mean nothing.

use std::fs;
use std::path::Path;

use lacuna_onnx::proto::{AttributeProto, NodeProto};
use serde_json::Value;

use crate::common::{Dim, F32, check_failure, floats, json_in, lacuna_in, model, node, port, save, testdata};

fn warnings(args: &[&str]) -> String {
    let (_, json) = json_in(Path::new("."), args);
    json["warnings"].to_string()
}

fn spelling(name: &str) -> String {
    testdata("../spellings").join(name).to_string_lossy().into_owned()
}

#[test]
fn a_precision_that_does_not_pay_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("m.lac").to_string_lossy().into_owned();
    let lora = spelling("lora");
    let path = format!("{lora}/model.onnx");
    let compiled = |precision| {
        let (_, json) = json_in(Path::new("."), &["compile", &path, "-o", &object, "--precision", precision]);
        (json["warnings"].to_string(), json_in(Path::new("."), &["profile", &object]).1["cycles"].to_string())
    };
    let ((plain, wide), (warned, narrow)) = (compiled("f32"), compiled("mxfp8"));
    assert!(!plain.contains("slower"), "{plain}");
    let expect = format!(
        "mxfp8 makes this model slower than f32 on mtia-300: {narrow} modelled cycles against {wide}"
    );
    assert!(warned.contains(&expect), "{warned}");
    assert!(warnings(&["verify", &lora, "--precision", "mxfp8"]).contains(&expect));
    let digits = testdata("digits-cnn").to_string_lossy().into_owned();
    let said = warnings(&["verify", &digits, "--precision", "mxfp8"]);
    assert!(said.contains("keeps its formats") && !said.contains("slower"), "{said}");
}

/// One node of ONNX may be many products, of which each has its warning.
#[test]
fn equal_warnings_are_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let lstm = testdata("../cases/lstm-bidirectional-lens").to_string_lossy().into_owned();
    let model = format!("{lstm}/model.onnx");
    let kept = "Y keeps its formats: the summed dimension is short (11 times)";
    for args in [["compile", &model, "-o", "m.lac"], ["verify", &lstm, "--min-agreement", "0"]] {
        let args = [&args[..], &["--precision", "mxfp8"]].concat();
        let (_, json) = json_in(folder.path(), &args);
        let said: Vec<&str> = json["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(said.iter().filter(|w| w.contains("keeps its formats")).collect::<Vec<_>>(), [&kept]);
        let errors = lacuna_in(folder.path(), &args).stderr;
        assert_eq!(String::from_utf8_lossy(&errors).matches("keeps its formats").count(), 1);
    }
}

#[test]
fn a_pattern_that_the_target_lacks_is_named() {
    let digits = testdata("digits-cnn").to_string_lossy().into_owned();
    let said = |target, pattern| warnings(&["verify", &digits, "--target", target, "--prune", pattern]);
    assert!(!said("mtia-300", "2:4").contains(" pattern ("));
    assert!(!said("mtia-300", "1:4").contains(" pattern ("));
    let foreign = said("mtia-300", "4:8");
    assert!(foreign.contains("mtia-300 has no 4:8 pattern (it has 2:4)"), "{foreign}");
    let none = said("tpu-v5p", "2:4");
    assert!(none.contains("tpu-v5p has no 2:4 pattern (it has no patterns)"), "{none}");
}

/// Codes with scales per block keep their bits whatever is asked of weights.
#[test]
fn weights_that_a_technique_skips_are_named() {
    let case = testdata("../cases/blocked-int4").to_string_lossy().into_owned();
    let (exit, plain) = json_in(Path::new("."), &["verify", &case]);
    assert!(exit == 0 && !plain["warnings"].to_string().contains("blocks"), "{plain}");
    for options in [&["--prune", "2:4"][..], &["--precision", "mxfp8", "--scale-search"]] {
        let (exit, json) = json_in(Path::new("."), &[&["verify", &case][..], options].concat());
        let said = json["warnings"].to_string();
        assert!(exit == 0 && said.contains("are neither pruned nor rounded"), "{options:?}: {json}");
        assert_eq!(json["weights"], plain["weights"], "{options:?}");
    }
}

/// Agreement of noise says nothing: it is reported, and judged only where it is asked for. In f32 everything is close.
#[test]
fn bounds_are_not_judged_on_noise() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let weights: Vec<f32> = (0..640).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
    let [x, y] = [("x", 64), ("y", 10)].map(|(name, n)| port(name, F32, &[Dim::N(256), Dim::N(n)]));
    let mut product = model(vec![x], vec![node("MatMul", &["x", "w"], "y")], vec![y]);
    product.graph.as_mut().unwrap().initializer.push(floats("w", &[64, 10], &weights));
    save(&at.join("m.onnx"), &product);
    let verify = |options: &[&str]| json_in(at, &[&["verify", "m.onnx"][..], options].concat());
    let agreement = |json: &Value| json["outputs"][0]["top1_agreement"].as_f64().unwrap();
    let (exit, json) = verify(&["--precision", "mxfp8"]);
    assert!(exit == 0 && agreement(&json) < 99.0, "{json}");
    assert_eq!(verify(&["--precision", "mxfp8", "--min-agreement", "99"]).0, 1);
    assert_eq!(verify(&["--precision", "auto", "--min-sqnr", "20"]).0, 0);
    assert_eq!((verify(&[]).0, verify(&["--rtol", "0", "--atol", "0"]).0), (0, 1));
    let text =
        String::from_utf8(lacuna_in(at, &["verify", "m.onnx", "--precision", "mxfp8"]).stdout).unwrap();
    assert!(text.contains("bound: none on random inputs"), "{text}");
}

/// The bytes of weights are those in the object wherever they are shown.
#[test]
fn bytes_of_weights_agree() {
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("m.lac").to_string_lossy().into_owned();
    let sum = |list: &Value, field: &str| -> u64 {
        list.as_array().unwrap().iter().map(|w| w[field].as_u64().unwrap()).sum()
    };
    let precisions = [
        "f32",
        "bf16",
        "mxfp8",
        "mxfp6",
        "mxfp4",
        "mxint8",
        "mx9",
        "mx6",
        "mxfp4:bf16",
        "int4:bf16",
        "int4:f32",
    ];
    // Measuring takes long.
    let explained = [("mxfp8", "none"), ("mxfp8", "4:8"), ("int4:bf16", "none")];
    for name in ["digits-cnn", "digits-cnn-24"] {
        let model = testdata(name).join("model.onnx").to_string_lossy().into_owned();
        let mut others = None;
        for (precision, prune) in
            precisions.iter().flat_map(|p| ["none", "2:4", "4:8", "1:4"].map(|n| (*p, n)))
        {
            let mut options = vec!["--precision", precision];
            if prune != "none" {
                options.extend(["--prune", prune]);
            }
            let json = |command: &[&str]| json_in(Path::new("."), &[command, &options].concat()).1;
            let compiled = json(&["compile", &model, "-o", &object]);
            let all = compiled["weight_bytes"].as_u64().unwrap();
            let weights = sum(&compiled["weights"], "bytes");
            // The rest of the constants, biases and tables, is the same whatever becomes of weights, but for gaps between constants.
            let rest = all.checked_sub(weights).expect("no more than all");
            let first = *others.get_or_insert(rest);
            assert!(
                rest.abs_diff(first) <= 1024,
                "{name} {options:?}: {weights} of {all}, {first} others in f32"
            );
            let info = json_in(Path::new("."), &["info", &object]).1;
            assert_eq!(info["weight_bytes"], all, "{name} {options:?}");
            if name != "digits-cnn" || !explained.contains(&(precision, prune)) {
                continue;
            }
            let explained = json(&["explain", &model]);
            assert_eq!(explained["weights"], compiled["weights"], "{name} {options:?}");
            assert_eq!(sum(&explained["layers"], "weight_bytes"), weights, "{name} {options:?}");
        }
    }
}

/// A technique that some weights do not get is named with them and with the reason; one that none can get is refused.
#[test]
fn techniques_without_effect_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let product = |n: i64| {
        let weights: Vec<f32> = (0..n * 10).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
        let [x, y] = [("x", n), ("y", 10)].map(|(name, n)| port(name, F32, &[Dim::N(64), Dim::N(n)]));
        let mut made = model(vec![x], vec![node("MatMul", &["x", "w"], "y")], vec![y]);
        made.graph.as_mut().unwrap().initializer.push(floats("w", &[n, 10], &weights));
        made
    };
    save(&at.join("whole.onnx"), &product(96));
    save(&at.join("part.onnx"), &product(80));
    let said = |model: &str, options: &[&str]| {
        let (exit, json) = json_in(at, &[&["compile", model, "-o", "m.lac"][..], options].concat());
        assert_eq!(exit, 0, "{json}");
        json["warnings"].to_string()
    };
    let rotated = ["--precision", "mxfp8", "--hadamard"];
    assert!(!said("whole.onnx", &rotated).contains("rotated"));
    let part = said("part.onnx", &rotated);
    assert!(part.contains("/y are not rotated: the summed dimension is no multiple of 32"), "{part}");
    let refused = |options: &[&str], why: &str| {
        let json = check_failure(at, &[&["compile", "whole.onnx"][..], options].concat(), 2, "L0001");
        assert!(json["error"]["message"].as_str().unwrap().contains(why), "{json}");
    };
    refused(&["--precision", "mxfp8:bf16", "--hadamard"], "activations in bf16 have no groups");
    fs::create_dir(at.join("data")).unwrap();
    save(&at.join("data/input_0.pb"), &floats("x", &[64, 96], &[0.5; 64 * 96]));
    let rounding = ["--rounding", "compensated", "--calibrate", "data", "--precision"];
    refused(&[&rounding[..], &["bf16"]].concat(), "weights have no groups");
    refused(&[&rounding[..], &["int4:bf16"]].concat(), "codes of four bits are rounded to nearest");
    // The codes are those of the precision, not of the model.
    let int4 = said("whole.onnx", &["--precision", "int4:bf16", "--prune", "2:4"]);
    assert!(int4.contains("/y are not pruned, and rounded to nearest"), "{int4}");
    assert!(!int4.contains("keep their bits"), "{int4}");
    // Depthwise weights have no dimension to prune along.
    let conv = node("Conv", &["x", "w"], "y");
    let group = AttributeProto { name: "group".into(), i: 8, r#type: 2, ..AttributeProto::default() };
    let conv = NodeProto { attribute: vec![group], ..conv };
    let port = |name, n| port(name, F32, &[Dim::N(1), Dim::N(8), Dim::N(n), Dim::N(n)]);
    let mut made = model(vec![port("x", 8)], vec![conv], vec![port("y", 6)]);
    made.graph.as_mut().unwrap().initializer.push(floats("w", &[8, 1, 3, 3], &[0.25; 72]));
    save(&at.join("depthwise.onnx"), &made);
    let depthwise = said("depthwise.onnx", &["--prune", "2:4"]);
    assert!(depthwise.contains("/y are not pruned: the convolution has groups"), "{depthwise}");
}
