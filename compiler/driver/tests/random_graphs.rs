//! Random ONNX graphs with stored references, of all operators and element types: every one holds on instruction streams.
//!
//! `testdata/generate/random_graphs.py` makes them, and says what their references and tolerances are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use tempfile::TempDir;

/// How many graphs the archive has.
const N_GRAPHS: usize = 300;

/// Each graph runs on one of these, in rotation: two groups of formats, and another grid and memory.
const TARGETS: [&str; 3] = ["mtia-300", "mtia-400", "tpu7x"];

/// The archive's folders, unpacked; each is in the ONNX test layout.
fn unpack() -> (TempDir, Vec<PathBuf>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/random/graphs.zip");
    let file = fs::File::open(path).expect("the archive of graphs");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut archive = zip::ZipArchive::new(file).expect("a zip archive");
    archive.extract(folder.path()).expect("room for the graphs");
    let entries = fs::read_dir(folder.path()).expect("the folder of graphs");
    let mut graphs: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    graphs.sort();
    (folder, graphs)
}

/// What `verify` says of graph number `i` if it does not hold within its tolerance.
fn failure(i: usize, graph: &Path) -> Option<String> {
    let target = TARGETS[i % TARGETS.len()];
    let tolerance = fs::read_to_string(graph.join("tolerance")).expect("the graph's tolerance");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command.args(["verify", "--threads", "1", "--target", target]).args(tolerance.split_whitespace());
    let output = command.arg(graph).output().expect("the binary runs");
    let said = || [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    let name = graph.file_name().unwrap_or_default().to_string_lossy();
    (!output.status.success()).then(|| format!("{name} on {target}: {}\n{}", output.status, said()))
}

#[test]
fn every_graph_holds() {
    let (_folder, graphs) = unpack();
    assert_eq!(graphs.len(), N_GRAPHS);
    let numbered: Vec<(usize, &PathBuf)> = graphs.iter().enumerate().collect();
    let n_threads = thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = thread::scope(|scope| {
        let share = |part: usize| {
            let mine = numbered.iter().skip(part).step_by(n_threads);
            mine.filter_map(|&(i, graph)| failure(i, graph)).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..n_threads).map(|part| scope.spawn(move || share(part))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(failures.is_empty(), "{} graphs fail:\n{}", failures.len(), failures.join("\n"));
}

/// A reference of which one bit differs does not hold, whatever the element type.
#[test]
fn a_wrong_reference_fails() {
    let (_folder, graphs) = unpack();
    let exact = |graph: &&PathBuf| {
        fs::read_to_string(graph.join("tolerance")).is_ok_and(|tolerance| tolerance == "--atol 0 --rtol 0")
    };
    for graph in graphs.iter().filter(exact).take(20) {
        let reference = graph.join("test_data_set_0/output_0.pb");
        let mut bytes = fs::read(&reference).expect("a reference");
        // The elements are a message's last field: this is their last byte, of a sign or of the highest bits.
        *bytes.last_mut().expect("a message") ^= 1;
        fs::write(&reference, bytes).expect("a file of ours");
        assert!(failure(0, graph).is_some(), "{}: the changed reference is not noticed", graph.display());
    }
}
