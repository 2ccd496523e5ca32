//! Which elements of an axis a resized element is made of, and with which weights.
//!
//! The arithmetic is that of the specification's reference implementation, in double precision.

/// Ways to weigh elements.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Mode {
    /// The nearest one alone.
    Nearest(Rounding),
    /// By distance.
    Linear,
    /// By a cubic of the distance, with this coefficient.
    Cubic(f64),
}

/// What the nearest of two elements is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

/// Ways from a position of the result to one of the operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transform {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    TfHalfPixel,
    CropAndResize,
}

/// How a tensor is resampled.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Sampling {
    pub mode: Mode,
    pub transform: Transform,
    /// Whether elements that lie close together are averaged.
    pub antialias: bool,
    /// Whether positions outside have no weight, instead of the value at the border.
    pub exclude: bool,
}

/// Elements and weights of every result position that is not outside.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Taps {
    /// Number of elements of each position.
    pub width: usize,
    /// Their positions on the axis: `[n, width]`.
    pub positions: Vec<i64>,
    /// Their weights: `[n, width]`.
    pub weights: Vec<f64>,
    /// Numbers of result positions before and after, that lie outside of the operand.
    pub outside: (u64, u64),
}

impl Taps {
    /// Resamples an axis of `size` elements to `out`; `scale` is their ratio as the model states it.
    pub fn of(how: &Sampling, size: u64, out: u64, scale: f64, region: [f64; 2]) -> Taps {
        let places: Vec<f64> =
            (0..out).map(|i| place(how.transform, i as f64, size, out, scale, region)).collect();
        let last = size as f64 - 1.0;
        let is_inside = |p: &f64| how.transform != Transform::CropAndResize || (0.0..=last).contains(p);
        // Places ascend or descend, so those inside are in a row.
        let first = places.iter().position(is_inside);
        let end = places.iter().rposition(is_inside).map_or(0, |i| i + 1);
        let outside = first.map_or((out, 0), |first| (first as u64, out - end as u64));
        let inside = first.map_or(&[][..], |first| &places[first..end]);
        let mut taps = Taps { width: 1, positions: Vec::new(), weights: Vec::new(), outside };
        for &p in inside {
            let (first, weights) = weights(how, p, scale);
            taps.width = weights.len();
            taps.push(how, first, weights, size);
        }
        taps
    }

    /// Whether no position is inside.
    pub fn is_all_outside(&self) -> bool {
        self.positions.is_empty()
    }

    fn push(&mut self, how: &Sampling, first: i64, mut weights: Vec<f64>, size: u64) {
        let last = size as i64 - 1;
        let own: Vec<i64> = (0..weights.len() as i64).map(|i| first + i).collect();
        if how.exclude {
            for (w, p) in weights.iter_mut().zip(&own) {
                if *p < 0 || *p > last {
                    *w = 0.0;
                }
            }
            let sum: f64 = weights.iter().sum();
            if sum != 0.0 {
                weights.iter_mut().for_each(|w| *w /= sum);
            }
        }
        let mut own: Vec<i64> = own.iter().map(|&p| p.clamp(0, last)).collect();
        share_zero_weights(&mut own, &mut weights);
        self.positions.extend(own);
        self.weights.extend(weights);
    }
}

/// Gives each element of weight zero half of another's weight, at that one's position: a weight of zero would make NaN of
/// an infinity that does not count.
fn share_zero_weights(positions: &mut [i64], weights: &mut [f64]) {
    for i in 0..weights.len() {
        let heaviest = (0..weights.len()).max_by(|&a, &b| weights[a].abs().total_cmp(&weights[b].abs()));
        if let Some(from) = heaviest.filter(|&h| weights[i] == 0.0 && weights[h] != 0.0) {
            weights[from] /= 2.0;
            (positions[i], weights[i]) = (positions[from], weights[from]);
        }
    }
}

