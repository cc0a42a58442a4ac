//! The relay: both directions always open, in bounded memory, with well-behaved peers and others.

use std::io::Write;

use crate::support::prelude::*;

#[test]
fn a_query_is_answered() {
    let pooler = Pooler::of(Cluster::shared());
    assert_eq!(pooler.app().value("SELECT 40 + 2"), "42");
}

#[test]
fn messages_may_arrive_a_byte_at_a_time() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    let script = [
        parse("s", "SELECT $1::int + 1", &[]),
        bind("", "s", &[Some("41")]),
        execute("", 0),
        close_statement("s"),
        sync(),
        query("SELECT 'simple'"),
    ]
    .concat();
    for byte in script {
        client.send(&[byte]);
    }
    assert_eq!(rows(&client.ready()), [[Some("42".to_owned())]]);
    assert_eq!(rows(&client.ready()), [[Some("simple".to_owned())]]);
}

/// Two other poolers deadlock on it: they do not read answers while they write queries.
#[test]
fn a_huge_pipeline_with_a_huge_answer_goes_through() {
    const EXECUTIONS: usize = 200_000;
    const ROW: usize = 500;
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.send(&[parse("wide", &format!("SELECT repeat('x', {ROW})"), &[]), sync()].concat());
    client.ready();
    let mut sender = client.sender();
    let sending = std::thread::spawn(move || {
        let one = [bind("", "wide", &[]), execute("", 0)].concat();
        sender.write_all(&one.repeat(EXECUTIONS)).unwrap();
        sender.write_all(&sync()).unwrap();
    });
    let mut seen = [0_usize; 256];
    loop {
        let message = client.next().expect("the answer is complete");
        seen[usize::from(message.tag)] += 1;
        match message.tag {
            b'D' => assert_eq!(message.body.len(), 2 + 4 + ROW),
            b'Z' => break,
            _ => {}
        }
    }
    sending.join().unwrap();
    let count = |tag: u8| seen[usize::from(tag)];
    assert_eq!((count(b'2'), count(b'D'), count(b'C'), count(b'E')), (EXECUTIONS, EXECUTIONS, EXECUTIONS, 0));
}

#[test]
fn a_row_of_64_mb_passes_in_little_memory() {
    const BYTES: usize = 64 << 20;
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.query("SELECT 1");
    let before = pooler.resident_bytes();
    let row = client.query(&format!("SELECT repeat('x', {BYTES})")).swap_remove(1);
    assert_eq!((row.tag, row.body.len()), (b'D', 2 + 4 + BYTES));
    let grown = pooler.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "pgweir grew by {grown} bytes");
}

#[test]
fn a_parameter_of_32_mb_passes_in_little_memory() {
    const BYTES: usize = 32 << 20;
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.query("SELECT 1");
    let before = pooler.resident_bytes();
    let text = "y".repeat(BYTES);
    client.send(&[extended("SELECT length($1)", &[Some(&text)]), sync()].concat());
    assert_eq!(rows(&client.ready()), [[Some(BYTES.to_string())]]);
    let grown = pooler.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "pgweir grew by {grown} bytes");
}

/// What is waited for in large pieces comes whole, and a small answer behind it is not waited for at all.
#[test]
fn small_answers_follow_large_ones_at_once() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    for bytes in [30_000, 200_000, 5_000_000] {
        assert_eq!(client.value(&format!("SELECT repeat('x', {bytes})")).len(), bytes);
        assert_eq!(client.value("SELECT 1"), "1");
        assert_eq!(client.value(&format!("SELECT length('{}')", "y".repeat(bytes))), bytes.to_string());
        assert_eq!(client.value("SELECT 2"), "2");
    }
}

