//! Tensor files: NumPy's .npy and ONNX's serialised TensorProto (.pb).

use std::collections::BTreeMap;
use std::path::Path;

use lacuna_ir::infer::TypeError;
use lacuna_ir::{Blob, TensorType};
use lacuna_isa::format::ScalarType;
use lacuna_onnx::proto::{OptionalProto, SequenceProto, TensorProto};
use lacuna_onnx::{ListKind, Literal, NoExternalData, data_type, decode_tensor, encode_tensor};
use npyz::{DType, NpyHeader, Order, TypeStr, WriterBuilder};
use prost::Message;

use crate::codes;
use crate::diagnostics::Diagnostic;
use crate::files;

const NPY_MAGIC: &[u8] = b"\x93NUMPY";

/// Codes of `.npy` element types, without the byte order.
const NPY_TYPES: &[(&str, ScalarType)] = &[
    ("b1", ScalarType::Bool),
    ("i1", ScalarType::I8),
    ("u1", ScalarType::U8),
    ("i2", ScalarType::I16),
    ("u2", ScalarType::U16),
    ("i4", ScalarType::I32),
    ("u4", ScalarType::U32),
    ("i8", ScalarType::I64),
    ("u8", ScalarType::U64),
    ("f2", ScalarType::F16),
    ("f4", ScalarType::F32),
    ("f8", ScalarType::F64),
];

/// Reads a tensor: its name (empty for `.npy`), type and elements. Elements are shared with the file where possible.
///
/// # Errors
/// L0002, L0006, or a code of the importer.
pub fn read(path: &Path) -> Result<(String, Literal), Diagnostic> {
    let blob = files::read(path)?;
    let at = |reason: String| Diagnostic::new(codes::TENSOR_FILE, format!("{}: {reason}", path.display()));
    if blob.bytes().starts_with(NPY_MAGIC) {
        return read_npy(&blob).map(|literal| (String::new(), literal)).map_err(|e| at(e.to_string()));
    }
    let proto = TensorProto::decode(blob.bytes())
        .map_err(|e| at(format!("neither a .npy file nor a TensorProto: {e}")))?;
    // An empty file, and some files of other kinds, decode to a tensor without a type.
    if proto.data_type == 0 {
        return Err(at("neither a .npy file nor a TensorProto with a data type".to_owned()));
    }
    decode_tensor(proto, &NoExternalData).map_err(|d| at(d.reason))
}

/// Reads the tensors of a sequence or an optional, with the names that they have as inputs of their own, and notes the
/// dimensions `NAME.length` and `NAME.present` that say how many there are.
///
/// # Errors
/// L0002, L0006, or a code of the importer.
pub fn read_list(
    path: &Path,
    name: &str,
    kind: ListKind,
    lengths: &mut BTreeMap<String, u64>,
) -> Result<Vec<(String, Literal)>, Diagnostic> {
    let blob = files::read(path)?;
    let at = |reason: String| Diagnostic::new(codes::TENSOR_FILE, format!("{}: {reason}", path.display()));
    let undecoded = |e: prost::DecodeError| at(format!("neither a sequence nor an optional: {e}"));
    let (tensor, sequence) = match kind {
        ListKind::Tensor => (TensorProto::decode(blob.bytes()).ok(), None),
        ListKind::Sequence => (None, Some(SequenceProto::decode(blob.bytes()).map_err(undecoded)?)),
        ListKind::OptionalTensor | ListKind::OptionalSequence => match OptionalProto::decode(blob.bytes()) {
            Ok(OptionalProto { tensor_value: None, sequence_value: None, .. }) | Err(_) => {
                // An element may stand there without its optional.
                let bare = TensorProto::decode(blob.bytes()).ok().filter(|t| t.raw_data.is_some());
                (bare.filter(|_| kind == ListKind::OptionalTensor), None)
            }
            Ok(optional) => (optional.tensor_value, optional.sequence_value),
        },
    };
    if kind != ListKind::Sequence {
        lengths.insert(format!("{name}.present"), (tensor.is_some() || sequence.is_some()).into());
    }
    let decode = |proto: TensorProto| decode_tensor(proto, &NoExternalData).map_err(|d| at(d.reason));
    if let Some(tensor) = tensor {
        return Ok(vec![(name.to_owned(), decode(tensor)?.1)]);
    }
    let Some(sequence) = sequence else { return Ok(Vec::new()) };
    lengths.insert(format!("{name}.length"), sequence.tensor_values.len() as u64);
    let tensors = sequence.tensor_values.into_iter().enumerate();
    tensors.map(|(i, proto)| Ok((format!("{name}[{i}]"), decode(proto)?.1))).collect()
}

