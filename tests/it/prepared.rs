//! Prepared statements in transaction mode: a client's names hold on every server, and PostgreSQL's rules stay.

use crate::support::prelude::*;

fn single() -> Setup {
    Setup::of(Cluster::shared()).set("default_pool_size", "1")
}

/// Prepares a named statement.
#[track_caller]
fn prepare(client: &mut Raw, name: &str, sql: &str) {
    client.send(&[parse(name, sql, &[]), sync()].concat());
    assert_eq!(tags(&client.ready()), "1Z");
}

/// Executes a named statement, for all that is answered.
#[track_caller]
fn run(client: &mut Raw, name: &str, values: &[Option<&str>]) -> Vec<Message> {
    client.send(&[bind("", name, values), execute("", 0), sync()].concat());
    client.ready()
}

/// Executes a named statement that gives one value.
#[track_caller]
fn value(client: &mut Raw, name: &str, values: &[Option<&str>]) -> String {
    let answer = run(client, name, values);
    let row = rows(&answer).into_iter().next().unwrap_or_else(|| panic!("no row in {answer:?}"));
    row[0].clone().unwrap_or_default()
}

/// How many statements the server of a pool of one has prepared.
fn on_server(client: &mut Raw) -> usize {
    client.value("SELECT count(*) FROM pg_prepared_statements").parse().unwrap()
}

#[test]
fn a_statement_is_known_on_every_server() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "3").start();
    let mut client = pooler.app();
    prepare(&mut client, "add", "SELECT $1::int + $2::int, pg_backend_pid()");
    let mut pids = std::collections::BTreeSet::new();
    let mut holders: Vec<Raw> = (0..2).map(|_| pooler.app()).collect();
    for holder in 0..=2 {
        let row = rows(&run(&mut client, "add", &[Some("40"), Some("2")])).remove(0);
        assert_eq!(row[0].as_deref(), Some("42"));
        pids.insert(row[1].clone());
        if let Some(holder) = holders.get_mut(holder) {
            holder.query("BEGIN");
        }
    }
    assert_eq!(pids.len(), 3);
}

#[test]
fn names_belong_to_their_client() {
    let pooler = single().start();
    let (mut one, mut two) = (pooler.app(), pooler.app());
    prepare(&mut one, "s", "SELECT 'one'");
    prepare(&mut two, "s", "SELECT 'two'");
    for _ in 0..3 {
        assert_eq!(value(&mut one, "s", &[]), "one");
        assert_eq!(value(&mut two, "s", &[]), "two");
    }
    let mut three = pooler.app();
    assert_eq!(error(&run(&mut three, "s", &[])).sqlstate(), "26000");
}

#[test]
fn one_text_is_prepared_once_on_a_server_for_all_clients() {
    let pooler = single().start();
    for name in ["a", "b", "c"] {
        for _ in 0..3 {
            let mut client = pooler.app();
            prepare(&mut client, name, "SELECT 'shared'");
            assert_eq!(value(&mut client, name, &[]), "shared");
        }
    }
    assert_eq!(on_server(&mut pooler.app()), 1);
}

#[test]
fn the_same_text_with_other_types_is_another_statement() {
    let pooler = single().start();
    let (mut one, mut two) = (pooler.app(), pooler.app());
    let (int4, text) = (23, 25);
    one.send(&[parse("s", "SELECT pg_typeof($1)", &[int4]), sync()].concat());
    two.send(&[parse("s", "SELECT pg_typeof($1)", &[text]), sync()].concat());
    one.ready();
    two.ready();
    assert_eq!(value(&mut one, "s", &[Some("1")]), "integer");
    assert_eq!(value(&mut two, "s", &[Some("1")]), "text");
}

#[test]
fn describe_tells_what_postgresql_would() {
    let cluster = Cluster::shared();
    let script =
        [parse("d", "SELECT $1::int AS n, $2::text AS t", &[]), describe_statement("d"), sync()].concat();
    let mut direct = cluster.connect("app", "app");
    direct.send(&script);
    let expected = direct.ready();
    let pooler = single().start();
    let mut client = pooler.app();
    client.send(&script);
    assert_eq!(client.ready(), expected);
    // Also later, on its own, for a client that finds it prepared already.
    client.send(&[describe_statement("d"), sync()].concat());
    assert_eq!(client.ready(), expected[1..]);
}

