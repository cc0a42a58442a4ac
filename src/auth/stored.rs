//! A secret as it stands in `auth_file` or `pg_authid.rolpassword`.
//!
//! Owns the reading of its three forms. It is never printed, is wiped when dropped, and is compared in constant
//! time. A text that sets out to be a SCRAM verifier and is not one is an error, never a plain password: else whoever
//! reads the file could log in with what stands there.

use std::fmt;
use std::num::NonZeroU32;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::derive::Derivation;
use super::md5::Md5Hash;
use super::scram::{ITERATIONS_MAX, Keys, MECHANISM};

/// The longest secret taken in. PgBouncer's MAX_PASSWORD less its terminator; `userlist.txt` may hold one as long.
pub const SECRET_BYTES_MAX: usize = 65_535;

/// The longest salt of a verifier. PostgreSQL makes 16 bytes; the SCRAM messages that carry it end at 1024.
pub const VERIFIER_SALT_BYTES_MAX: usize = 256;

/// A stored secret.
#[derive(Clone)]
pub enum Stored {
    /// The password itself. An empty one lets nobody in.
    Plain(Zeroizing<String>),
    /// `md5` and 32 hexadecimal digits.
    Md5(Md5Hash),
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
    Scram(Verifier),
}

/// Why a text is not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoredError {
    /// It cannot belong to any password we would read.
    #[error("the secret is longer than {SECRET_BYTES_MAX} bytes")]
    TooLong,
    /// It starts as a verifier and goes on otherwise.
    #[error("the secret starts as a SCRAM-SHA-256 verifier but its {0} is malformed")]
    Verifier(&'static str),
}

impl Stored {
    /// Reads one of the three forms.
    pub fn parse(text: &str) -> Result<Self, StoredError> {
        if text.len() > SECRET_BYTES_MAX {
            return Err(StoredError::TooLong);
        }
        if let Some(hash) = Md5Hash::parse(text) {
            return Ok(Self::Md5(hash));
        }
        match text.strip_prefix(MECHANISM).and_then(|rest| rest.strip_prefix('$')) {
            Some(rest) => Verifier::parse(rest).map(Self::Scram),
            None => Ok(Self::Plain(Zeroizing::new(text.to_owned()))),
        }
    }

    /// As [`Self::parse`] reads it.
    pub fn text(&self) -> Zeroizing<String> {
        match self {
            Self::Plain(password) => password.clone(),
            Self::Md5(hash) => hash.text(),
            Self::Scram(verifier) => verifier.text(),
        }
    }

    /// Whether a client can only prove itself by SCRAM, so that the method `md5` becomes SCRAM.
    pub fn is_scram(&self) -> bool {
        matches!(self, Self::Scram(_))
    }

    /// Whether nobody may log in with it at all.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Plain(password) if password.is_empty())
    }
}

impl PartialEq for Stored {
    /// In constant time for what is secret; used to tell whether a reloaded secret is a new one.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain(a), Self::Plain(b)) => a.as_bytes().ct_eq(b.as_bytes()).into(),
            (Self::Md5(a), Self::Md5(b)) => a == b,
            (Self::Scram(a), Self::Scram(b)) => a == b,
            (Self::Plain(_) | Self::Md5(_) | Self::Scram(_), _) => false,
        }
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(…)",
            Self::Md5(_) => "Md5(…)",
            Self::Scram(_) => "Scram(…)",
        })
    }
}

/// What a server keeps of a password: enough to check a client's proof, not enough to make one.
#[derive(Clone)]
pub struct Verifier {
    /// PBKDF2 rounds.
    pub iterations: NonZeroU32,
    /// The password's salt.
    pub salt: Vec<u8>,
    /// H(ClientKey).
    pub stored_key: Zeroizing<[u8; 32]>,
    /// What the server proves itself with.
    pub server_key: Zeroizing<[u8; 32]>,
}

impl Verifier {
    /// That of the password whose derivation gave `keys`.
    pub fn of(derivation: &Derivation, keys: &Keys) -> Self {
        Self {
            iterations: derivation.iterations(),
            salt: derivation.salt().to_vec(),
            stored_key: Zeroizing::new(keys.stored_key()),
            server_key: keys.server_key.clone(),
        }
    }

    fn text(&self) -> Zeroizing<String> {
        let encode = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
        let (salt, stored) = (encode(&self.salt), Zeroizing::new(encode(&*self.stored_key)));
        let server = Zeroizing::new(encode(&*self.server_key));
        Zeroizing::new(format!("{MECHANISM}${}:{salt}${}:{}", self.iterations, *stored, *server))
    }

