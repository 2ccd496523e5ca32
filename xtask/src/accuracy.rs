//! The page of accuracies: every trained model, format and technique, measured by `lacuna verify`.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::lab::{CALIBRATE, Lab};

/// The trained models of the repository, and the formats of weights and activations in which each is measured.
const MODELS: &[(&str, &[&str])] = &[
    ("digits-cnn", &["mxfp8", "mxfp6", "mxint8", "nvfp4", "mxfp4:mxfp8", "mxfp4:mxfp6", "mxfp4"]),
    ("digits-cnn-24", &["mxfp8", "mxfp6", "mxint8", "mxfp4"]),
    ("adder-llama", &["mxfp8", "nvfp4", "mxfp4:mxfp8", "mxfp4"]),
];
/// What is done to weights, with the options that say so. [`CALIBRATE`] names the model's own data.
const TECHNIQUES: &[(&str, &[&str])] = &[
    ("direct cast", &[]),
    ("tosa scales", &["--scale-mode", "tosa"]),
    ("scale search", &["--scale-search", CALIBRATE]),
    ("Hadamard", &["--hadamard"]),
    ("compensated", &["--rounding", "compensated", CALIBRATE]),
    ("corrected", &["--rounding", "corrected", CALIBRATE]),
    ("tosa, corrected", &["--scale-mode", "tosa", "--rounding", "corrected", CALIBRATE]),
    (
        "tosa, Hadamard, compensated",
        &["--scale-mode", "tosa", "--hadamard", "--rounding", "compensated", CALIBRATE],
    ),
];
/// Models without zeros of their own, and the precisions in which they are pruned.
const PRUNED: (&[&str], &[&str]) = (&["digits-cnn", "adder-llama"], &["f32", "mxfp8", "mxfp4"]);
/// How weights are pruned.
const PRUNING: &[(&str, &[&str])] = &[
    ("dense", &[]),
    ("magnitude", &["--prune", "2:4"]),
    ("calibration", &["--prune", "2:4", "--prune-by", "calibration", CALIBRATE]),
    (
        "calibration, compensated",
        &["--prune", "2:4", "--prune-by", "calibration", "--rounding", "compensated", CALIBRATE],
    ),
    (
        "calibration, corrected",
        &["--prune", "2:4", "--prune-by", "calibration", "--rounding", "corrected", CALIBRATE],
    ),
];
/// Targets and options whose cycles are compared.
const COSTS: (&[&str], &[(&str, &[&str])]) = (
    &["mtia-300", "mtia-500"],
    &[
        ("mxfp8", &["--precision", "mxfp8"]),
        ("mxfp8, 2:4", &["--precision", "mxfp8", "--prune", "2:4"]),
        ("mxfp4", &["--precision", "mxfp4"]),
        ("mxfp4, Hadamard", &["--precision", "mxfp4", "--hadamard"]),
    ],
);
/// Models whose formats are chosen under a budget, and the precisions that are set against each other.
const BUDGETS: (&[&str], &[&[&str]]) = (
    &["digits-cnn", "adder-llama"],
    &[
        &["--precision", "f32"],
        &["--precision", "mxfp8"],
        &["--precision", "mxfp4"],
        &["--precision", "auto", "--max-drop", "0.5"],
    ],
);

const HEAD: &str = "# Accuracy

<!-- Written by `cargo xtask accuracy`, which runs `lacuna verify --json` and `lacuna profile --json`. -->

What number formats and pruning cost, and what the techniques of `compile` win back, on the trained models of
`testdata/models`. Each cell is accuracy in percent and, in brackets, the signal-to-noise ratio of the output in dB against
the f32 reference. `digits-cnn` and `digits-cnn-24` have 360 test images (one is 0.28 points), `adder-llama` 256 sums (one is 0.39
points).

Formats are WEIGHTS:ACTIVATIONS, one name for both. All of these were run on the machine, bit-exactly, not simulated in
floating point.

No cell is scored on what it was calibrated with: techniques that measure on inputs (`--calibrate` with the folder that is
verified) take one half of the samples to score the other, in turn, and the cell sums both halves. The models were trained on
other data, but the test sets are small, and a difference of one or two samples means nothing.

";

const NOTES: &str = "
- *direct cast*: scales by `tosa` for weights and `floor` for activations, each element to the nearest code.
- *tosa scales* (`--scale-mode tosa`): activations too get the smallest scale under which nothing overflows.
- *scale search* (`--scale-search`): the scales beside it are tried for each group of weights, by the error on the inputs.
- *Hadamard* (`--hadamard`): both operands are rotated in blocks of 32 along the summed dimension; at run time that is one more
  product for each quantised input (see Cycles).
- *compensated* (`--rounding compensated`): GPTQ; *corrected* (`--rounding corrected`): weights first move to make up for what the
  inputs have lost by then, in closed form, and are then rounded by GPTQ. Both cost nothing at run time.
";

/// The command of each column.
fn commands(columns: &[(&str, &[&str])]) -> String {
    let mut text = "\nThe command of a cell, from the root of the repository, with its row in place of `ROW`:\n\n| column | command |\n|---|---|\n".to_owned();
    for (name, options) in columns {
        let options = options.iter().map(|&option| match option {
            CALIBRATE => " --calibrate testdata/models/MODEL".to_owned(),
            option => format!(" {option}"),
        });
        let options: String = options.collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {name} | `lacuna verify testdata/models/MODEL --precision ROW{options}` |");
    }
    text
}

