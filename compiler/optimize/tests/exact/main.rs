//! The exact phase on deep and on real modules.

#[cfg(not(debug_assertions))]
mod clock;
mod layers;
mod onnx_file;
#[cfg(not(debug_assertions))]
mod rounding;

use std::path::{Path, PathBuf};
use std::thread;

use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::{ElemType, Module, verify::verify};
use lacuna_isa::format::ScalarType;
use lacuna_optimize::{Extraction, Options, Report, RuleClass, optimize, rule_table, select};

use layers::Kind;

const KINDS: [Kind; 3] = [Kind::Encoder, Kind::Decoder, Kind::Residual];

fn exact(module: &Module) -> (Module, Report) {
    exact_with(module, false)
}

fn exact_with(module: &Module, relaxed: bool) -> (Module, Report) {
    let done = optimize(module.clone(), &Options { relaxed, ..Options::default() }).unwrap();
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
            let ty = func.ty(p);
            let elem = ty.elem.scalar().unwrap();
            // Integers index tables, which have 16 rows at least.
            let mut value = || match elem {
                ScalarType::Bool => f64::from(random() > 0.0),
                elem if elem.is_int() => ((random() + 0.5) * 16.0).floor(),
                _ => random(),
            };
            let values: Vec<f64> = (0..ty.shape.elements()).map(|_| value()).collect();
            Tensor::from_f64(elem, ty.shape.clone(), &values).unwrap()
        })
        .collect()
}

