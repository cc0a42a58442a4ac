//! Shows all sockets, and gives them to the next process.
//!
//! Owns the rows of SHOW FDS, which are PgBouncer's, and of SHOW HANDOVER, which carry what another pgweir must know
//! beyond them; and the end of a process that has given its sockets away. Invariant: what was given away is neither
//! read nor written here any more, not even to say goodbye.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::process::Process;
use crate::admin::{Audience, SocketRow, Value};
use crate::auth::Credentials;
use crate::client::export::{Exported, Standing};
use crate::handover::Task;
use crate::ids::{ClientId, PoolKey, UserName};
use crate::net::Shared;
use crate::net::listen::{Bound, Place};
use crate::server::ServerConn;
use crate::server::handed::pack_key;
use crate::session::params::Values;
use crate::session::portable::{LAYOUT, Packer};
use crate::stats::{Address, ClientEntry, ClientLogin, Disconnect, Replication};
use crate::wire::CancelKey;

/// The columns of SHOW FDS.
const FDS_COLUMNS: usize = 15;

/// Rows on their way to the console.
const ROWS_MAX: usize = 16;

/// How long clients that could not be given away may take to be told so.
const FAREWELL: Duration = Duration::from_secs(1);

/// How often it is looked whether they are gone.
const FAREWELL_LOOK_PERIOD: Duration = Duration::from_millis(10);

/// Nobody listens any more.
struct Gone;

/// Shows all sockets, one by one. To be called on a worker.
pub fn sockets(process: Arc<Process>, audience: Audience) -> mpsc::Receiver<SocketRow> {
    let (rows, receiver) = mpsc::channel(ROWS_MAX);
    tokio::task::spawn_local(async move {
        // Where nobody listens any more there is nothing left to do.
        let _ = Showing { process: &process, rows, audience }.run().await;
    });
    receiver
}

struct Showing<'a> {
    process: &'a Process,
    rows: mpsc::Sender<SocketRow>,
    audience: Audience,
}

/// What the columns of SHOW FDS say of a connection.
struct Line<'a> {
    task: Task,
    number: i32,
    link: i32,
    pool: &'a PoolKey,
    user: &'a UserName,
    peer: &'a Address,
    key: Option<&'a CancelKey>,
    reported: &'a Values,
}

