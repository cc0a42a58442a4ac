//! SHOW POOLS and PEER_POOLS.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::{View, console_pool};
use super::Value;
use super::config::{load_balance_hosts, pool_mode};
use super::row;
use crate::config::PoolMode;
use crate::ids::{PeerId, PoolKey};
use crate::stats::{CancelOf, ClientEntry, ClientState, PoolStats, ServerEntry, ServerState};
use crate::wire::encode::Column;

pub(super) const POOLS: &[Column] = &[
    Column::text("database"),
    Column::text("user"),
    Column::int4("cl_active"),
    Column::int4("cl_waiting"),
    Column::int4("cl_active_cancel_req"),
    Column::int4("cl_waiting_cancel_req"),
    Column::int4("sv_active"),
    Column::int4("sv_active_cancel"),
    Column::int4("sv_being_canceled"),
    Column::int4("sv_idle"),
    Column::int4("sv_used"),
    Column::int4("sv_tested"),
    Column::int4("sv_login"),
    Column::int4("maxwait"),
    Column::int4("maxwait_us"),
    Column::text("pool_mode"),
    Column::text("load_balance_hosts"),
];

pub(super) const PEER_POOLS: &[Column] = &[
    Column::int4("peer_id"),
    Column::int4("cl_active_cancel_req"),
    Column::int4("cl_waiting_cancel_req"),
    Column::int4("sv_active_cancel"),
    Column::int4("sv_login"),
];

/// How many connections of a pool are in which state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::admin) struct PoolCounts {
    clients: [u32; ClientState::ALL.len()],
    servers: [u32; ServerState::ALL.len()],
    /// How long the client that waits longest has been waiting.
    pub(in crate::admin) max_wait_us: u64,
    /// The names that clients have given to prepared statements; `None`: no client has logged in.
    pub(in crate::admin) prepared: Option<u64>,
}

impl PoolCounts {
    pub(in crate::admin) fn clients(&self, state: ClientState) -> u32 {
        self.clients[state as usize]
    }

    pub(in crate::admin) fn servers(&self, state: ServerState) -> u32 {
        self.servers[state as usize]
    }
}

/// Every pool with what the roster says of it, by database and user.
pub(in crate::admin) fn pool_counts(view: &View) -> BTreeMap<PoolKey, PoolCounts> {
    let with_logins = |stats: &PoolStats| {
        let mut counts = PoolCounts::default();
        counts.servers[ServerState::Login as usize] = stats.logging_in();
        counts
    };
    let mut pools: BTreeMap<PoolKey, PoolCounts> =
        view.pools.iter().map(|(key, stats)| (key.clone(), with_logins(stats))).collect();
    for client in view.roster.clients() {
        let pool = match (client.login(), client.cancel_of()) {
            (Some(login), _) => &login.pool,
            (None, Some(CancelOf::Pool(pool))) => pool,
            (None, Some(CancelOf::Peer(_)) | None) => continue,
        };
        let pool = pools.entry(pool.clone()).or_default();
        pool.clients[client.state() as usize] += 1;
        if client.login().is_some() {
            *pool.prepared.get_or_insert_default() += u64::from(client.prepared());
        }
        if client.state() == ClientState::Waiting {
            let waited = client.query_since_us().map_or(0, |since| view.now_us().saturating_sub(since));
            pool.max_wait_us = pool.max_wait_us.max(waited);
        }
    }
    for server in view.roster.servers().iter().filter(|it| it.connected.peer_process.is_none()) {
        pools.entry(server.connected.pool.clone()).or_default().servers[server.state() as usize] += 1;
    }
    pools
}

pub(super) fn pools(view: &View) -> Vec<Vec<Value>> {
    pool_counts(view).iter().map(|(key, counts)| pool(view, key, counts)).collect()
}

pub(super) fn peer_pools(view: &View) -> Vec<Vec<Value>> {
    let (clients, servers) = (view.roster.clients(), view.roster.servers());
    let row = |id: &PeerId| {
        let requests = |state| {
            let is =
                |it: &&Arc<ClientEntry>| it.cancel_of() == Some(&CancelOf::Peer(*id)) && it.state() == state;
            clients.iter().filter(is).count()
        };
        let carrying = |state| {
            let is = |it: &&Arc<ServerEntry>| it.connected.peer_process == Some(*id) && it.state() == state;
            servers.iter().filter(is).count()
        };
        row![
            id.0,
            requests(ClientState::ActiveCancelRequest),
            requests(ClientState::WaitingCancelRequest),
            carrying(ServerState::ActiveCancel),
            carrying(ServerState::Login),
        ]
    };
    view.peer_pools.iter().map(row).collect()
}

fn pool(view: &View, key: &PoolKey, counts: &PoolCounts) -> Vec<Value> {
    let mode = if *key == console_pool() { PoolMode::Statement } else { view.config.pool_settings(key).mode };
    row![
        key.database.as_str(),
        key.user.as_str(),
        counts.clients(ClientState::Active),
        counts.clients(ClientState::Waiting),
        counts.clients(ClientState::ActiveCancelRequest),
        counts.clients(ClientState::WaitingCancelRequest),
        counts.servers(ServerState::Active),
        counts.servers(ServerState::ActiveCancel),
        counts.servers(ServerState::BeingCanceled),
        counts.servers(ServerState::Idle),
        counts.servers(ServerState::Used),
        counts.servers(ServerState::Tested),
        counts.servers(ServerState::Login),
        counts.max_wait_us / 1_000_000,
        counts.max_wait_us % 1_000_000,
        pool_mode(mode),
        view.config.database(&key.database).and_then(load_balance_hosts),
    ]
}
