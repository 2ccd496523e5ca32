//! The model around the graph: decoding, operator sets, inputs with their dimensions, initializers, outputs.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lacuna_ir::{Blob, Constant, ConstantData, Entry, Module, Shape, TensorType, Value};
use lacuna_isa::format::ScalarType;
use prost::Message;

use crate::codes;
use crate::context::Ctx;
use crate::diagnostic::Diagnostic;
use crate::importer::Importer;
use crate::limits;
use crate::lists::{Flat, ListKind, flatten};
use crate::opset::model_opset;
use crate::proto::{DimensionProto, GraphProto, ModelProto, SparseTensorProto, ValueInfoProto};
use crate::prune::prune;
use crate::slot::Slot;
use crate::tensor::{DataTypeError, Literal, decode_tensor, scalar_type};
use crate::{ExternalData, Imported, Options};

/// A blob as the owner of [`Bytes`], so that decoding shares its memory.
struct Shared(Blob);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

fn not_onnx(reason: impl Into<String>) -> Diagnostic {
    Diagnostic::new(codes::NOT_ONNX, reason)
        .hint("give an ONNX file; if it is one, it is truncated or damaged: export or copy it again")
}

/// Imports a model.
///
/// # Errors
/// Everything that is wrong with the model, the options or their fit, and every unsupported node.
pub fn import(
    model: Blob,
    external: &dyn ExternalData,
    options: &Options,
) -> Result<Imported, Vec<Diagnostic>> {
    let proto =
        ModelProto::decode(Bytes::from_owner(Shared(model))).map_err(|e| vec![not_onnx(e.to_string())])?;
    let Some(graph) = &proto.graph else {
        return Err(vec![not_onnx("it holds no graph")]);
    };
    if graph.output.is_empty() {
        let reason = format!("graph `{}` has {} nodes and no outputs", graph.name, graph.node.len());
        return Err(vec![Diagnostic::new(codes::EMPTY_GRAPH, reason)]);
    }
    let opset = model_opset(&proto).map_err(|d| vec![*d])?;

    let mut module = Module { name: graph.name.clone(), ..Module::default() };
    let ctx = Ctx::new(&mut module, "main", external);
    let id = ctx.b.id();
    let mut importer = Importer::new(ctx, &proto.functions, opset);
    let initializers = initializers(&mut importer, graph, options);
    let inputs = inputs(&mut importer, graph, &initializers, options);
    importer.nodes(graph.node.iter());
    let (results, outputs) = outputs(&mut importer, graph);
    let Importer { mut ctx, diagnostics, warnings, .. } = importer;
    if !diagnostics.is_empty() {
        return Err(diagnostics);
    }
    ctx.b.results(&results);
    prune(&mut module, id);
    module.entries.push(Entry { name: "main".to_owned(), func: id, inputs, outputs });
    Ok(Imported { module, opset, warnings })
}

/// Defines every initializer as a constant, and returns their names. One that is an input as well is the default of
/// that input: a bound tensor takes its place.
fn initializers(importer: &mut Importer<'_>, graph: &GraphProto, options: &Options) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    importer.ctx.b.set_origins(Vec::new());
    let replaced =
        |name: &str| options.bindings.contains_key(name) && graph.input.iter().any(|i| i.name == name);
    for tensor in graph.initializer.iter().filter(|t| !replaced(&t.name)) {
        names.insert(tensor.name.clone());
        let made = decode_tensor(tensor.clone(), importer.ctx.external);
        importer.define_literal(&tensor.name, made.map(|(_, literal)| literal));
    }
    for sparse in &graph.sparse_initializer {
        let name = sparse.values.as_ref().map(|v| v.name.clone()).unwrap_or_default();
        let made = densify(sparse, importer.ctx.external);
        importer.define_literal(&name, made);
        names.insert(name);
    }
    names
}

/// The most bytes that a sparse initializer may have when dense.
const MAX_SPARSE_BYTES: u64 = 1 << 32;

