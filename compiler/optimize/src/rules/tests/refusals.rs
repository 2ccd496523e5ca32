//! Rules do not fire where they would be unsound or of no use; without its guard, a rule that has one does.

use lacuna_ir::op::{BinaryOp::*, Real, ReduceOp, UnaryOp};
use lacuna_ir::{Constant, ConstantData, Op, TensorType, Value};
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode};

mod attention;

use attention::ATTENTION;

use super::{everything, rules_of};
use crate::pattern::Pattern;
use crate::testing::{Lab, conv1d, fired, module, saturated};

/// What refuses.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// The guard alone.
    Guard,
    /// The construction of the right side, or the guard only saves that work.
    Shape,
}
use By::{Guard, Shape};

type Refusal = (&'static str, &'static str, By, fn(&mut Lab) -> Value);

fn int(l: &mut Lab, shape: &[u64]) -> Value {
    l.param_of(ScalarType::I32, shape)
}

/// An integer product scaled per column, or a product of scaled columns.
fn int_scaled(l: &mut Lab, after: bool, constant: usize) -> Value {
    let (x, w) = (int(l, &[2, 3]), l.int_konst(&[3, 4]));
    let contract = |l: &mut Lab, x: Value| match constant {
        0 => l.contract("jk,ij->ik", w, x),
        _ => l.contract("ij,jk->ik", x, w),
    };
    if after {
        let y = contract(l, x);
        let s = l.int_konst(&[4]);
        let s = l.broadcast(s, &[1], &[2, 4]);
        l.bin(Mul, y, s)
    } else {
        let s = l.int_konst(&[3]);
        let s = l.broadcast(s, &[1], &[2, 3]);
        let x = l.bin(Mul, x, s);
        contract(l, x)
    }
}

fn with_constant(l: &mut Lab, op: lacuna_ir::op::BinaryOp, value: f32) -> Value {
    let x = l.param(&[2, 3]);
    let c = l.splat(&[2, 3], value);
    l.bin(op, x, c)
}

fn slice(l: &mut Lab, x: Value, starts: [i64; 2], shape: [u64; 2]) -> Value {
    l.emit(Op::Slice { starts: starts.to_vec(), shape: shape[..].into(), steps: vec![1, 1] }, &[x])
}

const ALGEBRA: &[Refusal] = &[
    ("sub-constant", "integers", Guard, |l| {
        let (x, c) = (int(l, &[2, 3]), l.int_konst(&[2, 3]));
        l.bin(Sub, x, c)
    }),
    ("div-by-power-of-two", "integers", Guard, |l| {
        let (x, c) = (int(l, &[2, 3]), l.int_splat(&[2, 3], 2));
        l.bin(Div, x, c)
    }),
    ("div-by-power-of-two", "a rounded reciprocal", Guard, |l| with_constant(l, Div, 3.0)),
    ("div-by-power-of-two", "a reciprocal beyond the greatest number", Guard, |l| {
        with_constant(l, Div, 1e-45)
    }),
    ("div-by-power-of-two", "infinity", Guard, |l| with_constant(l, Div, f32::INFINITY)),
    ("div-by-power-of-two", "one element of another kind", Guard, |l| {
        let (x, c) = (l.param(&[3]), l.b.const_f32(vec![3], &[2.0, 3.0, 4.0]).unwrap());
        l.bin(Div, x, c)
    }),
    ("square-by-product", "a cube", Guard, |l| with_constant(l, Pow, 3.0)),
    ("square-by-product", "integers", Guard, |l| {
        let (x, c) = (int(l, &[4]), l.int_splat(&[4], 2));
        l.bin(Pow, x, c)
    }),
    ("add-nothing", "a positive zero, that takes the sign of -0", Guard, |l| with_constant(l, Add, 0.0)),
    ("add-zero", "another number", Guard, |l| with_constant(l, Add, 1.0)),
    ("add-zero", "a value that may be -0", Guard, |l| with_constant(l, Add, 0.0)),
    ("sub-zero", "a negative zero", Guard, |l| with_constant(l, Sub, -0.0)),
    ("mul-one", "another number", Guard, |l| with_constant(l, Mul, -1.0)),
    ("div-one", "another number", Guard, |l| with_constant(l, Div, -1.0)),
    ("contract-of-zeros", "not all zeros", Guard, |l| {
        let (x, w) = (l.param(&[2, 3]), l.nearly_zero(&[3, 4]));
        l.contract("ij,jk->ik", x, w)
    }),
    ("conv-of-zeros", "not all zeros", Guard, |l| {
        let (x, w) = (l.param(&[1, 2, 5]), l.nearly_zero(&[3, 2, 2]));
        l.emit(conv1d(0, 0, 1), &[x, w])
    }),
    ("cast-to-itself", "another type", Guard, |l| {
        let x = l.param(&[4]);
        l.emit(Op::Cast { to: ScalarType::Bf16, saturate: true }, &[x])
    }),
    ("unary-before-broadcast", "nothing repeats", Shape, |l| {
        let x = l.param(&[2, 3]);
        l.un(UnaryOp::Exp, x)
    }),
    ("cast-before-broadcast", "nothing repeats", Shape, |l| {
        let x = l.param(&[2, 3]);
        l.emit(Op::Cast { to: ScalarType::Bf16, saturate: true }, &[x])
    }),
    ("binary-before-broadcast", "one operand repeats nothing", Shape, |l| {
        let (x, y) = (l.param(&[2, 3]), l.param(&[3]));
        let y = l.broadcast(y, &[1], &[2, 3]);
        l.bin(Add, x, y)
    }),
];

