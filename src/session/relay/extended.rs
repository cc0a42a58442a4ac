//! Prepared statements while servers change: a client's names stand for shared statements, and a server that lacks
//! one is given it on the way.
//!
//! The server itself answers whatever can fail. Only what is known to succeed is answered here (a Parse of a
//! statement that the server has, a Close), and in its turn.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::downstream::HEAL_BYTES_MAX;
use super::sql_names::AboutName;
use super::upstream::invalid;
use super::{Relay, Turn};
use crate::config::PoolMode;
use crate::prepared::{Presence, Renamed, Statement};
use crate::session::owed::{Fate, Reply, Undo};
use crate::session::residue::{self, Residue, STATEMENT_SCAN_BYTES_MAX};
use crate::wire::frame::HEADER;
use crate::wire::frontend::{BindHead, Parse, Target, tag};
use crate::wire::limits::{NAME_BYTES_MAX, PARSE_BYTES_MAX};
use crate::wire::{Error, Header, Report, SqlState, TxStatus, encode};

/// An unnamed Parse is always kept for a later batch up to this size.
const UNNAMED_KEPT_BYTES_MAX: usize = 4 * 1024;
/// And up to this one where it is not bound at once.
const UNNAMED_BYTES_MAX: usize = 64 * 1024;
/// Statements closed at once on a server that has too many; the next one makes room for itself and closes as many again.
const EVICTIONS_MAX: usize = 16;
/// Messages looked at to see whether an unnamed Parse is bound in the same batch.
const LOOK_AHEAD_MAX: usize = 4;

/// A name on servers under which no statement is ever bound: those of statements are numbered from 1.
pub(super) const TAKEN_NAME: &str = "PGWEIR_0";

/// Whether a message could be decided about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Handled {
    /// It was.
    Decided,
    /// This many of its bytes must be here first.
    NeedsMore(usize),
    /// The server must answer first: what the message means depends on whether an earlier batch fails.
    Waits,
}

impl Relay {
    pub(super) fn parse(&mut self, header: Header, turn: &mut Turn<'_>) -> Handled {
        let undecided = self.up.undecided();
        let body = &undecided[HEADER..header.total().min(undecided.len())];
        // One byte tells the unnamed statement from the others.
        match body.first() {
            None if header.body == 0 => {
                self.violated(invalid(&Error::Broken("Parse")), turn);
                return Handled::Decided;
            }
            None => return Handled::NeedsMore(HEADER + 1),
            Some(0) => return self.parse_unnamed(header, turn),
            Some(_) => {}
        }
        if !self.rules.tracks_names() {
            return self.parse_untracked(header, turn);
        }
        if header.body > PARSE_BYTES_MAX {
            self.violated(too_large("prepared statement", PARSE_BYTES_MAX), turn);
            return Handled::Decided;
        }
        if body.len() < header.body {
            return Handled::NeedsMore(header.total());
        }
        match Parse::decode(&body[..header.body]) {
            Err(error) => self.violated(invalid(&error), turn),
            Ok(parse) => {
                let (name, size) = (Box::from(parse.name), HEADER + parse.name.len() + 1);
                return self.parse_named(header, NamedParse { name, size }, turn);
            }
        }
        Handled::Decided
    }

    fn parse_unnamed(&mut self, header: Header, turn: &mut Turn<'_>) -> Handled {
        let residue = match self.judge_text(header, |body| text_after_name(body)) {
            Ok(residue) => residue,
            Err(handled) => return handled,
        };
        let undecided = self.up.undecided();
        let text = undecided.get(HEADER + 1..header.total()).filter(|_| {
            header.body <= UNNAMED_KEPT_BYTES_MAX
                || header.body <= UNNAMED_BYTES_MAX && !is_bound_next(&undecided[header.total()..])
        });
        self.unnamed.change(text, residue);
        self.open_batch();
        self.send(header, Reply::ParseUnnamed, turn);
        Handled::Decided
    }

    /// A named Parse that goes to the server as it is: in session mode, where the server is the client's own, or
    /// without `max_prepared_statements`, where it must not outlive the client's turn.
    fn parse_untracked(&mut self, header: Header, turn: &mut Turn<'_>) -> Handled {
        if let Err(handled) = self.judge_text(header, |body| text_after_name(body)) {
            return handled;
        }
        self.leave_behind(Residue::PREPARED);
        self.open_batch();
        self.send(header, Reply::Parse, turn);
        Handled::Decided
    }

