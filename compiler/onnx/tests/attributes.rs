//! What a node says and its lowering does not read is refused, not ignored.

mod common;

use std::collections::BTreeSet;

use common::*;
use lacuna_isa::format::ScalarType::{self, Bool, F32, I32, I64, U8};
use lacuna_onnx::proto::*;
use lacuna_onnx::{Diagnostic, Options, supported_ops};

/// Operands that many operators take: element types and shapes.
const OPERANDS: &[&[(ScalarType, &[i64])]] = &[
    &[(F32, &[1, 4, 4, 4])],
    &[(F32, &[4, 4])],
    &[(F32, &[1, 4, 4])],
    &[(F32, &[4, 4]), (F32, &[4, 4])],
    &[(F32, &[4, 4]), (F32, &[4])],
    &[(F32, &[1, 4, 4, 4]), (F32, &[4, 4, 3, 3])],
    &[(F32, &[1, 4, 4, 4]), (F32, &[1, 4, 4, 2])],
    &[(F32, &[1, 4, 4, 4]), (F32, &[4]), (F32, &[4])],
    &[(F32, &[1, 4, 4, 4]), (F32, &[4]), (F32, &[4]), (F32, &[4]), (F32, &[4])],
    &[(F32, &[4, 4]), (F32, &[4, 4]), (F32, &[4])],
    &[(F32, &[4, 4]), (I64, &[4, 4]), (F32, &[4, 4])],
    &[(F32, &[4, 4]), (I64, &[4, 4])],
    &[(F32, &[4, 4]), (I64, &[4])],
    &[(F32, &[4, 4]), (I64, &[4, 1]), (F32, &[4, 4])],
    &[(F32, &[4, 4]), (F32, &[]), (U8, &[])],
    &[(U8, &[4, 4]), (F32, &[]), (U8, &[])],
    &[(U8, &[4, 4]), (F32, &[]), (U8, &[]), (U8, &[4, 4]), (F32, &[]), (U8, &[]), (F32, &[]), (U8, &[])],
    &[(U8, &[1, 4, 4, 4]), (F32, &[]), (U8, &[]), (F32, &[]), (U8, &[])],
    &[(I32, &[4, 4])],
    &[(I32, &[4, 4]), (I32, &[4, 4])],
    &[(U8, &[4, 4]), (U8, &[4, 4])],
    &[(U8, &[1, 4, 4, 4]), (U8, &[4, 4, 3, 3])],
    &[(Bool, &[4, 4])],
    &[(Bool, &[4, 4]), (Bool, &[4, 4])],
    &[(Bool, &[4, 4]), (F32, &[4, 4]), (F32, &[4, 4])],
    &[(F32, &[4, 1, 4]), (F32, &[1, 16, 4]), (F32, &[1, 16, 4])],
    &[(F32, &[4, 1, 4]), (F32, &[1, 12, 4]), (F32, &[1, 12, 4])],
    &[(F32, &[4, 1, 4]), (F32, &[1, 4, 4]), (F32, &[1, 4, 4])],
    &[(F32, &[1, 1, 4, 4]), (F32, &[1, 1, 4, 4]), (F32, &[1, 1, 4, 4])],
    &[(F32, &[1, 4, 4]), (F32, &[1, 4, 4]), (F32, &[1, 4, 4])],
    &[],
];

/// Attributes that some operators cannot be without.
fn required() -> Vec<Vec<AttributeProto>> {
    vec![
        vec![],
        vec![ints("kernel_shape", &[2, 2])],
        vec![int("axis", 1)],
        vec![int("to", 1)],
        vec![int("to", 6)],
        vec![int("blocksize", 2)],
        vec![int("num_groups", 2)],
        vec![int("size", 3)],
        vec![text("direction", "LEFT")],
        vec![text("equation", "ij,jk->ik")],
        vec![int("num_heads", 2)],
        vec![int("fmod", 1)],
    ]
}

