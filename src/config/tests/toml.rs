//! The TOML reader, with all that a file can say and all that can be wrong with it.

use std::path::Path;
use std::time::Duration;

use crate::ids::{DatabaseName, PoolKey, UserName};

use super::super::{Host, PoolMode, Secret, SslMode};
use super::{Fake, good, ini, lines, mistakes, toml, toml_in};

const FULL: &str = r#"
[pgweir]
listen_addr = ["127.0.0.1", "::1"]
listen_port = 6543
unix_socket_mode = 0o770
pool_mode = "Transaction"
server_idle_timeout = "5min"
query_wait_timeout = 2.5
log_connections = false
admin_users = "admin, root"
server_check_query = ""

[databases]
"*" = { host = "/run/postgresql", pool_size = 3 }

[databases.app]
host = ["db1", "10.0.0.2"]
dbname = "app_production"
schema = "auth"
user = "app"
password = "pa ss"
pool_mode = "session"
timezone = "UTC"

[users.app]
pool_size = 9
query_timeout = "1min"

[peers.2]
host = "/run/pgweir/2"
"#;

#[test]
fn a_file_becomes_a_config() {
    let config = good(toml(FULL));
    let settings = &config.settings;
    assert_eq!(settings.listen_addr, ["127.0.0.1", "::1"]);
    assert_eq!(settings.listen_port, 6543);
    assert_eq!(settings.unix_socket_mode, 0o770);
    assert_eq!(settings.pool_mode, PoolMode::Transaction);
    assert_eq!(settings.server_idle_timeout, Duration::from_secs(300));
    assert_eq!(settings.query_wait_timeout, Duration::from_millis(2500));
    assert!(!settings.log_connections);
    assert_eq!(settings.server_check_query, None);
    assert!(config.is_admin(&UserName::from("root")) && !config.may_see_stats(&UserName::from("app")));
    let app = config.database(&DatabaseName::from("app")).unwrap();
    assert_eq!(app.hosts, [Host::Name("db1".into()), Host::Name("10.0.0.2".into())]);
    assert_eq!(app.schema.as_deref(), Some("auth"));
    assert_eq!(app.password.as_ref().map(Secret::reveal), Some("pa ss"));
    assert_eq!(app.startup().collect::<Vec<_>>(), [("timezone", "UTC")]);
    let other = config.database(&DatabaseName::from("other")).unwrap();
    assert_eq!(other.hosts, [Host::Unix("/run/postgresql".into())]);
    assert_eq!(config.peers[&2].port, 6432);
}

#[test]
fn a_user_comes_before_a_database_and_a_database_before_the_global_setting() {
    let config = good(toml(FULL));
    let (app, other) = (DatabaseName::from("app"), DatabaseName::from("other"));
    let login = UserName::from("anna");
    let pool = config.pool_key(&app, &login);
    assert_eq!(pool.user.as_str(), "app");
    let settings = config.pool_settings(&pool);
    assert_eq!((settings.mode, settings.size), (PoolMode::Session, 9));
    let settings = config.pool_settings(&PoolKey { database: other.clone(), user: login.clone() });
    assert_eq!((settings.mode, settings.size), (PoolMode::Transaction, 3));
    // Limits of clients are those of the user who logged in, not of the forced one.
    assert_eq!(config.client_settings(&app, &login).query_timeout, Duration::ZERO);
    assert_eq!(config.client_settings(&app, &pool.user).query_timeout, Duration::from_secs(60));
    assert_eq!(config.server_dbname(&app), "app_production");
    assert_eq!(config.server_dbname(&other), "other");
}

#[test]
fn every_mistake_of_a_file_is_told_with_its_line() {
    let text = r#"
listen_port = 1
[pgwier]
[pgweir]
server_idle_timeout = "10m"
server_idle_timeot = 10
listen_port = 70000
pool_size = 3
pool_mode = "transactoin"
log_stats = "maybe"
auth_user = 5
unix_socket_mode = 777
[databases.pgbouncer]
[databases.a]
default_pool_size = 4
port = 0
[databases]
b = "host=x"
[users.u]
query_timeout = [1]
[peers.x]
host = "y"
"#;
    let expected = r#"/etc/pgweir.toml:2: listen_port: a setting outside of any section
  hint: write it below [pgweir]
/etc/pgweir.toml:3: pgwier: unknown section
  hint: did you mean [pgweir]?
/etc/pgweir.toml:5: server_idle_timeout: unknown unit "m"
  hint: units are us, ms, s, min, h, d
/etc/pgweir.toml:6: server_idle_timeot: unknown setting
  hint: did you mean "server_idle_timeout"?
/etc/pgweir.toml:7: listen_port: out of range: 70000
  hint: from 0 to 65535
/etc/pgweir.toml:8: pool_size: unknown setting
  hint: "pool_size" is a setting of [databases]
/etc/pgweir.toml:9: pool_mode: unknown value "transactoin"
  hint: did you mean "transaction"? one of session, transaction, statement
/etc/pgweir.toml:10: log_stats: neither 0 nor 1: "maybe"
/etc/pgweir.toml:11: auth_user: is a number, not a user
  hint: write a text in quotes
/etc/pgweir.toml:12: unix_socket_mode: out of range: 777
  hint: write it in octal: 0o770 or "0770"
/etc/pgweir.toml:13: databases.pgbouncer: the name is reserved for the console
/etc/pgweir.toml:15: databases.a.default_pool_size: unknown setting of a database
  hint: "default_pool_size" is a setting of the global section
/etc/pgweir.toml:16: databases.a.port: out of range: 0
  hint: from 1 to 65535
/etc/pgweir.toml:18: b: must be a table
  hint: write [databases.b] and its settings below
/etc/pgweir.toml:20: query_timeout: a list holds texts
  hint: write ["one", "two"]
/etc/pgweir.toml:21: peers.x: not the number of a peer
  hint: from 1 to 65535"#;
    assert_eq!(mistakes(toml(text)), expected);
}

