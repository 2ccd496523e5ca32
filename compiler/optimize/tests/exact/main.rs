//! The exact phase on deep and on real modules.

#[cfg(not(debug_assertions))]
mod clock;
mod layers;
mod onnx_file;
#[cfg(not(debug_assertions))]
mod rounding;

use std::thread;

use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::{Module, verify::verify};
use lacuna_isa::format::ScalarType;
use lacuna_optimize::{Extraction, Options, Report, optimize, rule_names, select};

use layers::Kind;

const KINDS: [Kind; 3] = [Kind::Encoder, Kind::Decoder, Kind::Residual];

fn exact(module: &Module) -> (Module, Report) {
    let done = optimize(module.clone(), &Options::default()).unwrap();
    verify(&done.module).unwrap();
    (done.module, done.report)
}

/// What packing does once the operands of products have a precision.
fn packing(module: &Module, precision: &str) -> Report {
    let options = Options { precision: precision.parse().unwrap(), ..Options::default() };
    let selected = select(module.clone(), &options).unwrap();
    verify(&selected.module).unwrap();
    selected.packing
}

fn inputs(module: &Module) -> Vec<Tensor> {
    let func = &module.functions[module.entries[0].func];
    let mut state = 7u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1u32 << 24) - 0.5
    };
    func.params
        .iter()
        .map(|&p| {
            let shape = &func.ty(p).shape;
            let values: Vec<f64> = (0..shape.elements()).map(|_| random()).collect();
            Tensor::from_f64(ScalarType::F32, shape.clone(), &values).unwrap()
        })
        .collect()
}

fn assert_same(before: &Module, after: &Module, what: &str) {
    let inputs = inputs(before);
    let run = |m: &Module| eval(m, m.entries[0].func, &inputs, Mode::Real).unwrap();
    for (x, y) in run(before).iter().zip(&run(after)) {
        assert_eq!(x.ty, y.ty);
        for (x, y) in x.to_f64().iter().zip(y.to_f64().iter()) {
            assert!((x - y).abs() <= 1e-5 * x.abs().max(1.0), "{what}: {x} is not {y}");
        }
    }
}

#[test]
fn repeated_layers_compute_what_they_did() {
    for kind in KINDS {
        for depth in [1, 2, 3, 5] {
            let before = layers::module(kind, depth);
            let (after, _) = exact(&before);
            assert_same(&before, &after, &format!("{kind:?} {depth}"));
        }
    }
}

#[test]
fn one_layer_is_solved_for_all() {
    for kind in KINDS {
        let terms = |depth: usize| exact(&layers::module(kind, depth)).1.n_terms;
        let (few, many) = (terms(4), terms(40));
        // The calls of the other instances are all that comes on top.
        assert!(many <= few + 40 * 3, "{kind:?}: {few} terms, then {many}");
    }
}

#[test]
fn each_layer_gets_the_result_of_one() {
    for kind in KINDS {
        let count = |depth: usize| {
            let (module, report) = exact(&layers::module(kind, depth));
            let func = &module.functions[module.entries[0].func];
            let computed = func.nodes.values().filter(|n| !n.args.is_empty() && n.op.name() != "broadcast");
            (computed.count(), report.cost.1)
        };
        // The first and the last layer have other neighbours than those between them.
        let (one, four, five, many) = (count(1), count(4), count(5), count(10));
        assert_eq!(many.0 - five.0, 5 * (five.0 - four.0), "{kind:?}: nodes of a layer");
        assert_eq!(many.1 - five.1, 5 * (five.1 - four.1), "{kind:?}: cost of a layer");
        assert!(five.0 - four.0 <= one.0, "{kind:?}: a layer has no more nodes than one alone");
    }
}

#[test]
fn every_application_of_a_repeated_layer_is_reported() {
    let used = |depth: usize| exact(&layers::module(Kind::Encoder, depth)).1.count("merge-contractions").used;
    assert_eq!([used(1), used(2), used(12)], [1, 2, 12]);
}

