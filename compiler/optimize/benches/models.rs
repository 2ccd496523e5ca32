//! What the optimiser does to real models: `cargo bench -p lacuna-optimize --bench models -- [MODEL.onnx | FOLDER]...`.
//!
//! Prints time and size of the exact phase for each model, then the time of the whole optimiser for each precision, the least of
//! [`RUNS`]: the exact phase, and selection with all the weights that it rounds. At last, for each rule how often it fired and
//! how often the result uses it, over all of these runs. Without arguments it takes the trained models of the repository;
//! `--precision=P`, which may be repeated, takes the place of the precisions of [`PRECISIONS`]. Fails when the optimiser takes
//! more than a second.

#[path = "../tests/exact/clock.rs"]
mod clock;
#[path = "../tests/exact/onnx_file.rs"]
mod onnx_file;

use std::path::PathBuf;

use lacuna_optimize::{Extraction, Options, Precision, Report, RuleInfo, optimize, rule_table, select};

/// What the whole optimiser may take on one core.
const MAX_MS: f64 = 1e3;

/// One of every kind that treats weights differently: nothing to do, a cast, groups of bytes, of half bytes and of integers, and
/// pair shifts with bytes and without.
const PRECISIONS: [&str; 7] = ["f32", "bf16", "mxfp8", "mxfp4:mxfp8", "mxint8", "mx9", "mx6"];

/// How often the whole optimiser runs: a first run pays for memory that the system hands out anew.
const RUNS: usize = 3;

fn main() {
    // Cargo passes `--bench`.
    let given: Vec<PathBuf> =
        std::env::args().skip(1).filter(|a| !a.starts_with('-')).map(PathBuf::from).collect();
    let mut precisions: Vec<String> =
        std::env::args().filter_map(|a| a.strip_prefix("--precision=").map(str::to_owned)).collect();
    if precisions.is_empty() {
        precisions = PRECISIONS.map(str::to_owned).to_vec();
    }
    let mut slow = Vec::new();
    let paths = if given.is_empty() { onnx_file::trained() } else { given };
    println!(
        "{:<20}{:>10}{:>9}{:>9}{:>8}{:>8}{:>22}{:>9}",
        "model", "ms", "terms", "rounds", "nodes", "after", "cost", "greedy"
    );
    let mut reports: Vec<Report> = Vec::new();
    for path in paths {
        let file = if path.is_dir() { path.join("model.onnx") } else { path };
        let name = file
            .parent()
            .and_then(|p| p.file_name())
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let module = match onnx_file::import(&file) {
            Ok(module) => module,
            Err(reason) => {
                println!("{name:<20}{reason}");
                continue;
            }
        };
        let greedy = Options { extraction: Extraction::Greedy, ..Options::default() };
        let greedy = optimize(module.clone(), &greedy).expect("a rule is defective").report;
        let started = clock::Clock::start();
        let optimized = optimize(module.clone(), &Options::default()).expect("a rule is defective");
        let (exact_ms, report) = (started.ms(), optimized.report);
        let worse = greedy.cost.1 as f64 / report.cost.1.max(1) as f64;
        let costs = format!("{:.3e} -> {:.3e}", report.cost.0 as f64, report.cost.1 as f64);
        println!(
            "{name:<20}{exact_ms:>10.1}{:>9}{:>9}{:>8}{:>8}{costs:>22}{worse:>9.3}{}",
            report.n_terms,
            report.n_iterations,
            report.n_nodes.0,
            report.n_nodes.1,
            match (report.limited.is_empty(), report.unproven.is_empty()) {
                (true, true) => "",
                (true, false) => "  saturated, choice not proven to be best",
                (false, _) => "  not saturated",
            },
        );
        reports.push(report);
        for text in &precisions {
            let precision: Precision = text.parse().expect("a precision");
            // The exact phase leaves some rules out where weights get groups.
            let options = Options { precision, ..Options::default() };
            let mut ms = f64::INFINITY;
            for run in 0..RUNS {
                let own = module.clone();
                let started = clock::Clock::start();
                let optimized = optimize(own, &options).expect("a rule is defective");
                let selected = select(optimized.module, &options).expect("a conversion does not fit");
                ms = ms.min(started.ms());
                if run == 0 {
                    reports.push(selected.packing);
                }
            }
            println!("{:<20}{ms:>10.1}  with selection of {text}", "");
            if ms > MAX_MS {
                slow.push(format!("{name} with {text}"));
            }
        }
    }
    println!("\n{:<36}{:>6}{:>9}{:>9}", "rule", "class", "fired", "used");
    for RuleInfo { name: rule, class, .. } in rule_table() {
        let sum = |get: fn(lacuna_optimize::RuleCount) -> usize| {
            reports.iter().map(|r| get(r.count(rule))).sum::<usize>()
        };
        println!("{rule:<36}{:>6}{:>9}{:>9}", class.to_string(), sum(|c| c.fired), sum(|c| c.used));
    }
    assert!(slow.is_empty(), "the optimiser takes more than {MAX_MS} ms: {}", slow.join(", "));
}
