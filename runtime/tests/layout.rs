//! Moves, local gathers, masks and packing between slots, against plain Rust models of what they mean.

mod common;

use common::*;
use lacuna_isa::format::{Format, ScalarType, ScaleMode, group, pack};
use lacuna_isa::inst::{Fill, InstKind, Multicast, Operand};
use lacuna_isa::object::{Access, BufferKind, Object};
use lacuna_isa::view::{Dim, Pattern, View};
use lacuna_runtime::TrapKind;

const I32: Format = Format::Scalar(ScalarType::I32);
const I64: Format = Format::Scalar(ScalarType::I64);
const U8: Format = Format::Scalar(ScalarType::U8);

fn ld(dst: Operand, src: u16) -> InstKind {
    InstKind::Ld { dst, src, cast: Multicast::None, fill: Fill::Zero }
}

fn mxfp8() -> Format {
    Format::from_name("mxfp8").expect("a format")
}

fn local(format: Format, dims: [Dim; 5]) -> View {
    View { dims, ..View::dense(format, [1; 5]) }
}

/// An object that loads the weights `planes` through a dense view of `sizes`, does `emit` with the slot's buffer and the
/// result's, and stores the result's planes byte for byte.
fn through(
    format: Format,
    sizes: [u32; 5],
    planes: &[&[u8]],
    out_bytes: u64,
    emit: impl Fn(&mut Builder, u8, u8) -> View,
) -> Object {
    let mut b = Builder::new([1; 4]);
    let w = b.weight(planes);
    let y = b.output(ScalarType::U8, &[out_bytes], Access::Out);
    let (src, l) = (b.view(global(w, format, View::dense(format, sizes).dims)), b.local(format, sizes));
    let (bx, by) =
        (b.buffer("x", BufferKind::Local, 1 << 14, 1), b.buffer("y", BufferKind::Local, 1 << 14, 1));
    b.emit(ld(push(bx, l), src));
    let view = emit(&mut b, bx, by);
    let at = view.planes().plane_offsets(view.slot_elements());
    b.kernel.tensors[usize::from(y)].planes = at;
    let to = View { space: lacuna_isa::view::Space::Global(y), ..view.clone() };
    let (from, to) = (b.view(view), b.view(to));
    b.emit(InstKind::Pop { n: 1, buffer: bx });
    b.emit(InstKind::St { src: pop(by, from), dst: to });
    b.build()
}

fn f32s(n: usize) -> (Vec<f32>, Vec<u8>) {
    let values = noise(n, 21);
    let raw = bytes(&values);
    (values, raw)
}

#[test]
fn transposes() {
    let (x, raw) = f32s(12 * 7);
    let object = through(F32, [1, 1, 1, 12, 7], &[&raw], 12 * 7 * 4, |b, bx, by| {
        let from = b.view(local(F32, [Dim::UNIT, Dim::UNIT, Dim::UNIT, Dim::free(7, 1), Dim::free(12, 7)]));
        let to = View::dense(F32, [1, 1, 1, 7, 12]);
        let v = b.view(to.clone());
        b.emit(InstKind::Move { dst: push(by, v), src: read(bx, 0, from), fill: Fill::Zero });
        to
    });
    let out = floats(&run(&object, &[]).expect("no trap")[0]);
    let want: Vec<f32> = (0..84).map(|i| x[i % 12 * 7 + i / 12]).collect();
    assert_eq!(out, want);
}

