//! The relay: one state machine for a client and the server it has on loan.
//!
//! Events go in as calls: bytes have been received into a pipe, bytes of a pipe have been sent, a server was granted
//! or is gone, the client has left. What is to be done is read off it: which pipe has space or something to send,
//! whether a server is needed, whether one is released and with which verdict, whether the client is to be closed.
//!
//! It never waits and knows neither sockets nor clocks. Both directions are always open: whatever one side does not
//! read stays in its pipe, and only that pipe's sender is held up.
//!
//! Invariant: a byte of a server is put into [`Relay::to_client`] only while that server is on loan to this client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::owed::{Fate, Reply};
use super::params::{Parameters, Values};
use super::pipe::{Pipe, Spare};
use super::residue::STATEMENT_SCAN_BYTES_MAX;
use super::server::{CopyIn, Server};
use super::verdict::{CloseReason, Verdict};
use crate::config::{Compatibility, PoolMode, Settings};
use crate::prepared::{Names, Registry};
use crate::stats::Cell;
use crate::wire::{Report, SqlState, TxStatus, encode};

mod downstream;
mod extended;
mod leaving;
mod portable;
mod rest;
mod sql_names;
mod unnamed;
mod upstream;

use downstream::HEAL_BYTES_MAX;
use leaving::Presence;
pub use portable::Unpacked;

/// The settings that decide what messages mean; they may change from one loan to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// When a server goes back.
    pub mode: PoolMode,
    /// `max_prepared_statements`; 0: names are passed through as they are.
    pub prepared_max: u32,
    /// False for `disable_pqexec`.
    pub simple_queries: bool,
    /// Where PostgreSQL's ways and PgBouncer's differ.
    pub compatibility: Compatibility,
    /// `server_reset_query_always`.
    pub reset_query_always: bool,
}

impl Rules {
    /// What messages mean under these settings, where servers go back in this way.
    pub fn of(settings: &Settings, mode: PoolMode) -> Self {
        Self {
            mode,
            prepared_max: u32::try_from(settings.max_prepared_statements).unwrap_or(u32::MAX),
            simple_queries: !settings.disable_pqexec,
            compatibility: settings.compatibility,
            reset_query_always: settings.server_reset_query_always,
        }
    }

    /// Whether a server is cleaned after each client, and not only after one that has left something behind.
    pub fn clean_always(&self) -> bool {
        self.reset_query_always || self.mode == PoolMode::Session
    }

    /// Whether a client's statement names mean anything here. Without `max_prepared_statements`, in PgBouncer's way,
    /// those it has from before do not.
    fn knows_names(&self) -> bool {
        self.compatibility == Compatibility::Postgres || self.tracks_names()
    }

    /// Whether a client is closed for a statement name that it has not prepared, or prepares again: PgBouncer's way.
    fn closes_for_names(&self) -> bool {
        self.compatibility == Compatibility::PgBouncer && self.tracks_names()
    }

    /// Whether clients' statement names are replaced by shared ones.
    fn tracks_names(&self) -> bool {
        self.mode != PoolMode::Session && self.prepared_max > 0
    }
}

/// What the relay may use while it handles one event.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The time of the event.
    pub now: Instant,
    /// The worker's spare buffers.
    pub spare: &'a mut Spare,
    /// The statements all clients share.
    pub registry: &'a Registry,
    /// The worker's counters for the client's pool.
    pub stats: &'a Cell,
}

/// Why the client's connection is to be closed, once what is ready for it has been sent.
#[derive(Clone, PartialEq, Debug)]
pub enum Closing {
    /// It said Terminate.
    Terminated,
    /// It was told this, if it was still possible.
    Told(Report),
}

/// What a client is doing, for time limits and SHOW.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// Nothing, since then.
    Idle(Instant),
    /// It waits for a server.
    Waiting,
    /// A query runs, since then.
    Querying(Instant),
    /// It is in a transaction, and has done nothing since then.
    IdleInTransaction(Instant),
}

