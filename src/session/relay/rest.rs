//! Where a conversation can be made to stand still: between two messages, with nothing of them in the pipes.

use super::{Phase, Relay, Rest};
use crate::session::owed::{Fate, Owed};
use crate::session::pipe::Pipe;
use crate::wire::Header;
use crate::wire::frame::HEADER;

impl Relay {
    /// True where nothing is half done: no part of a message is here, and nothing is waited for but the two sides. A
    /// query may run on the server all the same, and its answer is still to come; and what a client wants of the server
    /// that it waits for, or of one that has to answer something else first, may be here.
    pub fn is_at_rest(&self) -> bool {
        self.phase == Phase::Open
            && self.closing.is_none()
            && self.released.is_none()
            && self.is_upstream_at_rest()
            && is_clear(&self.down, self.down_rest)
    }

    /// True where nothing is on its way to the server. What waits stays where it is, in whole messages.
    fn is_upstream_at_rest(&self) -> bool {
        self.up_rest.bytes == 0 && self.up.ready() == 0 && (self.wants_server() || self.client_lacks() == 0)
    }

    /// True where a process that knows of nothing but the sockets could go on: whatever comes next is the beginning of
    /// a message, and the client gets every answer that is due.
    pub fn is_plain(&self) -> bool {
        let passes = |owed: &Owed| owed.fate == Fate::Pass;
        self.is_at_rest()
            && self.up.is_empty()
            && self.server.as_ref().is_none_or(|it| it.queue.iter().all(passes))
    }

    /// How many bytes of the client's message under way are yet to come; 0: its length is not known, or there is none.
    pub fn client_rest(&self) -> usize {
        self.up_rest.bytes as usize
    }

    /// How many bytes of the server's message under way are yet to come; 0: its length is not known, or there is none.
    pub fn server_rest(&self) -> usize {
        self.down_rest.bytes as usize
    }

    /// How many bytes of the client complete what it has begun to say; 0: it is at the end of a message.
    pub fn client_lacks(&self) -> usize {
        lacks(&self.up, self.up_rest)
    }

    /// How many bytes of the server complete what it has begun to say, or begin what is waited for; 0: no more are
    /// needed for the conversation to come to rest.
    pub fn server_lacks(&self) -> usize {
        // A server that is not read may not read either, and a query of the pooler's own must be answered.
        let goes_on = self.phase != Phase::Open || !self.up.is_empty();
        lacks(&self.down, self.down_rest).max(if goes_on { HEADER } else { 0 })
    }
}

fn is_clear(pipe: &Pipe, rest: Rest) -> bool {
    pipe.is_empty() && rest.bytes == 0
}

fn lacks(pipe: &Pipe, rest: Rest) -> usize {
    let mut undecided = pipe.undecided();
    if rest.bytes > 0 {
        return (rest.bytes as usize).saturating_sub(undecided.len());
    }
    while !undecided.is_empty() {
        match Header::peek(undecided) {
            Ok(None) => return HEADER - undecided.len(),
            Ok(Some(header)) if header.total() > undecided.len() => return header.total() - undecided.len(),
            Ok(Some(header)) => undecided = &undecided[header.total()..],
            // What cannot be understood ends the conversation soon.
            Err(_) => return 0,
        }
    }
    0
}
