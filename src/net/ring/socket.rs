//! A socket that a worker's ring drives.
//!
//! It may be used on any thread, as idle servers are: on its worker's it goes through the ring, on any other by
//! system calls that never wait. Dropping it closes the connection, once what was taken to be sent has been.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::bell::{Bell, Letter};
use super::reactor::{self, Reactor};
use super::slot::{self, Pace, Place};
use crate::net::socket::LooseSocket;

/// A socket, and its place on a ring.
#[derive(Debug)]
pub struct RingSocket {
    /// `None` only once it has been detached or dropped.
    socket: Option<LooseSocket>,
    home: Home,
    pace: Pace,
}

/// Where a socket is known.
pub(super) struct Home {
    pub(super) bell: Arc<Bell>,
    pub(super) index: u32,
}

impl Home {
    /// A new place on the calling thread's ring; `None`: it has none.
    pub(super) fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        reactor::with(|reactor| {
            let index = reactor.adopt(fd);
            Self { bell: Arc::clone(&reactor.bell), index }
        })
    }

    /// Does something on the ring, if it is the calling thread's.
    pub(super) fn with<T>(&self, run: impl FnOnce(&mut Reactor) -> T) -> Option<T> {
        reactor::with(|reactor| Arc::ptr_eq(&reactor.bell, &self.bell).then(|| run(reactor))).flatten()
    }
}

impl std::fmt::Debug for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Home({})", self.index)
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl RingSocket {
    /// A socket on the calling thread's ring. Errors: the thread has none; the socket comes back.
    pub fn new(socket: LooseSocket) -> Result<Self, LooseSocket> {
        match Home::of(socket.as_fd()) {
            Some(home) => Ok(Self { socket: Some(socket), home, pace: Pace::Direct }),
            None => Err(socket),
        }
    }

    /// From now on bytes are received and sent with the worker's turns: for a conversation.
    pub fn batch(&mut self) {
        self.pace = Pace::Batched;
    }

    /// Its descriptor. Errors: it is gone.
    pub fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        self.socket().map(AsFd::as_fd)
    }

    /// Ready when all that was written is with the kernel and nothing is being received: until the next read, all that
    /// there is of the conversation besides is in the socket, but for what [`Self::ahead`] tells.
    pub fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let rested = self.on_own_ring(|reactor, place| {
            std::task::ready!(reactor.poll_sent(place.index, cx));
            // One that is broken shows that to who reads or writes next.
            let _ = reactor.calm(place);
            Poll::Ready(())
        });
        rested.unwrap_or(Poll::Ready(()))
    }

    /// How many bytes were received that nobody has read yet.
    pub fn ahead(&self) -> usize {
        self.on_own_ring(|reactor, place| reactor.held(place.index)).unwrap_or(0)
    }

    /// The socket itself. Errors: it is gone.
    pub fn socket(&self) -> io::Result<&LooseSocket> {
        self.socket.as_ref().ok_or_else(gone)
    }

    /// Takes it off its ring.
    ///
    /// Errors: there is something in it that would be lost; the connection is then closed.
    pub fn detach(mut self) -> io::Result<LooseSocket> {
        let own = self.on_own_ring(|reactor, place| (reactor.calm(place), reactor.held(place.index)));
        match own {
            Some((calm, held)) => {
                calm?;
                if held > 0 {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let socket = self.socket.take().ok_or_else(gone)?;
                let index = self.home.index;
                reactor::with(|reactor| reactor.abandon(index, None));
                Ok(socket)
            }
            None if self.pace == Pace::Batched => Err(gone()),
            None => {
                let socket = self.socket.take().ok_or_else(gone)?;
                self.home.bell.leave(Letter::Forget(self.home.index));
                // As long as its ring watches it, the other side does not hear when it is closed.
                if reactor::with(|reactor| reactor.owe(&self.home.bell)).is_none() {
                    Waker::from(Arc::clone(&self.home.bell)).wake();
                }
                Ok(socket)
            }
        }
    }

    /// Ready when there is something to read, or the end. For an idle server: it leaves its conversation's pace.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let calmed = self.on_own_ring(|reactor, place| match reactor.calm(place) {
            Ok(false) => {
                reactor.watch(place.index, cx);
                Poll::Pending
            }
            // An error shows when it is read.
            Ok(true) | Err(_) => Poll::Ready(()),
        });
        if let Some(calmed) = calmed {
            self.pace = Pace::Direct;
            return calmed;
        }
        match self.socket().map(|it| slot::peek_now(it.as_fd(), &mut [0])) {
            Ok(Err(Errno::AGAIN)) if self.pace == Pace::Direct => {
                self.home.bell.send(Letter::Watch(self.home.index, cx.waker().clone()));
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Takes back what a conversation has begun. An error shows when it is read.
    pub fn calm(&mut self) {
        if self.pace == Pace::Batched && self.on_own_ring(|reactor, place| reactor.calm(place)).is_some() {
            self.pace = Pace::Direct;
        }
    }

    /// Ready when all that was taken to be sent is with the kernel, or never can be.
    pub fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.on_own_ring(|reactor, place| reactor.poll_sent(place.index, cx)).unwrap_or(Poll::Ready(()))
    }

    /// Does something on the ring that it is on, if that is the calling thread's.
    fn on_own_ring<T>(&self, run: impl FnOnce(&mut Reactor, Place<'_>) -> T) -> Option<T> {
        let fd = self.socket.as_ref()?.as_fd();
        self.home.with(|reactor| run(reactor, Place { index: self.home.index, fd }))
    }

    /// The socket, for a thread that is not its worker's. Errors: its worker may have begun something on it.
    fn foreign(&self) -> io::Result<&LooseSocket> {
        match self.pace {
            Pace::Direct => self.socket(),
            Pace::Batched => Err(gone()),
        }
    }
}

/// What a call on a foreign thread came to. Who reads is told when there is more; who writes does not wait there.
fn never_waiting<T>(result: Result<T, Errno>) -> Poll<io::Result<T>> {
    match result {
        Err(Errno::AGAIN | Errno::INTR) => Poll::Pending,
        result => Poll::Ready(result.map_err(io::Error::from)),
    }
}

impl AsyncRead for RingSocket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = this.on_own_ring(|reactor, place| reactor.poll_read(place, this.pace, cx, out));
        match polled {
            Some(polled) => polled,
            None => {
                let read = slot::read_now(this.foreign()?.as_fd(), out);
                if read == Err(Errno::AGAIN) && !cx.waker().will_wake(Waker::noop()) {
                    this.home.bell.send(Letter::Watch(this.home.index, cx.waker().clone()));
                }
                never_waiting(read.map(drop))
            }
        }
    }
}

impl AsyncWrite for RingSocket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.on_own_ring(|reactor, place| reactor.poll_write(place, this.pace, cx, slices));
        match polled {
            Some(polled) => polled,
            None => never_waiting(slot::send_now(this.foreign()?.as_fd(), slices)),
        }
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_sent(cx));
        rustix::net::shutdown(self.socket()?.as_fd(), rustix::net::Shutdown::Write)?;
        Poll::Ready(Ok(()))
    }
}

impl Drop for RingSocket {
    fn drop(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        let mut socket = Some(socket);
        let index = self.home.index;
        let own = self.home.with(|reactor| reactor.abandon(index, socket.take().map(OwnedFd::from)));
        // On another thread: its ring must let go of the socket, else the other side does not hear that it is closed.
        if own.is_none() {
            drop(socket);
            self.home.bell.send(Letter::Forget(self.home.index));
        }
    }
}
