//! The driver of one client's relay: it moves bytes between sockets and pipes and does what the relay asks.
//!
//! One task drives both sockets of a conversation, so that nothing stands between a query and its answer but two
//! reads and two writes. It waits in one place, `Driver::poll`, on everything at once; whatever is ready is taken in
//! turn, and neither side can hold up the other. All that a message means is the relay's business.
//!
//! Invariant: a lease leaves the driver only with the relay's verdict on its server, or by being closed.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use self::bulk::Bulk;
use self::transfer::{Flush, receive, send, skip};
use super::alarm::Alarm;
use super::cleaning::{self, Extent};
use super::patience;
use super::staffing::Place;
use super::worker::Worker;
use crate::config::{ClientSettings, Compatibility, PoolMode};
use crate::net::Stream;
use crate::pool::{Answer, Busy, Call, Claim, Lease, Participant, PoolClient, Refusal};
use crate::server::ServerConn;
use crate::session::params::Values;
use crate::session::relay::{Closing, Relay, Rules, Turn};
use crate::session::verdict::{CloseReason, Verdict};
use crate::stats::{Disconnect, Replication, client_event};
use crate::wire::Report;

mod bulk;
mod leaving;
mod moving;
mod showing;
mod transfer;

pub use moving::Departed;

/// Why a conversation ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Ended {
    /// The client said Terminate.
    Terminated,
    /// The client's connection broke or was closed without a word.
    Vanished,
    /// The client was told this and sent away.
    SentAway(Report),
}

/// How a conversation leaves its task.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It has ended, and the server on loan, if any, is at rest.
    Ended(Ended),
    /// It belongs on another worker: [`Driver::depart`].
    Moves,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terminated => f.write_str("client close request"),
            Self::Vanished => f.write_str("client unexpected eof"),
            Self::SentAway(report) => f.write_str(&report.message),
        }
    }
}

/// What SUSPEND allows a conversation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// There is none.
    Free,
    /// To end what is half done, and to begin nothing.
    Measured,
    /// Nothing.
    Still,
}

impl Pace {
    /// How many bytes may be read where `lacking` complete what has begun; `None`: nothing is to be read.
    fn most(self, lacking: impl FnOnce() -> usize) -> Option<usize> {
        match self {
            Self::Free => Some(usize::MAX),
            Self::Measured | Self::Still => Some(lacking()).filter(|it| *it > 0),
        }
    }
}

/// One conversation.
pub struct Driver {
    worker: Rc<Worker>,
    /// Its membership, as long as it lasts.
    pool: PoolClient,
    /// `None` once the client is gone.
    client: Option<Stream>,
    claim: Claim<ServerConn>,
    participant: Participant,
    lease: Option<Lease<Busy>>,
    relay: Relay,
    place: Place,
    /// How many workers were at work when this one was found to be its home.
    at_work: u32,
    limits: Rc<ClientSettings>,
    compatibility: Compatibility,
    alarm: Alarm,
    client_flush: Flush,
    server_flush: Flush,
    bulk: Bulk,
    waiting_since: Option<Instant>,
    noticed: bool,
    /// When to give up on a client that is being sent away, or on the server of one that is gone.
    give_up: Option<Instant>,
    ended: Option<Box<Ended>>,
    shown: Shown,
    /// Left with the roster: with the same one there is nothing more to leave.
    waker: Option<Waker>,
}

/// The sides that have nothing more to be read in this turn: their news will wake the task.
#[derive(Default)]
struct Drained {
    client: bool,
    server: bool,
}

/// What the roster says of the client.
struct Shown {
    query_since: Option<Instant>,
    prepared: usize,
    reported: Arc<Values>,
}

/// What a driver is made of.
pub struct Parts {
    /// The client's connection.
    pub client: Stream,
    /// What the client sent before the conversation began.
    pub input: bytes::BytesMut,
    /// Its place in the order of arrival, which decides its worker.
    pub place: Place,
    /// Its handle on the pools.
    pub claim: Claim<ServerConn>,
    /// Its part in SUSPEND.
    pub participant: Participant,
    /// Its membership in its pool.
    pub pool: PoolClient,
    /// The server that it has already, of which the relay knows.
    pub lease: Option<Lease<Busy>>,
    /// Its relay.
    pub relay: Relay,
}

