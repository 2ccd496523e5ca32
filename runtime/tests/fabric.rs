//! Compressed and masked loads, and scatters, against plain Rust models of what they mean.

mod common;

use common::*;
use lacuna_isa::format::{Format, ScalarType, pack};
use lacuna_isa::inst::{Combine, Fill, InstKind, MaskCode, Multicast};
use lacuna_isa::object::{Access, BufferKind, Object};
use lacuna_isa::sparse::{BLOCK, compress};
use lacuna_isa::target_file::target;
use lacuna_isa::view::{Dim, View};
use lacuna_runtime::{LoadError, Machine, Outcome, RunOptions, TrapKind, profile};

const I32: Format = Format::Scalar(ScalarType::I32);
const BOOL: Format = Format::Scalar(ScalarType::Bool);
const CODES: [MaskCode; 3] = [MaskCode::Bitmap, MaskCode::Nibble, MaskCode::Rows];

/// Codes of which about a quarter are not 0; never NaN.
fn sparse(ty: ScalarType, n: usize, seed: u32) -> Vec<u8> {
    let mut codes = vec![0; ty.bytes_for(n as u64) as usize];
    for (i, value) in noise(n, seed).into_iter().enumerate() {
        if value > 2.0 {
            pack::set(&mut codes, ty, i, u64::from(ty.encode_f32(value)));
        }
    }
    codes
}

