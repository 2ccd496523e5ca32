//! Softmax and attention from their parts.

use lacuna_ir::op::{BinaryOp::*, CompareOp, ReduceOp, UnaryOp};
use lacuna_ir::{Constant, ConstantData, Op, TensorType, Value};
use lacuna_isa::format::ScalarType;

use super::{Case, case};
use crate::testing::Lab;

/// `exp(x - max?)` along the last dimension of three, and its sum spread over it.
fn exponentials(l: &mut Lab) -> (Value, Value, Vec<u64>) {
    let d = l.dims(3);
    let mut x = l.param(&d);
    let keep = [d[0], d[1], 1];
    if l.random(2) == 0 {
        let greatest = l.reduce(ReduceOp::Max, &[2], x);
        let greatest = l.broadcast(greatest, &[0, 1], &d);
        x = l.bin(Sub, x, greatest);
    }
    let exp = l.un(UnaryOp::Exp, x);
    let sum = l.reduce(ReduceOp::Sum, &[2], exp);
    (exp, l.reshape(sum, &keep), d)
}

/// Which way attention is spelled.
#[derive(Clone, Copy, Default)]
pub struct Spelling {
    /// 0 none, 1 after the product, 2 a quotient after it, 3 its root on both sides.
    scale: u64,
    softcap: bool,
    /// 0 none, 1 a constant triangle that is added, 2 one that is selected, 3 from positions, 4 a computed one by key.
    mask: u64,
    /// Keys that a triangle leaves a row at most; 0 for all.
    window: u64,
    low: f32,
    guard: bool,
    /// Keys and values of a group are repeated for its heads.
    grouped: bool,
    /// Keys come transposed, and the result goes out with heads inside.
    turned: bool,
}

/// `[length, keys]` where the key is not behind the query, and in its window, of `bool`.
fn triangle(l: &mut Lab, length: u64, keys: u64, s: &Spelling) -> Value {
    let window = if s.window > 0 { s.window } else { length };
    if s.mask == 3 {
        let iota = |axis| Op::Iota { elem: ScalarType::I64, shape: vec![length, keys].into(), axis };
        let (row, column) = (l.emit(iota(0), &[]), l.emit(iota(1), &[]));
        let behind = l.emit(Op::Compare { op: CompareOp::Le }, &[column, row]);
        let ty = TensorType::new(ScalarType::I64, vec![length, keys]);
        let by = l.b.constant(Constant::new(ty, ConstantData::Splat(window), "")).unwrap();
        let first = l.bin(Sub, row, by);
        let near = l.emit(Op::Compare { op: CompareOp::Lt }, &[first, column]);
        return l.emit(Op::Binary { op: And }, &[behind, near]);
    }
    let near = |row: u64, key: u64| key <= row && row < key + window;
    let bytes = (0..length * keys).map(|i| u8::from(near(i / keys, i % keys))).collect();
    let ty = TensorType::new(ScalarType::Bool, vec![length, keys]);
    let half = l.b.constant(Constant::dense(ty.clone(), bytes, "")).unwrap();
    // Models combine it with masks that keep everything.
    let all = l.b.constant(Constant::new(ty, ConstantData::Splat(1), "")).unwrap();
    l.emit(Op::Binary { op: And }, &[half, all])
}