impl Driver {
    /// A conversation that is about to begin.
    pub fn new(worker: Rc<Worker>, parts: Parts) -> Self {
        let Parts { mut client, input, place, claim, participant, pool, mut lease, mut relay } = parts;
        let config = worker.config.load();
        let (limits, replication) = match claim.caller().entry().login() {
            Some(login) => (config.client_settings(&login.pool.database, &login.user), login.replication),
            None => (config.client_settings(&pool.key().database, &pool.key().user), Replication::None),
        };
        let limits = match replication {
            Replication::None => limits,
            Replication::Logical | Replication::Physical => patience::of_replication(limits),
        };
        let limits = worker.shared.borrow_mut().limits(limits);
        let compatibility = config.settings.compatibility;
        drop(config);
        let shown =
            Shown { query_since: None, prepared: 0, reported: Arc::clone(&relay.parameters().reported) };
        // What has been said so far goes in at once, as a whole.
        relay.from_client().need(input.len());
        relay.from_client().fill_from(&input, &mut worker.spare.borrow_mut());
        client.begin_conversation();
        if let Some(lease) = &mut lease {
            lease.stream.begin_conversation();
        }
        Self {
            worker,
            pool,
            client: Some(client),
            claim,
            participant,
            lease,
            relay,
            place,
            at_work: 0,
            limits,
            compatibility,
            alarm: Alarm::default(),
            client_flush: Flush::Done,
            server_flush: Flush::Done,
            bulk: Bulk::default(),
            waiting_since: None,
            noticed: false,
            give_up: None,
            ended: None,
            shown,
            waker: None,
        }
    }

    /// The same with a server that the client has already.
    #[must_use]
    pub fn with_server(mut self, lease: Lease<Busy>) -> Self {
        self.take_over(lease);
        self
    }

    fn replication(&self) -> Replication {
        self.claim.caller().entry().login().map_or(Replication::None, |login| login.replication)
    }

    /// When the client's servers go back: the pool's way, but a replication client keeps the one that is its own.
    fn mode(&self) -> PoolMode {
        match self.replication() {
            Replication::None => self.pool.mode(),
            Replication::Logical | Replication::Physical => PoolMode::Session,
        }
    }

    /// Drives the conversation to its end, and the server on loan, if any, to rest; or to where it moves. To be called
    /// once. Not cancel safe: dropping the driver closes both connections.
    pub async fn run(&mut self) -> Outcome {
        self.worker.now.set(Instant::now());
        self.event(|relay, turn| relay.on_client_bytes(turn));
        let outcome = poll_fn(|cx| self.poll(cx)).await;
        let spare = &mut *self.worker.spare.borrow_mut();
        if outcome != Outcome::Moves {
            self.relay.from_client().clear(spare);
            self.relay.from_server().clear(spare);
        }
        outcome
    }

