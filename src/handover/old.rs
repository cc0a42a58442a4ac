//! The process before this one, as the next one sees it: `-R`.
//!
//! Owns the conversation with the old process's console, over its unix socket and as its own system user: SUSPEND, SHOW
//! HANDOVER (PgBouncer: SHOW FDS), SHUTDOWN. It blocks: nothing else is there to be done yet. Until SHUTDOWN is sent the
//! old process has everything, and goes on with it as soon as this connection ends.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustix::process::geteuid;

use super::Task;
use crate::config::{CONSOLE, Settings};
use crate::net::listen::connect_unix;
use crate::net::{passing, socket_path};
use crate::stats::Disconnect;
use crate::wire::backend::tag;
use crate::wire::frame::HEADER;
use crate::wire::startup::encode_startup;
use crate::wire::{Backend, Header, encode};

/// How much longer than SUSPEND itself anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest row: a client's settings and names, and what it has sent in vain so far.
const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What another pgweir's version has in it.
const PGWEIR: &str = "(pgweir ";

/// Why nothing was taken over. The old process goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// There is no unix socket to find it by.
    #[error("cannot reboot if unix dir not configured")]
    NoSocket,
    /// The conversation broke.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// Why it could not.
        source: io::Error,
    },
    /// Another user of the system listens there, who could make up clients.
    #[error("the process that listens on the unix socket is run by another user ({0}), not by this one")]
    Stranger(u32),
    /// It refused.
    #[error("old process says: {0}")]
    Refused(String),
    /// It said what cannot be understood.
    #[error("invalid data from old process: {0}")]
    Unreadable(&'static str),
}

/// Which program runs there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// pgweir: everything can be handed over.
    Pgweir,
    /// PgBouncer, which tells no more than its SHOW FDS.
    PgBouncer,
}

/// A row of what it has.
#[derive(Debug)]
pub struct Row {
    /// What it is about.
    pub task: Task,
    /// The columns of SHOW FDS, and `state`.
    pub columns: Vec<Option<String>>,
    /// The socket.
    pub socket: Option<OwnedFd>,
}

impl Row {
    /// A column's text; empty where it is NULL.
    pub fn text(&self, column: Column) -> &str {
        self.columns.get(column as usize).and_then(Option::as_deref).unwrap_or_default()
    }

    /// A column's bytes, of type `bytea`. `None`: it is NULL or no bytes.
    pub fn bytes(&self, column: Column) -> Option<Vec<u8>> {
        let digits = self.columns.get(column as usize)?.as_deref()?.strip_prefix("\\x")?.as_bytes();
        let digit = |byte: u8| char::from(byte).to_digit(16);
        digits.chunks(2).map(|it| u8::try_from(digit(it[0])? << 4 | digit(*it.get(1)?)?).ok()).collect()
    }
}

/// The columns of SHOW FDS and SHOW HANDOVER.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the columns' own")]
pub enum Column {
    Fd,
    Task,
    User,
    Database,
    Addr,
    Port,
    Cancel,
    Link,
    ClientEncoding,
    StdStrings,
    DateStyle,
    TimeZone,
    Password,
    ScramClientKey,
    ScramServerKey,
    State,
}

/// The old process, suspended.
#[derive(Debug)]
pub struct OldProcess {
    stream: UnixStream,
    received: Vec<u8>,
    sockets: Vec<OwnedFd>,
    /// Which program it is.
    pub program: Program,
}

