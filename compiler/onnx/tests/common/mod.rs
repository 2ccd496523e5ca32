//! What the tests share: models made of protobuf messages, importing, and evaluating.
#![expect(dead_code, reason = "each test binary uses some of these")]

use std::path::{Path, PathBuf};

use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::{Blob, Shape, TensorType};
use lacuna_isa::format::ScalarType;
use lacuna_onnx::proto::*;
use lacuna_onnx::{
    Diagnostic, ExternalData, Imported, NoExternalData, Options, Unreadable, data_type, decode_tensor, import,
};
use prost::Message;

/// Files in one folder.
pub struct Folder(pub PathBuf);

impl ExternalData for Folder {
    fn read(&self, location: &str, offset: u64, length: Option<u64>) -> Result<Blob, Unreadable> {
        let bytes = std::fs::read(self.0.join(location))?;
        let length = length.unwrap_or(bytes.len() as u64 - offset) as usize;
        Blob::new(bytes)
            .slice(offset as usize, length)
            .ok_or_else(|| Unreadable::File("it is too short".to_owned()))
    }
}

pub fn value(name: &str, elem: ScalarType, dims: &[i64]) -> ValueInfoProto {
    let dim = dims.iter().map(|&d| DimensionProto { dim_value: Some(d), dim_param: None }).collect();
    named(name, elem, dim)
}

pub fn symbolic(name: &str, elem: ScalarType, dims: &[&str]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|d| match d.parse() {
            Ok(size) => DimensionProto { dim_value: Some(size), dim_param: None },
            Err(_) => DimensionProto { dim_value: None, dim_param: Some((*d).to_owned()) },
        })
        .collect();
    named(name, elem, dim)
}

fn named(name: &str, elem: ScalarType, dim: Vec<DimensionProto>) -> ValueInfoProto {
    let tensor = TensorTypeProto { elem_type: data_type(elem), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto { tensor_type: Some(tensor), ..TypeProto::default() }),
    }
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: outputs.iter().map(|s| (*s).to_owned()).collect(),
        attribute,
        ..NodeProto::default()
    }
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i, r#type: attribute_type::INT, ..AttributeProto::default() }
}

pub fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), f, r#type: attribute_type::FLOAT, ..AttributeProto::default() }
}

pub fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    let ints = ints.to_vec();
    AttributeProto { name: name.to_owned(), ints, r#type: attribute_type::INTS, ..AttributeProto::default() }
}

