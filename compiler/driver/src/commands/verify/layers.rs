//! `lacuna verify --layers`: every tensor of the model, in order of execution, against its reference and against what its own operands give.

use std::collections::BTreeMap;

use lacuna_driver::compare::{Criterion, OutputStats, Tolerance};
use lacuna_driver::diagnostics::{Diagnostic, Exit, Failed};
use lacuna_driver::exec::{Program, port_type};
use lacuna_driver::expose::of_own_operands;
use lacuna_driver::given::{self, Given};
use lacuna_driver::quantum::{self, Quantum};
use lacuna_driver::report::{self, Report, decibels};
use lacuna_driver::testset::{DataSet, TestSet};
use lacuna_driver::{codes, files};
use lacuna_ir::TensorType;
use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_isa::object::EntryPoint;
use lacuna_optimize::Precision;
use serde_json::{Value, json};

use super::{bind, inputs_of, numbers, random_inputs};
use crate::cli;
use crate::commands::{Context, Model, Settings};

/// One tensor.
struct Layer {
    name: String,
    /// ONNX node and operator that it comes from.
    node: String,
    op: String,
    ty: String,
    /// Against the reference of the whole model.
    accumulated: OutputStats,
    /// Against the evaluator on the operands that the machine computed.
    local: OutputStats,
    /// Whether the reference is the user's.
    given: bool,
    /// What both are held to.
    criterion: Criterion,
}

impl Layer {
    /// What is wrong with the layer itself.
    fn violation(&self) -> Option<String> {
        self.local.violation(self.criterion)
    }

    /// What is wrong against the user's reference, which is held to for what it is: a fault of the importer shows there alone.
    fn reference_violation(&self) -> Option<String> {
        self.accumulated.violation(self.criterion).filter(|_| self.given)
    }

    fn json(&self) -> Value {
        let finite = |x: f64| x.is_finite().then_some(x);
        let Layer { name, node, op, ty, accumulated, local, given, .. } = self;
        json!({
            "name": name, "node": node, "op": op, "type": ty, "given": given,
            "max_abs_err": accumulated.max_abs_err(), "sqnr_db": finite(accumulated.sqnr_db()),
            "local_max_abs_err": local.max_abs_err(), "local_sqnr_db": finite(local.sqnr_db()),
            "violation": self.violation(), "reference_violation": self.reference_violation(),
        })
    }

    fn breaks(&self) -> Option<String> {
        self.violation().or_else(|| self.reference_violation())
    }
}

