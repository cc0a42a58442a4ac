//! One direction of a conversation: bytes that came in, what was decided about them, and what is to be sent.
//!
//! Bytes are received into one contiguous store and leave from there: nothing is copied to be passed on. What the
//! relay decides about them is kept as pieces, in order: pass these bytes, drop those, put others in between.
//! A pipe that holds no bytes holds no buffer either; it gets one when there is something to receive.
//!
//! Invariant: `start <= decided <= end`; the pieces cover `start..decided` and all of `inserted`, in sending order.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BytesMut};

/// Bytes of a fresh buffer's store.
pub const STORE_BYTES: usize = 16 * 1024;
/// Bytes of the store of a pipe whose sender has filled the one before.
pub const STORE_BULK_BYTES: usize = 128 * 1024;
/// Answers and rewritten heads waiting to be sent; above it no more are made until some have left.
pub const INSERTED_BYTES_MAX: usize = 64 * 1024;
/// Pieces waiting to be sent, ditto.
pub const PIECES_MAX: usize = 8 * 1024;
/// Slices given to one vectored write.
pub const SLICES_MAX: usize = 16;
/// Room for more in a store that holds what a client said before it had to wait for a server.
const STORE_SPARE_BYTES: usize = 256;
/// Buffers a worker keeps for reuse.
const SPARE_MAX: usize = 256;
/// Large ones, ditto.
const SPARE_BULK_MAX: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Piece {
    /// The store's next bytes go out.
    Pass(usize),
    /// The store's next bytes are left out.
    Drop(usize),
    /// The next of the inserted bytes go out.
    Insert(usize),
}

/// What a pipe needs while it holds bytes. Places are those of the store.
#[derive(Debug)]
pub struct Buffer {
    store: Vec<u8>,
    /// The first byte that has neither left nor been dropped.
    start: usize,
    /// The first byte nothing is decided about.
    decided: usize,
    /// The first byte that is free.
    end: usize,
    /// Where the pipe is marked: bytes from here on are kept even when sent, so that they can be sent again.
    mark: usize,
    /// Bytes that can be sent now.
    ready: usize,
    inserted: BytesMut,
    pieces: VecDeque<Piece>,
}

impl Buffer {
    fn new(bytes: usize) -> Box<Self> {
        Box::new(Self {
            store: vec![0; bytes],
            start: 0,
            decided: 0,
            end: 0,
            mark: 0,
            ready: 0,
            inserted: BytesMut::new(),
            pieces: VecDeque::new(),
        })
    }

    /// As it was when it was new.
    fn clear(&mut self) {
        (self.start, self.decided, self.end, self.mark, self.ready) = (0, 0, 0, 0, 0);
        self.pieces.clear();
        self.inserted.clear();
    }

    /// True when it holds nothing to decide about and nothing to send.
    fn is_empty(&self) -> bool {
        self.ready == 0 && self.decided == self.end
    }

    /// True when no byte of the store waits to be sent: none will leave by itself.
    fn is_all_sent(&self) -> bool {
        self.start == self.decided
    }

    /// How many more bytes the store has room for behind what is there.
    fn room(&self) -> usize {
        self.store.len() - self.end
    }

    /// What was at this place of the store is at its beginning now.
    fn begins_at(&mut self, place: usize) {
        self.start -= place;
        self.decided -= place;
        self.end -= place;
        self.mark = self.mark.saturating_sub(place);
    }

    /// Moves what is there from this place on into the store of another one, which gets the store that it was in.
    fn rehouse(&mut self, kept: usize, other: &mut Self) {
        other.store[..self.end - kept].copy_from_slice(&self.store[kept..self.end]);
        std::mem::swap(&mut self.store, &mut other.store);
        self.begins_at(kept);
    }

    /// Whether it was made for just what a client said before it had to wait.
    fn is_small(&self) -> bool {
        self.store.len() < STORE_BYTES
    }
}

/// A worker's buffers that no pipe uses just now.
#[derive(Debug)]
#[expect(clippy::vec_box, reason = "a buffer goes from here into a pipe and back as the box that it is")]
pub struct Spare {
    usual: Vec<Box<Buffer>>,
    bulk: Vec<Box<Buffer>>,
    /// How many are in use, as far as that is known: who moves to another worker gives its buffers back there.
    lent: usize,
    /// How many of the usual size are kept.
    most: usize,
}

