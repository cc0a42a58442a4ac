//! Why the console does not do what it was told.
//!
//! Owns the texts, which are PgBouncer's, and the one place that chooses their SQLSTATE.

use super::command::loggable;
use super::show::Topic;
use crate::config::Compatibility;
use crate::ids::DatabaseName;
use crate::wire::{Report, SqlState};

/// A command that is not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// No such command.
    #[error("invalid command '{0}', use SHOW HELP;")]
    InvalidCommand(String),
    /// Several statements in one Parse.
    #[error("cannot insert multiple commands into a prepared statement")]
    SeveralInOne,
    /// SHOW FDS and SHOW HANDOVER in a Parse: sockets come between rows.
    #[error("this command needs a simple query")]
    SimpleQueryOnly,
    /// A SET without a name or a value.
    #[error("bad arguments")]
    BadArguments,
    /// The user is one of `stats_users` only.
    #[error("admin access needed")]
    AdminNeeded,
    /// DISABLE, ENABLE without a database.
    #[error("a database is required")]
    DatabaseRequired,
    /// No entry of that name, and no entry `*`.
    #[error("no such database: {0}")]
    NoSuchDatabase(DatabaseName),
    /// The console's own database cannot be paused, disabled …
    #[error("cannot {verb} admin db: {database}")]
    Console {
        /// What was to be done.
        verb: &'static str,
        /// The name.
        database: DatabaseName,
    },
    /// RESUME of a database that runs.
    #[error("database {0} is not paused")]
    NotPaused(DatabaseName),
    /// RESUME while all run.
    #[error("pooler is not paused/suspended")]
    PoolerNotPaused,
    /// RESUME during a shutdown.
    #[error("pooler is shutting down")]
    ShuttingDown,
    /// PAUSE, SUSPEND or KILL while paused.
    #[error("already suspended/paused")]
    AlreadyPaused,
    /// SUSPEND with single databases paused: their buffers could not be emptied.
    #[error("cannot suspend with paused databases")]
    PausedDatabases,
    /// KILL_CLIENT without a number.
    #[error("invalid client pointer supplied")]
    InvalidClient,
    /// KILL_CLIENT with a number that no client has.
    #[error("client not found")]
    ClientNotFound,
    /// SET of an unknown setting, or to a value it cannot have.
    #[error("SET failed")]
    SetFailed {
        /// What is wrong.
        why: String,
    },
    /// The configuration has mistakes; nothing was changed.
    #[error("RELOAD failed, see logs for additional details")]
    ReloadFailed {
        /// The first mistake, and how many more there are.
        why: String,
    },
    /// The client cancelled a command that waits.
    #[error("canceling statement due to user request")]
    Canceled,
    /// Nobody carries out orders any more.
    #[error("pooler is shutting down")]
    Stopped,
    /// The client's messages make no sense to the console.
    #[error("{0}")]
    Protocol(String),
    /// An Execute, Bind or Describe of a statement that was not parsed.
    #[error("prepared statement \"{0}\" does not exist")]
    NoSuchStatement(String),
    /// An Execute or Describe of a portal that was not bound.
    #[error("portal \"{0}\" does not exist")]
    NoSuchPortal(String),
    /// More than the console keeps.
    #[error("too many prepared statements or portals")]
    TooMany,
}

impl Refusal {
    /// What is sent for it.
    pub fn report(&self, compatibility: Compatibility) -> Report {
        let sqlstate = match (self, compatibility) {
            // The only one for which PgBouncer has an SQLSTATE of its own.
            (Self::ReloadFailed { .. }, _) => SqlState::CONFIG_FILE_ERROR,
            (_, Compatibility::PgBouncer) => SqlState::PROTOCOL_VIOLATION,
            (_, Compatibility::Postgres) => self.sqlstate(),
        };
        let report = Report::error(sqlstate, self.to_string());
        if compatibility == Compatibility::PgBouncer {
            return report;
        }
        match self {
            Self::SetFailed { why } | Self::ReloadFailed { why } if !why.is_empty() => report.detail(why),
            Self::InvalidCommand(statement) => match did_you_mean(statement) {
                Some(hint) => report.hint(hint),
                None => report,
            },
            Self::AdminNeeded => report.hint("Add the user to admin_users."),
            Self::PoolerNotPaused | Self::NotPaused(_) => {
                report.hint("SHOW STATE and SHOW DATABASES tell what is paused.")
            }
            Self::AlreadyPaused => report.hint("RESUME first."),
            _ => report,
        }
    }

