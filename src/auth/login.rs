//! The server's side of a client's login, from its StartupMessage to AuthenticationOk or a refusal.
//!
//! Owns the order of challenges and the judgement of answers. It refuses to look secrets up and to derive keys:
//! both are steps the caller takes and feeds back. Every transition consumes the state before it.
//!
//! Invariant: with the same [`Method`] and [`MockKind`], a user who does not exist is asked the same questions as one
//! who does, and is refused in the same words at the same place.

use std::num::NonZeroU32;

use bytes::BytesMut;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::derive::Derivation;
use super::md5::Md5Hash;
use super::scram::{self, Keys, MECHANISM, NONCE_BYTES, Proof, ScramError, ServerExchange};
use super::stored::{Stored, Verifier};
use super::{Credentials, SALT_BYTES};
use crate::wire::encode;

/// How a client is to prove who it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Method {
    /// It need not, and its user need not exist.
    Any,
    /// It need not, but its user must exist.
    Trust,
    /// By its password in clear text.
    Plain,
    /// By MD5, or SCRAM where the stored secret is a verifier.
    Md5,
    /// By SCRAM-SHA-256.
    Scram,
    /// By its TLS certificate; these are the users it may log in as, none where there is no certificate.
    Cert(Vec<String>),
    /// By its operating system user; these are the users it may log in as, none over TCP.
    Peer(Vec<String>),
    /// By its password in clear text, of which somebody else is the judge. Its user need not be known here.
    Outside(Authority),
    /// Not at all.
    Reject,
}

impl Method {
    /// Whether the client may be shown something that was drawn at random: a salt, a nonce.
    pub fn is_random(&self) -> bool {
        match self {
            Self::Md5 | Self::Scram => true,
            Self::Any | Self::Trust | Self::Plain | Self::Reject => false,
            Self::Cert(_) | Self::Peer(_) | Self::Outside(_) => false,
        }
    }
}

/// Who else judges passwords.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authority {
    /// An LDAP server.
    Ldap,
    /// The system's PAM.
    Pam,
}

/// What a user without a secret is asked for under [`Method::Md5`], where users with one are asked for either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MockKind {
    /// An MD5 answer: right where most users have plain or MD5 secrets.
    Md5,
    /// SCRAM: right where most users have verifiers.
    Scram,
}

/// What was found for a user.
#[derive(Clone, Debug)]
pub enum Secret {
    /// The user exists and has a secret.
    Known(Stored),
    /// The user exists and cannot log in by password.
    Absent,
    /// Nobody of that name, or no database to know them.
    Unknown,
}

/// May a secret remembered from an earlier login be given?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// A remembered one will do.
    Remembered,
    /// It was refused: only one asked for anew.
    Fresh,
}

/// Where a secret that is fed back came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// From a store that is always up to date: asking again is useless.
    Certain,
    /// Remembered from an earlier login: worth asking again before refusing anybody for it.
    Remembered,
}

/// What a login starts from.
#[derive(Clone, Debug)]
pub struct Request {
    /// The user's name of the StartupMessage.
    pub user: String,
    /// How it is to prove itself.
    pub method: Method,
    /// What users without a secret are asked for.
    pub mock: MockKind,
    /// `scram_iterations`: rounds shown where there is no verifier.
    pub iterations: NonZeroU32,
    /// What is drawn for it. Of no use where the method is not [`Method::is_random`].
    pub drawn: Drawn,
}

/// What a login shows that nobody could foresee.
#[derive(Clone, Debug, Default)]
pub struct Drawn {
    /// [`ProcessSecret::salt_for`](super::ProcessSecret::salt_for) this user.
    pub salt: [u8; SALT_BYTES],
    /// Fresh random bytes for an MD5 challenge.
    pub md5_salt: [u8; 4],
    /// Fresh random bytes for a SCRAM nonce.
    pub nonce: [u8; NONCE_BYTES],
}

/// What to do next.
pub enum Step {
    /// Look the user's secret up and [`supply`](NeedSecret::supply) it.
    NeedSecret(NeedSecret),
    /// Send a challenge, and [`answer`](Waiting::answer) with the body of the client's next `p` message.
    Send(Challenge, Waiting),
    /// Run the derivation away from the worker, and feed its [`keys`](Deriving::keys) back.
    Derive(Derivation, Deriving),
    /// Ask the authority whether the password is the user's, and feed its [`verdict`](Consulting::verdict) back.
    Consult(Authority, Consulting),
    /// The client is who it says.
    Done(Box<Authenticated>),
    /// It is not, or did not show it.
    Failed(AuthError),
}

