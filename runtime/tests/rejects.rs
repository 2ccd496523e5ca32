//! The checker and the interpreter agree on programs: what the one refuses, the other refuses or traps on, wherever the rule
//! is one of execution; what the one accepts, the other runs.

use std::path::{Path, PathBuf};

use lacuna_isa::asm::assemble;
use lacuna_isa::object::Port;
use lacuna_runtime::{Machine, Outcome, RunOptions};

/// Rules about the whole object or stream, which nothing breaks while it runs.
const NOT_OF_EXECUTION: [&str; 8] = [
    "structure",
    "target-limits",
    "loop-balance",
    "length",
    "slot-conflict",
    "overlap",
    "read-before-write",
    "output-incomplete",
];

/// Whether the program of a text loads and runs to its end, on zeros.
fn runs(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).expect("a text");
    let object = assemble(&text).unwrap_or_else(|e| panic!("{}: {e:?}", file.display()));
    let Ok(machine) = Machine::load(&object) else { return false };
    let zeros = |port: &Port| vec![0; port.elem.bytes_for(port.shape.iter().product()) as usize];
    let inputs: Vec<Vec<u8>> = object.entries[0].inputs.iter().map(zeros).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    match machine.run(&inputs, &RunOptions::default()).expect("the inputs fit") {
        Outcome::Trap(_) => false,
        Outcome::Done { .. } => true,
    }
}

fn folder(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/isa").join(name);
    let files = std::fs::read_dir(folder).expect("a folder");
    files.map(|file| file.expect("an entry").path()).collect()
}

#[test]
fn accepted_programs_run() {
    for file in folder("accept") {
        assert!(runs(&file), "{}", file.display());
    }
}

#[test]
fn refused_programs_do_not_run() {
    for file in folder("reject") {
        let text = std::fs::read_to_string(&file).expect("a text");
        let rule = text.lines().find_map(|line| line.strip_prefix("; expect: ")).expect("a rule");
        let rule = rule.split([' ', ':']).next().expect("a word");
        assert!(NOT_OF_EXECUTION.contains(&rule) || !runs(&file), "{} runs", file.display());
    }
}
