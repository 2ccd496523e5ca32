//! `lacuna profile`: what an object file or a model costs on its target, by the machine model.

use lacuna_isa::inst::Engine;
use lacuna_isa::object::Object;
use lacuna_isa::target::Target;
use lacuna_runtime::profile::{Cause, LaunchProfile, MAX_EVENTS, N_CAUSES, Profile};
use lacuna_runtime::{LaunchRecord, ProfileOptions};
use serde_json::{Map, Value, json};

use super::run::inputs;
use super::{Context, Model, Settings, energy};
use crate::cli::{self, By};
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec::{self, Program};
use lacuna_driver::files;
use lacuna_driver::report::{self, Report};
use lacuna_driver::testset;
use lacuna_driver::trace;

/// Runs the command.
///
/// # Errors
/// Those of reading the file, of compiling a model, and of writing the trace.
pub fn run(args: &cli::Profile, context: &Context) -> Result<Report, Failed> {
    let file = testset::file_of(&args.file)?;
    let blob = files::read(&file)?;
    if let Some(path) = &args.trace {
        files::keep_input(&file, path)?;
    }
    let mut warnings = Vec::new();
    let (object, target) = if files::is_elf(&blob) {
        let object = exec::object(&blob, &file)?;
        super::compiled_already(&args.options, &object)?;
        let target = exec::target_of(&object)?;
        (object, target)
    } else {
        let settings = Settings::new(&args.options)?;
        let model = Model { path: file.clone(), blob, folder: files::ModelFolder::of(&file)? };
        let compiled = settings.compile(&model, context, None)?;
        warnings.extend(compiled.warnings);
        (compiled.object, settings.target)
    };
    let records = if args.run { record(args, &object, context)? } else { Vec::new() };
    let entry = exec::entry_of(&object, args.entry.as_deref())?;
    context.progress.step("replaying instructions");
    let options = ProfileOptions {
        activity: args.activity,
        records: &records,
        position: args.position,
        ..ProfileOptions::default()
    };
    let profile = lacuna_runtime::profile_with(&object, &target, entry, &options)
        .map_err(|e| Diagnostic::new(codes::LOAD, e.to_string()))?;
    let hot = energy::power_warnings(&profile, &target);
    if let Some(path) = &args.trace {
        if profile.events.len() >= MAX_EVENTS {
            warnings.push(format!("the trace has the first {MAX_EVENTS} instructions and no later ones"));
        }
        files::write(path, trace::chrome(&profile, &object, &target).as_bytes())?;
    }
    let rows = match args.by {
        By::Layer => layers(&profile, &object),
        By::Engine => engines(&profile, &target),
    };
    let mut text = rows + "\n" + &totals(&profile, &object, &target) + &energy::text(&profile, &target);
    if let Some(path) = &args.trace {
        text += &format!("trace: {}\n", path.display());
    }
    let mut json = json(&profile, &object, &target);
    json["trace"] = json!(args.trace);
    json["power_warnings"] = json!(hot);
    warnings.extend(hot);
    Ok(Report { warnings, ..Report::new(text, json) })
}

/// What each launch did in one run of the program.
fn record(args: &cli::Profile, object: &Object, context: &Context) -> Result<Vec<LaunchRecord>, Failed> {
    let program = Program::load_entry(object, args.entry.as_deref(), context.threads)?;
    let (inputs, _) = inputs(&args.inputs, args.seed, program.entry())?;
    context.progress.step("running");
    program.record(&inputs)
}

/// Names of the ONNX nodes that a launch implements.
fn nodes<'o>(launch: &LaunchProfile, object: &'o Object) -> Vec<&'o str> {
    let origins = launch.origins.iter().filter_map(|&o| object.origins.get(o as usize));
    origins.map(|origin| origin.node.as_str()).collect()
}

/// Cycles of an engine, summed over PEs and launches.
fn busy_cycles(profile: &Profile, engine: usize) -> u64 {
    profile.launches.iter().map(|launch| launch.busy_cycles[engine]).sum()
}

