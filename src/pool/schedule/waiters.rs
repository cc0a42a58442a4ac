//! The clients that wait for a server, first come, first served.
//!
//! Each has a ticket, so that it can leave from the middle without a search. Invariant: tickets rise from front to
//! back, and the front entry (where there is one) is somebody still waiting.

use std::collections::VecDeque;
use std::time::Instant;

use crate::ids::{ClientId, WorkerId};

/// Names one wait of one client in one pool. Never used twice; an older wait has a smaller one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WaitTicket(u64);

/// Where a pool's tickets come from.
#[derive(Debug, Default)]
pub(super) struct Tickets(u64);

impl Tickets {
    pub(super) fn next(&mut self) -> WaitTicket {
        self.0 += 1;
        WaitTicket(self.0)
    }
}

/// A client that waits.
#[derive(Debug)]
pub struct Waiter<W> {
    /// Its wait.
    pub ticket: WaitTicket,
    /// Who.
    pub client: ClientId,
    /// The worker it lives on.
    pub worker: WorkerId,
    /// Since when.
    pub since: Instant,
    /// How to reach it.
    pub handle: W,
}

#[derive(Debug)]
struct Place<W> {
    ticket: WaitTicket,
    /// `None`: it has left.
    waiter: Option<Waiter<W>>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Waiters<W> {
    places: VecDeque<Place<W>>,
    /// Places that are not empty.
    count: usize,
}

/// Empty places are swept out once there are this many more of them than of waiters.
const EMPTY_PLACES_MAX: usize = 64;

impl<W> Waiters<W> {
    pub(super) fn new() -> Self {
        Self { places: VecDeque::new(), count: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Puts a waiter where its ticket belongs: at the end, or where it was before.
    pub(super) fn put(&mut self, waiter: Waiter<W>) {
        let ticket = waiter.ticket;
        let index = self.places.partition_point(|place| place.ticket < ticket);
        self.count += 1;
        match self.places.get_mut(index) {
            Some(place) if place.ticket == ticket => place.waiter = Some(waiter),
            _ => self.places.insert(index, Place { ticket, waiter: Some(waiter) }),
        }
    }

    /// The one who has waited longest.
    pub(super) fn front(&self) -> Option<&Waiter<W>> {
        self.places.front().and_then(|place| place.waiter.as_ref())
    }

    pub(super) fn pop(&mut self) -> Option<Waiter<W>> {
        self.take(0)
    }

    /// Takes the first who lives on `worker`, if among the first `within` places.
    pub(super) fn pop_of_worker(&mut self, worker: WorkerId, within: usize) -> Option<Waiter<W>> {
        let lives_there =
            |place: &Place<W>| place.waiter.as_ref().is_some_and(|waiter| waiter.worker == worker);
        let index = self.places.iter().take(within).position(lives_there)?;
        self.take(index)
    }

    /// Takes out who has this ticket, if still waiting.
    pub(super) fn leave(&mut self, ticket: WaitTicket) -> Option<Waiter<W>> {
        let index = self.places.binary_search_by_key(&ticket, |place| place.ticket).ok()?;
        self.take(index)
    }

    /// How many wait in front of this ticket; `None` if it is not waiting.
    pub(super) fn before(&self, ticket: WaitTicket) -> Option<usize> {
        let index = self.places.binary_search_by_key(&ticket, |place| place.ticket).ok()?;
        self.places[index].waiter.as_ref()?;
        Some(self.places.range(..index).filter(|place| place.waiter.is_some()).count())
    }

    fn take(&mut self, index: usize) -> Option<Waiter<W>> {
        let waiter = self.places.get_mut(index)?.waiter.take()?;
        self.count -= 1;
        while self.places.front().is_some_and(|place| place.waiter.is_none()) {
            self.places.pop_front();
        }
        if self.places.len() > 2 * self.count + EMPTY_PLACES_MAX {
            self.places.retain(|place| place.waiter.is_some());
        }
        Some(waiter)
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.places.iter().filter(|place| place.waiter.is_some()).count(), self.count);
        assert!(self.places.front().is_none_or(|place| place.waiter.is_some()));
        assert!(self.places.iter().zip(self.places.iter().skip(1)).all(|(a, b)| a.ticket < b.ticket));
        assert!(self.places.len() <= 2 * self.count + EMPTY_PLACES_MAX);
    }
}
