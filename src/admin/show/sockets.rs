//! SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS.

use super::super::{View, local_time};
use super::Value;
use super::row;
use crate::stats::{Address, ClientEntry, ClientState, ServerEntry, ServerState};
use crate::wire::encode::Column;

/// Those of CLIENTS and SERVERS: all but the last seven.
pub(super) const CONNECTIONS: &[Column] = SOCKETS.first_chunk::<21>().expect("there are 28");
pub(super) const SOCKETS: &[Column] = &[
    Column::text("type"),
    Column::text("user"),
    Column::text("database"),
    Column::text("replication"),
    Column::text("state"),
    Column::text("addr"),
    Column::int4("port"),
    Column::text("local_addr"),
    Column::int4("local_port"),
    Column::text("connect_time"),
    Column::text("request_time"),
    Column::int4("wait"),
    Column::int4("wait_us"),
    Column::int4("close_needed"),
    Column::text("ptr"),
    Column::text("link"),
    Column::int4("remote_pid"),
    Column::text("tls"),
    Column::text("application_name"),
    Column::int4("prepared_statements"),
    Column::int4("id"),
    Column::int4("recv_pos"),
    Column::int4("pkt_pos"),
    Column::int4("pkt_remain"),
    Column::int4("send_pos"),
    Column::int4("send_remain"),
    Column::int4("pkt_avail"),
    Column::int4("send_avail"),
];

pub(super) fn clients(view: &View) -> Vec<Vec<Value>> {
    let clients = view.roster.clients();
    clients
        .iter()
        .filter(|it| it.state() != ClientState::Login)
        .map(|it| client(view, it, client_state(it)))
        .collect()
}

pub(super) fn servers(view: &View) -> Vec<Vec<Value>> {
    view.roster.servers().iter().map(|it| server(view, it, server_state(it))).collect()
}

pub(super) fn sockets(view: &View) -> Vec<Vec<Value>> {
    all_sockets(view, |_| true)
}

pub(super) fn active_sockets(view: &View) -> Vec<Vec<Value>> {
    all_sockets(view, |buffered| buffered > 0)
}

fn all_sockets(view: &View, shown: impl Fn(u32) -> bool) -> Vec<Vec<Value>> {
    let with_buffers = |mut row: Vec<Value>, buffered: u32| {
        row.extend(row![0, 0, 0, 0, 0, buffered, 0]);
        row
    };
    let mut rows = Vec::new();
    for it in view.roster.clients().iter().filter(|it| shown(it.buffered())) {
        let state = match it.state() {
            ClientState::Login => "cl_login",
            ClientState::Active => "cl_active",
            ClientState::Waiting => "cl_waiting",
            ClientState::ActiveCancelRequest | ClientState::WaitingCancelRequest => continue,
        };
        rows.push(with_buffers(client(view, it, state), it.buffered()));
    }
    for it in view.roster.servers().iter().filter(|it| shown(it.buffered())) {
        let state = match it.state() {
            ServerState::Login => "sv_login",
            ServerState::Active => "sv_active",
            ServerState::Idle => "sv_idle",
            ServerState::Used => "sv_used",
            ServerState::Tested => "sv_tested",
            ServerState::ActiveCancel | ServerState::BeingCanceled => continue,
        };
        rows.push(with_buffers(server(view, it, state), it.buffered()));
    }
    rows
}

pub(in crate::admin) fn client_state(entry: &ClientEntry) -> &'static str {
    match entry.state() {
        ClientState::Login => "login",
        ClientState::Active if entry.link().is_none() => "idle",
        ClientState::Active => "active",
        ClientState::Waiting => "waiting",
        ClientState::ActiveCancelRequest => "active_cancel_req",
        ClientState::WaitingCancelRequest => "waiting_cancel_req",
    }
}

fn server_state(entry: &ServerEntry) -> &'static str {
    match entry.state() {
        ServerState::Login => "new",
        ServerState::Active if entry.link().is_none() => "idle",
        ServerState::Active => "active",
        ServerState::Idle => "idle",
        ServerState::Used => "used",
        ServerState::Tested => "tested",
        ServerState::ActiveCancel => "active_cancel",
        ServerState::BeingCanceled => "being_canceled",
    }
}

/// What the two kinds of connections have in common.
struct Common {
    kind: &'static str,
    user: String,
    database: String,
    replication: &'static str,
    state: &'static str,
    connected_us: u64,
    request_us: u64,
    query_since_us: Option<u64>,
    close_needed: bool,
    id: u64,
    link: Option<u64>,
    remote_pid: u32,
    tls: String,
    application_name: String,
    prepared: u32,
}

fn client(view: &View, entry: &ClientEntry, state: &'static str) -> Vec<Value> {
    let login = entry.login();
    let common = Common {
        kind: "C",
        user: entry.user_name().to_owned(),
        database: entry.database_name().to_owned(),
        replication: login.map(|it| it.replication).unwrap_or_default().text(),
        state,
        connected_us: entry.connected_us(),
        request_us: entry.request_us(),
        query_since_us: entry.query_since_us(),
        close_needed: entry.close_needed(),
        id: entry.id().0,
        link: entry.link().map(|it| it.0),
        remote_pid: entry.connected.peer.pid().unwrap_or(0),
        tls: login.and_then(|it| it.tls.as_deref()).unwrap_or_default().to_owned(),
        application_name: entry.application_name().as_deref().unwrap_or_default().to_owned(),
        prepared: entry.prepared(),
    };
    connection(view, common, &entry.connected.peer, &entry.connected.local)
}

fn server(view: &View, entry: &ServerEntry, state: &'static str) -> Vec<Value> {
    let facts = &entry.connected;
    let common = Common {
        kind: "S",
        user: facts.pool.user.to_string(),
        database: facts.pool.database.to_string(),
        replication: facts.replication.text(),
        state,
        connected_us: entry.connected_us(),
        request_us: entry.request_us(),
        query_since_us: entry.query_since_us(),
        close_needed: entry.close_needed(),
        id: entry.id().0,
        link: entry.link().map(|it| it.0),
        remote_pid: entry.pid(),
        tls: facts.tls.as_deref().unwrap_or_default().to_owned(),
        application_name: entry.application_name().as_deref().unwrap_or_default().to_owned(),
        prepared: entry.prepared(),
    };
    connection(view, common, &facts.peer, &facts.local)
}

fn connection(view: &View, it: Common, peer: &Address, local: &Address) -> Vec<Value> {
    let wait = it.query_since_us.map_or(0, |since| view.now_us().saturating_sub(since));
    row![
        it.kind,
        it.user,
        it.database,
        it.replication,
        it.state,
        peer.host(),
        peer.port(),
        local.host(),
        local.port(),
        local_time(view.roster.wall(it.connected_us)),
        local_time(view.roster.wall(it.request_us)),
        wait / 1_000_000,
        wait % 1_000_000,
        it.close_needed,
        pointer(it.id),
        it.link.map(pointer).unwrap_or_default(),
        it.remote_pid,
        it.tls,
        it.application_name,
        it.prepared,
        it.id,
    ]
}

/// PgBouncer shows addresses in memory, by which a client and its server can be brought together; so do ids.
fn pointer(id: u64) -> String {
    format!("{id:#x}")
}
