//! Kernels written by hand against plain Rust models of what they mean.

mod common;

use common::*;
use lacuna_isa::format::{Format, ScalarType};
use lacuna_isa::inst::{Fill, InstKind, Order};
use lacuna_isa::math;
use lacuna_isa::object::{Access, BufferKind, Object};
use lacuna_isa::program::{Lane, Program, Reg, SeBinary, SeOp, SeReduce, SeUnary};
use lacuna_isa::view::{Dim, View};
use lacuna_runtime::TrapKind;

/// Adds two tensors of 50 x 37 on a 2 x 3 grid of 17 x 16 tiles looped over rows: edges clip on both sides.
#[test]
fn element_wise_add_with_edge_tiles() {
    let (h, w) = (50u32, 37u32);
    let mut b = Builder::new([1, 2, 3, 1]);
    let shape = [u64::from(h), u64::from(w)];
    let (x, y) = (b.input(ScalarType::F32, &shape), b.input(ScalarType::F32, &shape));
    let z = b.output(ScalarType::F32, &shape, Access::Out);
    let tile = [1, 1, 1, 17, 16];
    let mut tiled = |register: u8| {
        let dims = [Dim::UNIT, Dim::UNIT, Dim::UNIT, dim(17, w as i32, h), dim(16, 1, w)];
        let mut view = global(register, F32, dims);
        view.levels[0] = step(3, 34);
        view.coords[1] = step(3, 17);
        view.coords[2] = step(4, 16);
        b.view(view)
    };
    let (vx, vy, vz) = (tiled(x), tiled(y), tiled(z));
    let mut clipped = View::dense(F32, tile);
    clipped.dims[3].bound = h;
    clipped.dims[4].bound = w;
    clipped.levels[0] = step(3, 34);
    clipped.coords[1] = step(3, 17);
    clipped.coords[2] = step(4, 16);
    let domain = b.view(clipped);
    let v = b.local(F32, tile);
    let (bx, by) = (b.buffer("x", BufferKind::Local, 1088, 2), b.buffer("y", BufferKind::Local, 1088, 2));
    let bz = b.buffer("z", BufferKind::Local, 1088, 2);
    let program = b.program(Program {
        name: "add".into(),
        domain,
        parallel: 5,
        streams: vec![stream(pop(bx, v)), stream(pop(by, v)), stream(push(bz, v))],
        body: vec![
            SeOp::Load { dst: Reg(0), lane: Lane::F32, stream: 0 },
            SeOp::Load { dst: Reg(1), lane: Lane::F32, stream: 1 },
            SeOp::Binary { f: SeBinary::Add, lane: Lane::F32, dst: Reg(0), a: Reg(0), b: Reg(1) },
            SeOp::Store { stream: 2, lane: Lane::F32, src: Reg(0) },
        ],
        ..Program::default()
    });
    let trip = b.trip(2);
    b.emit(InstKind::Loop { trip, level: 0, stages: 3 })
        .emit_at(0, ld(push(bx, v), vx))
        .emit_at(0, ld(push(by, v), vy))
        .emit_at(1, InstKind::Run { program })
        .emit_at(2, InstKind::St { src: pop(bz, v), dst: vz })
        .emit(InstKind::End {});
    let object = b.build();
    let (a, c) = (noise(1850, 1), noise(1850, 2));
    let out = run(&object, &[&bytes(&a), &bytes(&c)]).expect("no trap");
    let want: Vec<f32> = a.iter().zip(&c).map(|(a, c)| a + c).collect();
    assert_eq!(floats(&out[0]), want);
}

