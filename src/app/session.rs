//! One connection from its accept to its end: login, then the console or a pool.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::orders::resume_suspended;
use super::process::{Consoles, Process};
use super::workers::Arriving;
use crate::admin::{self, Access, Admin, console_pool};
use crate::cancel;
use crate::client::drive::{Departed, Driver, Outcome, Parts};
use crate::client::login::{Admitted, ConsoleRole, Destination, House, Lobby, LoggedIn, Welcome, Welcomed};
use crate::client::patience::{self, Situation};
use crate::client::refusal::Refusal;
use crate::client::secrets::{AuthQuery, AuthQueryError, Found, ask};
use crate::client::staffing::Place;
use crate::client::{End, READ_BYTES, Seat, Worker};
use crate::config::{ClientSettings, Config};
use crate::ids::{ClientId, DatabaseName, PoolKey, WorkerId};
use crate::net::{Address, Detached, Stream, listen};
use crate::pool::{Answer, Busy, Claim, Connection as _, Lease, Participant, PoolClient};
use crate::server::{ReplicationStart, ServerConn};
use crate::session::params::Values;
use crate::session::relay::{Activity, Relay, Rules};
use crate::stats::{
    ClientConnected, ClientEntry, ClientLogin, ClientSeat, Disconnect, Replication, Served, client_event,
};
use crate::wire::{CancelKey, Report, SqlState};

/// How long `auth_query` may take: as a login's other steps, it must not keep a server for ever.
const AUTH_QUERY_MAX: Duration = Duration::from_secs(30);

/// Why a server is closed that should be idle and is not.
const NOT_READY: &str = "server was not ready";

/// A connection that was accepted.
pub struct Accepted {
    /// Its bytes, and its two ends.
    pub socket: listen::Accepted,
    /// Its number, in the order in which clients were accepted.
    pub id: ClientId,
    /// Its place in the order of arrival.
    pub place: Place,
    /// Its part in SUSPEND.
    pub participant: Participant,
}

/// Serves a connection to its end, in a task of its own.
pub fn serve(process: Arc<Process>, admin: Arc<Admin>, worker: Rc<Worker>, accepted: Accepted) {
    let Accepted { socket, id, place, participant } = accepted;
    let listen::Accepted { stream, peer, local } = socket;
    let seat = enter_on_roster(&process, worker.id, (peer, local), id);
    worker.pulse.keep();
    let early = received_early(&stream);
    let mut stream = match stream.attach() {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!("cannot take a client over: {error}"),
    };
    // A login is one, too: its messages go with the worker's turns.
    stream.begin_conversation();
    let admission = Box::pin(process.lobby(seat.entry()).admit(stream, early, peer));
    let guest = Box::new(Guest { process, admin, worker, seat, place, participant });
    tokio::task::spawn_local(attend(guest, admission));
}

/// The whole of a connection. The login is boxed and the conversation is not: whoever has said nothing yet, perhaps one
/// of thousands, needs little more than a client that has logged in, and its task is there already.
async fn attend(guest: Box<Guest>, admission: Pin<Box<impl Future<Output = Result<Admitted, End>>>>) {
    let session = pin!(guest.log_in(admission).await.map(Session::run));
    if let Some(session) = session.as_pin_mut() {
        session.await;
    }
}

/// A connection that is not yet a conversation.
struct Guest {
    process: Arc<Process>,
    admin: Arc<Admin>,
    worker: Rc<Worker>,
    seat: ClientSeat,
    place: Place,
    participant: Participant,
}

impl Guest {
    /// From its first packet to where its conversation with a pool begins; `None`: there is none, and it is over.
    async fn log_in(
        self: Box<Self>,
        admission: Pin<Box<impl Future<Output = Result<Admitted, End>>>>,
    ) -> Option<Session> {
        let entry = self.seat.entry();
        let admission = Served::stranger(entry).during(admission);
        match unless_suspended(&self.process, entry, admission).await? {
            Ok(Admitted::Cancel { key, stream }) => {
                Box::pin(self.cancel(key, stream)).await;
                None
            }
            Ok(Admitted::Client(client)) => Box::pin(self.enter(*client)).await,
            // It has been told and the log has it.
            Err(_) => None,
        }
    }

    /// It has come to cancel another one's query.
    async fn cancel(self, key: CancelKey, stream: Stream) {
        let Self { process, seat, .. } = self;
        let carried = Box::pin(carry_cancel(&process, seat.entry(), &key));
        unless_suspended(&process, seat.entry(), Served::stranger(seat.entry()).during(carried)).await;
        drop(stream);
    }

