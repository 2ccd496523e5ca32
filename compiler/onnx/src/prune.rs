//! Removal of nodes and constants that no result depends on: shape arithmetic that became attributes, optional results
//! that the model does not use.

use std::collections::HashMap;

use cranelift_entity::SecondaryMap;
use lacuna_ir::{ConstId, FuncId, Function, Module, NodeData, Op, Value, ValueData, ValueDef};

/// Rebuilds a function of the module, and the constant pool, with only what its results need. Parameters stay.
///
/// The function must be the module's only one.
pub(crate) fn prune(module: &mut Module, id: FuncId) {
    let old = std::mem::take(&mut module.functions[id]);
    let old_constants = std::mem::take(&mut module.constants);
    let mut live: SecondaryMap<Value, bool> = SecondaryMap::new();
    for &v in &old.results {
        live[v] = true;
    }
    // Definitions precede uses: one backward pass finds everything.
    for (_, node) in old.nodes.iter().rev() {
        if node.results.iter().any(|&r| live[r]) {
            for &arg in &node.args {
                live[arg] = true;
            }
        }
    }
    let mut new = Function { name: old.name, ..Function::default() };
    let mut map: HashMap<Value, Value> = HashMap::new();
    for (number, &param) in old.params.iter().enumerate() {
        let data = old.values[param].clone();
        let value = new.values.push(ValueData { def: ValueDef::Param(number as u32), ..data });
        new.params.push(value);
        map.insert(param, value);
    }
    let mut constants: HashMap<ConstId, ConstId> = HashMap::new();
    for (_, node) in &old.nodes {
        if !node.results.iter().any(|&r| live[r]) {
            continue;
        }
        let op = match &node.op {
            Op::Const { value } => Op::Const {
                value: *constants
                    .entry(*value)
                    .or_insert_with(|| module.constants.push(old_constants[*value].clone())),
            },
            other => other.clone(),
        };
        let args = node.args.iter().map(|a| map[a]).collect();
        let made = new.nodes.push(NodeData { op, args, results: Vec::new(), origins: node.origins.clone() });
        for (i, &r) in node.results.iter().enumerate() {
            let data = old.values[r].clone();
            let value = new.values.push(ValueData { def: ValueDef::Result(made, i as u32), ..data });
            new.nodes[made].results.push(value);
            map.insert(r, value);
        }
    }
    new.results = old.results.iter().map(|r| map[r]).collect();
    module.functions[id] = new;
}