fn assert_same(before: &Module, after: &Module, what: &str) {
    let inputs = inputs(before);
    // A constant that takes over a scale is rounded to its type again.
    let halves = before.constants.values().any(|c| c.ty.elem == ElemType::Scalar(ScalarType::F16));
    let tolerance = if halves { 1e-3 } else { 1e-5 };
    let run = |m: &Module| eval(m, m.entries[0].func, &inputs, Mode::Real).unwrap();
    for (x, y) in run(before).iter().zip(&run(after)) {
        assert_eq!(x.ty, y.ty);
        for (x, y) in x.to_f64().iter().zip(y.to_f64().iter()) {
            assert!((x - y).abs() <= tolerance * x.abs().max(1.0), "{what}: {x} is not {y}");
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

/// What each model of `testdata/spellings` is there for: rules that fire on it, and on no trained model.
const SPELLINGS: &[(&str, &[&str])] = &[
    ("adaptive-norm", &["norm-scale-first", "norm-bias"]),
    ("beams", &["contract-absorbs-left-broadcast", "contract-splits-left-label"]),
    ("channels-last", &["conv-absorbs-permute", "permute-into-conv"]),
    ("codebooks", &["add-nothing"]),
    ("convnext", &["permute-into-conv", "reduce-before-permute", "layer-norm"]),
    ("dense-block", &["scale-through-bias", "add-biases", "add-constants"]),
    ("empty-branch", &["conv-of-zeros", "add-zero", "binary-before-broadcast"]),
    ("experts", &["reshape-of-gather"]),
    ("frames", &["quantize-before-permute", "quantize-before-slice"]),
    ("global-context", &["quantize-before-broadcast"]),
    ("graph-layer", &["scale-into-contract-left", "input-scale-into-contract-left"]),
    ("guarded-attention", &["softmax-without-nan"]),
    ("keys-first", &["contract-absorbs-left-broadcast"]),
    ("layer-norm", &["divide-sum", "rms-norm-by-quotient", "layer-norm", "norm-bias"]),
    ("lora", &["mul-one", "contract-of-zeros", "add-zero", "scale-into-contract-right"]),
    ("mixer", &["permute-through-norm", "contract-absorbs-left-permute"]),
    ("neutral", &["div-by-power-of-two", "sub-zero", "add-any-zero", "mul-zero", "div-one", "mul-one"]),
    ("normalised-image", &["input-scale-into-conv", "div-constant"]),
    ("others", &["cast-to-itself"]),
    ("padding-mask", &["unary-before-broadcast", "broadcast-broadcast"]),
    ("pillars", &["slice-of-all"]),
    ("pruned", &["conv-drops-dead-channels", "conv-of-live-channels"]),
    ("pruned-mlp", &["contract-drops-dead-terms", "contract-of-live-results"]),
    (
        "qdq",
        &[
            "scale-out-of-conv",
            "scale-out-of-contract-right",
            "scale-out-of-contract-left",
            "permute-through-cast",
        ],
    ),
    ("qdq-channels", &["scale-out-of-conv", "scale-out-of-contract-right", "broadcast-to-itself"]),
    ("rms-norm", &["rms-norm-by-quotient"]),
    ("router", &["cast-of-widened", "quantize-of-widened"]),
    (
        "segmentation",
        &[
            "permute-through-softmax",
            "permute-through-compare",
            "permute-through-reduce",
            "permute-through-pad",
        ],
    ),
    ("sequence-first", &["contract-splits-permuted-rows"]),
    (
        "stable-softmax",
        &["softmax-by-quotient", "softmax-by-product", "softmax-shift", "reshape-through-unary"],
    ),
    ("streaming", &["slice-slice", "slice-of-concat", "cast-before-concat"]),
    ("two-heads", &["quantize-before-slice"]),
];

fn load(folder: &Path) -> Module {
    onnx_file::import(&folder.join("model.onnx")).unwrap()
}

fn names(folders: &[PathBuf]) -> Vec<String> {
    folders.iter().map(|f| f.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

/// Which rules fire on a module, in the exact phase, with relaxed rules or without, or in packing.
fn firing(module: &Module) -> Vec<&'static str> {
    let (optimised, report) = exact(module);
    let mut reports = vec![report, exact_with(module, true).1];
    reports.extend(["bf16", "mxfp8"].map(|p| packing(&optimised, p)));
    assert!(reports.iter().all(|r| r.limited.is_empty()));
    let fires = |rule: &&'static str| reports.iter().any(|r| r.count(rule).fired > 0);
    rule_table().into_iter().map(|r| r.name).filter(fires).collect()
}

#[test]
fn every_rule_fires_on_an_exported_model() {
    let trained: Vec<&str> = onnx_file::trained().iter().flat_map(|f| firing(&load(f))).collect();
    let folders = onnx_file::models("spellings");
    assert_eq!(names(&folders), SPELLINGS.iter().map(|s| s.0).collect::<Vec<_>>());
    let (mut fired, mut wrong) = (trained.clone(), Vec::new());
    for (folder, (name, rules)) in folders.iter().zip(SPELLINGS) {
        let found = firing(&load(folder));
        let absent =
            rules.iter().filter(|r| !found.contains(r)).map(|r| format!("{r} does not fire on {name}"));
        let known = rules.iter().filter(|r| trained.contains(r));
        wrong.extend(absent.chain(known.map(|r| format!("{r} fires on a trained model too"))));
        fired.extend(found);
    }
    assert_eq!(wrong, Vec::<String>::new());
    let idle: Vec<&str> = rule_table().into_iter().map(|r| r.name).filter(|r| !fired.contains(r)).collect();
    assert_eq!(idle, Vec::<&str>::new(), "delete them, or find a model that an exporter writes for them");
    // What is said of the models covers whatever fires.
    let listed = |rule: &&str| trained.contains(rule) || SPELLINGS.iter().any(|s| s.1.contains(rule));
    assert_eq!(fired.into_iter().filter(|r| !listed(r)).collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn exported_models_compute_what_they_did() {
    for folder in onnx_file::models("spellings") {
        let before = load(&folder);
        for relaxed in [false, true] {
            let (after, _) = exact_with(&before, relaxed);
            assert_same(&before, &after, &folder.display().to_string());
        }
    }
}

#[test]
fn relaxed_rules_run_only_where_they_are_allowed() {
    let modules = onnx_file::models("spellings").into_iter().map(|f| load(&f));
    let reports: Vec<[Report; 2]> =
        modules.map(|m| [false, true].map(|relaxed| exact_with(&m, relaxed).1)).collect();
    for rule in rule_table().into_iter().filter(|r| r.class == RuleClass::Relaxed) {
        let fired = |i: usize| reports.iter().map(|r| r[i].count(rule.name).fired).sum::<usize>();
        assert_eq!(fired(0), 0, "{}", rule.name);
        assert!(fired(1) > 0, "{}", rule.name);
    }
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
