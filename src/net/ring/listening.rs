//! A listening socket that a worker's ring watches: who is served by a worker is accepted in its turns.
//!
//! It is used on its worker's thread only. Dropping it closes the socket, as soon as its ring has let go of it.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use socket2::Socket;

use super::socket::Home;

/// A socket that listens, and its place on a ring.
#[derive(Debug)]
pub(in crate::net) struct RingListener {
    /// `None` only once it has been dropped.
    socket: Option<Socket>,
    home: Home,
}

impl RingListener {
    /// A socket on the calling thread's ring; it must not block. Errors: the thread has none; the socket comes back.
    pub(in crate::net) fn new(socket: Socket) -> Result<Self, Socket> {
        match Home::of(socket.as_fd()) {
            Some(home) => Ok(Self { socket: Some(socket), home }),
            None => Err(socket),
        }
    }

    /// The socket itself.
    pub(in crate::net) fn socket(&self) -> &Socket {
        self.socket.as_ref().expect("only dropping it takes the socket")
    }

    /// Does `accept` when somebody may have come, again and again until it would not wait any more. Cancel safe.
    ///
    /// Errors: those of `accept`, and that the ring is gone.
    pub(in crate::net) async fn accept<T>(
        &self,
        mut accept: impl FnMut(&Socket) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            poll_fn(|cx| self.poll_arrival(cx)).await?;
            match accept(self.socket()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = self.home.with(|it| it.no_arrival(self.home.index));
                }
                accepted => return accepted,
            }
        }
    }

    fn poll_arrival(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.home.with(|it| it.poll_arrival(self.home.index, cx)) {
            Some(polled) => polled.map(Ok),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl Drop for RingListener {
    fn drop(&mut self) {
        let mut socket = self.socket.take().map(Into::into);
        let index = self.home.index;
        let _ = self.home.with(|it| it.abandon(index, socket.take()));
    }
}
