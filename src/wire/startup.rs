//! The untagged packets a connection begins with: `ProcessStartupPacket` in src/backend/tcop/backend_startup.c.

use std::fmt;

use bytes::{BufMut, BytesMut};
use subtle::ConstantTimeEq;

use super::frame::Fields;
use super::limits::{CANCEL_SECRET_BYTES_MAX, STARTUP_BYTES_MAX};
use super::{Error, encode};

/// `CANCEL_REQUEST_CODE` in src/include/libpq/pqcomm.h.
const CANCEL_REQUEST_CODE: u32 = (1234 << 16) | 5678;
/// `NEGOTIATE_SSL_CODE`, ibid.
const NEGOTIATE_SSL_CODE: u32 = (1234 << 16) | 5679;
/// `NEGOTIATE_GSS_CODE`, ibid.
const NEGOTIATE_GSS_CODE: u32 = (1234 << 16) | 5680;

/// The newest minor version of protocol 3 that is spoken here: longer cancel keys.
pub const MINOR_MAX: u16 = 2;

/// The bytes of a start-up packet's length field.
pub const LENGTH: usize = 4;

/// The first packet of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum First {
    /// SSLRequest.
    Ssl,
    /// GSSENCRequest.
    Gss,
    /// CancelRequest.
    Cancel(CancelKey),
    /// StartupMessage.
    Startup(Startup),
}

/// A StartupMessage.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Startup {
    /// The minor version that the client asked for.
    pub minor: u16,
    /// Names and values in their order, without the protocol's own `_pq_.` options.
    pub parameters: Vec<(String, String)>,
    /// The `_pq_.` options, none of which is known here.
    pub unknown_options: Vec<String>,
}

impl Startup {
    /// The value of a parameter; the last one counts, as in PostgreSQL.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// True where the client must be told what is spoken here: a newer minor version or unknown options.
    pub fn needs_negotiation(&self) -> bool {
        self.minor > MINOR_MAX || !self.unknown_options.is_empty()
    }

    /// The minor version both sides speak. Version 3.1 was never given out; 3.0 stands in for it.
    pub fn minor_spoken(&self) -> u16 {
        if self.minor >= MINOR_MAX { MINOR_MAX } else { 0 }
    }
}

impl First {
    /// How many bytes the packet at the front of `bytes` has, its length field included; `None` where that can't
    /// be told yet.
    ///
    /// Errors: a length that no start-up packet has.
    pub fn size(bytes: &[u8]) -> Result<Option<usize>, Error> {
        let Some(length) = bytes.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length);
        // A cancel key of 256 bytes is the only other packet with a size of its own, and it is shorter.
        if (8..=STARTUP_BYTES_MAX + LENGTH).contains(&(length as usize)) {
            return Ok(Some(length as usize));
        }
        Err(Error::Length { tag: 0, length })
    }

    /// Decodes a whole packet, its length field included.
    pub fn decode(packet: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "start-up";
        let mut fields = Fields::of(packet);
        fields.u32().ok_or(Error::Broken(WHAT))?;
        let code = fields.u32().ok_or(Error::Broken(WHAT))?;
        match code {
            NEGOTIATE_SSL_CODE if fields.is_empty() => Ok(Self::Ssl),
            NEGOTIATE_GSS_CODE if fields.is_empty() => Ok(Self::Gss),
            NEGOTIATE_SSL_CODE | NEGOTIATE_GSS_CODE => Err(Error::Broken("encryption request")),
            CANCEL_REQUEST_CODE => {
                let pid = fields.u32().ok_or(Error::Broken("cancel request"))?;
                let key = CancelKey::new(pid, fields.rest()).ok_or(Error::Broken("cancel request"))?;
                Ok(Self::Cancel(key))
            }
            _ if code >> 16 == 3 => Self::decode_startup((code & 0xffff) as u16, fields).map(Self::Startup),
            _ => Err(Error::Protocol { major: (code >> 16) as u16, minor: (code & 0xffff) as u16 }),
        }
    }

    fn decode_startup(minor: u16, mut fields: Fields<'_>) -> Result<Startup, Error> {
        const LAYOUT: Error = Error::Broken("start-up");
        let mut startup = Startup { minor, ..Startup::default() };
        loop {
            let name = fields.text("start-up parameter")?;
            if name.is_empty() {
                return if fields.is_empty() { Ok(startup) } else { Err(LAYOUT) };
            }
            let value = fields.text("start-up parameter")?;
            if name.starts_with("_pq_.") {
                startup.unknown_options.push(name.to_owned());
            } else {
                startup.parameters.push((name.to_owned(), value.to_owned()));
            }
        }
    }
}

