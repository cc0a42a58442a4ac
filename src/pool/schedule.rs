//! Who gets which server in one pool.
//!
//! Owns the counts, the idle servers and the queue of one pool, as a pure value: servers and waiters are opaque, time
//! is an argument, and nothing here opens or closes anything. It refuses to know about other pools; limits across
//! pools are asked by whoever acts on [`Schedule::next_open`]. Invariants: nobody waits while a fitting server is
//! idle; servers never exceed `pool_size` plus reserve, those being opened and closed included; a server with a cancel
//! request on its way is given to nobody; a server that was opened for one client alone never serves another.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::config::PoolSettings;
use crate::ids::{ClientId, WorkerId};

mod adopt;
mod answer;
mod opening;
mod own;
mod slots;
mod successor;
#[cfg(test)]
mod tests;
mod waiters;

pub use answer::{Asker, Audience, Checkout, CloseReason, Closing, Flow, OpenFailure, Opening, Release};
use opening::Failure;
use own::Owners;
pub use slots::{Counts, Seat};
use slots::{Slot, Slots, State};
use successor::Succession;
use waiters::{Tickets, Waiters};
pub use waiters::{WaitTicket, Waiter};

/// A released server may go to a waiter of the same worker, past others, while nobody has waited longer than this:
/// it saves two system calls and a wake-up across threads, and costs no more fairness than this.
pub const SAME_WORKER_PREFERENCE_MAX: Duration = Duration::from_millis(2);

/// How far the idle list and the queue are searched for one of the same worker.
const SAME_WORKER_SEARCH_MAX: usize = 16;

/// One pool's servers and waiters. `S`: a server; `W`: how to reach a waiter; `E`: why a server could not be opened.
#[derive(Debug)]
pub struct Schedule<S, W, E> {
    settings: PoolSettings,
    slots: Slots<S>,
    /// Idle servers; the front one has been idle longest.
    idle: VecDeque<Seat>,
    waiters: Waiters<W>,
    /// Those who wait for a server of their own.
    owners: Owners<W>,
    tickets: Tickets,
    flow: Flow,
    generation: u32,
    failure: Option<Failure<E>>,
    /// When a server was last closed for its age: the next waits a while, so that a pool does not end at once.
    lifetime_closed: Option<Instant>,
    succession: Succession,
}

impl<S, W, E: Clone> Schedule<S, W, E> {
    /// An empty pool.
    pub fn new(settings: PoolSettings) -> Self {
        Self {
            settings,
            slots: Slots::new(),
            idle: VecDeque::new(),
            waiters: Waiters::new(),
            owners: Owners::new(),
            tickets: Tickets::default(),
            flow: Flow::Running,
            generation: 0,
            failure: None,
            lifetime_closed: None,
            succession: Succession::default(),
        }
    }

    /// A client asks for a server. `fit` says of an idle server whether it is still silent; `waiter` is asked for a way
    /// to reach the client if it must wait.
    pub fn checkout(
        &mut self,
        asker: Asker,
        now: Instant,
        fit: impl Fn(&S) -> bool,
        waiter: impl FnOnce() -> W,
    ) -> Checkout<S, E> {
        let Asker { client, worker } = asker;
        if self.flow == Flow::Running {
            if let Some(seat) = self.pick_idle(worker, now, fit)
                && let Some(server) = self.lease(seat, client, now)
            {
                return Checkout::Granted { seat, server };
            }
            if let Some(failure) = &self.failure
                && now < failure.retry_at
                && self.slots.counts().total() == 0
                && !self.succession.is_awaited(now)
            {
                return Checkout::Refused(failure.error.clone());
            }
        }
        let ticket = self.tickets.next();
        self.waiters.put(Waiter { ticket, client, worker, since: now, handle: waiter() });
        Checkout::Waits(ticket)
    }

