//! The rules of the schedule, each by the behaviour it gives.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::config::PoolMode;

type Integers = Schedule<u32, u64, &'static str>;

const A: WorkerId = WorkerId(0);
const B: WorkerId = WorkerId(1);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn settings() -> PoolSettings {
    PoolSettings {
        mode: PoolMode::Transaction,
        size: 2,
        min_size: 0,
        reserve_size: 0,
        reserve_timeout: 5 * SECOND,
        server_lifetime: 3600 * SECOND,
        server_idle_timeout: 600 * SECOND,
        server_login_retry: 15 * SECOND,
        server_round_robin: false,
        connecting_max: 4,
        check_after: None,
        switchover_timeout: Duration::ZERO,
    }
}

fn with(change: impl FnOnce(&mut PoolSettings)) -> Integers {
    let mut settings = settings();
    change(&mut settings);
    Schedule::new(settings)
}

fn ask(pool: &mut Integers, client: u64, worker: WorkerId, now: Instant) -> Checkout<u32, &'static str> {
    let answer = pool.checkout(Asker { client: ClientId(client), worker }, now, |_| true, || client);
    pool.check();
    answer
}

#[track_caller]
fn waits(pool: &mut Integers, client: u64, worker: WorkerId, now: Instant) -> WaitTicket {
    match ask(pool, client, worker, now) {
        Checkout::Waits(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn granted(pool: &mut Integers, client: u64, worker: WorkerId, now: Instant) -> (Seat, u32) {
    match ask(pool, client, worker, now) {
        Checkout::Granted { seat, server } => (seat, server),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn handed(release: Release<u32, u64>) -> (u64, Seat) {
    match release {
        Release::HandTo { waiter, seat, .. } => (waiter.handle, seat),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn closed(release: Release<u32, u64>) -> CloseReason {
    match release {
        Release::Close(closing) => closing.reason,
        other => panic!("{other:?}"),
    }
}

/// Fills an empty pool with idle servers, numbered from 0, a millisecond after each other.
fn fill(pool: &mut Integers, homes: &[WorkerId], start: Instant) -> Vec<Seat> {
    let settings = pool.settings.clone();
    pool.configure(PoolSettings { min_size: homes.len(), connecting_max: homes.len(), ..settings.clone() });
    let openings: Vec<_> = homes.iter().map(|_| pool.next_open_for_minimum(start).expect("room")).collect();
    pool.configure(settings);
    for ((number, home), opening) in (0..).zip(homes).zip(&openings) {
        let opened = pool.opened(opening.seat, number, *home, start + number * MS);
        assert!(matches!(opened, Release::Kept), "{opened:?}");
    }
    pool.check();
    openings.iter().map(|opening| opening.seat).collect()
}

#[test]
fn the_most_recently_used_server_goes_first_and_one_at_home_before_it() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 4);
    fill(&mut pool, &[A, A, B, B], now);
    assert_eq!(granted(&mut pool, 1, A, now).1, 1);
    assert_eq!(granted(&mut pool, 2, A, now).1, 0);
    assert_eq!(granted(&mut pool, 3, A, now).1, 3);
    assert_eq!(granted(&mut pool, 4, A, now).1, 2);
}

#[test]
fn round_robin_gives_the_longest_idle_server() {
    let now = Instant::now();
    let mut pool = with(|it| (it.size, it.server_round_robin) = (3, true));
    fill(&mut pool, &[B, A, A], now);
    assert_eq!(granted(&mut pool, 1, A, now).1, 0);
}

#[test]
fn a_server_that_has_spoken_is_not_granted() {
    let now = Instant::now();
    let mut pool = with(|_| ());
    fill(&mut pool, &[A, A], now);
    let answer = pool.checkout(Asker { client: ClientId(1), worker: A }, now, |server| *server != 1, || 1);
    assert!(matches!(answer, Checkout::Granted { server: 0, .. }), "{answer:?}");
}

#[test]
fn waiters_are_served_first_come_first_served() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 1);
    let seat = fill(&mut pool, &[A], now)[0];
    granted(&mut pool, 1, A, now);
    waits(&mut pool, 2, A, now);
    waits(&mut pool, 3, A, now);
    assert_eq!(handed(pool.release(seat, 0, A, now)), (2, seat));
    assert_eq!(handed(pool.release(seat, 0, A, now)), (3, seat));
    assert!(matches!(pool.release(seat, 0, A, now), Release::Kept));
    pool.check();
}

#[test]
fn a_waiter_of_the_same_worker_may_go_first_but_not_for_long() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 1);
    let seat = fill(&mut pool, &[A], now)[0];
    granted(&mut pool, 1, A, now);
    for (client, worker) in [(2, B), (3, A), (4, A)] {
        waits(&mut pool, client, worker, now);
    }
    assert_eq!(handed(pool.release(seat, 0, A, now + MS)).0, 3);
    assert_eq!(handed(pool.release(seat, 0, A, now + 3 * MS)).0, 2);
    assert_eq!(handed(pool.release(seat, 0, A, now + 3 * MS)).0, 4);
}

#[test]
fn who_has_left_is_not_served() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 1);
    let seat = fill(&mut pool, &[A], now)[0];
    granted(&mut pool, 1, A, now);
    let ticket = waits(&mut pool, 2, A, now);
    let next = waits(&mut pool, 3, A, now);
    assert_eq!(pool.queue_before(next), Some(1));
    assert!(pool.abandon(ticket).is_some());
    assert!(pool.abandon(ticket).is_none());
    assert_eq!(pool.queue_before(next), Some(0));
    assert_eq!(handed(pool.release(seat, 0, A, now)).0, 3);
}