/// What the relay is about, apart from passing messages on.
#[derive(Debug, PartialEq)]
enum Phase {
    /// Nothing else.
    Open,
    /// The server is being brought to the client's settings; holds the server's refusal, if any came.
    Adjusting(Option<Box<Report>>),
    /// A batch failed for want of a fresh statement and will be sent once more after its ReadyForQuery.
    Healing,
    /// A COPY has failed, and the server is to be asked which of the Syncs that went out during it are answered.
    Doubting,
    /// The server has been asked that.
    Asking,
    /// What the client wanted was refused while it waited; its messages up to the next Sync are dropped.
    Refusing,
}

/// Where a DEALLOCATE ALL or DISCARD ALL of the client stands: until it is answered, nobody can tell what the
/// client's names mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Deallocating {
    /// There is none.
    #[default]
    No,
    /// The batch that is being sent may execute one.
    InBatch,
    /// It has perhaps done so, and the server was told to answer by a Flush.
    Executed,
    /// That batch is on its way as a whole.
    Sent,
}

/// Where a RESET or DISCARD ALL of the client stands: it has brought settings to the server's defaults, but the
/// client's defaults are those of its start-up message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Resetting {
    /// None was there, or all is as it should be.
    #[default]
    No,
    /// It is done; the settings it changed are being reported.
    Reported,
    /// The client's defaults are to be set before its next message.
    Due,
}

/// The bytes of a message that are still to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Rest {
    /// A message has at most 2^31.
    bytes: u32,
    pass: bool,
}

impl Rest {
    /// So many bytes of a message are still to be passed on, or dropped.
    fn new(bytes: usize, pass: bool) -> Self {
        Self { bytes: u32::try_from(bytes).unwrap_or(u32::MAX), pass }
    }

    /// Takes as many of them as are here, and returns how many.
    fn take(&mut self, here: usize) -> usize {
        let count = (self.bytes as usize).min(here);
        self.bytes -= count as u32;
        count
    }
}

/// The whole conversation of one client.
#[derive(Debug)]
pub struct Relay {
    rules: Rules,
    /// From the client to the server.
    up: Pipe,
    up_rest: Rest,
    /// From the server to the client.
    down: Pipe,
    down_rest: Rest,
    server: Option<Box<Server>>,
    released: Option<(Box<Server>, Verdict)>,
    parameters: Parameters,
    names: Names,
    unnamed: unnamed::Unnamed,
    /// The portal whose execution is about one of the client's names.
    about_name: Option<Box<sql_names::Bound>>,
    phase: Phase,
    presence: Presence,
    wants_server: bool,
    deallocating: Deallocating,
    /// The batch at the front of `up` was already sent twice.
    healed: bool,
    closing: Option<Box<Closing>>,
    /// What the client gave in its start-up message, of settings that servers report.
    start: Arc<Values>,
    resetting: Resetting,
    /// The fatal error that the server on loan has sent to the client before it goes.
    last_words: Option<Box<Report>>,
    /// When the client last did or got something.
    last_event: Instant,
    query_since: Option<Instant>,
    transaction_since: Option<Instant>,
}

impl Relay {
    /// The relay of a client that has just logged in.
    pub fn new(rules: Rules, parameters: Parameters, now: Instant) -> Self {
        Self {
            rules,
            up: Pipe::default(),
            up_rest: Rest::default(),
            down: Pipe::default(),
            down_rest: Rest::default(),
            server: None,
            released: None,
            parameters,
            names: Names::default(),
            unnamed: unnamed::Unnamed::default(),
            about_name: None,
            phase: Phase::Open,
            presence: Presence::Here,
            wants_server: false,
            deallocating: Deallocating::No,
            healed: false,
            closing: None,
            last_words: None,
            start: Values::none(),
            resetting: Resetting::No,
            last_event: now,
            query_since: None,
            transaction_since: None,
        }
    }

    /// With the settings of the client's start-up message: they are what RESET comes back to.
    #[must_use]
    pub fn with_start(mut self, start: Arc<Values>) -> Self {
        self.start = start;
        self
    }

    /// What messages have meant since the last loan began.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Bytes from the client go in here, and from here to the server.
    pub fn from_client(&mut self) -> &mut Pipe {
        &mut self.up
    }

    /// Bytes from the server go in here, and from here to the client.
    pub fn from_server(&mut self) -> &mut Pipe {
        &mut self.down
    }

