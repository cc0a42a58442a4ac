//! What a server's messages mean: to whom they belong, and what they say of the server's state.

use super::extended::TAKEN_NAME;
use super::leaving::Presence;
use super::{Phase, Relay, Resetting, Rest, Turn};
use crate::config::PoolMode;
use crate::prepared::NAME_PREFIX;
use crate::session::owed::{Fate, Reply};
use crate::session::residue::{self, Residue};
use crate::session::server::CopyIn;
use crate::session::verdict::CloseReason;
use crate::wire::backend::{Backend, tag};
use crate::wire::frame::HEADER;
use crate::wire::limits::SERVER_MESSAGE_BYTES_MAX;
use crate::wire::{Error, Header, Report, Severity, SqlState, TxStatus, encode};

/// PostgreSQL's words where a result type has changed: `RevalidateCachedQuery` in src/backend/utils/cache/plancache.c.
/// The routine's name is not translated, the message is.
const STALE_PLAN_ROUTINE: &[u8] = b"RRevalidateCachedQuery\0";
/// Bytes of a batch that are kept to be sent once more.
pub(super) const HEAL_BYTES_MAX: usize = 32 * 1024;

/// What was decided about a message.
enum Decision {
    /// The client gets it, or nobody, as this says.
    Give(bool),
    /// It was dealt with altogether.
    Done,
    /// This many bytes must be here first.
    NeedsMore(usize),
}

/// What a command tag says that matters to the pooler's own doings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// A setting was set, perhaps to the server's default.
    Setting,
    /// One setting, or all, came back to the server's default.
    Reset,
    /// A statement was deallocated by its name.
    Deallocated,
    /// None of these.
    Other,
}

impl Change {
    fn of(tag: &[u8]) -> Self {
        match tag {
            b"SET" => Self::Setting,
            b"RESET" | b"DISCARD ALL" => Self::Reset,
            b"DEALLOCATE" => Self::Deallocated,
            _ => Self::Other,
        }
    }
}

impl Relay {
    /// Decides about the server's messages as far as they have come.
    pub(super) fn read_server(&mut self, turn: &mut Turn<'_>) {
        while self.server.is_some() {
            if self.down_rest.bytes > 0 {
                if !self.pass_rest_down() {
                    return;
                }
                continue;
            }
            self.give_answers(turn);
            let decided = match Header::peek(self.down.undecided()) {
                Ok(None) => return self.down.need(HEADER),
                Ok(Some(header)) => self.decide(header, turn).map(|it| (it, header)),
                Err(error) => Err(error),
            };
            match decided {
                Ok((Decision::Give(pass), header)) => {
                    let pass = pass && self.presence == Presence::Here;
                    self.down_rest = Rest::new(header.total(), pass);
                }
                Ok((Decision::Done, _)) => {}
                Ok((Decision::NeedsMore(bytes), _)) => return self.down.need(bytes),
                Err(error) => {
                    let report = Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
                        .detail("The server sent it.");
                    return self.violated(report, turn);
                }
            }
        }
    }

    fn decide(&mut self, header: Header, turn: &mut Turn<'_>) -> Result<Decision, Error> {
        match header.tag {
            // The bulk of all bytes: nothing in it matters here.
            tag::DATA_ROW | tag::COPY_DATA => self.place(header.tag).map(Decision::Give),
            tag::NOTICE_RESPONSE => {
                let front = self.server.as_ref().and_then(|it| it.queue.front());
                Ok(Decision::Give(front.is_none_or(|it| it.fate != Fate::Swallow)))
            }
            tag::NOTIFICATION_RESPONSE => Ok(Decision::Give(true)),
            tag::READY_FOR_QUERY | tag::COMMAND_COMPLETE | tag::ERROR_RESPONSE | tag::PARAMETER_STATUS
                if header.total() > SERVER_MESSAGE_BYTES_MAX =>
            {
                Err(Error::Length { tag: header.tag, length: header.length() })
            }
            tag::READY_FOR_QUERY | tag::COMMAND_COMPLETE | tag::ERROR_RESPONSE | tag::PARAMETER_STATUS
                if self.down.undecided().len() < header.total() =>
            {
                Ok(Decision::NeedsMore(header.total()))
            }
            tag::READY_FOR_QUERY => self.ready(header, turn),
            tag::COMMAND_COMPLETE => self.complete(header),
            tag::ERROR_RESPONSE => self.error(header, turn),
            tag::PARAMETER_STATUS => self.status(header, turn),
            tag::COPY_IN_RESPONSE => {
                let pass = self.place(header.tag)?;
                if let Some(server) = &mut self.server {
                    // The client may have sent all its data before it knew that it was wanted.
                    let ended = server.queue.has_copy_end();
                    server.copy_in = if ended { CopyIn::Ended } else { CopyIn::Receiving };
                }
                Ok(Decision::Give(pass))
            }
            tag::COPY_BOTH_RESPONSE => {
                let pass = self.place(header.tag)?;
                if let Some(server) = &mut self.server {
                    server.copy_in = CopyIn::Both;
                }
                Ok(Decision::Give(pass))
            }
            tag => {
                self.up.unmark();
                if let (Some(server), tag::PORTAL_SUSPENDED) = (&mut self.server, tag) {
                    server.cleared = Residue::NONE;
                }
                self.place(tag).map(Decision::Give)
            }
        }
    }