fn ints(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn record(object: &Object, inputs: &[&[u8]]) -> lacuna_runtime::LaunchRecord {
    let machine = Machine::load(object).unwrap_or_else(|e| panic!("{e}"));
    let options = RunOptions { record: true, ..RunOptions::default() };
    match machine.run(inputs, &options).unwrap_or_else(|e| panic!("{e}")) {
        Outcome::Done { records, .. } => records.expect("records").remove(0),
        Outcome::Trap(trap) => panic!("{trap}"),
    }
}

/// Loads a box of `rows` x `cols` at (-1, `col`) of a constant of 40 x 100 elements and stores it.
fn ldx(
    format: Format,
    wide: Format,
    code: MaskCode,
    (rows, cols, col): (u32, u32, i32),
    planes: &[&[u8]],
) -> Object {
    let mut b = Builder::new([1; 4]);
    let w = b.weight(planes);
    let shape = [u64::from(rows), u64::from(cols)];
    let y = b.output(wide.element(), &shape, Access::Out);
    let down = Dim { origin: -1, ..dim(rows, 100, 40) };
    let across = Dim { origin: col, ..dim(cols, 1, 100) };
    let src = b.view(global(w, format, [Dim::UNIT, Dim::UNIT, Dim::UNIT, down, across]));
    let sizes = [1, 1, 1, rows, cols];
    let dst = b.view(global(y, wide, View::dense(wide, sizes).dims));
    let l = b.local(wide, sizes);
    let buf = b.buffer("x", BufferKind::Local, 1 << 16, 1);
    b.emit(InstKind::Ldx { dst: push(buf, l), src, cast: Multicast::None, code });
    b.emit(InstKind::St { src: pop(buf, l), dst });
    b.build()
}

#[test]
fn compressed_tensors_expand() {
    let types = [
        ScalarType::E2M1,
        ScalarType::E2M3,
        ScalarType::E4M3,
        ScalarType::I8,
        ScalarType::Bf16,
        ScalarType::F32,
    ];
    let boxes = [(42, 100, 0), (7, 33, 5), (3, 90, 20), (42, 1, 77)];
    for (ty, code, area) in
        types.into_iter().flat_map(|ty| CODES.into_iter().flat_map(move |c| boxes.map(|area| (ty, c, area))))
    {
        let dense = sparse(ty, 4000, 7);
        let c = compress(&dense, ty, 4000, code).expect("small");
        let format = Format::Scalar(ty);
        let object = ldx(format, format, code, area, &[&c.records, &[], &c.offset_bytes()]);
        let out = run(&object, &[]).unwrap_or_else(|t| panic!("{ty} {code:?} {area:?}: {t}"));
        let (rows, cols, col) = area;
        for (r, k) in (0..rows).flat_map(|r| (0..cols).map(move |k| (r, k))) {
            let (row, at) = (i64::from(r) - 1, i64::from(k) + i64::from(col));
            let inside = (0..40).contains(&row) && (0..100).contains(&at);
            let want = if inside { pack::get(&dense, ty, (row * 100 + at) as usize) } else { 0 };
            let got = pack::get(&out[0], ty, (r * cols + k) as usize);
            assert_eq!(got, want, "{ty} {code:?} {area:?} at {r}, {k}");
        }
    }
}

#[test]
fn compressed_elements_widen() {
    let dense = sparse(ScalarType::I8, 4000, 3);
    let c = compress(&dense, ScalarType::I8, 4000, MaskCode::Nibble).expect("small");
    let (narrow, wide) = (Format::Scalar(ScalarType::I8), I32);
    let object = ldx(narrow, wide, MaskCode::Nibble, (42, 100, 0), &[&c.records, &[], &c.offset_bytes()]);
    let out = run(&object, &[]).expect("no trap");
    let want: Vec<i32> = dense.iter().map(|&b| i32::from(b as i8)).collect();
    assert_eq!(out[0][400..400 + 16000], ints(&want));
}

/// Codes of groups are compressed, scales are not; the slot is the same as from the dense tensor.
#[test]
fn compressed_groups_keep_their_scales() {
    let format = Format::from_name("mxfp8").expect("a format");
    let (n, ty) = (2048usize, ScalarType::E4M3);
    let codes = sparse(ty, n, 11);
    let scales: Vec<u8> = (0..n / 32).map(|i| 120 + (i % 9) as u8).collect();
    let c = compress(&codes, ty, n, MaskCode::Nibble).expect("small");
    let mut b = Builder::new([1; 4]);
    let packed = b.weight(&[&c.records, &scales, &c.offset_bytes()]);
    let plain = b.weight(&[&codes, &scales]);
    let outs = [
        b.output(ScalarType::F32, &[64, 32], Access::Out),
        b.output(ScalarType::F32, &[64, 32], Access::Out),
    ];
    let sizes = [1, 1, 1, 32, 64];
    let l = b.local(F32, sizes);
    let buf = b.buffer("x", BufferKind::Local, 1 << 13, 1);
    for (register, out) in [packed, plain].into_iter().zip(outs) {
        let src = b.view(global(register, format, View::dense(format, sizes).dims));
        let dst = b.view(global(out, F32, View::dense(F32, sizes).dims));
        let to = push(buf, l);
        b.emit(match register == packed {
            true => InstKind::Ldx { dst: to, src, cast: Multicast::None, code: MaskCode::Nibble },
            false => InstKind::Ld { dst: to, src, cast: Multicast::None, fill: Fill::Zero },
        });
        b.emit(InstKind::St { src: pop(buf, l), dst });
    }
    let out = run(&b.build(), &[]).expect("no trap");
    assert_eq!(out[0], out[1]);
    assert!(floats(&out[0]).iter().filter(|v| **v != 0.0).count() > 300);
}

#[test]
fn only_touched_records_cross_the_port() {
    let ty = ScalarType::I8;
    let dense = sparse(ty, 4000, 7);
    let c = compress(&dense, ty, 4000, MaskCode::Nibble).expect("small");
    let format = Format::Scalar(ty);
    let check = |area, blocks: std::ops::Range<usize>| {
        let object = ldx(format, format, MaskCode::Nibble, area, &[&c.records, &[], &c.offset_bytes()]);
        let want = u64::from(c.offsets[blocks.end] - c.offsets[blocks.start]) + 4 * (blocks.len() as u64 + 1);
        let got = record(&object, &[]);
        assert_eq!(got.loaded_bytes, want, "{area:?}");
        let cost = profile(&object, &target("mtia-300").expect("a target"), 0).expect("loads");
        assert_eq!(cost.hbm_bytes, want + got.stored_bytes, "{area:?}");
    };
    check((42, 100, 0), 0..8);
    // Rows 0 to 5: elements 0 to 599.
    check((7, 100, 0), 0..2);
    let whole = record(
        &ldx(format, format, MaskCode::Nibble, (42, 100, 0), &[&c.records, &[], &c.offset_bytes()]),
        &[],
    );
    assert_eq!(whole.loaded_bytes + whole.skipped_bytes, 4000);
    assert!((whole.loaded_bytes as f64) < 0.375 * 4000.0, "{}", whole.loaded_bytes);
}

#[test]
fn malformed_records_trap() {
    let dense = sparse(ScalarType::I8, 4000, 7);
    let c = compress(&dense, ScalarType::I8, 4000, MaskCode::Nibble).expect("small");
    let format = Format::Scalar(ScalarType::I8);
    let check = |records: &[u8], offsets: &[u8], expect: TrapKind| {
        let object = ldx(format, format, MaskCode::Nibble, (42, 100, 0), &[records, &[], offsets]);
        assert_eq!(run(&object, &[]).err().map(|t| t.kind), Some(expect));
    };
    let offsets = c.offset_bytes();
    check(&[0xFF; 2000], &offsets, TrapKind::BadRecord);
    check(&c.records, &offsets[..offsets.len() - 4], TrapKind::OutOfBounds);
    let mut down = offsets.clone();
    down[4..8].fill(0xFF);
    check(&c.records, &down, TrapKind::BadRecord);
    let mut long = c.records.clone();
    long.insert(c.offsets[8] as usize, 0);
    let mut late = offsets;
    late[32..36].copy_from_slice(&(c.offsets[8] + 1).to_le_bytes());
    check(&long, &late, TrapKind::BadRecord);
}

#[test]
fn compressed_tensors_are_constants() {
    let mut b = Builder::new([1; 4]);
    let x = b.input(ScalarType::I8, &[BLOCK as u64]);
    let format = Format::Scalar(ScalarType::I8);
    let sizes = [1, 1, 1, 1, BLOCK as u32];
    let (src, l) = (b.view(global(x, format, View::dense(format, sizes).dims)), b.local(format, sizes));
    let buf = b.buffer("x", BufferKind::Local, 512, 1);
    b.emit(InstKind::Ldx { dst: push(buf, l), src, cast: Multicast::None, code: MaskCode::Rows });
    b.emit(InstKind::Pop { n: 1, buffer: buf });
    let object = b.build();
    assert!(!object.validate().is_empty());
    assert!(matches!(Machine::load(&object), Err(LoadError::Entry { .. })));
}

/// Loads rows of 6 x 64 (mxfp8 along columns, or f32) of which `flags` along dimension `dim` are set, as f32.
fn ldmask(format: Format, dim: u8, flags: &[u8], planes: &[&[u8]]) -> Object {
    let mut b = Builder::new([1; 4]);
    let w = b.weight(planes);
    let f = b.input(ScalarType::Bool, &[flags.len() as u64]);
    let y = b.output(ScalarType::F32, &[6, 64], Access::Out);
    let sizes = [1, 1, 1, 6, 64];
    let src = b.view(global(w, format, View::dense(format, sizes).dims));
    let mut vector = [1; 5];
    vector[usize::from(dim)] = flags.len() as u32;
    let gf = b.view(global(f, BOOL, View::dense(BOOL, vector).dims));
    let (lf, l) = (b.local(BOOL, vector), b.local(F32, sizes));
    let dst = b.view(global(y, F32, View::dense(F32, sizes).dims));
    let (bf, bx) = (b.buffer("f", BufferKind::Local, 64, 1), b.buffer("x", BufferKind::Local, 1536, 1));
    b.emit(InstKind::Ld { dst: push(bf, lf), src: gf, cast: Multicast::None, fill: Fill::Zero });
    b.emit(InstKind::Ldmask { dst: push(bx, l), src, mask: pop(bf, lf), dim });
    b.emit(InstKind::St { src: pop(bx, l), dst });
    b.build()
}

#[test]
fn masked_loads_bring_active_indices() {
    let values: Vec<f32> = noise(384, 5);
    let dense = bytes(&values);
    let mxfp8 = Format::from_name("mxfp8").expect("a format");
    let codes = sparse(ScalarType::E4M3, 384, 9);
    let scales: Vec<u8> = (0..12).map(|i| 125 + i).collect();
    let grouped: Vec<f32> = (0..384)
        .map(|i| ScalarType::E4M3.decode_f32(codes[i].into()) * ((i / 32) as f32 - 2.0).exp2())
        .collect();
    for (dim, n) in [(3u8, 6usize), (4, 64)] {
        for keep in [1usize, 2, 3, 40, 100] {
            let flags: Vec<u8> = (0..n).map(|i| u8::from(i % keep == keep / 2) * 3).collect();
            let active = |i: usize| flags[if dim == 3 { i / 64 } else { i % 64 }] != 0;
            let want = |values: &[f32]| -> Vec<f32> {
                (0..384).map(|i| if active(i) { values[i] } else { 0.0 }).collect()
            };
            let plain = ldmask(F32, dim, &flags, &[&dense]);
            let out = run(&plain, &[&flags]).expect("no trap");
            assert_eq!(floats(&out[0]), want(&values), "f32 {dim} {keep}");
            let n_active = (0..384).filter(|&i| active(i)).count() as u64;
            let counts = record(&plain, &[&flags]);
            assert_eq!(counts.loaded_bytes, n as u64 + 4 * n_active);
            assert_eq!(counts.skipped_bytes, 4 * (384 - n_active));
            let groups = ldmask(mxfp8, dim, &flags, &[&codes, &scales]);
            let out = run(&groups, &[&flags]).expect("no trap");
            assert_eq!(floats(&out[0]), want(&grouped), "mxfp8 {dim} {keep}");
            let n_scales = (0..12).filter(|g| (0..32).any(|j| active(g * 32 + j))).count() as u64;
            assert_eq!(record(&groups, &[&flags]).loaded_bytes, n as u64 + n_active + n_scales);
        }
    }
}

/// Copies a tensor of 5 x 8 into an `inout` one, then scatters 7 x 8 elements into its rows.
fn scatter(ty: ScalarType, (combine, strict): (Combine, bool), grid: [u16; 4]) -> Object {
    let format = Format::Scalar(ty);
    let mut b = Builder::new(grid);
    let x = b.input(ty, &[5, 8]);
    let u = b.input(ty, &[7, 8]);
    let idx = b.input(ScalarType::I32, &[7]);
    let y = b.output(ty, &[5, 8], Access::InOut);
    let sizes = [1, 1, 1, 7, 8];
    let whole =
        |register: u8, rows: u32| global(register, format, View::dense(format, [1, 1, 1, rows, 8]).dims);
    let mut rows = whole(y, 7);
    rows.dims[3].bound = 5;
    let (gx, gu, gy, rows) = (b.view(whole(x, 5)), b.view(whole(u, 7)), b.view(whole(y, 5)), b.view(rows));
    let vector = [1, 1, 1, 7, 1];
    let gi = b.view(global(idx, I32, View::dense(I32, vector).dims));
    let (li, lx, lu) = (b.local(I32, vector), b.local(format, [1, 1, 1, 5, 8]), b.local(format, sizes));
    let (bi, bx) = (b.buffer("i", BufferKind::Local, 28, 1), b.buffer("x", BufferKind::Local, 448, 2));
    let ld = |dst, src| InstKind::Ld { dst, src, cast: Multicast::None, fill: Fill::Zero };
    b.emit(ld(push(bx, lx), gx));
    b.emit(InstKind::St { src: pop(bx, lx), dst: gy });
    b.emit(ld(push(bi, li), gi)).emit(ld(push(bx, lu), gu));
    b.emit(InstKind::Scatter { src: pop(bx, lu), dst: rows, idx: pop(bi, li), dim: 3, strict, combine });
    b.build()
}

const COMBINES: [Combine; 5] = [Combine::Replace, Combine::Add, Combine::Mul, Combine::Min, Combine::Max];

#[test]
fn scatters_combine_in_order() {
    let rows = [3, 0, -1, 3, 5, 4, 3];
    let types = [
        ScalarType::Bool,
        ScalarType::I4,
        ScalarType::U8,
        ScalarType::I8,
        ScalarType::E2M3,
        ScalarType::E4M3,
        ScalarType::F16,
        ScalarType::F32,
        ScalarType::I32,
        ScalarType::F64,
        ScalarType::I64,
    ];
    for (ty, f) in types.into_iter().flat_map(|ty| COMBINES.map(|f| (ty, f))) {
        let make = |n: usize, seed: u32| {
            let mut codes = vec![0; ty.bytes_for(n as u64) as usize];
            for (i, v) in noise(n, seed).into_iter().enumerate() {
                pack::set(&mut codes, ty, i, ty.encode(f64::from(v)));
            }
            codes
        };
        let (x, u) = (make(40, 1), make(56, 2));
        let mut want = x.clone();
        for (i, &row) in rows.iter().enumerate().filter(|(_, row)| (0..5).contains(*row)) {
            for c in 0..8 {
                let at = row as usize * 8 + c;
                // Values are small, so f64 is exact up to the one rounding, and integers do not wrap.
                let (a, b) = (ty.decode(pack::get(&want, ty, at)), ty.decode(pack::get(&u, ty, i * 8 + c)));
                let value = match f {
                    Combine::Replace => b,
                    Combine::Add => a + b,
                    Combine::Mul => a * b,
                    Combine::Min => a.min(b),
                    Combine::Max => a.max(b),
                };
                let value = if ty == ScalarType::I4 { (value + 8.0).rem_euclid(16.0) - 8.0 } else { value };
                let value =
                    if ty == ScalarType::I8 { (value + 128.0).rem_euclid(256.0) - 128.0 } else { value };
                pack::set(&mut want, ty, at, ty.encode(value));
            }
        }
        let out = run(&scatter(ty, (f, false), [1; 4]), &[&x, &u, &ints(&rows)])
            .unwrap_or_else(|t| panic!("{ty} {f:?}: {t}"));
        assert_eq!(out[0], want, "{ty} {f:?}");
    }
}

#[test]
fn strict_scatters_trap_out_of_bounds() {
    let (x, u) = (bytes(&[1.0; 40]), bytes(&[2.0; 56]));
    for rows in [[0, 1, 2, 3, 4, 5, 0], [0, 1, 2, 3, 4, -1, 0]] {
        let trap = run(&scatter(ScalarType::F32, (Combine::Add, true), [1; 4]), &[&x, &u, &ints(&rows)])
            .expect_err("an index out of bounds");
        assert!(trap.to_string().contains("is not in 0..5"), "{trap}");
    }
}

#[test]
fn scattered_extremes_know_signs_and_nan() {
    let check = |f: Combine, held: f32, new: f32, want: f32| {
        let x = bytes(&[held; 40]);
        let u = bytes(&[new; 56]);
        let out =
            run(&scatter(ScalarType::F32, (f, false), [1; 4]), &[&x, &u, &ints(&[0, 9, 9, 9, 9, 9, 9])])
                .expect("no trap");
        assert_eq!(floats(&out[0])[0].to_bits(), want.to_bits(), "{f:?} {held} {new}");
    };
    check(Combine::Min, 0.0, -0.0, -0.0);
    check(Combine::Max, -0.0, 0.0, 0.0);
    check(Combine::Max, f32::NAN, 1.0, f32::NAN);
    check(Combine::Min, 1.0, f32::NAN, f32::NAN);
}

/// A scatter of several PEs to one region is a race, whatever the indices are.
#[test]
fn two_scatters_race() {
    let object = scatter(ScalarType::F32, (Combine::Add, false), [1, 1, 1, 2]);
    let nowhere = ints(&[9; 7]);
    let trap = run(&object, &[&bytes(&[1.0; 40]), &bytes(&[1.0; 56]), &nowhere]).expect_err("a race");
    assert_eq!(trap.kind, TrapKind::Race);
}

/// Whole rows of groups are replaced, codes with scales.
#[test]
fn groups_scatter_by_rows() {
    let format = Format::from_name("mxfp4").expect("a format");
    let mut b = Builder::new([1; 4]);
    let w = b.weight(&[&[0x21; 64], &[10, 20, 30, 40]]);
    let idx = b.input(ScalarType::I32, &[2]);
    let y = b.output(ScalarType::U8, &[102], Access::InOut);
    b.kernel.tensors[usize::from(y)].planes = [0, 96, 102];
    let zero = b.view(global(y, Format::Scalar(ScalarType::U8), View::dense(F32, [1, 1, 1, 1, 102]).dims));
    let plain = b.local(Format::Scalar(ScalarType::U8), [1, 1, 1, 1, 102]);
    let sizes = [1, 1, 1, 2, 64];
    let mut to = global(y, format, View::dense(format, sizes).dims);
    to.dims[3].bound = 3;
    let (src, to) = (b.view(global(w, format, View::dense(format, sizes).dims)), b.view(to));
    let vector = [1, 1, 1, 2, 1];
    let gi = b.view(global(idx, I32, View::dense(I32, vector).dims));
    let (li, l) = (b.local(I32, vector), b.local(format, sizes));
    let (bi, bx) = (b.buffer("i", BufferKind::Local, 8, 1), b.buffer("x", BufferKind::Local, 128, 1));
    b.kernel.constants.push(7);
    let ld = |dst, src| InstKind::Ld { dst, src, cast: Multicast::None, fill: Fill::Zero };
    b.emit(InstKind::Fill { dst: push(bx, plain), value: 0 });
    b.emit(InstKind::St { src: pop(bx, plain), dst: zero });
    b.emit(ld(push(bi, li), gi)).emit(ld(push(bx, l), src));
    b.emit(InstKind::Scatter {
        src: pop(bx, l),
        dst: to,
        idx: pop(bi, li),
        dim: 3,
        strict: false,
        combine: Combine::Replace,
    });
    let out = run(&b.build(), &[&ints(&[2, 0])]).expect("no trap");
    let want = [[0x21; 32], [7; 32], [0x21; 32]].concat();
    assert_eq!(out[0], [want, vec![30, 40, 7, 7, 10, 20]].concat());
}

/// Neighbours further apart than a block, and in descending order.
#[test]
fn compressed_boxes_have_any_strides() {
    let ty = ScalarType::I8;
    let dense = sparse(ty, 4000, 13);
    let c = compress(&dense, ty, 4000, MaskCode::Bitmap).expect("small");
    let format = Format::Scalar(ty);
    for (rows, cols, offset) in
        [((9, 1), (5, 700), 40i64), ((3, 700), (20, -1), 60), ((4, -900), (6, -100), 3900)]
    {
        let mut b = Builder::new([1; 4]);
        let w = b.weight(&[&c.records, &[], &c.offset_bytes()]);
        let y = b.output(ty, &[u64::from(rows.0), u64::from(cols.0)], Access::Out);
        let dims = [Dim::UNIT, Dim::UNIT, Dim::UNIT, dim(rows.0, rows.1, 99), dim(cols.0, cols.1, 99)];
        let src = b.view(View { offset, ..global(w, format, dims) });
        let sizes = [1, 1, 1, rows.0, cols.0];
        let dst = b.view(global(y, format, View::dense(format, sizes).dims));
        let (l, buf) = (b.local(format, sizes), b.buffer("x", BufferKind::Local, 64, 1));
        b.emit(InstKind::Ldx { dst: push(buf, l), src, cast: Multicast::None, code: MaskCode::Bitmap });
        b.emit(InstKind::St { src: pop(buf, l), dst });
        let out = run(&b.build(), &[]).expect("no trap");
        let at =
            |r: u32, k: u32| offset + i64::from(r) * i64::from(rows.1) + i64::from(k) * i64::from(cols.1);
        let all = (0..rows.0).flat_map(|r| (0..cols.0).map(move |k| (r, k)));
        assert_eq!(out[0], all.map(|(r, k)| dense[at(r, k) as usize]).collect::<Vec<_>>());
    }
}

/// A scatter undoes a gather by the same permutation of rows.
#[test]
fn scatters_undo_gathers() {
    let rows = [3, 1, 4, 0, 2];
    let mut b = Builder::new([1; 4]);
    let x = b.input(ScalarType::F32, &[5, 8]);
    let idx = b.input(ScalarType::I32, &[5]);
    let y = b.output(ScalarType::F32, &[5, 8], Access::InOut);
    let sizes = [1, 1, 1, 5, 8];
    let dense = View::dense(F32, sizes);
    let bounded = |register: u8| {
        let mut view = global(register, F32, dense.dims);
        view.dims[3].bound = 5;
        view
    };
    let (gx, gy) = (b.view(bounded(x)), b.view(bounded(y)));
    let vector = [1, 1, 1, 5, 1];
    let gi = b.view(global(idx, I32, View::dense(I32, vector).dims));
    let (l, li) = (b.local(F32, sizes), b.local(I32, vector));
    let (bx, bi) = (b.buffer("x", BufferKind::Local, 160, 1), b.buffer("i", BufferKind::Local, 20, 1));
    b.kernel.constants.push(0);
    b.emit(InstKind::Fill { dst: push(bx, l), value: 0 });
    b.emit(InstKind::St { src: pop(bx, l), dst: gy });
    b.emit(InstKind::Ld { dst: push(bi, li), src: gi, cast: Multicast::None, fill: Fill::Zero });
    b.emit(InstKind::Gather {
        dst: push(bx, l),
        src: gx,
        idx: read(bi, 0, li),
        dim: 3,
        strict: false,
        fill: Fill::Zero,
    });
    b.emit(InstKind::Scatter {
        src: pop(bx, l),
        dst: gy,
        idx: pop(bi, li),
        dim: 3,
        strict: false,
        combine: Combine::Replace,
    });
    let input = bytes(&noise(40, 2));
    let out = run(&b.build(), &[&input, &ints(&rows)]).expect("no trap");
    assert_eq!(out[0], input);
}

/// A box that is all of a tensor, of ordinary density and nearly empty: what crosses the port is the same as in parts.
#[test]
fn whole_compressed_tensors() {
    let ty = ScalarType::I8;
    let format = Format::Scalar(ty);
    let mut empty = vec![0; 4000];
    empty[3999] = 5;
    for (dense, code) in [sparse(ty, 4000, 17), empty].into_iter().flat_map(|d| CODES.map(|c| (d.clone(), c)))
    {
        let c = compress(&dense, ty, 4000, code).expect("small");
        let mut b = Builder::new([1, 1, 1, 2]);
        let w = b.weight(&[&c.records, &[], &c.offset_bytes()]);
        let y = b.output(ty, &[2, 4000], Access::Out);
        let flat = View::dense(format, [1, 1, 1, 1, 4000]);
        let mut to = global(y, format, flat.dims);
        to.coords[3] = step(4, 4000);
        let (src, dst, l) = (b.view(global(w, format, flat.dims)), b.view(to), b.view(flat));
        let buf = b.buffer("x", BufferKind::Local, 4000, 1);
        b.emit(InstKind::Ldx { dst: push(buf, l), src, cast: Multicast::All, code });
        b.emit(InstKind::St { src: pop(buf, l), dst });
        let object = b.build();
        assert_eq!(run(&object, &[]).expect("no trap")[0], [dense.clone(), dense].concat());
        let counts = record(&object, &[]);
        let port = c.records.len() as u64 + 4 * c.offsets.len() as u64;
        assert_eq!(
            (counts.loaded_bytes, counts.loaded_bytes + counts.skipped_bytes),
            (2 * port, 8000.max(2 * port))
        );
    }
}
