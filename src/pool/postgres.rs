//! A connection to PostgreSQL as a member of a pool, and why one could not be opened.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::connection::{Connection, OpenError};
use super::lease::{Lease, Resetting};
use super::schedule::OpenFailure;
use crate::ids::{PoolKey, WorkerId};
use crate::server::{CancelRoute, ConnectError, QueryError, ServerConn, query, reset};
use crate::session::params::Values;
use crate::stats::ServerConnected;
use crate::wire::SqlState;

impl Connection for ServerConn {
    type Cancel = CancelRoute;

    fn connected(&self, pool: &PoolKey) -> ServerConnected {
        ServerConnected {
            id: self.id,
            pool: pool.clone(),
            peer_process: None,
            peer: self.peer.on_roster_at(&self.endpoint),
            local: self.local.on_roster_at(&self.endpoint),
            replication: self.replication,
            tls: self.stream.tls_info().map(|info| info.to_string().into()),
        }
    }

    fn backend(&self) -> u32 {
        self.key.as_ref().map_or(0, |key| key.pid)
    }

    fn cancel(&self) -> Option<CancelRoute> {
        self.cancel_route()
    }

    fn reported(&self) -> Arc<Values> {
        self.session.as_ref().map(|it| Arc::clone(&it.parameters.reported)).unwrap_or_default()
    }

    fn welcome(&self) -> Arc<Values> {
        self.session.as_ref().map(|it| it.defaults()).unwrap_or_default()
    }

    fn share_reported(&mut self, same: Arc<Values>) {
        self.session().share_defaults(same);
    }

    fn prepared(&self) -> usize {
        self.session.as_ref().map_or(0, |it| it.shelf.len())
    }

    fn home(&self) -> WorkerId {
        self.home
    }

    fn rehome(self, worker: WorkerId) -> io::Result<Self> {
        self.rehome(worker)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_readable(cx)
    }

    fn digest(&mut self) -> Result<(), String> {
        self.hear_idle().map_err(|error| error.to_string())
    }

    fn close(self) {
        self.close();
    }
}

/// A server that is starting up or shutting down says so by these.
const AWAY: [SqlState; 3] =
    [SqlState::CANNOT_CONNECT_NOW, SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN];

impl From<ConnectError> for OpenError {
    fn from(error: ConnectError) -> Self {
        // A server that is starting up or shutting down will be back: src/backend/tcop/backend_startup.c.
        let kind = match &error {
            ConnectError::Rejected(report) if AWAY.contains(&report.sqlstate) => OpenFailure::Unreachable,
            ConnectError::Rejected(_) | ConnectError::Auth(_) => OpenFailure::Refused,
            _ => OpenFailure::Unreachable,
        };
        Self { kind, reason: error.to_string(), report: error.report() }
    }
}

impl Lease<Resetting> {
    /// Runs `server_reset_query`, then gives the server back; closes it where that fails. Zero `limit`: none. Not
    /// cancel safe: dropping it closes the connection.
    pub async fn reset(self, sql: &str, limit: Duration) {
        self.give_back_after(async |conn| reset::reset(conn, sql, limit).await).await;
    }

    /// Removes what the last client left behind and nothing else; otherwise as [`Lease::reset`].
    pub async fn clean(self, connect_query: Option<&str>, limit: Duration) {
        self.give_back_after(async |conn| reset::clean(conn, connect_query, limit).await).await;
    }

    /// Runs `server_check_query`; otherwise as [`Lease::reset`].
    pub async fn check(self, sql: &str, limit: Duration) {
        let checked =
            self.converse(async |conn| query::run(conn, sql, limit).await.map(|conn| (conn, ()))).await;
        // A failure has closed the connection and said so in the log.
        if let Ok((lease, ())) = checked {
            lease.cleaned().give_back(Instant::now());
        }
    }

