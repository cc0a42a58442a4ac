//! SHOW CONFIG, DATABASES, USERS and PEERS.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{View, console_pool};
use super::Value;
use super::row;
use crate::config::{
    self, CONSOLE, Compatibility, Database, GLOBAL, Host, LoadBalanceHosts, PoolMode, Reload,
};
use crate::ids::{DatabaseName, UserName};
use crate::wire::encode::Column;

pub(super) const CONFIG: &[Column] =
    &[Column::text("key"), Column::text("value"), Column::text("default"), Column::text("changeable")];

pub(super) const DATABASES: &[Column] = &[
    Column::text("name"),
    Column::text("host"),
    Column::int4("port"),
    Column::text("database"),
    Column::text("force_user"),
    Column::int4("pool_size"),
    Column::int4("min_pool_size"),
    Column::int4("reserve_pool_size"),
    Column::int4("server_lifetime"),
    Column::text("pool_mode"),
    Column::text("load_balance_hosts"),
    Column::int4("max_connections"),
    Column::int4("current_connections"),
    Column::int4("max_client_connections"),
    Column::int4("current_client_connections"),
    Column::int4("paused"),
    Column::int4("disabled"),
];

pub(super) const USERS: &[Column] = &[
    Column::text("name"),
    Column::text("pool_size"),
    Column::text("reserve_pool_size"),
    Column::text("pool_mode"),
    Column::int4("max_user_connections"),
    Column::int4("current_connections"),
    Column::int4("max_user_client_connections"),
    Column::int4("current_client_connections"),
];

pub(super) const PEERS: &[Column] =
    &[Column::int4("peer_id"), Column::text("host"), Column::int4("port"), Column::int4("pool_size")];

/// The word of the configuration for a pool mode.
pub(super) fn pool_mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

/// Shown only where there is something to balance.
pub(super) fn load_balance_hosts(database: &Database) -> Option<&'static str> {
    let word = match database.load_balance_hosts {
        LoadBalanceHosts::RoundRobin => "round-robin",
        LoadBalanceHosts::Disable => "disable",
    };
    (database.hosts.len() > 1).then_some(word)
}