impl Showing<'_> {
    async fn run(&self) -> Result<(), Gone> {
        if let Audience::NextProcess(session) = self.audience
            && !self.process.exports.begin_giving(session)
        {
            return Ok(());
        }
        self.note(Task::Layout, None, |out| out.number(LAYOUT)).await?;
        let doors: Vec<SocketRow> = self.process.doors.lock().iter().filter_map(|it| self.door(it)).collect();
        for door in doors {
            self.send(door).await?;
        }
        for statement in self.process.registry.all() {
            let write = |out: &mut Packer| {
                out.number(statement.id());
                out.residue(statement.residue());
                out.bytes(statement.rest());
            };
            self.note(Task::Statement, None, write).await?;
        }
        for pool in self.process.pools.all() {
            if let Some(welcome) = pool.welcome() {
                self.note(Task::Welcome, Some(pool.key()), |out| out.values(&welcome)).await?;
            }
        }
        let keys = self.process.cancels.keys();
        for client in self.process.roster.clients() {
            self.client(&client, &keys).await?;
        }
        self.idle_servers().await
    }

    async fn send(&self, row: SocketRow) -> Result<(), Gone> {
        self.rows.send(row).await.map_err(|_| Gone)
    }

    /// A row that is about no socket.
    async fn note(
        &self,
        task: Task,
        pool: Option<&PoolKey>,
        write: impl FnOnce(&mut Packer),
    ) -> Result<(), Gone> {
        let mut state = Packer::default();
        write(&mut state);
        let text = |it: Option<&str>| it.map_or(Value::Null, Value::from);
        let mut values = vec![Value::Number(-1), Value::fixed(task.word())];
        values.push(text(pool.map(|it| it.user.as_str())));
        values.push(text(pool.map(|it| it.database.as_str())));
        values.resize(FDS_COLUMNS, Value::Null);
        self.send(SocketRow { values, state: state.finish(), socket: None, is_plain: false }).await
    }

    /// `None` where no file descriptor is left.
    fn door(&self, door: &Shared) -> Option<SocketRow> {
        let place = Bound::inherit(door.fd.try_clone().ok()?).ok()?.place().clone();
        let (address, port) = match place {
            Place::Tcp(address) => (address.ip().to_string(), address.port()),
            Place::Unix(_) => ("unix".to_owned(), self.process.config.load().settings.listen_port),
        };
        let mut values = vec![Value::from(door.number), Value::fixed(Task::Pooler.word()), Value::Null];
        values.extend([Value::Null, address.into(), port.into(), Value::Number(0), Value::Number(0)]);
        values.resize(FDS_COLUMNS, Value::Null);
        let socket = if self.given() { Some(door.fd.try_clone().ok()?) } else { None };
        Some(SocketRow { values, state: Vec::new(), socket, is_plain: true })
    }

    fn given(&self) -> bool {
        matches!(self.audience, Audience::NextProcess(_))
    }

    async fn client(
        &self,
        client: &Arc<ClientEntry>,
        keys: &HashMap<ClientId, CancelKey>,
    ) -> Result<(), Gone> {
        let Some(login) = client.login().filter(|it| it.pool != crate::admin::console_pool()) else {
            return Ok(());
        };
        // A stream of changes that another process would not know how to go on with.
        if login.replication != Replication::None {
            return Ok(());
        }
        let Some(exported) = self.process.exports.ask(client).await else { return Ok(()) };
        let key = keys.get(&client.id());
        let Exported { standing, client: socket, server, relay, is_plain, reported } = exported;
        let given = self.given() && standing == Standing::Still;
        if self.given() && !given {
            return Ok(());
        }
        if given {
            self.process.exports.give(client.id());
        }
        let link = server.as_ref().map_or(0, |(socket, _)| socket.number);
        let line = Line {
            task: Task::Client,
            number: socket.number,
            link,
            pool: &login.pool,
            user: &login.user,
            peer: &client.connected.peer,
            key,
            reported: &reported,
        };
        let row = SocketRow {
            values: self.values(&line),
            state: client_state(login, key, &relay),
            socket: given.then_some(socket.fd),
            is_plain,
        };
        let number = socket.number;
        if let Some((socket, facts)) = server {
            let peer = client.link().and_then(|id| self.process.roster.find_server(id));
            let unknown = Address::Unix { pid: 0, port: 0 };
            let line = Line {
                task: Task::Server,
                number: socket.number,
                link: number,
                user: &login.pool.user,
                peer: peer.as_ref().map_or(&unknown, |it| &it.connected.peer),
                key: None,
                ..line
            };
            let row = SocketRow {
                values: self.values(&line),
                state: server_state(&login.pool, &facts),
                socket: given.then_some(socket.fd),
                is_plain,
            };
            self.send(row).await?;
        }
        self.send(row).await
    }

    async fn idle_servers(&self) -> Result<(), Gone> {
        let is_suspended = self.process.pools.suspension().is_on();
        for pool in self.process.pools.all() {
            let mut rows = Vec::new();
            pool.for_each_idle(|conn| rows.extend(self.idle_server(pool.key(), conn, is_suspended)));
            for row in rows {
                self.send(row).await?;
            }
        }
        Ok(())
    }

    /// `None` with TLS, and where no file descriptor is left.
    fn idle_server(&self, pool: &PoolKey, conn: &ServerConn, is_suspended: bool) -> Option<SocketRow> {
        let socket = conn.stream.share().ok()??;
        if self.given() && !is_suspended {
            return None;
        }
        let mut facts = Packer::default();
        conn.pack(Instant::now(), &mut facts);
        let reported = conn.session.as_ref().map(|it| Arc::clone(&it.parameters.reported));
        let line = Line {
            task: Task::Server,
            number: socket.number,
            link: 0,
            pool,
            user: &pool.user,
            peer: &crate::pool::Connection::connected(conn, pool).peer,
            key: conn.key.as_ref(),
            reported: &reported.unwrap_or_default(),
        };
        Some(SocketRow {
            values: self.values(&line),
            state: server_state(pool, &facts.finish()),
            socket: self.given().then_some(socket.fd),
            is_plain: true,
        })
    }

    fn values(&self, line: &Line<'_>) -> Vec<Value> {
        let (address, port) = match line.peer {
            Address::Tcp(address) => (SocketAddr::ip(address).to_string(), address.port()),
            Address::Unix { port, .. } => ("unix".to_owned(), *port),
        };
        let setting = |name: &str| line.reported.value(name).map_or(Value::Null, Value::from);
        let [password, client_key, server_key] = self.secrets(line);
        vec![
            Value::from(line.number),
            Value::fixed(line.task.word()),
            Value::from(line.user.as_str()),
            Value::from(line.pool.database.as_str()),
            Value::from(address),
            Value::from(port),
            line.key.map_or(Value::Number(0), cancel_column),
            Value::from(line.link),
            setting("client_encoding"),
            setting("standard_conforming_strings"),
            setting("DateStyle"),
            setting("TimeZone"),
            password,
            client_key,
            server_key,
        ]
    }

    /// What the next process cannot read anywhere: a secret that is in no file, and the keys that a client has shown.
    fn secrets(&self, line: &Line<'_>) -> [Value; 3] {
        let config = self.process.config.load();
        let Credentials { secret, keys } = self.process.origins.known(line.pool);
        let is_written = config.secrets.contains_key(line.user);
        let secret = secret.filter(|_| !is_written).map(|it| it.text().to_string());
        let key = |key: &[u8; 32]| Value::bytes(key);
        [
            secret.map_or(Value::Null, Value::from),
            keys.as_ref().map_or(Value::Null, |it| key(&it.client_key)),
            keys.as_ref().map_or(Value::Null, |it| key(&it.server_key)),
        ]
    }
}

