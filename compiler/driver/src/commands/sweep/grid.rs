//! What a sweep varies: lists, ranges, and the points that they span.

use std::collections::BTreeSet;
use std::fmt::Display;

use lacuna_driver::diagnostics::Diagnostic;
use lacuna_driver::{codes, exec};
use lacuna_isa::target_file::Change;
use lacuna_optimize::{Precision, WeightSparsity};
use serde::{Deserialize, Serialize};

use crate::cli;

/// One point of a sweep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Target, or its file.
    pub target: String,
    /// Number formats.
    pub precision: String,
    /// Pattern that weights are pruned to; `none` leaves them.
    pub prune: String,
    /// Sizes of dimensions.
    pub dims: Vec<(String, u64)>,
    /// Figures of the target.
    pub changes: Vec<Change>,
}

impl Point {
    /// Sizes and figures for people.
    pub fn settings(&self) -> String {
        let dims = self.dims.iter().map(|(name, n)| format!("{name}={n}"));
        dims.chain(self.changes.iter().map(|(name, value)| format!("{name}={value}")))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The precision; those of the command line parse.
    pub fn precision(&self) -> Precision {
        self.precision.parse().unwrap_or_default()
    }

    /// The pattern.
    pub fn pattern(&self) -> Option<WeightSparsity> {
        self.prune.parse().ok()
    }
}

/// Every point, the last of the lists varying fastest.
///
/// # Errors
/// L0001 for a size or a figure with two lists, and for a value that stands in a list twice.
pub fn points(args: &cli::Sweep) -> Result<Vec<Point>, Diagnostic> {
    once("--dim", &args.dims)?;
    once("--set", &args.changes)?;
    let mut points = Vec::new();
    for target in &args.targets {
        for dims in combinations(&args.dims) {
            for changes in combinations(&args.changes) {
                for prune in &args.prune {
                    for precision in &args.precisions {
                        points.push(Point {
                            target: target.clone(),
                            precision: precision.to_string(),
                            prune: prune.clone(),
                            dims: dims.clone(),
                            changes: changes.clone(),
                        });
                    }
                }
            }
        }
    }
    Ok(points)
}

/// Refuses a name with two lists, whose rows would contradict one another, and a value that would be two equal rows.
fn once<T: Ord + Display>(option: &str, lists: &[(String, Vec<T>)]) -> Result<(), Diagnostic> {
    let mut names = BTreeSet::new();
    for (name, values) in lists {
        if !names.insert(name) {
            return Err(exec::twice(option, name).hint("give one list, such as NAME=1,8"));
        }
        let mut seen = BTreeSet::new();
        if let Some(value) = values.iter().find(|value| !seen.insert(*value)) {
            let reason = format!("{option} gives `{name}` the value {value} twice");
            return Err(Diagnostic::new(codes::USAGE, reason).hint("give it once"));
        }
    }
    Ok(())
}

/// One value of each list.
fn combinations<T: Clone>(lists: &[(String, Vec<T>)]) -> Vec<Vec<(String, T)>> {
    let mut all = vec![Vec::new()];
    for (name, values) in lists {
        let longer = |start: &Vec<(String, T)>| {
            let with = |value: &T| start.iter().cloned().chain([(name.clone(), value.clone())]).collect();
            values.iter().map(with).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_comes_once() {
        let lists = [("a".to_owned(), vec![1, 2]), ("b".to_owned(), vec![3, 4])];
        assert_eq!(combinations(&lists).len(), 4);
        assert_eq!(combinations::<u64>(&[]).len(), 1);
    }
}
