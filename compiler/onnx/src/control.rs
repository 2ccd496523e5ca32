//! Subgraphs: branches, loops and scans, expanded in place.
//!
//! A loop becomes its steps, one after the other; what a step computes of constants folds, so counters, conditions and
//! shapes of later steps are known. Where a condition is computed at run time, everything that it decides on is
//! computed, and the condition selects.

use std::collections::HashMap;

use lacuna_ir::op::BinaryOp;
use lacuna_ir::{Shape, Value};
use lacuna_isa::format::ScalarType;

use crate::call::Call;
use crate::codes;
use crate::context::{Ctx, invalid};
use crate::diagnostic::Fail;
use crate::importer::{Importer, MAX_DEPTH};
use crate::proto::{GraphProto, NodeProto};
use crate::sequence::stack;
use crate::slot::{Slot, choose};
use crate::tensor::decode_tensor;

type Results = Result<Vec<Slot>, Fail>;

/// The greatest number of steps of a loop: each is expanded.
pub(crate) const MAX_STEPS: u64 = 4096;

pub(crate) fn too_long(steps: impl std::fmt::Display) -> Fail {
    Fail::new(codes::EXPANSION, format!("the loop has {steps} steps; each is expanded, up to {MAX_STEPS}"))
}

/// Whether a node of a body is the same in every expansion.
fn is_constant(node: &NodeProto) -> bool {
    node.op_type == "Constant"
        && matches!(node.domain.as_str(), "" | "ai.onnx")
        && node.attribute.iter().all(|a| a.ref_attr_name.is_empty())
}

impl Importer<'_> {
    /// Does something with a subgraph whose constants are defined, once for all its expansions.
    pub fn with_body<R>(
        &mut self,
        graph: &GraphProto,
        then: impl FnOnce(&mut Self) -> Result<R, Fail>,
    ) -> Result<R, Fail> {
        if self.depth >= MAX_DEPTH {
            let reason = format!("subgraphs nest deeper than {MAX_DEPTH}");
            return Err(Fail::new(codes::EXPANSION, reason));
        }
        self.depth += 1;
        self.scopes.push(HashMap::new());
        for tensor in &graph.initializer {
            let made = decode_tensor(tensor.clone(), self.ctx.external);
            self.define_literal(&tensor.name, made.map(|(_, literal)| literal));
        }
        self.nodes(graph.node.iter().filter(|n| is_constant(n)));
        let result = then(self);
        self.scopes.pop();
        self.depth -= 1;
        result
    }

    /// Expands a subgraph in a scope of its own, in which its inputs stand for `arguments`.
    ///
    /// Afterwards, nodes belong again to the node that the subgraph is an attribute of.
    pub fn expand(&mut self, n: &Call<'_, Slot>, graph: &GraphProto, arguments: Vec<Slot>) -> Results {
        if graph.input.len() != arguments.len() {
            let reason = format!("a body of {} inputs for {} values", graph.input.len(), arguments.len());
            return Err(invalid(reason));
        }
        self.scopes.push(HashMap::new());
        for (input, argument) in graph.input.iter().zip(arguments) {
            self.define(&input.name, argument);
        }
        self.nodes(graph.node.iter().filter(|n| !is_constant(n)));
        let results = self.take_results(graph.output.iter().map(|o| &o.name));
        self.scopes.pop();
        self.set_origin(n.node);
        results
    }

    /// As [`Importer::expand`], where it is not known at import whether the results will be used.
    fn expand_perhaps(&mut self, n: &Call<'_, Slot>, graph: &GraphProto, arguments: Vec<Slot>) -> Results {
        self.ctx.n_doubtful += 1;
        let results = self.expand(n, graph, arguments);
        self.ctx.n_doubtful -= 1;
        results
    }
}

/// A condition as a scalar.
fn scalar_condition(c: &mut Ctx<'_>, v: Value) -> Result<Value, Fail> {
    if c.shape(v).elements() != 1 || c.elem(v) != ScalarType::Bool {
        return Err(invalid(format!("the condition is {}, not one bool", c.b.ty(v))));
    }
    c.reshape(v, vec![])
}

/// What is known of a condition.
fn known_condition(c: &mut Ctx<'_>, v: Value) -> Option<bool> {
    c.known_ints(v).and_then(|k| k.first().map(|&k| k != 0))
}

