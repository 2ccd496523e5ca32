//! Measuring for the selection phase: the bit-exact interpreter on calibration data, and the machine model.

use std::fmt;
use std::time::{Duration, Instant};

use lacuna_ir::eval::Tensor;
use lacuna_ir::{Module, TensorType};
use lacuna_isa::Blob;
use lacuna_isa::target::Target;
use lacuna_onnx::Literal;
use lacuna_optimize::{Drop, MachineCost, Measure, Outputs, Selected};

use crate::codes;
use crate::compare::{Accuracy, argmax, classes};
use crate::diagnostics::{Diagnostic, Failed};
use crate::exec::{Program, port_type};
use crate::pipeline::{self, Watch, contradiction};
use crate::progress::Progress;
use crate::random;
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

/// Runs modules on calibration data.
pub struct Interpreter<'a> {
    target: &'a Target,
    progress: &'a Progress,
    threads: usize,
    sets: Vec<Inputs>,
    /// Shapes of the outputs.
    shapes: Vec<Vec<u64>>,
    /// Whether the inputs are random, for want of data.
    pub is_random: bool,
    /// Time spent on measurements.
    pub spent: Duration,
}

impl<'a> Interpreter<'a> {
    /// An interpreter for modules with the entry of `module`. Data sets whose tensors do not fit the entry are an error if
    /// `data_must_fit` and left out otherwise; without any, inputs are random, but bound ones keep their values.
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
        for set in data {
            match inputs(set, &entry.inputs, &types, shapes.first()) {
                Ok(inputs) => sets.push(inputs),
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
        }
        Ok(Interpreter { target, progress, threads, sets, shapes, is_random, spent: Duration::ZERO })
    }

    /// The output that predicts classes: the first, if it has labels, else the first with a choice of classes.
    fn class_output(&self) -> Option<(usize, usize)> {
        self.shapes.iter().enumerate().find_map(|(i, shape)| Some((i, classes(shape)?)))
    }
}

/// The tensors of a data set in the order of the entry's inputs.
fn inputs(
    set: &DataSet,
    names: &[String],
    types: &[&TensorType],
    first_output: Option<&Vec<u64>>,
) -> Result<Inputs, Diagnostic> {
    let mut blobs = Vec::new();
    for (i, at) in set.pair(&set.inputs, names, "inputs")?.into_iter().enumerate() {
        let literal: &Literal = &set.inputs[at].1;
        if literal.ty != *types[i] {
            let reason =
                format!("{}: input `{}` is {}, but the data is {}", set.name, names[i], types[i], literal.ty);
            let hint = "compile for the shapes of the data with --dim, or give data of the compiled shapes";
            return Err(Diagnostic::new(codes::INPUT, reason).hint(hint));
        }
        blobs.push(literal.data.clone());
    }
    let labels = first_output.map(|shape| set.label_values(shape)).transpose()?.flatten();
    Ok(Inputs { blobs, labels })
}

impl Measure for Interpreter<'_> {
    type Error = Failure;

    fn run(&mut self, module: &Module) -> Result<Outputs, Failure> {
        let started = Instant::now();
        let outputs = self.execute(module);
        self.spent += started.elapsed();
        outputs
    }

    fn machine_cost(&mut self, selected: &Selected) -> Result<MachineCost, Failure> {
        let started = Instant::now();
        let cost = self.replay(selected);
        self.spent += started.elapsed();
        cost
    }

    fn drop(&self, reference: &Outputs, found: &Outputs) -> Option<Drop> {
        let (mut before, mut after) = (Accuracy::default(), Accuracy::default());
        for (set, (a, b)) in self.sets.iter().zip(reference.iter().zip(found)) {
            if let (Some(labels), Some(shape)) = (&set.labels, self.shapes.first()) {
                before.add(&a[0], labels, shape);
                after.add(&b[0], labels, shape);
            }
        }
        if let Some((before, points)) = before.percent().zip(after.percent()) {
            return Some(Drop { points: before - points, n_judged: after.n_samples, by_labels: true });
        }
        let (output, width) = self.class_output()?;
        let (mut n_judged, mut n_agree) = (0u64, 0u64);
        for (a, b) in reference.iter().zip(found) {
            for (x, y) in a[output].chunks_exact(width).zip(b[output].chunks_exact(width)) {
                n_judged += 1;
                n_agree += u64::from(argmax(x) == argmax(y));
            }
        }
        let lost = 100.0 * (n_judged - n_agree) as f64;
        (n_judged > 0).then(|| Drop { points: lost / n_judged as f64, n_judged, by_labels: false })
    }
}

impl Interpreter<'_> {
    fn execute(&self, module: &Module) -> Result<Outputs, Failure> {
        let selected = Selected {
            module: module.clone(),
            assignments: Vec::new(),
            refined: Vec::new(),
            packing: lacuna_optimize::Report::default(),
            warnings: Vec::new(),
        };
        let mut watch = Watch { progress: self.progress, dump: None };
        let object = pipeline::generate(&selected, self.target, &mut watch)?;
        let program = Program::load(&object, self.threads)?;
        self.progress.step("measuring on calibration data");
        let mut all = Vec::new();
        for set in &self.sets {
            let outputs = program.run(&set.blobs)?;
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
        let mut watch = Watch { progress: self.progress, dump: None };
        let object = pipeline::generate(selected, self.target, &mut watch)?;
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
