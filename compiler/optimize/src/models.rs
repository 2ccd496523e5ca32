//! Whole functions through both phases: what they compute stays, and the rewrites that matter are in the result.

use lacuna_ir::eval::Mode;
use lacuna_ir::op::{BinaryOp::*, ReduceOp, UnaryOp};
use lacuna_ir::{Constant, ElemType, Module, Op, TensorType, Value};
use lacuna_isa::format::{GroupFormat, ScalarType};

use crate::testing::{Lab, assert_same, conv1d, count, module};
use crate::{
    Extraction, Options, Precision, Sparse, WeightSparsity, activity_of, optimize, select, sparsity_of,
};

const TOKENS: u64 = 6;
const WIDTH: u64 = 32;

fn projection(l: &mut Lab, x: Value, outputs: u64, bias: bool) -> Value {
    let w = l.konst(&[WIDTH, outputs]);
    let y = l.contract("btk,kn->btn", x, w);
    if !bias {
        return y;
    }
    let shape = l.shape(y);
    let b = l.channel(&shape, 2);
    l.bin(Add, y, b)
}

fn heads(l: &mut Lab, x: Value, n: u64) -> Value {
    let shape = l.shape(x);
    let y = l.reshape(x, &[1, TOKENS, n, shape[2] / n]);
    l.permute(y, &[0, 2, 1, 3])
}

/// Grouped-query attention as PyTorch exports it: keys and values are repeated by unsqueeze, expand and reshape.
fn attention(l: &mut Lab) -> Vec<Value> {
    let x = l.param(&[1, TOKENS, WIDTH]);
    vec![attention_on(l, x)]
}

fn attention_on(l: &mut Lab, x: Value) -> Value {
    let (n_heads, n_shared) = (4, 2);
    let q = projection(l, x, WIDTH, true);
    let k = projection(l, x, WIDTH / 2, true);
    let v = projection(l, x, WIDTH / 2, true);
    let q = heads(l, q, n_heads);
    let repeat = |l: &mut Lab, x: Value| {
        let x = heads(l, x, n_shared);
        let d = WIDTH / n_heads;
        let x = l.reshape(x, &[1, n_shared, 1, TOKENS, d]);
        let x = l.broadcast(x, &[0, 1, 2, 3, 4], &[1, n_shared, 2, TOKENS, d]);
        l.reshape(x, &[1, n_heads, TOKENS, d])
    };
    let (k, v) = (repeat(l, k), repeat(l, v));
    let kt = l.permute(k, &[0, 1, 3, 2]);
    let scores = l.contract("bhtd,bhds->bhts", q, kt);
    let shape = l.shape(scores);
    let scale = l.splat(&shape, 0.35);
    let scores = l.bin(Mul, scores, scale);
    let weights = l.emit(Op::Softmax { axis: 3, log: false }, &[scores]);
    let y = l.contract("bhts,bhsd->bhtd", weights, v);
    let y = l.permute(y, &[0, 2, 1, 3]);
    let y = l.reshape(y, &[1, TOKENS, WIDTH]);
    let y = projection(l, y, WIDTH, true);
    l.bin(Add, x, y)
}

/// Convolution, batch normalisation, ReLU, and a second one with a residual.
fn block(l: &mut Lab) -> Vec<Value> {
    let x = l.param(&[1, 32, 9]);
    let layer = |l: &mut Lab, x: Value| {
        let w = l.konst(&[32, 32, 3]);
        let y = l.emit(conv1d(1, 1, 1), &[x, w]);
        let shape = l.shape(y);
        let (s, b) = (l.channel(&shape, 1), l.channel(&shape, 1));
        let y = l.bin(Mul, y, s);
        l.bin(Add, y, b)
    };
    let y = layer(l, x);
    let shape = l.shape(y);
    let zero = l.splat(&shape, 0.0);
    let y = l.bin(Max, y, zero);
    let y = layer(l, y);
    vec![l.bin(Add, y, x)]
}

fn exact(before: &Module) -> Module {
    let done = optimize(before.clone(), &Options::default()).unwrap();
    assert_eq!(done.report.limited, Vec::<String>::new(), "{}", done.report);
    assert!(done.report.to_string().contains("rule"), "{}", done.report);
    done.module
}

