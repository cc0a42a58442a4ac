//! The names that variables have in the images that a pooler is run from, and in the systems that it serves.
//!
//! Every global setting is also a variable by itself, see [`super::read`]; here are the names that differ from it.

/// Variables that say where PostgreSQL is and as whom to come, under one family's names.
pub struct Family {
    /// The host.
    pub host: &'static str,
    /// The port.
    pub port: &'static str,
    /// The database.
    pub database: &'static str,
    /// Who logs in.
    pub user: &'static str,
    /// Their password.
    pub password: &'static str,
}

/// The names of bitnami/pgbouncer.
pub const BITNAMI: Family = Family {
    host: "POSTGRESQL_HOST",
    port: "POSTGRESQL_PORT",
    database: "POSTGRESQL_DATABASE",
    user: "POSTGRESQL_USERNAME",
    password: "POSTGRESQL_PASSWORD",
};

/// All families. What an earlier one says comes before a later one.
pub const FAMILIES: &[Family] = &[
    BITNAMI,
    // edoburu/pgbouncer's, and those of many applications.
    Family {
        host: "DB_HOST",
        port: "DB_PORT",
        database: "DB_NAME",
        user: "DB_USER",
        password: "DB_PASSWORD",
    },
    // Those of PostgreSQL's own image, with a host and a port.
    Family {
        host: "POSTGRES_HOST",
        port: "POSTGRES_PORT",
        database: "POSTGRES_DB",
        user: "POSTGRES_USER",
        password: "POSTGRES_PASSWORD",
    },
    // libpq's.
    Family { host: "PGHOST", port: "PGPORT", database: "PGDATABASE", user: "PGUSER", password: "PGPASSWORD" },
];

/// A variable with another name than its setting has.
pub struct Alias {
    /// The variable.
    pub variable: &'static str,
    /// The global setting.
    pub setting: &'static str,
    /// Its value as the setting has it.
    pub read: fn(String) -> String,
}

const fn same(variable: &'static str, setting: &'static str) -> Alias {
    Alias { variable, setting, read: |text| text }
}

const fn milliseconds(variable: &'static str, setting: &'static str) -> Alias {
    Alias { variable, setting, read: in_milliseconds }
}

/// Variables with another name than their setting has; for one setting, the first that is set counts.
pub const ALIASES: &[Alias] = &[
    same("PGBOUNCER_PORT", "listen_port"),
    same("PGBOUNCER_LISTEN_ADDRESS", "listen_addr"),
    same("PGBOUNCER_LOG_FILE", "logfile"),
    same("PGBOUNCER_SOCKET_DIR", "unix_socket_dir"),
    same("PGBOUNCER_SOCKET_MODE", "unix_socket_mode"),
    same("PGBOUNCER_SOCKET_GROUP", "unix_socket_group"),
    same("DB_SSL_MODE", "server_tls_sslmode"),
    same("PGSSLMODE", "server_tls_sslmode"),
    same("PGSSLROOTCERT", "server_tls_ca_file"),
    // What applications call their own pool's settings; the pool is here now.
    same("DB_POOL_MAX", "default_pool_size"),
    same("MAX_CONNECTIONS", "default_pool_size"),
    same("MIN_CONNECTIONS", "min_pool_size"),
    milliseconds("DB_POOL_IDLE_TIMEOUT", "server_idle_timeout"),
    same("IDLE_TIMEOUT", "server_idle_timeout"),
    milliseconds("DB_POOL_CONNECTION_TIMEOUT", "query_wait_timeout"),
    Alias {
        variable: "POSTGRES_MAX_CONNECTIONS",
        setting: "max_db_connections",
        read: without_administrators,
    },
];

/// Variables that belong to the entry of `[databases]`, and its settings.
pub const OF_DATABASE: &[(&str, &str)] = &[
    ("CLIENT_ENCODING", "client_encoding"),
    ("TIMEZONE", "timezone"),
    ("POOL_SIZE", "pool_size"),
    ("PGBOUNCER_CONNECT_QUERY", "connect_query"),
    ("PGWEIR_CONNECT_QUERY", "connect_query"),
    ("PGWEIR_SCHEMA", "schema"),
    ("PGSCHEMA", "schema"),
];

/// Settings that are no variables under their bare names: too many programs use these for something else.
pub const NOT_BARE: &[&str] = &["user", "job_name", "service_name", "syslog", "workers", "workers_min"];

/// Variables of the other images that have nothing to do here.
pub const WITHOUT_EFFECT: &[&str] = &[
    "PGBOUNCER_EXTRA_FLAGS",
    "PGBOUNCER_INIT_SLEEP_TIME",
    "PGBOUNCER_INIT_MAX_RETRIES",
    "PGBOUNCER_FORCE_INITSCRIPTS",
    "PGBOUNCER_DAEMON_USER",
    "PGBOUNCER_DAEMON_GROUP",
    "PGBOUNCER_FAIL_ON_INVALID_DSN_FILE",
];

/// A server's connections that are left to its administrators where only its `max_connections` is known.
const ADMINISTRATORS: usize = 10;

fn in_milliseconds(text: String) -> String {
    if text.bytes().all(|it| it.is_ascii_digit()) { format!("{text}ms") } else { text }
}

fn without_administrators(text: String) -> String {
    match text.parse::<usize>() {
        Ok(all) => all.saturating_sub(ADMINISTRATORS).max(1).to_string(),
        Err(_) => text,
    }
}
