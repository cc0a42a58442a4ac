//! One client as the pools see it: what it waits for, or which server it has.
//!
//! Owns the one lock under which a client is given a server, leaves the queue, or is cancelled; so a cancel request
//! finds either the query it was meant for, or nothing. Invariants: the lock is taken before a pool's, never while one
//! is held; a server that is granted to a client who has left meanwhile goes back to its pool.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::connection::{Connection, Refusal};
use super::lease::{Busy, Lease, Member};
use super::schedule::{Asker, Checkout, Seat, WaitTicket};
use super::sync::Mutex;
use super::{Pool, Tracked};
use crate::ids::{ClientId, WorkerId};
use crate::server::ReplicationStart;
use crate::stats::{ClientEntry, ClientState};

/// A client, shared by its driver, the queues it stands in and the cancel keys.
pub struct Caller<C: Connection> {
    entry: Arc<ClientEntry>,
    replication: Option<Arc<ReplicationStart>>,
    doing: Mutex<Doing<C>>,
}

enum Doing<C: Connection> {
    Nothing,
    Waiting { pool: Arc<Pool<C>>, ticket: WaitTicket, since: Instant, waker: Option<Waker> },
    Granted { pool: Arc<Pool<C>>, seat: Seat, member: Box<Member<C>>, since: Instant },
    Refused(Refusal),
    Linked { link: Arc<Link<C>>, seat: Seat, query: Query },
}

/// Whose query runs on the linked server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Query {
    OfClient,
    OfPooler,
}

/// How to cancel what runs on a server: made once for each server connection.
pub(super) struct Link<C: Connection> {
    pub(super) pool: Weak<Pool<C>>,
    pub(super) cancel: Option<C::Cancel>,
}

/// What became of a request to cancel.
pub enum Cancel<C: Connection> {
    /// The client was waiting for a server; it has left the queue.
    LeftQueue,
    /// To be sent to the server, which is kept from other clients until this has ended.
    Send(Hold<C>),
    /// There is nothing to cancel.
    Nothing,
}

/// Keeps a server from being reused while a cancel request is on its way to it.
///
/// Dropping it says that nobody knows what has become of the request: the server will be closed instead of reused.
#[must_use = "dropping it costs the server"]
pub struct Hold<C: Connection> {
    link: Arc<Link<C>>,
    pool: Arc<Pool<C>>,
    seat: Seat,
    outcome: Request,
    /// Of the client that is cancelled: its driver is told when the request has ended.
    entry: Arc<ClientEntry>,
}

/// What is known of a cancel request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Request {
    Unknown,
    Ended,
}

impl<C: Connection> Hold<C> {
    /// Where to send the request, and with which key. `None`: the server gave no key.
    pub fn target(&self) -> Option<&C::Cancel> {
        self.link.cancel.as_ref()
    }

    /// The pool of the server.
    pub fn pool(&self) -> &Arc<Pool<C>> {
        &self.pool
    }

    /// The request was never sent, or has certainly had its effect: the server may be reused.
    pub fn ended(mut self) {
        self.outcome = Request::Ended;
    }
}

impl<C: Connection> Drop for Hold<C> {
    fn drop(&mut self) {
        let now = Instant::now();
        let release = self.pool.put_back(self.seat, |schedule| {
            if self.outcome == Request::Unknown {
                schedule.condemn(self.seat);
            }
            schedule.unhold(self.seat, now, |member| member.is_silent())
        });
        self.entry.nudge();
        self.pool.changed();
        if let Some(release) = release {
            self.pool.show_idle(self.seat);
            self.pool.settle(release, now);
        }
    }
}

impl<C: Connection> Caller<C> {
    fn new(entry: Arc<ClientEntry>, replication: Option<Arc<ReplicationStart>>) -> Arc<Self> {
        Arc::new(Self { entry, replication, doing: Mutex::new(Doing::Nothing) })
    }

    /// Its number.
    pub fn id(&self) -> ClientId {
        self.entry.id()
    }

    /// The worker it lives on.
    pub fn worker(&self) -> WorkerId {
        self.entry.worker()
    }

    /// What its server is to be, if it is a replication client.
    pub(super) fn replication(&self) -> Option<&Arc<ReplicationStart>> {
        self.replication.as_ref()
    }

    /// Its entry on the roster.
    pub fn entry(&self) -> &Arc<ClientEntry> {
        &self.entry
    }

    /// Cancels what it is doing now.
    pub fn cancel(&self) -> Cancel<C> {
        let mut doing = self.doing.lock();
        match &*doing {
            Doing::Nothing | Doing::Refused(_) | Doing::Linked { query: Query::OfPooler, .. } => {
                Cancel::Nothing
            }
            Doing::Linked { link, seat, .. } => {
                // Under the client's lock: it cannot give the server back between this decision and the hold.
                let Some(pool) = link.pool.upgrade() else { return Cancel::Nothing };
                if !pool.lock().hold(*seat) {
                    return Cancel::Nothing;
                }
                let (link, seat, entry) = (Arc::clone(link), *seat, Arc::clone(&self.entry));
                Cancel::Send(Hold { link, pool, seat, outcome: Request::Unknown, entry })
            }
            Doing::Waiting { .. } | Doing::Granted { .. } => {
                let old = std::mem::replace(&mut *doing, Doing::Refused(Refusal::Canceled));
                drop(doing);
                self.entry.set_state(ClientState::Active);
                wake(undo(old));
                Cancel::LeftQueue
            }
        }
    }