    /// Whether the client gets a message that has its place in the order of replies.
    fn place(&mut self, tag: u8) -> Result<bool, Error> {
        let Some(server) = &mut self.server else { return Ok(false) };
        match server.queue.place(tag) {
            Ok(placed) => {
                if matches!(placed.reply, Reply::ParseUnnamed | Reply::CloseUnnamed) {
                    self.unnamed.on_done(placed.fate);
                }
                Ok(placed.fate == Fate::Pass)
            }
            Err(_) => Err(Error::Broken("order of a server's")),
        }
    }

    fn body(&self, header: Header) -> &[u8] {
        &self.down.undecided()[HEADER..header.total()]
    }

    fn ready(&mut self, header: Header, turn: &mut Turn<'_>) -> Result<Decision, Error> {
        let Backend::ReadyForQuery(status) = Backend::decode(header.tag, self.body(header))? else {
            return Err(Error::Broken("ReadyForQuery"));
        };
        let Some(server) = &mut self.server else { return Ok(Decision::Give(false)) };
        server.status = status;
        let cleared = std::mem::take(&mut server.cleared);
        server.completed = 0;
        if status == TxStatus::Idle {
            server.residue = server.residue.without(cleared);
        }
        let placed = server.queue.place(header.tag).map_err(|_| Error::Broken("order of a server's"))?;
        match placed.reply {
            Reply::Query if placed.fate != Fate::Swallow => self.unnamed.on_done(placed.fate),
            Reply::EarlySync => server.skipping = false,
            _ => {}
        }
        if placed.fate == Fate::Pass {
            self.healed = false;
            self.up.unmark();
            self.count_done(status, turn);
            if self.resetting == Resetting::Reported {
                self.resetting = Resetting::Due;
            }
            if self.rules.mode == PoolMode::Statement && status != TxStatus::Idle {
                self.refuse_transaction_block(turn);
                return Ok(Decision::Done);
            }
            return Ok(Decision::Give(true));
        }
        self.down.discard(header.total());
        match std::mem::replace(&mut self.phase, Phase::Open) {
            Phase::Adjusting(refusal) => self.adjusted(refusal.map(|it| *it), turn),
            Phase::Healing => {
                self.healed = true;
                self.up.rewind();
            }
            // The client has had all its answers before this one: what it says next is for whichever server comes.
            Phase::Asking if self.server.as_ref().is_none_or(|it| it.queue.is_empty()) => {
                self.query_since = None;
                if status == TxStatus::Idle {
                    self.transaction_since = None;
                }
                self.release_if_done();
            }
            other => self.phase = other,
        }
        Ok(Decision::Done)
    }

    fn refuse_transaction_block(&mut self, turn: &mut Turn<'_>) {
        let report = Report::fatal(
            SqlState::FEATURE_NOT_SUPPORTED,
            "transaction blocks not allowed in statement pooling mode",
        )
        .hint("Use a database entry with pool_mode = transaction.");
        self.end(self.worded(report), CloseReason::TransactionBlock, turn);
    }

