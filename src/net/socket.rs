//! A plain socket, TCP or unix, bound to the runtime or the ring of one worker; and the same socket bound to none.
//!
//! Reads go through tokio's `poll_read`, which forgets that a socket is readable after a short read: so hearing that
//! nothing more is there costs no system call.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::ring::RingSocket;
use super::{Address, Credentials, threshold};

/// A socket that belongs to the current runtime, or to the worker's ring.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Ring(RingSocket),
}

/// A socket that belongs to no runtime.
#[derive(Debug)]
pub(super) enum LooseSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl LooseSocket {
    /// Binds it to the calling thread's ring, if it has one, else to the current runtime.
    pub(super) fn attach(self) -> io::Result<Socket> {
        match RingSocket::new(self) {
            Ok(socket) => Ok(Socket::Ring(socket)),
            Err(Self::Tcp(socket)) => TcpStream::from_std(socket).map(Socket::Tcp),
            Err(Self::Unix(socket)) => UnixStream::from_std(socket).map(Socket::Unix),
        }
    }

    pub(super) fn peer_address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(socket) => socket.peer_addr().map(Address::Tcp),
            Self::Unix(_) => {
                let peer = self.credentials().ok_or(io::ErrorKind::NotConnected)?;
                Ok(Address::Unix { pid: peer.pid, uid: peer.uid })
            }
        }
    }

    pub(super) fn local_address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(socket) => socket.local_addr().map(Address::Tcp),
            Self::Unix(_) => Ok(own_address()),
        }
    }

    /// Takes what has arrived, without waiting; as many bytes are returned. 0 where nothing has, and at the end, and
    /// where the connection is gone: the next read tells.
    pub(super) fn receive_now(&self, bytes: &mut [u8]) -> usize {
        rustix::net::recv(self, bytes, RecvFlags::DONTWAIT).map_or(0, |(count, _)| count)
    }

    fn credentials(&self) -> Option<Credentials> {
        let Self::Unix(socket) = self else { return None };
        // A process of another PID namespace has the number 0 here, which rustix cannot express.
        let peer = getsockopt(socket, PeerCredentials).ok()?;
        Some(Credentials { pid: peer.pid(), uid: peer.uid(), gid: peer.gid() })
    }
}

impl From<LooseSocket> for OwnedFd {
    fn from(socket: LooseSocket) -> Self {
        match socket {
            LooseSocket::Tcp(socket) => socket.into(),
            LooseSocket::Unix(socket) => socket.into(),
        }
    }
}

impl AsFd for LooseSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Our end of a unix socket.
fn own_address() -> Address {
    Address::Unix {
        pid: rustix::process::getpid().as_raw_nonzero().get(),
        uid: rustix::process::geteuid().as_raw(),
    }
}

impl Socket {
    pub(super) fn detach(self) -> io::Result<LooseSocket> {
        match self {
            Self::Tcp(socket) => socket.into_std().map(LooseSocket::Tcp),
            Self::Unix(socket) => socket.into_std().map(LooseSocket::Unix),
            Self::Ring(socket) => socket.detach(),
        }
    }

