//! Measuring for the selection phase: the bit-exact interpreter on calibration data, and the machine model.

use std::fmt;
use std::time::{Duration, Instant};

use lacuna_ir::eval::Tensor;
use lacuna_ir::{Module, TensorType};
use lacuna_isa::Blob;
use lacuna_isa::target::Target;
use lacuna_optimize::{Drop, MachineCost, Measure, Outputs, Selected};

use crate::calibration::{self, Calibration, Half};
use crate::codes;
use crate::compare::{Accuracy, argmax, classes};
use crate::diagnostics::{Diagnostic, Failed};
use crate::exec::{Program, port_type};
use crate::generation::{contradiction, generate};
use crate::progress::{Loudness, Progress};
use crate::random;
use crate::request::Watch;
use crate::testset::DataSet;

/// A failed measurement, with its findings.
#[derive(Debug)]
pub struct Failure(pub Failed);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<&str> = self.0.0.iter().map(|d| d.reason.as_str()).collect();
        f.write_str(&all.join("; "))
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Failure {
        Failure(failed)
    }
}

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Failure {
        Failure(diagnostic.into())
    }
}

/// Inputs of one run, in the order of the entry, and labels of its first output.
struct Inputs {
    blobs: Vec<Blob>,
    labels: Option<Vec<i64>>,
}

/// Data in two halves: every second sample is held out from the measuring of sensitivities.
struct Halves {
    /// The inputs with held-out samples replaced by their neighbours.
    to_choose: Vec<Vec<Blob>>,
    /// Samples of each data set.
    n_samples: Vec<usize>,
}

/// Runs modules on calibration data.
pub struct Interpreter<'a> {
    target: &'a Target,
    progress: &'a Progress,
    threads: usize,
    sets: Vec<Inputs>,
    halves: Option<Halves>,
    /// Points of accuracy that must be told apart; where the held-out half is too small for that, all samples judge.
    resolution: f64,
    /// Shapes of the outputs.
    shapes: Vec<Vec<u64>>,
    /// Whether the inputs are random, for want of data.
    pub is_random: bool,
    /// Time spent on measurements.
    pub spent: Duration,
    /// Forward passes so far, and about how many there will be.
    n_runs: (usize, usize),
}

