//! Field kinds: what a field of an instruction or SE operation may hold, its width and its text form.
//!
//! A row of [`for_each_inst!`](crate::for_each_inst) or of the SE operation table names a kind for each field. The kind
//! is a type of this module; encoder, decoder, assembler and disassembler go through its [`Field`] implementation alone.

use std::fmt::Write;

use crate::format::ScalarType;
use crate::inst::{Action, Place, Use};
pub use crate::inst::{Combine, Engine, Extreme, Fill, MaskCode, Multicast, Operand, Order, Share};
pub use crate::program::{Lane, Reg, SeBinary, SeReduce, SeUnary};

/// Where a field stands in the text of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// After the mnemonic, behind a dot: `unary.exp.f32`.
    Suffix,
    /// Among the arguments, in the order of the row.
    Positional,
    /// As `name=value`; left out when it is the kind's default.
    Keyed,
}

/// A field kind.
pub trait Field {
    /// What the field holds in the decoded instruction.
    type Value: Copy + PartialEq;
    /// Bits of the field; at most 32.
    const WIDTH: u32;
    /// Where it stands in text.
    const STYLE: Style;

    /// The bits of a value; `None` when it does not fit.
    fn to_bits(value: Self::Value) -> Option<u32>;

    /// The value of the bits; `None` when no value has them.
    fn from_bits(bits: u32) -> Option<Self::Value>;

    /// Appends the text of a value.
    fn print(value: Self::Value, out: &mut String);

    /// The value of a text; `None` when it has none.
    fn parse(text: &str) -> Option<Self::Value>;

    /// The value of a keyed field that the text leaves out.
    fn default() -> Option<Self::Value> {
        None
    }

    /// The operand that the field is, with what the instruction does with it and where it may be.
    fn operand(_: Self::Value) -> Option<(Operand, Use, Place)> {
        None
    }

    /// The operand that the field is, to be changed.
    fn operand_mut(_: &mut Self::Value) -> Option<&mut Operand> {
        None
    }

    /// The number of the global view that the field is, and whether its tensor is written.
    fn global(_: Self::Value) -> Option<(u16, bool)> {
        None
    }
}

/// Parses a decimal number without sign or spaces.
pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

macro_rules! number_fields {
    ($($(#[$doc:meta])* $name:ident: $ty:ty, $width:literal, $prefix:literal, $style:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Field for $name {
            type Value = $ty;
            const WIDTH: u32 = $width;
            const STYLE: Style = Style::$style;

            fn to_bits(value: $ty) -> Option<u32> {
                let bits = u32::from(value);
                (bits < 1 << $width).then_some(bits)
            }

            fn from_bits(bits: u32) -> Option<$ty> {
                <$ty>::try_from(bits).ok()
            }

            fn print(value: $ty, out: &mut String) {
                out.push_str($prefix);
                push_number(out, u64::from(value));
            }

            fn parse(text: &str) -> Option<$ty> {
                number(text.strip_prefix($prefix)?)
            }
        }
    )*};
}

pub(crate) fn push_number(out: &mut String, n: u64) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{n}");
}

number_fields! {
    /// Number of a launch: `#3`.
    LaunchIdx: u16, 16, "#", Positional;
    /// Number of a trip count: `t3`.
    TripIdx: u16, 16, "t", Positional;
    /// A loop level: `l0`.
    Level: u8, 2, "l", Positional;
    /// Number of software-pipeline stages: `stages=2`.
    Stages: u8, 3, "", Keyed;
    /// Number of slots: `n=2`.
    SlotCount: u16, 16, "", Keyed;
    /// Number of a buffer: `b3`.
    BufferIdx: u8, 6, "b", Positional;
    /// Number of a view: `v3`.
    ViewIdx: u16, 12, "v", Positional;
    /// Number of a dimension: `dim=3`.
    DimIdx: u8, 3, "", Keyed;
    /// Number of a constant: `c3`.
    ConstIdx: u16, 16, "c", Positional;
    /// Number of an SE program: `p3`.
    ProgramIdx: u16, 16, "p", Positional;
    /// Number of a launch parameter: `q3`.
    ParamIdx: u8, 4, "q", Positional;
    /// Number of an event: `e3`.
    EventIdx: u8, 6, "e", Positional;
    /// A number of posts or list elements: `k=3`.
    Count: u16, 16, "", Keyed;
    /// Number of a transfer: `x3`.
    TransferIdx: u16, 16, "x", Positional;
    /// Number of an operand stream: `s3`.
    StreamIdx: u8, 3, "s", Positional;
    /// Number of an accumulator: `a3`.
    AccIdx: u8, 3, "a", Positional;
}

