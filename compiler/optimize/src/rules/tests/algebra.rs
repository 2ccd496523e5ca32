//! Constants, identities, and work before repetition.

use lacuna_ir::Op;
use lacuna_ir::op::{BinaryOp::*, UnaryOp};
use lacuna_isa::format::ScalarType;

use super::{Case, case, conv_parts};

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "sub-constant",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let c = l.konst(&d);
                l.bin(Sub, x, c)
            },
            "add(param0, neg(..))",
        ),
        case(
            "div-by-power-of-two",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let c = [4.0, -0.5, f32::MIN_POSITIVE, 1.7014118e38][l.random(4) as usize];
                let c = l.splat(&d, c);
                l.bin(Div, x, c)
            },
            "mul(param0, c)",
        ),
        case(
            "add-zero",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let x = l.un(UnaryOp::Abs, x);
                let c = l.splat(&d, 0.0);
                l.bin(Add, c, x)
            },
            "abs(param0)",
        ),
        case(
            "square-by-product",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let c = l.splat(&d, 2.0);
                l.bin(Pow, x, c)
            },
            "mul(param0, param0)",
        ),
        case(
            "add-nothing",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let c = l.splat(&d, -0.0);
                l.bin(Add, c, x)
            },
            "param0",
        ),
        case(
            "sub-zero",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let c = l.splat(&d, 0.0);
                l.bin(Sub, x, c)
            },
            "param0",
        ),
        case(
            "mul-one",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let c = l.splat(&d, 1.0);
                l.bin(Mul, c, x)
            },
            "param0",
        ),
        case(
            "div-one",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let c = l.splat(&d, 1.0);
                l.bin(Div, x, c)
            },
            "param0",
        ),
        case(
            "cast-to-itself",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                l.emit(Op::Cast { to: ScalarType::F32, saturate: true }, &[x])
            },
            "param0",
        ),
        case(
            "unary-before-broadcast",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let y = l.broadcast(x, &[0, 2], &[d[0], 3, d[1]]);
                l.un(UnaryOp::Exp, y)
            },
            "broadcast[0, 2](exp(..))",
        ),
        case(
            "cast-before-broadcast",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let y = l.broadcast(x, &[0, 2], &[d[0], 3, d[1]]);
                l.emit(Op::Cast { to: ScalarType::Bf16, saturate: true }, &[y])
            },
            "broadcast[0, 2](cast(..))",
        ),
        case(
            "binary-before-broadcast",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let y = l.param(&[1, d[0]]);
                let x = l.broadcast(x, &[0, 2], &[d[0], 3, d[1]]);
                let y = l.broadcast(y, &[0, 2], &[3, 3, d[0]]);
                let y = l.permute(y, &[2, 1, 0]);
                let y = l.emit(
                    Op::Slice { starts: vec![0; 3], shape: vec![d[0], 3, 1].into(), steps: vec![1; 3] },
                    &[y],
                );
                let y = l.broadcast(y, &[0, 1, 2], &[d[0], 3, d[1]]);
                let z = l.param(&[d[0]]);
                let z = l.broadcast(z, &[0], &[d[0], 3, d[1]]);
                let x = l.bin(Mul, x, z);
                l.bin(Sub, x, y)
            },
            "sub(broadcast[0, 2](..), broadcast[0, 1, 2](..))",
        ),
        case(
            "contract-of-zeros",
            |l| {
                let d = l.dims(3);
                let x = l.param(&[d[0], d[1]]);
                let w = l.splat(&[d[1], d[2]], 0.0);
                l.contract("ij,jk->ik", x, w)
            },
            "c",
        ),
        case(
            "conv-of-zeros",
            |l| {
                let (x, w, op) = conv_parts(l, 1);
                let d = l.shape(w);
                let zero = l.splat(&d, 0.0);
                l.emit(op, &[x, zero])
            },
            "c",
        ),
    ]
}
