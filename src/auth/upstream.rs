//! Our own login to a PostgreSQL server: the answers to its challenges.
//!
//! Owns the choice of answer for each kind of stored secret and the check that the server knows the secret, too.
//! Messages other than authentication requests are none of its business. It refuses AuthenticationOk from a server
//! that began SCRAM and has not proved itself.

use bytes::{BufMut, Bytes, BytesMut};

use super::Credentials;
use super::derive::Derivation;
use super::md5::Md5Hash;
use super::scram::{
    self, ClientProving, ClientStart, ClientVerifying, Keys, MECHANISM, NONCE_BYTES, ScramError,
};
use super::stored::Stored;
use crate::wire::{Backend, encode};

/// Why we cannot log in. The texts reach waiting clients and are PgBouncer's where it has one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The stored secret cannot answer this challenge: an MD5 secret where SCRAM is asked for, a verifier where MD5 or
    /// clear text is, a verifier without the keys of a client that logged in.
    #[error("server login failed: wrong password type")]
    WrongPasswordType,
    /// SASL, but not SCRAM-SHA-256.
    #[error("server login failed: none of the server's SASL authentication mechanisms are supported")]
    NoMechanism,
    /// The server does not know the secret: it is not the one it pretends to be.
    #[error("server login failed: invalid server signature")]
    InvalidSignature,
    /// Its last SCRAM message can't be read.
    #[error("server login failed: failed to verify server signature")]
    UnverifiableSignature,
    /// Another breach of the SCRAM exchange.
    #[error("server login failed: {0}")]
    Scram(ScramError),
    /// A message that has no place here.
    #[error("server login failed: unexpected authentication message")]
    OutOfOrder,
    /// GSSAPI, SSPI, Kerberos and whatever comes.
    #[error("server login failed: unsupported authentication method {0}")]
    UnsupportedMethod(u32),
}

/// What to do about an authentication message.
#[derive(Debug)]
pub enum Answer {
    /// Send this whole message and read on.
    Send(Bytes),
    /// Run the derivation away from the worker and feed its result to [`Upstream::on_keys`].
    Derive(Derivation),
    /// Nothing to send: read on.
    Wait,
    /// AuthenticationOk: we are in.
    Done,
}

/// A login to a server, from its first authentication request to AuthenticationOk.
pub struct Upstream {
    user: String,
    credentials: Credentials,
    nonce: [u8; NONCE_BYTES],
    state: State,
}

enum State {
    /// Nothing has been asked.
    Start,
    /// Clear text or MD5 has been sent.
    Answered,
    /// SASLInitialResponse has been sent.
    ClientFirst(ClientStart),
    /// Keys are being derived.
    Deriving(ClientProving),
    /// The proof has been sent.
    ClientFinal(ClientVerifying),
    /// The server has proved itself.
    Verified,
    /// AuthenticationOk, or an error.
    Over,
}

impl Upstream {
    /// A login as `user`; the nonce is fresh random bytes.
    pub fn new(user: impl Into<String>, credentials: Credentials, nonce: [u8; NONCE_BYTES]) -> Self {
        Self { user: user.into(), credentials, nonce, state: State::Start }
    }

    /// Takes an authentication request. Any other message is an error: ErrorResponse is the caller's to read.
    pub fn on_auth(&mut self, message: &Backend<'_>) -> Result<Answer, UpstreamError> {
        match (std::mem::replace(&mut self.state, State::Over), message) {
            (State::Start, Backend::AuthenticationCleartext) => self.cleartext(),
            (State::Start, Backend::AuthenticationMd5(salt)) => self.md5(*salt),
            (State::Start, Backend::AuthenticationSasl(mechanisms)) => self.sasl(mechanisms),
            (State::ClientFirst(client), Backend::AuthenticationSaslContinue(data)) => {
                let proving = client.receive(data).map_err(UpstreamError::Scram)?;
                self.prove(proving)
            }
            (State::ClientFinal(client), Backend::AuthenticationSaslFinal(data)) => {
                client.receive(data).map_err(|error| match error {
                    ScramError::Signature => UpstreamError::InvalidSignature,
                    _ => UpstreamError::UnverifiableSignature,
                })?;
                self.state = State::Verified;
                Ok(Answer::Wait)
            }
            (State::Start | State::Answered | State::Verified, Backend::AuthenticationOk) => Ok(Answer::Done),
            // As libpq, we don't let a server off that has not proved to know the secret.
            (_, Backend::AuthenticationOk) => Err(UpstreamError::InvalidSignature),
            (_, Backend::AuthenticationOther(method)) => Err(UpstreamError::UnsupportedMethod(*method)),
            (_, _) => Err(UpstreamError::OutOfOrder),
        }
    }

