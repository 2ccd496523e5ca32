//! Laws of the encodings, each on ten thousand random cases, over whatever the tables hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::asm::assemble;
use crate::disasm::disassemble;
use crate::encode::RowSpec;
use crate::inst::{Inst, InstKind};
use crate::program::SeOp;
use crate::testing;

/// A stream of random words (splitmix64).
struct Words(u64);

impl Words {
    fn next(&mut self) -> u128 {
        let mut half = || {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ z >> 31
        };
        u128::from(half()) << 64 | u128::from(half())
    }

    /// A word of a random row, its reserved bits mostly clear and the rest random, so that most words decode.
    fn of_row(&mut self, rows: &[RowSpec]) -> u128 {
        let (random, choice) = (self.next(), self.next());
        let row = &rows[choice as usize % rows.len()];
        let mut used = 0u128;
        for field in row.fields {
            used |= ((1 << field.width) - 1) << field.bit;
        }
        let stray = if (choice >> 64).is_multiple_of(8) { 1 << (choice >> 96 & 127) } else { 0 };
        (random & (used | 0x300)) & !0xff | u128::from(row.opcode) | stray
    }
}

const CASES: usize = 10_000;

/// Words that decode encode to themselves, words that do not are refused, and all rows of both tables turn up.
#[test]
fn random_words_decode_or_are_refused() {
    let mut words = Words(20_261_120);
    let (mut seen, mut refused) = (BTreeMap::<&str, usize>::new(), 0);
    for _ in 0..CASES {
        let random = words.next();
        for word in [random, random & words.next(), words.of_row(InstKind::ROWS)] {
            match Inst::decode(word) {
                Ok(inst) => {
                    assert_eq!(inst.encode(), Ok(word), "{inst:?}");
                    *seen.entry(inst.kind.mnemonic()).or_default() += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    for row in InstKind::ROWS {
        assert!(seen.contains_key(row.mnemonic), "no random word is `{}`", row.mnemonic);
    }
    assert!(refused > CASES, "random bits alone rarely make an instruction: {refused} refused");

    let (mut seen, mut refused) = (BTreeMap::<u8, usize>::new(), 0);
    for _ in 0..CASES {
        let random = words.next() as u64;
        for word in [random, random & words.next() as u64, (words.of_row(SeOp::ROWS) & !0x300) as u64] {
            match SeOp::decode(word) {
                Ok(op) => {
                    assert_eq!(op.encode(), Ok(word), "{op:?}");
                    *seen.entry(word as u8).or_default() += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    for row in SeOp::ROWS {
        assert!(seen.contains_key(&row.opcode), "no random word is `{}`", row.mnemonic);
    }
    assert!(refused > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES as u32))]

    #[test]
    fn decoding_inverts_encoding(inst in testing::inst(), op in testing::se_op()) {
        prop_assert_eq!(Inst::decode(inst.encode().unwrap()), Ok(inst));
        prop_assert_eq!(SeOp::decode(op.encode().unwrap()), Ok(op));
    }

    #[test]
    fn assembling_inverts_disassembling(object in testing::object()) {
        let text = disassemble(&object);
        let again = assemble(&text).map_err(|e| TestCaseError::fail(format!("{}\n{text}", e[0])))?;
        prop_assert_eq!(&again, &object);
        prop_assert_eq!(again.write().unwrap(), object.write().unwrap());
    }
}
