//! Pools and modes: who shares which servers, and how many there may be.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use crate::support::PATIENCE;
use crate::support::prelude::*;

fn backend(client: &mut Raw) -> String {
    client.value("SELECT pg_backend_pid()")
}

/// A pooler of one server.
fn single() -> Setup {
    Setup::of(Cluster::shared()).set("default_pool_size", "1")
}

#[test]
fn in_transaction_mode_clients_share_a_server_between_transactions() {
    let pooler = single().start();
    let mut clients: Vec<Raw> = (0..10).map(|_| pooler.app()).collect();
    let used: BTreeSet<String> = clients.iter_mut().map(backend).collect();
    assert_eq!(used.len(), 1);
}

#[test]
fn in_transaction_mode_a_transaction_keeps_its_server() {
    let pooler = Setup::of(Cluster::shared()).set("default_pool_size", "2").start();
    let (mut one, mut two) = (pooler.app(), pooler.app());
    one.query("BEGIN");
    let held = backend(&mut one);
    for _ in 0..5 {
        assert_ne!(backend(&mut two), held);
        assert_eq!(backend(&mut one), held);
    }
    // A failed transaction is still one.
    one.failure("SELECT 1/0");
    assert_ne!(backend(&mut two), held);
    one.query("ROLLBACK");
}

#[test]
fn in_transaction_mode_a_pipeline_without_its_sync_keeps_its_server() {
    let pooler = single().start();
    let (mut one, mut two) = (pooler.app(), pooler.app());
    one.send(&[extended("SELECT 'part'", &[]), flush()].concat());
    one.until(b'C');
    two.send(&query("SELECT 'after'"));
    assert!(two.is_silent_for(Duration::from_millis(300)));
    one.send(&sync());
    assert_eq!(tags(&one.ready()), "Z");
    assert_eq!(rows(&two.ready()), [[Some("after".to_owned())]]);
}

#[test]
fn in_session_mode_a_client_keeps_its_server_until_it_leaves() {
    let pooler = single().set("pool_mode", "\"session\"").start();
    let mut one = pooler.app();
    let held = backend(&mut one);
    let mut two = pooler.app();
    two.send(&query("SELECT pg_backend_pid()"));
    assert!(two.is_silent_for(Duration::from_millis(300)));
    assert_eq!(backend(&mut one), held);
    one.goodbye();
    assert_eq!(rows(&two.ready()), [[Some(held)]]);
}

#[test]
fn in_session_mode_a_server_is_reset_between_clients() {
    let pooler = single().set("pool_mode", "\"session\"").start();
    let mut one = pooler.app();
    let held = backend(&mut one);
    one.query("SET statement_timeout = '77s'");
    one.query("CREATE TEMP TABLE left_behind (n int)");
    one.query("SELECT pg_advisory_lock(4711)");
    one.query("PREPARE left_behind AS SELECT 1");
    one.goodbye();
    let mut two = pooler.app();
    assert_eq!(backend(&mut two), held);
    assert_eq!(two.value("SHOW statement_timeout"), "0");
    assert_eq!(two.failure("TABLE left_behind"), "42P01");
    assert_eq!(two.failure("EXECUTE left_behind"), "26000");
    assert_eq!(
        two.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"),
        "0"
    );
}

#[test]
fn in_session_mode_the_state_of_a_session_stays() {
    let pooler = single().set("pool_mode", "\"session\"").start();
    let mut client = pooler.app();
    client.query("SET statement_timeout = '77s'");
    client.query("CREATE TEMP TABLE mine (n int)");
    client.query("PREPARE mine AS SELECT 'kept'");
    assert_eq!(client.value("SHOW statement_timeout"), "77s");
    assert_eq!(client.value("EXECUTE mine"), "kept");
    assert_eq!(client.rows("TABLE mine").len(), 0);
}

