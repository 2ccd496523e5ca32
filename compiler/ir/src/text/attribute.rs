//! Attributes in text: one trait, implemented once per type, so that a row of the operator table needs nothing here.

use std::fmt::Write;

use lacuna_isa::field::Field;
use lacuna_isa::format::{GroupFormat, ScalarType, ScaleMode};
use lacuna_isa::inst::Combine;

use super::TextError;
use super::cursor::Parser;
use super::lexer::{Token, quote};
use crate::for_each_op;
use crate::module::{ConstId, FuncId};
use crate::op::{BinaryOp, CompareOp, ContractMap, ConvAttrs, Dims, EmptyRow, Op, Real, ReduceOp, UnaryOp};
use crate::types::Shape;

/// A type that attributes have.
pub(super) trait Attribute: Sized {
    /// Appends the text form.
    fn print(&self, out: &mut String);
    /// Reads the text form.
    fn parse(p: &mut Parser<'_>) -> Result<Self, TextError>;
}

/// Appends formatted text.
pub(super) fn put(out: &mut String, text: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{text}");
}

macro_rules! number_attributes {
    ($($ty:ty, $what:literal;)*) => {$(
        impl Attribute for $ty {
            fn print(&self, out: &mut String) {
                put(out, self);
            }
            fn parse(p: &mut Parser<'_>) -> Result<$ty, TextError> {
                p.number($what, |text| text.parse().ok())
            }
        }
    )*};
}
number_attributes! {
    u8, "a number up to 255";
    u64, "a number of 0 or more";
    i64, "an integer";
}

impl Attribute for bool {
    fn print(&self, out: &mut String) {
        put(out, self);
    }
    fn parse(p: &mut Parser<'_>) -> Result<bool, TextError> {
        p.named("true or false", &["false", "true"], |name| name.parse().ok())
    }
}

impl Attribute for Real {
    fn print(&self, out: &mut String) {
        if self.0.is_finite() {
            put(out, format_args!("{:?}", self.0));
        } else {
            put(out, format_args!("{:#x}", self.0.to_bits()));
        }
    }
    fn parse(p: &mut Parser<'_>) -> Result<Real, TextError> {
        p.number("a real number", |text| match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok().map(|bits| Real(f64::from_bits(bits))),
            // An overflow to infinity would not read back.
            None => text.parse().ok().filter(|v: &f64| v.is_finite()).map(Real),
        })
    }
}

impl<T: Attribute> Attribute for Vec<T> {
    fn print(&self, out: &mut String) {
        out.push('[');
        for (i, item) in self.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            item.print(out);
        }
        out.push(']');
    }
    fn parse(p: &mut Parser<'_>) -> Result<Vec<T>, TextError> {
        p.list(Token::OpenBracket, Token::CloseBracket, T::parse)
    }
}

impl Attribute for Shape {
    fn print(&self, out: &mut String) {
        self.0.print(out);
    }
    fn parse(p: &mut Parser<'_>) -> Result<Shape, TextError> {
        Vec::parse(p).map(Shape)
    }
}

macro_rules! entity_attributes {
    ($($ty:ty, $prefix:literal;)*) => {$(
        impl Attribute for $ty {
            fn print(&self, out: &mut String) {
                put(out, self);
            }
            fn parse(p: &mut Parser<'_>) -> Result<$ty, TextError> {
                p.id($prefix).map(<$ty>::from_u32)
            }
        }
    )*};
}
entity_attributes! {
    ConstId, "c";
    FuncId, "fn";
}

macro_rules! named_attributes {
    ($($ty:ty, $what:literal, $all:expr;)*) => {$(
        impl Attribute for $ty {
            fn print(&self, out: &mut String) {
                out.push_str(self.name());
            }
            fn parse(p: &mut Parser<'_>) -> Result<$ty, TextError> {
                let names: Vec<&str> = $all.iter().map(|v| v.name()).collect();
                p.named($what, &names, <$ty>::from_name)
            }
        }
    )*};
}
named_attributes! {
    ScalarType, "a scalar type", ScalarType::ALL;
    GroupFormat, "a group format", GroupFormat::ALL;
    ScaleMode, "a scale mode", ScaleMode::ALL;
    UnaryOp, "a function of one operand", UnaryOp::ALL;
    BinaryOp, "a function of two operands", BinaryOp::ALL;
    CompareOp, "a relation", CompareOp::ALL;
    ReduceOp, "a reduction", ReduceOp::ALL;
    EmptyRow, "weights of an empty row", EmptyRow::ALL;
}