/// The dense form of a sparse tensor.
fn densify(sparse: &SparseTensorProto, external: &dyn ExternalData) -> Result<Literal, Box<Diagnostic>> {
    let bad = |reason: &str| {
        Box::new(Diagnostic::new(codes::BAD_TENSOR, format!("a sparse initializer: {reason}")))
    };
    let (Some(values), Some(indices)) = (&sparse.values, &sparse.indices) else {
        return Err(bad("its values or its indices are missing"));
    };
    let (_, values) = decode_tensor(values.clone(), external)?;
    let (_, indices) = decode_tensor(indices.clone(), external)?;
    let dims: Option<Vec<u64>> = sparse.dims.iter().map(|&d| u64::try_from(d).ok()).collect();
    let shape = Shape(dims.ok_or_else(|| bad("its shape is negative"))?);
    limits::check_shape(&shape).map_err(|e| bad(&e.to_string()))?;
    let Some(elem) = values.ty.elem.scalar().filter(|e| e.bits() % 8 == 0) else {
        return Err(bad("its elements are narrower than a byte"));
    };
    let ty = TensorType::new(elem, shape);
    let count = values.ty.shape.elements();
    let columns = match indices.ty.shape[..] {
        [n] if n == count => 1,
        [n, rank] if n == count && rank as usize == ty.shape.rank() => ty.shape.rank(),
        _ => return Err(bad("its indices do not fit its values")),
    };
    if indices.ty.elem.scalar() != Some(ScalarType::I64) || ty.bytes() > MAX_SPARSE_BYTES {
        return Err(bad("its indices are not i64, or it is too large"));
    }
    let width = elem.bits() as usize / 8;
    let strides = if columns == 1 { vec![1] } else { ty.shape.strides() };
    let mut dense = vec![0u8; ty.bytes() as usize];
    let tuples = indices.data.bytes().chunks_exact(8 * columns.max(1));
    for (tuple, value) in tuples.zip(values.data.bytes().chunks_exact(width)) {
        let coordinates =
            tuple.chunks_exact(8).map(|b| b.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b)));
        let mut at = Some(0u64);
        for (i, (p, stride)) in coordinates.zip(&strides).enumerate() {
            let bound = if columns == 1 { ty.shape.elements() } else { ty.shape[i] };
            at = at.filter(|_| p < bound).and_then(|a| a.checked_add(p.checked_mul(*stride)?));
        }
        let start = at.ok_or_else(|| bad("an index is out of range"))? as usize * width;
        dense[start..start + width].copy_from_slice(value);
    }
    Ok(Literal { ty, data: Blob::new(dense) })
}

/// Names that tools give to every dimension whose size they do not know.
const PLACEHOLDERS: [&str; 4] = ["", "?", "-1", "None"];

/// One dimension of an input.
pub enum Dimension {
    /// Its size.
    Size(u64),
    /// The name that a size must be given for: the model's own, or `INPUT.AXIS`.
    Name(String),
}

impl Dimension {
    /// Reads dimension number `axis` of `input`. Negative sizes and placeholders, as Paddle2ONNX writes them, say nothing.
    pub fn of(dim: &DimensionProto, input: &str, axis: usize) -> Dimension {
        match (dim.dim_value.map(u64::try_from), dim.dim_param.as_deref()) {
            (Some(Ok(size)), _) => Dimension::Size(size),
            (None, Some(name)) if !PLACEHOLDERS.contains(&name) => Dimension::Name(name.to_owned()),
            (Some(Err(_)) | None, _) => Dimension::Name(format!("{input}.{axis}")),
        }
    }
}