/// Builds C = A x B of 40 x 70 x 48 in tiles of 16 x 32 x 16 with a double-buffered k loop.
fn matmul_object(stages: u8) -> Object {
    let (m, k, n) = (40u32, 48u32, 70u32);
    let mut b = Builder::new([1, 3, 1, 3]);
    let ra = b.input(ScalarType::F32, &[m.into(), k.into()]);
    let rb = b.input(ScalarType::F32, &[k.into(), n.into()]);
    let rc = b.output(ScalarType::F32, &[m.into(), n.into()], Access::Out);
    let mut va = global(ra, F32, [Dim::UNIT, dim(16, k as i32, m), Dim::UNIT, Dim::UNIT, dim(16, 1, k)]);
    va.coords[1] = step(1, 16);
    va.levels[0] = step(4, 16);
    let mut vb = global(rb, F32, [Dim::UNIT, Dim::UNIT, Dim::UNIT, dim(16, n as i32, k), dim(32, 1, n)]);
    vb.coords[3] = step(4, 32);
    vb.levels[0] = step(3, 16);
    let mut vc = global(rc, F32, [Dim::UNIT, Dim::UNIT, Dim::UNIT, dim(16, n as i32, m), dim(32, 1, n)]);
    vc.coords[1] = step(3, 16);
    vc.coords[3] = step(4, 32);
    let (va, vb, vc) = (b.view(va), b.view(vb), b.view(vc));
    let mut la = View::dense(F32, [1, 16, 1, 1, 16]);
    la.dims[1].bound = m;
    la.coords[1] = step(1, 16);
    let mut lb = View::dense(F32, [1, 1, 1, 16, 32]);
    lb.dims[4].bound = n;
    lb.coords[3] = step(4, 32);
    let (la, lb) = (b.view(la), b.view(lb));
    let lc = b.local(F32, [1, 1, 1, 16, 32]);
    let (ba, bb) = (b.buffer("a", BufferKind::Local, 1024, 2), b.buffer("b", BufferKind::Local, 2048, 2));
    let (acc, bc) = (b.buffer("acc", BufferKind::Bank, 2048, 1), b.buffer("c", BufferKind::Local, 2048, 1));
    let trip = b.trip(3);
    b.emit(InstKind::Zero { bank: push(acc, lc) })
        .emit(InstKind::Loop { trip, level: 0, stages })
        .emit_at(0, ld(push(ba, la), va))
        .emit_at(0, ld(push(bb, lb), vb))
        .emit_at(
            stages - 1,
            InstKind::Mm { bank: update(acc, lc), a: pop(ba, la), b: pop(bb, lb), order: Order::Kn },
        )
        .emit(InstKind::End {})
        .emit(InstKind::Drain { dst: push(bc, lc), bank: pop(acc, lc) })
        .emit(InstKind::St { src: pop(bc, lc), dst: vc });
    b.build()
}

#[test]
fn tiled_product_with_and_without_stages() {
    let (m, k, n) = (40, 48, 70);
    let (a, c) = (noise(m * k, 3), noise(k * n, 4));
    let mut want = vec![0f32; m * n];
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                want[i * n + j] = a[i * k + l].mul_add(c[l * n + j], want[i * n + j]);
            }
        }
    }
    for stages in [1, 2] {
        let out = run(&matmul_object(stages), &[&bytes(&a), &bytes(&c)]).expect("no trap");
        assert_eq!(floats(&out[0]), want, "{stages} stages");
    }
}

fn tree(values: impl Iterator<Item = f32>, start: f32, f: fn(f32, f32) -> f32) -> f32 {
    let mut partials = [start; 16];
    for (i, value) in values.enumerate() {
        partials[i % 16] = f(partials[i % 16], value);
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            partials[i] = f(partials[i], partials[i + half]);
        }
    }
    partials[0]
}

