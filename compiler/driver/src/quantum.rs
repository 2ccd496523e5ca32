//! The step of an output that a model itself quantises: two correct computations differ by one of it where a value lies between two
//! codes.

use std::collections::BTreeMap;

use lacuna_isa::Blob;
use lacuna_onnx::proto::{GraphProto, NodeProto, TensorProto};
use lacuna_onnx::{NoExternalData, decode_tensor};

use crate::compare::Criterion;
use crate::testset;

/// Nodes between quantisation and output are followed this far.
const MAX_STEPS: usize = 64;

/// Operators whose results are some of their operand's elements.
const MOVES: &[&str] =
    &["Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"];

/// The quantisation that an output comes from.
#[derive(Clone, PartialEq, Debug)]
pub struct Quantum {
    /// Name of the node that quantises.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// The difference of neighbouring codes: of several scales the greatest.
    pub step: f64,
}

/// The quanta of a model's real outputs that are dequantised codes, by name of the output.
pub fn quanta(model: &Blob) -> BTreeMap<String, Quantum> {
    let Some(graph) = testset::decode(model).and_then(|model| model.graph) else { return BTreeMap::new() };
    let outputs = graph.output.iter().filter_map(|port| Some((port.name.clone(), of(&graph, &port.name)?)));
    outputs.collect()
}

/// A criterion of closeness that one quantum more is close for, where the output has one.
pub fn within(criterion: Criterion, quantum: Option<&Quantum>) -> Criterion {
    match (criterion, quantum) {
        (Criterion::Close { atol, rtol }, Some(quantum)) => {
            Criterion::Close { atol: atol.max(quantum.step), rtol }
        }
        (criterion, _) => criterion,
    }
}

fn of(graph: &GraphProto, output: &str) -> Option<Quantum> {
    let dequantize = source(graph, output)?;
    if dequantize.op_type != "DequantizeLinear" {
        return None;
    }
    let quantize = source(graph, dequantize.input.first()?)?;
    if quantize.op_type != "QuantizeLinear" && !quantize.op_type.starts_with("QLinear") {
        return None;
    }
    let scale = constant(graph, dequantize.input.get(1)?)?;
    let (_, scale) = decode_tensor(scale.clone(), &NoExternalData).ok()?;
    let scale = lacuna_ir::eval::Tensor::from_bytes(scale.ty, scale.data.bytes()).ok()?;
    let step = scale.to_f64().iter().map(|s| s.abs()).fold(0.0, f64::max);
    let (node, op) = (quantize.name.clone(), quantize.op_type.clone());
    (step.is_finite() && step > 0.0).then_some(Quantum { node, op, step })
}

/// The node that computes a tensor, behind those that only move elements.
fn source<'g>(graph: &'g GraphProto, tensor: &str) -> Option<&'g NodeProto> {
    let mut name = tensor;
    for _ in 0..MAX_STEPS {
        let node = graph.node.iter().find(|node| node.output.iter().any(|o| o == name))?;
        if !MOVES.contains(&node.op_type.as_str()) {
            return Some(node);
        }
        name = node.input.first()?;
    }
    None
}

fn constant<'g>(graph: &'g GraphProto, name: &str) -> Option<&'g TensorProto> {
    let stored = graph.initializer.iter().find(|tensor| tensor.name == name);
    stored.or_else(|| {
        let node =
            graph.node.iter().find(|n| n.op_type == "Constant" && n.output.iter().any(|o| o == name))?;
        node.attribute.iter().find(|a| a.name == "value")?.t.as_ref()
    })
}
