//! Which inputs and outputs are one tensor that stays in memory between runs.
//!
//! An output may be longer than its input along one axis: a cache that an exporter lets grow. The state then has a fixed number of rows, of
//! which the latest are at the end. The model reads as many of them as its input has, and the new rows push out the oldest:
//!
//! ```text
//! state [7 8 9]   input of 2 rows [8 9]   output [8 9 10]   next state [8 9 10]
//! ```

use std::collections::BTreeMap;

use cranelift_entity::SecondaryMap;
use lacuna_codegen::State;
use lacuna_ir::{FunctionBuilder, Module, Op, TensorType, Value};

use crate::codes;
use crate::diagnostics::{Diagnostic, Failed};

/// The states that a command line asks for.
#[derive(Clone, Copy, Default)]
pub struct StateRequest<'a> {
    /// Pairs of an input and an output that are one tensor; `*` stands for any part of a name, the same on both sides.
    pub pairs: &'a [(String, String)],
    /// Rows of those whose outputs are longer than their inputs; those of the input unless given.
    pub length: Option<u64>,
}

/// An output that is longer than its input.
struct Growth {
    state: State,
    axis: usize,
    /// Rows that the model reads, that it adds, and that the state has.
    past: u64,
    added: u64,
    rows: u64,
}

impl Growth {
    /// How a state grows; nothing where it stays as it is.
    ///
    /// # Errors
    /// L0025 where types differ otherwise, or the state would have no rows.
    fn of(state: &State, module: &Module, length: Option<u64>) -> Result<Option<Growth>, Diagnostic> {
        let (func, output) =
            (&module.functions[module.entries[0].func], &module.entries[0].outputs[state.output]);
        let (param, result) = (func.params[state.input], func.results[state.output]);
        let (from, to) = (func.ty(param), func.ty(result));
        if from == to {
            return Ok(None);
        }
        let fault = |reason: String, hint: &str| Err(Diagnostic::new(codes::STATE, reason).hint(hint));
        let longer: Vec<usize> =
            (0..from.shape.rank().min(to.shape.rank())).filter(|&d| from.shape[d] != to.shape[d]).collect();
        let (name, same) = (&state.name, from.elem == to.elem && from.shape.rank() == to.shape.rank());
        let (true, &[axis]) = (same && from.elem.scalar().is_some(), &longer[..]) else {
            return fault(
                format!("state `{name}` is {from}, but output `{output}` is {to}"),
                "both have one type, or the output is longer along one axis",
            );
        };
        let (past, all) = (from.shape[axis], to.shape[axis]);
        if all < past {
            return fault(
                format!("state `{name}` is {from}, but output `{output}` is {to}"),
                "an output that is shorter than its input is no state",
            );
        }
        let rows = length.unwrap_or(past);
        if rows < past || rows == 0 {
            return fault(
                format!("state `{name}` of {rows} rows: the input has {past}, and output `{output}` {all}"),
                "give it more rows by --state-length N",
            );
        }
        let parts = func.def(result).map(|node| &func.nodes[node]);
        let appended =
            parts.is_some_and(|data| matches!(data.op, Op::Concat { .. }) && data.args[0] == param);
        if past < rows && past > 0 && !appended {
            return fault(
                format!("output `{output}` is not the rows of `{name}` with others behind them"),
                "leave --state-length out",
            );
        }
        Ok(Some(Growth { state: state.clone(), axis, past, added: all - past, rows }))
    }

    /// The rows that the model reads.
    fn read(&self, b: &mut FunctionBuilder<'_>, state: Value) -> Option<Value> {
        rows(b, state, self.axis, self.rows - self.past, self.past)
    }

    /// The state with the added rows of the model's output.
    fn next(&self, b: &mut FunctionBuilder<'_>, state: Value, output: Value) -> Option<Value> {
        if self.past == self.rows || self.added >= self.rows {
            return rows(b, output, self.axis, self.past + self.added - self.rows, self.rows);
        }
        let kept = rows(b, state, self.axis, self.added, self.rows - self.added)?;
        let new = rows(b, output, self.axis, self.past, self.added)?;
        b.emit(Op::Concat { axis: u8::try_from(self.axis).ok()? }, &[kept, new]).ok()
    }
}

/// Rows of a value along an axis.
fn rows(b: &mut FunctionBuilder<'_>, x: Value, axis: usize, start: u64, n: u64) -> Option<Value> {
    let mut shape = b.ty(x).shape.clone();
    let mut starts = vec![0; shape.rank()];
    starts[axis] = i64::try_from(start).ok()?;
    shape.0[axis] = n;
    let steps = vec![1; shape.rank()];
    b.emit(Op::Slice { starts, shape, steps }, &[x]).ok()
}

