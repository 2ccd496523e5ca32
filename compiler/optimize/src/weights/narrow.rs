//! Pruning and rounding of one weight matrix.

use lacuna_isa::format::group::GroupScale;
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode, group};
use rayon::prelude::*;

use super::factor::Factor;
use super::gram::Gram;
use super::matrix::Matrix;
use super::options::{Prune, PruneBy};

/// Rows that one task takes: the factor's rows are read once for all of them.
const TASK_ROWS: usize = 16;
/// Columns that are decided together where no group size says so; a multiple of every pattern's group.
const UNGROUPED: usize = 32;
/// How far E8M0 exponents, and codes of other scales, are searched on either side.
const SEARCH: [u8; 2] = [1, 4];

/// How the elements of the matrix are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storage {
    /// One by one, rounded to this type.
    Scalar(ScalarType),
    /// In groups along the rows' segments.
    Grouped(GroupFormat, ScaleMode),
}

/// What to do, and what is known of the inputs.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// How elements are stored.
    pub storage: Storage,
    /// Whether neighbours of a group's scale are tried.
    pub scale_search: bool,
    /// Weights to set to zero first.
    pub prune: Option<Prune>,
    /// Second moments of the inputs.
    pub gram: Option<&'a Gram>,
    /// Their factor, if errors are to be compensated.
    pub factor: Option<&'a Factor>,
}

/// A matrix after pruning and rounding.
#[derive(Clone, PartialEq, Debug)]
pub struct Narrowed {
    /// What its elements mean.
    pub values: Vec<f32>,
    /// Element codes in the matrix's order, one per byte; empty unless grouped.
    pub codes: Vec<u8>,
    /// Scale codes, one per group in the order of [`Matrix::groups`], row after row; empty unless grouped.
    pub scales: Vec<GroupScale>,
}

/// Prunes and rounds a matrix.
pub fn narrow(matrix: &Matrix, plan: &Plan<'_>) -> Narrowed {
    let (size, grouped) = match plan.storage {
        Storage::Scalar(_) => (UNGROUPED, false),
        Storage::Grouped(format, _) => (usize::from(format.size), true),
    };
    let groups = matrix.groups(size);
    let n_rows = matrix.values.len() / matrix.k.max(1);
    let mut out = Narrowed {
        values: matrix.values.clone(),
        codes: vec![0; if grouped { matrix.values.len() } else { 0 }],
        scales: vec![GroupScale::default(); if grouped { n_rows * groups.len() } else { 0 }],
    };
    if matrix.values.is_empty() {
        return out;
    }
    let values = out.values.par_chunks_mut(TASK_ROWS * matrix.k);
    if grouped {
        let codes = out.codes.par_chunks_mut(TASK_ROWS * matrix.k);
        let scales = out.scales.par_chunks_mut(TASK_ROWS * groups.len());
        values.zip(codes).zip(scales).for_each(|((values, codes), scales)| {
            plan.rows(matrix.k, &groups, values, codes, scales);
        });
    } else {
        values.for_each(|values| plan.rows(matrix.k, &groups, values, &mut [], &mut []));
    }
    out
}

/// One group of one row after rounding.
struct Rounded {
    scale: GroupScale,
    codes: Vec<u8>,
    values: Vec<f32>,
    /// With a factor, errors over its diagonal, which later columns make up for; else plain errors.
    errors: Vec<f64>,
    loss: f64,
}

