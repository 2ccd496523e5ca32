//! Programs that the checker refuses or accepts: the interpreter refuses or traps on those that break a rule of execution,
//! and runs the others.

mod common;

use std::path::Path;

use lacuna_isa::asm::assemble;
use lacuna_runtime::{Machine, Outcome, RunOptions};

/// Rules that only the checker has: about all runs, about whole entries, about targets, or about what memory held before.
const STATIC: [&str; 6] =
    ["read-before-write", "output-incomplete", "loop-balance", "target-limits", "length", "overlap"];

/// Whether the program is refused, or traps with some inputs.
fn fails(text: &str) -> bool {
    let object = assemble(text).expect("a text");
    let Ok(machine) = Machine::load(&object) else { return true };
    let entry = &object.entries[0];
    [0u8, 0x7f].into_iter().any(|byte| {
        let inputs: Vec<Vec<u8>> = entry
            .inputs
            .iter()
            .map(|port| vec![byte; port.elem.bytes_for(port.shape.iter().product()) as usize])
            .collect();
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let ranks = vec![inputs.as_slice(); usize::from(entry.ranks)];
        let outcomes = machine.run_ranks(&ranks, &RunOptions::default()).expect("inputs that fit");
        outcomes.iter().any(|outcome| matches!(outcome, Outcome::Trap(_)))
    })
}

#[test]
fn legal_programs_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/isa/accept");
    for entry in std::fs::read_dir(&folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        assert!(!fails(&text), "{}", path.display());
    }
}

#[test]
fn illegal_programs_trap() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/isa/reject");
    let mut silent = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        let rule = text.lines().find_map(|line| line.strip_prefix("; expect: ")?.split([' ', ':']).next());
        if !STATIC.contains(&rule.unwrap_or_default()) && !fails(&text) {
            silent.push(path.file_name().expect("a name").to_string_lossy().into_owned());
        }
    }
    silent.sort();
    assert!(silent.is_empty(), "no trap: {silent:?}");
}
