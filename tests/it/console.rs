//! The console, with PgBouncer's columns, commands and manners.

use crate::support::prelude::*;

const INT4: u32 = 23;
const INT8: u32 = 20;
const NUMERIC: u32 = 1700;
const TEXT: u32 = 25;

/// The names and types of the columns that a SHOW has.
fn columns(console: &mut Raw, what: &str) -> Vec<(String, u32)> {
    let answer = console.query(&format!("SHOW {what}"));
    let description = answer.iter().find(|message| message.tag == b'T');
    let description = description.unwrap_or_else(|| panic!("SHOW {what}: {answer:?}"));
    description.names().into_iter().zip(description.types()).collect()
}

/// Columns written as `name name:type`, text where no type is named.
fn expected(text: &str) -> Vec<(String, u32)> {
    let column = |word: &str| {
        let (name, kind) = word.split_once(':').unwrap_or((word, "s"));
        let kind = match kind {
            "i" => INT4,
            "q" => INT8,
            "N" => NUMERIC,
            _ => TEXT,
        };
        (name.to_owned(), kind)
    };
    text.split_whitespace().map(column).collect()
}

const CLIENT_COLUMNS: &str = "type user database replication state addr port:i local_addr local_port:i connect_time \
    request_time wait:i wait_us:i close_needed:i ptr link remote_pid:i tls application_name prepared_statements:i id:i";

#[test]
fn every_show_has_pgbouncers_columns() {
    let pooler = Pooler::of(Cluster::shared());
    pooler.app().query("SELECT 1");
    let mut console = pooler.console();
    let sockets = format!(
        "{CLIENT_COLUMNS} recv_pos:i pkt_pos:i pkt_remain:i send_pos:i send_remain:i pkt_avail:i send_avail:i"
    );
    let stats = "server_assignment_count xact_count query_count";
    let tail = "client_parse_count server_parse_count bind_count";
    let all = |prefix: &str, received: &str, sent: &str| {
        let names = format!("{stats} {received} {sent} xact_time query_time wait_time {tail}");
        names.split_whitespace().map(|name| format!("{prefix}{name}:N ")).collect::<String>()
    };
    let averages = format!(
        "database {} {}",
        "server_assignment_count:N xact_count:N query_count:N bytes_received:N bytes_sent:N xact_time:N query_time:N wait_time:N",
        "avg_client_parse_count:N avg_server_parse_count:N avg_bind_count:N"
    );
    for (what, names) in [
        ("CLIENTS", CLIENT_COLUMNS),
        ("SERVERS", CLIENT_COLUMNS),
        ("SOCKETS", &sockets),
        ("ACTIVE_SOCKETS", &sockets),
        (
            "POOLS",
            "database user cl_active:i cl_waiting:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active:i \
             sv_active_cancel:i sv_being_canceled:i sv_idle:i sv_used:i sv_tested:i sv_login:i maxwait:i maxwait_us:i \
             pool_mode load_balance_hosts",
        ),
        (
            "DATABASES",
            "name host port:i database force_user pool_size:i min_pool_size:i reserve_pool_size:i server_lifetime:i \
             pool_mode load_balance_hosts max_connections:i current_connections:i max_client_connections:i \
             current_client_connections:i paused:i disabled:i",
        ),
        (
            "USERS",
            "name pool_size reserve_pool_size pool_mode max_user_connections:i current_connections:i \
             max_user_client_connections:i current_client_connections:i",
        ),
        ("LISTS", "list items:i"),
        ("STATS", &format!("database {}{}", all("total_", "received", "sent"), all("avg_", "recv", "sent"))),
        ("STATS_TOTALS", &format!("database {}", all("", "bytes_received", "bytes_sent"))),
        ("STATS_AVERAGES", &averages),
        ("TOTALS", "name value:N"),
        ("CONFIG", "key value default changeable"),
        ("STATE", "key value"),
        ("VERSION", "version"),
        ("MEM", "name size:i used:i free:i memtotal:i"),
    ] {
        assert_eq!(columns(&mut console, what), expected(names), "SHOW {what}");
    }
}

