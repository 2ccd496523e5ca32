//! No bytes make the importer panic.

mod common;

use common::*;
use lacuna_ir::Blob;
use lacuna_isa::format::ScalarType::{F32, I64};
use lacuna_onnx::proto::ModelProto;
use lacuna_onnx::{NoExternalData, Options, import};
use proptest::prelude::*;
use prost::Message;

/// A model with an operator of each family, whose attributes and constants mutations reach.
fn specimen() -> ModelProto {
    let nodes = vec![
        node("Conv", &["x", "w"], &["a"], vec![ints("pads", &[1, 1, 1, 1]), ints("strides", &[1, 1])]),
        node("MaxPool", &["a"], &["b"], vec![ints("kernel_shape", &[2, 2]), int("ceil_mode", 1)]),
        node(
            "AveragePool",
            &["b"],
            &["b1"],
            vec![ints("kernel_shape", &[2, 2]), ints("pads", &[1, 1, 0, 0])],
        ),
        node("Reshape", &["b1", "shape"], &["c"], vec![]),
        node("Gather", &["c", "index"], &["d"], vec![int("axis", 1)]),
        node("ReduceSum", &["d", "axes"], &["e"], vec![int("keepdims", 1)]),
        node("Pad", &["e", "pads"], &["f"], vec![text("mode", "edge")]),
        node("Slice", &["f", "starts", "ends"], &["g"], vec![]),
        node("Tile", &["g", "repeats"], &["h"], vec![]),
        node("Softmax", &["h"], &["i"], vec![int("axis", -1)]),
        node("ConvTranspose", &["x", "w2"], &["j"], vec![ints("output_padding", &[0, 0])]),
        node("Einsum", &["i", "i"], &["k"], vec![text("equation", "ij,kj->ik")]),
        node("Range", &["start", "limit", "one"], &["l"], vec![]),
        node("GatherND", &["k", "tuples"], &["m"], vec![int("batch_dims", 0)]),
    ];
    let ints = |name: &str, values: &[f64]| constant(name, I64, &[values.len() as i64], values);
    let scalar = |name: &str, value: f64| constant(name, I64, &[], &[value]);
    let constants = vec![
        constant("w", F32, &[2, 1, 2, 2], &[1.0; 8]),
        constant("w2", F32, &[1, 1, 2, 2], &[1.0; 4]),
        constant("tuples", I64, &[1, 2], &[0.0, -1.0]),
        ints("shape", &[0.0, -1.0]),
        ints("index", &[-1.0, 0.0]),
        ints("axes", &[0.0]),
        ints("pads", &[0.0, 1.0, 0.0, 1.0]),
        ints("starts", &[0.0, 0.0]),
        ints("ends", &[9.0, 9.0]),
        ints("repeats", &[2.0, 1.0]),
        scalar("start", 0.0),
        scalar("limit", 5.0),
        scalar("one", 1.0),
    ];
    model(vec![value("x", F32, &[1, 1, 4, 4])], constants, nodes, &["m", "j", "l"])
}

#[test]
fn the_specimen_is_sound() {
    let x = f32s(&[1, 1, 4, 4], &[1.0; 16]);
    assert_eq!(run(&specimen(), &[x]).len(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn mutated_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let mut bytes = specimen().encode_to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = import(Blob::new(bytes), &NoExternalData, &Options::default());
    }

    #[test]
    fn extreme_numbers_never_panic(
        node_at in any::<prop::sample::Index>(),
        number in prop::sample::select(vec![
            i64::MIN, i64::MIN + 1, -(1 << 40), -2, -1, 0, 1, 2, 7, 1 << 20, 1 << 31, 1 << 40, i64::MAX,
        ]),
        constant_at in any::<prop::sample::Index>(),
        other in prop::sample::select(vec![i64::MIN, -(1 << 33), -3, 0, 3, 1 << 33, i64::MAX]),
    ) {
        let mut model = specimen();
        let graph = model.graph.as_mut().unwrap();
        let at = node_at.index(graph.node.len());
        if let Some(attribute) = graph.node[at].attribute.first_mut() {
            attribute.i = number;
            if let Some(first) = attribute.ints.first_mut() {
                *first = number;
            }
        }
        let at = constant_at.index(graph.initializer.len());
        let tensor = &mut graph.initializer[at];
        if tensor.data_type == 7 {
            let mut raw = tensor.raw_data.clone().unwrap().to_vec();
            raw[..8].copy_from_slice(&other.to_le_bytes());
            tensor.raw_data = Some(raw.into());
        }
        let _ = import_proto(&model, &Options::default());
    }
}
