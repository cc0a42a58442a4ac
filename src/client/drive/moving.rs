//! The driver's part in a change of workers: a conversation at rest is taken apart here and put together there.

use std::io;
use std::rc::Rc;
use std::task::{Context, Waker};

use super::{Driver, Flush, Parts};
use crate::client::staffing::Place;
use crate::client::worker::Worker;
use crate::net::Detached;
use crate::pool::{Busy, Claim, Lease, Participant, PoolClient};
use crate::server::ServerConn;
use crate::session::relay::Relay;

/// A conversation between two workers. Dropping it closes its connections.
#[must_use = "dropping it closes the client's connection"]
pub struct Departed {
    client: Detached,
    place: Place,
    claim: Claim<ServerConn>,
    participant: Participant,
    pool: PoolClient,
    lease: Option<Lease<Busy>>,
    relay: Relay,
}

impl Driver {
    /// Whether the conversation belongs on another worker, and nothing of it is under way that keeps it here.
    pub(super) fn is_to_move(&mut self, cx: &mut Context<'_>) -> bool {
        let at_work = self.worker.staffing.at_work();
        if self.at_work == at_work {
            return false;
        }
        if self.worker.staffing.home(self.place) == self.worker.id {
            self.at_work = at_work;
            return false;
        }
        let is_flushed = self.client_flush == Flush::Done && self.server_flush == Flush::Done;
        let is_quiet = !self.relay.wants_server() && !self.relay.is_busy() && self.relay.is_at_rest();
        let may_go = self.client.is_some() && self.give_up.is_none();
        // Where a ring has received what comes next, that wakes the task, and it is taken in first.
        is_flushed && is_quiet && may_go && self.are_sockets_at_rest(cx)
    }

    /// Takes the conversation off this worker. To be called where [`Driver::run`] has said that it moves.
    ///
    /// Errors: its client is gone; its connections are closed.
    pub fn depart(self) -> io::Result<Departed> {
        let client = self.client.ok_or(io::ErrorKind::NotConnected)?.detach()?;
        let Self { place, claim, participant, pool, mut lease, relay, .. } = self;
        if let Some(lease) = &mut lease {
            // As of an idle server: what its reactor has begun for it comes to an end.
            let _ = lease.stream.poll_readable(&mut Context::from_waker(Waker::noop()));
        }
        Ok(Departed { client, place, claim, participant, pool, lease, relay })
    }
}

impl Departed {
    /// Its place in the order of arrival.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Puts it together again on the calling thread, which is `worker`.
    ///
    /// Errors: the reactor refuses; its connections are closed.
    pub fn arrive(self, worker: Rc<Worker>) -> io::Result<Driver> {
        let Self { client, place, claim, participant, pool, lease, relay } = self;
        let client = client.attach()?;
        claim.caller().entry().moved(worker.id);
        let lease = lease.map(|it| it.come_home(worker.id)).transpose().map_err(io::Error::other)?;
        let input = bytes::BytesMut::new();
        Ok(Driver::new(worker, Parts { client, input, place, claim, participant, pool, lease, relay }))
    }
}