    /// The one place where a conversation waits.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut drained = Drained::default();
        for round in 0.. {
            if round != 1 {
                // The second round seldom does more than hear that nothing else is there.
                self.worker.now.set(Instant::now());
            }
            let now = self.worker.now.get();
            let mut progress = self.take_orders(cx);
            let pace = self.pace(cx);
            self.show_who_asks(pace);
            if pace == Pace::Still {
                return Poll::Pending;
            }
            let flushes = (self.client_flush, self.server_flush);
            progress |= !drained.client && self.read_client(cx, pace, &mut drained);
            if self.ask_for_server(cx, now) {
                drained.server = false;
                progress = true;
            }
            progress |= self.write_server(cx);
            progress |= !drained.server && self.read_server(cx, pace, &mut drained);
            progress |= self.write_client(cx);
            // Nobody wakes a conversation that has just flushed the last of what kept it from rest.
            progress |= pace != Pace::Free && flushes != (self.client_flush, self.server_flush);
            progress = progress || (pace == Pace::Free && self.mind_limits(cx));
            progress |= self.has_paused(cx);
            let before = (self.client.is_some(), self.give_up);
            if self.is_over(cx) {
                return Poll::Ready(Outcome::Ended(self.ended.take().map_or(Ended::Vanished, |it| *it)));
            }
            // A parting has its own last words to the server, and its own limit.
            progress |= before != (self.client.is_some(), self.give_up);
            if !progress {
                break;
            }
        }
        if self.is_to_move(cx) { Poll::Ready(Outcome::Moves) } else { Poll::Pending }
    }

    /// Lets the relay handle an event, then does what it asks.
    fn event<T>(&mut self, event: impl FnOnce(&mut Relay, &mut Turn<'_>) -> T) -> T {
        let worker = Rc::clone(&self.worker);
        let mut turn = Turn {
            now: worker.now.get(),
            spare: &mut worker.spare.borrow_mut(),
            registry: &worker.registry,
            stats: self.pool.stats().cell(worker.id),
        };
        let result = event(&mut self.relay, &mut turn);
        let now = turn.now;
        if let Some(lease) = &self.lease {
            // Until the server is as the client wants it, nothing of the client's runs there.
            if self.relay.is_adjusting() { lease.shield() } else { lease.unshield() }
        }
        self.show(now);
        self.set_thresholds();
        if let Some((session, verdict)) = self.relay.take_released() {
            self.take_leave(session, verdict, now);
        }
        if self.ended.is_none() {
            match self.relay.closing() {
                None => {}
                Some(Closing::Terminated) => self.end(Ended::Terminated),
                Some(Closing::Told(report)) => self.end(Ended::SentAway(report.clone())),
            }
        }
        result
    }

    /// Shows when the server was last asked something.
    fn show_request(&self, now: Instant) {
        if let Some(entry) = self.lease.as_ref().and_then(|lease| lease.entry()) {
            entry.request_sent(self.worker.roster.micros(now));
        }
    }

    /// Brings the roster up to date where something has changed.
    fn show(&mut self, now: Instant) {
        let entry = self.claim.caller().entry();
        let since = self.relay.query_since();
        if self.shown.query_since != since {
            self.shown.query_since = since;
            match since {
                Some(_) => {
                    entry.request_started(self.worker.roster.micros(now));
                    self.show_request(now);
                }
                None => entry.requests_done(),
            }
        }
        if self.shown.prepared != self.relay.prepared() {
            self.shown.prepared = self.relay.prepared();
            entry.set_prepared(self.shown.prepared);
        }
        let reported = &self.relay.parameters().reported;
        if !Arc::ptr_eq(&self.shown.reported, reported) {
            self.shown.reported = Arc::clone(reported);
            let name = reported.text("application_name");
            if entry.application_name() != name {
                entry.set_application_name(name);
            }
            self.name_server();
        }
    }

    /// The server on loan has the client's application_name.
    fn name_server(&self) {
        let name = self.shown.reported.text("application_name");
        if let Some(entry) = self.lease.as_ref().and_then(|lease| lease.entry())
            && entry.application_name() != name
        {
            entry.set_application_name(name);
        }
    }

    /// The conversation ends for this reason, unless it had another before. The log has it before the client hears it.
    fn end(&mut self, ended: Ended) {
        if self.ended.is_some() {
            return;
        }
        let config = self.worker.config.load();
        let entry = self.claim.caller().entry();
        if config.settings.log_pooler_errors && matches!(ended, Ended::SentAway(_)) {
            client_event!(warn, entry, "pooler error: {ended}");
        }
        if config.settings.log_disconnections {
            let age = self.worker.roster.micros(Instant::now()).saturating_sub(entry.connected_us());
            client_event!(info, entry, "closing because: {ended} (age={}s)", age / 1_000_000);
        }
        drop(config);
        self.ended = Some(Box::new(ended));
    }

    /// Gives a server back as the relay's verdict says.
    fn take_leave(&mut self, session: Box<crate::session::server::Server>, verdict: Verdict, now: Instant) {
        self.expect_nothing();
        let Some(mut lease) = self.lease.take() else { return };
        if session.refused_write() {
            lease.pool().demoted(now);
        }
        lease.session = Some(session);
        self.server_flush = Flush::Done;
        let extent = match self.relay.rules().clean_always() {
            true => Extent::ByResetQuery,
            false => Extent::LeftBehind,
        };
        match verdict {
            Verdict::Reuse(done) if extent == Extent::LeftBehind => lease.done(done).give_back(now),
            Verdict::Reuse(done) | Verdict::Clean(done, _) => {
                cleaning::start(&self.worker, lease.reset(done), extent)
            }
            Verdict::Close(reason @ CloseReason::ServerGone) => lease.lost(reason.text(), now),
            Verdict::Close(reason) => lease.close(reason.text()),
        }
    }

    /// An order to go, from the console or because the process ends.
    fn take_orders(&mut self, cx: &mut Context<'_>) -> bool {
        if self.give_up.is_some() {
            return false;
        }
        let entry = self.claim.caller().entry();
        let ordered = if self.waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
            entry.disconnect_ordered()
        } else {
            self.waker = Some(cx.waker().clone());
            match entry.poll_disconnect(cx.waker()) {
                Poll::Pending => None,
                Poll::Ready(reason) => Some(reason),
            }
        };
        match ordered {
            None => self.give_up_obsolete(),
            Some(_) if self.is_given_away() => false,
            Some(reason) => {
                let report = patience::sent_away(reason, self.compatibility);
                self.send_away(report, CloseReason::ClientSentAway);
                true
            }
        }
    }

    /// What SUSPEND allows the conversation. One that is ending takes its end: it has nothing to be kept.
    fn pace(&mut self, cx: &mut Context<'_>) -> Pace {
        let call = self.participant.call();
        if call == Call::Move || self.relay.closing().is_some() || self.client.is_none() {
            return Pace::Free;
        }
        self.expect_nothing();
        let is_flushed = self.client_flush == Flush::Done && self.server_flush == Flush::Done;
        if is_flushed && self.relay.is_at_rest() && self.are_sockets_at_rest(cx) {
            self.participant.rest();
            return Pace::Still;
        }
        if call == Call::RestOrLeave {
            let report = patience::sent_away(Disconnect::SuspendTimeout, self.compatibility);
            self.send_away(report, CloseReason::ClientSentAway);
            return Pace::Free;
        }
        Pace::Measured
    }

    /// Whether all that the conversation has not taken in yet is in its sockets, and all that it sent is on its way.
    fn are_sockets_at_rest(&mut self, cx: &mut Context<'_>) -> bool {
        let lease = self.lease.as_mut().map(|it| &mut it.stream);
        self.client.iter_mut().chain(lease).all(|it| it.poll_rest(cx).is_ready() && it.ahead() == 0)
    }

    fn read_client(&mut self, cx: &mut Context<'_>, pace: Pace, drained: &mut Drained) -> bool {
        match self.relay.closing() {
            None => {}
            Some(Closing::Terminated) => return self.hear_end(cx),
            Some(Closing::Told(_)) => return false,
        }
        let Some(client) = &mut self.client else { return false };
        if !self.relay.to_server().has_space() {
            return false;
        }
        // What has been received already can only be taken in: nobody else would find it.
        let lacking = || self.relay.client_lacks().max(client.ahead());
        let Some(most) = pace.most(lacking) else { return false };
        let pipe = self.relay.from_client();
        let received = receive(client, (pipe, most), &mut self.worker.spare.borrow_mut(), cx);
        match received {
            Poll::Pending => {
                drained.client = true;
                return false;
            }
            Poll::Ready(Ok(count)) if count > 0 => {
                self.pool.stats().cell(self.worker.id).received(count);
            }
            Poll::Ready(_) => {
                self.vanished();
                return true;
            }
        }
        self.event(|relay, turn| relay.on_client_bytes(turn));
        true
    }

    /// Whoever has said Terminate has nothing more to say, but need not stay for what it is still owed.
    fn hear_end(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(client) = &mut self.client else { return false };
        match skip(client, cx) {
            Poll::Pending => return false,
            Poll::Ready(Ok(1..)) => {}
            Poll::Ready(_) => self.part(),
        }
        true
    }

    /// Asks for a server where the relay wants one, and takes it when it comes.
    fn ask_for_server(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if !self.relay.wants_server() {
            return false;
        }
        let answer = if self.waiting_since.is_some() {
            match self.claim.poll(cx, now) {
                Poll::Pending => return false,
                Poll::Ready(answer) => answer,
            }
        } else {
            match self.claim.checkout(&self.pool, now) {
                Answer::Granted(lease) => Ok(lease),
                Answer::Refused(refusal) => Err(refusal),
                Answer::Waiting => {
                    self.waiting_since = Some(now);
                    let waiting = self.relay.to_server().undecided().len();
                    self.claim.caller().entry().set_buffered(waiting);
                    self.relay.from_client().settle(&mut self.worker.spare.borrow_mut());
                    return true;
                }
            }
        };
        if self.waiting_since.take().is_some() {
            self.claim.caller().entry().set_buffered(0);
        }
        self.noticed = false;
        match answer {
            Ok(lease) => self.take_over(lease),
            Err(refusal) => self.refused(&refusal),
        }
        true
    }

    fn take_over(&mut self, mut lease: Lease<Busy>) {
        let rules = self.rules();
        match lease.session.take() {
            None => lease.close("server without a session"),
            Some(session) => {
                lease.stream.begin_conversation();
                self.lease = Some(lease);
                self.show_request(self.worker.now.get());
                self.event(|relay, turn| relay.on_granted(session, rules, turn));
                if self.relay.is_adjusting() {
                    self.name_server();
                }
            }
        }
    }

    fn rules(&self) -> Rules {
        Rules::of(&self.worker.config.load().settings, self.mode())
    }

    fn refused(&mut self, refusal: &Refusal) {
        let report = patience::refused(refusal, self.compatibility);
        match refusal {
            Refusal::Canceled => self.event(|relay, turn| relay.refuse(&report, turn)),
            _ => self.send_away(report, CloseReason::ServerGone),
        }
    }

    fn write_server(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(lease) = &mut self.lease else { return false };
        if self.relay.to_server().ready() == 0 && self.server_flush == Flush::Done {
            return false;
        }
        if self.relay.is_adjusting() && lease.is_being_cancelled() {
            // It is for what the client asked before. The pooler's own query is not to fail of it.
            return false;
        }
        let most = self.limits.send_bytes_max;
        match send(&mut lease.stream, (self.relay.to_server(), most), &mut self.server_flush, cx) {
            Poll::Pending | Poll::Ready(Ok(0)) => false,
            Poll::Ready(Ok(count)) => {
                self.event(|relay, turn| relay.on_sent_to_server(count, turn));
                true
            }
            // What the server has said before it went is still to be read; its end will show there.
            Poll::Ready(Err(_)) => {
                self.event(|relay, turn| relay.from_client().clear(turn.spare));
                false
            }
        }
    }

    fn read_server(&mut self, cx: &mut Context<'_>, pace: Pace, drained: &mut Drained) -> bool {
        let Some(lease) = &mut self.lease else { return false };
        if !self.relay.to_client().has_space() {
            return false;
        }
        let lacking = || self.relay.server_lacks().max(lease.stream.ahead());
        let Some(most) = pace.most(lacking) else { return false };
        let pipe = self.relay.from_server();
        let received = receive(&mut lease.stream, (pipe, most), &mut self.worker.spare.borrow_mut(), cx);
        match received {
            Poll::Pending => {
                drained.server = true;
                return false;
            }
            Poll::Ready(Ok(count)) if count > 0 => {
                self.bulk.came_from_server(count, self.worker.now.get());
            }
            Poll::Ready(_) => {
                self.event(|relay, turn| relay.on_server_gone(turn));
                return true;
            }
        }
        self.event(|relay, turn| relay.on_server_bytes(turn));
        true
    }

    fn write_client(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(client) = &mut self.client else { return false };
        if self.relay.to_client().ready() == 0 && self.client_flush == Flush::Done {
            return false;
        }
        let most = self.limits.send_bytes_max;
        match send(client, (self.relay.to_client(), most), &mut self.client_flush, cx) {
            Poll::Pending | Poll::Ready(Ok(0)) => false,
            Poll::Ready(Ok(count)) => {
                self.pool.stats().cell(self.worker.id).sent(count);
                self.event(|relay, turn| relay.on_sent_to_client(count, turn));
                true
            }
            Poll::Ready(Err(_)) => {
                self.vanished();
                true
            }
        }
    }
}
