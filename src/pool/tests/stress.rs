//! Many threads at once: what proptest's single thread cannot reach.

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::*;

const CLIENTS: u64 = 12;
const TURNS: u64 = 1000;

/// Runs what other threads do meanwhile: opening, hearing, upkeep.
fn background(world: &World, ended: &AtomicUsize) {
    let mut round = 0u64;
    while ended.load(Ordering::SeqCst) < CLIENTS as usize {
        round += 1;
        match world.opener.take() {
            Some(task) if round.is_multiple_of(7) => {
                let report = Report::fatal(SqlState::CANNOT_CONNECT_NOW, "starting");
                let kind = OpenFailure::Unreachable;
                let error = OpenError { kind, reason: String::new(), report };
                task.failed(error, WorkerId(0), Instant::now());
            }
            Some(task) => {
                world.opener.tasks.lock().push_front(task);
                world.opener.open_one();
            }
            None => std::thread::yield_now(),
        }
        // No upkeep: it would make good for a wake-up that was lost.
        world.pools.hear(Instant::now());
        if round.is_multiple_of(11) {
            world.pools.reconnect(None);
        }
    }
}

/// One client's life: it asks for servers, and sometimes leaves, is cancelled or drops its lease.
fn client(world: &World, id: u64, owners: &Mutex<std::collections::HashSet<usize>>) {
    let client = world.client_on(id, if id.is_multiple_of(2) { "a" } else { "b" }, (id % 3) as u16);
    for turn in 0..TURNS {
        let choice = id.wrapping_mul(31).wrapping_add(turn.wrapping_mul(17)) % 13;
        let Some(lease) = wait(&client, choice) else { continue };
        let address = Arc::as_ptr(&lease.wire) as usize;
        assert!(owners.lock().insert(address), "two clients have one server");
        std::thread::yield_now();
        let hold = match choice {
            1 | 2 => match client.claim.caller().cancel() {
                Cancel::Send(hold) => Some(hold),
                _ => panic!("a linked client can be cancelled"),
            },
            3 => {
                lease.wire.speak();
                None
            }
            _ => None,
        };
        assert!(owners.lock().remove(&address));
        match choice {
            5 => drop(lease),
            6 => lease.reset(Done::assumed()).cleaned().give_back(Instant::now()),
            _ => give_back(lease),
        }
        match hold {
            Some(hold) if choice == 1 => hold.ended(),
            // Dropped unended: the server is closed.
            other => drop(other),
        }
    }
}

fn wait(client: &Client, choice: u64) -> Option<Lease<Busy, FakeConn>> {
    match client.checkout() {
        Answer::Granted(lease) => return Some(lease),
        Answer::Refused(_) => return None,
        Answer::Waiting => {}
    }
    match choice {
        7 => {
            client.claim.leave();
            return None;
        }
        8 => {
            client.claim.caller().cancel();
        }
        _ => {}
    }
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        match client.poll() {
            Poll::Ready(outcome) => return outcome.ok(),
            Poll::Pending => std::thread::yield_now(),
        }
        assert!(Instant::now() < limit, "it waits for ever: {:?}", client.claim.queue_view(Instant::now()));
    }
}

/// Counts a client that has ended, also by a panic: else the others would wait for ever.
struct Ended<'a>(&'a AtomicUsize);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn servers_are_never_shared_lost_or_withheld() {
    let world = world(|it| {
        it.settings.default_pool_size = 3;
        it.settings.max_user_connections = 4;
        it.settings.server_login_retry = Duration::ZERO;
    });
    let ended = AtomicUsize::new(0);
    let owners = Mutex::default();
    std::thread::scope(|scope| {
        scope.spawn(|| background(&world, &ended));
        for id in 1..=CLIENTS {
            let (world, owners, ended) = (&world, &owners, &ended);
            scope.spawn(move || {
                let _ended = Ended(ended);
                client(world, id, owners);
            });
        }
    });
    while world.opener.open_one().is_some() {}
    for pool in world.pools.all() {
        let view = pool.view();
        assert_eq!((view.servers.busy(), view.waiting, view.clients), (0, 0, 0), "{view:?}");
    }
    let idle: usize = world.pools.all().iter().map(|pool| pool.view().servers.idle).sum();
    assert_eq!(world.roster.server_count(), idle);
    assert_eq!(world.pools.connections_of_user(&"u".into()), idle);
}
