//! The exact phase: function by function into the e-graph, rewriting, extraction, and back.

use cranelift_entity::SecondaryMap;
use egg::{Id, Language};
use indexmap::IndexMap;
use lacuna_ir::{ConstantData, Function, Module, Op, Value};

use crate::emit::Emitter;
use crate::error::{Broken, Error};
use crate::extract::Choice;
use crate::facts::Hint;
use crate::graph::{Graph, Source};
use crate::lang::{Kind, Term};
use crate::module::SMALL_BYTES;
use crate::options::{Extraction, Options, Precision};
use crate::repeats::{self, Called, Origins};
use crate::report::{Application, Report};
use crate::rules::{Rule, merging};
use crate::saturate::{Compiled, Limits, Made, compile, saturate};

/// A module after the exact phase.
#[derive(Debug)]
pub struct Optimized {
    /// The module: every function computes what it did, in the sense of the rules' classes.
    pub module: Module,
    /// What was done.
    pub report: Report,
}

/// Rewrites every function of a verified module with exact rules.
///
/// # Errors
/// When a rule is defective; a verified module never causes one.
pub fn optimize(module: Module, options: &Options) -> Result<Optimized, Error> {
    let mut rules = crate::rules::all();
    rules.retain(|r| r.class <= options.most());
    if matches!(options.precision, Precision::Mx { .. } | Precision::Auto) {
        // A norm that scales its channels gives the elements of a group unlike magnitudes, which groups of few bits lose.
        // Left apart, the scale moves into the weights behind it.
        rules.retain(|r| r.name != "norm-scale");
    }
    // Merging moves no rounding: each element of the result is the same sum.
    optimize_with(module, &rules, true, options.extraction)
}

/// The exact phase with the given rules, and the merging hook if `merge`.
pub(crate) fn optimize_with(
    mut module: Module,
    rules: &[Rule],
    merge: bool,
    how: Extraction,
) -> Result<Optimized, Error> {
    let how = How { rules: compile(rules).map_err(Error::Pattern)?, merge, extraction: how };
    let mut report = Report::default();
    for func in module.functions.keys().collect::<Vec<_>>() {
        let source = module.functions[func].clone();
        let (returned, function) = optimize_repeats(module, &source, &how, &mut report)?;
        module = returned;
        report.n_nodes.0 += source.nodes.len();
        report.n_nodes.1 += function.nodes.len();
        module.functions[func] = function;
    }
    crate::batching::batch(&mut module)?;
    crate::constants::fold(&mut module)?;
    crate::blocks::group(&mut module);
    Ok(Optimized { module, report })
}

/// How functions are rewritten.
struct How {
    rules: Vec<Compiled>,
    merge: bool,
    extraction: Extraction,
}

/// Rewrites a function: each of its repeated blocks once, then the rest.
fn optimize_repeats(
    mut module: Module,
    source: &Function,
    how: &How,
    report: &mut Report,
) -> Result<(Module, Function), Error> {
    let groups = repeats::find(&module, source);
    let mut bodies = Vec::new();
    for group in &groups {
        let mut own = Report::default();
        let mut done =
            optimize_function(module, &group.function(source), group.hints(source), how, &mut own)?;
        module = std::mem::take(&mut done.graph.eg.analysis.module);
        for instance in &group.instances {
            let origins = Origins::new(source, group.solved(), instance);
            report.add(&own, |o| origins.map(o));
        }
        // What is rewritten once is used in every place.
        own.rules.iter().for_each(|r| report.count_mut(r.rule).fired += r.fired * group.instances.len());
        report.add_effort(&own);
        bodies.push(done.function);
    }
    let n_functions = module.functions.len();
    let (rest, stubs) = repeats::outline(&mut module, source, &groups);
    let mut own = Report::default();
    let mut done = optimize_function(module, &rest, Vec::new(), how, &mut own)?;
    module = std::mem::take(&mut done.graph.eg.analysis.module);
    report.add(&own, <[_]>::to_vec);
    own.rules.iter().for_each(|r| report.count_mut(r.rule).fired += r.fired);
    report.add_effort(&own);
    if groups.is_empty() {
        return Ok((module, done.function));
    }
    repeats::forget(&mut module, n_functions);
    let called: Vec<Called> = groups
        .iter()
        .enumerate()
        .flat_map(|(g, group)| {
            group.instances.iter().enumerate().map(move |(i, instance)| (g, group, i, instance))
        })
        .map(|(g, group, i, instance)| Called {
            func: stubs[g][i],
            instance,
            solved: group.solved(),
            body: &bodies[g],
            group: g,
        })
        .collect();
    let function = repeats::inline(&module, &done.function, source, &called);
    Ok((module, function))
}

