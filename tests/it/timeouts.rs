//! Timeouts: each ends what it is for, says why, and leaves the rest alone.

use crate::support::prelude::*;

fn setup(name: &str, value: &str) -> Setup {
    Setup::of(Cluster::shared()).set(name, &format!("\"{value}\""))
}

/// Asserts that a session ends with one FATAL error of this SQLSTATE and text.
#[track_caller]
fn ends_with(client: &mut Raw, sqlstate: &str, text: &str) {
    let answer = client.rest();
    let error = error(&answer);
    assert_eq!((error.sqlstate().as_str(), error.text().as_str()), (sqlstate, text), "{error}");
    assert_eq!(error.field(b'S').unwrap(), "FATAL");
}

#[test]
fn who_waits_too_long_for_a_server_is_told_so() {
    let pooler = setup("query_wait_timeout", "1500ms").set("default_pool_size", "1").start();
    let mut holder = pooler.app();
    holder.query("BEGIN");
    let mut waiter = pooler.app();
    let begin = Instant::now();
    waiter.send(&query("SELECT 1"));
    ends_with(&mut waiter, "53300", "query_wait_timeout");
    assert!(begin.elapsed() >= Duration::from_millis(1450), "after {:?}", begin.elapsed());
    assert_eq!(holder.value("SELECT 'untouched'"), "untouched");
}

#[test]
fn the_longest_wait_may_be_set_per_database_and_user() {
    let base = || Setup::of(Cluster::shared()).set("default_pool_size", "1").set("query_wait_timeout", "60");
    for pooler in [
        base().database("app", "query_wait_timeout = 1").start(),
        base().user("app", "query_wait_timeout = 1").start(),
    ] {
        let mut holder = pooler.app();
        holder.query("BEGIN");
        let mut waiter = pooler.app();
        waiter.send(&query("SELECT 1"));
        ends_with(&mut waiter, "53300", "query_wait_timeout");
    }
}

#[test]
fn who_waits_is_given_notice() {
    let pooler = setup("query_wait_notify", "1").set("default_pool_size", "1").start();
    let mut holder = pooler.app();
    holder.query("BEGIN");
    let mut waiter = pooler.app();
    waiter.send(&query("SELECT 'served'"));
    let notice = waiter.next().unwrap();
    assert_eq!(notice.tag, b'N');
    assert_eq!(notice.text(), "No server connection available in postgres backend, client being queued");
    holder.query("COMMIT");
    assert_eq!(rows(&waiter.ready()), [[Some("served".to_owned())]]);
}

#[test]
fn a_query_that_runs_too_long_is_ended() {
    let cluster = Cluster::shared();
    let pooler = setup("query_timeout", "1500ms").start();
    let mut client = pooler.app();
    let mark = cluster.unique("overlong");
    client.send(&query(&format!("SELECT pg_sleep(600) AS {mark}")));
    let reason = client.until(b'E').pop().unwrap();
    assert_eq!((reason.sqlstate().as_str(), reason.text().as_str()), ("57014", "query timeout"));
    eventually("PostgreSQL has stopped it", || {
        cluster.connections(&format!("state = 'active' AND query LIKE '%(600) AS {mark}'")) == 0
    });
    assert_eq!(pooler.app().value("SELECT 1"), "1");
}

#[test]
fn queries_in_time_are_left_alone() {
    let pooler = setup("query_timeout", "2s").set("transaction_timeout", "5").start();
    let mut client = pooler.app();
    for _ in 0..4 {
        client.query("SELECT pg_sleep(0.6)");
    }
    // As much time has passed again when another's query is ended for it.
    let mut other = pooler.app();
    other.send(&query("SELECT pg_sleep(600)"));
    assert_eq!(other.until(b'E').pop().unwrap().text(), "query timeout");
    assert_eq!(client.value("SELECT 'alive'"), "alive");
}