const LAYOUT: &[Refusal] = &[
    ("permute-of-unit-dims", "other dimensions move", Shape, |l| {
        let x = l.param(&[2, 1, 3]);
        l.permute(x, &[2, 1, 0])
    }),
    ("permute-through-norm", "the mean would sum in another order", Shape, |l| {
        let x = l.param(&[2, 3, 4]);
        let y = l.emit(Op::Norm { axes: vec![1, 2], centre: true, eps: Real(1e-3) }, &[x]);
        l.permute(y, &[0, 2, 1])
    }),
    ("permute-through-reshape", "the reshape splits", Shape, |l| {
        let x = l.param(&[6, 2]);
        let y = l.reshape(x, &[2, 3, 2]);
        l.permute(y, &[1, 0, 2])
    }),
    ("broadcast-to-itself", "a repetition", Shape, |l| {
        let x = l.param(&[2, 1]);
        l.broadcast(x, &[0, 1], &[2, 3])
    }),
    ("broadcast-of-unit-dims", "a repetition", Shape, |l| {
        let x = l.param(&[2]);
        l.broadcast(x, &[0], &[2, 3])
    }),
    ("slice-of-all", "a part", Shape, |l| {
        let x = l.param(&[2, 3]);
        slice(l, x, [0, 1], [2, 2])
    }),
    ("slice-of-concat", "the slice straddles", Shape, |l| {
        let (x, y) = (l.param(&[2, 3]), l.param(&[2, 3]));
        let z = l.emit(Op::Concat { axis: 1 }, &[x, y]);
        slice(l, z, [0, 2], [2, 2])
    }),
];

const ABSORB: &[Refusal] = &[
    ("contract-absorbs-left-permute", "terms would be summed in another order", Guard, |l| {
        let (x, y) = (l.param(&[4, 2, 3]), l.param(&[3, 4, 2]));
        let x = l.permute(x, &[1, 2, 0]);
        l.contract("ijk,jkl->il", x, y)
    }),
    ("contract-without-unit-labels", "no unit dimension", Shape, |l| {
        let (x, y) = (l.param(&[2, 3]), l.param(&[3, 4]));
        l.contract("ij,jk->ik", x, y)
    }),
    ("contract-absorbs-left-broadcast", "the sum runs over the repetition", Shape, |l| {
        let (x, y) = (l.param(&[2]), l.param(&[3, 4]));
        let x = l.broadcast(x, &[0], &[2, 3]);
        l.contract("ij,jk->ik", x, y)
    }),
    ("contract-absorbs-right-broadcast", "the sum runs over the repetition", Shape, |l| {
        let (x, y) = (l.param(&[2, 3]), l.param(&[4]));
        let y = l.broadcast(y, &[1], &[3, 4]);
        l.contract("ij,jk->ik", x, y)
    }),
    ("contract-splits-left-label", "nothing repeats", Guard, |l| {
        let (x, y) = (l.param(&[2, 3, 4]), l.param(&[4, 5]));
        let x = l.reshape(x, &[6, 4]);
        l.contract("ij,jk->ik", x, y)
    }),
    ("contract-splits-right-label", "nothing repeats", Guard, |l| {
        let (x, y) = (l.param(&[5, 4]), l.param(&[2, 3, 4]));
        let y = l.reshape(y, &[6, 4]);
        l.contract("ij,kj->ik", x, y)
    }),
];

/// A convolution of integers.
fn int_conv(l: &mut Lab, x: Value) -> Value {
    let w = l.int_konst(&[3, 2, 2]);
    let Op::Conv { attrs, .. } = conv1d(0, 0, 1) else { return x };
    l.emit(Op::Conv { attrs, elem: ScalarType::I32 }, &[x, w])
}

/// A product by these weights, scaled in the way of an operator by these columns.
fn scaled(l: &mut Lab, op: lacuna_ir::op::BinaryOp, w: f32, s: &[f32]) -> Value {
    let (x, w) = (l.param(&[2, 3]), l.splat(&[3, s.len() as u64], w));
    let y = l.contract("ij,jk->ik", x, w);
    let s = l.b.const_f32(vec![s.len() as u64], s).unwrap();
    let shape = l.shape(y);
    let s = l.broadcast(s, &[1], &shape);
    l.bin(op, y, s)
}

