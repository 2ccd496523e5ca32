//! `lacuna compile`: a model becomes an object file.

use std::path::Path;

use lacuna_isa::link::link;
use lacuna_isa::object::Object;
use serde_json::json;

use super::{Context, Model, Settings};
use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::files;
use lacuna_driver::pipeline::Compiled;
use lacuna_driver::report::{self, Report};
use lacuna_driver::selection;

/// Bytes of the object file.
///
/// # Errors
/// L0090: the compiler made a table that has no place in the file.
pub fn encode(object: &Object) -> Result<Vec<u8>, Diagnostic> {
    object.write().map_err(|e| Diagnostic::new(codes::INTERNAL, e.to_string()))
}

/// What becomes one entry.
struct Part<'a> {
    path: &'a Path,
    /// Its name; that in the model unless given.
    name: Option<String>,
    dims: &'a [(String, u64)],
}

/// The entries that the command line asks for.
///
/// # Errors
/// L0001 where names and models do not pair up, L0026 where two have one name.
fn parts(args: &cli::Compile) -> Result<Vec<Part<'_>>, Diagnostic> {
    let (models, entries) = (&args.models, &args.entries);
    let parts: Vec<Part<'_>> = match (&models[..], &entries[..]) {
        ([path], []) => vec![Part { path, name: None, dims: &[] }],
        (models, []) => models.iter().map(|path| Part { path, name: Some(stem(path)), dims: &[] }).collect(),
        ([path], entries) => {
            entries.iter().map(|e| Part { path, name: Some(e.name.clone()), dims: &e.dims }).collect()
        }
        (models, entries) if models.len() == entries.len() => {
            let pairs = models.iter().zip(entries);
            pairs.map(|(path, e)| Part { path, name: Some(e.name.clone()), dims: &e.dims }).collect()
        }
        (models, entries) => {
            let reason = format!("{} models and {} names of entries", models.len(), entries.len());
            return Err(
                Diagnostic::new(codes::USAGE, reason).hint("give one --entry for each model, or none")
            );
        }
    };
    for (i, part) in parts.iter().enumerate() {
        if part.name.is_some() && parts[..i].iter().any(|other| other.name == part.name) {
            let name = part.name.as_deref().unwrap_or_default();
            let reason = format!("two entries are named `{name}`");
            return Err(Diagnostic::new(codes::ENTRY, reason).hint("name each by --entry NAME"));
        }
    }
    Ok(parts)
}

/// A name for the entry of a model: that of its file, or of its folder where the file's says nothing.
fn stem(path: &Path) -> String {
    let name = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let own = name(path).unwrap_or_default();
    if own != "model" {
        return own;
    }
    path.parent().and_then(name).filter(|folder| !folder.is_empty()).unwrap_or(own)
}

/// Runs the command.
///
/// # Errors
/// Those of reading, compiling, linking and writing.
pub fn run(args: &cli::Compile, context: &Context) -> Result<Report, Failed> {
    let settings = Settings::new(&args.options)?;
    let first = &args.models[0];
    let output = match &args.output {
        Some(output) => output.clone(),
        None if files::is_standard(first) => {
            let reason = "a model from standard input has no name to make that of the object from";
            return Err(Diagnostic::new(codes::USAGE, reason).hint("give one by -o OUT.lac").into());
        }
        None => first.with_extension("lac"),
    };
    let to_standard = super::to_standard_output(&output, context)?;
    let (mut objects, mut selections, mut weights, mut seconds) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    let mut warnings = Vec::new();
    for part in parts(args)? {
        if !to_standard {
            files::keep_input(part.path, &output)?;
        }
        let mut settings = settings.clone();
        settings.dims.extend(part.dims.iter().cloned());
        let model = Model::read(part.path)?;
        let mut compiled = settings.compile(&model, context, None)?;
        if let (Some(name), Some(entry)) = (part.name, compiled.object.entries.first_mut()) {
            entry.name = name;
        }
        warnings.extend(settings.warnings(&compiled, &model, context));
        let Compiled { object, selection, weights: shares, seconds: taken, .. } = compiled;
        objects.push(object);
        selections.push((selection, shares.clone()));
        weights.extend(shares);
        seconds += taken;
    }
    let object = &if objects.len() > 1 {
        let name = objects[0].name.clone();
        link(name, objects).map_err(|e| Diagnostic::new(codes::STATE, e.to_string()))?
    } else {
        objects.remove(0)
    };
    let bytes = encode(object)?;
    if !to_standard {
        files::write(&output, &bytes)?;
    }

    let n_instructions: usize = object.kernels.iter().map(|k| k.code.len()).sum::<usize>()
        + object.entries.iter().map(|e| e.code.len()).sum::<usize>();
    let n_launches: usize = object.entries.iter().map(|e| e.launches.len()).sum();
    let weight_bytes = object.weights.bytes().len() as u64;
    let mut text = format!(
        "{}: {} for {}, {}\n{} kernels, {} launches, {} instructions; {} of constants in {}; {} of HBM, {} of shared SRAM\n\
         compiled in {:.2} s\n",
        output.display(),
        object.name,
        object.target,
        settings.precision,
        object.kernels.len(),
        n_launches,
        n_instructions,
        report::bytes(weight_bytes),
        report::bytes(bytes.len() as u64),
        report::bytes(object.hbm_bytes),
        report::bytes(object.sram_bytes),
        seconds,
    );
    if let entries @ [_, _, ..] = &object.entries[..] {
        for entry in entries {
            text += &format!("entry {}: {} kernels\n", entry.name, entry.launches.len());
        }
    }
    for (chosen, shares) in &selections {
        if let Some(chosen) = chosen {
            text += &selection::text(chosen);
        }
        if !shares.is_empty() {
            text += &selection::weights_text(shares);
        }
    }
    let json = json!({
        "ok": true,
        "output": output,
        "target": object.target,
        "precision": settings.precision.to_string(),
        "object_bytes": bytes.len(),
        "weight_bytes": weight_bytes,
        "hbm_bytes": object.hbm_bytes,
        "sram_bytes": object.sram_bytes,
        "kernels": object.kernels.len(),
        "launches": n_launches,
        "instructions": n_instructions,
        "weights": selection::weights_json(&weights),
        "four_bit_weights": selection::four_bit_share(&weights),
        "entries": object.entries.iter().map(|entry| &entry.name).collect::<Vec<_>>(),
        "states": object.states.iter().map(|state| &state.name).collect::<Vec<_>>(),
        "selection": selections.iter().find_map(|(chosen, _)| chosen.as_ref()).map(selection::json),
        "seconds": seconds,
    });
    let output = to_standard.then_some(bytes);
    Ok(Report { warnings, output, ..Report::new(text, json) })
}
