//! SQL text into tokens, no finer than the rules need: words, quoted names, strings, symbols.
//!
//! Follows PostgreSQL's src/backend/parser/scan.l for comments, quotes and dollar quotes. Unterminated pieces reach
//! to the end of the text. Invariant: every call of [`Lexer::next`] moves on, so lexing ends.

/// How plain strings treat a backslash: `standard_conforming_strings` on, or off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Strings {
    /// A backslash is a byte like any other.
    Standard,
    /// A backslash escapes the next byte.
    Escaped,
}

/// A piece of SQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    /// An unquoted name or keyword.
    Word(&'a [u8]),
    /// What stands between double quotes, undecoded.
    Quoted(&'a [u8]),
    /// What stands in a string or between dollar quotes, undecoded.
    Text(&'a [u8]),
    /// Anything else, by its first byte; a number is `0`.
    Symbol(u8),
}

impl<'a> Token<'a> {
    /// Whether it is this keyword (given in lower case).
    pub(super) fn is(&self, keyword: &[u8]) -> bool {
        matches!(self, Self::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// The name, whether quoted or not.
    pub(super) fn name(&self) -> Option<&'a [u8]> {
        match self {
            Self::Word(name) | Self::Quoted(name) => Some(name),
            _ => None,
        }
    }
}

/// Reads tokens from a text.
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    strings: Strings,
    /// A plain string had a backslash: the other way to read strings may give other tokens.
    pub(super) ambiguous: bool,
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning of `text`.
    pub(super) fn new(text: &'a [u8], strings: Strings) -> Self {
        Self { text, at: 0, strings, ambiguous: false }
    }

    /// The next token; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blanks();
        let first = *self.text.get(self.at)?;
        match first {
            b'\'' => Some(Token::Text(self.string(self.strings))),
            b'"' => Some(Token::Quoted(self.quoted())),
            b'$' => Some(self.dollar()),
            b'0'..=b'9' => {
                self.at += self.text[self.at..].iter().take_while(|b| is_word_rest(**b)).count();
                Some(Token::Symbol(b'0'))
            }
            _ if is_word_start(first) => Some(self.word()),
            _ => {
                self.at += 1;
                Some(Token::Symbol(first))
            }
        }
    }

    fn skip_blanks(&mut self) {
        let rest = skip_comments(&self.text[self.at..]);
        self.at = self.text.len() - rest.len();
    }

    fn word(&mut self) -> Token<'a> {
        let start = self.at;
        self.at += self.text[start..].iter().take_while(|b| is_word_rest(**b)).count();
        let word = &self.text[start..self.at];
        // E'…' B'…' X'…' N'…': the letter belongs to the string, and only E's has escapes.
        if let ([letter], Some(b'\'')) = (word, self.text.get(self.at)) {
            return match letter.to_ascii_lowercase() {
                b'e' => Token::Text(self.string(Strings::Escaped)),
                b'b' | b'x' => Token::Text(self.string(Strings::Standard)),
                b'n' => Token::Text(self.string(self.strings)),
                _ => Token::Word(word),
            };
        }
        Token::Word(word)
    }

    /// From a single quote to its partner; what is between them.
    fn string(&mut self, strings: Strings) -> &'a [u8] {
        let start = self.at + 1;
        let mut at = start;
        while let Some(step) = memchr::memchr2(b'\'', b'\\', &self.text[at.min(self.text.len())..]) {
            at += step;
            if self.text[at] == b'\\' {
                if strings == Strings::Escaped {
                    at += 1;
                } else {
                    self.ambiguous = true;
                }
            } else if self.text.get(at + 1) == Some(&b'\'') {
                at += 1;
            } else {
                self.at = at + 1;
                return &self.text[start..at];
            }
            at += 1;
        }
        self.rest(start)
    }

    /// From a double quote to its partner; what is between them.
    fn quoted(&mut self) -> &'a [u8] {
        let start = self.at + 1;
        let mut at = start;
        while let Some(step) = memchr::memchr(b'"', &self.text[at..]) {
            at += step;
            if self.text.get(at + 1) != Some(&b'"') {
                self.at = at + 1;
                return &self.text[start..at];
            }
            at += 2;
        }
        self.rest(start)
    }

    /// `$1`, `$$…$$` or `$tag$…$tag$`.
    fn dollar(&mut self) -> Token<'a> {
        let after = &self.text[self.at + 1..];
        let tag = after.iter().take_while(|b| is_word_rest(**b) && **b != b'$').count();
        let opens = after.get(tag) == Some(&b'$') && (tag == 0 || is_word_start(after[0]));
        if !opens {
            self.at += 1 + tag;
            return Token::Symbol(b'$');
        }
        let delimiter = &self.text[self.at..self.at + tag + 2];
        let start = self.at + delimiter.len();
        match memchr::memmem::find(&self.text[start..], delimiter) {
            Some(length) => {
                self.at = start + length + delimiter.len();
                Token::Text(&self.text[start..start + length])
            }
            None => Token::Text(self.rest(start)),
        }
    }

    /// Everything from `start`: the piece is not terminated.
    fn rest(&mut self, start: usize) -> &'a [u8] {
        self.at = self.text.len();
        &self.text[start.min(self.text.len())..]
    }
}

/// `text` without leading blanks and comments.
pub(super) fn skip_comments(mut text: &[u8]) -> &[u8] {
    loop {
        let blank = text.iter().take_while(|b| is_blank(**b)).count();
        text = &text[blank..];
        text = match text {
            [b'-', b'-', ..] => {
                let end = memchr::memchr2(b'\n', b'\r', text).unwrap_or(text.len());
                &text[end..]
            }
            [b'/', b'*', ..] => &text[block_comment(text)..],
            _ => return text,
        };
    }
}

/// The length of the block comment that `text` starts with. They nest.
fn block_comment(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0usize);
    while let Some(step) = memchr::memchr2(b'/', b'*', &text[at..]) {
        at += step;
        match (text[at], text.get(at + 1)) {
            (b'/', Some(b'*')) => (depth, at) = (depth + 1, at + 2),
            (b'*', Some(b'/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// Whether PostgreSQL skips this byte between tokens. Rust's own notion lacks the vertical tab.
pub(super) fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_word_rest(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}
