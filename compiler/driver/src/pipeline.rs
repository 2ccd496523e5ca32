//! The passes, in order, from a model's bytes to an object.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use cranelift_entity::SecondaryMap;
use lacuna_codegen::{ProductZeros, State};
use lacuna_ir::{Blob, Module, Node, OriginId};
use lacuna_isa::disasm::{Weights, print_object};
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::object::Object;
use lacuna_isa::target::Target;
use lacuna_isa::view::Pattern;
use lacuna_onnx::{ExternalData, Literal};
use lacuna_optimize::{
    Assignment, Extraction, Precision, Selected, TargetFeatures, WeightOptions, WeightReport, WeightSparsity,
};

use crate::calibration::Calibration;
use crate::codes;
use crate::diagnostics::{Diagnostic, Exit, Failed};
use crate::expose::expose;
use crate::progress::Progress;
use crate::selection::{self, Selection, SelectionRequest};
use crate::states::{self, StateRequest};
use crate::warnings;

/// A stage that can be shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// The tensor IR of the model.
    Imported,
    /// After exact rewriting.
    Optimized,
    /// After the choice of number formats.
    Selected,
    /// Kernels with their tiles and buffers.
    Tiled,
    /// Instructions.
    Machine,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Stage; 5] =
        [Stage::Imported, Stage::Optimized, Stage::Selected, Stage::Tiled, Stage::Machine];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Imported => "imported",
            Stage::Optimized => "optimized",
            Stage::Selected => "selected",
            Stage::Tiled => "tiled",
            Stage::Machine => "machine",
        }
    }
}

/// What to compile, for what, and how.
pub struct Request<'a> {
    /// Where the model comes from, for diagnostics.
    pub path: &'a Path,
    /// The model's file.
    pub model: Blob,
    /// The files beside it.
    pub external: &'a dyn ExternalData,
    /// Sizes of symbolic dimensions.
    pub dims: BTreeMap<String, u64>,
    /// Inputs with known values.
    pub bindings: BTreeMap<String, Literal>,
    /// The target.
    pub target: &'a Target,
    /// Number formats of contractions.
    pub precision: Precision,
    /// Whether element-wise work may be rewritten by what holds over the real numbers.
    pub relaxed: bool,
    /// How terms are chosen from all equal ones.
    pub extraction: Extraction,
    /// How weights become narrow or sparse.
    pub weights: WeightOptions,
    /// Inputs for techniques that measure.
    pub calibration: Option<&'a Calibration>,
    /// Whether every tensor of the model becomes an output ([`expose`]).
    pub exposes: bool,
    /// With [`Precision::Auto`]: the budget, and the data to measure on.
    pub selection: SelectionRequest,
    /// Inputs and outputs that are one tensor, which stays in memory between runs.
    pub states: StateRequest<'a>,
}

impl<'a> Request<'a> {
    /// A model in its own formats, with every option at its default.
    pub fn new(
        path: &'a Path,
        model: Blob,
        external: &'a dyn ExternalData,
        target: &'a Target,
    ) -> Request<'a> {
        Request {
            path,
            model,
            external,
            dims: BTreeMap::new(),
            bindings: BTreeMap::new(),
            target,
            precision: Precision::default(),
            relaxed: false,
            extraction: Extraction::default(),
            weights: WeightOptions::default(),
            calibration: None,
            exposes: false,
            selection: SelectionRequest::default(),
            states: StateRequest::default(),
        }
    }
}

/// What is told while passes run.
pub struct Watch<'a> {
    /// Where the name of the pass goes.
    pub progress: &'a Progress,
    /// Called with the text of every stage, if anyone wants it.
    pub dump: Option<&'a mut dyn FnMut(Stage, String)>,
}

impl Watch<'_> {
    fn dump(&mut self, stage: Stage, text: impl FnOnce() -> String) {
        if let Some(dump) = &mut self.dump {
            dump(stage, text());
        }
    }
}