/// Runs the comparison.
///
/// # Errors
/// Those of reading, compiling, evaluating and running.
pub(super) fn run(args: &cli::Verify, settings: &Settings, context: &Context) -> Result<Report, Failed> {
    let set = match args.inputs.is_empty() {
        true => TestSet::find(&args.model)?,
        false => TestSet::given(&args.model, &args.inputs, &args.expected)?,
    };
    let model = Model::read(&set.model)?;
    let data = match set.given_inputs() {
        Some(data) => Some(data.clone()),
        None if set.has_data() => set.load()?.into_iter().next(),
        None => None,
    };
    let (mut settings, _) =
        data.as_ref().map_or_else(|| (settings.clone(), Vec::new()), |d| bind(&model, settings, d, context));
    if let Some(data) = &data {
        settings.calibrate_on(std::slice::from_ref(data));
    }
    settings.exposes = true;
    let compiled = settings.compile(&model, context, None)?;
    let program = Program::load(&compiled.object, context.threads)?;
    let entry = program.entry();
    let inputs = match &data {
        Some(data) => inputs_of(data, entry)?,
        None => random_inputs(args.seed, entry)?,
    };
    let refused = |e: lacuna_ir::eval::EvalError| Diagnostic::new(codes::REFERENCE, e.to_string());
    let tensor = |port: &lacuna_isa::object::Port, bytes: &[u8]| {
        Tensor::from_bytes(TensorType::new(port.elem, port.shape.clone()), bytes).map_err(refused)
    };
    let arguments: Vec<Tensor> =
        entry.inputs.iter().zip(&inputs).map(|(p, b)| tensor(p, b.bytes())).collect::<Result<_, _>>()?;
    context.progress.step("running");
    let outputs = program.run(&inputs)?;
    let found: Vec<Tensor> =
        entry.outputs.iter().zip(&outputs).map(|(p, b)| tensor(p, b)).collect::<Result<_, _>>()?;
    context.progress.step("evaluating the reference");
    let module = &compiled.imported;
    let func = &module.functions[module.entries[0].func];
    let mut expected = eval(module, module.entries[0].func, &arguments, Mode::Typed).map_err(refused)?;
    let local = of_own_operands(module, func, &arguments, &found).map_err(refused)?;
    let references = references(args, data.as_ref(), entry)?;
    let given: Vec<bool> = references.iter().map(Option::is_some).collect();
    for (expected, reference) in expected.iter_mut().zip(references) {
        if let Some(reference) = reference {
            *expected = reference;
        }
    }
    let criterion = held_to(args, &settings);
    let judged = args.atol.is_none() && criterion != Criterion::Report;
    let quanta = if judged { quantum::quanta(&model.blob) } else { BTreeMap::new() };
    let mut layers = Vec::new();
    for (at, port) in entry.outputs.iter().enumerate() {
        let value = func.results[at];
        // What no node computes is an input.
        let Some(node) = func.def(value) else { continue };
        let origin = func.nodes[node].origins.last().map(|&o| &module.origins[o]);
        let compare = |expected: &Tensor, quantum: Option<&Quantum>| {
            let mut stats = OutputStats::new(&port.name);
            let (a, b) = numbers(&found[at], expected);
            stats.add(&a, &b, &port.shape, None, quantum::within(criterion.of(port.elem), quantum));
            stats
        };
        layers.push((
            node,
            Layer {
                name: port.name.clone(),
                node: origin.map_or_else(String::new, |o| o.node.clone()),
                op: origin.map_or_else(String::new, |o| o.op.clone()),
                ty: port_type(port),
                accumulated: compare(&expected[at], quanta.get(&port.name)),
                local: compare(&local[at], None),
                given: given[at],
                criterion,
            },
        ));
    }
    layers.sort_by_key(|(node, _)| *node);
    let layers = layers.into_iter().map(|(_, layer)| layer).collect();
    report(args, &settings, layers, compiled.warnings)
}

/// The user's own reference of each output of the entry: of `--reference`, else of the data set or `--expect`.
fn references(
    args: &cli::Verify,
    data: Option<&DataSet>,
    entry: &EntryPoint,
) -> Result<Vec<Option<Tensor>>, Failed> {
    let names: Vec<String> = entry.outputs.iter().map(|port| port.name.clone()).collect();
    let own = args.reference.iter().map(|folder| Given::Folder(folder.clone())).collect::<Vec<_>>();
    let mut known = given::read_known(&own, &names)?;
    if let (Some(folder), true) = (&args.reference, known.is_empty()) {
        let reason = format!("{}: no file has the name of a tensor of the model", folder.display());
        let hint = format!(
            "names are those of the ONNX graph, such as {}.npy",
            files::safe_names(names.iter().map(String::as_str)).swap_remove(0)
        );
        return Err(Diagnostic::new(codes::INPUT, reason).hint(hint).into());
    }
    if let Some(data) = data {
        // The model's own outputs stand before those that are exposed.
        let own = &names[..data.outputs.len().min(names.len())];
        let outputs = match data.is_partial {
            true => data.outputs.clone(),
            false => {
                let paired = data.pair(&data.outputs, own, "outputs")?;
                own.iter().zip(paired).map(|(name, i)| (name.clone(), data.outputs[i].1.clone())).collect()
            }
        };
        let is_new = |(name, _): &(String, _)| known.iter().all(|(known, _)| known != name);
        let more: Vec<_> = outputs.into_iter().filter(is_new).collect();
        known.extend(more);
    }
    let mut references = vec![None; names.len()];
    for (name, literal) in known {
        let Some(at) = names.iter().position(|n| *n == name) else { continue };
        let port = &entry.outputs[at];
        let ty = TensorType::new(port.elem, port.shape.clone());
        if literal.ty != ty {
            let reason = format!("`{name}` is {ty}, but the reference is {}", literal.ty);
            return Err(Diagnostic::new(codes::INPUT, reason).into());
        }
        let tensor = Tensor::from_bytes(literal.ty, literal.data.bytes());
        references[at] = Some(tensor.map_err(|e| Diagnostic::new(codes::REFERENCE, e.to_string()))?);
    }
    Ok(references)
}

