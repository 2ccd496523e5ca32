//! Operators over many elements at once: reductions, running reductions, softmax and norm. All accumulate in f64 (or
//! exactly, for integers) and round once.

use std::sync::Arc;

use lacuna_isa::format::ScalarType;
use lacuna_isa::inst::Combine;

use super::elementwise::{max, min};
use super::movement::{strided, strides};
use super::tensor::{Tensor, TensorData};
use super::{EvalError, Mode, codec, floats, scalar_of};
use crate::op::ReduceOp;

/// The elements with `axes` (in that order) innermost, the others before them in order; and the number of rows and the
/// length of a row.
fn rows<T: Copy>(x: &Tensor, data: &[T], axes: &[u8]) -> (Vec<T>, usize, usize) {
    let from = strides(&x.ty.shape);
    let kept = (0..from.len()).filter(|&d| !axes.contains(&(d as u8)));
    let order: Vec<usize> = kept.chain(axes.iter().map(|&a| usize::from(a))).collect();
    let dims: Vec<u64> = order.iter().map(|&d| x.ty.shape[d]).collect();
    let order_strides: Vec<i64> = order.iter().map(|&d| from[d]).collect();
    let n_kept = order.len() - axes.len();
    let n_rows = dims[..n_kept].iter().product::<u64>() as usize;
    let len = dims[n_kept..].iter().product::<u64>() as usize;
    (strided(data, &dims, 0, &order_strides), n_rows, len)
}

pub(super) fn reduce(op: ReduceOp, axes: &[u8], x: &Tensor, mode: Mode) -> TensorData {
    let elem = scalar_of(x);
    match &x.data {
        TensorData::F(values) => {
            let (data, n_rows, len) = rows(x, values, axes);
            let row = |r: usize| Running::over(op, &data[r * len..(r + 1) * len]);
            floats(elem, (0..n_rows).map(row).collect(), mode)
        }
        TensorData::I(values) => {
            let (data, n_rows, len) = rows(x, values, axes);
            let row = |r: usize| {
                let mut total = IntRunning::new(op, elem);
                data[r * len..(r + 1) * len].iter().for_each(|&v| total.add(codec::wide(elem, v)));
                codec::wrap(elem, total.value())
            };
            TensorData::I(Arc::new((0..n_rows).map(row).collect()))
        }
        TensorData::Grouped(_) => unreachable!("the type rule refuses groups"),
    }
}

/// A reduction of floats in progress.
#[derive(Clone, Copy)]
struct Running {
    op: ReduceOp,
    total: f64,
    count: f64,
}

impl Running {
    fn new(op: ReduceOp) -> Running {
        let total = match op {
            ReduceOp::Sum | ReduceOp::Mean => 0.0,
            ReduceOp::Prod => 1.0,
            ReduceOp::Max => f64::NEG_INFINITY,
            ReduceOp::Min => f64::INFINITY,
        };
        Running { op, total, count: 0.0 }
    }

    fn over(op: ReduceOp, values: &[f64]) -> f64 {
        let mut running = Running::new(op);
        values.iter().for_each(|&v| running.add(v));
        running.value()
    }

    fn add(&mut self, v: f64) {
        self.count += 1.0;
        self.total = match self.op {
            ReduceOp::Sum | ReduceOp::Mean => self.total + v,
            ReduceOp::Prod => self.total * v,
            ReduceOp::Max => max(self.total, v),
            ReduceOp::Min => min(self.total, v),
        };
    }

    fn value(&self) -> f64 {
        match self.op {
            ReduceOp::Mean => self.total / self.count,
            ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Max | ReduceOp::Min => self.total,
        }
    }
}

/// A reduction of integers in progress, exact modulo 2^128.
struct IntRunning {
    op: ReduceOp,
    elem: ScalarType,
    total: i128,
    count: i128,
}

impl IntRunning {
    fn new(op: ReduceOp, elem: ScalarType) -> IntRunning {
        let (least, greatest) = codec::int_range(elem);
        let total = match op {
            ReduceOp::Sum | ReduceOp::Mean => 0,
            ReduceOp::Prod => 1,
            ReduceOp::Max => least,
            ReduceOp::Min => greatest,
        };
        IntRunning { op, elem, total, count: 0 }
    }

    fn add(&mut self, v: i128) {
        self.count += 1;
        self.total = match self.op {
            ReduceOp::Sum | ReduceOp::Mean => self.total.wrapping_add(v),
            ReduceOp::Prod => self.total.wrapping_mul(v),
            ReduceOp::Max => self.total.max(v),
            ReduceOp::Min => self.total.min(v),
        };
    }