#[test]
fn broken_syntax_is_told_with_its_line() {
    let told =
        mistakes(toml("[pgweir]\nlisten_port = \n[databases.a]\nhost = \"x\nuser = \"u\"\nuser = \"v\"\n"));
    assert!(told.contains("/etc/pgweir.toml:2:"), "{told}");
    assert!(told.contains("/etc/pgweir.toml:4:"), "{told}");
    assert!(told.contains("duplicate key"), "{told}");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let cases = [
        (
            "[pgweir]\nclient_tls_sslmode = \"require\"",
            "client_tls_sslmode: TLS with clients needs client_tls_cert_file",
        ),
        ("[pgweir]\nauth_type = \"hba\"", ":2: auth_type: hba without auth_hba_file"),
        ("[pgweir]\nauth_type = \"cert\"", ":2: auth_type: cert needs clients' certificates"),
        ("[pgweir]\nmin_pool_size = 30", ":2: min_pool_size: 30 is more than default_pool_size 20"),
        (
            "[databases.a]\npool_size = 2\nmin_pool_size = 3",
            ":3: databases.a.min_pool_size: min_pool_size 3 is more",
        ),
        ("[pgweir]\nauth_file = \"users.txt\"", ":2: auth_file: /etc/users.txt: No such file"),
        (
            "[pgweir]\nauth_dbname = \"pgbouncer\"",
            ":2: auth_dbname: cannot use the reserved \"pgbouncer\" database",
        ),
        ("[pgweir]\nunix_socket_dir = \"\"", "listen_addr: nowhere to listen"),
        ("[pgweir]\nhttp_listen = \"9930\"", ":2: http_listen: not an address with a port"),
        (
            "[pgweir]\nclient_tls_protocols = \"tlsv1.4\"",
            ":2: client_tls_protocols: unknown value \"tlsv1.4\"",
        ),
        ("[peers.1]\nport = 5", "peers.1.host: a peer needs a host"),
        (
            "[users.u]\npassword = \"a\"\npassword_file = \"f\"",
            ":3: users.u.password_file: /etc/f: No such file",
        ),
    ];
    for (text, expected) in cases {
        let told = mistakes(toml(text));
        assert!(told.contains(expected), "{text}\n{told}");
    }
}

#[test]
fn secrets_come_from_files_and_the_environment() {
    let surroundings = Fake::default()
        .file("/etc/secrets/app", "from file\r\n")
        .file("/etc/users.txt", "\"anna\" \"md5abc\"\n\"both\" \"listed\"\n")
        .variable("DB_PASSWORD", "from environment")
        .variable("EMPTY", "");
    let text = r#"
[pgweir]
auth_file = "users.txt"
auth_query = "SELECT $1, $${x}, ${EMPTY}"
[databases.a]
user = "${DB_USER:-db_user}"
password = "${DB_PASSWORD}"
port = "${EMPTY:-5433}"
[databases.b]
user = "u"
password_file = "secrets/app"
[users.both]
password = "own"
"#;
    let config = good(toml_in(&surroundings, text));
    let password = |name: &str| config.databases[name].password.as_ref().unwrap().reveal().to_owned();
    assert_eq!(password("a"), "from environment");
    assert_eq!(password("b"), "from file");
    assert_eq!(config.databases["a"].user.as_ref().unwrap().as_str(), "db_user");
    assert_eq!(config.databases["a"].port, Some(5433));
    assert_eq!(config.settings.auth_query, "SELECT $1, ${x}, ");
    assert_eq!(config.settings.auth_file.as_deref(), Some(Path::new("/etc/users.txt")));
    let secrets: Vec<_> = config.secrets.iter().map(|(name, it)| (name.as_str(), it.reveal())).collect();
    assert_eq!(secrets, [("anna", "md5abc"), ("both", "own")]);
}

