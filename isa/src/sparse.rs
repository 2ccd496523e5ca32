//! Compressed tensors: blocks of 512 elements, each a mask and the codes that it keeps.
//!
//! This is the executable definition of what `ldx` reads. Elements are numbered as in the dense tensor and cut into blocks
//! of [`BLOCK`]; a tensor whose elements are no multiple of it is padded with code 0. Element e is *stored* when its code
//! is not 0; with [`MaskCode::Rows`], when any code of its 32 neighbours from a multiple of 32 on is not. The record of a
//! block is its mask, padded with zero bits to a byte, then the codes of the stored elements in ascending order, packed as
//! everywhere ([`pack`]) and padded likewise. Records follow one another; a table of offsets has the first byte of each, and
//! one past the last.
//!
//! | mask code | what stands for the block's elements, ascending |
//! |---|---|
//! | `bitmap` | 512 bits, one for each element: 1 where it is stored |
//! | `rows` | 16 bits, one for each 32 elements |
//! | `nibble` | 128 code words, one for each 4 elements |
//!
//! Bits fill each byte from its least significant bit. A code word of `nibble` stands for the 4-bit number q whose bit j (of
//! weight 2^j) says whether element j of the four is stored. Words, first bit first:
//!
//! | stored | words of q, in the order given |
//! |---|---|
//! | 0 | q = 0: `00` |
//! | 1 | q = 1, 2, 4, 8: `010`, `011`, `100`, `101` |
//! | 2 | q = 3, 5, 6, 9, 10, 12: `11000`, `11001`, `11010`, `11011`, `11100`, `11101` |
//! | 3 | q = 7, 11, 13, 14: `1111000`, `1111001`, `1111010`, `1111011` |
//! | 4 | q = 15: `1111100` |
//!
//! Other words have no meaning. At one stored element of four the words take 3.31 bits on average, where a bitmap takes 4.

use thiserror::Error;

use crate::format::{ScalarType, pack};
use crate::inst::MaskCode;

/// Elements of one block.
pub const BLOCK: usize = 512;
/// Elements that a bit of [`MaskCode::Rows`] stands for.
const ROW: usize = 32;
/// Elements that a word of [`MaskCode::Nibble`] stands for.
const NIBBLE: usize = 4;

/// Word (first bit most significant) and length of each `q`.
const WORDS: [(u8, u8); 16] = [
    (0b00, 2),
    (0b010, 3),
    (0b011, 3),
    (0b11000, 5),
    (0b100, 3),
    (0b11001, 5),
    (0b11010, 5),
    (0b111_1000, 7),
    (0b101, 3),
    (0b11011, 5),
    (0b11100, 5),
    (0b111_1001, 7),
    (0b11101, 5),
    (0b111_1010, 7),
    (0b111_1011, 7),
    (0b111_1100, 7),
];

/// For the next seven bits, first bit least significant: `q` and the length of its word; length 0 where there is none.
const DECODE: [(u8, u8); 128] = {
    let mut table = [(0, 0); 128];
    let mut next = 0;
    while next < 128 {
        let mut q = 0;
        while q < 16 {
            let (word, len) = WORDS[q];
            let first = (next as u8).reverse_bits() >> (8 - len);
            if first == word {
                table[next] = (q as u8, len);
            }
            q += 1;
        }
        next += 1;
    }
    table
};

/// A compressed tensor: planes 0 and 2 of what `ldx` reads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compressed {
    /// Records of the blocks, one after the other.
    pub records: Vec<u8>,
    /// First byte of each record, and one past the last.
    pub offsets: Vec<u32>,
}

impl Compressed {
    /// The offsets as the bytes of plane 2, little endian.
    pub fn offset_bytes(&self) -> Vec<u8> {
        self.offsets.iter().flat_map(|o| o.to_le_bytes()).collect()
    }
}

/// What is wrong with a compressed tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SparseError {
    /// The records are too long for their offsets.
    #[error("records of more than 2^32 bytes")]
    TooLarge,
    /// Offsets descend, or leave the records.
    #[error("record of bytes {from} to {to} among {bytes}")]
    Offsets {
        /// First byte.
        from: u64,
        /// One past the last byte.
        to: u64,
        /// Bytes of all records.
        bytes: u64,
    },
    /// A record ends within its mask.
    #[error("a record of {0} bytes ends within its mask")]
    ShortMask(usize),
    /// Bits of a mask are no code word.
    #[error("no code word at four elements from {0}")]
    Word(usize),
    /// A record is longer or shorter than its mask says.
    #[error("a record of {found} bytes, its mask gives {expected}")]
    Length {
        /// Bytes that mask and stored codes take.
        expected: usize,
        /// Bytes between the offsets.
        found: usize,
    },
}

