//! Where softmax and attention are not recognised.

use lacuna_ir::op::{BinaryOp::*, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;

use super::By::{Guard, Shape};
use super::{Refusal, int};
use crate::testing::Lab;

/// `softmax(q k^T + mask) v` of two queries and three keys, after something is done to the parts.
fn attend(
    l: &mut Lab,
    scores: fn(&mut Lab, Value) -> Value,
    weights: fn(&mut Lab, Value) -> Value,
    axis: u8,
) -> Value {
    let (q, k, v) = (l.param(&[1, 2, 2, 4]), l.param(&[1, 2, 3, 4]), l.param(&[1, 2, 3, 5]));
    let s = l.contract("bhqd,bhkd->bhqk", q, k);
    let s = scores(l, s);
    let p = l.emit(Op::Softmax { axis, log: false }, &[s]);
    let p = weights(l, p);
    l.contract("bhqk,bhkw->bhqw", p, v)
}

/// Attention with a constant mask of zeros and these numbers where `dead` says so.
fn banded(l: &mut Lab, low: f32, dead: fn(usize, usize) -> bool) -> Value {
    let (q, k, v) = (l.param(&[1, 2, 3, 4]), l.param(&[1, 2, 3, 4]), l.param(&[1, 2, 3, 5]));
    let mask: Vec<f32> = (0..9).map(|i| if dead(i / 3, i % 3) { low } else { 0.0 }).collect();
    let mask = l.b.const_f32(vec![1, 1, 3, 3], &mask).unwrap();
    l.emit(crate::masks::PLAIN.op(), &[q, k, v, mask])
}

/// Scores of two queries and three keys with -10,000 in place of those that constant flags do not keep.
fn replaced(l: &mut Lab, scores: Value, keep: [u8; 6]) -> Value {
    let ty = lacuna_ir::TensorType::new(ScalarType::Bool, vec![1, 1, 2, 3]);
    let keep = l.b.constant(lacuna_ir::Constant::dense(ty, keep.to_vec(), "")).unwrap();
    let (keep, low) = (l.broadcast(keep, &[0, 1, 2, 3], &[1, 2, 2, 3]), l.splat(&[1, 2, 2, 3], -1e4));
    l.emit(Op::Select {}, &[keep, scores, low])
}

pub(super) const ATTENTION: &[Refusal] = &[
    ("attention", "a finite number replaces all scores of a row", Shape, |l| {
        attend(l, |l, s| replaced(l, s, [1, 1, 0, 0, 0, 0]), |_, p| p, 3)
    }),
    ("attention", "another mask may reject the keys that a finite number leaves", Shape, |l| {
        let scores = |l: &mut Lab, s| {
            let mask = l.param(&[1, 2, 2, 3]);
            let s = replaced(l, s, [1, 1, 0, 1, 0, 0]);
            l.bin(Add, s, mask)
        };
        attend(l, scores, |_, p| p, 3)
    }),
    ("attention", "a finite number brings back keys that minus infinity rejected", Shape, |l| {
        let scores = |l: &mut Lab, s| {
            let (x, y) = (l.param(&[1, 2, 2, 3]), l.param(&[1, 2, 2, 3]));
            let keep = l.emit(Op::Compare { op: lacuna_ir::op::CompareOp::Lt }, &[x, y]);
            let low = l.splat(&[1, 2, 2, 3], f32::NEG_INFINITY);
            let s = l.emit(Op::Select {}, &[keep, s, low]);
            replaced(l, s, [1, 1, 0, 1, 0, 0])
        };
        attend(l, scores, |_, p| p, 3)
    }),
    ("softmax-by-quotient", "integers", Shape, |l| {
        let x = int(l, &[2, 3]);
        let exp = l.un(UnaryOp::Exp, x);
        let sum = l.reduce(ReduceOp::Sum, &[1], exp);
        let sum = l.broadcast(sum, &[0], &[2, 3]);
        l.bin(Div, exp, sum)
    }),
    ("softmax-by-quotient", "the sum of another row", Shape, |l| {
        let x = l.param(&[3, 3]);
        let exp = l.un(UnaryOp::Exp, x);
        let sum = l.reduce(ReduceOp::Sum, &[1], exp);
        let sum = l.broadcast(sum, &[1], &[3, 3]);
        l.bin(Div, exp, sum)
    }),
    ("softmax-by-product", "the sum itself", Shape, |l| {
        let x = l.param(&[3, 4]);
        let exp = l.un(UnaryOp::Exp, x);
        let sum = l.reduce(ReduceOp::Sum, &[1], exp);
        let sum = l.broadcast(sum, &[0], &[3, 4]);
        l.bin(Mul, exp, sum)
    }),
    ("softmax-by-product", "integers", Shape, |l| {
        let x = int(l, &[2, 3]);
        let exp = l.un(UnaryOp::Exp, x);
        l.bin(Mul, exp, exp)
    }),
    ("softmax-by-quotient", "a type that overflows early", Guard, |l| {
        let x = l.param_of(ScalarType::F16, &[2, 3]);
        let exp = l.un(UnaryOp::Exp, x);
        let sum = l.reduce(ReduceOp::Sum, &[1], exp);
        let sum = l.broadcast(sum, &[0], &[2, 3]);
        l.bin(Div, exp, sum)
    }),
    ("softmax-by-product", "a type that overflows early", Guard, |l| {
        let x = l.param_of(ScalarType::F16, &[2, 3]);
        let exp = l.un(UnaryOp::Exp, x);
        let sum = l.reduce(ReduceOp::Sum, &[1], exp);
        let sum = l.un(UnaryOp::Recip, sum);
        let sum = l.broadcast(sum, &[0], &[2, 3]);
        l.bin(Mul, exp, sum)
    }),
    ("softmax-shift", "a shift by anything but the greatest", Guard, |l| {
        let (x, m) = (l.param(&[3, 4]), l.param(&[3]));
        let m = l.broadcast(m, &[0], &[3, 4]);
        let x = l.bin(Sub, x, m);
        l.emit(Op::Softmax { axis: 1, log: false }, &[x])
    }),
    ("softmax-shift", "the greatest along another axis", Guard, |l| {
        let x = l.param(&[3, 4]);
        let m = l.reduce(ReduceOp::Max, &[0], x);
        let m = l.broadcast(m, &[1], &[3, 4]);
        let x = l.bin(Sub, x, m);
        l.emit(Op::Softmax { axis: 1, log: false }, &[x])
    }),
    ("softmax-shift", "the shift varies along the row", Guard, |l| {
        let (x, m) = (l.param(&[3, 4]), l.param(&[3, 4]));
        let x = l.bin(Sub, x, m);
        l.emit(Op::Softmax { axis: 1, log: false }, &[x])
    }),
    ("attention", "the softmax is over queries", Shape, |l| attend(l, |_, s| s, |_, p| p, 2)),
    ("attention", "a result that is not f32", Guard, |l| {
        let (q, k, v) = (l.param(&[1, 2, 2, 4]), l.param(&[1, 2, 3, 4]), l.param(&[1, 2, 3, 5]));
        let s = l.contract("bhqd,bhkd->bhqk", q, k);
        let p = l.emit(Op::Softmax { axis: 3, log: false }, &[s]);
        let map = lacuna_ir::op::ContractMap::parse("bhqk,bhkw->bhqw").unwrap();
        l.emit(Op::Contract { map, elem: ScalarType::Bf16 }, &[p, v])
    }),
    ("attention", "no softmax", Shape, |l| {
        let (p, v) = (l.param(&[2, 3]), l.param(&[3, 4]));
        l.contract("mk,kn->mn", p, v)
    }),
    ("attention", "weights are scaled", Shape, |l| {
        attend(
            l,
            |_, s| s,
            |l, p| {
                let by = l.param(&[1, 2, 2, 3]);
                l.bin(Mul, p, by)
            },
            3,
        )
    }),
    ("attention", "the scale is negative, under a cap of its own", Shape, |l| {
        attend(
            l,
            |l, s| {
                let by = l.splat(&[1, 2, 2, 3], -2.0);
                let s = l.un(UnaryOp::Tanh, s);
                l.bin(Mul, s, by)
            },
            |_, p| p,
            3,
        )
    }),
    ("attention", "a mask under a scale", Shape, |l| {
        attend(
            l,
            |l, s| {
                let (m, by) = (l.param(&[1, 2, 2, 3]), l.splat(&[1, 2, 2, 3], 2.0));
                let s = l.bin(Add, s, m);
                l.bin(Mul, s, by)
            },
            |_, p| p,
            3,
        )
    }),
    ("attention", "rejected keys keep a score", Shape, |l| {
        attend(
            l,
            |l, s| {
                let (x, y) = (l.param(&[1, 2, 2, 3]), l.param(&[1, 2, 2, 3]));
                let keep = l.emit(Op::Compare { op: lacuna_ir::op::CompareOp::Lt }, &[x, y]);
                let low = l.splat(&[1, 2, 2, 3], -100.0);
                l.emit(Op::Select {}, &[keep, s, low])
            },
            |_, p| p,
            3,
        )
    }),
    ("attention-of-band", "it is causal already", Guard, |l| {
        let (q, k, v) = (l.param(&[1, 2, 3, 4]), l.param(&[1, 2, 3, 4]), l.param(&[1, 2, 3, 5]));
        let mask = l.splat(&[1, 1, 3, 3], 0.0);
        let a = lacuna_ir::expand::Attention { causal: true, ..crate::masks::PLAIN };
        l.emit(a.op(), &[q, k, v, mask])
    }),
    ("attention-of-band", "no triangle", Shape, |l| banded(l, f32::MIN, |i, j| i == j && i > 0)),
    ("attention-of-band", "windows of several widths", Shape, |l| {
        banded(l, f32::NEG_INFINITY, |i, j| j > i || (i, j) == (1, 0))
    }),
    ("attention-of-band", "keys lose little", Shape, |l| banded(l, -100.0, |i, j| j > i)),
    ("attention-of-band", "a finite mask leaves the first row no key", Shape, |l| {
        banded(l, f32::MIN, |i, j| j >= i)
    }),
    ("attention-of-band", "the mask is the same for all queries", Shape, |l| {
        let (q, k, v) = (l.param(&[1, 2, 3, 4]), l.param(&[1, 2, 3, 4]), l.param(&[1, 2, 3, 5]));
        let mask = l.b.const_f32(vec![1, 1, 1, 3], &[0.0, f32::MIN, f32::MIN]).unwrap();
        l.emit(crate::masks::PLAIN.op(), &[q, k, v, mask])
    }),
];
