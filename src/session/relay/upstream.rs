//! What a client's messages mean: each is passed on, rewritten, dropped, or held until there is a server.

use super::extended::Handled;
use super::{Closing, Deallocating, Phase, Relay, Resetting, Rest, Turn};
use crate::config::PoolMode;
use crate::session::owed::{Fate, Reply, Undo};
use crate::session::residue::{self, Residue, STATEMENT_SCAN_BYTES_MAX};
use crate::session::server::CopyIn;
use crate::wire::frame::{Fields, HEADER};
use crate::wire::frontend::tag;
use crate::wire::{Error, Header, Report, SqlState, TxStatus, encode};

impl Relay {
    /// Decides about the client's messages as far as they have come and can be taken.
    pub(super) fn read_client(&mut self, turn: &mut Turn<'_>) {
        while self.closing.is_none() {
            if self.up_rest.bytes > 0 {
                if !self.pass_rest_up() {
                    return;
                }
                continue;
            }
            let header = match Header::peek(self.up.undecided()) {
                Ok(Some(header)) => header,
                Ok(None) => return self.up.need(HEADER),
                Err(error) => return self.violated(invalid(&error), turn),
            };
            match self.phase {
                Phase::Adjusting(_) | Phase::Healing | Phase::Doubting | Phase::Asking => return,
                Phase::Refusing => {
                    self.refuse_message(header, turn);
                    continue;
                }
                Phase::Open => {}
            }
            if self.server.is_none() {
                if self.handle_without_server(header, turn) {
                    continue;
                }
                return;
            }
            if self.is_congested() || self.is_settling(header.tag) || self.is_resetting(turn) {
                return;
            }
            match self.handle(header, turn) {
                Handled::Decided => {}
                Handled::NeedsMore(bytes) => return self.up.need(bytes),
                Handled::Waits => return,
            }
        }
    }

    /// True while the client's own defaults are being set again after its RESET or DISCARD ALL.
    fn is_resetting(&mut self, turn: &mut Turn<'_>) -> bool {
        let Some(server) = &self.server else { return false };
        // A server in the middle of a batch takes no query, one that skips to a Sync hears none.
        let listens = server.queue.is_empty() && !server.batch_open && !server.skipping;
        if self.resetting != Resetting::Due || !listens || server.status == TxStatus::Failed {
            return false;
        }
        self.resetting = Resetting::No;
        self.adjust(turn);
        self.is_adjusting()
    }

    /// True while the client must not be read any further for want of room.
    fn is_congested(&self) -> bool {
        self.up.is_full() || self.down.is_full() || self.server.as_ref().is_some_and(|it| it.queue.is_full())
    }

    /// True while something must be known first: what the client's names mean, where a DEALLOCATE ALL is under way, or
    /// which of its Syncs are answered, where one went out before the end of COPY data.
    fn is_settling(&mut self, tag: u8) -> bool {
        let Some(server) = &mut self.server else { return false };
        if server.unsure_sync {
            server.unsure_sync = server.queue.with_unsure_sync().is_some();
            if server.unsure_sync && tag != tag::SYNC {
                return true;
            }
        }
        match self.deallocating {
            Deallocating::No | Deallocating::InBatch => false,
            Deallocating::Executed if !server.queue.executes() => {
                self.deallocating = Deallocating::InBatch;
                false
            }
            // What does not look for a name may go on.
            Deallocating::Executed => {
                matches!(tag, tag::PARSE | tag::BIND | tag::DESCRIBE | tag::CLOSE | tag::QUERY)
            }
            Deallocating::Sent if server.queue.is_empty() => {
                self.deallocating = Deallocating::No;
                false
            }
            // The same query may have gone on to COPY.
            Deallocating::Sent => server.copy_in != CopyIn::Receiving,
        }
    }

    /// The end of a batch is on its way, and perhaps a DEALLOCATE ALL with it.
    fn ends_batch(&mut self) {
        if matches!(self.deallocating, Deallocating::InBatch | Deallocating::Executed) {
            self.deallocating = Deallocating::Sent;
        }
    }

    /// A statement that leaves this behind is about to be executed.
    pub(super) fn leave_behind(&mut self, residue: Residue) {
        let Some(server) = &mut self.server else { return };
        server.residue |= residue.state();
        // An answer that is still to be read clears what was there before.
        server.cleared = server.cleared.without(residue.state());
        if residue.contains(Residue::PREPARED) {
            server.lent_name = false;
        }
        if residue.contains(Residue::DEALLOCATES_ALL) {
            // The server will forget all statements, unless it fails.
            server.shelf.mark_all_stale();
            self.deallocating = Deallocating::InBatch;
        }
    }

