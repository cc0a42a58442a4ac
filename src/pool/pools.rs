//! All pools of the process, and what the console and a reload do to them.
//!
//! Owns the map from database and user to pool, the limits that pools share, and which databases are paused or
//! disabled. It refuses to talk to clients; those are told through the roster. Invariant: a pool that a client is in
//! ([`PoolClient`]) is in the map.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;

use super::Pool;
use super::alarm::Alarm;
use super::connection::{Connection, Opener};
use super::limits::{Contender, Limit};
use super::schedule::{Flow, Schedule};
use super::suspension::Suspension;
use super::sync::{AtomicBool, Mutex, Ordering};
use crate::config::{Change, Config, Host, ReloadPlan};
use crate::ids::{DatabaseName, PoolKey, UserName};
use crate::server::ServerConn;
use crate::stats::{Disconnect, PoolStats, Roster};

/// What pools need of the rest of the process.
pub struct PoolsSetup<C: Connection> {
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Who is connected.
    pub roster: Arc<Roster>,
    /// Opens servers.
    pub opener: Arc<dyn Opener<C>>,
    /// How many workers there are.
    pub workers: usize,
}

/// All pools.
pub struct Pools<C: Connection = ServerConn> {
    pub(super) setup: Arc<PoolsSetup<C>>,
    pub(super) pools: DashMap<PoolKey, Arc<Pool<C>>>,
    pub(super) databases: DashMap<DatabaseName, Arc<DatabaseControl>>,
    pub(super) users: DashMap<UserName, Arc<Limit>>,
    pub(super) alarm: Arc<Alarm<C>>,
    paused: AtomicBool,
    pub(super) suspension: Arc<Suspension>,
}

/// What the console has done to a database, and its limit.
pub(super) struct DatabaseControl {
    connections: Arc<Limit>,
    paused: AtomicBool,
    /// It was paused by a KILL of all, and by nothing since that named it: a RESUME of all lifts that.
    killed_with_all: AtomicBool,
    disabled: AtomicBool,
    /// `disabled` in the configuration, as of when it last had a say.
    disabled_by_entry: AtomicBool,
}

impl DatabaseControl {
    /// Takes back what the console has done: the database is gone from the configuration.
    fn forget_orders(&self) {
        for flag in [&self.paused, &self.killed_with_all, &self.disabled, &self.disabled_by_entry] {
            flag.store(false, Ordering::SeqCst);
        }
    }

    /// Pauses it, by itself or with all others.
    fn pause(&self, with_all: bool) {
        let was_paused = self.paused.swap(true, Ordering::SeqCst);
        // A pause by name stays one whatever is done to all; a second KILL of all changes nothing.
        if !with_all || !was_paused {
            self.killed_with_all.store(with_all, Ordering::SeqCst);
        }
    }

    /// Ends its pause. Returns whether it was paused.
    fn resume(&self) -> bool {
        self.killed_with_all.store(false, Ordering::SeqCst);
        self.paused.swap(false, Ordering::SeqCst)
    }

    /// Takes over what the configuration says, where that is something new: else an order of the console stays.
    fn follow(&self, disabled: bool) {
        if self.disabled_by_entry.swap(disabled, Ordering::SeqCst) != disabled {
            self.disabled.store(disabled, Ordering::SeqCst);
        }
    }

    /// Whether nobody has it, so that nothing is lost by making it anew. To be asked under the map's lock.
    pub(super) fn is_forgettable(self: &Arc<Self>) -> bool {
        let marked = self.paused.load(Ordering::SeqCst) || self.disabled.load(Ordering::SeqCst);
        // A pool that is just being made has the limit already.
        !marked && Arc::strong_count(self) == 1 && Arc::strong_count(&self.connections) == 1
    }
}

/// A database as the console shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DatabaseView {
    /// Its name.
    pub name: DatabaseName,
    /// PAUSE or KILL of it.
    pub paused: bool,
    /// DISABLE of it.
    pub disabled: bool,
}

/// Why a word from the console changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OrderError {
    /// PAUSE or KILL of all while paused.
    #[error("already suspended/paused")]
    AlreadyPaused,
    /// RESUME of what runs.
    #[error("not paused")]
    NotPaused,
}

/// A client's membership in a pool: while there is one, the pool is kept and keeps its minimum of servers.
pub struct PoolClient<C: Connection = ServerConn>(Arc<Pool<C>>);

impl<C: Connection> Deref for PoolClient<C> {
    type Target = Arc<Pool<C>>;

