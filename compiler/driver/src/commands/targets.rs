//! `lacuna targets`: the targets, or the figures of one with their sources.

use lacuna_isa::target::Target;
use lacuna_isa::target_file::{TargetFile, targets};
use serde_json::{Value, json};

use crate::cli;
use lacuna_driver::diagnostics::Failed;
use lacuna_driver::exec;
use lacuna_driver::report::{self, Report};

/// Runs the command.
///
/// # Errors
/// L0004.
pub fn run(args: &cli::Targets) -> Result<Report, Failed> {
    match &args.name {
        Some(name) => {
            let target = exec::target(name)?;
            let file = targets().iter().find(|t| t.name == *name);
            Ok(file.map_or_else(|| Report::new("", Value::Null), |file| one(file, &target)))
        }
        None => Ok(all()),
    }
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
    let text = report::table(header, rows, &[1, 2, 3, 4, 5]);
    let json: Vec<Value> = known.iter().map(|(file, target)| summary(file, target)).collect();
    Report::new(text, json!({ "ok": true, "targets": json }))
}

fn one(file: &TargetFile, target: &Target) -> Report {
    let figures = file.all_figures();
    let rows = figures.iter().map(|(name, f)| {
        [name.clone(), f.value.to_string(), f.unit.clone(), f.status.name().to_owned(), f.source.clone()]
    });
    let header = ["figure", "value", "unit", "status", "source"];
    let mut text = format!("{}: {}\n\n", file.name, file.summary) + &report::table(header, rows, &[1]);
    for macs in &file.macs {
        if let Some(waiver) = &macs.waiver {
            text += &format!("waiver for {}: {waiver}\n", macs.formats.join(", "));
        }
    }
    if file.energy.is_none() {
        text += "no table of energies: none of a published node and memory fits\n";
    }
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
    let mut report = Report::new(text, json);
    report.warnings.extend(target.power_warnings().iter().map(|warning| format!("{}: {warning}", file.name)));
    report
}
