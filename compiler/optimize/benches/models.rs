//! What the exact phase does to real models: `cargo bench -p lacuna-optimize --bench models -- [MODEL.onnx | FOLDER]...`.
//!
//! Prints time and size for each model, then for each rule how often it fired and how often the result uses it, over
//! all models. Without arguments it takes the trained models of the repository. With `--precision=P`, operands of products are
//! converted too, and the rules of packing counted. Fails when the exact phase takes more than a second.

#[path = "../tests/exact/clock.rs"]
mod clock;
#[path = "../tests/exact/onnx_file.rs"]
mod onnx_file;

use std::path::PathBuf;

use lacuna_optimize::{Extraction, Options, Precision, Report, optimize, rule_names, select};

/// What the exact phase may take on one core.
const MAX_MS: f64 = 1e3;

fn main() {
    // Cargo passes `--bench`.
    let given: Vec<PathBuf> =
        std::env::args().skip(1).filter(|a| !a.starts_with('-')).map(PathBuf::from).collect();
    let precision: Option<Precision> = std::env::args()
        .find_map(|a| a.strip_prefix("--precision=").map(|p| p.parse().expect("a precision")));
    let mut too_slow = false;
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
        let optimized = optimize(module, &Options::default()).expect("a rule is defective");
        let (ms, report) = (started.ms(), optimized.report);
        let worse = greedy.cost.1 as f64 / report.cost.1.max(1) as f64;
        let costs = format!("{:.3e} -> {:.3e}", report.cost.0 as f64, report.cost.1 as f64);
        println!(
            "{name:<20}{ms:>10.1}{:>9}{:>9}{:>8}{:>8}{costs:>22}{worse:>9.3}{}",
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
        too_slow |= ms > MAX_MS;
        reports.push(report);
        if let Some(precision) = &precision {
            let options = Options { precision: *precision, ..Options::default() };
            let started = clock::Clock::start();
            let selected = select(optimized.module, &options).expect("a conversion does not fit");
            println!("{:<20}{:>10.1}  conversion to {precision}", "", started.ms());
            reports.push(selected.packing);
        }
    }
    println!("\n{:<36}{:>6}{:>9}{:>9}", "rule", "class", "fired", "used");
    for (rule, class) in rule_names() {
        let sum = |get: fn(lacuna_optimize::RuleCount) -> usize| {
            reports.iter().map(|r| get(r.count(rule))).sum::<usize>()
        };
        println!("{rule:<36}{:>6}{:>9}{:>9}", class.to_string(), sum(|c| c.fired), sum(|c| c.used));
    }
    assert!(!too_slow, "the exact phase takes at most {MAX_MS} ms");
}
