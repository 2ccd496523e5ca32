//! What holds over the real numbers only.

use lacuna_ir::Op;
use lacuna_ir::op::{BinaryOp::*, UnaryOp};

use super::{Case, case};

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "div-constant",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let c = l.konst(&d);
                l.bin(Div, x, c)
            },
            "mul(param0, recip(..))",
        ),
        case(
            "add-constants",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let a = l.channel(&d, 0);
                let b = l.channel(&d, 1);
                let y = l.bin(Add, x, a);
                l.bin(Add, y, b)
            },
            "add(param0, add(.., ..))",
        ),
        case(
            "mul-constants",
            |l| {
                let d = l.dims(3);
                let x = l.param(&d);
                let a = l.channel(&d, 1);
                let b = l.channel(&d, 1);
                let y = l.bin(Mul, x, a);
                l.bin(Mul, b, y)
            },
            "mul(param0, broadcast[1](..))",
        ),
        case(
            "add-any-zero",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let c = l.splat(&d, 0.0);
                l.bin(Add, c, x)
            },
            "param0",
        ),
        case(
            "mul-zero",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let c = l.splat(&d, -0.0);
                l.bin(Mul, c, x)
            },
            "c",
        ),
        case(
            "softmax-without-nan",
            |l| {
                let d = l.dims(3);
                let (x, y) = (l.param(&[d[0], d[1]]), l.param(&[d[1], d[2]]));
                let scores = l.contract("mk,kn->mn", x, y);
                let p = l.emit(Op::Softmax { axis: 1, log: false }, &[scores]);
                let nan = l.un(UnaryOp::IsNan, p);
                let zero = l.splat(&[d[0], d[2]], 0.0);
                l.emit(Op::Select {}, &[nan, zero, p])
            },
            "softmax[1](contractmk,kn->mn(.., ..))",
        ),
    ]
}
