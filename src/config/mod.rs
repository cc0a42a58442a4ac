//! What the administrator asked for, as one value.
//!
//! Owns the settings table, the readers of `pgweir.toml` and `pgbouncer.ini`, and the difference between two
//! configurations. It refuses to act: `app` turns a [`Config`] into pools and listeners. A file with any mistake
//! yields no `Config` at all, only the list of its mistakes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{DatabaseName, UserName};

mod access;
mod assemble;
mod check;
mod diagnostic;
mod diff;
mod effective;
mod environment;
pub mod hba;
pub mod ident;
mod ini;
mod kinds;
pub mod ldap;
mod load;
mod manual;
mod render;
mod settings;
mod statement;
#[cfg(test)]
mod tests;
mod toml;
mod userlist;
mod value;
mod words;

pub use access::with_access;
pub use diagnostic::{Diagnostic, Level};
pub use diff::{Change, ReloadPlan, diff};
pub use effective::{CONSOLE, is_console};
pub use environment::PLACE as ENVIRONMENT;
pub use load::{Loaded, Look, Nowhere, Surroundings, System, Unread, dialect_of, load, read};
pub use manual::manual;
pub use render::{example, reference};
pub use settings::{GLOBAL, Reload, Setting, Settings, global};
pub use value::Fault;

/// The syntax of a configuration file, which also decides a few defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dialect {
    /// `pgweir.toml`.
    #[default]
    Toml,
    /// `pgbouncer.ini`.
    Ini,
    /// No file: variables of the environment.
    Environment,
}

/// How long a client keeps a server: `pool_mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PoolMode {
    /// Until the client leaves.
    #[default]
    Session,
    /// Until its transaction ends.
    Transaction,
    /// Until its statement ends; transaction blocks are refused.
    Statement,
}

/// How clients prove who they are: `auth_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AuthType {
    /// Anybody, under the database's forced `user=`.
    Any,
    /// Any user that exists.
    Trust,
    /// The password in clear text.
    Plain,
    /// MD5, or SCRAM where the stored secret is a SCRAM one.
    #[default]
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// A TLS client certificate whose name is the user's.
    Cert,
    /// What `auth_hba_file` says.
    Hba,
    /// An LDAP bind.
    Ldap,
    /// The PAM service `pgbouncer`.
    Pam,
}

/// `client_tls_sslmode`, `server_tls_sslmode`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// As `Prefer`.
    Allow,
    /// TLS where the other side has it.
    Prefer,
    /// TLS or nothing; no certificate is checked.
    Require,
    /// TLS, and the certificate has a known issuer.
    VerifyCa,
    /// TLS, and the certificate has a known issuer and the right name.
    VerifyFull,
}

/// How a database with several hosts uses them: `load_balance_hosts`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LoadBalanceHosts {
    /// Each new server connection goes to the next one.
    #[default]
    RoundRobin,
    /// All go to one, until a connect to it fails.
    Disable,
}

/// Which road to take where PostgreSQL and PgBouncer differ: `compatibility`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compatibility {
    /// PostgreSQL's SQLSTATEs, with DETAIL and HINT. The default of a TOML file.
    #[default]
    Postgres,
    /// PgBouncer's: 08P01 nearly everywhere, and its bare messages. The default of an ini file.
    PgBouncer,
}

/// Shape of a log line: `log_format`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people: time, level, message, fields.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// PgBouncer's: `time zone [pid] LEVEL C-0x1: db/user@host:port message`.
    PgBouncer,
}

/// What moves the bytes of conversations: `relay_driver`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RelayDriver {
    /// io_uring where the kernel allows it, else tokio.
    #[default]
    Auto,
    /// A system call for each read and write, when epoll says that it will not wait.
    Tokio,
    /// One system call for all that a worker has to read and write just now.
    IoUring,
}

/// The least important messages that are logged: `log_level`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// Something is worse than it should be.
    Warn,
    /// The life of the process and its connections.
    #[default]
    Info,
    /// Each conversation.
    Debug,
    /// Each message.
    Trace,
}

/// A text that must not be seen: it is wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(zeroize::Zeroizing<String>);