/// Busy cycles of a launch's DPEs, summed over PEs.
fn dpe_cycles(launch: &LaunchProfile) -> u64 {
    let engines = Engine::ALL.into_iter().zip(launch.busy_cycles);
    engines.filter(|(engine, _)| *engine == Engine::Dpe).map(|(_, cycles)| cycles).sum()
}

/// A share of nothing is 0.
fn share(part: u64, whole: f64) -> f64 {
    if whole > 0.0 { part as f64 / whole } else { 0.0 }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn layers(profile: &Profile, object: &Object) -> String {
    let rows = profile.launches.iter().map(|launch| {
        let cycles = launch.end - launch.start;
        let names = nodes(launch, object);
        let names = match &names[..] {
            [] => "-".to_owned(),
            [one] => (*one).to_owned(),
            [first, rest @ ..] => format!("{first} +{}", rest.len()),
        };
        [
            launch.kernel.clone(),
            names,
            cycles.to_string(),
            percent(share(cycles, profile.cycles as f64)),
            launch.bound_cycles.to_string(),
            launch.bound.name().to_owned(),
            most(launch),
            dpe_cycles(launch).to_string(),
            report::bytes(launch.hbm_bytes),
            report::bytes(launch.sram_bytes),
            launch.macs.to_string(),
            launch.macs_skipped.to_string(),
        ]
    });
    let header = [
        "kernel", "nodes", "cycles", "share", "bound", "by", "mostly", "DPE busy", "HBM", "SRAM", "MACs",
        "skipped",
    ];
    report::table(header, rows, &[2, 3, 4, 7, 8, 9, 10, 11])
}

/// What the longest chain of waits of a launch is mostly made of, and its share of the cycles.
fn most(launch: &LaunchProfile) -> String {
    let cycles = (launch.end - launch.start) as f64;
    let causes = Cause::all().zip(launch.path);
    let most = causes.max_by(|a, b| a.1.total_cmp(&b.1)).filter(|&(_, spent)| spent > 0.0 && cycles > 0.0);
    most.map_or_else(
        || "-".to_owned(),
        |(cause, spent)| format!("{} {:.0}%", cause.name(), 100.0 * spent / cycles),
    )
}

/// Cycles of a chain of waits by cause, the greatest first; none that is 0.
fn spent(path: &[f64]) -> Vec<(String, f64)> {
    let causes = Cause::all().map(Cause::name).zip(path.iter().copied());
    let mut spent: Vec<(String, f64)> = causes.filter(|&(_, cycles)| cycles > 0.0).collect();
    spent.sort_by(|a, b| b.1.total_cmp(&a.1));
    spent
}

/// The same for all launches, one after the other, and what goes by before they begin.
fn spent_in_all(profile: &Profile) -> Vec<(String, f64)> {
    let mut path = [0.0; N_CAUSES];
    for launch in &profile.launches {
        path.iter_mut().zip(launch.path).for_each(|(all, own)| *all += own);
    }
    let mut all = spent(&path);
    let launching = launch_cycles(profile) as f64;
    all.extend((launching > 0.0).then(|| ("launch".to_owned(), launching)));
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}

fn by_cause(spent: Vec<(String, f64)>) -> Value {
    Value::Object(spent.into_iter().map(|(cause, cycles)| (cause, json!(cycles.round()))).collect())
}

/// Cycles that all instances of an engine have between the first launch and the end of the last.
fn capacity(profile: &Profile, target: &Target) -> f64 {
    profile.cycles as f64 * f64::from(target.n_pes())
}

fn engines(profile: &Profile, target: &Target) -> String {
    let rows = Engine::ALL.into_iter().enumerate().map(|(idx, engine)| {
        let busy = busy_cycles(profile, idx);
        [engine.name().to_owned(), busy.to_string(), percent(share(busy, capacity(profile, target)))]
    });
    report::table(["engine", "busy cycles", "utilisation"], rows, &[1, 2])
}

fn microseconds(cycles: u64, target: &Target) -> f64 {
    cycles as f64 / (target.clock_ghz * 1e3)
}

/// Cycles in which no launch runs.
fn launch_cycles(profile: &Profile) -> u64 {
    let running: u64 = profile.launches.iter().map(|launch| launch.end - launch.start).sum();
    profile.cycles.saturating_sub(running)
}

/// Launches that are chained to no other.
fn launches(profile: &Profile) -> usize {
    profile.launches.iter().filter(|launch| !launch.chained).count()
}

fn totals(profile: &Profile, object: &Object, target: &Target) -> String {
    format!(
        "{} for {}: {} cycles, {:.1} us at {} GHz on {} PEs; {} of {} kernels, {} cycles before they begin\n\
         bound by {} {} cycles, {} of the time; what is waited for: {}\n\
         {} over HBM, {} over shared SRAM; {} MACs, {} skipped\n",
        object.name,
        target.name,
        profile.cycles,
        microseconds(profile.cycles, target),
        target.clock_ghz,
        target.n_pes(),
        match launches(profile) {
            1 => "1 launch".to_owned(),
            n => format!("{n} launches"),
        },
        profile.launches.len(),
        launch_cycles(profile),
        profile.bound.name(),
        profile.bound_cycles,
        percent(profile.fraction),
        spent_in_all(profile)
            .iter()
            .map(|(cause, cycles)| (cause, cycles / profile.cycles as f64))
            .filter(|(_, share)| *share >= 0.01)
            .map(|(cause, share)| format!("{cause} {}", percent(share)))
            .collect::<Vec<_>>()
            .join(", "),
        report::bytes(profile.hbm_bytes),
        report::bytes(profile.sram_bytes),
        profile.macs,
        profile.macs_skipped,
    )
}

fn json(profile: &Profile, object: &Object, target: &Target) -> Value {
    let kernels = profile.launches.iter().map(|launch| {
        let busy: Map<String, Value> = Engine::ALL
            .into_iter()
            .zip(launch.busy_cycles)
            .map(|(engine, cycles)| (engine.name().to_owned(), json!(cycles)))
            .collect();
        json!({
            "name": launch.kernel,
            "nodes": nodes(launch, object),
            "sparse": launch.sparse,
            "chained": launch.chained,
            "start": launch.start,
            "cycles": launch.end - launch.start,
            "bound_cycles": launch.bound_cycles,
            "bound": launch.bound.name(),
            "dpe_cycles": dpe_cycles(launch),
            "busy_cycles": busy,
            "spent": by_cause(spent(&launch.path)),
            "hbm_bytes": launch.hbm_bytes,
            "sram_bytes": launch.sram_bytes,
            "energy_pj": energy::known(launch.energy_pj, target),
            "energy": energy::by_action(&launch.energy, target),
            "average_power_w": energy::watts(launch.energy_pj, launch.end - launch.start, target),
            "macs": launch.macs,
            "macs_skipped": launch.macs_skipped,
        })
    });
    let engines = Engine::ALL.into_iter().enumerate().map(|(idx, engine)| {
        let busy = busy_cycles(profile, idx);
        let utilisation = share(busy, capacity(profile, target));
        let idle: u64 = profile.launches.iter().map(|launch| launch.idle_cycles[idx]).sum();
        json!({
            "name": engine.name(), "busy_cycles": busy, "idle_cycles": idle, "utilisation": utilisation
        })
    });
    json!({
        "ok": true,
        "target": target.name,
        "clock_ghz": target.clock_ghz,
        "pes": target.n_pes(),
        "cycles": profile.cycles,
        "microseconds": microseconds(profile.cycles, target),
        "launches": launches(profile),
        "launch_cycles": launch_cycles(profile),
        "bound_cycles": profile.bound_cycles,
        "bound": profile.bound.name(),
        "fraction": profile.fraction,
        "spent": by_cause(spent_in_all(profile)),
        "hbm_bytes": profile.hbm_bytes,
        "sram_bytes": profile.sram_bytes,
        "energy_pj": energy::known(profile.energy_pj, target),
        "energy": energy::by_action(&profile.energy, target),
        "average_power_w": energy::watts(profile.energy_pj, profile.cycles, target),
        "tdp_w": target.tdp_w,
        "macs": profile.macs,
        "macs_skipped": profile.macs_skipped,
        "kernels": kernels.collect::<Vec<_>>(),
        "engines": engines.collect::<Vec<_>>(),
    })
}
