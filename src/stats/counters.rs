//! Counters of a pool.
//!
//! Owns one [`Cell`] per worker and pool, their sum ([`Totals`]) and the averages over the last complete `stats_period`
//! ([`Recent`]). Invariant: [`Totals`] has every figure there is; SHOW and Prometheus are two renderings of
//! [`Totals::FIELDS`], whose help texts are the doc comments here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::histogram::{Counter, Histogram, Snapshot};
use crate::ids::WorkerId;

/// One figure of [`Totals`].
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name, which is the field's.
    pub name: &'static str,
    /// What it counts: the field's doc comment.
    pub help: &'static str,
    /// Reads it.
    pub value: fn(&Totals) -> u64,
}

macro_rules! totals {
    ($(#[doc = $help:literal] $name:ident,)*) => {
        /// A pool's figures, summed over all workers; or those of several pools.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Totals {
            $(#[doc = $help] pub $name: u64,)*
        }

        impl Totals {
            /// All figures.
            pub const FIELDS: &'static [Field] =
                &[$(Field { name: stringify!($name), help: $help.trim_ascii(), value: |it| it.$name },)*];

            /// Adds another pool's figures.
            pub fn merge(&mut self, other: &Self) {
                $(self.$name = self.$name.wrapping_add(other.$name);)*
            }

            /// What was added since `earlier`.
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.wrapping_sub(earlier.$name),)* }
            }

            fn map(&self, change: impl Fn(u64) -> u64) -> Self {
                Self { $($name: change(self.$name),)* }
            }
        }
    };
}

totals! {
    /// Times a client was given a server.
    server_assignment_count,
    /// Transactions done.
    xact_count,
    /// Queries done: ReadyForQuery messages that answered a Query or a Sync.
    query_count,
    /// Bytes received from clients.
    bytes_received,
    /// Bytes sent to clients.
    bytes_sent,
    /// Microseconds that clients were in a transaction on a server.
    xact_time,
    /// Microseconds that servers were busy with queries.
    query_time,
    /// Microseconds that clients waited for a server.
    wait_time,
    /// Named prepared statements that clients parsed.
    client_parse_count,
    /// Named prepared statements that were parsed on servers.
    server_parse_count,
    /// Named prepared statements that were bound.
    bind_count,
    /// Logins of clients that succeeded.
    client_login_count,
    /// Errors of servers that were passed on to clients.
    server_error_count,
    /// Errors that the pooler itself answered with.
    pooler_error_count,
    /// Clients that gave up waiting for a server: query_wait_timeout.
    wait_timeout_count,
    /// Cancel requests sent on to servers.
    cancel_count,
    /// Servers that were cleaned of a client's leftovers before reuse.
    reset_count,
    /// Round trips that brought a server to a client's parameters.
    parameter_sync_count,
    /// Server connections opened.
    server_login_count,
    /// Server connections that could not be opened.
    server_login_failure_count,
}

/// What one worker counts for one pool. Only that worker writes to it.
///
/// Two cache lines apart from the next, because processors fetch lines in pairs.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct Cell {
    wait: Histogram,
    query: Histogram,
    transaction: Histogram,
    bytes_received: Counter,
    bytes_sent: Counter,
    client_parse_count: Counter,
    server_parse_count: Counter,
    bind_count: Counter,
    client_login_count: Counter,
    server_error_count: Counter,
    pooler_error_count: Counter,
    wait_timeout_count: Counter,
    cancel_count: Counter,
    reset_count: Counter,
    parameter_sync_count: Counter,
    server_login_count: Counter,
    server_login_failure_count: Counter,
}

impl Cell {
    /// A client was given a server after having waited this long.
    #[inline]
    pub fn assigned(&self, waited: Duration) {
        self.wait.record(waited);
    }

    /// A query is done.
    #[inline]
    pub fn query_done(&self, took: Duration) {
        self.query.record(took);
    }

    /// A transaction is done (a query outside a transaction block is one, too).
    #[inline]
    pub fn transaction_done(&self, took: Duration) {
        self.transaction.record(took);
    }

    /// Bytes came from a client.
    #[inline]
    pub fn received(&self, bytes: usize) {
        self.bytes_received.add(bytes as u64);
    }

    /// Bytes went to a client.
    #[inline]
    pub fn sent(&self, bytes: usize) {
        self.bytes_sent.add(bytes as u64);
    }

    /// A client parsed a named statement.
    #[inline]
    pub fn client_parse(&self) {
        self.client_parse_count.add(1);
    }