/// An authentication request towards a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Challenge {
    /// AuthenticationCleartextPassword.
    Cleartext,
    /// AuthenticationMD5Password.
    Md5([u8; 4]),
    /// AuthenticationSASL with the one mechanism there is.
    Sasl,
    /// AuthenticationSASLContinue.
    SaslContinue(String),
}

impl Challenge {
    /// Appends it as the message it is.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Cleartext => encode::authentication_cleartext(out),
            Self::Md5(salt) => encode::authentication_md5(out, *salt),
            Self::Sasl => encode::authentication_sasl(out, &[MECHANISM]),
            Self::SaslContinue(message) => encode::authentication_sasl_continue(out, message.as_bytes()),
        }
    }
}

/// A client that has shown who it is.
#[derive(Debug)]
pub struct Authenticated {
    /// What its pool may log in to servers with.
    pub credentials: Credentials,
    /// The text of an AuthenticationSASLFinal, to be sent before AuthenticationOk.
    pub sasl_final: Option<String>,
}

/// A refusal. Its text is PgBouncer's; [`AuthError::reason`] is for the log alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthError {
    /// `trust`, but nobody of that name.
    #[error("\"trust\" authentication failed")]
    Trust,
    /// Clear text or MD5.
    #[error("password authentication failed")]
    Password(Reason),
    /// SCRAM.
    #[error("SASL authentication failed")]
    Sasl(Reason),
    /// The certificate is missing or another's.
    #[error("certificate authentication failed")]
    Certificate(Reason),
    /// The operating system user is another.
    #[error("unix socket login rejected")]
    Peer(Reason),
    /// An empty password is refused before it is compared, as PostgreSQL's recv_password_packet does.
    #[error("empty password returned by client")]
    EmptyPassword,
    /// Not SCRAM-SHA-256.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// The LDAP server says no, or nothing; the log has its words.
    #[error("LDAP authentication failed")]
    Ldap,
    /// PAM says no; the log has its words.
    #[error("PAM authentication failed")]
    Pam,
    /// The rules say no.
    #[error("login rejected")]
    Rejected,
    /// A message that is not of the form its challenge asked for.
    #[error("invalid password packet")]
    Malformed,
}

/// Why a client was refused, for the log; the client must not learn it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reason {
    /// No secret because no user.
    #[error("no such user")]
    NoSuchUser,
    /// The user has no secret, or an empty one, or it has expired.
    #[error("user has no password")]
    NoPassword,
    /// The password is another.
    #[error("wrong password")]
    WrongPassword,
    /// SCRAM cannot be done with an MD5 secret.
    #[error("user has an MD5 secret, which SCRAM cannot use")]
    Md5Secret,
    /// The secret was changed while the client was logging in.
    #[error("the secret has changed; the next login will use the new one")]
    Changed,
    /// The exchange itself failed.
    #[error("{0}")]
    Scram(ScramError),
    /// There is no certificate, or no Unix socket.
    #[error("client has no such identity")]
    NoIdentity,
    /// The certificate or operating system user names somebody else.
    #[error("the client's identity is not allowed to log in as this user")]
    WrongIdentity,
}

impl AuthError {
    /// Why, for the log.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Password(reason) | Self::Sasl(reason) | Self::Certificate(reason) | Self::Peer(reason) => {
                Some(*reason)
            }
            Self::Trust => Some(Reason::NoSuchUser),
            Self::EmptyPassword
            | Self::Ldap
            | Self::Pam
            | Self::Mechanism
            | Self::Rejected
            | Self::Malformed => None,
        }
    }
}

/// A login; see [`Login::start`].
pub struct Login;

impl Login {
    /// Starts with a client's request.
    pub fn start(request: Request) -> Step {
        match request.method {
            Method::Any => {
                Step::Done(Box::new(Authenticated { credentials: Credentials::default(), sasl_final: None }))
            }
            Method::Reject => Step::Failed(AuthError::Rejected),
            Method::Outside(_) => {
                ask(Challenge::Cleartext, Expecting::Cleartext, request, Secret::Unknown, Origin::Certain)
            }
            Method::Trust
            | Method::Plain
            | Method::Md5
            | Method::Scram
            | Method::Cert(_)
            | Method::Peer(_) => Step::NeedSecret(NeedSecret { request, answered: None }),
        }
    }
}

