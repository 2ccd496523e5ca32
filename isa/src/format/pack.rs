//! Codes in bytes: dense arrays of elements of any width.
//!
//! Elements lie one after the other, least significant bit first, wider ones little-endian: 4-bit types put the even
//! element in the low nibble, FP6 puts four codes in three bytes. This is ONNX's `raw_data`. Every function panics, as
//! slice indexing does, when an element lies outside `bytes`.

use super::ScalarType;
use super::scalar::{Mini, encode_sign_magnitude};
use crate::math::round_half_even;

/// The code of element `idx`, right-aligned.
///
/// # Panics
/// If the element lies outside `bytes`.
#[inline]
pub fn get(bytes: &[u8], ty: ScalarType, idx: usize) -> u64 {
    let bits = ty.bits() as usize;
    let start = idx * bits / 8;
    if bits >= 8 {
        let mut code = [0; 8];
        code[..bits / 8].copy_from_slice(&bytes[start..start + bits / 8]);
        return u64::from_le_bytes(code);
    }
    let offset = idx * bits % 8;
    let mut word = u16::from(bytes[start]);
    if offset + bits > 8 {
        word |= u16::from(bytes[start + 1]) << 8;
    }
    u64::from(word >> offset) & ((1 << bits) - 1)
}

/// Stores the code of element `idx`; bits of `code` above the type's width are ignored, neighbours stay as they are.
///
/// # Panics
/// If the element lies outside `bytes`.
#[inline]
pub fn set(bytes: &mut [u8], ty: ScalarType, idx: usize, code: u64) {
    let bits = ty.bits() as usize;
    let start = idx * bits / 8;
    if bits >= 8 {
        bytes[start..start + bits / 8].copy_from_slice(&code.to_le_bytes()[..bits / 8]);
        return;
    }
    let offset = idx * bits % 8;
    let mask = ((1u16 << bits) - 1) << offset;
    let word = ((code as u16) << offset) & mask;
    bytes[start] = (bytes[start] & !(mask as u8)) | word as u8;
    if offset + bits > 8 {
        bytes[start + 1] = (bytes[start + 1] & !((mask >> 8) as u8)) | (word >> 8) as u8;
    }
}

const fn table<const N: usize>(ty: ScalarType) -> [f32; N] {
    let mut out = [0.0; N];
    let mut code = 0;
    while code < N {
        out[code] = ty.decode_f32(code as u32);
        code += 1;
    }
    out
}

const fn pair_table(ty: ScalarType) -> [[f32; 2]; 256] {
    let mut out = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        out[byte] = [ty.decode_f32(byte as u32 & 0xF), ty.decode_f32(byte as u32 >> 4)];
        byte += 1;
    }
    out
}

static E4M3: [f32; 256] = table(ScalarType::E4M3);
static E5M2: [f32; 256] = table(ScalarType::E5M2);
static E4M3_FNUZ: [f32; 256] = table(ScalarType::E4M3Fnuz);
static E5M2_FNUZ: [f32; 256] = table(ScalarType::E5M2Fnuz);
static E8M0: [f32; 256] = table(ScalarType::E8M0);
static E3M2: [f32; 64] = table(ScalarType::E3M2);
static E2M3: [f32; 64] = table(ScalarType::E2M3);
static SM8: [f32; 256] = table(ScalarType::Sm8);
static SM5: [f32; 32] = table(ScalarType::Sm5);
static SM3: [f32; 8] = table(ScalarType::Sm3);
static E2M1_PAIRS: [[f32; 2]; 256] = pair_table(ScalarType::E2M1);
static I4_PAIRS: [[f32; 2]; 256] = pair_table(ScalarType::I4);
static U4_PAIRS: [[f32; 2]; 256] = pair_table(ScalarType::U4);

#[inline(always)]
fn decode_wide<const N: usize>(bytes: &[u8], start: usize, out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (chunks, _) = bytes[start * N..(start + out.len()) * N].as_chunks::<N>();
    for (value, &code) in out.iter_mut().zip(chunks) {
        *value = decode(code);
    }
}

