//! The places for servers in a pool, and how many of them are in which state.
//!
//! Invariant: [`Counts`] is what counting the slots would give. A seat whose server has gone is not mistaken for its
//! successor: each use of a slot has a serial number.

use std::net::IpAddr;
use std::time::Instant;

use super::Audience;
use crate::ids::{ClientId, WorkerId};

/// A server's place in its pool, from the decision to open it until it is closed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seat {
    index: u32,
    serial: u32,
}

/// What a server is doing, as seen from its pool. Only the last two have the server itself in the pool's hands.
#[derive(Debug)]
pub(super) enum State<S> {
    /// Connecting and logging in.
    Opening,
    /// On loan to this client.
    Leased(ClientId),
    /// Being cleaned after its client; nobody's.
    Resetting,
    /// Said something while idle; being heard.
    Examining,
    /// Being closed.
    Closing,
    /// Released, but a cancel request for it is on its way.
    Held(S),
    /// Free.
    Idle(S),
}

/// How many servers are in which state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Connecting and logging in.
    pub opening: usize,
    /// On loan to clients.
    pub leased: usize,
    /// Being cleaned.
    pub resetting: usize,
    /// Being heard after they spoke while idle.
    pub examining: usize,
    /// Being closed.
    pub closing: usize,
    /// Held until cancel requests have ended.
    pub held: usize,
    /// Free.
    pub idle: usize,
}

impl Counts {
    /// All servers: what `pool_size` limits.
    pub fn total(&self) -> usize {
        self.opening + self.connected()
    }

    /// All but those that are still being opened.
    pub fn connected(&self) -> usize {
        self.usable() + self.closing
    }

    /// Servers that serve clients, now or later.
    pub fn usable(&self) -> usize {
        self.leased + self.resetting + self.examining + self.held + self.idle
    }

    /// Servers that PAUSE waits for: those that have work to end.
    pub fn busy(&self) -> usize {
        self.leased + self.resetting + self.examining + self.held
    }

    fn of<S>(&mut self, state: &State<S>) -> &mut usize {
        match state {
            State::Opening => &mut self.opening,
            State::Leased(_) => &mut self.leased,
            State::Resetting => &mut self.resetting,
            State::Examining => &mut self.examining,
            State::Closing => &mut self.closing,
            State::Held(_) => &mut self.held,
            State::Idle(_) => &mut self.idle,
        }
    }
}

/// A slot that is in use.
#[derive(Debug)]
pub(super) struct Slot<S> {
    pub(super) state: State<S>,
    /// Whom it serves.
    pub(super) audience: Audience,
    /// When the decision to open it fell.
    pub(super) born: Instant,
    /// Since when it is leased, or free.
    pub(super) since: Instant,
    /// The worker whose reactor has its socket.
    pub(super) home: WorkerId,
    /// Where the server is, if over TCP.
    pub(super) address: Option<IpAddr>,
    /// Servers of an older generation than the pool's are obsolete.
    pub(super) generation: u32,
    /// Cancel requests on their way to it.
    pub(super) holds: u32,
}

/// All slots of a pool.
#[derive(Debug)]
pub(super) struct Slots<S> {
    slots: Vec<(u32, Option<Slot<S>>)>,
    free: Vec<u32>,
    counts: Counts,
}

impl<S> Slots<S> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), counts: Counts::default() }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn insert(&mut self, slot: Slot<S>) -> Seat {
        *self.counts.of(&slot.state) += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).expect("memory ends before four billion servers")
        });
        let (serial, place) = &mut self.slots[index as usize];
        *serial = serial.wrapping_add(1);
        *place = Some(slot);
        Seat { index, serial: *serial }
    }

    pub(super) fn remove(&mut self, seat: Seat) -> Option<Slot<S>> {
        self.get(seat)?;
        let slot = self.slots[seat.index as usize].1.take()?;
        self.free.push(seat.index);
        *self.counts.of(&slot.state) -= 1;
        Some(slot)
    }

    pub(super) fn get(&self, seat: Seat) -> Option<&Slot<S>> {
        let (serial, slot) = self.slots.get(seat.index as usize)?;
        slot.as_ref().filter(|_| *serial == seat.serial)
    }

    /// The slot; its state is changed by [`Slots::change`] alone.
    pub(super) fn get_mut(&mut self, seat: Seat) -> Option<&mut Slot<S>> {
        let (serial, slot) = self.slots.get_mut(seat.index as usize)?;
        slot.as_mut().filter(|_| *serial == seat.serial)
    }

    /// Puts a slot into another state; returns the old one.
    pub(super) fn change(&mut self, seat: Seat, state: State<S>) -> Option<State<S>> {
        let (serial, slot) = self.slots.get_mut(seat.index as usize)?;
        let slot = slot.as_mut().filter(|_| *serial == seat.serial)?;
        *self.counts.of(&slot.state) -= 1;
        *self.counts.of(&state) += 1;
        Some(std::mem::replace(&mut slot.state, state))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Seat, &Slot<S>)> {
        self.slots.iter().enumerate().filter_map(|(index, (serial, slot))| {
            let index = u32::try_from(index).ok()?;
            Some((Seat { index, serial: *serial }, slot.as_ref()?))
        })
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut counts = Counts::default();
        for (_, slot) in self.iter() {
            *counts.of(&slot.state) += 1;
        }
        assert_eq!(counts, self.counts);
        assert_eq!(self.slots.len(), self.free.len() + counts.total());
    }
}