    fn parse_named(&mut self, header: Header, parse: NamedParse, turn: &mut Turn<'_>) -> Handled {
        let Some(server) = &mut self.server else { return Handled::Decided };
        let rest = &self.up.undecided()[parse.size..header.total()];
        // The statement is for any server: what only newer versions report does not count.
        let statement = turn.registry.intern(rest, || residue_of(rest, residue::is_always_reported));
        // It can be answered here only if the server is known to accept it.
        let known = server.shelf.touch(&statement) == Presence::Here && server.status != TxStatus::Failed;
        if (known && server.queue.owes_batches()) || server.queue.is_uncertain(&parse.name, Some(&statement))
        {
            return Handled::Waits;
        }
        if self.waits_for_room(&statement) {
            return Handled::Waits;
        }
        turn.stats.client_parse();
        self.open_batch();
        if self.names.find(&parse.name).is_some() {
            if self.rules.closes_for_names() {
                let name = String::from_utf8_lossy(&parse.name);
                tracing::error!("prepared statement '{name}' was already prepared");
                self.violated(name_in_use(), turn);
                return Handled::Decided;
            }
            self.parse_taken(header, &parse, turn);
        } else {
            self.parse_new(header, parse, &statement, turn);
        }
        Handled::Decided
    }

    /// A Parse whose name is taken. The server itself shall say so, and finds out whatever else is wrong with it before:
    /// it is given a name that was just taken there, and that nobody ever binds.
    fn parse_taken(&mut self, header: Header, parse: &NamedParse, turn: &mut Turn<'_>) {
        self.up.insert(turn.spare, |out| {
            encode::close_statement(out, TAKEN_NAME.as_bytes());
            encode::parse(out, TAKEN_NAME.as_bytes(), b"\0\0\0");
        });
        if let Some(server) = &mut self.server {
            server.queue.push(Reply::Close, Fate::Swallow);
            server.queue.push(Reply::Parse, Fate::Swallow);
            let before = self.names.find(&parse.name).cloned();
            let undo =
                Undo { renamed: Some(Renamed { name: parse.name.clone(), before }), ..Undo::default() };
            server.queue.push_undoable(Reply::Parse, Fate::Pass, undo);
        }
        self.pass_parse(header, parse, TAKEN_NAME, turn);
    }

    /// Passes a Parse on under a server's name.
    fn pass_parse(&mut self, header: Header, parse: &NamedParse, name: &str, turn: &mut Turn<'_>) {
        let body = name.len() + 1 + header.total() - parse.size;
        self.up.insert(turn.spare, |out| {
            put_header(out, tag::PARSE, body);
            encode::c_str(out, name.as_bytes());
        });
        self.query_since.get_or_insert(turn.now);
        self.up.discard(parse.size);
        self.pass_tail(header, parse.size);
    }

    /// A named Parse whose name is free.
    fn parse_new(
        &mut self,
        header: Header,
        parse: NamedParse,
        statement: &Arc<Statement>,
        turn: &mut Turn<'_>,
    ) {
        let Some(server) = &mut self.server else { return };
        let before = self.names.replace(&parse.name, Some(Arc::clone(statement)));
        let renamed = Some(Renamed { name: parse.name.clone(), before });
        let presence = match server.shelf.touch(statement) {
            // Only the server knows whether the transaction goes on before it gets there.
            Presence::Here if server.status == TxStatus::Failed => Presence::Stale,
            presence => presence,
        };
        if presence == Presence::Here {
            let undo = Undo { renamed, ..Undo::default() };
            server.queue.push_undoable(Reply::Parse, Fate::Answer(encode::PARSE_COMPLETE), undo);
            return self.drop_message(header);
        }
        self.make_room_for(statement, presence, turn);
        let Some(server) = &mut self.server else { return };
        server.shelf.put(Arc::clone(statement));
        turn.stats.server_parse();
        let undo = Undo { renamed, parsed: Some(Arc::clone(statement)), closed: None };
        server.queue.push_undoable(Reply::Parse, Fate::Pass, undo);
        self.pass_parse(header, &parse, statement.name(), turn);
    }

