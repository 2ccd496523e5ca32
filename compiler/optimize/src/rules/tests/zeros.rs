//! Zeros are not computed.

use lacuna_ir::Value;
use lacuna_ir::op::BinaryOp::*;

use super::{Case, case};
use crate::testing::{Lab, conv1d};

/// `max(x * w + b, 0)` with some dead columns.
fn hidden(l: &mut Lab, k: u64, n: u64) -> Value {
    let (rows, dead) = (l.dim(), l.some_of(n));
    let (x, w) = (l.param(&[rows, k]), l.with_dead(&[k, n], 1, &dead));
    let y = l.contract("ij,jk->ik", x, w);
    let b = l.with_dead(&[n], 0, &dead);
    let b = l.broadcast(b, &[1], &[rows, n]);
    let y = l.bin(Add, y, b);
    let zero = l.splat(&[rows, n], 0.0);
    l.bin(Max, y, zero)
}

fn wide(l: &mut Lab) -> u64 {
    2 + l.random(6)
}

pub fn cases() -> Vec<Case> {
    vec![
        // The producer has dead columns: the consumer sums fewer terms, and the producer computes fewer columns.
        case(
            "contract-drops-dead-terms",
            |l| {
                let (k, n, m) = (l.dim(), wide(l), l.dim());
                let (y, v) = (hidden(l, k, n), l.konst(&[n, m]));
                l.contract("ij,jk->ik", y, v)
            },
            "contractij,jk->ik(max(.., ..), gather(.., ..))",
        ),
        // The consumer has dead rows, behind movement of the producer's result.
        case(
            "contract-drops-dead-terms",
            |l| {
                let (k, n, m) = (l.dim(), wide(l), l.dim());
                let (y, dead) = (hidden(l, k, n), l.some_of(n));
                let rows = l.shape(y)[0];
                let y = l.reshape(y, &[rows, 1, n]);
                let y = l.permute(y, &[1, 2, 0]);
                let v = l.with_dead(&[m, n], 1, &dead);
                l.contract("aji,kj->aik", y, v)
            },
            "contractaji,kj->aik(permute[1, 2, 0](..), gather(.., ..))",
        ),
        case(
            "contract-drops-dead-terms",
            |l| {
                let (x, zero, n) = (l.param(&[2, 3]), l.splat(&[], 0.0), l.dim());
                let (low, high) = (l.random(3), 1 + l.random(2));
                let x = l.emit(lacuna_ir::Op::Pad { low: vec![0, low], high: vec![0, high] }, &[x, zero]);
                let w = l.konst(&[3 + low + high, n]);
                l.contract("ij,jk->ik", x, w)
            },
            "contractij,jk->ik(param0, slice(..))",
        ),
        case(
            "conv-drops-dead-channels",
            |l| {
                let (c, n, o) = (l.dim(), wide(l), l.dim());
                let (dead, also) = (l.some_of(n), l.some_of(n));
                let (x, w) = (l.param(&[1, c, 6]), l.with_dead(&[n, c, 2], 0, &dead));
                let y = l.emit(conv1d(0, 0, 1), &[x, w]);
                let shape = l.shape(y);
                let zero = l.splat(&shape, 0.0);
                let y = l.bin(Max, y, zero);
                let v = l.with_dead(&[o, n, 3], 1, &also);
                l.emit(conv1d(1, 1, 1), &[y, v])
            },
            "conv(max(.., ..), gather(.., ..))",
        ),
        // Through a depthwise convolution between the two.
        case(
            "conv-drops-dead-channels",
            |l| {
                let (n, o) = (wide(l), l.dim());
                let dead = l.some_of(n);
                let (x, w) = (l.param(&[1, 2, 6]), l.with_dead(&[n, 2, 1], 0, &dead));
                let y = l.emit(conv1d(0, 0, 1), &[x, w]);
                let d = l.konst(&[n, 1, 3]);
                let y = l.emit(conv1d(1, 1, n), &[y, d]);
                let v = l.with_dead(&[o, n, 1], 1, &dead);
                l.emit(conv1d(0, 0, 1), &[y, v])
            },
            "conv(conv(.., ..), gather(.., ..))",
        ),
        case(
            "contract-of-live-results",
            |l| {
                let (n, m) = (wide(l), l.dim());
                let dead: Vec<u64> = (0..n - 1).collect();
                let (x, w) = (l.param(&[m, 3]), l.with_dead(&[3, n], 1, &dead));
                l.contract("ij,jk->ik", x, w)
            },
            "concat[1](c, contractij,jk->ik(.., ..))",
        ),
        case(
            "conv-of-live-channels",
            |l| {
                let (n, c) = (wide(l), l.dim());
                let (x, w) = (l.param(&[1, c, 4]), l.with_dead(&[n, c, 2], 0, &[0]));
                l.emit(conv1d(1, 0, 1), &[x, w])
            },
            "concat[1](c, conv(.., ..))",
        ),
    ]
}
