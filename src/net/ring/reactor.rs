//! What a worker's ring knows of each socket: which operations are under way, what has come in, who waits.
//!
//! Invariants: a socket's descriptor is closed only when no entry that names it is unsubmitted and no operation on it
//! is under way. Bytes that were received stay with their socket until they are read. What was taken to be sent is
//! sent in that order, or the socket has failed. No waker is called, and nothing of a caller's dropped, while the
//! reactor is borrowed.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use rustix::io::Errno;

use super::bell::{Bell, Letter};
use super::kernel::{Completion, Interest, Kernel, Wait};
use super::slot::{Input, Life, Operation, Slot, is_passing};

/// How often the ring is entered until nothing is left to be submitted: the kernel may have no room at first.
const TRIES_MAX: u32 = 16;

mod sockets;

thread_local! {
    static CURRENT: RefCell<Option<Reactor>> = const { RefCell::new(None) };
}

/// Does something with the calling thread's reactor; `None`: it has none.
pub(super) fn with<T>(run: impl FnOnce(&mut Reactor) -> T) -> Option<T> {
    CURRENT.with(|it| it.borrow_mut().as_mut().map(run))
}

/// Gives the calling thread a reactor, or takes it away.
pub(super) fn replace(reactor: Option<Reactor>) -> Option<Reactor> {
    CURRENT.with(|it| it.replace(reactor))
}

/// What came of a turn.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct News {
    /// Conversations have gone on.
    pub(super) traffic: u32,
    /// It is time to look after what is not on the ring.
    pub(super) tick: bool,
}

/// A worker's ring and its sockets.
pub(super) struct Reactor {
    kernel: Kernel,
    pub(super) bell: Arc<Bell>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Sockets with something in the store.
    queued: Vec<u32>,
    /// Idle sockets that are not watched yet.
    unwatched: Vec<u32>,
    /// Sockets to be closed as soon as that is safe.
    leaving: Vec<u32>,
    /// Who is to be woken as soon as the reactor is not borrowed.
    wakers: Vec<Waker>,
    /// Who is to be woken after the next submission.
    later: Vec<Waker>,
    /// Other workers to whom letters were left.
    debts: Vec<Waker>,
    completions: Vec<Completion>,
    news: News,
    submission: u32,
    tick: u32,
    ticking: bool,
}

impl Reactor {
    /// For the calling thread.
    ///
    /// Errors: as [`Kernel::new`].
    pub(super) fn new() -> io::Result<Self> {
        let mut kernel = Kernel::new()?;
        let bell = Bell::new()?;
        kernel.poll(bell.clapper().as_raw_fd(), Interest::Readable, Operation::Bell.token(0));
        Ok(Self {
            kernel,
            bell,
            slots: Vec::new(),
            free: Vec::new(),
            queued: Vec::new(),
            unwatched: Vec::new(),
            leaving: Vec::new(),
            wakers: Vec::new(),
            later: Vec::new(),
            debts: Vec::new(),
            completions: Vec::new(),
            news: News::default(),
            submission: 0,
            tick: 0,
            ticking: false,
        })
    }

    /// A descriptor that turns readable when something is to be done, after [`Self::announce`].
    ///
    /// Errors: no descriptor is left.
    pub(super) fn announcement(&self) -> io::Result<OwnedFd> {
        self.kernel.announcement().try_clone_to_owned()
    }

    /// The worker will not look by itself.
    pub(super) fn announce(&mut self) {
        self.kernel.announce();
    }

    /// The worker looks by itself.
    pub(super) fn hush(&mut self) {
        self.kernel.hush();
    }

    // --- a turn ---------------------------------------------------------------------------------------------------

