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

/// Legal programs written by hand.
#[test]
fn legal_programs_are_clean() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/isa/accept");
    for file in std::fs::read_dir(&folder).expect("a folder") {
        let file = file.expect("an entry").path();
        let text = std::fs::read_to_string(&file).expect("a text");
        let object = lacuna_isa::asm::assemble(&text).unwrap_or_else(|e| panic!("{}: {e:?}", file.display()));
        let found: Vec<String> =
            check(&object, &target("mtia-300")).iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{}:\n{}", file.display(), found.join("\n"));
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