    /// A named statement was parsed on a server.
    #[inline]
    pub fn server_parse(&self) {
        self.server_parse_count.add(1);
    }

    /// A named statement was bound.
    #[inline]
    pub fn bind(&self) {
        self.bind_count.add(1);
    }

    /// A client logged in.
    pub fn client_login(&self) {
        self.client_login_count.add(1);
    }

    /// A server's error was passed on.
    #[inline]
    pub fn server_error(&self) {
        self.server_error_count.add(1);
    }

    /// The pooler answered with an error of its own.
    pub fn pooler_error(&self) {
        self.pooler_error_count.add(1);
    }

    /// A client gave up waiting.
    pub fn wait_timeout(&self) {
        self.wait_timeout_count.add(1);
    }

    /// A cancel request was sent on.
    pub fn cancel(&self) {
        self.cancel_count.add(1);
    }

    /// A server was cleaned before reuse.
    pub fn reset(&self) {
        self.reset_count.add(1);
    }

    /// A server was brought to a client's parameters.
    #[inline]
    pub fn parameter_sync(&self) {
        self.parameter_sync_count.add(1);
    }

    /// A server connection was opened.
    pub fn server_login(&self) {
        self.server_login_count.add(1);
    }

    /// A server connection could not be opened.
    pub fn server_login_failure(&self) {
        self.server_login_failure_count.add(1);
    }

    fn totals(&self) -> Totals {
        let (wait, query, transaction) =
            (self.wait.snapshot(), self.query.snapshot(), self.transaction.snapshot());
        Totals {
            server_assignment_count: wait.count(),
            xact_count: transaction.count(),
            query_count: query.count(),
            bytes_received: self.bytes_received.read(),
            bytes_sent: self.bytes_sent.read(),
            xact_time: transaction.sum_us(),
            query_time: query.sum_us(),
            wait_time: wait.sum_us(),
            client_parse_count: self.client_parse_count.read(),
            server_parse_count: self.server_parse_count.read(),
            bind_count: self.bind_count.read(),
            client_login_count: self.client_login_count.read(),
            server_error_count: self.server_error_count.read(),
            pooler_error_count: self.pooler_error_count.read(),
            wait_timeout_count: self.wait_timeout_count.read(),
            cancel_count: self.cancel_count.read(),
            reset_count: self.reset_count.read(),
            parameter_sync_count: self.parameter_sync_count.read(),
            server_login_count: self.server_login_count.read(),
            server_login_failure_count: self.server_login_failure_count.read(),
        }
    }
}

/// A pool's three histograms, summed over all workers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Histograms {
    /// How long clients waited for a server.
    pub wait: Snapshot,
    /// How long queries took.
    pub query: Snapshot,
    /// How long transactions took.
    pub transaction: Snapshot,
}

/// Everything counted for one pool.
#[derive(Debug)]
pub struct PoolStats {
    /// One for each worker, and one for the control thread.
    cells: Box<[Cell]>,
    window: Mutex<Window>,
    /// Servers being connected and logged in: the roster does not have them yet.
    logging_in: AtomicU32,
}

/// Stands for one server that is being connected and logged in; counted until it is dropped.
#[derive(Debug)]
pub struct LoggingIn(Arc<PoolStats>);

impl Drop for LoggingIn {
    fn drop(&mut self) {
        self.0.logging_in.fetch_sub(1, Ordering::Relaxed);
    }
}

/// PgBouncer's averages reach back to the last but one turn of `stats_period`, so that they always cover a whole period.
#[derive(Debug)]
struct Window {
    older: Totals,
    older_at: Instant,
    newer: Totals,
    newer_at: Instant,
}

impl PoolStats {
    /// Figures for a pool that is used by that many workers, all zero.
    pub fn new(workers: usize, now: Instant) -> Self {
        let window =
            Window { older: Totals::default(), older_at: now, newer: Totals::default(), newer_at: now };
        let cells = (0..=workers).map(|_| Cell::default()).collect();
        Self { cells, window: Mutex::new(window), logging_in: AtomicU32::new(0) }
    }

    /// A server is about to be connected.
    pub fn log_in(self: &Arc<Self>) -> LoggingIn {
        self.logging_in.fetch_add(1, Ordering::Relaxed);
        LoggingIn(Arc::clone(self))
    }

    /// How many servers are being connected and logged in.
    pub fn logging_in(&self) -> u32 {
        self.logging_in.load(Ordering::Relaxed)
    }