/// A product by a constant, with a bias.
fn biased(l: &mut Lab, bias: f32) -> Value {
    let (x, w) = (l.param(&[2, 3]), l.konst(&[3, 4]));
    let y = l.contract("ij,jk->ik", x, w);
    let a = l.splat(&[2, 4], bias);
    l.bin(Add, y, a)
}

const FOLDING: &[Refusal] = &[
    ("scale-into-contract-right", "an infinite scale", Guard, |l| scaled(l, Mul, 1.0, &[1.0, f32::INFINITY])),
    ("scale-into-contract-right", "a scale of NaN", Guard, |l| scaled(l, Mul, 1.0, &[f32::NAN, 1.0])),
    ("scale-into-contract-right", "a quotient by infinity", Guard, |l| {
        scaled(l, Div, 1.0, &[1.0, f32::INFINITY])
    }),
    ("scale-into-contract-right", "a quotient by zero", Guard, |l| scaled(l, Div, 1.0, &[1.0, 0.0])),
    ("scale-into-contract-right", "a quotient by what has no reciprocal", Guard, |l| {
        scaled(l, Div, 1.0, &[1.0, 1e-40])
    }),
    ("scale-into-contract-right", "weights that overflow", Guard, |l| scaled(l, Mul, 1e30, &[1.0, 1e30])),
    ("scale-into-contract-right", "weights that vanish", Guard, |l| scaled(l, Mul, 1e-30, &[1.0, 1e-30])),
    ("scale-into-contract-right", "weights that lose bits", Guard, |l| scaled(l, Mul, 1e-20, &[1.0, 1e-19])),
    ("scale-into-contract-right", "a quotient that is rounded down", Guard, |l| {
        let y = scaled(l, Div, 1.0, &[7.0, 3.0]);
        l.un(UnaryOp::Floor, y)
    }),
    ("scale-into-contract-right", "a factor whose products become integers", Guard, |l| {
        let y = scaled(l, Mul, 1.0, &[0.1, 0.3]);
        l.emit(Op::Cast { to: ScalarType::I64, saturate: true }, &[y])
    }),
    ("scale-into-contract-right", "a factor whose products are compared", Guard, |l| {
        let y = scaled(l, Mul, 1.0, &[0.1, 0.3]);
        let c = l.konst(&[2, 2]);
        l.emit(Op::Compare { op: lacuna_ir::op::CompareOp::Lt }, &[y, c])
    }),
    ("scale-into-contract-right", "a quotient that becomes an integer", Guard, |l| {
        let y = scaled(l, Div, 1.0, &[7.0, 3.0]);
        let c = l.konst(&[2, 2]);
        let y = l.bin(Add, y, c);
        l.emit(Op::Cast { to: ScalarType::I32, saturate: true }, &[y])
    }),
    ("scale-out-of-contract-right", "an infinite scale", Guard, |l| {
        let (x, w) = (l.param(&[2, 3]), l.widened_konst(&[3, 4]));
        let s = l.splat(&[3, 4], f32::INFINITY);
        let w = l.bin(Mul, w, s);
        l.contract("ij,jk->ik", x, w)
    }),
    ("scale-out-of-contract-left", "an infinite scale", Guard, |l| {
        let (w, x) = (l.widened_konst(&[3, 4]), l.param(&[2, 3]));
        let s = l.splat(&[3, 4], f32::INFINITY);
        let w = l.bin(Mul, w, s);
        l.contract("jk,ij->ik", w, x)
    }),
    ("scale-out-of-conv", "an infinite scale", Guard, |l| {
        let (x, w) = (l.param(&[1, 2, 5]), l.widened_konst(&[3, 2, 2]));
        let s = l.splat(&[3, 2, 2], f32::INFINITY);
        let w = l.bin(Mul, w, s);
        l.emit(conv1d(0, 0, 1), &[x, w])
    }),
    ("scale-through-bias", "no contraction", Guard, |l| {
        let (x, a, b) = (l.param(&[4]), l.konst(&[4]), l.konst(&[4]));
        let y = l.bin(Add, x, a);
        l.bin(Mul, y, b)
    }),
    ("scale-through-bias", "a function of a contraction", Guard, |l| {
        let y = biased(l, 1.0);
        let (y, a, b) = (l.un(UnaryOp::Exp, y), l.konst(&[2, 4]), l.konst(&[2, 4]));
        let y = l.bin(Add, y, a);
        l.bin(Mul, y, b)
    }),
    ("scale-through-bias", "a bias that overflows", Guard, |l| {
        let (y, b) = (biased(l, 1e30), l.splat(&[2, 4], 1e30));
        l.bin(Mul, y, b)
    }),
    ("divide-sum", "no contraction", Guard, |l| with_constant(l, Div, 3.0)),
    ("divide-sum", "a comparison behind it", Guard, |l| {
        let (y, c) = (biased(l, 1.0), l.splat(&[2, 4], 3.0));
        let (y, z) = (l.bin(Div, y, c), l.konst(&[2, 4]));
        l.emit(Op::Compare { op: lacuna_ir::op::CompareOp::Eq }, &[y, z])
    }),
    ("add-biases", "no contraction", Guard, |l| {
        let (x, a, b) = (l.param(&[4]), l.konst(&[4]), l.konst(&[4]));
        let y = l.bin(Add, x, a);
        l.bin(Add, y, b)
    }),
    ("add-biases", "large numbers that cancel", Shape, |l| {
        let (y, b) = (biased(l, 12_582_912.0), l.splat(&[2, 4], -12_582_912.0));
        l.bin(Add, y, b)
    }),
    ("add-biases", "biases that overflow", Shape, |l| {
        let (y, b) = (biased(l, 3e38), l.splat(&[2, 4], 3e38));
        l.bin(Add, y, b)
    }),
    ("scale-into-conv", "integers", Guard, |l| {
        let x = int(l, &[1, 2, 5]);
        let y = int_conv(l, x);
        let (shape, s) = (l.shape(y), l.int_konst(&[3]));
        let s = l.broadcast(s, &[1], &shape);
        l.bin(Mul, y, s)
    }),
    ("input-scale-into-conv", "integers", Guard, |l| {
        let (x, s) = (int(l, &[1, 2, 5]), l.int_konst(&[2]));
        let s = l.broadcast(s, &[1], &[1, 2, 5]);
        let x = l.bin(Mul, x, s);
        int_conv(l, x)
    }),
    ("scale-into-conv", "the scale varies along positions", Shape, |l| {
        let (x, w) = (l.param(&[1, 2, 5]), l.konst(&[3, 2, 2]));
        let y = l.emit(conv1d(0, 0, 1), &[x, w]);
        let shape = l.shape(y);
        let s = l.channel(&shape, 2);
        l.bin(Mul, y, s)
    }),
    ("input-scale-into-conv", "the scale varies along positions", Shape, |l| {
        let (x, w) = (l.param(&[1, 2, 5]), l.konst(&[3, 2, 2]));
        let s = l.channel(&[1, 2, 5], 2);
        let x = l.bin(Mul, x, s);
        l.emit(conv1d(0, 0, 1), &[x, w])
    }),
    ("input-scale-into-conv", "channels in groups", Guard, |l| {
        // A scale of all channels would fit the channels of one group.
        let (x, w) = (l.param(&[1, 4, 5]), l.konst(&[4, 2, 2]));
        let s = l.splat(&[1, 4, 5], 2.0);
        let x = l.bin(Mul, x, s);
        l.emit(conv1d(0, 0, 2), &[x, w])
    }),
    ("scale-into-contract-right", "integers", Guard, |l| int_scaled(l, true, 1)),
    ("scale-into-contract-left", "integers", Guard, |l| int_scaled(l, true, 0)),
    ("input-scale-into-contract-right", "integers", Guard, |l| int_scaled(l, false, 1)),
    ("input-scale-into-contract-left", "integers", Guard, |l| int_scaled(l, false, 0)),
    ("scale-into-contract-right", "the scale varies along rows", Shape, |l| {
        let (x, w) = (l.param(&[2, 3]), l.konst(&[3, 4]));
        let y = l.contract("ij,jk->ik", x, w);
        let s = l.channel(&[2, 4], 0);
        l.bin(Mul, y, s)
    }),
    ("input-scale-into-contract-right", "the scale varies along rows", Shape, |l| {
        let (x, w) = (l.param(&[2, 3]), l.konst(&[3, 4]));
        let s = l.channel(&[2, 3], 0);
        let x = l.bin(Mul, x, s);
        l.contract("ij,jk->ik", x, w)
    }),
    ("scale-out-of-contract-right", "weights that are no narrower without the scale", Shape, |l| {
        let (x, w) = (l.param(&[2, 3]), l.konst(&[3, 4]));
        let s = l.channel(&[3, 4], 1);
        let w = l.bin(Mul, w, s);
        l.contract("ij,jk->ik", x, w)
    }),
    ("scale-out-of-contract-left", "the scale varies along what is summed", Shape, |l| {
        let (w, x) = (l.widened_konst(&[3, 4]), l.param(&[2, 3]));
        let s = l.channel(&[3, 4], 0);
        let w = l.bin(Mul, w, s);
        l.contract("jk,ij->ik", w, x)
    }),
    ("scale-out-of-conv", "the scale varies along input channels", Shape, |l| {
        let (x, w) = (l.param(&[1, 2, 5]), l.widened_konst(&[3, 2, 2]));
        let s = l.channel(&[3, 2, 2], 1);
        let w = l.bin(Mul, w, s);
        l.emit(conv1d(0, 0, 1), &[x, w])
    }),
];

