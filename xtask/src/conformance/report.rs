//! The table on the terminal and the page of the manual.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{NOISY_REFERENCES, Ran};
use crate::verify::{Outcome, Reason};

/// Counts of outcomes.
pub fn table(ran: &[Ran], seconds: f64) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for r in ran {
        *counts.entry(r.outcome.expectation()).or_default() += 1;
    }
    let mut text: String = counts.iter().map(|(what, n)| format!("{n:>6}  {what}\n")).collect();
    let _ = writeln!(text, "{:>6}  cases in {seconds:.1} s", ran.len());
    text
}

/// The page: counts, counts per operator, and what is refused with its reason.
pub fn page(ran: &[Ran]) -> String {
    let n_pass = ran.iter().filter(|r| matches!(r.outcome, Outcome::Pass)).count();
    let n_differ = ran.iter().filter(|r| matches!(r.outcome, Outcome::Wrong(_))).count();
    let noisy = NOISY_REFERENCES.join(", ");
    let mut text = String::from(
        "# Conformance\n\n<!-- Written by `cargo xtask conformance --renew` from a run of the whole suite. -->\n\n",
    );
    let _ = write!(
        text,
        "{n_pass} of the {} cases of ONNX's backend test suite (the package `onnx` 1.22.0) hold: each is compiled to \
         instruction streams, run by the interpreter and compared with its reference outputs, at the suite's tolerance for \
         floating-point numbers (relative 1e-3, absolute 1e-7) and exactly for all others. Inputs that determine a shape are bound \
         to their test value. The others are refused with the reasons below, but for {n_differ}: {noisy}. Their references hold the \
         rounding errors of an FFT in f32 where the sum is 0, which is more than the suite's absolute tolerance.\n\n\
         `testdata/onnx/expected.txt` has the outcome of every case, and `cargo xtask conformance` fails where one differs.\n\n\
         ## Refused\n\n| cases | code | operator | reason |\n|---|---|---|---|\n",
        ran.len()
    );
    for ((code, op, reason), n) in refused(ran) {
        let _ = writeln!(text, "| {n} | {code} | {op} | {} |", reason.replace('|', "\\|"));
    }
    text += "\n## By operator\n\nThe cases whose graph uses the operator.\n\n| operator | cases | hold |\n|---|---|---|\n";
    for (operator, (all, pass)) in by_operator(ran) {
        let _ = writeln!(text, "| {operator} | {all} | {pass} |");
    }
    text
}

/// Cases by code, operator and reason, most frequent first. Names of values are left out, so that like reasons meet.
fn refused(ran: &[Ran]) -> Vec<((String, String, String), usize)> {
    let mut found: BTreeMap<(String, String, String), usize> = BTreeMap::new();
    for r in ran {
        let (Outcome::Refused(reason) | Outcome::BadInput(reason)) = &r.outcome else { continue };
        let Reason { code, op, message } = reason;
        let key = (code.clone(), op.clone().unwrap_or_default(), without_names(message));
        *found.entry(key).or_default() += 1;
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    found
}

/// The first line of a message with quoted names replaced by an ellipsis, except `ai.onnx` domains.
fn without_names(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let parts = line.split('`').enumerate().map(|(i, part)| match i % 2 {
        1 if !part.starts_with("ai.onnx") => "...",
        _ => part,
    });
    parts.collect::<Vec<_>>().join("`")
}

fn by_operator(ran: &[Ran]) -> BTreeMap<&str, (usize, usize)> {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for r in ran {
        for operator in &r.operators {
            let count = counts.entry(operator).or_default();
            count.0 += 1;
            count.1 += usize::from(matches!(r.outcome, Outcome::Pass));
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_reasons_meet() {
        assert_eq!(without_names("bad: input `x`: of `y` is\nmore"), "bad: input `...`: of `...` is");
        assert_eq!(without_names("no version of `ai.onnx`"), "no version of `ai.onnx`");
    }
}