macro_rules! enum_fields {
    ($($name:ident, $width:literal, $style:ident, $default:expr, { $($variant:ident = $text:literal),* $(,)? })*) => {$(
        impl Field for $name {
            type Value = $name;
            const WIDTH: u32 = $width;
            const STYLE: Style = Style::$style;

            fn to_bits(value: $name) -> Option<u32> {
                let bits = value as u32;
                (bits < 1 << $width).then_some(bits)
            }

            fn from_bits(bits: u32) -> Option<$name> {
                const ALL: &[$name] = &[$($name::$variant),*];
                let value = *ALL.get(bits as usize)?;
                (value as u32 == bits).then_some(value)
            }

            fn print(value: $name, out: &mut String) {
                out.push_str(match value { $($name::$variant => $text),* });
            }

            fn parse(text: &str) -> Option<$name> {
                match text { $($text => Some($name::$variant),)* _ => None }
            }

            fn default() -> Option<$name> {
                $default
            }
        }
    )*};
}

// Variants stand in the order of their codes; `from_bits` refuses a row that breaks it, and a test walks every code.
enum_fields! {
    Multicast, 2, Keyed, Some(Multicast::None), { None = "none", Row = "row", Col = "col", All = "all" }
    Fill, 2, Keyed, Some(Fill::Zero), { Zero = "zero", Least = "least", Greatest = "greatest", One = "one" }
    Order, 1, Keyed, Some(Order::Kn), { Kn = "kn", Nk = "nk" }
    MaskCode, 2, Keyed, Some(MaskCode::Bitmap), { Bitmap = "bitmap", Nibble = "nibble", Rows = "rows" }
    Combine, 3, Keyed, Some(Combine::Replace), {
        Replace = "replace", Add = "add", Mul = "mul", Min = "min", Max = "max",
    }
    Share, 1, Keyed, Some(Share::All), { All = "all", Part = "part" }
    Extreme, 1, Positional, None, { Max = "max", Min = "min" }
    Engine, 3, Positional, None, {
        Cp = "cp", FiLoad = "fi.load", FiStore = "fi.store", Mlu = "mlu", Dpe = "dpe", Re = "re", Se = "se", Me = "me",
    }
    Lane, 2, Suffix, None, { F32 = "f32", F64 = "f64", I32 = "i32", I64 = "i64" }
    SeReduce, 2, Suffix, None, { Sum = "sum", Prod = "prod", Max = "max", Min = "min" }
    SeUnary, 8, Suffix, None, {
        Mov = "mov", Neg = "neg", Abs = "abs", Sign = "sign", Ceil = "ceil", Floor = "floor", Round = "round",
        Not = "not", Inv = "inv", Exp = "exp", Log = "log", Sqrt = "sqrt", Recip = "recip", Sin = "sin",
        Cos = "cos", Tan = "tan", Asin = "asin", Acos = "acos", Atan = "atan", Sinh = "sinh", Cosh = "cosh",
        Tanh = "tanh", Asinh = "asinh", Acosh = "acosh", Atanh = "atanh", Erf = "erf", Sigmoid = "sigmoid",
        IsNan = "isnan", IsInf = "isinf", Expm1 = "expm1", Log1p = "log1p", NormCdf = "normcdf",
    }
    SeBinary, 8, Suffix, None, {
        Add = "add", Sub = "sub", Mul = "mul", Div = "div", Mod = "mod", Rem = "rem", Pow = "pow", Min = "min",
        Max = "max", And = "and", Or = "or", Xor = "xor", Shl = "shl", Shr = "shr", Eq = "eq", Lt = "lt",
        Le = "le",
    }
}

impl Field for Reg {
    type Value = Reg;
    const WIDTH: u32 = 6;
    const STYLE: Style = Style::Positional;

    fn to_bits(value: Reg) -> Option<u32> {
        (value.0 < 64).then_some(u32::from(value.0))
    }

    fn from_bits(bits: u32) -> Option<Reg> {
        u8::try_from(bits).ok().map(Reg)
    }

    fn print(value: Reg, out: &mut String) {
        out.push('r');
        push_number(out, u64::from(value.0));
    }

    fn parse(text: &str) -> Option<Reg> {
        number(text.strip_prefix('r')?).map(Reg)
    }
}

/// A scalar type by its code: `round.e4m3`.
#[derive(Clone, Copy, Debug)]
pub struct ScalarCode;

