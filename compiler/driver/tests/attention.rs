//! Attention from the IR to cycles: the streams are legal, compute what the evaluator computes, and leave out what a causal
//! mask hides.

mod support;

use lacuna_ir::eval::Tensor;
use lacuna_ir::expand::Attention;
use lacuna_ir::op::{EmptyRow, Real};
use lacuna_ir::{Entry, FunctionBuilder, Module, TensorType};
use lacuna_isa::format::ScalarType;
use lacuna_isa::target_file::target;
use support::{both, compile, numbers};

use ScalarType::{Bf16, Bool, F16, F32, F64};

const PLAIN: Attention = Attention {
    scale: Real(0.25),
    softcap: Real(0.0),
    causal: false,
    shift: 0,
    window: 0,
    empty_row: EmptyRow::Nan,
    elem: F32,
};
const CAUSAL: Attention = Attention { causal: true, ..PLAIN };

/// Batch, groups, heads of a group, queries, keys, size, width.
type Sizes = [u64; 7];

/// A mask's type and which of batch, heads, queries and keys it varies along.
type Mask = (ScalarType, [bool; 4]);

fn module(a: &Attention, sizes: Sizes, inner: ScalarType, mask: Option<Mask>) -> (Module, Vec<TensorType>) {
    let [batch, groups, share, length, keys, size, width] = sizes;
    let full = [batch, groups * share, length, keys];
    let mut types = vec![
        TensorType::new(inner, vec![batch, groups * share, length, size]),
        TensorType::new(inner, vec![batch, groups, keys, size]),
        TensorType::new(inner, vec![batch, groups, keys, width]),
    ];
    if let Some((elem, varies)) = mask {
        let shape: Vec<u64> = full.iter().zip(varies).map(|(&n, v)| if v { n } else { 1 }).collect();
        types.push(TensorType::new(elem, shape));
    }
    let mut module = Module { name: "attention".into(), ..Module::default() };
    let mut b = FunctionBuilder::new(&mut module, "main");
    let params: Vec<_> = types.iter().map(|ty| b.param(ty.clone(), "")).collect();
    let y = b.emit(a.op(), &params).expect("typed");
    b.results(&[y]);
    let func = b.id();
    let inputs = (0..types.len()).map(|i| format!("in{i}")).collect();
    module.entries.push(Entry { name: "main".into(), func, inputs, outputs: vec!["out".into()] });
    (module, types)
}

fn inputs(types: &[TensorType], seed: u64) -> Vec<Tensor> {
    let of = |(i, ty): (usize, &TensorType)| {
        let elem = ty.elem.scalar().expect("scalars");
        let mut values = numbers(seed + i as u64, ty.shape.elements());
        match (i, elem) {
            (3, Bool) => values.iter_mut().for_each(|v| *v = f64::from(*v > -1.0)),
            (3, _) => values.iter_mut().for_each(|v| {
                if *v > 1.0 {
                    *v = f64::from(f32::MIN);
                }
            }),
            _ => {}
        }
        Tensor::from_f64(elem, ty.shape.clone(), &values).expect("a sound tensor")
    };
    types.iter().enumerate().map(of).collect()
}

/// Compiles and runs attention, and compares it with the evaluator within `tolerance`; the kernels must be these.
#[track_caller]
fn check(a: Attention, sizes: Sizes, inner: ScalarType, mask: Option<Mask>, tolerance: f64, whole: bool) {
    check_on("mtia-300", a, sizes, inner, mask, tolerance, whole);
}

/// The same for a target.
#[track_caller]
fn check_on(
    machine: &str,
    a: Attention,
    sizes: Sizes,
    inner: ScalarType,
    mask: Option<Mask>,
    tolerance: f64,
    whole: bool,
) {
    let name = format!("{machine} {sizes:?} {inner} {mask:?} {a:?}");
    let (module, types) = module(&a, sizes, inner, mask);
    let target = target(machine).expect("a target");
    let object = compile(&module, &target);
    let kernels: Vec<&str> = object.kernels.iter().map(|k| k.name.as_str()).collect();
    assert_eq!(kernels == ["attention"], whole, "{name}: {kernels:?}");
    let tensors = inputs(&types, sizes.iter().sum());
    let [want, got] = both(&module, &object, &tensors);
    let near = |w: f64, g: f64| (w - g).abs() <= tolerance || (w.is_nan() && g.is_nan());
    let wrong = want.iter().zip(got.iter()).position(|(&w, &g)| !near(w, g));
    if let Some(i) = wrong {
        panic!("{name}: element {i} is {}, not {}", got[i], want[i]);
    }
}