impl Secret {
    /// Takes a secret in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(zeroize::Zeroizing::new(text.into()))
    }

    /// The secret itself; call it only where it is used.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where servers are: one of the `host` forms of a database entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// A name or an address, looked up and dialled over TCP.
    Name(String),
    /// A directory with a socket `.s.PGSQL.<port>` in it, or `@name` for an abstract one.
    Unix(PathBuf),
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Everything a configuration says.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Config {
    /// The syntax it was read from.
    pub dialect: Dialect,
    /// `[pgweir]` (in an ini file `[pgbouncer]`).
    pub settings: Settings,
    /// `[databases]`, without `*`.
    pub databases: BTreeMap<DatabaseName, Database>,
    /// The entry `*`, a template for every name that has none.
    pub any_database: Option<Database>,
    /// `[users]`.
    pub users: BTreeMap<UserName, User>,
    /// `[peers]`, by id.
    pub peers: BTreeMap<u16, Peer>,
    /// The secrets of `auth_file` and of users' `password`, as they stand there: plain, `md5…` or `SCRAM-SHA-256$…`.
    pub secrets: BTreeMap<UserName, Secret>,
    /// The rules of `auth_hba_file`; `None` where `auth_type` is not `hba`.
    pub access: Option<Arc<hba::Rules>>,
}

/// An entry of `[databases]`. `None` means: as the global setting says.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Database {
    /// The server's name for it; `None`: the entry's own name.
    pub dbname: Option<String>,
    /// Hosts in order; empty: the socket in `unix_socket_dir`.
    pub hosts: Vec<Host>,
    /// The server's port; default 5432.
    pub port: Option<u16>,
    /// The forced user: all clients share one pool under this name.
    pub user: Option<UserName>,
    /// The forced user's password.
    pub password: Option<Secret>,
    /// Fixes `search_path` of every server connection of this entry from its start-up message on.
    pub schema: Option<String>,
    /// Overrides `auth_user`.
    pub auth_user: Option<UserName>,
    /// Overrides `auth_dbname`.
    pub auth_dbname: Option<DatabaseName>,
    /// Overrides `auth_query`.
    pub auth_query: Option<String>,
    /// Overrides `default_pool_size`.
    pub pool_size: Option<usize>,
    /// Overrides `min_pool_size`.
    pub min_pool_size: Option<usize>,
    /// Overrides `reserve_pool_size`.
    pub reserve_pool_size: Option<usize>,
    /// Overrides `pool_mode`.
    pub pool_mode: Option<PoolMode>,
    /// Overrides `max_db_connections`. 0: no limit.
    pub max_db_connections: Option<usize>,
    /// Overrides `max_db_client_connections`. 0: no limit.
    pub max_db_client_connections: Option<usize>,
    /// Overrides `server_lifetime`.
    pub server_lifetime: Option<Duration>,
    /// Overrides `query_wait_timeout`.
    pub query_wait_timeout: Option<Duration>,
    /// In which order hosts are used.
    pub load_balance_hosts: LoadBalanceHosts,
    /// Run on every new server connection; its errors are logged only.
    pub connect_query: Option<String>,
    /// `client_encoding` that new servers start with.
    pub client_encoding: Option<String>,
    /// `DateStyle` that new servers start with.
    pub datestyle: Option<String>,
    /// `TimeZone` that new servers start with.
    pub timezone: Option<String>,
    /// `application_name` that new servers start with.
    pub application_name: Option<String>,
    /// `[databases.NAME] disabled = true`: the entry refuses logins from the start. The console's DISABLE is not here.
    pub disabled: bool,
}

impl Database {
    /// The password with which servers are logged in to as this user, where the entry forces it and gives one.
    pub fn password_of(&self, user: &UserName) -> Option<&Secret> {
        self.password.as_ref().filter(|_| self.user.as_ref() == Some(user))
    }

