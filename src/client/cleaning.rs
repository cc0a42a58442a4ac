//! What is done to a server between two clients, while neither waits for it.

use std::rc::Rc;
use std::time::Duration;

use super::worker::Worker;
use crate::pool::{Lease, Resetting};

/// How long a server may take to be cleaned before it is closed.
const CLEANING_MAX: Duration = Duration::from_secs(30);

/// How much of a server is cleaned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// All of it, by `server_reset_query`; where there is none, what was left behind.
    ByResetQuery,
    /// What was left behind.
    LeftBehind,
}

/// Cleans a server after its client and gives it back to its pool.
pub fn start(worker: &Rc<Worker>, lease: Lease<Resetting>, extent: Extent) {
    let config = worker.config.load();
    let is_some = |it: &String| !it.trim().is_empty();
    let query = match extent {
        Extent::ByResetQuery => config.settings.server_reset_query.clone().filter(is_some),
        Extent::LeftBehind => None,
    };
    let entry = config.database(&lease.pool().key().database);
    let connect_query = entry.and_then(|it| it.connect_query.clone()).filter(is_some);
    tokio::task::spawn_local(async move {
        match query {
            Some(sql) => lease.reset(&sql, CLEANING_MAX).await,
            None => lease.clean(connect_query.as_deref(), CLEANING_MAX).await,
        }
    });
}
