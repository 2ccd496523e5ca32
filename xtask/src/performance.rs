//! The page of modelled times: each workload on its target, and what the assumed figures of a target are worth.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lab::Lab;
use crate::status;

/// A workload: its folder, the target, the precision.
type Run = (&'static str, &'static str, &'static str);

const WORKLOADS: &[Run] = &[
    ("square-4096", "mtia-300", "mxfp8"),
    ("square-4096", "mtia-500", "mxfp4"),
    ("decode-product", "mtia-300", "mxfp8"),
    ("decode-product", "mtia-500", "mxfp8"),
    ("resnet50-b1", "mtia-300", "mxfp8"),
    ("resnet50-b16", "mtia-300", "mxfp8"),
    ("mobilenet-v3-large-b1", "mtia-300", "mxfp8"),
    ("mobilenet-v3-large-b16", "mtia-300", "mxfp8"),
    ("vit-b-16-b1", "mtia-300", "mxfp8"),
    ("vit-b-16-b8", "mtia-300", "mxfp8"),
    ("bert-base-b1", "mtia-300", "mxfp8"),
    ("bert-base-b8", "mtia-300", "mxfp8"),
    ("bert-base-b1", "mtia-500", "mxfp8"),
    ("llama-8b-prefill-512", "mtia-300", "mxfp8"),
    ("llama-8b-prefill-512", "mtia-500", "mxfp8"),
    ("llama-8b-decode-4096-b1", "mtia-300", "mxfp8"),
    ("llama-8b-decode-4096-b8", "mtia-300", "mxfp8"),
    ("llama-8b-decode-4096-b1", "mtia-500", "mxfp8"),
    ("llama-8b-decode-4096-b8", "mtia-500", "mxfp8"),
    ("digits-cnn", "mtia-300", "f32"),
    ("adder-llama", "mtia-300", "f32"),
];
/// The workloads whose idle engines are reported.
const IDLE: &[Run] = &[("resnet18-b1", "mtia-300", "mxfp8"), ("adder-llama", "mtia-300", "f32")];
/// The workloads that are timed again with other figures.
const SENSITIVE: &[Run] = &[
    ("bert-base-b1", "mtia-300", "mxfp8"),
    ("bert-base-b1", "mtia-500", "mxfp8"),
    ("resnet50-b1", "mtia-300", "mxfp8"),
    ("llama-8b-decode-4096-b1", "mtia-300", "mxfp8"),
];
/// Figures that are assumed, with the factors on them.
const FIGURES: &[&str] = &["launch", "barrier", "hbm_latency", "shared_sram_latency", "issue"];
const FACTORS: &[f64] = &[0.5, 2.0];
/// Models of the repository; the others are generated.
const OURS: &[&str] = &["digits-cnn", "adder-llama"];

const HEAD: &str = "# Performance

<!-- Written by `cargo xtask performance`, which runs `lacuna profile --json` on each workload. -->

How long whole models take on the machine model, and how far that is from what no program could beat. The model is exact arithmetic on
the instruction streams ([Architecture](architecture.md)), so the figures are the same on every host; `cargo xtask performance --python
PYTHON` writes this page, every figure of it, from models that `testdata/generate/workloads.py` makes.

- *kernels* run one after the other in *launches*: the PEs go from one to the next by themselves ([`chain`](isa.md#chain)).
- *bound* is the greatest of: multiply-accumulates over the peak of their formats, bytes that must cross HBM (constants, inputs and outputs,
  once), and one launch, load and store behind one another. *share* is the bound by the cycles.
";

const SENSITIVITY: &str = "
## What the assumptions are worth

No vendor publishes what launching a kernel, meeting, or a transfer's first byte takes. The figures below are assumed in the target files,
each with its reason (`lacuna targets NAME`); the table has the cycles with each of them halved and doubled (`--set FIGURE=VALUE`), as
a share of those with the assumed value. The program is compiled anew each time.
";

const IDLE_HEAD: &str = "
## Idle engines

Energy of engines that wait with power, and cycles in which they have none, of all engines of all PEs. A kernel gates each engine as soon as it has
issued the last instruction for it ([`gate`](isa.md#gate)).
";

/// Measures, and writes `docs/performance.md`.
pub fn run(root: &Path, python: &str, folder: &Path, keep: bool) -> Result<(), String> {
    if !keep {
        let script = root.join("testdata/generate/workloads.py");
        status(Command::new(python).arg(script).arg(folder))?;
    }
    let lab = Lab::new(root)?;
    let profile = |&(model, target, precision): &Run, more: &[&str]| {
        eprintln!("{model} {target} {precision} {}", more.join(" "));
        let at = if OURS.contains(&model) { lab.model(model) } else { folder.join(model) };
        let options = ["--json", "--target", target, "--precision", precision];
        lab.report(&["profile"], &at.join("model.onnx"), &[&options[..], more].concat())
    };
    let mut text = HEAD.to_owned();
    text += "\n| workload | target | formats | launches | kernels | cycles | us | bound | by | share |\n|---|---|---|";
    text += &"---:|".repeat(5);
    text += "---|---:|\n";
    let number = |report: &Value, name: &str| report[name].as_f64().ok_or_else(|| format!("no {name}"));
    let mut cycles_of = Vec::new();
    for run in WORKLOADS {
        let report = profile(run, &[])?;
        let cycles = number(&report, "cycles")?;
        cycles_of.push((*run, cycles));
        let kernels = report["kernels"].as_array().map_or(0, Vec::len);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {kernels} | {cycles} | {:.1} | {} | {} | {:.3} |",
            run.0,
            run.1,
            run.2,
            report["launches"],
            number(&report, "microseconds")?,
            report["bound_cycles"],
            report["bound"].as_str().unwrap_or("-"),
            number(&report, "fraction")?,
        );
    }
    text += SENSITIVITY;
    text += "\n| figure | factor |";
    SENSITIVE.iter().for_each(|(model, target, _)| text += &format!(" {model}, {target} |"));
    text += &format!("\n|---|---:|{}\n", "---:|".repeat(SENSITIVE.len()));
    for figure in FIGURES {
        for factor in FACTORS {
            let _ = write!(text, "| {figure} | {factor} |");
            for run in SENSITIVE {
                let known = cycles_of.iter().find(|(other, _)| other == run).map(|(_, cycles)| *cycles);
                let value = assumed(run.1, figure)? * factor;
                let changed = profile(run, &["--set", &format!("{figure}={value} cycle")])?;
                let ratio = number(&changed, "cycles")? / known.ok_or("a workload without cycles")?;
                let _ = write!(text, " {ratio:.3} |");
            }
            text.push('\n');
        }
    }
    text += IDLE_HEAD;
    text += "\n| workload | target | energy uJ | idle uJ | share |\n|---|---|---:|---:|---:|\n";
    for run in IDLE {
        let report = profile(run, &[])?;
        let (all, idle) = (number(&report, "energy_pj")?, number(&report["energy"], "idle")?);
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} | {:.3} |",
            run.0,
            run.1,
            all * 1e-6,
            idle * 1e-6,
            idle / all
        );
    }
    let path = root.join("docs/performance.md");
    fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Cycles that a shipped target's file gives for a figure.
fn assumed(target: &str, figure: &str) -> Result<f64, String> {
    let file = lacuna_isa::target_file::targets().iter().find(|file| file.name == target);
    let figures = file.map(lacuna_isa::target_file::TargetFile::figures).unwrap_or_default();
    let found = figures.iter().find(|(name, _)| *name == figure).map(|(_, figure)| figure.value);
    found.ok_or_else(|| format!("{target} has no {figure}"))
}
