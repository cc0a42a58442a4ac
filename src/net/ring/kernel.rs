//! The ring itself, and the proof of its `unsafe`: all there is but for one call in `app::memory`.
//!
//! Owns everything the kernel reads or writes on behalf of a ring: the queues, the buffers it may receive into and
//! the store it sends from. It knows descriptors and tokens, but not what they stand for. It refuses to hand the
//! kernel memory of anybody else's, so nothing that a caller drops, moves or forgets can be written to by the kernel.
//!
//! # Why the `unsafe` here is sound
//!
//! - Buffers for receiving are one allocation, freed only after the ring. Each is at any time either the kernel's
//!   (it stands in the ring of provided buffers, or was picked by a receive that has not completed) or ours (its
//!   [`BufferId`] exists). A `BufferId` is made only from a completion that names the buffer, which the kernel sends
//!   once for each time it is provided; it cannot be copied; giving it back consumes it. So a slice handed out by
//!   [`Kernel::received`] is never written to while it lives: to give the buffer back one needs `&mut Kernel`.
//! - What is sent lies in a store of fixed size, allocated once and freed after the ring. Sends carry MSG_DONTWAIT:
//!   the kernel completes them, in full or not, inside the `io_uring_enter` that submits them, and never looks at the
//!   store afterwards. Even a kernel that did would read memory that is still allocated.
//! - The memory outlives the ring: see `Drop`. With IORING_SETUP_DEFER_TASKRUN the kernel moves bytes only inside
//!   `io_uring_enter` of the thread that made the ring, so none are moved once that thread has closed it.
//! - Entries are pushed with descriptors that the caller keeps open until they are submitted. A mistake there would
//!   be an operation on a wrong descriptor, not on wrong memory.
#![expect(unsafe_code, reason = "the kernel's queues are shared memory; the proof stands above")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Bytes of a buffer to receive into: what most queries and answers fit in. Of more the rest is read directly.
pub const BUFFER_BYTES: usize = 4 * 1024;
/// Buffers to receive into; a power of two. Where all are in use, a socket is read directly.
const BUFFERS: u16 = 64;
/// Bytes that may wait to be sent with the next submission.
const STORE_BYTES: usize = 64 * 1024;
/// Entries that fit into one submission; more wait in a queue of ours.
const ENTRIES: u32 = 512;
/// Completions that the kernel keeps room for; more wait in a queue of its own.
const COMPLETIONS: u32 = 4 * 1024;
/// The only group of buffers.
const GROUP: u16 = 0;
/// IORING_RECVSEND_POLL_FIRST, include/uapi/linux/io_uring.h: do not try before the socket is said to be ready.
const POLL_FIRST: u16 = 1;
/// The kernel's rings of buffers begin at a page.
const PAGE_BYTES: usize = 4096;

/// What an operation is known by when it completes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Token(pub(super) u64);

/// A buffer that holds what was received, until it is given back with [`Kernel::release`].
#[derive(Debug)]
#[must_use = "a buffer that is not given back is lost to the ring"]
pub(super) struct BufferId(u16);

/// What the kernel says of an operation.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) token: Token,
    /// As the system call's: a count, or what went wrong.
    pub(super) result: Result<usize, Errno>,
    /// Where the bytes are, for a receive.
    pub(super) buffer: Option<BufferId>,
    /// After a receive: there was more than fitted in.
    pub(super) more: bool,
}

/// What a poll waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Interest {
    Readable,
    Writable,
}

/// Whether to wait inside the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// Until something has completed.
    ForOne,
    No,
}

/// A ring and all memory that the kernel shares with it. Stays on its thread.
pub(super) struct Kernel {
    /// Dropped first, see `Drop`.
    ring: ManuallyDrop<IoUring>,
    provided: Area,
    buffers: Area,
    store: Area,
    /// Bytes of the store in use.
    stored: usize,
    /// Where the next buffer given back goes in the ring of provided buffers.
    tail: u16,
    /// Entries for which the queue has no room just now.
    backlog: VecDeque<squeue::Entry>,
    period: Box<Timespec>,
    /// Written by the kernel when something is to be done, unless it is told not to.
    announcement: OwnedFd,
}

/// Memory for the kernel, at a fixed place.
struct Area {
    start: NonNull<u8>,
    layout: Layout,
}

impl Area {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("constant sizes are valid");
        // SAFETY: the layout's size is not zero: all callers give constants above zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, layout }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: not used again. The areas, fields after it, are freed once it is closed.
        unsafe { ManuallyDrop::drop(&mut self.ring) }
    }
}

