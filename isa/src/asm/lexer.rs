//! Tokens of the text form.

use logos::Logos;

/// A token. Words hold everything that is not a name in quotes or punctuation; the parser knows what they mean.
#[derive(Logos, Clone, Copy, PartialEq, Eq, Debug)]
#[logos(skip r"[ \t\r]+")]
#[logos(skip(r";[^\n]*", allow_greedy = true))]
pub(super) enum Token {
    /// A keyword, number, operand, mnemonic or line of weights.
    #[regex(r#"[^ \t\r\n,{}()"=;]+"#)]
    Word,
    /// A name in quotes.
    #[regex(r#""([^"\\\n]|\\[^\n])*""#)]
    Name,
    /// A line's end.
    #[token("\n")]
    Newline,
    /// `,`
    #[token(",")]
    Comma,
    /// `=`
    #[token("=")]
    Equals,
    /// `{`
    #[token("{")]
    Open,
    /// `}`
    #[token("}")]
    Close,
    /// `(`
    #[token("(")]
    OpenList,
    /// `)`
    #[token(")")]
    CloseList,
}

impl Token {
    /// What messages call the token.
    pub fn name(self) -> &'static str {
        match self {
            Token::Word => "a word",
            Token::Name => "a name in quotes",
            Token::Newline => "the end of the line",
            Token::Comma => "`,`",
            Token::Equals => "`=`",
            Token::Open => "`{`",
            Token::Close => "`}`",
            Token::OpenList => "`(`",
            Token::CloseList => "`)`",
        }
    }
}
