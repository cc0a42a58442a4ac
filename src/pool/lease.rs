//! A server connection on loan.
//!
//! Owns the way of a server out of its pool and back. Invariant: only a server that the relay has witnessed to be done
//! goes back; on every other way, a panic included, it is closed and its place freed.

use std::cell::Cell;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use super::caller::{Caller, Link};
use super::connection::Connection;
use super::limits::Permit;
use super::schedule::Seat;
use super::sync::{AtomicBool, Ordering};
use super::{Pool, Tracked};
use crate::ids::WorkerId;
use crate::server::ServerConn;
use crate::session::params::Role;
use crate::session::verdict::Done;
use crate::stats::{ServerEntry, ServerSeat, server_event};

/// A server as its pool keeps it.
pub(super) struct Member<C: Connection> {
    /// `None` only while a lease has taken it apart, see [`Lease::converse`].
    conn: Option<C>,
    permit: Permit,
    entry: ServerSeat,
    born: Instant,
    link: Arc<Link<C>>,
    watch: Arc<Watch<C>>,
    /// `watch` as a waker, made once.
    waker: Waker,
    generation: u32,
}

/// Rings when an idle server says something.
struct Watch<C: Connection> {
    pool: Weak<Pool<C>>,
    seat: Seat,
    rung: AtomicBool,
}

impl<C: Connection> Wake for Watch<C> {
    fn wake(self: Arc<Self>) {
        // Called by a reactor: no lock of a pool may be taken here. `Release`, so that who finds it rung also finds
        // the socket readable.
        if !self.rung.swap(true, Ordering::AcqRel)
            && let Some(pool) = self.pool.upgrade()
        {
            pool.report_spoken(self.seat);
        }
    }
}

/// How often an idle server may say something without a pause before it is closed.
const SPEECHES_MAX: usize = 16;

impl<C: Connection> Member<C> {
    pub(super) fn new(pool: &Weak<Pool<C>>, seat: Seat, conn: C, given: Given) -> Box<Self> {
        let link = Arc::new(Link { pool: Weak::clone(pool), cancel: conn.cancel() });
        let watch = Arc::new(Watch { pool: Weak::clone(pool), seat, rung: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&watch));
        let Given { permit, entry, born, generation } = given;
        Box::new(Self { conn: Some(conn), permit, entry, born, link, watch, waker, generation })
    }

    /// What the server is to replication.
    pub(super) fn role(&self) -> Role {
        self.conn.as_ref().map_or(Role::Unknown, |conn| conn.reported().role())
    }

    pub(super) fn connection(&self) -> Option<&C> {
        self.conn.as_ref()
    }

    pub(super) fn link(&self) -> Arc<Link<C>> {
        Arc::clone(&self.link)
    }

    pub(super) fn home(&self) -> WorkerId {
        self.conn.as_ref().map_or(WorkerId(0), Connection::home)
    }

    /// Whether it has said nothing since it became idle.
    pub(super) fn is_silent(&self) -> bool {
        !self.watch.rung.load(Ordering::Acquire)
    }

    /// Hears what it has to say and has the reactor watch it from now on.
    ///
    /// Errors: it is not fit for clients.
    pub(super) fn watch(&mut self) -> Result<(), String> {
        self.watch.rung.store(false, Ordering::Release);
        let mut cx = Context::from_waker(&self.waker);
        let Some(conn) = &mut self.conn else { return Err("connection lost".to_owned()) };
        for _ in 0..SPEECHES_MAX {
            match conn.poll_readable(&mut cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(()) => conn.digest()?,
            }
        }
        Err("idle server does not stop talking".to_owned())
    }

    pub(super) fn track(&self, tracked: Tracked) {
        tracked.show(&self.entry);
    }

    /// Shows it on the roster as one that rests, with what clients have left on it.
    pub(super) fn show_idle(&self) {
        self.track(Tracked::Idle);
        self.entry.set_prepared(self.conn.as_ref().map_or(0, Connection::prepared));
    }