    pub(super) fn bind(&mut self, header: Header, turn: &mut Turn<'_>) -> Handled {
        let undecided = self.up.undecided();
        let body = &undecided[HEADER..header.total().min(undecided.len())];
        let Some(head) = BindHead::peek(body) else {
            return self.incomplete_names(header, body.len(), turn);
        };
        let unnamed = head.statement.is_empty();
        let found = self.names.find(head.statement).filter(|_| self.rules.knows_names()).cloned();
        let Some(server) = &self.server else { return Handled::Decided };
        let uncertain = match unnamed {
            true => server.queue.is_unnamed_uncertain(),
            false => server.queue.is_uncertain(head.statement, found.as_deref()),
        };
        if uncertain {
            return Handled::Waits;
        }
        let starts_batch = server.is_done();
        if found.is_none() && !unnamed && self.rules.closes_for_names() {
            self.violated(no_such_name(), turn);
            return Handled::Decided;
        }
        if let (Some(statement), false) = (found, unnamed) {
            let (size, portal) = (HEADER + head.size, head.portal.len());
            if self.waits_for_room(&statement) {
                return Handled::Waits;
            }
            if starts_batch && !self.healed && header.total() <= HEAL_BYTES_MAX {
                self.up.mark();
            }
            self.note_portal(header, AboutName::of_parse(statement.rest(), statement.residue()));
            self.bind_named(header, &NamedBind { statement, size, portal }, turn);
            return Handled::Decided;
        }
        self.open_batch();
        let about = if unnamed { self.about_of_unnamed() } else { None };
        self.note_portal(header, about);
        if unnamed {
            self.provide_unnamed(turn);
        }
        // A name that is unknown here is unknown there: the server says so.
        self.send(header, Reply::Bind, turn);
        Handled::Decided
    }

    fn bind_named(&mut self, header: Header, bind: &NamedBind, turn: &mut Turn<'_>) {
        turn.stats.bind();
        self.open_batch();
        self.leave_behind(bind.statement.residue());
        self.provide(&bind.statement, turn);
        let name = bind.statement.name().as_bytes();
        let old = self.up.undecided();
        let mut portal = [0; 64];
        let long_portal;
        let portal: &[u8] = match portal.get_mut(..bind.portal) {
            Some(short) => {
                short.copy_from_slice(&old[HEADER..HEADER + bind.portal]);
                short
            }
            None => {
                long_portal = old[HEADER..HEADER + bind.portal].to_vec();
                &long_portal
            }
        };
        let body = bind.portal + 1 + name.len() + 1 + header.total() - bind.size;
        self.up.insert(turn.spare, |out| {
            put_header(out, tag::BIND, body);
            encode::c_str(out, portal);
            encode::c_str(out, name);
        });
        self.up.discard(bind.size);
        if let Some(server) = &mut self.server {
            server.queue.push(Reply::Bind, Fate::Pass);
        }
        self.query_since.get_or_insert(turn.now);
        self.transaction_since.get_or_insert(turn.now);
        self.pass_tail(header, bind.size);
    }

    pub(super) fn describe(&mut self, header: Header, turn: &mut Turn<'_>) -> Handled {
        let statement = match self.statement_of(header, turn) {
            Ok(statement) => statement,
            Err(handled) => return handled,
        };
        self.open_batch();
        match statement {
            Some(name) if name.is_empty() => {
                if self.server.as_ref().is_some_and(|it| it.queue.is_unnamed_uncertain()) {
                    return Handled::Waits;
                }
                self.provide_unnamed(turn);
            }
            Some(name) => {
                let found = self.names.find(&name).filter(|_| self.rules.knows_names()).cloned();
                if self.is_uncertain(&name, found.as_deref())
                    || found.as_deref().is_some_and(|it| self.waits_for_room(it))
                {
                    return Handled::Waits;
                }
                if let Some(statement) = found {
                    self.provide(&statement, turn);
                    self.up.insert(turn.spare, |out| {
                        put_header(out, tag::DESCRIBE, statement.name().len() + 2);
                        out.put_u8(b'S');
                        encode::c_str(out, statement.name().as_bytes());
                    });
                    if let Some(server) = &mut self.server {
                        server.queue.push(Reply::Describe, Fate::Pass);
                    }
                    self.query_since.get_or_insert(turn.now);
                    self.drop_message(header);
                    return Handled::Decided;
                }
                if self.rules.closes_for_names() {
                    self.violated(no_such_name(), turn);
                    return Handled::Decided;
                }
            }
            None => {}
        }
        self.send(header, Reply::Describe, turn);
        Handled::Decided
    }