#[test]
fn a_duplicate_name_is_42p05_and_an_unknown_one_26000_with_the_session_alive() {
    let pooler = single().start();
    let mut client = pooler.app();
    prepare(&mut client, "twice", "SELECT 'first'");
    client.send(&[parse("twice", "SELECT 'second'", &[]), sync()].concat());
    let answer = client.ready();
    assert_eq!((tags(&answer).as_str(), error(&answer).sqlstate().as_str()), ("EZ", "42P05"));
    assert_eq!(error(&answer).text(), "prepared statement \"twice\" already exists");
    assert_eq!(value(&mut client, "twice", &[]), "first");
    for unknown in [bind("", "never", &[]), describe_statement("never")] {
        client.send(&[unknown, sync()].concat());
        let answer = client.ready();
        assert_eq!((tags(&answer).as_str(), error(&answer).sqlstate().as_str()), ("EZ", "26000"));
        assert_eq!(error(&answer).text(), "prepared statement \"never\" does not exist");
    }
    // Closing what does not exist is no error.
    client.send(&[close_statement("never"), sync()].concat());
    assert_eq!(tags(&client.ready()), "3Z");
    assert_eq!(value(&mut client, "twice", &[]), "first");
}

#[test]
fn such_an_error_in_a_transaction_fails_it() {
    let pooler = single().start();
    for wrong in [bind("", "never", &[]), [parse("s", "SELECT 1", &[]), parse("s", "SELECT 1", &[])].concat()]
    {
        let mut client = pooler.app();
        client.query("BEGIN");
        client.send(&[wrong, sync()].concat());
        assert_eq!(client.ready().last().unwrap().to_string(), "Z E");
        assert_eq!(client.failure("SELECT 1"), "25P02");
        client.query("ROLLBACK");
    }
}

#[test]
fn nothing_is_answered_between_an_error_and_the_sync() {
    let pooler = single().start();
    let mut client = pooler.app();
    prepare(&mut client, "good", "SELECT 'good'");
    let pipeline = [
        parse("bad", "SELECT nonsense", &[]),
        parse("after", "SELECT 'after'", &[]),
        bind("", "good", &[]),
        execute("", 0),
        close_statement("good"),
        sync(),
    ];
    client.send(&pipeline.concat());
    let answer = client.ready();
    assert_eq!((tags(&answer).as_str(), error(&answer).sqlstate().as_str()), ("EZ", "42703"));
    // What was skipped has not happened.
    assert_eq!(value(&mut client, "good", &[]), "good");
    assert_eq!(error(&run(&mut client, "after", &[])).sqlstate(), "26000");
    assert_eq!(error(&run(&mut client, "bad", &[])).sqlstate(), "26000");
    prepare(&mut client, "bad", "SELECT 'repaired'");
    assert_eq!(value(&mut client, "bad", &[]), "repaired");
}

#[test]
fn a_statement_survives_anothers_error() {
    let pooler = single().start();
    let mut client = pooler.app();
    prepare(&mut client, "survivor", "SELECT 'alive'");
    client.send(&[bind("", "survivor", &[]), execute("", 0), extended("SELECT 1/0", &[]), sync()].concat());
    assert_eq!(error(&client.ready()).sqlstate(), "22012");
    assert_eq!(value(&mut client, "survivor", &[]), "alive");
    prepare(&mut client, "in_failed", "SELECT 'kept'");
    client.query("BEGIN");
    client.failure("SELECT 1/0");
    client.query("ROLLBACK");
    assert_eq!(value(&mut client, "in_failed", &[]), "kept");
}

#[test]
fn pipelines_that_failed_spoil_nobody_elses_statement() {
    let pooler = single().set("max_prepared_statements", "1").start();
    let (mut hasty, mut other) = (pooler.app(), pooler.app());
    // Both fail before their Parse, and each makes room for its own.
    let failing = |name: &str, sql: &str| [execute("nope", 0), parse(name, sql, &[]), sync()].concat();
    hasty.send(&[failing("x", "SELECT 1"), failing("y", "SELECT 2")].concat());
    hasty.until(b'Z');
    hasty.until(b'Z');
    prepare(&mut other, "m", "SELECT 1");
    assert_eq!(value(&mut other, "m", &[]), "1");
}

#[test]
fn a_server_that_has_lost_its_statements_gets_them_anew() {
    let pooler = single().start();
    let mut client = pooler.app();
    prepare(&mut client, "m", "SELECT 1");
    assert_eq!(value(&mut client, "m", &[]), "1");
    client.query("CREATE FUNCTION pg_temp.lose() RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE ''DEALLOCATE '' || ''ALL''; END'; SELECT pg_temp.lose()");
    let answers: Vec<String> = (0..2).map(|_| tags(&run(&mut client, "m", &[]))).collect();
    assert!(answers[1].contains('D'), "{answers:?}");
}

