//! Replication connections, logical and physical: PostgreSQL's own programs, and clients in every kind of trouble.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::support::place;
use crate::support::prelude::*;

const CONF: &[&str] = &["wal_level = logical", "max_wal_senders = 40", "max_replication_slots = 40"];

/// A cluster that can be replicated from.
fn primary() -> &'static Cluster {
    static PRIMARY: OnceLock<Cluster> = OnceLock::new();
    PRIMARY.get_or_init(|| Cluster::private(CONF))
}

/// pgweir in front of it. A physical replication client names the database `replication` unless told otherwise.
fn setup() -> Setup {
    Setup::of(primary()).database("replication", "")
}

fn login(pooler: &Pooler, replication: &str, more: &[(&str, &str)]) -> Result<Raw, Message> {
    let mut client = pooler.dial();
    let parameters = [("user", "postgres"), ("database", "app"), ("replication", replication)];
    client.login(&[&parameters, more].concat(), "").map(|()| client)
}

#[track_caller]
fn logical(pooler: &Pooler) -> Raw {
    login(pooler, "database", &[]).unwrap()
}

/// Walsenders of this application on the primary.
fn walsenders(name: &str) -> u64 {
    primary().connections(&format!("backend_type = 'walsender' AND application_name = '{name}'"))
}

