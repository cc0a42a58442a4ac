//! A client's login, from its StartupMessage to the point where it needs a server.
//!
//! Owns the order of its checks: limits on all clients, authentication, and only then whether the database exists,
//! is open and has room. Nothing is said about a user or a database before authentication is done. It drives
//! [`auth::Login`](crate::auth::Login), fetches secrets for it, and has keys derived away from the worker. Pools it
//! knows only through [`House`].

use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

use super::accept::{Arrival, Caller, Door, accept};
use super::census::{Census, Limit, Seat};
use super::line::{End, Line, Printable};
use super::refusal::Refusal;
use super::secrets::{
    AuthQuery, AuthQueryError, Found, Known, Lookup, SecretMemory, entry_of, look_up, settle,
};
use super::startup::Wanted;
use crate::auth::login::{Drawn, Freshness, Origin, Request};
use crate::auth::scram::MECHANISM;
use crate::auth::{
    Authenticated, Credentials, Derivation, KeyCache, Keys, Login, Method, MockKind, ProcessSecret, Secret,
    Step, Stored,
};
use crate::config::{Compatibility, Config, Database, is_console};
use crate::ids::{DatabaseName, PoolKey, UserName};
use crate::net::{Address, Handshakes, Stream, Tls, TlsInfo};
use crate::server::ReplicationStart;
use crate::stats::{Replication, name_client};
use crate::wire::startup::MINOR_MAX;
use crate::wire::{CancelKey, Report, TxStatus, encode};

/// Room for the rest of a welcome: AuthenticationOk, BackendKeyData with a long key, ReadyForQuery.
const WELCOME_BYTES: usize = 64;

/// Secrets looked at to tell which kind prevails.
const SAMPLE: usize = 64;

mod demand;

use demand::Demand;

/// What a login asks of the rest of the process.
pub trait House {
    /// Runs `auth_query` on a server of its own pool, as any client would, but with none of a client's settings.
    /// `None`: it gave no row.
    fn auth_query(&self, query: &AuthQuery) -> impl Future<Output = Result<Option<Found>, AuthQueryError>>;

    /// True where the console's DISABLE is in force.
    fn is_disabled(&self, database: &DatabaseName) -> bool;

    /// True once no more clients are to be let in.
    fn is_shutting_down(&self) -> bool;
}

/// What all logins of the process share. Clones share it too; `house` may be each worker's own.
#[derive(Clone)]
pub struct Lobby<H> {
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// TLS in force.
    pub tls: Arc<ArcSwap<Tls>>,
    /// Where handshakes run and keys are derived.
    pub handshakes: Handshakes,
    /// What salts are made of.
    pub process_secret: Arc<ProcessSecret>,
    /// Keys derived before.
    pub keys: Arc<KeyCache>,
    /// What `auth_query` found lately.
    pub secrets: Arc<SecretMemory>,
    /// How many clients there are.
    pub census: Arc<Census>,
    /// Pools and phases.
    pub house: H,
}

impl<H: House> Lobby<H> {
    /// Takes a new connection from `peer`, of which `early` has been received, to where it can be served, or to its
    /// end. Not cancel safe.
    ///
    /// Errors: it is not let in, and has been told where that makes sense.
    pub async fn admit(self, stream: Stream, early: BytesMut, peer: Address) -> Result<Admitted, End> {
        let (config, tls) = (self.config.load_full(), self.tls.load_full());
        let door = Door { settings: &config.settings, tls: &tls, handshakes: &self.handshakes };
        match accept(stream, early, peer, &door).await? {
            Caller::Cancel { key, stream } => Ok(Admitted::Cancel { key, stream }),
            Caller::Client(arrival) => {
                // Boxed: whoever has said nothing yet keeps no room for it.
                Box::pin(login(*arrival, &self)).await.map(|client| Admitted::Client(Box::new(client)))
            }
        }
    }
}

