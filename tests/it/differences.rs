//! What users of PgBouncer complain about and pgweir does better: the tests of `docs/differences.md` that belong to no
//! other subject.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;

use crate::support::bouncer::Bouncer;
use crate::support::place;
use crate::support::prelude::*;

/// pgweir as PgBouncer, in front of the shared cluster.
fn as_pgbouncer(settings: &str) -> Bouncer {
    let databases = format!("app = host=127.0.0.1 port={}", Cluster::shared().port);
    Bouncer::start(place::pgweir_program(), &databases, settings)
}

#[test]
fn a_client_gone_in_a_query_has_it_cancelled_and_its_server_is_kept() {
    let cluster = Cluster::shared();
    let bouncer = as_pgbouncer("pool_mode = transaction\ndefault_pool_size = 1");
    for (name, before) in [("alone", ""), ("in a transaction", "BEGIN")] {
        let mut client = bouncer.connect("app", "app");
        let pid = client.value("SELECT pg_backend_pid()");
        if !before.is_empty() {
            client.query(before);
        }
        client.send(&query("SELECT pg_sleep(600)"));
        let sleeping = format!("pid = {pid} AND state = 'active' AND query LIKE '%pg_sleep%'");
        eventually("the query runs", || cluster.connections(&sleeping) == 1);
        client.vanish();
        let mut next = bouncer.connect("app", "app");
        assert_eq!(next.value("SELECT pg_backend_pid()"), pid, "{name}");
        assert_eq!(next.query("SELECT 1").last().unwrap().to_string(), "Z I", "{name}");
        next.goodbye();
    }
}

#[test]
fn a_broken_auth_file_leaves_all_users_in_place() {
    let bouncer = as_pgbouncer("auth_type = scram-sha-256");
    let login = |user: &str, password: &str| {
        let mut client = Raw::dial(("127.0.0.1", bouncer.port));
        client.login(&[("user", user), ("database", "app")], password).is_ok()
    };
    let mut admin = Raw::dial(("127.0.0.1", bouncer.port));
    admin.login(&[("user", "admin"), ("database", "pgbouncer")], "admin-secret").unwrap();
    let list = bouncer.directory().join("userlist.txt");
    // The line for `app` comes first, those of the others would be lost.
    place::write(&list, "\"app\" \"another\"\n\"admin\n\"scram_user\" \"scram-secret\"\n");
    let refused = admin.query("RELOAD");
    assert_eq!(error(&refused).field(b'D'), None, "PgBouncer's errors have no DETAIL");
    assert!(bouncer.log().contains("userlist.txt:2: auth_file: broken line"), "{}", bouncer.log());
    assert!(login("app", "app-secret") && !login("app", "another"));
    place::write(&list, "\"app\" \"another\"\n\"admin\" \"admin-secret\"\n");
    assert_eq!(tags(&admin.query("RELOAD")), "CZ");
    assert!(login("app", "another") && !login("app", "app-secret"));
}

/// A server that answers every login with one error; where it listens.
fn refusing_server(error: &'static [(u8, &'static str)]) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut start_up = [0; 1024];
            let _ = stream.read(&mut start_up);
            let fields = error.iter().flat_map(|(field, text)| [&[*field], text.as_bytes(), &[0]].concat());
            let body: Vec<u8> = fields.chain([0]).collect();
            let _ = stream.write_all(&message(b'E', &body));
        }
    });
    port
}

#[test]
fn an_error_of_the_servers_login_keeps_its_detail_and_hint() {
    let port = refusing_server(&[
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        (b'C', "55000"),
        (b'M', "cannot connect to invalid database \"app\""),
        (b'D', "Its removal was interrupted."),
        (b'H', "Use DROP DATABASE to drop invalid databases."),
    ]);
    let databases = format!("app = host=127.0.0.1 port={port}");
    let bouncer = Bouncer::start(place::pgweir_program(), &databases, "");
    let mut client = Raw::dial(("127.0.0.1", bouncer.port));
    let error = client.login(&[("user", "app"), ("database", "app")], "").unwrap_err();
    assert_eq!(error.sqlstate(), "55000", "{error}");
    assert_eq!(error.text(), "cannot connect to invalid database \"app\"");
    assert_eq!(error.field(b'D').as_deref(), Some("Its removal was interrupted."), "{error}");
    assert_eq!(error.field(b'H').as_deref(), Some("Use DROP DATABASE to drop invalid databases."), "{error}");
}

