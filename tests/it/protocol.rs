//! The wire protocol from the first byte on, said rightly and wrongly.

use crate::support::prelude::*;

/// Asserts that pgweir still serves: what a test did to it was one client's trouble.
#[track_caller]
fn still_serves(pooler: &Pooler) {
    assert_eq!(pooler.app().value("SELECT 'serves'"), "serves");
}

fn trusted() -> Pooler {
    Pooler::of(Cluster::shared())
}

/// Logs in by a start-up packet of one's own and gives all messages up to ReadyForQuery or the end.
fn start_up(pooler: &Pooler, protocol: u32, parameters: &[(&str, &str)]) -> (Raw, Vec<Message>) {
    let mut client = pooler.dial();
    client.send(&startup(protocol, parameters));
    let mut messages = Vec::new();
    while let Some(message) = client.next() {
        let last = message.tag == b'Z';
        messages.push(message);
        if last {
            break;
        }
    }
    (client, messages)
}

const APP: &[(&str, &str)] = &[("user", "app"), ("database", "app")];

#[test]
fn a_login_ends_with_the_servers_parameters_a_key_and_ready() {
    let cluster = Cluster::shared();
    let pooler = trusted();
    let (client, messages) = start_up(&pooler, PROTOCOL_3_0, APP);
    let order: String = tags(&messages).chars().filter(|tag| *tag != 'S').collect();
    assert_eq!(order, "RKZ");
    assert_eq!(client.key.len(), 4);
    let mut direct = cluster.connect("app", "app").parameters;
    let mut through = client.parameters;
    // Who is a superuser, or the session's user, is not for the pooler's welcome to get wrong.
    assert_eq!(direct.remove("application_name"), through.remove("application_name"));
    assert_eq!(through, direct);
}