    /// It has proved who it is.
    async fn enter(self, client: LoggedIn) -> Option<Session> {
        let Self { process, admin, worker, seat, place, participant } = self;
        let entry = Arc::clone(seat.entry());
        match client.destination.clone() {
            Destination::Console(role) => {
                // It is from the console that all is suspended, and resumed.
                drop(participant);
                console(&process, &admin, entry, client, role).await;
                None
            }
            Destination::Pool(key) => {
                let served = Served::stranger(&entry).named(&client.database, &client.user);
                let newcomer = Newcomer { entry: Arc::clone(&entry), place, participant, client };
                let begun = served.during(Box::pin(begin(&process, worker, newcomer, &key)));
                let conversation = unless_suspended(&process, &entry, begun).await.flatten()?;
                Some(Session { process, conversation, seat })
            }
        }
    }
}

/// What a client has sent while it waited to be accepted: as a rule its StartupMessage is there.
fn received_early(stream: &Detached) -> BytesMut {
    let mut bytes = [0; READ_BYTES];
    let count = stream.receive_now(&mut bytes);
    BytesMut::from(&bytes[..count])
}

/// Enters a client of this worker, by its two ends, on the roster.
pub fn enter_on_roster(
    process: &Process,
    worker: WorkerId,
    (peer, local): (Address, Address),
    id: ClientId,
) -> ClientSeat {
    let port = process.config.load().settings.listen_port;
    let connected = ClientConnected { id, worker, peer: peer.on_roster(port), local: local.on_roster(port) };
    process.roster.client(connected, Instant::now())
}

/// Waits for a step of a login, or for the end of the patience of SUSPEND with such steps. Not cancel safe.
async fn unless_suspended<T>(
    process: &Process,
    entry: &ClientEntry,
    mut step: impl Future<Output = T> + Unpin,
) -> Option<T> {
    tokio::select! {
        biased;
        outcome = &mut step => Some(outcome),
        () = process.pools.suspension().insisted() => {
            if process.config.load().settings.log_disconnections {
                client_event!(info, *entry, "closing because: {}", Disconnect::SuspendTimeout.message());
            }
            None
        }
    }
}

async fn carry_cancel(process: &Process, request: &ClientEntry, key: &CancelKey) {
    let (begun, config) = (Instant::now(), process.config.load_full());
    let means = cancel::Means {
        connector: &process.connector,
        roster: &process.roster,
        worker: request.worker(),
        limit: config.settings.cancel_wait_timeout,
    };
    let served = process.cancels.serve(key, &process.peers, request, means).await;
    if config.settings.log_disconnections {
        let age = begun.elapsed().as_secs();
        tracing::info!("closing because: {served} (age={age}s)");
    }
}

impl Process {
    fn lobby(self: &Arc<Self>, entry: &Arc<ClientEntry>) -> Lobby<Visitor> {
        Lobby {
            config: Arc::clone(&self.config),
            tls: Arc::clone(&self.tls),
            handshakes: self.handshakes.clone(),
            process_secret: Arc::clone(&self.process_secret),
            keys: Arc::clone(&self.keys),
            secrets: Arc::clone(&self.secrets),
            census: Arc::clone(&self.census),
            house: Visitor { process: Arc::clone(self), entry: Arc::clone(entry) },
        }
    }
}

/// A client that is logging in, and may need a server for that.
struct Visitor {
    process: Arc<Process>,
    entry: Arc<ClientEntry>,
}

impl House for Visitor {
    async fn auth_query(&self, query: &AuthQuery) -> Result<Option<Found>, AuthQueryError> {
        // A forced user is for clients; the query is `auth_user`'s own.
        let key = PoolKey { database: query.database.clone(), user: query.auth_user.clone() };
        let pool = self.process.pools.enter(&key);
        let config = self.process.config.load_full();
        let limits = config.client_settings(&key.database, &key.user);
        let lease = checkout(&config, &pool, &Claim::new(Arc::clone(&self.entry)), &limits)
            .await
            .map_err(|report| AuthQueryError::Unavailable(Box::new(report)))?;
        // The client's cancel requests are not for this query.
        lease.shield();
        let (lease, found) = lease.converse(async |conn| ask(conn, query, AUTH_QUERY_MAX).await).await?;
        match lease.session.as_ref().and_then(|it| it.proof()) {
            Some(done) => lease.done(done).give_back(Instant::now()),
            None => lease.close(NOT_READY),
        }
        Ok(found)
    }

