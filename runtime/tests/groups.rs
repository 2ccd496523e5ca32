//! Grouped and N:M formats through whole kernels: products, loads that widen, programs that quantise.

mod common;

use common::*;
use lacuna_isa::format::group::{self, GroupScale};
use lacuna_isa::format::{Format, GroupFormat, ScalarType, ScaleMode, pack};
use lacuna_isa::inst::{InstKind, Order};
use lacuna_isa::object::{Access, BufferKind};
use lacuna_isa::program::{Lane, Program, Reg, SeOp, Stream};
use lacuna_isa::view::{Pattern, View};

/// Panels of a K x 32 matrix quantised down its columns.
fn quantized_panel(format: GroupFormat, values: &[f32], k: usize) -> (Vec<u8>, Vec<u8>) {
    let size = usize::from(format.size);
    let mut codes = vec![0u8; format.element.bytes_for((k * 32) as u64) as usize];
    let mut scales = vec![0u8; format.scale_bytes((k / size * 32) as u64) as usize];
    let mut staged = vec![0; size];
    for col in 0..32 {
        for g in 0..k / size {
            let column: Vec<f32> = (0..size).map(|j| values[(g * size + j) * 32 + col]).collect();
            let scale = group::quantize_group(format, ScaleMode::Floor, &column, &mut staged);
            scale.write(format, &mut scales, g * 32 + col);
            for (j, &code) in staged.iter().enumerate() {
                pack::set(&mut codes, format.element, (g * size + j) * 32 + col, u64::from(code));
            }
        }
    }
    (codes, scales)
}

/// One tile product of grouped weights: A as weights too, so that its codes are chosen freely.
fn grouped_product(
    (af, a_codes, a_scales): (GroupFormat, &[u8], &[u8]),
    (bf, b_codes, b_scales): (GroupFormat, &[u8], &[u8]),
    (m, k): (u32, u32),
) -> Vec<f32> {
    let mut b = Builder::new([1; 4]);
    let ra = b.weight(&[a_codes, a_scales]);
    let rb = b.weight(&[b_codes, b_scales]);
    let y = b.output(ScalarType::F32, &[m.into(), 32], Access::Out);
    let (af, bf) = (Format::Grouped(af), Format::Grouped(bf));
    let la = b.local(af, [1, m, 1, 1, k]);
    let mut panel = View::dense(bf, [1, 1, 1, k, 32]);
    panel.k_dim = 3;
    let mut gb = global(rb, bf, panel.dims);
    gb.k_dim = 3;
    let (lb, gb) = (b.view(panel), b.view(gb));
    let ga = b.view(global(ra, af, View::dense(af, [1, m, 1, 1, k]).dims));
    let lc = b.local(F32, [1, 1, 1, m, 32]);
    let gc = b.view(global(y, F32, View::dense(F32, [1, 1, 1, m, 32]).dims));
    let (ba, bb) =
        (b.buffer("a", BufferKind::Local, 1 << 16, 1), b.buffer("b", BufferKind::Local, 1 << 16, 1));
    let (acc, bc) =
        (b.buffer("acc", BufferKind::Bank, m * 128, 1), b.buffer("c", BufferKind::Local, m * 128, 1));
    b.emit(ld(push(ba, la), ga))
        .emit(ld(push(bb, lb), gb))
        .emit(InstKind::Mm { bank: push(acc, lc), a: pop(ba, la), b: pop(bb, lb), order: Order::Kn })
        .emit(InstKind::Drain { dst: push(bc, lc), bank: pop(acc, lc) })
        .emit(InstKind::St { src: pop(bc, lc), dst: gc });
    floats(&run(&b.build(), &[]).expect("no trap")[0])
}

