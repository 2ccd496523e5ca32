//! Importing ONNX files, for tests and benchmarks.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use lacuna_ir::{Blob, Module};

/// Files beside a model.
struct Folder(PathBuf);

impl lacuna_onnx::ExternalData for Folder {
    fn read(
        &self,
        location: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Blob, lacuna_onnx::Unreadable> {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = fs::File::open(self.0.join(location))?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(length.unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map(Blob::new).map_err(lacuna_onnx::Unreadable::from)
    }
}

/// The module of a file.
pub fn import(path: &Path) -> Result<Module, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let folder = Folder(path.parent().map(Path::to_owned).unwrap_or_default());
    lacuna_onnx::import(Blob::new(bytes), &folder, &lacuna_onnx::Options::default())
        .map(|imported| imported.module)
        .map_err(|findings| findings.iter().map(|f| f.reason.clone()).collect::<Vec<_>>().join("; "))
}

/// The trained models of the repository.
pub fn trained() -> Vec<PathBuf> {
    models("models")
}

/// Folders with a model in a folder of `testdata`, in the order of their names.
pub fn models(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(folder);
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("model.onnx").is_file())
        .collect();
    found.sort();
    found
}
