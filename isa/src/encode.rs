//! Encoding, decoding and argument text of instructions (128 bits) and SE operations (64 bits), expanded from their
//! tables.
//!
//! Decoding is total: every word either is an instruction or is refused, and `encode(decode(w)) == w` where it is one.
//! A table whose fields overlap, leave the word or share an opcode does not compile.

use crate::field::{self, Field, Style};
use crate::for_each_inst;
use crate::inst::{Engine, GlobalField, Inst, InstKind, Operand, OperandField};
use crate::program::SeOp;

/// A value that its field cannot hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{mnemonic}`: the value of `{field}` does not fit its {width} bits")]
pub struct EncodeError {
    /// The instruction.
    pub mnemonic: &'static str,
    /// The field.
    pub field: &'static str,
    /// Width of the field in bits.
    pub width: u32,
}

/// A word that is no instruction.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// No row has this opcode.
    #[error("no instruction has opcode {0:#04x}")]
    Opcode(u8),
    /// Bits that no field covers are not 0.
    #[error("`{mnemonic}`: reserved bits {bits:#x} are set")]
    Reserved {
        /// The instruction.
        mnemonic: &'static str,
        /// The offending bits.
        bits: u128,
    },
    /// The bits of a field name no value.
    #[error("`{mnemonic}`: `{field}` has no value {bits:#x}")]
    Value {
        /// The instruction.
        mnemonic: &'static str,
        /// The field.
        field: &'static str,
        /// Its bits.
        bits: u32,
    },
}

/// Why the arguments of an instruction's text do not fit its row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArgError {
    /// Number of the argument at fault among all of them; `None` when one is missing or a suffix is wrong.
    pub arg: Option<usize>,
    /// What is wrong.
    pub message: String,
}

/// A field of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldSpec {
    /// Name of the field.
    pub name: &'static str,
    /// Name of its kind.
    pub kind: &'static str,
    /// Lowest bit.
    pub bit: u32,
    /// Number of bits.
    pub width: u32,
    /// Where it stands in text.
    pub style: Style,
}

/// A row of an instruction table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowSpec {
    /// Lines of the row's documentation.
    pub doc: &'static [&'static str],
    /// Opcode: bits 0-7 of the word.
    pub opcode: u8,
    /// Mnemonic.
    pub mnemonic: &'static str,
    /// Engine.
    pub engine: Engine,
    /// Fields.
    pub fields: &'static [FieldSpec],
}

impl RowSpec {
    /// The form of the instruction's text, for example `pop buffer, n=SlotCount`.
    pub fn syntax(&self) -> String {
        let mut out = self.mnemonic.to_owned();
        for field in self.fields.iter().filter(|f| f.style == Style::Suffix) {
            out.push('.');
            out.push_str(field.name);
        }
        let positional = self.fields.iter().filter(|f| f.style == Style::Positional);
        let keyed = self.fields.iter().filter(|f| f.style == Style::Keyed);
        for (i, field) in positional.chain(keyed).enumerate() {
            out.push_str(if i == 0 { " " } else { ", " });
            out.push_str(field.name);
            if field.style == Style::Keyed {
                out.push('=');
                out.push_str(field.kind);
            }
        }
        out
    }
}

/// An argument of an instruction's text.
#[derive(Clone, Copy, Debug)]
pub struct Arg<'a> {
    /// The name before `=`, for keyed fields.
    pub key: Option<&'a str>,
    /// The value.
    pub value: &'a str,
}

const OPCODE_BITS: u32 = 8;
const STAGE_BIT: u32 = 8;
const STAGE_WIDTH: u32 = 2;

const fn mask(bit: u32, width: u32) -> u128 {
    ((1 << width) - 1) << bit
}

/// Bits of the fields of a row; the build fails when two overlap or one leaves the word.
const fn used_bits(fields: &[FieldSpec], fixed: u128, word_bits: u32) -> u128 {
    let mut used = fixed;
    let mut i = 0;
    while i < fields.len() {
        let FieldSpec { bit, width, .. } = fields[i];
        assert!(bit + width <= word_bits, "a field leaves the word");
        assert!(used & mask(bit, width) == 0, "two fields overlap");
        used |= mask(bit, width);
        i += 1;
    }
    used
}