const EPILOGUE: &[Refusal] = &[
    ("scale-after-contract-left", "a constant operand takes the scale", Guard, |l| {
        let (x, w, c) = (l.param(&[2, 3]), l.konst(&[3, 4]), l.splat(&[2, 3], 2.0));
        let x = l.bin(Mul, x, c);
        l.contract("ij,jk->ik", x, w)
    }),
    ("scale-after-contract-right", "a constant operand takes the scale", Guard, |l| {
        let (w, x, c) = (l.konst(&[2, 3]), l.param(&[3, 4]), l.splat(&[3, 4], 2.0));
        let x = l.bin(Mul, x, c);
        l.contract("ij,jk->ik", w, x)
    }),
    ("scale-after-contract-left", "integers", Guard, |l| {
        let (x, y, c) = (int(l, &[2, 3]), int(l, &[3, 4]), l.int_splat(&[2, 3], 2));
        let x = l.bin(Mul, x, c);
        l.contract("ij,jk->ik", x, y)
    }),
    ("scale-after-contract-right", "the scale varies", Shape, |l| {
        let (x, y, c) = (l.param(&[2, 3]), l.param(&[3, 4]), l.konst(&[3, 4]));
        let y = l.bin(Mul, y, c);
        l.contract("ij,jk->ik", x, y)
    }),
    ("unary-before-reshape", "no contraction", Guard, |l| {
        let x = l.param(&[2, 3]);
        let x = l.reshape(x, &[6]);
        l.un(UnaryOp::Exp, x)
    }),
    ("binary-before-reshape", "no contraction", Guard, |l| {
        let x = l.param(&[2, 3]);
        let x = l.reshape(x, &[6]);
        let c = l.splat(&[6], 2.0);
        l.bin(Add, x, c)
    }),
    ("binary-before-reshape", "the other operand varies along what is split", Shape, |l| {
        let (x, w, y) = (l.param(&[2, 3, 4]), l.konst(&[4, 5]), l.param(&[6]));
        let y = l.broadcast(y, &[0], &[6, 5]);
        let x = l.contract("abk,kc->abc", x, w);
        let x = l.reshape(x, &[6, 5]);
        l.bin(Add, x, y)
    }),
    ("softmax-before-reshape", "no contraction", Guard, |l| {
        let x = l.param(&[2, 3, 4]);
        let x = l.reshape(x, &[6, 4]);
        l.emit(Op::Softmax { axis: 1, log: false }, &[x])
    }),
    ("softmax-before-reshape", "the axis is split", Shape, |l| {
        let (x, w) = (l.param(&[2, 3, 4]), l.konst(&[4, 5]));
        let x = l.contract("abk,kc->abc", x, w);
        let x = l.reshape(x, &[6, 5]);
        l.emit(Op::Softmax { axis: 0, log: false }, &[x])
    }),
];

