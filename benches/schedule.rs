//! How long a pool's lock is held: checkout and release, with and without waiters, and with several threads that want it.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use parking_lot::{Mutex, MutexGuard};
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

/// How long a lock was held, and how long it was waited for.
#[derive(Clone, Copy, Default)]
struct Spell {
    waited: Duration,
    held: Duration,
}

impl Spell {
    /// Does something under the lock.
    fn under<T>(&mut self, pool: &Mutex<Pool>, action: impl FnOnce(&mut MutexGuard<'_, Pool>) -> T) -> T {
        let asked = Instant::now();
        let mut guard = pool.lock();
        let got = Instant::now();
        let done = action(&mut guard);
        drop(guard);
        self.held += got.elapsed();
        self.waited += got - asked;
        done
    }
}

/// So many threads each take a server and give it back, again and again, and do for so long what needs no lock.
/// The sum over all, for one thread's share of `times` transactions.
fn contended(threads: u16, times: u64, between: Duration) -> Spell {
    let now = Instant::now();
    let pool = Mutex::new(pool(now));
    let spells = thread::scope(|scope| {
        let work = |worker: u16| {
            let mut spell = Spell::default();
            for _ in 0..times {
                let taken = spell.under(&pool, |it| checkout(it, u64::from(worker), WorkerId(worker), now));
                let (seat, server) = taken.expect("there are as many servers as threads");
                let pause = Instant::now();
                while pause.elapsed() < between {
                    black_box(&server);
                }
                drop(spell.under(&pool, |it| it.release(seat, server, WorkerId(worker), now)));
            }
            spell
        };
        let running: Vec<_> = (0..threads).map(|it| scope.spawn(move || work(it))).collect();
        running.into_iter().map(|it| it.join().expect("no panic")).collect::<Vec<_>>()
    });
    let sum = |of: fn(&Spell) -> Duration| spells.iter().map(of).sum::<Duration>() / u32::from(threads);
    Spell { waited: sum(|it| it.waited), held: sum(|it| it.held) }
}

/// Two times the lock for a transaction, by how many want it. The clock itself takes some 20 ns of each.
fn under_contention(c: &mut Criterion) {
    /// What a transaction takes apart from the lock is 10 µs and more; none at all is the worst case.
    const BETWEEN: [(&str, Duration); 2] =
        [("nothing else to do", Duration::ZERO), ("10 µs between", Duration::from_micros(10))];
    for (name, between) in BETWEEN {
        for threads in [1, 2, 4, 8] {
            for (what, of) in
                [("held", (|it| it.held) as fn(Spell) -> Duration), ("waited for", |it| it.waited)]
            {
                let name = format!("lock {what}, a transaction/{name}/{threads} threads");
                c.bench_function(&name, |b| b.iter_custom(|times| of(contended(threads, times, between))));
            }
        }
    }
}

criterion_group!(benches, without_waiters, with_waiters, under_contention);
criterion_main!(benches);
