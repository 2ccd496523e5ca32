//! `--precision auto` and `explain MODEL`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{Dim, F32, check_failure, floats, json_in, lacuna_in, model, node, port, save, testdata};

/// `y = x w`, with weights of `f32[64, n]`.
fn product(n: i64) -> lacuna_onnx::proto::ModelProto {
    let weights: Vec<f32> = (0..64 * n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
    let mut made = model(
        vec![port("x", F32, &[Dim::N(256), Dim::N(64)])],
        vec![node("MatMul", &["x", "w"], "y")],
        vec![port("y", F32, &[Dim::N(256), Dim::N(n)])],
    );
    made.graph.as_mut().expect("a graph").initializer.push(floats("w", &[64, n], &weights));
    made
}

fn floats_of(value: &Value, field: &str) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v[field].as_f64().unwrap_or(f64::INFINITY)).collect()
}

/// A trained model: what was chosen, why, and that the alternatives are worse.
#[test]
fn a_trained_model_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let model = testdata("digits-cnn");
    let path = model.to_str().unwrap();
    let args = ["explain", path, "--precision", "auto", "--max-drop", "0.5", "--svg", "plot.svg"];
    let (status, found) = json_in(folder.path(), &args);
    assert_eq!(status, 0, "{found}");
    // At most half a point is lost, with seven tenths of the weights in four bits.
    assert!(found["four_bit_weights"].as_f64().unwrap() >= 0.7);
    let chosen = &found["selection"]["point"];
    assert!(
        chosen["drop"].as_f64().unwrap() <= 0.5 && chosen["by_labels"] == true && chosen["judged"] == 360
    );
    assert_eq!(found["selection"]["random_inputs"], false);
    assert!(found["selection"]["gap"].as_f64().unwrap() < 0.01);

    let points = found["pareto"].as_array().unwrap();
    // It may be one of the uniform ones.
    assert!(points[0]["name"].as_str().unwrap().starts_with("chosen"));
    let cycles = points[0]["cycles"].as_u64().unwrap();
    for point in points {
        let is_uniform = !point["name"].as_str().unwrap().starts_with("budget");
        let holds = point["drop"].as_f64().unwrap() <= 0.5;
        if is_uniform && holds {
            assert!(cycles <= point["cycles"].as_u64().unwrap(), "{point}");
        }
    }
    // Uniform mxfp8 loses at most a tenth of a point.
    let mxfp8 = points.iter().find(|p| p["name"] == "mxfp8").unwrap();
    assert!(mxfp8["drop"].as_f64().unwrap() <= 0.1);
    // The model ranks choices as the machine model does, where they differ by a tenth.
    let (modelled, machine) =
        (floats_of(&found["pareto"], "modelled_cycles"), floats_of(&found["pareto"], "cycles"));
    for i in 0..points.len() {
        for j in 0..points.len() {
            if modelled[i] * 1.1 < modelled[j] {
                assert!(machine[i] < machine[j], "{} {}", points[i], points[j]);
            }
        }
    }
    let layers = found["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 5);
    for layer in layers {
        let candidates = layer["candidates"].as_array().unwrap();
        let taken: Vec<&Value> = candidates.iter().filter(|c| c["chosen"] == true).collect();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0]["formats"], layer["formats"]);
        assert!(!layer["reason"].as_str().unwrap().is_empty());
        assert!(!layer["kernels"].as_array().unwrap().is_empty());
    }
    assert_eq!(layers[0]["kept"], "the convolution has few input channels");
    let rule = &layers[1]["rules"][0];
    assert_eq!((&rule["rule"], &rule["nodes"][0]), (&"scale-into-conv".into(), &"node_Conv_67".into()));
    // 180 samples cannot tell half a point.
    assert_eq!(chosen["held_out"], false);
    let warnings = found["warnings"].to_string();
    assert!(warnings.contains("half of the samples"), "{warnings}");
    // Every format that the target has was measured.
    assert!(!warnings.contains("no candidate"), "{warnings}");
    let counts = found["rules"].as_array().unwrap();
    let fired = |name: &str| counts.iter().find(|r| r["rule"] == name).unwrap()["fired"].as_u64().unwrap();
    assert!(counts.len() >= 60 && fired("scale-into-conv") > 0 && fired("sub-zero") == 0);
    assert!(found["saturated"] == true && found["proven"].is_boolean());
    let plot = fs::read_to_string(folder.path().join("plot.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("mxfp8"));
}

#[test]
fn a_model_without_data_is_measured_on_random_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("p.onnx"), &product(10));
    let (status, found) = json_in(at, &["compile", "p.onnx", "--precision", "auto", "--min-sqnr", "30"]);
    assert_eq!(status, 0, "{found}");
    assert_eq!(found["selection"]["random_inputs"], true);
    assert!(found["selection"]["point"]["sqnr_db"].as_f64().unwrap_or(f64::INFINITY) >= 30.0);
    assert!(found["warnings"].to_string().contains("random inputs"));
    let first = fs::read(at.join("p.lac")).unwrap();
    let again = lacuna_in(at, &["compile", "p.onnx", "--precision", "auto", "--min-sqnr", "30"]);
    assert!(
        again.status.success() && fs::read(at.join("p.lac")).unwrap() == first,
        "equal input, equal bytes"
    );
    // Without a budget, and nothing to judge accuracy by.
    let (_, found) = json_in(at, &["compile", "p.onnx", "--precision", "auto"]);
    assert_eq!(
        (found["selection"]["budget"].as_str(), found["selection"]["budget_value"].as_f64()),
        (Some("min_sqnr"), Some(20.0))
    );
    // Weights in few bytes.
    let (_, found) = json_in(at, &["compile", "p.onnx", "--precision", "auto", "--max-bytes", "2K"]);
    assert!(found["weight_bytes"].as_u64().unwrap() <= 2048, "{found}");
    // A fixed precision is explained as well.
    let (status, found) = json_in(at, &["explain", "p.onnx", "--precision", "mxfp8"]);
    assert_eq!(
        (status, found["pareto"][0]["name"].as_str().map(|n| n.starts_with("mxfp8"))),
        (0, Some(true)),
        "{found}"
    );
    // No rewrite is used more often than it was found.
    for rule in found["rules"].as_array().unwrap() {
        assert!(rule["used"].as_u64() <= rule["fired"].as_u64(), "{rule}");
    }
    let text = lacuna_in(at, &["explain", "p.onnx", "--precision", "auto"]);
    let text = String::from_utf8(text.stdout).unwrap();
    for part in [
        "layer 1",
        "got: weights ",
        "why: ",
        "kernels: ",
        "rules",
        "gain",
        "->",
        "outcome",
        "budget: ",
        "choices by budget",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// The worst layers come first, and others are left out on request.
#[test]
fn the_worst_layers_come_first() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut chain = product(64);
    let graph = chain.graph.as_mut().unwrap();
    let more: Vec<f32> = (0..64 * 512).map(|i| ((i * 53 % 97) as f32 - 48.0) / 640.0).collect();
    graph.initializer.push(floats("v", &[64, 512], &more));
    graph.node.push(node("MatMul", &["y", "v"], "z"));
    graph.output = vec![port("z", F32, &[Dim::N(256), Dim::N(512)])];
    save(&at.join("c.onnx"), &chain);
    let layers = |options: &[&str]| {
        let (exit, json) =
            json_in(at, &[&["explain", "c.onnx", "--precision", "mxfp4"][..], options].concat());
        assert_eq!(exit, 0, "{json}");
        json["layers"].as_array().unwrap().clone()
    };
    let numbers = |layers: &[Value]| layers.iter().map(|l| l["number"].as_u64().unwrap()).collect::<Vec<_>>();
    let all = layers(&[]);
    assert_eq!(numbers(&all), [1, 2]);
    for key in ["cycles", "bytes", "macs", "noise", "local"] {
        let sorted = layers(&["--sort", key]);
        let of = |l: &Value| match key {
            "cycles" => l["modelled_cycles"].as_f64().unwrap(),
            "bytes" => l["weight_bytes"].as_f64().unwrap(),
            "macs" => l["macs"].as_f64().unwrap(),
            "noise" => -l["output_sqnr_db"].as_f64().unwrap(),
            _ => {
                let own = l["candidates"].as_array().unwrap().iter().find(|c| c["chosen"] == true).unwrap();
                -own["local_sqnr_db"].as_f64().unwrap()
            }
        };
        assert!(of(&sorted[0]) >= of(&sorted[1]), "{key}");
        assert_eq!(layers(&["--sort", key, "--top", "1"])[..], sorted[..1], "{key}");
    }
    let text = lacuna_in(at, &["explain", "c.onnx", "--precision", "mxfp4"]);
    let text = String::from_utf8(text.stdout).unwrap();
    let [worst, first] =
        ["layers whose rounding reaches", "\nlayer 1  ["].map(|part| text.find(part).unwrap());
    assert!(worst < first, "{text}");
    let wide = String::from_utf8(lacuna_in(at, &["explain", "c.onnx", "--top", "1"]).stdout).unwrap();
    assert!(wide.contains("layers that take most cycles") && wide.matches("\nlayer ").count() == 2, "{wide}");
    check_failure(at, &["explain", "L0201", "--sort", "size"], 2, "L0001");
}

