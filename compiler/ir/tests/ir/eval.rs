//! The evaluator against values computed by hand, operator by operator, and its speed on real sizes.

use lacuna_ir::eval::{EvalError, Mode, Tensor, eval, eval_all, eval_op};
use lacuna_ir::op::{BinaryOp, CompareOp, ContractMap, ConvAttrs, Real, ReduceOp, UnaryOp};
use lacuna_ir::{FunctionBuilder, Module, Op, Shape, TensorType};
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode};
use lacuna_isa::inst::Combine;

use ScalarType::{Bf16, Bool, E4M3, E5M2, F16, F32, F64, I4, I8, I32, I64, U4, U8, U64};

const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

fn t(elem: ScalarType, shape: &[u64], values: &[f64]) -> Tensor {
    Tensor::from_f64(elem, shape, values).expect("a sound tensor")
}

fn vector(elem: ScalarType, values: &[f64]) -> Tensor {
    t(elem, &[values.len() as u64], values)
}

fn i64s(values: &[i64]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor::from_bytes(TensorType::new(I64, [values.len() as u64].as_slice()), &bytes)
        .expect("a sound tensor")
}

/// Evaluates one operator in typed mode and compares bytes, so that NaN and -0 count.
#[track_caller]
fn check(op: Op, args: &[&Tensor], expect: &Tensor) {
    let got = eval_op(&Module::default(), &op, args, Mode::Typed).expect("evaluates");
    assert_eq!(got[0].ty, expect.ty, "{op:?}");
    assert_eq!(got[0].to_bytes(), expect.to_bytes(), "{op:?}: {:?} for {:?}", got[0].data, expect.data);
}

#[track_caller]
fn check_unary(op: UnaryOp, elem: ScalarType, x: &[f64], expect: &[f64]) {
    check(Op::Unary { op }, &[&vector(elem, x)], &vector(elem, expect));
}

#[track_caller]
fn check_binary(op: BinaryOp, elem: ScalarType, a: &[f64], b: &[f64], expect: &[f64]) {
    check(Op::Binary { op }, &[&vector(elem, a), &vector(elem, b)], &vector(elem, expect));
}

#[test]
fn unary_functions() {
    use UnaryOp::*;
    check_unary(Neg, F32, &[1.5, -0.0, INF], &[-1.5, 0.0, -INF]);
    check_unary(Neg, I8, &[1.0, -128.0], &[-1.0, -128.0]);
    check_unary(Neg, U8, &[1.0, 0.0], &[255.0, 0.0]);
    check_unary(Abs, F32, &[-2.0, -0.0, NAN], &[2.0, 0.0, NAN]);
    check_unary(Abs, I8, &[-3.0, -128.0], &[3.0, -128.0]);
    check_unary(Sign, F32, &[-2.0, -0.0, 7.0, NAN], &[-1.0, -0.0, 1.0, NAN]);
    check_unary(Sign, I32, &[-2.0, 0.0, 7.0], &[-1.0, 0.0, 1.0]);
    check_unary(Ceil, F32, &[1.25, -1.25], &[2.0, -1.0]);
    check_unary(Floor, F32, &[1.25, -1.25], &[1.0, -2.0]);
    check_unary(Round, F32, &[0.5, 1.5, -2.5, 2.6], &[0.0, 2.0, -2.0, 3.0]);
    check_unary(Not, Bool, &[0.0, 1.0], &[1.0, 0.0]);
    check_unary(Not, U8, &[0.0, 15.0], &[255.0, 240.0]);
    check_unary(Not, I32, &[0.0, 5.0], &[-1.0, -6.0]);
    check_unary(Exp, F32, &[0.0, 1.0, -INF], &[1.0, std::f64::consts::E, 0.0]);
    check_unary(Log, F64, &[1.0, 0.0, -1.0], &[0.0, -INF, NAN]);
    check_unary(Sqrt, F32, &[4.0, -1.0], &[2.0, NAN]);
    check_unary(Sqrt, I32, &[9.0, 8.0, -1.0], &[3.0, 2.0, 0.0]);
    check_unary(Recip, F32, &[4.0, 0.0, -0.0], &[0.25, INF, -INF]);
    check_unary(Sin, F64, &[0.0, 1.0], &[0.0, 0.841_470_984_807_896_5]);
    check_unary(Cos, F64, &[0.0, 1.0], &[1.0, 0.540_302_305_868_139_8]);
    check_unary(Tan, F64, &[0.0, 1.0], &[0.0, 1.557_407_724_654_902_3]);
    check_unary(Asin, F32, &[1.0], &[std::f64::consts::FRAC_PI_2]);
    check_unary(Acos, F32, &[-1.0], &[std::f64::consts::PI]);
    check_unary(Atan, F32, &[1.0], &[std::f64::consts::FRAC_PI_4]);
    check_unary(Sinh, F32, &[1.0], &[1.175_201_193_643_801_4]);
    check_unary(Cosh, F32, &[1.0], &[1.543_080_634_815_243_7]);
    check_unary(Tanh, F32, &[1.0, INF], &[0.761_594_155_955_764_9, 1.0]);
    check_unary(Asinh, F32, &[1.0], &[0.881_373_587_019_543]);
    check_unary(Acosh, F32, &[2.0], &[1.316_957_896_924_816_6]);
    check_unary(Atanh, F32, &[0.5, 1.0], &[0.549_306_144_334_054_9, INF]);
    check_unary(Erf, F32, &[0.5, -INF], &[0.520_499_877_813_046_5, -1.0]);
    check_unary(Sigmoid, F32, &[0.0, 1.0, -1000.0], &[0.5, 0.731_058_578_630_004_9, 0.0]);
    check_unary(Expm1, F32, &[-0.0, 1e-20, 1.0, -INF], &[-0.0, 1e-20, 1.718_281_828_459_045, -1.0]);
    check_unary(Log1p, F32, &[-0.0, 1e-20, 1.0, -1.0], &[-0.0, 1e-20, std::f64::consts::LN_2, -INF]);
    check_unary(NormCdf, F32, &[0.0, -10.0, INF, -INF], &[0.5, 7.619_853_024_160_526e-24, 1.0, 0.0]);
    check(Op::Unary { op: IsNan }, &[&vector(F32, &[NAN, 1.0])], &vector(Bool, &[1.0, 0.0]));
    check(Op::Unary { op: IsInf }, &[&vector(F32, &[-INF, 1.0])], &vector(Bool, &[1.0, 0.0]));
    check(Op::Unary { op: IsNan }, &[&vector(I32, &[1.0])], &vector(Bool, &[0.0]));
    assert_eq!(UnaryOp::ALL.len(), 30, "every function has a row above");
}

