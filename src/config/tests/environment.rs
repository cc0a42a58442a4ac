//! Configurations from variables of the environment: those of other images, those of applications, our own.

use super::{Fake, good, mistakes};
use crate::config::{
    AuthType, Config, Diagnostic, Dialect, ENVIRONMENT, Host, Loaded, PoolMode, SslMode, read,
};
use std::path::Path;
use std::time::Duration;

fn env_in(fake: &Fake) -> Result<Loaded, Vec<Diagnostic>> {
    read(Path::new(ENVIRONMENT), "", Dialect::Environment, fake)
}

fn env(variables: &[(&'static str, &'static str)]) -> Result<Loaded, Vec<Diagnostic>> {
    env_in(&variables.iter().fold(Fake::default(), |fake, (name, text)| fake.variable(name, text)))
}

fn notes(loaded: Result<Loaded, Vec<Diagnostic>>) -> String {
    super::lines(&loaded.expect("a good environment").notes)
}

fn secret<'a>(config: &'a Config, user: &str) -> Option<&'a str> {
    config.secrets.get(user).map(|it| it.reveal())
}

fn host(name: &str) -> Vec<Host> {
    vec![Host::Name(name.into())]
}

#[test]
fn the_variables_of_the_first_common_image_are_understood() {
    let config = good(env(&[
        ("DB_HOST", "pg"),
        ("DB_USER", "app"),
        ("DB_PASSWORD", "s3cret"),
        ("POOL_MODE", "transaction"),
        ("MAX_CLIENT_CONN", "500"),
        ("DEFAULT_POOL_SIZE", "15"),
        ("SERVER_LIFETIME", "1200"),
        ("CLIENT_ENCODING", "UTF8"),
        ("ADMIN_USERS", "postgres,dba"),
        ("ADMIN_PASSWORDS", "one,two"),
    ]));
    let (settings, entry) = (&config.settings, config.any_database.as_ref().unwrap());
    assert_eq!((entry.hosts.clone(), entry.port), (host("pg"), None));
    assert_eq!(entry.auth_user.as_ref().unwrap().as_str(), "app");
    assert_eq!(entry.client_encoding.as_deref(), Some("UTF8"));
    assert_eq!((settings.listen_port, settings.auth_type), (5432, AuthType::Md5));
    assert_eq!((settings.pool_mode, settings.max_client_conn), (PoolMode::Transaction, 500));
    assert_eq!((settings.default_pool_size, settings.server_lifetime), (15, Duration::from_secs(1200)));
    assert_eq!((secret(&config, "app"), secret(&config, "dba")), (Some("s3cret"), Some("two")));
    assert_eq!(settings.listen_addr, ["*"]);
    assert!(settings.unix_socket_dir.is_none());
}

#[test]
fn the_variables_of_the_second_common_image_are_understood() {
    let config = good(env(&[
        ("POSTGRESQL_HOST", "pg"),
        ("POSTGRESQL_PORT", "5433"),
        ("POSTGRESQL_USERNAME", "app"),
        ("POSTGRESQL_PASSWORD", "s3cret"),
        ("POSTGRESQL_DATABASE", "inside"),
        ("PGBOUNCER_DATABASE", "outside"),
        ("PGBOUNCER_PORT", "6433"),
        ("PGBOUNCER_LISTEN_ADDRESS", "127.0.0.1"),
        ("PGBOUNCER_POOL_MODE", "statement"),
        ("PGBOUNCER_SET_DATABASE_USER", "yes"),
        ("PGBOUNCER_SET_DATABASE_PASSWORD", "yes"),
        ("PGBOUNCER_USERLIST", "\"reports\" \"r\"\n\"more\" \"m\""),
        ("PGBOUNCER_DSN_0", "second=host=pg2 port=5434 dbname=x pool_size=3"),
        ("PGBOUNCER_DSN_1", "third=host=pg3"),
        ("PGBOUNCER_CONNECT_QUERY", "SELECT 1"),
    ]));
    let settings = &config.settings;
    let entry = &config.databases["outside"];
    assert_eq!(
        (entry.hosts.clone(), entry.port, entry.dbname.as_deref()),
        (host("pg"), Some(5433), Some("inside"))
    );
    assert_eq!(entry.user.as_ref().unwrap().as_str(), "app");
    assert_eq!(entry.password.as_ref().unwrap().reveal(), "s3cret");
    assert_eq!(entry.connect_query.as_deref(), Some("SELECT 1"));
    let second = &config.databases["second"];
    assert_eq!((second.hosts.clone(), second.pool_size), (host("pg2"), Some(3)));
    assert_eq!(config.databases["third"].hosts, host("pg3"));
    assert_eq!((settings.listen_port, settings.auth_type), (6433, AuthType::ScramSha256));
    assert_eq!(settings.listen_addr, ["127.0.0.1"]);
    assert_eq!(settings.pool_mode, PoolMode::Statement);
    assert_eq!(settings.admin_users[0].as_str(), "app");
    assert_eq!((secret(&config, "app"), secret(&config, "more")), (Some("s3cret"), Some("m")));
}