/// Every pair of grouped formats: element values with their shifts, summed over the smaller group in ascending k, then scaled.
#[test]
fn products_follow_the_grouped_rule() {
    let (m, k) = (3usize, 96usize);
    let (a, w) = (noise(m * k, 8), noise(k * 32, 9));
    let value = |fmt: GroupFormat, codes: &[u8], at: usize, scale: GroupScale, place: usize| {
        let unit = if fmt.element == ScalarType::I8 { 64.0 } else { 1.0 };
        fmt.element.decode_f32(pack::get(codes, fmt.element, at) as u32) / unit * scale.shift(place)
    };
    for (af, bf) in GroupFormat::ALL.iter().flat_map(|&a| GroupFormat::ALL.iter().map(move |&b| (a, b))) {
        let mut a_codes = vec![0; group::row_code_bytes(af, k) * m];
        let mut a_scales = vec![0; group::row_scale_bytes(af, k) * m];
        group::quantize_rows(af, ScaleMode::Floor, &a, k, &mut a_codes, &mut a_scales);
        let (b_codes, b_scales) = quantized_panel(bf, &w, k);
        let got = grouped_product((af, &a_codes, &a_scales), (bf, &b_codes, &b_scales), (m as u32, k as u32));
        let (a_size, b_size) = (usize::from(af.size), usize::from(bf.size));
        let size = a_size.min(b_size);
        for (i, j) in (0..m).flat_map(|i| (0..32).map(move |j| (i, j))) {
            let a_scale = |l: usize| GroupScale::read(af, &a_scales, i * (k / a_size) + l / a_size);
            let b_scale = |l: usize| GroupScale::read(bf, &b_scales, l / b_size * 32 + j);
            let mut acc = 0f32;
            for first in (0..k).step_by(size) {
                let sum = (first..first + size).fold(0f32, |sum, l| {
                    let x = value(af, &a_codes, i * k + l, a_scale(l), l % a_size);
                    x.mul_add(value(bf, &b_codes, l * 32 + j, b_scale(l), l % b_size), sum)
                });
                acc = sum.mul_add((a_scale(first).value(af) * b_scale(first).value(bf)) as f32, acc);
            }
            assert_eq!(got[i * 32 + j], acc + 0.0, "{af} x {bf} row {i} column {j}");
        }
    }
}

/// E2M1 x E4M3 group sums are inexact in f32: the order of accumulation shows.
#[test]
fn group_sums_accumulate_in_order() {
    let mut a_codes = vec![0u8; 16];
    let mut b_codes = vec![0u8; 32 * 32];
    for l in 0..32 {
        let (a, b) = if l < 20 { (6.0, 448.0) } else { (0.5, 2f32.powi(-9)) };
        pack::set(&mut a_codes, ScalarType::E2M1, l, u64::from(ScalarType::E2M1.encode_f32(a)));
        b_codes[l * 32] = ScalarType::E4M3.encode_f32(b) as u8;
    }
    let got = grouped_product(
        (GroupFormat::MXFP4, &a_codes, &[127]),
        (GroupFormat::MXFP8, &b_codes, &[127; 32]),
        (1, 32),
    );
    assert_eq!(got[0], 53760.0);
    assert_eq!(20.0f64 * 6.0 * 448.0 + 12.0 * 2f64.powi(-10), 53760.01171875);
}

/// Scales whose product no f32 holds still round once.
#[test]
fn scale_products_beyond_f32() {
    let one = |ty: ScalarType, value: f32, n: usize| vec![ty.encode_f32(value) as u8; n];
    // 448 * 448 * 32 * 2^-254 is far below the least f32; 2^-18 * 32 * 2^142 is finite though 2^142 is not.
    let cases = [(0u8, 0u8, 448.0f32), (254, 142, 2f32.powi(-9))];
    for (sa, sb, value) in cases {
        let got = grouped_product(
            (GroupFormat::MXFP8, &one(ScalarType::E4M3, value, 32), &[sa]),
            (GroupFormat::MXFP8, &one(ScalarType::E4M3, value, 1024), &[sb; 32]),
            (1, 32),
        );
        let exact =
            f64::from(value) * f64::from(value) * 32.0 * 2f64.powi(i32::from(sa) + i32::from(sb) - 254);
        assert_eq!(got[0], exact as f32);
    }
}

/// Weights of every pattern up to sixteen give the bits of the dense product with zeros.
#[test]
fn patterns_multiply_like_dense_weights() {
    for m in 2..=16 {
        for n in 1..=m {
            check_pattern(Pattern { n, m });
        }
    }
}

