//! Every operator of one step on every element type, over the corners of its domain: the IR evaluator against the
//! instruction streams. What is exact agrees bit for bit, NaN as NaN; functions agree within a stated number of units in
//! the last place. What code generation refuses has a reason.

use std::collections::BTreeSet;

use cranelift_entity::SecondaryMap;
use lacuna_ir::eval::{Mode, Tensor, eval};
use lacuna_ir::op::{BinaryOp, CompareOp, ReduceOp, UnaryOp};
use lacuna_ir::{Entry, FunctionBuilder, Module, Op, TensorType};
use lacuna_isa::format::{ScalarType, pack};
use lacuna_isa::target_file::target;
use lacuna_runtime::{Machine, Outcome, RunOptions};

/// How far a result may be from the evaluator's.
#[derive(Clone, Copy, Debug)]
enum Tolerance {
    /// The same code; NaN for NaN.
    Exact,
    /// Units in the last place.
    Ulp(u64),
    /// Relative to the sum or product of magnitudes.
    Relative(f64),
}

/// A multiplicative generator, the same on every host.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ self.0 >> 29
    }

    fn pick(&mut self, from: &[u64]) -> u64 {
        from[(self.next() >> 7) as usize % from.len()]
    }
}

fn mask(ty: ScalarType) -> u64 {
    u64::MAX >> (64 - ty.bits())
}

/// Numbers around which rounding, overflow, conversion and functions change.
const CORNERS: [f64; 48] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    -1.5,
    2.5,
    -2.5,
    3.0,
    -3.0,
    0.25,
    1e-3,
    -1e-3,
    5e-20,
    -7e-15,
    1e-40,
    -1e-45,
    1e-310,
    12.3,
    -12.3,
    -20.5,
    33.0,
    -33.0,
    88.0,
    89.5,
    -88.0,
    -104.0,
    127.5,
    255.5,
    -128.5,
    709.0,
    711.0,
    -746.0,
    32767.5,
    65504.0,
    65520.0,
    16_777_217.0,
    -2_147_483_648.5,
    2_147_483_648.0,
    4_294_967_296.0,
    9_223_372_036_854_775_808.0,
    -9_223_372_036_854_775_808.0,
    18_446_744_073_709_551_616.0,
    3.4e38,
    -1.7e308,
    1e30,
];

/// Codes of a type: all of a narrow one, else its corners and some at random.
fn codes(ty: ScalarType) -> Vec<u64> {
    if ty == ScalarType::Bool {
        return vec![0, 1];
    }
    if ty.bits() <= 8 {
        return (0..=mask(ty)).collect();
    }
    let mut random = Random(u64::from(ty.bits()) | 1);
    let mut codes: Vec<u64> = Vec::new();
    if ty.is_float() {
        codes.extend(CORNERS.map(|v| ty.encode(v)));
        codes.extend([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(|v| ty.encode(v)));
        // The least subnormal and normal, the greatest, and their neighbours.
        let infinity = ty.encode(f64::INFINITY);
        codes.extend([1, 2, infinity - 1, infinity - 2].map(|c| c & mask(ty)));
        codes.extend((0..40).map(|_| ty.encode((random.next() >> 40) as f64 / 524_288.0 - 16.0)));
        codes.extend((0..40).map(|_| random.next() & mask(ty)));
    } else {
        let top = 1u64 << (ty.bits() - 1);
        let small = [0u64, 1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 100, u64::from(ty.bits()), top];
        codes.extend(small.iter().flat_map(|&c| [c, c.wrapping_neg(), top.wrapping_sub(c)]));
        codes.extend((0..40).map(|_| random.next()));
        codes.iter_mut().for_each(|c| *c &= mask(ty));
    }
    codes
}

/// A selection of at most `n` codes that has the corners.
fn some_codes(ty: ScalarType, n: usize) -> Vec<u64> {
    let all = codes(ty);
    let corners = (n - n / 4).min(all.len());
    let mut random = Random(99);
    let mut some: Vec<u64> = match ty.bits() {
        0..=8 => (0..corners).map(|_| random.pick(&all)).collect(),
        _ if ty.is_float() => all[..corners.min(55)].to_vec(),
        _ => all[..corners].to_vec(),
    };
    while some.len() < n {
        some.push(random.pick(&all));
    }
    some
}

fn dense(ty: ScalarType, codes: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; ty.bytes_for(codes.len() as u64) as usize];
    codes.iter().enumerate().for_each(|(i, &c)| pack::set(&mut bytes, ty, i, c));
    bytes
}