/// Waits for a user's secret.
pub struct NeedSecret {
    request: Request,
    /// The client's answer, where this is the second time of asking.
    answered: Option<Answered>,
}

impl NeedSecret {
    /// How new it must be.
    pub fn freshness(&self) -> Freshness {
        if self.answered.is_some() { Freshness::Fresh } else { Freshness::Remembered }
    }

    /// Goes on with what was found.
    pub fn supply(self, secret: Secret, origin: Origin) -> Step {
        let Self { request, answered } = self;
        match answered {
            Some(answered) => judge(Judged { request, answered, secret, origin: Origin::Certain }),
            None => challenge(request, secret, origin),
        }
    }
}

/// The first challenge, or the end where none is needed.
fn challenge(request: Request, secret: Secret, origin: Origin) -> Step {
    let exists = !matches!(secret, Secret::Unknown);
    match &request.method {
        Method::Any => done(secret, None, None),
        Method::Reject => Step::Failed(AuthError::Rejected),
        Method::Trust if exists => done(secret, None, None),
        Method::Trust => Step::Failed(AuthError::Trust),
        Method::Cert(names) => match identity(names, &request.user, exists) {
            Ok(()) => done(secret, None, None),
            Err(reason) => Step::Failed(AuthError::Certificate(reason)),
        },
        Method::Peer(names) => match identity(names, &request.user, exists) {
            Ok(()) => done(secret, None, None),
            Err(reason) => Step::Failed(AuthError::Peer(reason)),
        },
        Method::Plain | Method::Outside(_) => {
            ask(Challenge::Cleartext, Expecting::Cleartext, request, secret, origin)
        }
        Method::Md5 if !by_scram(&secret, request.mock) => {
            ask(Challenge::Md5(request.drawn.md5_salt), Expecting::Md5, request, secret, origin)
        }
        Method::Md5 | Method::Scram => ask(Challenge::Sasl, Expecting::ClientFirst, request, secret, origin),
    }
}

/// Whether the method `md5` asks for SCRAM.
fn by_scram(secret: &Secret, mock: MockKind) -> bool {
    match secret {
        Secret::Known(stored) => stored.is_scram(),
        Secret::Absent | Secret::Unknown => mock == MockKind::Scram,
    }
}

fn identity(names: &[String], user: &str, exists: bool) -> Result<(), Reason> {
    if names.is_empty() {
        return Err(Reason::NoIdentity);
    }
    if !exists {
        return Err(Reason::NoSuchUser);
    }
    if names.iter().any(|name| name == user) { Ok(()) } else { Err(Reason::WrongIdentity) }
}

fn ask(challenge: Challenge, expecting: Expecting, request: Request, secret: Secret, origin: Origin) -> Step {
    Step::Send(challenge, Waiting { request, secret, origin, expecting })
}

/// Waits for the client's answer to a challenge.
pub struct Waiting {
    request: Request,
    secret: Secret,
    origin: Origin,
    expecting: Expecting,
}

enum Expecting {
    Cleartext,
    Md5,
    ClientFirst,
    ClientFinal { exchange: ServerExchange, shown: Shown },
}

/// The salt and rounds that a client was shown, and by which it made its proof.
struct Shown {
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

impl Waiting {
    /// Goes on with the body of the client's `p` message.
    pub fn answer(self, body: &[u8]) -> Step {
        let Self { request, secret, origin, expecting } = self;
        let answered = match expecting {
            Expecting::Cleartext => match (password(body), &request.method) {
                (Ok(password), Method::Outside(authority)) => {
                    return consult(*authority, password, request.user);
                }
                (Ok(password), _) => Answered::Cleartext(Zeroizing::new(password.to_vec())),
                (Err(error), _) => return Step::Failed(error),
            },
            Expecting::Md5 => match password(body) {
                Ok(answer) => Answered::Md5(answer.to_vec()),
                Err(error) => return Step::Failed(error),
            },
            Expecting::ClientFirst => return server_first(body, request, secret, origin),
            Expecting::ClientFinal { exchange, shown } => match exchange.receive(body) {
                Ok(proof) => Answered::Proof { proof, shown },
                Err(error) => return Step::Failed(AuthError::Sasl(Reason::Scram(error))),
            },
        };
        judge(Judged { request, answered, secret, origin })
    }
}

/// Leaves the judgement to somebody else. A password that is not UTF-8 could not be used with servers.
fn consult(authority: Authority, password: &[u8], user: String) -> Step {
    match str::from_utf8(password) {
        Ok(password) => {
            let password = Zeroizing::new(password.to_owned());
            Step::Consult(authority, Consulting { authority, user, password })
        }
        Err(_) => Step::Failed(AuthError::Malformed),
    }
}

/// Waits for what somebody else says of a password.
pub struct Consulting {
    authority: Authority,
    user: String,
    password: Zeroizing<String>,
}

/// What an authority says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opinion {
    /// The password is the user's.
    Good,
    /// It is not, or nobody could be asked.
    Bad,
}

