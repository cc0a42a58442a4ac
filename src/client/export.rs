//! Shows a conversation to who asks for its sockets: the console, and through it another process.
//!
//! Owns the questions that conversations have not answered yet. A conversation at rest gives its sockets and all its
//! state; one that moves gives no more than numbers. Invariant: who has been given a conversation and goes on with it
//! is the only one, as long as SUSPEND stays in force here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::{DashMap, DashSet};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::ids::ClientId;
use crate::net::Shared;
use crate::session::params::Values;
use crate::stats::ClientEntry;

/// How long a conversation may take to answer: its worker may be busy with others.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Whether a conversation stood still when it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It did: this is all of it.
    Still,
    /// Another process would find it half done.
    Moving,
}

/// A conversation as another process would need it.
#[derive(Debug)]
pub struct Exported {
    /// Whether the rest can be relied on.
    pub standing: Standing,
    /// The client's socket.
    pub client: Shared,
    /// The socket of the server that it has, and its facts.
    pub server: Option<(Shared, Vec<u8>)>,
    /// The relay.
    pub relay: Vec<u8>,
    /// True where nothing is under way that a process without the relay's state would spoil.
    pub is_plain: bool,
    /// The client's settings that servers report.
    pub reported: Arc<Values>,
}

/// The questions.
#[derive(Debug, Default)]
pub struct Exports {
    open: AtomicUsize,
    asked: DashMap<ClientId, Vec<oneshot::Sender<Exported>>>,
    given: DashSet<ClientId>,
    /// The session of the console through which another process is given everything.
    heir: AtomicU64,
}

/// No session.
const NOBODY: u64 = 0;

impl Exports {
    /// Asks a client's conversation. `None`: it has TLS or is ending, or does not answer.
    pub async fn ask(&self, entry: &ClientEntry) -> Option<Exported> {
        let (sender, answer) = oneshot::channel();
        self.asked.entry(entry.id()).or_default().push(sender);
        self.open.fetch_add(1, Ordering::SeqCst);
        entry.nudge();
        let answer = timeout(ANSWER_MAX, answer).await;
        // Others may have asked as well, and still wait.
        self.asked.remove_if_mut(&entry.id(), |_, askers| {
            askers.retain(|it| !it.is_closed());
            askers.is_empty()
        });
        self.open.fetch_sub(1, Ordering::SeqCst);
        answer.ok()?.ok()
    }

    /// Who asks this client's conversation. A plain load where nobody is asked.
    #[inline]
    pub(super) fn asked(&self, id: ClientId) -> Vec<oneshot::Sender<Exported>> {
        if self.open.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        self.asked.remove(&id).map(|(_, askers)| askers).unwrap_or_default()
    }

    /// From now on this session of the console speaks for the next process. False where another one does already.
    pub fn begin_giving(&self, session: ClientId) -> bool {
        let before = self.heir.compare_exchange(NOBODY, session.0, Ordering::SeqCst, Ordering::SeqCst);
        before.is_ok() || before == Err(session.0)
    }

    /// Another process has been given this client.
    pub fn give(&self, id: ClientId) {
        self.given.insert(id);
    }

    /// Whether another process has been given this client.
    pub fn is_given(&self, id: ClientId) -> bool {
        self.given.contains(&id)
    }

    /// Whether another process has been given anything.
    pub fn has_given(&self) -> bool {
        self.heir.load(Ordering::SeqCst) != NOBODY
    }

    /// This session has ended. If it was the one that spoke for the next process, that is gone without having begun,
    /// and everything is ours again: then true.
    pub fn take_back(&self, session: ClientId) -> bool {
        if self.heir.load(Ordering::SeqCst) != session.0 {
            return false;
        }
        self.given.clear();
        self.heir.store(NOBODY, Ordering::SeqCst);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::ids::WorkerId;
    use crate::stats::{Address, ClientConnected, Roster};

    #[tokio::test]
    async fn who_asks_takes_nobody_elses_question() {
        let (exports, roster) = (Exports::default(), Roster::new(Instant::now(), SystemTime::now()));
        let peer = Address::Tcp("127.0.0.1:5000".parse().unwrap());
        let connected = ClientConnected { id: ClientId(1), worker: WorkerId(0), local: peer.clone(), peer };
        let seat = roster.client(connected, Instant::now());
        let conversation = async {
            let askers = exports.asked(seat.id());
            assert_eq!(askers.len(), 2);
        };
        let (one, other, ()) = tokio::join!(exports.ask(&seat), exports.ask(&seat), conversation);
        assert!(one.is_none() && other.is_none(), "the conversation has said nothing");
        assert!(exports.asked(seat.id()).is_empty() && exports.asked.is_empty());
    }
}