#[test]
fn binary_functions() {
    use BinaryOp::*;
    check_binary(Add, F32, &[1.0, INF], &[f64::from(f32::EPSILON) / 2.0, -INF], &[1.0, NAN]);
    check_binary(Add, F16, &[2048.0], &[1.0], &[2048.0]);
    check_binary(Add, I8, &[127.0], &[1.0], &[-128.0]);
    check_binary(Add, Bool, &[1.0, 0.0], &[1.0, 0.0], &[1.0, 0.0]);
    check_binary(Sub, U8, &[1.0], &[2.0], &[255.0]);
    check_binary(Mul, I32, &[65536.0, -3.0], &[65536.0, 5.0], &[0.0, -15.0]);
    check_binary(Div, F32, &[1.0, 0.0], &[0.0, 0.0], &[INF, NAN]);
    check_binary(Div, I32, &[7.0, -7.0, 7.0], &[2.0, 2.0, 0.0], &[3.0, -3.0, 0.0]);
    check_binary(Div, I8, &[-128.0], &[-1.0], &[-128.0]);
    check_binary(Mod, F32, &[5.5, -5.5, 5.5, -4.0], &[2.0, 2.0, -2.0, 2.0], &[1.5, 0.5, -0.5, 0.0]);
    check_binary(Mod, I32, &[5.0, -5.0, 5.0, 5.0], &[3.0, 3.0, -3.0, 0.0], &[2.0, 1.0, -1.0, 0.0]);
    check_binary(Rem, F32, &[5.5, -5.5], &[2.0, 2.0], &[1.5, -1.5]);
    check_binary(Rem, I32, &[-5.0, 5.0], &[3.0, 0.0], &[-2.0, 0.0]);
    check_binary(Pow, F32, &[2.0, -1.0, 4.0], &[10.0, 0.5, 0.5], &[1024.0, NAN, 2.0]);
    check_binary(
        Pow,
        I32,
        &[3.0, 2.0, -1.0, 2.0, 0.0],
        &[4.0, 40.0, -3.0, -1.0, 0.0],
        &[81.0, 0.0, -1.0, 0.0, 1.0],
    );
    check_binary(Min, F32, &[1.0, NAN, 0.0], &[2.0, 1.0, -0.0], &[1.0, NAN, -0.0]);
    check_binary(Max, F32, &[1.0, 1.0, -0.0], &[2.0, NAN, 0.0], &[2.0, NAN, 0.0]);
    check_binary(Max, I8, &[-1.0], &[1.0], &[1.0]);
    check_binary(And, U8, &[12.0], &[10.0], &[8.0]);
    check_binary(Or, U8, &[12.0], &[10.0], &[14.0]);
    check_binary(Xor, I8, &[-1.0], &[10.0], &[-11.0]);
    check_binary(Shl, U8, &[129.0, 1.0, 1.0], &[1.0, 7.0, 8.0], &[2.0, 128.0, 0.0]);
    check_binary(Shr, I8, &[-128.0, -1.0, 1.0], &[1.0, 8.0, -1.0], &[64.0, 0.0, 0.0]);
    // A u64 beyond i64 keeps its order and its quotient.
    let big = Tensor::from_bytes(TensorType::new(U64, [1].as_slice()), &[0xFF; 8]).expect("8 bytes");
    let two = vector(U64, &[2.0]);
    let half = i64s(&[i64::MAX]);
    let quotient = eval_op(&Module::default(), &Op::Binary { op: Div }, &[&big, &two], Mode::Typed).unwrap();
    assert_eq!(quotient[0].to_bytes(), half.to_bytes());
    check(Op::Compare { op: CompareOp::Lt }, &[&two, &big], &vector(Bool, &[1.0]));
}