fn decode_pairs(ty: ScalarType, table: &[[f32; 2]; 256], bytes: &[u8], start: usize, out: &mut [f32]) {
    let head = (start % 2).min(out.len());
    for value in &mut out[..head] {
        *value = ty.decode_f32(get(bytes, ty, start) as u32);
    }
    let first = start.div_ceil(2);
    let (pairs, tail) = out[head..].as_chunks_mut::<2>();
    let n_bytes = pairs.len();
    for (pair, &byte) in pairs.iter_mut().zip(&bytes[first..first + n_bytes]) {
        *pair = table[byte as usize];
    }
    for value in tail {
        *value = table[bytes[first + n_bytes] as usize][0];
    }
}

/// Decodes units of `N` elements that fill `BYTES` bytes, through a table of all `CODES`.
fn decode_units<const N: usize, const BYTES: usize, const CODES: usize>(
    ty: ScalarType,
    table: &[f32; CODES],
    bytes: &[u8],
    start: usize,
    out: &mut [f32],
) {
    let head = (start.next_multiple_of(N) - start).min(out.len());
    decode_each(ty, bytes, start, &mut out[..head]);
    let first = (start + head) / N * BYTES;
    let (units, tail) = out[head..].as_chunks_mut::<N>();
    let n_units = units.len();
    let (packed, _) = bytes[first.min(bytes.len())..].as_chunks::<BYTES>();
    let bits = BYTES * 8 / N;
    for (unit, packed) in units.iter_mut().zip(&packed[..n_units]) {
        let mut word = [0; 8];
        word[..BYTES].copy_from_slice(packed);
        let word = u64::from_le_bytes(word);
        for (i, value) in unit.iter_mut().enumerate() {
            *value = table[(word >> (bits * i)) as usize & (CODES - 1)];
        }
    }
    decode_each(ty, bytes, start + head + N * n_units, tail);
}

fn decode_each(ty: ScalarType, bytes: &[u8], start: usize, out: &mut [f32]) {
    for (i, value) in out.iter_mut().enumerate() {
        *value = ty.decode_f32(get(bytes, ty, start + i) as u32);
    }
}

#[inline(always)]
fn decode_f16(code: u16) -> f32 {
    let mag = i32::from(code & 0x7FFF);
    let sign = u32::from(code >> 15) << 31;
    let normal = ((mag as u32) << 13) + (112 << 23);
    let subnormal = (mag as f32 * f32::from_bits(103 << 23)).to_bits();
    let bits = if mag < 0x0400 { subnormal } else { normal };
    let bits = if mag == 0x7C00 { 0x7F80_0000 } else { bits };
    f32::from_bits(if mag > 0x7C00 { 0x7FC0_0000 } else { sign | bits })
}

#[inline(always)]
fn decode_bf16(code: u16) -> f32 {
    let nan = code & 0x7FFF > 0x7F80;
    f32::from_bits(if nan { 0x7FC0_0000 } else { u32::from(code) << 16 })
}

