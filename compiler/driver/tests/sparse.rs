//! Weights that follow each N:M pattern of Trainium2, stored compressed and multiplied with `mmnm`: the bits of the same
//! weights stored densely.

use cranelift_entity::SecondaryMap;
use lacuna_codegen::{Form, ProductZeros};
use lacuna_ir::op::{ContractMap, ConvAttrs};
use lacuna_ir::{Constant, Entry, FunctionBuilder, Module, Node, Op, TensorType, Value};
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode};
use lacuna_isa::inst::InstKind;
use lacuna_isa::object::Object;
use lacuna_isa::target::Target;
use lacuna_isa::target_file::target;
use lacuna_isa::view::Pattern;
use lacuna_optimize::{WeightSparsity, sparsity_of};
use lacuna_runtime::{Machine, Outcome, RunOptions};

/// Numbers that differ, with signs, not near one another.
fn noise(i: u64) -> f32 {
    let hash = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    (hash as f32 - 8_388_608.0) / 4_194_304.0
}

/// Weights `[k, n]` of which each `m` rows of a column hold at most `n`, at rows that differ from column to column.
fn sparse_matrix(k: u64, n: u64, pattern: Pattern) -> Vec<f32> {
    let (kept, m) = (u64::from(pattern.n), u64::from(pattern.m));
    let keeps = |row: u64, col: u64| (row % m + col * 5 + row / m * 3) % m < kept;
    (0..k * n).map(|i| if keeps(i / n, i % n) { noise(i) } else { 0.0 }).collect()
}

/// A module of one function of one input, whose result `build` makes.
fn module(input: &[u64], build: impl Fn(&mut FunctionBuilder<'_>, Value) -> Value) -> Module {
    let mut module = Module { name: "sparse".into(), ..Module::default() };
    let mut b = FunctionBuilder::new(&mut module, "main");
    let x = b.param(TensorType::new(ScalarType::F32, input.to_vec()), "");
    let y = build(&mut b, x);
    b.results(&[y]);
    let func = b.id();
    module.entries.push(Entry {
        name: "main".into(),
        func,
        inputs: vec!["x".into()],
        outputs: vec!["y".into()],
    });
    lacuna_ir::verify::verify(&module).unwrap_or_else(|e| panic!("{e:?}\n{module}"));
    module
}

fn product(k: u64, n: u64, weights: &[f32]) -> Module {
    module(&[5, k], |b, x| {
        let w = b.const_f32(vec![k, n], weights).unwrap();
        let map = ContractMap { a: vec![0, 1], b: vec![1, 2], out: vec![0, 2] };
        b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[x, w]).unwrap()
    })
}

/// A 1x1 or 3x3 convolution of `k` channels to `n`.
fn conv(k: u64, n: u64, taps: u64, weights: &[f32]) -> Module {
    module(&[1, k, 6, 6], |b, x| {
        // `[tap, k, n]` to `[n, k, tap, tap]`, so that patterns run along the channels of every tap.
        let at = |o: u64, c: u64, t: u64| weights[((t % (taps * taps)) * k * n + c * n + o) as usize];
        let n_taps = taps * taps;
        let values: Vec<f32> = (0..n)
            .flat_map(|o| (0..k).flat_map(move |c| (0..n_taps).map(move |t| (o, c, t))))
            .map(|(o, c, t)| at(o, c, t))
            .collect();
        let w = b.const_f32(vec![n, k, taps, taps], &values).unwrap();
        let pad = (taps / 2) as i64;
        let attrs = ConvAttrs {
            x: vec![0, 1, 2, 3],
            w: vec![0, 1, 2, 3],
            out: vec![0, 1, 2, 3],
            strides: vec![1, 1],
            dilations: vec![1, 1],
            x_dilations: vec![1, 1],
            low: vec![pad, pad],
            high: vec![pad, pad],
            groups: 1,
        };
        b.emit(Op::Conv { attrs, elem: ScalarType::F32 }, &[x, w]).unwrap()
    })
}

