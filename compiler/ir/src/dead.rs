//! The removal of nodes and constants that nobody uses.

use cranelift_entity::{PrimaryMap, SecondaryMap};

use crate::module::{ConstId, Constant, Function, Module, Node, NodeData, Value, ValueData, ValueDef};
use crate::op::Op;

/// Removes nodes whose results are not used, then constants that no node names.
///
/// Values, nodes and constants are numbered anew without gaps, in their old order; functions, parameters, origins and
/// entries stay, also functions that nothing calls. The module must be verified; it is afterwards.
pub fn dead_code(module: &mut Module) {
    for function in module.functions.values_mut() {
        dead_nodes(function);
    }
    unused_constants(module);
}

/// Removes the constants that no node names; the others keep their order and are numbered anew.
pub fn unused_constants(module: &mut Module) {
    let mut used: SecondaryMap<ConstId, bool> = SecondaryMap::new();
    for function in module.functions.values() {
        for data in function.nodes.values() {
            if let Op::Const { value } = data.op {
                used[value] = true;
            }
        }
    }
    let old = std::mem::take(&mut module.constants);
    let mut moved: SecondaryMap<ConstId, Option<ConstId>> = SecondaryMap::new();
    let mut kept: PrimaryMap<ConstId, Constant> = PrimaryMap::new();
    for (id, constant) in old {
        if used[id] {
            moved[id] = Some(kept.push(constant));
        }
    }
    module.constants = kept;
    for data in module.functions.values_mut().flat_map(|f| f.nodes.values_mut()) {
        if let Op::Const { value } = &mut data.op
            && let Some(new) = moved[*value]
        {
            *value = new;
        }
    }
}

/// Removes the nodes of a function whose results are not used; values and nodes are numbered anew.
pub fn dead_nodes(function: &mut Function) {
    let mut live: SecondaryMap<Value, bool> = SecondaryMap::with_capacity(function.values.len());
    for &value in function.params.iter().chain(&function.results) {
        live[value] = true;
    }
    let mut live_nodes: SecondaryMap<Node, bool> = SecondaryMap::with_capacity(function.nodes.len());
    for (node, data) in function.nodes.iter().rev() {
        if data.results.iter().any(|&r| live[r]) {
            live_nodes[node] = true;
            // A node keeps all of its results.
            for &value in data.args.iter().chain(&data.results) {
                live[value] = true;
            }
        }
    }
    let old_values = std::mem::take(&mut function.values);
    let mut moved: SecondaryMap<Value, Value> = SecondaryMap::with_default(Value::from_u32(0));
    let mut values: PrimaryMap<Value, ValueData> = PrimaryMap::new();
    for (id, data) in old_values {
        if live[id] {
            moved[id] = values.push(data);
        }
    }
    let renamed = |list: &mut Vec<Value>| list.iter_mut().for_each(|v| *v = moved[*v]);
    let mut nodes: PrimaryMap<Node, NodeData> = PrimaryMap::new();
    for (id, mut data) in std::mem::take(&mut function.nodes) {
        if live_nodes[id] {
            renamed(&mut data.args);
            renamed(&mut data.results);
            let node = nodes.next_key();
            for (i, &result) in data.results.iter().enumerate() {
                values[result].def = ValueDef::Result(node, i as u32);
            }
            nodes.push(data);
        }
    }
    renamed(&mut function.params);
    renamed(&mut function.results);
    (function.values, function.nodes) = (values, nodes);
}