    fn complete(&mut self, header: Header) -> Result<Decision, Error> {
        self.up.unmark();
        let (meaning, change) = {
            let body = self.body(header);
            // Rows are what most statements end with; their tags say nothing of interest.
            let tag = body.strip_suffix(b"\0").ok_or(Error::Broken("CommandComplete"))?;
            (residue::of_tag(tag), Change::of(tag))
        };
        let Some(server) = &mut self.server else { return Ok(Decision::Give(false)) };
        let placed = server.queue.place(header.tag).map_err(|_| Error::Broken("order of a server's"))?;
        if server.copy_in != CopyIn::No {
            server.copy_in = CopyIn::No;
            match placed.reply {
                Reply::Execute => server.batch_open |= server.queue.on_copy_in_done(),
                // The same query may copy once more.
                _ => server.queue.forget_copy_end(),
            }
        }
        if server.tags_decide {
            server.residue |= meaning.leaves.state();
        }
        if change == Change::Deallocated {
            if std::mem::take(&mut server.lent_name) {
                server.residue = server.residue.without(Residue::PREPARED);
            } else {
                // It may have been one of the pooler's own, which others use.
                server.shelf.mark_all_stale();
            }
        }
        if meaning.deallocates_all {
            server.queue.on_deallocate_all(&mut self.names, &mut server.shelf);
        }
        // Believed once the transaction is over, if nothing else has been done or is under way that leaves it anew.
        let alone = server.status == TxStatus::Idle && server.queue.len() <= 1 && server.completed == 0;
        server.completed += 1;
        server.cleared = if alone { meaning.clears } else { Residue::NONE };
        if meaning.clears.contains(Residue::SETTING) {
            server.parameters.extra = Default::default();
        } else if matches!(change, Change::Setting | Change::Reset) {
            server.on_setting();
        }
        if change == Change::Reset && placed.fate == Fate::Pass {
            self.resetting = Resetting::Reported;
        }
        Ok(Decision::Give(placed.fate == Fate::Pass))
    }

    fn status(&mut self, header: Header, turn: &mut Turn<'_>) -> Result<Decision, Error> {
        let Backend::ParameterStatus { name, value } = Backend::decode(header.tag, self.body(header))? else {
            return Err(Error::Broken("ParameterStatus"));
        };
        let (name, value) = (name.to_owned(), value.to_owned());
        // What the client has set in the same query is no default.
        let is_default = || {
            let defaults = self.server.as_ref().map(|it| &it.defaults);
            defaults.and_then(|it| it.value(&name)).is_none_or(|it| it == value)
        };
        let is_reset = self.resetting == Resetting::Reported && is_default();
        let start = self.start.value(&name).filter(|it| is_reset && *it != value);
        if let Some(start) = start.map(str::to_owned) {
            // For the client, what it gave in its start-up message is the default.
            self.on_parameter_status(&name, &value);
            self.parameters.on_status(&name, &start, None);
            if self.presence == Presence::Here {
                self.down.insert(turn.spare, |out| encode::parameter_status(out, &name, &start));
            }
            self.down.discard(header.total());
            return Ok(Decision::Done);
        }
        // That the server has become what the client takes it for is no news.
        let adjusting = matches!(self.phase, Phase::Adjusting(_));
        let known = adjusting && self.parameters.reported.value(&name) == Some(value.as_str());
        self.on_parameter_status(&name, &value);
        Ok(Decision::Give(!known))
    }

    fn error(&mut self, header: Header, turn: &mut Turn<'_>) -> Result<Decision, Error> {
        turn.stats.server_error();
        if let Phase::Adjusting(refusal) = &mut self.phase {
            let body = &self.down.undecided()[HEADER..header.total()];
            *refusal = Some(Box::new(Report::parse(body)?));
            return Ok(Decision::Give(false));
        }
        if self.can_heal(header) {
            self.begin_healing();
            return Ok(Decision::Give(false));
        }
        self.up.unmark();
        let Some(server) = &mut self.server else { return Ok(Decision::Give(false)) };
        server.cleared = Residue::NONE;
        if server.is_done() && self.rules.mode != PoolMode::Session {
            // It says good-bye, and the client has nothing to do with it any more.
            server.condemned = Some(CloseReason::ServerGone);
            return Ok(Decision::Give(false));
        }
        let front = server.queue.front().map(|it| (it.reply, it.fate));
        let about = server.queue.front().and_then(|it| it.undo.as_ref()?.renamed.as_ref());
        let about = about.map(|it| it.name.clone());
        if server.copy_in == CopyIn::No {
            self.skip();
        } else {
            self.copy_in_failed();
        }
        // What went wrong with the pooler's own part of a batch went wrong with the client's message behind it.
        let whole_query = matches!(front, Some((Reply::Query, Fate::Swallow)));
        if whole_query {
            return Ok(Decision::Give(false));
        }
        let report = Report::parse(&self.down.undecided()[HEADER..header.total()])?;
        if let Some(server) = &mut self.server {
            match report.sqlstate {
                SqlState::READ_ONLY_TRANSACTION => server.read_only = true,
                // It has lost what it was known to have: a function may have deallocated all.
                SqlState::INVALID_STATEMENT_NAME if report.message.contains(NAME_PREFIX) => {
                    server.shelf.mark_all_stale();
                }
                _ => {}
            }
        }
        if matches!(report.severity, Severity::Fatal | Severity::Panic) {
            self.last_words = Some(Box::new(report));
        }
        Ok(self.give_renamed(header, about.as_deref(), turn))
    }