#[test]
fn the_second_images_defaults_need_a_password_alone() {
    let config = good(env(&[("POSTGRESQL_PASSWORD", "s3cret")]));
    let entry = config.any_database.as_ref().expect("any database, where none is named");
    assert_eq!(entry.hosts, host("postgresql"));
    assert_eq!((config.settings.listen_port, secret(&config, "postgres")), (6432, Some("s3cret")));
}

/// One of its names alone does not make a container one of the second image.
#[test]
fn the_second_images_defaults_stand_behind_what_is_named() {
    let config = good(env(&[
        ("PGBOUNCER_POOL_MODE", "transaction"),
        ("DB_HOST", "pg"),
        ("DB_PORT", "5433"),
        ("DB_USER", "app"),
        ("DB_PASSWORD", "p"),
    ]));
    let entry = config.any_database.as_ref().unwrap();
    assert_eq!((&entry.hosts, entry.port), (&host("pg"), Some(5433)));
    assert_eq!((secret(&config, "app"), secret(&config, "postgres")), (Some("p"), None));
}

#[test]
fn a_file_may_hold_what_a_variable_would() {
    let fake = Fake::default()
        .file("/run/secrets/password", "from a file\n")
        .file("/run/secrets/mode", "transaction\n")
        .file("/run/secrets/dsn", "x=host=pg9\n")
        .variable("POSTGRES_HOST", "postgresql")
        .variable("POSTGRES_USER", "homelab")
        .variable("POSTGRES_PASSWORD_FILE", "/run/secrets/password")
        .variable("PGWEIR_POOL_MODE_FILE", "/run/secrets/mode")
        .variable("PGWEIR_DSN_0_FILE", "/run/secrets/dsn");
    let config = good(env_in(&fake));
    assert_eq!(secret(&config, "homelab"), Some("from a file"));
    assert_eq!(config.settings.pool_mode, PoolMode::Transaction);
    assert_eq!(config.databases["x"].hosts, host("pg9"));
    let fake = fake.variable("POSTGRES_PASSWORD", "and from a variable");
    assert!(mistakes(env_in(&fake)).contains("$POSTGRES_PASSWORD_FILE: POSTGRES_PASSWORD is set too"));
    let missing = Fake::default().variable("DB_HOST", "pg").variable("POOL_MODE_FILE", "/nowhere");
    assert!(mistakes(env_in(&missing)).contains("$POOL_MODE_FILE: /nowhere: No such file"));
}

/// CloudToLocalLLM's ConfigMap and Secret as they stand.
#[test]
fn an_applications_own_pool_settings_become_the_poolers() {
    let config = good(env(&[
        ("DB_TYPE", "postgresql"),
        ("DB_HOST", "postgres.cloudtolocalllm.svc.cluster.local"),
        ("DB_PORT", "5432"),
        ("DB_NAME", "cloudtolocalllm"),
        ("DB_USER", "appuser"),
        ("DB_PASSWORD", "strong"),
        ("DB_SSL_MODE", "require"),
        ("DB_POOL_MAX", "50"),
        ("DB_POOL_IDLE_TIMEOUT", "600000"),
        ("DB_POOL_CONNECTION_TIMEOUT", "30000"),
        ("PGWEIR_LISTEN_PORT", "6432"),
    ]));
    let settings = &config.settings;
    assert!(config.databases.contains_key("cloudtolocalllm") && config.any_database.is_none());
    assert_eq!((settings.default_pool_size, settings.listen_port), (50, 6432));
    assert_eq!(settings.server_idle_timeout, Duration::from_secs(600));
    assert_eq!(settings.query_wait_timeout, Duration::from_secs(30));
    assert_eq!(settings.server_tls_sslmode, SslMode::Require);
}

/// Arasul's variables as they stand.
#[test]
fn a_services_pool_and_its_servers_limit_are_understood() {
    let config = good(env(&[
        ("POSTGRES_HOST", "postgres-db"),
        ("POSTGRES_PORT", "5432"),
        ("POSTGRES_USER", "arasul"),
        ("POSTGRES_PASSWORD", "x"),
        ("POSTGRES_DB", "arasul_db"),
        ("POSTGRES_MAX_CONNECTIONS", "100"),
        ("MIN_CONNECTIONS", "2"),
        ("MAX_CONNECTIONS", "20"),
        ("IDLE_TIMEOUT", "30s"),
    ]));
    let settings = &config.settings;
    assert_eq!(config.databases["arasul_db"].hosts, host("postgres-db"));
    assert_eq!((settings.min_pool_size, settings.default_pool_size), (2, 20));
    assert_eq!((settings.max_db_connections, settings.server_idle_timeout), (90, Duration::from_secs(30)));
}

