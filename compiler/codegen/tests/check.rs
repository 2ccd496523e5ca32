//! The checker finds nothing in what code generation makes.

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{compile, models, target};
use lacuna_codegen::check::{Rule, check};

#[test]
fn models_of_the_repository_are_clean() {
    for model in ["digits-cnn", "digits-cnn-24", "adder-llama"] {
        for name in ["mtia-300", "mtia-500"] {
            for precision in ["f32", "mxfp8"] {
                let target = target(name);
                let object = compile(&models().join(model), &target, precision);
                let findings: Vec<String> = check(&object, &target).iter().map(ToString::to_string).collect();
                assert!(findings.is_empty(), "{model} {name} {precision}:\n{}", findings.join("\n"));
            }
        }
    }
}

/// The model in the folder that `LACUNA_MODEL` names: prints how long the check takes, then what it found.
#[test]
#[ignore = "needs LACUNA_MODEL"]
fn another_model_is_clean() {
    let folder = std::env::var("LACUNA_MODEL").expect("LACUNA_MODEL names a folder");
    for precision in ["f32", "mxfp8"] {
        let target = target("mtia-300");
        let object = compile(folder.as_ref(), &target, precision);
        let begin = std::time::Instant::now();
        let findings: Vec<String> = check(&object, &target).iter().map(ToString::to_string).collect();
        println!(
            "{precision}: {} launches, {:.3} s",
            object.entries[0].launches.len(),
            begin.elapsed().as_secs_f64()
        );
        assert!(findings.is_empty(), "{precision}:\n{}", findings.join("\n"));
    }
}

/// Legal programs that code generation does not make.
#[test]
fn legal_programs_are_clean() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/isa/accept");
    for file in std::fs::read_dir(&folder).expect("a folder") {
        let file = file.expect("an entry").path();
        let text = std::fs::read_to_string(&file).expect("a text");
        let object = lacuna_isa::asm::assemble(&text).unwrap_or_else(|e| panic!("{}: {e:?}", file.display()));
        let findings: Vec<String> =
            check(&object, &target("mtia-300")).iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{}:\n{}", file.display(), findings.join("\n"));
    }
}

/// Illegal programs, each with the findings that it must give in its `; expect:` lines.
#[test]
fn illegal_programs_are_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/isa/reject");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    let target = target("mtia-300");
    let mut seen = BTreeSet::new();
    let mut wrong = String::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a text");
        let object = lacuna_isa::asm::assemble(&text).unwrap_or_else(|e| panic!("{}: {e:?}", file.display()));
        let expected: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("; expect: ")).collect();
        let findings = check(&object, &target);
        seen.extend(findings.iter().map(|f| f.rule));
        let found: Vec<String> = findings.iter().map(ToString::to_string).collect();
        if found != expected {
            wrong += &format!("{}:\n{}\n", file.display(), found.join("\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let unseen: Vec<_> = Rule::ALL.iter().filter(|r| !seen.contains(r)).collect();
    assert!(unseen.is_empty(), "no program breaks {unseen:?}");
}

/// The guards of `testdata/isa/guards.txt`, and which pairs of them are legal there, one string of each row.
fn guards() -> (Vec<String>, Vec<String>) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/isa/guards.txt");
    let text = std::fs::read_to_string(path).expect("a text");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(';')).collect();
    let (verdicts, guards): (Vec<&str>, Vec<&str>) =
        lines.into_iter().partition(|line| line.chars().all(|c| c == '.' || c == 'x'));
    let guard = |line: &&str| if *line == "none" { String::new() } else { line.replace("; ", "\n") };
    (guards.iter().map(guard).collect(), verdicts.into_iter().map(str::to_owned).collect())
}

/// The verdicts are those of the interpreter, which runs the same pairs of guards.
#[test]
fn order_is_judged_as_the_interpreter_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/isa/accept/events.s");
    let text = std::fs::read_to_string(path).expect("a text");
    let (guards, verdicts) = guards();
    let verdict = |after_store: &String, after_load: &String| {
        let text = text
            .replace("post e0, fi.store\n      wait e0, fi.load, count=4", after_store)
            .replace("post e1, fi.load\n      wait e1, fi.store, count=4", after_load);
        let object = lacuna_isa::asm::assemble(&text).unwrap_or_else(|e| panic!("{e:?}"));
        if check(&object, &target("mtia-300")).is_empty() { '.' } else { 'x' }
    };
    let found: Vec<String> =
        guards.iter().map(|after_store| guards.iter().map(|g| verdict(after_store, g)).collect()).collect();
    assert_eq!(found, verdicts, "\n{}", found.join("\n"));
}
