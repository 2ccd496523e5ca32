//! Walking over tokens, and the small parsers that every statement needs.

use std::ops::Range;
use std::str::FromStr;

use logos::{Lexer, Logos};

use super::lexer::Token;
use super::{Fault, MAX_ERRORS};
use crate::nearest::nearest;
use crate::part::{Item, Part};

/// What a statement's parser gives.
pub(super) type Parsed<T> = Result<T, Fault>;

pub(super) struct Cursor<'t> {
    text: &'t str,
    lexer: Lexer<'t, Token>,
    /// The next token; `None` at the end of the text.
    ahead: Option<(Result<Token, ()>, Range<usize>)>,
    faults: Vec<Fault>,
    /// The part of the object that the statements at hand belong to.
    pub part: Part,
    /// Where in the text the statements of parts begin, in bytes.
    pub starts: Vec<(Part, usize)>,
}

impl<'t> Cursor<'t> {
    pub fn new(text: &'t str) -> Cursor<'t> {
        let mut cursor = Cursor {
            text,
            lexer: Token::lexer(text),
            ahead: None,
            faults: Vec::new(),
            part: Part::default(),
            starts: Vec::new(),
        };
        cursor.advance();
        cursor
    }

    pub fn into_faults(self) -> Vec<Fault> {
        self.faults
    }

    fn advance(&mut self) -> Option<(Result<Token, ()>, Range<usize>)> {
        let next = self.lexer.next().map(|token| (token, self.lexer.span()));
        std::mem::replace(&mut self.ahead, next)
    }

    pub fn report(&mut self, fault: Fault) {
        if self.faults.len() < MAX_ERRORS {
            self.faults.push(fault);
        }
    }

    /// Where the next token is, or the end of the text.
    pub fn span(&self) -> Range<usize> {
        self.ahead.as_ref().map_or(self.text.len()..self.text.len(), |(_, span)| span.clone())
    }

    pub fn fault_at<T>(&self, span: Range<usize>, message: impl Into<String>) -> Parsed<T> {
        Err(Fault { span, message: message.into(), hint: None })
    }

    /// Fails at the next token.
    pub fn fault<T>(&self, message: impl Into<String>) -> Parsed<T> {
        self.fault_at(self.span(), message)
    }

    pub fn at(&self, token: Token) -> bool {
        matches!(&self.ahead, Some((Ok(t), _)) if *t == token)
    }

    pub fn at_end(&self) -> bool {
        self.ahead.is_none()
    }

    pub fn eat(&mut self, token: Token) -> bool {
        let found = self.at(token);
        if found {
            self.advance();
        }
        found
    }

    /// Takes a token of this kind and gives its text and place.
    pub fn expect(&mut self, token: Token) -> Parsed<(&'t str, Range<usize>)> {
        match &self.ahead {
            Some((Ok(t), span)) if *t == token => {
                let span = span.clone();
                self.advance();
                Ok((&self.text[span.clone()], span))
            }
            Some((Ok(t), _)) => self.fault(format!("expected {}, found {}", token.name(), t.name())),
            Some((Err(()), _)) => self.fault("a name in quotes does not end"),
            None => self.fault(format!("expected {}, found the end of the text", token.name())),
        }
    }

    pub fn word(&mut self) -> Parsed<(&'t str, Range<usize>)> {
        self.expect(Token::Word)
    }

    /// The next word without taking it.
    pub fn peek_word(&self) -> Option<&'t str> {
        match &self.ahead {
            Some((Ok(Token::Word), span)) => Some(&self.text[span.clone()]),
            _ => None,
        }
    }

    /// Takes this very word.
    pub fn keyword(&mut self, keyword: &str) -> Parsed<()> {
        if self.peek_word() == Some(keyword) {
            self.advance();
            return Ok(());
        }
        self.fault(format!("expected `{keyword}`"))
    }