    /// What is to be sent to the server.
    pub fn to_server(&self) -> &Pipe {
        &self.up
    }

    /// What is to be sent to the client.
    pub fn to_client(&self) -> &Pipe {
        &self.down
    }

    /// True where a server is to be checked out.
    pub fn wants_server(&self) -> bool {
        self.wants_server && self.server.is_none() && self.closing.is_none()
    }

    /// True while a server is on loan.
    pub fn has_server(&self) -> bool {
        self.server.is_some()
    }

    /// The server that is done with, to be taken back at once.
    pub fn take_released(&mut self) -> Option<(Box<Server>, Verdict)> {
        self.released.take()
    }

    /// Set once the client's connection is to be closed.
    pub fn closing(&self) -> Option<&Closing> {
        self.closing.as_deref()
    }

    /// The client's settings as it knows them.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// How many named statements the client has.
    pub fn prepared(&self) -> usize {
        self.names.len()
    }

    /// True while a cancel request would hit something: the server works, or is in a transaction.
    pub fn is_busy(&self) -> bool {
        self.server.as_ref().is_some_and(|it| !it.is_done())
    }

    /// True while the client is still to get answers of the server on loan. A stream of replication is none: it goes
    /// on until somebody leaves.
    pub fn owes_client(&self) -> bool {
        !self.is_streaming() && self.server.as_ref().is_some_and(|it| it.queue.owes_client())
    }

    /// True while the client and its server both send data: START_REPLICATION.
    pub fn is_streaming(&self) -> bool {
        self.server.as_ref().is_some_and(|it| it.copy_in == CopyIn::Both)
    }

    /// True while the server on loan is being brought to the client's settings.
    pub fn is_adjusting(&self) -> bool {
        matches!(self.phase, Phase::Adjusting(_))
    }

    /// What the client is doing.
    pub fn activity(&self) -> Activity {
        match (&self.server, self.query_since) {
            (None, _) if self.wants_server() => Activity::Waiting,
            (_, Some(since)) => Activity::Querying(since),
            (Some(server), None) if server.status != TxStatus::Idle => {
                Activity::IdleInTransaction(self.last_event)
            }
            _ => Activity::Idle(self.last_event),
        }
    }

    /// Since when the client has waited for an answer.
    pub fn query_since(&self) -> Option<Instant> {
        self.query_since
    }

    /// When the transaction began that the client is in.
    pub fn transaction_since(&self) -> Option<Instant> {
        self.transaction_since
    }

    /// Bytes have been received from the client into [`Self::from_client`].
    pub fn on_client_bytes(&mut self, turn: &mut Turn<'_>) {
        self.last_event = turn.now;
        self.advance(turn);
    }

    /// Bytes have been received from the server into [`Self::from_server`].
    pub fn on_server_bytes(&mut self, turn: &mut Turn<'_>) {
        self.last_event = turn.now;
        self.advance(turn);
    }

    /// Bytes of [`Self::to_server`] have been sent.
    pub fn on_sent_to_server(&mut self, count: usize, turn: &mut Turn<'_>) {
        let was_full = self.up.is_full();
        self.up.sent(count);
        // Of a server that is at work nothing else depends on what has left.
        if was_full || !self.is_busy() || self.closing.is_some() {
            self.advance(turn);
        } else {
            self.up.tidy(turn.spare);
        }
    }

    /// Bytes of [`Self::to_client`] have been sent.
    pub fn on_sent_to_client(&mut self, count: usize, turn: &mut Turn<'_>) {
        let was_full = self.down.is_full();
        self.down.sent(count);
        if was_full {
            self.advance(turn);
        } else {
            self.down.tidy(turn.spare);
        }
    }

    /// The server that was wanted is here.
    pub fn on_granted(&mut self, server: Box<Server>, rules: Rules, turn: &mut Turn<'_>) {
        debug_assert!(self.server.is_none(), "a client has one server at most");
        self.rules = rules;
        self.wants_server = false;
        self.last_event = turn.now;
        self.transaction_since.get_or_insert(turn.now);
        self.server = Some(server);
        self.adjust(turn);
        self.advance(turn);
    }

