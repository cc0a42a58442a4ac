//! Where a user's secret comes from: `auth_file` and the configuration first, then `auth_query`.
//!
//! Owns the choice of the database and user that `auth_query` runs under, and the memory of what it found. Running
//! the query is the caller's, through [`House`](super::House).
//!
//! What was found is used again for a short while where a wrong guess can be put right within the same login: plain
//! and MD5 secrets, which are then asked for anew. A SCRAM verifier is shown to the client before it proves anything,
//! so a new one is asked for each time; the remembered one serves while no server can be asked.

use std::time::{Duration, Instant};

use dashmap::DashMap;

use super::refusal::Refusal;
use crate::auth::Stored;
use crate::auth::login::{Freshness, Origin, Secret};
use crate::config::{Compatibility, Config, Database, is_console};
use crate::ids::{DatabaseName, UserName};
use crate::server::ServerConn;
use crate::server::query::{QueryError, Row, fetch_row};
use crate::wire::{Report, SqlState};

/// For how long a remembered secret is used without asking.
pub const REMEMBERED_MAX: Duration = Duration::from_secs(5);

/// Users remembered at most; beyond that all are forgotten and asked for again.
const USERS_MAX: usize = 50_000;

/// A query for one user's secret.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AuthQuery {
    /// The entry of `[databases]` it runs on.
    pub database: DatabaseName,
    /// Who runs it: `auth_user`.
    pub auth_user: UserName,
    /// Its text, with `$1` for the user.
    pub sql: String,
    /// Whose secret.
    pub user: UserName,
}

/// What a query found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Under which name the user goes on: another than was given where the query says so, as in PgBouncer.
    pub name: UserName,
    /// `None` is NULL: a user who can't log in by password.
    pub secret: Option<crate::config::Secret>,
}

/// Why a query found nothing out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthQueryError {
    /// No server to ask; the client gets this report, which is the server's own or the pool's.
    #[error("{}", .0.message)]
    Unavailable(Box<Report>),
    /// The query is wrong, or its result; the text is for the log.
    #[error("{0}")]
    Failed(String),
}

/// What `auth_query` found lately, by the whole question: entries that ask the same database may ask it for different
/// secrets.
#[derive(Default)]
pub struct SecretMemory(DashMap<AuthQuery, Remembered>);

struct Remembered {
    found: Found,
    at: Instant,
}

impl SecretMemory {
    /// Forgets everything: the configuration has changed.
    pub fn clear(&self) {
        self.0.clear();
    }

    fn find(&self, query: &AuthQuery) -> Option<(Found, Instant)> {
        let remembered = self.0.get(query)?;
        Some((remembered.found.clone(), remembered.at))
    }

    fn remember(&self, query: &AuthQuery, found: &Found, now: Instant) {
        if self.0.len() >= USERS_MAX {
            self.0.clear();
        }
        self.0.insert(query.clone(), Remembered { found: found.clone(), at: now });
    }

    fn forget(&self, query: &AuthQuery) {
        self.0.remove(query);
    }
}

/// What is known of a user without asking a server.
pub enum Lookup {
    /// This.
    Known(Known),
    /// A server must be asked.
    Ask {
        /// What.
        query: AuthQuery,
        /// Used where no server can be asked.
        fallback: Option<Found>,
    },
}

/// A user's secret.
pub struct Known {
    /// Under which name the user goes on.
    pub name: UserName,
    /// What is to be proved.
    pub secret: Secret,
    /// How certain that is.
    pub origin: Origin,
}

impl Known {
    fn certain(name: &UserName, secret: Secret) -> Self {
        Self { name: name.clone(), secret, origin: Origin::Certain }
    }

    fn found(query: &AuthQuery, found: &Found, origin: Origin) -> Self {
        Self { name: found.name.clone(), secret: parse(&query.user, found.secret.as_ref()), origin }
    }
}

/// Looks a user up for a login to `database`, which may be the console's.
pub fn look_up(
    config: &Config,
    memory: &SecretMemory,
    who: (&DatabaseName, &UserName),
    freshness: Freshness,
) -> Result<Lookup, Refusal> {
    let (database, user) = who;
    if let Some(secret) = config.secrets.get(user) {
        return Ok(Lookup::Known(Known::certain(user, parse(user, Some(secret)))));
    }
    let Some(query) = query_for(config, database, user)? else {
        return Ok(Lookup::Known(Known::certain(user, Secret::Unknown)));
    };
    match memory.find(&query) {
        None => Ok(Lookup::Ask { query, fallback: None }),
        Some((found, at)) => {
            let known = Known::found(&query, &found, Origin::Remembered);
            // Who has no secret is asked by guess, and one who has got a verifier by now would be asked the wrong thing.
            let correctable = matches!(&known.secret, Secret::Known(stored) if !stored.is_scram());
            if freshness == Freshness::Remembered && correctable && at.elapsed() < REMEMBERED_MAX {
                return Ok(Lookup::Known(known));
            }
            Ok(Lookup::Ask { query, fallback: Some(found) })
        }
    }
}

/// The longest database name: NAMEDATALEN in src/include/pg_config_manual.h less its zero byte. PostgreSQL cuts longer
/// ones; here they exist only where an entry has the very name.
const DATABASE_BYTES_MAX: usize = 63;

/// The entry of a client's database; `None` for the console, and where there is none.
pub(super) fn entry_of<'a>(config: &'a Config, database: &DatabaseName) -> Option<&'a Database> {
    match database.as_str() {
        name if is_console(name) => None,
        name if name.len() > DATABASE_BYTES_MAX => config.databases.get(database),
        _ => config.database(database),
    }
}