/// Gives states whose outputs are longer than their inputs a fixed number of rows, of which the model reads and writes the last.
///
/// # Errors
/// L0025, as [`resolve`], and where a state grows otherwise.
pub fn bound(request: StateRequest<'_>, module: &mut Module) -> Result<(), Failed> {
    if request.pairs.is_empty() || module.entries.len() != 1 || module.functions.len() != 1 {
        return Ok(());
    }
    let mut faults = Vec::new();
    let mut growing: BTreeMap<usize, Growth> = BTreeMap::new();
    for state in named(request.pairs, module)? {
        match Growth::of(&state, module, request.length) {
            Ok(Some(growth)) => {
                growing.insert(growth.state.input, growth);
            }
            Ok(None) => {}
            Err(fault) => faults.push(fault),
        }
    }
    if !faults.is_empty() {
        return Err(Failed(faults));
    }
    if growing.is_empty() {
        return match request.length {
            Some(_) => Err(Diagnostic::new(
                codes::STATE,
                "--state-length does nothing: no output is longer than its state",
            )
            .hint("leave --state-length out")
            .into()),
            None => Ok(()),
        };
    }
    let whole = || {
        Diagnostic::new(codes::STATE, "a state has more rows than a tensor can have")
            .hint("give a smaller number by --state-length N")
    };
    let func = module.entries[0].func;
    let old = std::mem::take(&mut module.functions).into_iter().find(|(id, _)| *id == func).map(|(_, f)| f);
    let old = old.ok_or_else(whole)?;
    let mut b = FunctionBuilder::new(module, old.name.clone());
    let mut new: SecondaryMap<Value, Option<Value>> = SecondaryMap::new();
    let mut states = BTreeMap::new();
    for (number, &param) in old.params.iter().enumerate() {
        let mut ty: TensorType = old.ty(param).clone();
        if let Some(growth) = growing.get(&number) {
            ty.shape.0[growth.axis] = growth.rows;
        }
        let value = b.param(ty, old.values[param].name.clone());
        new[param] = Some(value);
        states.insert(number, value);
    }
    for (number, growth) in &growing {
        new[old.params[*number]] = Some(growth.read(&mut b, states[number]).ok_or_else(whole)?);
    }
    for data in old.nodes.values() {
        b.set_origins(data.origins.clone());
        let args: Vec<Value> = data.args.iter().filter_map(|&arg| new[arg]).collect();
        let results = b.emit_all(data.op.clone(), &args).map_err(|_| whole())?;
        for (&before, after) in data.results.iter().zip(results) {
            b.func_mut().values[after].name.clone_from(&old.values[before].name);
            new[before] = Some(after);
        }
    }
    let mut results: Vec<Value> = old.results.iter().filter_map(|&result| new[result]).collect();
    for (number, growth) in &growing {
        let output = results[growth.state.output];
        results[growth.state.output] = growth.next(&mut b, states[number], output).ok_or_else(whole)?;
    }
    b.results(&results);
    let func = b.id();
    module.entries[0].func = func;
    Ok(())
}

/// The states that pairs of names name, each of one type.
///
/// # Errors
/// L0025: a pair that names no input or output, types that differ, a name in two pairs.
pub fn resolve(request: StateRequest<'_>, module: &Module) -> Result<Vec<State>, Failed> {
    let states = named(request.pairs, module)?;
    let grown = states.iter().filter_map(|state| Growth::of(state, module, request.length).transpose());
    let faults: Vec<Diagnostic> = grown
        .map(|growth| {
            growth.map_or_else(
                |fault| fault,
                |growth| {
                    let name = &growth.state.name;
                    let reason = format!("state `{name}` grows in a model of several functions");
                    Diagnostic::new(codes::STATE, reason)
                },
            )
        })
        .collect();
    if faults.is_empty() { Ok(states) } else { Err(Failed(faults)) }
}

/// The states that pairs of names name, in an order that does not depend on the command line.
fn named(pairs: &[(String, String)], module: &Module) -> Result<Vec<State>, Failed> {
    let [entry] = &module.entries[..] else { return Ok(Vec::new()) };
    let mut states: Vec<State> = Vec::new();
    let mut faults = Vec::new();
    for (of_input, of_output) in pairs {
        let mut named = false;
        for (input, name) in entry.inputs.iter().enumerate() {
            let Some(part) = captured(of_input, name) else { continue };
            named = true;
            let wanted = of_output.replacen('*', part, 1);
            let Some(output) = entry.outputs.iter().position(|output| *output == wanted) else {
                let known = entry.outputs.join(", ");
                let reason = format!("state `{name}`: there is no output `{wanted}`");
                faults.push(Diagnostic::new(codes::STATE, reason).hint(format!("the outputs are {known}")));
                continue;
            };
            if states.iter().any(|s| s.input == input || s.output == output) {
                let reason = format!("`{name}` or `{wanted}` belongs to two states");
                faults.push(Diagnostic::new(codes::STATE, reason));
            } else {
                states.push(State { name: name.clone(), input, output });
            }
        }
        if !named {
            let known = entry.inputs.join(", ");
            let reason = format!("no input is named `{of_input}`");
            faults.push(Diagnostic::new(codes::STATE, reason).hint(format!("the inputs are {known}")));
        }
    }
    states.sort_by(|a, b| a.name.cmp(&b.name));
    if faults.is_empty() { Ok(states) } else { Err(Failed(faults)) }
}

/// What `*` stands for in a pattern that matches the whole name; nothing where it has none.
fn captured<'n>(pattern: &str, name: &'n str) -> Option<&'n str> {
    let Some((head, tail)) = pattern.split_once('*') else { return (pattern == name).then_some("") };
    name.strip_prefix(head)?.strip_suffix(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_part() {
        assert_eq!(captured("past.*", "past.3.key"), Some("3.key"));
        assert_eq!(captured("past.*.key", "past.3.key"), Some("3"));
        assert_eq!(captured("keys", "keys"), Some(""));
        assert_eq!((captured("keys", "keys2"), captured("ab*ba", "aba")), (None, None));
    }
}
