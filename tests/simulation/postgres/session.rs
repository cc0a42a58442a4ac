//! What a session of PostgreSQL remembers, and what statements do to it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::sql::{self, Argument, Statement};

/// Settings that are reported, as they are spelled.
pub const REPORTED: [&str; 4] = ["TimeZone", "application_name", "client_encoding", "in_hot_standby"];

const DEFAULTS: [(&str, &str); 8] = [
    ("timezone", "UTC"),
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("in_hot_standby", "off"),
    ("work_mem", "4MB"),
    ("geqo", "on"),
    ("statement_timeout", "0"),
    ("search_path", "public"),
];

/// Why a statement fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub sqlstate: &'static str,
    pub message: String,
    pub routine: &'static str,
}

pub fn failure(sqlstate: &'static str, message: impl Into<String>) -> Failure {
    Failure { sqlstate, message: message.into(), routine: "model" }
}

pub fn aborted() -> Failure {
    failure("25P02", "current transaction is aborted, commands ignored until end of transaction block")
}

/// What a statement gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Rows(Vec<Vec<u8>>, String),
    CopyIn,
    CopyOut(Vec<Vec<u8>>),
}

fn command(tag: &str) -> Result<Outcome, Failure> {
    Ok(Outcome::Rows(Vec::new(), tag.to_owned()))
}