    fn value(&self) -> i128 {
        match self.op {
            ReduceOp::Mean => {
                // There is nothing wider than 64 bits to sum in.
                let wraps = self.elem.bits() == 64;
                let total = if wraps {
                    codec::wide(self.elem, codec::wrap(self.elem, self.total))
                } else {
                    self.total
                };
                total.checked_div(self.count).unwrap_or(0)
            }
            ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Max | ReduceOp::Min => self.total,
        }
    }
}

pub(super) fn arg_reduce(greatest: bool, last: bool, axis: usize, x: &Tensor) -> TensorData {
    fn find<T: Copy>(rows: (Vec<T>, usize, usize), last: bool, better: impl Fn(T, T) -> bool) -> TensorData {
        let (data, n_rows, len) = rows;
        let row = |r: usize| {
            let row = &data[r * len..(r + 1) * len];
            let mut best = 0;
            for i in 1..len {
                if better(row[i], row[best]) || (last && !better(row[best], row[i])) {
                    best = i;
                }
            }
            best as i64
        };
        TensorData::I(Arc::new((0..n_rows).map(row).collect()))
    }
    let axes = [axis as u8];
    let elem = scalar_of(x);
    match &x.data {
        TensorData::F(values) => {
            find(rows(x, values, &axes), last, |a: f64, b: f64| match (a.is_nan(), b.is_nan()) {
                (true, other) => !other,
                (false, true) => false,
                (false, false) => {
                    if greatest {
                        a > b
                    } else {
                        a < b
                    }
                }
            })
        }
        TensorData::I(values) => find(rows(x, values, &axes), last, |a, b| {
            let (a, b) = (codec::wide(elem, a), codec::wide(elem, b));
            if greatest { a > b } else { a < b }
        }),
        TensorData::Grouped(_) => unreachable!("the type rule refuses groups"),
    }
}

/// Replaces every line of `data` along `axis` by what `f` makes of it.
fn map_lines<T: Copy>(data: &mut [T], shape: &[u64], axis: usize, mut f: impl FnMut(&mut [T])) {
    if data.is_empty() {
        return;
    }
    let n = shape[axis] as usize;
    let inner = shape[axis + 1..].iter().product::<u64>() as usize;
    if inner == 1 {
        data.chunks_exact_mut(n).for_each(f);
        return;
    }
    let mut line = Vec::with_capacity(n);
    for block in data.chunks_exact_mut(n * inner) {
        for i in 0..inner {
            line.clear();
            line.extend(block[i..].iter().step_by(inner).copied());
            f(&mut line);
            for (to, &v) in block[i..].iter_mut().step_by(inner).zip(&line) {
                *to = v;
            }
        }
    }
}

pub(super) fn cumulate(
    op: ReduceOp,
    axis: usize,
    (exclusive, reverse): (bool, bool),
    x: &Tensor,
    mode: Mode,
) -> TensorData {
    fn scan<T>(line: &mut [T], exclusive: bool, reverse: bool, mut step: impl FnMut(&T, bool) -> T) {
        let n = line.len();
        for i in 0..n {
            let v = &mut line[if reverse { n - 1 - i } else { i }];
            *v = step(v, exclusive);
        }
    }
    let elem = scalar_of(x);
    match &x.data {
        TensorData::F(values) => {
            let mut data = values.to_vec();
            map_lines(&mut data, &x.ty.shape, axis, |line| {
                let mut running = Running::new(op);
                scan(line, exclusive, reverse, |&v, exclusive| {
                    let before = running.value();
                    running.add(v);
                    if exclusive { before } else { running.value() }
                });
            });
            floats(elem, data, mode)
        }
        TensorData::I(values) => {
            let mut data = values.to_vec();
            map_lines(&mut data, &x.ty.shape, axis, |line| {
                let mut running = IntRunning::new(op, elem);
                scan(line, exclusive, reverse, |&v, exclusive| {
                    let before = running.value();
                    running.add(codec::wide(elem, v));
                    codec::wrap(elem, if exclusive { before } else { running.value() })
                });
            });
            TensorData::I(Arc::new(data))
        }
        TensorData::Grouped(_) => unreachable!("the type rule refuses groups"),
    }
}

pub(super) fn sort(k: u64, descending: bool, x: &Tensor) -> TensorData {
    let length = x.ty.shape.0.last().copied().unwrap_or(1).max(1) as usize;
    let lines = x.to_f64();
    let first = |line: &[f64]| {
        let mut order: Vec<usize> = (0..line.len()).collect();
        // A stable sort, by which NaN is greater than infinity and -0 is +0.
        order.sort_by(|&a, &b| {
            let (a, b) = if descending { (line[b], line[a]) } else { (line[a], line[b]) };
            a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        });
        order.truncate(k as usize);
        order
    };
    let indices = lines.chunks(length).flat_map(first).map(|at| at as i64).collect::<Vec<_>>();
    TensorData::I(Arc::new(indices))
}

