//! `lacuna bench`: how long the interpreter takes for a program, loading apart from running.

use std::time::Instant;

use serde_json::json;

use super::run::inputs;
use super::{Context, Model, Settings};
use crate::cli::Bench;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec::{self, Program};
use lacuna_driver::files;
use lacuna_driver::report::{self, Report};
use lacuna_driver::testset;

/// Runs the command.
///
/// # Errors
/// Those of reading the file, of compiling a model, and of running.
pub fn run(args: &Bench, context: &Context) -> Result<Report, Failed> {
    let file = testset::file_of(&args.file)?;
    let blob = files::read(&file)?;
    let mut warnings = Vec::new();
    let started = Instant::now();
    let made = if files::is_elf(&blob) { "read" } else { "compiled" };
    let object = if files::is_elf(&blob) {
        let object = exec::object(&blob, &file)?;
        super::compiled_already(&args.options, &object)?;
        object
    } else {
        let settings = Settings::new(&args.options)?;
        let model = Model { path: file.clone(), blob, folder: files::ModelFolder::of(&file)? };
        let compiled = settings.compile(&model, context, None)?;
        warnings.extend(compiled.warnings);
        compiled.object
    };
    let read = milliseconds(started);
    let started = Instant::now();
    let program = Program::load(&object, context.threads)?;
    let load = milliseconds(started);
    let (inputs, random) = inputs(&args.inputs, args.seed, program.entry())?;
    if !random.is_empty() {
        warnings.push(format!("random values of seed {} for {}", args.seed, random.join(", ")));
    }
    context.progress.step("running");
    let mut times = Vec::new();
    for _ in 0..args.warmup.saturating_add(args.runs) {
        let started = Instant::now();
        program.run(&inputs)?;
        times.push(milliseconds(started));
    }
    let first = times[0];
    let mut counted = times.split_off(args.warmup as usize);
    counted.sort_by(f64::total_cmp);
    let (least, most) = (counted[0], counted[counted.len() - 1]);
    let median = (counted[(counted.len() - 1) / 2] + counted[counted.len() / 2]) / 2.0;
    let target = exec::target_of(&object)?;
    let profile =
        lacuna_runtime::profile_with(&object, &target, 0, &lacuna_runtime::ProfileOptions::default())
            .map_err(|e| Diagnostic::new(codes::LOAD, e.to_string()))?;
    let rate = 2.0 * profile.macs as f64 / median / 1e6;
    let row = |what: &str, ms: f64| [what.to_owned(), format!("{ms:.3}")];
    let rows = [
        row(made, read),
        row("loaded", load),
        row("first run", first),
        row("least", least),
        row("median", median),
        row("greatest", most),
    ];
    let text = report::table(["", "ms"], rows, &[1])
        + &format!("{:.2} runs/s, {rate:.2} GFLOP/s in products\n", 1e3 / median);
    let json = json!({
        "ok": true,
        "read_ms": read,
        "load_ms": load,
        "first_ms": first,
        "least_ms": least,
        "median_ms": median,
        "greatest_ms": most,
        "runs": args.runs,
        "macs": profile.macs,
        "gflops": rate,
    });
    Ok(Report { warnings, ..Report::new(text, json) })
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
