//! The machine model from outside: what sparsity saves, that sums are sums, and the timeline.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{check_failure, json_in, lacuna_in, relu, save, testdata};

fn profiled(model: &str) -> Value {
    let path = testdata(model).join("model.onnx");
    json(&["profile", path.to_str().unwrap(), "--target", "mtia-500"])
}

/// What a command says as JSON, which must hold.
fn json(args: &[&str]) -> Value {
    let (exit, value) = json_in(Path::new("."), args);
    assert_eq!(exit, 0, "{value}");
    value
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("{field} of {value}"))
}

/// The same network with and without 2:4 zeros in its weights, on a machine that skips them.
#[test]
fn zeros_in_weights_save_cycles() {
    let (dense, sparse) = (profiled("digits-cnn"), profiled("digits-cnn-24"));
    let of = |value: &Value| value["kernels"].as_array().unwrap().clone();
    let (dense_layers, sparse_layers) = (of(&dense), of(&sparse));
    assert_eq!(dense_layers.len(), sparse_layers.len());
    let mut n = 0;
    for (a, b) in dense_layers.iter().zip(&sparse_layers) {
        assert_eq!(a["nodes"], b["nodes"]);
        assert_eq!(number(a, "macs_skipped"), 0, "{a}");
        if a["bound"] == "DPE" {
            n += 1;
            assert!(number(b, "macs_skipped") > 0, "{b}");
            let (dense, sparse) = (number(a, "dpe_cycles"), number(b, "dpe_cycles"));
            assert!(dense as f64 >= 1.7 * sparse as f64, "{dense} and {sparse} cycles: {}", a["nodes"]);
        }
    }
    assert!(n >= 3, "only {n} layers are bound by the DPE");
    // What is skipped in one network is performed in the other.
    assert_eq!(number(&dense, "macs"), number(&sparse, "macs") + number(&sparse, "macs_skipped"));
    assert!(number(&sparse, "cycles") < number(&dense, "cycles"));
}

#[test]
fn totals_are_sums_of_the_layers() {
    let value = profiled("digits-cnn");
    let kernels = value["kernels"].as_array().unwrap();
    let sum = |field: &str| kernels.iter().map(|kernel| number(kernel, field)).sum::<u64>();
    for field in ["hbm_bytes", "sram_bytes", "macs", "macs_skipped"] {
        assert_eq!(number(&value, field), sum(field), "{field}");
    }
    assert_eq!(number(&value, "cycles"), sum("cycles") + number(&value, "launch_cycles"));
    let fraction = value["fraction"].as_f64().unwrap();
    assert!(fraction > 0.0 && fraction <= 1.0, "{fraction}");
    let energy = value["energy_pj"].as_f64().expect("the target has a table of energies");
    let parts: f64 = kernels.iter().filter_map(|kernel| kernel["energy_pj"].as_f64()).sum();
    assert!(
        energy > 0.0 && (energy - parts).abs() <= 1e-9 * energy,
        "{energy} pJ, and {parts} pJ in the layers"
    );
    let actions = value["energy"].as_object().expect("energy by action");
    let parts: f64 = actions.values().filter_map(Value::as_f64).sum();
    assert!((energy - parts).abs() <= 1e-9 * energy, "{energy} pJ, and {parts} pJ by action");
    for action in ["mac", "local", "hbm", "simd", "idle"] {
        assert!(actions[action].as_f64().unwrap() > 0.0, "{action}: {actions:?}");
    }
    let watts = energy / number(&value, "cycles") as f64 * value["clock_ghz"].as_f64().unwrap() / 1e3;
    assert!((value["average_power_w"].as_f64().unwrap() - watts).abs() <= 1e-9 * watts);
    for kernel in kernels {
        assert_eq!(kernel["busy_cycles"]["DPE"], kernel["dpe_cycles"]);
        assert!(!kernel["nodes"].as_array().unwrap().is_empty(), "{kernel}");
    }
    let dpe = value["engines"].as_array().unwrap().iter().find(|e| e["name"] == "DPE").unwrap();
    assert_eq!(number(dpe, "busy_cycles"), sum("dpe_cycles"));
    let expect = sum("dpe_cycles") as f64 / (number(&value, "cycles") * number(&value, "pes")) as f64;
    assert!((dpe["utilisation"].as_f64().unwrap() - expect).abs() < 1e-12);
}

/// A run knows the zeros that the activations have: they gate multiply-accumulates, and change no cycle.
#[test]
fn no_padding_is_counted() {
    let model = testdata("digits-cnn");
    let path = model.join("model.onnx").to_string_lossy().into_owned();
    let explained = json(&["explain", &path]);
    // Ten columns of the last layer, 64 rows of K in the first.
    let macs: u64 = explained["layers"].as_array().unwrap().iter().map(|layer| number(layer, "macs")).sum();
    let counted = |options: &[&str]| {
        let profile = json(&[&["profile", path.as_str()], options].concat());
        assert_eq!(number(&profile, "macs") + number(&profile, "macs_skipped"), macs, "{options:?}");
    };
    counted(&[]);
    counted(&["--precision", "mxfp8"]);
    counted(&["--precision", "mxfp4", "--set", "local_memory=64KiB"]);
    counted(&["--prune", "2:4"]);
}