    /// Chooses an idle server and takes it from the list: one at home on `worker`, else the most recently used.
    fn pick_idle(&mut self, worker: WorkerId, now: Instant, fit: impl Fn(&S) -> bool) -> Option<Seat> {
        let fits = |seat: &Seat| match self.slots.get(*seat) {
            Some(slot @ Slot { state: State::Idle(server), .. }) => {
                !self.needs_check(slot, now) && fit(server)
            }
            _ => false,
        };
        let index = if self.settings.server_round_robin {
            self.idle.iter().position(fits)
        } else {
            let last = self.idle.iter().rposition(&fits)?;
            let first = (last + 1).saturating_sub(SAME_WORKER_SEARCH_MAX);
            let at_home = |seat: &Seat| self.slots.get(*seat).is_some_and(|slot| slot.home == worker);
            let mut near = self.idle.range(first..=last);
            let found = near.rposition(|seat| at_home(seat) && fits(seat));
            Some(found.map_or(last, |offset| first + offset))
        };
        index.and_then(|index| self.idle.remove(index))
    }

    /// Lends out an idle server that is off the list already.
    fn lease(&mut self, seat: Seat, client: ClientId, now: Instant) -> Option<S> {
        let old = self.slots.change(seat, State::Leased(client))?;
        self.slots.get_mut(seat)?.since = now;
        match old {
            State::Idle(server) => Some(server),
            _ => None,
        }
    }

    /// A server that was on loan, being cleaned or examined is fit for the next client; it now lives on `worker`.
    pub fn release(&mut self, seat: Seat, server: S, worker: WorkerId, now: Instant) -> Release<S, W> {
        let (used, audience) = match self.slots.get_mut(seat) {
            Some(slot) => {
                slot.home = worker;
                (matches!(slot.state, State::Leased(_) | State::Resetting), slot.audience)
            }
            None => (false, Audience::Everybody),
        };
        if audience != Audience::Everybody {
            return self.close(seat, server, CloseReason::OwnerGone);
        }
        if used && self.lifetime_over(seat, now, Use::Over) {
            return self.close(seat, server, CloseReason::Lifetime);
        }
        self.settle(seat, server, now)
    }

    /// Where the server is that is being opened, for [`Schedule::forsake`].
    pub fn located(&mut self, seat: Seat, address: IpAddr) {
        if let Some(slot) = self.slots.get_mut(seat) {
            slot.address = Some(address);
        }
    }

    /// Servers at these addresses become obsolete: idle ones are closed now, the others once they are released.
    pub fn forsake(&mut self, addresses: &[IpAddr]) -> Vec<Closing<S>> {
        let is_there = |slot: &Slot<S>| slot.address.is_some_and(|it| addresses.contains(&it));
        let seats: Vec<_> =
            self.slots.iter().filter(|(_, slot)| is_there(slot)).map(|(seat, _)| seat).collect();
        let obsolete = self.generation.wrapping_sub(1);
        let mut closing = Vec::new();
        for seat in seats {
            if let Some(slot) = self.slots.get_mut(seat) {
                slot.generation = obsolete;
            }
            if let Some(server) = self.take_idle(seat, State::Closing) {
                closing.push(Closing { seat, server, reason: CloseReason::Obsolete });
            }
        }
        closing
    }

    /// A server has been opened on `worker`.
    pub fn opened(&mut self, seat: Seat, server: S, worker: WorkerId, now: Instant) -> Release<S, W> {
        let Some(slot) = self.slots.get_mut(seat) else {
            return self.close(seat, server, CloseReason::Killed);
        };
        slot.home = worker;
        if let Audience::Owner(ticket) = slot.audience {
            return self.opened_for_owner(seat, ticket, server, now);
        }
        self.failure = None;
        self.settle(seat, server, now)
    }

