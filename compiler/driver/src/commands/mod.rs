//! The commands, and what they share: reading models and turning options into a request.

mod asm;
mod compile;
mod disasm;
mod explain;
mod inspect;
mod ops;
mod profile;
mod run;
mod targets;
mod verify;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lacuna_isa::Blob;
use lacuna_isa::object::Object;
use lacuna_isa::target::Target;
use lacuna_isa::target_file::DEFAULT_TARGET;
use lacuna_onnx::Literal;
use lacuna_optimize::weights::Rounding;
use lacuna_optimize::{Precision, WeightOptions};

use crate::cli::{Cli, Command, CompileOptions, PrecisionArg};
use lacuna_driver::calibration::Calibration;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec;
use lacuna_driver::files::{self, ModelFolder};
use lacuna_driver::pipeline::{Compiled, Request, Stage, Watch};
use lacuna_driver::progress::Progress;
use lacuna_driver::report::Report;
use lacuna_driver::tensors;

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
        Context { json: cli.json, threads: cli.threads, progress: Progress::new(!cli.json) }
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
        Command::Verify(args) => verify::run(&args, context),
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Disasm(args) => disasm::run(&args),
        Command::Asm(args) => asm::run(&args),
        Command::Profile(args) => profile::run(&args, context),
        Command::Targets(args) => targets::run(&args),
        Command::Ops(args) => Ok(ops::run(&args)),
        Command::Explain(args) => explain::run(&args, context),
    }
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

/// Refuses options of compilation for an object file, on which they would have no effect.
///
/// # Errors
/// L0001.
fn compiled_already(options: &CompileOptions, object: &Object) -> Result<(), Diagnostic> {
    let named = |given: bool, name: &'static str| given.then_some(name);
    let other_target = ![DEFAULT_TARGET, object.target.as_str()].contains(&options.target.as_str());
    let given = [
        named(other_target, "--target"),
        named(options.precision != PrecisionArg::Fixed(Precision::F32), "--precision"),
        named(!options.dims.is_empty(), "--dim"),
        named(!options.bindings.is_empty(), "--bind"),
        named(!options.state.is_empty(), "--state"),
        named(options.min_sqnr.is_some(), "--min-sqnr"),
        named(options.max_drop.is_some(), "--max-drop"),
        named(options.calibrate.is_some(), "--calibrate"),
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
    dims: BTreeMap<String, u64>,
    bindings: BTreeMap<String, Literal>,
    weights: WeightOptions,
    calibration: Option<Calibration>,
}

impl Settings {
    fn new(options: &CompileOptions) -> Result<Settings, Failed> {
        let mut missing = Vec::new();
        let mut unless = |absent: bool, what: &str, hint: &str| {
            if !absent {
                missing.push(Diagnostic::new(codes::NOT_YET, what).hint(hint));
            }
        };
        unless(
            options.state.is_empty(),
            "--state: state that stays in device memory across calls",
            "pass the state as inputs and outputs of the model",
        );
        let fixed = "choose one of f32, bf16, mxfp8, mxfp6, mxfp4, mxint8 or WEIGHTS:ACTIVATIONS";
        unless(options.precision != PrecisionArg::Auto, "--precision auto", fixed);
        unless(options.min_sqnr.is_none(), "--min-sqnr", fixed);
        unless(options.max_drop.is_none(), "--max-drop", fixed);
        if !missing.is_empty() {
            return Err(Failed(missing));
        }
        let PrecisionArg::Fixed(precision) = options.precision else {
            unreachable!("`auto` was refused above")
        };
        let (weights, given) = options.weights.options();
        let scales = precision == Precision::F32 || precision == Precision::Bf16;
        if let Some(name) = given
            .iter()
            .find(|&&name| scales && ["--scale-mode", "--scale-search", "--hadamard"].contains(&name))
        {
            let reason = format!("{name} has no effect with --precision {precision}");
            return Err(Diagnostic::new(codes::USAGE, reason)
                .hint("choose a format with scales, such as mxfp8")
                .into());
        }
        if precision == Precision::F32 && weights.rounding != Rounding::Nearest && weights.prune.is_none() {
            let reason = "--rounding compensated has no effect with --precision f32 and without --prune";
            return Err(Diagnostic::new(codes::USAGE, reason).into());
        }
        if weights.needs_calibration() && options.calibrate.is_none() {
            let reason = "--rounding compensated and --prune-by calibration measure on inputs";
            return Err(Diagnostic::new(codes::USAGE, reason)
                .hint("name a folder with test_data_set_* by --calibrate DIR")
                .into());
        }
        if weights.is_plain() && options.calibrate.is_some() {
            let reason = "--calibrate has no effect: nothing that was asked for measures on inputs";
            return Err(Diagnostic::new(codes::USAGE, reason).hint("try --rounding compensated").into());
        }
        let calibration = options.calibrate.as_deref().map(Calibration::read).transpose()?;
        let mut bindings = BTreeMap::new();
        for (name, path) in &options.bindings {
            bindings.insert(name.clone(), tensors::read(path)?.1);
        }
        Ok(Settings {
            target: exec::target(&options.target)?,
            precision,
            dims: options.dims.iter().cloned().collect(),
            bindings,
            weights,
            calibration,
        })
    }

    fn request<'a>(&'a self, model: &'a Model) -> Request<'a> {
        Request {
            path: &model.path,
            model: model.blob.clone(),
            external: &model.folder,
            dims: self.dims.clone(),
            bindings: self.bindings.clone(),
            target: &self.target,
            precision: self.precision,
            weights: self.weights,
            calibration: self.calibration.as_ref(),
        }
    }

    fn compile<'a>(
        &self,
        model: &Model,
        context: &'a Context,
        dump: Option<&'a mut dyn FnMut(Stage, String)>,
    ) -> Result<Compiled, Failed> {
        lacuna_driver::pipeline::compile(
            &self.request(model),
            &mut Watch { progress: &context.progress, dump },
        )
    }
}