/// `x / sqrt(reduce(y * y) + eps)` with one element of the root for each row, or each column, of a square.
fn by_root(l: &mut Lab, x: Value, y: Value, op: ReduceOp, place: u8) -> Value {
    let square = l.bin(Mul, y, y);
    let mean = l.reduce(op, &[1], square);
    let eps = l.splat(&[4], 1e-3);
    let sum = l.bin(Add, mean, eps);
    let root = l.un(UnaryOp::Sqrt, sum);
    let root = l.broadcast(root, &[place], &[4, 4]);
    l.bin(Div, x, root)
}

fn minus_mean(l: &mut Lab, x: Value, axis: u8, place: u8) -> Value {
    let mean = l.reduce(ReduceOp::Mean, &[axis], x);
    let mean = l.broadcast(mean, &[place], &[4, 4]);
    let y = l.bin(Sub, x, mean);
    l.emit(Op::Norm { axes: vec![1], centre: false, eps: Real(1e-3) }, &[y])
}

/// A norm in f16, by a quotient or a product.
fn half_norm(l: &mut Lab, by_product: bool) -> Value {
    let x = l.param_of(ScalarType::F16, &[4, 4]);
    let square = l.bin(Mul, x, x);
    let mean = l.reduce(ReduceOp::Mean, &[1], square);
    let ty = TensorType::new(ScalarType::F16, vec![4]);
    let eps = l.b.constant(Constant::new(ty, ConstantData::Splat(0x1000), "")).unwrap();
    let sum = l.bin(Add, mean, eps);
    let root = l.un(UnaryOp::Sqrt, sum);
    let root = if by_product { l.un(UnaryOp::Recip, root) } else { root };
    let root = l.broadcast(root, &[0], &[4, 4]);
    l.bin(if by_product { Mul } else { Div }, x, root)
}

