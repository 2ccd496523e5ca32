//! All file access: reading by memory map, data files confined to the model's folder, writing all or nothing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{IsTerminal, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use lacuna_isa::Blob;
use lacuna_onnx::{ExternalData, Unreadable};
use memmap2::Mmap;

use crate::codes;
use crate::diagnostics::Diagnostic;
use crate::interrupt;

/// Files below this size are read instead of mapped.
const MIN_MAPPED_BYTES: u64 = 1 << 16;

/// What this process has read, by canonical path: models, their data files, tensors. None of them may become an output.
static INPUTS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// What standard input held, once it has been read: a command may look at its input more than once.
static STANDARD_INPUT: OnceLock<Result<Blob, Unreadable>> = OnceLock::new();

/// Whether a path is `-`, which stands for standard input or standard output.
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn standard_input() -> Result<Blob, Unreadable> {
    let read = || {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes)?;
        Ok(Blob::new(bytes))
    };
    STANDARD_INPUT.get_or_init(read).clone()
}

/// The bytes of a file, memory-mapped when it is large; `-` is standard input.
///
/// # Errors
/// L0002.
pub fn read(path: &Path) -> Result<Blob, Diagnostic> {
    if is_standard(path) {
        return standard_input().map_err(|e| Diagnostic::new(codes::READ, format!("standard input: {e}")));
    }
    read_bytes(path).map_err(|e| Diagnostic::new(codes::READ, format!("{}: {e}", path.display())))
}

fn read_bytes(path: &Path) -> Result<Blob, Unreadable> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(Unreadable::File("it is a folder".to_owned()));
    }
    // Opening a pipe waits for its writer, and a device may never end.
    if !metadata.is_file() {
        return Err(Unreadable::File("it is not a regular file".to_owned()));
    }
    let file = File::open(path)?;
    if let Ok(path) = path.canonicalize() {
        INPUTS.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
    }
    if metadata.len() < MIN_MAPPED_BYTES {
        return Ok(Blob::new(fs::read(path)?));
    }
    Ok(Blob::new(map(&file)?))
}

#[expect(unsafe_code, reason = "mapping a file is unsafe because another process may change it")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read only and private to this process. Its bytes are read as plain integers, of which every bit
    // pattern is valid, and are checked wherever they are used; Lacuna itself replaces files by renaming and never
    // writes into one in place. A foreign process that truncates the file ends this process by a signal.
    unsafe { Mmap::map(file) }
}

/// The folder of a model, beyond which its external data may not reach.
pub struct ModelFolder {
    root: PathBuf,
}

impl ModelFolder {
    /// The folder that `model` is in.
    ///
    /// # Errors
    /// L0002.
    pub fn of(model: &Path) -> Result<ModelFolder, Diagnostic> {
        let parent = match model.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let root = parent
            .canonicalize()
            .map_err(|e| Diagnostic::new(codes::READ, format!("{}: {e}", parent.display())))?;
        Ok(ModelFolder { root })
    }

    /// Keeps a data file that a model names from becoming an output, whether or not anything reads it.
    pub fn keep(&self, location: &str) {
        if let Ok(path) = self.resolve(location) {
            INPUTS.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
        }
    }

    fn resolve(&self, location: &str) -> Result<PathBuf, Unreadable> {
        let relative = Path::new(location);
        // A backslash or a drive letter is a path on another system: it must not mean something else here.
        let plain = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if location.is_empty() || !plain || location.contains(['\\', '\0']) || location.get(1..2) == Some(":")
        {
            return Err(Unreadable::Outside("the path is absolute or leads"));
        }
        let path = self.root.join(relative).canonicalize()?;
        if !path.starts_with(&self.root) {
            return Err(Unreadable::Outside("a link leads"));
        }
        Ok(path)
    }
}

impl ExternalData for ModelFolder {
    fn read(&self, location: &str, offset: u64, length: Option<u64>) -> Result<Blob, Unreadable> {
        let blob = read_bytes(&self.resolve(location)?)?;
        let size = blob.bytes().len() as u64;
        let length = length.unwrap_or(size.saturating_sub(offset));
        let part = usize::try_from(offset).ok().zip(usize::try_from(length).ok());
        part.and_then(|(offset, length)| blob.slice(offset, length)).ok_or(Unreadable::Short {
            size,
            length,
            offset,
        })
    }
}

/// Writes a file all or nothing: to another name in the same folder, then renamed.
///
/// # Errors
/// L0003.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Diagnostic> {
    let fail = |e: &dyn std::fmt::Display| Diagnostic::new(codes::WRITE, format!("{}: {e}", path.display()));
    if path.is_dir() {
        return Err(fail(&"it is a folder"));
    }
    keep_inputs(path)?;
    // Devices and pipes cannot be replaced; they are written to as they are.
    if path.exists() && !path.is_file() {
        return fs::write(path, bytes).map_err(|e| fail(&e));
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".lacuna-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The umask is applied; without this the file would be private to its owner.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut held = interrupt::hold();
    let mut file = builder.tempfile_in(folder).map_err(|e| fail(&e))?;
    held.set(Some(file.path()));
    drop(held);
    let written = file.write_all(bytes);
    let mut held = interrupt::hold();
    // Where writing failed, the file goes as it is dropped.
    let renamed = written.and_then(|()| file.persist(path).map(drop).map_err(|e| e.error));
    held.set(None);
    renamed.map_err(|e| fail(&e))
}

/// Refuses to put bytes that are no text on a terminal.
///
/// # Errors
/// L0003.
pub fn keep_terminal() -> Result<(), Diagnostic> {
    if !std::io::stdout().is_terminal() {
        return Ok(());
    }
    let reason = "standard output is a terminal, and an object file is no text";
    Err(Diagnostic::new(codes::WRITE, reason).hint("send it to a file or a pipe"))
}

