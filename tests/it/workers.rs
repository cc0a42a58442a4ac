//! How many workers share the clients, and clients that move from one to another.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::prelude::*;
use crate::tls;

/// Ends the threads of a test, however the test ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Clients share one of four workers, until the console asks for more.
fn on_one_worker() -> Setup {
    Setup::of(Cluster::shared()).set("workers", "4").set("workers_min", "1").set("log_level", "\"debug\"")
}

/// A client over TLS.
fn over_tls(pooler: &Pooler) -> Raw {
    let mut client = tls::encrypted(pooler, None).unwrap();
    client.login(&[("user", "app"), ("database", "app")], "").unwrap();
    client
}

/// How often any client has come to another worker.
fn moves(pooler: &Pooler) -> usize {
    pooler.log().matches("goes on on worker").count()
}

#[test]
fn clients_that_move_under_load_lose_nothing() {
    const CLIENTS: usize = 9;
    let pooler = tls::certified(on_one_worker(), "allow").set("default_pool_size", "4").start();
    // All are there before the first change: who comes later begins where it belongs.
    let clients: Vec<Raw> =
        (0..CLIENTS).map(|it| if it % 2 == 0 { pooler.app() } else { over_tls(&pooler) }).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        for (client, mut raw) in clients.into_iter().enumerate() {
            let over = &over;
            scope.spawn(move || {
                raw.query(&format!("SET application_name = 'c{client}'"));
                let mut round = 0;
                while !over.load(Ordering::Relaxed) {
                    round += 1;
                    let mark = format!("{client}:{round}");
                    assert_eq!(raw.value(&format!("SELECT '{mark}'")), mark);
                    raw.query("BEGIN");
                    assert_eq!(raw.value("SHOW application_name"), format!("c{client}"));
                    raw.query("COMMIT");
                }
            });
        }
        let mut console = pooler.console();
        for workers in 2..=4 {
            let before = moves(&pooler);
            console.query(&format!("SET workers_min = {workers}"));
            // Of nine clients at least four have another remainder.
            eventually("clients move", || moves(&pooler) >= before + 4);
        }
    });
}

#[test]
fn a_client_takes_its_own_server_along() {
    let pooler = on_one_worker().set("pool_mode", "\"session\"").start();
    let mut clients: Vec<Raw> = (0..4).map(|_| pooler.app()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.query(&format!("CREATE TEMP TABLE own AS SELECT {number} AS number"));
    }
    pooler.console().query("SET workers_min = 4");
    for _ in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.value("SELECT number FROM own"), number.to_string());
        }
    }
    eventually("all but the first have moved", || moves(&pooler) == 3);
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.value("SELECT number FROM own"), number.to_string());
    }
}

/// Two clients, of which one is to move where there are two workers.
fn both(pooler: &Pooler) -> [Raw; 2] {
    std::array::from_fn(|_| pooler.app())
}

#[test]
fn a_client_in_a_transaction_stays_until_it_is_over() {
    let pooler = on_one_worker().start();
    let mut clients = both(&pooler);
    clients.iter_mut().for_each(|it| drop(it.query("BEGIN")));
    pooler.console().query("SET workers_min = 2");
    let pids = clients.each_mut().map(|it| it.value("SELECT pg_backend_pid()"));
    assert_eq!(clients.each_mut().map(|it| it.value("SELECT pg_backend_pid()")), pids);
    assert_eq!(moves(&pooler), 0);
    clients.iter_mut().for_each(|it| drop(it.query("COMMIT")));
    eventually("one moves", || moves(&pooler) == 1);
    assert_eq!(clients.each_mut().map(|it| it.value("SELECT 42")), ["42", "42"]);
}

#[test]
fn a_client_that_has_moved_can_be_cancelled_and_sent_away() {
    let pooler = on_one_worker().start();
    let mut clients = both(&pooler);
    let mut console = pooler.console();
    console.query("SET workers_min = 2");
    clients.iter_mut().for_each(|it| drop(it.query("SELECT 1")));
    eventually("one moves", || moves(&pooler) == 1);
    for client in &mut clients {
        let mark = Cluster::shared().unique("moved");
        client.send(&query(&format!("SELECT pg_sleep(600) AS {mark}")));
        let running = format!("state = 'active' AND query LIKE '%pg_sleep(600) AS {mark}'");
        eventually("PostgreSQL runs it", || Cluster::shared().connections(&running) == 1);
        let mut canceller = pooler.dial();
        canceller.send(&cancel_request(client.pid, &client.key));
        let answer = client.ready();
        assert!(format!("{answer:?}").contains("57014"), "{answer:?}");
    }
    console.query("KILL app");
    for client in &mut clients {
        assert!(client.rest().iter().any(|message| message.tag == b'E'));
    }
}