const fn assert_table(rows: &[RowSpec], fixed: u128, word_bits: u32) {
    let mut i = 0;
    while i < rows.len() {
        used_bits(rows[i].fields, fixed, word_bits);
        let mut j = 0;
        while j < i {
            assert!(rows[i].opcode != rows[j].opcode, "two rows share an opcode");
            j += 1;
        }
        i += 1;
    }
}

fn put<F: Field>(mnemonic: &'static str, field: &'static str, value: F::Value) -> Result<u128, EncodeError> {
    F::to_bits(value).map(u128::from).ok_or(EncodeError { mnemonic, field, width: F::WIDTH })
}

fn take<F: Field>(
    mnemonic: &'static str,
    field: &'static str,
    word: u128,
    bit: u32,
) -> Result<F::Value, DecodeError> {
    let bits = (word >> bit & mask(0, F::WIDTH)) as u32;
    F::from_bits(bits).ok_or(DecodeError::Value { mnemonic, field, bits })
}

/// Collects the printed fields of one instruction: suffixes go to the mnemonic, the others to the arguments.
struct Printer<'a> {
    out: &'a mut String,
    n_args: usize,
}

impl Printer<'_> {
    fn suffix<F: Field>(&mut self, value: F::Value) {
        if F::STYLE == Style::Suffix {
            self.out.push('.');
            F::print(value, self.out);
        }
    }

    fn positional<F: Field>(&mut self, value: F::Value) {
        if F::STYLE == Style::Positional {
            self.separate();
            F::print(value, self.out);
        }
    }

    fn keyed<F: Field>(&mut self, name: &str, value: F::Value) {
        if F::STYLE == Style::Keyed && F::default() != Some(value) {
            self.separate();
            self.out.push_str(name);
            self.out.push('=');
            F::print(value, self.out);
        }
    }

    fn separate(&mut self) {
        self.out.push_str(if self.n_args == 0 { " " } else { ", " });
        self.n_args += 1;
    }
}

/// Hands suffixes and arguments to the fields of one row, in order.
struct Args<'a> {
    suffixes: &'a [&'a str],
    args: &'a [Arg<'a>],
    next_suffix: usize,
    next_arg: usize,
    keys_used: u64,
}

impl Args<'_> {
    fn field<F: Field>(&mut self, name: &str, kind: &str) -> Result<F::Value, ArgError> {
        let (arg, text) = match F::STYLE {
            Style::Suffix => {
                let text = self.suffixes.get(self.next_suffix).copied();
                self.next_suffix += 1;
                (None, text)
            }
            Style::Positional => {
                while self.args.get(self.next_arg).is_some_and(|a| a.key.is_some()) {
                    self.next_arg += 1;
                }
                let found = self.args.get(self.next_arg);
                self.next_arg += 1;
                (found.map(|_| self.next_arg - 1), found.map(|a| a.value))
            }
            Style::Keyed => {
                let found = self.args.iter().position(|a| a.key == Some(name));
                if let Some(i) = found {
                    self.keys_used |= 1 << i.min(63);
                }
                (found, found.map(|i| self.args[i].value))
            }
        };
        let Some(text) = text else {
            return F::default()
                .ok_or_else(|| ArgError { arg: None, message: format!("`{name}` is missing") });
        };
        F::parse(text)
            .filter(|&value| F::to_bits(value).is_some())
            .ok_or_else(|| ArgError { arg, message: format!("`{text}` is no `{name}` (kind {kind})") })
    }

    fn finish(&self) -> Result<(), ArgError> {
        if let Some(extra) = self.suffixes.get(self.next_suffix) {
            return Err(ArgError { arg: None, message: format!("unexpected suffix `.{extra}`") });
        }
        for (i, arg) in self.args.iter().enumerate() {
            let used = match arg.key {
                Some(_) => self.keys_used >> i.min(63) & 1 == 1,
                None => i < self.next_arg,
            };
            if !used {
                let message = match arg.key {
                    Some(key) => format!("unexpected argument `{key}=`"),
                    None => format!("unexpected argument `{}`", arg.value),
                };
                return Err(ArgError { arg: Some(i), message });
            }
        }
        Ok(())
    }
}

