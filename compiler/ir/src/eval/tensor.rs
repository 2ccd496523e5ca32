//! Values of the evaluator: a type and elements in a form made for arithmetic.

use std::sync::Arc;

use lacuna_isa::format::group::GroupScale;
use lacuna_isa::format::{Format, ScalarType};

use super::{EvalError, MAX_ELEMENTS, codec};
use crate::module::{Constant, ConstantData};
use crate::types::{ElemType, Shape, TensorType};

/// Codes and scales of a grouped tensor.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Groups {
    /// Element codes, one per byte, in row-major order.
    pub codes: Vec<u8>,
    /// Scales, in row-major order of the shape with the grouped dimension divided by the group size.
    pub scales: Vec<GroupScale>,
}

/// Elements of a tensor in row-major order, shared.
#[derive(Clone, PartialEq, Debug)]
pub enum TensorData {
    /// Elements of a floating-point type. In real mode they need not be values of that type.
    F(Arc<Vec<f64>>),
    /// Elements of an integer type or `bool` (0 and 1). A `u64` is kept as its bit pattern.
    I(Arc<Vec<i64>>),
    /// Elements of a grouped type.
    Grouped(Arc<Groups>),
}

/// A value: a type and its elements. Cloning copies no elements.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    /// The type.
    pub ty: TensorType,
    /// The elements, as many as the type says.
    pub data: TensorData,
}

impl Default for Tensor {
    /// `f32[0]`.
    fn default() -> Tensor {
        Tensor { ty: TensorType::new(ScalarType::F32, [0].as_slice()), data: TensorData::F(Arc::default()) }
    }
}

/// Number of elements of a type that is sound and small enough to evaluate.
pub(super) fn elements(ty: &TensorType) -> Result<usize, EvalError> {
    ty.check()?;
    let elements = ty.shape.elements();
    if elements > MAX_ELEMENTS {
        return Err(EvalError::TooLarge(ty.clone()));
    }
    Ok(elements as usize)
}

impl Tensor {
    /// A tensor from its parts.
    ///
    /// # Errors
    /// When the data does not fit the type.
    pub fn new(ty: TensorType, data: TensorData) -> Result<Tensor, EvalError> {
        let n = elements(&ty)?;
        let fits = match (&data, ty.elem) {
            (TensorData::F(v), ElemType::Scalar(s)) => s.is_float() && v.len() == n,
            (TensorData::I(v), ElemType::Scalar(s)) => !s.is_float() && v.len() == n,
            (TensorData::Grouped(g), ElemType::Grouped { .. }) => {
                g.codes.len() == n && g.scales.len() as u64 == ty.scales()
            }
            (TensorData::F(_) | TensorData::I(_), ElemType::Grouped { .. })
            | (TensorData::Grouped(_), ElemType::Scalar(_)) => false,
        };
        if fits { Ok(Tensor { ty, data }) } else { Err(EvalError::Input(format!("data does not fit {ty}"))) }
    }

    /// A tensor of scalars from numbers: floats round to the type, integers truncate and saturate.
    ///
    /// # Errors
    /// When `values` has not the shape's number of elements.
    pub fn from_f64(elem: ScalarType, shape: impl Into<Shape>, values: &[f64]) -> Result<Tensor, EvalError> {
        let data = if elem.is_float() {
            let mut values = values.to_vec();
            codec::round_slice(elem, &mut values);
            TensorData::F(Arc::new(values))
        } else {
            TensorData::I(Arc::new(values.iter().map(|&v| codec::float_to_int(elem, v)).collect()))
        };
        Tensor::new(TensorType::new(elem, shape), data)
    }

