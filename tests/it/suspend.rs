//! SUSPEND: every conversation stands still between two messages until RESUME.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::prelude::*;

/// Suspends on a console of its own, and checks that it is so.
fn suspended(pooler: &Pooler) -> Raw {
    let mut console = pooler.console();
    assert_eq!(tags(&console.query("SUSPEND")), "CZ");
    assert_eq!(state(&mut console), [("active", "no"), ("paused", "no"), ("suspended", "yes")].map(owned));
    console
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn state(console: &mut Raw) -> Vec<(String, String)> {
    let text = |it: &Option<String>| it.clone().unwrap_or_default();
    console.rows("SHOW STATE").iter().map(|row| (text(&row[0]), text(&row[1]))).collect()
}

/// Sends a part of a message, and waits until it has been read: what is not is nothing that SUSPEND waits for.
fn send_and_see_read(pooler: &Pooler, client: &mut Raw, part: &[u8]) {
    let received = || {
        let stats = pooler.show("SHOW STATS");
        stats.iter().find(|row| row["database"] == "app").unwrap()["total_received"].parse::<usize>().unwrap()
    };
    let before = received();
    client.send(part);
    eventually("it was read", || received() == before + part.len());
}

#[test]
fn nobody_is_heard_until_resume_and_nothing_is_lost() {
    let pooler = Pooler::of(Cluster::shared());
    let (mut idle, mut in_transaction, mut running) = (pooler.app(), pooler.app(), pooler.app());
    let mark = Cluster::shared().unique("suspended");
    let lock = format!("SELECT pg_advisory_xact_lock(hashtext('{mark}'))");
    in_transaction.query("BEGIN");
    in_transaction.query(&lock);
    idle.query("SELECT 1");
    running.send(&query(&lock));
    let blocked = format!("wait_event_type = 'Lock' AND query LIKE '%{mark}%'");
    eventually("a query runs", || Cluster::shared().connections(&blocked) == 1);

    let mut console = suspended(&pooler);
    for command in ["SUSPEND", "PAUSE", "KILL app"] {
        assert_eq!(error(&console.query(command)).text(), "already suspended/paused", "{command}");
    }
    for client in [&mut idle, &mut in_transaction] {
        client.send(&query("SELECT 'late'"));
    }
    let mut newcomer = pooler.dial();
    newcomer.send(&startup(PROTOCOL_3_0, &[("user", "app"), ("database", "app")]));
    let pause = Duration::from_millis(200);
    assert!(
        idle.is_silent_for(pause) && in_transaction.is_silent_for(pause) && newcomer.is_silent_for(pause)
    );

    assert_eq!(tags(&console.query("RESUME")), "CZ");
    assert_eq!(state(&mut console)[0], owned(("active", "yes")));
    for client in [&mut idle, &mut in_transaction] {
        assert_eq!(tags(&client.ready()), "TDCZ");
    }
    newcomer.ready();
    assert_eq!(in_transaction.query("COMMIT").last().unwrap().to_string(), "Z I");
    assert_eq!(tags(&running.ready()), "TDCZ");
    assert_eq!(error(&console.query("RESUME")).text(), "pooler is not paused/suspended");
}

#[test]
fn who_is_in_the_middle_of_a_message_has_until_suspend_timeout() {
    let pooler = Setup::of(Cluster::shared()).set("suspend_timeout", "1").start();
    let (mut half, mut whole) = (pooler.app(), pooler.app());
    let text = query("SELECT 'said in two halves'");
    half.query("SELECT 1");
    send_and_see_read(&pooler, &mut half, &text[..9]);
    let begun = Instant::now();
    let mut console = suspended(&pooler);
    assert!(begun.elapsed() >= Duration::from_millis(900), "it was waited for");
    assert_eq!(error(&half.rest()).text(), "suspend_timeout");
    console.query("RESUME");
    assert_eq!(whole.value("SELECT 'unharmed'"), "unharmed");
}

#[test]
fn what_is_half_said_may_be_finished() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    client.query("SELECT 1");
    let text = query("SELECT 'said in two halves'");
    send_and_see_read(&pooler, &mut client, &text[..9]);
    let mut console = pooler.console();
    console.send(&query("SUSPEND"));
    assert!(console.is_silent_for(Duration::from_millis(200)));
    client.send(&text[9..]);
    console.ready();
    console.query("RESUME");
    assert_eq!(tags(&client.ready()), "TDCZ");
}

#[test]
fn large_answers_under_way_survive() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    let mut console = pooler.console();
    for _ in 0..5 {
        client.send(&query("SELECT repeat('x', 300) FROM generate_series(1, 20000)"));
        thread::scope(|scope| {
            // Whoever does not read is waited for until `suspend_timeout`, as soon as its socket takes no more.
            let rows_read = scope.spawn(|| rows(&client.ready()).len());
            assert_eq!(tags(&console.query("SUSPEND")), "CZ");
            assert_eq!(tags(&console.query("RESUME")), "CZ");
            assert_eq!(rows_read.join().unwrap(), 20_000);
        });
    }
}

#[test]
fn all_goes_on_when_the_last_admin_or_usr2_says_so() {
    let pooler = Pooler::of(Cluster::shared());
    let mut client = pooler.app();
    let console = suspended(&pooler);
    console.goodbye();
    assert_eq!(client.value("SELECT 'after the admin left'"), "after the admin left");
    eventually("the log says so", || pooler.log().contains("admin disappeared when suspended, doing RESUME"));
    let mut console = suspended(&pooler);
    pooler.signal(Signal::USR2);
    assert_eq!(client.value("SELECT 'after the signal'"), "after the signal");
    assert_eq!(state(&mut console)[0], owned(("active", "yes")));
}

#[test]
fn a_cancelled_or_abandoned_suspend_suspends_nobody() {
    let pooler = Pooler::of(Cluster::shared());
    let (mut client, mut half) = (pooler.app(), pooler.app());
    half.query("SELECT 1");
    half.send(&query("SELECT 1")[..7]);
    let mut console = pooler.console();
    console.send(&query("SUSPEND"));
    eventually("it is under way", || pooler.log().contains("SUSPEND command issued"));
    console.goodbye();
    assert_eq!(client.value("SELECT 'alive'"), "alive");
}

#[test]
fn suspend_waits_for_no_client_that_has_its_answer() {
    let pooler = Pooler::of(Cluster::shared());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut client = pooler.app();
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(client.value("SELECT 'mine'"), "mine");
                }
            });
        }
        let mut console = pooler.console();
        let slowest = (0..25).map(|_| {
            let begin = Instant::now();
            console.query("SUSPEND");
            let taken = begin.elapsed();
            console.query("RESUME");
            taken
        });
        let slowest = slowest.max().unwrap();
        // Before a failed assertion is told, the others must be able to end.
        over.store(true, Ordering::Relaxed);
        assert!(slowest < Duration::from_secs(5), "{slowest:?}, of suspend_timeout's 10 s");
    });
}
