//! Pools of servers: who gets which, when servers are opened and closed.
//!
//! Owns one [`Pool`] for each database and user, shared by all workers, and all of them together in [`Pools`]. It refuses
//! to speak PostgreSQL's protocol: a server is a [`Connection`], opened by an [`Opener`]. Invariants: no client waits
//! while a fitting server is idle; limits are never exceeded; a server that is lent out comes back clean or is closed.
//!
//! Order of locks: a client's ([`Caller`]), then a pool's. No pool's lock is held together with another pool's, across
//! an await, or while a connection, a slot of a limit or a waker is dropped or used.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::config::{PoolMode, PoolSettings};
use crate::ids::{ClientId, PoolKey, WorkerId};
use crate::server::ReplicationStart;
use crate::session::params::Values;
use crate::stats::{LoggingIn, PoolStats, ServerEntry, ServerState};

mod adopt;
mod alarm;
mod caller;
mod connection;
mod lease;
pub mod limits;
mod pools;
mod postgres;
pub mod schedule;
mod suspension;
mod sync;
#[cfg(test)]
mod tests;
mod upkeep;

use alarm::Alarm;
pub use caller::{Answer, Caller, Cancel, Claim, Hold, QueueView};
pub use connection::{Connection, OpenError, Opener, Refusal};
pub use lease::{Busy, Idle, Lease, Resetting};
use lease::{Given, Member};
use limits::{Contender, Limit, Permit, Slot};
pub use pools::{DatabaseView, OrderError, PoolClient, Pools, PoolsSetup};
use schedule::{Audience, Closing, Flow, Opening, Release, Schedule, Seat, WaitTicket, Waiter};
pub use suspension::{Call, Participant, Suspension};
use sync::{AtomicBool, AtomicU32, AtomicUsize, Mutex, MutexGuard, Ordering};

type Servers<C> = Schedule<Box<Member<C>>, Arc<Caller<C>>, Arc<OpenError>>;

/// What becomes of a server that is in nobody's hands.
type Put<C> = Release<Box<Member<C>>, Arc<Caller<C>>>;

/// Servers to be opened in one go, at most; the next occasion opens more.
const OPENS_AT_ONCE_MAX: usize = 64;

/// The servers of one database and user, and those who wait for them.
pub struct Pool<C: Connection> {
    me: Weak<Self>,
    key: PoolKey,
    settings: ArcSwap<PoolSettings>,
    schedule: Mutex<Servers<C>>,
    /// The schedule's, to be read without its lock.
    generation: AtomicU32,
    /// `max_db_connections`.
    database: Arc<Limit>,
    /// `max_user_connections`.
    user: Arc<Limit>,
    stats: Arc<PoolStats>,
    /// What clients are told of the servers' settings; none before the first server was opened.
    welcome: ArcSwapOption<Values>,
    /// Some server has been opened.
    has_opened: AtomicBool,
    setup: Arc<PoolsSetup<C>>,
    alarm: Arc<Alarm<C>>,
    clients: AtomicUsize,
    /// Since when upkeep has found neither clients nor servers.
    unused_since: Mutex<Option<Instant>>,
}

/// What the roster shows of a server.
#[derive(Clone, Copy)]
enum Tracked {
    Leased(ClientId),
    Resetting,
    Examining,
    Idle,
    Used,
    Held,
}

impl Tracked {
    fn show(self, entry: &ServerEntry) {
        let (state, link) = match self {
            Self::Leased(client) => (ServerState::Active, Some(client)),
            Self::Resetting | Self::Examining => (ServerState::Tested, None),
            Self::Idle => (ServerState::Idle, None),
            Self::Used => (ServerState::Used, None),
            Self::Held => (ServerState::BeingCanceled, None),
        };
        entry.set_state(state);
        entry.set_link(link);
    }
}

impl<C: Connection> Pool<C> {
    /// Whose servers these are.
    pub fn key(&self) -> &PoolKey {
        &self.key
    }

