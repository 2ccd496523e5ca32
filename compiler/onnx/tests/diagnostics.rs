//! What the importer says about models and options that are wrong or not supported.

mod common;

use std::collections::BTreeMap;

use common::*;
use lacuna_ir::Blob;
use lacuna_isa::format::ScalarType::{F32, I64};
use lacuna_onnx::proto::*;
use lacuna_onnx::{Diagnostic, Literal, NoExternalData, Options, codes, import};
use prost::Message;

fn shown(found: &[Diagnostic]) -> String {
    found.iter().map(|d| format!("{d}\n")).collect()
}

fn refusal(model: &ModelProto, options: &Options) -> String {
    shown(&import_proto(model, options).expect_err("the model is refused"))
}

fn check(model: &ModelProto, code: &str, reason: &str) {
    let text = refusal(model, &Options::default());
    assert!(text.starts_with(code) && text.contains(reason), "{text}");
}

fn relu() -> ModelProto {
    model(vec![value("x", F32, &[2, 3])], vec![], vec![node("Relu", &["x"], &["y"], vec![])], &["y"])
}

#[test]
fn every_unsupported_node_is_named_in_one_run() {
    let nodes = vec![
        node("RandomNormalLike", &["x"], &["a"], vec![]),
        // Depends on a refused node: not reported itself.
        node("Relu", &["a"], &["b"], vec![]),
        // Depends on a refused node, and is not supported either.
        node("Multinomial", &["b"], &["c"], vec![]),
        NodeProto { domain: "com.example".to_owned(), ..node("FusedGelu", &["x"], &["d"], vec![]) },
        node("LpNormalization", &["x"], &["e"], vec![int("p", 3)]),
        node("Not", &["x"], &["f"], vec![]),
        NodeProto { name: "reshape_1".to_owned(), ..node("Reshape", &["x", "s"], &["g"], vec![]) },
        node("Gelu", &["x"], &["h"], vec![]),
        node("Add", &["x", "k"], &["i"], vec![]),
    ];
    let inputs = vec![value("x", F32, &[1, 2, 3]), value("s", I64, &[2])];
    let model = model(inputs, vec![constant("k", F32, &[2], &[0.0, 0.0])], nodes, &["c", "i"]);
    insta::assert_snapshot!(refusal(&model, &Options::default()));
}

