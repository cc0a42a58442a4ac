//! Parameters: a client's own follow it from server to server, and nothing of it stays behind for the next client.

use crate::support::prelude::*;

const APP: &[(&str, &str)] = &[("user", "app"), ("database", "app")];

fn login(pooler: &Pooler, parameters: &[(&str, &str)]) -> Raw {
    let mut client = pooler.dial();
    let answer = client.login(&[APP, parameters].concat(), "");
    answer.unwrap_or_else(|error| panic!("{parameters:?}: {error}"));
    client
}

/// A pooler of one server.
fn single_setup() -> Setup {
    Setup::of(Cluster::shared()).set("default_pool_size", "1")
}

fn single() -> Pooler {
    single_setup().start()
}

/// A pooler with two servers, one of them kept busy: whoever asks next gets the other one.
struct Two {
    pooler: Pooler,
    holder: Raw,
}

impl Two {
    fn new() -> Self {
        let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "2").start();
        let holder = pooler.app();
        Self { pooler, holder }
    }

    /// Asks `client` on both servers for the value of a setting.
    fn on_both(&mut self, client: &mut Raw, name: &str) -> [String; 2] {
        let show = format!("SELECT current_setting('{name}')");
        self.holder.query("BEGIN");
        let one = client.value(&show);
        let pid = client.value("SELECT pg_backend_pid()");
        client.query("BEGIN");
        self.holder.query("COMMIT");
        self.holder.query("BEGIN");
        assert_ne!(self.holder.value("SELECT pg_backend_pid()"), pid);
        self.holder.query("COMMIT");
        client.query("COMMIT");
        // The holder takes the server that the client had last.
        self.holder.query("BEGIN");
        let two = client.value(&show);
        self.holder.query("COMMIT");
        [one, two]
    }
}

#[test]
fn start_up_parameters_are_applied_and_follow_the_client() {
    let mut two = Two::new();
    for (name, value) in [
        ("application_name", "it's \"mine\" \\ \u{e9}"),
        ("client_encoding", "LATIN1"),
        ("DateStyle", "German, DMY"),
        ("TimeZone", "America/New_York"),
        ("IntervalStyle", "iso_8601"),
        ("standard_conforming_strings", "off"),
    ] {
        let mut plain = login(&two.pooler, &[]);
        let before = plain.value(&format!("SHOW {name}"));
        let mut client = login(&two.pooler, &[(name, value)]);
        assert_eq!(two.on_both(&mut client, name)[0], two.on_both(&mut client, name)[1], "{name}");
        assert_ne!(client.value(&format!("SHOW {name}")), before, "{name}");
        assert_eq!(plain.value(&format!("SHOW {name}")), before, "{name} of another client");
    }
}