#[test]
fn a_waiter_opens_a_server_while_there_is_room() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 2);
    for client in 1..=3 {
        waits(&mut pool, client, B, now);
    }
    let first = pool.next_open(now).expect("room for one");
    assert_eq!((first.worker, first.from_reserve), (Some(B), false));
    let second = pool.next_open(now).expect("room for two");
    assert_eq!(pool.next_open(now), None, "the pool is full");
    assert_eq!(handed(pool.opened(second.seat, 7, B, now)).0, 1);
    assert_eq!(handed(pool.opened(first.seat, 8, B, now)).0, 2);
    assert_eq!(pool.waiting(), 1);
}

#[test]
fn no_more_servers_are_opened_than_clients_wait() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 9);
    waits(&mut pool, 1, A, now);
    assert!(pool.next_open(now).is_some());
    assert_eq!(pool.next_open(now), None);
}

#[test]
fn connects_under_way_are_limited() {
    let now = Instant::now();
    let mut pool = with(|it| (it.size, it.connecting_max) = (9, 2));
    for client in 1..=9 {
        waits(&mut pool, client, A, now);
    }
    assert!(pool.next_open(now).is_some() && pool.next_open(now).is_some());
    assert_eq!(pool.next_open(now), None);
}

#[test]
fn the_reserve_is_for_those_who_have_waited() {
    let now = Instant::now();
    let mut pool = with(|it| (it.size, it.reserve_size) = (1, 1));
    fill(&mut pool, &[A], now);
    granted(&mut pool, 1, A, now);
    waits(&mut pool, 2, A, now);
    waits(&mut pool, 3, A, now);
    assert_eq!(pool.next_open(now + 4 * SECOND), None);
    let opening = pool.next_open(now + 5 * SECOND).expect("the reserve");
    assert!(opening.from_reserve);
    assert_eq!(pool.next_open(now + 5 * SECOND), None, "the reserve is one");
}

#[test]
fn the_reserve_is_off_where_its_timeout_is_zero() {
    let now = Instant::now();
    let mut pool = with(|it| (it.size, it.reserve_size, it.reserve_timeout) = (1, 1, Duration::ZERO));
    fill(&mut pool, &[A], now);
    granted(&mut pool, 1, A, now);
    waits(&mut pool, 2, A, now);
    assert_eq!(pool.next_open(now + 60 * SECOND), None);
}

