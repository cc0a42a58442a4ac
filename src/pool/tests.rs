//! Pools with servers and an opener of the test's own: every seam, without sockets.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::task::{Context, Poll, Waker};

use super::connection::Connection;
use super::schedule::{Counts, OpenFailure};
use super::*;
use crate::config::{Config, Database, ReloadPlan, Settings, User};
use crate::ids::{ClientId, DatabaseName, ServerId, UserName};
use crate::session::verdict::Done;
use crate::stats::{Address, ClientConnected, ClientSeat, ClientState, Replication, Roster, ServerConnected};
use crate::wire::{Report, SqlState};

#[cfg(feature = "interleavings")]
mod interleavings;
mod stress;

/// A server of which the test holds the other end.
pub(super) struct FakeConn {
    wire: Arc<Wire>,
    home: WorkerId,
}

/// What the test sees of a server, and does to it.
#[derive(Default)]
pub(super) struct Wire {
    id: AtomicU64,
    closed: AtomicBool,
    /// It has something to say; true for good once it is broken.
    readable: AtomicBool,
    broken: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Wire {
    fn speak(&self) {
        self.readable.store(true, Ordering::SeqCst);
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn hang_up(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.speak();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

/// A pool at one moment.
#[derive(Debug)]
struct PoolView {
    servers: Counts,
    waiting: usize,
    clients: usize,
}

impl<C: Connection> Pool<C> {
    fn view(&self) -> PoolView {
        let schedule = self.lock();
        PoolView {
            servers: schedule.counts(),
            waiting: schedule.waiting(),
            clients: self.clients.load(Ordering::Relaxed),
        }
    }
}

impl Connection for FakeConn {
    type Cancel = Arc<Wire>;

    fn connected(&self, pool: &PoolKey) -> ServerConnected {
        let peer = Address::Unix { pid: 0, port: 5432 };
        let id = ServerId(self.wire.id.load(Ordering::SeqCst));
        let (pool, local, replication) = (pool.clone(), peer.clone(), Replication::None);
        ServerConnected { id, pool, peer_process: None, peer, local, replication, tls: None }
    }

    fn backend(&self) -> u32 {
        7
    }

    fn cancel(&self) -> Option<Arc<Wire>> {
        Some(Arc::clone(&self.wire))
    }

    fn reported(&self) -> Arc<Values> {
        Arc::new([("server_version", "18.1")].into_iter().collect())
    }

    fn welcome(&self) -> Arc<Values> {
        self.reported()
    }

    fn share_reported(&mut self, _: Arc<Values>) {}

    fn prepared(&self) -> usize {
        0
    }

    fn home(&self) -> WorkerId {
        self.home
    }

    fn rehome(mut self, worker: WorkerId) -> io::Result<Self> {
        self.home = worker;
        Ok(self)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        *self.wire.waker.lock() = Some(cx.waker().clone());
        if self.wire.readable.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn digest(&mut self) -> Result<(), String> {
        if self.wire.broken.load(Ordering::SeqCst) {
            return Err("server conn crashed?".to_owned());
        }
        self.wire.readable.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn close(self) {}
}

impl Drop for FakeConn {
    fn drop(&mut self) {
        self.wire.closed.store(true, Ordering::SeqCst);
    }
}

/// Keeps the servers to be opened until the test opens them.
#[derive(Default)]
pub(super) struct FakeOpener {
    tasks: Mutex<VecDeque<OpenTask<FakeConn>>>,
    next: AtomicU64,
}

impl Opener<FakeConn> for FakeOpener {
    fn open(&self, _: Option<WorkerId>, task: OpenTask<FakeConn>) {
        self.tasks.lock().push_back(task);
    }

    fn check(&self, lease: Lease<Resetting, FakeConn>) {
        lease.cleaned().give_back(Instant::now());
    }
}

impl FakeOpener {
    fn pending(&self) -> usize {
        self.tasks.lock().len()
    }

    fn take(&self) -> Option<OpenTask<FakeConn>> {
        self.tasks.lock().pop_front()
    }

    fn open_one(&self) -> Option<Arc<Wire>> {
        let task = self.take()?;
        let wire = Arc::new(Wire::default());
        wire.id.store(1000 + self.next.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        let home = WorkerId(0);
        task.opened(FakeConn { wire: Arc::clone(&wire), home }, Instant::now());
        Some(wire)
    }
}

/// Everything around the pools.
struct World {
    pools: Arc<Pools<FakeConn>>,
    opener: Arc<FakeOpener>,
    roster: Arc<Roster>,
    config: Arc<ArcSwap<Config>>,
}

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let settings = Settings { default_pool_size: 1, server_connecting_max: 4, ..Settings::default() };
    let mut config = Config { settings, ..Config::default() };
    for name in ["a", "b"] {
        config.databases.insert(name.into(), Database::default());
    }
    change(&mut config);
    config
}

fn world(change: impl FnOnce(&mut Config)) -> World {
    let opener = Arc::new(FakeOpener::default());
    let roster = Roster::new(Instant::now(), std::time::SystemTime::now());
    let config = Arc::new(ArcSwap::from_pointee(config(change)));
    let setup = PoolsSetup {
        config: Arc::clone(&config),
        roster: Arc::clone(&roster),
        opener: Arc::clone(&opener) as Arc<dyn Opener<FakeConn>>,
        workers: 2,
    };
    World { pools: Pools::new(setup), opener, roster, config }
}

fn key(database: &str) -> PoolKey {
    PoolKey { database: database.into(), user: "u".into() }
}

struct Client {
    claim: Claim<FakeConn>,
    pool: PoolClient<FakeConn>,
    seat: ClientSeat,
}

impl World {
    fn client(&self, id: u64, database: &str) -> Client {
        self.client_on(id, database, 0)
    }

    fn client_on(&self, id: u64, database: &str, worker: u16) -> Client {
        let peer = Address::Unix { pid: 0, port: 6432 };
        let (id, worker) = (ClientId(id), WorkerId(worker));
        let connected = ClientConnected { id, worker, local: peer.clone(), peer };
        let seat = self.roster.client(connected, Instant::now());
        Client { claim: Claim::new(Arc::clone(seat.entry())), pool: self.pools.enter(&key(database)), seat }
    }

    /// A client with a server.
    fn served(&self, id: u64, database: &str) -> (Client, Lease<Busy, FakeConn>) {
        let client = self.client(id, database);
        let lease = match client.checkout() {
            Answer::Granted(lease) => lease,
            Answer::Waiting => {
                self.opener.open_one().expect("a server is to be opened");
                client.granted()
            }
            Answer::Refused(refusal) => panic!("{refusal:?}"),
        };
        (client, lease)
    }
}

impl Client {
    fn checkout(&self) -> Answer<FakeConn> {
        self.claim.checkout(&self.pool, Instant::now())
    }

    #[track_caller]
    fn waits(&self) {
        assert!(matches!(self.checkout(), Answer::Waiting));
    }

    fn poll(&self) -> Poll<Result<Lease<Busy, FakeConn>, Refusal>> {
        self.claim.poll(&mut Context::from_waker(Waker::noop()), Instant::now())
    }

    #[track_caller]
    fn granted(&self) -> Lease<Busy, FakeConn> {
        match self.poll() {
            Poll::Ready(Ok(lease)) => lease,
            Poll::Ready(Err(refusal)) => panic!("{refusal:?}"),
            Poll::Pending => panic!("still waiting"),
        }
    }

    #[track_caller]
    fn refused(&self) -> Refusal {
        match self.poll() {
            Poll::Ready(Err(refusal)) => refusal,
            Poll::Ready(Ok(_)) => panic!("granted"),
            Poll::Pending => panic!("still waiting"),
        }
    }
}

fn give_back(lease: Lease<Busy, FakeConn>) {
    lease.done(Done::assumed()).give_back(Instant::now());
}

fn is_ready(future: impl Future<Output = ()>) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn a_client_gets_a_server_and_gives_it_back_to_the_next() {
    let world = world(|_| ());
    let (first, lease) = world.served(1, "a");
    let wire = Arc::clone(&lease.wire);
    let second = world.client(2, "a");
    second.waits();
    assert_eq!(world.opener.pending(), 0, "the pool is full");
    assert_eq!(second.seat.state(), ClientState::Waiting);
    assert!(second.poll().is_pending());
    give_back(lease);
    let lease = second.granted();
    assert!(Arc::ptr_eq(&lease.wire, &wire));
    assert_eq!((first.seat.link(), second.seat.link()), (None, lease.entry().map(|it| it.id())));
    give_back(lease);
    assert!(matches!(first.checkout(), Answer::Granted(_)));
    assert_eq!(first.pool.stats().totals().server_assignment_count, 3);
}

#[test]
fn a_dropped_lease_closes_the_server_and_a_new_one_is_opened_for_who_waits() {
    let world = world(|_| ());
    let (_first, lease) = world.served(1, "a");
    let wire = Arc::clone(&lease.wire);
    let second = world.client(2, "a");
    second.waits();
    drop(lease);
    assert!(wire.is_closed());
    assert_eq!(world.roster.server_count(), 0);
    world.opener.open_one().expect("a replacement");
    drop(second.granted());
}

#[test]
fn the_first_server_makes_the_welcome() {
    let world = world(|_| ());
    let client = world.client(1, "a");
    assert!(client.pool.welcome().is_none());
    client.waits();
    world.opener.open_one();
    assert_eq!(client.pool.welcome().expect("a welcome").value("server_version"), Some("18.1"));
    give_back(client.granted());
    world.pools.reconnect(None);
    assert!(client.pool.welcome().is_none(), "RECONNECT forgets it");
}

#[test]
fn a_client_of_another_worker_takes_the_server_home() {
    let world = world(|_| ());
    let (_first, lease) = world.served(1, "a");
    give_back(lease);
    let second = world.client_on(2, "a", 1);
    let Answer::Granted(lease) = second.checkout() else { panic!("it is idle") };
    assert_eq!(lease.home, WorkerId(1));
}

#[test]
fn who_leaves_the_queue_is_not_served() {
    let world = world(|_| ());
    let (_first, lease) = world.served(1, "a");
    let (second, third) = (world.client(2, "a"), world.client(3, "a"));
    second.waits();
    third.waits();
    assert_eq!(third.claim.queue_view(Instant::now()).expect("it waits").before, 1);
    drop(second);
    give_back(lease);
    drop(third.granted());
}

#[test]
fn a_server_granted_to_who_has_left_goes_to_the_next() {
    let world = world(|_| ());
    let (_first, lease) = world.served(1, "a");
    let (second, third) = (world.client(2, "a"), world.client(3, "a"));
    second.waits();
    third.waits();
    give_back(lease);
    drop(second);
    drop(third.granted());
}

#[test]
fn a_cancelled_waiter_leaves_the_queue() {
    let world = world(|_| ());
    let (_first, lease) = world.served(1, "a");
    let second = world.client(2, "a");
    second.waits();
    assert!(matches!(second.claim.caller().cancel(), Cancel::LeftQueue));
    assert_eq!(second.refused(), Refusal::Canceled);
    give_back(lease);
    assert_eq!(second.pool.view().servers.idle, 1);
    assert!(matches!(second.checkout(), Answer::Granted(_)), "it may ask again");
}

#[test]
fn a_cancelled_client_that_was_just_granted_a_server_does_not_get_it() {
    let world = world(|_| ());
    let (_first, lease) = world.served(1, "a");
    let second = world.client(2, "a");
    second.waits();
    give_back(lease);
    assert!(matches!(second.claim.caller().cancel(), Cancel::LeftQueue));
    assert_eq!(second.refused(), Refusal::Canceled);
    assert_eq!(second.pool.view().servers.idle, 1);
}

#[test]
fn a_server_is_not_reused_while_a_cancel_is_on_its_way() {
    let world = world(|_| ());
    let (first, lease) = world.served(1, "a");
    let Cancel::Send(hold) = first.claim.caller().cancel() else { panic!("a query runs") };
    assert!(hold.target().is_some_and(|target| Arc::ptr_eq(target, &lease.wire)));
    give_back(lease);
    let second = world.client(2, "a");
    second.waits();
    assert_eq!(second.pool.view().servers.held, 1);
    assert!(matches!(first.claim.caller().cancel(), Cancel::Nothing), "its query has ended");
    hold.ended();
    drop(second.granted());
}

#[test]
fn a_server_that_speaks_while_a_cancel_is_on_its_way_is_heard_afterwards() {
    for (name, dies) in [("speaks", false), ("dies", true)] {
        let world = world(|_| ());
        let (first, lease) = world.served(1, "a");
        let Cancel::Send(hold) = first.claim.caller().cancel() else { panic!("a query runs") };
        let wire = Arc::clone(&lease.wire);
        give_back(lease);
        if dies {
            wire.hang_up()
        } else {
            wire.speak()
        };
        // It is nobody's, but not idle either.
        world.pools.hear(Instant::now());
        hold.ended();
        world.pools.hear(Instant::now());
        assert_eq!(wire.is_closed(), dies, "{name}");
        let second = world.client(2, "a");
        match second.checkout() {
            Answer::Granted(lease) => assert!(Arc::ptr_eq(&lease.wire, &wire) && !dies, "{name}"),
            Answer::Waiting => {
                assert!(dies && world.opener.open_one().is_some(), "{name}: it waits for nothing")
            }
            Answer::Refused(refusal) => panic!("{name}: {refusal:?}"),
        }
    }
}

#[test]
fn a_server_is_closed_if_nobody_knows_what_became_of_a_cancel() {
    let world = world(|_| ());
    let (first, lease) = world.served(1, "a");
    let Cancel::Send(hold) = first.claim.caller().cancel() else { panic!("a query runs") };
    let wire = Arc::clone(&lease.wire);
    give_back(lease);
    drop(hold);
    assert!(wire.is_closed());
}

#[test]
fn a_cancel_passes_by_the_poolers_own_query() {
    let world = world(|_| ());
    let (first, lease) = world.served(1, "a");
    lease.shield();
    assert!(matches!(first.claim.caller().cancel(), Cancel::Nothing));
    lease.unshield();
    let Cancel::Send(hold) = first.claim.caller().cancel() else { panic!("a query runs") };
    hold.ended();
}

#[test]
fn a_server_being_reset_is_nobodys() {
    let world = world(|_| ());
    let (first, lease) = world.served(1, "a");
    let lease = lease.reset(Done::assumed());
    assert!(matches!(first.claim.caller().cancel(), Cancel::Nothing));
    first.waits();
    assert_eq!(first.pool.view().servers.resetting, 1);
    lease.cleaned().give_back(Instant::now());
    drop(first.granted());
}

#[test]
fn an_idle_server_that_dies_is_closed() {
    let world = world(|_| ());
    let (first, lease) = world.served(1, "a");
    let wire = Arc::clone(&lease.wire);
    give_back(lease);
    wire.hang_up();
    assert!(!wire.is_closed(), "reactors only ring");
    first.waits();
    world.pools.hear(Instant::now());
    assert!(wire.is_closed());
    world.opener.open_one().expect("a replacement");
    drop(first.granted());
}

#[test]
fn an_idle_server_that_speaks_is_heard_and_goes_on() {
    let world = world(|_| ());
    let (first, lease) = world.served(1, "a");
    let wire = Arc::clone(&lease.wire);
    give_back(lease);
    wire.speak();
    first.waits();
    world.pools.hear(Instant::now());
    assert!(Arc::ptr_eq(&first.granted().wire, &wire));
    assert_eq!(world.opener.pending(), 0);
}

#[test]
fn a_server_that_has_died_when_it_is_given_back_is_closed() {
    let world = world(|_| ());
    let (_first, lease) = world.served(1, "a");
    let wire = Arc::clone(&lease.wire);
    wire.hang_up();
    give_back(lease);
    assert!(wire.is_closed());
}

#[test]
fn a_refused_login_is_told_to_those_who_wait_and_to_the_next() {
    let world = world(|_| ());
    let (first, second) = (world.client(1, "a"), world.client(2, "a"));
    first.waits();
    second.waits();
    let report = Report::fatal(SqlState::INVALID_AUTHORIZATION, "no such role");
    let error = OpenError { kind: OpenFailure::Refused, reason: report.message.clone(), report };
    world.opener.take().expect("one").failed(error.clone(), WorkerId(0), Instant::now());
    assert_eq!(first.refused(), Refusal::OpenFailed(Arc::new(error.clone())));
    assert_eq!(second.refused(), Refusal::OpenFailed(Arc::new(error)));
    assert!(matches!(first.checkout(), Answer::Refused(Refusal::StillFailing(_))));
    assert_eq!(first.pool.stats().totals().server_login_failure_count, 1);
}

#[test]
fn an_attempt_that_is_given_up_frees_its_place() {
    let world = world(|it| it.settings.max_db_connections = 1);
    let (first, second) = (world.client(1, "a"), world.client(2, "a"));
    first.waits();
    drop(world.opener.take());
    second.waits();
    assert_eq!(world.opener.pending(), 1);
}

#[test]
fn a_database_limit_takes_the_connection_from_the_longest_idle_pool() {
    let world = world(|it| it.settings.max_db_connections = 1);
    let (_first, lease) = world.served(1, "a");
    let wire = Arc::clone(&lease.wire);
    give_back(lease);
    let other = PoolKey { user: "other".into(), ..key("a") };
    let second = Client { pool: world.pools.enter(&other), ..world.client(2, "a") };
    second.waits();
    assert!(wire.is_closed(), "evicted");
    assert_eq!(world.pools.connections_of_database(&"a".into()), 1);
    world.opener.open_one().expect("in its place");
    drop(second.granted());
}

#[test]
fn no_server_is_evicted_for_a_user_who_has_no_room_anyway() {
    let world = world(|it| {
        it.settings.max_db_connections = 2;
        it.settings.default_pool_size = 2;
        it.settings.max_user_connections = 1;
    });
    let (_first, lease) = world.served(1, "a");
    let other = PoolKey { user: "other".into(), ..key("a") };
    let second = Client { pool: world.pools.enter(&other), ..world.client(2, "a") };
    second.waits();
    let wire = world.opener.open_one().expect("there is room for one");
    give_back(second.granted());
    let third = world.client(3, "a");
    third.waits();
    assert!(!wire.is_closed(), "the user's limit is what is in the way");
    give_back(lease);
    drop(third.granted());
}

#[test]
fn a_pool_starved_by_a_limit_is_served_when_a_server_of_another_pool_becomes_idle() {
    let world = world(|it| it.settings.max_user_connections = 1);
    let (_first, lease) = world.served(1, "a");
    let second = world.client(2, "b");
    second.waits();
    assert_eq!(world.opener.pending(), 0);
    give_back(lease);
    world.opener.open_one().expect("the slot has changed hands");
    drop(second.granted());
}

#[test]
fn a_pool_starved_by_a_limit_is_served_when_a_server_of_another_pool_is_closed() {
    let world = world(|it| it.settings.max_user_connections = 1);
    let (_first, lease) = world.served(1, "a");
    let second = world.client(2, "b");
    second.waits();
    lease.close("test");
    world.opener.open_one().expect("a slot is free");
    drop(second.granted());
}

#[test]
fn pause_waits_for_the_busy_and_resume_serves_the_waiting() {
    let world = world(|_| ());
    let (_first, lease) = world.served(1, "a");
    let database = DatabaseName::from("a");
    world.pools.pause(Some(&database)).expect("it runs");
    assert!(!is_ready(world.pools.idle(Some(&database))));
    let second = world.client(2, "a");
    second.waits();
    let wire = Arc::clone(&lease.wire);
    give_back(lease);
    assert!(wire.is_closed());
    assert!(is_ready(world.pools.idle(Some(&database))));
    assert!(second.poll().is_pending());
    world.pools.resume(Some(&database)).expect("it is paused");
    world.opener.open_one().expect("a server for who waits");
    drop(second.granted());
    assert_eq!(world.pools.resume(Some(&database)), Err(OrderError::NotPaused));
}

#[test]
fn a_pool_made_while_all_are_paused_is_paused() {
    let world = world(|_| ());
    world.pools.pause(None).expect("they run");
    assert_eq!(world.pools.pause(None), Err(OrderError::AlreadyPaused));
    let client = world.client(1, "a");
    client.waits();
    assert_eq!(world.opener.pending(), 0);
    world.pools.resume(None).expect("they are paused");
    assert_eq!(world.opener.pending(), 1);
}

#[tokio::test]
async fn an_order_that_waits_is_woken_by_the_last_server_given_back() {
    let world = world(|_| ());
    let (_first, lease) = world.served(1, "a");
    world.pools.pause(None).expect("they run");
    let mut idle = pin!(world.pools.idle(None));
    tokio::select! {
        biased;
        () = &mut idle => panic!("a server is busy"),
        () = std::future::ready(()) => give_back(lease),
    }
    idle.await;
}

#[test]
fn reconnect_closes_servers_as_they_become_free() {
    let world = world(|_| ());
    let (_first, lease) = world.served(1, "a");
    assert!(!lease.is_obsolete());
    world.pools.reconnect(Some(&"a".into()));
    assert!(lease.is_obsolete());
    assert!(lease.entry().expect("on the roster").close_needed());
    assert!(!is_ready(world.pools.closed(None)));
    let wire = Arc::clone(&lease.wire);
    give_back(lease);
    assert!(wire.is_closed());
    assert!(is_ready(world.pools.closed(None)));
}

#[test]
fn draining_refuses_those_who_wait_and_those_who_come() {
    let world = world(|_| ());
    let (_first, _lease) = world.served(1, "a");
    let second = world.client(2, "a");
    second.waits();
    world.pools.drain();
    assert!(world.pools.has_waiters(), "told in the next round");
    world.pools.upkeep(Instant::now());
    assert_eq!(second.refused(), Refusal::ShuttingDown);
    assert!(!world.pools.has_waiters());
    assert!(matches!(second.checkout(), Answer::Refused(Refusal::ShuttingDown)));
    assert!(world.pools.is_busy(None));
}

#[test]
fn disable_is_remembered() {
    let world = world(|it| {
        let off = Database { disabled: true, ..Database::default() };
        it.databases.insert("off".into(), off);
    });
    let (a, off) = (DatabaseName::from("a"), DatabaseName::from("off"));
    assert!(!world.pools.is_disabled(&a) && world.pools.is_disabled(&off));
    world.pools.disable(&a);
    world.pools.enable(&off);
    assert!(world.pools.is_disabled(&a) && !world.pools.is_disabled(&off));
    let same = Config::clone(&world.config.load());
    reload(&world, same.clone());
    assert!(world.pools.is_disabled(&a) && !world.pools.is_disabled(&off), "orders of the console stay");
    let mut new = same;
    new.databases.get_mut("off").unwrap().disabled = false;
    new.databases.get_mut("a").unwrap().disabled = true;
    reload(&world, new.clone());
    world.pools.enable(&a);
    assert!(!world.pools.is_disabled(&a) && !world.pools.is_disabled(&off));
    new.databases.get_mut("off").unwrap().disabled = true;
    reload(&world, new);
    assert!(!world.pools.is_disabled(&a) && world.pools.is_disabled(&off), "what is new in the file counts");
}

#[test]
fn kill_pauses_each_database_that_has_a_pool() {
    let world = world(|it| drop(it.databases.insert("b".into(), Database::default())));
    let (a, b) = (DatabaseName::from("a"), DatabaseName::from("b"));
    let (_first, lease) = world.served(1, "a");
    world.pools.kill(None).expect("they run");
    assert!(lease.is_obsolete());
    assert!(
        !world.pools.is_paused(None) && world.pools.is_paused(Some(&a)) && !world.pools.is_paused(Some(&b))
    );
    world.pools.resume(Some(&a)).expect("it is paused");
    assert_eq!(world.pools.resume(None), Err(OrderError::NotPaused));
    world.pools.kill(Some(&b)).expect("it runs");
    let _another_user = world.pools.enter(&PoolKey { user: "other".into(), ..key("a") });
    for _ in 0..2 {
        world.pools.kill(None).expect("they run");
    }
    world.pools.resume(None).expect("one is paused");
    assert!(!world.pools.is_paused(Some(&a)) && world.pools.is_paused(Some(&b)), "b was named");
    world.pools.resume(Some(&b)).expect("it is paused");
    world.pools.pause(None).expect("they run");
    assert_eq!(world.pools.kill(Some(&a)), Err(OrderError::AlreadyPaused));
}

#[test]
fn what_was_done_to_a_database_goes_with_it() {
    let world = world(|_| ());
    let a = DatabaseName::from("a");
    world.pools.kill(Some(&a)).expect("it runs");
    world.pools.disable(&a);
    let mut new = Config::clone(&world.config.load());
    new.databases.remove("a");
    reload(&world, new);
    assert!(!world.pools.any_paused() && !world.pools.is_disabled(&a));
    world.pools.upkeep(Instant::now());
    assert!(world.pools.databases().is_empty());
}

#[test]
fn a_reload_applies_sizes_at_once_and_drops_what_is_gone() {
    let world = world(|_| ());
    let (_first, lease) = world.served(1, "a");
    let second = world.client(2, "a");
    second.waits();
    let old = world.config.load_full();
    let mut new = Config::clone(&old);
    new.users.insert(UserName::from("u"), User { pool_size: Some(2), ..User::NONE });
    reload(&world, new.clone());
    assert_eq!(world.opener.pending(), 1, "there is room for one more");
    new.databases.remove("a");
    reload(&world, new);
    assert!(lease.is_obsolete());
}

fn reload(world: &World, new: Config) {
    let plan: ReloadPlan = crate::config::diff(&world.config.load(), &new);
    world.config.store(Arc::new(new));
    world.pools.reload(&plan);
}

#[test]
fn the_minimum_is_kept_for_a_forced_user_before_the_first_client() {
    let world = world(|it| {
        let forced = Database {
            user: Some("u".into()),
            min_pool_size: Some(2),
            pool_size: Some(3),
            ..Database::default()
        };
        it.databases.insert("forced".into(), forced);
    });
    world.pools.upkeep(Instant::now());
    assert_eq!(world.opener.pending(), 2);
    while world.opener.open_one().is_some() {}
    world.pools.upkeep(Instant::now());
    assert_eq!(world.opener.pending(), 0);
    assert_eq!(world.roster.server_count(), 2);
}

/// Else a login and PAUSE at the same moment could undo each other.
#[cfg(not(feature = "interleavings"))]
#[test]
fn whether_a_pool_is_paused_is_asked_under_its_lock() {
    let world = world(|_| ());
    drop(world.pools.enter(&key("a")));
    let pool = world.pools.find(&key("a")).expect("it was entered");
    pool.set_flow(|| {
        assert!(pool.schedule.try_lock().is_none());
        Flow::Paused
    });
    assert_eq!(pool.lock().flow(), Flow::Paused);
}

#[test]
fn a_server_that_dies_while_it_is_held_is_handed_to_nobody() {
    let world = world(|_| ());
    let (first, lease) = world.served(1, "a");
    let Cancel::Send(hold) = first.claim.caller().cancel() else { panic!("a query runs") };
    let wire = Arc::clone(&lease.wire);
    give_back(lease);
    let second = world.client(2, "a");
    second.waits();
    wire.hang_up();
    world.pools.hear(Instant::now());
    hold.ended();
    if let Poll::Ready(Ok(lease)) = second.poll() {
        assert!(!Arc::ptr_eq(&lease.wire, &wire), "it has a server that is dead, and was known to be");
    }
}

#[test]
fn an_unused_pool_is_removed() {
    let world = world(|it| it.settings.pool_idle_timeout = Duration::from_secs(1));
    let (first, lease) = world.served(1, "a");
    let now = Instant::now();
    lease.close("test");
    world.pools.upkeep(now);
    world.pools.upkeep(now + Duration::from_secs(2));
    assert!(world.pools.find(&key("a")).is_some(), "it has a client");
    drop(first);
    world.pools.upkeep(now + Duration::from_secs(3));
    assert!(world.pools.find(&key("a")).is_some());
    world.pools.upkeep(now + Duration::from_secs(5));
    assert!(world.pools.find(&key("a")).is_none());
    assert!(world.pools.users.is_empty(), "nor is anything kept of its user");
}

#[test]
fn a_database_of_the_wildcard_is_forgotten_with_its_last_pool() {
    let world = world(|it| {
        it.any_database = Some(Database::default());
        it.settings.autodb_idle_timeout = Duration::from_secs(1);
    });
    let now = Instant::now();
    drop(world.client(1, "other"));
    drop(world.client(2, "a"));
    let names = || world.pools.databases().into_iter().map(|it| it.name).collect::<Vec<_>>();
    assert_eq!(names().len(), 2);
    world.pools.upkeep(now);
    world.pools.upkeep(now + Duration::from_secs(2));
    assert_eq!(names(), ["a".into()]);
}

#[test]
fn a_database_that_is_none_is_forgotten_soon() {
    let world = world(|it| it.any_database = Some(Database::default()));
    let now = Instant::now();
    let (real, lease) = world.served(1, "real");
    world.pools.reconnect(Some(&"real".into()));
    let made_up = world.client(2, "made up");
    made_up.waits();
    drop(world.opener.take());
    drop((made_up, real));
    lease.close("gone");
    let names = || world.pools.databases().into_iter().map(|it| it.name).collect::<Vec<_>>();
    assert_eq!(names().len(), 2);
    world.pools.upkeep(now);
    world.pools.upkeep(now + Duration::from_secs(14));
    assert_eq!(names().len(), 2, "why it failed is remembered for server_login_retry");
    world.pools.upkeep(now + Duration::from_secs(16));
    assert_eq!(names(), ["real".into()]);
}

#[test]
fn idle_servers_age_out() {
    let world = world(|it| it.settings.server_idle_timeout = Duration::from_secs(10));
    let (_first, lease) = world.served(1, "a");
    let wire = Arc::clone(&lease.wire);
    give_back(lease);
    world.pools.upkeep(Instant::now() + Duration::from_secs(9));
    assert!(!wire.is_closed());
    world.pools.upkeep(Instant::now() + Duration::from_secs(11));
    assert!(wire.is_closed());
    assert_eq!(world.roster.server_count(), 0);
}
