//! A connection to PostgreSQL as a member of a pool, and why one could not be opened.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::connection::{Connection, OpenError};
use super::lease::{Lease, Resetting};
use super::schedule::OpenFailure;
use crate::ids::{PoolKey, WorkerId};
use crate::net;
use crate::server::{CancelRoute, ConnectError, QueryError, ServerConn, reset};
use crate::session::params::Values;
use crate::stats::{Address, Replication, ServerConnected};
use crate::wire::SqlState;

impl Connection for ServerConn {
    type Cancel = CancelRoute;

    fn connected(&self, pool: &PoolKey) -> ServerConnected {
        ServerConnected {
            id: self.id,
            pool: pool.clone(),
            peer: shown(self.peer, &self.endpoint),
            local: shown(self.local, &self.endpoint),
            replication: Replication::None,
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
        Arc::clone(&self.session.parameters.reported)
    }

    fn share_reported(&mut self, same: Arc<Values>) {
        self.session.parameters.reported = same;
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

impl From<ConnectError> for OpenError {
    fn from(error: ConnectError) -> Self {
        // A server that is starting up or shutting down will be back: src/backend/tcop/backend_startup.c.
        let kind = match &error {
            ConnectError::Rejected(report) if report.sqlstate == SqlState::CANNOT_CONNECT_NOW => {
                OpenFailure::Unreachable
            }
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
    pub async fn clean(self, limit: Duration) {
        self.give_back_after(async |conn| reset::clean(conn, limit).await).await;
    }

    async fn give_back_after(self, clean: impl AsyncFnOnce(ServerConn) -> Result<ServerConn, QueryError>) {
        let cleaned = self.converse(async |conn| clean(conn).await.map(|conn| (conn, ()))).await;
        // A failure has closed the connection and said so in the log.
        if let Ok((lease, ())) = cleaned {
            lease.pool().stats().cell(lease.home).reset();
            lease.cleaned().give_back(Instant::now());
        }
    }
}

/// The roster's form of an address. The port of a unix socket is in its name.
fn shown(address: net::Address, endpoint: &net::Endpoint) -> Address {
    match address {
        net::Address::Tcp(address) => Address::Tcp(address),
        net::Address::Unix { pid, .. } => {
            let port = match endpoint {
                net::Endpoint::Unix(path) => path.extension().and_then(|it| it.to_str()?.parse().ok()),
                net::Endpoint::Tcp(address) => Some(address.port()),
            };
            Address::Unix { pid: u32::try_from(pid).unwrap_or(0), port: port.unwrap_or(0) }
        }
    }
}
