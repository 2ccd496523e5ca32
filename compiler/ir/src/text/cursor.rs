//! Walking over tokens, and the small parsers that every item needs.

use super::TextError;
use super::lexer::{Spanned, Token, lex, unquote};

/// Tokens of a text and a place in them.
pub(super) struct Parser<'t> {
    text: &'t str,
    pub(super) tokens: Vec<Spanned>,
    pub(super) next: usize,
}

impl<'t> Parser<'t> {
    pub(super) fn new(text: &'t str) -> Parser<'t> {
        Parser { text, tokens: lex(text), next: 0 }
    }

    pub(super) fn peek(&self) -> Spanned {
        let end = self.text.len();
        self.tokens.get(self.next).copied().unwrap_or(Spanned { token: Token::End, start: end, end })
    }

    pub(super) fn slice(&self, at: Spanned) -> &'t str {
        &self.text[at.start..at.end]
    }

    /// An error at a token.
    pub(super) fn error(&self, at: Spanned, message: impl Into<String>) -> TextError {
        let before = &self.text[..at.start];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        TextError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
            suggestion: None,
            source: self.text[line_start..].lines().next().unwrap_or("").to_owned(),
        }
    }

    pub(super) fn wanted(&self, at: Spanned, what: &str) -> TextError {
        let found = match at.token {
            Token::Word | Token::Number | Token::Unknown => format!("`{}`", self.slice(at)),
            other => other.describe().to_owned(),
        };
        self.error(at, format!("expected {what}, found {found}"))
    }

    /// An error for a name that is none of `known`, with the nearest of them.
    pub(super) fn unknown(&self, at: Spanned, what: &str, name: &str, known: &[&str]) -> TextError {
        let nearest = known.iter().map(|k| (distance(name, k), name.len().abs_diff(k.len()), k)).min();
        let suggestion = nearest.filter(|(d, _, k)| *d <= 2 && *d < k.len()).map(|(_, _, k)| (*k).to_owned());
        TextError { suggestion, ..self.error(at, format!("expected {what}, found `{name}`")) }
    }

    /// Takes a token of this kind if it is next.
    pub(super) fn accept(&mut self, token: Token) -> Option<Spanned> {
        let at = self.peek();
        (at.token == token && token != Token::End).then(|| {
            self.next += 1;
            at
        })
    }

    fn take(&mut self, token: Token) -> Result<Spanned, TextError> {
        self.accept(token).ok_or_else(|| self.wanted(self.peek(), token.describe()))
    }

    pub(super) fn expect(&mut self, token: Token) -> Result<(), TextError> {
        self.take(token).map(|_| ())
    }

    pub(super) fn word(&mut self) -> Result<&'t str, TextError> {
        self.take(Token::Word).map(|at| self.slice(at))
    }

    pub(super) fn keyword(&mut self, keyword: &str) -> Result<(), TextError> {
        let at = self.peek();
        if at.token == Token::Word && self.slice(at) == keyword {
            self.next += 1;
            Ok(())
        } else {
            Err(self.wanted(at, &format!("`{keyword}`")))
        }
    }

    /// A number that `read` understands.
    pub(super) fn number<T>(&mut self, what: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, TextError> {
        let at = self.peek();
        let value = (at.token == Token::Number).then(|| read(self.slice(at))).flatten();
        let value = value.ok_or_else(|| self.wanted(at, what))?;
        self.next += 1;
        Ok(value)
    }

    pub(super) fn code(&mut self) -> Result<u64, TextError> {
        self.number("a code such as 0x3f", |text| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok())
    }

    /// One of `names`.
    pub(super) fn named<T>(
        &mut self,
        what: &str,
        names: &[&str],
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, TextError> {
        let at = self.peek();
        if at.token != Token::Word {
            return Err(self.wanted(at, what));
        }
        let name = self.slice(at);
        let value = read(name).ok_or_else(|| self.unknown(at, what, name, names))?;
        self.next += 1;
        Ok(value)
    }

    /// The number of an id such as `v7`.
    pub(super) fn id(&mut self, prefix: &str) -> Result<u32, TextError> {
        let at = self.peek();
        let number = (at.token == Token::Word).then(|| {
            let digits = self.slice(at).strip_prefix(prefix)?;
            let plain =
                digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
            // The greatest number is reserved.
            digits.parse().ok().filter(|&n| plain && n < u32::MAX)
        });
        let number =
            number.flatten().ok_or_else(|| self.wanted(at, &format!("an id such as `{prefix}0`")))?;
        self.next += 1;
        Ok(number)
    }

    /// An id whose number must be the next one of its kind.
    pub(super) fn numbered(&mut self, prefix: &str, next: usize) -> Result<(), TextError> {
        let at = self.peek();
        if self.id(prefix)? as usize == next {
            Ok(())
        } else {
            Err(self.error(at, format!("the next id of this kind is `{prefix}{next}`")))
        }
    }

    pub(super) fn string(&mut self) -> Result<String, TextError> {
        self.string_as("a string with the escapes \\\" \\\\ \\n \\t \\u{..}", |s| Some(s.to_owned()))
    }

    /// A string that `read` understands.
    pub(super) fn string_as<T>(
        &mut self,
        what: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, TextError> {
        let at = self.peek();
        let value = (at.token == Token::String).then(|| read(&unquote(self.slice(at))?)).flatten();
        let value = value.ok_or_else(|| self.wanted(at, what))?;
        self.next += 1;
        Ok(value)
    }

    /// Items between brackets with commas between them.
    pub(super) fn list<T>(
        &mut self,
        open: Token,
        close: Token,
        mut item: impl FnMut(&mut Self) -> Result<T, TextError>,
    ) -> Result<Vec<T>, TextError> {
        self.expect(open)?;
        let mut items = Vec::new();
        if self.accept(close).is_some() {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.accept(close).is_some() {
                return Ok(items);
            }
            if self.accept(Token::Comma).is_none() {
                return Err(self.wanted(self.peek(), &format!("`,` or {}", close.describe())));
            }
        }
    }
}

/// Edits (insert, delete, replace, swap of neighbours) between two names; at most 100 characters of each count.
fn distance(a: &str, b: &str) -> usize {
    let [a, b] = [a, b].map(|s| s.chars().take(100).collect::<Vec<char>>());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replace = rows[i][j] + usize::from(a[i] != b[j]);
            let mut edits = replace.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                edits = edits.min(rows[i - 1][j - 1] + 1);
            }
            row.push(edits);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
