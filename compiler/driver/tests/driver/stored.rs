//! Weights that a model stores as codes with scales: the object stores the same bits.

use std::path::Path;

use bytes::Bytes;
use lacuna_isa::Blob;
use lacuna_isa::format::{ScalarType, pack};
use lacuna_isa::object::Object;
use lacuna_onnx::proto::{AttributeProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};

use crate::common::{Dim, F32, json_in, model, node, port, save};

/// Columns of a panel.
const PANEL: usize = 32;

/// Codes of one kind in a matrix `[k, n]`, with a scale for each `block` along k.
struct Kind {
    codes: (i32, ScalarType),
    scale: (i32, ScalarType),
    block: usize,
    zeros: bool,
}

const fn kind(codes: (i32, ScalarType), scale: (i32, ScalarType), block: usize, zeros: bool) -> Kind {
    Kind { codes, scale, block, zeros }
}

const I4: (i32, ScalarType) = (22, ScalarType::I4);
const U4: (i32, ScalarType) = (21, ScalarType::U4);
const I8: (i32, ScalarType) = (3, ScalarType::I8);
const U8: (i32, ScalarType) = (2, ScalarType::U8);
const E4M3: (i32, ScalarType) = (17, ScalarType::E4M3);
const E5M2: (i32, ScalarType) = (19, ScalarType::E5M2);
const E2M3: (i32, ScalarType) = (27, ScalarType::E2M3);
const E3M2: (i32, ScalarType) = (28, ScalarType::E3M2);
const E2M1: (i32, ScalarType) = (23, ScalarType::E2M1);
const SCALE_F32: (i32, ScalarType) = (1, ScalarType::F32);
const SCALE_F16: (i32, ScalarType) = (10, ScalarType::F16);
const SCALE_BF16: (i32, ScalarType) = (16, ScalarType::Bf16);
const SCALE_E8M0: (i32, ScalarType) = (24, ScalarType::E8M0);

/// Kinds whose scales are no powers of two, or whose blocks are no groups.
const BLOCKED: [Kind; 8] = [
    kind(I4, SCALE_F32, 32, false),
    kind(U4, SCALE_F16, 128, true),
    kind(I8, SCALE_F32, 64, true),
    kind(U8, SCALE_BF16, 16, true),
    kind(E4M3, SCALE_F32, 128, false),
    kind(E2M1, SCALE_F32, 16, false),
    kind(E2M1, SCALE_E8M0, 64, false),
    kind(I8, SCALE_E8M0, 32, false),
];

/// Kinds that are MX formats.
const GROUPED: [Kind; 5] = [
    kind(E4M3, SCALE_E8M0, 32, false),
    kind(E5M2, SCALE_E8M0, 32, false),
    kind(E2M3, SCALE_E8M0, 32, false),
    kind(E3M2, SCALE_E8M0, 32, false),
    kind(E2M1, SCALE_E8M0, 32, false),
];

/// A matrix of the model.
struct Matrix {
    k: usize,
    n: usize,
    ty: (i32, ScalarType),
    /// Codes, `[k, n]`.
    codes: Vec<u64>,
}

impl Matrix {
    fn new(k: usize, n: usize, ty: (i32, ScalarType), code: impl Fn(usize) -> u64) -> Matrix {
        Matrix { k, n, ty, codes: (0..k * n).map(code).collect() }
    }

    /// Stored codes of `order`, one after the other.
    fn packed(&self, order: impl Iterator<Item = (usize, usize)>) -> Vec<u8> {
        let mut bytes = vec![0; self.ty.1.bytes_for(self.codes.len() as u64) as usize];
        for (i, (k, n)) in order.enumerate() {
            pack::set(&mut bytes, self.ty.1, i, self.codes[k * self.n + n]);
        }
        bytes
    }

    /// The tensor of the model, `[k, n]` or transposed.
    fn tensor(&self, name: &str, transposed: bool) -> TensorProto {
        let (rows, columns) = if transposed { (self.n, self.k) } else { (self.k, self.n) };
        let at = |i: usize| (i / columns, i % columns);
        let order = (0..rows * columns).map(at).map(|(r, c)| if transposed { (c, r) } else { (r, c) });
        TensorProto {
            name: name.to_owned(),
            dims: vec![rows as i64, columns as i64],
            data_type: self.ty.0,
            raw_data: Some(Bytes::from(self.packed(order))),
            ..TensorProto::default()
        }
    }

    /// The codes as the object has them: panels of 32 columns.
    fn panels(&self) -> Vec<u8> {
        let panel =
            |p: usize| (0..self.k).flat_map(move |k| (0..PANEL).map(move |lane| (k, p * PANEL + lane)));
        self.packed((0..self.n / PANEL).flat_map(panel))
    }
}

/// Any finite code, both zeros among them.
fn finite(ty: ScalarType, i: usize) -> u64 {
    let code = (i as u64 * 37 + i as u64 / 64 * 11) % (1 << ty.bits());
    if ty.decode(code).is_finite() { code } else { code & 0x8F }
}

/// Codes, scales and zeros of a kind.
fn matrices(kind: &Kind, k: usize, n: usize) -> Vec<Matrix> {
    let blocks = k.div_ceil(kind.block);
    let scale = |i: usize| {
        let exponent = (i % 7) as i32 - 9;
        let odd = if kind.scale.1 == ScalarType::E8M0 { 1.0 } else { 1.0 + (i % 5) as f64 / 8.0 };
        kind.scale.1.encode(odd * 2f64.powi(exponent))
    };
    let mut all = vec![
        Matrix::new(k, n, kind.codes, |i| finite(kind.codes.1, i)),
        Matrix::new(blocks, n, kind.scale, scale),
    ];
    if kind.zeros {
        all.push(Matrix::new(blocks, n, kind.codes, |i| finite(kind.codes.1, i * 5 + 3)));
    }
    all
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i, r#type: 2, ..AttributeProto::default() }
}

