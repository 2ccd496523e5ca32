//! `lacuna compile`: a model becomes an object file.

use std::path::{Path, PathBuf};

use lacuna_isa::link::link;
use lacuna_isa::object::Object;
use lacuna_optimize::WeightShare;
use serde_json::{Value, json};

use super::{Context, Model, Settings};
use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::files;
use lacuna_driver::report::{self, Report};
use lacuna_driver::selection::{self, Selection};
use lacuna_driver::testset;

/// Bytes of the object file.
///
/// # Errors
/// L0090: the compiler made a table that has no place in the file.
pub fn encode(object: &Object) -> Result<Vec<u8>, Diagnostic> {
    object.write().map_err(|e| Diagnostic::new(codes::INTERNAL, e.to_string()))
}

/// What becomes one entry.
struct Part<'a> {
    path: PathBuf,
    /// Its name; that in the model unless given.
    name: Option<String>,
    dims: &'a [(String, u64)],
}

/// The entries that the command line asks for.
///
/// # Errors
/// L0001 where names and models do not pair up, L0026 where two have one name.
fn parts<'a>(args: &'a cli::Compile) -> Result<Vec<Part<'a>>, Diagnostic> {
    let models: Vec<PathBuf> =
        args.models.iter().map(|path| testset::file_of(path)).collect::<Result<_, _>>()?;
    let entries = &args.entries;
    let named = |path: &Path, e: &'a cli::EntrySpec| Part {
        path: path.to_owned(),
        name: Some(e.name.clone()),
        dims: &e.dims,
    };
    let parts: Vec<Part<'_>> = match (&models[..], &entries[..]) {
        ([path], []) => vec![Part { path: path.clone(), name: None, dims: &[] }],
        (models, []) => {
            let part = |path: &PathBuf| Part { path: path.clone(), name: Some(stem(path)), dims: &[] };
            models.iter().map(part).collect()
        }
        ([path], entries) => {
            let part = |e| named(path, e);
            entries.iter().map(part).collect()
        }
        (models, entries) if models.len() == entries.len() => {
            let pairs = models.iter().zip(entries);
            pairs.map(|(path, e)| named(path, e)).collect()
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
    let first = &testset::file_of(&args.models[0])?;
    let output = match &args.output {
        Some(output) => output.clone(),
        None if files::is_standard(first) => {
            let reason = "a model from standard input has no name to make that of the object from";
            return Err(Diagnostic::new(codes::USAGE, reason).hint("give one by -o OUT.lac").into());
        }
        None => first.with_extension("lac"),
    };
    let to_standard = super::to_standard_output(&output, context)?;
    let protected = (!to_standard).then_some(&*output);
    let Entries { mut objects, selections, seconds, warnings } =
        compile_entries(args, &settings, protected, context)?;
    let object = if objects.len() > 1 {
        let name = objects[0].name.clone();
        link(name, objects).map_err(|e| Diagnostic::new(codes::STATE, e.to_string()))?
    } else {
        objects.remove(0)
    };
    let bytes = encode(&object)?;
    if !to_standard {
        files::write(&output, &bytes)?;
    }
    let n_bytes = bytes.len() as u64;
    let compiled = Written { object: &object, n_bytes, selections: &selections, seconds };
    let report = Report::of_files(compiled.text(&output, &settings), compiled.json(&output, &settings));
    Ok(Report { warnings, output: to_standard.then_some(bytes), ..report })
}

/// What a model chose of formats, and the formats of its weights.
type Chosen = (Option<Selection>, Vec<WeightShare>);

/// The compiled entries, before they are linked.
struct Entries {
    objects: Vec<Object>,
    selections: Vec<Chosen>,
    seconds: f64,
    warnings: Vec<String>,
}

/// Compiles every entry; none of the models may be the file `output`.
fn compile_entries(
    args: &cli::Compile,
    settings: &Settings,
    output: Option<&Path>,
    context: &Context,
) -> Result<Entries, Failed> {
    let mut all = Entries { objects: Vec::new(), selections: Vec::new(), seconds: 0.0, warnings: Vec::new() };
    for part in parts(args)? {
        if let Some(output) = output {
            files::keep_input(&part.path, output)?;
        }
        let mut settings = settings.clone();
        settings.dims.extend(part.dims.iter().cloned());
        let model = Model::read(&part.path)?;
        let mut compiled = settings.compile(&model, context, None)?;
        if let (Some(name), Some(entry)) = (part.name, compiled.object.entries.first_mut()) {
            entry.name = name;
        }
        all.warnings.extend(settings.warnings(&compiled, &model, context));
        all.objects.push(compiled.object);
        all.selections.push((compiled.selection, compiled.weights));
        all.seconds += compiled.seconds;
    }
    Ok(all)
}

/// What was written, for the report.
struct Written<'a> {
    object: &'a Object,
    /// Bytes of the object file.
    n_bytes: u64,
    selections: &'a [Chosen],
    seconds: f64,
}

impl Written<'_> {
    fn n_instructions(&self) -> usize {
        let of_kernels = self.object.kernels.iter().map(|k| k.code.len()).sum::<usize>();
        of_kernels + self.object.entries.iter().map(|e| e.code.len()).sum::<usize>()
    }

    fn n_launches(&self) -> usize {
        self.object.entries.iter().map(|e| e.launches.len()).sum()
    }

    fn text(&self, output: &Path, settings: &Settings) -> String {
        let object = self.object;
        let mut text = format!(
            "{}: {} for {}, {}\n{} kernels, {} launches, {} instructions; {} of constants in {}; {} of HBM, {} of shared SRAM\n\
             compiled in {:.2} s\n",
            output.display(),
            object.name,
            object.target,
            settings.precision,
            object.kernels.len(),
            self.n_launches(),
            self.n_instructions(),
            report::bytes(object.weights.bytes().len() as u64),
            report::bytes(self.n_bytes),
            report::bytes(object.hbm_bytes),
            report::bytes(object.sram_bytes),
            self.seconds,
        );
        if let entries @ [_, _, ..] = &object.entries[..] {
            for entry in entries {
                text += &format!("entry {}: {} kernels\n", entry.name, entry.launches.len());
            }
        }
        for (chosen, shares) in self.selections {
            if let Some(chosen) = chosen {
                text += &selection::text(chosen);
            }
            if !shares.is_empty() {
                text += &selection::weights_text(shares);
            }
        }
        text
    }

    fn json(&self, output: &Path, settings: &Settings) -> Value {
        let object = self.object;
        let weights: Vec<WeightShare> =
            self.selections.iter().flat_map(|(_, shares)| shares.clone()).collect();
        json!({
            "ok": true,
            "output": output,
            "target": object.target,
            "precision": settings.precision.to_string(),
            "object_bytes": self.n_bytes,
            "weight_bytes": object.weights.bytes().len(),
            "hbm_bytes": object.hbm_bytes,
            "sram_bytes": object.sram_bytes,
            "kernels": object.kernels.len(),
            "launches": self.n_launches(),
            "instructions": self.n_instructions(),
            "weights": selection::weights_json(&weights),
            "four_bit_weights": selection::four_bit_share(&weights),
            "entries": object.entries.iter().map(|entry| &entry.name).collect::<Vec<_>>(),
            "states": object.states.iter().map(|state| &state.name).collect::<Vec<_>>(),
            "selection": self.selections.iter().find_map(|(chosen, _)| chosen.as_ref()).map(selection::json),
            "seconds": self.seconds,
        })
    }
}