/// Why the type of an input is refused.
#[derive(Debug, thiserror::Error)]
enum InputTypeError {
    #[error("it is not a dense tensor")]
    NotDense,
    #[error("its rank is not known")]
    NoRank,
    #[error(transparent)]
    Element(#[from] DataTypeError),
}

fn dimensions(input: &ValueInfoProto) -> Result<(ScalarType, Vec<Dimension>), InputTypeError> {
    let tensor = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let tensor = tensor.ok_or(InputTypeError::NotDense)?;
    let elem = scalar_type(tensor.elem_type)?;
    let shape = tensor.shape.as_ref().ok_or(InputTypeError::NoRank)?;
    let of = |(axis, dim)| Dimension::of(dim, &input.name, axis);
    let dims = shape.dim.iter().enumerate().map(of).collect();
    Ok((elem, dims))
}

/// Makes the parameters and returns their names: of inputs that are neither initializers nor bound, which are constants.
fn inputs(
    importer: &mut Importer<'_>,
    graph: &GraphProto,
    initializers: &BTreeSet<String>,
    options: &Options,
) -> Vec<String> {
    let mut sizes: BTreeMap<String, u64> = options.dims.clone();
    let mut unused: BTreeSet<&str> = options.dims.keys().map(String::as_str).collect();
    let mut unbound: BTreeSet<&str> = options.bindings.keys().map(String::as_str).collect();
    let free = graph.input.iter().filter(|i| !initializers.contains(&i.name));
    let flat = flatten(free, &sizes);
    for list in &flat.lists {
        for suffix in ["length", "present"] {
            unused.remove(format!("{}.{suffix}", list.name).as_str());
        }
    }
    let parsed: Vec<(&ValueInfoProto, Result<_, InputTypeError>)> =
        flat.inputs.iter().map(|i| (i, dimensions(i))).collect();
    // A bound tensor's shape determines named dimensions of other inputs too.
    for (input, dims) in &parsed {
        let Ok((_, dims)) = dims else { continue };
        let bound = options.bindings.get(&input.name);
        for (axis, dim) in dims.iter().enumerate() {
            if let Dimension::Name(name) = dim {
                unused.remove(name.as_str());
                if let Some(&size) = bound.and_then(|b| b.ty.shape.get(axis)) {
                    sizes.entry(name.clone()).or_insert(size);
                }
            }
        }
    }
    let mut names = Vec::new();
    for (input, dims) in parsed {
        unbound.remove(input.name.as_str());
        match parameter(input, dims, &sizes) {
            Ok(ty) => match options.bindings.get(&input.name) {
                Some(literal) if literal.ty != ty => {
                    let reason = format!("input `{}` is {ty}, but --bind gives {}", input.name, literal.ty);
                    importer.diagnostics.push(Diagnostic::new(codes::OPTION, reason));
                    importer.define(&input.name, Slot::Poisoned);
                }
                Some(literal) => {
                    let data = ConstantData::Dense(literal.data.clone());
                    let made = importer.ctx.constant(Constant::new(ty, data, input.name.clone()));
                    importer.define(&input.name, made.map_or(Slot::Poisoned, Slot::Value));
                }
                None => {
                    names.push(input.name.clone());
                    let value = importer.ctx.b.param(ty, input.name.clone());
                    importer.define(&input.name, Slot::Value(value));
                }
            },
            Err(mut found) => {
                importer.diagnostics.append(&mut found);
                importer.define(&input.name, Slot::Poisoned);
            }
        }
    }
    define_lists(importer, &flat);
    for name in unused {
        let reason = format!("--dim {name}: no input has a dimension of this name");
        importer.diagnostics.push(Diagnostic::new(codes::OPTION, reason));
    }
    for name in unbound {
        let reason = match initializers.contains(name) {
            true => format!("--bind {name}: the model has this constant, and no input of this name"),
            false => format!("--bind {name}: there is no input of this name"),
        };
        importer.diagnostics.push(Diagnostic::new(codes::OPTION, reason));
    }
    names
}

/// Defines inputs that are sequences or optionals from the tensors that they hold.
fn define_lists(importer: &mut Importer<'_>, flat: &Flat) {
    for name in &flat.missing {
        let reason = format!("the number of tensors `{name}` of an input is not known");
        let hint = format!("give it: --dim {name}=N, at most {}", limits::MAX_PARTS);
        importer.diagnostics.push(Diagnostic::new(codes::UNBOUND_DIM, reason).hint(hint));
        if let Some((input, _)) = name.rsplit_once('.') {
            importer.redefine(input, Slot::Poisoned);
        }
    }
    for list in &flat.lists {
        let tensors: Option<Vec<Value>> =
            list.elements.iter().flatten().try_fold(Vec::new(), |mut all, name| {
                match importer.lookup(name) {
                    Some(Slot::Value(value)) => all.push(value),
                    _ => return None,
                }
                Some(all)
            });
        let slot = match (list.kind, tensors) {
            (_, None) => Slot::Poisoned,
            (_, Some(_)) if list.elements.is_none() => Slot::Optional(None),
            (ListKind::OptionalTensor, Some(one)) => {
                // The tensor is an input of the same name, which this one replaces.
                let slot = one.first().map_or(Slot::Optional(None), |&v| Slot::some(Slot::Value(v)));
                importer.redefine(&list.name, slot);
                continue;
            }
            (ListKind::OptionalSequence, Some(all)) => Slot::some(Slot::sequence(all)),
            (ListKind::Sequence | ListKind::Tensor, Some(all)) => Slot::sequence(all),
        };
        importer.define(&list.name, slot);
    }
}

fn parameter(
    input: &ValueInfoProto,
    dims: Result<(ScalarType, Vec<Dimension>), InputTypeError>,
    sizes: &BTreeMap<String, u64>,
) -> Result<TensorType, Vec<Diagnostic>> {
    let (elem, dims) = dims.map_err(|reason| {
        vec![Diagnostic::new(codes::INPUT_TYPE, format!("input `{}`: {reason}", input.name))]
    })?;
    let mut found = Vec::new();
    let mut shape = Vec::new();
    for (axis, dim) in dims.iter().enumerate() {
        match dim {
            Dimension::Size(size) => shape.push(*size),
            Dimension::Name(name) => match sizes.get(name) {
                Some(&size) => shape.push(size),
                None => found.push(
                    Diagnostic::new(
                        codes::UNBOUND_DIM,
                        format!("dimension {axis} of input `{}` is `{name}`", input.name),
                    )
                    .hint(format!("give its size: --dim {name}=N")),
                ),
            },
        }
    }
    let shape = Shape(shape);
    if let Err(reason) = limits::check_shape(&shape) {
        found.push(Diagnostic::new(codes::TOO_LARGE, format!("input `{}`: {reason}", input.name)));
    }
    if found.is_empty() { Ok(TensorType::new(elem, shape)) } else { Err(found) }
}

/// Values and names of the graph's outputs.
fn outputs(importer: &mut Importer<'_>, graph: &GraphProto) -> (Vec<Value>, Vec<String>) {
    let (mut results, mut names) = (Vec::new(), Vec::new());
    for output in &graph.output {
        if names.contains(&output.name) {
            importer.warnings.push(format!("output `{}` is listed more than once", output.name));
            continue;
        }
        match importer.lookup(&output.name) {
            Some(slot) => {
                if let Slot::Value(value) = slot {
                    check_output(importer, output, value);
                }
                for (name, value) in tensors_of(&output.name, &slot) {
                    results.push(value);
                    names.push(name);
                }
            }
            None => importer.diagnostics.push(Diagnostic::new(
                codes::UNDEFINED,
                format!("nothing defines the graph's output `{}`", output.name),
            )),
        }
    }
    (results, names)
}

/// The tensors that an output holds, with their names.
fn tensors_of(name: &str, slot: &Slot) -> Vec<(String, Value)> {
    match slot {
        Slot::Value(value) => vec![(name.to_owned(), *value)],
        Slot::Sequence(all) => all.iter().enumerate().map(|(i, &v)| (format!("{name}[{i}]"), v)).collect(),
        Slot::Optional(Some(element)) => tensors_of(name, element),
        Slot::Optional(None) | Slot::Absent | Slot::Poisoned => Vec::new(),
    }
}

/// Warns where the model declares another type for an output than its nodes give.
fn check_output(importer: &mut Importer<'_>, output: &ValueInfoProto, value: Value) {
    let Ok((elem, dims)) = dimensions(output) else { return };
    let ty = importer.ctx.b.ty(value);
    let same = dims.len() == ty.shape.rank()
        && dims.iter().zip(ty.shape.iter()).all(|(dim, &have)| match dim {
            Dimension::Size(size) => *size == have,
            Dimension::Name(_) => true,
        });
    if !same || ty.elem.scalar() != Some(elem) {
        let warning = format!("output `{}` is {ty}, which is not what the model declares", output.name);
        importer.warnings.push(warning);
    }
}