type Zeros = SecondaryMap<Node, ProductZeros>;

fn compile(module: &Module, target: &Target, zeros: &Zeros) -> Object {
    let generated = lacuna_codegen::generate(module, target, zeros)
        .unwrap_or_else(|failures| panic!("{failures:?}\n{module}"));
    let faults = generated.object.validate();
    assert!(faults.is_empty(), "{faults:?}\n{}", generated.tiled);
    let findings = lacuna_codegen::check::check(&generated.object, target);
    assert!(findings.is_empty(), "{findings:?}\n{}", generated.tiled);
    generated.object
}

/// The output, which one thread and two must agree on.
fn run(object: &Object, input: &[u8]) -> Vec<u8> {
    let machine = Machine::load(object).expect("a valid object loads");
    let [one, two] = [1, 2].map(|threads| {
        let options = RunOptions { threads, ..RunOptions::default() };
        match machine.run(&[input], &options).expect("an input of the right size") {
            Outcome::Trap(trap) => panic!("{trap:?}"),
            Outcome::Done { outputs, .. } => outputs[0].to_vec(),
        }
    });
    assert!(one == two, "threads change the result");
    one
}

fn constant_element(module: &Module) -> ScalarType {
    module.constants.values().next().expect("the weights").ty.elem.format().element()
}

/// Compiles with and without `pattern` and compares objects and results.
fn check(name: &str, module: &Module, pattern: Pattern) {
    let target = target("trainium2").expect("a target");
    let entry = module.entries[0].func;
    let func = &module.functions[entry];
    let asked = [WeightSparsity { n: pattern.n, m: pattern.m }];
    let (mut zeros, mut dense_zeros): (Zeros, Zeros) = (SecondaryMap::new(), SecondaryMap::new());
    let mut n_sparse = 0;
    for (node, sparse) in sparsity_of(module, entry, &asked).iter() {
        if !sparse.patterns.is_empty() {
            zeros[node].only = Some(Form::Pattern(pattern));
            dense_zeros[node].only = Some(Form::Dense);
            n_sparse += 1;
        }
    }
    assert_eq!(n_sparse, 1, "{name}: products with a constant operand of {pattern}");
    let (dense, sparse) = (compile(module, &target, &dense_zeros), compile(module, &target, &zeros));
    let uses = |object: &Object| {
        object.kernels.iter().flat_map(|k| &k.code).any(|i| matches!(i.kind, InstKind::Mmnm { .. }))
    };
    assert!(!uses(&dense) && uses(&sparse), "{name}: only the sparse object multiplies compressed weights");
    let element = constant_element(module);
    if pattern.group_bits(element) < u32::from(pattern.m) * element.bits() {
        assert!(
            sparse.weights.bytes().len() < dense.weights.bytes().len(),
            "{name}: compression saves bytes"
        );
    }
    let elements = func.ty(func.params[0]).shape.elements();
    let input: Vec<u8> = (0..elements).flat_map(|i| noise(i + 999_983).to_le_bytes()).collect();
    assert!(run(&dense, &input) == run(&sparse, &input), "{name}: other bits");
}

const PATTERNS: [Pattern; 7] = [
    Pattern { n: 1, m: 2 },
    Pattern { n: 1, m: 4 },
    Pattern { n: 2, m: 4 },
    Pattern { n: 2, m: 8 },
    Pattern { n: 4, m: 8 },
    Pattern { n: 4, m: 12 },
    Pattern { n: 4, m: 16 },
];

#[test]
fn the_target_has_these_patterns() {
    let mut native: Vec<Pattern> =
        target("trainium2").unwrap().patterns.iter().map(|(pattern, _)| *pattern).collect();
    native.sort();
    let mut want = PATTERNS.to_vec();
    want.sort();
    assert_eq!(native, want);
}

