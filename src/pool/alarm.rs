//! What happens in pools without anybody asking, for upkeep and for orders that wait.
//!
//! Owns the list of idle servers that have said something, and the bell for PAUSE and WAIT_CLOSE. Invariant: ringing
//! takes a short lock of its own and no other, because reactors ring.

use std::sync::Weak;

use tokio::sync::Notify;

use super::Pool;
use super::connection::Connection;
use super::schedule::Seat;
use super::sync::{AtomicBool, AtomicUsize, Mutex, Ordering};

/// Shared by all pools of the process.
pub(super) struct Alarm<C: Connection> {
    /// Each server is in it at most once.
    spoken: Mutex<Vec<(Weak<Pool<C>>, Seat)>>,
    bell: Notify,
    settled: Notify,
    /// How many wait on `settled`: nearly always nobody, and then nothing is to be done.
    watchers: AtomicUsize,
    /// The process is shutting down: nobody gets a server any more.
    draining: AtomicBool,
}

impl<C: Connection> Alarm<C> {
    pub(super) fn new() -> Self {
        Self {
            spoken: Mutex::default(),
            bell: Notify::new(),
            settled: Notify::new(),
            watchers: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        }
    }

    /// An idle server has said something.
    pub(super) fn ring(&self, pool: Weak<Pool<C>>, seat: Seat) {
        self.spoken.lock().push((pool, seat));
        self.bell.notify_one();
    }

    /// Waits until an idle server has said something. Cancel safe.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Those that have said something since the last call.
    pub(super) fn take_spoken(&self) -> Vec<(Weak<Pool<C>>, Seat)> {
        std::mem::take(&mut *self.spoken.lock())
    }

    /// Nobody gets a server any more.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether nobody gets a server any more.
    #[inline]
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Servers have become fewer, or idle.
    #[inline]
    pub(super) fn changed(&self) {
        if self.watchers.load(Ordering::SeqCst) > 0 {
            self.settled.notify_waiters();
        }
    }

    /// Waits until `done`. Cancel safe.
    pub(super) async fn wait_until(&self, done: impl Fn() -> bool) {
        self.watchers.fetch_add(1, Ordering::SeqCst);
        let _watcher = Watcher(&self.watchers);
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // Enabled before the look, so that a change after the look is not missed.
            settled.as_mut().enable();
            if done() {
                return;
            }
            settled.await;
        }
    }
}

struct Watcher<'a>(&'a AtomicUsize);

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