    pub(super) fn close(&mut self, header: Header, turn: &mut Turn<'_>) -> Handled {
        let statement = match self.statement_of(header, turn) {
            Ok(statement) => statement,
            Err(handled) => return handled,
        };
        self.open_batch();
        match statement {
            Some(name) if name.is_empty() => {
                self.unnamed.drop_it();
                self.send(header, Reply::CloseUnnamed, turn);
                return Handled::Decided;
            }
            // The statement stays on the server for others; the client's name alone is gone.
            Some(name) if self.rules.tracks_names() => {
                if self.is_uncertain(&name, None) {
                    return Handled::Waits;
                }
                let before = self.names.replace(&name, None);
                if let Some(server) = &mut self.server {
                    if server.residue.contains(Residue::PREPARED) {
                        // It may have one of that name as well, by SQL's PREPARE or for it.
                        self.up.insert(turn.spare, |out| encode::close_statement(out, &name));
                        server.queue.push(Reply::Close, Fate::Swallow);
                    }
                    let undo = Undo { renamed: Some(Renamed { name, before }), ..Undo::default() };
                    server.queue.push_undoable(Reply::Close, Fate::Answer(encode::CLOSE_COMPLETE), undo);
                }
                self.drop_message(header);
                return Handled::Decided;
            }
            _ => {}
        }
        self.send(header, Reply::Close, turn);
        Handled::Decided
    }

    /// The name of the statement that a Describe or Close is about; `None` if it is about a portal.
    fn statement_of(&mut self, header: Header, turn: &mut Turn<'_>) -> Result<Option<Box<[u8]>>, Handled> {
        let body = &self.up.undecided()[HEADER..];
        let Some(body) = body.get(..header.body) else {
            return Err(self.incomplete_names(header, body.len(), turn));
        };
        match Target::decode(body) {
            Ok(Target::Statement(name)) => Ok(Some(name.into())),
            Ok(Target::Portal(_)) => Ok(None),
            Err(error) => {
                self.violated(invalid(&error), turn);
                Err(Handled::Decided)
            }
        }
    }

    /// The names of a message have not come whole. Waits for more of it, up to a limit.
    pub(super) fn incomplete_names(&mut self, header: Header, here: usize, turn: &mut Turn<'_>) -> Handled {
        if here < header.body && here < NAME_BYTES_MAX {
            return Handled::NeedsMore(header.total().min(HEADER + (here * 2).clamp(64, NAME_BYTES_MAX)));
        }
        let report = if here < header.body {
            too_large("name of a statement or portal", NAME_BYTES_MAX)
        } else {
            Report::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message format")
        };
        self.violated(report, turn);
        Handled::Decided
    }

    /// Sees to it that the server has the statement by the time it reads what follows.
    fn provide(&mut self, statement: &Arc<Statement>, turn: &mut Turn<'_>) {
        let Some(server) = &mut self.server else { return };
        let presence = server.shelf.touch(statement);
        if presence == Presence::Here {
            return;
        }
        self.make_room_for(statement, presence, turn);
        let Some(server) = &mut self.server else { return };
        server.shelf.put(Arc::clone(statement));
        let undo = Undo { parsed: Some(Arc::clone(statement)), ..Undo::default() };
        server.queue.push_undoable(Reply::Parse, Fate::Swallow, undo);
        turn.stats.server_parse();
        self.up.insert(turn.spare, |out| encode::parse(out, statement.name().as_bytes(), statement.rest()));
    }

    /// True where another statement must leave the server for this one, and it is not known whether the last that was to
    /// leave has done so: they would become more than they may be.
    fn waits_for_room(&mut self, statement: &Statement) -> bool {
        let most = self.rules.prepared_max as usize;
        self.server.as_mut().is_some_and(|it| {
            it.shelf.len() >= most
                && it.queue.may_keep_statements()
                && it.shelf.touch(statement) == Presence::Absent
        })
    }

    /// Closes a stale statement of that name on the server, or the least recently used ones where its shelf is full.
    fn make_room_for(&mut self, statement: &Arc<Statement>, presence: Presence, turn: &mut Turn<'_>) {
        let Some(server) = &mut self.server else { return };
        if presence == Presence::Stale {
            server.shelf.remove(statement);
            return self.close_on_server(Arc::clone(statement), turn);
        }
        // More than one only after `max_prepared_statements` has become smaller.
        for _ in 0..EVICTIONS_MAX {
            let Some(server) = &mut self.server else { return };
            let Some(leaving) = server.shelf.evict(self.rules.prepared_max.saturating_sub(1) as usize) else {
                return;
            };
            self.close_on_server(leaving, turn);
        }
    }

