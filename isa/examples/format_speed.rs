//! Throughput of quantising, widening and the defined functions on one core, in GB/s of f32.
//!
//! `cargo run --release -p lacuna-isa --example format_speed`

use std::hint::black_box;
use std::time::{Duration, Instant};

use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode, group, pack};
use lacuna_isa::math;

const ROW: usize = 4096;
const N: usize = ROW * 64;
/// Rows of a tensor of 100 MB, larger than any cache.
const LARGE_ROWS: usize = 6104;

fn measure(name: &str, work: impl FnMut()) {
    measure_of(name, N, work);
}

fn measure_of(name: &str, n: usize, mut work: impl FnMut()) {
    work();
    let start = Instant::now();
    let mut runs = 0;
    while start.elapsed() < Duration::from_millis(200) {
        work();
        runs += 1;
    }
    let seconds = start.elapsed().as_secs_f64() / f64::from(runs);
    let bytes = (4 * n) as f64;
    println!("{name:24} {:7.2} GB/s {:6.3} ns/element", bytes / seconds / 1e9, seconds / n as f64 * 1e9);
}

fn main() {
    let values: Vec<f32> =
        (0..N as u32).map(|i| (i.wrapping_mul(2_654_435_761) as i32) as f32 * 3e-9).collect();
    let mut wide = vec![0.0; N];
    for &fmt in GroupFormat::ALL {
        let mut codes = vec![0; 64 * group::row_code_bytes(fmt, ROW)];
        let mut scales = vec![0; 64 * group::row_scale_bytes(fmt, ROW)];
        measure(&format!("quantize {fmt}"), || {
            group::quantize_rows(fmt, ScaleMode::Floor, black_box(&values), ROW, &mut codes, &mut scales);
        });
        measure(&format!("dequantize {fmt}"), || {
            group::dequantize_rows(fmt, black_box(&codes), black_box(&scales), ROW, &mut wide);
        });
    }
    let large = values.repeat(LARGE_ROWS.div_ceil(64));
    let large = &large[..LARGE_ROWS * ROW];
    for fmt in [GroupFormat::MXFP4, GroupFormat::MX6] {
        let mut codes = vec![0; LARGE_ROWS * group::row_code_bytes(fmt, ROW)];
        let mut scales = vec![0; LARGE_ROWS * group::row_scale_bytes(fmt, ROW)];
        measure_of(&format!("quantize {fmt}, 100 MB"), large.len(), || {
            group::quantize_rows(fmt, ScaleMode::Floor, black_box(large), ROW, &mut codes, &mut scales);
        });
    }
    for &ty in ScalarType::ALL {
        let mut bytes = vec![0; ty.bytes_for(N as u64) as usize];
        measure(&format!("encode {ty}"), || pack::encode_slice(ty, black_box(&values), &mut bytes, 0));
        measure(&format!("decode {ty}"), || pack::decode_slice(ty, black_box(&bytes), 0, &mut wide));
    }
    // Without fused multiply-add in the target (`-C target-cpu=x86-64-v3` has it) these call a library for each one.
    measure("exp", || apply(black_box(&values), &mut wide, math::exp));
    measure("ln", || apply(black_box(&values), &mut wide, math::ln));
    measure("tanh", || apply(black_box(&values), &mut wide, math::tanh));
    measure("sigmoid", || apply(black_box(&values), &mut wide, math::sigmoid));
    measure("erf", || apply(black_box(&values), &mut wide, math::erf));
    measure("sin", || apply(black_box(&values), &mut wide, math::sin));
    measure("pow", || apply(black_box(&values), &mut wide, |x| math::pow(x, 1.7)));
}

#[inline(always)]
fn apply(x: &[f32], y: &mut [f32], function: impl Fn(f32) -> f32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = function(x);
    }
}