macro_rules! codec {
    ([$kind:ident, $word_bits:literal, $fixed:expr]
     $($(#[doc = $doc:literal])* $name:ident = $opcode:literal, $text:literal, $engine:ident { $($field:ident : $ty:ident = $bit:literal),* })*) => {
        impl $kind {
            /// The table's rows, in its order.
            pub const ROWS: &'static [RowSpec] = &[$(RowSpec {
                doc: &[$($doc),*],
                opcode: $opcode,
                mnemonic: $text,
                engine: Engine::$engine,
                fields: &[$(FieldSpec {
                    name: stringify!($field),
                    kind: stringify!($ty),
                    bit: $bit,
                    width: <field::$ty as Field>::WIDTH,
                    style: <field::$ty as Field>::STYLE,
                }),*],
            },)*];

            fn to_word(self) -> Result<u128, EncodeError> {
                match self {$(
                    Self::$name { $($field),* } => Ok($opcode $(| put::<field::$ty>($text, stringify!($field), $field)? << $bit)*),
                )*}
            }

            fn from_word(word: u128) -> Result<Self, DecodeError> {
                match (word & mask(0, OPCODE_BITS)) as u8 {
                    $($opcode => {
                        const USED: u128 = used_bits(&[$(FieldSpec {
                            name: "", kind: "", bit: $bit, width: <field::$ty as Field>::WIDTH, style: Style::Positional,
                        }),*], $fixed, $word_bits);
                        if word & !USED != 0 {
                            return Err(DecodeError::Reserved { mnemonic: $text, bits: word & !USED });
                        }
                        Ok(Self::$name { $($field: take::<field::$ty>($text, stringify!($field), word, $bit)?),* })
                    })*
                    opcode => Err(DecodeError::Opcode(opcode)),
                }
            }

            /// Appends mnemonic and suffixes, then `middle`, then the arguments.
            fn print_to(self, middle: &str, out: &mut String) {
                match self {$(
                    Self::$name { $($field),* } => {
                        out.push_str($text);
                        let printer = &mut Printer { out, n_args: 0 };
                        $(printer.suffix::<field::$ty>($field);)*
                        printer.out.push_str(middle);
                        $(printer.positional::<field::$ty>($field);)*
                        $(printer.keyed::<field::$ty>(stringify!($field), $field);)*
                    }
                )*}
            }

            /// The value of a mnemonic (without suffixes), its suffixes and arguments; `None` when no row has the
            /// mnemonic.
            fn parse_args(mnemonic: &str, suffixes: &[&str], args: &[Arg<'_>]) -> Option<Result<Self, ArgError>> {
                let mut reader = Args { suffixes, args, next_suffix: 0, next_arg: 0, keys_used: 0 };
                match mnemonic {
                    $($text => Some((|| {
                        let value = Self::$name { $($field: reader.field::<field::$ty>(stringify!($field), stringify!($ty))?),* };
                        reader.finish()?;
                        Ok(value)
                    })()),)*
                    _ => None,
                }
            }
        }

        const _: () = assert_table($kind::ROWS, $fixed, $word_bits);
    };
}

macro_rules! inst_codec {
    ($($rows:tt)*) => { codec! { [InstKind, 128, mask(0, OPCODE_BITS) | mask(STAGE_BIT, STAGE_WIDTH)] $($rows)* } };
}
for_each_inst!(inst_codec);

