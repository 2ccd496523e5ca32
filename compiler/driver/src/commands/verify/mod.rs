//! `lacuna verify`: compile, run, and compare with the model's reference outputs or with the IR evaluator.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::{Module, TensorType};
use lacuna_isa::Blob;
use lacuna_isa::format::{GroupFormat, ScalarType};
use lacuna_isa::object::{EntryPoint, Object, Port};
use lacuna_onnx::Literal;
use lacuna_optimize::Precision;
use serde_json::Value;

mod layers;
mod report;

use super::{Context, Model, Settings};
use crate::cli;
use lacuna_driver::calibration::Half;
use lacuna_driver::codes;
use lacuna_driver::compare::{Accuracy, Criterion, OutputStats, Tolerance};
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec::{self, Program, port_type};
use lacuna_driver::pipeline::Watch;
use lacuna_driver::quantum::{self, Quantum};
use lacuna_driver::random;
use lacuna_driver::report::Report;
use lacuna_driver::selection;
use lacuna_driver::testset::{DataSet, Signature, TestSet};
use lacuna_optimize::{Budget, WeightShare};

/// An input of up to so many elements may determine a shape; larger ones are data.
const MAX_BOUND_ELEMENTS: u64 = 1 << 16;

/// Everything that is summed over data sets.
#[derive(Default)]
struct Totals {
    outputs: Vec<OutputStats>,
    /// Element types of the outputs.
    types: Vec<ScalarType>,
    accuracy: Accuracy,
    reference_accuracy: Accuracy,
    compile_seconds: f64,
    run_seconds: f64,
    bound: Vec<String>,
    warnings: Vec<String>,
    /// Formats of the weights; empty for an object file, which does not say.
    weights: Vec<WeightShare>,
    /// What `--precision auto` chose: text and JSON.
    selection: Option<(String, Value)>,
    /// What the outputs are held to, once a choice decides it.
    budget: Option<Budget>,
    /// Steps of the outputs that the model quantises, unless the command line says what is close.
    quanta: BTreeMap<String, Quantum>,
}

/// Runs the command.
///
/// # Errors
/// Those of reading, compiling and running. Outputs that differ are a report.
pub fn run(args: &cli::Verify, context: &Context) -> Result<Report, Failed> {
    super::stateless(&args.options, "verify")?;
    let settings = Settings::new(&args.options)?;
    if args.layers {
        return layers::run(args, &settings, context);
    }
    let criterion = criterion(args, &settings);
    let set = match args.inputs.is_empty() {
        true => TestSet::find(&args.model)?,
        false => TestSet::given(&args.model, &args.inputs, &args.expected)?,
    };
    let same =
        |a: &Path, b: &Path| a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b);
    let held_out = settings.calibration.is_some()
        && settings.precision != Precision::Auto
        && args.options.calibrate.as_deref().is_some_and(|folder| same(folder, &args.model));
    let model = Model::read(&set.model)?;
    let mut totals = Totals::default();
    if args.atol.is_none() && matches!(criterion, Criterion::CloseByType(_)) {
        totals.quanta = quantum::quanta(&model.blob);
    }
    if set.has_data() {
        // What was measured on is not scored: each half of the samples is scored with what the other gave.
        let halves: &[Option<Half>] = if held_out { &[Some(Half::Even), Some(Half::Odd)] } else { &[None] };
        for &scored in halves {
            let mut settings = settings.clone();
            if let (Some(half), Some(calibration)) = (scored, &settings.calibration) {
                settings.calibration = Some(calibration.half(half.other())?);
            }
            let subject =
                Subject { model: &model, settings: &mut settings, given: args.object.as_deref(), scored };
            with_data(&set, subject, criterion, context, &mut totals)?;
        }
    } else {
        with_evaluator(&model, &settings, (args, set.given_inputs()), criterion, context, &mut totals)?;
    }
    let reference = match (set.has_data(), set.given_inputs()) {
        (true, _) => "reference outputs",
        (false, Some(_)) => "the IR evaluator on the given inputs",
        (false, None) => "the IR evaluator on random inputs",
    };
    let is_noise = !set.has_data() && set.given_inputs().is_none();
    let criterion = if is_noise { of_noise(criterion, args) } else { held_to(criterion, &mut totals) };
    Ok(report::report(totals, &settings, criterion, (reference, is_noise), held_out))
}

