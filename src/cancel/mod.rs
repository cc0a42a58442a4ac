//! Cancel keys: minted for clients, found again, and carried out.
//!
//! Owns the map from keys to clients. It refuses to decide what a client is doing: that is asked under the client's own
//! lock ([`Caller::cancel`]), so that a cancel reaches the query it was meant for or nothing. Invariants: an unknown key
//! and one of an idle client look the same from outside; keys are compared in constant time.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{Notify, Semaphore};

use crate::ids::{ClientId, PeerId};
use crate::pool::{Caller, Cancel, Connection};
use crate::server::ServerConn;
use crate::wire::CancelKey;

mod carry;
mod peers;
mod random;

pub use carry::{Means, send};
pub use peers::Peers;

/// Cancel requests of clients that are carried out at once; further ones wait for their turn. The pooler's own, for
/// clients that have left a query behind, are never more than there are busy servers.
pub const CANCELS_AT_ONCE_MAX: usize = 64;

/// How often a key is drawn anew because another client has one with the same hash.
const MINT_TRIES: usize = 16;

/// The length of a key's secret in protocol 3.0, where it is fixed.
const SHORT_SECRET_BYTES: usize = 4;

/// The length that PostgreSQL chose for protocol 3.2: `MAX_CANCEL_KEY_LENGTH` in src/include/storage/procsignal.h.
const LONG_SECRET_BYTES: usize = 32;

/// The part of a key that tells clients apart: as long as the shortest key there is.
const NAMED_BYTES: usize = 8;

/// Where keys carry the number of the process that minted them, as in PgBouncer: bytes 1 and 2, low byte first.
const PEER_BYTES: std::ops::Range<usize> = 1..3;

/// How many times a request may still be passed on between processes: the low bits of byte 7, as in PgBouncer.
const HOPS_BYTE: usize = 7;
const HOPS_MASK: u8 = 0b11;

/// Why a key could not be minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
    /// Every key that was drawn is in use already.
    #[error("no cancel key is free")]
    NoneFree,
}

struct Owner<C: Connection> {
    key: CancelKey,
    whom: Whom<C>,
}

/// Who is cancelled with a key.
enum Whom<C: Connection> {
    /// A client of a pool.
    Client(Arc<Caller<C>>),
    /// A session of the console: it is told, and does the rest.
    Console(Arc<Notify>),
}

impl<C: Connection> Clone for Whom<C> {
    fn clone(&self) -> Self {
        match self {
            Self::Client(caller) => Self::Client(Arc::clone(caller)),
            Self::Console(told) => Self::Console(Arc::clone(told)),
        }
    }
}

/// The keys of all clients.
pub struct Registry<C: Connection = ServerConn> {
    owners: DashMap<u64, Owner<C>, foldhash::fast::RandomState>,
    /// With random keys of its own: the time that a lookup takes says nothing about a secret.
    hasher: RandomState,
    /// Our own number among processes that share a port; 0 where there are no others.
    peer: AtomicU16,
    turns: Semaphore,
}

/// A client's place among the keys. Dropping it takes the key out of use.
#[must_use = "dropping it takes the key out of use"]
pub struct Registration<C: Connection = ServerConn> {
    registry: Arc<Registry<C>>,
    hash: u64,
}

/// A client's place, and the key that it is told.
pub type Minted<C = ServerConn> = (Registration<C>, CancelKey);

impl<C: Connection> Drop for Registration<C> {
    fn drop(&mut self) {
        self.registry.owners.remove(&self.hash);
    }
}

/// Whose key it is.
pub enum Found<C: Connection = ServerConn> {
    /// A client of this process; this is what has become of it.
    Ours(Arc<Caller<C>>, Cancel<C>),
    /// A session of the console, which has been told.
    Console,
    /// A client of another process.
    Foreign(PeerId),
    /// Nobody's.
    Unknown,
}

