//! Opens servers for pools: on which worker, where, and with which credentials.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::adopt::{self, AdoptedServer, Passage};
use super::process::Process;
use crate::auth::Credentials;
use crate::client::stored_credentials;
use crate::config::{Compatibility, Config, Host};
use crate::ids::{PoolKey, UserName, WorkerId};
use crate::pool::schedule::OpenFailure;
use crate::pool::{Connection as _, Lease, OpenError, OpenTask, Opener, Resetting};
use crate::server::{Rotation, ServerConn, Target};
use crate::session::params::Role;
use crate::wire::{Report, SqlState};

/// All that PgBouncer tells a replication client whose server refuses it.
const LOGIN_FAILED: &str = "login failed";

/// What is known of one pool's servers before they are opened.
#[derive(Default)]
pub struct Origin {
    credentials: Mutex<Credentials>,
    rotation: Rotation,
}

/// The same of all pools: those that are in use, for the pool is entered before anything is remembered of it.
#[derive(Default)]
pub struct Origins(DashMap<PoolKey, Arc<Origin>>);

impl Origins {
    /// What a client that logged in to the pool has shown serves to log in to its servers.
    pub fn remember(&self, pool: &PoolKey, credentials: Credentials) {
        let origin = self.of(pool);
        let mut known = origin.credentials.lock();
        // Keys once seen stay good as long as the secret is the same.
        let same_secret = known.secret == credentials.secret;
        if !(same_secret && credentials.keys.is_none()) {
            *known = credentials;
        }
    }

    /// What clients of the pool have shown.
    pub fn known(&self, pool: &PoolKey) -> Credentials {
        self.0.get(pool).map(|it| it.credentials.lock().clone()).unwrap_or_default()
    }

    /// What clients have shown of these users' secrets is stale: they are others now.
    pub fn forget(&self, users: &[UserName]) {
        for origin in self.0.iter().filter(|it| users.contains(&it.key().user)) {
            *origin.credentials.lock() = Credentials::default();
        }
    }

    /// Forgets what is known of pools that are not in use.
    pub fn sweep(&self, is_used: impl Fn(&PoolKey) -> bool) {
        self.0.retain(|pool, _| is_used(pool));
        self.0.shrink_to_fit();
    }

    fn of(&self, pool: &PoolKey) -> Arc<Origin> {
        Arc::clone(&self.0.entry(pool.clone()).or_default())
    }
}

/// The queues of the workers that open servers.
#[derive(Default)]
pub struct Openings {
    workers: RwLock<Vec<mpsc::UnboundedSender<Errand>>>,
    /// Whose turn it is where no worker asks for itself.
    turn: AtomicUsize,
}

/// Work on servers, for a worker.
pub enum Errand {
    /// Open one.
    Open(OpenTask<ServerConn>),
    /// Ask one whether it still answers.
    Check(Lease<Resetting>),
    /// Go on with an idle one of the process before.
    Adopt(Box<AdoptedServer>, Passage),
}

impl Openings {
    /// The workers have started; from now on servers can be opened.
    pub fn start(&self, workers: Vec<mpsc::UnboundedSender<Errand>>) {
        *self.workers.write() = workers;
    }

    /// Gives an errand to a worker; `None`: whose turn it is.
    pub fn send(&self, worker: Option<WorkerId>, errand: Errand) {
        let workers = self.workers.read();
        let turn = || self.turn.fetch_add(1, Ordering::Relaxed) % workers.len().max(1);
        if let Some(worker) = workers.get(worker.map_or_else(turn, |it| usize::from(it.0))) {
            // Where the worker has ended the errand comes back and is dropped, which frees its place.
            let _ = worker.send(errand);
        }
    }
}

impl Opener<ServerConn> for Openings {
    fn open(&self, worker: Option<WorkerId>, task: OpenTask<ServerConn>) {
        self.send(worker, Errand::Open(task));
    }