impl Plan<'_> {
    /// Some rows of `k` elements, in place.
    fn rows(
        &self,
        k: usize,
        groups: &[(usize, usize)],
        values: &mut [f32],
        codes: &mut [u8],
        scales: &mut [GroupScale],
    ) {
        let mut pending: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
        for (g, &(first, len)) in groups.iter().enumerate() {
            for (r, pending) in pending.chunks_exact_mut(k).enumerate() {
                let rounded = self.group(first, &pending[first..first + len]);
                values[r * k + first..][..len].copy_from_slice(&rounded.values);
                if !codes.is_empty() {
                    codes[r * k + first..][..len].copy_from_slice(&rounded.codes);
                    scales[r * groups.len() + g] = rounded.scale;
                }
                if let Some(factor) = self.factor {
                    for (j, &error) in rounded.errors.iter().enumerate() {
                        let row = &factor.row(first + j)[len - j..];
                        for (w, &u) in pending[first + len..].iter_mut().zip(row) {
                            *w -= error * u;
                        }
                    }
                }
            }
        }
    }

    /// Rounds one group under the best of the scales that are tried.
    fn group(&self, first: usize, weights: &[f64]) -> Rounded {
        let kept = self.kept(first, weights);
        let masked: Vec<f32> =
            weights.iter().zip(&kept).map(|(&w, &kept)| if kept { w as f32 } else { 0.0 }).collect();
        let Storage::Grouped(format, mode) = self.storage else {
            return self.round(first, weights, &kept, None);
        };
        let mut codes = vec![0; weights.len()];
        let chosen = group::quantize_group(format, mode, &masked, &mut codes);
        let zero = masked.iter().all(|&w| w == 0.0);
        if zero || !masked.iter().all(|w| w.is_finite()) {
            // Nothing to choose; a group that is all pruned still has errors to make up for.
            let mut rounded = self.round(first, weights, &kept, None);
            if !zero {
                rounded.errors.fill(0.0);
            }
            group::dequantize_group(format, chosen, &codes, &mut rounded.values);
            return Rounded { scale: chosen, codes, ..rounded };
        }
        let best = self.round(first, weights, &kept, Some((format, chosen)));
        let others = if self.scale_search { neighbours(format, chosen.code) } else { Vec::new() };
        others.into_iter().fold(best, |best, code| {
            let scale = GroupScale { code, ..chosen };
            let other = self.round(first, weights, &kept, Some((format, scale)));
            if other.loss < best.loss { other } else { best }
        })
    }

    /// Which weights of a group stay: of each group of the pattern those with the greatest score, the first of equals.
    fn kept(&self, first: usize, weights: &[f64]) -> Vec<bool> {
        let Some(Prune { pattern, by }) = self.prune else { return vec![true; weights.len()] };
        let size = |j: usize| match (by, self.factor, self.gram) {
            (PruneBy::Magnitude, ..) | (PruneBy::Calibration, None, None) => 1.0,
            (PruneBy::Calibration, Some(factor), _) => 1.0 / factor.row(first + j)[0],
            (PruneBy::Calibration, None, Some(gram)) => gram.get(first + j, first + j).sqrt(),
        };
        let score: Vec<f64> = weights.iter().enumerate().map(|(j, w)| w.abs() * size(j)).collect();
        let mut kept = vec![false; weights.len()];
        for start in (0..weights.len()).step_by(usize::from(pattern.m)) {
            let mut order: Vec<usize> = (start..weights.len().min(start + usize::from(pattern.m))).collect();
            order.sort_by(|&a, &b| score[b].total_cmp(&score[a]));
            order.iter().take(usize::from(pattern.n)).for_each(|&j| kept[j] = true);
        }
        kept
    }

    /// Rounds a group under one scale, or element by element; weights that do not stay become zero.
    fn round(
        &self,
        first: usize,
        weights: &[f64],
        kept: &[bool],
        scale: Option<(GroupFormat, GroupScale)>,
    ) -> Rounded {
        let n = weights.len();
        let mut out = Rounded {
            scale: scale.map_or(GroupScale::default(), |s| s.1),
            codes: vec![0; n],
            values: vec![0.0; n],
            errors: vec![0.0; n],
            loss: 0.0,
        };
        let mut pending = weights.to_vec();
        for (j, &kept) in kept.iter().enumerate() {
            if kept {
                // The element alone, under the shift of its own pair.
                let alone = scale.map(|(format, GroupScale { code, shifts })| {
                    (format, GroupScale { code, shifts: shifts.checked_shr(j as u32 / 2).unwrap_or(0) & 1 })
                });
                self.element(pending[j] as f32, alone, &mut out.codes[j], &mut out.values[j]);
            }
            let error = pending[j] - f64::from(out.values[j]);
            let Some(factor) = self.factor else {
                out.errors[j] = error;
                continue;
            };
            let row = factor.row(first + j);
            let error = error / row[0];
            out.errors[j] = error;
            out.loss += error * error;
            for (w, &u) in pending[j + 1..].iter_mut().zip(&row[1..]) {
                *w -= error * u;
            }
        }
        if self.factor.is_none() {
            out.loss = match self.gram {
                Some(gram) => gram.energy(first, &out.errors),
                None => out.errors.iter().map(|e| e * e).sum(),
            };
        }
        out
    }

    fn element(&self, value: f32, scale: Option<(GroupFormat, GroupScale)>, code: &mut u8, out: &mut f32) {
        let (code, out) = (std::slice::from_mut(code), std::slice::from_mut(out));
        match (scale, self.storage) {
            (Some((format, scale)), _) => {
                group::encode_group(format, scale, &[value], code);
                group::dequantize_group(format, scale, code, out);
            }
            (None, Storage::Scalar(ScalarType::F32)) => out[0] = value,
            (None, Storage::Scalar(ty)) => out[0] = ty.decode_f32(ty.encode_f32(value)),
            (None, Storage::Grouped(..)) => out[0] = 0.0,
        }
    }
}

/// Scale codes beside the one that the scale mode gives, nearest first. None of them is zero or NaN.
fn neighbours(format: GroupFormat, chosen: u8) -> Vec<u8> {
    let [exponents, codes] = SEARCH;
    let reach = if format.scale == ScalarType::E8M0 { exponents } else { codes };
    let sound = |code: &u8| {
        let value = group::scale_value(format, *code);
        value > 0.0 && value.is_finite()
    };
    (1..=reach).flat_map(|d| [chosen.checked_sub(d), chosen.checked_add(d)]).flatten().filter(sound).collect()
}
