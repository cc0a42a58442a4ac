//! How other threads reach a worker that waits: a bell to wake it, and letters for it.
//!
//! A worker that waits in its ring is woken by a byte on a socket that the ring watches. It is no eventfd: the kernel
//! announces nothing that it hears of inside the write to one (io_uring/eventfd.c: at most once, after a grace period of
//! RCU), so a byte that comes late, when the worker waits in tokio's reactor already, would never wake it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Wake, Waker};

use parking_lot::Mutex;
use rustix::net::{RecvFlags, SendFlags};

/// What another thread asks of a ring.
pub(super) enum Letter {
    /// Its socket has gone to another worker, or is closed: nothing is to be done for it any more.
    Forget(u32),
    /// Tell this waker when there is something to read.
    Watch(u32, Waker),
}

/// One worker's bell. As a waker it says that the worker's tasks have something to do.
pub(super) struct Bell {
    rung: AtomicBool,
    /// A [`Sleep`], or [`AWAKE`].
    asleep: AtomicU8,
    letters: Mutex<Vec<Letter>>,
    rope: UnixStream,
    clapper: UnixStream,
    /// The tokio side of the worker, for when it waits there.
    parked: Mutex<Option<Waker>>,
}

/// Where a worker waits, or is about to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Sleep {
    InRing = 1,
    InTokio = 2,
}

/// It waits nowhere.
const AWAKE: u8 = 0;

impl Bell {
    /// For the calling thread.
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let (rope, clapper) = UnixStream::pair()?;
        Ok(Arc::new(Self {
            rung: AtomicBool::new(true),
            asleep: AtomicU8::new(AWAKE),
            letters: Mutex::default(),
            rope,
            clapper,
            parked: Mutex::default(),
        }))
    }

    /// The descriptor that turns readable when somebody rings while the worker waits in its ring.
    pub(super) fn clapper(&self) -> BorrowedFd<'_> {
        self.clapper.as_fd()
    }

    /// Takes what was rung off the clapper.
    pub(super) fn silence(&self) {
        // There is nothing more to be done where it fails: it is read again when it turns readable again.
        let _ = rustix::net::recv(&self.clapper, &mut [0; 64], RecvFlags::DONTWAIT);
    }

    /// Whether it has been rung since this was last asked.
    pub(super) fn take(&self) -> bool {
        // Looking first leaves the cache line shared where nobody rings.
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::AcqRel)
    }

    pub(super) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Relaxed)
    }

    /// Who is to be woken where the worker waits in tokio's reactor.
    pub(super) fn park(&self, waker: &Waker) {
        let mut parked = self.parked.lock();
        if !parked.as_ref().is_some_and(|it| it.will_wake(waker)) {
            *parked = Some(waker.clone());
        }
    }

    /// The worker is about to wait. `false`: it must not, somebody has rung.
    pub(super) fn fall_asleep(&self, sleep: Sleep) -> bool {
        // With the swap and the load in `ring`: either it sees us asleep, or we see that it rang.
        self.asleep.store(sleep as u8, Ordering::SeqCst);
        if self.rung.load(Ordering::SeqCst) {
            self.awake();
            return false;
        }
        true
    }

    /// The worker waits no longer.
    pub(super) fn awake(&self) {
        self.asleep.store(AWAKE, Ordering::Relaxed);
    }

    pub(super) fn letters(&self) -> Vec<Letter> {
        std::mem::take(&mut *self.letters.lock())
    }

    /// Leaves a letter, to be read when the worker comes by.
    pub(super) fn leave(&self, letter: Letter) {
        self.letters.lock().push(letter);
    }

    /// Leaves a letter and has it read at once.
    pub(super) fn send(&self, letter: Letter) {
        self.leave(letter);
        self.ring();
    }

    fn ring(&self) {
        if self.rung.swap(true, Ordering::SeqCst) {
            return;
        }
        match self.asleep.load(Ordering::SeqCst) {
            AWAKE => {}
            asleep if asleep == Sleep::InRing as u8 => {
                // It fails only where the socket is full: then it is readable already.
                let _ = rustix::net::send(&self.rope, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            }
            _ => {
                let parked = self.parked.lock().clone();
                if let Some(parked) = parked {
                    parked.wake();
                }
            }
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