const FUSION: &[Refusal] = &[
    ("rms-norm-by-quotient", "the root of another value", Shape, |l| {
        let (x, y) = (l.param(&[4, 4]), l.param(&[4, 4]));
        by_root(l, x, y, ReduceOp::Mean, 0)
    }),
    ("rms-norm-by-quotient", "squares that overflow early", Guard, |l| half_norm(l, false)),
    ("rms-norm-by-product", "squares that overflow early", Guard, |l| half_norm(l, true)),
    ("rms-norm-by-quotient", "a sum, not a mean", Shape, |l| {
        let x = l.param(&[4, 4]);
        by_root(l, x, x, ReduceOp::Sum, 0)
    }),
    ("rms-norm-by-quotient", "rows by the roots of columns", Shape, |l| {
        let x = l.param(&[4, 4]);
        by_root(l, x, x, ReduceOp::Mean, 1)
    }),
    ("rms-norm-by-product", "a root, not its inverse", Shape, |l| {
        let x = l.param(&[4, 4]);
        let y = by_root(l, x, x, ReduceOp::Mean, 0);
        l.bin(Mul, x, y)
    }),
    ("layer-norm", "the mean along another axis", Shape, |l| {
        let x = l.param(&[4, 4]);
        minus_mean(l, x, 0, 1)
    }),
    ("layer-norm", "the mean of another row", Shape, |l| {
        let x = l.param(&[4, 4]);
        minus_mean(l, x, 1, 1)
    }),
    ("layer-norm", "the norm subtracts its own mean", Shape, |l| {
        let x = l.param(&[4, 4]);
        let mean = l.reduce(ReduceOp::Mean, &[1], x);
        let mean = l.broadcast(mean, &[0], &[4, 4]);
        let y = l.bin(Sub, x, mean);
        l.emit(Op::Norm { axes: vec![1], centre: true, eps: Real(1e-3) }, &[y])
    }),
    ("norm-scale", "the scale varies from row to row", Shape, |l| {
        let x = l.param(&[3, 4]);
        let y = l.emit(Op::Norm { axes: vec![1], centre: false, eps: Real(1e-3) }, &[x]);
        let s = l.channel(&[3, 4], 0);
        l.bin(Mul, y, s)
    }),
    ("norm-bias", "the bias varies from row to row", Shape, |l| {
        let (x, s) = (l.param(&[3, 4]), l.konst(&[4]));
        let y = l.emit(Op::Norm { axes: vec![1], centre: false, eps: Real(1e-3) }, &[x, s]);
        let b = l.channel(&[3, 4], 0);
        l.bin(Add, y, b)
    }),
];

fn padded(l: &mut Lab, low: u64) -> Value {
    let (x, zero) = (l.param(&[2, 3]), l.splat(&[], 0.0));
    l.emit(Op::Pad { low: vec![0, low], high: vec![0, 1] }, &[x, zero])
}

const ZEROS: &[Refusal] = &[
    ("contract-drops-dead-terms", "nothing is dead", Shape, |l| {
        let (x, w) = (l.param(&[2, 3]), l.nearly_zero(&[3, 1]));
        let w = l.broadcast(w, &[0, 1], &[3, 4]);
        let c = l.konst(&[3, 4]);
        let w = l.bin(Add, w, c);
        l.contract("ij,jk->ik", x, w)
    }),
    ("contract-drops-dead-terms", "the live part of a parameter is in pieces", Shape, |l| {
        let (x, w) = (l.param(&[2, 5]), l.with_dead(&[5, 2], 0, &[1, 3]));
        l.contract("ij,jk->ik", x, w)
    }),
    ("contract-drops-dead-terms", "a function that is 1 at zero", Shape, |l| {
        let (x, w) = (padded(l, 1), l.konst(&[5, 2]));
        let x = l.un(UnaryOp::Exp, x);
        l.contract("ij,jk->ik", x, w)
    }),
    ("conv-drops-dead-channels", "channels in groups", Shape, |l| {
        let (x, w) = (l.param(&[1, 4, 5]), l.with_dead(&[4, 2, 2], 1, &[0]));
        l.emit(conv1d(0, 0, 2), &[x, w])
    }),
    ("conv-drops-dead-channels", "every channel is dead in one of the operands", Shape, |l| {
        let (x, zero) = (l.param(&[1, 1, 5]), l.splat(&[], 0.0));
        let x = l.emit(Op::Pad { low: vec![0, 1, 0], high: vec![0, 0, 0] }, &[x, zero]);
        let w = l.with_dead(&[4, 2, 2], 1, &[1]);
        l.emit(conv1d(0, 0, 1), &[x, w])
    }),
    ("contract-of-live-results", "live results in too many pieces", Shape, |l| {
        let (x, w) = (l.param(&[2, 3]), l.with_dead(&[3, 10], 1, &[1, 3, 5, 7, 9]));
        l.contract("ij,jk->ik", x, w)
    }),
    ("conv-of-live-channels", "nothing is dead", Shape, |l| {
        let (x, w) = (l.param(&[1, 2, 5]), l.konst(&[4, 2, 2]));
        l.emit(conv1d(0, 0, 1), &[x, w])
    }),
];

