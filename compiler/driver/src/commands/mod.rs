//! The commands, and what they share: reading models and turning options into a request.

mod asm;
pub mod bench;
mod check;
mod compare;
mod compile;
mod disasm;
mod energy;
mod explain;
mod explain_model;
mod explain_rules;
mod generate;
mod info;
mod inspect;
mod ops;
mod profile;
mod run;
mod shell;
pub mod sweep;
mod targets;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lacuna_isa::Blob;
use lacuna_isa::format::Format;
use lacuna_isa::object::Object;
use lacuna_isa::target::Target;
use lacuna_isa::target_file::DEFAULT_TARGET;
use lacuna_onnx::Literal;
use lacuna_optimize::weights::Rounding;
use lacuna_optimize::{Budget, Extraction, Precision, WeightOptions};

use crate::cli::{Cli, Command, CompileOptions};
use lacuna_driver::calibration::Calibration;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec;
use lacuna_driver::files::{self, ModelFolder};
use lacuna_driver::pipeline::{Compiled, Request, Stage, Watch};
use lacuna_driver::progress::{Loudness, Progress};
use lacuna_driver::report::Report;
use lacuna_driver::selection::SelectionRequest;
use lacuna_driver::states::StateRequest;
use lacuna_driver::tensors;
use lacuna_driver::testset::{self, DataSet};

/// What every command gets.
pub struct Context {
    /// Whether the report becomes JSON.
    pub json: bool,
    /// Threads of the interpreter; 0 takes one per core.
    pub threads: usize,
    /// The spinner.
    pub progress: Progress,
}

impl Context {
    /// The context that the command line asks for.
    pub fn new(cli: &Cli) -> Context {
        let loudness = match (cli.verbose, cli.quiet || cli.json) {
            (true, _) => Loudness::Verbose,
            (false, true) => Loudness::Silent,
            (false, false) => Loudness::Plain,
        };
        // More threads than cores only wait for each other.
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Context { json: cli.json, threads: cli.threads.min(cores), progress: Progress::new(loudness) }
    }
}

/// Runs a command.
///
/// # Errors
/// The diagnostics of the command.
pub fn run(command: Command, context: &Context) -> Result<Report, Failed> {
    match command {
        Command::Compile(args) => compile::run(&args, context),
        Command::Run(args) => run::run(&args, context),
        Command::Generate(args) => generate::run(&args, context),
        Command::Verify(args) => verify::run(&args, context),
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Disasm(args) => disasm::run(&args),
        Command::Asm(args) => asm::run(&args, context),
        Command::Profile(args) => profile::run(&args, context),
        Command::Bench(args) => bench::run(&args, context),
        Command::Sweep(args) => sweep::run(&args, context),
        Command::Info(args) => info::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Completions(args) => Ok(shell::completions(&args)),
        Command::Man(args) => shell::man(&args),
        Command::Targets(args) => targets::run(&args),
        Command::Ops(args) => Ok(ops::run(&args)),
        Command::Explain(args) => explain::run(&args, context),
        Command::Compare(args) => compare::run(&args, context),
    }
}

/// Refuses states for a command that runs a model once.
///
/// # Errors
/// L0001.
fn stateless(options: &CompileOptions, command: &str) -> Result<(), Diagnostic> {
    if options.states.is_empty() {
        return Ok(());
    }
    let reason = format!("--state has no effect on {command}, which runs a model once on given inputs");
    Err(Diagnostic::new(codes::USAGE, reason).hint("leave it out: states are inputs and outputs then"))
}

/// A model's file and folder.
struct Model {
    path: PathBuf,
    blob: Blob,
    folder: ModelFolder,
}

impl Model {
    fn read(path: &Path) -> Result<Model, Diagnostic> {
        Ok(Model { path: path.to_owned(), blob: files::read(path)?, folder: ModelFolder::of(path)? })
    }
}

/// Whether an output is `-`, and bytes may go there.
///
/// # Errors
/// L0001 with `--json`, whose object has standard output for itself; L0003 on a terminal.
fn to_standard_output(output: &Path, context: &Context) -> Result<bool, Diagnostic> {
    if !files::is_standard(output) {
        return Ok(false);
    }
    if context.json {
        let reason = "-o - and --json both write to standard output";
        return Err(Diagnostic::new(codes::USAGE, reason).hint("name a file by -o"));
    }
    files::keep_terminal().map(|()| true)
}