    /// Goes on with what [`Answer::Derive`]'s derivation gave.
    pub fn on_keys(&mut self, keys: &Keys) -> Result<Answer, UpstreamError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Deriving(proving) => Ok(self.send_proof(proving, keys)),
            _ => Err(UpstreamError::OutOfOrder),
        }
    }

    fn cleartext(&mut self) -> Result<Answer, UpstreamError> {
        self.state = State::Answered;
        match self.credentials.secret.as_deref() {
            Some(Stored::Plain(password)) => Ok(send_password(password)),
            None => Ok(send_password("")),
            Some(Stored::Md5(_) | Stored::Scram(_)) => Err(UpstreamError::WrongPasswordType),
        }
    }

    fn md5(&mut self, salt: [u8; 4]) -> Result<Answer, UpstreamError> {
        self.state = State::Answered;
        let hash = match self.credentials.secret.as_deref() {
            Some(Stored::Plain(password)) => Md5Hash::of(password.as_bytes(), &self.user),
            Some(Stored::Md5(hash)) => hash.clone(),
            None => Md5Hash::of(b"", &self.user),
            Some(Stored::Scram(_)) => return Err(UpstreamError::WrongPasswordType),
        };
        Ok(send_password(&hash.answer(salt)))
    }

    fn sasl(&mut self, mechanisms: &[&str]) -> Result<Answer, UpstreamError> {
        if !mechanisms.contains(&MECHANISM) {
            return Err(UpstreamError::NoMechanism);
        }
        match (self.credentials.secret.as_deref(), &self.credentials.keys) {
            (Some(Stored::Plain(_)) | None, _) | (Some(Stored::Scram(_)), Some(_)) => {}
            (Some(Stored::Scram(_)), None) | (Some(Stored::Md5(_)), _) => {
                return Err(UpstreamError::WrongPasswordType);
            }
        }
        let (client, first) = ClientStart::new(scram::nonce(self.nonce));
        self.state = State::ClientFirst(client);
        let mut body = BytesMut::with_capacity(first.len() + MECHANISM.len() + 5);
        encode::c_str(&mut body, MECHANISM.as_bytes());
        body.put_u32(u32::try_from(first.len()).expect("a first message is a nonce and a few bytes"));
        body.put_slice(first.as_bytes());
        Ok(send(&body))
    }

    fn prove(&mut self, proving: ClientProving) -> Result<Answer, UpstreamError> {
        let password = match (self.credentials.secret.as_deref(), &self.credentials.keys) {
            (Some(Stored::Plain(password)), _) => password.as_bytes(),
            (None, _) => b"",
            (Some(Stored::Scram(_)), Some(keys)) => {
                let keys = keys.clone();
                return Ok(self.send_proof(proving, &keys));
            }
            (Some(Stored::Scram(_)), None) | (Some(Stored::Md5(_)), _) => {
                return Err(UpstreamError::WrongPasswordType);
            }
        };
        let derivation = Derivation::new(password, proving.salt(), proving.iterations());
        self.state = State::Deriving(proving);
        Ok(Answer::Derive(derivation))
    }

    fn send_proof(&mut self, proving: ClientProving, keys: &Keys) -> Answer {
        let (verifying, last) = proving.prove(keys);
        self.state = State::ClientFinal(verifying);
        send(last.as_bytes())
    }
}

fn send_password(password: &str) -> Answer {
    let mut body = BytesMut::with_capacity(password.len() + 1);
    encode::c_str(&mut body, password.as_bytes());
    send(&body)
}

