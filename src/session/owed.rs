//! The replies that a server still owes, in order.
//!
//! Every message that the server will answer has an entry, whoever sent it. The entry says what becomes of the
//! answer: it is passed to the client, swallowed because the pooler asked, or it never comes because the pooler
//! gives it itself at that very place. After an error PostgreSQL answers nothing up to the next Sync, and so the
//! entries up to there are dropped, and what their messages would have changed is taken back.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::prepared::{Names, Renamed, Shelf, Statement};
use crate::wire::backend::tag;

/// Entries that a server may owe before no more is read from its client. Above
/// `PQ_SEND_BUFFER_SIZE` (src/backend/libpq/pqcomm.c, 8 KiB) divided by the five bytes of the shortest answer, so
/// that PostgreSQL always sends something before the limit is met.
pub const OWED_MAX: usize = 64 * 1024;

/// The message that is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// ParseComplete.
    Parse,
    /// ParseComplete of the unnamed statement, which the server drops first.
    ParseUnnamed,
    /// BindComplete.
    Bind,
    /// ParameterDescription, then RowDescription or NoData.
    Describe,
    /// Rows or COPY, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// CloseComplete.
    Close,
    /// CloseComplete of the unnamed statement.
    CloseUnnamed,
    /// Anything up to ReadyForQuery.
    Query,
    /// ReadyForQuery.
    Sync,
    /// FunctionCallResponse and ReadyForQuery.
    FunctionCall,
    /// Nothing: it marks where the client ended its COPY data.
    CopyEnd,
    /// ReadyForQuery, or nothing where COPY mode ignored the Sync.
    EarlySync,
}

/// What becomes of the reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The client gets it.
    Pass,
    /// Nobody gets it: the pooler asked.
    Swallow,
    /// It never comes; the client gets these bytes when its turn is reached.
    Answer(&'static [u8]),
}

/// What a message changed in advance, to be taken back if an error makes the server skip it.
#[derive(Debug, Default)]
pub struct Undo {
    /// The client's name has another meaning.
    pub renamed: Option<Renamed>,
    /// The server was to have this statement.
    pub parsed: Option<Arc<Statement>>,
    /// The server was to lose this one.
    pub closed: Option<Arc<Statement>>,
}

/// One reply that is due.
#[derive(Debug)]
pub struct Owed {
    /// The message that is to be answered.
    pub reply: Reply,
    /// What becomes of the answer.
    pub fate: Fate,
    /// What to take back if the message is skipped.
    pub undo: Option<Box<Undo>>,
}

/// A message from the server that answers nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct Unexpected;

/// What the pooler must do about a message from the server that has its place in the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Whether the client gets it.
    pub fate: Fate,
    /// What it answers.
    pub reply: Reply,
}

/// All that a server owes.
#[derive(Debug, Default)]
pub struct Queue {
    due: VecDeque<Owed>,
    /// How many of them changed something in advance.
    undos: usize,
    /// How many of them end with ReadyForQuery.
    ends: usize,
}

impl Queue {
    /// One more reply is due.
    #[inline]
    pub fn push(&mut self, reply: Reply, fate: Fate) {
        self.ends += usize::from(reply.ends());
        self.due.push_back(Owed { reply, fate, undo: None });
    }

    /// One more reply is due, to a message that changed something in advance.
    pub fn push_undoable(&mut self, reply: Reply, fate: Fate, undo: Undo) {
        self.undos += 1;
        self.ends += usize::from(reply.ends());
        self.due.push_back(Owed { reply, fate, undo: Some(Box::new(undo)) });
    }

    #[inline]
    fn pop(&mut self) {
        if let Some(owed) = self.due.pop_front() {
            self.undos -= usize::from(owed.undo.is_some());
            self.ends -= usize::from(owed.reply.ends());
        }
    }

    /// Drops the first `count`; returns what they would take back, in their order.
    fn drop_front(&mut self, count: usize) -> Vec<Undo> {
        let mut undos = Vec::new();
        for owed in self.due.drain(..count) {
            self.ends -= usize::from(owed.reply.ends());
            undos.extend(owed.undo.map(|it| *it));
        }
        self.undos -= undos.len();
        undos
    }

    /// True where batches that are on their way as a whole are not answered yet: whether they fail, and whether a
    /// transaction fails with them, is not known.
    #[inline]
    pub fn owes_batches(&self) -> bool {
        self.ends > 0
    }