fn check_pattern(pattern: Pattern) {
    let (kept, size) = (usize::from(pattern.n), usize::from(pattern.m));
    let (m, k) = (3u32, 3 * u32::from(pattern.m));
    let n_stored = 3 * kept * 32;
    let a = noise((m * k) as usize, 10);
    let values = noise(n_stored, 11);
    let ty = pattern.index_type();
    let mut indices = vec![0u8; ty.bytes_for(n_stored as u64) as usize];
    let mut dense = vec![0f32; (k * 32) as usize];
    for g in 0..k as usize / size {
        for col in 0..32 {
            // A run of places that starts anywhere and wraps, in ascending order.
            let mut places: Vec<usize> = (0..kept).map(|j| (j + g * 7 + col) % size).collect();
            places.sort_unstable();
            for (j, at) in places.into_iter().enumerate() {
                let stored = (g * kept + j) * 32 + col;
                pack::set(&mut indices, ty, stored, at as u64);
                dense[(g * size + at) * 32 + col] = values[stored];
            }
        }
    }
    let mut b = Builder::new([1; 4]);
    let ra = b.input(ScalarType::F32, &[m.into(), k.into()]);
    let weights = bytes(&values);
    let rb = b.weight(&[&weights, &[], &indices]);
    let y = b.output(ScalarType::F32, &[m.into(), 32], Access::Out);
    let sizes = [1, m, 1, 1, k];
    let la = b.local(F32, sizes);
    let ga = b.view(global(ra, F32, View::dense(F32, sizes).dims));
    let mut panel = View::dense(F32, [1, 1, 1, k, 32]);
    panel.k_dim = 3;
    panel.pattern = Some(pattern);
    let mut gb = global(rb, F32, panel.dims);
    gb.k_dim = 3;
    gb.pattern = Some(pattern);
    let (lb, gb) = (b.view(panel), b.view(gb));
    let lc = b.local(F32, [1, 1, 1, m, 32]);
    let gc = b.view(global(y, F32, View::dense(F32, [1, 1, 1, m, 32]).dims));
    let (ba, bb) =
        (b.buffer("a", BufferKind::Local, 1 << 14, 1), b.buffer("b", BufferKind::Local, 1 << 14, 1));
    let (acc, bc) = (b.buffer("acc", BufferKind::Bank, 4096, 1), b.buffer("c", BufferKind::Local, 4096, 1));
    b.emit(ld(push(ba, la), ga))
        .emit(ld(push(bb, lb), gb))
        .emit(InstKind::Mmnm { bank: push(acc, lc), a: pop(ba, la), b: pop(bb, lb), order: Order::Kn })
        .emit(InstKind::Drain { dst: push(bc, lc), bank: pop(acc, lc) })
        .emit(InstKind::St { src: pop(bc, lc), dst: gc });
    let object = b.build();
    let out = floats(&run(&object, &[&bytes(&a)]).expect("no trap")[0]);
    for (i, j) in (0..m as usize).flat_map(|i| (0..32).map(move |j| (i, j))) {
        let want = (0..k as usize).fold(0f32, |acc, l| a[i * k as usize + l].mul_add(dense[l * 32 + j], acc));
        assert_eq!(out[i * 32 + j], want, "{pattern} row {i} column {j}");
    }
    // A skipped term contributes nothing even where the other operand is infinite.
    let mut wild = a.clone();
    wild[1] = f32::INFINITY;
    let out = floats(&run(&object, &[&bytes(&wild)]).expect("no trap")[0]);
    for (j, value) in out[..32].iter().enumerate() {
        let stored = (0..kept).any(|s| pack::get(&indices, ty, s * 32 + j) == 1);
        assert_eq!(value.is_finite(), !stored, "column {j}");
    }
}

/// Run-time quantisation in a program, then widening loads back to f32 and to a wider element.
#[test]
fn quantise_store_and_widen() {
    for &format in GroupFormat::ALL {
        // Elements and scales embed in those of the wider format.
        let wide = match format {
            GroupFormat::MXFP4 => GroupFormat::MXFP8,
            GroupFormat::MX4 => GroupFormat::MX6,
            GroupFormat::MX6 => GroupFormat::MX9,
            other => other,
        };
        check_quantise_store_and_widen(format, wide);
    }
}