/// Decodes elements `start_elem..start_elem + out.len()` to f32, as [`ScalarType::decode_f32`] would (wider types:
/// [`ScalarType::decode`], rounded to f32).
///
/// # Panics
/// If an element lies outside `bytes`.
pub fn decode_slice(ty: ScalarType, bytes: &[u8], start_elem: usize, out: &mut [f32]) {
    let start = start_elem;
    match ty {
        ScalarType::Bool => decode_wide(bytes, start, out, |[c]: [u8; 1]| if c != 0 { 1.0 } else { 0.0 }),
        ScalarType::I2 | ScalarType::U2 => decode_each(ty, bytes, start, out),
        ScalarType::I4 => decode_pairs(ty, &I4_PAIRS, bytes, start, out),
        ScalarType::U4 => decode_pairs(ty, &U4_PAIRS, bytes, start, out),
        ScalarType::I8 => decode_wide(bytes, start, out, |c: [u8; 1]| f32::from(i8::from_le_bytes(c))),
        ScalarType::U8 => decode_wide(bytes, start, out, |[c]: [u8; 1]| f32::from(c)),
        ScalarType::I16 => decode_wide(bytes, start, out, |c| f32::from(i16::from_le_bytes(c))),
        ScalarType::U16 => decode_wide(bytes, start, out, |c| f32::from(u16::from_le_bytes(c))),
        ScalarType::I32 => decode_wide(bytes, start, out, |c| i32::from_le_bytes(c) as f32),
        ScalarType::U32 => decode_wide(bytes, start, out, |c| u32::from_le_bytes(c) as f32),
        // Two roundings, to f64 and then to f32, would not be the nearest f32; the direct cast is.
        ScalarType::I64 => decode_wide(bytes, start, out, |c| i64::from_le_bytes(c) as f32),
        ScalarType::U64 => decode_wide(bytes, start, out, |c| u64::from_le_bytes(c) as f32),
        ScalarType::F16 => decode_wide(bytes, start, out, |c| decode_f16(u16::from_le_bytes(c))),
        ScalarType::Bf16 => decode_wide(bytes, start, out, |c| decode_bf16(u16::from_le_bytes(c))),
        ScalarType::F32 => decode_wide(bytes, start, out, f32::from_le_bytes),
        ScalarType::F64 => decode_wide(bytes, start, out, |c| f64::from_le_bytes(c) as f32),
        ScalarType::E4M3 => decode_wide(bytes, start, out, |[c]: [u8; 1]| E4M3[c as usize]),
        ScalarType::E5M2 => decode_wide(bytes, start, out, |[c]: [u8; 1]| E5M2[c as usize]),
        ScalarType::E4M3Fnuz => decode_wide(bytes, start, out, |[c]: [u8; 1]| E4M3_FNUZ[c as usize]),
        ScalarType::E5M2Fnuz => decode_wide(bytes, start, out, |[c]: [u8; 1]| E5M2_FNUZ[c as usize]),
        ScalarType::E3M2 => decode_units::<4, 3, 64>(ty, &E3M2, bytes, start, out),
        ScalarType::E2M3 => decode_units::<4, 3, 64>(ty, &E2M3, bytes, start, out),
        ScalarType::E2M1 => decode_pairs(ty, &E2M1_PAIRS, bytes, start, out),
        ScalarType::E8M0 => decode_wide(bytes, start, out, |[c]: [u8; 1]| E8M0[c as usize]),
        ScalarType::Sm8 => decode_wide(bytes, start, out, |[c]: [u8; 1]| SM8[c as usize]),
        ScalarType::Sm5 => decode_units::<8, 5, 32>(ty, &SM5, bytes, start, out),
        ScalarType::Sm3 => decode_units::<8, 3, 8>(ty, &SM3, bytes, start, out),
    }
}

#[inline(always)]
fn encode_wide<const N: usize>(
    values: &[f32],
    bytes: &mut [u8],
    start: usize,
    encode: impl Fn(f32) -> [u8; N],
) {
    let (chunks, _) = bytes[start * N..(start + values.len()) * N].as_chunks_mut::<N>();
    for (code, &value) in chunks.iter_mut().zip(values) {
        *code = encode(value);
    }
}

/// Codes are made this many at a time, then packed: the first loop vectorises, the second is short.
const STAGE: usize = 64;

#[inline(always)]
fn encode_narrow(ty: ScalarType, values: &[f32], bytes: &mut [u8], start: usize, encode: impl Fn(f32) -> u8) {
    let head = (start.next_multiple_of(ty.unit_elements()) - start).min(values.len());
    let mut at = start;
    for chunk in std::iter::once(&values[..head]).chain(values[head..].chunks(STAGE)) {
        let mut codes = [0; STAGE];
        for (code, &value) in codes.iter_mut().zip(chunk) {
            *code = encode(value);
        }
        set_slice(bytes, ty, at, &codes[..chunk.len()]);
        at += chunk.len();
    }
}

/// Stores one code per byte, of a type of at most 8 bits, as elements `start_elem..`; other elements stay as they are. Bits of a
/// code above the type's width must be clear.
///
/// # Panics
/// If an element lies outside `bytes`.
#[inline]
pub fn set_slice(bytes: &mut [u8], ty: ScalarType, start_elem: usize, codes: &[u8]) {
    let per_unit = ty.unit_elements();
    let head = (start_elem.next_multiple_of(per_unit) - start_elem).min(codes.len());
    let whole = (codes.len() - head) / per_unit * per_unit;
    let set_each = |bytes: &mut [u8], places: std::ops::Range<usize>| {
        for i in places {
            set(bytes, ty, start_elem + i, u64::from(codes[i]));
        }
    };
    set_each(bytes, 0..head);
    let first = (start_elem + head) * ty.bits() as usize / 8;
    let n_bytes = whole * ty.bits() as usize / 8;
    pack_codes(ty, &codes[head..head + whole], &mut bytes[first..first + n_bytes]);
    set_each(bytes, head + whole..codes.len());
}

