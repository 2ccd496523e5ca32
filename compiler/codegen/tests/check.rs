//! The checker finds nothing in what code generation makes.

mod common;

use common::{compile, models, target};
use lacuna_codegen::check::check;

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
