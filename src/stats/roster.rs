//! Who is connected, and in what state.
//!
//! Owns an entry for each client and each server connection, from its accept or connect until its seat is dropped. It
//! refuses to decide anything: it is for SHOW, and for finding a client that is to be disconnected. Invariant: a change
//! of state on the path of a query is a relaxed store of an integer; nothing there takes a lock.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use dashmap::DashMap;
use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::{Address, Replication};
use crate::ids::{ClientId, DatabaseName, PeerId, PoolKey, ServerId, UserName, WorkerId};

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $(#[doc = $help:literal] $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum $name {
            $(#[doc = $help] $variant,)*
        }

        impl $name {
            /// All of them, in the order in which SHOW lists them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            fn of(stored: u8) -> Self {
                Self::ALL.get(usize::from(stored)).copied().unwrap_or(Self::ALL[0])
            }
        }
    };
}

states!(
    /// What a client is doing.
    ClientState {
        /// Starting up: not yet logged in.
        Login,
        /// Logged in. Linked to a server or, shown as `idle`, not.
        Active,
        /// Waiting for a server.
        Waiting,
        /// A cancel request on its way to a server.
        ActiveCancelRequest,
        /// A cancel request that waits for its turn.
        WaitingCancelRequest,
    }
);

states!(
    /// What a server connection is doing.
    ServerState {
        /// Connecting or logging in.
        Login,
        /// Linked to a client.
        Active,
        /// Free.
        Idle,
        /// Free for so long that it is tested before it is given out.
        Used,
        /// Running `server_reset_query` or `server_check_query`.
        Tested,
        /// Carrying a cancel request.
        ActiveCancel,
        /// Held until the cancel requests against it are done.
        BeingCanceled,
    }
);

/// Why a client is told to go. Once ordered, it is not taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Disconnect {
    /// KILL_CLIENT.
    Admin = 1,
    /// KILL, or the database has left the configuration.
    DatabaseRemoved,
    /// Its buffers were not empty when `suspend_timeout` was over.
    SuspendTimeout,
    /// The process ends.
    Shutdown,
}

impl Disconnect {
    /// The message that the client gets.
    pub fn message(self) -> &'static str {
        match self {
            Self::Admin => "admin forced disconnect",
            Self::DatabaseRemoved => "database removed",
            Self::SuspendTimeout => "suspend_timeout",
            Self::Shutdown => "server shutting down",
        }
    }

    fn of(stored: u8) -> Option<Self> {
        [Self::Admin, Self::DatabaseRemoved, Self::SuspendTimeout, Self::Shutdown]
            .into_iter()
            .find(|it| *it as u8 == stored)
    }
}

/// What is known of a client when it is accepted.
#[derive(Clone, Debug)]
pub struct ClientConnected {
    /// Its number.
    pub id: ClientId,
    /// Where it lives at first; see [`ClientEntry::worker`].
    pub worker: WorkerId,
    /// Its end.
    pub peer: Address,
    /// Our end.
    pub local: Address,
}

/// What is known of a client once it has logged in.
#[derive(Clone, Debug)]
pub struct ClientLogin {
    /// Who logged in.
    pub user: UserName,
    /// The pool that serves it: its user differs where the database forces one.
    pub pool: PoolKey,
    /// Kind of replication.
    pub replication: Replication,
    /// `TLSv1.3/TLS_AES_256_GCM_SHA384`, or none. One text is shared by all clients with the same.
    pub tls: Option<Arc<str>>,
}

/// Where a cancel request goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CancelOf {
    /// To a server of this pool.
    Pool(PoolKey),
    /// To another process, which knows the client.
    Peer(PeerId),
}

/// What is known of a server connection when it is made.
#[derive(Clone, Debug)]
pub struct ServerConnected {
    /// Its number.
    pub id: ServerId,
    /// Its pool.
    pub pool: PoolKey,
    /// Set where it leads to another process and not to a server; then `pool` is [`ServerConnected::no_pool`].
    pub peer_process: Option<PeerId>,
    /// Its end.
    pub peer: Address,
    /// Our end.
    pub local: Address,
    /// Kind of replication.
    pub replication: Replication,
    /// As for clients.
    pub tls: Option<Arc<str>>,
}