/// What a precision makes of a layer is what `explain` says it got, also in formats that no choice would take.
#[test]
fn every_precision_is_explained_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("p.onnx"), &product(64));
    for precision in
        ["mxfp8", "mxfp4:bf16", "mxfp8:e4m3", "mxfp4:f16", "mxfp4:mxfp8", "nvfp4", "mxfp8e5m2", "int4:bf16"]
    {
        let (exit, json) =
            json_in(at, &["explain", "p.onnx", "--target", "mtia-500", "--precision", precision]);
        assert_eq!(exit, 0, "{precision}: {json}");
        let (weights, activations) = precision.split_once(':').unwrap_or((precision, precision));
        let layer = &json["layers"][0];
        let weights = if weights == "int4" { "i4" } else { weights };
        let got = [&layer["weight_format"], &layer["activation_format"]].map(|f| f.as_str().unwrap());
        assert_eq!(got, [weights, activations], "{layer}");
        assert_eq!(json["formats"][0]["formats"], layer["formats"], "{layer}");
        let (_, profile) =
            json_in(at, &["profile", "p.onnx", "--target", "mtia-500", "--precision", precision]);
        assert_eq!(json["pareto"][0]["cycles"], profile["cycles"], "{precision}");
        // One layer's noise is the noise of the output.
        let [own, all] =
            [&layer["output_sqnr_db"], &json["pareto"][0]["sqnr_db"]].map(|f| f.as_f64().unwrap());
        assert!((own - all).abs() < 1.0, "{precision}: {own} and {all}");
    }
}

