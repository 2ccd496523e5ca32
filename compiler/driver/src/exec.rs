//! Object files in use: reading, loading, running entries.

use std::collections::BTreeMap;
use std::path::Path;

use lacuna_isa::Blob;
use lacuna_isa::elf::ReadError;
use lacuna_isa::object::{EntryPoint, Object, Port};
use lacuna_isa::target::Target;
use lacuna_isa::target_file::{self, Change, DEFAULT_TARGET, Own};
use lacuna_runtime::{InputError, LaunchRecord, Machine, Outcome, RunOptions, Session, Trap};

use crate::codes;
use crate::diagnostics::{Diagnostic, Failed};
use crate::files;
use crate::host;
use crate::report;

/// Reads and checks an object file.
///
/// # Errors
/// L0002, L0009, L0010.
pub fn read(path: &Path) -> Result<Object, Diagnostic> {
    object(&files::read(path)?, path)
}

/// Checks the bytes of an object file.
///
/// # Errors
/// L0009, L0010.
pub fn object(blob: &Blob, path: &Path) -> Result<Object, Diagnostic> {
    Object::read(blob).map_err(|e| {
        let reason = format!("{}: {e}", path.display());
        match e {
            ReadError::NotElf | ReadError::NotLacuna => Diagnostic::new(codes::NOT_OBJECT, reason)
                .hint("make an object file with: lacuna compile MODEL.onnx -o OUT.lac"),
            ReadError::Version { .. } | ReadError::Truncated { .. } | ReadError::Corrupted => {
                Diagnostic::new(codes::NOT_OBJECT, reason).hint("compile the model again")
            }
            ReadError::Malformed { .. } | ReadError::Invalid(_) => Diagnostic::new(codes::LOAD, reason),
        }
    })
}

/// The number of the entry of this name; 0 without one.
///
/// # Errors
/// L0026.
pub fn entry_of(object: &Object, name: Option<&str>) -> Result<usize, Diagnostic> {
    let Some(name) = name else { return Ok(0) };
    object.entries.iter().position(|entry| entry.name == name).ok_or_else(|| {
        let known: Vec<&str> = object.entries.iter().map(|entry| entry.name.as_str()).collect();
        Diagnostic::new(codes::ENTRY, format!("`{name}`")).hint(format!("one of {}", known.join(", ")))
    })
}

/// The target that an object was compiled for, if it fits its memory.
///
/// # Errors
/// L0004, L0011.
pub fn target_of(object: &Object) -> Result<Target, Diagnostic> {
    let figures = object.target_figures().map_err(|e| Diagnostic::new(codes::LOAD, e.to_string()))?;
    let target = figures.map_or_else(|| shipped(&object.target), Ok)?;
    let hbm = object.hbm_bytes.saturating_add(object.weights.bytes().len() as u64);
    for (what, needed, has) in
        [("HBM", hbm, target.hbm_bytes), ("shared SRAM", object.sram_bytes, target.sram_bytes)]
    {
        if needed > has {
            let (needed, has) = (report::bytes(needed), report::bytes(has));
            let reason = format!("it needs {needed} of {what}, and {} has {has}", target.name);
            return Err(Diagnostic::new(codes::MEMORY, reason));
        }
    }
    Ok(target)
}

/// The target of this name, or of a file, with changes.
///
/// # Errors
/// L0001 for a figure with two values, L0002, L0004, L0021.
pub fn target(name: &str, changes: &[Change]) -> Result<Target, Diagnostic> {
    once(changes)?;
    if is_target_file(name) {
        return own_target(Path::new(name), changes).map(|own| own.target);
    }
    let target = shipped(name)?;
    if changes.is_empty() {
        return Ok(target);
    }
    target_file::change(name, changes)
        .map(|own| own.target)
        .map_err(|e| Diagnostic::new(codes::TARGET_FILE, format!("{name}: {e}")).hint(figures_hint()))
}

/// Whether a target is named by its file.
pub fn is_target_file(name: &str) -> bool {
    name.ends_with(".toml") || name.contains('/')
}

/// The target that a file describes, with changes.
///
/// # Errors
/// L0001 for a figure with two values, L0002, L0021.
pub fn own_target(path: &Path, changes: &[Change]) -> Result<Own, Diagnostic> {
    once(changes)?;
    let fault = |place: String, why: String| {
        let reason = format!("{}{place}: {why}", path.display());
        Diagnostic::new(codes::TARGET_FILE, reason).hint(figures_hint())
    };
    let blob = files::read(path)?;
    let text = std::str::from_utf8(blob.bytes()).map_err(|e| fault(String::new(), e.to_string()))?;
    target_file::read(text, changes).map_err(|refusal| {
        let place = refusal.place.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
        fault(place, refusal.error.to_string())
    })
}

/// Refuses two values for one figure.
fn once(changes: &[Change]) -> Result<(), Diagnostic> {
    let mut values = BTreeMap::new();
    for (figure, value) in changes {
        if values.insert(figure, value).is_some_and(|other| other != value) {
            return Err(twice("--set", figure));
        }
    }
    Ok(())
}

/// That an option gives a name more than one value.
pub fn twice(option: &str, name: &str) -> Diagnostic {
    Diagnostic::new(codes::USAGE, format!("{option} gives `{name}` more than one value")).hint("give one")
}