    fn close_on_server(&mut self, leaving: Arc<Statement>, turn: &mut Turn<'_>) {
        let Some(server) = &mut self.server else { return };
        self.up.insert(turn.spare, |out| encode::close_statement(out, leaving.name().as_bytes()));
        let undo = Undo { closed: Some(leaving), ..Undo::default() };
        server.queue.push_undoable(Reply::Close, Fate::Swallow, undo);
    }

    /// Sees to it that the server's unnamed statement is this client's own, or none at all.
    fn provide_unnamed(&mut self, turn: &mut Turn<'_>) {
        self.leave_behind(self.unnamed.residue());
        let Some(server) = &mut self.server else { return };
        if self.unnamed.is_here() || self.rules.mode == PoolMode::Session {
            return;
        }
        let reply = match self.unnamed.text() {
            Some(text) => {
                self.up.insert(turn.spare, |out| encode::parse(out, b"", text));
                Reply::ParseUnnamed
            }
            None => {
                self.up.insert(turn.spare, |out| encode::close_statement(out, b""));
                Reply::CloseUnnamed
            }
        };
        server.queue.push(reply, Fate::Swallow);
        self.unnamed.provided();
    }

    pub(super) fn is_uncertain(&self, name: &[u8], statement: Option<&Statement>) -> bool {
        self.server.as_ref().is_some_and(|it| it.queue.is_uncertain(name, statement))
    }

    pub(super) fn open_batch(&mut self) {
        if let Some(server) = &mut self.server {
            server.batch_open = true;
        }
    }
}

struct NamedParse {
    name: Box<[u8]>,
    /// Bytes of the message up to the end of its name.
    size: usize,
}

struct NamedBind {
    statement: Arc<Statement>,
    /// Bytes of the message up to the end of its names.
    size: usize,
    /// Bytes of the portal's name.
    portal: usize,
}

fn put_header(out: &mut BytesMut, tag: u8, body: usize) {
    out.put_u8(tag);
    out.put_u32(u32::try_from(body + 4).unwrap_or(u32::MAX));
}

/// What a statement leaves behind when executed. Where its text is too long to be read, anything may stay.
fn residue_of(rest: &[u8], reported: impl Fn(&str) -> bool) -> Residue {
    let text = &rest[..memchr::memchr(0, rest).unwrap_or(rest.len())];
    let found = residue::of_statement(text, reported);
    if text.len() > STATEMENT_SCAN_BYTES_MAX { found | residue::of_tag(b"CALL").leaves } else { found }
}

/// The query text of a Parse's body, as far as it is here.
fn text_after_name(body: &[u8]) -> &[u8] {
    let from = memchr::memchr(0, body).map_or(body.len(), |it| it + 1);
    let text = &body[from..];
    &text[..memchr::memchr(0, text).unwrap_or(text.len())]
}

/// Whether a Bind comes before the batch's end, as far as the next messages are here.
fn is_bound_next(mut messages: &[u8]) -> bool {
    for _ in 0..LOOK_AHEAD_MAX {
        match Header::peek(messages) {
            Ok(Some(header)) if header.tag == tag::BIND => return true,
            Ok(Some(header)) if header.tag == tag::DESCRIBE => {
                let Some(rest) = messages.get(header.total()..) else { return false };
                messages = rest;
            }
            _ => return false,
        }
    }
    false
}

fn name_in_use() -> Report {
    Report::fatal(SqlState::DUPLICATE_PREPARED_STATEMENT, "prepared statement name is already in use")
}

fn no_such_name() -> Report {
    Report::fatal(SqlState::INVALID_STATEMENT_NAME, "prepared statement did not exist")
}

fn too_large(what: &str, most: usize) -> Report {
    Report::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, format!("{what} is too large"))
        .detail(format!("The pooler keeps at most {most} bytes of it."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unnamed_parse_is_kept_unless_its_bind_follows() {
        assert!(is_bound_next(b"B\0\0\0\x05x"));
        assert!(is_bound_next(b"D\0\0\0\x06S\0B\0\0\0\x04"));
        assert!(!is_bound_next(b"D\0\0\0\x06S\0S\0\0\0\x04"));
        assert!(!is_bound_next(b"D\0\0\0\x06S"));
        assert!(!is_bound_next(b""));
    }
}