    /// A worker's own cell; only that worker may write to it. A number beyond the workers means the control thread.
    #[inline]
    pub fn cell(&self, worker: WorkerId) -> &Cell {
        &self.cells[usize::from(worker.0).min(self.cells.len() - 1)]
    }

    /// The figures as they stand: what a worker counted before this call is in them.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for cell in &self.cells {
            totals.merge(&cell.totals());
        }
        totals
    }

    /// The histograms as they stand.
    pub fn histograms(&self) -> Histograms {
        let mut sum = Histograms::default();
        for cell in &self.cells {
            sum.wait.merge(&cell.wait.snapshot());
            sum.query.merge(&cell.query.snapshot());
            sum.transaction.merge(&cell.transaction.snapshot());
        }
        sum
    }

    /// To be called once every `stats_period`.
    pub fn turn(&self, now: Instant) {
        let totals = self.totals();
        let mut window = self.window.lock();
        *window = Window { older: window.newer, older_at: window.newer_at, newer: totals, newer_at: now };
    }

    /// What happened in the last complete `stats_period` and since.
    pub fn recent(&self, now: Instant) -> Recent {
        let totals = self.totals();
        let window = self.window.lock();
        Recent { added: totals.since(&window.older), elapsed: now.saturating_duration_since(window.older_at) }
    }
}

/// What was added in some stretch of time, for averages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recent {
    /// What was added.
    pub added: Totals,
    /// In how long.
    pub elapsed: Duration,
}

impl Recent {
    /// Adds another pool's.
    pub fn merge(&mut self, other: &Self) {
        self.added.merge(&other.added);
        self.elapsed = self.elapsed.max(other.elapsed);
    }

    /// Counts and bytes per second; times in microseconds per query, per transaction and, waiting, per assignment.
    pub fn averages(&self) -> Totals {
        // A pool younger than a second is averaged over a second: its first query is no rate.
        let elapsed_us = self.elapsed.max(Duration::from_secs(1)).as_micros();
        let per_second =
            |amount: u64| u64::try_from(u128::from(amount) * 1_000_000 / elapsed_us).unwrap_or(u64::MAX);
        let per = |time: u64, count: u64| time.checked_div(count).unwrap_or(0);
        Totals {
            xact_time: per(self.added.xact_time, self.added.xact_count),
            query_time: per(self.added.query_time, self.added.query_count),
            wait_time: per(self.added.wait_time, self.added.server_assignment_count),
            ..self.added.map(per_second)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_summed_over_workers_and_exact_at_once() {
        let stats = PoolStats::new(2, Instant::now());
        stats.cell(WorkerId(0)).query_done(Duration::from_micros(10));
        stats.cell(WorkerId(1)).query_done(Duration::from_micros(20));
        stats.cell(WorkerId(2)).server_login();
        let totals = stats.totals();
        assert_eq!((totals.query_count, totals.query_time, totals.server_login_count), (2, 30, 1));
    }

    #[test]
    fn a_worker_beyond_the_last_counts_in_the_control_cell() {
        let stats = PoolStats::new(1, Instant::now());
        stats.cell(WorkerId(9)).bind();
        assert_eq!(stats.totals().bind_count, 1);
    }

    #[test]
    fn averages_cover_the_last_complete_period() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let stats = PoolStats::new(1, start);
        let cell = stats.cell(WorkerId(0));
        cell.query_done(second);
        stats.turn(start + 60 * second);
        for _ in 0..600 {
            cell.query_done(Duration::from_millis(2));
        }
        stats.turn(start + 120 * second);
        let averages = stats.recent(start + 120 * second).averages();
        assert_eq!((averages.query_count, averages.query_time), (10, 2_000), "the first period is over");
        let idle = stats.recent(start + 180 * second).averages();
        assert_eq!(idle.query_count, 5, "until the next turn the window grows");
    }

    #[test]
    fn a_pool_just_made_is_averaged_over_a_second() {
        let start = Instant::now();
        let stats = PoolStats::new(1, start);
        stats.cell(WorkerId(0)).bind();
        assert_eq!(stats.recent(start).averages().bind_count, 1);
        assert_eq!(stats.recent(start).averages().query_time, 0, "no division by zero queries");
    }

    #[test]
    fn every_figure_has_a_help_text() {
        for field in Totals::FIELDS {
            assert!(
                field.help.ends_with('.') || field.help.contains(": "),
                "{}: {:?}",
                field.name,
                field.help
            );
        }
    }

    #[test]
    fn cells_of_two_workers_share_no_cache_line() {
        assert_eq!(align_of::<Cell>(), 128);
    }
}