/// The place on an axis of `size` elements that position `i` of `out` stands for.
fn place(transform: Transform, i: f64, size: u64, out: u64, scale: f64, region: [f64; 2]) -> f64 {
    let n = size as f64;
    let wide = scale * n;
    match transform {
        Transform::AlignCorners if wide == 1.0 => 0.0,
        Transform::AlignCorners => i * (n - 1.0) / (wide - 1.0),
        Transform::Asymmetric => i / scale,
        Transform::PytorchHalfPixel if wide == 1.0 => -0.5,
        Transform::HalfPixel | Transform::PytorchHalfPixel => (i + 0.5) / scale - 0.5,
        Transform::TfHalfPixel => (i + 0.5) / scale,
        Transform::HalfPixelSymmetric => {
            let adjustment = out as f64 / wide;
            n / 2.0 * (1.0 - adjustment) + (i + 0.5) / scale - 0.5
        }
        Transform::CropAndResize => {
            let [start, end] = region;
            let along = match wide == 1.0 {
                true => (end - start) * (n - 1.0) / 2.0,
                false => i * (end - start) * (n - 1.0) / (wide - 1.0),
            };
            along + start * (n - 1.0)
        }
    }
}

/// The first element (which may lie outside), and the weights from there on.
fn weights(how: &Sampling, place: f64, scale: f64) -> (i64, Vec<f64>) {
    let below = place.floor();
    // An element that is hit is the right one of two.
    let ratio = if place == below { 1.0 } else { place - below };
    let shrink = scale.min(1.0);
    let weights = match how.mode {
        Mode::Nearest(rounding) => return (nearest(place, rounding), vec![1.0]),
        Mode::Linear if how.antialias => {
            let start = (-1.0 / shrink).floor() as i64 + 1;
            let weight = |i: i64| (1.0 - ((i as f64 - ratio) * shrink).abs()).clamp(0.0, 1.0);
            normalised((start..2 - start).map(weight).collect())
        }
        Mode::Cubic(a) if how.antialias => {
            let start = (-2.0 / shrink).floor() as i64 + 1;
            normalised((start..2 - start).map(|i| cubic((i as f64 - ratio) * shrink, a)).collect())
        }
        Mode::Linear => vec![1.0 - ratio, ratio],
        Mode::Cubic(a) => (-1..=2).map(|i| cubic(f64::from(i) - ratio, a)).collect(),
    };
    // The ratio counts from the element before the place, which is the middle of the even number of weights.
    let middle = if place == below { below - 1.0 } else { below };
    (middle as i64 + 1 - weights.len() as i64 / 2, weights)
}

fn nearest(place: f64, rounding: Rounding) -> i64 {
    (match rounding {
        Rounding::PreferFloor => (place - 0.5).ceil(),
        Rounding::PreferCeil => (place + 0.5).floor(),
        Rounding::Floor => place.floor(),
        Rounding::Ceil => place.ceil(),
    }) as i64
}

fn normalised(weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

/// Cubic convolution (Keys 1981) at a distance.
fn cubic(distance: f64, a: f64) -> f64 {
    let x = distance.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_of_zero_is_shared() {
        let how = Sampling {
            mode: Mode::Cubic(-0.75),
            transform: Transform::Asymmetric,
            antialias: false,
            exclude: false,
        };
        let taps = Taps::of(&how, 5, 5, 1.0, [0.0, 1.0]);
        assert_eq!(taps.positions[8..12], [2, 2, 2, 2]);
        assert_eq!(taps.weights[8..12].iter().sum::<f64>(), 1.0);
        assert!(taps.weights.iter().all(|&w| w > 0.0));
    }

    #[test]
    fn places_outside_are_counted() {
        let how = Sampling {
            mode: Mode::Linear,
            transform: Transform::CropAndResize,
            antialias: false,
            exclude: false,
        };
        let taps = Taps::of(&how, 4, 4, 1.0, [0.5, 1.5]);
        assert_eq!(taps.outside, (0, 2));
        assert_eq!(taps.positions.len(), 2 * taps.width);
    }
}
