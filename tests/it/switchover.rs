//! PostgreSQL goes away and comes back, perhaps as a standby: clients wait for the primary instead of failing.

use crate::support::place;
use crate::support::prelude::*;

/// Longer than any test waits: what is tried again only after this is not tried again in time.
const RETRY: &str = "\"10min\"";

/// Has the cluster start as a standby from now on, until it is promoted.
fn make_standby(cluster: &Cluster) {
    place::write(&cluster.socket_directory().join("data/standby.signal"), "");
}

fn restart_as_standby(cluster: &mut Cluster) {
    // Nothing is synchronous here: what is to outlive the crash is written now.
    cluster.execute("CHECKPOINT");
    cluster.stop();
    make_standby(cluster);
    cluster.start();
    assert_eq!(cluster.execute("SELECT pg_is_in_recovery()"), "t");
}

fn promote(cluster: &Cluster) {
    assert_eq!(cluster.execute("SELECT pg_promote()"), "t");
}

fn setup(cluster: &Cluster) -> Setup {
    Setup::of(cluster).set("server_login_retry", RETRY)
}

/// A client whose server was idle when the cluster went away.
fn bereaved_client(pooler: &Pooler, cluster: &mut Cluster) -> Raw {
    let mut client = pooler.app();
    assert_eq!(client.value("SELECT 1"), "1");
    cluster.stop();
    eventually("the loss is noticed", || pooler.pool("app", "app", "sv_idle") == 0);
    client
}

#[test]
fn a_client_waits_while_the_server_is_away() {
    let mut cluster = Cluster::private(&[]);
    let pooler = setup(&cluster).start();
    let mut client = bereaved_client(&pooler, &mut cluster);
    client.send(&query("SELECT 'after'"));
    assert!(client.is_silent_for(Duration::from_secs(1)));
    cluster.start();
    assert_eq!(rows(&client.ready()), [[Some("after".to_owned())]]);
}

#[test]
fn a_client_that_comes_while_the_server_is_away_waits_too() {
    let mut cluster = Cluster::private(&[]);
    let pooler = setup(&cluster).start();
    let _client = bereaved_client(&pooler, &mut cluster);
    let mut late = pooler.app();
    late.send(&query("SELECT 'late'"));
    assert!(late.is_silent_for(Duration::from_millis(500)));
    cluster.start();
    assert_eq!(rows(&late.ready()), [[Some("late".to_owned())]]);
}

#[test]
fn without_switchover_timeout_clients_fail_fast() {
    let mut cluster = Cluster::private(&[]);
    let pooler = setup(&cluster).set("switchover_timeout", "0").start();
    let mut client = bereaved_client(&pooler, &mut cluster);
    let mut first = pooler.app();
    first.send(&query("SELECT 1"));
    eventually("the attempt has failed", || pooler.log().contains("connect failed"));
    client.send(&query("SELECT 1"));
    let refused = client.until(b'E');
    assert_eq!(refused.last().unwrap().sqlstate(), "08001");
}

#[test]
fn a_primary_that_comes_back_as_a_standby_is_not_taken_until_it_is_promoted() {
    let mut cluster = Cluster::private(&[]);
    cluster.connect("app", "app").query("CREATE TABLE t (n int)");
    let pooler = setup(&cluster).start();
    let mut client = pooler.app();
    client.query("INSERT INTO t VALUES (1)");
    restart_as_standby(&mut cluster);
    client.send(&query("INSERT INTO t VALUES (2)"));
    assert!(client.is_silent_for(Duration::from_secs(1)));
    eventually("the log says why", || pooler.log().contains("the server is a standby"));
    promote(&cluster);
    assert_eq!(tags(&client.ready()), "CZ");
    assert_eq!(cluster.connect("app", "app").value("SELECT sum(n) FROM t"), "3");
}

#[test]
fn a_refused_write_drops_the_demoted_servers_and_the_next_one_waits_for_the_primary() {
    let mut cluster = Cluster::private(&[]);
    cluster.connect("app", "app").query("CREATE TABLE t (n int)");
    let pooler = setup(&cluster).set("switchover_timeout", "\"3s\"").start();
    let mut client = pooler.app();
    client.query("INSERT INTO t VALUES (1)");
    restart_as_standby(&mut cluster);
    // Once nobody waits for the primary any more, a standby is better than nothing.
    assert_eq!(client.value("SELECT count(*) FROM t"), "1");
    assert_eq!(client.failure("INSERT INTO t VALUES (2)"), "25006");
    eventually("its servers are dropped", || pooler.pool("app", "app", "sv_idle") == 0);
    // However long the promotion takes.
    assert_eq!(tags(&pooler.console().query("SET switchover_timeout = '1min'")), "CZ");
    client.send(&query("INSERT INTO t VALUES (3)"));
    promote(&cluster);
    assert_eq!(tags(&client.ready()), "CZ");
}

#[test]
fn a_pool_of_standbys_keeps_its_servers_when_somebody_wants_to_write() {
    let mut cluster = Cluster::private(&[]);
    restart_as_standby(&mut cluster);
    let pooler = setup(&cluster).start();
    let mut client = pooler.app();
    let backend = client.value("SELECT pg_backend_pid()");
    assert_eq!(client.failure("CREATE TABLE t (n int)"), "25006");
    assert_eq!(client.value("SELECT pg_backend_pid()"), backend);
}

#[test]
fn a_read_only_transaction_on_a_primary_says_nothing_of_the_server() {
    let pooler = setup(Cluster::shared()).start();
    let mut client = pooler.app();
    let backend = client.value("SELECT pg_backend_pid()");
    client.query("BEGIN READ ONLY");
    assert_eq!(client.failure("CREATE TABLE never (n int)"), "25006");
    client.query("ROLLBACK");
    assert_eq!(client.value("SELECT pg_backend_pid()"), backend);
}