impl Field for ScalarCode {
    type Value = u8;
    const WIDTH: u32 = 8;
    const STYLE: Style = Style::Suffix;

    fn to_bits(value: u8) -> Option<u32> {
        ScalarType::from_code(value).map(|s| s as u32)
    }

    fn from_bits(bits: u32) -> Option<u8> {
        ScalarType::from_code(u8::try_from(bits).ok()?).map(|s| s as u8)
    }

    fn print(value: u8, out: &mut String) {
        match ScalarType::from_code(value) {
            Some(s) => out.push_str(s.name()),
            None => push_number(out, u64::from(value)),
        }
    }

    fn parse(text: &str) -> Option<u8> {
        ScalarType::from_name(text).map(|s| s as u8)
    }
}

/// A yes or no: `saturate=true`.
#[derive(Clone, Copy, Debug)]
pub struct Flag;

impl Field for Flag {
    type Value = bool;
    const WIDTH: u32 = 1;
    const STYLE: Style = Style::Keyed;

    fn to_bits(value: bool) -> Option<u32> {
        Some(u32::from(value))
    }

    fn from_bits(bits: u32) -> Option<bool> {
        (bits < 2).then_some(bits == 1)
    }

    fn print(value: bool, out: &mut String) {
        out.push_str(if value { "true" } else { "false" });
    }

    fn parse(text: &str) -> Option<bool> {
        text.parse().ok()
    }

    fn default() -> Option<bool> {
        Some(false)
    }
}

/// Buffer in bits 0-5, slot delta in 6-9, action in 10-11, view in 12-23.
///
/// The text is the buffer, the action (`+` push, `-` pop, `!` update, nothing for a read), the slots behind the head
/// where it is not the head, and the view: `b0+:v3`, `b1[2]:v0`.
impl Field for Operand {
    type Value = Operand;
    const WIDTH: u32 = 24;
    const STYLE: Style = Style::Positional;

    fn to_bits(value: Operand) -> Option<u32> {
        let Operand { buffer, delta, action, view } = value;
        let (buffer, delta, view) = (u32::from(buffer), u32::from(delta), u32::from(view));
        (buffer < 64 && delta < 16 && view < 4096)
            .then_some(buffer | delta << 6 | (action as u32) << 10 | view << 12)
    }

    fn from_bits(bits: u32) -> Option<Operand> {
        let action = match bits >> 10 & 3 {
            0 => Action::Read,
            1 => Action::Push,
            2 => Action::Pop,
            _ => Action::Update,
        };
        (bits < 1 << 24).then_some(Operand {
            buffer: (bits & 63) as u8,
            delta: (bits >> 6 & 15) as u8,
            action,
            view: (bits >> 12) as u16,
        })
    }

    fn print(value: Operand, out: &mut String) {
        let Operand { buffer, delta, action, view } = value;
        BufferIdx::print(buffer, out);
        out.push_str(match action {
            Action::Read => "",
            Action::Push => "+",
            Action::Pop => "-",
            Action::Update => "!",
        });
        if delta != 0 {
            let _ = write!(out, "[{delta}]");
        }
        out.push(':');
        ViewIdx::print(view, out);
    }

    fn parse(text: &str) -> Option<Operand> {
        let (slot, view) = text.split_once(':')?;
        let (slot, delta) = match slot.strip_suffix(']') {
            Some(rest) => rest.split_once('[').and_then(|(slot, delta)| Some((slot, number(delta)?)))?,
            None => (slot, 0),
        };
        let (buffer, action) = match slot.as_bytes().last()? {
            b'+' => (&slot[..slot.len() - 1], Action::Push),
            b'-' => (&slot[..slot.len() - 1], Action::Pop),
            b'!' => (&slot[..slot.len() - 1], Action::Update),
            _ => (slot, Action::Read),
        };
        Some(Operand { buffer: BufferIdx::parse(buffer)?, delta, action, view: ViewIdx::parse(view)? })
    }
}

macro_rules! operand_fields {
    ($($(#[$doc:meta])* $name:ident: $how:ident, $place:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Field for $name {
            type Value = Operand;
            const WIDTH: u32 = Operand::WIDTH;
            const STYLE: Style = Operand::STYLE;

            fn to_bits(value: Operand) -> Option<u32> {
                <Operand as Field>::to_bits(value)
            }

            fn from_bits(bits: u32) -> Option<Operand> {
                <Operand as Field>::from_bits(bits)
            }

            fn print(value: Operand, out: &mut String) {
                <Operand as Field>::print(value, out);
            }

            fn parse(text: &str) -> Option<Operand> {
                <Operand as Field>::parse(text)
            }

            fn operand(value: Operand) -> Option<(Operand, Use, Place)> {
                Some((value, Use::$how, Place::$place))
            }

            fn operand_mut(value: &mut Operand) -> Option<&mut Operand> {
                Some(value)
            }
        }
    )*};
}

