//! How many bytes must have come in before a TCP socket counts as readable: SO_RCVLOWAT.
//!
//! Its end and its errors are told at once whatever the threshold is, and whoever reads without waiting gets what there
//! is. The kernel keeps the threshold within what the socket's buffer can hold (`tcp_set_rcvlowat` in net/ipv4/tcp.c).

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::SetSockOpt as _;
use nix::sys::socket::sockopt::SetUsize;

#[derive(Clone, Copy, Debug)]
struct Threshold;

nix::setsockopt_impl!(Threshold, libc::SOL_SOCKET, libc::SO_RCVLOWAT, usize, SetUsize);

/// Sets it. Errors: it is no socket.
pub(super) fn set(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    Ok(Threshold.set(&socket, &bytes)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    /// Whether it turns readable soon.
    fn is_readable(socket: &TcpStream, milliseconds: i64) -> bool {
        let mut asked = [PollFd::new(socket, PollFlags::IN)];
        let limit = Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
        poll(&mut asked, Some(&limit)).unwrap() > 0
    }

    #[test]
    fn a_socket_is_readable_at_its_threshold_and_at_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, _) = listener.accept().unwrap();
        // Who may wait for it would not get less than the threshold.
        ours.set_nonblocking(true).unwrap();
        set(&ours, 1000).unwrap();
        theirs.write_all(&[7; 999]).unwrap();
        assert!(!is_readable(&ours, 50), "a byte is missing");
        theirs.write_all(&[7]).unwrap();
        assert!(is_readable(&ours, 900));
        assert_eq!(ours.read(&mut [0; 600]).unwrap(), 600, "what there is can be read");
        assert_eq!(ours.read(&mut [0; 600]).unwrap(), 400, "also where it is less than the threshold");
        theirs.write_all(&[7]).unwrap();
        set(&ours, 1).unwrap();
        assert!(is_readable(&ours, 900), "a lower one is heard at once");
        set(&ours, 1000).unwrap();
        drop(theirs);
        assert!(is_readable(&ours, 900), "the end is told");
    }
}