    /// Why a server must be closed that is in nobody's hands, if it must.
    fn unwanted(&self, seat: Seat) -> Option<CloseReason> {
        match self.slots.get(seat) {
            // Not reached: whoever has the server has its seat. Closing it is safe in any case.
            None => Some(CloseReason::Killed),
            Some(slot) if slot.generation != self.generation => Some(CloseReason::CloseNeeded),
            Some(_) if self.flow == Flow::Paused => Some(CloseReason::Paused),
            Some(_) if self.surplus() > 0 => Some(CloseReason::TooMany),
            Some(_) => None,
        }
    }

    /// Finds the place of a server that is in nobody's hands.
    fn settle(&mut self, seat: Seat, server: S, now: Instant) -> Release<S, W> {
        if let Some(reason) = self.unwanted(seat) {
            return self.close(seat, server, reason);
        }
        let (home, holds) = self.slots.get(seat).map_or((WorkerId(0), 0), |slot| (slot.home, slot.holds));
        if holds > 0 {
            self.slots.change(seat, State::Held(server));
            return Release::Held;
        }
        if self.is_owners_turn(now) {
            return self.close(seat, server, CloseReason::Evicted);
        }
        match self.next_waiter(home, now) {
            Some(waiter) => {
                self.slots.change(seat, State::Leased(waiter.client));
                if let Some(slot) = self.slots.get_mut(seat) {
                    slot.since = now;
                }
                Release::HandTo { waiter, seat, server }
            }
            None => {
                self.rest(seat, server, now);
                Release::Kept
            }
        }
    }

    /// Puts a server into the idle list. One that was only examined keeps its place: it has not been used.
    fn rest(&mut self, seat: Seat, server: S, now: Instant) {
        let examined = matches!(self.slots.change(seat, State::Idle(server)), Some(State::Examining));
        let Some(slot) = self.slots.get_mut(seat) else { return };
        if !examined {
            slot.since = now;
            self.idle.push_back(seat);
            return;
        }
        let since = slot.since;
        let slots = &self.slots;
        let place = self.idle.partition_point(|it| slots.get(*it).is_some_and(|slot| slot.since <= since));
        self.idle.insert(place, seat);
    }

    /// Whose turn it is, for a server that lives on `worker`.
    fn next_waiter(&mut self, worker: WorkerId, now: Instant) -> Option<Waiter<W>> {
        let front = self.waiters.front()?;
        let may_prefer = front.worker != worker
            && now.saturating_duration_since(front.since) <= SAME_WORKER_PREFERENCE_MAX;
        if may_prefer && let Some(waiter) = self.waiters.pop_of_worker(worker, SAME_WORKER_SEARCH_MAX) {
            return Some(waiter);
        }
        self.waiters.pop()
    }

    fn close(&mut self, seat: Seat, server: S, reason: CloseReason) -> Release<S, W> {
        self.slots.change(seat, State::Closing);
        Release::Close(Closing { seat, server, reason })
    }

    /// A leased server is being cleaned: it belongs to no client any more, but is not free either.
    pub fn resetting(&mut self, seat: Seat) {
        if self.slots.get(seat).is_some_and(|slot| matches!(slot.state, State::Leased(_))) {
            self.slots.change(seat, State::Resetting);
        }
    }

    /// A leased server is about to be released without having been used.
    pub fn unused(&mut self, seat: Seat) {
        if self.slots.get(seat).is_some_and(|slot| matches!(slot.state, State::Leased(_))) {
            self.slots.change(seat, State::Examining);
        }
    }

    /// A server connection has been closed, by whomever. The caller must now look at [`Schedule::next_open`].
    pub fn gone(&mut self, seat: Seat) {
        let removed = self.slots.remove(seat);
        if matches!(removed, Some(Slot { state: State::Idle(_), .. })) {
            self.idle.retain(|it| *it != seat);
        }
    }

    /// Takes an idle server out, to hear what it has to say. It comes back by [`Schedule::release`] or ends by
    /// [`Schedule::gone`].
    pub fn examine(&mut self, seat: Seat) -> Option<S> {
        self.take_idle(seat, State::Examining)
    }

