//! Contractions and convolutions: both become products of row-major matrices in f64, or in wrapping i64.

use std::sync::Arc;

use lacuna_isa::format::ScalarType;
use rayon::prelude::*;

use super::movement::{strided, strides};
use super::tensor::{Tensor, TensorData};
use super::{Mode, codec, floats};
use crate::op::{ContractMap, ConvAttrs};
use crate::types::Shape;

/// Rows of the left operand that one task takes.
const TASK_ROWS: usize = 32;
/// Columns of a block of the result that stays in the nearest cache with the rows that are added to it.
const BLOCK_COLUMNS: usize = 256;
/// Elements of the unfolded input that one convolution task holds.
const UNFOLDED: usize = 1 << 18;

/// A number that products are summed in.
trait Ring: Copy + Send + Sync {
    const ZERO: Self;
    /// `sum + a * b`.
    fn mul_add(sum: Self, a: Self, b: Self) -> Self;
}

impl Ring for f64 {
    const ZERO: f64 = 0.0;
    #[inline(always)]
    fn mul_add(sum: f64, a: f64, b: f64) -> f64 {
        sum + a * b
    }
}

impl Ring for i64 {
    const ZERO: i64 = 0;
    #[inline(always)]
    fn mul_add(sum: i64, a: i64, b: i64) -> i64 {
        sum.wrapping_add(a.wrapping_mul(b))
    }
}

/// Adds to `out` (rows of `n`) the product of `a` (rows of `k`) and `b` (k rows of n), in ascending k for each element.
fn multiply<T: Ring>(k: usize, n: usize, a: &[T], b: &[T], out: &mut [T]) {
    if k == 0 || n == 0 {
        return;
    }
    for column in (0..n).step_by(BLOCK_COLUMNS) {
        let width = BLOCK_COLUMNS.min(n - column);
        let b_row = |i: usize| &b[i * n + column..i * n + column + width];
        for (a, out) in a.chunks(8 * k).zip(out.chunks_mut(8 * n)) {
            let mut i = 0;
            while i + 4 <= k {
                let (b0, b1, b2, b3) = (b_row(i), b_row(i + 1), b_row(i + 2), b_row(i + 3));
                for (a, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
                    let (a0, a1, a2, a3) = (a[i], a[i + 1], a[i + 2], a[i + 3]);
                    let out = &mut out[column..column + width];
                    let b = b0.iter().zip(b1).zip(b2.iter().zip(b3));
                    for (sum, ((&b0, &b1), (&b2, &b3))) in out.iter_mut().zip(b) {
                        let two = T::mul_add(T::mul_add(*sum, a0, b0), a1, b1);
                        *sum = T::mul_add(T::mul_add(two, a2, b2), a3, b3);
                    }
                }
                i += 4;
            }
            for i in i..k {
                for (a, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
                    for (sum, &b) in out[column..column + width].iter_mut().zip(b_row(i)) {
                        *sum = T::mul_add(*sum, a[i], b);
                    }
                }
            }
        }
    }
}

/// Both operands as integers, when both are.
fn as_ints<'a>(a: &'a Tensor, b: &'a Tensor) -> Option<(&'a [i64], &'a [i64])> {
    Some((a.ints()?, b.ints()?))
}

/// Sums of real products in the result's type.
fn real_result(elem: ScalarType, sums: Vec<f64>, mode: Mode) -> TensorData {
    if elem.is_float() {
        match (floats(elem, sums, mode), elem, mode) {
            // An accumulator that is drained has no -0: where a sum underflows, nothing tells on which side it did.
            (TensorData::F(mut sums), ScalarType::F32, Mode::Typed) => {
                Arc::make_mut(&mut sums).iter_mut().for_each(|v| *v += 0.0);
                TensorData::F(sums)
            }
            (data, ..) => data,
        }
    } else {
        TensorData::I(Arc::new(sums.iter().map(|&v| codec::float_to_int(elem, v)).collect()))
    }
}