impl ServerConnected {
    /// What SHOW has in place of a pool, as PgBouncer.
    pub fn no_pool() -> PoolKey {
        PoolKey { database: "(nodb)".into(), user: "(nouser)".into() }
    }
}

/// What clients and servers have in common. Times are microseconds on the roster's clock; 0 is "none".
#[derive(Debug)]
struct Activity {
    connected_us: u64,
    state: AtomicU8,
    close_needed: AtomicBool,
    link: AtomicU64,
    request_us: AtomicU64,
    query_since_us: AtomicU64,
    prepared: AtomicU32,
    buffered: AtomicU32,
    application_name: Mutex<Option<Arc<str>>>,
}

impl Activity {
    fn new(connected_us: u64) -> Self {
        Self {
            connected_us,
            state: AtomicU8::new(0),
            close_needed: AtomicBool::new(false),
            link: AtomicU64::new(0),
            request_us: AtomicU64::new(connected_us),
            query_since_us: AtomicU64::new(0),
            prepared: AtomicU32::new(0),
            buffered: AtomicU32::new(0),
            application_name: Mutex::new(None),
        }
    }
}

macro_rules! activity {
    ($entry:ident, $state:ident, $link:ident) => {
        impl $entry {
            /// When it was connected, on the roster's clock.
            pub fn connected_us(&self) -> u64 {
                self.activity.connected_us
            }

            /// What it is doing.
            pub fn state(&self) -> $state {
                $state::of(self.activity.state.load(Ordering::Relaxed))
            }

            /// It does something else now.
            #[inline]
            pub fn set_state(&self, state: $state) {
                self.activity.state.store(state as u8, Ordering::Relaxed);
            }

            /// Its other half.
            pub fn link(&self) -> Option<$link> {
                match self.activity.link.load(Ordering::Relaxed) {
                    0 => None,
                    id => Some($link(id)),
                }
            }

            /// It has another half now, or none.
            #[inline]
            pub fn set_link(&self, link: Option<$link>) {
                self.activity.link.store(link.map_or(0, |it| it.0), Ordering::Relaxed);
            }

            /// A request came. The query clock starts where it does not run yet.
            #[inline]
            pub fn request_started(&self, now_us: u64) {
                self.activity.request_us.store(now_us, Ordering::Relaxed);
                if self.activity.query_since_us.load(Ordering::Relaxed) == 0 {
                    self.activity.query_since_us.store(now_us, Ordering::Relaxed);
                }
            }

            /// A request was sent to it; whoever waits for the answer has the query clock.
            #[inline]
            pub fn request_sent(&self, now_us: u64) {
                self.activity.request_us.store(now_us, Ordering::Relaxed);
            }

            /// Nothing is under way any more: the query clock stops.
            #[inline]
            pub fn requests_done(&self) {
                self.activity.query_since_us.store(0, Ordering::Relaxed);
            }

            /// When the last request came.
            pub fn request_us(&self) -> u64 {
                self.activity.request_us.load(Ordering::Relaxed)
            }

            /// Since when its query has been waiting or running.
            pub fn query_since_us(&self) -> Option<u64> {
                Some(self.activity.query_since_us.load(Ordering::Relaxed)).filter(|it| *it != 0)
            }

            /// Number of prepared statements it has.
            pub fn prepared(&self) -> u32 {
                self.activity.prepared.load(Ordering::Relaxed)
            }

            /// It has that many prepared statements now.
            #[inline]
            pub fn set_prepared(&self, count: usize) {
                self.activity.prepared.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
            }

            /// Bytes of it that lie in our buffers.
            pub fn buffered(&self) -> u32 {
                self.activity.buffered.load(Ordering::Relaxed)
            }

            /// That many bytes of it lie in our buffers now.
            #[inline]
            pub fn set_buffered(&self, bytes: usize) {
                self.activity.buffered.store(u32::try_from(bytes).unwrap_or(u32::MAX), Ordering::Relaxed);
            }

            /// Whether it is to be closed as soon as it is free (RECONNECT, a changed configuration).
            pub fn close_needed(&self) -> bool {
                self.activity.close_needed.load(Ordering::Relaxed)
            }

            /// It is to be closed as soon as it is free.
            pub fn mark_close_needed(&self) {
                self.activity.close_needed.store(true, Ordering::Relaxed);
            }

            /// Its application_name.
            pub fn application_name(&self) -> Option<Arc<str>> {
                self.activity.application_name.lock().clone()
            }

            /// It has another application_name now. Takes a lock: only where the name changed.
            pub fn set_application_name(&self, name: Option<Arc<str>>) {
                *self.activity.application_name.lock() = name.filter(|it| !it.is_empty());
            }
        }
    };
}

