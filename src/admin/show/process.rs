//! SHOW VERSION, HELP, STATE, LISTS, MEM, FDS, DNS_HOSTS and DNS_ZONES.

use std::net::SocketAddr;

use super::super::{self as admin, Activity, View};
use super::Value;
use super::config::{database_names, user_names};
use super::row;
use crate::net::KnownName;
use crate::stats::{Cell, ClientEntry, ClientState, ServerEntry};
use crate::wire::Report;
use crate::wire::encode::Column;

pub(super) const VERSION: &[Column] = &[Column::text("version")];
pub(super) const STATE: &[Column] = &[Column::text("key"), Column::text("value")];
pub(super) const LISTS: &[Column] = &[Column::text("list"), Column::int4("items")];
pub(super) const MEM: &[Column] = &[
    Column::text("name"),
    Column::int4("size"),
    Column::int4("used"),
    Column::int4("free"),
    Column::int4("memtotal"),
];
pub(super) const DNS_HOSTS: &[Column] =
    &[Column::text("hostname"), Column::int8("ttl"), Column::text("addrs")];
pub(super) const DNS_ZONES: &[Column] =
    &[Column::text("zonename"), Column::int8("serial"), Column::int4("count")];
pub(super) const FDS: &[Column] = &[
    Column::int4("fd"),
    Column::text("task"),
    Column::text("user"),
    Column::text("database"),
    Column::text("addr"),
    Column::int4("port"),
    Column::int8("cancel"),
    Column::int4("link"),
    Column::text("client_encoding"),
    Column::text("std_strings"),
    Column::text("datestyle"),
    Column::text("timezone"),
    Column::text("password"),
    Column::bytea("scram_client_key"),
    Column::bytea("scram_server_key"),
];

/// [`FDS`], and what only another pgweir makes use of.
pub(super) const HANDOVER: &[Column] = &[
    FDS[0],
    FDS[1],
    FDS[2],
    FDS[3],
    FDS[4],
    FDS[5],
    FDS[6],
    FDS[7],
    FDS[8],
    FDS[9],
    FDS[10],
    FDS[11],
    FDS[12],
    FDS[13],
    FDS[14],
    Column::bytea("state"),
];

/// A table without rows: sockets come one by one.
pub(super) fn nothing(_view: &View) -> Vec<Vec<Value>> {
    Vec::new()
}

/// Names of servers that were looked up; `ttl` is what is left of it, in seconds.
pub(super) fn dns_hosts(view: &View) -> Vec<Vec<Value>> {
    let row = |it: KnownName| {
        // PgBouncer prints the port of an address too, which is none here.
        let addresses: Vec<_> = it.addresses.iter().map(|ip| SocketAddr::new(*ip, 0).to_string()).collect();
        row![it.name, it.left.as_secs(), addresses.join(",")]
    };
    view.names.names().into_iter().map(row).collect()
}

pub(super) fn dns_zones(view: &View) -> Vec<Vec<Value>> {
    view.names.zones().into_iter().map(|it| row![it.name, it.serial, it.names]).collect()
}

/// What SHOW HELP says, in PgBouncer's layout.
pub fn help() -> Report {
    const COMMANDS: &str = "\n\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION\n\
        \tSHOW PEERS|PEER_POOLS\n\
        \tSHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE\n\
        \tSHOW DNS_HOSTS|DNS_ZONES\n\
        \tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS\n\
        \tSET key = arg\n\
        \tRELOAD\n\
        \tPAUSE [<db>]\n\
        \tRESUME [<db>]\n\
        \tDISABLE <db>\n\
        \tENABLE <db>\n\
        \tRECONNECT [<db>]\n\
        \tKILL [<db>]\n\
        \tKILL_CLIENT <client_id>\n\
        \tSUSPEND\n\
        \tSHUTDOWN\n\
        \tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS\n\
        \tWAIT_CLOSE [<db>]";
    Report::notice("Console usage").detail(COMMANDS)
}

pub(super) fn version(_view: &View) -> Vec<Vec<Value>> {
    vec![row![admin::VERSION]]
}

pub(super) fn state(view: &View) -> Vec<Vec<Value>> {
    [("active", Activity::Active), ("paused", Activity::Paused), ("suspended", Activity::Suspended)]
        .into_iter()
        .map(|(key, activity)| row![key, if view.activity == activity { "yes" } else { "no" }])
        .collect()
}

/// The rows of SHOW LISTS.
pub(in crate::admin) fn list_items(view: &View) -> Vec<(&'static str, usize)> {
    let clients = view.roster.clients();
    vec![
        ("databases", database_names(view).len()),
        ("users", user_names(view).len()),
        ("peers", view.config.peers.len()),
        ("pools", view.pools.len()),
        ("peer_pools", view.peer_pools.len()),
        // PgBouncer keeps the memory of closed connections; here there is none to count.
        ("free_clients", 0),
        ("used_clients", clients.len()),
        ("login_clients", clients.iter().filter(|it| it.state() == ClientState::Login).count()),
        ("free_servers", 0),
        ("used_servers", view.roster.server_count()),
        ("dns_names", view.names.names().len()),
        ("dns_zones", view.names.zones().len()),
        ("dns_queries", view.names.asking()),
        ("dns_pending", 0),
    ]
}

pub(super) fn lists(view: &View) -> Vec<Vec<Value>> {
    list_items(view).into_iter().map(|(list, items)| row![list, items]).collect()
}

/// What is kept for each client, server and pool; buffers are not in it, for nobody owns one while idle.
pub(super) fn mem(view: &View) -> Vec<Vec<Value>> {
    [
        ("client_cache", size_of::<ClientEntry>(), view.roster.client_count()),
        ("server_cache", size_of::<ServerEntry>(), view.roster.server_count()),
        ("pool_cache", size_of::<Cell>(), view.pools.len()),
    ]
    .into_iter()
    .map(|(name, size, used)| row![name, size, used, 0, size * used])
    .collect()
}
