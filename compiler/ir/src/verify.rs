//! The verifier. A module without violations never makes a later phase, the evaluator or the text form panic.
//!
//! Invariants, by number:
//!
//! 1. Every type is sound ([`TensorType::check`]): rank, number of elements, grouped dimension, named group format.
//! 2. A constant has the data that its type says: dense data of [`TensorType::bytes`] bytes; a splat only of a scalar
//!    type, with a code no wider than it.
//! 3. Every value of a function is defined exactly once: as the parameter or the result of a node that its
//!    [`ValueDef`](crate::module::ValueDef) names.
//! 4. Definitions precede uses: the operands of a node and the results of a function exist, operands are parameters
//!    or results of earlier nodes.
//! 5. An operator fits its operands, and its results have the types that [`infer`] gives.
//! 6. Calls are acyclic and nest at most [`MAX_CALL_DEPTH`] deep.
//! 7. The origins of a node exist, ascend and do not repeat.
//! 8. An entry names an existing function, each of its parameters and each of its results; names of inputs, and of
//!    outputs, do not repeat within an entry, nor names of entries within the module.

use std::collections::HashSet;
use std::fmt;

use cranelift_entity::SecondaryMap;

use crate::eval::MAX_CALL_DEPTH;
use crate::infer::infer;
use crate::module::{
    ConstId, Constant, ConstantData, FuncId, Function, Module, Node, NodeData, Value, ValueDef,
};
use crate::op::Op;
use crate::types::{ElemType, TensorType};

/// The thing that breaks an invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A constant of the pool.
    Constant(ConstId),
    /// A function.
    Function(FuncId),
    /// A value of a function.
    Value(FuncId, Value),
    /// A node of a function.
    Node(FuncId, Node),
    /// An entry, by its position.
    Entry(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Constant(id) => write!(f, "{id}"),
            Place::Function(id) => write!(f, "{id}"),
            Place::Value(func, id) => write!(f, "{func}, {id}"),
            Place::Node(func, id) => write!(f, "{func}, {id}"),
            Place::Entry(i) => write!(f, "entry {i}"),
        }
    }
}

/// A broken invariant.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("rule {rule}: {place}: {message}")]
pub struct Violation {
    /// Number of the invariant in the list at the head of [`crate::verify`].
    pub rule: u8,
    /// What breaks it.
    pub place: Place,
    /// How.
    pub message: String,
}

/// Checks every invariant.
///
/// # Errors
/// All violations, in the order of the module.
pub fn verify(module: &Module) -> Result<(), Vec<Violation>> {
    let mut v = Verifier { module, violations: Vec::new() };
    for (id, constant) in &module.constants {
        v.constant(id, constant);
    }
    for (id, function) in &module.functions {
        v.function(id, function);
    }
    v.calls();
    v.entries();
    if v.violations.is_empty() { Ok(()) } else { Err(v.violations) }
}

struct Verifier<'m> {
    module: &'m Module,
    violations: Vec<Violation>,
}

