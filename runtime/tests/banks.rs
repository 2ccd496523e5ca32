//! `seed`, `resc` and `stat` against what they mean.

mod common;

use common::*;
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Extreme, Fill, InstKind, Multicast, Operand};
use lacuna_isa::object::{Access, BufferKind, Object};
use lacuna_isa::view::{Dim, View};
use lacuna_runtime::TrapKind;

fn ld(dst: Operand, src: u16) -> InstKind {
    InstKind::Ld { dst, src, cast: Multicast::None, fill: Fill::Zero }
}

const ROWS: u32 = 3;
const COLS: u32 = 5;

/// A view of a bank of 3 x 5, by the strides of its last two dimensions.
fn strided(format: Format, rows: i32, cols: i32) -> View {
    let mut view = View::dense(format, [1, 1, 1, ROWS, COLS]);
    (view.dims[3].stride, view.dims[4].stride) = (rows, cols);
    view
}

/// Seeds a bank from a tensor of `ty` through `seed`, multiplies it by a second one through `resc`, and stores it.
fn seeded(ty: ScalarType, seed: &View, factors: Option<(ScalarType, View)>) -> Object {
    let mut b = Builder::new([1; 4]);
    let box_view = View::dense(F32, [1, 1, 1, ROWS, COLS]);
    let load = |b: &mut Builder, name: &str, ty: ScalarType| {
        let format = Format::Scalar(ty);
        let r = b.input(ty, &[15]);
        let far = b.view(global(r, format, View::dense(format, [1, 1, 1, 1, 15]).dims));
        let near = b.local(format, [1, 1, 1, 1, 15]);
        let buffer = b.buffer(name, BufferKind::Local, 60, 1);
        b.emit(ld(push(buffer, near), far));
        buffer
    };
    let source = load(&mut b, "seed", ty);
    let factor = factors.map(|(ty, view)| (load(&mut b, "factor", ty), b.view(view)));
    let out = b.output(ScalarType::F32, &[15], Access::Out);
    let (to, sums, seed) = (b.view(global(out, F32, box_view.dims)), b.view(box_view), b.view(seed.clone()));
    let bank = b.buffer("acc", BufferKind::Bank, 60, 1);
    let result = b.buffer("out", BufferKind::Local, 60, 1);
    b.emit(InstKind::Seed { bank: push(bank, sums), src: pop(source, seed) });
    if let Some((buffer, view)) = factor {
        b.emit(InstKind::Resc { bank: update(bank, sums), src: pop(buffer, view) });
    }
    b.emit(InstKind::Drain { dst: push(result, sums), bank: pop(bank, sums) });
    b.emit(InstKind::St { src: pop(result, sums), dst: to });
    b.build()
}

#[test]
fn a_seed_is_a_bias_or_earlier_sums() {
    let all = noise(15, 1);
    let (x, i) = (bytes(&all), (0..15i8).map(|i| (i - 7) as u8).collect::<Vec<u8>>());
    let check = |object: &Object, input: &[u8], expect: &dyn Fn(usize, usize) -> f32| {
        let out = run(object, &[input]).expect("no trap");
        let want: Vec<f32> = (0..15).map(|at| expect(at / 5, at % 5)).collect();
        assert_eq!(floats(&out[0]), want);
    };
    check(&seeded(ScalarType::F32, &strided(F32, 5, 1), None), &x, &|r, c| all[r * 5 + c]);
    check(&seeded(ScalarType::F32, &strided(F32, 0, 1), None), &x, &|_, c| all[c]);
    check(&seeded(ScalarType::F32, &strided(F32, 1, 0), None), &x, &|r, _| all[r]);
    let small = Format::Scalar(ScalarType::I8);
    check(&seeded(ScalarType::I8, &strided(small, 5, 1), None), &i, &|r, c| (r * 5 + c) as f32 - 7.0);
    // The third row is clipped, and so are the first two columns: they stay +0.
    let mut clipped = strided(F32, 5, 1);
    clipped.dims[3].bound = 2;
    clipped.dims[4].origin = -2;
    check(&seeded(ScalarType::F32, &clipped, None), &x, &|r, c| {
        if r < 2 && c >= 2 { all[r * 5 + c] } else { 0.0 }
    });
}

#[test]
fn a_bank_is_rescaled_by_rows_or_columns() {
    let (seeds, factors) = (noise(15, 2), noise(15, 3));
    for (rows, cols) in [(1, 0), (0, 1), (5, 1), (0, 0)] {
        for ty in [ScalarType::F32, ScalarType::Bf16, ScalarType::F16] {
            let format = Format::Scalar(ty);
            let object =
                seeded(ScalarType::F32, &strided(F32, 5, 1), Some((ty, strided(format, rows, cols))));
            let mut codes = vec![0; ty.bytes_for(15) as usize];
            lacuna_isa::format::pack::encode_slice(ty, &factors, &mut codes, 0);
            let out = run(&object, &[&bytes(&seeds), &codes]).expect("no trap");
            let want: Vec<f32> = (0..15)
                .map(|at| {
                    let from = at / 5 * rows as usize + at % 5 * cols as usize;
                    seeds[at] * ty.decode_f32(ty.encode_f32(factors[from])) + 0.0
                })
                .collect();
            assert_eq!(floats(&out[0]), want, "{ty:?} {rows} {cols}");
        }
    }
}

