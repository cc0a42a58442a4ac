//! The forwarder's ring: the bench's one module with `unsafe`, and its proof.
//!
//! Owns the queues and the buffers that the kernel writes to and reads from. It knows descriptors, and no clients.
//!
//! # Why the `unsafe` here is sound
//!
//! - Everything the kernel is told the address of (the ring of provided buffers and the buffers) is allocated once in
//!   [`Ring::new`] and never freed: the process serves until it is killed. So no operation can outlive its memory.
//! - The memory is reached by raw pointers alone; no reference to it is ever made, so the kernel's writes alias none.
//! - A buffer is the kernel's to receive into while it stands in the ring of provided buffers. A completion takes it
//!   out and gives us its [`Filled`], which can't be copied; sending consumes it, and only the completion of that
//!   send puts it back. So the kernel never receives into bytes that it is still sending.
//! - Descriptors are the caller's care: a closed one would be an operation on a wrong descriptor, not on wrong memory.
#![expect(unsafe_code, reason = "the kernel's queues are shared memory; the proof stands above")]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::net::{RecvFlags, SendFlags};

const BUFFER_BYTES: usize = 4 * 1024;
/// A power of two.
const BUFFERS: u16 = 1024;
const ENTRIES: u32 = 1024;
const GROUP: u16 = 0;
/// Where the kernel's rings of buffers begin: at a page.
const PAGE_BYTES: usize = 4096;

/// A buffer with bytes that were received.
#[must_use = "a buffer that is not sent is lost to the ring"]
pub struct Filled {
    buffer: u16,
    bytes: u32,
}

/// What an operation is known by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Accept,
    /// On this descriptor.
    Receive(RawFd),
    Send(RawFd),
}

/// What has completed.
pub struct Completion {
    pub operation: Operation,
    /// As the system call's; errors are below zero.
    pub result: i32,
    /// What was received.
    pub filled: Option<Filled>,
    /// The operation goes on and will complete again.
    pub goes_on: bool,
}

pub struct Ring {
    ring: IoUring,
    provided: NonNull<u8>,
    buffers: NonNull<u8>,
    /// Where the next buffer goes in the ring of provided ones.
    tail: u16,
}

/// Zeroed memory that is never freed.
fn memory(bytes: usize) -> NonNull<u8> {
    let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("constant sizes are valid");
    // SAFETY: both callers ask for constant sizes above zero.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

impl Ring {
    pub fn new() -> io::Result<Self> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(ENTRIES)?;
        let provided = memory(usize::from(BUFFERS) * size_of::<BufRingEntry>());
        let buffers = memory(usize::from(BUFFERS) * BUFFER_BYTES);
        // SAFETY: there is room for `BUFFERS` entries, for ever.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(provided.as_ptr() as u64, BUFFERS, GROUP, 0)?;
        }
        let mut ring = Self { ring, provided, buffers, tail: 0 };
        (0..BUFFERS).for_each(|it| ring.provide(it));
        // Spares the kernel a look-up at each call; not essential.
        let _ = ring.ring.submitter().register_ring_fd();
        Ok(ring)
    }

    /// Accepts connections, one completion each.
    pub fn accept(&mut self, listener: RawFd) {
        self.push(&opcode::AcceptMulti::new(Fd(listener)).build(), Operation::Accept);
    }

    /// Receives again and again, until the end or an error, or until no buffer is free.
    pub fn receive(&mut self, fd: RawFd) {
        self.push(&opcode::RecvMulti::new(Fd(fd), GROUP).build(), Operation::Receive(fd));
    }

    /// Sends all that was received. The buffer is free once that has completed.
    pub fn send(&mut self, fd: RawFd, filled: &Filled) {
        let Filled { buffer, bytes } = *filled;
        // With MSG_WAITALL the kernel goes on after a part.
        let flags = SendFlags::NOSIGNAL.bits() | RecvFlags::WAITALL.bits();
        let entry = opcode::Send::new(Fd(fd), self.address(buffer).cast_const(), bytes);
        self.push(&entry.flags(flags.cast_signed()).build(), Operation::Send(fd));
    }

    /// Gives back a buffer whose send has completed.
    pub fn free(&mut self, sent: Filled) {
        self.provide(sent.buffer);
    }

    /// Submits what there is, and waits until something has completed.
    pub fn turn(&mut self, out: &mut Vec<Completion>) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        out.extend(self.ring.completion().map(|entry| {
            Completion {
                operation: operation(entry.user_data()),
                result: entry.result(),
                filled: cqueue::buffer_select(entry.flags())
                    .map(|buffer| Filled { buffer, bytes: u32::try_from(entry.result()).unwrap_or(0) }),
                goes_on: cqueue::more(entry.flags()),
            }
        }));
        Ok(())
    }

    fn address(&self, buffer: u16) -> *mut u8 {
        // SAFETY: at most `BUFFERS - 1` buffers on, inside the allocation.
        unsafe { self.buffers.as_ptr().add(usize::from(buffer % BUFFERS) * BUFFER_BYTES) }
    }

    fn provide(&mut self, buffer: u16) {
        let address = self.address(buffer) as u64;
        let base = self.provided.cast::<BufRingEntry>().as_ptr();
        // SAFETY: the index is below `BUFFERS`, a power of two. There are `BUFFERS` ids, so the place at the tail is
        // none that the kernel has yet to read. The tail is told after the entry, with a release store.
        unsafe {
            let entry = &mut *base.add(usize::from(self.tail & (BUFFERS - 1)));
            entry.set_addr(address);
            entry.set_len(u32::try_from(BUFFER_BYTES).unwrap_or(u32::MAX));
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(base).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    fn push(&mut self, entry: &squeue::Entry, operation: Operation) {
        let entry = entry.clone().user_data(token(operation));
        // SAFETY: what an entry points to is a buffer, which is never freed; see the head of this file.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // Full: the kernel takes what there is.
            let _ = self.ring.submit();
        }
    }
}

fn token(operation: Operation) -> u64 {
    let of = |kind: u64, fd: RawFd| kind << 32 | u64::from(fd.cast_unsigned());
    match operation {
        Operation::Accept => of(0, 0),
        Operation::Receive(fd) => of(1, fd),
        Operation::Send(fd) => of(2, fd),
    }
}

fn operation(token: u64) -> Operation {
    let fd = u32::try_from(token & u64::from(u32::MAX)).unwrap_or(0).cast_signed();
    match token >> 32 {
        0 => Operation::Accept,
        1 => Operation::Receive(fd),
        _ => Operation::Send(fd),
    }
}
