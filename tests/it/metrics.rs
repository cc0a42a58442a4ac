//! Metrics and health over HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::place;
use crate::support::prelude::*;

/// A pooler with HTTP, and where that is.
fn with_http(setup: Setup) -> (Pooler, u16) {
    let port = place::free_port();
    let pooler = setup.set("http_listen", &format!("\"127.0.0.1:{port}\"")).start();
    eventually("it listens for HTTP", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (pooler, port)
}

/// The status and the body of an answer.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// The value of a sample, by its name and a label.
fn sample(metrics: &str, name: &str, label: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(label))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn metrics_have_the_exporters_names_and_count_right() {
    let (pooler, port) = with_http(Setup::of(Cluster::shared()));
    let mut client = pooler.app();
    for _ in 0..10 {
        client.query("SELECT 1");
    }
    let (status, metrics) = get(port, "/metrics");
    assert_eq!(status, 200);
    let database = "database=\"app\"";
    assert_eq!(
        sample(&metrics, "pgbouncer_stats_totals_queries_total", database).or_else(|| sample(
            &metrics,
            "pgbouncer_stats_queries_pooled_total",
            database
        )),
        Some(10.0),
        "{metrics}"
    );
    assert_eq!(sample(&metrics, "pgbouncer_pools_client_active_connections", database), Some(1.0));
    assert_eq!(sample(&metrics, "pgbouncer_pools_server_idle_connections", database), Some(1.0));
    assert_eq!(sample(&metrics, "pgbouncer_databases_pool_size", "name=\"app\""), Some(20.0));
    for histogram in ["pgweir_wait_seconds", "pgweir_query_seconds", "pgweir_transaction_seconds"] {
        assert!(sample(&metrics, &format!("{histogram}_count"), database).is_some(), "{histogram}");
        assert!(metrics.contains(&format!("# TYPE {histogram} histogram")), "{histogram}");
    }
    assert_eq!(sample(&metrics, "pgweir_query_seconds_count", database), Some(10.0));
    assert!(metrics.contains("\npgweir_workers_at_work "), "{metrics}");
    assert!(metrics.contains("\npgbouncer_up 1"));
}

#[test]
fn names_of_prepared_statements_are_counted_for_nothing_else_limits_them() {
    let (pooler, port) = with_http(Setup::of(Cluster::shared()));
    let counted =
        || sample(&get(port, "/metrics").1, "pgweir_client_prepared_statements", "database=\"app\"");
    let mut clients = [pooler.app(), pooler.app()];
    for client in &mut clients {
        let all = (0..300).map(|number| parse(&format!("s{number}"), "SELECT 1", &[]));
        client.send(&all.chain([sync()]).collect::<Vec<_>>().concat());
        client.ready();
    }
    assert_eq!(counted(), Some(600.0));
    let [one, _other] = clients;
    one.goodbye();
    eventually("only the other's are left", || counted() == Some(300.0));
}

#[test]
fn every_family_has_help_and_type_once_and_no_sample_twice() {
    let (pooler, port) = with_http(Setup::of(Cluster::shared()));
    pooler.app().query("SELECT 1");
    let (_, metrics) = get(port, "/metrics");
    let mut seen = std::collections::BTreeSet::new();
    for line in metrics.lines().filter(|line| !line.is_empty()) {
        let key = match line.strip_prefix('#') {
            Some(comment) => comment.split(' ').take(3).collect::<Vec<_>>().join(" "),
            None => line.rsplit_once(' ').unwrap().0.to_owned(),
        };
        assert!(seen.insert(key.clone()), "twice: {key}");
    }
    for line in metrics.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    assert!(!metrics.contains("secret"));
}

#[test]
fn it_is_live_and_ready_until_it_drains() {
    let (mut pooler, port) = with_http(Setup::of(Cluster::shared()));
    let mut client = pooler.app();
    client.query("BEGIN");
    assert_eq!(get(port, "/live").0, 200);
    assert_eq!(get(port, "/ready").0, 200);
    // Who comes while it is paused is to wait, not to be turned away.
    let mut console = pooler.console();
    console.send(&query("PAUSE"));
    eventually("it is paused", || get(port, "/metrics").1.contains("\npgweir_paused 1\n"));
    assert_eq!(get(port, "/ready").0, 200);
    console.goodbye();
    pooler.console().query("RESUME");
    pooler.signal(Signal::TERM);
    eventually("it is not ready any more", || get(port, "/ready").0 == 503);
    assert_eq!(get(port, "/live").0, 200);
    assert_eq!(client.value("SELECT 'goes on'"), "goes on");
    client.goodbye();
    assert!(pooler.wait().success());
}

#[test]
fn other_requests_are_refused_and_harmless() {
    let (pooler, port) = with_http(Setup::of(Cluster::shared()));
    assert_eq!(get(port, "/nowhere").0, 404);
    for request in [
        &b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"[..],
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"GET",
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(get(port, "/metrics").0, 200);
    assert_eq!(pooler.app().value("SELECT 1"), "1");
}