#[test]
fn in_statement_mode_transaction_blocks_are_refused() {
    let pooler = single().set("pool_mode", "\"statement\"").start();
    let mut client = pooler.app();
    assert_eq!(client.value("SELECT 1"), "1");
    client.send(&query("BEGIN"));
    let answer = client.rest();
    assert_eq!(error(&answer).text(), "transaction blocks not allowed in statement pooling mode");
    assert_eq!(error(&answer).field(b'S').unwrap(), "FATAL");
    // The server that had begun one is not given to the next.
    let mut next = pooler.app();
    assert_eq!(next.query("SELECT 1").last().unwrap().to_string(), "Z I");
    assert_eq!(next.value("SELECT now() = statement_timestamp()"), "t");
}

#[test]
fn the_mode_of_a_user_goes_before_the_databases_before_the_global_one() {
    let setup =
        single().database("app", "pool_mode = \"session\"").user("app2", "pool_mode = \"transaction\"");
    let pooler = setup.start();
    let mode = |database: &str, user: &str| {
        let mut client = pooler.connect(database, user);
        client.query("SELECT 1");
        let pools = pooler.show("SHOW POOLS");
        let pool = pools.iter().find(|pool| pool["database"] == database && pool["user"] == user);
        pool.expect("the pool exists")["pool_mode"].clone()
    };
    assert_eq!(mode("app2", "app"), "transaction");
    assert_eq!(mode("app", "app"), "session");
    assert_eq!(mode("app", "app2"), "transaction");
}

/// Runs short queries from all of these clients at once and gives the most connections to PostgreSQL that
/// the kernel knew at a time. The clients go on until it has known as many as there may be.
fn most_servers(
    cluster: &Cluster,
    pooler: &Pooler,
    clients: &[(&'static str, &'static str)],
    limit: usize,
) -> usize {
    let (done, finished) = mpsc::channel::<()>();
    let (address, begin, reached) = (pooler.address(), Instant::now(), &AtomicBool::new(false));
    std::thread::scope(|scope| {
        for &(database, user) in clients {
            let done = done.clone();
            scope.spawn(move || {
                let mut client = Raw::connect(address, database, user);
                let is_enough = || reached.load(Ordering::Relaxed) || begin.elapsed() > PATIENCE;
                let mut rounds = 0;
                while rounds < 10 || !is_enough() {
                    client.query("SELECT pg_sleep(0.02)");
                    rounds += 1;
                }
                drop(done);
            });
        }
        drop(done);
        let (mut most, mut before) = (0, HashSet::new());
        while finished.try_recv() == Err(mpsc::TryRecvError::Empty) {
            // Reading the table takes a while. What is in two of them in turn was open between the two, all at once.
            let now = cluster.sockets(pooler.pid());
            most = most.max(now.intersection(&before).count());
            reached.store(most >= limit, Ordering::Relaxed);
            before = now;
        }
        most
    })
}

#[test]
fn limits_are_never_exceeded() {
    let cluster = Cluster::private(&[]);
    let check = |name: &str, setup: Setup, clients: &[(&'static str, &'static str)], limit: usize| {
        let pooler = setup.start();
        assert_eq!(most_servers(&cluster, &pooler, clients, limit), limit, "{name}");
    };
    let setup = || Setup::of(&cluster);
    check("default_pool_size", setup().set("default_pool_size", "3"), &[("app", "app"); 20], 3);
    check("pool_size", setup().database("app", "pool_size = 2"), &[("app", "app"); 20], 2);
    check("pool_size of the user", setup().user("app", "pool_size = 2"), &[("app", "app"); 20], 2);
    let two_users = [[("app", "app"); 8], [("app", "app2"); 8]].concat();
    check("max_db_connections", setup().set("max_db_connections", "4"), &two_users, 4);
    check("max_db_connections of one", setup().database("app", "max_db_connections = 3"), &two_users, 3);
    let two_databases = [[("app", "app"); 8], [("app2", "app"); 8]].concat();
    check("max_user_connections", setup().set("max_user_connections", "4"), &two_databases, 4);
    check("max_user_connections of one", setup().user("app", "max_user_connections = 3"), &two_databases, 3);
}

