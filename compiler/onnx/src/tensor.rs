//! Constant tensors between their protobuf form and the dense little-endian form of the IR.

use bytes::Bytes;
use lacuna_ir::{Blob, ElemType, Shape, TensorType};
use lacuna_isa::format::ScalarType;

use crate::ExternalData;
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::limits;
use crate::proto::TensorProto;

/// A tensor with its elements: what `--bind` gives, and what a `.pb` file of test data holds.
#[derive(Clone, Debug)]
pub struct Literal {
    /// Its type, never grouped.
    pub ty: TensorType,
    /// Elements in the dense row-major little-endian form of [`TensorType::bytes`].
    pub data: Blob,
}

/// Pairs of ONNX data type codes and element types.
const TYPES: &[(i32, ScalarType)] = &[
    (1, ScalarType::F32),
    (2, ScalarType::U8),
    (3, ScalarType::I8),
    (4, ScalarType::U16),
    (5, ScalarType::I16),
    (6, ScalarType::I32),
    (7, ScalarType::I64),
    (9, ScalarType::Bool),
    (10, ScalarType::F16),
    (11, ScalarType::F64),
    (12, ScalarType::U32),
    (13, ScalarType::U64),
    (16, ScalarType::Bf16),
    (17, ScalarType::E4M3),
    (18, ScalarType::E4M3Fnuz),
    (19, ScalarType::E5M2),
    (20, ScalarType::E5M2Fnuz),
    (21, ScalarType::U4),
    (22, ScalarType::I4),
    (23, ScalarType::E2M1),
    (24, ScalarType::E8M0),
    (25, ScalarType::U2),
    (26, ScalarType::I2),
    (27, ScalarType::E2M3),
    (28, ScalarType::E3M2),
];

/// Why an ONNX data type has no element type here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DataTypeError {
    /// It is the undefined type.
    #[error("the data type is not given")]
    NotGiven,
    /// It is text.
    #[error("strings are not supported")]
    Strings,
    /// It is of complex numbers.
    #[error("complex numbers are not supported")]
    Complex,
    /// ONNX has no such code.
    #[error("data type code {0} is unknown")]
    Unknown(i32),
}

impl From<DataTypeError> for String {
    fn from(error: DataTypeError) -> String {
        error.to_string()
    }
}

/// The element type of an ONNX data type code.
///
/// # Errors
/// Names the type when it is none of numbers (string, complex), or the code when it is unknown.
pub fn scalar_type(code: i32) -> Result<ScalarType, DataTypeError> {
    match TYPES.iter().find(|(c, _)| *c == code) {
        Some((_, ty)) => Ok(*ty),
        None => Err(match code {
            0 => DataTypeError::NotGiven,
            8 => DataTypeError::Strings,
            14 | 15 => DataTypeError::Complex,
            _ => DataTypeError::Unknown(code),
        }),
    }
}

/// The ONNX data type code of an element type; 0, the undefined type, for those that ONNX lacks.
pub fn data_type(ty: ScalarType) -> i32 {
    TYPES.iter().find(|(_, t)| *t == ty).map_or(0, |(code, _)| *code)
}

/// Decodes a tensor: its name, type and elements. Elements in `raw_data` or another file are shared, not copied.
///
/// # Errors
/// L0106 when type, shape and elements do not fit each other, L0107 when its external data cannot be read.
pub fn decode_tensor(
    mut tensor: TensorProto,
    external: &dyn ExternalData,
) -> Result<(String, Literal), Box<Diagnostic>> {
    let name = tensor.name.clone();
    let shown = if name.is_empty() { "a tensor without name".to_owned() } else { format!("tensor `{name}`") };
    let bad = |reason: String| Box::new(Diagnostic::new(codes::BAD_TENSOR, format!("{shown}: {reason}")));
    // Strings and complex numbers are legal, other unknown codes are not.
    let legal = matches!(tensor.data_type, 8 | 14 | 15);
    let code = if legal { codes::STORED_TYPE } else { codes::BAD_TENSOR };
    let elem = scalar_type(tensor.data_type)
        .map_err(|reason| Box::new(Diagnostic::new(code, format!("{shown}: {reason}"))))?;
    let dims: Option<Vec<u64>> = tensor.dims.iter().map(|&d| u64::try_from(d).ok()).collect();
    let shape = Shape(dims.ok_or_else(|| bad(format!("shape {:?} has a negative size", tensor.dims)))?);
    limits::check_shape(&shape).map_err(|e| bad(e.to_string()))?;
    let ty = TensorType::new(elem, shape);
    let want = ty.bytes();
    let count = |what: &str, have: u64, need: u64| {
        (have == need).then_some(()).ok_or_else(|| bad(format!("{ty} needs {need} {what}, but has {have}")))
    };
    if tensor.data_location == 1 {
        let data = read_external(&tensor, &shown, want, external)?;
        count("bytes of external data", data.bytes().len() as u64, want)?;
        return Ok((name, Literal { ty, data }));
    }
    if let Some(raw) = tensor.raw_data.take() {
        count("bytes of raw data", raw.len() as u64, want)?;
        if elem == ScalarType::Bool && raw.iter().any(|&b| b > 1) {
            return Err(bad("a bool is neither 0 nor 1".to_owned()));
        }
        return Ok((name, Literal { ty, data: Blob::new(raw) }));
    }
    let bytes = decode_fields(&tensor, &ty, &count)?;
    Ok((name, Literal { ty, data: Blob::new(bytes) }))
}

