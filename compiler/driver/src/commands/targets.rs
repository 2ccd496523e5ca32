//! `lacuna targets`: the targets, or the figures of one with their sources.

use std::path::Path;

use lacuna_isa::target::Target;
use lacuna_isa::target_file::{self, TargetFile, targets};
use serde_json::{Value, json};

use crate::cli::{self, TargetsTask};
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec;
use lacuna_driver::files;
use lacuna_driver::report::{self, Report};

/// Runs the command.
///
/// # Errors
/// L0002 to L0004, L0021.
pub fn run(args: &cli::Targets) -> Result<Report, Failed> {
    match (&args.task, &args.name) {
        (Some(TargetsTask::New { from, output, force }), _) => new(from, output.as_deref(), *force),
        (Some(TargetsTask::Check { file }), _) => {
            let own = exec::own_target(file, &[])?;
            Ok(one(&own.file, &own.target))
        }
        (None, Some(name)) if exec::is_target_file(name) => {
            let own = exec::own_target(Path::new(name), &args.changes)?;
            Ok(one(&own.file, &own.target))
        }
        (None, Some(name)) => {
            let target = exec::target(name, &args.changes)?;
            // A changed one has the text of its file; others are shipped.
            let changed = target_file::read(&target.file, &[]).ok().map(|own| own.file);
            let file = changed.or_else(|| targets().iter().find(|t| t.name == *name).cloned());
            Ok(file.map_or_else(|| Report::new("", Value::Null), |file| one(&file, &target)))
        }
        (None, None) => Ok(all()),
    }
}

/// The file of a shipped target under another name. The user changes such files, so one that is there stays unless it is to go.
fn new(from: &str, output: Option<&Path>, force: bool) -> Result<Report, Failed> {
    let output = output.filter(|path| !files::is_standard(path));
    // For the list of names where there is none of this name.
    exec::target(from, &[])?;
    let text = target_file::shipped(from).unwrap_or_default();
    let stem = output.and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
    let name = stem.unwrap_or_else(|| format!("{from}-changed"));
    let text = text.replacen(&format!("name = \"{from}\""), &format!("name = {name:?}"), 1);
    let Some(path) = output else {
        return Ok(Report::new(text.clone(), json!({ "ok": true, "text": text })));
    };
    if path.is_file() && !force {
        let reason = format!("{} is there already, and may have been changed", path.display());
        let hint = "give another name, or --force to replace it";
        return Err(Diagnostic::new(codes::WRITE, reason).hint(hint).into());
    }
    files::write(path, text.as_bytes())?;
    let said = format!("{}: {name}, with the figures of {from}\n", path.display());
    Ok(Report::new(said, json!({ "ok": true, "file": path, "name": name })))
}

fn summary(file: &TargetFile, target: &Target) -> Value {
    json!({
        "name": file.name,
        "summary": file.summary,
        "pes": target.n_pes(),
        "clock_ghz": target.clock_ghz,
        "hbm_bytes": target.hbm_bytes,
        "sram_bytes": target.sram_bytes,
        "local_bytes": target.local_bytes,
        "has_energy": target.energy.is_some(),
        "formats": target.macs_per_cycle.iter().map(|(f, _)| f.to_string()).collect::<Vec<_>>(),
    })
}

fn all() -> Report {
    let known: Vec<(&TargetFile, Target)> =
        targets().iter().filter_map(|file| Some((file, file.resolve().ok()?))).collect();
    let rows = known.iter().map(|(file, t)| {
        [
            file.name.clone(),
            format!("{} x {}", t.rows, t.cols),
            format!("{:.2} GHz", t.clock_ghz),
            report::bytes(t.local_bytes),
            report::bytes(t.sram_bytes),
            report::bytes(t.hbm_bytes),
            file.summary.clone(),
        ]
    });
    let header = ["target", "PEs", "clock", "local", "shared SRAM", "HBM", "summary"];
    let text = report::wrapped_table(header, rows, &[1, 2, 3, 4, 5]);
    let json: Vec<Value> = known.iter().map(|(file, target)| summary(file, target)).collect();
    Report::new(text, json!({ "ok": true, "targets": json }))
}

fn one(file: &TargetFile, target: &Target) -> Report {
    let figures = file.all_figures();
    let rows = figures.iter().map(|(name, f)| {
        [name.clone(), f.value.to_string(), f.unit.clone(), f.status.name().to_owned(), f.source.clone()]
    });
    let header = ["figure", "value", "unit", "status", "source"];
    let mut text = report::wrapped(&format!("{}: {}", file.name, file.summary))
        + "\n"
        + &report::wrapped_table(header, rows, &[1]);
    let peaks = file.peaks(target);
    let rows = peaks.iter().map(|peak| {
        [
            peak.formats.join(", "),
            format!("{:.1}", peak.declared_tflops),
            format!("{:.1}", peak.derived_tflops),
            format!("{:+.1}%", 100.0 * (peak.derived_tflops / peak.declared_tflops - 1.0)),
            peak.waiver.unwrap_or("").to_owned(),
        ]
    });
    if !peaks.is_empty() {
        let header = ["peak in TFLOPS", "declared", "derived", "distance", "reason of a miss"];
        text += &format!("\n{}", report::wrapped_table(header, rows, &[1, 2, 3]));
    }
    if file.energy.is_none() {
        text += &format!("\n{}\n", super::energy::NO_TABLE);
    }
    // What was asked for, not an accident of the command: part of the report.
    let power: Vec<String> = target.power_warnings().iter().map(ToString::to_string).collect();
    text.extend(power.iter().map(|warning| format!("\n{}", report::wrapped(&format!("power: {warning}")))));
    let mut json = summary(file, target);
    json["ok"] = json!(true);
    json["figures"] = figures
        .iter()
        .map(|(name, f)| {
            json!({
                "figure": name, "value": f.value, "unit": f.unit, "status": f.status.name(), "source": f.source
            })
        })
        .collect();
    json["peaks"] = peaks
        .iter()
        .map(|peak| {
            json!({
                "formats": peak.formats, "declared_tflops": peak.declared_tflops,
                "derived_tflops": peak.derived_tflops, "waiver": peak.waiver
            })
        })
        .collect();
    json["power_warnings"] = json!(power);
    Report::new(text, json)
}