    fn is_disabled(&self, database: &DatabaseName) -> bool {
        self.process.pools.is_disabled(database)
    }

    fn is_shutting_down(&self) -> bool {
        self.process.is_ending()
    }
}

/// Waits for a server on behalf of a client that is still logging in, no longer than a query of its own may wait.
async fn checkout(
    config: &Config,
    pool: &PoolClient,
    claim: &Claim<ServerConn>,
    limits: &ClientSettings,
) -> Result<Lease<Busy>, Report> {
    let compatibility = config.settings.compatibility;
    let now = Instant::now();
    let answer = match claim.checkout(pool, now) {
        Answer::Granted(lease) => Ok(lease),
        Answer::Refused(refusal) => Err(refusal),
        Answer::Waiting => {
            let situation = Situation {
                activity: Activity::Waiting,
                waiting_since: Some(now),
                noticed: true,
                transaction_since: None,
            };
            match patience::next(limits, &situation) {
                None => claim.granted().await,
                Some((when, limit)) => match timeout_at(when.into(), claim.granted()).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        let queue = claim.queue_view(Instant::now());
                        return Err(patience::waited_in_vain(limit, queue.as_ref(), compatibility));
                    }
                },
            }
        }
    };
    answer.map_err(|refusal| patience::refused(&refusal, compatibility))
}

async fn console(
    process: &Process,
    admin: &Admin,
    entry: Arc<ClientEntry>,
    client: LoggedIn,
    role: ConsoleRole,
) {
    entry.claims(client.database.clone(), client.user.clone());
    entry.logged_in(ClientLogin {
        user: client.user.clone(),
        pool: console_pool(),
        replication: Replication::None,
        tls: client.tls.as_ref().map(|it| it.to_string().into()),
    });
    let name = client.parameters.iter().find(|(name, _)| name == "application_name");
    entry.set_application_name(name.map(|(_, value)| Arc::from(value.as_str())));
    let cancel = Arc::new(Notify::new());
    let minor = client.minor;
    let (_ticket, key) = match process.cancels.mint_for_console(minor, &cancel) {
        Ok(minted) => minted,
        Err(error) => {
            client.part(no_key(&error)).await;
            return;
        }
    };
    let _present = Consoles::enter(process);
    let session = admin::Session {
        worker: entry.worker(),
        access: match role {
            ConsoleRole::Admin => Access::Admin,
            ConsoleRole::Viewer => Access::Stats,
        },
        key,
        cancel,
        entry: Arc::clone(&entry),
        passer: None,
    };
    let Ok(Welcomed { mut stream, input, seat: _seat }) = client.greet().await else { return };
    // Rows that come with a socket go past the stream, which must not keep anything back.
    stream.end_conversation();
    let is_ours = stream.peer_credentials().is_some_and(|it| it.uid == rustix::process::getuid().as_raw());
    let passer = if is_ours && role == ConsoleRole::Admin { stream.passer().ok().flatten() } else { None };
    if let Err(error) = admin::serve(admin, stream, input, admin::Session { passer, ..session }).await {
        tracing::debug!(side = "C", id = entry.id().0, "console: {error}");
    }
    if !process.is_ending() && process.exports.take_back(entry.id()) {
        tracing::info!("the process that was to take over is gone, doing RESUME");
        resume_suspended(process);
    }
}

/// What a client is told for whom there is no cancel key.
fn no_key(error: &cancel::MintError) -> End {
    Refusal::Server(Box::new(Report::fatal(SqlState::INTERNAL_ERROR, error.to_string()))).into()
}

/// A client's conversation, and its places in the limits and among the cancel keys.
pub struct Conversation {
    driver: Driver,
    seat: Seat,
    ticket: Option<cancel::Registration>,
}

impl Conversation {
    /// A conversation that is about to begin. Without a `ticket` no cancel request reaches it.
    pub fn new(driver: Driver, seat: Seat, ticket: Option<cancel::Registration>) -> Self {
        Self { driver, seat, ticket }
    }

    /// Goes on in a task of its own on this worker, to its end.
    pub fn go_on(self, process: Arc<Process>, seat: ClientSeat) {
        tokio::task::spawn_local(Session { process, conversation: self, seat }.run());
    }
}

/// All that a client that has logged in costs its worker, for as long as it stays.
struct Session {
    process: Arc<Process>,
    conversation: Conversation,
    seat: ClientSeat,
}

