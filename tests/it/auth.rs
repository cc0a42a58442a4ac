//! Authentication: how clients prove who they are to pgweir, and pgweir who it is to PostgreSQL.

use crate::support::prelude::*;

fn setup(method: &str) -> Setup {
    Setup::of(Cluster::shared()).set("auth_type", &format!("\"{method}\""))
}

fn login(pooler: &Pooler, database: &str, user: &str, password: &str) -> Result<Raw, Message> {
    let mut client = pooler.dial();
    client.login(&[("user", user), ("database", database)], password).map(|()| client)
}

/// The secret of a role as the cluster keeps it.
fn stored(role: &str) -> String {
    Cluster::shared().execute(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'"))
}

#[test]
fn the_right_password_is_taken_and_any_other_refused() {
    for method in ["plain", "md5", "scram-sha-256"] {
        let pooler = setup(method).start();
        let mut client = login(&pooler, "app", "app", "app-secret").unwrap();
        assert_eq!(client.value("SELECT current_user"), "app", "{method}");
        for wrong in ["App-secret", "", "app-secret ", "app2-secret"] {
            let error = login(&pooler, "app", "app", wrong)
                .err()
                .unwrap_or_else(|| panic!("{method} took {wrong:?}"));
            assert_eq!(error.sqlstate(), "28P01", "{method}, {wrong:?}: {error}");
            assert_eq!(error.field(b'S').unwrap(), "FATAL");
        }
    }
}

#[test]
fn stored_secrets_of_every_kind_are_understood() {
    let file = |secret: &str, user: &str| format!("\"{user}\" \"{secret}\"\n");
    let cases = [
        ("md5", "md5_user", stored("md5_user"), "md5-secret"),
        ("md5", "scram_user", stored("scram_user"), "scram-secret"),
        ("scram-sha-256", "scram_user", stored("scram_user"), "scram-secret"),
        ("plain", "md5_user", stored("md5_user"), "md5-secret"),
        ("plain", "scram_user", stored("scram_user"), "scram-secret"),
        ("plain", "app", "app-secret".to_owned(), "app-secret"),
        ("md5", "app", "app-secret".to_owned(), "app-secret"),
    ];
    for (method, user, secret, password) in cases {
        let setup =
            setup(method).file("userlist.txt", &file(&secret, user)).set("auth_file", "\"userlist.txt\"");
        // The server takes this user without a password: what is tested is our own door.
        let pooler = setup.without_user(user).database("app", "user = \"app\"").start();
        let answer = login(&pooler, "app", user, password);
        assert!(answer.is_ok(), "{method} with {secret}: {:?}", answer.err());
        assert_eq!(login(&pooler, "app", user, "wrong").err().unwrap().sqlstate(), "28P01", "{method}");
    }
}

/// The messages of a failed login, without what is random in them.
fn exchange(pooler: &Pooler, database: &str, user: &str) -> Vec<String> {
    let mut client = pooler.dial();
    client.send(&startup(PROTOCOL_3_0, &[("user", user), ("database", database)]));
    let mut seen = Vec::new();
    let mut challenge = client.next().unwrap();
    if challenge.body[..4] == [0, 0, 0, 10] {
        seen.push(format!("{challenge}"));
        let first = b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=abcdefghijklmnopqrstuvwx".to_vec();
        client.send(&message(b'p', &first));
        challenge = client.next().unwrap();
        let text = String::from_utf8_lossy(&challenge.body[4..]).into_owned();
        let parts: Vec<&str> = text.split(',').collect();
        seen.push(format!("salt of {} characters, {}", parts[1].len(), parts[2]));
        let nonce = parts[0];
        client.send(&message(b'p', format!("c=biws,{nonce},p={}", "A".repeat(43) + "=").as_bytes()));
    } else {
        seen.push(format!("challenge {:?} and {} bytes", &challenge.body[..4], challenge.body.len()));
        client.send(&password("wrong"));
    }
    let answer = client.rest();
    seen.push(format!("{} {}", error(&answer).sqlstate(), error(&answer).text().replace(user, "USER")));
    seen
}

#[test]
fn strangers_learn_nothing() {
    for method in ["plain", "md5", "scram-sha-256"] {
        let pooler = setup(method).start();
        let known = exchange(&pooler, "app", "app");
        assert_eq!(exchange(&pooler, "app", "nobody_knows"), known, "unknown user, {method}");
        assert_eq!(exchange(&pooler, "nowhere", "app"), known, "unknown database, {method}");
        assert_eq!(exchange(&pooler, "nowhere", "nobody_knows"), known, "both unknown, {method}");
    }
}

#[test]
fn an_unknown_users_salt_is_always_the_same() {
    let pooler = setup("scram-sha-256").start();
    let salt = |user: &str| {
        let mut client = pooler.dial();
        client.send(&startup(PROTOCOL_3_0, &[("user", user), ("database", "app")]));
        client.next();
        client.send(&message(b'p', b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=abcdefghijklmnopqrstuvwx"));
        let challenge = client.next().unwrap();
        String::from_utf8_lossy(&challenge.body[4..]).split(',').nth(1).unwrap().to_owned()
    };
    assert_eq!(salt("nobody_knows"), salt("nobody_knows"));
    assert_ne!(salt("nobody_knows"), salt("nobody_else_knows"));
    assert_eq!(salt("app"), salt("app"));
}

#[test]
fn only_who_is_known_hears_that_a_database_does_not_exist() {
    let pooler = setup("scram-sha-256").start();
    let error = login(&pooler, "nowhere", "app", "app-secret").err().unwrap();
    assert_eq!((error.sqlstate().as_str(), error.text().as_str()), ("3D000", "no such database: nowhere"));
}

#[test]
fn with_trust_only_users_that_exist_come_in() {
    let pooler = setup("trust").start();
    assert!(login(&pooler, "app", "app", "").is_ok());
    let error = login(&pooler, "app", "nobody_knows", "").err().unwrap();
    assert_eq!(
        (error.sqlstate().as_str(), error.text().as_str()),
        ("28000", "\"trust\" authentication failed")
    );
}

#[test]
fn with_any_everybody_comes_in_as_the_forced_user() {
    let pooler = setup("any").database("forced", "dbname = \"app\"\nuser = \"app\"").start();
    let mut client = login(&pooler, "forced", "whoever", "").unwrap();
    assert_eq!(client.value("SELECT current_user"), "app");
}

#[test]
fn pgweir_proves_itself_to_the_server_by_every_method() {
    let pooler = setup("trust").start();
    for user in ["plain_user", "md5_user", "scram_user"] {
        assert_eq!(pooler.connect("app", user).value("SELECT current_user"), user);
    }
    // A forced user may bring its password along.
    let lines = "dbname = \"app\"\nuser = \"scram_user\"\npassword = \"scram-secret\"";
    let pooler = setup("trust").without_user("scram_user").database("forced", lines).start();
    assert_eq!(pooler.connect("forced", "app").value("SELECT current_user"), "scram_user");
}

#[test]
fn the_keys_of_a_scram_login_open_the_server_too() {
    let file = format!("\"scram_user\" \"{}\"\n", stored("scram_user"));
    let setup = setup("scram-sha-256").file("userlist.txt", &file).set("auth_file", "\"userlist.txt\"");
    let pooler = setup.without_user("scram_user").start();
    let mut client = login(&pooler, "app", "scram_user", "scram-secret").unwrap();
    assert_eq!(client.value("SELECT current_user"), "scram_user");
    // And again for a further server.
    client.query("BEGIN");
    let mut second = login(&pooler, "app", "scram_user", "scram-secret").unwrap();
    assert_eq!(second.value("SELECT current_user"), "scram_user");
}

#[test]
fn a_wrong_password_towards_the_server_is_told_in_its_words() {
    let pooler = setup("trust").without_user("scram_user").user("scram_user", "password = \"wrong\"").start();
    let error = login(&pooler, "app", "scram_user", "").err().unwrap();
    assert_eq!(error.text(), "password authentication failed for user \"scram_user\"");
    assert_eq!(error.sqlstate(), "28P01");
}

/// A pooler that looks users up in the cluster itself.
fn asking() -> Setup {
    setup("scram-sha-256")
        .without_user("scram_user")
        .without_user("md5_user")
        .set("auth_user", "\"auth_reader\"")
}

#[test]
fn users_are_looked_up_by_auth_query() {
    let pooler = asking().start();
    let mut client = login(&pooler, "app", "scram_user", "scram-secret").unwrap();
    assert_eq!(client.value("SELECT current_user"), "scram_user");
    assert_eq!(login(&pooler, "app", "scram_user", "wrong").err().unwrap().sqlstate(), "28P01");
    assert_eq!(login(&pooler, "app", "nobody_knows", "wrong").err().unwrap().sqlstate(), "28P01");
}

#[test]
fn an_auth_query_of_ones_own_is_used() {
    let query = "\"SELECT 'scram_user'::text, rolpassword FROM pg_authid WHERE rolname = 'app' AND $1 = 'scram_user'\"";
    let pooler = asking().set("auth_query", query).database("app", "user = \"app2\"").start();
    assert!(login(&pooler, "app", "scram_user", "app-secret").is_ok());
}

#[test]
fn a_password_changed_on_the_server_is_noticed() {
    let cluster = Cluster::private(&[]);
    let pooler = Setup::of(&cluster)
        .set("auth_type", "\"scram-sha-256\"")
        .without_user("scram_user")
        .set("auth_user", "\"auth_reader\"")
        .start();
    assert!(login(&pooler, "app", "scram_user", "scram-secret").is_ok());
    cluster.execute("ALTER ROLE scram_user PASSWORD 'changed'");
    let mut client = login(&pooler, "app", "scram_user", "changed").unwrap();
    assert_eq!(client.value("SELECT 'in'"), "in");
    assert_eq!(login(&pooler, "app", "scram_user", "scram-secret").err().unwrap().sqlstate(), "28P01");
}

#[test]
fn a_password_changed_in_the_configuration_serves_clients_that_came_before() {
    let cluster = Cluster::private(&[]);
    let forced = |password: &str| format!("dbname = \"app\"\nuser = \"md5_user\"\npassword = \"{password}\"");
    let own = |password: &str| format!("password = \"{password}\"");
    let mut pooler = Setup::of(&cluster)
        .without_user("scram_user")
        .without_user("md5_user")
        .database("forced", &forced("md5-secret"))
        .user("scram_user", &own("scram-secret"))
        .start();
    let mut clients = [pooler.connect("forced", "app"), pooler.connect("app", "scram_user")];
    for client in &mut clients {
        assert_eq!(client.value("SELECT 'in'"), "in");
    }
    cluster.execute("ALTER ROLE md5_user PASSWORD 'new'");
    cluster.execute("ALTER ROLE scram_user PASSWORD 'new'");
    pooler.reload(|setup| {
        let setup = setup.without_database("forced").without_user("scram_user");
        setup.database("forced", &forced("new")).user("scram_user", &own("new"))
    });
    pooler.show("RECONNECT");
    for client in &mut clients {
        assert_eq!(client.value("SELECT 'still in'"), "still in");
    }
}

#[test]
fn auth_query_never_carries_a_clients_settings() {
    let cluster = Cluster::private(&["log_statement = 'all'", "log_line_prefix = '%u|%a|'"]);
    let pooler = Setup::of(&cluster)
        .set("auth_type", "\"scram-sha-256\"")
        .without_user("scram_user")
        .set("auth_user", "\"auth_reader\"")
        .start();
    let mut client = pooler.dial();
    let parameters = [
        ("user", "scram_user"),
        ("database", "app"),
        ("application_name", "evil'name"),
        ("TimeZone", "Asia/Tokyo"),
    ];
    client.login(&parameters, "scram-secret").unwrap();
    assert_eq!(client.value("SHOW TimeZone"), "Asia/Tokyo");
    let log = cluster.log();
    let asked: Vec<&str> = log.lines().filter(|line| line.starts_with("auth_reader|")).collect();
    assert!(
        !asked.is_empty() && !asked.iter().any(|line| line.contains("evil") || line.contains("Tokyo")),
        "{asked:?}"
    );
}

#[test]
fn an_auth_query_that_fails_lets_nobody_in() {
    for query in ["SELECT nonsense", "SELECT 1/0, $1", "SELECT $1", "SELECT $1, 'x', 'y'", "SELECT NULL, $1"]
    {
        let pooler = asking().set("auth_query", &format!("\"{query}\"")).start();
        assert!(login(&pooler, "app", "scram_user", "scram-secret").is_err(), "{query}");
        assert!(login(&pooler, "app", "app", "app-secret").is_ok(), "{query}");
    }
}

#[test]
fn secrets_come_from_files_and_the_environment() {
    let pooler = setup("scram-sha-256")
        .without_user("app")
        .without_user("app2")
        .user("app", "password_file = \"app.secret\"")
        .user("app2", "password = \"${APP2_PASSWORD}\"")
        .file("app.secret", "from-a-file\n")
        .environment("APP2_PASSWORD", "from-the-environment")
        .start();
    assert!(login(&pooler, "app", "app", "from-a-file").is_ok());
    assert!(login(&pooler, "app", "app2", "from-the-environment").is_ok());
    assert!(login(&pooler, "app", "app2", "${APP2_PASSWORD}").is_err());
    let lines = "dbname = \"app\"\nuser = \"scram_user\"\npassword_file = \"server.secret\"";
    let pooler = setup("trust").database("forced", lines).file("server.secret", "scram-secret\n").start();
    assert_eq!(pooler.connect("forced", "app").value("SELECT current_user"), "scram_user");
}

#[test]
fn secrets_are_never_shown() {
    let pooler = setup("plain").set("verbose", "3").set("log_level", "\"trace\"").start();
    login(&pooler, "app", "scram_user", "scram-secret").unwrap().query("SELECT 1");
    let _ = login(&pooler, "app", "app", "a-wrong-secret-guess");
    let mut console = pooler.dial();
    console.login(&[("user", "admin"), ("database", "pgbouncer")], "admin-secret").unwrap();
    for set in [
        "/* too early */ SET auth_ldap_options 'a-mistyped-secret'",
        "SET auth_ldap_options = 'a-good-secret'",
    ] {
        console.query(set);
    }
    let mut shown = pooler.log();
    for what in ["CONFIG", "DATABASES", "USERS", "CLIENTS", "SERVERS", "POOLS"] {
        shown.push_str(&format!("{:?}", console.query(&format!("SHOW {what}"))));
    }
    assert!(shown.contains("scram_user") && !shown.contains("-secret"), "{shown}");
}

#[test]
fn a_login_that_takes_too_long_is_closed() {
    let pooler = setup("scram-sha-256").set("client_login_timeout", "\"500ms\"").start();
    let begin = Instant::now();
    let mut client = pooler.dial();
    client.send(&startup(PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
    client.until(b'R');
    let answer = client.rest();
    assert!(begin.elapsed() >= Duration::from_millis(400));
    assert_eq!(error(&answer).text(), "client_login_timeout");
    // As PostgreSQL's own authentication_timeout.
    assert_eq!(error(&answer).sqlstate(), "57014");
}

#[test]
fn logins_do_not_stall_the_queries_of_others() {
    let pooler = setup("scram-sha-256").set("scram_iterations", "50000").set("workers", "1").start();
    let mut client = login(&pooler, "app", "app", "app-secret").unwrap();
    let address = pooler.address();
    let begin = Instant::now();
    let slowest = std::thread::scope(|scope| {
        let logins: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    Raw::dial(address).login(&[("user", "app2"), ("database", "app")], "wrong").is_err()
                })
            })
            .collect();
        let slowest = (0..100)
            .map(|_| {
                let begin = Instant::now();
                client.query("SELECT 1");
                begin.elapsed()
            })
            .max()
            .unwrap();
        assert!(logins.into_iter().all(|login| login.join().unwrap()));
        slowest
    });
    // Less than one login's derivation takes: both sides do four of them, on a busy machine more slowly.
    let logins = begin.elapsed();
    let stall = (logins / 5).max(Duration::from_millis(500));
    assert!(slowest < stall, "a query took {slowest:?}, all logins {logins:?}");
}
