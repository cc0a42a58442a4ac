//! Cancel keys: minted for clients, found again, and carried out.
//!
//! Owns the map from keys to clients. It refuses to decide what a client is doing: that is asked under the client's own
//! lock ([`Caller::cancel`]), so that a cancel reaches the query it was meant for or nothing. Invariants: an unknown key
//! and one of an idle client look the same from outside; keys are compared in constant time.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use crate::ids::{PeerId, WorkerId};
use crate::pool::{Caller, Cancel, Connection, Hold};
use crate::server::{CancelError, ConnectError, Connector, ServerConn};
use crate::stats::client_event;
use crate::wire::CancelKey;

/// Cancel requests that are carried out at once; further ones wait for their turn.
pub const CANCELS_AT_ONCE_MAX: usize = 64;

/// How long a request may wait and take where `cancel_wait_timeout` sets no limit.
const UNLIMITED: Duration = Duration::from_secs(3600);

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
    owners: DashMap<u64, Owner<C>>,
    /// With random keys of its own: the time that a lookup takes says nothing about a secret.
    hasher: RandomState,
    /// Our own number among processes that share a port.
    peer: Option<PeerId>,
    turns: Semaphore,
}

/// A client's key. Dropping it takes the key out of use.
#[must_use = "dropping it takes the key out of use"]
pub struct Registration<C: Connection = ServerConn> {
    registry: Arc<Registry<C>>,
    hash: u64,
    key: CancelKey,
}

impl<C: Connection> Registration<C> {
    /// What the client is told.
    pub fn key(&self) -> &CancelKey {
        &self.key
    }
}

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
    /// A client of another process has it.
    Foreign(PeerId),
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "successfully sent cancel request",
            Self::Idle => "cancel request for idle client",
            Self::Console => "cancel request for console client",
            Self::Failed | Self::Unknown => "failed cancel request",
            Self::TimedOut => "cancel_wait_timeout",
            Self::Foreign(_) => "could not find peer to forward request to",
        })
    }
}

impl<C: Connection> Registry<C> {
    /// No keys yet. `peer`: our own number among processes that share a port.
    pub fn new(peer: Option<PeerId>) -> Arc<Self> {
        Arc::new(Self {
            owners: DashMap::new(),
            hasher: RandomState::new(),
            peer,
            turns: Semaphore::new(CANCELS_AT_ONCE_MAX),
        })
    }

    /// How many clients have a key.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether nobody has a key.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Mints a key for a client that speaks protocol 3.`minor`.
    ///
    /// Errors: no random bytes, or no free key.
    pub fn mint(self: &Arc<Self>, minor: u16, caller: &Arc<Caller<C>>) -> Result<Registration<C>, MintError> {
        self.mint_for(minor, &Whom::Client(Arc::clone(caller)))
    }

    /// Mints a key for a session of the console, which is told of a cancel by `told.notify_waiters()`.
    ///
    /// Errors: as [`Registry::mint`].
    pub fn mint_for_console(
        self: &Arc<Self>,
        minor: u16,
        told: &Arc<Notify>,
    ) -> Result<Registration<C>, MintError> {
        self.mint_for(minor, &Whom::Console(Arc::clone(told)))
    }

    fn mint_for(self: &Arc<Self>, minor: u16, whom: &Whom<C>) -> Result<Registration<C>, MintError> {
        let secret_bytes = if minor >= 2 { LONG_SECRET_BYTES } else { SHORT_SECRET_BYTES };
        let mut bytes = [0; 4 + LONG_SECRET_BYTES];
        let bytes = &mut bytes[..4 + secret_bytes];
        for _ in 0..MINT_TRIES {
            getrandom::fill(bytes).map_err(MintError::Random)?;
            // Some drivers take the process id for a signed number.
            bytes[0] &= 0x7f;
            if let Some(PeerId(peer)) = self.peer {
                bytes[PEER_BYTES].copy_from_slice(&peer.to_le_bytes());
                bytes[HOPS_BYTE] |= HOPS_MASK;
            }
            let pid = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let Some(key) = CancelKey::new(pid, &bytes[4..]) else { continue };
            let hash = self.hash(&key);
            if let Entry::Vacant(vacant) = self.owners.entry(hash) {
                vacant.insert(Owner { key: key.clone(), whom: whom.clone() });
                return Ok(Registration { registry: Arc::clone(self), hash, key });
            }
        }
        Err(MintError::NoneFree)
    }

