//! How far outputs are from their references: errors, signal-to-noise ratio, top-1 agreement, accuracy.

use lacuna_isa::format::ScalarType;
use serde_json::{Value, json};

use crate::report::decibels;

/// Tolerances that were asked for. What was not asked for depends on an output's element type.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Tolerance {
    /// Absolute tolerance.
    pub atol: Option<f64>,
    /// Relative tolerance.
    pub rtol: Option<f64>,
}

impl Tolerance {
    /// Absolute and relative tolerance of elements of a type: some units in the last place of floats of 16 bits and more;
    /// none of other types, in which an error is a step or more, unless an absolute one was asked for.
    pub fn of(self, elem: ScalarType) -> (f64, f64) {
        let (atol, rtol) = match elem {
            ScalarType::F64 | ScalarType::F32 => (1e-5, 1e-3),
            ScalarType::F16 => (1e-3, 2e-3),
            ScalarType::Bf16 => (8e-3, 1.6e-2),
            _ => return self.atol.map_or((0.0, 0.0), |atol| (atol, self.rtol.unwrap_or(0.0))),
        };
        (self.atol.unwrap_or(atol), self.rtol.unwrap_or(rtol))
    }
}

/// Bounds that outputs must hold to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Criterion {
    /// Every element as in `Close`, with the tolerance of its output's element type.
    CloseByType(Tolerance),
    /// Every element: `|a - b| <= atol + rtol * |b|`, where b is the reference. NaN equals NaN.
    Close {
        /// Absolute tolerance.
        atol: f64,
        /// Relative tolerance.
        rtol: f64,
    },
    /// At least this share of the positions has its largest element where the reference has it.
    Agreement {
        /// In percent.
        min_percent: f64,
    },
    /// Signal to noise of at least this.
    Sqnr {
        /// In dB.
        min_db: f64,
    },
    /// Anything: the errors are reported and nothing is asked of them.
    Report,
}

impl Criterion {
    /// The criterion of an output of this element type.
    pub fn of(self, elem: ScalarType) -> Criterion {
        match self {
            Criterion::CloseByType(tolerance) => {
                let (atol, rtol) = tolerance.of(elem);
                Criterion::Close { atol, rtol }
            }
            Criterion::Close { .. }
            | Criterion::Agreement { .. }
            | Criterion::Sqnr { .. }
            | Criterion::Report => self,
        }
    }
}

/// Positions, and those of them whose largest element is where the reference has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Agreement {
    n_positions: u64,
    n_agree: u64,
}

impl Agreement {
    fn add(&mut self, agrees: bool) {
        self.n_positions += 1;
        self.n_agree += u64::from(agrees);
    }

    fn percent(self) -> Option<f64> {
        (self.n_positions > 0).then(|| 100.0 * self.n_agree as f64 / self.n_positions as f64)
    }
}

/// Errors of one output, summed over data sets.
#[derive(Clone, Debug)]
pub struct OutputStats {
    /// Name of the output.
    pub name: String,
    max_abs_err: f64,
    max_rel_err: f64,
    signal: f64,
    noise: f64,
    all: Agreement,
    scored: Agreement,
    n_elements: u64,
    n_outside: u64,
    first_outside: Option<String>,
    mismatch: Option<String>,
    /// Whether its agreement is reported and no more.
    exempt: bool,
}

impl OutputStats {
    /// Nothing compared yet.
    pub fn new(name: &str) -> OutputStats {
        OutputStats {
            name: name.to_owned(),
            max_abs_err: 0.0,
            max_rel_err: 0.0,
            signal: 0.0,
            noise: 0.0,
            all: Agreement::default(),
            scored: Agreement::default(),
            n_elements: 0,
            n_outside: 0,
            first_outside: None,
            mismatch: None,
            exempt: false,
        }
    }

    /// Asks for no agreement of this output.
    pub fn exempt(&mut self) {
        self.exempt = true;
    }

    /// Notes that type or shape differ, so that elements cannot be compared.
    pub fn mismatch(&mut self, what: String) {
        self.mismatch.get_or_insert(what);
    }

