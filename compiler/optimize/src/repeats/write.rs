//! Functions of blocks, functions that call them, and the replacement of the calls.

use std::collections::BTreeSet;

use cranelift_entity::SecondaryMap;
use indexmap::IndexMap;
use lacuna_ir::{
    ConstId, ConstantData, FuncId, Function, Module, Node, NodeData, Op, OriginId, TensorType, Value,
    ValueData, ValueDef,
};

use crate::constants::constant_values;
use crate::module::SMALL_BYTES;

use super::{Called, Group, Instance, Origins, places};

/// Appends a node whose result types are known.
fn push(
    func: &mut Function,
    op: Op,
    args: Vec<Value>,
    origins: Vec<OriginId>,
    types: &[TensorType],
) -> Vec<Value> {
    let node = func.nodes.push(NodeData { op, args, results: Vec::new(), origins });
    let results: Vec<Value> = types
        .iter()
        .enumerate()
        .map(|(i, ty)| {
            let def = ValueDef::Result(node, i as u32);
            func.values.push(ValueData { ty: ty.clone(), def, name: String::new() })
        })
        .collect();
    func.nodes[node].results.clone_from(&results);
    results
}

fn param(func: &mut Function, ty: TensorType, name: String) -> Value {
    let def = ValueDef::Param(func.params.len() as u32);
    let value = func.values.push(ValueData { ty, def, name });
    func.params.push(value);
    value
}

/// The block that an instance is, as a function of the values that come in.
pub fn function(source: &Function, instance: &Instance) -> Function {
    let mut out = Function { name: source.name.clone(), ..Function::default() };
    let mut values: IndexMap<Value, Value> = IndexMap::new();
    for &input in &instance.inputs {
        let value = param(&mut out, source.ty(input).clone(), source.values[input].name.clone());
        values.insert(input, value);
    }
    for &node in &instance.nodes {
        copy(source, node, &mut out, &mut values);
    }
    out.results = instance.outputs.iter().map(|v| values[v]).collect();
    out
}

/// Copies a node, and before it what it needs that is not there yet: recipes of constants.
fn copy(source: &Function, node: Node, out: &mut Function, values: &mut IndexMap<Value, Value>) {
    let mut needed = BTreeSet::from([node]);
    for &arg in &source.nodes[node].args {
        needed.extend(source.nodes_behind(arg, |value| values.contains_key(&value)));
    }
    for node in needed {
        let data = &source.nodes[node];
        let args = data.args.iter().map(|a| values[a]).collect();
        let types: Vec<TensorType> = data.results.iter().map(|&r| source.ty(r).clone()).collect();
        let results = push(out, data.op.clone(), args, data.origins.clone(), &types);
        for (&old, &new) in data.results.iter().zip(&results) {
            out.values[new].name.clone_from(&source.values[old].name);
            values.insert(old, new);
        }
    }
}

/// The function with a call in place of each instance. The functions that are called are appended to the module: they
/// have parameters and results but no nodes. Their numbers are in the order of groups and instances.
pub fn outline(module: &mut Module, source: &Function, groups: &[Group]) -> (Function, Vec<Vec<FuncId>>) {
    let places = places(groups);
    let stubs: Vec<Vec<FuncId>> = groups
        .iter()
        .map(|g| g.instances.iter().map(|i| module.functions.push(stub(source, i))).collect())
        .collect();
    let mut out = Function { name: source.name.clone(), ..Function::default() };
    let fixed = constant_values(source);
    let mut values: IndexMap<Value, Value> = IndexMap::new();
    for &p in &source.params {
        let new = param(&mut out, source.ty(p).clone(), source.values[p].name.clone());
        values.insert(p, new);
    }
    for (node, data) in source.nodes.iter() {
        let (op, args, results, origins) = match places[node] {
            // Recipes of constants appear where something needs them: those of instances alone stay away.
            None if data.results.iter().all(|&r| fixed[r]) && !matches!(data.op, Op::Call { .. }) => continue,
            None => (data.op.clone(), &data.args, &data.results, data.origins.clone()),
            Some((g, i)) => {
                let instance = &groups[g as usize].instances[i as usize];
                if instance.nodes[0] != node {
                    continue;
                }
                let op = Op::Call { func: stubs[g as usize][i as usize] };
                (op, &instance.inputs, &instance.outputs, Vec::new())
            }
        };
        for &arg in args {
            if let Some(def) = source.def(arg).filter(|_| !values.contains_key(&arg)) {
                copy(source, def, &mut out, &mut values);
            }
        }
        let args = args.iter().map(|a| values[a]).collect();
        let types: Vec<TensorType> = results.iter().map(|&r| source.ty(r).clone()).collect();
        let new = push(&mut out, op, args, origins, &types);
        for (&old, new) in results.iter().zip(new) {
            out.values[new].name.clone_from(&source.values[old].name);
            values.insert(old, new);
        }
    }
    for &result in &source.results {
        if let Some(def) = source.def(result).filter(|_| !values.contains_key(&result)) {
            copy(source, def, &mut out, &mut values);
        }
    }
    out.results = source.results.iter().map(|r| values[r]).collect();
    (out, stubs)
}