/// What is verified.
struct Subject<'a> {
    model: &'a Model,
    settings: &'a mut Settings,
    /// An object file to take instead of compiling.
    given: Option<&'a Path>,
    /// The samples that are scored; all of them if absent.
    scored: Option<Half>,
}

/// The criterion of a budget, unless another was given: agreement where no labels say what accuracy is.
fn held_to(criterion: Criterion, totals: &mut Totals) -> Criterion {
    match (criterion, totals.budget) {
        (Criterion::Report, Some(Budget::MinSqnr(min_db))) => Criterion::Sqnr { min_db },
        (Criterion::Report, Some(Budget::MaxDrop(points))) if totals.accuracy.percent().is_none() => {
            // The budget was spent on the output that predicts classes.
            let with_classes = totals.outputs.iter_mut().filter(|o| o.agreement_percent().is_some());
            with_classes.skip(1).for_each(OutputStats::exempt);
            Criterion::Agreement { min_percent: 100.0 - points }
        }
        (criterion, _) => criterion,
    }
}

/// What is asked of outputs on random inputs, on which neither agreement nor a ratio says what they are for real ones: closeness, where
/// the precision has it, and what the command line bounds itself.
fn of_noise(criterion: Criterion, args: &cli::Verify) -> Criterion {
    match criterion {
        Criterion::Agreement { .. } | Criterion::Sqnr { .. } if args.min_agreement.is_none() => {
            Criterion::Report
        }
        other => other,
    }
}

/// f32 must be close, other types than floats equal; mxfp8 must predict the same in 99 of 100 cases; other precisions, and pruned weights, are
/// reported.
fn criterion(args: &cli::Verify, settings: &Settings) -> Criterion {
    let mxfp8 = Precision::mx(GroupFormat::MXFP8);
    match (args.min_agreement, settings.precision) {
        (Some(min_percent), _) => Criterion::Agreement { min_percent },
        (None, _) if settings.weights.prune.is_some() => Criterion::Report,
        (None, Precision::F32) => Criterion::CloseByType(Tolerance { atol: args.atol, rtol: args.rtol }),
        (None, p) if p == mxfp8 => Criterion::Agreement { min_percent: 99.0 },
        (None, Precision::Bf16 | Precision::Int4 { .. } | Precision::Mx { .. } | Precision::Auto) => {
            Criterion::Report
        }
    }
}

/// The object to verify, with the module that it is held to: compiled, or read.
fn subject(
    model: &Model,
    settings: &Settings,
    given: Option<&Path>,
    context: &Context,
    totals: &mut Totals,
) -> Result<(Object, Module), Failed> {
    if let Some(path) = given {
        let mut watch = Watch { progress: &context.progress, dump: None };
        let (module, warnings) =
            lacuna_driver::pipeline::import(&settings.request(model, context.threads), &mut watch)?;
        totals.warnings.extend(warnings);
        return Ok((exec::read(path)?, module));
    }
    let compiled = settings.compile(model, context, None)?;
    totals.compile_seconds += compiled.seconds;
    for warning in settings.warnings(&compiled, model, context) {
        if !totals.warnings.contains(&warning) {
            totals.warnings.push(warning);
        }
    }
    totals.weights = compiled.weights;
    if let Some(chosen) = &compiled.selection {
        totals.budget = Some(chosen.budget);
        totals.selection = Some((selection::text(chosen), selection::json(chosen)));
    }
    Ok((compiled.object, compiled.imported))
}