/// A connection that may go on.
#[derive(Debug)]
pub enum Admitted {
    /// A client that has logged in.
    Client(Box<LoggedIn>),
    /// A cancel request.
    Cancel {
        /// Which query.
        key: CancelKey,
        /// To be closed when the cancel is done.
        stream: Stream,
    },
}

/// Where a client goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// To this pool's servers.
    Pool(PoolKey),
    /// To the console.
    Console(ConsoleRole),
}

/// What a client may do on the console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConsoleRole {
    /// Everything.
    Admin,
    /// SHOW.
    Viewer,
}

/// A client that has proved who it is and has not been welcomed yet.
pub struct LoggedIn {
    /// Its connection.
    pub line: Line,
    /// Who it is.
    pub user: UserName,
    /// The database as it named it.
    pub database: DatabaseName,
    /// Where it goes.
    pub destination: Destination,
    /// What the pool may log in to servers with.
    pub credentials: Credentials,
    /// Settings it wants its servers to have, each name once; values are raw text as `set_config` takes them.
    pub parameters: Vec<(String, String)>,
    /// What its server is to be, if it comes to replicate; `parameters` are in there, too.
    pub replication: Option<Arc<ReplicationStart>>,
    /// The minor protocol version both sides speak: cancel keys are longer from 2 on.
    pub minor: u16,
    /// What its TLS handshake came to.
    pub tls: Option<TlsInfo>,
    /// Its place in the limits; it goes when the client goes.
    pub seat: Seat,
    /// When `client_login_timeout` is over; being welcomed is part of the login.
    pub deadline: Option<Instant>,
    config: Arc<Config>,
}

impl fmt::Debug for LoggedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoggedIn")
            .field("user", &self.user)
            .field("database", &self.database)
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}

/// What a client is told when its session begins.
pub struct Welcome<'a> {
    /// Its ParameterStatus messages.
    pub parameters: &'a [u8],
    /// BackendKeyData.
    pub key: &'a CancelKey,
    /// `login_notify_message`.
    pub notice: Option<&'a str>,
}

/// A client whose session begins.
#[must_use = "dropping it closes the connection"]
pub struct Welcomed {
    /// Its connection.
    pub stream: Stream,
    /// What it has sent already.
    pub input: BytesMut,
    /// Its place in the limits, to be kept as long as the client.
    pub seat: Seat,
}

impl LoggedIn {
    /// Sends AuthenticationOk and all that follows up to the first ReadyForQuery. Not cancel safe.
    ///
    /// Errors: the client is gone.
    pub async fn welcome(mut self, welcome: &Welcome<'_>) -> Result<Welcomed, End> {
        let out = self.line.output();
        out.reserve(welcome.parameters.len() + WELCOME_BYTES);
        encode::authentication_ok(out);
        out.extend_from_slice(welcome.parameters);
        encode::backend_key_data(out, welcome.key);
        if let Some(text) = welcome.notice.filter(|text| !text.is_empty()) {
            Report::notice(text).encode(out);
        }
        encode::ready_for_query(out, TxStatus::Idle);
        self.line.flush().await?;
        let (stream, input) = self.line.into_parts().ok_or(End::Eof)?;
        Ok(Welcomed { stream, input, seat: self.seat })
    }

    /// Sends AuthenticationOk alone: the console itself says the rest. Not cancel safe.
    ///
    /// Errors: the client is gone.
    pub async fn greet(mut self) -> Result<Welcomed, End> {
        encode::authentication_ok(self.line.output());
        self.line.flush().await?;
        let (stream, input) = self.line.into_parts().ok_or(End::Eof)?;
        Ok(Welcomed { stream, input, seat: self.seat })
    }

    /// The connection ends like this. Not cancel safe.
    pub async fn part(self, end: End) -> End {
        self.line.turn_away(&end, &self.config.settings).await;
        end
    }

    /// Ready once the client has left. Cancel safe.
    pub async fn left(&mut self) -> End {
        self.line.left().await
    }
}

