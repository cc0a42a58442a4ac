//! Log lines about one client or one server.
//!
//! Owns the fields that such a line carries: `side` (`C` or `S`), `id`, `database`, `user` and `peer`, as in the prefix
//! of PgBouncer's lines, so that a line can be found by any of them. While a client logs in or a server connects, a span
//! carries them ([`client_span`], [`server_span`]) and every line within has them; on the path of queries, where
//! entering a span would cost time and keeping one memory, the few lines there are go through [`client_event`] and
//! [`server_event`].

use std::fmt::Display;

use tracing::Span;
use tracing::field::{Empty, display};

use crate::ids::{ClientId, PoolKey, ServerId};

/// The span of a client's start-up and login. Its database and user follow by [`name_client`].
pub fn client_span(id: ClientId, peer: &dyn Display) -> Span {
    // At the level of errors: a span below the log's level would leave warnings and errors without a prefix.
    tracing::error_span!("client", side = "C", id = id.0, peer = %peer, database = Empty, user = Empty)
}

/// The names of a start-up packet, for the lines to come in that client's span.
pub fn name_client(span: &Span, database: &dyn Display, user: &dyn Display) {
    span.record("database", display(database));
    span.record("user", display(user));
}

/// The span of a server's connecting and login. `peer` is its address, where it is known already.
pub fn server_span(id: ServerId, pool: &PoolKey, peer: &dyn Display) -> Span {
    let (database, user) = (pool.database.as_str(), pool.user.as_str());
    tracing::error_span!("server", side = "S", id = id.0, database, user, peer = %peer)
}

/// Logs about a client: `client_event!(info, entry, "login attempt: db={database}")`. The entry is a
/// [`ClientEntry`](crate::stats::ClientEntry), or something that derefs to one; more fields may precede the message.
#[macro_export]
macro_rules! client_event {
    ($level:ident, $entry:expr, $($rest:tt)+) => {{
        let entry: &$crate::stats::ClientEntry = &$entry;
        ::tracing::$level!(
            side = "C",
            id = entry.id().0,
            database = entry.database_name(),
            user = entry.user_name(),
            peer = %entry.connected.peer,
            $($rest)+
        );
    }};
}
pub use client_event;

/// Logs about a server connection, as [`client_event`] does about a client.
#[macro_export]
macro_rules! server_event {
    ($level:ident, $entry:expr, $($rest:tt)+) => {{
        let entry: &$crate::stats::ServerEntry = &$entry;
        ::tracing::$level!(
            side = "S",
            id = entry.id().0,
            database = entry.connected.pool.database.as_str(),
            user = entry.connected.pool.user.as_str(),
            peer = %entry.connected.peer,
            $($rest)+
        );
    }};
}
pub use server_event;
