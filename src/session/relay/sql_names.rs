//! SQL's DEALLOCATE and PREPARE of a name that the client has given through the protocol.
//!
//! The server has that statement under another name. So it is given an empty one under the client's name just before,
//! to be deallocated, or to be in the way, and answers as it would have. Only text that is such a statement and nothing
//! else is understood.

use super::extended::Handled;
use super::{Deallocating, Relay, Turn};
use crate::prepared::Renamed;
use crate::session::owed::{Fate, Reply, Undo};
use crate::session::residue::Residue;
use crate::wire::frame::HEADER;
use crate::wire::frontend::BindHead;
use crate::wire::{Header, encode};

/// What a statement does with the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Deallocate,
    Prepare,
}

/// A statement that is about a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct AboutName {
    verb: Verb,
    name: Box<[u8]>,
}

/// A portal of such a statement.
#[derive(Debug)]
pub(super) struct Bound {
    portal: Box<[u8]>,
    about: AboutName,
}

impl AboutName {
    /// Whether text in which this was `found` may be such a statement.
    fn may_be_in(found: Residue) -> bool {
        found.contains(Residue::DEALLOCATES) || found.contains(Residue::PREPARED)
    }

    /// What a statement is about whose text ends with a zero byte, and in which this was `found`.
    pub(super) fn of_parse(rest: &[u8], found: Residue) -> Option<Self> {
        if Self::may_be_in(found) { Self::of(rest.split(|it| *it == 0).next()?) } else { None }
    }

    fn of(text: &[u8]) -> Option<Self> {
        let (verb, rest) = identifier(text)?;
        let (name, rest) = identifier(rest)?;
        match &*verb {
            b"prepare" => Some(Self { verb: Verb::Prepare, name }),
            b"deallocate" => {
                // DEALLOCATE PREPARE name, unless PREPARE is the name.
                let after = identifier(rest).filter(|_| &*name == b"prepare");
                let (name, rest) = after.unwrap_or((name, rest));
                let ends = matches!(rest.trim_ascii(), b"" | b";");
                ends.then_some(Self { verb: Verb::Deallocate, name })
            }
            _ => None,
        }
    }
}

impl Relay {
    /// What the client's unnamed statement is about.
    pub(super) fn about_of_unnamed(&mut self) -> Option<AboutName> {
        let residue = self.unnamed.residue();
        if AboutName::may_be_in(residue) { AboutName::of_parse(self.unnamed.text()?, residue) } else { None }
    }

    /// Notes what the portal of a Bind is about, whose names are here: it counts when the portal is executed.
    pub(super) fn note_portal(&mut self, header: Header, about: Option<AboutName>) {
        if about.is_none() && self.about_name.is_none() {
            return;
        }
        let undecided = self.up.undecided();
        let body = &undecided[HEADER..header.total().min(undecided.len())];
        let Some(BindHead { portal, .. }) = BindHead::peek(body) else { return };
        if let Some(about) = about {
            self.about_name = Some(Box::new(Bound { portal: portal.into(), about }));
        } else if self.about_name.as_ref().is_some_and(|it| *it.portal == *portal) {
            self.about_name = None;
        }
    }

    /// An Execute, while there is a portal whose execution is about a name, or about all.
    pub(super) fn execute_about_names(&mut self, header: Header, turn: &mut Turn<'_>) -> Handled {
        let body = &self.up.undecided()[HEADER..];
        let Some(body) = body.get(..header.body) else {
            return self.incomplete_names(header, body.len(), turn);
        };
        let portal = body.split(|it| *it == 0).next().unwrap_or_default();
        let about = self.about_name.as_ref().filter(|it| *it.portal == *portal).map(|it| it.about.clone());
        if about.as_ref().is_some_and(|it| self.is_uncertain(&it.name, None)) {
            return Handled::Waits;
        }
        self.open_batch();
        let undo = about.and_then(|it| self.provide_for_sql(it, turn));
        self.send_undoable(header, Reply::Execute, undo, turn);
        if self.deallocating != Deallocating::No {
            self.deallocating = Deallocating::Executed;
            // What comes next may wait for the answer, which the server keeps to itself until a Sync.
            self.up.insert(turn.spare, |out| out.extend_from_slice(encode::FLUSH));
        }
        Handled::Decided
    }