/// Measures, and writes `docs/accuracy.md`.
pub fn run(root: &Path) -> Result<(), String> {
    let lab = Lab::new(root)?;
    let mut page = HEAD.to_owned();
    for (model, formats) in MODELS {
        page += &lab.table(model, "Formats", formats, TECHNIQUES)?;
    }
    page += NOTES;
    page += &commands(TECHNIQUES);
    page += "\n## Pruning to 2:4\n\nTwo of each four consecutive weights stay (`--prune 2:4`), chosen before anything is quantised; the machine then \
             multiplies with `mmnm`. *calibration* weighs a magnitude by the size of the input that it meets (Wanda), and with a \
             rounding that compensates, weights that stay make up for those that go (SparseGPT).\n";
    for model in PRUNED.0 {
        page += &lab.table(model, "Pruned", PRUNED.1, PRUNING)?;
    }
    page += &commands(PRUNING);
    page += &lab.budgets()?;
    page += &lab.cycles()?;
    let path = root.join("docs/accuracy.md");
    fs::write(&path, page).map_err(|e| format!("{}: {e}", path.display()))
}

impl Lab {
    /// One row for each format, one column for each technique.
    fn table(
        &self,
        model: &str,
        title: &str,
        formats: &[&str],
        columns: &[(&str, &[&str])],
    ) -> Result<String, String> {
        let mut text = format!("\n### {model}\n\n| {title} |");
        columns.iter().for_each(|(name, _)| text += &format!(" {name} |"));
        text += &format!("\n|---|{}\n", "---:|".repeat(columns.len()));
        let folder = self.model(model);
        for format in formats {
            text += &format!("| `{format}` |");
            for (name, options) in columns {
                eprintln!("{model} {format} {name}");
                let options = [&["--precision", format], *options].concat();
                let report = self.report(&["verify", "--json"], &folder, &options)?;
                let accuracy = report["accuracy"].as_f64().ok_or("no accuracy")?;
                let sqnr = report["outputs"][0]["sqnr_db"].as_f64().unwrap_or(f64::INFINITY);
                let _ = write!(text, " {accuracy:.2} ({sqnr:.1}) |");
            }
            text += "\n";
        }
        Ok(text)
    }

    /// Formats that a budget chooses, beside uniform ones.
    fn budgets(&self) -> Result<String, String> {
        let mut text = "\n## Formats under a budget\n\n`--precision auto --max-drop 0.5` takes for each contraction the formats with the \
                        fewest modelled cycles that lose at most half a point in all. The loss is counted on the test samples, which \
                        are also what the choice is run on: unlike above, they are not held out.\n\n\
                        | model | options | accuracy % | points lost | SQNR dB | weights in 4 bits % |\n|---|---|---:|---:|---:|---:|\n"
            .to_owned();
        let (models, precisions) = BUDGETS;
        for model in models {
            for options in precisions {
                eprintln!("{model} {}", options.join(" "));
                let report = self.report(&["verify", "--json"], &self.model(model), options)?;
                let figure = |name: &str| report[name].as_f64().ok_or(format!("no {name}"));
                let (accuracy, reference) = (figure("accuracy")?, figure("reference_accuracy")?);
                let _ = writeln!(
                    text,
                    "| {model} | `{}` | {accuracy:.2} | {:.2} | {:.1} | {:.1} |",
                    options.join(" "),
                    reference - accuracy,
                    report["outputs"][0]["sqnr_db"].as_f64().unwrap_or(f64::INFINITY),
                    100.0 * figure("four_bit_weights")?,
                );
            }
        }
        Ok(text)
    }

    /// Modelled cycles, one row for each model and target.
    fn cycles(&self) -> Result<String, String> {
        let (targets, columns) = COSTS;
        let mut text =
            "\n## Cycles\n\nModelled cycles of the whole model (`lacuna profile`).\n\n| model | target |"
                .to_owned();
        columns.iter().for_each(|(name, _)| text += &format!(" {name} |"));
        text += &format!("\n|---|---|{}\n", "---:|".repeat(columns.len()));
        for model in PRUNED.0 {
            for target in targets {
                text += &format!("| {model} | {target} |");
                for (_, options) in columns {
                    let options = [&["--target", target], *options].concat();
                    let path = self.model(model).join("model.onnx");
                    let report = self.report(&["profile", "--json"], &path, &options)?;
                    let cycles = report["cycles"].as_u64().ok_or("no cycles")?;
                    let _ = write!(text, " {cycles} |");
                }
                text += "\n";
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page takes minutes to measure; what is not measured is held to the tables here.
    #[test]
    fn every_column_has_its_command() {
        let page = include_str!("../../docs/accuracy.md");
        for columns in [TECHNIQUES, PRUNING] {
            assert!(page.contains(&commands(columns)), "{}", commands(columns));
        }
        let calibrated = "--rounding corrected --calibrate testdata/models/MODEL`";
        assert!(commands(TECHNIQUES).contains(calibrated));
    }
}
