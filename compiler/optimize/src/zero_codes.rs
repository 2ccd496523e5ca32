//! Which elements of a constant are zero: single ones, slices, blocks, and N:M patterns.

use lacuna_ir::{Constant, ConstantData};
use lacuna_isa::format::ScalarType;

use crate::module::dense;
use crate::structure::Indices;

/// At most `n` of each `m` consecutive elements along the summed dimension are non-zero; a short last group counts as
/// filled up with zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WeightSparsity {
    /// Non-zero elements at most.
    pub n: u8,
    /// Elements of a group.
    pub m: u8,
}

impl WeightSparsity {
    /// Two of four.
    pub const TWO_OF_FOUR: WeightSparsity = WeightSparsity { n: 2, m: 4 };
    /// Patterns that halve the work at least and that every such pattern of a target implies one of: 1:2, 1:4, 2:4, 2:8 and 4:16
    /// are 4:8.
    pub const LOOSEST: [WeightSparsity; 2] = [WeightSparsity { n: 4, m: 8 }, WeightSparsity { n: 4, m: 12 }];
}

/// Whether the elements of a constant that are zero can be told apart from the others.
struct Zeros<'a> {
    element: ScalarType,
    bytes: &'a [u8],
}

impl Zeros<'_> {
    fn code(&self, i: usize) -> u64 {
        let bits = self.element.bits() as usize;
        if bits >= 8 {
            let mut code = [0; 8];
            let width = bits / 8;
            code[..width].copy_from_slice(&self.bytes[i * width..(i + 1) * width]);
            return u64::from_le_bytes(code);
        }
        let at = i * bits;
        let low = u64::from(self.bytes[at / 8]);
        let high = self.bytes.get(at / 8 + 1).map_or(0, |&b| u64::from(b));
        ((low | (high << 8)) >> (at % 8)) & ((1 << bits) - 1)
    }

    fn is_zero(&self, i: usize) -> bool {
        is_zero_code(self.element, self.code(i))
    }
}

/// Whether a code means zero, of either sign.
fn is_zero_code(element: ScalarType, code: u64) -> bool {
    let sign = 1u64 << (element.bits() - 1);
    match element {
        ScalarType::Bool => code == 0,
        ScalarType::I2 | ScalarType::I4 | ScalarType::I8 => code == 0,
        ScalarType::I16 | ScalarType::I32 | ScalarType::I64 => code == 0,
        ScalarType::U2 | ScalarType::U4 | ScalarType::U8 => code == 0,
        ScalarType::U16 | ScalarType::U32 | ScalarType::U64 => code == 0,
        ScalarType::F16 | ScalarType::Bf16 | ScalarType::F32 | ScalarType::F64 => code & !sign == 0,
        ScalarType::E4M3 | ScalarType::E5M2 => code & !sign == 0,
        // The code with only the sign bit is NaN.
        ScalarType::E4M3Fnuz | ScalarType::E5M2Fnuz => code == 0,
        ScalarType::E3M2 | ScalarType::E2M3 | ScalarType::E2M1 => code & !sign == 0,
        ScalarType::Sm8 | ScalarType::Sm5 | ScalarType::Sm3 => code & !sign == 0,
        ScalarType::E8M0 => false,
    }
}

/// Zero elements and all elements of a constant.
pub fn density(constant: &Constant) -> (u64, u64) {
    let all = constant.ty.shape.elements();
    let element = constant.ty.elem.format().element();
    let zeros = match &constant.data {
        ConstantData::Splat(code) => {
            if is_zero_code(element, *code) {
                all
            } else {
                0
            }
        }
        ConstantData::Dense(blob) => {
            let zeros = Zeros { element, bytes: blob.bytes() };
            (0..all as usize).filter(|&i| zeros.is_zero(i)).count() as u64
        }
    };
    (zeros, all)
}

/// Whether every element is zero, of either sign; false for grouped constants. Stops at the first that is not.
pub fn is_zero(constant: &Constant) -> bool {
    let Some(element) = constant.ty.elem.scalar() else { return false };
    match &constant.data {
        ConstantData::Splat(code) => is_zero_code(element, *code),
        ConstantData::Dense(blob) => {
            let zeros = Zeros { element, bytes: blob.bytes() };
            (0..constant.ty.shape.elements() as usize).all(|i| zeros.is_zero(i))
        }
    }
}

/// Indices along `axis` at which every element is zero, if there are any. For each index the scan stops at the first
/// element that is not.
pub fn zero_slices(constant: &Constant, axis: usize) -> Option<Indices> {
    let element = constant.ty.elem.scalar()?;
    let zeros = Zeros { element, bytes: dense(constant)?.bytes() };
    let shape = &constant.ty.shape;
    if shape.elements() == 0 {
        return None;
    }
    let (extent, stride) = (shape[axis], shape.strides()[axis]);
    let outer = shape.elements() / (extent * stride);
    let dead = |i: u64| {
        (0..outer).all(|o| {
            let first = (o * extent + i) * stride;
            (first..first + stride).all(|at| zeros.is_zero(at as usize))
        })
    };
    let found = Indices::of(extent, dead);
    (!found.is_empty()).then_some(found)
}

/// How many blocks of a constant are zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockZeros {
    /// Blocks without a non-zero element.
    pub n_zero: u64,
    /// All blocks; those at an edge may be smaller.
    pub n_blocks: u64,
}

