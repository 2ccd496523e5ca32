//! Small models with the right outputs beside them, each of which stands for a kind of model: every folder of `testdata/cases` holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders with a model, in the order of their names.
fn folders() -> Vec<PathBuf> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/cases");
    let entries = fs::read_dir(cases).expect("the folder of cases");
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.join("model.onnx").is_file());
    found.sort();
    found
}

/// What `verify` says of a folder with these options if it does not hold.
fn failure(folder: &Path, options: &[&str]) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    let output = command.arg("verify").arg(folder).args(options).output().expect("the binary runs");
    let said = || [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    (!output.status.success()).then(|| format!("{}: {}\n{}", folder.display(), output.status, said()))
}

#[test]
fn every_case_holds() {
    let folders = folders();
    assert!(!folders.is_empty());
    for folder in &folders {
        let sets = fs::read_dir(folder).expect("a folder").filter_map(Result::ok);
        let has_data = sets.map(|e| e.file_name()).any(|n| n.to_string_lossy().starts_with("test_data_set_"));
        assert!(has_data, "{} has no outputs to compare with", folder.display());
    }
    let failures: Vec<String> = folders.iter().filter_map(|f| failure(f, &[])).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What has no kernel in groups stays wider: no case is refused for its format.
#[test]
fn every_case_compiles_in_groups() {
    let options = ["--precision", "mxfp8", "--min-agreement", "0"];
    let failures: Vec<String> = folders().iter().filter_map(|f| failure(f, &options)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
