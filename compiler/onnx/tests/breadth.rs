//! Operators beyond plain element-wise ones and products: scatter, selection, losses, quantised products, old forms.

mod common;

use common::*;
use lacuna_ir::eval::Tensor;
use lacuna_isa::format::ScalarType::{self, Bool, F32, I32, I64, U8};
use lacuna_onnx::Options;
use lacuna_onnx::proto::{AttributeProto, ModelProto, OperatorSetIdProto, TensorProto};

/// Results of one node on inputs `x0`, `x1`, ... and constants of any names, in an operator set.
fn results(
    op: (&str, &str, i64),
    operands: &[&str],
    attributes: Vec<AttributeProto>,
    inputs: &[Tensor],
    constants: Vec<TensorProto>,
    n_outputs: usize,
) -> Vec<Tensor> {
    let (domain, op, opset) = op;
    let names: Vec<String> = (0..n_outputs).map(|i| format!("y{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut node = node(op, operands, &names, attributes);
    domain.clone_into(&mut node.domain);
    let values = inputs.iter().enumerate().map(|(i, t)| {
        let dims: Vec<i64> = t.ty.shape.iter().map(|&d| d as i64).collect();
        value(&format!("x{i}"), t.ty.elem.scalar().unwrap(), &dims)
    });
    let mut model = model(values.collect(), constants, vec![node], &names);
    model.opset_import = vec![OperatorSetIdProto { domain: String::new(), version: opset }];
    run(&model, inputs)
}

fn check(found: &Tensor, shape: &[u64], expect: &[f64]) {
    assert_eq!(*found.ty.shape, *shape);
    let found = found.to_f64();
    let near = |(g, e): (&f64, &f64)| g == e || (g - e).abs() <= 1e-6 * (1.0 + e.abs());
    assert!(found.len() == expect.len() && found.iter().zip(expect).all(near), "{found:?}, not {expect:?}");
}

fn i64s(dims: &[u64], values: &[f64]) -> Tensor {
    Tensor::from_f64(I64, dims, values).unwrap()
}

#[test]
fn operands_broadcast_by_attributes_up_to_operator_set_6() {
    let x = || f32s(&[2, 3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    let b = || constant("k0", F32, &[3], &[10.0, 20.0, 30.0]);
    let attributes = vec![int("broadcast", 1), int("axis", 1)];
    let y = results(("", "Add", 6), &["x0", "k0"], attributes, &[x()], vec![b()], 1);
    let expect = [10.0, 11.0, 22.0, 23.0, 34.0, 35.0, 16.0, 17.0, 28.0, 29.0, 40.0, 41.0];
    check(&y[0], &[2, 3, 2], &expect);
    let slopes = results(
        ("", "PRelu", 6),
        &["x0", "k0"],
        vec![],
        &[f32s(&[1, 3, 1], &[-1.0, 2.0, -3.0])],
        vec![b()],
        1,
    );
    check(&slopes[0], &[1, 3, 1], &[-10.0, 2.0, -90.0]);
    let last = vec![int("broadcast", 1)];
    let k = constant("k0", F32, &[2], &[1.0, -1.0]);
    let y = results(
        ("", "Greater", 1),
        &["x0", "k0"],
        last,
        &[f32s(&[2, 2], &[0.0, 0.0, 2.0, -2.0])],
        vec![k],
        1,
    );
    assert_eq!(y[0].ty.elem.scalar(), Some(Bool));
    check(&y[0], &[2, 2], &[0.0, 1.0, 1.0, 0.0]);
}

#[test]
fn old_attribute_forms() {
    let x = || f32s(&[2, 3], &[-3.0, -1.0, 0.0, 1.0, 2.0, 5.0]);
    let one = |op: &str, opset: i64, attributes: Vec<AttributeProto>| {
        results(("", op, opset), &["x0"], attributes, &[x()], vec![], 1).remove(0)
    };
    check(&one("Clip", 6, vec![float("max", 1.5)]), &[2, 3], &[-3.0, -1.0, 0.0, 1.0, 1.5, 1.5]);
    check(&one("Reshape", 1, vec![ints("shape", &[3, -1])]), &[3, 2], &x().to_f64());
    check(
        &one("Slice", 1, vec![ints("starts", &[1]), ints("ends", &[9]), ints("axes", &[1])]),
        &[2, 2],
        &[-1.0, 0.0, 2.0, 5.0],
    );
    let pads = vec![ints("pads", &[0, 1, 0, -1]), float("value", 7.0)];
    check(&one("Pad", 2, pads), &[2, 3], &[7.0, -3.0, -1.0, 7.0, 1.0, 2.0]);
    check(&one("Cast", 5, vec![text("to", "INT32")]), &[2, 3], &x().to_f64());
    check(&one("Hardmax", 11, vec![int("axis", 0)]), &[2, 3], &[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let tiles = vec![constant("k0", I64, &[], &[2.0]), constant("k1", I64, &[], &[0.0])];
    let y = results(("", "Tile", 5), &["x0", "k0", "k1"], vec![], &[x()], tiles, 1);
    assert_eq!(*y[0].ty.shape, [4, 3]);
}

#[test]
fn training_drops_nothing_only_without_a_ratio() {
    let x = f32s(&[3], &[1.0, -2.0, 3.0]);
    let constants = || vec![constant("k0", F32, &[], &[0.0]), constant("k1", Bool, &[], &[1.0])];
    let y =
        results(("", "Dropout", 13), &["x0", "k0", "k1"], vec![], std::slice::from_ref(&x), constants(), 2);
    check(&y[0], &[3], &[1.0, -2.0, 3.0]);
    check(&y[1], &[3], &[1.0; 3]);
    let drop = node("Dropout", &["x0", "", "k1"], &["y"], vec![]);
    let model = model(vec![value("x0", F32, &[3])], constants(), vec![drop], &["y"]);
    let found = import_proto(&model, &Options::default()).unwrap_err();
    assert!(found[0].is_unsupported() && found[0].reason.contains("at random"), "{}", found[0]);
}

#[test]
fn batch_statistics() {
    let x = f32s(&[2, 1, 2], &[1.0, 3.0, 5.0, 7.0]);
    let names = ["x0", "s", "b", "m", "v"];
    let constants = names[1..].iter().zip([1.0, 0.0, 2.0, 8.0]).map(|(n, v)| constant(n, F32, &[1], &[v]));
    let attributes = vec![int("training_mode", 1), float("momentum", 0.5), float("epsilon", 0.0)];
    let y = results(("", "BatchNormalization", 15), &names, attributes, &[x], constants.collect(), 3);
    let d = 5f64.sqrt();
    check(&y[0], &[2, 1, 2], &[-3.0 / d, -1.0 / d, 1.0 / d, 3.0 / d]);
    check(&y[1], &[1], &[3.0]);
    check(&y[2], &[1], &[6.5]);
}

#[test]
fn losses_ignore_and_weigh() {
    // Classes along dimension 1; the target of the last position is ignored and is no class.
    let x = f32s(&[1, 2, 3], &[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]);
    let target = i64s(&[1, 3], &[1.0, 0.0, -7.0]);
    let weights = || vec![constant("k0", F32, &[2], &[10.0, 1.0])];
    let run = |reduction: &str| {
        let attributes = vec![text("reduction", reduction), int("ignore_index", -7)];
        let inputs = [x.clone(), target.clone()];
        let op = ("", "NegativeLogLikelihoodLoss", 13);
        results(op, &["x0", "x1", "k0"], attributes, &inputs, weights(), 1).remove(0)
    };
    check(&run("none"), &[1, 3], &[4.0, 20.0, 0.0]);
    check(&run("sum"), &[], &[24.0]);
    check(&run("mean"), &[], &[24.0 / 11.0]);
    let scores = f32s(&[2, 2], &[0.0, 0.0, 0.0, 3f64.ln()]);
    let op = ("", "SoftmaxCrossEntropyLoss", 13);
    let y = results(op, &["x0", "x1"], vec![], &[scores, i64s(&[2], &[0.0, 1.0])], vec![], 2);
    check(&y[0], &[], &[-(0.5f64.ln() + 0.75f64.ln()) / 2.0]);
    check(&y[1], &[2, 2], &[0.5f64.ln(), 0.5f64.ln(), 0.25f64.ln(), 0.75f64.ln()]);
}

/// Known indices and those of run time take different ways to one result.
#[test]
fn scatter_with_and_without_known_indices() {
    let data = f32s(&[3, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
    let updates = f32s(&[2, 3], &[20.0, 30.0, 40.0, 50.0, 60.0, 70.0]);
    // Two updates of the first row meet; the second row of indices counts from the end.
    let index = [1.0, 1.0, 0.0, -1.0, 2.0, -4.0];
    let expect: [(&str, [f64; 8]); 4] = [
        ("add", [41.0, 52.0, 3.0, 4.0, 75.0, 6.0, 67.0, 58.0]),
        ("mul", [40.0, 1200.0, 3.0, 4.0, 350.0, 6.0, 420.0, 400.0]),
        ("max", [40.0, 30.0, 3.0, 4.0, 70.0, 6.0, 60.0, 50.0]),
        ("min", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
    ];
    for (reduction, first) in expect {
        let expect: Vec<f64> = first.into_iter().chain([9.0, 10.0, 11.0, 12.0]).collect();
        let attributes = || vec![int("axis", -1), text("reduction", reduction)];
        let op = ("", "ScatterElements", 18);
        let inputs = [data.clone(), i64s(&[2, 3], &index), updates.clone()];
        check(&results(op, &["x0", "x1", "x2"], attributes(), &inputs, vec![], 1)[0], &[3, 4], &expect);
        let known = vec![constant("k0", I64, &[2, 3], &index)];
        let inputs = [data.clone(), updates.clone()];
        check(&results(op, &["x0", "k0", "x1"], attributes(), &inputs, known, 1)[0], &[3, 4], &expect);
    }
    // Rows: the last of equal indices wins.
    let rows = f32s(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let fresh = f32s(&[2, 2], &[10.0, 20.0, 30.0, 40.0]);
    let inputs = [rows, i64s(&[2, 1], &[-1.0, 2.0]), fresh];
    let y = results(("", "ScatterND", 18), &["x0", "x1", "x2"], vec![], &inputs, vec![], 1);
    check(&y[0], &[3, 2], &[1.0, 2.0, 3.0, 4.0, 30.0, 40.0]);
}

#[test]
fn a_cache_is_written_where_each_batch_element_says() {
    let cache = f32s(&[2, 3, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let update = f32s(&[2, 2, 1], &[10.0, 20.0, 30.0, 40.0]);
    let inputs = |at: &[f64]| [cache.clone(), update.clone(), i64s(&[2], at)];
    let op = ("", "TensorScatter", 24);
    let y = results(op, &["x0", "x1", "x2"], vec![], &inputs(&[1.0, 0.0]), vec![], 1);
    check(&y[0], &[2, 3, 1], &[1.0, 10.0, 20.0, 30.0, 40.0, 6.0]);
    let circular = vec![text("mode", "circular")];
    let y = results(op, &["x0", "x1", "x2"], circular, &inputs(&[2.0, 1.0]), vec![], 1);
    check(&y[0], &[2, 3, 1], &[20.0, 2.0, 10.0, 4.0, 30.0, 40.0]);
}

/// Every element is ranked against every other in short rows; long rows are searched step by step.
#[test]
fn the_greatest_elements_in_order() {
    let x = f32s(&[1, 5, 2], &[1.0, 9.0, 3.0, 9.0, 3.0, 0.0, -1.0, 9.0, 2.0, 4.0]);
    let k = || vec![constant("k0", I64, &[1], &[3.0])];
    let y = results(("", "TopK", 11), &["x0", "k0"], vec![int("axis", -2)], std::slice::from_ref(&x), k(), 2);
    check(&y[0], &[1, 3, 2], &[3.0, 9.0, 3.0, 9.0, 2.0, 9.0]);
    check(&y[1], &[1, 3, 2], &[1.0, 0.0, 2.0, 1.0, 4.0, 3.0]);
    let least = vec![int("axis", 1), int("largest", 0)];
    let y = results(("", "TopK", 11), &["x0", "k0"], least, &[x], k(), 2);
    check(&y[0], &[1, 3, 2], &[-1.0, 0.0, 1.0, 4.0, 2.0, 9.0]);
    let (n, low) = (5000, f64::NEG_INFINITY);
    let long: Vec<f64> = (0..n).map(|i| if i == 77 { 5.0 } else { low }).collect();
    let y = results(("", "TopK", 10), &["x0", "k0"], vec![], &[f32s(&[n], &long)], k(), 2);
    check(&y[0], &[3], &[5.0, low, low]);
    check(&y[1], &[3], &[77.0, 0.0, 1.0]);
}

#[test]
fn greatest_elements_of_windows_go_back_where_they_were() {
    let x = f32s(
        &[1, 2, 2, 4],
        &[1.0, 9.0, 2.0, 3.0, 4.0, 5.0, 8.0, 0.0, 1.0, 1.0, 2.0, 2.0, 0.0, 0.0, 3.0, 1.0],
    );
    let attributes = || vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
    let y = results(("", "MaxPool", 12), &["x0"], attributes(), std::slice::from_ref(&x), vec![], 2);
    check(&y[0], &[1, 2, 1, 2], &[9.0, 8.0, 1.0, 3.0]);
    check(&y[1], &[1, 2, 1, 2], &[1.0, 6.0, 8.0, 14.0]);
    let back =
        results(("", "MaxUnpool", 11), &["x0", "x1"], attributes(), &[y[0].clone(), y[1].clone()], vec![], 1);
    let mut expect = [0.0; 16];
    for (at, v) in [(1, 9.0), (6, 8.0), (8, 1.0), (14, 3.0)] {
        expect[at] = v;
    }
    check(&back[0], &[1, 2, 2, 4], &expect);
    let columns = [attributes(), vec![int("storage_order", 1)]].concat();
    let y = results(("", "MaxPool", 12), &["x0"], columns, &[x], vec![], 2);
    check(&y[1], &[1, 2, 1, 2], &[2.0, 5.0, 8.0, 13.0]);
}

#[test]
fn quantised_products() {
    let codes = |dims: &[u64], values: &[f64]| Tensor::from_f64(U8, dims, values).unwrap();
    let k = |name: &str, elem: ScalarType, values: &[f64]| {
        let dims: Vec<i64> = if values.len() == 1 { vec![] } else { vec![values.len() as i64] };
        constant(name, elem, &dims, values)
    };
    let constants = vec![
        k("as", F32, &[0.5]),
        k("az", U8, &[10.0]),
        constant("b", U8, &[2, 2], &[1.0, 2.0, 3.0, 255.0]),
        k("bs", F32, &[1.0, 0.25]),
        k("bz", U8, &[1.0, 0.0]),
        k("ys", F32, &[2.0]),
        k("yz", U8, &[100.0]),
    ];
    let operands = ["x0", "as", "az", "b", "bs", "bz", "ys", "yz"];
    let x = codes(&[1, 2], &[20.0, 13.0]);
    let y = results(("", "QLinearMatMul", 21), &operands, vec![], &[x], constants, 1);
    // (0 * 10 + 2 * 3) / 4 rounds to even, (2 * 10 + 255 * 3) / 16.
    check(&y[0], &[1, 2], &[102.0, 149.0]);
    let y = results(
        ("", "DynamicQuantizeLinear", 11),
        &["x0"],
        vec![],
        &[f32s(&[3], &[-1.0, 0.0, 1.55])],
        vec![],
        3,
    );
    check(&y[0], &[3], &[0.0, 100.0, 255.0]);
    check(&y[1], &[], &[0.01]);
    check(&y[2], &[], &[100.0]);
    let (w, zero) = (constant("w", U8, &[1, 1, 2], &[3.0, 5.0]), k("z", U8, &[4.0]));
    let x = codes(&[1, 1, 3], &[5.0, 4.0, 0.0]);
    let y = results(("", "ConvInteger", 10), &["x0", "w", "z", "z"], vec![], &[x], vec![w, zero], 1);
    assert_eq!(y[0].ty.elem.scalar(), Some(I32));
    check(&y[0], &[1, 1, 2], &[-1.0, -4.0]);
}

#[test]
fn einsum_of_any_number_of_operands() {
    let a = || f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let einsum = |equation: &str, n: usize| {
        let names: Vec<String> = (0..n).map(|i| format!("x{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let inputs = vec![a(); n];
        results(("", "Einsum", 12), &names, vec![text("equation", equation)], &inputs, vec![], 1).remove(0)
    };
    check(&einsum("ij,jk,kl->li", 3), &[2, 2], &[37.0, 81.0, 54.0, 118.0]);
    check(&einsum("ii", 1), &[], &[5.0]);
    check(&einsum("ii->i", 1), &[2], &[1.0, 4.0]);
    check(&einsum("ii,...i->...", 2), &[2], &[9.0, 19.0]);
    check(&einsum("ij,ij,ij->j", 3), &[2], &[28.0, 72.0]);
}

fn refused(model: &ModelProto) -> Vec<lacuna_onnx::Diagnostic> {
    import_proto(model, &Options::default()).unwrap_err()
}

#[test]
fn shapes_that_depend_on_elements_need_known_operands() {
    let x = constant("k0", F32, &[2, 3], &[0.0, 1.0, 2.0, 3.0, 0.0, 0.0]);
    let y = results(("", "NonZero", 13), &["k0"], vec![], &[], vec![x], 1);
    check(&y[0], &[2, 3], &[0.0, 0.0, 1.0, 1.0, 2.0, 0.0]);
    let x = constant("k0", I64, &[3, 2], &[5.0, 1.0, 2.0, 1.0, 5.0, 1.0]);
    let y = results(("", "Unique", 11), &["k0"], vec![int("axis", 0)], &[], vec![x], 4);
    check(&y[0], &[2, 2], &[2.0, 1.0, 5.0, 1.0]);
    check(&y[1], &[2], &[1.0, 0.0]);
    check(&y[2], &[3], &[1.0, 0.0, 1.0]);
    check(&y[3], &[2], &[1.0, 2.0]);
    let condition = constant("k0", Bool, &[2], &[0.0, 1.0]);
    let x = f32s(&[1, 3], &[1.0, 2.0, 3.0]);
    let y = results(("", "Compress", 11), &["x0", "k0"], vec![int("axis", -1)], &[x], vec![condition], 1);
    check(&y[0], &[1, 1], &[2.0]);
    let find = node("NonZero", &["x0"], &["y"], vec![]);
    let found = refused(&model(vec![value("x0", F32, &[2])], vec![], vec![find], &["y"]));
    assert_eq!((found[0].code, found[0].inputs.as_slice()), ("L0206", ["x0".to_owned()].as_slice()));
}

#[test]
fn overlapping_boxes_are_dropped() {
    let boxes = [0.0, 0.0, 1.0, 1.0, 0.0, 0.1, 1.0, 1.1, 1.0, 11.1, 0.0, 10.1];
    let constants = || {
        vec![
            constant("b", F32, &[1, 3, 4], &boxes),
            constant("s", F32, &[1, 1, 3], &[0.5, 0.9, 0.3]),
            constant("n", I64, &[1], &[3.0]),
            constant("iou", F32, &[1], &[0.5]),
        ]
    };
    let y = results(("", "NonMaxSuppression", 11), &["b", "s", "n", "iou"], vec![], &[], constants(), 1);
    check(&y[0], &[2, 3], &[0.0, 0.0, 1.0, 0.0, 0.0, 2.0]);
}

#[test]
fn sequences_of_tokens_are_counted() {
    let attributes = vec![
        text("mode", "TF"),
        int("min_gram_length", 1),
        int("max_gram_length", 2),
        int("max_skip_count", 1),
        ints("ngram_counts", &[0, 2]),
        ints("ngram_indexes", &[0, 2, 1]),
        ints("pool_int64s", &[7, 8, 7, 8]),
    ];
    let x = Tensor::from_f64(I32, [2, 4].as_slice(), &[7.0, 8.0, 8.0, 1.0, 8.0, 7.0, 1.0, 8.0]).unwrap();
    let y = results(("", "TfIdfVectorizer", 9), &["x0"], attributes, &[x], vec![], 1);
    check(&y[0], &[2, 3], &[1.0, 2.0, 2.0, 1.0, 1.0, 2.0]);
}

#[test]
fn bits_as_another_type() {
    let x = f32s(&[2], &[1.0, -2.0]);
    let y = results(("", "BitCast", 26), &["x0"], vec![int("to", 6)], &[x], vec![], 1);
    check(&y[0], &[2], &[f64::from(0x3F80_0000), f64::from(0xC000_0000u32 as i32)]);
}

#[test]
fn rows_in_reverse_as_far_as_each_length() {
    let x = f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let attributes = vec![int("time_axis", 1), int("batch_axis", 0)];
    let y = results(
        ("", "ReverseSequence", 10),
        &["x0", "x1"],
        attributes,
        &[x, i64s(&[2], &[2.0, 3.0])],
        vec![],
        1,
    );
    check(&y[0], &[2, 3], &[2.0, 1.0, 3.0, 6.0, 5.0, 4.0]);
}

#[test]
fn operators_of_other_domains() {
    let ml = "ai.onnx.ml";
    let x = || f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let y = results((ml, "Binarizer", 21), &["x0"], vec![float("threshold", 2.0)], &[x()], vec![], 1);
    check(&y[0], &[2, 3], &[0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
    let index = vec![constant("k0", I64, &[1, 2], &[2.0, 0.0])];
    let y = results((ml, "ArrayFeatureExtractor", 21), &["x0", "k0"], vec![], &[x()], index, 1);
    check(&y[0], &[2, 2], &[3.0, 1.0, 6.0, 4.0]);
    let microsoft = "com.microsoft";
    let b = vec![constant("k0", F32, &[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0])];
    let attributes = vec![int("transB", 1), float("alpha", 2.0)];
    let y = results((microsoft, "FusedMatMul", 17), &["x0", "k0"], attributes, &[x()], b, 1);
    check(&y[0], &[2, 2], &[2.0, 10.0, 8.0, 22.0]);
    // Two codes in a byte, the low half first; without a zero point codes are centred on 8.
    let constants = vec![
        constant("k0", U8, &[1, 1, 2], &[f64::from(0x9A), f64::from(0x07)]),
        constant("k1", F32, &[1], &[0.5]),
    ];
    let attributes = vec![int("K", 3), int("N", 1), int("bits", 4), int("block_size", 4)];
    let y = results((microsoft, "MatMulNBits", 17), &["x0", "k0", "k1"], attributes, &[x()], constants, 1);
    check(&y[0], &[2, 1], &[0.5, 3.5]);
}

/// Up to operator set 10 the bounds of Clip are attributes; from set 6 on, one that is absent is the greatest f32.
#[test]
fn clip_by_attributes() {
    let (max, infinity) = (f64::from(f32::MAX), f64::INFINITY);
    let x = [f32s(&[4], &[-infinity, -3.0, 0.5, infinity])];
    let clip = |opset, attributes| results(("", "Clip", opset), &["x0"], attributes, &x, vec![], 1);
    check(&clip(10, vec![float("min", -2.0)])[0], &[4], &[-2.0, -2.0, 0.5, max]);
    check(&clip(7, vec![float("max", 0.0)])[0], &[4], &[-max, -3.0, 0.0, 0.0]);
    check(&clip(5, vec![float("min", -2.0)])[0], &[4], &[-2.0, -2.0, 0.5, infinity]);
}

/// A transposed convolution of which pads leave no element, or of no image, has an empty result of the right shape.
#[test]
fn empty_transposed_convolutions() {
    let x = [f32s(&[1, 2, 1], &[1.0, 2.0])];
    let w = constant("k0", F32, &[2, 1, 2], &[1.0; 4]);
    let attributes = vec![ints("pads", &[1, 1]), int("group", 2)];
    let y = results(("", "ConvTranspose", 18), &["x0", "k0"], attributes, &x, vec![w], 1);
    check(&y[0], &[1, 2, 0], &[]);
    let none = [f32s(&[0, 2, 3], &[])];
    let w = constant("k0", F32, &[2, 1, 2], &[1.0; 4]);
    let y = results(("", "ConvTranspose", 18), &["x0", "k0"], vec![ints("strides", &[3])], &none, vec![w], 1);
    check(&y[0], &[0, 1, 8], &[]);
}

#[test]
fn no_repeats_at_any_rank() {
    let x = [f32s(&[1, 1, 2, 1, 1, 1, 1, 1], &[1.0, 2.0])];
    let repeats = constant("k0", I64, &[8], &[1.0, 3.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0]);
    let y = results(("", "Tile", 13), &["x0", "k0"], vec![], &x, vec![repeats], 1);
    check(&y[0], &[1, 3, 0, 1, 1, 1, 1, 2], &[]);
}

/// A result that `output_shape` makes longer than the spread operand reaches has zeros at its end, whatever the padding.
#[test]
fn transposed_convolutions_of_a_longer_shape() {
    for auto_pad in ["NOTSET", "SAME_UPPER", "SAME_LOWER"] {
        let w = constant("k0", F32, &[1, 1, 3], &[1.0, 2.0, 3.0]);
        let attributes = vec![ints("strides", &[2]), ints("output_shape", &[8]), text("auto_pad", auto_pad)];
        let x = [f32s(&[1, 1, 2], &[1.0, 10.0])];
        let y = results(("", "ConvTranspose", 18), &["x0", "k0"], attributes, &x, vec![w], 1);
        check(&y[0], &[1, 1, 8], &[1.0, 2.0, 13.0, 20.0, 30.0, 0.0, 0.0, 0.0]);
    }
}

/// Two tokens and two experts, of which each token takes the likelier one.
#[test]
fn experts() {
    let op = |name| ("com.microsoft", name, 17);
    let l3 = 3f64.ln();
    let inputs = || [f32s(&[2, 2], &[2.0, 5.0, 3.0, -4.0]), f32s(&[2, 2], &[l3, 0.0, 0.0, l3])];
    let first = || constant("k0", F32, &[2, 2, 2], &[1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, -1.0]);
    let second = || constant("k1", F32, &[2, 2, 2], &[1.0, 1.0, 0.0, 2.0, 1.0, 0.0, 0.0, 1.0]);
    let operands = ["x0", "x1", "k0", "", "k1"];
    let plain = || vec![text("activation_type", "relu"), int("k", 1)];
    let y = results(op("MoE"), &operands, plain(), &inputs(), vec![first(), second()], 1);
    check(&y[0], &[2, 2], &[5.25, 7.5, 4.5, 3.0]);
    let normal = || [plain(), vec![int("normalize_routing_weights", 1)]].concat();
    let y = results(op("MoE"), &operands, normal(), &inputs(), vec![first(), second()], 1);
    check(&y[0], &[2, 2], &[7.0, 10.0, 6.0, 4.0]);

    // The same weights as codes of four bits around 8.
    let codes = |name: &str, bytes: [u8; 4]| constant(name, U8, &[2, 2, 1], &bytes.map(f64::from));
    let ones = |name: &str| constant(name, F32, &[2, 2], &[1.0; 4]);
    let constants = vec![
        codes("k0", [0x89, 0x98, 0x8a, 0x78]),
        ones("k1"),
        codes("k2", [0x99, 0xa8, 0x89, 0x98]),
        ones("k3"),
    ];
    let operands = ["x0", "x1", "k0", "k1", "", "k2", "k3"];
    let y = results(op("QMoE"), &operands, normal(), &inputs(), constants, 1);
    check(&y[0], &[2, 2], &[7.0, 10.0, 6.0, 4.0]);
}

/// The gate and the other factor of a gated activation: rows that alternate, halves, or two layers.
#[test]
fn gated_experts_in_three_layouts() {
    let inputs = || [f32s(&[1, 2], &[2.0, -1.0]), f32s(&[1, 1], &[0.0])];
    let down = || constant("k1", F32, &[1, 2, 2], &[1.0, 0.0, 0.0, 1.0]);
    let (gates, others) = ([[0.5, 1.0], [3.0, 2.0]], [[-1.0, 0.25], [0.5, 1.5]]);
    let run = |fusion: i64, operands: &[&str], rows: &[[f64; 2]], third: Vec<TensorProto>| {
        let attributes = vec![
            text("activation_type", "swiglu"),
            int("swiglu_fusion", fusion),
            float("swiglu_limit", 3.0),
            float("activation_beta", 1.0),
        ];
        let up = constant("k0", F32, &[1, rows.len() as i64, 2], &rows.concat());
        let constants = [vec![up, down()], third].concat();
        results(("com.microsoft", "MoE", 17), operands, attributes, &inputs(), constants, 1).remove(0)
    };
    let fused = ["x0", "x1", "k0", "", "k1"];
    let alternating = [gates[0], others[0], gates[1], others[1]];
    let halves = [gates, others].concat();
    let third = constant("k2", F32, &[1, 2, 2], &others.concat());
    // Gates 0 and 4, which is limited to 3; other factors -2.25 and -0.5, with 1 added.
    let expect = [0.0, 3.0 / (1.0 + (-3f64).exp()) * 0.5];
    check(&run(1, &fused, &alternating, vec![]), &[1, 2], &expect);
    check(&run(2, &fused, &halves, vec![]), &[1, 2], &expect);
    check(&run(0, &["x0", "x1", "k0", "", "k1", "", "k2"], &gates, vec![third]), &[1, 2], &expect);
}

/// Codes from high to low bits, in blocks that reach from one row into the next.
#[test]
fn products_with_tables_of_four_bits() {
    let x = || [f32s(&[1, 3], &[1.0, 10.0, 100.0])];
    let run = |kind: i64, transposed: i64, inner: i64| {
        let constants = vec![
            constant("k0", U8, &[3], &[f64::from(0x7f), f64::from(0xf0), f64::from(0x0f)]),
            constant("k1", F32, &[2], &[2.0, 3.0]),
        ];
        let attributes = vec![
            int("K", inner),
            int("N", 6 / inner),
            int("block_size", 4),
            int("quant_type", kind),
            int("transB", transposed),
        ];
        let op = ("com.microsoft", "MatMulBnb4", 17);
        results(op, &["x0", "k0", "k1"], attributes, &x(), constants, 1).remove(0)
    };
    // NF4: [0, 2, 2], [-2, -3, 3].
    check(&run(1, 1, 3), &[1, 2], &[220.0, 268.0]);
    check(&run(1, 0, 2), &[1, 2], &[20.0 - 300.0, 2.0 - 20.0 + 300.0]);
    // FP4: [0.5, -0.5, -0.5], [0, 0, -0.75].
    check(&run(0, 1, 3), &[1, 2], &[0.5 - 5.0 - 50.0, -75.0]);
}

/// Integers that f64 does not hold.
#[test]
fn ranges_of_great_integers() {
    let range = |start: i64, limit: i64, step: i64| {
        let k = |name: &str, value: i64| {
            lacuna_onnx::encode_tensor(name, &lacuna_ir::TensorType::new(I64, vec![]), &value.to_le_bytes())
        };
        let constants = vec![k("k0", start), k("k1", limit), k("k2", step)];
        let y = results(("", "Range", 11), &["k0", "k1", "k2"], vec![], &[], constants, 1).remove(0);
        y.ints().unwrap().to_vec()
    };
    let (large, odd) = (1 << 60, (1 << 53) + 1);
    assert_eq!(range(large, large + 5, 2), [large, large + 2, large + 4]);
    assert_eq!(range(odd, odd + 3, 1), [odd, odd + 1, odd + 2]);
    assert_eq!(range(i64::MAX, i64::MAX - 5, -2), [i64::MAX, i64::MAX - 2, i64::MAX - 4]);
    assert_eq!(range(i64::MIN, i64::MAX, 1 << 62), [i64::MIN, -(1 << 62), 0, 1 << 62]);
    assert_eq!(range(3, 1, 1), []);
    assert_eq!(range(7, 1, -3), [7, 4]);
}

#[test]
fn diagonals_beyond_the_matrix() {
    let x = [f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])];
    let trilu = |k: i64, upper: i64| {
        let ty = lacuna_ir::TensorType::new(I64, vec![]);
        let k = lacuna_onnx::encode_tensor("k0", &ty, &k.to_le_bytes());
        results(("", "Trilu", 14), &["x0", "k0"], vec![int("upper", upper)], &x, vec![k], 1).remove(0)
    };
    for k in [i64::MAX, i64::MAX - 1, 1 << 54] {
        check(&trilu(k, 0), &[2, 3], &x[0].to_f64());
        check(&trilu(k, 1), &[2, 3], &[0.0; 6]);
        check(&trilu(-k, 1), &[2, 3], &x[0].to_f64());
        check(&trilu(-k - 1, 0), &[2, 3], &[0.0; 6]);
    }
}

#[test]
fn concatenations_of_any_number() {
    let x = [f32s(&[1], &[3.0])];
    let y = results(("", "Concat", 13), &["x0"; 5000], vec![int("axis", 0)], &x, vec![], 1);
    check(&y[0], &[5000], &[3.0; 5000]);
}

/// A window of zeros in bytes, or of minus infinity, has its greatest element where its first one is, not in the padding.
#[test]
fn positions_of_the_greatest_are_never_in_the_padding() {
    let attributes = |order: i64| {
        vec![
            ints("kernel_shape", &[3, 3]),
            ints("pads", &[1; 4]),
            ints("strides", &[2, 2]),
            int("storage_order", order),
        ]
    };
    let least =
        |elem: ScalarType, value: f64| Tensor::from_f64(elem, vec![1, 1, 4, 4], &[value; 16]).unwrap();
    for x in [least(U8, 0.0), least(ScalarType::I8, -128.0), least(F32, f64::NEG_INFINITY)] {
        for (order, expect) in [(0, [0.0, 1.0, 4.0, 5.0]), (1, [0.0, 4.0, 1.0, 5.0])] {
            let x = std::slice::from_ref(&x);
            let y = results(("", "MaxPool", 12), &["x0"], attributes(order), x, vec![], 2);
            check(&y[1], &[1, 1, 2, 2], &expect);
        }
    }
    // With a dilation the first position inside is not at the edge.
    let dilated = vec![ints("kernel_shape", &[2]), ints("pads", &[2, 0]), ints("dilations", &[3])];
    let x = [Tensor::from_f64(U8, vec![1, 1, 4], &[0.0; 4]).unwrap()];
    let y = results(("", "MaxPool", 12), &["x0"], dilated, &x, vec![], 2);
    check(&y[1], &[1, 1, 3], &[1.0, 2.0, 0.0]);
}

/// In the first operator set the exponent of a norm is a float.
#[test]
fn exponents_of_norms_of_the_first_operator_set() {
    let x = || f32s(&[1, 1, 3], &[3.0, -4.0, 0.0]);
    let y = results(("", "GlobalLpPool", 1), &["x0"], vec![float("p", 2.0)], &[x()], vec![], 1);
    check(&y[0], &[1, 1, 1], &[5.0]);
    let attributes = vec![float("p", 3.0), ints("kernel_shape", &[2])];
    let y = results(("", "LpPool", 1), &["x0"], attributes, &[x()], vec![], 1);
    check(&y[0], &[1, 1, 2], &[91f64.cbrt(), 4.0]);
}

/// A norm without a mean has none among its results.
#[test]
fn results_of_a_norm_that_is_not_centred() {
    let (x, scale) = (f32s(&[1, 4], &[1.0, 2.0, 3.0, 4.0]), constant("k0", F32, &[4], &[1.0; 4]));
    let op = ("", "SimplifiedLayerNormalization", 17);
    let y = results(op, &["x0", "k0"], vec![float("epsilon", 0.0)], &[x], vec![scale], 2);
    check(&y[1], &[1, 1], &[1.0 / 7.5f64.sqrt()]);
}

/// The last of very many windows has fewer elements than the others.
#[test]
fn averages_of_more_windows_than_a_million() {
    let n = (1 << 20) + 4;
    let x = f32s(&[1, 1, n], &vec![1.0; n as usize]);
    for pads in [[0, 1], [1, 0]] {
        let attributes = vec![ints("kernel_shape", &[2]), ints("pads", &pads)];
        let y = results(("", "AveragePool", 19), &["x0"], attributes, std::slice::from_ref(&x), vec![], 1);
        assert!(y[0].to_f64().iter().all(|&mean| mean == 1.0), "pads {pads:?}");
    }
}

/// Nodes that tools left behind their uses, in a graph and in a body.
#[test]
fn nodes_in_any_order() {
    let x = f32s(&[3], &[1.0, -2.0, 3.0]);
    let nodes = vec![
        node("Relu", &["b"], &["c"], vec![]),
        node("Add", &["a", "c"], &["d"], vec![]),
        node("Neg", &["x"], &["a"], vec![]),
        node("Neg", &["a"], &["b"], vec![]),
    ];
    let y = run(&model(vec![value("x", F32, &[3])], vec![], nodes, &["d"]), &[x]);
    check(&y[0], &[3], &[0.0, 2.0, 0.0]);
}

/// A window that is larger than what there is counts if it reaches beyond by less than a stride.
#[test]
fn rounded_up_windows_larger_than_the_operand() {
    let x = || f32s(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let attributes = || vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2]), int("ceil_mode", 1)];
    let y = results(("", "MaxPool", 12), &["x0"], attributes(), &[x()], vec![], 1);
    check(&y[0], &[1, 1, 1, 1], &[4.0]);
    let y = results(("", "AveragePool", 19), &["x0"], attributes(), &[x()], vec![], 1);
    check(&y[0], &[1, 1, 1, 1], &[2.5]);
}