/// Compresses the first `n` codes of a dense tensor.
///
/// # Errors
/// When the records take more than 2^32 bytes.
///
/// # Panics
/// If `codes` has fewer than `n` elements.
pub fn compress(codes: &[u8], ty: ScalarType, n: usize, code: MaskCode) -> Result<Compressed, SparseError> {
    let mut out = Compressed { records: Vec::new(), offsets: vec![0] };
    let mut block = [0u64; BLOCK];
    for start in (0..n).step_by(BLOCK) {
        let len = BLOCK.min(n - start);
        block.fill(0);
        for (i, value) in block[..len].iter_mut().enumerate() {
            *value = pack::get(codes, ty, start + i);
        }
        record(&block, ty, code, &mut out.records);
        out.offsets.push(u32::try_from(out.records.len()).map_err(|_| SparseError::TooLarge)?);
    }
    Ok(out)
}

/// Bytes that the records of the first `n` codes of a dense tensor take in each code of masks.
///
/// # Panics
/// If `codes` has fewer than `n` elements.
pub fn record_bytes(codes: &[u8], ty: ScalarType, n: usize) -> [(MaskCode, u64); 3] {
    let mut sizes = [MaskCode::Bitmap, MaskCode::Nibble, MaskCode::Rows].map(|code| (code, 0));
    for start in (0..n).step_by(BLOCK) {
        let (mut stored, mut rows, mut word_bits) = (0u64, 0u64, 0u64);
        for row in (start..start + BLOCK).step_by(ROW) {
            let before = stored;
            for four in (row..row + ROW).step_by(NIBBLE) {
                let is_stored = |i: usize| i < n && pack::get(codes, ty, i) != 0;
                let q = (0..NIBBLE).fold(0usize, |q, j| q | usize::from(is_stored(four + j)) << j);
                word_bits += u64::from(WORDS[q].1);
                stored += u64::from(q.count_ones());
            }
            rows += u64::from(stored > before);
        }
        for (code, bytes) in &mut sizes {
            *bytes += match code {
                MaskCode::Bitmap => BLOCK as u64 / 8 + ty.bytes_for(stored),
                MaskCode::Nibble => word_bits.div_ceil(8) + ty.bytes_for(stored),
                MaskCode::Rows => (BLOCK / ROW) as u64 / 8 + ty.bytes_for(rows * ROW as u64),
            };
        }
    }
    sizes
}

fn record(block: &[u64; BLOCK], ty: ScalarType, code: MaskCode, out: &mut Vec<u8>) {
    let mut mask: [bool; BLOCK] = std::array::from_fn(|i| block[i] != 0);
    match code {
        MaskCode::Bitmap => out.extend(mask.chunks(8).map(number)),
        MaskCode::Rows => {
            mask.chunks_mut(ROW).for_each(|row| row.fill(row.contains(&true)));
            let rows: [bool; BLOCK / ROW] = std::array::from_fn(|r| mask[r * ROW]);
            out.extend(rows.chunks(8).map(number));
        }
        MaskCode::Nibble => {
            let (mut bits, mut n_bits) = (0u32, 0u32);
            for four in mask.chunks(NIBBLE) {
                let (word, len) = WORDS[usize::from(number(four))];
                bits |= u32::from(word.reverse_bits() >> (8 - len)) << n_bits;
                n_bits += u32::from(len);
                while n_bits >= 8 {
                    out.push(bits as u8);
                    bits >>= 8;
                    n_bits -= 8;
                }
            }
            if n_bits > 0 {
                out.push(bits as u8);
            }
        }
    }
    let stored = mask.iter().filter(|&&m| m).count();
    let start = out.len();
    out.resize(start + ty.bytes_for(stored as u64) as usize, 0);
    let kept = block.iter().zip(&mask).filter(|(_, m)| **m);
    kept.enumerate().for_each(|(i, (&value, _))| pack::set(&mut out[start..], ty, i, value));
}

/// Bits as a number, the first of weight 1.
fn number(bits: &[bool]) -> u8 {
    bits.iter().enumerate().fold(0, |q, (j, &bit)| q | u8::from(bit) << j)
}

/// The bytes of record number `block`, by a table of offsets in bytes; `None` when the table ends before.
///
/// # Errors
/// When the offsets descend or leave `records`.
pub fn find_record<'r>(
    records: &'r [u8],
    offsets: &[u8],
    block: usize,
) -> Option<Result<&'r [u8], SparseError>> {
    let pair = offsets.get(block.checked_mul(4)?..block.checked_mul(4)?.checked_add(8)?)?;
    let word = |i: usize| u32::from_le_bytes([pair[i], pair[i + 1], pair[i + 2], pair[i + 3]]);
    let (from, to) = (word(0), word(4));
    let found = records.get(from as usize..to as usize);
    let wrong = || SparseError::Offsets { from: from.into(), to: to.into(), bytes: records.len() as u64 };
    Some(found.ok_or_else(wrong))
}

