//! A small model of one PostgreSQL server process: `PostgresMain` in src/backend/tcop/postgres.c, as far as a pooler
//! can tell.
//!
//! It serves twice: behind the pooler, and alone as the oracle of what a client is to be answered.

use std::collections::{BTreeMap, VecDeque};

use super::message::{self, Buffer, Fields, Framer, Message};
use super::sql::{self, Argument, Statement};

pub mod session;

use session::{Failure, Outcome, Prepared, REPORTED, Session, Transaction, aborted, failure, missing};

/// `PQ_SEND_BUFFER_SIZE` in src/backend/libpq/pqcomm.c.
const SEND_BUFFER_BYTES: usize = 8192;
/// What the kernel takes from the server before it must wait.
const OUTPUT_BYTES_MAX: usize = 32 * 1024;

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Ready,
    CopyIn {
        extended: bool,
        rows: usize,
    },
    /// It executes this; `None`: it has just been woken.
    Slow(Message),
    Dead,
}

#[derive(Clone, Debug)]
struct Portal {
    statement: Option<Statement>,
    value: Option<String>,
    /// Rows that are left, and the tag; `None`: not executed yet.
    started: Option<(VecDeque<Vec<u8>>, String)>,
}

#[derive(Clone, Debug)]
pub struct Backend {
    pub session: Session,
    pub input: Framer,
    held: Vec<u8>,
    pub output: Buffer,
    state: State,
    skips: bool,
    unnamed: Option<Prepared>,
    portals: BTreeMap<String, Portal>,
    last_reported: BTreeMap<&'static str, String>,
    /// Changes are reported at once, as before PostgreSQL 14, and not only before ReadyForQuery.
    pub reports_at_once: bool,
    /// It is the oracle of a client whose server is cleaned after each transaction.
    pub forgets: bool,
    /// And whose statements' names nobody keeps apart, so that they do not outlive a transaction either.
    pub forgets_statements: bool,
    /// It is the oracle: nothing takes time.
    pub instant: bool,
    /// The next thing that can be cancelled is.
    pub interrupted: bool,
    /// The next use of a prepared statement finds it out of date.
    pub stale: bool,
    pub notifications: Vec<(String, String)>,
    /// What it heard and said, where somebody will read it.
    pub diary: Option<Vec<String>>,
}

impl Backend {
    pub fn new(start: &[(String, String)]) -> Self {
        let session = Session::new(start);
        let value = |name: &str| session.setting(name).unwrap_or_default().to_owned();
        let last_reported = REPORTED.iter().map(|name| (*name, value(name))).collect();
        Self {
            session,
            input: Framer::default(),
            held: Vec::new(),
            output: Buffer::default(),
            state: State::Ready,
            skips: false,
            unnamed: None,
            portals: BTreeMap::new(),
            last_reported,
            reports_at_once: false,
            forgets: false,
            forgets_statements: false,
            instant: false,
            interrupted: false,
            stale: false,
            notifications: Vec::new(),
            diary: None,
        }
    }

    pub fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    pub fn is_slow(&self) -> bool {
        matches!(self.state, State::Slow(_))
    }

    /// In no transaction, with nothing half done. What is left of a COPY that has failed may still lie there: it
    /// will be ignored, whoever comes next.
    pub fn is_at_rest(&self) -> bool {
        let late_data = |tags: Vec<u8>| tags.iter().all(|it| matches!(it, b'd' | b'c' | b'f'));
        self.state == State::Ready
            && !self.skips
            && self.session.transaction == Transaction::Idle
            && (self.input.is_empty() || self.input.tags().is_some_and(late_data))
            && self.held.is_empty()
    }

    /// What it said last of a setting.
    pub fn reported(&self, name: &str) -> Option<&str> {
        self.last_reported.get(name).map(String::as_str)
    }

