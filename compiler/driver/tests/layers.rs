//! Faults planted in a pass or in a kernel, one at a time: the comparison of layers names the node that has it, and no other first.

use std::path::Path;

use lacuna_driver::exec::Program;
use lacuna_driver::expose::{expose, of_own_operands};
use lacuna_driver::files::{self, ModelFolder};
use lacuna_driver::pipeline::{self, Request, Watch};
use lacuna_driver::progress::{Loudness, Progress};
use lacuna_driver::testset::{DataSet, Signature, TestSet};
use lacuna_ir::eval::{Mode, Tensor, eval_all, eval_op};
use lacuna_ir::op::{BinaryOp, ReduceOp, UnaryOp};
use lacuna_ir::{Module, Node, Op, TensorType};
use lacuna_isa::object::{Kernel, Object};
use lacuna_isa::program::{SeBinary, SeOp};
use lacuna_isa::target::Target;
use lacuna_isa::target_file::target;
use lacuna_isa::view::{Space, View};

/// Most faults of a model.
const FAULTS: usize = 5;

fn import(model: &str, target: &Target) -> (Module, DataSet) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/spellings").join(model);
    let set = TestSet::find(&folder).expect("a test folder");
    let data = set.load().expect("test data").swap_remove(0);
    let blob = files::read(&set.model).expect("a model");
    let dims = Signature::read(&blob).expect("a graph").dims(&data);
    let folder = ModelFolder::of(&set.model).expect("a folder");
    let plain = Request::new(&set.model, blob, &folder, target);
    let request = Request { dims, ..plain };
    let progress = Progress::new(Loudness::Silent);
    let mut watch = Watch { progress: &progress, dump: None };
    let (mut module, _) = pipeline::import(&request, &mut watch).expect("the model is supported");
    expose(&mut module);
    (module, data)
}

/// Another operator of the same operands and type.
fn other(op: &Op) -> Option<Op> {
    Some(match op.clone() {
        Op::Binary { op: BinaryOp::Add } => Op::Binary { op: BinaryOp::Sub },
        Op::Binary { op: BinaryOp::Mul } => Op::Binary { op: BinaryOp::Add },
        Op::Binary { op: BinaryOp::Max } => Op::Binary { op: BinaryOp::Min },
        Op::Binary { op: BinaryOp::Div } => Op::Binary { op: BinaryOp::Mul },
        Op::Unary { op: UnaryOp::Neg } => Op::Unary { op: UnaryOp::Abs },
        Op::Unary { op: UnaryOp::Sqrt | UnaryOp::Sigmoid } => Op::Unary { op: UnaryOp::Neg },
        Op::Reduce { op: ReduceOp::Sum, axes } => Op::Reduce { op: ReduceOp::Max, axes },
        _ => return None,
    })
}

/// The object of a module.
fn object_of(module: &Module, target: &Target) -> Object {
    let options = pipeline::options(target, "f32".parse().expect("a precision"));
    let optimized = lacuna_optimize::optimize(module.clone(), &options).expect("rules hold").module;
    let selected = lacuna_optimize::select(optimized, &options).expect("formats fit");
    let progress = Progress::new(Loudness::Silent);
    let mut watch = Watch { progress: &progress, dump: None };
    pipeline::generate(&selected, target, &mut watch).expect("every operator has a kernel")
}

/// The results of a module as the machine computes them.
fn compute(module: &Module, target: &Target, data: &DataSet) -> (Vec<Tensor>, Vec<Tensor>) {
    execute(&object_of(module, target), data).expect("no trap")
}

/// Arguments and results of a run; `None` where an object traps or is refused.
fn execute(object: &Object, data: &DataSet) -> Option<(Vec<Tensor>, Vec<Tensor>)> {
    let program = Program::load(object, 0).ok()?;
    let entry = program.entry();
    let names: Vec<String> = entry.inputs.iter().map(|p| p.name.clone()).collect();
    let paired = data.pair(&data.inputs, &names, "inputs").expect("inputs");
    let literals: Vec<_> = paired.into_iter().map(|i| &data.inputs[i].1).collect();
    let arguments =
        literals.iter().map(|l| Tensor::from_bytes(l.ty.clone(), l.data.bytes()).expect("a tensor"));
    let arguments: Vec<Tensor> = arguments.collect();
    let blobs: Vec<_> = literals.iter().map(|l| l.data.clone()).collect();
    let outputs = program.run(&blobs).ok()?;
    let found = entry.outputs.iter().zip(&outputs).map(|(port, bytes)| {
        Tensor::from_bytes(TensorType::new(port.elem, port.shape.clone()), bytes).expect("a tensor")
    });
    let found = found.collect();
    Some((arguments, found))
}

/// Whether tensors differ by more than the order of sums explains.
fn differ(a: &Tensor, b: &Tensor) -> bool {
    let is_off = |a: f64, b: f64| {
        let same = a == b || (a.is_nan() && b.is_nan());
        // A difference that is NaN is one.
        !same && ((a - b).abs() > 1e-4 + 1e-3 * b.abs() || (a - b).is_nan())
    };
    a.to_f64().iter().zip(b.to_f64().iter()).any(|(&a, &b)| is_off(a, b))
}

