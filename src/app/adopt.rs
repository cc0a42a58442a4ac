//! What this process goes on with after another: listening sockets, clients, servers.
//!
//! Owns the reading of the old process's rows, before it ends, so that whatever cannot be understood leaves everything
//! where it is; and the bringing of clients and servers to workers, after it has ended.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::opener::{Errand, Openings};
use super::process::Process;
use super::session::{self, Conversation};
use super::workers::Arriving;
use crate::auth::{Credentials, Keys, Stored};
use crate::client::drive::{Driver, Parts};
use crate::client::staffing::Place;
use crate::client::{Limit, Worker, stored_credentials};
use crate::handover::{Column, Row, Task};
use crate::ids::{ClientId, PoolKey, WorkerId};
use crate::net::Detached;
use crate::net::listen::Bound;
use crate::pool::{Claim, Participant};
use crate::server::Handed;
use crate::server::handed::unpack_key;
use crate::session::portable::{Common, LAYOUT, Unpacker, Unreadable};
use crate::session::relay::{Relay, Rules, Unpacked};
use crate::stats::{ClientLogin, ClientSeat, Replication, client_event};
use crate::wire::CancelKey;

/// Why the rows cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The other process writes otherwise than this one reads.
    #[error("the old process hands over in another layout: use so_reuseport for this restart")]
    Layout,
    /// A row is not what it should be.
    #[error("invalid data from old process: {task:?}: {source}")]
    Unreadable {
        /// What the row is about.
        task: Task,
        /// What is wrong.
        source: Unreadable,
    },
    /// A socket is none that we can use.
    #[error("a socket of the old process cannot be used: {0}")]
    Socket(#[from] std::io::Error),
}

/// A client of the old process.
pub struct Adopted {
    socket: Detached,
    login: ClientLogin,
    key: Option<CancelKey>,
    unpacked: Unpacked,
    server: Option<AdoptedServer>,
}

/// A server of the old process.
pub struct AdoptedServer {
    pool: PoolKey,
    socket: Detached,
    handed: Handed,
}

/// All that was taken over.
#[derive(Default)]
pub struct Adoption {
    /// Listening sockets.
    pub doors: Vec<Bound>,
    clients: Vec<Adopted>,
    idle: Vec<AdoptedServer>,
}

/// Reads the rows.
struct Reader<'a> {
    process: &'a Process,
    common: Common,
    now: Instant,
    /// Servers in use, by the number of their socket in the old process.
    linked: HashMap<String, AdoptedServer>,
    adoption: Adoption,
}

/// Understands all that the old process has. Pools and statements are taken in already.
///
/// Errors: some of it cannot be understood.
pub fn read(process: &Process, rows: Vec<Row>) -> Result<Adoption, AdoptError> {
    let mut reader = Reader {
        process,
        common: Common::default(),
        now: Instant::now(),
        linked: HashMap::new(),
        adoption: Adoption::default(),
    };
    let layout = rows.iter().find(|row| row.task == Task::Layout);
    let number = layout.and_then(|row| row.bytes(Column::State)).unwrap_or_default();
    if number != LAYOUT.to_be_bytes() {
        return Err(AdoptError::Layout);
    }
    for row in rows {
        let task = row.task;
        reader.row(row).map_err(|error| match error {
            RowError::Unreadable(source) => AdoptError::Unreadable { task, source },
            RowError::Socket(error) => AdoptError::Socket(error),
        })?;
    }
    Ok(reader.adoption)
}

enum RowError {
    Unreadable(Unreadable),
    Socket(std::io::Error),
}

impl From<Unreadable> for RowError {
    fn from(error: Unreadable) -> Self {
        Self::Unreadable(error)
    }
}

impl From<std::io::Error> for RowError {
    fn from(error: std::io::Error) -> Self {
        Self::Socket(error)
    }
}

fn pool_key(from: &mut Unpacker<'_>) -> Result<PoolKey, Unreadable> {
    Ok(PoolKey { database: from.text()?.into(), user: from.text()?.into() })
}

