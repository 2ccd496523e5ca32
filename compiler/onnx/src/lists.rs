//! Graph inputs and outputs that are sequences or optionals, as the tensors that they hold.
//!
//! The number of tensors of the input `x` is the dimension `x.length`; whether the optional `x` has an element is the
//! dimension `x.present`, 1 or 0. Tensor i is the input `x[i]`, and dimension a of it has the name `x[i].a` where that
//! is given a size, else the declared one.

use std::collections::BTreeMap;

use crate::proto::{DimensionProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto};

/// What a graph input or output is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListKind {
    /// A tensor, or something else that has no tensors.
    Tensor,
    /// A sequence of tensors.
    Sequence,
    /// A tensor or nothing.
    OptionalTensor,
    /// A sequence of tensors or nothing.
    OptionalSequence,
}

impl ListKind {
    /// The kind of a declared input or output.
    pub fn of(info: &ValueInfoProto) -> ListKind {
        let Some(ty) = &info.r#type else { return ListKind::Tensor };
        if ty.sequence_type.is_some() {
            return ListKind::Sequence;
        }
        match ty.optional_type.as_ref().and_then(|o| o.elem_type.as_ref()) {
            Some(inner) if inner.sequence_type.is_some() => ListKind::OptionalSequence,
            Some(inner) if inner.tensor_type.is_some() => ListKind::OptionalTensor,
            Some(_) | None => ListKind::Tensor,
        }
    }
}

/// An input that stands for a list of tensors.
#[derive(Clone, PartialEq, Debug)]
pub struct List {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ListKind,
    /// Names of its tensors; `None` for an optional without element.
    pub elements: Option<Vec<String>>,
}

/// Graph inputs with lists replaced by their tensors.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Flat {
    /// Inputs that are tensors.
    pub inputs: Vec<ValueInfoProto>,
    /// Inputs that are lists.
    pub lists: Vec<List>,
    /// Names of dimensions that say how many tensors a list has, and are not given.
    pub missing: Vec<String>,
}

/// The greatest number of tensors of a list.
const MAX_LENGTH: u64 = crate::limits::MAX_PARTS as u64;

/// Replaces lists by their tensors, as many as the sizes of dimensions say.
pub fn flatten<'a>(inputs: impl Iterator<Item = &'a ValueInfoProto>, dims: &BTreeMap<String, u64>) -> Flat {
    let mut flat = Flat::default();
    for input in inputs {
        let kind = ListKind::of(input);
        let mut number = |suffix: &str| {
            let key = format!("{}.{suffix}", input.name);
            let found = dims.get(&key).copied().filter(|&n| n <= MAX_LENGTH);
            if found.is_none() {
                flat.missing.push(key);
            }
            found
        };
        let count = match kind {
            ListKind::Tensor => {
                flat.inputs.push(input.clone());
                continue;
            }
            ListKind::Sequence => number("length").map(Some),
            ListKind::OptionalTensor => number("present").map(|n| (n > 0).then_some(1)),
            ListKind::OptionalSequence => match number("present") {
                Some(0) => Some(None),
                Some(_) => number("length").map(Some),
                None => None,
            },
        };
        let Some(count) = count else { continue };
        let elements = count.map(|count| {
            (0..count)
                .map(|i| {
                    let element = element(input, kind, i, dims);
                    flat.inputs.push(element.clone());
                    element.name
                })
                .collect()
        });
        flat.lists.push(List { name: input.name.clone(), kind, elements });
    }
    flat
}

/// Tensor number `i` of a list as an input of its own.
fn element(input: &ValueInfoProto, kind: ListKind, i: u64, dims: &BTreeMap<String, u64>) -> ValueInfoProto {
    let name = match kind {
        ListKind::Tensor | ListKind::OptionalTensor => input.name.clone(),
        ListKind::Sequence | ListKind::OptionalSequence => format!("{}[{i}]", input.name),
    };
    let mut ty = input.r#type.as_ref();
    while let Some(outer) = ty {
        let of_optional = outer.optional_type.as_ref().and_then(|o| o.elem_type.as_deref());
        let of_sequence = outer.sequence_type.as_ref().and_then(|s| s.elem_type.as_deref());
        match of_optional.or(of_sequence) {
            Some(inner) => ty = Some(inner),
            None => break,
        }
    }
    let Some(tensor) = ty.and_then(|t| t.tensor_type.as_ref()) else {
        return ValueInfoProto { name, r#type: None };
    };
    let own = |axis: usize| format!("{name}.{axis}");
    let dim = match &tensor.shape {
        Some(shape) => {
            let given = shape.dim.iter().enumerate().map(|(axis, dim)| match dim.dim_value {
                Some(0..) => dim.clone(),
                Some(_) | None if dims.contains_key(&own(axis)) => symbolic(own(axis)),
                Some(_) | None => dim.clone(),
            });
            given.collect()
        }
        // Nothing is declared: the tensor has the dimensions that are given.
        None => (0..).map(own).take_while(|key| dims.contains_key(key)).map(symbolic).collect(),
    };
    let tensor = TensorTypeProto { elem_type: tensor.elem_type, shape: Some(TensorShapeProto { dim }) };
    let ty = TypeProto { tensor_type: Some(tensor), ..TypeProto::default() };
    ValueInfoProto { name, r#type: Some(ty) }
}

fn symbolic(name: String) -> DimensionProto {
    DimensionProto { dim_value: None, dim_param: Some(name) }
}