/// The nodes whose results are not what their own operands give, in order of execution.
fn broken(module: &Module, arguments: &[Tensor], found: &[Tensor]) -> Vec<Node> {
    let func = &module.functions[module.entries[0].func];
    let expected = of_own_operands(module, func, arguments, found).expect("the evaluator");
    let mut nodes: Vec<Node> = func
        .results
        .iter()
        .zip(found.iter().zip(&expected))
        .filter(|(_, (found, expected))| differ(found, expected))
        .filter_map(|(&result, _)| func.def(result))
        .collect();
    nodes.sort();
    nodes
}

#[test]
fn each_fault_is_named() {
    let target = target("mtia-300").expect("a shipped target");
    let mut n_faults = 0;
    for model in [
        "layer-norm",
        "mixer",
        "convnext",
        "guarded-attention",
        "dense-block",
        "adaptive-norm",
        "stable-softmax",
    ] {
        let (module, data) = import(model, &target);
        let (arguments, found) = compute(&module, &target, &data);
        assert_eq!(broken(&module, &arguments, &found), [], "{model}");
        let func = &module.functions[module.entries[0].func];
        let values =
            eval_all(&module, module.entries[0].func, &arguments, Mode::Typed).expect("the evaluator");
        // A norm's epsilon with the other sign, for one, is no fault that anyone sees.
        let shows = |id: Node, op: &Op| {
            let node = &func.nodes[id];
            let args: Vec<&Tensor> = node.args.iter().map(|&a| &values[a]).collect();
            let faulty = eval_op(&module, op, &args, Mode::Typed).expect("the evaluator");
            differ(&faulty[0], &values[node.results[0]])
        };
        let sites: Vec<(Node, Op)> = func
            .nodes
            .iter()
            .filter(|(_, node)| node.results.iter().all(|r| func.results.contains(r)))
            .filter_map(|(id, node)| Some((id, other(&node.op)?)))
            .filter(|(id, op)| shows(*id, op))
            .collect();
        let n = FAULTS.min(sites.len());
        n_faults += n;
        for i in 0..n {
            let (node, op) = sites[i * sites.len() / n].clone();
            let mut faulty = module.clone();
            faulty.functions[module.entries[0].func].nodes[node].op = op;
            let (arguments, found) = compute(&faulty, &target, &data);
            assert_eq!(broken(&module, &arguments, &found), [node], "{model}");
        }
    }
    assert!(n_faults >= 20, "{n_faults} faults");
}

/// A copy of a kernel with one fault: an operation of a program, or a view of memory that stands still along a dimension.
fn faulty_kernel(kernel: &Kernel, in_program: bool) -> Option<Kernel> {
    let mut kernel = kernel.clone();
    if in_program {
        let ops = kernel
            .programs
            .iter_mut()
            .flat_map(|p| p.init.iter_mut().chain(&mut p.body).chain(&mut p.finish));
        let f = ops.filter_map(|op| match op {
            SeOp::Binary { f, .. } => Some(f),
            _ => None,
        });
        let pairs = [
            (SeBinary::Add, SeBinary::Sub),
            (SeBinary::Sub, SeBinary::Add),
            (SeBinary::Mul, SeBinary::Add),
            (SeBinary::Div, SeBinary::Mul),
            (SeBinary::Max, SeBinary::Min),
        ];
        let replaced = f.into_iter().find_map(|f| {
            let (_, other) = pairs.iter().find(|(from, _)| from == f)?;
            *f = *other;
            Some(())
        });
        replaced?;
    } else {
        let is_far = |view: &&mut View| matches!(view.space, Space::Global(_));
        let dims = kernel.views.iter_mut().filter(is_far).flat_map(|view| &mut view.dims);
        dims.into_iter().find(|dim| dim.size > 1 && dim.stride != 0)?.stride = 0;
    }
    Some(kernel)
}

#[test]
fn each_fault_of_a_kernel_is_named() {
    let target = target("mtia-300").expect("a shipped target");
    let mut n_faults = 0;
    for model in ["layer-norm", "mixer", "convnext", "guarded-attention", "stable-softmax"] {
        let (module, data) = import(model, &target);
        let object = object_of(&module, &target);
        let (_, intact) = execute(&object, &data).expect("no trap");
        let func = &module.functions[module.entries[0].func];
        let mut of_model = [0; 2];
        for (at, launch) in object.entries[0].launches.iter().enumerate() {
            for (kind, n) in of_model.iter_mut().enumerate() {
                let kernel = &object.kernels[launch.kernel as usize];
                let Some(kernel) = faulty_kernel(kernel, kind == 0).filter(|_| *n < FAULTS) else { continue };
                // Other launches keep the kernel that they share.
                let mut faulty = object.clone();
                faulty.entries[0].launches[at].kernel = faulty.kernels.len() as u32;
                faulty.kernels.push(kernel);
                let Some((arguments, found)) = execute(&faulty, &data) else { continue };
                if !intact.iter().zip(&found).any(|(a, b)| differ(a, b)) {
                    continue;
                }
                *n += 1;
                let nodes = broken(&module, &arguments, &found);
                let origins: Vec<&str> =
                    launch.origins.iter().map(|&o| object.origins[o as usize].node.as_str()).collect();
                let is_own = |node: &Node| {
                    let names = func.nodes[*node].origins.iter().map(|&o| module.origins[o].node.as_str());
                    names.into_iter().any(|name| origins.contains(&name))
                };
                // Behind a copy that is wrong may stand another of what was copied, which is right and differs from the wrong one.
                assert!(nodes.first().is_some_and(is_own), "{model} {at}: {nodes:?} for {origins:?}");
            }
        }
        n_faults += of_model[0] + of_model[1];
    }
    assert!(n_faults >= 20, "{n_faults} faults");
}