fn figures_hint() -> String {
    format!("`lacuna targets {DEFAULT_TARGET}` shows every figure with its unit")
}

fn shipped(name: &str) -> Result<Target, Diagnostic> {
    target_file::target(name).ok_or_else(|| {
        let known: Vec<&str> = target_file::targets().iter().map(|t| t.name.as_str()).collect();
        let known = known.join(", ");
        let hint = match target_file::nearest_target(name) {
            Some(nearest) => format!("{nearest} Targets are {known}, or a file: ./NAME.toml"),
            None => format!("one of {known}, or a file: ./NAME.toml"),
        };
        Diagnostic::new(codes::TARGET, format!("`{name}`")).hint(hint)
    })
}

/// A loaded object.
pub struct Program<'o> {
    object: &'o Object,
    machine: Machine<'o>,
    /// Number of the entry that runs.
    entry: usize,
    threads: usize,
}

impl<'o> Program<'o> {
    /// Loads an object.
    ///
    /// # Errors
    /// L0010, L0024, and those of [`target_of`].
    pub fn load(object: &'o Object, threads: usize) -> Result<Program<'o>, Diagnostic> {
        target_of(object)?;
        host::has_room_for("the memory of the program", object.hbm_bytes.saturating_add(object.sram_bytes))?;
        let machine = Machine::load(object).map_err(|e| Diagnostic::new(codes::LOAD, e.to_string()))?;
        if object.entries.is_empty() {
            return Err(Diagnostic::new(codes::LOAD, "the object has no entry"));
        }
        Ok(Program { object, machine, entry: 0, threads })
    }

    /// Loads an object to run the entry of this name; the first without one.
    ///
    /// # Errors
    /// Those of [`Program::load`] and [`entry_of`].
    pub fn load_entry(
        object: &'o Object,
        name: Option<&str>,
        threads: usize,
    ) -> Result<Program<'o>, Diagnostic> {
        let entry = entry_of(object, name)?;
        Ok(Program { entry, ..Program::load(object, threads)? })
    }

    /// The entry that runs.
    pub fn entry(&self) -> &'o EntryPoint {
        &self.object.entries[self.entry]
    }

    /// States as they are before the first run.
    pub fn session(&self) -> Session {
        self.machine.session()
    }

    /// Runs entry number `entry` on dense tensors, one per input, and the states of `session`.
    ///
    /// # Errors
    /// L0008, or L0015 when the program traps.
    pub fn run_in(
        &self,
        entry: usize,
        session: &mut Session,
        inputs: &[Blob],
    ) -> Result<Vec<Vec<u8>>, Failed> {
        let inputs: Vec<&[u8]> = inputs.iter().map(Blob::bytes).collect();
        let options = RunOptions { entry, threads: self.threads, ..RunOptions::default() };
        self.ended(self.machine.run_in(session, &inputs, &options)).map(|(outputs, _)| outputs)
    }

    /// Runs the entry on dense tensors, one per input.
    ///
    /// # Errors
    /// L0008, or L0015 when the program traps.
    pub fn run(&self, inputs: &[Blob]) -> Result<Vec<Vec<u8>>, Failed> {
        Ok(self.execute(inputs, false)?.0)
    }

    /// Runs like [`Program::run`] for what each launch did.
    ///
    /// # Errors
    /// L0008, or L0015 when the program traps.
    pub fn record(&self, inputs: &[Blob]) -> Result<Vec<LaunchRecord>, Failed> {
        Ok(self.execute(inputs, true)?.1)
    }

    fn execute(&self, inputs: &[Blob], record: bool) -> Result<(Vec<Vec<u8>>, Vec<LaunchRecord>), Failed> {
        let inputs: Vec<&[u8]> = inputs.iter().map(Blob::bytes).collect();
        let options =
            RunOptions { entry: self.entry, threads: self.threads, record, ..RunOptions::default() };
        self.ended(self.machine.run(&inputs, &options))
    }

    /// The outputs and records of a run.
    fn ended(
        &self,
        outcome: Result<Outcome, InputError>,
    ) -> Result<(Vec<Vec<u8>>, Vec<LaunchRecord>), Failed> {
        match outcome {
            Ok(Outcome::Done { outputs, records }) => Ok((outputs, records.unwrap_or_default())),
            Ok(Outcome::Trap(trap)) => Err(trapped(self.object, &trap).into()),
            Err(e) => Err(Diagnostic::new(codes::INPUT, e.to_string()).into()),
        }
    }
}

fn trapped(object: &Object, trap: &Trap) -> Diagnostic {
    let origins = trap.origins.iter().filter_map(|&o| object.origins.get(o as usize));
    let nodes: Vec<&str> = origins.map(|o| o.node.as_str()).collect();
    let mut diagnostic = Diagnostic::new(codes::TRAP, trap.to_string());
    diagnostic.node = (!nodes.is_empty()).then(|| nodes.join(", "));
    diagnostic
}

/// The type of a port, for people.
pub fn port_type(port: &Port) -> String {
    lacuna_ir::TensorType::new(port.elem, port.shape.clone()).to_string()
}
