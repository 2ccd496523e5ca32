//! How the time of the exact phase grows with depth: `cargo bench -p lacuna-optimize`.
//!
//! Prints the least processor time of several runs for modules of 1, 2, 4, 12 and 48 equal layers.

#[path = "../tests/exact/clock.rs"]
mod clock;
#[path = "../tests/exact/layers.rs"]
mod layers;

use lacuna_ir::Module;
use lacuna_optimize::{Options, Report, optimize};

fn least(module: &Module, runs: usize) -> (f64, Report) {
    let mut best: Option<(f64, Report)> = None;
    for _ in 0..runs {
        let own = module.clone();
        let started = clock::Clock::start();
        let report = optimize(own, &Options::default()).expect("a rule is defective").report;
        let time = started.ms();
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
            let (ms, report) = least(&layers::module(kind, depth), 5);
            let name = format!("{kind:?}").to_lowercase();
            let (before, after) = report.n_nodes;
            println!("{name:<10}{depth:>8}{ms:>12.2}{:>10}{before:>10}{after:>10}", report.n_iterations);
        }
    }
}