impl<'a> Interpreter<'a> {
    /// An interpreter for modules with the entry of `module`. Data sets of another number of samples than the entry takes are cut into
    /// batches; those whose tensors do not fit it are an error if `data_must_fit` and left out otherwise; without any, inputs are random, but bound ones keep their values.
    ///
    /// # Errors
    /// L0008, L0012, or L0014 when an input is too large to make up.
    pub fn new(
        module: &Module,
        target: &'a Target,
        progress: &'a Progress,
        threads: usize,
        data: &[DataSet],
        data_must_fit: bool,
        bound: &dyn Fn(&str) -> Option<Blob>,
    ) -> Result<Interpreter<'a>, Failed> {
        let [entry] = &module.entries[..] else {
            return Err(contradiction("import", "calibration needs exactly one entry"));
        };
        let func = &module.functions[entry.func];
        let types: Vec<&TensorType> = func.params.iter().map(|&p| func.ty(p)).collect();
        let shapes: Vec<Vec<u64>> = func.results.iter().map(|&r| func.ty(r).shape.0.clone()).collect();
        let mut sets = Vec::new();
        let mut halves = Some(Halves { to_choose: Vec::new(), n_samples: Vec::new() });
        for set in data {
            let batches = calibration::cut(set, &entry.inputs, &types).and_then(|batches| {
                let inputs = batches.iter().map(|batch| Inputs::of(batch, shapes.first()));
                Ok((inputs.collect::<Result<Vec<_>, _>>()?, batches))
            });
            match batches {
                Ok((inputs, batches)) => {
                    sets.extend(inputs);
                    halves = batches.iter().fold(halves, |halves, batch| halves?.with(batch, &entry.inputs));
                }
                Err(e) if data_must_fit => return Err(e.into()),
                Err(_) => {}
            }
        }
        let is_random = sets.is_empty();
        if is_random {
            let mut blobs = Vec::new();
            for (idx, (name, ty)) in entry.inputs.iter().zip(&types).enumerate() {
                let made =
                    bound(name).or_else(|| random::input(ty.elem.scalar()?, &ty.shape, 0, idx)).ok_or_else(
                        || Diagnostic::new(codes::REFERENCE, format!("input `{name}` is too large")),
                    )?;
                blobs.push(made);
            }
            sets.push(Inputs { blobs, labels: None });
            halves = None;
        }
        let spent = Duration::ZERO;
        let resolution = f64::INFINITY;
        let n_runs = (0, 0);
        Ok(Interpreter {
            target,
            progress,
            threads,
            sets,
            halves,
            resolution,
            shapes,
            is_random,
            spent,
            n_runs,
        })
    }

    /// Has accuracy judged on the half of the samples that no sensitivity was measured on, if it can tell `points`.
    pub fn resolve(&mut self, points: f64) {
        self.resolution = points;
    }

    /// The predictions of all samples, or of those held out, compared.
    fn drop_of(&self, reference: &Outputs, found: &Outputs, held_out: Option<&Halves>) -> Option<Drop> {
        let judges = |set: usize, position: usize, n_positions: usize| {
            held_out.is_none_or(|h| {
                let each = n_positions.checked_div(h.n_samples[set]).unwrap_or(1).max(1);
                Half::Odd.has(position / each)
            })
        };
        let (mut before, mut after) = (Accuracy::default(), Accuracy::default());
        for (idx, (set, (a, b))) in self.sets.iter().zip(reference.iter().zip(found)).enumerate() {
            if let (Some(labels), Some(shape)) = (&set.labels, self.shapes.first()) {
                let n = labels.len();
                let judged = labels.iter().enumerate().map(|(i, &l)| if judges(idx, i, n) { l } else { -1 });
                let judged: Vec<i64> = judged.collect();
                before.add(&a[0], &judged, shape);
                after.add(&b[0], &judged, shape);
            }
        }
        let held_out = held_out.is_some();
        if let Some((before, points)) = before.percent().zip(after.percent()) {
            let points = before - points;
            return Some(Drop { points, n_judged: after.n_samples, by_labels: true, held_out });
        }
        let (output, width) = self.class_output()?;
        let (mut n_judged, mut n_agree) = (0u64, 0u64);
        for (idx, (a, b)) in reference.iter().zip(found).enumerate() {
            let n = a[output].len() / width;
            let rows = a[output].chunks_exact(width).zip(b[output].chunks_exact(width));
            for (_, (x, y)) in rows.enumerate().filter(|(i, _)| judges(idx, *i, n)) {
                n_judged += 1;
                n_agree += u64::from(argmax(x) == argmax(y));
            }
        }
        let points = 100.0 * (n_judged - n_agree) as f64 / n_judged.max(1) as f64;
        (n_judged > 0).then_some(Drop { points, n_judged, by_labels: false, held_out })
    }

    /// The output that predicts classes: the first, if it has labels, else the first with a choice of classes.
    fn class_output(&self) -> Option<(usize, usize)> {
        self.shapes.iter().enumerate().find_map(|(i, shape)| Some((i, classes(shape)?)))
    }
}

impl Halves {
    /// With one more data set; `None` if its samples cannot be told apart.
    fn with(mut self, set: &DataSet, names: &[String]) -> Option<Halves> {
        let calibration = Calibration::new(vec![set.clone()]);
        self.n_samples.push(calibration.n_samples());
        for half in calibration.half(Half::Even).ok()?.sets() {
            let pairs = half.pair_inputs(names).ok()?;
            self.to_choose.push(pairs.into_iter().map(|at| half.inputs[at].1.data.clone()).collect());
        }
        Some(self)
    }
}