    /// True where one of those batches may have changed what the client calls `name`, or whether the server has a
    /// statement, so that neither can be told before it is answered.
    pub fn is_uncertain(&self, name: &[u8], statement: Option<&Statement>) -> bool {
        if self.undos == 0 || self.ends == 0 {
            return false;
        }
        let earlier = self.due.iter().rposition(|it| it.reply.ends()).map_or(0, |it| it + 1);
        self.due
            .iter()
            .take(earlier)
            .filter_map(|it| it.undo.as_deref())
            .any(|it| it.is_about(name, statement))
    }

    /// True where one of those batches was to take a statement off the server, and may fail before it gets there.
    pub fn may_keep_statements(&self) -> bool {
        if self.undos == 0 || self.ends == 0 {
            return false;
        }
        let earlier = self.due.iter().rposition(|it| it.reply.ends()).unwrap_or(0);
        let closes = |it: &Owed| it.undo.as_ref().is_some_and(|it| it.closed.is_some());
        self.due.iter().take(earlier).any(closes)
    }

    /// True when nothing is due.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// How much is due.
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// True when no more should be asked of the server for now.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.due.len() >= OWED_MAX
    }

    /// All that is due, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Owed> {
        self.due.iter()
    }

    /// What is due next.
    pub fn front(&self) -> Option<&Owed> {
        self.due.front()
    }

    /// True where the client waits for one of these replies.
    pub fn owes_client(&self) -> bool {
        self.due.iter().any(|it| it.fate != Fate::Swallow && it.reply != Reply::CopyEnd)
    }

    /// False where [`Self::take_answer`] would take nothing.
    #[inline]
    pub fn has_answer(&self) -> bool {
        let front = self.due.front();
        front.is_some_and(|it| it.reply == Reply::CopyEnd || matches!(it.fate, Fate::Answer(_)))
    }

    /// Takes the next answer that the pooler gives itself, if its turn has come.
    pub fn take_answer(&mut self) -> Option<&'static [u8]> {
        loop {
            match self.due.front()? {
                Owed { reply: Reply::CopyEnd, .. } => {
                    self.pop();
                }
                Owed { fate: Fate::Answer(bytes), .. } => {
                    let bytes = *bytes;
                    self.pop();
                    return Some(bytes);
                }
                _ => return None,
            }
        }
    }

    /// Finds the place of a message from the server, errors and asynchronous messages excepted.
    ///
    /// Errors: a message that answers nothing that is due.
    #[inline]
    pub fn place(&mut self, tag: u8) -> Result<Placed, Unexpected> {
        let Some(front) = self.due.front() else { return Err(Unexpected) };
        let placed = Placed { fate: front.fate, reply: front.reply };
        let last = match (front.reply, tag) {
            (Reply::Parse | Reply::ParseUnnamed, tag::PARSE_COMPLETE)
            | (Reply::Bind, tag::BIND_COMPLETE)
            | (Reply::Close | Reply::CloseUnnamed, tag::CLOSE_COMPLETE)
            | (Reply::Describe, tag::ROW_DESCRIPTION | tag::NO_DATA)
            | (Reply::Execute, tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE | tag::PORTAL_SUSPENDED)
            | (Reply::Query | Reply::Sync | Reply::FunctionCall | Reply::EarlySync, tag::READY_FOR_QUERY) => {
                true
            }
            (Reply::Describe, tag::PARAMETER_DESCRIPTION)
            | (Reply::FunctionCall, tag::FUNCTION_CALL_RESPONSE)
            | (
                Reply::Execute | Reply::Query,
                tag::DATA_ROW
                | tag::COPY_DATA
                | tag::COPY_DONE
                | tag::COPY_IN_RESPONSE
                | tag::COPY_OUT_RESPONSE
                | tag::COPY_BOTH_RESPONSE,
            )
            | (Reply::Query, tag::ROW_DESCRIPTION | tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE) => {
                false
            }
            // What comes next has come: it was ignored.
            (Reply::EarlySync, _) => {
                self.pop();
                return self.place(tag);
            }
            _ => return Err(Unexpected),
        };
        if last {
            self.pop();
        }
        Ok(placed)
    }

    /// True where a message is on its way that makes the unnamed statement another one.
    pub fn changes_unnamed(&self) -> bool {
        self.due.iter().any(|it| it.reply.changes_unnamed())
    }

    /// True where an earlier batch may yet fail to make the unnamed statement the client's own.
    pub fn is_unnamed_uncertain(&self) -> bool {
        if self.ends == 0 {
            return false;
        }
        let last = self.due.iter().rposition(|it| it.reply.ends()).unwrap_or(0);
        let changes = |it: &Owed| it.reply.changes_unnamed();
        !self.due.iter().skip(last).any(changes) && self.due.iter().take(last).any(changes)
    }

    /// An error came in place of the next reply.
    pub fn on_error(&mut self, names: &mut Names, shelf: &mut Shelf) -> Skipped {
        let Some(front) = self.due.front_mut() else { return Skipped::default() };
        if front.reply.ends() {
            // ReadyForQuery comes in any case, but nothing of it was done.
            let undo = front.undo.take();
            self.undos -= usize::from(undo.is_some());
            undo.into_iter().for_each(|it| it.take_back(names, shelf));
            return Skipped::default();
        }
        let skipped = self.due.iter().position(|it| it.reply == Reply::Sync).unwrap_or(self.due.len());
        let changes = self.due.iter().take(skipped).filter(|it| it.changes_unnamed_of_client()).count();
        // The newest change is taken back first, so that the oldest meaning of a name is what remains.
        self.drop_front(skipped).into_iter().rev().for_each(|it| it.take_back(names, shelf));
        Skipped { goes_on: self.due.is_empty(), unnamed_changes: changes }
    }

    /// COPY IN has ended well: the server has read everything up to the client's CopyDone, and in COPY mode it
    /// ignores Sync and Flush (`CopyGetData` in src/backend/commands/copyfromparse.c). Returns whether its batch still
    /// lacks a Sync.
    pub fn on_copy_in_done(&mut self) -> bool {
        let Some(end) = self.copy_end() else { return false };
        let ignored = self.due.iter().take(end).any(|it| it.reply == Reply::Sync);
        self.drop_front(end + 1);
        ignored && self.due.is_empty()
    }

    /// Where the client has ended the data of the COPY that is first.
    fn copy_end(&self) -> Option<usize> {
        self.due.iter().position(|it| it.reply == Reply::CopyEnd)
    }

    /// True where an Execute is not answered yet.
    pub fn executes(&self) -> bool {
        self.due.iter().any(|it| it.reply == Reply::Execute)
    }

    /// True where the client has ended the data of a COPY.
    pub fn has_copy_end(&self) -> bool {
        self.copy_end().is_some()
    }

    /// The statement that may have begun to copy before a Sync that the client has sent, the end of the data behind it:
    /// whether COPY mode ignores the Sync, or it ends the batch, is not known. `None`: there is no such Sync.
    pub fn with_unsure_sync(&self) -> Option<Reply> {
        let end = self.due.iter().rposition(|it| it.reply == Reply::CopyEnd)?;
        let mut syncs = 0;
        let before = self.due.iter().take(end).rev().map(|it| it.reply);
        // COPY mode takes nothing else.
        let mut before = before.inspect(|it| syncs += usize::from(*it == Reply::Sync));
        let statement = before.find(|it| !matches!(it, Reply::Sync | Reply::CopyEnd))?;
        (syncs > 0 && matches!(statement, Reply::Execute | Reply::Query)).then_some(statement)
    }

    /// The end of data that came first has been read, by the Query in front. In COPY mode it ignores a Sync.
    pub fn forget_copy_end(&mut self) {
        let Some(end) = self.copy_end() else { return };
        let mut place = 0;
        let before = self.due.len();
        self.due.retain(|it| {
            place += 1;
            place == 1 || place > end + 1 || !matches!(it.reply, Reply::Sync | Reply::CopyEnd)
        });
        // All of them but the end of data.
        self.ends -= before - self.due.len() - 1;
    }

    /// How many Syncs went out behind the COPY in front that is failing, and before the end of its data if that has
    /// come: those that it has read in COPY mode were ignored, the others are answered.
    pub fn early_syncs(&self) -> usize {
        let count = self.due.iter().skip(1).take_while(|it| it.reply == Reply::Sync).count();
        // COPY mode takes no other message: all of them were read after it.
        let all_after = self.due.get(1 + count).is_some_and(|it| it.reply != Reply::CopyEnd);
        if all_after { 0 } else { count }
    }

    /// The COPY in front has failed, and which of its `early` Syncs are answered shall be seen from the answers to a
    /// Sync, a Close and another Sync of the pooler's own, which are due as well from here on. Returns whether the
    /// server skips everything up to a Sync, unless it answers an early one.
    pub fn ask_after_early_syncs(&mut self, early: usize) -> bool {
        let executes = self.due.front().is_some_and(|it| !it.reply.ends());
        let begin = usize::from(!executes);
        let fates: Vec<Fate> = self.due.drain(1..=early).map(|it| it.fate).collect();
        self.ends -= early;
        if executes {
            self.drop_front(1);
        }
        if self.due.get(begin).is_some_and(|it| it.reply == Reply::CopyEnd) {
            self.due.remove(begin);
        }
        let skips = executes && self.due.is_empty();
        // All ReadyForQuery up to the CloseComplete are alike. The first is ours, so that none of the client's lacks.
        self.push(Reply::Sync, Fate::Swallow);
        fates.into_iter().for_each(|it| self.push(Reply::EarlySync, it));
        self.push(Reply::Close, Fate::Swallow);
        self.push(Reply::Sync, Fate::Swallow);
        skips
    }

    /// All statements are gone from the server and the client's names with them; what later messages made anew
    /// stays.
    pub fn on_deallocate_all(&mut self, names: &mut Names, shelf: &mut Shelf) {
        names.clear();
        shelf.clear();
        for undo in self.due.iter_mut().filter_map(|it| it.undo.as_deref_mut()) {
            if let Some(renamed) = &mut undo.renamed {
                // A message that is skipped brings nothing back that is gone.
                renamed.before = names.replace(&renamed.name, undo.parsed.clone());
            }
            if let Some(parsed) = &undo.parsed {
                shelf.put(Arc::clone(parsed));
            }
        }
    }

    /// True where the client will be told what it gets: it cannot take old rows for new ones.
    pub fn describes(&self) -> bool {
        self.due.iter().any(|it| it.reply == Reply::Describe)
    }

    /// True where exactly the messages of one batch are due, its Sync being the last.
    pub fn is_one_batch(&self) -> bool {
        self.due.iter().position(|it| it.reply == Reply::Sync).is_some_and(|it| it + 1 == self.due.len())
    }

    /// Nobody gets what is still due from the server. The pooler's own answers keep their places: the server does
    /// not give them.
    pub fn swallow_all(&mut self) {
        self.due.iter_mut().filter(|it| it.fate == Fate::Pass).for_each(|it| it.fate = Fate::Swallow);
    }
}