#[test]
fn the_reserve_is_opened_for_those_who_wait_too_long() {
    let setup = single().set("reserve_pool_size", "1").set("reserve_pool_timeout", "\"300ms\"");
    let pooler = setup.start();
    let mut holder = pooler.app();
    holder.query("BEGIN");
    let mut waiter = pooler.app();
    let begin = Instant::now();
    assert_eq!(waiter.value("SELECT 'served'"), "served");
    assert!(begin.elapsed() >= Duration::from_millis(250), "after {:?}", begin.elapsed());
    waiter.query("BEGIN");
    // The reserve has an end, too.
    let mut third = pooler.app();
    third.send(&query("SELECT 1"));
    assert!(third.is_silent_for(Duration::from_millis(800)));
    waiter.query("COMMIT");
    third.ready();
}

#[test]
fn the_smallest_size_of_a_pool_is_kept_up() {
    let pooler = Setup::of(Cluster::shared()).set("min_pool_size", "3").start();
    let mut client = pooler.app();
    client.query("SELECT 1");
    eventually("three servers stand ready", || pooler.pool("app", "app", "sv_idle") == 3);
    // And for as long as it has a client.
    let servers =
        || -> Vec<String> { pooler.show("SHOW SERVERS").iter().map(|it| it["remote_pid"].clone()).collect() };
    let before = servers();
    pooler.console().query("RECONNECT");
    eventually("three others do", || {
        let now = servers();
        now.len() == 3 && now.iter().all(|it| !before.contains(it))
    });
    client.query("SELECT 1");
}

#[test]
fn a_server_of_another_user_makes_room_when_the_database_is_full() {
    let pooler = Setup::of(Cluster::shared()).set("max_db_connections", "1").start();
    let (mut one, mut two) = (pooler.connect("app", "app"), pooler.connect("app", "app2"));
    for _ in 0..3 {
        assert_eq!(one.value("SELECT current_user"), "app");
        assert_eq!(two.value("SELECT current_user"), "app2");
    }
}

#[test]
fn too_many_clients_are_told_so() {
    let check = |setup: Setup, others: &[(&str, &str)], refused: (&str, &str), text: &str| {
        let pooler = setup.start();
        let held: Vec<Raw> = others.iter().map(|(database, user)| pooler.connect(database, user)).collect();
        let error = pooler.refusal(&[("user", refused.1), ("database", refused.0)], "");
        assert_eq!((error.sqlstate().as_str(), error.text().as_str()), ("53300", text));
        assert_eq!(error.field(b'S').unwrap(), "FATAL");
        // The console stays open, and so does the door when somebody leaves.
        assert!(!pooler.show("SHOW VERSION").is_empty());
        held.into_iter().for_each(Raw::goodbye);
        eventually("there is room again", || {
            Raw::try_connect(pooler.address(), refused.0, refused.1).is_ok()
        });
    };
    let setup = || Setup::of(Cluster::shared());
    let two = [("app", "app"), ("app", "app2")];
    let text = "no more connections allowed (max_client_conn)";
    check(setup().set("max_client_conn", "2"), &two, ("app", "app"), text);
    let text = "client connections exceeded (max_db_client_connections)";
    check(setup().set("max_db_client_connections", "2"), &two, ("app", "app"), text);
    check(setup().database("app", "max_db_client_connections = 2"), &two, ("app", "app"), text);
    let text = "client connections exceeded (max_user_client_connections)";
    let two = [("app", "app"), ("app2", "app")];
    check(setup().set("max_user_client_connections", "2"), &two, ("app", "app"), text);
    check(setup().user("app", "max_user_client_connections = 2"), &two, ("app", "app"), text);
}

#[test]
fn the_entry_star_stands_for_all_other_databases() {
    let cluster = Cluster::shared();
    let pooler = Setup::of(cluster).without_database("app2").database("*", "").start();
    assert_eq!(pooler.connect("app2", "app").value("SELECT current_database()"), "app2");
    assert_eq!(pooler.connect("postgres", "app").value("SELECT current_database()"), "postgres");
    let error = pooler.refusal(&[("user", "app"), ("database", "nowhere")], "");
    assert_eq!(
        (error.sqlstate().as_str(), error.text().as_str()),
        ("3D000", "database \"nowhere\" does not exist")
    );
}