impl Consulting {
    /// Whose password it is said to be.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    pub fn password(&self) -> &Zeroizing<String> {
        &self.password
    }

    /// Goes on with the authority's opinion. The pool has the password that was good: it is stored nowhere else.
    pub fn verdict(self, opinion: Opinion) -> Step {
        match (opinion, self.authority) {
            (Opinion::Good, _) => Step::Done(Box::new(Authenticated {
                credentials: Credentials::password(&self.password),
                sasl_final: None,
            })),
            (Opinion::Bad, Authority::Ldap) => Step::Failed(AuthError::Ldap),
            (Opinion::Bad, Authority::Pam) => Step::Failed(AuthError::Pam),
        }
    }
}

/// The text of a PasswordMessage.
fn password(body: &[u8]) -> Result<&[u8], AuthError> {
    match body.split_last() {
        Some((0, [])) => Err(AuthError::EmptyPassword),
        Some((0, password)) if !password.contains(&0) => Ok(password),
        Some(_) | None => Err(AuthError::Malformed),
    }
}

/// Answers a SASLInitialResponse.
fn server_first(body: &[u8], request: Request, secret: Secret, origin: Origin) -> Step {
    let client_first = match sasl_initial(body) {
        Ok(message) => message,
        Err(error) => return Step::Failed(error),
    };
    let shown = match &secret {
        Secret::Known(Stored::Scram(verifier)) => {
            Shown { salt: verifier.salt.clone(), iterations: verifier.iterations }
        }
        Secret::Known(_) | Secret::Absent | Secret::Unknown => {
            Shown { salt: request.drawn.salt.to_vec(), iterations: request.iterations }
        }
    };
    let nonce = scram::nonce(request.drawn.nonce);
    match ServerExchange::begin(client_first, &shown.salt, shown.iterations, &nonce) {
        Ok((exchange, message)) => {
            let expecting = Expecting::ClientFinal { exchange, shown };
            ask(Challenge::SaslContinue(message), expecting, request, secret, origin)
        }
        Err(error) => Step::Failed(AuthError::Sasl(Reason::Scram(error))),
    }
}

/// Mechanism, length and message of a SASLInitialResponse. A client without a first message is refused: SCRAM
/// begins with one.
fn sasl_initial(body: &[u8]) -> Result<&[u8], AuthError> {
    let end = memchr::memchr(0, body).ok_or(AuthError::Malformed)?;
    let (mechanism, rest) = (&body[..end], &body[end + 1..]);
    if mechanism != MECHANISM.as_bytes() {
        return Err(AuthError::Mechanism);
    }
    let (length, message) = rest.split_first_chunk::<4>().ok_or(AuthError::Malformed)?;
    if usize::try_from(u32::from_be_bytes(*length)) != Ok(message.len()) {
        return Err(AuthError::Malformed);
    }
    Ok(message)
}

/// What a client said, kept until it is judged, and once more where the secret turns out to be old.
enum Answered {
    Cleartext(Zeroizing<Vec<u8>>),
    Md5(Vec<u8>),
    Proof { proof: Proof, shown: Shown },
}

struct Judged {
    request: Request,
    answered: Answered,
    secret: Secret,
    origin: Origin,
}

/// Compares an answer with a secret.
fn judge(judged: Judged) -> Step {
    let verdict = match &judged.secret {
        Secret::Unknown => Verdict::Refused(Reason::NoSuchUser),
        Secret::Absent => Verdict::Refused(Reason::NoPassword),
        Secret::Known(stored) if stored.is_empty() => Verdict::Refused(Reason::NoPassword),
        Secret::Known(stored) => compare(&judged, stored),
    };
    conclude(judged, verdict)
}

enum Verdict {
    Accepted { keys: Option<Keys>, sasl_final: Option<String> },
    Refused(Reason),
    Derive(Derivation),
}

impl Verdict {
    fn of(equal: bool) -> Self {
        match equal {
            true => Self::Accepted { keys: None, sasl_final: None },
            false => Self::Refused(Reason::WrongPassword),
        }
    }
}