fn quantize(l: &mut Lab, x: Value, axis: u8) -> Value {
    let (format, mode) = (GroupFormat::MXFP8, ScaleMode::Floor);
    l.emit(Op::MxQuantize { format, axis, mode }, &[x])
}

fn cast(l: &mut Lab, x: Value, to: ScalarType) -> Value {
    l.emit(Op::Cast { to, saturate: true }, &[x])
}

const PACKING: &[Refusal] = &[
    ("quantize-before-permute", "a constant", Guard, |l| {
        let x = l.konst(&[2, 3]);
        let y = l.permute(x, &[1, 0]);
        quantize(l, y, 0)
    }),
    ("quantize-before-broadcast", "a constant", Guard, |l| {
        let x = l.konst(&[3]);
        let y = l.broadcast(x, &[1], &[2, 3]);
        quantize(l, y, 1)
    }),
    ("quantize-before-broadcast", "nothing repeats", Guard, |l| {
        let x = l.param(&[3]);
        let y = l.broadcast(x, &[1], &[1, 3]);
        quantize(l, y, 1)
    }),
    ("quantize-before-broadcast", "elements of a group repeat", Shape, |l| {
        let x = l.param(&[3]);
        let y = l.broadcast(x, &[1], &[2, 3]);
        quantize(l, y, 0)
    }),
    ("quantize-before-slice", "a constant", Guard, |l| {
        let x = l.konst(&[2, 3]);
        let y = slice(l, x, [0, 0], [1, 3]);
        quantize(l, y, 1)
    }),
    ("quantize-before-slice", "groups would be cut", Shape, |l| {
        let x = l.param(&[2, 40]);
        let y = slice(l, x, [0, 1], [2, 39]);
        quantize(l, y, 1)
    }),
    ("quantize-of-widened", "a narrow type rounds", Guard, |l| {
        let x = l.param(&[2, 3]);
        let y = cast(l, x, ScalarType::Bf16);
        quantize(l, y, 1)
    }),
    ("cast-of-widened", "a narrow type rounds", Guard, |l| {
        let x = l.param(&[2, 3]);
        let y = cast(l, x, ScalarType::Bf16);
        cast(l, y, ScalarType::F32)
    }),
    ("cast-of-widened", "f16 has not every bf16", Guard, |l| {
        let x = l.param(&[2, 3]);
        let x = cast(l, x, ScalarType::Bf16);
        let y = cast(l, x, ScalarType::F16);
        cast(l, y, ScalarType::Bf16)
    }),
    ("cast-before-permute", "a constant", Guard, |l| {
        let x = l.konst(&[2, 3]);
        let y = l.permute(x, &[1, 0]);
        cast(l, y, ScalarType::Bf16)
    }),
    ("cast-before-reshape", "a constant", Guard, |l| {
        let x = l.konst(&[2, 3]);
        let y = l.reshape(x, &[6]);
        cast(l, y, ScalarType::Bf16)
    }),
    ("cast-before-slice", "a constant", Guard, |l| {
        let x = l.konst(&[2, 3]);
        let y = slice(l, x, [0, 0], [1, 3]);
        cast(l, y, ScalarType::Bf16)
    }),
    ("cast-before-concat", "the parts would take more bytes", Guard, |l| {
        let (x, y) = (l.param_of(ScalarType::I8, &[2, 3]), l.param_of(ScalarType::I8, &[2, 3]));
        let z = l.emit(Op::Concat { axis: 1 }, &[x, y]);
        cast(l, z, ScalarType::F32)
    }),
];

