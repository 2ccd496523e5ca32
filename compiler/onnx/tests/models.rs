//! Real models of the repository: imported, evaluated in f64 and compared with their reference outputs.

mod common;

use std::path::{Path, PathBuf};

use common::{Outcome, check_folder};

/// Folders with a `model.onnx` below `root`.
fn models(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
    let mut found: Vec<PathBuf> =
        entries.map(|e| e.unwrap().path()).filter(|p| p.join("model.onnx").is_file()).collect();
    found.sort();
    found
}

#[test]
fn repository_models_give_their_reference_outputs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models");
    let found = models(&root);
    assert!(!found.is_empty(), "{} holds no models", root.display());
    for folder in found {
        let outcome = check_folder(&folder, 1e-3);
        assert!(matches!(outcome, Outcome::Same(_)), "{}: {outcome:?}", folder.display());
    }
}

/// Folders of models and data in the ONNX layout that `LACUNA_MODELS` names, separated by colons.
#[test]
#[ignore = "needs LACUNA_MODELS"]
fn other_models_give_their_reference_outputs() {
    let roots = std::env::var("LACUNA_MODELS").expect("LACUNA_MODELS names folders of models");
    let (mut n_same, mut refused, mut failed) = (0, Vec::new(), Vec::new());
    for folder in roots.split(':').flat_map(|root| models(Path::new(root))) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match check_folder(&folder, 1e-3) {
            Outcome::Same(worst) => {
                n_same += 1;
                println!("{name}: same, worst {worst:.1e}");
            }
            Outcome::Refused(found) => {
                let reasons: Vec<String> = found.iter().map(|d| format!("{} {}", d.code, d.reason)).collect();
                refused.push(format!("{name}: {}", reasons.join("; ")));
            }
            Outcome::Differs(how) => failed.push(format!("{name}: {how}")),
        }
    }
    println!("refused:\n{}\nfailed:\n{}", refused.join("\n"), failed.join("\n"));
    println!("{n_same} same, {} refused, {} failed", refused.len(), failed.len());
    assert!(failed.is_empty() && n_same > 0);
}