/// A module with one parameter for each type and the results of `build`.
fn module(types: &[TensorType], op: &Op) -> Option<Module> {
    let mut module = Module { name: "operator".into(), ..Module::default() };
    let mut b = FunctionBuilder::new(&mut module, "main");
    let args: Vec<_> = types.iter().map(|ty| b.param(ty.clone(), "")).collect();
    let y = b.emit(op.clone(), &args).ok()?;
    b.results(&[y]);
    let func = b.id();
    let inputs = (0..types.len()).map(|i| format!("x{i}")).collect();
    module.entries.push(Entry { name: "main".into(), func, inputs, outputs: vec!["y".into()] });
    Some(module)
}

/// Both results: the evaluator's and the machine's codes; `None` when the operator does not fit the types or is refused.
fn both(op: &Op, types: &[TensorType], inputs: &[Vec<u8>]) -> Option<(TensorType, Tensor, Tensor)> {
    let module = module(types, op)?;
    let tensors: Vec<Tensor> = types
        .iter()
        .zip(inputs)
        .map(|(ty, x)| Tensor::from_bytes(ty.clone(), x).expect("its size"))
        .collect();
    let mut want = eval(&module, module.entries[0].func, &tensors, Mode::Typed).expect("it evaluates");
    let target = target("mtia-300").expect("the default target");
    let generated = match lacuna_codegen::generate(&module, &target, &SecondaryMap::new()) {
        Ok(generated) => generated,
        Err(failures) => {
            assert!(failures.iter().all(|f| f.reason.len() > 10), "{op:?} is refused without a reason");
            return None;
        }
    };
    let machine = Machine::load(&generated.object).expect("a valid object loads");
    let bytes: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let outputs = match machine.run(&bytes, &RunOptions::default()).expect("inputs of the right size") {
        Outcome::Done { outputs, .. } => outputs,
        Outcome::Trap(trap) => panic!("{op:?}: {trap}"),
    };
    let want = want.pop()?;
    let got = Tensor::from_bytes(want.ty.clone(), &outputs[0]).expect("its size");
    Some((want.ty.clone(), want, got))
}

/// Position of a finite or infinite float among those of its type, -0 next to +0.
fn ordinal(ty: ScalarType, v: f64) -> i64 {
    let code = ty.encode(v) as i64;
    let sign = 1i64 << (ty.bits() - 1);
    if ty.bits() == 64 {
        if code < 0 { i64::MIN - code } else { code }
    } else if code & sign != 0 {
        -(code & !sign)
    } else {
        code
    }
}

fn agree(ty: ScalarType, want: f64, got: f64, scale: f64, tolerance: Tolerance) -> bool {
    if want.is_nan() || got.is_nan() {
        return want.is_nan() && got.is_nan();
    }
    match tolerance {
        Tolerance::Exact => want.to_bits() == got.to_bits(),
        Tolerance::Ulp(n) => ordinal(ty, want).abs_diff(ordinal(ty, got)) <= n,
        Tolerance::Relative(t) => {
            want == got
                || (want - got).abs() <= t * scale
                || ordinal(ty, want).abs_diff(ordinal(ty, got)) <= 1
        }
    }
}

