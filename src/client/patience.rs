//! The time limits of a logged-in client, and what it is told when one is over.

use std::time::{Duration, Instant};

use crate::config::{ClientSettings, Compatibility};
use crate::pool::{QueueView, Refusal as PoolRefusal};
use crate::session::relay::Activity;
use crate::session::verdict::CloseReason;
use crate::stats::Disconnect;
use crate::wire::{Report, Severity, SqlState};

/// A limit that can be over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeLimit {
    /// `query_wait_notify`: the client is told that it waits.
    WaitNotice,
    /// `query_wait_timeout`.
    Wait,
    /// `query_timeout` while still waiting for a server.
    QueryWaiting,
    /// `query_timeout`.
    Query,
    /// `idle_transaction_timeout`.
    IdleTransaction,
    /// `transaction_timeout`.
    Transaction,
    /// `client_idle_timeout`.
    Idle,
}

/// What is known of a client that decides when its patience, or ours, ends.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// What it is doing.
    pub activity: Activity,
    /// Since when it waits for a server.
    pub waiting_since: Option<Instant>,
    /// It was told that it waits.
    pub noticed: bool,
    /// Since when it is in a transaction on a server.
    pub transaction_since: Option<Instant>,
}

/// The limits of a replication client: a base backup, a first copy of all tables and a stream take as long as they take.
pub fn of_replication(settings: ClientSettings) -> ClientSettings {
    ClientSettings {
        query_timeout: Duration::ZERO,
        transaction_timeout: Duration::ZERO,
        idle_transaction_timeout: Duration::ZERO,
        ..settings
    }
}

/// The next limit to be over, if nothing happens before.
pub fn next(settings: &ClientSettings, situation: &Situation) -> Option<(Instant, TimeLimit)> {
    let after = |since: Option<Instant>, limit: Duration, which: TimeLimit| {
        (!limit.is_zero()).then(|| Some((since?.checked_add(limit)?, which))).flatten()
    };
    let limits = match situation.activity {
        Activity::Idle(since) => {
            [after(Some(since), settings.client_idle_timeout, TimeLimit::Idle), None, None]
        }
        Activity::Waiting => {
            let since = situation.waiting_since;
            let notice = after(since, settings.query_wait_notify, TimeLimit::WaitNotice);
            [
                notice.filter(|_| !situation.noticed),
                after(since, settings.query_wait_timeout, TimeLimit::Wait),
                after(since, settings.query_timeout, TimeLimit::QueryWaiting),
            ]
        }
        Activity::Querying(since) => [
            after(Some(since), settings.query_timeout, TimeLimit::Query),
            after(situation.transaction_since, settings.transaction_timeout, TimeLimit::Transaction),
            None,
        ],
        Activity::IdleInTransaction(since) => [
            after(Some(since), settings.idle_transaction_timeout, TimeLimit::IdleTransaction),
            after(situation.transaction_since, settings.transaction_timeout, TimeLimit::Transaction),
            None,
        ],
    };
    limits.into_iter().flatten().min_by_key(|(when, _)| *when)
}

/// The notice for a client that waits.
pub fn wait_notice() -> Report {
    Report::notice("No server connection available in postgres backend, client being queued")
}

/// What a client is told whose limit is over.
pub fn over(limit: TimeLimit, queue: Option<&QueueView>, compatibility: Compatibility) -> Report {
    let (sqlstate, message, hint) = match limit {
        TimeLimit::WaitNotice => return wait_notice(),
        TimeLimit::Wait => (
            SqlState::TOO_MANY_CONNECTIONS,
            "query_wait_timeout",
            "Make transactions shorter, raise pool_size, or raise query_wait_timeout.",
        ),
        TimeLimit::QueryWaiting => (
            SqlState::QUERY_CANCELED,
            "query_timeout",
            "The query never got a server: make transactions shorter, or raise pool_size or query_timeout.",
        ),
        TimeLimit::Query => {
            (SqlState::QUERY_CANCELED, "query timeout", "Make the query faster, or raise query_timeout.")
        }
        TimeLimit::IdleTransaction => (
            SqlState::IDLE_IN_TRANSACTION_TIMEOUT,
            "idle transaction timeout",
            "Commit or roll back sooner, or raise idle_transaction_timeout.",
        ),
        TimeLimit::Transaction => (
            SqlState::TRANSACTION_TIMEOUT,
            "transaction timeout",
            "Make transactions shorter, or raise transaction_timeout.",
        ),
        TimeLimit::Idle => (
            SqlState::IDLE_SESSION_TIMEOUT,
            "client_idle_timeout",
            "Connect again when there is something to do, or raise client_idle_timeout.",
        ),
    };
    let report = styled(sqlstate, message, compatibility);
    if compatibility == Compatibility::PgBouncer {
        return report;
    }
    match queue {
        Some(queue) => report.detail(describe(queue)).hint(hint),
        None => report.hint(hint),
    }
}