#[test]
fn databases_of_the_entry_star_are_known_before_anybody_has_used_them() {
    let pooler = Setup::of(Cluster::shared()).without_database("app2").database("*", "").start();
    let mut console = pooler.console();
    assert_eq!(tags(&console.query("DISABLE app2")), "CZ");
    let refused = pooler.refusal(&[("user", "app"), ("database", "app2")], "");
    assert_eq!(refused.text(), "database \"app2\" is disabled");
    assert_eq!(tags(&console.query("ENABLE app2")), "CZ");
    assert_eq!(tags(&console.query("PAUSE postgres")), "CZ");
    let paused =
        |row: &std::collections::BTreeMap<String, String>| row["name"] == "postgres" && row["paused"] == "1";
    assert!(pooler.show("SHOW DATABASES").iter().any(paused));
    assert_eq!(tags(&console.query("RESUME postgres")), "CZ");
    assert_eq!(pooler.connect("postgres", "app").value("SELECT current_database()"), "postgres");
}

#[test]
fn an_entry_may_force_the_user() {
    let setup = Setup::of(Cluster::shared()).set("default_pool_size", "1");
    let pooler = setup.database("forced", "dbname = \"app\"\nuser = \"app2\"").start();
    let (mut one, mut two) = (pooler.connect("forced", "app"), pooler.connect("forced", "postgres"));
    assert_eq!(one.value("SELECT current_user"), "app2");
    assert_eq!(backend(&mut one), backend(&mut two));
    assert_eq!(pooler.pool("forced", "app2", "cl_active"), 2);
}

/// Opens three servers at once and gives their process ids.
fn three_servers(pooler: &Pooler) -> Vec<String> {
    let mut clients: Vec<Raw> = (0..3).map(|_| pooler.app()).collect();
    clients.iter_mut().for_each(|client| drop(client.query("BEGIN")));
    let pids = clients.iter_mut().map(backend).collect();
    clients.iter_mut().for_each(|client| drop(client.query("COMMIT")));
    pids
}

#[test]
fn the_server_used_last_is_used_next() {
    // With more workers, a client's own worker's servers go before.
    let pooler = Setup::of(Cluster::shared()).set("workers", "1").start();
    let pids = three_servers(&pooler);
    let mut client = pooler.app();
    for _ in 0..5 {
        assert_eq!(backend(&mut client), pids[2]);
    }
}

#[test]
fn in_round_robin_servers_take_turns() {
    let pooler = Setup::of(Cluster::shared()).set("server_round_robin", "true").set("workers", "1").start();
    let pids = three_servers(&pooler);
    let mut client = pooler.app();
    for round in 0..6 {
        assert_eq!(backend(&mut client), pids[round % 3]);
    }
}

#[test]
fn who_waits_longest_is_served_first() {
    let pooler = single().set("workers", "1").start();
    let mut holder = pooler.app();
    holder.query("BEGIN");
    let mut waiters: Vec<Raw> = (0..8).map(|_| pooler.app()).collect();
    for (place, waiter) in waiters.iter_mut().enumerate() {
        waiter.send(&query("SELECT clock_timestamp()::text"));
        let waiting = u64::try_from(place + 1).unwrap();
        eventually("it waits", || pooler.pool("app", "app", "cl_waiting") == waiting);
    }
    holder.query("COMMIT");
    let served: Vec<_> = waiters.iter_mut().map(|waiter| rows(&waiter.ready())).collect();
    assert!(served.is_sorted(), "{served:?}");
}

#[test]
fn nobody_waits_for_long_on_many_workers() {
    let pooler = single().set("workers", "4").start();
    let address = pooler.address();
    let begin = Instant::now();
    let longest = std::thread::scope(|scope| {
        let run = |_| {
            scope.spawn(move || {
                let mut client = Raw::connect(address, "app", "app");
                let wait = |_| {
                    let begin = Instant::now();
                    client.query("SELECT pg_sleep(0.002)");
                    begin.elapsed()
                };
                (0..50).map(wait).max().unwrap()
            })
        };
        let threads: Vec<_> = (0..10).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
    });
    // Ten clients take turns of some three milliseconds; twenty turns' wait would be unfair, half a second starvation.
    // On a busy machine turns take longer: sixteen times the share of one turn in fifty of each is as much.
    let share = begin.elapsed() / 50;
    let starvation = (share * 16).max(Duration::from_millis(500));
    assert!(longest < starvation, "somebody waited for {longest:?}, where {share:?} is a fair share");
}

