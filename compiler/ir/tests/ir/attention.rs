//! Attention against values computed by hand, and against its parts.

use lacuna_ir::eval::{Mode, Tensor, eval, eval_op};
use lacuna_ir::expand::{Attention, attention};
use lacuna_ir::op::{EmptyRow, Real};
use lacuna_ir::{FunctionBuilder, Module, TensorType};
use lacuna_isa::format::ScalarType;
use proptest::prelude::*;

use ScalarType::{Bf16, Bool, F32};

const PLAIN: Attention = Attention {
    scale: Real(1.0),
    softcap: Real(0.0),
    causal: false,
    shift: 0,
    window: 0,
    empty_row: EmptyRow::Nan,
    elem: F32,
};

fn t(elem: ScalarType, shape: &[u64], values: &[f64]) -> Tensor {
    Tensor::from_f64(elem, shape, values).expect("a sound tensor")
}

fn run(a: &Attention, args: &[&Tensor], mode: Mode) -> Vec<f64> {
    let got = eval_op(&Module::default(), &a.op(), args, mode).expect("evaluates");
    got[0].to_f64().to_vec()
}

/// Queries and keys of zeros weigh all keys that are left alike: the result is the mean of their values, 1, 2, 4, ...
#[track_caller]
fn check(a: &Attention, length: u64, keys: u64, mask: Option<&Tensor>, expect: &[f64]) {
    let q = t(F32, &[1, 1, length, 2], &vec![0.0; 2 * length as usize]);
    let k = t(F32, &[1, 1, keys, 2], &vec![0.0; 2 * keys as usize]);
    let v = t(F32, &[1, 1, keys, 1], &(0..keys).map(|i| 2f64.powi(i as i32)).collect::<Vec<_>>());
    let args: Vec<&Tensor> = [&q, &k, &v].into_iter().chain(mask).collect();
    let got = run(a, &args, Mode::Typed);
    let near = |(g, e): (&f64, &f64)| (g - e).abs() <= 1e-6 || (g.is_nan() && e.is_nan());
    assert!(got.len() == expect.len() && got.iter().zip(expect).all(near), "{a:?}: {got:?}, not {expect:?}");
}

#[test]
fn positions_and_masks_leave_keys() {
    let causal = Attention { causal: true, ..PLAIN };
    check(&PLAIN, 2, 3, None, &[7.0 / 3.0, 7.0 / 3.0]);
    check(&causal, 3, 3, None, &[1.0, 1.5, 7.0 / 3.0]);
    check(&Attention { shift: 2, ..causal }, 2, 3, None, &[7.0 / 3.0, 7.0 / 3.0]);
    check(&Attention { window: 1, ..causal }, 3, 3, None, &[1.0, 2.0, 4.0]);
    check(&Attention { window: 2, ..PLAIN }, 3, 3, None, &[7.0 / 3.0, 7.0 / 3.0, 3.0]);
    let alternate = t(Bool, &[1, 1, 1, 3], &[1.0, 0.0, 1.0]);
    check(&PLAIN, 2, 3, Some(&alternate), &[2.5, 2.5]);
    check(&causal, 3, 3, Some(&alternate), &[1.0, 1.0, 2.5]);
    let low = f64::from(f32::MIN);
    let added = t(F32, &[1, 1, 2, 3], &[0.0, low, low, low, low, low]);
    check(&PLAIN, 2, 3, Some(&added), &[1.0, 7.0 / 3.0]);
}

#[test]
fn empty_rows_are_what_they_are_said_to_be() {
    let none = t(Bool, &[1, 1, 2, 1], &[0.0, 1.0]);
    let late = Attention { causal: true, shift: -1, ..PLAIN };
    for (empty_row, first) in
        [(EmptyRow::Uniform, 7.0 / 3.0), (EmptyRow::Zero, 0.0), (EmptyRow::Nan, f64::NAN)]
    {
        check(&Attention { empty_row, ..PLAIN }, 2, 3, Some(&none), &[first, 7.0 / 3.0]);
        check(&Attention { empty_row, ..late }, 3, 3, None, &[first, 1.0, 1.5]);
    }
}

#[test]
fn scores_scale_and_bend() {
    let q = t(F32, &[1, 1, 1, 1], &[3.0]);
    let k = t(F32, &[1, 1, 2, 1], &[0.0, 1.0]);
    let v = t(F32, &[1, 1, 2, 1], &[0.0, 1.0]);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let scaled = Attention { scale: Real(0.5), ..PLAIN };
    let bent = Attention { softcap: Real(2.0), ..scaled };
    for (a, expect) in [(PLAIN, 3.0), (scaled, 1.5), (bent, 2.0 * 0.75f64.tanh())] {
        let got = run(&a, &[&q, &k, &v], Mode::Real);
        assert!((got[0] - sigmoid(expect)).abs() < 1e-12, "{a:?}: {got:?}");
    }
}