    /// Compares the elements of one tensor with its reference; both in row-major order of `shape`. `labels`, if any, has the
    /// shape of `shape` without its last dimension; a position with a negative label is not scored.
    pub fn add(
        &mut self,
        found: &[f64],
        reference: &[f64],
        shape: &[u64],
        labels: Option<&[i64]>,
        criterion: Criterion,
    ) {
        for (i, (&a, &b)) in found.iter().zip(reference).enumerate() {
            self.n_elements += 1;
            // Equal infinities have no difference, and NaN stands for every NaN.
            if a == b || (a.is_nan() && b.is_nan()) {
                if b.is_finite() {
                    self.signal += b * b;
                }
                continue;
            }
            let error = (a - b).abs();
            let error = if error.is_nan() { f64::INFINITY } else { error };
            self.max_abs_err = self.max_abs_err.max(error);
            if b != 0.0 {
                let relative = error / b.abs();
                self.max_rel_err =
                    self.max_rel_err.max(if relative.is_nan() { f64::INFINITY } else { relative });
            }
            if b.is_finite() {
                self.signal += b * b;
            }
            self.noise += error * error;
            if let Criterion::Close { atol, rtol } = criterion
                && !(b.is_finite() && error <= atol + rtol * b.abs())
            {
                self.n_outside += 1;
                self.first_outside
                    .get_or_insert_with(|| format!("{a} instead of {b} at {:?}", index(i, shape)));
            }
        }
        if let Some(width) = classes(shape) {
            let rows = found.chunks_exact(width).zip(reference.chunks_exact(width));
            for (position, (a, b)) in rows.enumerate() {
                let agrees = argmax(a) == argmax(b);
                self.all.add(agrees);
                let label = labels.and_then(|labels| labels.get(position));
                if label.is_none_or(|&label| label >= 0) {
                    self.scored.add(agrees);
                }
            }
        }
    }

    /// Greatest `|a - b|`.
    pub fn max_abs_err(&self) -> f64 {
        self.max_abs_err
    }

    /// Signal-to-noise ratio in dB: infinite where nothing differs.
    pub fn sqnr_db(&self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() }
    }

    /// Percentage of the scored positions whose largest element along the last axis is where the reference has it; of all
    /// positions where none is scored. `None` for outputs whose last dimension has fewer than two elements.
    pub fn agreement_percent(&self) -> Option<f64> {
        self.scored.percent().or_else(|| self.all.percent())
    }

    /// The same of all positions, scored or not.
    pub fn agreement_all_percent(&self) -> Option<f64> {
        self.all.percent()
    }

    /// Whether labels leave positions out.
    pub fn is_partly_scored(&self) -> bool {
        self.scored != self.all
    }

    /// Why the output does not hold to the criterion, if so.
    pub fn violation(&self, criterion: Criterion) -> Option<String> {
        if let Some(what) = &self.mismatch {
            return Some(what.clone());
        }
        match criterion {
            Criterion::Close { .. } | Criterion::CloseByType(_) => {
                let first = self.first_outside.as_ref()?;
                let (n, all) = (self.n_outside, self.n_elements);
                Some(format!("{n} of {all} elements are outside the tolerance, first {first}"))
            }
            Criterion::Agreement { .. } if self.exempt => None,
            Criterion::Agreement { min_percent } => {
                let percent = self.agreement_percent().filter(|p| *p < min_percent)?;
                Some(format!("top-1 agreement is {percent:.2}%, below {min_percent}%"))
            }
            Criterion::Sqnr { min_db } => {
                let db = self.sqnr_db();
                // Not a number where the outputs' squares are infinite.
                (db.is_nan() || db < min_db).then(|| format!("SQNR is {db:.2} dB, below {min_db} dB"))
            }
            Criterion::Report => None,
        }
    }

    /// The stable fields of `verify --json`; numbers that are not finite become null.
    pub fn json(&self, criterion: Criterion) -> Value {
        json!({
            "name": self.name,
            "max_abs_err": self.max_abs_err,
            "max_rel_err": self.max_rel_err,
            "sqnr_db": self.sqnr_db(),
            "top1_agreement": self.agreement_percent(),
            "top1_agreement_all": self.agreement_all_percent(),
            "violation": self.violation(criterion),
        })
    }

    /// Name, errors, ratio, agreement and agreement of all positions for a table.
    pub fn row(&self) -> [String; 6] {
        let percent = |p: Option<f64>| p.map_or_else(|| "-".to_owned(), |p| format!("{p:.2}%"));
        [
            self.name.clone(),
            if self.mismatch.is_some() { "-".to_owned() } else { format!("{:.3e}", self.max_abs_err) },
            if self.mismatch.is_some() { "-".to_owned() } else { format!("{:.3e}", self.max_rel_err) },
            if self.mismatch.is_some() { "-".to_owned() } else { decibels(self.sqnr_db()) },
            percent(self.agreement_percent()),
            percent(self.agreement_all_percent()),
        ]
    }
}