/// Compares both meanings of an operator; whether it compiles.
fn check(
    op: &Op,
    types: &[TensorType],
    inputs: &[Vec<u64>],
    tolerance: Tolerance,
    wrong: &mut Vec<String>,
) -> bool {
    let scalar = |ty: &TensorType| ty.elem.scalar().expect("a scalar type");
    let bytes: Vec<Vec<u8>> = types.iter().zip(inputs).map(|(ty, codes)| dense(scalar(ty), codes)).collect();
    let Some((ty, want, got)) = both(op, types, &bytes) else { return false };
    let (elem, shape) = (scalar(&ty), ty.shape.clone());
    let line = types[0].shape.last().map_or(1, |&n| n as usize);
    let mut report = |i: usize, want: String, got: String| {
        let elementwise = types.iter().all(|ty| ty.shape == types[0].shape) && types[0].shape == shape;
        let operand = |(codes, ty): (&Vec<u64>, &TensorType)| scalar(ty).decode(codes[i]).to_string();
        let at: Vec<String> = match elementwise {
            true => inputs.iter().zip(types).map(operand).collect(),
            false => vec![format!("element {i} of {shape}")],
        };
        if wrong.len() < 60 {
            wrong.push(format!("{op:?} of {}: {got} instead of {want} at {}", types[0].elem, at.join(", ")));
        }
    };
    if elem.is_float() {
        let (want, got) = (want.to_f64(), got.to_f64());
        for (i, (&w, &g)) in want.iter().zip(got.iter()).enumerate() {
            let scale = line as f64 * 16.0;
            if !agree(elem, w, g, scale, tolerance) {
                report(i, format!("{w}"), format!("{g}"));
                break;
            }
        }
    } else {
        let (want, got) = (want.ints().expect("integers"), got.ints().expect("integers"));
        if let Some(i) = (0..want.len()).find(|&i| want[i] != got[i]) {
            report(i, want[i].to_string(), got[i].to_string());
        }
    }
    true
}

/// Element types that tensors of the compiler have.
fn types() -> impl Iterator<Item = ScalarType> {
    ScalarType::ALL.iter().copied()
}

fn vector(ty: ScalarType, n: usize) -> TensorType {
    TensorType::new(ty, vec![n as u64])
}

/// The bound of a function that is not exact: results of 16 bits are rounded from f32.
fn of_function(ty: ScalarType) -> Tolerance {
    Tolerance::Ulp(match ty {
        ScalarType::F32 => 2,
        _ => 1,
    })
}

fn is_exact(op: UnaryOp) -> bool {
    use UnaryOp as U;
    let exact =
        [U::Neg, U::Abs, U::Sign, U::Ceil, U::Floor, U::Round, U::Not, U::Sqrt, U::Recip, U::IsNan, U::IsInf];
    exact.contains(&op)
}

