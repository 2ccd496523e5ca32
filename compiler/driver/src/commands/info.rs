//! `lacuna info`: what a model or an object file is.

use std::collections::{BTreeMap, BTreeSet};

use lacuna_isa::Blob;
use lacuna_isa::object::{Object, Port};
use lacuna_onnx::proto::{GraphProto, ModelProto, TensorProto, ValueInfoProto};
use lacuna_onnx::{Dimension, scalar_type, supported_ops};
use serde_json::{Value, json};

use crate::cli;
use lacuna_driver::codes;
use lacuna_driver::diagnostics::{Diagnostic, Failed};
use lacuna_driver::exec::{self, port_type};
use lacuna_driver::files;
use lacuna_driver::report::{self, Report};
use lacuna_driver::testset;

/// Runs the command.
///
/// # Errors
/// Those of reading; L0023 for what is neither a model nor an object file.
pub fn run(args: &cli::Info) -> Result<Report, Failed> {
    let file = testset::file_of(&args.file)?;
    let blob = files::read(&file)?;
    let name = file.display().to_string();
    if files::is_elf(&blob) {
        return Ok(of_object(&name, &exec::object(&blob, &file)?, &blob));
    }
    let model = testset::decode(&blob).and_then(|model| Some((model.graph.clone()?, model)));
    match model {
        Some((graph, model)) => Ok(of_model(&name, &model, &graph)),
        None => {
            let hint = "a tensor (.npy, .pb, .npz) is given to `run` or `verify` by --input";
            Err(Diagnostic::new(codes::NOT_A_FILE, name).hint(hint).into())
        }
    }
}

/// A table of inputs and outputs.
fn ports(inputs: &[(String, String)], outputs: &[(String, String)]) -> String {
    let row = |kind: &str, (name, ty): &(String, String)| [kind.to_owned(), name.clone(), ty.clone()];
    let rows = inputs.iter().map(|p| row("input", p)).chain(outputs.iter().map(|p| row("output", p)));
    report::table(["", "name", "type"], rows, &[])
}

fn json_ports(ports: &[(String, String)]) -> Value {
    ports.iter().map(|(name, ty)| json!({ "name": name, "type": ty })).collect()
}

fn of_object(file: &str, object: &Object, blob: &Blob) -> Report {
    let weights = object.weights.bytes().len() as u64;
    let size = blob.bytes().len() as u64;
    let mut text = format!(
        "{file}: an object file of {}: model {} for {}\n{} of constants, {} of HBM, {} of shared SRAM; {} kernels\n",
        report::bytes(size),
        object.name,
        object.target,
        report::bytes(weights),
        report::bytes(object.hbm_bytes),
        report::bytes(object.sram_bytes),
        object.kernels.len(),
    );
    let mut entries = Vec::new();
    for entry in &object.entries {
        let named = |ports: &[Port]| -> Vec<(String, String)> {
            ports.iter().map(|port| (port.name.clone(), port_type(port))).collect()
        };
        let (inputs, outputs) = (named(&entry.inputs), named(&entry.outputs));
        text += &format!("\nentry {}: {} launches\n", entry.name, entry.launches.len());
        text += &ports(&inputs, &outputs);
        entries.push(json!({
            "name": entry.name,
            "launches": entry.launches.len(),
            "inputs": json_ports(&inputs),
            "outputs": json_ports(&outputs),
        }));
    }
    let states: Vec<(String, String)> =
        object.states.iter().map(|state| (state.name.clone(), port_type(state))).collect();
    if !states.is_empty() {
        let rows = states.iter().map(|(name, ty)| ["state".to_owned(), name.clone(), ty.clone()]);
        text += "\n";
        text += &report::table(["", "name", "type"], rows, &[]);
    }
    let json = json!({
        "ok": true,
        "kind": "object",
        "states": json_ports(&states),
        "name": object.name,
        "target": object.target,
        "object_bytes": size,
        "weight_bytes": weights,
        "hbm_bytes": object.hbm_bytes,
        "sram_bytes": object.sram_bytes,
        "kernels": object.kernels.len(),
        "entries": entries,
    });
    Report::new(text, json)
}