    fn take_idle(&mut self, seat: Seat, into: State<S>) -> Option<S> {
        if !matches!(self.slots.get(seat)?.state, State::Idle(_)) {
            return None;
        }
        let index = self.idle.iter().position(|it| *it == seat)?;
        self.idle.remove(index);
        match self.slots.change(seat, into)? {
            State::Idle(server) => Some(server),
            _ => None,
        }
    }

    /// A waiter leaves: it was cancelled, timed out or is gone. `None`: it does not wait any more.
    pub fn abandon(&mut self, ticket: WaitTicket) -> Option<Waiter<W>> {
        self.waiters.leave(ticket).or_else(|| self.owners.leave(ticket))
    }

    /// Keeps a server from being given to anybody else while a cancel request is on its way to it. False: it has gone,
    /// or no client has it.
    pub fn hold(&mut self, seat: Seat) -> bool {
        match self.slots.get_mut(seat) {
            Some(slot) if matches!(slot.state, State::Leased(_)) => {
                slot.holds += 1;
                true
            }
            _ => false,
        }
    }

    /// Whether a cancel request is on its way to the server.
    pub fn is_held(&self, seat: Seat) -> bool {
        self.slots.get(seat).is_some_and(|slot| slot.holds > 0)
    }

    /// A cancel request has ended. `None`: the server is not waiting for that.
    pub fn unhold(&mut self, seat: Seat, now: Instant, fit: impl Fn(&S) -> bool) -> Option<Release<S, W>> {
        let slot = self.slots.get_mut(seat)?;
        slot.holds = slot.holds.saturating_sub(1);
        if slot.holds > 0 || !matches!(slot.state, State::Held(_)) {
            return None;
        }
        match self.slots.change(seat, State::Resetting)? {
            // It is heard before anybody gets it.
            State::Held(server) if !fit(&server) && self.unwanted(seat).is_none() => {
                self.rest(seat, server, now);
                Some(Release::Kept)
            }
            State::Held(server) => Some(self.settle(seat, server, now)),
            _ => None,
        }
    }

    /// The server is to be closed instead of being given to anybody else: it is not known what happens to it.
    pub fn condemn(&mut self, seat: Seat) {
        let obsolete = self.generation.wrapping_sub(1);
        if let Some(slot) = self.slots.get_mut(seat)
            && !matches!(slot.state, State::Idle(_))
        {
            slot.generation = obsolete;
        }
    }

    fn needs_check(&self, slot: &Slot<S>, now: Instant) -> bool {
        self.settings.check_after.is_some_and(|it| now.saturating_duration_since(slot.since) >= it)
    }

    /// Takes out an idle server that a waiter needs and that is to be asked first whether it still answers. It comes
    /// back by [`Schedule::release`] or ends by [`Schedule::gone`]. To be asked until it says `None`.
    pub fn next_check(&mut self, now: Instant) -> Option<(Seat, S)> {
        if self.flow != Flow::Running || self.waiters.len() <= self.coming() {
            return None;
        }
        let seat = self.idle.back().copied()?;
        if !self.slots.get(seat).is_some_and(|slot| self.needs_check(slot, now)) {
            return None;
        }
        self.examine(seat).map(|server| (seat, server))
    }

    /// Servers on their way to the first in the queue.
    fn coming(&self) -> usize {
        let counts = self.slots.counts();
        counts.opening + counts.resetting + counts.examining - self.owners.opening
    }

    /// Empties the queue.
    pub fn dismiss(&mut self) -> Vec<Waiter<W>> {
        let mut all = self.owners.dismiss();
        all.extend(std::iter::from_fn(|| self.waiters.pop()));
        all
    }

    /// The last error, if connecting has been failing since.
    pub fn failure(&self) -> Option<&E> {
        self.failure.as_ref().map(|failure| &failure.error)
    }

