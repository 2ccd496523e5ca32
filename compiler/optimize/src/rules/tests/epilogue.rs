//! Scales and reshapes move behind contractions.

use lacuna_ir::op::{BinaryOp::*, UnaryOp};
use lacuna_ir::{Op, Value};

use super::{Case, case};
use crate::testing::Lab;

/// A product with one dimension more than what follows it wants.
fn heads(l: &mut Lab) -> (Value, Vec<u64>) {
    let d = l.dims(3);
    let (x, w) = (l.param(&[d[0], d[1], 3]), l.konst(&[3, d[2]]));
    (l.contract("abk,kc->abc", x, w), d)
}

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "scale-after-contract-left",
            |l| {
                let d = l.dims(3);
                let (x, y) = (l.param(&[d[0], d[1]]), l.param(&[d[1], d[2]]));
                let c = l.splat(&[d[0], d[1]], 0.25);
                let x = l.bin(Mul, x, c);
                l.contract("ij,jk->ki", x, y)
            },
            "mul(contractij,jk->ki(.., ..), c)",
        ),
        case(
            "scale-after-contract-right",
            |l| {
                let d = l.dims(3);
                let (x, y) = (l.param(&[d[0], d[1]]), l.param(&[d[1], d[2]]));
                let c = l.splat(&[d[1], d[2]], 0.25);
                let y = l.bin(Mul, y, c);
                l.contract("ij,jk->ki", x, y)
            },
            "mul(contractij,jk->ki(.., ..), c)",
        ),
        case(
            "unary-before-reshape",
            |l| {
                let (y, d) = heads(l);
                let y = l.reshape(y, &[d[0] * d[1], d[2]]);
                l.un(UnaryOp::Tanh, y)
            },
            "reshape(tanh(..))",
        ),
        case(
            "binary-before-reshape",
            |l| {
                let (y, d) = heads(l);
                let y = l.reshape(y, &[d[0] * d[1], d[2]]);
                let mask = l.param(&[d[2]]);
                let mask = l.broadcast(mask, &[1], &[d[0] * d[1], d[2]]);
                l.bin(Sub, y, mask)
            },
            "reshape(sub(.., ..))",
        ),
        case(
            "binary-before-reshape",
            |l| {
                // What repeats nothing takes any shape.
                let (y, d) = heads(l);
                let y = l.reshape(y, &[d[0] * d[1] * d[2]]);
                let residual = l.param(&[d[0] * d[1] * d[2]]);
                l.bin(Add, y, residual)
            },
            "reshape(add(.., ..))",
        ),
        case(
            "softmax-before-reshape",
            |l| {
                l.floats();
                let (y, d) = heads(l);
                let y = l.reshape(y, &[d[0] * d[1], d[2]]);
                l.emit(Op::Softmax { axis: 1, log: false }, &[y])
            },
            "reshape(softmax[2](..))",
        ),
    ]
}