fn with_data(
    set: &TestSet,
    subject_of: Subject<'_>,
    criterion: Criterion,
    context: &Context,
    totals: &mut Totals,
) -> Result<(), Failed> {
    let Subject { model, settings, given, scored } = subject_of;
    let loaded = match set.load() {
        Ok(loaded) => loaded,
        Err(bad) => {
            // A model that is refused anyway says more than test data that goes with it.
            let mut watch = Watch { progress: &context.progress, dump: None };
            lacuna_driver::pipeline::import(&settings.request(model, context.threads), &mut watch)?;
            return Err(bad.into());
        }
    };
    settings.calibrate_on(&loaded);
    let mut current: Option<(BTreeMap<String, u64>, Object)> = None;
    for data in &loaded {
        let (settings, bound) = bind(model, settings, data, context);
        let fresh = match &current {
            Some((dims, _)) => *dims != settings.dims || !bound.is_empty(),
            None => true,
        };
        if fresh {
            let object = subject(model, &settings, given, context, totals)?.0;
            totals.bound = bound;
            current = Some((settings.dims.clone(), object));
        }
        if let Some((_, object)) = &current {
            compare_set(data, object, scored, criterion, context, totals)?;
        }
    }
    Ok(())
}

/// Dimensions read off the data, and bindings for inputs that determine a shape or that have a default in the model;
/// returns the names of the latter two.
///
/// Other inputs are bound only where the importer asks for constants that depend on nothing but small inputs.
pub(super) fn bind(
    model: &Model,
    settings: &Settings,
    data: &DataSet,
    context: &Context,
) -> (Settings, Vec<String>) {
    let (mut settings, bound) = with_bindings(model, settings, data, context);
    settings.leave_bound_out();
    (settings, bound)
}

fn with_bindings(
    model: &Model,
    settings: &Settings,
    data: &DataSet,
    context: &Context,
) -> (Settings, Vec<String>) {
    let mut settings = settings.clone();
    let Some(signature) = Signature::read(&model.blob) else { return (settings, Vec::new()) };
    for (name, size) in signature.dims(data) {
        settings.dims.entry(name).or_insert(size);
    }
    let mut bound = Vec::new();
    for (name, literal) in signature.overridden(data) {
        // What the command line binds stays.
        if !settings.bindings.contains_key(name) {
            settings.bindings.insert(name.clone(), literal.clone());
            bound.push(name.clone());
        }
    }
    // The inputs that some constant depends on, of each constant that is wanted.
    let wanted = |settings: &Settings| -> Vec<Vec<String>> {
        let mut watch = Watch { progress: &context.progress, dump: None };
        match lacuna_driver::pipeline::import(&settings.request(model, context.threads), &mut watch) {
            Ok(_) => Vec::new(),
            Err(failed) => failed.0.into_iter().map(|d| d.inputs).filter(|i| !i.is_empty()).collect(),
        }
    };
    let mut open = wanted(&settings);
    if open.is_empty() {
        return (settings, bound);
    }
    let names = signature.names(data);
    let Ok(paired) = data.pair_inputs(&names) else { return (settings, bound) };
    let small = |name: &String| {
        let at = names.iter().position(|n| n == name)?;
        let literal = &data.inputs[*paired.get(at)?].1;
        let shape = &literal.ty.shape;
        (shape.rank() <= 1 && shape.elements() <= MAX_BOUND_ELEMENTS).then_some(literal)
    };
    loop {
        let n_bound = bound.len();
        for inputs in &open {
            let Some(literals) = inputs.iter().map(small).collect::<Option<Vec<_>>>() else { continue };
            for (name, literal) in inputs.iter().zip(literals) {
                if settings.bindings.insert(name.clone(), literal.clone()).is_none() {
                    bound.push(name.clone());
                }
            }
        }
        if bound.len() == n_bound {
            return (settings, bound);
        }
        open = wanted(&settings);
    }
}

