//! Tokens of the text form.

use logos::Logos;

/// A kind of token; the text is kept beside it.
#[derive(Logos, Clone, Copy, PartialEq, Eq, Debug)]
#[logos(skip r"[ \t\r\n\f]+")]
#[logos(skip(r";[^\n]*", allow_greedy = true))]
pub(super) enum Token {
    /// A word: keywords, ids, names of operators and types.
    #[regex("[A-Za-z_][A-Za-z0-9_.]*")]
    Word,
    /// An integer or a real, decimal or hexadecimal.
    #[regex(r"-?(0x[0-9A-Fa-f]+|[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?)")]
    Number,
    /// A quoted string with escapes.
    #[regex(r#""([^"\\\n]|\\[^\n])*""#)]
    String,
    /// A content hash.
    #[regex("blake3:[0-9A-Fa-f]*")]
    Hash,
    /// `(`
    #[token("(")]
    OpenParen,
    /// `)`
    #[token(")")]
    CloseParen,
    /// `[`
    #[token("[")]
    OpenBracket,
    /// `]`
    #[token("]")]
    CloseBracket,
    /// `{`
    #[token("{")]
    OpenBrace,
    /// `}`
    #[token("}")]
    CloseBrace,
    /// `,`
    #[token(",")]
    Comma,
    /// `:`
    #[token(":")]
    Colon,
    /// `=`
    #[token("=")]
    Equals,
    /// `@`
    #[token("@")]
    At,
    /// `->`
    #[token("->")]
    Arrow,
    /// Characters that begin no token.
    Unknown,
    /// The end of the text.
    End,
}

impl Token {
    /// What an error message calls it.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Token::Word => "a name",
            Token::Number => "a number",
            Token::String => "a string",
            Token::Hash => "a hash",
            Token::OpenParen => "`(`",
            Token::CloseParen => "`)`",
            Token::OpenBracket => "`[`",
            Token::CloseBracket => "`]`",
            Token::OpenBrace => "`{`",
            Token::CloseBrace => "`}`",
            Token::Comma => "`,`",
            Token::Colon => "`:`",
            Token::Equals => "`=`",
            Token::At => "`@`",
            Token::Arrow => "`->`",
            Token::Unknown => "an unknown character",
            Token::End => "the end of the text",
        }
    }
}

/// A token with its place: byte offsets of its first and behind its last character.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spanned {
    pub(super) token: Token,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// All tokens of a text.
pub(super) fn lex(text: &str) -> Vec<Spanned> {
    Token::lexer(text)
        .spanned()
        .map(|(token, span)| Spanned {
            token: token.unwrap_or(Token::Unknown),
            start: span.start,
            end: span.end,
        })
        .collect()
}

/// Writes a string with quotes and escapes.
pub(super) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The reverse of [`quote`] for a string token; `None` when an escape is unknown.
pub(super) fn unquote(token: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = token.strip_prefix('"')?.strip_suffix('"')?.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next()? {
            'n' => '\n',
            't' => '\t',
            'u' => {
                let (hex, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                chars = rest.chars();
                char::from_u32(u32::from_str_radix(hex, 16).ok()?)?
            }
            c @ ('"' | '\\') => c,
            _ => return None,
        });
    }
    Some(out)
}
