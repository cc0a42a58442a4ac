//! Cancel requests on their way: to PostgreSQL, or to the process that knows the client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{Found, Peers, Registry, Served};
use crate::ids::{PoolKey, WorkerId};
use crate::pool::{Caller, Cancel, Hold};
use crate::server::cancel::limit_of;
use crate::server::{CancelError, CancelSent, ConnectError, Connector, ServerConn};
use crate::stats::{
    CancelOf, ClientEntry, ClientState, Replication, Roster, ServerConnected, ServerSeat, ServerState,
    client_event,
};
use crate::wire::CancelKey;

/// With what a cancel request is carried out.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// Opens the connection that it takes.
    pub connector: &'a Connector,
    /// Shows that connection.
    pub roster: &'a Arc<Roster>,
    /// The worker that does it.
    pub worker: WorkerId,
    /// `cancel_wait_timeout`; zero: none.
    pub limit: Duration,
}

impl Means<'_> {
    /// How long a request may wait and take.
    pub(super) fn patience(&self) -> Duration {
        limit_of(self.limit)
    }

    /// Shows a connection that carries a request. It is on the roster until the seat is dropped.
    pub(super) fn show(
        &self,
        sent: &CancelSent,
        to: &CancelOf,
        request: Option<&ClientEntry>,
    ) -> Option<ServerSeat> {
        let (peer, local) = sent.addresses().ok()?;
        let (pool, peer_process) = match to {
            CancelOf::Pool(pool) => (pool.clone(), None),
            CancelOf::Peer(process) => (ServerConnected::no_pool(), Some(*process)),
        };
        let (replication, tls) = (Replication::None, None);
        let connected = ServerConnected { id: sent.id(), pool, peer_process, peer, local, replication, tls };
        let seat = self.roster.server(connected, Instant::now());
        seat.set_state(ServerState::ActiveCancel);
        if let Some(request) = request {
            request.set_state(ClientState::ActiveCancelRequest);
            request.set_link(Some(sent.id()));
            seat.set_link(Some(request.id()));
        }
        Some(seat)
    }
}

impl Registry {
    /// Carries a cancel request out, from the decision until PostgreSQL has acted on it, or the process whose client it
    /// is for. Nothing is answered, whatever comes of it.
    ///
    /// Dropping the future half-way is safe, but costs the server connection.
    pub async fn serve(
        &self,
        key: &CancelKey,
        peers: &Peers,
        request: &ClientEntry,
        means: Means<'_>,
    ) -> Served {
        if let (None, Some(peer)) = (self.owner(key), self.foreign(key)) {
            return peers.pass_on(key, peer, request, means).await;
        }
        // The turn comes before the decision: a query that ends while the request waits is not cancelled late.
        let Ok(Ok(_turn)) = timeout(means.patience(), self.turns.acquire()).await else {
            return Served::TimedOut;
        };
        match self.cancel(key) {
            Found::Ours(caller, cancel) => carry_out(&caller, cancel, request, means).await,
            Found::Console => Served::Console,
            Found::Foreign(_) | Found::Unknown => Served::Unknown,
        }
    }
}

async fn carry_out(
    caller: &Caller<ServerConn>,
    cancel: Cancel<ServerConn>,
    request: &ClientEntry,
    means: Means<'_>,
) -> Served {
    match cancel {
        Cancel::Send(hold) => {
            hold.pool().stats().cell(means.worker).cancel();
            request.requests_cancel(CancelOf::Pool(hold.pool().key().clone()));
            send(caller, hold, Some(request), means).await
        }
        Cancel::LeftQueue => {
            client_event!(debug, **caller.entry(), "cancelled while it waited for a server");
            Served::Sent
        }
        Cancel::Nothing => Served::Idle,
    }
}

/// Sends a cancel request to a server and waits until it has acted on it; meanwhile nobody else gets the server, nor
/// ever if it can't be known. `request`: the connection that asks for it, where it is not the pooler itself. Not cancel
/// safe: dropping it costs the server connection.
pub async fn send(
    caller: &Caller<ServerConn>,
    hold: Hold<ServerConn>,
    request: Option<&ClientEntry>,
    means: Means<'_>,
) -> Served {
    let key: PoolKey = hold.pool().key().clone();
    let Some(route) = hold.target() else {
        hold.ended();
        return Served::Failed;
    };
    let acted = async {
        let sent = means.connector.send_cancel(route, means.limit).await?;
        let _seat = means.show(&sent, &CancelOf::Pool(key), request);
        sent.acted_on(means.limit).await
    };
    match timeout(means.patience(), acted).await.unwrap_or(Err(CancelError::Timeout)) {
        Ok(()) => {
            client_event!(debug, **caller.entry(), "successfully sent cancel request");
            hold.ended();
            Served::Sent
        }
        Err(error) => {
            client_event!(warn, **caller.entry(), "failed cancel request: {error}");
            if !may_have_been_sent(&error) {
                hold.ended();
            }
            if error.is_timeout() { Served::TimedOut } else { Served::Failed }
        }
    }
}

/// Whether the request may be on its way all the same.
fn may_have_been_sent(error: &CancelError) -> bool {
    use ConnectError::{BytesBeforeTls, Dial, Tls, TlsAnswer, TlsRefused};
    let before =
        |error: &ConnectError| matches!(error, Dial(_) | Tls(_) | TlsRefused | BytesBeforeTls | TlsAnswer(_));
    !matches!(error, CancelError::Connect(error) if before(error))
}
