//! Cancel requests: each hits the right query or nothing.

use std::io::{Read, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::support::prelude::*;

/// Sends a cancel request for `client` on a connection of its own and waits until pgweir has closed it.
fn cancel(pooler: &Pooler, client: &Raw) {
    cancel_with(pooler, client.pid, &client.key);
}

fn cancel_with(pooler: &Pooler, pid: u32, key: &[u8]) {
    let mut canceller = pooler.dial();
    canceller.send(&cancel_request(pid, key));
    // PostgreSQL answers with nothing but the end.
    assert_eq!(canceller.byte(), None);
}

/// Starts a query that does not end by itself, and waits until PostgreSQL runs it.
fn sleep(client: &mut Raw, mark: &str) {
    client.send(&query(&format!("SELECT pg_sleep(600) AS {mark}")));
    let running = format!("state = 'active' AND query LIKE '%pg_sleep(600) AS {mark}'");
    eventually("the query runs", || Cluster::shared().connections(&running) == 1);
}

#[test]
fn a_running_query_is_cancelled_and_the_session_goes_on() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    for _ in 0..3 {
        sleep(&mut client, &Cluster::shared().unique("mark"));
        cancel(&pooler, &client);
        assert_eq!(error(&client.ready()).sqlstate(), "57014");
        eventually("its server is idle, and shown so", || pooler.pool("app", "app", "sv_idle") == 1);
        assert_eq!(client.value("SELECT 'alive'"), "alive");
    }
}

#[test]
fn a_cancel_by_protocol_3_2s_long_key_works() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.dial();
    client.send(&startup(PROTOCOL_3_2, &[("user", "app"), ("database", "app")]));
    client.ready();
    assert!(client.key.len() > 4);
    sleep(&mut client, &Cluster::shared().unique("mark"));
    cancel(&pooler, &client);
    assert_eq!(error(&client.ready()).sqlstate(), "57014");
}

#[test]
fn a_cancel_in_a_transaction_fails_it_and_nothing_else() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.query("BEGIN");
    sleep(&mut client, &Cluster::shared().unique("mark"));
    cancel(&pooler, &client);
    let answer = client.ready();
    assert_eq!(error(&answer).sqlstate(), "57014");
    assert_eq!(answer.last().unwrap().to_string(), "Z E");
    assert_eq!(client.failure("SELECT 1"), "25P02");
    client.query("ROLLBACK");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_client_that_waits_in_the_queue_can_be_cancelled_out_of_it() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let mut holder = pooler.app();
    holder.query("BEGIN");
    let mut waiter = pooler.app();
    waiter.send(&query("SELECT 'never run'"));
    eventually("it waits", || pooler.pool("app", "app", "cl_waiting") == 1);
    cancel(&pooler, &waiter);
    let answer = waiter.ready();
    assert_eq!(error(&answer).sqlstate(), "57014", "{answer:?}");
    assert_eq!(tags(&answer), "EZ");
    eventually("it left the queue", || pooler.pool("app", "app", "cl_waiting") == 0);
    assert_eq!(holder.value("SELECT 'untouched'"), "untouched");
    holder.query("COMMIT");
    assert_eq!(waiter.value("SELECT 'alive'"), "alive");
}

#[test]
fn a_waiting_pipeline_is_cancelled_up_to_its_sync() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let mut holder = pooler.app();
    holder.query("BEGIN");
    let mut waiter = pooler.app();
    waiter.send(&[extended("SELECT 'never run'", &[]), sync()].concat());
    eventually("it waits", || pooler.pool("app", "app", "cl_waiting") == 1);
    cancel(&pooler, &waiter);
    let answer = waiter.ready();
    assert_eq!((tags(&answer).as_str(), error(&answer).sqlstate().as_str()), ("EZ", "57014"));
    holder.query("COMMIT");
    assert_eq!(waiter.value("SELECT 'alive'"), "alive");
}

#[test]
fn a_wrong_key_cancels_nothing() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    sleep(&mut client, &Cluster::shared().unique("mark"));
    let mut wrong = client.key.clone();
    wrong[0] ^= 1;
    cancel_with(&pooler, client.pid, &wrong);
    cancel_with(&pooler, client.pid.wrapping_add(1), &client.key);
    cancel_with(&pooler, client.pid, &[]);
    cancel_with(&pooler, client.pid, &[client.key.clone(), vec![0]].concat());
    cancel_with(&pooler, 0, &[0; 4]);
    assert!(client.is_silent_for(Duration::from_millis(300)));
    cancel(&pooler, &client);
    assert_eq!(error(&client.ready()).sqlstate(), "57014");
}

