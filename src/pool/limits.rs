//! Limits on server connections that several pools share: `max_db_connections`, `max_user_connections`.
//!
//! Owns the counters, the queue of pools that a full limit has left starving, and eviction: a pool that needs a
//! connection takes it from the pool of the same limit whose server has been idle longest. It refuses to know what a
//! pool is. Invariants: a limit is never exceeded, even for an instant; a pool that could not get a slot is told as soon
//! as one is free or can be freed.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::sync::{AtomicUsize, Mutex, Ordering};

/// A pool, as a limit sees it.
pub trait Contender: Send + Sync {
    /// A slot may be had: opens the servers that waiting clients need.
    fn serve(&self);
    /// Since when its longest idle server has been idle.
    fn longest_idle(&self) -> Option<Instant>;
    /// Closes its longest idle server and hands over its slot of `limit`.
    fn evict(&self, limit: &Arc<Limit>) -> Option<Slot>;
}

/// How often eviction looks again where the chosen server was taken by a client meanwhile.
const EVICTION_TRIES: usize = 4;

/// A limit, and who counts against it.
pub struct Limit {
    used: AtomicUsize,
    /// 0: no limit.
    max: AtomicUsize,
    /// The length of `starving`, to be read without its lock.
    starving_count: AtomicUsize,
    starving: Mutex<VecDeque<Weak<dyn Contender>>>,
    contenders: Mutex<Vec<Weak<dyn Contender>>>,
}

impl Limit {
    /// A limit; 0 is none, but is counted all the same.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            starving_count: AtomicUsize::new(0),
            starving: Mutex::default(),
            contenders: Mutex::default(),
        })
    }

    /// How many slots are taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How many there are; 0: no limit.
    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Changes the limit. Where it shrinks, nothing is closed, but nothing is opened either until it is kept again.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::SeqCst);
        self.wake();
    }

    /// A slot, if one is free.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let take = |used: usize| match self.max.load(Ordering::SeqCst) {
            0 => Some(used + 1),
            max => (used < max).then_some(used + 1),
        };
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok()?;
        Some(Slot { limit: Arc::clone(self) })
    }

    /// A slot for a connection that is there already, whatever the limit is by now: as after [`Self::set_max`], nothing
    /// is opened until it is kept again.
    pub(super) fn take_for_old(self: &Arc<Self>) -> Slot {
        self.used.fetch_add(1, Ordering::SeqCst);
        Slot { limit: Arc::clone(self) }
    }

    /// A slot, if need be one of another pool's idle server. Without one, `who` is told when it may try again; the
    /// caller holds no lock.
    pub(super) fn take_or_starve(self: &Arc<Self>, who: &Weak<dyn Contender>) -> Option<Slot> {
        // Registered before the second look: who frees a slot after that look finds `who` in the queue.
        self.take().or_else(|| self.evict()).or_else(|| {
            self.starve(who);
            self.take().or_else(|| self.evict())
        })
    }

    /// Adds a pool whose idle servers may be evicted for another's sake.
    pub(super) fn register(&self, contender: Weak<dyn Contender>) {
        let mut contenders = self.contenders.lock();
        // Now and then: there may be thousands.
        if contenders.len() == contenders.capacity() {
            contenders.retain(|it| it.strong_count() > 0);
        }
        contenders.push(contender);
    }

    fn evict(self: &Arc<Self>) -> Option<Slot> {
        let contenders = self.contenders();
        for _ in 0..EVICTION_TRIES {
            let idle = contenders.iter().filter_map(|it| Some((it.longest_idle()?, it)));
            let (_, pool) = idle.min_by_key(|(since, _)| *since)?;
            if let Some(slot) = pool.evict(self) {
                return Some(slot);
            }
        }
        None
    }

    fn contenders(&self) -> Vec<Arc<dyn Contender>> {
        self.contenders.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether there is no slot, nor an idle server that could give up its own. The caller holds no lock.
    pub(super) fn is_exhausted(&self) -> bool {
        let max = self.max();
        max > 0 && self.used() >= max && self.contenders().iter().all(|it| it.longest_idle().is_none())
    }

    fn starve(&self, who: &Weak<dyn Contender>) {
        let mut starving = self.starving.lock();
        if !starving.iter().any(|it| it.ptr_eq(who)) {
            starving.push_back(Weak::clone(who));
            self.starving_count.store(starving.len(), Ordering::SeqCst);
        }
    }

    /// Whether this pool has not been told since it was left without a slot.
    pub(super) fn has_starving(&self, who: &Weak<dyn Contender>) -> bool {
        self.starving.lock().iter().any(|it| it.ptr_eq(who))
    }

    /// Whether some pool waits for a slot.
    pub(super) fn is_starving(&self) -> bool {
        self.starving_count.load(Ordering::SeqCst) > 0
    }

    /// Lets the starving pools try again, longest waiting first. Each that still gets nothing queues up again. The
    /// caller holds no lock.
    pub(super) fn wake(&self) {
        for _ in 0..self.starving_count.load(Ordering::SeqCst) {
            let next = {
                let mut starving = self.starving.lock();
                let next = starving.pop_front();
                self.starving_count.store(starving.len(), Ordering::SeqCst);
                next
            };
            if let Some(pool) = next.and_then(|it| it.upgrade()) {
                pool.serve();
            }
        }
    }
}