#[test]
fn both_names_lead_to_the_console_and_only_known_users_get_in() {
    let pooler = Pooler::of(Cluster::shared());
    for database in ["pgbouncer", "pgweir"] {
        for user in ["admin", "stats"] {
            let version = pooler.connect(database, user).value("SHOW VERSION");
            assert!(version.starts_with("PgBouncer 1.25"), "{version}");
        }
        let error = pooler.refusal(&[("user", "app"), ("database", database)], "");
        assert_eq!(error.text(), "not allowed");
        assert_eq!(error.sqlstate(), "42501");
    }
}

#[test]
fn who_may_only_look_changes_nothing() {
    let pooler = Pooler::of(Cluster::shared());
    let mut stats = pooler.connect("pgbouncer", "stats");
    assert!(!stats.rows("SHOW POOLS").is_empty());
    for command in
        ["PAUSE", "RESUME", "RELOAD", "KILL app", "SHUTDOWN", "SET verbose = 1", "DISABLE app", "RECONNECT"]
    {
        let answer = stats.query(command);
        assert_eq!(error(&answer).text(), "admin access needed", "{command}");
        assert_eq!(error(&answer).sqlstate(), "42501");
    }
    assert_eq!(pooler.app().value("SELECT 1"), "1");
}

#[test]
fn commands_are_read_as_pgbouncer_reads_them() {
    let pooler = Pooler::of(Cluster::shared());
    let mut console = pooler.console();
    for good in ["show version", "SHOW VERSION;", "  Show\tPools ; ", "SHOW \"lists\"", "SELECT VERSION"] {
        assert!(!tags(&console.query(good)).contains('E'), "{good}");
    }
    for bad in ["NONSENSE", "SHOW NONSENSE", "SELECT 1 + 1", ""] {
        let answer = console.query(bad);
        let is_empty = bad.is_empty() && tags(&answer) == "IZ";
        assert!(is_empty || error(&answer).field(b'S').unwrap() == "ERROR", "{bad}: {answer:?}");
    }
    let answer = console.query("NONSENSE");
    assert_eq!(error(&answer).text(), "invalid command 'NONSENSE', use SHOW HELP;");
    assert_eq!(tags(&console.query("SHOW HELP")), "NCZ");
}

#[test]
fn drivers_find_what_they_ask_a_server_for() {
    let pooler = Pooler::of(Cluster::shared());
    let mut console = pooler.console();
    for (name, value) in [
        ("client_encoding", "UTF8"),
        ("default_transaction_isolation", "read committed"),
        ("standard_conforming_strings", "on"),
        ("datestyle", "ISO"),
        ("timezone", "GMT"),
    ] {
        let shown = console.value(&format!("SHOW {name}"));
        assert!(shown == value || (name == "client_encoding" && shown == "UTF-8"), "{name}: {shown}");
    }
    for name in ["client_encoding", "extra_float_digits", "application_name", "datestyle"] {
        assert!(!tags(&console.query(&format!("SET {name} = '1'"))).contains('E'), "{name}");
    }
}

#[test]
fn the_console_speaks_the_extended_protocol() {
    let pooler = Pooler::of(Cluster::shared());
    let mut console = pooler.console();
    let simple = console.query("SHOW LISTS");
    console.send(&[extended("SHOW LISTS", &[]), sync()].concat());
    let answer = console.ready();
    assert_eq!(tags(&answer).replace('D', ""), "12TCZ");
    assert_eq!(rows(&answer).len(), rows(&simple).len());
    console.send(
        &[
            parse("s", "SHOW VERSION", &[]),
            describe_statement("s"),
            bind("", "s", &[]),
            execute("", 0),
            sync(),
        ]
        .concat(),
    );
    assert_eq!(tags(&console.ready()), "1tT2DCZ");
    console.send(&[extended("NONSENSE", &[]), extended("SHOW VERSION", &[]), sync()].concat());
    let answer = console.ready();
    assert_eq!(error(&answer).field(b'S').unwrap(), "ERROR");
    assert_eq!(console.rows("SHOW VERSION").len(), 1);
}

