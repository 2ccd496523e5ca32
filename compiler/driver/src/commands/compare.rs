//! `lacuna compare`: what choosing saves, at the error of uniform formats. For developers: `cargo xtask compare` makes a page of it.
//!
//! A rival is one precision for all contractions, with terms that were extracted greedily. Its error becomes the budget of the
//! choice, so that both are judged on the same inputs against the same reference, and the choice at equal or better error.

use lacuna_optimize::{
    Budget, Extraction, MachineCost, Measure, Outputs, Precision, noise_to_signal, sqnr_db,
};
use serde_json::{Value, json};

use super::{Context, Model, Settings, verify};
use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::measure::Failure;
use lacuna_driver::pipeline::{self, Watch};
use lacuna_driver::report::{self, Report};
use lacuna_driver::selection::{self, budget_text, point_json};
use lacuna_driver::testset::TestSet;

/// Budgets are whole hundredths of a dB, rounded down.
const DB_STEPS: f64 = 100.0;

/// Runs the command.
///
/// # Errors
/// Those of compiling the model and of measuring it.
pub fn run(args: &cli::Compare, context: &Context) -> Result<Report, Failed> {
    super::stateless(&args.options, "compare")?;
    let mut settings = Settings::measuring(&args.options)?;
    let set = TestSet::find(&args.model)?;
    let model = Model::read(&set.model)?;
    if set.has_data() {
        let data = set.load()?;
        if let Some(first) = data.first() {
            settings = verify::bind(&model, &settings, first, context).0;
        }
        settings.calibrate_on(&data);
    }
    settings.precision = Precision::Auto;
    let request = settings.request(&model, context.threads);
    let mut watch = Watch { progress: &context.progress, dump: None };
    let (imported, mut warnings) = pipeline::import(&request, &mut watch)?;
    let options = pipeline::options(&settings.target, settings.precision);
    let optimized =
        lacuna_optimize::optimize(imported, &options).map_err(|e| pipeline::contradiction("optimize", e))?;
    let optimized = optimized.module;
    let mut interpreter = selection::interpreter(&optimized, &request, &context.progress)?;
    let failed = |failure: Failure| failure.0;
    let reference = interpreter.run(&optimized).map_err(failed)?;
    let n_outputs = optimized.entries.first().map_or(0, |e| optimized.functions[e.func].results.len());
    let mut survey = selection::survey(&optimized, &request, &options, &mut interpreter)?;
    let known = survey.uniform_choices();

    let mut rows = Vec::new();
    for &precision in &args.uniform {
        let rival = Settings { precision, extraction: Extraction::Greedy, ..settings.clone() };
        let front = pipeline::front(&rival.request(&model, context.threads), &mut watch)?;
        let found: Outputs = interpreter.run(&front.selected.module).map_err(failed)?;
        let cost = interpreter.machine_cost(&front.selected).map_err(failed)?;
        drop(front);
        let db = sqnr_db(noise_to_signal(&reference, &found, n_outputs));
        let lost = interpreter.drop(&reference, &found);
        let budget = if args.by_drop {
            let lost = lost.ok_or_else(|| {
                Diagnostic::new(codes::UNJUDGED, "no output has classes, so there is no accuracy to lose")
            })?;
            Budget::MaxDrop(lost.points.max(0.0))
        } else {
            Budget::MinSqnr((db * DB_STEPS).floor() / DB_STEPS)
        };
        let chosen = survey.choose(budget, &mut interpreter).map_err(selection::failed)?;
        let same = known.iter().find(|(name, _)| *name == precision.to_string());
        let extracted = match same {
            Some((_, choice)) => Some(survey.point(choice, &mut interpreter).map_err(selection::failed)?),
            None => None,
        };
        rows.push(json!({
            "uniform": precision.to_string(),
            "budget": budget_text(budget),
            "greedy": cost_json(cost, db, lost.map(|d| d.points)),
            "uniform_exact": extracted.as_ref().map(point_json),
            "chosen": point_json(&chosen.verdict.point),
            "narrow_attention": survey.narrows_attention(&chosen.verdict.point.choice),
            "taken": chosen.verdict.uniform,
        }));
    }
    warnings.extend(survey.warnings.iter().cloned());
    let text = table(&rows);
    let json = json!({
        "ok": true,
        "target": settings.target.name,
        "random_inputs": interpreter.is_random,
        "contractions": survey.sites.len(),
        "rows": rows,
    });
    Ok(Report { warnings, ..Report::new(text, json) })
}

fn cost_json(cost: MachineCost, db: f64, drop: Option<f64>) -> Value {
    json!({
        "cycles": cost.cycles,
        "weight_bytes": cost.weight_bytes,
        "hbm_bytes": cost.hbm_bytes,
        "sqnr_db": db,
        "drop": drop,
    })
}

fn table(rows: &[Value]) -> String {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let rows = rows.iter().map(|row| {
        let (greedy, chosen) = (&row["greedy"], &row["chosen"]);
        let ratio = greedy["cycles"].as_f64().zip(chosen["cycles"].as_f64()).map_or(f64::NAN, |(a, b)| a / b);
        [
            text(&row["uniform"]),
            text(&row["budget"]),
            text(&greedy["cycles"]),
            text(&row["uniform_exact"]["cycles"]),
            text(&chosen["cycles"]),
            format!("{ratio:.3}"),
            text(&chosen["sqnr_db"]),
            text(&row["taken"]),
        ]
    });
    let header = ["uniform", "budget", "greedy", "exact", "chosen", "ratio", "chosen SQNR", "taken"];
    report::table(header, rows, &[2, 3, 4, 5, 6])
}
