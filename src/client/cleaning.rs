//! What is done to a server between two clients, while neither waits for it.

use std::rc::Rc;
use std::time::Duration;

use super::worker::Worker;
use crate::config::PoolMode;
use crate::pool::{Lease, Resetting};

/// How long a server may take to be cleaned before it is closed.
const CLEANING_MAX: Duration = Duration::from_secs(30);

/// Cleans a server after its client and gives it back to its pool: by `server_reset_query` where a client had it for
/// its whole session or `server_reset_query_always` asks for it, else of nothing but what was left behind.
pub fn start(worker: &Rc<Worker>, lease: Lease<Resetting>) {
    let settings = &worker.config.load().settings;
    let whole_session = lease.pool().settings().mode == PoolMode::Session;
    let query = (whole_session || settings.server_reset_query_always)
        .then(|| settings.server_reset_query.clone())
        .flatten()
        .filter(|it| !it.trim().is_empty());
    tokio::task::spawn_local(async move {
        match query {
            Some(sql) => lease.reset(&sql, CLEANING_MAX).await,
            None => lease.clean(CLEANING_MAX).await,
        }
    });
}
