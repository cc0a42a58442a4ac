//! A lobby with a few users and databases, and a client that says what a test has it say.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::{Buf as _, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::auth::scram::MECHANISM;
use crate::auth::stored::Verifier;
use crate::auth::{Derivation, KeyCache, ProcessSecret};
use crate::client::login::{Admitted, House, Lobby, LoggedIn, Welcome};
use crate::client::secrets::{AuthQuery, AuthQueryError, Found, SecretMemory};
use crate::client::{Census, End, READ_BYTES, Refusal};
use crate::config::{AuthType, Config, Database, Secret, Settings, SslMode};
use crate::ids::{DatabaseName, UserName};
use crate::net::{Handshakes, Stream, Tls};
use crate::wire::{Backend, CancelKey, Header, Report, encode, startup};

/// The password of every user here.
pub const PASSWORD: &str = "secret";

/// A verifier of `password`, cheap enough for tests.
pub fn verifier(password: &str) -> String {
    let rounds = NonZeroU32::new(8).unwrap();
    let derivation = Derivation::new(password.as_bytes(), b"0123456789abcdef", rounds);
    let verifier = Verifier::of(&derivation, &derivation.run());
    format!(
        "SCRAM-SHA-256${rounds}:{}${}:{}",
        BASE64_STANDARD.encode(&verifier.salt),
        BASE64_STANDARD.encode(*verifier.stored_key),
        BASE64_STANDARD.encode(*verifier.server_key),
    )
}

/// Users `plain`, `md5` and `scram` by their secrets, `admin` and `viewer` for the console; databases `d`, `forced`
/// (as the user `owner`), `closed` and `asking` (by `auth_query`).
pub fn config(auth_type: AuthType) -> Config {
    let digest = <md5::Md5 as md5::Digest>::digest(format!("{PASSWORD}md5"));
    let stored = digest.iter().fold("md5".to_owned(), |text, byte| format!("{text}{byte:02x}"));
    let secrets = [
        ("plain", PASSWORD.to_owned()),
        ("md5", stored),
        ("scram", verifier(PASSWORD)),
        ("admin", PASSWORD.to_owned()),
        ("viewer", PASSWORD.to_owned()),
        ("broken", "SCRAM-SHA-256$nonsense".to_owned()),
        ("empty", String::new()),
        ("owner", "of the servers".to_owned()),
    ];
    let databases = [
        ("d", Database::default()),
        ("forced", Database { user: Some("owner".into()), ..Database::default() }),
        ("closed", Database { disabled: true, ..Database::default() }),
        ("asking", Database { auth_user: Some("asker".into()), ..Database::default() }),
    ];
    Config {
        settings: Settings {
            auth_type,
            admin_users: vec!["admin".into()],
            stats_users: vec!["viewer".into()],
            server_tls_sslmode: SslMode::Disable,
            scram_iterations: 8,
            ..Settings::default()
        },
        secrets: secrets.into_iter().map(|(user, text)| (user.into(), Secret::new(text))).collect(),
        databases: databases.into_iter().map(|(name, entry)| (name.into(), entry)).collect(),
        ..Config::default()
    }
}

/// Stands in for pools.
#[derive(Clone, Default)]
pub struct Fake {
    /// What `auth_query` finds.
    pub found: Rc<RefCell<HashMap<UserName, Option<Secret>>>>,
    /// Under which name, where not under that which is asked for.
    pub name: Rc<RefCell<Option<UserName>>>,
    /// What it fails with instead.
    pub failure: Rc<RefCell<Option<AuthQueryError>>>,
    /// What it was asked.
    pub asked: Rc<RefCell<Vec<AuthQuery>>>,
    pub disabled: Rc<RefCell<HashSet<DatabaseName>>>,
    pub shutting_down: Rc<RefCell<bool>>,
}