    /// The server has closed its connection.
    pub fn on_server_gone(&mut self, turn: &mut Turn<'_>) {
        let Some(server) = self.server.take() else { return };
        self.unnamed.leave();
        self.about_name = None;
        let half_given = self.down_rest.bytes > 0 && self.down_rest.pass;
        let harmless = server.is_done() && self.up.ready() == 0 && self.up_rest.bytes == 0 && !half_given;
        self.released = Some((server, Verdict::Close(CloseReason::ServerGone)));
        if let Some(report) = self.last_words.take() {
            // It has said why, and the client has heard it.
            self.up.clear(turn.spare);
            self.closing.get_or_insert_with(|| Box::new(Closing::Told(*report)));
        } else if !harmless || self.rules.mode == PoolMode::Session {
            let report = Report::fatal(SqlState::CONNECTION_FAILURE, "server conn crashed?")
                .detail("PostgreSQL closed the connection that served this client.")
                .hint("Connect again; the server's log tells why it closed.");
            self.close_with(self.worded(report), turn);
        }
        // The next server's bytes do not go on where this one's broke off.
        self.down.discard_undecided();
        self.down_rest = Rest::default();
    }

    /// The client is told this and then closed; a server on loan is closed for `reason`.
    pub fn end(&mut self, report: Report, reason: CloseReason, turn: &mut Turn<'_>) {
        if let Some(server) = self.server.take() {
            self.released = Some((server, Verdict::Close(reason)));
        }
        self.close_with(report, turn);
    }

    /// The client is told this, which changes nothing else. Returns whether it could be told just now: within a message,
    /// or to who has had its last words or only the beginning of a message whose server is gone, nothing can be said.
    pub fn notify(&mut self, notice: &Report, turn: &mut Turn<'_>) -> bool {
        let possible = self.down_rest.bytes == 0 && self.closing.is_none();
        if possible {
            self.down.insert(turn.spare, |out| notice.encode(out));
        }
        possible
    }

    /// What the waiting client wants is refused with this error, and its session goes on.
    pub fn refuse(&mut self, report: &Report, turn: &mut Turn<'_>) {
        if !self.wants_server() {
            return;
        }
        self.wants_server = false;
        self.query_since = None;
        self.transaction_since = None;
        turn.stats.pooler_error();
        self.down.insert(turn.spare, |out| report.encode(out));
        self.phase = Phase::Refusing;
        self.advance(turn);
    }

    /// Decides about everything that has been received, as far as it goes.
    fn advance(&mut self, turn: &mut Turn<'_>) {
        self.read_server(turn);
        self.give_answers(turn);
        self.read_client(turn);
        self.give_answers(turn);
        if matches!(self.phase, Phase::Doubting) {
            self.ask_after_syncs(turn);
        }
        self.finish_leaving(turn);
        self.release_if_done();
        if self.up.since_mark() > HEAL_BYTES_MAX {
            self.up.unmark();
        }
        self.up.tidy(turn.spare);
        self.down.tidy(turn.spare);
    }

    /// Gives the answers that are the pooler's own and whose turn has come.
    #[inline]
    fn give_answers(&mut self, turn: &mut Turn<'_>) {
        // Else it would land in the middle of a message.
        let is_between_messages = self.down_rest.bytes == 0;
        if is_between_messages && self.server.as_ref().is_some_and(|it| it.queue.has_answer()) {
            self.give_answers_due(turn);
        }
    }

    #[inline(never)]
    fn give_answers_due(&mut self, turn: &mut Turn<'_>) {
        if self.last_words.is_some() {
            // The client has heard of the end: nothing comes after it.
            return;
        }
        let Some(server) = &mut self.server else { return };
        while let Some(answer) = server.queue.take_answer() {
            if self.presence == Presence::Here {
                self.down.insert(turn.spare, |out| out.extend_from_slice(answer));
            }
        }
    }

    /// Sends the query that brings the server to the client's settings, where they differ.
    fn adjust(&mut self, turn: &mut Turn<'_>) {
        let Some(server) = &mut self.server else { return };
        if self.parameters.agrees_and_lends(&mut server.parameters) {
            return;
        }
        match self.parameters.query_for(&server.parameters) {
            None => self.parameters.lend(&mut server.parameters),
            Some(query) => {
                tracing::debug!("varcache_apply: {}", self.parameters.difference(&server.parameters));
                turn.stats.parameter_sync();
                self.up.insert(turn.spare, |out| encode::query(out, &query));
                server.queue.push(Reply::Query, Fate::Swallow);
                // A simple query drops the unnamed statement: `exec_simple_query` in src/backend/tcop/postgres.c.
                self.unnamed.leave();
                self.phase = Phase::Adjusting(None);
            }
        }
    }