fn compare_set(
    data: &DataSet,
    object: &Object,
    scored: Option<Half>,
    criterion: Criterion,
    context: &Context,
    totals: &mut Totals,
) -> Result<(), Failed> {
    let program = Program::load(object, context.threads)?;
    let entry = program.entry();
    let inputs = inputs_of(data, entry)?;
    let is_compared =
        |port: &Port| !data.is_partial || data.outputs.iter().any(|(name, _)| *name == port.name);
    let compared: Vec<&Port> = entry.outputs.iter().filter(|port| is_compared(port)).collect();
    let names: Vec<String> = compared.iter().map(|p| p.name.clone()).collect();
    let n_samples = entry.inputs.first().and_then(|port| port.shape.first());
    if scored.is_some() && entry.outputs.iter().any(|port| port.shape.first() != n_samples) {
        let reason = format!("{}: not every output has one element per sample", data.name);
        let hint = "name another folder by --calibrate";
        return Err(Diagnostic::new(codes::TEST_DATA, reason).hint(hint).into());
    }
    let references = data.pair(&data.outputs, &names, "outputs")?;
    let references: Vec<&Literal> = references.into_iter().map(|i| &data.outputs[i].1).collect();
    let labels = match compared.first() {
        Some(port) => data.label_values(&port.shape)?,
        None => None,
    };
    let mut outputs = execute(&program, &inputs, context, totals)?;
    let mut ports = entry.outputs.iter();
    outputs.retain(|_| ports.next().is_some_and(is_compared));
    let mut tensors = Vec::new();
    for literal in &references {
        tensors.push(decode(literal.ty.clone(), literal.data.bytes())?);
    }
    compare(&compared, &outputs, &tensors, labels.as_deref(), scored, criterion, totals)?;
    if let (Some(labels), Some(port), Some(reference)) = (labels, compared.first(), tensors.first()) {
        let found = decode(TensorType::new(port.elem, port.shape.clone()), &outputs[0])?;
        let (found, shape) = samples(scored, &found.to_f64(), &port.shape);
        let (reference, _) = samples(scored, &reference.to_f64(), &port.shape);
        let (labels, _) = samples(scored, &labels, &port.shape[..1]);
        totals.accuracy.add(&found, &labels, &shape);
        totals.reference_accuracy.add(&reference, &labels, &shape);
    }
    Ok(())
}

pub(super) fn random_inputs(seed: u64, entry: &EntryPoint) -> Result<Vec<Blob>, Failed> {
    let input = |(idx, port): (usize, &Port)| {
        let made = random::input(port.elem, &port.shape, seed, idx);
        let too_large = || Diagnostic::new(codes::REFERENCE, format!("input `{}` is too large", port.name));
        Ok(made.ok_or_else(too_large)?)
    };
    entry.inputs.iter().enumerate().map(input).collect()
}

/// The inputs of a data set, in the order of the entry.
pub(super) fn inputs_of(data: &DataSet, entry: &EntryPoint) -> Result<Vec<Blob>, Failed> {
    let names: Vec<String> = entry.inputs.iter().map(|p| p.name.clone()).collect();
    let mut inputs = Vec::new();
    for (port, i) in entry.inputs.iter().zip(data.pair_inputs(&names)?) {
        let (want, literal) = (TensorType::new(port.elem, port.shape.clone()), &data.inputs[i].1);
        if literal.ty != want {
            let reason =
                format!("{}: input `{}` is {want}, but the data is {}", data.name, port.name, literal.ty);
            return Err(Diagnostic::new(codes::INPUT, reason).into());
        }
        inputs.push(literal.data.clone());
    }
    Ok(inputs)
}

