//! Clients that need a server of their own, as replication connections do: opened for one client, closed after it.
//!
//! They stand in the same queue as all others, by the age of their tickets; a full pool gives up an idle server for
//! them. Invariants: a server that was opened for one client is handed to that client or closed; its client waits on
//! where it could not be opened for a reason that may pass.

use std::time::Instant;

use super::waiters::Waiters;
use super::{
    Asker, Audience, CloseReason, Closing, Failure, OpenFailure, Opening, Release, Schedule, Seat, State,
    WaitTicket, Waiter,
};

/// Those who wait for a server of their own.
#[derive(Debug)]
pub(super) struct Owners<W> {
    /// Nothing has been begun for these.
    waiters: Waiters<W>,
    /// For each of these a server is being opened.
    expecting: Vec<Waiter<W>>,
    /// Servers being opened for one client, those included whose client has left.
    pub(super) opening: usize,
}

impl<W> Owners<W> {
    pub(super) fn new() -> Self {
        Self { waiters: Waiters::new(), expecting: Vec::new(), opening: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len() + self.expecting.len()
    }

    pub(super) fn before(&self, ticket: WaitTicket) -> Option<usize> {
        let expects = || self.expecting.iter().any(|waiter| waiter.ticket == ticket).then_some(0);
        self.waiters.before(ticket).or_else(expects)
    }

    pub(super) fn leave(&mut self, ticket: WaitTicket) -> Option<Waiter<W>> {
        self.waiters.leave(ticket).or_else(|| self.take_expecting(ticket))
    }

    pub(super) fn dismiss(&mut self) -> Vec<Waiter<W>> {
        let mut all = std::mem::take(&mut self.expecting);
        all.extend(std::iter::from_fn(|| self.waiters.pop()));
        all
    }

    fn take_expecting(&mut self, ticket: WaitTicket) -> Option<Waiter<W>> {
        let index = self.expecting.iter().position(|waiter| waiter.ticket == ticket)?;
        Some(self.expecting.swap_remove(index))
    }

    /// The attempt for this one has ended without a server; it waits on in its old place.
    pub(super) fn not_opened(&mut self, ticket: WaitTicket) {
        self.opening -= 1;
        if let Some(waiter) = self.take_expecting(ticket) {
            self.waiters.put(waiter);
        }
    }
}

impl<S, W, E: Clone> Schedule<S, W, E> {
    /// A client asks for a server of its own. It always waits; the caller must now look at
    /// [`Schedule::make_room`] and [`Schedule::next_open`].
    pub fn checkout_own(&mut self, asker: Asker, now: Instant, handle: W) -> WaitTicket {
        let Asker { client, worker } = asker;
        let ticket = self.tickets.next();
        self.owners.waiters.put(Waiter { ticket, client, worker, since: now, handle });
        ticket
    }

    /// How to reach the client for which alone a server is being opened; `None` where there is none, or not any more.
    pub fn owner_of(&self, seat: Seat) -> Option<&W> {
        let Audience::Owner(ticket) = self.slots.get(seat)?.audience else { return None };
        self.owners.expecting.iter().find(|waiter| waiter.ticket == ticket).map(|waiter| &waiter.handle)
    }

    /// Gives up an idle server where the pool is full and somebody needs a server of its own. To be asked, and what it
    /// says to be closed, until it says `None`.
    pub fn make_room(&mut self, now: Instant) -> Option<Closing<S>> {
        if self.is_owner_stuck(now) { self.evict() } else { None }
    }

    /// Whether the first who needs a server of its own has waited longer than all who do not.
    pub(super) fn is_owner_first(&self) -> bool {
        let Some(owner) = self.owners.waiters.front() else { return false };
        self.waiters.front().is_none_or(|other| owner.ticket < other.ticket)
    }

    /// Whether the first who needs a server of its own lacks nothing but room.
    fn is_owner_stuck(&self, now: Instant) -> bool {
        let Some(owner) = self.owners.waiters.front() else { return false };
        self.may_connect_for_owner(now) && self.room_for(owner.since, now).is_none()
    }

    /// Whether a server that has become free must make room instead of serving the next in the queue.
    pub(super) fn is_owners_turn(&self, now: Instant) -> bool {
        self.is_owner_first() && self.is_owner_stuck(now)
    }

    /// A login that was refused to others may well be granted to a replication connection, and the other way round.
    fn may_connect_for_owner(&self, now: Instant) -> bool {
        let may_retry =
            |failure: &Failure<E>| failure.kind == OpenFailure::Refused || now >= failure.retry_at;
        self.may_connect_at_all() && self.failure.as_ref().is_none_or(may_retry)
    }

    pub(super) fn open_for_owner(&mut self, now: Instant) -> Option<Opening> {
        let since = self.owners.waiters.front()?.since;
        if !self.may_connect_for_owner(now) {
            return None;
        }
        let from_reserve = self.room_for(since, now)?;
        let owner = self.owners.waiters.pop()?;
        let opening = self.open(now, from_reserve, Some(owner.worker), Audience::Owner(owner.ticket));
        self.owners.opening += 1;
        self.owners.expecting.push(owner);
        Some(opening)
    }

    pub(super) fn opened_for_owner(
        &mut self,
        seat: Seat,
        ticket: WaitTicket,
        server: S,
        now: Instant,
    ) -> Release<S, W> {
        self.failure.take_if(|failure| failure.kind == OpenFailure::Unreachable);
        if let Some(reason) = self.unwanted(seat) {
            self.owners.not_opened(ticket);
            return self.close(seat, server, reason);
        }
        self.owners.opening -= 1;
        let Some(waiter) = self.owners.take_expecting(ticket) else {
            return self.close(seat, server, CloseReason::OwnerGone);
        };
        self.slots.change(seat, State::Leased(waiter.client));
        if let Some(slot) = self.slots.get_mut(seat) {
            slot.since = now;
        }
        Release::HandTo { waiter, seat, server }
    }

    /// A refused login is its client's own affair; where the server is out of reach, all wait.
    pub(super) fn open_failed_for_owner(
        &mut self,
        ticket: WaitTicket,
        failure: Failure<E>,
    ) -> Vec<Waiter<W>> {
        match failure.kind {
            OpenFailure::Refused => {
                self.owners.opening -= 1;
                self.owners.take_expecting(ticket).into_iter().collect()
            }
            OpenFailure::Unreachable => {
                self.failure = Some(failure);
                self.owners.not_opened(ticket);
                Vec::new()
            }
        }
    }

    #[cfg(test)]
    pub(super) fn check_owners(&self) {
        self.owners.waiters.check();
        let opening = |slot: &super::Slot<S>| {
            matches!((&slot.state, slot.audience), (State::Opening, Audience::Owner(_)))
        };
        let count = self.slots.iter().filter(|(_, slot)| opening(slot)).count();
        assert_eq!(self.owners.opening, count);
        assert!(self.owners.expecting.len() <= count, "each has its attempt");
    }
}
