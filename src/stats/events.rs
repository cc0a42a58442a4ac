//! Log lines about one client or one server.
//!
//! Owns the fields that such a line carries: `side` (`C` or `S`), `id`, `database`, `user` and `peer`, as in the prefix
//! of PgBouncer's lines, so that a line can be found by any of them. While a server connects a span carries them
//! ([`server_span`]), while a client logs in [`Served`](super::Served) does, and every line within has them; on the path
//! of queries, where entering a span would cost time and keeping one memory, the few lines there are go through
//! [`client_event`] and [`server_event`].

use std::fmt::Display;

use tracing::Span;

use crate::ids::{PoolKey, ServerId};

/// The span of a server's connecting and login. `peer` is its address, where it is known already.
pub fn server_span(id: ServerId, pool: &PoolKey, peer: &dyn Display) -> Span {
    let (database, user) = (pool.database.as_str(), pool.user.as_str());
    // At the level of errors: a span below the log's level would leave warnings and errors without a prefix.
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