impl OldProcess {
    /// Finds the process that serves this socket and has it stand still. `None`: there is none.
    ///
    /// Errors: it does not let us, or not in time.
    pub fn suspend(socket: &Path, suspend_timeout: Duration) -> Result<Option<Self>, TakeOverError> {
        let Ok(stream) = connect_unix(socket) else { return Ok(None) };
        let owner = rustix::net::sockopt::socket_peercred(&stream).map_err(io::Error::from);
        let owner = owner.map_err(|source| TakeOverError::Io { step: "peer", source })?.uid;
        if owner != geteuid() {
            return Err(TakeOverError::Stranger(owner.as_raw()));
        }
        let limit = (!suspend_timeout.is_zero()).then_some(suspend_timeout + PATIENCE);
        let set = stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit));
        set.map_err(|source| TakeOverError::Io { step: "timeout", source })?;
        let mut old = Self { stream, received: Vec::new(), sockets: Vec::new(), program: Program::PgBouncer };
        old.log_in()?;
        let version = old.ask("SHOW VERSION;")?;
        let is_ours = version.iter().flatten().flatten().any(|it| it.contains(PGWEIR));
        old.program = if is_ours { Program::Pgweir } else { Program::PgBouncer };
        tracing::info!("login OK, sending SUSPEND");
        old.ask("SUSPEND;")?;
        Ok(Some(old))
    }

    /// Receives all that it has.
    ///
    /// Errors: it refuses, or says what cannot be understood.
    pub fn rows(&mut self) -> Result<Vec<Row>, TakeOverError> {
        let command = match self.program {
            Program::Pgweir => "SHOW HANDOVER;",
            Program::PgBouncer => "SHOW FDS;",
        };
        tracing::info!("SUSPEND finished, sending {command}");
        let rows = self.ask(command)?;
        let mut sockets = VecDeque::from(std::mem::take(&mut self.sockets));
        let row = |columns: Vec<Option<String>>| {
            let word = columns.get(Column::Task as usize).and_then(Option::as_deref);
            let task = word.and_then(Task::of).ok_or(TakeOverError::Unreadable("an unknown task"))?;
            let has_socket = matches!(task, Task::Pooler | Task::Client | Task::Server);
            let socket = if has_socket { sockets.pop_front() } else { None };
            if has_socket && socket.is_none() {
                return Err(TakeOverError::Unreadable("a row without its socket"));
            }
            Ok(Row { task, columns, socket })
        };
        rows.into_iter().map(row).collect()
    }

    /// Has it end, and waits until it has: from then on all sockets are ours.
    ///
    /// Errors: it does not end in time, or has sent us away instead: then it goes on.
    pub fn shut_down(mut self) -> Result<(), TakeOverError> {
        tracing::info!("sending SHUTDOWN");
        // If it is ending already, it says so all the same.
        let _ = self.say("SHUTDOWN;");
        loop {
            let (tag, body) = match self.message() {
                Ok(message) => message,
                // PgBouncer ends without a word.
                Err(TakeOverError::Io { .. }) if self.program == Program::PgBouncer => return Ok(()),
                Err(error) => return Err(error),
            };
            match Backend::decode(tag, &body) {
                Ok(Backend::ErrorResponse(report)) if report.message == Disconnect::Shutdown.message() => {
                    return Ok(());
                }
                Ok(Backend::ErrorResponse(report)) => return Err(TakeOverError::Refused(report.message)),
                _ => {}
            }
        }
    }

    fn log_in(&mut self) -> Result<(), TakeOverError> {
        let mut out = BytesMut::new();
        // By this name the console knows the system user that runs the process.
        encode_startup(&mut out, 0, [("user", CONSOLE), ("database", CONSOLE)]);
        let sent = self.stream.write_all(&out);
        sent.map_err(|source| TakeOverError::Io { step: "login", source })?;
        self.answer().map(drop)
    }

    fn say(&mut self, command: &str) -> Result<(), TakeOverError> {
        let mut out = BytesMut::new();
        encode::query(&mut out, command);
        self.stream.write_all(&out).map_err(|source| TakeOverError::Io { step: "command", source })
    }

    fn ask(&mut self, command: &str) -> Result<Vec<Vec<Option<String>>>, TakeOverError> {
        self.say(command)?;
        self.answer()
    }

    fn receive(&mut self) -> Result<usize, TakeOverError> {
        passing::receive(&self.stream, &mut self.received, &mut self.sockets)
            .map_err(|source| TakeOverError::Io { step: "waiting for the old process", source })
    }

    /// The rows up to the next ReadyForQuery.
    fn answer(&mut self) -> Result<Vec<Vec<Option<String>>>, TakeOverError> {
        let broken = |_| TakeOverError::Unreadable("a broken message");
        let (mut rows, mut refusal) = (Vec::new(), None);
        loop {
            let (tag, body) = self.message()?;
            match tag {
                tag::DATA_ROW => rows.push(columns(&body).ok_or(TakeOverError::Unreadable("a row"))?),
                tag::ERROR_RESPONSE => {
                    if let Backend::ErrorResponse(report) = Backend::decode(tag, &body).map_err(broken)? {
                        refusal = Some(report.message);
                    }
                }
                tag::AUTHENTICATION if body.get(..4) != Some(&[0; 4]) => {
                    return Err(TakeOverError::Refused("it wants a password".to_owned()));
                }
                tag::READY_FOR_QUERY => {
                    return refusal.map_or(Ok(rows), |it| Err(TakeOverError::Refused(it)));
                }
                _ => {}
            }
            if let (Some(text), true) = (&refusal, self.received.is_empty())
                && rows.is_empty()
                && tag == tag::ERROR_RESPONSE
                && self.receive().unwrap_or(0) == 0
            {
                // A refused login ends without ReadyForQuery.
                return Err(TakeOverError::Refused(text.clone()));
            }
        }
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>), TakeOverError> {
        loop {
            match Header::peek(&self.received).map_err(|_| TakeOverError::Unreadable("a broken message"))? {
                Some(header) if header.body > MESSAGE_BYTES_MAX => {
                    return Err(TakeOverError::Unreadable("a message too long"));
                }
                Some(header) if self.received.len() >= header.total() => {
                    let rest = self.received.split_off(header.total());
                    let body = std::mem::replace(&mut self.received, rest).split_off(HEADER);
                    return Ok((header.tag, body));
                }
                _ => {}
            }
            if self.receive()? == 0 {
                let source = io::ErrorKind::UnexpectedEof.into();
                return Err(TakeOverError::Io { step: "waiting for the old process", source });
            }
        }
    }
}

/// The fields of a DataRow, as text.
fn columns(mut body: &[u8]) -> Option<Vec<Option<String>>> {
    let count = body.try_get_u16().ok()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let length = body.try_get_i32().ok()?;
        let Ok(length) = usize::try_from(length) else {
            columns.push(None);
            continue;
        };
        let (text, rest) = body.split_at_checked(length)?;
        columns.push(Some(String::from_utf8(text.to_vec()).ok()?));
        body = rest;
    }
    body.is_empty().then_some(columns)
}

/// Where the old process is to be found: the socket that this configuration would have.
///
/// Errors: it would have none.
pub fn socket_of(settings: &Settings) -> Result<PathBuf, TakeOverError> {
    let dir = settings.unix_socket_dir.as_ref().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.ok_or(TakeOverError::NoSocket)?;
    Ok(socket_path(dir, settings.listen_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_broken_ones_refused() {
        let body = b"\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(columns(body), Some(vec![Some("ab".to_owned()), None, Some(String::new())]));
        for length in 0..body.len() {
            assert_eq!(columns(&body[..length]), None, "{length}");
        }
        let mut state = vec![None; 16];
        state[15] = Some("\\x00ff1".to_owned());
        let row = |state| Row { task: Task::Client, columns: state, socket: None };
        assert_eq!(row(state.clone()).bytes(Column::State), None);
        state[15] = Some("\\x00ff".to_owned());
        assert_eq!(row(state).bytes(Column::State), Some(vec![0, 0xff]));
    }
}