/// Zero blocks of `block` elements along two dimensions of a constant of scalars, for kernels with a block mask. The scan
/// of a block stops at its first non-zero element. `None` where the dimensions are not two of the constant's.
pub fn zero_blocks(constant: &Constant, axes: [usize; 2], block: [u64; 2]) -> Option<BlockZeros> {
    let element = constant.ty.elem.scalar()?;
    let shape = &constant.ty.shape;
    if axes[0] == axes[1] || axes.iter().any(|&a| a >= shape.rank()) || block.contains(&0) {
        return None;
    }
    let (sizes, strides) = (axes.map(|a| shape[a]), shape.strides());
    let per_slice = sizes[0].div_ceil(block[0]) * sizes[1].div_ceil(block[1]);
    let others: Vec<usize> = (0..shape.rank()).filter(|d| !axes.contains(d)).collect();
    let n_slices: u64 = others.iter().map(|&d| shape[d]).product();
    let n_blocks = per_slice * n_slices;
    let zeros = match &constant.data {
        ConstantData::Splat(code) => {
            let n_zero = if is_zero_code(element, *code) { n_blocks } else { 0 };
            return Some(BlockZeros { n_zero, n_blocks });
        }
        ConstantData::Dense(blob) => Zeros { element, bytes: blob.bytes() },
    };
    let starts = |d: usize| (0..sizes[d]).step_by(usize::try_from(block[d]).unwrap_or(usize::MAX));
    let within = |d: usize, start: u64| start..sizes[d].min(start.saturating_add(block[d]));
    let mut n_zero = 0;
    for slice in 0..n_slices {
        let (mut rest, mut base) = (slice, 0);
        for &d in others.iter().rev() {
            base += rest % shape[d] * strides[d];
            rest /= shape[d];
        }
        for first in starts(0) {
            for second in starts(1) {
                let zero = within(0, first).all(|i| {
                    within(1, second)
                        .all(|j| zeros.is_zero((base + i * strides[axes[0]] + j * strides[axes[1]]) as usize))
                });
                n_zero += u64::from(zero);
            }
        }
    }
    Some(BlockZeros { n_zero, n_blocks })
}

/// Whether at most `n` of each `m` consecutive elements along `axis` are non-zero. A constant without any zero never
/// follows a pattern, and one with a NaN scale neither.
pub fn follows(constant: &Constant, axis: usize, pattern: WeightSparsity) -> bool {
    let element = constant.ty.elem.format().element();
    let Some(bytes) = dense(constant).map(|blob| blob.bytes()) else { return false };
    let shape = &constant.ty.shape;
    if axis >= shape.rank() || shape.elements() == 0 {
        return false;
    }
    // A dimension that is hardly longer than what one group stores would follow the pattern without a zero.
    let stored = shape[axis].div_ceil(u64::from(pattern.m)) * u64::from(pattern.n);
    if stored >= shape[axis] {
        return false;
    }
    let zeros = Zeros { element, bytes };
    let (extent, stride) = (shape[axis] as usize, shape.strides()[axis] as usize);
    let lanes = shape.elements() as usize / extent;
    let sparse = (0..lanes).all(|lane| {
        let base = lane / stride * stride * extent + lane % stride;
        (0..extent).step_by(usize::from(pattern.m)).all(|start| {
            let group = start..extent.min(start + usize::from(pattern.m));
            group.filter(|&k| !zeros.is_zero(base + k * stride)).count() <= usize::from(pattern.n)
        })
    });
    // Most constants are ruled out by their first elements, and all of the scales need not be read.
    sparse && !constant.has_nan_scale()
}

#[cfg(test)]
mod tests {
    use lacuna_ir::TensorType;

    use super::*;

    /// Dimensions, block, and how many of how many blocks are zero.
    type Case = ([usize; 2], [u64; 2], Option<(u64, u64)>);

    #[test]
    fn zero_blocks_are_counted_along_any_two_dimensions() {
        // Of [2, 3, 5], all but the elements 0 (at 0, 0, 0) and 22 (at 1, 1, 2) are zero.
        let values = (0..30).map(|i| if i == 0 || i == 22 { 1.0f32 } else { 0.0 });
        let bytes = values.flat_map(f32::to_le_bytes).collect();
        let ty = TensorType::new(ScalarType::F32, &[2u64, 3, 5][..]);
        let constant = Constant::dense(ty.clone(), bytes, "");
        let cases: [Case; 6] = [
            ([1, 2], [3, 5], Some((0, 2))),
            ([1, 2], [2, 2], Some((10, 12))),
            ([0, 1], [2, 3], Some((3, 5))),
            ([2, 0], [1, 1], Some((28, 30))),
            ([1, 1], [2, 2], None),
            ([1, 3], [2, 2], None),
        ];
        for (axes, block, expect) in cases {
            let found = zero_blocks(&constant, axes, block).map(|b| (b.n_zero, b.n_blocks));
            assert_eq!(found, expect, "{axes:?} {block:?}");
        }
        let splat = Constant::new(ty, ConstantData::Splat(0), "");
        assert_eq!(zero_blocks(&splat, [1, 2], [2, 2]), Some(BlockZeros { n_zero: 12, n_blocks: 12 }));
    }
}