activity!(ClientEntry, ClientState, ServerId);
activity!(ServerEntry, ServerState, ClientId);

/// A client connection.
#[derive(Debug)]
pub struct ClientEntry {
    /// What was known at its accept.
    pub connected: ClientConnected,
    claim: OnceLock<Box<(DatabaseName, UserName)>>,
    login: OnceLock<ClientLogin>,
    /// Boxed: only cancel requests have it, and they are few.
    cancel_of: OnceLock<Box<CancelOf>>,
    activity: Activity,
    disconnect: AtomicU8,
    worker: AtomicU16,
    waker: Mutex<Option<Waker>>,
}

impl ClientEntry {
    /// Its number.
    pub fn id(&self) -> ClientId {
        self.connected.id
    }

    /// Where it lives.
    #[inline]
    pub fn worker(&self) -> WorkerId {
        WorkerId(self.worker.load(Ordering::Relaxed))
    }

    /// It lives on this worker now.
    pub fn moved(&self, worker: WorkerId) {
        self.worker.store(worker.0, Ordering::Relaxed);
    }

    /// Its start-up packet names these. For log lines only: nothing is proved yet.
    pub fn claims(&self, database: DatabaseName, user: UserName) {
        // A client has one start-up packet; a second one is refused elsewhere.
        let _ = self.claim.set(Box::new((database, user)));
    }

    /// The database for log lines: `(nodb)` before the start-up packet.
    pub fn database_name(&self) -> &str {
        let claimed = || self.claim.get().map(|it| &it.0);
        let canceled = || match self.cancel_of()? {
            CancelOf::Pool(pool) => Some(&pool.database),
            CancelOf::Peer(_) => None,
        };
        let database = self.login().map(|it| &it.pool.database).or_else(claimed).or_else(canceled);
        database.map_or("(nodb)", DatabaseName::as_str)
    }

    /// The user for log lines: `(nouser)` before the start-up packet.
    pub fn user_name(&self) -> &str {
        let claimed = || self.claim.get().map(|it| &it.1);
        self.login().map(|it| &it.user).or_else(claimed).map_or("(nouser)", UserName::as_str)
    }

    /// It has logged in, and is active from now on. A second call changes nothing.
    pub fn logged_in(&self, login: ClientLogin) {
        if self.login.set(login).is_ok() {
            self.set_state(ClientState::Active);
        }
    }

    /// What is known since its login.
    pub fn login(&self) -> Option<&ClientLogin> {
        self.login.get()
    }

    /// It is a cancel request that waits for a connection to carry it. A second call changes nothing.
    pub fn requests_cancel(&self, of: CancelOf) {
        if self.cancel_of.set(Box::new(of)).is_ok() {
            self.set_state(ClientState::WaitingCancelRequest);
        }
    }

    /// Where it goes, if it is a cancel request.
    pub fn cancel_of(&self) -> Option<&CancelOf> {
        self.cancel_of.get().map(|it| &**it)
    }

    /// Tells it to go: its driver is woken and finds the reason. The first reason stays.
    pub fn order_disconnect(&self, reason: Disconnect) {
        // The reason is stored before the waker is read, and `poll_disconnect` looks again after having left its
        // waker: one of the two sees the other. The mutex orders them.
        let first =
            self.disconnect.compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if first {
            self.nudge();
        }
    }