fn stub(source: &Function, instance: &Instance) -> Function {
    let mut out = Function::default();
    for &v in &instance.inputs {
        param(&mut out, source.ty(v).clone(), String::new());
    }
    for &v in &instance.outputs {
        // Nothing but its type is ever asked for.
        let data = ValueData { ty: source.ty(v).clone(), def: ValueDef::Param(0), name: String::new() };
        let value = out.values.push(data);
        out.results.push(value);
    }
    out
}

/// `rest` with the solved bodies in place of the calls. What depends on no value or constant that differs between the
/// instances of a group appears once.
pub fn inline(module: &Module, rest: &Function, source: &Function, called: &[Called]) -> Function {
    let by_func: IndexMap<FuncId, usize> = called.iter().enumerate().map(|(i, c)| (c.func, i)).collect();
    let mut plans: IndexMap<usize, Plan> = IndexMap::new();
    for call in called {
        plans.entry(call.group).or_insert_with(|| Plan::new(module, called, call, source));
    }
    let mut writer = Writer {
        out: Function { name: rest.name.clone(), ..Function::default() },
        constants: IndexMap::new(),
    };
    let mut values: SecondaryMap<Value, Option<Value>> = SecondaryMap::new();
    for &p in &rest.params {
        values[p] = Some(param(&mut writer.out, rest.ty(p).clone(), rest.values[p].name.clone()));
    }
    let mut shared: IndexMap<(usize, Value), Value> = IndexMap::new();
    for data in rest.nodes.values() {
        let args: Vec<Value> = data.args.iter().filter_map(|&a| values[a]).collect();
        let new = match data.op {
            Op::Call { func } if by_func.contains_key(&func) => {
                let call = &called[by_func[&func]];
                writer.body(call, &plans[&call.group], source, &args, &mut shared)
            }
            _ => writer.node(data, rest, args),
        };
        for (&old, new) in data.results.iter().zip(new) {
            values[old] = Some(new);
            writer.name(new, &rest.values[old].name);
        }
    }
    writer.out.results = rest.results.iter().filter_map(|&r| values[r]).collect();
    writer.out
}

/// What is the same for all instances of a group.
struct Plan {
    /// Values of the body that are equal in all instances.
    shared: SecondaryMap<Value, bool>,
    /// For values of the body that have a name, the place in the solved instance of the value that the name is of.
    named: SecondaryMap<Value, Option<u32>>,
}

