//! The models that are too large for the repository: generated, then verified, on one target in one precision or on all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lacuna_isa::target_file::targets;
use regex::Regex;
use serde_json::Value;

use crate::status;
use crate::verify::{self, Outcome};

/// The longest that one model may take on one target.
const LIMIT: Duration = Duration::from_secs(600);

/// Precisions of a sweep.
const PRECISIONS: [&str; 6] = ["f32", "bf16", "mxfp8", "mxfp4", "mxint8", "auto"];

/// The precision in which outputs are held to the reference; in others a run without fault is all that random weights can show.
const EXACT: &str = "f32";

/// Absolute tolerance of outputs in f32.
const ATOL: &str = "1e-4";

/// What a generator writes beside a model whose reference rounds more than f32 does: 16-bit arithmetic, or integers of activations.
const CRITERION: &str = "criterion.json";

/// How to generate and verify.
pub struct Options {
    /// The Python interpreter.
    pub python: String,
    /// Whether to take what is there.
    pub keep: bool,
    /// Folder of the models.
    pub folder: PathBuf,
    /// Only models whose name matches.
    pub filter: Option<String>,
    /// Target.
    pub target: String,
    /// Number formats of contractions.
    pub precision: String,
    /// Every target in every precision instead.
    pub sweep: bool,
}

/// A model on a target in a precision.
struct Job<'a> {
    model: &'a Path,
    target: String,
    precision: String,
}

/// Runs the generators, verifies every model and prints a table, of each model or, in a sweep, of each that fails.
///
/// # Errors
/// When a generator fails, and when a model does not hold.
pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    if !options.keep {
        generate(root, options)?;
    }
    let models = models(&options.folder, options.filter.as_deref())?;
    let binary = verify::binary(root, "release")?;
    let all = |model| {
        let precisions = || PRECISIONS.iter().map(|&p| p.to_owned());
        let job = move |target: &str, precision| Job { model, target: target.to_owned(), precision };
        if options.sweep {
            targets().iter().flat_map(|t| precisions().map(move |p| job(&t.name, p))).collect()
        } else {
            vec![job(&options.target, options.precision.clone())]
        }
    };
    println!(
        "{:<28}{:>10}{:>14}{:>10}{:>11}{:>8}",
        "model", "holds", "max abs err", "SQNR dB", "compile s", "run s"
    );
    let mut failed = Vec::new();
    for model in &models {
        let jobs: Vec<Job<'_>> = all(model);
        let results = verify::for_each(&jobs, |job| verify_one(&binary, job));
        let mut reports = Vec::new();
        let n_failed = failed.len();
        for (job, result) in jobs.iter().zip(results) {
            let (fault, report) = result?;
            reports.push(report);
            failed.extend(fault.map(|f| format!("{} {} {}: {f}", name(model), job.target, job.precision)));
        }
        let holds = jobs.len() - (failed.len() - n_failed);
        println!("{}", row(&name(model), &format!("{holds}/{}", jobs.len()), &reports));
        failed[n_failed..].iter().for_each(|f| println!("    {f}"));
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("{} do not hold\n{}", failed.len(), failed.join("\n")))
    }
}

fn generate(root: &Path, options: &Options) -> Result<(), String> {
    fs::create_dir_all(&options.folder).map_err(|e| format!("{}: {e}", options.folder.display()))?;
    for script in ["zoo.py", "zoo_exports.py"] {
        let script = root.join("testdata/generate").join(script);
        status(Command::new(&options.python).arg(script).arg(&options.folder))?;
    }
    Ok(())
}

/// Verifies one model; what is wrong, if anything, and the report.
fn verify_one(binary: &Path, job: &Job<'_>) -> Result<(Option<String>, Value), String> {
    let mut command = Command::new(binary);
    command.args([
        "--json",
        "--threads",
        "1",
        "verify",
        "--target",
        &job.target,
        "--precision",
        &job.precision,
    ]);
    if job.precision == EXACT {
        command.args(["--atol", ATOL]);
    } else {
        command.args(["--min-agreement", "0"]);
    }
    let (outcome, report) = verify::run(command.arg(job.model), LIMIT)?;
    let fault = match outcome {
        Outcome::Wrong(what) => match criterion(job.model)? {
            Some(least) if worst(&report, "sqnr_db", f64::min).is_some_and(|db| db >= least) => None,
            _ => Some(what),
        },
        Outcome::Refused(reason) | Outcome::BadInput(reason) => {
            Some(format!("{}: {}", reason.code, reason.message))
        }
        other => other.fault(),
    };
    Ok((fault, report))
}

/// Least signal-to-noise ratio in dB that a model's generator asks for, if it asks for one.
fn criterion(model: &Path) -> Result<Option<f64>, String> {
    let path = model.join(CRITERION);
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    json["min_sqnr_db"].as_f64().map(Some).ok_or_else(|| format!("{}: no min_sqnr_db", path.display()))
}

/// The worst output of a report in one figure.
fn worst(report: &Value, field: &str, pick: fn(f64, f64) -> f64) -> Option<f64> {
    report["outputs"].as_array()?.iter().filter_map(|o| o[field].as_f64()).reduce(pick)
}

/// A line of the table: figures of the worst report, times of the slowest.
fn row(name: &str, holds: &str, reports: &[Value]) -> String {
    let over = |figure: &dyn Fn(&Value) -> Option<f64>, pick: fn(f64, f64) -> f64, digits: usize| {
        let found = reports.iter().filter_map(figure).reduce(pick);
        found.map_or(
            "-".to_owned(),
            |v| if digits == 0 { format!("{v:.3e}") } else { format!("{v:.digits$}") },
        )
    };
    let error = over(&|r| worst(r, "max_abs_err", f64::max), f64::max, 0);
    let sqnr = over(&|r| worst(r, "sqnr_db", f64::min), f64::min, 1);
    let compile = over(&|r| r["compile_seconds"].as_f64(), f64::max, 2);
    let run = over(&|r| r["run_seconds"].as_f64(), f64::max, 2);
    format!("{name:<28}{holds:>10}{error:>14}{sqnr:>10}{compile:>11}{run:>8}")
}

fn name(model: &Path) -> String {
    model.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn models(folder: &Path, filter: Option<&str>) -> Result<Vec<PathBuf>, String> {
    let filter = filter.map(Regex::new).transpose().map_err(|e| e.to_string())?;
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let complete = |p: &PathBuf| p.join("model.onnx").is_file() && p.join("test_data_set_0").is_dir();
    let mut models: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| complete(p) && filter.as_ref().is_none_or(|f| f.is_match(&name(p))))
        .collect();
    models.sort();
    if models.is_empty() { Err(format!("{} has no models that match", folder.display())) } else { Ok(models) }
}