#[test]
fn a_refused_login_refuses_all_waiters_at_once_and_the_next_until_the_retry() {
    let now = Instant::now();
    let mut pool = with(|_| ());
    waits(&mut pool, 1, A, now);
    waits(&mut pool, 2, A, now);
    let opening = pool.next_open(now).expect("room");
    let refused = pool.open_failed(opening.seat, "no such role", OpenFailure::Refused, now + SECOND);
    assert_eq!(refused.iter().map(|waiter| waiter.handle).collect::<Vec<_>>(), [1, 2]);
    let answer = ask(&mut pool, 3, A, now + 14 * SECOND);
    assert!(matches!(answer, Checkout::Refused("no such role")), "{answer:?}");
    waits(&mut pool, 4, A, now + 15 * SECOND);
    let opening = pool.next_open(now + 15 * SECOND).expect("the retry counts from the attempt's beginning");
    assert_eq!(handed(pool.opened(opening.seat, 1, A, now + 15 * SECOND)).0, 4);
    assert_eq!(pool.failure(), None);
}

#[test]
fn a_server_out_of_reach_is_waited_for() {
    let now = Instant::now();
    let mut pool = with(|_| ());
    waits(&mut pool, 1, A, now);
    let opening = pool.next_open(now).expect("room");
    assert!(pool.open_failed(opening.seat, "refused", OpenFailure::Unreachable, now).is_empty());
    assert_eq!(pool.next_open(now + 14 * SECOND), None);
    assert!(pool.next_open(now + 15 * SECOND).is_some());
}

#[test]
fn a_refused_login_refuses_nobody_where_a_server_serves() {
    let now = Instant::now();
    let mut pool = with(|_| ());
    fill(&mut pool, &[A], now);
    granted(&mut pool, 1, A, now);
    waits(&mut pool, 2, A, now);
    let opening = pool.next_open(now).expect("room");
    assert!(pool.open_failed(opening.seat, "too many", OpenFailure::Refused, now).is_empty());
    waits(&mut pool, 3, A, now);
}

#[test]
fn a_refused_login_refuses_everybody_where_only_obsolete_servers_serve() {
    let now = Instant::now();
    let mut pool = with(|_| ());
    fill(&mut pool, &[A], now);
    granted(&mut pool, 1, A, now);
    assert!(pool.renew().is_empty());
    waits(&mut pool, 2, A, now);
    let opening = pool.next_open(now).expect("room");
    let refused = pool.open_failed(opening.seat, "wrong password", OpenFailure::Refused, now);
    assert_eq!(refused.iter().map(|waiter| waiter.handle).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_held_server_serves_nobody_until_the_cancel_has_ended() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 1);
    let seat = fill(&mut pool, &[A], now)[0];
    assert!(!pool.hold(seat), "idle: there is nothing to cancel");
    granted(&mut pool, 1, A, now);
    assert!(pool.hold(seat) && pool.hold(seat));
    waits(&mut pool, 2, A, now);
    assert!(matches!(pool.release(seat, 0, A, now), Release::Held));
    pool.check();
    assert_eq!(pool.counts().held, 1);
    assert!(pool.unhold(seat, now, |_| true).is_none());
    assert_eq!(handed(pool.unhold(seat, now, |_| true).expect("it was held")), (2, seat));
}

#[test]
fn a_cancel_that_ends_late_does_not_touch_the_seats_next_server() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 1);
    let seat = fill(&mut pool, &[A], now)[0];
    granted(&mut pool, 1, A, now);
    assert!(pool.hold(seat));
    pool.gone(seat);
    let next = fill(&mut pool, &[A], now)[0];
    assert_ne!(seat, next);
    assert!(pool.unhold(seat, now, |_| true).is_none());
    pool.gone(seat);
    assert_eq!(pool.counts().idle, 1);
}