/// Why bytes are no tensor of a `.npy` file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NpyError {
    /// The file is cut short.
    #[error("it ends early")]
    Early,
    /// The shape has more elements than 64 bits count.
    #[error("its shape has too many elements")]
    Shape,
    /// The header is malformed.
    #[error("{0}")]
    Header(String),
    /// The elements are records.
    #[error("element type {0} is a record")]
    Record(String),
    /// Tensors have no such element type.
    #[error("element type {0} is not supported")]
    Element(String),
    /// Tensors have no such shape.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// The file has more or fewer bytes than its shape.
    #[error("{ty} needs {need} bytes, but the file has {have}")]
    Size {
        /// The type that the header gives.
        ty: TensorType,
        /// Bytes of that type.
        need: u64,
        /// Bytes that follow the header.
        have: u64,
    },
    /// A boolean has another code.
    #[error("a boolean is neither 0 nor 1")]
    Bool,
}

/// Refuses a header whose shape has more elements than 64 bits count, which `npyz` multiplies out unchecked.
fn check_npy_shape(bytes: &[u8]) -> Result<(), NpyError> {
    // Magic, version (2 bytes), length of the header (2 bytes in version 1, else 4), header.
    let (start, len) = match *bytes {
        [_, _, _, _, _, _, 1, _, a, b, ..] => (10, usize::from(u16::from_le_bytes([a, b]))),
        [_, _, _, _, _, _, _, _, a, b, c, d, ..] => (12, u32::from_le_bytes([a, b, c, d]) as usize),
        _ => return Err(NpyError::Early),
    };
    let header = bytes.get(start..).and_then(|rest| rest.get(..len)).ok_or(NpyError::Early)?;
    // Every number of the header counts: some more than the shape's, which is no harm.
    let digits = header.split(|b| !b.is_ascii_digit()).filter(|run| !run.is_empty());
    let numbers = digits.map(|run| std::str::from_utf8(run).ok()?.parse::<u64>().ok());
    let product = numbers.map(|n| n.map(|n| n.max(1))).try_fold(1u64, |all, n| all.checked_mul(n?));
    product.map(|_| ()).ok_or(NpyError::Shape)
}

/// Reads the bytes of a `.npy` file.
///
/// # Errors
/// Says what is wrong with them.
pub fn read_npy(blob: &Blob) -> Result<Literal, NpyError> {
    check_npy_shape(blob.bytes())?;
    let mut rest = blob.bytes();
    let header = NpyHeader::from_reader(&mut rest).map_err(|e| NpyError::Header(e.to_string()))?;
    let DType::Plain(dtype) = header.dtype() else {
        return Err(NpyError::Record(header.dtype().descr()));
    };
    let dtype = dtype.to_string();
    let Some((_, elem)) = NPY_TYPES.iter().find(|(code, _)| dtype.get(1..) == Some(*code)) else {
        return Err(NpyError::Element(dtype));
    };
    let ty = TensorType::new(*elem, header.shape().to_vec());
    ty.check()?;
    let offset = blob.bytes().len() - rest.len();
    let (have, need) = (rest.len() as u64, ty.bytes());
    if have != need {
        return Err(NpyError::Size { ty, need, have });
    }
    let data = blob.slice(offset, rest.len()).ok_or(NpyError::Early)?;
    if *elem == ScalarType::Bool && data.bytes().iter().any(|&b| b > 1) {
        return Err(NpyError::Bool);
    }
    let width = elem.bits() as usize / 8;
    let big_endian = dtype.starts_with('>') && width > 1;
    let fortran = header.order() == Order::Fortran && ty.shape.rank() > 1;
    if !big_endian && !fortran {
        return Ok(Literal { ty, data });
    }
    let mut bytes = data.bytes().to_vec();
    if fortran {
        bytes = row_major(&bytes, &ty.shape, width);
    }
    if big_endian {
        bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
    Ok(Literal { ty, data: Blob::new(bytes) })
}

/// Elements of `width` bytes, from column-major to row-major order.
fn row_major(bytes: &[u8], shape: &[u64], width: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0u64; shape.len()];
    for _ in 0..bytes.len() / width {
        let at = index.iter().zip(shape).rev().fold(0, |at, (i, d)| at * d + i) as usize * width;
        out.extend_from_slice(&bytes[at..at + width]);
        for (i, d) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *d {
                break;
            }
            *i = 0;
        }
    }
    out
}

