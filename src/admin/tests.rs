//! The console as clients see it: over tokio-postgres where that suffices, else message by message.

use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;
use tokio_postgres::SimpleQueryMessage;

use super::console::{Access, Session, serve};
use super::show::Topic;
use super::*;
use crate::config::Database;
use crate::ids::{ClientId, PeerId, ServerId, WorkerId};
use crate::stats::{
    Address, ClientConnected, ClientLogin, ClientSeat, ClientState, Disconnect, Replication, ServerConnected,
    ServerSeat, ServerState,
};
use crate::wire::{CancelKey, SqlState, encode};

/// A process with one database, one pool, one waiting client and one busy server.
struct Process {
    config: Mutex<Arc<Config>>,
    roster: Arc<Roster>,
    pool: (PoolKey, Arc<PoolStats>),
    not_ready: Mutex<Option<String>>,
}

impl Source for Process {
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock())
    }

    fn sockets(self: Arc<Self>, _audience: Audience) -> mpsc::Receiver<SocketRow> {
        mpsc::channel(1).1
    }

    fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster)
    }

    fn pools(&self) -> Vec<(PoolKey, Arc<PoolStats>)> {
        vec![(self.pool.0.clone(), Arc::clone(&self.pool.1))]
    }

    fn databases(&self) -> Vec<DatabaseState> {
        vec![DatabaseState { name: "shop".into(), paused: true, disabled: false }]
    }

    fn peer_pools(&self) -> Vec<PeerId> {
        vec![PeerId(7)]
    }

    fn names(&self) -> Names {
        Names::default()
    }

    fn activity(&self) -> Activity {
        Activity::Paused
    }

    fn ready(&self) -> Result<(), String> {
        self.not_ready.lock().clone().map_or(Ok(()), Err)
    }

    fn workers_at_work(&self) -> u32 {
        1
    }

    fn certificates(&self) -> Vec<Certificate> {
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        vec![Certificate { setting: "client_tls_cert_file", expires }]
    }
}

struct World {
    admin: Arc<Admin>,
    process: Arc<Process>,
    orders: mpsc::UnboundedReceiver<Request>,
    client: ClientSeat,
    _server: ServerSeat,
}

fn tcp(port: u16) -> Address {
    Address::Tcp(([127, 0, 0, 1], port).into())
}

fn seat(roster: &Arc<Roster>, id: u64, user: &str, pool: PoolKey) -> ClientSeat {
    let connected =
        ClientConnected { id: ClientId(id), worker: WorkerId(0), peer: tcp(5000), local: tcp(6432) };
    let client = roster.client(connected, Instant::now());
    client.logged_in(ClientLogin { user: user.into(), pool, replication: Replication::None, tls: None });
    client
}

fn world() -> World {
    let roster = Roster::new(Instant::now(), SystemTime::now());
    let key = PoolKey { database: "shop".into(), user: "alice".into() };
    let stats = Arc::new(PoolStats::new(1, Instant::now()));
    stats.cell(WorkerId(0)).query_done(Duration::from_millis(2));
    stats.cell(WorkerId(0)).assigned(Duration::from_millis(70));
    let mut config = Config::default();
    config
        .databases
        .insert("shop".into(), Database { dbname: Some("shop_db".into()), ..Database::default() });

    let client = seat(&roster, 1, "alice", key.clone());
    client.set_state(ClientState::Waiting);
    client.request_started(roster.micros(Instant::now()));
    let connected = ServerConnected {
        id: ServerId(2),
        pool: key.clone(),
        peer_process: None,
        peer: tcp(5432),
        local: tcp(40000),
        replication: Replication::None,
        tls: Some("TLSv1.3/TLS_AES_256_GCM_SHA384".into()),
    };
    let server = roster.server(connected, Instant::now());
    server.set_state(ServerState::Active);
    server.set_link(Some(ClientId(1)));

    let process = Arc::new(Process {
        config: Mutex::new(Arc::new(config)),
        roster,
        pool: (key, stats),
        not_ready: Mutex::new(None),
    });
    let (sender, orders) = mpsc::unbounded_channel();
    let admin = Admin::new(Arc::clone(&process) as Arc<dyn Source>, sender, 1);
    World { admin, process, orders, client, _server: server }
}