impl Session {
    #[expect(
        clippy::manual_async_fn,
        reason = "an `async fn` would hold the session twice: as argument and as variable"
    )]
    fn run(mut self) -> impl Future<Output = ()> {
        async move {
            // The whole of it is taken along, not the driver alone: its seats go when it ends.
            let session = &mut self;
            if session.conversation.driver.run().await == Outcome::Moves {
                self.depart();
            }
        }
    }

    /// Goes to another worker.
    fn depart(self) {
        let Self { process, conversation: Conversation { driver, seat, ticket }, seat: roster_seat } = self;
        match driver.depart() {
            Ok(driver) => {
                let moved = Moved { process: Arc::clone(&process), driver, seat, ticket, roster_seat };
                process.hall.enter(&process, Arriving::Moved(Box::new(moved)));
            }
            Err(error) => tracing::warn!("cannot take a client to another worker: {error}"),
        }
    }
}

/// A session between two workers.
pub struct Moved {
    process: Arc<Process>,
    driver: Departed,
    seat: Seat,
    ticket: Option<cancel::Registration>,
    roster_seat: ClientSeat,
}

impl Moved {
    /// The client's number.
    pub fn id(&self) -> ClientId {
        self.roster_seat.entry().id()
    }

    /// Its place in the order of arrival.
    pub fn place(&self) -> Place {
        self.driver.place()
    }

    /// Goes on here.
    pub fn arrive(self, worker: Rc<Worker>) {
        let Self { process, driver, seat, ticket, roster_seat } = self;
        let (id, home) = (roster_seat.entry().id(), worker.id);
        match driver.arrive(worker) {
            Ok(driver) => {
                tracing::debug!(side = "C", id = id.0, "goes on on worker {home}");
                Conversation { driver, seat, ticket }.go_on(process, roster_seat);
            }
            Err(error) => tracing::warn!("cannot take a client to this worker: {error}"),
        }
    }
}

/// A client that has logged in.
struct Newcomer {
    entry: Arc<ClientEntry>,
    place: Place,
    participant: Participant,
    client: LoggedIn,
}

/// Takes a client that has logged in to where its conversation begins.
async fn begin(
    process: &Process,
    worker: Rc<Worker>,
    newcomer: Newcomer,
    key: &PoolKey,
) -> Option<Conversation> {
    let Newcomer { entry, place, participant, mut client } = newcomer;
    let pool = process.pools.enter(key);
    process.origins.remember(key, client.credentials.clone());
    // Its password was good: one that waits for the first server is listed as waiting, as in PgBouncer.
    announce(&worker, &entry, &client, pool.key());
    let outset = tokio::select! {
        outset = outset_of(process, &pool, &entry, &mut client) => outset,
        reason = entry.disconnected() => {
            let compatibility = process.config.load().settings.compatibility;
            Err(Refusal::Server(Box::new(patience::sent_away(reason, compatibility))).into())
        }
    };
    let Outset { claim, welcome, lease } = match outset {
        Ok(outset) => outset,
        Err(end) => {
            client.part(end).await;
            return None;
        }
    };
    // A server of the client's own was opened with all that it asks for.
    let wanted = if lease.is_some() { &[] } else { &*client.parameters };
    let greeting = worker.shared.borrow_mut().greeting(&welcome, wanted);
    entry.set_application_name(greeting.parameters.reported.text("application_name"));
    let (ticket, key) = match process.cancels.mint(client.minor, claim.caller()) {
        Ok(minted) => minted,
        Err(error) => {
            client.part(no_key(&error)).await;
            return None;
        }
    };
    let config = process.config.load_full();
    let rules = Rules::of(&config.settings, pool.mode());
    let welcome = Welcome {
        parameters: &greeting.messages,
        key: &key,
        notice: config.settings.login_notify_message.as_deref(),
    };
    match client.welcome(&welcome).await {
        Err(end) => {
            client_event!(info, entry, "closing because: {end}");
            None
        }
        Ok(Welcomed { stream, input, seat }) => {
            pool.stats().cell(worker.id).client_login();
            let relay = Relay::new(rules, greeting.parameters.clone(), Instant::now());
            let relay = relay.with_start(Arc::clone(&greeting.start));
            let parts = Parts { client: stream, input, place, claim, participant, pool, lease: None, relay };
            let mut driver = Driver::new(worker, parts);
            if let Some(lease) = lease {
                driver = driver.with_server(lease);
            }
            Some(Conversation::new(driver, seat, Some(ticket)))
        }
    }
}

/// What a conversation begins with.
struct Outset {
    claim: Claim<ServerConn>,
    /// What its servers report.
    welcome: Arc<Values>,
    /// A replication client has its server from the beginning.
    lease: Option<Lease<Busy>>,
}