/// In f32 every layer is held to the tolerance of its type; in other precisions, and of pruned weights, errors are what was asked for.
fn held_to(args: &cli::Verify, settings: &Settings) -> Criterion {
    match settings.precision {
        _ if settings.weights.prune.is_some() => Criterion::Report,
        Precision::F32 => Criterion::CloseByType(Tolerance { atol: args.atol, rtol: args.rtol }),
        Precision::Bf16 | Precision::Int4 { .. } | Precision::Mx { .. } | Precision::Auto => {
            Criterion::Report
        }
    }
}

/// Renders the layers, and holds each to its bound.
fn report(
    args: &cli::Verify,
    settings: &Settings,
    layers: Vec<Layer>,
    warnings: Vec<String>,
) -> Result<Report, Failed> {
    let broken: Vec<usize> = (0..layers.len()).filter(|&at| layers[at].breaks().is_some()).collect();
    let first = broken.first().copied();
    let mut order: Vec<usize> = (0..layers.len()).collect();
    if let Some(n) = args.top {
        // A stable sort: of equal ones, the first in order of execution.
        order.sort_by(|&a, &b| layers[a].local.sqnr_db().total_cmp(&layers[b].local.sqnr_db()));
        order.truncate(n);
    }
    let row = |&at: &usize| {
        let layer = &layers[at];
        let Layer { name, node, op, ty, accumulated, local, .. } = layer;
        let marked = |stats: &OutputStats, violation: Option<String>| {
            let mark = if violation.is_some() { "<- differs" } else { "" };
            format!("{} {mark}", decibels(stats.sqnr_db())).trim_end().to_owned()
        };
        [
            name.clone(),
            format!("{node} ({op})"),
            ty.clone(),
            format!("{:.3e}", accumulated.max_abs_err()),
            marked(accumulated, layer.reference_violation()),
            format!("{:.3e}", local.max_abs_err()),
            marked(local, layer.violation()),
        ]
    };
    let header = ["tensor", "node", "type", "max abs err", "SQNR", "of itself", "SQNR of itself"];
    let mut text = report::table(header, order.iter().map(row), &[3, 5]);
    let n_given = layers.iter().filter(|layer| layer.given).count();
    text += &format!(
        "{} tensors; SQNR against {}, \"of itself\" against the IR evaluator on the operands that the machine computed\n",
        layers.len(),
        if n_given == 0 {
            "the IR evaluator".to_owned()
        } else {
            format!("{n_given} of your references and the IR evaluator")
        },
    );
    match first {
        Some(at) => {
            let (Layer { name, node, op, .. }, n) = (&layers[at], broken.len());
            let what = layers[at].breaks().unwrap_or_default();
            let from = layers[at].violation().map_or(" from your reference", |_| "");
            text += &format!("DIFFERS{from}: {n} tensors, first {name} of {node} ({op}): {what}\n");
        }
        None if held_to(args, settings) == Criterion::Report => text += "no bound at this precision\n",
        None => text += "holds\n",
    }
    if let Some(path) = &args.csv {
        files::write(path, csv(&layers).as_bytes())?;
        text += &format!("{}\n", path.display());
    }
    let listed: Vec<_> = order.iter().map(|&at| layers[at].json()).collect();
    let json = json!({
        "ok": first.is_none(),
        "target": settings.target.name,
        "precision": settings.precision.to_string(),
        "layers": listed,
        "first": first.map(|at| json!({ "name": layers[at].name, "node": layers[at].node, "op": layers[at].op })),
        "csv": args.csv,
    });
    let exit = if first.is_none() { Exit::Holds } else { Exit::Differs };
    Ok(Report { warnings, exit, ..Report::new(text, json) })
}

/// All layers as comma-separated values, by RFC 4180.
fn csv(layers: &[Layer]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut text =
        "tensor,node,operator,type,max_abs_err,sqnr_db,local_max_abs_err,local_sqnr_db\r\n".to_owned();
    for Layer { name, node, op, ty, accumulated, local, .. } in layers {
        let fields = [name, node, op, ty].map(|field| quoted(field)).join(",");
        let numbers =
            [accumulated, local].map(|s| format!("{:e},{}", s.max_abs_err(), s.sqnr_db())).join(",");
        text += &format!("{fields},{numbers}\r\n");
    }
    text
}