    /// The key's first bytes, without the hops that change on the way.
    fn named(&self, key: &CancelKey) -> [u8; NAMED_BYTES] {
        let mut named = [0; NAMED_BYTES];
        named[..4].copy_from_slice(&key.pid.to_be_bytes());
        let length = key.secret().len().min(4);
        named[4..4 + length].copy_from_slice(&key.secret()[..length]);
        if self.peer.is_some() {
            named[HOPS_BYTE] |= HOPS_MASK;
        }
        named
    }

    fn hash(&self, key: &CancelKey) -> u64 {
        self.hasher.hash_one(self.named(key))
    }

    /// The key as it was minted: with all its hops.
    fn as_minted(&self, key: &CancelKey) -> Option<CancelKey> {
        let mut secret = key.secret().to_vec();
        if self.peer.is_some() {
            *secret.get_mut(HOPS_BYTE - 4)? |= HOPS_MASK;
        }
        CancelKey::new(key.pid, &secret)
    }

    fn owner(&self, key: &CancelKey) -> Option<Whom<C>> {
        let key = self.as_minted(key)?;
        let owner = self.owners.get(&self.hash(&key))?;
        // `CancelKey` compares in constant time.
        (owner.key == key).then(|| owner.whom.clone())
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

    fn foreign(&self, key: &CancelKey) -> Option<PeerId> {
        let named = self.named(key);
        let peer = PeerId(u16::from_le_bytes([named[PEER_BYTES.start], named[PEER_BYTES.start + 1]]));
        self.peer.filter(|own| *own != peer && peer.0 != 0).map(|_| peer)
    }
}

impl Registry {
    /// Carries a cancel request out, from the decision until PostgreSQL has acted on it. `limit` is
    /// `cancel_wait_timeout`; zero: none. Nothing is answered, whatever comes of it.
    ///
    /// Dropping the future half-way is safe, but costs the server connection.
    pub async fn serve(
        &self,
        key: &CancelKey,
        connector: &Connector,
        worker: WorkerId,
        limit: Duration,
    ) -> Served {
        let limit = if limit.is_zero() { UNLIMITED } else { limit };
        // The turn comes before the decision: a query that ends while the request waits is not cancelled late.
        let Ok(Ok(_turn)) = timeout(limit, self.turns.acquire()).await else {
            return Served::TimedOut;
        };
        match self.cancel(key) {
            Found::Ours(caller, cancel) => carry_out(&caller, cancel, connector, worker, limit).await,
            Found::Console => Served::Console,
            Found::Foreign(peer) => Served::Foreign(peer),
            Found::Unknown => Served::Unknown,
        }
    }
}

async fn carry_out(
    caller: &Caller<ServerConn>,
    cancel: Cancel<ServerConn>,
    connector: &Connector,
    worker: WorkerId,
    limit: Duration,
) -> Served {
    match cancel {
        Cancel::Send(hold) => {
            hold.pool().stats().cell(worker).cancel();
            send(caller, hold, connector, limit).await
        }
        Cancel::LeftQueue => {
            client_event!(debug, **caller.entry(), "cancelled while it waited for a server");
            Served::Sent
        }
        Cancel::Nothing => Served::Idle,
    }
}

/// Sends a cancel request to a server and waits until it has acted on it; meanwhile nobody else gets the server, nor
/// ever if it can't be known. Not cancel safe: dropping it costs the server connection.
pub async fn send(
    caller: &Caller<ServerConn>,
    hold: Hold<ServerConn>,
    connector: &Connector,
    limit: Duration,
) -> Served {
    let Some(route) = hold.target() else {
        hold.ended();
        return Served::Failed;
    };
    match connector.cancel(route, limit).await {
        Ok(()) => {
            client_event!(debug, **caller.entry(), "successfully sent cancel request");
            hold.ended();
            Served::Sent
        }
        Err(error) => {
            client_event!(warn, **caller.entry(), "failed cancel request: {error}");
            if !may_have_been_sent(&error) {
                hold.ended();
            }
            if error.is_timeout() { Served::TimedOut } else { Served::Failed }
        }
    }
}

/// Whether the request may be on its way all the same.
fn may_have_been_sent(error: &CancelError) -> bool {
    use ConnectError::{BytesBeforeTls, Dial, Tls, TlsAnswer, TlsRefused};
    let before =
        |error: &ConnectError| matches!(error, Dial(_) | Tls(_) | TlsRefused | BytesBeforeTls | TlsAnswer(_));
    !matches!(error, CancelError::Connect(error) if before(error))
}

#[cfg(test)]
mod tests;
