//! The choice of the next token from its logits.

use crate::random::SplitMix64;

/// How tokens are chosen. The same seed gives the same tokens.
pub struct Sampler {
    /// Divisor of the logits; 0 takes the greatest, the first of equal ones.
    pub temperature: f64,
    /// Only so many of the likeliest are candidates; 0 for all.
    pub top_k: usize,
    /// Of these, only the likeliest whose probabilities first sum to this much.
    pub top_p: f64,
    rng: SplitMix64,
}

impl Sampler {
    /// A sampler with its own stream of random numbers.
    pub fn new(temperature: f64, top_k: usize, top_p: f64, seed: u64) -> Sampler {
        Sampler { temperature, top_k, top_p, rng: SplitMix64::new(seed) }
    }

    /// The number of the chosen logit; `None` where there is none or one is not a number.
    pub fn choose(&mut self, logits: &[f64]) -> Option<usize> {
        if logits.iter().any(|x| x.is_nan()) {
            return None;
        }
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let &greatest = order.first()?;
        if self.temperature == 0.0 || logits[greatest].is_infinite() {
            return Some(greatest);
        }
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let weight = |i: &usize| ((logits[*i] - logits[greatest]) / self.temperature).exp();
        let weights: Vec<f64> = order.iter().map(weight).collect();
        let total: f64 = weights.iter().sum();
        let mut kept = 0;
        let mut mass = 0.0;
        while kept < weights.len() && (kept == 0 || mass < self.top_p * total) {
            mass += weights[kept];
            kept += 1;
        }
        let mut left = self.rng.unit() * mass;
        let chosen = weights[..kept].iter().position(|w| {
            left -= w;
            left < 0.0
        });
        Some(order[chosen.unwrap_or(kept - 1)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_without_a_temperature() {
        let mut greedy = Sampler::new(0.0, 0, 1.0, 7);
        assert_eq!(greedy.choose(&[1.0, 3.0, 3.0, -1.0]), Some(1));
        assert_eq!(greedy.choose(&[f64::NEG_INFINITY, f64::INFINITY]), Some(1));
        assert_eq!((greedy.choose(&[]), greedy.choose(&[0.0, f64::NAN])), (None, None));
    }

    #[test]
    fn frequencies_are_those_of_the_softmax() {
        let logits = [0.0, 2f64.ln(), 4f64.ln(), -50.0];
        let count = |mut sampler: Sampler| {
            let mut counts = [0u32; 4];
            (0..7000).filter_map(|_| sampler.choose(&logits)).for_each(|i| counts[i] += 1);
            counts
        };
        let all = count(Sampler::new(1.0, 0, 1.0, 1));
        assert!(all[0].abs_diff(1000) < 150 && all[1].abs_diff(2000) < 200 && all[3] == 0, "{all:?}");
        assert_eq!(count(Sampler::new(1.0, 0, 1.0, 1)), all);
        assert_eq!(count(Sampler::new(1.0, 2, 1.0, 1))[0], 0);
        // Four sevenths are enough for a half.
        assert_eq!(count(Sampler::new(1.0, 0, 0.5, 1)), [0, 0, 7000, 0]);
        let hot = count(Sampler::new(1e6, 3, 1.0, 1));
        assert!(hot[0].abs_diff(2333) < 200, "{hot:?}");
    }
}
