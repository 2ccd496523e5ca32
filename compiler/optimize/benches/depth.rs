//! How the time of the exact phase grows with depth: `cargo bench -p lacuna-optimize`.
//!
//! Prints the least of several runs for modules of 1, 2, 4, 12 and 48 equal layers. Given paths of text-form modules,
//! it measures those instead.

#[path = "../tests/exact/layers.rs"]
mod layers;

use std::time::{Duration, Instant};

use lacuna_ir::Module;
use lacuna_optimize::{Options, Report, optimize};

fn least(module: &Module, runs: usize) -> (Duration, Report) {
    let mut best: Option<(Duration, Report)> = None;
    for _ in 0..runs {
        let own = module.clone();
        let started = Instant::now();
        let report = optimize(own, &Options::default()).expect("a rule is defective").report;
        let time = started.elapsed();
        if best.as_ref().is_none_or(|b| time < b.0) {
            best = Some((time, report));
        }
    }
    best.expect("at least one run")
}

fn main() {
    println!("{:<10}{:>8}{:>12}{:>10}{:>10}{:>10}", "layers", "depth", "ms", "rounds", "nodes", "after");
    for kind in [layers::Kind::Encoder, layers::Kind::Decoder, layers::Kind::Residual] {
        for depth in [1, 2, 4, 12, 48] {
            let (time, report) = least(&layers::module(kind, depth), 5);
            let name = format!("{kind:?}").to_lowercase();
            let (ms, (before, after)) = (time.as_secs_f64() * 1e3, report.n_nodes);
            println!("{name:<10}{depth:>8}{ms:>12.2}{:>10}{before:>10}{after:>10}", report.n_iterations);
        }
    }
}