/// The `.npy` form of a dense tensor; `None` for element types that NumPy has not.
fn encode_npy(elem: ScalarType, shape: &[u64], bytes: &[u8]) -> Option<Vec<u8>> {
    let (code, _) = NPY_TYPES.iter().find(|(_, e)| *e == elem)?;
    let order = if elem.bits() == 8 { '|' } else { '<' };
    let dtype: TypeStr = format!("{order}{code}").parse().ok()?;
    let mut out = Vec::new();
    let header =
        npyz::WriteOptions::new_header_only().dtype(DType::new_scalar(dtype)).shape(shape).writer(&mut out);
    header.write_header_only().ok()?;
    out.extend_from_slice(bytes);
    Some(out)
}

/// Writes a tensor to `folder/FILE.npy`, or `FILE.pb` for element types that NumPy has not; returns the name with its ending.
///
/// # Errors
/// L0003, and L0006 for element types that no file holds.
pub fn write(
    folder: &Path,
    file: &str,
    name: &str,
    elem: ScalarType,
    shape: &[u64],
    bytes: &[u8],
) -> Result<String, Diagnostic> {
    let (ending, content) = match encode_npy(elem, shape, bytes) {
        Some(npy) => ("npy", npy),
        None if data_type(elem) == 0 => {
            let reason = format!("{name}: neither NumPy nor ONNX has the element type {elem}");
            return Err(Diagnostic::new(codes::TENSOR_FILE, reason));
        }
        None => ("pb", encode_tensor(name, &TensorType::new(elem, shape), bytes).encode_to_vec()),
    };
    let file = format!("{file}.{ending}");
    files::write(&folder.join(&file), &content)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        for &elem in ScalarType::ALL {
            let shape = [2, 4];
            let ty = TensorType::new(elem, shape.as_slice());
            let bytes: Vec<u8> = (0..ty.bytes()).map(|i| (i % 2) as u8).collect();
            let file = match write(folder.path(), elem.name(), "x", elem, &shape, &bytes) {
                Ok(file) => file,
                Err(refused) => {
                    assert!(refused.reason.contains("has the element type sm"), "{elem}: {}", refused.reason);
                    continue;
                }
            };
            let (_, literal) = read(&folder.path().join(file)).unwrap();
            assert_eq!((literal.ty, literal.data.bytes()), (ty, bytes.as_slice()));
        }
    }

    #[test]
    fn foreign_orders_are_converted() {
        let npy = |descr: &str, fortran: &str, shape: &str, data: &[u8]| {
            let text = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
            let mut out = b"\x93NUMPY\x01\x00".to_vec();
            out.extend_from_slice(&(text.len() as u16 + 1).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
            out.extend_from_slice(data);
            Blob::new(out)
        };
        let check = |blob: Blob, expect: Result<&[u8], &str>| match (read_npy(&blob), expect) {
            (Ok(literal), Ok(bytes)) => assert_eq!(literal.data.bytes(), bytes),
            (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{e}"),
            (found, expect) => panic!("{found:?}, not {expect:?}"),
        };
        check(npy("|u1", "True", "(2, 3)", &[0, 3, 1, 4, 2, 5]), Ok(&[0, 1, 2, 3, 4, 5]));
        check(npy(">i2", "False", "(2,)", &[1, 2, 3, 4]), Ok(&[2, 1, 4, 3]));
        check(npy("<f4", "False", "()", &[0, 0, 128, 63]), Ok(&[0, 0, 128, 63]));
        check(npy("<f4", "False", "(2,)", &[0; 7]), Err("needs 8 bytes, but the file has 7"));
        check(npy("<c8", "False", "(1,)", &[0; 8]), Err("not supported"));
        check(npy("<f4", "False", "(4294967296, 4294967296)", &[]), Err("too many"));
    }

    #[test]
    fn damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pb");
        for bytes in [b"".as_slice(), b"garbage", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff"] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path).unwrap_err().code, codes::TENSOR_FILE.code, "{bytes:?}");
        }
    }
}
