//! Times an object's first entry: `cargo run --release -p lacuna-runtime --example launch_speed -- FILE.lac [RUNS [THREADS [BELOW]]]`.
//!
//! Prints the time of loading, least, median and greatest time of a run, and a hash of the outputs, by which two builds
//! can be compared.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::ExitCode;
use std::time::Instant;

use lacuna_isa::Blob;
use lacuna_isa::format::{ScalarType, pack};
use lacuna_isa::object::{Object, Port};
use lacuna_runtime::{Machine, Outcome, RunOptions};

/// Random bytes of a port: floats between -2 and 2, integers below a bound.
fn input(port: &Port, seed: u64, below: f64) -> Vec<u8> {
    let n = port.shape.iter().product::<u64>() as usize;
    let mut bytes = vec![0; port.elem.bytes_for(n as u64) as usize];
    let mut state = seed;
    for i in 0..n {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 40) as f64 / (1u64 << 24) as f64;
        let value = match port.elem {
            ScalarType::Bool => 1.0,
            ty if ty.is_float() => 4.0 * unit - 2.0,
            _ => (below * unit).floor(),
        };
        pack::set(&mut bytes, port.elem, i, port.elem.encode(value));
    }
    bytes
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let Some(path) = args.get(1) else {
        eprintln!("usage: launch_speed FILE.lac [RUNS [THREADS [BELOW]]]");
        return ExitCode::from(2);
    };
    let number = |at: usize, default: usize| args.get(at).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (runs, threads, below) = (number(2, 5).max(1), number(3, 0), number(4, 10) as f64);
    let blob = match std::fs::read(path) {
        Ok(bytes) => Blob::new(bytes),
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::from(2);
        }
    };
    let started = Instant::now();
    let object = Object::read(&blob).expect("an object file");
    let machine = Machine::load(&object).expect("an object that loads");
    let loading = started.elapsed().as_secs_f64() * 1e3;
    let entry = &object.entries[0];
    let inputs: Vec<Vec<u8>> =
        (1..).zip(&entry.inputs).map(|(seed, port)| input(port, seed, below)).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let options = RunOptions { threads, ..RunOptions::default() };
    let mut times = Vec::new();
    let mut hash = 0;
    for _ in 0..=runs {
        let started = Instant::now();
        let outcome = machine.run(&inputs, &options).expect("inputs that fit");
        times.push(started.elapsed().as_secs_f64() * 1e3);
        let mut hasher = DefaultHasher::new();
        match outcome {
            Outcome::Done { outputs, .. } => outputs.hash(&mut hasher),
            Outcome::Trap(trap) => {
                eprintln!("{trap}");
                return ExitCode::FAILURE;
            }
        }
        hash = hasher.finish();
    }
    let first = times.remove(0);
    times.sort_by(f64::total_cmp);
    let (least, median, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!(
        "load {loading:.1} ms, first {first:.1}, runs {least:.2} {median:.2} {most:.2} ms, outputs {hash:016x}"
    );
    ExitCode::SUCCESS
}