    /// The message whose answer is due has failed, and the server skips everything up to the next Sync.
    fn skip(&mut self) {
        let Some(server) = &mut self.server else { return };
        let failed = server.queue.front().filter(|it| it.reply == Reply::ParseUnnamed).map(|it| it.fate);
        let skipped = server.queue.on_error(&mut self.names, &mut server.shelf);
        server.skipping |= skipped.goes_on;
        self.unnamed.on_error(failed, skipped.unnamed_changes, server.queue.changes_unnamed());
    }

    /// A COPY FROM STDIN has failed; what the client still sends of its data is ignored.
    fn copy_in_failed(&mut self) {
        let Some(server) = &mut self.server else { return };
        server.copy_in = CopyIn::No;
        match server.queue.early_syncs() {
            0 => self.skip(),
            early => {
                server.skipping |= server.queue.ask_after_early_syncs(early);
                self.phase = Phase::Doubting;
            }
        }
    }

    /// Asks the server which Syncs it has read in COPY mode, once the client's message under way is over. A Close
    /// never fails, and of this name there is nothing.
    pub(super) fn ask_after_syncs(&mut self, turn: &mut Turn<'_>) {
        if self.up_rest.bytes > 0 {
            return;
        }
        self.phase = Phase::Asking;
        self.up.insert(turn.spare, |out| {
            out.extend_from_slice(encode::SYNC);
            encode::close_statement(out, TAKEN_NAME.as_bytes());
            out.extend_from_slice(encode::SYNC);
        });
    }

    /// Whether a batch that failed may be sent once more: nothing of it was executed or answered, all of it is
    /// still at hand, fresh statements will cure it, and the client asks what the result looks like.
    fn can_heal(&self, header: Header) -> bool {
        let Some(server) = &self.server else { return false };
        let body = self.body(header);
        let curable = memchr::memmem::find(body, STALE_PLAN_ROUTINE).is_some()
            || Report::parse(body).is_ok_and(|it| {
                it.sqlstate == SqlState::INVALID_STATEMENT_NAME && it.message.contains(NAME_PREFIX)
            });
        curable
            && self.up.is_marked()
            && self.up.since_mark() <= HEAL_BYTES_MAX
            && self.up.ready() == 0
            && self.up_rest.bytes == 0
            && server.status == TxStatus::Idle
            && server.queue.front().is_some_and(|it| matches!(it.reply, Reply::Bind | Reply::Parse))
            && server.queue.is_one_batch()
            && server.queue.describes()
    }

    fn begin_healing(&mut self) {
        let Some(server) = &mut self.server else { return };
        server.shelf.mark_all_stale();
        self.skip();
        if let Some(server) = &mut self.server {
            server.queue.swallow_all();
        }
        self.phase = Phase::Healing;
    }

    /// Gives the client an error with its own name for a statement in place of the server's.
    /// `about`: the name that the failed message gave.
    fn give_renamed(&mut self, header: Header, about: Option<&[u8]>, turn: &mut Turn<'_>) -> Decision {
        let body = &self.down.undecided()[HEADER..header.total()];
        if let Some(server) = &mut self.server
            && memchr::memmem::find(body, STALE_PLAN_ROUTINE).is_some()
        {
            server.shelf.mark_all_stale();
        }
        let Some(at) = memchr::memmem::find(body, NAME_PREFIX.as_bytes()) else {
            return Decision::Give(true);
        };
        let digits = body[at + NAME_PREFIX.len()..].iter().take_while(|it| it.is_ascii_digit()).count();
        let end = at + NAME_PREFIX.len() + digits;
        let server_name = String::from_utf8_lossy(&body[at..end]).into_owned();
        let Some(name) = about.or_else(|| self.names.name_of(&server_name)) else {
            return Decision::Give(true);
        };
        if self.presence != Presence::Here {
            return Decision::Give(false);
        }
        let renamed: Vec<u8> = [&body[..at], name, &body[end..]].concat();
        self.down.insert(turn.spare, |out| {
            encode::message(out, tag::ERROR_RESPONSE, |out| out.extend_from_slice(&renamed));
        });
        self.down.discard(header.total());
        Decision::Done
    }

    /// Treats the rest of a message like its beginning. Returns false where more of it is yet to come.
    fn pass_rest_down(&mut self) -> bool {
        let count = self.down_rest.take(self.down.undecided().len());
        if self.down_rest.pass {
            self.down.pass(count);
        } else {
            self.down.discard(count);
        }
        self.down.need(1);
        self.down_rest.bytes == 0
    }
}
