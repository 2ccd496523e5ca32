//! Laws of the weight techniques.

use lacuna_ir::eval::{Mode, Tensor, eval, eval_op};
use lacuna_ir::op::{ContractMap, ConvAttrs};
use lacuna_ir::{Module, Op, Shape};
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode, group};
use proptest::prelude::*;

use super::factor::Factor;
use super::gram::{Gram, Loss, Operand};
use super::hadamard;
use super::matrix::{Layout, Matrix};
use super::narrow::{Narrowed, Plan, Storage, narrow};
use super::{Prune, PruneBy, Rounding, ScaleModes, WeightOptions};
use crate::testing::{Lab, conv1d, count, module};
use crate::{Options, WeightSparsity, select, sparsity_of};

/// Numbers that repeat for a seed: SplitMix64.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (2.0 * std::f64::consts::PI * self.uniform()).cos()
    }

    /// Student's t with four degrees of freedom.
    fn t4(&mut self) -> f64 {
        let chi2 = -2.0 * (self.uniform() * self.uniform()).ln();
        self.normal() / (chi2 / 4.0).sqrt()
    }
}

/// Rows of inputs with correlated columns of unlike sizes, and weights.
fn sample(seed: u64, k: usize) -> (Vec<f64>, Matrix) {
    let mut random = Random(seed);
    let mut x = Vec::new();
    for _ in 0..3 * k {
        let common = random.normal();
        x.extend((0..k).map(|j| (common + random.normal()) * if j % 7 == 3 { 6.0 } else { 1.0 }));
    }
    let values = (0..24 * k).map(|_| random.normal() as f32).collect();
    (x, Matrix { k, segment: k, values })
}

fn gram_of(x: &[f64], k: usize) -> Gram {
    let mut gram = Gram::new(k).unwrap();
    gram.add_rows(x);
    gram
}

/// Squared error of the product's result, summed over all rows.
fn noise(matrix: &Matrix, narrowed: &Narrowed, gram: &Gram) -> f64 {
    let errors = matrix.values.iter().zip(&narrowed.values).map(|(&a, &b)| f64::from(a) - f64::from(b));
    errors.collect::<Vec<f64>>().chunks(matrix.k).map(|row| gram.energy(0, row)).sum()
}

fn decibels(values: &[f32], rounded: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let signal: f64 = values.iter().map(|&x| square(x)).sum();
    let noise: f64 = values.iter().zip(rounded).map(|(&x, &y)| square(x - y)).sum();
    10.0 * (signal / noise).log10()
}

const MXFP4: Storage = Storage::Grouped(GroupFormat::MXFP4, ScaleMode::Tosa);

fn plain(storage: Storage) -> Plan<'static> {
    Plan { storage, scale_search: false, prune: None, gram: None, factor: None }
}

fn two_of_four(by: PruneBy) -> Option<Prune> {
    Some(Prune { pattern: WeightSparsity::TWO_OF_FOUR, by })
}

#[test]
fn options_parse_and_print() {
    for text in ["nearest", "compensated", "corrected"] {
        assert_eq!(text.parse::<Rounding>().map(|o| o.to_string()), Ok(text.to_owned()));
    }
    for text in ["magnitude", "calibration"] {
        assert_eq!(text.parse::<PruneBy>().map(|o| o.to_string()), Ok(text.to_owned()));
    }
    for text in ["2:4", "1:4", "4:8", "1:2", "4:16"] {
        assert_eq!(text.parse::<WeightSparsity>().map(|o| o.to_string()), Ok(text.to_owned()));
    }
    for text in ["", "4", "4:4", "0:4", "2:3", "2:32", "-1:4", "2:4:8"] {
        assert!(text.parse::<WeightSparsity>().is_err(), "{text}");
    }
    assert_eq!("even".parse::<ScaleModes>().map(|o| o.to_string()), Ok("even:even".to_owned()));
    assert_eq!("tosa:floor".parse(), Ok(ScaleModes::default()));
    assert!("tosa:".parse::<ScaleModes>().is_err());
    assert!(WeightOptions::default().is_plain() && !WeightOptions::default().needs_calibration());
}

/// Products of all rows of the operand by all rows of the weights, in ascending order.
fn products(op: &Op, x: &Tensor, x_at: usize, w: &Tensor, result: &Shape) -> Vec<f64> {
    let layout = Layout::of(op, 1 - x_at, &w.ty.shape).unwrap();
    let matrix = Matrix::new(&layout, &w.to_f64());
    let values = x.to_f64();
    let operand = Operand::of(op, x_at, x, &values, &w.ty.shape, result).unwrap();
    assert_eq!(operand.k, matrix.k);
    let mut row = vec![0.0; matrix.k];
    let mut found = Vec::new();
    for i in 0..operand.n_rows() {
        operand.row(i, &mut row);
        for weights in matrix.values.chunks(matrix.k) {
            found.push(row.iter().zip(weights).map(|(x, &w)| x * f64::from(w)).sum());
        }
    }
    found.sort_by(f64::total_cmp);
    found
}