#[test]
fn a_transaction_that_is_idle_too_long_is_ended() {
    let cluster = Cluster::shared();
    let table = cluster.unique("idle_tx");
    cluster.connect("app", "app").query(&format!("CREATE TABLE {table} (n int)"));
    let pooler = setup("idle_transaction_timeout", "1500ms").set("default_pool_size", "1").start();
    let mut client = pooler.app();
    client.query("BEGIN");
    let begin = Instant::now();
    client.query(&format!("INSERT INTO {table} VALUES (1)"));
    ends_with(&mut client, "25P03", "idle transaction timeout");
    assert!(begin.elapsed() >= Duration::from_millis(1450), "after {:?}", begin.elapsed());
    assert_eq!(pooler.app().value(&format!("SELECT count(*) FROM {table}")), "0");
}

#[test]
fn a_transaction_that_works_is_not_idle() {
    let pooler = setup("idle_transaction_timeout", "1500ms").start();
    let mut client = pooler.app();
    client.query("BEGIN");
    client.query("SELECT pg_sleep(2.1)");
    assert_eq!(client.value("SELECT 'alive'"), "alive");
    client.query("COMMIT");
}

#[test]
fn a_transaction_that_takes_too_long_is_ended() {
    let pooler = setup("transaction_timeout", "800ms").start();
    let mut client = pooler.app();
    let begin = Instant::now();
    client.query("BEGIN");
    // Busy all the time, so that it is the transaction as a whole that is too long.
    let ended = loop {
        client.try_send(&query("SELECT pg_sleep(0.1)"));
        let Some(answer) = client.next() else { panic!("no reason was given") };
        if answer.tag == b'E' {
            break answer;
        }
        if !matches!(answer.tag, b'T' | b'D' | b'C' | b'Z') {
            panic!("{answer}");
        }
        assert!(begin.elapsed() < Duration::from_secs(10));
    };
    assert_eq!((ended.sqlstate().as_str(), ended.text().as_str()), ("25P04", "transaction timeout"));
    assert!(begin.elapsed() >= Duration::from_millis(700), "after {:?}", begin.elapsed());
}

#[test]
fn a_client_that_is_idle_too_long_is_closed() {
    let pooler = setup("client_idle_timeout", "1500ms").start();
    let mut client = pooler.app();
    client.query("SELECT 1");
    ends_with(&mut client, "57P05", "client_idle_timeout");
    // In a transaction it is not idle in this sense.
    let mut client = pooler.app();
    client.query("BEGIN");
    let mut idle = pooler.app();
    ends_with(&mut idle, "57P05", "client_idle_timeout");
    assert_eq!(client.value("SELECT 'alive'"), "alive");
}

#[test]
fn limits_of_a_user_go_before_the_global_ones() {
    let pooler = setup("client_idle_timeout", "60").user("app2", "client_idle_timeout = 1").start();
    let (mut patient, mut hurried) = (pooler.app(), pooler.connect("app", "app2"));
    ends_with(&mut hurried, "57P05", "client_idle_timeout");
    assert_eq!(patient.value("SELECT 'alive'"), "alive");
}

#[test]
fn servers_that_are_idle_too_long_are_closed_down_to_the_smallest_size() {
    let pooler = setup("server_idle_timeout", "2s").start();
    let mut clients: Vec<Raw> = (0..3).map(|_| pooler.app()).collect();
    clients.iter_mut().for_each(|client| drop(client.query("BEGIN")));
    clients.iter_mut().for_each(|client| drop(client.query("COMMIT")));
    assert_eq!(pooler.pool("app", "app", "sv_idle"), 3);
    eventually("the idle ones are gone", || pooler.pool("app", "app", "sv_idle") == 0);
    let setup = setup("server_idle_timeout", "500ms").set("min_pool_size", "2");
    let pooler = setup.database("app2", "min_pool_size = 0").start();
    let mut clients: Vec<Raw> = (0..3).map(|_| pooler.app()).collect();
    clients.iter_mut().for_each(|client| drop(client.query("BEGIN")));
    clients.iter_mut().for_each(|client| drop(client.query("COMMIT")));
    eventually("two stay", || pooler.pool("app", "app", "sv_idle") == 2);
    pooler.connect("app2", "app2").query("SELECT 1");
    let is_gone = || ["sv_active", "sv_idle"].iter().all(|state| pooler.pool("app2", "app2", state) == 0);
    eventually("one that came later is gone", is_gone);
    assert_eq!(pooler.pool("app", "app", "sv_idle"), 2);
}