/// What has become of a cancel request. The texts are PgBouncer's, as its log has them after `closing because:`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// PostgreSQL has got it, or a client that waited has left the queue.
    Sent,
    /// The client does nothing that could be cancelled.
    Idle,
    /// It is the console's.
    Console,
    /// It could not be sent, or there is no key to send.
    Failed,
    /// `cancel_wait_timeout` is over.
    TimedOut,
    /// Nobody has such a key.
    Unknown,
    /// It is for a client of a process that `[peers]` does not name.
    NoPeer,
    /// It has been passed on as often as it may.
    HopsExhausted,
    /// The peer that it was on its way to has left the configuration.
    PeerRemoved,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "successfully sent cancel request",
            Self::Idle => "cancel request for idle client",
            Self::Console => "cancel request for console client",
            Self::Failed | Self::Unknown => "failed cancel request",
            Self::TimedOut => "cancel_wait_timeout",
            Self::NoPeer => "could not find peer to forward request to",
            Self::HopsExhausted => "failed to forward cancel request because its TTL was exhausted",
            Self::PeerRemoved => "peer removed",
        })
    }
}

impl<C: Connection> Registry<C> {
    /// No keys yet. `peer`: our own number among processes that share a port.
    pub fn new(peer: Option<PeerId>) -> Arc<Self> {
        Arc::new(Self {
            owners: DashMap::default(),
            hasher: RandomState::new(),
            peer: AtomicU16::new(peer.map_or(0, |it| it.0)),
            turns: Semaphore::new(CANCELS_AT_ONCE_MAX),
        })
    }

    /// Has another number among processes that share a port, for the keys that are minted from now on. Those minted
    /// before keep their clients as long as they come to this process.
    pub fn set_peer(&self, peer: Option<PeerId>) {
        self.peer.store(peer.map_or(0, |it| it.0), Ordering::Relaxed);
    }

    fn peer(&self) -> Option<PeerId> {
        Some(self.peer.load(Ordering::Relaxed)).filter(|it| *it != 0).map(PeerId)
    }

    /// Gives back the room of keys that have gone out of use.
    pub fn shrink(&self) {
        self.owners.shrink_to_fit();
    }

    /// Mints a key for a client that speaks protocol 3.`minor`, which is to be told it. Among peers it is as short as in
    /// protocol 3.0, for a PgBouncer passes on no longer one.
    ///
    /// Errors: no random bytes, or no free key.
    pub fn mint(self: &Arc<Self>, minor: u16, caller: &Arc<Caller<C>>) -> Result<Minted<C>, MintError> {
        self.mint_for(minor, &Whom::Client(Arc::clone(caller)))
    }

    /// Mints a key for a session of the console, which is told of a cancel by `told.notify_waiters()`.
    ///
    /// Errors: as [`Registry::mint`].
    pub fn mint_for_console(
        self: &Arc<Self>,
        minor: u16,
        told: &Arc<Notify>,
    ) -> Result<Minted<C>, MintError> {
        self.mint_for(minor, &Whom::Console(Arc::clone(told)))
    }