#[test]
fn a_query_counts_as_soon_as_it_is_answered() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.query("SELECT 1");
    let count = |column: &str| {
        let stats = pooler.show("SHOW STATS");
        stats.iter().find(|row| row["database"] == "app").unwrap()[column].parse::<u64>().unwrap()
    };
    let (queries, transactions) = (count("total_query_count"), count("total_xact_count"));
    for done in 1..=5 {
        client.query("SELECT 1");
        assert_eq!(count("total_query_count"), queries + done);
    }
    client.query("BEGIN");
    client.query("SELECT 1");
    client.query("COMMIT");
    assert_eq!(count("total_query_count"), queries + 8);
    assert_eq!(count("total_xact_count"), transactions + 6);
    assert!(count("total_received") > 0 && count("total_sent") > 0);
    client.query("SELECT pg_sleep(0.2)");
    assert!(count("total_query_time") >= 200_000);
}

#[test]
fn pools_tell_who_is_active_who_waits_and_for_how_long() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let (mut one, mut two) = (pooler.app(), pooler.app());
    one.query("BEGIN");
    two.send(&query("SELECT 1"));
    eventually("one waits", || pooler.pool("app", "app", "cl_waiting") == 1);
    assert_eq!(pooler.pool("app", "app", "cl_active"), 1);
    assert_eq!(pooler.pool("app", "app", "sv_active"), 1);
    eventually("it has waited", || pooler.pool("app", "app", "maxwait") >= 1);
    one.query("COMMIT");
    two.ready();
    assert_eq!(pooler.pool("app", "app", "sv_idle"), 1);
    assert_eq!(pooler.pool("app", "app", "maxwait"), 0);
}

#[test]
fn clients_and_servers_point_at_each_other() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.dial();
    client.login(&[("user", "app"), ("database", "app"), ("application_name", "pointer")], "").unwrap();
    client.query("BEGIN");
    let pid = client.value("SELECT pg_backend_pid()");
    let clients = pooler.show("SHOW CLIENTS");
    let mine = clients.iter().find(|row| row["application_name"] == "pointer").unwrap();
    let servers = pooler.show("SHOW SERVERS");
    let served = servers.iter().find(|row| row["remote_pid"] == pid).unwrap();
    assert_eq!((&mine["link"], &served["link"]), (&served["ptr"], &mine["ptr"]));
    assert_eq!((mine["state"].as_str(), served["state"].as_str()), ("active", "active"));
    assert_eq!((mine["type"].as_str(), served["type"].as_str()), ("C", "S"));
    assert_eq!(mine["port"], client.sender().local_addr().unwrap().port().to_string());
}

#[test]
fn a_servers_request_time_is_that_of_its_last_query() {
    for mode in ["transaction", "session"] {
        let pooler = Setup::of(Cluster::shared()).set("pool_mode", &format!("{mode:?}")).start();
        let mut client = pooler.app();
        client.value("SELECT pg_sleep(1.1)");
        client.query("SELECT 1");
        let servers = pooler.show("SHOW SERVERS");
        let server = servers.iter().find(|row| row["database"] == "app").unwrap();
        assert!(server["request_time"] > server["connect_time"], "{mode}: {server:?}");
    }
}

