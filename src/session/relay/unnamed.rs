//! The client's unnamed statement, which lives on a server only until another client comes, or a simple query.
//!
//! What it is changes with every message about it, and an error makes the server skip messages: so all that it may turn
//! out to be is kept until the server has answered.

use std::collections::VecDeque;

use crate::session::owed::Fate;
use crate::session::portable::{Packer, Unpacker, Unreadable};
use crate::session::residue::Residue;

/// Texts that are kept at once; beyond it, of the newest statement only.
const TEXTS_BYTES_MAX: usize = 128 * 1024;
/// What keeps its room between two loans.
const IDLE_BYTES_MAX: usize = 1024;
const IDLE_VERSIONS_MAX: usize = 16;

/// One statement that it may be, or none.
#[derive(Clone, Copy, Debug, Default)]
struct Version {
    /// Length of its Parse from the text on; 0: there is none, or it is not kept.
    bytes: usize,
    /// What it leaves behind when executed.
    residue: Residue,
}

/// The client's unnamed statement.
#[derive(Debug, Default)]
pub(super) struct Unnamed {
    /// The server on loan has it, once it has read what was sent.
    here: bool,
    /// The server on loan has what it is by the server's answers.
    was_here: bool,
    /// Messages on their way that merely leave the client without one while it has none. They come before those of
    /// `history`.
    idle_changes: u32,
    history: Option<Box<History>>,
}

/// What it may turn out to be. No versions: there is none, and no message about it is on its way but the idle ones.
#[derive(Debug, Default)]
struct History {
    /// What it is by the server's answers, then what every message makes of it that is not answered yet.
    versions: VecDeque<Version>,
    /// Their texts, one behind the other.
    texts: VecDeque<u8>,
}

impl Unnamed {
    /// True where the server on loan has it, once it has read what was sent.
    pub(super) fn is_here(&self) -> bool {
        self.here
    }

    fn newest(&self) -> Version {
        self.history.as_ref().and_then(|it| it.versions.back()).copied().unwrap_or_default()
    }

    /// What it leaves behind when executed.
    pub(super) fn residue(&self) -> Residue {
        self.newest().residue
    }

    /// Its Parse from the text on, for a server that does not have it; `None`: there is none.
    pub(super) fn text(&mut self) -> Option<&[u8]> {
        let bytes = self.newest().bytes;
        let texts = &mut self.history.as_mut()?.texts;
        let begin = texts.len() - bytes;
        (bytes > 0).then(|| &texts.make_contiguous()[begin..])
    }

    /// A message of the client is on its way that makes it this one.
    pub(super) fn change(&mut self, text: Option<&[u8]>, residue: Residue) {
        self.history.get_or_insert_default().push(text.unwrap_or_default(), residue);
        self.here = true;
    }

    /// A message of the client is on its way after which there is none.
    #[inline]
    pub(super) fn drop_it(&mut self) {
        match &mut self.history {
            Some(history) if !history.versions.is_empty() => history.push(b"", Residue::NONE),
            _ => self.idle_changes += 1,
        }
        self.here = true;
    }

    /// A message of the pooler's own is on its way that gives the server what the client has.
    pub(super) fn provided(&mut self) {
        self.here = true;
    }

    /// The server has read such a message.
    #[inline]
    pub(super) fn on_done(&mut self, fate: Fate) {
        self.was_here = true;
        if fate == Fate::Swallow {
            return;
        }
        match &mut self.history {
            _ if self.idle_changes > 0 => self.idle_changes -= 1,
            Some(history) => history.advance(),
            None => {}
        }
    }

    /// The server skips the next `skipped` changes of the client.
    /// `failed`: the message that failed is a Parse of the unnamed statement, of the client or of the pooler.
    /// `is_changed_later`: one that is not skipped is on its way.
    pub(super) fn on_error(&mut self, failed: Option<Fate>, skipped: usize, is_changed_later: bool) {
        let idle = self.idle_changes.min(u32::try_from(skipped).unwrap_or(u32::MAX));
        self.idle_changes -= idle;
        if let Some(history) = &mut self.history {
            if failed == Some(Fate::Pass) {
                history.drop_first();
            }
            history.skip(skipped - idle as usize);
        }
        // A Parse drops what there was before it looks at the text: `exec_parse_message` in
        // src/backend/tcop/postgres.c.
        self.was_here &= failed.is_none();
        self.here = is_changed_later || self.was_here;
    }

    /// The server on loan has it no longer, or is given back.
    pub(super) fn leave(&mut self) {
        (self.here, self.was_here) = (false, false);
        if let Some(history) = &mut self.history {
            history.shrink();
        }
    }