pub(super) fn scatter(combine: Combine, args: &[&Tensor], mode: Mode) -> Result<TensorData, EvalError> {
    let (x, at, updates) = (args[0], args[1], args[2]);
    let (rows, width) = (x.ty.shape[1] as usize, x.ty.shape[2] as usize);
    let count = at.ty.shape[1] as usize;
    let at = at.ints().unwrap_or_default();
    if let Some(&index) = at.iter().find(|&&row| usize::try_from(row).map_or(true, |row| row >= rows)) {
        return Err(EvalError::Index { index, extent: rows as u64 });
    }
    // Numbers of the elements that meet: of the result and of the updates.
    let met = at.iter().enumerate().map(|(update, &row)| (update / count * rows + row as usize, update));
    let met = met.flat_map(|(row, update)| (0..width).map(move |i| (row * width + i, update * width + i)));
    let elem = scalar_of(x);
    Ok(match (&x.data, &updates.data) {
        (TensorData::F(x), TensorData::F(updates)) => {
            let mut y = x.to_vec();
            for (to, from) in met {
                let (held, new) = (y[to], updates[from]);
                y[to] = match combine {
                    Combine::Replace => new,
                    Combine::Add => held + new,
                    Combine::Mul => held * new,
                    Combine::Min => min(held, new),
                    Combine::Max => max(held, new),
                };
            }
            floats(elem, y, mode)
        }
        (TensorData::I(x), TensorData::I(updates)) => {
            let mut y = x.to_vec();
            for (to, from) in met {
                let (held, new) = (codec::wide(elem, y[to]), codec::wide(elem, updates[from]));
                let value = match combine {
                    Combine::Replace => new,
                    Combine::Add => held + new,
                    Combine::Mul => held.wrapping_mul(new),
                    Combine::Min => held.min(new),
                    Combine::Max => held.max(new),
                };
                y[to] = codec::wrap(elem, value);
            }
            TensorData::I(Arc::new(y))
        }
        _ => unreachable!("the type rule admits scalars of one type"),
    })
}

pub(super) fn softmax(axis: usize, log: bool, x: &Tensor, mode: Mode) -> TensorData {
    let mut data = x.to_f64().to_vec();
    map_lines(&mut data, &x.ty.shape, axis, |line| {
        let greatest = Running::over(ReduceOp::Max, line);
        let mut sum = 0.0;
        for v in line.iter_mut() {
            *v -= greatest;
            let e = libm::exp(*v);
            sum += e;
            if !log {
                *v = e;
            }
        }
        let log_sum = libm::log(sum);
        line.iter_mut().for_each(|v| *v = if log { *v - log_sum } else { *v / sum });
    });
    floats(scalar_of(x), data, mode)
}

pub(super) fn norm(axes: &[u8], centre: bool, eps: f64, args: &[&Tensor], mode: Mode) -> TensorData {
    let x = args[0];
    let parameter = |i: usize| args.get(i).map(|t| t.to_f64());
    let (scale, bias) = (parameter(1), parameter(2));
    let (mut data, n_rows, len) = rows(x, &x.to_f64(), axes);
    for r in 0..if len == 0 { 0 } else { n_rows } {
        let row = &mut data[r * len..(r + 1) * len];
        if centre {
            let mean = Running::over(ReduceOp::Mean, row);
            row.iter_mut().for_each(|v| *v -= mean);
        }
        let mean_square = row.iter().map(|v| v * v).sum::<f64>() / len as f64;
        let root = (mean_square + eps).sqrt();
        for (i, v) in row.iter_mut().enumerate() {
            *v /= root;
            if let Some(scale) = &scale {
                *v *= scale[i];
            }
            if let Some(bias) = &bias {
                *v += bias[i];
            }
        }
    }
    // `rows` moved the axes inwards: dimension d of x is at `place(d)` now.
    let kept: Vec<u8> = (0..x.ty.shape.rank() as u8).filter(|d| !axes.contains(d)).collect();
    let order: Vec<u8> = kept.iter().chain(axes).copied().collect();
    let moved: Vec<u64> = order.iter().map(|&d| x.ty.shape[usize::from(d)]).collect();
    let moved_strides = strides(&moved);
    let mut back = vec![0; order.len()];
    for (place, &d) in order.iter().enumerate() {
        back[usize::from(d)] = moved_strides[place];
    }
    floats(scalar_of(x), strided(&data, &x.ty.shape, 0, &back), mode)
}
