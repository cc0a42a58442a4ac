//! Opening a connection: dial, TLS, start-up message, authentication, parameters, `connect_query`.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tracing::{Instrument as _, debug, info, warn};

use super::inbox::{Inbox, InboxError};
use super::query::{self, QueryError};
use super::{FOREVER, ServerConn, Target};
use crate::auth::upstream::{Answer, Upstream, UpstreamError};
use crate::auth::{Derivation, KeyCache, Keys, scram};
use crate::config::{Host, SslMode};
use crate::ids::{IdSequence, ServerId, WorkerId};
use crate::net::{Address, DialError, Dialer, Endpoint, HandshakeError, Handshakes, Stream, Tls};
use crate::session::params::Values;
use crate::session::server::Server;
use crate::stats::{Replication, server_span};
use crate::wire::{Backend, CancelKey, Report, SqlState, TxStatus, startup};

/// How many messages a login may have: PostgreSQL reports some fifteen parameters, and notices may come.
pub const LOGIN_MESSAGES_MAX: usize = 1000;

/// How much longer than the dialer the login as a whole may take.
const DIALER_FIRST: Duration = Duration::from_millis(20);

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server can't be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// TLS did not come about.
    #[error(transparent)]
    Tls(#[from] HandshakeError),
    /// The server has no TLS, and `server_tls_sslmode` demands it.
    #[error("server refused SSL")]
    TlsRefused,
    /// Bytes came where the TLS handshake begins: somebody injects them.
    #[error("received unencrypted data after SSL response")]
    BytesBeforeTls,
    /// The answer to SSLRequest is neither `S` nor `N`.
    #[error("bad sslreq answer: '{}'", .0.escape_ascii())]
    TlsAnswer(u8),
    /// The server says no, in its own words.
    #[error("{}", .0.message)]
    Rejected(Box<Report>),
    /// We can't answer what the server asks of us.
    #[error(transparent)]
    Auth(#[from] UpstreamError),
    /// The connection broke, or what came is no PostgreSQL.
    #[error(transparent)]
    Conversation(#[from] InboxError),
    /// A message that no login has.
    #[error("unknown pkt from server during login: {0}")]
    Unexpected(String),
    /// More than [`LOGIN_MESSAGES_MAX`] messages.
    #[error("the server's login does not end")]
    Endless,
    /// `connect_query` broke the connection or left a transaction open.
    #[error("exec_on_connect query failed: {0}")]
    ConnectQuery(QueryError),
    /// Not done within `server_connect_timeout`.
    #[error("connect timeout")]
    Timeout,
    /// The process is ending.
    #[error("server shutting down")]
    Ended,
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Conversation(InboxError::Io(error))
    }
}

impl ConnectError {
    /// What a client that waited for this connection is told: the server's own error as it stands, else ours.
    pub fn report(&self) -> Report {
        let sqlstate = match self {
            Self::Rejected(report) => return (**report).clone(),
            Self::Dial(_) | Self::Timeout => SqlState::UNABLE_TO_CONNECT,
            Self::Tls(_) | Self::TlsRefused | Self::BytesBeforeTls | Self::TlsAnswer(_) => {
                SqlState::CONNECTION_REJECTED
            }
            Self::Auth(_) => SqlState::INVALID_AUTHORIZATION,
            Self::Conversation(_) | Self::ConnectQuery(_) => SqlState::CONNECTION_FAILURE,
            Self::Unexpected(_) | Self::Endless => SqlState::PROTOCOL_VIOLATION,
            Self::Ended => SqlState::ADMIN_SHUTDOWN,
        };
        Report::fatal(sqlstate, self.to_string())
    }

    /// PgBouncer's word for it, as its log has it after `closing because:`.
    fn reason(&self, target: &Target) -> String {
        match self {
            Self::Rejected(_) if target.replication != Replication::None => "login failed".into(),
            Self::Dial(DialError::Lookup { .. }) => "server DNS lookup failed".into(),
            // No connection within the limit is one that failed; "connect timeout" is said of logins.
            Self::Dial(DialError::Refused { .. } | DialError::Timeout(_)) => "connect failed".into(),
            _ => self.to_string(),
        }
    }

    fn log(&self, target: &Target, begun: Instant) {
        match self {
            Self::Rejected(report) => {
                warn!("server login failed: {} {}", report.severity.word(), report.message)
            }
            error => warn!("cannot connect to server: {error}"),
        }
        if target.log_disconnections {
            info!("closing because: {} (age={}s)", self.reason(target), begun.elapsed().as_secs());
        }
    }
}

/// Opens connections to servers. One for the whole process.
#[derive(Clone)]
pub struct Connector {
    /// Opens sockets.
    pub dialer: Arc<Dialer>,
    /// Does handshakes and derives keys.
    pub handshakes: Handshakes,
    /// The TLS configuration in force.
    pub tls: Arc<ArcSwap<Tls>>,
    /// Keys that were derived before.
    pub keys: Arc<KeyCache>,
    /// Numbers for connections.
    pub ids: Arc<IdSequence>,
}

/// One try to open a connection.
struct Attempt {
    id: ServerId,
    worker: WorkerId,
    created: Instant,
}

/// What a server says of itself at login.
struct Welcome {
    parameters: Values,
    key: Option<CancelKey>,
}

/// A stream on which a start-up message may go out.
struct Opened {
    stream: Stream,
    endpoint: Endpoint,
    tls: Option<Arc<Tls>>,
}

impl Connector {
    /// Opens a connection for a worker, which must be the calling one. Cancel safe: dropping it closes what it
    /// opened.
    ///
    /// Errors: see [`ConnectError`]; nothing is left open.
    pub async fn connect(&self, target: &Target, worker: WorkerId) -> Result<ServerConn, ConnectError> {
        let limit = if target.timeout.is_zero() { FOREVER } else { target.timeout };
        let attempt = Attempt { id: self.ids.server(), worker, created: Instant::now() };
        let span = server_span(attempt.id, &target.pool, &target.place());
        let connecting = self.connect_until(target, &attempt, attempt.created + limit);
        // The dialer, which has the same limit, is to be the first to say so.
        let done = match timeout(limit + DIALER_FIRST, connecting.instrument(span.clone())).await {
            Ok(done) => done,
            Err(_) => Err(ConnectError::Timeout),
        };
        if let Err(error) = &done {
            span.in_scope(|| error.log(target, attempt.created));
        }
        done
    }

    async fn connect_until(
        &self,
        target: &Target,
        attempt: &Attempt,
        until: Instant,
    ) -> Result<ServerConn, ConnectError> {
        let opened = self.open(target, until).await?;
        let Opened { mut stream, endpoint, tls } = opened;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        if let Address::Tcp(address) = &peer {
            tracing::Span::current().record("peer", tracing::field::display(address));
        }
        if target.log_connections {
            info!("new connection to server (from {local})");
        }
        if let Some(tls) = stream.tls_info() {
            debug!("SSL established: {tls}");
        }
        let welcome = self.log_in(&mut stream, target).await?;
        let reported = match &target.welcome {
            Some(shared) if **shared == welcome.parameters => Arc::clone(shared),
            _ => Arc::new(welcome.parameters),
        };
        let conn = ServerConn {
            id: attempt.id,
            stream,
            session: Some(Box::new(match target.replication {
                Replication::None => Server::new(reported),
                Replication::Logical | Replication::Physical => Server::for_one_client(reported),
            })),
            key: welcome.key,
            endpoint,
            peer,
            local,
            tls,
            host: target.host_name(),
            replication: target.replication,
            created: attempt.created,
            home: attempt.worker,
        };
        match target.connect_query.as_deref().filter(|sql| !sql.trim().is_empty()) {
            None => Ok(conn),
            Some(sql) => {
                let left = until.saturating_duration_since(Instant::now());
                query::run_connect_query(conn, sql, left).await.map_err(ConnectError::ConnectQuery)
            }
        }
    }

    async fn open(&self, target: &Target, until: Instant) -> Result<Opened, ConnectError> {
        let (stream, endpoint) = self.dialer.dial(&target.host, target.port, until).await?;
        let tls = self.tls.load_full();
        let Host::Name(host) = &target.host else { return Ok(Opened { stream, endpoint, tls: None }) };
        if !tls.servers.is_wanted() {
            return Ok(Opened { stream, endpoint, tls: None });
        }
        match ask_for_tls(stream).await? {
            (stream, TlsAnswer::Yes) => {
                let stream = self.handshakes.connect(stream, Arc::clone(&tls), host).await?;
                Ok(Opened { stream, endpoint, tls: Some(tls) })
            }
            (_, TlsAnswer::No) if tls.servers.mode() >= SslMode::Require => Err(ConnectError::TlsRefused),
            (stream, TlsAnswer::No) => Ok(Opened { stream, endpoint, tls: None }),
        }
    }

    async fn log_in(&self, stream: &mut Stream, target: &Target) -> Result<Welcome, ConnectError> {
        stream.write_all(&startup_message(target)).await?;
        stream.flush().await?;
        let mut inbox = Inbox::default();
        self.authenticate(stream, &mut inbox, target).await?;
        let mut welcome = Welcome { parameters: Values::default(), key: None };
        let mut is_ready = false;
        for _ in 0..LOGIN_MESSAGES_MAX {
            // A reload of the server's configuration may follow on the heels of the login.
            if is_ready && inbox.is_empty() {
                return Ok(welcome);
            }
            let message = inbox.next(stream).await?;
            match message.decode()? {
                Backend::ParameterStatus { name, value } => welcome.parameters.set(name, value),
                Backend::BackendKeyData(key) if !is_ready => welcome.key = Some(key),
                Backend::ErrorResponse(report) => return Err(ConnectError::Rejected(Box::new(report))),
                Backend::NoticeResponse(report) => debug!(notice = report.message, "notice at login"),
                Backend::NegotiateProtocolVersion { .. } => {}
                Backend::ReadyForQuery(TxStatus::Idle) if !is_ready => is_ready = true,
                other => return Err(unexpected(&other)),
            }
        }
        Err(ConnectError::Endless)
    }

    async fn authenticate(
        &self,
        stream: &mut Stream,
        inbox: &mut Inbox,
        target: &Target,
    ) -> Result<(), ConnectError> {
        let mut nonce = [0; scram::NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let mut login = Upstream::new(target.pool.user.as_str(), target.credentials.clone(), nonce);
        for _ in 0..LOGIN_MESSAGES_MAX {
            let message = inbox.next(stream).await?;
            let answer = match message.decode()? {
                Backend::ErrorResponse(report) => return Err(ConnectError::Rejected(Box::new(report))),
                Backend::NoticeResponse(report) => {
                    debug!(notice = report.message, "notice at login");
                    continue;
                }
                Backend::NegotiateProtocolVersion { .. } => continue,
                request @ (Backend::AuthenticationOk
                | Backend::AuthenticationCleartext
                | Backend::AuthenticationMd5(_)
                | Backend::AuthenticationSasl(_)
                | Backend::AuthenticationSaslContinue(_)
                | Backend::AuthenticationSaslFinal(_)
                | Backend::AuthenticationOther(_)) => login.on_auth(&request)?,
                other => return Err(unexpected(&other)),
            };
            let answer = match answer {
                Answer::Derive(derivation) => login.on_keys(&self.derive(derivation).await?)?,
                answer => answer,
            };
            match answer {
                Answer::Done => return Ok(()),
                Answer::Send(bytes) => send(stream, &bytes).await?,
                Answer::Wait | Answer::Derive(_) => {}
            }
        }
        Err(ConnectError::Endless)
    }

    /// Keys from the cache, or derived on the threads for it.
    async fn derive(&self, derivation: Derivation) -> Result<Keys, ConnectError> {
        if let Some(keys) = self.keys.find(&derivation) {
            return Ok(keys);
        }
        let derived = self.handshakes.compute(move || (derivation.run(), derivation)).await;
        let (keys, derivation) = derived.ok_or(ConnectError::Ended)?;
        self.keys.remember(&derivation, &keys);
        Ok(keys)
    }
}

fn unexpected(message: &Backend<'_>) -> ConnectError {
    ConnectError::Unexpected(match message {
        Backend::Other(tag) => format!("'{}'", tag.escape_ascii()),
        Backend::ReadyForQuery(_) => "ReadyForQuery".to_owned(),
        Backend::ParameterStatus { .. } => "ParameterStatus before AuthenticationOk".to_owned(),
        Backend::BackendKeyData(_) => "BackendKeyData before AuthenticationOk".to_owned(),
        Backend::RowDescription { .. } | Backend::DataRow(_) | Backend::CommandComplete(_) => {
            "result".to_owned()
        }
        _ => "Authentication".to_owned(),
    })
}

async fn send(stream: &mut Stream, bytes: &Bytes) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Protocol 3.0: servers of any age and other poolers understand it, and a longer cancel key would serve nobody.
fn startup_message(target: &Target) -> BytesMut {
    let mut out = BytesMut::new();
    let fixed = [("user", target.pool.user.as_str()), ("database", target.dbname.as_str())];
    let further = target.startup.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    startup::encode_startup(&mut out, 0, fixed.into_iter().chain(further));
    out
}

/// A server's answer to SSLRequest.
pub(super) enum TlsAnswer {
    Yes,
    No,
}

/// Asks a server whether it has TLS. Bytes behind its answer are refused: they would be taken for the server's after
/// the handshake, although anybody may have sent them (CVE-2021-23222).
pub(super) async fn ask_for_tls(mut stream: Stream) -> Result<(Stream, TlsAnswer), ConnectError> {
    let mut request = BytesMut::new();
    startup::encode_ssl_request(&mut request);
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut answer = [0; 2];
    match (stream.read(&mut answer).await?, answer[0]) {
        (0, _) => Err(InboxError::Closed.into()),
        (1, b'S') => Ok((stream, TlsAnswer::Yes)),
        (1, b'N') => Ok((stream, TlsAnswer::No)),
        (_, b'S' | b'N') => Err(ConnectError::BytesBeforeTls),
        (_, other) => Err(ConnectError::TlsAnswer(other)),
    }
}

#[cfg(test)]
mod tests;
