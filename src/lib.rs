//! pgweir, a PostgreSQL connection pooler that takes PgBouncer's place.
//!
//! # Modules, in the order in which they may use each other
//!
//! `ids`, `wire`, `sql`, `config`, `stats`, `prepared`, `session`, `auth` are pure: no sockets, tasks, clock or randomness
//! of their own. Below them `net`, `server`, `pool`, `cancel`, `client`, `admin`, `handover`, `app`, `cli` do the input and
//! output. `tests/architecture.rs` holds this order to the code.
//!
//! # Invariants
//!
//! - No client waits while a fitting server is idle. Limits are never exceeded, even for an instant.
//! - A server goes back to its pool only when it is idle in no transaction, owes nothing and is clean.
//! - Every byte a client sends is answered by its own server or by one error. A reply never reaches another client.
//!   A cancel never hits another client's query.
//! - Every queue, cache, buffer, retry and loop has a named limit. A bad file changes nothing.
//! - Bytes from the network are never a reason to panic. Secrets never reach a log, `Debug`, SHOW or a metric.

pub mod ids;
pub mod wire;

pub mod sql;

pub mod config;

pub mod stats;

pub mod prepared;

pub mod session;

pub mod auth;

pub mod net;

pub mod server;

pub mod pool;

pub mod cancel;

pub mod client;

pub mod admin;

pub mod handover;

pub mod app;

pub mod cli;

use std::process::ExitCode;

/// Runs the program with the process's own arguments.
pub fn run() -> ExitCode {
    cli::run(std::env::args_os())
}
