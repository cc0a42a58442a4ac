//! What all conversations of one worker share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::export::Exports;
use super::staffing::Staffing;
use crate::config::{ClientSettings, Config};
use crate::ids::WorkerId;
use crate::prepared::Registry;
use crate::server::Connector;
use crate::session::params::SharedValues;
use crate::session::pipe::Spare;
use crate::stats::Roster;

/// A worker as its clients see it. It stays on its thread.
pub struct Worker {
    /// Its number.
    pub id: WorkerId,
    /// Buffers that no client uses just now. Borrowed only between two awaits.
    pub spare: RefCell<Spare>,
    /// The time of the turn that is being taken: a conversation asks the clock once for all that it finds to do.
    pub now: Cell<Instant>,
    /// What clients have in common, held once. Borrowed only between two awaits.
    pub shared: RefCell<Shared>,
    /// The statements all clients share.
    pub registry: Arc<Registry>,
    /// Who is connected.
    pub roster: Arc<Roster>,
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Sends cancel requests.
    pub connector: Arc<Connector>,
    /// Whose clients are at home here.
    pub staffing: Arc<Staffing>,
    /// Who asks for conversations.
    pub exports: Arc<Exports>,
}

/// What a worker's clients have in common, so that each costs only what is its own.
#[derive(Debug, Default)]
pub struct Shared {
    /// Sets of settings.
    pub values: SharedValues,
    limits: Option<Rc<ClientSettings>>,
    tls: Option<Arc<str>>,
}

impl Shared {
    /// A client's limits, shared with the client before it where they are the same.
    pub fn limits(&mut self, limits: ClientSettings) -> Rc<ClientSettings> {
        match &self.limits {
            Some(same) if **same == limits => Rc::clone(same),
            _ => Rc::clone(self.limits.insert(Rc::new(limits))),
        }
    }

    /// What a client's TLS handshake came to, shared likewise.
    pub fn tls(&mut self, text: &str) -> Arc<str> {
        match &self.tls {
            Some(same) if **same == *text => Arc::clone(same),
            _ => Arc::clone(self.tls.insert(text.into())),
        }
    }
}