/// Type and shape as the model declares them, such as `f32[batch,3]`, and the names of sizes that are open.
fn declared(port: &ValueInfoProto, open: &mut BTreeSet<String>) -> (String, String) {
    let Some(tensor) = port.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
        return (port.name.clone(), "no tensor".to_owned());
    };
    let elem = scalar_type(tensor.elem_type).map_or_else(|_| "?".to_owned(), |elem| elem.to_string());
    let Some(shape) = &tensor.shape else {
        return (port.name.clone(), format!("{elem}, of no declared shape"));
    };
    let mut sizes = Vec::new();
    for (axis, dim) in shape.dim.iter().enumerate() {
        sizes.push(match Dimension::of(dim, &port.name, axis) {
            Dimension::Size(size) => size.to_string(),
            Dimension::Name(name) => {
                let shown = if dim.dim_param.as_ref() == Some(&name) { name.clone() } else { "?".to_owned() };
                open.insert(name);
                shown
            }
        });
    }
    (port.name.clone(), format!("{elem}[{}]", sizes.join(",")))
}

/// Nodes by operator, the most frequent first, each with whether the importer knows it.
fn operators(graph: &GraphProto, model: &ModelProto) -> Vec<(String, usize, bool)> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for node in &graph.node {
        let domain = if node.domain == "ai.onnx" { "" } else { node.domain.as_str() };
        *counts.entry((domain, &node.op_type)).or_default() += 1;
    }
    let known = |domain: &str, op: &str| {
        supported_ops().any(|s| s.domain == domain && s.op == op)
            || model.functions.iter().any(|f| f.name == op && f.domain == domain)
    };
    let named = |(&(domain, op), &n): (&(&str, &str), &usize)| {
        let name = if domain.is_empty() { op.to_owned() } else { format!("{domain}.{op}") };
        (name, n, known(domain, op))
    };
    let mut list: Vec<(String, usize, bool)> = counts.iter().map(named).collect();
    list.sort_by_key(|(name, n, _)| (std::cmp::Reverse(*n), name.clone()));
    list
}

/// Elements of a constant, and bytes where its type has a size.
fn size(tensor: &TensorProto) -> (u64, u64) {
    let elements = tensor.dims.iter().fold(1u64, |n, &d| n.saturating_mul(d.max(0) as u64));
    let bits = scalar_type(tensor.data_type).map_or(0, |elem| u64::from(elem.bits()));
    (elements, elements.saturating_mul(bits).div_ceil(8))
}

fn of_model(file: &str, model: &ModelProto, graph: &GraphProto) -> Report {
    let mut open = BTreeSet::new();
    let inputs: Vec<_> = testset::inputs_by_default(graph).0.iter().map(|p| declared(p, &mut open)).collect();
    let outputs: Vec<_> = graph.output.iter().map(|p| declared(p, &mut BTreeSet::new())).collect();
    let sets: Vec<String> = model
        .opset_import
        .iter()
        .map(|set| format!("{} {}", if set.domain.is_empty() { "ai.onnx" } else { &set.domain }, set.version))
        .collect();
    let operators = operators(graph, model);
    let (elements, bytes) = graph
        .initializer
        .iter()
        .map(size)
        .fold((0u64, 0u64), |all, one| (all.0.saturating_add(one.0), all.1.saturating_add(one.1)));
    let external = testset::data_files(graph);
    let producer = if model.producer_name.is_empty() { "no named tool" } else { &model.producer_name };
    let mut text = format!("{file}: an ONNX model by {producer}; operator sets: {}\n\n", sets.join(", "));
    text += &ports(&inputs, &outputs);
    if !open.is_empty() {
        let names: Vec<&str> = open.iter().map(String::as_str).collect();
        text += &report::wrapped(&format!("sizes to give with --dim NAME=N: {}", names.join(", ")));
        text += "\n";
    }
    let counted = |(name, n, known): &(String, usize, bool)| {
        format!("{name} {n}{}", if *known { "" } else { " (not supported)" })
    };
    let list: Vec<String> = operators.iter().map(counted).collect();
    text += &report::wrapped(&format!("\n{} nodes: {}", graph.node.len(), list.join(", ")));
    text += &format!("\nconstants: {elements} elements in {}", report::bytes(bytes));
    if !external.is_empty() {
        let names: Vec<&str> = external.iter().map(String::as_str).collect();
        text += &format!(", some in {}", names.join(", "));
    }
    text += "\n";
    let json = json!({
        "ok": true,
        "kind": "model",
        "producer": model.producer_name,
        "operator_sets": sets,
        "inputs": json_ports(&inputs),
        "outputs": json_ports(&outputs),
        "dims": open,
        "nodes": graph.node.len(),
        "operators": operators.iter().map(|(name, n, known)| {
            json!({ "operator": name, "nodes": n, "supported": known })
        }).collect::<Vec<_>>(),
        "constant_elements": elements,
        "constant_bytes": bytes,
        "data_files": external,
    });
    Report::new(text, json)
}