pub(super) fn contract(
    map: &ContractMap,
    elem: ScalarType,
    a: &Tensor,
    b: &Tensor,
    mode: Mode,
) -> TensorData {
    match as_ints(a, b) {
        Some((x, y)) if !elem.is_float() => {
            let sums = product(map, &a.ty.shape, x, &b.ty.shape, y);
            TensorData::I(Arc::new(sums.iter().map(|&v| codec::wrap(elem, i128::from(v))).collect()))
        }
        _ => real_result(elem, product(map, &a.ty.shape, &a.to_f64(), &b.ty.shape, &b.to_f64()), mode),
    }
}

fn product<T: Ring>(map: &ContractMap, a_shape: &Shape, a: &[T], b_shape: &Shape, b: &[T]) -> Vec<T> {
    let (batch, rows, columns, summed) = (map.batch(), map.rows(), map.columns(), map.summed());
    let size = |l: u8| match map.a.iter().position(|&x| x == l) {
        Some(d) => a_shape[d],
        None => map.b.iter().position(|&x| x == l).map_or(1, |d| b_shape[d]),
    };
    let count = |labels: &[u8]| labels.iter().map(|&l| size(l)).product::<u64>() as usize;
    let (n_batch, m, n, k) = (count(&batch), count(&rows), count(&columns), count(&summed));
    let arrange = |data: &[T], shape: &Shape, labels: &[u8], order: [&[u8]; 3]| {
        let from = strides(shape);
        let order = order.concat();
        let dims: Vec<u64> = order.iter().map(|&l| size(l)).collect();
        let place = |l: u8| labels.iter().position(|&x| x == l).map_or(0, |d| from[d]);
        strided(data, &dims, 0, &order.iter().map(|&l| place(l)).collect::<Vec<_>>())
    };
    let a = arrange(a, a_shape, &map.a, [&batch, &rows, &summed]);
    let b = arrange(b, b_shape, &map.b, [&batch, &summed, &columns]);
    let mut out = vec![T::ZERO; n_batch * m * n];
    if !out.is_empty() && k > 0 {
        out.par_chunks_mut(m * n).enumerate().for_each(|(i, out)| {
            let (a, b) = (&a[i * m * k..(i + 1) * m * k], &b[i * k * n..(i + 1) * k * n]);
            out.par_chunks_mut(TASK_ROWS * n)
                .zip(a.par_chunks(TASK_ROWS * k))
                .for_each(|(out, a)| multiply(k, n, a, b, out));
        });
    }
    let made: Vec<u8> = [&batch[..], &rows, &columns].concat();
    if made == map.out {
        return out;
    }
    let made_strides = strides(&made.iter().map(|&l| size(l)).collect::<Vec<_>>());
    let dims: Vec<u64> = map.out.iter().map(|&l| size(l)).collect();
    let place = |l: u8| made.iter().position(|&x| x == l).map_or(0, |d| made_strides[d]);
    strided(&out, &dims, 0, &map.out.iter().map(|&l| place(l)).collect::<Vec<_>>())
}

pub(super) fn conv(
    attrs: &ConvAttrs,
    elem: ScalarType,
    x: &Tensor,
    w: &Tensor,
    to: &Shape,
    mode: Mode,
) -> TensorData {
    match as_ints(x, w) {
        Some((a, b)) if !elem.is_float() => {
            let sums = convolve(attrs, &x.ty.shape, a, &w.ty.shape, b, to);
            TensorData::I(Arc::new(sums.iter().map(|&v| codec::wrap(elem, i128::from(v))).collect()))
        }
        _ => real_result(elem, convolve(attrs, &x.ty.shape, &x.to_f64(), &w.ty.shape, &w.to_f64(), to), mode),
    }
}

/// One spatial axis of a convolution.
struct Axis {
    extent: u64,
    kernel: u64,
    positions: u64,
    stride: u64,
    dilation: u64,
    x_dilation: u64,
    low: i64,
}

impl Axis {
    /// Index in x that output position `o` reads through kernel element `k`; `None` for a zero.
    fn source(&self, o: u64, k: u64) -> Option<u64> {
        let at = i128::from(o) * i128::from(self.stride) + i128::from(k) * i128::from(self.dilation)
            - i128::from(self.low);
        let at = u128::try_from(at).ok()?;
        let index = if self.x_dilation == 1 {
            at
        } else if at % u128::from(self.x_dilation) == 0 {
            at / u128::from(self.x_dilation)
        } else {
            return None;
        };
        u64::try_from(index).ok().filter(|&i| i < self.extent)
    }
}