#[test]
fn the_type_rule_refuses() {
    let ty = |elem, shape: &[u64]| TensorType::new(elem, shape);
    let fits = |q: &[u64], k: &[u64], v: &[u64], mask: Option<TensorType>| {
        let args = [ty(F32, q), ty(F32, k), ty(F32, v)];
        let args: Vec<&TensorType> = args.iter().chain(&mask).collect();
        lacuna_ir::infer::infer(&Module::default(), &PLAIN.op(), &args).is_ok()
    };
    assert!(fits(&[2, 6, 5, 8], &[2, 3, 7, 8], &[2, 3, 7, 9], Some(ty(Bool, &[1, 6, 1, 7]))));
    assert!(!fits(&[2, 6, 5, 8], &[2, 4, 7, 8], &[2, 4, 7, 9], None), "heads are no multiple of groups");
    assert!(!fits(&[2, 6, 5, 8], &[2, 3, 7, 4], &[2, 3, 7, 9], None), "sizes differ");
    assert!(!fits(&[2, 6, 5, 8], &[2, 3, 7, 8], &[2, 3, 6, 9], None), "one value for each key");
    assert!(!fits(&[6, 5, 8], &[3, 7, 8], &[3, 7, 9], None), "no batch");
    assert!(
        !fits(&[2, 6, 5, 8], &[2, 3, 7, 8], &[2, 3, 7, 9], Some(ty(Bool, &[1, 3, 1, 7]))),
        "mask by group"
    );
    assert!(
        !fits(&[2, 6, 5, 8], &[2, 3, 7, 8], &[2, 3, 7, 9], Some(ty(Bf16, &[1, 6, 1, 7]))),
        "another type"
    );
}

/// Numbers from a seed.
fn numbers(seed: u64, n: u64) -> Vec<f64> {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / 8_388_608.0 - 1.0
    };
    (0..n).map(next).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_its_parts_are(
        (batch, groups, share, length) in (1u64..3, 1u64..3, 1u64..3, 1u64..5),
        (keys, size, width) in (1u64..6, 1u64..4, 1u64..4),
        (causal, shift, window, softcap) in (any::<bool>(), -3i64..4, 0u64..4, prop::bool::ANY),
        (mask, repeats, empty) in (0u8..3, any::<[bool; 4]>(), 0usize..3),
        seed in any::<u64>(),
    ) {
        let a = Attention {
            scale: Real(0.75),
            softcap: Real(if softcap { 1.5 } else { 0.0 }),
            causal, shift, window,
            empty_row: EmptyRow::ALL[empty],
            elem: F32,
        };
        let full = [batch, groups * share, length, keys];
        let mut shapes = vec![
            (F32, vec![batch, groups * share, length, size]),
            (F32, vec![batch, groups, keys, size]),
            (F32, vec![batch, groups, keys, width]),
        ];
        if mask > 0 {
            let shape = full.iter().zip(repeats).map(|(&n, one)| if one { 1 } else { n }).collect();
            shapes.push((if mask == 1 { Bool } else { F32 }, shape));
        }
        let inputs: Vec<Tensor> = shapes.iter().enumerate().map(|(i, (elem, shape))| {
            let mut values = numbers(seed ^ (i as u64) << 7, shape.iter().product());
            match (i, elem) {
                (3, Bool) => values.iter_mut().for_each(|v| *v = f64::from(*v > 0.0)),
                (3, _) => values.iter_mut().for_each(|v| if *v > 0.5 { *v = f64::NEG_INFINITY }),
                _ => {}
            }
            t(*elem, shape, &values)
        }).collect();
        let args: Vec<&Tensor> = inputs.iter().collect();
        let whole = run(&a, &args, Mode::Real);
        let mut module = Module::default();
        let mut b = FunctionBuilder::new(&mut module, "parts");
        let params: Vec<_> = shapes.iter().map(|(e, s)| b.param(TensorType::new(*e, s.clone()), "")).collect();
        let y = attention(&mut b, &a, &params).expect("typed");
        b.results(&[y]);
        let func = b.id();
        let parts = eval(&module, func, &inputs, Mode::Real).expect("evaluates")[0].to_f64();
        let near = |(w, p): (&f64, &f64)| (w - p).abs() <= 1e-6 || (w.is_nan() && p.is_nan());
        prop_assert!(whole.len() == parts.len() && whole.iter().zip(parts.iter()).all(near), "{:?} {:?}", whole, parts);
    }
}