/// A compiled model.
pub struct Compiled {
    /// The object.
    pub object: Object,
    /// The module as imported: the meaning that the object is held to.
    pub imported: Module,
    /// The module after exact rewriting.
    pub optimized: Module,
    /// What the budget led to, with [`Precision::Auto`].
    pub selection: Option<Selection>,
    /// Formats of the weights of contractions.
    pub weights: Vec<lacuna_optimize::WeightShare>,
    /// What the exact phase did.
    pub report: lacuna_optimize::Report,
    /// What packing did with the conversions that selection decided on.
    pub packing: lacuna_optimize::Report,
    /// What the selection phase chose.
    pub assignments: Vec<Assignment>,
    /// What became of weights that more was done to than plain rounding.
    pub refined: Vec<WeightReport>,
    /// What deserves attention.
    pub warnings: Vec<String>,
    /// Seconds that compilation took.
    pub seconds: f64,
}

/// The module after each pass of the tensor IR.
pub struct Front {
    /// As imported.
    pub imported: Module,
    /// After exact rewriting.
    pub optimized: Module,
    /// After the choice of number formats: what code is generated for.
    pub selected: Selected,
    /// What the budget led to, with [`Precision::Auto`].
    pub selection: Option<Selection>,
    /// What the exact phase did.
    pub report: lacuna_optimize::Report,
    /// What deserves attention.
    pub warnings: Vec<String>,
    /// What the optimiser was told.
    pub options: lacuna_optimize::Options,
}

/// Why there is no object.
#[derive(Debug)]
pub enum NotGenerated {
    /// Operators have no kernel, or the target's memory is too small.
    Refused(Vec<lacuna_codegen::Failure>),
    /// The streams are not legal.
    Contradiction(Failed),
}

impl From<NotGenerated> for Failed {
    fn from(error: NotGenerated) -> Failed {
        match error {
            NotGenerated::Refused(failures) => refused(failures),
            NotGenerated::Contradiction(found) => found,
        }
    }
}

