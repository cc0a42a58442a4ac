//! A client and its oracle: a PostgreSQL of its own that is told the same and says what the answer must be.

use std::collections::{BTreeMap, VecDeque};

use super::message::{Buffer, Framer, Message};
use super::postgres::Backend;
use super::postgres::session::Transaction;
use super::rng::Rng;
use super::workload::{Item, Mode, Workload};

/// How the pooler's own refusals begin, as the simulated driver words them.
pub const REFUSED: &str = "refused by the pooler: ";
/// The words of a cancelled statement, whoever says them.
const CANCELLED: &str = "canceling statement due to user request";

/// Settings that a client is told of, and must be told of rightly.
const FOLLOWED: [&str; 3] = ["TimeZone", "application_name", "client_encoding"];

pub struct Client {
    pub id: usize,
    workload: Workload,
    program: VecDeque<Item>,
    /// Written, but not yet with the pooler.
    pub outbox: Buffer,
    inbox: Framer,
    oracle: Backend,
    expected: VecDeque<Message>,
    /// What the oracle has not been told yet.
    sent: VecDeque<Message>,
    /// What it was told of settings.
    view: BTreeMap<String, String>,
    last_tag: u8,
    /// Its batch was refused before it was complete; what it sends up to the Sync is dropped.
    ignored_to_sync: bool,
    was_refused: bool,
    /// Whether all that was sent has been answered, if that was asked since anything happened.
    settled: Option<bool>,
    /// Why the pooler may end it with an error.
    pub doomed: Option<&'static str>,
    /// It has been ended by an error.
    pub ended: bool,
    /// It has said Terminate.
    pub terminated: bool,
    /// Times that it may be refused, or find a cancelled statement.
    pub refusals: usize,
    pub cancels: usize,
    pub answers: usize,
}

impl Client {
    pub fn new(id: usize, workload: Workload) -> Self {
        let mut oracle = Backend::new(&workload.start);
        oracle.instant = true;
        oracle.forgets = workload.mode != Mode::Session;
        oracle.forgets_statements = !workload.tracks_names;
        oracle.session.owner = Some(id);
        let value = |name: &str| oracle.session.setting(name).unwrap_or_default().to_owned();
        let view = FOLLOWED.iter().map(|name| (name.to_ascii_lowercase(), value(name))).collect();
        Self {
            id,
            workload,
            program: VecDeque::new(),
            outbox: Buffer::default(),
            inbox: Framer::default(),
            oracle,
            expected: VecDeque::new(),
            sent: VecDeque::new(),
            view,
            last_tag: 0,
            ignored_to_sync: false,
            was_refused: false,
            settled: None,
            doomed: None,
            ended: false,
            terminated: false,
            refusals: 0,
            cancels: 0,
            answers: 0,
        }
    }

    /// Everything that it was to do is done, and answered.
    pub fn is_done(&self) -> bool {
        self.ended || self.terminated
    }

    /// Does the next thing of its program. False: it waits.
    pub fn act(&mut self, rng: &mut Rng) -> bool {
        if self.is_done() {
            return false;
        }
        match self.program.front().cloned() {
            None => self.plan(rng),
            Some(Item::Send(message)) => {
                self.program.pop_front();
                self.write(message);
            }
            Some(Item::Await) => {
                if !self.is_settled() {
                    return false;
                }
                self.program.pop_front();
            }
            Some(Item::AwaitCopy { otherwise_skip }) => {
                if !self.is_settled() {
                    return false;
                }
                let skip = if self.last_tag == b'G' { 0 } else { otherwise_skip };
                self.program.drain(..=skip);
            }
            Some(Item::UnlessRefused { skip }) => {
                let skip = if self.was_refused { skip } else { 0 };
                self.program.drain(..=skip);
            }
            Some(Item::InBlock { otherwise_skip }) => {
                let is_open = self.oracle.session.transaction != Transaction::Idle;
                self.program.drain(..=if is_open { 0 } else { otherwise_skip });
            }
        }
        true
    }

    fn plan(&mut self, rng: &mut Rng) {
        self.was_refused = false;
        match self.workload.next_unit(self.id, rng) {
            Some(unit) => self.program.extend(unit),
            None => {
                self.terminated = true;
                self.outbox.put(&Message::new(b'X', []));
            }
        }
    }

    fn write(&mut self, message: Message) {
        self.settled = None;
        self.outbox.put(&message);
        if !self.ignored_to_sync {
            self.sent.push_back(message);
        } else if matches!(message.tag, b'S' | b'Q' | b'F') {
            self.ignored_to_sync = false;
            self.expected.push_back(Message::new(b'Z', *b"I"));
        }
    }

    /// Whether all that was sent has been answered.
    fn is_settled(&mut self) -> bool {
        if self.settled.is_none() {
            self.settled = Some(self.expected.is_empty() && self.has_heard_all());
        }
        self.settled == Some(true)
    }

    fn has_heard_all(&self) -> bool {
        let mut future = self.oracle.clone();
        for message in &self.sent {
            future.handle(message.clone()).expect("a client may send what it sends");
        }
        !answers(&mut future).any(|_| true)
    }

