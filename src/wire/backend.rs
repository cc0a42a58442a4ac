//! Messages of a server, decoded as far as the pooler's own conversations with it need: login, reset, `auth_query`.
//!
//! What the relay passes on between a server and a client is not decoded here at all.

use super::frame::Fields;
use super::{CancelKey, Error, Report, TxStatus};

/// Message tags of a server: `PqMsg_*` in src/include/libpq/protocol.h.
pub mod tag {
    #![expect(missing_docs, reason = "the names are the protocol's own")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// A message of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backend<'a> {
    /// The login is done.
    AuthenticationOk,
    /// The password as it is, please.
    AuthenticationCleartext,
    /// The password hashed with this salt.
    AuthenticationMd5([u8; 4]),
    /// SASL with one of these mechanisms.
    AuthenticationSasl(Vec<&'a str>),
    /// The server's next SASL message.
    AuthenticationSaslContinue(&'a [u8]),
    /// The server's last SASL message.
    AuthenticationSaslFinal(&'a [u8]),
    /// A method that is not spoken here (GSSAPI, SSPI, Kerberos …), by its number.
    AuthenticationOther(u32),
    /// A setting's value.
    ParameterStatus {
        /// The setting.
        name: &'a str,
        /// Its value.
        value: &'a str,
    },
    /// The key for cancels.
    BackendKeyData(CancelKey),
    /// Ready for the next query.
    ReadyForQuery(TxStatus),
    /// An error.
    ErrorResponse(Report),
    /// A notice.
    NoticeResponse(Report),
    /// The server speaks only this minor version and does not know these options.
    NegotiateProtocolVersion {
        /// The newest minor version it speaks.
        minor: u16,
        /// Options it does not know.
        unknown: Vec<&'a str>,
    },
    /// How many columns follow.
    RowDescription {
        /// Columns of each row.
        columns: usize,
    },
    /// A row's values; `None` is NULL.
    DataRow(Vec<Option<&'a [u8]>>),
    /// A statement's end, with its command tag.
    CommandComplete(&'a str),
    /// Any other message, by its tag.
    Other(u8),
}

impl<'a> Backend<'a> {
    /// Decodes a whole message.
    ///
    /// Errors: a body that is not what its tag promises.
    pub fn decode(tag: u8, body: &'a [u8]) -> Result<Self, Error> {
        let mut fields = Fields::of(body);
        match tag {
            tag::AUTHENTICATION => Self::decode_authentication(fields),
            tag::PARAMETER_STATUS => {
                let (name, value) = (fields.text("ParameterStatus")?, fields.text("ParameterStatus")?);
                Ok(Self::ParameterStatus { name, value })
            }
            tag::BACKEND_KEY_DATA => {
                const WHAT: Error = Error::Broken("BackendKeyData");
                let pid = fields.u32().ok_or(WHAT)?;
                CancelKey::new(pid, fields.rest()).map(Self::BackendKeyData).ok_or(WHAT)
            }
            tag::READY_FOR_QUERY => fields
                .u8()
                .and_then(TxStatus::from_byte)
                .map(Self::ReadyForQuery)
                .ok_or(Error::Broken("ReadyForQuery")),
            tag::ERROR_RESPONSE => Report::parse(body).map(Self::ErrorResponse),
            tag::NOTICE_RESPONSE => Report::parse(body).map(Self::NoticeResponse),
            tag::NEGOTIATE_PROTOCOL_VERSION => Self::decode_negotiation(fields),
            tag::ROW_DESCRIPTION => {
                let columns = fields.i16().and_then(|it| usize::try_from(it).ok());
                columns.map(|columns| Self::RowDescription { columns }).ok_or(Error::Broken("RowDescription"))
            }
            tag::DATA_ROW => decode_row(fields).map(Self::DataRow).ok_or(Error::Broken("DataRow")),
            tag::COMMAND_COMPLETE => fields.text("CommandComplete").map(Self::CommandComplete),
            tag => Ok(Self::Other(tag)),
        }
    }

    fn decode_authentication(mut fields: Fields<'a>) -> Result<Self, Error> {
        const WHAT: Error = Error::Broken("Authentication");
        Ok(match fields.u32().ok_or(WHAT)? {
            0 => Self::AuthenticationOk,
            3 => Self::AuthenticationCleartext,
            5 => Self::AuthenticationMd5(fields.rest().try_into().map_err(|_| WHAT)?),
            10 => {
                let mut mechanisms = Vec::new();
                loop {
                    match fields.text("Authentication")? {
                        "" => break Self::AuthenticationSasl(mechanisms),
                        mechanism => mechanisms.push(mechanism),
                    }
                }
            }
            11 => Self::AuthenticationSaslContinue(fields.rest()),
            12 => Self::AuthenticationSaslFinal(fields.rest()),
            other => Self::AuthenticationOther(other),
        })
    }

    fn decode_negotiation(mut fields: Fields<'a>) -> Result<Self, Error> {
        const WHAT: &str = "NegotiateProtocolVersion";
        let version = fields.u32().ok_or(Error::Broken(WHAT))?;
        let count = fields.u32().ok_or(Error::Broken(WHAT))?;
        let mut unknown = Vec::new();
        for _ in 0..count {
            unknown.push(fields.text(WHAT)?);
        }
        Ok(Self::NegotiateProtocolVersion { minor: (version & 0xffff) as u16, unknown })
    }
}

fn decode_row<'a>(mut fields: Fields<'a>) -> Option<Vec<Option<&'a [u8]>>> {
    let count = usize::try_from(fields.i16()?).ok()?;
    let mut values = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        values.push(match usize::try_from(fields.i32()?) {
            Err(_) => None,
            Ok(size) => Some(fields.bytes(size)?),
        });
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire::encode;

    #[test]
    fn a_row_holds_values_and_nulls() {
        let mut out = BytesMut::new();
        encode::data_row(&mut out, [Some(&b"a"[..]), None, Some(b"")].into_iter());
        assert_eq!(
            Backend::decode(out[0], &out[5..]),
            Ok(Backend::DataRow(vec![Some(b"a"), None, Some(b"")]))
        );
    }

    #[test]
    fn sasl_mechanisms_end_with_an_empty_name() {
        let mut out = BytesMut::new();
        encode::authentication_sasl(&mut out, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
        assert_eq!(
            Backend::decode(b'R', &out[5..]),
            Ok(Backend::AuthenticationSasl(vec!["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]))
        );
    }

    #[test]
    fn broken_bodies_are_errors() {
        for (name, tag, body) in [
            ("row with a value that is not there", b'D', &b"\0\x01\0\0\0\x05ab"[..]),
            ("row with fewer values", b'D', b"\0\x02\xff\xff\xff\xff"),
            ("status that does not exist", b'Z', b"X"),
            ("key without a secret", b'K', b"\0\0\0\x01"),
            ("salt of three bytes", b'R', b"\0\0\0\x05abc"),
            ("status without a value", b'S', b"name\0value"),
            ("a billion options", b'v', b"\0\x03\0\0\x7f\xff\xff\xff"),
        ] {
            assert!(Backend::decode(tag, body).is_err(), "{name}");
        }
    }
}