#[test]
fn kill_client_closes_just_that_one() {
    let pooler = Pooler::of(Cluster::shared());
    let mut other = pooler.app();
    let mut client = pooler.dial();
    client.login(&[("user", "app"), ("database", "app"), ("application_name", "victim")], "").unwrap();
    client.query("SELECT 1");
    let id =
        pooler.show("SHOW CLIENTS").iter().find(|row| row["application_name"] == "victim").unwrap()["id"]
            .clone();
    assert_eq!(tags(&pooler.console().query(&format!("KILL_CLIENT {id}"))), "CZ");
    let answer = client.rest();
    assert_eq!(
        (error(&answer).sqlstate().as_str(), error(&answer).text().as_str()),
        ("57P01", "admin forced disconnect")
    );
    assert_eq!(other.value("SELECT 1"), "1");
    assert!(tags(&pooler.console().query("KILL_CLIENT 999999")).contains('E'));
}

/// A client that waits for the first server of its pool, from somebody who accepts and says nothing; and its number.
fn waits_for_the_first_server() -> (std::net::TcpListener, Pooler, Raw, String) {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("port = {}", silent.local_addr().unwrap().port());
    let pooler = Setup::of(Cluster::shared()).database("silent", &port).start();
    let mut client = pooler.dial();
    client.send(&startup(PROTOCOL_3_0, &[("user", "app"), ("database", "silent")]));
    let waiting = || pooler.show("SHOW CLIENTS").into_iter().find(|row| row["state"] == "waiting");
    eventually("the client waits", || waiting().is_some());
    let id = waiting().unwrap()["id"].clone();
    (silent, pooler, client, id)
}

#[test]
fn kill_client_reaches_who_waits_for_the_first_server() {
    let (_silent, pooler, mut client, id) = waits_for_the_first_server();
    assert_eq!(tags(&pooler.console().query(&format!("KILL_CLIENT {id}"))), "CZ");
    assert_eq!(error(&client.rest()).text(), "admin forced disconnect");
}

#[test]
fn who_leaves_while_waiting_for_the_first_server_is_gone() {
    let (_silent, pooler, client, _) = waits_for_the_first_server();
    drop(client);
    eventually("it is gone", || !pooler.show("SHOW CLIENTS").iter().any(|row| row["database"] == "silent"));
}

#[test]
fn kill_ends_a_databases_clients_and_holds_new_ones() {
    let pooler = Pooler::of(Cluster::shared());
    let (mut client, mut other) = (pooler.app(), pooler.connect("app2", "app"));
    client.query("SELECT 1");
    assert_eq!(tags(&pooler.console().query("KILL app")), "CZ");
    assert!(client.rest().iter().any(|message| message.tag == b'E'));
    assert_eq!(other.value("SELECT 1"), "1");
    assert_eq!(tags(&pooler.console().query("RESUME app")), "CZ");
    assert_eq!(pooler.app().value("SELECT 1"), "1");
}

#[test]
fn a_kill_of_all_is_undone_for_one_or_for_each() {
    let pooler = Pooler::of(Cluster::shared());
    let (mut one, mut other) = (pooler.app(), pooler.connect("app2", "app"));
    assert_eq!(one.value("SELECT 1") + &other.value("SELECT 1"), "11");
    let mut console = pooler.console();
    assert_eq!(tags(&console.query("KILL")), "CZ");
    assert!([one, other].iter_mut().all(|it| it.rest().iter().any(|message| message.tag == b'E')));
    assert_eq!(tags(&console.query("RESUME app")), "CZ");
    assert_eq!(pooler.app().value("SELECT 1"), "1");
    let mut waits = pooler.dial();
    waits.send(&startup(PROTOCOL_3_0, &[("user", "app"), ("database", "app2")]));
    let is_waiting = || pooler.pool("app2", "app", "cl_waiting") == 1;
    eventually("app2 is still held", is_waiting);
    assert_eq!(tags(&console.query("RESUME")), "CZ");
    waits.ready();
    assert_eq!(waits.value("SELECT 2"), "2");
    assert_eq!(error(&console.query("RESUME")).text(), "pooler is not paused/suspended");
}