    /// A tensor from the dense little-endian row-major form of [`TensorType::bytes`].
    ///
    /// # Errors
    /// When `bytes` has not the length that the type says, or the type is too large.
    pub fn from_bytes(ty: TensorType, bytes: &[u8]) -> Result<Tensor, EvalError> {
        let n = elements(&ty)?;
        if bytes.len() as u64 != ty.bytes() {
            return Err(EvalError::Input(format!("{} bytes given for {ty}", bytes.len())));
        }
        let data = match ty.elem {
            ElemType::Scalar(s) if s.is_float() => TensorData::F(Arc::new(codec::decode_floats(s, bytes, n))),
            ElemType::Scalar(s) => TensorData::I(Arc::new(codec::decode_ints(s, bytes, n))),
            ElemType::Grouped { format, .. } => {
                let (codes, plane) = bytes.split_at(bytes.len() - ty.scale_bytes() as usize);
                TensorData::Grouped(Arc::new(Groups {
                    codes: codec::unpack_codes(format.element, codes, n),
                    scales: codec::unpack_scales(format, plane, ty.scales() as usize),
                }))
            }
        };
        Ok(Tensor { ty, data })
    }

    /// The dense little-endian row-major form of [`TensorType::bytes`]; floats round to the type.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.ty.bytes() as usize];
        let format = self.ty.elem.format();
        let element = format.element();
        match (&self.data, format) {
            (TensorData::F(values), _) => codec::encode_floats(element, values, &mut bytes),
            (TensorData::I(values), _) => codec::encode_ints(element, values, &mut bytes),
            (TensorData::Grouped(groups), Format::Grouped(format)) => {
                let n_code_bytes = bytes.len() - self.ty.scale_bytes() as usize;
                let (codes, plane) = bytes.split_at_mut(n_code_bytes);
                codec::pack_codes(element, &groups.codes, codes);
                codec::pack_scales(format, &groups.scales, plane);
            }
            (TensorData::Grouped(_), Format::Scalar(_)) => unreachable!("the data of a tensor fits its type"),
        }
        bytes
    }

    /// The value of a constant.
    ///
    /// # Errors
    /// When its data does not fit its type.
    pub fn from_constant(constant: &Constant) -> Result<Tensor, EvalError> {
        let code = match &constant.data {
            ConstantData::Dense(blob) => return Tensor::from_bytes(constant.ty.clone(), blob.bytes()),
            ConstantData::Splat(code) => *code,
        };
        let n = elements(&constant.ty)?;
        let data = match constant.ty.elem {
            ElemType::Scalar(s) if s.is_float() => {
                TensorData::F(Arc::new(vec![codec::float_of_code(s, code); n]))
            }
            ElemType::Scalar(s) => TensorData::I(Arc::new(vec![codec::int_of_code(s, code); n])),
            ElemType::Grouped { .. } => {
                return Err(EvalError::Input(format!("a splat of grouped type {}", constant.ty)));
            }
        };
        Tensor::new(constant.ty.clone(), data)
    }

    /// The elements of a floating-point tensor.
    pub fn floats(&self) -> Option<&[f64]> {
        match &self.data {
            TensorData::F(values) => Some(values),
            TensorData::I(_) | TensorData::Grouped(_) => None,
        }
    }

    /// The elements of an integer or `bool` tensor; a `u64` is its bit pattern.
    pub fn ints(&self) -> Option<&[i64]> {
        match &self.data {
            TensorData::I(values) => Some(values),
            TensorData::F(_) | TensorData::Grouped(_) => None,
        }
    }

    /// Every element as a number: exact but for integers beyond 2^53.
    pub fn to_f64(&self) -> Arc<Vec<f64>> {
        match (&self.data, self.ty.elem) {
            (TensorData::F(values), _) => Arc::clone(values),
            (TensorData::I(values), elem) => {
                let wide = |&v| codec::wide(elem.format().element(), v) as f64;
                Arc::new(values.iter().map(wide).collect())
            }
            (TensorData::Grouped(groups), ElemType::Grouped { format, axis }) => Arc::new(codec::dequantize(
                format,
                usize::from(axis),
                &self.ty.shape,
                &groups.codes,
                &groups.scales,
            )),
            (TensorData::Grouped(_), ElemType::Scalar(_)) => {
                unreachable!("the data of a tensor fits its type")
            }
        }
    }
}
