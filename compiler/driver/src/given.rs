//! Tensors that the command line names: one by one, as a folder, or as an archive of NumPy's.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lacuna_ir::Blob;
use lacuna_onnx::Literal;

use crate::codes;
use crate::diagnostics::{Diagnostic, Failed};
use crate::{files, tensors};

/// What one option names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Given {
    /// A tensor by name.
    Tensor {
        /// Name of the input or output.
        name: String,
        /// Its file, `.npy` or `.pb`.
        file: PathBuf,
    },
    /// A folder with `NAME.npy` or `NAME.pb` for each, as `run --output` writes it.
    Folder(PathBuf),
    /// An archive `.npz`.
    Archive(PathBuf),
}

/// A text names no tensors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it must be NAME=FILE, a folder, or a file .npz")]
pub struct ParseGivenError;

impl FromStr for Given {
    type Err = ParseGivenError;

    fn from_str(text: &str) -> Result<Given, ParseGivenError> {
        let path = PathBuf::from(text);
        if path.is_dir() {
            return Ok(Given::Folder(path));
        }
        // Names of ONNX inputs may contain `=`; file names rarely do.
        match text.rsplit_once('=') {
            Some((name, file)) if !name.is_empty() && !file.is_empty() => {
                Ok(Given::Tensor { name: name.to_owned(), file: file.into() })
            }
            _ if text.ends_with(".npz") => Ok(Given::Archive(path)),
            _ => Err(ParseGivenError),
        }
    }
}

/// What the names are of, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    /// Inputs.
    Inputs,
    /// Outputs.
    Outputs,
    /// States.
    States,
}

impl Of {
    /// Titles of errors: a name that is none, and one that is given twice.
    const fn titles(self) -> [&'static str; 2] {
        match self {
            Of::Inputs => ["there is no such input", "an input is given twice"],
            Of::Outputs => ["there is no such output", "an output is given twice"],
            Of::States => ["there is no such state", "a state is given twice"],
        }
    }
}

/// Reads what is given for the inputs, outputs or states of these names, in the order of the names; what has nothing is left out.
///
/// # Errors
/// L0007 for every name that is none and for one that is given twice, and those of reading.
pub fn read(given: &[Given], names: &[String], of: Of) -> Result<Vec<(String, Literal)>, Failed> {
    find(given, names, Some(of))
}

/// As [`read`]; tensors of other names are passed over.
///
/// # Errors
/// As [`read`].
pub fn read_known(given: &[Given], names: &[String]) -> Result<Vec<(String, Literal)>, Failed> {
    find(given, names, None)
}

fn find(given: &[Given], names: &[String], strict: Option<Of>) -> Result<Vec<(String, Literal)>, Failed> {
    let file_names = files::safe_names(names.iter().map(String::as_str));
    let mut found: BTreeMap<usize, Literal> = BTreeMap::new();
    let mut faults = Vec::new();
    for option in given {
        for (name, literal) in option.tensors()? {
            let exact = || names.iter().position(|n| *n == name);
            let file = || file_names.iter().position(|n| *n == name);
            let at = match option {
                Given::Tensor { .. } => exact(),
                // Files have the names that `run --output` gave them, which may be the exact name of another tensor.
                Given::Folder(_) if strict.is_some() => file().or_else(exact),
                Given::Folder(_) | Given::Archive(_) => exact().or_else(file),
            };
            let [none, twice] = strict.unwrap_or(Of::Inputs).titles();
            let fault = |title, name: &str| Diagnostic {
                title,
                ..Diagnostic::new(codes::NO_INPUT, format!("`{name}`"))
            };
            let Some(at) = at else {
                if strict.is_some() {
                    faults.push(fault(none, &name).hint(format!("the names are {}", names.join(", "))));
                }
                continue;
            };
            if found.insert(at, literal).is_some() {
                faults.push(fault(twice, &names[at]));
            }
        }
    }
    if !faults.is_empty() {
        return Err(Failed(faults));
    }
    Ok(found.into_iter().map(|(at, literal)| (names[at].clone(), literal)).collect())
}

impl Given {
    fn tensors(&self) -> Result<Vec<(String, Literal)>, Diagnostic> {
        match self {
            Given::Tensor { name, file } => Ok(vec![(name.clone(), tensors::read(file)?.1)]),
            Given::Folder(folder) => in_folder(folder),
            Given::Archive(file) => in_archive(file),
        }
    }
}

fn in_folder(folder: &Path) -> Result<Vec<(String, Literal)>, Diagnostic> {
    let unreadable = |e: std::io::Error| Diagnostic::new(codes::READ, format!("{}: {e}", folder.display()));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|e| e == "npy" || e == "pb") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        let reason = format!("{}: the folder has no .npy and no .pb", folder.display());
        return Err(Diagnostic::new(codes::TENSOR_FILE, reason));
    }
    let tensor = |path: &PathBuf| {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Ok((name, tensors::read(path)?.1))
    };
    paths.iter().map(tensor).collect()
}

fn in_archive(file: &Path) -> Result<Vec<(String, Literal)>, Diagnostic> {
    let blob = files::read(file)?;
    let at = |reason: String| Diagnostic::new(codes::TENSOR_FILE, format!("{}: {reason}", file.display()));
    let mut archive = zip::ZipArchive::new(Cursor::new(blob.bytes())).map_err(|e| at(e.to_string()))?;
    let mut found = Vec::new();
    for number in 0..archive.len() {
        let mut member = archive.by_index(number).map_err(|e| at(e.to_string()))?;
        let name = member.name().to_owned();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).map_err(|e| at(format!("{name}: {e}")))?;
        let literal = tensors::read_npy(&Blob::new(bytes)).map_err(|e| at(format!("{name}: {e}")))?;
        found.push((name.strip_suffix(".npy").unwrap_or(&name).to_owned(), literal));
    }
    if found.is_empty() { Err(at("the archive is empty".to_owned())) } else { Ok(found) }
}
