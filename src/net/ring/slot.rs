//! One socket of a ring: what is under way, what has come in, who waits; and the calls that go past the ring.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::task::{Context, Waker};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use tokio::io::ReadBuf;

use super::kernel::{BufferId, Token};

/// How a socket is read and written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pace {
    /// By system calls once it is ready: nothing is ever received that nobody asked for, nor held back.
    Direct,
    /// Received into the ring's buffers and sent with its next submission: for conversations.
    Batched,
}

/// What an operation is for. With the socket's number it makes the token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Operation {
    Receive = 1,
    Readable = 2,
    Writable = 4,
    Send = 8,
    Bell = 16,
    Tick = 32,
}

impl Operation {
    pub(super) fn token(self, slot: u32) -> Token {
        Token(u64::from(slot) << 8 | self as u64)
    }

    pub(super) fn of(token: Token) -> Option<(Self, u32)> {
        let operation = match token.0 & 0xff {
            1 => Self::Receive,
            2 => Self::Readable,
            4 => Self::Writable,
            8 => Self::Send,
            16 => Self::Bell,
            32 => Self::Tick,
            _ => return None,
        };
        u32::try_from(token.0 >> 8).ok().map(|slot| (operation, slot))
    }
}

/// What is there to be read.
#[derive(Debug)]
pub(super) enum Input {
    /// Nothing that is known of.
    Nothing,
    /// These bytes; and more in the socket, perhaps.
    Held {
        buffer: BufferId,
        range: Range<usize>,
        more: bool,
    },
    /// Something, in the socket.
    InSocket,
    /// The other side has closed.
    End,
    Broken(Errno),
}

/// One socket.
pub(super) struct Slot {
    pub(super) fd: RawFd,
    /// The operations under way, as a set of [`Operation`]s.
    pub(super) under_way: u8,
    pub(super) input: Input,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Who is told when an idle socket turns readable.
    pub(super) watcher: Option<Waker>,
    /// Whether the poll under way began after the watcher came: what one from before tells may have been read since.
    pub(super) polled_for_watcher: bool,
    /// In which tick it became idle.
    pub(super) watched_since: u32,
    /// Whether it stands on the list of sockets to be watched.
    pub(super) listed: bool,
    /// Taken to be sent, and in the store until the next submission.
    pub(super) queued: Option<Range<usize>>,
    /// Taken to be sent, and refused by the kernel so far.
    pub(super) unsent: Vec<u8>,
    pub(super) failure: Option<Errno>,
    /// The submission with which the last entry that names it goes.
    pub(super) named_in: u32,
    pub(super) reads: u8,
    pub(super) reads_in: u32,
    /// The last read brought more than fits into a buffer of the ring's: the next goes past them.
    pub(super) is_bulk: bool,
    pub(super) life: Life,
}

/// Whose a socket is.
pub(super) enum Life {
    InUse,
    /// Nobody's any more: to be closed, if it is not another's, when nothing is under way.
    Leaving(#[expect(dead_code, reason = "held open until then")] Option<OwnedFd>),
    Free,
}

impl Slot {
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.life, Life::Leaving(_))
    }

    /// Where a buffer of the ring's was too small for what came, reads the rest behind it: both are sent at once then.
    /// What goes wrong shows in the next read.
    pub(super) fn top_up(&mut self, fd: BorrowedFd<'_>, out: &mut ReadBuf<'_>) {
        if !matches!(self.input, Input::InSocket) || out.remaining() == 0 {
            return;
        }
        self.is_bulk = true;
        if read_now(fd, out).is_ok_and(|count| count > 0) && out.remaining() > 0 {
            self.input = Input::Nothing;
        }
    }

    pub(super) fn is_under_way(&self, operation: Operation) -> bool {
        self.under_way & operation as u8 != 0
    }
}

/// A socket as its owner names it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) index: u32,
    pub(super) fd: BorrowedFd<'a>,
}

/// Keeps the waker, unless it is already there.
pub(super) fn wait_in(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}

/// Whether the kernel only lacks room just now.
pub(super) fn is_passing(error: &io::Error) -> bool {
    let passing = [Errno::BUSY, Errno::AGAIN, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|it| passing.contains(&it))
}

/// Reads without waiting.
pub(super) fn read_now(fd: BorrowedFd<'_>, out: &mut ReadBuf<'_>) -> Result<usize, Errno> {
    let (count, _) = rustix::net::recv(fd, out.initialize_unfilled(), RecvFlags::DONTWAIT)?;
    out.advance(count);
    Ok(count)
}

/// Looks at what is there, without waiting.
pub(super) fn peek_now(fd: BorrowedFd<'_>, out: &mut [u8]) -> Result<usize, Errno> {
    Ok(rustix::net::recv(fd, out, RecvFlags::DONTWAIT | RecvFlags::PEEK)?.0)
}

/// Sends what the socket takes without waiting.
pub(super) fn send_now(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> Result<usize, Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(fd, slices, &mut SendAncillaryBuffer::default(), flags)
}