fn hosts(hosts: &[Host]) -> Option<String> {
    let text = |host: &Host| match host {
        Host::Name(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    (!hosts.is_empty()).then(|| hosts.iter().map(text).collect::<Vec<_>>().join(","))
}

pub(super) fn config(view: &View) -> Vec<Vec<Value>> {
    let settings = &view.config.settings;
    let default = |it: &config::Setting<_>| match settings.compatibility {
        Compatibility::PgBouncer => it.default_ini.or(it.default),
        Compatibility::Postgres => it.default,
    };
    let changeable = |reload| if reload == Reload::Restart { "no" } else { "yes" };
    // As PgBouncer: an empty text where the default is one, NULL where there is no default.
    let value = |it: &config::Setting<_>| (it.show)(settings).or_else(|| it.default.map(|_| String::new()));
    GLOBAL.iter().map(|it| row![it.name, value(it), default(it), changeable(it.reload)]).collect()
}

/// How many connections there are of each database and of each user.
#[derive(Default)]
struct Current {
    database_servers: BTreeMap<DatabaseName, usize>,
    database_clients: BTreeMap<DatabaseName, usize>,
    user_servers: BTreeMap<UserName, usize>,
    user_clients: BTreeMap<UserName, usize>,
}

fn current(view: &View) -> Current {
    let mut current = Current::default();
    for client in view.roster.clients() {
        let Some(login) = client.login() else { continue };
        *current.database_clients.entry(login.pool.database.clone()).or_default() += 1;
        *current.user_clients.entry(login.user.clone()).or_default() += 1;
    }
    for server in view.roster.servers().iter().filter(|it| it.connected.peer_process.is_none()) {
        let pool = &server.connected.pool;
        *current.database_servers.entry(pool.database.clone()).or_default() += 1;
        *current.user_servers.entry(pool.user.clone()).or_default() += 1;
    }
    current
}

pub(in crate::admin) fn database_names(view: &View) -> BTreeSet<DatabaseName> {
    let configured = view.config.databases.keys();
    let in_use = view.databases.iter().map(|it| &it.name);
    let pooled = view.pools.iter().map(|(key, _)| &key.database);
    configured.chain(in_use).chain(pooled).cloned().collect()
}

pub(super) fn databases(view: &View) -> Vec<Vec<Value>> {
    let current = current(view);
    database_names(view).iter().map(|name| database(view, &current, name)).collect()
}

fn database(view: &View, current: &Current, name: &DatabaseName) -> Vec<Value> {
    let settings = &view.config.settings;
    let console = *name == console_pool().database;
    let template = Database::default();
    let entry = view.config.database(name).filter(|_| !console).unwrap_or(&template);
    let state = view.databases.iter().find(|it| it.name == *name);
    let force_user = if console { Some(CONSOLE) } else { entry.user.as_ref().map(UserName::as_str) };
    let mode = if console { Some(PoolMode::Statement) } else { entry.pool_mode };
    let pool_size = if console { Some(2) } else { entry.pool_size };
    let lifetime = entry.server_lifetime.unwrap_or(settings.server_lifetime);
    row![
        name.as_str(),
        hosts(&entry.hosts),
        if console { settings.listen_port } else { entry.port.unwrap_or(5432) },
        entry.dbname.as_deref().unwrap_or(name.as_str()),
        force_user,
        pool_size.unwrap_or(settings.default_pool_size),
        entry.min_pool_size.unwrap_or(settings.min_pool_size),
        entry.reserve_pool_size.unwrap_or(settings.reserve_pool_size),
        lifetime.as_secs(),
        mode.map(pool_mode),
        load_balance_hosts(entry),
        view.config.max_db_connections(name),
        current.database_servers.get(name).copied().unwrap_or(0),
        view.config.max_db_client_connections(name),
        current.database_clients.get(name).copied().unwrap_or(0),
        state.is_some_and(|it| it.paused),
        state.map_or(entry.disabled, |it| it.disabled),
    ]
}

pub(in crate::admin) fn user_names(view: &View) -> BTreeSet<UserName> {
    let config = &view.config;
    let mut names: BTreeSet<UserName> = config.secrets.keys().chain(config.users.keys()).cloned().collect();
    names.insert(CONSOLE.into());
    names.extend(config.settings.auth_user.clone());
    let entries = config.databases.values().chain(&config.any_database);
    names.extend(entries.flat_map(|it| [it.user.clone(), it.auth_user.clone()]).flatten());
    // Those whom only `auth_query` knows are users once they have logged in.
    names.extend(view.roster.clients().iter().filter_map(|it| it.login().map(|login| login.user.clone())));
    names.extend(view.pools.iter().map(|(key, _)| key.user.clone()));
    names
}

pub(super) fn users(view: &View) -> Vec<Vec<Value>> {
    let current = current(view);
    let size = |size: Option<usize>| size.map(|it| format!("{it:>9}")).unwrap_or_default();
    let row = |name: &UserName| {
        let user = view.config.users.get(name).unwrap_or(&config::User::NONE);
        row![
            name.as_str(),
            size(user.pool_size),
            size(user.reserve_pool_size),
            user.pool_mode.map(pool_mode),
            view.config.max_user_connections(name),
            current.user_servers.get(name).copied().unwrap_or(0),
            view.config.max_user_client_connections(name),
            current.user_clients.get(name).copied().unwrap_or(0),
        ]
    };
    user_names(view).iter().map(row).collect()
}

pub(super) fn peers(view: &View) -> Vec<Vec<Value>> {
    let default = view.config.settings.default_pool_size;
    let row = |(id, peer): (&u16, &config::Peer)| {
        row![*id, hosts(std::slice::from_ref(&peer.host)), peer.port, peer.pool_size.unwrap_or(default)]
    };
    view.config.peers.iter().map(row).collect()
}