    /// Hands it a server for which it has waited. Errors: it has left the queue; the server comes back.
    pub(super) fn deliver(
        &self,
        pool: &Arc<Pool<C>>,
        turn: (Seat, WaitTicket),
        member: Box<Member<C>>,
    ) -> Result<(), Box<Member<C>>> {
        let (seat, served) = turn;
        let mut doing = self.doing.lock();
        let (since, waker) = match &mut *doing {
            Doing::Waiting { pool: asked, ticket, since, waker }
                if *ticket == served && Arc::ptr_eq(asked, pool) =>
            {
                (*since, waker.take())
            }
            _ => return Err(member),
        };
        *doing = Doing::Granted { pool: Arc::clone(pool), seat, member, since };
        drop(doing);
        wake(waker);
        Ok(())
    }

    /// Tells it that it waits in vain.
    pub(super) fn refuse(&self, served: WaitTicket, refusal: Refusal) {
        let mut doing = self.doing.lock();
        let waker = match &mut *doing {
            Doing::Waiting { ticket, waker, .. } if *ticket == served => waker.take(),
            _ => return,
        };
        *doing = Doing::Refused(refusal);
        drop(doing);
        wake(waker);
    }

    /// It has no server any more. Must come before the server is anybody else's.
    pub(super) fn unlink(&self) {
        *self.doing.lock() = Doing::Nothing;
        self.entry.set_link(None);
    }

    fn set_query(&self, whose: Query) {
        if let Doing::Linked { query, .. } = &mut *self.doing.lock() {
            *query = whose;
        }
    }

    /// What follows is a query of the pooler's own: cancel requests of the client pass it by.
    pub(super) fn shield(&self) {
        self.set_query(Query::OfPooler);
    }

    /// What follows is the client's again.
    pub(super) fn unshield(&self) {
        self.set_query(Query::OfClient);
    }
}

/// Takes a client out of a queue, or gives back what it was granted. Returns the waker to be woken.
fn undo<C: Connection>(doing: Doing<C>) -> Option<Waker> {
    match doing {
        Doing::Waiting { pool, ticket, waker, .. } => {
            // If it is not in the queue any more, a server is on its way, and `deliver` will turn it back.
            pool.lock().abandon(ticket);
            pool.changed();
            waker
        }
        Doing::Granted { pool, seat, member, .. } => {
            pool.take_back(seat, member, Instant::now());
            None
        }
        Doing::Nothing | Doing::Refused(_) | Doing::Linked { .. } => None,
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A client's own handle: it asks for servers, one at a time. Dropping it leaves the queue.
#[must_use = "dropping it leaves the queue"]
pub struct Claim<C: Connection> {
    caller: Arc<Caller<C>>,
    purpose: Purpose,
}

/// What a server is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To run queries on it.
    Use,
    /// To see that there is one, and what it reports: no assignment in statistics.
    Look,
}

/// The answer to a client that asks for a server.
#[must_use = "a lease in it is a server connection"]
pub enum Answer<C: Connection> {
    /// Here it is.
    Granted(Lease<Busy, C>),
    /// It must wait: [`Claim::poll`] says when.
    Waiting,
    /// It gets none.
    Refused(Refusal),
}

/// What a client that waits may be told about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueView {
    /// Servers in the pool.
    pub servers: usize,
    /// How many there may be; 0: no limit.
    pub size: usize,
    /// How many wait in front of the client.
    pub before: usize,
    /// How many wait in all.
    pub waiting: usize,
    /// How long it has waited.
    pub waited: Duration,
    /// Who has had a server longest, and how long.
    pub longest_lease: Option<(ClientId, Duration)>,
    /// Why no server can be opened, if connecting has been failing.
    pub failure: Option<Arc<super::OpenError>>,
}

impl<C: Connection> Claim<C> {
    /// For a client, for as long as it is connected.
    pub fn new(entry: Arc<ClientEntry>) -> Self {
        Self { caller: Caller::new(entry, None), purpose: Purpose::Use }
    }

    /// For a replication client, for as long as it is connected: the server is opened for it alone.
    pub fn for_replication(entry: Arc<ClientEntry>, start: Arc<ReplicationStart>) -> Self {
        Self { caller: Caller::new(entry, Some(start)), purpose: Purpose::Use }
    }

    /// For a client that only wants to know what servers report; it gives its server back with
    /// [`Lease::unused`].
    pub fn to_look(entry: Arc<ClientEntry>) -> Self {
        Self { caller: Caller::new(entry, None), purpose: Purpose::Look }
    }