    /// Says in the log why it is being closed.
    pub(super) fn log(&self, reason: &str, now: Instant) {
        let age = now.saturating_duration_since(self.born).as_secs();
        server_event!(info, self.entry, "closing because: {reason} (age={age}s)");
    }

    /// Closes the connection. What is returned is to be dropped once the seat is free, and under no lock.
    pub(super) fn close(self) -> Permit {
        if let Some(conn) = self.conn {
            conn.close();
        }
        self.permit
    }
}

/// What a new member of a pool is given besides its connection.
pub(super) struct Given {
    pub(super) permit: Permit,
    pub(super) entry: ServerSeat,
    pub(super) born: Instant,
    pub(super) generation: u32,
}

/// State of a lease: a client works with the server.
#[derive(Debug)]
pub struct Busy(());

/// State of a lease: the server is being cleaned after its client.
#[derive(Debug)]
pub struct Resetting(());

/// State of a lease: the server is fit for the next client.
#[derive(Debug)]
pub struct Idle(());

/// A server connection on loan from its pool.
///
/// Dropping a lease closes the connection. Only a `Lease<Idle>` can be given back, and only the relay's proof that the
/// server is done makes one, so no path returns a server that is still in a transaction.
#[must_use = "dropping a lease closes the server connection"]
pub struct Lease<State, C: Connection = ServerConn> {
    /// `None` only once it has been given back or closed.
    member: Option<Box<Member<C>>>,
    pool: Arc<Pool<C>>,
    seat: Seat,
    /// Who has it; `None` once it is nobody's.
    caller: Option<Arc<Caller<C>>>,
    /// Whether cancel requests pass by now; spares the caller's lock where nothing changes.
    shielded: Cell<bool>,
    state: PhantomData<State>,
}

impl<State, C: Connection> Lease<State, C> {
    pub(super) fn new(
        pool: Arc<Pool<C>>,
        seat: Seat,
        member: Box<Member<C>>,
        caller: Option<Arc<Caller<C>>>,
    ) -> Self {
        Self { member: Some(member), pool, seat, caller, shielded: Cell::new(false), state: PhantomData }
    }

    /// The pool it is from.
    pub fn pool(&self) -> &Arc<Pool<C>> {
        &self.pool
    }

    /// Whether the server is to be closed instead of given back: after RECONNECT or another configuration. Giving it
    /// back closes it; session mode asks for `server_fast_close`.
    pub fn is_obsolete(&self) -> bool {
        self.member
            .as_ref()
            .is_none_or(|it| it.generation != self.pool.generation() || it.entry.close_needed())
    }

    /// Closes the connection and frees its place.
    pub fn close(mut self, reason: &str) {
        self.end(reason);
    }

    /// Closes a connection that the server has ended. Clients may wait for its successor.
    pub fn lost(self, reason: &str, now: Instant) {
        if let Some(member) = &self.member {
            self.pool.lock().lost(member.role(), now);
        }
        self.close(reason);
    }

    /// Whether a cancel request is on its way to the server: it may hit whatever runs there when it arrives. The client's
    /// driver is woken when it has arrived.
    pub fn is_being_cancelled(&self) -> bool {
        self.pool.lock().is_held(self.seat)
    }

    /// Waits until no cancel request is on its way to the server. Cancel safe.
    pub(super) async fn cancelled(&self) {
        self.pool.alarm.wait_until(|| !self.is_being_cancelled()).await;
    }

    pub(super) fn track(&self, tracked: Tracked) {
        if let Some(member) = &self.member {
            member.track(tracked);
        }
    }

    /// The server's entry on the roster.
    pub fn entry(&self) -> Option<&Arc<ServerEntry>> {
        self.member.as_ref().map(|member| member.entry.entry())
    }

    /// Moves the connection to the calling thread's reactor. Errors: it is lost, and so is the lease.
    pub fn come_home(mut self, worker: WorkerId) -> Result<Self, String> {
        let Some(member) = &mut self.member else { return Ok(self) };
        if member.home() == worker {
            return Ok(self);
        }
        let moved = member.conn.take().map(|conn| conn.rehome(worker));
        match moved {
            Some(Ok(conn)) => {
                member.conn = Some(conn);
                Ok(self)
            }
            Some(Err(error)) => {
                let reason = format!("cannot move the connection to another worker: {error}");
                self.close(&reason);
                Err(reason)
            }
            None => Ok(self),
        }
    }

