//! What an operator sees and says: the console, and health and metrics over HTTP.
//!
//! Owns the console's conversation, its tables, and the metrics. It changes nothing itself: it reads a `View` of the
//! process and sends each command that changes something as an [`Order`] to `app`. The one exception is KILL_CLIENT,
//! which is a word to one client's entry on the roster.
//!
//! Invariant: whatever a client sends, it gets one answer in the order asked, and no secret.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::config::{CONSOLE, Compatibility, Config};
use crate::ids::{ClientId, DatabaseName, PeerId, PoolKey};
use crate::net::Names;
use crate::stats::{PoolStats, Recent, Roster, Totals};
use crate::wire::Report;

mod clock;
mod command;
mod console;
pub mod http;
mod metrics;
mod refusal;
mod show;
mod table;

pub use clock::local_time;
pub use console::{Access, Session, serve};
pub use refusal::Refusal;
pub use table::Value;

/// What `--version` and SHOW VERSION begin with. Tools take the first version number they find.
pub const VERSION: &str = concat!("PgBouncer 1.25.2 (pgweir ", env!("CARGO_PKG_VERSION"), ")");

/// The parameter `server_version` of console sessions.
pub const SERVER_VERSION: &str = "1.25.2/bouncer";

/// The pool that console sessions are listed and counted in.
pub fn console_pool() -> PoolKey {
    PoolKey { database: CONSOLE.into(), user: CONSOLE.into() }
}

/// How the process is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// At once.
    Immediate,
    /// When no server is busy any more.
    WaitForServers,
    /// When the last client has left.
    WaitForClients,
}

/// What the console asks of `app`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Read the configuration again.
    Reload,
    /// Change one setting until the next reload.
    Set {
        /// In lower case.
        name: String,
        /// As in the configuration file.
        value: String,
    },
    /// Let no client start anything new; done when no server is busy.
    Pause(Option<DatabaseName>),
    /// Undo PAUSE, SUSPEND and KILL.
    Resume(Option<DatabaseName>),
    /// Stop reading from sockets; done when no data is under way.
    Suspend,
    /// Refuse logins to a database.
    Disable(DatabaseName),
    /// Allow them again.
    Enable(DatabaseName),
    /// Close servers as they become free.
    Reconnect(Option<DatabaseName>),
    /// Pause, and drop clients and servers.
    Kill(Option<DatabaseName>),
    /// Done when every server that was to be closed is closed.
    WaitClose(Option<DatabaseName>),
    /// End the process. [`Shutdown::Immediate`] is not answered: the connection ends with the process.
    Shutdown(Shutdown),
}

impl Order {
    /// Its command tag, which is how it is called.
    fn tag(&self) -> String {
        match self {
            Self::Reload => "RELOAD".into(),
            Self::Set { name, value } => format!("SET {name}={value}"),
            Self::Pause(_) => "PAUSE".into(),
            Self::Resume(_) => "RESUME".into(),
            Self::Suspend => "SUSPEND".into(),
            Self::Disable(_) => "DISABLE".into(),
            Self::Enable(_) => "ENABLE".into(),
            Self::Reconnect(_) => "RECONNECT".into(),
            Self::Kill(_) => "KILL".into(),
            Self::WaitClose(_) => "WAIT_CLOSE".into(),
            Self::Shutdown(_) => "SHUTDOWN".into(),
        }
    }

    /// PgBouncer's log line for it: `PAUSE 'db' command issued`.
    fn log_line(&self) -> String {
        let on = match self {
            Self::Pause(it)
            | Self::Resume(it)
            | Self::Reconnect(it)
            | Self::Kill(it)
            | Self::WaitClose(it) => it.as_ref(),
            Self::Disable(it) | Self::Enable(it) => Some(it),
            Self::Shutdown(Shutdown::WaitForServers) => {
                return "SHUTDOWN WAIT_FOR_SERVERS command issued".into();
            }
            Self::Shutdown(Shutdown::WaitForClients) => {
                return "SHUTDOWN WAIT_FOR_CLIENTS command issued".into();
            }
            // The value may be a secret.
            Self::Set { name, .. } => return format!("SET {name} command issued"),
            _ => None,
        };
        match on {
            Some(database) => format!("{} '{database}' command issued", self.tag()),
            None => format!("{} command issued", self.tag()),
        }
    }
}

/// How an order ended: notices for the client, or why it was refused.
pub type Answer = Result<Vec<Report>, Refusal>;

/// An order on its way to `app`.
#[derive(Debug)]
pub struct Request {
    /// What is to be done.
    pub order: Order,
    /// To be answered when it *is* done. Closed when the client has cancelled or left: nobody waits then.
    pub reply: oneshot::Sender<Answer>,
}

/// Whether the pooler works.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Activity {
    /// It does.
    #[default]
    Active,
    /// PAUSE of all databases.
    Paused,
    /// SUSPEND.
    Suspended,
}

/// What the console may have done to a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DatabaseState {
    /// Its name.
    pub name: DatabaseName,
    /// PAUSE or KILL of it.
    pub paused: bool,
    /// DISABLE of it.
    pub disabled: bool,
}

/// A certificate in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// The setting that names its file.
    pub setting: &'static str,
    /// When it ceases to be valid.
    pub expires: SystemTime,
}