/// As PgBouncer has it: the first eight bytes as one number.
fn cancel_column(key: &CancelKey) -> Value {
    let secret = key.secret().iter().take(4).fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
    Value::Number(i64::from(key.pid) << 32 | secret)
}

fn pack_pool(out: &mut Packer, pool: &PoolKey) {
    out.bytes(pool.database.as_str().as_bytes());
    out.bytes(pool.user.as_str().as_bytes());
}

fn client_state(login: &ClientLogin, key: Option<&CancelKey>, relay: &[u8]) -> Vec<u8> {
    let mut out = Packer::default();
    pack_pool(&mut out, &login.pool);
    out.bytes(login.user.as_str().as_bytes());
    out.option(key, pack_key);
    out.bytes(relay);
    out.finish()
}

fn server_state(pool: &PoolKey, facts: &[u8]) -> Vec<u8> {
    let mut out = Packer::default();
    pack_pool(&mut out, pool);
    out.bytes(facts);
    out.finish()
}

/// The end of a process whose sockets another one has: tells those who could not be given away that they must go.
pub async fn take_leave(process: &Process) {
    let stay_behind = || {
        let mut clients = process.roster.clients();
        clients.retain(|it| !process.exports.is_given(it.id()));
        clients
    };
    stay_behind().iter().for_each(|it| it.order_disconnect(Disconnect::Shutdown));
    let gone = async {
        while !stay_behind().is_empty() {
            tokio::time::sleep(FAREWELL_LOOK_PERIOD).await;
        }
    };
    // Whoever does not take it in is cut off with the process.
    let _ = tokio::time::timeout(FAREWELL, gone).await;
}