#[test]
fn the_name_of_an_entry_may_come_from_the_environment() {
    let surroundings = Fake::default().variable("DB_USER", "anna").variable("SECRET", "s");
    let text =
        "[databases.\"app_${STAGE:-test}\"]\nhost = \"h\"\n[users.\"${DB_USER}\"]\npassword = \"${SECRET}\"";
    let config = good(toml_in(&surroundings, text));
    assert!(config.databases.contains_key("app_test"), "{:?}", config.databases.keys());
    assert_eq!(config.secrets.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["anna"]);
    assert!(mistakes(toml("[users.\"${NO_SUCH}\"]\npassword = \"s\"")).contains("no variable NO_SUCH"));
}

#[test]
fn a_missing_variable_is_a_mistake() {
    let told =
        mistakes(toml("[databases.a]\npassword = \"${NO_SUCH}\"\nuser = \"${unclosed\"\nhost = \"${}\""));
    assert!(told.contains(":2: password: the environment has no variable NO_SUCH"), "{told}");
    assert!(told.contains(":3: user: \"${\" without \"}\""), "{told}");
    assert!(told.contains(":4: host: not the name of a variable"), "{told}");
}

#[test]
fn a_file_of_secrets_that_everybody_may_read_is_noted() {
    let surroundings = Fake::default().file("/etc/open.txt", "\"a\" \"b\"");
    let loaded =
        toml_in(&surroundings, "[pgweir]\nauth_file = \"open.txt\"\nclient_tls_dheparams = \"none\"")
            .unwrap();
    let notes = lines(&loaded.notes);
    assert!(
        notes.contains(":2: note: auth_file: /etc/open.txt holds secrets and everybody may read it"),
        "{notes}"
    );
    assert!(notes.contains(":3: note: client_tls_dheparams: has no effect"), "{notes}");
}

#[test]
fn lingudesks_pools_are_what_its_services_expect() {
    let surroundings = Fake::default().variable("PGPORT", "5555").variable("DB_PASSWORD", "secret");
    let config = good(toml_in(&surroundings, include_str!("../../../config/lingudesk/pgweir.toml")));
    let user = UserName::from("db_user");
    for (name, schema, size) in [
        ("lingudesk_auth", Some("auth"), 20),
        ("lingudesk_credit", Some("credit"), 15),
        ("lingudesk_ai", Some("ai"), 25),
        ("lingudesk_content", Some("content"), 30),
        ("lingudesk_audit", Some("audit"), 10),
        ("lingudesk_admin", None, 5),
    ] {
        let database = DatabaseName::from(name);
        let entry = config.database(&database).unwrap();
        assert_eq!((entry.schema.as_deref(), entry.port), (schema, Some(5555)), "{name}");
        let settings = config.pool_settings(&config.pool_key(&database, &user));
        let mode = if schema.is_some() { PoolMode::Transaction } else { PoolMode::Session };
        assert_eq!((settings.size, settings.mode), (size, mode), "{name}");
    }
    assert_eq!(config.secrets.get(&user).map(Secret::reveal), Some("secret"));
}

#[test]
fn both_syntaxes_say_the_same() {
    let toml = toml(
        r#"
[pgweir]
listen_addr = ["127.0.0.1", "::1"]
pool_mode = "transaction"
server_idle_timeout = "10min"
tcp_user_timeout = "2s"
max_packet_size = "1MB"
compatibility = "pgbouncer"
log_format = "pgbouncer"
server_connecting_max = 1
switchover_timeout = 0
client_tls_sslmode = "disable"
conffile = "/x"
[databases."*"]
host = "db1,db2"
[databases.app]
host = "10.1.1.1"
user = "u"
password = "it's"
connect_query = "select 1; select 2"
reserve_pool_size = 4
[users.u]
pool_mode = "session"
[peers.3]
host = "/run"
port = 7000
"#,
    );
    let ini = ini("
        ; a comment
        [databases]
        * = host=db1,db2
        app = host=10.1.1.1 user = u password=it's connect_query='select 1; select 2' reserve_pool=4
        [users]
        u = pool_mode = SESSION
        [pgbouncer]
        listen_addr = 127.0.0.1, ::1
        pool_mode = transaction
        server_idle_timeout = 600
        tcp_user_timeout = 2000
        max_packet_size = 1048576
        client_tls_sslmode = disable
        conffile = /x
        [peers]
        3 = host=/run port=7000
    ");
    let (mut toml, ini) = (good(toml), good(ini));
    toml.dialect = ini.dialect;
    assert_eq!(toml, ini);
    assert_eq!(toml.settings.client_tls_sslmode, SslMode::Disable);
}