#[test]
fn products() {
    // 100 and 30 are no multiples of most pattern sizes: weights are padded.
    for pattern in PATTERNS {
        for (k, n) in [(96, 40), (100, 32), (30, 7)] {
            check(&format!("{pattern} of {k} x {n}"), &product(k, n, &sparse_matrix(k, n, pattern)), pattern);
        }
    }
}

#[test]
fn convolutions() {
    for pattern in PATTERNS {
        for taps in [1, 3] {
            let (k, n) = (40, 16);
            let weights: Vec<f32> = (0..taps * taps).flat_map(|_| sparse_matrix(k, n, pattern)).collect();
            check(&format!("{pattern} of {taps} x {taps} taps"), &conv(k, n, taps, &weights), pattern);
        }
    }
}

/// Patterns under groups: the scales stay those of the dense groups.
#[test]
fn grouped_weights() {
    for pattern in PATTERNS.into_iter().filter(|p| 16 % p.m == 0) {
        for format in [GroupFormat::MXFP8, GroupFormat::MX6, GroupFormat::MX9, GroupFormat::MXFP4_G16] {
            let (k, n) = (96u64, 40u64);
            let dense = sparse_matrix(k, n, pattern);
            let ty = TensorType::new(ScalarType::F32, vec![k, n]);
            let bytes: Vec<u8> = dense.iter().flat_map(|v| v.to_le_bytes()).collect();
            let source = Constant::dense(ty, bytes, "w");
            let quantised = {
                let quantise = module(&[1], |b, _| {
                    let w = b.constant(source.clone()).unwrap();
                    b.emit(Op::MxQuantize { format, axis: 0, mode: ScaleMode::Tosa }, &[w]).unwrap()
                });
                let one =
                    lacuna_ir::eval::Tensor::from_f64(ScalarType::F32, vec![1], &[0.0]).expect("one element");
                let func = quantise.entries[0].func;
                lacuna_ir::eval::eval(&quantise, func, &[one], lacuna_ir::eval::Mode::Typed)
                    .unwrap()
                    .remove(0)
            };
            let weights = Constant::dense(quantised.ty.clone(), quantised.to_bytes(), "w");
            let product = module(&[5, k], |b, x| {
                let x = b.emit(Op::MxQuantize { format, axis: 1, mode: ScaleMode::Floor }, &[x]).unwrap();
                let w = b.constant(weights.clone()).unwrap();
                let map = ContractMap { a: vec![0, 1], b: vec![1, 2], out: vec![0, 2] };
                b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[x, w]).unwrap()
            });
            check(&format!("{pattern} of {format}"), &product, pattern);
        }
    }
}

/// The compiler takes the pattern that multiplies fastest, then the one that stores fewest bits.
#[test]
fn the_best_pattern_is_taken() {
    let check = |name: &str, format: ScalarType, followed: &[Pattern], expect: Option<Pattern>| {
        let format = lacuna_isa::format::Format::Scalar(format);
        assert_eq!(target(name).unwrap().best_pattern(format, format, followed), expect, "{name} {format}");
    };
    let [p1_2, p1_4, p2_4, p2_8, p4_8, p4_12, p4_16] = PATTERNS;
    // Weights of 1:4 follow all but 4:12 for sure.
    check("trainium2", ScalarType::Bf16, &[p1_2, p2_4, p4_8, p2_8, p4_16, p1_4], Some(p1_4));
    check("trainium2", ScalarType::Bf16, &[p4_8, p4_16], Some(p4_16));
    check("trainium2", ScalarType::Bf16, &[p4_8, p4_12], Some(p4_12));
    check("trainium2", ScalarType::E4M3, &[p1_2, p2_4, p4_8], Some(p1_2));
    check("trainium2", ScalarType::F32, &[p4_8], Some(p4_8));
    check("mtia-2i", ScalarType::Bf16, &[p1_2, p4_8], None);
    check("mtia-2i", ScalarType::Bf16, &[p2_4], Some(p2_4));
    check("tpu7x", ScalarType::Bf16, &PATTERNS, None);
}