fn with_evaluator(
    model: &Model,
    settings: &Settings,
    (args, given): (&cli::Verify, Option<&DataSet>),
    criterion: Criterion,
    context: &Context,
    totals: &mut Totals,
) -> Result<(), Failed> {
    let (settings, bound) =
        given.map_or_else(|| (settings.clone(), Vec::new()), |data| bind(model, settings, data, context));
    totals.bound = bound;
    let (object, module) = subject(model, &settings, args.object.as_deref(), context, totals)?;
    let program = Program::load(&object, context.threads)?;
    let entry = program.entry();
    let inputs = match given {
        Some(data) => inputs_of(data, entry)?,
        None => random_inputs(args.seed, entry)?,
    };
    let refused = |e: lacuna_ir::eval::EvalError| Diagnostic::new(codes::REFERENCE, e.to_string());
    let mut arguments = Vec::new();
    for (port, blob) in entry.inputs.iter().zip(&inputs) {
        let ty = TensorType::new(port.elem, port.shape.clone());
        arguments.push(Tensor::from_bytes(ty, blob.bytes()).map_err(refused)?);
    }
    context.progress.step("evaluating the reference");
    let references = eval(&module, module.entries[0].func, &arguments, Mode::Typed).map_err(refused)?;
    let outputs = execute(&program, &inputs, context, totals)?;
    let ports: Vec<&Port> = entry.outputs.iter().collect();
    compare(&ports, &outputs, &references, None, None, criterion, totals)
}

fn execute(
    program: &Program<'_>,
    inputs: &[Blob],
    context: &Context,
    totals: &mut Totals,
) -> Result<Vec<Vec<u8>>, Failed> {
    context.progress.step("running");
    let started = Instant::now();
    let outputs = program.run(inputs)?;
    totals.run_seconds += started.elapsed().as_secs_f64();
    Ok(outputs)
}

fn decode(ty: TensorType, bytes: &[u8]) -> Result<Tensor, Diagnostic> {
    Tensor::from_bytes(ty, bytes).map_err(|e| Diagnostic::new(codes::TEST_DATA, e.to_string()))
}

/// The elements that are scored, and their shape.
fn samples<T: Copy>(scored: Option<Half>, elements: &[T], shape: &[u64]) -> (Vec<T>, Vec<u64>) {
    match scored {
        Some(half) => half.of(elements, shape),
        None => (elements.to_vec(), shape.to_vec()),
    }
}

/// The elements of an output and of its reference. Integers that differ do so as f64 too.
pub(super) fn numbers(found: &Tensor, expected: &Tensor) -> (Vec<f64>, Vec<f64>) {
    let (mut a, b) = (found.to_f64().to_vec(), expected.to_f64().to_vec());
    if let (Some(found), Some(expected)) = (found.ints(), expected.ints()) {
        for (i, (x, y)) in found.iter().zip(expected).enumerate() {
            if x != y && a[i] == b[i] {
                a[i] = b[i].next_up();
            }
        }
    }
    (a, b)
}

/// Compares every output with its reference; `labels` are those of the first output.
fn compare(
    ports: &[&Port],
    outputs: &[Vec<u8>],
    references: &[Tensor],
    mut labels: Option<&[i64]>,
    scored: Option<Half>,
    criterion: Criterion,
    totals: &mut Totals,
) -> Result<(), Failed> {
    if totals.outputs.is_empty() {
        totals.types = ports.iter().map(|port| port.elem).collect();
        totals.outputs = ports.iter().map(|port| OutputStats::new(&port.name)).collect();
    }
    for (((port, bytes), reference), stats) in
        ports.iter().zip(outputs).zip(references).zip(&mut totals.outputs)
    {
        let labels = labels.take().map(|labels| samples(scored, labels, &port.shape[..1]).0);
        let ty = TensorType::new(port.elem, port.shape.clone());
        if reference.ty == ty {
            let (found, expected) = numbers(&decode(ty, bytes)?, reference);
            let (found, shape) = samples(scored, &found, &port.shape);
            let (expected, _) = samples(scored, &expected, &port.shape);
            let criterion = quantum::within(criterion.of(port.elem), totals.quanta.get(&port.name));
            stats.add(&found, &expected, &shape, labels.as_deref(), criterion);
        } else {
            stats.mismatch(format!("it is {} instead of {}", port_type(port), reference.ty));
        }
    }
    Ok(())
}
