//! Where the suite's cases come from, and what each says about its tolerance.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::status;

/// The release of the package whose cases the expectations are about.
const PACKAGE: &str = "onnx==1.22.0";

/// Tolerances of ONNX's own runner (`onnx/backend/test/loader`), which a case's `data.json` may replace.
const TOLERANCE: (f64, f64) = (1e-3, 1e-7);

/// One case.
pub struct Case {
    /// Group and name, such as `node/test_abs`.
    pub name: String,
    /// Folder with `model.onnx` and `test_data_set_*`.
    pub folder: PathBuf,
    /// Relative and absolute tolerance of floating-point outputs.
    pub tolerance: (f64, f64),
}

/// Downloads the package below `cache` with pip, unless it is there, and returns the folder with the groups of cases.
pub fn fetch(cache: &Path, python: &str) -> Result<PathBuf, String> {
    let folder = cache.join(PACKAGE.replace("==", "-"));
    let data = folder.join("onnx/backend/test/data");
    if data.is_dir() {
        return Ok(data);
    }
    let partial = cache.join(format!("{}.partial", PACKAGE.replace("==", "-")));
    // What an interrupted run left is of no use.
    let _ = fs::remove_dir_all(&partial);
    let wheels = partial.join("wheels");
    fs::create_dir_all(&wheels).map_err(|e| format!("{}: {e}", wheels.display()))?;
    let mut download = Command::new(python);
    download
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"])
        .args(["--no-deps", "--only-binary", ":all:", "--dest"])
        .arg(&wheels)
        .arg(PACKAGE);
    let advice = |e| format!("{e}\ngive a folder with the cases instead: --suite DIR");
    status(&mut download).map_err(advice)?;
    let unreadable = |e| format!("{}: {e}", wheels.display());
    let wheel = fs::read_dir(&wheels).map_err(unreadable)?.next().ok_or("pip downloaded nothing")?;
    let wheel = wheel.map_err(unreadable)?.path();
    status(Command::new(python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&partial)).map_err(advice)?;
    fs::rename(&partial, &folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    if data.is_dir() { Ok(data) } else { Err(format!("{PACKAGE} has no backend/test/data")) }
}

/// Every case below `suite`, by name: folders `GROUP/test_*` with a model.
pub fn cases(suite: &Path) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for group in folders(suite)? {
        for folder in folders(&group)? {
            let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
            let (Some(of), Some(name)) = (name(&group), name(&folder)) else { continue };
            if folder.join("model.onnx").is_file() {
                let tolerance = tolerance(&folder)?;
                cases.push(Case { name: format!("{of}/{name}"), folder, tolerance });
            }
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    if cases.is_empty() {
        Err(format!("{} has no GROUP/test_*/model.onnx", suite.display()))
    } else {
        Ok(cases)
    }
}

fn tolerance(folder: &Path) -> Result<(f64, f64), String> {
    let path = folder.join("data.json");
    if !path.is_file() {
        return Ok(TOLERANCE);
    }
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let given = |key: &str, default: f64| json[key].as_f64().unwrap_or(default);
    Ok((given("rtol", TOLERANCE.0), given("atol", TOLERANCE.1)))
}

fn folders(of: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(of).map_err(|e| format!("{}: {e}", of.display()))?;
    Ok(entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect())
}