/// Patches of 3 out of a row of 10 with one element of padding at both ends, in every fill.
#[test]
fn patches_overlap_and_pad() {
    let fills = [
        (Fill::Zero, 0.0),
        (Fill::One, 1.0),
        (Fill::Least, f32::NEG_INFINITY),
        (Fill::Greatest, f32::INFINITY),
    ];
    for (fill, value) in fills {
        let (x, raw) = f32s(10);
        let object = through(F32, [1, 1, 1, 1, 10], &[&raw], 3 * 10 * 4, |b, bx, by| {
            // Views have one clip for each dimension, so each offset within a patch is a move of its own.
            for k in 0..3i32 {
                let shifted = Dim { size: 10, stride: 1, origin: k - 1, bound: 10 };
                let mut from = local(F32, [Dim::UNIT, Dim::UNIT, Dim::UNIT, Dim::UNIT, shifted]);
                from.offset = i64::from(k - 1);
                let mut to = local(F32, [Dim::UNIT, Dim::UNIT, Dim::UNIT, Dim::UNIT, Dim::free(10, 3)]);
                to.offset = i64::from(k);
                let whole = b.local(F32, [1, 1, 1, 10, 3]);
                if k == 0 {
                    b.kernel.constants.push(0);
                    b.emit(InstKind::Fill { dst: push(by, whole), value: 0 });
                }
                let (from, to) = (b.view(from), b.view(to));
                b.emit(InstKind::Move { dst: update(by, to), src: read(bx, 0, from), fill });
            }
            View::dense(F32, [1, 1, 1, 10, 3])
        });
        let out = floats(&run(&object, &[]).expect("no trap")[0]);
        let at = |i: i32| if (0..10).contains(&i) { x[i as usize] } else { value };
        let want: Vec<f32> = (0..30).map(|i| at(i / 3 + i % 3 - 1)).collect();
        assert_eq!(out, want);
    }
}

#[test]
fn overlapping_windows_in_one_move() {
    let (x, raw) = f32s(16);
    let object = through(F32, [1, 1, 1, 1, 16], &[&raw], 6 * 5 * 4, |b, bx, by| {
        let from = b.view(local(F32, [Dim::UNIT, Dim::UNIT, Dim::UNIT, Dim::free(6, 2), Dim::free(5, 1)]));
        let to = View::dense(F32, [1, 1, 1, 6, 5]);
        let v = b.view(to.clone());
        b.emit(InstKind::Move { dst: push(by, v), src: read(bx, 0, from), fill: Fill::Zero });
        to
    });
    let out = floats(&run(&object, &[]).expect("no trap")[0]);
    assert_eq!(out, (0..30).map(|i| x[i / 5 * 2 + i % 5]).collect::<Vec<_>>());
}

/// Groups move whole, with their scales; what a push leaves is code 0 with scale one; groups widen to scalars anywhere.
#[test]
fn groups_move_whole() {
    let codes: Vec<u8> = (0..128).map(|i| (i % 100) as u8).collect();
    let scales = [120, 121, 130, 131];
    let object = through(mxfp8(), [1, 1, 1, 2, 64], &[&codes, &scales], 3 * 64 + 6, |b, bx, by| {
        // Rows change places, and a third one stays as the push made it.
        let from = b.local(mxfp8(), [1, 1, 1, 2, 64]);
        let mut to = local(mxfp8(), [Dim::UNIT, Dim::UNIT, Dim::UNIT, Dim::free(2, 128), Dim::free(64, 1)]);
        to.offset = 0;
        let v = b.view(to);
        b.emit(InstKind::Move { dst: push(by, v), src: read(bx, 0, from), fill: Fill::Zero });
        View::dense(mxfp8(), [1, 1, 1, 3, 64])
    });
    let out = run(&object, &[]).expect("no trap");
    let want = [&codes[..64], &[0; 64], &codes[64..], &[120, 121, 127, 127, 130, 131]].concat();
    assert_eq!(out[0], want);

    let object = through(mxfp8(), [1, 1, 1, 2, 64], &[&codes, &scales], 10 * 2 * 4, |b, bx, by| {
        let mut from = local(mxfp8(), [Dim::UNIT, Dim::UNIT, Dim::UNIT, Dim::free(10, 1), Dim::free(2, 64)]);
        (from.offset, from.k_dim) = (27, 3);
        let (from, to) = (b.view(from), View::dense(F32, [1, 1, 1, 10, 2]));
        let v = b.view(to.clone());
        b.emit(InstKind::Move { dst: push(by, v), src: read(bx, 0, from), fill: Fill::Zero });
        to
    });
    let out = floats(&run(&object, &[]).expect("no trap")[0]);
    let value = |at: usize| {
        let scale = (f32::from(scales[at / 32]) - 127.0).exp2();
        ScalarType::E4M3.decode_f32(codes[at].into()) * scale
    };
    assert_eq!(out, (0..20).map(|i| value(27 + i / 2 + i % 2 * 64)).collect::<Vec<_>>());
}