/// The query for a user, where one is configured for the database.
fn query_for(
    config: &Config,
    database: &DatabaseName,
    user: &UserName,
) -> Result<Option<AuthQuery>, Refusal> {
    let settings = &config.settings;
    let entry = entry_of(config, database);
    if entry.is_none() && !is_console(database.as_str()) {
        // An unknown database has nobody to ask.
        return Ok(None);
    }
    let auth_user = entry.and_then(|it| it.auth_user.as_ref()).or(settings.auth_user.as_ref());
    let Some(auth_user) = auth_user else { return Ok(None) };
    let auth_dbname = entry.and_then(|it| it.auth_dbname.as_ref()).or(settings.auth_dbname.as_ref());
    let on = auth_dbname.unwrap_or(database);
    if is_console(on.as_str()) {
        tracing::error!("cannot use the reserved \"{on}\" database as an auth_dbname");
        return Err(Refusal::Configuration);
    }
    if config.database(on).is_none() {
        tracing::error!("authentication database \"{on}\" is not configured.");
        return Err(Refusal::Configuration);
    }
    let sql = entry.and_then(|it| it.auth_query.as_ref()).unwrap_or(&settings.auth_query);
    Ok(Some(AuthQuery {
        database: on.clone(),
        auth_user: auth_user.clone(),
        sql: sql.clone(),
        user: user.clone(),
    }))
}

/// Turns a query's answer into a secret, and remembers it.
pub fn settle(
    config: &Config,
    memory: &SecretMemory,
    (query, fallback): (&AuthQuery, Option<Found>),
    answer: Result<Option<Found>, AuthQueryError>,
) -> Result<Known, Refusal> {
    match answer {
        Ok(Some(found)) => {
            memory.remember(query, &found, Instant::now());
            Ok(Known::found(query, &found, Origin::Certain))
        }
        Ok(None) => {
            memory.forget(query);
            match config.settings.compatibility {
                Compatibility::Postgres => Ok(Known::certain(&query.user, Secret::Unknown)),
                Compatibility::PgBouncer => Err(Refusal::NoSuchUser),
            }
        }
        Err(AuthQueryError::Unavailable(report)) => match fallback {
            Some(found) => {
                tracing::warn!(user = %query.user, "auth_query can't be run; using the secret it gave last");
                Ok(Known::found(query, &found, Origin::Certain))
            }
            None => Err(Refusal::Server(report)),
        },
        Err(AuthQueryError::Failed(why)) => {
            tracing::error!(database = %query.database, "auth_query failed: {why}");
            Err(Refusal::Configuration)
        }
    }
}

/// Runs a query on a server connection on loan from `auth_user`'s pool, and gives the connection back. Not cancel
/// safe: dropping it closes the connection.
///
/// Errors: the connection is closed.
pub async fn ask(
    conn: ServerConn,
    query: &AuthQuery,
    limit: Duration,
) -> Result<(ServerConn, Option<Found>), AuthQueryError> {
    let (conn, row) = fetch_row(conn, &query.sql, &[query.user.as_str()], limit).await?;
    Ok((conn, row.map(found).transpose()?))
}

/// Name and secret of a row.
fn found(row: Row) -> Result<Found, AuthQueryError> {
    let [name, secret] = <[_; 2]>::try_from(row.values).map_err(|values| {
        AuthQueryError::Failed(format!("expected 2 columns from auth_query, not {}", values.len()))
    })?;
    let Some(name) = name else {
        return Err(AuthQueryError::Failed("auth_query response contained null user name".to_owned()));
    };
    let text = |bytes: Vec<u8>| {
        let wrong = |_| AuthQueryError::Failed("auth_query response is not valid UTF-8".to_owned());
        String::from_utf8(bytes).map_err(wrong)
    };
    let secret = secret.map(text).transpose()?.map(crate::config::Secret::new);
    Ok(Found { name: text(name)?.as_str().into(), secret })
}

impl From<QueryError> for AuthQueryError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Refused(report) => {
                Self::Failed(format!("S: error in auth_query: {}", report.message))
            }
            QueryError::Unexpected(_) | QueryError::NotIdle | QueryError::NotDrained => {
                Self::Failed(format!("unexpected response from auth_query: {error}"))
            }
            QueryError::Timeout | QueryError::Conversation(_) => {
                let message = format!("auth_query could not be run: {error}");
                Self::Unavailable(Box::new(Report::fatal(SqlState::CONNECTION_FAILURE, message)))
            }
        }
    }
}

fn parse(user: &UserName, secret: Option<&crate::config::Secret>) -> Secret {
    let Some(secret) = secret else { return Secret::Absent };
    match Stored::parse(secret.reveal()) {
        Ok(stored) => Secret::Known(stored),
        Err(error) => {
            tracing::warn!(%user, "cannot log in by password: {error}");
            Secret::Absent
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_name_and_a_secret() {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let joe = |secret: Option<&str>| Found {
            name: "joe".into(),
            secret: secret.map(crate::config::Secret::new),
        };
        for (name, values, expected) in [
            ("secret", vec![text("joe"), text("md5x")], Ok(joe(Some("md5x")))),
            ("no secret", vec![text("joe"), None], Ok(joe(None))),
            ("no name", vec![None, text("x")], Err("auth_query response contained null user name")),
            ("one column", vec![text("joe")], Err("expected 2 columns from auth_query, not 1")),
            ("three", vec![text("joe"), None, None], Err("expected 2 columns from auth_query, not 3")),
            ("bytes", vec![text("joe"), Some(vec![0xff])], Err("auth_query response is not valid UTF-8")),
        ] {
            let read = found(Row { values }).map_err(|error| match error {
                AuthQueryError::Failed(text) => text,
                AuthQueryError::Unavailable(report) => report.message,
            });
            assert_eq!(read, expected.map_err(str::to_owned), "{name}");
        }
    }
}