    /// When its servers go back; asked for at every loan.
    #[inline]
    pub fn mode(&self) -> PoolMode {
        self.settings.load().mode
    }

    /// The pool's counters.
    pub fn stats(&self) -> &Arc<PoolStats> {
        &self.stats
    }

    /// The settings that a server of this pool reports, for the welcome of clients. `None`: no server has been opened
    /// yet, or not since RECONNECT; a client must then wait for one (check one out and give it back).
    pub fn welcome(&self) -> Option<Arc<Values>> {
        self.welcome.load_full()
    }

    fn lock(&self) -> MutexGuard<'_, Servers<C>> {
        self.schedule.lock()
    }

    fn is_draining(&self) -> bool {
        self.alarm.is_draining()
    }

    fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    fn queue_view(&self, ticket: WaitTicket, waited: Duration, now: Instant) -> QueueView {
        let schedule = self.lock();
        let since = |(client, since): (ClientId, Instant)| (client, now.saturating_duration_since(since));
        QueueView {
            servers: schedule.counts().total(),
            size: self.settings.load().size,
            before: schedule.queue_before(ticket).unwrap_or(0),
            waiting: schedule.waiting(),
            waited,
            longest_lease: schedule.longest_lease().map(since),
            failure: schedule.failure().cloned(),
        }
    }

    /// Shows all idle servers, under the pool's lock.
    pub fn for_each_idle(&self, mut show: impl FnMut(&C)) {
        self.lock().for_each_idle(|member| {
            if let Some(conn) = member.connection() {
                show(conn);
            }
        });
    }

    /// A server comes back fit for the next client. It is heard, and watched from then on.
    fn take_back(&self, seat: Seat, mut member: Box<Member<C>>, now: Instant) {
        if let Err(reason) = member.watch() {
            self.lock().lost(member.role(), now);
            self.close(seat, *member, &reason);
            return self.serve_demand(now);
        }
        // Before others can see it: whoever gets it next shows so.
        member.show_idle();
        let home = member.home();
        let release = self.put_back(seat, |schedule| schedule.release(seat, member, home, now));
        self.settle(release, now);
    }

    /// Has the schedule find a server's place. One that has become idle may have spoken while it was neither idle nor
    /// anybody's, when [`Self::examine`] passed it by: it is reported again, else it would never be heard, and never
    /// given to anybody.
    fn put_back<T>(&self, seat: Seat, put: impl FnOnce(&mut Servers<C>) -> T) -> T {
        let mut schedule = self.lock();
        let outcome = put(&mut schedule);
        let has_spoken = schedule.idle_at(seat).is_some_and(|member| !member.is_silent());
        drop(schedule);
        if has_spoken {
            self.report_spoken(seat);
        }
        outcome
    }

    /// Does what the schedule has decided on a released server.
    fn settle(&self, mut release: Put<C>, now: Instant) {
        loop {
            match release {
                Release::HandTo { waiter, seat, server } => {
                    let Some(me) = self.me.upgrade() else { return };
                    match waiter.handle.deliver(&me, (seat, waiter.ticket), server) {
                        Ok(()) => return,
                        // It has left meanwhile: the next one's turn.
                        Err(server) => {
                            let home = server.home();
                            release =
                                self.put_back(seat, |schedule| schedule.release(seat, server, home, now));
                        }
                    }
                }
                Release::Kept => return self.idle_again(),
                Release::Held => return self.show_held(),
                Release::Close(closing) => {
                    self.close_all([closing]);
                    return self.serve_demand(now);
                }
            }
        }
    }

    /// A server is idle: others may need its connection more.
    fn idle_again(&self) {
        for limit in [&self.database, &self.user] {
            if limit.is_starving() {
                limit.wake();
            }
        }
        self.changed();
    }

    /// A server that was held is shown as idle, if it is.
    fn show_idle(&self, seat: Seat) {
        if let Some(member) = self.lock().idle_at(seat) {
            member.show_idle();
        }
    }

    fn show_held(&self) {
        self.lock().for_each_held(|member| member.track(Tracked::Held));
    }

    /// Something has become less: PAUSE or WAIT_CLOSE may be waiting for that.
    fn changed(&self) {
        self.alarm.changed();
    }

    /// An idle server has said something. Called by reactors.
    fn report_spoken(&self, seat: Seat) {
        self.alarm.ring(Weak::clone(&self.me), seat);
    }

    /// Hears what an idle server has said. It may have been lent out meanwhile: then its client hears it.
    fn examine(&self, seat: Seat, now: Instant) {
        let member = self.lock().examine(seat);
        if let Some(member) = member {
            member.track(Tracked::Examining);
            self.take_back(seat, member, now);
        }
    }

    /// Closes a connection. What is returned is to be dropped once the seat is free, and under no lock.
    fn dispose(&self, member: Member<C>, reason: &str) -> Permit {
        if self.setup.config.load().settings.log_disconnections {
            member.log(reason, Instant::now());
        }
        member.close()
    }

    fn close(&self, seat: Seat, member: Member<C>, reason: &str) {
        let permit = self.dispose(member, reason);
        self.lock().gone(seat);
        self.changed();
        drop(permit);
    }

    fn close_all(&self, closing: impl IntoIterator<Item = Closing<Box<Member<C>>>>) {
        for Closing { seat, server, reason } in closing {
            self.close(seat, *server, &reason.to_string());
        }
    }

    /// Checks or opens the servers that waiting clients need, as far as all limits allow.
    fn serve_demand(&self, now: Instant) {
        self.check_idle(now);
        for _ in 0..OPENS_AT_ONCE_MAX {
            self.make_room(now);
            let opening = self.lock().next_open(now);
            let Some(opening) = opening else { return };
            let me = self.contender();
            let permit = match self.permit(&me) {
                Ok(permit) => permit,
                Err(full) => {
                    self.abandon(opening);
                    if full.has_starving(&me) {
                        return;
                    }
                    // It was told of a slot while this opening still stood for the demand: nobody tells it again.
                    continue;
                }
            };
            if opening.from_reserve {
                tracing::warn!(database = %self.key.database, user = %self.key.user, "taking connection from reserve_pool");
            }
            self.open(opening, permit);
        }
    }

    /// What a new server needs, if need be of another pool's idle one, which is not closed where the other limit has
    /// nothing to give. Errors: the limit that has nothing; it will tell `me` when it has.
    fn permit(&self, me: &Weak<dyn Contender>) -> Result<Permit, Arc<Limit>> {
        let taken = |limit: &Arc<Limit>| limit.take_or_starve(me).ok_or_else(|| Arc::clone(limit));
        if self.user.is_exhausted() {
            let user = taken(&self.user)?;
            return Ok(Permit { database: taken(&self.database)?, user });
        }
        Ok(Permit { database: taken(&self.database)?, user: taken(&self.user)? })
    }

    /// Closes idle servers where the pool is full and somebody needs one of its own.
    fn make_room(&self, now: Instant) {
        for _ in 0..OPENS_AT_ONCE_MAX {
            let closing = self.lock().make_room(now);
            let Some(closing) = closing else { return };
            self.close_all([closing]);
        }
    }

    /// Has idle servers that waiting clients need asked whether they still answer.
    fn check_idle(&self, now: Instant) {
        for _ in 0..OPENS_AT_ONCE_MAX {
            let checked = self.lock().next_check(now);
            let (Some((seat, member)), Some(pool)) = (checked, self.me.upgrade()) else { return };
            member.track(Tracked::Examining);
            self.setup.opener.check(Lease::new(pool, seat, member, None));
        }
    }

    /// Opens the servers that `min_pool_size` asks for. Nothing is evicted for them.
    fn serve_minimum(&self, now: Instant) {
        for _ in 0..OPENS_AT_ONCE_MAX {
            let opening = self.lock().next_open_for_minimum(now);
            let Some(opening) = opening else { return };
            match (self.database.take(), self.user.take()) {
                (Some(database), Some(user)) => self.open(opening, Permit { database, user }),
                _ => return self.abandon(opening),
            }
        }
    }

    fn contender(&self) -> Weak<dyn Contender> {
        let me: Weak<Self> = Weak::clone(&self.me);
        me
    }

    fn abandon(&self, opening: Opening) {
        self.lock().open_abandoned(opening.seat);
    }

    fn open(&self, opening: Opening, permit: Permit) {
        let Some(pool) = self.me.upgrade() else { return };
        let owner = self.lock().owner_of(opening.seat).cloned();
        if owner.is_none() && opening.audience != Audience::Everybody {
            // Its client has left in this very moment.
            self.abandon(opening);
            return drop(permit);
        }
        let logging_in = Some(pool.stats.log_in());
        let task = OpenTask { pool, opening, owner, begun: Instant::now(), permit: Some(permit), logging_in };
        self.setup.opener.open(opening.worker, task);
    }

    /// Nobody gets anything any more: all waiters are told, idle servers are closed.
    fn dismiss(&self, refusal: &Refusal) {
        let waiters = self.lock().dismiss();
        self.refuse(waiters, refusal);
    }

    fn refuse(&self, waiters: Vec<Waiter<Arc<Caller<C>>>>, refusal: &Refusal) {
        for waiter in waiters {
            waiter.handle.refuse(waiter.ticket, refusal.clone());
        }
    }

    /// Servers opened so far are not to be used for anything new.
    fn renew(&self) {
        let closing = {
            let mut schedule = self.lock();
            let closing = schedule.renew();
            self.generation.store(schedule.generation(), Ordering::Relaxed);
            closing
        };
        self.welcome.store(None);
        self.close_all(closing);
        self.serve_demand(Instant::now());
    }

    /// A standby has refused to write. A pool that has had a primary leaves its servers, and waits for one.
    pub fn demoted(&self, now: Instant) {
        if self.lock().demoted(now) {
            let (database, user) = (&self.key.database, &self.key.user);
            tracing::warn!(%database, %user, "the server has become a standby: looking for the primary");
            self.renew();
        }
    }

    /// Whether a server was lost a short while ago, and clients wait for its successor.
    pub fn awaits_server(&self, now: Instant) -> bool {
        self.lock().awaits_server(now)
    }

    /// Whether a standby is not to be taken now: the pool has lost its primary a short while ago.
    pub fn awaits_primary(&self, now: Instant) -> bool {
        self.lock().awaits_primary(now)
    }

    /// Servers at these addresses are not to be used for anything new.
    fn forsake(&self, addresses: &[IpAddr]) {
        for entry in self.setup.roster.servers() {
            let connected = &entry.connected;
            if connected.pool == self.key && connected.peer.ip().is_some_and(|ip| addresses.contains(&ip)) {
                entry.mark_close_needed();
            }
        }
        let closing = self.lock().forsake(addresses);
        self.close_all(closing);
        self.serve_demand(Instant::now());
    }

    fn kill(&self) {
        let closing = self.lock().kill();
        self.close_all(closing);
    }

    /// `flow` is asked under the pool's lock: of two who change it at once, the last to ask is the last to set it.
    fn set_flow(&self, flow: impl FnOnce() -> Flow) {
        let closing = {
            let mut schedule = self.lock();
            let flow = flow();
            if schedule.flow() == flow {
                return;
            }
            schedule.set_flow(flow)
        };
        self.close_all(closing);
        self.changed();
        self.serve_demand(Instant::now());
    }

    fn configure(&self, settings: PoolSettings) {
        if **self.settings.load() == settings {
            return;
        }
        self.settings.store(Arc::new(settings.clone()));
        self.lock().configure(settings);
        self.serve_demand(Instant::now());
    }
}

