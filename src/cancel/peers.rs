//! Cancel requests for clients of other processes that share our port: `[peers]`.
//!
//! Owns how many connections lead to each peer. It refuses to look into a request: where it goes stands in its key.
//! Invariant: no more than `pool_size` connections lead to a peer, and a request loses a hop each time it is passed on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::carry::Means;
use super::{Served, with_a_hop_less};
use crate::config::{Config, Peer};
use crate::ids::PeerId;
use crate::stats::{CancelOf, ClientEntry};
use crate::wire::CancelKey;

/// The ways to all peers.
pub struct Peers {
    config: Arc<ArcSwap<Config>>,
    /// One for each peer that has been needed so far.
    pools: DashMap<PeerId, Arc<PeerPool>>,
}

/// The connections that lead to one peer.
#[derive(Default)]
struct PeerPool {
    used: AtomicUsize,
    freed: Notify,
    removed: CancellationToken,
}

/// A connection's place among those that may lead to a peer. Dropping it frees the place.
struct Place<'a>(&'a PeerPool);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::SeqCst);
        self.0.freed.notify_one();
    }
}

impl PeerPool {
    /// Waits for a place; first come, first served. Zero `size`: no limit. Cancel safe.
    async fn place(&self, size: impl Fn() -> usize) -> Place<'_> {
        let taken = |used: usize| (size() == 0 || used < size()).then_some(used + 1);
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Enabled before the look, so that a place freed after the look is not missed.
            freed.as_mut().enable();
            if self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken).is_ok() {
                return Place(self);
            }
            freed.await;
        }
    }
}

impl Peers {
    /// Those of the configuration in force.
    pub fn new(config: Arc<ArcSwap<Config>>) -> Self {
        Self { config, pools: DashMap::new() }
    }

    /// The peers that a request has been passed on to, or was to be.
    pub fn used(&self) -> Vec<PeerId> {
        let mut used: Vec<_> = self.pools.iter().map(|it| *it.key()).collect();
        used.sort_unstable();
        used
    }

    /// Another configuration is in force than `before`: what is on its way to peers that are gone is given up.
    pub fn reload(&self, before: &Config) {
        let config = self.config.load();
        for id in before.peers.keys().filter(|id| !config.peers.contains_key(id)) {
            tracing::warn!("dropping peer {id} as it does not exist anymore");
            if let Some((_, pool)) = self.pools.remove(&PeerId(*id)) {
                pool.removed.cancel();
            }
        }
        // There may be more places than before.
        self.pools.iter().for_each(|pool| pool.freed.notify_waiters());
    }

    /// Passes a request on and waits until the peer has dealt with it. Dropping the future half-way is safe.
    pub(super) async fn pass_on(
        &self,
        key: &CancelKey,
        to: PeerId,
        request: &ClientEntry,
        means: Means<'_>,
    ) -> Served {
        let Some(key) = with_a_hop_less(key) else { return Served::HopsExhausted };
        if self.peer(to).is_none() {
            return Served::NoPeer;
        }
        let pool = Arc::clone(&self.pools.entry(to).or_default());
        tracing::debug!("forwarding cancellation request to peer {to}");
        request.requests_cancel(CancelOf::Peer(to));
        tokio::select! {
            served = self.carry(&pool, &key, to, (request, means)) => served,
            () = pool.removed.cancelled() => Served::PeerRemoved,
        }
    }

    fn peer(&self, id: PeerId) -> Option<Peer> {
        self.config.load().peers.get(&id.0).cloned()
    }

    fn size_of(&self, id: PeerId) -> usize {
        let config = self.config.load();
        let own = config.peers.get(&id.0).and_then(|peer| peer.pool_size);
        own.unwrap_or(config.settings.default_pool_size)
    }

    async fn carry(
        &self,
        pool: &PeerPool,
        key: &CancelKey,
        to: PeerId,
        (request, means): (&ClientEntry, Means<'_>),
    ) -> Served {
        let Ok(_place) = timeout(means.patience(), pool.place(|| self.size_of(to))).await else {
            return Served::TimedOut;
        };
        let Some(peer) = self.peer(to) else { return Served::PeerRemoved };
        let way = (&peer.host, peer.port);
        let acted = async {
            let sent = means.connector.pass_cancel_on(way, key, means.limit).await?;
            let _seat = means.show(&sent, &CancelOf::Peer(to), Some(request));
            sent.acted_on(means.limit).await
        };
        match acted.await {
            Ok(()) => Served::Sent,
            Err(error) => {
                tracing::warn!("cannot pass a cancel request on to peer {to}: {error}");
                if error.is_timeout() { Served::TimedOut } else { Served::Failed }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn places_are_limited_and_go_to_who_waits() {
        let pool = PeerPool::default();
        let first = pool.place(|| 1).await;
        let soon = Duration::from_millis(10);
        assert!(timeout(soon, pool.place(|| 1)).await.is_err());
        let (second, ()) = tokio::join!(timeout(soon, pool.place(|| 1)), async { drop(first) });
        assert!(second.is_ok());
        let _third = timeout(soon, pool.place(|| 0)).await.expect("no limit");
        assert_eq!(pool.used.load(Ordering::SeqCst), 2);
    }
}
