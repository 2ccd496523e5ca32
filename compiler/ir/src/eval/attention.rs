//! Attention, row by row: scores, their softmax over the keys that are left, and the weighted sum of values.

use lacuna_isa::format::ScalarType;
use rayon::prelude::*;

use super::tensor::Tensor;
use crate::op::EmptyRow;

/// The attributes of the operator.
pub(super) struct Rule {
    pub scale: f64,
    pub softcap: f64,
    pub causal: bool,
    pub shift: i64,
    pub window: u64,
    pub empty_row: EmptyRow,
    /// The type that weights are rounded to before they multiply the values.
    pub round: Option<ScalarType>,
}

impl Rule {
    fn score(&self, product: f64) -> f64 {
        let score = product * self.scale;
        if self.softcap > 0.0 { self.softcap * libm::tanh(score / self.softcap) } else { score }
    }

    /// The keys that query `row` may see: a range.
    fn seen(&self, row: usize, keys: usize) -> std::ops::Range<usize> {
        let position = i128::from(self.shift) + row as i128;
        let clamp = |at: i128| at.clamp(0, keys as i128) as usize;
        let end = if self.causal { clamp(position + 1) } else { keys };
        let start = if self.window > 0 { clamp(position + 1 - i128::from(self.window)) } else { 0 };
        start..end.max(start)
    }

    /// Turns scores, minus infinity for rejected keys, into weights; what they are worth is their quotient by the result.
    fn weigh(&self, scores: &mut [f64]) -> f64 {
        let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, super::elementwise::max);
        if greatest == f64::NEG_INFINITY {
            scores.fill(match self.empty_row {
                EmptyRow::Uniform => 1.0 / scores.len() as f64,
                EmptyRow::Zero => 0.0,
                EmptyRow::Nan => f64::NAN,
            });
            return 1.0;
        }
        let mut sum = 0.0;
        for score in scores.iter_mut() {
            let weight = libm::exp(*score - greatest);
            sum += weight;
            *score = self.round.map_or(weight, |ty| ty.decode(ty.encode(weight)));
        }
        sum
    }
}

/// Elements of the result in row-major order; the type rule has accepted the operands.
pub(super) fn attention(rule: &Rule, args: &[&Tensor]) -> Vec<f64> {
    let dims = |i: usize| args[i].ty.shape.iter().map(|&n| n as usize).collect::<Vec<_>>();
    let (q_dims, k_dims, width) = (dims(0), dims(1), dims(2)[3]);
    let ([_, heads, length, size], [_, groups, keys, _]) = (&q_dims[..], &k_dims[..]) else {
        return Vec::new();
    };
    let (heads, length, size, groups, keys) = (*heads, *length, *size, *groups, *keys);
    let (q, k, v) = (args[0].to_f64(), args[1].to_f64(), args[2].to_f64());
    let mask = args.get(3).map(|m| (m.to_f64(), dims(3), m.ints().is_some()));
    let mut out = vec![0.0; q_dims[0] * heads * length * width];
    if out.is_empty() {
        return out;
    }
    out.par_chunks_mut(width).enumerate().for_each(|(at, out)| {
        let (row, head, batch) = (at % length, at / length % heads, at / length / heads);
        let group = batch * groups + head / (heads / groups);
        let q = &q[at * size..(at + 1) * size];
        let seen = rule.seen(row, keys);
        let mut weights: Vec<f64> = (0..keys)
            .map(|key| {
                if !seen.contains(&key) {
                    return f64::NEG_INFINITY;
                }
                let k = &k[(group * keys + key) * size..][..size];
                let score = rule.score(q.iter().zip(k).map(|(a, b)| a * b).sum());
                let Some((mask, dims, is_bool)) = &mask else { return score };
                let index = [batch, head, row, key];
                let element =
                    index.iter().zip(dims).fold(0, |e, (&i, &n)| e * n + if n == 1 { 0 } else { i });
                match (is_bool, mask[element]) {
                    (true, live) => {
                        if live != 0.0 {
                            score
                        } else {
                            f64::NEG_INFINITY
                        }
                    }
                    (false, addend) => score + addend,
                }
            })
            .collect();
        let sum = rule.weigh(&mut weights);
        for (key, &weight) in weights.iter().enumerate() {
            // What is rejected has no part, whatever its value.
            if weight != 0.0 {
                let v = &v[(group * keys + key) * width..][..width];
                out.iter_mut().zip(v).for_each(|(total, v)| *total += weight * v);
            }
        }
        out.iter_mut().for_each(|total| *total /= sum);
    });
    out
}
