//! The programs that the checker must refuse, executed: those that break a rule of execution do not load, or trap.

use std::path::Path;

use lacuna_runtime::{Machine, Outcome, RunOptions};

/// Rules about what cannot happen while a program runs: limits of a target, contents that a run takes as zeros, walks that
/// the interpreter does not need to bound.
const NOT_OF_EXECUTION: [&str; 7] = [
    "structure",
    "target-limits",
    "length",
    "loop-balance",
    "overlap",
    "read-before-write",
    "output-incomplete",
];

#[test]
fn refused_programs_trap() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/isa/reject");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    let mut executed = 0;
    let mut wrong = String::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a text");
        let mut expected = text.lines().filter_map(|l| l.strip_prefix("; expect: "));
        if !expected.any(|line| NOT_OF_EXECUTION.iter().all(|rule| !line.starts_with(rule))) {
            continue;
        }
        executed += 1;
        let object = lacuna_isa::asm::assemble(&text).unwrap_or_else(|e| panic!("{}: {e:?}", file.display()));
        let Ok(machine) = Machine::load(&object) else { continue };
        let inputs: Vec<Vec<u8>> = object.entries[0]
            .inputs
            .iter()
            .map(|port| vec![0; port.elem.bytes_for(port.shape.iter().product()) as usize])
            .collect();
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        match machine.run(&inputs, &RunOptions::default()) {
            Ok(Outcome::Trap(_)) => {}
            Ok(Outcome::Done { .. }) => wrong += &format!("{} ran to its end\n", file.display()),
            Err(e) => wrong += &format!("{}: {e}\n", file.display()),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(executed > 20, "{executed}");
}