/// Loads elements `start_elem..` of a type of at most 8 bits, one code per byte: undoes [`set_slice`].
///
/// # Panics
/// If an element lies outside `bytes`.
pub fn get_slice(bytes: &[u8], ty: ScalarType, start_elem: usize, codes: &mut [u8]) {
    let per_unit = ty.unit_elements();
    let head = (start_elem.next_multiple_of(per_unit) - start_elem).min(codes.len());
    let whole = (codes.len() - head) / per_unit * per_unit;
    let get_each = |codes: &mut [u8], first: usize| {
        for (i, code) in codes.iter_mut().enumerate() {
            *code = get(bytes, ty, start_elem + first + i) as u8;
        }
    };
    get_each(&mut codes[..head], 0);
    let first = (start_elem + head) * ty.bits() as usize / 8;
    let packed = &bytes[first..first + whole * ty.bits() as usize / 8];
    let units = &mut codes[head..head + whole];
    match ty.bits() {
        4 => {
            for (pair, &byte) in units.as_chunks_mut::<2>().0.iter_mut().zip(packed) {
                *pair = [byte & 0xF, byte >> 4];
            }
        }
        6 => {
            for (quad, &[a, b, c]) in units.as_chunks_mut::<4>().0.iter_mut().zip(packed.as_chunks().0) {
                let w = u32::from_le_bytes([a, b, c, 0]);
                let spread = (w & 0x3F) | (w & 0xFC0) << 2 | (w & 0x3_F000) << 4 | (w & 0xFC_0000) << 6;
                *quad = spread.to_le_bytes();
            }
        }
        8 => units.copy_from_slice(packed),
        bits @ (3 | 5) => {
            for (eight, packed) in
                units.as_chunks_mut::<8>().0.iter_mut().zip(packed.chunks_exact(bits as usize))
            {
                let mut word = [0; 8];
                word[..bits as usize].copy_from_slice(packed);
                let word = u64::from_le_bytes(word);
                *eight = std::array::from_fn(|i| (word >> (i as u32 * bits)) as u8 & ((1 << bits) - 1));
            }
        }
        _ => get_each(units, head),
    }
    get_each(&mut codes[head + whole..], head + whole);
}

/// Packs one code per byte into `ty`'s dense form, whole units of [`ScalarType::unit_elements`]. Bits of a code above the
/// type's width must be clear.
#[inline(always)]
pub(super) fn pack_codes(ty: ScalarType, codes: &[u8], bytes: &mut [u8]) {
    match ty.bits() {
        4 => {
            let (pairs, _) = codes.as_chunks::<2>();
            for (byte, &pair) in bytes.iter_mut().zip(pairs) {
                let word = u16::from_le_bytes(pair);
                *byte = (word | (word >> 4)) as u8;
            }
        }
        6 => {
            let (triples, _) = bytes.as_chunks_mut::<3>();
            let (quads, _) = codes.as_chunks::<4>();
            for (triple, &quad) in triples.iter_mut().zip(quads) {
                let w = u32::from_le_bytes(quad);
                let packed = (w & 0x3F) | (w >> 2 & 0xFC0) | (w >> 4 & 0x3_F000) | (w >> 6 & 0xFC_0000);
                let [a, b, c, _] = packed.to_le_bytes();
                *triple = [a, b, c];
            }
        }
        8 => bytes.copy_from_slice(codes),
        bits @ (3 | 5) => {
            let (eights, _) = codes.as_chunks::<8>();
            for (packed, &eight) in bytes.chunks_exact_mut(bits as usize).zip(eights) {
                // Neighbours join: fields of one code, of two, of four.
                let word = u64::from_le_bytes(eight);
                let twos = (word & 0x00FF_00FF_00FF_00FF) | (word >> 8 & 0x00FF_00FF_00FF_00FF) << bits;
                let fours = (twos & 0xFFFF_0000_FFFF) | (twos >> 16 & 0xFFFF_0000_FFFF) << (2 * bits);
                let word = (fours & 0xFFFF_FFFF) | fours >> 32 << (4 * bits);
                packed.copy_from_slice(&word.to_le_bytes()[..bits as usize]);
            }
        }
        _ => {
            for (i, &code) in codes.iter().enumerate() {
                set(bytes, ty, i, u64::from(code));
            }
        }
    }
}

