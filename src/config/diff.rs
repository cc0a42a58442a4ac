//! The difference between two configurations, as what a reload has to do.

use std::collections::BTreeMap;

use crate::ids::{DatabaseName, UserName};

use super::settings::{GLOBAL, Reload};
use super::{Config, Database};

/// How an entry of `[databases]` differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone: its clients and servers must go.
    Removed,
    /// Its servers were connected otherwise than new ones would be: each is closed when it is next free.
    Recycle,
    /// Limits and times are different; they hold at once.
    Live,
}

/// What a reload changes, as far as more must be done for it than to put the new configuration in force.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ReloadPlan {
    /// Global settings whose change holds for connections made from now on.
    pub new_connections: Vec<&'static str>,
    /// Global settings that differ in the file, and stay as they are until the program starts next.
    pub needs_restart: Vec<&'static str>,
    /// Entries of `[databases]`.
    pub databases: BTreeMap<DatabaseName, Change>,
    /// The entry `*`.
    pub any_database: Option<Change>,
    /// Users whose secret changed, came or went.
    pub secrets: Vec<UserName>,
}

impl ReloadPlan {
    /// Whether TLS towards servers changed, so that all servers must be connected anew.
    pub fn server_tls(&self) -> bool {
        self.new_connections.iter().any(|name| name.starts_with("server_tls"))
    }
}

/// What must be done to go from one to the other.
pub fn diff(old: &Config, new: &Config) -> ReloadPlan {
    let mut plan = ReloadPlan::default();
    for row in GLOBAL.iter().filter(|row| !(row.same)(&old.settings, &new.settings)) {
        match row.reload {
            // Whoever needs one asks for it anew.
            Reload::Live => {}
            Reload::NewConnections => plan.new_connections.push(row.name),
            Reload::Restart => plan.needs_restart.push(row.name),
        }
    }
    for name in union(&old.databases, &new.databases) {
        let (before, now) = (old.databases.get(&name), new.databases.get(&name));
        let change = match (before, now, &old.any_database) {
            // Its servers were connected as the entry `*` says.
            (None, Some(now), Some(any)) if !connects_alike(&name, any, now) => Some(Change::Recycle),
            _ => change(&name, before, now),
        };
        plan.databases.extend(change.map(|change| (name, change)));
    }
    let any = DatabaseName::from("*");
    plan.any_database = change(&any, old.any_database.as_ref(), new.any_database.as_ref());
    plan.secrets = union(&old.secrets, &new.secrets);
    plan.secrets.retain(|name| old.secrets.get(name) != new.secrets.get(name));
    plan
}

fn union<K: Ord + Clone, V>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> Vec<K> {
    let new = b.keys().filter(|name| !a.contains_key(name));
    a.keys().chain(new).cloned().collect()
}

fn change(name: &DatabaseName, old: Option<&Database>, new: Option<&Database>) -> Option<Change> {
    match (old, new) {
        (None, None) => None,
        (None, Some(_)) => Some(Change::Added),
        (Some(_), None) => Some(Change::Removed),
        (Some(old), Some(new)) if old == new => None,
        (Some(old), Some(new)) if connects_alike(name, old, new) => Some(Change::Live),
        (Some(_), Some(_)) => Some(Change::Recycle),
    }
}

/// Whether, for the database of this name, servers of the one could be servers of the other. A new password alone does
/// not matter to a server that is logged in already, as in PgBouncer.
fn connects_alike(name: &DatabaseName, old: &Database, new: &Database) -> bool {
    let dbname = |it: &Database| it.dbname.clone().unwrap_or_else(|| name.to_string());
    dbname(old) == dbname(new)
        && old.hosts == new.hosts
        && old.port.unwrap_or(5432) == new.port.unwrap_or(5432)
        && old.user == new.user
        && old.schema == new.schema
        && old.connect_query == new.connect_query
        && old.auth_dbname == new.auth_dbname
        && old.auth_query == new.auth_query
        && old.load_balance_hosts == new.load_balance_hosts
        && old.startup().eq(new.startup())
}