fn check_quantise_store_and_widen(fmt: GroupFormat, wide: GroupFormat) {
    let (format, wide) = (Format::Grouped(fmt), Format::Grouped(wide));
    let (rows, cols) = (3u32, 64u32);
    let input = noise((rows * cols) as usize, 13);
    let mut codes = vec![0; 3 * group::row_code_bytes(fmt, 64)];
    let mut scales = vec![0; 3 * group::row_scale_bytes(fmt, 64)];
    group::quantize_rows(fmt, ScaleMode::Floor, &input, 64, &mut codes, &mut scales);
    let mut want = vec![0f32; input.len()];
    group::dequantize_rows(fmt, &codes, &scales, 64, &mut want);
    for middle in [format, wide, F32, Format::Scalar(ScalarType::Bf16)] {
        if middle.element() == ScalarType::Bf16 && want.iter().any(|x| x.to_bits() & 0xFFFF != 0) {
            continue;
        }
        let mut b = Builder::new([1; 4]);
        let w = b.weight(&[&codes, &scales]);
        let y = b.output(ScalarType::F32, &[rows.into(), cols.into()], Access::Out);
        let sizes = [1, 1, 1, rows, cols];
        let gw = b.view(global(w, format, View::dense(format, sizes).dims));
        let (lm, ly) = (b.local(middle, sizes), b.local(F32, sizes));
        let gy = b.view(global(y, F32, View::dense(F32, sizes).dims));
        let (bm, by) = (b.buffer("m", BufferKind::Local, 1024, 1), b.buffer("y", BufferKind::Local, 1024, 1));
        let program = b.program(Program {
            domain: ly,
            parallel: 5,
            streams: vec![stream(pop(bm, lm)), stream(push(by, ly))],
            body: vec![
                SeOp::Load { dst: Reg(0), lane: Lane::F32, stream: 0 },
                SeOp::Store { stream: 1, lane: Lane::F32, src: Reg(0) },
            ],
            ..Program::default()
        });
        b.emit(ld(push(bm, lm), gw))
            .emit(InstKind::Run { program })
            .emit(InstKind::St { src: pop(by, ly), dst: gy });
        assert_eq!(floats(&run(&b.build(), &[]).expect("no trap")[0]), want, "{format} through {middle}");
    }
    // The same codes when a program quantises them: store grouped to local, widen by a second program.
    let mut b = Builder::new([1; 4]);
    let x = b.input(ScalarType::F32, &[rows.into(), cols.into()]);
    let y = b.output(ScalarType::F32, &[rows.into(), cols.into()], Access::Out);
    let sizes = [1, 1, 1, rows, cols];
    let (gx, gy) = (
        b.view(global(x, F32, View::dense(F32, sizes).dims)),
        b.view(global(y, F32, View::dense(F32, sizes).dims)),
    );
    let (lf, lq) = (b.local(F32, sizes), b.local(format, sizes));
    let (bx, bq) = (b.buffer("x", BufferKind::Local, 1024, 1), b.buffer("q", BufferKind::Local, 1024, 1));
    let mut copy = |streams: Vec<Stream>| {
        b.program(Program {
            domain: lf,
            parallel: 5,
            streams,
            body: vec![
                SeOp::Load { dst: Reg(0), lane: Lane::F32, stream: 0 },
                SeOp::Store { stream: 1, lane: Lane::F32, src: Reg(0) },
            ],
            ..Program::default()
        })
    };
    let quantise = copy(vec![stream(pop(bx, lf)), stream(push(bq, lq))]);
    let widen = copy(vec![stream(pop(bq, lq)), stream(push(bx, lf))]);
    b.emit(ld(push(bx, lf), gx))
        .emit(InstKind::Run { program: quantise })
        .emit(InstKind::Run { program: widen })
        .emit(InstKind::St { src: pop(bx, lf), dst: gy });
    assert_eq!(floats(&run(&b.build(), &[&bytes(&input)]).expect("no trap")[0]), want);
}