#[test]
fn a_cancel_of_an_idle_client_hits_nobody_elses_query() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let mut idle = pooler.app();
    idle.query("SELECT 1");
    let mut busy = pooler.app();
    sleep(&mut busy, &Cluster::shared().unique("mark"));
    for _ in 0..5 {
        cancel(&pooler, &idle);
    }
    assert!(busy.is_silent_for(Duration::from_millis(300)));
    cancel(&pooler, &busy);
    assert_eq!(error(&busy.ready()).sqlstate(), "57014");
    assert_eq!(idle.value("SELECT 'alive'"), "alive");
}

/// The client's settings are set when it gets a server, and again after its DISCARD ALL. The server looks this one up
/// in a table, and so can be kept waiting.
#[test]
fn a_cancel_passes_by_what_the_pooler_asks_the_server_for() {
    let cluster = Cluster::private(&[]);
    let pooler = Setup::of(&cluster).set("pool_mode", "\"session\"").start();
    let mut client = pooler.dial();
    let options = "-c default_text_search_config=pg_catalog.german";
    client.login(&[("user", "app"), ("database", "app"), ("options", options)], "").unwrap();
    // Who connects looks it up as well: these are connected before the table is locked.
    let (mut admin, mut watcher) = (cluster.connect("app", "postgres"), cluster.connect("app", "postgres"));
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()";
    for before in [&[][..], &["DISCARD ALL"]] {
        // The server is to forget what it knows of the table.
        admin.query("VACUUM FULL pg_catalog.pg_ts_config");
        admin.query("BEGIN");
        admin.query("LOCK TABLE pg_catalog.pg_ts_config IN ACCESS EXCLUSIVE MODE");
        before.iter().for_each(|sql| drop(client.query(sql)));
        client.send(&query("SHOW default_text_search_config"));
        eventually("the server waits", || watcher.value(waits) == "1");
        cancel(&pooler, &client);
        assert!(client.is_silent_for(Duration::from_millis(300)), "after {before:?}");
        admin.query("ROLLBACK");
        assert_eq!(rows(&client.ready()), [[Some("pg_catalog.german".to_owned())]], "after {before:?}");
    }
}

/// What the start-up packet of a CancelRequest begins with: its length and its code.
const CANCEL_HEAD: [u8; 8] = [0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e];

/// Stands before a cluster and keeps cancel requests back until it is opened.
struct Gate {
    port: u16,
    kept: Arc<Kept>,
}

#[derive(Default)]
struct Kept {
    count: AtomicUsize,
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Kept {
    fn pass(&self, mut near: TcpStream, behind: u16) -> std::io::Result<()> {
        let mut head = [0; 8];
        near.read_exact(&mut head)?;
        if head == CANCEL_HEAD {
            self.count.fetch_add(1, Ordering::SeqCst);
            drop(self.opened.wait_while(self.is_open.lock().unwrap(), |is_open| !*is_open).unwrap());
        }
        let mut far = TcpStream::connect(("127.0.0.1", behind))?;
        far.write_all(&head)?;
        pipe(near.try_clone()?, far.try_clone()?);
        pipe(far, near);
        Ok(())
    }
}

impl Gate {
    fn before(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, behind) = (listener.local_addr().unwrap().port(), cluster.port);
        let gate = Self { port, kept: Arc::default() };
        let kept = Arc::clone(&gate.kept);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, kept) = (near.unwrap(), Arc::clone(&kept));
                std::thread::spawn(move || kept.pass(near, behind));
            }
        });
        gate
    }

    fn open(&self) {
        *self.kept.is_open.lock().unwrap() = true;
        self.kept.opened.notify_all();
    }

    /// Runs a query of this client that ends by itself while a request to cancel it is kept back.
    fn outrun(&self, pooler: &Pooler, client: &mut Raw) -> Raw {
        let (cluster, mark) = (Cluster::shared(), Cluster::shared().unique("outrun"));
        let mut watcher = cluster.connect("app", "postgres");
        watcher.query(&format!("SELECT pg_advisory_lock(hashtext('{mark}'))"));
        client.send(&query(&format!("SELECT pg_advisory_xact_lock(hashtext('{mark}')) AS {mark}")));
        let waits = format!("wait_event = 'advisory' AND query LIKE '%{mark}%'");
        eventually("the query waits", || cluster.connections(&waits) == 1);
        let mut canceller = pooler.dial();
        canceller.send(&cancel_request(client.pid, &client.key));
        eventually("the request is on its way", || self.kept.count.load(Ordering::SeqCst) == 1);
        watcher.query("SELECT pg_advisory_unlock_all()");
        assert_eq!(tags(&client.ready()), "TDCZ");
        canceller
    }
}