/// What an error has made a server skip.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Skipped {
    /// It goes on to skip: the Sync that ends it is yet to come.
    pub goes_on: bool,
    /// How many messages of the client would have made the unnamed statement another one. The failed one is the first
    /// of them if it is a Parse.
    pub unnamed_changes: usize,
}

impl Owed {
    /// Whether the client's unnamed statement is another one after it. A simple query drops it: `exec_simple_query` in
    /// src/backend/tcop/postgres.c.
    fn changes_unnamed_of_client(&self) -> bool {
        self.reply.changes_unnamed() && self.fate != Fate::Swallow
    }
}

impl Reply {
    /// Whether the unnamed statement is another one after it.
    fn changes_unnamed(self) -> bool {
        matches!(self, Self::ParseUnnamed | Self::CloseUnnamed | Self::Query)
    }

    /// Whether ReadyForQuery ends it.
    fn ends(self) -> bool {
        matches!(self, Self::Query | Self::Sync | Self::FunctionCall)
    }
}

impl Undo {
    fn is_about(&self, name: &[u8], statement: Option<&Statement>) -> bool {
        let same = |it: &Arc<Statement>| statement.is_some_and(|other| it.id() == other.id());
        self.renamed.as_ref().is_some_and(|it| *it.name == *name)
            || self.parsed.as_ref().is_some_and(same)
            || self.closed.as_ref().is_some_and(same)
    }

