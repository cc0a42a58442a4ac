//! One connection to a PostgreSQL server: opening it, queries of the pooler's own on it, cancelling on it.
//!
//! Owns the login, and every conversation that no client takes part in. It refuses to pool: who gets a connection,
//! and when one is opened or closed, is `pool`'s business. A conversation that goes wrong costs its connection: the
//! functions here take it and give it back only when it is idle again.

pub mod cancel;
pub mod conn;
pub mod connect;
pub mod handed;
pub mod idle;
mod inbox;
pub mod query;
pub mod reset;
pub mod target;

pub use cancel::{CancelError, CancelRoute, CancelSent};
pub use conn::ServerConn;
pub use connect::{ConnectError, Connector};
pub use handed::Handed;
pub use query::{QueryError, Row};
pub use target::{ReplicationStart, Rotation, Target};

use std::time::Duration;

/// Stands in for "no limit".
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
pub(crate) mod tests;