#[test]
fn dimensions_and_bindings() {
    let inputs = vec![symbolic("x", F32, &["batch", "2"]), symbolic("z", F32, &["batch", "length"])];
    let body = || vec![node("Relu", &["x"], &["y"], vec![])];
    let model = model(inputs, vec![], body(), &["y"]);
    insta::assert_snapshot!(refusal(&model, &Options::default()));

    let dims = |pairs: &[(&str, u64)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
    let options = Options { dims: dims(&[("batch", 3), ("length", 4)]), ..Options::default() };
    let imported = import_proto(&model, &options).unwrap();
    let body = &imported.module.functions[imported.module.entries[0].func];
    let types: Vec<String> = body.params.iter().map(|&p| body.ty(p).to_string()).collect();
    assert_eq!(types, ["f32[3,2]", "f32[3,4]"]);

    let bound = constant("x", F32, &[3, 5], &[0.0; 15]);
    let (_, literal) = lacuna_onnx::decode_tensor(bound, &NoExternalData).unwrap();
    let bindings: BTreeMap<String, Literal> =
        [("x", &literal), ("w", &literal)].map(|(name, literal)| (name.to_owned(), literal.clone())).into();
    let options = Options { dims: dims(&[("batch", 3), ("length", 4), ("width", 1)]), bindings };
    insta::assert_snapshot!(refusal(&model, &options));
}

#[test]
fn files_that_are_not_models() {
    let whole = relu().encode_to_vec();
    let refused = |bytes: Vec<u8>| {
        shown(&import(Blob::new(bytes), &NoExternalData, &Options::default()).expect_err("refused"))
    };
    assert!(refused(whole[..whole.len() - 20].to_vec()).starts_with("L0101"));
    assert!(refused(b"version https://git-lfs.github.com/spec/v1\n".to_vec()).starts_with("L0101"));
    assert!(refused(Vec::new()).starts_with("L0101"));
    let empty = ModelProto { graph: Some(GraphProto::default()), ..relu() };
    check(&empty, "L0102", "no outputs");
}

#[test]
fn operator_sets() {
    let with = |domain: &str, version: i64| ModelProto {
        opset_import: vec![OperatorSetIdProto { domain: domain.to_owned(), version }],
        ..relu()
    };
    check(&with("", 0), "L0103", "version 0");
    check(&with("", 29), "L0103", "version 29");
    check(&with("com.example", 1), "L0103", "no version");
    assert!(import_proto(&with("ai.onnx", 25), &Options::default()).is_ok());
    let mut swish = with("", 23);
    swish.graph.as_mut().unwrap().node[0].op_type = "Swish".to_owned();
    check(&swish, "L0203", "from operator set 24");
}

#[test]
fn names_and_order() {
    let x = || vec![value("x", F32, &[2])];
    let cycle = vec![node("Add", &["x", "b"], &["a"], vec![]), node("Relu", &["a"], &["b"], vec![])];
    check(&model(x(), vec![], cycle, &["b"]), "L0104", "is the result of `b`");
    let missing = vec![node("Add", &["x", "nothing"], &["a"], vec![])];
    check(&model(x(), vec![], missing, &["a"]), "L0104", "nothing defines operand `nothing`");
    check(&model(x(), vec![], vec![], &["y"]), "L0104", "output `y`");
    let twice = vec![node("Relu", &["x"], &["a"], vec![]), node("Neg", &["x"], &["a"], vec![])];
    check(&model(x(), vec![], twice, &["a"]), "L0105", "`a`");
}

#[test]
fn constants() {
    let with = |k: TensorProto| {
        let nodes = vec![node("Add", &["x", "k"], &["y"], vec![])];
        model(vec![value("x", F32, &[2])], vec![k], nodes, &["y"])
    };
    let good = constant("k", F32, &[2], &[1.0, 2.0]);
    let short = TensorProto { dims: vec![3], ..good.clone() };
    check(&with(short), "L0106", "needs 12 bytes of raw data, but has 8");
    check(&with(TensorProto { dims: vec![-1], ..good.clone() }), "L0106", "negative");
    check(&with(TensorProto { dims: vec![1 << 40; 3], ..good.clone() }), "L0106", "2^40");
    check(&with(TensorProto { data_type: 8, ..good.clone() }), "L0113", "strings");
    check(&with(TensorProto { data_type: 99, ..good.clone() }), "L0106", "99 is unknown");
    let typed = TensorProto { raw_data: None, float_data: vec![1.0], ..good.clone() };
    check(&with(typed), "L0106", "needs 2 elements, but has 1");
    let entry = StringStringEntryProto { key: "location".to_owned(), value: "weights.bin".to_owned() };
    let outside = TensorProto { raw_data: None, data_location: 1, external_data: vec![entry], ..good };
    check(&with(outside), "L0107", "weights.bin");
}

#[test]
fn every_code_is_explained() {
    for code in codes::ALL {
        assert!(code.explanation.len() > 40, "{}", code.code);
        assert!(!code.title.ends_with('.'), "{}", code.code);
    }
}

#[test]
fn typed_fields_and_raw_data_agree() {
    use lacuna_isa::format::ScalarType as T;
    // Elements of each type, raw, and in the typed field.
    let cases: [(T, Vec<u8>, TensorProto); 6] = [
        (T::F16, vec![0x00, 0x3c], TensorProto { int32_data: vec![0x3c00], ..TensorProto::default() }),
        (T::I8, vec![0xff], TensorProto { int32_data: vec![-1], ..TensorProto::default() }),
        (
            T::U32,
            vec![1, 0, 0, 0x80],
            TensorProto { uint64_data: vec![0x8000_0001], ..TensorProto::default() },
        ),
        (
            I64,
            vec![0xfe; 8],
            TensorProto { int64_data: vec![-0x0101_0101_0101_0102], ..TensorProto::default() },
        ),
        (T::E4M3, vec![0x7e], TensorProto { int32_data: vec![0x7e], ..TensorProto::default() }),
        (T::U4, vec![0x21], TensorProto { int32_data: vec![0x21], ..TensorProto::default() }),
    ];
    for (elem, raw, typed) in cases {
        let n = raw.len() as i64 * 8 / i64::from(elem.bits());
        let typed = TensorProto { dims: vec![n], data_type: lacuna_onnx::data_type(elem), ..typed };
        let (_, literal) = lacuna_onnx::decode_tensor(typed, &NoExternalData).unwrap();
        assert_eq!(literal.data.bytes(), raw, "{elem}");
        let again = lacuna_onnx::encode_tensor("k", &literal.ty, literal.data.bytes());
        let (name, again) = lacuna_onnx::decode_tensor(again, &NoExternalData).unwrap();
        assert_eq!((name.as_str(), again.ty, again.data.bytes()), ("k", literal.ty, &raw[..]));
    }
}

/// Functions that call each other 40 deep are legal, and more than the importer expands.
#[test]
fn functions_that_nest_too_deep() {
    let call =
        |i: usize| NodeProto { domain: "local".to_owned(), ..node(&format!("F{i}"), &["x"], &["y"], vec![]) };
    let function = |i: usize| FunctionProto {
        name: format!("F{i}"),
        domain: "local".to_owned(),
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        node: vec![if i == 40 { node("Relu", &["x"], &["y"], vec![]) } else { call(i + 1) }],
        ..FunctionProto::default()
    };
    let mut nested = model(vec![value("x", F32, &[2])], vec![], vec![call(0)], &["y"]);
    nested.functions = (0..=40).map(function).collect();
    let found = import_proto(&nested, &Options::default()).expect_err("too deep");
    assert!(found.iter().all(|d| d.code == "L0207" && d.is_unsupported()), "{}", shown(&found));
}

#[test]
fn positions_beyond_their_tensor() {
    let op = node("MaxUnpool", &["x", "at"], &["y"], vec![ints("kernel_shape", &[2]), ints("strides", &[2])]);
    let at = constant("at", I64, &[1, 1, 2], &[1.0, 99.0]);
    let unpool = model(vec![value("x", F32, &[1, 1, 2])], vec![at], vec![op], &["y"]);
    check(&unpool, "L0111", "index 99 of 4 rows");
}

/// Four blocks that lie far apart.
#[test]
fn an_image_that_is_too_large_for_its_blocks() {
    let sizes = |name: &str, size: f64| constant(name, I64, &[2], &[size; 2]);
    let far = vec![ints("strides", &[1 << 19, 1 << 19])];
    let op = node("Col2Im", &["x", "image", "block"], &["y"], far);
    let constants = vec![sizes("image", 1_048_575.0), sizes("block", 1.0)];
    check(&model(vec![value("x", F32, &[1, 1, 4])], constants, vec![op], &["y"]), "L0204", "are supported");
}