    /// What one client must not find of another's. The settings in `known` are the pooler's own doing.
    pub fn remains(&self, known: impl Fn(&str, &str) -> bool) -> Vec<String> {
        let session = &self.session;
        let mut found: Vec<String> = Vec::new();
        found.extend(
            session.changed().filter(|(name, value)| !known(name, value)).map(|it| format!("{it:?}")),
        );
        let roles = session.now.role.iter().filter(|it| !known("role", it));
        found.extend(roles.map(|it| format!("role {it}")));
        found.extend(session.now.temporary.iter().map(|it| format!("temporary {it}")));
        found.extend(session.now.listens.iter().map(|it| format!("listen {it}")));
        found.extend(session.now.cursors.iter().map(|it| format!("cursor {it}")));
        found.extend(session.locks.iter().map(|it| format!("lock {it}")));
        let foreign = session.prepared.keys().filter(|it| !it.starts_with("PGWEIR_"));
        found.extend(foreign.map(|it| format!("statement {it}")));
        found
    }

    /// Handles one message that has come. False: there is nothing to do.
    ///
    /// `Err`: the pooler did what it must never do.
    pub fn step(&mut self) -> Result<bool, String> {
        let blocked = self.output.len() + self.held.len() > OUTPUT_BYTES_MAX + SEND_BUFFER_BYTES;
        if blocked || matches!(self.state, State::Slow(_) | State::Dead) {
            return Ok(false);
        }
        match self.input.next() {
            Some(message) => self.handle(message).map(|()| true),
            None => Ok(self.idle()),
        }
    }

    /// What a server says without being asked.
    fn idle(&mut self) -> bool {
        let idle = self.state == State::Ready && !self.skips && self.session.transaction == Transaction::Idle;
        if !idle || !self.held.is_empty() {
            return false;
        }
        let before = self.output.len();
        self.report_settings();
        self.deliver();
        self.flush();
        self.output.len() > before
    }