#[test]
fn protocol_3_2_has_longer_keys() {
    let pooler = trusted();
    let (mut client, messages) = start_up(&pooler, PROTOCOL_3_2, APP);
    assert!(!tags(&messages).contains('v'), "{messages:?}");
    assert!((5..=256).contains(&client.key.len()), "{} bytes", client.key.len());
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn what_is_newer_or_unknown_is_negotiated_once() {
    let pooler = trusted();
    let check = |protocol: u32, extra: &[(&str, &str)], names: &[&str]| {
        let (mut client, messages) = start_up(&pooler, protocol, &[APP, extra].concat());
        let answers: Vec<&Message> = messages.iter().filter(|message| message.tag == b'v').collect();
        assert_eq!(answers.len(), 1, "{messages:?}");
        let newest = protocol.min(PROTOCOL_3_2);
        let mut expected = newest.to_be_bytes().to_vec();
        expected.extend(u32::try_from(names.len()).unwrap().to_be_bytes());
        names.iter().for_each(|name| expected.extend([name.as_bytes(), &[0]].concat()));
        assert_eq!(answers[0].body, expected, "{:?}", answers[0]);
        assert_eq!(client.value("SELECT 1"), "1");
    };
    check(0x0003_0009, &[], &[]);
    check(0x0003_270f, &[], &[]);
    check(0x0003_0009, &[("_pq_.first", "1"), ("_pq_.second", "x")], &["_pq_.first", "_pq_.second"]);
    check(PROTOCOL_3_2, &[("_pq_.first", "1")], &["_pq_.first"]);
}

#[test]
fn a_start_up_that_cannot_be_is_refused_with_the_reason() {
    let pooler = trusted();
    let refused = |packet: &[u8], sqlstate: &str| {
        let mut client = pooler.dial();
        client.send(packet);
        let answer = client.rest();
        let error = error(&answer);
        assert_eq!(error.field(b'S').unwrap(), "FATAL");
        assert_eq!(error.sqlstate(), sqlstate, "{error}");
    };
    refused(&startup(PROTOCOL_3_0, &[("database", "app")]), "28000");
    refused(&startup(0x0002_0000, &[]), "0A000");
    refused(&startup(0x0004_0000, APP), "0A000");
    // The last terminator is missing.
    let mut packet = startup(PROTOCOL_3_0, APP);
    packet.pop();
    let shorter = u32::try_from(packet.len()).unwrap().to_be_bytes();
    packet[..4].copy_from_slice(&shorter);
    refused(&packet, "08P01");
    still_serves(&pooler);
}

#[test]
fn the_database_is_named_like_the_user_by_default() {
    let pooler = trusted();
    let (mut client, _) = start_up(&pooler, PROTOCOL_3_0, &[("user", "app")]);
    assert_eq!(client.value("SELECT current_database()"), "app");
}

#[test]
fn encryption_that_is_not_offered_is_declined_and_the_login_goes_on() {
    let pooler = trusted();
    for requests in [vec![ssl_request()], vec![gss_request()], vec![gss_request(), ssl_request()]] {
        let mut client = pooler.dial();
        for request in requests {
            client.send(&request);
            assert_eq!(client.byte(), Some(b'N'));
        }
        client.login(APP, "").unwrap();
        assert_eq!(client.value("SELECT 1"), "1");
    }
}

#[test]
fn a_query_may_follow_the_start_up_packet_at_once() {
    let pooler = trusted();
    let mut client = pooler.dial();
    client.send(&[startup(PROTOCOL_3_0, APP), query("SELECT 'early'")].concat());
    client.ready();
    assert_eq!(rows(&client.ready()), [[Some("early".to_owned())]]);
}

#[test]
fn port_scanners_and_strangers_are_shown_the_door() {
    let pooler = trusted();
    let greetings: &[&[u8]] = &[
        b"",
        b"\0",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x00\x00\x00\x04",
        b"\x00\x00\x00\x07\x00\x03\x00",
        b"\x7f\xff\xff\xff\x00\x03\x00\x00",
        b"\xff\xff\xff\xff\x00\x03\x00\x00",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2e",
        b"\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00",
    ];
    for greeting in greetings {
        let mut stranger = pooler.dial();
        stranger.try_send(greeting);
        stranger.finish_sending();
        // An error or nothing, and the end; what matters is that there is one.
        while stranger.byte().is_some() {}
    }
    still_serves(&pooler);
}

#[test]
fn who_does_not_finish_the_login_is_closed_after_a_time() {
    let pooler = Setup::of(Cluster::shared()).set("client_login_timeout", "\"1s\"").start();
    let stages: [&[u8]; 3] = [b"", &startup(PROTOCOL_3_0, APP)[..9], &ssl_request()];
    for stage in stages {
        let begin = Instant::now();
        let mut sleeper = pooler.dial();
        sleeper.send(stage);
        while sleeper.byte().is_some() {}
        assert!(begin.elapsed() >= Duration::from_millis(950), "after {:?}", begin.elapsed());
    }
    still_serves(&pooler);
}

#[test]
fn a_start_up_packet_has_a_limit() {
    let pooler = trusted();
    let long = "x".repeat(9_000);
    let (mut client, _) = start_up(&pooler, PROTOCOL_3_0, &[APP, &[("application_name", &long)]].concat());
    // PostgreSQL keeps 63 bytes of it.
    assert_eq!(client.value("SHOW application_name"), "x".repeat(63));
    let longer = "x".repeat(11_000);
    let mut client = pooler.dial();
    client.try_send(&startup(PROTOCOL_3_0, &[APP, &[("application_name", &longer)]].concat()));
    assert!(client.rest().iter().all(|message| message.tag == b'E'));
    still_serves(&pooler);
}

#[test]
fn messages_that_are_none_end_the_session_with_a_protocol_violation() {
    let pooler = trusted();
    let bad: &[&[u8]] = &[
        // Unknown types, and lengths that cannot be.
        b"z\0\0\0\x04",
        b"\0\0\0\0\x04",
        b"Q\0\0\0\0",
        b"Q\0\0\0\x03",
        b"Q\xff\xff\xff\xff",
        // No terminator.
        b"Q\0\0\0\x08text",
        b"P\0\0\0\x06ab",
        // A Bind without its statement's name, a Describe and a Close of nothing known.
        b"B\0\0\0\x05\0",
        b"D\0\0\0\x06X\0",
        b"C\0\0\0\x06X\0",
    ];
    for message in bad {
        let mut client = pooler.app();
        client.send(message);
        client.try_send(&sync());
        let first = client.until(b'E').pop().unwrap();
        assert_eq!(first.sqlstate(), "08P01", "{}: {first}", message.escape_ascii());
    }
    still_serves(&pooler);
}

#[test]
fn a_login_only_hears_a_password_when_it_asked_for_one() {
    let pooler = trusted();
    let mut client = pooler.app();
    client.send(&password("unasked"));
    let answer = client.rest();
    assert_eq!(error(&answer).sqlstate(), "08P01");
    still_serves(&pooler);
}

#[test]
fn garbage_at_every_stage_of_a_login_is_one_clients_trouble() {
    let pooler = Setup::of(Cluster::shared())
        .set("auth_type", "\"scram-sha-256\"")
        .set("client_login_timeout", "\"2s\"")
        .start();
    let mut random = Random::new(20_260_801);
    for attempt in 0..120 {
        let mut client = pooler.dial();
        let stage = attempt % 4;
        if stage == 1 {
            client.send(&ssl_request());
            client.byte();
        }
        if stage >= 2 {
            client.send(&startup(PROTOCOL_3_0, APP));
            client.until(b'R');
        }
        if stage == 3 {
            client.try_send(&message(b'p', b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=garbage-from-a-test-client"));
            client.next();
        }
        let length = 1 + random.below(200);
        let garbage: Vec<u8> = (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        client.try_send(&garbage);
        client.finish_sending();
        while client.byte().is_some() {}
    }
    let mut client = pooler.dial();
    client.login(APP, "app-secret").unwrap();
    assert_eq!(client.value("SELECT 'serves'"), "serves");
}

#[test]
fn a_password_of_a_million_bytes_is_refused() {
    for method in ["plain", "md5", "scram-sha-256"] {
        let pooler = Setup::of(Cluster::shared()).set("auth_type", &format!("\"{method}\"")).start();
        let mut client = pooler.dial();
        client.send(&startup(PROTOCOL_3_0, APP));
        client.until(b'R');
        let before = pooler.resident_bytes();
        client.try_send(&password(&"x".repeat(1_000_000)));
        let answer = client.rest();
        assert!(answer.iter().all(|message| message.tag == b'E'), "{answer:?}");
        assert!(pooler.resident_bytes() < before + (8 << 20));
        let mut client = pooler.dial();
        client.login(APP, "app-secret").unwrap();
    }
}

#[test]
fn garbage_in_a_session_is_one_clients_trouble() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "2").start();
    let mut random = Random::new(7);
    for _ in 0..100 {
        let mut client = pooler.app();
        let script = [extended("SELECT $1", &[Some("x")]), sync(), query("BEGIN"), query("COMMIT")].concat();
        let mut broken = script.clone();
        for _ in 0..1 + random.below(4) {
            let place = random.below(broken.len());
            broken[place] = u8::try_from(random.below(256)).unwrap();
        }
        client.send(&broken);
        client.finish_sending();
        while client.byte().is_some() {}
    }
    still_serves(&pooler);
}

#[test]
fn terminate_is_obeyed_at_once_and_silently() {
    let pooler = trusted();
    let mut client = pooler.app();
    client.send(&terminate());
    assert_eq!(client.rest(), []);
    // In the middle of a login, too.
    let mut client = pooler.dial();
    client.send(&ssl_request());
    client.byte();
    client.finish_sending();
    assert_eq!(client.byte(), None);
    still_serves(&pooler);
}

#[test]
fn terminate_in_a_transaction_rolls_it_back() {
    let cluster = Cluster::shared();
    let table = cluster.unique("terminated");
    cluster.connect("app", "app").query(&format!("CREATE TABLE {table} (n int)"));
    let pooler = Setup::of(cluster).set("default_pool_size", "1").start();
    let mut client = pooler.app();
    client.query("BEGIN");
    client.query(&format!("INSERT INTO {table} VALUES (1)"));
    client.goodbye();
    assert_eq!(pooler.app().value(&format!("SELECT count(*) FROM {table}")), "0");
}

#[test]
fn terminate_amid_something_unfinished_holds_up_no_server() {
    let cluster = Cluster::shared();
    let table = cluster.unique("unfinished");
    cluster.connect("app", "app").query(&format!("CREATE TABLE {table} (n int)"));
    let pooler = Setup::of(cluster).set("default_pool_size", "1").start();
    let copy = query(&format!("COPY {table} FROM STDIN"));
    let batch = [parse("", "SELECT 1", &[]), bind("", "", &[]), execute("", 0)].concat();
    for (name, begun) in [("COPY", copy), ("batch without Sync", batch)] {
        let mut client = pooler.app();
        // The client keeps its socket open: only what it said tells that it is done.
        client.send(&[begun, terminate()].concat());
        assert_eq!(pooler.app().value("SELECT 'free'"), "free", "{name}");
        client.rest();
    }
}

#[test]
fn a_client_that_leaves_with_terminate_amid_a_query_has_it_cancelled() {
    let cluster = Cluster::shared();
    let pooler = Setup::of(cluster).set("default_pool_size", "1").start();
    let mut client = pooler.app();
    let pid = client.value("SELECT pg_backend_pid()");
    client.send(&[query("SELECT pg_sleep(600)"), terminate()].concat());
    let sleeping = format!("pid = {pid} AND state = 'active' AND query LIKE '%pg_sleep%'");
    eventually("the query runs", || cluster.connections(&sleeping) == 1);
    client.vanish();
    assert_eq!(pooler.app().value("SELECT pg_backend_pid()"), pid);
}

#[test]
fn a_client_over_the_unix_socket_is_served_alike() {
    let pooler = trusted();
    let mut client = Raw::dial_unix(pooler.directory(), pooler.port);
    client.login(APP, "").unwrap();
    assert_eq!(client.value("SELECT 'over a socket file'"), "over a socket file");
}

#[test]
fn a_server_may_be_reached_over_its_unix_socket() {
    let cluster = Cluster::shared();
    let host = cluster.socket_directory().display().to_string();
    let pooler =
        Setup::of(cluster).database("local", &format!("host = \"{host}\"\ndbname = \"app\"")).start();
    let mut client = pooler.connect("local", "app");
    assert_eq!(client.value("SELECT coalesce(host(inet_client_addr()), 'local')"), "local");
}

#[test]
fn an_idle_client_that_half_closes_is_closed() {
    let pooler = trusted();
    let mut client = pooler.app();
    client.query("SELECT 1");
    client.finish_sending();
    assert_eq!(client.rest(), []);
    eventually("the client is forgotten", || pooler.pool("app", "app", "cl_active") == 0);
}
