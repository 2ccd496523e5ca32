//! `--precision auto`: the budget, the data it is judged on, and what is reported of the choice.

use std::time::Instant;

use lacuna_ir::{Blob, Module};
use lacuna_isa::format::Format;
use lacuna_optimize::{Budget, Options, ParetoPoint, SelectError, Selected, Survey, Verdict, WeightShare};
use serde_json::{Value, json};

use crate::codes;
use crate::diagnostics::{Diagnostic, Failed};
use crate::generation::unselected;
use crate::measure::{Failure, Interpreter};
use crate::progress::Progress;
use crate::report::{self, decibels};
use crate::request::Request;
pub use crate::request::SelectionRequest;

/// Points of accuracy that may be lost unless a budget is given and where the data can tell.
pub const DEFAULT_MAX_DROP: f64 = 0.5;
/// Signal to noise in dB that is asked for unless a budget is given and where accuracy cannot be judged.
pub const DEFAULT_MIN_SQNR: f64 = 20.0;

/// A choice with everything that it was made from.
pub struct Selection {
    /// The budget.
    pub budget: Budget,
    /// The candidates.
    pub survey: Survey,
    /// What was chosen and why.
    pub verdict: Verdict,
    /// Whether sensitivities come from random inputs.
    pub is_random: bool,
    /// Seconds that the choice took without its measurements.
    pub solve_seconds: f64,
}

/// The interpreter for the entry of a module, on the data of the request.
///
/// # Errors
/// As [`Interpreter::new`].
pub fn interpreter<'a>(
    module: &Module,
    request: &'a Request<'_>,
    progress: &'a Progress,
) -> Result<Interpreter<'a>, Failed> {
    let wanted = &request.selection;
    let bound = |name: &str| -> Option<Blob> { request.bindings.get(name).map(|l| l.data.clone()) };
    let mut interpreter = Interpreter::new(
        module,
        request.target,
        progress,
        wanted.threads,
        &wanted.data,
        wanted.data_must_fit,
        &bound,
    )?;
    interpreter.resolve(match wanted.budget {
        Some(Budget::MaxDrop(points)) => points,
        Some(Budget::MinSqnr(_) | Budget::MaxBytes(_)) | None => DEFAULT_MAX_DROP,
    });
    Ok(interpreter)
}

/// The candidates of every contraction of a module after the exact phase.
///
/// # Errors
/// When the reference cannot be run.
pub fn survey(
    optimized: &Module,
    request: &Request<'_>,
    options: &Options,
    interpreter: &mut Interpreter<'_>,
) -> Result<Survey, Failed> {
    Survey::new(optimized, request.target, options, interpreter).map_err(failed)
}

/// Chooses formats under the budget of the request.
///
/// # Errors
/// L0019 when nothing is within the budget, L0020 when the data cannot judge it, and those of running the model.
pub fn choose(
    optimized: &Module,
    request: &Request<'_>,
    options: &Options,
    progress: &Progress,
) -> Result<(Selected, Selection), Failed> {
    let started = Instant::now();
    let mut interpreter = interpreter(optimized, request, progress)?;
    let mut survey = survey(optimized, request, options, &mut interpreter)?;
    let budget = match request.selection.budget {
        Some(budget) => budget,
        None => default_budget(&survey, &interpreter),
    };
    let chosen = survey.choose(budget, &mut interpreter).map_err(failed)?;
    let (mut selected, verdict) = (chosen.selected, chosen.verdict);
    let is_random = interpreter.is_random;
    let solve_seconds = started.elapsed().saturating_sub(interpreter.spent).as_secs_f64();
    if is_random {
        let warning = "errors were measured on random inputs; --calibrate DIR measures them on real ones";
        selected.warnings.push(warning.to_owned());
    }
    if matches!(budget, Budget::MaxDrop(_)) && verdict.point.drop.is_some_and(|d| !d.held_out) && !is_random {
        let warning = "half of the samples cannot tell this loss, so that all of them judge it, also those that sensitivities were \
                       measured on";
        selected.warnings.push(warning.to_owned());
    }
    if let Some(name) = &verdict.uniform {
        selected
            .warnings
            .push(format!("the machine model prefers {name} everywhere to the solution, so that is taken"));
    }
    Ok((selected, Selection { budget, survey, verdict, is_random, solve_seconds }))
}

