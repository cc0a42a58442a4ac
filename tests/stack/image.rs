//! What the image does at run time: pgweir told by its environment alone, and under PgBouncer's name as CloudNativePG's
//! operator runs it.

use std::path::{Path, PathBuf};

use crate::servers::postgres::{Image, Postgres, login};
use crate::shell;
use crate::support::place::{self, Guarded};
use crate::support::raw::Raw;

/// A pgweir of a container: these variables, this command line.
struct Container {
    port: u16,
    directory: PathBuf,
    server: Option<Guarded>,
}

impl Container {
    #[track_caller]
    fn start(variables: &[(&str, &str)], port_variable: &str) -> Self {
        let (directory, port) = (place::directory("container"), place::free_port());
        let mut words = vec!["-i".to_owned(), format!("{port_variable}={port}")];
        words.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
        words.extend([place::pgweir_program().display().to_string(), "--env".to_owned()]);
        Self::run(directory, port, &words)
    }

    #[track_caller]
    fn run(directory: PathBuf, port: u16, words: &[String]) -> Self {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let server = Guarded::start(&directory, Path::new("/usr/bin/env"), &words);
        let log = directory.join("log");
        crate::support::eventually("pgweir listens", || {
            assert!(server.is_alive(), "{}", std::fs::read_to_string(&log).unwrap_or_default());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { port, directory, server: Some(server) }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        if let Some(server) = self.server.take() {
            server.remove();
        }
    }
}

fn postgres() -> Postgres {
    Image::new("app", "s3cret", "app").start()
}

#[test]
fn both_common_sets_of_variables_and_our_own_start_a_pooler() {
    let postgres = postgres();
    let port = postgres.port.to_string();
    let secret = place::directory("secret");
    place::write(&secret.join("password"), "s3cret\n");
    let file = secret.join("password").display().to_string();
    let url = format!("postgres://app:s3cret@127.0.0.1:{port}/app");
    let sets: &[(&str, &[(&str, &str)])] = &[
        (
            "LISTEN_PORT",
            &[
                ("DB_HOST", "127.0.0.1"),
                ("DB_PORT", &port),
                ("DB_USER", "app"),
                ("DB_PASSWORD", "s3cret"),
                ("DB_NAME", "app"),
                ("POOL_MODE", "transaction"),
            ],
        ),
        ("LISTEN_PORT", &[("DATABASE_URL", &url), ("POOL_MODE", "transaction")]),
        (
            "PGBOUNCER_PORT",
            &[
                ("POSTGRESQL_HOST", "127.0.0.1"),
                ("POSTGRESQL_PORT", &port),
                ("POSTGRESQL_USERNAME", "app"),
                ("POSTGRESQL_PASSWORD_FILE", &file),
                ("POSTGRESQL_DATABASE", "app"),
                ("PGBOUNCER_DATABASE", "app"),
                ("PGBOUNCER_POOL_MODE", "transaction"),
            ],
        ),
        (
            "PGWEIR_LISTEN_PORT",
            &[
                ("POSTGRES_HOST", "127.0.0.1"),
                ("POSTGRES_PORT", &port),
                ("POSTGRES_USER", "app"),
                ("POSTGRES_PASSWORD_FILE", &file),
                ("POSTGRES_DB", "app"),
                ("PGWEIR_POOL_MODE", "transaction"),
            ],
        ),
        (
            "PGWEIR_LISTEN_PORT",
            &[
                ("PGHOST", "127.0.0.1"),
                ("PGPORT", &port),
                ("PGUSER", "app"),
                ("PGPASSWORD", "s3cret"),
                ("PGWEIR_POOL_MODE", "transaction"),
                ("PGWEIR_ADMIN_USERS", "app"),
            ],
        ),
    ];
    for (port_variable, variables) in sets {
        let container = Container::start(variables, port_variable);
        let mut session = login(container.port, "app", "app", "s3cret");
        assert_eq!(session.value("SELECT current_user || current_database()"), "appapp", "{variables:?}");
        let mut wrong = Raw::dial(("127.0.0.1", container.port));
        assert!(wrong.login(&[("user", "app"), ("database", "app")], "wrong").is_err(), "{variables:?}");
        assert!(!container.log().contains("s3cret"), "{}", container.log());
    }
    let _ = std::fs::remove_dir_all(secret);
}

/// The names of edoburu/pgbouncer's variables that are settings, with a value that each takes.
const EDOBURU: &str = "CLIENT_ENCODING=UTF8 AUTH_HBA_FILE=@ AUTH_TYPE=md5 AUTH_USER=u AUTH_QUERY=SELECT AUTH_DBNAME=d \
    LISTEN_ADDR=0.0.0.0 LISTEN_PORT=5432 UNIX_SOCKET_DIR=/tmp POOL_MODE=session MAX_CLIENT_CONN=10 POOL_SIZE=5 \
    DEFAULT_POOL_SIZE=5 MIN_POOL_SIZE=1 RESERVE_POOL_SIZE=1 RESERVE_POOL_TIMEOUT=1 MAX_DB_CONNECTIONS=5 \
    MAX_USER_CONNECTIONS=5 SERVER_ROUND_ROBIN=1 IGNORE_STARTUP_PARAMETERS=extra_float_digits DISABLE_PQEXEC=0 \
    APPLICATION_NAME_ADD_HOST=1 TIMEZONE=UTC MAX_PREPARED_STATEMENTS=10 LOG_CONNECTIONS=1 LOG_DISCONNECTIONS=1 \
    LOG_POOLER_ERRORS=1 LOG_STATS=1 STATS_PERIOD=60 VERBOSE=1 ADMIN_USERS=postgres STATS_USERS=x LOGFILE=/tmp/pgweir-stack.log \
    SERVER_RESET_QUERY=DISCARD SERVER_RESET_QUERY_ALWAYS=0 SERVER_CHECK_DELAY=30 SERVER_CHECK_QUERY=select \
    SERVER_LIFETIME=100 SERVER_IDLE_TIMEOUT=10 SERVER_CONNECT_TIMEOUT=10 SERVER_LOGIN_RETRY=10 CLIENT_LOGIN_TIMEOUT=10 \
    AUTODB_IDLE_TIMEOUT=10 DNS_MAX_TTL=10 DNS_NXDOMAIN_TTL=10 CLIENT_TLS_SSLMODE=disable CLIENT_TLS_PROTOCOLS=all \
    CLIENT_TLS_CIPHERS=fast CLIENT_TLS_ECDHCURVE=auto CLIENT_TLS_DHEPARAMS=auto SERVER_TLS_SSLMODE=disable \
    SERVER_TLS_PROTOCOLS=all SERVER_TLS_CIPHERS=fast QUERY_TIMEOUT=10 QUERY_WAIT_TIMEOUT=10 CLIENT_IDLE_TIMEOUT=10 \
    IDLE_TRANSACTION_TIMEOUT=10 PKT_BUF=4096 MAX_PACKET_SIZE=100000 LISTEN_BACKLOG=10 SBUF_LOOPCNT=5 SUSPEND_TIMEOUT=10 \
    TCP_DEFER_ACCEPT=1 TCP_KEEPALIVE=1 TCP_KEEPCNT=3 TCP_KEEPIDLE=10 TCP_KEEPINTVL=10 TCP_USER_TIMEOUT=0";

/// bitnami/pgbouncer's, without `PGBOUNCER_`.
const BITNAMI: &str = "DATABASE=d PORT=6432 LISTEN_ADDRESS=0.0.0.0 AUTH_USER=u AUTH_QUERY=SELECT AUTH_TYPE=scram-sha-256 \
    AUTH_HBA_FILE=@ AUTH_IDENT_FILE=@ STATS_USERS=u POOL_MODE=session QUERY_WAIT_TIMEOUT=10 MAX_CLIENT_CONN=10 \
    MAX_DB_CONNECTIONS=10 IDLE_TRANSACTION_TIMEOUT=10 SERVER_IDLE_TIMEOUT=10 SERVER_RESET_QUERY=DISCARD \
    DEFAULT_POOL_SIZE=10 MIN_POOL_SIZE=1 RESERVE_POOL_SIZE=1 RESERVE_POOL_TIMEOUT=1 \
    IGNORE_STARTUP_PARAMETERS=extra_float_digits STATS_PERIOD=60 MAX_PREPARED_STATEMENTS=10 EXTRA_FLAGS=--verbose \
    SERVER_ROUND_ROBIN=1 SERVER_FAST_CLOSE=1 APPLICATION_NAME_ADD_HOST=1 CLIENT_TLS_SSLMODE=disable \
    CLIENT_TLS_CIPHERS=fast SERVER_TLS_SSLMODE=disable SERVER_TLS_CIPHERS=fast SERVER_TLS_PROTOCOLS=secure \
    LOG_CONNECTIONS=1 LOG_DISCONNECTIONS=1 LOG_POOLER_ERRORS=1 LOG_STATS=1 LOG_FILE=/tmp/pgweir-stack.log SERVER_LIFETIME=10 \
    SERVER_CONNECT_TIMEOUT=10 SERVER_LOGIN_RETRY=10 CLIENT_LOGIN_TIMEOUT=10 AUTODB_IDLE_TIMEOUT=10 QUERY_TIMEOUT=10 \
    CLIENT_IDLE_TIMEOUT=10 SET_DATABASE_USER=yes SET_DATABASE_PASSWORD=yes USERLIST=\"a\"\u{a0}\"b\" CONNECT_QUERY=SELECT \
    DSN_0=d=host=h DSN_1=e=host=h FAIL_ON_INVALID_DSN_FILE=no INIT_SLEEP_TIME=10 INIT_MAX_RETRIES=10 \
    FORCE_INITSCRIPTS=no SOCKET_DIR=/tmp/ SOCKET_MODE=0777 SOCKET_GROUP=daemon DAEMON_USER=daemon DAEMON_GROUP=daemon";

/// What `check --env` says of these variables; an empty file stands for `@`, a space for `U+00A0`.
fn checked(variables: &[(String, String)]) -> String {
    let nothing = shell::scratch("hba").join("hba.conf");
    place::write(&nothing, "");
    let mut check = place::command(place::pgweir_program());
    check.env_clear().args(["check", "--env"]);
    for (name, value) in variables {
        let value = if value == "@" { nothing.display().to_string() } else { value.replace('\u{a0}', " ") };
        check.env(name, value);
    }
    shell::run(&mut check).succeeded()
}

#[test]
fn every_variable_of_the_other_images_is_known() {
    let pairs = |list: &str, prefix: &str| -> Vec<(String, String)> {
        let pairs = list.split(' ').filter_map(|it| it.split_once('='));
        pairs.map(|(name, value)| (format!("{prefix}{name}"), value.to_owned())).collect()
    };
    let edoburu = pairs(EDOBURU, "");
    assert!(edoburu.len() > 60);
    let said = checked(&[pairs("DB_HOST=h DB_USER=u DB_PASSWORD=p", ""), edoburu].concat());
    assert!(said.contains("environment: good") && !said.contains("unknown"), "{said}");
    let server = pairs("HOST=h PORT=1 USERNAME=u PASSWORD=p DATABASE=d", "POSTGRESQL_");
    let bitnami = pairs(BITNAMI, "PGBOUNCER_");
    assert!(bitnami.len() > 50);
    let said = checked(&[server.clone(), bitnami.clone()].concat());
    assert!(said.contains("environment: good") && !said.contains("unknown"), "{said}");
    // And each of them by a file.
    let files = shell::scratch("files");
    let by_file = bitnami.into_iter().filter(|(name, value)| value != "@" && !name.ends_with("_FILE")).map(
        |(name, value)| {
            let file = files.join(&name);
            place::write(&file, &value.replace('\u{a0}', " "));
            (format!("{name}_FILE"), file.display().to_string())
        },
    );
    let said = checked(&server.into_iter().chain(by_file).collect::<Vec<_>>());
    assert!(said.contains("environment: good") && !said.contains("unknown"), "{said}");
}

/// What CloudToLocalLLM and Arasul call their own pools' settings.
#[test]
fn the_systems_own_names_are_understood() {
    let cloud = [
        ("DB_TYPE", "postgresql"),
        ("DB_HOST", "127.0.0.1"),
        ("DB_USER", "app"),
        ("DB_PASSWORD", "s3cret"),
        ("DB_SSL_MODE", "require"),
        ("DB_POOL_MAX", "50"),
        ("DB_POOL_IDLE_TIMEOUT", "600000"),
        ("DB_POOL_CONNECTION_TIMEOUT", "30000"),
        ("ADMIN_USERS", "app"),
    ];
    let of_cloud = [
        ("server_tls_sslmode", "require"),
        ("default_pool_size", "50"),
        ("server_idle_timeout", "600"),
        ("query_wait_timeout", "30"),
    ];
    let arasul = [
        ("POSTGRES_HOST", "127.0.0.1"),
        ("POSTGRES_USER", "app"),
        ("POSTGRES_PASSWORD", "s3cret"),
        ("POSTGRES_DB", "app"),
        ("POSTGRES_MAX_CONNECTIONS", "100"),
        ("MIN_CONNECTIONS", "2"),
        ("MAX_CONNECTIONS", "20"),
        ("IDLE_TIMEOUT", "30s"),
        ("PGWEIR_ADMIN_USERS", "app"),
    ];
    let of_arasul = [
        ("max_db_connections", "90"),
        ("min_pool_size", "2"),
        ("default_pool_size", "20"),
        ("server_idle_timeout", "30"),
    ];
    for (variables, port, settings) in
        [(&cloud, "LISTEN_PORT", of_cloud), (&arasul, "PGWEIR_LISTEN_PORT", of_arasul)]
    {
        let container = Container::start(variables, port);
        let shown = login(container.port, "pgbouncer", "app", "s3cret").rows("SHOW CONFIG");
        for (name, value) in settings {
            let row = shown.iter().find(|row| row[0].as_deref() == Some(name)).unwrap();
            assert_eq!(row[1].as_deref(), Some(value), "{name}");
        }
    }
}

#[test]
fn a_secret_file_that_changes_is_read_again() {
    let postgres = postgres();
    let port = postgres.port.to_string();
    let secret = place::directory("secret");
    let file = secret.join("password");
    place::write(&file, "s3cret");
    let path = file.display().to_string();
    let variables =
        [("DB_HOST", "127.0.0.1"), ("DB_PORT", &port), ("DB_USER", "app"), ("DB_PASSWORD_FILE", &path)];
    let container = Container::start(&variables, "LISTEN_PORT");
    login(container.port, "app", "app", "s3cret").query("SELECT 1");
    postgres.execute("ALTER ROLE app PASSWORD 'next'");
    place::write(&file, "next");
    place::signal(container.server.as_ref().unwrap().pid, rustix::process::Signal::HUP);
    crate::support::eventually("the new password is taken", || {
        let mut session = Raw::dial(("127.0.0.1", container.port));
        session.login(&[("user", "app"), ("database", "app")], "next").is_ok()
    });
    let _ = std::fs::remove_dir_all(secret);
}

#[test]
fn an_environment_with_mistakes_is_refused_with_all_of_them() {
    let mut pgweir = place::command(place::pgweir_program());
    pgweir.arg("--env").env("POOL_MODE", "sesion").env("DB_PORT", "none").env("DB_HOST", "x");
    let said = shell::run(&mut pgweir).failed(1);
    assert!(
        said.contains("$POOL_MODE: pool_mode:") && said.contains("$DB_PORT: databases.*.port:"),
        "{said}"
    );
}

/// The configuration that CloudNativePG's operator writes, its command line, its files, its console.
#[test]
fn cloudnativepgs_operator_finds_what_it_expects() {
    let postgres = postgres();
    postgres.execute(
        "CREATE FUNCTION public.user_search(uname text) RETURNS TABLE (usename name, passwd text) LANGUAGE sql \
         SECURITY DEFINER AS 'SELECT usename, passwd FROM pg_shadow WHERE usename = $1'",
    );
    let controller = place::directory("controller");
    for directory in ["configs", "run", "bin"] {
        shell::run(place::command("mkdir").arg(controller.join(directory))).succeeded();
    }
    let pgbouncer = controller.join("bin/pgbouncer");
    shell::run(place::command("ln").arg("-s").arg(place::pgweir_program()).arg(&pgbouncer)).succeeded();
    let pair = &crate::support::certs::Certificates::get().server;
    let path = |name: &str| controller.join("configs").join(name);
    place::write(&path("tls.crt"), &pair.certificate);
    place::write(&path("tls.key"), &pair.key);
    place::write(&path("ca.crt"), &crate::support::certs::Certificates::get().authority);
    place::write(&path("userlist.txt"), "\"app\" \"s3cret\"\n");
    place::write(
        &path("pg_hba.conf"),
        "local pgbouncer pgbouncer peer\nhost all all 0.0.0.0/0 md5\nhost all all ::/0 md5\n",
    );
    let port = place::free_port();
    let at = controller.display();
    place::write(
        &path("pgbouncer.ini"),
        &format!(
            "[databases]\n* = host=127.0.0.1 port={}\n\n[pgbouncer]\npool_mode = transaction\nauth_type = hba\n\
             auth_hba_file = {at}/configs/pg_hba.conf\nauth_file = {at}/configs/userlist.txt\nadmin_users = pgbouncer\n\
             auth_query = SELECT usename, passwd FROM public.user_search($1)\nauth_user = app\nauth_dbname = app\n\
             unix_socket_dir = {at}/run\nlisten_port = {port}\nlisten_addr = *\nlog_stats = 0\n\
             client_tls_sslmode = prefer\nclient_tls_cert_file = {at}/configs/tls.crt\nclient_tls_key_file = {at}/configs/tls.key\n\
             client_tls_ca_file = {at}/configs/ca.crt\nserver_tls_sslmode = prefer\nserver_tls_ca_file = {at}/configs/ca.crt\n\
             ignore_startup_parameters = extra_float_digits,options\ndisable_pqexec = 0\npkt_buf = 4096\nsbuf_loopcnt = 5\n\
             suspend_timeout = 10\ntcp_defer_accept = 1\nserver_fast_close = 0\ntrack_extra_parameters = IntervalStyle\n",
            postgres.port
        ),
    );
    let words = [pgbouncer.display().to_string(), path("pgbouncer.ini").display().to_string()];
    let container = Container::run(controller.clone(), port, &words);
    assert_eq!(login(port, "app", "app", "s3cret").value("SELECT 1"), "1");
    let console = |sql: &str| {
        let mut psql = place::command(place::postgres_program("psql"));
        psql.env("PGHOST", controller.join("run")).env("PGPORT", port.to_string());
        psql.env("PGUSER", "pgbouncer").env("PGDATABASE", "pgbouncer").args(["-XAt", "-F", "|", "-c", sql]);
        shell::run(&mut psql).succeeded()
    };
    // Read by position: 17 and 23 columns, and numbers or nothing where the operator scans numbers.
    for (show, columns) in [("SHOW POOLS", 17), ("SHOW STATS", 23)] {
        let rows = console(show);
        let row =
            rows.lines().find(|row| row.starts_with("app|")).unwrap_or_else(|| panic!("{show}: {rows}"));
        assert_eq!(row.split('|').count(), columns, "{show}: {row}");
    }
    let pools = console("SHOW POOLS");
    let pool = pools.lines().find(|row| row.starts_with("app|app|")).unwrap();
    assert_eq!(pool.rsplit('|').next(), Some(""), "load_balance_hosts is NULL: {pool}");
    assert!(console("SHOW LISTS").lines().all(|row| row.split('|').count() == 2));
    // A switchover: the operator pauses, waits, and resumes.
    assert_eq!(console("PAUSE"), "PAUSE\n");
    let mut waiting = Raw::dial(("127.0.0.1", port));
    waiting.login(&[("user", "app"), ("database", "app")], "s3cret").unwrap();
    waiting.send(&crate::support::message::query("SELECT 'after'"));
    assert!(waiting.is_silent_for(std::time::Duration::from_millis(300)));
    assert_eq!(console("RESUME"), "RESUME\n");
    assert_eq!(crate::support::message::rows(&waiting.ready()), [[Some("after".to_owned())]]);
    assert_eq!(console("RELOAD"), "RELOAD\n");
    // Its log lines, as the operator parses them.
    let log = container.log();
    let line = log.lines().find(|line| line.contains("login attempt")).expect("logins are logged");
    let rest = line.split_once(" [").and_then(|(_, rest)| rest.split_once("] ")).expect("a pid in brackets");
    assert!(rest.0.parse::<u32>().is_ok() && rest.1.starts_with("LOG "), "{line}");
}