/// Waits for what the conversation begins with.
async fn outset_of(
    process: &Process,
    pool: &PoolClient,
    entry: &Arc<ClientEntry>,
    client: &mut LoggedIn,
) -> Result<Outset, End> {
    match client.replication.clone() {
        None => ordinary(process, pool, entry, client).await,
        Some(start) => replicating(process, pool, entry, (client, start)).await,
    }
}

/// Of a client that shares its pool's servers.
async fn ordinary(
    process: &Process,
    pool: &PoolClient,
    entry: &Arc<ClientEntry>,
    client: &mut LoggedIn,
) -> Result<Outset, End> {
    let welcome = match pool.welcome() {
        Some(welcome) => welcome,
        None => {
            let config = process.config.load_full();
            let limits = config.client_settings(&client.database, &client.user);
            let deadline = client.deadline;
            tokio::select! {
                first = first_welcome(&config, pool, entry, (&limits, deadline)) => first?,
                end = client.left() => return Err(end),
            }
        }
    };
    Ok(Outset { claim: Claim::new(Arc::clone(entry)), welcome, lease: None })
}

/// Of a replication client. Its server, opened for it alone with all that it asks for, is what it has from the
/// beginning: nothing need be set there later, which a physical replication connection would not allow.
///
/// `client_login_timeout` is over with the authentication: from then on it waits as for a query.
async fn replicating(
    process: &Process,
    pool: &PoolClient,
    entry: &Arc<ClientEntry>,
    (client, start): (&mut LoggedIn, Arc<ReplicationStart>),
) -> Result<Outset, End> {
    let config = process.config.load_full();
    let limits = patience::of_replication(config.client_settings(&client.database, &client.user));
    let claim = Claim::for_replication(Arc::clone(entry), start);
    let told = |report| End::from(Refusal::Server(Box::new(report)));
    let lease = tokio::select! {
        granted = checkout(&config, pool, &claim, &limits) => granted.map_err(told)?,
        end = client.left() => return Err(end),
    };
    Ok(Outset { claim, welcome: lease.reported(), lease: Some(lease) })
}

/// Shows on the roster who has logged in.
fn announce(worker: &Worker, entry: &ClientEntry, client: &LoggedIn, pool: &PoolKey) {
    entry.logged_in(ClientLogin {
        // The same text as the pool's, where it is the same.
        user: if client.user == pool.user { pool.user.clone() } else { client.user.clone() },
        pool: pool.clone(),
        replication: client.replication.as_ref().map_or(Replication::None, |it| it.kind),
        tls: client.tls.as_ref().map(|it| worker.shared.borrow_mut().tls(&it.to_string())),
    });
}

/// What the pool's servers report, for the client's first ParameterStatus messages, where none has been opened yet:
/// the client waits for the first.
async fn first_welcome(
    config: &Config,
    pool: &PoolClient,
    entry: &Arc<ClientEntry>,
    (limits, deadline): (&ClientSettings, Option<tokio::time::Instant>),
) -> Result<Arc<Values>, Refusal> {
    let claim = Claim::to_look(Arc::clone(entry));
    let first = checkout(config, pool, &claim, limits);
    let lease = match deadline {
        None => first.await,
        Some(deadline) => timeout_at(deadline, first).await.map_err(|_| Refusal::LoginTimeoutServerDown)?,
    };
    let lease = lease.map_err(|report| Refusal::Server(Box::new(report)))?;
    let welcome = lease.welcome();
    match lease.session.as_ref().and_then(|it| it.proof()) {
        Some(done) => lease.unused(done, Instant::now()),
        None => lease.close(NOT_READY),
    }
    Ok(welcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_client_stays_small() {
        type Admission = std::future::Ready<Result<Admitted, End>>;
        fn task<F>(_: impl FnOnce(Session) -> F) -> usize {
            size_of::<F>()
        }
        fn whole<F>(_: impl FnOnce(Box<Guest>, Pin<Box<Admission>>) -> F) -> usize {
            size_of::<F>()
        }
        for (what, bytes, most) in [
            ("the task of a connection", whole(attend), 656),
            ("the task of a session", task(Session::run), 640),
            ("the driver", size_of::<Driver>(), 496),
            ("the relay", size_of::<Relay>(), 224),
            ("the entry on the roster", size_of::<ClientEntry>(), 300),
        ] {
            assert!(bytes <= most, "{what} has {bytes} bytes");
        }
        // Its places must last as long as the conversation.
        assert!(task(Session::run) >= size_of::<Session>());
    }
}
