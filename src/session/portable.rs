//! A conversation as bytes, for the process that goes on with it.
//!
//! Owns the layout: fields in a fixed order, without names, under one number for the whole ([`LAYOUT`]). It refuses to
//! guess: bytes of another layout, or bytes that are left over, are an error, and whoever reads them leaves the
//! conversation where it is. Statements are named by their numbers and handed over once, beside.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::owed::{Fate, Owed, Queue, Reply, Undo};
use super::params::{Parameters, SharedValues, Values};
use super::residue::Residue;
use super::server::{CopyIn, Server, Serves};
use super::verdict::CloseReason;
use crate::prepared::{Names, Renamed, Shelf, Statement};
use crate::wire::{TxStatus, encode};

/// Which layout these bytes have. To be raised with every change of what is written anywhere below.
pub const LAYOUT: u64 = 3;

/// Bytes that are no conversation of this layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot be understood: {0}")]
pub struct Unreadable(pub &'static str);

/// Writes what [`Unpacker`] reads.
#[derive(Debug, Default)]
pub struct Packer(Vec<u8>);

impl Packer {
    /// All that was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// One byte.
    pub fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// Yes or no.
    pub fn flag(&mut self, flag: bool) {
        self.byte(u8::from(flag));
    }

    /// A number.
    pub fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    /// A count or length.
    pub fn count(&mut self, count: usize) {
        self.number(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Bytes with their length.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// How long ago something was: clocks of two processes need not agree on more.
    pub fn instant(&mut self, now: Instant, then: Instant) {
        let age = now.saturating_duration_since(then).as_micros();
        self.number(u64::try_from(age).unwrap_or(u64::MAX));
    }

    /// Something that may not be there.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// Settings.
    pub fn values(&mut self, values: &Values) {
        self.count(values.iter().count());
        for (name, value) in values.iter() {
            self.bytes(name.as_bytes());
            self.bytes(value.as_bytes());
        }
    }

    /// Both kinds of settings.
    pub fn parameters(&mut self, parameters: &Parameters) {
        self.values(&parameters.reported);
        self.values(&parameters.extra);
    }

    fn statement(&mut self, statement: &Arc<Statement>) {
        self.number(statement.id());
    }

    /// A client's names for statements.
    pub fn names(&mut self, names: &Names) {
        self.count(names.len());
        for (name, statement) in names.iter() {
            self.bytes(name);
            self.statement(statement);
        }
    }

    fn shelf(&mut self, shelf: &Shelf) {
        self.count(shelf.len());
        for (statement, stale) in shelf.by_use() {
            self.statement(statement);
            self.flag(stale);
        }
    }

    /// A set of what may stay behind.
    pub fn residue(&mut self, residue: Residue) {
        self.number(u64::from(residue.bits()));
    }

    fn queue(&mut self, queue: &Queue) {
        self.count(queue.len());
        for Owed { reply, fate, undo } in queue.iter() {
            self.byte(place(&REPLIES, reply));
            match fate {
                Fate::Pass => self.byte(0),
                Fate::Swallow => self.byte(1),
                Fate::Answer(bytes) => {
                    self.byte(2);
                    self.bytes(bytes);
                }
            }
            self.option(undo.as_deref(), Self::undo);
        }
    }

    fn undo(&mut self, undo: &Undo) {
        self.option(undo.renamed.as_ref(), |out, renamed| {
            out.bytes(&renamed.name);
            out.option(renamed.before.as_ref(), Self::statement);
        });
        self.option(undo.parsed.as_ref(), Self::statement);
        self.option(undo.closed.as_ref(), Self::statement);
    }

    /// A server's state.
    pub fn server(&mut self, server: &Server) {
        self.parameters(&server.parameters);
        self.values(&server.defaults);
        self.shelf(&server.shelf);
        self.byte(place(&STATUSES, &server.status));
        self.queue(&server.queue);
        self.byte(place(&COPIES, &server.copy_in));
        for flag in [server.skipping, server.batch_open, server.unsure_sync] {
            self.flag(flag);
        }
        for flag in [server.tags_decide, server.lent_name, server.read_only] {
            self.flag(flag);
        }
        self.residue(server.residue);
        self.residue(server.cleared);
        self.number(u64::from(server.completed));
        self.option(server.condemned.as_ref(), |out, reason| out.byte(place(&REASONS, reason)));
    }
}

const REPLIES: [Reply; 12] = [
    Reply::Parse,
    Reply::ParseUnnamed,
    Reply::Bind,
    Reply::Describe,
    Reply::Execute,
    Reply::Close,
    Reply::CloseUnnamed,
    Reply::Query,
    Reply::Sync,
    Reply::FunctionCall,
    Reply::CopyEnd,
    Reply::EarlySync,
];

const STATUSES: [TxStatus; 3] = [TxStatus::Idle, TxStatus::InTransaction, TxStatus::Failed];

const COPIES: [CopyIn; 3] = [CopyIn::No, CopyIn::Receiving, CopyIn::Ended];

const REASONS: [CloseReason; 10] = [
    CloseReason::OwnerLeft,
    CloseReason::ServerGone,
    CloseReason::ProtocolViolation,
    CloseReason::ClientLeft,
    CloseReason::ClientSentAway,
    CloseReason::Uncertain,
    CloseReason::ParametersRefused,
    CloseReason::TransactionBlock,
    CloseReason::Timeout,
    CloseReason::Obsolete,
];

/// The answers that the pooler itself gives in a server's place.
const ANSWERS: [&[u8]; 2] = [encode::PARSE_COMPLETE, encode::CLOSE_COMPLETE];

/// A value's place in its table; beyond its end where it has none, which is then found unreadable.
pub fn place<T: PartialEq>(table: &[T], value: &T) -> u8 {
    let place = table.iter().position(|it| it == value).unwrap_or(table.len());
    u8::try_from(place).unwrap_or(u8::MAX)
}

/// What the conversations of a process have in common.
#[derive(Debug, Default)]
pub struct Common {
    /// Statements by their numbers.
    pub statements: HashMap<u64, Arc<Statement>>,
    values: SharedValues,
}

impl Common {
    /// The set itself, or an equal one that others hold already: equality is found by address then.
    pub fn share(&mut self, values: Values) -> Arc<Values> {
        self.values.share(Arc::new(values))
    }
}

/// Reads what [`Packer`] has written.
#[derive(Debug)]
pub struct Unpacker<'a> {
    rest: &'a [u8],
    common: &'a mut Common,
    now: Instant,
}

impl<'a> Unpacker<'a> {
    /// Of these bytes.
    pub fn new(bytes: &'a [u8], common: &'a mut Common, now: Instant) -> Self {
        Self { rest: bytes, common, now }
    }

    /// All has been read.
    ///
    /// Errors: something is left.
    pub fn finish(self) -> Result<(), Unreadable> {
        if self.rest.is_empty() { Ok(()) } else { Err(Unreadable("too long")) }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Unreadable("too short"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, Unreadable> {
        Ok(self.take(1)?[0])
    }

    /// Yes or no.
    pub fn flag(&mut self) -> Result<bool, Unreadable> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Unreadable("a flag")),
        }
    }

    /// A number.
    pub fn number(&mut self) -> Result<u64, Unreadable> {
        let bytes = self.take(8)?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A count or length, of things that each take a byte at least.
    pub fn count(&mut self) -> Result<usize, Unreadable> {
        let count = usize::try_from(self.number()?).map_err(|_| Unreadable("a count"))?;
        if count > self.rest.len() { Err(Unreadable("a count")) } else { Ok(count) }
    }

    /// Bytes with their length.
    pub fn bytes(&mut self) -> Result<&'a [u8], Unreadable> {
        let count = self.count()?;
        self.take(count)
    }

    /// The same as text.
    pub fn text(&mut self) -> Result<&'a str, Unreadable> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Unreadable("a text"))
    }

    /// When something was.
    pub fn instant(&mut self) -> Result<Instant, Unreadable> {
        let age = Duration::from_micros(self.number()?);
        Ok(self.now.checked_sub(age).unwrap_or(self.now))
    }

    /// Something that may not be there.
    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<Option<T>, Unreadable> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    /// One of a table.
    pub fn one_of<T: Copy>(&mut self, table: &[T]) -> Result<T, Unreadable> {
        table.get(usize::from(self.byte()?)).copied().ok_or(Unreadable("a choice"))
    }

    /// Settings.
    pub fn values(&mut self) -> Result<Values, Unreadable> {
        let mut values = Values::default();
        for _ in 0..self.count()? {
            values.set(self.text()?, self.text()?);
        }
        Ok(values)
    }

    /// Settings, shared with whoever holds equal ones.
    pub fn shared_values(&mut self) -> Result<Arc<Values>, Unreadable> {
        let values = self.values()?;
        Ok(self.common.share(values))
    }

    /// Both kinds of settings.
    pub fn parameters(&mut self) -> Result<Parameters, Unreadable> {
        Ok(Parameters { reported: self.shared_values()?, extra: self.shared_values()? })
    }

    fn statement(&mut self) -> Result<Arc<Statement>, Unreadable> {
        let id = self.number()?;
        self.common.statements.get(&id).cloned().ok_or(Unreadable("an unknown statement"))
    }

    /// A client's names for statements.
    pub fn names(&mut self) -> Result<Names, Unreadable> {
        let mut names = Names::default();
        for _ in 0..self.count()? {
            let name = self.bytes()?;
            names.replace(name, Some(self.statement()?));
        }
        Ok(names)
    }

    fn shelf(&mut self) -> Result<Shelf, Unreadable> {
        let mut shelf = Shelf::default();
        for _ in 0..self.count()? {
            let statement = self.statement()?;
            match self.flag()? {
                false => shelf.put(statement),
                true => shelf.put_stale(statement),
            }
        }
        Ok(shelf)
    }

    /// A set of what may stay behind.
    pub fn residue(&mut self) -> Result<Residue, Unreadable> {
        let bits = u16::try_from(self.number()?).map_err(|_| Unreadable("a residue"))?;
        Ok(Residue::of_bits(bits))
    }

    fn queue(&mut self) -> Result<Queue, Unreadable> {
        let mut queue = Queue::default();
        for _ in 0..self.count()? {
            let reply = self.one_of(&REPLIES)?;
            let fate = match self.byte()? {
                0 => Fate::Pass,
                1 => Fate::Swallow,
                2 => {
                    let bytes = self.bytes()?;
                    let known = ANSWERS.iter().find(|it| **it == bytes);
                    Fate::Answer(known.ok_or(Unreadable("an answer"))?)
                }
                _ => return Err(Unreadable("a fate")),
            };
            match self.option(Self::undo)? {
                None => queue.push(reply, fate),
                Some(undo) => queue.push_undoable(reply, fate, undo),
            }
        }
        Ok(queue)
    }

    fn undo(&mut self) -> Result<Undo, Unreadable> {
        let renamed = self.option(|it| {
            let name = it.bytes()?.into();
            Ok(Renamed { name, before: it.option(Self::statement)? })
        })?;
        Ok(Undo { renamed, parsed: self.option(Self::statement)?, closed: self.option(Self::statement)? })
    }

    /// A server's state.
    pub fn server(&mut self) -> Result<Server, Unreadable> {
        Ok(Server {
            parameters: self.parameters()?,
            defaults: self.shared_values()?,
            shelf: self.shelf()?,
            status: self.one_of(&STATUSES)?,
            queue: self.queue()?,
            copy_in: self.one_of(&COPIES)?,
            skipping: self.flag()?,
            batch_open: self.flag()?,
            unsure_sync: self.flag()?,
            tags_decide: self.flag()?,
            lent_name: self.flag()?,
            read_only: self.flag()?,
            // One that is for a single client is not handed over.
            serves: Serves::Everybody,
            residue: self.residue()?,
            cleared: self.residue()?,
            completed: u32::try_from(self.number()?).map_err(|_| Unreadable("a number"))?,
            condemned: self.option(|it| it.one_of(&REASONS))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::config::{PoolMode, Settings};
    use crate::prepared::Registry;
    use crate::session::relay::{Relay, Rules};

    /// A server in the middle of everything.
    fn busy_server(registry: &Registry) -> Server {
        let statement = |text: &[u8]| registry.intern(text, Residue::default);
        let mut server = Server::new(Arc::new([("TimeZone", "UTC"), ("x", "")].into_iter().collect()));
        server.shelf.put(statement(b"SELECT 1\0\0\0"));
        server.shelf.put_stale(statement(b"SELECT 2\0\0\0"));
        server.status = TxStatus::Failed;
        server.copy_in = CopyIn::Ended;
        server.queue.push(Reply::Query, Fate::Pass);
        let undo = Undo {
            renamed: Some(Renamed { name: (*b"a").into(), before: None }),
            parsed: Some(statement(b"SELECT 3\0\0\0")),
            closed: None,
        };
        server.queue.push_undoable(Reply::Parse, Fate::Answer(encode::PARSE_COMPLETE), undo);
        server.queue.push(Reply::Sync, Fate::Swallow);
        (server.batch_open, server.tags_decide) = (true, true);
        (server.residue, server.completed) = (Residue::ROLE, 7);
        server.condemned = Some(CloseReason::Obsolete);
        server
    }

    fn common(registry: &Registry) -> Common {
        let statements = registry.all().into_iter().map(|it| (it.id(), it)).collect();
        Common { statements, ..Common::default() }
    }

    fn packed(server: &Server) -> Vec<u8> {
        let mut out = Packer::default();
        out.server(server);
        out.finish()
    }

    #[test]
    fn a_server_comes_out_as_it_went_in() {
        let registry = Registry::default();
        let server = busy_server(&registry);
        let bytes = packed(&server);
        let mut common = common(&registry);
        let mut unpacker = Unpacker::new(&bytes, &mut common, Instant::now());
        let again = unpacker.server().expect("it is readable");
        unpacker.finish().expect("nothing is left");
        assert_eq!(packed(&again), bytes);
        assert_eq!(format!("{:?}", again.queue), format!("{:?}", server.queue));
        assert!(Server::new(Arc::default()).proof().is_some() && again.proof().is_none());
    }

    #[test]
    fn no_bytes_make_the_reader_panic_and_none_too_few_are_taken() {
        let registry = Registry::default();
        let bytes = packed(&busy_server(&registry));
        for length in 0..bytes.len() {
            let mut common = common(&registry);
            let read = Unpacker::new(&bytes[..length], &mut common, Instant::now()).server();
            assert!(read.is_err(), "{length} of {}", bytes.len());
        }
        for index in 0..bytes.len() {
            for change in [1, 0x80, 0xff] {
                let mut broken = bytes.clone();
                broken[index] ^= change;
                let _ = Unpacker::new(&broken, &mut common(&registry), Instant::now()).server();
            }
        }
    }

    #[test]
    fn statements_that_were_not_handed_over_are_not_guessed() {
        let bytes = packed(&busy_server(&Registry::default()));
        let mut nothing = Common::default();
        let read = Unpacker::new(&bytes, &mut nothing, Instant::now()).server();
        assert_eq!(read.unwrap_err(), Unreadable("an unknown statement"));
    }

    #[test]
    fn what_is_written_changes_only_with_the_number_of_the_layout() {
        let (mut out, now) = (Packer::default(), Instant::now());
        out.server(&busy_server(&Registry::default()));
        let rules = Rules::of(&Settings::default(), PoolMode::Transaction);
        let settings: Arc<Values> = Arc::new([("TimeZone", "UTC")].into_iter().collect());
        let parameters = Parameters { reported: Arc::clone(&settings), extra: Values::none() };
        assert!(Relay::new(rules, parameters, now).with_start(settings).pack(now, &mut out));
        let digest = Sha256::digest(out.finish());
        let begin = u64::from_be_bytes(*digest.first_chunk().expect("it has 32 bytes"));
        assert_eq!((LAYOUT, begin), (3, 0xd6fe_4121_6938_a787), "another layout needs another number");
    }

    #[test]
    fn equal_sets_are_shared() {
        let mut common = Common::default();
        let set = || -> Values { [("a", "1")].into_iter().collect() };
        assert!(Arc::ptr_eq(&common.share(set()), &common.share(set())));
        assert!(!Arc::ptr_eq(&common.share(set()), &common.share(Values::default())));
    }
}