impl std::fmt::Debug for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Limit({}/{})", self.used(), self.max())
    }
}

/// A place within a limit. Dropping it frees the place, and wakes a starving pool: never drop one under a lock.
#[derive(Debug)]
#[must_use = "dropping a slot frees it"]
pub struct Slot {
    limit: Arc<Limit>,
}

impl Slot {
    /// Whether it counts against this limit.
    pub fn is_of(&self, limit: &Arc<Limit>) -> bool {
        Arc::ptr_eq(&self.limit, limit)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.limit.used.fetch_sub(1, Ordering::SeqCst);
        if self.limit.is_starving() {
            self.limit.wake();
        }
    }
}

/// What a server connection needs to exist: a place in its database's limit and in its user's.
#[derive(Debug)]
pub(super) struct Permit {
    pub(super) database: Slot,
    pub(super) user: Slot,
}

impl Permit {
    /// The slot of one of the two limits; the other is freed.
    pub(super) fn into_slot(self, limit: &Arc<Limit>) -> Option<Slot> {
        let Self { database, user } = self;
        if database.is_of(limit) {
            return Some(database);
        }
        Some(user).filter(|user| user.is_of(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sync::AtomicBool;
    use super::*;

    #[derive(Default)]
    struct Pool {
        idle: Mutex<Option<(Instant, Slot)>>,
        served: AtomicBool,
    }

    impl Contender for Pool {
        fn serve(&self) {
            self.served.store(true, Ordering::SeqCst);
        }

        fn longest_idle(&self) -> Option<Instant> {
            self.idle.lock().as_ref().map(|(since, _)| *since)
        }

        fn evict(&self, _: &Arc<Limit>) -> Option<Slot> {
            self.idle.lock().take().map(|(_, slot)| slot)
        }
    }

    fn weak(pool: &Arc<Pool>) -> Weak<dyn Contender> {
        let weak: Weak<Pool> = Arc::downgrade(pool);
        weak
    }

    #[test]
    fn a_limit_is_never_exceeded() {
        let limit = Limit::new(3);
        let work =
            || (0..500).for_each(|_| drop(limit.take().map(|slot| (assert!(limit.used() <= 3), slot))));
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
        assert_eq!(limit.used(), 0);
    }

    #[test]
    fn zero_is_no_limit_but_is_counted() {
        let limit = Limit::new(0);
        let slots: Vec<_> = (0..9).filter_map(|_| limit.take()).collect();
        assert_eq!((slots.len(), limit.used()), (9, 9));
    }

    #[test]
    fn a_starving_pool_is_woken_when_a_slot_is_freed() {
        let limit = Limit::new(1);
        let slot = limit.take();
        let pool = Arc::new(Pool::default());
        assert!(limit.take_or_starve(&weak(&pool)).is_none());
        assert!(limit.is_starving());
        drop(slot);
        assert!(pool.served.load(Ordering::SeqCst));
        assert!(!limit.is_starving());
    }

    #[test]
    fn a_starving_pool_is_woken_when_the_limit_is_raised() {
        let limit = Limit::new(1);
        let _slot = limit.take();
        let pool = Arc::new(Pool::default());
        assert!(limit.take_or_starve(&weak(&pool)).is_none());
        limit.set_max(2);
        assert!(pool.served.load(Ordering::SeqCst));
    }

    #[test]
    fn the_longest_idle_server_of_all_pools_is_evicted() {
        let limit = Limit::new(2);
        let now = Instant::now();
        let pools = [Arc::new(Pool::default()), Arc::new(Pool::default())];
        for (pool, age) in pools.iter().zip([1, 9]) {
            let since = now.checked_sub(std::time::Duration::from_millis(age)).expect("a machine that is up");
            *pool.idle.lock() = limit.take().map(|slot| (since, slot));
            limit.register(weak(pool));
        }
        let hungry = Arc::new(Pool::default());
        let slot = limit.take_or_starve(&weak(&hungry)).expect("evicted");
        assert!(slot.is_of(&limit));
        assert!(pools[0].longest_idle().is_some() && pools[1].longest_idle().is_none());
        assert_eq!(limit.used(), 2, "the slot changed hands without being freed");
    }
}
