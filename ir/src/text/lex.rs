//! The tokens of the textual form, and where in the text they stand.

use std::borrow::Cow;
use std::fmt;

use super::quote::{is_bare_name, unquote};

/// Why a text is no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// The line, from 1 on.
    pub line: usize,
    /// The character in the line, from 1 on.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// The smallest piece of a text that means something.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token<'a> {
    /// `(`, `::`, `->` and the like.
    Mark(&'static str),
    /// A keyword, an element type or the name of an operator: `const`, `f32`, `com.microsoft`.
    Word(&'a str),
    /// What begins as a number does: `-1`, `0.5`, `1e-6`, `-inf`, `0x2a`.
    Number(&'a str),
    /// A string in quotes, which need not be UTF-8.
    Quoted(Cow<'a, [u8]>),
    /// `%name`, a value.
    Value(Cow<'a, str>),
    /// `@name`, a node or an attribute of a function's caller.
    At(Cow<'a, str>),
    /// The end of the text.
    End,
    /// What is no token, with the reason.
    Wrong(String),
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Longer ones are cut in messages.
        const SHOWN: usize = 32;
        match self {
            Self::Mark(mark) => write!(f, "'{mark}'"),
            Self::Word(text) | Self::Number(text) => match text.char_indices().nth(SHOWN) {
                Some((end, _)) => write!(f, "'{}...'", &text[..end]),
                None => write!(f, "'{text}'"),
            },
            Self::Quoted(_) => f.write_str("a string"),
            Self::Value(name) => write!(f, "value %{name}"),
            Self::At(name) => write!(f, "@{name}"),
            Self::End => f.write_str("the end"),
            Self::Wrong(reason) => f.write_str(reason),
        }
    }
}

const MARKS: [&str; 14] = ["->", "::", "(", ")", "{", "}", "[", "]", "<", ">", ",", "=", ":", "?"];

/// Where a token stands in its text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(usize);

/// The tokens of a text, one after the other.
pub(super) struct Lexer<'a> {
    text: &'a str,
    /// Where the token after `token` begins.
    end: usize,
    start: usize,
    token: Token<'a>,
}

impl<'a> Lexer<'a> {
    /// At the first token of `text`.
    pub fn new(text: &'a str) -> Self {
        let mut lexer = Self { text, end: 0, start: 0, token: Token::End };
        lexer.next();
        lexer
    }

    /// The token that comes now.
    pub fn token(&self) -> &Token<'a> {
        &self.token
    }

    /// Goes on to the next token; gives the one that came.
    pub fn next(&mut self) -> Token<'a> {
        self.skip_blanks();
        self.start = self.end;
        let token = self.lex();
        std::mem::replace(&mut self.token, token)
    }

    /// Goes on if the token is `mark`; says whether it was.
    pub fn takes(&mut self, mark: &str) -> bool {
        let found = matches!(self.token, Token::Mark(found) if found == mark);
        if found {
            self.next();
        }
        found
    }

    /// Goes on if the token is the word `word`; says whether it was.
    pub fn takes_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.next();
        }
        found
    }

    /// Whether the token is the word `word`.
    pub fn is_word(&self, word: &str) -> bool {
        matches!(self.token, Token::Word(found) if found == word)
    }

    /// Goes on, past `mark`.
    pub fn expect(&mut self, mark: &str) -> Result<(), ParseError> {
        if self.takes(mark) { Ok(()) } else { Err(self.unexpected(&format!("'{mark}'"))) }
    }

    /// Items up to the mark `close`, commas between them.
    pub fn list<T>(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        let mut items = Vec::new();
        while !self.takes(close) {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// The number that the token is.
    pub fn number<T: std::str::FromStr>(&mut self, kind: &str) -> Result<T, ParseError> {
        let number = match self.token {
            Token::Number(text) | Token::Word(text) => text.parse().ok(),
            _ => None,
        };
        let number = number.ok_or_else(|| self.unexpected(kind))?;
        self.next();
        Ok(number)
    }

    /// The string that the token is, which must be UTF-8.
    pub fn string(&mut self) -> Result<String, ParseError> {
        let Token::Quoted(bytes) = &self.token else { return Err(self.unexpected("a string")) };
        let string = String::from_utf8(bytes.to_vec()).map_err(|_| self.error("this string is not UTF-8"))?;
        self.next();
        Ok(string)
    }

    /// The bytes of a long number in hexadecimal digits, two a byte, the first byte first.
    pub fn bytes(&mut self) -> Result<Vec<u8>, ParseError> {
        let digits = match self.token {
            Token::Number(text) => text.strip_prefix("0x"),
            _ => None,
        };
        let digits = digits.ok_or_else(|| self.unexpected("bytes as 0x and hexadecimal digits"))?;
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?);
        let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(pair).collect();
        let bytes = bytes.ok_or_else(|| self.error("bytes have two hexadecimal digits each"))?;
        self.next();
        Ok(bytes)
    }

    /// The error that something else than the token was expected.
    pub fn unexpected(&self, expected: &str) -> ParseError {
        match &self.token {
            Token::Wrong(reason) => self.error(reason),
            token => self.error(&format!("expected {expected}, found {token}")),
        }
    }

    /// An error at the token.
    pub fn error(&self, message: &str) -> ParseError {
        self.error_at(self.place(), message)
    }

    /// Where the token stands.
    pub fn place(&self) -> Place {
        Place(self.start)
    }

    /// An error at a token that has come. Lines are counted here, as few errors are worth their cost.
    pub fn error_at(&self, place: Place, message: &str) -> ParseError {
        let before = &self.text[..place.0];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        ParseError { line, column, message: message.to_string() }
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = &self.text[self.end..];
            let blank = rest.len() - rest.trim_start().len();
            self.end += blank;
            let Some(comment) = self.text[self.end..].strip_prefix("//") else { break };
            self.end += 2 + comment.find('\n').unwrap_or(comment.len());
        }
    }

    fn lex(&mut self) -> Token<'a> {
        let rest = &self.text[self.end..];
        if let Some(mark) = MARKS.into_iter().find(|mark| rest.starts_with(mark)) {
            self.end += mark.len();
            return Token::Mark(mark);
        }
        let mut characters = rest.chars();
        let (first, second) = (characters.next(), characters.next());
        match first {
            None => Token::End,
            Some('"') => match self.quoted() {
                Ok(bytes) => Token::Quoted(bytes),
                Err(reason) => Token::Wrong(reason),
            },
            Some(sigil @ ('%' | '@')) => {
                self.end += 1;
                match self.name() {
                    Ok(name) if sigil == '%' => Token::Value(name),
                    Ok(name) => Token::At(name),
                    Err(reason) => Token::Wrong(reason),
                }
            }
            Some('a'..='z' | 'A'..='Z' | '_') => {
                Token::Word(self.take(|_, c| c.is_ascii_alphanumeric() || c == '_' || c == '.'))
            }
            Some('0'..='9') => Token::Number(self.digits()),
            Some('-') if second.is_some_and(|c| c.is_ascii_alphanumeric()) => Token::Number(self.digits()),
            Some(other) => Token::Wrong(format!("no word of the language begins with {other:?}")),
        }
    }

    fn digits(&mut self) -> &'a str {
        let is_hexadecimal = self.text[self.end..].starts_with("0x");
        let in_exponent = |before: Option<char>| !is_hexadecimal && matches!(before, Some('e' | 'E'));
        self.take(|before, c| match c {
            '-' => before.is_none() || in_exponent(before),
            '+' => in_exponent(before),
            _ => c.is_ascii_alphanumeric() || c == '.',
        })
    }

    /// A name behind `%` or `@`.
    fn name(&mut self) -> Result<Cow<'a, str>, String> {
        if self.text[self.end..].starts_with('"') {
            return match self.quoted()? {
                Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).ok(),
                Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).ok(),
            }
            .ok_or_else(|| "this name is not UTF-8".to_string());
        }
        let text = self.text;
        let is_comment = |at: usize| text[at..].starts_with("//");
        let start = self.end;
        let length = text[start..].char_indices().find(|&(at, c)| !is_bare_name(c) || is_comment(start + at));
        let end = length.map_or(text.len(), |(at, _)| start + at);
        self.end = end;
        if start == end { Err("a name is missing".to_string()) } else { Ok(Cow::Borrowed(&text[start..end])) }
    }

    /// The bytes between the quotes that begin here.
    fn quoted(&mut self) -> Result<Cow<'a, [u8]>, String> {
        let rest = &self.text[self.end + 1..];
        let mut is_escaped = false;
        let close = rest.bytes().position(|byte| {
            let closes = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            closes
        });
        let close = close.ok_or("this string has no end")?;
        self.end += close + 2;
        unquote(&rest[..close])
    }

    /// The text from here on as long as `goes_on` says so of a character and the one before it.
    fn take(&mut self, goes_on: impl Fn(Option<char>, char) -> bool) -> &'a str {
        let rest = &self.text[self.end..];
        let mut before = None;
        let end = rest.char_indices().find(|&(_, c)| !goes_on(before.replace(c), c));
        let taken = &rest[..end.map_or(rest.len(), |(at, _)| at)];
        self.end += taken.len();
        taken
    }
}