impl<C: Connection> Contender for Pool<C> {
    fn serve(&self) {
        self.serve_demand(Instant::now());
    }

    fn longest_idle(&self) -> Option<Instant> {
        self.lock().longest_idle()
    }

    fn evict(&self, limit: &Arc<Limit>) -> Option<Slot> {
        let Closing { seat, server, reason } = self.lock().evict()?;
        let permit = self.dispose(*server, &reason.to_string());
        self.lock().gone(seat);
        self.changed();
        let slot = permit.into_slot(limit);
        // While it was closed, its seat may have kept a client of this pool from having a server opened.
        self.serve_demand(Instant::now());
        slot
    }
}

impl<C: Connection> std::fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({}/{})", self.key.database, self.key.user)
    }
}

/// A server that is to be opened: its place in the pool and in all limits is reserved.
///
/// Dropping it frees them, as if nothing had been tried.
#[must_use = "dropping it gives the attempt up"]
pub struct OpenTask<C: Connection> {
    pool: Arc<Pool<C>>,
    opening: Opening,
    /// The client for which alone it is opened.
    owner: Option<Arc<Caller<C>>>,
    begun: Instant,
    /// `None` once the attempt has ended.
    permit: Option<Permit>,
    /// `None` once the server is on the roster.
    logging_in: Option<LoggingIn>,
}

