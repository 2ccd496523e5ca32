//! `sort` and `merge` against the standard library's stable sort, and what an SE program makes of their results.

mod common;

use common::*;
use lacuna_isa::format::{Format, ScalarType, ScaleMode, pack};
use lacuna_isa::inst::{Fill, InstKind, Multicast, Operand};
use lacuna_isa::object::{Access, BufferKind, Object};
use lacuna_isa::program::{Lane, Program, Reg, SeBinary, SeOp, Stream};
use lacuna_isa::view::View;
use lacuna_runtime::TrapKind;
use proptest::prelude::*;

const I64: Format = Format::Scalar(ScalarType::I64);

fn ld(dst: Operand, src: u16) -> InstKind {
    InstKind::Ld { dst, src, cast: Multicast::None, fill: Fill::Zero }
}

/// Sorts `rows` rows of `n`, of which `bound` elements take part. With `halves`, each half of a row is sorted on its own, and
/// both are merged.
fn sorting(ty: ScalarType, rows: u32, n: u32, bound: u32, k: u16, descending: bool, halves: bool) -> Object {
    let mut b = Builder::new([1; 4]);
    let format = Format::Scalar(ty);
    let x = b.input(ty, &[u64::from(rows * n)]);
    let y = b.output(ScalarType::I64, &[u64::from(rows) * u64::from(k)], Access::Out);
    let dense = View::dense(format, [1, 1, 1, rows, n]);
    let far = b.view(global(x, format, dense.dims));
    let whole = b.view(dense.clone());
    let results = View::dense(I64, [1, 1, 1, rows, u32::from(k)]);
    let to = b.view(global(y, I64, results.dims));
    let results = b.view(results);
    let near = b.buffer("x", BufferKind::Local, ty.bytes_for(u64::from(rows * n)) as u32, 1);
    let sorted = b.buffer("sorted", BufferKind::Local, rows * u32::from(k) * 8, 2);
    let merged = b.buffer("merged", BufferKind::Local, rows * u32::from(k) * 8, 1);
    b.emit(ld(push(near, whole), far));
    let part = |first: u32, size: u32| {
        let mut view = dense.clone();
        view.offset = i64::from(first);
        (view.dims[4].size, view.dims[4].origin, view.dims[4].bound) = (size, first as i32, bound);
        view
    };
    if halves {
        let (low, high) = (b.view(part(0, n / 2)), b.view(part(n / 2, n - n / 2)));
        for src in [read(near, 0, low), pop(near, high)] {
            b.emit(InstKind::Sort { dst: push(sorted, results), src, k, descending });
        }
        let (a, c) = (read(sorted, 0, results), read(sorted, 1, results));
        b.emit(InstKind::Merge { dst: push(merged, results), a, b: c, k });
        b.emit(InstKind::Pop { n: 2, buffer: sorted });
        b.emit(InstKind::St { src: pop(merged, results), dst: to });
    } else {
        let all = b.view(part(0, n));
        b.emit(InstKind::Sort { dst: push(sorted, results), src: pop(near, all), k, descending });
        b.emit(InstKind::St { src: pop(sorted, results), dst: to });
    }
    b.build()
}

fn longs(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect()
}

/// Values in order with their indices, NaN greatest, zeros equal.
fn model(values: &[f64], k: usize, descending: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let compare = |a: f64, b: f64| match (a.is_nan(), b.is_nan()) {
        (false, false) => a.partial_cmp(&b).expect("numbers"),
        (a, b) => a.cmp(&b),
    };
    order.sort_by(|&i, &j| {
        let order = compare(values[i], values[j]);
        if descending { order.reverse() } else { order }
    });
    order.truncate(k);
    order
}