/// A function that was rewritten, and the graph that it was taken from.
struct Done {
    function: Function,
    graph: Graph,
}

fn optimize_function(
    module: Module,
    source: &Function,
    hints: Vec<Hint>,
    how: &How,
    report: &mut Report,
) -> Result<Done, Error> {
    let mut input = Input::read(module, source, hints)?;
    let g = &mut input.graph;
    let extraction = || Error::Extraction(source.name.clone());
    g.rebuild();
    let before = Choice::new(g, &input.roots, how.extraction).ok_or_else(extraction)?;
    report.cost.0 += before.total(g, &input.roots).cost;

    let mut made = Vec::new();
    let limits = Limits::for_nodes(source.nodes.len());
    if !saturate(g, &how.rules, limits, &mut made, report) {
        report.limited.push(source.name.clone());
    }
    let mut choice = Choice::new(g, &input.roots, how.extraction).ok_or_else(extraction)?;
    let mut order = choice.order(g, &input.roots).ok_or_else(extraction)?;
    if how.merge {
        let bundles = merging::merge(g, &choice, &order, &input.roots, made.len());
        if !bundles.is_empty() {
            for bundle in &bundles {
                report.count_mut(merging::NAME).fired += 1;
                made.push(Made {
                    rule: merging::NAME,
                    before: bundle.before.clone(),
                    after: merging::AFTER,
                    source: bundle.source.clone(),
                });
            }
            g.rebuild();
            choice = Choice::new(g, &input.roots, how.extraction).ok_or_else(extraction)?;
            choice.take_bundles(g, &input.roots, &bundles);
            order = choice.order(g, &input.roots).ok_or_else(extraction)?;
        }
    }
    if let Some(message) = g.eg.analysis.error.take() {
        return Err(Error::Contradiction { function: source.name.clone(), message });
    }
    report.cost.1 += choice.total(g, &input.roots).cost;
    if !choice.is_optimal() && how.extraction == Extraction::Best {
        report.unproven.push(source.name.clone());
    }
    report.n_terms += g.eg.total_number_of_nodes();
    report.n_classes += g.eg.number_of_classes();
    let vanished = g.vanished(|class| choice.term(g, class).cloned());
    record_used(g, &choice, &order, &vanished, &made, report);
    let function = input.write(source, &choice, &order, &vanished)?;
    Ok(Done { function, graph: input.graph })
}

/// Adds the applications that built the chosen terms, and those that built what these replaced, to the report.
pub(crate) fn record_used(
    g: &Graph,
    choice: &Choice,
    order: &[Id],
    vanished: &IndexMap<Id, Source>,
    made: &[Made],
    report: &mut Report,
) {
    let mut used = vec![false; made.len()];
    let mut todo: Vec<u32> = Vec::new();
    for &class in order {
        if let Some(source) = choice.term(g, class).and_then(|t| g.sources.get(t)) {
            todo.extend(&source.applications);
        }
        if let Some(source) = vanished.get(&class) {
            todo.extend(&source.applications);
        }
    }
    while let Some(i) = todo.pop() {
        if let Some(application) = made.get(i as usize)
            && !std::mem::replace(&mut used[i as usize], true)
        {
            todo.extend(&application.source.applications);
        }
    }
    for (application, _) in made.iter().zip(used).filter(|(_, used)| *used) {
        report.count_mut(application.rule).used += 1;
        report.applied.push(Application {
            rule: application.rule,
            before: application.before.clone(),
            after: application.after.to_owned(),
            origins: application.source.origins.clone(),
        });
    }
}

/// A function in the e-graph.
pub(crate) struct Input {
    pub(crate) graph: Graph,
    pub(crate) roots: Vec<Id>,
    pub(crate) params: Vec<Id>,
    /// Classes of the nodes, in order.
    pub(crate) nodes: Vec<Id>,
    names: Vec<(Id, String)>,
}