impl Default for Spare {
    fn default() -> Self {
        Self::keeping(SPARE_MAX)
    }
}

impl Spare {
    /// One that keeps no more than so many buffers for reuse, and so many large ones as a worker does.
    pub fn keeping(most: usize) -> Self {
        Self { usual: Vec::new(), bulk: Vec::new(), lent: 0, most }
    }

    fn take(&mut self, size: Size) -> Box<Buffer> {
        let (list, bytes) = match size {
            Size::Usual => (&mut self.usual, STORE_BYTES),
            Size::Bulk => (&mut self.bulk, STORE_BULK_BYTES),
        };
        let buffer = list.pop().unwrap_or_else(|| Buffer::new(bytes));
        self.lend(buffer)
    }

    fn lend(&mut self, buffer: Box<Buffer>) -> Box<Buffer> {
        self.lent += 1;
        buffer
    }

    fn give(&mut self, mut buffer: Box<Buffer>) {
        self.lent = self.lent.saturating_sub(1);
        if buffer.store.len() < STORE_BYTES {
            return;
        }
        if buffer.store.len() == STORE_BULK_BYTES {
            if self.bulk.len() < SPARE_BULK_MAX {
                self.bulk.push(buffer);
            }
            return;
        }
        if self.usual.len() >= self.most {
            return;
        }
        if buffer.store.len() > STORE_BYTES {
            buffer.store.truncate(STORE_BYTES);
            buffer.store.shrink_to_fit();
        }
        self.usual.push(buffer);
    }

    /// True while more are in use than are kept: whoever need not have one of the usual size should not.
    fn is_short(&self) -> bool {
        self.lent > self.most
    }
}

/// How large a pipe's next store is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Size {
    #[default]
    Usual,
    /// The sender has more than usually fits in.
    Bulk,
}

/// Bytes from one side on their way to the other. One that holds nothing is small: every client has two.
#[derive(Debug, Default)]
pub struct Pipe {
    buffer: Option<Box<Buffer>>,
    /// Undecided bytes that must fit in at once, at least; a message has at most 2^31.
    needed: u32,
    size: Size,
    /// Whether some bytes are to be kept even when sent: those from the buffer's mark on.
    marked: bool,
}

impl Pipe {
    /// The bytes that nothing is decided about.
    pub fn undecided(&self) -> &[u8] {
        match &self.buffer {
            Some(it) => &it.store[it.decided..it.end],
            None => &[],
        }
    }

    /// Bytes that can be sent now.
    pub fn ready(&self) -> usize {
        match &self.buffer {
            Some(it) => it.ready,
            None => 0,
        }
    }

    /// True when it holds nothing to decide about and nothing to send.
    pub fn is_empty(&self) -> bool {
        match &self.buffer {
            Some(it) => it.is_empty(),
            None => true,
        }
    }

    /// True when no more should be put into it before some of it has left.
    pub fn is_full(&self) -> bool {
        self.buffer
            .as_ref()
            .is_some_and(|it| it.inserted.len() >= INSERTED_BYTES_MAX || it.pieces.len() >= PIECES_MAX)
    }

    /// Sees to it that at least `bytes` undecided ones fit in at once.
    pub fn need(&mut self, bytes: usize) {
        self.needed = u32::try_from(bytes).unwrap_or(u32::MAX);
    }

    /// True when [`Self::space`] would not be empty.
    pub fn has_space(&self) -> bool {
        let Some(buffer) = &self.buffer else { return true };
        buffer.room() > 0
            || buffer.is_small()
            || self.may_compact(buffer)
            || (buffer.is_all_sent() && self.lacks(buffer) > 0)
    }