impl Verifier<'_> {
    fn report(&mut self, rule: u8, place: Place, message: impl Into<String>) {
        self.violations.push(Violation { rule, place, message: message.into() });
    }

    fn constant(&mut self, id: ConstId, constant: &Constant) {
        let place = Place::Constant(id);
        if let Err(error) = constant.ty.check() {
            return self.report(1, place, error.0);
        }
        match (&constant.data, constant.ty.elem) {
            (ConstantData::Dense(blob), _) => {
                let (got, want) = (blob.len() as u64, constant.ty.bytes());
                if got != want {
                    self.report(2, place, format!("{got} bytes where {} has {want}", constant.ty));
                }
            }
            (ConstantData::Splat(_), ElemType::Grouped { .. }) => {
                self.report(2, place, format!("a splat of {}", constant.ty));
            }
            (ConstantData::Splat(code), ElemType::Scalar(elem)) => {
                if elem.bits() < 64 && code >> elem.bits() != 0 {
                    self.report(2, place, format!("{code:#x} is not a code of {elem}"));
                }
            }
        }
    }

    fn function(&mut self, id: FuncId, function: &Function) {
        for (value, data) in &function.values {
            if let Err(error) = data.ty.check() {
                self.report(1, Place::Value(id, value), error.0);
            }
        }
        self.definitions(id, function);
        let mut defined: SecondaryMap<Value, bool> = SecondaryMap::new();
        for &param in &function.params {
            if function.values.is_valid(param) {
                defined[param] = true;
            }
        }
        for (node, data) in &function.nodes {
            let place = Place::Node(id, node);
            let early = data.args.iter().find(|&&a| !function.values.is_valid(a) || !defined[a]);
            match early {
                Some(arg) => self.report(4, place.clone(), format!("{arg} is used before it is defined")),
                None => self.types(&place, function, data),
            }
            self.origins(&place, data);
            for &result in data.results.iter().filter(|&&r| function.values.is_valid(r)) {
                defined[result] = true;
            }
        }
        for &result in &function.results {
            if !function.values.is_valid(result) || !defined[result] {
                self.report(4, Place::Function(id), format!("the result {result} is not defined"));
            }
        }
    }

    /// Rule 3.
    fn definitions(&mut self, id: FuncId, function: &Function) {
        let params = function.params.iter().enumerate().map(|(i, &v)| (v, ValueDef::Param(i as u32)));
        let results = function.nodes.iter().flat_map(|(node, data)| {
            data.results.iter().enumerate().map(move |(i, &v)| (v, ValueDef::Result(node, i as u32)))
        });
        let mut counts: SecondaryMap<Value, u32> = SecondaryMap::new();
        for (value, def) in params.chain(results) {
            match function.values.get(value) {
                None => self.report(3, Place::Function(id), format!("{value} is defined but does not exist")),
                Some(data) => {
                    counts[value] += 1;
                    if counts[value] > 1 {
                        self.report(3, Place::Value(id, value), "defined more than once");
                    } else if data.def != def {
                        let message = format!("defined as {def:?}, recorded as {:?}", data.def);
                        self.report(3, Place::Value(id, value), message);
                    }
                }
            }
        }
        for value in function.values.keys().filter(|&v| counts[v] == 0) {
            self.report(3, Place::Value(id, value), "never defined");
        }
    }

    /// Rule 5.
    fn types(&mut self, place: &Place, function: &Function, data: &NodeData) {
        let types: Vec<&TensorType> = data.args.iter().map(|&a| function.ty(a)).collect();
        let inferred = match infer(self.module, &data.op, &types) {
            Ok(inferred) => inferred,
            Err(error) => return self.report(5, place.clone(), format!("`{}`: {error}", data.op.name())),
        };
        if inferred.len() != data.results.len() {
            let message = format!("{} results where there are {}", data.results.len(), inferred.len());
            return self.report(5, place.clone(), message);
        }
        for (&result, ty) in data.results.iter().zip(&inferred) {
            if let Some(value) = function.values.get(result).filter(|value| value.ty != *ty) {
                self.report(5, place.clone(), format!("{result} is {}, recorded as {}", ty, value.ty));
            }
        }
    }

    /// Rule 7.
    fn origins(&mut self, place: &Place, data: &NodeData) {
        if let Some(missing) = data.origins.iter().find(|&&o| !self.module.origins.is_valid(o)) {
            self.report(7, place.clone(), format!("there is no origin {missing}"));
        }
        if !data.origins.is_sorted_by(|a, b| a < b) {
            self.report(7, place.clone(), "origins do not ascend");
        }
    }

    /// Rule 6: functions are removed callees first; what stays calls itself.
    fn calls(&mut self) {
        let functions = &self.module.functions;
        let callees = |id: FuncId| {
            functions[id].nodes.values().filter_map(|node| match node.op {
                Op::Call { func } if functions.is_valid(func) => Some(func),
                _ => None,
            })
        };
        let mut pending: SecondaryMap<FuncId, usize> = SecondaryMap::new();
        let mut callers: SecondaryMap<FuncId, Vec<FuncId>> = SecondaryMap::new();
        for id in functions.keys() {
            for callee in callees(id) {
                pending[id] += 1;
                callers[callee].push(id);
            }
        }
        let mut depth: SecondaryMap<FuncId, usize> = SecondaryMap::new();
        let mut ready: Vec<FuncId> = functions.keys().filter(|&id| pending[id] == 0).collect();
        let mut at = 0;
        while let Some(&id) = ready.get(at) {
            at += 1;
            for &caller in &callers[id] {
                depth[caller] = depth[caller].max(depth[id] + 1);
                pending[caller] -= 1;
                if pending[caller] == 0 {
                    ready.push(caller);
                }
            }
        }
        for id in functions.keys() {
            if pending[id] > 0 {
                self.report(6, Place::Function(id), "calls itself, or a function that does");
            } else if depth[id] > MAX_CALL_DEPTH {
                self.report(6, Place::Function(id), format!("calls nest {} deep", depth[id]));
            }
        }
    }

    /// Rule 8.
    fn entries(&mut self) {
        let mut names = HashSet::new();
        for (i, entry) in self.module.entries.iter().enumerate() {
            let place = Place::Entry(i);
            if !names.insert(&entry.name) {
                self.report(8, place.clone(), format!("there are two entries \"{}\"", entry.name));
            }
            let Some(function) = self.module.functions.get(entry.func) else {
                self.report(8, place, format!("there is no function {}", entry.func));
                continue;
            };
            for (what, names, values) in
                [("inputs", &entry.inputs, &function.params), ("outputs", &entry.outputs, &function.results)]
            {
                if names.len() != values.len() {
                    let message = format!("{} {what} named where there are {}", names.len(), values.len());
                    self.report(8, place.clone(), message);
                }
                let mut seen = HashSet::new();
                if let Some(name) = names.iter().find(|name| !seen.insert(*name)) {
                    self.report(8, place.clone(), format!("two {what} are named \"{name}\""));
                }
            }
        }
    }
}