    /// Lends the bare connection to a conversation of the pooler's own, which gives it back idle. Not cancel safe:
    /// dropping it closes the connection.
    ///
    /// Errors: the conversation's own; the connection is closed and its place freed.
    pub async fn converse<T, E, F>(mut self, run: impl FnOnce(C) -> F) -> Result<(Self, T), E>
    where
        E: std::fmt::Display,
        F: Future<Output = Result<(C, T), E>>,
    {
        let conn = self.member.as_mut().and_then(|member| member.conn.take());
        match run(conn.expect(HAS_CONNECTION)).await {
            Ok((conn, outcome)) => {
                if let Some(member) = &mut self.member {
                    member.conn = Some(conn);
                }
                Ok((self, outcome))
            }
            Err(error) => {
                self.close(&error.to_string());
                Err(error)
            }
        }
    }

    fn unlink(&mut self) {
        if let Some(caller) = self.caller.take() {
            caller.unlink();
        }
    }

    fn end(&mut self, reason: &str) {
        self.unlink();
        if let Some(member) = self.member.take() {
            self.pool.close(self.seat, *member, reason);
            self.pool.serve_demand(Instant::now());
        }
    }

    fn into<Next>(mut self) -> Lease<Next, C> {
        self.unlink();
        let lease = Lease {
            member: self.member.take(),
            pool: Arc::clone(&self.pool),
            seat: self.seat,
            caller: None,
            shielded: Cell::new(false),
            state: PhantomData,
        };
        drop(self);
        lease
    }
}

impl<C: Connection> Lease<Busy, C> {
    /// The client has done with the server, and it is clean.
    pub fn done(self, _proof: Done) -> Lease<Idle, C> {
        self.into()
    }

    /// Gives back a server on which nothing has run: as far as its lifetime goes, it has not been used.
    pub fn unused(self, _proof: Done, now: Instant) {
        let lease: Lease<Idle, C> = self.into();
        lease.pool.lock().unused(lease.seat);
        lease.give_back(now);
    }

    /// The client has done with the server, but left something behind. Until it is cleaned it is nobody's.
    pub fn reset(self, _proof: Done) -> Lease<Resetting, C> {
        let lease: Lease<Resetting, C> = self.into();
        lease.pool.lock().resetting(lease.seat);
        lease.track(Tracked::Resetting);
        lease
    }

    /// What follows is a query of the pooler's own (parameters): the client's cancel requests must not hit it.
    pub fn shield(&self) {
        if let (Some(caller), false) = (&self.caller, self.shielded.replace(true)) {
            caller.shield();
        }
    }

    /// What follows is the client's again.
    pub fn unshield(&self) {
        if let (Some(caller), true) = (&self.caller, self.shielded.replace(false)) {
            caller.unshield();
        }
    }
}

impl<C: Connection> Lease<Resetting, C> {
    /// The server has confirmed that it is clean.
    pub fn cleaned(self) -> Lease<Idle, C> {
        self.into()
    }
}

impl<C: Connection> Lease<Idle, C> {
    /// Gives the server back, to the next client or to rest.
    pub fn give_back(mut self, now: Instant) {
        if let Some(member) = self.member.take() {
            self.pool.take_back(self.seat, member, now);
        }
    }
}

const HAS_CONNECTION: &str = "only methods that consume the lease take its connection";

impl<State, C: Connection> Deref for Lease<State, C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.member.as_ref().and_then(|member| member.conn.as_ref()).expect(HAS_CONNECTION)
    }
}

impl<State, C: Connection> DerefMut for Lease<State, C> {
    fn deref_mut(&mut self) -> &mut C {
        self.member.as_mut().and_then(|member| member.conn.as_mut()).expect(HAS_CONNECTION)
    }
}

impl<State, C: Connection> Drop for Lease<State, C> {
    fn drop(&mut self) {
        self.end("client disconnect while server was not ready");
    }
}