/// `x` times the matrix, from a tensor `[k, n]`, or `[n, k]` behind which a Transpose stands.
fn product(kind: &Kind, matrices: &[Matrix], m: usize, transposed: bool) -> ModelProto {
    let names = &["w", "s", "z"][..matrices.len()];
    let axis = i64::from(transposed);
    let dequantize = NodeProto {
        attribute: vec![int("axis", axis), int("block_size", kind.block as i64), int("output_dtype", 1)],
        ..node("DequantizeLinear", names, "wide")
    };
    let mut nodes = vec![dequantize];
    if transposed {
        nodes.push(node("Transpose", &["wide"], "turned"));
    }
    nodes.push(node("MatMul", &["x", if transposed { "turned" } else { "wide" }], "y"));
    let [k, n] = [matrices[0].k, matrices[0].n].map(|size| Dim::N(size as i64));
    let rows = Dim::N(m as i64);
    let mut proto = model(vec![port("x", F32, &[rows, k])], nodes, vec![port("y", F32, &[rows, n])]);
    proto.opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 25 }];
    let tensors = matrices.iter().zip(names).map(|(matrix, name)| matrix.tensor(name, transposed));
    proto.graph.as_mut().expect("a graph").initializer = tensors.collect();
    proto
}

/// Compiles a model in `folder` and returns the bytes of its weights.
fn weights(folder: &Path, proto: &ModelProto, options: &[&str]) -> Vec<u8> {
    save(&folder.join("m.onnx"), proto);
    let (exit, report) = json_in(folder, &[&["compile", "m.onnx", "-o", "m.lac"], options].concat());
    assert_eq!(exit, 0, "{report}");
    let object = Object::read(&Blob::new(std::fs::read(folder.join("m.lac")).unwrap())).unwrap();
    assert_eq!(report["weight_bytes"], object.weights.len());
    object.weights.bytes().to_vec()
}

/// The compiled model computes what the evaluator does, but for the order of sums in f32: what is left of terms that cancel has
/// errors of the size of the terms.
fn holds(folder: &Path) {
    let (_, report) = json_in(folder, &["verify", "m.onnx"]);
    let sqnr = &report["outputs"][0]["sqnr_db"];
    assert!(sqnr.is_null() || sqnr.as_f64().unwrap() > 120.0, "{report}");
}

#[test]
fn objects_store_what_models_store() {
    let folder = tempfile::tempdir().unwrap();
    for kind in BLOCKED.iter().chain(&GROUPED) {
        let all = matrices(kind, 512, 64);
        let bits: usize = all.iter().map(|m| m.codes.len() * m.ty.1.bits() as usize).sum();
        for (m, transposed) in [(1, false), (33, true)] {
            let proto = product(kind, &all, m, transposed);
            for options in
                [&[][..], &["--precision", "bf16"], &["--precision", "mxfp8"], &["--target", "tpu-v5p"]]
            {
                let stored = weights(folder.path(), &proto, options).len();
                let what = format!("{} with {:?}, {m} rows, {options:?}", kind.codes.1, kind.scale.1);
                assert!(stored * 8 * 100 <= bits * 102, "{stored} bytes of {} bits: {what}", bits);
            }
            holds(folder.path());
        }
    }
}

/// Codes and scales of MX weights are the model's, zeros of both signs included.
#[test]
fn groups_keep_codes_and_scales() {
    let folder = tempfile::tempdir().unwrap();
    for kind in &GROUPED {
        let all = matrices(kind, 256, 96);
        let expect: Vec<u8> = all.iter().flat_map(Matrix::panels).collect();
        for (transposed, precision) in [
            (false, "f32"),
            (true, "f32"),
            (true, "bf16"),
            (false, "mxfp8"),
            (true, "mxfp4"),
            (false, "mxint8"),
        ] {
            let proto = product(kind, &all, 3, transposed);
            let found = weights(folder.path(), &proto, &["--precision", precision]);
            assert!(found == expect, "{} in {precision}", kind.codes.1);
        }
    }
}

/// Codes of other blocks are the model's too, and scales follow them.
#[test]
fn blocks_keep_codes() {
    let folder = tempfile::tempdir().unwrap();
    for kind in &BLOCKED {
        // The last block is short.
        let all = matrices(kind, 200, 64);
        let codes = all[0].panels();
        for precision in ["f32", "bf16", "mxfp8"] {
            let proto = product(kind, &all, 5, true);
            let found = weights(folder.path(), &proto, &["--precision", precision]);
            assert!(found.windows(codes.len()).any(|w| w == codes), "{} in {precision}", kind.codes.1);
        }
        holds(folder.path());
    }
}

/// Three products of one operand become one, and the factor in front of them stays there: their codes are stored as they are.
#[test]
fn codes_take_no_factors() {
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/cases/blocked-merged/model.onnx");
    let (exit, report) = json_in(folder.path(), &["compile", model.to_str().unwrap(), "-o", "m.lac"]);
    // Four bits of each of 256 x 256 codes, a scale of f32 and a zero of four bits for each 32, and the factor.
    let stored = 256 * 256 / 2 + 256 * 8 * 9 / 2 + 256 * 4;
    assert_eq!((exit, &report["weight_bytes"]), (0, &stored.into()), "{report}");
}
