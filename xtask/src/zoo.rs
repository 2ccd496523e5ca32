//! The models that are too large for the repository: generated, then verified.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{cargo, status};

/// How to generate and verify.
pub struct Options {
    /// The Python interpreter.
    pub python: String,
    /// Whether to take what is there.
    pub keep: bool,
    /// Target.
    pub target: String,
    /// Number formats of contractions.
    pub precision: String,
}

/// Runs the generators into `target/zoo`, verifies every model there and prints a table.
pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    let folder = root.join("target/zoo");
    if !options.keep {
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        status(Command::new(&options.python).arg(root.join("testdata/generate/zoo.py")).arg(&folder))?;
    }
    let models = models(&folder)?;
    println!(
        "{:<16}{:>8}{:>14}{:>12}{:>12}{:>10}",
        "model", "status", "max abs err", "SQNR dB", "compile s", "run s"
    );
    let mut failed = Vec::new();
    for model in models {
        let name = model.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut verify = cargo();
        verify
            .args([
                "run",
                "--quiet",
                "--release",
                "--package",
                "lacuna",
                "--",
                "verify",
                "--json",
                "--atol",
                "1e-4",
            ])
            .args(["--target", &options.target, "--precision", &options.precision])
            .arg(&model)
            .current_dir(root);
        let output = verify.output().map_err(|e| format!("{verify:?}: {e}"))?;
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let code = output.status.code().map_or_else(|| "signal".to_owned(), |code| code.to_string());
        if !output.status.success() {
            failed.push(format!("{name}: exit status {code}: {}", reason(&json)));
        }
        // The worst output stands for the model.
        let outputs = json["outputs"].as_array().cloned().unwrap_or_default();
        let extreme = |field: &str, pick: fn(f64, f64) -> f64| {
            outputs
                .iter()
                .filter_map(|o| o[field].as_f64())
                .reduce(pick)
                .map_or("-".to_owned(), |v| format!("{v:.3e}"))
        };
        let seconds = |field: &str| json[field].as_f64().map_or("-".to_owned(), |v| format!("{v:.2}"));
        println!(
            "{name:<16}{code:>8}{:>14}{:>12}{:>12}{:>10}",
            extreme("max_abs_err", f64::max),
            extreme("sqnr_db", f64::min),
            seconds("compile_seconds"),
            seconds("run_seconds"),
        );
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

fn reason(json: &Value) -> String {
    let message = json["error"]["message"].as_str().map(str::to_owned);
    let violation = || {
        let outputs = json["outputs"].as_array()?;
        outputs.iter().find_map(|o| o["violation"].as_str()).map(str::to_owned)
    };
    message.or_else(violation).unwrap_or_else(|| "no report".to_owned())
}

fn models(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut models: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.join("model.onnx").is_file()).collect();
    models.sort();
    if models.is_empty() { Err(format!("{} has no models", folder.display())) } else { Ok(models) }
}
