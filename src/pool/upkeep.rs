//! What pools need from time to time without anybody asking.
//!
//! Owns the periodic round (idle time, lifetime, sizes, the reserve, retries, removal of unused pools) and the hearing
//! of idle servers. It runs on the control thread. Invariant: a round takes each pool's lock only briefly, one at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::{Connection, Refusal};
use super::pools::Pools;
use super::sync::Ordering;
use super::{Pool, Tracked};
use crate::config::Config;
use crate::ids::PoolKey;

/// PgBouncer's: `full_maint_period` in src/janitor.c, three times a second.
const UPKEEP_PERIOD: Duration = Duration::from_millis(333);

impl<C: Connection> Pools<C> {
    /// Looks after the pools for as long as the process runs. Cancel safe.
    pub async fn tend(&self) {
        let mut rounds = tokio::time::interval(UPKEEP_PERIOD);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.suspension.over().await;
            tokio::select! {
                _ = rounds.tick() => {
                    if !self.suspension.is_on() {
                        self.upkeep(Instant::now());
                    }
                }
                () = self.alarm.rung() => {
                    // What is not heard while all is suspended is heard in the first round after it.
                    if !self.suspension.is_on() {
                        self.hear(Instant::now());
                    }
                }
            }
        }
    }

    /// Hears the idle servers that have said something: they have closed the connection, or changed a setting.
    pub fn hear(&self, now: Instant) {
        for (pool, seat) in self.alarm.take_spoken() {
            if let Some(pool) = pool.upgrade() {
                pool.examine(seat, now);
            }
        }
    }

    /// One round.
    pub fn upkeep(&self, now: Instant) {
        self.hear(now);
        let config = self.setup.config.load_full();
        self.make_minimum_pools(&config);
        for pool in self.all() {
            let forced = config.database(&pool.key.database).is_some_and(|entry| entry.user.is_some());
            pool.upkeep(forced, now);
            if self.alarm.is_draining() {
                pool.dismiss(&Refusal::ShuttingDown);
            }
            self.remove_unused(&pool, &config, now);
        }
        // A database without an entry of its own is known only while it has pools, or a mark of the console.
        self.databases
            .retain(|name, control| config.databases.contains_key(name) || !control.is_forgettable());
        self.users.retain(|_, limit| Arc::strong_count(limit) > 1);
        // Waiting orders look again, in case something ended without a word.
        self.alarm.changed();
    }

    /// A pool with a forced user keeps its minimum even before the first client.
    fn make_minimum_pools(&self, config: &Config) {
        for (name, entry) in &config.databases {
            let Some(user) = &entry.user else { continue };
            let key = PoolKey { database: name.clone(), user: user.clone() };
            if config.pool_settings(&key).min_size > 0 && !self.pools.contains_key(&key) {
                self.ensure(&key);
            }
        }
    }

    /// Removes a pool that has had no client and no server for `pool_idle_timeout`, or `autodb_idle_timeout` if its
    /// database has no entry of its own (then `server_login_retry` where no server could be opened), or at once if its
    /// database has left the configuration.
    fn remove_unused(&self, pool: &Arc<Pool<C>>, config: &Config, now: Instant) {
        let mut unused_since = pool.unused_since.lock();
        if !pool.is_unused() {
            *unused_since = None;
            return;
        }
        let since = *unused_since.get_or_insert(now);
        drop(unused_since);
        let database = &pool.key.database;
        let automatic = !config.databases.contains_key(database);
        let gone = config.database(database).is_none();
        let age = now.saturating_duration_since(since);
        let over = |timeout: Duration| !timeout.is_zero() && age > timeout;
        let settings = &config.settings;
        // Made anew at once, it would lose only its memory of why its servers can't be had.
        let kept = config.database(database).is_some_and(|it| it.user.is_some())
            && config.pool_settings(&pool.key).min_size > 0;
        let idle = over(settings.pool_idle_timeout) && !kept;
        // Whose servers could never be opened: a name that a stranger has made up.
        let unreal =
            automatic && !pool.has_opened.load(Ordering::Relaxed) && age > settings.server_login_retry;
        if gone || idle || unreal || (automatic && over(settings.autodb_idle_timeout)) {
            // Looked at again under the map's lock: a client may just have come.
            let removed = self.pools.remove_if(&pool.key, |_, it| Arc::ptr_eq(it, pool) && it.is_unused());
            if removed.is_some() {
                let (user, age) = (&pool.key.user, age.as_secs());
                tracing::info!(
                    "cleaning up idle pool for user {user} on db {database} because: pool idle timeout (age= {age}s)"
                );
            }
        }
    }
}

impl<C: Connection> Pool<C> {
    fn upkeep(&self, forced_user: bool, now: Instant) {
        let closing = {
            let mut schedule = self.lock();
            let closing = schedule.upkeep(now);
            schedule.for_each_to_check(now, |member| member.track(Tracked::Used));
            closing
        };
        self.close_all(closing);
        self.serve_demand(now);
        if forced_user || self.clients.load(Ordering::Relaxed) > 0 {
            self.serve_minimum(now);
        }
    }

    fn is_unused(&self) -> bool {
        self.clients.load(Ordering::Relaxed) == 0 && self.lock().is_empty()
    }
}