/// Refuses options of compilation for an object file, on which they would have no effect.
///
/// # Errors
/// L0001.
fn compiled_already(options: &CompileOptions, object: &Object) -> Result<(), Diagnostic> {
    let named = |given: bool, name: &'static str| given.then_some(name);
    let other_target = ![DEFAULT_TARGET, object.target.as_str()].contains(&options.target.as_str());
    let given = [
        named(other_target, "--target"),
        named(!options.changes.is_empty(), "--set"),
        named(options.precision != Precision::F32, "--precision"),
        named(!options.dims.is_empty(), "--dim"),
        named(!options.bindings.is_empty(), "--bind"),
        named(!options.states.is_empty(), "--state"),
        named(options.min_sqnr.is_some(), "--min-sqnr"),
        named(options.max_drop.is_some(), "--max-drop"),
        named(options.max_bytes.is_some(), "--max-bytes"),
        named(options.calibrate.is_some(), "--calibrate"),
        named(options.relaxed, "--relaxed"),
        named(options.extraction != Extraction::default(), "--extraction"),
    ];
    let given: Vec<&str> = given.into_iter().flatten().chain(options.weights.options().1).collect();
    if given.is_empty() {
        return Ok(());
    }
    let reason = format!("{} has no effect on an object file", given.join(", "));
    Err(Diagnostic::new(codes::USAGE, reason).hint("give the ONNX model, or compile it again"))
}

/// Compile options, checked.
#[derive(Clone)]
struct Settings {
    target: Target,
    precision: Precision,
    relaxed: bool,
    extraction: Extraction,
    dims: BTreeMap<String, u64>,
    bindings: BTreeMap<String, Literal>,
    budget: Option<Budget>,
    /// Data to measure errors on, and whether `--calibrate` names it.
    data: (Arc<[DataSet]>, bool),
    weights: WeightOptions,
    /// Inputs and outputs that are one tensor.
    states: Vec<(String, String)>,
    /// Rows of those that grow.
    state_length: Option<u64>,
    /// Whether every tensor of the model becomes an output.
    exposes: bool,
    /// What techniques of weights measure on.
    calibration: Option<Calibration>,
}

/// The budget of `--precision auto`; the grammar admits one at most.
///
/// # Errors
/// L0001 when there is one for another precision.
fn budget(options: &CompileOptions) -> Result<Option<Budget>, Diagnostic> {
    let given = [
        options.min_sqnr.map(|db| ("--min-sqnr", Budget::MinSqnr(db))),
        options.max_drop.map(|points| ("--max-drop", Budget::MaxDrop(points))),
        options.max_bytes.map(|bytes| ("--max-bytes", Budget::MaxBytes(bytes))),
    ];
    let Some((name, budget)) = given.into_iter().flatten().next() else { return Ok(None) };
    if options.precision == Precision::Auto {
        return Ok(Some(budget));
    }
    let reason = format!("{name} has no effect with --precision {}", options.precision);
    Err(Diagnostic::new(codes::USAGE, reason).hint("the budget is for --precision auto"))
}

/// The techniques of weights.
///
/// # Errors
/// L0001 when one has no effect at the precision, or measures and there is nothing to measure on.
fn weights(options: &CompileOptions) -> Result<WeightOptions, Diagnostic> {
    let usage = |reason: String, hint: &str| Err(Diagnostic::new(codes::USAGE, reason).hint(hint));
    let (weights, given) = options.weights.options();
    let precision = options.precision;
    let has_scales = match precision {
        Precision::F32 | Precision::Bf16 | Precision::Int4 { .. } => false,
        Precision::Mx { .. } | Precision::Auto => true,
    };
    if let Precision::Mx { activations: activations @ Format::Scalar(_), .. } = precision
        && weights.hadamard
    {
        let reason = format!(
            "--hadamard has no effect with --precision {precision}: activations in {activations} have no groups"
        );
        return usage(reason, "choose groups for both operands, such as mxfp8");
    }
    let of_scales = |name: &&&str| ["--scale-mode", "--scale-search", "--hadamard"].contains(*name);
    if let Some(name) = given.iter().find(of_scales).filter(|_| !has_scales) {
        let reason = format!("{name} has no effect with --precision {precision}");
        return usage(reason, "choose a format with scales, such as mxfp8");
    }
    if !has_scales && weights.rounding != Rounding::Nearest && weights.prune.is_none() {
        let why = match precision {
            Precision::F32 => "nothing is rounded",
            Precision::Int4 { .. } => "codes of four bits are rounded to nearest",
            Precision::Bf16 | Precision::Mx { .. } | Precision::Auto => "weights have no groups to round in",
        };
        let reason =
            format!("--rounding {} has no effect with --precision {precision}: {why}", weights.rounding);
        return usage(reason, "choose a format with scales, such as mxfp8, or --prune");
    }
    if weights.needs_calibration() && options.calibrate.is_none() {
        let reason = "--rounding compensated and corrected, and --prune-by calibration, measure on inputs";
        return usage(reason.to_owned(), "name a folder with test_data_set_* by --calibrate DIR");
    }
    Ok(weights)
}

