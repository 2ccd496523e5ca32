//! Lowerings on small models, evaluated against values computed by hand.

mod common;

use common::*;
use lacuna_ir::eval::Tensor;
use lacuna_isa::format::ScalarType::{F32, I8, I32, I64};
use lacuna_onnx::Options;
use lacuna_onnx::proto::{AttributeProto, NodeProto, TensorProto};

/// One node on inputs, with constants `k0`, `k1`, ..., against a shape and elements.
struct Case {
    node: NodeProto,
    inputs: Vec<Tensor>,
    constants: Vec<TensorProto>,
    shape: Vec<u64>,
    expect: Vec<f64>,
}

fn check(case: Case) {
    let name = case.node.op_type.clone();
    let inputs = (0..).map(|i| format!("x{i}")).zip(&case.inputs).map(|(name, t)| {
        let dims: Vec<i64> = t.ty.shape.iter().map(|&d| d as i64).collect();
        value(&name, t.ty.elem.scalar().unwrap(), &dims)
    });
    let model = model(inputs.collect(), case.constants, vec![case.node], &["y"]);
    let results = run(&model, &case.inputs);
    assert_eq!(results[0].ty.shape.0, case.shape, "{name}");
    let got = results[0].to_f64();
    assert_eq!(got.len(), case.expect.len(), "{name}");
    for (g, e) in got.iter().zip(&case.expect) {
        assert!((g - e).abs() <= 1e-6 * (1.0 + e.abs()) || g == e, "{name}: {got:?}, not {:?}", case.expect);
    }
}

fn case(
    op: &str,
    operands: &[&str],
    attributes: Vec<AttributeProto>,
    inputs: Vec<Tensor>,
    constants: Vec<TensorProto>,
    shape: &[u64],
    expect: &[f64],
) {
    let node = node(op, operands, &["y"], attributes);
    check(Case { node, inputs, constants, shape: shape.to_vec(), expect: expect.to_vec() });
}

fn indices(dims: &[i64], values: &[f64]) -> TensorProto {
    constant("k0", I64, dims, values)
}

#[test]
fn elementwise() {
    let x = || vec![f32s(&[4], &[-2.0, -0.5, 0.0, 3.0])];
    case("Relu", &["x0"], vec![], x(), vec![], &[4], &[0.0, 0.0, 0.0, 3.0]);
    case("LeakyRelu", &["x0"], vec![float("alpha", 0.5)], x(), vec![], &[4], &[-1.0, -0.25, 0.0, 3.0]);
    case("HardSwish", &["x0"], vec![], x(), vec![], &[4], &[-1.0 / 3.0, -0.5 * 2.5 / 6.0, 0.0, 3.0]);
    let low = constant("k0", F32, &[], &[-1.0]);
    case("Clip", &["x0", "k0"], vec![], x(), vec![low], &[4], &[-1.0, -0.5, 0.0, 3.0]);
    let row = constant("k0", F32, &[1, 2], &[10.0, 20.0]);
    let column = vec![f32s(&[2, 1], &[1.0, 2.0])];
    case("Sub", &["x0", "k0"], vec![], column, vec![row], &[2, 2], &[-9.0, -19.0, -8.0, -18.0]);
    let softplus =
        [(1.0f64 + (-2.0f64).exp()).ln(), (1.0 + (-0.5f64).exp()).ln(), 2f64.ln(), (1.0 + 3f64.exp()).ln()];
    case("Softplus", &["x0"], vec![], x(), vec![], &[4], &softplus);
}