    pub(super) fn is_unix(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Unix(_) => true,
            Self::Ring(socket) => matches!(socket.socket(), Ok(LooseSocket::Unix(_))),
        }
    }

    pub(super) fn peer_address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(socket) => socket.peer_addr().map(Address::Tcp),
            Self::Unix(socket) => {
                let peer = socket.peer_cred()?;
                Ok(Address::Unix { pid: peer.pid().unwrap_or(0), uid: peer.uid() })
            }
            Self::Ring(socket) => socket.socket()?.peer_address(),
        }
    }

    pub(super) fn local_address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(socket) => socket.local_addr().map(Address::Tcp),
            Self::Unix(_) => Ok(own_address()),
            Self::Ring(socket) => socket.socket()?.local_address(),
        }
    }

    pub(super) fn credentials(&self) -> Option<Credentials> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(socket) => {
                let peer = socket.peer_cred().ok()?;
                Some(Credentials { pid: peer.pid().unwrap_or(0), uid: peer.uid(), gid: peer.gid() })
            }
            Self::Ring(socket) => socket.socket().ok()?.credentials(),
        }
    }

    /// The descriptor. Errors: the connection is gone.
    pub(super) fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::Tcp(socket) => Ok(socket.as_fd()),
            Self::Unix(socket) => Ok(socket.as_fd()),
            Self::Ring(socket) => socket.descriptor(),
        }
    }

    /// Sends what the system takes at once, and returns how much that is; 0 on a ring, which sends in its turn.
    pub(super) fn send_now(&self, bytes: &[u8]) -> usize {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match self {
            Self::Tcp(socket) => rustix::net::send(socket, bytes, flags).unwrap_or(0),
            Self::Unix(socket) => rustix::net::send(socket, bytes, flags).unwrap_or(0),
            Self::Ring(_) => 0,
        }
    }

    /// Ready when what was written is with the kernel and nothing is being received, until the next read.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(()),
            Self::Ring(socket) => socket.poll_rest(cx),
        }
    }

    /// How many bytes were received that nobody has read yet.
    pub(super) fn ahead(&self) -> usize {
        match self {
            Self::Tcp(_) | Self::Unix(_) => 0,
            Self::Ring(socket) => socket.ahead(),
        }
    }

    /// On a ring: from now on received and sent with the worker's turns.
    pub(super) fn batch(&mut self) {
        if let Self::Ring(socket) = self {
            socket.batch();
        }
    }

    /// Ready when all that was written is with the kernel, or never can be.
    pub(super) fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(()),
            Self::Ring(socket) => socket.poll_sent(cx),
        }
    }

    /// Ready when there is something to read, or the end, or an error: that shows when it is read. For sockets that are
    /// idle: it costs a system call only when the reactor says that the socket has turned readable.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let seen = match self {
                Self::Tcp(socket) => {
                    let Ok(()) = ready!(socket.poll_read_ready(cx)) else { return Poll::Ready(()) };
                    socket.try_io(Interest::READABLE, || peek(&*socket))
                }
                Self::Unix(socket) => {
                    let Ok(()) = ready!(socket.poll_read_ready(cx)) else { return Poll::Ready(()) };
                    socket.try_io(Interest::READABLE, || peek(&*socket))
                }
                Self::Ring(socket) => return socket.poll_readable(cx),
            };
            match seen {
                // The readiness was stale; `try_io` has cleared it, and the next round registers the waker.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Has the socket count as readable only when so many bytes are there; on a unix socket one is enough always.
    pub(super) fn set_threshold(&self, bytes: usize) -> io::Result<()> {
        if self.is_unix() { Ok(()) } else { threshold::set(self.descriptor()?, bytes) }
    }

    /// On a ring: what a conversation has begun is taken back, so that the socket may go to another thread.
    pub(super) fn calm(&mut self) {
        if let Self::Ring(socket) = self {
            socket.calm();
        }
    }
}

/// Whether there is something to read, or the end.
fn peek(socket: impl AsFd) -> io::Result<()> {
    rustix::net::recv(socket, &mut [0], RecvFlags::PEEK)?;
    Ok(())
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, out),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, out),
            Self::Ring(socket) => Pin::new(socket).poll_read(cx, out),
        }
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Ring(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Ring(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
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
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Ring(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

/// The place of a socket inside a TLS stream, from which it can be taken while the stream changes its worker.
#[derive(Debug)]
pub(super) struct Slot(pub(super) Option<Socket>);

impl Slot {
    #[inline]
    fn socket(self: Pin<&mut Self>) -> io::Result<Pin<&mut Socket>> {
        self.get_mut().0.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Slot {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_read(cx, out)
    }
}

impl AsyncWrite for Slot {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write(cx, bytes)
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write_vectored(cx, slices)
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
        self.socket()?.poll_shutdown(cx)
    }
}