    /// The keys of all clients of pools.
    pub fn keys(&self) -> HashMap<ClientId, CancelKey> {
        let key = |it: dashmap::mapref::multiple::RefMulti<'_, u64, Owner<C>>| match &it.whom {
            Whom::Client(caller) => Some((caller.id(), it.key.clone())),
            Whom::Console(_) => None,
        };
        self.owners.iter().filter_map(key).collect()
    }

    /// Takes in a key that another process has minted for a client. `None`: another client has one like it.
    pub fn adopt(self: &Arc<Self>, key: CancelKey, caller: &Arc<Caller<C>>) -> Option<Registration<C>> {
        let hash = self.hash(&key);
        let Entry::Vacant(vacant) = self.owners.entry(hash) else { return None };
        vacant.insert(Owner { key, whom: Whom::Client(Arc::clone(caller)) });
        Some(Registration { registry: Arc::clone(self), hash })
    }

    fn mint_for(self: &Arc<Self>, minor: u16, whom: &Whom<C>) -> Result<Minted<C>, MintError> {
        let peer = self.peer();
        let is_long = minor >= 2 && peer.is_none();
        let secret_bytes = if is_long { LONG_SECRET_BYTES } else { SHORT_SECRET_BYTES };
        let mut bytes = [0; 4 + LONG_SECRET_BYTES];
        let bytes = &mut bytes[..4 + secret_bytes];
        for _ in 0..MINT_TRIES {
            random::fill(bytes).map_err(MintError::Random)?;
            // Some drivers take the process id for a signed number.
            bytes[0] &= 0x7f;
            if let Some(PeerId(peer)) = peer {
                bytes[PEER_BYTES].copy_from_slice(&peer.to_le_bytes());
                bytes[HOPS_BYTE] |= HOPS_MASK;
            }
            let pid = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let Some(key) = CancelKey::new(pid, &bytes[4..]) else { continue };
            let hash = self.hash(&key);
            if let Entry::Vacant(vacant) = self.owners.entry(hash) {
                vacant.insert(Owner { key: key.clone(), whom: whom.clone() });
                return Ok((Registration { registry: Arc::clone(self), hash }, key));
            }
        }
        Err(MintError::NoneFree)
    }

    fn hash(&self, key: &CancelKey) -> u64 {
        self.hasher.hash_one(first_bytes(key))
    }

    fn owner(&self, key: &CancelKey) -> Option<Whom<C>> {
        let exact = self.owner_exactly(key);
        if exact.is_some() || self.peer().is_none() {
            return exact;
        }
        self.owner_exactly(&with_all_hops(key)?)
    }

    fn owner_exactly(&self, key: &CancelKey) -> Option<Whom<C>> {
        let owner = self.owners.get(&self.hash(key))?;
        // `CancelKey` compares in constant time.
        (owner.key == *key).then(|| owner.whom.clone())
    }

    /// Whose key it is; for a client of ours, cancels what that does now.
    pub fn cancel(&self, key: &CancelKey) -> Found<C> {
        match (self.owner(key), self.foreign(key)) {
            (Some(Whom::Client(caller)), _) => {
                let cancel = caller.cancel();
                Found::Ours(caller, cancel)
            }
            (Some(Whom::Console(told)), _) => {
                told.notify_waiters();
                Found::Console
            }
            (None, Some(peer)) => Found::Foreign(peer),
            (None, None) => Found::Unknown,
        }
    }

    /// The process that the key says it is from, where that is another one.
    fn foreign(&self, key: &CancelKey) -> Option<PeerId> {
        let named = first_bytes(key);
        let peer = PeerId(u16::from_le_bytes([named[PEER_BYTES.start], named[PEER_BYTES.start + 1]]));
        self.peer().filter(|own| *own != peer).map(|_| peer)
    }
}

fn first_bytes(key: &CancelKey) -> [u8; NAMED_BYTES] {
    let mut named = [0; NAMED_BYTES];
    named[..4].copy_from_slice(&key.pid.to_be_bytes());
    let length = key.secret().len().min(4);
    named[4..4 + length].copy_from_slice(&key.secret()[..length]);
    named
}

/// The key with another last byte of its first eight, which holds the hops.
fn with_hops(key: &CancelKey, change: impl FnOnce(u8) -> Option<u8>) -> Option<CancelKey> {
    let mut secret = key.secret().to_vec();
    let byte = secret.get_mut(HOPS_BYTE - 4)?;
    *byte = change(*byte)?;
    CancelKey::new(key.pid, &secret)
}

/// The key as a process among peers mints it.
fn with_all_hops(key: &CancelKey) -> Option<CancelKey> {
    with_hops(key, |byte| Some(byte | HOPS_MASK))
}

/// The key as it is passed on; `None` once it may not be passed on any more.
fn with_a_hop_less(key: &CancelKey) -> Option<CancelKey> {
    with_hops(key, |byte| (byte & HOPS_MASK > 0).then(|| byte - 1))
}

#[cfg(test)]
mod tests;
