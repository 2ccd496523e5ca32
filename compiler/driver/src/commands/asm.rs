//! `lacuna asm`: assembly text becomes an object file.

use std::io::Read;
use std::path::Path;

use lacuna_isa::Blob;
use serde_json::json;

use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::files;
use lacuna_driver::report::{self, Report};

/// Runs the command.
///
/// # Errors
/// Those of reading and writing; L0013.
pub fn run(args: &cli::Asm) -> Result<Report, Failed> {
    let blob = if args.file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .map_err(|e| Diagnostic::new(codes::READ, format!("standard input: {e}")))?;
        Blob::new(bytes)
    } else {
        files::keep_input(&args.file, &args.output)?;
        files::read(&args.file)?
    };
    let wrong =
        |reason: String| Diagnostic::new(codes::ASSEMBLY, format!("{}: {reason}", args.file.display()));
    let text = std::str::from_utf8(blob.bytes()).map_err(|e| wrong(e.to_string()))?;
    let object = lacuna_isa::asm::assemble(text)
        .map_err(|all| Failed(all.iter().map(|e| wrong(e.to_string())).collect()))?;
    // The assembler checks form alone; a file that no command would read is not written.
    let faults = object.validate();
    if !faults.is_empty() {
        return Err(Failed(faults.into_iter().map(|fault| Diagnostic::new(codes::LOAD, fault)).collect()));
    }
    let bytes = object.write().map_err(|e| wrong(e.to_string()))?;
    files::write(&args.output, &bytes)?;
    let n = bytes.len() as u64;
    let text = format!("{}: {}\n", args.output.display(), report::bytes(n));
    Ok(Report::new(text, json!({ "ok": true, "output": args.output, "object_bytes": n })))
}
