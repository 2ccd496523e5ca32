//! Every tensor of a model as an output of it: what a comparison layer by layer compiles.

use std::collections::BTreeSet;

use cranelift_entity::SecondaryMap;
use lacuna_ir::eval::{EvalError, Mode, Tensor, eval_op};
use lacuna_ir::{Function, Module, Op, Value};

/// Adds every named result of a node of the first entry to its outputs, in order of execution, those that are outputs already
/// aside. Constants are none.
///
/// The optimiser keeps what is an output, so terms are rewritten within the layers between, not across them.
pub fn expose(module: &mut Module) {
    let Some(entry) = module.entries.first_mut() else { return };
    let func = &mut module.functions[entry.func];
    let mut names: BTreeSet<String> = entry.outputs.iter().chain(&entry.inputs).cloned().collect();
    let mut added: Vec<Value> = Vec::new();
    for node in func.nodes.values().filter(|node| !matches!(node.op, Op::Const { .. })) {
        for &result in &node.results {
            let name = &func.values[result].name;
            if !name.is_empty() && !func.results.contains(&result) && names.insert(name.clone()) {
                added.push(result);
                entry.outputs.push(name.clone());
            }
        }
    }
    func.results.extend(added);
}

/// What the evaluator makes of each result of a function, each from the results before it that were `found`, in the order of the
/// results: only the fault of a layer itself shows.
///
/// # Errors
/// When a node cannot be evaluated on such operands.
pub fn of_own_operands(
    module: &Module,
    func: &Function,
    arguments: &[Tensor],
    found: &[Tensor],
) -> Result<Vec<Tensor>, EvalError> {
    let mut values: SecondaryMap<Value, Option<Tensor>> = SecondaryMap::new();
    for (&param, argument) in func.params.iter().zip(arguments) {
        values[param] = Some(argument.clone());
    }
    let mut evaluated = values.clone();
    for node in func.nodes.values() {
        let args: Vec<&Tensor> = node.args.iter().filter_map(|&a| values[a].as_ref()).collect();
        let results = eval_op(module, &node.op, &args, Mode::Typed)?;
        for (&result, tensor) in node.results.iter().zip(results) {
            let at = func.results.iter().position(|&r| r == result);
            values[result] = Some(at.map_or_else(|| tensor.clone(), |at| found[at].clone()));
            evaluated[result] = Some(tensor);
        }
    }
    let result = |&r: &Value| evaluated[r].clone().ok_or(EvalError::Undefined(r));
    func.results.iter().map(result).collect()
}
