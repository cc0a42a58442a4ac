//! The pooler's own queries against a scripted server.

use super::*;
use crate::server::tests::{Heard, Step, bytes, connected, ready};
use crate::wire::SqlState;

const SOON: Duration = Duration::from_secs(10);

async fn outcome(answer: Vec<u8>) -> Result<ServerConn, QueryError> {
    let (conn, server) = connected(vec![Step::Expect(b'Q'), Step::Send(answer)]).await;
    let result = run(conn, "DISCARD ALL", SOON).await;
    server.await.unwrap();
    result
}

#[tokio::test]
async fn the_connection_comes_back_idle_with_what_the_server_reported() {
    let answer = bytes(|out| {
        encode::parameter_status(out, "TimeZone", "UTC");
        encode::command_complete(out, "DISCARD ALL");
        encode::ready_for_query(out, TxStatus::Idle);
    });
    let mut conn = outcome(answer).await.unwrap();
    assert_eq!(conn.session().parameters.reported.value("TimeZone"), Some("UTC"));
}

#[tokio::test]
async fn the_connection_is_gone_after_anything_else() {
    let error = bytes(|out| Report::error(SqlState::SYNTAX_ERROR, "oops").encode(out));
    let done = bytes(|out| encode::command_complete(out, "BEGIN"));
    for (name, answer, text) in [
        ("error", [error, ready(TxStatus::Idle)].concat(), "oops"),
        ("transaction", [done, ready(TxStatus::InTransaction)].concat(), "left a transaction open"),
        ("copy", b"G\0\0\0\x07\0\0\0".to_vec(), "unexpected message"),
        ("two ends", [ready(TxStatus::Idle), ready(TxStatus::Idle)].concat(), "after ReadyForQuery"),
        ("end", vec![], "server conn crashed?"),
    ] {
        let error = outcome(answer).await.expect_err(name).to_string();
        assert!(error.contains(text), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_goes_has_the_last_word() {
    let farewell = bytes(|out| {
        Report::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
            .encode(out)
    });
    let (conn, server) = connected(vec![Step::Expect(b'Q'), Step::Send(farewell)]).await;
    match run(conn, "", SOON).await.unwrap_err() {
        QueryError::Refused(report) => assert_eq!(report.sqlstate, SqlState::ADMIN_SHUTDOWN),
        other => panic!("{other}"),
    }
    server.await.unwrap();
}

#[tokio::test]
async fn a_query_that_lasts_too_long_costs_the_connection() {
    let (conn, server) = connected(vec![Step::Expect(b'Q'), Step::AwaitEnd]).await;
    let error = run(conn, "select pg_sleep(60)", Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, QueryError::Timeout));
    server.await.expect("the server saw the end");
}

#[tokio::test]
async fn a_row_is_fetched_with_parameters() {
    let row = bytes(|out| {
        out.extend_from_slice(encode::PARSE_COMPLETE);
        out.extend_from_slice(encode::BIND_COMPLETE);
        encode::data_row(out, [Some(&b"alice"[..]), None].into_iter());
        encode::data_row(out, [Some(&b"bob"[..]), None].into_iter());
        encode::command_complete(out, "SELECT 2");
        encode::ready_for_query(out, TxStatus::Idle);
    });
    let steps =
        vec![Step::Expect(b'P'), Step::Expect(b'B'), Step::Expect(b'E'), Step::Expect(b'S'), Step::Send(row)];
    let (conn, server) = connected(steps).await;
    let (_, row) = fetch_row(conn, "select $1, null", &["alice"], SOON).await.unwrap();
    assert_eq!(row, Some(Row { values: vec![Some(b"alice".to_vec()), None] }));
    let (_, heard) = server.await.unwrap();
    assert!(
        matches!(&heard[2], Heard::Message(b'B', body) if body.ends_with(b"\0\0\0\x05alice\0\0")),
        "{heard:?}"
    );
}
