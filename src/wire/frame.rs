//! The five bytes in front of every message after start-up.

use super::Error;
use super::limits::MESSAGE_BYTES_MAX;

/// Bytes of a header: the tag and the length.
pub const HEADER: usize = 5;

/// A message's tag and size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The message's first byte.
    pub tag: u8,
    /// Bytes that follow the header.
    pub body: usize,
}

impl Header {
    /// The header at the front of `bytes`, or `None` where less than a header is there.
    ///
    /// Errors: a length below 4 or beyond PostgreSQL's own limit.
    #[inline]
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, Error> {
        let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]);
        let body = (length as usize).wrapping_sub(4);
        if body > MESSAGE_BYTES_MAX {
            return Err(Error::Length { tag, length });
        }
        Ok(Some(Self { tag, body }))
    }

    /// The length it claims, itself included.
    pub fn length(self) -> u32 {
        u32::try_from(self.body + 4).unwrap_or(u32::MAX)
    }

    /// Bytes of the whole message.
    #[inline]
    pub fn total(self) -> usize {
        HEADER + self.body
    }
}

/// Takes fields off the front of a message's body.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// All of `body`.
    pub fn of(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// What is not taken yet.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|b| b[0])
    }

    /// An `int16`.
    pub fn i16(&mut self) -> Option<i16> {
        self.bytes(2).map(|b| i16::from_be_bytes([b[0], b[1]]))
    }

    /// An `int32`.
    pub fn i32(&mut self) -> Option<i32> {
        self.bytes(4).map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// An unsigned `int32`.
    pub fn u32(&mut self) -> Option<u32> {
        self.i32().map(i32::cast_unsigned)
    }

    /// A string up to its zero byte, which is taken too but not returned.
    pub fn c_str(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(0, self.0)?;
        let text = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Some(text)
    }

    /// A string that must be UTF-8.
    pub fn text(&mut self, what: &'static str) -> Result<&'a str, Error> {
        let bytes = self.c_str().ok_or(Error::Broken(what))?;
        std::str::from_utf8(bytes).map_err(|_| Error::Utf8(what))
    }

    /// True when all is taken.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_needs_five_bytes_and_a_sane_length() {
        assert_eq!(Header::peek(b"Q\0\0\0"), Ok(None));
        assert_eq!(Header::peek(b"S\0\0\0\x04"), Ok(Some(Header { tag: b'S', body: 0 })));
        assert_eq!(Header::peek(b"Q\0\0\x01\0rest"), Ok(Some(Header { tag: b'Q', body: 252 })));
        assert_eq!(Header::peek(b"Q\0\0\0\x03"), Err(Error::Length { tag: b'Q', length: 3 }));
        assert_eq!(Header::peek(b"Q\xff\xff\xff\xff"), Err(Error::Length { tag: b'Q', length: u32::MAX }));
    }

    #[test]
    fn fields_end_where_the_body_ends() {
        let mut fields = Fields::of(b"ab\0\0\x01");
        assert_eq!(fields.c_str(), Some(&b"ab"[..]));
        assert_eq!(fields.i16(), Some(1));
        assert!(fields.is_empty());
        assert_eq!(fields.u8(), None);
        assert_eq!(Fields::of(b"no end").c_str(), None);
    }
}