#[test]
fn compare_select_cast() {
    let (a, b) = (vector(F32, &[1.0, 2.0, NAN, 0.0]), vector(F32, &[2.0, 2.0, NAN, -0.0]));
    check(Op::Compare { op: CompareOp::Eq }, &[&a, &b], &vector(Bool, &[0.0, 1.0, 0.0, 1.0]));
    check(Op::Compare { op: CompareOp::Lt }, &[&a, &b], &vector(Bool, &[1.0, 0.0, 0.0, 0.0]));
    check(Op::Compare { op: CompareOp::Le }, &[&a, &b], &vector(Bool, &[1.0, 1.0, 0.0, 1.0]));
    let c = vector(Bool, &[1.0, 0.0, 1.0, 0.0]);
    check(Op::Select {}, &[&c, &a, &b], &vector(F32, &[1.0, 2.0, NAN, -0.0]));

    let cast = |to, saturate, x: &Tensor, expect: &[f64]| {
        check(Op::Cast { to, saturate }, &[x], &vector(to, expect))
    };
    cast(I8, true, &vector(F32, &[1.9, -1.9, 300.0, -INF, NAN]), &[1.0, -1.0, 127.0, -128.0, 0.0]);
    cast(Bool, true, &vector(F32, &[0.0, -0.0, 0.1, NAN]), &[0.0, 0.0, 1.0, 1.0]);
    cast(U8, true, &vector(I32, &[256.0, -1.0]), &[0.0, 255.0]);
    cast(F16, true, &vector(F32, &[1e9, 2049.0]), &[INF, 2048.0]);
    cast(E4M3, true, &vector(F32, &[1e9, 464.0, 465.0, -INF]), &[448.0, 448.0, 448.0, -448.0]);
    cast(E4M3, false, &vector(F32, &[464.0, 465.0, -INF]), &[448.0, NAN, NAN]);
    cast(E5M2, true, &vector(F32, &[INF, 61440.0]), &[57344.0, 57344.0]);
    let overflow = eval_op(
        &Module::default(),
        &Op::Cast { to: E5M2, saturate: false },
        &[&vector(F32, &[-INF, 61440.0, 61439.0])],
        Mode::Typed,
    );
    assert_eq!(overflow.unwrap()[0].floats(), Some([-INF, INF, 57344.0].as_slice()));
    // One rounding: 2^24 + 1 + 2^-40 is above the tie, 2^62 + 2^38 + 1 too.
    cast(F32, true, &vector(F64, &[16_777_217.0 + 2f64.powi(-20)]), &[16_777_218.0]);
    let above_tie = i64s(&[(1 << 62) + (1 << 38) + 1, -(1 << 62) - (1 << 38) - 1]);
    let expect = 2f64.powi(62) + 2f64.powi(39);
    cast(F32, true, &above_tie, &[expect, -expect]);
}