    /// Wakes its driver, which is to look around.
    pub fn nudge(&self) {
        let waker = self.waker.lock().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The order to go, if there is one. A plain load: cheap enough for every turn of the driver.
    #[inline]
    pub fn disconnect_ordered(&self) -> Option<Disconnect> {
        match self.disconnect.load(Ordering::Acquire) {
            0 => None,
            stored => Disconnect::of(stored),
        }
    }

    /// The order to go; without one, `waker` is woken when it comes, and at every nudge until another waker is left
    /// here: who asks with the same one again may ask [`Self::disconnect_ordered`] instead. One task only may ask.
    pub fn poll_disconnect(&self, waker: &Waker) -> Poll<Disconnect> {
        if let Some(reason) = self.disconnect_ordered() {
            return Poll::Ready(reason);
        }
        let mut left = self.waker.lock();
        if !left.as_ref().is_some_and(|it| it.will_wake(waker)) {
            *left = Some(waker.clone());
        }
        match self.disconnect_ordered() {
            Some(reason) => Poll::Ready(reason),
            None => Poll::Pending,
        }
    }

    /// Ready when it is told to go. Cancel safe.
    pub async fn disconnected(&self) -> Disconnect {
        std::future::poll_fn(|context| self.poll_disconnect(context.waker())).await
    }
}

/// A server connection.
#[derive(Debug)]
pub struct ServerEntry {
    /// What was known when it was made.
    pub connected: ServerConnected,
    activity: Activity,
    pid: AtomicU32,
}

impl ServerEntry {
    /// Its number.
    pub fn id(&self) -> ServerId {
        self.connected.id
    }

    /// PostgreSQL's process: that of the Unix socket, else of the cancel key; 0 before the login is done.
    pub fn pid(&self) -> u32 {
        self.connected.peer.pid().unwrap_or_else(|| self.pid.load(Ordering::Relaxed))
    }

    /// The process that the cancel key names.
    pub fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }
}

/// Everybody who is connected.
#[derive(Debug)]
pub struct Roster {
    clients: DashMap<ClientId, Arc<ClientEntry>, RandomState>,
    servers: DashMap<ServerId, Arc<ServerEntry>, RandomState>,
    client_count: AtomicUsize,
    server_count: AtomicUsize,
    start: Instant,
    start_wall: SystemTime,
}

impl Roster {
    /// Nobody. `now` and `wall` are the same moment: that of the start of the process.
    pub fn new(now: Instant, wall: SystemTime) -> Arc<Self> {
        Arc::new(Self {
            clients: DashMap::default(),
            servers: DashMap::default(),
            client_count: AtomicUsize::new(0),
            server_count: AtomicUsize::new(0),
            start: now,
            start_wall: wall,
        })
    }

    /// A moment on the roster's clock: microseconds since the start, never 0.
    #[inline]
    pub fn micros(&self, now: Instant) -> u64 {
        let micros = now.saturating_duration_since(self.start).as_micros();
        u64::try_from(micros).map_or(u64::MAX, |it| it.saturating_add(1))
    }

    /// The time of day of a moment on the roster's clock.
    pub fn wall(&self, micros: u64) -> SystemTime {
        self.start_wall + Duration::from_micros(micros.saturating_sub(1))
    }

    /// When the process started.
    pub fn started(&self) -> SystemTime {
        self.start_wall
    }

    /// A client was accepted. It is on the roster until the seat is dropped.
    pub fn client(self: &Arc<Self>, connected: ClientConnected, now: Instant) -> ClientSeat {
        let entry = Arc::new(ClientEntry {
            activity: Activity::new(self.micros(now)),
            worker: AtomicU16::new(connected.worker.0),
            connected,
            claim: OnceLock::new(),
            login: OnceLock::new(),
            cancel_of: OnceLock::new(),
            disconnect: AtomicU8::new(0),
            waker: Mutex::new(None),
        });
        self.clients.insert(entry.id(), Arc::clone(&entry));
        self.client_count.fetch_add(1, Ordering::Relaxed);
        ClientSeat { entry, roster: Arc::clone(self) }
    }

    /// Gives back the room of clients that have left.
    pub fn shrink(&self) {
        self.clients.shrink_to_fit();
    }

    /// A server connection is being made. It is on the roster until the seat is dropped.
    pub fn server(self: &Arc<Self>, connected: ServerConnected, now: Instant) -> ServerSeat {
        let entry = Arc::new(ServerEntry {
            activity: Activity::new(self.micros(now)),
            connected,
            pid: AtomicU32::new(0),
        });
        self.servers.insert(entry.id(), Arc::clone(&entry));
        self.server_count.fetch_add(1, Ordering::Relaxed);
        ServerSeat { entry, roster: Arc::clone(self) }
    }

