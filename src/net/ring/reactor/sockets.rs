//! What the owner of a socket asks of the reactor: to read, to send, to wait, and to take back what has begun.
//!
//! Nothing here waits: what is not there yet wakes who asked for it.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use rustix::io::Errno;
use tokio::io::ReadBuf;

use super::super::kernel::{BUFFER_BYTES, Wait};
use super::super::slot::{Input, Operation, Pace, Place, peek_now, read_now, send_now, wait_in};
use super::{Reactor, TRIES_MAX};

/// More than this is sent at once, without a copy.
const COPY_BYTES_MAX: usize = 8 * 1024;
/// Direct reads of one socket before the others have their turn.
const READS_MAX: u8 = 4;

impl Reactor {
    /// Reads what is there into `out`, of which no byte is to be looked at before. `Ok(0)` is the end.
    pub(in crate::net::ring) fn poll_read(
        &mut self,
        place: Place<'_>,
        pace: Pace,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let submission = self.submission;
        let Place { index, fd } = place;
        let slot = &mut self.slots[index as usize];
        slot.watcher = None;
        match &mut slot.input {
            Input::Nothing => {}
            Input::Held { buffer, range, more } => {
                let count = range.len().min(out.remaining());
                out.put_slice(self.kernel.received(buffer, range.start..range.start + count));
                range.start += count;
                if range.start < range.end {
                    return Poll::Ready(Ok(()));
                }
                let next = if *more { Input::InSocket } else { Input::Nothing };
                if let Input::Held { buffer, .. } = std::mem::replace(&mut slot.input, next) {
                    self.kernel.release(buffer);
                }
                slot.top_up(fd, out);
                return Poll::Ready(Ok(()));
            }
            Input::InSocket => {
                if slot.reads_in != submission {
                    (slot.reads_in, slot.reads) = (submission, 0);
                }
                if slot.reads >= READS_MAX {
                    self.later.push(cx.waker().clone());
                    return Poll::Pending;
                }
                slot.reads += 1;
                match read_now(fd, out) {
                    Err(Errno::AGAIN) => slot.input = Input::Nothing,
                    Err(Errno::INTR) => {
                        self.later.push(cx.waker().clone());
                        return Poll::Pending;
                    }
                    Err(error) => slot.input = Input::Broken(error),
                    Ok(0) => slot.input = Input::End,
                    Ok(count) => {
                        slot.is_bulk = count > BUFFER_BYTES;
                        if out.remaining() > 0 {
                            slot.input = Input::Nothing;
                        }
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            Input::End | Input::Broken(_) => {}
        }
        match slot.input {
            Input::End => return Poll::Ready(Ok(())),
            Input::Broken(error) => return Poll::Ready(Err(error.into())),
            _ => {}
        }
        if let Some(failure) = slot.failure {
            // Nothing can be sent any more; what has come before is there or never will be.
            let read = read_now(fd, out);
            return Poll::Ready(read.map(drop).map_err(|_| failure.into()));
        }
        wait_in(&mut slot.reader, cx);
        let operation = match pace {
            // What is received ahead must fit in when it is read: then a conversation that may not go on has none.
            Pace::Batched if !slot.is_bulk && out.remaining() >= BUFFER_BYTES => Operation::Receive,
            Pace::Direct | Pace::Batched => Operation::Readable,
        };
        self.poll(index, operation);
        Poll::Pending
    }

    /// Sends, or takes to be sent with the next submission.
    pub(in crate::net::ring) fn poll_write(
        &mut self,
        place: Place<'_>,
        pace: Pace,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Place { index, fd } = place;
        if self.slots[index as usize].queued.is_some() {
            // What was taken before must be with the kernel before more is: else it might be overtaken.
            self.enter(Wait::No)?;
        }
        let slot = &mut self.slots[index as usize];
        slot.watcher = None;
        if let Some(failure) = slot.failure {
            return Poll::Ready(Err(failure.into()));
        }
        if !slot.unsent.is_empty() || slot.queued.is_some() {
            wait_in(&mut slot.writer, cx);
            return Poll::Pending;
        }
        let bytes: usize = slices.iter().map(|it| it.len()).sum();
        if pace == Pace::Batched
            && bytes <= COPY_BYTES_MAX
            && let Some(place) = self.kernel.send(slot.fd, slices, Operation::Send.token(index))
        {
            slot.queued = Some(place);
            slot.named_in = self.submission;
            self.queued.push(index);
            return Poll::Ready(Ok(bytes));
        }
        match send_now(fd, slices) {
            Ok(count) => Poll::Ready(Ok(count)),
            Err(Errno::AGAIN) => {
                wait_in(&mut slot.writer, cx);
                self.poll(index, Operation::Writable);
                Poll::Pending
            }
            Err(Errno::INTR) => {
                self.later.push(cx.waker().clone());
                Poll::Pending
            }
            Err(error) => {
                slot.failure = Some(error);
                Poll::Ready(Err(error.into()))
            }
        }
    }

    /// Ready when all that was taken to be sent is with the kernel, or can't be sent.
    pub(in crate::net::ring) fn poll_sent(&mut self, index: u32, cx: &mut Context<'_>) -> Poll<()> {
        if self.slots[index as usize].queued.is_some() && self.enter(Wait::No).is_err() {
            return Poll::Ready(());
        }
        let slot = &mut self.slots[index as usize];
        if slot.failure.is_some() || (slot.unsent.is_empty() && slot.queued.is_none()) {
            return Poll::Ready(());
        }
        wait_in(&mut slot.writer, cx);
        Poll::Pending
    }

    /// Ready when somebody may have come to a listening socket.
    pub(in crate::net::ring) fn poll_arrival(&mut self, index: u32, cx: &mut Context<'_>) -> Poll<()> {
        let slot = &mut self.slots[index as usize];
        if matches!(slot.input, Input::InSocket) {
            return Poll::Ready(());
        }
        wait_in(&mut slot.reader, cx);
        self.poll(index, Operation::Readable);
        Poll::Pending
    }

    /// Nobody is there any more.
    pub(in crate::net::ring) fn no_arrival(&mut self, index: u32) {
        self.slots[index as usize].input = Input::Nothing;
    }

    /// Takes back what was begun on a socket that changes its pace or its thread. `true`: something is to be read.
    ///
    /// Errors: what was taken to be sent has not been, or the ring is broken: the socket is of no use.
    pub(in crate::net::ring) fn calm(&mut self, place: Place<'_>) -> io::Result<bool> {
        let Place { index, fd } = place;
        self.send_queued(index)?;
        if self.slots[index as usize].is_under_way(Operation::Receive) {
            // Only what was submitted can be taken back.
            self.enter(Wait::No)?;
            if self.slots[index as usize].is_under_way(Operation::Receive) {
                // Where it is not found it has completed.
                let _ = self.kernel.cancel_now(Operation::Receive.token(index));
                // An entry does no more than some twenty things (`IO_LOCAL_TW_DEFAULT_MAX` in io_uring/io_uring.h), in
                // their order: the completion may be behind others.
                self.enter(Wait::No)?;
                while self.slots[index as usize].is_under_way(Operation::Receive) && self.has_work() {
                    self.enter(Wait::No)?;
                }
            }
        }
        let slot = &mut self.slots[index as usize];
        let is_quiet = slot.queued.is_none() && slot.unsent.is_empty() && slot.failure.is_none();
        if !is_quiet || slot.is_under_way(Operation::Receive) {
            slot.failure.get_or_insert(Errno::PIPE);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        slot.reader = None;
        if matches!(slot.input, Input::InSocket) && matches!(peek_now(fd, &mut [0]), Err(Errno::AGAIN)) {
            slot.input = Input::Nothing;
        }
        Ok(!matches!(slot.input, Input::Nothing))
    }

    /// Has the kernel take what is queued to be sent on a socket.
    fn send_queued(&mut self, index: u32) -> io::Result<()> {
        for _ in 0..TRIES_MAX {
            if self.slots[index as usize].queued.is_none() {
                break;
            }
            // It counts as sent only when everything is submitted, and what is heard meanwhile may ask for more: a bell
            // that rang is watched anew.
            self.enter(Wait::No)?;
        }
        Ok(())
    }

    /// How many bytes that were received wait in a buffer.
    pub(in crate::net::ring) fn held(&self, index: u32) -> usize {
        match &self.slots[index as usize].input {
            Input::Held { range, .. } => range.len(),
            _ => 0,
        }
    }

    /// Has an idle socket watched, soon: one that is used again at once need not be.
    pub(in crate::net::ring) fn watch(&mut self, index: u32, cx: &mut Context<'_>) {
        let slot = &mut self.slots[index as usize];
        wait_in(&mut slot.watcher, cx);
        (slot.watched_since, slot.polled_for_watcher) = (self.tick, false);
        if !slot.listed && !slot.is_under_way(Operation::Readable) {
            slot.listed = true;
            self.unwatched.push(index);
        }
    }
}
