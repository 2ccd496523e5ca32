//! The walk over nodes: names, order, domains, functions of the model, and failures.

use std::collections::HashSet;
use std::rc::Rc;

use crate::call::Call;
use crate::codes;
use crate::context::{invalid, unsupported};
use crate::diagnostic::Fail;
pub(crate) use crate::importer::Importer;
use crate::importer::{MAX_DEPTH, MAX_NODES};
use crate::ops;
use crate::opset::{CONVERT, NO_OPSET, opset};
use crate::order::in_order;
use crate::proto::{AttributeProto, FunctionProto, NodeProto};
use crate::slot::Slot;

impl Importer<'_> {
    /// Lowers nodes, results before their uses.
    pub fn nodes<'n>(&mut self, nodes: impl Iterator<Item = &'n NodeProto>) {
        let arguments = Rc::clone(&self.arguments);
        let order = in_order(nodes.collect());
        let mut rest = order.iter().copied();
        loop {
            let later = rest.clone();
            let Some(node) = rest.next() else { break };
            match substitute(node, &arguments) {
                Some(attributes) => self.node(node, &attributes, || later.clone()),
                None => self.node(node, &node.attribute, || later.clone()),
            }
        }
    }

    /// What is emitted from now on belongs to this node.
    pub fn set_origin(&mut self, node: &NodeProto) {
        self.ctx.set_origin(shown(node), &node.op_type);
    }

    fn report(&mut self, node: &NodeProto, fail: Fail) {
        self.diagnostics.push(fail.diagnostic().at(shown(node), &node.op_type));
    }

    fn node<'n, I: Iterator<Item = &'n NodeProto>>(
        &mut self,
        node: &NodeProto,
        attributes: &[AttributeProto],
        later: impl Fn() -> I,
    ) {
        self.n_nodes += 1;
        let results = match self.operands(node, later) {
            Ok(inputs) => self.results(node, attributes, inputs),
            Err(fail) => Err(fail),
        };
        match results {
            Ok(Some(results)) => {
                let names = node.output.iter().enumerate();
                for (i, name) in names.filter(|(_, name)| !name.is_empty()) {
                    match results.get(i) {
                        Some(slot) => self.define(name, slot.clone()),
                        None => {
                            let reason = format!("result {i} (`{name}`) is not supported");
                            self.report(node, unsupported(reason));
                            self.define(name, Slot::Poisoned);
                        }
                    }
                }
            }
            Ok(None) => self.poison(node),
            Err(fail) => {
                self.report(node, fail);
                self.poison(node);
            }
        }
    }

    fn poison(&mut self, node: &NodeProto) {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            self.define(name, Slot::Poisoned);
        }
    }

    fn operands<'n, I: Iterator<Item = &'n NodeProto>>(
        &self,
        node: &NodeProto,
        later: impl Fn() -> I,
    ) -> Result<Vec<Option<Slot>>, Fail> {
        let resolve = |name: &String| {
            if name.is_empty() {
                return Ok(None);
            }
            let found = self.lookup(name).map(|slot| (slot != Slot::Absent).then_some(slot));
            found.ok_or_else(|| {
                let definition = later().find(|n| n.output.contains(name));
                Fail::new(
                    codes::UNDEFINED,
                    match definition {
                        Some(n) => format!(
                            "operand `{name}` is the result of `{}`, which depends on this node",
                            shown(n)
                        ),
                        None => format!("nothing defines operand `{name}`"),
                    },
                )
            })
        };
        node.input.iter().map(resolve).collect()
    }

    /// Results of a node; `None` when an operand is poisoned and the node itself is supported.
    fn results(
        &mut self,
        node: &NodeProto,
        attributes: &[AttributeProto],
        inputs: Vec<Option<Slot>>,
    ) -> Result<Option<Vec<Slot>>, Fail> {
        if self.n_nodes > MAX_NODES {
            return Err(Fail::new(codes::EXPANSION, format!("the model expands to over {MAX_NODES} nodes")));
        }
        let key = (node.domain.as_str(), node.op_type.as_str(), node.overload.as_str());
        if let Some(&function) = self.functions.get(&key) {
            return self.call(node, attributes, function, inputs).map(Some);
        }
        let domain = if node.domain == "ai.onnx" { "" } else { node.domain.as_str() };
        if !ops::is_domain(domain) {
            let reason = format!("{} is of domain `{}`", node.op_type, node.domain);
            return Err(Fail::new(codes::DOMAIN, reason)
                .hint("export the model without the optimisation that introduced this operator"));
        }
        if domain.is_empty() && self.opset == NO_OPSET {
            let reason = "the model declares no version of `ai.onnx`";
            return Err(Fail::new(codes::OPSET, reason).hint(CONVERT));
        }
        let poisoned = inputs.contains(&Some(Slot::Poisoned));
        let Some(row) = ops::find(domain, &node.op_type) else {
            let reason = match domain {
                "" if ops::is_random(&node.op_type) => {
                    format!("{} draws random numbers, of which the machine has no source", node.op_type)
                }
                "" => format!("there is no lowering for {}", node.op_type),
                _ => format!("there is no lowering for {} of domain `{domain}`", node.op_type),
            };
            return Err(Fail::new(codes::OPERATOR, reason).hint("`lacuna ops` lists what is supported"));
        };
        if poisoned {
            return Ok(None);
        }
        self.set_origin(node);
        // Lowerings of other domains share those of the newest operator set where the model names none.
        let opset = if self.opset == NO_OPSET { *ops::OPSETS.end() } else { self.opset };
        ops::lower(row, self, Call::new(node, attributes, opset, inputs)).map(Some)
    }

    /// Expands a function of the model in place.
    fn call(
        &mut self,
        node: &NodeProto,
        attributes: &[AttributeProto],
        function: &FunctionProto,
        inputs: Vec<Option<Slot>>,
    ) -> Result<Vec<Slot>, Fail> {
        if self.depth >= MAX_DEPTH {
            let reason = format!("functions nest deeper than {MAX_DEPTH}");
            return Err(Fail::new(codes::EXPANSION, reason));
        }
        if inputs.len() > function.input.len() {
            return Err(invalid(format!("{} takes {} operands", node.op_type, function.input.len())));
        }
        if let Some(unknown) = attributes.iter().find(|a| !declares(function, &a.name)) {
            let reason = format!("the function {} has no attribute `{}`", node.op_type, unknown.name);
            return Err(invalid(reason));
        }
        let opset = match opset(&function.opset_import) {
            Ok(opset) if function.opset_import.is_empty() => self.opset.max(opset),
            Ok(opset) => opset,
            Err(found) => return Err(Fail::new(codes::OPSET, found.reason)),
        };
        // An optional operand that the call leaves out is empty inside the body too.
        let mut inputs = inputs.into_iter();
        let scope =
            function.input.iter().map(|name| (name.clone(), inputs.next().flatten().unwrap_or(Slot::Absent)));
        let scope = scope.collect();
        let mut arguments = attributes.to_vec();
        let given: HashSet<&str> = attributes.iter().map(|a| a.name.as_str()).collect();
        let defaults = function.attribute_proto.iter().filter(|a| !given.contains(a.name.as_str()));
        arguments.extend(defaults.cloned());
        let outer = (self.base, self.opset, std::mem::replace(&mut self.arguments, arguments.into()));
        self.base = self.scopes.len();
        self.opset = opset;
        self.depth += 1;
        self.scopes.push(scope);
        self.nodes(function.node.iter());
        let results = self.take_results(function.output.iter());
        self.scopes.pop();
        self.depth -= 1;
        (self.base, self.opset, self.arguments) = outer;
        results
    }
}

/// The name of a node, or of its first output.
fn shown(node: &NodeProto) -> &str {
    match node.name.as_str() {
        "" => node.output.iter().find(|o| !o.is_empty()).map_or("", String::as_str),
        name => name,
    }
}

fn declares(function: &FunctionProto, attribute: &str) -> bool {
    let defaults = function.attribute_proto.iter().map(|a| &a.name);
    function.attribute.iter().chain(defaults).any(|name| name == attribute)
}

/// The node's attributes with references to the attributes of the function's call replaced; `None` without any.
fn substitute(node: &NodeProto, arguments: &[AttributeProto]) -> Option<Vec<AttributeProto>> {
    if node.attribute.iter().all(|a| a.ref_attr_name.is_empty()) {
        return None;
    }
    let replaced = node.attribute.iter().filter_map(|a| {
        if a.ref_attr_name.is_empty() {
            return Some(a.clone());
        }
        let argument = arguments.iter().find(|arg| arg.name == a.ref_attr_name)?;
        Some(AttributeProto { name: a.name.clone(), ..argument.clone() })
    });
    Some(replaced.collect())
}