    /// The same for the log, which never has a secret.
    pub fn for_log(&self) -> String {
        match self {
            Self::InvalidCommand(statement) => {
                Self::InvalidCommand(loggable(statement).to_owned()).to_string()
            }
            // PgBouncer has no other place for the reason.
            Self::SetFailed { why } => format!("SET failed: {why}"),
            _ => self.to_string(),
        }
    }

    fn sqlstate(&self) -> SqlState {
        match self {
            Self::InvalidCommand(_) | Self::SeveralInOne | Self::BadArguments | Self::DatabaseRequired => {
                SqlState::SYNTAX_ERROR
            }
            Self::AdminNeeded => SqlState::INSUFFICIENT_PRIVILEGE,
            Self::NoSuchDatabase(_) => SqlState::INVALID_CATALOG_NAME,
            Self::Console { .. }
            | Self::NotPaused(_)
            | Self::PoolerNotPaused
            | Self::ShuttingDown
            | Self::AlreadyPaused
            | Self::PausedDatabases => SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::InvalidClient | Self::SetFailed { .. } => SqlState::INVALID_PARAMETER_VALUE,
            Self::ClientNotFound => SqlState::UNDEFINED_OBJECT,
            Self::ReloadFailed { .. } => SqlState::CONFIG_FILE_ERROR,
            Self::Canceled => SqlState::QUERY_CANCELED,
            Self::Stopped => SqlState::CANNOT_CONNECT_NOW,
            Self::Protocol(_) => SqlState::PROTOCOL_VIOLATION,
            Self::SimpleQueryOnly => SqlState::FEATURE_NOT_SUPPORTED,
            Self::NoSuchStatement(_) => SqlState::INVALID_STATEMENT_NAME,
            // invalid_cursor_name, as PostgreSQL says for a portal: exec_execute_message in src/backend/tcop/postgres.c.
            Self::NoSuchPortal(_) => SqlState(*b"34000"),
            Self::TooMany => SqlState::PROGRAM_LIMIT_EXCEEDED,
        }
    }
}

fn did_you_mean(statement: &str) -> Option<String> {
    let mut words = statement.split_ascii_whitespace();
    let (verb, object) = (words.next()?, words.next()?.trim_end_matches(';'));
    if !verb.eq_ignore_ascii_case("show") {
        return None;
    }
    Topic::resembling(object).map(|it| format!("Did you mean SHOW {}?", it.to_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_gets_a_hint() {
        let hint =
            |statement: &str| Refusal::InvalidCommand(statement.into()).report(Compatibility::Postgres).hint;
        assert_eq!(hint("show pool").as_deref(), Some("Did you mean SHOW POOLS?"));
        assert_eq!(hint("SHOW clinets;").as_deref(), Some("Did you mean SHOW CLIENTS?"));
        assert_eq!(hint("show xyz"), None);
        assert_eq!(hint("select 2"), None);
    }

    #[test]
    fn a_set_that_is_not_understood_stands_in_no_log() {
        for statement in ["SET auth_ldap_options 'secret'", "/* x */ set x y secret", "--\nSet\tx 'secret'"] {
            let logged = Refusal::InvalidCommand(statement.into()).for_log();
            assert_eq!(logged, "invalid command 'SET …', use SHOW HELP;", "{statement}");
        }
        assert_eq!(
            Refusal::InvalidCommand("SHO X".into()).for_log(),
            "invalid command 'SHO X', use SHOW HELP;"
        );
    }

    #[test]
    fn in_pgbouncers_way_there_is_the_message_alone() {
        let why = || "pool_mode: unknown value".to_owned();
        for refusal in [
            Refusal::SetFailed { why: why() },
            Refusal::ReloadFailed { why: why() },
            Refusal::InvalidCommand("show pool".into()),
            Refusal::AdminNeeded,
            Refusal::PoolerNotPaused,
            Refusal::AlreadyPaused,
        ] {
            let said = refusal.report(Compatibility::PgBouncer);
            assert_eq!((said.detail, said.hint), (None, None), "{refusal:?}");
            let said = refusal.report(Compatibility::Postgres);
            assert!(said.detail.is_some() || said.hint.is_some(), "{refusal:?}");
        }
        assert_eq!(Refusal::SetFailed { why: why() }.for_log(), "SET failed: pool_mode: unknown value");
    }

    #[test]
    fn a_failed_reload_has_its_own_code_in_both_ways() {
        for compatibility in [Compatibility::Postgres, Compatibility::PgBouncer] {
            let report = Refusal::ReloadFailed { why: String::new() }.report(compatibility);
            assert_eq!(report.sqlstate, SqlState::CONFIG_FILE_ERROR);
        }
    }
}
