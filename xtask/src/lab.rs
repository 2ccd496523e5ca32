//! Running `lacuna` for pages of measurements.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{cargo, output, status};

/// Stands for options that name the model's own data.
pub const CALIBRATE: &str = "CALIBRATE";

/// The command, built, and where models are.
pub struct Lab {
    root: PathBuf,
    lacuna: PathBuf,
}

impl Lab {
    /// Builds the command.
    pub fn new(root: &Path) -> Result<Lab, String> {
        status(cargo().args(["build", "--quiet", "--release", "--package", "lacuna"]).current_dir(root))?;
        let metadata = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
        let metadata = output(cargo().args(metadata).current_dir(root))?;
        let metadata: Value = serde_json::from_str(&metadata).map_err(|e| e.to_string())?;
        let folder = metadata["target_directory"].as_str().ok_or("no target directory")?;
        Ok(Lab { root: root.to_owned(), lacuna: Path::new(folder).join("release/lacuna") })
    }

    /// The folder of a model of the repository.
    pub fn model(&self, name: &str) -> PathBuf {
        self.root.join("testdata/models").join(name)
    }

    /// The report of a command that may find that outputs differ.
    pub fn report(&self, command: &[&str], model: &Path, options: &[&str]) -> Result<Value, String> {
        let mut run = Command::new(&self.lacuna);
        run.args(command).arg(model);
        for option in options {
            if *option == CALIBRATE {
                run.arg("--calibrate").arg(model);
            } else {
                run.arg(option);
            }
        }
        let found = run.output().map_err(|e| format!("{run:?}: {e}"))?;
        let report: Value = serde_json::from_slice(&found.stdout).map_err(|e| format!("{run:?}: {e}"))?;
        for warning in report["warnings"].as_array().into_iter().flatten() {
            eprintln!(
                "{}: {}",
                model.display(),
                warning.as_str().map_or_else(|| warning.to_string(), str::to_owned)
            );
        }
        match &report["error"]["message"] {
            Value::String(message) => Err(format!("{run:?}: {message}")),
            _ => Ok(report),
        }
    }
}