#[test]
fn who_logs_in_after_a_reconnect_begins_with_the_servers_own_settings() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let (mut holder, mut other) = (pooler.app(), login(&pooler, &[("TimeZone", "Asia/Tokyo")]));
    holder.query("BEGIN");
    pooler.console().query("RECONNECT");
    other.send(&query("SELECT 1"));
    eventually("one waits", || pooler.pool("app", "app", "cl_waiting") == 1);
    let mut newcomer = pooler.dial();
    newcomer.send(&startup(PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
    eventually("the newcomer waits, too", || pooler.pool("app", "app", "cl_waiting") == 2);
    holder.query("COMMIT");
    other.ready();
    newcomer.ready();
    assert_eq!(newcomer.value("SHOW TimeZone"), "UTC");
}

#[test]
fn a_reported_start_up_parameter_is_in_the_welcome() {
    let pooler = single();
    let client =
        login(&pooler, &[("TimeZone", "Asia/Tokyo"), ("application_name", "welcome"), ("DateStyle", "SQL")]);
    let reported = |name: &str| client.parameters.get(name).map(String::as_str);
    assert_eq!(reported("TimeZone"), Some("Asia/Tokyo"));
    assert_eq!(reported("application_name"), Some("welcome"));
    // What PostgreSQL makes of it ("SQL, MDY") is reported once a server has been told.
    assert!(reported("DateStyle").is_some_and(|style| style.starts_with("SQL")));
}

#[test]
fn options_are_applied() {
    let pooler = single();
    let mut client = login(
        &pooler,
        &[("options", "-c TimeZone=Europe/Berlin --application_name=by\\ options -cDateStyle=German")],
    );
    assert_eq!(client.value("SHOW TimeZone"), "Europe/Berlin");
    assert_eq!(client.value("SHOW application_name"), "by options");
    assert_eq!(client.value("SHOW DateStyle"), "German, DMY");
}

#[test]
fn parameters_that_are_not_followed_are_applied_rather_than_refused() {
    let pooler = single();
    let mut client =
        login(&pooler, &[("extra_float_digits", "3"), ("options", "-c statement_timeout=77s -c geqo=off")]);
    assert_eq!(client.value("SHOW extra_float_digits"), "3");
    assert_eq!(client.value("SHOW statement_timeout"), "77s");
    assert_eq!(client.value("SHOW geqo"), "off");
    // And they do not reach another.
    let mut other = login(&pooler, &[]);
    assert_eq!(other.value("SHOW statement_timeout"), "0");
    assert_eq!(other.value("SHOW geqo"), "on");
    assert_eq!(client.value("SHOW statement_timeout"), "77s");
}

#[test]
fn a_start_up_parameter_that_does_not_exist_is_refused_as_postgresql_does() {
    let pooler = single();
    let mut client = pooler.dial();
    let refused = match client.login(&[APP, &[("no_such_parameter", "1")]].concat(), "") {
        Err(error) => error,
        Ok(()) => {
            client.send(&query("SELECT 1"));
            client.until(b'E').pop().unwrap()
        }
    };
    assert_eq!(refused.sqlstate(), "42704", "{refused}");
    assert_eq!(single().app().value("SELECT 1"), "1");
}

#[test]
fn a_parameter_set_in_a_session_follows_the_client_and_nobody_else() {
    let mut two = Two::new();
    let mut client = login(&two.pooler, &[]);
    let mut other = login(&two.pooler, &[]);
    for (name, value, default) in [
        ("TimeZone", "Asia/Tokyo", "UTC"),
        ("DateStyle", "German, DMY", "ISO, MDY"),
        ("IntervalStyle", "sql_standard", "postgres"),
        ("application_name", "o'clock", ""),
        ("client_encoding", "LATIN1", "UTF8"),
    ] {
        let answer = client.query(&format!("SET {name} = '{}'", value.replace('\'', "''")));
        assert_eq!(tags(&answer), "CSZ", "{name}: {answer:?}");
        assert_eq!(two.on_both(&mut client, name), [value, value], "{name}");
        assert_eq!(two.on_both(&mut other, name), [default, default], "{name} of another client");
    }
}

/// asyncpg's pool sends RESET ALL whenever a connection changes hands.
#[test]
fn reset_all_comes_back_to_the_clients_own_start_up_parameters() {
    for mode in ["transaction", "session"] {
        let pooler = Setup::of(Cluster::shared()).set("pool_mode", &format!("{mode:?}")).start();
        // So that the server was not started by the client that is asked.
        pooler.app().query("SELECT 1");
        let mut client = login(&pooler, &[("application_name", "mine"), ("TimeZone", "Asia/Tokyo")]);
        for reset in ["RESET ALL", "DISCARD ALL", "RESET application_name"] {
            client.query("SET application_name = 'other'");
            client.query(reset);
            assert_eq!(client.value("SHOW application_name"), "mine", "{reset} in {mode} mode");
            assert_eq!(client.value("SHOW TimeZone"), "Asia/Tokyo", "{reset} in {mode} mode");
        }
    }
}

/// RESET ALL does not reset the role: who comes next with the same start-up message must not be taken to have it.
#[test]
fn a_role_of_the_start_up_message_that_a_client_gave_up_is_taken_again() {
    let cluster = Cluster::shared();
    let role = cluster.unique("role");
    cluster.execute(&format!("CREATE ROLE {role}"));
    cluster.execute(&format!("GRANT {role} TO app"));
    let pooler = single();
    let options = format!("-c role={role}");
    for leaves in ["RESET ROLE", "SET ROLE NONE", "SET ROLE DEFAULT", "SET SESSION AUTHORIZATION DEFAULT"] {
        let mut client = login(&pooler, &[("options", &options)]);
        assert_eq!(client.value("SELECT current_user"), role, "{leaves}");
        client.query(leaves);
        let mut next = login(&pooler, &[("options", &options)]);
        assert_eq!(next.value("SELECT current_user"), role, "{leaves}");
        assert_eq!(client.value("SELECT current_user"), role, "{leaves}");
        assert_eq!(login(&pooler, &[]).value("SELECT current_user"), "app", "{leaves}");
    }
    cluster.execute(&format!("DROP ROLE {role}"));
}

#[test]
fn a_parameter_set_in_a_transaction_that_fails_is_not_kept() {
    let mut two = Two::new();
    let mut client = login(&two.pooler, &[]);
    client.query("BEGIN");
    client.query("SET TimeZone = 'Asia/Tokyo'");
    client.query("ROLLBACK");
    assert_eq!(two.on_both(&mut client, "TimeZone"), ["UTC", "UTC"]);
}

#[test]
fn quoting_is_safe_against_any_value() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "2").start();
    for value in [
        "'; DROP TABLE pg_class; --",
        "\\'; SELECT 1; --",
        "$$",
        "a\nb\tc",
        "\u{1F980}\u{4e16}",
        "%s%n",
        "\\",
        "''",
        "\"",
        " leading and trailing ",
    ] {
        let mut direct = Raw::dial(("127.0.0.1", Cluster::shared().port));
        direct.login(&[APP, &[("application_name", value)]].concat(), "").unwrap();
        let expected = direct.value("SHOW application_name");
        for escapes in ["on", "off"] {
            let parameters = [("application_name", value), ("standard_conforming_strings", escapes)];
            let mut client = login(&pooler, &parameters);
            assert_eq!(client.value("SHOW application_name"), expected);
            let mut other = login(&pooler, &[]);
            assert_eq!(other.value("SHOW application_name"), "");
            assert_eq!(client.value("SHOW application_name"), expected);
        }
    }
}

