//! The defined functions: measured error against f64 references, special values, and results that must not change.
//!
//! `cargo test -p lacuna-isa --test format_math -- --nocapture error_bounds` prints the measured bounds.

use lacuna_isa::math;

/// Prime to every power of two, so every exponent and all low bits are visited.
const STEP: usize = 4099;

/// The distance of `got` from `want` in units in the last place of the f32 next to `want`; 0 for equal ends.
fn ulp_error(got: f32, want: f64) -> f64 {
    let nearest = want as f32;
    if want.is_nan() || got.is_nan() {
        return if want.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if got == nearest {
        let zero_sign_agrees = got != 0.0 || got.is_sign_negative() == want.is_sign_negative();
        if nearest.is_infinite() || nearest == 0.0 {
            return if zero_sign_agrees { 0.0 } else { f64::INFINITY };
        }
    }
    if got.is_infinite() {
        // Overflow one step early is measured from where the next float would be.
        return (2f64.powi(128) - want.abs()).abs() / 2f64.powi(104);
    }
    let exponent = (want.abs().to_bits() >> 52) as i32 - 1023;
    let ulp = 2f64.powi(exponent.clamp(-126, 127) - 23);
    (f64::from(got) - want).abs() / ulp
}

/// The error function in f64: the Taylor series for small arguments, a continued fraction for large ones.
fn erf_reference(x: f64) -> f64 {
    let t = x.abs();
    let value = if t < 2.5 {
        let mut term = t;
        let mut sum = t;
        for n in 1..80 {
            term *= -t * t / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut fraction = 0.0;
        for n in (1..80).rev() {
            fraction = f64::from(n) / 2.0 / (t + fraction);
        }
        1.0 - (-t * t).exp() / (t + fraction) / std::f64::consts::PI.sqrt()
    };
    if x.is_nan() { x } else { value.copysign(x) }
}

fn atanh_reference(x: f64) -> f64 {
    0.5 * (2.0 * x / (1.0 - x)).ln_1p()
}

fn asinh_reference(x: f64) -> f64 {
    let t = x.abs();
    let y = if t.is_infinite() { t } else { t + t * t / (1.0 + (t * t + 1.0).sqrt()) };
    y.ln_1p().copysign(x)
}

fn acosh_reference(x: f64) -> f64 {
    if x < 1.0 {
        return f64::NAN;
    }
    ((x - 1.0) + ((x - 1.0) * (x + 1.0)).sqrt()).ln_1p()
}

fn sigmoid_reference(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The lower tail by its continued fraction, the rest by the error function.
fn norm_cdf_reference(x: f64) -> f64 {
    if x > -3.0 {
        return 0.5 + 0.5 * erf_reference(x * std::f64::consts::FRAC_1_SQRT_2);
    }
    let fraction = (1..120).rev().fold(0.0, |fraction, n| f64::from(n) / (fraction - x));
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x == f64::NEG_INFINITY { 0.0 } else { density / (fraction - x) }
}

type Function = (&'static str, fn(f32) -> f32, fn(f64) -> f64, f64);

/// Name, definition, reference, bound in ulp as its doc comment states it.
const FUNCTIONS: &[Function] = &[
    ("exp", math::exp, f64::exp, 0.8),
    ("ln", math::ln, f64::ln, 1.0),
    ("sin", math::sin, f64::sin, 0.6),
    ("cos", math::cos, f64::cos, 0.6),
    ("tan", math::tan, f64::tan, 0.6),
    ("asin", math::asin, f64::asin, 0.6),
    ("acos", math::acos, f64::acos, 0.6),
    ("atan", math::atan, f64::atan, 0.6),
    ("sinh", math::sinh, f64::sinh, 0.6),
    ("cosh", math::cosh, f64::cosh, 0.6),
    ("tanh", math::tanh, f64::tanh, 1.5),
    ("asinh", math::asinh, asinh_reference, 0.6),
    ("acosh", math::acosh, acosh_reference, 0.6),
    ("atanh", math::atanh, atanh_reference, 0.6),
    ("erf", math::erf, erf_reference, 1.5),
    ("sigmoid", math::sigmoid, sigmoid_reference, 2.0),
    ("expm1", math::expm1, f64::exp_m1, 0.6),
    ("log1p", math::log1p, f64::ln_1p, 0.6),
    ("norm_cdf", math::norm_cdf, norm_cdf_reference, 0.6),
    ("rsqrt", math::rsqrt, |x| 1.0 / x.sqrt(), 1.5),
];

#[test]
fn error_bounds() {
    let mut failures = Vec::new();
    for &(name, function, reference, bound) in FUNCTIONS {
        let mut worst = (0.0, 0.0f32);
        for bits in (0..=u32::MAX).step_by(STEP) {
            let x = f32::from_bits(bits);
            let error = ulp_error(function(x), reference(f64::from(x)));
            if error > worst.0 {
                worst = (error, x);
            }
        }
        println!("{name:8} {:.3} ulp at {:e} (bound {bound})", worst.0, worst.1);
        if worst.0 > bound {
            failures.push(name);
        }
    }
    assert!(failures.is_empty(), "beyond their bounds: {failures:?}");
}

#[test]
fn error_bound_of_pow() {
    let mut worst = (0.0, 0.0f32, 0.0f32);
    let mut check = |x: f32, y: f32| {
        let error = ulp_error(math::pow(x, y), f64::from(x).powf(f64::from(y)));
        if error > worst.0 {
            worst = (error, x, y);
        }
    };
    let mut state = 1u64;
    for bits in (0..=u32::MAX).step_by(16_411) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = f32::from_bits(bits);
        check(x, f32::from_bits((state >> 32) as u32));
        // Exponents that keep the result in range, where the error is largest.
        let span = 150.0 / x.abs().log2().abs().max(0.1);
        check(x, span * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0));
        check(x, ((state >> 59) as f32) - 16.0);
    }
    println!("pow      {:.3} ulp at ({:e}, {:e})", worst.0, worst.1, worst.2);
    assert!(worst.0 <= 0.6, "{worst:?}");
}

#[test]
fn special_values() {
    const INF: f32 = f32::INFINITY;
    const NAN: f32 = f32::NAN;
    let specials = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 1e30, -1e30, INF, -INF, NAN];
    for &(name, function, reference, bound) in FUNCTIONS {
        for x in specials {
            let (got, want) = (function(x), reference(f64::from(x)));
            assert!(ulp_error(got, want) <= bound, "{name}({x}) = {got}, not {want}");
        }
    }
    for x in specials {
        for y in specials {
            let (got, want) = (math::pow(x, y), f64::from(x).powf(f64::from(y)));
            assert!(ulp_error(got, want) <= 0.6, "pow({x}, {y}) = {got}, not {want}");
        }
    }
}

#[test]
fn min_max_and_rounding() {
    let nan = f32::NAN;
    for (a, b, min, max) in [
        (1.0, 2.0, 1.0, 2.0),
        (-0.0, 0.0, -0.0, 0.0),
        (0.0, -0.0, -0.0, 0.0),
        (-0.0, -0.0, -0.0, -0.0),
        (f32::NEG_INFINITY, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY),
    ] {
        assert_eq!(math::fmin(a, b).to_bits(), f32::to_bits(min), "min({a}, {b})");
        assert_eq!(math::fmax(a, b).to_bits(), f32::to_bits(max), "max({a}, {b})");
        assert_eq!(math::fmin(b, a).to_bits(), f32::to_bits(min), "min({b}, {a})");
        assert_eq!(math::fmax(b, a).to_bits(), f32::to_bits(max), "max({b}, {a})");
        assert!(math::fmin(a, nan).is_nan() && math::fmin(nan, a).is_nan());
        assert!(math::fmax(a, nan).is_nan() && math::fmax(nan, a).is_nan());
    }
    for bits in (0..=u32::MAX).step_by(STEP) {
        let x = f32::from_bits(bits);
        let (got, want) = (math::round_half_even(x), x.round_ties_even());
        assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{x}");
    }
    for (x, want) in [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, -0.0), (8_388_607.5, 8_388_608.0)] {
        assert_eq!(math::round_half_even(x).to_bits(), f32::to_bits(want), "{x}");
    }
}

fn fold(hash: u64, y: f32) -> u64 {
    let y = if y.is_nan() { f32::NAN } else { y };
    (hash ^ u64::from(y.to_bits())).wrapping_mul(0x100_0000_01B3)
}

/// The results are part of the instruction set: a change of any bit of any function shows here, on every host.
#[test]
fn results_are_pinned() {
    const START: u64 = 0xCBF2_9CE4_8422_2325;
    let arguments = || (0..=u32::MAX).step_by(STEP * 16).map(f32::from_bits);
    let mut text = String::new();
    for &(name, function, ..) in FUNCTIONS {
        let hash = arguments().fold(START, |hash, x| fold(hash, function(x)));
        text += &format!("{name} {hash:016x}\n");
    }
    let hash =
        arguments().fold(START, |hash, x| fold(fold(hash, math::pow(x.abs(), 1.7)), math::pow(1.1, x)));
    text += &format!("pow {hash:016x}\n");
    insta::assert_snapshot!(text);
}