#[test]
fn a_condemned_server_is_closed_when_its_cancels_have_ended() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 1);
    let seat = fill(&mut pool, &[A], now)[0];
    granted(&mut pool, 1, A, now);
    assert!(pool.hold(seat) && pool.hold(seat));
    pool.condemn(seat);
    assert!(pool.unhold(seat, now, |_| true).is_none());
    assert!(pool.unhold(seat, now, |_| true).is_none(), "its client still has it");
    assert_eq!(closed(pool.release(seat, 0, A, now)), CloseReason::CloseNeeded);
}

#[test]
fn a_closing_server_counts_until_it_is_gone() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 1);
    let seat = fill(&mut pool, &[A], now)[0];
    granted(&mut pool, 1, A, now);
    waits(&mut pool, 2, A, now);
    assert!(pool.renew().is_empty());
    assert_eq!(pool.obsolete(), 1);
    assert_eq!(closed(pool.release(seat, 0, A, now)), CloseReason::CloseNeeded);
    assert_eq!(pool.next_open(now), None);
    pool.gone(seat);
    assert!(pool.next_open(now).is_some(), "a replacement for who waits");
    assert_eq!(pool.obsolete(), 0);
}

#[test]
fn pausing_closes_idle_servers_and_lets_clients_wait() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 3);
    fill(&mut pool, &[A, A], now);
    let (seat, server) = granted(&mut pool, 1, A, now);
    let closing = pool.set_flow(Flow::Paused);
    assert_eq!(closing.len(), 1);
    pool.gone(closing[0].seat);
    waits(&mut pool, 2, A, now);
    assert_eq!(pool.next_open(now), None);
    assert_eq!(pool.counts().busy(), 1);
    assert_eq!(closed(pool.release(seat, server, A, now)), CloseReason::Paused);
    pool.gone(seat);
    assert_eq!(pool.counts().total(), 0);
    assert!(pool.set_flow(Flow::Running).is_empty());
    assert!(pool.next_open(now).is_some());
}

#[test]
fn idle_servers_age_out_down_to_the_minimum() {
    let now = Instant::now();
    let mut pool = with(|it| (it.size, it.min_size) = (4, 1));
    fill(&mut pool, &[A, A, A], now);
    assert!(pool.upkeep(now + 600 * SECOND).is_empty());
    let closing = pool.upkeep(now + 601 * SECOND);
    assert_eq!(
        closing.iter().map(|it| (it.server, it.reason)).collect::<Vec<_>>(),
        [(0, CloseReason::IdleTimeout), (1, CloseReason::IdleTimeout)]
    );
    pool.check();
}

#[test]
fn old_servers_are_closed_one_after_the_other() {
    let now = Instant::now();
    let mut pool =
        with(|it| (it.size, it.server_lifetime, it.server_idle_timeout) = (2, 10 * SECOND, Duration::ZERO));
    fill(&mut pool, &[A, A], now);
    assert!(pool.upkeep(now + 9 * SECOND).is_empty());
    let closing = pool.upkeep(now + 10 * SECOND);
    assert_eq!(closing.iter().map(|it| it.reason).collect::<Vec<_>>(), [CloseReason::Lifetime]);
    assert!(pool.upkeep(now + 14 * SECOND).is_empty());
    assert_eq!(pool.upkeep(now + 15 * SECOND).len(), 1);
}

#[test]
fn a_lifetime_of_zero_uses_each_server_once() {
    let now = Instant::now();
    let mut pool = with(|it| it.server_lifetime = Duration::ZERO);
    fill(&mut pool, &[A], now);
    assert!(pool.upkeep(now + SECOND).is_empty(), "it has not been used");
    let (seat, server) = granted(&mut pool, 1, A, now);
    pool.unused(seat);
    assert!(matches!(pool.release(seat, server, A, now), Release::Kept), "it was only looked at");
    let (seat, server) = granted(&mut pool, 1, A, now);
    assert_eq!(closed(pool.release(seat, server, A, now)), CloseReason::Lifetime);
}