impl House for Fake {
    async fn auth_query(&self, query: &AuthQuery) -> Result<Option<Found>, AuthQueryError> {
        self.asked.borrow_mut().push(query.clone());
        match self.failure.borrow().clone() {
            Some(failure) => Err(failure),
            None => {
                let name = self.name.borrow().clone().unwrap_or_else(|| query.user.clone());
                let secret = self.found.borrow().get(&query.user).cloned();
                Ok(secret.map(|secret| Found { name, secret }))
            }
        }
    }

    fn is_disabled(&self, database: &DatabaseName) -> bool {
        self.disabled.borrow().contains(database)
    }

    fn is_shutting_down(&self) -> bool {
        *self.shutting_down.borrow()
    }
}

pub fn lobby(config: Config) -> Lobby<Fake> {
    let tls = Tls::of(&config.settings).unwrap();
    let disabled = config.databases.iter().filter(|(_, entry)| entry.disabled).map(|(name, _)| name.clone());
    let disabled = Rc::new(RefCell::new(disabled.collect()));
    Lobby {
        config: Arc::new(ArcSwap::from_pointee(config)),
        tls: Arc::new(ArcSwap::from_pointee(tls)),
        handshakes: Handshakes::start(1).unwrap(),
        process_secret: Arc::new(ProcessSecret::new([3; 32])),
        keys: Arc::new(KeyCache::default()),
        secrets: Arc::new(SecretMemory::default()),
        census: Arc::new(Census::default()),
        house: Fake { disabled, ..Fake::default() },
    }
}

/// A message as the client saw it.
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

/// The client's end.
pub struct Client {
    pub stream: Stream,
    input: BytesMut,
}

