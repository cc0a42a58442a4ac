//! Who a client is and how we prove to a server who we are; pure state machines.
//!
//! Owns the stored secrets, MD5 and SCRAM-SHA-256 from both ends, the server side of a client's login and the
//! client side of our own. It refuses to read sockets, to look secrets up, to draw random numbers and to burn
//! processor time: nonces and salts are arguments, a missing secret and an expensive derivation are handed out as
//! values ([`Step::NeedSecret`], [`Derivation`]) for the caller to provide.
//!
//! Invariant: a user who does not exist sees the same exchange as one who does, up to the refusal at its end.

pub mod derive;
pub mod login;
pub mod md5;
pub mod scram;
pub mod stored;
pub mod upstream;

pub use derive::{Derivation, KeyCache};
pub use login::{
    AuthError, Authenticated, Authority, Challenge, Login, Method, MockKind, Opinion, Secret, Step,
};
pub use scram::Keys;
pub use stored::{Stored, StoredError};
pub use upstream::{Answer, Upstream, UpstreamError};

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes of a salt of our own making, as PostgreSQL's SCRAM_DEFAULT_SALT_LEN in src/include/common/scram-common.h.
pub const SALT_BYTES: usize = 16;

/// What a pool may log in to its servers with.
///
/// `secret` is what is stored for the pool's user; `keys` are what a client proved to know of it.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The stored secret; `None`: none is known, which servers see as an empty password.
    pub secret: Option<Arc<Stored>>,
    /// The SCRAM keys of a client that logged in against the very verifier in `secret`.
    pub keys: Option<Arc<Keys>>,
}

impl Credentials {
    /// Those of a password in clear text.
    pub fn password(text: &str) -> Self {
        Self { secret: Some(Arc::new(Stored::Plain(Zeroizing::new(text.to_owned())))), keys: None }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// Random bytes drawn once per process, from which the salts shown to clients are made.
///
/// A user's salt stays the same from login to login, whether the user exists or not, as a stored verifier's would.
pub struct ProcessSecret(Zeroizing<[u8; 32]>);

impl ProcessSecret {
    /// Takes the bytes in.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The salt shown for a user without a verifier.
    pub fn salt_for(&self, user: &str) -> [u8; SALT_BYTES] {
        let mut salt = [0; SALT_BYTES];
        salt.copy_from_slice(&hmac_sha256(&*self.0, user.as_bytes())[..SALT_BYTES]);
        salt
    }
}

/// HMAC-SHA-256 of one text.
fn hmac_sha256(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}