    /// It has done what took its time, or was interrupted.
    pub fn wake(&mut self, interrupted: bool) -> Result<(), String> {
        match std::mem::replace(&mut self.state, State::Ready) {
            State::Slow(message) => {
                self.interrupted = interrupted;
                self.proceed(&message)?;
                self.interrupted = false;
                Ok(())
            }
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    /// A cancel request: it interrupts what runs, and nothing else.
    pub fn cancel(&mut self) -> Result<bool, String> {
        match self.state {
            State::Slow(_) => self.wake(true).map(|()| true),
            State::CopyIn { .. } => {
                self.interrupted = true;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Ends by itself: with a word (`pg_terminate_backend`), or without.
    pub fn die(&mut self, with_a_word: bool) {
        if with_a_word {
            let text = "terminating connection due to administrator command";
            self.emit(&message::report("FATAL", "57P01", text, "ProcessInterrupts"));
            self.flush();
        }
        self.state = State::Dead;
    }

    pub fn notice(&mut self, text: &str) {
        if self.state != State::Dead {
            self.emit(&message::report("NOTICE", "00000", text, "model"));
            self.flush();
        }
    }

    /// Everything it has to say, now.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.flush();
        self.output.take_front(self.output.len())
    }

    fn emit(&mut self, message: &Message) {
        if let Some(diary) = &mut self.diary {
            diary.push(format!("says {message:?}"));
        }
        message.encode(&mut self.held);
        if self.held.len() >= SEND_BUFFER_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.output.push(&self.held);
        self.held.clear();
    }

    pub fn handle(&mut self, message: Message) -> Result<(), String> {
        if let Some(diary) = &mut self.diary {
            diary.push(format!("hears {message:?}"));
        }
        if matches!(self.state, State::CopyIn { .. }) {
            return self.copy(&message);
        }
        if self.skips && !matches!(message.tag, b'S' | b'X') {
            return Ok(());
        }
        if !self.instant && self.takes_time(&message) {
            self.state = State::Slow(message);
            return Ok(());
        }
        self.proceed(&message)
    }

    fn takes_time(&self, message: &Message) -> bool {
        if self.session.transaction == Transaction::Failed {
            return false;
        }
        let slow = |it: &Statement| matches!(it, Statement::Slow(_));
        match message.tag {
            b'Q' => sql::parse(Fields(&message.body).text()).is_ok_and(|it| it.iter().any(slow)),
            b'E' => {
                let portal = self.portals.get(Fields(&message.body).text());
                portal.and_then(|it| it.statement.as_ref()).is_some_and(slow)
            }
            _ => false,
        }
    }

    fn proceed(&mut self, message: &Message) -> Result<(), String> {
        let mut fields = Fields(&message.body);
        let result = match message.tag {
            b'Q' => return self.simple(fields.text()),
            b'F' => {
                let oid = fields.u32();
                return self.function_call(oid, fields.text());
            }
            b'S' => {
                self.skips = false;
                self.ready();
                return Ok(());
            }
            b'H' => {
                self.flush();
                return Ok(());
            }
            b'X' => {
                self.state = State::Dead;
                return Ok(());
            }
            // Late data of a COPY that has failed.
            b'd' | b'c' | b'f' => return Ok(()),
            b'P' => self.parse(fields),
            b'B' => self.bind(fields)?,
            b'D' => self.describe(fields),
            b'C' => {
                let (kind, name) = (fields.u8(), fields.text());
                self.close(kind, name);
                Ok(())
            }
            b'E' => self.execute(fields)?,
            other => return Err(format!("PostgreSQL was sent message type {:?}", other as char)),
        };
        if let Err(failure) = result {
            self.fail(&failure);
            self.skips = true;
        }
        if self.reports_at_once {
            self.report_settings();
        }
        Ok(())
    }

    fn fail(&mut self, failure: &Failure) {
        let report = message::report("ERROR", failure.sqlstate, &failure.message, failure.routine);
        self.emit(&report);
        self.flush();
        self.session.abort();
        if self.session.transaction == Transaction::Idle {
            self.portals.clear();
        }
    }

    fn ready(&mut self) {
        if self.session.transaction == Transaction::Implicit {
            self.session.end(true);
        }
        if self.session.transaction == Transaction::Idle {
            self.portals.clear();
            if self.forgets {
                self.session.forget(self.forgets_statements);
            }
            self.deliver();
        }
        self.report_settings();
        let status = match self.session.transaction {
            Transaction::Idle | Transaction::Implicit => b'I',
            Transaction::Block => b'T',
            Transaction::Failed => b'E',
        };
        self.emit(&Message::new(b'Z', [status]));
        self.flush();
    }

    fn report_settings(&mut self) {
        for name in REPORTED {
            let value = self.session.setting(name).unwrap_or_default().to_owned();
            if self.last_reported.get(name) != Some(&value) {
                self.emit(&message::status(name, &value));
                self.last_reported.insert(name, value);
            }
        }
    }

    fn deliver(&mut self) {
        for (channel, payload) in std::mem::take(&mut self.notifications) {
            if self.session.now.listens.contains(&channel) {
                let mut body = vec![0, 0, 0, 1];
                body.extend(channel.bytes().chain([0]).chain(payload.bytes()).chain([0]));
                self.emit(&Message::new(b'A', body));
            }
        }
    }

    fn describe_rows(&mut self, returns_rows: bool) {
        if returns_rows {
            let mut body = vec![0, 1];
            body.extend(b"echo\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
            self.emit(&Message::new(b'T', body));
        } else {
            self.emit(&Message::new(b'n', []));
        }
    }

    fn simple(&mut self, text: &str) -> Result<(), String> {
        // `exec_simple_query`: drop_unnamed_stmt() at its beginning.
        self.unnamed = None;
        self.portals.remove("");
        match sql::parse(text) {
            Err(near) => self.fail(&syntax(&near)),
            Ok(list) if list.is_empty() => self.emit(&Message::new(b'I', [])),
            Ok(list) => {
                for statement in list {
                    match self.witnessed(&statement, None)? {
                        Ok(Outcome::CopyIn) => {
                            self.begin_copy(false);
                            return Ok(());
                        }
                        Ok(outcome) => self.give(statement.returns_rows(), outcome),
                        Err(failure) => {
                            self.fail(&failure);
                            break;
                        }
                    }
                    if self.reports_at_once {
                        self.report_settings();
                    }
                }
            }
        }
        self.ready();
        Ok(())
    }

    /// Runs a statement for the client that may.
    fn witnessed(
        &mut self,
        statement: &Statement,
        value: Option<&str>,
    ) -> Result<Result<Outcome, Failure>, String> {
        let token = match statement {
            Statement::Echo { token: Argument::Literal(token), .. } => Some(token.as_str()),
            Statement::Echo { token: Argument::Parameter, .. } => value,
            Statement::Fail(token) | Statement::Slow(token) | Statement::CopyOut { token, .. } => {
                Some(token.as_str())
            }
            _ => None,
        };
        token.map_or(Ok(()), |it| self.session.witness(it))?;
        if matches!(statement, Statement::Slow(_)) && std::mem::take(&mut self.interrupted) {
            return Ok(Err(cancelled()));
        }
        Ok(self.session.run(statement, value))
    }

    fn give(&mut self, returns_rows: bool, outcome: Outcome) {
        match outcome {
            Outcome::Rows(rows, tag) => {
                if returns_rows {
                    self.describe_rows(true);
                }
                rows.iter().for_each(|it| self.emit(&message::row(&[it])));
                self.emit(&message::complete(&tag));
            }
            Outcome::CopyOut(rows) => {
                self.emit(&Message::new(b'H', [0, 0, 1, 0, 0]));
                rows.iter().for_each(|it| self.emit(&Message::new(b'd', it.clone())));
                self.emit(&Message::new(b'c', []));
                self.emit(&message::complete(&format!("COPY {}", rows.len())));
            }
            Outcome::CopyIn => unreachable!("it is begun elsewhere"),
        }
    }

    fn begin_copy(&mut self, extended: bool) {
        self.state = State::CopyIn { extended, rows: 0 };
        self.emit(&Message::new(b'G', [0, 0, 1, 0, 0]));
        self.flush();
    }

    /// A message in COPY mode: `CopyGetData` in src/backend/commands/copyfromparse.c.
    fn copy(&mut self, message: &Message) -> Result<(), String> {
        let State::CopyIn { extended, rows } = self.state else { return Ok(()) };
        let failed = match message.tag {
            b'S' | b'H' => return Ok(()),
            b'd' | b'c' if self.interrupted => Some(cancelled()),
            b'd' => {
                let text = String::from_utf8_lossy(&message.body).into_owned();
                self.session.witness(&text)?;
                self.state = State::CopyIn { extended, rows: rows + 1 };
                if !text.contains("bad") {
                    return Ok(());
                }
                Some(failure("22P02", format!("invalid input syntax: {text}")))
            }
            b'c' => None,
            b'f' => {
                Some(failure("57014", format!("COPY from stdin failed: {}", Fields(&message.body).text())))
            }
            b'X' => {
                self.state = State::Dead;
                return Ok(());
            }
            other => return Err(format!("message type {:?} was sent in COPY mode", other as char)),
        };
        self.interrupted = false;
        self.state = State::Ready;
        match &failed {
            Some(failure) => self.fail(failure),
            None => self.emit(&message::complete(&format!("COPY {rows}"))),
        }
        if extended {
            self.skips = failed.is_some();
        } else {
            self.ready();
        }
        Ok(())
    }

    fn function_call(&mut self, oid: u32, token: &str) -> Result<(), String> {
        const ADVISORY_LOCK: u32 = 2880;
        self.session.witness(token)?;
        if self.session.transaction == Transaction::Failed {
            self.fail(&aborted());
        } else if token.ends_with("bad") {
            self.fail(&failure("22012", format!("division by zero at {token}")));
        } else {
            if oid == ADVISORY_LOCK {
                self.session.locks.insert("called".into());
            }
            let mut body = u32::try_from(token.len()).expect("tokens are short").to_be_bytes().to_vec();
            body.extend(token.bytes());
            self.emit(&Message::new(b'V', body));
        }
        self.ready();
        Ok(())
    }

    fn parse(&mut self, mut fields: Fields<'_>) -> Result<(), Failure> {
        let (name, text) = (fields.text(), fields.text());
        if name.is_empty() {
            self.unnamed = None;
        }
        let mut list = sql::parse(text).map_err(|near| syntax(&near))?;
        if list.len() > 1 {
            return Err(failure("42601", "cannot insert multiple commands into a prepared statement"));
        }
        let statement = list.pop();
        let failed = self.session.transaction == Transaction::Failed;
        if failed && statement.as_ref().is_some_and(|it| !it.is_exit()) {
            return Err(aborted());
        }
        self.session.begin_implicit();
        let (owner, epoch) = (self.session.owner, self.session.epoch);
        let prepared = Prepared { statement, by_sql: false, owner, epoch };
        if name.is_empty() {
            self.unnamed = Some(prepared);
        } else if self.session.prepared.contains_key(name) {
            return Err(failure("42P05", format!("prepared statement \"{name}\" already exists")));
        } else {
            self.session.prepared.insert(name.to_owned(), prepared);
        }
        self.emit(&Message::new(b'1', []));
        Ok(())
    }

    fn prepared(&self, name: &str) -> Result<Prepared, Failure> {
        let found = if name.is_empty() { self.unnamed.as_ref() } else { self.session.prepared.get(name) };
        found.cloned().ok_or_else(|| missing(name))
    }

    /// `RevalidateCachedQuery` in src/backend/utils/cache/plancache.c.
    fn revalidate(&mut self, name: &str, prepared: &Prepared) -> Result<(), Failure> {
        let returns_rows = prepared.statement.as_ref().is_some_and(Statement::returns_rows);
        let old = prepared.epoch < self.session.epoch || std::mem::take(&mut self.stale);
        if name.is_empty() || !returns_rows || !old {
            return Ok(());
        }
        let message = "cached plan must not change result type".to_owned();
        Err(Failure { sqlstate: "0A000", message, routine: "RevalidateCachedQuery" })
    }

    fn bind(&mut self, mut fields: Fields<'_>) -> Result<Result<(), Failure>, String> {
        let (portal, name) = (fields.text(), fields.text());
        let prepared = match self.prepared(name) {
            Ok(prepared) => prepared,
            Err(failure) => return Ok(Err(failure)),
        };
        if name.is_empty() && prepared.owner != self.session.owner {
            return Err(format!(
                "client {:?} binds the unnamed statement of client {:?}",
                self.session.owner, prepared.owner
            ));
        }
        for _ in 0..fields.u16() {
            fields.u16();
        }
        let values = fields.u16();
        let value = (values > 0).then(|| {
            let length = fields.u32() as usize;
            String::from_utf8_lossy(&fields.0[..length]).into_owned()
        });
        Ok(self.bound(portal, name, &prepared, value))
    }

    fn bound(
        &mut self,
        portal: &str,
        name: &str,
        prepared: &Prepared,
        value: Option<String>,
    ) -> Result<(), Failure> {
        let statement = prepared.statement.clone();
        let failed = self.session.transaction == Transaction::Failed;
        if failed && statement.as_ref().is_some_and(|it| !it.is_exit()) {
            return Err(aborted());
        }
        let wanted = matches!(statement, Some(Statement::Echo { token: Argument::Parameter, .. }));
        if wanted != value.is_some() {
            return Err(failure("08P01", "bind message supplies another number of parameters"));
        }
        if !portal.is_empty() && self.portals.contains_key(portal) {
            return Err(failure("42P03", format!("cursor \"{portal}\" already exists")));
        }
        self.session.begin_implicit();
        self.revalidate(name, prepared)?;
        self.portals.insert(portal.to_owned(), Portal { statement, value, started: None });
        self.emit(&Message::new(b'2', []));
        Ok(())
    }

    fn describe(&mut self, mut fields: Fields<'_>) -> Result<(), Failure> {
        let (kind, name) = (fields.u8(), fields.text());
        let failed = self.session.transaction == Transaction::Failed;
        self.session.begin_implicit();
        let statement = if kind == b'S' {
            let prepared = self.prepared(name)?;
            self.revalidate(name, &prepared)?;
            prepared.statement
        } else {
            let found = self.portals.get(name).map(|it| it.statement.clone());
            found.ok_or_else(|| failure("34000", format!("portal \"{name}\" does not exist")))?
        };
        let returns_rows = statement.as_ref().is_some_and(Statement::returns_rows);
        if failed && returns_rows {
            return Err(aborted());
        }
        if kind == b'S' {
            let parameter = matches!(statement, Some(Statement::Echo { token: Argument::Parameter, .. }));
            let body: &[u8] = if parameter { &[0, 1, 0, 0, 0, 25] } else { &[0, 0] };
            self.emit(&Message::new(b't', body));
        }
        self.describe_rows(returns_rows);
        Ok(())
    }

    fn close(&mut self, kind: u8, name: &str) {
        if kind == b'P' {
            self.portals.remove(name);
        } else if name.is_empty() {
            self.unnamed = None;
        } else {
            self.session.prepared.remove(name);
        }
        self.emit(&Message::new(b'3', []));
    }

    fn execute(&mut self, mut fields: Fields<'_>) -> Result<Result<(), Failure>, String> {
        let (name, rows_max) = (fields.text(), fields.u32() as usize);
        let Some(mut portal) = self.portals.get(name).cloned() else {
            return Ok(Err(failure("34000", format!("portal \"{name}\" does not exist"))));
        };
        let Some(statement) = portal.statement.clone() else {
            self.emit(&Message::new(b'I', []));
            return Ok(Ok(()));
        };
        let (rows, tag) = match portal.started.take() {
            Some(_) if self.session.transaction == Transaction::Failed => return Ok(Err(aborted())),
            Some(started) => started,
            None => match self.witnessed(&statement, portal.value.as_deref())? {
                Err(failure) => return Ok(Err(failure)),
                Ok(Outcome::CopyIn) => {
                    self.begin_copy(true);
                    return Ok(Ok(()));
                }
                Ok(outcome @ Outcome::CopyOut(_)) => {
                    self.give(false, outcome);
                    return Ok(Ok(()));
                }
                Ok(Outcome::Rows(rows, tag)) => (rows.into(), tag),
            },
        };
        self.fetch(name, portal, (rows, tag), rows_max);
        Ok(Ok(()))
    }

    fn fetch(&mut self, name: &str, mut portal: Portal, rows: (VecDeque<Vec<u8>>, String), most: usize) {
        let (mut rows, tag) = rows;
        let count = if most == 0 { rows.len() } else { most.min(rows.len()) };
        rows.drain(..count).for_each(|it| self.emit(&message::row(&[&it])));
        if most > 0 && count == most {
            self.emit(&Message::new(b's', []));
        } else {
            self.emit(&message::complete(&tag));
        }
        if self.session.transaction == Transaction::Idle {
            // COMMIT or ROLLBACK.
            return self.portals.clear();
        }
        portal.started = Some((rows, tag));
        self.portals.insert(name.to_owned(), portal);
    }
}

fn syntax(near: &str) -> Failure {
    failure("42601", format!("syntax error at or near \"{near}\""))
}

fn cancelled() -> Failure {
    failure("57014", "canceling statement due to user request")
}