#[test]
fn a_run_counts_zeros() {
    let path = testdata("digits-cnn").join("model.onnx");
    let profiled = |more: &[&str]| {
        let mut args = vec!["profile", path.to_str().unwrap(), "--target", "mtia-500"];
        args.extend(more);
        json_in(Path::new("."), &args)
    };
    let ((_, blind), (exit, seen)) = (profiled(&[]), profiled(&["--run"]));
    assert_eq!(exit, 0, "{seen}");
    for field in ["cycles", "macs", "macs_skipped", "hbm_bytes"] {
        assert_eq!(blind[field], seen[field], "{field}");
    }
    let part = |value: &Value, action: &str| value["energy"][action].as_f64().unwrap();
    assert_eq!(part(&blind, "gated"), 0.0);
    assert!(part(&seen, "gated") > 0.0 && part(&seen, "mac") < part(&blind, "mac"));
    assert_eq!(profiled(&["--activity", "0.5"]), profiled(&[]));
    assert_eq!(profiled(&["--activity", "1.5"]).0, 2);
}

#[test]
fn object_and_model_cost_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("relu.onnx"), &relu());
    assert_eq!(lacuna_in(at, &["compile", "relu.onnx", "--target", "mtia-500"]).status.code(), Some(0));
    let (_, model) = json_in(at, &["profile", "relu.onnx", "--target", "mtia-500"]);
    let (exit, object) = json_in(at, &["profile", "relu.lac"]);
    assert_eq!((exit, &object), (0, &model));
    for (by, column) in [("layer", "DPE busy"), ("engine", "utilisation")] {
        let output = lacuna_in(at, &["profile", "relu.lac", "--by", by]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(column) && text.contains("bound by latency"), "{text}");
    }

    check_failure(at, &["profile", "relu.lac", "--precision", "mxfp8"], 2, "L0001");
    check_failure(at, &["profile", "relu.lac", "--target", "mtia-2i"], 2, "L0001");
    check_failure(at, &["profile", "relu.lac", "--trace", "relu.lac"], 2, "L0003");
    check_failure(at, &["profile", "relu.lac", "--trace", "missing/trace.json"], 2, "L0003");
}

#[test]
fn the_trace_shows_every_launch() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("relu.onnx"), &relu());
    let (exit, value) = json_in(at, &["profile", "relu.onnx", "--trace", "trace.json"]);
    assert_eq!((exit, &value["trace"]), (0, &"trace.json".into()), "{value}");
    let trace: Value = serde_json::from_slice(&fs::read(at.join("trace.json")).unwrap()).unwrap();
    let bars = |category: &str| {
        let events = trace["traceEvents"].as_array().unwrap().iter();
        events.filter(|e| e["ph"] == "X" && e["cat"] == category).cloned().collect::<Vec<_>>()
    };
    let launches = bars("launch");
    assert_eq!(launches.len(), value["kernels"].as_array().unwrap().len());
    let clock = value["clock_ghz"].as_f64().unwrap();
    for (bar, kernel) in launches.iter().zip(value["kernels"].as_array().unwrap()) {
        assert_eq!(bar["args"]["cycles"], kernel["cycles"]);
        let dur = number(kernel, "cycles") as f64 / clock / 1e3;
        assert!((bar["dur"].as_f64().unwrap() - dur).abs() < 1e-9);
    }
    // Instructions lie inside their launches.
    let instructions = bars("instruction");
    assert!(!instructions.is_empty());
    for bar in instructions {
        let launch = &launches[number(&bar["args"], "launch") as usize];
        assert!(number(&bar["args"], "start_cycle") >= number(&launch["args"], "start_cycle"), "{bar}");
        let end = |bar: &Value| number(&bar["args"], "start_cycle") + number(&bar["args"], "cycles");
        assert!(end(&bar) <= end(launch), "{bar} outside {launch}");
    }
}

/// Every cycle of a launch has a cause, on the longest chain of waits.
#[test]
fn what_is_waited_for_adds_up() {
    for model in ["digits-cnn", "adder-llama", "adder-decode"] {
        let report = profiled(model);
        let sum =
            |spent: &Value| spent.as_object().unwrap().values().map(|n| n.as_f64().unwrap()).sum::<f64>();
        let kernels = report["kernels"].as_array().unwrap();
        for kernel in kernels {
            let (cycles, spent) = (kernel["cycles"].as_f64().unwrap(), sum(&kernel["spent"]));
            // Each cause is rounded for itself.
            assert!((cycles - spent).abs() <= 8.0, "{spent} of {cycles} cycles: {kernel}");
        }
        let (cycles, spent) = (report["cycles"].as_f64().unwrap(), sum(&report["spent"]));
        assert!((cycles - spent).abs() <= 8.0 * kernels.len() as f64, "{spent} of {cycles} cycles");
    }
    // A machine whose memory answers in a cycle waits for it no more.
    let path = testdata("digits-cnn").join("model.onnx");
    let spent = |changes: &[&str]| {
        let (exit, value) =
            json_in(Path::new("."), &[&["profile", path.to_str().unwrap()], changes].concat());
        assert_eq!(exit, 0, "{value}");
        value["spent"]["HBM latency"].as_f64().unwrap_or(0.0)
    };
    assert!(spent(&[]) > 1000.0);
    assert!(spent(&["--set", "hbm_latency=1cycle"]) < 20.0);
}
