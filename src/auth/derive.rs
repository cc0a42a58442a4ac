//! The expensive part of SCRAM: PBKDF2 from a password to its keys.
//!
//! Owns the derivation as a value that can be run on another thread, and a bounded memory of earlier results. It
//! starts no thread itself.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;

use parking_lot::Mutex;
use pbkdf2::pbkdf2_hmac_array;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::hmac_sha256;
use super::scram::Keys;

/// Results remembered per generation; at most twice as many are held, some 100 bytes each.
const GENERATION_KEYS_MAX: usize = 2048;

/// A password, a salt and an iteration count, of which SCRAM keys can be made at the price of milliseconds.
#[derive(Clone)]
pub struct Derivation {
    password: Zeroizing<Vec<u8>>,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

impl Derivation {
    /// The derivation for a password as typed; it is normalized here.
    pub fn new(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        Self { password: normalize(password), salt: salt.to_vec(), iterations }
    }

    /// Does the work: PBKDF2 with as many rounds as `iterations` says. Never call it on a worker's thread.
    pub fn run(&self) -> Keys {
        let salted = Zeroizing::new(pbkdf2_hmac_array::<Sha256, 32>(
            &self.password,
            &self.salt,
            self.iterations.get(),
        ));
        Keys {
            client_key: Zeroizing::new(hmac_sha256(&*salted, b"Client Key")),
            server_key: Zeroizing::new(hmac_sha256(&*salted, b"Server Key")),
        }
    }

    /// PBKDF2 rounds.
    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// The salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// What the cache knows it by; lengths go in so that no two derivations run together.
    fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.iterations.get().to_be_bytes());
        hash.update((self.salt.len() as u64).to_be_bytes());
        hash.update(&self.salt);
        hash.update(&*self.password);
        hash.finalize().into()
    }
}

impl fmt::Debug for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derivation").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// SASLprep, or the bytes as they are where it does not apply, as PostgreSQL's pg_saslprep callers do
/// (src/common/scram-common.c): passwords need not be UTF-8 nor free of prohibited characters.
fn normalize(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = std::str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
    match prepared {
        // pg_saslprep gives up where nothing is left.
        Some(text) if !text.is_empty() => Zeroizing::new(text.into_owned().into_bytes()),
        _ => Zeroizing::new(password.to_vec()),
    }
}

/// Keys derived before, so that a storm of logins derives each user's once.
///
/// Two generations: when the young one is full it becomes the old one and the old one goes. A key used since the
/// last turn survives the next.
#[derive(Default)]
pub struct KeyCache {
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<[u8; 32], Keys>,
    old: HashMap<[u8; 32], Keys>,
}

impl KeyCache {
    /// The keys of a derivation that has been run before.
    pub fn find(&self, derivation: &Derivation) -> Option<Keys> {
        let fingerprint = derivation.fingerprint();
        let mut generations = self.generations.lock();
        if let Some(keys) = generations.young.get(&fingerprint) {
            return Some(keys.clone());
        }
        let keys = generations.old.remove(&fingerprint)?;
        generations.insert(fingerprint, keys.clone());
        Some(keys)
    }

    /// Remembers what a derivation gave.
    pub fn remember(&self, derivation: &Derivation, keys: &Keys) {
        self.generations.lock().insert(derivation.fingerprint(), keys.clone());
    }
}

impl Generations {
    fn insert(&mut self, fingerprint: [u8; 32], keys: Keys) {
        if self.young.len() >= GENERATION_KEYS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(fingerprint, keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derivation(password: &[u8]) -> Derivation {
        Derivation::new(password, b"salt", NonZeroU32::MIN)
    }

    #[test]
    fn passwords_are_normalized_as_postgresql_does() {
        for (name, typed, normal) in [
            ("ascii", &b"pencil"[..], &b"pencil"[..]),
            ("soft hyphen is dropped", "I\u{ad}X".as_bytes(), b"IX"),
            ("no-break space becomes a space", "a\u{a0}b".as_bytes(), b"a b"),
            ("compatibility forms fold", "\u{2168}".as_bytes(), b"IX"),
            ("control characters are prohibited: as typed", b"a\x07b", b"a\x07b"),
            ("not UTF-8: as typed", b"\xff\xfe", b"\xff\xfe"),
            ("mixed direction: as typed", "\u{627}1".as_bytes(), "\u{627}1".as_bytes()),
            ("nothing left: as typed", "\u{ad}".as_bytes(), "\u{ad}".as_bytes()),
            ("empty", b"", b""),
        ] {
            assert_eq!(&**normalize(typed), normal, "{name}");
        }
    }

    #[test]
    fn the_cache_remembers_and_stays_bounded() {
        let cache = KeyCache::default();
        let keys = derivation(b"first").run();
        assert!(cache.find(&derivation(b"first")).is_none());
        cache.remember(&derivation(b"first"), &keys);
        for number in 0..3 * GENERATION_KEYS_MAX {
            cache.remember(&derivation(number.to_string().as_bytes()), &keys);
            assert!(cache.find(&derivation(b"first")).is_some(), "kept as long as it is asked for");
        }
        let generations = cache.generations.lock();
        assert!(generations.young.len() <= GENERATION_KEYS_MAX);
        assert!(generations.old.len() <= GENERATION_KEYS_MAX);
    }

    #[test]
    fn fingerprints_keep_salt_and_password_apart() {
        let one = Derivation::new(b"bc", b"a", NonZeroU32::MIN).fingerprint();
        let other = Derivation::new(b"c", b"ab", NonZeroU32::MIN).fingerprint();
        assert_ne!(one, other);
    }
}