/// Softmax of rows in three programs: maximum, sum of exponentials, quotient. Short and long rows, few and many.
#[test]
fn softmax_by_three_programs() {
    for (rows, cols) in [(12u32, 128u32), (3, 7), (100, 40), (70, 300), (1, 1000)] {
        let mut b = Builder::new([1; 4]);
        let shape = [u64::from(rows), u64::from(cols)];
        let x = b.input(ScalarType::F32, &shape);
        let y = b.output(ScalarType::F32, &shape, Access::Out);
        let sizes = [1, 1, 1, rows, cols];
        let dense = View::dense(F32, sizes);
        let (gx, gy) = (b.view(global(x, F32, dense.dims)), b.view(global(y, F32, dense.dims)));
        let v = b.local(F32, sizes);
        let one = b.local(F32, [1, 1, 1, rows, 1]);
        let mut repeated = View::dense(F32, [1, 1, 1, rows, 1]);
        repeated.dims[4] = Dim::free(1, 0);
        let per_row = b.view(repeated);
        let (bx, by) = (
            b.buffer("x", BufferKind::Local, rows * cols * 4, 1),
            b.buffer("y", BufferKind::Local, rows * cols * 4, 1),
        );
        let (bm, bs) =
            (b.buffer("m", BufferKind::Local, rows * 4, 1), b.buffer("s", BufferKind::Local, rows * 4, 1));
        let load = |dst: u8, stream: u8| SeOp::Load { dst: Reg(dst), lane: Lane::F32, stream };
        let binary = |f, dst: u8, a: u8, b: u8| SeOp::Binary {
            f,
            lane: Lane::F32,
            dst: Reg(dst),
            a: Reg(a),
            b: Reg(b),
        };
        let finish = |f| {
            vec![
                SeOp::Tree { f, lane: Lane::F32, dst: Reg(9), acc: 0 },
                SeOp::Store { stream: 1, lane: Lane::F32, src: Reg(9) },
            ]
        };
        let max = b.program(Program {
            domain: v,
            parallel: 4,
            streams: vec![stream(read(bx, 0, v)), stream(push(bm, one))],
            body: vec![load(0, 0), SeOp::Accumulate { f: SeReduce::Max, lane: Lane::F32, acc: 0, a: Reg(0) }],
            finish: finish(SeReduce::Max),
            ..Program::default()
        });
        let sum = b.program(Program {
            domain: v,
            parallel: 4,
            streams: vec![stream(read(bx, 0, v)), stream(push(bs, one)), stream(read(bm, 0, per_row))],
            init: vec![load(1, 2)],
            body: vec![
                load(0, 0),
                binary(SeBinary::Sub, 0, 0, 1),
                SeOp::Unary { f: SeUnary::Exp, lane: Lane::F32, dst: Reg(0), a: Reg(0) },
                SeOp::Accumulate { f: SeReduce::Sum, lane: Lane::F32, acc: 0, a: Reg(0) },
            ],
            finish: finish(SeReduce::Sum),
            ..Program::default()
        });
        let mut divide_rows = View::dense(F32, sizes);
        divide_rows.dims[3].stride = 1;
        divide_rows.dims[4].stride = 0;
        let spread = b.view(divide_rows);
        let quotient = b.program(Program {
            domain: v,
            parallel: 5,
            streams: vec![
                stream(pop(bx, v)),
                stream(push(by, v)),
                stream(pop(bm, spread)),
                stream(pop(bs, spread)),
            ],
            body: vec![
                load(0, 0),
                load(1, 2),
                load(2, 3),
                binary(SeBinary::Sub, 0, 0, 1),
                SeOp::Unary { f: SeUnary::Exp, lane: Lane::F32, dst: Reg(0), a: Reg(0) },
                binary(SeBinary::Div, 0, 0, 2),
                SeOp::Store { stream: 1, lane: Lane::F32, src: Reg(0) },
            ],
            ..Program::default()
        });
        b.emit(ld(push(bx, v), gx));
        for program in [max, sum, quotient] {
            b.emit(InstKind::Run { program });
        }
        b.emit(InstKind::St { src: pop(by, v), dst: gy });
        let object = b.build();
        let input = noise((rows * cols) as usize, 5);
        let out = run(&object, &[&bytes(&input)]).expect("no trap");
        let mut want = Vec::new();
        for row in input.chunks(cols as usize) {
            let m = tree(row.iter().copied(), f32::NEG_INFINITY, math::fmax);
            let s = tree(row.iter().map(|x| math::exp(x - m)), 0.0, |a, b| a + b);
            want.extend(row.iter().map(|x| math::exp(x - m) / s));
        }
        assert_eq!(floats(&out[0]), want, "{rows} x {cols}");
    }
}

/// A 3 x 3 convolution, stride 2, pad 1, of an 11 x 13 x 5 image to 40 channels, from one padded box.
#[test]
fn convolution_from_a_padded_box() {
    let (h, w, c, oh, ow, oc) = (11u32, 13u32, 5u32, 6u32, 7u32, 40u32);
    let mut b = Builder::new([1; 4]);
    let x = b.input(ScalarType::F32, &[h.into(), w.into(), c.into()]);
    let (hp, wp) = (2 * oh + 1, 2 * ow + 1);
    let kernel = noise((9 * c * oc) as usize, 6);
    let k = 9 * c;
    // Panels [N/32][K][32], the second one padded with zeros.
    let mut panels = vec![0f32; (2 * k * 32) as usize];
    for l in 0..k {
        for o in 0..oc {
            panels[((o / 32 * k + l) * 32 + o % 32) as usize] = kernel[(l * oc + o) as usize];
        }
    }
    let weights = bytes(&panels);
    let wt = b.weight(&[&weights]);
    let y = b.output(ScalarType::F32, &[oh.into(), ow.into(), oc.into()], Access::Out);
    let image = [
        Dim::UNIT,
        Dim::UNIT,
        Dim { size: hp, stride: (w * c) as i32, origin: -1, bound: h },
        Dim { size: wp, stride: c as i32, origin: -1, bound: w },
        dim(c, 1, c),
    ];
    let gx = b.view(global(x, F32, image));
    let gw = b.view(global(wt, F32, View::dense(F32, [2, 1, 1, k, 32]).dims));
    let box_view = b.local(F32, [1, 1, hp, wp, c]);
    let lw = b.local(F32, [2, 1, 1, k, 32]);
    let mut windows = View::dense(F32, [oh, ow, 3, 3, c]);
    let row = (wp * c) as i32;
    for (d, stride) in [2 * row, 2 * c as i32, row, c as i32, 1].into_iter().enumerate() {
        windows.dims[d].stride = stride;
    }
    let windows = b.view(windows);
    let lacc = b.local(F32, [1, 1, 1, oh * ow, 64]);
    let mut used = View::dense(F32, [1, 1, 1, oh * ow, oc]);
    used.dims[3].stride = 64;
    let used = b.view(used);
    let ly = b.local(F32, [1, 1, 1, oh * ow, oc]);
    let gy = b.view(global(y, F32, View::dense(F32, [1, 1, 1, oh * ow, oc]).dims));
    let bx = b.buffer("x", BufferKind::Local, hp * wp * c * 4, 1);
    let bw = b.buffer("w", BufferKind::Local, 2 * k * 32 * 4, 1);
    let acc = b.buffer("acc", BufferKind::Bank, oh * ow * 64 * 4, 1);
    let by = b.buffer("y", BufferKind::Local, oh * ow * oc * 4, 1);
    b.emit(ld(push(bw, lw), gw))
        .emit(ld(push(bx, box_view), gx))
        .emit(InstKind::Mm { bank: push(acc, lacc), a: pop(bx, windows), b: pop(bw, lw), order: Order::Kn })
        .emit(InstKind::Drain { dst: push(by, ly), bank: pop(acc, used) })
        .emit(InstKind::St { src: pop(by, ly), dst: gy });
    let object = b.build();
    let input = noise((h * w * c) as usize, 7);
    let out = run(&object, &[&bytes(&input)]).expect("no trap");
    let mut want = Vec::new();
    for (oy, ox, o) in (0..oh).flat_map(|y| (0..ow).flat_map(move |x| (0..oc).map(move |o| (y, x, o)))) {
        let mut sum = 0f32;
        for (ky, kx, ci) in (0..3).flat_map(|y| (0..3).flat_map(move |x| (0..c).map(move |c| (y, x, c)))) {
            let (iy, ix) = (i64::from(2 * oy + ky) - 1, i64::from(2 * ox + kx) - 1);
            let inside = (0..i64::from(h)).contains(&iy) && (0..i64::from(w)).contains(&ix);
            let value = if inside {
                input[((iy * i64::from(w) + ix) * i64::from(c)) as usize + ci as usize]
            } else {
                0.0
            };
            let weight = kernel[(((ky * 3 + kx) * c + ci) * oc + o) as usize];
            sum = value.mul_add(weight, sum);
        }
        want.push(sum + 0.0);
    }
    assert_eq!(floats(&out[0]), want);
}