/// A model of one node.
fn single(
    op: (&str, &str, i64),
    operands: &[(ScalarType, &[i64])],
    attributes: &[AttributeProto],
) -> ModelProto {
    let (domain, op, opset) = op;
    let names: Vec<String> = (0..operands.len()).map(|i| format!("x{i}")).collect();
    let inputs = operands.iter().zip(&names).map(|((elem, dims), name)| value(name, *elem, dims)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut node = node(op, &names, &["y"], attributes.to_vec());
    domain.clone_into(&mut node.domain);
    let mut model = model(inputs, vec![], vec![node], &["y"]);
    model.opset_import = vec![OperatorSetIdProto { domain: String::new(), version: opset }];
    model
}

fn refusal(model: &ModelProto) -> Diagnostic {
    let mut found = import_proto(model, &Options::default()).expect_err("the model is refused");
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn node_of(model: &mut ModelProto) -> &mut NodeProto {
    &mut model.graph.as_mut().unwrap().node[0]
}

/// A node of the operator that is imported, if one of the operands and attributes above makes one.
fn valid(op: (&'static str, &'static str, i64)) -> Option<ModelProto> {
    let (attributes, default) = (required(), Options::default());
    let mut models =
        attributes.iter().flat_map(|a| OPERANDS.iter().map(move |operands| single(op, operands, a)));
    models.find(|model| import_proto(model, &default).is_ok())
}

#[test]
fn attributes_that_no_operator_has() {
    let mut reached = BTreeSet::new();
    for row in supported_ops() {
        for opset in [6, 12, 17, 28] {
            let Some(mut model) = valid((row.domain, row.op, opset)) else { continue };
            reached.insert((row.domain, row.op));
            let plain = model.clone();
            node_of(&mut model).attribute.push(int("no_such_attribute", 1));
            let found = refusal(&model);
            let what = format!("{}.{} at {opset}: {found}", row.domain, row.op);
            assert_eq!((found.code, found.op.as_deref()), ("L0204", Some(row.op)), "{what}");
            assert!(found.reason.contains("`no_such_attribute`") && !found.hint.is_empty(), "{what}");
            // The result of an operator of any number of operands depends on one more.
            let variadic =
                ["Concat", "Einsum", "Max", "Mean", "Min", "Sum", "SequenceConstruct", "QLinearConcat"];
            if variadic.contains(&row.op) {
                continue;
            }
            let mut model = plain;
            let graph = model.graph.as_mut().unwrap();
            graph.input.push(value("more", F32, &[3, 5]));
            graph.node[0].input.resize(30, String::new());
            graph.node[0].input.push("more".to_owned());
            let found = import_proto(&model, &Options::default()).expect_err(&what);
            assert!(found[0].reason.contains("30 (`more`)"), "{}", found[0]);
        }
    }
    assert!(reached.len() > 150, "only {} operators were reached: {reached:?}", reached.len());
}

/// Attributes of another version of the operator, or that only some forms of it have.
#[test]
fn attributes_that_would_change_results() {
    let pair: &[(ScalarType, &[i64])] = &[(F32, &[4, 4]), (F32, &[4])];
    let check = |op, operands, attributes: Vec<AttributeProto>, reason: &str| {
        let found = refusal(&single(op, operands, &attributes));
        assert!(found.code == "L0204" && found.reason.contains(reason), "{found}");
    };
    // NumPy's rule would add to columns what the attribute adds to rows.
    check(("", "Add", 13), pair, vec![int("broadcast", 1), int("axis", 0)], "`broadcast`, `axis`");
    check(("", "Clip", 13), &[(F32, &[4, 4])], vec![float("min", 0.0), float("max", 6.0)], "`min`, `max`");
    let scaled: &[(ScalarType, &[i64])] = &[(F32, &[4, 4]), (F32, &[])];
    check(("", "QuantizeLinear", 23), scaled, vec![int("precision", 10)], "precision is f16");
    let rotary: &[(ScalarType, &[i64])] =
        &[(F32, &[2, 3, 8]), (I64, &[2, 3]), (F32, &[9, 2]), (F32, &[9, 2])];
    let op = ("com.microsoft", "RotaryEmbedding", 17);
    let packed = vec![int("is_packed_batching", 1)];
    check(op, rotary, packed, "is_packed_batching");
}

#[test]
fn attributes_that_change_nothing() {
    let accepted = |op, operands, attributes: Vec<AttributeProto>| {
        let found = import_proto(&single(op, operands, &attributes), &Options::default());
        assert!(found.is_ok(), "{op:?}: {found:?}");
    };
    let x: &[(ScalarType, &[i64])] = &[(F32, &[1, 4, 4, 4])];
    // Tools mark nodes by names with two underscores.
    accepted(("", "Relu", 18), x, vec![text("__pass", "fused")]);
    accepted(("", "Relu", 5), x, vec![ints("consumed_inputs", &[0])]);
    let same = vec![ints("kernel_shape", &[2, 2]), text("auto_pad", "SAME_UPPER"), ints("pads", &[0; 4])];
    accepted(("", "MaxPool", 12), x, [same, vec![int("storage_order", 1)]].concat());
    accepted(("", "Dropout", 13), x, vec![int("seed", 7)]);
    accepted(("", "Cast", 24), x, vec![int("to", 11), int("saturate", 0), text("round_mode", "down")]);
    let scaled: &[(ScalarType, &[i64])] = &[(F32, &[4, 4]), (F32, &[])];
    accepted(
        ("", "QuantizeLinear", 23),
        scaled,
        vec![int("precision", 1), int("axis", 0), int("block_size", 0)],
    );
}

/// A call of a function gives the function's attributes, and no others.
#[test]
fn attributes_that_a_function_does_not_declare() {
    let slope = AttributeProto { ref_attr_name: "slope".to_owned(), ..float("alpha", 0.0) };
    let function = FunctionProto {
        name: "Bend".to_owned(),
        domain: "local".to_owned(),
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        attribute: vec!["slope".to_owned()],
        node: vec![node("LeakyRelu", &["x"], &["y"], vec![slope])],
        ..FunctionProto::default()
    };
    let call = |attributes: Vec<AttributeProto>| {
        let call = NodeProto { domain: "local".to_owned(), ..node("Bend", &["x"], &["y"], attributes) };
        let mut model = model(vec![value("x", F32, &[4])], vec![], vec![call], &["y"]);
        model.functions.push(function.clone());
        model
    };
    assert!(import_proto(&call(vec![float("slope", 0.5)]), &Options::default()).is_ok());
    let found = refusal(&call(vec![float("slop", 0.5)]));
    assert!(found.reason.contains("Bend has no attribute `slop`"), "{found}");
}
