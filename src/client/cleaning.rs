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
    let query = match extent {
        Extent::ByResetQuery => worker.config.load().settings.server_reset_query.clone(),
        Extent::LeftBehind => None,
    };
    let query = query.filter(|it| !it.trim().is_empty());
    tokio::task::spawn_local(async move {
        match query {
            Some(sql) => lease.reset(&sql, CLEANING_MAX).await,
            None => lease.clean(CLEANING_MAX).await,
        }
    });
}
