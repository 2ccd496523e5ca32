//! Second moments of a product's computed operand: what an error in the weights costs in the result.

use lacuna_ir::eval::Tensor;
use lacuna_ir::{Op, Shape};
use rayon::prelude::*;

use super::matrix::offsets;

/// The longest sum whose moments are taken: they are this many squared f64.
pub const MAX_K: usize = 8192;
/// Rows of the operand that are looked at in each batch, at most; more are skipped evenly.
const MAX_ROWS: usize = 4096;
/// Rows that are added at a time.
const CHUNK_ROWS: usize = 128;

/// `X^T X` over the rows of the computed operand as a matrix with the columns of the weights' rows
/// ([`super::matrix::Layout`]): a convolution's rows are its patches.
#[derive(Clone, PartialEq, Debug)]
pub struct Gram {
    k: usize,
    /// Row-major; elements below the diagonal stay zero.
    sums: Vec<f64>,
}

impl Gram {
    /// Of no rows; `None` if there are no columns, or more than [`MAX_K`].
    pub fn new(k: usize) -> Option<Gram> {
        (1..=MAX_K).contains(&k).then(|| Gram { k, sums: vec![0.0; k * k] })
    }

    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The element of columns `i` and `j`.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.sums[i.min(j) * self.k + i.max(j)]
    }

    /// Whether every element is finite, and some input was not zero.
    pub fn is_sound(&self) -> bool {
        self.sums.iter().all(|v| v.is_finite()) && (0..self.k).any(|i| self.get(i, i) > 0.0)
    }

    /// `e^T G e` for the columns from `first` on.
    pub fn energy(&self, first: usize, e: &[f64]) -> f64 {
        let mut total = 0.0;
        for (i, &a) in e.iter().enumerate() {
            let row = &self.sums[(first + i) * self.k + first..][..e.len()];
            let beside: f64 = row[i + 1..].iter().zip(&e[i + 1..]).map(|(&g, &b)| g * b).sum();
            total += a * (row[i] * a + 2.0 * beside);
        }
        total
    }

    /// Adds the rows of an operand.
    pub fn add(&mut self, operand: &Operand<'_>) {
        let rows = sampled(operand.n_rows(), self.k);
        let mut x = vec![0.0; CHUNK_ROWS * self.k];
        for chunk in rows.chunks(CHUNK_ROWS) {
            let x = &mut x[..chunk.len() * self.k];
            x.par_chunks_mut(self.k).zip(chunk).for_each(|(x, &row)| operand.row(row, x));
            self.add_rows(x);
        }
    }

    /// Adds rows of `k` elements.
    pub fn add_rows(&mut self, x: &[f64]) {
        let k = self.k;
        self.sums.par_chunks_mut(k).enumerate().with_min_len(8).for_each(|(i, sums)| {
            add_scaled(&mut sums[i..], k, x, |row| x[row * k + i]);
        });
    }
}

/// Adds to `sums` the ends of the rows of `k` elements, each times a factor, in order.
fn add_scaled(sums: &mut [f64], k: usize, rows: &[f64], factor: impl Fn(usize) -> f64) {
    let (fours, rest) = rows.split_at(rows.len() / (4 * k) * (4 * k));
    let from = k - sums.len();
    for (n, four) in fours.chunks_exact(4 * k).enumerate() {
        let [a, b, c, d] = [0, 1, 2, 3].map(|r| &four[r * k + from..(r + 1) * k]);
        let [fa, fb, fc, fd] = [0, 1, 2, 3].map(|r| factor(4 * n + r));
        for ((((sum, &a), &b), &c), &d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *sum = (((*sum + fa * a) + fb * b) + fc * c) + fd * d;
        }
    }
    for (n, row) in rest.chunks_exact(k).enumerate() {
        let factor = factor(4 * (fours.len() / (4 * k)) + n);
        sums.iter_mut().zip(&row[from..]).for_each(|(sum, &v)| *sum += factor * v);
    }
}

/// `(X - Y)^T Y` over the rows of an operand X and of what is left of it, Y: what the product loses through its inputs.
#[derive(Clone, PartialEq, Debug)]
pub struct Loss {
    pub(super) k: usize,
    /// Row-major.
    pub(super) sums: Vec<f64>,
}

impl Loss {
    /// Of no rows; `None` if there are no columns, or more than [`MAX_K`].
    pub fn new(k: usize) -> Option<Loss> {
        (1..=MAX_K).contains(&k).then(|| Loss { k, sums: vec![0.0; k * k] })
    }

    /// Adds the rows of an operand before and after.
    pub fn add(&mut self, before: &Operand<'_>, after: &Operand<'_>) {
        let k = self.k;
        let (mut x, mut y) = (vec![0.0; CHUNK_ROWS * k], vec![0.0; CHUNK_ROWS * k]);
        for chunk in sampled(after.n_rows(), k).chunks(CHUNK_ROWS) {
            let (x, y) = (&mut x[..chunk.len() * k], &mut y[..chunk.len() * k]);
            x.par_chunks_mut(k).zip(y.par_chunks_mut(k)).zip(chunk).for_each(|((x, y), &row)| {
                before.row(row, x);
                after.row(row, y);
                x.iter_mut().zip(&*y).for_each(|(x, y)| *x -= y);
            });
            let (x, y) = (&*x, &*y);
            self.sums.par_chunks_mut(k).enumerate().with_min_len(8).for_each(|(i, sums)| {
                add_scaled(sums, k, y, |row| x[row * k + i]);
            });
        }
    }