impl Inputs {
    /// Those of a batch whose tensors are in order.
    fn of(batch: &DataSet, first_output: Option<&Vec<u64>>) -> Result<Inputs, Diagnostic> {
        let labels = first_output.map(|shape| batch.label_values(shape)).transpose()?.flatten();
        Ok(Inputs { blobs: batch.inputs.iter().map(|(_, literal)| literal.data.clone()).collect(), labels })
    }
}

impl Measure for Interpreter<'_> {
    type Error = Failure;

    fn run(&mut self, module: &Module) -> Result<Outputs, Failure> {
        let started = Instant::now();
        self.n_runs.0 += 1;
        let sets: Vec<&[Blob]> = self.sets.iter().map(|set| &set.blobs[..]).collect();
        let outputs = self.execute(module, &sets);
        self.spent += started.elapsed();
        outputs
    }

    fn run_to_choose(&mut self, module: &Module) -> Result<Outputs, Failure> {
        let Some(halves) = &self.halves else { return self.run(module) };
        let started = Instant::now();
        self.n_runs.0 += 1;
        let sets: Vec<&[Blob]> = halves.to_choose.iter().map(Vec::as_slice).collect();
        let outputs = self.execute(module, &sets);
        self.spent += started.elapsed();
        outputs
    }

    fn expect(&mut self, n_runs: usize) {
        self.n_runs.1 = self.n_runs.0 + n_runs;
    }

    fn holds_out(&self) -> bool {
        self.halves.is_some()
    }

    fn machine_cost(&mut self, selected: &Selected) -> Result<MachineCost, Failure> {
        let started = Instant::now();
        let cost = self.replay(selected);
        self.spent += started.elapsed();
        cost
    }

    fn drop(&self, reference: &Outputs, found: &Outputs) -> Option<Drop> {
        let held_out = self.halves.as_ref().and_then(|h| self.drop_of(reference, found, Some(h)));
        let resolves = |d: &Drop| 100.0 / d.n_judged.max(1) as f64 <= self.resolution;
        held_out.filter(resolves).or_else(|| self.drop_of(reference, found, None))
    }
}

impl Interpreter<'_> {
    /// Runs a module on some of the inputs, in the order of the entry.
    fn execute(&self, module: &Module, sets: &[&[Blob]]) -> Result<Outputs, Failure> {
        self.progress.of(self.n_runs.0 - 1, self.n_runs.1.max(self.n_runs.0), "forward passes");
        let quiet = Progress::new(Loudness::Silent);
        let selected = Selected {
            module: module.clone(),
            assignments: Vec::new(),
            refined: Vec::new(),
            packing: lacuna_optimize::Report::default(),
            warnings: Vec::new(),
        };
        let mut watch = Watch { progress: &quiet, dump: None };
        let object = generate(&selected, self.target, &mut watch).map_err(Failed::from)?;
        let program = Program::load(&object, self.threads)?;
        let mut all = Vec::new();
        for blobs in sets {
            let outputs = program.run(blobs)?;
            let mut decoded = Vec::new();
            for (port, bytes) in program.entry().outputs.iter().zip(&outputs) {
                let ty = TensorType::new(port.elem, port.shape.clone());
                let unreadable = |e: lacuna_ir::eval::EvalError| {
                    contradiction("run", format!("output `{}` ({}): {e}", port.name, port_type(port)))
                };
                decoded.push(Tensor::from_bytes(ty, bytes).map_err(unreadable)?.to_f64().to_vec());
            }
            all.push(decoded);
        }
        Ok(all)
    }

    fn replay(&self, selected: &Selected) -> Result<MachineCost, Failure> {
        let quiet = Progress::new(Loudness::Silent);
        let mut watch = Watch { progress: &quiet, dump: None };
        let object = generate(selected, self.target, &mut watch).map_err(Failed::from)?;
        let profile = lacuna_runtime::profile(&object, self.target, 0)
            .map_err(|e| Diagnostic::new(codes::LOAD, e.to_string()))?;
        Ok(MachineCost {
            cycles: profile.cycles,
            weight_bytes: object.weights.bytes().len() as u64,
            hbm_bytes: profile.hbm_bytes,
            sram_bytes: profile.sram_bytes,
        })
    }
}
