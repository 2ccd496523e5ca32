//! Conversions to narrow formats move, meet and vanish.

use lacuna_ir::{Op, Value};
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode};

use super::{Case, case};
use crate::testing::Lab;

/// Groups along `axis`, in a format and with scales that the seed chooses.
fn quantize(l: &mut Lab, x: Value, axis: usize) -> Value {
    let formats = [GroupFormat::MXFP8, GroupFormat::MXFP4, GroupFormat::MXINT8];
    let modes = [ScaleMode::Floor, ScaleMode::Ceil];
    let (format, mode) = (formats[l.random(3) as usize], modes[l.random(2) as usize]);
    l.emit(Op::MxQuantize { format, axis: axis as u8, mode }, &[x])
}

fn cast(l: &mut Lab, x: Value) -> Value {
    let to = [ScalarType::Bf16, ScalarType::F16, ScalarType::E4M3, ScalarType::I8][l.random(4) as usize];
    let saturate = l.random(2) == 0;
    l.emit(Op::Cast { to, saturate }, &[x])
}

/// A size with a short last group, with whole groups, or with less than one.
fn length(l: &mut Lab) -> u64 {
    l.floats();
    [1, 5, 32, 33, 64][l.random(5) as usize]
}

/// Sizes of three dimensions, of which the last is for groups.
fn sizes(l: &mut Lab) -> Vec<u64> {
    vec![l.dim(), l.dim(), length(l)]
}

/// A part of the first two dimensions, in steps of either sign.
fn part(l: &mut Lab, x: Value) -> Value {
    let from = l.shape(x);
    let (mut starts, mut shape, mut steps) = (vec![0; 3], from.clone(), vec![1; 3]);
    for d in 0..2 {
        shape[d] = 1 + l.random(from[d]);
        starts[d] = l.random(from[d] - shape[d] + 1) as i64;
        if l.random(2) == 0 {
            starts[d] += shape[d] as i64 - 1;
            steps[d] = -1;
        }
    }
    l.emit(Op::Slice { starts, shape: shape.into(), steps }, &[x])
}

/// A value of a type of 16 bits, in one that has all of its numbers.
fn widened(l: &mut Lab, shape: &[u64]) -> Value {
    let x = l.param(shape);
    let to = [ScalarType::Bf16, ScalarType::F16][l.random(2) as usize];
    let x = l.emit(Op::Cast { to, saturate: true }, &[x]);
    l.emit(Op::Cast { to: ScalarType::F32, saturate: true }, &[x])
}

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "quantize-before-permute",
            |l| {
                let d = sizes(l);
                let (x, perm) = (l.param(&d), l.perm(3));
                let y = l.permute(x, &perm);
                let axis = l.random(3) as usize;
                quantize(l, y, axis)
            },
            "permute[..](mx_quantize(..))",
        ),
        case(
            "quantize-before-broadcast",
            |l| {
                let d = sizes(l);
                let x = l.param(&[d[0], 1, d[2]]);
                let y = l.broadcast(x, &[0, 1, 3], &[d[0], d[1], 3, d[2]]);
                quantize(l, y, 3)
            },
            "broadcast[..](mx_quantize(..))",
        ),
        case(
            "quantize-before-slice",
            |l| {
                let d = sizes(l);
                let x = l.param(&d);
                let y = part(l, x);
                quantize(l, y, 2)
            },
            "slice(mx_quantize(..))",
        ),
        case(
            "quantize-of-widened",
            |l| {
                let d = sizes(l);
                let y = widened(l, &d);
                quantize(l, y, 2)
            },
            "mx_quantize(cast(..))",
        ),
        case(
            "cast-of-widened",
            |l| {
                let d = l.dims(3);
                let y = widened(l, &d);
                cast(l, y)
            },
            "cast(param0)",
        ),
        case(
            "cast-before-permute",
            |l| {
                let (d, perm) = (l.dims(3), l.perm(3));
                let x = l.param(&d);
                let y = l.permute(x, &perm);
                cast(l, y)
            },
            "permute[..](cast(..))",
        ),
        case(
            "cast-before-reshape",
            |l| {
                let d = l.dims(3);
                let x = l.param(&d);
                let y = l.reshape(x, &[d[0] * d[1], d[2]]);
                cast(l, y)
            },
            "reshape(cast(..))",
        ),
        case(
            "cast-before-slice",
            |l| {
                let d = sizes(l);
                let x = l.param(&d);
                let y = part(l, x);
                cast(l, y)
            },
            "slice(cast(..))",
        ),
        case(
            "cast-before-concat",
            |l| {
                let d = l.dims(2);
                let (x, y) = (l.param(&d), l.param(&d));
                let z = l.emit(Op::Concat { axis: 1 }, &[x, y]);
                cast(l, z)
            },
            "concat[1](cast(..), cast(..))",
        ),
    ]
}