macro_rules! inst_visitor {
    ($($(#[doc = $doc:literal])* $name:ident = $opcode:literal, $text:literal, $engine:ident { $($field:ident : $ty:ident = $bit:literal),* })*) => {
        /// One method for each instruction: a consumer that misses one does not compile.
        #[expect(non_snake_case, reason = "methods are named after the variants of the table")]
        pub trait InstVisitor {
            /// What a visit gives.
            type Output;
            $($(#[doc = $doc])*
            fn $name(&mut self $(, $field: <field::$ty as Field>::Value)*) -> Self::Output;)*
        }

        impl InstKind {
            /// Calls the visitor's method for this instruction.
            pub fn visit<V: InstVisitor>(self, visitor: &mut V) -> V::Output {
                match self { $(InstKind::$name { $($field),* } => visitor.$name($($field),*),)* }
            }
        }
    };
}
for_each_inst!(inst_visitor);

macro_rules! inst_operands {
    ($($(#[doc = $doc:literal])* $name:ident = $opcode:literal, $text:literal, $engine:ident { $($field:ident : $ty:ident = $bit:literal),* })*) => {
        impl InstKind {
            /// The operands, in the order of the row; not those of an SE program.
            pub fn operands(&self) -> impl Iterator<Item = OperandField> + use<> {
                let mut found = [None; 4];
                match *self {$(
                    InstKind::$name { $($field),* } => {
                        let all = [$(<field::$ty as Field>::operand($field).map(|(operand, how, place)| {
                            OperandField { name: stringify!($field), operand, how, place }
                        })),*];
                        let all: &[Option<OperandField>] = &all;
                        for (slot, field) in found.iter_mut().zip(all.iter().filter(|f| f.is_some())) {
                            *slot = *field;
                        }
                    }
                )*}
                found.into_iter().flatten()
            }

            /// The operands, in the order of the row, to be changed.
            pub fn operands_mut(&mut self) -> Vec<&mut Operand> {
                match self {$(
                    InstKind::$name { $($field),* } => {
                        let all: Vec<Option<&mut Operand>> = vec![$(<field::$ty as Field>::operand_mut($field)),*];
                        all.into_iter().flatten().collect()
                    }
                )*}
            }

            /// The global view that the instruction reads or writes.
            pub fn global(&self) -> Option<GlobalField> {
                match *self {$(
                    InstKind::$name { $($field),* } => {
                        let all = [$(<field::$ty as Field>::global($field)
                            .map(|(view, writes)| GlobalField { name: stringify!($field), view, writes })),*];
                        let all: &[Option<GlobalField>] = &all;
                        all.iter().flatten().copied().next()
                    }
                )*}
            }
        }
    };
}
for_each_inst!(inst_operands);

codec! {
    [SeOp, 64, mask(0, OPCODE_BITS)]
    /// `dst = stream[index]`.
    Load = 0x01, "load", Se { dst: Reg = 32, lane: Lane = 8, stream: StreamIdx = 56 }
    /// `stream[index] = src`.
    Store = 0x02, "store", Se { stream: StreamIdx = 56, lane: Lane = 8, src: Reg = 32 }
    /// `dst` = constant.
    Const = 0x03, "const", Se { dst: Reg = 32, lane: Lane = 8, index: ConstIdx = 16 }
    /// `dst` = logical coordinate of a dimension, as `i32`.
    Coord = 0x04, "coord", Se { dst: Reg = 32, dim: DimIdx = 56 }
    /// `dst = f(a)`.
    Unary = 0x05, "unary", Se { f: SeUnary = 16, lane: Lane = 8, dst: Reg = 32, a: Reg = 38 }
    /// `dst = f(a, b)`.
    Binary = 0x06, "binary", Se { f: SeBinary = 16, lane: Lane = 8, dst: Reg = 32, a: Reg = 38, b: Reg = 44 }
    /// `dst = a * b + c`, one rounding.
    Fma = 0x07, "fma", Se { lane: Lane = 8, dst: Reg = 32, a: Reg = 38, b: Reg = 44, c: Reg = 50 }
    /// `dst = c != 0 ? a : b`.
    Select = 0x08, "select", Se { lane: Lane = 8, dst: Reg = 32, c: Reg = 50, a: Reg = 38, b: Reg = 44 }
    /// `dst = a` converted.
    Convert = 0x09, "convert", Se { from: Lane = 10, to: Lane = 8, dst: Reg = 32, a: Reg = 38 }
    /// Rounds a float lane to a narrower format and back.
    RoundTo = 0x0a, "round", Se { format: ScalarCode = 16, saturate: Flag = 24, lane: Lane = 8, dst: Reg = 32, a: Reg = 38 }
    /// Combines `a` into a partial of an accumulator.
    Accumulate = 0x0b, "accumulate", Se { f: SeReduce = 16, lane: Lane = 8, acc: AccIdx = 56, a: Reg = 38 }
    /// `dst` = the partials of an accumulator combined by halving.
    Tree = 0x0c, "tree", Se { f: SeReduce = 16, lane: Lane = 8, dst: Reg = 32, acc: AccIdx = 56 }
}

impl Inst {
    /// The instruction's 128 bits.
    ///
    /// # Errors
    /// When a value does not fit its field.
    pub fn encode(&self) -> Result<u128, EncodeError> {
        if u32::from(self.stage) >= 1 << STAGE_WIDTH {
            return Err(EncodeError { mnemonic: self.kind.mnemonic(), field: "stage", width: STAGE_WIDTH });
        }
        Ok(self.kind.to_word()? | u128::from(self.stage) << STAGE_BIT)
    }

    /// The instruction that has these bits.
    ///
    /// # Errors
    /// On unknown opcodes, reserved bits and field values without a meaning.
    pub fn decode(word: u128) -> Result<Inst, DecodeError> {
        let stage = (word >> STAGE_BIT & mask(0, STAGE_WIDTH)) as u8;
        Ok(Inst { stage, kind: InstKind::from_word(word)? })
    }

    /// Appends the text, for example `ld.s1 b0+:v3, v5, cast=row`.
    pub fn print(&self, out: &mut String) {
        let stage = ["", ".s1", ".s2", ".s3"].get(usize::from(self.stage)).copied().unwrap_or(".s?");
        self.kind.print_to(stage, out);
    }

    /// The instruction of a head (`mnemonic.sN`) and its arguments; `None` when there is no such mnemonic.
    pub fn parse(head: &str, args: &[Arg<'_>]) -> Option<Result<Inst, ArgError>> {
        let (mnemonic, suffix) = head.split_once('.').unwrap_or((head, ""));
        let kind = match InstKind::parse_args(mnemonic, &[], args)? {
            Ok(kind) => kind,
            Err(error) => return Some(Err(error)),
        };
        let stage = match suffix {
            "" | "s0" => 0,
            "s1" => 1,
            "s2" => 2,
            "s3" => 3,
            other => {
                let message = format!("`.{other}` is no stage: write .s0 to .s3");
                return Some(Err(ArgError { arg: None, message }));
            }
        };
        Some(Ok(Inst { stage, kind }))
    }
}

impl SeOp {
    /// The operation's 64 bits.
    ///
    /// # Errors
    /// When a value does not fit its field.
    pub fn encode(&self) -> Result<u64, EncodeError> {
        self.to_word().map(|word| word as u64)
    }

    /// The operation that has these bits.
    ///
    /// # Errors
    /// On unknown opcodes, reserved bits and field values without a meaning.
    pub fn decode(word: u64) -> Result<SeOp, DecodeError> {
        SeOp::from_word(u128::from(word))
    }

    /// Appends the text, for example `unary.exp.f32 r1, r0`.
    pub fn print(&self, out: &mut String) {
        self.print_to("", out);
    }

    /// The operation of a head (mnemonic and suffixes) and its arguments; `None` when there is no such mnemonic.
    pub fn parse(head: &str, args: &[Arg<'_>]) -> Option<Result<SeOp, ArgError>> {
        let mut parts = head.split('.');
        let mnemonic = parts.next().unwrap_or_default();
        let suffixes: Vec<&str> = parts.collect();
        SeOp::parse_args(mnemonic, &suffixes, args)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    #[test]
    fn every_mnemonic_has_a_row_of_its_own() {
        let mut texts: Vec<&str> = InstKind::ROWS.iter().map(|row| row.mnemonic).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), InstKind::ROWS.len());
        for row in InstKind::ROWS {
            let kind = InstKind::from_word(u128::from(row.opcode)).unwrap();
            assert_eq!(
                (kind.mnemonic(), kind.engine(), kind.opcode()),
                (row.mnemonic, row.engine, row.opcode)
            );
        }
    }

    #[test]
    fn golden_words() {
        let check = |text: &str, expect: u128| {
            let (head, rest) = text.split_once(' ').unwrap_or((text, ""));
            let args: Vec<Arg<'_>> = rest
                .split(", ")
                .filter(|s| !s.is_empty())
                .map(|s| match s.split_once('=') {
                    Some((key, value)) => Arg { key: Some(key), value },
                    None => Arg { key: None, value: s },
                })
                .collect();
            let inst = Inst::parse(head, &args).unwrap().unwrap();
            assert_eq!(inst.encode().unwrap(), expect, "{text}: {:#x}", inst.encode().unwrap());
            let mut printed = String::new();
            inst.print(&mut printed);
            assert_eq!(printed, text);
        };
        check("halt", 0x05);
        check("loop.s1 t3, l2, stages=4", 0x0400_0002_0003_0102);
        check("ld b1+:v2, v3, cast=row, fill=one", 0x0300_2401_0000_3410);
        check("mm.s3 b0!:v1, b1-:v2, b2[3]:v4, order=nk", 0x40c2_0028_0100_1c00_0000_0730);
    }

    #[test]
    fn arguments_that_do_not_fit_are_refused() {
        let check = |head: &str, args: &[(&str, &str)], expect: &str| {
            let args: Vec<Arg<'_>> = args
                .iter()
                .map(|&(key, value)| Arg { key: (!key.is_empty()).then_some(key), value })
                .collect();
            let error = Inst::parse(head, &args).unwrap().unwrap_err();
            assert_eq!(error.message, expect);
        };
        check("halt", &[("", "b0")], "unexpected argument `b0`");
        check("pop", &[("n", "1")], "`buffer` is missing");
        check("pop", &[("", "b0")], "`n` is missing");
        check("pop", &[("n", "1"), ("", "b0"), ("m", "2")], "unexpected argument `m=`");
        check("pop", &[("n", "1"), ("n", "2"), ("", "b0")], "unexpected argument `n=`");
        check("pop", &[("n", "-1"), ("", "b0")], "`-1` is no `n` (kind SlotCount)");
        check("halt.s4", &[], "`.s4` is no stage: write .s0 to .s3");
        assert_eq!(Inst::parse("hlt", &[]), None);
    }

    #[test]
    fn undefined_words_are_refused() {
        assert_eq!(Inst::decode(0), Err(DecodeError::Opcode(0)));
        assert_eq!(
            Inst::decode(0x05 | 1 << 127),
            Err(DecodeError::Reserved { mnemonic: "halt", bits: 1 << 127 })
        );
        assert_eq!(
            SeOp::decode(0x05 | 0xff << 16),
            Err(DecodeError::Value { mnemonic: "unary", field: "f", bits: 0xff })
        );
    }

    proptest! {
        #[test]
        fn instructions_round_trip(inst in testing::inst()) {
            prop_assert_eq!(Inst::decode(inst.encode().unwrap()), Ok(inst));
        }

        #[test]
        fn operations_round_trip(op in testing::se_op()) {
            prop_assert_eq!(SeOp::decode(op.encode().unwrap()), Ok(op));
        }

        #[test]
        fn random_words_decode_or_are_refused(word in any::<u128>(), sparse in any::<u128>(), row in 0..InstKind::ROWS.len()) {
            for word in [word, word & sparse, word & !0xff | u128::from(InstKind::ROWS[row].opcode)] {
                if let Ok(inst) = Inst::decode(word) {
                    prop_assert_eq!(inst.encode(), Ok(word));
                }
                if let Ok(op) = SeOp::decode(word as u64) {
                    prop_assert_eq!(op.encode(), Ok(word as u64));
                }
            }
        }
    }
}
