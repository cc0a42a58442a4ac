//! Words of a line in a `pg_hba.conf` or `pg_ident.conf`: bare, in quotes, and the commas between them.
//!
//! As `next_token` in PgBouncer's `src/hba.c`: a quote inside quotes is doubled, `#` begins a comment wherever a word
//! does not go on, and a bare word ends at a blank, a comma, a quote or a `#`.

/// What a line has at one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Word {
    /// A word without quotes, which may be a keyword.
    Bare(String),
    /// A word in quotes, which never is one.
    Quoted(String),
    /// A comma.
    Comma,
    /// A quote that is never closed.
    Unclosed,
    /// Nothing more.
    End,
}

/// Reads a line word by word, with one word seen in advance.
pub struct Words<'a> {
    word: Word,
    rest: &'a str,
}

impl<'a> Words<'a> {
    /// At the first word of a line.
    pub fn of(line: &'a str) -> Self {
        let mut words = Self { word: Word::End, rest: line };
        words.advance();
        words
    }

    /// What comes after the word that is seen now.
    pub fn rest(&self) -> &'a str {
        self.rest
    }

    /// The word that is seen now.
    pub fn word(&self) -> &Word {
        &self.word
    }

    /// True where the line has nothing more.
    pub fn is_at_end(&self) -> bool {
        self.word == Word::End
    }

    /// Passes over `keyword`, if that is what comes.
    pub fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(&self.word, Word::Bare(word) if word == keyword);
        if found {
            self.advance();
        }
        found
    }

    /// Passes over a comma, if that is what comes.
    pub fn take_comma(&mut self) -> bool {
        let found = self.word == Word::Comma;
        if found {
            self.advance();
        }
        found
    }

    /// The word without quotes that comes, if one does.
    pub fn take_bare(&mut self) -> Option<String> {
        match std::mem::replace(&mut self.word, Word::End) {
            Word::Bare(text) => {
                self.advance();
                Some(text)
            }
            other => {
                self.word = other;
                None
            }
        }
    }

    /// The word that comes, with or without quotes.
    pub fn take_text(&mut self) -> Option<String> {
        match std::mem::replace(&mut self.word, Word::End) {
            Word::Bare(text) | Word::Quoted(text) => {
                self.advance();
                Some(text)
            }
            other => {
                self.word = other;
                None
            }
        }
    }

    fn advance(&mut self) {
        let text = self.rest.trim_start_matches(is_blank);
        (self.word, self.rest) = match text.chars().next() {
            None | Some('#') => (Word::End, ""),
            Some(',') => (Word::Comma, &text[1..]),
            Some('"') => match unquote(&text[1..]) {
                Some((word, rest)) => (Word::Quoted(word), rest),
                None => (Word::Unclosed, ""),
            },
            Some(first) => {
                let end = text[first.len_utf8()..]
                    .find(|it| is_blank(it) || matches!(it, ',' | '#' | '"'))
                    .map_or(text.len(), |at| at + first.len_utf8());
                (Word::Bare(text[..end].to_owned()), &text[end..])
            }
        };
    }
}

/// `isspace` in the C locale.
pub fn is_blank(char: char) -> bool {
    char.is_ascii_whitespace() || char == '\x0b'
}

/// The text up to the closing quote, and what follows it.
pub fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        value.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                value.push('"');
                rest = after;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Word> {
        let mut words = Words::of(line);
        let mut found = Vec::new();
        while !words.is_at_end() && *words.word() != Word::Unclosed {
            found.push(words.word().clone());
            words.advance();
        }
        if *words.word() == Word::Unclosed {
            found.push(Word::Unclosed);
        }
        found
    }

    #[test]
    fn a_line_is_read_as_pgbouncer_reads_it() {
        let bare = |text: &str| Word::Bare(text.to_owned());
        let quoted = |text: &str| Word::Quoted(text.to_owned());
        for (name, line, expected) in [
            ("nothing", " \t\x0b\r ", vec![]),
            ("a comment", "\t# a b", vec![]),
            ("two words", "local\tall", vec![bare("local"), bare("all")]),
            ("a comment at the end", "trust# x", vec![bare("trust")]),
            ("a list", "a,b , c", vec![bare("a"), Word::Comma, bare("b"), Word::Comma, bare("c")]),
            ("quotes", "\"a , b\"\"c\"d", vec![quoted("a , b\"c"), bare("d")]),
            ("quotes in a word", "a\"b\"", vec![bare("a"), quoted("b")]),
            ("an empty word", "\"\"", vec![quoted("")]),
            ("no closing quote", "a \"b", vec![bare("a"), Word::Unclosed]),
            ("other letters", "é, ü", vec![bare("é"), Word::Comma, bare("ü")]),
        ] {
            assert_eq!(words(line), expected, "{name}");
        }
    }
}