#[test]
fn where_nothing_differs_nothing_is_sent() {
    let cluster = Cluster::private(&["log_statement = 'all'"]);
    let pooler = Setup::of(&cluster).set("default_pool_size", "1").set("server_check_delay", "60").start();
    let mut clients: Vec<Raw> =
        (0..3).map(|_| login(&pooler, &[("application_name", "same"), ("TimeZone", "Asia/Tokyo")])).collect();
    clients[0].query("SELECT 'warm'");
    let before = cluster.log().matches("statement: ").count();
    for _ in 0..5 {
        for client in &mut clients {
            client.query("SELECT 'counted'");
        }
    }
    assert_eq!(cluster.log().matches("statement: ").count() - before, 15);
}

/// What one client does, what the next one asks, and what it must see.
const RESIDUE: &[(&str, &str, &str)] = &[
    ("SET statement_timeout = '77s'", "SHOW statement_timeout", "0"),
    ("set work_mem to '77MB'", "SHOW work_mem", "4MB"),
    ("/* c */ -- d\n SET work_mem = '77MB'", "SHOW work_mem", "4MB"),
    ("SELECT 1; SET work_mem = '77MB'", "SHOW work_mem", "4MB"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SHOW default_transaction_read_only", "off"),
    ("SELECT set_config('work_mem', '77MB', false)", "SHOW work_mem", "4MB"),
    ("SELECT set_config('app.user_id', '42', false)", "SELECT current_setting('app.user_id', true)", ""),
    ("SET app.user_id = '42'", "SELECT current_setting('app.user_id', true)", ""),
    (
        "DO $$ BEGIN PERFORM set_config('app.user_id', '42', false); END $$",
        "SELECT current_setting('app.user_id', true)",
        "",
    ),
    ("WITH x AS (SELECT set_config('work_mem', '77MB', false)) SELECT * FROM x", "SHOW work_mem", "4MB"),
    ("SET ROLE pg_monitor", "SELECT current_user", "postgres"),
    ("SET SESSION AUTHORIZATION app2", "SELECT session_user", "postgres"),
    ("SET U&\"ro\\006ce\" TO pg_monitor", "SELECT current_user", "postgres"),
    ("SELECT set_config(E'\\162ole', 'pg_monitor', false)", "SELECT current_user", "postgres"),
    ("DO $$ BEGIN EXECUTE 'SET ROLE ' || 'pg_monitor'; END $$", "SELECT current_user", "postgres"),
    ("DO $$ BEGIN EXECUTE 'SET SESSION AUTHORIZATION ' || 'app2'; END $$", "SELECT session_user", "postgres"),
    ("DO $$ BEGIN EXECUTE 'SET ' || 'role pg_monitor'; END $$", "SELECT current_user", "postgres"),
    ("DO 'BEGIN EXECUTE ''SET ROLE pg_monitor''; END'", "SELECT current_user", "postgres"),
    (
        "DO $$ BEGIN EXECUTE 'DECLARE residue_h CURSOR WITH HOLD FOR SELECT 1'; END $$",
        "SELECT count(*) FROM pg_cursors WHERE name = 'residue_h'",
        "0",
    ),
    ("CREATE TEMP TABLE residue_t (n int)", "SELECT to_regclass('residue_t')", ""),
    ("SELECT 1 AS n INTO TEMP residue_u", "SELECT to_regclass('residue_u')", ""),
    ("CREATE TEMPORARY VIEW residue_v AS SELECT 1", "SELECT to_regclass('residue_v')", ""),
    (
        "SELECT pg_advisory_lock(815)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        "0",
    ),
    (
        "SELECT pg_try_advisory_lock(815)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        "0",
    ),
    ("LISTEN residue_channel", "SELECT count(*) FROM pg_listening_channels()", "0"),
    (
        "BEGIN; DECLARE residue_c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "SELECT count(*) FROM pg_cursors WHERE name = 'residue_c'",
        "0",
    ),
    (
        "PREPARE residue_p AS SELECT 1",
        "SELECT count(*) FROM pg_prepared_statements WHERE name = 'residue_p'",
        "0",
    ),
];

#[test]
fn what_a_client_leaves_on_a_server_does_not_reach_the_next() {
    let pooler = single();
    for (leave, ask, expected) in RESIDUE {
        for protocol in ["simple", "extended"] {
            if protocol == "extended" && leave.contains(';') && !leave.starts_with("DO") {
                continue;
            }
            let (mut one, mut two) = (pooler.connect("app", "postgres"), pooler.connect("app", "postgres"));
            let done = match protocol {
                "simple" => one.query(leave),
                _ => {
                    one.send(&[extended(leave, &[]), sync()].concat());
                    one.ready()
                }
            };
            assert!(!tags(&done).contains('E'), "{leave}: {done:?}");
            assert_eq!(two.value(ask), *expected, "after {leave} ({protocol})");
        }
    }
}

#[test]
fn what_a_transaction_sets_for_itself_costs_no_cleaning() {
    let cluster = Cluster::private(&["log_statement = 'all'"]);
    let pooler = Setup::of(&cluster).set("default_pool_size", "1").start();
    let mut client = pooler.app();
    client.query("SELECT 'warm'");
    let before = cluster.log().matches("statement: ").count();
    for _ in 0..3 {
        client.query("BEGIN");
        client.query("SELECT set_config('app.user_id', '42', true)");
        client.query("SET LOCAL work_mem = '77MB'");
        client.query("COMMIT");
        assert_eq!(pooler.app().value("SELECT coalesce(current_setting('app.user_id', true), '')"), "");
    }
    let log = cluster.log();
    assert!(!log.contains("DISCARD") && !log.contains("RESET"), "{log}");
    assert_eq!(log.matches("statement: ").count() - before, 15);
}

#[test]
fn a_client_that_leaves_much_behind_stays_alive_itself() {
    let pooler = single();
    let (mut one, mut two) = (pooler.app(), pooler.app());
    for round in 0..20 {
        one.query(&format!("SET work_mem = '{}MB'", 5 + round));
        one.query("CREATE TEMP TABLE IF NOT EXISTS mine (n int)");
        assert_eq!(two.value("SHOW work_mem"), "4MB");
        assert_eq!(two.value("SELECT to_regclass('mine')"), "");
    }
}

#[test]
fn a_statement_too_long_to_be_judged_has_its_server_cleaned_once() {
    let cluster = Cluster::shared();
    let pooler = Setup::of(cluster).set("default_pool_size", "1").start();
    let (mut client, mark) = (pooler.app(), cluster.unique("seen"));
    client.query(&format!("SELECT length('{}')", "x".repeat(70_000)));
    for _ in 0..3 {
        client.query(&format!("SELECT '{mark}'"));
        eventually("its server is back", || pooler.pool("app", "app", "sv_idle") == 1);
    }
    let asked_last = cluster.connections(&format!("query LIKE 'SELECT %{mark}%' AND state = 'idle'"));
    assert_eq!(asked_last, 1);
}

#[test]
fn what_connect_query_did_outlasts_a_cleaning() {
    let lines = "dbname = \"app\"\nconnect_query = \"SET work_mem = '9MB'; PREPARE mine AS SELECT 1; SET ROLE pg_monitor\"";
    let pooler = single_setup().database("prepared_by_query", lines).start();
    let connect = || pooler.connect("prepared_by_query", "postgres");
    for leave in ["SET statement_timeout = '3s'", "PREPARE theirs AS SELECT 2", "LISTEN somebody"] {
        connect().query(leave);
        let mut next = connect();
        assert_eq!(next.value("SHOW statement_timeout"), "0", "after {leave}");
        let kept = "SELECT current_user || ' ' || current_setting('work_mem') || ' ' || string_agg(name, ' ') FROM pg_prepared_statements";
        assert_eq!(next.value(kept), "pg_monitor 9MB mine", "after {leave}");
    }
}

#[test]
fn a_reset_query_of_ones_own_takes_no_start_up_setting_along() {
    for mode in ["session", "transaction"] {
        let setup =
            single_setup().set("pool_mode", &format!("\"{mode}\"")).set("server_reset_query_always", "1");
        let pooler = setup.set("server_reset_query", "\"RESET ALL; DEALLOCATE ALL\"").start();
        for _ in 0..3 {
            let mut client = pooler.dial();
            let parameters = [("user", "app"), ("database", "app"), ("statement_timeout", "77s")];
            client.login(&parameters, "").unwrap();
            client.send(&[parse("mine", "SELECT 'known'", &[]), sync()].concat());
            client.ready();
            for _ in 0..2 {
                assert_eq!(client.value("SHOW statement_timeout"), "77s", "{mode}");
                client.send(&[bind("", "mine", &[]), execute("", 0), sync()].concat());
                assert_eq!(tags(&client.ready()), "2DCZ", "{mode}");
            }
        }
    }
}

#[test]
fn a_reset_leaves_alone_what_is_set_behind_it() {
    let pooler = single();
    let mut client = login(&pooler, &[("TimeZone", "Europe/Paris")]);
    for query in ["RESET work_mem; SET timezone = 'Asia/Tokyo'", "RESET ALL; SET timezone = 'Asia/Tokyo'"] {
        client.query(query);
        assert_eq!(client.value("SHOW timezone"), "Asia/Tokyo", "{query}");
    }
    client.query("RESET timezone");
    assert_eq!(client.value("SHOW timezone"), "Europe/Paris");
    // The unnamed statement outlasts the query that sets it so.
    client.query("BEGIN");
    client.send(&[parse("", "SELECT 'kept'", &[]), sync()].concat());
    client.ready();
    client.send(&[extended("RESET timezone", &[]), sync(), parse("", "SELECT 'kept'", &[]), sync()].concat());
    client.ready();
    client.ready();
    client.send(&[bind("", "", &[]), execute("", 0), sync()].concat());
    assert_eq!(tags(&client.ready()), "2DCZ");
}
