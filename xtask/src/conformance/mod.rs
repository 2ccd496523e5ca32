//! ONNX's backend test suite: every case through the command `lacuna`, and what is expected of each.

mod model;
mod report;
mod suite;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::verify::{self, Outcome};
use suite::Case;

/// The outcome that each case must have, one line each.
const EXPECTED: &str = "testdata/onnx/expected.txt";

/// The longest that a case may take. The slowest takes seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// The generated page of the manual.
const PAGE: &str = "docs/conformance.md";

/// Cases whose references hold the rounding errors of an FFT in f32, up to 1.9e-7, where the sum is 0: more than the suite's absolute
/// tolerance. They count as differing, not as held.
pub const NOISY_REFERENCES: &[&str] = &["node/test_dft_inverse", "node/test_dft_inverse_opset19"];

/// What to run.
pub struct Options {
    /// Folder with the groups of cases; the pinned release of the package `onnx` unless given.
    pub suite: Option<PathBuf>,
    /// Only cases whose name matches.
    pub filter: Option<String>,
    /// Whether outcomes become the expected ones.
    pub renew: bool,
    /// Python that fetches the package.
    pub python: String,
}

/// A case with what became of it.
struct Ran {
    case: Case,
    outcome: Outcome,
    /// Operator types of the model, `domain.Type` outside the standard domain.
    operators: Vec<String>,
}

/// Runs the suite, prints a table, and compares every outcome with the expected one or makes it that.
///
/// # Errors
/// When an outcome differs from the expected one, for the better or the worse, and when a case gives wrong outputs, does
/// not end, or ends in a way that no command may.
pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    let filter = options.filter.as_deref().map(Regex::new).transpose().map_err(|e| e.to_string())?;
    if options.renew && (filter.is_some() || options.suite.is_some()) {
        return Err("--renew takes the whole pinned suite: neither --filter nor --suite".to_owned());
    }
    let folder = match &options.suite {
        Some(folder) => folder.clone(),
        None => suite::fetch(&root.join("target"), &options.python)?,
    };
    let cases = suite::cases(&folder)?;
    let chosen = cases.into_iter().filter(|case| filter.as_ref().is_none_or(|f| f.is_match(&case.name)));
    let started = Instant::now();
    // As tests are built: sums that overflow end a case, and nothing is compiled once more.
    let ran = run_all(&verify::binary(root, "dev")?, chosen.collect())?;
    let seconds = started.elapsed().as_secs_f64();
    print!("{}", report::table(&ran, seconds));

    let explained = |r: &&Ran| {
        !(matches!(r.outcome, Outcome::Wrong(_)) && NOISY_REFERENCES.contains(&r.case.name.as_str()))
    };
    let fault = |r: &Ran| Some(format!("{}: {}", r.case.name, r.outcome.fault()?));
    let mut faults: Vec<String> = ran.iter().filter(explained).filter_map(fault).collect();
    if options.renew {
        for (name, text) in [(EXPECTED, expected_text(&ran)), (PAGE, report::page(&ran))] {
            fs::write(root.join(name), text).map_err(|e| format!("{name}: {e}"))?;
            println!("wrote {name}");
        }
    } else {
        let expected = read_expected(&root.join(EXPECTED))?;
        faults.extend(differences(&expected, &ran, filter.as_ref(), options.suite.is_none()));
    }
    if faults.is_empty() {
        return Ok(());
    }
    let hint = "if the change is meant: cargo xtask conformance --renew";
    Err(format!("{} cases are not as they must be\n{}\n{hint}", faults.len(), faults.join("\n")))
}

/// Every case in a process of its own.
fn run_all(binary: &Path, cases: Vec<Case>) -> Result<Vec<Ran>, String> {
    let outcomes = verify::for_each(&cases, |case| {
        let (rtol, atol) = case.tolerance;
        let mut command = Command::new(binary);
        command
            .args(["--json", "--threads", "1", "verify"])
            .args(["--rtol", &rtol.to_string(), "--atol", &atol.to_string()])
            .arg(&case.folder);
        verify::run(&mut command, LIMIT)
    });
    let ran = cases.into_iter().zip(outcomes).map(|(case, outcome)| {
        let operators = model::operators(&case.folder.join("model.onnx"))?;
        Ok(Ran { case, outcome: outcome?.0, operators })
    });
    ran.collect()
}

fn expected_text(ran: &[Ran]) -> String {
    ran.iter().map(|r| format!("{} {}\n", r.case.name, r.outcome.expectation())).collect()
}

fn read_expected(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let line = |line: &str| {
        let (name, outcome) = line.split_once(' ').ok_or_else(|| format!("{}: {line:?}", path.display()))?;
        Ok((name.to_owned(), outcome.to_owned()))
    };
    text.lines().map(line).collect()
}

/// Every case whose outcome is another than expected, and with `whole` every expected one that the suite lacks.
fn differences(
    expected: &BTreeMap<String, String>,
    ran: &[Ran],
    filter: Option<&Regex>,
    whole: bool,
) -> Vec<String> {
    let mut found = Vec::new();
    for r in ran {
        let outcome = r.outcome.expectation();
        match expected.get(&r.case.name) {
            Some(want) if *want == outcome => {}
            Some(want) => found.push(format!("{}: {outcome}, expected {want}", r.case.name)),
            None if whole => found.push(format!("{}: {outcome}, and no line expects it", r.case.name)),
            None => {}
        }
    }
    let missing = expected
        .keys()
        .filter(|name| whole && filter.is_none_or(|f| f.is_match(name)))
        .filter(|name| ran.binary_search_by(|r| r.case.name.as_str().cmp(name)).is_err());
    found.extend(missing.map(|name| format!("{name}: the suite has no such case")));
    found
}
