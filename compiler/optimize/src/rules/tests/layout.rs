//! Movement moves and cancels.

use lacuna_ir::op::{BinaryOp::*, CompareOp, Real, ReduceOp, UnaryOp};
use lacuna_ir::{Op, Value};
use lacuna_isa::format::ScalarType;

use super::{Case, case};
use crate::testing::Lab;

fn permuted(l: &mut Lab, n: usize) -> (Value, Vec<u8>) {
    let dims = l.dims(n);
    let perm = l.perm(n);
    (l.param(&dims), perm)
}

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "permute-permute",
            |l| {
                let (x, p) = permuted(l, 4);
                let q = l.perm(4);
                let y = l.permute(x, &p);
                l.permute(y, &q)
            },
            "permute[..](param0)",
        ),
        case(
            "permute-of-unit-dims",
            |l| {
                let d = l.dims(2);
                let x = l.param(&[d[0], 1, d[1]]);
                l.permute(x, &[1, 0, 2])
            },
            "reshape(param0)",
        ),
        case(
            "permute-through-unary",
            |l| {
                let (x, p) = permuted(l, 3);
                let y = l.un(UnaryOp::Tanh, x);
                l.permute(y, &p)
            },
            "tanh(permute[..](..))",
        ),
        case(
            "permute-through-cast",
            |l| {
                let (x, p) = permuted(l, 3);
                let y = l.emit(Op::Cast { to: ScalarType::F16, saturate: true }, &[x]);
                l.permute(y, &p)
            },
            "cast(permute[..](..))",
        ),
        case(
            "permute-through-binary",
            |l| {
                let (x, p) = permuted(l, 3);
                let d = l.shape(x);
                let y = l.param(&d);
                let z = l.bin(Sub, x, y);
                l.permute(z, &p)
            },
            "sub(permute[..](..), permute[..](..))",
        ),
        case(
            "permute-through-compare",
            |l| {
                let (x, p) = permuted(l, 3);
                let d = l.shape(x);
                let y = l.param(&d);
                let z = l.emit(Op::Compare { op: CompareOp::Lt }, &[x, y]);
                l.permute(z, &p)
            },
            "compare(permute[..](..), permute[..](..))",
        ),
        case(
            "permute-through-select",
            |l| {
                let (x, p) = permuted(l, 3);
                let d = l.shape(x);
                let y = l.param(&d);
                let c = l.emit(Op::Compare { op: CompareOp::Le }, &[x, y]);
                let z = l.emit(Op::Select {}, &[c, x, y]);
                l.permute(z, &p)
            },
            "select(permute[..](..), permute[..](..), permute[..](..))",
        ),
        case(
            "permute-through-concat",
            |l| {
                let (x, p) = permuted(l, 3);
                let mut d = l.shape(x);
                d[1] += 1;
                let y = l.param(&d);
                let z = l.emit(Op::Concat { axis: 1 }, &[x, y, x]);
                l.permute(z, &p)
            },
            "concat[..](permute[..](..), permute[..](..), permute[..](..))",
        ),
        case(
            "permute-through-pad",
            |l| {
                let (x, p) = permuted(l, 3);
                let v = l.param(&[]);
                let y = l.emit(Op::Pad { low: vec![1, 0, 2], high: vec![0, 3, 1] }, &[x, v]);
                l.permute(y, &p)
            },
            "pad(permute[..](..), param1)",
        ),
        case(
            "permute-through-slice",
            |l| {
                let (x, p) = permuted(l, 3);
                let d = l.shape(x);
                let starts = vec![0, d[1] as i64 - 1, 0];
                let y = l.emit(
                    Op::Slice { starts, shape: vec![1, d[1], d[2]].into(), steps: vec![3, -1, 1] },
                    &[x],
                );
                l.permute(y, &p)
            },
            "slice(permute[..](..))",
        ),
        case(
            "permute-through-broadcast",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let y = l.broadcast(x, &[1, 3], &[2, d[0], 3, if d[1] == 1 { 4 } else { d[1] }]);
                let p = l.perm(4);
                l.permute(y, &p)
            },
            "broadcast[..](permute[..](..))",
        ),
        case(
            "reshape-of-gather",
            |l| {
                let (before, behind) = (l.dim(), l.dim());
                let x = l.param(&[before, 10, behind]);
                let indices = l.int_konst(&[6]);
                let y = l.emit(Op::Gather { axis: 1, batch: 0 }, &[x, indices]);
                l.reshape(y, &[before, 3, 2, behind])
            },
            "gather(param0, reshape(..))",
        ),
        case(
            "permute-through-softmax",
            |l| {
                l.floats();
                let (x, p) = permuted(l, 3);
                let axis = l.random(3) as u8;
                let y = l.emit(Op::Softmax { axis, log: axis == 1 }, &[x]);
                l.permute(y, &p)
            },
            "softmax[..](permute[..](..))",
        ),
        case(
            "permute-through-norm",
            |l| {
                l.floats();
                let (x, p) = permuted(l, 3);
                let d = l.shape(x);
                let s = l.konst(&[d[2], d[0]]);
                let y = l.emit(Op::Norm { axes: vec![2, 0], centre: true, eps: Real(1e-3) }, &[x, s]);
                l.permute(y, &p)
            },
            "norm[..]centred(permute[..](..), c)",
        ),
        case(
            "permute-through-reduce",
            |l| {
                let d = l.dims(4);
                let x = l.param(&d);
                let y = l.reduce(ReduceOp::Mean, &[3, 1], x);
                l.permute(y, &[1, 0])
            },
            "reduce:mean[2, 3](permute[2, 0, 3, 1](..))",
        ),
        case(
            "reduce-before-permute",
            |l| {
                let (x, p) = permuted(l, 4);
                let y = l.permute(x, &p);
                l.reduce(ReduceOp::Sum, &[3, 0], y)
            },
            "permute[..](reduce:sum[..](..))",
        ),
        case(
            "reshape-reshape",
            |l| {
                let d = l.dims(3);
                let x = l.param(&d);
                let y = l.reshape(x, &[d[0] * d[1], d[2]]);
                l.reshape(y, &[d[0], d[1] * d[2]])
            },
            "reshape(param0)",
        ),
        case(
            "reshape-through-unary",
            |l| {
                let d = l.dims(3);
                let x = l.param(&d);
                let y = l.reshape(x, &[d[0] * d[1], d[2]]);
                let z = l.un(UnaryOp::Abs, y);
                l.reshape(z, &d)
            },
            "abs(param0)",
        ),
        case(
            "reshape-through-binary",
            |l| {
                let d = l.dims(3);
                let x = l.param(&d);
                let y = l.param(&d);
                let x = l.reshape(x, &[d[0] * d[1], d[2]]);
                let y = l.reshape(y, &[d[0] * d[1], d[2]]);
                let z = l.bin(Max, x, y);
                l.reshape(z, &d)
            },
            "max(param0, param1)",
        ),
        case(
            "broadcast-broadcast",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let y = l.broadcast(x, &[0, 2], &[d[0], 3, d[1]]);
                l.broadcast(y, &[0, 1, 3], &[d[0], 3, 2, d[1]])
            },
            "broadcast[0, 3](param0)",
        ),
        case(
            "broadcast-to-itself",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                l.broadcast(x, &[0, 1], &d)
            },
            "param0",
        ),
        case(
            "broadcast-of-unit-dims",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                l.broadcast(x, &[0, 2], &[d[0], 1, d[1]])
            },
            "reshape(param0)",
        ),
        case(
            "slice-slice",
            |l| {
                let x = l.param(&[9, 4]);
                let y = l.emit(
                    Op::Slice { starts: vec![8, 0], shape: vec![4, 3].into(), steps: vec![-2, 1] },
                    &[x],
                );
                l.emit(Op::Slice { starts: vec![3, 2], shape: vec![2, 1].into(), steps: vec![-2, 1] }, &[y])
            },
            "slice(param0)",
        ),
        case(
            "slice-of-all",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                l.emit(Op::Slice { starts: vec![0, 0], shape: d.into(), steps: vec![1, 1] }, &[x])
            },
            "param0",
        ),
        case(
            "slice-of-concat",
            |l| {
                let d = l.dims(2);
                let x = l.param(&d);
                let y = l.param(&[d[0], 4]);
                let z = l.emit(Op::Concat { axis: 1 }, &[x, y]);
                let start = d[1] as i64 + l.random(2) as i64;
                l.emit(
                    Op::Slice { starts: vec![0, start], shape: vec![d[0], 3].into(), steps: vec![1, 1] },
                    &[z],
                )
            },
            "slice(param1)",
        ),
        case(
            "permute-through-reshape",
            |l| {
                let d = l.dims(4);
                let x = l.param(&d);
                let y = l.reshape(x, &[d[0] * d[1], 1, d[2] * d[3]]);
                let p = l.perm(3);
                l.permute(y, &p)
            },
            "reshape(permute[..](..))",
        ),
        case(
            "permute-through-reshape",
            |l| {
                // Rows of a batch, as the merged heads of PyTorch's attention have them.
                let d = l.dims(4);
                let (batch, heads, length) = (d[0] + 1, d[1] + 1, d[2] + 1);
                let x = l.param(&[d[3] + 1, batch, heads * length]);
                let y = l.reshape(x, &[d[3] + 1, batch * heads, length]);
                l.permute(y, &[1, 0, 2])
            },
            "reshape(permute[..](..))",
        ),
    ]
}