impl<C: Connection> OpenTask<C> {
    /// For which pool.
    pub fn pool(&self) -> &Arc<Pool<C>> {
        &self.pool
    }

    /// What the server is to be, if it is opened for a replication client; `None`: one that serves everybody.
    pub fn replication(&self) -> Option<&Arc<ReplicationStart>> {
        self.owner.as_ref().and_then(|owner| owner.replication())
    }

    /// The server is logged in. To be called on the worker that is its home.
    pub fn opened(self, conn: C, now: Instant) {
        self.pool.stats.cell(conn.home()).server_login();
        self.admit(conn, now);
    }

    /// The server becomes a member of the pool.
    fn admit(mut self, mut conn: C, now: Instant) {
        let Some(permit) = self.permit.take() else { return };
        let pool = &self.pool;
        let Opening { seat, generation, .. } = self.opening;
        let home = conn.home();
        // What an owner's server reports is what its client asked for.
        if self.owner.is_none() && generation == pool.generation() {
            match pool.welcome() {
                Some(welcome) if *welcome == *conn.welcome() => conn.share_reported(welcome),
                Some(_) => {}
                None => pool.welcome.store(Some(conn.welcome())),
            }
        }
        pool.has_opened.store(true, Ordering::Relaxed);
        pool.lock().came(conn.reported().role());
        let connected = conn.connected(&pool.key);
        if let Some(address) = connected.peer.ip() {
            pool.lock().located(seat, address);
        }
        // From here on the roster has it.
        self.logging_in = None;
        let entry = pool.setup.roster.server(connected, self.begun);
        entry.set_pid(conn.backend());
        entry.set_application_name(conn.reported().text("application_name"));
        let given = Given { permit, entry, born: self.begun, generation };
        let mut member = Member::new(&pool.me, seat, conn, given);
        match member.watch() {
            Ok(()) => {
                member.show_idle();
                let release = pool.put_back(seat, |schedule| schedule.opened(seat, member, home, now));
                pool.settle(release, now);
                // The login may have been what others waited for.
                pool.serve_demand(now);
            }
            Err(reason) => {
                pool.close(seat, *member, &reason);
                pool.serve_demand(now);
            }
        }
    }

    /// The server could not be opened. To be called on a worker.
    pub fn failed(mut self, error: OpenError, worker: WorkerId, now: Instant) {
        let permit = self.permit.take();
        let pool = &self.pool;
        pool.stats.cell(worker).server_login_failure();
        let (error, kind) = (Arc::new(error.clone()), error.kind);
        let waiters = pool.lock().open_failed(self.opening.seat, Arc::clone(&error), kind, now);
        pool.refuse(waiters, &Refusal::OpenFailed(error));
        pool.changed();
        drop(permit);
        pool.serve_demand(now);
    }
}

impl<C: Connection> Drop for OpenTask<C> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.pool.abandon(self.opening);
            self.pool.changed();
            drop(permit);
        }
    }
}
