//! What `lacuna verify` reports.

use lacuna_driver::compare::{Accuracy, Criterion, OutputStats, Tolerance};
use lacuna_driver::diagnostics::Exit;
use lacuna_driver::quantum::Quantum;
use lacuna_driver::report::{self, Report};
use lacuna_driver::selection;
use lacuna_isa::format::ScalarType;
use lacuna_optimize::{Budget, Precision};
use serde_json::json;

use super::{Settings, Totals};

/// Why accuracy is below what the budget allows, if so.
fn lost(totals: &Totals) -> Option<String> {
    let Some(Budget::MaxDrop(points)) = totals.budget else { return None };
    let (found, expected) = (totals.accuracy.percent()?, totals.reference_accuracy.percent()?);
    // A tenth of a millionth of a point is rounding.
    let lost = Some(expected - found).filter(|lost| *lost > points + 1e-7)?;
    Some(format!("accuracy is {lost:.2} points below the reference, more than {points}"))
}

fn closeness(atol: f64, rtol: f64) -> String {
    if atol == 0.0 && rtol == 0.0 { "equal".to_owned() } else { format!("|a - b| <= {atol} + {rtol} |b|") }
}

/// The bound of each element type among the outputs, in order; its name where there are several.
fn by_type(tolerance: Tolerance, types: &[ScalarType]) -> String {
    let mut rules: Vec<(ScalarType, String)> = Vec::new();
    for &elem in types {
        let (atol, rtol) = tolerance.of(elem);
        if rules.iter().all(|(other, _)| *other != elem) {
            rules.push((elem, closeness(atol, rtol)));
        }
    }
    match &rules[..] {
        [(_, rule)] => rule.clone(),
        _ => rules.iter().map(|(elem, rule)| format!("{elem}: {rule}")).collect::<Vec<_>>().join(", "),
    }
}

/// The outputs that may be one quantum off.
fn quanta_text(totals: &Totals) -> String {
    let one = |(name, Quantum { node, op, step }): (&String, &Quantum)| {
        format!("; {name}: one quantum of {node} ({op}), {step}")
    };
    totals.quanta.iter().map(one).collect()
}

/// The report of a verification: a table of outputs, accuracy, what was chosen, and whether everything holds.
pub(super) fn report(
    totals: Totals,
    settings: &Settings,
    criterion: Criterion,
    (reference, is_noise): (&str, bool),
    held_out: bool,
) -> Report {
    let mut violations: Vec<String> = totals
        .outputs
        .iter()
        .filter_map(|o| o.violation(criterion).map(|what| format!("{}: {what}", o.name)))
        .collect();
    if !is_noise {
        violations.extend(lost(&totals));
    }
    let ok = violations.is_empty();
    let rows = totals.outputs.iter().map(OutputStats::row);
    let header = ["output", "max abs err", "max rel err", "SQNR", "top-1 agreement", "of all positions"];
    let mut text = if totals.outputs.iter().any(OutputStats::is_partly_scored) {
        report::table(header, rows, &[1, 2, 3, 4, 5])
    } else {
        let [header @ .., _] = header;
        let rows = rows.map(|[row @ .., _]| row);
        report::table(header, rows, &[1, 2, 3, 4])
    };
    let accuracy = totals.accuracy.percent();
    if let (Some(found), Some(expected)) = (accuracy, totals.reference_accuracy.percent()) {
        let Accuracy { n_right, n_samples } = totals.accuracy;
        text += &format!("accuracy {found:.2}% ({n_right} of {n_samples}), reference {expected:.2}%\n");
    }
    if held_out {
        text += "each half of the samples is scored with what was measured on the other half\n";
    }
    for name in &totals.bound {
        text += &format!("input `{name}` was bound to its test value\n");
    }
    let rule = match criterion {
        Criterion::Close { atol, rtol } => closeness(atol, rtol),
        Criterion::CloseByType(tolerance) => by_type(tolerance, &totals.types) + &quanta_text(&totals),
        Criterion::Agreement { min_percent } => format!("top-1 agreement of at least {min_percent}%"),
        Criterion::Sqnr { min_db } => format!("SQNR of at least {min_db} dB"),
        Criterion::Report if is_noise => "none on random inputs; give --input and --expect".to_owned(),
        Criterion::Report => match totals.budget {
            Some(Budget::MaxDrop(points)) => format!("at most {points} points of accuracy lost"),
            Some(Budget::MinSqnr(_) | Budget::MaxBytes(_)) | None => "none at this precision".to_owned(),
        },
    };
    if let Some((chosen, _)) = &totals.selection {
        text += chosen;
    }
    if !totals.weights.is_empty() && settings.precision != Precision::F32 {
        text += &selection::weights_text(&totals.weights);
    }
    text += &format!(
        "{} for {}, {}, against {reference}; bound: {rule}\ncompiled in {:.2} s, ran in {:.2} s\n",
        if ok { "holds" } else { "DIFFERS" },
        settings.target.name,
        settings.precision,
        totals.compile_seconds,
        totals.run_seconds
    );
    for violation in &violations {
        text += &format!("differs: {violation}\n");
    }
    let json = json!({
        "ok": ok,
        "target": settings.target.name,
        "precision": settings.precision.to_string(),
        "reference": reference,
        "held_out": held_out,
        "outputs": totals.outputs.iter().map(|o| o.json(criterion)).collect::<Vec<_>>(),
        "accuracy": accuracy,
        "reference_accuracy": totals.reference_accuracy.percent(),
        "bound_inputs": totals.bound,
        "quanta": totals.quanta.iter().map(|(name, Quantum { node, op, step })| {
            json!({ "output": name, "node": node, "op": op, "step": step })
        }).collect::<Vec<_>>(),
        "weights": selection::weights_json(&totals.weights),
        "four_bit_weights": selection::four_bit_share(&totals.weights),
        "selection": totals.selection.map(|(_, json)| json),
        "compile_seconds": totals.compile_seconds,
        "run_seconds": totals.run_seconds,
    });
    let exit = if ok { Exit::Holds } else { Exit::Differs };
    Report { warnings: totals.warnings, exit, ..Report::new(text, json) }
}