    /// Where the next bytes are to be received; tell [`Self::filled`] how many came. The store grows only for a message
    /// that does not fit in with nothing before it: else bytes that leave make room.
    pub fn space<'a>(&'a mut self, spare: &mut Spare) -> &'a mut [u8] {
        let mut buffer = self.buffer.take().unwrap_or_else(|| spare.take(self.size));
        let room_wanted = self.lacks(&buffer).max(1);
        if buffer.room() < room_wanted && buffer.is_small() {
            let mut usual = spare.take(Size::Usual);
            buffer.rehouse(self.kept(&buffer), &mut usual);
            spare.give(usual);
        }
        if buffer.room() < room_wanted && self.may_compact(&buffer) {
            let (kept, end) = (self.kept(&buffer), buffer.end);
            buffer.store.copy_within(kept..end, 0);
            buffer.begins_at(kept);
        }
        if buffer.room() < room_wanted && buffer.is_all_sent() {
            let bytes = buffer.end + room_wanted;
            buffer.store.resize(bytes, 0);
        }
        let buffer = self.buffer.insert(buffer);
        &mut buffer.store[buffer.end..]
    }

    /// Nothing more is expected for a while: where buffers are short, the pipe keeps one for just what it holds.
    pub fn settle(&mut self, spare: &mut Spare) {
        let Some(mut buffer) = self.buffer.take() else { return };
        let kept = self.kept(&buffer);
        let room = buffer.end - kept + STORE_SPARE_BYTES;
        if spare.is_short() && !buffer.is_small() && room < STORE_BYTES {
            let mut other = spare.lend(Buffer::new(room));
            buffer.rehouse(kept, &mut other);
            spare.give(other);
        }
        self.buffer = Some(buffer);
    }

    /// How many bytes are missing of those that must fit in at once.
    fn lacks(&self, buffer: &Buffer) -> usize {
        (self.needed as usize).saturating_sub(buffer.end - buffer.decided)
    }

    /// The first byte of the store that may not be overwritten.
    fn kept(&self, buffer: &Buffer) -> usize {
        if self.marked { buffer.mark.min(buffer.start) } else { buffer.start }
    }

    /// Whether bytes are moved to the front to make room: not many for little room, while others still leave.
    fn may_compact(&self, buffer: &Buffer) -> bool {
        let kept = self.kept(buffer);
        kept > 0 && (buffer.is_all_sent() || kept * 2 >= buffer.store.len())
    }

    /// `count` bytes have been received into [`Self::space`].
    pub fn filled(&mut self, count: usize) {
        let Some(buffer) = &mut self.buffer else { return };
        buffer.end += count;
        if buffer.room() == 0 && !buffer.is_small() {
            self.size = Size::Bulk;
        } else if buffer.end < STORE_BYTES {
            self.size = Size::Usual;
        }
    }

    /// Receives a copy of `bytes`: for drivers without a socket.
    pub fn fill_from(&mut self, mut bytes: &[u8], spare: &mut Spare) -> usize {
        let offered = bytes.len();
        while !bytes.is_empty() && self.has_space() {
            let space = self.space(spare);
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            self.filled(count);
            bytes = &bytes[count..];
        }
        offered - bytes.len()
    }

    /// The next `count` undecided bytes shall be sent.
    pub fn pass(&mut self, count: usize) {
        let Some(buffer) = &mut self.buffer else { return };
        debug_assert!(count <= buffer.end - buffer.decided, "only received bytes can be passed");
        match buffer.pieces.back_mut() {
            Some(Piece::Pass(last)) => *last += count,
            _ => buffer.pieces.push_back(Piece::Pass(count)),
        }
        buffer.decided += count;
        buffer.ready += count;
    }

    /// The next `count` undecided bytes shall not be sent.
    pub fn discard(&mut self, count: usize) {
        let Some(buffer) = &mut self.buffer else { return };
        debug_assert!(count <= buffer.end - buffer.decided, "only received bytes can be dropped");
        let is_all_sent = buffer.is_all_sent();
        match buffer.pieces.back_mut() {
            // Inserted bytes alone are before it, which are elsewhere: its room is free at once, whoever reads or not.
            _ if is_all_sent => buffer.start += count,
            Some(Piece::Drop(last)) => *last += count,
            _ => buffer.pieces.push_back(Piece::Drop(count)),
        }
        buffer.decided += count;
        self.drop_leading();
    }

    /// What `write` appends shall be sent after everything decided so far.
    pub fn insert(&mut self, spare: &mut Spare, write: impl FnOnce(&mut BytesMut)) {
        let buffer = self.buffer.get_or_insert_with(|| spare.take(self.size));
        let before = buffer.inserted.len();
        write(&mut buffer.inserted);
        let count = buffer.inserted.len() - before;
        match buffer.pieces.back_mut() {
            Some(Piece::Insert(last)) => *last += count,
            _ => buffer.pieces.push_back(Piece::Insert(count)),
        }
        buffer.ready += count;
    }

    /// What to send next, as slices for one vectored write; returns how many there are.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let Some(buffer) = &self.buffer else { return 0 };
        let (mut stored, mut inserted, mut used) = (buffer.start, 0, 0);
        for piece in &buffer.pieces {
            if used == SLICES_MAX {
                break;
            }
            match *piece {
                Piece::Drop(count) => {
                    stored += count;
                    continue;
                }
                Piece::Pass(count) => {
                    slices[used] = IoSlice::new(&buffer.store[stored..stored + count]);
                    stored += count;
                }
                Piece::Insert(count) => {
                    slices[used] = IoSlice::new(&buffer.inserted[inserted..inserted + count]);
                    inserted += count;
                }
            }
            used += 1;
        }
        used
    }

    /// `count` bytes have been sent.
    pub fn sent(&mut self, mut count: usize) {
        let Some(buffer) = &mut self.buffer else { return };
        buffer.ready -= count;
        while count > 0 {
            let Some(piece) = buffer.pieces.front_mut() else { break };
            let taken = match piece {
                Piece::Drop(dropped) => {
                    buffer.start += *dropped;
                    buffer.pieces.pop_front();
                    continue;
                }
                Piece::Pass(left) => {
                    let taken = count.min(*left);
                    buffer.start += taken;
                    *left -= taken;
                    taken
                }
                Piece::Insert(left) => {
                    let taken = count.min(*left);
                    buffer.inserted.advance(taken);
                    *left -= taken;
                    taken
                }
            };
            count -= taken;
            if matches!(piece, Piece::Pass(0) | Piece::Insert(0)) {
                buffer.pieces.pop_front();
            }
        }
        self.drop_leading();
    }

    /// All that is still to be sent is forgotten; undecided bytes stay.
    pub fn forget_ready(&mut self) {
        let Some(buffer) = &mut self.buffer else { return };
        (buffer.start, buffer.ready) = (buffer.decided, 0);
        buffer.pieces.clear();
        buffer.inserted.clear();
    }

    /// What nothing is decided about is dropped.
    pub fn discard_undecided(&mut self) {
        self.discard(self.undecided().len());
    }

    /// Everything is forgotten.
    pub fn clear(&mut self, spare: &mut Spare) {
        self.marked = false;
        self.give_back(spare);
    }

    /// Keeps the undecided bytes and all that follow until [`Self::unmark`].
    pub fn mark(&mut self) {
        self.marked = true;
        if let Some(buffer) = &mut self.buffer {
            buffer.mark = buffer.decided;
        }
    }

    /// True when the bytes since [`Self::mark`] are still here.
    pub fn is_marked(&self) -> bool {
        self.marked
    }

    /// Bytes decided since the mark.
    pub fn since_mark(&self) -> usize {
        let buffer = self.buffer.as_ref().filter(|_| self.marked);
        buffer.map_or(0, |it| it.decided - it.mark)
    }

    /// The marked bytes need not be kept any longer.
    pub fn unmark(&mut self) {
        self.marked = false;
    }

    /// Goes back to the mark, with nothing decided since. All of it must have been sent.
    pub fn rewind(&mut self) {
        let is_marked = std::mem::take(&mut self.marked);
        let Some(buffer) = &mut self.buffer else { return };
        if is_marked {
            debug_assert_eq!(buffer.ready, 0, "what is not sent can't be sent again");
            buffer.decided = buffer.mark;
            self.forget_ready();
        }
    }

    /// Gives the buffer back where it holds nothing.
    #[inline]
    pub fn tidy(&mut self, spare: &mut Spare) {
        if self.buffer.is_some() && self.is_empty() && !self.marked {
            self.give_back(spare);
        }
    }

    fn give_back(&mut self, spare: &mut Spare) {
        if let Some(mut buffer) = self.buffer.take() {
            self.needed = 0;
            buffer.clear();
            spare.give(buffer);
        }
    }

    fn drop_leading(&mut self) {
        let Some(buffer) = &mut self.buffer else { return };
        while let Some(Piece::Drop(count)) = buffer.pieces.front() {
            buffer.start += count;
            buffer.pieces.pop_front();
        }
        if buffer.start == buffer.end && !self.marked {
            (buffer.start, buffer.decided, buffer.end) = (0, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Receives until nothing more fits in; returns how much that was.
    fn fill(pipe: &mut Pipe, spare: &mut Spare) -> usize {
        pipe.fill_from(&[7; 4 * STORE_BULK_BYTES], spare)
    }

    /// Sends all that it holds.
    fn empty(pipe: &mut Pipe, spare: &mut Spare) {
        pipe.pass(pipe.undecided().len());
        pipe.sent(pipe.ready());
        pipe.tidy(spare);
    }

    #[test]
    fn who_has_filled_a_store_gets_a_larger_one_and_who_has_little_the_usual() {
        let (mut pipe, mut spare) = (Pipe::default(), Spare::default());
        for expected in [STORE_BYTES, STORE_BULK_BYTES, STORE_BULK_BYTES] {
            assert_eq!(fill(&mut pipe, &mut spare), expected);
            empty(&mut pipe, &mut spare);
        }
        let place = pipe.space(&mut spare).as_ptr();
        pipe.filled(100);
        empty(&mut pipe, &mut spare);
        assert_eq!(pipe.space(&mut spare).len(), STORE_BYTES);
        assert!(spare.bulk.iter().any(|it| it.store.as_ptr() == place), "it is kept for the next");
    }

    #[test]
    fn bytes_that_are_not_sent_yet_hold_up_those_that_follow() {
        let (mut pipe, mut spare) = (Pipe::default(), Spare::default());
        let mut held = 0;
        for _ in 0..100 {
            held += fill(&mut pipe, &mut spare);
            pipe.pass(pipe.undecided().len());
            // As after every message: the next one's first byte must fit in.
            pipe.need(1);
            assert!(held <= STORE_BYTES && !pipe.has_space());
            assert_eq!(pipe.buffer.as_ref().unwrap().store.len(), STORE_BYTES);
            pipe.sent(1000);
            held -= 1000;
            let half = pipe.kept(pipe.buffer.as_ref().unwrap()) * 2 >= STORE_BYTES;
            assert_eq!(pipe.has_space(), half, "room is made for much, not for little");
        }
        pipe.sent(pipe.ready());
        assert!(pipe.has_space() && pipe.is_empty());
    }

    #[test]
    fn what_is_dropped_needs_no_room_while_an_answer_before_it_waits_to_be_sent() {
        let (mut pipe, mut spare) = (Pipe::default(), Spare::default());
        pipe.insert(&mut spare, |out| out.extend_from_slice(b"answer"));
        for _ in 0..10 {
            assert!(fill(&mut pipe, &mut spare) >= STORE_BYTES / 2);
            pipe.discard(pipe.undecided().len());
        }
        pipe.fill_from(b" and more", &mut spare);
        pipe.pass(9);
        assert_eq!(drain(&mut pipe, 4), b"answer and more");
    }

    #[test]
    fn a_message_that_must_be_here_as_a_whole_gets_room_once_those_before_it_have_left() {
        let (mut pipe, mut spare) = (Pipe::default(), Spare::default());
        fill(&mut pipe, &mut spare);
        pipe.pass(100);
        pipe.need(3 * STORE_BYTES);
        assert!(!pipe.has_space());
        pipe.sent(100);
        let before = pipe.undecided().len();
        assert!(pipe.has_space());
        let more = pipe.space(&mut spare).len();
        assert!(before + more >= 3 * STORE_BYTES);
    }

    #[test]
    fn bytes_that_are_kept_though_sent_do_not_stop_the_others() {
        let (mut pipe, mut spare) = (Pipe::default(), Spare::default());
        pipe.mark();
        fill(&mut pipe, &mut spare);
        pipe.pass(pipe.undecided().len());
        pipe.need(1);
        assert!(!pipe.has_space());
        pipe.sent(pipe.ready());
        assert!(pipe.has_space() && !pipe.space(&mut spare).is_empty());
    }

    #[test]
    fn who_waits_where_buffers_are_short_keeps_just_what_it_has_said() {
        let mut spare = Spare::keeping(1);
        let mut waiting: Vec<Pipe> = Vec::new();
        for _ in 0..3 {
            let mut pipe = Pipe::default();
            pipe.fill_from(b"dropped, query", &mut spare);
            pipe.discard(9);
            pipe.settle(&mut spare);
            waiting.push(pipe);
        }
        let sizes: Vec<usize> = waiting.iter().map(|it| it.buffer.as_ref().unwrap().store.len()).collect();
        assert_eq!(sizes, [STORE_BYTES, 5 + STORE_SPARE_BYTES, 5 + STORE_SPARE_BYTES]);
        assert_eq!(spare.usual.len(), 1, "the others have one between them");
        for pipe in &mut waiting {
            assert_eq!(pipe.undecided(), b"query");
            // A little more has its place, and what is more than that gets it.
            assert!(pipe.has_space());
            pipe.fill_from(&[b'm'; STORE_SPARE_BYTES], &mut spare);
            assert!(pipe.has_space());
            pipe.fill_from(b"more", &mut spare);
            pipe.pass(5 + STORE_SPARE_BYTES + 4);
            let sent = drain(pipe, 100);
            assert!(sent.starts_with(b"querymmm") && sent.ends_with(b"mmmmore"));
            pipe.tidy(&mut spare);
        }
        assert_eq!((spare.lent, spare.usual.len()), (0, 1));
    }

    #[test]
    fn what_is_kept_to_be_sent_again_survives_the_wait() {
        let (mut pipe, mut spare) = (Pipe::default(), Spare::keeping(0));
        pipe.fill_from(b"one two", &mut spare);
        pipe.pass(4);
        pipe.mark();
        pipe.pass(2);
        assert_eq!(drain(&mut pipe, 100), b"one tw");
        pipe.settle(&mut spare);
        assert_eq!(pipe.buffer.as_ref().unwrap().store.len(), 3 + STORE_SPARE_BYTES);
        pipe.rewind();
        pipe.pass(3);
        assert_eq!(drain(&mut pipe, 100), b"two");
    }

    fn drain(pipe: &mut Pipe, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while pipe.ready() > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = pipe.slices(&mut slices);
            let all: Vec<u8> = slices[..used].iter().flat_map(|it| it.to_vec()).collect();
            let count = step.min(all.len());
            out.extend_from_slice(&all[..count]);
            pipe.sent(count);
        }
        out
    }

    #[test]
    fn pieces_leave_in_order_however_the_writes_are_cut() {
        for step in 1..12 {
            let (mut pipe, mut spare) = (Pipe::default(), Spare::default());
            pipe.fill_from(b"abcdefgh", &mut spare);
            pipe.pass(2);
            pipe.insert(&mut spare, |out| out.extend_from_slice(b"XY"));
            pipe.discard(3);
            pipe.pass(1);
            assert_eq!(pipe.undecided(), b"gh");
            assert_eq!(drain(&mut pipe, step), b"abXYf", "step {step}");
            pipe.pass(2);
            assert_eq!(drain(&mut pipe, step), b"gh");
            pipe.tidy(&mut spare);
            assert!(pipe.buffer.is_none());
        }
    }

    #[test]
    fn a_store_is_bounded_until_more_is_needed() {
        let (mut pipe, mut spare) = (Pipe::default(), Spare::default());
        let sent = pipe.fill_from(&vec![7; 10 * STORE_BYTES], &mut spare);
        assert_eq!(sent, STORE_BYTES);
        assert!(!pipe.has_space());
        pipe.need(STORE_BYTES + 10);
        assert_eq!(pipe.fill_from(&[8; 100], &mut spare), 10);
    }

    #[test]
    fn marked_bytes_can_be_sent_again() {
        let (mut pipe, mut spare) = (Pipe::default(), Spare::default());
        pipe.fill_from(b"one", &mut spare);
        pipe.pass(3);
        pipe.fill_from(b"two", &mut spare);
        pipe.mark();
        pipe.discard(1);
        pipe.pass(2);
        assert_eq!(drain(&mut pipe, 100), b"onewo");
        pipe.fill_from(b"3", &mut spare);
        pipe.rewind();
        pipe.pass(4);
        assert_eq!(drain(&mut pipe, 100), b"two3");
    }
}