fn check_products(op: &Op, x_shape: &[u64], w_shape: &[u64], x_at: usize) {
    let mut random = Random(7);
    let mut tensor = |shape: &[u64]| {
        let values: Vec<f64> = (0..shape.iter().product::<u64>()).map(|_| random.normal()).collect();
        Tensor::from_f64(ScalarType::F32, shape, &values).unwrap()
    };
    let (x, w) = (tensor(x_shape), tensor(w_shape));
    let args = if x_at == 0 { [&x, &w] } else { [&w, &x] };
    let result = eval_op(&Module::default(), op, &args, Mode::Real).unwrap().remove(0);
    let mut expect = result.to_f64().to_vec();
    expect.sort_by(f64::total_cmp);
    let found = products(op, &x, x_at, &w, &result.ty.shape);
    assert_eq!(found.len(), expect.len());
    for (a, b) in found.iter().zip(&expect) {
        assert!((a - b).abs() < 1e-9, "{op:?}: {a} instead of {b}");
    }
}

#[test]
fn rows_of_both_operands_multiply_to_the_result() {
    let contract = |map: &str| Op::Contract { map: ContractMap::parse(map).unwrap(), elem: ScalarType::F32 };
    check_products(&contract("bmk,kn->bmn"), &[2, 3, 5], &[5, 4], 0);
    check_products(&contract("kn,bkm->bmn"), &[2, 5, 3], &[5, 4], 1);
    check_products(&contract("mk,hkn->hmn"), &[3, 5], &[2, 5, 4], 0);
    check_products(&conv1d(1, 0, 1), &[2, 3, 5], &[4, 3, 2], 0);
    let attrs = ConvAttrs {
        x: vec![0, 3, 1, 2],
        w: vec![1, 0, 3, 2],
        out: vec![0, 1, 2, 3],
        strides: vec![2, 1],
        dilations: vec![1, 2],
        x_dilations: vec![1, 2],
        low: vec![1, -1],
        high: vec![0, 2],
        groups: 1,
    };
    let op = Op::Conv { attrs, elem: ScalarType::F32 };
    check_products(&op, &[2, 6, 5, 3], &[3, 4, 2, 3], 0);
}

