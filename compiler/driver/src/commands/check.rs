//! `lacuna check`: the checker on an object file, or on assembly text that may have been edited by hand.

use lacuna_codegen::check::{Finding, check};
use lacuna_isa::part::{Item, Part};
use serde_json::json;

use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec;
use lacuna_driver::files;
use lacuna_driver::report::Report;
use lacuna_driver::testset;

/// Runs the command.
///
/// # Errors
/// Those of reading; L0013 for text that does not assemble, L0022 for every rule of the machine that is broken.
pub fn run(args: &cli::Check) -> Result<Report, Failed> {
    let file = testset::file_of(&args.file)?;
    let blob = files::read(&file)?;
    let wrong = |reason: String| Diagnostic::new(codes::ASSEMBLY, format!("{}: {reason}", file.display()));
    let (object, lines) = if files::is_elf(&blob) {
        (exec::object(&blob, &file)?, None)
    } else if testset::decode(&blob).is_some_and(|model| model.graph.is_some()) {
        let reason = format!("{} is an ONNX model, which has no streams to check", file.display());
        let hint = format!("lacuna compile {} -o FILE.lac, then check that", args.file.display());
        return Err(Diagnostic::new(codes::USAGE, reason).hint(hint).into());
    } else {
        let text = std::str::from_utf8(blob.bytes())
            .map_err(|_| wrong("neither an object file nor text".to_owned()))?;
        let (object, lines) = lacuna_isa::asm::assemble_with_lines(text)
            .map_err(|all| Failed(all.iter().map(|e| wrong(e.to_string())).collect()))?;
        (object, Some(lines))
    };
    let at = |part: Part| {
        let line = lines.as_ref().and_then(|lines| lines.of(part));
        format!("{}{}", file.display(), line.map_or_else(String::new, |line| format!(":{line}")))
    };
    let target = exec::target_of(&object).map_err(|fault| {
        // The target is named in the header, and one that is not shipped has its own statement.
        let has_figures = !object.target_file.is_empty() && fault.code == codes::LOAD.code;
        let header = Part::default();
        let part = if has_figures { header.within(Item::Figures, 0) } else { header };
        Diagnostic { reason: format!("{}: {}", at(part), fault.reason), ..fault }
    })?;
    let findings = check(&object, &target);
    if findings.is_empty() {
        let launches: usize = object.entries.iter().map(|entry| entry.launches.len()).sum();
        let kernels = object.kernels.len();
        let text = format!(
            "{}: no run can trap on {}: {kernels} kernels, {launches} launches\n",
            file.display(),
            target.name
        );
        let json = json!({ "ok": true, "target": target.name, "kernels": kernels, "launches": launches });
        return Ok(Report::new(text, json));
    }
    let diagnostic =
        |finding: &Finding| Diagnostic::new(codes::RULE, format!("{}: {finding}", at(finding.part)));
    Err(Failed(findings.iter().map(diagnostic).collect()))
}