/// Makes a folder with its parents.
///
/// # Errors
/// L0003.
pub fn make_folder(path: &Path) -> Result<(), Diagnostic> {
    fs::create_dir_all(path).map_err(|e| Diagnostic::new(codes::WRITE, format!("{}: {e}", path.display())))
}

/// Refuses an output that would replace an input: `input`, which may not have been read yet, or anything that was.
///
/// # Errors
/// L0003.
pub fn keep_input(input: &Path, output: &Path) -> Result<(), Diagnostic> {
    match (input.canonicalize(), output.canonicalize()) {
        (Ok(a), Ok(b)) if a == b => Err(is_input(output)),
        _ => keep_inputs(output),
    }
}

/// Refuses two outputs of one path, of which only the last would stay.
///
/// # Errors
/// L0003.
pub fn keep_apart(outputs: &[Option<&Path>]) -> Result<(), Diagnostic> {
    let mut seen = BTreeSet::new();
    for output in outputs.iter().flatten() {
        // What does not exist yet has the path of its folder.
        let whole = output.canonicalize().ok().or_else(|| {
            let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
            let folder = parent.unwrap_or(Path::new(".")).canonicalize().ok()?;
            Some(folder.join(output.file_name()?))
        });
        if !seen.insert(whole.unwrap_or_else(|| output.to_path_buf())) {
            let reason = format!("{} is given for two outputs", output.display());
            return Err(Diagnostic::new(codes::WRITE, reason).hint("give each a path of its own"));
        }
    }
    Ok(())
}

/// Lets outputs replace the inputs that lie in a folder: they were read whole, and no copy of them is asked for.
pub fn release(folder: &Path) {
    let Ok(folder) = folder.canonicalize() else { return };
    let mut inputs = INPUTS.lock().unwrap_or_else(PoisonError::into_inner);
    inputs.retain(|path| path.parent() != Some(&folder));
}

fn keep_inputs(output: &Path) -> Result<(), Diagnostic> {
    let inputs = INPUTS.lock().unwrap_or_else(PoisonError::into_inner);
    let read = output.canonicalize().is_ok_and(|path| inputs.contains(&path));
    if read { Err(is_input(output)) } else { Ok(()) }
}

fn is_input(output: &Path) -> Diagnostic {
    let reason = format!("{} is an input", output.display());
    Diagnostic::new(codes::WRITE, reason).hint("give another name for the output")
}

/// True for files that start as ELF files do: object files.
pub fn is_elf(blob: &Blob) -> bool {
    blob.bytes().starts_with(b"\x7fELF")
}

/// A file name made from a tensor's or node's name.
pub fn safe_name(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let text: String = name.chars().map(safe).collect();
    let text = text.trim_start_matches('.').to_owned();
    if text.is_empty() { "unnamed".to_owned() } else { text }
}

/// File names for tensors of these names, without ending, all different even where case does not count. Those that would be equal
/// get a number.
pub fn safe_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let unique = |name: &'a str| {
        let plain = safe_name(name);
        let numbered = (2u64..).map(|n| format!("{plain}-{n}"));
        let mut tried = std::iter::once(plain.clone()).chain(numbered);
        tried.find(|name| taken.insert(name.to_lowercase())).unwrap_or(plain)
    };
    names.into_iter().map(unique).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_files_stay_in_the_folder() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("model");
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(outer.path().join("secret"), b"secret").unwrap();
        fs::write(folder.join("data"), b"0123456789").unwrap();
        fs::write(folder.join("sub/data"), b"abc").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(outer.path().join("secret"), folder.join("link")).unwrap();
        let external = ModelFolder::of(&folder.join("model.onnx")).unwrap();
        let check = |location: &str, offset, length, expect: Result<&[u8], &str>| {
            let found = external.read(location, offset, length);
            match (found, expect) {
                (Ok(blob), Ok(bytes)) => assert_eq!(blob.bytes(), bytes, "{location}"),
                (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{location}: {e}"),
                (found, expect) => panic!("{location}: {found:?}, not {expect:?}"),
            }
        };
        check("data", 2, Some(3), Ok(b"234"));
        check("./sub/data", 0, None, Ok(b"abc"));
        check("data", 8, Some(3), Err("10 bytes, but 3 are needed"));
        check("data", u64::MAX, Some(u64::MAX), Err("10 bytes"));
        check("missing", 0, None, Err("No such file"));
        check("../secret", 0, None, Err("leads out"));
        check("sub/../../secret", 0, None, Err("leads out"));
        check("/etc/passwd", 0, None, Err("leads out"));
        check("C:\\secret", 0, None, Err("leads out"));
        check("", 0, None, Err("leads out"));
        check("sub", 0, None, Err("folder"));
        #[cfg(unix)]
        check("link", 0, None, Err("leads out"));
    }

    #[test]
    fn writing_replaces_all_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(write(&folder.path().join("no/out"), b"x").unwrap_err().code, codes::WRITE.code);
        assert_eq!(write(folder.path(), b"x").unwrap_err().code, codes::WRITE.code);
        assert_eq!(keep_input(&path, &path).unwrap_err().code, codes::WRITE.code);
        read(&path).unwrap();
        assert_eq!(write(&path, b"x").unwrap_err().code, codes::WRITE.code);
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn names_become_file_names() {
        for (name, expect) in [("logits", "logits"), ("/a/b:0", "_a_b_0"), ("..", "unnamed"), ("", "unnamed")]
        {
            assert_eq!(safe_name(name), expect);
        }
        let names = safe_names(["a/b", "a b", "A_b", "a_b-2", "c"]);
        assert_eq!(names, ["a_b", "a_b-2", "A_b-3", "a_b-2-2", "c"]);
    }
}
