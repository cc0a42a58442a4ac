//! How long a pool's lock is held: checkout and release, with and without waiters.

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use pgweir::config::{PoolMode, PoolSettings};
use pgweir::ids::{ClientId, WorkerId};
use pgweir::pool::schedule::{Asker, Checkout, Release, Schedule, Seat};

type Pool = Schedule<Box<u64>, u64, ()>;

const SERVERS: usize = 20;
const WORKERS: u16 = 4;

fn settings() -> PoolSettings {
    PoolSettings {
        mode: PoolMode::Transaction,
        size: SERVERS,
        min_size: SERVERS,
        reserve_size: 0,
        reserve_timeout: Duration::ZERO,
        server_lifetime: Duration::from_secs(3600),
        server_idle_timeout: Duration::from_secs(600),
        server_login_retry: Duration::from_secs(15),
        server_round_robin: false,
        connecting_max: SERVERS,
        check_after: None,
        switchover_timeout: Duration::ZERO,
    }
}

/// A full pool, all servers idle, spread over the workers.
fn pool(now: Instant) -> Pool {
    let mut pool = Schedule::new(settings());
    let openings: Vec<_> = std::iter::from_fn(|| pool.next_open_for_minimum(now)).collect();
    assert_eq!(openings.len(), SERVERS);
    for (number, opening) in (0..).zip(openings) {
        let release = pool.opened(opening.seat, Box::new(number), WorkerId(number as u16 % WORKERS), now);
        assert!(matches!(release, Release::Kept));
    }
    pool
}

fn checkout(pool: &mut Pool, client: u64, worker: WorkerId, now: Instant) -> Option<(Seat, Box<u64>)> {
    let asker = Asker { client: ClientId(client), worker };
    match pool.checkout(asker, now, |_| true, || client) {
        Checkout::Granted { seat, server } => Some((seat, server)),
        _ => None,
    }
}

fn without_waiters(c: &mut Criterion) {
    let now = Instant::now();
    for (name, worker) in [("at home", 3), ("from another worker", 1000)] {
        let mut pool = pool(now);
        c.bench_function(&format!("checkout and release/{name}"), |b| {
            b.iter(|| {
                let (seat, server) = checkout(&mut pool, 1, WorkerId(worker), now).expect("a server is idle");
                pool.release(seat, server, WorkerId(worker % WORKERS), now)
            });
        });
    }
}

/// 1,000 clients wait; each that gets a server goes to the end of the queue after it.
fn with_waiters(c: &mut Criterion) {
    let now = Instant::now();
    let mut pool = pool(now);
    let mut held: Vec<(Seat, Box<u64>)> = (0..SERVERS as u64)
        .map(|it| checkout(&mut pool, it, WorkerId(0), now).expect("a server is idle"))
        .collect();
    for client in 100..1100 {
        assert!(checkout(&mut pool, client, WorkerId(client as u16 % WORKERS), now).is_none());
    }
    c.bench_function("release to a waiter and wait again", |b| {
        b.iter(|| {
            let (seat, server) = held.pop().expect("one is held");
            let Release::HandTo { waiter, seat, server } = pool.release(seat, server, WorkerId(0), now)
            else {
                panic!("somebody waits");
            };
            held.push((seat, server));
            assert!(checkout(&mut pool, waiter.handle, waiter.worker, now).is_none());
        });
    });
}

criterion_group!(benches, without_waiters, with_waiters);
criterion_main!(benches);