#[test]
fn movement() {
    let x = t(F32, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    check(Op::Reshape { shape: Shape(vec![3, 2]) }, &[&x], &t(F32, &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    check(Op::Permute { perm: vec![1, 0] }, &[&x], &t(F32, &[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
    check(
        Op::Broadcast { dims: vec![1], shape: Shape(vec![2, 2, 2]) },
        &[&vector(I32, &[1.0, 2.0])],
        &t(I32, &[2, 2, 2], &[1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]),
    );
    check(
        Op::Broadcast { dims: vec![0], shape: Shape(vec![3]) },
        &[&vector(F32, &[7.0])],
        &vector(F32, &[7.0; 3]),
    );
    check(
        Op::Slice { starts: vec![1, 2], shape: Shape(vec![1, 2]), steps: vec![5, -2] },
        &[&x],
        &t(F32, &[1, 2], &[6.0, 4.0]),
    );
    check(
        Op::Pad { low: vec![0, 1], high: vec![1, 0] },
        &[&x, &t(F32, &[], &[9.0])],
        &t(F32, &[3, 4], &[9.0, 1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0, 9.0, 9.0, 9.0, 9.0]),
    );
    check(
        Op::Concat { axis: 1 },
        &[&x, &t(F32, &[2, 1], &[7.0, 8.0])],
        &t(F32, &[2, 4], &[1.0, 2.0, 3.0, 7.0, 4.0, 5.0, 6.0, 8.0]),
    );
    check(
        Op::Window { axes: vec![1], sizes: vec![2], strides: vec![1], dilations: vec![1] },
        &[&x],
        &t(F32, &[2, 2, 2], &[1.0, 2.0, 2.0, 3.0, 4.0, 5.0, 5.0, 6.0]),
    );
    check(
        Op::Window { axes: vec![0], sizes: vec![2], strides: vec![2], dilations: vec![2] },
        &[&vector(I32, &[0.0, 1.0, 2.0, 3.0, 4.0])],
        &t(I32, &[2, 2], &[0.0, 2.0, 2.0, 4.0]),
    );
    check(
        Op::Iota { elem: I64, shape: Shape(vec![2, 2]), axis: 1 },
        &[],
        &t(I64, &[2, 2], &[0.0, 1.0, 0.0, 1.0]),
    );
    check(
        Op::Iota { elem: I4, shape: Shape(vec![10]), axis: 0 },
        &[],
        &vector(I4, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0]),
    );
    // Dimensions of size 0 are legal everywhere.
    let empty = t(F32, &[0, 3], &[]);
    check(Op::Permute { perm: vec![1, 0] }, &[&empty], &t(F32, &[3, 0], &[]));
    check(
        Op::Pad { low: vec![1, 0], high: vec![0, 0] },
        &[&empty, &t(F32, &[], &[5.0])],
        &t(F32, &[1, 3], &[5.0; 3]),
    );
    check(Op::Slice { starts: vec![2, 0], shape: Shape(vec![0, 3]), steps: vec![1, 1] }, &[&x], &empty);
}

#[test]
fn gathers() {
    let x = t(F32, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    check(
        Op::Gather { axis: 1, batch: 0 },
        &[&x, &t(I32, &[2, 2], &[2.0, 0.0, 1.0, 1.0])],
        &t(F32, &[2, 2, 2], &[3.0, 1.0, 2.0, 2.0, 6.0, 4.0, 5.0, 5.0]),
    );
    check(
        Op::Gather { axis: 1, batch: 1 },
        &[&x, &t(I64, &[2, 1], &[2.0, 0.0])],
        &t(F32, &[2, 1], &[3.0, 4.0]),
    );
    // Rows keep their groups, whose axis moves with the dimensions of the indices.
    let mode = ScaleMode::Floor;
    let quantise = |x: &Tensor, axis| {
        let op = Op::MxQuantize { format: GroupFormat::MXFP8, axis, mode };
        eval_op(&Module::default(), &op, &[x], Mode::Typed).expect("quantises").remove(0)
    };
    let table = t(F32, &[3, 2, 2], &(0..12).map(|i| f64::from(i * i)).collect::<Vec<_>>());
    for axis in [1, 2] {
        let indices = t(I32, &[2, 1], &[2.0, 0.0]);
        let gather = |x: &Tensor| {
            let op = Op::Gather { axis: 0, batch: 0 };
            eval_op(&Module::default(), &op, &[x, &indices], Mode::Typed).expect("gathers").remove(0)
        };
        let (first, last) = (gather(&quantise(&table, axis)), quantise(&gather(&table), axis + 1));
        assert_eq!(first, last, "groups along {axis}");
    }
    for index in [-1.0, 3.0] {
        let outside = eval_op(
            &Module::default(),
            &Op::Gather { axis: 1, batch: 0 },
            &[&x, &vector(I64, &[index])],
            Mode::Typed,
        );
        assert_eq!(outside.err(), Some(EvalError::Index { index: index as i64, extent: 3 }));
    }
}

#[test]
fn reductions() {
    use ReduceOp::*;
    let x = t(F32, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let reduce = |op, axes: &[u8]| Op::Reduce { op, axes: axes.to_vec() };
    check(reduce(Sum, &[1]), &[&x], &vector(F32, &[6.0, 15.0]));
    check(reduce(Mean, &[0]), &[&x], &vector(F32, &[2.5, 3.5, 4.5]));
    check(reduce(Prod, &[0, 1]), &[&x], &t(F32, &[], &[720.0]));
    check(reduce(Max, &[1]), &[&x], &vector(F32, &[3.0, 6.0]));
    check(reduce(Min, &[0]), &[&vector(F32, &[1.0, NAN])], &t(F32, &[], &[NAN]));
    check(reduce(Sum, &[0]), &[&vector(I8, &[127.0, 1.0])], &t(I8, &[], &[-128.0]));
    check(reduce(Mean, &[0]), &[&vector(I8, &[127.0, 126.0])], &t(I8, &[], &[126.0]));
    check(reduce(Max, &[0]), &[&vector(I8, &[])], &t(I8, &[], &[-128.0]));
    check(reduce(Max, &[0]), &[&vector(F32, &[])], &t(F32, &[], &[-INF]));
    check(reduce(Mean, &[0]), &[&vector(F32, &[])], &t(F32, &[], &[NAN]));
    check(reduce(Sum, &[0]), &[&vector(F32, &[16_777_216.0, 1.0, 1.0])], &t(F32, &[], &[16_777_218.0]));

    let arg = |max, last| Op::ArgReduce { max, axis: 0, last };
    let y = vector(F32, &[1.0, 3.0, 3.0, 1.0]);
    for (max, last, expect) in
        [(true, false, 1.0), (true, true, 2.0), (false, false, 0.0), (false, true, 3.0)]
    {
        check(arg(max, last), &[&y], &t(I64, &[], &[expect]));
    }
    check(arg(true, false), &[&vector(F32, &[1.0, NAN, 3.0])], &t(I64, &[], &[1.0]));

    let sort = |k, descending| Op::Sort { k, descending };
    let y = vector(F32, &[-0.0, NAN, 0.0, -INF, 2.0, NAN, INF]);
    check(sort(7, false), &[&y], &vector(I64, &[3.0, 0.0, 2.0, 4.0, 6.0, 1.0, 5.0]));
    check(sort(5, true), &[&y], &vector(I64, &[1.0, 5.0, 6.0, 4.0, 0.0]));
    check(
        sort(2, true),
        &[&t(U8, &[2, 3], &[1.0, 255.0, 255.0, 3.0, 2.0, 1.0])],
        &t(I64, &[2, 2], &[1.0, 2.0, 0.0, 1.0]),
    );
    check(sort(0, true), &[&vector(I8, &[1.0])], &vector(I64, &[]));

    let rows = t(F32, &[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let fresh = t(F32, &[1, 3, 2], &[5.0, NAN, 6.0, -7.0, 0.5, 8.0]);
    let at = t(I32, &[1, 3], &[1.0, 0.0, 1.0]);
    for (combine, expect) in [
        (Combine::Replace, [6.0, -7.0, 0.5, 8.0]),
        (Combine::Add, [7.0, -5.0, 8.5, NAN]),
        (Combine::Mul, [6.0, -14.0, 7.5, NAN]),
        (Combine::Min, [1.0, -7.0, 0.5, NAN]),
        (Combine::Max, [6.0, 2.0, 5.0, NAN]),
    ] {
        check(Op::Scatter { combine }, &[&rows, &at, &fresh], &t(F32, &[1, 2, 2], &expect));
    }

    let z = vector(I32, &[1.0, 2.0, 3.0]);
    let cumulate = |op, exclusive, reverse| Op::Cumulate { op, axis: 0, exclusive, reverse };
    check(cumulate(Sum, false, false), &[&z], &vector(I32, &[1.0, 3.0, 6.0]));
    check(cumulate(Sum, true, false), &[&z], &vector(I32, &[0.0, 1.0, 3.0]));
    check(cumulate(Sum, true, true), &[&z], &vector(I32, &[5.0, 3.0, 0.0]));
    check(cumulate(Prod, false, true), &[&z], &vector(I32, &[6.0, 6.0, 3.0]));
    let axis0 = Op::Cumulate { op: Sum, axis: 0, exclusive: false, reverse: false };
    check(axis0, &[&x], &t(F32, &[2, 3], &[1.0, 2.0, 3.0, 5.0, 7.0, 9.0]));
}

#[test]
fn contractions() {
    let a = t(F32, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let b = t(F32, &[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let contract = |map: &str, elem| Op::Contract { map: ContractMap::parse(map).unwrap(), elem };
    check(contract("mk,kn->mn", F32), &[&a, &b], &t(F32, &[2, 2], &[4.0, 5.0, 10.0, 11.0]));
    check(contract("mk,kn->nm", F32), &[&a, &b], &t(F32, &[2, 2], &[4.0, 10.0, 5.0, 11.0]));
    check(contract("mk,nk->mn", F32), &[&a, &a], &t(F32, &[2, 2], &[14.0, 32.0, 32.0, 77.0]));
    check(contract("bk,bk->b", F32), &[&a, &a], &vector(F32, &[14.0, 77.0]));
    check(
        contract("a,b->ba", F32),
        &[&vector(F32, &[1.0, 2.0]), &vector(F32, &[3.0])],
        &t(F32, &[1, 2], &[3.0, 6.0]),
    );
    check(
        contract("mk,kn->mn", F32),
        &[&t(F32, &[2, 0], &[]), &t(F32, &[0, 1], &[])],
        &t(F32, &[2, 1], &[0.0; 2]),
    );
    check(
        contract("k,k->", I32),
        &[&vector(I8, &[127.0; 3]), &vector(I8, &[127.0; 3])],
        &t(I32, &[], &[48387.0]),
    );
    check(contract("k,k->", I8), &[&vector(I8, &[127.0; 3]), &vector(I8, &[127.0; 3])], &t(I8, &[], &[3.0]));
    // One rounding at the end: f32 accumulation would lose both ones.
    let big = vector(F32, &[16_777_216.0, 1.0, 1.0]);
    check(contract("k,k->", F32), &[&big, &vector(F32, &[1.0; 3])], &t(F32, &[], &[16_777_218.0]));
    check(
        contract("k,k->", Bf16),
        &[&vector(F32, &[1.0, 1.0]), &vector(F32, &[256.0, 1.0])],
        &t(Bf16, &[], &[256.0]),
    );
}

fn conv_attrs(spatial: usize) -> ConvAttrs {
    let dims: Vec<u8> = (0..spatial as u8 + 2).collect();
    ConvAttrs {
        x: dims.clone(),
        w: dims.clone(),
        out: dims,
        strides: vec![1; spatial],
        dilations: vec![1; spatial],
        x_dilations: vec![1; spatial],
        low: vec![0; spatial],
        high: vec![0; spatial],
        groups: 1,
    }
}

#[test]
fn convolutions() {
    let x = t(F32, &[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let w = t(F32, &[1, 1, 3], &[1.0, 10.0, 100.0]);
    let check = |attrs: ConvAttrs, x: &Tensor, w: &Tensor, expect: Tensor| {
        check(Op::Conv { attrs, elem: F32 }, &[x, w], &expect);
    };
    check(conv_attrs(1), &x, &w, t(F32, &[1, 1, 2], &[321.0, 432.0]));
    let padded = ConvAttrs { low: vec![1], high: vec![1], ..conv_attrs(1) };
    check(padded.clone(), &x, &w, t(F32, &[1, 1, 4], &[210.0, 321.0, 432.0, 43.0]));
    check(ConvAttrs { strides: vec![2], ..padded.clone() }, &x, &w, t(F32, &[1, 1, 2], &[210.0, 432.0]));
    check(ConvAttrs { dilations: vec![2], ..padded.clone() }, &x, &w, t(F32, &[1, 1, 2], &[420.0, 31.0]));
    let spread = ConvAttrs { x_dilations: vec![2], ..conv_attrs(1) };
    check(spread, &x, &w, t(F32, &[1, 1, 5], &[201.0, 20.0, 302.0, 30.0, 403.0]));
    let cropped = ConvAttrs { low: vec![-1], ..conv_attrs(1) };
    check(cropped, &x, &w, t(F32, &[1, 1, 1], &[432.0]));
    // Two groups, channels last, output channels first.
    let x2 = t(F32, &[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let w2 = t(F32, &[2, 1, 1], &[10.0, 100.0]);
    let last = ConvAttrs { x: vec![0, 2, 1], out: vec![1, 0, 2], groups: 2, ..conv_attrs(1) };
    check(last, &x2, &w2, t(F32, &[2, 1, 2], &[10.0, 30.0, 200.0, 400.0]));
    let plane = t(F32, &[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let kernel = t(F32, &[1, 1, 2, 2], &[1.0, 10.0, 100.0, 1000.0]);
    let attrs = ConvAttrs { low: vec![1, 0], high: vec![0, 1], ..conv_attrs(2) };
    check(attrs, &plane, &kernel, t(F32, &[1, 1, 2, 2], &[2100.0, 200.0, 4321.0, 402.0]));
    check(
        conv_attrs(0),
        &t(F32, &[1, 2], &[1.0, 2.0]),
        &t(F32, &[1, 2], &[3.0, 4.0]),
        t(F32, &[1, 1], &[11.0]),
    );
}

#[test]
fn softmax_and_norm() {
    let ln2 = std::f64::consts::LN_2;
    let x = t(F64, &[1, 2], &[0.0, -INF]);
    check(Op::Softmax { axis: 1, log: false }, &[&x], &t(F64, &[1, 2], &[1.0, 0.0]));
    check(
        Op::Softmax { axis: 0, log: true },
        &[&vector(F32, &[1000.0, 1000.0])],
        &vector(F32, &[-ln2, -ln2]),
    );
    check(Op::Softmax { axis: 0, log: false }, &[&vector(F32, &[-INF, -INF])], &vector(F32, &[NAN, NAN]));
    check(
        Op::Softmax { axis: 0, log: false },
        &[&t(F32, &[2, 1], &[ln2, 0.0])],
        &t(F32, &[2, 1], &[2.0 / 3.0, 1.0 / 3.0]),
    );
    let norm = |axes: &[u8], centre, eps| Op::Norm { axes: axes.to_vec(), centre, eps: Real(eps) };
    check(norm(&[0], true, 0.0), &[&vector(F32, &[1.0, 3.0])], &vector(F32, &[-1.0, 1.0]));
    check(
        norm(&[0], false, 0.5),
        &[&vector(F32, &[1.0, -2.0]), &vector(F32, &[3f64.sqrt(), 0.0])],
        &vector(F32, &[1.0, -0.0]),
    );
    check(
        norm(&[0], true, 0.0),
        &[&t(F32, &[2, 2], &[1.0, 0.0, 3.0, 4.0]), &vector(F32, &[2.0, 3.0]), &vector(F32, &[10.0, 20.0])],
        &t(F32, &[2, 2], &[8.0, 8.0, 23.0, 23.0]),
    );
}

#[test]
fn groups_quantise_move_and_contract() {
    for format in
        [GroupFormat::MXFP8, GroupFormat::MXFP4_G16, GroupFormat::MX9, GroupFormat::MX6, GroupFormat::MX4]
    {
        check_groups(format);
    }
}

/// Values that every group format holds exactly.
fn check_groups(format: GroupFormat) {
    let values: Vec<f64> = (0..40).map(|i| f64::from(i % 5) - 2.0).collect();
    let x = t(F32, &[2, 40], &[values.clone(), values.clone()].concat());
    let module = Module::default();
    let run = |op: Op, args: &[&Tensor]| eval_op(&module, &op, args, Mode::Typed).unwrap().remove(0);
    let q = run(Op::MxQuantize { format, axis: 1, mode: ScaleMode::Floor }, &[&x]);
    assert_eq!(q.ty, TensorType::grouped(format, 1, [2, 40].as_slice()));
    let n_groups = 2 * 40u64.div_ceil(format.size.into());
    assert_eq!(q.to_bytes().len() as u64, format.element.bytes_for(80) + format.scale_bytes(n_groups));
    assert_eq!(Tensor::from_bytes(q.ty.clone(), &q.to_bytes()).unwrap(), q);
    let decode = |x: &Tensor| run(Op::MxDecode { to: F32 }, &[x]);
    assert_eq!(decode(&q), x, "small integers are exact in {format}");
    let transposed = run(Op::Permute { perm: vec![1, 0] }, &[&q]);
    assert_eq!(transposed.ty, TensorType::grouped(format, 0, [40, 2].as_slice()));
    assert_eq!(decode(&transposed), run(Op::Permute { perm: vec![1, 0] }, &[&x]));
    let row = Op::Slice { starts: vec![1, 0], shape: Shape(vec![1, 40]), steps: vec![1, 1] };
    let sliced = run(row.clone(), &[&q]);
    assert_eq!(decode(&sliced), run(row, &[&x]));
    let wide = Op::Broadcast { dims: vec![1, 2], shape: Shape(vec![3, 2, 40]) };
    assert_eq!(decode(&run(wide.clone(), &[&q])), run(wide, &[&x]));
    let dot = Op::Contract { map: ContractMap::parse("mk,nk->mn").unwrap(), elem: F32 };
    assert_eq!(run(dot.clone(), &[&q, &q]), run(dot, &[&x, &x]));
    // Two groups of different scales in one lane, and the same along an outer axis.
    let spread: Vec<f64> = (0..33).map(|i| if i < 32 { 1.0 } else { 2f64.powi(60) }).collect();
    let y = t(F32, &[33, 1], &spread);
    assert_eq!(decode(&run(Op::MxQuantize { format, axis: 0, mode: ScaleMode::Floor }, &[&y])), y);
    let int8 = run(Op::MxQuantize { format: GroupFormat::MXINT8, axis: 0, mode: ScaleMode::Floor }, &[&y]);
    assert_eq!(decode(&int8), y);
}

/// Each block has its scale and zero, the last one is short; the difference and the product round to f32, the result to its type.
#[test]
fn blocks_share_scales_and_zeros() {
    let codes = t(U4, &[2, 5], &[0.0, 1.0, 2.0, 3.0, 15.0, 15.0, 8.0, 7.0, 0.0, 4.0]);
    let scales = t(F32, &[2, 3], &[1.0, 0.5, 2.0, -1.0, 10.0, 0.25]);
    let zeros = t(U4, &[2, 3], &[8.0, 0.0, 15.0, 7.0, 1.0, 0.0]);
    let op = |to: ScalarType| Op::Dequantize { blocks: vec![1, 2], to };
    let plain = [0.0, 1.0, 1.0, 1.5, 30.0, -15.0, -8.0, 70.0, 0.0, 1.0];
    check(op(F32), &[&codes, &scales], &t(F32, &[2, 5], &plain));
    let centred = [-8.0, -7.0, 1.0, 1.5, 0.0, -8.0, -1.0, 60.0, -10.0, 1.0];
    check(op(F32), &[&codes, &scales, &zeros], &t(F32, &[2, 5], &centred));
    let third = f64::from(1f32 / 3.0);
    let one = Op::Dequantize { blocks: vec![9], to: Bf16 };
    let (q, s) = (t(I8, &[2], &[3.0, -127.0]), t(F32, &[1], &[third]));
    check(one, &[&q, &s], &t(Bf16, &[2], &[1.0, -42.25]));
}

#[test]
fn bytes_round_trip_for_every_type() {
    for &elem in ScalarType::ALL {
        let ty = TensorType::new(elem, [3, 5].as_slice());
        let mut bytes: Vec<u8> = (0..ty.bytes()).map(|i| (i * 37 % 101) as u8).collect();
        if elem == Bool {
            bytes.iter_mut().for_each(|b| *b &= 1);
        }
        // Bits beyond the last element are not part of the value.
        let unused = (ty.bytes() * 8 - 15 * u64::from(elem.bits())) as u32;
        if let Some(last) = bytes.last_mut() {
            *last &= 0xFFu8.checked_shr(unused).unwrap_or(0);
        }
        let tensor = Tensor::from_bytes(ty.clone(), &bytes).unwrap();
        assert_eq!(tensor.to_bytes(), bytes, "{elem}");
        assert!(Tensor::from_bytes(ty, &bytes[1..]).is_err());
    }
}

#[test]
fn modes_differ_by_rounding_alone() {
    let mut module = Module::default();
    let mut b = FunctionBuilder::new(&mut module, "main");
    let x = b.param(TensorType::new(F16, [1].as_slice()), "x");
    let sum = b.binary(BinaryOp::Add, x, x).unwrap();
    let root = b.unary(UnaryOp::Sqrt, sum).unwrap();
    b.results(&[root, x]);
    let func = b.id();
    let input = [vector(F16, &[1.0])];
    let root_in = |mode| eval(&module, func, &input, mode).unwrap()[0].floats().unwrap()[0];
    assert_eq!(root_in(Mode::Real), 2f64.sqrt());
    assert_eq!(root_in(Mode::Typed), 1.4140625);
    let all = eval_all(&module, func, &input, Mode::Typed).unwrap();
    assert_eq!(all[sum], vector(F16, &[2.0]));
    assert!(matches!(eval(&module, func, &[], Mode::Typed), Err(EvalError::Input(_))));
    assert!(matches!(eval(&module, func, &[vector(F32, &[1.0])], Mode::Typed), Err(EvalError::Input(_))));
}

#[test]
fn calls_evaluate_and_recursion_ends() {
    let mut module = Module::default();
    let mut b = FunctionBuilder::new(&mut module, "double");
    let x = b.param(TensorType::new(F32, [2].as_slice()), "x");
    let y = b.binary(BinaryOp::Add, x, x).unwrap();
    b.results(&[y, x]);
    let double = b.id();
    let mut b = FunctionBuilder::new(&mut module, "main");
    let x = b.param(TensorType::new(F32, [2].as_slice()), "x");
    let first = b.emit_all(Op::Call { func: double }, &[x]).unwrap();
    let second = b.emit_all(Op::Call { func: double }, &[first[0]]).unwrap();
    b.results(&[second[0], first[1]]);
    let main = b.id();
    let input = [vector(F32, &[1.0, -3.0])];
    let out = eval(&module, main, &input, Mode::Typed).unwrap();
    assert_eq!(out, [vector(F32, &[4.0, -12.0]), vector(F32, &[1.0, -3.0])]);
    for node in module.functions[main].nodes.values_mut() {
        node.op = Op::Call { func: main };
    }
    assert_eq!(eval(&module, main, &input, Mode::Typed).err(), Some(EvalError::Depth));
}

#[test]
fn too_large_is_an_error() {
    let huge = Op::Iota { elem: I8, shape: Shape(vec![1 << 40]), axis: 0 };
    assert!(matches!(eval_op(&Module::default(), &huge, &[], Mode::Typed), Err(EvalError::TooLarge(_))));
}

#[test]
fn empty_tensors_with_huge_dimensions_take_no_time() {
    let huge = 1 << 40;
    let x = t(F32, &[huge, 0, 2], &[]);
    check(Op::Concat { axis: 1 }, &[&x, &x], &x);
    check(Op::Norm { axes: vec![1], centre: true, eps: Real(0.0) }, &[&x], &x);
    check(Op::Gather { axis: 1, batch: 0 }, &[&x, &vector(I32, &[])], &x);
    check(Op::Iota { elem: F32, shape: x.ty.shape.clone(), axis: 0 }, &[], &x);
    check(Op::Softmax { axis: 0, log: false }, &[&x], &x);
    let quantize = Op::MxQuantize { format: GroupFormat::MXFP4, axis: 1, mode: ScaleMode::Rceil };
    let q = eval_op(&Module::default(), &quantize, &[&x], Mode::Typed).unwrap();
    check(Op::MxDecode { to: F32 }, &[&q[0]], &x);
}

/// Layers of convolution nets and transformer layers must stay a matter of seconds.
#[test]
fn speed() {
    let ramp = |shape: &[u64]| {
        let n = shape.iter().product::<u64>();
        t(F32, shape, &(0..n).map(|i| (i % 13) as f64 - 6.0).collect::<Vec<_>>())
    };
    let start = std::time::Instant::now();
    let attrs = ConvAttrs { low: vec![1, 1], high: vec![1, 1], ..conv_attrs(2) };
    let conv = Op::Conv { attrs, elem: F32 };
    let module = Module::default();
    eval_op(&module, &conv, &[&ramp(&[90, 128, 8, 8]), &ramp(&[128, 128, 3, 3])], Mode::Typed).unwrap();
    let conv_time = start.elapsed();
    let start = std::time::Instant::now();
    let contract = Op::Contract { map: ContractMap::parse("mk,kn->mn").unwrap(), elem: F32 };
    eval_op(&module, &contract, &[&ramp(&[512, 1024]), &ramp(&[1024, 768])], Mode::Typed).unwrap();
    let contract_time = start.elapsed();
    println!("0.85 GMAC of conv in {conv_time:?}, 0.4 GMAC of contract in {contract_time:?}");
    assert!(conv_time.as_secs() < 20 && contract_time.as_secs() < 10);
}