fn compare(judged: &Judged, stored: &Stored) -> Verdict {
    let Request { user, drawn, .. } = &judged.request;
    let md5_salt = &drawn.md5_salt;
    match (&judged.answered, stored) {
        (Answered::Cleartext(typed), Stored::Plain(password)) => {
            Verdict::of(typed.ct_eq(password.as_bytes()).into())
        }
        (Answered::Cleartext(typed), Stored::Md5(hash)) => Verdict::of(Md5Hash::of(typed, user) == *hash),
        (Answered::Cleartext(typed), Stored::Scram(verifier)) => {
            Verdict::Derive(Derivation::new(typed, &verifier.salt, verifier.iterations))
        }
        (Answered::Md5(answer), Stored::Plain(password)) => {
            Verdict::of(Md5Hash::of(password.as_bytes(), user).accepts(answer, *md5_salt))
        }
        (Answered::Md5(answer), Stored::Md5(hash)) => Verdict::of(hash.accepts(answer, *md5_salt)),
        (Answered::Md5(_), Stored::Scram(_)) => Verdict::Refused(Reason::Changed),
        (Answered::Proof { shown, .. }, Stored::Plain(password)) => {
            Verdict::Derive(Derivation::new(password.as_bytes(), &shown.salt, shown.iterations))
        }
        (Answered::Proof { .. }, Stored::Md5(_)) => Verdict::Refused(Reason::Md5Secret),
        (Answered::Proof { proof, shown }, Stored::Scram(verifier)) => {
            if shown.salt != verifier.salt || shown.iterations != verifier.iterations {
                return Verdict::Refused(Reason::Changed);
            }
            match proof.verify(&verifier.stored_key, &verifier.server_key) {
                Ok((keys, message)) => Verdict::Accepted { keys: Some(keys), sasl_final: Some(message) },
                Err(error) => Verdict::Refused(Reason::Scram(error)),
            }
        }
    }
}

fn conclude(judged: Judged, verdict: Verdict) -> Step {
    match verdict {
        Verdict::Accepted { keys, sasl_final } => done(judged.secret, keys, sasl_final),
        Verdict::Derive(derivation) => Step::Derive(derivation.clone(), Deriving { judged, derivation }),
        Verdict::Refused(_) if judged.origin == Origin::Remembered => {
            Step::NeedSecret(NeedSecret { request: judged.request, answered: Some(judged.answered) })
        }
        Verdict::Refused(reason) => Step::Failed(match judged.answered {
            Answered::Cleartext(_) | Answered::Md5(_) => AuthError::Password(reason),
            Answered::Proof { .. } => AuthError::Sasl(reason),
        }),
    }
}

/// Waits for keys to be derived.
pub struct Deriving {
    judged: Judged,
    derivation: Derivation,
}

impl Deriving {
    /// Goes on with what [`Derivation::run`] gave.
    pub fn keys(self, keys: &Keys) -> Step {
        let verdict = match (&self.judged.answered, &self.judged.secret) {
            (Answered::Cleartext(_), Secret::Known(Stored::Scram(verifier))) => {
                match verifier.matches(keys) {
                    true => Verdict::Accepted { keys: Some(keys.clone()), sasl_final: None },
                    false => Verdict::Refused(Reason::WrongPassword),
                }
            }
            (Answered::Proof { proof, .. }, _) => {
                let verifier = Verifier::of(&self.derivation, keys);
                match proof.verify(&verifier.stored_key, &verifier.server_key) {
                    // The password itself is at hand, so its keys are of no use to the pool.
                    Ok((_, message)) => Verdict::Accepted { keys: None, sasl_final: Some(message) },
                    Err(error) => Verdict::Refused(Reason::Scram(error)),
                }
            }
            (Answered::Cleartext(_) | Answered::Md5(_), _) => Verdict::Refused(Reason::WrongPassword),
        };
        conclude(self.judged, verdict)
    }
}

fn done(secret: Secret, keys: Option<Keys>, sasl_final: Option<String>) -> Step {
    let secret = match secret {
        Secret::Known(stored) => Some(std::sync::Arc::new(stored)),
        Secret::Absent | Secret::Unknown => None,
    };
    let credentials = Credentials { secret, keys: keys.map(std::sync::Arc::new) };
    Step::Done(Box::new(Authenticated { credentials, sasl_final }))
}

#[cfg(test)]
mod tests;