    /// Whether every element is finite.
    pub fn is_sound(&self) -> bool {
        self.sums.iter().all(|v| v.is_finite())
    }
}

/// The rows that are looked at.
fn sampled(n_rows: usize, k: usize) -> Vec<usize> {
    let step = n_rows.div_ceil(MAX_ROWS.max(4 * k)).max(1);
    (0..n_rows).step_by(step).collect()
}

/// The computed operand of a product as a matrix.
pub struct Operand<'a> {
    values: &'a [f64],
    kind: Kind,
    n_rows: usize,
    /// Elements of a row.
    pub k: usize,
}

enum Kind {
    Plain { rows: Vec<usize>, columns: Vec<usize> },
    Patches { images: Vec<usize>, channels: Vec<usize>, axes: Vec<Axis> },
}

/// One spatial axis of a convolution.
struct Axis {
    extent: u64,
    stride_elements: usize,
    kernel: u64,
    positions: u64,
    stride: u64,
    dilation: u64,
    x_dilation: u64,
    low: i64,
}

impl Axis {
    /// Offset of the element that output position `o` meets at kernel element `k`; `None` for padding.
    fn source(&self, o: u64, k: u64) -> Option<usize> {
        let at = o as i64 * self.stride as i64 + k as i64 * self.dilation as i64 - self.low;
        let at = u64::try_from(at).ok().filter(|at| at % self.x_dilation == 0)? / self.x_dilation;
        (at < self.extent).then(|| at as usize * self.stride_elements)
    }
}

impl<'a> Operand<'a> {
    /// Operand `operand` of a product with the weights' shape and the result's shape; `values` are its elements.
    /// `None` where the weights' rows meet different inputs, or [`super::matrix::Layout::of`] gives none.
    pub fn of(
        op: &Op,
        operand: usize,
        x: &Tensor,
        values: &'a [f64],
        weights: &Shape,
        result: &Shape,
    ) -> Option<Operand<'a>> {
        let shape = &x.ty.shape;
        if let Op::Conv { attrs, .. } = op {
            if operand != 0 || attrs.groups != 1 {
                return None;
            }
            let dim = |i: usize| usize::from(attrs.x[i]);
            let strides = shape.strides();
            let axes: Vec<Axis> = (0..attrs.strides.len())
                .map(|i| Axis {
                    extent: shape[dim(i + 2)],
                    stride_elements: strides[dim(i + 2)] as usize,
                    kernel: weights[usize::from(attrs.w[i + 2])],
                    positions: result[usize::from(attrs.out[i + 2])],
                    stride: attrs.strides[i],
                    dilation: attrs.dilations[i],
                    x_dilation: attrs.x_dilations[i],
                    low: attrs.low[i],
                })
                .collect();
            let (images, channels) = (offsets(shape, &[dim(0)]), offsets(shape, &[dim(1)]));
            let n_rows = images.len() * axes.iter().map(|a| a.positions as usize).product::<usize>();
            let k = channels.len() * axes.iter().map(|a| a.kernel as usize).product::<usize>();
            return Some(Operand { values, kind: Kind::Patches { images, channels, axes }, n_rows, k });
        }
        let Op::Contract { map, .. } = op else { return None };
        let ([label], true) = (&map.summed()[..], map.batch().is_empty()) else { return None };
        let labels = [&map.a, &map.b][operand];
        let axis = labels.iter().position(|l| l == label)?;
        let others: Vec<usize> = (0..shape.rank()).filter(|&d| d != axis).collect();
        let (rows, columns) = (offsets(shape, &others), offsets(shape, &[axis]));
        let (n_rows, k) = (rows.len(), columns.len());
        Some(Operand { values, kind: Kind::Plain { rows, columns }, n_rows, k })
    }

    /// Rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Writes one row.
    pub fn row(&self, row: usize, out: &mut [f64]) {
        match &self.kind {
            Kind::Plain { rows, columns } => {
                for (out, &c) in out.iter_mut().zip(columns) {
                    *out = self.values[rows[row] + c];
                }
            }
            Kind::Patches { images, channels, axes } => {
                let n_positions: u64 = axes.iter().map(|a| a.positions).product();
                let (image, position) = (row as u64 / n_positions, row as u64 % n_positions);
                for (tap, out) in out.chunks_exact_mut(channels.len()).enumerate() {
                    let (mut tap, mut position) = (tap as u64, position);
                    let mut at = Some(images[image as usize]);
                    for axis in axes.iter().rev() {
                        let source = axis.source(position % axis.positions, tap % axis.kernel);
                        at = at.zip(source).map(|(at, offset)| at + offset);
                        (tap, position) = (tap / axis.kernel, position / axis.positions);
                    }
                    match at {
                        Some(at) => {
                            for (out, &c) in out.iter_mut().zip(channels) {
                                *out = self.values[at + c];
                            }
                        }
                        None => out.fill(0.0),
                    }
                }
            }
        }
    }
}