/// What a client is told that waited too long for a server while it was logging in: why none can be opened, if that
/// is known.
pub fn waited_in_vain(limit: TimeLimit, queue: Option<&QueueView>, compatibility: Compatibility) -> Report {
    match queue.and_then(|it| it.failure.as_ref()) {
        Some(failure) if compatibility == Compatibility::Postgres => {
            Report { severity: Severity::Fatal, ..failure.report.clone() }
        }
        _ => over(limit, queue, compatibility),
    }
}

/// What a client is told that gets no server.
pub fn refused(refusal: &PoolRefusal, compatibility: Compatibility) -> Report {
    match refusal {
        PoolRefusal::OpenFailed(error) => Report { severity: Severity::Fatal, ..error.report.clone() },
        PoolRefusal::StillFailing(error) => {
            let cause = &error.report.message;
            let message =
                format!("server login has been failing, cached error: {cause} (server_login_retry)");
            let report = styled(error.report.sqlstate, &message, compatibility);
            match compatibility {
                Compatibility::PgBouncer => report,
                Compatibility::Postgres => report
                    .hint("The next attempt comes when server_login_retry is over; see the pooler's log."),
            }
        }
        // A cancel ends the statement, not the session.
        PoolRefusal::Canceled => {
            Report::error(SqlState::QUERY_CANCELED, "canceling statement due to user request")
        }
        PoolRefusal::ShuttingDown => styled(SqlState::ADMIN_SHUTDOWN, "server shutting down", compatibility),
        PoolRefusal::Lost(reason) => styled(SqlState::CONNECTION_FAILURE, reason, compatibility),
    }
}

/// What a client is told that is sent away.
pub fn sent_away(reason: Disconnect, compatibility: Compatibility) -> Report {
    let sqlstate = match reason {
        Disconnect::DatabaseRemoved => SqlState::DATABASE_DROPPED,
        Disconnect::Admin | Disconnect::SuspendTimeout | Disconnect::Shutdown => SqlState::ADMIN_SHUTDOWN,
    };
    styled(sqlstate, reason.message(), compatibility)
}

/// What a client is told whose server is obsolete and not to be waited for.
pub fn obsolete(compatibility: Compatibility) -> Report {
    let report = styled(SqlState::ADMIN_SHUTDOWN, CloseReason::Obsolete.text(), compatibility);
    match compatibility {
        Compatibility::PgBouncer => report,
        Compatibility::Postgres => report.hint("Connect again; server_fast_close asks for this."),
    }
}

fn styled(sqlstate: SqlState, message: &str, compatibility: Compatibility) -> Report {
    match compatibility {
        Compatibility::Postgres => Report::fatal(sqlstate, message),
        Compatibility::PgBouncer => Report::fatal(SqlState::PROTOCOL_VIOLATION, message),
    }
}

/// The state of a queue in a sentence or two.
fn describe(queue: &QueueView) -> String {
    let size = if queue.size == 0 { "no limit".to_owned() } else { queue.size.to_string() };
    let mut text = format!(
        "Waited {:.1} s at place {} of {}; the pool has {} server connections of {size}.",
        queue.waited.as_secs_f64(),
        queue.before + 1,
        queue.waiting,
        queue.servers,
    );
    if let Some((client, held)) = &queue.longest_lease {
        text.push_str(&format!(" Client {client} has held one for {:.1} s.", held.as_secs_f64()));
    }
    if let Some(failure) = &queue.failure {
        text.push_str(&format!(" The last attempt to connect to the server failed: {}.", failure.reason));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: ClientSettings = ClientSettings {
        query_wait_timeout: Duration::ZERO,
        query_wait_notify: Duration::ZERO,
        query_timeout: Duration::ZERO,
        idle_transaction_timeout: Duration::ZERO,
        transaction_timeout: Duration::ZERO,
        client_idle_timeout: Duration::ZERO,
        send_bytes_max: usize::MAX,
    };

    fn situation(activity: Activity, since: Instant) -> Situation {
        Situation { activity, waiting_since: Some(since), noticed: false, transaction_since: Some(since) }
    }

    #[test]
    fn zero_is_no_limit() {
        let now = Instant::now();
        for activity in [Activity::Idle(now), Activity::Waiting, Activity::Querying(now)] {
            assert_eq!(next(&NONE, &situation(activity, now)), None);
        }
    }

    #[test]
    fn the_nearest_limit_counts() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let settings = ClientSettings {
            query_wait_notify: second,
            query_wait_timeout: 2 * second,
            transaction_timeout: 3 * second,
            idle_transaction_timeout: 4 * second,
            ..NONE
        };
        let mut waiting = situation(Activity::Waiting, now);
        assert_eq!(next(&settings, &waiting), Some((now + second, TimeLimit::WaitNotice)));
        waiting.noticed = true;
        assert_eq!(next(&settings, &waiting), Some((now + 2 * second, TimeLimit::Wait)));
        let idle = situation(Activity::IdleInTransaction(now), now);
        assert_eq!(next(&settings, &idle), Some((now + 3 * second, TimeLimit::Transaction)));
    }
}