/// The branch that a known condition selects; else both branches, and the condition selects among their results.
pub(crate) fn branch(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    let (yes, no) = (n.body("then_branch")?, n.body("else_branch")?);
    let condition = n.value(0)?;
    let condition = scalar_condition(&mut im.ctx, condition)?;
    if let Some(holds) = known_condition(&mut im.ctx, condition) {
        let taken = if holds { yes } else { no };
        return im.with_body(taken, |im| im.expand(n, taken, Vec::new()));
    }
    let before = im.diagnostics.len();
    let yes = im.with_body(yes, |im| im.expand_perhaps(n, yes, Vec::new()))?;
    let wrong_yes = im.diagnostics.len() - before;
    let no = im.with_body(no, |im| im.expand_perhaps(n, no, Vec::new()))?;
    let wrong_no = im.diagnostics.len() - before - wrong_yes;
    if (wrong_yes == 0) != (wrong_no == 0) {
        let fail = refused_branch(im, condition, before);
        im.diagnostics.truncate(before);
        return Err(fail);
    }
    if yes.len() != no.len() {
        return Err(invalid(format!("the branches have {} and {} results", yes.len(), no.len())));
    }
    let pairs = yes.iter().zip(&no).enumerate();
    pairs.map(|(i, (yes, no))| choose(&mut im.ctx, condition, yes, no, &format!("result {i}"))).collect()
}

/// The failure of a condition of whose branches one is refused: where the other is taken, as for another rate of samples than the
/// model is run with, it compiles.
fn refused_branch(im: &Importer<'_>, condition: Value, before: usize) -> Fail {
    let mut fail = im.ctx.not_constant(condition, "the condition");
    if let Some(first) = im.diagnostics.get(before) {
        let node = first.node.as_deref().unwrap_or_default();
        fail.reason += &format!("; one branch is refused: {} ({}), node `{node}`", first.reason, first.code);
    }
    fail
}

/// Rows of the results that a loop collects, one list for each.
struct Rows(Vec<Vec<Value>>);

impl Rows {
    fn push(&mut self, results: &[Slot]) -> Result<(), Fail> {
        for (rows, slot) in self.0.iter_mut().zip(results) {
            match slot {
                Slot::Value(v) => rows.push(*v),
                other => return Err(invalid(format!("a result to collect is {}", other.kind()))),
            }
        }
        Ok(())
    }
}

/// Collected rows along a new dimension.
pub(crate) fn collect(c: &mut Ctx<'_>, rows: &[Value], at: usize) -> Result<Value, Fail> {
    if let Some(w) = rows.windows(2).find(|w| c.b.ty(w[0]) != c.b.ty(w[1])) {
        let reason = format!("steps give a result of {} and one of {}", c.b.ty(w[0]), c.b.ty(w[1]));
        return Err(invalid(reason));
    }
    stack(c, rows, at)
}

/// No rows of the type of `row`.
pub(crate) fn collect_none(c: &mut Ctx<'_>, row: Value, at: usize) -> Result<Value, Fail> {
    let (elem, mut shape) = (c.elem(row), c.shape(row));
    shape.0.insert(at, 0);
    c.splat(elem, &shape, 0.0)
}

/// The failure of a condition that decides the length of results.
fn undecided_rows(c: &Ctx<'_>, condition: Value) -> Fail {
    let mut fail = c.not_constant(condition, "the condition");
    fail.reason += "; it decides how many rows the collected results have";
    fail
}

/// A loop whose greatest number of steps is known, or whose condition ends it while importing.
pub(crate) fn repeat(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    let body = n.body("body")?;
    let limit = match n.opt_value(0)? {
        Some(v) => im.ctx.const_ints(v, "the number of steps")?.first().map(|&m| m.max(0).unsigned_abs()),
        None => None,
    };
    let condition = n.opt_value(1)?.map(|v| scalar_condition(&mut im.ctx, v)).transpose()?;
    let state: Option<Vec<Slot>> = (2..n.n_operands()).map(|i| n.opt(i).cloned()).collect();
    let state = state.ok_or_else(|| invalid("an initial value is missing"))?;
    let n_rows = body.output.len().checked_sub(1 + state.len());
    let n_rows = n_rows.ok_or_else(|| invalid("the body has fewer results than the loop has values"))?;
    im.with_body(body, |im| Steps { n, body, n_rows, limit }.run(im, condition, state))
}

/// The steps of a loop.
struct Steps<'a> {
    n: &'a Call<'a, Slot>,
    body: &'a GraphProto,
    /// Number of results that are collected.
    n_rows: usize,
    /// Greatest number of steps.
    limit: Option<u64>,
}

