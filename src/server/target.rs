//! Where a new connection goes, and as whom: an entry of `[databases]` resolved for one pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::auth::Credentials;
use crate::config::{Config, Database, Host, LoadBalanceHosts};
use crate::ids::PoolKey;
use crate::session::params::Values;
use crate::stats::Replication;

/// PostgreSQL's own port.
const PORT: u16 = 5432;

/// All that is needed to open a connection for a pool.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pool that asks.
    pub pool: PoolKey,
    /// Where the server is.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// The server's own name of the database.
    pub dbname: String,
    /// Further parameters of the start-up message.
    pub startup: Vec<(String, String)>,
    /// What we prove to be the pool's user with.
    pub credentials: Credentials,
    /// Run after the login; its errors are logged only.
    pub connect_query: Option<String>,
    /// Time for everything up to the end of the login; zero: no limit.
    pub timeout: Duration,
    /// `log_connections`.
    pub log_connections: bool,
    /// `log_disconnections`: an attempt that fails is logged as the end of a connection.
    pub log_disconnections: bool,
    /// For which kind of client.
    pub replication: Replication,
    /// What the pool's other servers report, shared by those that report the same.
    pub welcome: Option<Arc<Values>>,
}

impl Target {
    /// What the configuration says for a pool. `None`: its database has no entry any more, or there is no host.
    pub fn of(
        config: &Config,
        pool: &PoolKey,
        rotation: &Rotation,
        credentials: Credentials,
    ) -> Option<Self> {
        let entry = config.database(&pool.database)?;
        let host = match entry.hosts.as_slice() {
            [] => Host::Unix(config.settings.unix_socket_dir.clone()?),
            hosts => rotation.pick(hosts, entry.load_balance_hosts)?.clone(),
        };
        Some(Self {
            host,
            port: entry.port.unwrap_or(PORT),
            dbname: config.server_dbname(&pool.database).to_owned(),
            startup: startup_parameters(entry),
            credentials,
            connect_query: entry.connect_query.clone(),
            timeout: config.settings.server_connect_timeout,
            log_connections: config.settings.log_connections,
            log_disconnections: config.settings.log_disconnections,
            replication: Replication::None,
            welcome: None,
            pool: pool.clone(),
        })
    }

    /// The same for a replication client's own server. What the client asks for goes into the start-up message: a
    /// physical replication connection takes no SET.
    #[must_use]
    pub fn for_replication(mut self, start: &ReplicationStart) -> Self {
        self.replication = start.kind;
        self.startup.push(("replication".to_owned(), start.kind.startup_value().to_owned()));
        self.startup.extend(start.parameters.iter().cloned());
        if start.kind == Replication::Physical {
            // It takes no SQL.
            self.connect_query = None;
        }
        self
    }

    /// Where the server is, as far as that is known before its name has been looked up.
    pub fn place(&self) -> String {
        match &self.host {
            Host::Name(name) if name.contains(':') => format!("[{name}]:{}", self.port),
            Host::Name(name) => format!("{name}:{}", self.port),
            Host::Unix(_) => format!("unix:{}", self.port),
        }
    }

    /// The host's name, for a certificate to match and for logs.
    pub fn host_name(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::Unix(dir) => dir.display().to_string(),
        }
    }
}

/// What a replication client asks of the server connection that is opened for it alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicationStart {
    /// `replication=database` or `replication=true`.
    pub kind: Replication,
    /// The client's own parameters for the start-up message, `options` as it came among them.
    pub parameters: Vec<(String, String)>,
}

fn startup_parameters(entry: &Database) -> Vec<(String, String)> {
    let schema = entry.schema.as_deref().map(search_path);
    let parameters = [
        ("search_path", schema.as_deref()),
        ("client_encoding", entry.client_encoding.as_deref()),
        ("datestyle", entry.datestyle.as_deref()),
        ("timezone", entry.timezone.as_deref()),
        ("application_name", entry.application_name.as_deref()),
    ];
    let given = parameters.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    given.collect()
}

/// One schema is meant as it is spelled, so it is quoted where SQL would read it otherwise. What is a list, or quoted
/// already, is left alone.
fn search_path(schema: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let begins_well = schema.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if schema.contains([',', '"']) || (begins_well && schema.chars().all(is_plain)) {
        schema.to_owned()
    } else {
        format!("\"{schema}\"")
    }
}

/// Whose turn it is among the hosts of a database entry. One for each pool.
#[derive(Debug, Default)]
pub struct Rotation(AtomicUsize);

impl Rotation {
    /// The host for the next connection; `None` of none.
    pub fn pick<'a>(&self, hosts: &'a [Host], order: LoadBalanceHosts) -> Option<&'a Host> {
        let turn = match order {
            LoadBalanceHosts::RoundRobin => self.0.fetch_add(1, Ordering::Relaxed),
            LoadBalanceHosts::Disable => self.0.load(Ordering::Relaxed),
        };
        hosts.get(turn % hosts.len().max(1))
    }

    /// A connection to the last pick failed: where hosts are not taken in turn, the next one is now the one.
    pub fn on_failure(&self, order: LoadBalanceHosts) {
        if order == LoadBalanceHosts::Disable {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DatabaseName, UserName};

    #[test]
    fn a_schema_is_meant_as_it_is_spelled() {
        for (schema, expected) in [
            ("auth", "auth"),
            ("Auth", "\"Auth\""),
            ("my schema", "\"my schema\""),
            ("2nd", "\"2nd\""),
            ("auth, public", "auth, public"),
            ("\"Auth\"", "\"Auth\""),
            ("$user", "\"$user\""),
        ] {
            assert_eq!(search_path(schema), expected);
        }
    }

    #[test]
    fn hosts_take_turns_or_stay_until_one_fails() {
        let hosts: Vec<_> = ["a", "b", "c"].map(|name| Host::Name(name.into())).into();
        let name = |rotation: &Rotation, order| match rotation.pick(&hosts, order) {
            Some(Host::Name(name)) => name.clone(),
            _ => panic!("no host"),
        };
        let turning = Rotation::default();
        let order = LoadBalanceHosts::RoundRobin;
        assert_eq!([0; 4].map(|_| name(&turning, order)), ["a", "b", "c", "a"]);
        let staying = Rotation::default();
        let order = LoadBalanceHosts::Disable;
        assert_eq!([0; 2].map(|_| name(&staying, order)), ["a", "a"]);
        staying.on_failure(order);
        assert_eq!([0; 2].map(|_| name(&staying, order)), ["b", "b"]);
        assert!(turning.pick(&[], order).is_none());
    }

    #[test]
    fn an_entry_is_resolved_for_its_pool() {
        let mut config = Config::default();
        let entry = Database {
            schema: Some("auth".into()),
            timezone: Some("UTC".into()),
            port: Some(5433),
            ..Database::default()
        };
        config.databases.insert(DatabaseName::from("app"), entry);
        config.settings.unix_socket_dir = Some("/run/postgresql".into());
        let pool = PoolKey { database: DatabaseName::from("app"), user: UserName::from("u") };
        let target = Target::of(&config, &pool, &Rotation::default(), Credentials::default()).unwrap();
        assert_eq!((target.dbname.as_str(), target.port), ("app", 5433));
        assert_eq!(target.host, Host::Unix("/run/postgresql".into()));
        let startup: Vec<_> = target.startup.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(startup, [("search_path", "auth"), ("timezone", "UTC")]);
        let gone = PoolKey { database: DatabaseName::from("gone"), ..pool };
        assert!(Target::of(&config, &gone, &Rotation::default(), Credentials::default()).is_none());
    }
}