    fn check(&self, lease: Lease<Resetting>) {
        self.send(Some(lease.home), Errand::Check(lease));
    }
}

/// Does a worker's errand. Not cancel safe: dropping it gives the attempt up, or closes the server.
pub async fn run(process: &Process, worker: WorkerId, errand: Errand) {
    match errand {
        Errand::Open(task) => open(process, worker, task).await,
        Errand::Adopt(server, passage) => adopt::take_in(process, worker, (*server, passage)),
        Errand::Check(lease) => {
            let config = process.config.load_full();
            let settings = &config.settings;
            // It may have been switched off meanwhile: then nothing is asked that could go wrong.
            let sql = settings.server_check_query.as_deref().unwrap_or_default();
            lease.check(sql, settings.server_connect_timeout).await;
        }
    }
}

/// Opens one server and tells its pool what came of it. Not cancel safe: dropping it gives the attempt up.
async fn open(process: &Process, worker: WorkerId, task: OpenTask<ServerConn>) {
    let key = task.pool().key().clone();
    let config = process.config.load_full();
    let origin = process.origins.of(&key);
    let credentials = credentials(&config, &key, &origin);
    let Some(mut target) = Target::of(&config, &key, &origin.rotation, credentials) else {
        let reason = format!("no such database: {}", key.database);
        let report = Report::fatal(SqlState::INVALID_CATALOG_NAME, reason.as_str());
        let error = OpenError { kind: OpenFailure::Refused, reason, report };
        return task.failed(error, worker, Instant::now());
    };
    target.welcome = task.pool().welcome();
    if let Some(start) = task.replication() {
        target = target.for_replication(start);
    }
    let mut failure = match process.connector.connect(&target, worker).await {
        Ok(conn) if is_unwanted(&task, &conn) => {
            tracing::warn!(database = %key.database, user = %key.user, "{STANDBY}, and the primary is waited for");
            conn.close();
            standby()
        }
        Ok(conn) => return task.opened(conn, Instant::now()),
        Err(error) => OpenError::from(error),
    };
    if let Some(entry) = config.database(&key.database) {
        origin.rotation.on_failure(entry.load_balance_hosts);
    }
    let theirs = config.settings.compatibility == Compatibility::PgBouncer;
    if theirs && task.replication().is_some() && failure.kind == OpenFailure::Refused {
        failure.report = Report::fatal(SqlState::PROTOCOL_VIOLATION, LOGIN_FAILED);
    }
    let now = Instant::now();
    if let (OpenFailure::Unreachable, Host::Name(name), true) =
        (failure.kind, &target.host, task.pool().awaits_server(now))
    {
        // It may have moved: the next attempt does not go by what is remembered.
        process.connector.dialer.names().doubt(name);
    }
    task.failed(failure, worker, now);
}

/// After a switchover the old name may still lead to the old server, which is a standby now.
fn is_unwanted(task: &OpenTask<ServerConn>, conn: &ServerConn) -> bool {
    conn.reported().role() == Role::Standby && task.pool().awaits_primary(Instant::now())
}

const STANDBY: &str = "the server is a standby";

fn standby() -> OpenError {
    let report = Report::fatal(SqlState::CANNOT_CONNECT_NOW, STANDBY)
        .hint("Its pool has had a primary, and waits for one for switchover_timeout.");
    OpenError { kind: OpenFailure::Unreachable, reason: STANDBY.to_owned(), report }
}

/// The password of the pool's entry. Else what its clients have shown, which may be more than is stored: keys, or a
/// password that is in no file; else what is stored for its user.
fn credentials(config: &Config, key: &PoolKey, origin: &Origin) -> Credentials {
    let has_own = config.database(&key.database).is_some_and(|entry| entry.password_of(&key.user).is_some());
    let shown = origin.credentials.lock().clone();
    if shown.secret.is_some() && !has_own { shown } else { stored_credentials(config, key) }
}