    /// Bytes have come from the pooler.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.inbox.push(bytes);
        self.settled = None;
        while let Some(message) = self.inbox.next() {
            self.hear(&message).map_err(|it| format!("client {} got {message:?}: {it}", self.id))?;
        }
        Ok(())
    }

    /// The pooler has closed the connection.
    pub fn closed(&mut self) -> Result<(), String> {
        let all_heard = self.is_settled();
        self.ended = true;
        match (self.doomed, self.terminated) {
            (Some(_), _) => Ok(()),
            (None, false) => Err(format!("client {} was disconnected for no reason", self.id)),
            (None, true) if all_heard => Ok(()),
            (None, true) => Err(format!("client {} was disconnected before all was answered", self.id)),
        }
    }

    fn hear(&mut self, message: &Message) -> Result<(), String> {
        match message.tag {
            b'N' => return Ok(()),
            b'S' => return self.note_setting(message),
            b'A' => return self.note_notification(message),
            _ if self.ended && !message.is_fatal() => return Err("it was told of its end already".into()),
            b'E' if message.is_fatal() => {
                self.ended = true;
                return match self.doomed {
                    Some(_) => Ok(()),
                    None => Err("there was no reason to end it".into()),
                };
            }
            _ => {}
        }
        self.answers += 1;
        if self.expected.is_empty() && !self.ask_oracle(message)? {
            return Ok(());
        }
        self.last_tag = message.tag;
        match self.expected.pop_front() {
            None => Err("it was to get nothing".into()),
            Some(expected) if expected != *message => Err(format!("it was to get {expected:?}")),
            Some(_) if message.tag == b'Z' => self.compare_settings(),
            Some(_) => Ok(()),
        }
    }

    /// Finds out what is to be answered next. False: the message was the pooler's own, and right.
    fn ask_oracle(&mut self, message: &Message) -> Result<bool, String> {
        if message.tag == b'E' {
            let text = message.field(b'M');
            if text.starts_with(REFUSED) {
                return self.refused().map(|()| false);
            }
            self.oracle.interrupted = text == CANCELLED;
            self.oracle.stale = message.field(b'C') == "0A000";
            if self.oracle.interrupted && self.cancels == 0 {
                return Err("it has cancelled nothing".into());
            }
        }
        while self.expected.is_empty() {
            let Some(next) = self.sent.pop_front() else { break };
            self.oracle.handle(next)?;
            self.expected.extend(answers(&mut self.oracle));
        }
        self.oracle.interrupted = false;
        self.oracle.stale = false;
        Ok(true)
    }

    fn refused(&mut self) -> Result<(), String> {
        if self.refusals == 0 || !self.oracle.is_at_rest() {
            return Err("there was no reason to refuse it".into());
        }
        self.refusals -= 1;
        self.was_refused = true;
        let end = self.sent.iter().position(|it| matches!(it.tag, b'S' | b'Q' | b'F'));
        self.last_tag = b'E';
        match end {
            Some(end) => {
                self.sent.drain(..=end);
                self.expected.push_back(Message::new(b'Z', *b"I"));
            }
            None => {
                self.sent.clear();
                self.ignored_to_sync = true;
            }
        }
        Ok(())
    }

    fn note_setting(&mut self, message: &Message) -> Result<(), String> {
        let text = String::from_utf8(message.body.clone()).map_err(|it| it.to_string())?;
        let mut parts = text.split('\0');
        if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            self.view.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        Ok(())
    }

    fn compare_settings(&self) -> Result<(), String> {
        for name in FOLLOWED {
            let (told, right) =
                (self.view.get(&name.to_ascii_lowercase()), self.oracle.session.setting(name));
            if told.map(String::as_str) != right {
                return Err(format!("{name} was said to be {told:?}, and is {right:?}"));
            }
        }
        Ok(())
    }

    fn note_notification(&self, message: &Message) -> Result<(), String> {
        let text = String::from_utf8_lossy(&message.body[4..]).into_owned();
        let channel = text.split('\0').next().unwrap_or_default();
        let listened = self.workload.listened.iter().any(|it| it == channel);
        if listened { Ok(()) } else { Err("it does not listen".into()) }
    }

    /// What it waits for, in words.
    pub fn describe(&self) -> String {
        format!(
            "client {}: done {}, oracle {:?}, next {:?}, {} sent unanswered, expects {:?}, outbox {}, partial {}",
            self.id,
            self.is_done(),
            self.oracle.session.transaction,
            self.program.front(),
            self.sent.len(),
            self.expected.front(),
            self.outbox.len(),
            self.inbox.len(),
        )
    }
}

/// What the oracle has said, without what comes at any time.
fn answers(oracle: &mut Backend) -> impl Iterator<Item = Message> + use<> {
    let mut framer = Framer::default();
    framer.push(&oracle.take_output());
    std::iter::from_fn(move || framer.next()).filter(|it| !matches!(it.tag, b'N' | b'S' | b'A'))
}