impl Kernel {
    /// A ring of the calling thread's.
    ///
    /// Errors: the kernel has none, or not all that is needed (Linux 6.1), or it is forbidden.
    pub(super) fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETIONS)
            .dontfork()
            .build(ENTRIES)?;
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_skip_cqe_on_success() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let provided = Area::new(usize::from(BUFFERS) * size_of::<BufRingEntry>());
        let buffers = Area::new(usize::from(BUFFERS) * BUFFER_BYTES);
        let mut kernel = Self {
            ring: ManuallyDrop::new(ring),
            provided,
            buffers,
            store: Area::new(STORE_BYTES),
            stored: 0,
            tail: 0,
            backlog: VecDeque::new(),
            period: Box::new(Timespec::new()),
            announcement: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        };
        kernel.ring.submitter().register_eventfd(kernel.announcement.as_raw_fd())?;
        kernel.hush();
        // SAFETY: `provided` has room for `BUFFERS` entries and lives longer than the ring.
        unsafe {
            let address = kernel.provided.start.as_ptr() as u64;
            kernel.ring.submitter().register_buf_ring_with_flags(address, BUFFERS, GROUP, 0)?;
        }
        for buffer in 0..BUFFERS {
            kernel.release(BufferId(buffer));
        }
        Ok(kernel)
    }

    /// Receives into one of the buffers, once there is something.
    pub(super) fn receive(&mut self, fd: RawFd, token: Token) {
        let entry = opcode::Recv::new(Fd(fd), std::ptr::null_mut(), 0)
            .buf_group(GROUP)
            .ioprio(POLL_FIRST)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(entry, token);
    }

    /// Completes once when the descriptor is ready, or broken.
    pub(super) fn poll(&mut self, fd: RawFd, interest: Interest, token: Token) {
        let flags = match interest {
            Interest::Readable => PollFlags::IN | PollFlags::RDHUP,
            Interest::Writable => PollFlags::OUT,
        };
        self.push(opcode::PollAdd::new(Fd(fd), u32::from(flags.bits())).build(), token);
    }

    /// Sends a copy of the bytes with the next submission, and tells where in the store it lies until then. Completes
    /// only where not all of it could be sent at once. `None`: the store is too full.
    pub(super) fn send(&mut self, fd: RawFd, slices: &[IoSlice<'_>], token: Token) -> Option<Range<usize>> {
        let start = self.stored;
        let bytes: usize = slices.iter().map(|it| it.len()).sum();
        if bytes > STORE_BYTES - start {
            return None;
        }
        for slice in slices {
            // SAFETY: `stored + slice.len() <= STORE_BYTES` as checked above for the sum; a borrowed slice does not
            // overlap the store, of which no references are out while `&mut self` is held.
            unsafe {
                let to = self.store.start.as_ptr().add(self.stored);
                std::ptr::copy_nonoverlapping(slice.as_ptr(), to, slice.len());
            }
            self.stored += slice.len();
        }
        // SAFETY: `start <= STORE_BYTES`.
        let from = unsafe { self.store.start.as_ptr().add(start) };
        // With MSG_DONTWAIT it is over when the submission is; with MSG_WAITALL a part is told as a failure.
        let flags = SendFlags::DONTWAIT.bits() | SendFlags::NOSIGNAL.bits() | RecvFlags::WAITALL.bits();
        let entry = opcode::Send::new(Fd(fd), from, u32::try_from(bytes).unwrap_or(u32::MAX))
            .flags(flags.cast_signed())
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.push(entry, token);
        Some(start..self.stored)
    }

    /// What was to be sent. Valid until [`Self::clear_store`].
    pub(super) fn stored(&self, place: Range<usize>) -> &[u8] {
        let (start, end) = (place.start.min(self.stored), place.end.min(self.stored));
        // SAFETY: `start <= end <= stored <= STORE_BYTES` after the `min`s (an empty range where they cross); the
        // store was zeroed, and is written only under `&mut self`.
        unsafe { std::slice::from_raw_parts(self.store.start.as_ptr().add(start), end.saturating_sub(start)) }
    }

    /// Nothing in the store is needed any more. To be called only when all entries have been submitted.
    pub(super) fn clear_store(&mut self) {
        debug_assert_eq!(self.unsubmitted(), 0, "what waits in the queue is still to be sent from here");
        self.stored = 0;
    }

    /// Asks for an operation to be given up; it completes all the same, with ECANCELED or with what it came to.
    pub(super) fn cancel(&mut self, target: Token) {
        let entry = opcode::AsyncCancel::new(target.0).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(entry, Token(u64::MAX));
    }

    /// Gives an operation up before it returns; its completion is there then. It must have been submitted.
    ///
    /// Errors: there is no such operation any more: its completion is there, too.
    pub(super) fn cancel_now(&mut self, target: Token) -> io::Result<()> {
        self.ring.submitter().register_sync_cancel(None, CancelBuilder::user_data(target.0))
    }

    /// Completes after this time.
    pub(super) fn tick(&mut self, period: Duration, token: Token) {
        *self.period = Timespec::from(period);
        // The kernel reads it when the entry is submitted; it is at a fixed place and freed after the ring.
        let entry = opcode::Timeout::new(&raw const *self.period).build();
        self.push(entry, token);
    }

    /// Entries that the kernel has not seen yet.
    pub(super) fn unsubmitted(&mut self) -> usize {
        self.backlog.len() + self.ring.submission().len()
    }

    /// Submits what is there, lets the kernel do what is due, and waits if told so. Being interrupted is no error.
    ///
    /// Errors: the kernel's; entries may still be unsubmitted then.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        loop {
            self.fill();
            let queued = self.ring.submission().len();
            // One that has to wait here for others to be submitted must not wait for what they would bring.
            let wanted = if wait == Wait::ForOne && self.backlog.is_empty() { 1 } else { 0 };
            /// IORING_ENTER_GETEVENTS, include/uapi/linux/io_uring.h: also runs what was deferred.
            const GETEVENTS: u32 = 1;
            // SAFETY: no argument is passed, so there is none to be valid.
            let entered = unsafe {
                let count = u32::try_from(queued).unwrap_or(u32::MAX);
                self.ring.submitter().enter::<()>(count, wanted, GETEVENTS, None)
            };
            match entered {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
                Err(error) => return Err(error),
                // The kernel stops short where it has no memory for more: the caller sees that by `unsubmitted`.
                Ok(count) if count < queued => return Ok(()),
                Ok(_) if self.backlog.is_empty() => return Ok(()),
                Ok(_) => {}
            }
        }
    }

    /// Whether an entry would bring something; costs no system call.
    pub(super) fn has_work(&mut self) -> bool {
        self.ring.submission().taskrun() || !self.ring.completion().is_empty()
    }

    /// Whether completions wait in the kernel because there was no room for them. The next entry brings some.
    pub(super) fn is_overflown(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    /// From now on the kernel tells by the descriptor when something is to be done. The ring's own does not turn
    /// readable for what the kernel has deferred.
    pub(super) fn announce(&mut self) {
        self.ring.completion().enable_eventfd();
    }

    /// From now on it does not: whoever looks anyhow is spared the cost.
    pub(super) fn hush(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    /// The descriptor that turns readable then.
    pub(super) fn announcement(&self) -> BorrowedFd<'_> {
        self.announcement.as_fd()
    }

    /// Takes all completions there are.
    pub(super) fn completions(&mut self, out: &mut Vec<Completion>) {
        for entry in self.ring.completion() {
            let flags = entry.flags();
            out.push(Completion {
                token: Token(entry.user_data()),
                result: match entry.result() {
                    count @ 0.. => Ok(usize::try_from(count).unwrap_or(0)),
                    error => Err(Errno::from_raw_os_error(-error)),
                },
                buffer: cqueue::buffer_select(flags).map(BufferId),
                more: cqueue::sock_nonempty(flags),
            });
        }
    }

    /// What was received.
    pub(super) fn received(&self, buffer: &BufferId, range: Range<usize>) -> &[u8] {
        let start = usize::from(buffer.0 % BUFFERS) * BUFFER_BYTES;
        // SAFETY: the buffer lies inside the area. Its `BufferId` exists, so the kernel does not write to it until
        // it is given back, which takes `&mut self`. It was zeroed at first: all of it is initialized.
        let bytes = unsafe {
            std::slice::from_raw_parts(self.buffers.start.as_ptr().add(start).cast_const(), BUFFER_BYTES)
        };
        bytes.get(range).unwrap_or(&[])
    }

    /// Gives a buffer back to the kernel.
    pub(super) fn release(&mut self, buffer: BufferId) {
        let BufferId(id) = buffer;
        let base = self.provided.start.cast::<BufRingEntry>().as_ptr();
        // SAFETY: the index is below `BUFFERS`, which is a power of two; the address is that of buffer `id`, inside
        // its area. No more than `BUFFERS` ids exist, so the place at the tail is not one that the kernel has yet to
        // read. The tail is told with a release store, after the entry is written.
        unsafe {
            let entry = &mut *base.add(usize::from(self.tail & (BUFFERS - 1)));
            let address = self.buffers.start.as_ptr().add(usize::from(id % BUFFERS) * BUFFER_BYTES);
            entry.set_addr(address as u64);
            entry.set_len(u32::try_from(BUFFER_BYTES).unwrap_or(u32::MAX));
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(base).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    fn push(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.0);
        // SAFETY: as in `fill`.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    fn fill(&mut self) {
        if self.backlog.is_empty() {
            return;
        }
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: what an entry points to is the store or the period, which outlive the ring; a receive has no
            // memory of its own.
            if unsafe { queue.push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }
}