/// What a rollback restores.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transactional {
    /// Values other than those of the session's start, by name in lower case.
    settings: BTreeMap<String, String>,
    /// Those of SET LOCAL.
    local: BTreeMap<String, String>,
    pub role: Option<String>,
    pub temporary: BTreeSet<String>,
    pub listens: BTreeSet<String>,
    pub cursors: BTreeSet<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Transaction {
    #[default]
    Idle,
    /// Until the end of the Query or the Sync.
    Implicit,
    Block,
    Failed,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    /// `None`: empty text.
    pub statement: Option<Statement>,
    /// By SQL's PREPARE.
    pub by_sql: bool,
    pub owner: Option<usize>,
    pub epoch: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Session {
    boot: BTreeMap<String, String>,
    /// The role that the start-up message asked for.
    boot_role: Option<String>,
    pub now: Transactional,
    at_start: Transactional,
    savepoints: Vec<Transactional>,
    pub transaction: Transaction,
    pub prepared: BTreeMap<String, Prepared>,
    pub locks: BTreeSet<String>,
    /// To be delivered once the transaction is committed.
    notifies: Vec<(String, String)>,
    pub committed_notifies: Vec<(String, String)>,
    /// Client that has this session's server on loan, where that is known.
    pub owner: Option<usize>,
    pub epoch: u32,
}

impl Session {
    pub fn new(start: &[(String, String)]) -> Self {
        let mut boot: BTreeMap<String, String> =
            DEFAULTS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        boot.extend(start.iter().map(|(name, value)| (name.to_ascii_lowercase(), canonical(name, value))));
        let boot_role = boot.remove("role");
        let now = Transactional { role: boot_role.clone(), ..Transactional::default() };
        Self { boot, boot_role, now, ..Self::default() }
    }

    /// A change of the configuration file, or of the server's state.
    pub fn reconfigure(&mut self, name: &str, value: &str) {
        self.boot.insert(name.to_ascii_lowercase(), value.to_owned());
    }

    pub fn setting(&self, name: &str) -> Option<&str> {
        let name = name.to_ascii_lowercase();
        let found = self.now.local.get(&name).or_else(|| self.now.settings.get(&name));
        found.or_else(|| self.boot.get(&name)).map(String::as_str)
    }

    /// The settings that differ from those of the start, reported ones left out.
    pub fn changed(&self) -> impl Iterator<Item = (&str, &str)> {
        let reported = |name: &str| REPORTED.iter().any(|it| it.eq_ignore_ascii_case(name));
        let all = self.now.settings.iter().filter(move |(name, _)| !reported(name));
        all.map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, value)| self.boot.get(*name).is_none_or(|it| it != value))
    }

    pub fn begin_implicit(&mut self) {
        if self.transaction == Transaction::Idle {
            self.transaction = Transaction::Implicit;
            self.at_start = self.now.clone();
            self.savepoints.clear();
        }
    }

    pub fn end(&mut self, commits: bool) {
        self.transaction = Transaction::Idle;
        if commits {
            self.now.local.clear();
            self.committed_notifies.append(&mut self.notifies);
        } else {
            self.now = self.at_start.clone();
            self.notifies.clear();
        }
    }

    /// A statement has failed.
    pub fn abort(&mut self) {
        match self.transaction {
            Transaction::Block => {
                self.transaction = Transaction::Failed;
                self.now = self.savepoints.last().unwrap_or(&self.at_start).clone();
            }
            Transaction::Failed => {}
            Transaction::Idle | Transaction::Implicit => {
                self.begin_implicit();
                self.end(false);
            }
        }
    }

    /// What pooling by transactions takes away from a client at the end of each.
    pub fn forget(&mut self, all_statements: bool) {
        let kept = |name: &String| REPORTED.iter().any(|it| it.eq_ignore_ascii_case(name));
        let mut settings = std::mem::take(&mut self.now.settings);
        settings.retain(|name, _| kept(name));
        let role = self.boot_role.clone();
        self.now = Transactional { settings, role, ..Transactional::default() };
        self.locks.clear();
        self.prepared.retain(|_, it| !it.by_sql && !all_statements);
    }

    fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<(), Failure> {
        let key = name.to_ascii_lowercase();
        if key == "role" {
            self.now.role = value.map(str::to_owned);
            return Ok(());
        }
        if !self.boot.contains_key(&key) {
            let message = format!("unrecognized configuration parameter \"{name}\"");
            return Err(failure("42704", message));
        }
        if value == Some("invalid") {
            return Err(failure("22023", format!("invalid value for parameter \"{name}\": \"invalid\"")));
        }
        self.now.local.remove(&key);
        match value {
            None => drop(self.now.settings.remove(&key)),
            Some(value) if local => drop(self.now.local.insert(key, canonical(name, value))),
            Some(value) => drop(self.now.settings.insert(key, canonical(name, value))),
        }
        Ok(())
    }

    /// Checks that a token belongs to the client that has this server.
    pub fn witness(&self, token: &str) -> Result<(), String> {
        let client = token.strip_prefix('c').and_then(|it| it.split_once('.')).map(|(it, _)| it);
        match (self.owner, client) {
            (Some(owner), Some(client)) if client != owner.to_string() => {
                Err(format!("a server lent to client {owner} executes {token}"))
            }
            _ => Ok(()),
        }
    }

    /// Executes a statement other than `slow`, whose time is the protocol's business.
    pub fn run(&mut self, statement: &Statement, value: Option<&str>) -> Result<Outcome, Failure> {
        if self.transaction == Transaction::Failed && !statement.is_exit() {
            return Err(aborted());
        }
        self.begin_implicit();
        match statement {
            Statement::Begin
            | Statement::Commit
            | Statement::Rollback
            | Statement::Savepoint
            | Statement::RollbackTo => self.control(statement),
            Statement::Echo { token, rows, bytes } => {
                let token = match token {
                    Argument::Literal(token) => token,
                    Argument::Parameter => value.unwrap_or("no value"),
                };
                Ok(Outcome::Rows(echo(token, *rows, *bytes), format!("SELECT {rows}")))
            }
            Statement::CopyOut { token, rows, bytes } => Ok(Outcome::CopyOut(echo(token, *rows, *bytes))),
            Statement::CopyIn => Ok(Outcome::CopyIn),
            Statement::Fail(token) => Err(failure("22012", format!("division by zero at {token}"))),
            Statement::Slow(token) => Ok(Outcome::Rows(echo(token, 1, 0), "SELECT 1".into())),
            Statement::Show(name) => match self.show(name) {
                Some(value) => Ok(Outcome::Rows(vec![value.into_bytes()], "SHOW".into())),
                None => Err(failure("42704", "unrecognized configuration parameter")),
            },
            Statement::Prepare { name, text } => self.prepare(name, text),
            Statement::Execute(name) => match self.prepared.get(name).map(|it| it.statement.clone()) {
                Some(Some(statement)) => self.run(&statement, None),
                _ => Err(missing(name)),
            },
            other => self.change(other),
        }
    }

    fn show(&self, name: &str) -> Option<String> {
        match name {
            "role" => Some(self.now.role.clone().unwrap_or_else(|| "none".into())),
            "temporary" => Some(format!("{:?}", self.now.temporary)),
            "locks" => Some(format!("{:?}", self.locks)),
            name => self.setting(name).map(str::to_owned),
        }
    }

    fn prepare(&mut self, name: &str, text: &str) -> Result<Outcome, Failure> {
        if self.prepared.contains_key(name) {
            return Err(failure("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        let statement = sql::parse(text).ok().and_then(|it| it.into_iter().next());
        let prepared = Prepared { statement, by_sql: true, owner: self.owner, epoch: self.epoch };
        self.prepared.insert(name.to_owned(), prepared);
        command("PREPARE")
    }

    fn control(&mut self, statement: &Statement) -> Result<Outcome, Failure> {
        let block = matches!(self.transaction, Transaction::Block | Transaction::Failed);
        match statement {
            Statement::Begin => {
                self.transaction = Transaction::Block;
                command("BEGIN")
            }
            Statement::Commit => {
                let commits = self.transaction != Transaction::Failed;
                self.end(commits);
                command(if commits { "COMMIT" } else { "ROLLBACK" })
            }
            Statement::Rollback => {
                self.end(false);
                command("ROLLBACK")
            }
            Statement::Savepoint if block => {
                self.savepoints.push(self.now.clone());
                command("SAVEPOINT")
            }
            _ if !block => Err(failure("25P01", "SAVEPOINT can only be used in transaction blocks")),
            _ => match self.savepoints.last() {
                None => Err(failure("3B001", "savepoint does not exist")),
                Some(then) => {
                    self.now = then.clone();
                    self.transaction = Transaction::Block;
                    command("ROLLBACK")
                }
            },
        }
    }

    fn change(&mut self, statement: &Statement) -> Result<Outcome, Failure> {
        match statement {
            Statement::Set { name, value, local } => {
                self.set(name, value.as_deref(), *local)?;
                command(if value.is_none() { "RESET" } else { "SET" })
            }
            Statement::SetConfig(list) => {
                for (name, value) in list {
                    self.set(name, Some(value), false)?;
                }
                Ok(Outcome::Rows(vec![b"set".to_vec()], "SELECT 1".into()))
            }
            Statement::ResetAll => {
                self.now.settings.clear();
                self.now.local.clear();
                command("RESET")
            }
            Statement::SetRole(role) => {
                self.now.role = role.clone().or_else(|| self.boot_role.clone());
                command(if role.is_none() { "RESET" } else { "SET" })
            }
            Statement::CreateTemp(name) => {
                self.now.temporary.insert(name.clone());
                command("CREATE TABLE")
            }
            Statement::Lock(key) => {
                self.locks.insert(key.clone());
                Ok(Outcome::Rows(vec![Vec::new()], "SELECT 1".into()))
            }
            Statement::UnlockAll => {
                self.locks.clear();
                Ok(Outcome::Rows(vec![Vec::new()], "SELECT 1".into()))
            }
            Statement::Listen(channel) => {
                self.now.listens.insert(channel.clone());
                command("LISTEN")
            }
            Statement::UnlistenAll => {
                self.now.listens.clear();
                command("UNLISTEN")
            }
            Statement::Notify { channel, payload } => {
                self.notifies.push((channel.clone(), payload.clone()));
                command("NOTIFY")
            }
            Statement::DeclareHold(name) => {
                self.now.cursors.insert(name.clone());
                command("DECLARE CURSOR")
            }
            Statement::CloseAll => {
                // A closed portal does not come back by a rollback.
                let snapshots = self.savepoints.iter_mut().chain([&mut self.at_start, &mut self.now]);
                snapshots.for_each(|it| it.cursors.clear());
                command("CLOSE CURSOR ALL")
            }
            Statement::Deallocate(name) => match self.prepared.remove(name) {
                Some(_) => command("DEALLOCATE"),
                None => Err(missing(name)),
            },
            Statement::DeallocateAll => {
                self.prepared.clear();
                command("DEALLOCATE ALL")
            }
            Statement::DiscardTemp => {
                self.now.temporary.clear();
                command("DISCARD TEMP")
            }
            Statement::DiscardAll => self.discard_all(),
            other => unreachable!("{other:?} is executed elsewhere"),
        }
    }

    fn discard_all(&mut self) -> Result<Outcome, Failure> {
        if self.transaction == Transaction::Block {
            return Err(failure("25001", "DISCARD ALL cannot run inside a transaction block"));
        }
        self.now = Transactional { role: self.boot_role.clone(), ..Transactional::default() };
        self.prepared.clear();
        self.locks.clear();
        command("DISCARD ALL")
    }
}

pub fn missing(name: &str) -> Failure {
    if name.is_empty() {
        return failure("26000", "unnamed prepared statement does not exist");
    }
    failure("26000", format!("prepared statement \"{name}\" does not exist"))
}

fn canonical(name: &str, value: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "timezone" => value.to_ascii_uppercase(),
        "client_encoding" if value.replace('-', "").eq_ignore_ascii_case("utf8") => "UTF8".into(),
        _ => value.to_owned(),
    }
}

/// The rows that `echo` gives.
fn echo(token: &str, rows: usize, bytes: usize) -> Vec<Vec<u8>> {
    let row = |number: usize| {
        let mut row = format!("{token}#{number} ").into_bytes();
        row.resize(row.len().max(bytes), b'.');
        row
    };
    (0..rows).map(row).collect()
}