#[test]
fn products() {
    let a = || f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let b = constant("k0", F32, &[3], &[1.0, 0.0, -1.0]);
    case("MatMul", &["x0", "k0"], vec![], vec![a()], vec![b], &[2], &[-2.0, -2.0]);
    // The batch dimension of size 1 broadcasts.
    let b = constant("k0", F32, &[2, 3, 1], &[1.0, 1.0, 1.0, 0.0, 0.0, 2.0]);
    let batched = Tensor { ty: f32s(&[1, 2, 3], &[0.0; 6]).ty, ..a() };
    case("MatMul", &["x0", "k0"], vec![], vec![batched], vec![b], &[2, 2, 1], &[6.0, 15.0, 6.0, 12.0]);
    let b = constant("k0", F32, &[1, 3], &[1.0, 1.0, 1.0]);
    let bias = constant("k1", F32, &[1], &[10.0]);
    let attributes = || vec![int("transB", 1), float("alpha", 2.0), float("beta", 0.5)];
    case("Gemm", &["x0", "k0", "k1"], attributes(), vec![a()], vec![b, bias], &[2, 1], &[17.0, 35.0]);
    let b = constant("k0", F32, &[2, 3], &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    case(
        "Einsum",
        &["x0", "k0"],
        vec![text("equation", "ij,kj->ki")],
        vec![a()],
        vec![b],
        &[2, 2],
        &[1.0, 4.0, 3.0, 6.0],
    );
}

/// Codes are multiplied in their own type, in which memory can hold them, whatever their zero point is.
#[test]
fn dequantised_weights() {
    let x = || f32s(&[1, 2], &[1.0, 10.0]);
    for (zero, expect) in [(0.0, [-15.5, 60.5]), (1.0, [-21.0, 55.0])] {
        let codes = constant("k0", I8, &[2, 2], &[-1.0, 1.0, -3.0, 12.0]);
        let constants = vec![codes, constant("k1", F32, &[], &[0.5]), constant("k2", I8, &[], &[zero])];
        let nodes = vec![
            node("DequantizeLinear", &["k0", "k1", "k2"], &["w"], vec![]),
            node("MatMul", &["x0", "w"], &["y"], vec![]),
        ];
        let model = model(vec![value("x0", F32, &[1, 2])], constants, nodes, &["y"]);
        assert_eq!(*run(&model, &[x()])[0].to_f64(), expect);
        let module = import_proto(&model, &Options::default()).unwrap().module;
        let wide = module.constants.values().filter(|c| c.ty.elem.scalar() == Some(I32));
        assert_eq!(wide.count(), 0);
    }
}

#[test]
fn windows() {
    let x = || vec![f32s(&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0])];
    let w = constant("k0", F32, &[1, 1, 2], &[1.0, 10.0]);
    case(
        "Conv",
        &["x0", "k0"],
        vec![ints("pads", &[1, 0])],
        x(),
        vec![w.clone()],
        &[1, 1, 4],
        &[10.0, 21.0, 32.0, 43.0],
    );
    let same = vec![text("auto_pad", "SAME_UPPER"), ints("strides", &[2])];
    case("Conv", &["x0", "k0"], same, x(), vec![w.clone()], &[1, 1, 2], &[21.0, 43.0]);
    case(
        "ConvTranspose",
        &["x0", "k0"],
        vec![ints("strides", &[2])],
        x(),
        vec![w],
        &[1, 1, 8],
        &[1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0],
    );
    let pool = || vec![ints("kernel_shape", &[3]), ints("strides", &[2])];
    let with = |more: AttributeProto| [pool(), vec![more]].concat();
    case("MaxPool", &["x0"], pool(), x(), vec![], &[1, 1, 1], &[3.0]);
    case("MaxPool", &["x0"], with(int("ceil_mode", 1)), x(), vec![], &[1, 1, 2], &[3.0, 4.0]);
    case("AveragePool", &["x0"], with(int("ceil_mode", 1)), x(), vec![], &[1, 1, 2], &[2.0, 3.5]);
    case("AveragePool", &["x0"], with(ints("pads", &[1, 1])), x(), vec![], &[1, 1, 2], &[1.5, 3.0]);
}

#[test]
fn normalisation() {
    let x = f32s(&[1, 2, 1], &[3.0, 5.0]);
    let channel = |name: &str, values: &[f64]| constant(name, F32, &[2], values);
    let constants = vec![
        channel("k0", &[2.0, 1.0]),
        channel("k1", &[0.0, 1.0]),
        channel("k2", &[1.0, 5.0]),
        channel("k3", &[4.0, 1.0]),
    ];
    let operands = ["x0", "k0", "k1", "k2", "k3"];
    case(
        "BatchNormalization",
        &operands,
        vec![float("epsilon", 0.0)],
        vec![x],
        constants,
        &[1, 2, 1],
        &[2.0, 1.0],
    );
    let x = f32s(&[1, 2], &[1.0, 3.0]);
    let scale = constant("k0", F32, &[2], &[1.0, 10.0]);
    let no_eps = vec![float("epsilon", 0.0)];
    case("LayerNormalization", &["x0", "k0"], no_eps, vec![x], vec![scale], &[1, 2], &[-1.0, 10.0]);
}

