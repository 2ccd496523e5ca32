//! Dead slices follow values through every operator that keeps them.

use lacuna_ir::Value;
use lacuna_ir::op::ReduceOp;

use super::*;
use crate::testing::{Lab, conv1d, module, saturated};

fn zeros(build: impl FnOnce(&mut Lab) -> Value) -> Zeros {
    let (m, _) = module(1, false, |l| vec![build(l)]);
    let (g, roots, ..) = saturated(m, &[]);
    g.facts(roots[0]).zeros.clone()
}

fn dead(zeros: &Zeros) -> Vec<(u8, Vec<u64>)> {
    let list = |set: &Indices| (0..set.extent()).filter(|&i| set.contains(i)).collect();
    zeros.dead.iter().map(|(d, set)| (*d, list(set))).collect()
}

/// A product of shape [2, 6] whose columns 1 and 4 are zero.
fn product(l: &mut Lab) -> Value {
    let (x, w) = (l.param(&[2, 3]), l.with_dead(&[3, 6], 1, &[1, 4]));
    l.contract("ij,jk->ik", x, w)
}

type Case = (&'static str, fn(&mut Lab) -> Value, &'static [(u8, &'static [u64])]);

#[test]
fn dead_slices_move_with_values() {
    let cases: &[Case] = &[
        ("a constant", |l| l.with_dead(&[4, 5], 0, &[3]), &[(0, &[3])]),
        ("a product", product, &[(1, &[1, 4])]),
        (
            "relu",
            |l| {
                let (x, zero) = (product(l), l.splat(&[2, 6], 0.0));
                l.bin(BinaryOp::Max, x, zero)
            },
            &[(1, &[1, 4])],
        ),
        (
            "a sum with what is zero in one of the places",
            |l| {
                let (x, c) = (product(l), l.with_dead(&[2, 6], 1, &[4, 5]));
                l.bin(BinaryOp::Add, x, c)
            },
            &[(1, &[4])],
        ),
        (
            "a product with what is zero elsewhere, of what may be infinite",
            |l| {
                let (x, c) = (product(l), l.with_dead(&[2, 6], 1, &[0]));
                l.bin(BinaryOp::Mul, x, c)
            },
            &[(1, &[1, 4])],
        ),
        (
            "a product of constants with what is zero elsewhere",
            |l| {
                let (x, c) = (l.with_dead(&[2, 6], 1, &[1, 4]), l.with_dead(&[2, 6], 1, &[0]));
                l.bin(BinaryOp::Mul, x, c)
            },
            &[(1, &[0, 1, 4])],
        ),
        (
            "a function that is 1 at zero",
            |l| {
                let x = product(l);
                l.un(UnaryOp::Exp, x)
            },
            &[],
        ),
        (
            "a permutation",
            |l| {
                let x = product(l);
                l.permute(x, &[1, 0])
            },
            &[(0, &[1, 4])],
        ),
        (
            "a repetition",
            |l| {
                let x = product(l);
                l.broadcast(x, &[0, 2], &[2, 3, 6])
            },
            &[(2, &[1, 4])],
        ),
        (
            "dimensions that merge",
            |l| {
                let x = product(l);
                l.reshape(x, &[12])
            },
            &[(0, &[1, 4, 7, 10])],
        ),
        (
            "a dimension that splits",
            |l| {
                let x = product(l);
                l.reshape(x, &[2, 2, 3])
            },
            &[(2, &[1])],
        ),
        (
            "a slice backwards",
            |l| {
                let x = product(l);
                let (starts, steps) = (vec![0, 5], vec![1, -1]);
                l.emit(Op::Slice { starts, shape: vec![2, 3].into(), steps }, &[x])
            },
            &[(1, &[1])],
        ),
        (
            "padding with zeros",
            |l| {
                let (x, zero) = (product(l), l.splat(&[], 0.0));
                l.emit(Op::Pad { low: vec![0, 1], high: vec![1, 0] }, &[x, zero])
            },
            &[(0, &[2]), (1, &[0, 2, 5])],
        ),
        (
            "padding with ones",
            |l| {
                let (x, one) = (product(l), l.splat(&[], 1.0));
                l.emit(Op::Pad { low: vec![0, 1], high: vec![0, 0] }, &[x, one])
            },
            &[(1, &[2, 5])],
        ),
        (
            "a row of values",
            |l| {
                let (x, y) = (product(l), l.splat(&[2, 2], 0.0));
                l.emit(Op::Concat { axis: 1 }, &[y, x])
            },
            &[(1, &[0, 1, 3, 6])],
        ),
        (
            "a reduction",
            |l| {
                let x = product(l);
                l.reduce(ReduceOp::Max, &[0], x)
            },
            &[(0, &[1, 4])],
        ),
        (
            "output channels",
            |l| {
                let (x, w) = (l.param(&[1, 2, 5]), l.with_dead(&[3, 2, 2], 0, &[2]));
                l.emit(conv1d(1, 0, 1), &[x, w])
            },
            &[(1, &[2])],
        ),
    ];
    for (name, build, expect) in cases {
        let expect: Vec<(u8, Vec<u64>)> = expect.iter().map(|(d, i)| (*d, i.to_vec())).collect();
        assert_eq!(dead(&zeros(build)), expect, "{name}");
    }
}

#[test]
fn a_sum_without_a_term_is_zero() {
    let zeros = zeros(|l| {
        let x = product(l);
        let w = l.with_dead(&[6, 2], 0, &[0, 2, 3, 5]);
        l.contract("ij,jk->ik", x, w)
    });
    assert!(zeros.all);
}

/// What is done to the result of a ReLU, and whether it is then still likely zero.
type Likelihood = (&'static str, fn(&mut Lab, Value) -> Value, bool);

#[test]
fn what_a_relu_leaves_is_likely_zero() {
    let cases: &[Likelihood] = &[
        ("relu", |_, y| y, true),
        (
            "gated",
            |l, y| {
                let up = l.param(&[2, 3]);
                l.bin(BinaryOp::Mul, up, y)
            },
            true,
        ),
        (
            "a residual",
            |l, y| {
                let x = l.param(&[2, 3]);
                l.bin(BinaryOp::Add, y, x)
            },
            false,
        ),
        ("moved", |l, y| l.permute(y, &[1, 0]), true),
        ("shifted", |l, y| l.un(UnaryOp::Cos, y), false),
    ];
    for (name, build, expect) in cases {
        let found = zeros(|l| {
            let (x, zero) = (l.param(&[2, 3]), l.splat(&[2, 3], 0.0));
            let y = l.bin(BinaryOp::Max, x, zero);
            build(l, y)
        });
        assert_eq!(found.at_run_time, *expect, "{name}");
    }
}

/// A vector of zero points has a dead index for each that is 0, and is reshaped to its blocks: millions of indices in as many steps.
#[test]
fn long_vectors_are_split_in_one_walk() {
    const N: u64 = 1 << 23;
    let mut from = Zeros::default();
    // Of 2,048 columns all rows of the third are dead, and of others every second one.
    from.add(0, &Indices::of(N, |i| i % 2048 == 2 || (i % 2048 == 5 && i / 2048 % 2 == 0)));
    let split = reshaped(&from, &vec![N].into(), &vec![N / 2048, 2048].into());
    assert_eq!(dead(&split), [(1, vec![2])]);
    let rows = reshaped(&split, &vec![N / 2048, 2048].into(), &vec![N].into());
    assert_eq!(rows.dead(0).map(Indices::len), Some(N / 2048));
}
