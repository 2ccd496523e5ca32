//! Streams and SE programs.

use super::Fault;
use super::cursor::{Cursor, Parsed};
use super::lexer::Token;
use crate::encode::{Arg, ArgError, RowSpec};
use crate::field::Field;
use crate::format::ScaleMode;
use crate::inst::{Inst, InstKind, Operand};
use crate::nearest::nearest;
use crate::part::Item;
use crate::program::{Program, SeOp, Stream};

type ParseRow<T> = fn(&str, &[Arg<'_>]) -> Option<Result<T, ArgError>>;

/// One line of a stream or program: a mnemonic with suffixes, and arguments.
fn row<T>(c: &mut Cursor<'_>, rows: &[RowSpec], parse: ParseRow<T>) -> Parsed<T> {
    let (head, head_span) = c.word()?;
    let mut args = Vec::new();
    let mut spans = Vec::new();
    while c.in_line() {
        if !args.is_empty() {
            c.expect(Token::Comma)?;
        }
        let (word, mut span) = c.word()?;
        let mut arg = Arg { key: None, value: word };
        if c.eat(Token::Equals) {
            let (value, value_span) = c.word()?;
            span = value_span;
            arg = Arg { key: Some(word), value };
        }
        args.push(arg);
        spans.push(span);
    }
    match parse(head, &args) {
        Some(Ok(value)) => Ok(value),
        Some(Err(ArgError { arg, message })) => {
            let span = arg.and_then(|i| spans.get(i).cloned()).unwrap_or(head_span);
            let mnemonic = head.split('.').next().unwrap_or(head);
            let hint = rows.iter().find(|r| r.mnemonic == mnemonic).map(|r| format!("in `{}`", r.syntax()));
            Err(Fault { span, message, hint })
        }
        None => {
            let mnemonic = head.split('.').next().unwrap_or(head);
            let hint = nearest(mnemonic, rows.iter().map(|r| r.mnemonic));
            Err(Fault { span: head_span, message: format!("no instruction is called `{mnemonic}`"), hint })
        }
    }
}

/// An instruction.
pub(super) fn inst(c: &mut Cursor<'_>) -> Parsed<Inst> {
    row(c, InstKind::ROWS, Inst::parse)
}

/// `pN "name" domain vN parallel N { .. }`, behind its keyword.
pub(super) fn program(c: &mut Cursor<'_>, number: usize) -> Parsed<Program> {
    c.entry_number(Item::Program, number)?;
    let kernel = c.part;
    c.part = kernel.within(Item::Program, number);
    let mut program = Program { name: c.name()?, ..Program::default() };
    c.keyword("domain")?;
    program.domain = c.indexed("v")?;
    c.keyword("parallel")?;
    program.parallel = c.number()?;
    let mut section = None;
    c.block(|c| {
        match (c.peek_word(), section) {
            (Some("stream"), None) => {
                c.keyword("stream")?;
                c.entry_number(Item::Stream, program.streams.len())?;
                let operand = c.parsed("an operand", |word| {
                    <Operand as Field>::parse(word).filter(|&o| <Operand as Field>::to_bits(o).is_some())
                })?;
                let mode = c.parsed("a scale mode", ScaleMode::from_name)?;
                program.streams.push(Stream { operand, mode });
            }
            (Some("constant"), None) => {
                let value = constant(c, program.constants.len())?;
                program.constants.push(value);
            }
            (Some(label @ ("init:" | "body:" | "finish:")), _) => {
                c.keyword(label)?;
                section = Some(label);
            }
            (_, Some(label)) => {
                let (item, ops) = match label {
                    "init:" => (Item::Init, &mut program.init),
                    "body:" => (Item::Body, &mut program.body),
                    _ => (Item::Finish, &mut program.finish),
                };
                c.mark(item, ops.len());
                ops.push(row(c, SeOp::ROWS, SeOp::parse)?);
            }
            (_, None) => return c.fault("expected `stream`, `constant`, `init:`, `body:` or `finish:`"),
        }
        Ok(())
    })?;
    c.part = kernel;
    Ok(program)
}

/// A constant's statement, keyword included.
pub(super) fn constant(c: &mut Cursor<'_>, number: usize) -> Parsed<u64> {
    c.keyword("constant")?;
    c.entry_number(Item::Constant, number)?;
    c.parsed("a hexadecimal number", |word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
}
