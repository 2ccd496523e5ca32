//! `lacuna check`: the checker on an object file, or on assembly text that may have been edited by hand.

use lacuna_codegen::check::{Finding, check};
use lacuna_isa::object::Object;
use serde_json::json;

use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec;
use lacuna_driver::files;
use lacuna_driver::report::Report;

/// Runs the command.
///
/// # Errors
/// Those of reading; L0013 for text that does not assemble, L0022 for every rule of the machine that is broken.
pub fn run(args: &cli::Check) -> Result<Report, Failed> {
    let blob = files::read(&args.file)?;
    let wrong =
        |reason: String| Diagnostic::new(codes::ASSEMBLY, format!("{}: {reason}", args.file.display()));
    let (object, lines) = if files::is_elf(&blob) {
        (exec::object(&blob, &args.file)?, Vec::new())
    } else {
        let text = std::str::from_utf8(blob.bytes())
            .map_err(|_| wrong("neither an object file nor text".to_owned()))?;
        lacuna_isa::asm::assemble_with_lines(text)
            .map_err(|all| Failed(all.iter().map(|e| wrong(e.to_string())).collect()))?
    };
    let target = exec::target_of(&object)?;
    let findings = check(&object, &target);
    if findings.is_empty() {
        let launches: usize = object.entries.iter().map(|entry| entry.launches.len()).sum();
        let kernels = object.kernels.len();
        let text = format!(
            "{}: no run can trap on {}: {kernels} kernels, {launches} launches\n",
            args.file.display(),
            target.name
        );
        let json = json!({ "ok": true, "target": target.name, "kernels": kernels, "launches": launches });
        return Ok(Report::new(text, json));
    }
    let diagnostic = |finding: &Finding| {
        let line = line(&object, &lines, finding).map_or_else(String::new, |line| format!(":{line}"));
        Diagnostic::new(codes::RULE, format!("{}{line}: {finding}", args.file.display()))
    };
    Err(Failed(findings.iter().map(diagnostic).collect()))
}

/// The line of the text that a finding is about.
fn line(object: &Object, lines: &[Vec<usize>], finding: &Finding) -> Option<usize> {
    let kernels = object.entries.iter().filter_map(|entry| {
        let launch = entry.code.get(finding.launch?)?.kind.started()?;
        usize::try_from(entry.launches.get(usize::from(launch))?.kernel).ok()
    });
    // Positions in entries do not say which entry; the kernel's name does.
    let mut named =
        kernels.filter(|&k| object.kernels.get(k).is_some_and(|kernel| kernel.name == finding.kernel));
    lines.get(named.next()?)?.get(finding.pc?).copied()
}