    /// Servers that have had their time, longest idle first. The caller closes them, then asks
    /// [`Schedule::next_open`] and [`Schedule::next_open_for_minimum`].
    pub fn upkeep(&mut self, now: Instant) -> Vec<Closing<S>> {
        let mut closing = Vec::new();
        let mut surplus = self.surplus();
        let mut index = 0;
        while let Some(seat) = self.idle.get(index).copied() {
            let reason = match surplus {
                0 => self.outlived(seat, now),
                _ => Some(CloseReason::TooMany),
            };
            let Some(reason) = reason else {
                index += 1;
                continue;
            };
            surplus = surplus.saturating_sub(1);
            if !self.close_idle(seat, reason, &mut closing) {
                index += 1;
            }
        }
        closing
    }

    fn outlived(&mut self, seat: Seat, now: Instant) -> Option<CloseReason> {
        let counts = self.slots.counts();
        let slot = self.slots.get(seat)?;
        let idle = now.saturating_duration_since(slot.since);
        let timeout = self.settings.server_idle_timeout;
        let alive = counts.connected() - counts.closing;
        if !timeout.is_zero() && idle > timeout && alive > self.settings.min_size {
            return Some(CloseReason::IdleTimeout);
        }
        self.lifetime_over(seat, now, Use::Pending).then_some(CloseReason::Lifetime)
    }

    /// Whether the server is to be closed for its age now. At most one in `server_lifetime / pool_size`, so that a pool
    /// whose servers were opened together does not lose all of them together.
    fn lifetime_over(&mut self, seat: Seat, now: Instant, usage: Use) -> bool {
        let lifetime = self.settings.server_lifetime;
        if lifetime.is_zero() {
            // Zero means: use once. One that has not been used yet is kept.
            return usage == Use::Over;
        }
        let Some(slot) = self.slots.get(seat) else { return false };
        if now.saturating_duration_since(slot.born) < lifetime {
            return false;
        }
        let size = u32::try_from(self.settings.size).unwrap_or(u32::MAX);
        let gap = lifetime.checked_div(size).unwrap_or(Duration::ZERO);
        if self.lifetime_closed.is_some_and(|last| now.saturating_duration_since(last) < gap) {
            return false;
        }
        self.lifetime_closed = Some(now);
        true
    }

    fn close_idle(&mut self, seat: Seat, reason: CloseReason, closing: &mut Vec<Closing<S>>) -> bool {
        let server = self.take_idle(seat, State::Closing);
        server.map(|server| closing.push(Closing { seat, server, reason })).is_some()
    }

    fn close_all_idle(&mut self, reason: CloseReason) -> Vec<Closing<S>> {
        let mut closing = Vec::with_capacity(self.idle.len());
        while let Some(seat) = self.idle.front().copied() {
            if !self.close_idle(seat, reason, &mut closing) {
                self.idle.pop_front();
            }
        }
        closing
    }

    /// Since when the longest idle server has been idle.
    pub fn longest_idle(&self) -> Option<Instant> {
        self.idle.front().and_then(|seat| self.slots.get(*seat)).map(|slot| slot.since)
    }

    /// Gives up the longest idle server, because another pool of the same database or user needs the connection.
    pub fn evict(&mut self) -> Option<Closing<S>> {
        let seat = self.idle.front().copied()?;
        let server = self.take_idle(seat, State::Closing)?;
        Some(Closing { seat, server, reason: CloseReason::Evicted })
    }

    /// All servers there are become obsolete: idle ones are closed now, the others once they are released.
    pub fn renew(&mut self) -> Vec<Closing<S>> {
        self.generation = self.generation.wrapping_add(1);
        // The next attempt may well go to another place.
        self.failure = None;
        self.close_all_idle(CloseReason::Obsolete)
    }

    /// Closes all idle servers.
    pub fn kill(&mut self) -> Vec<Closing<S>> {
        self.close_all_idle(CloseReason::Killed)
    }

