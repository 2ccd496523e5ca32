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

use indexmap::IndexMap;
use lacuna_ir::dead::dead_nodes;
use lacuna_ir::{FuncId, Function, Module, NodeData, OriginId};
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::view::Pattern;

use crate::constants::fold;
use crate::error::Error;
use crate::module::functions;
use crate::options::{Options, Precision};
use crate::pack::pack;
use crate::report::Report;
use crate::weights::{WeightReport, is_rotation, refine};
use crate::zeros::{Sparse, WeightSparsity};

pub use candidates::{Candidate, Site};
pub use choose::{Budget, Chosen, Verdict};
pub use measure::{Drop, MachineCost, Measure, Outputs, SelectError, noise_to_signal, sqnr_db};
pub use survey::{ParetoPoint, Survey};

use convert::{Converter, Forms, Quantised, uniform};
use extents::Extents;

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
    let (mut module, refined) = refine(module, options)?;
    if changed || !options.weights.is_plain() {
        fold(&mut module)?;
    }
    let (module, packing) = pack(module)?;
    Ok(Selected { module, assignments, refined, packing, warnings: options.warnings() })
}

/// What formats the weights of contractions have, by falling number of elements, and the bytes that they take in the object: in whole
/// panels and groups, and with what `pattern` says of the zeros of a product. A constant counts once; codes with scales per block are of
/// the codes' format.
pub fn weight_shares(
    module: &Module,
    pattern: &dyn Fn(FuncId, lacuna_ir::Node) -> Option<Pattern>,
) -> Vec<WeightShare> {
    let mut seen = IndexMap::new();
    for (id, func) in &module.functions {
        for (node, data) in func.nodes.iter().filter(|(_, n)| n.op.is_product()) {
            let constant = [0, 1].map(|i| func.as_const(data.args[i]).is_some());
            if let Some(table) = func.picked(data).and_then(|picked| func.as_const(picked.table)) {
                seen.entry(table).or_insert_with(|| module.constants[table].ty.bytes());
            }
            for (i, &arg) in data.args.iter().enumerate().take(2) {
                if let Some(blocked) = func.blocked(arg) {
                    let parts =
                        [Some(blocked.scales), blocked.zeros].into_iter().flatten().chain([blocked.codes]);
                    let bytes = parts.map(|part| module.constants[part].ty.bytes()).sum();
                    seen.entry(blocked.codes).or_insert(bytes);
                } else if let Some(value) = func.as_const(arg) {
                    let extents = Extents::of(func, data, constant);
                    let followed = pattern(id, node).filter(|_| i != extents.first);
                    let bytes = extents.weight_bytes(func.ty(arg).elem.format(), followed, i);
                    seen.entry(value).or_insert(bytes);
                }
            }
        }
    }
    let mut shares: Vec<WeightShare> = Vec::new();
    for (&id, &bytes) in &seen {
        let ty = &module.constants[id].ty;
        let (format, elements) = (ty.elem.format(), ty.shape.elements());
        match shares.iter_mut().find(|s| s.format == format) {
            Some(share) => {
                share.elements += elements;
                share.bytes += bytes;
            }
            None => shares.push(WeightShare { format, elements, bytes }),
        }
    }
    shares.sort_by_key(|s| (std::cmp::Reverse(s.elements), s.format));
    shares
}

/// Which of `patterns` the weights of a function's contractions follow, where they are stored compressed.
pub fn compressed(
    selected: &Selected,
    func: FuncId,
    patterns: &[WeightSparsity],
) -> cranelift_entity::SecondaryMap<lacuna_ir::Node, Sparse> {
    let mut found = crate::zeros::sparsity_of(&selected.module, func, patterns);
    let source = &selected.module.functions[func];
    let own = selected.assignments.iter().filter(|a| a.function == source.name);
    // A rotation is a product without an assignment.
    let assigned = |n: &NodeData| n.op.is_product() && !is_rotation(&selected.module, source, n);
    let products = source.nodes.iter().filter(|(_, n)| assigned(n));
    for ((node, _), assignment) in products.zip(own) {
        if assignment.dense {
            found[node] = Sparse::default();
        }
    }
    found
}
