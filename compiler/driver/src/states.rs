//! Which inputs and outputs are one tensor that stays in memory between runs.

use lacuna_codegen::State;
use lacuna_ir::Module;

use crate::codes;
use crate::diagnostics::{Diagnostic, Failed};

/// The states that pairs of names name; `*` stands for any part of a name, the same on both sides.
///
/// # Errors
/// L0025: a pair that names no input or output, types that differ, a name in two pairs.
pub fn resolve(pairs: &[(String, String)], module: &Module) -> Result<Vec<State>, Failed> {
    let [entry] = &module.entries[..] else { return Ok(Vec::new()) };
    let func = &module.functions[entry.func];
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
            let (from, to) = (func.ty(func.params[input]), func.ty(func.results[output]));
            if from != to {
                let reason = format!("state `{name}` is {from}, but output `{wanted}` is {to}");
                let hint = "a state has one shape: give the model a cache of fixed size and a position";
                faults.push(Diagnostic::new(codes::STATE, reason).hint(hint));
            } else if states.iter().any(|s| s.input == input || s.output == output) {
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
    // The order does not depend on the command line.
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
