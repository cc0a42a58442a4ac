//! Messages that the pooler writes itself, appended to a buffer.

use bytes::{BufMut, BytesMut};

use super::backend::tag;
use super::{CancelKey, TxStatus, frontend};

/// Appends a message: its tag, its length and what `body` appends.
pub fn message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    untagged(out, body);
}

/// Appends a length and what `body` appends: a start-up packet's shape.
pub fn untagged(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a string and its zero byte. What follows a zero byte within `text` is left out.
pub fn c_str(out: &mut BytesMut, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.put_slice(&text[..end]);
    out.put_u8(0);
}

/// A message that is but a header.
const fn bodiless(tag: u8) -> [u8; 5] {
    [tag, 0, 0, 0, 4]
}

fn authentication(out: &mut BytesMut, kind: u32, rest: &[u8]) {
    message(out, tag::AUTHENTICATION, |out| {
        out.put_u32(kind);
        out.put_slice(rest);
    });
}

/// AuthenticationOk.
pub fn authentication_ok(out: &mut BytesMut) {
    authentication(out, 0, &[]);
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext(out: &mut BytesMut) {
    authentication(out, 3, &[]);
}

/// AuthenticationMD5Password.
pub fn authentication_md5(out: &mut BytesMut, salt: [u8; 4]) {
    authentication(out, 5, &salt);
}

/// AuthenticationSASL with these mechanisms.
pub fn authentication_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    message(out, tag::AUTHENTICATION, |out| {
        out.put_u32(10);
        for mechanism in mechanisms {
            c_str(out, mechanism.as_bytes());
        }
        out.put_u8(0);
    });
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut BytesMut, data: &[u8]) {
    authentication(out, 11, data);
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut BytesMut, data: &[u8]) {
    authentication(out, 12, data);
}

/// ParameterStatus.
pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    message(out, tag::PARAMETER_STATUS, |out| {
        c_str(out, name.as_bytes());
        c_str(out, value.as_bytes());
    });
}

/// BackendKeyData.
pub fn backend_key_data(out: &mut BytesMut, key: &CancelKey) {
    message(out, tag::BACKEND_KEY_DATA, |out| {
        out.put_u32(key.pid);
        out.put_slice(key.secret());
    });
}

/// ReadyForQuery.
pub fn ready_for_query(out: &mut BytesMut, status: TxStatus) {
    message(out, tag::READY_FOR_QUERY, |out| out.put_u8(status.byte()));
}

/// NegotiateProtocolVersion: the newest minor version spoken here and the options not known.
/// `SendNegotiateProtocolVersion` in src/backend/tcop/backend_startup.c: the version is sent as `3 << 16 | minor`.
pub fn negotiate_protocol_version(out: &mut BytesMut, minor: u16, unknown: &[String]) {
    message(out, tag::NEGOTIATE_PROTOCOL_VERSION, |out| {
        out.put_u32((3 << 16) | u32::from(minor));
        out.put_u32(u32::try_from(unknown.len()).unwrap_or(u32::MAX));
        for option in unknown {
            c_str(out, option.as_bytes());
        }
    });
}

/// A column of a RowDescription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// Its type's OID: `src/include/catalog/pg_type.dat`.
    pub type_oid: u32,
    /// Its type's size; negative: variable.
    pub type_size: i16,
}

impl Column {
    /// A column of type `text`.
    pub const fn text(name: &'static str) -> Self {
        Self { name, type_oid: 25, type_size: -1 }
    }

    /// A column of type `int4`.
    pub const fn int4(name: &'static str) -> Self {
        Self { name, type_oid: 23, type_size: 4 }
    }

    /// A column of type `int8`.
    pub const fn int8(name: &'static str) -> Self {
        Self { name, type_oid: 20, type_size: 8 }
    }

    /// A column of type `numeric`.
    pub const fn numeric(name: &'static str) -> Self {
        Self { name, type_oid: 1700, type_size: -1 }
    }

    /// A column of type `bytea`.
    pub const fn bytea(name: &'static str) -> Self {
        Self { name, type_oid: 17, type_size: -1 }
    }
}

/// DataRow.
pub fn data_row<'a>(out: &mut BytesMut, values: impl ExactSizeIterator<Item = Option<&'a [u8]>>) {
    message(out, tag::DATA_ROW, |out| {
        out.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
        for value in values {
            match value {
                None => out.put_i32(-1),
                Some(value) => {
                    out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
                    out.put_slice(value);
                }
            }
        }
    });
}

/// CommandComplete with this tag.
pub fn command_complete(out: &mut BytesMut, command: &str) {
    message(out, tag::COMMAND_COMPLETE, |out| c_str(out, command.as_bytes()));
}

/// EmptyQueryResponse.
pub fn empty_query_response(out: &mut BytesMut) {
    message(out, tag::EMPTY_QUERY_RESPONSE, |_| {});
}

/// ParseComplete.
pub const PARSE_COMPLETE: &[u8] = &bodiless(tag::PARSE_COMPLETE);
/// BindComplete.
pub const BIND_COMPLETE: &[u8] = &bodiless(tag::BIND_COMPLETE);
/// CloseComplete.
pub const CLOSE_COMPLETE: &[u8] = &bodiless(tag::CLOSE_COMPLETE);
/// NoData.
pub const NO_DATA: &[u8] = &bodiless(tag::NO_DATA);
/// Sync.
pub const SYNC: &[u8] = &bodiless(frontend::tag::SYNC);
/// Flush.
pub const FLUSH: &[u8] = &bodiless(frontend::tag::FLUSH);
/// Terminate.
pub const TERMINATE: &[u8] = &bodiless(frontend::tag::TERMINATE);

/// ParameterDescription.
pub fn parameter_description(out: &mut BytesMut, types: &[u32]) {
    message(out, tag::PARAMETER_DESCRIPTION, |out| {
        out.put_u16(u16::try_from(types.len()).unwrap_or(u16::MAX));
        types.iter().for_each(|it| out.put_u32(*it));
    });
}

/// Query.
pub fn query(out: &mut BytesMut, sql: &str) {
    message(out, frontend::tag::QUERY, |out| c_str(out, sql.as_bytes()));
}

/// PasswordMessage, and by its tag GSSResponse, SASLInitialResponse and SASLResponse, whose bodies differ.
pub fn password(out: &mut BytesMut, body: &[u8]) {
    message(out, frontend::tag::PASSWORD, |out| out.put_slice(body));
}

/// Close of the prepared statement `name`.
pub fn close_statement(out: &mut BytesMut, name: &[u8]) {
    message(out, frontend::tag::CLOSE, |out| {
        out.put_u8(b'S');
        c_str(out, name);
    });
}

/// Parse: `rest` is the query text with its zero byte and the parameter types, as they stood in the client's Parse.
pub fn parse(out: &mut BytesMut, name: &[u8], rest: &[u8]) {
    message(out, frontend::tag::PARSE, |out| {
        c_str(out, name);
        out.put_slice(rest);
    });
}
