//! The packing phase: conversions that selection decided on move to where they cost least, by the rules of
//! [`crate::rules::packing`] and the extraction of the exact phase. Every value keeps its bits.

use egg::{Id, Language};
use indexmap::IndexSet;
use lacuna_ir::{Function, Module, Op};

use crate::error::Error;
use crate::exact::{Input, record_used};
use crate::extract::Choice;
use crate::graph::Graph;
use crate::module::functions;
use crate::options::Extraction;
use crate::report::Report;
use crate::rules::{Rule, all, packing};
use crate::saturate::{Compiled, Limits, compile, saturate};

/// A rule of the exact phase that moves conversions too.
const ALSO: &str = "cast-before-broadcast";

/// Moves the conversions of every function of a module. Products stay in their order.
///
/// # Errors
/// When a rule is defective; a verified module never causes one.
pub fn pack(mut module: Module) -> Result<(Module, Report), Error> {
    let mut report = Report::default();
    let rules: Vec<Rule> =
        packing::RULES.iter().copied().chain(all().into_iter().filter(|r| r.name == ALSO)).collect();
    let rules = compile(&rules).map_err(Error::Pattern)?;
    for func in functions(&module) {
        let source = &module.functions[func];
        let converts = |op: &Op| matches!(op, Op::Cast { .. } | Op::MxQuantize { .. });
        if !source.nodes.values().any(|n| converts(&n.op)) {
            continue;
        }
        let source = source.clone();
        let (returned, packed) = pack_function(module, &source, &rules, &mut report)?;
        module = returned;
        if let Some(packed) = packed {
            module.functions[func] = packed;
        }
    }
    Ok((module, report))
}

/// The function with its conversions moved, if any of them moves.
fn pack_function(
    module: Module,
    source: &Function,
    rules: &[Compiled],
    report: &mut Report,
) -> Result<(Module, Option<Function>), Error> {
    let mut input = Input::read(module, source, Vec::new())?;
    let (mut made, mut own) = (Vec::new(), Report::default());
    let g = &mut input.graph;
    g.converts_apart = true;
    if !saturate(g, rules, Limits::for_nodes(source.nodes.len()), &mut made, &mut own) {
        own.limited.push(source.name.clone());
    }
    if let Some(message) = g.eg.analysis.error.take() {
        return Err(Error::Contradiction { function: source.name.clone(), message });
    }
    let mut packed = None;
    if !made.is_empty() {
        let extraction = || Error::Extraction(source.name.clone());
        let choice = Choice::new(g, &input.roots, Extraction::Best).ok_or_else(extraction)?;
        let order = choice.order(g, &input.roots).ok_or_else(extraction)?;
        let order = as_before(g, &choice, &order, &input.nodes);
        let vanished = g.vanished(|class| choice.term(g, class).cloned());
        own.n_terms = g.eg.total_number_of_nodes();
        own.n_classes = g.eg.number_of_classes();
        record_used(g, &choice, &order, &vanished, &made, &mut own);
        let function = input.write(source, &choice, &order, &vanished)?;
        let n_products = |f: &Function| f.nodes.values().filter(|n| n.op.is_product()).count();
        // Products that turned out to be one would no longer pair with what was decided for each.
        if !own.applied.is_empty() && n_products(&function) == n_products(source) {
            own.n_nodes = (source.nodes.len(), function.nodes.len());
            packed = Some(function);
        }
    }
    own.rules.iter().for_each(|r| report.count_mut(r.rule).fired += r.fired);
    report.add_effort(&own);
    if packed.is_some() {
        report.add(&own, <[_]>::to_vec);
        report.n_nodes = (report.n_nodes.0 + own.n_nodes.0, report.n_nodes.1 + own.n_nodes.1);
    }
    Ok((std::mem::take(&mut input.graph.eg.analysis.module), packed))
}

/// Chosen classes, operands first, and else in the order of the nodes that they come from.
fn as_before(g: &Graph, choice: &Choice, chosen: &[Id], nodes: &[Id]) -> Vec<Id> {
    fn visit(g: &Graph, choice: &Choice, id: Id, chosen: &IndexSet<Id>, done: &mut IndexSet<Id>) {
        let class = g.eg.find(id);
        if done.contains(&class) || !chosen.contains(&class) {
            return;
        }
        for &child in choice.term(g, class).map_or(&[][..], |t| t.children()) {
            visit(g, choice, child, chosen, done);
        }
        done.insert(class);
    }
    let (chosen, mut done) = (chosen.iter().copied().collect::<IndexSet<Id>>(), IndexSet::new());
    for &id in nodes.iter().chain(&chosen) {
        visit(g, choice, id, &chosen, &mut done);
    }
    done.into_iter().collect()
}