/// Reduces a bank of 2 x 3 x 5 through `stat` with the result sizes of `to`.
fn reduced(f: Extreme, to: View, from: View) -> Object {
    let mut b = Builder::new([1; 4]);
    let x = b.input(ScalarType::F32, &[30]);
    let whole = View::dense(F32, [1, 1, 2, 3, 5]);
    let n = to.elements() as u32;
    let y = b.output(ScalarType::F32, &[u64::from(n)], Access::Out);
    let store = b.view(global(y, F32, View::dense(F32, to.sizes()).dims));
    let (far, whole) = (b.view(global(x, F32, whole.dims)), b.view(whole));
    let flat = b.view(View::dense(F32, to.sizes()));
    let (to, from) = (b.view(to), b.view(from));
    let near = b.buffer("x", BufferKind::Local, 120, 1);
    let bank = b.buffer("acc", BufferKind::Bank, 120, 1);
    let result = b.buffer("y", BufferKind::Local, 4 * n, 1);
    b.emit(ld(push(near, whole), far));
    b.emit(InstKind::Seed { bank: push(bank, whole), src: pop(near, whole) });
    b.emit(InstKind::Stat { f, dst: push(result, to), bank: pop(bank, from) });
    b.emit(InstKind::St { src: pop(result, flat), dst: store });
    b.build()
}

#[test]
fn statistics_reduce_where_the_result_has_one() {
    let mut x = noise(30, 4);
    (x[7], x[12], x[13]) = (f32::NAN, -0.0, f32::INFINITY);
    let whole = View::dense(F32, [1, 1, 2, 3, 5]);
    for sizes in [[1, 1, 2, 3, 1], [1, 1, 2, 1, 5], [1, 1, 1, 3, 5], [1, 1, 1, 1, 1], [1, 1, 2, 3, 5]] {
        for f in [Extreme::Max, Extreme::Min] {
            let mut want = vec![None::<f32>; sizes.iter().product::<u32>() as usize];
            for (at, &value) in x.iter().enumerate() {
                let idx = [at / 15, at / 5 % 3, at % 5];
                let place = (0..3).fold(0, |n, d| {
                    let size = sizes[d + 2] as usize;
                    n * size + if size == 1 { 0 } else { idx[d] }
                });
                let value = value + 0.0;
                let better = |old: f32| match f {
                    _ if old.is_nan() || value.is_nan() => f32::NAN,
                    Extreme::Max => old.max(value),
                    Extreme::Min => old.min(value),
                };
                want[place] = Some(want[place].map_or(value, better));
            }
            let object = reduced(f, View::dense(F32, sizes), whole.clone());
            let out = floats(&run(&object, &[&bytes(&x)]).expect("no trap")[0]);
            let bits = |v: f32| if v.is_nan() { None } else { Some(v.to_bits()) };
            let want: Vec<_> = want.into_iter().map(|v| bits(v.expect("every place"))).collect();
            assert_eq!(out.into_iter().map(bits).collect::<Vec<_>>(), want, "{sizes:?} {f:?}");
        }
    }
}

/// Clipped columns take no part; over nothing the result is infinite; clipped results are +0.
#[test]
fn statistics_of_parts() {
    let x: Vec<f32> = (0..30).map(|i| i as f32).collect();
    let mut from = View::dense(F32, [1, 1, 2, 3, 5]);
    from.dims[4].bound = 3;
    from.dims[3].bound = 2;
    let mut to = View::dense(F32, [1, 1, 2, 3, 1]);
    to.dims[2].bound = 1;
    let out = run(&reduced(Extreme::Max, to, from), &[&bytes(&x)]).expect("no trap");
    assert_eq!(floats(&out[0]), [2.0, 7.0, f32::NEG_INFINITY, 0.0, 0.0, 0.0]);
}

#[test]
fn other_shapes_trap() {
    let check = |object: Object, n: usize| {
        let trap = run(&object, &[&bytes(&noise(n, 5))]).expect_err("a trap");
        assert_eq!(trap.kind, TrapKind::ShapeMismatch);
    };
    let mut narrow = strided(F32, 5, 1);
    narrow.dims[4] = Dim::free(4, 1);
    check(seeded(ScalarType::F32, &narrow, None), 15);
    check(reduced(Extreme::Max, View::dense(F32, [1, 1, 2, 3, 2]), View::dense(F32, [1, 1, 2, 3, 5])), 30);
}