#[test]
fn old_servers_are_replaced_but_not_under_a_transaction() {
    let pooler = setup("server_lifetime", "1").set("default_pool_size", "1").start();
    let mut client = pooler.app();
    client.query("BEGIN");
    let old = client.value("SELECT pg_backend_pid()");
    let mut other = pooler.connect("app2", "app2");
    let others = other.value("SELECT pg_backend_pid()");
    eventually("one that came later is replaced", || other.value("SELECT pg_backend_pid()") != others);
    assert_eq!(client.value("SELECT pg_backend_pid()"), old);
    client.query("COMMIT");
    eventually("a new server serves", || client.value("SELECT pg_backend_pid()") != old);
}

#[test]
fn with_a_lifetime_of_zero_each_server_is_used_once() {
    let pooler = setup("server_lifetime", "0").set("default_pool_size", "1").start();
    let mut client = pooler.app();
    let first = client.value("SELECT pg_backend_pid()");
    assert_ne!(client.value("SELECT pg_backend_pid()"), first);
}

/// Of a client that has said Terminate nobody knows whether it will ever read what it is owed.
#[test]
fn who_has_said_good_bye_and_does_not_read_is_sent_away_all_the_same() {
    let pooler = Setup::of(Cluster::shared()).database("app", "pool_size = 2").start();
    let limited = Setup::of(Cluster::shared()).set("query_timeout", "1").start();
    let leaves = |pooler: &Pooler| {
        let mut client = pooler.dial();
        client.shrink_receive_buffer();
        client.login(&[("user", "app"), ("database", "app"), ("application_name", "mute")], "").unwrap();
        let much = query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)");
        client.send(&[much, terminate()].concat());
        client
    };
    let mute = |pooler: &Pooler| {
        pooler.show("SHOW CLIENTS").into_iter().find(|row| row["application_name"] == "mute")
    };
    let (_killed, _late) = (leaves(&pooler), leaves(&limited));
    eventually("the result is under way", || pooler.pool("app", "app", "sv_active") == 1);
    let id = &mute(&pooler).unwrap()["id"];
    pooler.console().query(&format!("KILL_CLIENT {id}"));
    for pooler in [&pooler, &limited] {
        assert_eq!(pooler.app().value("SELECT 1"), "1", "others are served");
        eventually("it is gone", || mute(pooler).is_none());
    }
}

#[test]
fn a_server_that_does_not_answer_the_dial_is_given_up() {
    // Somebody who accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let pooler = Setup::of(Cluster::shared())
        .database("silent", &format!("port = {port}\ndbname = \"app\""))
        .set("server_connect_timeout", "1")
        .set("query_wait_timeout", "3")
        .start();
    let begin = Instant::now();
    let error = pooler.refusal(&[("user", "app"), ("database", "silent")], "");
    assert!(begin.elapsed() < Duration::from_secs(10), "took {:?}", begin.elapsed());
    assert!(["08001", "08006", "57014", "57P03"].contains(&error.sqlstate().as_str()), "{error}");
    assert_eq!(pooler.app().value("SELECT 1"), "1");
}

#[test]
fn a_cancel_that_gets_nowhere_is_given_up() {
    let mut cluster = Cluster::private(&[]);
    let pooler = Setup::of(&cluster).set("cancel_wait_timeout", "1").start();
    let mut client = pooler.app();
    client.send(&query("SELECT pg_sleep(600)"));
    eventually("it runs", || cluster.connections("query LIKE 'SELECT pg_sleep%' AND state = 'active'") == 1);
    cluster.freeze();
    let mut canceller = pooler.dial();
    canceller.send(&cancel_request(client.pid, &client.key));
    assert_eq!(canceller.byte(), None);
    cluster.thaw();
    cluster.stop();
}