#[test]
fn a_server_that_was_idle_long_is_checked_before_its_next_client() {
    let now = Instant::now();
    let mut pool = with(|it| (it.size, it.check_after) = (2, Some(10 * SECOND)));
    fill(&mut pool, &[A, A], now);
    let (seat, server) = granted(&mut pool, 1, A, now + 9 * SECOND);
    assert!(matches!(pool.release(seat, server, A, now + 9 * SECOND), Release::Kept));
    let fresh = granted(&mut pool, 1, A, now + 18 * SECOND);
    assert_eq!(fresh.0, seat, "the one that was used just now");
    waits(&mut pool, 2, A, now + 18 * SECOND);
    let (stale, server) = pool.next_check(now + 18 * SECOND).expect("the other one is checked");
    assert!(pool.next_check(now + 18 * SECOND).is_none(), "one for each waiter");
    assert!(pool.next_open(now + 18 * SECOND).is_none(), "the check may be enough");
    let release = pool.release(stale, server, A, now + 18 * SECOND);
    assert!(matches!(release, Release::HandTo { seat, .. } if seat == stale));
    pool.check();
}

#[test]
fn a_smaller_pool_gives_up_its_surplus() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 4);
    fill(&mut pool, &[A, A, A, A], now);
    let (seat, server) = granted(&mut pool, 1, A, now);
    pool.configure(PoolSettings { size: 1, ..settings() });
    let closing = pool.upkeep(now);
    assert_eq!(closing.len(), 3);
    assert!(closing.iter().all(|it| it.reason == CloseReason::TooMany));
    pool.check();
    assert!(matches!(pool.release(seat, server, A, now), Release::Kept));
}

#[test]
fn the_minimum_is_opened_without_anybody_asking() {
    let now = Instant::now();
    let mut pool = with(|it| (it.size, it.min_size) = (2, 5));
    assert!(pool.next_open_for_minimum(now).is_some_and(|it| it.worker.is_none()));
    assert!(pool.next_open_for_minimum(now).is_some());
    assert_eq!(pool.next_open_for_minimum(now), None, "the pool's size is the smaller limit");
}

#[test]
fn a_server_that_was_only_heard_keeps_its_place_in_the_idle_list() {
    let now = Instant::now();
    let mut pool = with(|it| it.size = 3);
    let seats = fill(&mut pool, &[A, A, A], now);
    let server = pool.examine(seats[1]).expect("idle");
    assert_eq!(pool.examine(seats[1]), None);
    assert!(matches!(pool.release(seats[1], server, A, now + SECOND), Release::Kept));
    pool.check();
    let order: Vec<_> = std::iter::from_fn(|| pool.evict()).map(|it| it.server).collect();
    assert_eq!(order, [0, 1, 2]);
}

