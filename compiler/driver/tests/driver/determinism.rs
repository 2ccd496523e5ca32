//! Equal input gives equal bytes: in one process, in many, and with any number of threads.

use std::fs;
use std::path::Path;
use std::process::Command;

use lacuna_driver::files::{self, ModelFolder};
use lacuna_driver::pipeline::{Request, Watch, compile};
use lacuna_driver::progress::{Loudness, Progress};
use lacuna_driver::selection::SelectionRequest;
use lacuna_onnx::proto::ModelProto;
use lacuna_optimize::Budget;

use crate::common::{Dim, F32, floats, model, node, port, save};

/// Runs of one process.
const N_RUNS: usize = 20;

/// Two products with a ReLU between them, of which one output is a view.
fn network() -> ModelProto {
    let weights = |seed: i64, n: i64| -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + i * i % seed) % 101) as f32 / 64.0 - 0.75).collect()
    };
    let mut made = model(
        vec![port("x", F32, &[Dim::N(64), Dim::N(64)])],
        vec![
            node("MatMul", &["x", "w"], "h"),
            node("Relu", &["h"], "r"),
            node("MatMul", &["r", "v"], "y"),
            node("Transpose", &["r"], "z"),
        ],
        vec![port("y", F32, &[Dim::N(64), Dim::N(10)]), port("z", F32, &[Dim::N(96), Dim::N(64)])],
    );
    let graph = made.graph.as_mut().expect("a graph");
    graph.initializer.push(floats("w", &[64, 96], &weights(89, 64 * 96)));
    graph.initializer.push(floats("v", &[96, 10], &weights(83, 96 * 10)));
    made
}

/// The bytes of the object that a process of its own writes.
fn compiled(at: &Path, options: &[&str], threads: &str) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command.current_dir(at).args(["compile", "n.onnx", "-o", "n.lac"]).args(options);
    let output = command.env("RAYON_NUM_THREADS", threads).output().expect("the binary runs");
    assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
    fs::read(at.join("n.lac")).expect("an object")
}

#[test]
fn threads_and_processes_do_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(&at.join("n.onnx"), &network());
    let auto = ["--precision", "auto", "--min-sqnr", "25"];
    for options in [&["--precision", "f32"][..], &["--precision", "mxfp4:mxfp8", "--scale-search"], &auto] {
        let first = compiled(at, options, "1");
        for threads in ["1", "2", "2"] {
            assert!(compiled(at, options, threads) == first, "{options:?} with {threads} threads");
        }
    }
}

#[test]
fn twenty_runs_of_one_process_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n.onnx");
    save(&path, &network());
    let target = lacuna_isa::target_file::target("mtia-300").expect("the default target");
    let blob = files::read(&path).expect("a model");
    for (precision, budget) in [("bf16", None), ("mxfp8", None), ("auto", Some(Budget::MinSqnr(25.0)))] {
        let run = |threads| {
            let selection = SelectionRequest { budget, threads, ..SelectionRequest::default() };
            let folder = ModelFolder::of(&path).expect("a folder");
            let precision = precision.parse().expect("a precision");
            let request =
                Request { precision, selection, ..Request::new(&path, blob.clone(), &folder, &target) };
            let progress = Progress::new(Loudness::Silent);
            let done = compile(&request, &mut Watch { progress: &progress, dump: None });
            let Ok(done) = done else { panic!("{precision}: it compiles") };
            done.object.write().expect("an object file")
        };
        let first = run(1);
        for i in 1..N_RUNS {
            assert!(run(1 + i % 2) == first, "{precision}: run {i}");
        }
    }
}