/// Compares the number of elements or bytes of some kind with what is needed.
type Count<'a> = dyn Fn(&str, u64, u64) -> Result<(), Box<Diagnostic>> + 'a;

/// The elements of a tensor that has them in one of the typed fields; `count` compares their number with what is needed.
fn decode_fields(
    tensor: &TensorProto,
    ty: &TensorType,
    count: &Count<'_>,
) -> Result<Vec<u8>, Box<Diagnostic>> {
    let elem = ty.elem.format().element();
    let n = ty.shape.elements();
    let bytes = match elem {
        ScalarType::F32 => {
            count("elements", tensor.float_data.len() as u64, n)?;
            tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        ScalarType::F64 => {
            count("elements", tensor.double_data.len() as u64, n)?;
            tensor.double_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        ScalarType::I64 => {
            count("elements", tensor.int64_data.len() as u64, n)?;
            tensor.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        ScalarType::U32 | ScalarType::U64 => {
            count("elements", tensor.uint64_data.len() as u64, n)?;
            let width = elem.bits() as usize / 8;
            tensor.uint64_data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(width)).collect()
        }
        ScalarType::Bool
        | ScalarType::I2
        | ScalarType::U2
        | ScalarType::I4
        | ScalarType::U4
        | ScalarType::I8
        | ScalarType::U8
        | ScalarType::I16
        | ScalarType::U16
        | ScalarType::I32
        | ScalarType::F16
        | ScalarType::Bf16
        | ScalarType::E4M3
        | ScalarType::E5M2
        | ScalarType::E4M3Fnuz
        | ScalarType::E5M2Fnuz
        | ScalarType::E3M2
        | ScalarType::E2M3
        | ScalarType::E2M1
        | ScalarType::E8M0
        | ScalarType::Sm8
        | ScalarType::Sm5
        | ScalarType::Sm3 => {
            // Types below a byte put one byte of their packed form into each entry.
            let width = (elem.bits() as usize / 8).max(1);
            count("entries of int32_data", tensor.int32_data.len() as u64, ty.bytes() / width as u64)?;
            tensor.int32_data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(width)).collect()
        }
    };
    Ok(bytes)
}

fn read_external(
    tensor: &TensorProto,
    shown: &str,
    want: u64,
    external: &dyn ExternalData,
) -> Result<Blob, Box<Diagnostic>> {
    let bad = |reason: String| Box::new(Diagnostic::new(codes::EXTERNAL_DATA, format!("{shown}: {reason}")));
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(text) => {
            text.parse::<u64>().map(Some).map_err(|_| bad(format!("`{key}` is {text:?}, not a number")))
        }
    };
    let location = entry("location").ok_or_else(|| bad("the file's name is not given".to_owned()))?;
    let offset = number("offset")?.unwrap_or(0);
    // Some writers state the length 0 where they leave it open.
    let length = number("length")?.filter(|&length| length > 0).unwrap_or(want);
    external.read(location, offset, Some(length)).map_err(|reason| {
        let hint = "copy the data files beside the model, in the same folder";
        Box::new(bad(format!("{location}: {reason}")).hint(hint))
    })
}

/// The protobuf form of a tensor, with its elements in `raw_data`.
///
/// `bytes` is the dense form of [`TensorType::bytes`]. Grouped types have no ONNX form: their codes are written with
/// the element's type.
pub fn encode_tensor(name: &str, ty: &TensorType, bytes: &[u8]) -> TensorProto {
    let elem = match ty.elem {
        ElemType::Scalar(elem) => elem,
        ElemType::Grouped { format, .. } => format.element,
    };
    TensorProto {
        name: name.to_owned(),
        dims: ty.shape.iter().map(|&d| d as i64).collect(),
        data_type: data_type(elem),
        raw_data: Some(Bytes::copy_from_slice(bytes)),
        ..TensorProto::default()
    }
}