#[test]
fn as_many_servers_are_opened_at_once_as_the_setting_allows() {
    let cluster = Cluster::private(&[]);
    for (setting, most) in [("", 1), ("server_connecting_max = 3", 3)] {
        let databases = format!("app = host=127.0.0.1 port={}", cluster.port);
        let settings = format!("pool_mode = transaction\n{setting}");
        let bouncer = Bouncer::start(place::pgweir_program(), &databases, &settings);
        let mut clients: Vec<Raw> = (0..5).map(|_| bouncer.connect("app", "app")).collect();
        clients[0].query("BEGIN");
        // Its main process stands still, so that logins begin and do not end.
        cluster.freeze();
        clients[1..].iter_mut().for_each(|client| client.send(&query("SELECT 1")));
        let pool = |column: usize| {
            let rows = bouncer.console().rows("SHOW POOLS");
            let row = rows.into_iter().find(|row| row[0].as_deref() == Some("app")).unwrap();
            row[column].as_ref().unwrap().parse::<u64>().unwrap()
        };
        let (waiting, logging_in) = (3, 12);
        eventually("four wait", || pool(waiting) == 4);
        eventually("servers are being opened", || pool(logging_in) == most);
        cluster.thaw();
        for client in &mut clients[1..] {
            assert_eq!(rows(&client.ready()), [[Some("1".to_owned())]], "{setting:?}");
        }
    }
}

#[test]
fn start_up_parameters_that_drivers_send_are_applied() {
    let bouncer = as_pgbouncer("pool_mode = transaction\ndefault_pool_size = 1");
    let mut client = Raw::dial(("127.0.0.1", bouncer.port));
    let options = "-c statement_timeout=77s -c jit=off";
    let sent = [("user", "app"), ("database", "app"), ("extra_float_digits", "3"), ("options", options)];
    client.login(&sent, "").unwrap();
    let mut other = bouncer.connect("app", "app");
    for _ in 0..2 {
        assert_eq!(client.value("SHOW extra_float_digits"), "3");
        assert_eq!(client.value("SHOW statement_timeout"), "77s");
        assert_eq!(client.value("SHOW jit"), "off");
        assert_eq!(other.value("SHOW statement_timeout"), "0");
        assert_eq!(other.value("SHOW extra_float_digits"), "1");
    }
}

/// An auth_file of so many users with SCRAM secrets.
fn user_list(users: usize) -> String {
    let secret = "SCRAM-SHA-256$4096:EnDI/fUUDbuoCzoIDc3iUg==$1mj8P9dVsUVdK2XsPGqgWKoxOgcqbVgWCMyY9DxLBXM=:\
                  VTSLzHMO4IyFmIl6DDK7cE0TInMQsCDCRXJeKVqlfaw=";
    let users = (0..users).map(|number| format!("\"user{number}\" \"{secret}\"\n"));
    users.chain(["\"admin\" \"admin-secret\"\n".to_owned()]).collect()
}

#[test]
fn a_user_takes_less_than_a_kilobyte() {
    const USERS: usize = 10_000;
    let start = |users| {
        let setup = Setup::of(Cluster::shared()).set("auth_file", "\"users.txt\"");
        setup.file("users.txt", &user_list(users)).start()
    };
    let few = start(10).resident_bytes();
    let many = start(USERS);
    assert!(many.show("SHOW USERS").len() > USERS);
    let shown = many.resident_bytes();
    // A second list replaces the first.
    let list: PathBuf = many.directory().join("users.txt");
    place::write(&list, &user_list(USERS));
    assert_eq!(tags(&many.console().query("RELOAD")), "CZ");
    let reloaded = many.resident_bytes();
    let each = |bytes: u64| bytes.saturating_sub(few) / USERS as u64;
    println!("{} bytes each, {} after a RELOAD", each(shown), each(reloaded));
    assert!(each(shown) < 1000, "{} bytes each", each(shown));
    assert!(each(reloaded) < 2000, "{} bytes each after a RELOAD", each(reloaded));
}