impl Reader<'_> {
    fn row(&mut self, row: Row) -> Result<(), RowError> {
        let state = row.bytes(Column::State).unwrap_or_default();
        match row.task {
            Task::Layout => {}
            Task::Statement => self.statement(&state)?,
            Task::Welcome => self.welcome(&row, &state)?,
            Task::Pooler => {
                if let Some(socket) = row.socket {
                    self.adoption.doors.push(Bound::inherit(socket)?);
                }
            }
            Task::Server => self.server(row, &state)?,
            Task::Client => self.client(row, &state)?,
        }
        Ok(())
    }

    fn statement(&mut self, state: &[u8]) -> Result<(), Unreadable> {
        let mut from = Unpacker::new(state, &mut self.common, self.now);
        let (id, residue) = (from.number()?, from.residue()?);
        let text = from.bytes()?;
        from.finish()?;
        let adopted = self.process.registry.adopt(id, text, residue);
        let statement = adopted.ok_or(Unreadable("a statement with two numbers"))?;
        self.common.statements.insert(id, statement);
        Ok(())
    }

    fn welcome(&mut self, row: &Row, state: &[u8]) -> Result<(), Unreadable> {
        let key =
            PoolKey { database: row.text(Column::Database).into(), user: row.text(Column::User).into() };
        let mut from = Unpacker::new(state, &mut self.common, self.now);
        let values = from.values()?;
        from.finish()?;
        if self.process.config.load().database(&key.database).is_some() {
            let values = self.common.share(values);
            self.process.pools.enter(&key).adopt_welcome(values);
        }
        Ok(())
    }

    fn server(&mut self, row: Row, state: &[u8]) -> Result<(), RowError> {
        let mut from = Unpacker::new(state, &mut self.common, self.now);
        let pool = pool_key(&mut from)?;
        let facts = from.bytes()?.to_vec();
        from.finish()?;
        let mut from = Unpacker::new(&facts, &mut self.common, self.now);
        let handed = Handed::unpack(&mut from)?;
        from.finish()?;
        self.remember_credentials(&row, &pool);
        let number = row.text(Column::Fd).to_owned();
        let is_linked = row.text(Column::Link) != "0";
        let Some(socket) = row.socket else { return Ok(()) };
        let server = AdoptedServer { pool, socket: Detached::from_fd(socket)?, handed };
        if is_linked {
            self.linked.insert(number, server);
        } else if self.process.config.load().database(&server.pool.database).is_some() {
            self.adoption.idle.push(server);
        }
        Ok(())
    }

    fn client(&mut self, row: Row, state: &[u8]) -> Result<(), RowError> {
        let mut from = Unpacker::new(state, &mut self.common, self.now);
        let pool = pool_key(&mut from)?;
        let user = from.text()?.into();
        let key = from.option(unpack_key)?;
        let relay = from.bytes()?.to_vec();
        from.finish()?;
        let mut from = Unpacker::new(&relay, &mut self.common, self.now);
        let config = self.process.config.load();
        let rules = Rules::of(&config.settings, config.pool_settings(&pool).mode);
        let unpacked = Relay::unpack(rules, &mut from)?;
        from.finish()?;
        self.remember_credentials(&row, &pool);
        let server = self.linked.remove(row.text(Column::Link));
        if unpacked.relay.has_server() != server.is_some() {
            return Err(Unreadable("a client without its server").into());
        }
        let Some(socket) = row.socket else { return Ok(()) };
        let login = ClientLogin { user, pool, replication: Replication::None, tls: None };
        let socket = Detached::from_fd(socket)?;
        self.adoption.clients.push(Adopted { socket, login, key, unpacked, server });
        Ok(())
    }

    /// The secrets that are in no file, and the keys that clients have shown: servers are still to be logged in to.
    fn remember_credentials(&self, row: &Row, pool: &PoolKey) {
        let config = self.process.config.load();
        let key = |column| <[u8; 32]>::try_from(row.bytes(column)?).ok().map(Zeroizing::new);
        let keys = key(Column::ScramClientKey).zip(key(Column::ScramServerKey));
        let keys = keys.map(|(client_key, server_key)| Arc::new(Keys { client_key, server_key }));
        let password = Stored::parse(row.text(Column::Password)).ok().filter(|it| !it.is_empty());
        if keys.is_none() && password.is_none() {
            return;
        }
        let secret = password.map(Arc::new).or_else(|| stored_credentials(&config, pool).secret);
        // Keys are good only as long as the secret is the one that they were shown for.
        let keys = keys.filter(|keys| match secret.as_deref() {
            Some(Stored::Scram(verifier)) => keys.stored_key() == *verifier.stored_key,
            _ => false,
        });
        if secret.is_some() {
            self.process.origins.remember(pool, Credentials { secret, keys });
        }
    }
}