/// Who asks for sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// Somebody who looks: only their numbers are shown.
    Onlooker,
    /// A process that will go on with them, by this session. It has suspended all.
    NextProcess(ClientId),
}

/// A row of SHOW FDS or SHOW HANDOVER.
#[derive(Debug)]
pub struct SocketRow {
    /// The columns of SHOW FDS.
    pub values: Vec<table::Value>,
    /// What another pgweir must know beyond them.
    pub state: Vec<u8>,
    /// The socket, to be passed on with the row.
    pub socket: Option<OwnedFd>,
    /// Whether PgBouncer can make use of it, which knows of no state.
    pub is_plain: bool,
}

/// Where the console finds what it shows. `app` implements it.
pub trait Source: Send + Sync {
    /// The configuration in force.
    fn config(&self) -> Arc<Config>;
    /// Who is connected.
    fn roster(&self) -> Arc<Roster>;
    /// All pools there are, the console's excluded.
    fn pools(&self) -> Vec<(PoolKey, Arc<PoolStats>)>;
    /// Every database that is in use, or that the console has done something to.
    fn databases(&self) -> Vec<DatabaseState>;
    /// The peers that cancel requests have been passed on to.
    fn peer_pools(&self) -> Vec<PeerId>;
    /// What is known of the names of servers.
    fn names(&self) -> Names;
    /// Whether the pooler works.
    fn activity(&self) -> Activity;
    /// Whether new clients are welcome; else why not. They are while all is paused, to wait.
    fn ready(&self) -> Result<(), String>;
    /// All sockets, one by one. To be called on a worker.
    fn sockets(self: Arc<Self>, audience: Audience) -> mpsc::Receiver<SocketRow>;
    /// The TLS certificates in use.
    fn certificates(&self) -> Vec<Certificate>;
    /// How many workers share the clients.
    fn workers_at_work(&self) -> u32;
}

/// The console's side of the process: one, shared by all console sessions and by HTTP.
pub struct Admin {
    source: Arc<dyn Source>,
    orders: mpsc::UnboundedSender<Request>,
    stats: Arc<PoolStats>,
    http_connections: Arc<Semaphore>,
}

impl Admin {
    /// `workers` is the number of worker threads, for the console's own counters.
    ///
    /// The channel of orders has no limit of its own: a console session has one order under way.
    pub fn new(source: Arc<dyn Source>, orders: mpsc::UnboundedSender<Request>, workers: usize) -> Arc<Self> {
        let stats = Arc::new(PoolStats::new(workers, Instant::now()));
        let http_connections = Arc::new(Semaphore::new(http::CONNECTIONS_MAX));
        Arc::new(Self { source, orders, stats, http_connections })
    }

    /// To be called once every `stats_period`: turns the averages of all pools, and logs them where `log_stats` says so.
    pub fn turn_stats(&self, now: Instant) {
        let view = View::of(self);
        let mut recent = Recent::default();
        for (_, stats) in &view.pools {
            stats.turn(now);
            recent.merge(&stats.recent(now));
        }
        if view.config.settings.log_stats {
            tracing::info!("{}", stats_line(&recent.averages()));
        }
    }

    fn compatibility(&self) -> Compatibility {
        self.source.config().settings.compatibility
    }

    /// Sends an order. The answer comes when it is done.
    fn order(&self, order: Order) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        // Where nobody takes orders any more the reply is dropped, which the receiver sees.
        let _ = self.orders.send(Request { order, reply });
        answer
    }
}

/// PgBouncer's line, which people grep for.
fn stats_line(it: &Totals) -> String {
    format!(
        "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, \
         in {} B/s, out {} B/s, xact {} us, query {} us, wait {} us",
        it.xact_count,
        it.query_count,
        it.client_parse_count,
        it.server_parse_count,
        it.bind_count,
        it.bytes_received,
        it.bytes_sent,
        it.xact_time,
        it.query_time,
        it.wait_time,
    )
}

/// The process at one moment, as the tables and the metrics show it.
struct View {
    config: Arc<Config>,
    roster: Arc<Roster>,
    /// With the console's, by name.
    pools: Vec<(PoolKey, Arc<PoolStats>)>,
    databases: Vec<DatabaseState>,
    peer_pools: Vec<PeerId>,
    names: Names,
    activity: Activity,
    certificates: Vec<Certificate>,
    workers_at_work: u32,
    now: Instant,
}

impl View {
    fn of(admin: &Admin) -> Self {
        let mut pools = admin.source.pools();
        pools.push((console_pool(), Arc::clone(&admin.stats)));
        pools.sort_by(|(left, _), (right, _)| left.cmp(right));
        Self {
            config: admin.source.config(),
            roster: admin.source.roster(),
            pools,
            databases: admin.source.databases(),
            peer_pools: admin.source.peer_pools(),
            names: admin.source.names(),
            activity: admin.source.activity(),
            certificates: admin.source.certificates(),
            workers_at_work: admin.source.workers_at_work(),
            now: Instant::now(),
        }
    }

    fn now_us(&self) -> u64 {
        self.roster.micros(self.now)
    }
}

#[cfg(test)]
mod tests;