    /// The same for the statement of a Query, in whose text this was `found`.
    pub(super) fn provide_for_query(
        &mut self,
        header: Header,
        found: Residue,
        turn: &mut Turn<'_>,
    ) -> Result<Option<Undo>, Handled> {
        let undecided = self.up.undecided();
        let text = &undecided[HEADER..header.total().min(undecided.len())];
        let about = AboutName::of_parse(text, found).filter(|_| self.rules.tracks_names());
        let Some(about) = about else { return Ok(None) };
        if self.is_uncertain(&about.name, None) {
            return Err(Handled::Waits);
        }
        if self.names.find(&about.name).is_none() {
            return Ok(None);
        }
        let undo = self.provide_for_sql(about, turn);
        if let Some(server) = self.server.as_mut().filter(|it| !it.batch_open) {
            // Whatever becomes of these messages, the query is not skipped.
            self.up.insert(turn.spare, |out| out.extend_from_slice(encode::SYNC));
            server.queue.push(Reply::Sync, Fate::Swallow);
        }
        Ok(undo)
    }

    /// Sees to it that the server finds a statement of the client under the client's own name, if it has one. Returns
    /// what is to be taken back if the statement that wants it fails.
    pub(super) fn provide_for_sql(&mut self, about: AboutName, turn: &mut Turn<'_>) -> Option<Undo> {
        let AboutName { verb, name } = about;
        if !self.rules.tracks_names() || self.names.find(&name).is_none() {
            return None;
        }
        let server = self.server.as_mut()?;
        // Where the server has one of SQL's own PREPARE, that one must go first. Neither message can fail, not even in
        // a failed transaction.
        self.up.insert(turn.spare, |out| {
            encode::close_statement(out, &name);
            encode::parse(out, &name, b"\0\0\0");
        });
        server.queue.push(Reply::Close, Fate::Swallow);
        server.queue.push(Reply::Parse, Fate::Swallow);
        // Unless it is deallocated, the name stays.
        server.lent_name = verb == Verb::Deallocate && !server.residue.contains(Residue::PREPARED);
        server.residue |= Residue::PREPARED;
        if verb == Verb::Prepare {
            return None;
        }
        let before = self.names.replace(&name, None);
        Some(Undo { renamed: Some(Renamed { name, before }), ..Undo::default() })
    }
}

/// The identifier or keyword that the text begins with, as PostgreSQL reads it, and what follows it.
fn identifier(text: &[u8]) -> Option<(Box<[u8]>, &[u8])> {
    let text = text.trim_ascii_start();
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let is_part = |it: &u8| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'$' | 0x80..);
        let length = text.iter().take_while(|it| is_part(it)).count();
        let (word, rest) = text.split_at(length);
        return (length > 0).then(|| (word.to_ascii_lowercase().into(), rest));
    };
    let mut name = Vec::new();
    let mut rest = quoted;
    loop {
        let end = memchr::memchr(b'"', rest)?;
        name.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        // Two of them are one that belongs to the name.
        let Some(more) = rest.strip_prefix(b"\"") else { return Some((name.into(), rest)) };
        name.push(b'"');
        rest = more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found_in_a_lone_statement() {
        let about = |verb, name: &[u8]| Some(AboutName { verb, name: name.into() });
        for (text, expected) in [
            (&b"DEALLOCATE x"[..], about(Verb::Deallocate, b"x")),
            (b"deallocate PREPARE \"X y\";", about(Verb::Deallocate, b"X y")),
            (b" DEALLOCATE  prepare _PG3_0 ; ", about(Verb::Deallocate, b"_pg3_0")),
            (b"DEALLOCATE\"a\"\"b\"", about(Verb::Deallocate, b"a\"b")),
            (b"DEALLOCATE prepare", about(Verb::Deallocate, b"prepare")),
            (b"DEALLOCATE x; SELECT 1", None),
            (b"DEALLOCATE \"x", None),
            (b"DEALLOCATE", None),
            (b"SELECT 1", None),
            (b"PREPARE x AS SELECT 1", about(Verb::Prepare, b"x")),
            (b"prepare X(int) as select $1", about(Verb::Prepare, b"x")),
        ] {
            assert_eq!(AboutName::of(text), expected, "{}", text.escape_ascii());
        }
        assert_eq!(AboutName::of_parse(b"DEALLOCATE x\0\0\0", Residue::NONE), None);
    }
}