#[test]
fn runs_and_threads_do_not_matter() {
    let (encoder, residual) = (layers::module(Kind::Encoder, 3), layers::module(Kind::Residual, 2));
    let digest = |m: &Module| {
        let (module, report) = exact(m);
        let hashes: Vec<[u8; 32]> = module.constants.values().map(|c| *c.hash()).collect();
        format!("{module} {hashes:?} {report}")
    };
    let expect = [digest(&encoder), digest(&residual)];
    for _ in 0..5 {
        assert_eq!([digest(&encoder), digest(&residual)], expect);
        let in_threads = thread::scope(|s| {
            let other = s.spawn(|| digest(&residual));
            let own = digest(&encoder);
            [own, other.join().unwrap()]
        });
        assert_eq!(in_threads, expect);
    }
}

#[test]
fn greedy_extraction_is_never_better() {
    for kind in KINDS {
        let module = layers::module(kind, 2);
        let cost = |extraction: Extraction| {
            let options = Options { extraction, ..Options::default() };
            let done = optimize(module.clone(), &options).unwrap();
            assert_same(&module, &done.module, &format!("{kind:?} {extraction:?}"));
            done.report.cost.1
        };
        assert!(cost(Extraction::Best) <= cost(Extraction::Greedy), "{kind:?}");
    }
}

/// Rules that the trained models of the repository need not need, under what exporters write that they are for. Each
/// has graphs of its own among the rules' tests.
const SPELLINGS: &[(&str, &[&str])] = &[
    (
        "attributes and factors of 0 and 1 that exporters write out: alpha, temperature, dropout, masks",
        &["add-nothing", "add-zero", "sub-zero", "mul-one", "div-one", "cast-to-itself"],
    ),
    ("a bias and then the shift of a batch normalisation", &["add-constants"]),
    (
        "batch normalisation before a convolution or a product: DenseNet, pre-activation ResNet",
        &["input-scale-into-conv"],
    ),
    (
        "products with the weight on the left: token mixing, 1x1 convolutions as matrix products",
        &["scale-into-contract-left", "input-scale-into-contract-left"],
    ),
    (
        "weights quantised ahead of time: DequantizeLinear before MatMul, Gemm and Conv",
        &["scale-out-of-contract-right", "scale-out-of-contract-left", "scale-out-of-conv"],
    ),
    (
        "layers that pruning or zero initialisation emptied",
        &[
            "mul-zero",
            "contract-of-zeros",
            "conv-of-zeros",
            "contract-drops-dead-terms",
            "conv-drops-dead-channels",
            "contract-of-live-results",
            "conv-of-live-channels",
        ],
    ),
    (
        "masks and positions expanded before they are computed with",
        &[
            "unary-before-broadcast",
            "cast-before-broadcast",
            "binary-before-broadcast",
            "broadcast-broadcast",
            "broadcast-of-unit-dims",
        ],
    ),
    (
        "movement to where the value is already: Expand, Reshape, Slice, Transpose, Concat of one, Pad by 0",
        &[
            "reshape-to-itself",
            "broadcast-to-itself",
            "slice-of-all",
            "permute-of-nothing",
            "concat-of-one",
            "pad-by-nothing",
            "permute-of-unit-dims",
        ],
    ),
    (
        "channels-last models in a channels-first format: transposes around every operator",
        &[
            "permute-through-cast",
            "permute-through-compare",
            "permute-through-select",
            "permute-through-pad",
            "permute-through-softmax",
            "permute-through-norm",
            "permute-through-reduce",
            "reduce-before-permute",
            "conv-absorbs-permute",
            "permute-into-conv",
            "permute-through-slice",
            "permute-through-concat",
            "permute-through-unary",
            "permute-through-binary",
        ],
    ),
    ("tokens flattened before a function of each and unflattened after it", &["reshape-through-unary"]),
    (
        "one Slice for each dimension; parts taken of what was just put together",
        &["slice-slice", "slice-of-concat"],
    ),
    (
        "attention scores with the keys on the left",
        &["contract-absorbs-left-broadcast", "contract-splits-left-label"],
    ),
    (
        "norms by their parts, before the format had operators for them",
        &["rms-norm-by-quotient", "layer-norm", "layer-norm-by-sum", "norm-scale-first", "norm-bias"],
    ),
    (
        "values rearranged or repeated before a product that cannot take over the movement: channels of groups, tokens for every beam",
        &["quantize-before-permute", "quantize-before-broadcast"],
    ),
    ("logits of the last position alone, beside others of all positions", &["quantize-before-slice"]),
    (
        "models in 16 bits whose exporter writes products in f32 between casts",
        &["quantize-of-widened", "cast-of-widened"],
    ),
    ("rotary halves put together before attention in 16 bits", &["cast-before-concat"]),
    (
        "softmax by its parts, and guarded against rows that a mask might leave empty",
        &["softmax-by-quotient", "softmax-by-product", "softmax-shift", "softmax-without-nan"],
    ),
];

