//! Every order of steps of a few clients on a few workers, by shuttle's scheduler: what [`super::stress`] meets by chance.
//!
//! `cargo test --features interleavings --lib interleavings`. Where the orders are few, all are tried; else some thousands
//! are drawn, from a seed that a failure prints. A wake-up that is lost shows as a deadlock. Only locks and atomics of
//! `pool` are steps: what others lock (the map of pools, the roster) is left alone while threads run.

use std::time::Duration;

use shuttle::future::block_on;
use shuttle::thread;

use super::*;

/// Orders that are drawn for a scenario: about a second.
const DRAWN: usize = 1500;
/// Orders that are tried in turn, at most.
const TRIED_MAX: usize = 50_000;

/// Opens what has been asked for. Whoever may have caused something to be opened calls it.
fn open_all(world: &World) {
    while world.opener.open_one().is_some() {}
}

/// A client's turn: it asks for a server, waits for it, and gives it back. `owners` counts who has one.
fn turn(world: &World, client: &Client, owners: &AtomicUsize, servers: usize) {
    let lease = match client.checkout() {
        Answer::Granted(lease) => lease,
        Answer::Refused(refusal) => panic!("{refusal:?}"),
        Answer::Waiting => {
            open_all(world);
            block_on(client.claim.granted()).expect("nothing fails here")
        }
    };
    assert!(owners.fetch_add(1, Ordering::SeqCst) < servers, "more servers than the limit allows");
    thread::yield_now();
    owners.fetch_sub(1, Ordering::SeqCst);
    give_back(lease);
    open_all(world);
}

/// Clients on threads of their own take two turns each on the one server that there is; they come back.
fn two_turns_each(world: &Arc<World>, clients: impl Iterator<Item = Client>) -> Vec<Client> {
    let owners = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = clients
        .map(|client| {
            let (world, owners) = (Arc::clone(world), Arc::clone(&owners));
            thread::spawn(move || {
                turn(&world, &client, &owners, 1);
                turn(&world, &client, &owners, 1);
                client
            })
        })
        .collect();
    threads.into_iter().map(|it| it.join().expect("no panic")).collect()
}

/// Nobody has or awaits anything any more.
fn is_quiet(world: &World) {
    for pool in world.pools.all() {
        let view = pool.view();
        assert_eq!((view.servers.busy(), view.waiting), (0, 0), "{view:?}");
    }
}

fn small_world(change: impl FnOnce(&mut Config)) -> Arc<World> {
    Arc::new(world(|it| {
        it.settings.server_login_retry = Duration::ZERO;
        change(it);
    }))
}

#[test]
fn a_slot_is_never_given_twice_nor_lost_on_who_starves() {
    struct Hungry {
        limit: Arc<Limit>,
        served: AtomicUsize,
    }
    impl Contender for Hungry {
        fn serve(&self) {
            if self.limit.take().is_some() {
                self.served.fetch_add(1, Ordering::SeqCst);
            }
        }
        fn longest_idle(&self) -> Option<Instant> {
            None
        }
        fn evict(&self, _: &Arc<Limit>) -> Option<Slot> {
            None
        }
    }
    let scenario = || {
        let limit = Limit::new(1);
        let held = limit.take().expect("it is free");
        let hungry = Arc::new(Hungry { limit: Arc::clone(&limit), served: AtomicUsize::new(0) });
        let freeing = thread::spawn(move || drop(held));
        let weak = Arc::downgrade(&hungry);
        let who: Weak<dyn Contender> = weak;
        let got = limit.take_or_starve(&who);
        assert!(limit.used() <= 1);
        let got = got.is_some();
        freeing.join().expect("it does not panic");
        assert!(got || hungry.served.load(Ordering::SeqCst) > 0, "a slot is free and nobody was told");
    };
    shuttle::check_dfs(scenario, Some(TRIED_MAX));
}

#[test]
fn clients_who_share_a_server_all_get_it_one_at_a_time() {
    let scenario = || {
        let world = small_world(|_| ());
        let clients = (1..=3).map(|it| world.client_on(it, "a", it as u16 % 2));
        let clients = two_turns_each(&world, clients);
        is_quiet(&world);
        drop(clients);
    };
    shuttle::check_pct(scenario, DRAWN, 3);
    shuttle::check_random(scenario, DRAWN);
}

#[test]
fn a_server_granted_to_who_leaves_in_this_moment_reaches_the_next() {
    let scenario = || {
        let world = small_world(|_| ());
        let (_first, lease) = world.served(1, "a");
        let (leaving, staying) = (world.client(2, "a"), world.client_on(3, "a", 1));
        leaving.waits();
        staying.waits();
        let giving = thread::spawn(move || give_back(lease));
        let going = thread::spawn(move || {
            leaving.claim.leave();
            leaving
        });
        let lease = block_on(staying.claim.granted()).expect("it is next");
        giving.join().expect("no panic");
        let leaving = going.join().expect("no panic");
        give_back(lease);
        is_quiet(&world);
        drop((leaving, staying));
    };
    shuttle::check_dfs(scenario, Some(TRIED_MAX));
}

#[test]
fn a_cancel_request_keeps_its_server_from_the_next_client() {
    let scenario = || {
        let world = small_world(|_| ());
        let (first, lease) = world.served(1, "a");
        let second = world.client_on(2, "a", 1);
        second.waits();
        let held = Arc::new(AtomicUsize::new(0));
        let caller = Arc::clone(first.claim.caller());
        let canceling = thread::spawn({
            let held = Arc::clone(&held);
            move || match caller.cancel() {
                Cancel::Send(hold) => {
                    held.store(1, Ordering::SeqCst);
                    thread::yield_now();
                    held.store(0, Ordering::SeqCst);
                    hold.ended();
                }
                Cancel::Nothing => {}
                Cancel::LeftQueue => panic!("it has a server"),
            }
        });
        let giving = thread::spawn(move || give_back(lease));
        let lease = block_on(second.claim.granted()).expect("it is next");
        assert_eq!(held.load(Ordering::SeqCst), 0, "the request would hit another client's query");
        giving.join().expect("no panic");
        canceling.join().expect("no panic");
        give_back(lease);
        is_quiet(&world);
        drop((first, second));
    };
    shuttle::check_dfs(scenario, Some(TRIED_MAX));
    shuttle::check_random(scenario, DRAWN);
}

#[test]
fn two_pools_with_one_connection_between_them_both_go_on() {
    let scenario = || {
        let world = small_world(|it| it.settings.max_user_connections = 1);
        let clients = ["a", "b"].into_iter().zip(1..).map(|(pool, id)| world.client_on(id, pool, id as u16));
        let clients = two_turns_each(&world, clients);
        is_quiet(&world);
        assert!(world.pools.connections_of_user(&"u".into()) <= 1);
        drop(clients);
    };
    shuttle::check_pct(scenario, DRAWN, 3);
    shuttle::check_random(scenario, DRAWN);
}