    async fn give_back_after(self, clean: impl AsyncFnOnce(ServerConn) -> Result<ServerConn, QueryError>) {
        // A late one for the client before would hit the cleaning, and cost the connection.
        self.cancelled().await;
        let cleaned = self.converse(async |conn| clean(conn).await.map(|conn| (conn, ()))).await;
        if let Ok((lease, ())) = cleaned {
            lease.pool().stats().cell(lease.home).reset();
            lease.cleaned().give_back(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use arc_swap::ArcSwap;
    use parking_lot::Mutex;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::config::{Config, Database};
    use crate::ids::{ClientId, ServerId};
    use crate::net::{self, Endpoint, Stream};
    use crate::pool::{Answer, Claim, OpenTask, Opener, Pools, PoolsSetup};
    use crate::session::server::Server;
    use crate::session::verdict::Done;
    use crate::stats::{Address, ClientConnected, Roster};

    /// Opens servers over pairs of sockets, and keeps the other ends.
    #[derive(Default)]
    struct Pairs {
        ends: Mutex<Vec<Stream>>,
        next: AtomicU64,
    }

    impl Opener<ServerConn> for Pairs {
        fn open(&self, worker: Option<WorkerId>, task: OpenTask<ServerConn>) {
            let (stream, end) = Stream::pair().unwrap();
            self.ends.lock().push(end);
            let address = net::Address::Unix { pid: 0, uid: 0 };
            let conn = ServerConn {
                replication: crate::stats::Replication::None,
                id: ServerId(self.next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)),
                stream,
                session: Some(Box::new(Server::new(Arc::default()))),
                key: None,
                endpoint: Endpoint::Unix("/run/.s.PGSQL.5432".into()),
                peer: address,
                local: address,
                tls: None,
                host: String::new(),
                created: Instant::now(),
                home: worker.unwrap_or(WorkerId(0)),
            };
            task.opened(conn, Instant::now());
        }

        fn check(&self, lease: Lease<Resetting>) {
            lease.cleaned().give_back(Instant::now());
        }
    }

    /// An idle server in a pool, and its other end.
    async fn idle_server() -> (Arc<Pools>, Arc<Roster>, Stream) {
        let opener = Arc::new(Pairs::default());
        let roster = Roster::new(Instant::now(), std::time::SystemTime::now());
        let mut config = Config::default();
        config.settings.default_pool_size = 1;
        config.databases.insert("a".into(), Database::default());
        let pools = Pools::new(PoolsSetup {
            config: Arc::new(ArcSwap::from_pointee(config)),
            roster: Arc::clone(&roster),
            opener: Arc::clone(&opener) as Arc<dyn Opener<ServerConn>>,
            workers: 1,
        });
        let peer = Address::Unix { pid: 0, port: 6432 };
        let connected = ClientConnected { id: ClientId(1), worker: WorkerId(0), local: peer.clone(), peer };
        let seat = roster.client(connected, Instant::now());
        let claim = Claim::new(Arc::clone(seat.entry()));
        let pool = pools.enter(&PoolKey { database: "a".into(), user: "u".into() });
        let lease = match claim.checkout(&pool, Instant::now()) {
            Answer::Waiting => claim.granted().await.unwrap(),
            _ => panic!("there was no server yet"),
        };
        lease.done(Done::assumed()).give_back(Instant::now());
        let end = opener.ends.lock().pop().unwrap();
        (pools, roster, end)
    }

    /// Looks after the pools until `done`.
    async fn tend_until(pools: &Pools, done: impl Fn() -> bool) {
        let watch = async {
            while !done() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = pools.tend() => {}
            () = watch => {}
        }
    }

    #[tokio::test]
    async fn the_reactor_tells_when_an_idle_server_closes_the_connection() {
        let (pools, roster, end) = idle_server().await;
        assert_eq!(roster.server_count(), 1);
        drop(end);
        tend_until(&pools, || roster.server_count() == 0).await;
    }

    #[tokio::test]
    async fn an_idle_server_that_says_what_belongs_to_a_query_is_closed() {
        let (pools, roster, mut end) = idle_server().await;
        end.write_all(b"Z\0\0\0\x05I").await.unwrap();
        tend_until(&pools, || roster.server_count() == 0).await;
    }

    #[test]
    fn a_server_that_starts_up_may_be_waited_for() {
        use crate::wire::Report;
        let rejected = |sqlstate| ConnectError::Rejected(Box::new(Report::fatal(sqlstate, "no")));
        for (error, kind) in [
            (rejected(SqlState::CANNOT_CONNECT_NOW), OpenFailure::Unreachable),
            (rejected(SqlState::ADMIN_SHUTDOWN), OpenFailure::Unreachable),
            (rejected(SqlState::INVALID_AUTHORIZATION), OpenFailure::Refused),
            (ConnectError::Timeout, OpenFailure::Unreachable),
        ] {
            assert_eq!(OpenError::from(error).kind, kind);
        }
    }
}
