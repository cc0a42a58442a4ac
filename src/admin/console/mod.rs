//! The conversation with a console client that has logged in.
//!
//! Owns the order of messages in both query protocols, and the waiting for orders that take their time. It refuses
//! COPY and function calls. Invariant: messages are answered one after the other, in the order in which they came; a
//! client that waits for an order can cancel it, and one that goes away while all is suspended leaves nothing suspended.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};

use super::command::{self, Command};
use super::show::{self, Topic};
use super::table::{Formats, Table, Value, data_row, row_description};
use super::{Admin, Answer, Audience, Order, Refusal, Shutdown, SocketRow, View};
use crate::ids::WorkerId;
use crate::net::Passer;
use crate::stats::{Cell, ClientEntry, Disconnect, client_event};
use crate::wire::encode;
use crate::wire::encode::Column;
use crate::wire::frontend::{Parse, Target, tag};
use crate::wire::{CancelKey, Header, Report, SqlState, TxStatus};

mod extended;

use extended::{Portal, Prepared};

/// A console client's messages are short: the longest is a SET with its value.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Prepared statements, and likewise portals, that a console session may have.
const NAMES_MAX: usize = 1024;

/// Answers are sent when this much of them has come together, and at the end of each message.
const OUTPUT_BYTES: usize = 64 * 1024;

/// How long a client that is told to go may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a console client may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Everything: `admin_users`, and `pgbouncer` over the Unix socket from the process's own system user.
    Admin,
    /// Look: `stats_users`.
    Stats,
}

/// Who the console client is.
#[derive(Debug)]
pub struct Session {
    /// Its entry on the roster, with its login filled in under [`super::console_pool`].
    pub entry: Arc<ClientEntry>,
    /// The worker that it lives on.
    pub worker: WorkerId,
    /// What it may do.
    pub access: Access,
    /// The key by which it may cancel a command.
    pub key: CancelKey,
    /// Notified when a cancel request with that key has come.
    pub cancel: Arc<Notify>,
    /// How to give it sockets: to the process's own system user over a unix socket.
    pub passer: Option<Passer>,
}

/// Serves a console client until it leaves. `AuthenticationOk` has been sent; all after it is sent here. `input` is
/// what was read from the stream beyond the login.
///
/// Not cancel safe. Errors: those of the stream; a client that goes away without a word is none.
pub async fn serve<S>(admin: &Admin, stream: S, input: BytesMut, session: Session) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut conversation = Conversation {
        admin,
        session: &session,
        stream,
        input,
        output: BytesMut::new(),
        status: TxStatus::Idle,
        skipping: false,
        statements: HashMap::new(),
        portals: HashMap::new(),
        has_suspended: false,
    };
    conversation.cell().client_login();
    conversation.welcome();
    conversation.run().await
}

struct Conversation<'a, S> {
    admin: &'a Admin,
    session: &'a Session,
    stream: S,
    input: BytesMut,
    output: BytesMut,
    status: TxStatus,
    /// An error has come: everything up to the next Sync is left out.
    skipping: bool,
    statements: HashMap<Vec<u8>, Prepared>,
    portals: HashMap<Vec<u8>, Portal>,
    /// It is this session that has suspended all.
    has_suspended: bool,
}

/// What a command gives back.
#[derive(Debug)]
struct Outcome {
    notices: Vec<Report>,
    table: Option<Table>,
    tag: String,
}

impl Outcome {
    fn done(tag: impl Into<String>) -> Self {
        Self { notices: Vec::new(), table: None, tag: tag.into() }
    }
}

/// Why a command gives nothing back.
enum Stop {
    /// It is refused; the conversation goes on.
    Refused(Refusal),
    /// The conversation is over.
    End,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Whether the conversation goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    End,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<'_, S> {
    fn cell(&self) -> &Cell {
        self.admin.stats.cell(self.session.worker)
    }

