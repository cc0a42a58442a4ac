//! Queries of the pooler's own on a connection that no client has: reset, check, `connect_query`, `auth_query`.
//!
//! Each takes the connection and gives it back only when the server is idle again with every answer read, so a
//! connection in an unknown state can't find its way back into a pool.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tracing::warn;

use super::inbox::{Inbox, InboxError};
use super::{FOREVER, ServerConn};
use crate::wire::backend::tag::{COPY_BOTH_RESPONSE, COPY_IN_RESPONSE, NOTIFICATION_RESPONSE};
use crate::wire::frontend::tag;
use crate::wire::{Backend, Report, Severity, TxStatus, encode};

/// Why a query of ours failed. The connection it ran on is closed.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The server answered with an error.
    #[error("{}", .0.message)]
    Refused(Box<Report>),
    /// No answer in time.
    #[error("timeout")]
    Timeout,
    /// It ended in a transaction.
    #[error("the query left a transaction open")]
    NotIdle,
    /// The server asks for data (COPY FROM STDIN), or begins another protocol.
    #[error("unexpected message '{}'", .0.escape_ascii())]
    Unexpected(u8),
    /// Another answer came after the answer's end.
    #[error("unexpected message after ReadyForQuery")]
    NotDrained,
    /// The connection broke, or what came is no PostgreSQL.
    #[error(transparent)]
    Conversation(#[from] InboxError),
}

/// The first row of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its values as text; `None` is NULL.
    pub values: Vec<Option<Vec<u8>>>,
}

/// What came back.
#[derive(Default)]
struct Outcome {
    refused: Option<Report>,
    first: Option<Row>,
}

/// Runs a simple query, throws its rows away, and gives the connection back idle. An empty text is the empty query.
/// A `limit` of zero is none. Not cancel safe: dropping it closes the connection.
///
/// Errors: any error, also one that the server would live with: whatever the query was to clean or check is neither.
pub async fn run(conn: ServerConn, sql: &str, limit: Duration) -> Result<ServerConn, QueryError> {
    match run_tolerant(conn, sql, limit).await? {
        (conn, None) => Ok(conn),
        (_, Some(report)) => Err(QueryError::Refused(Box::new(report))),
    }
}

/// As [`run`], but an error of the query alone comes back beside the connection. Not cancel safe.
pub async fn run_tolerant(
    conn: ServerConn,
    sql: &str,
    limit: Duration,
) -> Result<(ServerConn, Option<Report>), QueryError> {
    let mut out = BytesMut::new();
    encode::query(&mut out, sql);
    let (conn, outcome) = converse(conn, &out, limit).await?;
    Ok((conn, outcome.refused))
}

/// Runs a `connect_query`: an error of it is for the log alone. Not cancel safe.
///
/// Errors: the connection is lost.
pub async fn run_connect_query(
    conn: ServerConn,
    sql: &str,
    limit: Duration,
) -> Result<ServerConn, QueryError> {
    let (conn, refused) = run_tolerant(conn, sql, limit).await?;
    if let Some(report) = refused {
        warn!(server = %conn.id, error = report.message, "connect_query failed");
    }
    Ok(conn)
}

/// Runs a query with text parameters over the unnamed statement and gives back its first row. Not cancel safe.
///
/// Errors: as [`run`].
pub async fn fetch_row(
    conn: ServerConn,
    sql: &str,
    parameters: &[&str],
    limit: Duration,
) -> Result<(ServerConn, Option<Row>), QueryError> {
    let (conn, outcome) = converse(conn, &extended_query(sql, parameters), limit).await?;
    match outcome.refused {
        None => Ok((conn, outcome.first)),
        Some(report) => Err(QueryError::Refused(Box::new(report))),
    }
}

/// Parse, Bind, Execute and Sync of one statement, with text parameters of types that the server infers.
fn extended_query(sql: &str, parameters: &[&str]) -> BytesMut {
    let count = u16::try_from(parameters.len()).unwrap_or(u16::MAX);
    let mut out = BytesMut::new();
    encode::message(&mut out, tag::PARSE, |out| {
        encode::c_str(out, b"");
        encode::c_str(out, sql.as_bytes());
        out.put_u16(0);
    });
    encode::message(&mut out, tag::BIND, |out| {
        encode::c_str(out, b"");
        encode::c_str(out, b"");
        out.put_u16(0);
        out.put_u16(count);
        for value in parameters.iter().take(usize::from(count)) {
            out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
            out.put_slice(value.as_bytes());
        }
        out.put_u16(0);
    });
    encode::message(&mut out, tag::EXECUTE, |out| {
        encode::c_str(out, b"");
        out.put_u32(0);
    });
    out.put_slice(encode::SYNC);
    out
}

async fn converse(
    mut conn: ServerConn,
    request: &[u8],
    limit: Duration,
) -> Result<(ServerConn, Outcome), QueryError> {
    let limit = if limit.is_zero() { FOREVER } else { limit };
    let answered = timeout(limit, async {
        // If it fails, the server has gone, and may have said why: reading tells.
        let _ = send(&mut conn, request).await;
        let mut outcome = Outcome::default();
        match read_answer(&mut conn, &mut outcome).await {
            // What a server says before it goes (57P01 …) tells more than that it went.
            Err(QueryError::Conversation(InboxError::Closed | InboxError::Io(_)))
                if outcome.refused.is_some() => {}
            done => done?,
        }
        Ok::<_, QueryError>(outcome)
    });
    let outcome = answered.await.map_err(|_| QueryError::Timeout)??;
    match outcome.refused {
        Some(report) if report.severity != Severity::Error => Err(QueryError::Refused(Box::new(report))),
        _ => Ok((conn, outcome)),
    }
}

async fn send(conn: &mut ServerConn, request: &[u8]) -> std::io::Result<()> {
    conn.stream.write_all(request).await?;
    conn.stream.flush().await
}

async fn read_answer(conn: &mut ServerConn, outcome: &mut Outcome) -> Result<(), QueryError> {
    let mut inbox = Inbox::default();
    let mut is_ready = false;
    while !is_ready || !inbox.is_empty() {
        let message = inbox.next(&mut conn.stream).await?;
        match message.decode()? {
            Backend::ParameterStatus { name, value } => conn.session().on_parameter_status(name, value),
            Backend::NoticeResponse(_) | Backend::Other(NOTIFICATION_RESPONSE) => {}
            _ if is_ready => return Err(QueryError::NotDrained),
            Backend::ReadyForQuery(TxStatus::Idle) => is_ready = true,
            Backend::ReadyForQuery(_) => return Err(QueryError::NotIdle),
            Backend::ErrorResponse(report) => outcome.refused = Some(report),
            Backend::DataRow(values) if outcome.first.is_none() => {
                let values = values.into_iter().map(|it| it.map(<[u8]>::to_vec)).collect();
                outcome.first = Some(Row { values });
            }
            Backend::Other(tag @ (COPY_IN_RESPONSE | COPY_BOTH_RESPONSE)) => {
                // The server would wait for us.
                return Err(QueryError::Unexpected(tag));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
