//! Types of values: an element type over a static logical shape.

use std::fmt;

use lacuna_isa::format::{Format, GroupFormat, ScalarType};

/// The greatest rank of a value.
pub const MAX_RANK: usize = 8;

/// A value has fewer elements than this, so that sizes in bits fit 64 bits.
const MAX_ELEMENTS: u64 = 1 << 56;

/// A static logical shape; dimension 0 is outermost. Rank 0 is a scalar; sizes may be 0.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Shape(pub Vec<u64>);

impl Shape {
    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements: 1 for rank 0.
    pub fn elements(&self) -> u64 {
        self.0.iter().product()
    }

    /// Number of elements, unless it overflows.
    pub fn checked_elements(&self) -> Option<u64> {
        // A later zero makes the product small, but no strides may overflow either.
        let non_zero = self.0.iter().filter(|&&d| d != 0).try_fold(1u64, |n, &d| n.checked_mul(d))?;
        Some(if self.0.contains(&0) { 0 } else { non_zero })
    }

    /// Row-major strides in elements.
    pub fn strides(&self) -> Vec<u64> {
        let mut strides = vec![1; self.rank()];
        for d in (0..self.rank().saturating_sub(1)).rev() {
            strides[d] = strides[d + 1] * self.0[d + 1];
        }
        strides
    }
}

impl std::ops::Deref for Shape {
    type Target = [u64];
    fn deref(&self) -> &[u64] {
        &self.0
    }
}

impl From<&[u64]> for Shape {
    fn from(dims: &[u64]) -> Shape {
        Shape(dims.to_vec())
    }
}

impl From<Vec<u64>> for Shape {
    fn from(dims: Vec<u64>) -> Shape {
        Shape(dims)
    }
}

impl FromIterator<u64> for Shape {
    fn from_iter<I: IntoIterator<Item = u64>>(iter: I) -> Shape {
        Shape(iter.into_iter().collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// Element type of a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ElemType {
    /// Elements on their own.
    Scalar(ScalarType),
    /// Elements along `axis` that share scales; a short last group is legal.
    Grouped {
        /// Element, scale and group size.
        format: GroupFormat,
        /// The logical dimension that groups run along.
        axis: u8,
    },
}

impl ElemType {
    /// The scalar type, unless grouped.
    pub fn scalar(self) -> Option<ScalarType> {
        match self {
            ElemType::Scalar(s) => Some(s),
            ElemType::Grouped { .. } => None,
        }
    }

    /// The machine format of one element.
    pub fn format(self) -> Format {
        match self {
            ElemType::Scalar(s) => Format::Scalar(s),
            ElemType::Grouped { format, .. } => Format::Grouped(format),
        }
    }
}

impl fmt::Display for ElemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ElemType::Scalar(s) => s.fmt(f),
            ElemType::Grouped { format, axis } => write!(f, "{format}@{axis}"),
        }
    }
}

/// Type of a value. Text form: `f32[1,64,56,56]`, or `mxfp8@1[64,576]` for groups along dimension 1.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TensorType {
    /// Element type.
    pub elem: ElemType,
    /// Logical shape.
    pub shape: Shape,
}

impl TensorType {
    /// A tensor of scalars.
    pub fn new(elem: ScalarType, shape: impl Into<Shape>) -> TensorType {
        TensorType { elem: ElemType::Scalar(elem), shape: shape.into() }
    }

    /// A tensor of groups along `axis`.
    pub fn grouped(format: GroupFormat, axis: usize, shape: impl Into<Shape>) -> TensorType {
        TensorType { elem: ElemType::Grouped { format, axis: axis as u8 }, shape: shape.into() }
    }

    /// Checks what every value's type holds to: at most [`MAX_RANK`] dimensions, fewer than 2^56 elements (not counting
    /// dimensions of 0), and for groups a named format along a dimension of the shape.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), TypeError> {
        let fault = |what: String| Err(TypeError(what));
        if self.shape.rank() > MAX_RANK {
            return fault(format!("{self} has more than {MAX_RANK} dimensions"));
        }
        let spread = self.shape.iter().map(|&d| d.max(1)).collect::<Shape>();
        if spread.checked_elements().is_none_or(|n| n >= MAX_ELEMENTS) {
            return fault(format!("{self} has too many elements"));
        }
        match self.elem {
            ElemType::Scalar(_) => Ok(()),
            ElemType::Grouped { axis, .. } if usize::from(axis) >= self.shape.rank() => {
                fault(format!("{self} is grouped along a dimension that it has not"))
            }
            ElemType::Grouped { format, .. } if format.code().is_none() => {
                fault(format!("the group format {format:?} has no name"))
            }
            ElemType::Grouped { .. } => Ok(()),
        }
    }

    /// Bytes of the dense row-major form: packed codes, then (grouped) one scale per group, with its pair shifts where the
    /// format has them, in row-major order of the shape with the grouped dimension divided by the group size, rounded up.
    pub fn bytes(&self) -> u64 {
        let codes = self.elem.format().element().bytes_for(self.shape.elements());
        codes + self.scale_bytes()
    }

    /// Bytes of the scales in the dense form: 0 for scalars.
    pub fn scale_bytes(&self) -> u64 {
        match self.elem {
            ElemType::Scalar(_) => 0,
            ElemType::Grouped { format, .. } => format.scale_bytes(self.scales()),
        }
    }

    /// Number of scales: 0 for scalars.
    pub fn scales(&self) -> u64 {
        match self.elem {
            ElemType::Scalar(_) => 0,
            ElemType::Grouped { format, axis } => self
                .shape
                .iter()
                .enumerate()
                .map(|(d, &n)| if d == axis as usize { n.div_ceil(u64::from(format.size)) } else { n })
                .product(),
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.elem, self.shape)
    }
}

/// Why operands do not fit an operator.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(pub String);