/// Gathers rows by i64 indices; rows out of bounds get the fill, or trap.
#[test]
fn gather_of_rows() {
    let (kernel, inputs, want) = gather_rows(false);
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    assert_eq!(floats(&run(&kernel, &inputs).expect("no trap")[0]), want);
    let (kernel, mut inputs, _) = gather_rows(true);
    let trap = run(&kernel, &[&inputs[0], &inputs[1]]).expect_err("an index is out of range");
    assert_eq!(trap.kind, TrapKind::OutOfBounds);
    inputs[1] = [7i64, 9, 0, 1].iter().flat_map(|i| i.to_le_bytes()).collect();
    run(&kernel, &[&inputs[0], &inputs[1]]).expect("all are in range");
}

/// A gather of four rows of ten, the second and the last out of range: its object, inputs and result.
fn gather_rows(strict: bool) -> (Object, [Vec<u8>; 2], Vec<f32>) {
    let mut b = Builder::new([1; 4]);
    let table = b.input(ScalarType::F32, &[10, 6]);
    let ids = b.input(ScalarType::I64, &[4]);
    let y = b.output(ScalarType::F32, &[4, 6], Access::Out);
    let i64s = Format::Scalar(ScalarType::I64);
    let gi = b.view(global(ids, i64s, View::dense(i64s, [1, 1, 1, 4, 1]).dims));
    let li = b.local(i64s, [1, 1, 1, 4, 1]);
    let gt = b.view(global(table, F32, [Dim::UNIT, Dim::UNIT, Dim::UNIT, dim(4, 6, 10), dim(6, 1, 6)]));
    let lt = b.local(F32, [1, 1, 1, 4, 6]);
    let gy = b.view(global(y, F32, View::dense(F32, [1, 1, 1, 4, 6]).dims));
    let (bi, bt) = (b.buffer("i", BufferKind::Local, 32, 1), b.buffer("t", BufferKind::Local, 96, 1));
    b.emit(ld(push(bi, li), gi))
        .emit(InstKind::Gather {
            dst: push(bt, lt),
            src: gt,
            idx: pop(bi, li),
            dim: 3,
            strict,
            fill: Fill::One,
        })
        .emit(InstKind::St { src: pop(bt, lt), dst: gy });
    let rows = noise(60, 12);
    let indices: Vec<u8> = [7i64, -1, 0, 10].iter().flat_map(|i| i.to_le_bytes()).collect();
    let mut want = vec![1f32; 24];
    want[..6].copy_from_slice(&rows[42..48]);
    want[12..18].copy_from_slice(&rows[..6]);
    (b.build(), [bytes(&rows), indices], want)
}
