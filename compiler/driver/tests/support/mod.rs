//! What tests of kernels share: objects that the checker has passed, numbers, and runs against the evaluator.

use cranelift_entity::SecondaryMap;
use lacuna_ir::Module;
use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_isa::object::Object;
use lacuna_isa::target::Target;
use lacuna_runtime::{Machine, Outcome, RunOptions};

/// The object of a module, in which the checker finds nothing.
pub fn compile(module: &Module, target: &Target) -> Object {
    let generated = lacuna_codegen::generate(module, target, &SecondaryMap::new())
        .unwrap_or_else(|e| panic!("{}: {e:?}\n{module}", target.name));
    let findings = lacuna_codegen::check::check(&generated.object, target);
    assert!(findings.is_empty(), "{}: {}\n{}", target.name, findings[0], generated.tiled);
    generated.object
}

/// Numbers between -2 and 2.
pub fn numbers(seed: u64, n: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / 4_194_304.0 - 2.0
    };
    (0..n).map(next).collect()
}

/// How a run of an object ends.
pub fn run(object: &Object, inputs: &[Tensor]) -> Outcome {
    let bytes: Vec<Vec<u8>> = inputs.iter().map(Tensor::to_bytes).collect();
    let bytes: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    let machine = Machine::load(object).expect("a valid object loads");
    machine.run(&bytes, &RunOptions::default()).expect("it runs")
}

/// The first result of a module as the evaluator has it, and as an object of the module computes it.
pub fn both(module: &Module, object: &Object, inputs: &[Tensor]) -> [Vec<f64>; 2] {
    let want = eval(module, module.entries[0].func, inputs, Mode::Typed).expect("evaluates").remove(0);
    let outcome = run(object, inputs);
    let Outcome::Done { outputs, .. } = outcome else { panic!("{outcome:?}\n{module}") };
    let got = Tensor::from_bytes(want.ty.clone(), &outputs[0]).expect("a result of the right size");
    [want.to_f64().to_vec(), got.to_f64().to_vec()]
}