#[test]
fn attention_is_one_node_without_repetition_and_with_one_projection() {
    let (before, inputs) = module(7, false, attention);
    let after = exact(&before);
    assert_same(&before, &after, &inputs, Mode::Real);
    let main = after.entries[0].func;
    // What is permuted are views of the one projection, and of the result.
    assert_eq!(count(&after, main, "attention"), 1);
    assert_eq!(count(&after, main, "softmax"), 0);
    assert_eq!(count(&after, main, "contract"), 2, "one for q, k, v; one for the output");
    let expanded = after.functions[main].nodes.values().filter(|n| {
        matches!(n.op, Op::Broadcast { .. }) && after.functions[main].as_const(n.args[0]).is_none()
    });
    assert_eq!(expanded.count(), 0);
}

#[test]
fn batch_norm_vanishes_into_the_weights() {
    let (before, inputs) = module(3, false, block);
    let after = exact(&before);
    assert_same(&before, &after, &inputs, Mode::Real);
    let main = after.entries[0].func;
    let products = after.functions[main].nodes.values().filter(|n| matches!(n.op, Op::Binary { op: Mul }));
    assert_eq!(products.count(), 0);
}

#[test]
fn the_same_input_gives_the_same_output() {
    let (before, _) = module(7, false, attention);
    let print = |m: &Module| format!("{:?}", m.functions[m.entries[0].func].nodes);
    assert_eq!(print(&exact(&before)), print(&exact(&before)));
}

#[test]
fn strict_float_keeps_every_bit() {
    for build in [attention, block] {
        let (before, inputs) = module(5, false, build);
        let options = Options { strict_float: true, ..Options::default() };
        let after = optimize(before.clone(), &options).unwrap().module;
        assert_same(&before, &after, &inputs, Mode::Typed);
    }
}

#[test]
fn selection_groups_both_operands_of_every_contraction() {
    for (build, contractions) in [(attention as fn(&mut Lab) -> Vec<Value>, 2), (block, 2)] {
        let (before, _) = module(9, false, build);
        let options = Options { precision: "mxfp4:mxfp8".parse().unwrap(), ..Options::default() };
        let selected = select(exact(&before), &options).unwrap();
        let grouped = selected.assignments.iter().filter(|a| a.kept.is_none()).count();
        let func = &selected.module.functions[selected.module.entries[0].func];
        let weights = selected
            .module
            .constants
            .values()
            .filter(|c| matches!(c.ty.elem, ElemType::Grouped { format: GroupFormat::MXFP4, .. }));
        assert_eq!(weights.count(), 2);
        assert_eq!(selected.assignments.len(), contractions);
        assert_eq!(grouped, 2);
        assert!(
            func.nodes.values().all(|n| n.op.name() != "mx_quantize" || func.as_const(n.args[0]).is_none())
        );
    }
}

#[test]
fn bf16_stays_close_and_f32_stays_itself() {
    let (before, inputs) = module(9, false, block);
    let optimized = exact(&before);
    let same = select(optimized.clone(), &Options::default()).unwrap();
    assert_same(&optimized, &same.module, &inputs, Mode::Typed);
    let options = Options { precision: Precision::Bf16, ..Options::default() };
    let half = select(optimized, &options).unwrap().module;
    assert_eq!(count(&half, half.entries[0].func, "cast"), 2);
}

#[test]
fn rms_norm_is_one_node() {
    let (before, inputs) = module(2, false, |l| {
        let x = l.param(&[2, 5, 8]);
        let square = l.bin(Mul, x, x);
        let mean = l.reduce(ReduceOp::Mean, &[2], square);
        let mean = l.reshape(mean, &[2, 5, 1]);
        let eps = l.splat(&[2, 5, 1], 1e-5);
        let sum = l.bin(Add, mean, eps);
        let root = l.un(UnaryOp::Sqrt, sum);
        let inverse = l.un(UnaryOp::Recip, root);
        let inverse = l.broadcast(inverse, &[0, 1, 2], &[2, 5, 8]);
        let y = l.bin(Mul, x, inverse);
        let s = l.channel(&[2, 5, 8], 2);
        vec![l.bin(Mul, s, y)]
    });
    let after = exact(&before);
    assert_same(&before, &after, &inputs, Mode::Real);
    let names: Vec<_> = after.functions[after.entries[0].func].nodes.values().map(|n| n.op.name()).collect();
    assert_eq!(names, ["const", "norm"]);
}