#[test]
fn every_rule_fires_on_a_model_or_stands_for_a_spelling() {
    let mut modules: Vec<Module> =
        onnx_file::trained().iter().map(|p| onnx_file::import(&p.join("model.onnx")).unwrap()).collect();
    modules.extend(KINDS.map(|kind| layers::module(kind, 1)));
    let exact: Vec<(Module, Report)> = modules.iter().map(exact).collect();
    let packed = exact.iter().flat_map(|(m, _)| ["bf16", "mxfp8"].map(|p| packing(m, p)));
    let mut reports: Vec<Report> = packed.collect();
    reports.extend(exact.iter().map(|e| e.1.clone()));
    assert!(reports.iter().all(|r| r.limited.is_empty()));
    let fires = |rule| reports.iter().any(|r| r.count(rule).fired > 0);
    let idle: Vec<&str> = rule_names().into_iter().map(|r| r.0).filter(|r| !fires(r)).collect();
    let listed: Vec<&str> = SPELLINGS.iter().flat_map(|s| s.1.iter().copied()).collect();
    let unlisted: Vec<&str> = idle.into_iter().filter(|r| !listed.contains(r)).collect();
    assert_eq!(unlisted, Vec::<&str>::new(), "delete them, or say what they are for");
}

/// Queries, keys and values are views of one product: their conversions become one, of the product, and no bit changes.
#[test]
fn one_conversion_serves_the_parts_of_a_product() {
    let module = exact(&layers::module(Kind::Encoder, 1)).0;
    let options = Options { precision: "bf16".parse().unwrap(), ..Options::default() };
    let selected = select(module.clone(), &options).unwrap();
    verify(&selected.module).unwrap();
    let func = &selected.module.functions[selected.module.entries[0].func];
    let attention = func.nodes.values().find(|n| n.op.name() == "attention").unwrap();
    let source = |v| {
        let mut v = v;
        while let Some(node) = func.def(v).map(|n| &func.nodes[n]).filter(|n| n.op.is_movement()) {
            v = node.args[0];
        }
        v
    };
    let sources: Vec<_> = attention.args[..3].iter().map(|&a| source(a)).collect();
    assert!(sources.iter().all(|&s| s == sources[0]));
    assert_eq!(func.nodes[func.def(sources[0]).unwrap()].op.name(), "cast");
    let casts = func.nodes.values().filter(|n| n.op.name() == "cast").count();
    // Besides: of the input, of what attention gives, and of the two products behind it.
    assert_eq!(casts, 5);
    assert_eq!(selected.packing.count("cast-before-slice").used, 3, "{}", selected.packing);
    // The products are in the order of their assignments.
    let products: Vec<_> = func.nodes.values().filter(|n| n.op.is_product()).map(|n| &n.origins).collect();
    assert_eq!(products, selected.assignments.iter().map(|a| &a.origins).collect::<Vec<_>>());
}

/// Least milliseconds of several runs: the machine may be busy with other things.
#[cfg(not(debug_assertions))]
fn least_ms(module: &Module, runs: usize) -> f64 {
    let run = |_| {
        let own = module.clone();
        let started = clock::Clock::start();
        optimize(own, &Options::default()).unwrap();
        started.ms()
    };
    (0..runs).map(run).fold(f64::INFINITY, f64::min)
}

#[test]
#[cfg(not(debug_assertions))]
fn depth_costs_little_time() {
    for kind in KINDS {
        let ms = [1, 12, 48].map(|depth| least_ms(&layers::module(kind, depth), 7));
        println!("{kind:?}: 1, 12 and 48 layers take {ms:.2?} ms");
        assert!(kind != Kind::Encoder || ms[1] <= 50.0, "{kind:?}: 12 layers take {:.1} ms", ms[1]);
        // Below a tick of the clock nothing can be told.
        assert!(
            ms[2] <= 2.0 * ms[0].max(10.0),
            "{kind:?}: 48 layers take {:.1} ms, one {:.1} ms",
            ms[2],
            ms[0]
        );
    }
}