/// What the configuration itself has for a pool's servers: the password of the entry with the forced user, else the
/// secret of that user in `auth_file`. For pools that no client has logged in to yet, such as `auth_user`'s.
pub fn stored_credentials(config: &Config, pool: &PoolKey) -> Credentials {
    let password = config.database(&pool.database).and_then(|entry| entry.password_of(&pool.user));
    let Some(stored) = password.or_else(|| config.secrets.get(&pool.user)) else {
        return Credentials::default();
    };
    match Stored::parse(stored.reveal()) {
        Ok(secret) => Credentials { secret: Some(Arc::new(secret)), keys: None },
        Err(error) => {
            tracing::warn!(user = %pool.user, "cannot log in to servers: {error}");
            Credentials::default()
        }
    }
}

/// Logs a client in. Not cancel safe.
///
/// Errors: it is not let in, and has been told where that makes sense.
pub async fn login<H: House>(arrival: Arrival, lobby: &Lobby<H>) -> Result<LoggedIn, End> {
    let Arrival { mut line, startup, deadline } = arrival;
    let config = lobby.config.load_full();
    let attempt = async {
        let wanted = Wanted::read(&startup, &config.settings, &line.peer())?;
        if startup.needs_negotiation() {
            let minor = startup.minor.min(MINOR_MAX);
            encode::negotiate_protocol_version(line.output(), minor, &startup.unknown_options);
        }
        Candidate::new(lobby, &config, &mut line, &wanted)?.run(&wanted).await.map(|passed| (wanted, passed))
    };
    let outcome = match deadline {
        None => attempt.await,
        Some(deadline) => match timeout_at(deadline, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Refusal::LoginTimeout.into()),
        },
    };
    match outcome {
        Ok((wanted, passed)) => Ok(LoggedIn {
            replication: wanted.replication_start().map(Arc::new),
            line,
            user: passed.user,
            database: passed.database,
            destination: passed.destination,
            credentials: passed.credentials,
            parameters: wanted.parameters,
            minor: startup.minor_spoken(),
            tls: passed.tls,
            seat: passed.seat,
            deadline,
            config,
        }),
        Err(end) => {
            Box::pin(line.turn_away(&end, &config.settings)).await;
            Err(end)
        }
    }
}

/// A client that wants in.
struct Candidate<'a, H> {
    lobby: &'a Lobby<H>,
    config: &'a Config,
    line: &'a mut Line,
    database: DatabaseName,
    user: UserName,
    /// Who it is once it has proved itself, where `auth_query` has said so.
    renamed: Option<UserName>,
    tls: Option<TlsInfo>,
    seat: Seat,
}

/// One that has passed all checks.
struct Passed {
    user: UserName,
    database: DatabaseName,
    destination: Destination,
    credentials: Credentials,
    tls: Option<TlsInfo>,
    seat: Seat,
}

impl<'a, H: House> Candidate<'a, H> {
    fn new(
        lobby: &'a Lobby<H>,
        config: &'a Config,
        line: &'a mut Line,
        wanted: &Wanted,
    ) -> Result<Self, End> {
        let limit = match is_console(&wanted.database) {
            true => Limit::None,
            false => Limit::AtMost(config.settings.max_client_conn),
        };
        let seat = lobby.census.seat(limit).ok_or(Refusal::TooManyClients)?;
        let tls = line.stream()?.tls_info();
        let (database, user) = (wanted.database.as_str().into(), wanted.user.as_str().into());
        name_client(&database, &user);
        Ok(Self { lobby, config, line, database, user, renamed: None, tls, seat })
    }

    async fn run(mut self, wanted: &Wanted) -> Result<Passed, End> {
        self.log_attempt(wanted.replication);
        if self.is_own_user()? {
            let role = ConsoleRole::Admin;
            return Ok(self.enter(Destination::Console(role), Credentials::default())?);
        }
        let demand = self.demand(wanted).await?;
        let authenticated = self.authenticate(demand).await?;
        if let Some(name) = self.renamed.take() {
            self.user = name;
        }
        let destination = self.destination()?;
        let credentials = self.pool_credentials(&destination, authenticated.credentials);
        Ok(self.enter(destination, credentials)?)
    }