/// A NumPy file of f32.
fn npy(path: &Path, shape: &str, values: impl Iterator<Item = f32>) {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(values.flat_map(f32::to_le_bytes));
    fs::write(path, bytes).unwrap();
}

#[test]
fn calibration_data_may_be_numpy_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("p.onnx"), &product(10));
    fs::create_dir(at.join("data")).unwrap();
    fs::create_dir(at.join("none")).unwrap();
    fs::create_dir(at.join("other")).unwrap();
    npy(&at.join("data/x.npy"), "(256, 64)", (0..256 * 64).map(|i| ((i * 89 % 257) as f32 - 128.0) / 100.0));
    npy(&at.join("other/x.npy"), "(256, 32)", (0..256 * 32).map(|i| i as f32));
    fs::create_dir(at.join("more")).unwrap();
    npy(&at.join("more/x.npy"), "(600, 64)", (0..600 * 64).map(|i| ((i * 89 % 257) as f32 - 128.0) / 100.0));
    let auto = |data: &'static str| {
        ["compile", "p.onnx", "--precision", "auto", "--max-drop", "2", "--calibrate", data]
    };
    let (status, found) = json_in(at, &auto("data"));
    assert_eq!(status, 0, "{found}");
    assert_eq!(found["selection"]["random_inputs"], false);
    // Each step is said where that is asked for, and nothing is in a pipe otherwise.
    let spoken = lacuna_in(at, &[&auto("data")[..], &["-v"]].concat());
    let steps = String::from_utf8_lossy(&spoken.stderr).into_owned();
    assert!(spoken.status.success() && steps.contains(" forward passes"), "{steps}");
    let plain = lacuna_in(at, &auto("data"));
    assert!(!String::from_utf8_lossy(&plain.stderr).contains("forward passes"));
    let point = &found["selection"]["point"];
    assert!(point["drop"].as_f64().unwrap() <= 2.0 && point["judged"] == 128 && point["by_labels"] == false);
    assert_eq!(point["held_out"], true);
    // Another number of samples is cut into batches, which techniques of weights do as well.
    let (status, found) = json_in(at, &auto("more"));
    assert_eq!((status, &found["selection"]["random_inputs"]), (0, &false.into()), "{found}");
    assert_eq!(found["selection"]["point"]["judged"], 3 * 128, "{found}");
    let explain = ["explain", "p.onnx", "--precision", "mxfp8", "--calibrate", "more"];
    let (status, found) = json_in(at, &explain);
    assert!(status == 0 && !found["warnings"].to_string().contains("random"), "{found}");
    check_failure(at, &auto("none"), 2, "L0012");
    check_failure(at, &auto("missing"), 2, "L0002");
    check_failure(at, &auto("other"), 2, "L0008");
}

#[test]
fn budgets_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("p.onnx"), &product(10));
    save(&at.join("one.onnx"), &product(1));
    let check = |model: &str, args: &[&str], exit, code| {
        check_failure(at, &[&["compile", model][..], args].concat(), exit, code)
    };
    for args in [
        &["--precision", "mxfp8", "--max-drop", "1"][..],
        &["--min-sqnr", "30"],
        &["--precision", "mxfp8", "--calibrate", "."],
        &["--precision", "auto", "--min-sqnr", "30", "--max-drop", "1"],
        &["--precision", "auto", "--max-bytes", "3K", "--max-drop", "1"],
        &["--precision", "auto", "--max-bytes", "3X"],
        &["--precision", "auto", "--min-sqnr", "nan"],
        &["--precision", "auto", "--max-drop", "-1"],
    ] {
        check("p.onnx", args, 2, "L0001");
    }
    let auto = |flag: &'static str, value: &'static str| ["--precision", "auto", flag, value];
    check("p.onnx", &auto("--max-bytes", "100"), 3, "L0019");
    let refused = check("p.onnx", &auto("--max-drop", "0.1"), 2, "L0020");
    assert!(refused["error"]["hint"].as_str().unwrap().contains("--min-sqnr"), "{refused}");
    check("one.onnx", &auto("--max-drop", "1"), 2, "L0020");
}
