//! Many clients, several pools and models of PostgreSQL in one thread under virtual time. A seed decides everything:
//! how bytes are cut and delayed, which server dies, who cancels, who vanishes, when a pool is paused.
//!
//! Each client knows from an oracle, a model of PostgreSQL of its own, what it must be answered to the byte; each
//! model behind the pooler knows for whom it works and what it must not be sent. A failing seed prints the command
//! that replays it, and what happened last.
//!
//! `PGWEIR_SIM_SEED=n` replays one seed with its whole trace, `PGWEIR_SIM_SEEDS=from..to` runs a range.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

mod chaos;
mod client;
mod message;
mod postgres;
mod rng;
mod sql;
mod trace;
mod workload;
mod world;

use trace::Trace;
use world::World;

/// Seeds of a normal run.
const SEEDS: u64 = 3000;
/// Events shown of a seed that fails.
const EVENTS_SHOWN: usize = 60;

#[test]
fn every_seed_keeps_the_invariants() {
    if let Ok(seed) = env::var("PGWEIR_SIM_SEED") {
        let seed = seed.parse().expect("PGWEIR_SIM_SEED is a number");
        let trace = Trace::new(usize::MAX);
        let result = run(seed, &trace);
        trace.print();
        return result.expect("the seed passes");
    }
    let (from, to) = match env::var("PGWEIR_SIM_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("PGWEIR_SIM_SEEDS is from..to");
            (from.parse().expect("a number"), to.parse().expect("a number"))
        }
        Err(_) => (0, SEEDS),
    };
    run_all(from, to, None);
}

/// Runs new seeds as long as `PGWEIR_SOAK_SECONDS` says; `scripts/soak.sh` calls it.
#[test]
fn soak() {
    let Ok(seconds) = env::var("PGWEIR_SOAK_SECONDS") else { return };
    let limit = Duration::from_secs(seconds.parse().expect("PGWEIR_SOAK_SECONDS is a number"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right").as_secs();
    let ran = run_all(now << 20, u64::MAX, Some(Instant::now() + limit));
    println!("{ran} seeds from {} passed", now << 20);
}

/// Runs seeds on all cores. Returns how many.
fn run_all(from: u64, to: u64, until: Option<Instant>) -> u64 {
    let next = AtomicU64::new(from);
    let failed = AtomicU64::new(u64::MAX);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let over = seed >= to || until.is_some_and(|it| Instant::now() >= it);
            if over || failed.load(Ordering::Relaxed) != u64::MAX {
                return;
            }
            if run(seed, &Trace::new(0)).is_err() {
                failed.fetch_min(seed, Ordering::Relaxed);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner();
    if failed != u64::MAX {
        let trace = Trace::new(EVENTS_SHOWN);
        let error = run(failed, &trace).expect_err("a seed decides everything");
        trace.print();
        panic!(
            "seed {failed}: {error}\nreplay: PGWEIR_SIM_SEED={failed} cargo test --test simulation every_seed -- --nocapture"
        );
    }
    next.into_inner().min(to) - from
}

fn run(seed: u64, trace: &Trace) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(|| World::new(seed, trace).run())) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        }
    }
}