    /// The shared part, for cancel requests.
    pub fn caller(&self) -> &Arc<Caller<C>> {
        &self.caller
    }

    /// Asks for a server. A client that has one, or waits for one, must not ask for another.
    pub fn checkout(&self, pool: &Arc<Pool<C>>, now: Instant) -> Answer<C> {
        if pool.is_draining() {
            return Answer::Refused(Refusal::ShuttingDown);
        }
        let caller = &self.caller;
        let mut doing = caller.doing.lock();
        debug_assert!(matches!(*doing, Doing::Nothing), "one server at a time");
        let asker = Asker { client: caller.id(), worker: caller.worker() };
        let answer = match caller.replication {
            Some(_) => Checkout::Waits(pool.lock().checkout_own(asker, now, Arc::clone(caller))),
            None => pool.lock().checkout(asker, now, |member| member.is_silent(), || Arc::clone(caller)),
        };
        match answer {
            Checkout::Granted { seat, server } => {
                *doing = Doing::Linked { link: server.link(), seat, query: Query::OfClient };
                drop(doing);
                match self.take_over(pool, seat, server, Duration::ZERO) {
                    Ok(lease) => Answer::Granted(lease),
                    Err(refusal) => Answer::Refused(refusal),
                }
            }
            Checkout::Waits(ticket) => {
                *doing = Doing::Waiting { pool: Arc::clone(pool), ticket, since: now, waker: None };
                drop(doing);
                caller.entry.set_state(ClientState::Waiting);
                pool.serve_demand(now);
                Answer::Waiting
            }
            Checkout::Refused(error) => Answer::Refused(Refusal::StillFailing(error)),
        }
    }

    /// What has become of the wait. Cancel safe: nothing is lost between two calls.
    pub fn poll(&self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<Lease<Busy, C>, Refusal>> {
        let mut doing = self.caller.doing.lock();
        if let Doing::Waiting { waker, .. } = &mut *doing {
            if !waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        match std::mem::replace(&mut *doing, Doing::Nothing) {
            Doing::Granted { pool, seat, member, since } => {
                *doing = Doing::Linked { link: member.link(), seat, query: Query::OfClient };
                drop(doing);
                let waited = now.saturating_duration_since(since);
                Poll::Ready(self.take_over(&pool, seat, member, waited))
            }
            Doing::Refused(refusal) => {
                self.caller.entry.set_state(ClientState::Active);
                Poll::Ready(Err(refusal))
            }
            // Nobody asked for a server: nobody will wake either.
            other @ (Doing::Nothing | Doing::Linked { .. } | Doing::Waiting { .. }) => {
                *doing = other;
                Poll::Pending
            }
        }
    }

    /// Waits for the server that was asked for. Cancel safe.
    pub async fn granted(&self) -> Result<Lease<Busy, C>, Refusal> {
        std::future::poll_fn(|cx| self.poll(cx, Instant::now())).await
    }

    fn take_over(
        &self,
        pool: &Arc<Pool<C>>,
        seat: Seat,
        member: Box<Member<C>>,
        waited: Duration,
    ) -> Result<Lease<Busy, C>, Refusal> {
        if self.purpose == Purpose::Use {
            pool.stats().cell(self.caller.worker()).assigned(waited);
        }
        self.lease(pool, seat, member).come_home(self.caller.worker()).map_err(Refusal::Lost)
    }

    /// The client has this server, which no schedule has given it.
    pub(super) fn link(&self, pool: &Arc<Pool<C>>, seat: Seat, member: Box<Member<C>>) -> Lease<Busy, C> {
        *self.caller.doing.lock() = Doing::Linked { link: member.link(), seat, query: Query::OfClient };
        self.lease(pool, seat, member)
    }

    fn lease(&self, pool: &Arc<Pool<C>>, seat: Seat, member: Box<Member<C>>) -> Lease<Busy, C> {
        let caller = &self.caller;
        let lease = Lease::new(Arc::clone(pool), seat, member, Some(Arc::clone(caller)));
        lease.track(Tracked::Leased(caller.id()));
        caller.entry.set_state(ClientState::Active);
        caller.entry.set_link(lease.entry().map(|entry| entry.id()));
        lease
    }

    /// Leaves the queue, or declines what was granted. Harmless where it does neither wait nor have one.
    pub fn leave(&self) {
        let mut doing = self.caller.doing.lock();
        if matches!(*doing, Doing::Linked { .. }) {
            return;
        }
        let old = std::mem::replace(&mut *doing, Doing::Nothing);
        drop(doing);
        self.caller.entry.set_state(ClientState::Active);
        undo(old);
    }

    /// What may be said to a client that waits.
    pub fn queue_view(&self, now: Instant) -> Option<QueueView> {
        match &*self.caller.doing.lock() {
            Doing::Waiting { pool, ticket, since, .. } => {
                Some(pool.queue_view(*ticket, now.saturating_duration_since(*since), now))
            }
            _ => None,
        }
    }
}

impl<C: Connection> Drop for Claim<C> {
    fn drop(&mut self) {
        self.leave();
    }
}
