//! `lacuna disasm`: an object file as assembly text.

use serde_json::json;

use crate::cli;
use lacuna_driver::diagnostics::Failed;
use lacuna_driver::exec;
use lacuna_driver::files;
use lacuna_driver::report::Report;

/// Runs the command.
///
/// # Errors
/// Those of reading and writing.
pub fn run(args: &cli::Disasm) -> Result<Report, Failed> {
    let object = exec::read(&args.object)?;
    let text = lacuna_isa::disasm::disassemble(&object);
    match args.output.as_deref().filter(|path| !files::is_standard(path)) {
        Some(path) => {
            files::keep_input(&args.object, path)?;
            files::write(path, text.as_bytes())?;
            Ok(Report::new("", json!({ "ok": true, "output": path, "bytes": text.len() })))
        }
        None => {
            let json = json!({ "ok": true, "text": text });
            Ok(Report::new(text, json))
        }
    }
}