fn default_budget(survey: &Survey, interpreter: &Interpreter<'_>) -> Budget {
    let judged = survey.judged(interpreter).filter(|_| !interpreter.is_random);
    let resolves = judged.is_some_and(|d| 100.0 / d.n_judged.max(1) as f64 <= DEFAULT_MAX_DROP);
    if resolves { Budget::MaxDrop(DEFAULT_MAX_DROP) } else { Budget::MinSqnr(DEFAULT_MIN_SQNR) }
}

/// The findings of a choice that failed.
pub fn failed(error: SelectError<Failure>) -> Failed {
    let judge = "bound the error itself with --min-sqnr DB";
    match error {
        SelectError::Measure(failure) => failure.0,
        SelectError::Optimize(e) => unselected(e),
        SelectError::NoClasses => Diagnostic::new(codes::UNJUDGED, error.to_string()).hint(judge).into(),
        SelectError::TooFew { step, .. } => {
            let hint = format!(
                "give more data with --calibrate DIR, allow --max-drop {:.2}, or {judge}",
                step + 0.005
            );
            Diagnostic::new(codes::UNJUDGED, error.to_string()).hint(hint).into()
        }
        SelectError::OverBudget { .. } => {
            let hint = "allow more error, or more bytes";
            Diagnostic::new(codes::BUDGET, error.to_string()).hint(hint).into()
        }
    }
}

/// A budget as it was asked for.
pub fn budget_text(budget: Budget) -> String {
    match budget {
        Budget::MinSqnr(db) => format!("SQNR of at least {db} dB"),
        Budget::MaxDrop(points) => format!("at most {points} points of accuracy lost"),
        Budget::MaxBytes(bytes) => format!("weights of at most {}", report::bytes(bytes)),
    }
}

/// How much of a budget a choice uses.
fn used_text(budget: Budget, point: &ParetoPoint) -> String {
    match (budget, point.drop) {
        (Budget::MinSqnr(db), _) if point.sqnr_db.is_finite() => {
            format!("SQNR is {}, {:.1} dB more than asked for", decibels(point.sqnr_db), point.sqnr_db - db)
        }
        (Budget::MinSqnr(_), _) => "nothing differs".to_owned(),
        (Budget::MaxDrop(points), Some(drop)) => {
            format!(
                "used: {} of {points} points",
                drop_text(&ParetoPoint { drop: Some(drop), ..point.clone() })
            )
        }
        (Budget::MaxDrop(_), None) => "used: unknown".to_owned(),
        (Budget::MaxBytes(bytes), _) => {
            format!("used: {} of {}", report::bytes(point.machine.weight_bytes), report::bytes(bytes))
        }
    }
}

/// Joint choices that were run, by what was predicted of them.
fn tried_text(tried: &[(f64, bool)]) -> String {
    let one = |(error, holds): &(f64, bool)| {
        let db = decibels(lacuna_optimize::sqnr_db(*error));
        format!("{db} {}", if *holds { "holds" } else { "does not hold" })
    };
    if tried.is_empty() { "none".to_owned() } else { tried.iter().map(one).collect::<Vec<_>>().join(", ") }
}

/// How good the choice is known to be, under the same predicted error.
fn proof_text(gap: f64) -> String {
    if gap <= 0.0 {
        "proven optimal in modelled cycles for its predicted error".to_owned()
    } else {
        format!("at most {:.2}% from the modelled optimum", 100.0 * gap)
    }
}

/// What accuracy was lost, for people.
pub fn drop_text(point: &ParetoPoint) -> String {
    match point.drop {
        None => "-".to_owned(),
        Some(drop) if drop.points <= 0.0 => "0".to_owned(),
        Some(drop) => format!("{:.2}", drop.points),
    }
}

/// Share of weights in formats of at most four bits for each element.
pub fn four_bit_share(weights: &[WeightShare]) -> f64 {
    let all: u64 = weights.iter().map(|w| w.elements).sum();
    let few = weights.iter().filter(|w| w.format.element().bits() <= 4);
    let few: u64 = few.map(|w| w.elements).sum();
    if all == 0 { 0.0 } else { few as f64 / all as f64 }
}