/// A console session, the far end of its stream, and what cancels its commands.
struct Client {
    stream: DuplexStream,
    seat: ClientSeat,
    cancel: Arc<Notify>,
}

fn connect(world: &World, access: Access) -> Client {
    let seat = seat(&world.process.roster, 9, "root", console_pool());
    let (near, stream) = tokio::io::duplex(1024);
    let cancel = Arc::new(Notify::new());
    let key = CancelKey::new(7, b"1234").expect("a key of four bytes");
    let session = Session {
        entry: Arc::clone(seat.entry()),
        worker: WorkerId(0),
        access,
        key,
        cancel: Arc::clone(&cancel),
        passer: None,
    };
    let admin = Arc::clone(&world.admin);
    tokio::spawn(async move { serve(&admin, near, BytesMut::new(), session).await });
    Client { stream, seat, cancel }
}

/// tokio-postgres insists on logging in: this plays what has happened before [`serve`].
async fn driver(world: &World) -> (tokio_postgres::Client, ClientSeat) {
    let Client { mut stream, seat, .. } = connect(world, Access::Admin);
    let (near, mut far) = tokio::io::duplex(1024);
    tokio::spawn(async move {
        let length = far.read_u32().await.expect("a start-up packet");
        let mut rest = vec![0; length as usize - 4];
        far.read_exact(&mut rest).await.expect("all of it");
        let mut out = BytesMut::new();
        encode::authentication_ok(&mut out);
        far.write_all(&out).await.expect("the driver listens");
        let _ = tokio::io::copy_bidirectional(&mut far, &mut stream).await;
    });
    let mut config = tokio_postgres::Config::new();
    config.user("root").dbname("pgbouncer");
    let (client, connection) = config.connect_raw(near, tokio_postgres::NoTls).await.expect("a login");
    tokio::spawn(connection);
    (client, seat)
}

impl Client {
    async fn send(&mut self, message: &[u8]) {
        self.stream.write_all(message).await.expect("the console listens");
    }

    async fn query(&mut self, sql: &str) {
        let mut out = BytesMut::new();
        encode::query(&mut out, sql);
        self.send(&out).await;
    }

    /// Messages up to the next ReadyForQuery, or to the end: tags, and the bodies of errors as reports.
    async fn answers(&mut self) -> (String, Vec<Report>) {
        let (mut tags, mut errors) = (String::new(), Vec::new());
        while let Ok(tag) = self.stream.read_u8().await {
            let length = self.stream.read_u32().await.expect("a length");
            let mut body = vec![0; length as usize - 4];
            self.stream.read_exact(&mut body).await.expect("a body");
            tags.push(char::from(tag));
            match tag {
                b'E' => errors.push(Report::parse(&body).expect("a report")),
                b'Z' => break,
                _ => {}
            }
        }
        (tags, errors)
    }
}