#[test]
fn no_more_than_the_limit_is_kept_on_a_server_and_all_still_work() {
    let pooler = single().set("max_prepared_statements", "3").start();
    let mut client = pooler.app();
    for number in 0..10 {
        prepare(&mut client, &format!("s{number}"), &format!("SELECT {number}"));
    }
    for round in 0..30 {
        let number = round * 7 % 10;
        assert_eq!(value(&mut client, &format!("s{number}"), &[]), number.to_string());
        assert!(on_server(&mut client) <= 3);
    }
    // More in one pipeline than may be kept.
    let one = |number: usize| [bind("", &format!("s{number}"), &[]), execute("", 0)].concat();
    client.send(&[(0..10).map(one).collect::<Vec<_>>().concat(), sync()].concat());
    let answer = client.ready();
    let expected: Vec<_> = (0..10).map(|number| vec![Some(number.to_string())]).collect();
    assert_eq!(rows(&answer), expected, "{answer:?}");
}

#[test]
fn show_servers_counts_what_clients_have_prepared_on_each() {
    let pooler = single().set("max_prepared_statements", "3").start();
    let (mut one, mut other) = (pooler.app(), pooler.app());
    let shown = || pooler.show("SHOW SERVERS")[0]["prepared_statements"].parse::<usize>().unwrap();
    one.query("SELECT 1");
    assert_eq!(shown(), 0);
    prepare(&mut one, "mine", "SELECT 1");
    // The same text under another name is the same to the server.
    prepare(&mut other, "theirs", "SELECT 1");
    prepare(&mut other, "more", "SELECT 2");
    eventually("both texts are there", || shown() == 2);
    for number in 3..9 {
        prepare(&mut one, &format!("s{number}"), &format!("SELECT {number}"));
    }
    eventually("no more than may be kept", || shown() == 3);
}

#[test]
fn a_closed_statement_is_unknown_and_its_name_free() {
    let pooler = single().start();
    let mut client = pooler.app();
    prepare(&mut client, "s", "SELECT 'old'");
    client.send(&[close_statement("s"), sync()].concat());
    assert_eq!(tags(&client.ready()), "3Z");
    assert_eq!(error(&run(&mut client, "s", &[])).sqlstate(), "26000");
    client.send(
        &[parse("s", "SELECT 'new'", &[]), close_statement("s"), parse("s", "SELECT 'newer'", &[]), sync()]
            .concat(),
    );
    assert_eq!(tags(&client.ready()), "131Z");
    assert_eq!(value(&mut client, "s", &[]), "newer");
}

#[test]
fn deallocate_all_and_discard_all_forget_everything_of_this_client_alone() {
    let pooler = single().start();
    for sql in ["DEALLOCATE ALL", "DISCARD ALL", "deallocate prepare all"] {
        let (mut one, mut two) = (pooler.app(), pooler.app());
        prepare(&mut one, "s", "SELECT 'one'");
        prepare(&mut two, "s", "SELECT 'two'");
        one.query(sql);
        assert_eq!(error(&run(&mut one, "s", &[])).sqlstate(), "26000", "after {sql}");
        assert_eq!(value(&mut two, "s", &[]), "two", "after {sql}");
        prepare(&mut one, "s", "SELECT 'again'");
        assert_eq!(value(&mut one, "s", &[]), "again", "after {sql}");
    }
}

#[test]
fn the_unnamed_statement_is_nobodys_but_the_last_parse() {
    let pooler = single().start();
    let mut client = pooler.app();
    client.send(&[parse("", "SELECT 'unnamed'", &[]), sync()].concat());
    assert_eq!(tags(&client.ready()), "1Z");
    client.send(&[parse("", "SELECT 'replaced'", &[]), bind("", "", &[]), execute("", 0), sync()].concat());
    assert_eq!(rows(&client.ready()), [[Some("replaced".to_owned())]]);
}

/// libpq's PQprepare and PQexecParams with an unnamed statement, with a Sync between: allowed by the protocol.
#[test]
fn the_unnamed_statement_survives_a_sync() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "2").start();
    let (mut one, mut two) = (pooler.app(), pooler.app());
    for (client, text) in [(&mut one, "one"), (&mut two, "two")] {
        client.send(&[parse("", &format!("SELECT '{text}'"), &[]), sync()].concat());
        client.ready();
    }
    for (client, text) in [(&mut one, "one"), (&mut two, "two")] {
        assert_eq!(value(client, "", &[]), text);
    }
}

