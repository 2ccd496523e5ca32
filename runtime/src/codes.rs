//! Codes of elements: what their types are, and copying them from box to box.

use lacuna_isa::format::{Format, GroupFormat, ScalarType, pack};

use crate::boxes::Walk;

/// Whether the elements of `format` are MXINT8's sixty-fourths.
pub(crate) fn fixed_point(format: Format) -> bool {
    matches!(format, Format::Grouped(GroupFormat { element: ScalarType::I8, scale: ScalarType::E8M0, .. }))
}

/// The integer that a code of an integer type or bool stands for.
pub(crate) fn int_value(ty: ScalarType, code: u64) -> i64 {
    let shift = 64 - ty.bits();
    if is_signed(ty) { (code << shift) as i64 >> shift } else { code as i64 }
}

/// Copies codes, converting where the types differ.
pub(crate) fn copy_codes(walk: &Walk, src: (&[u8], i64, ScalarType), dst: (&mut [u8], ScalarType)) {
    let (src, origin, from) = src;
    let (dst, to) = dst;
    let (n, [ss, ts]) = walk.inner();
    let bits = from.bits() as usize;
    if from == to && bits >= 8 {
        let size = bits / 8;
        walk.rows(|s, t| {
            let (s, t) = ((s - origin) as usize * size, t as usize * size);
            if ss == 1 && ts == 1 {
                copy_run(&src[s..s + n * size], &mut dst[t..t + n * size]);
            } else {
                match size {
                    1 => strided::<1>(src, s, ss, dst, t, ts, n),
                    2 => strided::<2>(src, s, ss, dst, t, ts, n),
                    4 => strided::<4>(src, s, ss, dst, t, ts, n),
                    _ => strided::<8>(src, s, ss, dst, t, ts, n),
                }
            }
        });
        return;
    }
    let via_f32 = from.is_float() && to.is_float() && from != ScalarType::F64 && to != ScalarType::F64;
    let via_int = !from.is_float() && !to.is_float();
    let mut values = vec![0f32; if via_f32 && from != to { n } else { 0 }];
    walk.rows(|s, t| {
        let (s, t) = ((s - origin) as usize, t as usize);
        if from == to && ss == 1 && ts == 1 && (s * bits).is_multiple_of(8) && (t * bits).is_multiple_of(8) {
            let whole = n * bits / 8;
            let (sb, tb) = (s * bits / 8, t * bits / 8);
            dst[tb..tb + whole].copy_from_slice(&src[sb..sb + whole]);
            for i in whole * 8 / bits..n {
                pack::set(dst, to, t + i, pack::get(src, from, s + i));
            }
            return;
        }
        if from != to && via_f32 && ss == 1 && ts == 1 {
            pack::decode_slice(from, src, s, &mut values);
            pack::encode_slice(to, &values, dst, t);
            return;
        }
        for i in 0..n as i64 {
            let code = pack::get(src, from, (s as i64 + i * ss) as usize);
            let code = if from == to {
                code
            } else if via_int {
                let value = int_value(from, code);
                if to == ScalarType::Bool { u64::from(value != 0) } else { value as u64 }
            } else {
                to.encode(from.decode(code))
            };
            pack::set(dst, to, (t as i64 + i * ts) as usize, code);
        }
    });
}

/// Copies a run of bytes; short ones of usual lengths without a call.
#[inline(always)]
pub(crate) fn copy_run(src: &[u8], dst: &mut [u8]) {
    fn fixed<const N: usize>(src: &[u8], dst: &mut [u8]) {
        if let (Some(src), Some(dst)) = (src.first_chunk::<N>(), dst.first_chunk_mut::<N>()) {
            *dst = *src;
        }
    }
    match src.len() {
        16 => fixed::<16>(src, dst),
        32 => fixed::<32>(src, dst),
        64 => fixed::<64>(src, dst),
        128 => fixed::<128>(src, dst),
        _ => dst.copy_from_slice(src),
    }
}

fn strided<const N: usize>(src: &[u8], s: usize, ss: i64, dst: &mut [u8], t: usize, ts: i64, n: usize) {
    let (mut s, mut t) = (s as i64, t as i64);
    for _ in 0..n {
        let code: [u8; N] = std::array::from_fn(|i| src[s as usize + i]);
        dst[t as usize..t as usize + N].copy_from_slice(&code);
        s += ss * N as i64;
        t += ts * N as i64;
    }
}

/// True for two's complement types.
pub(crate) fn is_signed(ty: ScalarType) -> bool {
    matches!(
        ty,
        ScalarType::I2
            | ScalarType::I4
            | ScalarType::I8
            | ScalarType::I16
            | ScalarType::I32
            | ScalarType::I64
    )
}