fn send(body: &[u8]) -> Answer {
    let mut message = BytesMut::with_capacity(body.len() + crate::wire::frame::HEADER);
    encode::password(&mut message, body);
    Answer::Send(message.freeze())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use base64::prelude::{BASE64_STANDARD, Engine as _};

    use super::super::scram::ServerExchange;
    use super::super::stored::Verifier;
    use super::*;

    const ROUNDS: NonZeroU32 = NonZeroU32::new(8).expect("not zero");

    fn derivation() -> Derivation {
        Derivation::new(b"secret", b"salt", ROUNDS)
    }

    fn verifier() -> Verifier {
        Verifier::of(&derivation(), &derivation().run())
    }

    fn credentials(secret: Stored) -> Credentials {
        Credentials { secret: Some(Arc::new(secret)), keys: None }
    }

    fn upstream(credentials: Credentials) -> Upstream {
        Upstream::new("joe", credentials, [9; NONCE_BYTES])
    }

    fn body(answer: Answer) -> Vec<u8> {
        let Answer::Send(message) = answer else { panic!("nothing to send: {answer:?}") };
        assert_eq!(message[0], b'p');
        assert_eq!(u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize, message.len() - 1);
        message[5..].to_vec()
    }

    #[test]
    fn each_secret_answers_what_it_can() {
        let md5 = || Stored::Md5(Md5Hash::of(b"secret", "joe"));
        let plain = || Credentials::password("secret");
        let sasl = || Backend::AuthenticationSasl(vec!["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
        let md5_challenge = || Backend::AuthenticationMd5([1, 2, 3, 4]);
        let keys = || Credentials {
            keys: Some(Arc::new(derivation().run())),
            ..credentials(Stored::Scram(verifier()))
        };
        for (name, credentials, challenge, answers) in [
            ("plain to clear text", plain(), Backend::AuthenticationCleartext, true),
            ("plain to md5", plain(), md5_challenge(), true),
            ("plain to scram", plain(), sasl(), true),
            ("md5 to clear text", credentials(md5()), Backend::AuthenticationCleartext, false),
            ("md5 to md5", credentials(md5()), md5_challenge(), true),
            ("md5 to scram", credentials(md5()), sasl(), false),
            ("verifier to clear text", keys(), Backend::AuthenticationCleartext, false),
            ("verifier to md5", keys(), md5_challenge(), false),
            ("verifier with keys to scram", keys(), sasl(), true),
            ("verifier alone to scram", credentials(Stored::Scram(verifier())), sasl(), false),
            ("nothing to clear text", Credentials::default(), Backend::AuthenticationCleartext, true),
            ("nothing to md5", Credentials::default(), md5_challenge(), true),
            ("nothing to scram", Credentials::default(), sasl(), true),
        ] {
            match upstream(credentials).on_auth(&challenge) {
                Ok(Answer::Send(_)) => assert!(answers, "{name}"),
                Err(UpstreamError::WrongPasswordType) => assert!(!answers, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn passwords_go_out_as_asked_for() {
        let answer = upstream(Credentials::password("secret")).on_auth(&Backend::AuthenticationCleartext);
        assert_eq!(body(answer.unwrap()), b"secret\0");
        let theirs = postgres_protocol::authentication::md5_hash(b"joe", b"secret", [1, 2, 3, 4]);
        for credentials in
            [Credentials::password("secret"), credentials(Stored::Md5(Md5Hash::of(b"secret", "joe")))]
        {
            let answer = upstream(credentials).on_auth(&Backend::AuthenticationMd5([1, 2, 3, 4]));
            assert_eq!(body(answer.unwrap()), format!("{theirs}\0").as_bytes());
        }
    }

    /// Plays a server that knows `verifier`; gives what the login says at its last message.
    fn scram(mut upstream: Upstream, verifier: &Verifier) -> Result<(Upstream, Answer), UpstreamError> {
        let initial = body(upstream.on_auth(&Backend::AuthenticationSasl(vec![MECHANISM]))?);
        let (exchange, first) =
            ServerExchange::begin(&initial[MECHANISM.len() + 5..], &verifier.salt, ROUNDS, "server").unwrap();
        let answer = match upstream.on_auth(&Backend::AuthenticationSaslContinue(first.as_bytes()))? {
            Answer::Derive(derivation) => upstream.on_keys(&derivation.run())?,
            answer => answer,
        };
        let proof = exchange.receive(&body(answer)).unwrap();
        let last = match proof.verify(&verifier.stored_key, &verifier.server_key) {
            Ok((_, last)) => last,
            Err(_) => format!("v={}", BASE64_STANDARD.encode([0; 32])),
        };
        let answer = upstream.on_auth(&Backend::AuthenticationSaslFinal(last.as_bytes()))?;
        Ok((upstream, answer))
    }

    #[test]
    fn scram_runs_to_its_end_by_password_and_by_keys() {
        let by_keys = Credentials {
            keys: Some(Arc::new(derivation().run())),
            ..credentials(Stored::Scram(verifier()))
        };
        for credentials in [Credentials::password("secret"), by_keys] {
            let (mut upstream, answer) = scram(upstream(credentials), &verifier()).unwrap();
            assert!(matches!(answer, Answer::Wait));
            assert!(matches!(upstream.on_auth(&Backend::AuthenticationOk), Ok(Answer::Done)));
        }
    }

    #[test]
    fn a_server_that_does_not_know_the_secret_is_refused() {
        let wrong = scram(upstream(Credentials::password("other")), &verifier());
        assert_eq!(wrong.err(), Some(UpstreamError::InvalidSignature));

        let mut early = upstream(Credentials::password("secret"));
        early.on_auth(&Backend::AuthenticationSasl(vec![MECHANISM])).unwrap();
        assert_eq!(early.on_auth(&Backend::AuthenticationOk).err(), Some(UpstreamError::InvalidSignature));
    }

    #[test]
    fn messages_out_of_order_are_errors() {
        let login = || upstream(Credentials::password("secret"));
        for (name, message, error) in [
            ("continue first", Backend::AuthenticationSaslContinue(b"r=x"), UpstreamError::OutOfOrder),
            ("final first", Backend::AuthenticationSaslFinal(b"v=x"), UpstreamError::OutOfOrder),
            ("gssapi", Backend::AuthenticationOther(7), UpstreamError::UnsupportedMethod(7)),
            ("other mechanism", Backend::AuthenticationSasl(vec!["OAUTHBEARER"]), UpstreamError::NoMechanism),
            ("not authentication", Backend::Other(b'x'), UpstreamError::OutOfOrder),
        ] {
            assert_eq!(login().on_auth(&message).err(), Some(error), "{name}");
        }
        assert!(matches!(login().on_auth(&Backend::AuthenticationOk), Ok(Answer::Done)), "trust");
        assert_eq!(login().on_keys(&derivation().run()).err(), Some(UpstreamError::OutOfOrder));
        let mut twice = login();
        twice.on_auth(&Backend::AuthenticationCleartext).unwrap();
        assert_eq!(twice.on_auth(&Backend::AuthenticationCleartext).err(), Some(UpstreamError::OutOfOrder));
    }
}
