//! Operators that move elements and compute nothing. Most are one strided copy.

use std::sync::Arc;

use lacuna_isa::format::ScalarType;

use super::tensor::{Groups, Tensor, TensorData};
use super::{EvalError, Mode, codec};
use crate::types::{ElemType, Shape, TensorType};

/// The elements `src[base + sum(i[d] * strides[d])]` for all indices i of `shape`, in row-major order.
pub(super) fn strided<T: Copy>(src: &[T], shape: &[u64], base: i64, strides: &[i64]) -> Vec<T> {
    let n: u64 = shape.iter().product();
    let mut out = Vec::with_capacity(n as usize);
    if n == 0 {
        return out;
    }
    let Some((&width, outer)) = shape.split_last() else {
        out.push(src[base as usize]);
        return out;
    };
    let step = strides[outer.len()];
    let mut index = vec![0u64; outer.len()];
    let mut at = base;
    loop {
        match step {
            1 => out.extend_from_slice(&src[at as usize..at as usize + width as usize]),
            0 => out.resize(out.len() + width as usize, src[at as usize]),
            _ => out.extend((0..width as i64).map(|i| src[(at + i * step) as usize])),
        }
        let mut d = outer.len();
        loop {
            if d == 0 {
                return out;
            }
            d -= 1;
            index[d] += 1;
            at += strides[d];
            if index[d] < outer[d] {
                break;
            }
            at -= strides[d] * outer[d] as i64;
            index[d] = 0;
        }
    }
}

/// Row-major strides for [`strided`].
pub(super) fn strides(shape: &[u64]) -> Vec<i64> {
    Shape::from(shape).strides().into_iter().map(|s| s as i64).collect()
}

/// Applies one movement to whichever arrays hold the elements: `f(shape, array)` is called for scalars with the logical
/// shape, for groups once with it and once with the shape of the scales.
struct Movement<F>(F);

impl<F: Fn(&Shape) -> (Vec<u64>, i64, Vec<i64>)> Movement<F> {
    /// `self.0` gives the result's shape, base and strides for an operand of some shape.
    fn apply(self, x: &Tensor) -> TensorData {
        fn copy<T: Copy>(src: &[T], (shape, base, strides): (Vec<u64>, i64, Vec<i64>)) -> Vec<T> {
            strided(src, &shape, base, &strides)
        }
        match &x.data {
            TensorData::F(values) => TensorData::F(Arc::new(copy(values, (self.0)(&x.ty.shape)))),
            TensorData::I(values) => TensorData::I(Arc::new(copy(values, (self.0)(&x.ty.shape)))),
            TensorData::Grouped(groups) => TensorData::Grouped(Arc::new(Groups {
                codes: copy(&groups.codes, (self.0)(&x.ty.shape)),
                scales: copy(&groups.scales, (self.0)(&scale_shape(&x.ty))),
            })),
        }
    }
}

/// Shape of the scales of a grouped type: the logical shape for scalars.
fn scale_shape(ty: &TensorType) -> Shape {
    let mut shape = ty.shape.clone();
    if let ElemType::Grouped { format, axis } = ty.elem {
        let n = &mut shape.0[usize::from(axis)];
        *n = n.div_ceil(u64::from(format.size));
    }
    shape
}

pub(super) fn permute(x: &Tensor, perm: &[u8]) -> TensorData {
    Movement(|shape: &Shape| {
        let from = strides(shape);
        let dims = perm.iter().map(|&p| shape[usize::from(p)]).collect();
        (dims, 0, perm.iter().map(|&p| from[usize::from(p)]).collect())
    })
    .apply(x)
}

pub(super) fn broadcast(x: &Tensor, dims: &[u8], to: &Shape) -> TensorData {
    Movement(|shape: &Shape| {
        let from = strides(shape);
        let mut result = to.0.clone();
        let mut result_strides = vec![0; to.rank()];
        for (i, &d) in dims.iter().enumerate() {
            let d = usize::from(d);
            if shape[i] != 1 {
                // The grouped dimension does not repeat; its scales are fewer than the logical size.
                result[d] = shape[i];
                result_strides[d] = from[i];
            } else if is_grouped_axis(x, i) {
                result[d] = 1;
            }
        }
        (result, 0, result_strides)
    })
    .apply(x)
}

fn is_grouped_axis(x: &Tensor, d: usize) -> bool {
    match x.ty.elem {
        ElemType::Scalar(_) => false,
        ElemType::Grouped { axis, .. } => usize::from(axis) == d,
    }
}

pub(super) fn slice(x: &Tensor, starts: &[i64], to: &Shape, steps: &[i64]) -> TensorData {
    Movement(|shape: &Shape| {
        let from = strides(shape);
        let mut result = to.0.clone();
        for (d, n) in result.iter_mut().enumerate() {
            if is_grouped_axis(x, d) {
                *n = shape[d];
            }
        }
        if result.contains(&0) {
            return (result, 0, from);
        }
        let base = (0..from.len()).map(|d| starts[d] * from[d]).sum();
        // A step is only taken between two elements; one of a single position may be any number.
        let step = |d: usize| if result[d] > 1 { steps[d] * from[d] } else { 0 };
        let result_strides = (0..from.len()).map(step).collect();
        (result, base, result_strides)
    })
    .apply(x)
}

pub(super) fn window(x: &Tensor, axes: &[u8], steps: &[u64], dilations: &[u64], to: &Shape) -> TensorData {
    Movement(|shape: &Shape| {
        let from = strides(shape);
        let mut result_strides = from.clone();
        for (i, &axis) in axes.iter().enumerate() {
            let axis = usize::from(axis);
            let moves = |n: u64, step: u64| if n > 1 { step as i64 * from[axis] } else { 0 };
            result_strides[axis] = moves(to[axis], steps[i]);
            result_strides.push(moves(to[from.len() + i], dilations[i]));
        }
        (to.0.clone(), 0, result_strides)
    })
    .apply(x)
}

