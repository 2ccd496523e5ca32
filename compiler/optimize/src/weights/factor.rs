//! The triangular factor by which the rounding error of one weight is spread over those that follow.

use rayon::prelude::*;

use super::gram::{Gram, Loss};

/// What is added to the diagonal, as a part of its mean: keeps the inverse sound where inputs are few or dependent.
/// The value is GPTQ's.
const DAMPING: f64 = 0.01;

/// The upper triangular U with `U^T U = (G + damping)^-1`, which GPTQ calls the Cholesky factor of the inverse.
#[derive(Clone, PartialEq, Debug)]
pub struct Factor {
    k: usize,
    /// Row-major.
    upper: Vec<f64>,
}

impl Loss {
    /// Weights that make up for the loss as well as their sums allow, given the factor of `Y^T Y`.
    pub fn corrected(&self, weights: &[f32], factor: &Factor) -> Vec<f32> {
        let mut moved = vec![0.0; weights.len()];
        moved.par_chunks_mut(self.k).zip(weights.par_chunks(self.k)).for_each(|(moved, weights)| {
            for (&w, sums) in weights.iter().zip(self.sums.chunks_exact(self.k)) {
                moved.iter_mut().zip(sums).for_each(|(out, &s)| *out += f64::from(w) * s);
            }
        });
        factor.solve(&mut moved);
        weights.iter().zip(&moved).map(|(&w, &m)| (f64::from(w) + m) as f32).collect()
    }
}

impl Factor {
    /// The factor of a Gram matrix; `None` if that is no sound one.
    pub fn new(gram: &Gram) -> Option<Factor> {
        let k = gram.k();
        if !gram.is_sound() {
            return None;
        }
        let mean = (0..k).map(|i| gram.get(i, i)).sum::<f64>() / k as f64;
        // Reversed in both directions, the lower Cholesky factor of G is R with G = R R^T upper; then U is R^-1.
        let mut lower = vec![0.0; k * k];
        for i in 0..k {
            for j in 0..=i {
                lower[i * k + j] = gram.get(k - 1 - i, k - 1 - j);
            }
            lower[i * k + i] += DAMPING * mean;
        }
        if !cholesky(&mut lower, k) {
            return None;
        }
        let inverse = inverse_transposed(&lower, k);
        let mut upper = vec![0.0; k * k];
        upper.par_chunks_mut(k).enumerate().for_each(|(i, row)| {
            for (j, out) in row.iter_mut().enumerate().skip(i) {
                *out = inverse[(k - 1 - j) * k + (k - 1 - i)];
            }
        });
        upper.iter().all(|v| v.is_finite()).then_some(Factor { k, upper })
    }

    /// Multiplies rows by `(G + damping)^-1`, in place.
    pub fn solve(&self, rows: &mut [f64]) {
        rows.par_chunks_mut(self.k).for_each(|row| {
            let half: Vec<f64> = (0..self.k).map(|j| dot(self.row(j), &row[j..])).collect();
            row.fill(0.0);
            for (j, &factor) in half.iter().enumerate() {
                for (out, &u) in row[j..].iter_mut().zip(self.row(j)) {
                    *out += factor * u;
                }
            }
        });
    }

    /// Row `i` from the diagonal on.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.upper[i * self.k + i..(i + 1) * self.k]
    }
}

/// A dot product in eight interleaved sums: an order that is fixed and that vector units can follow.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h)) + rest
}

/// Replaces the lower triangle of a symmetric matrix by its Cholesky factor; false if it is not positive definite.
fn cholesky(m: &mut [f64], k: usize) -> bool {
    for j in 0..k {
        let (above, below) = m.split_at_mut((j + 1) * k);
        let pivot_row = &mut above[j * k..];
        let rest = pivot_row[j] - dot(&pivot_row[..j], &pivot_row[..j]);
        if rest.is_nan() || rest <= 0.0 {
            return false;
        }
        let pivot = rest.sqrt();
        pivot_row[j] = pivot;
        let pivot_row = &*pivot_row;
        below.par_chunks_mut(k).with_min_len(64).for_each(|row| {
            row[j] = (row[j] - dot(&row[..j], &pivot_row[..j])) / pivot;
        });
    }
    true
}

/// The transposed inverse of a lower triangular matrix, row-major: row `j` is column `j` of the inverse.
fn inverse_transposed(lower: &[f64], k: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; k * k];
    inverse.par_chunks_mut(k).enumerate().for_each(|(j, column)| {
        for i in j..k {
            let row = &lower[i * k..(i + 1) * k];
            let unit = f64::from(u8::from(i == j));
            column[i] = (unit - dot(&row[j..i], &column[j..i])) / row[i];
        }
    });
    inverse
}
