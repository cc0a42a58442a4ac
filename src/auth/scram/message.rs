//! The four SCRAM messages, taken apart.
//!
//! Every function takes bytes from the network and gives a value or [`ScramError::Malformed`]; none panics. Grammar:
//! RFC 5802 section 7. Where PostgreSQL is looser (extensions after the nonce are ignored) or stricter (no
//! authorization identity), so are we.

use std::num::NonZeroU32;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use zeroize::Zeroizing;

use super::super::stored::key;
use super::{MESSAGE_BYTES_MAX, ScramError};

/// client-first-message.
#[derive(Debug)]
pub struct ClientFirst<'a> {
    /// `n,,` or `y,,`: what the last message must repeat.
    pub gs2_header: &'static str,
    /// Everything after the header.
    pub bare: &'a str,
    /// The client's nonce.
    pub nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    /// Takes it apart. The user's name is not looked at: PostgreSQL takes it from the start-up message.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ScramError> {
        let message = text(bytes)?;
        let (flag, rest) = message.split_once(',').ok_or(ScramError::Malformed("no channel binding flag"))?;
        let gs2_header = match flag {
            "n" => "n,,",
            "y" => "y,,",
            _ if flag.starts_with("p=") => return Err(ScramError::ChannelBindingRequired),
            _ => return Err(ScramError::Malformed("unknown channel binding flag")),
        };
        let bare =
            rest.strip_prefix(',').ok_or(ScramError::Malformed("authorization identity not supported"))?;
        let mut attributes = Attributes(Some(bare));
        // A leading `m=` is a mandatory extension; as any other first attribute it ends here.
        attributes.expect('n')?;
        let nonce = attributes.expect('r')?;
        check_nonce(nonce)?;
        attributes.skip_extensions()?;
        Ok(Self { gs2_header, bare, nonce })
    }
}

/// client-final-message.
pub struct ClientFinal<'a> {
    /// The header repeated, in base64.
    pub channel_binding: &'a str,
    /// Both nonces.
    pub nonce: &'a str,
    /// The message up to the proof, which both sides sign.
    pub without_proof: &'a str,
    /// ClientKey XOR ClientSignature.
    pub proof: Zeroizing<[u8; 32]>,
}

impl<'a> ClientFinal<'a> {
    /// Takes it apart.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ScramError> {
        let message = text(bytes)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed("no proof"))?;
        let proof = key(proof).ok_or(ScramError::Malformed("the proof is not 32 bytes in base64"))?;
        let mut attributes = Attributes(Some(without_proof));
        let channel_binding = attributes.expect('c')?;
        let nonce = attributes.expect('r')?;
        attributes.skip_extensions()?;
        Ok(Self { channel_binding, nonce, without_proof, proof })
    }
}

/// server-first-message.
#[derive(Debug)]
pub struct ServerFirst<'a> {
    /// The whole message, which both sides sign.
    pub text: &'a str,
    /// Both nonces.
    pub nonce: &'a str,
    /// The password's salt.
    pub salt: Vec<u8>,
    /// PBKDF2 rounds.
    pub iterations: NonZeroU32,
}

impl<'a> ServerFirst<'a> {
    /// Takes it apart.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ScramError> {
        let message = text(bytes)?;
        let mut attributes = Attributes(Some(message));
        let nonce = attributes.expect('r')?;
        check_nonce(nonce)?;
        let salt = BASE64_STANDARD
            .decode(attributes.expect('s')?)
            .ok()
            .filter(|salt| !salt.is_empty())
            .ok_or(ScramError::Malformed("the salt is not base64"))?;
        let iterations = attributes
            .expect('i')?
            .parse()
            .map_err(|_| ScramError::Malformed("the iteration count is no positive number"))?;
        attributes.skip_extensions()?;
        Ok(Self { text: message, nonce, salt, iterations })
    }
}

/// server-final-message.
#[derive(Debug)]
pub enum ServerFinal {
    /// The server proves itself.
    Signature([u8; 32]),
    /// The server refuses.
    Error,
}

impl ServerFinal {
    /// Takes it apart.
    pub fn parse(bytes: &[u8]) -> Result<Self, ScramError> {
        let message = text(bytes)?;
        if message.starts_with("e=") {
            return Ok(Self::Error);
        }
        let mut attributes = Attributes(Some(message));
        let signature = key(attributes.expect('v')?)
            .ok_or(ScramError::Malformed("the server signature is not 32 bytes in base64"))?;
        attributes.skip_extensions()?;
        Ok(Self::Signature(*signature))
    }
}

fn text(bytes: &[u8]) -> Result<&str, ScramError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(ScramError::Malformed("too long"));
    }
    if bytes.contains(&0) {
        return Err(ScramError::Malformed("a zero byte"));
    }
    std::str::from_utf8(bytes).map_err(|_| ScramError::Malformed("not UTF-8"))
}

/// RFC 5802: printable ASCII except the comma; PostgreSQL's is_scram_printable.
fn check_nonce(nonce: &str) -> Result<(), ScramError> {
    let printable = nonce.bytes().all(|byte| matches!(byte, 0x21..=0x2b | 0x2d..=0x7e));
    if nonce.is_empty() || !printable {
        return Err(ScramError::Malformed("the nonce is empty or not printable"));
    }
    Ok(())
}

/// `a=value,b=value…`, read from the front.
struct Attributes<'a>(Option<&'a str>);

impl<'a> Attributes<'a> {
    /// The value of the next attribute, which must be `name`.
    fn expect(&mut self, name: char) -> Result<&'a str, ScramError> {
        match self.next()? {
            Some((found, value)) if found == name => Ok(value),
            Some(_) | None => Err(ScramError::Malformed("another attribute was expected")),
        }
    }

    /// Everything up to the end must be attributes; what they say is not ours to know.
    fn skip_extensions(&mut self) -> Result<(), ScramError> {
        while self.next()?.is_some() {}
        Ok(())
    }

    fn next(&mut self) -> Result<Option<(char, &'a str)>, ScramError> {
        let Some(rest) = self.0.take() else { return Ok(None) };
        let (attribute, rest) = match rest.split_once(',') {
            Some((attribute, rest)) => (attribute, Some(rest)),
            None => (rest, None),
        };
        self.0 = rest;
        let mut chars = attribute.chars();
        match (chars.next(), chars.next()) {
            (Some(name @ ('a'..='z' | 'A'..='Z')), Some('=')) => Ok(Some((name, chars.as_str()))),
            _ => Err(ScramError::Malformed("an attribute is a letter and an equals sign")),
        }
    }
}
