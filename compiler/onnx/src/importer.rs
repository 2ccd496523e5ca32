//! The state of importing one graph: names by scope, and what was found.

use std::collections::HashMap;
use std::rc::Rc;

use crate::codes;
use crate::context::Ctx;
use crate::diagnostic::{Diagnostic, Fail};
use crate::proto::{AttributeProto, FunctionProto};
use crate::slot::Slot;
use crate::tensor::Literal;

/// Functions and subgraphs may nest this deep.
pub(crate) const MAX_DEPTH: usize = 32;

/// A model may expand to this many nodes: functions that call others twice grow exponentially, and
/// loops become their steps.
pub(crate) const MAX_NODES: usize = 1 << 20;

/// The state of importing one graph.
pub(crate) struct Importer<'m> {
    pub ctx: Ctx<'m>,
    pub functions: HashMap<(&'m str, &'m str, &'m str), &'m FunctionProto>,
    pub opset: i64,
    /// Attributes of the call of the function that is being expanded.
    pub arguments: Rc<[AttributeProto]>,
    /// Names by scope, the innermost last. A function's body sees only the scopes from `base` on.
    pub scopes: Vec<HashMap<String, Slot>>,
    pub base: usize,
    pub depth: usize,
    pub n_nodes: usize,
    pub diagnostics: Vec<Diagnostic>,
    pub warnings: Vec<String>,
}

impl<'m> Importer<'m> {
    pub fn new(ctx: Ctx<'m>, functions: &'m [FunctionProto], opset: i64) -> Importer<'m> {
        let key = |f: &'m FunctionProto| ((f.domain.as_str(), f.name.as_str(), f.overload.as_str()), f);
        Importer {
            ctx,
            functions: functions.iter().map(key).collect(),
            opset,
            arguments: Rc::from([]),
            scopes: vec![HashMap::new()],
            base: 0,
            depth: 0,
            n_nodes: 0,
            diagnostics: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// What a name stands for in the current scope.
    pub fn lookup(&self, name: &str) -> Option<Slot> {
        self.scopes[self.base..].iter().rev().find_map(|scope| scope.get(name)).cloned()
    }

    /// Defines a name; a second definition is reported.
    pub fn define(&mut self, name: &str, slot: Slot) {
        if let Slot::Value(value) = slot {
            let data = &mut self.ctx.b.func_mut().values[value];
            if data.name.is_empty() {
                name.clone_into(&mut data.name);
            }
        }
        let top = self.scopes.len() - 1;
        if self.scopes[top].insert(name.to_owned(), slot).is_some() {
            self.diagnostics.push(Diagnostic::new(codes::DUPLICATE, format!("`{name}`")));
        }
    }

    /// Gives a name that is defined another meaning.
    pub fn redefine(&mut self, name: &str, slot: Slot) {
        let top = self.scopes.len() - 1;
        self.scopes[top].insert(name.to_owned(), slot);
    }

    pub fn define_literal(&mut self, name: &str, literal: Result<Literal, Box<Diagnostic>>) {
        let slot = match literal {
            Ok(literal) => self.ctx.literal(literal, name).map_or(Slot::Poisoned, Slot::Value),
            Err(found) => {
                self.diagnostics.push(*found);
                Slot::Poisoned
            }
        };
        self.define(name, slot);
    }

    pub fn take_results<'n>(&self, names: impl Iterator<Item = &'n String>) -> Result<Vec<Slot>, Fail> {
        let find = |name: &String| {
            let missing = || Fail::new(codes::UNDEFINED, format!("nothing defines the result `{name}`"));
            self.lookup(name).ok_or_else(missing)
        };
        names.map(find).collect()
    }
}