    fn log_attempt(&self, replication: Replication) {
        if !self.config.settings.log_connections {
            return;
        }
        let tls = self.tls.as_ref().map_or_else(|| "no".to_owned(), ToString::to_string);
        let (database, user) = (Printable(&self.database), Printable(&self.user));
        let replication = replication.startup_value();
        tracing::info!("login attempt: db={database} user={user} tls={tls} replication={replication}");
    }

    fn entry(&self) -> Option<&'a Database> {
        entry_of(self.config, &self.database)
    }

    /// Over a unix socket, whoever runs this process may use its console as the user `pgbouncer` or `pgweir`.
    fn is_own_user(&mut self) -> Result<bool, End> {
        if !is_console(self.database.as_str()) || !is_console(self.user.as_str()) {
            return Ok(false);
        }
        let ours = rustix::process::getuid().as_raw();
        Ok(self.line.stream()?.peer_credentials().is_some_and(|peer| peer.uid == ours))
    }

    /// Runs the login's own steps to their end.
    async fn authenticate(&mut self, demand: Demand) -> Result<Authenticated, End> {
        let Demand { method, ldap } = demand;
        let mut step = Login::start(self.request(method)?);
        loop {
            step = match step {
                Step::NeedSecret(need) => {
                    let (secret, origin) = self.secret(need.freshness()).await?;
                    need.supply(secret, origin)
                }
                Step::Send(challenge, waiting) => {
                    challenge.encode(self.line.output());
                    self.line.flush().await?;
                    waiting.answer(&self.line.answer().await?)
                }
                Step::Derive(derivation, deriving) => deriving.keys(&self.derive(derivation).await?),
                Step::Consult(authority, consulting) => {
                    // Boxed, as the question for a secret: a login keeps no room for what few need.
                    let opinion = Box::pin(self.consult(authority, &consulting, ldap.as_ref())).await?;
                    consulting.verdict(opinion)
                }
                Step::Done(authenticated) => {
                    if let Some(message) = &authenticated.sasl_final {
                        encode::authentication_sasl_final(self.line.output(), message.as_bytes());
                    }
                    return Ok(*authenticated);
                }
                Step::Failed(error) => {
                    if let Some(reason) = error.reason() {
                        tracing::info!(user = %Printable(&self.user), "{error}: {reason}");
                    }
                    return Err(Refusal::Authentication(error).into());
                }
            };
        }
    }

    fn request(&self, method: Method) -> Result<Request, End> {
        // Neither a system call nor a hash for those to whom nothing of it is shown.
        let (drawn, mock) = match method.is_random() {
            true => (self.draw()?, self.mock_kind()),
            false => (Drawn::default(), MockKind::Md5),
        };
        let iterations = NonZeroU32::new(self.config.settings.scram_iterations).unwrap_or(NonZeroU32::MIN);
        Ok(Request { user: self.user.to_string(), method, mock, iterations, drawn })
    }

    fn draw(&self) -> Result<Drawn, End> {
        let mut random = [0; 4 + crate::auth::scram::NONCE_BYTES];
        getrandom::fill(&mut random).map_err(|error| End::Io(std::io::Error::other(error)))?;
        let (md5_salt, nonce) = random.split_first_chunk().ok_or(Refusal::Configuration)?;
        Ok(Drawn {
            salt: self.lobby.process_secret.salt_for(self.user.as_str()),
            md5_salt: *md5_salt,
            nonce: nonce.try_into().map_err(|_| Refusal::Configuration)?,
        })
    }

    /// What most users are asked for under `md5`, so that one who does not exist is not told by it.
    fn mock_kind(&self) -> MockKind {
        if self.config.settings.compatibility == Compatibility::PgBouncer {
            return MockKind::Md5;
        }
        let sample = self.config.secrets.values().take(SAMPLE);
        let (all, scram) = sample.fold((0, 0), |(all, scram), secret| {
            (all + 1, scram + usize::from(secret.reveal().starts_with(MECHANISM)))
        });
        // Where nobody is known they come from PostgreSQL, which makes verifiers.
        if 2 * scram >= all { MockKind::Scram } else { MockKind::Md5 }
    }

    async fn secret(&mut self, freshness: Freshness) -> Result<(Secret, Origin), End> {
        let Known { name, secret, origin } = self.known(freshness).await?;
        self.renamed = (name != self.user).then_some(name);
        Ok((secret, origin))
    }

    async fn known(&self, freshness: Freshness) -> Result<Known, End> {
        let who = (&self.database, &self.user);
        let (query, fallback) = match look_up(self.config, &self.lobby.secrets, who, freshness)? {
            Lookup::Known(known) => return Ok(known),
            Lookup::Ask { query, fallback } => (query, fallback),
        };
        if self.lobby.house.is_disabled(&query.database) {
            return Err(Refusal::AuthDatabaseDisabled(query.database.to_string()).into());
        }
        let answer = Box::pin(self.lobby.house.auth_query(&query)).await;
        Ok(settle(self.config, &self.lobby.secrets, (&query, fallback), answer)?)
    }

    async fn derive(&self, derivation: Derivation) -> Result<Keys, End> {
        if let Some(keys) = self.lobby.keys.find(&derivation) {
            return Ok(keys);
        }
        let work = derivation.clone();
        let keys = self.lobby.handshakes.compute(move || work.run()).await;
        let keys = keys.ok_or(Refusal::ShuttingDown)?;
        self.lobby.keys.remember(&derivation, &keys);
        Ok(keys)
    }

    fn no_such_database(&self) -> Refusal {
        Refusal::NoSuchDatabase(self.database.to_string())
    }

    /// Where a client that has proved itself goes, and whether that is open.
    fn destination(&self) -> Result<Destination, Refusal> {
        if is_console(self.database.as_str()) {
            return match (self.config.is_admin(&self.user), self.config.may_see_stats(&self.user)) {
                (true, _) => Ok(Destination::Console(ConsoleRole::Admin)),
                (false, true) => Ok(Destination::Console(ConsoleRole::Viewer)),
                (false, false) => Err(Refusal::ConsoleNotAllowed),
            };
        }
        if self.entry().is_none() {
            return Err(self.no_such_database());
        }
        if self.lobby.house.is_disabled(&self.database) {
            return Err(Refusal::DatabaseDisabled(self.database.to_string()));
        }
        if self.lobby.house.is_shutting_down() {
            return Err(Refusal::ShuttingDown);
        }
        Ok(Destination::Pool(self.config.pool_key(&self.database, &self.user)))
    }

    /// What the pool logs in to its servers with. What a client proved serves its own user only: keys of one user
    /// must never stand in for those of a database's forced one.
    fn pool_credentials(&self, destination: &Destination, of_client: Credentials) -> Credentials {
        let Destination::Pool(pool) = destination else { return Credentials::default() };
        let has_own = self.entry().is_some_and(|entry| entry.password_of(&pool.user).is_some());
        if !has_own && pool.user == self.user && of_client.secret.is_some() {
            return of_client;
        }
        stored_credentials(self.config, pool)
    }

    /// The last check: is there room?
    fn enter(mut self, destination: Destination, credentials: Credentials) -> Result<Passed, Refusal> {
        let (of_database, of_user) = match destination {
            Destination::Console(ConsoleRole::Admin) => (Limit::None, Limit::None),
            Destination::Console(ConsoleRole::Viewer) | Destination::Pool(_) => (
                Limit::of(self.config.max_db_client_connections(&self.database)),
                Limit::of(self.config.max_user_client_connections(&self.user)),
            ),
        };
        if !self.seat.enter_database(&self.database, of_database) {
            return Err(Refusal::TooManyClientsOfDatabase);
        }
        if !self.seat.enter_user(&self.user, of_user) {
            return Err(Refusal::TooManyClientsOfUser);
        }
        let Self { user, database, tls, seat, .. } = self;
        Ok(Passed { user, database, destination, credentials, tls, seat })
    }
}