    /// A message that comes while no server is on loan. Returns whether it was dealt with: else it waits for one.
    fn handle_without_server(&mut self, header: Header, turn: &mut Turn<'_>) -> bool {
        match header.tag {
            // Late data of a COPY that has failed, and a Flush of nothing: PostgreSQL ignores both.
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL | tag::FLUSH => {
                self.drop_message(header);
                return true;
            }
            tag::TERMINATE => self.closing = Some(Box::new(Closing::Terminated)),
            tag if !is_known(tag) => self.violated(unknown(tag), turn),
            // A message that is half written keeps no server waiting for its other half.
            _ => match header.total().min(STATEMENT_SCAN_BYTES_MAX) {
                enough if self.up.undecided().len() < enough => self.up.need(enough),
                _ => {
                    self.wants_server = true;
                    self.query_since.get_or_insert(turn.now);
                }
            },
        }
        false
    }

    fn handle(&mut self, header: Header, turn: &mut Turn<'_>) -> Handled {
        let Some(server) = &mut self.server else { return Handled::Decided };
        if server.skipping && header.tag != tag::SYNC && is_known(header.tag) && header.tag != tag::TERMINATE
        {
            self.drop_message(header);
            return Handled::Decided;
        }
        match header.tag {
            tag::QUERY => return self.query(header, turn),
            tag::SYNC => self.sync(header, turn),
            tag::PARSE => return self.parse(header, turn),
            tag::BIND => return self.bind(header, turn),
            tag::DESCRIBE => return self.describe(header, turn),
            tag::CLOSE => return self.close(header, turn),
            tag::EXECUTE if self.about_name.is_some() || self.deallocating != Deallocating::No => {
                return self.execute_about_names(header, turn);
            }
            tag::EXECUTE => {
                server.batch_open = true;
                self.send(header, Reply::Execute, turn);
            }
            tag::FUNCTION_CALL => return self.function_call(header, turn),
            tag::FLUSH | tag::COPY_DATA => self.pass_message(header),
            tag::COPY_DONE | tag::COPY_FAIL => self.end_copy(header, turn),
            tag::TERMINATE => self.closing = Some(Box::new(Closing::Terminated)),
            tag => self.violated(unknown(tag), turn),
        }
        Handled::Decided
    }

    fn end_copy(&mut self, header: Header, turn: &mut Turn<'_>) {
        let Some(server) = &mut self.server else { return };
        let mut unsure = None;
        if !server.queue.is_empty() {
            server.queue.push(Reply::CopyEnd, Fate::Pass);
            unsure = server.queue.with_unsure_sync();
            server.unsure_sync = unsure.is_some();
        }
        if server.copy_in == CopyIn::Receiving {
            server.copy_in = CopyIn::Ended;
        }
        self.pass_message(header);
        if unsure == Some(Reply::Execute) && header.tag == tag::COPY_DONE && self.up_rest.bytes == 0 {
            // What comes next may wait for the answer, which the server keeps to itself until a Sync.
            self.up.insert(turn.spare, |out| out.extend_from_slice(encode::FLUSH));
        }
    }

    fn function_call(&mut self, header: Header, turn: &mut Turn<'_>) -> Handled {
        const OID: usize = 4;
        let needed = header.total().min(HEADER + OID);
        if self.up.undecided().len() < needed {
            return Handled::NeedsMore(needed);
        }
        if self.rules.mode != PoolMode::Session {
            let oid = Fields::of(&self.up.undecided()[HEADER..needed]).u32();
            self.leave_behind(residue::of_function(oid.unwrap_or_default()));
        }
        self.send(header, Reply::FunctionCall, turn);
        Handled::Decided
    }

    /// Passes a message on and expects its reply.
    pub(super) fn send(&mut self, header: Header, reply: Reply, turn: &Turn<'_>) {
        self.send_undoable(header, reply, None, turn);
    }

    /// The same of a message that changed something in advance.
    pub(super) fn send_undoable(
        &mut self,
        header: Header,
        reply: Reply,
        undo: Option<Undo>,
        turn: &Turn<'_>,
    ) {
        if let Some(server) = &mut self.server {
            match undo {
                None => server.queue.push(reply, Fate::Pass),
                Some(undo) => server.queue.push_undoable(reply, Fate::Pass, undo),
            }
        }
        self.query_since.get_or_insert(turn.now);
        self.transaction_since.get_or_insert(turn.now);
        self.pass_message(header);
    }