#[test]
fn two_of_four_survives_folding_and_quantisation() {
    let (before, _) = module(4, false, |l| {
        let x = l.param(&[3, 32]);
        let values: Vec<f32> =
            (0..32 * 8).map(|i| if (i / 8) % 4 < 2 { 1.0 + i as f32 } else { 0.0 }).collect();
        let ty = TensorType::new(ScalarType::F32, &[32u64, 8][..]);
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let w = l.b.constant(Constant::dense(ty, bytes, "w")).unwrap();
        let y = l.contract("ij,jk->ik", x, w);
        let s = l.channel(&[3, 8], 1);
        let dense = l.konst(&[32, 8]);
        let z = l.contract("ij,jk->ik", x, dense);
        let y = l.bin(Mul, y, s);
        let z = l.un(UnaryOp::Exp, z);
        let y = l.un(UnaryOp::Exp, y);
        vec![y, z]
    });
    let options = Options { strict_float: false, ..Options::default() };
    let rules = crate::rules::all();
    let optimized = crate::exact::optimize_with(before, &rules, false, Extraction::Best).unwrap().module;
    for precision in ["f32", "bf16", "mxfp8", "mxfp6", "mxfp4", "mxint8"] {
        let options = Options { precision: precision.parse().unwrap(), ..options.clone() };
        let module = select(optimized.clone(), &options).unwrap().module;
        let main = module.entries[0].func;
        let asked =
            [WeightSparsity { n: 1, m: 4 }, WeightSparsity::TWO_OF_FOUR, WeightSparsity { n: 4, m: 8 }];
        let found = sparsity_of(&module, main, &asked);
        let nodes = module.functions[main].nodes.keys();
        let sparse: Vec<_> = nodes.map(|n| &found[n]).filter(|s| !s.patterns.is_empty()).collect();
        assert_eq!(sparse, [&Sparse { operand: 1, patterns: asked[1..].to_vec() }], "{precision}");
    }
}

#[test]
fn depth_costs_little() {
    // 24 layers of attention: far more than any model of the test data has rewrites for.
    let (before, _) = module(1, false, |l| {
        let mut x = l.param(&[1, TOKENS, WIDTH]);
        for _ in 0..24 {
            x = attention_on(l, x);
        }
        vec![x]
    });
    let done = optimize(before, &Options::default()).unwrap();
    assert!(done.report.limited.is_empty(), "{}", done.report);
    assert_eq!(done.report.count("merge-contractions").used, 24, "{}", done.report);
    assert_eq!(count(&done.module, done.module.entries[0].func, "contract"), 24 * 2);
    assert_eq!(count(&done.module, done.module.entries[0].func, "attention"), 24);
}

/// A residual stream: each norm's operand is the result of a contraction's epilogue, and is used again later.
#[test]
fn norms_of_a_residual_stream_are_one_node_each() {
    let (before, inputs) = module(6, false, |l| {
        let shape = [1, TOKENS, WIDTH];
        let mut x = l.param(&shape);
        for _ in 0..3 {
            let square = l.bin(Mul, x, x);
            let mean = l.reduce(ReduceOp::Mean, &[2], square);
            let mean = l.reshape(mean, &[1, TOKENS, 1]);
            let eps = l.splat(&[1, TOKENS, 1], 1e-5);
            let sum = l.bin(Add, mean, eps);
            let root = l.un(UnaryOp::Sqrt, sum);
            let inverse = l.un(UnaryOp::Recip, root);
            let inverse = l.broadcast(inverse, &[0, 1, 2], &shape);
            let y = l.bin(Mul, x, inverse);
            let s = l.channel(&shape, 2);
            let y = l.bin(Mul, y, s);
            let y = projection(l, y, WIDTH, false);
            x = l.bin(Add, x, y);
        }
        vec![x]
    });
    let after = exact(&before);
    assert_same(&before, &after, &inputs, Mode::Real);
    let main = after.entries[0].func;
    let of = |name| count(&after, main, name);
    assert_eq!((of("norm"), of("reduce"), of("unary"), of("contract"), of("binary")), (3, 0, 0, 3, 3));
    let norms = after.functions[main].nodes.values().filter(|n| n.op.name() == "norm");
    assert!(norms.into_iter().all(|n| n.args.len() == 2), "scales are operands");
}