/// One step of the model.
#[derive(Clone, Copy, Debug)]
enum Step {
    Checkout { worker: u16 },
    Release { which: usize, worker: u16 },
    Reset { which: usize },
    Close { which: usize },
    Opened { which: usize, worker: u16 },
    Fail { which: usize, refused: bool },
    Abandon { which: usize },
    Hold { which: usize },
    Unhold { which: usize },
    Condemn { which: usize },
    Examine,
    Pause,
    Resume,
    Renew,
    Resize { size: usize, reserve: usize, min: usize },
    Upkeep,
    Evict,
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0usize..8;
    prop_oneof![
        6 => (0u16..3).prop_map(|worker| Step::Checkout { worker }),
        6 => (which.clone(), 0u16..3).prop_map(|(which, worker)| Step::Release { which, worker }),
        1 => which.clone().prop_map(|which| Step::Reset { which }),
        1 => which.clone().prop_map(|which| Step::Close { which }),
        6 => (which.clone(), 0u16..3).prop_map(|(which, worker)| Step::Opened { which, worker }),
        1 => (which.clone(), any::<bool>()).prop_map(|(which, refused)| Step::Fail { which, refused }),
        2 => which.clone().prop_map(|which| Step::Abandon { which }),
        2 => which.clone().prop_map(|which| Step::Hold { which }),
        2 => which.clone().prop_map(|which| Step::Unhold { which }),
        1 => which.prop_map(|which| Step::Condemn { which }),
        1 => Just(Step::Examine),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => Just(Step::Renew),
        1 => (0usize..4, 0usize..2, 0usize..3).prop_map(|(size, reserve, min)| Step::Resize { size, reserve, min }),
        1 => Just(Step::Upkeep),
        1 => Just(Step::Evict),
        2 => (0u64..8000).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// What the rest of the program would know.
struct Model {
    pool: Integers,
    now: Instant,
    next_server: u32,
    next_client: u64,
    opening: Vec<Seat>,
    /// Servers outside: leased or resetting.
    out: Vec<(Seat, u32)>,
    holds: Vec<Seat>,
    waiting: BTreeMap<u64, (WaitTicket, u16, Instant)>,
    alive: BTreeSet<u32>,
    condemned: BTreeSet<u32>,
}

impl Model {
    fn new() -> Self {
        Self {
            pool: Schedule::new(settings()),
            now: Instant::now(),
            next_server: 0,
            next_client: 0,
            opening: Vec::new(),
            out: Vec::new(),
            holds: Vec::new(),
            waiting: BTreeMap::new(),
            alive: BTreeSet::new(),
            condemned: BTreeSet::new(),
        }
    }

    fn given(&mut self, seat: Seat, server: u32) {
        assert!(self.alive.contains(&server), "a closed server was given out");
        assert!(self.out.iter().all(|it| it.1 != server), "a server was given out twice");
        assert!(!self.condemned.contains(&server), "a condemned server was given out");
        assert!(!self.holds.contains(&seat), "a held server was given out");
        self.out.push((seat, server));
    }

    fn released(&mut self, release: Release<u32, u64>) {
        match release {
            Release::HandTo { waiter, seat, server } => {
                let (_, worker, _) = self.waiting.remove(&waiter.handle).expect("only waiters are served");
                let patient = self.waiting.range(..waiter.handle).next().map(|(_, waiter)| *waiter);
                if let Some((_, other, since)) = patient {
                    assert!(self.now - since <= SAME_WORKER_PREFERENCE_MAX && other != worker, "out of turn");
                }
                self.given(seat, server);
            }
            Release::Kept | Release::Held => {}
            Release::Close(closing) => self.closed(closing),
        }
    }

    fn closed(&mut self, closing: Closing<u32>) {
        assert!(self.alive.remove(&closing.server));
        self.pool.gone(closing.seat);
    }

    fn all_closed(&mut self, closing: Vec<Closing<u32>>) {
        for closing in closing {
            self.closed(closing);
        }
    }

    fn take(&mut self, which: usize) -> Option<(Seat, u32)> {
        (which < self.out.len()).then(|| self.out.swap_remove(which))
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Checkout { worker } => {
                let client = self.next_client;
                self.next_client += 1;
                let asker = Asker { client: ClientId(client), worker: WorkerId(worker) };
                match self.pool.checkout(asker, self.now, |_| true, || client) {
                    Checkout::Granted { seat, server } => self.given(seat, server),
                    Checkout::Waits(ticket) => {
                        self.waiting.insert(client, (ticket, worker, self.now));
                    }
                    Checkout::Refused(_) => assert!(self.alive.is_empty(), "refused beside a server"),
                }
            }
            Step::Release { which, worker } => {
                if let Some((seat, server)) = self.take(which) {
                    let release = self.pool.release(seat, server, WorkerId(worker), self.now);
                    self.released(release);
                }
            }
            Step::Reset { which } => {
                if let Some((seat, _)) = self.out.get(which) {
                    self.pool.resetting(*seat);
                }
            }
            Step::Close { which } => {
                if let Some((seat, server)) = self.take(which) {
                    self.alive.remove(&server);
                    self.pool.gone(seat);
                }
            }
            Step::Opened { which, worker } if which < self.opening.len() => {
                let seat = self.opening.swap_remove(which);
                let server = self.next_server;
                self.next_server += 1;
                self.alive.insert(server);
                let release = self.pool.opened(seat, server, WorkerId(worker), self.now);
                self.released(release);
            }
            Step::Fail { which, refused } if which < self.opening.len() => {
                let seat = self.opening.swap_remove(which);
                let kind = if refused { OpenFailure::Refused } else { OpenFailure::Unreachable };
                for waiter in self.pool.open_failed(seat, "failed", kind, self.now) {
                    assert!(self.waiting.remove(&waiter.handle).is_some());
                }
            }
            Step::Abandon { which } => {
                let client = self.waiting.keys().nth(which).copied();
                if let Some((client, (ticket, ..))) = client.and_then(|it| self.waiting.remove_entry(&it)) {
                    assert_eq!(self.pool.abandon(ticket).map(|it| it.handle), Some(client));
                }
            }
            Step::Hold { which } => {
                if let Some((seat, _)) = self.out.get(which).copied()
                    && self.pool.hold(seat)
                {
                    self.holds.push(seat);
                }
            }
            Step::Condemn { which } => {
                if let Some((seat, server)) = self.out.get(which).copied() {
                    self.pool.condemn(seat);
                    self.condemned.insert(server);
                }
            }
            Step::Unhold { which } if which < self.holds.len() => {
                let seat = self.holds.swap_remove(which);
                if let Some(release) = self.pool.unhold(seat, self.now, |_| true) {
                    self.released(release);
                }
            }
            other => self.run_order(other),
        }
    }

    fn run_order(&mut self, step: Step) {
        match step {
            Step::Examine => {
                let seat = self.pool.idle.front().copied();
                if let Some(server) = seat.and_then(|seat| self.pool.examine(seat)) {
                    self.out.push((seat.expect("examined"), server));
                }
            }
            Step::Pause => {
                let closing = self.pool.set_flow(Flow::Paused);
                self.all_closed(closing);
            }
            Step::Resume => {
                let closing = self.pool.set_flow(Flow::Running);
                self.all_closed(closing);
            }
            Step::Renew => {
                let closing = self.pool.renew();
                self.all_closed(closing);
            }
            Step::Resize { size, reserve, min } => {
                self.pool.configure(PoolSettings { size, reserve_size: reserve, min_size: min, ..settings() })
            }
            Step::Upkeep => {
                let closing = self.pool.upkeep(self.now);
                self.all_closed(closing);
                while let Some(opening) = self.pool.next_open_for_minimum(self.now) {
                    self.opening.push(opening.seat);
                    self.check_size();
                }
            }
            Step::Evict => {
                let closing = self.pool.evict();
                self.all_closed(closing.into_iter().collect());
            }
            Step::Wait { ms } => self.now += Duration::from_millis(ms),
            _ => {}
        }
    }

    /// What the caller does after each step.
    fn pump(&mut self) {
        while let Some(opening) = self.pool.next_open(self.now) {
            self.opening.push(opening.seat);
            self.check_size();
        }
    }

    fn check_size(&self) {
        let settings = &self.pool.settings;
        let most = if settings.size == 0 { usize::MAX } else { settings.size + settings.reserve_size };
        assert!(self.pool.counts().total() <= most, "opened beyond the limit");
        assert!(self.opening.len() <= settings.connecting_max);
    }

    fn check(&self) {
        self.pool.check();
        let counts = self.pool.counts();
        assert_eq!(counts.opening, self.opening.len());
        assert_eq!(counts.closing, 0);
        assert_eq!(counts.leased + counts.resetting + counts.examining, self.out.len());
        assert_eq!(counts.usable(), self.alive.len(), "no server is lost");
        assert_eq!(self.pool.waiting(), self.waiting.len(), "no waiter is lost");
        let room = self.pool.settings.size == 0 || counts.total() < self.pool.settings.size;
        if room && self.pool.may_connect(self.now) {
            let coming = counts.opening + counts.resetting + counts.examining;
            assert!(self.waiting.len() <= coming, "somebody waits although a server could be opened");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_interleaving_keeps_the_invariants(steps in proptest::collection::vec(step(), 0..200)) {
        let mut model = Model::new();
        for step in steps {
            model.run(step);
            model.pump();
            model.check();
        }
    }
}
