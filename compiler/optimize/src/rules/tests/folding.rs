//! Scales fold into constant operands.

use lacuna_ir::op::BinaryOp::*;

use super::{Case, case, conv_parts, product};

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "scale-into-conv",
            |l| {
                let (x, w, op) = conv_parts(l, 2);
                let y = l.emit(op, &[x, w]);
                let shape = l.shape(y);
                let s = l.channel(&shape, 1);
                l.bin(Mul, y, s)
            },
            "conv(param0, mul(.., ..))",
        ),
        case(
            "input-scale-into-conv",
            |l| {
                let (x, w, op) = conv_parts(l, 1);
                let shape = l.shape(x);
                let s = l.channel(&shape, 1);
                let y = l.bin(Mul, x, s);
                l.emit(op, &[y, w])
            },
            "conv(param0, mul(.., ..))",
        ),
        case(
            "scale-into-contract-right",
            |l| {
                let (x, w, d) = product(l);
                let y = l.contract("ij,jk->ki", x, w);
                let s = l.channel(&[d[2], d[0]], 0);
                l.bin(Mul, y, s)
            },
            "contractij,jk->ki(param0, mul(.., ..))",
        ),
        case(
            "scale-into-contract-left",
            |l| {
                let (x, w, d) = product(l);
                let y = l.contract("jk,ij->ik", w, x);
                let s = l.splat(&[d[0], d[2]], 0.125);
                l.bin(Mul, y, s)
            },
            "contractjk,ij->ik(mul(.., ..), param0)",
        ),
        case(
            "input-scale-into-contract-right",
            |l| {
                let (x, w, d) = product(l);
                let s = l.channel(&[d[0], d[1]], 1);
                let x = l.bin(Mul, x, s);
                l.contract("ij,jk->ik", x, w)
            },
            "contractij,jk->ik(param0, mul(.., ..))",
        ),
        case(
            "input-scale-into-contract-left",
            |l| {
                let (x, w, d) = product(l);
                let s = l.channel(&[d[0], d[1]], 1);
                let x = l.bin(Mul, x, s);
                l.contract("jk,ij->ik", w, x)
            },
            "contractjk,ij->ik(mul(.., ..), param0)",
        ),
        case(
            "scale-out-of-contract-right",
            |l| {
                let d = l.dims(3);
                let (x, w) = (l.param(&[d[0], d[1]]), l.widened_konst(&[d[1], d[2]]));
                let s = l.channel(&[d[1], d[2]], 1);
                let w = l.bin(Mul, w, s);
                l.contract("ij,jk->ki", x, w)
            },
            "mul(contractij,jk->ki(.., ..), broadcast[0](..))",
        ),
        case(
            "scale-out-of-contract-left",
            |l| {
                let d = l.dims(3);
                let (w, x) = (l.widened_konst(&[d[1], d[2]]), l.param(&[d[0], d[1]]));
                let s = l.splat(&[d[1], d[2]], 0.125);
                let w = l.bin(Mul, w, s);
                l.contract("jk,ij->ik", w, x)
            },
            "mul(contractjk,ij->ik(.., ..), c)",
        ),
        case(
            "scale-out-of-conv",
            |l| {
                let (x, w, op) = conv_parts(l, 2);
                let shape = l.shape(w);
                let w = l.widened_konst(&shape);
                let s = l.channel(&shape, 0);
                let w = l.bin(Mul, w, s);
                l.emit(op, &[x, w])
            },
            "mul(conv(.., ..), broadcast[1](..))",
        ),
        case(
            "scale-through-bias",
            |l| {
                let (x, w, d) = product(l);
                let y = l.contract("ij,jk->ik", x, w);
                let a = l.channel(&[d[0], d[2]], 1);
                let b = l.channel(&[d[0], d[2]], 1);
                let z = l.bin(Add, y, a);
                l.bin(Mul, z, b)
            },
            "add(mul(.., ..), broadcast[1](..))",
        ),
        case(
            "scale-into-contract-right",
            |l| {
                let (x, w, d) = product(l);
                let y = l.contract("ij,jk->ik", x, w);
                let s = l.channel(&[d[0], d[2]], 1);
                l.bin(Div, y, s)
            },
            "contractij,jk->ik(param0, mul(.., ..))",
        ),
        case(
            "scale-through-bias",
            |l| {
                let (x, w, op) = conv_parts(l, 1);
                let y = l.emit(op, &[x, w]);
                let shape = l.shape(y);
                let (a, b) = (l.channel(&shape, 1), l.channel(&shape, 1));
                let z = l.bin(Add, y, a);
                l.bin(Div, z, b)
            },
            "add(mul(.., ..), broadcast[1](..))",
        ),
        case(
            "divide-sum",
            |l| {
                let d = l.dims(3);
                let (x, y) = (l.param(&[d[0], d[1]]), l.param(&[d[1], d[2]]));
                let y = l.contract("ij,jk->ik", x, y);
                let c = l.splat(&[d[0], d[2]], 3.0);
                l.bin(Div, y, c)
            },
            "mul(contractij,jk->ik(.., ..), c)",
        ),
        case(
            "add-biases",
            |l| {
                let (x, w, d) = product(l);
                let y = l.contract("ij,jk->ik", x, w);
                let a = l.channel(&[d[0], d[2]], 1);
                let b = l.splat(&[d[0], d[2]], 1.5);
                let z = l.bin(Add, y, a);
                l.bin(Add, z, b)
            },
            "add(contractij,jk->ik(.., ..), broadcast[1](..))",
        ),
    ]
}