    fn deref(&self) -> &Arc<Pool<C>> {
        &self.0
    }
}

impl<C: Connection> Drop for PoolClient<C> {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<C: Connection> Pools<C> {
    /// None yet.
    pub fn new(setup: PoolsSetup<C>) -> Arc<Self> {
        Arc::new(Self {
            setup: Arc::new(setup),
            pools: DashMap::new(),
            databases: DashMap::new(),
            users: DashMap::new(),
            alarm: Arc::new(Alarm::new()),
            paused: AtomicBool::new(false),
            suspension: Arc::default(),
        })
    }

    /// SUSPEND and those it concerns. While it is in force there is no upkeep, as in PgBouncer: nothing happens of
    /// itself that another process would not know of.
    pub fn suspension(&self) -> &Arc<Suspension> {
        &self.suspension
    }

    /// Makes a client a member of a pool, which is made if there is none yet.
    pub fn enter(&self, key: &PoolKey) -> PoolClient<C> {
        let pool = {
            // Counted under the map's lock, so that upkeep does not remove the pool in between.
            let pool = self.pools.entry(key.clone()).or_insert_with(|| self.make(key));
            pool.clients.fetch_add(1, Ordering::Relaxed);
            Arc::clone(&pool)
        };
        // PAUSE sets its flag first, then goes through the map: a pool made meanwhile is paused here or there.
        pool.set_flow(|| self.flow_of(&key.database));
        PoolClient(pool)
    }

    pub(super) fn ensure(&self, key: &PoolKey) {
        drop(self.enter(key));
    }

    fn make(&self, key: &PoolKey) -> Arc<Pool<C>> {
        let settings = self.setup.config.load().pool_settings(key);
        let database = Arc::clone(&self.control(&key.database).connections);
        let user = self.user_limit(&key.user);
        let pool = Arc::new_cyclic(|me| Pool {
            me: Weak::clone(me),
            key: key.clone(),
            schedule: Mutex::new(Schedule::new(settings.clone())),
            settings: ArcSwap::from_pointee(settings),
            generation: 0.into(),
            database,
            user,
            stats: Arc::new(PoolStats::new(self.setup.workers, Instant::now())),
            welcome: ArcSwapOption::empty(),
            has_opened: AtomicBool::new(false),
            setup: Arc::clone(&self.setup),
            alarm: Arc::clone(&self.alarm),
            clients: 0.into(),
            unused_since: Mutex::new(None),
        });
        let contender: Weak<Pool<C>> = Arc::downgrade(&pool);
        pool.database.register(contender.clone() as Weak<dyn Contender>);
        pool.user.register(contender);
        pool
    }

    pub(super) fn control(&self, name: &DatabaseName) -> Arc<DatabaseControl> {
        if let Some(control) = self.databases.get(name) {
            return Arc::clone(&control);
        }
        let config = self.setup.config.load();
        let disabled = config.database(name).is_some_and(|entry| entry.disabled);
        let make = || DatabaseControl {
            connections: Limit::new(config.max_db_connections(name)),
            paused: AtomicBool::new(false),
            killed_with_all: AtomicBool::new(false),
            disabled: AtomicBool::new(disabled),
            disabled_by_entry: AtomicBool::new(disabled),
        };
        let made = self.databases.entry(name.clone()).or_insert_with(|| {
            if config.database(name).is_some_and(|_| !config.databases.contains_key(name)) {
                tracing::info!("registered new auto-database: {name}");
            }
            Arc::new(make())
        });
        Arc::clone(&made)
    }

    fn user_limit(&self, name: &UserName) -> Arc<Limit> {
        let max = self.setup.config.load().max_user_connections(name);
        Arc::clone(&self.users.entry(name.clone()).or_insert_with(|| Limit::new(max)))
    }

    /// Whether there is a pool of that database and user.
    pub fn has(&self, key: &PoolKey) -> bool {
        self.pools.contains_key(key)
    }

    /// The pool of that database and user, if there is one.
    #[cfg(test)]
    pub(super) fn find(&self, key: &PoolKey) -> Option<Arc<Pool<C>>> {
        self.pools.get(key).map(|it| Arc::clone(&it))
    }

    /// All pools, by name.
    pub fn all(&self) -> Vec<Arc<Pool<C>>> {
        let mut all: Vec<_> = self.pools.iter().map(|it| Arc::clone(&it)).collect();
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        all
    }

    fn of(&self, database: Option<&DatabaseName>) -> Vec<Arc<Pool<C>>> {
        let mut pools = self.all();
        pools.retain(|pool| database.is_none_or(|it| pool.key.database == *it));
        pools
    }