/// Samples whose scored positions are all predicted right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Accuracy {
    /// Samples with at least one scored position.
    pub n_samples: u64,
    /// Those of them that are right at every scored position.
    pub n_right: u64,
}

impl Accuracy {
    /// In percent.
    pub fn percent(self) -> Option<f64> {
        (self.n_samples > 0).then(|| 100.0 * self.n_right as f64 / self.n_samples as f64)
    }

    /// Scores one tensor. `labels` has the shape of `shape` without its last dimension; negative labels are not scored.
    /// A sample is one index of dimension 0.
    pub fn add(&mut self, found: &[f64], labels: &[i64], shape: &[u64]) {
        let Some(width) = classes(shape) else { return };
        let per_sample = labels.len().checked_div(shape[0] as usize).unwrap_or(0).max(1);
        let right: Vec<Option<bool>> = found
            .chunks_exact(width)
            .zip(labels)
            .map(|(row, &label)| (label >= 0).then(|| argmax(row) as i64 == label))
            .collect();
        for sample in right.chunks(per_sample) {
            let mut scored = sample.iter().flatten().peekable();
            if scored.peek().is_some() {
                self.n_samples += 1;
                self.n_right += u64::from(scored.all(|&right| right));
            }
        }
    }
}

/// The number of classes: the last dimension where it has a choice.
pub fn classes(shape: &[u64]) -> Option<usize> {
    shape.last().map(|&n| n as usize).filter(|&n| n > 1)
}

/// Position of the largest element, the first of equals; NaN is never largest.
pub fn argmax(row: &[f64]) -> usize {
    let mut best = 0;
    for (i, &v) in row.iter().enumerate() {
        if v > row[best] || (row[best].is_nan() && !v.is_nan()) {
            best = i;
        }
    }
    best
}