pub fn text(name: &str, s: &str) -> AttributeProto {
    let s = bytes::Bytes::copy_from_slice(s.as_bytes());
    AttributeProto { name: name.to_owned(), s, r#type: attribute_type::STRING, ..AttributeProto::default() }
}

pub fn constant(name: &str, elem: ScalarType, dims: &[i64], values: &[f64]) -> TensorProto {
    let shape: Shape = dims.iter().map(|&d| d as u64).collect();
    let bytes = Tensor::from_f64(elem, shape.clone(), values).unwrap().to_bytes();
    lacuna_onnx::encode_tensor(name, &TensorType::new(elem, shape), &bytes)
}

/// A model of opset 18 unless changed.
pub fn model(
    inputs: Vec<ValueInfoProto>,
    initializer: Vec<TensorProto>,
    node: Vec<NodeProto>,
    outputs: &[&str],
) -> ModelProto {
    let output =
        outputs.iter().map(|name| ValueInfoProto { name: (*name).to_owned(), r#type: None }).collect();
    let name = "test".to_owned();
    ModelProto {
        ir_version: Some(8),
        graph: Some(GraphProto { node, name, initializer, input: inputs, output, ..GraphProto::default() }),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 18 }],
        ..ModelProto::default()
    }
}

pub fn import_proto(model: &ModelProto, options: &Options) -> Result<Imported, Vec<Diagnostic>> {
    import(Blob::new(model.encode_to_vec()), &NoExternalData, options)
}

/// Imports and evaluates in real mode. With an attribute that no operator has, the first node must be refused.
pub fn run(model: &ModelProto, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut twin = model.clone();
    twin.graph.as_mut().unwrap().node[0].attribute.push(int("no_such_attribute", 1));
    let found = import_proto(&twin, &Options::default()).expect_err("an attribute that is not known");
    assert!(found[0].reason.contains("`no_such_attribute`"), "{}", found[0]);
    let imported = import_proto(model, &Options::default()).unwrap_or_else(|found| {
        panic!("{}", found.iter().map(|d| format!("{d}\n")).collect::<String>());
    });
    eval(&imported.module, imported.module.entries[0].func, inputs, Mode::Real).unwrap()
}

pub fn f32s(dims: &[u64], values: &[f64]) -> Tensor {
    Tensor::from_f64(ScalarType::F32, dims, values).unwrap()
}

pub fn read_pb(path: &Path) -> Tensor {
    let bytes = bytes::Bytes::from(std::fs::read(path).unwrap());
    let proto = TensorProto::decode(bytes).unwrap();
    let (_, literal) = decode_tensor(proto, &NoExternalData).unwrap();
    Tensor::from_bytes(literal.ty, literal.data.bytes()).unwrap()
}

/// What importing and evaluating one folder of the ONNX test layout gave.
#[derive(Debug)]
pub enum Outcome {
    /// The greatest difference, relative to the greatest magnitude of the output.
    Same(f64),
    Differs(String),
    Refused(Vec<Diagnostic>),
}

/// Imports the model of a folder and compares its results on every data set, each element within `rtol` of the
/// reference's magnitude plus `rtol` of the output's greatest magnitude.
///
/// Inputs that must be constant are bound: first those of integers, then all. Types below f32 are evaluated with
/// rounding, others in real mode.
pub fn check_folder(folder: &Path, rtol: f64) -> Outcome {
    let mut worst = 0.0;
    for set in 0.. {
        let set = folder.join(format!("test_data_set_{set}"));
        if !set.is_dir() {
            assert!(!set.ends_with("test_data_set_0"), "{} has no data", folder.display());
            break;
        }
        match check_set(folder, &set, rtol) {
            Outcome::Same(error) => worst = error.max(worst),
            other => return other,
        }
    }
    Outcome::Same(worst)
}

fn check_set(folder: &Path, set: &Path, rtol: f64) -> Outcome {
    let bytes = bytes::Bytes::from(std::fs::read(folder.join("model.onnx")).unwrap());
    let proto = ModelProto::decode(bytes.clone()).unwrap();
    let given = |i: usize| {
        let file = std::fs::read(set.join(format!("input_{i}.pb"))).ok()?;
        let (_, literal) = decode_tensor(TensorProto::decode(&file[..]).ok()?, &NoExternalData).ok()?;
        Some(literal)
    };
    let names: Vec<String> = proto.graph.iter().flat_map(|g| &g.input).map(|i| i.name.clone()).collect();
    let mut refused = Vec::new();
    for attempt in 0..3 {
        let mut options = Options::default();
        for (i, name) in names.iter().enumerate().filter(|_| attempt > 0) {
            let Some(literal) = given(i) else { continue };
            let elem = literal.ty.elem.scalar().unwrap();
            if attempt == 2 || elem.is_int() || elem == ScalarType::Bool {
                options.bindings.insert(name.clone(), literal);
            }
        }
        match import(Blob::new(bytes.clone()), &Folder(folder.to_owned()), &options) {
            Ok(imported) => return compare(&imported, set, rtol),
            Err(found) => refused = found,
        }
        if !refused.iter().any(|d| d.code == "L0206") {
            break;
        }
    }
    Outcome::Refused(refused)
}

fn compare(imported: &Imported, set: &Path, rtol: f64) -> Outcome {
    let func = imported.module.entries[0].func;
    let body = &imported.module.functions[func];
    let read = |kind: &str, n: usize| -> Vec<Tensor> {
        (0..n).map(|i| read_pb(&set.join(format!("{kind}_{i}.pb")))).collect()
    };
    let inputs = read("input", body.params.len());
    let wanted = read("output", body.results.len());
    let narrow = |ty: &TensorType| ty.elem.scalar().is_none_or(|e| e != ScalarType::Bool && e.bits() < 32);
    let rounded = body.values.values().any(|v| narrow(&v.ty));
    let mode = if rounded { Mode::Typed } else { Mode::Real };
    let results = match eval(&imported.module, func, &inputs, mode) {
        Ok(results) => results,
        Err(e) => return Outcome::Differs(e.to_string()),
    };
    let mut worst: f64 = 0.0;
    for (i, (got, want)) in results.iter().zip(&wanted).enumerate() {
        if got.ty != want.ty {
            return Outcome::Differs(format!("output {i} is {}, not {}", got.ty, want.ty));
        }
        let rtol = match want.ty.elem.scalar() {
            Some(ScalarType::F16) => rtol.max(2e-3),
            Some(ScalarType::Bf16) => rtol.max(1.6e-2),
            _ => rtol,
        };
        let (got, want) = (got.to_f64(), want.to_f64());
        let finite = |v: &&f64| v.is_finite();
        let peak = want.iter().filter(finite).fold(0.0f64, |m, v| m.max(v.abs()));
        for (j, (&g, &w)) in got.iter().zip(want.iter()).enumerate() {
            let same = g == w || (g.is_nan() && w.is_nan());
            let near = (g - w).abs() <= rtol * (w.abs() + peak) + 1e-12;
            if !same && !near {
                return Outcome::Differs(format!("output {i}, element {j}: {g}, not {w}"));
            }
            if !same {
                worst = worst.max((g - w).abs() / peak);
            }
        }
    }
    Outcome::Same(worst)
}
