//! `lacuna run`: an object file on given or random inputs.

use std::path::Path;
use std::time::Instant;

use lacuna_ir::TensorType;
use lacuna_ir::eval::Tensor;
use lacuna_isa::Blob;
use lacuna_isa::object::{EntryPoint, Object, Port};
use lacuna_runtime::Session;
use serde_json::json;

use super::Context;
use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec::{self, Program, port_type};
use lacuna_driver::files;
use lacuna_driver::given::{self, Given, Of};
use lacuna_driver::random;
use lacuna_driver::report::{self, Report};
use lacuna_driver::tensors;

/// Runs the command.
///
/// # Errors
/// Those of reading the object and its inputs, and of running.
pub fn run(args: &cli::Run, context: &Context) -> Result<Report, Failed> {
    let object = exec::read(&args.object)?;
    let program = Program::load_entry(&object, args.entry.as_deref(), context.threads)?;
    let entry = program.entry();
    let number = exec::entry_of(&object, args.entry.as_deref())?;
    let mut session = program.session();
    if let Some(folder) = &args.load_state {
        load_states(folder, &object, &mut session)?;
        // The next step's states may take the place of this step's.
        if args.save_state.as_ref() == Some(folder) {
            files::release(folder);
        }
    }
    let (inputs, random) = inputs(&args.inputs, args.seed, entry)?;
    files::keep_apart(&[args.output.as_deref(), args.save_state.as_deref()])?;
    if let Some(folder) = &args.output {
        files::make_folder(folder)?;
    }
    context.progress.step("running");
    let started = Instant::now();
    let outputs = program.run_in(number, &mut session, &inputs)?;
    let seconds = started.elapsed().as_secs_f64();

    if let Some(folder) = &args.save_state {
        save_states(folder, &object, &session)?;
    }
    let mut rows = Vec::new();
    let mut json_outputs = Vec::new();
    let names = files::safe_names(entry.outputs.iter().map(|port| port.name.as_str()));
    for ((port, bytes), name) in entry.outputs.iter().zip(&outputs).zip(&names) {
        let file = match &args.output {
            Some(folder) => Some(tensors::write(folder, name, &port.name, port.elem, &port.shape, bytes)?),
            None => None,
        };
        let [least, mean, greatest] = summary(port, bytes)?;
        let number = |x: f64| format!("{x:.6}");
        rows.push([
            port.name.clone(),
            port_type(port),
            number(least),
            number(mean),
            number(greatest),
            file.clone().unwrap_or_default(),
        ]);
        json_outputs.push(json!({
            "name": port.name,
            "type": port.elem.name(),
            "shape": port.shape,
            "min": least,
            "mean": mean,
            "max": greatest,
            "file": file,
        }));
    }
    let text = report::table(["output", "type", "min", "mean", "max", "file"], rows, &[2, 3, 4])
        + &format!("ran in {seconds:.2} s\n");
    let warnings = if random.is_empty() {
        Vec::new()
    } else {
        vec![format!(
            "random values of seed {} for {}; --input NAME=FILE gives others",
            args.seed,
            random.join(", ")
        )]
    };
    let json =
        json!({ "ok": true, "outputs": json_outputs, "random_inputs": random, "run_seconds": seconds });
    Ok(Report { warnings, ..Report::new(text, json) })
}

/// Reads states from a folder.
///
/// # Errors
/// Those of reading, and L0008 for a state of another type.
fn load_states(folder: &Path, object: &Object, session: &mut Session) -> Result<(), Failed> {
    let names: Vec<String> = object.states.iter().map(|state| state.name.clone()).collect();
    let found = given::read(&[Given::Folder(folder.to_owned())], &names, Of::States)?;
    let mut faults = Vec::new();
    for (number, state) in object.states.iter().enumerate() {
        let Some((_, literal)) = found.iter().find(|(name, _)| *name == state.name) else {
            let reason = format!("{} has no state `{}`", folder.display(), state.name);
            faults.push(Diagnostic::new(codes::INPUT, reason));
            continue;
        };
        let same = literal.ty == TensorType::new(state.elem, state.shape.clone());
        if !same || session.set(number, literal.data.bytes().to_vec()).is_err() {
            let reason =
                format!("state `{}` is {}, but {} is given", state.name, port_type(state), literal.ty);
            faults.push(Diagnostic::new(codes::INPUT, reason));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Failed(faults)) }
}

/// Writes states to a folder.
///
/// # Errors
/// Those of writing.
fn save_states(folder: &Path, object: &Object, session: &Session) -> Result<(), Failed> {
    files::make_folder(folder)?;
    let names = files::safe_names(object.states.iter().map(|state| state.name.as_str()));
    for ((state, bytes), name) in object.states.iter().zip(session.states()).zip(&names) {
        tensors::write(folder, name, &state.name, state.elem, &state.shape, bytes)?;
    }
    Ok(())
}

/// Least, mean and greatest element; NaN for empty tensors.
fn summary(port: &Port, bytes: &[u8]) -> Result<[f64; 3], Diagnostic> {
    let ty = TensorType::new(port.elem, port.shape.clone());
    let values =
        Tensor::from_bytes(ty, bytes).map_err(|e| Diagnostic::new(codes::LOAD, e.to_string()))?.to_f64();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    // `f64::min` drops NaN, which must show.
    let has_nan = values.iter().any(|v| v.is_nan()) || values.is_empty();
    let fold = |f: fn(f64, f64) -> f64, start| {
        if has_nan { f64::NAN } else { values.iter().copied().fold(start, f) }
    };
    Ok([fold(f64::min, f64::INFINITY), mean, fold(f64::max, f64::NEG_INFINITY)])
}

/// The bytes of every input, as given or random, and the names of those that are random.
///
/// # Errors
/// L0007 and L0008, for every input at fault, and those of reading the files.
pub(super) fn inputs(
    given: &[Given],
    seed: u64,
    entry: &EntryPoint,
) -> Result<(Vec<Blob>, Vec<String>), Failed> {
    let names: Vec<String> = entry.inputs.iter().map(|port| port.name.clone()).collect();
    let given = given::read(given, &names, Of::Inputs)?;
    let mut found = Vec::new();
    let mut inputs = Vec::new();
    let mut random = Vec::new();
    for (idx, port) in entry.inputs.iter().enumerate() {
        let made = match given.iter().find(|(name, _)| *name == port.name) {
            Some((_, literal)) => {
                let want = TensorType::new(port.elem, port.shape.clone());
                let reason = || format!("input `{}` is {want}, but {} is given", port.name, literal.ty);
                let fits = literal.ty == want;
                if fits { Ok(literal.data.clone()) } else { Err(Diagnostic::new(codes::INPUT, reason())) }
            }
            None => {
                random.push(port.name.clone());
                let too_large =
                    || Diagnostic::new(codes::INPUT, format!("input `{}` is too large", port.name));
                random::input(port.elem, &port.shape, seed, idx).ok_or_else(too_large)
            }
        };
        match made {
            Ok(blob) => inputs.push(blob),
            Err(diagnostic) => found.push(diagnostic),
        }
    }
    if found.is_empty() { Ok((inputs, random)) } else { Err(Failed(found)) }
}