    /// Submits everything, waits if told so, and takes in what has completed.
    ///
    /// Errors: the ring is broken.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.enter_once(wait)?;
        // A send that failed may be among those for which there was no room: they are all needed to tell what was
        // sent.
        while self.kernel.is_overflown() {
            self.enter_once(Wait::No)?;
        }
        if self.kernel.unsubmitted() == 0 {
            self.submission = self.submission.wrapping_add(1);
            self.all_sent();
            self.wakers.append(&mut self.later);
            self.close_leaving();
        }
        Ok(())
    }

    fn enter_once(&mut self, wait: Wait) -> io::Result<()> {
        match self.kernel.enter(wait) {
            Ok(()) => {}
            // What makes room is to take in what has completed.
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        self.take_in();
        Ok(())
    }

    /// Submits what is left, before the ring ends.
    pub(super) fn finish(&mut self) {
        for _ in 0..TRIES_MAX {
            if self.enter(Wait::No).is_err() || self.kernel.unsubmitted() == 0 {
                return;
            }
        }
    }

    /// Who is to be woken, into `out`.
    pub(super) fn take_wakers(&mut self, out: &mut Vec<Waker>) {
        out.append(&mut self.wakers);
    }

    /// Whether somebody waits for the next submission, or is to be woken, or a socket is to be closed.
    pub(super) fn is_urgent(&self) -> bool {
        !self.later.is_empty() || !self.wakers.is_empty() || !self.leaving.is_empty()
    }

    /// Whether something has happened that nobody has asked for yet.
    pub(super) fn has_news(&self) -> bool {
        self.news.traffic > 0 || self.news.tick
    }

    /// Whether an entry would bring something; costs no system call.
    pub(super) fn has_work(&mut self) -> bool {
        self.kernel.has_work()
    }

    /// What has happened since this was last asked.
    pub(super) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Has the ring wake the worker after this time, unless it already does.
    pub(super) fn start_tick(&mut self, period: Duration) {
        if !self.ticking {
            self.ticking = true;
            self.kernel.tick(period, Operation::Tick.token(0));
        }
    }

    /// A letter was left for another worker, which need not hurry: it is told within a tick.
    pub(super) fn owe(&mut self, bell: &Arc<Bell>) {
        let waker = Waker::from(Arc::clone(bell));
        if !self.debts.iter().any(|it| it.will_wake(&waker)) {
            self.debts.push(waker);
        }
    }

    /// Begins to watch sockets that have been idle since before the last tick; or all of them.
    pub(super) fn watch_idle(&mut self, all: bool) {
        self.read_letters();
        self.wakers.append(&mut self.debts);
        let tick = self.tick;
        let mut list = std::mem::take(&mut self.unwatched);
        list.retain(|&index| {
            let slot = &mut self.slots[index as usize];
            let stays = slot.watcher.is_some() && !all && tick.wrapping_sub(slot.watched_since) < 2;
            if !stays {
                slot.listed = false;
                if slot.watcher.is_some() {
                    self.poll(index, Operation::Readable);
                }
            }
            stays
        });
        self.unwatched = list;
    }

    /// What the store held is with the kernel; what it refused has been copied from there.
    fn all_sent(&mut self) {
        for index in self.queued.drain(..) {
            let slot = &mut self.slots[index as usize];
            if slot.queued.take().is_some() && slot.unsent.is_empty() {
                self.wakers.extend(slot.writer.take());
            }
        }
        self.kernel.clear_store();
    }

    fn take_in(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        self.kernel.completions(&mut completions);
        for completion in completions.drain(..) {
            self.completed(completion);
        }
        self.completions = completions;
    }

    fn completed(&mut self, completion: Completion) {
        let Some((operation, index)) = Operation::of(completion.token) else { return };
        match operation {
            Operation::Bell => {
                self.news.traffic += 1;
                self.bell.silence();
                let clapper = self.bell.clapper().as_raw_fd();
                self.kernel.poll(clapper, Interest::Readable, Operation::Bell.token(0));
                return self.read_letters();
            }
            Operation::Tick => {
                (self.ticking, self.news.tick) = (false, true);
                self.tick = self.tick.wrapping_add(1);
                return;
            }
            Operation::Receive => self.received(index, completion),
            Operation::Readable => self.turned_readable(index),
            Operation::Writable => self.turned_writable(index),
            Operation::Send => self.not_all_sent(index, completion.result),
        }
        if self.slots[index as usize].is_leaving() {
            self.leaving.push(index);
        }
    }

    fn received(&mut self, index: u32, completion: Completion) {
        self.news.traffic += 1;
        let slot = &mut self.slots[index as usize];
        slot.under_way &= !(Operation::Receive as u8);
        let input = match (completion.result, completion.buffer) {
            (Ok(0), buffer) => {
                buffer.into_iter().for_each(|it| self.kernel.release(it));
                Input::End
            }
            (Ok(count), Some(buffer)) => {
                let more = completion.more || count >= super::kernel::BUFFER_BYTES;
                Input::Held { buffer, range: 0..count, more }
            }
            // A receive without a buffer cannot have taken bytes: it had nowhere to put them.
            (Ok(_), None) => Input::Broken(Errno::IO),
            (Err(error), buffer) => {
                buffer.into_iter().for_each(|it| self.kernel.release(it));
                match error {
                    // All buffers are in use: without them, then.
                    Errno::NOBUFS => Input::InSocket,
                    Errno::CANCELED | Errno::INTR | Errno::AGAIN => Input::Nothing,
                    error => Input::Broken(error),
                }
            }
        };
        slot.input = input;
        self.wakers.extend(slot.reader.take());
    }

    fn turned_readable(&mut self, index: u32) {
        if self.slots[index as usize].watcher.is_some() {
            // Where it lives elsewhere by now, its watcher there must not be told of what comes for a conversation. That
            // letter was left before the conversation began.
            self.read_letters();
        }
        let slot = &mut self.slots[index as usize];
        slot.under_way &= !(Operation::Readable as u8);
        if matches!(slot.input, Input::Nothing) && !slot.is_under_way(Operation::Receive) {
            slot.input = Input::InSocket;
            // Somebody logs in, or comes: more will follow.
            self.news.traffic += u32::from(slot.reader.is_some());
            self.wakers.extend(slot.reader.take());
        }
        if slot.polled_for_watcher {
            self.wakers.extend(slot.watcher.take());
        } else if slot.watcher.is_some() {
            // A new one tells at once where something is there.
            self.poll(index, Operation::Readable);
        }
    }

    fn turned_writable(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.under_way &= !(Operation::Writable as u8);
        self.send_unsent(index);
    }

    fn not_all_sent(&mut self, index: u32, result: Result<usize, Errno>) {
        let slot = &mut self.slots[index as usize];
        let Some(place) = slot.queued.take() else { return };
        match result {
            Err(error) if error != Errno::AGAIN && error != Errno::INTR => slot.failure = Some(error),
            result => {
                let left = self.kernel.stored(place.start + result.unwrap_or(0)..place.end);
                slot.unsent.extend_from_slice(left);
                self.poll(index, Operation::Writable);
            }
        }
        let slot = &mut self.slots[index as usize];
        if slot.failure.is_some() {
            self.wakers.extend(slot.writer.take());
        }
    }

    /// Tries again to send what the kernel refused.
    fn send_unsent(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.unsent.is_empty() {
            self.wakers.extend(slot.writer.take());
            return;
        }
        let token = Operation::Send.token(index);
        match self.kernel.send(slot.fd, &[IoSlice::new(&slot.unsent)], token) {
            Some(place) => {
                (slot.queued, slot.unsent) = (Some(place), Vec::new());
                slot.named_in = self.submission;
                self.queued.push(index);
            }
            // The store is full of what others send; it is empty after the next submission.
            None => self.poll(index, Operation::Writable),
        }
    }

    fn read_letters(&mut self) {
        for letter in self.bell.letters() {
            match letter {
                Letter::Forget(index) => self.abandon(index, None),
                Letter::Watch(index, waker) if matches!(self.slots[index as usize].life, Life::InUse) => {
                    let slot = &mut self.slots[index as usize];
                    (slot.watcher, slot.polled_for_watcher) = (Some(waker), false);
                    self.poll(index, Operation::Readable);
                }
                // It has come home and was closed meanwhile.
                Letter::Watch(..) => {}
            }
        }
    }

    // --- sockets --------------------------------------------------------------------------------------------------

    /// Takes a socket on; its number is returned.
    pub(super) fn adopt(&mut self, fd: BorrowedFd<'_>) -> u32 {
        // Those about the socket that had the number before have been written already: they are not for this one.
        self.read_letters();
        let slot = Slot {
            fd: fd.as_raw_fd(),
            under_way: 0,
            input: Input::Nothing,
            reader: None,
            writer: None,
            watcher: None,
            polled_for_watcher: false,
            watched_since: 0,
            listed: false,
            queued: None,
            unsent: Vec::new(),
            failure: None,
            named_in: self.submission.wrapping_sub(1),
            reads: 0,
            reads_in: 0,
            is_bulk: false,
            life: Life::InUse,
        };
        match self.free.pop() {
            Some(index) => {
                // It may still stand on the list of the unwatched.
                let listed = self.slots[index as usize].listed;
                self.slots[index as usize] = Slot { listed, ..slot };
                index
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    /// Gives a socket up. `socket` is closed when that is safe; without one, its new owner has it.
    pub(super) fn abandon(&mut self, index: u32, socket: Option<OwnedFd>) {
        let slot = &mut self.slots[index as usize];
        (slot.reader, slot.writer, slot.watcher) = (None, None, None);
        slot.life = Life::Leaving(socket);
        if let Input::Held { buffer, .. } = std::mem::replace(&mut slot.input, Input::End) {
            self.kernel.release(buffer);
        }
        for operation in [Operation::Receive, Operation::Readable, Operation::Writable] {
            if slot.is_under_way(operation) {
                self.kernel.cancel(operation.token(index));
            }
        }
        self.leaving.push(index);
        if slot.under_way == 0 && slot.named_in != self.submission {
            self.close_leaving();
        }
    }

    /// Closes the sockets that were given up, where nothing refers to them any more.
    fn close_leaving(&mut self) {
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.retain(|&index| {
            let slot = &mut self.slots[index as usize];
            if !slot.is_leaving() {
                return false;
            }
            if let Input::Held { buffer, .. } = std::mem::replace(&mut slot.input, Input::End) {
                self.kernel.release(buffer);
            }
            // Where something is under way it comes back to the list when that completes.
            let stays = slot.under_way == 0 && slot.named_in == self.submission;
            if slot.under_way == 0 && !stays {
                slot.life = Life::Free;
                slot.unsent = Vec::new();
                self.free.push(index);
            }
            stays
        });
        leaving.append(&mut self.leaving);
        self.leaving = leaving;
    }

    /// Begins an operation, unless it is under way.
    fn poll(&mut self, index: u32, operation: Operation) {
        let slot = &mut self.slots[index as usize];
        if slot.is_under_way(operation) || !matches!(slot.life, Life::InUse) {
            return;
        }
        slot.under_way |= operation as u8;
        slot.named_in = self.submission;
        if operation == Operation::Readable {
            slot.polled_for_watcher = slot.watcher.is_some();
        }
        match operation {
            Operation::Receive => self.kernel.receive(slot.fd, operation.token(index)),
            Operation::Writable => self.kernel.poll(slot.fd, Interest::Writable, operation.token(index)),
            _ => self.kernel.poll(slot.fd, Interest::Readable, operation.token(index)),
        }
    }
}