fn rows(messages: &[SimpleQueryMessage]) -> Vec<&tokio_postgres::SimpleQueryRow> {
    messages
        .iter()
        .filter_map(|it| match it {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn every_table_is_read_by_both_query_protocols() {
    let world = world();
    let (driver, _seat) = driver(&world).await;
    for topic in Topic::TABLES.iter().filter(|it| !it.is_of_sockets()) {
        let sql = format!("SHOW {}", topic.name());
        let simple = driver.simple_query(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let extended = driver.query(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let simple = rows(&simple);
        assert_eq!(simple.len(), extended.len(), "{sql}");
        for (text, binary) in simple.iter().zip(&extended) {
            assert_eq!(text.len(), topic.columns().len(), "{sql}");
            assert_eq!(binary.columns().len(), topic.columns().len(), "{sql}");
            for column in
                binary.columns().iter().filter(|it| *it.type_() == tokio_postgres::types::Type::INT4)
            {
                let value: i32 = binary.get(column.name());
                let steady = !matches!(column.name(), "wait_us" | "maxwait_us" | "wait" | "maxwait");
                let shown = text.get(column.name()).and_then(|it| it.parse().ok());
                assert!(!steady || shown == Some(value), "{sql}: {}", column.name());
            }
        }
    }
}

#[test]
fn tables_have_as_many_columns_as_in_pgbouncer_1_25() {
    for (topic, count) in [
        (Topic::Stats, 23),
        (Topic::StatsTotals, 12),
        (Topic::StatsAverages, 12),
        (Topic::Totals, 2),
        (Topic::Pools, 17),
        (Topic::Clients, 21),
        (Topic::Servers, 21),
        (Topic::Sockets, 28),
        (Topic::ActiveSockets, 28),
        (Topic::Databases, 17),
        (Topic::Users, 8),
        (Topic::Lists, 2),
        (Topic::Config, 4),
        (Topic::Fds, 15),
    ] {
        assert_eq!(topic.columns().len(), count, "{}", topic.name());
    }
}

#[test]
fn every_row_has_a_value_for_each_column() {
    let world = world();
    let _console = seat(&world.process.roster, 3, "root", console_pool());
    let view = View::of(&world.admin);
    for topic in Topic::TABLES {
        let table = topic.table(&view);
        for row in &table.rows {
            assert_eq!(row.len(), table.columns.len(), "{}", topic.name());
        }
    }
}

#[test]
fn show_config_has_null_only_where_null_is_the_default() {
    let table = Topic::Config.table(&View::of(&world().admin));
    for (name, value, default, changeable) in [
        ("auth_file", None, None, "yes"),
        ("pidfile", Some(""), Some(""), "no"),
        ("unix_socket_mode", Some("511"), Some("0777"), "no"),
        ("server_idle_timeout", Some("600"), Some("600"), "yes"),
        ("pool_mode", Some("session"), Some("session"), "yes"),
    ] {
        let text = |it: Option<&str>| it.map_or(Value::Null, Value::from);
        let row = vec![name.into(), text(value), text(default), changeable.into()];
        assert!(table.rows.contains(&row), "{row:?} among {:?}", table.rows);
    }
}

#[tokio::test]
async fn pools_clients_and_servers_show_who_waits_for_whom() {
    let world = world();
    let (driver, _seat) = driver(&world).await;
    let pools = driver.query("SHOW POOLS", &[]).await.expect("pools");
    let shop = pools.iter().find(|it| it.get::<_, &str>("database") == "shop").expect("the pool");
    let counts = ["cl_active", "cl_waiting", "sv_active", "sv_idle"].map(|it| shop.get::<_, i32>(it));
    assert_eq!(counts, [0, 1, 1, 0]);
    assert_eq!(shop.get::<_, Option<&str>>("load_balance_hosts"), None);
    assert!(pools.iter().any(|it| it.get::<_, &str>("database") == "pgbouncer"));

    let clients = driver.query("SHOW CLIENTS", &[]).await.expect("clients");
    let states: Vec<(i32, &str)> = clients.iter().map(|it| (it.get("id"), it.get("state"))).collect();
    assert_eq!(states, [(1, "waiting"), (9, "idle")]);

    let servers = driver.query("SHOW SERVERS", &[]).await.expect("servers");
    assert_eq!((servers.len(), servers[0].get::<_, &str>("link")), (1, "0x1"));
    assert_eq!(servers[0].get::<_, &str>("tls"), "TLSv1.3/TLS_AES_256_GCM_SHA384");
}

#[tokio::test]
async fn a_command_is_counted_before_it_is_answered() {
    let world = world();
    let (driver, _seat) = driver(&world).await;
    let totals = driver.simple_query("SHOW TOTALS").await.expect("totals");
    let value = |name: &str| {
        let row = rows(&totals).into_iter().find(|it| it.get("name") == Some(name)).expect("a total");
        row.get("value").and_then(|it| it.parse::<u64>().ok())
    };
    // One in the pool, one for this very command.
    assert_eq!(value("total_query_count"), Some(2));
    assert_eq!(world.admin.stats.totals().client_login_count, 1);
}

#[tokio::test]
async fn several_statements_are_answered_up_to_the_first_that_fails() {
    let world = world();
    let mut client = connect(&world, Access::Admin);
    assert_eq!(client.answers().await.0, "SSSSSSSKZ");
    client.query("SHOW VERSION; SHOW nonsense; SHOW STATE").await;
    let (tags, errors) = client.answers().await;
    assert_eq!(tags, "TDCEZ");
    assert_eq!(errors[0].sqlstate, SqlState::SYNTAX_ERROR);
    client.query(" ; ").await;
    assert_eq!(client.answers().await.0, "IZ");
    client.query("SHOW HELP").await;
    assert_eq!(client.answers().await.0, "NCZ", "help is a notice and no table");
}

#[tokio::test]
async fn errors_have_pgbouncers_code_where_that_is_asked_for() {
    let world = world();
    let mut config = Config::clone(&world.process.config.lock());
    config.settings.compatibility = Compatibility::PgBouncer;
    *world.process.config.lock() = Arc::new(config);
    let mut client = connect(&world, Access::Admin);
    client.answers().await;
    client.query("KILL_CLIENT 77").await;
    let (_, errors) = client.answers().await;
    assert_eq!(
        (errors[0].message.as_str(), errors[0].sqlstate),
        ("client not found", SqlState::PROTOCOL_VIOLATION)
    );
}

#[tokio::test]
async fn who_may_only_look_changes_nothing() {
    let mut world = world();
    let mut client = connect(&world, Access::Stats);
    client.answers().await;
    for sql in ["PAUSE", "RELOAD", "SET pool_mode = session", "KILL_CLIENT 1", "SHOW FDS", "SHUTDOWN"] {
        client.query(sql).await;
        let (_, errors) = client.answers().await;
        assert_eq!(errors[0].message, "admin access needed", "{sql}");
    }
    for sql in ["SHOW POOLS", "SET client_encoding = 'UTF8'", "SELECT 1"] {
        client.query(sql).await;
        assert!(client.answers().await.1.is_empty(), "{sql}");
    }
    assert!(world.orders.try_recv().is_err());
    assert!(world.client.disconnect_ordered().is_none());
}

#[tokio::test]
async fn a_killed_client_is_told_to_go() {
    let world = world();
    let mut client = connect(&world, Access::Admin);
    client.answers().await;
    client.query("KILL_CLIENT 1").await;
    assert_eq!(client.answers().await.0, "CZ");
    assert_eq!(world.client.disconnect_ordered(), Some(Disconnect::Admin));
}

#[tokio::test]
async fn an_order_is_answered_when_it_is_done() {
    let mut world = world();
    let mut client = connect(&world, Access::Admin);
    client.answers().await;
    client.query("PAUSE shop").await;
    let request = world.orders.recv().await.expect("an order");
    assert_eq!(request.order, Order::Pause(Some("shop".into())));
    // What is sent meanwhile waits for its turn.
    client.query("SHOW VERSION").await;
    request.reply.send(Ok(Vec::new())).expect("the console waits");
    assert_eq!(client.answers().await.0, "CZ");
    assert_eq!(client.answers().await.0, "TDCZ");
}

#[tokio::test]
async fn a_refused_order_leaves_the_session_alive() {
    let mut world = world();
    let mut client = connect(&world, Access::Admin);
    client.answers().await;
    client.query("RELOAD").await;
    let request = world.orders.recv().await.expect("an order");
    let refusal = Refusal::ReloadFailed { why: "pgweir.toml:3: nonsense".into() };
    request.reply.send(Err(refusal)).expect("the console waits");
    let (tags, errors) = client.answers().await;
    assert_eq!((tags.as_str(), errors[0].sqlstate), ("EZ", SqlState::CONFIG_FILE_ERROR));
    assert_eq!(errors[0].detail.as_deref(), Some("pgweir.toml:3: nonsense"));
}

#[tokio::test]
async fn a_cancel_ends_the_waiting_and_resumes() {
    let mut world = world();
    let mut client = connect(&world, Access::Admin);
    client.answers().await;
    client.query("PAUSE").await;
    let pause = world.orders.recv().await.expect("an order");
    client.cancel.notify_waiters();
    let resume = world.orders.recv().await.expect("another order");
    assert_eq!(resume.order, Order::Resume(None));
    assert!(pause.reply.is_closed());
    resume.reply.send(Ok(Vec::new())).expect("the console waits");
    let (tags, errors) = client.answers().await;
    assert_eq!((tags.as_str(), errors[0].sqlstate), ("EZ", SqlState::QUERY_CANCELED));
}

#[tokio::test]
async fn a_client_that_leaves_while_all_is_suspended_leaves_it_running() {
    let mut world = world();
    let mut client = connect(&world, Access::Admin);
    client.answers().await;
    client.query("SUSPEND").await;
    let suspend = world.orders.recv().await.expect("an order");
    assert_eq!(suspend.order, Order::Suspend);
    drop(client.stream);
    assert_eq!(world.orders.recv().await.expect("another order").order, Order::Resume(None));
}

#[tokio::test]
async fn a_console_client_can_be_told_to_go_itself() {
    let world = world();
    let mut client = connect(&world, Access::Admin);
    client.answers().await;
    client.seat.order_disconnect(Disconnect::Shutdown);
    let (tags, errors) = client.answers().await;
    assert_eq!((tags.as_str(), errors[0].sqlstate), ("E", SqlState::ADMIN_SHUTDOWN));
}

#[tokio::test]
async fn after_an_error_everything_up_to_sync_is_left_out() {
    let world = world();
    let mut client = connect(&world, Access::Admin);
    client.answers().await;
    let mut out = BytesMut::new();
    encode::parse(&mut out, b"", b"show nonsense\0\0\0");
    encode::parse(&mut out, b"", b"show version\0\0\0");
    out.extend_from_slice(encode::SYNC);
    client.send(&out).await;
    assert_eq!(client.answers().await.0, "EZ");
}

#[tokio::test]
async fn rows_can_be_fetched_a_few_at_a_time() {
    let world = world();
    let mut client = connect(&world, Access::Admin);
    client.answers().await;
    let mut out = BytesMut::new();
    encode::parse(&mut out, b"s", b"show state\0\0\0");
    encode::message(&mut out, b'B', |out| out.extend_from_slice(b"p\0s\0\0\0\0\0\0\0"));
    encode::message(&mut out, b'D', |out| out.extend_from_slice(b"Pp\0"));
    for _ in 0..2 {
        encode::message(&mut out, b'E', |out| out.extend_from_slice(b"p\0\0\0\0\x02"));
    }
    out.extend_from_slice(encode::SYNC);
    client.send(&out).await;
    assert_eq!(client.answers().await.0, "12TDDsDCZ");
}

#[tokio::test]
async fn a_message_the_console_does_not_know_ends_the_session() {
    let world = world();
    let mut client = connect(&world, Access::Admin);
    client.answers().await;
    client.send(b"F\0\0\0\x04").await;
    let (tags, errors) = client.answers().await;
    assert_eq!(
        (tags.as_str(), errors[0].message.as_str()),
        ("E", "unsupported packet type for admin console: 70")
    );
}

#[tokio::test]
async fn drivers_that_open_transactions_are_let_to() {
    let world = world();
    let (mut driver, _seat) = driver(&world).await;
    let transaction = driver.transaction().await.expect("BEGIN");
    let version = transaction.query_one("SHOW VERSION", &[]).await.expect("a row");
    assert_eq!(version.get::<_, &str>(0), VERSION);
    transaction.commit().await.expect("COMMIT");
    assert_eq!(driver.query_one("SELECT 1", &[]).await.expect("a row").get::<_, i32>(0), 1);
}

#[tokio::test]
async fn sockets_are_shown_to_simple_queries_only() {
    let world = world();
    let (driver, _seat) = driver(&world).await;
    for sql in ["SHOW FDS", "SHOW HANDOVER"] {
        let refused = driver.query(sql, &[]).await.expect_err(sql);
        let refused = refused.as_db_error().expect("an answer");
        assert_eq!(
            (refused.code().code(), refused.message()),
            ("0A000", "this command needs a simple query")
        );
    }
}

async fn get(world: &World, path: &str) -> String {
    let (near, mut far) = tokio::io::duplex(4096);
    let served = http::serve(Arc::clone(&world.admin), near);
    let asked = async {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        far.write_all(request.as_bytes()).await.expect("the server listens");
        let mut answer = String::new();
        far.read_to_string(&mut answer).await.expect("an answer");
        answer
    };
    tokio::join!(served, asked).1
}

#[tokio::test]
async fn readiness_fails_with_a_reason_while_life_goes_on() {
    let world = world();
    assert!(get(&world, "/ready").await.starts_with("HTTP/1.1 200"));
    *world.process.not_ready.lock() = Some("shutting down".into());
    let answer = get(&world, "/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("shutting down\n"), "{answer}");
    assert!(get(&world, "/live").await.starts_with("HTTP/1.1 200"));
    assert!(get(&world, "/nothing").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_its_answer_keeps_no_place() {
    let world = world();
    let (near, mut far) = tokio::io::duplex(64);
    far.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("the server listens");
    let begun = tokio::time::Instant::now();
    http::serve(Arc::clone(&world.admin), near).await;
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    drop(far);
}

#[tokio::test]
async fn metrics_have_the_exporters_names_and_our_histograms() {
    let world = world();
    let text = get(&world, "/metrics").await;
    for line in [
        "pgbouncer_up 1",
        "pgbouncer_version_info{version=\"PgBouncer 1.25.2",
        "pgbouncer_pools_client_waiting_connections{database=\"shop\",user=\"alice\"} 1",
        "pgbouncer_pools_server_active_connections{database=\"shop\",user=\"alice\"} 1",
        "pgbouncer_databases_paused{name=\"shop\",host=\"\",port=\"5432\",database=\"shop_db\",force_user=\"\",pool_mode=\"\"} 1",
        "pgbouncer_stats_totals_queries_pooled_total{database=\"shop\"} 1",
        "pgbouncer_stats_queries_duration_seconds_total{database=\"shop\"} 0.002",
        "# TYPE pgbouncer_stats_totals_queries_duration_seconds_total counter",
        "pgbouncer_used_clients 1",
        "pgbouncer_client_connections{database=\"shop\",user=\"alice\",application_name=\"\",state=\"waiting\"} 1",
        "pgbouncer_config_max_client_connections 100",
        "pgweir_wait_seconds_bucket{database=\"shop\",user=\"alice\",le=\"0.05\"} 0",
        "pgweir_wait_seconds_bucket{database=\"shop\",user=\"alice\",le=\"0.1\"} 1",
        "pgweir_wait_seconds_sum{database=\"shop\",user=\"alice\"} 0.07",
        "pgweir_query_seconds_count{database=\"shop\",user=\"alice\"} 1",
        "pgweir_certificate_expiry_seconds{setting=\"client_tls_cert_file\"} 2000000000",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    for field in crate::stats::Totals::FIELDS {
        assert!(text.contains(&field.help.to_owned()), "{}", field.name);
    }
}

#[test]
fn http_listens_where_it_is_told_to() {
    for (text, shown) in
        [("127.0.0.1:0", "127.0.0.1:"), (":0", "0.0.0.0:"), ("*:0", "0.0.0.0:"), ("0", "0.0.0.0:")]
    {
        let bound = http::bind(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(bound.place().to_string().starts_with(shown), "{text}: {}", bound.place());
    }
    for text in ["", "localhost", "127.0.0.1:http"] {
        assert_eq!(
            http::bind(text).map_err(|it| it.kind()).err(),
            Some(std::io::ErrorKind::InvalidInput),
            "{text}"
        );
    }
}

#[tokio::test]
async fn http_answers_over_a_real_socket() {
    let world = world();
    let bound = http::bind("127.0.0.1:0").expect("a free port");
    let crate::net::listen::Place::Tcp(address) = *bound.place() else { panic!("not TCP") };
    let options = crate::net::TcpOptions::of(&world.process.config().settings);
    let listener = bound.serve().expect("a reactor");
    tokio::spawn(http::run(Arc::clone(&world.admin), listener, options));
    let asked = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(address).expect("a connection");
        socket.write_all(b"GET /live HTTP/1.0\r\n\r\n").expect("it listens");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        answer
    });
    assert!(asked.await.expect("no panic").ends_with("live\n"));
}

#[test]
fn the_line_of_statistics_reads_as_pgbouncers() {
    let line = super::stats_line(&crate::stats::Totals { xact_count: 3, wait_time: 7, ..Default::default() });
    assert!(line.starts_with("stats: 3 xacts/s, 0 queries/s, 0 client parses/s"), "{line}");
    assert!(line.ends_with("xact 0 us, query 0 us, wait 7 us"), "{line}");
}