#[test]
fn a_move_of_part_of_a_group_traps() {
    let object = through(mxfp8(), [1, 1, 1, 1, 64], &[&[0; 64], &[127; 2]], 33, |b, bx, by| {
        let mut from = local(mxfp8(), [Dim::UNIT, Dim::UNIT, Dim::UNIT, Dim::UNIT, Dim::free(32, 1)]);
        from.offset = 16;
        let (from, to) = (b.view(from), View::dense(mxfp8(), [1, 1, 1, 1, 32]));
        let v = b.view(to.clone());
        b.emit(InstKind::Move { dst: push(by, v), src: read(bx, 0, from), fill: Fill::Zero });
        to
    });
    assert_eq!(run(&object, &[]).err().map(|t| t.kind), Some(TrapKind::PartialGroup));
}

/// An update and a read of one slot.
#[test]
fn a_slot_named_twice_traps() {
    let (_, raw) = f32s(8);
    let object = through(F32, [1, 1, 1, 1, 8], &[&raw], 32, |b, bx, by| {
        let v = b.local(F32, [1, 1, 1, 1, 4]);
        let mut high = View::dense(F32, [1, 1, 1, 1, 4]);
        high.offset = 4;
        let (high, whole) = (b.view(high), View::dense(F32, [1, 1, 1, 1, 8]));
        b.emit(InstKind::Move { dst: update(bx, v), src: read(bx, 0, high), fill: Fill::Zero });
        let w = b.view(whole.clone());
        b.emit(InstKind::Move { dst: push(by, w), src: read(bx, 0, w), fill: Fill::Zero });
        whole
    });
    assert_eq!(run(&object, &[]).err().map(|t| t.kind), Some(TrapKind::SlotConflict));
}

/// An update behind the head while the head is popped goes to its own slot.
#[test]
fn a_slot_keeps_its_place_while_another_leaves() {
    let mut b = Builder::new([1; 4]);
    let x = b.input(ScalarType::F32, &[2, 4]);
    let y = b.output(ScalarType::F32, &[4], Access::Out);
    let sizes = [1, 1, 1, 1, 4];
    let row =
        |register: u8, at: i64| View { offset: at, ..global(register, F32, View::dense(F32, sizes).dims) };
    let (first, second, gy) = (b.view(row(x, 0)), b.view(row(x, 4)), b.view(row(y, 0)));
    let l = b.local(F32, sizes);
    let half = b.local(F32, [1, 1, 1, 1, 2]);
    let buf = b.buffer("x", BufferKind::Local, 16, 2);
    b.emit(ld(push(buf, l), first)).emit(ld(push(buf, l), second));
    let dst = Operand { delta: 1, ..update(buf, half) };
    b.emit(InstKind::Move { dst, src: pop(buf, half), fill: Fill::Zero });
    b.emit(InstKind::St { src: pop(buf, l), dst: gy });
    let out = run(&b.build(), &[&bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])]).expect("no trap");
    assert_eq!(floats(&out[0]), [1.0, 2.0, 7.0, 8.0]);
}

