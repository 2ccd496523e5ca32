//! The selection phase: which contractions get operands in which format and sparsity form.
//!
//! An approximation is a choice made once on the extracted function, never a union in the e-graph, where congruence
//! would compose errors untracked. [`select`] applies one precision everywhere. Under an error budget, `candidates` lists what every contraction
//! could be with its modelled cost (`model`, of what `zeros` leave), `survey` measures their errors through the trait [`Measure`], and `choose` solves for the best
//! joint choice (`solve`) and holds it to the budget by running it. `convert` rewrites the graph, and every weight passes through
//! `weights::quantized`, unless a technique of [`crate::weights`] takes its place. Candidates are measured with plain rounding; what is
//! run whole, under a budget too, has the techniques. At last [`crate::pack`] moves the conversions to where they cost least.

mod candidates;
mod choose;
mod convert;
mod extents;
mod measure;
mod model;
mod probe;
mod solve;
mod survey;
#[cfg(test)]
mod tests;
mod weights;
mod zeros;

use indexmap::IndexSet;
use lacuna_ir::dead::dead_nodes;
use lacuna_ir::{ConstId, FuncId, Function, Module, Node, NodeData, OriginId};
use lacuna_isa::format::{Format, ScalarType};

use crate::constants::fold;
use crate::error::Error;
use crate::module::functions;
use crate::options::{Options, Precision};
use crate::pack::pack;
use crate::report::Report;
use crate::weights::{Refined, WeightReport, is_rotation, refine};
use crate::zeros::{Sparse, WeightSparsity};

pub use candidates::{Candidate, Site};
pub use choose::{Budget, Chosen, Verdict};
pub use measure::{Drop, MachineCost, Measure, Outputs, SelectError, noise_to_signal, sqnr_db};
pub use survey::{ParetoPoint, Survey};

use convert::{Converter, Forms, Quantised, uniform};

/// What a contraction got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    /// Name of the function.
    pub function: String,
    /// ONNX nodes that the contraction implements.
    pub origins: Vec<OriginId>,
    /// Formats of its operands.
    pub formats: [Format; 2],
    /// Why it kept its formats, if the precision asked for others.
    pub kept: Option<&'static str>,
    /// Whether weights whose zeros follow a pattern stay dense all the same.
    pub dense: bool,
}

/// A module after the selection phase.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The module, with conversions as nodes and quantised weights in the pool.
    pub module: Module,
    /// What each contraction got: functions in order, contractions in the order of the function.
    pub assignments: Vec<Assignment>,
    /// What became of weights that more was done to than plain rounding, in order.
    pub refined: Vec<WeightReport>,
    /// What packing did with the conversions.
    pub packing: Report,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Weights of contractions in one format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WeightShare {
    /// The format.
    pub format: Format,
    /// Elements of constants in it.
    pub elements: u64,
    /// The bytes that they take in the object: scales, indices and padding included.
    pub bytes: u64,
}

/// Converts the operands of contractions to the precision of the options.
///
/// # Errors
/// When a constant cannot be converted, never for a verified module; when the calibration inputs do not fit, or the
/// function cannot be evaluated on them.
pub fn select(module: Module, options: &Options) -> Result<Selected, Error> {
    let narrows_attention = match options.precision {
        Precision::F32
        | Precision::Auto
        | Precision::Int4 { activations: ScalarType::F32 }
        | Precision::Mx { activations: Format::F32, .. } => false,
        Precision::Bf16 | Precision::Int4 { .. } | Precision::Mx { .. } => true,
    };
    let plan = &mut |_, func: &Function, node: &NodeData, constant| {
        if !node.origins.iter().any(|origin| options.ungrouped.contains(origin)) {
            return uniform(func, node, constant, options.precision);
        }
        let (forms, reason) = uniform(func, node, constant, options.precision.without_groups());
        (forms, reason.or(Some("there is no kernel for it in groups")))
    };
    convert(module, options, narrows_attention, &mut Quantised::new(), plan)
}