#[test]
fn two_hundred_clients_are_served_by_five_servers() {
    let pooler =
        Setup::of(Cluster::shared()).set("default_pool_size", "5").set("max_client_conn", "300").start();
    let mut clients: Vec<Raw> = (0..200).map(|_| pooler.app()).collect();
    for round in 0..5 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&query(&format!("SELECT {}", number * 10 + round)));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(rows(&client.ready()), [[Some((number * 10 + round).to_string())]]);
        }
    }
    assert!(pooler.show("SHOW SERVERS").len() <= 5);
}

#[test]
fn while_the_server_refuses_logins_clients_hear_its_own_words_at_once() {
    let pooler = Pooler::of(Cluster::shared());
    for _ in 0..3 {
        let begin = Instant::now();
        let error = pooler.refusal(&[("user", "never_let_in"), ("database", "app")], "");
        assert!(begin.elapsed() < Duration::from_secs(5), "took {:?}", begin.elapsed());
        assert!(error.text().contains("pg_hba.conf rejects connection"), "{error}");
        assert_eq!(error.sqlstate(), "28000");
    }
}

#[test]
fn while_the_server_is_away_clients_are_refused_fast_and_served_when_it_is_back() {
    let mut cluster = Cluster::private(&[]);
    let setup = Setup::of(&cluster).set("server_login_retry", "1").set("server_connect_timeout", "2");
    let pooler = setup.set("query_wait_timeout", "3").start();
    let mut known = pooler.app();
    known.query("SELECT 1");
    cluster.stop();
    let begin = Instant::now();
    for _ in 0..3 {
        assert!(Raw::try_connect(pooler.address(), "app", "app2").is_err());
    }
    assert!(begin.elapsed() < Duration::from_secs(12), "took {:?}", begin.elapsed());
    cluster.start();
    eventually("clients are served again", || {
        Raw::try_connect(pooler.address(), "app", "app")
            .is_ok_and(|mut client| client.value("SELECT 1") == "1")
    });
}

#[test]
fn pause_lets_transactions_end_and_holds_what_comes_after() {
    let pooler = Pooler::of(Cluster::shared());
    let (mut busy, mut other) = (pooler.app(), pooler.app());
    busy.query("BEGIN");
    let mut console = pooler.console();
    console.send(&query("PAUSE"));
    eventually("it is paused", || pooler.is("paused"));
    assert!(console.is_silent_for(Duration::from_millis(300)));
    other.send(&query("SELECT 'after'"));
    assert!(other.is_silent_for(Duration::from_millis(300)));
    assert_eq!(busy.value("SELECT 'goes on'"), "goes on");
    busy.query("COMMIT");
    assert_eq!(tags(&console.ready()), "CZ");
    assert!(other.is_silent_for(Duration::from_millis(300)));
    assert_eq!(pooler.show("SHOW SERVERS").len(), 0);
    console.query("RESUME");
    assert_eq!(rows(&other.ready()), [[Some("after".to_owned())]]);
}

#[test]
fn one_database_may_be_paused_alone() {
    let pooler = Pooler::of(Cluster::shared());
    let (mut held, mut free) = (pooler.connect("app", "app"), pooler.connect("app2", "app"));
    assert_eq!(tags(&pooler.console().query("PAUSE app")), "CZ");
    held.send(&query("SELECT 'after'"));
    assert!(held.is_silent_for(Duration::from_millis(300)));
    assert_eq!(free.value("SELECT 'free'"), "free");
    assert_eq!(tags(&pooler.console().query("RESUME app")), "CZ");
    assert_eq!(rows(&held.ready()), [[Some("after".to_owned())]]);
}
