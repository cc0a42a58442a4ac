//! Whether one more server may be opened, and what comes of it.
//!
//! Owns the room that `pool_size` and the reserve leave, and how long a failure keeps others from trying. Invariant: a
//! place is reserved before a server is opened, so that attempts under way count as servers.

use std::time::Instant;

use super::slots::{Slot, State};
use super::{Audience, Flow, OpenFailure, Opening, Schedule, Seat, Waiter};
use crate::ids::WorkerId;
use crate::session::params::Role;

/// An attempt to open a server has failed, and none has succeeded since.
#[derive(Debug)]
pub(super) struct Failure<E> {
    pub(super) error: E,
    pub(super) kind: OpenFailure,
    pub(super) retry_at: Instant,
}

impl<S, W, E: Clone> Schedule<S, W, E> {
    /// Reserves a place for a server that a waiter needs, if one may be opened. To be asked until it says `None`.
    pub fn next_open(&mut self, now: Instant) -> Option<Opening> {
        if self.is_owner_first() {
            self.open_for_owner(now).or_else(|| self.open_for_everybody(now))
        } else {
            self.open_for_everybody(now).or_else(|| self.open_for_owner(now))
        }
    }

    fn open_for_everybody(&mut self, now: Instant) -> Option<Opening> {
        let front = self.waiters.front()?;
        let (since, worker) = (front.since, front.worker);
        if self.waiters.len() <= self.coming() || !self.may_connect(now) {
            return None;
        }
        let from_reserve = self.room_for(since, now)?;
        Some(self.open(now, from_reserve, Some(worker), Audience::Everybody))
    }

    /// Whether one who has waited since then may have a server opened, and if so whether it comes from the reserve.
    pub(super) fn room_for(&self, since: Instant, now: Instant) -> Option<bool> {
        match self.room() {
            Room::Regular => Some(false),
            Room::Reserve => {
                let timeout = self.settings.reserve_timeout;
                let waited = now.saturating_duration_since(since);
                (!timeout.is_zero() && waited >= timeout).then_some(true)
            }
            Room::None => None,
        }
    }

    /// Reserves a place for a server that `min_pool_size` asks for, if one may be opened.
    pub fn next_open_for_minimum(&mut self, now: Instant) -> Option<Opening> {
        let wanted =
            self.slots.counts().total() < self.settings.min_size && matches!(self.room(), Room::Regular);
        if !wanted || !self.may_connect(now) {
            return None;
        }
        Some(self.open(now, false, None, Audience::Everybody))
    }

    pub(super) fn open(
        &mut self,
        now: Instant,
        from_reserve: bool,
        worker: Option<WorkerId>,
        audience: Audience,
    ) -> Opening {
        let generation = self.generation;
        let seat = self.slots.insert(Slot {
            state: State::Opening,
            audience,
            born: now,
            since: now,
            home: worker.unwrap_or(WorkerId(0)),
            address: None,
            generation,
            holds: 0,
        });
        Opening { seat, audience, from_reserve, worker, generation }
    }

    pub(super) fn may_connect(&self, now: Instant) -> bool {
        self.may_connect_at_all() && self.failure.as_ref().is_none_or(|failure| now >= failure.retry_at)
    }

    pub(super) fn may_connect_at_all(&self) -> bool {
        self.flow == Flow::Running && self.slots.counts().opening < self.settings.connecting_max.max(1)
    }

    fn room(&self) -> Room {
        let total = self.slots.counts().total();
        match self.settings.size {
            0 => Room::Regular,
            size if total < size => Room::Regular,
            size if total < size + self.settings.reserve_size => Room::Reserve,
            _ => Room::None,
        }
    }

    /// How many servers there are beyond what the settings allow.
    pub(super) fn surplus(&self) -> usize {
        let counts = self.slots.counts();
        match self.settings.size {
            0 => 0,
            size => (counts.total() - counts.closing).saturating_sub(size + self.settings.reserve_size),
        }
    }

    /// An attempt ended before it began: a limit across pools forbids it.
    pub fn open_abandoned(&mut self, seat: Seat) {
        if let Some(Slot { audience: Audience::Owner(ticket), .. }) = self.slots.remove(seat) {
            self.owners.not_opened(ticket);
        }
    }

    /// An attempt failed. Returns the waiters that must be told so.
    pub fn open_failed(&mut self, seat: Seat, error: E, kind: OpenFailure, now: Instant) -> Vec<Waiter<W>> {
        // From the attempt's beginning, as PgBouncer: a slow failure has been waited for already.
        let slot = self.slots.remove(seat);
        let begun = slot.as_ref().map_or(now, |slot| slot.born);
        let retry = self.succession.retry(self.settings.server_login_retry, now);
        let failure = Failure { error, kind, retry_at: begun + retry };
        if let Some(Slot { audience: Audience::Owner(ticket), .. }) = slot {
            return self.open_failed_for_owner(ticket, failure);
        }
        self.failure = Some(failure);
        if kind == OpenFailure::Refused && !self.has_prospects() {
            return std::iter::from_fn(|| self.waiters.pop()).collect();
        }
        Vec::new()
    }

    /// A server with this role has been opened, before [`Schedule::opened`].
    pub fn came(&mut self, role: Role) {
        self.succession.came(role);
    }

    /// A server with this role is gone by its own doing.
    pub fn lost(&mut self, role: Role, now: Instant) {
        self.succession.lost(role, self.settings.switchover_timeout, now);
    }

    /// A standby has refused to write. Returns whether the caller is to [`Schedule::renew`]: there was a primary before.
    pub fn demoted(&mut self, now: Instant) -> bool {
        self.succession.demoted(self.settings.switchover_timeout, now)
    }

    /// Whether a server was lost a short while ago, and clients wait for its successor.
    pub fn awaits_server(&self, now: Instant) -> bool {
        self.succession.is_awaited(now)
    }

    /// Whether a standby is not to be taken now: the pool has lost its primary a short while ago.
    pub fn awaits_primary(&self, now: Instant) -> bool {
        self.succession.awaits_primary(now)
    }

    /// Whether some server may yet serve a waiter: obsolete ones never do.
    fn has_prospects(&self) -> bool {
        let counts = self.slots.counts();
        let serves = |slot: &Slot<S>| {
            slot.generation == self.generation
                && slot.audience == Audience::Everybody
                && !matches!(slot.state, State::Opening | State::Closing)
        };
        counts.usable() > 0 && self.slots.iter().any(|(_, slot)| serves(slot))
    }
}

/// Where one more server would belong.
enum Room {
    Regular,
    Reserve,
    None,
}
