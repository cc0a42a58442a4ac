//! Sockets on their way from one process to another: `SCM_RIGHTS` in unix(7).
//!
//! The kernel gives the receiver descriptors of its own. Both processes then have the same connection, so one of them
//! must have stopped using it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::socket::LooseSocket;
use super::stream::Detached;

/// Descriptors that may come with one piece of data.
const DESCRIPTORS_MAX: usize = 16;

/// A socket that another process is to have as well.
#[derive(Debug)]
pub struct Shared {
    /// Its number in this process, by which rows refer to each other.
    pub number: i32,
    /// A descriptor of its own, which keeps the socket open.
    pub fd: OwnedFd,
}

impl Shared {
    /// Of this socket.
    ///
    /// Errors: no file descriptor is left.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let fd = socket.as_fd();
        Ok(Self { number: fd.as_raw_fd(), fd: fd.try_clone_to_owned()? })
    }
}

/// The way to another process on this machine, beside the bytes that are written to it.
#[derive(Debug)]
pub struct Passer(AsyncFd<OwnedFd>);

impl Passer {
    /// Over this unix socket.
    ///
    /// Errors: no file descriptor is left, or the reactor refuses.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; the socket is owned here, so its descriptor stays open"
    )]
    pub(super) fn over(socket: &impl AsFd) -> io::Result<Self> {
        let own = socket.as_fd().try_clone_to_owned()?;
        Ok(Self(AsyncFd::with_interest(own, Interest::WRITABLE)?))
    }

    /// Sends bytes, and with the first of them a socket. Not cancel safe.
    ///
    /// Errors: the other side is gone.
    pub async fn send(&self, mut bytes: &[u8], socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut socket = socket;
        while !bytes.is_empty() {
            let sent = self.0.async_io(Interest::WRITABLE, |way| send(way, bytes, socket)).await?;
            socket = None;
            bytes = &bytes[sent..];
        }
        Ok(())
    }
}

fn send(way: &OwnedFd, bytes: &[u8], socket: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets: Vec<BorrowedFd<'_>> = socket.into_iter().collect();
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok(rustix::net::sendmsg(way, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives bytes, appending them to `bytes`, and the sockets that come with them. Blocks as long as the stream's own
/// limit allows. 0: the end.
///
/// Errors: the connection is gone, time is over, or descriptors were lost for want of room.
pub fn receive(stream: &UnixStream, bytes: &mut Vec<u8>, sockets: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut buffer = [0; 16 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        match rustix::net::recvmsg(stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            sockets.extend(descriptors);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("sockets were lost on the way: too many open files?"));
    }
    bytes.extend_from_slice(&buffer[..received.bytes]);
    Ok(received.bytes)
}

impl Detached {
    /// A plain connection that another process has had.
    ///
    /// Errors: it is no TCP or unix socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let socket = socket2::Socket::from(fd);
        socket.set_nonblocking(true)?;
        let domain = socket.domain()?;
        let loose = if domain == socket2::Domain::UNIX {
            LooseSocket::Unix(OwnedFd::from(socket).into())
        } else if domain == socket2::Domain::IPV4 || domain == socket2::Domain::IPV6 {
            LooseSocket::Tcp(OwnedFd::from(socket).into())
        } else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        Ok(Self::plain(loose))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[tokio::test]
    async fn a_socket_arrives_with_the_bytes_it_was_sent_with() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut passed, mut other) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let passer = Passer::over(&here).unwrap();
        let long = vec![7; 300_000];
        let sent = async {
            passer.send(b"one", None).await.unwrap();
            passer.send(&long, Some(passed.as_fd())).await.unwrap();
        };
        let receiving = std::thread::spawn(move || {
            let (mut bytes, mut sockets) = (Vec::new(), Vec::new());
            while bytes.len() < 300_003 {
                receive(&there, &mut bytes, &mut sockets).unwrap();
            }
            (bytes, sockets)
        });
        sent.await;
        let (bytes, mut sockets) = receiving.join().unwrap();
        assert_eq!((&bytes[..3], bytes[3..] == long[..]), (&b"one"[..], true));
        assert_eq!(sockets.len(), 1);
        let mut arrived = UnixStream::from(sockets.pop().unwrap());
        passed.write_all(b"a").unwrap();
        arrived.write_all(b"b").unwrap();
        let mut heard = [0; 2];
        other.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"ab");
        drop((here, passer));
    }
}