/// Rounding of f32 sums of values up to 2.
const EXACT: f64 = 4e-6;

#[test]
fn sizes_of_every_kind() {
    for sizes in [
        [1, 1, 1, 1, 1, 1, 1],
        [2, 3, 1, 5, 7, 4, 3],
        [1, 2, 4, 12, 12, 32, 32],
        [3, 2, 2, 40, 70, 16, 24],
        [1, 2, 1, 300, 600, 16, 16],
        [1, 1, 3, 130, 1030, 8, 40],
        [1, 2, 8, 1, 700, 64, 64],
        [1, 8, 1, 128, 128, 64, 64],
        [1, 8, 4, 256, 1024, 16, 16],
    ] {
        check(PLAIN, sizes, F32, None, EXACT, true);
    }
}

#[test]
fn causal_tiles_and_their_pairs() {
    for sizes in [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 2, 2, 12, 12, 32, 32],
        [1, 1, 1, 256, 256, 8, 8],
        [1, 2, 1, 640, 640, 16, 16],
        [1, 1, 2, 1000, 1000, 8, 16],
        [2, 1, 1, 1024, 1200, 8, 8],
        [1, 2, 1, 300, 800, 16, 16],
    ] {
        check(CAUSAL, sizes, F32, None, EXACT, true);
        check(Attention { softcap: Real(1.5), ..CAUSAL }, sizes, F32, None, EXACT, true);
        for mask in [Some((Bool, [true, false, false, true])), Some((F32, [false, true, true, true]))] {
            check(CAUSAL, sizes, F32, mask, EXACT, true);
        }
    }
}

#[test]
fn causal_tiles_on_every_grid() {
    for machine in ["mtia-2i", "mtia-400", "mtia-450", "mtia-500"] {
        for sizes in [
            [1, 2, 1, 640, 640, 16, 16],
            [1, 8, 1, 1000, 1000, 16, 16],
            [1, 1, 3, 1024, 1200, 8, 8],
            [2, 4, 4, 900, 900, 16, 24],
        ] {
            check_on(machine, CAUSAL, sizes, F32, None, EXACT, true);
            check_on(machine, CAUSAL, sizes, Bf16, None, 0.01, true);
        }
    }
}

/// Tokens that are not whole stripes, heads that share keys, and windows within a tile of keys and over several.
#[test]
fn stripes_of_every_form() {
    for machine in ["mtia-2i", "mtia-300", "mtia-500"] {
        for sizes in [[1, 3, 1, 2000, 2000, 8, 8], [1, 2, 2, 1000, 1300, 16, 8], [2, 4, 1, 1024, 1024, 8, 16]]
        {
            for (shift, window) in [(0, 0), (0, 1), (0, 50), (37, 300), (300, 0)] {
                check_on(machine, Attention { shift, window, ..CAUSAL }, sizes, F32, None, EXACT, true);
            }
            check_on(machine, Attention { window: 200, ..CAUSAL }, sizes, Bf16, None, 0.01, true);
        }
    }
}

#[test]
fn positions_that_do_not_align() {
    for shift in [1, 64, 100, 700, -3] {
        let a = Attention { shift, ..CAUSAL };
        check(a, [1, 2, 1, 300, 1000, 8, 8], F32, None, EXACT, true);
        check(
            Attention { empty_row: EmptyRow::Zero, ..a },
            [1, 1, 2, 700, 900, 8, 8],
            F32,
            None,
            EXACT,
            true,
        );
        check(Attention { window: 50, ..a }, [1, 2, 1, 300, 1000, 8, 8], F32, None, EXACT, true);
    }
    check(Attention { window: 7, ..PLAIN }, [1, 2, 1, 40, 40, 8, 8], F32, None, EXACT, true);
}

#[test]
fn masks_of_every_form() {
    for (sizes, wide) in [([2, 2, 2, 20, 30, 8, 8], false), ([1, 1, 3, 90, 1100, 8, 8], true)] {
        for elem in [Bool, F32] {
            for bits in 0..8u8 {
                let varies = [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0, true];
                if wide && bits % 3 > 0 {
                    continue;
                }
                for empty_row in [EmptyRow::Zero, EmptyRow::Nan] {
                    let a = Attention { empty_row, ..PLAIN };
                    check(a, sizes, F32, Some((elem, varies)), EXACT, true);
                }
            }
        }
    }
    let all_but_keys = Some((F32, [true, true, true, false]));
    check(PLAIN, [2, 2, 1, 8, 9, 8, 8], F32, all_but_keys, EXACT, false);
}