fn check(ty: ScalarType, codes: &[u64], bound: u32, k: u16, descending: bool, halves: bool) {
    let n = codes.len() as u32 / 2;
    let mut input = vec![0; ty.bytes_for(codes.len() as u64) as usize];
    codes.iter().enumerate().for_each(|(i, &code)| pack::set(&mut input, ty, i, code));
    let out = run(&sorting(ty, 2, n, bound, k, descending, halves), &[&input]).expect("no trap");
    for (row, found) in codes.chunks(n as usize).zip(longs(&out[0]).chunks(usize::from(k))) {
        let values: Vec<f64> = row[..bound.min(n) as usize].iter().map(|&code| ty.decode(code)).collect();
        let want = model(&values, usize::from(k), descending);
        assert!(found.is_sorted(), "{ty:?} {found:?}");
        let (there, missing) = found.split_at(want.len());
        assert!(missing.iter().all(|&value| value == i64::MAX), "{ty:?} {found:?}");
        let indices: Vec<usize> = there.iter().map(|&value| (value & 0xFFFF_FFFF) as usize).collect();
        assert_eq!(indices, want, "{ty:?} of {values:?}, descending {descending}, halves {halves}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sorting_is_stable(
        ty in prop::sample::select(vec![
            ScalarType::F32, ScalarType::F16, ScalarType::Bf16, ScalarType::E4M3, ScalarType::I32, ScalarType::U32,
            ScalarType::I16, ScalarType::U8, ScalarType::I8, ScalarType::Bool, ScalarType::E2M1,
        ]),
        // Few distinct codes, so that there are equal keys.
        raw in prop::collection::vec(prop_oneof![0..4u64, any::<u64>()], 2..40),
        k in 1..30u16,
        cut in 0..4u32,
        descending: bool,
        halves: bool,
    ) {
        let mask = (1u64 << ty.bits()) - 1;
        let mut codes: Vec<u64> = raw.iter().map(|code| code & mask).collect();
        if ty == ScalarType::Bool {
            codes.iter_mut().for_each(|code| *code &= 1);
        }
        codes.truncate(raw.len() / 2 * 2);
        let n = codes.len() as u32 / 2;
        check(ty, &codes, n.saturating_sub(cut).max(1), k, descending, halves);
    }
}

#[test]
fn floats_with_all_their_specials() {
    let values = [
        1.0,
        f32::NAN,
        -0.0,
        0.0,
        f32::INFINITY,
        -1.0,
        f32::NEG_INFINITY,
        -f32::NAN,
        0.0,
        -1e-45,
        1e-45,
        1.0,
    ];
    let codes: Vec<u64> = values.iter().chain(&values).map(|v| u64::from(v.to_bits())).collect();
    for descending in [false, true] {
        for halves in [false, true] {
            check(ScalarType::F32, &codes, 12, 12, descending, halves);
        }
    }
}

/// An SE program gets index and value back with shifts and masks.
#[test]
fn programs_decode_results() {
    for descending in [false, true] {
        let mut b = Builder::new([1; 4]);
        let n = 10u32;
        let x = b.input(ScalarType::F32, &[u64::from(n)]);
        let y = b.output(ScalarType::F32, &[u64::from(n)], Access::Out);
        let z = b.output(ScalarType::I32, &[u64::from(n)], Access::Out);
        let sizes = [1, 1, 1, 1, n];
        let i32s = Format::Scalar(ScalarType::I32);
        let (gx, gy) = (
            b.view(global(x, F32, View::dense(F32, sizes).dims)),
            b.view(global(y, F32, View::dense(F32, sizes).dims)),
        );
        let gz = b.view(global(z, i32s, View::dense(i32s, sizes).dims));
        let (lx, ls, lz) = (b.local(F32, sizes), b.local(I64, sizes), b.local(i32s, sizes));
        let near = b.buffer("x", BufferKind::Local, 4 * n, 1);
        let sorted = b.buffer("sorted", BufferKind::Local, 8 * n, 1);
        let values = b.buffer("values", BufferKind::Local, 4 * n, 1);
        let indices = b.buffer("indices", BufferKind::Local, 4 * n, 1);
        let stream = |operand: Operand| Stream { operand, mode: ScaleMode::Floor };
        let r = Reg;
        let mut body = vec![
            SeOp::Load { dst: r(0), lane: Lane::I64, stream: 0 },
            SeOp::Convert { from: Lane::I64, to: Lane::I32, dst: r(1), a: r(0) },
            SeOp::Store { stream: 2, lane: Lane::I32, src: r(1) },
            SeOp::Const { dst: r(2), lane: Lane::I64, index: 0 },
            SeOp::Binary { f: SeBinary::Shr, lane: Lane::I64, dst: r(3), a: r(0), b: r(2) },
            SeOp::Convert { from: Lane::I64, to: Lane::I32, dst: r(4), a: r(3) },
        ];
        if descending {
            body.push(SeOp::Unary {
                f: lacuna_isa::program::SeUnary::Inv,
                lane: Lane::I32,
                dst: r(4),
                a: r(4),
            });
        }
        body.extend([
            SeOp::Const { dst: r(5), lane: Lane::I32, index: 1 },
            SeOp::Const { dst: r(6), lane: Lane::I32, index: 2 },
            SeOp::Binary { f: SeBinary::Lt, lane: Lane::I32, dst: r(7), a: r(4), b: r(5) },
            SeOp::Binary { f: SeBinary::Xor, lane: Lane::I32, dst: r(8), a: r(4), b: r(6) },
            SeOp::Select { lane: Lane::I32, dst: r(9), c: r(7), a: r(8), b: r(4) },
            SeOp::Store { stream: 1, lane: Lane::F32, src: r(9) },
        ]);
        let program = b.program(Program {
            name: "decode".into(),
            domain: lx,
            parallel: 5,
            streams: vec![stream(pop(sorted, ls)), stream(push(values, lx)), stream(push(indices, lz))],
            constants: vec![32, 0, 0x7FFF_FFFF],
            body,
            ..Program::default()
        });
        b.emit(ld(push(near, lx), gx))
            .emit(InstKind::Sort { dst: push(sorted, ls), src: pop(near, lx), k: n as u16, descending })
            .emit(InstKind::Run { program })
            .emit(InstKind::St { src: pop(values, lx), dst: gy })
            .emit(InstKind::St { src: pop(indices, lz), dst: gz });
        let mut input = noise(n as usize, 6);
        (input[2], input[5]) = (f32::INFINITY, input[1]);
        let out = run(&b.build(), &[&bytes(&input)]).expect("no trap");
        let order = model(&input.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), n as usize, descending);
        assert_eq!(floats(&out[0]), order.iter().map(|&i| input[i]).collect::<Vec<_>>());
        let found = out[1].as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b) as usize);
        assert_eq!(found.collect::<Vec<_>>(), order);
    }
}

#[test]
fn other_shapes_trap() {
    let mut object = sorting(ScalarType::F32, 2, 8, 8, 4, false, true);
    for inst in &mut object.kernels[0].code {
        if let InstKind::Merge { k, .. } = &mut inst.kind {
            *k = 3;
        }
    }
    let trap = run(&object, &[&bytes(&noise(16, 7))]).expect_err("a trap");
    assert_eq!(trap.kind, TrapKind::ShapeMismatch);
}
