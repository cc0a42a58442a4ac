//! Errors that answer: PostgreSQL's SQLSTATE, PgBouncer's text, and after the login what to do about it.

use crate::support::prelude::*;

fn single() -> Setup {
    Setup::of(Cluster::shared()).set("default_pool_size", "1").set("query_wait_timeout", "\"1500ms\"")
}

#[test]
fn who_waited_in_vain_hears_why_and_what_to_do() {
    let pooler = single().start();
    let mut holder = pooler.app();
    holder.query("BEGIN");
    let mut waiter = pooler.app();
    waiter.send(&query("SELECT 1"));
    let answer = waiter.rest();
    let error = error(&answer);
    assert_eq!(error.text(), "query_wait_timeout");
    let detail = error.field(b'D').expect("a DETAIL");
    // How long, at which place, in how large a pool, and who holds it.
    for part in ["Waited", "place 1 of 1", "1 server connections of 1", "has held one for"] {
        assert!(detail.contains(part), "{part:?} is missing in {detail:?}");
    }
    assert!(error.field(b'H').expect("a HINT").contains("pool_size"));
    assert_eq!(error.field(b'V').as_deref(), Some("FATAL"));
}

#[test]
fn in_pgbouncers_way_there_is_its_text_and_code_alone() {
    let pooler = single().set("compatibility", "\"pgbouncer\"").start();
    let mut holder = pooler.app();
    holder.query("BEGIN");
    let mut waiter = pooler.app();
    waiter.send(&query("SELECT 1"));
    let answer = waiter.rest();
    assert_eq!(
        (error(&answer).text().as_str(), error(&answer).sqlstate().as_str()),
        ("query_wait_timeout", "08P01")
    );
    assert_eq!((error(&answer).field(b'D'), error(&answer).field(b'H')), (None, None));
    let refused = pooler.refusal(&[("user", "app"), ("database", "nowhere")], "");
    assert_eq!(
        (refused.text().as_str(), refused.sqlstate().as_str()),
        ("no such database: nowhere", "08P01")
    );
}

#[test]
fn nothing_is_revealed_before_the_login() {
    let pooler = Setup::of(Cluster::shared()).set("auth_type", "\"plain\"").start();
    let error = pooler.refusal(&[("user", "app"), ("database", "app")], "wrong");
    assert_eq!(error.sqlstate(), "28P01");
    assert_eq!((error.field(b'D'), error.field(b'H')), (None, None), "{error}");
}

#[test]
fn a_server_that_is_away_is_named_as_the_reason() {
    let mut cluster = Cluster::private(&[]);
    let pooler = Setup::of(&cluster).set("query_wait_timeout", "2").set("server_login_retry", "1").start();
    cluster.stop();
    let error = pooler.refusal(&[("user", "app"), ("database", "app")], "");
    assert_eq!(error.field(b'S').unwrap(), "FATAL");
    let known = ["08001", "08006", "57P03", "53300"];
    assert!(known.contains(&error.sqlstate().as_str()), "{error}");
    assert!(!pooler.log().contains("app-secret"));
}

#[test]
fn a_servers_error_at_login_keeps_its_code_and_words() {
    let cluster = Cluster::private(&[
        "max_connections = 10",
        "superuser_reserved_connections = 3",
        "max_wal_senders = 0",
    ]);
    // Whoever has just left may still take a place.
    let mut held = Vec::new();
    eventually("all places are taken", || {
        held.extend(Raw::try_connect(("127.0.0.1", cluster.port), "app", "app2"));
        held.len() == 7
    });
    let pooler = Pooler::of(&cluster);
    let error = pooler.refusal(&[("user", "app"), ("database", "app")], "");
    assert_eq!(error.sqlstate(), "53300", "{error}");
    assert!(error.text().contains("remaining connection slots are reserved"), "{error}");
    held.into_iter().for_each(Raw::goodbye);
}
