//! What the tests of the command line share: running it, small models, folders with test data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lacuna_onnx::proto::{
    DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto,
};
use prost::Message;
use serde_json::Value;

/// Element type codes of ONNX.
pub const F32: i32 = 1;
/// See [`F32`].
pub const I64: i32 = 7;

/// Runs the command in `folder`.
pub fn lacuna_in(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command.current_dir(folder).args(args).output().expect("the binary runs")
}

/// Runs the command with `--json`; checks that standard output is one object and standard error is empty.
pub fn json_in(folder: &Path, args: &[&str]) -> (i32, Value) {
    let output = lacuna_in(folder, &[args, &["--json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.is_empty(), "{args:?}: {errors}");
    let value: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert!(value["ok"].is_boolean(), "{args:?}: {value}");
    (output.status.code().expect("no signal"), value)
}

/// Checks exit status and code of a failure, in both forms, and that nothing panicked.
pub fn check_failure(folder: &Path, args: &[&str], exit: i32, code: &str) -> Value {
    let text = lacuna_in(folder, args);
    let errors = String::from_utf8_lossy(&text.stderr);
    assert_eq!(text.status.code(), Some(exit), "{args:?}: {errors}");
    assert!(text.stdout.is_empty(), "{args:?}");
    assert!(errors.starts_with("error[") && errors.contains(&format!("error[{code}]")), "{args:?}: {errors}");
    assert!(!errors.contains('\x1b') && !errors.contains("panicked"), "{args:?}: {errors}");
    let (status, value) = json_in(folder, args);
    assert_eq!(status, exit, "{args:?}");
    let found = value["errors"].as_array().expect("errors");
    assert!(found.iter().any(|e| e["code"] == code), "{args:?}: {value}");
    value
}

/// The models of the repository.
pub fn testdata(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models").join(model)
}

/// A dimension: a size, or a name.
#[derive(Clone, Copy)]
pub enum Dim {
    /// A size.
    N(i64),
    /// A name.
    Name(&'static str),
}

/// A graph input or output.
pub fn port(name: &str, elem_type: i32, dims: &[Dim]) -> ValueInfoProto {
    let dim = dims.iter().map(|d| match *d {
        Dim::N(n) => DimensionProto { dim_value: Some(n), dim_param: None },
        Dim::Name(name) => DimensionProto { dim_value: None, dim_param: Some(name.to_owned()) },
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let tensor_type = Some(TensorTypeProto { elem_type, shape });
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type, ..TypeProto::default() }) }
}

/// A node called `/NAME` with one result called `NAME`.
pub fn node(op: &str, inputs: &[&str], name: &str) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&i| i.to_owned()).collect(),
        output: vec![name.to_owned()],
        name: format!("/{name}"),
        op_type: op.to_owned(),
        ..NodeProto::default()
    }
}

/// A model in operator set 18.
pub fn model(input: Vec<ValueInfoProto>, node: Vec<NodeProto>, output: Vec<ValueInfoProto>) -> ModelProto {
    let graph = GraphProto { name: "test".to_owned(), node, input, output, ..GraphProto::default() };
    ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 18 }],
        ..ModelProto::default()
    }
}

/// `y = Relu(x)` on `f32[2, 8]`.
pub fn relu() -> ModelProto {
    let dims = [Dim::N(2), Dim::N(8)];
    model(vec![port("x", F32, &dims)], vec![node("Relu", &["x"], "y")], vec![port("y", F32, &dims)])
}

/// A tensor of f32.
pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: F32,
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

/// Writes a message.
pub fn save(path: &Path, message: &impl Message) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, message.encode_to_vec()).expect("a file");
}

/// Names of everything in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
