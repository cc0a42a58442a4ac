//! The turns of a worker: everything that is ready runs, then the ring is entered once, for all of it.
//!
//! The worker's tasks live in a tokio `LocalSet`, as without a ring, and timers, look-ups and connects are tokio's. What
//! differs is where the thread waits. While there is traffic it waits in the ring, and one system call submits all
//! that a turn has produced and brings what has come in meanwhile; tokio's own reactor is looked after each
//! [`TICK`]. When a tick has passed without traffic, it waits in tokio's reactor, and the ring announces by a descriptor
//! there that it has something.
//!
//! Waiting in tokio's reactor always, with the ring's descriptor in it, costs a second system call each turn. Having
//! its hook for parking threads enter the ring does, too: tokio looks at its reactor afterwards all the same.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use super::bell::{Bell, Sleep};
use super::kernel::Wait;
use super::reactor::{self, Reactor};

/// How long what is not on the ring may have to wait while there is traffic: connects, look-ups and timers.
const TICK: Duration = Duration::from_millis(1);

/// Runs `main`, and all it spawns with `spawn_local`, on the calling thread and its ring.
///
/// Errors: the ring broke; everything was dropped.
pub(super) fn block_on(
    reactor: Reactor,
    runtime: &Runtime,
    main: impl Future<Output = ()> + 'static,
) -> io::Result<()> {
    let ring = reactor.announcement()?;
    let bell = Arc::clone(&reactor.bell);
    let before = reactor::replace(Some(reactor));
    debug_assert!(before.is_none(), "a thread has one ring");
    let result = runtime.block_on(async {
        let ring = watched(ring)?;
        let tasks = LocalSet::new();
        let main = tasks.spawn_local(main);
        let waker = Waker::from(Arc::clone(&bell));
        let (waits, courtesy) = (Waits::InTokio, Courtesy::default());
        let mut turns = Turns { bell, waker, ring, tasks, main, wakers: Vec::new(), waits, courtesy };
        let result = pin!(std::future::poll_fn(|cx| turns.poll(cx))).await;
        // While there is still a ring to give their sockets to, and to send their last words.
        drop(turns);
        reactor::with(Reactor::finish);
        result
    });
    drop(reactor::replace(None));
    result
}

#[expect(deprecated, reason = "its successor is unsafe; the descriptor is owned here, so it stays open")]
fn watched(ring: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(ring, Interest::READABLE)
}

/// Where the worker waits when nothing is to be done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    InRing,
    InTokio,
}

/// Whether it pays to let others have the processor before going to sleep. Where clients and servers share it with the
/// worker, what they have to say is there when the worker has it again, and it has slept for none of it: going to sleep
/// and waking cost more than all that the worker does for a query. Where they don't, there is nobody to let go first, and
/// asking costs a system call: so it is not asked as long as it was in vain, but for a try now and then.
#[derive(Default)]
struct Courtesy {
    /// How often more it is tried.
    tries: u32,
    /// How often it was not tried.
    skipped: u32,
}

impl Courtesy {
    const TRIES_MAX: u32 = 16;
    const SKIPPED_MAX: u32 = 64;

    /// Whether to try it this time.
    fn is_due(&mut self) -> bool {
        if self.tries > 0 {
            return true;
        }
        self.skipped += 1;
        if self.skipped < Self::SKIPPED_MAX {
            return false;
        }
        (self.skipped, self.tries) = (0, 1);
        true
    }

    /// It was tried: whether there was something to do then.
    fn learn(&mut self, paid: bool) {
        self.tries = if paid { (self.tries + 2).min(Self::TRIES_MAX) } else { self.tries.saturating_sub(1) };
    }
}

struct Turns {
    bell: Arc<Bell>,
    waker: Waker,
    ring: AsyncFd<OwnedFd>,
    tasks: LocalSet,
    main: tokio::task::JoinHandle<()>,
    wakers: Vec<Waker>,
    waits: Waits,
    courtesy: Courtesy,
}

impl Turns {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bell.awake();
        if self.waits == Waits::InTokio {
            reactor::with(Reactor::hush);
            // Only an entry runs what has come in.
            enter(Wait::No)?;
        }
        let mut traffic = 0;
        loop {
            let has_more = self.run();
            if self.main.is_finished() {
                return Poll::Ready(Ok(()));
            }
            let news = reactor::with(Reactor::take_news).unwrap_or_default();
            traffic += news.traffic + u32::from(has_more);
            if traffic > 0 {
                self.waits = Waits::InRing;
                // Also where no turn waits: else timers and connects would never have theirs.
                reactor::with(|it| it.start_tick(TICK));
            }
            if news.tick {
                if traffic == 0 {
                    self.waits = Waits::InTokio;
                }
                reactor::with(|it| it.watch_idle(self.waits == Waits::InTokio));
                // To be polled again as soon as tokio has looked after the rest.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.waits {
                _ if has_more => enter(Wait::No)?,
                Waits::InRing => self.wait_in_ring()?,
                Waits::InTokio => {
                    if self.begin_to_wait_in_tokio(cx)? {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Wakes who is to be woken, and lets some tasks run. `true`: there are more.
    fn run(&mut self) -> bool {
        reactor::with(|it| it.take_wakers(&mut self.wakers));
        self.wakers.drain(..).for_each(Waker::wake);
        if self.bell.take() {
            // It never ends by itself as long as `main` runs; that is asked after each turn.
            let _ = Pin::new(&mut self.tasks).poll(&mut Context::from_waker(&self.waker));
        }
        self.bell.is_rung() || reactor::with(|it| it.is_urgent()).unwrap_or(false)
    }

    fn wait_in_ring(&mut self) -> io::Result<()> {
        reactor::with(|it| it.start_tick(TICK));
        if self.courtesy.is_due() {
            enter(Wait::No)?;
            if reactor::with(|it| it.has_news() || it.is_urgent()).unwrap_or(false) {
                return Ok(());
            }
            std::thread::yield_now();
            let has_work = reactor::with(Reactor::has_work).unwrap_or(false);
            self.courtesy.learn(has_work);
            if has_work {
                return enter(Wait::No);
            }
        }
        if self.bell.fall_asleep(Sleep::InRing) {
            let entered = enter(Wait::ForOne);
            self.bell.awake();
            entered?;
        }
        Ok(())
    }

    /// `false`: there is something to be done first.
    fn begin_to_wait_in_tokio(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        reactor::with(|it| {
            it.watch_idle(true);
            it.announce();
        });
        // What was deferred before is not announced.
        enter(Wait::No)?;
        if let Poll::Ready(ready) = self.ring.poll_read_ready(cx) {
            ready?.clear_ready();
            return Ok(false);
        }
        let has_news = reactor::with(|it| it.is_urgent() || it.has_news()).unwrap_or(false);
        self.bell.park(cx.waker());
        let waits = !has_news && self.bell.fall_asleep(Sleep::InTokio);
        if !waits {
            reactor::with(Reactor::hush);
        }
        Ok(waits)
    }
}

fn enter(wait: Wait) -> io::Result<()> {
    reactor::with(|it| it.enter(wait)).unwrap_or(Ok(()))
}
