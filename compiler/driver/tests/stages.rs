//! The trained models, stage by stage: text forms that read back, and formats that mean the same to the IR evaluator and
//! to the instructions.

use std::path::Path;

use lacuna_driver::compare::{Criterion, OutputStats};
use lacuna_driver::exec::Program;
use lacuna_driver::files::{self, ModelFolder};
use lacuna_driver::pipeline::{self, Front, Request, Watch};
use lacuna_driver::progress::{Loudness, Progress};
use lacuna_driver::testset::{DataSet, Signature, TestSet};
use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::text::{parse, print};
use lacuna_ir::{Module, TensorType};
use lacuna_isa::object::Object;
use lacuna_isa::target_file::target;

const MODELS: [&str; 3] = ["adder-llama", "digits-cnn", "digits-cnn-24"];

struct Stages {
    front: Front,
    object: Object,
    data: DataSet,
}

fn stages(model: &str, target_name: &str, precision: &str) -> Stages {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models").join(model);
    let set = TestSet::find(&folder).expect("a test folder");
    let data = set.load().expect("test data").swap_remove(0);
    let blob = files::read(&set.model).expect("a model");
    let target = target(target_name).expect("a shipped target");
    let dims = Signature::read(&blob).expect("a graph").dims(&data);
    let folder = ModelFolder::of(&set.model).expect("a folder");
    let plain = Request::new(&set.model, blob, &folder, &target);
    let request = Request { dims, precision: precision.parse().expect("a precision"), ..plain };
    let progress = Progress::new(Loudness::Silent);
    let mut watch = Watch { progress: &progress, dump: None };
    let front = pipeline::front(&request, &mut watch).expect("the model is supported");
    let object =
        pipeline::generate(&front.selected, &target, &mut watch).expect("every operator has a kernel");
    Stages { front, object, data }
}

/// Prints, reads back with the module's own constants, and prints again.
fn check_text(module: &Module, what: &str) {
    let text = print(module);
    let resolve = |hash: &[u8; 32]| {
        let mut constants = module.constants.values();
        constants.find(|constant| constant.hash() == hash).map(|constant| constant.data.clone())
    };
    let again = parse(&text, resolve).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(print(&again) == text, "{what}: the text reads back as another module");
    if let Err(violations) = lacuna_ir::verify::verify(&again) {
        panic!("{what}: {violations:?}");
    }
    assert_eq!(again.constants.len(), module.constants.len(), "{what}");
    for (id, constant) in module.constants.iter() {
        assert_eq!(again.constants[id].hash(), constant.hash(), "{what}: {id}");
    }
}

#[test]
fn text_reads_back_at_every_stage() {
    for model in MODELS {
        for precision in ["f32", "mxfp8"] {
            let stages = stages(model, "mtia-500", precision);
            check_text(&stages.front.imported, &format!("{model} {precision} imported"));
            check_text(&stages.front.optimized, &format!("{model} {precision} optimized"));
            check_text(&stages.front.selected.module, &format!("{model} {precision} selected"));
        }
    }
}

/// Signal-to-noise ratio in dB; the first tensor is held to the second.
fn sqnr_db(found: &Tensor, reference: &Tensor) -> f64 {
    assert_eq!(found.ty, reference.ty);
    let mut stats = OutputStats::new("");
    let shape: &[u64] = &reference.ty.shape;
    stats.add(&found.to_f64(), &reference.to_f64(), shape, None, Criterion::Report);
    stats.sqnr_db()
}

/// Evaluator and instructions, both on the module with formats and both on the model's test inputs.
fn check_formats(model: &str, least_db: f64) {
    let stages = stages(model, "mtia-500", "mxfp8");
    let program = Program::load(&stages.object, 0).expect("a loadable object");
    let entry = program.entry();
    let names: Vec<String> = entry.inputs.iter().map(|port| port.name.clone()).collect();
    let paired = stages.data.pair(&stages.data.inputs, &names, "inputs").expect("an input each");
    let inputs: Vec<_> = paired.into_iter().map(|i| stages.data.inputs[i].1.clone()).collect();
    let tensor = |ty: &TensorType, bytes: &[u8]| Tensor::from_bytes(ty.clone(), bytes).expect("its own size");

    let blobs: Vec<_> = inputs.iter().map(|input| input.data.clone()).collect();
    let outputs = program.run(&blobs).expect("no trap");
    let reference = &stages.data.outputs[0].1;
    let run = tensor(&reference.ty, &outputs[0]);
    let reference = tensor(&reference.ty, reference.data.bytes());

    let module = &stages.front.selected.module;
    let arguments: Vec<Tensor> = inputs.iter().map(|input| tensor(&input.ty, input.data.bytes())).collect();
    let evaluated = eval(module, module.entries[0].func, &arguments, Mode::Typed).expect("a verified module");

    let between = sqnr_db(&run, &evaluated[0]);
    let (run, evaluated) = (sqnr_db(&run, &reference), sqnr_db(&evaluated[0], &reference));
    println!("{model}: {between:.1} dB between the two, {run:.1} and {evaluated:.1} dB from the reference");
    assert!(run < 40.0 && evaluated < 40.0, "{model}: nothing is quantised: {run} and {evaluated} dB");
    assert!(between >= least_db, "{model}: {between} dB, but {run} and {evaluated} dB from the reference");
}

/// With formats that meant something else on either side, both would be as far from one another as each is from the f32
/// reference: 25.7 and 22.6 dB.
///
/// Measured between the two: nothing differs in digits-cnn-24, because sums of products of e4m3 elements are nearly all exact in
/// f32, in any order. In adder-llama it is 50.9 dB: exponentials, norms and sums between products differ by an ulp of f32, and
/// where that tips a value over the middle of a quantisation step, the step follows. The bounds leave room for other orders
/// of summation, and ask that less than a 300th of the quantisation noise differs.
#[test]
fn formats_mean_the_same_in_the_graph_and_on_the_machine() {
    check_formats("digits-cnn-24", 60.0);
    check_formats("adder-llama", 45.0);
}