/// What a client must show to cancel: a BackendKeyData's content. The secret is 4 bytes in protocol 3.0.
#[derive(Clone)]
pub struct CancelKey {
    /// The server's process id, or any number of the pooler's choice.
    pub pid: u32,
    secret: CancelSecret,
}

/// As long as in protocol 3.0, in place: each client has one for as long as it stays.
#[derive(Clone)]
enum CancelSecret {
    Short([u8; 4]),
    Long(Box<[u8]>),
}

impl CancelKey {
    /// A key; `None` where the secret is shorter than 4 or longer than 256 bytes.
    pub fn new(pid: u32, secret: &[u8]) -> Option<Self> {
        let kept = || match <[u8; 4]>::try_from(secret) {
            Ok(short) => CancelSecret::Short(short),
            Err(_) => CancelSecret::Long(secret.into()),
        };
        (4..=CANCEL_SECRET_BYTES_MAX).contains(&secret.len()).then(|| Self { pid, secret: kept() })
    }

    /// The secret's bytes.
    pub fn secret(&self) -> &[u8] {
        match &self.secret {
            CancelSecret::Short(secret) => secret,
            CancelSecret::Long(secret) => secret,
        }
    }
}

impl PartialEq for CancelKey {
    /// Takes the same time wherever the secrets differ.
    fn eq(&self, other: &Self) -> bool {
        self.pid == other.pid && bool::from(self.secret().ct_eq(other.secret()))
    }
}

impl Eq for CancelKey {}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelKey({}, …)", self.pid)
    }
}

/// Appends a StartupMessage of protocol 3.`minor`.
pub fn encode_startup<'a>(
    out: &mut BytesMut,
    minor: u16,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    encode::untagged(out, |out| {
        out.put_u32((3 << 16) | u32::from(minor));
        for (name, value) in parameters {
            encode::c_str(out, name.as_bytes());
            encode::c_str(out, value.as_bytes());
        }
        out.put_u8(0);
    });
}

/// Appends an SSLRequest.
pub fn encode_ssl_request(out: &mut BytesMut) {
    encode::untagged(out, |out| out.put_u32(NEGOTIATE_SSL_CODE));
}

/// Appends a CancelRequest.
pub fn encode_cancel_request(out: &mut BytesMut, key: &CancelKey) {
    encode::untagged(out, |out| {
        out.put_u32(CANCEL_REQUEST_CODE);
        out.put_u32(key.pid);
        out.put_slice(key.secret());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(out: &BytesMut) -> Result<First, Error> {
        assert_eq!(First::size(out), Ok(Some(out.len())));
        First::decode(out)
    }

    #[test]
    fn a_startup_message_survives_the_wire() {
        let mut out = BytesMut::new();
        encode_startup(&mut out, 2, [("user", "u"), ("_pq_.grease", "1"), ("options", "-c a=b")]);
        let Ok(First::Startup(startup)) = decode(&out) else { panic!("not a start-up message") };
        assert_eq!(startup.parameter("user"), Some("u"));
        assert_eq!(startup.parameter("database"), None);
        assert_eq!(startup.unknown_options, ["_pq_.grease"]);
        assert!(startup.needs_negotiation());
        assert_eq!(startup.minor_spoken(), 2);
    }

    #[test]
    fn requests_survive_the_wire() {
        let mut out = BytesMut::new();
        encode_ssl_request(&mut out);
        assert_eq!(decode(&out), Ok(First::Ssl));
        let key = CancelKey::new(7, &[1; 32]).expect("32 bytes are allowed");
        out.clear();
        encode_cancel_request(&mut out, &key);
        assert_eq!(decode(&out), Ok(First::Cancel(key)));
    }

    #[test]
    fn broken_packets_are_errors() {
        for (name, packet) in [
            ("too short", &b"\0\0\0\x08\0\x03\0"[..]),
            ("no terminator", b"\0\0\0\x0d\0\x03\0\0user\0"),
            ("name without value", b"\0\0\0\x0e\0\x03\0\0user\0\0x"),
            ("version 2", b"\0\0\0\x08\0\x02\0\0"),
            ("http", b"GET / HTTP/1.1\r\n"),
            ("cancel key too short", b"\0\0\0\x0f\x04\xd2\x16\x2e\0\0\0\x01\0\0\0"),
        ] {
            assert!(First::decode(packet).is_err(), "{name}");
        }
        assert!(First::size(b"GET ").is_err());
        assert!(First::size(b"\0\0\0\x07").is_err());
    }
}