    fn take_back(self, names: &mut Names, shelf: &mut Shelf) {
        if let Some(parsed) = self.parsed {
            shelf.remove(&parsed);
        }
        if let Some(closed) = self.closed {
            // Whether the server has it is not certain: a batch behind may have closed it as well.
            shelf.put_stale(closed);
        }
        if let Some(Renamed { name, before }) = self.renamed {
            names.replace(&name, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepared::Registry;

    fn queue(replies: &[Reply]) -> Queue {
        let mut queue = Queue::default();
        replies.iter().for_each(|it| queue.push(*it, Fate::Pass));
        queue
    }

    fn error(queue: &mut Queue) -> bool {
        queue.on_error(&mut Names::default(), &mut Shelf::default()).goes_on
    }

    #[test]
    fn replies_come_in_the_order_of_their_messages() {
        use Reply::*;
        let mut queue = queue(&[Parse, Bind, Describe, Execute, Sync]);
        for tag in [b'1', b'2', b'T', b'D', b'D', b'C', b'Z'] {
            assert!(queue.place(tag).is_ok(), "{}", tag as char);
        }
        assert!(queue.is_empty());
        assert_eq!(queue.place(b'Z'), Err(Unexpected));
    }

    #[test]
    fn a_reply_out_of_order_is_unexpected() {
        for (reply, tag) in
            [(Reply::Parse, b'2'), (Reply::Sync, b'C'), (Reply::Execute, b'Z'), (Reply::Query, b'1')]
        {
            assert_eq!(queue(&[reply]).place(tag), Err(Unexpected), "{reply:?}");
        }
    }

    #[test]
    fn an_error_skips_up_to_the_next_sync() {
        use Reply::*;
        let mut one = queue(&[Bind, Execute, Sync, Parse]);
        assert!(!error(&mut one));
        assert_eq!(one.len(), 2);
        assert!(error(&mut queue(&[Bind, Execute])), "the Sync is yet to come");
        let mut query = queue(&[Query, Query]);
        assert!(!error(&mut query));
        assert_eq!(query.len(), 2, "a failed query still ends with ReadyForQuery");
    }

    #[test]
    fn answers_are_given_in_their_turn_and_dropped_by_errors() {
        let mut queue = queue(&[Reply::Bind]);
        queue.push(Reply::Parse, Fate::Answer(b"1"));
        assert_eq!(queue.take_answer(), None);
        assert!(queue.place(b'2').is_ok());
        assert_eq!(queue.take_answer(), Some(&b"1"[..]));
        queue.push(Reply::Bind, Fate::Pass);
        queue.push(Reply::Parse, Fate::Answer(b"1"));
        error(&mut queue);
        assert_eq!(queue.take_answer(), None);
    }

    #[test]
    fn a_skipped_message_changes_nothing() {
        let registry = Registry::default();
        let (old, new) =
            (registry.intern(b"old", Default::default), registry.intern(b"new", Default::default));
        let (mut names, mut shelf) = (Names::default(), Shelf::default());
        names.replace(b"s", Some(Arc::clone(&old)));
        let mut queue = queue(&[Reply::Bind]);
        // The client closed `s`, then parsed it anew: both are skipped.
        let before = names.replace(b"s", None);
        let undo = Undo { renamed: Some(Renamed { name: b"s"[..].into(), before }), ..Undo::default() };
        queue.push_undoable(Reply::Close, Fate::Answer(b"3"), undo);
        let before = names.replace(b"s", Some(Arc::clone(&new)));
        shelf.put(Arc::clone(&new));
        let undo = Undo {
            renamed: Some(Renamed { name: b"s"[..].into(), before }),
            parsed: Some(Arc::clone(&new)),
            closed: None,
        };
        queue.push_undoable(Reply::Parse, Fate::Pass, undo);
        assert!(queue.on_error(&mut names, &mut shelf).goes_on);
        assert_eq!(names.find(b"s").map(|it| it.id()), Some(old.id()));
        assert!(shelf.is_empty());
    }

    #[test]
    fn the_syncs_that_copy_mode_ignores_are_not_awaited() {
        use Reply::*;
        let mut queue = queue(&[Execute, Sync, CopyEnd, Sync]);
        assert_eq!(queue.with_unsure_sync(), Some(Execute));
        assert!(queue.place(b'C').is_ok());
        assert!(!queue.on_copy_in_done(), "a Sync is on its way");
        assert_eq!(queue.len(), 1);
        assert!(queue.place(b'Z').is_ok());
        assert!(queue.is_empty());
    }
}
