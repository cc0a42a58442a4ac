//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it, from both ends.
//!
//! Owns the messages ([`message`]), the server's side of an exchange ([`ServerExchange`]) and the client's
//! ([`ClientStart`]). Each step consumes the one before, so none can be taken twice or out of order. Channel binding
//! is not offered: a client that insists on it is refused. Nonces are arguments and PBKDF2 is left to
//! [`Derivation`](super::Derivation).

use std::fmt;
use std::num::NonZeroU32;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::hmac_sha256;

pub mod message;

use message::{ClientFinal, ClientFirst, ServerFinal, ServerFirst};

/// The one mechanism we offer and take.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// The longest SCRAM message taken in: PG_MAX_SASL_MESSAGE_LENGTH in src/backend/libpq/auth-sasl.c.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// Random bytes behind a nonce of ours: SCRAM_RAW_NONCE_LEN in src/include/common/scram-common.h.
pub const NONCE_BYTES: usize = 18;

/// The most PBKDF2 rounds we let a server or a stored verifier ask for: seconds of work, where PostgreSQL's default
/// takes two milliseconds. Without a limit a false server could keep a thread busy for an hour.
pub const ITERATIONS_MAX: NonZeroU32 = NonZeroU32::new(10_000_000).expect("not zero");

/// Why an exchange ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScramError {
    /// A message is not of RFC 5802's form.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The client insists on channel binding.
    #[error("client requires SCRAM channel binding, but it is not supported")]
    ChannelBindingRequired,
    /// The binding repeated in the last message is not the one of the first: somebody is in between.
    #[error("SCRAM channel binding check failed")]
    ChannelBindingMismatch,
    /// The nonce is not the one of this exchange.
    #[error("SCRAM nonce does not match")]
    Nonce,
    /// The server asks for more rounds than we give.
    #[error("SCRAM iteration count is above {ITERATIONS_MAX}")]
    Iterations,
    /// The client does not know the password.
    #[error("SCRAM proof does not match")]
    Proof,
    /// The server does not know our secret.
    #[error("SCRAM server signature does not match")]
    Signature,
    /// The server ended the exchange with an error of its own.
    #[error("server ended the SCRAM exchange with an error")]
    Refused,
}

/// What a password and a salt give: who has them can log in, and can tell the real server.
#[derive(Clone)]
pub struct Keys {
    /// Proves the client.
    pub client_key: Zeroizing<[u8; 32]>,
    /// Proves the server.
    pub server_key: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// H(ClientKey), the half a server stores.
    pub fn stored_key(&self) -> [u8; 32] {
        Sha256::digest(*self.client_key).into()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(…)")
    }
}

/// A nonce as text, made of random bytes.
pub fn nonce(random: [u8; NONCE_BYTES]) -> String {
    BASE64_STANDARD.encode(random)
}

/// The server's side, after its first message.
pub struct ServerExchange {
    gs2_header: &'static str,
    nonce: String,
    /// client-first-message-bare "," server-first-message.
    transcript: String,
}

impl ServerExchange {
    /// Takes the client's first message; gives ours.
    pub fn begin(
        client_first: &[u8],
        salt: &[u8],
        iterations: NonZeroU32,
        server_nonce: &str,
    ) -> Result<(Self, String), ScramError> {
        let first = ClientFirst::parse(client_first)?;
        // Joined and not formatted: a login has five such texts.
        let nonce = [first.nonce, server_nonce].concat();
        let (salt, iterations) = (BASE64_STANDARD.encode(salt), iterations.to_string());
        let server_first = ["r=", &nonce, ",s=", &salt, ",i=", &iterations].concat();
        let transcript = [first.bare, ",", &server_first].concat();
        Ok((Self { gs2_header: first.gs2_header, nonce, transcript }, server_first))
    }

