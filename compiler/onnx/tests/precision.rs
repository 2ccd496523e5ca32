//! Operators that are several steps in the IR: they keep their digits where they are small, and on 16-bit floats they are
//! computed in f32 and rounded once.

mod common;

use common::*;
use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_isa::format::ScalarType;
use lacuna_isa::format::ScalarType::{Bf16, F16, F32};
use lacuna_onnx::Options;
use lacuna_onnx::proto::{AttributeProto, ModelProto};

fn evaluate(model: &ModelProto, inputs: &[Tensor], mode: Mode) -> Vec<f64> {
    let imported = import_proto(model, &Options::default()).unwrap_or_else(|found| panic!("{found:?}"));
    eval(&imported.module, imported.module.entries[0].func, inputs, mode).unwrap()[0].to_f64().to_vec()
}

/// Codes of a type between two finite values of one sign.
fn ulps(elem: ScalarType, a: f64, b: f64) -> u64 {
    match a == b || (a.is_nan() && b.is_nan()) {
        true => 0,
        false if a.is_nan() || b.is_nan() || a * b < 0.0 => u64::MAX,
        false => elem.encode(a.abs()).abs_diff(elem.encode(b.abs())),
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn gelu_tanh(x: f64) -> f64 {
    x / (1.0 + (-2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).exp())
}

type Function = (&'static str, Vec<AttributeProto>, fn(f64) -> f64);

/// Operator, attributes, and what it means.
fn functions() -> Vec<Function> {
    const ALPHA: f64 = 1.673_263_192_176_818_8;
    const GAMMA: f64 = 1.050_701_022_148_132_3;
    vec![
        ("Softplus", vec![], softplus),
        ("Mish", vec![], |x| x * softplus(x).tanh()),
        ("Elu", vec![], |x| if x < 0.0 { x.exp_m1() } else { x }),
        ("Elu", vec![float("alpha", 0.5)], |x| if x < 0.0 { 0.5 * x.exp_m1() } else { x }),
        ("Selu", vec![], |x| GAMMA * if x < 0.0 { ALPHA * x.exp_m1() } else { x }),
        ("Celu", vec![float("alpha", 2.0)], |x| if x < 0.0 { 2.0 * (x / 2.0).exp_m1() } else { x }),
        ("Gelu", vec![], |x| 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)),
        ("Gelu", vec![text("approximate", "tanh")], gelu_tanh),
        ("Swish", vec![], |x| x / (1.0 + (-x).exp())),
        ("Softsign", vec![], |x| x / (1.0 + x.abs())),
        ("HardSwish", vec![], |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        ("LeakyRelu", vec![float("alpha", 0.375)], |x| if x < 0.0 { 0.375 * x } else { x }),
    ]
}

#[test]
fn functions_keep_their_digits() {
    let magnitudes =
        [1e-20, 1e-7, 3e-5, 1e-3, 0.03, 0.3, 0.7, 1.0, 1.5, 2.3, 3.0, 4.7, 6.1, 9.9, 12.3, 21.0, 40.0];
    for elem in [F32, F16, Bf16] {
        let values: Vec<f64> =
            magnitudes.iter().flat_map(|&m| [m, -m]).map(|v| elem.decode(elem.encode(v))).collect();
        for (op, attributes, function) in functions() {
            let plain = attributes.is_empty();
            let n = values.len();
            let x = value("x", elem, &[n as i64]);
            let mut model = model(vec![x], vec![], vec![node(op, &["x"], &["y"], attributes)], &["y"]);
            model.opset_import[0].version = 24;
            let inputs = [Tensor::from_f64(elem, vec![n as u64], &values).unwrap()];
            let found = evaluate(&model, &inputs, Mode::Typed);
            for (&x, &y) in values.iter().zip(&found) {
                let want = elem.decode(elem.encode(function(x)));
                // HardSwish cancels at -3, and the tanh form has the exponential of a rounded polynomial, by definition.
                let bound = match (elem, op) {
                    (F32, "HardSwish") => continue,
                    (F32, "Gelu") if !plain => 128,
                    (F32, _) => 6,
                    _ => 1,
                };
                assert!(ulps(elem, y, want) <= bound, "{op} of {elem} {x} is {y}, not {want}");
            }
        }
    }
}

/// A node whose operands are `x` of this shape, and constants of these shapes.
struct Composite {
    op: &'static str,
    attributes: Vec<AttributeProto>,
    shape: Vec<i64>,
    constants: Vec<Vec<i64>>,
}

/// The fields of a [`Composite`], in order.
type Row = (&'static str, Vec<AttributeProto>, Vec<i64>, Vec<Vec<i64>>);

fn composites() -> Vec<Composite> {
    let image = || vec![2i64, 4, 5, 5];
    let c = || vec![4i64];
    let list: Vec<Row> = vec![
        ("MeanVarianceNormalization", vec![ints("axes", &[1])], image(), vec![]),
        ("BatchNormalization", vec![], image(), vec![c(), c(), c(), c()]),
        ("InstanceNormalization", vec![], image(), vec![c(), c()]),
        ("GroupNormalization", vec![int("num_groups", 2)], image(), vec![c(), c()]),
        ("LayerNormalization", vec![], vec![3, 7], vec![vec![7], vec![7]]),
        ("LayerNormalization", vec![], vec![3, 7], vec![vec![3, 1], vec![1, 7]]),
        ("RMSNormalization", vec![], vec![3, 7], vec![vec![7]]),
        ("LpNormalization", vec![int("p", 2)], vec![3, 7], vec![]),
        ("LRN", vec![int("size", 3)], image(), vec![]),
        ("AveragePool", vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1, 1, 1, 1])], image(), vec![]),
        ("LpPool", vec![ints("kernel_shape", &[2, 2]), int("p", 3)], image(), vec![]),
        ("GlobalLpPool", vec![int("p", 2)], image(), vec![]),
        ("Gemm", vec![float("alpha", 0.3), float("beta", 0.7)], vec![3, 7], vec![vec![7, 5], vec![5]]),
        ("Conv", vec![], image(), vec![vec![6, 4, 3, 3], vec![6]]),
        ("ConvTranspose", vec![], image(), vec![vec![4, 6, 3, 3], vec![6]]),
        ("Sum", vec![], vec![3, 7], vec![vec![7], vec![3, 7]]),
        ("Mean", vec![], vec![3, 7], vec![vec![7], vec![3, 7]]),
        ("ReduceL2", vec![], vec![3, 7], vec![]),
        ("ReduceSumSquare", vec![], vec![3, 7], vec![]),
        ("ReduceLogSumExp", vec![], vec![3, 7], vec![]),
        ("HardSigmoid", vec![float("alpha", 0.3)], vec![3, 7], vec![]),
        ("Shrink", vec![float("bias", 0.1), float("lambd", 0.3)], vec![3, 7], vec![]),
        ("ThresholdedRelu", vec![float("alpha", 0.1)], vec![3, 7], vec![]),
        ("Swish", vec![float("alpha", 1.3)], vec![3, 7], vec![]),
    ];
    let composite = |(op, attributes, shape, constants)| Composite { op, attributes, shape, constants };
    list.into_iter().map(composite).collect()
}

#[test]
fn composites_of_16_bits_round_once() {
    for composite in composites() {
        let Composite { op, attributes, shape, constants } = &composite;
        for (elem, ends) in [(F16, [60.0, 300.0]), (Bf16, [3.0, 1e4])] {
            for scale in ends {
                let numbers = |dims: &[i64], seed: usize, scale: f64| -> Vec<f64> {
                    let n = dims.iter().product::<i64>() as usize;
                    let number = |i: usize| ((i * 7 + seed * 5) % 23) as f64 / 11.0 - 0.9;
                    (0..n).map(|i| elem.decode(elem.encode(scale * number(i)))).collect()
                };
                let run = |elem: ScalarType, mode| {
                    let x = Tensor::from_f64(
                        elem,
                        shape.iter().map(|&d| d as u64).collect::<Vec<_>>(),
                        &numbers(shape, 0, scale),
                    );
                    let made = constants.iter().enumerate().map(|(i, dims)| {
                        // A variance is positive.
                        let positive = *op == "BatchNormalization" && i == 3;
                        let values: Vec<f64> = numbers(dims, i + 1, 1.0);
                        let values: Vec<f64> =
                            values.into_iter().map(|v| if positive { v.abs() + 0.25 } else { v }).collect();
                        constant(&format!("k{i}"), elem, dims, &values)
                    });
                    let made: Vec<_> = made.collect();
                    let names: Vec<String> = (0..made.len()).map(|i| format!("k{i}")).collect();
                    let operands: Vec<&str> =
                        ["x"].into_iter().chain(names.iter().map(String::as_str)).collect();
                    let node = node(op, &operands, &["y"], attributes.clone());
                    let mut model = model(vec![value("x", elem, shape)], made, vec![node], &["y"]);
                    model.opset_import[0].version = 24;
                    evaluate(&model, &[x.unwrap()], mode)
                };
                let (found, exact) = (run(elem, Mode::Typed), run(F32, Mode::Real));
                for (i, (&y, &exact)) in found.iter().zip(&exact).enumerate() {
                    let want = elem.decode(elem.encode(exact));
                    assert!(
                        ulps(elem, y, want) <= 1,
                        "{op} of {elem}, scale {scale}: [{i}] is {y}, not {want}"
                    );
                }
            }
        }
    }
}
