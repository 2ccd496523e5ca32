//! One model over many targets, precisions and settings.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::common::{
    Dim, F32, check_failure, json_in, lacuna_in, model, names, node, port, relu, save, testdata,
};

/// Target, precision, pruning and figures of a row.
fn key(row: &Value) -> String {
    row["point"].to_string()
}

#[test]
fn rows_are_what_single_commands_say() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = testdata("digits-cnn").to_string_lossy().into_owned();
    let options = ["--target", "mtia-300,tpu-v5p", "--precision", "f32,mxfp8", "--prune", "2:4"];
    let set = ["--set", "hbm_bandwidth=4..8TB/s:2", "--csv", "rows.csv"];
    let (exit, json) = json_in(at, &[&["sweep", &model], &options[..], &set[..]].concat());
    assert_eq!(exit, 0, "{json}");
    let rows = json["points"].as_array().unwrap();
    assert_eq!(rows.len(), 8);
    let csv = fs::read_to_string(at.join("rows.csv")).unwrap();
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((lines.len(), lines[0][7]), (9, "weight_bytes"));
    for (line, row) in lines[1..].iter().zip(rows) {
        let fields = ["cycles", "microseconds", "fraction", "weight_bytes", "hbm_bytes"];
        for (cell, field) in line[4..].iter().zip(fields) {
            assert_eq!(cell.parse::<f64>().ok(), row["found"][field].as_f64(), "{field}: {csv}");
        }
    }
    assert!(rows.iter().any(|row| row["best"] == true) && rows.iter().any(|row| row["best"] == false));
    let path = format!("{model}/model.onnx");
    for row in rows {
        let point = &row["point"];
        let text = |field: &str| point[field].as_str().unwrap();
        let change = format!("hbm_bandwidth={}", point["changes"][0][1].as_str().unwrap());
        let mut args = vec!["--target", text("target"), "--precision", text("precision"), "--set", &change];
        if text("prune") != "none" {
            args.extend(["--prune", text("prune")]);
        }
        let (_, profile) = json_in(at, &[&["profile", &path][..], &args].concat());
        assert_eq!(profile["cycles"], row["found"]["cycles"], "{point}");
        let verify = [&["verify", &model, "--min-agreement", "0"][..], &args].concat();
        let (_, verified) = json_in(at, &verify);
        assert_eq!(verified["outputs"][0]["sqnr_db"], row["found"]["sqnr_db"], "{point}");
    }
}

#[test]
fn a_sweep_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = testdata("../spellings/convnext").to_string_lossy().into_owned();
    let drawn = |options: &[&str]| {
        let args =
            [&["sweep", &model, "--precision", "f32,mxfp8", "--svg", "plot.svg"][..], options].concat();
        let (exit, json) = json_in(at, &args);
        assert_eq!((exit, json["svg"].as_str()), (0, Some("plot.svg")), "{json}");
        fs::read_to_string(at.join("plot.svg")).unwrap()
    };
    let over = drawn(&["--no-run", "--set", "hbm_bandwidth=2..8TB/s:4"]);
    assert!(over.contains("hbm_bandwidth in TB/s") && over.contains("microseconds"), "{over}");
    // Two lines of four points, each with its name once.
    let count = |text: &str, what: &str| text.matches(what).count();
    assert_eq!(
        (count(&over, "<circle"), count(&over, "\nmxfp8\n"), count(&over, "\nf32\n")),
        (8, 1, 1),
        "{over}"
    );
    let errors = drawn(&["--target", "mtia-300,mtia-500"]);
    assert!(errors.contains("SQNR of the worst output") && errors.contains("mtia-500 mxfp8"), "{errors}");
    assert!(drawn(&["--no-run"]).contains("weights in MiB"));
}