const RELAXED: &[Refusal] = &[
    ("div-constant", "integers", Guard, |l| {
        let (x, c) = (int(l, &[2, 3]), l.int_konst(&[2, 3]));
        l.bin(Div, x, c)
    }),
    ("div-constant", "a constant dividend", Guard, |l| {
        let (x, c) = (l.konst(&[2, 3]), l.konst(&[2, 3]));
        l.bin(Div, x, c)
    }),
    ("add-constants", "integers", Guard, |l| {
        let (x, a, b) = (int(l, &[4]), l.int_konst(&[4]), l.int_konst(&[4]));
        let y = l.bin(Add, x, a);
        l.bin(Add, y, b)
    }),
    ("add-constants", "all constants", Guard, |l| {
        let (x, a, b) = (l.konst(&[4]), l.konst(&[4]), l.konst(&[4]));
        let y = l.bin(Add, x, a);
        l.bin(Add, y, b)
    }),
    ("add-constants", "an identity", Shape, |l| {
        let y = with_constant(l, Add, 0.0);
        let b = l.konst(&[2, 3]);
        l.bin(Add, y, b)
    }),
    ("mul-constants", "integers", Guard, |l| {
        let (x, a, b) = (int(l, &[4]), l.int_konst(&[4]), l.int_konst(&[4]));
        let y = l.bin(Mul, x, a);
        l.bin(Mul, y, b)
    }),
    ("mul-constants", "an identity", Shape, |l| {
        let y = with_constant(l, Mul, 1.0);
        let b = l.konst(&[2, 3]);
        l.bin(Mul, y, b)
    }),
    ("add-any-zero", "another number", Guard, |l| with_constant(l, Add, 1.0)),
    ("mul-zero", "not all zeros", Guard, |l| {
        let (x, c) = (l.param(&[4]), l.nearly_zero(&[4]));
        l.bin(Mul, x, c)
    }),
    ("softmax-without-nan", "the guard gives another number", Guard, |l| {
        let (x, y) = (l.param(&[2, 3]), l.param(&[3, 4]));
        let scores = l.contract("mk,kn->mn", x, y);
        let p = l.emit(Op::Softmax { axis: 1, log: false }, &[scores]);
        let nan = l.un(UnaryOp::IsNan, p);
        let one = l.splat(&[2, 4], 1.0);
        l.emit(Op::Select {}, &[nan, one, p])
    }),
    ("softmax-without-nan", "a mask may leave a row empty", Shape, |l| {
        let (x, y, m) = (l.param(&[2, 3]), l.param(&[3, 4]), l.param(&[2, 4]));
        let scores = l.contract("mk,kn->mn", x, y);
        let scores = l.bin(Add, scores, m);
        let p = l.emit(Op::Softmax { axis: 1, log: false }, &[scores]);
        let nan = l.un(UnaryOp::IsNan, p);
        let zero = l.splat(&[2, 4], 0.0);
        l.emit(Op::Select {}, &[nan, zero, p])
    }),
];

/// All of them.
fn refusals() -> impl Iterator<Item = &'static Refusal> {
    [ALGEBRA, LAYOUT, ABSORB, FOLDING, EPILOGUE, FUSION, ATTENTION, ZEROS, PACKING, RELAXED]
        .into_iter()
        .flatten()
}

#[test]
fn rules_refuse() {
    let mut wrong = Vec::new();
    for &(rule, why, by, build) in refusals() {
        let mut rules = rules_of(&[rule]);
        assert_eq!(rules.len(), 1, "{rule}");
        let run = |rules: &[super::Rule]| {
            let (m, _) = module(1, false, |l| vec![build(l)]);
            fired(m, rules, rule)
        };
        if run(&rules) != (0, None) {
            wrong.push(format!("{rule} fires: {why}"));
        }
        rules[0].guard = None;
        let (n, error) = run(&rules);
        if (by == Guard) != (n > 0 || error.is_some()) {
            wrong.push(format!(
                "{rule}: the guard makes {} difference: {why}",
                if n > 0 { "a" } else { "no" }
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Its guard is about a class that is its own operand, which has a test of its own.
const ITSELF: &str = "slice-slice";

#[test]
fn every_guard_is_tested() {
    let tested: Vec<&str> = refusals().filter(|r| r.2 == Guard).map(|r| r.0).collect();
    let guarded = everything().into_iter().filter(|r| r.guard.is_some() && r.name != ITSELF);
    let untested: Vec<&str> = guarded.map(|r| r.name).filter(|name| !tested.contains(name)).collect();
    assert_eq!(untested, Vec::<&str>::new());
}

#[test]
fn norms_of_integers_are_refused_by_their_type() {
    let (m, _) = module(1, false, |l| {
        let x = int(l, &[2, 4]);
        let square = l.bin(Mul, x, x);
        let mean = l.reduce(ReduceOp::Mean, &[1], square);
        let eps = l.int_splat(&[2], 1);
        let sum = l.bin(Add, mean, eps);
        let root = l.un(UnaryOp::Sqrt, sum);
        let root = l.broadcast(root, &[0], &[2, 4]);
        vec![l.bin(Div, x, root)]
    });
    assert_eq!(fired(m, &rules_of(&["rms-norm-by-quotient"]), "rms-norm-by-quotient"), (0, None));
}

#[test]
fn a_class_that_is_its_own_operand_does_not_compose() {
    let (m, _) = module(1, false, |l| {
        let x = l.param(&[2, 3]);
        vec![slice(l, x, [0, 0], [2, 3])]
    });
    let (g, ..) = saturated(m, &rules_of(&["slice-of-all"]));
    let rule = rules_of(&[ITSELF])[0];
    let matches = Pattern::parse(rule.before).unwrap().search(&g);
    assert!(!matches.is_empty());
    assert!(!matches.iter().any(|m| rule.holds(&g, m)));
}