/// Where kernel elements meet a block of output positions: the spatial offset in x, or `ZERO` outside, for every
/// kernel element (outer) and position (inner).
fn sources(axes: &[Axis], first: usize, width: usize) -> Vec<u32> {
    let n_kernel: u64 = axes.iter().map(|a| a.kernel).product();
    let mut table = Vec::with_capacity(n_kernel as usize * width);
    for k in 0..n_kernel {
        for p in first..first + width {
            let (mut k, mut p, mut at, mut scale) = (k, p as u64, Some(0), 1);
            for axis in axes.iter().rev() {
                let source = axis.source(p % axis.positions, k % axis.kernel);
                at = at.zip(source).map(|(at, i)| at + i * scale);
                (k, p, scale) = (k / axis.kernel, p / axis.positions, scale * axis.extent);
            }
            table.push(at.map_or(OUTSIDE, |at| at as u32));
        }
    }
    table
}

/// Larger than any offset in a tensor that can be evaluated.
const OUTSIDE: u32 = u32::MAX;

fn convolve<T: Ring>(
    attrs: &ConvAttrs,
    x_shape: &Shape,
    x: &[T],
    w_shape: &Shape,
    w: &[T],
    to: &Shape,
) -> Vec<T> {
    let natural = |data: &[T], shape: &Shape, order: &[u8]| {
        let from = strides(shape);
        let dims: Vec<u64> = order.iter().map(|&d| shape[usize::from(d)]).collect();
        strided(data, &dims, 0, &order.iter().map(|&d| from[usize::from(d)]).collect::<Vec<_>>())
    };
    let x_dim = |i: usize| x_shape[usize::from(attrs.x[i])];
    let w_dim = |i: usize| w_shape[usize::from(attrs.w[i])];
    let made: Vec<u64> = attrs.out.iter().map(|&d| to[usize::from(d)]).collect();
    let axes: Vec<Axis> = (0..attrs.strides.len())
        .map(|i| Axis {
            extent: x_dim(i + 2),
            kernel: w_dim(i + 2),
            positions: made[i + 2],
            stride: attrs.strides[i],
            dilation: attrs.dilations[i],
            x_dilation: attrs.x_dilations[i],
            low: attrs.low[i],
        })
        .collect();
    let groups = attrs.groups as usize;
    let (images, channels, in_channels) = (x_dim(0) as usize, w_dim(0) as usize, w_dim(1) as usize);
    let out_channels = channels / groups;
    let pixels = axes.iter().map(|a| a.extent).product::<u64>() as usize;
    let positions = axes.iter().map(|a| a.positions).product::<u64>() as usize;
    let k = in_channels * axes.iter().map(|a| a.kernel).product::<u64>() as usize;
    let mut out = vec![T::ZERO; images * channels * positions];
    if !out.is_empty() && k > 0 {
        let (x, w) = (natural(x, x_shape, &attrs.x), natural(w, w_shape, &attrs.w));
        let width = (UNFOLDED / k).clamp(1, positions);
        for first in (0..positions).step_by(width) {
            let width = width.min(positions - first);
            let table = sources(&axes, first, width);
            out.par_chunks_mut(out_channels * positions).enumerate().for_each(|(task, out)| {
                let group = task % groups;
                let x = &x[task * in_channels * pixels..(task + 1) * in_channels * pixels];
                let mut unfolded = Vec::with_capacity(k * width);
                for channel in 0..in_channels {
                    let x = &x[channel * pixels..(channel + 1) * pixels];
                    unfolded.extend(table.iter().map(|&at| x.get(at as usize).copied().unwrap_or(T::ZERO)));
                }
                let w = &w[group * out_channels * k..(group + 1) * out_channels * k];
                let mut block = vec![T::ZERO; out_channels * width];
                multiply(k, width, w, &unfolded, &mut block);
                for (channel, block) in block.chunks_exact(width).enumerate() {
                    let at = channel * positions + first;
                    out[at..at + width].copy_from_slice(block);
                }
            });
        }
    }
    let made_strides = strides(&made);
    let mut order = vec![0; made.len()];
    for (i, &d) in attrs.out.iter().enumerate() {
        order[usize::from(d)] = made_strides[i];
    }
    strided(&out, to, 0, &order)
}