impl Settings {
    /// The settings of a command that does not measure errors unless the precision asks for it.
    fn new(options: &CompileOptions) -> Result<Settings, Failed> {
        let measures = options.precision == Precision::Auto || !options.weights.options().0.is_plain();
        if options.calibrate.is_some() && !measures {
            let reason = format!("--calibrate has no effect with --precision {}", options.precision);
            let hint =
                "data is for --precision auto and for techniques of weights such as --rounding compensated";
            return Err(Diagnostic::new(codes::USAGE, reason).hint(hint).into());
        }
        Settings::measuring(options)
    }

    /// The settings of a command that measures errors at any precision.
    fn measuring(options: &CompileOptions) -> Result<Settings, Failed> {
        let budget = budget(options)?;
        let weights = weights(options)?;
        let data = options.calibrate.as_deref().map(testset::calibration).transpose()?;
        let calibration = data.clone().filter(|_| !weights.is_plain()).map(Calibration::new);
        let mut dims = BTreeMap::new();
        for (name, size) in &options.dims {
            if dims.insert(name.clone(), *size).is_some_and(|other| other != *size) {
                return Err(exec::twice("--dim", name).into());
            }
        }
        let mut bindings = BTreeMap::new();
        for (name, path) in &options.bindings {
            if bindings.insert(name.clone(), tensors::read(path)?.1).is_some() {
                return Err(exec::twice("--bind", name).into());
            }
        }
        let mut settings = Settings {
            target: exec::target(&options.target, &options.changes)?,
            precision: options.precision,
            relaxed: options.relaxed,
            extraction: options.extraction,
            dims,
            bindings,
            weights,
            states: options.states.clone(),
            state_length: options.state_length,
            exposes: false,
            calibration,
            budget,
            data: (data.as_deref().unwrap_or_default().into(), data.is_some()),
        };
        settings.leave_bound_out();
        Ok(settings)
    }

    /// Takes the inputs that are bound out of the data to measure on: they are constants.
    fn leave_bound_out(&mut self) {
        let is_bound = |(name, _): &(String, Literal)| self.bindings.contains_key(name);
        let strip = |sets: &[DataSet]| -> Option<Vec<DataSet>> {
            let some = sets.iter().any(|set| set.inputs.iter().any(is_bound));
            some.then(|| {
                let mut sets = sets.to_vec();
                sets.iter_mut().for_each(|set| set.inputs.retain(|input| !is_bound(input)));
                sets
            })
        };
        if let Some(sets) = strip(&self.data.0) {
            self.data.0 = sets.into();
        }
        if let Some(sets) = self.calibration.as_ref().and_then(|c| strip(c.sets())) {
            self.calibration = Some(Calibration::new(sets));
        }
    }

    /// Takes test data to measure errors on, unless `--calibrate` gave other data.
    fn calibrate_on(&mut self, sets: &[DataSet]) {
        if !self.data.1 {
            self.data.0 = sets.into();
        }
    }

    fn request<'a>(&'a self, model: &'a Model, threads: usize) -> Request<'a> {
        Request {
            path: &model.path,
            model: model.blob.clone(),
            external: &model.folder,
            dims: self.dims.clone(),
            bindings: self.bindings.clone(),
            target: &self.target,
            precision: self.precision,
            relaxed: self.relaxed,
            extraction: self.extraction,
            weights: self.weights,
            calibration: self.calibration.as_ref(),
            states: StateRequest { pairs: &self.states, length: self.state_length },
            exposes: self.exposes,
            selection: SelectionRequest {
                budget: self.budget,
                data: self.data.0.clone(),
                data_must_fit: self.data.1,
                threads,
            },
        }
    }

    fn compile<'a>(
        &self,
        model: &Model,
        context: &'a Context,
        dump: Option<&'a mut dyn FnMut(Stage, String)>,
    ) -> Result<Compiled, Failed> {
        if let Some(graph) = testset::decode(&model.blob).and_then(|decoded| decoded.graph) {
            testset::data_files(&graph).iter().for_each(|file| model.folder.keep(file));
        }
        lacuna_driver::pipeline::compile(
            &self.request(model, context.threads),
            &mut Watch { progress: &context.progress, dump },
        )
    }
    /// What deserves attention in a model that was compiled.
    fn warnings(&self, compiled: &Compiled, model: &Model, context: &Context) -> Vec<String> {
        lacuna_driver::warnings::of(compiled, &self.request(model, context.threads), &context.progress)
    }
}