    /// Number of clients, those that are logging in included.
    pub fn client_count(&self) -> usize {
        self.client_count.load(Ordering::Relaxed)
    }

    /// Number of server connections.
    pub fn server_count(&self) -> usize {
        self.server_count.load(Ordering::Relaxed)
    }

    /// The client with that number.
    pub fn find_client(&self, id: ClientId) -> Option<Arc<ClientEntry>> {
        self.clients.get(&id).map(|it| Arc::clone(&it))
    }

    /// The server connection with that number.
    pub fn find_server(&self, id: ServerId) -> Option<Arc<ServerEntry>> {
        self.servers.get(&id).map(|it| Arc::clone(&it))
    }

    /// All clients, by number.
    pub fn clients(&self) -> Vec<Arc<ClientEntry>> {
        let mut all: Vec<_> = self.clients.iter().map(|it| Arc::clone(&it)).collect();
        all.sort_unstable_by_key(|it| it.id());
        all
    }

    /// All server connections, by number.
    pub fn servers(&self) -> Vec<Arc<ServerEntry>> {
        let mut all: Vec<_> = self.servers.iter().map(|it| Arc::clone(&it)).collect();
        all.sort_unstable_by_key(|it| it.id());
        all
    }

    /// Tells all clients of a database to go. Returns how many there are.
    pub fn disconnect_database(&self, database: &DatabaseName, reason: Disconnect) -> usize {
        let of_it: Vec<_> = self
            .clients
            .iter()
            .filter(|it| it.login().is_some_and(|login| login.pool.database == *database))
            .map(|it| Arc::clone(&it))
            .collect();
        // Woken outside the map's lock: a waker may run code.
        of_it.iter().for_each(|it| it.order_disconnect(reason));
        of_it.len()
    }

    /// Tells all clients to go.
    pub fn disconnect_all(&self, reason: Disconnect) {
        self.clients().iter().for_each(|it| it.order_disconnect(reason));
    }
}

