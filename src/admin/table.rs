//! Rows that the console answers with.
//!
//! Owns the values and their two encodings: text, which every client can read, and PostgreSQL's binary formats, which
//! some drivers always ask for.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use crate::wire::backend::tag;
use crate::wire::encode::{self, Column};

/// A field of a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// NULL.
    Null,
    /// Text, or any type's text form.
    Text(Cow<'static, str>),
    /// A whole number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Cow::Owned(text.to_owned()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<bool> for Value {
    /// As PgBouncer shows a flag: 0 or 1.
    fn from(flag: bool) -> Self {
        Self::Number(i64::from(flag))
    }
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl From<$type> for Value {
            fn from(number: $type) -> Self {
                Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
            }
        })*
    };
}

numbers!(u16, u32, u64, usize, i32, i64);

impl Value {
    /// Text that is part of the program.
    pub const fn fixed(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// Bytes, as `bytea` shows them.
    pub fn bytes(bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(2 + 2 * bytes.len());
        text.push_str("\\x");
        for byte in bytes {
            for digit in [byte >> 4, byte & 0xf] {
                text.extend(char::from_digit(u32::from(digit), 16));
            }
        }
        Self::Text(Cow::Owned(text))
    }

    /// Its text form; `None` for NULL.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Number(number) => Some(Cow::Owned(number.to_string())),
        }
    }

    fn binary(&self, type_oid: u32) -> Option<Vec<u8>> {
        let number = match self {
            Self::Number(number) => *number,
            _ => self.text()?.parse().unwrap_or(0),
        };
        Some(match type_oid {
            INT4 => i32::try_from(number).unwrap_or(i32::MAX).to_be_bytes().to_vec(),
            INT8 => number.to_be_bytes().to_vec(),
            NUMERIC => numeric(number),
            BOOL => vec![u8::from(self.text().is_some_and(|it| it.starts_with('t')))],
            _ => self.text()?.as_bytes().to_vec(),
        })
    }
}

// Type OIDs: src/include/catalog/pg_type.dat.
const BOOL: u32 = 16;
const INT8: u32 = 20;
const INT4: u32 = 23;
const NUMERIC: u32 = 1700;

/// `numeric_send` in src/backend/utils/adt/numeric.c: digits in base 10000, the weight of the first, sign and scale.
fn numeric(number: i64) -> Vec<u8> {
    let mut digits = Vec::new();
    let mut rest = number.unsigned_abs();
    while rest > 0 {
        digits.push(u16::try_from(rest % 10_000).unwrap_or(0));
        rest /= 10_000;
    }
    let count = u16::try_from(digits.len()).unwrap_or(0);
    let negative = if number < 0 { 0x4000 } else { 0 };
    let mut out = Vec::with_capacity(8 + 2 * digits.len());
    for field in [count, count.saturating_sub(1), negative, 0] {
        out.put_u16(field);
    }
    digits.iter().rev().for_each(|it| out.put_u16(*it));
    out
}

/// In which form a result column is sent: the codes of a Bind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Formats(Vec<i16>);

impl Formats {
    /// The codes as they stood in the Bind: none for text throughout, one for all columns, or one for each.
    pub fn new(codes: Vec<i16>) -> Self {
        Self(codes)
    }

    fn of(&self, column: usize) -> i16 {
        match self.0.as_slice() {
            [] => 0,
            [all] => *all,
            each => each.get(column).copied().unwrap_or(0),
        }
    }
}

/// A result.
#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    /// Its columns.
    pub columns: &'static [Column],
    /// Its rows; each has as many values as there are columns.
    pub rows: Vec<Vec<Value>>,
}

/// Appends a RowDescription that tells the formats.
pub fn row_description(out: &mut BytesMut, columns: &[Column], formats: &Formats) {
    encode::message(out, tag::ROW_DESCRIPTION, |out| {
        out.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX));
        for (index, column) in columns.iter().enumerate() {
            encode::c_str(out, column.name.as_bytes());
            out.put_u32(0);
            out.put_u16(0);
            out.put_u32(column.type_oid);
            out.put_i16(column.type_size);
            out.put_i32(-1);
            out.put_i16(formats.of(index));
        }
    });
}

/// Appends a DataRow in these formats.
pub fn data_row(out: &mut BytesMut, columns: &[Column], row: &[Value], formats: &Formats) {
    let values: Vec<Option<Vec<u8>>> = columns
        .iter()
        .zip(row)
        .enumerate()
        .map(|(index, (column, value))| match formats.of(index) {
            0 => value.text().map(|it| it.into_owned().into_bytes()),
            _ => value.binary(column.type_oid),
        })
        .collect();
    encode::data_row(out, values.iter().map(Option::as_deref));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_postgresqls_binary_form() {
        for (number, expected) in [
            (0_i64, &[0, 0, 0, 0, 0, 0, 0, 0][..]),
            (7, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 7]),
            (10_000, &[0, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0]),
            (-1, &[0, 1, 0, 0, 0x40, 0, 0, 0, 0, 1]),
        ] {
            assert_eq!(Value::from(number).binary(NUMERIC).as_deref(), Some(expected), "{number}");
        }
        assert_eq!(Value::from(258).binary(INT4), Some(vec![0, 0, 1, 2]));
        assert_eq!(Value::fixed("1").binary(INT4), Some(vec![0, 0, 0, 1]));
        assert_eq!(Value::fixed("f").binary(BOOL), Some(vec![0]));
        assert_eq!(Value::Null.binary(INT4), None);
    }

    #[test]
    fn one_format_code_stands_for_all_columns() {
        assert_eq!(Formats::default().of(3), 0);
        assert_eq!(Formats::new(vec![1]).of(3), 1);
        assert_eq!(Formats::new(vec![0, 1]).of(1), 1);
    }
}