#[test]
fn movement() {
    let x = || vec![f32s(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])];
    let all = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    case("Reshape", &["x0", "k0"], vec![], x(), vec![indices(&[3], &[0.0, 1.0, -1.0])], &[2, 1, 3], &all);
    case("Transpose", &["x0"], vec![], x(), vec![], &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    let bounds = vec![
        indices(&[1], &[-1.0]),
        constant("k1", I64, &[1], &[-9.0]),
        constant("k2", I64, &[1], &[1.0]),
        constant("k3", I64, &[1], &[-2.0]),
    ];
    let operands = ["x0", "k0", "k1", "k2", "k3"];
    case("Slice", &operands, vec![], x(), bounds, &[2, 2], &[2.0, 0.0, 5.0, 3.0]);
    let pads = || vec![indices(&[4], &[0.0, 2.0, 0.0, -1.0])];
    case("Pad", &["x0", "k0"], vec![], x(), pads(), &[2, 4], &[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 3.0, 4.0]);
    // What is cropped is not reflected.
    let pads = vec![indices(&[4], &[0.0, 1.0, 0.0, -1.0])];
    let reflected = [1.0, 0.0, 1.0, 4.0, 3.0, 4.0];
    case("Pad", &["x0", "k0"], vec![text("mode", "reflect")], x(), pads, &[2, 3], &reflected);
    let repeats = vec![indices(&[2], &[1.0, 2.0])];
    case(
        "Tile",
        &["x0", "k0"],
        vec![],
        x(),
        repeats,
        &[2, 6],
        &[0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 3.0, 4.0, 5.0],
    );
    case("Trilu", &["x0"], vec![int("upper", 0)], x(), vec![], &[2, 3], &[0.0, 0.0, 0.0, 3.0, 4.0, 0.0]);
}

#[test]
fn indexing() {
    let x = || vec![f32s(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])];
    let negative = indices(&[2], &[-1.0, 0.0]);
    case("Gather", &["x0", "k0"], vec![int("axis", 1)], x(), vec![negative], &[2, 2], &[2.0, 0.0, 5.0, 3.0]);
    let run_time = Tensor::from_f64(I64, [2].as_slice(), &[-1.0, 0.0]).unwrap();
    let both = [x(), vec![run_time]].concat();
    case("Gather", &["x0", "x1"], vec![int("axis", 1)], both, vec![], &[2, 2], &[2.0, 0.0, 5.0, 3.0]);
    let elements = indices(&[1, 3], &[1.0, 0.0, -1.0]);
    case(
        "GatherElements",
        &["x0", "k0"],
        vec![int("axis", 0)],
        x(),
        vec![elements],
        &[1, 3],
        &[3.0, 1.0, 5.0],
    );
    let tuples = indices(&[2, 2], &[0.0, 1.0, -1.0, -1.0]);
    case("GatherND", &["x0", "k0"], vec![], x(), vec![tuples], &[2], &[1.0, 5.0]);
    let update = constant("k1", F32, &[1, 3], &[7.0, 8.0, 9.0]);
    let rows = vec![indices(&[1, 1], &[1.0]), update];
    case("ScatterND", &["x0", "k0", "k1"], vec![], x(), rows, &[2, 3], &[0.0, 1.0, 2.0, 7.0, 8.0, 9.0]);
}

#[test]
fn reductions() {
    let x = || vec![f32s(&[2, 2], &[1.0, -2.0, 3.0, 4.0])];
    let by_attribute = vec![ints("axes", &[-1]), int("keepdims", 0)];
    case("ReduceMean", &["x0"], by_attribute, x(), vec![], &[2], &[-0.5, 3.5]);
    case("ReduceSum", &["x0", "k0"], vec![], x(), vec![indices(&[1], &[0.0])], &[1, 2], &[4.0, 2.0]);
    case("ReduceL2", &["x0"], vec![int("keepdims", 0)], x(), vec![], &[], &[30f64.sqrt()]);
    case("ArgMax", &["x0"], vec![int("axis", 1)], x(), vec![], &[2, 1], &[0.0, 1.0]);
    let far = vec![f32s(&[2], &[1000.0, 1000.0])];
    case("ReduceLogSumExp", &["x0"], vec![], far, vec![], &[1], &[1000.0 + 2f64.ln()]);
}

#[test]
fn shape_arithmetic_folds() {
    // Flattens all but the batch dimension by Shape, Gather, Unsqueeze and Concat.
    let nodes = vec![
        node("Shape", &["x"], &["s"], vec![]),
        node("Gather", &["s", "zero"], &["b"], vec![]),
        node("Unsqueeze", &["b", "axes"], &["b1"], vec![]),
        node("Concat", &["b1", "rest"], &["t"], vec![int("axis", 0)]),
        node("Reshape", &["x", "t"], &["y"], vec![]),
    ];
    let constants = vec![
        constant("zero", I64, &[], &[0.0]),
        constant("axes", I64, &[1], &[0.0]),
        constant("rest", I64, &[1], &[-1.0]),
    ];
    let model = model(vec![value("x", F32, &[2, 1, 2])], constants, nodes, &["y"]);
    let imported = import_proto(&model, &Default::default()).unwrap();
    let body = &imported.module.functions[imported.module.entries[0].func];
    assert_eq!(body.nodes.len(), 1, "only the reshape is left");
    assert_eq!(imported.module.constants.len(), 0);
    assert_eq!(body.ty(body.results[0]).to_string(), "f32[2,2]");
    assert_eq!(imported.module.origins[body.nodes.values().next().unwrap().origins[0]].op, "Reshape");
}
