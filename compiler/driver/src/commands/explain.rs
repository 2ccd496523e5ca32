//! `lacuna explain`: what a diagnostic code means, or what the optimiser did to a model.

use std::path::Path;

use serde_json::{Value, json};

use super::{Context, Model, Settings};
use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::pipeline::Compiled;
use lacuna_driver::report::Report;

/// Runs the command.
///
/// # Errors
/// L0018 when there is no such code, or those of compiling the model.
pub fn run(args: &cli::Explain, context: &Context) -> Result<Report, Failed> {
    let Some(subject) = &args.subject else { return Ok(every_code(args.markdown)) };
    if let Some((code, title, explanation)) = codes::all().into_iter().find(|(code, ..)| code == subject) {
        let text = format!("{code}: {title}\n\n{explanation}\n");
        return Ok(Report::new(
            text,
            json!({ "ok": true, "code": code, "title": title, "explanation": explanation }),
        ));
    }
    if !Path::new(subject).exists() {
        let hint = "lacuna explain --all lists every code";
        return Err(Diagnostic::new(codes::NO_CODE, format!("`{subject}`")).hint(hint).into());
    }
    let settings = Settings::new(&args.options)?;
    let path = Path::new(subject);
    let path = if path.is_dir() { path.join("model.onnx") } else { path.to_owned() };
    let compiled = settings.compile(&Model::read(&path)?, context, None)?;
    Ok(rewrites(&compiled))
}

fn every_code(markdown: bool) -> Report {
    let all = codes::all();
    let mut text = String::new();
    if markdown {
        text += "# Errors\n\n<!-- Written by `cargo xtask docs` from the tables of codes. -->\n\n\
                 `lacuna explain CODE` prints the same text. The exit status is 1 when outputs differ, 2 for bad usage or \
                 input, 3 for a model that is not supported, and 4 for a trap.\n";
    }
    for (code, title, explanation) in &all {
        let head =
            if markdown { format!("\n## {code}: {title}\n\n") } else { format!("{code}: {title}\n  ") };
        text += &format!("{head}{explanation}\n");
    }
    let json: Vec<Value> = all
        .iter()
        .map(|(code, title, text)| json!({ "code": code, "title": title, "explanation": text }))
        .collect();
    Report::new(text, json!({ "ok": true, "codes": json }))
}

fn rewrites(compiled: &Compiled) -> Report {
    let node = |o: &lacuna_ir::OriginId| compiled.imported.origins[*o].node.clone();
    let mut text = compiled.report.to_string();
    let mut applied = Vec::new();
    for a in &compiled.report.applied {
        let nodes: Vec<String> = a.origins.iter().map(node).collect();
        text += &format!("\n{}  [{}]\n  {}\n  {}\n", a.rule, nodes.join(", "), a.before, a.after);
        applied.push(json!({ "rule": a.rule, "before": a.before, "after": a.after, "nodes": nodes }));
    }
    if !compiled.assignments.is_empty() {
        text += "\nformats of contractions\n";
    }
    let mut formats = Vec::new();
    for a in &compiled.assignments {
        let nodes: Vec<String> = a.origins.iter().map(node).collect();
        let [x, y] = a.formats.map(|f| f.to_string());
        let kept = a.kept.map_or_else(String::new, |reason| format!(", kept: {reason}"));
        text += &format!("  {x} x {y}  [{}]{kept}\n", nodes.join(", "));
        formats.push(json!({ "nodes": nodes, "formats": [x, y], "kept": a.kept }));
    }
    if !compiled.refined.is_empty() {
        text += "\nweights\n";
    }
    let mut weights = Vec::new();
    for w in &compiled.refined {
        let nodes: Vec<String> = w.origins.iter().map(node).collect();
        let rotated = if w.rotated { ", rotated" } else { "" };
        let note = w.note.map_or_else(String::new, |note| format!(", {note}"));
        let (density, sqnr) = (w.density_percent, w.sqnr_db);
        text += &format!("  {sqnr:.2} dB, {density:.1}% non-zero{rotated}  [{}]{note}\n", nodes.join(", "));
        weights.push(json!({
            "nodes": nodes,
            "sqnr_db": sqnr,
            "density_percent": density,
            "rotated": w.rotated,
            "note": w.note,
        }));
    }
    let report = &compiled.report;
    let json = json!({
        "ok": true,
        "nodes_before": report.n_nodes.0,
        "nodes_after": report.n_nodes.1,
        "cost_before": report.cost.0,
        "cost_after": report.cost.1,
        "rewrites": applied,
        "formats": formats,
        "weights": weights,
    });
    Report::new(text, json)
}