    /// Reads what follows `SCRAM-SHA-256$`, as PostgreSQL's parse_scram_secret in src/backend/libpq/auth-scram.c.
    fn parse(rest: &str) -> Result<Self, StoredError> {
        let (head, keys) = rest.split_once('$').ok_or(StoredError::Verifier("layout"))?;
        let (iterations, salt) = head.split_once(':').ok_or(StoredError::Verifier("layout"))?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(StoredError::Verifier("layout"))?;
        let iterations = iterations
            .parse::<NonZeroU32>()
            .ok()
            .filter(|count| *count <= ITERATIONS_MAX)
            .ok_or(StoredError::Verifier("iteration count"))?;
        let salt = BASE64_STANDARD.decode(salt).map_err(|_| StoredError::Verifier("salt"))?;
        if salt.is_empty() || salt.len() > VERIFIER_SALT_BYTES_MAX {
            return Err(StoredError::Verifier("salt"));
        }
        Ok(Self {
            iterations,
            salt,
            stored_key: key(stored_key).ok_or(StoredError::Verifier("StoredKey"))?,
            server_key: key(server_key).ok_or(StoredError::Verifier("ServerKey"))?,
        })
    }

    /// Whether `keys` are those of the password this verifier was made of.
    pub fn matches(&self, keys: &Keys) -> bool {
        (self.stored_key.ct_eq(&keys.stored_key()) & self.server_key.ct_eq(&*keys.server_key)).into()
    }
}

impl PartialEq for Verifier {
    fn eq(&self, other: &Self) -> bool {
        let public = self.iterations == other.iterations && self.salt == other.salt;
        let secret = self.stored_key.ct_eq(&*other.stored_key) & self.server_key.ct_eq(&*other.server_key);
        public & bool::from(secret)
    }
}

/// A key of 32 bytes in base64.
pub(super) fn key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    // The decoder asks for room for whole groups: 44 characters may be 33 bytes.
    let mut bytes = Zeroizing::new([0; 33]);
    let count = BASE64_STANDARD.decode_slice(text, &mut *bytes).ok()?;
    <[u8; 32]>::try_from(&bytes[..count]).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:QUFBQUFBQUFBQUFBQUFBQQ==$\
        MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=:MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";

    #[test]
    fn the_three_forms_are_told_apart() {
        let md5 = format!("md5{}", "0123456789abcdef".repeat(2));
        for (text, form) in [
            ("secret", "Plain(…)"),
            ("", "Plain(…)"),
            ("md5", "Plain(…)"),
            ("md5xyz", "Plain(…)"),
            ("SCRAM-SHA-256", "Plain(…)"),
            (md5.as_str(), "Md5(…)"),
            (VERIFIER, "Scram(…)"),
        ] {
            assert_eq!(format!("{:?}", Stored::parse(text).unwrap()), form, "{text:?}");
        }
        let upper_case = md5.to_uppercase().replacen("MD5", "md5", 1);
        assert!(
            matches!(Stored::parse(&upper_case), Ok(Stored::Plain(_))),
            "PostgreSQL's digits are lower case"
        );
    }

    #[test]
    fn a_verifier_gives_its_parts() {
        let Ok(Stored::Scram(verifier)) = Stored::parse(VERIFIER) else { panic!("a verifier") };
        assert_eq!(verifier.iterations.get(), 4096);
        assert_eq!(verifier.salt, [b'A'; 16]);
        assert_eq!(&*verifier.stored_key, b"12345678901234567890123456789012");
        assert_eq!(&*verifier.server_key, b"12345678901234567890123456789012");
    }

    #[test]
    fn a_malformed_verifier_is_no_password() {
        let long = "A".repeat(SECRET_BYTES_MAX + 1);
        for (name, text, error) in [
            ("no salt", VERIFIER.replacen(":QUF", "QUF", 1), StoredError::Verifier("layout")),
            ("no keys", "SCRAM-SHA-256$4096:QUFB".to_owned(), StoredError::Verifier("layout")),
            ("zero iterations", VERIFIER.replacen("4096", "0", 1), StoredError::Verifier("iteration count")),
            (
                "negative iterations",
                VERIFIER.replacen("4096", "-1", 1),
                StoredError::Verifier("iteration count"),
            ),
            (
                "too many iterations",
                VERIFIER.replacen("4096", "4294967295", 1),
                StoredError::Verifier("iteration count"),
            ),
            ("salt not base64", VERIFIER.replacen("QUFB", "!!!!", 1), StoredError::Verifier("salt")),
            ("short key", VERIFIER.replacen("$MTIz", "$", 1), StoredError::Verifier("StoredKey")),
            ("long key", format!("{VERIFIER}AAAA"), StoredError::Verifier("ServerKey")),
            ("too long", long, StoredError::TooLong),
        ] {
            assert_eq!(Stored::parse(&text).err(), Some(error), "{name}");
        }
    }

    #[test]
    fn equal_secrets_are_equal() {
        let parse = |text: &str| Stored::parse(text).unwrap();
        assert_eq!(parse("a"), parse("a"));
        assert_ne!(parse("a"), parse("b"));
        assert_eq!(parse(VERIFIER), parse(VERIFIER));
        assert_ne!(parse(VERIFIER), parse(&VERIFIER.replacen("4096", "4097", 1)));
        assert_ne!(parse(VERIFIER), parse("a"));
    }
}