/// A server that has sent much is expected to go on; where it does not, what it has sent is not held back.
#[test]
fn a_stream_that_pauses_is_passed_on_as_far_as_it_came() {
    const ROWS: usize = 30_000;
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    let mut key = pooler.app();
    key.query("BEGIN; SELECT pg_advisory_xact_lock(4711)");
    let last = "CASE WHEN i = 30000 THEN pg_advisory_xact_lock(4711) IS NULL END";
    client.send(&query(&format!("SELECT repeat('x', 1000), {last} FROM generate_series(1, {ROWS}) i")));
    // PostgreSQL keeps back less than 8 KiB.
    for row in 0..ROWS - 10 {
        assert!(client.next().is_some(), "row {row} comes while the server waits");
    }
    key.query("COMMIT");
    assert_eq!(client.ready().last().map(|it| it.tag), Some(b'Z'));
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_takes_little_memory() {
    let pooler = Pooler::of(Cluster::shared());
    let mut other = pooler.app();
    other.query("SELECT 1");
    let before = pooler.resident_bytes();
    let mut lazy = pooler.app();
    lazy.send(&query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"));
    let begin = Instant::now();
    for number in 0..50 {
        assert_eq!(other.value(&format!("SELECT {number}")), number.to_string());
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "others waited for {:?}", begin.elapsed());
    let grown = pooler.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "pgweir grew by {grown} bytes");
    let answer = lazy.ready();
    assert_eq!(answer.iter().filter(|message| message.tag == b'D').count(), 100_000);
}

#[test]
fn a_server_goes_back_before_a_slow_client_has_taken_its_answer() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let mut slow = pooler.app();
    slow.shrink_receive_buffer();
    slow.send(&query("SELECT repeat('x', 30000)"));
    let mut other = pooler.app();
    assert_eq!(other.value("SELECT 'mine'"), "mine");
    assert_eq!(slow.ready()[1].body.len(), 30_006);
}

#[test]
fn half_a_message_holds_no_server() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let mut half = pooler.app();
    half.send(&query("SELECT 'never finished'")[..3]);
    let mut other = pooler.app();
    assert_eq!(other.value("SELECT 'mine'"), "mine");
    half.vanish();
    assert_eq!(other.value("SELECT 'still mine'"), "still mine");
}

#[test]
fn half_a_query_and_a_vanished_client_leave_no_half_a_query_behind() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let mut half = pooler.app();
    let long = query(&format!("SELECT '{}'", "x".repeat(1 << 20)));
    half.send(&long[..long.len() / 2]);
    half.vanish();
    assert_eq!(pooler.app().value("SELECT 'mine'"), "mine");
}

#[test]
fn a_client_that_vanishes_in_a_transaction_leaves_nothing() {
    let cluster = Cluster::shared();
    let table = cluster.unique("vanish");
    cluster.connect("app", "app").query(&format!("CREATE TABLE {table} (n int)"));
    let pooler = Setup::of(cluster).set("default_pool_size", "1").start();
    let mut client = pooler.app();
    client.query("BEGIN");
    client.query(&format!("INSERT INTO {table} VALUES (1)"));
    client.vanish();
    let mut next = pooler.app();
    assert_eq!(next.value(&format!("SELECT count(*) FROM {table}")), "0");
    let answer = next.query("SELECT 1");
    assert_eq!(answer.last().unwrap().to_string(), "Z I");
}

#[test]
fn a_client_that_vanishes_in_a_query_frees_its_place() {
    let cluster = Cluster::shared();
    let name = cluster.unique("sleeper");
    let pooler = Setup::of(cluster).set("default_pool_size", "1").start();
    let mut client = pooler.dial();
    client.login(&[("user", "app"), ("database", "app"), ("application_name", &name)], "").unwrap();
    client.send(&query("SELECT pg_sleep(600)"));
    let active = format!("application_name = '{name}' AND state = 'active'");
    eventually("the query runs", || cluster.connections(&active) == 1);
    client.vanish();
    assert_eq!(pooler.app().value("SELECT 'mine'"), "mine");
    eventually("nobody sleeps any more", || cluster.connections(&active) == 0);
}

