//! The fields of a client's messages that a pooler reads: names of statements and portals, and query texts.

use super::Error;
use super::frame::Fields;

/// Message tags of a client: `PqMsg_*` in src/include/libpq/protocol.h.
pub mod tag {
    #![expect(missing_docs, reason = "the names are the protocol's own")]
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// A whole Parse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parse<'a> {
    /// The statement's name; empty: the unnamed one.
    pub name: &'a [u8],
    /// The query's text without its zero byte.
    pub text: &'a [u8],
    /// The text with its zero byte and the parameter types: what makes two statements the same.
    pub rest: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Decodes a Parse's whole body.
    pub fn decode(body: &'a [u8]) -> Result<Self, Error> {
        const WHAT: Error = Error::Broken("Parse");
        let mut fields = Fields::of(body);
        let name = fields.c_str().ok_or(WHAT)?;
        let rest = fields.rest();
        let text = fields.c_str().ok_or(WHAT)?;
        let types = fields.i16().and_then(|it| usize::try_from(it).ok()).ok_or(WHAT)?;
        if fields.rest().len() != types * 4 {
            return Err(WHAT);
        }
        Ok(Self { name, text, rest })
    }
}

/// The front of a Bind up to the end of its names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BindHead<'a> {
    /// The portal; empty: the unnamed one.
    pub portal: &'a [u8],
    /// The statement; empty: the unnamed one.
    pub statement: &'a [u8],
    /// Bytes of the body that the names and their zero bytes take.
    pub size: usize,
}

impl<'a> BindHead<'a> {
    /// The names at the front of a Bind's body, or `None` where they do not end within `body`.
    #[inline]
    pub fn peek(body: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::of(body);
        let (portal, statement) = (fields.c_str()?, fields.c_str()?);
        Some(Self { portal, statement, size: body.len() - fields.rest().len() })
    }
}

/// What a Describe or Close is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

impl<'a> Target<'a> {
    /// Decodes the whole body of a Describe or Close.
    pub fn decode(body: &'a [u8]) -> Result<Self, Error> {
        const WHAT: Error = Error::Broken("Describe or Close");
        let mut fields = Fields::of(body);
        let kind = fields.u8().ok_or(WHAT)?;
        let name = fields.c_str().ok_or(WHAT)?;
        match kind {
            b'S' if fields.is_empty() => Ok(Self::Statement(name)),
            b'P' if fields.is_empty() => Ok(Self::Portal(name)),
            _ => Err(WHAT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parse_must_hold_the_types_it_counts() {
        let parse = Parse::decode(b"s\0select 1\0\0\x01\0\0\0\x17").expect("it is whole");
        assert_eq!((parse.name, parse.text), (&b"s"[..], &b"select 1"[..]));
        assert!(Parse::decode(b"s\0select 1\0\0\x02\0\0\0\x17").is_err());
        assert!(Parse::decode(b"s\0select 1\0\xff\xff").is_err());
        assert!(Parse::decode(b"s\0select 1").is_err());
    }

    #[test]
    fn a_bind_is_known_by_its_head() {
        let head = BindHead::peek(b"p\0st\0\0\0").expect("both names are there");
        assert_eq!(head, BindHead { portal: b"p", statement: b"st", size: 5 });
        assert_eq!(BindHead::peek(b"p\0st"), None);
    }

    #[test]
    fn a_target_is_a_statement_or_a_portal() {
        assert_eq!(Target::decode(b"Sx\0"), Ok(Target::Statement(b"x")));
        assert_eq!(Target::decode(b"P\0"), Ok(Target::Portal(b"")));
        assert!(Target::decode(b"Xx\0").is_err());
        assert!(Target::decode(b"Sx").is_err());
    }
}