/// The stored elements of a record's block, and the bytes of the mask.
///
/// # Errors
/// When the record ends within its mask, or the mask has a word without meaning.
pub fn expand_mask(record: &[u8], code: MaskCode) -> Result<([bool; BLOCK], usize), SparseError> {
    let mut mask = [false; BLOCK];
    let short = SparseError::ShortMask(record.len());
    let bytes = match code {
        MaskCode::Bitmap => {
            let bits = record.get(..BLOCK / 8).ok_or(short)?;
            mask.iter_mut().enumerate().for_each(|(i, m)| *m = bits[i / 8] >> (i % 8) & 1 != 0);
            BLOCK / 8
        }
        MaskCode::Rows => {
            let bits = record.get(..BLOCK / ROW / 8).ok_or(short)?;
            for (r, row) in mask.chunks_mut(ROW).enumerate() {
                row.fill(bits[r / 8] >> (r % 8) & 1 != 0);
            }
            BLOCK / ROW / 8
        }
        MaskCode::Nibble => {
            let mut at = 0usize;
            for (f, four) in mask.chunks_mut(NIBBLE).enumerate() {
                let byte = |i: usize| u16::from(record.get(at / 8 + i).copied().unwrap_or(0));
                let next = (byte(0) | byte(1) << 8) >> (at % 8) & 0x7F;
                let (q, len) = DECODE[usize::from(next)];
                if len == 0 {
                    return Err(SparseError::Word(f * NIBBLE));
                }
                at += usize::from(len);
                if at > record.len() * 8 {
                    return Err(short);
                }
                four.iter_mut().enumerate().for_each(|(j, m)| *m = q >> j & 1 != 0);
            }
            at.div_ceil(8)
        }
    };
    Ok((mask, bytes))
}

/// Expands a record into the 512 codes of its block, from element `first` of `out` on. Codes that are not stored are not
/// written.
///
/// # Errors
/// When the record is not exactly its mask and the stored codes.
///
/// # Panics
/// If `out` has no room for the block.
pub fn expand_record(
    record: &[u8],
    ty: ScalarType,
    code: MaskCode,
    out: &mut [u8],
    first: usize,
) -> Result<(), SparseError> {
    let (mask, mask_bytes) = expand_mask(record, code)?;
    let stored = mask.iter().filter(|&&m| m).count();
    let expected = mask_bytes + ty.bytes_for(stored as u64) as usize;
    if record.len() != expected {
        return Err(SparseError::Length { expected, found: record.len() });
    }
    let codes = &record[mask_bytes..];
    let places = mask.iter().enumerate().filter(|(_, m)| **m).map(|(i, _)| first + i);
    if ty.bits() == 8 {
        places.zip(codes).for_each(|(at, &value)| out[at] = value);
    } else {
        places.enumerate().for_each(|(i, at)| pack::set(out, ty, at, pack::get(codes, ty, i)));
    }
    Ok(())
}