#[test]
fn a_sweep_that_was_stopped_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = testdata("../spellings/convnext").to_string_lossy().into_owned();
    let lists = ["--target", "mtia-300,mtia-500,tpu-v5p", "--precision", "f32,bf16,mxfp8,mxfp4,mxint8"];
    let args = [&["sweep", &model][..], &lists, &["--cache", "known"]].concat();
    let (_, whole) = json_in(at, &[&["sweep", &model][..], &lists].concat());
    for wait in [5, 20, 60] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lacuna"));
        let child = child.current_dir(at).args(&args).stdout(std::process::Stdio::null());
        let mut child = child.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        child.wait().unwrap();
    }
    // A result that is no result is computed again.
    let known = at.join("known");
    if let Some(first) = names(&known).into_iter().find(|name| name.ends_with(".json")) {
        fs::write(known.join(first), "{").unwrap();
    }
    let (exit, resumed) = json_in(at, &args);
    assert_eq!(exit, 0);
    let rows = |json: &Value| json["points"].as_array().unwrap().clone();
    assert_eq!(rows(&resumed), rows(&whole));
    assert_eq!(names(&known).iter().filter(|name| name.ends_with(".json")).count(), rows(&whole).len());
    let (_, again) = json_in(at, &args);
    assert_eq!(
        rows(&again).iter().map(key).collect::<Vec<_>>(),
        rows(&whole).iter().map(key).collect::<Vec<_>>()
    );
}

#[test]
fn mistakes_are_said_once_and_refusals_are_rows() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = testdata("digits-cnn").to_string_lossy().into_owned();
    check_failure(at, &["sweep", &model, "--target", "mtia-300,mtia-9000"], 2, "L0004");
    check_failure(at, &["sweep", &model, "--set", "hbm_bandwith=8TB/s"], 2, "L0021");
    check_failure(at, &["sweep", &model, "--set", "clock=1..2GHz"], 2, "L0001");
    check_failure(at, &["sweep", &model, "--prune", "3:7"], 2, "L0001");
    check_failure(at, &["sweep", "none.onnx"], 2, "L0002");
    fs::write(at.join("text.onnx"), "no model").unwrap();
    check_failure(at, &["sweep", "text.onnx", "--precision", "f32,mxfp8"], 2, "L0101");
    let (exit, json) = json_in(at, &["sweep", &model, "--set", "hbm=1MB,1GB", "--no-run"]);
    assert_eq!((exit, &json["ok"]), (0, &Value::Bool(true)));
    assert!(json["points"][0]["refused"].as_str().unwrap().starts_with("L0402: "), "{json}");
    // Where nothing compiles, nothing was found.
    let (exit, json) = json_in(at, &["sweep", &model, "--set", "hbm=1MB", "--no-run"]);
    assert_eq!((exit, &json["ok"]), (3, &Value::Bool(false)));
    assert!(json["points"][0]["refused"].as_str().unwrap().starts_with("L0402: "), "{json}");
}

/// A size that is left open, or is of no dimension, is wrong for every row.
#[test]
fn sizes_are_wrong_before_anything_is_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let [x, y] = ["x", "y"].map(|name| port(name, F32, &[Dim::Name("batch"), Dim::N(8)]));
    save(&at.join("m.onnx"), &model(vec![x], vec![node("Relu", &["x"], "y")], vec![y]));
    let fails = |options: &[&str], code: &str| {
        let json = check_failure(at, &[&["sweep", "m.onnx"][..], options].concat(), 2, code);
        json["errors"].to_string()
    };
    assert!(fails(&[], "L0108").contains("--dim batch="));
    assert!(fails(&["--dim", "bach=3"], "L0110").contains("bach"));
    assert!(fails(&["--dim", "batch=3", "--dim", "batch=4"], "L0001").contains("more than one value"));
    assert!(fails(&["--dim", "batch=3,3"], "L0001").contains("the value 3 twice"));
    let clocks = ["--dim", "batch=3", "--set", "clock=1GHz", "--set", "clock=2GHz"];
    assert!(fails(&clocks, "L0001").contains("more than one value"));
    let (exit, json) =
        json_in(at, &["sweep", "m.onnx", "--dim", "batch=3,4", "--set", "hbm_bandwidth=2,4TB/s"]);
    assert_eq!((exit, json["points"].as_array().unwrap().len()), (0, 4), "{json}");
    assert_eq!(json["points"][0]["point"]["changes"][0][1], "2TB/s");
}

#[test]
fn outputs_of_one_path_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("m.onnx"), &relu());
    check_failure(at, &["sweep", "m.onnx", "--svg", "out", "--csv", "./out"], 2, "L0003");
    assert!(!at.join("out").exists());
    assert!(lacuna_in(at, &["compile", "m.onnx", "-o", "m.lac"]).status.success());
    check_failure(at, &["run", "m.lac", "--output", "out", "--save-state", "out"], 2, "L0003");
}