/// Columns of 6 x 5 chosen by indices of both types, some beyond the ends.
#[test]
fn perm_gathers_with_fill() {
    let columns = [4i64, 0, -1, 5, 2, 2, 1 << 40];
    for format in [I32, I64] {
        // i32 cannot say 2^40.
        let columns: Vec<i64> =
            columns.iter().map(|&c| if format == I32 { c.min(1 << 20) } else { c }).collect();
        let (x, raw) = f32s(30);
        let mut b = Builder::new([1; 4]);
        let w = b.weight(&[&raw]);
        let raw: Vec<u8> = columns
            .iter()
            .flat_map(|c| c.to_le_bytes()[..format.element().bits() as usize / 8].to_vec())
            .collect();
        let i = b.weight(&[&raw]);
        let y = b.output(ScalarType::F32, &[6, 7], Access::Out);
        let (sizes, vector, out) = ([1, 1, 1, 6, 5], [1, 1, 1, 1, 7], [1, 1, 1, 6, 7]);
        let gx = b.view(global(w, F32, View::dense(F32, sizes).dims));
        let gi = b.view(global(i, format, View::dense(format, vector).dims));
        let gy = b.view(global(y, F32, View::dense(F32, out).dims));
        let (lx, li, ly) = (b.local(F32, sizes), b.local(format, vector), b.local(F32, out));
        let from = local(F32, [Dim::UNIT, Dim::UNIT, Dim::UNIT, Dim::free(6, 5), dim(7, 1, 5)]);
        let from = b.view(from);
        let bx = b.buffer("x", BufferKind::Local, 120, 1);
        let (bi, by) = (b.buffer("i", BufferKind::Local, 56, 1), b.buffer("y", BufferKind::Local, 168, 1));
        b.emit(ld(push(bx, lx), gx)).emit(ld(push(bi, li), gi));
        b.emit(InstKind::Perm {
            dst: push(by, ly),
            src: pop(bx, from),
            idx: pop(bi, li),
            dim: 4,
            fill: Fill::One,
        });
        b.emit(InstKind::St { src: pop(by, ly), dst: gy });
        let got = floats(&run(&b.build(), &[]).expect("no trap")[0]);
        let at = |r: usize, c: i64| if (0..5).contains(&c) { x[r * 5 + c as usize] } else { 1.0 };
        assert_eq!(got, (0..42).map(|i| at(i / 7, columns[i % 7])).collect::<Vec<_>>());
    }
}