pub(super) fn pad(x: &Tensor, value: &Tensor, low: &[u64], to: &Shape) -> TensorData {
    fn fill<T: Copy>(src: &[T], from: &Shape, value: T, low: &[u64], to: &Shape) -> Arc<Vec<T>> {
        let mut out = vec![value; to.elements() as usize];
        if src.is_empty() {
            return Arc::new(out);
        }
        let to_strides = to.strides();
        let width = from.last().map_or(1, |&n| n as usize);
        for (row, chunk) in src.chunks_exact(width).enumerate() {
            let mut rest = row as u64;
            let mut at = 0;
            for d in (0..from.rank()).rev() {
                let index = if d + 1 == from.rank() { 0 } else { rest % from[d] };
                if d + 1 != from.rank() {
                    rest /= from[d];
                }
                at += (index + low[d]) * to_strides[d];
            }
            out[at as usize..at as usize + width].copy_from_slice(chunk);
        }
        Arc::new(out)
    }
    match (&x.data, &value.data) {
        (TensorData::F(v), TensorData::F(s)) => TensorData::F(fill(v, &x.ty.shape, s[0], low, to)),
        (TensorData::I(v), TensorData::I(s)) => TensorData::I(fill(v, &x.ty.shape, s[0], low, to)),
        (TensorData::F(_) | TensorData::I(_) | TensorData::Grouped(_), _) => {
            unreachable!("the type rule wants equal scalar types")
        }
    }
}

pub(super) fn concat(args: &[&Tensor], axis: usize) -> TensorData {
    fn join<T: Copy>(parts: &[(&[T], usize)], outer: usize) -> Arc<Vec<T>> {
        let n = parts.iter().map(|p| p.0.len()).sum();
        let mut out = Vec::with_capacity(n);
        let outer = if n == 0 { 0 } else { outer };
        for o in 0..outer {
            for (data, len) in parts {
                out.extend_from_slice(&data[o * len..(o + 1) * len]);
            }
        }
        Arc::new(out)
    }
    let shape = &args[0].ty.shape;
    let outer = shape[..axis].iter().product::<u64>() as usize;
    let len = |x: &Tensor| x.ty.shape[axis..].iter().product::<u64>() as usize;
    if args[0].floats().is_some() {
        let parts: Vec<_> = args.iter().filter_map(|x| Some((x.floats()?, len(x)))).collect();
        TensorData::F(join(&parts, outer))
    } else {
        let parts: Vec<_> = args.iter().filter_map(|x| Some((x.ints()?, len(x)))).collect();
        TensorData::I(join(&parts, outer))
    }
}

pub(super) fn gather(
    x: &Tensor,
    indices: &Tensor,
    axis: usize,
    batch: usize,
) -> Result<TensorData, EvalError> {
    let extent = x.ty.shape[axis];
    let indices = indices.ints().unwrap_or_default();
    if let Some(&index) = indices.iter().find(|&&i| i < 0 || i as u64 >= extent) {
        return Err(EvalError::Index { index, extent });
    }
    let rows = Rows { indices, axis, batch };
    Ok(match &x.data {
        TensorData::F(v) => TensorData::F(Arc::new(rows.of(v, &x.ty.shape))),
        TensorData::I(v) => TensorData::I(Arc::new(rows.of(v, &x.ty.shape))),
        TensorData::Grouped(groups) => TensorData::Grouped(Arc::new(Groups {
            codes: rows.of(&groups.codes, &x.ty.shape),
            scales: rows.of(&groups.scales, &scale_shape(&x.ty)),
        })),
    })
}

/// The rows that indices name along an axis, behind leading dimensions in common.
struct Rows<'a> {
    indices: &'a [i64],
    axis: usize,
    batch: usize,
}

impl Rows<'_> {
    /// Of an array of `shape`, row-major.
    fn of<T: Copy>(&self, src: &[T], shape: &Shape) -> Vec<T> {
        let product = |dims: &[u64]| dims.iter().product::<u64>() as usize;
        let (batches, extent) = (product(&shape[..self.batch]), shape[self.axis] as usize);
        let (outer, inner) = (product(&shape[self.batch..self.axis]), product(&shape[self.axis + 1..]));
        let per_batch = self.indices.len().checked_div(batches).unwrap_or(0);
        let n = batches * outer * per_batch * inner;
        let mut out = Vec::with_capacity(n);
        // Without elements the other dimensions may be of any size.
        for b in 0..if n == 0 { 0 } else { batches } {
            for o in 0..outer {
                for &i in &self.indices[b * per_batch..(b + 1) * per_batch] {
                    let at = ((b * outer + o) * extent + i as usize) * inner;
                    out.extend_from_slice(&src[at..at + inner]);
                }
            }
        }
        out
    }
}

pub(super) fn iota(ty: &TensorType, elem: ScalarType, axis: usize, mode: Mode) -> TensorData {
    let extent = if ty.shape.elements() == 0 { 0 } else { ty.shape[axis] };
    let mut along = vec![0; ty.shape.rank()];
    along[axis] = 1;
    if elem.is_float() {
        let real = |i: u64| match mode {
            Mode::Typed => codec::round(elem, i as f64),
            Mode::Real => i as f64,
        };
        TensorData::F(Arc::new(strided(&(0..extent).map(real).collect::<Vec<_>>(), &ty.shape, 0, &along)))
    } else {
        let int = |i: u64| codec::wrap(elem, i128::from(i));
        TensorData::I(Arc::new(strided(&(0..extent).map(int).collect::<Vec<_>>(), &ty.shape, 0, &along)))
    }
}
