//! What a pool must know of a server connection.
//!
//! The pool is written against this and not against sockets, so that a simulation can have servers without any.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::lease::{Lease, Resetting};
use super::schedule::OpenFailure;
use crate::ids::{PoolKey, WorkerId};
use crate::session::params::Values;
use crate::stats::ServerConnected;
use crate::wire::Report;

/// A server connection that is logged in.
pub trait Connection: Send + Sized + 'static {
    /// What it takes to cancel a query on it: address and key.
    type Cancel: Send + Sync + 'static;

    /// What the roster shows of it, as a server of `pool`.
    fn connected(&self, pool: &PoolKey) -> ServerConnected;

    /// The server's process, as its cancel key names it; 0 where it has none.
    fn backend(&self) -> u32;

    /// What it takes to cancel a query on it; `None` where that cannot be done.
    fn cancel(&self) -> Option<Self::Cancel>;

    /// The settings it has reported.
    fn reported(&self) -> Arc<Values>;

    /// Those that it reported when it was opened, for the welcome of clients: what one of them has set since is not for
    /// another.
    fn welcome(&self) -> Arc<Values>;

    /// Shares a set of settings that equals the one it has reported: equal sets are then found to be so by address.
    fn share_reported(&mut self, same: Arc<Values>);

    /// How many statements of clients it has prepared.
    fn prepared(&self) -> usize;

    /// The worker whose reactor has its socket.
    fn home(&self) -> WorkerId;

    /// Moves the socket to the reactor of the calling thread, which is `worker`.
    ///
    /// Errors: the reactor refuses; the connection is closed.
    fn rehome(self, worker: WorkerId) -> io::Result<Self>;

    /// Ready when there is something to read; else the waker is called once there is. May be called on any thread.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Reads what an idle server has said, without waiting: takes in settings, drops notices of no consequence.
    ///
    /// Errors: it is not fit for clients any more; the text says why, for the log.
    fn digest(&mut self) -> Result<(), String>;

    /// Says goodbye as far as that is possible without waiting, and closes.
    fn close(self);
}

/// Why a server could not be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenError {
    /// Whether waiting may help.
    pub kind: OpenFailure,
    /// What it says; PgBouncer's words where it has some.
    pub reason: String,
    /// What a client that waited for it is told: the server's own error, if it sent one.
    pub report: Report,
}

/// Why a client gets no server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The server refused the login that the client was waiting for.
    OpenFailed(Arc<OpenError>),
    /// The server refused a login a short while ago, and it is too early to try again.
    StillFailing(Arc<OpenError>),
    /// Another connection asked for this one's query to be cancelled while it waited.
    Canceled,
    /// The process is shutting down.
    ShuttingDown,
    /// The server could not be taken over by the client's worker.
    Lost(String),
}

/// Opens servers, on some worker.
pub trait Opener<C: Connection>: Send + Sync + 'static {
    /// Begins to open a server on `worker` (`None`: any) and returns at once. What comes of it is told to `task`.
    fn open(&self, worker: Option<WorkerId>, task: super::OpenTask<C>);

    /// Begins to ask an idle server, on its home, whether it still answers, and returns at once. The server is then
    /// given back or closed.
    fn check(&self, lease: Lease<Resetting, C>);
}