    /// For the next process.
    pub(super) fn pack(&self, out: &mut Packer) {
        out.flag(self.here);
        out.flag(self.was_here);
        out.number(u64::from(self.idle_changes));
        out.option(self.history.as_ref(), |out, history| {
            out.count(history.versions.len());
            for version in &history.versions {
                out.residue(version.residue);
                out.number(version.bytes as u64);
            }
            out.bytes(&history.texts.iter().copied().collect::<Vec<u8>>());
        });
    }

    /// What [`Self::pack`] has written.
    ///
    /// Errors: the bytes are none of this layout.
    pub(super) fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
        const UNREADABLE: Unreadable = Unreadable("an unnamed statement");
        let (here, was_here) = (from.flag()?, from.flag()?);
        let idle_changes = u32::try_from(from.number()?).map_err(|_| UNREADABLE)?;
        let history = from.option(|from| {
            let mut history = History::default();
            for _ in 0..from.count()? {
                let (residue, bytes) = (from.residue()?, from.count()?);
                history.versions.push_back(Version { bytes, residue });
            }
            history.texts.extend(from.bytes()?);
            let bytes = history.versions.iter().fold(0_usize, |sum, it| sum.saturating_add(it.bytes));
            if bytes == history.texts.len() { Ok(Box::new(history)) } else { Err(UNREADABLE) }
        })?;
        Ok(Self { here, was_here, idle_changes, history })
    }
}

impl History {
    fn push(&mut self, text: &[u8], residue: Residue) {
        if self.versions.is_empty() {
            self.versions.push_back(Version::default());
        }
        if self.texts.len() + text.len() > TEXTS_BYTES_MAX {
            self.texts.clear();
            self.versions.iter_mut().for_each(|it| it.bytes = 0);
        }
        self.texts.extend(text);
        self.versions.push_back(Version { bytes: text.len(), residue });
    }

    /// The first message has been answered.
    fn advance(&mut self) {
        if self.versions.len() > 1 {
            self.drop_first();
            self.versions.pop_front();
            self.tidy();
        }
    }

    /// There is none by the server's answers.
    fn drop_first(&mut self) {
        if let Some(first) = self.versions.front_mut() {
            let gone = std::mem::take(first).bytes;
            self.texts.drain(..gone);
        }
    }

    /// The first `count` messages are skipped.
    fn skip(&mut self, count: usize) {
        if count > 0 && count < self.versions.len() {
            let begin = self.versions[0].bytes;
            let gone: usize = self.versions.drain(1..=count).map(|it| it.bytes).sum();
            self.texts.drain(begin..begin + gone);
        }
        self.tidy();
    }

    /// None is as good as no history.
    fn tidy(&mut self) {
        let is_none = |it: &Version| it.bytes == 0 && it.residue.is_empty();
        if self.versions.len() == 1 && self.versions.iter().all(is_none) {
            self.versions.clear();
        }
    }

    /// Gives back what takes much more room than is needed between two loans.
    fn shrink(&mut self) {
        if self.texts.capacity() > IDLE_BYTES_MAX && self.texts.len() < self.texts.capacity() / 4 {
            self.texts.shrink_to_fit();
        }
        if self.versions.capacity() > IDLE_VERSIONS_MAX {
            self.versions.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept of each message is found again, however many came before and whichever are skipped.
    #[test]
    fn the_text_is_that_of_the_last_message_that_was_not_skipped() {
        let mut unnamed = Unnamed::default();
        for round in 0..40_usize {
            let texts: Vec<_> = (0..round % 6).map(|it| format!("{round}.{it}")).collect();
            unnamed.drop_it();
            texts.iter().for_each(|it| unnamed.change(Some(it.as_bytes()), Residue::NONE));
            let done = round % 4;
            (0..=done.min(texts.len())).for_each(|_| unnamed.on_done(Fate::Pass));
            unnamed.on_error(None, texts.len().saturating_sub(done), false);
            let left = done.min(texts.len()).checked_sub(1).map(|it| texts[it].as_bytes());
            assert_eq!(unnamed.text(), left, "round {round}");
        }
    }

    /// Wherever in its ring a version lies that is none, those behind it stay.
    #[test]
    fn a_statement_behind_a_query_is_kept_in_every_place_of_the_ring() {
        let mut unnamed = Unnamed::default();
        unnamed.change(Some(b"first"), Residue::NONE);
        unnamed.on_done(Fate::Pass);
        for round in 0..40_usize {
            (0..=round % 3).for_each(|_| unnamed.drop_it());
            unnamed.change(Some(b"again"), Residue::NONE);
            (0..=round % 3).for_each(|_| unnamed.on_done(Fate::Pass));
            assert_eq!(unnamed.text(), Some(&b"again"[..]), "round {round}");
            unnamed.on_done(Fate::Pass);
        }
    }
}