    /// Pauses or resumes. Pausing closes the idle servers; after resuming, the caller looks at
    /// [`Schedule::next_open`].
    pub fn set_flow(&mut self, flow: Flow) -> Vec<Closing<S>> {
        self.flow = flow;
        match flow {
            Flow::Running => Vec::new(),
            Flow::Paused => self.close_all_idle(CloseReason::Paused),
        }
    }

    /// Whether servers are given out.
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// Other settings apply from now on.
    pub fn configure(&mut self, settings: PoolSettings) {
        self.settings = settings;
    }

    /// How many servers are in which state.
    pub fn counts(&self) -> Counts {
        self.slots.counts()
    }

    /// How many clients wait.
    pub fn waiting(&self) -> usize {
        self.waiters.len() + self.owners.len()
    }

    /// How many wait in front of this one for the like.
    pub fn queue_before(&self, ticket: WaitTicket) -> Option<usize> {
        self.waiters.before(ticket).or_else(|| self.owners.before(ticket))
    }

    /// The server with this seat, if it is idle.
    pub fn idle_at(&self, seat: Seat) -> Option<&S> {
        match &self.slots.get(seat)?.state {
            State::Idle(server) => Some(server),
            _ => None,
        }
    }

    /// Looks at the servers that wait for cancel requests to end.
    pub fn for_each_held(&self, mut look: impl FnMut(&S)) {
        for (_, slot) in self.slots.iter() {
            if let State::Held(server) = &slot.state {
                look(server);
            }
        }
    }

    /// Looks at the idle servers that must be asked whether they still answer before they are given out.
    pub fn for_each_to_check(&self, now: Instant, mut look: impl FnMut(&S)) {
        for slot in self.idle.iter().filter_map(|seat| self.slots.get(*seat)) {
            if let (State::Idle(server), true) = (&slot.state, self.needs_check(slot, now)) {
                look(server);
            }
        }
    }

    /// Servers opened before this number changed are to be closed once they are released.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// How many servers are obsolete but still there: what WAIT_CLOSE waits for.
    pub fn obsolete(&self) -> usize {
        self.slots.iter().filter(|(_, slot)| slot.generation != self.generation).count()
    }

    /// Who has had a server longest, and since when.
    pub fn longest_lease(&self) -> Option<(ClientId, Instant)> {
        let leases = self.slots.iter().filter_map(|(_, slot)| match slot.state {
            State::Leased(client) => Some((client, slot.since)),
            _ => None,
        });
        leases.min_by_key(|(_, since)| *since)
    }

    /// Nothing in it and nobody asking: the pool may be removed.
    pub fn is_empty(&self) -> bool {
        self.slots.counts().total() == 0 && self.waiting() == 0
    }

    /// Asserts what must always hold.
    #[cfg(test)]
    fn check(&self) {
        self.slots.check();
        self.waiters.check();
        self.check_owners();
        let counts = self.slots.counts();
        assert_eq!(counts.idle, self.idle.len());
        for seat in &self.idle {
            let slot = self.slots.get(*seat).expect("the list holds living seats");
            assert!(matches!(slot.state, State::Idle(_)), "{seat:?}");
            assert_eq!((slot.holds, slot.generation), (0, self.generation), "fit for anybody");
            assert_eq!(slot.audience, Audience::Everybody, "an owner's server is nobody else's");
        }
        let since = |seat: &Seat| self.slots.get(*seat).map(|slot| slot.since);
        assert!(self.idle.iter().map(since).is_sorted(), "longest idle first");
        let checked = self.settings.check_after.is_some();
        assert!(checked || counts.idle == 0 || self.waiters.len() == 0, "nobody waits beside an idle server");
        assert!(self.flow == Flow::Running || counts.idle == 0, "no idle server while paused");
    }
}

/// Whether a server has served a client and comes back, or waits to serve one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Over,
    Pending,
}