pub fn attention(l: &mut Lab, s: Spelling) -> Value {
    let (batch, groups, share) = (l.dim(), 1 + l.random(3), if s.grouped { 1 + l.random(2) } else { 1 });
    let heads = groups * share;
    let (length, size, width) = (1 + l.random(5), 1 + l.random(4), l.dim());
    let keys = if s.mask == 0 || s.mask == 4 { l.dim() } else { length };
    let mut q = l.param(&[batch, heads, length, size]);
    let operand = |l: &mut Lab, last: u64| {
        let x = l.param(&[batch, groups, keys, last]);
        if !s.grouped {
            return x;
        }
        let x = l.reshape(x, &[batch, groups, 1, keys, last]);
        let x = l.broadcast(x, &[0, 1, 2, 3, 4], &[batch, groups, share, keys, last]);
        l.reshape(x, &[batch, heads, keys, last])
    };
    let (mut k, v) = (operand(l, size), operand(l, width));
    if s.scale == 3 {
        let by = l.splat(&[batch, heads, length, size], 0.75);
        q = l.bin(Mul, q, by);
        let by = l.splat(&[batch, heads, keys, size], 0.75);
        k = l.bin(Mul, k, by);
    }
    let mut scores = if s.turned {
        let k = l.permute(k, &[0, 1, 3, 2]);
        l.contract("bhqd,bhdk->bhqk", q, k)
    } else {
        l.contract("bhqd,bhkd->bhqk", q, k)
    };
    let full = [batch, heads, length, keys];
    let by = |l: &mut Lab, value| l.splat(&full, value);
    match s.scale {
        1 => {
            let by = by(l, 0.5);
            scores = l.bin(Mul, scores, by);
        }
        2 => {
            let by = by(l, 1.5);
            scores = l.bin(Div, scores, by);
        }
        _ => {}
    }
    if s.softcap {
        let cap = by(l, 2.0);
        scores = l.bin(Div, scores, cap);
        scores = l.un(UnaryOp::Tanh, scores);
        scores = l.bin(Mul, scores, cap);
    }
    match s.mask {
        1 | 3 => {
            let keep = triangle(l, length, keys, &s);
            let (zero, low) = (l.splat(&[length, keys], 0.0), l.splat(&[length, keys], s.low));
            let mask = l.emit(Op::Select {}, &[keep, zero, low]);
            let mask = l.broadcast(mask, &[2, 3], &full);
            scores = l.bin(Add, scores, mask);
        }
        2 => {
            let keep = triangle(l, length, keys, &s);
            let keep = l.broadcast(keep, &[2, 3], &full);
            let low = by(l, s.low);
            scores = l.emit(Op::Select {}, &[keep, scores, low]);
        }
        4 => {
            let mask = l.param(&[batch, 1, 1, keys]);
            let mask = l.broadcast(mask, &[0, 1, 2, 3], &full);
            scores = l.bin(Add, scores, mask);
        }
        _ => {}
    }
    let mut weights = l.emit(Op::Softmax { axis: 3, log: false }, &[scores]);
    if s.guard {
        let nan = l.un(UnaryOp::IsNan, weights);
        let zero = by(l, 0.0);
        weights = l.emit(Op::Select {}, &[nan, zero, weights]);
    }
    let y = l.contract("bhqk,bhkw->bhqw", weights, v);
    if !s.turned {
        return y;
    }
    let y = l.permute(y, &[0, 2, 1, 3]);
    l.reshape(y, &[batch, length, heads * width])
}

/// A spelling at random.
pub fn any_spelling(l: &mut Lab) -> Spelling {
    let (softcap, scale, mask) = (l.random(3) == 0, l.random(4), l.random(5));
    Spelling {
        window: l.random(3),
        scale,
        softcap,
        mask,
        low: [f32::NEG_INFINITY, f32::MIN, -1e9][l.random(3) as usize],
        guard: l.random(2) == 0,
        // Each rewrite of what is between the products doubles with those of repeated keys.
        grouped: !softcap && (scale == 0 || mask == 0) && l.random(2) == 0,
        turned: false,
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "softmax-by-quotient",
            |l| {
                let (exp, sum, d) = exponentials(l);
                let sum = l.broadcast(sum, &[0, 1, 2], &d);
                l.bin(Div, exp, sum)
            },
            "softmax[2](param0)",
        ),
        case(
            "softmax-by-product",
            |l| {
                let (exp, sum, d) = exponentials(l);
                let recip = l.un(UnaryOp::Recip, sum);
                let recip = l.broadcast(recip, &[0, 1, 2], &d);
                l.bin(Mul, exp, recip)
            },
            "softmax[2](param0)",
        ),
        case(
            "softmax-shift",
            |l| {
                let d = l.dims(3);
                let x = l.param(&d);
                let m = l.reduce(ReduceOp::Max, &[2], x);
                let m = l.broadcast(m, &[0, 1], &d);
                let x = l.bin(Sub, x, m);
                l.emit(Op::Softmax { axis: 2, log: false }, &[x])
            },
            "softmax[2](param0)",
        ),
        case(
            "attention",
            |l| {
                let s = any_spelling(l);
                attention(l, s)
            },
            "attention(param0, param1, param2, reshape(..))",
        ),
        Case {
            rule: "attention-of-band",
            with: &["attention"],
            build: |l| {
                let s = Spelling { mask: 1 + l.random(3), ..any_spelling(l) };
                attention(l, s)
            },
            after: "causal attention(param0, param1, param2)",
        },
    ]
}