#[test]
fn narrow_and_wide_types() {
    for inner in [Bf16, F16] {
        // Weights are rounded to the type of the values.
        check(PLAIN, [1, 2, 2, 64, 64, 32, 32], inner, None, 0.01, true);
        check(CAUSAL, [1, 2, 1, 600, 600, 32, 32], inner, None, 0.01, true);
    }
    check(Attention { elem: F64, ..CAUSAL }, [1, 2, 2, 9, 9, 4, 4], F64, None, EXACT, false);
}

#[test]
fn what_no_tile_fits_is_computed_by_parts() {
    let uniform = Attention { empty_row: EmptyRow::Uniform, shift: -2, ..CAUSAL };
    check(uniform, [1, 2, 2, 9, 9, 8, 8], F32, None, EXACT, false);
    check(
        Attention { empty_row: EmptyRow::Uniform, ..CAUSAL },
        [1, 2, 2, 9, 9, 8, 8],
        F32,
        None,
        EXACT,
        true,
    );
}

/// Modelled cycles of attention.
fn cycles(a: &Attention, sizes: Sizes, inner: ScalarType, name: &str) -> u64 {
    let (module, _) = module(a, sizes, inner, None);
    let target = target(name).expect("a target");
    let object = compile(&module, &target);
    let profile = lacuna_runtime::profile(&object, &target, 0).expect("a valid object");
    profile.cycles
}

#[test]
fn causal_attention_over_4096_tokens_takes_half() {
    const FEW: Sizes = [1, 8, 1, 4096, 4096, 64, 64];
    const MANY: Sizes = [1, 32, 1, 4096, 4096, 64, 64];
    const FEW_WIDE: Sizes = [1, 8, 1, 4096, 4096, 128, 128];
    const MANY_WIDE: Sizes = [1, 32, 1, 4096, 4096, 128, 128];
    const SHARED: Sizes = [1, 8, 4, 4096, 4096, 64, 64];
    const SHARED_WIDE: Sizes = [1, 8, 4, 4096, 4096, 128, 128];
    let all = [FEW, MANY, FEW_WIDE, MANY_WIDE, SHARED, SHARED_WIDE];
    let many = [MANY, MANY_WIDE, SHARED, SHARED_WIDE];
    let both = |name: &'static str, sizes: &[Sizes]| -> Vec<(&'static str, Sizes, ScalarType)> {
        sizes.iter().flat_map(|&sizes| [(name, sizes, F32), (name, sizes, Bf16)]).collect()
    };
    // Eight heads take the faster targets so few cycles that the latency of memory at both ends is more than 0.05 of them.
    let mut cases = both("mtia-300", &all);
    cases.extend(both("mtia-2i", &all));
    cases.extend(both("mtia-400", &many));
    cases.extend(both("mtia-450", &many));
    cases.extend([FEW, FEW_WIDE].map(|sizes| ("mtia-450", sizes, F32)));
    cases.extend(both("mtia-500", &[MANY_WIDE, SHARED_WIDE]));
    cases.extend([MANY, SHARED].map(|sizes| ("mtia-500", sizes, F32)));
    for (name, sizes, inner) in cases {
        let full = cycles(&PLAIN, sizes, inner, name);
        let causal = cycles(&CAUSAL, sizes, inner, name);
        let ratio = causal as f64 / full as f64;
        assert!(ratio <= 0.55, "{name} {sizes:?} {inner}: {causal} of {full} cycles, {ratio:.4}");
    }
}

/// Rows of a stripe see of each tile of keys what lies in the window: the others are not computed. Keys are fetched as without
/// a window, which binds where memory is slow.
#[test]
fn windows_of_causal_attention_shrink_it() {
    const SIZES: Sizes = [1, 32, 1, 4096, 4096, 64, 64];
    for inner in [F32, Bf16] {
        let windowed = |window| cycles(&Attention { window, ..CAUSAL }, SIZES, inner, "mtia-300");
        let [all, half, eighth] = [0, 2048, 512].map(windowed);
        // Of n^2 / 2 scores, a window of w leaves w (n - w / 2): 0.75 and 0.23.
        assert!((half as f64) < 0.8 * all as f64, "{inner}: {half} of {all} cycles");
        assert!((eighth as f64) < 0.4 * all as f64, "{inner}: {eighth} of {all} cycles");
    }
}