macro_rules! seat {
    ($(#[$doc:meta])* $seat:ident, $entry:ident, $map:ident, $count:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[must_use = "dropping the seat takes the connection off the roster"]
        pub struct $seat {
            entry: Arc<$entry>,
            roster: Arc<Roster>,
        }

        impl $seat {
            /// The entry, to be kept by others; it outlives the seat, but is found no more then.
            pub fn entry(&self) -> &Arc<$entry> {
                &self.entry
            }
        }

        impl Deref for $seat {
            type Target = $entry;

            fn deref(&self) -> &$entry {
                &self.entry
            }
        }

        impl Drop for $seat {
            fn drop(&mut self) {
                self.roster.$map.remove(&self.entry.id());
                self.roster.$count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    };
}

seat!(
    /// A client's place on the roster.
    ClientSeat,
    ClientEntry,
    clients,
    client_count
);
seat!(
    /// A server connection's place on the roster.
    ServerSeat,
    ServerEntry,
    servers,
    server_count
);

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    fn roster() -> Arc<Roster> {
        Roster::new(Instant::now(), SystemTime::now())
    }

    fn client(roster: &Arc<Roster>, id: u64) -> ClientSeat {
        let peer = Address::Tcp("127.0.0.1:5000".parse().expect("an address"));
        let connected = ClientConnected { id: ClientId(id), worker: WorkerId(0), local: peer.clone(), peer };
        roster.client(connected, Instant::now())
    }

    fn login(database: &str) -> ClientLogin {
        let user = UserName::from("u");
        let pool = PoolKey { database: database.into(), user: user.clone() };
        ClientLogin { user, pool, replication: Replication::None, tls: None }
    }

    struct Bell(AtomicBool);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn bell() -> (Arc<Bell>, Waker) {
        let bell = Arc::new(Bell(AtomicBool::new(false)));
        (Arc::clone(&bell), Waker::from(bell))
    }

    #[test]
    fn a_client_is_listed_until_its_seat_is_dropped() {
        let roster = roster();
        let second = client(&roster, 2);
        let first = client(&roster, 1);
        assert_eq!(roster.clients().iter().map(|it| it.id().0).collect::<Vec<_>>(), [1, 2]);
        drop(first);
        assert!(roster.find_client(ClientId(1)).is_none());
        assert_eq!(roster.client_count(), 1);
        drop(second);
        assert_eq!(roster.client_count(), 0);
    }

    #[test]
    fn a_client_is_in_login_until_it_has_logged_in() {
        let roster = roster();
        let client = client(&roster, 1);
        assert_eq!(client.state(), ClientState::Login);
        client.logged_in(login("d"));
        assert_eq!(client.state(), ClientState::Active);
        client.set_state(ClientState::Waiting);
        assert_eq!(client.state(), ClientState::Waiting);
    }

    #[test]
    fn a_client_has_names_from_its_start_up_packet_on() {
        let roster = roster();
        let client = client(&roster, 1);
        assert_eq!((client.database_name(), client.user_name()), ("(nodb)", "(nouser)"));
        client.claims("d".into(), "somebody".into());
        assert_eq!((client.database_name(), client.user_name()), ("d", "somebody"));
        client.logged_in(login("d"));
        assert_eq!((client.database_name(), client.user_name()), ("d", "u"));
    }

    #[test]
    fn a_client_told_to_go_is_woken_with_the_first_reason() {
        let roster = roster();
        let client = client(&roster, 1);
        let (bell, waker) = bell();
        assert!(client.poll_disconnect(&waker).is_pending());
        client.order_disconnect(Disconnect::Admin);
        client.order_disconnect(Disconnect::Shutdown);
        assert!(bell.0.load(Ordering::SeqCst));
        assert_eq!(client.poll_disconnect(&waker), Poll::Ready(Disconnect::Admin));
    }

    #[test]
    fn an_order_that_came_before_anybody_asked_is_found() {
        let roster = roster();
        let client = client(&roster, 1);
        client.order_disconnect(Disconnect::DatabaseRemoved);
        assert_eq!(client.disconnect_ordered(), Some(Disconnect::DatabaseRemoved));
    }

    #[test]
    fn a_killed_database_takes_only_its_own_clients_along() {
        let roster = roster();
        let (mine, other, unknown) = (client(&roster, 1), client(&roster, 2), client(&roster, 3));
        mine.logged_in(login("d"));
        other.logged_in(login("e"));
        assert_eq!(roster.disconnect_database(&"d".into(), Disconnect::DatabaseRemoved), 1);
        assert!(mine.disconnect_ordered().is_some());
        assert!(other.disconnect_ordered().is_none() && unknown.disconnect_ordered().is_none());
    }

    #[test]
    fn the_query_clock_runs_from_the_first_request_until_all_are_done() {
        let roster = roster();
        let client = client(&roster, 1);
        assert_eq!(client.query_since_us(), None);
        client.request_started(5);
        client.request_started(9);
        assert_eq!((client.query_since_us(), client.request_us()), (Some(5), 9));
        client.requests_done();
        assert_eq!((client.query_since_us(), client.request_us()), (None, 9));
    }

    #[test]
    fn the_clock_never_shows_zero_and_leads_back_to_the_time_of_day() {
        let now = Instant::now();
        let roster = Roster::new(now, SystemTime::UNIX_EPOCH);
        assert_eq!(roster.micros(now), 1);
        let later = roster.micros(now + Duration::from_secs(2));
        assert_eq!(roster.wall(later), SystemTime::UNIX_EPOCH + Duration::from_secs(2));
    }

    #[test]
    fn addresses_read_as_in_pgbouncers_log() {
        for (address, text) in [
            (Address::Tcp("127.0.0.1:1".parse().expect("v4")), "127.0.0.1:1"),
            (Address::Tcp("[::1]:1".parse().expect("v6")), "[::1]:1"),
            (Address::Tcp("[::ffff:10.0.0.1]:1".parse().expect("mapped")), "10.0.0.1:1"),
            (Address::Unix { pid: 7, port: 6432 }, "unix(7):6432"),
        ] {
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn an_idle_client_costs_little() {
        assert!(size_of::<ClientEntry>() <= 384, "{}", size_of::<ClientEntry>());
    }
}
