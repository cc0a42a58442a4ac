//! Histograms of durations with fixed buckets.
//!
//! Owns the bounds, the counting and the summing up. Invariant: a [`Histogram`] is written by one thread only; its count
//! and its sum *are* the counters of the same thing (`query_count` and `query_time` are those of the query histogram).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in microseconds, each inclusive; one more bucket takes what is longer.
pub const BOUNDS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Number of buckets, the unbounded one included.
pub const BUCKETS: usize = BOUNDS_US.len() + 1;

/// A counter with one writer: a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(super) fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often a duration fell into each bucket, and how much time that was. One writer.
#[derive(Debug, Default)]
pub struct Histogram {
    // Count and sum of a bucket lie side by side: one cache line is touched per record.
    buckets: [(Counter, Counter); BUCKETS],
}

impl Histogram {
    /// Counts one duration.
    #[inline]
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let (count, sum) = &self.buckets[bucket_of(micros)];
        count.add(1);
        sum.add(micros);
    }

    /// The values as they stand.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (to, (count, sum_us)) in snapshot.buckets.iter_mut().zip(&self.buckets) {
            *to = Bucket { count: count.read(), sum_us: sum_us.read() };
        }
        snapshot
    }
}

fn bucket_of(micros: u64) -> usize {
    BOUNDS_US.partition_point(|&bound| bound < micros)
}

/// One bucket's values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    /// Durations that fell into it.
    pub count: u64,
    /// Their sum in microseconds.
    pub sum_us: u64,
}

/// A histogram's values at one moment, or the sum of several histograms.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// In the order of [`BOUNDS_US`], then the unbounded one.
    pub buckets: [Bucket; BUCKETS],
}

impl Snapshot {
    /// Adds another histogram's values.
    pub fn merge(&mut self, other: &Self) {
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            to.count = to.count.wrapping_add(from.count);
            to.sum_us = to.sum_us.wrapping_add(from.sum_us);
        }
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|it| it.count).sum()
    }

    /// Their sum in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.buckets.iter().map(|it| it.sum_us).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        for (micros, bucket) in
            [(0, 0), (100, 0), (101, 1), (60_000_000, 17), (60_000_001, 18), (u64::MAX, 18)]
        {
            assert_eq!(bucket_of(micros), bucket, "{micros} µs");
        }
    }

    #[test]
    fn count_and_sum_are_exact() {
        let histogram = Histogram::default();
        for micros in [1, 150, 150, 70_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let snapshot = histogram.snapshot();
        assert_eq!((snapshot.count(), snapshot.sum_us()), (4, 70_000_301));
        assert_eq!(snapshot.buckets[1], Bucket { count: 2, sum_us: 300 });
    }
}
