//! `lacuna asm`: assembly text becomes an object file.

use lacuna_isa::part::Flaw;
use serde_json::json;

use super::Context;
use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::files;
use lacuna_driver::report::{self, Report};

/// Runs the command.
///
/// # Errors
/// Those of reading and writing; L0013.
pub fn run(args: &cli::Asm, context: &Context) -> Result<Report, Failed> {
    let to_standard = super::to_standard_output(&args.output, context)?;
    if !to_standard {
        files::keep_input(&args.file, &args.output)?;
    }
    let blob = files::read(&args.file)?;
    let wrong =
        |reason: String| Diagnostic::new(codes::ASSEMBLY, format!("{}: {reason}", args.file.display()));
    let text = std::str::from_utf8(blob.bytes()).map_err(|e| wrong(e.to_string()))?;
    let (object, lines) = lacuna_isa::asm::assemble_with_lines(text)
        .map_err(|all| Failed(all.iter().map(|e| wrong(e.to_string())).collect()))?;
    // The assembler checks form alone; a file that no command would read is not written.
    let flaws = object.flaws();
    if !flaws.is_empty() {
        let diagnostic = |flaw: Flaw| {
            let line = lines.of(flaw.part).map_or_else(String::new, |line| format!(":{line}"));
            Diagnostic::new(codes::LOAD, format!("{}{line}: {}", args.file.display(), flaw.text))
        };
        return Err(Failed(flaws.into_iter().map(diagnostic).collect()));
    }
    let bytes = object.write().map_err(|e| wrong(e.to_string()))?;
    if !to_standard {
        files::write(&args.output, &bytes)?;
    }
    let n = bytes.len() as u64;
    let text = format!("{}: {}\n", args.output.display(), report::bytes(n));
    let json = json!({ "ok": true, "output": args.output, "object_bytes": n });
    let output = to_standard.then_some(bytes);
    Ok(Report { output, ..Report::of_files(text, json) })
}
