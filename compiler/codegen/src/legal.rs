//! Before kernels: composite operators that no kernel takes in their form become their parts.

use cranelift_entity::SecondaryMap;
use lacuna_ir::expand::{self, Attention};
use lacuna_ir::infer::TypeError;
use lacuna_ir::{FuncId, Function, FunctionBuilder, Module, Node, NodeData, TensorType, Value};
use lacuna_isa::target::Target;

use crate::kernels::attention_plan::Plan;
use crate::kernels::sparse::ProductZeros;

/// A module, and what is known of the zeros of its entry's products.
pub type Legal = (Module, SecondaryMap<Node, ProductZeros>);

/// The module with the entry's function rewritten, its nodes renumbered in `zeros`; `None` where all is well.
///
/// # Errors
/// When a part does not fit its operands; never for a verified module.
pub fn legalize(
    module: &Module,
    func: FuncId,
    zeros: &SecondaryMap<Node, ProductZeros>,
    target: &Target,
) -> Result<Option<Legal>, TypeError> {
    let source = &module.functions[func];
    if source.nodes.values().all(|data| whole(source, data, target)) {
        return Ok(None);
    }
    let mut rewritten = module.clone();
    let mut moved = SecondaryMap::new();
    let mut b = FunctionBuilder::new(&mut rewritten, source.name.clone());
    let mut values: SecondaryMap<Value, Option<Value>> = SecondaryMap::new();
    for &param in &source.params {
        values[param] = Some(b.param(source.ty(param).clone(), source.values[param].name.clone()));
    }
    let missing = |v: Value| TypeError(format!("{v} is used before its definition"));
    for (node, data) in &source.nodes {
        let args =
            data.args.iter().map(|&a| values[a].ok_or_else(|| missing(a))).collect::<Result<Vec<_>, _>>()?;
        b.set_origins(data.origins.clone());
        let results = match Attention::of(&data.op) {
            Some(a) if !whole(source, data, target) => vec![expand::attention(&mut b, &a, &args)?],
            Some(_) | None => {
                let results = b.emit_all(data.op.clone(), &args)?;
                if let Some(last) = b.func().nodes.keys().next_back() {
                    moved[last] = zeros[node];
                }
                results
            }
        };
        for (&old, &new) in data.results.iter().zip(&results) {
            values[old] = Some(new);
            b.func_mut().values[new].name.clone_from(&source.values[old].name);
        }
    }
    let results =
        source.results.iter().map(|&r| values[r].ok_or_else(|| missing(r))).collect::<Result<Vec<_>, _>>()?;
    b.results(&results);
    let id = b.id();
    for entry in rewritten.entries.iter_mut().filter(|entry| entry.func == func) {
        entry.func = id;
    }
    Ok(Some((rewritten, moved)))
}

/// Whether a kernel takes the node as it is.
fn whole(func: &Function, data: &NodeData, target: &Target) -> bool {
    let Some(a) = Attention::of(&data.op) else { return true };
    let types: Vec<&TensorType> = data.args.iter().map(|&v| func.ty(v)).collect();
    let empty = data.results.iter().any(|&r| func.ty(r).shape.elements() == 0);
    empty || Plan::choose(&a, &types, target).is_some()
}