operand_fields! {
    /// A slot in local memory that is read or popped.
    Source: Source, Local;
    /// A slot in local memory that is pushed or updated.
    Dest: Dest, Local;
    /// A slot in local memory that is pushed.
    Fresh: Fresh, Local;
    /// A bank that is read or popped.
    BankSource: Source, Bank;
    /// A bank that is pushed or updated.
    BankDest: Dest, Bank;
    /// A bank that is updated.
    BankChange: Change, Bank;
    /// A slot in local memory or a bank that is read or popped.
    AnySource: Source, Any;
}

macro_rules! global_fields {
    ($($(#[$doc:meta])* $name:ident: $writes:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Field for $name {
            type Value = u16;
            const WIDTH: u32 = ViewIdx::WIDTH;
            const STYLE: Style = ViewIdx::STYLE;

            fn to_bits(value: u16) -> Option<u32> {
                ViewIdx::to_bits(value)
            }

            fn from_bits(bits: u32) -> Option<u16> {
                ViewIdx::from_bits(bits)
            }

            fn print(value: u16, out: &mut String) {
                ViewIdx::print(value, out);
            }

            fn parse(text: &str) -> Option<u16> {
                ViewIdx::parse(text)
            }

            fn global(value: u16) -> Option<(u16, bool)> {
                Some((value, $writes))
            }
        }
    )*};
}

global_fields! {
    /// Number of the view of a tensor that is read.
    GlobalSource: false;
    /// Number of the view of a tensor that is written.
    GlobalDest: true;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_code<F: Field>(n: u32)
    where
        F::Value: std::fmt::Debug,
    {
        let mut seen = 0;
        for bits in 0..1u32 << F::WIDTH.min(12) {
            if let Some(value) = F::from_bits(bits) {
                seen += 1;
                assert_eq!(F::to_bits(value), Some(bits));
                let mut text = String::new();
                F::print(value, &mut text);
                assert_eq!(F::parse(&text), Some(value), "{text}");
            }
        }
        assert_eq!(seen, n);
    }

    #[test]
    fn every_code_of_every_kind_round_trips() {
        every_code::<Multicast>(4);
        every_code::<Fill>(4);
        every_code::<Order>(2);
        every_code::<MaskCode>(3);
        every_code::<Combine>(5);
        every_code::<Share>(2);
        every_code::<Extreme>(2);
        every_code::<Engine>(8);
        every_code::<ParamIdx>(16);
        every_code::<EventIdx>(64);
        every_code::<Lane>(4);
        every_code::<SeReduce>(4);
        every_code::<SeUnary>(SeUnary::NormCdf as u32 + 1);
        every_code::<SeBinary>(SeBinary::Le as u32 + 1);
        every_code::<Reg>(64);
        every_code::<ScalarCode>(ScalarType::ALL.len() as u32);
        every_code::<Flag>(2);
        every_code::<Level>(4);
        every_code::<Stages>(8);
        every_code::<BufferIdx>(64);
        every_code::<ViewIdx>(4096);
        every_code::<DimIdx>(8);
    }

    #[test]
    fn operand_text() {
        let check = |text: &str, expect: Option<(u8, u8, Action, u16)>| {
            let expect = expect.map(|(buffer, delta, action, view)| Operand { buffer, delta, action, view });
            assert_eq!(Operand::parse(text), expect, "{text}");
            if let Some(value) = expect {
                let mut printed = String::new();
                Operand::print(value, &mut printed);
                assert_eq!(printed, text);
                assert_eq!(Operand::to_bits(value).and_then(Operand::from_bits), expect);
            }
        };
        check("b0+:v3", Some((0, 0, Action::Push, 3)));
        check("b63-:v4095", Some((63, 0, Action::Pop, 4095)));
        check("b1[2]:v0", Some((1, 2, Action::Read, 0)));
        check("b1![15]:v0", Some((1, 15, Action::Update, 0)));
        check("b1:v", None);
        check("b1", None);
        check("b1[]:v1", None);
        check("b-:v1", None);
        check(":v1", None);
    }
}