impl Plan {
    fn new(module: &Module, called: &[Called], of: &Called, source: &Function) -> Plan {
        let same = |get: &dyn Fn(&Instance) -> Value| {
            called.iter().filter(|c| c.group == of.group).all(|c| get(c.instance) == get(of.instance))
        };
        let body = of.body;
        let mut shared: SecondaryMap<Value, bool> = SecondaryMap::new();
        for (i, &p) in body.params.iter().enumerate() {
            shared[p] = same(&|instance| instance.inputs[i]);
        }
        // Small constants of equal labels have equal elements.
        let small = |id: ConstId| match &module.constants[id].data {
            ConstantData::Dense(blob) => blob.len() <= SMALL_BYTES,
            ConstantData::Splat(_) => true,
        };
        let differs: Vec<ConstId> = of
            .solved
            .constants
            .iter()
            .enumerate()
            .filter(|&(i, c)| {
                let other = |o: &Called| o.group == of.group && o.instance.constants[i].0 != c.0;
                !small(c.0) && called.iter().any(other)
            })
            .map(|(_, c)| c.0)
            .collect();
        for data in body.nodes.values() {
            let equal = match data.op {
                Op::Const { value } => !differs.contains(&value),
                _ => data.args.iter().all(|&a| shared[a]),
            };
            data.results.iter().for_each(|&r| shared[r] = equal);
        }
        let names: IndexMap<&str, u32> = of
            .solved
            .nodes
            .iter()
            .enumerate()
            .map(|(i, &n)| (source.values[source.nodes[n].results[0]].name.as_str(), i as u32))
            .filter(|(name, _)| !name.is_empty())
            .collect();
        let mut named = SecondaryMap::new();
        for (value, data) in body.values.iter() {
            named[value] = names.get(data.name.as_str()).copied();
        }
        Plan { shared, named }
    }
}

struct Writer {
    out: Function,
    constants: IndexMap<ConstId, Value>,
}

impl Writer {
    fn name(&mut self, value: Value, name: &str) {
        let own = &mut self.out.values[value].name;
        if own.is_empty() {
            own.push_str(name);
        }
    }

    fn node(&mut self, data: &NodeData, from: &Function, args: Vec<Value>) -> Vec<Value> {
        if let Op::Const { value } = data.op {
            return vec![self.constant(value, from.ty(data.results[0]), &data.origins)];
        }
        let types: Vec<TensorType> = data.results.iter().map(|&r| from.ty(r).clone()).collect();
        push(&mut self.out, data.op.clone(), args, data.origins.clone(), &types)
    }

    /// The one node of a constant.
    fn constant(&mut self, value: ConstId, ty: &TensorType, origins: &[OriginId]) -> Value {
        if let Some(&known) = self.constants.get(&value) {
            return known;
        }
        let types = std::slice::from_ref(ty);
        let new = push(&mut self.out, Op::Const { value }, Vec::new(), origins.to_vec(), types)[0];
        self.constants.insert(value, new);
        new
    }

    /// The body of an instance; its results.
    fn body(
        &mut self,
        call: &Called,
        plan: &Plan,
        source: &Function,
        args: &[Value],
        shared: &mut IndexMap<(usize, Value), Value>,
    ) -> Vec<Value> {
        let body = call.body;
        let origins = Origins::new(source, call.solved, call.instance);
        let constants: IndexMap<ConstId, ConstId> = call
            .solved
            .constants
            .iter()
            .zip(&call.instance.constants)
            .map(|(from, to)| (from.0, to.0))
            .collect();
        let mut values: SecondaryMap<Value, Option<Value>> = SecondaryMap::with_capacity(body.values.len());
        for (&p, &arg) in body.params.iter().zip(args) {
            values[p] = Some(arg);
        }
        for data in body.nodes.values() {
            let first = data.results[0];
            if let Some(&known) = shared.get(&(call.group, first)) {
                values[first] = Some(known);
                continue;
            }
            let own = origins.map(&data.origins);
            let new = if let Op::Const { value } = data.op {
                let value = constants.get(&value).copied().unwrap_or(value);
                vec![self.constant(value, body.ty(first), &own)]
            } else {
                let args = data.args.iter().filter_map(|&a| values[a]).collect();
                let types: Vec<TensorType> = data.results.iter().map(|&r| body.ty(r).clone()).collect();
                push(&mut self.out, data.op.clone(), args, own, &types)
            };
            for (&old, &new) in data.results.iter().zip(&new) {
                values[old] = Some(new);
                if let Some(place) = plan.named[old] {
                    let node = call.instance.nodes[place as usize];
                    self.name(new, &source.values[source.nodes[node].results[0]].name);
                }
            }
            if plan.shared[first] {
                shared.insert((call.group, first), new[0]);
            }
        }
        body.results.iter().filter_map(|&r| values[r]).collect()
    }
}