    /// The parameters that the start-up message of a new server carries, besides user, database and `schema`.
    pub fn startup(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let parameters = [
            ("client_encoding", &self.client_encoding),
            ("datestyle", &self.datestyle),
            ("timezone", &self.timezone),
            ("application_name", &self.application_name),
        ];
        parameters.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

/// An entry of `[users]`. `None` means: as the database or the global setting says.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct User {
    /// Overrides `default_pool_size` and the database's `pool_size`.
    pub pool_size: Option<usize>,
    /// Overrides `reserve_pool_size`.
    pub reserve_pool_size: Option<usize>,
    /// Overrides `pool_mode`.
    pub pool_mode: Option<PoolMode>,
    /// Overrides `max_user_connections`. 0: no limit.
    pub max_user_connections: Option<usize>,
    /// Overrides `max_user_client_connections`. 0: no limit.
    pub max_user_client_connections: Option<usize>,
    /// Overrides `query_timeout`.
    pub query_timeout: Option<Duration>,
    /// Overrides `query_wait_timeout`.
    pub query_wait_timeout: Option<Duration>,
    /// Overrides `idle_transaction_timeout`.
    pub idle_transaction_timeout: Option<Duration>,
    /// Overrides `transaction_timeout`.
    pub transaction_timeout: Option<Duration>,
    /// Overrides `client_idle_timeout`.
    pub client_idle_timeout: Option<Duration>,
    /// The secret they log in with; [`Config::secrets`] has it too.
    pub password: Option<Secret>,
}

impl User {
    /// A user without any override.
    pub const NONE: Self = Self {
        pool_size: None,
        reserve_pool_size: None,
        pool_mode: None,
        max_user_connections: None,
        max_user_client_connections: None,
        query_timeout: None,
        query_wait_timeout: None,
        idle_transaction_timeout: None,
        transaction_timeout: None,
        client_idle_timeout: None,
        password: None,
    };
}

/// An entry of `[peers]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Peer {
    /// Where it listens.
    pub host: Host,
    /// Its `listen_port`.
    pub port: u16,
    /// Connections kept for forwarding cancels; `None`: `default_pool_size`.
    pub pool_size: Option<usize>,
}

impl Default for Peer {
    fn default() -> Self {
        Self { host: Host::Name(String::new()), port: 6432, pool_size: None }
    }
}

/// What is in force for one pool, all overrides resolved (user before database before global).
#[derive(Clone, PartialEq, Debug)]
pub struct PoolSettings {
    /// When servers go back.
    pub mode: PoolMode,
    /// Most servers; 0: no limit.
    pub size: usize,
    /// Servers kept even when nobody asks.
    pub min_size: usize,
    /// Servers beyond `size`, for clients that waited `reserve_timeout`.
    pub reserve_size: usize,
    /// Zero: the reserve is never used.
    pub reserve_timeout: Duration,
    /// Servers this old are closed when unused. Zero: each is used once.
    pub server_lifetime: Duration,
    /// Servers idle this long are closed; zero: never.
    pub server_idle_timeout: Duration,
    /// How long after a failed connect the next may be tried.
    pub server_login_retry: Duration,
    /// How long clients wait for the successor of a server that was lost; zero: they do not.
    pub switchover_timeout: Duration,
    /// First in, first out instead of most recently used first.
    pub server_round_robin: bool,
    /// New server connections that may be under way at once.
    pub connecting_max: usize,
    /// A server that has been idle this long is asked whether it still answers before it gets its next client.
    pub check_after: Option<Duration>,
}

/// What is in force for one client: limits of its login user and its database. Zero means: no limit.
#[derive(Clone, PartialEq, Debug)]
pub struct ClientSettings {
    /// Wait for a server at most this long.
    pub query_wait_timeout: Duration,
    /// Send a NOTICE after having waited this long.
    pub query_wait_notify: Duration,
    /// A query may run this long.
    pub query_timeout: Duration,
    /// A transaction may stay idle this long.
    pub idle_transaction_timeout: Duration,
    /// A transaction may last this long.
    pub transaction_timeout: Duration,
    /// A client may stay idle this long outside a transaction.
    pub client_idle_timeout: Duration,
    /// Bytes given to a socket at once: `tcp_socket_buffer`. One segment that fills more than the buffer would wait for
    /// its acknowledgement, which the other side delays (`tcp_delack_timer` in net/ipv4/tcp_timer.c).
    pub send_bytes_max: usize,
}