    /// What PostgreSQL sends after AuthenticationOk.
    fn welcome(&mut self) {
        for (name, value) in [
            ("server_version", super::SERVER_VERSION),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "GMT"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", "on"),
        ] {
            encode::parameter_status(&mut self.output, name, value);
        }
        encode::backend_key_data(&mut self.output, &self.session.key);
        encode::ready_for_query(&mut self.output, self.status);
    }

    async fn run(&mut self) -> io::Result<()> {
        loop {
            while let Some((tag, body)) = self.next_message()? {
                if self.message(tag, body).await? == Flow::End {
                    return self.flush().await;
                }
            }
            self.flush().await?;
            let read = tokio::select! {
                reason = self.session.entry.disconnected() => return self.dismiss(reason).await,
                read = self.stream.read_buf(&mut self.input) => read?,
            };
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// The next whole message, where there is one.
    fn next_message(&mut self) -> io::Result<Option<(u8, BytesMut)>> {
        let invalid = |error: crate::wire::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let Some(header) = Header::peek(&self.input).map_err(invalid)? else { return Ok(None) };
        if header.body > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long for the console"));
        }
        if self.input.len() < header.total() {
            return Ok(None);
        }
        let mut message = self.input.split_to(header.total());
        message.advance(crate::wire::frame::HEADER);
        Ok(Some((header.tag, message)))
    }

    async fn message(&mut self, tag: u8, body: BytesMut) -> io::Result<Flow> {
        match tag {
            tag::TERMINATE => return Ok(Flow::End),
            tag::SYNC => {
                self.skipping = false;
                self.portals.clear();
                encode::ready_for_query(&mut self.output, self.status);
                return Ok(Flow::On);
            }
            _ if self.skipping => return Ok(Flow::On),
            tag::QUERY => return self.query(&body).await,
            tag::FLUSH => {
                self.flush().await?;
                return Ok(Flow::On);
            }
            // As PostgreSQL does where no COPY is open: PostgresMain in src/backend/tcop/postgres.c.
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => return Ok(Flow::On),
            _ => {}
        }
        let answered = match tag {
            tag::PARSE => self.parse(&body),
            tag::BIND => self.bind(&body),
            tag::DESCRIBE => self.describe(&body),
            tag::CLOSE => self.close(&body),
            tag::EXECUTE => self.execute(&body).await,
            other => {
                let what = format!("unsupported packet type for admin console: {other}");
                self.refuse(&Refusal::Protocol(what));
                return Ok(Flow::End);
            }
        };
        match answered {
            Ok(()) => {}
            Err(Stop::End) => return Ok(Flow::End),
            Err(Stop::Refused(refusal)) => {
                self.refuse(&refusal);
                self.skipping = true;
            }
        }
        self.flush_if_full().await?;
        Ok(Flow::On)
    }

    /// A simple query: its statements one after the other, up to the first that fails.
    async fn query(&mut self, body: &[u8]) -> io::Result<Flow> {
        let text = body.strip_suffix(b"\0").unwrap_or(body);
        let text = String::from_utf8_lossy(text).into_owned();
        let statements = command::statements(&text);
        if statements.is_empty() {
            encode::empty_query_response(&mut self.output);
        }
        for statement in statements {
            client_event!(debug, self.session.entry, "got admin query: {}", command::loggable(statement));
            self.count();
            let outcome = match command::parse(statement) {
                Ok(Command::Show(topic)) if topic.is_of_sockets() => self.sockets(topic).await?,
                Ok(command) => self.carry_out(command).await,
                Err(refusal) => Err(refusal.into()),
            };
            match outcome {
                Ok(outcome) => self.whole_answer(&outcome).await?,
                Err(Stop::End) => return Ok(Flow::End),
                Err(Stop::Refused(refusal)) => {
                    self.refuse(&refusal);
                    break;
                }
            }
        }
        encode::ready_for_query(&mut self.output, self.status);
        self.flush().await?;
        Ok(Flow::On)
    }

    /// PgBouncer counts a command before it carries it out: SHOW TOTALS counts itself.
    fn count(&self) {
        self.cell().query_done(Duration::ZERO);
        self.cell().transaction_done(Duration::ZERO);
        self.session.entry.request_started(self.admin.source.roster().micros(Instant::now()));
        self.session.entry.requests_done();
    }

    async fn whole_answer(&mut self, outcome: &Outcome) -> io::Result<()> {
        outcome.notices.iter().for_each(|it| it.encode(&mut self.output));
        if let Some(table) = &outcome.table {
            let formats = Formats::default();
            row_description(&mut self.output, table.columns, &formats);
            for row in &table.rows {
                data_row(&mut self.output, table.columns, row, &formats);
                self.flush_if_full().await?;
            }
        }
        encode::command_complete(&mut self.output, &outcome.tag);
        Ok(())
    }

    async fn carry_out(&mut self, command: Command) -> Result<Outcome, Stop> {
        match command {
            Command::Show(topic) => self.show(topic),
            Command::Constant(constant) => {
                let table = Table {
                    columns: &constant.column,
                    rows: vec![vec![super::table::Value::fixed(constant.value)]],
                };
                Ok(Outcome { table: Some(table), ..Outcome::done("SHOW") })
            }
            Command::Ignored(tag) => Ok(Outcome::done(tag)),
            Command::SetIgnored { name, value } => {
                if name == "application_name" {
                    self.session.entry.set_application_name(Some(value.into()));
                }
                Ok(Outcome { notices: vec![Report::notice("SET ignored")], ..Outcome::done("SET") })
            }
            Command::Begin => {
                self.status = TxStatus::InTransaction;
                Ok(Outcome::done("BEGIN"))
            }
            Command::End(tag) => {
                self.status = TxStatus::Idle;
                Ok(Outcome::done(tag))
            }
            Command::KillClient(id) => {
                self.need_admin()?;
                let roster = self.admin.source.roster();
                let client = roster.find_client(id).filter(|it| it.login().is_some());
                client.ok_or(Refusal::ClientNotFound)?.order_disconnect(Disconnect::Admin);
                Ok(Outcome::done("KILL_CLIENT"))
            }
            Command::Order(order) => self.order(order).await,
        }
    }

    fn show(&self, topic: Topic) -> Result<Outcome, Stop> {
        if topic.needs_admin() {
            self.need_admin()?;
        }
        if topic == Topic::Help {
            return Ok(Outcome { notices: vec![show::help()], ..Outcome::done("SHOW") });
        }
        Ok(Outcome { table: Some(topic.table(&View::of(self.admin))), ..Outcome::done("SHOW") })
    }

    /// SHOW FDS and SHOW HANDOVER: row by row, because each may come with a socket.
    async fn sockets(&mut self, topic: Topic) -> io::Result<Result<Outcome, Stop>> {
        if let Err(refusal) = self.need_admin() {
            return Ok(Err(refusal.into()));
        }
        if topic == Topic::Handover && !(self.has_suspended && self.session.passer.is_some()) {
            return Ok(Err(Refusal::AdminNeeded.into()));
        }
        let formats = Formats::default();
        row_description(&mut self.output, topic.columns(), &formats);
        let passer = self.session.passer.as_ref().filter(|_| self.has_suspended);
        let audience = match passer {
            None => Audience::Onlooker,
            Some(_) => Audience::NextProcess(self.session.entry.id()),
        };
        let mut rows = Arc::clone(&self.admin.source).sockets(audience);
        while let Some(row) = rows.recv().await {
            let SocketRow { mut values, state, socket, is_plain } = row;
            match topic {
                Topic::Handover => values.push(Value::bytes(&state)),
                _ if is_plain => {}
                _ => continue,
            }
            match passer {
                None => {
                    data_row(&mut self.output, topic.columns(), &values, &formats);
                    self.flush_if_full().await?;
                }
                Some(passer) => {
                    self.flush().await?;
                    let mut row = BytesMut::new();
                    data_row(&mut row, topic.columns(), &values, &formats);
                    passer.send(&row, socket.as_ref().map(AsFd::as_fd)).await?;
                }
            }
        }
        Ok(Ok(Outcome::done("SHOW")))
    }

    fn need_admin(&self) -> Result<(), Refusal> {
        if self.session.access == Access::Admin { Ok(()) } else { Err(Refusal::AdminNeeded) }
    }

    async fn order(&mut self, order: Order) -> Result<Outcome, Stop> {
        self.need_admin()?;
        tracing::info!("{}", order.log_line());
        let tag = match &order {
            Order::Shutdown(Shutdown::Immediate) => {
                self.admin.order(order);
                // Not answered: the client sees the connection end with the process.
                let reason = self.session.entry.disconnected().await;
                if self.has_suspended && self.session.passer.is_some() {
                    // To the next process this is the word that all is its own now. If it is gone, all ends.
                    let _ = self.dismiss(reason).await;
                }
                return Err(Stop::End);
            }
            order => order.tag(),
        };
        let undo = match &order {
            Order::Pause(database) => Some(Order::Resume(database.clone())),
            Order::Suspend => Some(Order::Resume(None)),
            _ => None,
        };
        let suspends = order == Order::Suspend;
        let answer = self.admin.order(order);
        match self.wait(answer).await {
            Waited::Answer(answer) => {
                self.has_suspended |= suspends && answer.is_ok();
                Ok(Outcome { notices: answer?, ..Outcome::done(tag) })
            }
            Waited::Canceled => {
                if let Some(undo) = undo {
                    let _ = self.admin.order(undo).await;
                }
                Err(Refusal::Canceled.into())
            }
            Waited::Left => {
                if suspends {
                    tracing::info!("admin disappeared while suspending, doing RESUME");
                    let _ = self.admin.order(Order::Resume(None)).await;
                }
                Err(Stop::End)
            }
        }
    }

    /// Waits for an order to be done. What the client sends meanwhile is kept for later.
    async fn wait(&mut self, mut answer: oneshot::Receiver<Answer>) -> Waited {
        // Earlier answers of the same query are not held back by one that may take long.
        if self.flush().await.is_err() {
            return Waited::Left;
        }
        // A cancel that came when nothing was under way hits nothing.
        let canceled = self.session.cancel.notified();
        tokio::pin!(canceled);
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return Waited::Answer(answer.unwrap_or(Err(Refusal::Stopped))),
                () = &mut canceled => return Waited::Canceled,
                _ = self.session.entry.disconnected() => return Waited::Left,
                read = self.stream.read_buf(&mut self.input), if self.input.len() < MESSAGE_BYTES_MAX => {
                    match read {
                        Ok(0) | Err(_) => return Waited::Left,
                        Ok(_) if self.input.first() == Some(&tag::TERMINATE) => return Waited::Left,
                        Ok(_) => {}
                    }
                }
            }
        }
    }

    fn refuse(&mut self, refusal: &Refusal) {
        client_event!(error, self.session.entry, "{}", refusal.for_log());
        self.cell().pooler_error();
        refusal.report(self.admin.compatibility()).encode(&mut self.output);
    }

    /// Says why, and ends.
    async fn dismiss(&mut self, reason: Disconnect) -> io::Result<()> {
        let sqlstate = match self.admin.compatibility() {
            crate::config::Compatibility::PgBouncer => SqlState::PROTOCOL_VIOLATION,
            crate::config::Compatibility::Postgres => SqlState::ADMIN_SHUTDOWN,
        };
        Report::fatal(sqlstate, reason.message()).encode(&mut self.output);
        let said = tokio::time::timeout(FAREWELL, self.stream.write_all_buf(&mut self.output)).await;
        said.unwrap_or(Ok(()))
    }

    async fn flush_if_full(&mut self) -> io::Result<()> {
        if self.output.len() < OUTPUT_BYTES {
            return Ok(());
        }
        self.flush().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        // A client that reads nothing can still be told to go.
        tokio::select! {
            written = self.stream.write_all_buf(&mut self.output) => written?,
            _ = self.session.entry.disconnected() => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        self.stream.flush().await?;
        // An idle console client owns no buffer.
        self.output = BytesMut::new();
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        Ok(())
    }
}

/// How the waiting for an order ended.
enum Waited {
    Answer(Answer),
    Canceled,
    Left,
}
