//! PostgreSQL's MD5 passwords: `md5` and the hexadecimal digits of MD5(password, user name).
//!
//! Owns the hash and the salted answer to AuthenticationMD5Password. Comparisons take constant time.

use std::fmt::Write as _;

use ::md5::{Digest as _, Md5};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Hexadecimal digits of an MD5 digest.
const DIGITS: usize = 32;

/// Bytes of an answer, and of a stored hash with its prefix: MD5_PASSWD_LEN in src/include/common/md5.h.
pub const MD5_PASSWORD_BYTES: usize = 3 + DIGITS;

/// The digits of MD5(password, user name): as good as the password itself.
#[derive(Clone)]
pub struct Md5Hash(Zeroizing<[u8; DIGITS]>);

impl Md5Hash {
    /// That of a user's password.
    pub fn of(password: &[u8], user: &str) -> Self {
        Self(Zeroizing::new(digits(&[password, user.as_bytes()])))
    }

    /// Reads `md5` and 32 lower-case digits; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = <[u8; DIGITS]>::try_from(text.strip_prefix("md5")?.as_bytes()).ok()?;
        digits
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            .then(|| Self(Zeroizing::new(digits)))
    }

    /// As [`Self::parse`] reads it.
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = String::with_capacity(MD5_PASSWORD_BYTES);
        text.push_str("md5");
        text.extend(self.0.iter().map(|byte| char::from(*byte)));
        Zeroizing::new(text)
    }

    /// The answer to a challenge with this salt.
    pub fn answer(&self, salt: [u8; 4]) -> Zeroizing<String> {
        let answer = digits(&[&*self.0, &salt]);
        let mut text = String::with_capacity(MD5_PASSWORD_BYTES);
        text.push_str("md5");
        text.extend(answer.iter().map(|byte| char::from(*byte)));
        Zeroizing::new(text)
    }

    /// Whether `answer` is what the holder of this hash says to a challenge with this salt.
    pub fn accepts(&self, answer: &[u8], salt: [u8; 4]) -> bool {
        self.answer(salt).as_bytes().ct_eq(answer).into()
    }
}

impl PartialEq for Md5Hash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

fn digits(parts: &[&[u8]]) -> [u8; DIGITS] {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    let mut text = String::with_capacity(DIGITS);
    for byte in hash.finalize() {
        write!(text, "{byte:02x}").expect("a String takes any text");
    }
    text.into_bytes().try_into().expect("16 bytes are 32 digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_those_of_postgres_protocol() {
        for (user, password, salt) in [("md5_user", "password", [0x2a, 0x3d, 0x8f, 0xe0]), ("ü", "", [0; 4])]
        {
            let theirs =
                postgres_protocol::authentication::md5_hash(user.as_bytes(), password.as_bytes(), salt);
            let hash = Md5Hash::of(password.as_bytes(), user);
            assert_eq!(*hash.answer(salt), theirs);
            assert!(hash.accepts(theirs.as_bytes(), salt));
        }
    }

    #[test]
    fn a_stored_hash_is_that_of_its_password() {
        let hash = Md5Hash::of(b"password", "md5_user");
        let text = format!("md5{}", std::str::from_utf8(&*hash.0).unwrap());
        assert!(Md5Hash::parse(&text).is_some_and(|parsed| parsed == hash));
    }

    #[test]
    fn wrong_answers_are_refused() {
        let hash = Md5Hash::of(b"password", "user");
        let answer = hash.answer([1, 2, 3, 4]);
        for wrong in [
            &b""[..],
            b"password",
            b"md5",
            &answer.as_bytes()[..34],
            Md5Hash::of(b"x", "user").answer([1, 2, 3, 4]).as_bytes(),
        ] {
            assert!(!hash.accepts(wrong, [1, 2, 3, 4]));
        }
        assert!(!hash.accepts(answer.as_bytes(), [1, 2, 3, 5]));
    }
}