#[test]
fn products_without_one_matrix_have_no_layout() {
    let contract = |map: &str| Op::Contract { map: ContractMap::parse(map).unwrap(), elem: ScalarType::F32 };
    let shape = |dims: &[u64]| Shape::from(dims);
    assert_eq!(Layout::of(&contract("mjk,jkn->mn"), 1, &shape(&[2, 3, 4])), None);
    assert_eq!(Layout::of(&conv1d(0, 0, 2), 1, &shape(&[4, 1, 3])), None);
    let batched = contract("bmk,bkn->bmn");
    assert!(Layout::of(&batched, 1, &shape(&[2, 5, 4])).is_some());
    let x = Tensor::from_f64(ScalarType::F32, vec![2, 3, 5], &[0.0; 30]).unwrap();
    let values = x.to_f64();
    let shapes = (shape(&[2, 5, 4]), shape(&[2, 3, 4]));
    assert!(Operand::of(&batched, 0, &x, &values, &shapes.0, &shapes.1).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn plain_narrowing_is_what_quantisation_does(
        format in prop::sample::select(GroupFormat::ALL.to_vec()),
        mode in prop::sample::select(ScaleMode::ALL.to_vec()),
        k in 1usize..70,
        n in 1usize..5,
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let values: Vec<f32> = (0..n * k).map(|_| random.t4() as f32).collect();
        let narrowed = narrow(&Matrix { k, segment: k, values: values.clone() }, &plain(Storage::Grouped(format, mode)));
        for (row, found) in values.chunks(k).zip(narrowed.values.chunks(k)) {
            prop_assert_eq!(group::round_trip(format, mode, row), found);
        }
    }

    #[test]
    fn scattering_undoes_gathering(dims in prop::collection::vec(1u64..5, 4), group in 1usize..4) {
        let elements: Vec<u64> = (1..=dims.iter().product()).collect();
        let attrs = ConvAttrs { w: vec![1, 2, 3, 0], ..two_axes() };
        let layout = Layout::of(&Op::Conv { attrs, elem: ScalarType::F32 }, 1, &dims.as_slice().into()).unwrap();
        prop_assert_eq!(layout.scatter(&layout.gather(&elements)), elements);
        let n_scales = layout.scales(group).gather(&[0; 256]).len() as u64;
        prop_assert_eq!(n_scales, dims[0] * dims[1] * dims[3] * dims[2].div_ceil(group as u64));
    }

    #[test]
    fn a_searched_scale_is_no_worse(seed in any::<u64>(), format in prop::sample::select(GroupFormat::ALL.to_vec())) {
        let (x, matrix) = sample(seed, 32);
        let gram = gram_of(&x, 32);
        let storage = Storage::Grouped(format, ScaleMode::Floor);
        for gram in [None, Some(&gram)] {
            let plan = Plan { gram, ..plain(storage) };
            let searched = narrow(&matrix, &Plan { scale_search: true, ..plan });
            let found = narrow(&matrix, &plan);
            let energy = |narrowed: &Narrowed| match gram {
                // A group is a row here, or half of one: its own moments are what the search looks at.
                Some(gram) if format.size == 32 => noise(&matrix, narrowed, gram),
                Some(_) => 0.0,
                None => -decibels(&matrix.values, &narrowed.values),
            };
            prop_assert!(energy(&searched) <= energy(&found) * (1.0 + 1e-12 * energy(&found).signum()));
        }
    }

    #[test]
    fn compensation_pays_on_correlated_inputs(seed in any::<u64>(), prune in any::<bool>()) {
        let k = 64;
        let (x, matrix) = sample(seed, k);
        let gram = gram_of(&x, k);
        let factor = Factor::new(&gram).unwrap();
        let prune = if prune { two_of_four(PruneBy::Calibration) } else { None };
        let nearest = Plan { gram: Some(&gram), prune, ..plain(MXFP4) };
        let compensated = Plan { factor: Some(&factor), ..nearest };
        let [nearest, compensated] = [nearest, compensated].map(|plan| noise(&matrix, &narrow(&matrix, &plan), &gram));
        prop_assert!(compensated < 0.9 * nearest, "{} against {}", compensated, nearest);
    }
}

fn two_axes() -> ConvAttrs {
    ConvAttrs {
        x: vec![0, 1, 2, 3],
        w: vec![0, 1, 2, 3],
        out: vec![0, 1, 2, 3],
        strides: vec![1; 2],
        dilations: vec![1; 2],
        x_dilations: vec![1; 2],
        low: vec![0; 2],
        high: vec![0; 2],
        groups: 1,
    }
}

#[test]
fn the_factor_is_that_of_the_inverse() {
    let k = 37;
    let (x, _) = sample(3, k);
    let gram = gram_of(&x, k);
    let factor = Factor::new(&gram).unwrap();
    let mean = (0..k).map(|i| gram.get(i, i)).sum::<f64>() / k as f64;
    let damped = |i: usize, j: usize| gram.get(i, j) + if i == j { 0.01 * mean } else { 0.0 };
    // (U^T U)(G + damping) is the identity: solving the rows of the damped matrix gives unit rows.
    let mut rows: Vec<f64> = (0..k * k).map(|at| damped(at / k, at % k)).collect();
    factor.solve(&mut rows);
    for (at, &v) in rows.iter().enumerate() {
        let unit = f64::from(u8::from(at / k == at % k));
        assert!((v - unit).abs() < 1e-9, "{v} at {at}");
    }
    let zero = Gram::new(3).unwrap();
    assert_eq!(Factor::new(&zero), None);
    let nan = gram_of(&[f64::NAN, 1.0], 2);
    assert_eq!(Factor::new(&nan), None);
}

#[test]
fn pruning_keeps_the_greatest() {
    let matrix = Matrix { k: 6, segment: 6, values: vec![1.0, -3.0, 2.0, 0.5, 1.0, -1.0] };
    let check = |n: u8, m: u8, expect: &[f32]| {
        let prune = Some(Prune { pattern: WeightSparsity { n, m }, by: PruneBy::Magnitude });
        let plan = Plan { prune, ..plain(Storage::Scalar(ScalarType::F32)) };
        assert_eq!(narrow(&matrix, &plan).values, expect, "{n}:{m}");
    };
    check(2, 4, &[0.0, -3.0, 2.0, 0.0, 1.0, -1.0]);
    check(1, 2, &[0.0, -3.0, 2.0, 0.0, 1.0, 0.0]);
    check(1, 4, &[0.0, -3.0, 0.0, 0.0, 1.0, 0.0]);
}

/// Where inputs are not correlated, what calibration keeps is what costs the least.
#[test]
fn calibration_sees_the_size_of_inputs() {
    let k = 32;
    let mut random = Random(5);
    let size = |j: usize| if j.is_multiple_of(3) { 10.0 } else { 1.0 };
    let x: Vec<f64> = (0..200 * k).map(|at| random.normal() * size(at % k)).collect();
    let gram = gram_of(&x, k);
    let values = (0..40 * k).map(|_| random.normal() as f32).collect();
    let matrix = Matrix { k, segment: k, values };
    let loss = |by| {
        let plan =
            Plan { prune: two_of_four(by), gram: Some(&gram), ..plain(Storage::Scalar(ScalarType::F32)) };
        noise(&matrix, &narrow(&matrix, &plan), &gram)
    };
    let [magnitude, calibration] = [PruneBy::Magnitude, PruneBy::Calibration].map(loss);
    assert!(calibration < 0.5 * magnitude, "{calibration} against {magnitude}");
}

#[test]
fn groups_without_sound_weights_stay_what_quantisation_makes_of_them() {
    let (x, mut matrix) = sample(1, 64);
    matrix.values[3] = f32::NAN;
    matrix.values[100..164].fill(0.0);
    matrix.values[40] = f32::INFINITY;
    let gram = gram_of(&x, 64);
    let factor = Factor::new(&gram).unwrap();
    let plan = Plan { scale_search: true, gram: Some(&gram), factor: Some(&factor), ..plain(MXFP4) };
    let narrowed = narrow(&matrix, &plan);
    assert_eq!([0, 1].map(|g| narrowed.scales[g].code), [0xFF, 0xFF]);
    assert!(narrowed.values[64..].iter().all(|v| v.is_finite()));
    assert!(narrowed.values[128..160].iter().all(|&v| v == 0.0));
}

/// Weights that make up for lost inputs lose less of the result than those that do not.
#[test]
fn correction_makes_up_for_lost_inputs() {
    let k = 64;
    let (x, matrix) = sample(9, k);
    let rounded: Vec<f64> = x
        .chunks(32)
        .flat_map(|g| {
            let group: Vec<f32> = g.iter().map(|&v| v as f32).collect();
            group::round_trip(GroupFormat::MXFP4, ScaleMode::Floor, &group).into_iter().map(f64::from)
        })
        .collect();
    let n = (x.len() / k) as u64;
    let op = Op::Contract { map: ContractMap::parse("mk,kn->mn").unwrap(), elem: ScalarType::F32 };
    let shapes = (Shape(vec![k as u64, 24]), Shape(vec![n, 24]));
    let tensor = Tensor::from_f64(ScalarType::F32, vec![n, k as u64], &x).unwrap();
    let operand = |values| Operand::of(&op, 0, &tensor, values, &shapes.0, &shapes.1).unwrap();
    let (before, after) = (operand(&x), operand(&rounded));
    let mut gram = Gram::new(k).unwrap();
    gram.add(&after);
    let mut loss = Loss::new(k).unwrap();
    loss.add(&before, &after);
    let corrected = loss.corrected(&matrix.values, &Factor::new(&gram).unwrap());
    let error = |weights: &[f32]| -> f64 {
        let dot = |x: &[f64], w: &[f32]| x.iter().zip(w).map(|(x, &w)| x * f64::from(w)).sum::<f64>();
        let rows = x.chunks(k).zip(rounded.chunks(k));
        let pairs = rows.flat_map(|(x, y)| {
            matrix.values.chunks(k).zip(weights.chunks(k)).map(move |(w, v)| (x, w, y, v))
        });
        pairs.map(|(x, w, y, v)| (dot(x, w) - dot(y, v)).powi(2)).sum()
    };
    let (plain, moved) = (error(&matrix.values), error(&corrected));
    assert!(moved < 0.8 * plain, "{moved} against {plain}");
}

#[test]
fn the_rotation_is_its_own_inverse() {
    for (i, j) in (0..32).flat_map(|i| (0..32).map(move |j| (i, j))) {
        let product: f32 = (0..32).map(|l| hadamard::sign(i, l) * hadamard::sign(l, j)).sum();
        assert_eq!(product, if i == j { 32.0 } else { 0.0 });
    }
    let mut unit = [0.0; 32];
    unit[5] = 32.0;
    hadamard::rotate_weights(&mut unit);
    let expect: Vec<f32> = (0..32).map(|j| hadamard::sign(5, j)).collect();
    assert_eq!(unit[..], expect);
}

/// Signal to noise of MXFP4 on heavy-tailed values, without and with rotation: published anchors.
#[test]
fn rotation_lifts_heavy_tails() {
    let mut random = Random(11);
    let values: Vec<f32> = (0..1 << 18).map(|_| random.t4() as f32).collect();
    let mut rotated = values.clone();
    hadamard::rotate_weights(&mut rotated);
    for (values, expect) in [(&values, 17.79), (&rotated, 19.09)] {
        let narrowed = group::round_trip(GroupFormat::MXFP4, ScaleMode::Tosa, values);
        let found = decibels(values, &narrowed);
        assert!((found - expect).abs() < 0.1, "{found:.2} dB, not {expect}");
    }
}

/// Two projections, a convolution's worth apart: `x` by constants, with an activation between.
fn network(l: &mut Lab) -> Vec<lacuna_ir::Value> {
    let x = l.param(&[48, 64]);
    let w = l.konst(&[64, 96]);
    let y = l.contract("mk,kn->mn", x, w);
    let y = l.un(lacuna_ir::op::UnaryOp::Tanh, y);
    let w = l.konst(&[40, 96]);
    vec![l.contract("nk,mk->mn", w, y)]
}

fn refined(weights: WeightOptions, precision: &str) -> (Module, Vec<Tensor>, f64) {
    let (before, inputs) = module(21, false, network);
    let options = Options {
        precision: precision.parse().unwrap(),
        weights,
        calibration: vec![inputs.clone()],
        ..Options::default()
    };
    let selected = select(before.clone(), &options).unwrap();
    lacuna_ir::verify::verify(&selected.module).unwrap();
    assert_eq!(selected.refined.len(), if weights.is_plain() { 0 } else { 2 });
    assert!(selected.refined.iter().all(|w| w.notes.is_empty()), "{:?}", selected.refined);
    let run = |m: &Module| -> Vec<f32> {
        let results = eval(m, m.entries[0].func, &inputs, Mode::Typed).unwrap();
        results[0].to_f64().iter().map(|&v| v as f32).collect()
    };
    let sqnr = decibels(&run(&before), &run(&selected.module));
    (selected.module, inputs, sqnr)
}

#[test]
fn techniques_work_on_whole_functions() {
    let plain = WeightOptions::default();
    let (_, _, base) = refined(plain, "mxfp4");
    let check = |weights: WeightOptions, precision: &str, least: f64| {
        let (found, _, sqnr) = refined(weights, precision);
        assert!(sqnr > least, "{weights:?} {precision}: {sqnr:.2} dB, not above {least:.2}");
        found
    };
    check(WeightOptions { rounding: Rounding::Compensated, ..plain }, "mxfp4", base + 0.2);
    check(WeightOptions { rounding: Rounding::Corrected, ..plain }, "mxfp4", base + 3.0);
    check(WeightOptions { scale_search: true, ..plain }, "mxfp4", base - 1.0);
    let rotated = check(WeightOptions { hadamard: true, ..plain }, "mxint8", 30.0);
    assert_eq!(count(&rotated, rotated.entries[0].func, "contract"), 4);
    let prune = two_of_four(PruneBy::Calibration);
    for precision in ["f32", "bf16", "mxfp8"] {
        let weights = WeightOptions { rounding: Rounding::Corrected, prune, ..plain };
        let pruned = check(weights, precision, 5.0);
        let func = pruned.entries[0].func;
        let found = sparsity_of(&pruned, func, &[WeightSparsity::TWO_OF_FOUR]);
        let sparse = found.values().filter(|s| !s.patterns.is_empty()).count();
        assert_eq!(sparse, 2, "{precision}");
    }
}

#[test]
fn threads_change_nothing() {
    let weights = WeightOptions {
        rounding: Rounding::Corrected,
        scale_search: true,
        hadamard: true,
        prune: two_of_four(PruneBy::Calibration),
        ..WeightOptions::default()
    };
    let text = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        let module = pool.install(|| refined(weights, "mxfp4").0);
        module.constants.values().map(|c| *c.hash()).collect::<Vec<_>>()
    };
    assert_eq!(text(1), text(3));
}

#[test]
fn calibration_inputs_that_do_not_fit_are_refused() {
    let (before, mut inputs) = module(21, false, network);
    inputs[0] = Tensor::from_f64(ScalarType::F32, vec![1], &[0.0]).unwrap();
    let weights = WeightOptions { rounding: Rounding::Compensated, ..WeightOptions::default() };
    let options = Options { weights, calibration: vec![inputs], ..Options::default() };
    assert!(select(before, &options).is_err());
}
