//! Small modules, one per kernel or operator form that a random graph does not reach: what the streams compute must be
//! what the IR evaluator computes.

use cranelift_entity::SecondaryMap;
use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::op::{BinaryOp, CompareOp, ContractMap, ConvAttrs, Real, ReduceOp, UnaryOp};
use lacuna_ir::{Entry, FunctionBuilder, Module, Op, TensorType, Value};
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode};
use lacuna_isa::target_file::target;
use lacuna_runtime::{Machine, Outcome, RunOptions};

/// An operand: its type, shape and values.
type Input<'a> = (ScalarType, &'a [u64], &'a [f64]);

/// Compiles and runs a function of the inputs and compares its results with the evaluator's. Returns the number of its
/// launches.
fn check(
    name: &str,
    inputs: &[Input<'_>],
    build: impl Fn(&mut FunctionBuilder<'_>, &[Value]) -> Value,
) -> usize {
    computed(name, inputs, build).0
}

/// Like [`check`]; also returns what the machine computed.
fn computed(
    name: &str,
    inputs: &[Input<'_>],
    build: impl Fn(&mut FunctionBuilder<'_>, &[Value]) -> Value,
) -> (usize, Vec<f64>) {
    let mut module = Module { name: name.into(), ..Module::default() };
    let mut b = FunctionBuilder::new(&mut module, "main");
    let params: Vec<Value> =
        inputs.iter().map(|&(elem, shape, _)| b.param(TensorType::new(elem, shape.to_vec()), "")).collect();
    let result = build(&mut b, &params);
    let ty = b.ty(result).clone();
    b.results(&[result]);
    let func = b.id();
    let names = (0..inputs.len()).map(|i| format!("in{i}")).collect();
    module.entries.push(Entry { name: "main".into(), func, inputs: names, outputs: vec!["out".into()] });
    if let Err(violations) = lacuna_ir::verify::verify(&module) {
        panic!("{name}: {violations:?}\n{module}");
    }
    let tensors: Vec<Tensor> = inputs
        .iter()
        .map(|&(elem, shape, values)| Tensor::from_f64(elem, shape.to_vec(), values).expect("the right size"))
        .collect();
    let want = eval(&module, func, &tensors, Mode::Typed).expect("a verified module evaluates");
    let target = target("mtia-300").expect("the default target");
    let generated = match lacuna_codegen::generate(&module, &target, &SecondaryMap::new()) {
        Ok(generated) => generated,
        Err(failures) => panic!("{name}: {failures:?}\n{module}"),
    };
    let faults = generated.object.validate();
    assert!(faults.is_empty(), "{name}: {faults:?}\n{}", generated.tiled);
    let machine = Machine::load(&generated.object).expect("a valid object loads");
    let bytes: Vec<Vec<u8>> = tensors.iter().map(Tensor::to_bytes).collect();
    let bytes: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    let got = match machine.run(&bytes, &RunOptions::default()).expect("inputs of the right size") {
        Outcome::Trap(trap) => panic!("{name}: {trap:?}\n{}", generated.tiled),
        Outcome::Done { outputs, .. } => {
            let got = Tensor::from_bytes(ty, &outputs[0]).expect("a result of the right size");
            let (want, got) = (want[0].to_f64(), got.to_f64().to_vec());
            let near = |w: f64, g: f64| {
                w == g || (w.is_nan() && g.is_nan()) || (w - g).abs() <= 1e-6 * w.abs().max(1.0)
            };
            let equal = want.len() == got.len() && want.iter().zip(&got).all(|(&w, &g)| near(w, g));
            assert!(equal, "{name}: {got:?}, not {want:?}\n{}", generated.tiled);
            got
        }
    };
    let faults = lacuna_codegen::check::check(&generated.object, &target);
    assert!(faults.is_empty(), "{name}: {faults:?}\n{}", generated.tiled);
    (generated.object.entries[0].launches.len(), got)
}

/// Values of an integer type that are near its bounds or zero.
fn corners(elem: ScalarType) -> [f64; 8] {
    let signed = matches!(elem, ScalarType::I8 | ScalarType::I16 | ScalarType::I32 | ScalarType::I64);
    let bits = elem.bits().min(50) as i32;
    if signed {
        let top = 2f64.powi(bits - 1);
        [-top, 1.0 - top, -7.0, -1.0, 0.0, 3.0, 5.0, top - 1.0]
    } else {
        // Above 2^63 every multiple of 2^11 is a double.
        let top = if elem == ScalarType::U64 { 2f64.powi(64) - 2048.0 } else { 2f64.powi(bits) - 1.0 };
        [0.0, 1.0, 2.0, 3.0, 7.0, (top / 2.0).floor(), top - 2048.0f64.min(top / 4.0).floor(), top]
    }
}

const INTEGERS: [ScalarType; 8] = [
    ScalarType::I8,
    ScalarType::U8,
    ScalarType::I16,
    ScalarType::U16,
    ScalarType::I32,
    ScalarType::U32,
    ScalarType::I64,
    ScalarType::U64,
];

#[test]
fn integers_wrap_at_their_own_width() {
    for elem in INTEGERS {
        // Every pair of corner values.
        let values = corners(elem);
        let left: Vec<f64> = (0..64).map(|i| values[i / 8]).collect();
        let right: Vec<f64> = (0..64).map(|i| values[i % 8]).collect();
        let inputs: [Input<'_>; 2] = [(elem, &[64], &left), (elem, &[64], &right)];
        for &op in BinaryOp::ALL {
            if op != BinaryOp::Pow {
                check(&format!("{op} of {elem}"), &inputs, |b, v| b.binary(op, v[0], v[1]).expect("typed"));
            }
        }
        for &op in CompareOp::ALL {
            let compare = |b: &mut FunctionBuilder<'_>, v: &[Value]| {
                b.emit(Op::Compare { op }, &[v[0], v[1]]).expect("typed")
            };
            check(&format!("{op} of {elem}"), &inputs, compare);
        }
        for op in [UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Sign, UnaryOp::Not] {
            check(&format!("{op} of {elem}"), &inputs[..1], |b, v| b.unary(op, v[0]).expect("typed"));
        }
        for op in [ReduceOp::Max, ReduceOp::Min] {
            let reduce = Op::Reduce { op, axes: vec![0] };
            check(&format!("{op} of {elem}"), &inputs[..1], |b, v| {
                b.emit(reduce.clone(), &v[..1]).expect("typed")
            });
        }
        for to in INTEGERS.into_iter().chain([ScalarType::I4, ScalarType::U2, ScalarType::F32]) {
            let cast = Op::Cast { to, saturate: true };
            check(&format!("{elem} to {to}"), &inputs[..1], |b, v| {
                b.emit(cast.clone(), &v[..1]).expect("typed")
            });
        }
    }
}

#[test]
fn casts_of_floats_overflow_as_the_type_defines() {
    let values = [
        0.0,
        -0.6,
        1.5,
        -129.0,
        300.0,
        464.0,
        465.0,
        61440.0,
        -70000.0,
        3e9,
        -3e9,
        1e19,
        3.4e38,
        f64::NEG_INFINITY,
        f64::INFINITY,
        f64::NAN,
    ];
    let floats = [ScalarType::F16, ScalarType::Bf16, ScalarType::E4M3, ScalarType::E5M2];
    let fnuz = [ScalarType::E4M3Fnuz, ScalarType::E5M2Fnuz];
    for to in floats.into_iter().chain(fnuz).chain(INTEGERS) {
        for saturate in [true, false] {
            for from in [ScalarType::F32, ScalarType::F64] {
                let cast = Op::Cast { to, saturate };
                check(&format!("{from} to {to}, {saturate}"), &[(from, &[16], &values)], |b, v| {
                    b.emit(cast.clone(), &v[..1]).expect("typed")
                });
            }
        }
    }
}

/// Computes a value of another.
type Producer<'a> = dyn Fn(&mut FunctionBuilder<'_>, Value) -> Value + 'a;

/// What computes a value also quantises it, whether or not the value itself is read; rows that are no whole groups take a
/// kernel of their own.
#[test]
fn producers_quantise_their_results() {
    let mxfp8 = GroupFormat::from_name("mxfp8").expect("a format");
    let quantise = |axis| Op::MxQuantize { format: mxfp8, axis, mode: ScaleMode::Floor };
    let contract =
        |text: &str| Op::Contract { map: ContractMap::parse(text).expect("a map"), elem: ScalarType::F32 };
    for (width, fused) in [(64u64, true), (80, false)] {
        let n = width as usize;
        let x: Vec<f64> = (0..8 * n).map(|i| f64::from((i * 37 % 101) as u32) / 16.0 - 3.0).collect();
        let w: Vec<f64> = (0..n * n).map(|i| f64::from((i * 53 % 89) as u32) / 64.0 - 0.75).collect();
        let inputs = [(ScalarType::F32, &[8, width][..], &x[..]), (ScalarType::F32, &[width, width], &w)];
        let producers: [(&str, &Producer<'_>); 3] = [
            ("product", &|b, x| {
                let weights: Vec<f32> = (0..n * n).map(|i| (i * 29 % 83) as f32 / 128.0 - 0.25).collect();
                let weights = b.const_f32(vec![width, width], &weights).expect("a constant");
                let product = b.emit(contract("mk,kn->mn"), &[x, weights]).expect("typed");
                b.unary(UnaryOp::Abs, product).expect("typed")
            }),
            ("norm", &|b, x| {
                let norm = Op::Norm { axes: vec![1], centre: true, eps: Real(1e-5) };
                b.emit(norm, &[x]).expect("typed")
            }),
            ("map", &|b, x| b.binary(BinaryOp::Mul, x, x).expect("typed")),
        ];
        for (name, produce) in producers {
            for is_read in [false, true] {
                let launches = check(&format!("{name} of {width}"), &inputs, |b, v| {
                    let y = produce(b, v[0]);
                    let q = b.emit(quantise(1), &[y]).expect("typed");
                    let w = b.emit(quantise(1), &[v[1]]).expect("typed");
                    let product = b.emit(contract("mk,nk->mn"), &[q, w]).expect("typed");
                    if is_read { b.binary(BinaryOp::Add, product, y).expect("typed") } else { product }
                });
                // An element-wise producer that nobody else reads is part of the quantisation anyway.
                let alone = !fused && (name != "map" || is_read);
                assert_eq!(launches, 3 + usize::from(alone), "{name} of {width}, read: {is_read}");
            }
        }
    }
}

/// Packing moves conversions in front of views: products read permuted, repeated and sliced groups.
#[test]
fn products_read_views_of_groups() {
    let mxfp8 = GroupFormat::from_name("mxfp8").expect("a format");
    let contract =
        |text: &str| Op::Contract { map: ContractMap::parse(text).expect("a map"), elem: ScalarType::F32 };
    // Groups along a dimension with whole ones, and with a short last one.
    for width in [64u64, 80] {
        let n = width as usize;
        let x: Vec<f64> = (0..24 * n).map(|i| f64::from((i * 37 % 101) as u32) / 16.0 - 3.0).collect();
        let views: [(&str, &[u64], Op, u8); 3] = [
            ("permuted", &[4, 6, width], Op::Permute { perm: vec![1, 0, 2] }, 2),
            ("sliced", &[4, 6, width], slice_of(&[1, 5, 0], &[3, 3, width], &[1, -2, 1]), 2),
            (
                "repeated",
                &[24, width],
                Op::Broadcast { dims: vec![0, 2], shape: vec![24, 3, width].into() },
                1,
            ),
        ];
        for (name, shape, view, axis) in views {
            for computed in [false, true] {
                check(&format!("{name} of {width}"), &[(ScalarType::F32, shape, &x)], |b, v| {
                    let x = if computed { b.unary(UnaryOp::Abs, v[0]).expect("typed") } else { v[0] };
                    let mode = ScaleMode::Floor;
                    let q = b.emit(Op::MxQuantize { format: mxfp8, axis, mode }, &[x]).expect("typed");
                    let y = b.emit(view.clone(), &[q]).expect("typed");
                    let weights: Vec<f32> =
                        (0..16 * n).map(|i| (i * 29 % 83) as f32 / 128.0 - 0.25).collect();
                    let w = b.const_f32(vec![width, 16], &weights).expect("a constant");
                    let w = b.emit(Op::MxQuantize { format: mxfp8, axis: 0, mode }, &[w]).expect("typed");
                    b.emit(contract("abk,kn->abn"), &[y, w]).expect("typed")
                });
            }
        }
    }
}

fn slice_of(starts: &[i64], shape: &[u64], steps: &[i64]) -> Op {
    Op::Slice { starts: starts.to_vec(), shape: shape.into(), steps: steps.to_vec() }
}

/// What is put together and then computed with is computed where its parts are: positions that are rotated, for one.
#[test]
fn concatenations_are_computed_in_parts() {
    let mxfp8 = GroupFormat::from_name("mxfp8").expect("a format");
    let (heads, rows, width) = (3u64, 5, 64);
    let x: Vec<f64> =
        (0..heads * rows * width).map(|i| f64::from((i * 37 % 101) as u32) / 16.0 - 3.0).collect();
    let table: Vec<f64> = (0..rows * width).map(|i| f64::from((i * 53 % 89) as u32) / 64.0 - 0.75).collect();
    let shape = [heads, rows, width];
    // Rows before heads in memory.
    let inputs =
        [(ScalarType::F32, &[rows, heads, width][..], &x[..]), (ScalarType::F32, &[rows, width], &table)];
    let rotated = |b: &mut FunctionBuilder<'_>, v: &[Value]| {
        let x = b.emit(Op::Permute { perm: vec![1, 0, 2] }, &[v[0]]).expect("typed");
        let table =
            b.emit(Op::Broadcast { dims: vec![1, 2], shape: shape.to_vec().into() }, &[v[1]]).expect("typed");
        let half = width as i64 / 2;
        let part = |first| slice_of(&[0, 0, first], &[heads, rows, width / 2], &[1, 1, 1]);
        let left = b.emit(part(0), &[x]).expect("typed");
        let right = b.emit(part(half), &[x]).expect("typed");
        let right = b.unary(UnaryOp::Neg, right).expect("typed");
        let both = b.emit(Op::Concat { axis: 2 }, &[right, left]).expect("typed");
        let turned = b.binary(BinaryOp::Mul, both, table).expect("typed");
        let straight = b.binary(BinaryOp::Mul, x, table).expect("typed");
        (b.binary(BinaryOp::Add, straight, turned).expect("typed"), both)
    };
    assert_eq!(check("rotation", &inputs, |b, v| rotated(b, v).0), 2);
    // A result that is quantised is stored whole; a concatenation with two users is stored.
    let launches = check("quantised rotation", &inputs, |b, v| {
        let y = rotated(b, v).0;
        let q =
            b.emit(Op::MxQuantize { format: mxfp8, axis: 2, mode: ScaleMode::Floor }, &[y]).expect("typed");
        let weights: Vec<f32> = (0..16 * width).map(|i| (i * 29 % 83) as f32 / 128.0 - 0.25).collect();
        let w = b.const_f32(vec![width, 16], &weights).expect("a constant");
        let w =
            b.emit(Op::MxQuantize { format: mxfp8, axis: 0, mode: ScaleMode::Floor }, &[w]).expect("typed");
        let map = ContractMap::parse("abk,kn->abn").expect("a map");
        b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[q, w]).expect("typed")
    });
    assert_eq!(launches, 5);
    let launches = check("a part that is read", &inputs, |b, v| {
        let (y, both) = rotated(b, v);
        b.binary(BinaryOp::Sub, y, both).expect("typed")
    });
    assert_eq!(launches, 3);
    // Two that are cut alike, with an empty part.
    let launches = check("two concatenations", &inputs, |b, v| {
        let x = b.emit(Op::Permute { perm: vec![1, 0, 2] }, &[v[0]]).expect("typed");
        let none = b.emit(slice_of(&[0, 0, 0], &[heads, 0, width], &[1, 1, 1]), &[x]).expect("typed");
        let one = b.emit(slice_of(&[0, 2, 0], &[heads, 1, width], &[1, 1, 1]), &[x]).expect("typed");
        let root = b.unary(UnaryOp::Abs, one).expect("typed");
        let left = b.emit(Op::Concat { axis: 1 }, &[none, x, root]).expect("typed");
        let right = b.emit(Op::Concat { axis: 1 }, &[none, x, one]).expect("typed");
        let sum = b.binary(BinaryOp::Add, left, right).expect("typed");
        b.unary(UnaryOp::Exp, sum).expect("typed")
    });
    assert_eq!(launches, 2);
}

/// Rows that no local memory holds: whole groups go to tiles and PEs, a last group may be short.
#[test]
fn long_rows_are_quantised_in_groups() {
    for name in ["mxfp8", "mxfp4", "nvfp4", "mxint8"] {
        let format = GroupFormat::from_name(name).expect("a format");
        for (rows, width) in [(2u64, 20_480u64), (1, 20_011), (3, 40)] {
            let n = (rows * width) as usize;
            let x: Vec<f64> = (0..n).map(|i| f64::from((i * 37 % 1013) as u32) / 64.0 - 7.0).collect();
            let w: Vec<f64> = (0..n).map(|i| f64::from((i * 53 % 89) as u32 % 5) - 2.0).collect();
            let inputs: [Input<'_>; 2] =
                [(ScalarType::F32, &[rows, width], &x), (ScalarType::F32, &[rows, width], &w)];
            for is_read in [false, true] {
                check(&format!("{name} of {width}, read: {is_read}"), &inputs, |b, v| {
                    let quantise = Op::MxQuantize { format, axis: 1, mode: ScaleMode::Floor };
                    let y = b.binary(BinaryOp::Mul, v[0], v[1]).expect("typed");
                    let q = b.emit(quantise.clone(), &[y]).expect("typed");
                    let r = b.emit(quantise, &[v[1]]).expect("typed");
                    let map = ContractMap::parse("mk,nk->mn").expect("a map");
                    let product = b.emit(Op::Contract { map, elem: ScalarType::F32 }, &[q, r]);
                    let product = product.expect("typed");
                    if is_read {
                        let sum = b.emit(Op::Reduce { op: ReduceOp::Max, axes: vec![1] }, &[y]);
                        let dims = vec![0];
                        let wide = Op::Broadcast { dims, shape: vec![rows, rows].into() };
                        let wide = b.emit(wide, &[sum.expect("typed")]).expect("typed");
                        b.binary(BinaryOp::Add, product, wide).expect("typed")
                    } else {
                        product
                    }
                });
            }
        }
    }
}

/// Rows that no local memory holds: partials are carried over tiles, along dimensions of any stride.
#[test]
fn long_rows_are_reduced_in_tiles() {
    let shapes: [(&[u64], &[u8]); 5] = [
        (&[2, 40_960], &[1]),
        (&[20_011], &[0]),
        (&[20_005, 3], &[0]),
        (&[3, 5, 2, 7_000], &[1, 3]),
        (&[2, 150, 150], &[1, 2]),
    ];
    for (shape, axes) in shapes {
        let n = shape.iter().product::<u64>() as usize;
        let x: Vec<f64> = (0..n).map(|i| f64::from((i * 37 % 1013) as u32 % 16) - 7.0).collect();
        for elem in [ScalarType::F32, ScalarType::Bf16, ScalarType::F64, ScalarType::I32, ScalarType::I64] {
            for op in [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max, ReduceOp::Min] {
                check(&format!("{op} of {elem}{shape:?}"), &[(elem, shape, &x)], |b, v| {
                    let y = b.binary(BinaryOp::Sub, v[0], v[0]).expect("typed");
                    let y = b.binary(BinaryOp::Add, v[0], y).expect("typed");
                    b.emit(Op::Reduce { op, axes: axes.to_vec() }, &[y]).expect("typed")
                });
            }
        }
    }
}

/// A sum in tiles has the bits of the sum that the numerics define: sixteen partials, then halving.
#[test]
fn tiles_do_not_change_a_sum() {
    for n in [40_960usize, 20_011] {
        let x: Vec<f32> = (0..n).map(|i| ((i * 7919 % 10_007) as f32).sin()).collect();
        let mut partials = [0f32; 16];
        x.iter().enumerate().for_each(|(i, v)| partials[i % 16] += v);
        for half in [8, 4, 2, 1] {
            (0..half).for_each(|i| partials[i] += partials[i + half]);
        }
        let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        // Scaled down, because the evaluator sums in double precision.
        let (_, got) = computed("sum", &[(ScalarType::F32, &[n as u64], &wide)], |b, v| {
            let sum = b.emit(Op::Reduce { op: ReduceOp::Sum, axes: vec![0] }, &v[..1]).expect("typed");
            let thousandth = b.const_f32(Vec::new(), &[1.0 / 1024.0]).expect("a constant");
            b.binary(BinaryOp::Mul, sum, thousandth).expect("typed")
        });
        assert_eq!(got, [f64::from(partials[0]) / 1024.0], "{n}");
    }
}

/// Softmax and norms of rows that no local memory holds.
#[test]
fn long_rows_are_normalised() {
    for (shape, axis) in [([2u64, 20_480], 1u8), ([1, 12_011], 1), ([12_011, 3], 0)] {
        let n = shape.iter().product::<u64>() as usize;
        let (length, inner) = (shape[usize::from(axis)] as i64, if axis == 0 { shape[1] as i64 } else { 1 });
        // Rows are odd about their middle, so that their sums, and those of their squares, are exact in f32.
        let x: Vec<f64> = (0..n as i64)
            .map(|i| i / inner % length)
            .map(|at| if 2 * at < length { at } else { at - length + 1 } * 37 % 16)
            .map(|v| v as f64)
            .collect();
        for elem in [ScalarType::F32, ScalarType::F64] {
            for log in [false, true] {
                check(&format!("softmax of {elem}{shape:?}"), &[(elem, &shape, &x)], |b, v| {
                    b.emit(Op::Softmax { axis, log }, v).expect("typed")
                });
            }
            let row = [shape[usize::from(axis)]];
            let scale: Vec<f64> = (0..row[0]).map(|i| f64::from((i % 7) as u32) / 8.0).collect();
            for centre in [false, true] {
                let inputs: [Input<'_>; 3] = [(elem, &shape, &x), (elem, &row, &scale), (elem, &row, &scale)];
                for n_args in 1..=3 {
                    check(&format!("norm of {elem}{shape:?}"), &inputs, |b, v| {
                        let norm = Op::Norm { axes: vec![axis], centre, eps: Real(1e-5) };
                        b.emit(norm, &v[..n_args]).expect("typed")
                    });
                }
            }
        }
    }
}

#[test]
fn reductions_over_nothing_give_their_start() {
    for &op in ReduceOp::ALL {
        let reduce = Op::Reduce { op, axes: vec![1] };
        check(&format!("{op}"), &[(ScalarType::F32, &[2, 0, 4], &[])], |b, v| {
            b.emit(reduce.clone(), v).expect("typed")
        });
    }
    let map = ContractMap::parse("mk,kn->mn").expect("a map");
    check("contract", &[(ScalarType::F32, &[3, 0], &[]), (ScalarType::F32, &[0, 5], &[])], |b, v| {
        let product = b.emit(Op::Contract { map: map.clone(), elem: ScalarType::F32 }, v).expect("typed");
        b.unary(UnaryOp::Exp, product).expect("typed")
    });
}

#[test]
fn running_reductions() {
    let x: Vec<f64> = (0..24).map(|i| f64::from(i % 7) - 2.0).collect();
    for elem in [ScalarType::F32, ScalarType::F64, ScalarType::I32, ScalarType::U8] {
        for op in [ReduceOp::Sum, ReduceOp::Prod] {
            for axis in 0..3 {
                for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
                    let run = Op::Cumulate { op, axis, exclusive, reverse };
                    let x: Vec<f64> =
                        x.iter().map(|v| if elem == ScalarType::U8 { v.abs() } else { *v }).collect();
                    check(&format!("{run:?} of {elem}"), &[(elem, &[2, 3, 4], &x)], |b, v| {
                        b.emit(run.clone(), v).expect("typed")
                    });
                }
            }
        }
    }
}

#[test]
fn gathers() {
    let x: Vec<f64> = (0..120).map(f64::from).collect();
    let i: Vec<f64> = (0..12).map(|i| f64::from(i * 7 % 3)).collect();
    // Table, axis, batch dimensions, indices: with dimensions between the batch and the axis, and without.
    let cases: [(&[u64], u8, u8, &[u64]); 5] = [
        (&[2, 3, 20], 1, 1, &[2, 6]),
        (&[2, 5, 3, 4], 2, 1, &[2, 3, 2]),
        (&[2, 2, 3, 10], 2, 2, &[2, 2, 3]),
        (&[4, 3, 10], 1, 0, &[3, 4]),
        (&[3, 40], 0, 0, &[12]),
    ];
    for (shape, axis, batch, indices) in cases {
        for index in [ScalarType::I32, ScalarType::I64] {
            let gather = Op::Gather { axis, batch };
            let inputs: [Input<'_>; 2] = [(ScalarType::F32, shape, &x), (index, indices, &i)];
            check(&format!("{gather:?} of {shape:?}"), &inputs, |b, v| {
                b.emit(gather.clone(), v).expect("typed")
            });
        }
    }
    // A user that would rather have the result channels-last.
    let conv = conv_attrs(2, vec![1, 1], vec![1, 1], vec![1, 1]);
    let w: Vec<f64> = (0..27).map(|i| f64::from(i) - 13.0).collect();
    let inputs: [Input<'_>; 3] = [
        (ScalarType::F32, &[2, 5, 3, 4], &x),
        (ScalarType::I64, &[3], &i[..3]),
        (ScalarType::F32, &[1, 3, 3, 3], &w),
    ];
    check("gather before a convolution", &inputs, |b, v| {
        let y = b.emit(Op::Gather { axis: 1, batch: 0 }, &v[..2]).expect("typed");
        b.emit(Op::Conv { attrs: conv.clone(), elem: ScalarType::F32 }, &[y, v[2]]).expect("typed")
    });
}

fn conv_attrs(n: usize, x_dilations: Vec<u64>, low: Vec<i64>, high: Vec<i64>) -> ConvAttrs {
    let dims: Vec<u8> = (0..n as u8 + 2).collect();
    ConvAttrs {
        x: dims.clone(),
        w: dims.clone(),
        out: dims,
        strides: vec![1; n],
        dilations: vec![1; n],
        x_dilations,
        low,
        high,
        groups: 1,
    }
}

#[test]
fn transposed_convolutions() {
    let x: Vec<f64> = (0..24).map(|i| f64::from(i) - 9.0).collect();
    let w: Vec<f64> = (0..54).map(|i| f64::from(i % 11) - 5.0).collect();
    for (spread, low, high) in
        [([2, 2], [2, 2], [2, 2]), ([3, 1], [1, -1], [0, 2]), ([1, 2], [0, 0], [0, -1])]
    {
        let attrs = conv_attrs(2, spread.to_vec(), low.to_vec(), high.to_vec());
        let inputs: [Input<'_>; 2] =
            [(ScalarType::F32, &[1, 2, 3, 4], &x), (ScalarType::F32, &[3, 2, 3, 3], &w)];
        check(&format!("{attrs:?}"), &inputs, |b, v| {
            b.emit(Op::Conv { attrs: attrs.clone(), elem: ScalarType::F32 }, v).expect("typed")
        });
    }
}

#[test]
fn pads_by_any_value() {
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let pad = Op::Pad { low: vec![1, 0], high: vec![2, 3] };
    check("run time", &[(ScalarType::F32, &[2, 3], &x), (ScalarType::F32, &[], &[7.5])], |b, v| {
        b.emit(pad.clone(), v).expect("typed")
    });
    check("constant", &[(ScalarType::F32, &[2, 3], &x)], |b, v| {
        let value = b.const_f32(Vec::new(), &[7.5]).expect("typed");
        b.emit(pad.clone(), &[v[0], value]).expect("typed")
    });
    check("of nothing", &[(ScalarType::F32, &[0, 3], &[])], |b, v| {
        let value = b.const_f32(Vec::new(), &[0.0]).expect("typed");
        b.emit(pad.clone(), &[v[0], value]).expect("typed")
    });
}

#[test]
fn wide_lanes() {
    let x: Vec<f64> = (0..24).map(|i| f64::from(i * 5 % 13) - 6.0).collect();
    for elem in [ScalarType::F64, ScalarType::I32, ScalarType::I64] {
        let map = ContractMap::parse("bmk,bkn->bnm").expect("a map");
        check(&format!("contract of {elem}"), &[(elem, &[2, 3, 4], &x), (elem, &[2, 4, 3], &x)], |b, v| {
            let product = b.emit(Op::Contract { map: map.clone(), elem }, v).expect("typed");
            b.binary(BinaryOp::Add, product, product).expect("typed")
        });
    }
    for log in [false, true] {
        let wide: Vec<f64> = x.iter().map(|v| v * 1e200 / 6.0).collect();
        for values in [&x, &wide] {
            check("softmax of f64", &[(ScalarType::F64, &[4, 6], values)], |b, v| {
                b.emit(Op::Softmax { axis: 1, log }, v).expect("typed")
            });
        }
    }
}

/// Small integers as f64, in no order.
fn mixed(n: usize, from: i64, to: i64) -> Vec<f64> {
    (0..n as i64).map(|i| (from + (i * 7919 + i * i * 31) % (to - from + 1)) as f64).collect()
}

#[test]
fn tensors_have_up_to_eight_dimensions() {
    let shape = [3, 2, 4, 2, 3, 2, 5, 2];
    let n = shape.iter().product::<u64>() as usize;
    let x = mixed(n, -9, 9);
    let inputs: [Input<'_>; 1] = [(ScalarType::F32, &shape, &x)];
    let backwards: Vec<u8> = (0..8).rev().collect();
    let shuffled = vec![5, 0, 7, 2, 4, 1, 6, 3];
    for perm in [backwards, shuffled] {
        let moved = |b: &mut FunctionBuilder<'_>, v: &[Value]| {
            b.emit(Op::Permute { perm: perm.clone() }, &v[..1]).expect("typed")
        };
        check("permute", &inputs, moved);
        check("neg", &inputs, |b, v| {
            let y = moved(b, v);
            b.unary(UnaryOp::Neg, y).expect("typed")
        });
        check("max", &inputs, |b, v| {
            let y = moved(b, v);
            b.emit(Op::Reduce { op: ReduceOp::Max, axes: vec![2, 5] }, &[y]).expect("typed")
        });
        check("softmax", &inputs, |b, v| {
            let y = moved(b, v);
            b.emit(Op::Softmax { axis: 3, log: false }, &[y]).expect("typed")
        });
    }
    check("pad", &inputs, |b, v| {
        let value = b.const_f32(Vec::<u64>::new(), &[4.0]).expect("a constant");
        let (low, high) = (vec![1, 0, 1, 1, 0, 2, 1, 0], vec![0, 1, 0, 1, 2, 0, 1, 1]);
        b.emit(Op::Pad { low, high }, &[v[0], value]).expect("typed")
    });
}

#[test]
fn integer_products_are_exact() {
    // Sums of more than 2^24, which f32 does not hold: the products come in parts.
    for (elem, zero) in [(ScalarType::I8, 0), (ScalarType::U8, 0), (ScalarType::U8, 255)] {
        let (low, high) = if elem == ScalarType::I8 { (-128, -120) } else { (250, 255) };
        let (x, w) = (mixed(3 * 2000, low, high), mixed(2000 * 5, low, high));
        let inputs: [Input<'_>; 2] = [(elem, &[3, 2000], &x), (elem, &[2000, 5], &w)];
        check(&format!("product of {elem}"), &inputs, |b, v| {
            let mut wide = |x: Value| {
                let shape = b.ty(x).shape.clone();
                let x = b.emit(Op::Cast { to: ScalarType::I32, saturate: true }, &[x]).expect("typed");
                let ty = TensorType::new(ScalarType::I32, shape);
                let zero = lacuna_ir::ConstantData::Splat(zero);
                let zero = b.constant(lacuna_ir::Constant::new(ty, zero, "")).expect("typed");
                b.binary(BinaryOp::Sub, x, zero).expect("typed")
            };
            let (x, w) = (wide(v[0]), wide(v[1]));
            let map = ContractMap::parse("mk,kn->mn").expect("a map");
            b.emit(Op::Contract { map, elem: ScalarType::I32 }, &[x, w]).expect("typed")
        });
    }
}

#[test]
fn convolutions_have_any_number_of_axes() {
    let attrs = |s: usize, groups: u64, spread: u64| {
        let order: Vec<u8> = (0..s as u8 + 2).collect();
        let mut x_dilations = vec![1; s];
        x_dilations[0] = spread;
        ConvAttrs {
            x: order.clone(),
            w: order.clone(),
            out: order,
            strides: (0..s as u64).map(|i| 1 + i % 2).collect(),
            dilations: (0..s as u64).map(|i| 1 + (i + 1) % 2).collect(),
            x_dilations,
            low: (0..s as i64).map(|i| 1 - i % 3).collect(),
            high: (0..s as i64).map(|i| i % 2).collect(),
            groups,
        }
    };
    for (elem, s) in [(ScalarType::F32, 3), (ScalarType::F32, 4), (ScalarType::F64, 2), (ScalarType::I32, 3)]
    {
        for (groups, spread) in [(1, 1), (2, 3)] {
            let mut shape = vec![2, 4];
            shape.extend(vec![6; s]);
            let mut kernel = vec![6, 4 / groups];
            kernel.extend(vec![2; s]);
            let size = |shape: &[u64]| shape.iter().product::<u64>() as usize;
            let (x, w) = (mixed(size(&shape), -5, 5), mixed(size(&kernel), -3, 3));
            let inputs: [Input<'_>; 2] = [(elem, &shape, &x), (elem, &kernel, &w)];
            let attrs = attrs(s, groups, spread);
            check(&format!("{attrs:?} of {elem}"), &inputs, |b, v| {
                b.emit(Op::Conv { attrs: attrs.clone(), elem }, v).expect("typed")
            });
        }
    }
}

/// Codes less their zero points, as operands of a convolution: what is summed at once is bounded, within groups, and within one
/// channel where its kernel is large.
#[test]
fn convolutions_of_codes_are_summed_in_parts() {
    for (groups, channels, kernel) in [(2, 8, [9, 9]), (4, 4, [3, 3]), (6, 1, [19, 1]), (1, 2, [1, 300])] {
        let order: Vec<u8> = (0..4).collect();
        let attrs = ConvAttrs {
            x: order.clone(),
            w: order.clone(),
            out: order,
            strides: vec![1, 2],
            dilations: vec![2, 1],
            x_dilations: vec![1, 1],
            low: vec![3, 4],
            high: vec![1, 5],
            groups,
        };
        let x_shape = [2, groups * channels, 2 * kernel[0], kernel[1] + 9];
        let w_shape = [2 * groups, channels, kernel[0], kernel[1]];
        let size = |shape: &[u64]| shape.iter().product::<u64>() as usize;
        let (x, w) = (mixed(size(&x_shape), 0, 255), mixed(size(&w_shape), 0, 255));
        let u8s = ScalarType::U8;
        let inputs: [Input<'_>; 4] =
            [(u8s, &x_shape, &x), (u8s, &w_shape, &w), (u8s, &[], &[3.0]), (u8s, &[], &[250.0])];
        check(&format!("{attrs:?} of codes"), &inputs, |b, v| {
            let mut centred = |codes: usize, zero: usize| {
                let wide = Op::Cast { to: ScalarType::I32, saturate: true };
                let x = b.emit(wide.clone(), &[v[codes]]).expect("typed");
                let zero = b.emit(wide, &[v[zero]]).expect("typed");
                let shape = b.ty(x).shape.clone();
                let zero = b.emit(Op::Broadcast { dims: vec![], shape }, &[zero]).expect("typed");
                b.binary(BinaryOp::Sub, x, zero).expect("typed")
            };
            let operands = [centred(0, 2), centred(1, 3)];
            b.emit(Op::Conv { attrs: attrs.clone(), elem: ScalarType::I32 }, &operands).expect("typed")
        });
    }
}

/// Rows that local memory does not hold, with equal extremes and NaN in different parts of them.
#[test]
fn positions_in_rows_longer_than_local_memory() {
    const N: usize = 60_000;
    let mut x = vec![0.0; 3 * N];
    for (i, v) in x.iter_mut().enumerate() {
        *v = ((i * 7919) % 1000) as f64 - 500.0;
    }
    for at in [17, 20_000, 59_999] {
        (x[at], x[2 * N + at]) = (900.0, -900.0);
    }
    (x[N + 30_000], x[N + 45_000]) = (f64::NAN, f64::NAN);
    for (max, last) in [(true, false), (true, true), (false, false), (false, true)] {
        check("long rows", &[(ScalarType::F32, &[3, N as u64], &x)], |b, v| {
            b.emit(Op::ArgReduce { max, axis: 1, last }, v).expect("typed")
        });
        check("long columns", &[(ScalarType::F32, &[3, N as u64 / 2, 2], &x)], |b, v| {
            b.emit(Op::ArgReduce { max, axis: 1, last }, v).expect("typed")
        });
    }
}

#[test]
fn totals_of_rows_longer_than_local_memory() {
    const N: usize = 50_000;
    let x: Vec<f64> = (0..2 * N).map(|i| ((i * 7919) % 1000) as f64 / 512.0 - 1.0).collect();
    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
        let op = Op::Cumulate { op: ReduceOp::Sum, axis: 1, exclusive, reverse };
        check("long totals", &[(ScalarType::F32, &[2, N as u64], &x)], |b, v| {
            b.emit(op.clone(), v).expect("typed")
        });
    }
}

#[test]
fn products_in_many_orders() {
    for (text, left, right) in [
        ("mk,k->m", vec![5, 40], vec![40]),
        ("k,kn->n", vec![40], vec![40, 3]),
        ("k,k->", vec![40], vec![40]),
        ("m,n->nm", vec![5], vec![7]),
        ("mn,nm->nm", vec![5, 7], vec![7, 5]),
        ("mn,->mn", vec![5, 7], vec![]),
        // Columns of the second operand on both sides of the rows.
        ("mk,bcnk->bcmn", vec![2, 3], vec![4, 2, 5, 3]),
        ("mk,bckn->bcmn", vec![2, 3], vec![4, 2, 3, 5]),
        ("mk,cbkn->bcmn", vec![2, 3], vec![4, 2, 3, 5]),
    ] {
        let size = |shape: &[u64]| shape.iter().product::<u64>() as usize;
        let (x, w) = (mixed(size(&left), -5, 5), mixed(size(&right), -3, 3));
        let map = ContractMap::parse(text).expect("a map");
        let constant: Vec<f32> = w.iter().map(|&v| v as f32).collect();
        check(&format!("{text} by a constant"), &[(ScalarType::F32, &left, &x)], |b, v| {
            let w = b.const_f32(right.clone(), &constant).expect("a constant");
            b.emit(Op::Contract { map: map.clone(), elem: ScalarType::F32 }, &[v[0], w]).expect("typed")
        });
        let inputs: [Input<'_>; 2] = [(ScalarType::F32, &left, &x), (ScalarType::F32, &right, &w)];
        check(text, &inputs, |b, v| {
            b.emit(Op::Contract { map: map.clone(), elem: ScalarType::F32 }, v).expect("typed")
        });
    }
}
