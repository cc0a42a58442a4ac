//! What a client's messages mean: each is passed on, rewritten, dropped, or held until there is a server.

use super::extended::Handled;
use super::{Closing, Deallocating, Phase, Relay, Resetting, Rest, Turn};
use crate::config::PoolMode;
use crate::prepared::Renamed;
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
                Phase::Adjusting(_) | Phase::Healing => return,
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
            if self.is_congested() || self.is_settling() || self.is_resetting(turn) {
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

    /// True while it must be known first what the client's names mean: a DEALLOCATE ALL is under way.
    fn is_settling(&mut self) -> bool {
        let Some(server) = &self.server else { return false };
        if server.queue.is_empty() && self.deallocating == Deallocating::Sent {
            self.deallocating = Deallocating::No;
        }
        // The same query may have gone on to COPY.
        self.deallocating == Deallocating::Sent && server.copy_in != CopyIn::Receiving
    }

    /// The end of a batch is on its way, and perhaps a DEALLOCATE ALL with it.
    fn ends_batch(&mut self) {
        if self.deallocating == Deallocating::InBatch {
            self.deallocating = Deallocating::Sent;
        }
    }

    /// A statement that leaves this behind is about to be executed.
    pub(super) fn leave_behind(&mut self, residue: Residue) {
        let Some(server) = &mut self.server else { return };
        server.residue |= residue.state();
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
            tag::EXECUTE => {
                server.batch_open = true;
                self.send(header, Reply::Execute, turn);
            }
            tag::FUNCTION_CALL => return self.function_call(header, turn),
            tag::FLUSH if server.copy_in == CopyIn::Receiving => self.drop_message(header),
            tag::FLUSH | tag::COPY_DATA => self.pass_message(header),
            tag::COPY_DONE | tag::COPY_FAIL => {
                if !server.queue.is_empty() {
                    // A Sync that came before has gone unheard: the batch ends with the next one.
                    server.batch_open |= server.queue.executes_last();
                    server.queue.push(Reply::CopyEnd, Fate::Pass);
                }
                if server.copy_in == CopyIn::Receiving {
                    server.copy_in = CopyIn::Ended;
                }
                self.pass_message(header);
            }
            tag::TERMINATE => self.closing = Some(Box::new(Closing::Terminated)),
            tag => self.violated(unknown(tag), turn),
        }
        Handled::Decided
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
        if let Some(server) = &mut self.server {
            server.queue.push(reply, Fate::Pass);
        }
        self.query_since.get_or_insert(turn.now);
        self.transaction_since.get_or_insert(turn.now);
        self.pass_message(header);
    }

    fn sync(&mut self, header: Header, turn: &Turn<'_>) {
        let Some(server) = &mut self.server else { return };
        if server.copy_in == CopyIn::Receiving {
            // `CopyGetData` in src/backend/commands/copyfromparse.c ignores it.
            return self.drop_message(header);
        }
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
        if let Err(handled) = self.judge_text(header, |body| body.strip_suffix(b"\0").unwrap_or(body), turn) {
            return handled;
        }
        // `exec_simple_query` in src/backend/tcop/postgres.c drops the unnamed statement.
        self.unnamed.forget();
        self.ends_batch();
        self.send(header, Reply::Query, turn);
        Handled::Decided
    }

    /// Notes what the statement whose text `text_of` finds in the body leaves behind, and returns it; `Err` where
    /// that can't be told yet.
    pub(super) fn judge_text(
        &mut self,
        header: Header,
        text_of: impl Fn(&[u8]) -> &[u8],
        turn: &mut Turn<'_>,
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
        let names_one = found.contains(Residue::DEALLOCATES) && self.rules.tracks_names();
        if names_one && server.queue.owes_batches() {
            return Err(Handled::Waits);
        }
        let name = names_one.then(|| deallocated(text).map(Box::from));
        server.tags_decide |= header.total() > looked_at;
        self.leave_behind(found);
        if let Some(Some(name)) = name {
            self.provide_for_deallocate(name, turn);
        }
        Ok(found)
    }

    /// SQL's DEALLOCATE of a statement that the client prepared through the protocol: the server has it under
    /// another name, so it is given an empty one under the client's name to deallocate.
    fn provide_for_deallocate(&mut self, name: Box<[u8]>, turn: &mut Turn<'_>) {
        let Some(server) = &mut self.server else { return };
        if self.names.find(&name).is_none() || server.status == TxStatus::Failed {
            return;
        }
        self.up.insert(turn.spare, |out| encode::parse(out, &name, b"\0\0\0"));
        let before = self.names.replace(&name, None);
        let undo = Undo { renamed: Some(Renamed { name, before }), ..Undo::default() };
        server.queue.push_undoable(Reply::Parse, Fate::Swallow, undo);
        // Unless the DEALLOCATE succeeds, the name stays.
        if !server.residue.contains(Residue::PREPARED) {
            server.residue |= Residue::PREPARED;
            server.lent_name = true;
        }
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
        self.up_rest = Rest { bytes: header.total(), pass: true };
        self.pass_rest_up();
    }

    /// Drops a message as far as it has come, and its rest when it comes.
    pub(super) fn drop_message(&mut self, header: Header) {
        self.up_rest = Rest { bytes: header.total(), pass: false };
        self.pass_rest_up();
    }

    /// Treats the rest of a message like its beginning. Returns false where more of it is yet to come.
    fn pass_rest_up(&mut self) -> bool {
        let count = self.up_rest.bytes.min(self.up.undecided().len());
        if self.up_rest.pass {
            self.up.pass(count);
        } else {
            self.up.discard(count);
        }
        self.up_rest.bytes -= count;
        self.up.need(1);
        self.up_rest.bytes == 0
    }

    /// Passes the rest of a message whose first `done` bytes were dealt with.
    pub(super) fn pass_tail(&mut self, header: Header, done: usize) {
        self.up_rest = Rest { bytes: header.total() - done, pass: true };
        self.pass_rest_up();
    }
}

/// The name that a DEALLOCATE statement is about, if that is all the text is.
fn deallocated(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_suffix(b"\0").unwrap_or(text).trim_ascii();
    let text = text.strip_suffix(b";").unwrap_or(text).trim_ascii_end();
    let mut words = text.split(u8::is_ascii_whitespace).filter(|it| !it.is_empty());
    if !words.next()?.eq_ignore_ascii_case(b"deallocate") {
        return None;
    }
    let mut name = words.next()?;
    if name.eq_ignore_ascii_case(b"prepare") {
        name = words.next().unwrap_or(name);
    }
    let quoted = name.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\""));
    words.next().is_none().then(|| quoted.unwrap_or(name))
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

#[cfg(test)]
mod tests {
    use super::deallocated;

    #[test]
    fn the_deallocated_name_is_found_in_a_lone_statement() {
        for (text, name) in [
            (&b"DEALLOCATE x\0"[..], Some(&b"x"[..])),
            (b"deallocate PREPARE \"X y\";", None),
            (b" DEALLOCATE  prepare \"_pg3_0\" ; ", Some(b"_pg3_0")),
            (b"DEALLOCATE x; SELECT 1", None),
            (b"SELECT 1", None),
        ] {
            assert_eq!(deallocated(text), name, "{}", text.escape_ascii());
        }
    }
}