/// Formats of weights in one line.
pub fn weights_text(weights: &[WeightShare]) -> String {
    let all: u64 = weights.iter().map(|w| w.elements).sum();
    let share = |w: &WeightShare| {
        let percent = 100.0 * w.elements as f64 / all.max(1) as f64;
        format!("{percent:.1}% {} ({})", w.format, report::bytes(w.bytes))
    };
    let shares: Vec<String> = weights.iter().map(share).collect();
    format!("weights of contractions: {}\n", shares.join(", "))
}

/// Formats of weights for programs.
pub fn weights_json(weights: &[WeightShare]) -> Value {
    let all: u64 = weights.iter().map(|w| w.elements).sum();
    let one = |w: &WeightShare| {
        json!({
            "format": w.format.to_string(),
            "elements": w.elements,
            "bytes": w.bytes,
            "share": w.elements as f64 / all.max(1) as f64,
        })
    };
    weights.iter().map(one).collect()
}

/// What a choice cost and lost, in a few lines.
pub fn text(selection: &Selection) -> String {
    let Verdict { point, tried, gap, n_runs, .. } = &selection.verdict;
    let judged = point.drop.map_or_else(String::new, |drop| {
        let (what, unit) = if drop.by_labels { ("accuracy", "samples") } else { ("agreement", "positions") };
        let held_out = if drop.held_out { "held-out " } else { "" };
        format!("{} points of {what} lost on {} {held_out}{unit}, ", drop_text(point), drop.n_judged)
    });
    let attention =
        if selection.survey.narrows_attention(&point.choice) { "attention in bf16\n" } else { "" };
    format!(
        "budget: {}; {}\nchosen: {judged}{} at the worst output (predicted {}); modelled {:.0} cycles of contractions, {} of the \
         machine model in all\n{} forward passes, {} joint choices tried ({}); {}; {:.2} s without measurements\n{attention}",
        budget_text(selection.budget),
        used_text(selection.budget, point),
        decibels(point.sqnr_db),
        decibels(lacuna_optimize::sqnr_db(point.error)),
        point.cycles,
        point.machine.cycles,
        n_runs,
        tried.len(),
        tried_text(tried),
        proof_text(*gap),
        selection.solve_seconds,
    )
}

/// The same for programs.
pub fn json(selection: &Selection) -> Value {
    let verdict = &selection.verdict;
    let (kind, value) = match selection.budget {
        Budget::MinSqnr(db) => ("min_sqnr", json!(db)),
        Budget::MaxDrop(points) => ("max_drop", json!(points)),
        Budget::MaxBytes(bytes) => ("max_bytes", json!(bytes)),
    };
    let tried = verdict.tried.iter().map(
        |(error, holds)| json!({ "predicted_sqnr_db": lacuna_optimize::sqnr_db(*error), "holds": holds }),
    );
    json!({
        "budget": kind,
        "budget_value": value,
        "random_inputs": selection.is_random,
        "forward_passes": verdict.n_runs,
        "solve_seconds": selection.solve_seconds,
        "tried": tried.collect::<Vec<_>>(),
        "gap": verdict.gap,
        "uniform": verdict.uniform,
        "narrow_attention": selection.survey.narrows_attention(&verdict.point.choice),
        "point": point_json(&verdict.point),
    })
}

/// A choice with its figures for programs.
pub fn point_json(point: &ParetoPoint) -> Value {
    json!({
        "modelled_cycles": point.cycles,
        "cycles": point.machine.cycles,
        "weight_bytes": point.machine.weight_bytes,
        "hbm_bytes": point.machine.hbm_bytes,
        "predicted_sqnr_db": lacuna_optimize::sqnr_db(point.error),
        "sqnr_db": point.sqnr_db,
        "drop": point.drop.map(|d| d.points),
        "judged": point.drop.map(|d| d.n_judged),
        "by_labels": point.drop.map(|d| d.by_labels),
        "held_out": point.drop.map(|d| d.held_out),
    })
}

/// The formats of two operands, that of the weights first where only the second is constant.
pub fn weights_first([a, b]: [Format; 2], constant: [bool; 2]) -> [Format; 2] {
    if constant == [false, true] { [b, a] } else { [a, b] }
}