#[test]
fn masks_combine_rows() {
    let format = Format::Scalar(ScalarType::E4M3);
    // Zero of both signs, NaN, and numbers.
    let codes = [0u8, 0x80, 0x7F, 1, 0, 0x80, 0, 0, 0x80, 0, 0, 9];
    let check = |sizes: [u32; 5], clip: u32, want: &[u8]| {
        let object = through(format, [1, 1, 1, 3, 4], &[&codes], want.len() as u64, |b, bx, by| {
            let mut from = View::dense(format, [1, 1, 1, 3, 4]);
            from.dims[3].bound = clip;
            let (from, to) = (b.view(from), View::dense(Format::Scalar(ScalarType::Bool), sizes));
            let v = b.view(to.clone());
            b.emit(InstKind::Mask { dst: push(by, v), src: read(bx, 0, from) });
            to
        });
        assert_eq!(run(&object, &[]).expect("no trap")[0], want, "{sizes:?} {clip}");
    };
    check([1, 1, 1, 3, 4], 3, &[0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    check([1, 1, 1, 1, 4], 3, &[0, 0, 1, 1]);
    check([1, 1, 1, 3, 1], 3, &[1, 0, 1]);
    check([1, 1, 1, 3, 1], 2, &[1, 0, 0]);
    check([1, 1, 1, 1, 1], 0, &[0]);
}

/// The n greatest magnitudes of each m in ascending order of their places.
fn packed(codes: &[u8], ty: ScalarType, Pattern { n, m }: Pattern) -> (Vec<u64>, Vec<u64>) {
    let (mut kept, mut indices) = (Vec::new(), Vec::new());
    for g in 0..codes.len() * 8 / ty.bits() as usize / usize::from(m) {
        let code = |j: usize| pack::get(codes, ty, g * usize::from(m) + j);
        let magnitude =
            |j: usize| Some(ty.decode(code(j)).abs()).filter(|v| !v.is_nan()).unwrap_or(f64::INFINITY);
        let mut chosen: Vec<usize> = Vec::new();
        for _ in 0..n {
            let mut best: Option<usize> = None;
            for j in (0..usize::from(m)).filter(|j| !chosen.contains(j)) {
                if best.is_none_or(|b| magnitude(j) > magnitude(b)) {
                    best = Some(j);
                }
            }
            chosen.extend(best);
        }
        chosen.sort_unstable();
        kept.extend(chosen.iter().map(|&j| code(j)));
        indices.extend(chosen.iter().map(|&j| j as u64));
    }
    (kept, indices)
}

#[test]
fn pack_keeps_the_greatest() {
    let patterns = [(2, 4), (1, 2), (4, 8), (1, 4), (4, 4), (8, 16)].map(|(n, m)| Pattern { n, m });
    let formats = [ScalarType::E2M1, ScalarType::I8, ScalarType::Bf16, ScalarType::F32].map(Format::Scalar);
    for (format, pattern) in formats.into_iter().chain([mxfp8()]).flat_map(|f| patterns.map(|p| (f, p))) {
        let ty = format.element();
        let mut codes = vec![0; ty.bytes_for(256) as usize];
        // Few different values, so that there are ties.
        noise(256, 4).iter().enumerate().for_each(|(i, v)| {
            pack::set(&mut codes, ty, i, u64::from(ty.encode_f32(v.round())));
        });
        let scales = [120u8, 121, 122, 123, 124, 125, 126, 127];
        let mut to = View { pattern: Some(pattern), ..View::dense(format, [1, 1, 1, 4, 64]) };
        to.k_dim = 4;
        let sizes = to.planes().plane_bytes(256);
        let grouped = format.group_size() > 1;
        let planes: &[&[u8]] = if grouped { &[&codes, &scales] } else { &[&codes] };
        let object = through(format, [1, 1, 1, 4, 64], planes, sizes.iter().sum(), |b, bx, by| {
            let (from, v) = (b.local(format, [1, 1, 1, 4, 64]), b.view(to.clone()));
            b.emit(InstKind::Pack { dst: push(by, v), src: read(bx, 0, from) });
            to.clone()
        });
        let out = run(&object, &[]).unwrap_or_else(|t| panic!("{format} {pattern}: {t}"));
        let (kept, indices) = packed(&codes, ty, pattern);
        let mut want = vec![0; sizes[0] as usize];
        kept.iter().enumerate().for_each(|(i, &code)| pack::set(&mut want, ty, i, code));
        if grouped {
            want.extend(scales);
        }
        let mut places = vec![0; sizes[2] as usize];
        indices.iter().enumerate().for_each(|(i, &j)| pack::set(&mut places, pattern.index_type(), i, j));
        want.extend(places);
        assert_eq!(out[0], want, "{format} {pattern}");
    }
}

/// A panel whose pattern runs along a strided dimension, packed where a product reads it.
#[test]
fn pack_along_an_outer_dimension() {
    let (x, raw) = f32s(8 * 3);
    let mut to = View { pattern: Some(Pattern::P2_4), ..View::dense(F32, [1, 1, 1, 8, 3]) };
    to.k_dim = 3;
    let object = through(F32, [1, 1, 1, 8, 3], &[&raw], 4 * 3 * 4 + 3, |b, bx, by| {
        let (from, v) = (b.local(F32, [1, 1, 1, 8, 3]), b.view(to.clone()));
        b.emit(InstKind::Pack { dst: push(by, v), src: read(bx, 0, from) });
        to.clone()
    });
    let out = run(&object, &[]).expect("no trap");
    for c in 0..3 {
        let column: Vec<f32> = (0..8).map(|k| x[k * 3 + c]).collect();
        let (kept, indices) = packed(&bytes(&column), ScalarType::F32, Pattern::P2_4);
        for j in 0..4 {
            let at = j * 3 + c;
            assert_eq!(pack::get(&out[0], ScalarType::F32, at), kept[j]);
            assert_eq!(pack::get(&out[0][48..], ScalarType::U2, at), indices[j]);
        }
    }
}

/// Quantised rows come out of a move into bytes as they went in.
#[test]
fn bytes_are_bytes() {
    let format = lacuna_isa::format::GroupFormat::MXFP8;
    let values = noise(64, 8);
    let (mut codes, mut scales) = (vec![0; 64], vec![0; 2]);
    group::quantize_rows(format, ScaleMode::Floor, &values, 64, &mut codes, &mut scales);
    let object = through(U8, [1, 1, 1, 1, 64], &[&codes], 64, |b, bx, by| {
        let to = View::dense(U8, [1, 1, 1, 1, 64]);
        let v = b.view(to.clone());
        b.emit(InstKind::Move { dst: push(by, v), src: read(bx, 0, v), fill: Fill::Zero });
        to
    });
    assert_eq!(run(&object, &[]).expect("no trap")[0], codes);
}

/// Numbers below `n` without a pattern.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 % n.max(1)
    }

    /// A view of some sizes whose clips cut anywhere.
    fn view(&mut self, sizes: [u32; 5]) -> View {
        let dims = sizes.map(|size| Dim {
            size,
            stride: self.below(7) as i32,
            origin: self.below(4) as i32 - 1,
            bound: if self.below(3) == 0 { self.below(size + 2) } else { u32::MAX >> 1 },
        });
        View { offset: i64::from(self.below(5)), ..local(F32, dims) }
    }
}

