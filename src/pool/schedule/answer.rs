//! What a schedule answers, and what it is told: values without behaviour.

use std::fmt;

use super::{Seat, WaitTicket, Waiter};
use crate::ids::{ClientId, WorkerId};

/// Why the pool closes a server. The texts are PgBouncer's, for those who search logs for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// RECONNECT, or another configuration: it was idle.
    Obsolete,
    /// The same, and it was released.
    CloseNeeded,
    /// `server_lifetime`.
    Lifetime,
    /// `server_idle_timeout`.
    IdleTimeout,
    /// The pool has become smaller.
    TooMany,
    /// PAUSE.
    Paused,
    /// Another pool of the same database or user needs the connection.
    Evicted,
    /// KILL, or the pool is being removed.
    Killed,
    /// It was one client's own, and that client has gone.
    OwnerGone,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Obsolete => "database configuration changed",
            Self::CloseNeeded => "close_needed",
            Self::Lifetime => "server lifetime over",
            Self::IdleTimeout => "server idle timeout",
            Self::TooMany => "too many servers in the pool",
            Self::Paused => "pause mode",
            Self::Evicted => "evicted",
            Self::Killed => "database removed",
            Self::OwnerGone => "replication client was closed",
        })
    }
}

/// A client that asks for a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asker {
    /// Who.
    pub client: ClientId,
    /// The worker it lives on.
    pub worker: WorkerId,
}

/// Whom a server serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// One client after the other.
    Everybody,
    /// The one client that waited with this ticket, and nobody after it.
    Owner(WaitTicket),
}

/// The answer to a client that asks for a server.
#[derive(Debug)]
pub enum Checkout<S, E> {
    /// Here it is.
    Granted {
        /// Its place.
        seat: Seat,
        /// The server.
        server: S,
    },
    /// It waits. The caller must now look at [`super::Schedule::next_open`].
    Waits(WaitTicket),
    /// The last connect failed, there is no server, and it is too early to try again.
    Refused(E),
}

/// What becomes of a server that comes back. The caller must now look at [`super::Schedule::next_open`] unless it was kept.
#[must_use = "the server in it must be passed on or closed"]
#[derive(Debug)]
pub enum Release<S, W> {
    /// It belongs to this client now.
    HandTo {
        /// Whose turn it is.
        waiter: Waiter<W>,
        /// Its place.
        seat: Seat,
        /// The server.
        server: S,
    },
    /// It is idle.
    Kept,
    /// It is idle, but nobody may have it until cancel requests have ended.
    Held,
    /// To be closed, and then reported by [`super::Schedule::gone`].
    Close(Closing<S>),
}

/// A server to be closed, and then to be reported by [`super::Schedule::gone`]: until then it counts.
#[derive(Debug)]
pub struct Closing<S> {
    /// Its place.
    pub seat: Seat,
    /// The server.
    pub server: S,
    /// Why.
    pub reason: CloseReason,
}

/// What kind of failure ended an attempt to open a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenFailure {
    /// The server refused the login; it will refuse the next one, too.
    Refused,
    /// It could not be reached, or not in time, or it is starting up (57P03): waiting may help.
    Unreachable,
}

/// A place for a new server. The caller opens it and reports [`super::Schedule::opened`], [`super::Schedule::open_failed`] or
/// [`super::Schedule::open_abandoned`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opening {
    /// Its place.
    pub seat: Seat,
    /// Whom it will serve.
    pub audience: Audience,
    /// Whether it is one beyond `pool_size`.
    pub from_reserve: bool,
    /// The worker of the client that has waited longest; none where only `min_pool_size` asks for it.
    pub worker: Option<WorkerId>,
    /// The server will be obsolete once [`super::Schedule::generation`] differs.
    pub generation: u32,
}

/// Whether servers are given out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// They are.
    Running,
    /// Clients wait, released servers are closed: PAUSE.
    Paused,
}