/// One of PostgreSQL's programs, as the servers' user.
fn program(name: &str) -> Command {
    place::command(place::postgres_program(name))
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn slot(name: &str, plugin: &str) {
    primary().execute(&format!("SELECT pg_create_logical_replication_slot('{name}', '{plugin}')"));
}

/// Whether no walsender has the slot.
fn is_free(slot: &str) -> bool {
    primary().execute(&format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'")) == "f"
}

#[test]
fn a_logical_connection_has_what_it_asked_for_from_its_start() {
    let pooler = setup().start();
    let name = primary().unique("logical");
    let asked =
        [("application_name", name.as_str()), ("options", "-c enable_seqscan=off -c DateStyle=German")];
    let mut client = login(&pooler, "database", &asked).unwrap();
    assert_eq!(client.value("SHOW application_name"), name);
    assert_eq!(client.value("SHOW enable_seqscan"), "off");
    assert_eq!(client.value("SHOW DateStyle"), "German, DMY");
    assert_eq!(client.rows("IDENTIFY_SYSTEM")[0][3].as_deref(), Some("app"));
    assert_eq!(client.value("SELECT count(*) FROM pg_class WHERE relname = 'pg_class'"), "1");
    assert_eq!(client.value("SET DateStyle = 'ISO'; RESET DateStyle; SHOW DateStyle"), "German, DMY");
    assert_eq!(walsenders(&name), 1);
    let seen = pooler.show("SHOW CLIENTS").into_iter().find(|row| row["application_name"] == name).unwrap();
    assert_eq!((seen["replication"].as_str(), seen["state"].as_str()), ("logical", "active"));
    let [server] = pooler.show("SHOW SERVERS").try_into().unwrap();
    assert_eq!((server["replication"].as_str(), &server["link"]), ("logical", &seen["ptr"]));
    assert_eq!(pooler.pool("app", "postgres", "sv_active"), 1);
    client.goodbye();
    eventually("its server is closed", || walsenders(&name) == 0);
    eventually("the pool is empty", || pooler.pool("app", "postgres", "sv_active") == 0);
    assert_eq!(pooler.pool("app", "postgres", "sv_idle"), 0);
    // What one client asked for is nothing to the next.
    let mut ordinary = pooler.connect("app", "postgres");
    assert_eq!(ordinary.value("SHOW DateStyle"), "ISO, MDY");
    assert_eq!(ordinary.value("SHOW enable_seqscan"), "on");
}

#[test]
fn a_physical_connection_takes_no_sql_and_none_is_sent() {
    let pooler = setup().database("app", "connect_query = \"SET geqo = off\"").start();
    let mut ordinary = pooler.connect("app", "postgres");
    assert_eq!(ordinary.value("SHOW geqo"), "off");
    for word in ["true", "on", "yes", "1"] {
        let asked = [("application_name", "wal"), ("timezone", "Europe/Paris"), ("options", "-c geqo=off")];
        let mut client = login(&pooler, word, &asked).unwrap();
        assert_eq!(client.failure("SELECT 1"), "0A000");
        assert_eq!(client.value("SHOW application_name"), "wal");
        assert_eq!(client.value("SHOW timezone"), "Europe/Paris");
        assert_eq!(client.value("SHOW geqo"), "off");
        assert_eq!(client.rows("IDENTIFY_SYSTEM")[0][3], None, "no database");
        assert!(pooler.show("SHOW CLIENTS").iter().any(|row| row["replication"] == "physical"));
        client.goodbye();
    }
    let log = primary().log();
    assert_eq!(log.matches("cannot execute SQL commands in WAL sender").count(), 4, "those of the clients");
}

#[test]
fn who_may_not_replicate_is_told_so_and_harms_nobody() {
    let app = [("user", "app"), ("database", "app"), ("replication", "database")];
    let mut direct = Raw::dial(("127.0.0.1", primary().port));
    let their_own = direct.login(&app, "").unwrap_err();
    let pooler = setup().start();
    let refusal = pooler.refusal(&app, "");
    assert_eq!((refusal.sqlstate(), refusal.text()), (their_own.sqlstate(), their_own.text()));
    let physical = pooler.refusal(&[("user", "app"), ("database", "app"), ("replication", "1")], "");
    assert_eq!(physical.sqlstate(), "28000");
    assert!(physical.text().contains("no pg_hba.conf entry for replication connection"), "{physical:?}");
    assert_eq!(pooler.app().value("SELECT 1"), "1", "no failure is remembered");

    let theirs = setup().set("compatibility", "\"pgbouncer\"").start();
    let refusal = theirs.refusal(&app, "");
    assert_eq!((refusal.sqlstate().as_str(), refusal.text().as_str()), ("08P01", "login failed"));
    assert_eq!(theirs.log().matches("closing because: login failed (age").count(), 2);
    assert_eq!(theirs.app().value("SELECT 1"), "1");
}

#[test]
fn a_hba_line_for_replication_is_needed_where_it_is_physical() {
    let directory = place::directory("hba");
    let hba = directory.join("hba.conf");
    place::write(&hba, "host replication postgres all trust\nhost app app all trust\n");
    let file = format!("{:?}", hba.display().to_string());
    let pooler = setup().set("auth_type", "\"hba\"").set("auth_hba_file", &file).start();
    assert!(login(&pooler, "true", &[]).is_ok());
    let refused = login(&pooler, "database", &[]).err().unwrap();
    assert_eq!(refused.text(), "no authentication method is found");
    let refused = pooler.refusal(&[("user", "app"), ("database", "app"), ("replication", "on")], "");
    assert_eq!(refused.text(), "no authentication method is found");
}

#[test]
fn a_full_pool_gives_up_an_idle_server_and_the_queue_is_kept() {
    let pooler = setup().database("app", "pool_size = 1").start();
    let mut ordinary = pooler.connect("app", "postgres");
    assert_eq!(ordinary.value("SELECT 1"), "1");
    assert_eq!(pooler.pool("app", "postgres", "sv_idle"), 1);
    let first = logical(&pooler);
    assert!(pooler.log().contains("closing because: evicted"));
    assert_eq!(pooler.pool("app", "postgres", "sv_active"), 1);
    // Two who wait: one for a server of its own, one for any.
    let mut second = pooler.dial();
    second.send(&startup(3 << 16, &[("user", "postgres"), ("database", "app"), ("replication", "database")]));
    eventually("the second waits", || pooler.pool("app", "postgres", "cl_waiting") == 1);
    ordinary.send(&query("SELECT 2"));
    eventually("both wait", || pooler.pool("app", "postgres", "cl_waiting") == 2);
    first.goodbye();
    second.ready();
    assert_eq!(second.value("SELECT 3"), "3");
    assert!(ordinary.is_silent_for(Duration::from_millis(50)), "the pool is full");
    second.vanish();
    assert_eq!(rows(&ordinary.ready()), [[Some("2".to_owned())]]);
    assert_eq!(pooler.pool("app", "postgres", "sv_active") + pooler.pool("app", "postgres", "sv_idle"), 1);
}

#[test]
fn who_leaves_the_queue_gets_no_server() {
    let pooler = setup().database("app", "pool_size = 1").start();
    let first = logical(&pooler);
    let mut second = pooler.dial();
    second.send(&startup(3 << 16, &[("user", "postgres"), ("database", "app"), ("replication", "database")]));
    eventually("the second waits", || pooler.pool("app", "postgres", "cl_waiting") == 1);
    drop(second);
    eventually("it is gone", || pooler.pool("app", "postgres", "cl_waiting") == 0);
    first.goodbye();
    eventually("nothing is left", || pooler.pool("app", "postgres", "sv_active") == 0);
    assert_eq!(pooler.show("SHOW SERVERS").len(), 0);
}

#[test]
fn what_is_said_while_the_server_is_waited_for_is_all_heard() {
    const QUERIES: usize = 2000;
    let pooler = setup().database("app", "pool_size = 1").start();
    let first = logical(&pooler);
    let mut second = pooler.dial();
    let mut said =
        startup(3 << 16, &[("user", "postgres"), ("database", "app"), ("replication", "database")]);
    said.extend(query("SELECT 1").repeat(QUERIES));
    second.send(&said);
    eventually("the second waits", || pooler.pool("app", "postgres", "cl_waiting") == 1);
    first.goodbye();
    second.ready();
    (0..QUERIES).for_each(|_| drop(second.ready()));
}

/// Begins to stream from a logical slot.
#[track_caller]
fn stream(client: &mut Raw, slot: &str) {
    client.send(&query(&format!("START_REPLICATION SLOT {slot} LOGICAL 0/0")));
    assert_eq!(tags(&client.until(b'W')), "W");
}

#[test]
fn both_sides_of_a_stream_talk_at_the_same_time_and_end_it() {
    const ROWS: usize = 2000;
    let pooler = setup().start();
    let (name, table) = (primary().unique("duplex"), primary().unique("duplex_t"));
    primary().execute(&format!("CREATE TABLE {table} (t text)"));
    slot(&name, "test_decoding");
    let filler = "repeat('x', 10000)";
    primary().execute(&format!("INSERT INTO {table} SELECT {filler} FROM generate_series(1, {ROWS})"));
    let mut client = logical(&pooler);
    stream(&mut client, &name);
    // A standby status update that asks for an answer at once; many of them while nobody reads what the server sends.
    let status = copy_data(&[b"r".as_slice(), &[0; 32], &[1]].concat());
    for _ in 0..1000 {
        client.send(&status);
    }
    let (mut rows, mut keepalives) = (0, 0);
    while rows < ROWS || keepalives < 1000 {
        let message = client.next().unwrap();
        assert_eq!(message.tag, b'd', "{message:?}");
        match message.body[0] {
            b'w' if message.body.len() > 10_000 => rows += 1,
            b'k' => keepalives += 1,
            _ => {}
        }
    }
    client.send(&copy_done());
    let end = client.ready();
    let ends: Vec<u8> = end.iter().map(|message| message.tag).filter(|tag| *tag != b'd').collect();
    assert_eq!(ends, b"cCCZ", "{end:?}");
    assert_eq!(client.value("SELECT 'still here'"), "still here");
    // The server ends one, with an error of its own.
    let mut client = logical(&pooler);
    stream(&mut client, &name);
    primary().execute(&format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{name}'"
    ));
    let last = client.until(b'E');
    assert_eq!(error(&last).sqlstate(), "57P01", "{:?}", error(&last));
    assert_eq!(client.next(), None);
    // A walsender tells its client that it ends before it gives the slot up.
    eventually("the slot is free", || is_free(&name));
    primary().execute(&format!("SELECT pg_drop_replication_slot('{name}')"));
}

#[test]
fn a_client_that_leaves_in_mid_stream_leaves_no_server() {
    let pooler = setup().start();
    for leave in [Raw::vanish, Raw::goodbye, drop] {
        let name = primary().unique("leaver");
        slot(&name, "test_decoding");
        let mut client = login(&pooler, "database", &[("application_name", &name)]).unwrap();
        stream(&mut client, &name);
        assert_eq!(walsenders(&name), 1);
        leave(client);
        eventually("its server is gone", || walsenders(&name) == 0);
        // While a walsender has the slot this would fail.
        primary().execute(&format!("SELECT pg_drop_replication_slot('{name}')"));
    }
    eventually("nothing is left", || pooler.show("SHOW SERVERS").is_empty());
}

#[test]
fn no_time_limit_ends_a_stream_but_a_reconnect_does() {
    let pooler = setup()
        .set("query_timeout", "\"300ms\"")
        .set("transaction_timeout", "\"300ms\"")
        .set("server_lifetime", "\"100ms\"")
        .start();
    let name = primary().unique("patient");
    slot(&name, "test_decoding");
    let mut client = logical(&pooler);
    stream(&mut client, &name);
    // The same limits end another client's query meanwhile.
    let mut other = pooler.app();
    other.send(&query("SELECT pg_sleep(10)"));
    assert_eq!(error(&other.rest()).sqlstate(), "57014");
    client.send(&copy_data(&[b"r".as_slice(), &[0; 32], &[1]].concat()));
    assert_eq!(client.until(b'd').last().map(|message| message.body[0]), Some(b'k'));
    pooler.show("RECONNECT app");
    let last = client.rest();
    assert_eq!(error(&last).text(), "database configuration changed");
    eventually("its server is gone", || pooler.pool("app", "postgres", "sv_active") == 0);
    eventually("the slot is free", || is_free(&name));
    primary().execute(&format!("SELECT pg_drop_replication_slot('{name}')"));
}

#[test]
fn a_cancel_reaches_a_walsender() {
    let pooler = setup().start();
    // A new slot waits for all transactions that have begun before it.
    let mut blocker = primary().connect("app", "postgres");
    blocker.rows("BEGIN; SELECT pg_current_xact_id()");
    let name = primary().unique("cancelled");
    let mut client = login(&pooler, "database", &[("application_name", &name)]).unwrap();
    client.send(&query("CREATE_REPLICATION_SLOT cancelled TEMPORARY LOGICAL test_decoding"));
    eventually("it waits", || {
        let its_own = format!("application_name = '{name}'");
        primary().connections(&format!("{its_own} AND wait_event_type = 'Lock'")) == 1
    });
    pooler.dial().send(&cancel_request(client.pid, &client.key));
    let answer = client.ready();
    assert_eq!(error(&answer).sqlstate(), "57014");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn auth_query_serves_replication_clients() {
    primary().execute("ALTER ROLE scram_user REPLICATION");
    let pooler = Setup::of(primary())
        .set("auth_type", "\"scram-sha-256\"")
        .set("auth_user", "\"auth_reader\"")
        .without_user("scram_user")
        .start();
    let asked = [
        ("user", "scram_user"),
        ("database", "app"),
        ("replication", "database"),
        ("options", "-c search_path=nowhere"),
    ];
    let mut client = pooler.dial();
    client.login(&asked, "scram-secret").unwrap();
    assert_eq!(client.value("SHOW search_path"), "nowhere");
    assert_eq!(client.rows("IDENTIFY_SYSTEM").len(), 1);
    assert_eq!(pooler.refusal(&asked, "wrong").sqlstate(), "28P01");
}

#[test]
fn pg_basebackup_copies_a_cluster() {
    let pooler = setup().start();
    let directory = place::directory("backup");
    for (method, source) in [("stream", "database"), ("fetch", "connection string")] {
        let target = directory.join(method);
        let wal = format!("--wal-method={method}");
        let mut backup = program("pg_basebackup");
        backup.args(["--checkpoint=fast", "--no-sync", &wal]).arg("-D").arg(&target);
        match source {
            "database" => backup.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &pooler.port.to_string()]),
            _ => backup.arg("-d").arg(format!("host=127.0.0.1 port={} user=postgres", pooler.port)),
        };
        run(&mut backup);
        run(program("pg_verifybackup").arg(&target));
    }
    eventually("nothing is left", || pooler.show("SHOW SERVERS").is_empty());
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn pg_receivewal_receives_wal_until_it_is_told_to_stop() {
    let pooler = setup().start();
    let directory = place::directory("wal");
    let slot = primary().unique("receivewal");
    let source = format!("host=127.0.0.1 port={} user=postgres", pooler.port);
    run(program("pg_receivewal").args(["--create-slot", "--slot", &slot, "-d", &source]));
    let mut receive = program("pg_receivewal");
    receive
        .args(["--slot", &slot, "--no-sync", "--status-interval=1", "-d", &source])
        .arg("-D")
        .arg(&directory);
    let mut receive = Running(receive.stderr(Stdio::null()).spawn().unwrap());
    let has_files = |directory: &Path| std::fs::read_dir(directory).unwrap().count() > 0;
    eventually("WAL comes", || has_files(&directory));
    let wal =
        "SELECT pg_switch_wal() IS NULL OR restart_lsn IS NULL FROM pg_replication_slots WHERE slot_name =";
    primary().execute(&format!("{wal} '{slot}'"));
    place::signal(receive.0.id().cast_signed(), Signal::INT);
    assert!(receive.0.wait().unwrap().success());
    eventually("its server is gone", || pooler.show("SHOW SERVERS").is_empty());
    run(program("pg_receivewal").args(["--drop-slot", "--slot", &slot, "-d", &source]));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn pg_recvlogical_prints_changes_as_they_happen() {
    use std::io::BufRead;
    let pooler = setup().start();
    let (table, name) = (primary().unique("recvlogical"), primary().unique("recvlogical"));
    primary().execute(&format!("CREATE TABLE {table} (a int)"));
    slot(&name, "test_decoding");
    let mut receive = program("pg_recvlogical");
    let port = pooler.port.to_string();
    receive.args(["-d", "app", "-h", "127.0.0.1", "-U", "postgres", "-p", &port, "--file=-", "--no-loop"]);
    receive.args(["--start", "--slot", &name]).stdout(Stdio::piped());
    let mut receive = Running(receive.spawn().unwrap());
    let mut lines = std::io::BufReader::new(receive.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    primary().execute(&format!("INSERT INTO {table} VALUES (1)"));
    // Other tests change this database, too: their transactions come as well, each as a whole.
    let change = format!("table public.{table}: INSERT: a[integer]:1");
    let mut before = String::new();
    let found = lines.by_ref().find(|line| {
        *line == change || {
            before.clone_from(line);
            false
        }
    });
    assert!(found.is_some() && before.starts_with("BEGIN "), "{before}");
    assert!(lines.next().unwrap().starts_with("COMMIT "));
    drop(receive);
    eventually("its server is gone", || pooler.show("SHOW SERVERS").is_empty());
    // PostgreSQL hears of it a little later than the pooler says it.
    eventually("the slot is free", || is_free(&name));
    primary().execute(&format!("SELECT pg_drop_replication_slot('{name}')"));
}

#[test]
fn a_subscription_follows_by_way_of_a_transaction_pool() {
    let pooler = setup().start();
    let subscriber = Cluster::private(&["wal_level = logical"]);
    let name = primary().unique("subscription");
    primary().execute(&format!("CREATE TABLE {name} (a int); INSERT INTO {name} VALUES (1)"));
    primary().execute(&format!("CREATE PUBLICATION {name} FOR TABLE {name}"));
    subscriber.execute(&format!("CREATE TABLE {name} (a int)"));
    let source = format!("host=127.0.0.1 port={} dbname=app user=postgres", pooler.port);
    subscriber
        .connect("app", "postgres")
        .rows(&format!("CREATE SUBSCRIPTION {name} CONNECTION '{source}' PUBLICATION {name}"));
    let count = || subscriber.execute(&format!("SELECT count(*) FROM {name}"));
    eventually("the first copy", || count() == "1");
    primary().execute(&format!("INSERT INTO {name} VALUES (2)"));
    eventually("the next change", || count() == "2");
    // A broken connection is made anew, with nothing lost.
    pooler.show("RECONNECT");
    primary().execute(&format!("INSERT INTO {name} VALUES (3)"));
    eventually("the change after it", || count() == "3");
    subscriber.connect("app", "postgres").rows(&format!("DROP SUBSCRIPTION {name}"));
    eventually("nothing is left", || pooler.pool("app", "postgres", "sv_active") == 0);
}

#[test]
fn a_standby_is_made_and_follows() {
    let pooler = setup().start();
    let table = primary().unique("standby");
    primary().execute(&format!("CREATE TABLE {table} (a int)"));
    let standby = Cluster::standby(pooler.port);
    assert_eq!(standby.execute("SELECT pg_is_in_recovery()"), "t");
    primary().execute(&format!("INSERT INTO {table} VALUES (1)"));
    eventually("it follows", || standby.execute(&format!("SELECT count(*) FROM {table}")) == "1");
    assert!(pooler.show("SHOW CLIENTS").iter().any(|row| row["replication"] == "physical"));
    drop(standby);
    eventually("its server is gone", || walsenders("standby") == 0);
}