impl Attribute for Combine {
    fn print(&self, out: &mut String) {
        <Combine as Field>::print(*self, out);
    }
    fn parse(p: &mut Parser<'_>) -> Result<Combine, TextError> {
        p.named("a combination", &["replace", "add", "mul", "min", "max"], <Combine as Field>::parse)
    }
}

impl Attribute for ContractMap {
    fn print(&self, out: &mut String) {
        quote(&self.to_string(), out);
    }
    fn parse(p: &mut Parser<'_>) -> Result<ContractMap, TextError> {
        p.string_as("a map such as \"mk,kn->mn\"", ContractMap::parse)
    }
}

macro_rules! record_attribute {
    ($ty:ident { $($field:ident),* }) => {
        impl Attribute for $ty {
            fn print(&self, out: &mut String) {
                FieldPrinter::new(out)$(.field(stringify!($field), &self.$field))*.finish();
            }
            fn parse(p: &mut Parser<'_>) -> Result<$ty, TextError> {
                let mut fields = FieldParser::new(p);
                $(let $field = fields.field(stringify!($field))?;)*
                fields.finish()?;
                Ok($ty { $($field),* })
            }
        }
    };
}
record_attribute!(ConvAttrs { x, w, out, strides, dilations, x_dilations, low, high, groups });

/// Writes `{name: value, ..}`, and nothing without fields.
struct FieldPrinter<'o> {
    out: &'o mut String,
    any: bool,
}

impl<'o> FieldPrinter<'o> {
    fn new(out: &'o mut String) -> FieldPrinter<'o> {
        FieldPrinter { out, any: false }
    }

    fn field<T: Attribute>(self, name: &str, value: &T) -> FieldPrinter<'o> {
        self.out.push_str(if self.any { ", " } else { "{" });
        self.out.push_str(name);
        self.out.push_str(": ");
        value.print(self.out);
        FieldPrinter { out: self.out, any: true }
    }

    fn finish(self) {
        if self.any {
            self.out.push('}');
        }
    }
}

/// Reads what [`FieldPrinter`] writes.
struct FieldParser<'p, 't> {
    p: &'p mut Parser<'t>,
    any: bool,
}

impl<'p, 't> FieldParser<'p, 't> {
    fn new(p: &'p mut Parser<'t>) -> FieldParser<'p, 't> {
        FieldParser { p, any: false }
    }

    fn field<T: Attribute>(&mut self, name: &str) -> Result<T, TextError> {
        self.p.expect(if self.any { Token::Comma } else { Token::OpenBrace })?;
        self.any = true;
        self.p.keyword(name)?;
        self.p.expect(Token::Colon)?;
        T::parse(self.p)
    }

    fn finish(self) -> Result<(), TextError> {
        if self.any { self.p.expect(Token::CloseBrace) } else { Ok(()) }
    }
}

macro_rules! text_of_ops {
    ($($(#[$doc:meta])* $name:ident $text:literal ($min:literal, $max:literal) { $($field:ident : $ty:ty),* })*) => {
        /// Appends an operator's attributes.
        pub(super) fn print_attributes(op: &Op, out: &mut String) {
            match op {
                $(Op::$name { $($field),* } => {
                    FieldPrinter::new(out)$(.field(stringify!($field), $field))*.finish();
                })*
            }
        }

        /// Reads the attributes of the operator with this name; `None` when there is no such operator.
        pub(super) fn parse_op(name: &str, p: &mut Parser<'_>) -> Result<Option<Op>, TextError> {
            match name {
                $($text => parse_fields!(p, $name { $($field: $ty),* }),)*
                _ => Ok(None),
            }
        }

        /// Names of all operators.
        pub(super) const OP_NAMES: &[&str] = &[$($text),*];
    };
}

macro_rules! parse_fields {
    ($p:ident, $name:ident { }) => { Ok(Some(Op::$name {})) };
    ($p:ident, $name:ident { $($field:ident : $ty:ty),+ }) => {{
        let mut fields = FieldParser::new($p);
        $(let $field = fields.field::<$ty>(stringify!($field))?;)+
        fields.finish()?;
        Ok(Some(Op::$name { $($field),+ }))
    }};
}
for_each_op!(text_of_ops);