    fn sync(&mut self, header: Header, turn: &Turn<'_>) {
        let Some(server) = &mut self.server else { return };
        server.skipping = false;
        server.batch_open = false;
        self.ends_batch();
        self.send(header, Reply::Sync, turn);
    }

    fn query(&mut self, header: Header, turn: &mut Turn<'_>) -> Handled {
        if !self.rules.simple_queries {
            let report = Report::fatal(SqlState::FEATURE_NOT_SUPPORTED, "PQexec disallowed")
                .hint("Use the extended query protocol, or set disable_pqexec = 0.");
            self.violated(report, turn);
            return Handled::Decided;
        }
        // The terminating zero would look like the beginning of a second statement.
        let judged = self.judge_text(header, |body| body.strip_suffix(b"\0").unwrap_or(body));
        let undo = match judged.and_then(|found| self.provide_for_query(header, found, turn)) {
            Ok(undo) => undo,
            Err(handled) => return handled,
        };
        self.unnamed.drop_it();
        self.ends_batch();
        self.send_undoable(header, Reply::Query, undo, turn);
        Handled::Decided
    }

    /// Notes what the statement whose text `text_of` finds in the body leaves behind, and returns it; `Err` where
    /// that can't be told yet.
    pub(super) fn judge_text(
        &mut self,
        header: Header,
        text_of: impl Fn(&[u8]) -> &[u8],
    ) -> Result<Residue, Handled> {
        if self.rules.mode == PoolMode::Session {
            return Ok(Residue::NONE);
        }
        let undecided = self.up.undecided();
        let looked_at = header.total().min(STATEMENT_SCAN_BYTES_MAX);
        if undecided.len() < looked_at {
            return Err(Handled::NeedsMore(looked_at));
        }
        let Some(server) = &mut self.server else { return Ok(Residue::NONE) };
        let text = text_of(&undecided[HEADER..looked_at]);
        let reported = |name: &str| server.parameters.reported.value(name).is_some();
        let found = residue::of_statement(text, reported);
        server.tags_decide |= header.total() > looked_at;
        self.leave_behind(found);
        Ok(found)
    }

    /// A message of a client whose request was refused while it waited for a server.
    fn refuse_message(&mut self, header: Header, turn: &mut Turn<'_>) {
        match header.tag {
            tag::TERMINATE => self.closing = Some(Box::new(Closing::Terminated)),
            tag if !is_known(tag) => self.violated(unknown(tag), turn),
            tag::QUERY | tag::FUNCTION_CALL | tag::SYNC => {
                self.drop_message(header);
                self.phase = Phase::Open;
                self.down.insert(turn.spare, |out| encode::ready_for_query(out, TxStatus::Idle));
            }
            _ => self.drop_message(header),
        }
    }

    /// Passes a message on as far as it has come, and its rest when it comes.
    pub(super) fn pass_message(&mut self, header: Header) {
        self.up_rest = Rest::new(header.total(), true);
        self.pass_rest_up();
    }

    /// Drops a message as far as it has come, and its rest when it comes.
    pub(super) fn drop_message(&mut self, header: Header) {
        self.up_rest = Rest::new(header.total(), false);
        self.pass_rest_up();
    }

    /// Treats the rest of a message like its beginning. Returns false where more of it is yet to come.
    fn pass_rest_up(&mut self) -> bool {
        let count = self.up_rest.take(self.up.undecided().len());
        if self.up_rest.pass {
            self.up.pass(count);
        } else {
            self.up.discard(count);
        }
        self.up.need(1);
        self.up_rest.bytes == 0
    }

    /// Passes the rest of a message whose first `done` bytes were dealt with.
    pub(super) fn pass_tail(&mut self, header: Header, done: usize) {
        self.up_rest = Rest::new(header.total() - done, true);
        self.pass_rest_up();
    }
}

fn is_known(tag: u8) -> bool {
    matches!(
        tag,
        tag::QUERY
            | tag::SYNC
            | tag::PARSE
            | tag::BIND
            | tag::DESCRIBE
            | tag::CLOSE
            | tag::EXECUTE
            | tag::FUNCTION_CALL
            | tag::FLUSH
            | tag::COPY_DATA
            | tag::COPY_DONE
            | tag::COPY_FAIL
            | tag::TERMINATE
    )
}

/// PostgreSQL's words: `SocketBackend` in src/backend/tcop/postgres.c.
fn unknown(tag: u8) -> Report {
    Report::fatal(SqlState::PROTOCOL_VIOLATION, format!("invalid frontend message type {tag}"))
}

pub(super) fn invalid(error: &Error) -> Report {
    Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
}