/// How each contraction is converted: function, source, node, and whether each operand is a weight.
type Plan<'a> = &'a mut dyn FnMut(FuncId, &Function, &NodeData, [bool; 2]) -> (Forms, Option<&'static str>);

fn convert(
    mut module: Module,
    options: &Options,
    narrows_attention: bool,
    quantised: &mut Quantised,
    plan: Plan<'_>,
) -> Result<Selected, Error> {
    let mut assignments = Vec::new();
    let mut changed = false;
    for func in functions(&module) {
        let source = module.functions[func].clone();
        let mut converter = Converter::new(&mut module, &source, options.weights);
        converter.narrows_attention = narrows_attention;
        converter.quantised = std::mem::take(quantised);
        let converted = converter.all(|node, constant| plan(func, &source, node, constant), &mut assignments);
        *quantised = std::mem::take(&mut converter.quantised);
        let broken = |message| Error::Contradiction { function: source.name.clone(), message };
        let mut converted = converted.map_err(broken)?;
        changed |= converted.nodes.len() != source.nodes.len();
        // Rows of a table that is converted are gathered from the new one.
        dead_nodes(&mut converted);
        module.functions[func] = converted;
    }
    let Refined { mut module, reports: refined, warnings: unrefined } = refine(module, options)?;
    if changed || !options.weights.is_plain() {
        fold(&mut module)?;
    }
    let (module, packing) = pack(module)?;
    let warnings = options.warnings().into_iter().chain(unrefined).collect();
    Ok(Selected { module, assignments, refined, packing, warnings })
}

/// What formats the weights of contractions have, by falling number of elements, and the bytes that they take, where `bytes` says
/// what a constant takes in the object. A constant counts once; codes with scales per block are of the codes' format.
pub fn weight_shares(module: &Module, bytes: &dyn Fn(ConstId) -> u64) -> Vec<WeightShare> {
    let products = module.functions.values().flat_map(|func| {
        let products = func.nodes.values().filter(|node| node.op.is_product());
        products.flat_map(|node| weights_of(func, node))
    });
    let mut seen = IndexSet::new();
    let mut shares: Vec<WeightShare> = Vec::new();
    for (codes, parts) in products {
        let ty = &module.constants[codes].ty;
        let elements = if seen.contains(&codes) { 0 } else { ty.shape.elements() };
        let own: u64 = parts.into_iter().filter(|&part| seen.insert(part)).map(bytes).sum();
        match shares.iter_mut().find(|s| s.format == ty.elem.format()) {
            Some(share) => {
                share.elements += elements;
                share.bytes += own;
            }
            None => shares.push(WeightShare { format: ty.elem.format(), elements, bytes: own }),
        }
    }
    shares.sort_by_key(|s| (std::cmp::Reverse(s.elements), s.format));
    shares
}

/// The bytes that the weights of each contraction take, in the order of [`Selected::assignments`], where `bytes` says what a constant
/// takes in the object. A constant counts for the first that reads it.
pub fn weight_bytes(selected: &Selected, bytes: &dyn Fn(ConstId) -> u64) -> Vec<u64> {
    let module = &selected.module;
    let mut seen = IndexSet::new();
    let mut all = Vec::new();
    for func in functions(module).into_iter().map(|id| &module.functions[id]) {
        for (_, node) in assigned(module, func) {
            let parts = weights_of(func, node).into_iter().flat_map(|(_, parts)| parts);
            all.push(parts.filter(|&part| seen.insert(part)).map(bytes).sum());
        }
    }
    all
}

/// The weights of a product: the constant that has the elements of each, and all that are stored for it.
fn weights_of(func: &Function, product: &NodeData) -> Vec<(ConstId, Vec<ConstId>)> {
    let table = func.picked(product).and_then(|picked| func.as_const(picked.table));
    let mut found: Vec<_> = table.map(|table| (table, vec![table])).into_iter().collect();
    for &arg in product.args.iter().take(2) {
        if let Some(blocked) = func.blocked(arg) {
            let parts = [Some(blocked.codes), Some(blocked.scales), blocked.zeros];
            found.push((blocked.codes, parts.into_iter().flatten().collect()));
        } else if let Some(value) = func.as_const(arg) {
            found.push((value, vec![value]));
        }
    }
    found
}

/// The products of a function that have an assignment, in order: a rotation has none.
fn assigned<'f>(module: &'f Module, func: &'f Function) -> impl Iterator<Item = (Node, &'f NodeData)> {
    func.nodes.iter().filter(|(_, node)| node.op.is_product() && !is_rotation(module, func, node))
}

/// Which of `patterns` the weights of a function's contractions follow, where they are stored compressed.
pub fn compressed(
    selected: &Selected,
    func: FuncId,
    patterns: &[WeightSparsity],
) -> cranelift_entity::SecondaryMap<Node, Sparse> {
    let mut found = crate::zeros::sparsity_of(&selected.module, func, patterns);
    let source = &selected.module.functions[func];
    let own = selected.assignments.iter().filter(|a| a.function == source.name);
    for ((node, _), assignment) in assigned(&selected.module, source).zip(own) {
        if assignment.dense {
            found[node] = Sparse::default();
        }
    }
    found
}