/// Compiles a model.
///
/// # Errors
/// Every finding of the pass that failed.
pub fn compile(request: &Request<'_>, watch: &mut Watch<'_>) -> Result<Compiled, Failed> {
    let started = Instant::now();
    let mut front = front(request, watch)?;
    let states = states::resolve(request.states, &front.imported).map_err(|f| f.in_file(request.path))?;
    let object = loop {
        match generate_with(&front.selected, request.target, &states, watch) {
            Ok((object, copied)) => {
                front.warnings.extend(copied.iter().map(|name| {
                    format!(
                        "state {name} is copied in each run: a kernel that reads it also makes its new value"
                    )
                }));
                break object;
            }
            Err(NotGenerated::Contradiction(found)) => return Err(found.in_file(request.path)),
            Err(NotGenerated::Refused(failures)) => {
                if !widen(&mut front, request, &failures)? {
                    let failures = too_long(failures, &front.selected.module);
                    return Err(refused(failures).in_file(request.path));
                }
                watch.dump(Stage::Selected, || front.selected.module.to_string());
            }
        }
    };
    let zeros = zeros(&front.selected, request.target);
    let entry = front.selected.module.entries.first().map(|entry| entry.func);
    let pattern = |func, node| zeros[node].pattern.filter(|_| Some(func) == entry);
    Ok(Compiled {
        object,
        imported: front.imported,
        optimized: front.optimized,
        selection: front.selection,
        weights: lacuna_optimize::weight_shares(&front.selected.module, &pattern),
        report: front.report,
        packing: front.selected.packing,
        assignments: front.selected.assignments,
        refined: front.selected.refined,
        warnings: front.warnings,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Says of a node with a tensor of more elements than a view counts that this is why it has no kernel.
fn too_long(mut failures: Vec<lacuna_codegen::Failure>, module: &Module) -> Vec<lacuna_codegen::Failure> {
    for failure in &mut failures {
        let nodes = module.functions.values().flat_map(|f| f.nodes.values().map(move |node| (f, node)));
        let own = nodes.filter(|(_, node)| {
            node.origins.iter().any(|&o| failure.nodes.contains(&module.origins[o].node))
        });
        let values = own.flat_map(|(f, node)| node.args.iter().chain(&node.results).map(move |&v| f.ty(v)));
        let Some(longest) = values.max_by_key(|ty| ty.shape.elements()) else { continue };
        if longest.shape.elements() > u64::from(u32::MAX) {
            failure.reason = format!("{longest} has more elements than a view counts, 2^32");
            failure.hint = "choose smaller dimensions with --dim".to_owned();
        }
    }
    failures
}

/// Selects again where products that have no kernel in groups stay wider, and warns of each; `false` where that helps nobody.
///
/// # Errors
/// Every finding of the selection phase.
fn widen(
    front: &mut Front,
    request: &Request<'_>,
    failures: &[lacuna_codegen::Failure],
) -> Result<bool, Failed> {
    let named: Vec<&str> = failures.iter().flat_map(|f| f.nodes.iter().map(String::as_str)).collect();
    let is_grouped = |format: &Format| matches!(format, Format::Grouped(_) | Format::Scalar(ScalarType::I4));
    let grouped = front.selected.assignments.iter().filter(|a| a.formats.iter().any(is_grouped));
    let found: Vec<OriginId> = grouped
        .flat_map(|a| a.origins.iter().copied())
        .filter(|&o| named.contains(&front.optimized.origins[o].node.as_str()))
        .filter(|o| !front.options.ungrouped.contains(o))
        .collect();
    if found.is_empty() || request.precision == Precision::Auto {
        return Ok(false);
    }
    for &origin in &found {
        let node = &front.optimized.origins[origin].node;
        let reason = failures.iter().find(|f| f.nodes.contains(node)).map_or("", |f| f.reason.as_str());
        let precision = request.precision.without_groups();
        front.warnings.push(format!("{node} is computed in {precision}, with wider operands: {reason}"));
    }
    front.options.ungrouped.extend(found);
    front.selected = lacuna_optimize::select(front.optimized.clone(), &front.options).map_err(unselected)?;
    verify(&front.selected.module, "select")?;
    Ok(true)
}

/// The passes of the tensor IR.
///
/// # Errors
/// Every finding of the pass that failed.
pub fn front(request: &Request<'_>, watch: &mut Watch<'_>) -> Result<Front, Failed> {
    let (mut imported, mut warnings) = import(request, watch)?;
    states::bound(request.states, &mut imported).map_err(|f| f.in_file(request.path))?;
    if request.exposes {
        expose(&mut imported);
    }
    let mut options = options(request.target, request.precision);
    options.weights = request.weights;
    options.relaxed = request.relaxed;
    options.extraction = request.extraction;
    if let Some(calibration) = request.calibration {
        options.calibration = calibration.batches(&imported)?;
    }
    verify(&imported, "import")?;
    fits(&imported, request.target).map_err(|f| f.in_file(request.path))?;
    watch.dump(Stage::Imported, || imported.to_string());

    watch.progress.step("optimizing");
    let lacuna_optimize::Optimized { module: optimized, report, .. } =
        lacuna_optimize::optimize(imported.clone(), &options).map_err(|e| contradiction("optimize", e))?;
    verify(&optimized, "optimize")?;
    watch.dump(Stage::Optimized, || optimized.to_string());

    watch.progress.step("selecting formats");
    let (selected, selection) = match request.precision {
        Precision::Auto => {
            let (selected, selection) = selection::choose(&optimized, request, &options, watch.progress)?;
            (selected, Some(selection))
        }
        Precision::F32 | Precision::Bf16 | Precision::Int4 { .. } | Precision::Mx { .. } => {
            let selected = lacuna_optimize::select(optimized.clone(), &options).map_err(unselected)?;
            (selected, None)
        }
    };
    verify(&selected.module, "select")?;
    watch.dump(Stage::Selected, || selected.module.to_string());
    warnings.extend(warnings::foreign_pattern(&request.weights, request.target));
    warnings.extend(warnings::untouched(&selected.module, &request.weights));
    warnings.extend(selected.warnings.iter().cloned());
    warnings.extend(selected.refined.iter().filter_map(|w| {
        let nodes: Vec<&str> = w.origins.iter().map(|&o| imported.origins[o].node.as_str()).collect();
        w.note.map(|note| format!("the weights of {} are {note}", nodes.join(", ")))
    }));
    Ok(Front { imported, optimized, selected, selection, report, warnings, options })
}

/// The finding of a selection that failed: the user's, if it is about calibration data.
pub(crate) fn unselected(error: lacuna_optimize::Error) -> Failed {
    match error {
        lacuna_optimize::Error::Calibration { .. } => Diagnostic::new(codes::INPUT, error.to_string()).into(),
        other => contradiction("select", other),
    }
}

/// What the optimiser is told, but for techniques of weights.
pub fn options(target: &Target, precision: Precision) -> lacuna_optimize::Options {
    lacuna_optimize::Options { precision, features: features(target), ..lacuna_optimize::Options::default() }
}

/// The last passes: the object of a module with formats, and the independent check of its streams.
///
/// # Errors
/// Every operator without a kernel; L0090 with every finding when the streams are not legal.
pub fn generate(selected: &Selected, target: &Target, watch: &mut Watch<'_>) -> Result<Object, NotGenerated> {
    generate_with(selected, target, &[], watch).map(|(object, _)| object)
}

/// The same with states; returns the names of those that are copied in each run too.
fn generate_with(
    selected: &Selected,
    target: &Target,
    states: &[State],
    watch: &mut Watch<'_>,
) -> Result<(Object, Vec<String>), NotGenerated> {
    watch.progress.step("generating code");
    let generated = unchecked(selected, target, states).map_err(NotGenerated::Refused)?;
    watch.progress.step("checking instruction streams");
    let findings = lacuna_codegen::check::check(&generated.object, target);
    if !findings.is_empty() {
        let all: Vec<String> = findings.iter().map(ToString::to_string).collect();
        return Err(NotGenerated::Contradiction(contradiction("generate", all.join("\n"))));
    }
    watch.dump(Stage::Tiled, || generated.tiled.clone());
    watch.dump(Stage::Machine, || print_object(&generated.object, Weights::Elided));
    Ok((generated.object, generated.copied))
}

/// Code generation alone, without the check: for comparisons that nobody runs.
///
/// # Errors
/// Every operator without a kernel.
pub fn unchecked(
    selected: &Selected,
    target: &Target,
    states: &[State],
) -> Result<lacuna_codegen::Generated, Vec<lacuna_codegen::Failure>> {
    lacuna_codegen::generate_with(&selected.module, target, &zeros(selected, target), states)
}

/// The first pass alone: the module and its warnings.
///
/// # Errors
/// Every finding of the importer.
pub fn import(request: &Request<'_>, watch: &mut Watch<'_>) -> Result<(Module, Vec<String>), Failed> {
    watch.progress.step("importing");
    let options = lacuna_onnx::Options { dims: request.dims.clone(), bindings: request.bindings.clone() };
    let imported = lacuna_onnx::import(request.model.clone(), request.external, &options)
        .map_err(|findings| Failed::from(findings).in_file(request.path))?;
    Ok((imported.module, imported.warnings))
}

fn verify(module: &Module, after: &str) -> Result<(), Failed> {
    lacuna_ir::verify::verify(module).map_err(|violations| {
        let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
        contradiction(after, all.join("\n"))
    })
}

/// The finding that a pass broke what it promises.
pub fn contradiction(pass: &str, what: impl std::fmt::Display) -> Failed {
    Diagnostic::new(codes::INTERNAL, format!("after `{pass}`: {what}")).into()
}

fn refused(failures: Vec<lacuna_codegen::Failure>) -> Failed {
    let title =
        |code: &str| lacuna_codegen::CODES.iter().find(|(c, ..)| *c == code).map_or("not supported", |c| c.1);
    let diagnostic = |f: lacuna_codegen::Failure| Diagnostic {
        file: None,
        code: f.code,
        title: title(f.code),
        node: (!f.nodes.is_empty()).then(|| f.nodes.join(", ")),
        op: (!f.op.is_empty()).then_some(f.op),
        reason: f.reason,
        hint: f.hint,
        inputs: Vec::new(),
        exit: Exit::Unsupported,
    };
    Failed(failures.into_iter().map(diagnostic).collect())
}

/// Refuses a model whose inputs, outputs and weights alone exceed the target, before work is put into it.
fn fits(module: &Module, target: &Target) -> Result<(), Failed> {
    let ports = module.entries.iter().flat_map(|entry| {
        let func = &module.functions[entry.func];
        func.params.iter().chain(&func.results).map(|&v| func.ty(v).bytes())
    });
    let ports = ports.fold(0, u64::saturating_add);
    let weights = module.constants.values().map(|c| match c.data {
        lacuna_ir::ConstantData::Dense(_) => c.ty.bytes(),
        lacuna_ir::ConstantData::Splat(_) => 0,
    });
    let weights = weights.fold(0, u64::saturating_add);
    // Inputs and outputs keep their types. A narrower precision may shrink weights to a quarter of their f32 size and less, so only
    // what no choice of formats can make fit is refused here.
    if ports.saturating_add(weights / 8) <= target.hbm_bytes {
        return Ok(());
    }
    let reason = format!(
        "inputs and outputs take {}, weights {}, and {} has {} of HBM",
        crate::report::bytes(ports),
        crate::report::bytes(weights),
        target.name,
        crate::report::bytes(target.hbm_bytes)
    );
    Err(Diagnostic::new(codes::MEMORY, reason).hint("choose smaller dimensions with --dim").into())
}

fn features(target: &Target) -> TargetFeatures {
    TargetFeatures {
        formats: target.macs_per_cycle.iter().map(|(format, _)| *format).collect(),
        sparse_2_4: target.patterns.iter().any(|(p, _)| *p == Pattern { n: 2, m: 4 }),
    }
}

/// What is known of the zeros of products: the best pattern of the target that a constant operand follows, and whether the
/// other one is probably zero in many places when the program runs.
fn zeros(selected: &Selected, target: &Target) -> SecondaryMap<Node, ProductZeros> {
    let mut zeros: SecondaryMap<Node, ProductZeros> = SecondaryMap::new();
    let module = &selected.module;
    let [entry] = &module.entries[..] else { return zeros };
    let func = &module.functions[entry.func];
    for (node, activity) in lacuna_optimize::activity_of(module, entry.func).iter() {
        zeros[node].active = activity.is_some();
    }
    let native: Vec<_> = target.patterns.iter().map(|(p, _)| WeightSparsity { n: p.n, m: p.m }).collect();
    for (node, sparse) in lacuna_optimize::compressed(selected, entry.func, &native).iter() {
        let followed: Vec<Pattern> = sparse.patterns.iter().map(|s| Pattern { n: s.n, m: s.m }).collect();
        if let [a, b] = func.nodes[node].args[..]
            && !followed.is_empty()
        {
            let formats = [a, b].map(|arg| func.ty(arg).elem.format());
            let (other, constant) = (formats[1 - sparse.operand.min(1)], formats[sparse.operand.min(1)]);
            zeros[node].pattern = target.best_pattern(other, constant, &followed);
        }
    }
    zeros
}