#[test]
fn a_server_that_is_terminated_says_why_to_its_client() {
    let cluster = Cluster::shared();
    let pooler = Pooler::of(cluster);
    let mut client = pooler.app();
    client.query("BEGIN");
    let pid = client.value("SELECT pg_backend_pid()");
    client.send(&query("SELECT pg_sleep(600)"));
    eventually("the query runs", || {
        cluster.connections(&format!("pid = {pid} AND state = 'active' AND query LIKE '%pg_sleep%'")) == 1
    });
    cluster.execute(&format!("SELECT pg_terminate_backend({pid})"));
    let answer = client.rest();
    assert_eq!(error(&answer).sqlstate(), "57P01", "{answer:?}");
    assert_eq!(error(&answer).field(b'S').unwrap(), "FATAL");
    assert_eq!(pooler.app().value("SELECT 'others go on'"), "others go on");
}

#[test]
fn a_server_that_crashes_in_a_query_is_an_error_and_no_silence() {
    let mut cluster = Cluster::private(&[]);
    let pooler = Pooler::of(&cluster);
    let mut client = pooler.app();
    client.send(&query("SELECT pg_sleep(600)"));
    eventually("the query runs", || {
        cluster.connections("query LIKE 'SELECT pg_sleep%' AND state = 'active'") == 1
    });
    cluster.stop();
    let answer = client.rest();
    let error = answer.iter().rfind(|message| message.tag == b'E').expect("an error before the end");
    let known = ["57P01", "57P02", "08006", "08003", "08000", "57P03"];
    assert!(known.contains(&error.sqlstate().as_str()), "{answer:?}");
    cluster.start();
    assert_eq!(pooler.app().value("SELECT 'back'"), "back");
}

#[test]
fn a_server_that_dies_while_idle_is_no_clients_trouble() {
    let cluster = Cluster::shared();
    let pooler = Pooler::of(cluster);
    let mut client = pooler.app();
    for _ in 0..3 {
        let pid = client.value("SELECT pg_backend_pid()");
        cluster.execute(&format!("SELECT pg_terminate_backend({pid})"));
        eventually("PostgreSQL has ended it", || cluster.connections(&format!("pid = {pid}")) == 0);
        eventually("pgweir has seen it", || pooler.pool("app", "app", "sv_idle") == 0);
        assert_ne!(client.value("SELECT pg_backend_pid()"), pid);
    }
}

#[test]
fn notifications_reach_a_silent_client_in_session_mode() {
    let cluster = Cluster::shared();
    let channel = cluster.unique("channel");
    let pooler = Setup::of(cluster).set("pool_mode", "\"session\"").start();
    let mut client = pooler.app();
    client.query(&format!("LISTEN {channel}"));
    for payload in ["first", "second"] {
        cluster.execute(&format!("SELECT pg_notify('{channel}', '{payload}')"));
        let message = client.next().expect("a notification");
        assert_eq!(message.to_string(), format!("A {channel} \"{payload}\""));
    }
}

#[test]
fn notices_come_at_their_place() {
    let pooler = Pooler::of(Cluster::shared());
    let answer = pooler.app().query("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$; SELECT 1");
    assert_eq!(tags(&answer), "NNCTDCZ");
    assert_eq!((answer[0].text(), answer[1].text()), ("one".to_owned(), "two".to_owned()));
}

#[test]
fn copy_carries_much_in_both_directions() {
    const LINES: usize = 400_000;
    let cluster = Cluster::shared();
    let table = cluster.unique("copied");
    cluster.connect("app", "app").query(&format!("CREATE TABLE {table} (n int, t text)"));
    let pooler = Pooler::of(cluster);
    let mut client = pooler.app();
    client.send(&query(&format!("COPY {table} FROM STDIN")));
    client.until(b'G');
    for start in (0..LINES).step_by(1000) {
        let lines: String = (start..start + 1000).map(|n| format!("{n}\t{}\n", "z".repeat(60))).collect();
        client.send(&copy_data(lines.as_bytes()));
    }
    client.send(&copy_done());
    assert_eq!(client.ready()[0].to_string(), format!("C COPY {LINES}"));
    let answer = client.query(&format!("COPY {table} TO STDOUT"));
    assert_eq!(answer.iter().filter(|message| message.tag == b'd').count(), LINES);
    cluster.connect("app", "app").query(&format!("DROP TABLE {table}"));
}