impl Input {
    pub(crate) fn read(module: Module, source: &Function, hints: Vec<Hint>) -> Result<Input, Error> {
        let types = source.params.iter().map(|&p| source.ty(p).clone()).collect();
        let mut g = Graph::new(module, types, hints);
        let mut classes: SecondaryMap<Value, Option<Id>> = SecondaryMap::new();
        let mut params = Vec::new();
        for (number, &param) in source.params.iter().enumerate() {
            let id = g.add_term(Term::Param(number as u32));
            params.push(id);
            classes[param] = Some(id);
        }
        let broken = |what: &str| Error::Contradiction {
            function: source.name.clone(),
            message: Broken::Missing(what.into()),
        };
        let mut small = IndexMap::new();
        let mut nodes = Vec::new();
        for node in source.nodes.values() {
            let args: Option<Vec<Id>> = node.args.iter().map(|&a| classes[a]).collect();
            let args = args.ok_or_else(|| broken("a value is used before its definition"))?;
            g.source = Source { origins: node.origins.clone(), applications: Vec::new() };
            let op = share_small(&g, &mut small, node.op.clone());
            let id = if let (Op::Binary { op: f }, &[a, b]) = (&op, &args[..]) {
                let swap = crate::graph::commutes(*f) && g.is_const(a) && !g.is_const(b);
                g.add(op, &if swap { [b, a] } else { [a, b] })
            } else {
                g.add(op, &args)
            };
            let id = id.ok_or_else(|| broken("a node's operands do not fit it"))?;
            nodes.push(id);
            if matches!(node.op, Op::Call { .. }) {
                for (i, &result) in node.results.iter().enumerate() {
                    classes[result] = Some(g.add_term(Term::Result(i as u32, [id])));
                }
            } else if let &[result] = &node.results[..] {
                classes[result] = Some(id);
            }
        }
        let roots: Option<Vec<Id>> = source.results.iter().map(|&r| classes[r]).collect();
        let roots = roots.ok_or_else(|| broken("a result has no definition"))?;
        let named = source.values.iter().filter(|(_, v)| !v.name.is_empty());
        let names = named.filter_map(|(v, data)| Some((classes[v]?, data.name.clone()))).collect();
        Ok(Input { graph: g, roots, params, nodes, names })
    }

    pub(crate) fn write(
        &self,
        source: &Function,
        choice: &Choice,
        order: &[Id],
        vanished: &IndexMap<Id, Source>,
    ) -> Result<Function, Error> {
        let g = &self.graph;
        let broken = |message: Broken| Error::Contradiction { function: source.name.clone(), message };
        let mut out = Emitter::new(source);
        let mut values: IndexMap<Id, Vec<Value>> = IndexMap::new();
        for (&id, &param) in self.params.iter().zip(&out.params.clone()) {
            values.insert(g.eg.find(id), vec![param]);
        }
        let mut names: IndexMap<Id, &str> = IndexMap::new();
        for (id, name) in &self.names {
            names.entry(g.eg.find(*id)).or_insert(name);
        }
        for &class in order {
            let term = choice.term(g, class).ok_or_else(|| Error::Extraction(source.name.clone()))?;
            let args = || -> Option<Vec<Value>> {
                term.children().iter().map(|&c| values.get(&g.eg.find(c))?.first().copied()).collect()
            };
            match term {
                Term::Param(_) => {}
                Term::Result(n, [call]) => {
                    let result = values.get(&g.eg.find(*call)).and_then(|r| r.get(*n as usize)).copied();
                    let result =
                        result.ok_or_else(|| broken(Broken::Missing("a call lacks a result".into())))?;
                    values.insert(class, vec![result]);
                }
                Term::Apply(Kind::Param | Kind::Result | Kind::Op(_), op, _) => {
                    let op = g.eg.analysis.ops[*op].clone();
                    let args = args()
                        .ok_or_else(|| broken(Broken::Missing("an operand comes after its use".into())))?;
                    let mut from = g.sources.get(term).cloned().unwrap_or_default();
                    if let Some(also) = vanished.get(&class) {
                        from.join(also);
                    }
                    let results = out
                        .emit_all(&g.eg.analysis.module, op, &args, &from.origins)
                        .map_err(|e| broken(e.into()))?;
                    values.insert(class, results);
                }
            }
            if let Some(value) = values.get(&class).and_then(|v| v.first()) {
                out.name(*value, names.get(&class).copied().unwrap_or(""));
            }
        }
        let results = self.roots.iter().map(|&r| values.get(&g.eg.find(r))?.first().copied());
        out.results = results.collect::<Option<_>>().ok_or_else(|| Error::Extraction(source.name.clone()))?;
        Ok(out.finish())
    }
}

/// Small constants of equal content become one, so that equal terms meet.
fn share_small(g: &Graph, small: &mut IndexMap<(String, Vec<u8>), lacuna_ir::ConstId>, op: Op) -> Op {
    let Op::Const { value } = op else { return op };
    let constant = &g.eg.analysis.module.constants[value];
    let bytes = match &constant.data {
        ConstantData::Dense(blob) if blob.len() <= SMALL_BYTES => blob.bytes().to_vec(),
        ConstantData::Dense(_) => return op,
        ConstantData::Splat(code) => [&b"splat"[..], &code.to_le_bytes()].concat(),
    };
    let value = *small.entry((constant.ty.to_string(), bytes)).or_insert(value);
    Op::Const { value }
}