/// Changes the result type of a statement that a client has prepared and executed.
fn with_a_changed_type(check: impl Fn(&mut Raw, &str)) {
    let cluster = Cluster::shared();
    let table = cluster.unique("changing");
    let mut ddl = cluster.connect("app", "app");
    ddl.query(&format!("CREATE TABLE {table} (a int); INSERT INTO {table} VALUES (1)"));
    let pooler = single().start();
    let mut client = pooler.app();
    let text = format!("SELECT * FROM {table}");
    prepare(&mut client, "all", &text);
    assert_eq!(rows(&run(&mut client, "all", &[])), [[Some("1".to_owned())]]);
    ddl.query(&format!("ALTER TABLE {table} ADD COLUMN b text DEFAULT 'new'"));
    check(&mut client, &text);
    // Another client, which prepares it anew, sees the new type.
    let mut other = pooler.app();
    prepare(&mut other, "all", &text);
    assert_eq!(rows(&run(&mut other, "all", &[]))[0].len(), 2);
    ddl.query(&format!("DROP TABLE {table}"));
}

#[test]
fn a_result_type_that_changed_is_healed_where_the_client_asks_for_it() {
    with_a_changed_type(|client, _| {
        client.send(&[bind("", "all", &[]), describe_portal(""), execute("", 0), sync()].concat());
        let answer = client.ready();
        assert_eq!(rows(&answer), [[Some("1".to_owned()), Some("new".to_owned())]], "{answer:?}");
    });
}

/// A client that does not ask goes by what it was told before, as asyncpg does: rows of another shape would be a
/// violation of the protocol. It knows what to do about PostgreSQL's error.
#[test]
fn a_result_type_that_changed_is_told_to_a_client_that_goes_by_the_old_one() {
    with_a_changed_type(|client, text| {
        let answer = run(client, "all", &[]);
        assert_eq!(error(&answer).sqlstate(), "0A000", "{answer:?}");
        prepare(client, "anew", text);
        assert_eq!(rows(&run(client, "anew", &[]))[0].len(), 2);
    });
}

#[test]
fn repreparing_takes_no_further_round_trip() {
    let cluster = Cluster::private(&[]);
    let pooler = Setup::of(&cluster).set("default_pool_size", "2").start();
    let (mut client, mut holder) = (pooler.app(), pooler.app());
    prepare(&mut client, "s", "SELECT 'known'");
    holder.query("BEGIN");
    client.query("SELECT 1");
    // Wherever the holder sits, one of the two servers does not know the statement: the answer comes all the same, and
    // with exactly the messages that were asked for.
    assert_eq!(tags(&run(&mut client, "s", &[])), "2DCZ");
    holder.query("COMMIT");
}

#[test]
fn without_the_limit_names_go_through_as_they_are_and_stay_with_their_transaction() {
    let pooler = single().set("max_prepared_statements", "0").start();
    let mut client = pooler.app();
    client.query("BEGIN");
    client.send(&[parse("plain", "SELECT 1", &[]), bind("", "plain", &[]), execute("", 0), sync()].concat());
    assert_eq!(tags(&client.ready()), "12DCZ");
    assert_eq!(client.value("SELECT count(*) FROM pg_prepared_statements WHERE name = 'plain'"), "1");
    client.query("COMMIT");
    let mut other = pooler.app();
    other.send(&[parse("plain", "SELECT 2", &[]), sync()].concat());
    assert_eq!(tags(&other.ready()), "1Z");
}

#[test]
fn in_statement_mode_statements_are_known_too() {
    let pooler =
        Setup::of(Cluster::shared()).set("pool_mode", "\"statement\"").set("default_pool_size", "2").start();
    let (mut client, mut other) = (pooler.app(), pooler.app());
    prepare(&mut client, "s", "SELECT $1::text");
    for round in 0..6 {
        other.query("SELECT pg_sleep(0.001)");
        assert_eq!(value(&mut client, "s", &[Some(&round.to_string())]), round.to_string());
    }
}

#[test]
fn long_texts_and_names_are_carried() {
    let pooler = single().start();
    let mut client = pooler.app();
    let text = format!("SELECT '{}'", "x".repeat(300_000));
    let name = "n".repeat(500);
    prepare(&mut client, &name, &text);
    assert_eq!(value(&mut client, &name, &[]).len(), 300_000);
}