/// Lingudesk's `.env` has both the superuser's and the application's names.
#[test]
fn a_password_belongs_to_the_user_of_its_own_family() {
    let config = good(env(&[
        ("PGHOST", "10.0.0.5"),
        ("POSTGRES_DB", "lingudesk"),
        ("POSTGRES_USER", "postgres"),
        ("POSTGRES_PASSWORD", "superuser's"),
        ("DB_USER", "db_user"),
        ("DB_PASSWORD", "application's"),
    ]));
    assert_eq!((secret(&config, "db_user"), secret(&config, "postgres")), (Some("application's"), None));
    assert!(config.databases.contains_key("lingudesk"));
}

#[test]
fn urls_name_databases() {
    let url = "postgres://us%40er:p%2Fw:d@pg:5433/app, postgresql://[::1]/other,postgres://u@h";
    let config = good(env(&[("DATABASE_URLS", url)]));
    let app = &config.databases["app"];
    assert_eq!((app.hosts.clone(), app.port), (host("pg"), Some(5433)));
    assert_eq!(secret(&config, "us@er"), Some("p/w:d"));
    assert_eq!(config.databases["other"].hosts, host("::1"));
    assert_eq!(config.any_database.as_ref().unwrap().hosts, host("h"));
    for (url, what) in [
        ("mysql://h/d", "not a URL of PostgreSQL"),
        ("postgres:///d", "no host"),
        ("postgres://u:secret@h/d?sslmode=require", "parameters"),
    ] {
        let said = mistakes(env_in(&Fake::default().variable("DATABASE_URL", url)));
        assert!(said.starts_with("$DATABASE_URL:") && said.contains(what), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
}

#[test]
fn our_own_names_come_before_all_others() {
    let names = ["PGWEIR_POOL_MODE", "PGBOUNCER_POOL_MODE", "POOL_MODE"];
    let texts = ["statement", "transaction", "session"];
    let all: Vec<_> = names.into_iter().zip(texts).chain([("DB_HOST", "pg")]).collect();
    assert_eq!(good(env(&all)).settings.pool_mode, PoolMode::Statement);
    assert_eq!(good(env(&all[1..])).settings.pool_mode, PoolMode::Transaction);
}

/// A Service named `pgbouncer` or `postgres` puts such variables into every pod of its namespace.
#[test]
fn what_kubernetes_says_of_services_is_not_for_us() {
    let loaded = env(&[
        ("DB_HOST", "pg"),
        ("DB_USER", "u"),
        ("DB_PASSWORD", "p"),
        ("DB_PORT", "tcp://10.0.0.1:5432"),
        ("PGWEIR_PORT", "tcp://10.0.0.1:6432"),
        ("PGWEIR_PORT_6432_TCP_ADDR", "10.0.0.1"),
        ("PGBOUNCER_PORT", "tcp://10.0.0.1:6432"),
        ("PGBOUNCER_SERVICE_HOST", "10.0.0.1"),
        ("PGBOUNCER_SERVICE_PORT", "6432"),
    ]);
    assert_eq!(notes(loaded), "");
}

#[test]
fn mistakes_name_the_variable() {
    let said =
        mistakes(env(&[("DB_HOST", "pg"), ("POOL_MODE", "sesion"), ("PGWEIR_MAX_CLIENT_CONN", "many")]));
    assert!(said.contains("$POOL_MODE: pool_mode:"), "{said}");
    assert!(said.contains("$PGWEIR_MAX_CLIENT_CONN: max_client_conn:"), "{said}");
    let said = mistakes(env(&[("POOL_MODE", "session")]));
    assert!(said.contains("environment: databases: nothing says where PostgreSQL is"), "{said}");
    let said = notes(env(&[
        ("DB_HOST", "pg"),
        ("DB_USER", "u"),
        ("PGWEIR_POOLMODE", "session"),
        ("PGBOUNCER_INIT_SLEEP_TIME", "10"),
    ]));
    assert!(
        said.contains("$PGWEIR_POOLMODE: note: unknown variable\n  hint: did you mean PGWEIR_POOL_MODE?"),
        "{said}"
    );
    assert!(said.contains("$PGBOUNCER_INIT_SLEEP_TIME: note: has no effect"), "{said}");
}

#[test]
fn an_empty_variable_is_none() {
    let config = good(env(&[("DB_HOST", "pg"), ("POOL_MODE", ""), ("LISTEN_PORT", "")]));
    assert_eq!((config.settings.pool_mode, config.settings.listen_port), (PoolMode::Session, 5432));
}