/// The dense codes of a compressed tensor of `n` elements.
///
/// # Errors
/// When there are fewer blocks, or a record is not well formed.
pub fn expand(c: &Compressed, ty: ScalarType, n: usize, code: MaskCode) -> Result<Vec<u8>, SparseError> {
    let blocks = n.div_ceil(BLOCK);
    let mut out = vec![0; ty.bytes_for((blocks * BLOCK) as u64) as usize];
    let offsets = c.offset_bytes();
    for block in 0..blocks {
        let bytes = c.records.len() as u64;
        let missing = Err(SparseError::Offsets { from: bytes, to: bytes, bytes });
        let record = find_record(&c.records, &offsets, block).unwrap_or(missing)?;
        expand_record(record, ty, code, &mut out, block * BLOCK)?;
    }
    out.truncate(ty.bytes_for(n as u64) as usize);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CODES: [MaskCode; 3] = [MaskCode::Bitmap, MaskCode::Nibble, MaskCode::Rows];
    const TYPES: [ScalarType; 6] = [
        ScalarType::E2M1,
        ScalarType::E2M3,
        ScalarType::I8,
        ScalarType::Bf16,
        ScalarType::F32,
        ScalarType::I64,
    ];

    #[test]
    fn words_form_a_prefix_code() {
        for (q, (word, len)) in WORDS.into_iter().enumerate() {
            assert_eq!(u32::from(len), [2, 3, 5, 7, 7][(q as u32).count_ones() as usize], "{q}");
            for (other, (longer, n)) in WORDS.into_iter().enumerate().filter(|(o, _)| *o != q) {
                assert!(n < len || longer >> (n - len) != word, "{q} begins {other}");
            }
        }
        assert_eq!(DECODE.iter().filter(|(_, len)| *len == 0).count(), 3);
    }

    #[test]
    fn records_are_as_written() {
        let check = |set: &[(usize, u8)], code: MaskCode, expect: &[u8]| {
            let mut codes = [0; BLOCK];
            set.iter().for_each(|&(i, value)| codes[i] = value);
            let got = compress(&codes, ScalarType::U8, BLOCK, code).unwrap();
            assert_eq!(got.records, expect, "{set:?} {code:?}");
            assert_eq!(got.offsets, [0, expect.len() as u32]);
        };
        let words = |first: &[u8], codes: &[u8]| {
            let mut all = first.to_vec();
            all.resize(32, 0);
            [all.as_slice(), codes].concat()
        };
        check(&[], MaskCode::Rows, &[0, 0]);
        check(&[], MaskCode::Nibble, &[0; 32]);
        // Element 1 is word 011, whose first bit is 0; 127 words of two zero bits follow: 257 bits.
        check(&[(1, 9)], MaskCode::Nibble, &[words(&[0b110], &[]).as_slice(), &[0, 9]].concat());
        let mut bits = [0; 64];
        bits[1] = 0b100;
        check(&[(10, 7)], MaskCode::Bitmap, &[&bits[..], &[7]].concat());
        let mut row = [0; 32];
        row[3] = 5;
        check(&[(67, 5)], MaskCode::Rows, &[&[0b100, 0][..], &row].concat());
    }

    #[test]
    fn three_quarters_of_zeros_take_little_room() {
        let mut state = 1u32;
        let mut codes = vec![0u8; 1 << 18];
        for code in &mut codes {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *code = if state >> 30 == 0 { (state >> 8) as u8 | 1 } else { 0 };
        }
        let ratio = |code| {
            let c = compress(&codes, ScalarType::I8, codes.len(), code).unwrap();
            let known = record_bytes(&codes, ScalarType::I8, codes.len());
            assert!(known.contains(&(code, c.records.len() as u64)), "{code:?}: {known:?}");
            (c.records.len() + 4 * c.offsets.len()) as f64 / codes.len() as f64
        };
        assert!(ratio(MaskCode::Nibble) < 0.37, "{}", ratio(MaskCode::Nibble));
        assert!(ratio(MaskCode::Bitmap) > 0.375, "{}", ratio(MaskCode::Bitmap));
    }

    #[test]
    fn malformed_records_are_errors() {
        let check = |record: &[u8], code: MaskCode, expect: SparseError| {
            let mut out = [0; BLOCK];
            assert_eq!(expand_record(record, ScalarType::U8, code, &mut out, 0), Err(expect));
        };
        check(&[0; 63], MaskCode::Bitmap, SparseError::ShortMask(63));
        check(&[0], MaskCode::Rows, SparseError::ShortMask(1));
        check(&[0; 31], MaskCode::Nibble, SparseError::ShortMask(31));
        check(&[0; 3], MaskCode::Rows, SparseError::Length { expected: 2, found: 3 });
        check(&[1, 0, 0], MaskCode::Rows, SparseError::Length { expected: 34, found: 3 });
        check(&[0xFF; 40], MaskCode::Nibble, SparseError::Word(0));
        assert_eq!(find_record(&[], &[0; 4], 0), None);
        let descending = [4, 0, 0, 0, 2, 0, 0, 0];
        let expect = SparseError::Offsets { from: 4, to: 2, bytes: 8 };
        assert_eq!(find_record(&[0; 8], &descending, 0), Some(Err(expect)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn expanding_undoes_compressing(
            n in 1..1500usize, zeros in 0..8u8, ty in 0..TYPES.len(), code in 0..3usize, seed: u64,
        ) {
            let (ty, code) = (TYPES[ty], CODES[code]);
            let mut codes = vec![0; ty.bytes_for(n as u64) as usize];
            let mut state = seed;
            for i in 0..n {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if (state >> 60) as u8 % 8 >= zeros {
                    pack::set(&mut codes, ty, i, state >> 20);
                }
            }
            let c = compress(&codes, ty, n, code).unwrap();
            prop_assert_eq!(expand(&c, ty, n, code).unwrap(), codes);
        }

        #[test]
        fn any_bytes_expand_or_are_refused(record in proptest::collection::vec(any::<u8>(), 0..200), code in 0..3usize) {
            let mut out = vec![0; BLOCK];
            if expand_record(&record, ScalarType::U8, CODES[code], &mut out, 0).is_ok() {
                prop_assert!(out.iter().filter(|&&c| c != 0).count() <= record.len());
            }
        }
    }
}