    /// All databases that are in use or that the console has done something to.
    pub fn databases(&self) -> Vec<DatabaseView> {
        let view = |name: &DatabaseName, control: &DatabaseControl| DatabaseView {
            name: name.clone(),
            paused: control.paused.load(Ordering::SeqCst),
            disabled: control.disabled.load(Ordering::SeqCst),
        };
        self.databases.iter().map(|it| view(it.key(), it.value())).collect()
    }

    /// Server connections of a user, over all pools.
    #[cfg(test)]
    pub(super) fn connections_of_user(&self, name: &UserName) -> usize {
        self.users.get(name).map_or(0, |limit| limit.used())
    }

    /// Server connections of a database, over all pools.
    #[cfg(test)]
    pub(super) fn connections_of_database(&self, name: &DatabaseName) -> usize {
        self.databases.get(name).map_or(0, |it| it.connections.used())
    }

    fn flow_of(&self, database: &DatabaseName) -> Flow {
        let paused = self.is_paused(None) || self.is_paused(Some(database));
        if paused { Flow::Paused } else { Flow::Running }
    }

    /// Whether PAUSE (or KILL) is in force for one database, or for all.
    pub fn is_paused(&self, database: Option<&DatabaseName>) -> bool {
        match database {
            None => self.paused.load(Ordering::SeqCst),
            Some(name) => self.databases.get(name).is_some_and(|it| it.paused.load(Ordering::SeqCst)),
        }
    }

    /// Whether any single database is paused.
    pub fn any_paused(&self) -> bool {
        self.databases.iter().any(|it| it.paused.load(Ordering::SeqCst))
    }

    fn apply_flow(&self, database: Option<&DatabaseName>) {
        for pool in self.of(database) {
            pool.set_flow(|| self.flow_of(&pool.key.database));
        }
    }

    /// PAUSE: from now on nobody is given a server. [`Pools::idle`] says when the last is given back.
    ///
    /// Errors: all are paused already.
    pub fn pause(&self, database: Option<&DatabaseName>) -> Result<(), OrderError> {
        match database {
            None if self.paused.swap(true, Ordering::SeqCst) => return Err(OrderError::AlreadyPaused),
            None => {}
            Some(name) => self.control(name).pause(false),
        }
        self.apply_flow(database);
        Ok(())
    }

    /// RESUME: of one database, of all together, or, where these are not paused, of each that a KILL of all has paused.
    ///
    /// Errors: it was not paused.
    pub fn resume(&self, database: Option<&DatabaseName>) -> Result<(), OrderError> {
        let was_paused = match database {
            None => self.paused.swap(false, Ordering::SeqCst) || self.resume_each(),
            Some(name) => self.control(name).resume(),
        };
        if !was_paused {
            return Err(OrderError::NotPaused);
        }
        self.apply_flow(database);
        self.alarm.changed();
        Ok(())
    }

    fn resume_each(&self) -> bool {
        let killed = self.databases.iter().filter(|it| it.killed_with_all.load(Ordering::SeqCst));
        killed.filter(|it| it.resume()).count() > 0
    }

    /// Waits until no server has work to end, or until the pause is over. Cancel safe.
    pub async fn idle(&self, database: Option<&DatabaseName>) {
        let done = || !self.is_paused(database) || !self.is_busy(database);
        self.alarm.wait_until(done).await;
    }

    /// Whether some server has work to end.
    pub fn is_busy(&self, database: Option<&DatabaseName>) -> bool {
        self.of(database).iter().any(|pool| pool.lock().counts().busy() > 0)
    }

    /// Whether some client waits for a server, or is still to be told that it waits in vain.
    pub fn has_waiters(&self) -> bool {
        self.all().iter().any(|pool| pool.lock().waiting() > 0)
    }

    /// DISABLE: logins are to be refused.
    pub fn disable(&self, database: &DatabaseName) {
        self.control(database).disabled.store(true, Ordering::SeqCst);
    }

    /// ENABLE.
    pub fn enable(&self, database: &DatabaseName) {
        self.control(database).disabled.store(false, Ordering::SeqCst);
    }

    /// Whether logins are to be refused.
    pub fn is_disabled(&self, database: &DatabaseName) -> bool {
        match self.databases.get(database) {
            Some(control) => control.disabled.load(Ordering::SeqCst),
            None => self.setup.config.load().database(database).is_some_and(|entry| entry.disabled),
        }
    }