#[test]
fn disable_and_enable_shut_and_open_the_door() {
    let pooler = Pooler::of(Cluster::shared());
    let mut inside = pooler.app();
    pooler.console().query("DISABLE app");
    let error = pooler.refusal(&[("user", "app"), ("database", "app")], "");
    assert_eq!(error.text(), "database \"app\" is disabled");
    assert_eq!(inside.value("SELECT 'inside'"), "inside");
    assert_eq!(
        pooler.show("SHOW DATABASES").iter().find(|row| row["name"] == "app").unwrap()["disabled"],
        "1"
    );
    pooler.console().query("ENABLE app");
    assert_eq!(pooler.app().value("SELECT 1"), "1");
}

#[test]
fn reconnect_replaces_servers_when_they_are_free() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let mut client = pooler.app();
    let old = client.value("SELECT pg_backend_pid()");
    client.query("BEGIN");
    assert_eq!(tags(&pooler.console().query("RECONNECT")), "CZ");
    assert_eq!(client.value("SELECT pg_backend_pid()"), old);
    client.query("COMMIT");
    assert_ne!(client.value("SELECT pg_backend_pid()"), old);
}

#[test]
fn a_login_after_a_reconnect_waits_for_a_place() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let mut client = pooler.app();
    client.query("BEGIN");
    pooler.console().query("RECONNECT");
    let mut newcomer = pooler.dial();
    newcomer.send(&startup(PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
    eventually("it waits", || pooler.pool("app", "app", "cl_waiting") == 1);
    assert_eq!(pooler.show("SHOW SERVERS").len(), 1);
    client.query("COMMIT");
    newcomer.ready();
}

#[test]
fn set_changes_a_setting_for_now() {
    let pooler = Pooler::of(Cluster::shared());
    let value = |name: &str| {
        let config = pooler.show("SHOW CONFIG");
        config.iter().find(|row| row["key"] == name).unwrap()["value"].clone()
    };
    for set in ["SET default_pool_size = 3", "SET default_pool_size=4", "SET default_pool_size TO '5'"] {
        let answer = pooler.console().query(set);
        assert!(!tags(&answer).contains('E'), "{set}: {answer:?}");
    }
    assert_eq!(value("default_pool_size"), "5");
    for bad in ["SET default_pool_size = many", "SET nonsense = 1"] {
        assert!(tags(&pooler.console().query(bad)).contains('E'), "{bad}");
    }
    assert_eq!(value("default_pool_size"), "5");
}

#[test]
fn commands_that_do_not_fit_are_refused() {
    let pooler = Pooler::of(Cluster::shared());
    let mut console = pooler.console();
    let mut refused =
        |command: &str, text: &str| assert_eq!(error(&console.query(command)).text(), text, "{command}");
    refused("PAUSE nowhere", "no such database: nowhere");
    refused("RESUME", "pooler is not paused/suspended");
    refused("RESUME app", "database app is not paused");
    refused("PAUSE pgbouncer", "cannot pause admin db: pgbouncer");
    refused("KILL pgbouncer", "cannot kill admin db: pgbouncer");
    refused("KILL_CLIENT x", "invalid client pointer supplied");
    assert_eq!(tags(&console.query("PAUSE")), "CZ");
    assert_eq!(error(&console.query("PAUSE")).text(), "already suspended/paused");
    console.query("RESUME");
}

#[test]
fn a_console_command_that_waits_can_be_cancelled() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.query("BEGIN");
    let mut console = pooler.console();
    console.send(&query("PAUSE"));
    eventually("it is paused", || pooler.is("paused"));
    assert!(console.is_silent_for(Duration::from_millis(200)));
    let mut canceller = pooler.dial();
    canceller.send(&cancel_request(console.pid, &console.key));
    canceller.byte();
    assert_eq!(error(&console.ready()).sqlstate(), "57014");
    eventually("it goes on", || !pooler.is("paused"));
    client.query("COMMIT");
    assert_eq!(client.value("SELECT 'not held'"), "not held");
}