#[test]
fn what_vanishes_leaves_its_origins() {
    let mut before = Module::default();
    let origins: Vec<_> = ["matmul", "identity", "square", "mean", "root", "norm"]
        .map(|n| before.origins.push(lacuna_ir::Origin { node: n.into(), op: n.into() }))
        .to_vec();
    let mut l = Lab::new(&mut before, 1);
    let x = l.param(&[4, 8]);
    let w = l.konst(&[8, 8]);
    l.b.set_origins(vec![origins[0]]);
    let y = l.contract("ij,jk->ik", x, w);
    l.b.set_origins(vec![origins[1]]);
    let one = l.splat(&[4, 8], 1.0);
    let y = l.bin(Mul, y, one);
    l.b.set_origins(vec![origins[2]]);
    let square = l.bin(Mul, y, y);
    l.b.set_origins(vec![origins[3]]);
    let mean = l.reduce(ReduceOp::Mean, &[1], square);
    l.b.set_origins(vec![origins[4]]);
    let eps = l.splat(&[4], 1e-3);
    let sum = l.bin(Add, mean, eps);
    let root = l.un(UnaryOp::Sqrt, sum);
    l.b.set_origins(vec![origins[5]]);
    let root = l.broadcast(root, &[0], &[4, 8]);
    let z = l.bin(Div, y, root);
    l.b.results(&[z]);
    let func = l.b.id();
    before.entries.push(lacuna_ir::Entry {
        name: "main".into(),
        func,
        inputs: vec!["x".into()],
        outputs: vec!["z".into()],
    });
    let after = exact(&before);
    let nodes = after.functions[func].nodes.values();
    let found: Vec<_> =
        nodes.filter(|n| n.op.name() != "const").map(|n| (n.op.name(), &n.origins[..])).collect();
    assert_eq!(found, [("contract", &origins[..2]), ("norm", &origins[2..])]);
}

#[test]
fn zeros_propagate_through_a_network() {
    let (before, inputs) = module(8, false, |l| {
        let x = l.param(&[4, 8]);
        let (w, v) = (l.splat(&[8, 8], 0.0), l.konst(&[8, 8]));
        let dead = l.contract("ij,jk->ik", x, w);
        let dead = l.contract("ij,jk->ik", dead, v);
        let live = l.contract("ij,jk->ik", x, v);
        vec![l.bin(Add, live, dead)]
    });
    let after = exact(&before);
    assert_same(&before, &after, &inputs, Mode::Real);
    let main = after.entries[0].func;
    assert_eq!((count(&after, main, "contract"), count(&after, main, "binary")), (1, 0));
    let options = Options { strict_float: true, ..Options::default() };
    let strict = optimize(before, &options).unwrap().module;
    // The input may hold infinities. The two products of it are merged.
    assert_eq!(count(&strict, main, "contract"), 2);
}

/// A contraction behind a ReLU is found, also after selection; others are not.
#[test]
fn contractions_of_sparse_activations_are_found() {
    let (before, _) = module(3, false, |l| {
        let (x, zero) = (l.param(&[4, 32]), l.splat(&[4, 64], 0.0));
        let (up, down) = (l.konst(&[32, 64]), l.konst(&[64, 32]));
        let y = l.contract("ij,jk->ik", x, up);
        let y = l.bin(Max, y, zero);
        vec![l.contract("ij,jk->ik", y, down)]
    });
    for precision in ["f32", "bf16", "mxfp8"] {
        let options = Options { precision: precision.parse().unwrap(), ..Options::default() };
        let optimized = optimize(before.clone(), &options).unwrap().module;
        let after = select(optimized, &options).unwrap().module;
        let main = after.entries[0].func;
        let activity = activity_of(&after, main);
        let products = after.functions[main].nodes.iter().filter(|(_, n)| n.op.is_product());
        let found: Vec<_> = products.map(|(id, _)| activity[id].map(|a| a.operand)).collect();
        assert_eq!(found, [None, Some(0)], "{precision}");
    }
}

/// Channels that pruning emptied are computed nowhere: not by their producer, in no epilogue, not by the consumer.
#[test]
fn dead_channels_leave_the_network() {
    let (before, inputs) = module(3, false, |l| {
        let dead: Vec<u64> = (0..32).filter(|i| i % 4 != 1).collect();
        let (x, w) = (l.param(&[1, 8, 9]), l.with_dead(&[32, 8, 3], 0, &dead));
        let y = l.emit(conv1d(1, 1, 1), &[x, w]);
        let shape = l.shape(y);
        let b = l.with_dead(&[32], 0, &dead);
        let b = l.broadcast(b, &[1], &shape);
        let y = l.bin(Add, y, b);
        let zero = l.splat(&shape, 0.0);
        let y = l.bin(Max, y, zero);
        let v = l.konst(&[8, 32, 3]);
        vec![l.emit(conv1d(1, 1, 1), &[y, v])]
    });
    let after = exact(&before);
    assert_same(&before, &after, &inputs, Mode::Real);
    let func = &after.functions[after.entries[0].func];
    let weights =
        func.nodes.values().filter(|n| n.op.name() == "conv").map(|n| func.ty(n.args[1]).shape.0.clone());
    assert_eq!(weights.collect::<Vec<_>>(), [vec![8, 8, 3], vec![8, 8, 3]]);
}