    /// RECONNECT: each server is closed as soon as it is free.
    pub fn reconnect(&self, database: Option<&DatabaseName>) {
        self.renew(&self.of(database));
    }

    fn renew(&self, pools: &[Arc<Pool<C>>]) {
        if pools.is_empty() {
            return;
        }
        for entry in self.setup.roster.servers() {
            if pools.iter().any(|pool| pool.key == entry.connected.pool) {
                entry.mark_close_needed();
            }
        }
        for pool in pools {
            pool.renew();
        }
        // Who has an obsolete server may have to give it up (`server_fast_close`).
        for client in self.setup.roster.clients() {
            if client.login().is_some_and(|login| pools.iter().any(|pool| pool.key == login.pool)) {
                client.nudge();
            }
        }
    }

    /// A name is not at these addresses any more: the servers there that it led to are closed as soon as they are free.
    pub fn forsake(&self, name: &str, addresses: &[IpAddr]) {
        let config = self.setup.config.load_full();
        let leads = |host: &Host| matches!(host, Host::Name(it) if it == name);
        for pool in self.all() {
            if config.database(&pool.key.database).is_some_and(|entry| entry.hosts.iter().any(leads)) {
                pool.forsake(addresses);
            }
        }
    }

    /// Waits until every server that was to be closed is closed: WAIT_CLOSE. Cancel safe.
    pub async fn closed(&self, database: Option<&DatabaseName>) {
        self.alarm.wait_until(|| self.of(database).iter().all(|pool| pool.lock().obsolete() == 0)).await;
    }

    /// KILL: pauses the database, or each one that has a pool, closes its servers and tells its clients to go.
    ///
    /// Errors: all are paused already.
    pub fn kill(&self, database: Option<&DatabaseName>) -> Result<(), OrderError> {
        if self.is_paused(None) {
            return Err(OrderError::AlreadyPaused);
        }
        let pools = self.of(database);
        for name in pools.iter().map(|pool| &pool.key.database).chain(database) {
            self.control(name).pause(database.is_none());
        }
        self.apply_flow(database);
        self.drop_members(&pools);
        Ok(())
    }

    /// Closes what is idle, and what is not by telling its client to go.
    fn drop_members(&self, pools: &[Arc<Pool<C>>]) {
        self.renew(pools);
        for pool in pools {
            pool.kill();
            self.setup.roster.disconnect_database(&pool.key.database, Disconnect::DatabaseRemoved);
        }
    }

    /// SHUTDOWN WAIT_FOR_SERVERS: from now on nobody is given a server; who waits for one is told in the next round of
    /// upkeep, as in PgBouncer.
    /// [`Pools::idle`] says when the last is given back.
    pub fn drain(&self) {
        self.alarm.drain();
        self.paused.store(true, Ordering::SeqCst);
        self.apply_flow(None);
    }

    /// Another configuration is in force (it has been stored already); `plan` says what differs.
    pub fn reload(&self, plan: &ReloadPlan) {
        let config = self.setup.config.load_full();
        let change = |name: &DatabaseName| match plan.databases.get(name) {
            Some(change) => Some(*change),
            None if config.databases.contains_key(name) => None,
            None => plan.any_database,
        };
        // Collected first: a raised limit opens servers, which must not happen under the map's lock.
        let databases: Vec<_> = self.databases.iter().map(|it| (it.key().clone(), Arc::clone(&it))).collect();
        for (name, control) in databases {
            if change(&name) == Some(Change::Removed) {
                control.forget_orders();
            }
            control.follow(config.database(&name).is_some_and(|entry| entry.disabled));
            control.connections.set_max(config.max_db_connections(&name));
        }
        let users: Vec<_> = self.users.iter().map(|it| (it.key().clone(), Arc::clone(it.value()))).collect();
        for (name, limit) in users {
            limit.set_max(config.max_user_connections(&name));
        }
        let all = self.all();
        for pool in &all {
            pool.configure(config.pool_settings(&pool.key));
        }
        let is =
            |wanted: Change| all.iter().filter(move |it| change(&it.key.database) == Some(wanted)).cloned();
        let removed: Vec<_> = is(Change::Removed).collect();
        for pool in &removed {
            pool.set_flow(|| self.flow_of(&pool.key.database));
            tracing::warn!(database = %pool.key.database, "dropping database as it does not exist anymore");
        }
        self.drop_members(&removed);
        let recycled: Vec<_> = if plan.server_tls() { all.clone() } else { is(Change::Recycle).collect() };
        self.renew(&recycled);
    }
}
