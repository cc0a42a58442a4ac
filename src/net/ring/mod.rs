//! Sockets on io_uring: what a worker reads and writes goes through a ring of its own, one system call for a whole
//! turn instead of one for each read and write.
//!
//! Owns the ring (`kernel`, the one place here with `unsafe`), what it knows of each socket (`reactor`), the sockets
//! as the rest of the program sees them (`RingSocket`, `RingListener`) and a worker's turns (`turn`). Above it nobody knows which
//! driver a socket has. Where the kernel has no io_uring, or forbids it, nothing here is used.

mod bell;
mod kernel;
mod listening;
mod reactor;
mod slot;
mod socket;
mod turn;

#[cfg(test)]
mod tests;

pub use kernel::BUFFER_BYTES;
pub(super) use listening::RingListener;
pub(super) use socket::RingSocket;

use std::future::Future;
use std::io;

use tokio::runtime::Runtime;

/// A ring of the calling thread's.
pub struct Ring(reactor::Reactor);

impl Ring {
    /// Whether rings can be had.
    ///
    /// Errors: as [`Self::new`].
    pub fn probe() -> io::Result<()> {
        // On a thread of its own: a ring belongs to the thread that made it.
        let probing = std::thread::Builder::new().name("probe".into()).spawn(|| Self::new().map(drop))?;
        probing.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    }

    /// One with all that is needed here.
    ///
    /// Errors: why there is none: ENOSYS and EINVAL where the kernel is older than Linux 6.1, EPERM where it is
    /// forbidden, by `kernel.io_uring_disabled` or the filter of a container runtime.
    pub fn new() -> io::Result<Self> {
        reactor::Reactor::new().map(Self)
    }

    /// Runs `main`, and all it spawns with `spawn_local`. Sockets that are made or attached there are driven by the
    /// ring.
    ///
    /// Errors: the ring broke; everything was dropped.
    pub fn block_on(self, runtime: &Runtime, main: impl Future<Output = ()> + 'static) -> io::Result<()> {
        turn::block_on(self.0, runtime, main)
    }
}

/// Whether the calling thread has a ring.
pub(super) fn is_here() -> bool {
    reactor::with(|_| ()).is_some()
}