    /// Takes the client's last message; what it proves is for [`Proof::verify`] to say.
    pub fn receive(self, client_final: &[u8]) -> Result<Proof, ScramError> {
        let last = ClientFinal::parse(client_final)?;
        if last.nonce.as_bytes().ct_ne(self.nonce.as_bytes()).into() {
            return Err(ScramError::Nonce);
        }
        if last.channel_binding != BASE64_STANDARD.encode(self.gs2_header) {
            return Err(ScramError::ChannelBindingMismatch);
        }
        let auth_message = [&self.transcript, ",", last.without_proof].concat();
        Ok(Proof { proof: last.proof, auth_message })
    }
}

/// A client's proof, well-formed and of this exchange, but not yet checked.
pub struct Proof {
    proof: Zeroizing<[u8; 32]>,
    auth_message: String,
}

impl Proof {
    /// Checks it; gives the client's keys, which the proof reveals to who knows the verifier, and our last message.
    pub fn verify(&self, stored_key: &[u8; 32], server_key: &[u8; 32]) -> Result<(Keys, String), ScramError> {
        let signature = hmac_sha256(stored_key, self.auth_message.as_bytes());
        let keys = Keys {
            client_key: Zeroizing::new(xor(&self.proof, &signature)),
            server_key: Zeroizing::new(*server_key),
        };
        if keys.stored_key().ct_ne(stored_key).into() {
            return Err(ScramError::Proof);
        }
        let signature = hmac_sha256(server_key, self.auth_message.as_bytes());
        Ok((keys, ["v=", &BASE64_STANDARD.encode(signature)].concat()))
    }
}

/// The client's side, before its first message is answered.
pub struct ClientStart {
    nonce: String,
}

impl ClientStart {
    /// Starts an exchange; gives the first message. The user's name stays empty, as PostgreSQL takes it from the
    /// start-up message.
    pub fn new(nonce: String) -> (Self, String) {
        let first = format!("n,,n=,r={nonce}");
        (Self { nonce }, first)
    }

    /// Takes the server's first message.
    pub fn receive(self, server_first: &[u8]) -> Result<ClientProving, ScramError> {
        let first = ServerFirst::parse(server_first)?;
        let ours = first.nonce.get(..self.nonce.len()).filter(|_| first.nonce.len() > self.nonce.len());
        if ours != Some(self.nonce.as_str()) {
            return Err(ScramError::Nonce);
        }
        if first.iterations > ITERATIONS_MAX {
            return Err(ScramError::Iterations);
        }
        let without_proof = format!("c=biws,r={}", first.nonce);
        let auth_message = format!("n=,r={},{},{without_proof}", self.nonce, first.text);
        Ok(ClientProving { salt: first.salt, iterations: first.iterations, without_proof, auth_message })
    }
}

/// The client's side, knowing salt and iterations, in need of the keys.
pub struct ClientProving {
    salt: Vec<u8>,
    iterations: NonZeroU32,
    without_proof: String,
    auth_message: String,
}

impl ClientProving {
    /// The password's salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// PBKDF2 rounds.
    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// Gives the last message.
    pub fn prove(self, keys: &Keys) -> (ClientVerifying, String) {
        let signature = hmac_sha256(&keys.stored_key(), self.auth_message.as_bytes());
        let proof = BASE64_STANDARD.encode(xor(&keys.client_key, &signature));
        let signature = hmac_sha256(&*keys.server_key, self.auth_message.as_bytes());
        (ClientVerifying { signature }, format!("{},p={proof}", self.without_proof))
    }
}

/// The client's side, waiting for the server to prove itself.
pub struct ClientVerifying {
    signature: [u8; 32],
}

impl ClientVerifying {
    /// Takes the server's last message.
    pub fn receive(self, server_final: &[u8]) -> Result<(), ScramError> {
        match ServerFinal::parse(server_final)? {
            ServerFinal::Signature(theirs) if bool::from(theirs.ct_eq(&self.signature)) => Ok(()),
            ServerFinal::Signature(_) => Err(ScramError::Signature),
            ServerFinal::Error => Err(ScramError::Refused),
        }
    }
}

fn xor(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|at| left[at] ^ right[at])
}

#[cfg(test)]
mod tests;
