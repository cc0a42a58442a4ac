//! Servers that another process has opened, and what another process is to have.

use std::time::Instant;

use super::slots::{Slot, State};
use super::{Audience, Opening, Schedule, Seat};
use crate::ids::{ClientId, WorkerId};

impl<S, W, E: Clone> Schedule<S, W, E> {
    /// Makes a place for a server that another process has opened, at `born`, whatever the limits are.
    pub fn adopt(&mut self, born: Instant, home: WorkerId) -> Opening {
        self.open(born, false, Some(home), Audience::Everybody)
    }

    /// The server whose place was just made is on loan to this client.
    pub fn lend(&mut self, seat: Seat, client: ClientId, now: Instant) {
        if self.slots.get(seat).is_some_and(|slot| matches!(slot.state, State::Opening)) {
            self.slots.change(seat, State::Leased(client));
        }
        if let Some(slot) = self.slots.get_mut(seat) {
            slot.since = now;
        }
    }

    /// Shows all idle servers, the longest idle first.
    pub fn for_each_idle(&self, mut show: impl FnMut(&S)) {
        for seat in &self.idle {
            if let Some(Slot { state: State::Idle(server), .. }) = self.slots.get(*seat) {
                show(server);
            }
        }
    }
}