/// Fails with every disagreement, and where fewer pairs of operator and type compile than did.
fn finish(wrong: &[String], compiled: usize, least: usize) {
    assert!(wrong.is_empty(), "{} disagree:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compiled >= least, "only {compiled} of {least} compile");
}

#[test]
fn unary_operators() {
    let (mut wrong, mut compiled) = (Vec::new(), 0);
    for ty in types() {
        let codes = codes(ty);
        for &op in UnaryOp::ALL {
            let tolerance = if is_exact(op) { Tolerance::Exact } else { of_function(ty) };
            let types = [vector(ty, codes.len())];
            compiled += usize::from(check(
                &Op::Unary { op },
                &types,
                std::slice::from_ref(&codes),
                tolerance,
                &mut wrong,
            ));
        }
    }
    finish(&wrong, compiled, 300);
}

#[test]
fn binary_operators_and_relations() {
    let (mut wrong, mut compiled) = (Vec::new(), 0);
    for ty in types() {
        let some = some_codes(ty, 56);
        let n = some.len() * some.len();
        let a: Vec<u64> = some.iter().flat_map(|&x| vec![x; some.len()]).collect();
        let b: Vec<u64> = some.iter().copied().cycle().take(n).collect();
        let (types, inputs) = ([vector(ty, n), vector(ty, n)], [a, b]);
        for &op in BinaryOp::ALL {
            let tolerance =
                if op == BinaryOp::Pow && ty.is_float() { of_function(ty) } else { Tolerance::Exact };
            compiled += usize::from(check(&Op::Binary { op }, &types, &inputs, tolerance, &mut wrong));
        }
        for &op in CompareOp::ALL {
            compiled +=
                usize::from(check(&Op::Compare { op }, &types, &inputs, Tolerance::Exact, &mut wrong));
        }
        let flags: Vec<u64> = (0..n as u64).map(|i| u64::from(i % 3 == 0)).collect();
        let types = [vector(ScalarType::Bool, n), vector(ty, n), vector(ty, n)];
        let inputs = [flags, inputs[0].clone(), inputs[1].clone()];
        compiled += usize::from(check(&Op::Select {}, &types, &inputs, Tolerance::Exact, &mut wrong));
    }
    finish(&wrong, compiled, 300);
}

#[test]
fn casts_between_all_types() {
    let (mut wrong, mut compiled) = (Vec::new(), 0);
    let mut refused = BTreeSet::new();
    for from in types() {
        let codes = codes(from);
        for to in types() {
            for saturate in [true, false] {
                let (op, types) = (Op::Cast { to, saturate }, [vector(from, codes.len())]);
                match check(&op, &types, std::slice::from_ref(&codes), Tolerance::Exact, &mut wrong) {
                    true => compiled += 1,
                    false => {
                        refused.insert((from, to));
                    }
                }
            }
        }
    }
    finish(&wrong, compiled, 1000);
    assert!(refused.is_empty(), "{refused:?}");
}

/// Rows of values for reductions: moderate ones, and rows with one or two values that are not finite, or at the ends.
fn rows(ty: ScalarType, n_rows: usize, n: usize, wild: bool) -> Vec<u64> {
    let mut random = Random(n as u64 + 7);
    let (all, mut out) = (codes(ty), Vec::new());
    for row in 0..n_rows {
        let mut line: Vec<u64> = (0..n)
            .map(|_| match () {
                () if !ty.is_float() || wild => random.pick(&all),
                () => ty.encode((random.next() >> 40) as f64 / 8_388_608.0 - 1.0),
            })
            .collect();
        let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0];
        if ty.is_float() {
            for _ in 0..row % 3 {
                let at = random.next() as usize % n;
                line[at] = ty.encode(special[random.next() as usize % special.len()]);
            }
        }
        out.extend(line);
    }
    out
}

#[test]
fn reductions() {
    let (mut wrong, mut compiled) = (Vec::new(), 0);
    for ty in types() {
        for (n_rows, n) in [(9usize, 1usize), (7, 5), (12, 37)] {
            let shape = [TensorType::new(ty, vec![n_rows as u64, n as u64])];
            for axis in [0u8, 1] {
                for &op in ReduceOp::ALL {
                    let order = matches!(op, ReduceOp::Max | ReduceOp::Min) || !ty.is_float();
                    let tolerance = if order { Tolerance::Exact } else { Tolerance::Relative(1e-6) };
                    let values = rows(ty, n_rows, n, order);
                    let op = Op::Reduce { op, axes: vec![axis] };
                    compiled += usize::from(check(&op, &shape, &[values], tolerance, &mut wrong));
                }
                for (max, last) in [(false, false), (false, true), (true, false), (true, true)] {
                    let values = rows(ty, n_rows, n, n > 5);
                    let op = Op::ArgReduce { max, axis, last };
                    compiled += usize::from(check(&op, &shape, &[values], Tolerance::Exact, &mut wrong));
                }
                for k in [1, n as u64 / 2 + 1, n as u64] {
                    if axis == 1 && ty.bits() <= 32 {
                        let op = Op::Sort { k: k.min(n as u64), descending: k % 2 == 1 };
                        let values = rows(ty, n_rows, n, n > 5);
                        compiled += usize::from(check(&op, &shape, &[values], Tolerance::Exact, &mut wrong));
                    }
                }
                for op in [ReduceOp::Sum, ReduceOp::Prod] {
                    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
                        let tolerance =
                            if ty.is_float() { Tolerance::Relative(1e-6) } else { Tolerance::Exact };
                        let op = Op::Cumulate { op, axis, exclusive, reverse };
                        let values = rows(ty, n_rows, n, false);
                        compiled += usize::from(check(&op, &shape, &[values], tolerance, &mut wrong));
                    }
                }
            }
        }
    }
    finish(&wrong, compiled, 500);
}