impl Steps<'_> {
    fn run(&self, im: &mut Importer<'_>, condition: Option<Value>, mut state: Vec<Slot>) -> Results {
        let mut rows = Rows(vec![Vec::new(); self.n_rows]);
        // The condition under which the next step is taken, where it is computed at run time.
        let mut going = None;
        if let Some(v) = condition {
            match known_condition(&mut im.ctx, v) {
                Some(true) => {}
                Some(false) => return self.none(im, state),
                None if self.n_rows > 0 => return Err(undecided_rows(&im.ctx, v)),
                None => going = Some(v),
            }
        }
        if self.limit == Some(0) {
            return self.none(im, state);
        }
        let mut steps = 0;
        while self.limit.is_none_or(|m| steps < m) {
            if steps == MAX_STEPS {
                return Err(self.limit.map_or_else(|| too_long(format!("over {MAX_STEPS}")), too_long));
            }
            let n_found = im.diagnostics.len();
            let results = self.step(im, steps, going, &state)?;
            if im.diagnostics.len() > n_found {
                // The same would be found in every further step.
                return Ok(vec![Slot::Poisoned; self.body.output.len() - 1]);
            }
            let (next, collected) = results[1..].split_at(state.len());
            rows.push(collected)?;
            state = match going {
                None => next.to_vec(),
                Some(v) => {
                    let pairs = next.iter().zip(&state).enumerate();
                    let what = |i| format!("loop-carried value {i}");
                    pairs
                        .map(|(i, (new, old))| choose(&mut im.ctx, v, new, old, &what(i)))
                        .collect::<Results>()?
                }
            };
            steps += 1;
            let Slot::Value(more) = results[0] else { return Err(invalid("the condition is not a tensor")) };
            let more = scalar_condition(&mut im.ctx, more)?;
            match known_condition(&mut im.ctx, more) {
                Some(true) => {}
                Some(false) => break,
                None => going = Some(self.both(im, going, more, steps)?),
            }
        }
        for rows in &rows.0 {
            state.push(Slot::Value(collect(&mut im.ctx, rows, 0)?));
        }
        Ok(state)
    }

    /// The condition of the next step, after one that was itself taken under a condition.
    fn both(
        &self,
        im: &mut Importer<'_>,
        going: Option<Value>,
        more: Value,
        steps: u64,
    ) -> Result<Value, Fail> {
        if self.limit.is_none() {
            let mut fail = im.ctx.not_constant(more, "the condition");
            fail.reason += "; without a number of steps, it alone ends the loop";
            return Err(fail);
        }
        // A condition after the last step decides nothing.
        let last = self.limit == Some(steps);
        if self.n_rows > 0 && !last {
            return Err(undecided_rows(&im.ctx, more));
        }
        match going {
            Some(before) => im.ctx.binary(BinaryOp::And, before, more),
            None => Ok(more),
        }
    }

    fn step(&self, im: &mut Importer<'_>, step: u64, going: Option<Value>, state: &[Slot]) -> Results {
        let number = im.ctx.ints(Shape::default(), &[step as i64])?;
        let condition = match going {
            Some(v) => v,
            None => im.ctx.splat(ScalarType::Bool, &Shape::default(), 1.0)?,
        };
        let mut arguments = vec![Slot::Value(number), Slot::Value(condition)];
        arguments.extend_from_slice(state);
        match going {
            Some(_) => im.expand_perhaps(self.n, self.body, arguments),
            None => im.expand(self.n, self.body, arguments),
        }
    }

    /// A loop without steps. A step that nothing uses says what the collected results are of.
    fn none(&self, im: &mut Importer<'_>, mut state: Vec<Slot>) -> Results {
        if self.n_rows == 0 {
            return Ok(state);
        }
        let results = self.step(im, 0, None, &state)?;
        for slot in &results[1 + state.len()..] {
            state.push(match slot {
                Slot::Value(v) => Slot::Value(collect_none(&mut im.ctx, *v, 0)?),
                other => other.clone(),
            });
        }
        Ok(state)
    }
}

/// Maps the elements of sequences.
pub(crate) fn sequence_map(im: &mut Importer<'_>, n: &Call<'_, Slot>) -> Results {
    let body = n.body("body")?;
    let count = n.sequence(0)?.len();
    if count as u64 > MAX_STEPS {
        return Err(too_long(count));
    }
    let inputs: Vec<&Slot> = (0..n.n_operands()).map(|i| n.input(i)).collect::<Result<_, Fail>>()?;
    let mut results = Rows(vec![Vec::with_capacity(count); body.output.len()]);
    im.with_body(body, |im| {
        for i in 0..count {
            let argument = |slot: &&Slot| match slot {
                Slot::Sequence(elements) => elements.get(i).map(|&v| Slot::Value(v)),
                other => Some(Slot::clone(other)),
            };
            let arguments: Option<Vec<Slot>> = inputs.iter().map(argument).collect();
            let arguments = arguments.ok_or_else(|| invalid("the sequences differ in length"))?;
            let made = im.expand(n, body, arguments)?;
            if made.contains(&Slot::Poisoned) {
                return Ok(());
            }
            results.push(&made)?;
        }
        Ok(())
    })?;
    let whole = |rows: &Vec<Value>| match rows.len() == count {
        true => Slot::sequence(rows.clone()),
        false => Slot::Poisoned,
    };
    Ok(results.0.iter().map(whole).collect())
}