impl Adoption {
    /// How much it is, for the log.
    pub fn summary(&self) -> String {
        let busy = self.clients.iter().filter(|it| it.server.is_some()).count();
        format!("{} clients, {} servers", self.clients.len(), self.idle.len() + busy)
    }

    /// Brings everything to the workers, and waits until all of it is there. Before that nobody may come in: who asks
    /// for SUSPEND must find all clients, who asks for a server all that the pools have.
    pub async fn distribute(self, process: &Process, openings: &Openings) {
        let (all, under_way) = watch::channel(());
        let passage = Passage { all: Arc::new(all), under_way };
        for server in self.idle {
            openings.send(None, Errand::Adopt(Box::new(server), passage.clone()));
        }
        for client in self.clients {
            process.hall.enter(process, Arriving::Adopted(Box::new(client), passage.clone()));
        }
        passage.end().await;
    }
}

/// The way of a client or a server to its worker. Dropping it ends it.
#[derive(Clone)]
pub struct Passage {
    all: Arc<watch::Sender<()>>,
    under_way: watch::Receiver<()>,
}

impl Passage {
    /// This one is there. Waits until all are, or are given up.
    async fn end(self) {
        let Self { all, under_way } = self;
        drop(under_way);
        all.closed().await;
    }
}

/// Takes an idle server into its pool, on this worker; that is the end of its way.
pub fn take_in(process: &Process, worker: WorkerId, (server, _passage): (AdoptedServer, Passage)) {
    let AdoptedServer { pool, socket, handed } = server;
    let born = handed.created;
    match handed.connect(socket, process.ids.server(), worker) {
        Ok(conn) => process.pools.enter(&pool).adopt(conn, born),
        Err(error) => tracing::warn!("cannot go on with a server: {error}"),
    }
}

/// Goes on with a client, on this worker, once all others are there too; its conversation, in a task of its own, keeps no
/// memory of this. Not cancel safe: dropping it closes the connection.
pub async fn go_on(
    process: Arc<Process>,
    worker: Rc<Worker>,
    (adopted, passage): (Adopted, Passage),
    id: ClientId,
    place: Place,
) {
    let participant = process.pools.suspension().join().await;
    let taken_over = take_over(&process, worker, adopted, (id, place, participant));
    // A server that another client has counts in its pool from now on.
    passage.end().await;
    if let Some((conversation, seat)) = taken_over {
        conversation.go_on(process, seat);
    }
}

/// Puts a client's conversation together again. `None`: its connection is closed.
fn take_over(
    process: &Process,
    worker: Rc<Worker>,
    adopted: Adopted,
    (id, place, participant): (ClientId, Place, Participant),
) -> Option<(Conversation, ClientSeat)> {
    let Adopted { socket, login, key, unpacked: Unpacked { relay, input }, server } = adopted;
    let taken = socket.attach().and_then(|client| {
        let ends = (client.peer_addr()?, client.local_addr()?);
        Ok((client, ends))
    });
    let (client, ends) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            tracing::debug!("cannot take a client over: {error}");
            return None;
        }
    };
    let roster_seat = session::enter_on_roster(process, worker.id, ends, id);
    let entry = Arc::clone(roster_seat.entry());
    // It is here already: limits are for those who come.
    let mut seat = process.census.seat(Limit::None)?;
    seat.enter_database(&login.pool.database, Limit::None);
    seat.enter_user(&login.user, Limit::None);
    let pool = process.pools.enter(&login.pool);
    entry.claims(login.pool.database.clone(), login.user.clone());
    entry.logged_in(login);
    entry.set_application_name(relay.parameters().reported.text("application_name"));
    let claim = Claim::new(Arc::clone(&entry));
    let ticket = key.and_then(|key| process.cancels.adopt(key, claim.caller()));
    let lease = match server {
        None => None,
        Some(AdoptedServer { socket, handed, .. }) => {
            let born = handed.created;
            match handed.connect(socket, process.ids.server(), worker.id) {
                Ok(conn) => Some(claim.adopt(&pool, conn, born)),
                Err(error) => {
                    client_event!(warn, entry, "closing because: cannot go on with its server: {error}");
                    return None;
                }
            }
        }
    };
    let input = input.as_slice().into();
    let parts = Parts { client, input, place, claim, participant, pool, lease, relay };
    Some((Conversation::new(Driver::new(worker, parts), seat, ticket), roster_seat))
}