/// Sends on what comes, to the end.
fn pipe(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}

#[test]
fn a_late_cancel_passes_by_the_settings_that_the_pooler_sets_again() {
    let gate = Gate::before(Cluster::shared());
    let pooler = Setup::of(Cluster::shared())
        .set("pool_mode", "\"session\"")
        .database("app", &format!("port = {}", gate.port))
        .start();
    let mut client = pooler.dial();
    let options = "-c default_text_search_config=pg_catalog.german";
    client.login(&[("user", "app"), ("database", "app"), ("options", options)], "").unwrap();
    let mut canceller = gate.outrun(&pooler, &mut client);
    client.query("DISCARD ALL");
    client.send(&query("SHOW default_text_search_config"));
    assert!(client.is_silent_for(Duration::from_millis(300)), "it is set while the request is on its way");
    gate.open();
    assert_eq!(canceller.byte(), None);
    assert_eq!(rows(&client.ready()), [[Some("pg_catalog.german".to_owned())]]);
}

#[test]
fn a_late_cancel_costs_no_server_that_is_being_cleaned() {
    let gate = Gate::before(Cluster::shared());
    let pooler = Setup::of(Cluster::shared())
        .set("default_pool_size", "1")
        .set("server_reset_query", "\"SELECT pg_sleep(0.5)\"")
        .set("server_reset_query_always", "true")
        .database("app", &format!("port = {}", gate.port))
        .start();
    let mut client = pooler.app();
    let pid = client.value("SELECT pg_backend_pid()");
    let mut canceller = gate.outrun(&pooler, &mut client);
    gate.open();
    assert_eq!(canceller.byte(), None);
    assert_eq!(pooler.app().value("SELECT pg_backend_pid()"), pid);
}

#[test]
fn the_key_of_a_client_that_left_is_void() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let mut gone = pooler.app();
    gone.query("SELECT 1");
    let (pid, key) = (gone.pid, gone.key.clone());
    gone.goodbye();
    let mut busy = pooler.app();
    sleep(&mut busy, &Cluster::shared().unique("mark"));
    cancel_with(&pooler, pid, &key);
    assert!(busy.is_silent_for(Duration::from_millis(300)));
}

/// One client is cancelled over and over while its queries end by themselves: a late cancel must not hit the queries
/// of the other client, which runs on the same server right after.
#[test]
fn late_cancels_never_hit_the_next_clients_query() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "1").start();
    let mut victim = pooler.app();
    let (pid, key) = (victim.pid, victim.key.clone());
    let deadline = Instant::now() + Duration::from_secs(4);
    let address = pooler.address();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < deadline {
                cancel_with(&pooler, pid, &key);
            }
        });
        scope.spawn(move || {
            while Instant::now() < deadline {
                let answer = victim.query("SELECT pg_sleep(0.001)");
                let failed = answer.iter().find(|message| message.tag == b'E');
                assert!(failed.is_none_or(|error| error.sqlstate() == "57014"), "{answer:?}");
            }
        });
        let bystanders = (0..2).map(|_| {
            scope.spawn(move || {
                let mut client = Raw::connect(address, "app", "app");
                let mut count = 0_u32;
                while Instant::now() < deadline {
                    assert_eq!(
                        client.value(&format!("SELECT {count} FROM pg_sleep(0.001)")),
                        count.to_string()
                    );
                    count += 1;
                }
                count
            })
        });
        for bystander in bystanders.collect::<Vec<_>>() {
            assert!(bystander.join().unwrap() > 10);
        }
    });
}

#[test]
fn cancels_are_as_many_as_one_likes() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "2").start();
    let mut client = pooler.app();
    sleep(&mut client, &Cluster::shared().unique("mark"));
    let requests: Vec<Raw> = (0..50)
        .map(|_| {
            let mut canceller = pooler.dial();
            canceller.send(&cancel_request(client.pid, &client.key));
            canceller
        })
        .collect();
    assert_eq!(error(&client.ready()).sqlstate(), "57014");
    for mut canceller in requests {
        assert_eq!(canceller.byte(), None);
    }
    assert_eq!(client.value("SELECT 'alive'"), "alive");
}
