//! Developers' commands: `cargo xtask COMMAND`.

mod accuracy;
mod circles;
mod compare;
mod conformance;
mod docs;
mod functions;
mod guides;
mod lab;
mod layering;
mod performance;
mod sources;
mod style;
mod verify;
mod zoo;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developers' commands")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check that crates depend downwards only.
    Layering,
    /// Write the generated pages of the manual.
    Docs {
        /// Only check that they are up to date.
        #[arg(long)]
        check: bool,
    },
    /// Check what formatter and linter do not: file headers, lengths of files and functions, parameters, machine paths, generic leftovers.
    Style,
    /// Generate the models that are too large for the repository, and verify each.
    Zoo {
        /// A Python with testdata/generate/requirements.txt installed.
        #[arg(long, default_value = "python3")]
        python: String,
        /// Verify what is there already.
        #[arg(long)]
        keep: bool,
        /// Folder of the models; target/zoo unless given.
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
        /// Only models whose name, such as swin-tiny@program20, matches this regular expression.
        #[arg(long, value_name = "RE")]
        filter: Option<String>,
        /// Target.
        #[arg(long, default_value = "mtia-300")]
        target: String,
        /// Number formats of contractions.
        #[arg(long, default_value = "f32")]
        precision: String,
        /// Every target in f32, bf16, mxfp8, mxfp4, mxint8 and auto (takes hours for all models).
        #[arg(long, conflicts_with_all = ["target", "precision"])]
        sweep: bool,
    },
    /// Measure the trained models in every format with every technique, and write docs/accuracy.md (takes minutes).
    Accuracy,
    /// Compare chosen formats with uniform ones at equal error, and write docs/comparison.md (takes minutes).
    Compare {
        /// Folder of the models that are too large for the repository; target/zoo unless given.
        #[arg(long)]
        zoo: Option<PathBuf>,
    },
    /// Time whole models on the machine model, and write docs/performance.md (takes minutes).
    Performance {
        /// A Python with testdata/generate/requirements.txt installed.
        #[arg(long, default_value = "python3")]
        python: String,
        /// Time what is there already.
        #[arg(long)]
        keep: bool,
        /// Folder of the models; target/workloads unless given.
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
    },
    /// Run ONNX's backend test suite, and compare every case's outcome with testdata/onnx/expected.txt.
    Conformance {
        /// Folder with groups of cases; those of a pinned release of the package `onnx`, fetched with pip, unless given.
        #[arg(long, value_name = "DIR")]
        suite: Option<PathBuf>,
        /// Only cases whose name, such as node/test_abs, matches this regular expression.
        #[arg(long, value_name = "RE")]
        filter: Option<String>,
        /// Write what was found to testdata/onnx/expected.txt and docs/conformance.md.
        #[arg(long)]
        renew: bool,
        /// A Python with pip.
        #[arg(long, default_value = "python3")]
        python: String,
    },
    /// Run what CI runs.
    Ci,
}

fn main() -> ExitCode {
    let root = root();
    let result = match Cli::parse().task {
        Task::Layering => layering::check(&root),
        Task::Docs { check } => docs::run(&root, check),
        Task::Style => style::check(&root),
        Task::Zoo { python, keep, folder, filter, target, precision, sweep } => {
            let folder = folder.unwrap_or_else(|| root.join("target/zoo"));
            zoo::run(&root, &zoo::Options { python, keep, folder, filter, target, precision, sweep })
        }
        Task::Accuracy => accuracy::run(&root),
        Task::Performance { python, keep, folder } => {
            let folder = folder.unwrap_or_else(|| root.join("target/workloads"));
            performance::run(&root, &python, &folder, keep)
        }
        Task::Compare { zoo } => compare::run(&root, zoo.as_deref()),
        Task::Conformance { suite, filter, renew, python } => {
            conformance::run(&root, &conformance::Options { suite, filter, renew, python })
        }
        Task::Ci => status(Command::new("bash").arg(root.join(".ci/run")).current_dir(&root)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// The `cargo` that runs this.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command with the terminal's streams.
fn status(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}

/// Standard output of a command that must succeed.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).map_err(|e| format!("{command:?}: {e}"))
}