fn inside(view: &View, i: [u32; 5]) -> bool {
    (0..5).all(|d| {
        (0..i64::from(view.dims[d].bound)).contains(&(i64::from(view.dims[d].origin) + i64::from(i[d])))
    })
}

fn place(view: &View, i: [u32; 5]) -> usize {
    (view.offset + (0..5).map(|d| i64::from(view.dims[d].stride) * i64::from(i[d])).sum::<i64>()) as usize
}

/// Moves and local gathers between any two views are what their definition says, element by element.
#[test]
fn any_two_views() {
    let mut dice = Dice(5);
    for case in 0..400 {
        let sizes = [(); 5].map(|()| 1 + dice.below(4));
        let (mut from, to) = (dice.view(sizes), dice.view(sizes));
        let dim = (case % 2 == 0).then(|| dice.below(5) as usize);
        if let Some(d) = dim {
            from.dims[d].bound = 1 + dice.below(6);
        }
        let n_from = {
            let mut whole = from.clone();
            dim.into_iter().for_each(|d| whole.dims[d].size = whole.dims[d].size.max(whole.dims[d].bound));
            whole.slot_elements() as usize
        };
        let n_to = to.slot_elements() as usize;
        let indices: Vec<i32> = (0..4).map(|_| dice.below(8) as i32 - 1).collect();
        let (x, raw) = f32s(n_from);
        let object = through(F32, [1, 1, 1, 1, n_from as u32], &[&raw], n_to as u64 * 4, |b, bx, by| {
            let (src, dst) = (b.view(from.clone()), b.view(to.clone()));
            let (src, dst) = (read(bx, 0, src), push(by, dst));
            match dim {
                None => b.emit(InstKind::Move { dst, src, fill: Fill::One }),
                Some(d) => {
                    let raw: Vec<u8> = indices.iter().flat_map(|i| i.to_le_bytes()).collect();
                    let mut vector = [1; 5];
                    vector[d] = sizes[d];
                    let w = b.weight(&[&raw]);
                    let gi = b.view(global(w, I32, View::dense(I32, vector).dims));
                    let (bi, li) = (b.buffer("i", BufferKind::Local, 16, 1), b.local(I32, vector));
                    b.emit(ld(push(bi, li), gi));
                    b.emit(InstKind::Perm { dst, src, idx: pop(bi, li), dim: d as u8, fill: Fill::One })
                }
            };
            View::dense(F32, [1, 1, 1, 1, n_to as u32])
        });
        let mut all: Vec<[u32; 5]> = (0..sizes.iter().product::<u32>())
            .map(|number| {
                let mut rest = number;
                let mut i = [0; 5];
                for d in (0..5).rev() {
                    (i[d], rest) = (rest % sizes[d], rest / sizes[d]);
                }
                i
            })
            .filter(|i| inside(&to, *i))
            .collect();
        all.sort_by_key(|i| dim.map(|d| i[d]));
        let source = |i: [u32; 5]| {
            let (mut view, mut j) = (from.clone(), i);
            if let Some(d) = dim {
                let idx = indices[i[d] as usize];
                (view.dims[d].origin, j[d]) = (0, u32::try_from(idx).unwrap_or(u32::MAX >> 1));
            }
            inside(&view, j).then(|| x[place(&view, j)])
        };
        let mut want = vec![0f32; n_to];
        all.iter().for_each(|&i| want[place(&to, i)] = 1.0);
        all.iter().for_each(|&i| source(i).into_iter().for_each(|value| want[place(&to, i)] = value));
        let out = run(&object, &[]).unwrap_or_else(|t| panic!("case {case}: {t}\n{from:?}\n{to:?}"));
        assert_eq!(floats(&out[0]), want, "case {case} {dim:?} {indices:?}\n{from:?}\n{to:?}");
    }
}
