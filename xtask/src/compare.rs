//! The page of comparisons: chosen formats and exact extraction against uniform formats and greedy extraction.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::lab::Lab;

/// The rivals: one precision for all contractions.
const UNIFORM: &[&str] = &["bf16", "mxfp8", "mxfp4:mxfp8", "mxfp4"];
/// Models: name, whether it is one of the repository's, and whether accuracy is compared too.
const MODELS: &[(&str, bool, bool)] = &[
    ("adder-llama", true, true),
    ("bert-4l", false, false),
    ("resnet50", false, false),
    ("llama-8b-decode", false, false),
    ("llama-8b-prefill", false, false),
    ("bert-12l", false, false),
];

const HEAD: &str = "# Comparison

<!-- Written by `cargo xtask compare`, which runs `lacuna compare --json` on each model. -->

What choosing saves: `--precision auto` against the same pipeline with one precision for all contractions and greedy extraction from
the e-graph, in cycles of the machine model. `cargo xtask compare` writes this page, every figure of it; the models that are too large
for the repository come from `cargo xtask zoo` and have random weights.

Both sides are held to the same error. The uniform precision is run first, bit-exactly, on the model's test data; the
signal-to-noise ratio (SQNR) of its worst output against the f32 run, rounded down to hundredths of a dB, is the budget
(`--min-sqnr`) of the choice, which is run too. So the choice has at least the quality of its rival in each row.

- *uniform*: weights and activations, or WEIGHTS:ACTIVATIONS; *greedy* has terms chosen by the cost of their trees (`--extraction greedy`), *exact*
  by that of the set of values they need, as always otherwise: the difference between both is what extraction saves.
- *auto*: the choice under the budget, with exact extraction. *ratio* is greedy by auto, in cycles.
- *HBM* and *weights* are MB (10^6 bytes) over the port of HBM in one run, and of the weights in the object: greedy, then auto.
";

/// Measures, and writes `docs/comparison.md`.
pub fn run(root: &Path, zoo: Option<&Path>) -> Result<(), String> {
    let lab = Lab::new(root)?;
    let zoo = zoo.map_or_else(|| root.join("target/zoo"), Path::to_owned);
    let mut tables = String::new();
    let mut summary =
        "\n| model | ratio, least | geometric mean | greatest |\n|---|---:|---:|---:|\n".to_owned();
    for &(model, ours, by_drop) in MODELS {
        let folder = if ours { lab.model(model) } else { zoo.join(model) };
        if !folder.exists() {
            return Err(format!("there is no {}; `cargo xtask zoo` makes it", folder.display()));
        }
        let (text, ratios) = table(&lab, model, &folder, false)?;
        tables += &format!("\n## {model}\n{text}");
        let (least, most) = ratios.iter().fold((f64::INFINITY, 0.0f64), |(a, b), &r| (a.min(r), b.max(r)));
        let mean = (ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len().max(1) as f64).exp();
        let _ = writeln!(summary, "| {model} | {least:.3} | {mean:.3} | {most:.3} |");
        if by_drop {
            tables += "\nThe same where accuracy is the budget (`--max-drop`, by the points that the uniform precision loses):\n";
            tables += &table(&lab, model, &folder, true)?.0;
        }
        // Large models take minutes: what is there can be read meanwhile.
        let path = root.join("docs/comparison.md");
        fs::write(&path, [HEAD, &summary, &tables].concat())
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// The table of one model, and its ratios.
fn table(lab: &Lab, model: &str, folder: &Path, by_drop: bool) -> Result<(String, Vec<f64>), String> {
    eprintln!("{model}{}", if by_drop { ", by accuracy" } else { "" });
    let mut options: Vec<&str> = UNIFORM.iter().flat_map(|u| ["--uniform", u]).collect();
    options.extend(by_drop.then_some("--by-drop"));
    let report = lab.report(&["compare", "--json"], folder, &options)?;
    let unit = if by_drop { "points lost" } else { "SQNR dB" };
    let mut text = format!(
        "\n| uniform | greedy | exact | auto | ratio | {unit}, greedy | auto | HBM | | weights | |\n|---|{}\n",
        "---:|".repeat(10)
    );
    let mut ratios = Vec::new();
    for row in report["rows"].as_array().ok_or("no rows")? {
        let number = |side: &str, name: &str| {
            row[side][name].as_f64().ok_or_else(|| format!("no {side} {name} of {model}"))
        };
        let quality = |side: &str| number(side, if by_drop { "drop" } else { "sqnr_db" });
        let ratio = number("greedy", "cycles")? / number("chosen", "cycles")?;
        ratios.push(ratio);
        let exact =
            number("uniform_exact", "cycles").map_or_else(|_| "-".to_owned(), |cycles| cycles.to_string());
        let _ = writeln!(
            text,
            "| `{}` | {} | {exact} | {} | {ratio:.3} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            row["uniform"].as_str().unwrap_or("?"),
            number("greedy", "cycles")?,
            number("chosen", "cycles")?,
            quality("greedy")?,
            quality("chosen")?,
            number("greedy", "hbm_bytes")? / 1e6,
            number("chosen", "hbm_bytes")? / 1e6,
            number("greedy", "weight_bytes")? / 1e6,
            number("chosen", "weight_bytes")? / 1e6,
        );
    }
    Ok((text, ratios))
}
