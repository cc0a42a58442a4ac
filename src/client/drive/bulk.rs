//! Many bytes: they are waited for in large pieces.
//!
//! PostgreSQL and libpq send 8 KiB at a time, however much there is. To wake up for each of them, and to wake its
//! receiver, costs several times what moving the bytes does. So the socket is to say that it is readable only when more
//! is there, in two cases: much more of the same message is to come, of which its receiver can make no use before it is
//! whole; or a server has sent so much without a pause that it may be expected to go on. In the second case a pause ends
//! it, so nothing is held up for longer than [`PAUSE`], and nothing at all that comes after the pause.
//!
//! Invariants: for a message's sake no socket waits for more than the message still has, so what follows it is not held
//! up. No socket has a threshold when it leaves the driver, or when the conversation is at rest for another process.

use std::task::Context;
use std::time::{Duration, Instant};

use super::Driver;
use crate::net::Stream;
use crate::session::pipe::STORE_BULK_BYTES;

/// Where less of a message is to come it is taken as it comes.
const REST_MIN: usize = 32 * 1024;
/// What is waited for at most: as much as a large store has room for.
const PIECE_MAX: usize = STORE_BULK_BYTES;
/// What PostgreSQL sends at a time while it has more: PQ_SEND_BUFFER_SIZE in src/backend/libpq/pqcomm.c.
const PART_MIN: usize = 8 * 1024;
/// What a server must have sent without a pause, for one reply after the other, before it is expected to go on. That
/// takes 30 ms and more, beside which the pause at the end is not noticed.
const STRETCH_MIN: usize = 16 * 1024 * 1024;
/// A pause; the timers' own unit.
const PAUSE: Duration = Duration::from_millis(1);

const KIB: usize = 1024;

/// How many KiB a socket is to have before it says that it is readable; 0: a single byte is enough. Small, for every
/// client has two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Threshold(u8);

impl Threshold {
    /// Where this much of a message is yet to come.
    fn of(rest: usize) -> Self {
        if rest < REST_MIN { Self::default() } else { Self::at_most(rest) }
    }

    fn at_most(bytes: usize) -> Self {
        Self(u8::try_from(bytes.min(PIECE_MAX) / KIB).unwrap_or(u8::MAX))
    }

    fn bytes(self) -> usize {
        (usize::from(self.0) * KIB).max(1)
    }

    /// Makes it this, on the stream too.
    #[inline]
    fn set(&mut self, wanted: Self, stream: &Stream) {
        if *self != wanted {
            // What fails here has no connection any more, and whoever reads next is told.
            let _ = stream.set_threshold(wanted.bytes());
            *self = wanted;
        }
    }
}

/// What is expected of both sides.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    client: Threshold,
    server: Threshold,
    /// `None` until the server sends more than a little.
    stretch: Option<Box<Stretch>>,
}

/// What a server has sent without a pause.
#[derive(Debug, Default)]
struct Stretch {
    bytes: usize,
    /// When it will have paused, if it is expected not to.
    pause: Option<Instant>,
}

impl Bulk {
    /// So much has come from the server.
    #[inline]
    pub(super) fn came_from_server(&mut self, count: usize, now: Instant) {
        if count < PART_MIN && self.stretch.is_none() {
            return;
        }
        let stretch = self.stretch.get_or_insert_default();
        stretch.bytes = stretch.bytes.saturating_add(count);
        if stretch.bytes >= STRETCH_MIN {
            stretch.pause = Some(now + PAUSE);
        }
    }

    /// When the server will have paused, if it is expected not to.
    fn pause(&self) -> Option<Instant> {
        self.stretch.as_ref()?.pause
    }
}

impl Driver {
    /// To be called whenever the relay has taken in what came.
    #[inline]
    pub(super) fn set_thresholds(&mut self) {
        if let Some(client) = &self.client {
            self.bulk.client.set(Threshold::of(self.relay.client_rest()), client);
        }
        let Some(lease) = &self.lease else { return };
        let rest = self.relay.server_rest();
        if rest == 0 && self.bulk.stretch.is_some() && !self.relay.owes_client() {
            self.bulk.stretch = None;
        }
        let wanted =
            if self.bulk.pause().is_some() { Threshold::at_most(PIECE_MAX) } else { Threshold::of(rest) };
        self.bulk.server.set(wanted, &lease.stream);
    }

    /// Whether the server has just paused, where it was expected to go on: what there is of it is to be read then.
    pub(super) fn has_paused(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(when) = self.bulk.pause() else { return false };
        if self.alarm.poll(cx, Some(when)).is_pending() {
            return false;
        }
        self.expect_nothing();
        true
    }

    /// The server is read as it comes: it has paused, or is to come to rest, or leaves.
    pub(super) fn expect_nothing(&mut self) {
        self.bulk.stretch = None;
        self.set_thresholds();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_waited_for_than_the_message_has_and_a_store_holds() {
        for (rest, threshold) in [
            (0, 1),
            (REST_MIN - 1, 1),
            (REST_MIN, REST_MIN),
            (PIECE_MAX - 1, PIECE_MAX - KIB),
            (PIECE_MAX, PIECE_MAX),
            (1 << 30, PIECE_MAX),
        ] {
            assert_eq!(Threshold::of(rest).bytes(), threshold, "{rest}");
        }
    }

    #[test]
    fn a_server_is_expected_to_go_on_once_it_has_sent_much_without_a_pause() {
        let (mut bulk, now) = (Bulk::default(), Instant::now());
        bulk.came_from_server(PART_MIN - 1, now);
        assert!(bulk.stretch.is_none(), "little takes no memory");
        bulk.came_from_server(STRETCH_MIN - 1, now);
        assert_eq!(bulk.pause(), None);
        bulk.came_from_server(1, now);
        assert_eq!(bulk.pause(), Some(now + PAUSE));
    }
}