    /// The server has answered the query of [`Self::adjust`].
    fn adjusted(&mut self, refusal: Option<Report>, turn: &mut Turn<'_>) {
        self.phase = Phase::Open;
        let Some(server) = &mut self.server else { return };
        match refusal {
            None => {
                server.parameters.extra = self.parameters.extra.clone();
                self.parameters.adopt(&server.parameters);
                self.parameters.lend(&mut server.parameters);
            }
            // The query was one transaction: nothing of it has stayed.
            Some(report) => {
                let report = match self.rules.compatibility {
                    Compatibility::Postgres => Report::fatal(report.sqlstate, report.message)
                        .detail("A parameter of the client's start-up message was refused by the server."),
                    Compatibility::PgBouncer => {
                        let text = CloseReason::ParametersRefused.text();
                        Report::fatal(SqlState::PROTOCOL_VIOLATION, text)
                    }
                };
                self.close_with(report, turn);
            }
        }
    }

    /// Takes the server off the client where it may go back.
    fn release_if_done(&mut self) {
        let Some(server) = &self.server else { return };
        let leaves =
            self.rules.mode != PoolMode::Session || self.presence != Presence::Here || self.closing.is_some();
        let drained = self.up.ready() == 0
            && self.up_rest.bytes == 0
            && self.down_rest.bytes == 0
            && self.down.undecided().is_empty()
            // A message too long to be judged by its beginning has been begun.
            && self.up.undecided().len() < STATEMENT_SCAN_BYTES_MAX;
        if leaves && drained && self.phase == Phase::Open && server.is_done() {
            let verdict = server.verdict();
            self.unnamed.leave();
            self.about_name = None;
            self.up.unmark();
            self.released = self.server.take().map(|mut server| {
                // Its next client's statements are seen whole.
                server.tags_decide = false;
                (server, verdict)
            });
        }
    }

    /// Ends the client's connection with this, unless it would land in the middle of a message.
    fn close_with(&mut self, report: Report, turn: &mut Turn<'_>) {
        if self.closing.is_some() {
            return;
        }
        if self.presence == Presence::Here && !(self.down_rest.bytes > 0 && self.down_rest.pass) {
            self.down.insert(turn.spare, |out| report.encode(out));
        }
        turn.stats.pooler_error();
        self.up.clear(turn.spare);
        self.closing = Some(Box::new(Closing::Told(report)));
    }

    /// What the client is told, in the words of its configuration's choice.
    fn worded(&self, report: Report) -> Report {
        match self.rules.compatibility {
            Compatibility::Postgres => report,
            Compatibility::PgBouncer => report.plain_violation(),
        }
    }

    /// The client or the server broke the protocol.
    fn violated(&mut self, report: Report, turn: &mut Turn<'_>) {
        let report = self.worded(report);
        self.end(report, CloseReason::ProtocolViolation, turn);
    }

    /// A ReadyForQuery went to the client: one query is done, and perhaps a transaction.
    fn count_done(&mut self, status: TxStatus, turn: &mut Turn<'_>) {
        let since = |it: Option<Instant>| it.map_or(Duration::ZERO, |it| turn.now.duration_since(it));
        turn.stats.query_done(since(self.query_since.take()));
        if status == TxStatus::Idle {
            turn.stats.transaction_done(since(self.transaction_since.take()));
        }
        let more = self.server.as_ref().is_some_and(|it| !it.queue.is_empty());
        if more {
            self.query_since = Some(turn.now);
            self.transaction_since.get_or_insert(turn.now);
        }
    }

    /// A ParameterStatus of the server.
    fn on_parameter_status(&mut self, name: &str, value: &str) {
        let Some(server) = &mut self.server else { return };
        server.parameters.on_status(name, value, Some(&mut self.parameters));
    }
}

#[cfg(test)]
mod tests;