/// Encodes `values` into elements `start_elem..`, as [`ScalarType::encode`] would; other elements stay as they are.
///
/// # Panics
/// If an element lies outside `bytes`.
pub fn encode_slice(ty: ScalarType, values: &[f32], bytes: &mut [u8], start_elem: usize) {
    let start = start_elem;
    match ty {
        ScalarType::I2 | ScalarType::U2 => {
            for (i, &value) in values.iter().enumerate() {
                set(bytes, ty, start + i, u64::from(ty.encode_f32(value)));
            }
        }
        ScalarType::I4 => {
            encode_narrow(ty, values, bytes, start, |v| ScalarType::I4.encode_f32(v) as u8);
        }
        ScalarType::U4 => {
            encode_narrow(ty, values, bytes, start, |v| ScalarType::U4.encode_f32(v) as u8);
        }
        ScalarType::E3M2 => encode_narrow(ty, values, bytes, start, |v| Mini::E3M2.encode(v) as u8),
        ScalarType::E2M3 => encode_narrow(ty, values, bytes, start, |v| Mini::E2M3.encode(v) as u8),
        ScalarType::E2M1 => encode_narrow(ty, values, bytes, start, |v| Mini::E2M1.encode(v) as u8),
        ScalarType::Sm5 => encode_narrow(ty, values, bytes, start, |v| encode_sign_magnitude(v, 5) as u8),
        ScalarType::Sm3 => encode_narrow(ty, values, bytes, start, |v| encode_sign_magnitude(v, 3) as u8),
        ScalarType::Sm8 => encode_wide(values, bytes, start, |v| [encode_sign_magnitude(v, 8) as u8]),
        ScalarType::Bool => encode_wide(values, bytes, start, |v| [u8::from(v != 0.0)]),
        ScalarType::I8 => encode_wide(values, bytes, start, |v| [ScalarType::I8.encode_f32(v) as u8]),
        ScalarType::U8 => encode_wide(values, bytes, start, |v| [ScalarType::U8.encode_f32(v) as u8]),
        ScalarType::E4M3 => encode_wide(values, bytes, start, |v| [Mini::E4M3.encode(v) as u8]),
        ScalarType::E5M2 => encode_wide(values, bytes, start, |v| [Mini::E5M2.encode(v) as u8]),
        ScalarType::E4M3Fnuz => encode_wide(values, bytes, start, |v| [Mini::E4M3_FNUZ.encode(v) as u8]),
        ScalarType::E5M2Fnuz => encode_wide(values, bytes, start, |v| [Mini::E5M2_FNUZ.encode(v) as u8]),
        ScalarType::E8M0 => encode_wide(values, bytes, start, |v| [ScalarType::E8M0.encode_f32(v) as u8]),
        ScalarType::I16 => {
            encode_wide(values, bytes, start, |v| (ScalarType::I16.encode_f32(v) as u16).to_le_bytes());
        }
        ScalarType::U16 => {
            encode_wide(values, bytes, start, |v| (ScalarType::U16.encode_f32(v) as u16).to_le_bytes());
        }
        ScalarType::F16 => encode_wide(values, bytes, start, |v| (Mini::F16.encode(v) as u16).to_le_bytes()),
        ScalarType::Bf16 => {
            encode_wide(values, bytes, start, |v| (Mini::BF16.encode(v) as u16).to_le_bytes());
        }
        ScalarType::I32 => {
            encode_wide(values, bytes, start, |v| ScalarType::I32.encode_f32(v).to_le_bytes());
        }
        ScalarType::U32 => {
            encode_wide(values, bytes, start, |v| ScalarType::U32.encode_f32(v).to_le_bytes());
        }
        ScalarType::F32 => {
            encode_wide(values, bytes, start, |v| ScalarType::F32.encode_f32(v).to_le_bytes());
        }
        ScalarType::I64 => {
            encode_wide(values, bytes, start, |v| (round_half_even(v) as i64).to_le_bytes());
        }
        ScalarType::U64 => {
            encode_wide(values, bytes, start, |v| (round_half_even(v) as u64).to_le_bytes());
        }
        ScalarType::F64 => encode_wide(values, bytes, start, |v| {
            (if v.is_nan() { f64::NAN } else { f64::from(v) }).to_le_bytes()
        }),
    }
}
