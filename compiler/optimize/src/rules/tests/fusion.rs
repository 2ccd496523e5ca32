//! Norms from their parts.

use lacuna_ir::op::{BinaryOp::*, Real, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Value};

use super::{Case, case};
use crate::testing::Lab;

fn rms(l: &mut Lab, x: Value, spelling: u64) -> Value {
    let shape = l.shape(x);
    let last = shape.len() - 1;
    let keep: Vec<u64> = [&shape[..last], &[1]].concat();
    let square = if spelling.is_multiple_of(2) {
        let two = l.splat(&shape, 2.0);
        l.bin(Pow, x, two)
    } else {
        l.bin(Mul, x, x)
    };
    let mean = l.reduce(ReduceOp::Mean, &[last as u8], square);
    let mean = l.reshape(mean, &keep);
    let eps = l.splat(&keep, 1e-5);
    let variance = l.bin(Add, mean, eps);
    let dims: Vec<u8> = (0..shape.len() as u8).collect();
    match spelling % 4 {
        0 | 1 => {
            let root = l.un(UnaryOp::Sqrt, variance);
            let recip = l.un(UnaryOp::Recip, root);
            let spread = l.broadcast(recip, &dims, &shape);
            l.bin(Mul, x, spread)
        }
        2 => {
            let root = l.un(UnaryOp::Sqrt, variance);
            let spread = l.broadcast(root, &dims, &shape);
            l.bin(Div, x, spread)
        }
        _ => {
            let half = l.splat(&keep, -0.5);
            let power = l.bin(Pow, variance, half);
            let spread = l.broadcast(power, &dims, &shape);
            l.bin(Mul, spread, x)
        }
    }
}

fn norm(l: &mut Lab, args: usize) -> (Value, Vec<u64>) {
    let dims = l.dims(3);
    let mut operands = vec![l.param(&dims)];
    for _ in 1..args {
        operands.push(l.konst(&[dims[2]]));
    }
    (l.emit(Op::Norm { axes: vec![2], centre: false, eps: Real(1e-3) }, &operands), dims)
}

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "rms-norm-by-product",
            |l| {
                let d = l.dims(3);
                let x = l.param(&d);
                let spelling = [0, 1, 3][l.random(3) as usize];
                rms(l, x, spelling)
            },
            "norm[2](param0)",
        ),
        case(
            "rms-norm-by-quotient",
            |l| {
                let d = l.dims(3);
                let x = l.param(&d);
                rms(l, x, 2)
            },
            "norm[2](param0)",
        ),
        Case {
            rule: "layer-norm",
            with: &["rms-norm-by-product", "rms-norm-by-quotient"],
            build: |l| {
                let d = l.dims(3);
                let x = l.param(&d);
                let mean = l.reduce(ReduceOp::Mean, &[2], x);
                let mean = l.reshape(mean, &[d[0], d[1], 1]);
                let mean = l.broadcast(mean, &[0, 1, 2], &d);
                let y = l.bin(Sub, x, mean);
                let spelling = l.random(4);
                rms(l, y, spelling)
            },
            after: "norm[2]centred(param0)",
        },
        case(
            "norm-scale",
            |l| {
                let (y, d) = norm(l, 1);
                let s = l.channel(&d, 2);
                l.bin(Mul, y, s)
            },
            "norm[2](param0, c)",
        ),
        case(
            "norm-scale-first",
            |l| {
                let (y, d) = norm(l, 1);
                let s = l.param(&[d[2]]);
                let s = l.broadcast(s, &[2], &d);
                l.bin(Mul, s, y)
            },
            "norm[2](param0, param1)",
        ),
        case(
            "norm-bias",
            |l| {
                let (y, d) = norm(l, 2);
                let s = l.channel(&d, 2);
                l.bin(Add, y, s)
            },
            "norm[2](param0, c, c)",
        ),
    ]
}
