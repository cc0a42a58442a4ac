//! Making an idle server as new for its next client.

use std::time::Duration;

use super::ServerConn;
use super::query::{self, QueryError};
use crate::sql::residue::Residue;

/// Runs `server_reset_query`, which is trusted to clean what must be clean. Not cancel safe.
///
/// Errors: as [`query::run`]; the connection is closed.
pub async fn reset(mut conn: ServerConn, sql: &str, limit: Duration) -> Result<ServerConn, QueryError> {
    let discards_all = is_discard_all(sql);
    if !discards_all {
        conn = forget(conn, limit).await?;
    }
    conn = query::run(conn, sql, limit).await?;
    if may_deallocate(sql) {
        conn.session().doubt_statements();
    }
    conn.session().on_cleaned(discards_all);
    Ok(conn)
}

/// Does away with what nobody could tell any more after a query that may do anything: settings of a start-up message,
/// which the query may reset, and statements that a client prepared by SQL, beside which ours may be left or not.
async fn forget(mut conn: ServerConn, limit: Duration) -> Result<ServerConn, QueryError> {
    let session = conn.session();
    let known = session.extras();
    let prepared =
        if session.residue().contains(Residue::PREPARED) { Residue::PREPARED } else { Residue::NONE };
    let sql = known.union(prepared).cleaning();
    if sql.is_empty() {
        return Ok(conn);
    }
    conn = query::run(conn, &sql, limit).await?;
    conn.session().on_extras_reset();
    Ok(conn)
}

/// Removes what the last client left behind, and nothing else; but where there is a `connect_query`, what that did is done
/// again. Costs nothing where it left nothing. Not cancel safe.
///
/// Errors: as [`query::run`]; the connection is closed.
pub async fn clean(
    mut conn: ServerConn,
    connect_query: Option<&str>,
    limit: Duration,
) -> Result<ServerConn, QueryError> {
    let sql = conn.session().residue().cleaning();
    if sql.is_empty() {
        return Ok(conn);
    }
    let Some(connect_query) = connect_query else {
        conn = query::run(conn, &sql, limit).await?;
        conn.session().on_cleaned(false);
        return Ok(conn);
    };
    // What it did can't be told from what the client did: it runs on a server that is as new.
    conn = query::run(conn, "DISCARD ALL", limit).await?;
    conn.session().on_cleaned(true);
    query::run_connect_query(conn, connect_query, limit).await
}

/// Whether the text may do away with statements prepared through the protocol.
fn may_deallocate(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    ["deallocate", "discard"].iter().any(|word| sql.contains(word))
}

fn is_discard_all(sql: &str) -> bool {
    let mut words = sql.trim().trim_end_matches(';').split_ascii_whitespace();
    let mut is_next = |word: &str| words.next().is_some_and(|it| it.eq_ignore_ascii_case(word));
    is_next("DISCARD") && is_next("ALL") && words.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::{Heard, Step, connected, ready};
    use crate::wire::TxStatus;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn discard_all_is_known_in_any_spelling() {
        for (sql, expected) in [
            ("DISCARD ALL", true),
            (" discard\tall ; ", true),
            ("DISCARD TEMP", false),
            ("DISCARD ALL; SELECT 1", false),
            ("RESET ALL", false),
            ("", false),
        ] {
            assert_eq!(is_discard_all(sql), expected, "{sql}");
        }
    }

    #[tokio::test]
    async fn a_server_without_residue_is_not_even_asked() {
        let (conn, server) = connected(vec![Step::AwaitEnd]).await;
        clean(conn, None, SOON).await.unwrap().close();
        let (_, heard) = server.await.unwrap();
        assert_eq!(heard.len(), 1, "{heard:?}");
    }

    #[tokio::test]
    async fn the_reset_query_runs_as_it_is_configured() {
        let (conn, server) = connected(vec![Step::Expect(b'Q'), Step::Send(ready(TxStatus::Idle))]).await;
        reset(conn, "RESET ALL", SOON).await.unwrap();
        let (_, heard) = server.await.unwrap();
        assert!(matches!(&heard[1], Heard::Message(b'Q', sql) if sql == b"RESET ALL\0"), "{heard:?}");
    }
}