impl Client {
    pub fn new(stream: Stream) -> Self {
        Self { stream, input: BytesMut::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub async fn startup(&mut self, parameters: &[(&str, &str)]) {
        self.startup_minor(0, parameters).await;
    }

    pub async fn startup_minor(&mut self, minor: u16, parameters: &[(&str, &str)]) {
        let mut packet = BytesMut::new();
        startup::encode_startup(&mut packet, minor, parameters.iter().copied());
        self.send(&packet).await;
    }

    pub async fn ssl_request(&mut self) -> u8 {
        let mut packet = BytesMut::new();
        startup::encode_ssl_request(&mut packet);
        self.send(&packet).await;
        self.stream.read_u8().await.unwrap()
    }

    pub async fn password(&mut self, body: &[u8]) {
        let mut message = BytesMut::new();
        encode::password(&mut message, body);
        self.send(&message).await;
    }

    /// The next message; `None` at the end.
    pub async fn receive(&mut self) -> Option<Message> {
        loop {
            if let Some(header) = Header::peek(&self.input).unwrap()
                && self.input.len() >= header.total()
            {
                let mut message = self.input.split_to(header.total());
                message.advance(crate::wire::frame::HEADER);
                return Some(Message { tag: header.tag, body: message.to_vec() });
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// All that comes up to the end, unparsed.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = self.input.to_vec();
        let _ = self.stream.read_to_end(&mut bytes).await;
        bytes
    }

    /// The error that comes next, other messages left out.
    pub async fn error(&mut self) -> Option<Report> {
        while let Some(message) = self.receive().await {
            if message.tag == b'E' {
                return Some(Report::parse(&message.body).unwrap());
            }
        }
        None
    }

    /// Logs in as `user`, answering whatever is asked with `password`. Gives the tags and the error, if any.
    pub async fn log_in(mut self, parameters: &[(&str, &str)], password: &str) -> Seen {
        let user = parameters.iter().find(|(name, _)| *name == "user").map_or("", |(_, value)| *value);
        self.startup(parameters).await;
        let mut seen = Seen::default();
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        while let Some(message) = self.receive().await {
            match Backend::decode(message.tag, &message.body).unwrap() {
                Backend::AuthenticationCleartext => {
                    seen.asked.push("cleartext");
                    self.password(format!("{password}\0").as_bytes()).await;
                }
                Backend::AuthenticationMd5(salt) => {
                    seen.asked.push("md5");
                    let answer = md5_hash(user.as_bytes(), password.as_bytes(), salt);
                    self.password(format!("{answer}\0").as_bytes()).await;
                }
                Backend::AuthenticationSasl(mechanisms) => {
                    assert_eq!(mechanisms, [MECHANISM]);
                    seen.asked.push("sasl");
                    self.password(&initial(scram.message())).await;
                }
                Backend::AuthenticationSaslContinue(data) => {
                    scram.update(data).unwrap();
                    self.password(scram.message()).await;
                }
                Backend::AuthenticationSaslFinal(data) => scram.finish(data).unwrap(),
                Backend::AuthenticationOk => seen.asked.push("ok"),
                Backend::ErrorResponse(report) => seen.error = Some(report),
                Backend::ReadyForQuery(_) => return seen,
                _ => {}
            }
        }
        seen
    }
}

/// A SASLInitialResponse.
pub fn initial(message: &[u8]) -> Vec<u8> {
    let mut body = MECHANISM.as_bytes().to_vec();
    body.push(0);
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    body
}

/// What a client saw of its login.
#[derive(Debug, Default)]
pub struct Seen {
    pub asked: Vec<&'static str>,
    pub error: Option<Report>,
}

/// Welcomes whoever was let in, as a pool would; gives what the login came to. What the client has sent already is
/// received first, as a worker does.
pub async fn serve(lobby: &Lobby<Fake>, stream: Stream) -> Result<Entered, End> {
    let peer = stream.peer_addr()?;
    let (stream, mut bytes) = (stream.detach()?, [0; READ_BYTES]);
    let count = stream.receive_now(&mut bytes);
    match lobby.clone().admit(stream.attach()?, BytesMut::from(&bytes[..count]), peer).await? {
        Admitted::Cancel { key, .. } => Ok(Entered::Cancel(key)),
        Admitted::Client(client) => {
            let LoggedIn { ref user, ref destination, ref parameters, ref credentials, minor, .. } = *client;
            let entered = Entered::Client {
                user: user.to_string(),
                destination: format!("{destination:?}"),
                parameters: parameters.clone(),
                secret: credentials.secret.as_ref().map(|secret| format!("{secret:?}")),
                keys: credentials.keys.is_some(),
                minor,
            };
            let key = CancelKey::new(1, &[1, 2, 3, 4]).unwrap();
            let mut parameters = BytesMut::new();
            crate::wire::encode::parameter_status(&mut parameters, "server_version", "17");
            let welcome = Welcome { parameters: &parameters, key: &key, notice: None };
            drop(client.welcome(&welcome).await?);
            Ok(entered)
        }
    }
}

/// How a login ended well.
#[derive(Debug, PartialEq)]
pub enum Entered {
    Client {
        user: String,
        destination: String,
        parameters: Vec<(String, String)>,
        secret: Option<String>,
        keys: bool,
        minor: u16,
    },
    Cancel(CancelKey),
}

/// A whole login over a socket pair.
pub async fn log_in(
    lobby: &Lobby<Fake>,
    parameters: &[(&str, &str)],
    password: &str,
) -> (Seen, Result<Entered, End>) {
    let (near, far) = Stream::pair().unwrap();
    tokio::join!(Client::new(far).log_in(parameters, password), serve(lobby, near))
}

/// The message and SQLSTATE of a refusal as the client saw it.
pub fn refused(seen: &Seen) -> Option<(&str, &str)> {
    seen.error.as_ref().map(|report| (report.sqlstate.as_str(), report.message.as_str()))
}

/// Plays a client that does as it likes against a lobby.
pub async fn play<T>(
    lobby: &Lobby<Fake>,
    client: impl AsyncFnOnce(Client) -> T,
) -> (T, Result<Entered, End>) {
    let (near, far) = Stream::pair().unwrap();
    tokio::join!(client(Client::new(far)), serve(lobby, near))
}

/// The refusal that a login came to.
pub fn refusal(outcome: Result<Entered, End>) -> Refusal {
    match outcome {
        Err(End::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}
