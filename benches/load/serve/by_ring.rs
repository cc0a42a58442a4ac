//! A bare forwarder on io_uring: one thread, one ring, one call of the kernel for each turn, no protocol.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use rustix::net::{Shutdown, shutdown};

use super::ring::{Completion, Filled, Operation, Ring};

/// One end of a connection that is forwarded.
struct End {
    socket: OwnedFd,
    /// The other end.
    peer: RawFd,
    receives: bool,
    /// What is being sent to it, and what is to be sent next: one after the other, so that order is kept.
    outgoing: VecDeque<Filled>,
}

struct Forwarder {
    ring: Ring,
    ends: HashMap<RawFd, End>,
}

pub fn forward(listener: &TcpListener, port: u16) -> io::Result<()> {
    let mut forwarder = Forwarder { ring: Ring::new()?, ends: HashMap::new() };
    forwarder.ring.accept(listener.as_raw_fd());
    let mut completed = Vec::new();
    loop {
        forwarder.ring.turn(&mut completed)?;
        for Completion { operation, result, filled, goes_on } in completed.drain(..) {
            match operation {
                Operation::Accept => {
                    if result >= 0 {
                        forwarder.join(accepted(result), port)?;
                    }
                    if !goes_on {
                        forwarder.ring.accept(listener.as_raw_fd());
                    }
                }
                Operation::Receive(fd) => forwarder.received(fd, result, filled, goes_on),
                Operation::Send(fd) => forwarder.sent(fd, result),
            }
        }
    }
}

#[expect(unsafe_code, reason = "a descriptor comes as a number")]
fn accepted(fd: RawFd) -> TcpStream {
    // SAFETY: the kernel has just made it for this completion, and nobody else has seen the number.
    unsafe { TcpStream::from_raw_fd(fd) }
}

impl Forwarder {
    fn join(&mut self, client: TcpStream, port: u16) -> io::Result<()> {
        let server = TcpStream::connect(("127.0.0.1", port))?;
        let fds = [client.as_raw_fd(), server.as_raw_fd()];
        for (socket, peer) in [client, server].into_iter().zip([fds[1], fds[0]]) {
            socket.set_nodelay(true)?;
            let fd = socket.as_raw_fd();
            let end = End { socket: socket.into(), peer, receives: true, outgoing: VecDeque::new() };
            self.ends.insert(fd, end);
            self.ring.receive(fd);
        }
        Ok(())
    }

    fn received(&mut self, fd: RawFd, result: i32, filled: Option<Filled>, goes_on: bool) {
        let no_buffer = -rustix::io::Errno::NOBUFS.raw_os_error();
        let Some(end) = self.ends.get_mut(&fd) else { return };
        let peer = end.peer;
        if let Some(filled) = filled
            && let Some(other) = self.ends.get_mut(&peer)
        {
            if other.outgoing.is_empty() {
                self.ring.send(peer, &filled);
            }
            other.outgoing.push_back(filled);
        }
        if goes_on {
            return;
        }
        if result > 0 || result == no_buffer {
            return self.ring.receive(fd);
        }
        if let Some(end) = self.ends.get_mut(&fd) {
            end.receives = false;
        }
        self.end(fd, peer);
    }

    fn sent(&mut self, fd: RawFd, result: i32) {
        let Some(end) = self.ends.get_mut(&fd) else { return };
        if let Some(filled) = end.outgoing.pop_front() {
            self.ring.free(filled);
        }
        if let Some(next) = end.outgoing.front() {
            return self.ring.send(fd, next);
        }
        let peer = end.peer;
        let peer_receives = self.ends.get(&peer).is_some_and(|it| it.receives);
        if result < 0 || !peer_receives {
            self.end(fd, peer);
        }
    }

    /// One of the two has ended: what was received is still sent, then both are closed, once the kernel is done with
    /// them.
    fn end(&mut self, one: RawFd, other: RawFd) {
        let idle = |fd| self.ends.get(&fd).is_none_or(|it: &End| it.outgoing.is_empty());
        if !idle(one) || !idle(other) {
            return;
        }
        for fd in [one, other] {
            if let Some(end) = self.ends.get(&fd) {
                // It may have been shut down by the other side.
                let _ = shutdown(&end.socket, Shutdown::Both);
            }
        }
        if [one, other].iter().all(|fd| self.ends.get(fd).is_none_or(|it| !it.receives)) {
            self.ends.remove(&one);
            self.ends.remove(&other);
        }
    }
}