    /// Takes a word that `parse` understands; `what` names it in the message.
    pub fn parsed<T>(&mut self, what: &str, parse: impl FnOnce(&'t str) -> Option<T>) -> Parsed<T> {
        let (word, span) = self.word()?;
        match parse(word) {
            Some(value) => Ok(value),
            None => self.fault_at(span, format!("`{word}` is not {what}")),
        }
    }

    /// Takes one of these words.
    pub fn choice<T: Copy>(&mut self, what: &str, choices: &[(&str, T)]) -> Parsed<T> {
        let (word, span) = self.word()?;
        match choices.iter().find(|(name, _)| *name == word) {
            Some((_, value)) => Ok(*value),
            None => {
                let hint = nearest(word, choices.iter().map(|(name, _)| *name));
                Err(Fault { span, message: format!("`{word}` is not {what}"), hint })
            }
        }
    }

    /// Takes a number.
    pub fn number<T: FromStr>(&mut self) -> Parsed<T> {
        self.parsed("a number of this field's range", |word| word.parse().ok())
    }

    /// Takes a prefix with a number.
    pub fn indexed<T: FromStr>(&mut self, prefix: &str) -> Parsed<T> {
        self.parsed(&format!("a number behind `{prefix}`"), |word| {
            crate::field::number(word.strip_prefix(prefix)?)
        })
    }

    /// Notes that the statement of an item of the part at hand is here.
    pub fn mark(&mut self, item: Item, number: usize) {
        self.starts.push((self.part.within(item, number), self.span().start));
    }

    /// Takes the number of a table entry, which must be the next one, and notes where it is.
    pub fn entry_number(&mut self, item: Item, expected: usize) -> Parsed<()> {
        self.mark(item, expected);
        let prefix = item.prefix();
        let span = self.span();
        let found: usize = self.indexed(prefix)?;
        // A statement at fault is missing from its table: only the first gap says something new.
        if found == expected || !self.faults.is_empty() {
            return Ok(());
        }
        self.fault_at(span, format!("entries are numbered in order: expected {prefix}{expected}"))
    }

    /// Takes a name in quotes.
    pub fn name(&mut self) -> Parsed<String> {
        let (text, span) = self.expect(Token::Name)?;
        match unquoted(text) {
            Some(name) => Ok(name),
            None => self.fault_at(span, "unknown escape: write \\\", \\\\ or \\u{hex}"),
        }
    }

    /// Takes a list in parentheses.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Cursor<'t>) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.expect(Token::OpenList)?;
        let mut items = Vec::new();
        if self.eat(Token::CloseList) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.eat(Token::CloseList) {
                return Ok(items);
            }
            self.expect(Token::Comma)?;
        }
    }

    /// Takes the end of the line (or of the text).
    pub fn end_line(&mut self) -> Parsed<()> {
        if self.at_end() {
            return Ok(());
        }
        self.expect(Token::Newline).map(|_| ())
    }

    /// Whether the statement goes on.
    pub fn in_line(&self) -> bool {
        !self.at_end() && !self.at(Token::Newline)
    }

    /// Reports the fault of a failed statement and goes on behind its line. A block that the line opens stays closed:
    /// its lines are skipped too.
    pub fn recover(&mut self, fault: Fault) {
        let line_start = self.text[..fault.span.start.min(self.text.len())].rfind('\n').map_or(0, |i| i + 1);
        self.report(fault);
        while self.in_line() {
            self.advance();
        }
        let line = &self.text[line_start..self.span().start];
        if line.trim_end().ends_with('{') {
            let mut depth = 1usize;
            while depth > 0 {
                match self.advance() {
                    None => return,
                    Some((Ok(Token::Open), _)) => depth += 1,
                    Some((Ok(Token::Close), _)) => depth -= 1,
                    Some(_) => {}
                }
            }
        }
    }

    /// Runs `statement` on each line until the block's closing brace, which it takes. Faults are reported, and cost their
    /// line.
    pub fn block(&mut self, mut statement: impl FnMut(&mut Cursor<'t>) -> Parsed<()>) -> Parsed<()> {
        self.expect(Token::Open)?;
        self.end_line()?;
        loop {
            if self.eat(Token::Newline) {
                continue;
            }
            if self.eat(Token::Close) {
                return Ok(());
            }
            if self.at_end() {
                return self.fault("a block does not end: expected `}`");
            }
            if let Err(fault) = statement(self).and_then(|()| self.end_line()) {
                self.recover(fault);
            }
        }
    }
}

/// The contents of a name in quotes.
fn unquoted(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(i) = rest.find('\\') {
        out.push_str(&rest[..i]);
        rest = &rest[i + 1..];
        if let Some(code) = rest.strip_prefix("u{") {
            let (digits, after) = code.split_once('}')?;
            out.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
            rest = after;
        } else {
            let c = rest.chars().next().filter(|c| matches!(c, '"' | '\\'))?;
            out.push(c);
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Some(out)
}