fn index(mut flat: usize, shape: &[u64]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &d) in index.iter_mut().zip(shape).rev() {
        *i = flat % (d as usize).max(1);
        flat /= (d as usize).max(1);
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSE: Criterion = Criterion::Close { atol: 1e-5, rtol: 1e-3 };

    fn stats(found: &[f64], reference: &[f64], shape: &[u64], criterion: Criterion) -> OutputStats {
        let mut stats = OutputStats::new("y");
        stats.add(found, reference, shape, None, criterion);
        stats
    }

    #[test]
    fn agreement_is_not_asked_of_an_exempt_output() {
        let all = Criterion::Agreement { min_percent: 100.0 };
        let mut stats = stats(&[1.0, 2.0], &[2.0, 1.0], &[1, 2], all);
        assert!(stats.violation(all).is_some());
        stats.exempt();
        assert_eq!(stats.violation(all), None);
        assert!(stats.violation(Criterion::Sqnr { min_db: 20.0 }).is_some());
    }

    #[test]
    fn closeness() {
        let check = |a: f64, b: f64, holds: bool| {
            assert_eq!(stats(&[a], &[b], &[1], CLOSE).violation(CLOSE).is_none(), holds, "{a} {b}");
        };
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        for (a, b, holds) in [
            (1.0, 1.0, true),
            (1.0009, 1.0, true),
            (1.002, 1.0, false),
            (5e-6, 0.0, true),
            (2e-5, 0.0, false),
            (nan, nan, true),
            (nan, 1.0, false),
            (1.0, nan, false),
            (inf, inf, true),
            (inf, -inf, false),
            (inf, 1e300, false),
            (1e300, inf, false),
        ] {
            check(a, b, holds);
        }
    }

    #[test]
    fn one_bad_element_is_named() {
        let s = stats(&[1.0, 2.0, 3.0, 9.0], &[1.0, 2.0, 3.0, 4.0], &[2, 2], CLOSE);
        let violation = s.violation(CLOSE).unwrap();
        assert!(
            violation.contains("1 of 4") && violation.contains("9 instead of 4 at [1, 1]"),
            "{violation}"
        );
        assert_eq!(s.violation(Criterion::Report), None);
        assert!((s.sqnr_db() - 10.0 * (30.0f64 / 25.0).log10()).abs() < 1e-12);
        assert_eq!(stats(&[1.0], &[1.0], &[1], CLOSE).sqnr_db(), f64::INFINITY);
    }

    #[test]
    fn agreement_counts_positions() {
        let s = stats(&[1.0, 2.0, 5.0, 4.0], &[1.0, 3.0, 4.0, 5.0], &[2, 2], Criterion::Report);
        assert_eq!(s.agreement_percent(), Some(50.0));
        assert!(s.violation(Criterion::Agreement { min_percent: 50.0 }).is_none());
        assert!(s.violation(Criterion::Agreement { min_percent: 51.0 }).is_some());
        assert_eq!(stats(&[1.0], &[2.0], &[1, 1], Criterion::Report).agreement_percent(), None);
    }

    /// Three positions of two classes: the first and the last agree.
    #[test]
    fn the_bound_is_on_scored_positions() {
        let check = |labels: Option<[i64; 3]>, scored: f64, is_partly_scored: bool| {
            let mut s = OutputStats::new("y");
            let (found, reference) = ([0.0, 1.0, 0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
            s.add(&found, &reference, &[3, 2], labels.as_ref().map(|l| &l[..]), Criterion::Report);
            assert!((s.agreement_percent().unwrap() - scored).abs() < 1e-9, "{labels:?}");
            assert!((s.agreement_all_percent().unwrap() - 200.0 / 3.0).abs() < 1e-9, "{labels:?}");
            assert_eq!(s.is_partly_scored(), is_partly_scored, "{labels:?}");
            let violation = s.violation(Criterion::Agreement { min_percent: 99.0 });
            assert_eq!(violation.is_none(), scored >= 99.0, "{labels:?}");
        };
        check(None, 200.0 / 3.0, false);
        check(Some([0, 1, 1]), 200.0 / 3.0, false);
        check(Some([0, -1, 0]), 100.0, true);
        check(Some([-1, 0, -1]), 0.0, true);
        check(Some([-1, -1, -1]), 200.0 / 3.0, true);
    }

    #[test]
    fn shapes_that_differ_never_hold() {
        let mut s = OutputStats::new("y");
        s.mismatch("f32[1] instead of f32[2]".to_owned());
        assert!(s.violation(Criterion::Report).is_some());
        assert_eq!(s.row().iter().filter(|cell| *cell == "-").count(), 5);
    }

    #[test]
    fn a_sample_is_right_when_every_scored_position_is() {
        // Two samples of two positions with two classes; predictions are 1, 0 and 0, 1.
        let found = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        let check = |labels: [i64; 4], n_right, n_samples| {
            let mut accuracy = Accuracy::default();
            accuracy.add(&found, &labels, &[2, 2, 2]);
            assert_eq!(accuracy, Accuracy { n_samples, n_right }, "{labels:?}");
        };
        check([1, 0, 0, 1], 2, 2);
        check([1, 1, 0, 1], 1, 2);
        check([1, -1, -1, 1], 2, 2);
        check([-1, -1, 0, 0], 0, 1);
    }
}
