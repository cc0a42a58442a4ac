//! Log lines about one client or one server.
//!
//! Owns the fields that such a line carries: `side` (`C` or `S`), `id`, `database`, `user` and `peer`, as in the prefix
//! of PgBouncer's lines. Every module logs through these macros, so that a line can be found by any of them.

/// Logs about a client: `client_event!(info, entry, "login attempt: db={database}")`. The entry is a
/// [`ClientEntry`](crate::stats::ClientEntry), or something that derefs to one; more fields may precede the message.
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
pub(crate) use client_event;

/// Logs about a server connection, as [`client_event`] does about a client.
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
pub(crate) use server_event;