#[test]
fn a_client_that_vanishes_in_copy_leaves_nothing() {
    let cluster = Cluster::shared();
    let table = cluster.unique("half_copied");
    cluster.connect("app", "app").query(&format!("CREATE TABLE {table} (n int)"));
    let pooler = Setup::of(cluster).set("default_pool_size", "1").start();
    let mut client = pooler.app();
    client.send(&query(&format!("COPY {table} FROM STDIN")));
    client.until(b'G');
    client.send(&copy_data(b"1\n2\n"));
    client.vanish();
    assert_eq!(pooler.app().value(&format!("SELECT count(*) FROM {table}")), "0");
}

#[test]
fn a_copy_holds_its_server_though_no_transaction_is_open() {
    let cluster = Cluster::shared();
    let table = cluster.unique("slowly_copied");
    cluster.connect("app", "app").query(&format!("CREATE TABLE {table} (n int)"));
    let pooler = Setup::of(cluster).set("default_pool_size", "1").start();
    let mut copier = pooler.app();
    copier.send(&query(&format!("COPY {table} FROM STDIN")));
    copier.until(b'G');
    let mut other = pooler.app();
    other.send(&query("SELECT 'after'"));
    assert!(other.is_silent_for(Duration::from_millis(300)));
    copier.send(&[copy_data(b"1\n"), copy_done()].concat());
    assert_eq!(copier.ready()[0].to_string(), "C COPY 1");
    assert_eq!(rows(&other.ready()), [[Some("after".to_owned())]]);
}

#[test]
fn large_objects_work_by_function_call() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.query("BEGIN");
    // lo_creat(-1)
    client.send(&function_call(957, &["-1"]));
    let answer = client.ready();
    assert_eq!(tags(&answer), "VZ");
    let oid = String::from_utf8(answer[0].body[4..].to_vec()).unwrap();
    assert_eq!(client.value(&format!("SELECT length(lo_get({oid}))")), "0");
    client.query("ROLLBACK");
}

/// Sends pipelines that are marked as this client's, and looks at the mark of every answer.
fn send_marked_pipelines(mut raw: Raw, client: usize) {
    const PARTS: usize = 5;
    for round in 0..30 {
        let mark = |part: usize| format!("{client}-{round}-{part}");
        let one = |part: usize| [extended("SELECT $1::text", &[Some(&mark(part))]), sync()].concat();
        raw.send(&(0..PARTS).flat_map(one).collect::<Vec<_>>());
        for part in 0..PARTS {
            assert_eq!(rows(&raw.ready()), [[Some(mark(part))]]);
        }
    }
}

#[test]
fn many_clients_with_pipelines_get_their_own_answers() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "3").start();
    let address = pooler.address();
    std::thread::scope(|scope| {
        for client in 0..20 {
            scope.spawn(move || send_marked_pipelines(Raw::connect(address, "app", "app"), client));
        }
    });
}

#[test]
fn who_terminates_in_a_transaction_leaves_no_server_behind() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    for sent in
        [[query("BEGIN"), terminate()].concat(), [query("BEGIN"), query("SELECT 1"), terminate()].concat()]
    {
        let mut client = pooler.app();
        client.send(&sent);
        client.rest();
        assert_eq!(pooler.app().value("SELECT 'next'"), "next");
    }
}

#[test]
fn a_sync_that_copy_mode_ignores_keeps_no_server() {
    let cluster = Cluster::shared();
    let table = cluster.unique("sync_ahead");
    cluster.connect("app", "app").query(&format!("CREATE TABLE {table} (n int)"));
    let pooler = Setup::of(cluster).set("default_pool_size", "1").start();
    for (data, answers) in [(b"1\n", "GCZ"), (b"x\n", "GEZ")] {
        let mut client = pooler.app();
        let begun = [query(&format!("COPY {table} FROM STDIN")), sync()].concat();
        client.send(&[begun, copy_data(data), copy_done()].concat());
        assert_eq!(tags(&client.ready()), answers);
        assert_eq!(pooler.app().value("SELECT 'another'"), "another");
        assert_eq!(client.value("SELECT 'the same'"), "the same");
    }
}
