//! What all conversations of one worker share.

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::Config;
use crate::ids::WorkerId;
use crate::prepared::Registry;
use crate::server::Connector;
use crate::session::pipe::Spare;
use crate::stats::Roster;

/// A worker as its clients see it. It stays on its thread.
pub struct Worker {
    /// Its number.
    pub id: WorkerId,
    /// Buffers that no client uses just now. Borrowed only between two awaits.
    pub spare: RefCell<Spare>,
    /// The statements all clients share.
    pub registry: Arc<Registry>,
    /// Who is connected.
    pub roster: Arc<Roster>,
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Sends cancel requests.
    pub connector: Arc<Connector>,
}
