//! `lacuna compile`: a model becomes an object file.

use lacuna_isa::object::Object;
use serde_json::json;

use super::{Context, Model, Settings};
use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::files;
use lacuna_driver::report::{self, Report};
use lacuna_driver::selection;

/// Bytes of the object file.
///
/// # Errors
/// L0090: the compiler made a table that has no place in the file.
pub fn encode(object: &Object) -> Result<Vec<u8>, Diagnostic> {
    object.write().map_err(|e| Diagnostic::new(codes::INTERNAL, e.to_string()))
}

/// Runs the command.
///
/// # Errors
/// Those of reading, compiling and writing.
pub fn run(args: &cli::Compile, context: &Context) -> Result<Report, Failed> {
    let settings = Settings::new(&args.options)?;
    let output = match &args.output {
        Some(output) => output.clone(),
        None if files::is_standard(&args.model) => {
            let reason = "a model from standard input has no name to make that of the object from";
            return Err(Diagnostic::new(codes::USAGE, reason).hint("give one by -o OUT.lac").into());
        }
        None => args.model.with_extension("lac"),
    };
    let to_standard = super::to_standard_output(&output, context)?;
    if !to_standard {
        files::keep_input(&args.model, &output)?;
    }
    let model = Model::read(&args.model)?;
    let compiled = settings.compile(&model, context, None)?;
    let object = &compiled.object;
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
        compiled.seconds,
    );
    if let Some(chosen) = &compiled.selection {
        text += &selection::text(chosen);
    }
    if !compiled.weights.is_empty() {
        text += &selection::weights_text(&compiled.weights);
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
        "weights": selection::weights_json(&compiled.weights),
        "four_bit_weights": selection::four_bit_share(&compiled.weights),
        "selection": compiled.selection.as_ref().map(selection::json),
        "seconds": compiled.seconds,
    });
    let warnings = settings.warnings(&compiled, &model, context);
    let output = to_standard.then_some(bytes);
    Ok(Report { warnings, output, ..Report::new(text, json) })
}
