//! How many workers are at work, and to which of them a client belongs.
//!
//! A worker that has little to do falls asleep after each query and is woken for the next one, and that costs more
//! than the query does; one that has much to do finds the next events there when it looks. So clients share a worker
//! until it is busy, and only then are spread over more of them.
//!
//! Owns the number and the rule by which it changes ([`Foreman`]). It measures nothing and moves nobody: a
//! conversation asks [`Staffing::home`] when it is at rest, and goes there. Invariant: a client's home depends on
//! nothing but its place in the order of arrival and the number of workers at work.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::ids::WorkerId;

/// A worker that is busy for more than this part of the time gets help.
const BUSY: f32 = 0.7;
/// Where half of the workers would be busy for less than this part of the time, half are enough. Well below [`BUSY`]:
/// what was merged must not be parted again.
const SLACK: f32 = 0.4;
/// Looks in a row that must find a worker busy: a burst that is shorter needs no help.
const BUSY_LOOKS: u32 = 2;
/// Looks in a row that must find that half are enough: a pause is not the end of the load.
const SLACK_LOOKS: u32 = 20;

/// A client's place in the order of arrival.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place(u32);

/// How many workers are at work. Read by each conversation on every turn.
#[derive(Debug)]
pub struct Staffing {
    at_work: AtomicU32,
    /// `workers_min`.
    fewest: AtomicU32,
    workers: u32,
    arrivals: AtomicU32,
}

impl Staffing {
    /// One of so many workers is at work.
    pub fn new(workers: usize) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        let one = || AtomicU32::new(1);
        Self { at_work: one(), fewest: one(), workers, arrivals: AtomicU32::new(0) }
    }

    /// From now on so many are at work at least; 0: all of them.
    pub fn keep(&self, fewest: usize) {
        let fewest = u32::try_from(fewest).ok().filter(|it| *it > 0).unwrap_or(u32::MAX).min(self.workers);
        self.fewest.store(fewest, Ordering::Relaxed);
        self.at_work.fetch_max(fewest, Ordering::Relaxed);
    }

    /// How many are at work.
    #[inline]
    pub fn at_work(&self) -> u32 {
        self.at_work.load(Ordering::Relaxed)
    }

    /// The next client's place.
    pub fn arrive(&self) -> Place {
        Place(self.arrivals.fetch_add(1, Ordering::Relaxed))
    }

    /// The worker on which a client is to be. Clients that arrive one after the other are spread evenly.
    #[inline]
    pub fn home(&self, place: Place) -> WorkerId {
        WorkerId(u16::try_from(place.0 % self.at_work()).unwrap_or(0))
    }
}

/// Decides how many are to be at work.
#[derive(Debug, Default)]
pub struct Foreman {
    busy: u32,
    slack: u32,
}

impl Foreman {
    /// Looks at the part of the time (0 to 1) for which each worker was busy since the last look.
    pub fn look(&mut self, staffing: &Staffing, loads: &[f32]) {
        let at_work = staffing.at_work();
        let fewer = at_work.div_ceil(2).max(staffing.fewest.load(Ordering::Relaxed));
        let is_busy = loads.iter().any(|it| *it > BUSY) && at_work < staffing.workers;
        let is_slack = fewer < at_work && loads.iter().sum::<f32>() < SLACK * fewer as f32;
        self.busy = if is_busy { self.busy + 1 } else { 0 };
        self.slack = if is_slack { self.slack + 1 } else { 0 };
        let number = match () {
            () if self.busy >= BUSY_LOOKS => (at_work * 2).min(staffing.workers),
            () if self.slack >= SLACK_LOOKS => fewer,
            () => return,
        };
        *self = Self::default();
        staffing.at_work.store(number, Ordering::Relaxed);
        // `keep` may have asked for more meanwhile.
        staffing.at_work.fetch_max(staffing.fewest.load(Ordering::Relaxed), Ordering::Relaxed);
        tracing::debug!("workers at work: {number} of {}", staffing.workers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks `times` times at the same loads; returns how many are then at work.
    fn after(foreman: &mut Foreman, staffing: &Staffing, loads: &[f32], times: u32) -> u32 {
        for _ in 0..times {
            foreman.look(staffing, loads);
        }
        staffing.at_work()
    }

    #[test]
    fn a_worker_that_stays_busy_gets_help_until_all_are_at_work() {
        let (staffing, mut foreman) = (Staffing::new(6), Foreman::default());
        for (times, at_work) in [(1, 1), (1, 2), (2, 4), (2, 6), (9, 6)] {
            assert_eq!(after(&mut foreman, &staffing, &[0.1, 0.9], times), at_work);
        }
    }

    #[test]
    fn a_short_burst_or_a_short_pause_changes_nothing() {
        let (staffing, mut foreman) = (Staffing::new(4), Foreman::default());
        for _ in 0..10 {
            assert_eq!(after(&mut foreman, &staffing, &[1.0], 1), 1);
            assert_eq!(after(&mut foreman, &staffing, &[0.5], 1), 1);
        }
        assert_eq!(after(&mut foreman, &staffing, &[1.0], 2), 2);
        for _ in 0..10 {
            assert_eq!(after(&mut foreman, &staffing, &[0.0, 0.0], SLACK_LOOKS - 1), 2);
            assert_eq!(after(&mut foreman, &staffing, &[0.5, 0.5], 1), 2);
        }
    }

    #[test]
    fn when_the_load_is_gone_one_is_enough_again() {
        let (staffing, mut foreman) = (Staffing::new(6), Foreman::default());
        staffing.keep(0);
        assert_eq!(after(&mut foreman, &staffing, &[0.0; 6], 100), 6);
        staffing.keep(1);
        for at_work in [3, 2, 1, 1] {
            assert_eq!(after(&mut foreman, &staffing, &[0.01; 6], SLACK_LOOKS), at_work);
        }
        staffing.keep(4);
        assert_eq!(after(&mut foreman, &staffing, &[0.0; 6], 100), 4);
    }

    #[test]
    fn what_was_merged_is_not_parted_again() {
        // Twice the load that half of the workers may have at most.
        let (staffing, mut foreman) = (Staffing::new(2), Foreman::default());
        staffing.keep(2);
        staffing.keep(1);
        assert_eq!(after(&mut foreman, &staffing, &[SLACK / 2.0, SLACK / 2.0 - 0.01], SLACK_LOOKS), 1);
        assert_eq!(after(&mut foreman, &staffing, &[SLACK, 0.0], 100), 1);
    }

    #[test]
    fn clients_that_arrive_one_after_the_other_are_spread_evenly() {
        let staffing = Staffing::new(3);
        let places: Vec<Place> = (0..9).map(|_| staffing.arrive()).collect();
        assert!(places.iter().all(|it| staffing.home(*it) == WorkerId(0)));
        staffing.keep(9);
        for worker in 0..3 {
            assert_eq!(places.iter().filter(|it| staffing.home(**it) == WorkerId(worker)).count(), 3);
        }
    }
}
